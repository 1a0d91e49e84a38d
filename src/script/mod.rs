//! A script: what to wait for in a guest's serial output, and what to type.
//!
//! It is a plain state machine ([`Runner`]): output and time go in, text to type and a [`Verdict`] come
//! out. It opens nothing, waits for nothing and knows no machine.
#![forbid(unsafe_code)]

mod ansi;
mod escapes;
mod pattern;
mod runner;
mod tail;

use std::time::Duration;

pub use ansi::AnsiFilter;
pub use escapes::unescape;
pub use pattern::Pattern;
pub use runner::{Failure, Runner, StepRecord, Verdict};
pub use tail::{Tail, printable};

/// One step of a script.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// What messages and reports call it.
    pub name: Option<String>,
    /// What to wait for.
    pub expect: Option<Pattern>,
    /// What to type then.
    pub send: Option<Vec<u8>>,
    /// How long to wait.
    pub timeout: Option<Duration>,
}

/// The steps, and the patterns that end the run at any time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Script {
    /// One after the other.
    pub steps: Vec<Step>,
    /// Any of these is a failure.
    pub fail_on: Vec<Pattern>,
    /// Any of these is success.
    pub succeed_on: Vec<Pattern>,
}

impl Script {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.fail_on.is_empty() && self.succeed_on.is_empty()
    }

    /// Whether it types anything.
    #[must_use]
    pub fn sends(&self) -> bool {
        self.steps.iter().any(|step| step.send.is_some())
    }
}

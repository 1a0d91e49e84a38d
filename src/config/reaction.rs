//! What to do when a guest ends: end the run, with which status, or boot again, or wait.

use super::{DebugExit, ValueError};
use crate::outcome::Outcome;

/// What to do about an end of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// End the run, with the outcome's own status or this one.
    Exit(Option<u8>),
    /// Boot again: fresh memory, devices and vCPUs; the same console, output and time limit.
    Reboot,
    /// Let it be, until something else ends the run.
    Wait,
}

impl Default for Reaction {
    fn default() -> Self {
        Self::Exit(None)
    }
}

/// What to do about each kind of end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reactions {
    /// The guest reset the machine.
    pub reset: Reaction,
    /// The guest powered off.
    pub shutdown: Reaction,
    /// Triple fault.
    pub crash: Reaction,
    /// The guest's kernel panicked.
    pub panic: Reaction,
    /// No vCPU can ever run again.
    pub hang: Reaction,
}

impl Reactions {
    /// What to do about `outcome`.
    #[must_use]
    pub fn to(&self, outcome: &Outcome) -> Reaction {
        match outcome {
            Outcome::Reset => self.reset,
            Outcome::PoweredOff => self.shutdown,
            Outcome::TripleFault { .. } => self.crash,
            Outcome::Panicked => self.panic,
            Outcome::Hung { .. } => self.hang,
            _ => Reaction::default(),
        }
    }

    /// The process's exit status for `outcome`.
    #[must_use]
    pub fn status(&self, outcome: &Outcome, debug_exit: DebugExit) -> u8 {
        match self.to(outcome) {
            Reaction::Exit(Some(status)) => status,
            _ => outcome.status(debug_exit),
        }
    }
}

/// Parses `reboot`, `exit` or `exit:STATUS`.
///
/// # Errors
/// When it is none of these.
pub fn parse_reaction(text: &str) -> Result<Reaction, ValueError> {
    const REMEDY: &str = "Write `reboot`, `exit`, or `exit:N` with a status N from 0 to 255";
    match text {
        "reboot" => Ok(Reaction::Reboot),
        _ => parse_exit(text, REMEDY),
    }
}

/// Parses `wait`, `exit` or `exit:STATUS`.
///
/// # Errors
/// When it is none of these.
pub fn parse_on_hang(text: &str) -> Result<Reaction, ValueError> {
    const REMEDY: &str = "Write `wait`, `exit`, or `exit:N` with a status N from 0 to 255";
    match text {
        "wait" => Ok(Reaction::Wait),
        _ => parse_exit(text, REMEDY),
    }
}

fn parse_exit(text: &str, remedy: &str) -> Result<Reaction, ValueError> {
    let status = match text.strip_prefix("exit") {
        Some("") => return Ok(Reaction::Exit(None)),
        Some(rest) => rest.strip_prefix(':'),
        None => return Err(ValueError::new("no such reaction", remedy)),
    };
    match status.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit())).map(str::parse) {
        Some(Ok(status)) => Ok(Reaction::Exit(Some(status))),
        _ => Err(ValueError::new("not an exit status", remedy)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reactions_are_parsed() {
        assert_eq!(parse_reaction("reboot"), Ok(Reaction::Reboot));
        assert_eq!(parse_reaction("exit"), Ok(Reaction::Exit(None)));
        assert_eq!(parse_reaction("exit:255"), Ok(Reaction::Exit(Some(255))));
        assert_eq!(parse_on_hang("wait"), Ok(Reaction::Wait));
        assert_eq!(parse_on_hang("exit:0"), Ok(Reaction::Exit(Some(0))));
        for text in ["", "exit:", "exit:256", "exit:-1", "exit:+1", "exit 1", "exit1", "wait", "Reboot"] {
            assert!(parse_reaction(text).unwrap_err().remedy.contains("`exit:N`"), "{text}");
        }
        assert!(parse_on_hang("reboot").is_err());
    }

    #[test]
    fn a_status_replaces_the_outcomes() {
        let reactions = Reactions { panic: Reaction::Exit(Some(0)), ..Reactions::default() };
        assert_eq!(reactions.status(&Outcome::Panicked, DebugExit::Raw), 0);
        assert_eq!(reactions.status(&Outcome::Hung { rip: None }, DebugExit::Raw), 122);
        assert_eq!(reactions.status(&Outcome::DebugExit(3), DebugExit::Qemu), 7);
    }
}

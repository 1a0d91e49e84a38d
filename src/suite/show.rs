//! What a user sees of a suite: a line as each scenario ends, a progress bar where stderr is a terminal,
//! and the summary.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::results::{Results, Verdict};
use super::{Scenario, SuiteError};

/// How often the bar's clock goes on.
const TICK: Duration = Duration::from_secs(1);
/// Without a bar there is nothing to do for so long.
const IDLE: Duration = Duration::from_secs(3600);
/// The bar: time, how far, and what runs.
const BAR: &str = "{elapsed_precise} [{bar:24}] {pos}/{len} {wide_msg}";

/// Where the lines go, and the bar.
pub(super) struct Show {
    bar: ProgressBar,
    /// Stdout is a report's.
    on_stderr: bool,
}

impl Show {
    /// Shows `count` scenarios: on stdout, unless `stdout_is_taken`.
    pub(super) fn new(count: usize, stdout_is_taken: bool) -> Self {
        let target = if io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(u64::try_from(count).ok(), target);
        // The template is a constant, which a test reads.
        if let Ok(style) = ProgressStyle::with_template(BAR) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, on_stderr: stdout_is_taken }
    }

    /// When the bar wants to be drawn again.
    pub(super) fn next_tick(&self) -> Instant {
        Instant::now() + if self.bar.is_hidden() { IDLE } else { TICK }
    }

    /// Tells what runs now.
    pub(super) fn running<'a>(&self, names: impl Iterator<Item = &'a str>, failures: usize) {
        if self.bar.is_hidden() {
            return;
        }
        let names: Vec<&str> = names.collect();
        let failed = if failures > 0 { format!("{failures} failed; ") } else { String::new() };
        self.bar.set_message(format!("{failed}{}", names.join(", ")));
        self.bar.tick();
    }

    /// Tells how a scenario ended.
    ///
    /// # Errors
    /// When the host does not take it.
    pub(super) fn ended(&self, scenario: &Scenario, verdict: &Verdict) -> Result<(), SuiteError> {
        self.bar.inc(1);
        let word = match (verdict.interrupted, verdict.passed) {
            (true, _) => "ended",
            (false, true) => "ok   ",
            (false, false) => "FAIL ",
        };
        self.print(&format!("{word} {}: {} ({})\n", scenario.name, verdict.words, verdict.numbers()))
    }

    /// The failed scenarios with their last lines, in order, and how many there were.
    ///
    /// # Errors
    /// When the host does not take it.
    pub(super) fn summary(&self, results: &Results<'_>) -> Result<(), SuiteError> {
        self.bar.finish_and_clear();
        self.print(&summary(results))
    }

    fn print(&self, text: &str) -> Result<(), SuiteError> {
        let (stream, written) = self.bar.suspend(|| {
            if self.on_stderr {
                ("stderr", io::stderr().write_all(text.as_bytes()))
            } else {
                let mut stdout = io::stdout().lock();
                ("stdout", stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
            }
        });
        written.map_err(|source| SuiteError::Lost { stream, source })
    }
}

fn summary(results: &Results<'_>) -> String {
    let mut text = String::new();
    for (scenario, verdict) in results.failed() {
        let ended = &verdict.ended;
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\n{}: {} ({})", scenario.name, verdict.words, verdict.numbers());
        let lines = if ended.output.is_empty() { &ended.said } else { &ended.output };
        for line in lines {
            let _ = writeln!(text, "  {line}");
        }
        if let Some(log) = &ended.log {
            let _ = writeln!(text, "  (all of it is in {})", log.display());
        }
    }
    let (passed, failed, not_run) = (results.passed(), results.failures(), results.not_run());
    if failed > 0 {
        text += "\n";
    }
    let _ = write!(text, "{passed} passed, {failed} failed");
    if not_run > 0 {
        let _ = write!(text, ", {not_run} not run");
    }
    let _ = writeln!(text, ", in {:.2} s", results.time().as_secs_f64());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_well_formed() {
        assert!(ProgressStyle::with_template(BAR).is_ok());
    }
}

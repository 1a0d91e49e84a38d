//! What became of each scenario, and the reports that tell it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::process::Ended;
use super::{Scenario, Shard, SuiteError};
use crate::report::junit::{self, Suite};

/// The version of the JSON report's schema.
const SCHEMA: u32 = 1;
/// A report's word for a run that a signal ended.
const SIGNAL: &str = "signal";

/// What became of one scenario.
pub(super) struct Verdict {
    /// Whether it passed.
    pub passed: bool,
    /// It was ended with the suite, so nothing is known.
    pub interrupted: bool,
    /// The outcome in words.
    pub words: String,
    /// What its process left behind.
    pub ended: Ended,
}

impl Verdict {
    /// Judges a process that has ended. With `ending`, the suite is being ended by a signal.
    pub(super) fn new(ended: Ended, ending: bool) -> Self {
        // Who dies after the report has not ended as it says.
        let report = ended.report.as_ref().filter(|it| ended.status.code() == Some(it.status.into()));
        let (passed, words) = match report {
            Some(report) if report.passed() && report.status != 0 => {
                (true, format!("{}, as expected", report.in_words()))
            }
            Some(report) => (report.passed(), report.in_words()),
            None if ended.killed => (false, "vm-accel did not end in time and was killed".to_owned()),
            None => {
                let last = ended.said.last().map(|line| line.trim_start_matches("vm-accel: "));
                let last = last.map(|line| format!(": {line}")).unwrap_or_default();
                (false, format!("vm-accel ended without a report, {}{last}", ended.status))
            }
        };
        let interrupted = ending && report.is_none_or(|report| report.outcome == SIGNAL);
        Self { passed, interrupted, words, ended }
    }

    /// "status 123, 0.52 s"
    pub(super) fn numbers(&self) -> String {
        let seconds = self.ended.time.as_secs_f64();
        match self.ended.status.code() {
            Some(0) | None if self.passed || self.ended.report.is_none() => format!("{seconds:.2} s"),
            Some(status) => format!("status {status}, {seconds:.2} s"),
            None => format!("{}, {seconds:.2} s", self.ended.status),
        }
    }
}

/// The results of a suite, in its order.
pub(super) struct Results<'a> {
    scenarios: Vec<(&'a Scenario, Option<Verdict>)>,
    shard: Shard,
    time: Duration,
    status: u8,
}

/// The JSON report.
#[derive(Serialize)]
struct Json<'a> {
    version: u32,
    program: String,
    status: u8,
    shard: Shard,
    time_ms: u64,
    passed: usize,
    failed: usize,
    not_run: usize,
    scenarios: Vec<JsonScenario<'a>>,
}

#[derive(Serialize)]
struct JsonScenario<'a> {
    name: &'a str,
    result: &'static str,
    status: Option<i32>,
    expected_status: u8,
    message: Option<&'a str>,
    time_ms: Option<u64>,
    log: Option<String>,
    report: Option<&'a serde_json::Value>,
}

impl<'a> Results<'a> {
    /// No results yet.
    pub(super) fn new(scenarios: &[&'a Scenario], shard: Shard) -> Self {
        let scenarios = scenarios.iter().map(|scenario| (*scenario, None)).collect();
        Self { scenarios, shard, time: Duration::ZERO, status: 0 }
    }

    /// Notes what became of the scenario at `index`.
    pub(super) fn set(&mut self, index: usize, verdict: Verdict) {
        if let Some((_, slot)) = self.scenarios.get_mut(index) {
            *slot = Some(verdict);
        }
    }

    /// Notes the suite's end.
    pub(super) fn finish(&mut self, time: Duration, status: u8) {
        (self.time, self.status) = (time, status);
    }

    /// How long the suite took.
    pub(super) fn time(&self) -> Duration {
        self.time
    }

    /// Whether every scenario ran and passed.
    pub(super) fn all_passed(&self) -> bool {
        self.passed() == self.scenarios.len()
    }

    /// How many passed.
    pub(super) fn passed(&self) -> usize {
        self.count("passed")
    }

    /// How many failed.
    pub(super) fn failures(&self) -> usize {
        self.count("failed")
    }

    /// How many did not come to an end of their own.
    pub(super) fn not_run(&self) -> usize {
        self.count("not-run")
    }

    fn count(&self, result: &str) -> usize {
        self.scenarios.iter().filter(|(_, verdict)| word(verdict.as_ref()) == result).count()
    }

    /// Those that failed, in order.
    pub(super) fn failed(&self) -> impl Iterator<Item = (&'a Scenario, &Verdict)> {
        self.scenarios
            .iter()
            .filter(|(_, verdict)| word(verdict.as_ref()) == "failed")
            .filter_map(|(scenario, verdict)| Some((*scenario, verdict.as_ref()?)))
    }

    /// The first output that could not be kept.
    pub(super) fn lost_output(&self) -> Option<SuiteError> {
        let verdicts = self.scenarios.iter().filter_map(|(_, verdict)| verdict.as_ref());
        let (path, error): &(PathBuf, io::Error) =
            verdicts.filter_map(|verdict| verdict.ended.lost.as_ref()).next()?;
        let source = error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
        Some(SuiteError::Logs { path: path.clone(), source })
    }

    /// The JSON report.
    pub(super) fn json(&self) -> String {
        let scenarios = self.scenarios.iter().map(|(scenario, verdict)| {
            let ended = verdict.as_ref().map(|verdict| &verdict.ended);
            JsonScenario {
                name: &scenario.name,
                result: word(verdict.as_ref()),
                status: ended.and_then(|ended| ended.status.code()),
                expected_status: scenario.config.expect_status,
                message: verdict.as_ref().map(|verdict| verdict.words.as_str()),
                time_ms: ended.map(|ended| milliseconds(ended.time)),
                log: ended.and_then(|ended| Some(ended.log.as_ref()?.display().to_string())),
                report: ended.and_then(|ended| ended.json.as_ref()),
            }
        });
        let json = Json {
            version: SCHEMA,
            program: format!("vm-accel {}", crate::VERSION),
            status: self.status,
            shard: self.shard,
            time_ms: milliseconds(self.time),
            passed: self.passed(),
            failed: self.failures(),
            not_run: self.not_run(),
            scenarios: scenarios.collect(),
        };
        // A struct of strings and numbers always is JSON.
        serde_json::to_string_pretty(&json).unwrap_or_default() + "\n"
    }

    /// The JUnit report: a test suite a scenario, with a test case a step.
    pub(super) fn junit(&self) -> String {
        let suites = self.scenarios.iter().map(|(scenario, verdict)| {
            let name = &scenario.name;
            match verdict.as_ref().filter(|verdict| !verdict.interrupted) {
                None => Suite::skipped(name),
                Some(Verdict { words, ended, .. }) => match &ended.report {
                    Some(report) if ended.status.code() == Some(report.status.into()) => {
                        Suite::of_run(name, report)
                    }
                    _ => {
                        let lines = [ended.output.as_slice(), ended.said.as_slice()].concat();
                        Suite::of_crash(name, ended.time.as_secs_f64(), words, &lines.join("\n"))
                    }
                },
            }
        });
        junit::document(&suites.collect::<Vec<_>>(), self.time.as_secs_f64())
    }
}

/// The result in one word.
fn word(verdict: Option<&Verdict>) -> &'static str {
    match verdict {
        Some(verdict) if verdict.interrupted => "not-run",
        Some(verdict) if verdict.passed => "passed",
        Some(_) => "failed",
        None => "not-run",
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

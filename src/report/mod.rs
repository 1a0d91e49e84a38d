//! What a run leaves behind for machines: the JSON report, the JUnit report and the log of the serial
//! output. `docs/report.md` has the schema.
#![forbid(unsafe_code)]

pub mod junit;
mod log;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::config::{KernelSource, VmConfig};
use crate::console::ResourceUsage;
use crate::outcome::Outcome;
use crate::vm::{Ended, Registers, VmError};
pub use log::SerialLog;

/// The version of the schema: it changes when a field changes its meaning or goes.
const SCHEMA: u32 = 2;
/// The outcome that is a failure of vm-accel or the host.
const FAILURE: &str = "error";
/// The path that means stdout.
const STDOUT: &str = "-";

/// When the process started, as far as anybody has asked.
static START: OnceLock<Instant> = OnceLock::new();

/// When the process started: the time of the first call, which is therefore main's first.
pub fn process_start() -> Instant {
    *START.get_or_init(Instant::now)
}

/// A report that cannot be written.
#[derive(Debug, Error)]
#[error("cannot write the report {}: {reason}. Name a file that you may write with `{flag}`", path.display())]
pub struct ReportError {
    /// The flag that names it.
    flag: &'static str,
    /// The file.
    path: PathBuf,
    /// The host's reason.
    reason: io::Error,
}

/// The files of the reports, opened before the guest starts.
#[derive(Debug)]
pub struct Reports {
    json: Option<Target>,
    junit: Option<Target>,
}

/// A file, or stdout, that a report goes to.
#[derive(Debug)]
pub struct Target {
    flag: &'static str,
    path: PathBuf,
    file: Option<File>,
}

impl Target {
    /// Opens the file at `path`, which `flag` names; `-` is stdout.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn open(flag: &'static str, path: &Path) -> Result<Self, ReportError> {
        let file = match path.to_str() {
            Some(STDOUT) => None,
            _ => Some(File::create(path).map_err(|reason| ReportError {
                flag,
                path: path.to_owned(),
                reason,
            })?),
        };
        Ok(Self { flag, path: path.to_owned(), file })
    }

    /// Whether this is stdout.
    #[must_use]
    pub fn is_stdout(&self) -> bool {
        self.file.is_none()
    }

    /// Writes the report.
    ///
    /// # Errors
    /// When the host does not take it.
    pub fn write(self, text: &str) -> Result<(), ReportError> {
        let written = match self.file {
            Some(mut file) => file.write_all(text.as_bytes()),
            None => io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()),
        };
        written.map_err(|reason| ReportError { flag: self.flag, path: self.path, reason })
    }
}

impl Reports {
    /// Opens the files that `config` names.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn open(config: &VmConfig) -> Result<Self, ReportError> {
        let open =
            |flag, path: &Option<PathBuf>| path.as_deref().map(|path| Target::open(flag, path)).transpose();
        Ok(Self { json: open("--report", &config.report)?, junit: open("--junit", &config.junit)? })
    }

    /// Writes what there is to say about a run that ended with `status`.
    ///
    /// # Errors
    /// When a file does not take it.
    pub fn write(
        self,
        config: &VmConfig,
        end: Result<&Ended, &VmError>,
        status: u8,
    ) -> Result<(), ReportError> {
        if self.json.is_none() && self.junit.is_none() {
            return Ok(());
        }
        let report = Report::new(config, end, status);
        if let Some(target) = self.junit {
            let name = report.kernel.file.as_deref().unwrap_or("the built-in guest");
            let suite = junit::Suite::of_run(name, &report);
            target.write(&junit::document(&[suite], report.times_ms.end / 1000.0))?;
        }
        if let Some(target) = self.json {
            // A struct of strings and numbers always is JSON.
            let text = serde_json::to_string_pretty(&report).unwrap_or_default() + "\n";
            target.write(&text)?;
        }
        Ok(())
    }
}

/// The report of a run; `docs/report.md` tells of every field. Times are milliseconds since the process
/// started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    version: u32,
    program: String,
    /// The outcome in one word.
    pub outcome: String,
    message: String,
    /// The exit status.
    pub status: u8,
    expected_status: u8,
    waiting: Option<String>,
    backend: Option<Backend>,
    kernel: Kernel,
    boots: u32,
    times_ms: Times,
    exits: BTreeMap<String, u64>,
    serial_bytes: u64,
    peak_rss_bytes: u64,
    cpu_time_ms: f64,
    steps: Vec<Step>,
    registers: Option<Vec<Option<BTreeMap<String, String>>>>,
    /// The last lines of COM1, if the run ended badly.
    pub last_lines: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Backend {
    name: String,
    reason: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kernel {
    file: Option<String>,
    protocol: Option<String>,
    version: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Times {
    first_instruction: Option<f64>,
    first_serial_byte: Option<f64>,
    init: Option<f64>,
    end: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Step {
    number: usize,
    name: Option<String>,
    expect: Option<String>,
    send: Option<String>,
    result: String,
    matched: Option<String>,
    begin_ms: Option<f64>,
    end_ms: Option<f64>,
}

/// Milliseconds since the process started, to the microsecond.
fn milliseconds(time: Instant) -> f64 {
    let micros = time.saturating_duration_since(process_start()).as_micros();
    micros as f64 / 1000.0
}

impl Report {
    /// Whether a test with this outcome passes.
    #[must_use]
    pub fn passed(&self) -> bool {
        // A failure of vm-accel or the host is nobody's wish.
        self.status == self.expected_status && self.outcome != FAILURE
    }

    /// The outcome in words, with the step that was waiting for something.
    #[must_use]
    pub fn in_words(&self) -> String {
        match &self.waiting {
            Some(waiting) => format!("{}; {waiting}", self.message),
            None => self.message.clone(),
        }
    }

    fn new(config: &VmConfig, end: Result<&Ended, &VmError>, status: u8) -> Self {
        let usage = ResourceUsage::of_this_process();
        let facts = end.ok().map(|ended| &ended.facts);
        let bad = status != 0 || end.map_or(true, |ended| ended.outcome.is_bad());
        Self {
            version: SCHEMA,
            program: format!("vm-accel {}", crate::VERSION),
            outcome: end.map_or(FAILURE, |ended| kind(&ended.outcome)).to_owned(),
            message: end.map_or_else(ToString::to_string, |ended| ended.outcome.to_string()),
            status,
            expected_status: config.expect_status,
            waiting: end
                .ok()
                .and_then(|ended| ended.unfinished.as_ref())
                .and_then(|unfinished| unfinished.waiting.clone()),
            backend: end
                .ok()
                .map(|ended| Backend { name: ended.accel.to_string(), reason: ended.facts.reason.clone() }),
            kernel: Kernel {
                file: match &config.kernel {
                    KernelSource::File(path) => Some(path.display().to_string()),
                    KernelSource::Builtin => None,
                },
                protocol: facts.map(|facts| facts.protocol.clone()),
                version: facts.and_then(|facts| facts.kernel_version.clone()),
            },
            boots: facts.map_or(0, |facts| facts.boots),
            times_ms: Times {
                first_instruction: facts.and_then(|facts| facts.first_instruction).map(milliseconds),
                first_serial_byte: facts.and_then(|facts| facts.first_serial_byte).map(milliseconds),
                init: facts.and_then(|facts| facts.init_seen).map(milliseconds),
                end: milliseconds(facts.and_then(|facts| facts.end).unwrap_or_else(Instant::now)),
            },
            exits: facts
                .map(|facts| facts.exits.by_name().map(|(name, count)| (name.to_owned(), count)).collect())
                .unwrap_or_default(),
            serial_bytes: facts.map_or(0, |facts| facts.serial_bytes),
            peak_rss_bytes: usage.peak_rss_bytes,
            cpu_time_ms: usage.cpu_time.as_micros() as f64 / 1000.0,
            steps: steps(config, end),
            registers: facts
                .filter(|facts| bad && !facts.registers.is_empty())
                .map(|facts| facts.registers.iter().map(|cpu| cpu.as_ref().map(hexadecimal)).collect()),
            last_lines: facts.filter(|_| bad).map(|facts| facts.last_lines.clone()).unwrap_or_default(),
        }
    }
}

/// The registers of one CPU by name.
fn hexadecimal(registers: &Registers) -> BTreeMap<String, String> {
    registers.iter().map(|(name, value)| (name.clone(), format!("{value:#x}"))).collect()
}

fn steps(config: &VmConfig, end: Result<&Ended, &VmError>) -> Vec<Step> {
    let records = end.map_or(&[][..], |ended| &ended.facts.steps);
    let steps = config.script.steps.iter().enumerate();
    steps
        .map(|(index, step)| {
            let record = records.get(index);
            Step {
                number: index + 1,
                name: step.name.clone(),
                expect: step.expect.as_ref().map(|pattern| pattern.as_str().to_owned()),
                send: step.send.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned()),
                result: match record.map(|record| record.done.is_some()) {
                    Some(true) if step.expect.is_some() => "matched",
                    Some(true) => "sent",
                    Some(false) => "failed",
                    None => "not-reached",
                }
                .to_owned(),
                matched: record.and_then(|record| record.matched.clone()),
                begin_ms: record.map(|record| milliseconds(record.begun)),
                end_ms: record.and_then(|record| record.done).map(milliseconds),
            }
        })
        .collect()
}

/// The outcome in one word.
fn kind(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::PoweredOff => "powered-off",
        Outcome::Reset => "reset",
        Outcome::DebugExit(_) => "debug-exit",
        Outcome::Panicked => "panic",
        Outcome::TripleFault { .. } => "triple-fault",
        Outcome::Hung { .. } => "hang",
        Outcome::TimedOut { .. } => "timeout",
        Outcome::EmulationFailure { .. } => "emulation-failure",
        Outcome::Signalled(_) => "signal",
        Outcome::Escaped => "escape",
        Outcome::Script(_) if outcome.is_bad() => "script-failed",
        Outcome::Script(_) => "script-passed",
    }
}

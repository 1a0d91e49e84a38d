//! The flags of `vm-accel test`.

use std::path::PathBuf;

use clap::Args;

use super::machine::{MachineFlags, one};
use crate::config::{Settings, ValueError};
use crate::suite::{self, Suite, SuiteError};

/// The flags of `test`.
#[derive(Debug, Clone, Default, Args)]
pub struct TestArgs {
    /// Scenario files, and folders with them: all that ends in .toml, at any depth, in sorted order
    #[arg(value_name = "DIR|FILE.toml", required = true)]
    pub paths: Vec<PathBuf>,
    /// So many scenarios at a time [default: as many as there are cores and memory for]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
    pub jobs: Option<String>,
    /// Run the K-th of N slices only: of the scenarios in order every N-th, from the K-th on
    #[arg(long, value_name = "K/N", allow_hyphen_values = true)]
    pub shard: Option<String>,
    /// In place of what the scenarios say.
    #[command(flatten)]
    pub machine: MachineFlags,
    /// Write a JSON report of all scenarios; - is stdout
    #[arg(long, value_name = "FILE|-")]
    pub report: Option<PathBuf>,
    /// Write a JUnit report with a test suite a scenario and a test case a step; - is stdout
    #[arg(long, value_name = "FILE|-")]
    pub junit: Option<PathBuf>,
    /// Keep the guest's output, vm-accel's words and the report of each scenario in this folder
    #[arg(long, value_name = "DIR")]
    pub logs: Option<PathBuf>,
}

impl TestArgs {
    /// The suite. Every scenario file has been read when this returns.
    ///
    /// # Errors
    /// When a value cannot be read, or the scenarios cannot be.
    pub fn suite(&self) -> Result<Suite, SuiteError> {
        let machine = self.machine.values()?;
        let flags = Settings {
            memory: machine.memory,
            cpus: machine.cpus,
            accel: machine.accel,
            timeout: machine.timeout,
            ..Settings::default()
        };
        let shard = one("--shard", self.shard.as_deref(), suite::parse_shard)?.unwrap_or_default();
        let jobs = one("--jobs", self.jobs.as_deref(), suite::parse_jobs)?;
        let on_stdout = |path: &Option<PathBuf>| path.as_deref().is_some_and(|path| path.as_os_str() == "-");
        if on_stdout(&self.report) && on_stdout(&self.junit) {
            let problem =
                ValueError::new("two reports on stdout cannot be told apart", "Name a file for one");
            return Err(SuiteError::Config(crate::config::ConfigError::Conflict(problem)));
        }
        Ok(Suite {
            scenarios: suite::find(&self.paths, &flags)?,
            shard,
            jobs,
            flags: self.machine.words(),
            report: self.report.clone(),
            junit: self.junit.clone(),
            logs: self.logs.clone(),
        })
    }
}

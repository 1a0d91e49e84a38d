//! Why a suite cannot be run.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::accel::AccelError;
use crate::config::ConfigError;
use crate::report::ReportError;

/// A failure of vm-accel or the host, or scenarios that cannot be: exit status 125.
#[derive(Debug, Error)]
pub enum SuiteError {
    /// A path that cannot be read.
    #[error("cannot read {}: {source}. Name scenario files, or folders with scenario files", path.display())]
    Read {
        /// The path.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
    /// A file of another kind.
    #[error("{} is no scenario file: the name of one ends in `.toml`. To boot a kernel, write `vm-accel run`", .0.display())]
    NotAScenario(PathBuf),
    /// Nothing to run.
    #[error("there is no scenario in {0}. Name a folder with files that end in `.toml`")]
    Nothing(String),
    /// Scenario files that cannot be used; an error a line.
    #[error("{}", .0.join("\nvm-accel: "))]
    Scenarios(Vec<String>),
    /// Two scenarios would write the same file at the same time.
    #[error("{first} and {second} both write {}. Give each a file of its own", path.display())]
    SameFile {
        /// The file.
        path: PathBuf,
        /// A scenario's name.
        first: String,
        /// Another one's.
        second: String,
    },
    /// A flag.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A report.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The backend.
    #[error(transparent)]
    Accel(#[from] AccelError),
    /// A folder or file for a scenario's output.
    #[error("cannot write {}: {source}. Free some space, or name another folder with `--logs DIR`", path.display())]
    Logs {
        /// The file.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
    /// The results.
    #[error("cannot write the results to {stream}: {source}. Free some space or write them elsewhere")]
    Lost {
        /// "stdout" or "stderr".
        stream: &'static str,
        /// The host's reason.
        source: io::Error,
    },
    /// A process that does not start.
    #[error("cannot start a scenario: {0}. Lower `--jobs`, or raise the host's limit of processes")]
    Start(#[source] io::Error),
    /// Signals, threads, pipes.
    #[error("the host refuses what a suite needs: {0}. Raise its limits of open files and processes")]
    Host(#[source] io::Error),
}

//! What is wrong with a configuration: the key or flag, its value, and the remedy, on one line.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The configuration file cannot be read.
    #[error("cannot read the configuration {}: {source}. Check the path and its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
    /// The configuration file is not TOML.
    #[error("{} line {line} is not valid TOML: {reason}. A line looks like `memory = \"512M\"`", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// The parser's reason.
        reason: String,
    },
    /// A key that does not exist.
    #[error("unknown key `{key}` in {} line {line}; {remedy}", path.display())]
    UnknownKey {
        /// The key as it was written.
        key: String,
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// The nearest key, or the list of all.
        remedy: String,
    },
    /// A value that is malformed or out of range.
    #[error("{origin}: {problem}")]
    Invalid {
        /// The flag or key with its value.
        origin: Box<Origin>,
        /// What is wrong, and what to write instead.
        problem: ValueError,
    },
    /// Values that are good each, but not together.
    #[error("{0}")]
    Conflict(ValueError),
}

/// Where a value comes from, with the value as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag {
        /// The flag with its dashes.
        flag: &'static str,
        /// The value.
        value: String,
    },
    /// The configuration file.
    Key {
        /// The key.
        key: String,
        /// The value in TOML.
        value: String,
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag { flag, value } => write!(f, "`{flag} {}`", one_line(value)),
            Self::Key { key, value, path, line } => {
                write!(f, "`{key} = {}` in {} line {line}", one_line(value), path.display())
            }
        }
    }
}

/// What is wrong with a value, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{reason}. {remedy}")]
pub struct ValueError {
    /// What is wrong; no full stop at the end.
    pub reason: String,
    /// What to write instead.
    pub remedy: String,
}

impl ValueError {
    /// A problem and its remedy.
    pub fn new(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { reason: reason.into(), remedy: remedy.into() }
    }
}

/// `value` without line breaks and at most 80 characters long, so that an error stays on one line.
fn one_line(value: &str) -> String {
    const LONGEST: usize = 80;
    let mut shown = String::new();
    for (count, character) in value.chars().enumerate() {
        if count == LONGEST {
            shown.push('…');
            break;
        }
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

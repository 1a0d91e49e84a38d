//! The flags of the machine that every command with a guest has.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;

use crate::accel::AccelKind;
use crate::config::{self, ConfigError, Origin, ValueError};

/// How large the machine is, what runs it, and how long.
#[derive(Debug, Clone, Default, Args)]
pub struct MachineFlags {
    /// RAM: 512M, 2G, 2GiB, or a plain number of MiB [default: 512M; exec: more for large files]
    #[arg(short, long, value_name = "SIZE", allow_negative_numbers = true)]
    memory: Option<String>,
    /// Number of CPUs, 1 to 255 [default: 1]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
    cpus: Option<String>,
    /// Backend: auto, kvm, hvf, whpx, vz or soft [default: auto]
    #[arg(long, value_name = "BACKEND")]
    accel: Option<String>,
    /// End a guest with status 124 after 30s, 500ms, 2m, or plain seconds
    #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
    timeout: Option<String>,
}

/// What the flags say.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Machine {
    /// RAM in bytes.
    pub memory: Option<u64>,
    /// Number of vCPUs.
    pub cpus: Option<u32>,
    /// Backend.
    pub accel: Option<AccelKind>,
    /// Time limit.
    pub timeout: Option<Duration>,
}

impl MachineFlags {
    /// The values.
    ///
    /// # Errors
    /// When one cannot be read.
    pub(super) fn values(&self) -> Result<Machine, ConfigError> {
        Ok(Machine {
            memory: one("--memory", self.memory.as_deref(), config::parse_memory)?,
            cpus: one("--cpus", self.cpus.as_deref(), config::parse_cpus)?,
            accel: one("--accel", self.accel.as_deref(), config::parse_accel)?,
            timeout: one("--timeout", self.timeout.as_deref(), config::parse_timeout)?,
        })
    }

    /// The words of a command line that say the same.
    pub(super) fn words(&self) -> Vec<OsString> {
        let flags = [
            ("--memory", &self.memory),
            ("--cpus", &self.cpus),
            ("--accel", &self.accel),
            ("--timeout", &self.timeout),
        ];
        let given = flags.into_iter().filter_map(|(flag, value)| Some([flag.into(), value.as_ref()?.into()]));
        given.flatten().collect()
    }
}

/// A flag's value, where it is given.
pub(super) fn one<T>(
    flag: &'static str,
    value: Option<&str>,
    parse: fn(&str) -> Result<T, ValueError>,
) -> Result<Option<T>, ConfigError> {
    value
        .map(|text| {
            parse(text).map_err(|problem| ConfigError::Invalid {
                origin: Box::new(Origin::Flag { flag, value: text.to_owned() }),
                problem,
            })
        })
        .transpose()
}

/// A repeated flag's values, where there are any.
pub(super) fn all<T>(
    flag: &'static str,
    values: &[String],
    parse: fn(&str) -> Result<T, ValueError>,
) -> Result<Option<Vec<T>>, ConfigError> {
    let mut parsed = Vec::with_capacity(values.len());
    for value in values {
        parsed.extend(one(flag, Some(value), parse)?);
    }
    Ok((!parsed.is_empty()).then_some(parsed))
}

//! How a run ended, and the exit status that says so.

use std::fmt;
use std::time::Duration;

use crate::config::DebugExit;
use crate::script::Verdict;

/// The highest status that a guest can choose by a raw value.
const HIGHEST_RAW: u8 = 119;

/// The fate of a guest. `docs/architecture.md` and the README have the table of statuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The guest powered off by its own wish.
    PoweredOff,
    /// The guest reset the machine by its own wish.
    Reset,
    /// The guest wrote this exit status to the debug exit port.
    DebugExit(u32),
    /// The guest's kernel panicked and said so.
    Panicked,
    /// A vCPU took a triple fault at this `rip`.
    TripleFault {
        /// Number of the vCPU.
        vcpu: u32,
        /// Its instruction pointer, where the backend can tell.
        rip: Option<u64>,
    },
    /// No vCPU can ever run again: all are halted with interrupts off.
    Hung {
        /// Instruction pointer of vCPU 0, where the backend can tell.
        rip: Option<u64>,
    },
    /// `--timeout` ran out.
    TimedOut {
        /// The limit.
        limit: Duration,
    },
    /// The accelerator could not execute an instruction.
    EmulationFailure {
        /// Number of the vCPU.
        vcpu: u32,
        /// Address of the instruction.
        rip: u64,
        /// Its first bytes, as far as they are known.
        bytes: Vec<u8>,
    },
    /// The host sent this signal (SIGINT, SIGTERM, SIGHUP).
    Signalled(i32),
    /// The user left by the terminal's escape key.
    Escaped,
    /// The script ended the run.
    Script(Verdict),
}

impl Outcome {
    /// The process's exit status for this outcome, with `debug_exit` as the meaning of a value on the
    /// debug exit port. A raw value above 119 gives 119, because the statuses from 120 on have meanings
    /// of their own.
    #[must_use]
    pub fn status(&self, debug_exit: DebugExit) -> u8 {
        match self {
            Self::PoweredOff | Self::Reset => 0,
            Self::DebugExit(value) => match debug_exit {
                DebugExit::Raw | DebugExit::Off => u8::try_from(*value).unwrap_or(u8::MAX).min(HIGHEST_RAW),
                // What QEMU's exit() leaves of it is its low byte.
                DebugExit::Qemu => (value << 1 | 1) as u8,
            },
            Self::Panicked => 120,
            Self::TripleFault { .. } => 121,
            Self::Hung { .. } => 122,
            Self::TimedOut { .. } => 124,
            Self::EmulationFailure { .. } => 126,
            Self::Signalled(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
            Self::Escaped => 130,
            Self::Script(Verdict::Passed { .. } | Verdict::Succeeded { .. }) => 0,
            Self::Script(Verdict::Failed(_)) => 123,
        }
    }
}

impl Outcome {
    /// Whether something went wrong, so that its traces are worth keeping.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        !matches!(
            self,
            Self::PoweredOff
                | Self::Reset
                | Self::DebugExit(_)
                | Self::Escaped
                | Self::Script(Verdict::Passed { .. } | Verdict::Succeeded { .. })
        )
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoweredOff => write!(f, "the guest powered off"),
            Self::Reset => write!(f, "the guest reset the machine"),
            Self::DebugExit(value) => write!(f, "the guest ended with {value} on the debug exit port"),
            Self::Panicked => write!(f, "the guest's kernel panicked"),
            Self::TripleFault { vcpu, rip } => {
                write!(f, "triple fault on vCPU {vcpu}")?;
                rip.map_or(Ok(()), |rip| write!(f, " at rip {rip:#x}"))
            }
            Self::Hung { rip } => {
                write!(f, "the guest hangs: every vCPU is halted with interrupts off")?;
                rip.map_or(Ok(()), |rip| write!(f, ", vCPU 0 at {rip:#x}"))
            }
            Self::TimedOut { limit } => write!(f, "the timeout of {limit:?} ran out"),
            Self::EmulationFailure { vcpu, rip, bytes } => {
                write!(f, "the accelerator could not execute the instruction at {rip:#x} on vCPU {vcpu}")?;
                if !bytes.is_empty() {
                    write!(f, " (bytes")?;
                    for byte in bytes {
                        write!(f, " {byte:02x}")?;
                    }
                    write!(f, ")")?;
                }
                Ok(())
            }
            Self::Signalled(signal) => write!(f, "ended by signal {signal}"),
            Self::Escaped => write!(f, "ended by the escape key"),
            Self::Script(verdict) => verdict.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Failure;

    #[test]
    fn statuses_are_those_of_the_table() {
        let raw = |outcome: Outcome| outcome.status(DebugExit::Raw);
        assert_eq!(raw(Outcome::PoweredOff), 0);
        assert_eq!(raw(Outcome::Reset), 0);
        assert_eq!(raw(Outcome::DebugExit(42)), 42);
        assert_eq!(raw(Outcome::DebugExit(120)), 119);
        assert_eq!(raw(Outcome::DebugExit(u32::MAX)), 119);
        assert_eq!(Outcome::DebugExit(3).status(DebugExit::Qemu), 7);
        assert_eq!(Outcome::DebugExit(u32::MAX).status(DebugExit::Qemu), 255);
        assert_eq!(raw(Outcome::Panicked), 120);
        assert_eq!(raw(Outcome::TripleFault { vcpu: 0, rip: None }), 121);
        assert_eq!(raw(Outcome::Hung { rip: None }), 122);
        assert_eq!(raw(Outcome::TimedOut { limit: Duration::from_secs(1) }), 124);
        assert_eq!(raw(Outcome::EmulationFailure { vcpu: 0, rip: 0, bytes: vec![] }), 126);
        assert_eq!(raw(Outcome::Signalled(2)), 130);
        assert_eq!(raw(Outcome::Signalled(15)), 143);
        assert_eq!(raw(Outcome::Escaped), 130);
        assert_eq!(raw(Outcome::Script(Verdict::Passed { steps: 1 })), 0);
        assert_eq!(raw(Outcome::Script(Verdict::Succeeded { pattern: "x".into() })), 0);
        let failure = Failure::FailOn { pattern: "x".into(), text: "x".into() };
        assert_eq!(raw(Outcome::Script(Verdict::Failed(failure))), 123);
    }

    #[test]
    fn every_outcome_is_one_line() {
        let bytes = vec![0x0f, 0x0b];
        let failure = Outcome::EmulationFailure { vcpu: 1, rip: 0x1000, bytes };
        assert_eq!(
            failure.to_string(),
            "the accelerator could not execute the instruction at 0x1000 on vCPU 1 (bytes 0f 0b)"
        );
        let hung = Outcome::Hung { rip: Some(0x1005) };
        assert_eq!(
            hung.to_string(),
            "the guest hangs: every vCPU is halted with interrupts off, vCPU 0 at 0x1005"
        );
    }
}

//! How a run ended, and the exit status that says so.

use std::fmt;
use std::time::Duration;

/// The fate of a guest. `docs/architecture.md` and the README have the table of statuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The guest powered off by its own wish.
    PoweredOff,
    /// The guest reset the machine by its own wish.
    Reset,
    /// The guest wrote this exit status to the debug exit port.
    DebugExit(u8),
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
}

impl Outcome {
    /// The process's exit status for this outcome.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self {
            Self::PoweredOff | Self::Reset => 0,
            Self::DebugExit(value) => *value,
            Self::Panicked => 120,
            Self::TripleFault { .. } => 121,
            Self::Hung { .. } => 122,
            Self::TimedOut { .. } => 124,
            Self::EmulationFailure { .. } => 126,
            Self::Signalled(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
            Self::Escaped => 130,
        }
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
                rip.map_or(Ok(()), |rip| write!(f, ", vCPU 0 at rip {rip:#x}"))
            }
            Self::TimedOut { limit } => write!(f, "the timeout of {limit:?} ran out"),
            Self::EmulationFailure { vcpu, rip, bytes } => {
                write!(
                    f,
                    "the accelerator could not execute the instruction at rip {rip:#x} on vCPU {vcpu}"
                )?;
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
        }
    }
}

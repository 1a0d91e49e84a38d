//! Backends that take whole machines, with devices of their own (Virtualization.framework).

#![forbid(unsafe_code)]

use super::AccelError;
use crate::outcome::Outcome;

/// What such a machine tells its caller, from threads of its own.
pub trait MachineEvents: Send + Sync {
    /// The guest wrote this on its console. It waits while the reader is slow.
    fn output(&self, bytes: &[u8]);

    /// The machine has ended. The first call counts.
    fn ended(&self, end: Result<Outcome, AccelError>);
}

/// A machine that runs. It is stopped when this value is dropped.
pub trait WholeMachine: Send + Sync {
    /// Types on the guest's console, without waiting; says how many bytes were taken.
    fn type_in(&self, bytes: &[u8]) -> usize;

    /// Presses the guest's power button.
    fn press_power_button(&self);
}

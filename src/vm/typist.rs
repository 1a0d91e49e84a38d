//! What takes typed bytes: a serial port of ours, or the console of a machine that a backend has whole.

#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, TryLockError};

use crate::accel::WholeMachine;
use crate::devices::lock;
use crate::devices::serial::Serial;

/// Takes typed bytes.
pub trait Typist: Send + Sync {
    /// Takes bytes, and says how many; the rest is the caller's to offer again.
    fn type_in(&self, bytes: &[u8]) -> usize;

    /// [`Self::type_in`], but never waits for a vCPU.
    fn try_type_in(&self, bytes: &[u8]) -> usize;
}

impl Typist for Mutex<Serial> {
    fn type_in(&self, bytes: &[u8]) -> usize {
        lock(self).enqueue(bytes)
    }

    fn try_type_in(&self, bytes: &[u8]) -> usize {
        match self.try_lock() {
            Ok(mut serial) => serial.enqueue(bytes),
            Err(TryLockError::Poisoned(serial)) => serial.into_inner().enqueue(bytes),
            Err(TryLockError::WouldBlock) => 0,
        }
    }
}

/// The console of a whole machine.
pub struct Console(pub Arc<dyn WholeMachine>);

impl Typist for Console {
    fn type_in(&self, bytes: &[u8]) -> usize {
        self.0.type_in(bytes)
    }

    fn try_type_in(&self, bytes: &[u8]) -> usize {
        self.0.type_in(bytes)
    }
}

//! The machine's devices. A device is `read` and `write`; it knows no backend.

pub mod acpi;
pub mod arm64;
pub mod bus;
mod byte_device;
pub mod debug_console;
pub mod debug_exit;
pub mod fw_cfg;
pub mod i8042;
pub mod irqchip;
pub mod pc;
pub mod pl031;
pub mod port_92;
pub mod post;
pub mod pvpanic;
pub mod reset_control;
pub mod rtc;
pub mod serial;
pub mod test_device;
pub mod timer;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use bus::{Bus, BusError};
pub use byte_device::ByteDevice;

/// A device on the port I/O bus or the MMIO bus.
pub trait Device: Send {
    /// Answers a read at `offset` bytes from the start of the device's range. `data` is preset to
    /// all-ones, so a register that does not exist needs no code.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// Takes a write at `offset` bytes from the start of the device's range.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// What a guest tells the machine through a device that ends or changes the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestEvent {
    /// Power off (ACPI S5).
    PowerOff,
    /// Reset (ACPI reset register, i8042, port 0xCF9).
    Reset,
    /// A value written to the debug exit port.
    DebugExit(u32),
    /// The guest's kernel says that it panicked (pvpanic).
    Panicked,
}

/// Takes guest events; cloned into every device that can cause one.
pub type EventSink = Arc<dyn Fn(GuestEvent) + Send + Sync>;

/// An interrupt line from a device to the interrupt controllers.
pub trait IrqLine: Send {
    /// Drives the line to `level`.
    fn set(&self, level: bool);

    /// Raises and lowers the line: one edge.
    fn pulse(&self) {
        self.set(true);
        self.set(false);
    }
}

/// Locks `mutex`, also after a thread panicked with it: a device's state is plain values, all of which
/// it must cope with anyway.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A rig for the tests of devices that cause events.
#[cfg(test)]
pub(crate) mod rig {
    use super::*;

    /// Remembers the events.
    #[derive(Default)]
    pub(crate) struct Events(Arc<Mutex<Vec<GuestEvent>>>);

    impl Events {
        pub(crate) fn sink(&self) -> EventSink {
            let events = self.0.clone();
            Arc::new(move |event| lock(&events).push(event))
        }

        pub(crate) fn take(&self) -> Vec<GuestEvent> {
            std::mem::take(&mut *lock(&self.0))
        }
    }
}

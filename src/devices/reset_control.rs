//! The reset control register, 0xCF9, among the PCI configuration ports 0xCF8 to 0xCFF.
//!
//! There is no PCI: the configuration ports answer all-ones, so a probe finds no host bridge. A byte at
//! 0xCF9 is the reset control; a doubleword at 0xCF8 is the configuration address and never a reset.

#![forbid(unsafe_code)]

use super::{Device, EventSink, GuestEvent};

/// The first I/O port.
pub const PORT: u64 = 0xCF8;

/// Number of I/O ports.
pub const PORTS: u64 = 8;

/// The offset of 0xCF9.
const RESET_CONTROL: u64 = 1;

const SYSTEM_RESET: u8 = 2;
/// The reset happens when this bit rises.
const RESET_CPU: u8 = 4;
const FULL_RESET: u8 = 8;

/// The reset control register.
pub struct ResetControl {
    value: u8,
    events: EventSink,
}

impl ResetControl {
    /// The register after reset.
    #[must_use]
    pub fn new(events: EventSink) -> Self {
        Self { value: 0, events }
    }
}

impl Device for ResetControl {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let (RESET_CONTROL, [byte]) = (offset, data) {
            *byte = self.value;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (RESET_CONTROL, [value]) = (offset, data) {
            let rising = value & !self.value;
            self.value = value & (SYSTEM_RESET | RESET_CPU | FULL_RESET);
            if rising & RESET_CPU != 0 {
                (self.events)(GuestEvent::Reset);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::rig::Events;

    #[test]
    fn linux_resets_by_it() {
        let events = Events::default();
        let mut register = ResetControl::new(events.sink());
        register.write(1, &[2]);
        let mut data = [0xFF];
        register.read(1, &mut data);
        assert_eq!((data, events.take()), ([2], vec![]));
        register.write(1, &[6]);
        assert_eq!(events.take(), [GuestEvent::Reset]);
    }

    #[test]
    fn the_pci_probe_finds_nothing_and_resets_nothing() {
        let events = Events::default();
        let mut register = ResetControl::new(events.sink());
        register.write(3, &[1]);
        register.write(0, &0x8000_FFFF_u32.to_le_bytes());
        let mut data = [0xFF; 4];
        register.read(0, &mut data);
        assert_eq!(data, [0xFF; 4]);
        for port in [3, 0, 2] {
            register.write(port, &[0]);
        }
        let mut data = [0xFF];
        register.read(0, &mut data);
        assert_eq!((data, events.take()), ([0xFF], vec![]));
    }
}

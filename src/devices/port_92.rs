//! System control port A, 0x92: the fast A20 gate and the fast reset.

#![forbid(unsafe_code)]

use super::{ByteDevice, EventSink, GuestEvent};

/// The I/O port.
pub const PORT: u64 = 0x92;

const FAST_RESET: u8 = 1;
const FAST_A20: u8 = 2;

/// Port 0x92. A20 is kept for reading and masks nothing: A20 is always on.
pub struct Port92 {
    value: u8,
    events: EventSink,
}

impl Port92 {
    /// The port after reset.
    #[must_use]
    pub fn new(events: EventSink) -> Self {
        Self { value: FAST_A20, events }
    }
}

impl ByteDevice for Port92 {
    fn read_byte(&mut self, _offset: u64) -> u8 {
        self.value
    }

    fn write_byte(&mut self, _offset: u64, value: u8) {
        let rising = value & !self.value;
        self.value = value & (FAST_RESET | FAST_A20);
        if rising & FAST_RESET != 0 {
            (self.events)(GuestEvent::Reset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::rig::Events;

    #[test]
    fn a20_is_kept_and_bit_0_resets() {
        let events = Events::default();
        let mut port = Port92::new(events.sink());
        port.write_byte(0, 0);
        assert_eq!(port.read_byte(0), 0);
        port.write_byte(0, 0xFE);
        assert_eq!(port.read_byte(0), FAST_A20);
        assert_eq!(events.take(), []);
        port.write_byte(0, 3);
        assert_eq!(events.take(), [GuestEvent::Reset]);
    }
}

//! The pvpanic port: a guest's kernel says that it panicked.

#![forbid(unsafe_code)]

use super::{ByteDevice, EventSink, GuestEvent};

/// The I/O port.
pub const PORT: u64 = 0x505;

const PANICKED: u8 = 1;
/// The guest panicked and a crash kernel takes over: the run goes on.
const CRASH_LOADED: u8 = 2;

/// The pvpanic port.
pub struct PvPanic(EventSink);

impl PvPanic {
    /// The port.
    #[must_use]
    pub fn new(events: EventSink) -> Self {
        Self(events)
    }
}

impl ByteDevice for PvPanic {
    /// The events that are understood.
    fn read_byte(&mut self, _offset: u64) -> u8 {
        PANICKED | CRASH_LOADED
    }

    fn write_byte(&mut self, _offset: u64, value: u8) {
        if value & PANICKED != 0 {
            (self.0)(GuestEvent::Panicked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::rig::Events;

    #[test]
    fn only_a_panic_without_a_crash_kernel_is_an_event() {
        let events = Events::default();
        let mut port = PvPanic::new(events.sink());
        assert_eq!(port.read_byte(0), 3);
        port.write_byte(0, 2);
        assert_eq!(events.take(), []);
        port.write_byte(0, 1);
        assert_eq!(events.take(), [GuestEvent::Panicked]);
    }
}

//! The debug exit port: a guest ends the run with a value of its choice (QEMU's isa-debug-exit).

#![forbid(unsafe_code)]

use super::{Device, EventSink, GuestEvent};

/// The first I/O port.
pub const PORT: u64 = 0xF4;

/// Number of I/O ports.
pub const PORTS: u64 = 4;

/// The debug exit port.
pub struct DebugExit(EventSink);

impl DebugExit {
    /// The port.
    #[must_use]
    pub fn new(events: EventSink) -> Self {
        Self(events)
    }
}

impl Device for DebugExit {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let mut value = [0; 4];
        for (to, from) in value.iter_mut().zip(data) {
            *to = *from;
        }
        (self.0)(GuestEvent::DebugExit(u32::from_le_bytes(value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::rig::Events;

    #[test]
    fn the_value_is_what_was_written_at_any_width() {
        let events = Events::default();
        let mut port = DebugExit::new(events.sink());
        port.write(0, &[42]);
        port.write(0, &[1, 2]);
        port.write(0, &[1, 2, 3, 4]);
        let expected = [42, 0x0201, 0x0403_0201].map(GuestEvent::DebugExit);
        assert_eq!(events.take(), expected);
    }
}

//! The debug console, port 0xE9 (Bochs, QEMU's isa-debugcon): output without any set-up.

#![forbid(unsafe_code)]

use super::ByteDevice;
use super::serial::SerialSink;

/// The I/O port.
pub const PORT: u64 = 0xE9;

/// The debug console.
pub struct DebugConsole(SerialSink);

impl DebugConsole {
    /// A console that writes to `sink`.
    #[must_use]
    pub fn new(sink: SerialSink) -> Self {
        Self(sink)
    }
}

impl ByteDevice for DebugConsole {
    /// The port's own number, by which a guest knows that it is there.
    fn read_byte(&mut self, _offset: u64) -> u8 {
        0xE9
    }

    fn write_byte(&mut self, _offset: u64, value: u8) {
        (self.0)(value);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn bytes_go_to_the_sink() {
        let output = Arc::new(Mutex::new(Vec::new()));
        let sink = output.clone();
        let mut console = DebugConsole::new(Box::new(move |byte| sink.lock().unwrap().push(byte)));
        assert_eq!(console.read_byte(0), 0xE9);
        console.write_byte(0, b'h');
        console.write_byte(0, b'i');
        assert_eq!(*output.lock().unwrap(), b"hi");
    }
}

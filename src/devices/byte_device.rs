//! Devices whose registers are single bytes, as on the ISA bus.

#![forbid(unsafe_code)]

use super::Device;

/// A device of 8-bit registers. A wider access is what the ISA bus makes of it: one byte access after
/// the other, at rising addresses.
pub trait ByteDevice: Send {
    /// Reads the register at `offset`; one that does not exist is 0xFF.
    fn read_byte(&mut self, offset: u64) -> u8;

    /// Writes the register at `offset`; one that does not exist is ignored.
    fn write_byte(&mut self, offset: u64, value: u8);
}

impl<T: ByteDevice> Device for T {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let mut at = offset;
        for byte in data {
            *byte = self.read_byte(at);
            at = at.wrapping_add(1);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut at = offset;
        for byte in data {
            self.write_byte(at, *byte);
            at = at.wrapping_add(1);
        }
    }
}

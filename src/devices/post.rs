//! The POST code port, 0x80: it keeps the last code. Kernels write to it for a short delay, too.

#![forbid(unsafe_code)]

use super::ByteDevice;

/// The I/O port.
pub const PORT: u64 = 0x80;

/// The POST code port.
#[derive(Debug, Default)]
pub struct Post {
    code: u8,
}

impl Post {
    /// The last code.
    #[must_use]
    pub fn code(&self) -> u8 {
        self.code
    }
}

impl ByteDevice for Post {
    fn read_byte(&mut self, _offset: u64) -> u8 {
        self.code
    }

    fn write_byte(&mut self, _offset: u64, value: u8) {
        self.code = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_code_is_kept() {
        let mut post = Post::default();
        post.write_byte(0, 0x12);
        post.write_byte(0, 0x34);
        assert_eq!((post.code(), post.read_byte(0)), (0x34, 0x34));
    }
}

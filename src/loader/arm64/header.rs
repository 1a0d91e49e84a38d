//! The header of an AArch64 Linux `Image` (Linux: Documentation/arch/arm64/booting.rst).
#![forbid(unsafe_code)]

/// Length of the header in bytes.
pub const BYTES: usize = 64;
/// Where the image's base must be aligned to, and `text_offset` counts from.
pub const ALIGN: u64 = 2 << 20;

const MAGIC_AT: usize = 0x38;
const MAGIC: &[u8] = b"ARM\x64";
/// What `text_offset` is in a kernel that has no `image_size`: one before Linux 3.17.
const OLD_TEXT_OFFSET: u64 = 0x8_0000;

const FLAG_BIG_ENDIAN: u64 = 1;

/// The fields of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Where the image lies behind an aligned address, in bytes.
    pub text_offset: u64,
    /// What it needs from there on, in bytes; `None` if it does not tell.
    pub image_bytes: Option<u64>,
    /// It is for a big-endian machine.
    pub big_endian: bool,
    /// The size of its pages in KiB, where it tells.
    pub page_kib: Option<u32>,
}

impl Header {
    /// The header at the beginning of `head`; `None` if that is no `Image`.
    #[must_use]
    pub fn parse(head: &[u8]) -> Option<Self> {
        let head: &[u8; BYTES] = head.first_chunk()?;
        if head.get(MAGIC_AT..MAGIC_AT + MAGIC.len()) != Some(MAGIC) {
            return None;
        }
        let field = |at: usize| head.get(at..)?.first_chunk().copied().map(u64::from_le_bytes);
        let (text_offset, image_bytes, flags) = (field(8)?, field(16)?, field(24)?);
        if image_bytes == 0 {
            return Some(Self {
                text_offset: OLD_TEXT_OFFSET,
                image_bytes: None,
                big_endian: false,
                page_kib: None,
            });
        }
        Some(Self {
            text_offset,
            image_bytes: Some(image_bytes),
            big_endian: flags & FLAG_BIG_ENDIAN != 0,
            page_kib: [None, Some(4), Some(16), Some(64)].get((flags >> 1 & 3) as usize).copied().flatten(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::image;
    use super::*;

    #[test]
    fn the_fields_are_those_of_the_file() {
        let file = image(0x1_0000, 0x20_0000, b"");
        let header = Header {
            text_offset: 0x1_0000,
            image_bytes: Some(0x20_0000),
            big_endian: false,
            page_kib: Some(4),
        };
        assert_eq!(Header::parse(&file), Some(header));
        let old = Header::parse(&image(0x77, 0, b"")).unwrap();
        assert_eq!((old.text_offset, old.image_bytes), (0x8_0000, None));
        assert_eq!(Header::parse(&file[..63]), None);
        assert_eq!(Header::parse(&[0; 64]), None);
    }
}

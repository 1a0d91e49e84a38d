//! AArch64 kernels that come compressed: a whole file that is compressed, as distributions have their
//! `Image.gz`, or an EFI program with the compressed `Image` in it (`CONFIG_EFI_ZBOOT`). There is no code
//! here that could decompress them in the guest, so it is done on the host.
#![forbid(unsafe_code)]

use std::io::BufRead;

use crate::loader::decompress::Compression;
use crate::loader::error::LoadError;
use crate::loader::image::KernelImage;

/// Where an EFI zboot program says what it is (Linux: drivers/firmware/efi/libstub/zboot-header.S).
const ZBOOT_AT: usize = 4;
const ZBOOT: &[u8] = b"zimg";
const PAYLOAD_OFFSET_AT: usize = 8;
const PAYLOAD_BYTES_AT: usize = 12;
/// Bytes behind the compressed data that are its decompressed length; they do not count as data.
const LENGTH_BYTES: u64 = 4;

/// A compressed kernel in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// How it is compressed.
    pub compression: Compression,
    /// Where the compressed data lies in the file.
    offset: u64,
    bytes: u64,
    /// The decompressed length, where it is told.
    output_bytes: Option<u64>,
    /// It is in an EFI program.
    pub is_zboot: bool,
}

impl Packed {
    /// Finds compressed data in a file that starts with `head`; what is in it is not known yet.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn find(image: &KernelImage, head: &[u8]) -> Result<Option<Self>, LoadError> {
        if head.starts_with(b"MZ") && head.get(ZBOOT_AT..ZBOOT_AT + ZBOOT.len()) == Some(ZBOOT) {
            return Self::in_zboot(image, head);
        }
        let compression = Compression::detect(head).filter(|compression| *compression != Compression::None);
        Ok(compression.map(|compression| Self {
            compression,
            offset: 0,
            bytes: image.len(),
            output_bytes: None,
            is_zboot: false,
        }))
    }

    fn in_zboot(image: &KernelImage, head: &[u8]) -> Result<Option<Self>, LoadError> {
        let field = |at: usize| Some(u64::from(u32::from_le_bytes(head.get(at..)?.first_chunk().copied()?)));
        let (Some(offset), Some(bytes)) = (field(PAYLOAD_OFFSET_AT), field(PAYLOAD_BYTES_AT)) else {
            return Ok(None);
        };
        // Both are 32 bits wide.
        let end = offset + bytes;
        if end > image.len() {
            return Ok(None);
        }
        let start = image.range(offset, bytes.min(16))?;
        let Some(compression) = Compression::detect(&start) else { return Ok(None) };
        let mut output_bytes = None;
        if compression.has_length_appended() && end + LENGTH_BYTES <= image.len() {
            let length = image.range(end, LENGTH_BYTES)?;
            output_bytes = length.first_chunk().map(|length| u32::from_le_bytes(*length).into());
        }
        Ok(Some(Self { compression, offset, bytes, output_bytes, is_zboot: true }))
    }

    /// The decompressed bytes in order; `limit` is the most that can be of use.
    ///
    /// # Errors
    /// When the first bytes are damaged, or there is no decoder.
    pub fn reader<'a>(&self, image: &'a KernelImage, limit: u64) -> Result<Box<dyn BufRead + 'a>, LoadError> {
        let output_bytes = self.output_bytes.unwrap_or(limit).min(limit);
        self.compression
            .reader(image.reader(self.offset, self.bytes), output_bytes)
            .map_err(|source| LoadError::Read { name: image.name().to_owned(), offset: self.offset, source })
    }
}

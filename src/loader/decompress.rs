//! The compressed payload of a bzImage: which compression it is, and the decompressed bytes in order.
#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, BufRead, BufReader, Cursor, Read};

use lz4_flex::block::decompress_into;
use lzma_rust2::{LzmaReader, XzReader};
use ruzstd::decoding::StreamingDecoder;

use super::elf;

/// Memory that a decoder may use for its dictionary, in bytes; Linux's makefiles ask for 128 MiB.
const DICTIONARY_MAX: u64 = 256 << 20;
const LZ4_MAGIC: [u8; 4] = 0x184C_2102_u32.to_le_bytes();
/// Most bytes of a block of lz4's legacy format, decompressed.
const LZ4_BLOCK: usize = 8 << 20;

/// How a payload is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// bzip2.
    Bzip2,
    /// The older `.lzma` format.
    Lzma,
    /// xz, with the x86 filter.
    Xz,
    /// LZO, for which there is no decoder here.
    Lzo,
    /// lz4, in its legacy format.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "lzma",
            Self::Xz => "xz",
            Self::Lzo => "lzo",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

impl Compression {
    /// Tells the compression by the first bytes.
    #[must_use]
    pub fn detect(start: &[u8]) -> Option<Self> {
        let magics: [(&[u8], Self); 8] = [
            (elf::MAGIC, Self::None),
            (&[0x1F, 0x8B], Self::Gzip),
            (b"BZh", Self::Bzip2),
            (&[0x5D, 0, 0], Self::Lzma),
            (b"\xFD7zXZ\0", Self::Xz),
            (&[0x89, b'L', b'Z'], Self::Lzo),
            (&LZ4_MAGIC, Self::Lz4),
            (&ZSTD_MAGIC, Self::Zstd),
        ];
        magics.into_iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, compression)| compression)
    }

    /// Whether Linux's build puts the decompressed length, 4 bytes, behind the compressed data. gzip
    /// has it as a part of its own format.
    #[must_use]
    pub fn has_length_appended(self) -> bool {
        !matches!(self, Self::None | Self::Gzip)
    }

    /// A reader of the decompressed bytes. `output_bytes` is the length that they are said to have.
    ///
    /// # Errors
    /// When the first bytes are damaged, or there is no decoder.
    pub fn reader<'a>(self, input: impl Read + 'a, output_bytes: u64) -> io::Result<Box<dyn Read + 'a>> {
        let mut input = BufReader::with_capacity(64 << 10, input);
        Ok(match self {
            Self::None => Box::new(input),
            Self::Gzip => Box::new(flate2::bufread::GzDecoder::new(input)),
            Self::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
            Self::Lzma => {
                let limit = u32::try_from(DICTIONARY_MAX >> 10).unwrap_or(u32::MAX);
                Box::new(LzmaReader::new_mem_limit(input, limit, None)?)
            }
            Self::Xz => {
                let limit = u32::try_from(DICTIONARY_MAX >> 10).unwrap_or(u32::MAX);
                Box::new(XzReader::new_mem_limit(input, true, limit))
            }
            Self::Lzo => return Err(io::Error::other("there is no decoder for lzo")),
            Self::Lz4 => Box::new(Lz4Legacy::new(input)),
            Self::Zstd => {
                let header = zstd_frame_header(&mut input, output_bytes)?;
                let frame = Cursor::new(header).chain(input);
                Box::new(StreamingDecoder::new(frame).map_err(io::Error::other)?)
            }
        })
    }
}

/// lz4's legacy format: a magic number, then blocks with their compressed length before them. Each
/// but the last decompresses to 8 MiB.
struct Lz4Legacy<R> {
    input: R,
    compressed: Vec<u8>,
    block: Vec<u8>,
    /// The part of `block` that is still to be read.
    from: usize,
    to: usize,
}

impl<R: BufRead> Lz4Legacy<R> {
    fn new(input: R) -> Self {
        Self { input, compressed: Vec::new(), block: Vec::new(), from: 0, to: 0 }
    }

    /// Decompresses the next block; answers `false` at the end of input.
    fn next_block(&mut self) -> io::Result<bool> {
        let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
        let bytes = loop {
            if self.input.fill_buf()?.is_empty() {
                return Ok(false);
            }
            let mut bytes = [0; 4];
            self.input.read_exact(&mut bytes)?;
            // Concatenated files have the magic number again.
            if bytes != LZ4_MAGIC {
                break u32::from_le_bytes(bytes) as usize;
            }
        };
        if bytes > lz4_flex::block::get_maximum_output_size(LZ4_BLOCK) {
            return Err(invalid(format!("an lz4 block of {bytes} bytes")));
        }
        self.compressed.resize(bytes, 0);
        self.input.read_exact(&mut self.compressed)?;
        self.block.resize(LZ4_BLOCK, 0);
        self.from = 0;
        self.to = decompress_into(&self.compressed, &mut self.block).map_err(|e| invalid(e.to_string()))?;
        Ok(true)
    }
}

impl<R: BufRead> Read for Lz4Legacy<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.from == self.to {
            if !self.next_block()? {
                return Ok(0);
            }
        }
        let count = self.block.get(self.from..self.to).unwrap_or_default().read(buffer)?;
        self.from += count;
        Ok(count)
    }
}

const ZSTD_MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

/// Reads a zstd frame's header, and answers it with a window that is no larger than the output
/// (RFC 8878, 3.1.1.1): Linux is compressed through a pipe with a window of 128 MiB, which the decoder
/// would reserve, or refuse.
fn zstd_frame_header(input: &mut impl Read, output_bytes: u64) -> io::Result<Vec<u8>> {
    let mut header = vec![0; 5];
    input.read_exact(&mut header)?;
    let descriptor = header.last().copied().unwrap_or(0);
    let single_segment = descriptor & 1 << 5 != 0;
    let dictionary_bytes = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content_bytes = match descriptor >> 6 {
        0 => usize::from(single_segment),
        size => 1 << size,
    };
    let mut fields = vec![0; usize::from(!single_segment) + dictionary_bytes + content_bytes];
    input.read_exact(&mut fields)?;
    if single_segment {
        // The window is the whole content.
        let mut size = [0; 8];
        let content = fields.get(dictionary_bytes..).unwrap_or_default();
        size.iter_mut().zip(content).for_each(|(to, from)| *to = *from);
        let size = u64::from_le_bytes(size);
        if size > DICTIONARY_MAX {
            return Err(io::Error::other(format!("a window of {size} bytes")));
        }
    } else if let Some(window) = fields.first_mut() {
        let least = (0..*window).find(|&descriptor| zstd_window(descriptor) >= output_bytes);
        *window = least.unwrap_or(*window);
    }
    header.append(&mut fields);
    Ok(header)
}

/// The window that a descriptor stands for: the upper 5 bits are the exponent over 1 KiB, the lower 3
/// bits add eighths.
fn zstd_window(descriptor: u8) -> u64 {
    let base = 1 << (10 + (descriptor >> 3));
    base + base / 8 * u64::from(descriptor & 7)
}

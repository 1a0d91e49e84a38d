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

/// A kernel that says to be larger than this many times its compressed length is not believed; a few MiB are
/// always allowed.
const RATIO_MAX: u64 = 256;
const OUTPUT_ALLOWED: u64 = 64 << 20;

/// The most bytes that `bytes` of a compressed kernel are believed to decompress to.
#[must_use]
pub fn believed_output(bytes: u64) -> u64 {
    bytes.saturating_mul(RATIO_MAX).max(OUTPUT_ALLOWED)
}

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
    pub fn reader<'a>(self, input: impl Read + 'a, output_bytes: u64) -> io::Result<Box<dyn BufRead + 'a>> {
        let mut input = BufReader::with_capacity(64 << 10, input);
        let dictionary_kib = u32::try_from(DICTIONARY_MAX >> 10).unwrap_or(u32::MAX);
        Ok(match self {
            Self::None => Box::new(input),
            Self::Gzip => buffered(flate2::bufread::GzDecoder::new(input)),
            Self::Bzip2 => buffered(bzip2::bufread::MultiBzDecoder::new(input)),
            Self::Lzma => buffered(LzmaReader::new_mem_limit(input, dictionary_kib, None)?),
            Self::Xz => buffered(XzReader::new_mem_limit(input, true, dictionary_kib)),
            Self::Lzo => return Err(io::Error::other("there is no decoder for lzo")),
            Self::Lz4 => Box::new(Lz4Legacy::new(input)),
            Self::Zstd => {
                let header = zstd_frame_header(&mut input, output_bytes)?;
                let frame = Cursor::new(header).chain(input);
                buffered(StreamingDecoder::new(frame).map_err(io::Error::other)?)
            }
        })
    }
}

fn buffered<'a>(decoder: impl Read + 'a) -> Box<dyn BufRead + 'a> {
    Box::new(BufReader::with_capacity(128 << 10, decoder))
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

impl<R: BufRead> BufRead for Lz4Legacy<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.from >= self.to && self.next_block()? {}
        Ok(self.block.get(self.from..self.to).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.from = self.from.saturating_add(count).min(self.to);
    }
}

impl<R: BufRead> Read for Lz4Legacy<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
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
    let single_segment = descriptor & (1 << 5) != 0;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::testing::vmlinux;

    /// The test's vmlinux, compressed by the tools and options of Linux's makefiles: `gzip -n -9`,
    /// `bzip2 -9`, `lzma -9`, `xz --check=crc32 --x86 --lzma2=dict=32MiB`, `lz4 -l -9` and
    /// `zstd -22 --ultra` from a pipe; all but gzip's with the length behind them.
    const PAYLOADS: [(Compression, &[u8]); 6] = [
        (Compression::Gzip, include_bytes!("testdata/vmlinux.gz")),
        (Compression::Bzip2, include_bytes!("testdata/vmlinux.bz2")),
        (Compression::Lzma, include_bytes!("testdata/vmlinux.lzma")),
        (Compression::Xz, include_bytes!("testdata/vmlinux.xz")),
        (Compression::Lz4, include_bytes!("testdata/vmlinux.lz4")),
        (Compression::Zstd, include_bytes!("testdata/vmlinux.zst")),
    ];

    fn data(compression: Compression, payload: &[u8]) -> &[u8] {
        &payload[..payload.len() - if compression.has_length_appended() { 4 } else { 0 }]
    }

    fn decompress(compression: Compression, data: &[u8], output_bytes: u64) -> io::Result<Vec<u8>> {
        let mut output = Vec::new();
        let mut reader = compression.reader(data, output_bytes)?.take(64 << 20);
        reader.read_to_end(&mut output)?;
        Ok(output)
    }

    #[test]
    fn payloads_of_linux_own_tools_are_decompressed() {
        let vmlinux = vmlinux(true);
        for (compression, payload) in PAYLOADS {
            assert_eq!(Compression::detect(payload), Some(compression));
            let output = decompress(compression, data(compression, payload), vmlinux.len() as u64);
            assert!(output.unwrap() == vmlinux, "{compression}");
        }
    }

    #[test]
    fn a_payload_that_is_cut_off_never_gives_its_whole_output() {
        let bytes = vmlinux(true).len();
        for (compression, payload) in PAYLOADS {
            let data = data(compression, payload);
            for length in [1, 5, 6, 8, 20, data.len() / 2, data.len() - 9] {
                let output = decompress(compression, &data[..length], bytes as u64);
                assert!(output.is_err() || output.is_ok_and(|output| output.len() < bytes), "{compression}");
            }
        }
    }

    #[test]
    fn lz4_blocks_follow_each_other_and_their_lengths_are_checked() {
        let block = |content: &[u8]| {
            let compressed = lz4_flex::block::compress(content);
            let mut block = (compressed.len() as u32).to_le_bytes().to_vec();
            block.extend(compressed);
            block
        };
        let (first, second) = (vec![7; LZ4_BLOCK], b"and the rest".to_vec());
        let file = [LZ4_MAGIC.to_vec(), block(&first), LZ4_MAGIC.to_vec(), block(&second)].concat();
        let output = decompress(Compression::Lz4, &file, 0).unwrap();
        assert!(output == [first, second].concat());

        let huge = [LZ4_MAGIC, u32::MAX.to_le_bytes()].concat();
        assert!(decompress(Compression::Lz4, &huge, 0).is_err());
        let too_long = [LZ4_MAGIC.to_vec(), block(&vec![7; LZ4_BLOCK + 1])].concat();
        assert!(decompress(Compression::Lz4, &too_long, 0).is_err());
    }

    #[test]
    fn a_zstd_window_is_made_no_larger_than_the_output() {
        let window = |output| {
            let mut payload = PAYLOADS[5].1;
            zstd_window(zstd_frame_header(&mut payload, output).unwrap()[5])
        };
        assert_eq!(window(1 << 20), 1 << 20);
        assert_eq!(window((48 << 20) + 1), 52 << 20);
        assert_eq!(window(0), 1 << 10);
        assert_eq!(window(1 << 40), 128 << 20);
    }

    proptest::proptest! {
        #[test]
        fn damaged_payloads_never_panic(
            which in 0..6_usize,
            at: proptest::sample::Index,
            byte: u8,
            length: proptest::sample::Index,
        ) {
            let (compression, payload) = PAYLOADS[which];
            let mut data = data(compression, payload).to_vec();
            let (at, length) = (at.index(data.len()), length.index(data.len()));
            data[at] = byte;
            let _ = decompress(compression, &data, 22 << 10);
            let _ = decompress(compression, &data[..length], 22 << 10);
        }

        #[test]
        fn random_bytes_never_panic(which in 0..6_usize, keep in 0..16_usize, bytes: Vec<u8>) {
            let (compression, payload) = PAYLOADS[which];
            let data = [&payload[..keep], &bytes].concat();
            let _ = decompress(compression, &data, 1 << 20);
        }
    }
}

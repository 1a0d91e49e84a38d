//! CRC32 with the Castagnoli polynomial 0x11EDC6F41, bits reflected.
#![forbid(unsafe_code)]

/// The remainder of each byte.
const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut remainder = i as u32;
        let mut bit = 0;
        while bit < 8 {
            remainder = remainder >> 1 ^ (0x82f6_3b78 & (remainder & 1).wrapping_neg());
            bit += 1;
        }
        table[i] = remainder;
        i += 1;
    }
    table
}

/// Adds the low `count` bytes of `source` to the checksum.
fn accumulate(crc: u32, source: u64, count: usize) -> u32 {
    source.to_le_bytes()[..count]
        .iter()
        .fold(crc, |crc, byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)])
}

pub fn crc32_8(crc: u32, source: u64) -> u32 {
    accumulate(crc, source, 1)
}
pub fn crc32_16(crc: u32, source: u64) -> u32 {
    accumulate(crc, source, 2)
}
pub fn crc32_32(crc: u32, source: u64) -> u32 {
    accumulate(crc, source, 4)
}
pub fn crc32_64(crc: u32, source: u64) -> u32 {
    accumulate(crc, source, 8)
}

//! AArch64 kernels built byte by byte for the tests.

/// An `Image` with these fields and this content behind its header.
pub fn image(text_offset: u64, image_bytes: u64, content: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 64];
    file[8..16].copy_from_slice(&text_offset.to_le_bytes());
    file[16..24].copy_from_slice(&image_bytes.to_le_bytes());
    // Pages of 4 KiB, any place.
    file[24..32].copy_from_slice(&0b1010_u64.to_le_bytes());
    file[0x38..0x3C].copy_from_slice(b"ARM\x64");
    file.extend(content);
    file
}

/// An EFI zboot program with this payload, and this behind it.
pub fn zboot(payload: &[u8], behind: &[u8]) -> Vec<u8> {
    let mut file = b"MZ\0\0zimg".to_vec();
    file.extend(0x40_u32.to_le_bytes());
    file.extend((payload.len() as u32).to_le_bytes());
    file.resize(0x40, 0);
    file.extend(payload);
    file.extend(behind);
    file
}

/// An ELF64 executable for AArch64 with these segments.
pub fn elf(entry: u64, parts: &[crate::loader::testing::Part]) -> Vec<u8> {
    let mut file = crate::loader::testing::elf64(entry, parts, None);
    file[18] = 183;
    file
}

pub fn gzip(content: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

//! Linux's `boot_params`, the "zero page" (Linux: Documentation/arch/x86/zero-page.rst and
//! boot.rst), by its byte offsets.
#![forbid(unsafe_code)]

use super::error::LoadError;
use super::image::write;
use super::layout::MapRange;
use crate::memory::GuestMemory;

const ACPI_RSDP_ADDR: usize = 0x70;
const E820_ENTRIES: usize = 0x1E8;
const E820_TABLE: usize = 0x2D0;
const E820_MAX: usize = 128;

/// Offset of the setup header, in a bzImage as in the zero page.
pub const SETUP_HEADER: usize = 0x1F1;
/// End of the room for the setup header in the zero page.
pub const SETUP_HEADER_END: usize = 0x290;
const BOOT_FLAG: usize = 0x1FE;
const HEADER: usize = 0x202;
const VERSION: usize = 0x206;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const CODE32_START: usize = 0x214;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21C;
const HEAP_END_PTR: usize = 0x224;
const CMD_LINE_PTR: usize = 0x228;

const LOADED_HIGH: u8 = 1;
const CAN_USE_HEAP: u8 = 1 << 7;
/// The loader has no number of its own.
const LOADER_UNDEFINED: u8 = 0xFF;

/// What the zero page tells the kernel.
pub struct Contents<'a> {
    /// The bzImage's setup header, from `SETUP_HEADER` on; empty for a kernel that has none.
    pub setup_header: &'a [u8],
    /// Where the 32-bit code was loaded.
    pub code32_start: u32,
    /// Address of the command line.
    pub cmdline: u32,
    /// Address and length of the initrd.
    pub initrd: Option<(u32, u32)>,
    /// Address of the ACPI RSDP.
    pub rsdp: Option<u64>,
    /// The memory map.
    pub map: &'a [MapRange],
}

struct ZeroPage([u8; 4096]);

impl ZeroPage {
    fn set(&mut self, offset: usize, bytes: &[u8]) {
        if let Some(place) = self.0.get_mut(offset..offset + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }
}

/// Writes a zero page to `gpa`.
pub fn write_zero_page(memory: &GuestMemory, gpa: u64, contents: &Contents<'_>) -> Result<(), LoadError> {
    let mut page = ZeroPage([0; 4096]);
    let room = SETUP_HEADER_END - SETUP_HEADER;
    let header = contents.setup_header.get(..room).unwrap_or(contents.setup_header);
    page.set(SETUP_HEADER, header);
    if header.is_empty() {
        // A kernel without a setup header still reads a zero page by the boot protocol 2.12.
        page.set(BOOT_FLAG, &0xAA55_u16.to_le_bytes());
        page.set(HEADER, b"HdrS");
        page.set(VERSION, &0x020C_u16.to_le_bytes());
    }
    page.set(TYPE_OF_LOADER, &[LOADER_UNDEFINED]);
    page.set(LOADFLAGS, &[LOADED_HIGH | CAN_USE_HEAP]);
    page.set(HEAP_END_PTR, &0xFE00_u16.to_le_bytes());
    page.set(CODE32_START, &contents.code32_start.to_le_bytes());
    page.set(CMD_LINE_PTR, &contents.cmdline.to_le_bytes());
    let (initrd, initrd_bytes) = contents.initrd.unwrap_or_default();
    page.set(RAMDISK_IMAGE, &initrd.to_le_bytes());
    page.set(RAMDISK_SIZE, &initrd_bytes.to_le_bytes());
    page.set(ACPI_RSDP_ADDR, &contents.rsdp.unwrap_or(0).to_le_bytes());
    let ranges = contents.map.get(..E820_MAX).unwrap_or(contents.map);
    page.set(E820_ENTRIES, &[ranges.len() as u8]);
    for (index, range) in ranges.iter().enumerate() {
        let entry = E820_TABLE + index * 20;
        page.set(entry, &range.start.to_le_bytes());
        page.set(entry + 8, &range.bytes.to_le_bytes());
        page.set(entry + 16, &(range.kind as u32).to_le_bytes());
    }
    write(memory, gpa, &page.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::layout::{ZERO_PAGE, memory_map};
    use crate::loader::testing::{memory, read, read_u32, read_u64};

    #[test]
    fn the_zero_page_has_everything_at_its_offset() {
        let memory = memory(2);
        let contents = Contents {
            setup_header: &[0xAA; 300],
            code32_start: 0x10_0000,
            cmdline: 0x2_0000,
            initrd: Some((0x12_3000, 77)),
            rsdp: Some(0xE_0000),
            map: &memory_map(&memory),
        };
        write_zero_page(&memory, ZERO_PAGE, &contents).unwrap();
        let field = |offset| read_u32(&memory, ZERO_PAGE + offset);
        assert_eq!(read(&memory, ZERO_PAGE + 0x1F0, 2), [0, 0xAA]);
        assert_eq!(read(&memory, ZERO_PAGE + 0x28F, 2), [0xAA, 0], "the header ends where it must");
        assert_eq!(read(&memory, ZERO_PAGE + 0x210, 2), [0xFF, 0x81]);
        assert_eq!(field(0x214), 0x10_0000);
        assert_eq!((field(0x218), field(0x21C)), (0x12_3000, 77));
        assert_eq!(field(0x228), 0x2_0000);
        assert_eq!(read_u64(&memory, ZERO_PAGE + 0x70), 0xE_0000);
        assert_eq!(read(&memory, ZERO_PAGE + 0x1E8, 1), [3]);
        let third = ZERO_PAGE + 0x2D0 + 2 * 20;
        assert_eq!((read_u64(&memory, third), read_u64(&memory, third + 8)), (0x10_0000, 0x10_0000));
        assert_eq!(read_u32(&memory, third + 16), 1);
    }
}

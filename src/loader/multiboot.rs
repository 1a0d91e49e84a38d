//! Multiboot 1 (Multiboot Specification 0.6.96): the header, and the information block.
#![forbid(unsafe_code)]

use super::LoadRequest;
use super::elf::{Elf, Load};
use super::error::LoadError;
use super::image::{KernelImage, write};
use super::layout::{self, EBDA, HIGH_RAM, MapRange, Placement, RangeKind, memory_map, page_up};
use super::{bios_area, cmdline, initrd, start};
use crate::accel::{X86Regs, X86SpecialRegs};

/// The header lies in the first bytes of the file.
pub const SEARCH_BYTES: usize = 8192;
const HEADER_MAGIC: u32 = 0x1BAD_B002;
const MULTIBOOT2_MAGIC: u32 = 0xE852_50D6;
/// What the kernel finds in eax.
const LOADER_MAGIC: u64 = 0x2BAD_B002;
const LOADER_NAME: &[u8] = b"vm-accel\0";

/// The kernel wants a video mode; it gets none.
const FLAG_VIDEO: u32 = 1 << 2;
/// Of the requirements, modules on page boundaries, memory information and a video mode are known.
const FLAGS_UNKNOWN: u32 = 0xFFF8;
const FLAG_ADDRESSES: u32 = 1 << 16;

const INFO_MEMORY: u32 = 1;
const INFO_CMDLINE: u32 = 1 << 2;
const INFO_MODULES: u32 = 1 << 3;
const INFO_MEMORY_MAP: u32 = 1 << 6;
const INFO_LOADER_NAME: u32 = 1 << 9;
const INFO_BYTES: usize = 116;
const MODULE_BYTES: usize = 16;
const MAP_ENTRY_BYTES: usize = 24;

/// A Multiboot header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    flags: u32,
    /// What the address fields say to load, and the entry point.
    pub addresses: Option<(Load, u32)>,
}

/// A kernel with a Multiboot header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Multiboot {
    /// What is loaded.
    pub loads: Vec<Load>,
    /// Guest-physical address of the entry point.
    pub entry: u32,
    wants_video: bool,
}

/// Whether a file that starts with `head` has a Multiboot 1 header.
#[must_use]
pub fn is_multiboot(head: &[u8]) -> bool {
    header_at(head.get(..SEARCH_BYTES).unwrap_or(head)).is_some()
}

/// Where the Multiboot 1 header is.
fn header_at(head: &[u8]) -> Option<usize> {
    (0..head.len().saturating_sub(11)).step_by(4).find(|&at| {
        let sum = word(head, at).wrapping_add(word(head, at + 4)).wrapping_add(word(head, at + 8));
        word(head, at) == HEADER_MAGIC && sum == 0
    })
}

/// Whether a file that starts with `head` has a Multiboot 2 header.
#[must_use]
pub fn is_multiboot2(head: &[u8]) -> bool {
    // Multiboot 2 has its header on an 8-byte boundary in the first 32 KiB, and the checksum over
    // magic, architecture and length.
    head.chunks_exact(8).zip(head.chunks_exact(8).skip(1)).any(|(first, second)| {
        let words = [word(first, 0), word(first, 4), word(second, 0), word(second, 4)];
        words[0] == MULTIBOOT2_MAGIC && words.iter().fold(0, |sum: u32, &word| sum.wrapping_add(word)) == 0
    })
}

impl Header {
    /// Looks for a header in `head`, the first `SEARCH_BYTES` bytes of a file.
    ///
    /// # Errors
    /// When the header asks for something that is not known, or its addresses contradict each other.
    pub fn find(image: &KernelImage, head: &[u8]) -> Result<Option<Self>, LoadError> {
        let head = head.get(..SEARCH_BYTES).unwrap_or(head);
        let Some(at) = header_at(head) else { return Ok(None) };
        let flags = word(head, at + 4);
        if flags & FLAGS_UNKNOWN != 0 {
            return Err(LoadError::Unsupported {
                name: image.name().to_owned(),
                reason: format!("its Multiboot header requires unknown features (flags {flags:#x})"),
                remedy: "Build it without them",
            });
        }
        let addresses = match flags & FLAG_ADDRESSES {
            0 => None,
            _ => Some(addresses(image, head, at)?),
        };
        Ok(Some(Self { flags, addresses }))
    }
}

/// Reads the header's address fields. The header's own address in the file and in memory tells where
/// the file's first loaded byte is.
fn addresses(image: &KernelImage, head: &[u8], at: usize) -> Result<(Load, u32), LoadError> {
    let name = image.name();
    if at + 32 > head.len() {
        return Err(malformed(name, "its address fields are cut off"));
    }
    let field = |index: usize| u64::from(word(head, at + 12 + index * 4));
    let (header, load, load_end, bss_end) = (field(0), field(1), field(2), field(3));
    let entry = word(head, at + 28);
    let offset = header.checked_sub(load).and_then(|before| (at as u64).checked_sub(before));
    let offset =
        offset.ok_or_else(|| malformed(name, "its load address does not fit its header's address"))?;
    let file_bytes = match load_end {
        0 => image.len() - offset,
        end => end.checked_sub(load).ok_or_else(|| malformed(name, "it ends below its load address"))?,
    };
    if offset + file_bytes > image.len() {
        return Err(malformed(name, "its load end address lies behind the end of the file"));
    }
    let memory_bytes = match bss_end {
        0 => file_bytes,
        end => end
            .checked_sub(load)
            .filter(|&bytes| bytes >= file_bytes)
            .ok_or_else(|| malformed(name, "its bss ends before its data"))?,
    };
    if u64::from(entry).checked_sub(load).is_none_or(|at| at >= memory_bytes) {
        return Err(malformed(name, &format!("its entry point {entry:#x} lies outside of what it loads")));
    }
    Ok((Load { offset, file_bytes, gpa: load, memory_bytes, virt: load }, entry))
}

impl Multiboot {
    /// A kernel that is loaded by its header's address fields, or else by its ELF headers.
    ///
    /// # Errors
    /// When it has neither, or its entry point lies behind 4 GiB.
    pub fn new(image: &KernelImage, header: &Header, elf: Option<&Elf>) -> Result<Self, LoadError> {
        let (loads, entry) = match (&header.addresses, elf) {
            (Some((load, entry)), _) => (vec![*load], *entry),
            (None, Some(elf)) => {
                let entry = u32::try_from(elf.checked_entry(image.name())?)
                    .map_err(|_| malformed(image.name(), "its entry point lies behind 4 GiB"))?;
                (elf.loads.clone(), entry)
            }
            (None, None) => {
                return Err(malformed(image.name(), "it is no ELF file, and its header has no addresses"));
            }
        };
        Ok(Self { loads, entry, wants_video: header.flags & FLAG_VIDEO != 0 })
    }

    /// Copies the kernel and its modules, and answers the start state. An initrd is the first module.
    ///
    /// # Errors
    /// When a file cannot be read or there is no room.
    pub fn boot(
        &self,
        request: &LoadRequest,
        placement: &mut Placement<'_>,
    ) -> Result<(X86Regs, X86SpecialRegs), LoadError> {
        let (image, memory) = (&request.kernel, request.memory);
        if self.wants_video {
            log::info!("{} asks for a video mode; the machine has no display", image.name());
        }
        bios_area::write_area(memory)?;
        let what = format!("the kernel {}", image.name());
        for load in &self.loads {
            placement.fix(&what, load.gpa, load.memory_bytes)?;
            image.copy_to(memory, load.gpa, load.offset, load.file_bytes)?;
        }
        let end = self.loads.iter().map(|load| load.gpa.saturating_add(load.memory_bytes)).max();
        let end = page_up(end.unwrap_or(0)).max(HIGH_RAM);
        let (mut regs, special) = start::protected_mode(memory, placement, self.entry)?;
        let mut modules = Vec::new();
        if let Some(image) = request.initrd {
            modules.push(initrd::load_module(request, placement, end, image, "")?);
        }
        modules.extend(initrd::load_modules(request, placement, end)?);
        regs.rax = LOADER_MAGIC;
        regs.rbx = information(request, placement, &modules)?;
        regs.rsp = start::stack(placement)?;
        Ok((regs, special))
    }
}

/// Writes the information block (3.3) with all that it points to behind it, and answers its address.
fn information(
    request: &LoadRequest,
    placement: &mut Placement<'_>,
    modules: &[initrd::Loaded],
) -> Result<u64, LoadError> {
    let cmdline = cmdline::load_named(request, placement)?;
    let map = memory_map(request.memory);
    let module_list = INFO_BYTES;
    let map_start = module_list + modules.len() * MODULE_BYTES;
    let strings = map_start + map.len() * MAP_ENTRY_BYTES;
    let module_strings = strings + LOADER_NAME.len();
    let bytes = module_strings + modules.iter().map(|module| module.string.len()).sum::<usize>();
    let base = placement.place("the Multiboot information", layout::START_INFO, bytes as u64)?;
    let at = |offset: usize| (base as u32).wrapping_add(offset as u32);

    let mut block = vec![0; INFO_BYTES];
    let mut set = |offset: usize, value: u32| {
        if let Some(place) = block.get_mut(offset..offset + 4) {
            place.copy_from_slice(&value.to_le_bytes());
        }
    };
    let flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODULES | INFO_MEMORY_MAP | INFO_LOADER_NAME;
    set(0, flags);
    set(4, kib_from(&map, 0, EBDA));
    set(8, kib_from(&map, HIGH_RAM, u64::MAX));
    set(16, cmdline);
    set(20, modules.len() as u32);
    set(24, at(module_list));
    set(44, (map.len() * MAP_ENTRY_BYTES) as u32);
    set(48, at(map_start));
    set(64, at(strings));
    let mut string = module_strings;
    for module in modules {
        let end = module.gpa.saturating_add(module.bytes);
        [module.gpa, end, at(string), 0].iter().for_each(|word| block.extend(word.to_le_bytes()));
        string += module.string.len();
    }
    for range in &map {
        block.extend((MAP_ENTRY_BYTES as u32 - 4).to_le_bytes());
        block.extend(range.start.to_le_bytes());
        block.extend(range.bytes.to_le_bytes());
        block.extend((range.kind as u32).to_le_bytes());
    }
    block.extend(LOADER_NAME);
    block.extend(modules.iter().flat_map(|module| &module.string));
    write(request.memory, base, &block)?;
    Ok(base)
}

/// KiB of RAM that begin at `start`, up to `end`.
fn kib_from(map: &[MapRange], start: u64, end: u64) -> u32 {
    let range = map.iter().find(|range| range.start == start && range.kind == RangeKind::Ram);
    range.map_or(0, |range| (range.bytes.min(end - start) >> 10).try_into().unwrap_or(u32::MAX))
}

/// The little-endian word at an offset, or 0 behind the end.
fn word(bytes: &[u8], offset: usize) -> u32 {
    let word = bytes.get(offset..).and_then(|bytes| bytes.first_chunk());
    word.copied().map_or(0, u32::from_le_bytes)
}

fn malformed(name: &str, reason: &str) -> LoadError {
    LoadError::Malformed { name: name.to_owned(), format: "Multiboot kernel", reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Module;
    use crate::loader::load;
    use crate::loader::testing::{
        elf32, elf64, memory, multiboot_header, part, pvh_note, read, read_string, read_u32, read_u64,
        registers, request, try_load,
    };

    const BASE: u32 = 0x10_0000;

    /// A kernel that is loaded by its address fields: 16 bytes before the header, then these.
    fn flat(addresses: [u32; 5]) -> Vec<u8> {
        [&[0x90; 16][..], &multiboot_header(1 << 16, &addresses), &[0xCC; 100]].concat()
    }

    fn elf_content() -> Vec<u8> {
        [&multiboot_header(3, &[])[..], &[0x90; 100]].concat()
    }

    #[test]
    fn the_information_block_tells_the_machine() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"content").unwrap();
        let module = |string: &str| Module { path: file.path().to_owned(), cmdline: string.to_owned() };
        let modules = [module("first"), module("")];
        let memory = memory(4);
        let kernel = elf32(BASE + 16, &[part(BASE.into(), &elf_content())]);
        let state = load(&LoadRequest { modules: &modules, ..request(kernel, &memory) }).unwrap();
        let (regs, special) = registers(&state);
        assert_eq!(state.protocol, "Multiboot ELF");
        assert_eq!((regs.rax, regs.rip), (0x2BAD_B002, u64::from(BASE) + 16));
        assert_eq!((special.cr0, special.cs.limit, special.ds.limit), (0x11, u32::MAX, u32::MAX));

        let field = |offset: u64| read_u32(&memory, regs.rbx + offset);
        assert_eq!(field(0), 0b10_0100_1101);
        assert_eq!((field(4), field(8)), (639, 3 << 10));
        assert_eq!(read_string(&memory, field(16).into()), "the built-in guest console=ttyS0");
        assert_eq!(read_string(&memory, field(64).into()), "vm-accel");
        assert_eq!(field(20), 2);
        for (index, string) in [(0, "first"), (1, "")] {
            let entry = u64::from(field(24)) + index * 16;
            let (start, end) = (read_u32(&memory, entry), read_u32(&memory, entry + 4));
            assert_eq!((start % 4096, end - start), (0, 7));
            assert_eq!(read(&memory, start.into(), 7), b"content");
            assert_eq!(read_string(&memory, read_u32(&memory, entry + 8).into()), string);
        }
        assert_eq!(field(44), 3 * 24);
        let last = u64::from(field(48)) + 2 * 24;
        assert_eq!(read_u32(&memory, last), 20);
        assert_eq!((read_u64(&memory, last + 4), read_u64(&memory, last + 12)), (0x10_0000, 0x30_0000));
        assert_eq!(read_u32(&memory, last + 20), 1);
    }

    #[test]
    fn address_fields_say_what_is_loaded() {
        let memory = memory(4);
        let bytes = flat([0; 5]).len() as u32;
        // All of the file, from 16 bytes before the header on.
        let file = flat([BASE + 16, BASE, 0, 0, BASE + 4]);
        let state = load(&request(file.clone(), &memory)).unwrap();
        assert_eq!(state.protocol, "Multiboot by its address fields");
        assert_eq!(registers(&state).0.rip, u64::from(BASE) + 4);
        assert_eq!(read(&memory, BASE.into(), file.len()), file);

        // From the header on, up to an end, with bss.
        let file = flat([BASE, BASE, BASE + 40, BASE + 0x5000, BASE + 32]);
        let memory = crate::loader::testing::memory(4);
        load(&request(file.clone(), &memory)).unwrap();
        assert_eq!(read(&memory, BASE.into(), 40), file[16..56]);
        assert_eq!(read(&memory, u64::from(BASE) + 40, 60), [0; 60]);

        for addresses in [
            [BASE, BASE + 1, 0, 0, BASE],             // header below the load address
            [BASE + 17, BASE, 0, 0, BASE],            // more before the header than there is
            [BASE, BASE, BASE - 1, 0, BASE],          // ends below its start
            [BASE, BASE, BASE + bytes, 0, BASE],      // ends behind the file
            [BASE, BASE, BASE + 40, BASE + 39, BASE], // bss ends before the data
            [BASE, BASE, 0, 0, BASE - 1],             // entry outside
            [BASE, BASE, 0, 0, BASE + bytes - 16],    // entry behind
        ] {
            let error = try_load(flat(addresses), 4).unwrap_err();
            assert!(matches!(error, LoadError::Malformed { .. }), "{addresses:x?}: {error}");
        }
        let outside = flat([0x40_0000; 5].map(|gpa| gpa));
        let error = try_load(
            [&outside[..16], &multiboot_header(1 << 16, &[0x40_0000, 0x40_0000, 0, 0, 0x40_0000])].concat(),
            4,
        );
        assert!(matches!(error, Err(LoadError::OutsideMemory { .. })));
    }

    #[test]
    fn only_a_whole_header_with_the_right_checksum_counts() {
        let find = |head: &[u8]| Header::find(&KernelImage::builtin(head.to_vec()), head);
        let header = multiboot_header(0, &[]);
        assert!(find(&header).unwrap().is_some());
        assert!(find(&header[..11]).unwrap().is_none());
        assert!(find(&[&[0; 4][..], &header].concat()).unwrap().is_some());
        assert!(find(&[&[0; 2][..], &header].concat()).unwrap().is_none());
        assert!(find(&[&[0; 8180][..], &header].concat()).unwrap().is_some());
        assert!(find(&[&[0; 8184][..], &header].concat()).unwrap().is_none());
        let mut wrong = header.clone();
        wrong[8] ^= 1;
        assert!(find(&wrong).unwrap().is_none());
        assert!(matches!(find(&multiboot_header(1 << 5, &[])), Err(LoadError::Unsupported { .. })));
        assert!(matches!(find(&multiboot_header(1 << 16, &[0; 4])), Err(LoadError::Malformed { .. })));
        assert!(try_load(header, 4).unwrap_err().to_string().contains("no addresses"));
    }

    #[test]
    fn address_fields_stand_for_themselves_in_an_elf_file() {
        let header = multiboot_header(1 << 16, &[BASE + 0x100, BASE, 0, 0, BASE]);
        let mut file = elf32(0, &[part(BASE.into(), &[0x90; 600])]);
        file.resize(0x100, 0);
        file.extend(header);
        for damage in [20, 42] {
            let mut file = file.clone();
            file[damage] ^= 0x40;
            let memory = memory(4);
            let state = load(&request(file.clone(), &memory)).unwrap();
            assert_eq!(registers(&state).0.rip, u64::from(BASE));
            assert_eq!(read(&memory, BASE.into(), file.len()), file);
        }
    }

    #[test]
    fn elf64_prefers_pvh_and_is_else_loaded_too() {
        let parts = [part(BASE.into(), &elf_content())];
        let protocol = |note| try_load(elf64(BASE.into(), &parts, note), 4).unwrap().protocol;
        assert_eq!(protocol(None), "Multiboot ELF");
        assert_eq!(protocol(Some(&pvh_note(BASE))), "ELF through its PVH note");
    }

    #[test]
    fn everything_gives_way_to_a_kernel_that_is_loaded_low() {
        let content = [&multiboot_header(3, &[])[..], &vec![0x90; 0x9_8000]].concat();
        let memory = memory(4);
        let state = load(&request(elf32(0x600, &[part(0x400, &content)]), &memory)).unwrap();
        assert!(read(&memory, 0x400, content.len()) == content);
        let (regs, _) = registers(&state);
        assert_eq!(read_string(&memory, read_u32(&memory, regs.rbx + 64).into()), "vm-accel");
    }
}

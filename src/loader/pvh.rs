//! The PVH boot protocol: a 32-bit entry point in a Xen note, and the start information that the
//! kernel finds by ebx (Xen: docs/misc/pvh.pandoc, public/arch-x86/hvm/start_info.h).
#![forbid(unsafe_code)]

use super::LoadRequest;
use super::elf::{Elf, Note};
use super::error::LoadError;
use super::image::write;
use super::layout::{self, Placement, memory_map};
use super::{cmdline, initrd, start, version};
use crate::accel::{X86Regs, X86SpecialRegs};
use crate::memory::MMIO_HOLE_START;

/// The note that names the operating system.
const XEN_ELFNOTE_GUEST_OS: u32 = 6;
/// The note that has the entry point.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
const START_INFO_MAGIC: u32 = 0x336E_C578;
const START_INFO_BYTES: usize = 56;
const MODULE_BYTES: usize = 32;
const MEMMAP_ENTRY_BYTES: usize = 24;

/// The PVH entry point, if this note has it.
#[must_use]
pub fn entry(note: &Note<'_>) -> Option<u32> {
    if note.name != b"Xen" || note.kind != XEN_ELFNOTE_PHYS32_ENTRY {
        return None;
    }
    match note.content.len() {
        4 => note.content.first_chunk().copied().map(u32::from_le_bytes),
        8 => u32::try_from(u64::from_le_bytes(*note.content.first_chunk()?)).ok(),
        _ => None,
    }
}

/// Whether this note says that the kernel is Linux.
#[must_use]
pub fn is_linux(note: &Note<'_>) -> bool {
    note.name == b"Xen" && note.kind == XEN_ELFNOTE_GUEST_OS && note.content.starts_with(b"linux")
}

/// Whether Linux of this version takes others than Xen for who starts it by PVH, as it does from 5.0 on. An
/// older one faults at once, and has another entry.
#[must_use]
pub fn is_for_all(version: Option<&str>) -> bool {
    version.and_then(version::major).is_none_or(|major| major >= 5)
}

/// Gives the kernel its start information, command line, initrd and modules, and answers its start
/// state. The initrd is the first module.
pub fn boot(
    request: &LoadRequest,
    placement: &mut Placement<'_>,
    elf: &Elf,
    entry: u32,
    cmdline_limit: usize,
) -> Result<(X86Regs, X86SpecialRegs), LoadError> {
    let memory = request.memory;
    if !elf.contains(entry.into()) {
        return Err(LoadError::Malformed {
            name: request.kernel.name().to_owned(),
            format: "PVH kernel",
            reason: format!("its PVH entry point {entry:#x} lies in none of its segments"),
        });
    }
    let cmdline = cmdline::load(request, placement, cmdline_limit)?;
    let mut modules: Vec<_> = initrd::load(request, placement, MMIO_HOLE_START)?.into_iter().collect();
    modules.extend(initrd::load_modules(request, placement, layout::HIGH_RAM)?);
    let map = memory_map(memory);

    let module_list = START_INFO_BYTES.next_multiple_of(8);
    let memmap = module_list + modules.len() * MODULE_BYTES;
    let strings = memmap + map.len() * MEMMAP_ENTRY_BYTES;
    let bytes = strings + modules.iter().map(|module| module.string.len()).sum::<usize>();
    let base = placement.place("the PVH start information", layout::START_INFO, bytes as u64)?;
    let at = |offset: usize| base + offset as u64;

    let mut block = Vec::with_capacity(bytes);
    block.extend(START_INFO_MAGIC.to_le_bytes());
    block.extend(1_u32.to_le_bytes()); // version: there is a memory map
    block.extend(0_u32.to_le_bytes()); // flags
    block.extend((modules.len() as u32).to_le_bytes());
    block.extend(if modules.is_empty() { 0 } else { at(module_list) }.to_le_bytes());
    block.extend(u64::from(cmdline).to_le_bytes());
    block.extend(request.rsdp.unwrap_or(0).to_le_bytes());
    block.extend(at(memmap).to_le_bytes());
    block.extend((map.len() as u32).to_le_bytes());
    block.extend(0_u32.to_le_bytes());
    let mut string = strings;
    for module in &modules {
        block.extend(u64::from(module.gpa).to_le_bytes());
        block.extend(u64::from(module.bytes).to_le_bytes());
        block.extend(if module.string.is_empty() { 0 } else { at(string) }.to_le_bytes());
        block.extend(0_u64.to_le_bytes());
        string += module.string.len();
    }
    for range in &map {
        block.extend(range.start.to_le_bytes());
        block.extend(range.bytes.to_le_bytes());
        block.extend((range.kind as u32).to_le_bytes());
        block.extend(0_u32.to_le_bytes());
    }
    block.extend(modules.iter().flat_map(|module| &module.string));
    write(memory, base, &block)?;

    let (mut regs, special) = start::protected_mode(memory, placement, entry)?;
    regs.rbx = base;
    Ok((regs, special))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Module;
    use crate::loader::testing::{
        VMLINUX_PVH_ENTRY, bzimage, elf64, memory, part, pvh_note, read, read_string, read_u32, read_u64,
        registers, request, try_load, vmlinux,
    };
    use crate::loader::{KernelImage, load};

    #[test]
    fn the_start_information_tells_the_machine() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"content").unwrap();
        let modules = [Module { path: file.path().to_owned(), cmdline: "a module".to_owned() }];
        let initrd = KernelImage::open(file.path()).unwrap();
        let memory = memory(32);
        let request = LoadRequest {
            initrd: Some(&initrd),
            modules: &modules,
            rsdp: Some(layout::ACPI),
            ..request(vmlinux(true), &memory)
        };
        let state = load(&request).unwrap();
        let (regs, special) = registers(&state);
        assert_eq!(state.protocol, "ELF through its PVH note");
        assert_eq!((regs.rip, special.cr0, special.cr4), (u64::from(VMLINUX_PVH_ENTRY), 0x11, 0));
        assert_eq!((special.cs.base, special.cs.limit, special.cs.db), (0, u32::MAX, true));
        assert_eq!((special.tr.base, special.tr.limit), (0, 0x67));

        let info = regs.rbx;
        assert_eq!((read_u32(&memory, info), read_u32(&memory, info + 4)), (0x336E_C578, 1));
        assert_eq!(read_u32(&memory, info + 12), 2);
        assert_eq!(read_string(&memory, read_u64(&memory, info + 24)), "console=ttyS0");
        assert_eq!(read_u64(&memory, info + 32), layout::ACPI);
        let list = read_u64(&memory, info + 16);
        for module in [list, list + 32] {
            assert_eq!(read_u64(&memory, module + 8), 7);
            assert_eq!(read(&memory, read_u64(&memory, module), 7), b"content");
        }
        assert_eq!(read_u64(&memory, list + 16), 0);
        assert_eq!(read_string(&memory, read_u64(&memory, list + 48)), "a module");
        let (map, entries) = (read_u64(&memory, info + 40), read_u32(&memory, info + 48));
        assert_eq!(entries, 3);
        assert_eq!(read_u64(&memory, map + 48), layout::HIGH_RAM);
        assert_eq!(read_u32(&memory, map + 48 + 16), 1);
    }

    #[test]
    fn an_entry_point_outside_of_the_kernel_is_refused() {
        let file = elf64(0x10_0000, &[part(0x10_0000, &[0x90; 64])], Some(&pvh_note(0x10_0040)));
        assert!(try_load(file, 4).unwrap_err().to_string().contains("PVH entry point"));
    }

    #[test]
    fn structures_give_way_to_a_kernel_that_is_loaded_low() {
        let content = vec![0x90; 0x9_0000];
        let file = elf64(0x1000, &[part(0x500, &content)], Some(&pvh_note(0x1000)));
        let memory = memory(4);
        let state = load(&request(file, &memory)).unwrap();
        assert!(read(&memory, 0x500, content.len()) == content);
        assert_eq!(read_u32(&memory, registers(&state).0.rbx), START_INFO_MAGIC);
    }

    /// A note by which a kernel says that it is Linux.
    fn linux_note() -> Vec<u8> {
        let head = [4, 6, XEN_ELFNOTE_GUEST_OS].iter().flat_map(|field: &u32| field.to_le_bytes());
        head.chain(*b"Xen\0linux\0\0\0").collect()
    }

    #[test]
    fn the_entry_point_of_an_old_linux_is_for_xen_only() {
        let pvh = "ELF through its PVH note";
        let linux = "ELF through its 64-bit entry";
        for (version, notes, protocol) in [
            ("4.15.0-20", [linux_note(), pvh_note(0x10_0000)], linux),
            ("4.15.0-20", [pvh_note(0x10_0000), linux_note()], linux),
            ("5.0.0", [linux_note(), pvh_note(0x10_0000)], pvh),
            // Not Linux, whatever it says.
            ("4.15.0-20", [vec![], pvh_note(0x10_0000)], pvh),
            ("", [linux_note(), pvh_note(0x10_0000)], pvh),
        ] {
            let content = format!("Linux version {version}\n");
            let file = elf64(0x10_0000, &[part(0x10_0000, content.as_bytes())], Some(&notes.concat()));
            assert_eq!(try_load(file, 4).unwrap().protocol, protocol, "{version}");
        }
        let mut old = bzimage(&vmlinux(true));
        let version = 0x300..0x300 + 5;
        assert_eq!(&old[version.clone()], b"9.8.7");
        assert!(try_load(old.clone(), 32).unwrap().protocol.ends_with("PVH note"));
        old[version].copy_from_slice(b"4.8.7");
        assert!(try_load(old, 32).unwrap().protocol.ends_with("inside through its 64-bit entry"));
    }
}

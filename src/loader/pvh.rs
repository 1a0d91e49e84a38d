//! The PVH boot protocol: a 32-bit entry point in a Xen note, and the start information that the
//! kernel finds by ebx (Xen: docs/misc/pvh.pandoc, public/arch-x86/hvm/start_info.h).
#![forbid(unsafe_code)]

use super::LoadRequest;
use super::elf::{Elf, Note};
use super::error::LoadError;
use super::image::write;
use super::layout::{self, Placement, memory_map};
use super::{cmdline, initrd, start};
use crate::accel::{X86Regs, X86SpecialRegs};
use crate::memory::MMIO_HOLE_START;

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

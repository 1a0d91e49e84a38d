//! The boot processor's start states: real mode, flat 32-bit protected mode, and long mode with
//! memory identity-mapped (Intel SDM vol. 3, chapters 2 to 4 and 9).
#![forbid(unsafe_code)]

use super::error::LoadError;
use super::image::write;
use super::layout::{self, Placement};
use crate::accel::{DescriptorTable, Segment, X86Regs, X86SpecialRegs};
use crate::memory::GuestMemory;

/// Selectors of Linux's boot protocol (`__BOOT_CS`, `__BOOT_DS`), and a TSS behind them.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TSS_SELECTOR: u16 = 0x20;

const CR0_PE: u64 = 1;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 of RFLAGS, which is always set; interrupts are off.
const RFLAGS: u64 = 2;
/// The boot processor's local APIC, enabled at its default address.
const APIC_BASE: u64 = 0xFEE0_0900;

const PAGE_PRESENT_WRITABLE: u64 = 3;
const PAGE_LARGE: u64 = 1 << 7;
const GIB: u64 = 1 << 30;
/// RAM behind this is not identity-mapped: it would cost page tables that no kernel needs to start.
pub const IDENTITY_MAP_MAX: u64 = 64 * GIB;

/// 16-bit real mode at `cs:ip`, with a stack.
pub fn real_mode(cs: u16, ip: u16, ss: u16, sp: u16) -> (X86Regs, X86SpecialRegs) {
    let segment = |selector: u16, type_| Segment {
        base: u64::from(selector) << 4,
        limit: 0xFFFF,
        selector,
        type_,
        present: true,
        s: true,
        ..Segment::default()
    };
    let data = segment(0, 3);
    let regs = X86Regs { rip: ip.into(), rsp: sp.into(), rflags: RFLAGS, ..X86Regs::default() };
    let special = X86SpecialRegs {
        cs: segment(cs, 0xB),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: segment(ss, 3),
        tr: Segment { limit: 0xFFFF, ..task_segment(0) },
        ldt: no_ldt(),
        idt: DescriptorTable { base: 0, limit: 0x3FF },
        gdt: DescriptorTable { base: 0, limit: 0xFFFF },
        cr0: CR0_ET,
        apic_base: APIC_BASE,
        ..X86SpecialRegs::default()
    };
    (regs, special)
}

/// 32-bit protected mode with flat segments, paging off, interrupts off.
pub fn protected_mode(
    memory: &GuestMemory,
    placement: &mut Placement<'_>,
    entry: u32,
) -> Result<(X86Regs, X86SpecialRegs), LoadError> {
    let code = Segment { db: true, ..flat_segment(CODE_SELECTOR, 0xB) };
    let special = X86SpecialRegs { cr0: CR0_PE | CR0_ET, ..segmented(memory, placement, code)? };
    Ok((X86Regs { rip: entry.into(), rflags: RFLAGS, ..X86Regs::default() }, special))
}

/// Long mode with the first 4 GiB and RAM up to `IDENTITY_MAP_MAX` identity-mapped by 2 MiB pages,
/// SSE enabled, interrupts off.
pub fn long_mode(
    memory: &GuestMemory,
    placement: &mut Placement<'_>,
    entry: u64,
) -> Result<(X86Regs, X86SpecialRegs), LoadError> {
    let code = Segment { l: true, ..flat_segment(CODE_SELECTOR, 0xB) };
    let special = X86SpecialRegs {
        cr0: CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_PG,
        cr3: identity_map(memory, placement)?,
        cr4: CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT,
        efer: EFER_LME | EFER_LMA,
        ..segmented(memory, placement, code)?
    };
    Ok((X86Regs { rip: entry, rflags: RFLAGS, ..X86Regs::default() }, special))
}

/// Places a stack and answers its initial stack pointer.
pub fn stack(placement: &mut Placement<'_>) -> Result<u64, LoadError> {
    let gpa = placement.place("the stack", layout::STACK, layout::STACK_BYTES)?;
    Ok(gpa + layout::STACK_BYTES)
}

/// Writes the GDT for `code` and flat data segments, and answers the segment registers.
fn segmented(
    memory: &GuestMemory,
    placement: &mut Placement<'_>,
    code: Segment,
) -> Result<X86SpecialRegs, LoadError> {
    let data = Segment { db: true, ..flat_segment(DATA_SELECTOR, 3) };
    let tr = task_segment(TSS_SELECTOR);
    // A 64-bit TSS descriptor is two entries long; the second one is its base's upper half.
    let entries = [0, 0, descriptor(&code), descriptor(&data), descriptor(&tr), 0];
    let table: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    let base = placement.place("the GDT", layout::GDT, table.len() as u64)?;
    write(memory, base, &table)?;
    Ok(X86SpecialRegs {
        cs: code,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr,
        ldt: no_ldt(),
        gdt: DescriptorTable { base, limit: (size_of_val(&entries) - 1) as u16 },
        apic_base: APIC_BASE,
        ..X86SpecialRegs::default()
    })
}

fn flat_segment(selector: u16, type_: u8) -> Segment {
    Segment { limit: u32::MAX, selector, type_, present: true, s: true, g: true, ..Segment::default() }
}

/// A busy TSS at base 0, of the least length.
fn task_segment(selector: u16) -> Segment {
    Segment { limit: 0x67, selector, type_: 0xB, present: true, ..Segment::default() }
}

fn no_ldt() -> Segment {
    Segment { unusable: true, type_: 2, ..Segment::default() }
}

/// The descriptor of a segment (Intel SDM vol. 3, 3.4.5).
fn descriptor(segment: &Segment) -> u64 {
    let limit = u64::from(if segment.g { segment.limit >> 12 } else { segment.limit });
    let flag = |value: bool, bit: u32| u64::from(value) << bit;
    (limit & 0xFFFF)
        | ((segment.base & 0xFF_FFFF) << 16)
        | (u64::from(segment.type_ & 0xF) << 40)
        | flag(segment.s, 44)
        | (u64::from(segment.dpl & 3) << 45)
        | flag(segment.present, 47)
        | (((limit >> 16) & 0xF) << 48)
        | flag(segment.avl, 52)
        | flag(segment.l, 53)
        | flag(segment.db, 54)
        | flag(segment.g, 55)
        | (((segment.base >> 24) & 0xFF) << 56)
}

/// Writes the identity-mapping page tables and answers the PML4's address.
fn identity_map(memory: &GuestMemory, placement: &mut Placement<'_>) -> Result<u64, LoadError> {
    let end = layout::ram_end(memory).clamp(4 * GIB, IDENTITY_MAP_MAX);
    let directories = end.div_ceil(GIB);
    let bytes = (2 + directories) * 0x1000;
    let pml4 = placement.place("the page tables", layout::PAGE_TABLES, bytes)?;
    let (pdpt, first_directory) = (pml4 + 0x1000, pml4 + 0x2000);
    write(memory, pml4, &(pdpt | PAGE_PRESENT_WRITABLE).to_le_bytes())?;
    let pointers = (0..directories).map(|i| (first_directory + i * 0x1000) | PAGE_PRESENT_WRITABLE);
    write(memory, pdpt, &pointers.flat_map(u64::to_le_bytes).collect::<Vec<u8>>())?;
    let pages = (0..directories * 512).map(|i| (i << 21) | PAGE_PRESENT_WRITABLE | PAGE_LARGE);
    write(memory, first_directory, &pages.flat_map(u64::to_le_bytes).collect::<Vec<u8>>())?;
    Ok(pml4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::testing::{memory, read_u64};

    #[test]
    fn the_gdt_has_the_descriptors_of_the_segment_registers() {
        let memory = memory(4);
        let (_, special) = protected_mode(&memory, &mut Placement::new(&memory, false), 0x10_0000).unwrap();
        assert_eq!(special.gdt, DescriptorTable { base: layout::GDT, limit: 47 });
        assert_eq!(read_u64(&memory, layout::GDT + 0x10), 0x00CF_9B00_0000_FFFF);
        assert_eq!(read_u64(&memory, layout::GDT + 0x18), 0x00CF_9300_0000_FFFF);
        assert_eq!(read_u64(&memory, layout::GDT + 0x20), 0x0000_8B00_0000_0067);
        assert_eq!((special.cr0, special.cr4, special.efer), (0x11, 0, 0));
    }

    #[test]
    fn long_mode_maps_the_first_4_gib_one_to_one() {
        let memory = memory(4);
        let (regs, special) = long_mode(&memory, &mut Placement::new(&memory, false), 0x10_0000).unwrap();
        assert_eq!((regs.rip, regs.rflags), (0x10_0000, 2));
        assert_eq!(special.efer, 0x500);
        assert!(special.cs.l && !special.cs.db);
        assert_eq!(read_u64(&memory, layout::GDT + 0x10), 0x00AF_9B00_0000_FFFF);
        for address in [0_u64, 0x20_0000, 0xFEE0_0000, 0xFFFF_FFFF] {
            let entry = |table: u64, shift: u64| {
                let entry = read_u64(&memory, table + ((address >> shift) & 511) * 8);
                assert_eq!(entry & 3, 3);
                entry
            };
            let pdpt = entry(special.cr3, 39) & !0xFFF;
            let directory = entry(pdpt, 30) & !0xFFF;
            assert_eq!(entry(directory, 21), (address & !0x1F_FFFF) | 0x83);
        }
    }

    #[test]
    fn page_tables_that_meet_an_image_go_elsewhere() {
        let memory = memory(4);
        let mut placement = Placement::new(&memory, false);
        placement.fix("image", layout::PAGE_TABLES, 1).unwrap();
        let (_, special) = long_mode(&memory, &mut placement, layout::PAGE_TABLES).unwrap();
        assert_ne!(special.cr3, layout::PAGE_TABLES);
    }
}

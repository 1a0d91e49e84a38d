//! The task-state segment: inner stacks and task switches (Intel SDM vol. 3, chapter 8).

#![forbid(unsafe_code)]

use super::super::abort::{Exec, vector};
use super::super::flags::rflags;
use super::super::state::{Cpu, cr0, seg};
use super::access::{self, system_read, system_write};
use super::descriptor::{self, Descriptor, system};
use super::segments::{self, Blame, selector_code};
use super::stack::{RSP, Stack};
use super::{control_registers, tables};
use crate::accel::Segment;

/// The busy bit of a TSS descriptor's type.
const BUSY: u8 = 2;
/// The bit of a TSS's type that tells 32 bits from 16.
const WIDE: u8 = 8;

/// The limits that a TSS must have at least.
const LIMIT32: u32 = 0x67;
const LIMIT16: u32 = 0x2b;

fn read_tss(cpu: &mut Cpu, offset: u32, size: u8, ext: u32) -> Exec<u64> {
    let last = offset.saturating_add(u32::from(size) - 1);
    if last > cpu.tr.limit {
        return cpu.raise(vector::TS, Some(selector_code(cpu.tr.selector) | ext));
    }
    system_read(cpu, cpu.tr.base.wrapping_add(u64::from(offset)), size)
}

/// RSP for privilege level `cpl`, in IA-32e mode.
///
/// # Errors
/// #TS if the TSS is too short; #SS(EXT) for an address that is not canonical.
pub fn long_stack(cpu: &mut Cpu, cpl: u8, ext: u32) -> Exec<u64> {
    let pointer = read_tss(cpu, 4 + 8 * u32::from(cpl), 8, ext)?;
    canonical_stack(cpu, pointer, ext)
}

/// RSP of entry `ist` (1 to 7) of the interrupt stack table.
///
/// # Errors
/// As for `long_stack`.
pub fn interrupt_stack(cpu: &mut Cpu, ist: u8, ext: u32) -> Exec<u64> {
    let pointer = read_tss(cpu, 28 + 8 * u32::from(ist), 8, ext)?;
    canonical_stack(cpu, pointer, ext)
}

fn canonical_stack(cpu: &mut Cpu, pointer: u64, ext: u32) -> Exec<u64> {
    if access::is_canonical(pointer) { Ok(pointer) } else { cpu.raise(vector::SS, Some(ext)) }
}

/// SS and ESP for privilege level `cpl`, outside IA-32e mode.
///
/// # Errors
/// #TS if the TSS is too short.
pub fn legacy_stack(cpu: &mut Cpu, cpl: u8, ext: u32) -> Exec<(u16, u64)> {
    let level = u32::from(cpl);
    let (pointer, segment, size) = if cpu.tr.type_ & WIDE == 0 {
        (2 + 4 * level, 4 + 4 * level, 2)
    } else {
        (4 + 8 * level, 8 + 8 * level, 4)
    };
    let selector = read_tss(cpu, segment, 2, ext)? as u16;
    Ok((selector, read_tss(cpu, pointer, size, ext)?))
}

/// What switches tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// JMP.
    Jump,
    /// CALL.
    Call,
    /// An event through a task gate.
    Interrupt,
    /// IRET with NT set.
    Return,
}

/// Switches to the task that a task gate in the IDT names.
///
/// # Errors
/// The faults of the switch.
pub fn interrupt(cpu: &mut Cpu, selector: u16, return_rip: u64, error_code: Option<u32>, ext: u32) -> Exec {
    switch(cpu, selector, Switch::Interrupt, return_rip, ext)?;
    let Some(error_code) = error_code else { return Ok(()) };
    let size = if cpu.tr.type_ & WIDE == 0 { 2 } else { 4 };
    let mut stack = Stack::current(cpu).for_event().with_fault(ext);
    stack.push(cpu, size, u64::from(error_code))?;
    cpu.gpr[RSP] = stack.pointer;
    Ok(())
}

/// IRET with NT set: back to the task that the TSS links to.
///
/// # Errors
/// The faults of the switch.
pub fn interrupt_return(cpu: &mut Cpu) -> Exec {
    let selector = read_tss(cpu, 0, 2, 0)? as u16;
    let next_rip = cpu.next_rip;
    switch(cpu, selector, Switch::Return, next_rip, 0)
}

/// The registers that a TSS holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Image {
    cr3: u64,
    eip: u64,
    eflags: u64,
    gpr: [u64; 8],
    /// ES, CS, SS, DS, FS, GS.
    selectors: [u16; 6],
    ldt: u16,
    trap: bool,
}

/// Offsets and field sizes of the two forms of TSS.
struct Layout {
    eip: u64,
    step: u64,
    selectors: u64,
    segments: usize,
    ldt: u64,
}

const TSS16: Layout = Layout { eip: 14, step: 2, selectors: 34, segments: 4, ldt: 42 };
const TSS32: Layout = Layout { eip: 32, step: 4, selectors: 72, segments: 6, ldt: 96 };

fn layout(type_: u8) -> &'static Layout {
    if type_ & WIDE == 0 { &TSS16 } else { &TSS32 }
}

/// Reads the registers of the task whose TSS is at `base`.
fn read_image(cpu: &mut Cpu, base: u64, type_: u8) -> Exec<Image> {
    let layout = layout(type_);
    let size = layout.step as u8;
    let mut image = Image {
        eip: system_read(cpu, base.wrapping_add(layout.eip), size)?,
        eflags: system_read(cpu, base.wrapping_add(layout.eip + layout.step), size)?,
        ..Image::default()
    };
    for (i, register) in (2..).zip(image.gpr.iter_mut()) {
        *register = system_read(cpu, base.wrapping_add(layout.eip + i * layout.step), size)?;
        if size == 2 {
            // The upper halves are not defined; all-ones is what the processors do.
            *register |= 0xffff_0000;
        }
    }
    for (i, selector) in (0..).zip(image.selectors.iter_mut().take(layout.segments)) {
        *selector = system_read(cpu, base.wrapping_add(layout.selectors + i * layout.step), 2)? as u16;
    }
    image.ldt = system_read(cpu, base.wrapping_add(layout.ldt), 2)? as u16;
    if size == 4 {
        image.cr3 = system_read(cpu, base.wrapping_add(28), 4)?;
        image.trap = system_read(cpu, base.wrapping_add(100), 2)? & 1 != 0;
    }
    Ok(image)
}

/// Writes the registers of the current task to its TSS.
fn save_image(cpu: &mut Cpu, eip: u64, eflags: u64) -> Exec {
    let layout = layout(cpu.tr.type_);
    let size = layout.step as u8;
    let base = cpu.tr.base;
    system_write(cpu, base.wrapping_add(layout.eip), size, eip)?;
    system_write(cpu, base.wrapping_add(layout.eip + layout.step), size, eflags)?;
    for i in 0..8 {
        let value = cpu.gpr[i];
        system_write(cpu, base.wrapping_add(layout.eip + (2 + i as u64) * layout.step), size, value)?;
    }
    for i in 0..layout.segments {
        let selector = u64::from(cpu.seg[i].selector);
        system_write(cpu, base.wrapping_add(layout.selectors + i as u64 * layout.step), 2, selector)?;
    }
    Ok(())
}

/// Switches to the task of a TSS. The caller has checked privileges.
///
/// # Errors
/// The faults of the switch: #GP or #TS before it, in the old task; #TS, #NP and so on after it, in the
/// new one, whose registers are then in place.
pub fn switch(cpu: &mut Cpu, selector: u16, how: Switch, next_rip: u64, ext: u32) -> Exec {
    let code = Some(selector_code(selector) | ext);
    let bad = if how == Switch::Return { vector::TS } else { vector::GP };
    let wanted = if how == Switch::Return { BUSY } else { 0 };
    let in_gdt = !descriptor::is_null(selector) && selector & 4 == 0;
    let Some(address) = segments::descriptor_address(cpu, selector, 8).filter(|_| in_gdt) else {
        return cpu.raise(bad, code);
    };
    let mut tss = Descriptor(system_read(cpu, address, 8)?);
    let is_tss = matches!(tss.type_() & !BUSY, system::TSS16 | system::TSS);
    if tss.is_segment() || !is_tss || tss.type_() & BUSY != wanted {
        return cpu.raise(bad, code);
    }
    if !tss.present() {
        return cpu.raise(vector::NP, code);
    }
    let wide = tss.type_() & WIDE != 0;
    if tss.limit() < if wide { LIMIT32 } else { LIMIT16 } || cpu.tr.unusable {
        return cpu.raise(vector::TS, code);
    }
    let base = u64::from(tss.base());
    let mut image = read_image(cpu, base, tss.type_())?;
    let mut eflags = cpu.rflags();
    if how == Switch::Return {
        eflags &= !rflags::NT;
    }
    save_image(cpu, next_rip, eflags)?;
    if matches!(how, Switch::Jump | Switch::Return) {
        set_busy(cpu, false)?;
    }
    if matches!(how, Switch::Call | Switch::Interrupt) {
        let link = u64::from(cpu.tr.selector);
        system_write(cpu, base, 2, link)?;
        image.eflags |= rflags::NT;
    }
    tss.0 |= u64::from(BUSY) << 40;
    system_write(cpu, address, 8, tss.0)?;
    cpu.tr = tss.segment(selector);
    load_image(cpu, &image, wide, ext)
}

/// Sets or clears the busy bit of the current task's descriptor.
fn set_busy(cpu: &mut Cpu, busy: bool) -> Exec {
    let Some(address) = segments::descriptor_address(cpu, cpu.tr.selector, 8) else { return Ok(()) };
    let byte = address.wrapping_add(5);
    let value = system_read(cpu, byte, 1)?;
    let bit = u64::from(BUSY);
    system_write(cpu, byte, 1, if busy { value | bit } else { value & !bit })
}

/// Takes over the registers of the new task.
fn load_image(cpu: &mut Cpu, image: &Image, wide: bool, ext: u32) -> Exec {
    cpu.cr0 |= cr0::TS;
    if wide && cpu.cr0 & cr0::PG != 0 {
        control_registers::set_cr3(cpu, image.cr3);
    }
    for (register, value) in cpu.gpr.iter_mut().zip(image.gpr) {
        *register = value;
    }
    cpu.rip = image.eip;
    let flags = if wide { image.eflags } else { image.eflags & 0xffff };
    cpu.set_rflags(flags);
    // Selectors first: a fault from here on is the new task's, which shows them.
    for (register, selector) in cpu.seg.iter_mut().zip(image.selectors) {
        *register = segments::null(selector, 0);
    }
    cpu.dr[7] &= !0x155;
    cpu.ldt = Segment { selector: image.ldt, unusable: true, ..Segment::default() };
    let new_cpl = descriptor::rpl(image.selectors[seg::CS]);
    if flags & rflags::VM != 0 {
        for (register, selector) in cpu.seg.iter_mut().zip(image.selectors) {
            *register = segments::virtual8086(selector);
        }
        cpu.update_mode();
        cpu.ldt = tables::local_table(cpu, image.ldt, Blame::Tss(ext))?;
    } else {
        cpu.cpl = new_cpl;
        cpu.update_mode();
        cpu.ldt = tables::local_table(cpu, image.ldt, Blame::Tss(ext))?;
        let code = code_segment(cpu, image.selectors[seg::CS], ext)?;
        cpu.seg[seg::CS] = code;
        cpu.update_mode();
        let stack = segments::stack_segment(cpu, image.selectors[seg::SS], new_cpl, false, Blame::Tss(ext))?;
        segments::set(cpu, seg::SS, stack);
        for index in [seg::ES, seg::DS, seg::FS, seg::GS] {
            let data = segments::data_segment(cpu, image.selectors[index], new_cpl, Blame::Tss(ext))?;
            segments::set(cpu, index, data);
        }
    }
    if cpu.rip > u64::from(cpu.seg[seg::CS].limit) {
        return cpu.raise(vector::GP, Some(ext));
    }
    if image.trap {
        cpu.dr[6] |= super::debug_registers::BT;
        return cpu.raise(vector::DB, None);
    }
    Ok(())
}

/// The checks of a new task's CS.
fn code_segment(cpu: &mut Cpu, selector: u16, ext: u32) -> Exec<Segment> {
    let code = Some(selector_code(selector) | ext);
    let found = if descriptor::is_null(selector) { None } else { segments::read_descriptor(cpu, selector)? };
    let Some(mut descriptor) = found else {
        return cpu.raise(vector::TS, code);
    };
    let rpl = descriptor::rpl(selector);
    let privileged =
        if descriptor.is_conforming() { descriptor.dpl() > rpl } else { descriptor.dpl() != rpl };
    if !descriptor.is_code() || privileged {
        return cpu.raise(vector::TS, code);
    }
    if !descriptor.present() {
        return cpu.raise(vector::NP, code);
    }
    segments::mark_accessed(cpu, selector, &mut descriptor)?;
    Ok(descriptor.segment(selector))
}

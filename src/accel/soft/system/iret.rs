//! IRET in all its directions (Intel SDM vol. 2, IRET).

#![forbid(unsafe_code)]

use super::super::abort::Exec;
use super::super::flags::rflags;
use super::super::state::{Cpu, Mode, seg};
use super::far::{self, Return};
use super::segments;
use super::stack::{RSP, Stack};
use super::task;

/// What any program may change.
const ORDINARY: u64 = rflags::ARITHMETIC | rflags::TF | rflags::DF | rflags::NT;
/// What any program may change with a 32-bit or 64-bit operand.
const WIDE: u64 = rflags::RF | rflags::AC | rflags::ID;

/// IRET with an operand of `size` bytes.
///
/// # Errors
/// The faults of the return.
pub fn iret(cpu: &mut Cpu, size: u8) -> Exec {
    match cpu.mode {
        Mode::Real => flat(cpu, size, rflags::IF | rflags::IOPL)?,
        Mode::Virtual8086 => {
            if cpu.iopl() < 3 {
                return cpu.general_protection();
            }
            flat(cpu, size, rflags::IF)?;
        }
        Mode::Protected | Mode::Long => protected(cpu, size)?,
    }
    if std::mem::replace(&mut cpu.system.nmi_blocked, false) {
        cpu.lapic.merge_nmis();
    }
    Ok(())
}

fn flat(cpu: &mut Cpu, size: u8, privileged: u64) -> Exec {
    let mut stack = Stack::current(cpu);
    let offset = stack.pop(cpu, size)?;
    let selector = stack.pop(cpu, size)? as u16;
    let flags = stack.pop(cpu, size)?;
    if offset > u64::from(cpu.seg[seg::CS].limit) {
        return cpu.general_protection();
    }
    segments::load(cpu, seg::CS, selector)?;
    cpu.rip = offset;
    cpu.gpr[RSP] = stack.pointer;
    let changed = ORDINARY | privileged | if size == 2 { 0 } else { WIDE };
    set_flags(cpu, flags, changed);
    Ok(())
}

fn protected(cpu: &mut Cpu, size: u8) -> Exec {
    if cpu.rflags() & rflags::NT != 0 {
        return if cpu.long_mode_active() { cpu.general_protection() } else { task::interrupt_return(cpu) };
    }
    let mut stack = Stack::current(cpu);
    let offset = stack.pop(cpu, size)?;
    let selector = stack.pop(cpu, size)? as u16;
    let flags = stack.pop(cpu, size)?;
    let old_cpl = cpu.cpl;
    if size == 4 && flags & rflags::VM != 0 && old_cpl == 0 && !cpu.long_mode_active() {
        return to_virtual8086(cpu, stack, offset, selector, flags);
    }
    let mut changed = ORDINARY;
    if size != 2 {
        changed |= WIDE;
    }
    if old_cpl <= cpu.iopl() {
        changed |= rflags::IF;
    }
    if old_cpl == 0 {
        changed |= rflags::IOPL;
        if size != 2 {
            changed |= rflags::VIF | rflags::VIP;
        }
    }
    let always_stack = cpu.mode == Mode::Long;
    far::return_to(cpu, stack, Return { size, selector, offset, release: 0, always_stack })?;
    set_flags(cpu, flags, changed);
    Ok(())
}

fn to_virtual8086(cpu: &mut Cpu, mut stack: Stack, offset: u64, selector: u16, flags: u64) -> Exec {
    let pointer = stack.pop(cpu, 4)?;
    let mut selectors = [0u16; 5];
    for selector in &mut selectors {
        *selector = stack.pop(cpu, 4)? as u16;
    }
    if offset > 0xffff {
        return cpu.general_protection();
    }
    cpu.seg[seg::CS] = segments::virtual8086(selector);
    for (index, selector) in [seg::SS, seg::ES, seg::DS, seg::FS, seg::GS].into_iter().zip(selectors) {
        cpu.seg[index] = segments::virtual8086(selector);
    }
    cpu.rip = offset;
    cpu.gpr[RSP] = pointer;
    cpu.set_rflags(flags);
    cpu.update_mode();
    Ok(())
}

fn set_flags(cpu: &mut Cpu, value: u64, changed: u64) {
    cpu.set_rflags(cpu.rflags() & !changed | value & changed);
}

//! Fast system calls and the FS and GS bases.

#![forbid(unsafe_code)]

use iced_x86::Instruction;

use super::super::abort::Exec;
use super::super::flags::rflags;
use super::super::state::{Cpu, Mode, cr0, cr4, efer, seg};
use super::descriptor::type_bit;
use super::stack::RSP;
use super::{access, operand};
use crate::accel::Segment;

const RCX: usize = 1;
const RDX: usize = 2;
const R11: usize = 11;

/// The flags that SYSRET takes from R11.
const SYSRET_FLAGS: u64 = 0x003c_7fd7;

/// The flat segments that these instructions load without a look at the GDT.
fn flat_code(selector: u16, dpl: u8, long: bool) -> Segment {
    Segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: type_bit::CODE | type_bit::READABLE | type_bit::ACCESSED,
        dpl,
        present: true,
        db: !long,
        s: true,
        l: long,
        g: true,
        avl: false,
        unusable: false,
    }
}

fn flat_data(selector: u16, dpl: u8) -> Segment {
    Segment {
        type_: type_bit::WRITABLE | type_bit::ACCESSED,
        db: true,
        l: false,
        ..flat_code(selector, dpl, false)
    }
}

fn enter(cpu: &mut Cpu, code: u16, stack: u16, cpl: u8, long: bool) {
    cpu.seg[seg::CS] = flat_code(code, cpl, long);
    cpu.seg[seg::SS] = flat_data(stack, cpl);
    cpu.cpl = cpl;
    cpu.update_mode();
}

/// SYSCALL: in 64-bit mode, and in compatibility mode, where only AMD's processors have it; kernels that
/// find Intel's do not use it there, and test kernels do.
///
/// # Errors
/// #UD.
pub fn syscall(cpu: &mut Cpu) -> Exec {
    if !cpu.long_mode_active() || cpu.efer & efer::SCE == 0 {
        return cpu.undefined();
    }
    let flags = cpu.rflags();
    cpu.gpr[RCX] = cpu.next_rip;
    cpu.gpr[R11] = flags & !rflags::RF;
    cpu.rip = if cpu.mode == Mode::Long { cpu.system.msrs.lstar } else { cpu.system.msrs.cstar };
    cpu.set_rflags(flags & !cpu.system.msrs.sfmask & !rflags::RF);
    cpu.system.untraced = cpu.system.msrs.sfmask & rflags::TF != 0;
    let selector = (cpu.system.msrs.star >> 32) as u16;
    enter(cpu, selector & !3, selector.wrapping_add(8), 0, true);
    Ok(())
}

/// SYSRET.
///
/// # Errors
/// #UD; #GP(0) but at CPL 0, or for a return address that is not canonical.
pub fn sysret(cpu: &mut Cpu, long: bool) -> Exec {
    if cpu.mode != Mode::Long || cpu.efer & efer::SCE == 0 {
        return cpu.undefined();
    }
    cpu.require_cpl0()?;
    let target = cpu.gpr[RCX];
    if long && !access::is_canonical(target) {
        return cpu.general_protection();
    }
    cpu.rip = if long { target } else { target & 0xffff_ffff };
    cpu.set_rflags(cpu.gpr[R11] & SYSRET_FLAGS);
    let base = (cpu.system.msrs.star >> 48) as u16;
    let code = if long { base.wrapping_add(16) } else { base };
    enter(cpu, code | 3, base.wrapping_add(8) | 3, 3, long);
    if cpu.rflags_rest & rflags::TF != 0 {
        // Other instructions that set TF are followed by one that is not yet traced, this one is not.
        cpu.raise_single_step();
    }
    Ok(())
}

/// SYSENTER.
///
/// # Errors
/// #GP(0) in real mode or without a code segment.
pub fn sysenter(cpu: &mut Cpu) -> Exec {
    let selector = cpu.system.msrs.sysenter_cs as u16 & !3;
    if cpu.cr0 & cr0::PE == 0 || selector == 0 {
        return cpu.general_protection();
    }
    let long = cpu.long_mode_active();
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    cpu.rip = cpu.system.msrs.sysenter_eip & mask;
    cpu.gpr[RSP] = cpu.system.msrs.sysenter_esp & mask;
    cpu.set_rflags(cpu.rflags() & !(rflags::VM | rflags::IF | rflags::RF));
    enter(cpu, selector, selector.wrapping_add(8), 0, long);
    Ok(())
}

/// SYSEXIT.
///
/// # Errors
/// #GP(0) in real mode, without a code segment, but at CPL 0, or for addresses that are not canonical.
pub fn sysexit(cpu: &mut Cpu, long: bool) -> Exec {
    let selector = cpu.system.msrs.sysenter_cs as u16 & !3;
    if cpu.cr0 & cr0::PE == 0 || selector == 0 {
        return cpu.general_protection();
    }
    cpu.require_cpl0()?;
    let (rip, rsp) = (cpu.gpr[RDX], cpu.gpr[RCX]);
    if long && !(access::is_canonical(rip) && access::is_canonical(rsp)) {
        return cpu.general_protection();
    }
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    cpu.rip = rip & mask;
    cpu.gpr[RSP] = rsp & mask;
    let code = selector.wrapping_add(if long { 32 } else { 16 });
    enter(cpu, code | 3, code.wrapping_add(8) | 3, 3, long);
    Ok(())
}

/// SWAPGS.
///
/// # Errors
/// #UD outside 64-bit mode; #GP(0) but at CPL 0.
pub fn swapgs(cpu: &mut Cpu) -> Exec {
    if cpu.mode != Mode::Long {
        return cpu.undefined();
    }
    cpu.require_cpl0()?;
    std::mem::swap(&mut cpu.seg[seg::GS].base, &mut cpu.system.msrs.kernel_gs_base);
    Ok(())
}

fn require_fsgsbase(cpu: &mut Cpu) -> Exec {
    if cpu.mode == Mode::Long && cpu.cr4 & cr4::FSGSBASE != 0 { Ok(()) } else { cpu.undefined() }
}

/// RDFSBASE, RDGSBASE.
///
/// # Errors
/// #UD outside 64-bit mode or without CR4.FSGSBASE.
pub fn read_base(cpu: &mut Cpu, instruction: &Instruction, segment: usize) -> Exec {
    require_fsgsbase(cpu)?;
    let base = cpu.seg.get(segment).map_or(0, |s| s.base);
    operand::set_register(cpu, instruction.op0_register(), base);
    Ok(())
}

/// WRFSBASE, WRGSBASE.
///
/// # Errors
/// #UD as for `read_base`; #GP(0) for an address that is not canonical.
pub fn write_base(cpu: &mut Cpu, instruction: &Instruction, segment: usize) -> Exec {
    require_fsgsbase(cpu)?;
    let base = operand::register_value(cpu, instruction.op0_register());
    if !access::is_canonical(base) {
        return cpu.general_protection();
    }
    if let Some(register) = cpu.seg.get_mut(segment) {
        register.base = base;
    }
    Ok(())
}

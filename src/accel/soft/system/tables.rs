//! Descriptor tables and the instructions that look into them (Intel SDM vol. 3, 2.4 and 5.10).

#![forbid(unsafe_code)]

use iced_x86::{Instruction, OpKind};

use super::super::abort::{Exec, vector};
use super::super::flags::rflags;
use super::super::memory::Access;
use super::super::state::{Cpu, Mode, cr4};
use super::descriptor::{self, Descriptor, system};
use super::segments::{self, Blame, selector_code};
use super::{access, operand};
use crate::accel::{DescriptorTable, Segment};

/// Which register an instruction names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// GDTR.
    Gdt,
    /// IDTR.
    Idt,
}

/// LGDT, LIDT.
///
/// # Errors
/// #GP(0) but at CPL 0, or for a base that is not canonical; the faults of the load.
pub fn load(cpu: &mut Cpu, instruction: &Instruction, table: Table) -> Exec {
    cpu.require_cpl0()?;
    let long = cpu.mode == Mode::Long;
    let size = if long { 10 } else { 6 };
    let linear = operand::linear(cpu, instruction, 0, size, false)?;
    let limit = cpu.read_u16(linear, Access::Current)?;
    let at = linear.wrapping_add(2);
    let mut base =
        if long { cpu.read_u64(at, Access::Current)? } else { u64::from(cpu.read_u32(at, Access::Current)?) };
    if is_operand16(instruction) {
        base &= 0xff_ffff;
    }
    if !access::is_canonical(base) {
        return cpu.general_protection();
    }
    *register(cpu, table) = DescriptorTable { base, limit };
    Ok(())
}

/// SGDT, SIDT.
///
/// # Errors
/// #GP(0) for a user under UMIP; the faults of the store.
pub fn store(cpu: &mut Cpu, instruction: &Instruction, table: Table) -> Exec {
    require_umip(cpu)?;
    let DescriptorTable { base, limit } = *register(cpu, table);
    let size = if cpu.mode == Mode::Long { 8 } else { 4 };
    let linear = operand::linear(cpu, instruction, 0, 2 + size, true)?;
    let mut image = [0u8; 10];
    if let Some((low, high)) = image.split_first_chunk_mut() {
        *low = limit.to_le_bytes();
        high.copy_from_slice(&base.to_le_bytes());
    }
    cpu.write_bytes(linear, image.get(..2 + size as usize).unwrap_or_default(), Access::Current)
}

fn register(cpu: &mut Cpu, table: Table) -> &mut DescriptorTable {
    match table {
        Table::Gdt => &mut cpu.gdt,
        Table::Idt => &mut cpu.idt,
    }
}

fn is_operand16(instruction: &Instruction) -> bool {
    use iced_x86::Code;
    matches!(instruction.code(), Code::Lgdt_m1632_16 | Code::Lidt_m1632_16)
}

/// User-mode instruction prevention: the store instructions need CPL 0.
///
/// # Errors
/// #GP(0).
pub fn require_umip(cpu: &mut Cpu) -> Exec {
    if cpu.cr4 & cr4::UMIP != 0 && cpu.cpl != 0 { cpu.general_protection() } else { Ok(()) }
}

/// #UD in real and virtual-8086 mode.
fn require_protected(cpu: &mut Cpu) -> Exec {
    if matches!(cpu.mode, Mode::Protected | Mode::Long) { Ok(()) } else { cpu.undefined() }
}

/// SLDT, STR, and the like: a register operand takes the value zero-extended, memory takes 16 bits.
///
/// # Errors
/// The faults of the store.
pub fn store_word(cpu: &mut Cpu, instruction: &Instruction, value: u64) -> Exec {
    operand::write(cpu, instruction, 0, 2, value)
}

/// SLDT, or STR.
///
/// # Errors
/// #UD in real mode; #GP(0) for a user under UMIP; the faults of the store.
pub fn store_selector(cpu: &mut Cpu, instruction: &Instruction, task: bool) -> Exec {
    require_protected(cpu)?;
    require_umip(cpu)?;
    let selector = if task { cpu.tr.selector } else { cpu.ldt.selector };
    store_word(cpu, instruction, u64::from(selector))
}

/// Reads a system descriptor in the GDT: base of 64 bits in IA-32e mode.
fn system_descriptor(cpu: &mut Cpu, selector: u16, bad: u8, ext: u32) -> Exec<(Descriptor, u64, u64)> {
    let code = Some(selector_code(selector) | ext);
    let long = cpu.long_mode_active();
    let in_gdt = selector & 4 == 0;
    let size = if long { 16 } else { 8 };
    let Some(address) = segments::descriptor_address(cpu, selector, size).filter(|_| in_gdt) else {
        return cpu.raise(bad, code);
    };
    let descriptor = Descriptor(access::system_read(cpu, address, 8)?);
    let mut base = u64::from(descriptor.base());
    if long {
        let high = access::system_read(cpu, address.wrapping_add(8), 8)?;
        base |= high << 32;
        // The type field of the upper half must be zero.
        if high >> 40 & 0x1f != 0 || !access::is_canonical(base) {
            return cpu.raise(bad, code);
        }
    }
    Ok((descriptor, base, address))
}

/// LDTR as a selector makes it.
///
/// # Errors
/// The faults of LLDT, or those of a task switch.
pub fn local_table(cpu: &mut Cpu, selector: u16, blame: Blame) -> Exec<Segment> {
    let empty = Segment { selector, unusable: true, ..Segment::default() };
    let (bad, ext) = blame.vector_and_ext();
    if descriptor::is_null(selector) {
        return Ok(empty);
    }
    let (descriptor, base, _) = system_descriptor(cpu, selector, bad, ext)?;
    if descriptor.is_segment() || descriptor.type_() != system::LDT {
        return cpu.raise(bad, Some(selector_code(selector) | ext));
    }
    if !descriptor.present() {
        let not_present = if bad == vector::TS { vector::TS } else { vector::NP };
        return cpu.raise(not_present, Some(selector_code(selector) | ext));
    }
    Ok(Segment { base, ..descriptor.segment(selector) })
}

/// LLDT.
///
/// # Errors
/// #UD in real mode; #GP, #NP.
pub fn load_local(cpu: &mut Cpu, instruction: &Instruction) -> Exec {
    require_protected(cpu)?;
    cpu.require_cpl0()?;
    let selector = operand::read(cpu, instruction, 0, 2)? as u16;
    cpu.ldt = local_table(cpu, selector, Blame::Selector)?;
    Ok(())
}

/// LTR.
///
/// # Errors
/// #UD in real mode; #GP, #NP.
pub fn load_task(cpu: &mut Cpu, instruction: &Instruction) -> Exec {
    require_protected(cpu)?;
    cpu.require_cpl0()?;
    let selector = operand::read(cpu, instruction, 0, 2)? as u16;
    if descriptor::is_null(selector) {
        return cpu.general_protection();
    }
    let (mut descriptor, base, address) = system_descriptor(cpu, selector, vector::GP, 0)?;
    let available = match descriptor.type_() {
        system::TSS => true,
        system::TSS16 => !cpu.long_mode_active(),
        _ => false,
    };
    if descriptor.is_segment() || !available {
        return cpu.raise(vector::GP, Some(selector_code(selector)));
    }
    if !descriptor.present() {
        return cpu.raise(vector::NP, Some(selector_code(selector)));
    }
    descriptor.0 |= 1 << 41;
    access::system_write(cpu, address.wrapping_add(5), 1, descriptor.0 >> 40)?;
    cpu.tr = Segment { base, ..descriptor.segment(selector) };
    Ok(())
}

/// What looks at a descriptor without loading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// LAR.
    Rights,
    /// LSL.
    Limit,
    /// VERR.
    Read,
    /// VERW.
    Write,
}

/// LAR, LSL, VERR, VERW: ZF says whether the descriptor may be seen.
///
/// # Errors
/// #UD in real mode; the faults of the operand and of reading the table.
pub fn look(cpu: &mut Cpu, instruction: &Instruction, look: Look) -> Exec {
    require_protected(cpu)?;
    let op = if matches!(look, Look::Rights | Look::Limit) { 1 } else { 0 };
    let selector = if instruction.op_kind(op) == OpKind::Memory {
        operand::read(cpu, instruction, op, 2)?
    } else {
        operand::register_value(cpu, instruction.op_register(op))
    } as u16;
    let visible = visible(cpu, selector, look)?;
    if let Some(descriptor) = visible {
        let destination = instruction.op_register(0);
        match look {
            Look::Rights => {
                operand::set_register(cpu, destination, descriptor.0 >> 32 & 0x00ff_ff00);
            }
            Look::Limit => operand::set_register(cpu, destination, u64::from(descriptor.limit())),
            Look::Read | Look::Write => {}
        }
    }
    set_zf(cpu, visible.is_some());
    Ok(())
}

/// The selector's descriptor, if the program may see it.
fn visible(cpu: &mut Cpu, selector: u16, look: Look) -> Exec<Option<Descriptor>> {
    if descriptor::is_null(selector) {
        return Ok(None);
    }
    let Some(descriptor) = segments::read_descriptor(cpu, selector)? else { return Ok(None) };
    let long = cpu.long_mode_active();
    let kind = match look {
        _ if descriptor.is_segment() => match look {
            Look::Read => descriptor.is_data() || descriptor.is_readable_code(),
            Look::Write => descriptor.is_writable_data(),
            Look::Rights | Look::Limit => true,
        },
        Look::Rights => match descriptor.type_() {
            system::LDT | system::TSS | system::TSS_BUSY | system::CALL_GATE => true,
            system::TSS16 | system::TSS16_BUSY | system::CALL_GATE16 | system::TASK_GATE => !long,
            _ => false,
        },
        Look::Limit => match descriptor.type_() {
            system::LDT | system::TSS | system::TSS_BUSY => true,
            system::TSS16 | system::TSS16_BUSY => !long,
            _ => false,
        },
        Look::Read | Look::Write => false,
    };
    if !kind {
        return Ok(None);
    }
    // The upper half of a 16-byte descriptor must lie in the table and have a type of zero.
    if long && !descriptor.is_segment() {
        let Some(address) = segments::descriptor_address(cpu, selector, 16) else { return Ok(None) };
        let high = access::system_read(cpu, address.wrapping_add(8), 8)?;
        if high >> 40 & 0x1f != 0 {
            return Ok(None);
        }
    }
    let privilege = cpu.cpl.max(descriptor::rpl(selector));
    Ok((descriptor.is_conforming() || privilege <= descriptor.dpl()).then_some(descriptor))
}

/// ARPL.
///
/// # Errors
/// #UD in real mode; the faults of the operand.
pub fn adjust_rpl(cpu: &mut Cpu, instruction: &Instruction) -> Exec {
    require_protected(cpu)?;
    let destination = operand::read(cpu, instruction, 0, 2)?;
    let source = operand::register_value(cpu, instruction.op_register(1));
    let adjusted = destination & 3 < source & 3;
    if adjusted {
        operand::write(cpu, instruction, 0, 2, destination & !3 | source & 3)?;
    }
    set_zf(cpu, adjusted);
    Ok(())
}

fn set_zf(cpu: &mut Cpu, zero: bool) {
    let flags = cpu.rflags() & rflags::ARITHMETIC & !rflags::ZF;
    cpu.set_arithmetic(if zero { flags | rflags::ZF } else { flags });
}

//! Operands of system instructions.

#![forbid(unsafe_code)]

use iced_x86::{Instruction, OpKind, Register};

use super::super::abort::Exec;
use super::super::memory::Access;
use super::super::state::{Cpu, seg};
use super::access;

/// A memory operand's segment and offset.
#[must_use]
pub fn address(cpu: &Cpu, instruction: &Instruction) -> (usize, u64) {
    let segment = match instruction.memory_segment() {
        Register::ES => seg::ES,
        Register::CS => seg::CS,
        Register::SS => seg::SS,
        Register::FS => seg::FS,
        Register::GS => seg::GS,
        _ => seg::DS,
    };
    (segment, cpu.effective_address(instruction))
}

/// The linear address of `size` bytes at a memory operand, `skip` bytes on.
///
/// # Errors
/// #GP or #SS for what the segment does not allow.
pub fn linear(cpu: &mut Cpu, instruction: &Instruction, skip: u64, size: u64, write: bool) -> Exec<u64> {
    let (segment, offset) = address(cpu, instruction);
    cpu.linear(segment, offset.wrapping_add(skip), size, write)
}

/// A general register's value, zero-extended from its size; 0 for any other register.
#[must_use]
pub fn register_value(cpu: &Cpu, register: Register) -> u64 {
    if !register.is_gpr() {
        return 0;
    }
    let value = cpu.gpr.get(register.full_register().number()).copied().unwrap_or_default();
    match register.size() {
        // AH, CH, DH and BH are no operands of system instructions.
        1 => value & 0xff,
        2 => value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    }
}

/// Sets a general register as an instruction with a result of its size does.
pub fn set_register(cpu: &mut Cpu, register: Register, value: u64) {
    if !register.is_gpr() {
        return;
    }
    if let Some(full) = cpu.gpr.get_mut(register.full_register().number()) {
        *full = match register.size() {
            1 => *full & !0xff | value & 0xff,
            2 => *full & !0xffff | value & 0xffff,
            4 => value & 0xffff_ffff,
            _ => value,
        };
    }
}

/// Reads operand `op`: a register or an immediate, or `size` bytes of memory.
///
/// # Errors
/// The faults of the access.
pub fn read(cpu: &mut Cpu, instruction: &Instruction, op: u32, size: u8) -> Exec<u64> {
    match instruction.op_kind(op) {
        OpKind::Register => Ok(register_value(cpu, instruction.op_register(op))),
        OpKind::Memory => {
            let linear = linear(cpu, instruction, 0, u64::from(size), false)?;
            access::read(cpu, linear, size, Access::Current)
        }
        _ => Ok(instruction.try_immediate(op).unwrap_or_default()),
    }
}

/// Writes operand `op`: a register, or `size` bytes of memory.
///
/// # Errors
/// The faults of the access.
pub fn write(cpu: &mut Cpu, instruction: &Instruction, op: u32, size: u8, value: u64) -> Exec {
    if instruction.op_kind(op) == OpKind::Memory {
        let linear = linear(cpu, instruction, 0, u64::from(size), true)?;
        return access::write(cpu, linear, size, value, Access::Current);
    }
    set_register(cpu, instruction.op_register(op), value);
    Ok(())
}

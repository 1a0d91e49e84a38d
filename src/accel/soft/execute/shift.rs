//! Shifts and rotates.

use iced_x86::{Instruction, OpKind};

use super::Flow;
use super::operand::{operand_size, register_offset};
use crate::accel::soft::abort::Exec;
use crate::accel::soft::flags::{result_flags, rflags};
use crate::accel::soft::integer::Int;
use crate::accel::soft::state::Cpu;

/// Which shift or rotate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShiftKind {
    /// Rotate left.
    Rol,
    /// Rotate right.
    Ror,
    /// Rotate left through the carry flag.
    Rcl,
    /// Rotate right through the carry flag.
    Rcr,
    /// Shift left.
    Shl,
    /// Logical shift right.
    Shr,
    /// Arithmetic shift right.
    Sar,
}

/// The result and the arithmetic flags of a shift by `count`, which is masked already; with a count
/// of 0 neither changes. OF is that of the last single-bit step, as processors have it.
#[inline(always)]
pub fn rotate_shift<T: Int>(kind: ShiftKind, a: T, count: u32, flags: u64) -> (T, u64) {
    if count == 0 {
        return (a, flags);
    }
    let bits = T::BITS;
    let top = bits - 1;
    let value = a.to_u64();
    let mask = u64::MAX >> (64 - bits);
    let bit = |v: u64, n: u32| v >> n & 1 != 0;
    let (result, carry) = match kind {
        ShiftKind::Rol | ShiftKind::Ror => {
            let n = count % bits;
            let n = if kind == ShiftKind::Rol { n } else { (bits - n) % bits };
            let r = if n == 0 { value } else { (value << n | value >> (bits - n)) & mask };
            (r, bit(r, if kind == ShiftKind::Rol { 0 } else { top }))
        }
        ShiftKind::Rcl | ShiftKind::Rcr => {
            let width = bits + 1;
            let n = count % width;
            let n = if kind == ShiftKind::Rcl { n } else { (width - n) % width };
            let wide = u128::from(value) | u128::from(flags & rflags::CF) << bits;
            let r = if n == 0 { wide } else { wide << n | wide >> (width - n) };
            (r as u64 & mask, r >> bits & 1 != 0)
        }
        ShiftKind::Shl => {
            let wide = u128::from(value) << count;
            (wide as u64 & mask, wide >> bits & 1 != 0)
        }
        ShiftKind::Shr => {
            let before = value.checked_shr(count - 1).unwrap_or(0);
            (before >> 1, before & 1 != 0)
        }
        ShiftKind::Sar => {
            let before = a.to_i64() >> (count - 1).min(63);
            ((before >> 1) as u64 & mask, before & 1 != 0)
        }
    };
    let overflow = match kind {
        ShiftKind::Rol | ShiftKind::Rcl | ShiftKind::Shl => bit(result, top) != carry,
        ShiftKind::Ror | ShiftKind::Rcr | ShiftKind::Shr | ShiftKind::Sar => {
            bit(result, top) != bit(result, top - 1)
        }
    };
    let result = T::from_u64(result);
    let mut new = match kind {
        ShiftKind::Shl | ShiftKind::Shr | ShiftKind::Sar => result_flags(result),
        _ => flags & !(rflags::CF | rflags::OF),
    };
    if carry {
        new |= rflags::CF;
    }
    if overflow && kind != ShiftKind::Sar {
        new |= rflags::OF;
    }
    (result, new)
}

fn count<T: Int>(cpu: &mut Cpu, i: &Instruction, operand: u32) -> u32 {
    let count = match i.op_kind(operand) {
        OpKind::Register => cpu.gpr[1] as u32,
        _ => i.immediate(operand) as u32,
    };
    count & if T::BYTES == 8 { 63 } else { 31 }
}

/// A shift or rotate of one operand.
pub fn shift(cpu: &mut Cpu, i: &Instruction, kind: ShiftKind) -> Exec<Flow> {
    fn sized<T: Int>(cpu: &mut Cpu, i: &Instruction, kind: ShiftKind) -> Exec<Flow> {
        let count = count::<T>(cpu, i, 1);
        let flags = cpu.lazy.arithmetic();
        let old = if i.op0_kind() == OpKind::Memory {
            let la = cpu.memory_operand(i, T::BYTES, true)?;
            cpu.modify(la, false, |a: T| rotate_shift(kind, a, count, flags).0)?.0
        } else {
            let offset = register_offset(i.op0_register());
            let old: T = cpu.reg(offset);
            cpu.set_reg(offset, rotate_shift(kind, old, count, flags).0);
            old
        };
        if count != 0 {
            cpu.set_arithmetic(rotate_shift(kind, old, count, flags).1);
        }
        Ok(Flow::Next)
    }
    match operand_size(i, 0) {
        1 => sized::<u8>(cpu, i, kind),
        2 => sized::<u16>(cpu, i, kind),
        4 => sized::<u32>(cpu, i, kind),
        _ => sized::<u64>(cpu, i, kind),
    }
}

/// The result and flags of SHLD (`left`) or SHRD with a count above 0. With 16 bits and a count
/// above 16 the operands go round, as on Intel's processors.
fn double_shift<T: Int>(left: bool, a: T, b: T, count: u32) -> (T, u64) {
    let bits = T::BITS;
    let (a, b) = (u128::from(a.to_u64()), u128::from(b.to_u64()));
    let (result, carry) = if bits == 16 {
        if left {
            let wide = (a << 32 | b << 16 | a) << count;
            ((wide >> 32) as u64, wide >> 48 & 1 != 0)
        } else {
            let wide = a << 32 | b << 16 | a;
            ((wide >> count) as u64, wide >> (count - 1) & 1 != 0)
        }
    } else if left {
        let wide = a << bits | b;
        let before = wide << (count - 1);
        ((before << 1 >> bits) as u64, before >> (2 * bits - 1) & 1 != 0)
    } else {
        let wide = b << bits | a;
        ((wide >> count) as u64, wide >> (count - 1) & 1 != 0)
    };
    let result = T::from_u64(result);
    let value = result.to_u64();
    let top = value >> (bits - 1) & 1 != 0;
    let overflow = if left { top != carry } else { top != (value >> (bits - 2) & 1 != 0) };
    let mut flags = result_flags(result);
    if carry {
        flags |= rflags::CF;
    }
    if overflow {
        flags |= rflags::OF;
    }
    (result, flags)
}

/// SHLD and SHRD.
pub fn double(cpu: &mut Cpu, i: &Instruction, left: bool) -> Exec<Flow> {
    fn sized<T: Int>(cpu: &mut Cpu, i: &Instruction, left: bool) -> Exec<Flow> {
        let count = count::<T>(cpu, i, 2);
        let b: T = cpu.reg(register_offset(i.op1_register()));
        let change = |a: T| if count == 0 { a } else { double_shift(left, a, b, count).0 };
        let old = if i.op0_kind() == OpKind::Memory {
            let la = cpu.memory_operand(i, T::BYTES, true)?;
            cpu.modify(la, false, change)?.0
        } else {
            let offset = register_offset(i.op0_register());
            let old: T = cpu.reg(offset);
            cpu.set_reg(offset, change(old));
            old
        };
        if count != 0 {
            cpu.set_arithmetic(double_shift(left, old, b, count).1);
        }
        Ok(Flow::Next)
    }
    match operand_size(i, 0) {
        2 => sized::<u16>(cpu, i, left),
        4 => sized::<u32>(cpu, i, left),
        _ => sized::<u64>(cpu, i, left),
    }
}

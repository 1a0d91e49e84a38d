//! Multiplication and division.

use iced_x86::Instruction;

use super::Flow;
use super::operand::{operand_size, register_offset};
use crate::accel::soft::abort::{Exec, vector};
use crate::accel::soft::flags::{result_flags, rflags};
use crate::accel::soft::integer::Int;
use crate::accel::soft::state::Cpu;

/// Offset of RDX in the general registers.
const RDX: u8 = 16;

fn product_flags<T: Int>(cpu: &mut Cpu, low: T, overflow: bool) {
    let mut flags = result_flags(low);
    if overflow {
        flags |= rflags::CF | rflags::OF;
    }
    cpu.set_arithmetic(flags);
}

/// MUL, and IMUL with one operand.
pub fn mul(cpu: &mut Cpu, i: &Instruction, signed: bool) -> Exec<Flow> {
    fn sized<T: Int>(cpu: &mut Cpu, i: &Instruction, signed: bool) -> Exec<Flow> {
        let (a, b): (T, T) = (cpu.reg(0), cpu.operand(i, 0)?);
        let product = if signed {
            (i128::from(a.to_i64()) * i128::from(b.to_i64())) as u128
        } else {
            u128::from(a.to_u64()) * u128::from(b.to_u64())
        };
        let (low, high) = (T::from_u64(product as u64), T::from_u64((product >> T::BITS) as u64));
        if T::BYTES == 1 {
            cpu.set_reg(0, product as u16);
        } else {
            cpu.set_reg(0, low);
            cpu.set_reg(RDX, high);
        }
        let overflow = if signed { i128::from(low.to_i64()) as u128 != product } else { high.to_u64() != 0 };
        product_flags(cpu, low, overflow);
        Ok(Flow::Next)
    }
    match operand_size(i, 0) {
        1 => sized::<u8>(cpu, i, signed),
        2 => sized::<u16>(cpu, i, signed),
        4 => sized::<u32>(cpu, i, signed),
        _ => sized::<u64>(cpu, i, signed),
    }
}

/// IMUL with two or three operands.
pub fn imul_truncated(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    fn sized<T: Int>(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
        let last = i.op_count() - 1;
        let (a, b): (T, T) = (cpu.operand(i, last - 1)?, cpu.operand(i, last)?);
        let product = i128::from(a.to_i64()) * i128::from(b.to_i64());
        let low = T::from_u64(product as u64);
        cpu.set_reg(register_offset(i.op0_register()), low);
        product_flags(cpu, low, i128::from(low.to_i64()) != product);
        Ok(Flow::Next)
    }
    match operand_size(i, 0) {
        2 => sized::<u16>(cpu, i),
        4 => sized::<u32>(cpu, i),
        _ => sized::<u64>(cpu, i),
    }
}

/// DIV and IDIV. The flags, which are undefined, stay as they were.
pub fn div(cpu: &mut Cpu, i: &Instruction, signed: bool) -> Exec<Flow> {
    fn sized<T: Int>(cpu: &mut Cpu, i: &Instruction, signed: bool) -> Exec<Flow> {
        let divisor: T = cpu.operand(i, 0)?;
        let dividend = if T::BYTES == 1 {
            u128::from(cpu.reg::<u16>(0))
        } else {
            u128::from(cpu.reg::<T>(RDX).to_u64()) << T::BITS | u128::from(cpu.reg::<T>(0).to_u64())
        };
        let Some((quotient, remainder)) = divide::<T>(dividend, divisor, signed) else {
            return cpu.raise(vector::DE, None);
        };
        if T::BYTES == 1 {
            cpu.set_reg(0, (remainder.to_u64() << 8 | quotient.to_u64()) as u16);
        } else {
            cpu.set_reg(0, quotient);
            cpu.set_reg(RDX, remainder);
        }
        Ok(Flow::Next)
    }
    match operand_size(i, 0) {
        1 => sized::<u8>(cpu, i, signed),
        2 => sized::<u16>(cpu, i, signed),
        4 => sized::<u32>(cpu, i, signed),
        _ => sized::<u64>(cpu, i, signed),
    }
}

/// Quotient and remainder; `None` when the quotient does not fit or the divisor is 0. The dividend is
/// twice as wide as `T`.
#[inline]
pub fn divide<T: Int>(dividend: u128, divisor: T, signed: bool) -> Option<(T, T)> {
    if divisor.to_u64() == 0 {
        return None;
    }
    if !signed {
        if dividend <= u128::from(u64::MAX) {
            let (a, b) = (dividend as u64, divisor.to_u64());
            let (quotient, remainder) = (a / b, a % b);
            return (quotient <= u64::MAX >> (64 - T::BITS))
                .then(|| (T::from_u64(quotient), T::from_u64(remainder)));
        }
        let b = u128::from(divisor.to_u64());
        let quotient = dividend / b;
        return (quotient >> T::BITS == 0)
            .then(|| (T::from_u64(quotient as u64), T::from_u64((dividend % b) as u64)));
    }
    let unused = 128 - 2 * T::BITS;
    let dividend = (dividend << unused) as i128 >> unused;
    let b = i128::from(divisor.to_i64());
    let quotient = dividend.checked_div(b)?;
    let remainder = dividend.checked_rem(b)?;
    let narrow = T::from_u64(quotient as u64);
    (i128::from(narrow.to_i64()) == quotient).then(|| (narrow, T::from_u64(remainder as u64)))
}

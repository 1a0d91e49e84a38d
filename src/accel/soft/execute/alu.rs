//! Two-operand arithmetic and logic, INC, DEC, NEG, NOT.

use iced_x86::{Instruction, OpKind};

use super::Flow;
use super::operand::{operand_size, register_offset};
use crate::accel::soft::abort::Exec;
use crate::accel::soft::flags::{kind, rflags};
use crate::accel::soft::integer::Int;
use crate::accel::soft::state::Cpu;

/// An operation of two operands.
pub trait Alu: 'static {
    /// Whether the result goes to the first operand.
    const WRITES: bool = true;
    /// Whether the carry flag is an operand.
    const CARRY: bool = false;
    /// The result.
    fn result<T: Int>(a: T, b: T, carry: bool) -> T;
    /// Sets the flags.
    fn flags<T: Int>(cpu: &mut Cpu, b: T, result: T, carry: bool);
}

macro_rules! operation {
    ($name:ident, $writes:expr, $carry:expr, |$a:ident, $b:ident, $c:ident| $result:expr, $kind:expr) => {
        #[doc = concat!("The instruction ", stringify!($name), ".")]
        pub struct $name;

        impl Alu for $name {
            const WRITES: bool = $writes;
            const CARRY: bool = $carry;
            #[inline(always)]
            fn result<T: Int>(a: T, b: T, $c: bool) -> T {
                let ($a, $b) = (a.to_u64(), b.to_u64());
                T::from_u64($result)
            }
            #[inline(always)]
            fn flags<T: Int>(cpu: &mut Cpu, b: T, result: T, $c: bool) {
                cpu.set_lazy($kind, result, b);
            }
        }
    };
}

operation!(Add, true, false, |a, b, _c| a.wrapping_add(b), kind::ADD);
operation!(Or, true, false, |a, b, _c| a | b, kind::LOGIC);
operation!(
    Adc,
    true,
    true,
    |a, b, c| a.wrapping_add(b).wrapping_add(c.into()),
    if c { kind::ADC } else { kind::ADD }
);
operation!(
    Sbb,
    true,
    true,
    |a, b, c| a.wrapping_sub(b).wrapping_sub(c.into()),
    if c { kind::SBB } else { kind::SUB }
);
operation!(And, true, false, |a, b, _c| a & b, kind::LOGIC);
operation!(Sub, true, false, |a, b, _c| a.wrapping_sub(b), kind::SUB);
operation!(Xor, true, false, |a, b, _c| a ^ b, kind::LOGIC);
operation!(Cmp, false, false, |a, b, _c| a.wrapping_sub(b), kind::SUB);
operation!(Test, false, false, |a, b, _c| a & b, kind::LOGIC);

/// Executes a two-operand operation.
pub fn binary<O: Alu>(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    match operand_size(i, 0) {
        1 => sized::<O, u8>(cpu, i),
        2 => sized::<O, u16>(cpu, i),
        4 => sized::<O, u32>(cpu, i),
        _ => sized::<O, u64>(cpu, i),
    }
}

fn sized<O: Alu, T: Int>(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let carry = O::CARRY && cpu.lazy.carry();
    let b: T = cpu.operand(i, 1)?;
    let result = if O::WRITES && i.op0_kind() == OpKind::Memory {
        let la = cpu.memory_operand(i, T::BYTES, true)?;
        cpu.modify(la, i.has_lock_prefix(), |a| O::result(a, b, carry))?.1
    } else {
        let a: T = cpu.operand(i, 0)?;
        let result = O::result(a, b, carry);
        if O::WRITES {
            cpu.set_reg(register_offset(i.op0_register()), result);
        }
        result
    };
    O::flags(cpu, b, result, carry);
    Ok(Flow::Next)
}

/// Reads, changes and writes the only operand, a register or memory; gives the old and new value.
fn unary<T: Int>(cpu: &mut Cpu, i: &Instruction, change: impl Fn(T) -> T) -> Exec<(T, T)> {
    if i.op0_kind() == OpKind::Memory {
        let la = cpu.memory_operand(i, T::BYTES, true)?;
        cpu.modify(la, i.has_lock_prefix(), change)
    } else {
        let offset = register_offset(i.op0_register());
        let old: T = cpu.reg(offset);
        let new = change(old);
        cpu.set_reg(offset, new);
        Ok((old, new))
    }
}

/// INC and DEC.
pub fn increment(cpu: &mut Cpu, i: &Instruction, up: bool) -> Exec<Flow> {
    fn sized<T: Int>(cpu: &mut Cpu, i: &Instruction, up: bool) -> Exec<Flow> {
        let step = if up { 1 } else { u64::MAX };
        let (_, new) = unary(cpu, i, |a: T| T::from_u64(a.to_u64().wrapping_add(step)))?;
        let carry = T::from_u64(u64::from(cpu.lazy.carry()) * rflags::CF);
        cpu.set_lazy(if up { kind::INC } else { kind::DEC }, new, carry);
        Ok(Flow::Next)
    }
    match operand_size(i, 0) {
        1 => sized::<u8>(cpu, i, up),
        2 => sized::<u16>(cpu, i, up),
        4 => sized::<u32>(cpu, i, up),
        _ => sized::<u64>(cpu, i, up),
    }
}

/// NEG.
pub fn negate(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    fn sized<T: Int>(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
        let (old, new) = unary(cpu, i, |a: T| T::from_u64(a.to_u64().wrapping_neg()))?;
        cpu.set_lazy(kind::SUB, new, old);
        Ok(Flow::Next)
    }
    match operand_size(i, 0) {
        1 => sized::<u8>(cpu, i),
        2 => sized::<u16>(cpu, i),
        4 => sized::<u32>(cpu, i),
        _ => sized::<u64>(cpu, i),
    }
}

/// NOT.
pub fn complement(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    fn sized<T: Int>(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
        unary(cpu, i, |a: T| T::from_u64(!a.to_u64())).map(|_| Flow::Next)
    }
    match operand_size(i, 0) {
        1 => sized::<u8>(cpu, i),
        2 => sized::<u16>(cpu, i),
        4 => sized::<u32>(cpu, i),
        _ => sized::<u64>(cpu, i),
    }
}

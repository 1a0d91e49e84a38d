//! Specialised handlers: the common shapes of 64-bit mode and of flat 32-bit code, and register forms of every
//! mode.
//!
//! Fields of an operation: `a` is the first operand's register, `b` the second's, `imm` an immediate
//! or a branch target, and `base`, `index`, `scale`, `disp` the address.

use super::fast::{LEAVE, aborted, branch, go_again, go_back, stopped};
use super::{Alu, ShiftKind};
use crate::accel::soft::abort::Exec;
use crate::accel::soft::flags::{kind, rflags};
use crate::accel::soft::integer::Int;
use crate::accel::soft::op::{Handler, Next, Op};
use crate::accel::soft::returns;
use crate::accel::soft::state::{Cpu, NOT_PLAIN, plain_base_slot, seg};

/// Number of RSP.
const RSP: usize = 4;
const FS_SLOT: u8 = plain_base_slot(false);
const GS_SLOT: u8 = plain_base_slot(true);

impl Cpu {
    /// A 64-bit field of `Cpu` by its index: a general register, a segment's base, 0 or the page's base.
    #[inline(always)]
    fn slot(&self, index: u8) -> u64 {
        debug_assert!(usize::from(index) * 8 + 8 <= size_of::<Self>());
        // SAFETY: `select` makes only indexes of `u64` fields in `Cpu`, which is `repr(C)`.
        unsafe { std::ptr::from_ref(self).cast::<u64>().add(usize::from(index)).read() }
    }
}

/// How an operation's memory operand is addressed: base and displacement in 64-bit mode.
pub const BASE: u8 = 0;
/// As `BASE`, with index and the segment's base.
pub const FULL: u8 = 1;
/// Base and displacement of flat 32-bit code.
pub const FLAT: u8 = 2;
/// As `FLAT`, with index and the base of FS or GS, or `ZERO_SLOT`.
pub const FLAT_FULL: u8 = 3;

/// The linear address of `bytes` bytes of an operation's memory operand. In flat 32-bit code it is one that no
/// translation has if the segment does not simply allow the access.
#[inline(always)]
pub fn address<const KIND: u8>(cpu: &Cpu, op: &Op, bytes: u64) -> u64 {
    let mut address = cpu.slot(op.base).wrapping_add(i64::from(op.disp) as u64);
    if matches!(KIND, FULL | FLAT_FULL) {
        address = address.wrapping_add(cpu.slot(op.index) << (op.scale & 3));
    }
    match KIND {
        BASE => address,
        FULL => address.wrapping_add(cpu.slot(op.scale >> 2)),
        FLAT => address & 0xffff_ffff,
        _ => {
            let (offset, base) = (address & 0xffff_ffff, cpu.slot(op.scale >> 2));
            // The last byte's offset may lie beyond the segment's limit.
            let beyond = (offset + (bytes - 1)) >> 32 << 62;
            (offset + base) & 0xffff_ffff | base & NOT_PLAIN | beyond
        }
    }
}

/// The address of a memory operand, for the handler that is `FAST` or for the other one, which has the segment's
/// faults.
#[inline(always)]
pub fn place<const KIND: u8, const FAST: bool>(cpu: &mut Cpu, op: &Op, bytes: u64, write: bool) -> Exec<u64> {
    if FAST || KIND < FLAT { Ok(address::<KIND>(cpu, op, bytes)) } else { checked(cpu, op, bytes, write) }
}

#[cold]
#[inline(never)]
fn checked(cpu: &mut Cpu, op: &Op, bytes: u64, write: bool) -> Exec<u64> {
    let index = cpu.slot(op.index) << (op.scale & 3);
    let offset = cpu.slot(op.base).wrapping_add(i64::from(op.disp) as u64).wrapping_add(index);
    let segment = match op.scale >> 2 {
        FS_SLOT => seg::FS,
        GS_SLOT => seg::GS,
        _ if matches!(op.base, 4 | 5) => seg::SS,
        _ => seg::DS,
    };
    cpu.linear(segment, offset, bytes, write)
}

impl Cpu {
    #[inline(always)]
    fn load_at<T: Int, const KIND: u8, const FAST: bool>(&mut self, op: &Op) -> Exec<T> {
        match place::<KIND, FAST>(self, op, T::BYTES, false) {
            Ok(la) => self.load_by::<T, FAST>(la),
            Err(abort) => Err(abort),
        }
    }

    #[inline(always)]
    fn store_at<T: Int, const KIND: u8, const FAST: bool>(&mut self, op: &Op, value: T) -> Exec {
        match place::<KIND, FAST>(self, op, T::BYTES, true) {
            Ok(la) => self.store_by::<T, FAST>(la, value),
            Err(abort) => Err(abort),
        }
    }

    #[inline(always)]
    fn modify_at<T: Int, const KIND: u8, const FAST: bool>(
        &mut self,
        op: &Op,
        change: impl Fn(T) -> T,
    ) -> Exec<(T, T)> {
        match place::<KIND, FAST>(self, op, T::BYTES, true) {
            Ok(la) => self.modify_by::<T, FAST>(la, change),
            Err(abort) => Err(abort),
        }
    }

    /// Loads from the stack: with 32 bits that of flat code.
    #[inline(always)]
    fn load_stacked<T: Int, const FAST: bool>(&mut self, rsp: u64) -> Exec<T> {
        if !FAST && T::BYTES == 4 {
            self.linear(seg::SS, rsp, T::BYTES, false)?;
        }
        self.load_by::<T, FAST>(rsp)
    }

    #[inline(always)]
    fn store_stacked<T: Int, const FAST: bool>(&mut self, rsp: u64, value: T) -> Exec {
        if !FAST && T::BYTES == 4 {
            self.linear(seg::SS, rsp, T::BYTES, true)?;
        }
        self.store_by::<T, FAST>(rsp, value)
    }
}

/// A stack or instruction pointer of the width of `T`: 64-bit mode or flat 32-bit code.
#[inline(always)]
fn narrow<T: Int>(pointer: u64) -> u64 {
    if T::BYTES == 4 { pointer & 0xffff_ffff } else { pointer }
}

/// Goes on with the other handler of an operation. Kept apart, so that the compiler does not join the two.
#[cold]
#[inline(never)]
pub fn hand_over(cpu: &mut Cpu, op: &Op, slow: Handler) -> Next {
    slow(cpu, op)
}

/// The value of an access, or the way out. A handler of memory exists twice: the one of `FAST` has nothing
/// but the translation's hit in it, so that it needs no stack, and hands over to the other.
macro_rules! access {
    ($cpu:ident, $op:ident, $fast:ident, $slow:expr, $result:expr) => {
        match $result {
            Ok(value) => value,
            Err(_) if $fast => return hand_over($cpu, $op, $slow),
            Err(_) => return aborted($cpu, $op),
        }
    };
}

pub fn mov_rr<T: Int>(cpu: &mut Cpu, op: &Op) -> Next {
    let value: T = cpu.reg(op.b);
    cpu.set_reg(op.a, value);
    op.next(cpu)
}

pub fn mov_ri<T: Int>(cpu: &mut Cpu, op: &Op) -> Next {
    cpu.set_reg(op.a, T::from_u64(op.imm));
    op.next(cpu)
}

pub fn mov_rm<T: Int, const KIND: u8, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let value: T = access!(cpu, op, FAST, mov_rm::<T, KIND, false>, cpu.load_at::<_, KIND, FAST>(op));
    cpu.set_reg(op.a, value);
    op.next(cpu)
}

pub fn mov_mr<T: Int, const KIND: u8, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let value: T = cpu.reg(op.b);
    access!(cpu, op, FAST, mov_mr::<T, KIND, false>, cpu.store_at::<_, KIND, FAST>(op, value));
    op.next(cpu)
}

pub fn mov_mi<T: Int, const KIND: u8, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    access!(cpu, op, FAST, mov_mi::<T, KIND, false>, cpu.store_at::<_, KIND, FAST>(op, T::from_u64(op.imm)));
    op.next(cpu)
}

pub fn lea<const KIND: u8>(cpu: &mut Cpu, op: &Op) -> Next {
    let address = address::<KIND>(cpu, op, 1);
    cpu.set_reg(op.a, address);
    op.next(cpu)
}

pub fn lea32<const KIND: u8>(cpu: &mut Cpu, op: &Op) -> Next {
    let address = address::<KIND>(cpu, op, 1);
    cpu.set_reg(op.a, address as u32);
    op.next(cpu)
}

#[inline(always)]
fn extended<S: Int, D: Int, const SIGNED: bool>(value: S) -> D {
    D::from_u64(if SIGNED { value.to_i64() as u64 } else { value.to_u64() })
}

pub fn extend_rr<S: Int, D: Int, const SIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let value: S = cpu.reg(op.b);
    cpu.set_reg(op.a, extended::<S, D, SIGNED>(value));
    op.next(cpu)
}

pub fn extend_rm<S: Int, D: Int, const SIGNED: bool, const KIND: u8, const FAST: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Next {
    let value: S =
        access!(cpu, op, FAST, extend_rm::<S, D, SIGNED, KIND, false>, cpu.load_at::<_, KIND, FAST>(op));
    cpu.set_reg(op.a, extended::<S, D, SIGNED>(value));
    op.next(cpu)
}

/// The flags and, if the operation writes, the result.
#[inline(always)]
fn compute<O: Alu, T: Int>(cpu: &mut Cpu, a: T, b: T) -> T {
    let carry = O::CARRY && cpu.lazy.carry();
    let result = O::result(a, b, carry);
    O::flags(cpu, b, result, carry);
    result
}

pub fn alu_rr<O: Alu, T: Int>(cpu: &mut Cpu, op: &Op) -> Next {
    let (a, b): (T, T) = (cpu.reg(op.a), cpu.reg(op.b));
    let result = compute::<O, T>(cpu, a, b);
    if O::WRITES {
        cpu.set_reg(op.a, result);
    }
    op.next(cpu)
}

pub fn alu_ri<O: Alu, T: Int>(cpu: &mut Cpu, op: &Op) -> Next {
    let a: T = cpu.reg(op.a);
    let result = compute::<O, T>(cpu, a, T::from_u64(op.imm));
    if O::WRITES {
        cpu.set_reg(op.a, result);
    }
    op.next(cpu)
}

pub fn alu_rm<O: Alu, T: Int, const KIND: u8, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let b: T = access!(cpu, op, FAST, alu_rm::<O, T, KIND, false>, cpu.load_at::<_, KIND, FAST>(op));
    let a: T = cpu.reg(op.a);
    let result = compute::<O, T>(cpu, a, b);
    if O::WRITES {
        cpu.set_reg(op.a, result);
    }
    op.next(cpu)
}

#[inline(always)]
fn alu_memory<O: Alu, T: Int, const KIND: u8, const FAST: bool>(
    cpu: &mut Cpu,
    op: &Op,
    b: T,
    slow: Handler,
) -> Next {
    if !O::WRITES {
        let a: T = access!(cpu, op, FAST, slow, cpu.load_at::<_, KIND, FAST>(op));
        compute::<O, T>(cpu, a, b);
        return op.next(cpu);
    }
    let carry = O::CARRY && cpu.lazy.carry();
    let change = |a| O::result(a, b, carry);
    let (_, result) = access!(cpu, op, FAST, slow, cpu.modify_at::<T, KIND, FAST>(op, change));
    O::flags(cpu, b, result, carry);
    op.next(cpu)
}

pub fn alu_mr<O: Alu, T: Int, const KIND: u8, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let b: T = cpu.reg(op.b);
    alu_memory::<O, T, KIND, FAST>(cpu, op, b, alu_mr::<O, T, KIND, false>)
}

pub fn alu_mi<O: Alu, T: Int, const KIND: u8, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    alu_memory::<O, T, KIND, FAST>(cpu, op, T::from_u64(op.imm), alu_mi::<O, T, KIND, false>)
}

/// INC, or DEC with `UP` false.
pub fn increment_r<const UP: bool, T: Int>(cpu: &mut Cpu, op: &Op) -> Next {
    let carry = T::from_u64(u64::from(cpu.lazy.carry()) * rflags::CF);
    let old: T = cpu.reg(op.a);
    let step = if UP { 1 } else { u64::MAX };
    let new = T::from_u64(old.to_u64().wrapping_add(step));
    cpu.set_reg(op.a, new);
    cpu.set_lazy(if UP { kind::INC } else { kind::DEC }, new, carry);
    op.next(cpu)
}

/// INC of memory, or DEC with `UP` false.
pub fn increment_m<T: Int, const UP: bool, const KIND: u8, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let change = |old: T| T::from_u64(old.to_u64().wrapping_add(if UP { 1 } else { u64::MAX }));
    let slow = increment_m::<T, UP, KIND, false>;
    let (_, new) = access!(cpu, op, FAST, slow, cpu.modify_at::<T, KIND, FAST>(op, change));
    let carry = T::from_u64(u64::from(cpu.lazy.carry()) * rflags::CF);
    cpu.set_lazy(if UP { kind::INC } else { kind::DEC }, new, carry);
    op.next(cpu)
}

pub fn neg_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Next {
    let old: T = cpu.reg(op.a);
    let new = T::from_u64(old.to_u64().wrapping_neg());
    cpu.set_reg(op.a, new);
    cpu.set_lazy(kind::SUB, new, old);
    op.next(cpu)
}

pub fn not_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Next {
    let old: T = cpu.reg(op.a);
    cpu.set_reg(op.a, T::from_u64(!old.to_u64()));
    op.next(cpu)
}

/// The shift `K` (a `ShiftKind`) of `a` by a count from 1 to its bits less 1: result, carry, overflow.
#[inline(always)]
fn shifted<T: Int, const K: u8>(a: T, count: u32) -> (T, bool, bool) {
    let (value, top) = (a.to_u64(), T::BITS - 1);
    let (result, carry) = if K == ShiftKind::Shl as u8 {
        (T::from_u64(value << count), value >> (T::BITS - count) & 1 != 0)
    } else if K == ShiftKind::Shr as u8 {
        (T::from_u64(value >> count), value >> (count - 1) & 1 != 0)
    } else {
        (T::from_u64((a.to_i64() >> count) as u64), (a.to_i64() >> (count - 1)) & 1 != 0)
    };
    let sign = result.to_u64() >> top & 1 != 0;
    let overflow = if K == ShiftKind::Shl as u8 {
        sign != carry
    } else if K == ShiftKind::Shr as u8 {
        result.to_u64() >> (top - 1) & 1 != 0
    } else {
        false
    };
    (result, carry, overflow)
}

#[inline(always)]
fn shift_register<T: Int, const K: u8>(cpu: &mut Cpu, op: &Op, count: u32) {
    let (result, carry, overflow) = shifted::<T, K>(cpu.reg(op.a), count);
    cpu.set_reg(op.a, result);
    cpu.set_shifted(result, carry, overflow);
}

/// By an immediate from 1 to the operand's bits less 1.
pub fn shift_ri<T: Int, const K: u8>(cpu: &mut Cpu, op: &Op) -> Next {
    shift_register::<T, K>(cpu, op, op.imm as u32);
    op.next(cpu)
}

/// By CL; operands of 32 and 64 bits.
pub fn shift_rc<T: Int, const K: u8>(cpu: &mut Cpu, op: &Op) -> Next {
    let count = cpu.gpr[1] as u32 & (T::BITS - 1);
    if count != 0 {
        shift_register::<T, K>(cpu, op, count);
    } else {
        let a: T = cpu.reg(op.a);
        cpu.set_reg(op.a, a);
    }
    op.next(cpu)
}

/// Memory by an immediate from 1 to the operand's bits less 1.
pub fn shift_mi<const K: u8, T: Int, const KIND: u8, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let count = op.imm as u32;
    let change = |a: T| shifted::<T, K>(a, count).0;
    let slow = shift_mi::<K, T, KIND, false>;
    let (old, _) = access!(cpu, op, FAST, slow, cpu.modify_at::<T, KIND, FAST>(op, change));
    let (result, carry, overflow) = shifted::<T, K>(old, count);
    cpu.set_shifted(result, carry, overflow);
    op.next(cpu)
}

/// ROL, or ROR without `LEFT`, of 32 or 64 bits by an immediate from 1 to the operand's bits less 1.
pub fn rotate_ri<T: Int, const LEFT: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let (value, count, top) = (cpu.reg::<T>(op.a).to_u64(), op.imm as u32, T::BITS - 1);
    let left = if LEFT { count } else { T::BITS - count };
    let result = T::from_u64(value << left | value >> (T::BITS - left));
    let (high, low) = (result.to_u64() >> top & 1, result.to_u64() & 1);
    let carry = if LEFT { low } else { high };
    let overflow = if LEFT { high ^ low } else { high ^ result.to_u64() >> (top - 1) & 1 };
    cpu.set_reg(op.a, result);
    cpu.set_carry_and_overflow(carry | overflow << 11);
    op.next(cpu)
}

/// IMUL of two registers, or of a register and an immediate with `IMM`.
pub fn imul_r<T: Int, const IMM: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let b: T = cpu.reg(op.b);
    let a = if IMM { T::from_u64(op.imm) } else { cpu.reg::<T>(op.a) };
    let product = i128::from(a.to_i64()) * i128::from(b.to_i64());
    let low = T::from_u64(product as u64);
    cpu.set_reg(op.a, low);
    let overflow = i128::from(low.to_i64()) != product;
    cpu.set_shifted(low, overflow, overflow);
    op.next(cpu)
}

/// MUL of a register: the multi-precision loops' instruction.
pub fn mul_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Next {
    let (a, b): (T, T) = (cpu.reg(0), cpu.reg(op.a));
    let product = u128::from(a.to_u64()) * u128::from(b.to_u64());
    multiplied::<T>(cpu, product);
    op.next(cpu)
}

pub fn mul_m<T: Int, const KIND: u8, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let b: T = access!(cpu, op, FAST, mul_m::<T, KIND, false>, cpu.load_at::<_, KIND, FAST>(op));
    let a: T = cpu.reg(0);
    let product = u128::from(a.to_u64()) * u128::from(b.to_u64());
    multiplied::<T>(cpu, product);
    op.next(cpu)
}

#[inline(always)]
fn multiplied<T: Int>(cpu: &mut Cpu, product: u128) {
    let (low, high) = (T::from_u64(product as u64), T::from_u64((product >> T::BITS) as u64));
    cpu.set_reg(0, low);
    cpu.set_reg(16, high);
    let overflow = high.to_u64() != 0;
    cpu.set_shifted(low, overflow, overflow);
}

/// SETcc with the condition in `index`.
pub fn setcc_r(cpu: &mut Cpu, op: &Op) -> Next {
    let value = u8::from(cpu.lazy.condition(op.index));
    cpu.set_reg(op.a, value);
    op.next(cpu)
}

/// CMOVcc with the condition `CC`.
pub fn cmov_rr<T: Int, const CC: u8>(cpu: &mut Cpu, op: &Op) -> Next {
    let source = if cpu.lazy.condition(CC) { op.b } else { op.a };
    let value: T = cpu.reg(source);
    cpu.set_reg(op.a, value);
    op.next(cpu)
}

/// CMOVcc from memory, with the condition in `b`; the load takes place in any case.
pub fn cmov_rm<T: Int, const KIND: u8, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let source: T = access!(cpu, op, FAST, cmov_rm::<T, KIND, false>, cpu.load_at::<_, KIND, FAST>(op));
    let value = if cpu.lazy.condition(op.b) { source } else { cpu.reg(op.a) };
    cpu.set_reg(op.a, value);
    op.next(cpu)
}

/// SETcc of memory, with the condition in `b`.
pub fn setcc_m<const KIND: u8, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let value = u8::from(cpu.lazy.condition(op.b));
    access!(cpu, op, FAST, setcc_m::<KIND, false>, cpu.store_at::<_, KIND, FAST>(op, value));
    op.next(cpu)
}

pub fn bswap<T: Int>(cpu: &mut Cpu, op: &Op) -> Next {
    let value = cpu.reg::<T>(op.a).to_u64().swap_bytes() >> (64 - T::BITS);
    cpu.set_reg(op.a, T::from_u64(value));
    op.next(cpu)
}

pub fn cdqe(cpu: &mut Cpu, op: &Op) -> Next {
    cpu.gpr[0] = cpu.gpr[0] as i32 as u64;
    op.next(cpu)
}

pub fn xchg_rr<T: Int>(cpu: &mut Cpu, op: &Op) -> Next {
    let (a, b): (T, T) = (cpu.reg(op.a), cpu.reg(op.b));
    cpu.set_reg(op.a, b);
    cpu.set_reg(op.b, a);
    op.next(cpu)
}

/// What BT, BTS, BTR, BTC (`K` 0 to 3) make of a value.
#[inline(always)]
fn bit_changed<T: Int, const K: u8>(value: T, bit: u64) -> T {
    let value = value.to_u64();
    T::from_u64(match K {
        0 => value,
        1 => value | bit,
        2 => value & !bit,
        _ => value ^ bit,
    })
}

/// BT, BTS, BTR, BTC of a register by an immediate.
pub fn bit_ri<const K: u8, T: Int>(cpu: &mut Cpu, op: &Op) -> Next {
    let a: T = cpu.reg(op.a);
    if K != 0 {
        cpu.set_reg(op.a, bit_changed::<T, K>(a, 1 << op.imm));
    }
    cpu.set_carry(a.to_u64() >> op.imm & 1 != 0);
    op.next(cpu)
}

/// BT, BTS, BTR, BTC of a register by a register.
pub fn bit_rr<const K: u8, T: Int>(cpu: &mut Cpu, op: &Op) -> Next {
    let a: T = cpu.reg(op.a);
    let offset = cpu.reg::<T>(op.b).to_u64() & u64::from(T::BITS - 1);
    if K != 0 {
        cpu.set_reg(op.a, bit_changed::<T, K>(a, 1 << offset));
    }
    cpu.set_carry(a.to_u64() >> offset & 1 != 0);
    op.next(cpu)
}

/// BT of memory by an immediate.
pub fn bit_mi<T: Int, const KIND: u8, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let a: T = access!(cpu, op, FAST, bit_mi::<T, KIND, false>, cpu.load_at::<_, KIND, FAST>(op));
    cpu.set_carry(a.to_u64() >> op.imm & 1 != 0);
    op.next(cpu)
}

/// CDQ and CQO.
pub fn sign_to_rdx<T: Int>(cpu: &mut Cpu, op: &Op) -> Next {
    let sign = cpu.reg::<T>(0).to_i64() >> 63;
    cpu.set_reg(16, T::from_u64(sign as u64));
    op.next(cpu)
}

#[inline(always)]
fn pushed<T: Int, const FAST: bool>(cpu: &mut Cpu, op: &Op, value: T, slow: Handler) -> Next {
    let rsp = narrow::<T>(cpu.gpr[RSP].wrapping_sub(T::BYTES));
    access!(cpu, op, FAST, slow, cpu.store_stacked::<T, FAST>(rsp, value));
    cpu.gpr[RSP] = rsp;
    op.next(cpu)
}

/// PUSH of a register: like all that follows with the stack's width `T`, 64 or 32 bits.
pub fn push_r<T: Int, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let value: T = cpu.reg(op.a);
    pushed::<T, FAST>(cpu, op, value, push_r::<T, false>)
}

pub fn push_i<T: Int, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    pushed::<T, FAST>(cpu, op, T::from_u64(op.imm), push_i::<T, false>)
}

pub fn push_m<T: Int, const KIND: u8, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let value: T = access!(cpu, op, FAST, push_m::<T, KIND, false>, cpu.load_at::<_, KIND, FAST>(op));
    pushed::<T, FAST>(cpu, op, value, push_m::<T, KIND, false>)
}

pub fn pop_r<T: Int, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let rsp = narrow::<T>(cpu.gpr[RSP]);
    let value: T = access!(cpu, op, FAST, pop_r::<T, false>, cpu.load_stacked::<_, FAST>(rsp));
    cpu.gpr[RSP] = narrow::<T>(rsp.wrapping_add(T::BYTES));
    cpu.set_reg(op.a, value);
    op.next(cpu)
}

pub fn leave<T: Int, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let rbp = narrow::<T>(cpu.gpr[5]);
    let value: T = access!(cpu, op, FAST, leave::<T, false>, cpu.load_stacked::<_, FAST>(rbp));
    cpu.gpr[RSP] = narrow::<T>(rbp.wrapping_add(T::BYTES));
    cpu.gpr[5] = value.to_u64();
    op.next(cpu)
}

/// JMP to `imm`.
pub fn jmp<const FLAT: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    branch::<FLAT>(cpu, op)
}

/// Jcc to `imm`.
pub fn jcc<const FLAT: bool, const CC: u8>(cpu: &mut Cpu, op: &Op) -> Next {
    if cpu.lazy.condition(CC) { branch::<FLAT>(cpu, op) } else { op.next(cpu) }
}

/// CMP or TEST of a register with a register, or with `disp` if `IMM`, and the Jcc to `imm` behind it.
pub fn compare_jcc<const FLAT: bool, O: Alu, T: Int, const IMM: bool, const CC: u8>(
    cpu: &mut Cpu,
    op: &Op,
) -> Next {
    let a: T = cpu.reg(op.a);
    let b = if IMM { T::from_u64(i64::from(op.disp) as u64) } else { cpu.reg::<T>(op.b) };
    let result = O::result(a, b, false);
    O::flags(cpu, b, result, false);
    // The kind is a constant here, so the compiler leaves only the comparison.
    if cpu.lazy.condition(CC) { branch::<FLAT>(cpu, op) } else { op.next(cpu) }
}

/// Notes where a call returns to.
#[inline(always)]
fn remember_call<T: Int>(cpu: &mut Cpu, op: &Op, back: u64) {
    let back = if T::BYTES == 4 { back | returns::FLAT } else { back };
    cpu.returns.push(back, cpu.code_page, op.following());
}

#[inline(always)]
fn go_again_in<T: Int>(cpu: &mut Cpu, op: &Op, target: T) -> Next {
    if T::BYTES == 4 {
        go_again::<true>(cpu, op, target.to_u64())
    } else {
        go_again::<false>(cpu, op, target.to_u64())
    }
}

/// Near CALL to `imm`.
pub fn call<T: Int, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let back = narrow::<T>(cpu.page_base.wrapping_add(op.end()));
    let rsp = narrow::<T>(cpu.gpr[RSP].wrapping_sub(T::BYTES));
    access!(cpu, op, FAST, call::<T, false>, cpu.store_stacked::<_, FAST>(rsp, T::from_u64(back)));
    cpu.gpr[RSP] = rsp;
    remember_call::<T>(cpu, op, back);
    if T::BYTES == 4 { branch::<true>(cpu, op) } else { branch::<false>(cpu, op) }
}

/// Whether a branch may go to `address`: any in flat 32-bit code.
#[inline(always)]
fn is_target<T: Int>(address: T) -> bool {
    let address = address.to_u64();
    T::BYTES == 4 || (address as i64) << 16 >> 16 == address as i64
}

#[cold]
fn bad_target(cpu: &mut Cpu, op: &Op) -> Next {
    let _ = cpu.general_protection::<()>();
    stopped(cpu, op)
}

/// Near RET, releasing `imm` bytes more.
pub fn ret<T: Int, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let rsp = narrow::<T>(cpu.gpr[RSP]);
    let target: T = access!(cpu, op, FAST, ret::<T, false>, cpu.load_stacked::<_, FAST>(rsp));
    if !is_target(target) {
        return bad_target(cpu, op);
    }
    cpu.gpr[RSP] = narrow::<T>(rsp.wrapping_add(T::BYTES).wrapping_add(op.imm));
    if T::BYTES == 4 {
        go_back::<true>(cpu, op, target.to_u64())
    } else {
        go_back::<false>(cpu, op, target.to_u64())
    }
}

#[inline(always)]
fn call_to<T: Int, const FAST: bool>(cpu: &mut Cpu, op: &Op, target: T, slow: Handler) -> Next {
    if !is_target(target) {
        return bad_target(cpu, op);
    }
    let back = narrow::<T>(cpu.page_base.wrapping_add(op.end()));
    let rsp = narrow::<T>(cpu.gpr[RSP].wrapping_sub(T::BYTES));
    access!(cpu, op, FAST, slow, cpu.store_stacked::<_, FAST>(rsp, T::from_u64(back)));
    cpu.gpr[RSP] = rsp;
    remember_call::<T>(cpu, op, back);
    go_again_in(cpu, op, target)
}

pub fn call_r<T: Int, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let target: T = cpu.reg(op.a);
    call_to::<T, FAST>(cpu, op, target, call_r::<T, false>)
}

pub fn call_m<T: Int, const KIND: u8, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let target: T = access!(cpu, op, FAST, call_m::<T, KIND, false>, cpu.load_at::<_, KIND, FAST>(op));
    call_to::<T, FAST>(cpu, op, target, call_m::<T, KIND, false>)
}

pub fn jmp_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Next {
    let target: T = cpu.reg(op.a);
    if is_target(target) { go_again_in(cpu, op, target) } else { bad_target(cpu, op) }
}

pub fn jmp_m<T: Int, const KIND: u8, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let target: T = access!(cpu, op, FAST, jmp_m::<T, KIND, false>, cpu.load_at::<_, KIND, FAST>(op));
    if is_target(target) { go_again_in(cpu, op, target) } else { bad_target(cpu, op) }
}

/// CLI.
pub fn cli(cpu: &mut Cpu, op: &Op) -> Next {
    if cpu.cpl > cpu.iopl() {
        return not_allowed(cpu, op);
    }
    cpu.rflags_rest &= !rflags::IF;
    op.next(cpu)
}

/// Raises #GP(0).
#[cold]
fn not_allowed(cpu: &mut Cpu, op: &Op) -> Next {
    let _ = cpu.general_protection::<()>();
    stopped(cpu, op)
}

/// STI: the block goes on unless an interrupt waits. As the `LAST` of a block it leaves in any case: an interrupt
/// that comes between two blocks would come before the instruction behind the STI.
pub fn sti<const LAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    if cpu.cpl > cpu.iopl() {
        return not_allowed(cpu, op);
    }
    if cpu.rflags_rest & rflags::IF != 0 {
        return op.next(cpu);
    }
    cpu.rflags_rest |= rflags::IF;
    if LAST || cpu.interrupt_waiting || cpu.pending.load(std::sync::atomic::Ordering::Relaxed) != 0 {
        cpu.interrupt_shadow = true;
        cpu.rip = cpu.wrap_rip(cpu.page_base.wrapping_add(op.end()));
        return LEAVE;
    }
    op.next(cpu)
}

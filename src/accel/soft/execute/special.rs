//! Specialised handlers: 64-bit mode's common shapes, and register forms of every mode.
//!
//! Fields of an operation: `a` is the first operand's register, `b` the second's, `imm` an immediate
//! or a branch target, and `base`, `index`, `scale`, `disp` the address.

use super::fast::{LEAVE, aborted, branch, go_again, go_back, stopped};
use super::{Alu, ShiftKind};
use crate::accel::soft::flags::{kind, rflags};
use crate::accel::soft::integer::Int;
use crate::accel::soft::op::{Handler, Next, Op};
use crate::accel::soft::state::Cpu;

/// Byte offset of RSP in the general registers.
const RSP: usize = 4;

impl Cpu {
    /// A 64-bit field of `Cpu` by its index: a general register, a segment's base, 0 or the page's base.
    #[inline(always)]
    fn slot(&self, index: u8) -> u64 {
        debug_assert!(usize::from(index) * 8 + 8 <= size_of::<Self>());
        // SAFETY: `select` makes only indexes of `u64` fields in `Cpu`, which is `repr(C)`.
        unsafe { std::ptr::from_ref(self).cast::<u64>().add(usize::from(index)).read() }
    }
}

/// The address of an operation's memory operand; `FULL` with index and segment base.
#[inline(always)]
pub fn address<const FULL: bool>(cpu: &Cpu, op: &Op) -> u64 {
    let mut address = cpu.slot(op.base).wrapping_add(i64::from(op.disp) as u64);
    if FULL {
        address =
            address.wrapping_add(cpu.slot(op.index) << (op.scale & 3)).wrapping_add(cpu.slot(op.scale >> 2));
    }
    address
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

pub fn mov_rm<T: Int, const FULL: bool, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let value: T =
        access!(cpu, op, FAST, mov_rm::<T, FULL, false>, cpu.load_by::<_, FAST>(address::<FULL>(cpu, op)));
    cpu.set_reg(op.a, value);
    op.next(cpu)
}

pub fn mov_mr<T: Int, const FULL: bool, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let value: T = cpu.reg(op.b);
    access!(
        cpu,
        op,
        FAST,
        mov_mr::<T, FULL, false>,
        cpu.store_by::<_, FAST>(address::<FULL>(cpu, op), value)
    );
    op.next(cpu)
}

pub fn mov_mi<T: Int, const FULL: bool, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    access!(
        cpu,
        op,
        FAST,
        mov_mi::<T, FULL, false>,
        cpu.store_by::<_, FAST>(address::<FULL>(cpu, op), T::from_u64(op.imm))
    );
    op.next(cpu)
}

pub fn lea<const FULL: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let address = address::<FULL>(cpu, op);
    cpu.set_reg(op.a, address);
    op.next(cpu)
}

pub fn lea32<const FULL: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let address = address::<FULL>(cpu, op);
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

pub fn extend_rm<S: Int, D: Int, const SIGNED: bool, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let value: S = access!(
        cpu,
        op,
        FAST,
        extend_rm::<S, D, SIGNED, false>,
        cpu.load_by::<_, FAST>(address::<true>(cpu, op))
    );
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

pub fn alu_rm<O: Alu, T: Int, const FULL: bool, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let b: T =
        access!(cpu, op, FAST, alu_rm::<O, T, FULL, false>, cpu.load_by::<_, FAST>(address::<FULL>(cpu, op)));
    let a: T = cpu.reg(op.a);
    let result = compute::<O, T>(cpu, a, b);
    if O::WRITES {
        cpu.set_reg(op.a, result);
    }
    op.next(cpu)
}

#[inline(always)]
fn alu_memory<O: Alu, T: Int, const FULL: bool, const FAST: bool>(
    cpu: &mut Cpu,
    op: &Op,
    b: T,
    slow: Handler,
) -> Next {
    let la = address::<FULL>(cpu, op);
    if !O::WRITES {
        let a: T = access!(cpu, op, FAST, slow, cpu.load_by::<_, FAST>(la));
        compute::<O, T>(cpu, a, b);
        return op.next(cpu);
    }
    let carry = O::CARRY && cpu.lazy.carry();
    let change = |a| O::result(a, b, carry);
    let (_, result) = access!(cpu, op, FAST, slow, cpu.modify_by::<T, FAST>(la, change));
    O::flags(cpu, b, result, carry);
    op.next(cpu)
}

pub fn alu_mr<O: Alu, T: Int, const FULL: bool, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let b: T = cpu.reg(op.b);
    alu_memory::<O, T, FULL, FAST>(cpu, op, b, alu_mr::<O, T, FULL, false>)
}

pub fn alu_mi<O: Alu, T: Int, const FULL: bool, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    alu_memory::<O, T, FULL, FAST>(cpu, op, T::from_u64(op.imm), alu_mi::<O, T, FULL, false>)
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
pub fn increment_m<T: Int, const UP: bool, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let la = address::<true>(cpu, op);
    let change = |old: T| T::from_u64(old.to_u64().wrapping_add(if UP { 1 } else { u64::MAX }));
    let slow = increment_m::<T, UP, false>;
    let (_, new) = access!(cpu, op, FAST, slow, cpu.modify_by::<T, FAST>(la, change));
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
pub fn shift_mi<const K: u8, T: Int, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let la = address::<true>(cpu, op);
    let count = op.imm as u32;
    let change = |a: T| shifted::<T, K>(a, count).0;
    let slow = shift_mi::<K, T, false>;
    let (old, _) = access!(cpu, op, FAST, slow, cpu.modify_by::<T, FAST>(la, change));
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

pub fn mul_m<T: Int, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let b: T = access!(cpu, op, FAST, mul_m::<T, false>, cpu.load_by::<_, FAST>(address::<true>(cpu, op)));
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
pub fn cmov_rm<T: Int, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let la = address::<true>(cpu, op);
    let source: T = access!(cpu, op, FAST, cmov_rm::<T, false>, cpu.load_by::<_, FAST>(la));
    let value = if cpu.lazy.condition(op.b) { source } else { cpu.reg(op.a) };
    cpu.set_reg(op.a, value);
    op.next(cpu)
}

/// SETcc of memory, with the condition in `b`.
pub fn setcc_m<const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let la = address::<true>(cpu, op);
    let value = u8::from(cpu.lazy.condition(op.b));
    access!(cpu, op, FAST, setcc_m::<false>, cpu.store_by::<_, FAST>(la, value));
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
pub fn bit_mi<T: Int, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let la = address::<true>(cpu, op);
    let a: T = access!(cpu, op, FAST, bit_mi::<T, false>, cpu.load_by::<_, FAST>(la));
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
fn pushed<const FAST: bool>(cpu: &mut Cpu, op: &Op, value: u64, slow: Handler) -> Next {
    let rsp = cpu.gpr[RSP].wrapping_sub(8);
    access!(cpu, op, FAST, slow, cpu.store_by::<_, FAST>(rsp, value));
    cpu.gpr[RSP] = rsp;
    op.next(cpu)
}

pub fn push_r<const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let value = cpu.reg(op.a);
    pushed::<FAST>(cpu, op, value, push_r::<false>)
}

pub fn push_i<const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    pushed::<FAST>(cpu, op, op.imm, push_i::<false>)
}

pub fn push_m<const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let la = address::<true>(cpu, op);
    let value = access!(cpu, op, FAST, push_m::<false>, cpu.load_by::<_, FAST>(la));
    pushed::<FAST>(cpu, op, value, push_m::<false>)
}

pub fn pop_r<const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let rsp = cpu.gpr[RSP];
    let value: u64 = access!(cpu, op, FAST, pop_r::<false>, cpu.load_by::<_, FAST>(rsp));
    cpu.gpr[RSP] = rsp.wrapping_add(8);
    cpu.set_reg(op.a, value);
    op.next(cpu)
}

pub fn leave<const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let rbp = cpu.gpr[5];
    let value: u64 = access!(cpu, op, FAST, leave::<false>, cpu.load_by::<_, FAST>(rbp));
    cpu.gpr[RSP] = rbp.wrapping_add(8);
    cpu.gpr[5] = value;
    op.next(cpu)
}

/// JMP to `imm`.
pub fn jmp(cpu: &mut Cpu, op: &Op) -> Next {
    branch(cpu, op)
}

/// Jcc to `imm`.
pub fn jcc<const CC: u8>(cpu: &mut Cpu, op: &Op) -> Next {
    if cpu.lazy.condition(CC) { branch(cpu, op) } else { op.next(cpu) }
}

/// CMP or TEST of a register with a register, or with `disp` if `IMM`, and the Jcc to `imm` behind it.
pub fn compare_jcc<O: Alu, T: Int, const IMM: bool, const CC: u8>(cpu: &mut Cpu, op: &Op) -> Next {
    let a: T = cpu.reg(op.a);
    let b = if IMM { T::from_u64(i64::from(op.disp) as u64) } else { cpu.reg::<T>(op.b) };
    let result = O::result(a, b, false);
    O::flags(cpu, b, result, false);
    // The kind is a constant here, so the compiler leaves only the comparison.
    if cpu.lazy.condition(CC) { branch(cpu, op) } else { op.next(cpu) }
}

/// Near CALL to `imm`.
pub fn call<const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let back = cpu.page_base.wrapping_add(op.end());
    let rsp = cpu.gpr[RSP].wrapping_sub(8);
    access!(cpu, op, FAST, call::<false>, cpu.store_by::<_, FAST>(rsp, back));
    cpu.gpr[RSP] = rsp;
    cpu.returns.push(back, cpu.code_page, op.following());
    branch(cpu, op)
}

#[inline(always)]
fn is_canonical(address: u64) -> bool {
    (address as i64) << 16 >> 16 == address as i64
}

#[cold]
fn bad_target(cpu: &mut Cpu, op: &Op) -> Next {
    let _ = cpu.general_protection::<()>();
    stopped(cpu, op)
}

/// Near RET, releasing `imm` bytes more.
pub fn ret<const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let rsp = cpu.gpr[RSP];
    let target: u64 = access!(cpu, op, FAST, ret::<false>, cpu.load_by::<_, FAST>(rsp));
    if !is_canonical(target) {
        return bad_target(cpu, op);
    }
    cpu.gpr[RSP] = rsp.wrapping_add(8).wrapping_add(op.imm);
    go_back(cpu, op, target)
}

#[inline(always)]
fn call_to<const FAST: bool>(cpu: &mut Cpu, op: &Op, target: u64, slow: Handler) -> Next {
    if !is_canonical(target) {
        return bad_target(cpu, op);
    }
    let back = cpu.page_base.wrapping_add(op.end());
    let rsp = cpu.gpr[RSP].wrapping_sub(8);
    access!(cpu, op, FAST, slow, cpu.store_by::<_, FAST>(rsp, back));
    cpu.gpr[RSP] = rsp;
    cpu.returns.push(back, cpu.code_page, op.following());
    go_again(cpu, op, target)
}

pub fn call_r<const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let target = cpu.reg(op.a);
    call_to::<FAST>(cpu, op, target, call_r::<false>)
}

pub fn call_m<const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let la = address::<true>(cpu, op);
    let target = access!(cpu, op, FAST, call_m::<false>, cpu.load_by::<_, FAST>(la));
    call_to::<FAST>(cpu, op, target, call_m::<false>)
}

pub fn jmp_r(cpu: &mut Cpu, op: &Op) -> Next {
    let target = cpu.reg(op.a);
    if is_canonical(target) { go_again(cpu, op, target) } else { bad_target(cpu, op) }
}

pub fn jmp_m<const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let target = access!(cpu, op, FAST, jmp_m::<false>, cpu.load_by::<_, FAST>(address::<true>(cpu, op)));
    if is_canonical(target) { go_again(cpu, op, target) } else { bad_target(cpu, op) }
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
        cpu.rip = cpu.page_base.wrapping_add(op.end());
        return LEAVE;
    }
    op.next(cpu)
}

//! Specialised handlers of SSE instructions on whole XMM registers, in 64-bit mode.
//!
//! Fields of an operation: `imm` is the function that computes the result, `link` the instruction's
//! immediate, `a` the first operand's register, `b` the second's, and `base`, `index`, `scale`, `disp` the
//! address.

use iced_x86::{Instruction, OpKind};

use super::fast::{aborted, stopped};
use super::operand::register_offset;
use super::select::memory;
use super::special::{FULL, address, hand_over};
use super::vector::{has_memory, immediate};
use crate::accel::soft::abort::Exec;
use crate::accel::soft::op::{Handler, Next, Op};
use crate::accel::soft::sse::{self, ExtractFn, Form, FpFn, IntFn, StoreFn};
use crate::accel::soft::state::Cpu;

/// The function of an operation.
///
/// # Safety
/// `F` is the type of the function that `select` has stored.
unsafe fn function<F: Copy>(op: &Op) -> F {
    const { assert!(size_of::<F>() == size_of::<usize>()) };
    let address = std::ptr::with_exposed_provenance::<()>(op.imm as usize);
    // SAFETY: the caller vouches for the type; a function's pointer has the size of any pointer.
    unsafe { std::mem::transmute_copy(&address) }
}

fn store_function(op: &mut Op, address: *const (), i: &Instruction) {
    op.imm = address.expose_provenance() as u64;
    op.link.set(immediate(i).into());
}

/// The value of a step that may fault, or the way out.
macro_rules! access {
    ($cpu:ident, $op:ident, $result:expr) => {
        match $result {
            Ok(value) => value,
            Err(_) => return aborted($cpu, $op),
        }
    };
}

/// Leaves the operation unless SSE instructions are allowed.
macro_rules! require_sse {
    ($cpu:ident, $op:ident) => {
        if !$cpu.allows_sse() {
            let _ = $cpu.check_sse();
            return stopped($cpu, $op);
        }
    };
}

/// Leaves the operation if its operand is not aligned.
macro_rules! require_alignment {
    ($cpu:ident, $op:ident, $la:ident, $aligned:ident) => {
        if $aligned && !$la.is_multiple_of(16) {
            let _ = $cpu.general_protection::<()>();
            // An address that is not canonical comes before one that is not aligned.
            return if $cpu.is_canonical($la) { stopped($cpu, $op) } else { aborted($cpu, $op) };
        }
    };
}

impl Cpu {
    /// `BYTES` (4, 8 or 16) of memory, zero-extended; with `FAST` only by a translation that is at hand.
    #[inline(always)]
    fn load_packed<const BYTES: u8, const FAST: bool>(&mut self, la: u64) -> Exec<u128> {
        match BYTES {
            4 => self.load_by::<u32, FAST>(la).map(u128::from),
            8 => self.load_by::<u64, FAST>(la).map(u128::from),
            _ if FAST => self.load_pair(la),
            _ => self.load_vector(la, 16),
        }
    }
}

/// `a <- f(a, b)`.
fn integer_rr(cpu: &mut Cpu, op: &Op) -> Next {
    require_sse!(cpu, op);
    // SAFETY: `select` stores an `IntFn` for this handler.
    let f: IntFn = unsafe { function(op) };
    let (a, b) = (usize::from(op.a & 15), usize::from(op.b & 15));
    cpu.xmm[a] = f(cpu.xmm[a], cpu.xmm[b], op.link.get() as u8);
    op.next(cpu)
}

/// `a <- f(a, memory)`.
fn integer_rm<const BYTES: u8, const ALIGNED: bool, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    require_sse!(cpu, op);
    let la = address::<FULL>(cpu, op, 1);
    require_alignment!(cpu, op, la, ALIGNED);
    let Ok(b) = cpu.load_packed::<BYTES, FAST>(la) else {
        return if FAST { hand_over(cpu, op, integer_rm::<BYTES, ALIGNED, false>) } else { aborted(cpu, op) };
    };
    // SAFETY: `select` stores an `IntFn` for this handler.
    let f: IntFn = unsafe { function(op) };
    let a = usize::from(op.a & 15);
    cpu.xmm[a] = f(cpu.xmm[a], b, op.link.get() as u8);
    op.next(cpu)
}

/// `a <- f(a, b)` in floating point.
fn float_rr(cpu: &mut Cpu, op: &Op) -> Next {
    require_sse!(cpu, op);
    let b = cpu.xmm[usize::from(op.b & 15)];
    float(cpu, op, b)
}

/// `a <- f(a, memory)` in floating point.
fn float_rm<const BYTES: u8, const ALIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    require_sse!(cpu, op);
    let la = address::<FULL>(cpu, op, 1);
    require_alignment!(cpu, op, la, ALIGNED);
    let b = access!(cpu, op, cpu.load_packed::<BYTES, false>(la));
    float(cpu, op, b)
}

fn float(cpu: &mut Cpu, op: &Op, b: u128) -> Next {
    // SAFETY: `select` stores an `FpFn` for the handlers that come here.
    let f: FpFn = unsafe { function(op) };
    let a = usize::from(op.a & 15);
    match f(cpu.xmm[a], b, op.link.get() as u8, &mut cpu.mxcsr) {
        Ok(value) => {
            cpu.xmm[a] = value;
            op.following()
        }
        Err(_) => {
            let _ = cpu.simd_exception::<()>();
            stopped(cpu, op)
        }
    }
}

/// `memory <- f(b)`.
fn store<const BYTES: u8, const ALIGNED: bool, const FAST: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    require_sse!(cpu, op);
    let la = address::<FULL>(cpu, op, 1);
    require_alignment!(cpu, op, la, ALIGNED);
    // SAFETY: `select` stores a `StoreFn` for this handler.
    let f: StoreFn = unsafe { function(op) };
    let value = f(cpu.xmm[usize::from(op.b & 15)], op.link.get() as u8);
    let stored = match BYTES {
        4 => cpu.store_by::<u32, FAST>(la, value as u32),
        8 => cpu.store_by::<u64, FAST>(la, value as u64),
        _ if FAST => cpu.store_pair(la, value),
        _ => cpu.store_vector(la, 16, value),
    };
    if stored.is_err() {
        return if FAST { hand_over(cpu, op, store::<BYTES, ALIGNED, false>) } else { aborted(cpu, op) };
    }
    op.next(cpu)
}

/// `a, a general register <- f(b)`.
fn extract(cpu: &mut Cpu, op: &Op) -> Next {
    require_sse!(cpu, op);
    // SAFETY: `select` stores an `ExtractFn` for this handler.
    let f: ExtractFn = unsafe { function(op) };
    let value = f(cpu.xmm[usize::from(op.b & 15)], op.link.get() as u8);
    cpu.set_reg(op.a, value);
    op.next(cpu)
}

/// The specialised handler of an SSE instruction, with its operation's fields filled in; `None` if it has
/// only the general form.
pub fn select(cpu: &Cpu, i: &Instruction, op: &mut Op) -> Option<Handler> {
    if !cpu.is_long() {
        return None;
    }
    let from_memory = has_memory(i);
    let form = sse::lookup(i.code(), from_memory)?;
    let xmm = |n: u32| {
        let register = i.op_register(n);
        (i.op_kind(n) == OpKind::Register && register.is_xmm()).then(|| register.number() as u8)
    };
    let handler: Handler = match form {
        Form::Xmm { bytes, aligned, .. } | Form::XmmFp { bytes, aligned, .. } => {
            op.a = xmm(0)?;
            let is_float = matches!(form, Form::XmmFp { .. });
            if from_memory {
                memory(cpu, i, op)?;
                match (is_float, bytes, aligned) {
                    (false, 16, true) => integer_rm::<16, true, true>,
                    (false, 16, false) => integer_rm::<16, false, true>,
                    (false, 8, false) => integer_rm::<8, false, true>,
                    (false, 4, false) => integer_rm::<4, false, true>,
                    (true, 16, true) => float_rm::<16, true>,
                    (true, 8, false) => float_rm::<8, false>,
                    (true, 4, false) => float_rm::<4, false>,
                    _ => return None,
                }
            } else {
                op.b = xmm(1)?;
                if is_float { float_rr } else { integer_rr }
            }
        }
        Form::XmmImm { .. } => {
            op.a = xmm(0)?;
            op.b = op.a;
            integer_rr
        }
        Form::Store { bytes, aligned, .. } => {
            op.b = xmm(1)?;
            memory(cpu, i, op)?;
            match (bytes, aligned) {
                (16, true) => store::<16, true, true>,
                (16, false) => store::<16, false, true>,
                (8, false) => store::<8, false, true>,
                (4, false) => store::<4, false, true>,
                _ => return None,
            }
        }
        Form::Gpr { .. } => {
            op.b = xmm(1)?;
            op.a = register_offset(i.op0_register());
            extract
        }
        _ => return None,
    };
    match form {
        Form::Xmm { f, .. } => store_function(op, f as *const (), i),
        // The functions of shifts by an immediate take no second operand.
        Form::XmmImm { f } => store_function(op, f as *const (), i),
        Form::XmmFp { f, .. } => store_function(op, f as *const (), i),
        Form::Store { f, .. } => store_function(op, f as *const (), i),
        Form::Gpr { f } => store_function(op, f as *const (), i),
        _ => return None,
    }
    Some(handler)
}

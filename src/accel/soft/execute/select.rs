//! Chooses the specialised handler of an instruction.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use super::operand::{operand_size, register_offset};
use super::packed;
use super::special as s;
use super::{Adc, Add, And, Cmp, Conditional, Or, Sbb, ShiftKind, Sub, Test, Xor, condition};
use crate::accel::soft::op::{Handler, Op};
use crate::accel::soft::state::{Cpu, PAGE_BASE_SLOT, ZERO_SLOT, plain_base_slot, seg, segment_slot};

/// Picks the instance of a handler by operand size.
macro_rules! sized {
    ($size:expr, $f:ident $(, $g:tt)*) => {
        match $size {
            1 => s::$f::<$($g,)* u8>,
            2 => s::$f::<$($g,)* u16>,
            4 => s::$f::<$($g,)* u32>,
            _ => s::$f::<$($g,)* u64>,
        }
    };
}

/// As `sized`, of a handler with a memory operand, addressed as `memory` has found. 32-bit code has no operands of
/// 64 bits.
macro_rules! sized_memory {
    ($size:expr, $kind:expr, $f:ident $(, $g:tt)*) => {
        match ($size, $kind) {
            (1, s::BASE) => s::$f::<$($g,)* u8, { s::BASE }, true>,
            (2, s::BASE) => s::$f::<$($g,)* u16, { s::BASE }, true>,
            (4, s::BASE) => s::$f::<$($g,)* u32, { s::BASE }, true>,
            (_, s::BASE) => s::$f::<$($g,)* u64, { s::BASE }, true>,
            (1, s::FULL) => s::$f::<$($g,)* u8, { s::FULL }, true>,
            (2, s::FULL) => s::$f::<$($g,)* u16, { s::FULL }, true>,
            (4, s::FULL) => s::$f::<$($g,)* u32, { s::FULL }, true>,
            (_, s::FULL) => s::$f::<$($g,)* u64, { s::FULL }, true>,
            (1, s::FLAT) => s::$f::<$($g,)* u8, { s::FLAT }, true>,
            (2, s::FLAT) => s::$f::<$($g,)* u16, { s::FLAT }, true>,
            (_, s::FLAT) => s::$f::<$($g,)* u32, { s::FLAT }, true>,
            (1, _) => s::$f::<$($g,)* u8, { s::FLAT_FULL }, true>,
            (2, _) => s::$f::<$($g,)* u16, { s::FLAT_FULL }, true>,
            (_, _) => s::$f::<$($g,)* u32, { s::FLAT_FULL }, true>,
        }
    };
}

/// Picks the instance of a handler that knows only the full forms of an address.
macro_rules! full {
    ($kind:expr, $f:ident $(, $g:tt)*) => {
        if $kind <= s::FULL { s::$f::<$($g,)* { s::FULL }, true> } else { s::$f::<$($g,)* { s::FLAT_FULL }, true> }
    };
}

/// Binds `$o` to the operation of an ALU mnemonic.
macro_rules! with_operation {
    ($mnemonic:expr, $o:ident => $body:expr) => {
        match $mnemonic {
            Mnemonic::Add => {
                type $o = Add;
                $body
            }
            Mnemonic::Or => {
                type $o = Or;
                $body
            }
            Mnemonic::Adc => {
                type $o = Adc;
                $body
            }
            Mnemonic::Sbb => {
                type $o = Sbb;
                $body
            }
            Mnemonic::And => {
                type $o = And;
                $body
            }
            Mnemonic::Sub => {
                type $o = Sub;
                $body
            }
            Mnemonic::Xor => {
                type $o = Xor;
                $body
            }
            Mnemonic::Cmp => {
                type $o = Cmp;
                $body
            }
            _ => {
                type $o = Test;
                $body
            }
        }
    };
}

/// Picks the instance of a handler by condition.
macro_rules! by_condition {
    ($cc:expr, $f:ident $(, $g:tt)*) => {
        match $cc {
            0 => s::$f::<$($g,)* 0>,
            1 => s::$f::<$($g,)* 1>,
            2 => s::$f::<$($g,)* 2>,
            3 => s::$f::<$($g,)* 3>,
            4 => s::$f::<$($g,)* 4>,
            5 => s::$f::<$($g,)* 5>,
            6 => s::$f::<$($g,)* 6>,
            7 => s::$f::<$($g,)* 7>,
            8 => s::$f::<$($g,)* 8>,
            9 => s::$f::<$($g,)* 9>,
            10 => s::$f::<$($g,)* 10>,
            11 => s::$f::<$($g,)* 11>,
            12 => s::$f::<$($g,)* 12>,
            13 => s::$f::<$($g,)* 13>,
            14 => s::$f::<$($g,)* 14>,
            _ => s::$f::<$($g,)* 15>,
        }
    };
}

/// Picks the handler of a CMP or TEST and the Jcc behind it, or leaves the function.
macro_rules! compare_and_jump {
    ($flat:tt, $mnemonic:expr, $size:expr, $immediate:expr, $code:expr) => {{
        let handler: Handler = match ($mnemonic, $size, $immediate) {
            (Mnemonic::Cmp, 4, false) => by_condition!($code, compare_jcc, $flat, Cmp, u32, false),
            (Mnemonic::Cmp, 8, false) => by_condition!($code, compare_jcc, $flat, Cmp, u64, false),
            (Mnemonic::Cmp, 4, true) => by_condition!($code, compare_jcc, $flat, Cmp, u32, true),
            (Mnemonic::Cmp, 8, true) => by_condition!($code, compare_jcc, $flat, Cmp, u64, true),
            (Mnemonic::Test, 4, false) => by_condition!($code, compare_jcc, $flat, Test, u32, false),
            (Mnemonic::Test, 8, false) => by_condition!($code, compare_jcc, $flat, Test, u64, false),
            (Mnemonic::Test, 1, false) => by_condition!($code, compare_jcc, $flat, Test, u8, false),
            (Mnemonic::Cmp, 1, true) => by_condition!($code, compare_jcc, $flat, Cmp, u8, true),
            _ => return None,
        };
        handler
    }};
}

fn register(i: &Instruction, n: u32) -> Option<Register> {
    let register = i.op_register(n);
    (i.op_kind(n) == OpKind::Register && register.is_gpr()).then_some(register)
}

/// Fills in the address of the memory operand; gives its kind. `None` if only the general form can compute it.
pub fn memory(cpu: &Cpu, i: &Instruction, op: &mut Op) -> Option<u8> {
    if cpu.flat {
        return flat_memory(i, op);
    }
    if !cpu.is_long() {
        return None;
    }
    let slot = |register: Register| match register {
        Register::None => Some(ZERO_SLOT),
        Register::RIP => Some(PAGE_BASE_SLOT),
        r if r.is_gpr64() => Some(r.number() as u8),
        _ => None,
    };
    op.base = slot(i.memory_base())?;
    op.index = slot(i.memory_index())?;
    if op.base == ZERO_SLOT && op.index == ZERO_SLOT && i.memory_displ_size() != 8 {
        return None;
    }
    op.disp = i32::try_from(i.memory_displacement64() as i64).ok()?;
    let segment = match i.memory_segment() {
        Register::FS => segment_slot(seg::FS),
        Register::GS => segment_slot(seg::GS),
        _ => ZERO_SLOT,
    };
    op.scale = i.memory_index_scale().trailing_zeros() as u8 | segment << 2;
    Some(if op.index != ZERO_SLOT || segment != ZERO_SLOT { s::FULL } else { s::BASE })
}

/// As `memory`, in flat 32-bit code.
fn flat_memory(i: &Instruction, op: &mut Op) -> Option<u8> {
    let slot = |register: Register| match register {
        Register::None => Some(ZERO_SLOT),
        r if r.is_gpr32() => Some(r.number() as u8),
        _ => None,
    };
    op.base = slot(i.memory_base())?;
    op.index = slot(i.memory_index())?;
    if op.base == ZERO_SLOT && op.index == ZERO_SLOT && i.memory_displ_size() != 4 {
        return None;
    }
    op.disp = i.memory_displacement32().cast_signed();
    let segment = match i.segment_prefix() {
        Register::None => ZERO_SLOT,
        Register::FS => plain_base_slot(false),
        Register::GS => plain_base_slot(true),
        // The handlers take DS or SS by the base register.
        _ => return None,
    };
    op.scale = i.memory_index_scale().trailing_zeros() as u8 | segment << 2;
    Some(if op.index != ZERO_SLOT || segment != ZERO_SLOT { s::FLAT_FULL } else { s::FLAT })
}

fn is_memory(i: &Instruction, n: u32) -> bool {
    i.op_kind(n) == OpKind::Memory
}

fn is_immediate(i: &Instruction, n: u32) -> bool {
    matches!(
        i.op_kind(n),
        OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
}

/// Whether an instruction does nothing at all, so that no operation need stand for it.
pub fn is_nop(i: &Instruction) -> bool {
    !i.has_lock_prefix()
        && matches!(
            i.mnemonic(),
            Mnemonic::Nop
                | Mnemonic::Reservednop
                | Mnemonic::Endbr64
                | Mnemonic::Endbr32
                | Mnemonic::Prefetchnta
                | Mnemonic::Prefetcht0
                | Mnemonic::Prefetcht1
                | Mnemonic::Prefetcht2
                | Mnemonic::Prefetchw
        )
}

/// The specialised handler of an instruction, with its operation's fields filled in; `None` if it has
/// only the general form.
pub fn select(cpu: &Cpu, i: &Instruction, op: &mut Op) -> Option<Handler> {
    if i.has_lock_prefix() {
        return None;
    }
    match i.mnemonic() {
        Mnemonic::Add
        | Mnemonic::Or
        | Mnemonic::Adc
        | Mnemonic::Sbb
        | Mnemonic::And
        | Mnemonic::Sub
        | Mnemonic::Xor
        | Mnemonic::Cmp
        | Mnemonic::Test => alu(cpu, i, op),
        Mnemonic::Mov => mov(cpu, i, op),
        Mnemonic::Lea => {
            let kind = memory(cpu, i, op)?;
            if i.memory_segment() == Register::FS || i.memory_segment() == Register::GS {
                return None;
            }
            op.a = register_offset(i.op0_register());
            match (i.op0_register().size(), kind) {
                (8, s::BASE) => Some(s::lea::<{ s::BASE }>),
                (8, _) => Some(s::lea::<{ s::FULL }>),
                (4, s::BASE | s::FLAT) => Some(s::lea32::<{ s::BASE }>),
                (4, _) => Some(s::lea32::<{ s::FULL }>),
                _ => None,
            }
        }
        Mnemonic::Movzx | Mnemonic::Movsx | Mnemonic::Movsxd => extend(cpu, i, op),
        Mnemonic::Inc | Mnemonic::Dec | Mnemonic::Neg | Mnemonic::Not => {
            if is_memory(i, 0) {
                let kind = memory(cpu, i, op)?;
                return match (i.mnemonic(), i.memory_size().size()) {
                    (Mnemonic::Inc, 1) => Some(full!(kind, increment_m, u8, true)),
                    (Mnemonic::Inc, 2) => Some(full!(kind, increment_m, u16, true)),
                    (Mnemonic::Inc, 4) => Some(full!(kind, increment_m, u32, true)),
                    (Mnemonic::Inc, _) => Some(full!(kind, increment_m, u64, true)),
                    (Mnemonic::Dec, 1) => Some(full!(kind, increment_m, u8, false)),
                    (Mnemonic::Dec, 2) => Some(full!(kind, increment_m, u16, false)),
                    (Mnemonic::Dec, 4) => Some(full!(kind, increment_m, u32, false)),
                    (Mnemonic::Dec, _) => Some(full!(kind, increment_m, u64, false)),
                    _ => None,
                };
            }
            let r = register(i, 0)?;
            op.a = register_offset(r);
            Some(match i.mnemonic() {
                Mnemonic::Inc => sized!(r.size(), increment_r, true),
                Mnemonic::Dec => sized!(r.size(), increment_r, false),
                Mnemonic::Neg => sized!(r.size(), neg_r),
                _ => sized!(r.size(), not_r),
            })
        }
        Mnemonic::Shl | Mnemonic::Sal => shift::<{ ShiftKind::Shl as u8 }>(cpu, i, op),
        Mnemonic::Shr => shift::<{ ShiftKind::Shr as u8 }>(cpu, i, op),
        Mnemonic::Sar => shift::<{ ShiftKind::Sar as u8 }>(cpu, i, op),
        Mnemonic::Imul => imul(i, op),
        Mnemonic::Mul => {
            let size = if is_memory(i, 0) { i.memory_size().size() } else { i.op0_register().size() };
            if size < 4 {
                return None;
            }
            if is_memory(i, 0) {
                let kind = memory(cpu, i, op)?;
                return Some(if size == 4 { full!(kind, mul_m, u32) } else { full!(kind, mul_m, u64) });
            }
            op.a = register_offset(i.op0_register());
            Some(if size == 4 { s::mul_r::<u32> } else { s::mul_r::<u64> })
        }
        Mnemonic::Bswap => {
            op.a = register_offset(i.op0_register());
            match i.op0_register().size() {
                4 => Some(s::bswap::<u32>),
                8 => Some(s::bswap::<u64>),
                _ => None,
            }
        }
        Mnemonic::Cdqe => Some(s::cdqe),
        Mnemonic::Xchg => {
            let (a, b) = (register(i, 0)?, register(i, 1)?);
            (op.a, op.b) = (register_offset(a), register_offset(b));
            Some(sized!(a.size(), xchg_rr))
        }
        Mnemonic::Bt => bit::<0>(cpu, i, op),
        Mnemonic::Bts => bit::<1>(cpu, i, op),
        Mnemonic::Btr => bit::<2>(cpu, i, op),
        Mnemonic::Btc => bit::<3>(cpu, i, op),
        Mnemonic::Cdq => Some(s::sign_to_rdx::<u32>),
        Mnemonic::Cqo => Some(s::sign_to_rdx::<u64>),
        Mnemonic::Rol => rotate::<true>(i, op),
        Mnemonic::Ror => rotate::<false>(i, op),
        _ if cpu.flat => flat_code(cpu, i, op),
        _ if cpu.is_long() => long_mode(cpu, i, op).or_else(|| packed::select(cpu, i, op)),
        _ => match condition(i) {
            Some(_) => conditional(cpu, i, op),
            None => None,
        },
    }
}

/// Stack and control instructions of 64-bit mode.
fn long_mode(cpu: &Cpu, i: &Instruction, op: &mut Op) -> Option<Handler> {
    match i.code() {
        Code::Push_r64 => stacked_register(i, op, s::push_r::<u64, true>),
        Code::Pushq_imm8 | Code::Pushq_imm32 => stacked_immediate(i, op, s::push_i::<u64, true>),
        Code::Push_rm64 if is_memory(i, 0) => {
            memory(cpu, i, op).map(|_| s::push_m::<u64, { s::FULL }, true> as Handler)
        }
        Code::Pop_r64 => stacked_register(i, op, s::pop_r::<u64, true>),
        Code::Cli => Some(s::cli),
        Code::Sti => Some(s::sti::<false>),
        Code::Leaveq => stacked(op, s::leave::<u64, true>),
        Code::Retnq => stacked(op, s::ret::<u64, true>),
        Code::Retnq_imm16 => stacked_immediate(i, op, s::ret::<u64, true>),
        Code::Jmp_rel8_64 | Code::Jmp_rel32_64 => to_target(i, op, s::jmp::<false>),
        Code::Call_rel32_64 => stacked(op, s::call::<u64, true>).and_then(|call| to_target(i, op, call)),
        Code::Call_rm64 if is_memory(i, 0) => {
            memory(cpu, i, op).map(|_| s::call_m::<u64, { s::FULL }, true> as Handler)
        }
        Code::Call_rm64 => stacked_register(i, op, s::call_r::<u64, true>),
        Code::Jmp_rm64 if is_memory(i, 0) => {
            memory(cpu, i, op).map(|_| s::jmp_m::<u64, { s::FULL }, true> as Handler)
        }
        Code::Jmp_rm64 => stacked_register(i, op, s::jmp_r::<u64>),
        _ => conditional(cpu, i, op),
    }
}

/// Stack and control instructions of flat 32-bit code.
fn flat_code(cpu: &Cpu, i: &Instruction, op: &mut Op) -> Option<Handler> {
    match i.code() {
        Code::Push_r32 => stacked_register(i, op, s::push_r::<u32, true>),
        Code::Pushd_imm8 | Code::Pushd_imm32 => stacked_immediate(i, op, s::push_i::<u32, true>),
        Code::Push_rm32 if is_memory(i, 0) => {
            memory(cpu, i, op).map(|_| s::push_m::<u32, { s::FLAT_FULL }, true> as Handler)
        }
        Code::Pop_r32 => stacked_register(i, op, s::pop_r::<u32, true>),
        Code::Cli => Some(s::cli),
        Code::Sti => Some(s::sti::<false>),
        Code::Leaved => stacked(op, s::leave::<u32, true>),
        Code::Retnd => stacked(op, s::ret::<u32, true>),
        Code::Retnd_imm16 => stacked_immediate(i, op, s::ret::<u32, true>),
        Code::Jmp_rel8_32 | Code::Jmp_rel32_32 => to_target(i, op, s::jmp::<true>),
        Code::Call_rel32_32 => stacked(op, s::call::<u32, true>).and_then(|call| to_target(i, op, call)),
        Code::Call_rm32 if is_memory(i, 0) => {
            memory(cpu, i, op).map(|_| s::call_m::<u32, { s::FLAT_FULL }, true> as Handler)
        }
        Code::Call_rm32 => stacked_register(i, op, s::call_r::<u32, true>),
        Code::Jmp_rm32 if is_memory(i, 0) => {
            memory(cpu, i, op).map(|_| s::jmp_m::<u32, { s::FLAT_FULL }, true> as Handler)
        }
        Code::Jmp_rm32 => stacked_register(i, op, s::jmp_r::<u32>),
        _ => conditional(cpu, i, op),
    }
}

/// Notes what a fault has to know of an access to the stack.
fn stacked(op: &mut Op, handler: Handler) -> Option<Handler> {
    (op.base, op.scale) = (4, ZERO_SLOT << 2);
    Some(handler)
}

fn stacked_register(i: &Instruction, op: &mut Op, handler: Handler) -> Option<Handler> {
    op.a = register_offset(i.op0_register());
    stacked(op, handler)
}

fn stacked_immediate(i: &Instruction, op: &mut Op, handler: Handler) -> Option<Handler> {
    op.imm = i.immediate(0);
    stacked(op, handler)
}

fn to_target(i: &Instruction, op: &mut Op, handler: Handler) -> Option<Handler> {
    op.imm = i.near_branch64();
    Some(handler)
}

fn conditional(cpu: &Cpu, i: &Instruction, op: &mut Op) -> Option<Handler> {
    let (what, code) = condition(i)?;
    match what {
        Conditional::Jump => {
            // Targets of 16 bits wrap by themselves.
            if i.op0_kind() == OpKind::NearBranch16 {
                return None;
            }
            op.imm = i.near_branch64();
            Some(if cpu.flat { by_condition!(code, jcc, true) } else { by_condition!(code, jcc, false) })
        }
        Conditional::Set => {
            if is_memory(i, 0) {
                let kind = memory(cpu, i, op)?;
                op.b = code;
                return Some(full!(kind, setcc_m));
            }
            op.a = register_offset(register(i, 0)?);
            op.index = code;
            Some(s::setcc_r)
        }
        Conditional::Move => {
            let a = register(i, 0)?;
            op.a = register_offset(a);
            if is_memory(i, 1) {
                let kind = memory(cpu, i, op)?;
                op.b = code;
                return match a.size() {
                    2 => Some(full!(kind, cmov_rm, u16)),
                    4 => Some(full!(kind, cmov_rm, u32)),
                    _ => Some(full!(kind, cmov_rm, u64)),
                };
            }
            op.b = register_offset(register(i, 1)?);
            match a.size() {
                4 => Some(by_condition!(code, cmov_rr, u32)),
                8 => Some(by_condition!(code, cmov_rr, u64)),
                _ => None,
            }
        }
    }
}

fn alu(cpu: &Cpu, i: &Instruction, op: &mut Op) -> Option<Handler> {
    let mnemonic = i.mnemonic();
    if let Some(a) = register(i, 0) {
        op.a = register_offset(a);
        let size = a.size();
        if let Some(b) = register(i, 1) {
            op.b = register_offset(b);
            return Some(with_operation!(mnemonic, O => sized!(size, alu_rr, O)));
        }
        if is_immediate(i, 1) {
            op.imm = i.immediate(1);
            return Some(with_operation!(mnemonic, O => sized!(size, alu_ri, O)));
        }
        let kind = memory(cpu, i, op)?;
        return Some(with_operation!(mnemonic, O => sized_memory!(size, kind, alu_rm, O)));
    }
    let kind = memory(cpu, i, op)?;
    let size = i.memory_size().size();
    if let Some(b) = register(i, 1) {
        op.b = register_offset(b);
        return Some(with_operation!(mnemonic, O => sized_memory!(size, kind, alu_mr, O)));
    }
    op.imm = i.immediate(1);
    Some(with_operation!(mnemonic, O => sized_memory!(size, kind, alu_mi, O)))
}

fn mov(cpu: &Cpu, i: &Instruction, op: &mut Op) -> Option<Handler> {
    if let Some(a) = register(i, 0) {
        op.a = register_offset(a);
        let size = a.size();
        if let Some(b) = register(i, 1) {
            op.b = register_offset(b);
            return Some(sized!(size, mov_rr));
        }
        if is_immediate(i, 1) {
            op.imm = i.immediate(1);
            return Some(sized!(size, mov_ri));
        }
        if !is_memory(i, 1) {
            return None;
        }
        let kind = memory(cpu, i, op)?;
        return Some(sized_memory!(size, kind, mov_rm));
    }
    if !is_memory(i, 0) {
        return None;
    }
    if is_immediate(i, 1) {
        let kind = memory(cpu, i, op)?;
        op.imm = i.immediate(1);
        return Some(sized_memory!(i.memory_size().size(), kind, mov_mi));
    }
    let b = register(i, 1)?;
    let kind = memory(cpu, i, op)?;
    op.b = register_offset(b);
    Some(sized_memory!(b.size(), kind, mov_mr))
}

fn extend(cpu: &Cpu, i: &Instruction, op: &mut Op) -> Option<Handler> {
    let destination = i.op0_register();
    op.a = register_offset(destination);
    let signed = i.mnemonic() != Mnemonic::Movzx;
    if let Some(b) = register(i, 1) {
        op.b = register_offset(b);
        return match (b.size(), destination.size(), signed) {
            // Zero extension to 32 bits is one to 64.
            (1, 4 | 8, false) => Some(s::extend_rr::<u8, u64, false>),
            (2, 4 | 8, false) => Some(s::extend_rr::<u16, u64, false>),
            (1, 4, true) => Some(s::extend_rr::<u8, u32, true>),
            (1, 8, true) => Some(s::extend_rr::<u8, u64, true>),
            (2, 4, true) => Some(s::extend_rr::<u16, u32, true>),
            (2, 8, true) => Some(s::extend_rr::<u16, u64, true>),
            (4, 8, true) => Some(s::extend_rr::<u32, u64, true>),
            _ => None,
        };
    }
    let kind = memory(cpu, i, op)?;
    match (i.memory_size().size(), destination.size(), signed) {
        (1, 4 | 8, false) => Some(full!(kind, extend_rm, u8, u64, false)),
        (2, 4 | 8, false) => Some(full!(kind, extend_rm, u16, u64, false)),
        (1, 4, true) => Some(full!(kind, extend_rm, u8, u32, true)),
        (1, 8, true) => Some(full!(kind, extend_rm, u8, u64, true)),
        (2, 4, true) => Some(full!(kind, extend_rm, u16, u32, true)),
        (2, 8, true) => Some(full!(kind, extend_rm, u16, u64, true)),
        (4, 8, true) => Some(full!(kind, extend_rm, u32, u64, true)),
        _ => None,
    }
}

fn shift<const K: u8>(cpu: &Cpu, i: &Instruction, op: &mut Op) -> Option<Handler> {
    let size = operand_size(i, 0);
    let bits = size as u64 * 8;
    let by_cl = i.op_kind(1) == OpKind::Register;
    if !by_cl {
        op.imm = i.immediate(1) & if bits == 64 { 63 } else { 31 };
        if op.imm == 0 || op.imm >= bits {
            return None;
        }
    }
    if is_memory(i, 0) {
        if by_cl {
            return None;
        }
        let kind = memory(cpu, i, op)?;
        return Some(match size {
            1 => full!(kind, shift_mi, K, u8),
            2 => full!(kind, shift_mi, K, u16),
            4 => full!(kind, shift_mi, K, u32),
            _ => full!(kind, shift_mi, K, u64),
        });
    }
    op.a = register_offset(register(i, 0)?);
    match (size, by_cl) {
        (4, true) => Some(s::shift_rc::<u32, K>),
        (8, true) => Some(s::shift_rc::<u64, K>),
        (_, true) => None,
        (1, false) => Some(s::shift_ri::<u8, K>),
        (2, false) => Some(s::shift_ri::<u16, K>),
        (4, false) => Some(s::shift_ri::<u32, K>),
        (_, false) => Some(s::shift_ri::<u64, K>),
    }
}

fn rotate<const LEFT: bool>(i: &Instruction, op: &mut Op) -> Option<Handler> {
    let a = register(i, 0)?;
    op.a = register_offset(a);
    let bits = a.size() as u64 * 8;
    if i.op_kind(1) == OpKind::Register || bits < 32 {
        return None;
    }
    op.imm = i.immediate(1) & (bits - 1);
    match (op.imm, bits) {
        (0, _) => None,
        (_, 32) => Some(s::rotate_ri::<u32, LEFT>),
        _ => Some(s::rotate_ri::<u64, LEFT>),
    }
}

/// BT, BTS, BTR, BTC as `K` from 0 to 3.
fn bit<const K: u8>(cpu: &Cpu, i: &Instruction, op: &mut Op) -> Option<Handler> {
    let size = operand_size(i, 0);
    let immediate = is_immediate(i, 1);
    if immediate {
        op.imm = i.immediate(1) % (size as u64 * 8);
    }
    if is_memory(i, 0) {
        if K != 0 || !immediate {
            return None;
        }
        let kind = memory(cpu, i, op)?;
        return match size {
            2 => Some(full!(kind, bit_mi, u16)),
            4 => Some(full!(kind, bit_mi, u32)),
            _ => Some(full!(kind, bit_mi, u64)),
        };
    }
    op.a = register_offset(register(i, 0)?);
    if !immediate {
        op.b = register_offset(register(i, 1)?);
    }
    match (size, immediate) {
        (2, true) => Some(s::bit_ri::<K, u16>),
        (4, true) => Some(s::bit_ri::<K, u32>),
        (_, true) => Some(s::bit_ri::<K, u64>),
        (2, false) => Some(s::bit_rr::<K, u16>),
        (4, false) => Some(s::bit_rr::<K, u32>),
        (_, false) => Some(s::bit_rr::<K, u64>),
    }
}

fn imul(i: &Instruction, op: &mut Op) -> Option<Handler> {
    let a = register(i, 0)?;
    let b = register(i, 1)?;
    (op.a, op.b) = (register_offset(a), register_offset(b));
    if i.op_count() == 3 {
        op.imm = i.immediate(2);
    }
    match (a.size(), i.op_count()) {
        (4, 2) => Some(s::imul_r::<u32, false>),
        (8, 2) => Some(s::imul_r::<u64, false>),
        (4, 3) => Some(s::imul_r::<u32, true>),
        (8, 3) => Some(s::imul_r::<u64, true>),
        _ => None,
    }
}

/// The handler of an STI that ends a block, where STI has a handler of its own.
pub const LAST_STI: Handler = s::sti::<true>;

/// Joins a CMP or TEST of registers of 32 or 64 bits with the Jcc that follows; `first` is the operation
/// of the former, and gets the fields of the latter.
pub fn fuse(first: &mut Op, i: &Instruction, jump: &Instruction, flat: bool) -> Option<Handler> {
    let near = if flat { OpKind::NearBranch32 } else { OpKind::NearBranch64 };
    let Some((Conditional::Jump, code)) = condition(jump).filter(|_| jump.op0_kind() == near) else {
        return None;
    };
    let a = register(i, 0)?;
    let immediate = is_immediate(i, 1);
    if immediate {
        first.disp = i32::try_from(i.immediate(1) as i64).ok()?;
    } else {
        register(i, 1)?;
    }
    let handler = if flat {
        compare_and_jump!(true, i.mnemonic(), a.size(), immediate, code)
    } else {
        compare_and_jump!(false, i.mnemonic(), a.size(), immediate, code)
    };
    first.imm = jump.near_branch64();
    first.len += jump.len() as u8;
    Some(handler)
}

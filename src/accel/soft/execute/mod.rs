//! Execution of decoded instructions.
//!
//! Every integer instruction has one general form here, which takes iced's `Instruction` and serves
//! all modes, operand sizes and address sizes: the specification. `fast` holds specialised handlers
//! for the shapes that hot code is made of.

mod alu;
mod atomic;
mod bcd;
mod bit;
mod control;
pub(super) mod fast;
mod io;
mod moves;
mod muldiv;
mod operand;
mod packed;
mod select;
mod shift;
mod special;
mod stack;
mod string;
mod vector;

use iced_x86::{Code, Instruction, Mnemonic};

use super::abort::Exec;
use super::state::{Cpu, Mode};
pub(super) use alu::{Adc, Add, Alu, And, Cmp, Or, Sbb, Sub, Test, Xor};
pub(super) use select::{LAST_STI, fuse, is_nop, select};
pub(super) use shift::ShiftKind;
pub(super) use vector::{
    escape_bytes, has_memory, has_operand_size_prefix, is_x87, sse_instruction, x87_instruction,
};

/// What follows an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// The next instruction, at `cpu.next_rip`.
    Next,
    /// `cpu.rip` has been set.
    Jump,
    /// As `Next`, and the CPU halts (HLT).
    Halt,
}

/// The general form of an instruction: all modes and sizes.
pub type General = fn(&mut Cpu, &Instruction) -> Exec<Flow>;

/// The general form of an integer instruction; `None` if it belongs to another part of the CPU.
#[must_use]
pub fn general(i: &Instruction) -> Option<General> {
    let run: General = match i.mnemonic() {
        Mnemonic::Add => alu::binary::<Add>,
        Mnemonic::Or => alu::binary::<Or>,
        Mnemonic::Adc => alu::binary::<Adc>,
        Mnemonic::Sbb => alu::binary::<Sbb>,
        Mnemonic::And => alu::binary::<And>,
        Mnemonic::Sub => alu::binary::<Sub>,
        Mnemonic::Xor => alu::binary::<Xor>,
        Mnemonic::Cmp => alu::binary::<Cmp>,
        Mnemonic::Test => alu::binary::<Test>,
        Mnemonic::Inc => |cpu, i| alu::increment(cpu, i, true),
        Mnemonic::Dec => |cpu, i| alu::increment(cpu, i, false),
        Mnemonic::Neg => alu::negate,
        Mnemonic::Not => alu::complement,
        Mnemonic::Mov => match i.op0_register() {
            r if r.is_segment_register() || r.is_cr() || r.is_dr() || r.is_tr() => return None,
            _ => match i.op1_register() {
                r if r.is_cr() || r.is_dr() || r.is_tr() => return None,
                _ => moves::mov,
            },
        },
        Mnemonic::Movnti => moves::mov,
        Mnemonic::Lea => moves::lea,
        Mnemonic::Movzx => |cpu, i| moves::extend(cpu, i, false),
        Mnemonic::Movsx | Mnemonic::Movsxd => |cpu, i| moves::extend(cpu, i, true),
        Mnemonic::Bswap => moves::bswap,
        Mnemonic::Movbe => moves::movbe,
        Mnemonic::Cbw | Mnemonic::Cwde | Mnemonic::Cdqe | Mnemonic::Cwd | Mnemonic::Cdq | Mnemonic::Cqo => {
            moves::convert
        }
        Mnemonic::Xlatb => moves::xlat,
        Mnemonic::Lahf | Mnemonic::Sahf => moves::flags_in_ah,
        Mnemonic::Xchg => atomic::xchg,
        Mnemonic::Xadd => atomic::xadd,
        Mnemonic::Cmpxchg => atomic::cmpxchg,
        Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b => atomic::cmpxchg_wide,
        Mnemonic::Rol => |cpu, i| shift::shift(cpu, i, ShiftKind::Rol),
        Mnemonic::Ror => |cpu, i| shift::shift(cpu, i, ShiftKind::Ror),
        Mnemonic::Rcl => |cpu, i| shift::shift(cpu, i, ShiftKind::Rcl),
        Mnemonic::Rcr => |cpu, i| shift::shift(cpu, i, ShiftKind::Rcr),
        Mnemonic::Shl | Mnemonic::Sal => |cpu, i| shift::shift(cpu, i, ShiftKind::Shl),
        Mnemonic::Shr => |cpu, i| shift::shift(cpu, i, ShiftKind::Shr),
        Mnemonic::Sar => |cpu, i| shift::shift(cpu, i, ShiftKind::Sar),
        Mnemonic::Shld => |cpu, i| shift::double(cpu, i, true),
        Mnemonic::Shrd => |cpu, i| shift::double(cpu, i, false),
        Mnemonic::Mul => |cpu, i| muldiv::mul(cpu, i, false),
        Mnemonic::Imul if i.op_count() == 1 => |cpu, i| muldiv::mul(cpu, i, true),
        Mnemonic::Imul => muldiv::imul_truncated,
        Mnemonic::Div => |cpu, i| muldiv::div(cpu, i, false),
        Mnemonic::Idiv => |cpu, i| muldiv::div(cpu, i, true),
        Mnemonic::Aaa | Mnemonic::Aas | Mnemonic::Aam | Mnemonic::Aad | Mnemonic::Daa | Mnemonic::Das => {
            bcd::execute
        }
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => bit::test,
        // Without BMI1 the prefix of TZCNT and LZCNT means nothing.
        Mnemonic::Bsf | Mnemonic::Tzcnt => |cpu, i| bit::scan(cpu, i, false),
        Mnemonic::Bsr | Mnemonic::Lzcnt => |cpu, i| bit::scan(cpu, i, true),
        Mnemonic::Popcnt => bit::popcnt,
        Mnemonic::Push => stack::push,
        Mnemonic::Pop if i.op0_register().is_segment_register() => return None,
        Mnemonic::Pop => stack::pop,
        Mnemonic::Pusha | Mnemonic::Pushad => stack::pusha,
        Mnemonic::Popa | Mnemonic::Popad => stack::popa,
        Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq => stack::pushf,
        Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq => stack::popf,
        Mnemonic::Enter => stack::enter,
        Mnemonic::Leave => stack::leave,
        Mnemonic::Jmp if !is_far(i) => control::jmp,
        Mnemonic::Call if !is_far(i) => control::call,
        Mnemonic::Ret => control::ret,
        Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne => control::loop_,
        Mnemonic::Jcxz | Mnemonic::Jecxz | Mnemonic::Jrcxz => control::jcxz,
        Mnemonic::Cli | Mnemonic::Sti => control::interrupt_flag,
        Mnemonic::Clc | Mnemonic::Stc | Mnemonic::Cmc | Mnemonic::Cld | Mnemonic::Std => control::flag,
        Mnemonic::Clac | Mnemonic::Stac => control::alignment_check,
        Mnemonic::Bound => control::bound,
        Mnemonic::Pause => control::pause,
        Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 => |cpu, _| cpu.undefined(),
        Mnemonic::Nop
        | Mnemonic::Endbr64
        | Mnemonic::Endbr32
        | Mnemonic::Reservednop
        | Mnemonic::Prefetchnta
        | Mnemonic::Prefetcht0
        | Mnemonic::Prefetcht1
        | Mnemonic::Prefetcht2
        | Mnemonic::Prefetch
        | Mnemonic::Prefetchw
        | Mnemonic::Prefetchwt1 => |_, _| Ok(Flow::Next),
        Mnemonic::Clflush | Mnemonic::Clflushopt | Mnemonic::Clwb => moves::flush_line,
        Mnemonic::Lfence | Mnemonic::Mfence | Mnemonic::Sfence => |_, _| {
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
            Ok(Flow::Next)
        },
        Mnemonic::In | Mnemonic::Out => io::in_out,
        Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => io::ins,
        Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => io::outs,
        Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsq => string::movs,
        Mnemonic::Movsd if i.is_string_instruction() => string::movs,
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => string::stos,
        Mnemonic::Lodsb | Mnemonic::Lodsw | Mnemonic::Lodsd | Mnemonic::Lodsq => string::lods,
        Mnemonic::Scasb | Mnemonic::Scasw | Mnemonic::Scasd | Mnemonic::Scasq => string::scas,
        Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsq => string::cmps,
        Mnemonic::Cmpsd if i.is_string_instruction() => string::cmps,
        Mnemonic::Salc => |cpu, _| moves::salc(cpu),
        _ => match condition(i) {
            Some((Conditional::Jump, _)) => control::jcc,
            Some((Conditional::Set, _)) => moves::setcc,
            Some((Conditional::Move, _)) => moves::cmov,
            None => return None,
        },
    };
    Some(run)
}

/// Which conditional instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conditional {
    Jump,
    Set,
    Move,
}

/// The condition of a Jcc, SETcc or CMOVcc, as the low four bits of its opcode.
pub(super) fn condition(i: &Instruction) -> Option<(Conditional, u8)> {
    use iced_x86::ConditionCode as C;
    let code = match i.condition_code() {
        C::o => 0,
        C::no => 1,
        C::b => 2,
        C::ae => 3,
        C::e => 4,
        C::ne => 5,
        C::be => 6,
        C::a => 7,
        C::s => 8,
        C::ns => 9,
        C::p => 10,
        C::np => 11,
        C::l => 12,
        C::ge => 13,
        C::le => 14,
        C::g => 15,
        C::None => return None,
    };
    let kind = if i.is_jcc_short_or_near() {
        Conditional::Jump
    } else if i.op_count() == 1 {
        Conditional::Set
    } else if (Code::Cmovo_r16_rm16..=Code::Cmovg_r64_rm64).contains(&i.code()) {
        Conditional::Move
    } else {
        return None;
    };
    Some((kind, code))
}

/// The condition of an instruction that has one.
pub(super) fn condition_code(i: &Instruction) -> u8 {
    condition(i).map_or(0, |(_, code)| code)
}

/// Whether a JMP or CALL is a far one.
pub(super) fn is_far(i: &Instruction) -> bool {
    i.is_jmp_far() || i.is_jmp_far_indirect() || i.is_call_far() || i.is_call_far_indirect()
}

impl Cpu {
    /// Whether the CPU is in 64-bit mode.
    #[inline]
    #[must_use]
    pub fn is_long(&self) -> bool {
        self.mode == Mode::Long
    }
}

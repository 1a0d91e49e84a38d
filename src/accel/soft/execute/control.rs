//! Near control transfers and single flags.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::operand::{operand_size, register_offset};
use super::{Flow, condition_code};
use crate::accel::soft::abort::{Exec, vector};
use crate::accel::soft::flags::rflags;
use crate::accel::soft::state::{Cpu, Mode, seg};

impl Cpu {
    /// Whether control may go to `target` in the current code segment.
    ///
    /// # Errors
    /// #GP(0).
    pub(in crate::accel::soft) fn check_target(&mut self, target: u64) -> Exec {
        let good = match self.mode {
            Mode::Long => self.is_canonical(target),
            _ => target <= self.seg[seg::CS].limit.into(),
        };
        if good { Ok(()) } else { self.general_protection() }
    }
}

/// The target of a near branch with an operand in the instruction.
fn target(cpu: &Cpu, i: &Instruction) -> u64 {
    let target = cpu.page_base.wrapping_add(i.near_branch64());
    match i.op0_kind() {
        OpKind::NearBranch16 => target & 0xffff,
        OpKind::NearBranch32 => target & 0xffff_ffff,
        _ => target,
    }
}

/// The target of a near JMP or CALL.
fn any_target(cpu: &mut Cpu, i: &Instruction) -> Exec<u64> {
    let target = match i.op0_kind() {
        OpKind::Register | OpKind::Memory => match operand_size(i, 0) {
            2 => cpu.operand::<u16>(i, 0)?.into(),
            4 => cpu.operand::<u32>(i, 0)?.into(),
            _ => cpu.operand::<u64>(i, 0)?,
        },
        _ => target(cpu, i),
    };
    cpu.check_target(target)?;
    Ok(target)
}

fn branch(cpu: &mut Cpu, i: &Instruction, taken: bool) -> Exec<Flow> {
    if !taken {
        return Ok(Flow::Next);
    }
    let target = target(cpu, i);
    cpu.check_target(target)?;
    cpu.rip = target;
    Ok(Flow::Jump)
}

/// Near JMP.
pub fn jmp(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    cpu.rip = any_target(cpu, i)?;
    Ok(Flow::Jump)
}

/// Near CALL.
pub fn call(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let target = any_target(cpu, i)?;
    cpu.push(i.stack_pointer_increment().unsigned_abs().into(), cpu.next_rip)?;
    cpu.rip = target;
    Ok(Flow::Jump)
}

/// Near RET.
pub fn ret(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let size = match i.code() {
        iced_x86::Code::Retnw | iced_x86::Code::Retnw_imm16 => 2,
        iced_x86::Code::Retnd | iced_x86::Code::Retnd_imm16 => 4,
        _ => 8,
    };
    let rsp = cpu.gpr[4];
    let target = cpu.pop(size)?;
    if let Err(abort) = cpu.check_target(target) {
        cpu.gpr[4] = rsp;
        return Err(abort);
    }
    if i.op_count() == 1 {
        cpu.set_stack_pointer(cpu.gpr[4].wrapping_add(i.immediate16().into()));
    }
    cpu.rip = target;
    Ok(Flow::Jump)
}

/// Jcc.
pub fn jcc(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let taken = cpu.lazy.condition(condition_code(i));
    branch(cpu, i, taken)
}

/// The bits of RCX that the address size of a LOOP or JCXZ makes its counter.
fn counter_mask(i: &Instruction) -> u64 {
    use iced_x86::Code as C;
    match i.code() {
        C::Jcxz_rel8_16 | C::Jcxz_rel8_32 | C::Loop_rel8_16_CX | C::Loop_rel8_32_CX => 0xffff,
        C::Loope_rel8_16_CX | C::Loope_rel8_32_CX | C::Loopne_rel8_16_CX | C::Loopne_rel8_32_CX => 0xffff,
        C::Jrcxz_rel8_16 | C::Jrcxz_rel8_64 | C::Loop_rel8_16_RCX | C::Loop_rel8_64_RCX => u64::MAX,
        C::Loope_rel8_16_RCX | C::Loope_rel8_64_RCX => u64::MAX,
        C::Loopne_rel8_16_RCX | C::Loopne_rel8_64_RCX => u64::MAX,
        _ => 0xffff_ffff,
    }
}

/// LOOP, LOOPE, LOOPNE.
pub fn loop_(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let mask = counter_mask(i);
    let count = cpu.gpr[1].wrapping_sub(1) & mask;
    let taken = count != 0
        && match i.mnemonic() {
            Mnemonic::Loope => cpu.lazy.zero(),
            Mnemonic::Loopne => !cpu.lazy.zero(),
            _ => true,
        };
    let flow = branch(cpu, i, taken)?;
    cpu.gpr[1] = if mask == 0xffff { cpu.gpr[1] & !mask | count } else { count };
    Ok(flow)
}

/// JCXZ, JECXZ, JRCXZ.
pub fn jcxz(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let taken = cpu.gpr[1] & counter_mask(i) == 0;
    branch(cpu, i, taken)
}

/// CLI and STI.
pub fn interrupt_flag(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let iopl = (cpu.rflags_rest & rflags::IOPL) >> 12;
    if cpu.mode != Mode::Real && u64::from(cpu.cpl) > iopl {
        return cpu.general_protection();
    }
    if i.mnemonic() == Mnemonic::Cli {
        cpu.rflags_rest &= !rflags::IF;
    } else if cpu.rflags_rest & rflags::IF == 0 {
        cpu.rflags_rest |= rflags::IF;
        cpu.interrupt_shadow = true;
    }
    Ok(Flow::Next)
}

/// CLC, STC, CMC, CLD, STD.
pub fn flag(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let flags = cpu.lazy.arithmetic();
    match i.mnemonic() {
        Mnemonic::Clc => cpu.set_arithmetic(flags & !rflags::CF),
        Mnemonic::Stc => cpu.set_arithmetic(flags | rflags::CF),
        Mnemonic::Cmc => cpu.set_arithmetic(flags ^ rflags::CF),
        Mnemonic::Cld => cpu.rflags_rest &= !rflags::DF,
        _ => cpu.rflags_rest |= rflags::DF,
    }
    Ok(Flow::Next)
}

/// CLAC and STAC: CPUID has SMAP, so they exist whether CR4 turns it on or not.
pub fn alignment_check(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    if cpu.cpl != 0 {
        return cpu.undefined();
    }
    if i.mnemonic() == Mnemonic::Clac {
        cpu.rflags_rest &= !rflags::AC;
    } else {
        cpu.rflags_rest |= rflags::AC;
    }
    cpu.update_tlb_set();
    Ok(Flow::Next)
}

/// As many PAUSEs make a vCPU that waits for another one.
const SPIN: u32 = 64;

/// PAUSE. A program that spins waits for another processor: where the host has fewer of them than the machine,
/// that one can only go on if this one lets it.
pub fn pause(cpu: &mut Cpu, _: &Instruction) -> Exec<Flow> {
    cpu.pauses = cpu.pauses.wrapping_add(1);
    if cpu.pauses.is_multiple_of(SPIN) && cpu.system.topology.cpus > 1 {
        std::thread::yield_now();
    }
    Ok(Flow::Next)
}

/// BOUND.
pub fn bound(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let offset = register_offset(i.op0_register());
    let inside = if i.op0_register().size() == 2 {
        let la = cpu.memory_operand(i, 4, false)?;
        let (low, high) = (cpu.load::<u16>(la)? as i16, cpu.load::<u16>(la.wrapping_add(2))? as i16);
        (low..=high).contains(&(cpu.reg::<u16>(offset) as i16))
    } else {
        let la = cpu.memory_operand(i, 8, false)?;
        let (low, high) = (cpu.load::<u32>(la)? as i32, cpu.load::<u32>(la.wrapping_add(4))? as i32);
        (low..=high).contains(&(cpu.reg::<u32>(offset) as i32))
    };
    if inside { Ok(Flow::Next) } else { cpu.raise(vector::BR, None) }
}

//! Data movement and conversion.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::operand::{operand_size, register_offset, segment_index};
use super::{Flow, condition_code};
use crate::accel::soft::abort::Exec;
use crate::accel::soft::flags::rflags;
use crate::accel::soft::integer::Int;
use crate::accel::soft::memory::Access;
use crate::accel::soft::state::Cpu;

/// MOV between general registers, memory and immediates, and from segment registers.
pub fn mov(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    fn sized<T: Int>(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
        let value: T = cpu.operand(i, 1)?;
        cpu.set_operand(i, 0, value)?;
        Ok(Flow::Next)
    }
    if i.op1_register().is_segment_register() {
        let selector = cpu.seg[segment_index(i.op1_register())].selector;
        if i.op0_kind() == OpKind::Memory {
            cpu.set_operand(i, 0, selector)?;
        } else {
            cpu.write_register(i.op0_register(), selector.into());
        }
        return Ok(Flow::Next);
    }
    match operand_size(i, 0) {
        1 => sized::<u8>(cpu, i),
        2 => sized::<u16>(cpu, i),
        4 => sized::<u32>(cpu, i),
        _ => sized::<u64>(cpu, i),
    }
}

/// LEA.
pub fn lea(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let address = cpu.effective_address(i);
    cpu.write_register(i.op0_register(), address);
    Ok(Flow::Next)
}

/// MOVZX, MOVSX, MOVSXD.
pub fn extend(cpu: &mut Cpu, i: &Instruction, signed: bool) -> Exec<Flow> {
    fn source<T: Int>(cpu: &mut Cpu, i: &Instruction, signed: bool) -> Exec<u64> {
        let value: T = cpu.operand(i, 1)?;
        Ok(if signed { value.to_i64() as u64 } else { value.to_u64() })
    }
    let value = match operand_size(i, 1) {
        1 => source::<u8>(cpu, i, signed),
        2 => source::<u16>(cpu, i, signed),
        _ => source::<u32>(cpu, i, signed),
    }?;
    cpu.write_register(i.op0_register(), value);
    Ok(Flow::Next)
}

/// BSWAP; of 16 bits it gives 0, as processors do.
pub fn bswap(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let register = i.op0_register();
    let value = cpu.read_register(register);
    let swapped = match register.size() {
        2 => 0,
        4 => (value as u32).swap_bytes().into(),
        _ => value.swap_bytes(),
    };
    cpu.write_register(register, swapped);
    Ok(Flow::Next)
}

/// MOVBE: a load or a store with the order of the bytes reversed.
pub fn movbe(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    fn sized<T: Int>(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
        let value: T = cpu.operand(i, 1)?;
        let swapped = value.to_u64().swap_bytes() >> (64 - T::BITS);
        cpu.set_operand(i, 0, T::from_u64(swapped))?;
        Ok(Flow::Next)
    }
    match operand_size(i, 0) {
        2 => sized::<u16>(cpu, i),
        4 => sized::<u32>(cpu, i),
        _ => sized::<u64>(cpu, i),
    }
}

/// CBW, CWDE, CDQE, CWD, CDQ, CQO.
pub fn convert(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let rax = cpu.gpr[0];
    match i.mnemonic() {
        Mnemonic::Cbw => cpu.set_reg(0, rax as i8 as u16),
        Mnemonic::Cwde => cpu.set_reg(0, rax as i16 as u32),
        Mnemonic::Cdqe => cpu.set_reg(0, rax as i32 as u64),
        Mnemonic::Cwd => cpu.set_reg(16, (rax as i16 >> 15) as u16),
        Mnemonic::Cdq => cpu.set_reg(16, (rax as i32 >> 31) as u32),
        _ => cpu.set_reg(16, (rax as i64 >> 63) as u64),
    }
    Ok(Flow::Next)
}

/// XLAT.
pub fn xlat(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let al = cpu.gpr[0] & 0xff;
    let base = i.memory_base();
    let mask = match base.size() {
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    };
    let offset = cpu.read_register(base).wrapping_add(al) & mask;
    let value: u8 = cpu.read_seg(segment_index(i.memory_segment()), offset)?;
    cpu.set_reg(0, value);
    Ok(Flow::Next)
}

/// LAHF and SAHF.
pub fn flags_in_ah(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    if i.mnemonic() == Mnemonic::Lahf {
        let flags = cpu.rflags();
        cpu.set_reg(1, flags as u8);
    } else {
        let kept = cpu.lazy.arithmetic() & rflags::OF;
        let ah: u8 = cpu.reg(1);
        cpu.set_arithmetic(kept | u64::from(ah) & rflags::ARITHMETIC);
    }
    Ok(Flow::Next)
}

/// SALC: AL becomes all-ones or zero as the carry flag says.
pub fn salc(cpu: &mut Cpu) -> Exec<Flow> {
    let value = if cpu.lazy.carry() { 0xffu8 } else { 0 };
    cpu.set_reg(0, value);
    Ok(Flow::Next)
}

/// SETcc.
pub fn setcc(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let value = u8::from(cpu.lazy.condition(condition_code(i)));
    cpu.set_operand(i, 0, value)?;
    Ok(Flow::Next)
}

/// CMOVcc: the source is read, and a 32-bit destination's upper half cleared, in any case.
pub fn cmov(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    fn sized<T: Int>(cpu: &mut Cpu, i: &Instruction, holds: bool) -> Exec<Flow> {
        let offset = register_offset(i.op0_register());
        let source: T = cpu.operand(i, 1)?;
        let value = if holds { source } else { cpu.reg(offset) };
        cpu.set_reg(offset, value);
        Ok(Flow::Next)
    }
    let holds = cpu.lazy.condition(condition_code(i));
    match operand_size(i, 0) {
        2 => sized::<u16>(cpu, i, holds),
        4 => sized::<u32>(cpu, i, holds),
        _ => sized::<u64>(cpu, i, holds),
    }
}

/// CLFLUSH, CLFLUSHOPT, CLWB: nothing to flush, but its operand is translated as a load's.
pub fn flush_line(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let la = cpu.memory_operand(i, 1, false)?;
    cpu.probe_read(la, 1, Access::Current)?;
    Ok(Flow::Next)
}

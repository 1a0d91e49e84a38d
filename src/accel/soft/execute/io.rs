//! Port I/O.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::Flow;
use super::string::Repeat;
use crate::accel::soft::abort::Exec;
use crate::accel::soft::flags::rflags;
use crate::accel::soft::memory::Access;
use crate::accel::soft::state::{Cpu, Mode, seg};

impl Cpu {
    /// Whether the current privilege level may use `size` ports from `port` (Intel SDM vol. 1, 19.5).
    ///
    /// # Errors
    /// #GP(0), or what reading the TSS's permission map raises.
    pub(in crate::accel::soft) fn check_port(&mut self, port: u16, size: u8) -> Exec {
        let iopl = (self.rflags_rest & rflags::IOPL) >> 12;
        let free = match self.mode {
            Mode::Real => true,
            Mode::Virtual8086 => false,
            Mode::Protected | Mode::Long => u64::from(self.cpl) <= iopl,
        };
        if free {
            return Ok(());
        }
        let (base, limit) = (self.tr.base, u64::from(self.tr.limit));
        // Only 32-bit and 64-bit TSSs have a map.
        if !self.tr.present || self.tr.type_ & 9 != 9 || limit < 0x67 {
            return self.general_protection();
        }
        let map = u64::from(self.read_u16(base.wrapping_add(0x66), Access::Supervisor)?);
        let at = map + u64::from(port / 8);
        if at + 1 > limit {
            return self.general_protection();
        }
        let bits = self.read_u16(base.wrapping_add(at), Access::Supervisor)? >> (port % 8);
        if bits & ((1 << size) - 1) == 0 { Ok(()) } else { self.general_protection() }
    }
}

/// IN and OUT.
pub fn in_out(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let input = i.mnemonic() == Mnemonic::In;
    let (accumulator, port) = if input { (0, 1) } else { (1, 0) };
    let size = i.op_register(accumulator).size() as u8;
    let port = match i.op_kind(port) {
        OpKind::Register => cpu.gpr[2] as u16,
        _ => i.immediate(port) as u16 & 0xff,
    };
    cpu.check_port(port, size)?;
    if input {
        let value = cpu.read_port(port, size)?;
        cpu.write_register(i.op_register(accumulator), value.into());
    } else {
        let value = cpu.read_register(i.op_register(accumulator)) as u32;
        cpu.write_port(port, size, value)?;
    }
    Ok(Flow::Next)
}

/// INS, with or without REP.
pub fn ins(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let size: u8 = match i.mnemonic() {
        Mnemonic::Insb => 1,
        Mnemonic::Insw => 2,
        _ => 4,
    };
    let repeat = Repeat::of(cpu, i, i.op0_kind());
    // The right to the port comes first, also where nothing is left to transfer.
    let port = cpu.gpr[2] as u16;
    cpu.check_port(port, size)?;
    if repeat.is_done(cpu) {
        return Ok(Flow::Next);
    }
    let la = cpu.linear(seg::ES, repeat.destination(cpu), size.into(), true)?;
    cpu.probe_write(la, size.into(), Access::Current)?;
    let value = cpu.read_port(port, size)?;
    match size {
        1 => cpu.store(la, value as u8)?,
        2 => cpu.store(la, value as u16)?,
        _ => cpu.store(la, value)?,
    }
    repeat.advance_destination(cpu, size.into(), 1);
    repeat.one_more(cpu)
}

/// OUTS, with or without REP.
pub fn outs(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let size: u8 = match i.mnemonic() {
        Mnemonic::Outsb => 1,
        Mnemonic::Outsw => 2,
        _ => 4,
    };
    let repeat = Repeat::of(cpu, i, i.op1_kind());
    // The right to the port comes first, also where nothing is left to transfer.
    let port = cpu.gpr[2] as u16;
    cpu.check_port(port, size)?;
    if repeat.is_done(cpu) {
        return Ok(Flow::Next);
    }
    let offset = repeat.source(cpu);
    let value = match size {
        1 => cpu.read_seg::<u8>(repeat.segment, offset)?.into(),
        2 => cpu.read_seg::<u16>(repeat.segment, offset)?.into(),
        _ => cpu.read_seg::<u32>(repeat.segment, offset)?,
    };
    cpu.write_port(port, size, value)?;
    repeat.advance_source(cpu, size.into(), 1);
    repeat.one_more(cpu)
}

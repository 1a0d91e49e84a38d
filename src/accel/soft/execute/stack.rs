//! Stack instructions.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::Flow;
use super::operand::segment_index;
use crate::accel::soft::abort::Exec;
use crate::accel::soft::flags::rflags;
use crate::accel::soft::state::{Cpu, Mode, seg};

const RSP: usize = 4;
const RBP: usize = 5;

impl Cpu {
    /// Sets the part of RSP that the stack's width covers.
    pub(in crate::accel::soft) fn set_stack_pointer(&mut self, value: u64) {
        self.gpr[RSP] = match self.stack_mask() {
            u64::MAX => value,
            0xffff_ffff => value & 0xffff_ffff,
            mask => self.gpr[RSP] & !mask | value & mask,
        };
    }

    fn store_stack(&mut self, offset: u64, size: u64, value: u64) -> Exec {
        match size {
            2 => self.write_seg(seg::SS, offset, value as u16),
            4 => self.write_seg(seg::SS, offset, value as u32),
            _ => self.write_seg(seg::SS, offset, value),
        }
    }

    fn load_stack(&mut self, offset: u64, size: u64) -> Exec<u64> {
        match size {
            2 => self.read_seg::<u16>(seg::SS, offset).map(u64::from),
            4 => self.read_seg::<u32>(seg::SS, offset).map(u64::from),
            _ => self.read_seg(seg::SS, offset),
        }
    }

    /// Pushes `size` bytes.
    ///
    /// # Errors
    /// A fault or an MMIO access.
    pub fn push(&mut self, size: u64, value: u64) -> Exec {
        let rsp = self.gpr[RSP].wrapping_sub(size);
        self.store_stack(rsp & self.stack_mask(), size, value)?;
        self.set_stack_pointer(rsp);
        Ok(())
    }

    /// Pops `size` bytes.
    ///
    /// # Errors
    /// A fault or an MMIO access.
    pub fn pop(&mut self, size: u64) -> Exec<u64> {
        let rsp = self.gpr[RSP];
        let value = self.load_stack(rsp & self.stack_mask(), size)?;
        self.set_stack_pointer(rsp.wrapping_add(size));
        Ok(value)
    }
}

/// The operand size of a stack instruction that moves one item.
fn size(i: &Instruction) -> u64 {
    i.stack_pointer_increment().unsigned_abs().into()
}

/// PUSH.
pub fn push(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let size = size(i);
    let value = match i.op0_kind() {
        OpKind::Register if i.op0_register().is_segment_register() => {
            cpu.seg[segment_index(i.op0_register())].selector.into()
        }
        OpKind::Register => cpu.read_register(i.op0_register()),
        OpKind::Memory => match size {
            2 => cpu.operand::<u16>(i, 0)?.into(),
            4 => cpu.operand::<u32>(i, 0)?.into(),
            _ => cpu.operand::<u64>(i, 0)?,
        },
        _ => i.immediate(0),
    };
    cpu.push(size, value)?;
    Ok(Flow::Next)
}

/// POP to a general register or memory; an address with RSP uses its value after the pop.
pub fn pop(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let size = size(i);
    let rsp = cpu.gpr[RSP];
    let value = cpu.pop(size)?;
    if i.op0_kind() == OpKind::Register {
        cpu.write_register(i.op0_register(), value);
        return Ok(Flow::Next);
    }
    let stored = match size {
        2 => cpu.set_operand(i, 0, value as u16),
        4 => cpu.set_operand(i, 0, value as u32),
        _ => cpu.set_operand(i, 0, value),
    };
    if stored.is_err() {
        cpu.gpr[RSP] = rsp;
    }
    stored.map(|()| Flow::Next)
}

/// PUSHA and PUSHAD.
pub fn pusha(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let size = if i.mnemonic() == Mnemonic::Pusha { 2 } else { 4 };
    let rsp = cpu.gpr[RSP];
    for n in 0..8 {
        let value = cpu.gpr[n];
        if let Err(abort) = cpu.push(size, value_of(n, value, rsp)) {
            cpu.gpr[RSP] = rsp;
            return Err(abort);
        }
    }
    Ok(Flow::Next)
}

fn value_of(register: usize, value: u64, rsp: u64) -> u64 {
    if register == RSP { rsp } else { value }
}

/// POPA and POPAD.
pub fn popa(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let size = if i.mnemonic() == Mnemonic::Popa { 2 } else { 4 };
    let rsp = cpu.gpr[RSP];
    let mut values = [0; 8];
    for n in (0..8).rev() {
        match cpu.pop(size) {
            Ok(value) => values[n] = value,
            Err(abort) => {
                cpu.gpr[RSP] = rsp;
                return Err(abort);
            }
        }
    }
    for n in (0..8).filter(|&n| n != RSP) {
        if size == 2 {
            cpu.set_reg(n as u8 * 8, values[n] as u16);
        } else {
            cpu.set_reg(n as u8 * 8, values[n] as u32);
        }
    }
    Ok(Flow::Next)
}

/// PUSHF, PUSHFD, PUSHFQ.
pub fn pushf(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    if cpu.mode == Mode::Virtual8086 && cpu.rflags_rest & rflags::IOPL != rflags::IOPL {
        return cpu.general_protection();
    }
    let value = cpu.rflags() & !(rflags::VM | rflags::RF);
    cpu.push(size(i), value)?;
    Ok(Flow::Next)
}

/// POPF, POPFD, POPFQ.
pub fn popf(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    if cpu.mode == Mode::Virtual8086 && cpu.rflags_rest & rflags::IOPL != rflags::IOPL {
        return cpu.general_protection();
    }
    let size = size(i);
    let value = cpu.pop(size)?;
    let old = cpu.rflags();
    let mut writable = rflags::ALL & !(rflags::VM | rflags::RF | rflags::VIF | rflags::VIP);
    if size == 2 {
        writable &= 0xffff;
    }
    if cpu.cpl > 0 {
        writable &= !rflags::IOPL;
    }
    if u64::from(cpu.cpl) > (old & rflags::IOPL) >> 12 {
        writable &= !rflags::IF;
    }
    cpu.set_rflags(old & !writable & !rflags::RF | value & writable);
    Ok(Flow::Next)
}

/// ENTER.
pub fn enter(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let allocation = u64::from(i.immediate16());
    let level = u64::from(i.immediate8_2nd() & 31);
    let size: u64 = match cpu.mode {
        Mode::Long if i.code() == iced_x86::Code::Enterw_imm16_imm8 => 2,
        Mode::Long => 8,
        _ if i.code() == iced_x86::Code::Enterw_imm16_imm8 => 2,
        _ => 4,
    };
    let (rsp, mut rbp) = (cpu.gpr[RSP], cpu.gpr[RBP]);
    let result = (|| {
        cpu.push(size, rbp)?;
        let frame = cpu.gpr[RSP];
        for _ in 1..level {
            rbp = rbp.wrapping_sub(size);
            let link = cpu.load_stack(rbp & cpu.stack_mask(), size)?;
            cpu.push(size, link)?;
        }
        if level > 0 {
            cpu.push(size, frame)?;
        }
        let top = cpu.gpr[RSP].wrapping_sub(allocation);
        // ENTER faults if the new top of the stack could not be written.
        let la = cpu.linear(seg::SS, top & cpu.stack_mask(), size, true)?;
        cpu.probe_write(la, size, crate::accel::soft::memory::Access::Current)?;
        cpu.set_stack_pointer(top);
        Ok(frame)
    })();
    match result {
        Ok(frame) => {
            match size {
                2 => cpu.set_reg(RBP as u8 * 8, frame as u16),
                4 => cpu.set_reg(RBP as u8 * 8, frame as u32),
                _ => cpu.gpr[RBP] = frame,
            }
            Ok(Flow::Next)
        }
        Err(abort) => {
            cpu.gpr[RSP] = rsp;
            Err(abort)
        }
    }
}

/// LEAVE.
pub fn leave(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let size = match i.code() {
        iced_x86::Code::Leavew => 2,
        iced_x86::Code::Leaved => 4,
        _ => 8,
    };
    let frame = cpu.gpr[RBP];
    let value = cpu.load_stack(frame & cpu.stack_mask(), size)?;
    cpu.set_stack_pointer(frame.wrapping_add(size));
    match size {
        2 => cpu.set_reg(RBP as u8 * 8, value as u16),
        4 => cpu.set_reg(RBP as u8 * 8, value as u32),
        _ => cpu.gpr[RBP] = value,
    }
    Ok(Flow::Next)
}

//! Operands: general registers, effective addresses, immediates.

use iced_x86::{Instruction, OpKind, Register};

use crate::accel::soft::abort::Exec;
use crate::accel::soft::integer::Int;
use crate::accel::soft::state::{Cpu, Mode, seg};

/// The byte offset of a general register in `Cpu::gpr`.
#[must_use]
pub fn register_offset(register: Register) -> u8 {
    let number = register.full_register().number() as u8 & 15;
    let high = matches!(register, Register::AH | Register::CH | Register::DH | Register::BH);
    number * 8 + u8::from(high)
}

/// The index in `Cpu::seg` of a segment register.
#[must_use]
pub fn segment_index(register: Register) -> usize {
    match register {
        Register::ES => seg::ES,
        Register::CS => seg::CS,
        Register::SS => seg::SS,
        Register::FS => seg::FS,
        Register::GS => seg::GS,
        _ => seg::DS,
    }
}

impl Cpu {
    /// A general register, or a part of one, by its offset.
    #[inline(always)]
    pub(in crate::accel::soft) fn reg<T: Int>(&self, offset: u8) -> T {
        debug_assert!(usize::from(offset) + T::BYTES as usize <= 128);
        // SAFETY: offsets come from `register_offset`, so the bytes are inside `gpr`; `Cpu` is the
        // provenance, and any bits make an integer. Offsets of 16 bits and more are aligned.
        unsafe { std::ptr::from_ref(self).cast::<u8>().add(usize::from(offset)).cast::<T>().read() }
    }

    /// Sets a general register, or a part of one: 32 bits clear the upper half.
    #[inline(always)]
    pub(in crate::accel::soft) fn set_reg<T: Int>(&mut self, offset: u8, value: T) {
        debug_assert!(usize::from(offset) + T::BYTES as usize <= 128);
        // SAFETY: as in `reg`.
        unsafe {
            let place = std::ptr::from_mut(self).cast::<u8>().add(usize::from(offset));
            if T::BYTES == 4 {
                place.cast::<u64>().write(value.to_u64());
            } else {
                place.cast::<T>().write(value);
            }
        }
    }

    /// The general register `register`, zero-extended from its size.
    #[must_use]
    pub fn read_register(&self, register: Register) -> u64 {
        let offset = register_offset(register);
        match register.size() {
            1 => self.reg::<u8>(offset).into(),
            2 => self.reg::<u16>(offset).into(),
            4 => self.reg::<u32>(offset).into(),
            _ => self.reg::<u64>(offset),
        }
    }

    /// Sets the general register `register`.
    pub fn write_register(&mut self, register: Register, value: u64) {
        let offset = register_offset(register);
        match register.size() {
            1 => self.set_reg(offset, value as u8),
            2 => self.set_reg(offset, value as u16),
            4 => self.set_reg(offset, value as u32),
            _ => self.set_reg(offset, value),
        }
    }

    /// The offset in its segment of an instruction's memory operand.
    #[must_use]
    pub fn effective_address(&self, i: &Instruction) -> u64 {
        let (base, index) = (i.memory_base(), i.memory_index());
        let mut address = i.memory_displacement64();
        if i.is_ip_rel_memory_operand() {
            // Blocks are decoded with page offsets for instruction pointers.
            address = address.wrapping_add(self.page_base);
            return if base == Register::EIP { address & 0xffff_ffff } else { address };
        }
        if base != Register::None {
            address = address.wrapping_add(self.read_register(base));
        }
        if index != Register::None {
            let scaled = self.read_register(index).wrapping_mul(u64::from(i.memory_index_scale()));
            address = address.wrapping_add(scaled);
        }
        address & self.address_mask(i)
    }

    /// The bits of an offset that the address size of an instruction's memory operand has.
    #[must_use]
    pub fn address_mask(&self, i: &Instruction) -> u64 {
        let (base, index) = (i.memory_base(), i.memory_index());
        let size = if index != Register::None {
            index.size()
        } else if base != Register::None {
            base.size()
        } else {
            i.memory_displ_size() as usize
        };
        match size {
            2 => 0xffff,
            4 => 0xffff_ffff,
            8 => u64::MAX,
            _ if self.mode == Mode::Long => u64::MAX,
            _ => 0xffff_ffff,
        }
    }

    /// The linear address of an instruction's memory operand of `size` bytes, checked for a load or
    /// store in its segment.
    ///
    /// # Errors
    /// #GP(0) or #SS(0).
    #[inline]
    pub fn memory_operand(&mut self, i: &Instruction, size: u64, write: bool) -> Exec<u64> {
        let offset = self.effective_address(i);
        self.linear(segment_index(i.memory_segment()), offset, size, write)
    }

    /// The value of operand `n`: register, memory or immediate.
    pub(in crate::accel::soft) fn operand<T: Int>(&mut self, i: &Instruction, n: u32) -> Exec<T> {
        match i.op_kind(n) {
            OpKind::Register => Ok(self.reg(register_offset(i.op_register(n)))),
            OpKind::Memory => {
                let la = self.memory_operand(i, T::BYTES, false)?;
                self.load(la)
            }
            _ => Ok(T::from_u64(i.immediate(n))),
        }
    }

    /// Sets operand `n`, a register or memory.
    pub(in crate::accel::soft) fn set_operand<T: Int>(&mut self, i: &Instruction, n: u32, value: T) -> Exec {
        if i.op_kind(n) == OpKind::Register {
            self.set_reg(register_offset(i.op_register(n)), value);
            Ok(())
        } else {
            let la = self.memory_operand(i, T::BYTES, true)?;
            self.store(la, value)
        }
    }
}

/// The size in bytes of operand `n`.
#[must_use]
pub fn operand_size(i: &Instruction, n: u32) -> usize {
    if i.op_kind(n) == OpKind::Register { i.op_register(n).size() } else { i.memory_size().size() }
}

//! Operands of the SSE, MMX and x87 instructions, whose arithmetic is `sse`'s and `x87`'s.

use iced_x86::{CpuidFeature, Instruction, Mnemonic, OpKind, Register};

use super::Flow;
use super::operand::{register_offset, segment_index};
use crate::accel::soft::abort::{Exec, vector};
use crate::accel::soft::memory::Access;
use crate::accel::soft::sse::{self, Form, StringTarget};
use crate::accel::soft::state::{Cpu, Mode, cr0, cr4};
use crate::accel::soft::x87::{Effects, Fault, Inputs, MemoryOperand, is_waiting, memory_operand};

/// Whether an instruction belongs to the x87 unit.
#[must_use]
pub fn is_x87(i: &Instruction) -> bool {
    let features = i.cpuid_features();
    let unit = [CpuidFeature::FPU, CpuidFeature::FPU287, CpuidFeature::FPU387, CpuidFeature::FPU287XL_ONLY];
    // FISTTP came with SSE3; FCMOV and FCOMI with CMOV are features of the FPU, too.
    matches!(i.mnemonic(), Mnemonic::Fisttp | Mnemonic::Wait)
        || features.iter().any(|feature| unit.contains(feature))
}

/// How many bytes of memory an SSE form reads, and whether they must be aligned.
fn source_memory(form: &Form) -> (u8, bool) {
    match *form {
        Form::Xmm { bytes, aligned, .. }
        | Form::XmmFp { bytes, aligned, .. }
        | Form::Flags { bytes, aligned, .. }
        | Form::MmxXmmFp { bytes, aligned, .. } => (bytes, aligned),
        Form::Blend { .. } => (16, true),
        Form::GprFp { bytes, .. } | Form::Crc { bytes, .. } | Form::Mmx { bytes, .. } => (bytes, false),
        Form::String { .. } => (16, false),
        _ => (8, false),
    }
}

impl Cpu {
    /// Whether `check_sse` succeeds.
    #[inline(always)]
    pub(super) fn allows_sse(&self) -> bool {
        self.cr0 & (cr0::EM | cr0::TS) == 0 && self.cr4 & cr4::OSFXSR != 0
    }

    pub(super) fn check_sse(&mut self) -> Exec {
        if self.cr0 & cr0::EM != 0 || self.cr4 & cr4::OSFXSR == 0 {
            return self.undefined();
        }
        if self.cr0 & cr0::TS != 0 { self.raise(vector::NM, None) } else { Ok(()) }
    }

    fn check_mmx(&mut self) -> Exec {
        if self.cr0 & cr0::EM != 0 {
            return self.undefined();
        }
        if self.cr0 & cr0::TS != 0 {
            return self.raise(vector::NM, None);
        }
        if self.x87.wait() { self.raise(vector::MF, None) } else { Ok(()) }
    }

    #[cold]
    pub(super) fn simd_exception<T>(&mut self) -> Exec<T> {
        let vector = if self.cr4 & cr4::OSXMMEXCPT != 0 { vector::XM } else { vector::UD };
        self.raise(vector, None)
    }

    /// Up to 16 bytes of memory, zero-extended.
    pub(super) fn load_vector(&mut self, la: u64, bytes: u8) -> Exec<u128> {
        Ok(match bytes {
            1 => self.load::<u8>(la)?.into(),
            2 => self.load::<u16>(la)?.into(),
            4 => self.load::<u32>(la)?.into(),
            8 => self.load::<u64>(la)?.into(),
            16 => {
                let low = self.load::<u64>(la)?;
                let high = self.load::<u64>(la.wrapping_add(8))?;
                u128::from(high) << 64 | u128::from(low)
            }
            _ => {
                let mut buffer = [0; 16];
                self.read_bytes(la, &mut buffer[..usize::from(bytes.min(16))], Access::Current)?;
                u128::from_le_bytes(buffer)
            }
        })
    }

    /// Stores the low `bytes` bytes.
    pub(super) fn store_vector(&mut self, la: u64, bytes: u8, value: u128) -> Exec {
        match bytes {
            1 => self.store(la, value as u8),
            2 => self.store(la, value as u16),
            4 => self.store(la, value as u32),
            8 => self.store(la, value as u64),
            _ => {
                // Nothing is stored unless all of it can be.
                if la & 0xfff > 4096 - 16 || !la.is_multiple_of(16) {
                    self.probe_write(la, 16, Access::Current)?;
                }
                self.store(la, value as u64)?;
                self.store(la.wrapping_add(8), (value >> 64) as u64)
            }
        }
    }

    /// Operand `n` of a vector instruction: a register, whole, or memory.
    fn vector_operand(&mut self, i: &Instruction, n: u32, bytes: u8, aligned: bool) -> Exec<u128> {
        if i.op_kind(n) == OpKind::Memory {
            let la = self.memory_operand(i, bytes.into(), false)?;
            if aligned && !la.is_multiple_of(16) {
                return self.general_protection();
            }
            return self.load_vector(la, bytes);
        }
        let register = i.op_register(n);
        Ok(if register.is_xmm() {
            self.xmm[register.number() & 15]
        } else if register.is_mm() {
            self.x87.mmx_get(register.number()).into()
        } else {
            self.reg::<u64>(register_offset(register)).into()
        })
    }

    fn gpr_operand(&mut self, i: &Instruction, n: u32, bytes: u8) -> Exec<u64> {
        if i.op_kind(n) == OpKind::Memory {
            let la = self.memory_operand(i, bytes.into(), false)?;
            return self.load_vector(la, bytes).map(|value| value as u64);
        }
        Ok(self.read_register(i.op_register(n)))
    }

    fn set_xmm(&mut self, register: Register, value: u128) {
        self.xmm[register.number() & 15] = value;
    }
}

/// The immediate that is the last operand, else 0.
pub fn immediate(i: &Instruction) -> u8 {
    let last = i.op_count().saturating_sub(1);
    match i.op_kind(last) {
        OpKind::Immediate8 | OpKind::Immediate8_2nd => i.immediate(last) as u8,
        _ => 0,
    }
}

/// An SSE or MMX instruction.
pub fn sse_instruction(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    if i.mnemonic() == Mnemonic::Emms {
        cpu.check_mmx()?;
        cpu.x87.emms();
        return Ok(Flow::Next);
    }
    let memory = has_memory(i);
    let Some(form) = sse::lookup(i.code(), memory) else { return cpu.undefined() };
    match form {
        Form::Crc { .. } => {}
        // With a source in memory the MMX registers are not touched.
        Form::XmmMmxFp { .. } if memory => cpu.check_sse()?,
        Form::Mmx { .. }
        | Form::MmxImm { .. }
        | Form::MmxGpr { .. }
        | Form::MmxXmm { .. }
        | Form::MmxXmmFp { .. }
        | Form::XmmMmx { .. }
        | Form::XmmMmxFp { .. }
        | Form::MmxStore { .. }
        | Form::GprMmx { .. }
        | Form::MmxMaskStore => cpu.check_mmx()?,
        _ => cpu.check_sse()?,
    }
    let imm = immediate(i);
    let (bytes, aligned) = source_memory(&form);
    let mut mxcsr = cpu.mxcsr;
    match form {
        Form::Xmm { f, .. } => {
            let b = cpu.vector_operand(i, 1, bytes, aligned)?;
            let a = cpu.vector_operand(i, 0, 16, false)?;
            cpu.set_xmm(i.op0_register(), f(a, b, imm));
        }
        Form::XmmFp { f, .. } => {
            let b = cpu.vector_operand(i, 1, bytes, aligned)?;
            let a = cpu.vector_operand(i, 0, 16, false)?;
            let result = f(a, b, imm, &mut mxcsr);
            cpu.mxcsr = mxcsr;
            match result {
                Ok(value) => cpu.set_xmm(i.op0_register(), value),
                Err(_) => return cpu.simd_exception(),
            }
        }
        Form::XmmImm { f } => {
            let a = cpu.vector_operand(i, 0, 16, false)?;
            cpu.set_xmm(i.op0_register(), f(a, 0, imm));
        }
        Form::XmmGpr { f } => {
            let size = i.memory_size().size() as u8;
            let b = if i.op1_kind() == OpKind::Memory {
                cpu.gpr_operand(i, 1, size)?
            } else {
                cpu.reg(register_offset(i.op1_register()))
            };
            let a = cpu.vector_operand(i, 0, 16, false)?;
            cpu.set_xmm(i.op0_register(), f(a, b.into(), imm));
        }
        Form::XmmGprFp { f } => {
            let size = i.memory_size().size() as u8;
            let b = if i.op1_kind() == OpKind::Memory {
                cpu.gpr_operand(i, 1, size)?
            } else {
                cpu.reg(register_offset(i.op1_register()))
            };
            let a = cpu.vector_operand(i, 0, 16, false)?;
            let result = f(a, b.into(), imm, &mut mxcsr);
            cpu.mxcsr = mxcsr;
            match result {
                Ok(value) => cpu.set_xmm(i.op0_register(), value),
                Err(_) => return cpu.simd_exception(),
            }
        }
        Form::Blend { f } => {
            let b = cpu.vector_operand(i, 1, bytes, aligned)?;
            let a = cpu.vector_operand(i, 0, 16, false)?;
            let value = f(a, b, cpu.xmm[0]);
            cpu.set_xmm(i.op0_register(), value);
        }
        Form::Store { f, bytes, aligned } => {
            let la = cpu.memory_operand(i, bytes.into(), true)?;
            if aligned && !la.is_multiple_of(16) {
                return cpu.general_protection();
            }
            let value = f(cpu.vector_operand(i, 1, 16, false)?, imm);
            cpu.store_vector(la, bytes, value)?;
        }
        Form::Gpr { f } => {
            let value = f(cpu.vector_operand(i, 1, 16, false)?, imm);
            cpu.set_reg(register_offset(i.op0_register()), value);
        }
        Form::GprFp { f, bytes } => {
            let b = cpu.vector_operand(i, 1, bytes, false)?;
            let result = f(b, &mut mxcsr);
            cpu.mxcsr = mxcsr;
            match result {
                Ok(value) => cpu.set_reg(register_offset(i.op0_register()), value),
                Err(_) => return cpu.simd_exception(),
            }
        }
        Form::Flags { f, .. } => {
            let b = cpu.vector_operand(i, 1, bytes, aligned)?;
            let a = cpu.vector_operand(i, 0, 16, false)?;
            let result = f(a, b, &mut mxcsr);
            cpu.mxcsr = mxcsr;
            match result {
                Ok(flags) => cpu.set_arithmetic(flags.into()),
                Err(_) => return cpu.simd_exception(),
            }
        }
        Form::String { f, target } => {
            let b = cpu.vector_operand(i, 1, bytes, aligned)?;
            let a = cpu.vector_operand(i, 0, 16, false)?;
            let result = f(a, b, imm, cpu.gpr[0], cpu.gpr[2]);
            match target {
                StringTarget::Rcx => cpu.gpr[1] = result.value as u64,
                StringTarget::Xmm0 => cpu.xmm[0] = result.value,
            }
            cpu.set_arithmetic(result.eflags.into());
        }
        Form::MaskStore | Form::MmxMaskStore => {
            let mmx = matches!(form, Form::MmxMaskStore);
            let value = cpu.vector_operand(i, 1, 16, false)?;
            let mask = sse::byte_mask(cpu.vector_operand(i, 2, 16, false)?);
            mask_store(cpu, i, value, mask, if mmx { 8 } else { 16 })?;
            if mmx {
                cpu.x87.mmx_enter();
            }
        }
        Form::Crc { f, bytes } => {
            let source = cpu.gpr_operand(i, 1, bytes)?;
            let offset = register_offset(i.op0_register());
            let checksum = f(cpu.reg(offset), source);
            cpu.set_reg(offset, u64::from(checksum));
        }
        Form::Mmx { f, .. } => {
            let b = cpu.vector_operand(i, 1, bytes, false)?;
            let a = cpu.vector_operand(i, 0, 8, false)?;
            cpu.x87.mmx_set(i.op0_register().number(), f(a, b, imm) as u64);
        }
        Form::MmxImm { f } => {
            let a = cpu.vector_operand(i, 0, 8, false)?;
            cpu.x87.mmx_set(i.op0_register().number(), f(a, 0, imm) as u64);
        }
        Form::MmxGpr { f } => {
            let size = i.memory_size().size() as u8;
            let b = if i.op1_kind() == OpKind::Memory {
                cpu.gpr_operand(i, 1, size)?
            } else {
                cpu.reg(register_offset(i.op1_register()))
            };
            let a = cpu.vector_operand(i, 0, 8, false)?;
            cpu.x87.mmx_set(i.op0_register().number(), f(a, b.into(), imm) as u64);
        }
        Form::MmxXmm { f } => {
            let a = cpu.vector_operand(i, 0, 8, false)?;
            let b = cpu.vector_operand(i, 1, 16, false)?;
            cpu.x87.mmx_set(i.op0_register().number(), f(a, b, imm) as u64);
        }
        Form::MmxXmmFp { f, .. } => {
            let b = cpu.vector_operand(i, 1, bytes, aligned)?;
            let a = cpu.vector_operand(i, 0, 8, false)?;
            let result = f(a, b, imm, &mut mxcsr);
            cpu.mxcsr = mxcsr;
            match result {
                Ok(value) => cpu.x87.mmx_set(i.op0_register().number(), value as u64),
                Err(_) => return cpu.simd_exception(),
            }
        }
        Form::XmmMmx { f } => {
            let a = cpu.vector_operand(i, 0, 16, false)?;
            let b = cpu.vector_operand(i, 1, 8, false)?;
            cpu.x87.mmx_enter();
            cpu.set_xmm(i.op0_register(), f(a, b, imm));
        }
        Form::XmmMmxFp { f } => {
            let b = cpu.vector_operand(i, 1, 8, false)?;
            let a = cpu.vector_operand(i, 0, 16, false)?;
            let result = f(a, b, imm, &mut mxcsr);
            cpu.mxcsr = mxcsr;
            match result {
                Ok(value) => {
                    if !memory {
                        cpu.x87.mmx_enter();
                    }
                    cpu.set_xmm(i.op0_register(), value);
                }
                Err(_) => return cpu.simd_exception(),
            }
        }
        Form::MmxStore { bytes } => {
            let la = cpu.memory_operand(i, bytes.into(), true)?;
            let value = cpu.vector_operand(i, 1, 8, false)?;
            cpu.store_vector(la, bytes, value)?;
            cpu.x87.mmx_enter();
        }
        Form::GprMmx { f } => {
            let value = f(cpu.vector_operand(i, 1, 8, false)?, imm);
            cpu.x87.mmx_enter();
            cpu.set_reg(register_offset(i.op0_register()), value);
        }
    }
    Ok(Flow::Next)
}

/// Whether an explicit operand is in memory.
pub fn has_memory(i: &Instruction) -> bool {
    i.op_kinds().any(|kind| kind == OpKind::Memory)
}

/// Stores the bytes that `mask` selects at DS:RDI.
fn mask_store(cpu: &mut Cpu, i: &Instruction, value: u128, mask: u16, bytes: u32) -> Exec {
    let width = match i.op0_kind() {
        OpKind::MemorySegDI => 0xffff,
        OpKind::MemorySegEDI => 0xffff_ffff,
        _ => u64::MAX,
    };
    let start = cpu.gpr[7] & width;
    let segment = segment_index(i.memory_segment());
    for pass in 0..2 {
        for n in (0..bytes).filter(|n| mask >> n & 1 != 0) {
            let la = cpu.linear(segment, start.wrapping_add(n.into()) & width, 1, true)?;
            if pass == 0 {
                cpu.probe_write(la, 1, Access::Current)?;
            } else {
                cpu.store(la, (value >> (8 * n)) as u8)?;
            }
        }
    }
    Ok(())
}

/// An x87 instruction, whose escape and ModRM bytes are in `cpu.escape`.
pub fn x87_instruction(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    if i.mnemonic() == Mnemonic::Wait {
        if cpu.cr0 & (cr0::MP | cr0::TS) == cr0::MP | cr0::TS {
            return cpu.raise(vector::NM, None);
        }
        return if cpu.x87.wait() { cpu.raise(vector::MF, None) } else { Ok(Flow::Next) };
    }
    if cpu.cr0 & (cr0::EM | cr0::TS) != 0 {
        return cpu.raise(vector::NM, None);
    }
    let (opcode, modrm) = cpu.escape;
    let wide = cpu.operand_is_wide;
    let Some(operand) = memory_operand(opcode, modrm, wide) else { return cpu.undefined() };
    if cpu.x87.wait() && is_waiting(opcode, modrm) {
        return cpu.raise(vector::MF, None);
    }
    let mut buffer = [0u8; 128];
    let (mut la, mut len) = (0, 0);
    match operand {
        MemoryOperand::None => {}
        MemoryOperand::Load(bytes) => {
            len = usize::from(bytes);
            la = cpu.memory_operand(i, bytes.into(), false)?;
            cpu.read_bytes(la, &mut buffer[..len], Access::Current)?;
        }
        MemoryOperand::Store(bytes) => {
            len = usize::from(bytes);
            la = cpu.memory_operand(i, bytes.into(), true)?;
            cpu.probe_write(la, bytes.into(), Access::Current)?;
        }
    }
    let inputs = Inputs {
        memory: &buffer[..len],
        rflags: cpu.rflags(),
        ip: cpu.rip,
        cs: cpu.seg[crate::accel::soft::state::seg::CS].selector,
        dp: if operand == MemoryOperand::None { 0 } else { cpu.effective_address(i) },
        ds: cpu.seg[segment_index(i.memory_segment())].selector,
        wide,
        real: matches!(cpu.mode, Mode::Real | Mode::Virtual8086),
    };
    // A store to MMIO executes the instruction again: the unit's state is put back then.
    let before = cpu.x87.clone();
    match cpu.x87.execute(opcode, modrm, &inputs) {
        Ok(Effects::None) => {}
        Ok(Effects::Rflags(flags)) => cpu.set_rflags(flags),
        Ok(Effects::Ax(ax)) => cpu.set_reg(0, ax),
        Ok(effects) => {
            if let Some(bytes) = effects.stored().and_then(|bytes| bytes.get(..len))
                && let Err(abort) = cpu.write_bytes(la, bytes, Access::Current)
            {
                cpu.x87 = before;
                return Err(abort);
            }
        }
        Err(Fault::Mf) => return cpu.raise(vector::MF, None),
        Err(Fault::Ud) => return cpu.undefined(),
    }
    Ok(Flow::Next)
}

/// The escape and ModRM bytes of an x87 instruction among its bytes, behind the prefixes.
pub fn escape_bytes(bytes: &[u8]) -> (u8, u8) {
    let at = bytes.iter().position(|byte| (0xd8..=0xdf).contains(byte)).unwrap_or(0);
    (bytes.get(at).copied().unwrap_or(0), bytes.get(at + 1).copied().unwrap_or(0))
}

/// Whether an instruction has the operand-size override among its prefixes, and REX.W does not undo it.
pub fn has_operand_size_prefix(bytes: &[u8]) -> bool {
    let escape = bytes.iter().position(|byte| (0xd8..=0xdf).contains(byte)).unwrap_or(bytes.len());
    let prefixes = &bytes[..escape];
    // Only in 64-bit mode is 48 to 4F a prefix.
    prefixes.contains(&0x66) && !prefixes.last().is_some_and(|byte| (0x48..=0x4f).contains(byte))
}

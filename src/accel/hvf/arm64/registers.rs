//! The framework's numbers of the registers that the neutral structs have.

#![forbid(unsafe_code)]

use super::cpu::Cpu;
use super::syndrome::SystemRegister;
use crate::accel::ffi::hvf::arm64::{HV_REG_CPSR, HV_REG_FPCR, HV_REG_FPSR, HV_REG_PC, Reg, SysReg};
use crate::accel::hvf::error::HvResult;
use crate::accel::macros::impl_reg_calls;
use crate::accel::{Arm64FpuRegs, Arm64Regs, Arm64SpecialRegs};

/// A system register's number is its encoding.
const fn encoding(op0: u16, op1: u16, crn: u16, crm: u16, op2: u16) -> SysReg {
    SystemRegister::new(op0, op1, crn, crm, op2).0
}

/// The multiprocessor affinity register.
pub const MPIDR_EL1: SysReg = encoding(3, 0, 0, 0, 5);
/// System control.
pub const SCTLR_EL1: SysReg = encoding(3, 0, 1, 0, 0);
/// SCTLR_EL1 after a reset: MMU and caches off, and the bits that are 1 on any processor.
pub const SCTLR_RESET: u64 = 0x30d0_0800;
/// Saved program status.
pub const SPSR_EL1: SysReg = encoding(3, 0, 4, 0, 0);
/// Where an exception returns to.
pub const ELR_EL1: SysReg = encoding(3, 0, 4, 0, 1);
/// Exception syndrome.
pub const ESR_EL1: SysReg = encoding(3, 0, 5, 2, 0);
/// Fault address.
pub const FAR_EL1: SysReg = encoding(3, 0, 6, 0, 0);
/// Vector base.
pub const VBAR_EL1: SysReg = encoding(3, 0, 12, 0, 0);
/// The virtual timer's control.
pub const CNTV_CTL_EL0: SysReg = encoding(3, 3, 14, 3, 1);
/// When the virtual timer's condition is met.
pub const CNTV_CVAL_EL0: SysReg = encoding(3, 3, 14, 3, 2);

impl_reg_calls!(Arm64Regs, Reg {
    x0 = 0, x1 = 1, x2 = 2, x3 = 3, x4 = 4, x5 = 5, x6 = 6, x7 = 7, x8 = 8, x9 = 9, x10 = 10, x11 = 11,
    x12 = 12, x13 = 13, x14 = 14, x15 = 15, x16 = 16, x17 = 17, x18 = 18, x19 = 19, x20 = 20, x21 = 21,
    x22 = 22, x23 = 23, x24 = 24, x25 = 25, x26 = 26, x27 = 27, x28 = 28, x29 = 29, x30 = 30,
    pc = HV_REG_PC, pstate = HV_REG_CPSR,
});

impl_reg_calls!(Arm64SpecialRegs, SysReg {
    sp_el0 = encoding(3, 0, 4, 1, 0),
    sp_el1 = encoding(3, 4, 4, 1, 0),
    elr_el1 = ELR_EL1,
    spsr_el1 = SPSR_EL1,
    sctlr_el1 = SCTLR_EL1,
    cpacr_el1 = encoding(3, 0, 1, 0, 2),
    ttbr0_el1 = encoding(3, 0, 2, 0, 0),
    ttbr1_el1 = encoding(3, 0, 2, 0, 1),
    tcr_el1 = encoding(3, 0, 2, 0, 2),
    mair_el1 = encoding(3, 0, 10, 2, 0),
    vbar_el1 = VBAR_EL1,
    esr_el1 = ESR_EL1,
    far_el1 = FAR_EL1,
    contextidr_el1 = encoding(3, 0, 13, 0, 1),
    tpidr_el0 = encoding(3, 3, 13, 0, 2),
    tpidr_el1 = encoding(3, 0, 13, 0, 4),
    tpidrro_el0 = encoding(3, 3, 13, 0, 3),
});

/// Reads the general registers.
///
/// # Errors
/// When the framework refuses.
pub fn general(cpu: &impl Cpu) -> HvResult<Arm64Regs> {
    Arm64Regs::read_each(|reg| cpu.reg(reg))
}

/// Writes the general registers.
///
/// # Errors
/// When the framework refuses.
pub fn set_general(cpu: &mut impl Cpu, regs: &Arm64Regs) -> HvResult<()> {
    regs.write_each(|reg, value| cpu.set_reg(reg, value))
}

/// Reads the system registers.
///
/// # Errors
/// When the framework refuses.
pub fn special(cpu: &impl Cpu) -> HvResult<Arm64SpecialRegs> {
    Arm64SpecialRegs::read_each(|reg| cpu.sys_reg(reg))
}

/// Writes the system registers.
///
/// # Errors
/// When the framework refuses.
pub fn set_special(cpu: &mut impl Cpu, regs: &Arm64SpecialRegs) -> HvResult<()> {
    regs.write_each(|reg, value| cpu.set_sys_reg(reg, value))
}

/// Reads the floating-point and SIMD registers.
///
/// # Errors
/// When the framework refuses.
pub fn fpu(cpu: &impl Cpu) -> HvResult<Arm64FpuRegs> {
    // Both are 32-bit registers.
    let (fpsr, fpcr) = (cpu.reg(HV_REG_FPSR)? as u32, cpu.reg(HV_REG_FPCR)? as u32);
    let mut regs = Arm64FpuRegs { fpsr, fpcr, ..Arm64FpuRegs::default() };
    for (number, value) in (0..).zip(&mut regs.v) {
        *value = cpu.vector(number)?;
    }
    Ok(regs)
}

/// Writes the floating-point and SIMD registers.
///
/// # Errors
/// When the framework refuses.
pub fn set_fpu(cpu: &mut impl Cpu, regs: &Arm64FpuRegs) -> HvResult<()> {
    cpu.set_reg(HV_REG_FPSR, regs.fpsr.into())?;
    cpu.set_reg(HV_REG_FPCR, regs.fpcr.into())?;
    for (number, value) in (0..).zip(regs.v) {
        cpu.set_vector(number, value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a register's number is called in `hv_sys_reg_t`, with its published value.
    const PUBLISHED: [(SysReg, u16); 9] = [
        (MPIDR_EL1, 0xc005),
        (SCTLR_EL1, 0xc080),
        (SPSR_EL1, 0xc200),
        (ELR_EL1, 0xc201),
        (ESR_EL1, 0xc290),
        (FAR_EL1, 0xc300),
        (VBAR_EL1, 0xc600),
        (CNTV_CTL_EL0, 0xdf19),
        (CNTV_CVAL_EL0, 0xdf1a),
    ];

    #[test]
    fn system_registers_have_the_published_numbers() {
        for (ours, published) in PUBLISHED {
            assert_eq!(ours, published);
        }
        let mut numbers = Vec::new();
        let _ = Arm64SpecialRegs::read_each(|reg| {
            numbers.push(reg);
            Ok::<_, ()>(0)
        });
        let published = [
            0xc208, 0xe208, 0xc201, 0xc200, 0xc080, 0xc082, 0xc100, 0xc101, 0xc102, 0xc510, 0xc600, 0xc290,
            0xc300, 0xc681, 0xde82, 0xc684, 0xde83,
        ];
        assert_eq!(numbers, published);
    }

    #[test]
    fn general_registers_are_numbered_through() {
        let regs = Arm64Regs::read_each(|reg| Ok::<_, ()>(u64::from(reg))).unwrap();
        assert_eq!((regs.x0, regs.x29, regs.x30, regs.pc, regs.pstate), (0, 29, 30, 31, 34));
        let mut written = Vec::new();
        regs.write_each(|reg, value| {
            written.push((u64::from(reg), value));
            Ok::<_, ()>(())
        })
        .unwrap();
        assert_eq!(written.len(), Arm64Regs::NAMES.len());
        assert!(written.iter().all(|(reg, value)| reg == value));
    }
}

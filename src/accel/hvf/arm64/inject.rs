//! A synchronous exception that the guest takes at EL1, where its processor would have raised it by itself
//! on a machine without a hypervisor (Arm ARM, D1.3 "Exceptions", `AArch64.TakeException`).

#![forbid(unsafe_code)]

use super::cpu::Cpu;
use super::registers::{ELR_EL1, ESR_EL1, FAR_EL1, SCTLR_EL1, SPSR_EL1, VBAR_EL1};
use crate::accel::ffi::hvf::arm64::{HV_REG_CPSR, HV_REG_PC};
use crate::accel::hvf::error::HvResult;

/// PSTATE.M: the exception level and stack pointer.
const MODE: u64 = 0xf;
const EL0: u64 = 0b0000;
const EL1_SP0: u64 = 0b0100;
const EL1H: u64 = 0b0101;
/// D, A, I and F: all interrupts masked.
const DAIF: u64 = 0xf << 6;
/// What an exception clears: BTYPE, SSBS' neighbours IL and SS, UAO, and the bits of AArch32.
const CLEARED: u64 = 0b11 << 10 | 1 << 20 | 1 << 21 | 1 << 23;
/// Privileged access never.
const PAN: u64 = 1 << 22;
/// SCTLR_EL1.SPAN: PAN stays as it is.
const SCTLR_SPAN: u64 = 1 << 23;

/// ESR_EL1.EC.
const CLASS_UNKNOWN: u64 = 0x00;
const CLASS_INSTRUCTION_ABORT_LOWER: u64 = 0x20;
const CLASS_INSTRUCTION_ABORT_SAME: u64 = 0x21;
const CLASS_DATA_ABORT_LOWER: u64 = 0x24;
const CLASS_DATA_ABORT_SAME: u64 = 0x25;
/// ESR_EL1.IL: a 32-bit instruction.
const IL: u64 = 1 << 25;
/// DFSC and IFSC: a synchronous external abort.
const EXTERNAL_ABORT: u64 = 0x10;

/// An exception to raise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raise {
    /// An undefined instruction.
    Undefined,
    /// Nothing answers a fetch from this virtual address.
    FetchAbort(u64),
    /// Nothing answers an access to this virtual address.
    DataAbort(u64),
}

/// Makes the guest take the exception at the present instruction.
///
/// # Errors
/// When the framework refuses.
pub fn raise(cpu: &mut impl Cpu, exception: Raise) -> HvResult<()> {
    let (pc, pstate) = (cpu.reg(HV_REG_PC)?, cpu.reg(HV_REG_CPSR)?);
    let mode = pstate & MODE;
    let from_el0 = mode == EL0;
    let (class, code, address) = match exception {
        Raise::Undefined => (CLASS_UNKNOWN, 0, None),
        Raise::FetchAbort(address) if from_el0 => {
            (CLASS_INSTRUCTION_ABORT_LOWER, EXTERNAL_ABORT, Some(address))
        }
        Raise::FetchAbort(address) => (CLASS_INSTRUCTION_ABORT_SAME, EXTERNAL_ABORT, Some(address)),
        Raise::DataAbort(address) if from_el0 => (CLASS_DATA_ABORT_LOWER, EXTERNAL_ABORT, Some(address)),
        Raise::DataAbort(address) => (CLASS_DATA_ABORT_SAME, EXTERNAL_ABORT, Some(address)),
    };
    // Table D1-7: the vector by where the exception comes from.
    let vector = match mode {
        EL0 => 0x400,
        EL1_SP0 => 0x000,
        _ => 0x200,
    };
    if let Some(address) = address {
        cpu.set_sys_reg(FAR_EL1, address)?;
    }
    cpu.set_sys_reg(ESR_EL1, class << 26 | IL | code)?;
    cpu.set_sys_reg(ELR_EL1, pc)?;
    cpu.set_sys_reg(SPSR_EL1, pstate)?;
    let mut pstate = pstate & !(MODE | CLEARED) | DAIF | EL1H;
    if cpu.sys_reg(SCTLR_EL1)? & SCTLR_SPAN == 0 {
        pstate |= PAN;
    }
    cpu.set_reg(HV_REG_CPSR, pstate)?;
    let base = cpu.sys_reg(VBAR_EL1)?;
    cpu.set_reg(HV_REG_PC, base.wrapping_add(vector))
}

#[cfg(test)]
mod tests {
    use super::super::testing::ScriptedCpu;
    use super::*;

    /// A CPU at 0x4000_1000 in a mode, with its vectors at 0x4020_0000.
    fn cpu(pstate: u64, sctlr: u64) -> ScriptedCpu {
        let mut cpu = ScriptedCpu::default();
        cpu.set_reg(HV_REG_PC, 0x4000_1000).unwrap();
        cpu.set_reg(HV_REG_CPSR, pstate).unwrap();
        cpu.set_sys_reg(VBAR_EL1, 0x4020_0000).unwrap();
        cpu.set_sys_reg(SCTLR_EL1, sctlr).unwrap();
        cpu
    }

    #[test]
    fn an_undefined_instruction_of_the_kernel() {
        // NZCV = 0110, EL1h, interrupts on; SPAN set: PAN stays.
        let mut cpu = cpu(0x6000_0005, SCTLR_SPAN);
        raise(&mut cpu, Raise::Undefined).unwrap();
        assert_eq!(cpu.reg(HV_REG_PC), Ok(0x4020_0200));
        assert_eq!(cpu.reg(HV_REG_CPSR), Ok(0x6000_03c5));
        assert_eq!(cpu.sys_reg(ELR_EL1), Ok(0x4000_1000));
        assert_eq!(cpu.sys_reg(SPSR_EL1), Ok(0x6000_0005));
        assert_eq!(cpu.sys_reg(ESR_EL1), Ok(0x0200_0000));
    }

    #[test]
    fn an_undefined_instruction_of_a_program_sets_pan() {
        let mut cpu = cpu(0x0020_0000, 0);
        raise(&mut cpu, Raise::Undefined).unwrap();
        assert_eq!(cpu.reg(HV_REG_PC), Ok(0x4020_0400));
        assert_eq!(cpu.reg(HV_REG_CPSR), Ok(1 << 22 | 0x3c5));
    }

    #[test]
    fn an_access_to_nowhere_is_an_external_abort() {
        for (pstate, exception, esr, vector) in [
            (0x3c5, Raise::DataAbort(0x1234), 0x9600_0010, 0x200),
            (0x3c4, Raise::DataAbort(0x1234), 0x9600_0010, 0x000),
            (0x000, Raise::DataAbort(0x1234), 0x9200_0010, 0x400),
            (0x3c5, Raise::FetchAbort(0x1234), 0x8600_0010, 0x200),
            (0x000, Raise::FetchAbort(0x1234), 0x8200_0010, 0x400),
        ] {
            let mut cpu = cpu(pstate, SCTLR_SPAN);
            raise(&mut cpu, exception).unwrap();
            assert_eq!(cpu.sys_reg(ESR_EL1), Ok(esr), "{exception:?}");
            assert_eq!(cpu.sys_reg(FAR_EL1), Ok(0x1234));
            assert_eq!(cpu.reg(HV_REG_PC), Ok(0x4020_0000 + vector));
        }
    }
}

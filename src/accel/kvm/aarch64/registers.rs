//! The registers by KVM's ids (Linux: Documentation/virt/kvm/api.rst, `KVM_SET_ONE_REG`).

use std::mem::{offset_of, size_of};

use kvm_bindings::{
    KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_ARM64_SYSREG, KVM_REG_SIZE_U32, KVM_REG_SIZE_U64,
    KVM_REG_SIZE_U128, kvm_regs, user_fpsimd_state, user_pt_regs,
};
use kvm_ioctls::{Error, VcpuFd};

use crate::accel::{Arm64FpuRegs, Arm64Regs, Arm64SpecialRegs};

/// The id of a register in `kvm_regs`, by its offset there in bytes.
const fn core(size: u64, offset: usize) -> u64 {
    KVM_REG_ARM64 | KVM_REG_ARM_CORE as u64 | size | (offset / size_of::<u32>()) as u64
}

/// The id of a system register, by the fields of MRS (Arm ARM, D19).
const fn system(op1: u64, crn: u64, crm: u64, op2: u64) -> u64 {
    const OP0: u64 = 3;
    KVM_REG_ARM64
        | KVM_REG_ARM64_SYSREG as u64
        | KVM_REG_SIZE_U64
        | OP0 << 14
        | op1 << 11
        | crn << 7
        | crm << 3
        | op2
}

const REGS: usize = offset_of!(kvm_regs, regs);
const FP_REGS: usize = offset_of!(kvm_regs, fp_regs);

/// PC.
pub const PC: u64 = core(KVM_REG_SIZE_U64, REGS + offset_of!(user_pt_regs, pc));
/// PSTATE.
pub const PSTATE: u64 = core(KVM_REG_SIZE_U64, REGS + offset_of!(user_pt_regs, pstate));
const FPSR: u64 = core(KVM_REG_SIZE_U32, FP_REGS + offset_of!(user_fpsimd_state, fpsr));
const FPCR: u64 = core(KVM_REG_SIZE_U32, FP_REGS + offset_of!(user_fpsimd_state, fpcr));

/// The ids of `Arm64Regs`, in the order of its declaration.
const GENERAL: [u64; Arm64Regs::NAMES.len()] = {
    let mut ids = [0; Arm64Regs::NAMES.len()];
    let mut x = 0;
    while x < 31 {
        let offset = REGS + offset_of!(user_pt_regs, regs) + x * size_of::<u64>();
        ids[x] = core(KVM_REG_SIZE_U64, offset);
        x += 1;
    }
    ids[31] = PC;
    ids[32] = PSTATE;
    ids
};

/// The ids of `Arm64SpecialRegs`, in the order of its declaration.
const SPECIAL: [u64; Arm64SpecialRegs::NAMES.len()] = [
    core(KVM_REG_SIZE_U64, REGS + offset_of!(user_pt_regs, sp)),
    core(KVM_REG_SIZE_U64, offset_of!(kvm_regs, sp_el1)),
    core(KVM_REG_SIZE_U64, offset_of!(kvm_regs, elr_el1)),
    // KVM_SPSR_EL1 is the first.
    core(KVM_REG_SIZE_U64, offset_of!(kvm_regs, spsr)),
    system(0, 1, 0, 0),  // SCTLR_EL1
    system(0, 1, 0, 2),  // CPACR_EL1
    system(0, 2, 0, 0),  // TTBR0_EL1
    system(0, 2, 0, 1),  // TTBR1_EL1
    system(0, 2, 0, 2),  // TCR_EL1
    system(0, 10, 2, 0), // MAIR_EL1
    system(0, 12, 0, 0), // VBAR_EL1
    system(0, 5, 2, 0),  // ESR_EL1
    system(0, 6, 0, 0),  // FAR_EL1
    system(0, 13, 0, 1), // CONTEXTIDR_EL1
    system(3, 13, 0, 2), // TPIDR_EL0
    system(0, 13, 0, 4), // TPIDR_EL1
    system(3, 13, 0, 3), // TPIDRRO_EL0
];

/// The id of V0 and its followers.
fn vector(number: usize) -> u64 {
    let offset = offset_of!(user_fpsimd_state, vregs) + number * size_of::<u128>();
    core(KVM_REG_SIZE_U128, FP_REGS + offset)
}

/// A register of 64 bits.
pub fn get(fd: &VcpuFd, id: u64) -> Result<u64, Error> {
    let mut value = [0; 8];
    fd.get_one_reg(id, &mut value)?;
    Ok(u64::from_le_bytes(value))
}

fn get_by_number(fd: &VcpuFd, ids: &[u64], number: usize) -> Result<u64, Error> {
    ids.get(number).map_or(Ok(0), |&id| get(fd, id))
}

fn set_all(fd: &VcpuFd, ids: &[u64], values: impl Iterator<Item = u64>) -> Result<(), Error> {
    for (&id, value) in ids.iter().zip(values) {
        fd.set_one_reg(id, &value.to_le_bytes())?;
    }
    Ok(())
}

/// The general registers.
pub fn get_general(fd: &VcpuFd) -> Result<Arm64Regs, Error> {
    Arm64Regs::try_from_fn(|number| get_by_number(fd, &GENERAL, number))
}

/// Sets the general registers.
pub fn set_general(fd: &VcpuFd, regs: &Arm64Regs) -> Result<(), Error> {
    set_all(fd, &GENERAL, regs.iter().map(|(_, value)| value))
}

/// The system registers.
pub fn get_special(fd: &VcpuFd) -> Result<Arm64SpecialRegs, Error> {
    Arm64SpecialRegs::try_from_fn(|number| get_by_number(fd, &SPECIAL, number))
}

/// Sets the system registers.
pub fn set_special(fd: &VcpuFd, regs: &Arm64SpecialRegs) -> Result<(), Error> {
    set_all(fd, &SPECIAL, regs.iter().map(|(_, value)| value))
}

/// The floating-point and SIMD registers.
pub fn get_fpu(fd: &VcpuFd) -> Result<Arm64FpuRegs, Error> {
    let mut regs = Arm64FpuRegs::default();
    for (number, v) in regs.v.iter_mut().enumerate() {
        let mut value = [0; 16];
        fd.get_one_reg(vector(number), &mut value)?;
        *v = u128::from_le_bytes(value);
    }
    for (id, register) in [(FPSR, &mut regs.fpsr), (FPCR, &mut regs.fpcr)] {
        let mut value = [0; 4];
        fd.get_one_reg(id, &mut value)?;
        *register = u32::from_le_bytes(value);
    }
    Ok(regs)
}

/// Sets the floating-point and SIMD registers.
pub fn set_fpu(fd: &VcpuFd, regs: &Arm64FpuRegs) -> Result<(), Error> {
    for (number, v) in regs.v.iter().enumerate() {
        fd.set_one_reg(vector(number), &v.to_le_bytes())?;
    }
    for (id, register) in [(FPSR, regs.fpsr), (FPCR, regs.fpcr)] {
        fd.set_one_reg(id, &register.to_le_bytes())?;
    }
    Ok(())
}

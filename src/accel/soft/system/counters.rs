//! CPUID, the time-stamp counter, and other reads of what the processor is and counts.

#![forbid(unsafe_code)]

use iced_x86::Instruction;

use super::super::abort::Exec;
use super::super::state::{Cpu, cr4};
use super::cpuid::Live;
use super::operand;

const RAX: usize = 0;
const RBX: usize = 3;
const RCX: usize = 1;
const RDX: usize = 2;

/// CPUID.
pub fn cpuid(cpu: &mut Cpu) {
    let live = Live { osxsave: cpu.cr4 & cr4::OSXSAVE != 0, apic: cpu.apic_enabled() };
    let leaf = cpu.system.topology.cpuid(cpu.gpr[RAX] as u32, cpu.gpr[RCX] as u32, live);
    cpu.gpr[RAX] = u64::from(leaf.eax);
    cpu.gpr[RBX] = u64::from(leaf.ebx);
    cpu.gpr[RCX] = u64::from(leaf.ecx);
    cpu.gpr[RDX] = u64::from(leaf.edx);
}

fn require_tsc(cpu: &mut Cpu) -> Exec {
    if cpu.cr4 & cr4::TSD != 0 && cpu.cpl != 0 { cpu.general_protection() } else { Ok(()) }
}

/// RDTSC.
///
/// # Errors
/// #GP(0) for a user under CR4.TSD.
pub fn rdtsc(cpu: &mut Cpu) -> Exec {
    require_tsc(cpu)?;
    let tsc = cpu.tsc();
    cpu.gpr[RAX] = tsc & 0xffff_ffff;
    cpu.gpr[RDX] = tsc >> 32;
    Ok(())
}

/// RDTSCP.
///
/// # Errors
/// #GP(0) for a user under CR4.TSD.
pub fn rdtscp(cpu: &mut Cpu) -> Exec {
    rdtsc(cpu)?;
    cpu.gpr[RCX] = u64::from(cpu.system.msrs.tsc_aux);
    Ok(())
}

/// RDPID.
pub fn rdpid(cpu: &mut Cpu, instruction: &Instruction) {
    let aux = u64::from(cpu.system.msrs.tsc_aux);
    operand::set_register(cpu, instruction.op0_register(), aux);
}

/// VMCALL and VMMCALL: KVM's hypercalls, of which there is one that does nothing (Linux,
/// Documentation/virt/kvm/x86/hypercalls.rst).
pub fn hypercall(cpu: &mut Cpu) {
    const VAPIC_POLL_IRQ: u64 = 1;
    const EPERM: i64 = 1;
    const KVM_ENOSYS: i64 = 1000;
    let mask = if cpu.code_bits() == 64 { u64::MAX } else { 0xffff_ffff };
    let result = if cpu.cpl != 0 {
        -EPERM
    } else if cpu.gpr[RAX] & mask == VAPIC_POLL_IRQ {
        0
    } else {
        -KVM_ENOSYS
    };
    cpu.gpr[RAX] = result as u64 & mask;
}

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
    let live = Live {
        osxsave: cpu.cr4 & cr4::OSXSAVE != 0,
        ospke: cpu.cr4 & cr4::PKE != 0,
        apic: cpu.apic_enabled(),
        xcr0: cpu.xcr0,
    };
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

/// VMCALL and VMMCALL: KVM's hypercalls (Linux, Documentation/virt/kvm/x86/hypercalls.rst). None is offered
/// in CPUID; those that test kernels call all the same do what they do on KVM.
pub fn hypercall(cpu: &mut Cpu) {
    const VAPIC_POLL_IRQ: u64 = 1;
    const SEND_IPI: u64 = 10;
    const SCHED_YIELD: u64 = 11;
    const EPERM: i64 = 1;
    const KVM_ENOSYS: i64 = 1000;
    let mask = if cpu.code_bits() == 64 { u64::MAX } else { 0xffff_ffff };
    let result = if cpu.cpl != 0 {
        -EPERM
    } else {
        match cpu.gpr[RAX] & mask {
            VAPIC_POLL_IRQ | SCHED_YIELD => 0,
            SEND_IPI => send_ipis(cpu, mask),
            _ => -KVM_ENOSYS,
        }
    };
    cpu.gpr[RAX] = result as u64 & mask;
}

/// Sends an interrupt to the processors of a bitmap in RBX and RCX, whose first bit is the APIC id in RDX;
/// RSI has the ICR's low half. Gives the number of processors.
fn send_ipis(cpu: &Cpu, mask: u64) -> i64 {
    const EINVAL: i64 = 22;
    /// Destination mode and shorthand.
    const DESTINATION: u64 = 1 << 11 | 0b11 << 18;
    let [low, high, first, icr] = [3, 1, 2, 6].map(|register: usize| cpu.gpr[register] & mask);
    if icr & DESTINATION != 0 {
        return -EINVAL;
    }
    let width = if mask == u64::MAX { 64 } else { 32 };
    let bits =
        (0..width).map(|bit| (bit, low >> bit)).chain((0..width).map(|bit| (width + bit, high >> bit)));
    let ids = bits
        .filter(|(_, word)| word & 1 != 0)
        .filter_map(|(bit, _)| u32::try_from(first.checked_add(bit)?).ok());
    ids.fold(0, |sent, id| sent + i64::from(cpu.lapic.send_to(id, icr as u32)))
}

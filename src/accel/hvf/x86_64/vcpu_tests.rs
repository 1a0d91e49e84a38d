//! The vCPU's logic, with exits as the VMCS tells them.

use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use super::cpu::Cpu;
use super::cpuid::Leaf;
use super::registers::{CR0_PE, CR0_PG, CR4_PAE, CR4_VMXE, EFER_LMA, EFER_LME};
use super::testing::ScriptedCpu;
use super::vcpu::{HvfVcpu, Parts};
use super::vmcs::{
    CTRL_CPU_BASED, CTRL_CR0_SHADOW, ENTRY_EVENT, EXIT_LENGTH, EXIT_QUALIFICATION, EXIT_REASON, Field,
    GUEST_CR0, GUEST_CR3, GUEST_CR4, GUEST_IA32_EFER, GUEST_INTERRUPTIBILITY, GUEST_PDPTE0,
    GUEST_PHYSICAL_ADDRESS, IDT_VECTORING, IDT_VECTORING_ERROR,
};
use crate::accel::hvf::wakeup::Wakeup;
use crate::accel::{
    Activity, GuestRegs, Kick, NoController, Segment, SpecialRegs, VcpuExit, VcpuOps, X86Regs, X86SpecialRegs,
};
use crate::devices::irqchip::lapic::{ApicBus, Lapic, LapicSetup};
use crate::devices::timer::HostClock;
use crate::memory;

const RIP: u64 = 0x1000;
const RFLAGS_IF: u64 = 1 << 9;

struct Rig {
    vcpu: HvfVcpu<ScriptedCpu>,
    wakeup: Arc<Wakeup>,
    lapic: Arc<Lapic>,
    /// The other vCPU's.
    other: Arc<Lapic>,
    memory: memory::GuestMemory,
}

fn host_cpuid(_: u32, _: u32) -> Leaf {
    Leaf { eax: 0x16, ebx: 2, ecx: 3, edx: 4 }
}

/// vCPU `id` of two, in flat 32-bit protected mode at `RIP`. When its exits are used up, it returns
/// `Interrupted`.
fn rig(id: u32) -> Rig {
    let memory = memory::allocate(64 << 10).unwrap();
    let wakeup = Arc::new(Wakeup::default());
    let bus = ApicBus::new();
    let add = |id: u32, wakeup: &Arc<Wakeup>| {
        let woken = Arc::clone(wakeup);
        bus.add(LapicSetup {
            id,
            is_bsp: id == 0,
            clock: Arc::new(HostClock),
            tsc: Arc::new(|_| None),
            interrupts: Arc::new(NoController),
            wake: Arc::new(move || woken.ring()),
            timer_changed: Arc::new(|| {}),
        })
    };
    let lapic = add(id, &wakeup);
    let other = add(1 - id, &Arc::new(Wakeup::default()));
    let cpu = ScriptedCpu { at_end: Some(Arc::clone(&wakeup)), ..ScriptedCpu::default() };
    let mut vcpu = HvfVcpu::new(Parts {
        id,
        cpus: 2,
        cpu,
        wakeup: Arc::clone(&wakeup),
        lapic: Arc::clone(&lapic),
        interrupts: Arc::new(NoController),
        memory: memory.clone(),
        host_cpuid,
    });
    let data = Segment {
        limit: u32::MAX,
        selector: 0x10,
        type_: 3,
        present: true,
        db: true,
        s: true,
        g: true,
        ..Segment::default()
    };
    let special = X86SpecialRegs {
        cs: Segment { selector: 8, type_: 11, ..data },
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        cr0: CR0_PE,
        ..X86SpecialRegs::default()
    };
    vcpu.set_special_regs(&SpecialRegs::X86_64(special)).unwrap();
    vcpu.set_regs(&GuestRegs::X86_64(X86Regs { rip: RIP, rflags: 2, ..X86Regs::default() })).unwrap();
    Rig { vcpu, wakeup, lapic, other, memory }
}

impl Rig {
    fn exit(&mut self, reason: u64, qualification: u64, length: u64) {
        self.exit_with(&[(EXIT_REASON, reason), (EXIT_QUALIFICATION, qualification), (EXIT_LENGTH, length)]);
    }

    fn exit_with(&mut self, fields: &[(Field, u64)]) {
        // What an exit does not say is no event that it interrupted.
        let mut exit = vec![(IDT_VECTORING, 0)];
        exit.extend(fields);
        self.vcpu.cpu_mut().exits.push_back(exit);
    }

    fn regs(&self) -> X86Regs {
        let GuestRegs::X86_64(regs) = self.vcpu.get_regs().unwrap() else { panic!("other registers") };
        regs
    }

    fn set(&mut self, change: impl FnOnce(&mut X86Regs)) {
        let mut regs = self.regs();
        change(&mut regs);
        self.vcpu.set_regs(&GuestRegs::X86_64(regs)).unwrap();
    }

    fn field(&mut self, field: Field) -> u64 {
        self.vcpu.cpu_mut().vmcs(field).unwrap()
    }

    fn run_to_end(&mut self) {
        assert_eq!(self.vcpu.run().unwrap(), VcpuExit::Interrupted);
    }
}

#[test]
fn a_port_is_written_and_read() {
    let mut rig = rig(0);
    rig.set(|regs| regs.rax = 0xffff_ffff_1122_3344);
    rig.exit(30, 0x03f8_0000, 1);
    rig.exit(30, 0x0cfc_000b, 2);
    assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::IoOut { port: 0x3f8, data: &[0x44] });
    assert_eq!(rig.regs().rip, RIP + 1);
    let VcpuExit::IoIn { port: 0xcfc, data } = rig.vcpu.run().unwrap() else { panic!("no input") };
    data.copy_from_slice(&[1, 2, 3, 4]);
    rig.run_to_end();
    assert_eq!((rig.regs().rax, rig.regs().rip), (0x0403_0201, RIP + 3));
}

#[test]
fn a_string_goes_through_the_software_cpu() {
    let mut rig = rig(0);
    // rep outsb
    rig.memory.write_slice(&[0xf3, 0x6e], GuestAddress(RIP)).unwrap();
    rig.memory.write_slice(b"hi", GuestAddress(0x2000)).unwrap();
    rig.set(|regs| (regs.rcx, regs.rdx, regs.rsi) = (2, 0xe9, 0x2000));
    rig.exit(30, 0x00e9_0030, 2);
    rig.exit(30, 0x00e9_0030, 2);
    for byte in [b"h", b"i"] {
        assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::IoOut { port: 0xe9, data: byte });
    }
    rig.run_to_end();
    assert_eq!((rig.regs().rcx, rig.regs().rsi), (0, 0x2002));
}

#[test]
fn memory_mapped_io_goes_through_the_software_cpu() {
    let mut rig = rig(0);
    // mov eax, [ebx]; mov [ebx+4], eax
    rig.memory.write_slice(&[0x8b, 0x03, 0x89, 0x43, 0x04], GuestAddress(RIP)).unwrap();
    rig.set(|regs| regs.rbx = 0xd000_0000);
    rig.exit_with(&[(EXIT_REASON, 48), (EXIT_QUALIFICATION, 0x181), (GUEST_PHYSICAL_ADDRESS, 0xd000_0000)]);
    rig.exit_with(&[(EXIT_REASON, 48), (EXIT_QUALIFICATION, 0x182), (GUEST_PHYSICAL_ADDRESS, 0xd000_0004)]);
    let VcpuExit::MmioRead { gpa: 0xd000_0000, data } = rig.vcpu.run().unwrap() else { panic!("no load") };
    data.copy_from_slice(&[5, 6, 7, 8]);
    assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::MmioWrite { gpa: 0xd000_0004, data: &[5, 6, 7, 8] });
    rig.run_to_end();
    assert_eq!((rig.regs().rax, rig.regs().rip), (0x0807_0605, RIP + 5));
}

#[test]
fn the_apic_is_answered_inside() {
    let mut rig = rig(1);
    // mov eax, [ebx]: the APIC's version.
    rig.memory.write_slice(&[0x8b, 0x03], GuestAddress(RIP)).unwrap();
    rig.set(|regs| regs.rbx = 0xfee0_0030);
    start(&mut rig);
    rig.exit_with(&[(EXIT_REASON, 48), (EXIT_QUALIFICATION, 0x181), (GUEST_PHYSICAL_ADDRESS, 0xfee0_0030)]);
    rig.run_to_end();
    assert_eq!(rig.regs().rax as u32, rig.lapic.mmio_read(0x30));
}

/// Starts a vCPU that waits, at `RIP` and in the mode that it was given.
fn start(rig: &mut Rig) {
    let special = rig.vcpu.get_special_regs().unwrap();
    let regs = rig.regs();
    assert_eq!(rig.vcpu.activity().unwrap(), Activity::WaitForStart);
    // INIT, then a start-up IPI with vector 0x12, by the other one's ICR.
    for icr in [0x4500, 0x4612] {
        rig.other.mmio_write(0x310, 1 << 24);
        rig.other.mmio_write(0x300, icr);
    }
    rig.run_to_end();
    assert_eq!(rig.vcpu.activity().unwrap(), Activity::Running);
    let SpecialRegs::X86_64(started) = rig.vcpu.get_special_regs().unwrap() else { panic!("other") };
    assert_eq!((started.cs.base, started.cs.selector, started.cr0 & CR0_PE), (0x1_2000, 0x1200, 0));
    assert_eq!(rig.regs().rip, 0);
    rig.vcpu.set_special_regs(&special).unwrap();
    rig.vcpu.set_regs(&GuestRegs::X86_64(regs)).unwrap();
}

#[test]
fn cpuid_and_msrs_are_answered() {
    let mut rig = rig(0);
    rig.set(|regs| regs.rax = 0xffff_ffff_0000_0000);
    rig.exit(10, 0, 2);
    rig.run_to_end();
    let regs = rig.regs();
    assert_eq!((regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rip), (0xd, 2, 3, 4, RIP + 2));
    // wrmsr, then rdmsr of EFER with LME and NXE.
    rig.set(|regs| (regs.rcx, regs.rax, regs.rdx) = (0xc000_0080, 0x900, 0));
    rig.exit(32, 0, 2);
    rig.exit(31, 0, 2);
    rig.run_to_end();
    assert_eq!((rig.field(GUEST_IA32_EFER), rig.regs().rax), (0x900, 0x900));
    // The APIC's base, and the TSC-deadline MSR, which there is none of.
    rig.set(|regs| regs.rcx = 0x1b);
    rig.exit(31, 0, 2);
    rig.run_to_end();
    assert_eq!(rig.regs().rax, rig.lapic.base());
    rig.set(|regs| regs.rcx = 0x6e0);
    rig.exit(32, 0, 2);
    let rip = rig.regs().rip;
    rig.run_to_end();
    rig.run_to_end();
    assert_eq!((rig.field(ENTRY_EVENT), rig.regs().rip), (0x8000_0b0d, rip));
}

#[test]
fn long_mode_is_entered_by_cr0() {
    let mut rig = rig(0);
    rig.set(|regs| (regs.rcx, regs.rax, regs.rdx, regs.rbx) = (0xc000_0080, 0x100, 0, 0x8000_0011));
    rig.exit(32, 0, 2);
    // mov cr0, ebx
    rig.exit(28, 0x300, 3);
    rig.run_to_end();
    assert_eq!(rig.field(GUEST_IA32_EFER), EFER_LME | EFER_LMA);
    assert_eq!(rig.field(CTRL_CR0_SHADOW), 0x8000_0011);
    assert_eq!(rig.field(GUEST_CR0), 0x8000_0031);
}

#[test]
fn paes_page_directory_pointers_are_loaded() {
    let mut rig = rig(0);
    for index in 0..4_u64 {
        rig.memory.write_obj(0x5001 + 0x1000 * index, GuestAddress(0x4000 + 8 * index)).unwrap();
    }
    rig.vcpu.cpu_mut().set_vmcs(GUEST_CR3, 0x4000).unwrap();
    rig.set(|regs| (regs.rax, regs.rbx) = (CR4_PAE, CR0_PE | CR0_PG));
    rig.exit(28, 0x004, 3);
    rig.exit(28, 0x300, 3);
    rig.run_to_end();
    assert_eq!([0, 2, 4, 6].map(|n| rig.field(GUEST_PDPTE0 + n)), [0x5001, 0x6001, 0x7001, 0x8001]);
    // VMX is not for the guest.
    rig.set(|regs| regs.rax = CR4_VMXE);
    rig.exit(28, 0x004, 3);
    rig.run_to_end();
    rig.run_to_end();
    assert_eq!(rig.field(ENTRY_EVENT), 0x8000_0b0d);
    assert_eq!(rig.field(GUEST_CR4), CR4_PAE | CR4_VMXE);
}

#[test]
fn an_interrupt_waits_for_its_window() {
    let mut rig = rig(0);
    // The APIC on by its spurious vector register; fixed, vector 0x41.
    rig.lapic.mmio_write(0xf0, 0x1ff);
    assert!(rig.lapic.send_to(0, 0x4041));
    rig.run_to_end();
    assert_eq!(rig.field(CTRL_CPU_BASED) & 4, 4, "interrupts are off");
    assert_eq!(rig.field(ENTRY_EVENT), 0);
    rig.set(|regs| regs.rflags |= RFLAGS_IF);
    rig.exit(7, 0, 0);
    rig.run_to_end();
    assert_eq!(rig.field(ENTRY_EVENT), 0x8000_0041);
    assert_eq!(rig.field(CTRL_CPU_BASED) & 4, 0);
}

#[test]
fn an_interrupted_event_is_delivered_again() {
    let mut rig = rig(0);
    // A page fault was being delivered when RAM was touched for the first time.
    let fault = 0x8000_0b0e;
    rig.exit_with(&[
        (EXIT_REASON, 48),
        (GUEST_PHYSICAL_ADDRESS, 0x8000),
        (IDT_VECTORING, fault),
        (IDT_VECTORING_ERROR, 2),
    ]);
    rig.exit(1, 0, 0);
    rig.run_to_end();
    assert_eq!(rig.field(ENTRY_EVENT), fault);
}

#[test]
fn hlt_with_interrupts_off_is_told_once_and_on_it_sleeps() {
    let mut rig = rig(0);
    rig.exit(12, 0, 1);
    assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::Hlt);
    assert_eq!(rig.vcpu.activity().unwrap(), Activity::HaltedForever);
    rig.wakeup.kick();
    rig.run_to_end();
    // `sti; hlt`: an interrupt that came meanwhile ends it.
    rig.set(|regs| regs.rflags |= RFLAGS_IF);
    rig.vcpu.cpu_mut().set_vmcs(GUEST_INTERRUPTIBILITY, 1).unwrap();
    rig.lapic.mmio_write(0xf0, 0x1ff);
    assert!(rig.lapic.send_to(0, 0x4042));
    rig.exit(12, 0, 1);
    rig.run_to_end();
    assert_eq!(rig.vcpu.activity().unwrap(), Activity::Running);
    assert_eq!(rig.vcpu.cpu_mut().runs.first().and_then(|fields| fields.get(&ENTRY_EVENT)), None);
    assert_eq!(rig.field(ENTRY_EVENT), 0x8000_0042);
}

#[test]
fn fates_are_told() {
    let mut triple_fault = rig(0);
    triple_fault.exit(2, 0, 0);
    assert_eq!(triple_fault.vcpu.run().unwrap(), VcpuExit::Shutdown);
    let mut bad_state = rig(0);
    bad_state.exit(0x8000_0021, 0, 0);
    assert!(bad_state.vcpu.run().unwrap_err().to_string().contains("0x80000021"));
    let mut fetch = rig(0);
    fetch.exit_with(&[(EXIT_REASON, 48), (EXIT_QUALIFICATION, 0x184), (GUEST_PHYSICAL_ADDRESS, 0xd000_0000)]);
    assert_eq!(fetch.vcpu.run().unwrap(), VcpuExit::EmulationFailure { rip: RIP, bytes: Vec::new() });
    let mut vmcall = rig(0);
    vmcall.exit(18, 0, 3);
    vmcall.run_to_end();
    vmcall.run_to_end();
    assert_eq!(vmcall.field(ENTRY_EVENT), 0x8000_0306);
}

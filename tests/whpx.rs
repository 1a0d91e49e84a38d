//! The WHPX backend against the test double of the platform, called directly: registers, exits, kicks. Under
//! Wine, `tests/windows.rs` runs the conformance guests through it.
#![allow(dead_code, reason = "the double is a library of its own, too")]

#[path = "whpx-double/lib.rs"]
mod double;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use vm_accel::accel::ffi::whpx::{
    CpuidAccessContext, ExitDetails, Functions, HResult, MsrAccessContext, PartitionHandle, RegisterName,
    RegisterValue, RunVpExitContext, VpExitContext, exit, register,
};
use vm_accel::accel::whpx::{WhpxBackend, WhpxVcpu};
use vm_accel::accel::{
    Accel, Activity, GuestRegs, InterruptController, InterruptSink, MsiMessage, MsiSink, Segment,
    SpecialRegs, VcpuExit, VcpuOps, VcpuSetup, X86Regs, X86SpecialRegs, measure,
};
use vm_accel::memory::{self, GuestMemory};
use vm_memory::{Bytes, GuestAddress};

const FUNCTIONS: Functions = Functions {
    get_capability: double::WHvGetCapability,
    create_partition: double::WHvCreatePartition,
    setup_partition: double::WHvSetupPartition,
    delete_partition: double::WHvDeletePartition,
    set_partition_property: double::WHvSetPartitionProperty,
    map_gpa_range: double::WHvMapGpaRange,
    create_virtual_processor: double::WHvCreateVirtualProcessor,
    delete_virtual_processor: double::WHvDeleteVirtualProcessor,
    run_virtual_processor: double::WHvRunVirtualProcessor,
    cancel_run_virtual_processor: double::WHvCancelRunVirtualProcessor,
    get_virtual_processor_registers: double::WHvGetVirtualProcessorRegisters,
    set_virtual_processor_registers: double::WHvSetVirtualProcessorRegisters,
    request_interrupt: double::WHvRequestInterrupt,
};
static DOUBLE: Functions = FUNCTIONS;

/// The double, but a run ends with the exits of `EXITS` first, which the double does not make, and events go
/// to `EVENTS`.
static SCRIPTED: Functions =
    Functions { run_virtual_processor: next_exit, set_virtual_processor_registers: note_event, ..FUNCTIONS };

thread_local! {
    static EXITS: RefCell<VecDeque<RunVpExitContext>> = RefCell::default();
    static EVENTS: RefCell<Vec<u64>> = RefCell::default();
}

unsafe extern "system" fn next_exit(
    partition: PartitionHandle,
    index: u32,
    context: *mut c_void,
    size: u32,
) -> HResult {
    match EXITS.with_borrow_mut(VecDeque::pop_front) {
        Some(exit) => {
            // SAFETY: the caller's buffer has room for the context.
            unsafe { context.cast::<RunVpExitContext>().write_unaligned(exit) };
            0
        }
        // SAFETY: the caller's contract is the double's.
        None => unsafe { double::WHvRunVirtualProcessor(partition, index, context, size) },
    }
}

unsafe extern "system" fn note_event(
    partition: PartitionHandle,
    index: u32,
    names: *const RegisterName,
    count: u32,
    values: *const RegisterValue,
) -> HResult {
    // SAFETY: there is at least one of each.
    let (name, value) = unsafe { (*names, *values) };
    if name == register::PENDING_EVENT {
        EVENTS.with_borrow_mut(|events| events.push(value.low));
        return 0;
    }
    // SAFETY: the caller's contract is the double's.
    unsafe { double::WHvSetVirtualProcessorRegisters(partition, index, names, count, values) }
}

/// A run ends with this next, at `rip` and an instruction of two bytes.
fn script(reason: i32, execution_state: u16, rip: u64, details: ExitDetails) {
    let vp = VpExitContext { execution_state, length_and_cr8: 2, rip, ..VpExitContext::default() };
    let exit = RunVpExitContext { reason, reserved: 0, vp, details };
    EXITS.with_borrow_mut(|exits| exits.push_back(exit));
}

/// An 8259 pair that has so many interrupts, of vector 0x20.
#[derive(Default)]
struct Pic {
    pending: AtomicU32,
    last_eoi: AtomicU32,
}

impl InterruptController for Pic {
    fn extint_pending(&self) -> bool {
        self.pending.load(Ordering::SeqCst) > 0
    }

    fn extint_acknowledge(&self) -> Option<u8> {
        self.pending.fetch_sub(1, Ordering::SeqCst);
        Some(0x20)
    }

    fn eoi(&self, vector: u8) {
        self.last_eoi.store(vector.into(), Ordering::SeqCst);
    }
}

struct Rig {
    backend: WhpxBackend,
    memory: GuestMemory,
    pic: Arc<Pic>,
    vcpu: WhpxVcpu,
}

/// A machine of one processor in real mode, whose `code` is at 0x1000.
fn rig(code: &[u8], regs: X86Regs) -> Rig {
    rig_on(&DOUBLE, code, regs)
}

fn rig_on(platform: &'static Functions, code: &[u8], regs: X86Regs) -> Rig {
    let memory = memory::allocate(1 << 20).unwrap();
    memory.write_slice(code, GuestAddress(0x1000)).unwrap();
    let mut backend = WhpxBackend::with(platform).unwrap();
    backend.map_memory(&memory).unwrap();
    let pic = Arc::new(Pic::default());
    let setup = VcpuSetup { cpus: 1, interrupts: Arc::clone(&pic) as Arc<dyn InterruptController> };
    let mut vcpu = backend.create_vcpu(0, &setup).unwrap();
    let data = Segment { limit: u32::MAX, type_: 3, present: true, s: true, g: true, ..Segment::default() };
    let SpecialRegs::X86_64(old) = vcpu.get_special_regs().unwrap() else { panic!() };
    let special = X86SpecialRegs {
        cs: Segment { type_: 11, ..data },
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        apic_base: 0,
        ..old
    };
    vcpu.set_special_regs(&SpecialRegs::X86_64(special)).unwrap();
    let regs = X86Regs { rip: 0x1000, rsp: 0x8000, rflags: 2, ..regs };
    vcpu.set_regs(&GuestRegs::X86_64(regs)).unwrap();
    Rig { backend, memory, pic, vcpu }
}

impl Rig {
    fn regs(&self) -> X86Regs {
        match self.vcpu.get_regs().unwrap() {
            GuestRegs::X86_64(regs) => regs,
            other => panic!("{other:?}"),
        }
    }

    fn messages(&self) -> Arc<dyn MsiSink> {
        match self.backend.interrupt_sink() {
            InterruptSink::Lapic(sink) => sink,
            InterruptSink::Gic(_) => panic!("an x86-64 guest has no GIC"),
        }
    }
}

#[test]
fn probes_tiny_guests_run() {
    let figures = measure::measure(|| WhpxBackend::with(&DOUBLE), false).unwrap();
    assert!(figures.kernel_sse);
}

#[test]
fn plain_ports_are_answered_without_the_emulator() {
    // in al, 0x60; out 0x61, ax; in eax, dx
    let code = [0xe4, 0x60, 0xe7, 0x61, 0x66, 0xed];
    let mut rig = rig(&code, X86Regs { rax: 0xffff_ffff_1234_5678, rdx: 0x3f8, ..X86Regs::default() });
    let VcpuExit::IoIn { port: 0x60, data } = rig.vcpu.run().unwrap() else { panic!() };
    assert_eq!(data.len(), 1);
    data[0] = 0xab;
    assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::IoOut { port: 0x61, data: &[0xab, 0x56] });
    let VcpuExit::IoIn { port: 0x3f8, data } = rig.vcpu.run().unwrap() else { panic!() };
    data.copy_from_slice(&[1, 2, 3, 4]);
    rig.vcpu.kicker().kick();
    assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::Interrupted);
    let regs = rig.regs();
    assert_eq!((regs.rax, regs.rip), (0x0403_0201, 0x1006));
}

#[test]
fn mmio_and_strings_are_the_interpreters() {
    // add dword [ebx], eax; rep outsb
    let code = [0x67, 0x66, 0x01, 0x03, 0xf3, 0x6e];
    let regs = X86Regs { rax: 5, rbx: 0xd000_0000, rcx: 2, rdx: 0xe9, rsi: 0x2000, ..X86Regs::default() };
    let mut rig = rig(&code, regs);
    rig.memory.write_slice(b"hi", GuestAddress(0x2000)).unwrap();
    let VcpuExit::MmioRead { gpa: 0xd000_0000, data } = rig.vcpu.run().unwrap() else { panic!() };
    data.copy_from_slice(&[7, 0, 0, 0]);
    let write = VcpuExit::MmioWrite { gpa: 0xd000_0000, data: &[12, 0, 0, 0] };
    assert_eq!(rig.vcpu.run().unwrap(), write);
    assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::IoOut { port: 0xe9, data: b"h" });
    assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::IoOut { port: 0xe9, data: b"i" });
    rig.vcpu.kicker().kick();
    assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::Interrupted);
    let regs = rig.regs();
    assert_eq!((regs.rip, regs.rcx, regs.rsi), (0x1006, 0, 0x2002));
}

#[test]
fn the_pics_interrupt_waits_for_its_window_and_wakes() {
    // sti; hlt; out 0x80, al — and the handler at 0x3000: out 0x81, al; iret
    let mut rig = rig(&[0xfb, 0xf4, 0xe6, 0x80], X86Regs::default());
    rig.memory.write_slice(&[0xe6, 0x81, 0xcf], GuestAddress(0x3000)).unwrap();
    rig.memory.write_slice(&[0x00, 0x30, 0x00, 0x00], GuestAddress(0x20 * 4)).unwrap();
    rig.pic.pending.store(1, Ordering::SeqCst);
    assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::IoOut { port: 0x81, data: &[0] });
    assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::IoOut { port: 0x80, data: &[0] });
    assert_eq!(rig.pic.pending.load(Ordering::SeqCst), 0);
}

#[test]
fn a_level_triggered_message_ends_with_an_eoi() {
    // sti; hlt — and the handler at 0x3000: mov eax, 0; mov [0xfee000b0], eax; out 0x81, al; out 0x82, al
    let mut rig = rig(&[0xfb, 0xf4], X86Regs::default());
    let handler = [0x66, 0x31, 0xc0, 0x67, 0x66, 0xa3, 0xb0, 0x00, 0xe0, 0xfe, 0xe6, 0x81, 0xe6, 0x82];
    rig.memory.write_slice(&handler, GuestAddress(0x3000)).unwrap();
    rig.memory.write_slice(&[0x00, 0x30, 0x00, 0x00], GuestAddress(0x40 * 4)).unwrap();
    // The APIC is switched on by software: spurious vector register.
    let enable = [0x67, 0x66, 0xc7, 0x05, 0xf0, 0x00, 0xe0, 0xfe, 0xff, 0x01, 0x00, 0x00, 0xfb, 0xf4];
    rig.memory.write_slice(&enable, GuestAddress(0x1000)).unwrap();
    rig.messages().signal_msi(MsiMessage { address: 0xfee0_0000, data: 0xc040 });
    let sink = rig.messages();
    let sender = thread::spawn(move || {
        // One that comes before the APIC is on is lost, as on the bus.
        for _ in 0..50 {
            thread::sleep(std::time::Duration::from_millis(10));
            sink.signal_msi(MsiMessage { address: 0xfee0_0000, data: 0xc040 });
        }
    });
    assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::IoOut { port: 0x81, data: &[0] });
    // The double tells of an EOI at its next start at the latest.
    assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::IoOut { port: 0x82, data: &[0] });
    assert_eq!(rig.pic.last_eoi.load(Ordering::SeqCst), 0x40);
    sender.join().unwrap();
}

#[test]
fn a_halted_processor_tells_so_and_a_kick_ends_its_run() {
    let mut rig = rig(&[0xfa, 0xf4], X86Regs::default());
    let kicker = rig.vcpu.kicker();
    let thread = thread::spawn(move || kicker.kick());
    loop {
        assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::Interrupted);
        if rig.vcpu.activity().unwrap() == Activity::HaltedForever {
            break;
        }
        rig.vcpu.kicker().kick();
    }
    thread.join().unwrap();
}

#[test]
fn a_triple_fault_is_a_shutdown() {
    // lidt with limit 0 is simpler said by registers: an interrupt without a table.
    let mut rig = rig(&[0xcd, 0x03], X86Regs::default());
    let SpecialRegs::X86_64(mut special) = rig.vcpu.get_special_regs().unwrap() else { panic!() };
    special.idt.limit = 0;
    rig.vcpu.set_special_regs(&SpecialRegs::X86_64(special)).unwrap();
    assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::Shutdown);
}

#[test]
fn cpuid_has_our_name_and_else_what_the_platform_says() {
    // cpuid; out 0x80, al; cpuid; out 0x80, al
    let code = [0x0f, 0xa2, 0xe6, 0x80, 0x0f, 0xa2, 0xe6, 0x80];
    let mut rig = rig_on(&SCRIPTED, &code, X86Regs { rax: 0x4000_0000, ..X86Regs::default() });
    let cpuid = |rax| CpuidAccessContext {
        rax,
        rcx: 0,
        rdx: 0,
        rbx: 0,
        default_rax: 0x11,
        default_rcx: 0x33,
        default_rdx: 0x44,
        default_rbx: 0x22,
    };
    script(exit::CPUID, 0, 0x1000, ExitDetails { cpuid: cpuid(0x4000_0000) });
    assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::IoOut { port: 0x80, data: &[0] });
    let regs = rig.regs();
    let name: Vec<u8> = [regs.rbx as u32, regs.rcx as u32, regs.rdx as u32].map(u32::to_le_bytes).concat();
    assert_eq!((regs.rax, name.as_slice()), (0x4000_0000, b"vm-accel\0\0\0\0".as_slice()));
    script(exit::CPUID, 0, 0x1004, ExitDetails { cpuid: cpuid(1) });
    assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::IoOut { port: 0x80, data: &[0x11] });
    let regs = rig.regs();
    assert_eq!([regs.rax, regs.rbx, regs.rcx, regs.rdx], [0x11, 0x22, 0x33, 0x44]);
}

#[test]
fn an_msr_that_the_platform_does_not_know_is_a_general_protection_fault() {
    // rdmsr
    let mut rig = rig_on(&SCRIPTED, &[0x0f, 0x32], X86Regs { rcx: 0x1234, ..X86Regs::default() });
    let msr = MsrAccessContext { access_info: 0, msr: 0x1234, rax: 0, rdx: 0 };
    for execution_state in [0, 1 << 2] {
        script(exit::MSR, execution_state, 0x1000, ExitDetails { msr });
    }
    script(exit::UNRECOVERABLE_EXCEPTION, 0, 0x1000, ExitDetails { words: [0; 22] });
    assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::Shutdown);
    // Vector 13 of an exception that is pending, with an error code in protected mode only.
    assert_eq!(EVENTS.take(), [0x000d_0001, 0x000d_0101]);
    assert_eq!(rig.regs().rip, 0x1000);
}

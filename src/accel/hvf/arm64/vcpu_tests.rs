//! The vCPU's logic, with exits as the framework gives them.

use std::sync::Arc;

use super::cpu::Cpu;
use super::machine::{Interrupts, OwnLines, Shared, VIRTUAL_TIMER};
use super::registers::{CNTV_CTL_EL0, ELR_EL1, ESR_EL1, SCTLR_EL1, VBAR_EL1};
use super::testing::ScriptedCpu;
use super::vcpu::HvfVcpu;
use crate::accel::ffi::hvf::arm64::{Exit, HV_EXIT_REASON_VTIMER_ACTIVATED, HV_REG_CPSR, HV_REG_PC};
use crate::accel::hvf::wakeup::Wakeup;
use crate::accel::{
    Activity, Arm64Regs, Arm64SpecialRegs, GuestRegs, Kick, SpecialRegs, SpiLines, SystemEvent, VcpuExit,
    VcpuOps,
};
use crate::memory::{self, GuestMemory};

/// RAM of the tests' machines, as `memory::allocate` lays it out.
const MEMORY: u64 = 2 << 20;
/// Where the guest is.
const PC: u64 = 0x4000_1000;

struct Rig {
    vcpu: HvfVcpu<ScriptedCpu>,
    shared: Arc<Shared>,
    wakeup: Arc<Wakeup>,
}

fn memory() -> GuestMemory {
    memory::allocate(MEMORY).unwrap()
}

/// vCPU `id` of a machine of two. When its exits are used up, it returns `Interrupted`.
fn rig(id: u32, own_gic: bool, script: impl FnOnce(&mut ScriptedCpu)) -> Rig {
    let shared = Arc::new(Shared::default());
    shared.make(2, !own_gic, &memory());
    let wakeup = Arc::new(Wakeup::default());
    for vcpu in 0..2 {
        shared.add(if vcpu == id { Arc::clone(&wakeup) } else { Arc::new(Wakeup::default()) });
    }
    let mut cpu = ScriptedCpu::default();
    cpu.set_reg(HV_REG_PC, PC).unwrap();
    cpu.set_reg(HV_REG_CPSR, 0x3c5).unwrap();
    script(&mut cpu);
    // The end of the exits is somebody's kick.
    cpu.at_end = Some(Arc::clone(&wakeup));
    let vcpu = HvfVcpu::new(id, cpu, Arc::clone(&shared), Arc::clone(&wakeup));
    Rig { vcpu, shared, wakeup }
}

impl Rig {
    fn regs(&self) -> Arm64Regs {
        let GuestRegs::Aarch64(regs) = self.vcpu.get_regs().unwrap() else { panic!("other registers") };
        regs
    }

    fn special(&self) -> Arm64SpecialRegs {
        let SpecialRegs::Aarch64(regs) = self.vcpu.get_special_regs().unwrap() else {
            panic!("other registers")
        };
        regs
    }
}

/// Data abort of a load or store of a 32-bit register, level 2 translation fault.
fn abort(size: u64, register: u64, is_write: bool) -> u64 {
    0x24 << 26 | 1 << 25 | 1 << 24 | size << 22 | register << 16 | u64::from(is_write) << 6 | 0x06
}

/// A trapped MSR (or MRS) of the register with these fields.
fn system(fields: [u64; 5], register: u64, is_read: bool) -> u64 {
    let [op0, op1, crn, crm, op2] = fields;
    let encoding = op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | crm << 1;
    0x18 << 26 | 1 << 25 | encoding | register << 5 | u64::from(is_read)
}

const HVC: u64 = 0x5a00_0000;
const WFI: u64 = 0x01 << 26 | 1 << 25;

#[test]
fn a_store_is_handed_out_and_the_guest_goes_on_behind_it() {
    let mut rig = rig(0, true, |cpu| {
        cpu.set_reg(1, 0x1234_5641).unwrap();
        cpu.exception(abort(0, 1, true), 0x0900_0000);
    });
    assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::MmioWrite { gpa: 0x0900_0000, data: b"A" });
    assert_eq!(rig.regs().pc, PC);
    assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::Interrupted);
    assert_eq!(rig.regs().pc, PC + 4);
}

#[test]
fn a_loads_answer_reaches_its_register_extended() {
    let sign_extended = 1 << 21 | 1 << 15;
    let mut rig = rig(0, true, |cpu| {
        cpu.set_reg(7, u64::MAX).unwrap();
        cpu.exception(abort(1, 7, false) | sign_extended, 0x0900_0010);
    });
    let VcpuExit::MmioRead { gpa, data } = rig.vcpu.run().unwrap() else { panic!("no load") };
    assert_eq!((gpa, data.len()), (0x0900_0010, 2));
    data.copy_from_slice(&0x8001_u16.to_le_bytes());
    rig.vcpu.run().unwrap();
    assert_eq!((rig.regs().x7, rig.regs().pc), (0xffff_ffff_ffff_8001, PC + 4));
}

#[test]
fn register_31_is_zero_and_not_the_program_counter() {
    let mut rig = rig(0, true, |cpu| {
        cpu.exception(abort(2, 31, true), 0x0900_0000);
        cpu.exception(abort(2, 31, false), 0x0900_0000);
    });
    assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::MmioWrite { gpa: 0x0900_0000, data: &[0; 4] });
    let VcpuExit::MmioRead { data, .. } = rig.vcpu.run().unwrap() else { panic!("no load") };
    data.fill(0xff);
    rig.vcpu.run().unwrap();
    assert_eq!(rig.regs().pc, PC + 8);
}

#[test]
fn an_access_that_the_syndrome_does_not_describe_is_a_failure_with_its_address() {
    let mut rig = rig(0, true, |cpu| cpu.exception(0x24 << 26 | 1 << 25 | 0x06, 0x0900_0000));
    let VcpuExit::EmulationFailure { rip, .. } = rig.vcpu.run().unwrap() else { panic!("no failure") };
    assert_eq!(rip, PC);
}

#[test]
fn psci_ends_the_machine() {
    for (function, event) in [(0x8400_0008, SystemEvent::PowerOff), (0x8400_0009, SystemEvent::Reset)] {
        let mut rig = rig(0, false, |cpu| {
            cpu.set_reg(0, function).unwrap();
            cpu.exception(HVC, 0);
        });
        assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::SystemEvent(event));
    }
}

#[test]
fn smc_goes_on_behind_itself_and_hvc_is_there_already() {
    for (syndrome, pc) in [(HVC, PC), (0x5e00_0000, PC + 4)] {
        let mut rig = rig(0, false, |cpu| {
            cpu.set_reg(0, 0x8400_0000).unwrap();
            cpu.exception(syndrome, 0);
        });
        rig.vcpu.run().unwrap();
        assert_eq!((rig.regs().x0, rig.regs().pc), (0x1_0001, pc));
    }
}

#[test]
fn a_vcpu_waits_until_another_one_starts_it() {
    let mut rig = rig(1, true, |_| {});
    assert_eq!(rig.vcpu.activity().unwrap(), Activity::WaitForStart);
    rig.wakeup.kick();
    assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::Interrupted);
    let machine = rig.shared.machine().unwrap();
    machine.psci.call(0, [0xc400_0003, 1, 0x4020_0000, 0x77], |id| rig.shared.wake(id));
    assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::Interrupted);
    let (regs, special) = (rig.regs(), rig.special());
    assert_eq!((regs.pc, regs.x0, regs.pstate), (0x4020_0000, 0x77, 0x3c5));
    assert_eq!(special.sctlr_el1 & 1, 0, "the MMU is off");
}

#[test]
fn the_gic_is_answered_inside_and_its_interrupt_reaches_the_line() {
    // ICC_PMR_EL1 = 0xf8 and ICC_IGRPEN1_EL1 = 1 by MSR from X2 and X3; GICD_CTLR, GICD_IGROUPR1 and
    // GICD_ISENABLER1 by stores of W4 and W5; then a line rises.
    let mut rig = rig(0, true, |cpu| {
        for (register, value) in [(2, 0xf8), (3, 1), (4, 0x12), (5, 0xffff_ffff)] {
            cpu.set_reg(register, value).unwrap();
        }
        cpu.exception(system([3, 0, 4, 6, 0], 2, false), 0);
        cpu.exception(system([3, 0, 12, 12, 7], 3, false), 0);
        cpu.exception(abort(2, 4, true), 0x0800_0000);
        cpu.exception(abort(2, 5, true), 0x0800_0084);
        cpu.exception(abort(2, 5, true), 0x0800_0104);
    });
    assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::Interrupted);
    assert_eq!(rig.regs().pc, PC + 20);
    OwnLines(Arc::clone(&rig.shared)).set_spi(1, true);
    rig.vcpu.cpu_mut().exception(system([3, 0, 12, 12, 0], 6, true), 0);
    rig.vcpu.run().unwrap();
    assert_eq!(rig.regs().x6, 33);
    let lines = &rig.vcpu.cpu_mut().lines_at_run;
    assert!(lines.contains(&(true, false)));
    assert_eq!(lines.last(), Some(&(false, false)), "acknowledged");
}

#[test]
fn the_virtual_timer_is_an_interrupt_until_its_condition_ends() {
    let fired = Exit { reason: HV_EXIT_REASON_VTIMER_ACTIVATED, ..Exit::default() };
    let mut rig = rig(0, true, |cpu| {
        cpu.timer_masked = true;
        cpu.set_sys_reg(CNTV_CTL_EL0, 0b101).unwrap();
        cpu.exits.push_back(fired);
    });
    rig.vcpu.run().unwrap();
    let machine = rig.shared.machine().unwrap();
    let Interrupts::Own(gic) = &machine.interrupts else { panic!("no GIC of ours") };
    // Enable the PPI, and look.
    gic.write_distributor(0, &0x12_u32.to_le_bytes());
    gic.write_redistributor(0x1_0080, &u32::MAX.to_le_bytes());
    gic.write_redistributor(0x1_0100, &(1_u32 << VIRTUAL_TIMER).to_le_bytes());
    gic.write_system(0, 0xc230, 0xf8).unwrap();
    gic.write_system(0, 0xc667, 1).unwrap();
    rig.vcpu.run().unwrap();
    assert!(gic.signals(0).irq && rig.vcpu.cpu_mut().timer_masked);
    // The guest masks it: the line falls, and the framework may tell the next one.
    rig.vcpu.cpu_mut().set_sys_reg(CNTV_CTL_EL0, 0b111).unwrap();
    rig.vcpu.run().unwrap();
    assert!(!gic.signals(0).irq && !rig.vcpu.cpu_mut().timer_masked);
}

#[test]
fn wfi_waits_for_the_timer_and_goes_on_behind_itself() {
    for own_gic in [true, false] {
        let mut rig = rig(0, own_gic, |cpu| {
            // Enabled, and due: CVAL is 0.
            cpu.set_sys_reg(CNTV_CTL_EL0, 1).unwrap();
            cpu.exception(WFI, 0);
        });
        assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::Interrupted);
        assert_eq!(rig.regs().pc, PC + 4);
        assert_eq!(rig.vcpu.activity().unwrap(), Activity::Running);
    }
}

#[test]
fn a_kick_ends_a_wfi_that_nothing_else_would() {
    let mut rig = rig(0, true, |cpu| cpu.exception(WFI, 0));
    let wakeup = Arc::clone(&rig.wakeup);
    let kicker = std::thread::spawn(move || wakeup.kick());
    assert_eq!(rig.vcpu.run().unwrap(), VcpuExit::Interrupted);
    kicker.join().unwrap();
}

#[test]
fn an_unknown_register_is_undefined_and_a_known_one_is_skipped() {
    let mut rig = rig(0, false, |cpu| {
        cpu.set_sys_reg(VBAR_EL1, 0x4040_0000).unwrap();
        cpu.set_sys_reg(SCTLR_EL1, 1 << 23).unwrap();
        // `msr OSLAR_EL1, x1`, then `mrs x1, S3_7_C15_C0_0`.
        cpu.exception(system([2, 0, 1, 0, 4], 1, false), 0);
        cpu.exception(system([3, 7, 15, 0, 0], 1, true), 0);
    });
    rig.vcpu.run().unwrap();
    assert_eq!(rig.regs().pc, 0x4040_0200);
    let cpu = rig.vcpu.cpu_mut();
    assert_eq!((cpu.sys_reg(ELR_EL1), cpu.sys_reg(ESR_EL1)), (Ok(PC + 4), Ok(0x0200_0000)));
}

#[test]
fn a_fetch_from_nowhere_is_the_guests_own_fault() {
    let mut rig = rig(0, false, |cpu| {
        cpu.set_sys_reg(VBAR_EL1, 0x4040_0000).unwrap();
        cpu.exception(0x20 << 26 | 1 << 25 | 0x06, 0x0900_0000);
    });
    rig.vcpu.run().unwrap();
    assert_eq!(rig.regs().pc, 0x4040_0200);
    assert_eq!(rig.special().esr_el1, 0x8600_0010);
}

#[test]
fn what_cannot_be_is_an_error_with_its_syndrome() {
    let mut rig = rig(0, false, |cpu| cpu.exception(0x3f << 26, 0));
    let error = rig.vcpu.run().unwrap_err().to_string();
    assert!(error.contains("0xfc000000"), "{error}");
}

#[test]
fn registers_of_another_architecture_are_refused() {
    let mut rig = rig(0, false, |_| {});
    assert!(rig.vcpu.set_regs(&GuestRegs::X86_64(Default::default())).is_err());
    let regs = Arm64Regs { x5: 5, pc: 0x1000, ..Arm64Regs::default() };
    rig.vcpu.set_regs(&GuestRegs::Aarch64(regs)).unwrap();
    assert_eq!(rig.regs(), regs);
}

#[test]
fn vector_registers_come_back() {
    let mut rig = rig(0, false, |_| {});
    let crate::accel::FpuRegs::Aarch64(mut fpu) = rig.vcpu.get_fpu_regs().unwrap() else {
        panic!("other registers")
    };
    fpu.v[31] = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff;
    fpu.fpcr = 0x0300_0000;
    rig.vcpu.set_fpu_regs(&crate::accel::FpuRegs::Aarch64(fpu)).unwrap();
    assert_eq!(rig.vcpu.get_fpu_regs().unwrap(), crate::accel::FpuRegs::Aarch64(fpu));
}

//! KVM on AArch64: a vCPU, and what a virtual machine has beside its memory.
//!
//! KVM has the GIC, the generic timer and PSCI; what reaches us of PSCI are the calls that end the machine.
//! WFI sleeps in the kernel until an interrupt is pending.

mod platform;
mod registers;

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use kvm_bindings::{
    KVM_EXIT_ARM_NISV, KVM_EXIT_DEBUG, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR,
    KVM_EXIT_MMIO, KVM_EXIT_SYSTEM_EVENT, KVM_MP_STATE_STOPPED, KVM_SYSTEM_EVENT_CRASH,
    KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN,
};
use kvm_ioctls::VcpuFd;

use super::kick::Kicker;
use crate::accel::arm64::parked;
use crate::accel::{
    Activity, FpuRegs, GuestRegs, Kick, SpecialRegs, SystemEvent, VcpuError, VcpuExit, VcpuOps, VcpuResult,
};
use crate::memory::GuestMemory;
pub use platform::{GUEST, HOW_TO_HAVE_KVM, Platform, REQUIRED};

/// A KVM vCPU.
pub struct KvmVcpu {
    id: u32,
    fd: VcpuFd,
    kicker: Arc<Kicker>,
    memory: Option<GuestMemory>,
    /// An access to a device is under way: KVM completes it, and moves PC on, with the next `KVM_RUN`.
    in_access: bool,
}

impl KvmVcpu {
    fn new(id: u32, fd: VcpuFd, memory: Option<GuestMemory>) -> Self {
        Self { id, fd, kicker: Kicker::new(), memory, in_access: false }
    }

    fn error(&self, operation: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> VcpuError + use<> {
        let id = self.id;
        move |error| VcpuError::Host { id, operation, source: error.into() }
    }

    /// Completes an access that is under way, without entering the guest: else what is set now would be
    /// changed by it.
    fn complete_access(&mut self) -> VcpuResult<()> {
        if !std::mem::take(&mut self.in_access) {
            return Ok(());
        }
        self.fd.set_kvm_immediate_exit(1);
        let result = self.fd.run().map(|_| ());
        // A kick that came meanwhile is remembered by the kicker, too.
        self.fd.set_kvm_immediate_exit(0);
        match result {
            Err(error) if error.errno() != libc::EINTR => Err(self.error("KVM_RUN")(error)),
            _ => Ok(()),
        }
    }

    /// Address of the current instruction, and its bytes if they can be read.
    fn failed_instruction(&self) -> VcpuResult<(u64, Vec<u8>)> {
        let regs = registers::get_general(&self.fd).map_err(self.error("KVM_GET_ONE_REG"))?;
        let special = registers::get_special(&self.fd).map_err(self.error("KVM_GET_ONE_REG"))?;
        let memory = self.memory.as_ref();
        let code = memory.and_then(|memory| parked::instruction(memory, &special, regs.pc));
        Ok((regs.pc, code.map(|code| code.to_le_bytes().to_vec()).unwrap_or_default()))
    }

    fn emulation_failure(&self) -> VcpuResult<VcpuExit<'_>> {
        let (rip, bytes) = self.failed_instruction()?;
        Ok(VcpuExit::EmulationFailure { rip, bytes })
    }
}

impl VcpuOps for KvmVcpu {
    fn get_id(&self) -> u32 {
        self.id
    }

    fn run(&mut self) -> VcpuResult<VcpuExit<'_>> {
        let immediate_exit = ptr::from_mut(&mut self.fd.get_kvm_run().immediate_exit).cast::<AtomicU8>();
        self.kicker.enter(immediate_exit);
        if self.kicker.take_request() {
            return Ok(VcpuExit::Interrupted);
        }
        self.in_access = false;
        if let Err(error) = self.fd.run() {
            return match error.errno() {
                libc::EINTR => {
                    self.fd.set_kvm_immediate_exit(0);
                    self.kicker.take_request();
                    Ok(VcpuExit::Interrupted)
                }
                libc::EAGAIN => Ok(VcpuExit::Interrupted),
                // A KVM that does not hand out what it cannot emulate.
                libc::ENOSYS => self.emulation_failure(),
                _ => Err(self.error("KVM_RUN")(error)),
            };
        }
        let run = self.fd.get_kvm_run();
        match run.exit_reason {
            KVM_EXIT_MMIO => {
                self.in_access = true;
                // SAFETY: the exit reason says that KVM filled this member of the union.
                let mmio = unsafe { &mut self.fd.get_kvm_run().__bindgen_anon_1.mmio };
                let length = (mmio.len as usize).min(mmio.data.len());
                let data = &mut mmio.data[..length];
                Ok(if mmio.is_write != 0 {
                    VcpuExit::MmioWrite { gpa: mmio.phys_addr, data }
                } else {
                    VcpuExit::MmioRead { gpa: mmio.phys_addr, data }
                })
            }
            KVM_EXIT_SYSTEM_EVENT => {
                // SAFETY: the exit reason says that KVM filled this member of the union.
                let event = unsafe { run.__bindgen_anon_1.system_event.type_ };
                match event {
                    KVM_SYSTEM_EVENT_SHUTDOWN => Ok(VcpuExit::SystemEvent(SystemEvent::PowerOff)),
                    KVM_SYSTEM_EVENT_RESET => Ok(VcpuExit::SystemEvent(SystemEvent::Reset)),
                    KVM_SYSTEM_EVENT_CRASH => Ok(VcpuExit::SystemEvent(SystemEvent::Crash)),
                    other => Err(VcpuError::Unexpected {
                        id: self.id,
                        what: format!("KVM answered with system event {other}"),
                    }),
                }
            }
            KVM_EXIT_INTR => Ok(VcpuExit::Interrupted),
            KVM_EXIT_DEBUG => Ok(VcpuExit::Debug),
            reason @ (KVM_EXIT_ARM_NISV | KVM_EXIT_INTERNAL_ERROR | KVM_EXIT_FAIL_ENTRY) => {
                log::info!("vCPU {}: KVM exit reason {reason}", self.id);
                self.emulation_failure()
            }
            other => Err(VcpuError::Unexpected {
                id: self.id,
                what: format!("KVM answered with exit reason {other}"),
            }),
        }
    }

    fn get_regs(&self) -> VcpuResult<GuestRegs> {
        let regs = registers::get_general(&self.fd).map_err(self.error("KVM_GET_ONE_REG"))?;
        Ok(GuestRegs::Aarch64(regs))
    }

    fn set_regs(&mut self, regs: &GuestRegs) -> VcpuResult<()> {
        let GuestRegs::Aarch64(regs) = regs else { return Err(VcpuError::OtherGuest { id: self.id }) };
        self.complete_access()?;
        registers::set_general(&self.fd, regs).map_err(self.error("KVM_SET_ONE_REG"))
    }

    fn get_fpu_regs(&self) -> VcpuResult<FpuRegs> {
        let regs = registers::get_fpu(&self.fd).map_err(self.error("KVM_GET_ONE_REG"))?;
        Ok(FpuRegs::Aarch64(regs))
    }

    fn set_fpu_regs(&mut self, regs: &FpuRegs) -> VcpuResult<()> {
        let FpuRegs::Aarch64(regs) = regs else { return Err(VcpuError::OtherGuest { id: self.id }) };
        self.complete_access()?;
        registers::set_fpu(&self.fd, regs).map_err(self.error("KVM_SET_ONE_REG"))
    }

    fn get_special_regs(&self) -> VcpuResult<SpecialRegs> {
        let regs = registers::get_special(&self.fd).map_err(self.error("KVM_GET_ONE_REG"))?;
        Ok(SpecialRegs::Aarch64(regs))
    }

    fn set_special_regs(&mut self, regs: &SpecialRegs) -> VcpuResult<()> {
        let SpecialRegs::Aarch64(regs) = regs else { return Err(VcpuError::OtherGuest { id: self.id }) };
        self.complete_access()?;
        registers::set_special(&self.fd, regs).map_err(self.error("KVM_SET_ONE_REG"))
    }

    fn activity(&self) -> VcpuResult<Activity> {
        let state = self.fd.get_mp_state().map_err(self.error("KVM_GET_MP_STATE"))?.mp_state;
        if state == KVM_MP_STATE_STOPPED {
            return Ok(Activity::WaitForStart);
        }
        let (Some(memory), true) = (&self.memory, self.masks_interrupts()?) else {
            return Ok(Activity::Running);
        };
        let regs = registers::get_general(&self.fd).map_err(self.error("KVM_GET_ONE_REG"))?;
        let special = registers::get_special(&self.fd).map_err(self.error("KVM_GET_ONE_REG"))?;
        let is_parked = parked::is_parked(memory, &regs, &special);
        Ok(if is_parked { Activity::HaltedForever } else { Activity::Running })
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::clone(&self.kicker) as Arc<dyn Kick>
    }
}

impl KvmVcpu {
    /// The quick part of the question whether the vCPU is parked.
    fn masks_interrupts(&self) -> VcpuResult<bool> {
        let pstate = registers::get(&self.fd, registers::PSTATE).map_err(self.error("KVM_GET_ONE_REG"))?;
        Ok(parked::masks_interrupts(pstate))
    }
}

impl Drop for KvmVcpu {
    fn drop(&mut self) {
        // Before `fd` unmaps `kvm_run`.
        self.kicker.leave();
    }
}

//! KVM on x86-64: a vCPU, and what a virtual machine has beside its memory.
//!
//! KVM emulates the LAPICs only (`KVM_CAP_SPLIT_IRQCHIP`); the IOAPIC, the PICs and the PIT are ours.
//! Nothing is ever registered on KVM's in-kernel I/O bus, because that makes a short run pay many
//! milliseconds.

mod cpuid;
mod platform;
mod registers;

use std::io;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use kvm_bindings::{
    CpuId, KVM_EXIT_DEBUG, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR,
    KVM_EXIT_IO, KVM_EXIT_IO_IN, KVM_EXIT_IOAPIC_EOI, KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_MMIO,
    KVM_EXIT_SHUTDOWN, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_UNINITIALIZED, Msrs, kvm_fpu,
    kvm_interrupt, kvm_msr_entry, kvm_regs, kvm_run,
};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use super::host;
use super::kick::Kicker;
use crate::accel::ffi::kvm::KVM_INTERRUPT;
use crate::accel::{
    AccelResult, Activity, FpuRegs, GuestRegs, InterruptController, Kick, SpecialRegs, VcpuError, VcpuExit,
    VcpuOps, VcpuResult, VcpuSetup,
};
use crate::memory::GuestMemory;
pub use platform::{GUEST, HOW_TO_HAVE_KVM, Platform, REQUIRED};

/// IA32_MISC_ENABLE and its bit for fast string operations.
const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
/// IA32_MTRR_DEF_TYPE: MTRRs on, everything write-back, as firmware leaves it.
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;
/// RFLAGS.IF.
const RFLAGS_IF: u64 = 1 << 9;
/// Longest x86 instruction.
const MAX_INSTRUCTION_BYTES: usize = 15;

/// A port exit that is handed out access by access: KVM gives a `rep ins/outs` as one exit.
#[derive(Debug, Clone, Copy)]
struct PortBatch {
    port: u16,
    input: bool,
    size: usize,
    /// Byte offset of the next item in the `kvm_run` mapping.
    offset: usize,
    /// Items left.
    left: u32,
}

/// A KVM vCPU.
pub struct KvmVcpu {
    id: u32,
    fd: VcpuFd,
    kicker: Arc<Kicker>,
    interrupts: Arc<dyn InterruptController>,
    batch: Option<PortBatch>,
    memory: Option<GuestMemory>,
}

impl KvmVcpu {
    /// Finishes a vCPU that KVM has just created: CPUID and the MSRs of the boot protocol.
    ///
    /// # Errors
    /// When KVM refuses.
    pub(super) fn new(
        id: u32,
        fd: VcpuFd,
        mut supported: CpuId,
        deadline_timer: bool,
        setup: &VcpuSetup,
        memory: Option<GuestMemory>,
    ) -> AccelResult<Self> {
        cpuid::adjust(&mut supported, id, setup.cpus, deadline_timer);
        fd.set_cpuid2(&supported).map_err(host("KVM_SET_CPUID2"))?;
        let msr = |index, data| kvm_msr_entry { index, data, ..Default::default() };
        let msrs =
            [msr(MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRING), msr(MSR_MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK)];
        // Kernels do without either, so a KVM that knows fewer MSRs is no error.
        match Msrs::from_entries(&msrs).map(|msrs| fd.set_msrs(&msrs)) {
            Ok(Ok(set)) if set == msrs.len() => {}
            other => log::debug!("vCPU {id}: KVM_SET_MSRS set only part: {other:?}"),
        }
        Ok(Self {
            id,
            fd,
            kicker: Kicker::new(),
            interrupts: Arc::clone(&setup.interrupts),
            batch: None,
            memory,
        })
    }

    fn error(&self, operation: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> VcpuError + use<> {
        let id = self.id;
        move |error| VcpuError::Host { id, operation, source: error.into() }
    }

    /// Gives the 8259 pair's interrupt to the vCPU, or asks KVM to say when it can take one. Only the
    /// boot processor is wired to the pair.
    fn offer_extint(&mut self) -> VcpuResult<()> {
        let mut pending = self.interrupts.extint_pending();
        if pending && self.fd.get_kvm_run().ready_for_interrupt_injection != 0 {
            if let Some(vector) = self.interrupts.extint_acknowledge() {
                let interrupt = kvm_interrupt { irq: vector.into() };
                // SAFETY: the descriptor is a vCPU's, and the argument is the struct that
                // KVM_INTERRUPT reads.
                let result = unsafe { libc::ioctl(raw_fd(&self.fd), KVM_INTERRUPT, &raw const interrupt) };
                if result != 0 {
                    let source = io::Error::last_os_error();
                    return Err(VcpuError::Host { id: self.id, operation: "KVM_INTERRUPT", source });
                }
                // Until KVM has taken this one, `ready_for_interrupt_injection` is stale.
                self.fd.get_kvm_run().ready_for_interrupt_injection = 0;
            }
            pending = self.interrupts.extint_pending();
        }
        self.fd.get_kvm_run().request_interrupt_window = pending.into();
        Ok(())
    }

    /// The next access of the batch under way, if there is one.
    fn next_in_batch(&mut self) -> Option<VcpuExit<'_>> {
        let batch = self.batch.as_mut()?;
        let PortBatch { port, input, size, offset, .. } = *batch;
        batch.left -= 1;
        batch.offset += size;
        if batch.left == 0 {
            self.batch = None;
        }
        let run = ptr::from_mut::<kvm_run>(self.fd.get_kvm_run()).cast::<u8>();
        // SAFETY: KVM put `count` items of `size` bytes at `data_offset` inside the mapping of
        // `kvm_run`; `offset` is that of an item not handed out yet. The borrow of `self` keeps KVM from
        // being entered while the slice lives.
        let data = unsafe { std::slice::from_raw_parts_mut(run.add(offset), size) };
        Some(if input { VcpuExit::IoIn { port, data } } else { VcpuExit::IoOut { port, data } })
    }

    /// Linear address of the current instruction, and its bytes as far as they can be read.
    fn failed_instruction(&mut self) -> VcpuResult<(u64, Vec<u8>)> {
        let regs = self.fd.get_regs().map_err(self.error("KVM_GET_REGS"))?;
        let sregs = self.fd.get_sregs().map_err(self.error("KVM_GET_SREGS"))?;
        let rip = regs.rip.wrapping_add(sregs.cs.base);
        let run = self.fd.get_kvm_run();
        // SAFETY: the caller has seen KVM_EXIT_INTERNAL_ERROR or KVM_EXIT_FAIL_ENTRY; every bit pattern
        // is a valid value of this plain C struct.
        let failure = unsafe { run.__bindgen_anon_1.emulation_failure };
        let has_bytes = run.exit_reason == KVM_EXIT_INTERNAL_ERROR
            && failure.suberror == KVM_INTERNAL_ERROR_EMULATION
            && failure.ndata >= 3
            && failure.flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0;
        if has_bytes {
            // SAFETY: the flag says that KVM filled this member of the union.
            let instruction = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
            let length = usize::from(instruction.insn_size).min(MAX_INSTRUCTION_BYTES);
            return Ok((rip, instruction.insn_bytes[..length].to_vec()));
        }
        let mut bytes = vec![0; MAX_INSTRUCTION_BYTES];
        let read = self.fd.translate_gva(rip).ok().filter(|t| t.valid != 0).and_then(|translation| {
            self.memory.as_ref()?.read(&mut bytes, GuestAddress(translation.physical_address)).ok()
        });
        bytes.truncate(read.unwrap_or(0));
        Ok((rip, bytes))
    }

    /// Runs the guest until KVM gives an exit that is not the backend's own; `None` when it was kicked.
    fn enter(&mut self) -> VcpuResult<Option<u32>> {
        loop {
            if self.id == 0 {
                self.offer_extint()?;
            }
            if self.kicker.take_request() {
                return Ok(None);
            }
            if let Err(error) = self.fd.run() {
                match error.errno() {
                    libc::EINTR => {
                        self.fd.set_kvm_immediate_exit(0);
                        self.kicker.take_request();
                        return Ok(None);
                    }
                    // A vCPU that was woken while it waits for its start-up IPI.
                    libc::EAGAIN => continue,
                    _ => return Err(self.error("KVM_RUN")(error)),
                }
            }
            let run = self.fd.get_kvm_run();
            match run.exit_reason {
                KVM_EXIT_IRQ_WINDOW_OPEN => {}
                KVM_EXIT_INTR => return Ok(None),
                KVM_EXIT_IOAPIC_EOI => {
                    // SAFETY: the exit reason says that KVM filled this member of the union.
                    let vector = unsafe { run.__bindgen_anon_1.eoi.vector };
                    self.interrupts.eoi(vector);
                }
                reason => return Ok(Some(reason)),
            }
        }
    }
}

impl VcpuOps for KvmVcpu {
    fn get_id(&self) -> u32 {
        self.id
    }

    fn run(&mut self) -> VcpuResult<VcpuExit<'_>> {
        if self.batch.is_some() {
            // Checked above; asked again because the answer borrows `self`.
            return Ok(self.next_in_batch().unwrap_or(VcpuExit::Interrupted));
        }
        let immediate_exit = ptr::from_mut(&mut self.fd.get_kvm_run().immediate_exit).cast::<AtomicU8>();
        self.kicker.enter(immediate_exit);
        let Some(reason) = self.enter()? else { return Ok(VcpuExit::Interrupted) };
        match reason {
            KVM_EXIT_IO => {
                // SAFETY: the exit reason says that KVM filled this member of the union.
                let io = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.io };
                self.batch = Some(PortBatch {
                    port: io.port,
                    input: u32::from(io.direction) == KVM_EXIT_IO_IN,
                    size: io.size.into(),
                    offset: io.data_offset as usize,
                    left: io.count,
                });
                Ok(self.next_in_batch().unwrap_or(VcpuExit::Interrupted))
            }
            KVM_EXIT_MMIO => {
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
            KVM_EXIT_HLT => Ok(VcpuExit::Hlt),
            KVM_EXIT_SHUTDOWN => Ok(VcpuExit::Shutdown),
            KVM_EXIT_DEBUG => Ok(VcpuExit::Debug),
            KVM_EXIT_INTERNAL_ERROR | KVM_EXIT_FAIL_ENTRY => {
                let (rip, bytes) = self.failed_instruction()?;
                let run = self.fd.get_kvm_run();
                // SAFETY: plain integers, valid whatever KVM filled.
                let detail = unsafe { run.__bindgen_anon_1.internal.suberror };
                log::info!("vCPU {}: KVM exit reason {reason}, detail {detail}", self.id);
                Ok(VcpuExit::EmulationFailure { rip, bytes })
            }
            other => Err(VcpuError::Unexpected {
                id: self.id,
                what: format!("KVM answered with exit reason {other}"),
            }),
        }
    }

    fn get_regs(&self) -> VcpuResult<GuestRegs> {
        let regs = self.fd.get_regs().map_err(self.error("KVM_GET_REGS"))?;
        Ok(GuestRegs::X86_64((&regs).into()))
    }

    fn set_regs(&mut self, regs: &GuestRegs) -> VcpuResult<()> {
        let GuestRegs::X86_64(regs) = regs else { return Err(VcpuError::OtherGuest { id: self.id }) };
        self.fd.set_regs(&kvm_regs::from(regs)).map_err(self.error("KVM_SET_REGS"))
    }

    fn get_fpu_regs(&self) -> VcpuResult<FpuRegs> {
        let fpu = self.fd.get_fpu().map_err(self.error("KVM_GET_FPU"))?;
        Ok(FpuRegs::X86_64((&fpu).into()))
    }

    fn set_fpu_regs(&mut self, regs: &FpuRegs) -> VcpuResult<()> {
        let FpuRegs::X86_64(regs) = regs else { return Err(VcpuError::OtherGuest { id: self.id }) };
        self.fd.set_fpu(&kvm_fpu::from(regs)).map_err(self.error("KVM_SET_FPU"))
    }

    fn get_special_regs(&self) -> VcpuResult<SpecialRegs> {
        let sregs = self.fd.get_sregs().map_err(self.error("KVM_GET_SREGS"))?;
        Ok(SpecialRegs::X86_64((&sregs).into()))
    }

    fn set_special_regs(&mut self, regs: &SpecialRegs) -> VcpuResult<()> {
        let SpecialRegs::X86_64(regs) = regs else { return Err(VcpuError::OtherGuest { id: self.id }) };
        let mut sregs = self.fd.get_sregs().map_err(self.error("KVM_GET_SREGS"))?;
        registers::apply_special(regs, &mut sregs);
        self.fd.set_sregs(&sregs).map_err(self.error("KVM_SET_SREGS"))
    }

    fn activity(&self) -> VcpuResult<Activity> {
        let state = self.fd.get_mp_state().map_err(self.error("KVM_GET_MP_STATE"))?.mp_state;
        Ok(match state {
            KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED => Activity::WaitForStart,
            KVM_MP_STATE_HALTED => {
                let regs = self.fd.get_regs().map_err(self.error("KVM_GET_REGS"))?;
                if regs.rflags & RFLAGS_IF == 0 { Activity::HaltedForever } else { Activity::Halted }
            }
            _ => Activity::Running,
        })
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::clone(&self.kicker) as Arc<dyn Kick>
    }
}

impl Drop for KvmVcpu {
    fn drop(&mut self) {
        // Before `fd` unmaps `kvm_run`.
        self.kicker.leave();
    }
}

/// The vCPU's descriptor.
fn raw_fd(fd: &VcpuFd) -> libc::c_int {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}

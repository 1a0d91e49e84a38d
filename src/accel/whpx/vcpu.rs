//! A WHPX virtual processor of an x86-64 guest.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Partition, check, failure, registers};
use crate::accel::ffi::whpx::{
    CpuidAccessContext, ExitDetails, IoPortAccessContext, MsrAccessContext, RegisterName, RegisterValue,
    RunVpExitContext, VpExitContext, exit, register,
};
use crate::accel::soft::{Access, Emulator, Registers, Step};
use crate::accel::{
    AccelError, AccelResult, Activity, FpuRegs, GuestRegs, InterruptController, Kick, SpecialRegs, VcpuError,
    VcpuExit, VcpuOps, VcpuResult,
};

/// The CPUID leaf with the hypervisor's name.
pub(super) const CPUID_HYPERVISOR: u32 = 0x4000_0000;
/// Its answer: no leaf behind this one, and a name that no guest knows.
const HYPERVISOR_NAME: [u32; 4] =
    [CPUID_HYPERVISOR, u32::from_le_bytes(*b"vm-a"), u32::from_le_bytes(*b"ccel"), 0];
/// RFLAGS.TF and RFLAGS.IF.
const RFLAGS_TF: u64 = 1 << 8;
const RFLAGS_IF: u64 = 1 << 9;
/// `WHV_X64_VP_EXECUTION_STATE.Cr0Pe`: protected mode.
const STATE_PROTECTED: u16 = 1 << 2;
/// `WHV_X64_VP_EXECUTION_STATE.InterruptShadow`.
const STATE_INTERRUPT_SHADOW: u16 = 1 << 12;
/// Vector of #GP.
const GENERAL_PROTECTION: u64 = 13;
/// Rounds of a repeated instruction before the hypervisor may deliver an interrupt between two.
const ROUNDS: u32 = 64;

/// What the caller has been asked, and what is to be done with the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pending {
    Nothing,
    /// `in`: the answer goes to the low `size` bytes of `rax`.
    Input {
        size: usize,
        rax: u64,
        next_rip: u64,
        shadow: bool,
    },
    /// `out` is done.
    Output {
        next_rip: u64,
        shadow: bool,
    },
    /// The emulator waits: for so many bytes of a load, or for a store.
    Emulated {
        load: Option<usize>,
    },
}

/// Why the processor stopped, with nothing borrowed.
enum Stop {
    Access(Access),
    Failure { rip: u64, bytes: Vec<u8> },
    Shutdown,
    Halted,
    Interrupted,
}

/// A virtual processor.
pub struct WhpxVcpu {
    id: u32,
    // Dropped before the kicker's and the sink's references can be the last.
    partition: Arc<Partition>,
    kicker: Arc<Kicker>,
    interrupts: Arc<dyn InterruptController>,
    /// Made for the first instruction that needs it.
    emulator: Option<Box<Emulator>>,
    /// What the emulator began with.
    before: Option<Box<Registers>>,
    pending: Pending,
    /// The bytes of the access that the caller has been given.
    data: [u8; 8],
    /// The hypervisor has been asked to say when it can take an interrupt of the 8259 pair.
    window_requested: bool,
    /// It has said so.
    window_open: bool,
}

/// Ends a run from another thread.
struct Kicker {
    partition: Arc<Partition>,
    id: u32,
    /// Set by a kick, cleared by the return that answers it.
    kicked: AtomicBool,
}

impl Kick for Kicker {
    fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        // SAFETY: the handle is the partition's, which `self` keeps.
        let result = unsafe {
            (self.partition.functions.cancel_run_virtual_processor)(self.partition.handle, self.id, 0)
        };
        if result < 0 {
            log::debug!("WHvCancelRunVirtualProcessor({}) failed: {}", self.id, failure(result));
        }
    }
}

impl WhpxVcpu {
    pub(super) fn new(
        id: u32,
        partition: Arc<Partition>,
        interrupts: Arc<dyn InterruptController>,
    ) -> AccelResult<Self> {
        // SAFETY: the handle is the partition's.
        let result = unsafe { (partition.functions.create_virtual_processor)(partition.handle, id, 0) };
        check("WHvCreateVirtualProcessor", result)?;
        let kicker =
            Arc::new(Kicker { partition: Arc::clone(&partition), id, kicked: AtomicBool::new(false) });
        let mut vcpu = Self {
            id,
            partition,
            kicker,
            interrupts,
            emulator: None,
            before: None,
            pending: Pending::Nothing,
            data: [0; 8],
            window_requested: false,
            window_open: false,
        };
        if id != 0 {
            // It waits for a start-up IPI, which the hypervisor's APICs pass.
            let suspended = registers::word(register::STARTUP_SUSPEND);
            vcpu.set(&[register::INTERNAL_ACTIVITY], &[suspended]).map_err(|error| match error {
                VcpuError::Host { operation, source, .. } => AccelError::Host { operation, source },
                other => AccelError::Unusable {
                    what: "WHPX".into(),
                    reason: other.to_string(),
                    remedy: "Use `--accel soft`".into(),
                },
            })?;
        }
        Ok(vcpu)
    }

    fn get<const N: usize>(&self, names: &[RegisterName; N]) -> VcpuResult<[RegisterValue; N]> {
        let mut values = [RegisterValue::default(); N];
        // SAFETY: the handle is the partition's; both arrays have N items.
        let result = unsafe {
            (self.partition.functions.get_virtual_processor_registers)(
                self.partition.handle,
                self.id,
                names.as_ptr(),
                N as u32,
                values.as_mut_ptr(),
            )
        };
        self.check("WHvGetVirtualProcessorRegisters", result)?;
        Ok(values)
    }

    fn set<const N: usize>(
        &mut self,
        names: &[RegisterName; N],
        values: &[RegisterValue; N],
    ) -> VcpuResult<()> {
        // SAFETY: the handle is the partition's; both arrays have N items.
        let result = unsafe {
            (self.partition.functions.set_virtual_processor_registers)(
                self.partition.handle,
                self.id,
                names.as_ptr(),
                N as u32,
                values.as_ptr(),
            )
        };
        self.check("WHvSetVirtualProcessorRegisters", result)
    }

    fn check(&self, operation: &'static str, result: i32) -> VcpuResult<()> {
        if result < 0 {
            return Err(VcpuError::Host { id: self.id, operation, source: failure(result) });
        }
        Ok(())
    }

    /// Takes over the answer to the last exit. Another access of the same instruction may follow.
    fn take_answer(&mut self) -> VcpuResult<Option<Stop>> {
        match mem::replace(&mut self.pending, Pending::Nothing) {
            Pending::Nothing => Ok(None),
            Pending::Input { size, rax, next_rip, shadow } => {
                let value = self.answer(size);
                // A 32-bit result clears the upper half.
                let rax = match size {
                    1 => rax & !0xff | value,
                    2 => rax & !0xffff | value,
                    _ => value,
                };
                let values = [registers::word(rax), registers::word(next_rip)];
                self.set(&[register::RAX, register::RIP], &values)?;
                self.end_shadow(shadow)?;
                Ok(None)
            }
            Pending::Output { next_rip, shadow } => {
                self.set(&[register::RIP], &[registers::word(next_rip)])?;
                self.end_shadow(shadow)?;
                Ok(None)
            }
            Pending::Emulated { load } => {
                let value = load.map(|size| self.answer(size));
                if let Some(emulator) = &mut self.emulator {
                    emulator.answer(value);
                }
                self.emulate()
            }
        }
    }

    /// What the caller has left in the first `size` bytes.
    fn answer(&self, size: usize) -> u64 {
        let mut bytes = [0; 8];
        for (to, from) in bytes.iter_mut().zip(&self.data).take(size) {
            *to = *from;
        }
        u64::from_le_bytes(bytes)
    }

    /// An instruction is done: it was the one behind STI or MOV SS.
    fn end_shadow(&mut self, shadow: bool) -> VcpuResult<()> {
        if shadow { self.set(&[register::INTERRUPT_STATE], &[registers::word(0)]) } else { Ok(()) }
    }

    /// Gives the 8259 pair's interrupt to the processor, or asks the hypervisor to say when it can take
    /// one. Only the boot processor is wired to the pair.
    fn offer_extint(&mut self) -> VcpuResult<()> {
        if self.id != 0 || !self.interrupts.extint_pending() {
            return Ok(());
        }
        if mem::take(&mut self.window_open) {
            if let Some(vector) = self.interrupts.extint_acknowledge() {
                let event = registers::word(register::EVENT_EXT_INT | u64::from(vector) << 8);
                self.set(&[register::PENDING_EVENT], &[event])?;
                // An interrupt ends HLT, also one that comes from the side.
                let [activity] = self.get(&[register::INTERNAL_ACTIVITY])?;
                if activity.low & register::HALT_SUSPEND != 0 {
                    let awake = registers::word(activity.low & !register::HALT_SUSPEND);
                    self.set(&[register::INTERNAL_ACTIVITY], &[awake])?;
                }
            }
            if !self.interrupts.extint_pending() {
                return Ok(());
            }
        }
        if !self.window_requested {
            let notify = registers::word(register::INTERRUPT_NOTIFICATION);
            self.set(&[register::DELIVERABILITY_NOTIFICATIONS], &[notify])?;
            self.window_requested = true;
        }
        Ok(())
    }

    /// Runs until something is needed.
    fn run_to_stop(&mut self) -> VcpuResult<Stop> {
        if let Some(stop) = self.take_answer()? {
            return Ok(stop);
        }
        loop {
            if self.kicker.kicked.swap(false, Ordering::SeqCst) {
                return Ok(Stop::Interrupted);
            }
            self.offer_extint()?;
            let context = self.enter()?;
            if let Some(stop) = self.handle(&context)? {
                return Ok(stop);
            }
        }
    }

    fn enter(&self) -> VcpuResult<RunVpExitContext> {
        let mut context = RunVpExitContext {
            reason: exit::NONE,
            reserved: 0,
            vp: VpExitContext::default(),
            details: ExitDetails { words: [0; 22] },
        };
        let size = size_of::<RunVpExitContext>() as u32;
        // SAFETY: the handle is the partition's, whose processor runs on this thread only; `context` is
        // valid for `size` bytes of answer.
        let result = unsafe {
            (self.partition.functions.run_virtual_processor)(
                self.partition.handle,
                self.id,
                (&raw mut context).cast(),
                size,
            )
        };
        self.check("WHvRunVirtualProcessor", result)?;
        Ok(context)
    }

    /// Deals with an exit; `None` goes on.
    fn handle(&mut self, context: &RunVpExitContext) -> VcpuResult<Option<Stop>> {
        let vp = &context.vp;
        match context.reason {
            exit::MEMORY_ACCESS => self.begin_emulation(),
            exit::IO_PORT => {
                // SAFETY: integers throughout, zeroed before the run.
                let access = unsafe { context.details.io_port };
                self.port(vp, &access)
            }
            exit::MSR => {
                // SAFETY: as above.
                let access = unsafe { context.details.msr };
                self.refuse_msr(vp, &access)?;
                Ok(None)
            }
            exit::CPUID => {
                // SAFETY: as above.
                let access = unsafe { context.details.cpuid };
                self.cpuid(vp, &access)?;
                Ok(None)
            }
            exit::APIC_EOI => {
                // SAFETY: as above.
                let vector = unsafe { context.details.eoi_vector };
                self.interrupts.eoi(vector as u8);
                Ok(None)
            }
            exit::INTERRUPT_WINDOW => {
                self.window_requested = false;
                self.window_open = true;
                Ok(None)
            }
            exit::CANCELED => {
                self.kicker.kicked.store(false, Ordering::SeqCst);
                Ok(Some(Stop::Interrupted))
            }
            // With the hypervisor's APIC it sleeps inside; only a halt without a wake-up comes out.
            exit::HALT => Ok((vp.rflags & RFLAGS_IF == 0).then_some(Stop::Halted)),
            exit::UNRECOVERABLE_EXCEPTION => Ok(Some(Stop::Shutdown)),
            exit::NONE => Ok(None),
            reason => {
                let what = match reason {
                    exit::INVALID_REGISTER => "Hyper-V calls the registers invalid".to_owned(),
                    exit::UNSUPPORTED_FEATURE => "the guest uses a feature that Hyper-V lacks".to_owned(),
                    other => format!("WHPX gave the exit {other:#x}"),
                };
                Err(VcpuError::Unexpected { id: self.id, what: format!("{what}, at rip {:#x}", vp.rip) })
            }
        }
    }

    /// A port: a plain IN or OUT is done here, everything else by the emulator.
    fn port(&mut self, vp: &VpExitContext, access: &IoPortAccessContext) -> VcpuResult<Option<Stop>> {
        const WRITE: u32 = 1;
        const STRING_OR_REP: u32 = 3 << 4;
        let size = (access.access_info >> 1 & 7) as u8;
        let length = u64::from(vp.length_and_cr8 & 15);
        let is_plain = access.access_info & STRING_OR_REP == 0 && vp.rflags & RFLAGS_TF == 0;
        if !is_plain || length == 0 || !matches!(size, 1 | 2 | 4) {
            return self.begin_emulation();
        }
        let next_rip = next_rip(vp, length);
        let shadow = vp.execution_state & STATE_INTERRUPT_SHADOW != 0;
        let port = access.port;
        Ok(Some(Stop::Access(if access.access_info & WRITE != 0 {
            self.pending = Pending::Output { next_rip, shadow };
            Access::IoOut { port, size, value: access.rax as u32 }
        } else {
            self.pending = Pending::Input { size: size.into(), rax: access.rax, next_rip, shadow };
            Access::IoIn { port, size }
        })))
    }

    /// An MSR that the hypervisor does not know is none: #GP(0).
    fn refuse_msr(&mut self, vp: &VpExitContext, access: &MsrAccessContext) -> VcpuResult<()> {
        let verb = if access.access_info & 1 != 0 { "writes" } else { "reads" };
        log::debug!("vCPU {} {verb} MSR {:#x}, which there is not", self.id, access.msr);
        let mut event = register::EVENT_EXCEPTION | GENERAL_PROTECTION << 16;
        // In real mode exceptions have no error code, and a processor enters no guest with one.
        if vp.execution_state & STATE_PROTECTED != 0 {
            event |= register::EVENT_ERROR_CODE;
        }
        self.set(&[register::PENDING_EVENT], &[registers::word(event)])
    }

    fn cpuid(&mut self, vp: &VpExitContext, access: &CpuidAccessContext) -> VcpuResult<()> {
        let [rax, rbx, rcx, rdx] = if access.rax as u32 == CPUID_HYPERVISOR {
            HYPERVISOR_NAME.map(u64::from)
        } else {
            [access.default_rax, access.default_rbx, access.default_rcx, access.default_rdx]
        };
        let names = [register::RAX, register::RBX, register::RCX, register::RDX, register::RIP];
        // CPUID is two bytes long.
        let rip = next_rip(vp, 2);
        self.set(&names, &[rax, rbx, rcx, rdx, rip].map(registers::word))?;
        self.end_shadow(vp.execution_state & STATE_INTERRUPT_SHADOW != 0)
    }

    /// Hands the instruction at RIP to the interpreter.
    fn begin_emulation(&mut self) -> VcpuResult<Option<Stop>> {
        let now = self.registers()?;
        let id = self.id;
        let Some(memory) = self.partition.memory.get() else {
            return Err(VcpuError::Unexpected { id, what: "the partition has no memory".into() });
        };
        let emulator = self.emulator.get_or_insert_with(|| Box::new(Emulator::new(id, memory)));
        emulator.load(&now)?;
        self.before = Some(Box::new(now));
        self.emulate()
    }

    /// Goes on with the instruction that is emulated, to its end or its next access.
    fn emulate(&mut self) -> VcpuResult<Option<Stop>> {
        let (Some(emulator), Some(before)) = (&mut self.emulator, &self.before) else { return Ok(None) };
        let first = before.general.rip;
        let mut rounds = 0;
        loop {
            let stop = match emulator.step() {
                Step::Access(access) => {
                    self.pending = Pending::Emulated {
                        load: match access {
                            Access::IoIn { size, .. } | Access::MmioRead { size, .. } => Some(size.into()),
                            Access::IoOut { .. } | Access::MmioWrite { .. } => None,
                        },
                    };
                    return Ok(Some(Stop::Access(access)));
                }
                Step::Unimplemented { rip, bytes } => Some(Stop::Failure { rip, bytes }),
                Step::TripleFault => Some(Stop::Shutdown),
                Step::Done => {
                    rounds += 1;
                    let now = emulator.registers(before.special.apic_base)?;
                    // A repeated instruction stays where it is until its last round.
                    if now.general.rip == first && rounds < ROUNDS {
                        continue;
                    }
                    None
                }
            };
            self.write_back()?;
            return Ok(stop);
        }
    }

    fn registers(&self) -> VcpuResult<Registers> {
        Ok(Registers {
            general: registers::general(&self.get(&registers::GENERAL)?),
            special: registers::special(&self.get(&registers::SPECIAL)?),
            fpu: registers::fpu(&self.get(&registers::fpu_names())?),
        })
    }

    /// Gives the processor what the emulator has changed.
    fn write_back(&mut self) -> VcpuResult<()> {
        let Some(before) = self.before.take() else { return Ok(()) };
        let Some(emulator) = &self.emulator else { return Ok(()) };
        let after = emulator.registers(before.special.apic_base)?;
        if before.special != after.special {
            self.set_special_regs(&SpecialRegs::X86_64(after.special))?;
        }
        if before.fpu != after.fpu {
            self.set_fpu_regs(&FpuRegs::X86_64(after.fpu))?;
        }
        self.set_regs(&GuestRegs::X86_64(after.general))?;
        self.end_shadow(true)
    }

    /// Presents a stop as the caller knows it.
    fn present(&mut self, stop: Stop) -> VcpuExit<'_> {
        let mut fill = |value: u64, size: u8| {
            self.data = value.to_le_bytes();
            usize::from(size).min(8)
        };
        match stop {
            Stop::Access(Access::IoIn { port, size }) => {
                let size = fill(u64::MAX, size);
                VcpuExit::IoIn { port, data: &mut self.data[..size] }
            }
            Stop::Access(Access::IoOut { port, size, value }) => {
                let size = fill(value.into(), size);
                VcpuExit::IoOut { port, data: &self.data[..size] }
            }
            Stop::Access(Access::MmioRead { gpa, size }) => {
                let size = fill(u64::MAX, size);
                VcpuExit::MmioRead { gpa, data: &mut self.data[..size] }
            }
            Stop::Access(Access::MmioWrite { gpa, size, value }) => {
                let size = fill(value, size);
                VcpuExit::MmioWrite { gpa, data: &self.data[..size] }
            }
            Stop::Failure { rip, bytes } => VcpuExit::EmulationFailure { rip, bytes },
            Stop::Shutdown => VcpuExit::Shutdown,
            Stop::Halted => VcpuExit::Hlt,
            Stop::Interrupted => VcpuExit::Interrupted,
        }
    }
}

/// RIP behind an instruction of `length` bytes. Outside of 64-bit mode it has 32 bits.
fn next_rip(vp: &VpExitContext, length: u64) -> u64 {
    const LONG: u16 = 1 << 13;
    let next = vp.rip.wrapping_add(length);
    if vp.cs.attributes & LONG != 0 { next } else { next & 0xffff_ffff }
}

impl Drop for WhpxVcpu {
    fn drop(&mut self) {
        // SAFETY: the handle is the partition's, and the processor does not run: `self` would run it.
        unsafe { (self.partition.functions.delete_virtual_processor)(self.partition.handle, self.id) };
    }
}

impl VcpuOps for WhpxVcpu {
    fn get_id(&self) -> u32 {
        self.id
    }

    fn run(&mut self) -> VcpuResult<VcpuExit<'_>> {
        let stop = self.run_to_stop()?;
        Ok(self.present(stop))
    }

    fn get_regs(&self) -> VcpuResult<GuestRegs> {
        Ok(GuestRegs::X86_64(registers::general(&self.get(&registers::GENERAL)?)))
    }

    fn set_regs(&mut self, regs: &GuestRegs) -> VcpuResult<()> {
        let GuestRegs::X86_64(regs) = regs else { return Err(VcpuError::OtherGuest { id: self.id }) };
        // The instruction that was being answered is not the next one any more.
        self.pending = Pending::Nothing;
        self.set(&registers::GENERAL, &registers::general_values(regs))
    }

    fn get_fpu_regs(&self) -> VcpuResult<FpuRegs> {
        Ok(FpuRegs::X86_64(registers::fpu(&self.get(&registers::fpu_names())?)))
    }

    fn set_fpu_regs(&mut self, regs: &FpuRegs) -> VcpuResult<()> {
        let FpuRegs::X86_64(regs) = regs else { return Err(VcpuError::OtherGuest { id: self.id }) };
        self.set(&registers::fpu_names(), &registers::fpu_values(regs))
    }

    fn get_special_regs(&self) -> VcpuResult<SpecialRegs> {
        Ok(SpecialRegs::X86_64(registers::special(&self.get(&registers::SPECIAL)?)))
    }

    fn set_special_regs(&mut self, regs: &SpecialRegs) -> VcpuResult<()> {
        let SpecialRegs::X86_64(regs) = regs else { return Err(VcpuError::OtherGuest { id: self.id }) };
        let mut values = registers::special_values(regs);
        if regs.apic_base == 0 {
            // A loader that does not care leaves it 0.
            let [now] = self.get(&[register::APIC_BASE])?;
            if let Some(last) = values.last_mut() {
                *last = now;
            }
        }
        self.set(&registers::SPECIAL, &values)
    }

    fn activity(&self) -> VcpuResult<Activity> {
        let [activity, rflags] = self.get(&[register::INTERNAL_ACTIVITY, register::RFLAGS])?;
        Ok(if activity.low & register::STARTUP_SUSPEND != 0 {
            Activity::WaitForStart
        } else if activity.low & register::HALT_SUSPEND == 0 {
            Activity::Running
        } else if rflags.low & RFLAGS_IF == 0 {
            Activity::HaltedForever
        } else {
            Activity::Halted
        })
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::clone(&self.kicker) as Arc<dyn Kick>
    }
}

//! A virtual processor: a vCPU of the software CPU whose accesses are exits with nothing executed.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use iced_x86::{Decoder, DecoderOptions};
use vm_accel::accel::ffi::whpx::{
    ExitDetails, IoPortAccessContext, MemoryAccessContext, RegisterName, RegisterValue, RunVpExitContext,
    VpExitContext, exit,
};
use vm_accel::accel::soft::{SoftBackend, SoftVcpu};
use vm_accel::accel::{
    Accel, AccelError, GuestRegs, InterruptController, Kick, SpecialRegs, VcpuExit, VcpuOps, VcpuSetup,
};

use super::registers::{self, State};
use super::{E_INVALID_ARGUMENT, Outcome, lock};

/// What a run ended with.
enum Exit {
    Port { port: u16, size: usize, write: bool },
    Memory { gpa: u64, write: bool },
    Other(i32),
    Eoi(u8),
}

/// A virtual processor.
pub struct Processor {
    inner: Mutex<Inner>,
    pub link: Arc<Link>,
    kick: Arc<dyn Kick>,
    canceled: AtomicBool,
}

struct Inner {
    vcpu: SoftVcpu,
    /// An access has been told and not been undone yet.
    told: bool,
}

/// What the vCPU asks of interrupt controllers, which the platform's user has.
#[derive(Default)]
pub struct Link {
    /// The vector of a pending event.
    pub extint: Mutex<Option<u8>>,
    /// The user wants to know when an interrupt can be taken.
    pub wants_window: AtomicBool,
    /// It can.
    window: AtomicBool,
    eois: Mutex<VecDeque<u8>>,
    kick: OnceLock<Arc<dyn Kick>>,
}

impl Link {
    fn kick(&self) {
        if let Some(kick) = self.kick.get() {
            kick.kick();
        }
    }
}

impl InterruptController for Link {
    fn extint_pending(&self) -> bool {
        lock(&self.extint).is_some() || self.wants_window.load(Ordering::SeqCst)
    }

    fn extint_acknowledge(&self) -> Option<u8> {
        let vector = lock(&self.extint).take();
        if vector.is_none() && self.wants_window.swap(false, Ordering::SeqCst) {
            self.window.store(true, Ordering::SeqCst);
            self.kick();
        }
        vector
    }

    fn eoi(&self, vector: u8) {
        lock(&self.eois).push_back(vector);
        self.kick();
    }
}

impl Processor {
    pub fn new(index: u32, cpus: u32, backend: &mut SoftBackend) -> Result<Arc<Self>, AccelError> {
        let link = Arc::new(Link::default());
        let interrupts = Arc::clone(&link) as Arc<dyn InterruptController>;
        let vcpu = backend.create_vcpu(index, &VcpuSetup { cpus, interrupts })?;
        let kick = vcpu.kicker();
        let _ = link.kick.set(Arc::clone(&kick));
        let inner = Mutex::new(Inner { vcpu, told: false });
        Ok(Arc::new(Self { inner, link, kick, canceled: AtomicBool::new(false) }))
    }

    /// Ends the run that is under way, or else the next one.
    pub fn cancel(&self) {
        self.canceled.store(true, Ordering::SeqCst);
        self.kick.kick();
    }

    pub fn get(&self, names: &[RegisterName], values: &mut [RegisterValue]) -> Outcome {
        let inner = lock(&self.inner);
        let state = State::of(&inner.vcpu)?;
        for (name, value) in names.iter().zip(values) {
            *value = state.get(*name).ok_or(E_INVALID_ARGUMENT)?;
        }
        Ok(())
    }

    pub fn set(&self, names: &[RegisterName], values: &[RegisterValue]) -> Outcome {
        let mut inner = lock(&self.inner);
        let mut state = State::of(&inner.vcpu)?;
        for (name, value) in names.iter().zip(values) {
            if !registers::set_event(*name, value, &self.link) {
                state.set(*name, value).ok_or(E_INVALID_ARGUMENT)?;
            }
        }
        if state.apply(&mut inner.vcpu)? {
            inner.told = false;
        }
        Ok(())
    }

    pub fn run(&self) -> Outcome<RunVpExitContext> {
        let mut inner = lock(&self.inner);
        if std::mem::take(&mut inner.told) {
            // The instruction begins anew unless the user has moved on.
            let regs = inner.vcpu.get_regs().map_err(|_| E_INVALID_ARGUMENT)?;
            inner.vcpu.set_regs(&regs).map_err(|_| E_INVALID_ARGUMENT)?;
        }
        loop {
            if let Some(exit) = self.due() {
                return inner.context(&exit);
            }
            let exit = match inner.vcpu.run().map_err(|_| E_INVALID_ARGUMENT)? {
                VcpuExit::IoIn { port, data } => Exit::Port { port, size: data.len(), write: false },
                VcpuExit::IoOut { port, data } => Exit::Port { port, size: data.len(), write: true },
                VcpuExit::MmioRead { gpa, .. } => Exit::Memory { gpa, write: false },
                VcpuExit::MmioWrite { gpa, .. } => Exit::Memory { gpa, write: true },
                VcpuExit::Shutdown => Exit::Other(exit::UNRECOVERABLE_EXCEPTION),
                VcpuExit::EmulationFailure { .. } => Exit::Other(exit::UNSUPPORTED_FEATURE),
                // It sleeps inside, also without a wake-up.
                VcpuExit::Hlt | VcpuExit::Interrupted | VcpuExit::Debug | VcpuExit::SystemEvent(_) => {
                    continue;
                }
            };
            inner.told = matches!(exit, Exit::Port { .. } | Exit::Memory { .. });
            return inner.context(&exit);
        }
    }

    /// An exit that the vCPU knows nothing of.
    fn due(&self) -> Option<Exit> {
        if let Some(vector) = lock(&self.link.eois).pop_front() {
            return Some(Exit::Eoi(vector));
        }
        if self.link.window.swap(false, Ordering::SeqCst) {
            return Some(Exit::Other(exit::INTERRUPT_WINDOW));
        }
        self.canceled.swap(false, Ordering::SeqCst).then_some(Exit::Other(exit::CANCELED))
    }
}

impl Inner {
    fn context(&mut self, exit: &Exit) -> Outcome<RunVpExitContext> {
        let (Ok(GuestRegs::X86_64(regs)), Ok(SpecialRegs::X86_64(special))) =
            (self.vcpu.get_regs(), self.vcpu.get_special_regs())
        else {
            return Err(E_INVALID_ARGUMENT);
        };
        let (rip, code) = self.vcpu.instruction();
        let bits = match (special.cs.l && special.efer & 1 << 10 != 0, special.cs.db) {
            (true, _) => 64,
            (false, true) => 32,
            (false, false) => 16,
        };
        let instruction = Decoder::with_ip(bits, &code, rip, DecoderOptions::NONE).decode();
        let mut instruction_bytes = [0; 16];
        for (to, from) in instruction_bytes.iter_mut().zip(&code) {
            *to = *from;
        }
        let shadow = u16::from(self.vcpu.interrupt_shadow()) << 12;
        let vp = VpExitContext {
            execution_state: ((special.cr0 & 1) as u16) << 2 | shadow,
            length_and_cr8: instruction.len() as u8 & 15 | (special.cr8 as u8) << 4,
            cs: registers::segment(&special.cs),
            rip: regs.rip,
            rflags: regs.rflags,
            ..VpExitContext::default()
        };
        let mut details = ExitDetails { words: [0; 22] };
        let reason = match *exit {
            Exit::Port { port, size, write } => {
                let is_string = instruction.is_string_instruction();
                let has_rep = instruction.has_rep_prefix() || instruction.has_repne_prefix();
                details.io_port = IoPortAccessContext {
                    instruction_byte_count: code.len() as u8,
                    reserved: [0; 3],
                    instruction_bytes,
                    access_info: u32::from(write)
                        | (size as u32) << 1
                        | u32::from(is_string) << 4
                        | u32::from(has_rep) << 5,
                    port,
                    reserved2: [0; 3],
                    rax: regs.rax,
                    rcx: regs.rcx,
                    rsi: regs.rsi,
                    rdi: regs.rdi,
                    ds: registers::segment(&special.ds),
                    es: registers::segment(&special.es),
                };
                exit::IO_PORT
            }
            Exit::Memory { gpa, write } => {
                details.memory = MemoryAccessContext {
                    instruction_byte_count: code.len() as u8,
                    reserved: [0; 3],
                    instruction_bytes,
                    // No linear address is given, and nothing is mapped there.
                    access_info: u32::from(write) | 1 << 2,
                    gpa,
                    gva: 0,
                };
                exit::MEMORY_ACCESS
            }
            Exit::Eoi(vector) => {
                details.eoi_vector = vector.into();
                exit::APIC_EOI
            }
            Exit::Other(reason) => reason,
        };
        Ok(RunVpExitContext { reason, reserved: 0, vp, details })
    }
}

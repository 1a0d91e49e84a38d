//! What every backend's vCPU can do, and the values that it answers with.

use std::io;
use std::sync::Arc;

use thiserror::Error;

pub use super::regs::{FpuRegs, GuestRegs, SpecialRegs};

/// The result of an operation on a vCPU.
pub type VcpuResult<T> = Result<T, VcpuError>;

/// Why an operation on a vCPU failed. A guest cannot cause one of these: what a guest does is an exit.
#[derive(Debug, Error)]
pub enum VcpuError {
    /// A call of the host's hypervisor failed.
    #[error("{operation} failed on vCPU {id}: {source}")]
    Host {
        /// Number of the vCPU.
        id: u32,
        /// The call, as its documentation names it.
        operation: &'static str,
        /// The host's reason.
        source: io::Error,
    },
    /// The registers that it was given are another architecture's: a fault of vm-accel's.
    #[error("vCPU {id} was given registers of another architecture")]
    OtherGuest {
        /// Number of the vCPU.
        id: u32,
    },
    /// The hypervisor answered something that its documentation does not allow here.
    #[error("vCPU {id}: {what}")]
    Unexpected {
        /// Number of the vCPU.
        id: u32,
        /// What was answered.
        what: String,
    },
}

/// Why a vCPU stopped running guest code. The set is closed: a backend maps its own exits onto these.
///
/// One exit is one access: a backend that gets a batch (`rep outsb`) or an instruction with several
/// accesses hands them out one after the other.
#[derive(Debug, PartialEq, Eq)]
pub enum VcpuExit<'a> {
    /// `in` of 1, 2 or 4 bytes; the answer is what the caller leaves in `data`, consumed by the next
    /// `run`.
    IoIn {
        /// I/O port.
        port: u16,
        /// Where the answer goes.
        data: &'a mut [u8],
    },
    /// `out` of 1, 2 or 4 bytes.
    IoOut {
        /// I/O port.
        port: u16,
        /// The bytes written.
        data: &'a [u8],
    },
    /// A load of 1 to 8 bytes from an address without RAM; the answer is what the caller leaves in
    /// `data`, consumed by the next `run`.
    MmioRead {
        /// Guest-physical address.
        gpa: u64,
        /// Where the answer goes.
        data: &'a mut [u8],
    },
    /// A store of 1 to 8 bytes to an address without RAM.
    MmioWrite {
        /// Guest-physical address.
        gpa: u64,
        /// The bytes written.
        data: &'a [u8],
    },
    /// The vCPU is halted with interrupts off: only another vCPU could wake it. A vCPU that an
    /// interrupt can wake sleeps inside `run` instead.
    Hlt,
    /// Triple fault.
    Shutdown,
    /// A kick, a host signal or the backend's own wish ended the run; nothing to answer.
    Interrupted,
    /// The backend cannot execute the instruction at `rip`.
    EmulationFailure {
        /// Linear instruction pointer.
        rip: u64,
        /// The instruction's bytes, as far as the backend knows them.
        bytes: Vec<u8>,
    },
    /// A breakpoint or single step that the host asked for.
    Debug,
    /// The guest asked its firmware interface, which the backend is, for the end of the machine.
    SystemEvent(SystemEvent),
}

/// What a guest asks of its firmware interface: PSCI's on AArch64 (Arm DEN 0022).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemEvent {
    /// PSCI's `SYSTEM_OFF`.
    PowerOff,
    /// PSCI's `SYSTEM_RESET` and `SYSTEM_RESET2`.
    Reset,
    /// The hypervisor says that the guest has crashed.
    Crash,
}

/// What a vCPU could do next if nobody interfered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// It executes instructions.
    Running,
    /// It is halted, and an interrupt can wake it.
    Halted,
    /// It is halted with interrupts off.
    HaltedForever,
    /// It waits for another vCPU to start it: by INIT and a start-up IPI, or by PSCI's `CPU_ON`.
    WaitForStart,
}

/// Ends a vCPU's `run` from another thread.
pub trait Kick: Send + Sync {
    /// Makes the `run` that is under way, or else the next one, return `Interrupted` soon.
    /// Several kicks may be answered by one return; none is lost.
    fn kick(&self);
}

/// A virtual CPU. It is created on one thread and may be run on another, but always on the same one.
pub trait VcpuOps: Send {
    /// The vCPU's number, 0 for the boot processor; it is also its APIC id, and its MPIDR follows from it.
    fn get_id(&self) -> u32;

    /// Runs guest code until something is needed from the caller.
    ///
    /// # Errors
    /// When the host's hypervisor fails; never for what a guest does.
    fn run(&mut self) -> VcpuResult<VcpuExit<'_>>;

    /// The general registers.
    ///
    /// # Errors
    /// When the host's hypervisor fails.
    fn get_regs(&self) -> VcpuResult<GuestRegs>;

    /// Sets the general registers.
    ///
    /// # Errors
    /// When the host's hypervisor fails.
    fn set_regs(&mut self, regs: &GuestRegs) -> VcpuResult<()>;

    /// The floating-point and vector registers.
    ///
    /// # Errors
    /// When the host's hypervisor fails.
    fn get_fpu_regs(&self) -> VcpuResult<FpuRegs>;

    /// Sets the floating-point and vector registers.
    ///
    /// # Errors
    /// When the host's hypervisor fails.
    fn set_fpu_regs(&mut self, regs: &FpuRegs) -> VcpuResult<()>;

    /// The segment, control and system registers.
    ///
    /// # Errors
    /// When the host's hypervisor fails.
    fn get_special_regs(&self) -> VcpuResult<SpecialRegs>;

    /// Sets the segment, control and system registers.
    ///
    /// # Errors
    /// When the host's hypervisor fails.
    fn set_special_regs(&mut self, regs: &SpecialRegs) -> VcpuResult<()>;

    /// What the vCPU could do next; called on its own thread between two runs.
    ///
    /// # Errors
    /// When the host's hypervisor fails.
    fn activity(&self) -> VcpuResult<Activity>;

    /// A handle that ends `run` from another thread.
    fn kicker(&self) -> Arc<dyn Kick>;
}

//! Backends: what executes the guest. One enum over all of them, one trait that they share.

mod arch;
pub mod arm64;
mod irq;
mod macros;
mod platform;
mod regs;
mod vcpu;

pub mod ffi;
pub mod host;
#[cfg(any(target_os = "macos", test))]
pub mod hvf;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub mod kvm;
pub mod measure;
pub mod native;
pub mod probe;
pub mod select;
pub mod soft;
#[cfg(any(target_os = "macos", test))]
pub mod vz;
mod whole_machine;
pub mod whpx;

use std::fmt;
use std::io;
use std::sync::Arc;

use thiserror::Error;

use crate::config::VmConfig;
use crate::memory::GuestMemory;
pub use arch::GuestArch;
pub use irq::{
    Gic, GicVersion, InterruptController, InterruptSink, MsiMessage, MsiSink, NoController, SpiLines,
};
pub use platform::{PlatformBackend, PlatformVcpu};
pub use regs::{
    Arm64FpuRegs, Arm64Regs, Arm64SpecialRegs, DescriptorTable, FpuRegs, GuestRegs, Segment, SpecialRegs,
    X86FpuRegs, X86Regs, X86SpecialRegs,
};

pub use vcpu::{Activity, Kick, SystemEvent, VcpuError, VcpuExit, VcpuOps, VcpuResult};
pub use whole_machine::{MachineEvents, WholeMachine};

/// The backend that a user asks for.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, clap::ValueEnum, serde::Deserialize, serde::Serialize,
)]
#[serde(rename_all = "lowercase")]
pub enum AccelKind {
    /// The fastest that works here.
    #[default]
    Auto,
    /// Linux's KVM.
    Kvm,
    /// macOS's Hypervisor.framework.
    Hvf,
    /// The Windows Hypervisor Platform.
    Whpx,
    /// macOS's Virtualization.framework.
    Vz,
    /// The software x86-64 CPU, which needs no hypervisor.
    Soft,
}

impl fmt::Display for AccelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Hvf => "hvf",
            Self::Whpx => "whpx",
            Self::Vz => "vz",
            Self::Soft => "soft",
        })
    }
}

/// The result of an operation on a backend.
pub type AccelResult<T> = Result<T, AccelError>;

/// Why a backend cannot be used, with the remedy.
#[derive(Debug, Error)]
pub enum AccelError {
    /// The backend does not exist on this host's operating system or processor.
    #[error("{kind} is not available on this platform. {remedy}")]
    NotOnThisPlatform {
        /// The backend.
        kind: AccelKind,
        /// What to do instead.
        remedy: &'static str,
    },
    /// The backend's device or library cannot be opened, or is too old, or lacks something.
    #[error("{what}: {reason}. {remedy}")]
    Unusable {
        /// The device, library or capability.
        what: String,
        /// The reason.
        reason: String,
        /// What to do about it.
        remedy: String,
    },
    /// A call of the host's hypervisor failed.
    #[error("{operation} failed: {source}")]
    Host {
        /// The call, as its documentation names it.
        operation: &'static str,
        /// The host's reason.
        source: io::Error,
    },
    /// The backend runs guests of another architecture.
    #[error("{kind} here runs {runs} guests, and this kernel is for {wanted}. {remedy}")]
    OtherGuest {
        /// The backend.
        kind: AccelKind,
        /// What it runs.
        runs: GuestArch,
        /// What is asked for.
        wanted: GuestArch,
        /// What to do instead.
        remedy: &'static str,
    },
    /// No backend at all is usable; one line for each that was tried.
    #[error("no backend can run this guest here: {}", .0.join("; "))]
    NoneUsable(Vec<String>),
}

/// What a vCPU is made with, beyond its number.
#[derive(Clone)]
pub struct VcpuSetup {
    /// Number of vCPUs in the machine; their ids are 0 to `cpus - 1`.
    pub cpus: u32,
    /// The machine's interrupt controllers, as far as the backend has not got them itself.
    pub interrupts: Arc<dyn InterruptController>,
}

/// What a backend does for a virtual machine. A value of an implementing type is one virtual machine.
///
/// The order of calls: `map_memory` once, then `create_vcpu` for 0 to `cpus - 1`, in this order. vCPU 0
/// starts with the registers that it is given, the others wait for another vCPU to start them: by INIT and a
/// start-up IPI, or by PSCI's `CPU_ON`.
pub trait Accel {
    /// The backend's vCPU.
    type Vcpu: VcpuOps;

    /// Which backend this is; never `Auto`.
    fn kind(&self) -> AccelKind;

    /// The architecture of the guests that it runs.
    fn guest(&self) -> GuestArch;

    /// Maps guest RAM. What lies outside its ranges is MMIO.
    ///
    /// # Errors
    /// When the host refuses.
    fn map_memory(&mut self, memory: &GuestMemory) -> AccelResult<()>;

    /// Creates vCPU `id`.
    ///
    /// # Errors
    /// When the host refuses.
    fn create_vcpu(&mut self, id: u32, setup: &VcpuSetup) -> AccelResult<Self::Vcpu>;

    /// Where the machine's devices send their interrupts.
    fn interrupt_sink(&self) -> InterruptSink;

    /// Whether this backend takes only whole machines, with devices of its own
    /// (Virtualization.framework). All others give vCPUs: the caller makes the machine around them.
    fn takes_whole_machines(&self) -> bool {
        false
    }

    /// Starts the machine that `config` describes, and tells `events` what becomes of it; `None` where the
    /// backend gives vCPUs.
    fn start_machine(
        &mut self,
        config: &VmConfig,
        events: Arc<dyn MachineEvents>,
    ) -> Option<AccelResult<Box<dyn WholeMachine>>> {
        let _ = (config, events);
        None
    }
}

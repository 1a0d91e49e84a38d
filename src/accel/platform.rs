//! The enum over all backends: dispatch without boxes.

use std::sync::Arc;

use super::{
    Accel, AccelError, AccelKind, AccelResult, Activity, FpuRegs, GuestArch, GuestRegs, InterruptSink, Kick,
    MachineEvents, SpecialRegs, VcpuExit, VcpuOps, VcpuResult, VcpuSetup, WholeMachine,
};
use crate::config::VmConfig;
use crate::memory::GuestMemory;

#[cfg(target_os = "macos")]
use super::hvf::{HvfBackend, HvfVcpu};
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
use super::kvm::{KvmBackend, KvmVcpu};
use super::soft::{SoftBackend, SoftVcpu};
#[cfg(target_os = "macos")]
use super::vz::{NoVcpu, VzBackend};
use super::whpx::{WhpxBackend, WhpxVcpu};

/// One virtual machine on whichever backend was asked for.
pub enum PlatformBackend {
    /// Linux's KVM.
    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    Kvm(KvmBackend),
    /// macOS's Hypervisor.framework.
    #[cfg(target_os = "macos")]
    Hvf(HvfBackend),
    /// macOS's Virtualization.framework.
    #[cfg(target_os = "macos")]
    Vz(VzBackend),
    /// The Windows Hypervisor Platform; there is none on other hosts.
    Whpx(WhpxBackend),
    /// The software x86-64 CPU.
    Soft(SoftBackend),
}

/// A vCPU of whichever backend was asked for.
pub enum PlatformVcpu {
    /// KVM's.
    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    Kvm(KvmVcpu),
    /// Hypervisor.framework's.
    #[cfg(target_os = "macos")]
    Hvf(HvfVcpu),
    /// Virtualization.framework's, of which there is none.
    #[cfg(target_os = "macos")]
    Vz(NoVcpu),
    /// WHPX's.
    Whpx(WhpxVcpu),
    /// The software CPU's.
    Soft(SoftVcpu),
}

/// Does the same with whichever variant there is: `each!(self, backend => backend.kind())`.
macro_rules! each {
    ($value:expr, $inner:ident => $do:expr) => {
        match $value {
            #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
            Self::Kvm($inner) => $do,
            #[cfg(target_os = "macos")]
            Self::Hvf($inner) => $do,
            #[cfg(target_os = "macos")]
            Self::Vz($inner) => $do,
            Self::Whpx($inner) => $do,
            Self::Soft($inner) => $do,
        }
    };
}

impl PlatformBackend {
    /// The architecture of the guests that the backend `kind` runs on this host; `None` where it does not
    /// exist, and for `Auto`.
    #[must_use]
    pub fn guest_of(kind: AccelKind) -> Option<GuestArch> {
        match kind {
            #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
            AccelKind::Kvm => Some(super::kvm::GUEST),
            #[cfg(target_os = "macos")]
            AccelKind::Hvf | AccelKind::Vz => Some(super::vz::GUEST),
            AccelKind::Whpx | AccelKind::Soft => Some(GuestArch::X86_64),
            _ => None,
        }
    }

    /// Creates a virtual machine on the backend `kind`; `Auto` takes the fastest that works here and
    /// logs why (`select::choose` tells the reason as a value).
    ///
    /// # Errors
    /// When the backend cannot be used here, with the reason and the remedy.
    pub fn new(kind: AccelKind) -> AccelResult<Self> {
        match kind {
            AccelKind::Auto => {
                let choice = super::select::choose(None)?;
                log::info!("{}", choice.reason);
                Ok(choice.backend)
            }
            AccelKind::Kvm => kvm(),
            AccelKind::Whpx => Ok(Self::Whpx(WhpxBackend::new()?)),
            AccelKind::Soft => Ok(Self::Soft(SoftBackend::new()?)),
            #[cfg(target_os = "macos")]
            AccelKind::Hvf => Ok(Self::Hvf(HvfBackend::new()?)),
            #[cfg(target_os = "macos")]
            AccelKind::Vz => Ok(Self::Vz(VzBackend::new()?)),
            #[cfg(not(target_os = "macos"))]
            AccelKind::Hvf | AccelKind::Vz => {
                Err(AccelError::NotOnThisPlatform { kind, remedy: "It is part of macOS. Use `--accel auto`" })
            }
        }
    }
}

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
fn kvm() -> AccelResult<PlatformBackend> {
    Ok(PlatformBackend::Kvm(KvmBackend::new()?))
}

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
fn kvm() -> AccelResult<PlatformBackend> {
    Err(AccelError::NotOnThisPlatform {
        kind: AccelKind::Kvm,
        remedy: "It is part of Linux on x86-64 and AArch64. Use `--accel auto`",
    })
}

impl Accel for PlatformBackend {
    type Vcpu = PlatformVcpu;

    fn kind(&self) -> AccelKind {
        each!(self, backend => backend.kind())
    }

    fn guest(&self) -> GuestArch {
        each!(self, backend => backend.guest())
    }

    fn map_memory(&mut self, memory: &GuestMemory) -> AccelResult<()> {
        each!(self, backend => backend.map_memory(memory))
    }

    fn create_vcpu(&mut self, id: u32, setup: &VcpuSetup) -> AccelResult<PlatformVcpu> {
        match self {
            #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
            Self::Kvm(backend) => backend.create_vcpu(id, setup).map(PlatformVcpu::Kvm),
            #[cfg(target_os = "macos")]
            Self::Hvf(backend) => backend.create_vcpu(id, setup).map(PlatformVcpu::Hvf),
            #[cfg(target_os = "macos")]
            Self::Vz(backend) => backend.create_vcpu(id, setup).map(PlatformVcpu::Vz),
            Self::Whpx(backend) => backend.create_vcpu(id, setup).map(PlatformVcpu::Whpx),
            Self::Soft(backend) => backend.create_vcpu(id, setup).map(PlatformVcpu::Soft),
        }
    }

    fn interrupt_sink(&self) -> InterruptSink {
        each!(self, backend => backend.interrupt_sink())
    }

    fn takes_whole_machines(&self) -> bool {
        each!(self, backend => backend.takes_whole_machines())
    }

    fn start_machine(
        &mut self,
        config: &VmConfig,
        events: Arc<dyn MachineEvents>,
    ) -> Option<AccelResult<Box<dyn WholeMachine>>> {
        each!(self, backend => backend.start_machine(config, events))
    }
}

impl VcpuOps for PlatformVcpu {
    fn get_id(&self) -> u32 {
        each!(self, vcpu => vcpu.get_id())
    }

    fn run(&mut self) -> VcpuResult<VcpuExit<'_>> {
        each!(self, vcpu => vcpu.run())
    }

    fn get_regs(&self) -> VcpuResult<GuestRegs> {
        each!(self, vcpu => vcpu.get_regs())
    }

    fn set_regs(&mut self, regs: &GuestRegs) -> VcpuResult<()> {
        each!(self, vcpu => vcpu.set_regs(regs))
    }

    fn get_fpu_regs(&self) -> VcpuResult<FpuRegs> {
        each!(self, vcpu => vcpu.get_fpu_regs())
    }

    fn set_fpu_regs(&mut self, regs: &FpuRegs) -> VcpuResult<()> {
        each!(self, vcpu => vcpu.set_fpu_regs(regs))
    }

    fn get_special_regs(&self) -> VcpuResult<SpecialRegs> {
        each!(self, vcpu => vcpu.get_special_regs())
    }

    fn set_special_regs(&mut self, regs: &SpecialRegs) -> VcpuResult<()> {
        each!(self, vcpu => vcpu.set_special_regs(regs))
    }

    fn activity(&self) -> VcpuResult<Activity> {
        each!(self, vcpu => vcpu.activity())
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        each!(self, vcpu => vcpu.kicker())
    }
}

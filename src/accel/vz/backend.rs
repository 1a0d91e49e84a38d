//! The framework as a backend.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::machine::{self, Machine};
use super::plan::{Plan, has_console};
use crate::accel::{
    Accel, AccelError, AccelKind, AccelResult, Activity, FpuRegs, GuestArch, GuestRegs, InterruptSink, Kick,
    MachineEvents, MsiMessage, MsiSink, SpecialRegs, VcpuExit, VcpuOps, VcpuResult, VcpuSetup, WholeMachine,
};
use crate::config::VmConfig;
use crate::memory::GuestMemory;

/// The framework, for one machine.
pub struct VzBackend(());

impl VzBackend {
    /// Checks that the framework can be used.
    ///
    /// # Errors
    /// When this Mac cannot, or macOS denies it.
    pub fn new() -> AccelResult<Self> {
        machine::require_support()?;
        Ok(Self(()))
    }
}

/// The framework gives no vCPUs.
fn no_vcpus() -> AccelError {
    AccelError::Unusable {
        what: "Virtualization.framework".into(),
        reason: "it takes whole machines with devices of its own, so nothing can be added to one".into(),
        remedy: "Use `--accel hvf` or `--accel soft`".into(),
    }
}

/// The vCPU that there is none of.
pub enum NoVcpu {}

impl Accel for VzBackend {
    type Vcpu = NoVcpu;

    fn kind(&self) -> AccelKind {
        AccelKind::Vz
    }

    fn guest(&self) -> GuestArch {
        machine::GUEST
    }

    fn map_memory(&mut self, _memory: &GuestMemory) -> AccelResult<()> {
        Err(no_vcpus())
    }

    fn create_vcpu(&mut self, _id: u32, _setup: &VcpuSetup) -> AccelResult<NoVcpu> {
        Err(no_vcpus())
    }

    fn interrupt_sink(&self) -> InterruptSink {
        InterruptSink::Lapic(Arc::new(Nowhere))
    }

    fn takes_whole_machines(&self) -> bool {
        true
    }

    fn start_machine(
        &mut self,
        config: &VmConfig,
        events: Arc<dyn MachineEvents>,
    ) -> Option<AccelResult<Box<dyn WholeMachine>>> {
        let start = || -> AccelResult<Box<dyn WholeMachine>> {
            Ok(Box::new(Machine::start(&Plan::new(config)?, has_console(config), events)?))
        };
        Some(start())
    }
}

/// Where interrupts of our devices go: there are none beside the framework's own.
struct Nowhere;

impl MsiSink for Nowhere {
    fn signal_msi(&self, _message: MsiMessage) {}
}

impl VcpuOps for NoVcpu {
    fn get_id(&self) -> u32 {
        match *self {}
    }

    fn run(&mut self) -> VcpuResult<VcpuExit<'_>> {
        match *self {}
    }

    fn get_regs(&self) -> VcpuResult<GuestRegs> {
        match *self {}
    }

    fn set_regs(&mut self, _regs: &GuestRegs) -> VcpuResult<()> {
        match *self {}
    }

    fn get_fpu_regs(&self) -> VcpuResult<FpuRegs> {
        match *self {}
    }

    fn set_fpu_regs(&mut self, _regs: &FpuRegs) -> VcpuResult<()> {
        match *self {}
    }

    fn get_special_regs(&self) -> VcpuResult<SpecialRegs> {
        match *self {}
    }

    fn set_special_regs(&mut self, _regs: &SpecialRegs) -> VcpuResult<()> {
        match *self {}
    }

    fn activity(&self) -> VcpuResult<Activity> {
        match *self {}
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        match *self {}
    }
}

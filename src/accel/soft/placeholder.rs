//! Stands in until the vCPU of the software CPU is here: says that it is not.

use std::sync::Arc;

use crate::accel::{
    Accel, AccelError, AccelKind, AccelResult, Activity, FpuRegs, GuestRegs, Kick, MsiSink, SpecialRegs,
    VcpuExit, VcpuOps, VcpuResult, VcpuSetup,
};
use crate::memory::GuestMemory;

/// No backend.
pub enum SoftBackend {}

/// No vCPU.
pub enum SoftVcpu {}

impl SoftBackend {
    /// # Errors
    /// Always.
    pub fn new() -> AccelResult<Self> {
        Err(AccelError::Unusable {
            what: "the software CPU".into(),
            reason: "it is not part of this build".into(),
            remedy: "Use `--accel kvm`".into(),
        })
    }
}

impl Accel for SoftBackend {
    type Vcpu = SoftVcpu;

    fn kind(&self) -> AccelKind {
        match *self {}
    }

    fn map_memory(&mut self, _memory: &GuestMemory) -> AccelResult<()> {
        match *self {}
    }

    fn create_vcpu(&mut self, _id: u32, _setup: &VcpuSetup) -> AccelResult<SoftVcpu> {
        match *self {}
    }

    fn msi_sink(&self) -> Arc<dyn MsiSink> {
        match *self {}
    }
}

impl VcpuOps for SoftVcpu {
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

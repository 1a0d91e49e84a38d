//! One virtual machine of the framework on Apple silicon.

use std::ptr;
use std::sync::Arc;

use super::framework::{FrameworkCpu, FrameworkLines};
use super::machine::{OwnLines, Shared};
use super::vcpu;
use crate::accel::ffi::hvf::arm64::hv_vm_create;
use crate::accel::hvf::error::{HvError, check};
use crate::accel::hvf::virtual_machine::{VirtualMachine, require_support};
use crate::accel::hvf::wakeup::Wakeup;
use crate::accel::{
    Accel, AccelError, AccelKind, AccelResult, Gic, GicVersion, GuestArch, InterruptSink, SpiLines, VcpuSetup,
};
use crate::memory::GuestMemory;

/// A vCPU of the framework.
pub type HvfVcpu = vcpu::HvfVcpu<FrameworkCpu>;

/// One virtual machine of the framework.
pub struct HvfBackend {
    vm: VirtualMachine,
    shared: Arc<Shared>,
    lines: Arc<dyn SpiLines>,
    framework_has_gic: bool,
}

impl HvfBackend {
    /// Creates the process's virtual machine, with the framework's GIC where macOS has it.
    ///
    /// # Errors
    /// When this Mac cannot, or macOS denies it.
    pub fn new() -> AccelResult<Self> {
        require_support()?;
        // SAFETY: a null configuration is the default one.
        let code = unsafe { hv_vm_create(ptr::null_mut()) };
        check("hv_vm_create", code).map_err(HvError::of_creation)?;
        let vm = VirtualMachine::created();
        let shared = Arc::new(Shared::default());
        let (lines, framework_has_gic): (Arc<dyn SpiLines>, bool) = match FrameworkLines::create(&shared)? {
            Some(lines) => (Arc::new(lines), true),
            None => (Arc::new(OwnLines(Arc::clone(&shared))), false),
        };
        Ok(Self { vm, shared, lines, framework_has_gic })
    }
}

impl Accel for HvfBackend {
    type Vcpu = HvfVcpu;

    fn kind(&self) -> AccelKind {
        AccelKind::Hvf
    }

    fn guest(&self) -> GuestArch {
        GuestArch::Aarch64
    }

    fn map_memory(&mut self, memory: &GuestMemory) -> AccelResult<()> {
        self.vm.map(memory)
    }

    fn create_vcpu(&mut self, id: u32, setup: &VcpuSetup) -> AccelResult<HvfVcpu> {
        let Some(memory) = self.vm.memory() else {
            return Err(AccelError::Unusable {
                what: "the virtual machine".into(),
                reason: "it has no memory".into(),
                remedy: "Map memory before the first vCPU".into(),
            });
        };
        self.shared.make(setup.cpus, self.framework_has_gic, memory);
        let wakeup = Arc::new(Wakeup::default());
        self.shared.add(Arc::clone(&wakeup));
        let cpu = FrameworkCpu::new(id, Arc::clone(&wakeup));
        Ok(HvfVcpu::new(id, cpu, Arc::clone(&self.shared), wakeup))
    }

    fn interrupt_sink(&self) -> InterruptSink {
        InterruptSink::Gic(Gic { version: GicVersion::V3, lines: Arc::clone(&self.lines) })
    }
}

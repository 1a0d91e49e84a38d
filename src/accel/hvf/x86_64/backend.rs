//! One virtual machine of the framework on Intel.

use std::arch::x86_64::__cpuid_count;
use std::sync::Arc;
use std::time::Instant;

use super::cpuid::Leaf;
use super::framework::FrameworkCpu;
use super::vcpu::{self, Parts};
use crate::accel::ffi::hvf::x86_64::hv_vm_create;
use crate::accel::hvf::error::{HvError, check};
use crate::accel::hvf::virtual_machine::{VirtualMachine, require_support};
use crate::accel::hvf::wakeup::Wakeup;
use crate::accel::soft::Alarm;
use crate::accel::{Accel, AccelError, AccelKind, AccelResult, GuestArch, InterruptSink, MsiSink, VcpuSetup};
use crate::devices::irqchip::lapic::{ApicBus, LapicSetup};
use crate::devices::timer::HostClock;
use crate::memory::GuestMemory;

/// A vCPU of the framework.
pub type HvfVcpu = vcpu::HvfVcpu<FrameworkCpu>;

/// One virtual machine of the framework. The local APICs are ours.
pub struct HvfBackend {
    vm: VirtualMachine,
    apics: Arc<ApicBus>,
    alarm: Arc<Alarm>,
}

impl HvfBackend {
    /// Creates the process's virtual machine.
    ///
    /// # Errors
    /// When this Mac cannot, or macOS denies it.
    pub fn new() -> AccelResult<Self> {
        require_support()?;
        // SAFETY: no preconditions.
        check("hv_vm_create", unsafe { hv_vm_create(0) }).map_err(HvError::of_creation)?;
        let vm = VirtualMachine::created();
        let alarm = Arc::new(Alarm::default());
        let watched = Arc::clone(&alarm);
        std::thread::Builder::new()
            .name("apic-timers".into())
            .spawn(move || watched.watch())
            .map_err(|source| AccelError::Host { operation: "starting a thread", source })?;
        Ok(Self { vm, apics: ApicBus::new(), alarm })
    }
}

impl Drop for HvfBackend {
    fn drop(&mut self) {
        self.alarm.end();
    }
}

/// CPUID of this processor.
fn host_cpuid(leaf: u32, subleaf: u32) -> Leaf {
    let answer = __cpuid_count(leaf, subleaf);
    Leaf { eax: answer.eax, ebx: answer.ebx, ecx: answer.ecx, edx: answer.edx }
}

impl Accel for HvfBackend {
    type Vcpu = HvfVcpu;

    fn kind(&self) -> AccelKind {
        AccelKind::Hvf
    }

    fn guest(&self) -> GuestArch {
        GuestArch::X86_64
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
        let wakeup = Arc::new(Wakeup::default());
        let (woken, alarm) = (Arc::clone(&wakeup), Arc::clone(&self.alarm));
        let lapic = self.apics.add(LapicSetup {
            id,
            is_bsp: id == 0,
            clock: Arc::new(HostClock),
            // CPUID shows no TSC-deadline mode, and its MSR faults.
            tsc: Arc::new(|_| None::<Instant>),
            interrupts: Arc::clone(&setup.interrupts),
            wake: Arc::new(move || woken.ring()),
            timer_changed: Arc::new(move || alarm.changed()),
        });
        self.alarm.add(&lapic);
        Ok(HvfVcpu::new(Parts {
            id,
            cpus: setup.cpus,
            cpu: FrameworkCpu::new(id, Arc::clone(&wakeup)),
            wakeup,
            lapic,
            interrupts: Arc::clone(&setup.interrupts),
            memory: memory.clone(),
            host_cpuid,
        }))
    }

    fn interrupt_sink(&self) -> InterruptSink {
        InterruptSink::Lapic(Arc::clone(&self.apics) as Arc<dyn MsiSink>)
    }
}

//! What a virtual machine has beside its memory: its LAPICs, and the CPUID leaves of its vCPUs.

use std::sync::Arc;

use kvm_bindings::{
    CpuId, KVM_CAP_SPLIT_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_MAX_CPUID_ENTRIES, KvmIrqRouting, kvm_enable_cap,
    kvm_irq_routing_entry, kvm_msi,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};

use super::super::host;
use super::KvmVcpu;
use crate::accel::{AccelResult, GuestArch, InterruptSink, MsiMessage, MsiSink, VcpuSetup};
use crate::memory::GuestMemory;

/// What this KVM's guests are.
pub const GUEST: GuestArch = GuestArch::X86_64;
/// What to do where there is no KVM.
pub const HOW_TO_HAVE_KVM: &str = "Enable virtualization (VT-x or AMD-V) in the firmware, or nested \
     virtualization of the outer machine, and load the module (`sudo modprobe kvm_intel` or `kvm_amd`); or \
     use `--accel soft`";
/// Pins of our IOAPIC: KVM reserves as many routes for level-triggered lines.
const IOAPIC_PINS: u64 = 24;
/// What the machine needs of KVM.
pub const REQUIRED: [(Cap, &str); 6] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SplitIrqchip, "KVM_CAP_SPLIT_IRQCHIP"),
    (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// What a virtual machine has beside its memory.
pub struct Platform {
    kvm: Kvm,
    /// The CPUID leaves that KVM supports; asked for once, because it takes as long as making the VM.
    cpuid: Option<CpuId>,
}

impl Platform {
    /// Gives a fresh virtual machine its LAPICs.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn new(kvm: Kvm, vm: &VmFd) -> AccelResult<Self> {
        let split =
            kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, args: [IOAPIC_PINS, 0, 0, 0], ..Default::default() };
        vm.enable_cap(&split).map_err(host("KVM_ENABLE_CAP(KVM_CAP_SPLIT_IRQCHIP)"))?;
        Ok(Self { kvm, cpuid: None })
    }

    /// Makes a vCPU of one that KVM has just created.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn finish_vcpu(
        &mut self,
        id: u32,
        fd: VcpuFd,
        setup: &VcpuSetup,
        memory: Option<GuestMemory>,
    ) -> AccelResult<KvmVcpu> {
        let supported = self.supported_cpuid()?;
        let deadline_timer = self.kvm.check_extension(Cap::TscDeadlineTimer);
        KvmVcpu::new(id, fd, supported, deadline_timer, setup, memory)
    }

    /// The LAPICs.
    pub fn interrupt_sink(&self, vm: &Arc<VmFd>) -> InterruptSink {
        InterruptSink::Lapic(Arc::new(KvmMsi(Arc::clone(vm))))
    }

    /// The CPUID leaves that KVM supports.
    fn supported_cpuid(&mut self) -> AccelResult<CpuId> {
        if let Some(cpuid) = &self.cpuid {
            return Ok(cpuid.clone());
        }
        let cpuid =
            self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(host("KVM_GET_SUPPORTED_CPUID"))?;
        self.cpuid = Some(cpuid.clone());
        Ok(cpuid)
    }
}

/// Hands interrupt messages to KVM's LAPICs.
struct KvmMsi(Arc<VmFd>);

impl MsiSink for KvmMsi {
    fn signal_msi(&self, message: MsiMessage) {
        let msi = kvm_msi {
            address_lo: message.address as u32,
            address_hi: (message.address >> 32) as u32,
            data: message.data,
            ..Default::default()
        };
        if let Err(e) = self.0.signal_msi(msi) {
            log::debug!("KVM_SIGNAL_MSI of {message:x?} failed: {e}");
        }
    }

    fn level_routes_changed(&self, routes: &[MsiMessage]) {
        let entries: Vec<_> = (0..)
            .zip(routes)
            .map(|(gsi, message)| {
                let mut entry =
                    kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
                entry.u.msi.address_lo = message.address as u32;
                entry.u.msi.address_hi = (message.address >> 32) as u32;
                entry.u.msi.data = message.data;
                entry
            })
            .collect();
        let result = KvmIrqRouting::from_entries(&entries)
            .map_err(|e| format!("{e:?}"))
            .and_then(|table| self.0.set_gsi_routing(&table).map_err(|e| e.to_string()));
        if let Err(e) = result {
            log::warn!("KVM_SET_GSI_ROUTING failed, level-triggered interrupts may stall: {e}");
        }
    }
}

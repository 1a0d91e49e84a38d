//! The KVM backend: one virtual machine of Linux's hypervisor.
//!
//! KVM emulates the LAPICs only (`KVM_CAP_SPLIT_IRQCHIP`); the IOAPIC, the PICs and the PIT are ours.
//! Nothing is ever registered on KVM's in-kernel I/O bus, because that makes a short run pay many
//! milliseconds.

mod kick;
mod x86_64;

use std::io;
use std::sync::Arc;

use kvm_bindings::{
    CpuId, KVM_API_VERSION, KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES, kvm_enable_cap,
    kvm_irq_routing_entry, kvm_msi, kvm_userspace_memory_region,
};
use kvm_bindings::{KVM_IRQ_ROUTING_MSI, KvmIrqRouting};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use super::{Accel, AccelError, AccelKind, AccelResult, MsiMessage, MsiSink, VcpuSetup};
use crate::memory::GuestMemory;
pub use x86_64::KvmVcpu;

/// The device that KVM is.
const DEVICE: &str = "/dev/kvm";
/// Pins of our IOAPIC: KVM reserves as many routes for level-triggered lines.
const IOAPIC_PINS: u64 = 24;
/// What the machine needs of KVM.
const REQUIRED: [(Cap, &str); 6] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SplitIrqchip, "KVM_CAP_SPLIT_IRQCHIP"),
    (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// A failed call of KVM.
fn host(operation: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> AccelError {
    move |error| AccelError::Host { operation, source: error.into() }
}

/// Why `/dev/kvm` cannot be opened, with the remedy.
fn open_error(error: &io::Error) -> AccelError {
    let remedy = match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            "Enable virtualization (VT-x or AMD-V) in the firmware, or nested virtualization of the outer \
             machine, and load the module (`sudo modprobe kvm_intel` or `kvm_amd`); or use `--accel soft`"
        }
        Some(libc::EACCES | libc::EPERM) => {
            "Add yourself to the group `kvm` (`sudo usermod -aG kvm $USER`, then log in again) or run \
             `sudo setfacl -m u:$USER:rw /dev/kvm`; or use `--accel soft`"
        }
        Some(libc::EBUSY) => "Another hypervisor holds the processor: stop it; or use `--accel soft`",
        _ => "Use `--accel soft`",
    };
    AccelError::Unusable {
        what: format!("cannot open {DEVICE}"),
        reason: os_text(error),
        remedy: remedy.into(),
    }
}

/// An error of the host without Rust's "(os error N)".
fn os_text(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// Opens KVM and checks that it has what the machine needs.
fn open() -> AccelResult<Kvm> {
    let kvm = Kvm::new().map_err(|e| open_error(&e.into()))?;
    let version = kvm.get_api_version();
    if u32::try_from(version) != Ok(KVM_API_VERSION) {
        return Err(AccelError::Unusable {
            what: format!("{DEVICE} speaks version {version} of KVM's API"),
            reason: format!("version {KVM_API_VERSION} is needed"),
            remedy: "Update the host's kernel; or use `--accel soft`".into(),
        });
    }
    for (cap, name) in REQUIRED {
        if !kvm.check_extension(cap) {
            return Err(AccelError::Unusable {
                what: format!("{DEVICE} lacks {name}"),
                reason: "the host's kernel is too old or its KVM is restricted".into(),
                remedy: "Use Linux 4.12 or newer; or use `--accel soft`".into(),
            });
        }
    }
    Ok(kvm)
}

/// One virtual machine of KVM.
pub struct KvmBackend {
    // Declared, and therefore dropped, before `memory`: KVM must not hold a slot whose mapping is gone.
    vm: Arc<VmFd>,
    kvm: Kvm,
    /// The CPUID leaves that KVM supports; asked for once, because it takes as long as making the VM.
    cpuid: Option<CpuId>,
    memory: Option<GuestMemory>,
}

impl KvmBackend {
    /// Opens KVM and creates an empty virtual machine.
    ///
    /// # Errors
    /// When the device cannot be opened, is too old or lacks a capability; each with its remedy.
    pub fn new() -> AccelResult<Self> {
        let kvm = open()?;
        let vm = create_vm(&kvm)?;
        let split =
            kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, args: [IOAPIC_PINS, 0, 0, 0], ..Default::default() };
        vm.enable_cap(&split).map_err(host("KVM_ENABLE_CAP(KVM_CAP_SPLIT_IRQCHIP)"))?;
        Ok(Self { vm: Arc::new(vm), kvm, cpuid: None, memory: None })
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

/// `KVM_CREATE_VM`, again when a signal interrupts it.
fn create_vm(kvm: &Kvm) -> AccelResult<VmFd> {
    loop {
        match kvm.create_vm() {
            Err(e) if e.errno() == libc::EINTR => {}
            result => return result.map_err(host("KVM_CREATE_VM")),
        }
    }
}

impl Accel for KvmBackend {
    type Vcpu = KvmVcpu;

    fn kind(&self) -> AccelKind {
        AccelKind::Kvm
    }

    fn map_memory(&mut self, memory: &GuestMemory) -> AccelResult<()> {
        for (slot, region) in (0..).zip(memory.iter()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the mapping is `memory`'s, which this value keeps alive for longer than the VM.
            unsafe { self.vm.set_user_memory_region(region) }.map_err(host("KVM_SET_USER_MEMORY_REGION"))?;
        }
        self.memory = Some(memory.clone());
        Ok(())
    }

    fn create_vcpu(&mut self, id: u32, setup: &VcpuSetup) -> AccelResult<KvmVcpu> {
        let fd = self.vm.create_vcpu(u64::from(id)).map_err(host("KVM_CREATE_VCPU"))?;
        let supported = self.supported_cpuid()?;
        let deadline_timer = self.kvm.check_extension(Cap::TscDeadlineTimer);
        KvmVcpu::new(id, fd, supported, deadline_timer, setup, self.memory.clone())
    }

    fn msi_sink(&self) -> Arc<dyn MsiSink> {
        Arc::new(KvmMsi(Arc::clone(&self.vm)))
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

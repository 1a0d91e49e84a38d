//! The KVM backend: one virtual machine of Linux's hypervisor.
//!
//! What all architectures share is here; the rest is in a module for each, which has the same names:
//! `GUEST`, `REQUIRED`, `Platform` (what a virtual machine has beside its memory) and `KvmVcpu`.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod kick;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::io;
use std::sync::Arc;

use kvm_bindings::{KVM_API_VERSION, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use super::{Accel, AccelError, AccelKind, AccelResult, GuestArch, InterruptSink, VcpuSetup};
use crate::memory::GuestMemory;
#[cfg(target_arch = "aarch64")]
use aarch64 as arch;
pub use arch::{GUEST, KvmVcpu};
#[cfg(target_arch = "x86_64")]
use x86_64 as arch;

/// The device that KVM is.
const DEVICE: &str = "/dev/kvm";

/// A failed call of KVM.
fn host(operation: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> AccelError {
    move |error| AccelError::Host { operation, source: error.into() }
}

/// Why `/dev/kvm` cannot be opened, with the remedy.
fn open_error(error: &io::Error) -> AccelError {
    let remedy = match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => arch::HOW_TO_HAVE_KVM,
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
    for (cap, name) in arch::REQUIRED {
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
    platform: arch::Platform,
    memory: Option<GuestMemory>,
}

impl KvmBackend {
    /// Opens KVM and creates an empty virtual machine.
    ///
    /// # Errors
    /// When the device cannot be opened, is too old or lacks a capability; each with its remedy.
    pub fn new() -> AccelResult<Self> {
        let kvm = open()?;
        let vm = Arc::new(create_vm(&kvm)?);
        let platform = arch::Platform::new(kvm, &vm)?;
        Ok(Self { vm, platform, memory: None })
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

    fn guest(&self) -> GuestArch {
        GUEST
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
        self.platform.finish_vcpu(id, fd, setup, self.memory.clone())
    }

    fn interrupt_sink(&self) -> InterruptSink {
        self.platform.interrupt_sink(&self.vm)
    }
}

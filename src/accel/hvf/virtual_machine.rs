//! The process's virtual machine in the framework, and its memory.

use std::ffi::c_void;

use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use super::error::check;
use crate::accel::ffi::hvf::{HV_MEMORY_EXEC, HV_MEMORY_READ, HV_MEMORY_WRITE, hv_vm_destroy, hv_vm_map};
use crate::accel::{AccelError, AccelResult};
use crate::memory::GuestMemory;

/// The process's virtual machine, which is the only one that it can have. It ends with this value.
pub struct VirtualMachine {
    memory: Option<GuestMemory>,
}

impl VirtualMachine {
    /// Takes over the virtual machine that `hv_vm_create` has just made.
    #[must_use]
    pub fn created() -> Self {
        Self { memory: None }
    }

    /// Maps guest RAM, and keeps it for as long as the virtual machine.
    ///
    /// # Errors
    /// When the framework refuses.
    pub fn map(&mut self, memory: &GuestMemory) -> AccelResult<()> {
        for region in memory.iter() {
            let bytes = usize::try_from(region.len()).map_err(|_| AccelError::Unusable {
                what: "guest memory".into(),
                reason: format!("{} bytes do not fit the address space", region.len()),
                remedy: "Give the guest less with `--memory`".into(),
            })?;
            let flags = HV_MEMORY_READ | HV_MEMORY_WRITE | HV_MEMORY_EXEC;
            // SAFETY: the mapping is `memory`'s, of which this value keeps a handle until the virtual
            // machine has ended. Only the guest and the accessors of `vm-memory` use it.
            let code = unsafe {
                hv_vm_map(region.as_ptr().cast::<c_void>(), region.start_addr().raw_value(), bytes, flags)
            };
            check("hv_vm_map", code)?;
        }
        self.memory = Some(memory.clone());
        Ok(())
    }

    /// The memory that is mapped.
    #[must_use]
    pub fn memory(&self) -> Option<&GuestMemory> {
        self.memory.as_ref()
    }
}

impl Drop for VirtualMachine {
    fn drop(&mut self) {
        // SAFETY: the virtual machine exists, and the vCPUs have gone before the backend.
        let code = unsafe { hv_vm_destroy() };
        if let Err(error) = check("hv_vm_destroy", code) {
            log::warn!("{error}");
        }
    }
}

/// Checks that this Mac has a hypervisor.
///
/// # Errors
/// When `kern.hv_support` is 0 or absent.
pub fn require_support() -> AccelResult<()> {
    let mut value: libc::c_int = 0;
    let mut size = size_of::<libc::c_int>();
    // SAFETY: the name ends with a zero byte, `value` is valid for writes of `size` bytes, and nothing is set.
    let result = unsafe {
        libc::sysctlbyname(
            c"kern.hv_support".as_ptr(),
            (&raw mut value).cast::<c_void>(),
            &raw mut size,
            std::ptr::null_mut(),
            0,
        )
    };
    if result == 0 && value != 0 {
        return Ok(());
    }
    Err(AccelError::Unusable {
        what: "Hypervisor.framework".into(),
        reason:
            "`sysctl kern.hv_support` is not 1: this Mac's processor has no hypervisor, or macOS runs in \
                 a virtual machine without a nested one"
                .into(),
        remedy: "Use `--accel soft`".into(),
    })
}

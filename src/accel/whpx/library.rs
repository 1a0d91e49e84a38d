//! Finds `WinHvPlatform.dll`, which exists only where the Windows feature is switched on.

use crate::accel::AccelResult;
use crate::accel::ffi::whpx::Functions;

/// What to do where the platform is absent.
pub(super) const REMEDY: &str = "Switch on the Windows feature `Windows Hypervisor Platform` (as administrator: \
     `DISM /Online /Enable-Feature /FeatureName:HypervisorPlatform /All`), then restart; or use `--accel soft`";

/// The library's functions, loaded once a process.
///
/// # Errors
/// When it is absent or too old, with the remedy.
#[cfg(all(windows, target_arch = "x86_64"))]
pub fn load() -> AccelResult<&'static Functions> {
    use std::sync::OnceLock;

    static LOADED: OnceLock<Result<Functions, String>> = OnceLock::new();
    LOADED.get_or_init(windows::functions).as_ref().map_err(|reason| crate::accel::AccelError::Unusable {
        what: "WinHvPlatform.dll".into(),
        reason: reason.clone(),
        remedy: REMEDY.into(),
    })
}

/// There is no such library on this host.
///
/// # Errors
/// Always.
#[cfg(not(all(windows, target_arch = "x86_64")))]
pub fn load() -> AccelResult<&'static Functions> {
    Err(crate::accel::AccelError::NotOnThisPlatform {
        kind: crate::accel::AccelKind::Whpx,
        remedy: "It is part of Windows on x86-64. Use `--accel auto`",
    })
}

#[cfg(all(windows, target_arch = "x86_64"))]
mod windows {
    use std::io;
    use std::mem::transmute_copy;
    use std::ptr;

    use windows_sys::Win32::Foundation::HMODULE;
    use windows_sys::Win32::System::LibraryLoader::{
        GetProcAddress, LOAD_LIBRARY_SEARCH_APPLICATION_DIR, LOAD_LIBRARY_SEARCH_SYSTEM32, LoadLibraryExW,
    };
    use windows_sys::w;

    use super::Functions;

    /// Loads the library from the system's or the program's folder, and never from the current one.
    pub(super) fn functions() -> Result<Functions, String> {
        let from = LOAD_LIBRARY_SEARCH_APPLICATION_DIR | LOAD_LIBRARY_SEARCH_SYSTEM32;
        // SAFETY: the name ends with a null. What the library does when it is loaded is the system's.
        let library = unsafe { LoadLibraryExW(w!("WinHvPlatform.dll"), ptr::null_mut(), from) };
        if library.is_null() {
            return Err(format!("it cannot be loaded: {}", io::Error::last_os_error()));
        }
        Ok(Functions {
            get_capability: find(library, c"WHvGetCapability")?,
            create_partition: find(library, c"WHvCreatePartition")?,
            setup_partition: find(library, c"WHvSetupPartition")?,
            delete_partition: find(library, c"WHvDeletePartition")?,
            set_partition_property: find(library, c"WHvSetPartitionProperty")?,
            map_gpa_range: find(library, c"WHvMapGpaRange")?,
            create_virtual_processor: find(library, c"WHvCreateVirtualProcessor")?,
            delete_virtual_processor: find(library, c"WHvDeleteVirtualProcessor")?,
            run_virtual_processor: find(library, c"WHvRunVirtualProcessor")?,
            cancel_run_virtual_processor: find(library, c"WHvCancelRunVirtualProcessor")?,
            get_virtual_processor_registers: find(library, c"WHvGetVirtualProcessorRegisters")?,
            set_virtual_processor_registers: find(library, c"WHvSetVirtualProcessorRegisters")?,
            request_interrupt: find(library, c"WHvRequestInterrupt")?,
        })
    }

    /// The function called `name`. `F` is its type in `ffi::whpx`.
    fn find<F: Copy>(library: HMODULE, name: &std::ffi::CStr) -> Result<F, String> {
        const { assert!(size_of::<F>() == size_of::<usize>()) };
        // SAFETY: the library is loaded and never freed; the name ends with a null.
        let address = unsafe { GetProcAddress(library, name.as_ptr().cast()) };
        let address =
            address.ok_or_else(|| format!("it lacks {}: this Windows is too old", name.to_string_lossy()))?;
        // SAFETY: the SDK declares the function of this name with the type that the caller stores it as.
        Ok(unsafe { transmute_copy(&address) })
    }
}

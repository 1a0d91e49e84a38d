//! What the framework's error codes mean, and what to do about them.

#![forbid(unsafe_code)]

use std::io;

use thiserror::Error;

use crate::accel::ffi::hvf::{
    HV_BAD_ARGUMENT, HV_BUSY, HV_DENIED, HV_ERROR, HV_EXISTS_OR_FAULT, HV_ILLEGAL_GUEST_STATE, HV_NO_DEVICE,
    HV_NO_RESOURCES, HV_SUCCESS, HV_UNSUPPORTED, HvReturn,
};
use crate::accel::{AccelError, VcpuError};

/// The result of a call of the framework.
pub type HvResult<T> = Result<T, HvError>;

/// A call of the framework that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{operation}: {}", describe(*code))]
pub struct HvError {
    /// The call.
    pub operation: &'static str,
    /// What it returned.
    pub code: HvReturn,
}

/// The result of the call `operation` that returned `code`.
///
/// # Errors
/// When the code is not `HV_SUCCESS`.
pub fn check(operation: &'static str, code: HvReturn) -> HvResult<()> {
    if code == HV_SUCCESS { Ok(()) } else { Err(HvError { operation, code }) }
}

/// A code in words.
fn describe(code: HvReturn) -> String {
    let (name, words) = match code {
        HV_ERROR => ("HV_ERROR", "the hypervisor failed"),
        HV_BUSY => ("HV_BUSY", "this process has a virtual machine already"),
        HV_BAD_ARGUMENT => ("HV_BAD_ARGUMENT", "an argument cannot be"),
        HV_ILLEGAL_GUEST_STATE => ("HV_ILLEGAL_GUEST_STATE", "the guest's state cannot be entered"),
        HV_NO_RESOURCES => ("HV_NO_RESOURCES", "the host has run out of something"),
        HV_NO_DEVICE => ("HV_NO_DEVICE", "there is no such virtual machine or vCPU"),
        HV_DENIED => ("HV_DENIED", "macOS denies it"),
        HV_EXISTS_OR_FAULT => ("HV_EXISTS or HV_FAULT", "it exists already, or a pointer is bad"),
        HV_UNSUPPORTED => ("HV_UNSUPPORTED", "this Mac or this macOS cannot"),
        other => return format!("error {other:#x}"),
    };
    format!("{words} ({name})")
}

impl HvError {
    /// As the host's reason.
    fn source(self) -> io::Error {
        let kind = match self.code {
            HV_DENIED => io::ErrorKind::PermissionDenied,
            HV_BUSY => io::ErrorKind::ResourceBusy,
            HV_BAD_ARGUMENT => io::ErrorKind::InvalidInput,
            HV_NO_RESOURCES => io::ErrorKind::OutOfMemory,
            HV_UNSUPPORTED => io::ErrorKind::Unsupported,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, describe(self.code))
    }

    /// As the failure of vCPU `id`.
    #[must_use]
    pub fn of_vcpu(self, id: u32) -> VcpuError {
        VcpuError::Host { id, operation: self.operation, source: self.source() }
    }

    /// As the failure of `hv_vm_create`, which is where a missing permission shows.
    #[must_use]
    pub fn of_creation(self) -> AccelError {
        let remedy = match self.code {
            HV_DENIED => {
                "Sign the program with the entitlement com.apple.security.hypervisor: `codesign --sign - \
                 --force --entitlements docs/vm-accel.entitlements PATH/TO/vm-accel`; or use `--accel soft`"
            }
            HV_UNSUPPORTED => {
                "This Mac has no hypervisor, or macOS runs in a virtual machine without a nested one: use \
                 `--accel soft`"
            }
            HV_NO_RESOURCES => "End other virtual machines on this Mac; or use `--accel soft`",
            _ => "Use `--accel soft`",
        };
        AccelError::Unusable {
            what: "Hypervisor.framework gives no virtual machine".into(),
            reason: self.to_string(),
            remedy: remedy.into(),
        }
    }
}

impl From<HvError> for AccelError {
    fn from(error: HvError) -> Self {
        Self::Host { operation: error.operation, source: error.source() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_is_no_error() {
        assert_eq!(check("hv_vcpu_run", 0), Ok(()));
    }

    #[test]
    fn codes_are_named() {
        // As `<Hypervisor/hv_error.h>` numbers them.
        for (code, name) in [
            (0xfae9_4001_u32, "HV_ERROR"),
            (0xfae9_4002, "HV_BUSY"),
            (0xfae9_4003, "HV_BAD_ARGUMENT"),
            (0xfae9_4004, "HV_ILLEGAL_GUEST_STATE"),
            (0xfae9_4005, "HV_NO_RESOURCES"),
            (0xfae9_4006, "HV_NO_DEVICE"),
            (0xfae9_4007, "HV_DENIED"),
            (0xfae9_4008, "HV_EXISTS or HV_FAULT"),
            (0xfae9_400f, "HV_UNSUPPORTED"),
        ] {
            let error = check("hv_vm_map", code as i32).unwrap_err();
            assert!(error.to_string().ends_with(&format!("({name})")), "{error}");
        }
        let error = check("hv_vm_map", 0x1234).unwrap_err();
        assert_eq!(error.of_vcpu(3).to_string(), "hv_vm_map failed on vCPU 3: error 0x1234");
    }

    #[test]
    fn a_missing_entitlement_names_the_codesign_line() {
        let error = check("hv_vm_create", 0xfae9_4007_u32 as i32).unwrap_err().of_creation().to_string();
        assert!(error.contains("codesign") && error.contains("com.apple.security.hypervisor"), "{error}");
        assert!(!error.contains('\n'));
    }
}

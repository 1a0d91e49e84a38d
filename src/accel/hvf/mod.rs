//! The HVF backend: macOS's Hypervisor.framework.
//!
//! What is plain code (exits, registers, PSCI, VMCS fields) is compiled for tests on every host; what calls the
//! framework is compiled on macOS only.

#[cfg(any(test, target_arch = "aarch64"))]
pub mod arm64;
pub mod error;
#[cfg(target_os = "macos")]
mod virtual_machine;
pub mod wakeup;
#[cfg(any(test, target_arch = "x86_64"))]
pub mod x86_64;

#[cfg(all(target_os = "macos", target_arch = "aarch64"))]
pub use arm64::{HvfBackend, HvfVcpu};
#[cfg(all(target_os = "macos", target_arch = "x86_64"))]
pub use x86_64::{HvfBackend, HvfVcpu};

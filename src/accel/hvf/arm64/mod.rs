//! The HVF backend on Apple silicon: AArch64 guests.
//!
//! The framework gives vCPUs, the virtual timer and, from macOS 15 on, a GICv3. PSCI is ours, and so is the GIC
//! on older systems. Everything but [`framework`] and [`backend`] is plain code over the trait [`cpu::Cpu`].

#[cfg(target_os = "macos")]
mod backend;
pub mod cpu;
#[cfg(target_os = "macos")]
mod framework;
pub mod inject;
pub mod machine;
pub mod psci;
pub mod registers;
pub mod syndrome;
#[cfg(test)]
mod testing;
pub mod traps;
pub mod vcpu;
#[cfg(test)]
mod vcpu_tests;

#[cfg(target_os = "macos")]
pub use backend::{HvfBackend, HvfVcpu};

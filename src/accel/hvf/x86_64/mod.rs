//! The HVF backend on Intel: x86-64 guests.
//!
//! The framework gives VMX itself: the VMCS with its exits. The local APIC is ours, and what an exit leaves
//! half done (memory-mapped and string I/O) the software CPU finishes. Everything but [`framework`] and
//! [`backend`] is plain code over the trait [`cpu::Cpu`].

#[cfg(target_os = "macos")]
mod backend;
pub mod controls;
pub mod cpu;
pub mod cpuid;
pub mod exit;
#[cfg(target_os = "macos")]
mod framework;
pub mod msr;
pub mod registers;
#[cfg(test)]
mod testing;
pub mod vcpu;
#[cfg(test)]
mod vcpu_tests;
pub mod vmcs;

#[cfg(target_os = "macos")]
pub use backend::{HvfBackend, HvfVcpu};

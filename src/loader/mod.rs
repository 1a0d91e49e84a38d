//! Puts a kernel into guest memory and says in which state the boot processor starts.
//!
//! A loader answers with a neutral `BootState`; it touches no vCPU and no device.

use crate::accel::{GuestRegs, SpecialRegs};

/// The state in which the boot processor starts, and what is known of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootState {
    /// General registers.
    pub regs: GuestRegs,
    /// Segment, control and system registers.
    pub special: SpecialRegs,
    /// How the kernel is booted, in words: "bzImage, vmlinux inside through its PVH note".
    pub protocol: String,
    /// The kernel's version string, where the file has one.
    pub version: Option<String>,
}

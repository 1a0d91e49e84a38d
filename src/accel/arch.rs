//! The architecture of a guest. It is a kernel's property and not the host's: one host can run guests of
//! two, its hypervisor's own and the software CPU's x86-64.

#![forbid(unsafe_code)]

use std::fmt;

/// A guest's architecture, which decides on its machine, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
pub enum GuestArch {
    /// x86-64 with all the modes before it; the machine is a PC.
    #[serde(rename = "x86-64")]
    X86_64,
    /// AArch64; the machine is described by a device tree.
    #[serde(rename = "aarch64")]
    Aarch64,
}

impl fmt::Display for GuestArch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86-64",
            Self::Aarch64 => "AArch64",
        })
    }
}

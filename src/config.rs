//! What a run is made of: the TOML file and the flags, validated.

use std::path::PathBuf;
use std::time::Duration;

use crate::accel::AccelKind;

/// Where the kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelSource {
    /// The guest that is built into the binary.
    Builtin,
    /// A file; its format is found out by its content.
    File(PathBuf),
}

/// How a flat binary is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlatMode {
    /// 16-bit real mode.
    Real,
    /// 64-bit long mode, memory identity-mapped.
    Long,
}

/// A flat binary's load address, which is also its entry point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flat {
    /// Guest-physical address.
    pub address: u64,
    /// Mode of the boot processor.
    pub mode: FlatMode,
}

/// Where a serial port's output goes and its input comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SerialBackend {
    /// The terminal: stdout and stdin.
    Stdio,
    /// A file, output only; replaced if it exists.
    File(PathBuf),
    /// Nowhere.
    Null,
}

/// A file that a Multiboot kernel gets as a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// The file.
    pub path: PathBuf,
    /// The string that goes with it.
    pub cmdline: String,
}

/// Everything that a run needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmConfig {
    /// Kernel.
    pub kernel: KernelSource,
    /// Initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Kernel command line.
    pub cmdline: String,
    /// Multiboot modules.
    pub modules: Vec<Module>,
    /// Start the kernel as a flat binary.
    pub flat: Option<Flat>,
    /// Decompress a bzImage on the host and boot the vmlinux inside.
    pub decompress: bool,
    /// RAM in bytes.
    pub memory: u64,
    /// Number of vCPUs.
    pub cpus: u32,
    /// Backend.
    pub accel: AccelKind,
    /// COM1 to COM4; a port that is `None` does not exist.
    pub serial: [Option<SerialBackend>; 4],
    /// End the run after this time.
    pub timeout: Option<Duration>,
}

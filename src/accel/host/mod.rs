//! What the host's operating system gives a command-line program: its terminal, signals, standard
//! streams, file metadata and resource usage. One folder a family of hosts; `crate::console` is what the
//! rest of the program uses of them.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

use super::GuestArch;
pub(crate) use system::Got;
pub use system::{
    Doorbell, FarEnd, Input, OutputFile, RawMode, ResourceUsage, Signals, child, is_executable, is_fifo,
    modified_seconds, permissions,
};
#[cfg(test)]
pub(crate) use system::{make_executable, symlink};

/// The guests whose Linux could run this host's programs: those of its own processor, if they are Linux
/// programs.
pub const LINUX_PROGRAMS: Option<GuestArch> = if !cfg!(target_os = "linux") {
    None
} else if cfg!(target_arch = "x86_64") {
    Some(GuestArch::X86_64)
} else if cfg!(target_arch = "aarch64") {
    Some(GuestArch::Aarch64)
} else {
    None
};

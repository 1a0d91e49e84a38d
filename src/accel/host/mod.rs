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

pub(crate) use system::Got;
pub use system::{
    Doorbell, FarEnd, Input, OutputFile, RawMode, ResourceUsage, Signals, child, is_executable, is_fifo,
    modified_seconds, permissions,
};
#[cfg(test)]
pub(crate) use system::{make_executable, symlink};

/// Whether this host's programs are Linux programs, which a Linux guest could run.
pub const RUNS_LINUX_PROGRAMS: bool = cfg!(target_os = "linux");

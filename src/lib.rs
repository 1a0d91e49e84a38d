//! vm-accel: a command-line micro-VMM that boots a kernel from the shell and ends with an honest
//! exit status. `docs/architecture.md` tells how the parts fit together.

pub mod accel;
pub mod cli;
pub mod config;
pub mod console;
pub mod devices;
pub mod exec;
pub mod loader;
pub mod memory;
pub mod outcome;
pub mod report;
pub mod script;
pub mod suite;
pub mod vm;

/// The version of this crate, as `--version` prints it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

//! Why a command could not be run in a guest.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::accel::GuestArch;
use crate::config::ConfigError;
use crate::vm::VmError;

/// Errors of `exec`, each one line.
#[derive(Debug, Error)]
pub enum ExecError {
    /// A value on the command line.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The machine.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// The host's programs are not Linux programs for a processor that guests have.
    #[error(
        "exec brings the commands of a Linux host on x86-64 or AArch64 into a guest, and this host has none. Use `vm-accel run` with an initramfs that has them"
    )]
    NoLinuxHost,
    /// No such command on the host.
    #[error("{command}: command not found")]
    NotFound {
        /// As it was typed.
        command: String,
    },
    /// A file that cannot be executed.
    #[error("{command}: cannot execute: {reason}")]
    NotExecutable {
        /// As it was typed.
        command: String,
        /// Why not.
        reason: String,
    },
    /// A shared library that a program needs is nowhere.
    #[error(
        "{program} needs the shared library {library}, which is not found. Install it, or set LD_LIBRARY_PATH to where it is"
    )]
    MissingLibrary {
        /// The program or library that needs it.
        program: PathBuf,
        /// The name that it asks for.
        library: String,
    },
    /// An ELF file that contradicts itself.
    #[error("{path} is a damaged ELF file: {reason}. Reinstall it", path = .path.display())]
    DamagedElf {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A host file that cannot be read.
    #[error("cannot read {path}: {source}. Check the path and its permissions", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
    /// A file that cannot be in the guest.
    #[error("cannot put {path} into the guest: {reason}", path = .path.display())]
    Unfit {
        /// Host or guest path.
        path: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
    /// A flag's value.
    #[error("`{flag} {value}` is no good: {reason}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
        /// What is wrong, and what to write.
        reason: String,
    },
    /// No kernel to boot.
    #[error(
        "there is no kernel to boot: /boot has no vmlinuz-* that can be read. Name one with `--kernel FILE` or VM_ACCEL_KERNEL"
    )]
    NoKernel,
    /// The kernel cannot run the host's commands.
    #[error(
        "{kernel} is no kernel for {guest}, which this host's commands are for. Name one that is with `--kernel FILE` or VM_ACCEL_KERNEL",
        kernel = .kernel.display()
    )]
    OtherKernel {
        /// The kernel's file.
        kernel: PathBuf,
        /// What the host's commands are for.
        guest: GuestArch,
    },
    /// Arguments and environment are too long.
    #[error(
        "the command's arguments and environment have {bytes} bytes, more than 2 MiB. Write them to a file and bring it with `--copy`"
    )]
    TooLong {
        /// Their length.
        bytes: usize,
    },
}

impl ExecError {
    /// The exit status: a shell's for a command that cannot be run, else vm-accel's own failure.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } => 126,
            _ => 125,
        }
    }
}

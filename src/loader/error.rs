//! Why a kernel could not be loaded, in one line with the remedy.
#![forbid(unsafe_code)]

use std::io;

use thiserror::Error;

/// Why a kernel, an initrd or a module could not be put into guest memory.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file cannot be opened.
    #[error("cannot open {name}: {source}. Check the path and its permissions")]
    Open {
        /// The file's path.
        name: String,
        /// The host's reason.
        source: io::Error,
    },
    /// The path names something else than a regular file.
    #[error(
        "{name} is {kind}, not a regular file. Give the path of a file; save a pipe's content to one first"
    )]
    NotRegular {
        /// The file's path.
        name: String,
        /// What it is instead.
        kind: &'static str,
    },
    /// The file has no content.
    #[error("{name} is empty. Build or copy it anew")]
    Empty {
        /// The file's path.
        name: String,
    },
    /// The host could not read the file, or the file became shorter meanwhile.
    #[error("cannot read {name} at offset {offset:#x}: {source}. Check that nothing changes the file")]
    Read {
        /// The file's path.
        name: String,
        /// Offset in the file, in bytes.
        offset: u64,
        /// The host's reason.
        source: io::Error,
    },
    /// No known kernel format.
    #[error(
        "{name} is no kernel: {found}. Give a bzImage, an AArch64 Image, an ELF (vmlinux) or a Multiboot 1 file, or start a flat binary with `--flat`"
    )]
    UnknownFormat {
        /// The file's path.
        name: String,
        /// What the content looks like.
        found: String,
    },
    /// The file contradicts its format.
    #[error("{name} is a damaged {format}: {reason}. Build or copy it anew")]
    Malformed {
        /// The file's path.
        name: String,
        /// The format.
        format: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is well-formed, and still cannot be booted like this.
    #[error("{name}: {reason}. {remedy}")]
    Unsupported {
        /// The file's path.
        name: String,
        /// The reason.
        reason: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// Something must lie where there is no RAM.
    #[error(
        "{what} needs {bytes:#x} bytes at guest address {gpa:#x}, where there is no RAM. Give the guest more memory with `--memory`, or link it lower"
    )]
    OutsideMemory {
        /// What was to be loaded.
        what: String,
        /// First guest-physical address.
        gpa: u64,
        /// Length in bytes.
        bytes: u64,
    },
    /// Two things must lie at the same place.
    #[error(
        "{what} ({bytes:#x} bytes at guest address {gpa:#x}) overlaps {other}. Link it at another address"
    )]
    Overlap {
        /// What was to be loaded.
        what: String,
        /// First guest-physical address.
        gpa: u64,
        /// Length in bytes.
        bytes: u64,
        /// What is there already.
        other: String,
    },
    /// There is no room for something that may lie anywhere.
    #[error(
        "guest memory has no room for {what} ({bytes} bytes). Give the guest more memory with `--memory`"
    )]
    NoRoom {
        /// What was to be placed.
        what: String,
        /// Length in bytes.
        bytes: u64,
    },
    /// The kernel cannot take a command line this long.
    #[error("the command line has {bytes} bytes, and {name} takes at most {limit}. Shorten `--cmdline`")]
    CmdlineTooLong {
        /// The kernel's path.
        name: String,
        /// Length of the command line in bytes.
        bytes: usize,
        /// The kernel's limit in bytes.
        limit: usize,
    },
    /// The command line or a module's string has a NUL byte.
    #[error("{what} has a NUL byte. Remove it")]
    Nul {
        /// Which string.
        what: String,
    },
    /// The device tree could not be made.
    #[error("cannot make the device tree: {reason}. Give fewer CPUs, or a shorter `--cmdline`")]
    DeviceTree {
        /// The reason.
        reason: String,
    },
    /// Guest memory refused an access that was checked before.
    #[error("cannot write guest memory at {gpa:#x}: {reason}. This is a fault of vm-accel; please report it")]
    GuestMemory {
        /// Guest-physical address.
        gpa: u64,
        /// The reason.
        reason: String,
    },
}

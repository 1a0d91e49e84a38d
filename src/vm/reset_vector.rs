//! What is at F000:FFF0, where a PC's firmware starts.
//!
//! A Linux that finds hardware-reduced ACPI wants to reset by EFI, and where there is no EFI it goes back
//! to real mode and jumps to the firmware's entry. So that entry resets the machine.
#![forbid(unsafe_code)]

use vm_memory::{Bytes, GuestAddress};

use crate::memory::{GuestMemory, MemoryError};

/// F000:FFF0.
const ENTRY: u64 = 0xF_FFF0;

/// `mov dx, 0xcf9; mov al, 6; out dx, al; cli; hlt`: the reset control register, a full reset.
const CODE: [u8; 8] = [0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xfa, 0xf4];

/// Writes the entry into fresh guest memory, of which there is 1 MiB at least. A kernel that is loaded
/// over it takes its place.
///
/// # Errors
/// When there is no memory at the entry.
pub(super) fn write(memory: &GuestMemory) -> Result<(), MemoryError> {
    memory
        .write_slice(&CODE, GuestAddress(ENTRY))
        .map_err(|error| MemoryError::Map { mib: 1, reason: error.to_string() })
}

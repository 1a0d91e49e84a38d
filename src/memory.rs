//! Guest RAM: how it lies in the guest-physical address space, and how it is allocated.

use thiserror::Error;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::accel::GuestArch;

/// Guest RAM, shared by the loaders, the devices and the backends.
pub type GuestMemory = GuestMemoryMmap<()>;

/// First byte of the hole below 4 GiB that holds the MMIO devices, the IOAPIC and the LAPIC.
pub const MMIO_HOLE_START: u64 = 0xC000_0000;
/// First byte behind the hole: RAM that does not fit below the hole goes on here.
pub const MMIO_HOLE_END: u64 = 0x1_0000_0000;
/// Where the RAM of the AArch64 machine begins; it has no hole.
pub const ARM64_RAM: u64 = 0x4000_0000;
/// Bytes a page.
pub const PAGE_SIZE: u64 = 4096;

/// Why guest RAM could not be had.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The host refused the mapping.
    #[error(
        "cannot map {mib} MiB of guest memory: {reason}. Give the guest less with `--memory`, or free some on the host"
    )]
    Map {
        /// What was asked for, in MiB.
        mib: u64,
        /// The host's reason.
        reason: String,
    },
}

/// How many of `size` bytes of a PC's RAM lie below the hole, and how many above it.
#[must_use]
pub fn split(size: u64) -> (u64, u64) {
    let low = size.min(MMIO_HOLE_START);
    (low, size - low)
}

/// The ranges `(gpa, bytes)` of `size` bytes of a PC's RAM, in ascending order: from 0, with the hole
/// at 3 GiB to 4 GiB left out.
#[must_use]
pub fn layout(size: u64) -> Vec<(u64, u64)> {
    let (low, high) = split(size);
    let mut ranges = vec![(0, low)];
    if high > 0 {
        ranges.push((MMIO_HOLE_END, high));
    }
    ranges
}

/// Allocates `size` bytes of zeroed RAM for a PC; the host gives pages on first touch.
///
/// # Errors
/// When the host cannot map that much.
pub fn allocate(size: u64) -> Result<GuestMemory, MemoryError> {
    allocate_for(GuestArch::X86_64, size)
}

/// Allocates `size` bytes of zeroed RAM for a guest's machine; the host gives pages on first touch.
///
/// # Errors
/// When the host cannot map that much.
pub fn allocate_for(guest: GuestArch, size: u64) -> Result<GuestMemory, MemoryError> {
    let failed = |reason: String| MemoryError::Map { mib: size >> 20, reason };
    let layout = match guest {
        GuestArch::X86_64 => layout(size),
        GuestArch::Aarch64 => vec![(ARM64_RAM, size)],
    };
    let mut ranges = Vec::new();
    for (gpa, bytes) in layout {
        let bytes = usize::try_from(bytes).map_err(|e| failed(e.to_string()))?;
        ranges.push((GuestAddress(gpa), bytes));
    }
    GuestMemory::from_ranges(&ranges).map_err(|e| failed(e.to_string()))
}

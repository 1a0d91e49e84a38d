//! Where things lie in guest memory: the fixed places, the memory map and the search for room.
#![forbid(unsafe_code)]

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::error::LoadError;
use crate::memory::{GuestMemory, MMIO_HOLE_START, PAGE_SIZE};

/// The global descriptor table.
pub const GDT: u64 = 0x500;
/// PVH's start information, or Multiboot's.
pub const START_INFO: u64 = 0x6000;
/// Linux's `boot_params`, the "zero page".
pub const ZERO_PAGE: u64 = 0x7000;
/// The identity-mapping page tables: PML4, PDPT and the page directories behind each other.
pub const PAGE_TABLES: u64 = 0x9000;
/// The kernel's command line.
pub const CMDLINE: u64 = 0x2_0000;
/// The boot processor's stack where a protocol gives one; it grows down from its end.
pub const STACK: u64 = 0x8_0000;
/// Length of that stack in bytes.
pub const STACK_BYTES: u64 = 0x1_0000;
/// End of the RAM below 640 KiB: here the BIOS area begins, reserved in every memory map.
pub const EBDA: u64 = 0x9_FC00;
/// The ACPI tables, up to `HIGH_RAM`.
pub const ACPI: u64 = 0xE_0000;
/// The end of the BIOS area; from here on there is RAM again.
pub const HIGH_RAM: u64 = 0x10_0000;

/// What a range of the memory map is; the numbers are e820's, and Multiboot and PVH use the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum RangeKind {
    /// Usable RAM.
    Ram = 1,
    /// Not to be used.
    Reserved = 2,
}

/// A range of the memory map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapRange {
    /// First guest-physical address.
    pub start: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// What it is.
    pub kind: RangeKind,
}

/// The memory map that the guest is told, in ascending order.
#[must_use]
pub fn memory_map(memory: &GuestMemory) -> Vec<MapRange> {
    let mut map = Vec::new();
    let mut add = |start: u64, end: u64, kind| {
        if start < end {
            map.push(MapRange { start, bytes: end - start, kind });
        }
    };
    for (start, end) in ram(memory) {
        if start < HIGH_RAM {
            add(start, end.min(EBDA), RangeKind::Ram);
            add(EBDA, HIGH_RAM, RangeKind::Reserved);
            add(HIGH_RAM, end, RangeKind::Ram);
        } else {
            add(start, end, RangeKind::Ram);
        }
    }
    map
}

/// The ranges `(start, end)` of RAM in ascending order.
fn ram(memory: &GuestMemory) -> impl Iterator<Item = (u64, u64)> + '_ {
    memory.iter().map(|region| {
        let start = region.start_addr().0;
        (start, start.saturating_add(region.len()))
    })
}

/// The end of RAM.
#[must_use]
pub fn ram_end(memory: &GuestMemory) -> u64 {
    ram(memory).map(|(_, end)| end).max().unwrap_or(0)
}

/// Rounds up to a whole page; an address in the last page of the address space stays there.
#[must_use]
pub fn page_up(gpa: u64) -> u64 {
    gpa.checked_next_multiple_of(PAGE_SIZE).unwrap_or(gpa)
}

/// Keeps account of what lies where in guest memory, and finds room for what may lie anywhere.
pub struct Placement<'a> {
    memory: &'a GuestMemory,
    taken: Vec<Taken>,
}

struct Taken {
    start: u64,
    end: u64,
    what: String,
}

impl<'a> Placement<'a> {
    /// Nothing is taken, but for the ACPI tables if there are any.
    #[must_use]
    pub fn new(memory: &'a GuestMemory, acpi: bool) -> Self {
        let mut placement = Self { memory, taken: Vec::new() };
        if acpi {
            placement.take("the ACPI tables", ACPI, HIGH_RAM - ACPI);
        }
        placement
    }

    /// Takes the place that an image asks for.
    ///
    /// # Errors
    /// When it is not all RAM or something is there already.
    pub fn fix(&mut self, what: &str, gpa: u64, bytes: u64) -> Result<(), LoadError> {
        if bytes == 0 {
            return Ok(());
        }
        if !self.is_ram(gpa, bytes) {
            return Err(LoadError::OutsideMemory { what: what.to_owned(), gpa, bytes });
        }
        if let Some(other) = self.overlapping(gpa, bytes) {
            let other = other.what.clone();
            return Err(LoadError::Overlap { what: what.to_owned(), gpa, bytes, other });
        }
        self.take(what, gpa, bytes);
        Ok(())
    }

    /// Takes the preferred place if it is free, else the lowest free pages.
    ///
    /// # Errors
    /// When there is no room below 4 GiB.
    pub fn place(&mut self, what: &str, preferred: u64, bytes: u64) -> Result<u64, LoadError> {
        if self.is_free(preferred, bytes) {
            self.take(what, preferred, bytes);
            return Ok(preferred);
        }
        self.place_above(what, PAGE_SIZE, bytes)
    }

    /// Takes the lowest free pages from `floor` on.
    ///
    /// # Errors
    /// When there is no room below 4 GiB.
    pub fn place_above(&mut self, what: &str, floor: u64, bytes: u64) -> Result<u64, LoadError> {
        let ends = self.taken.iter().map(|taken| taken.end);
        let candidates = ends.chain([floor, HIGH_RAM]).map(page_up);
        let found = candidates
            .filter(|&gpa| gpa >= floor && self.is_free(gpa, bytes))
            .min()
            .ok_or_else(|| LoadError::NoRoom { what: what.to_owned(), bytes })?;
        self.take(what, found, bytes);
        Ok(found)
    }

    /// Takes the highest free pages that end at `limit` or below.
    ///
    /// # Errors
    /// When there is no room.
    pub fn place_below(&mut self, what: &str, limit: u64, bytes: u64) -> Result<u64, LoadError> {
        let limit = limit.min(MMIO_HOLE_START);
        let starts = self.taken.iter().map(|taken| taken.start);
        let found = starts
            .chain(ram(self.memory).map(|(_, end)| end))
            .chain([limit])
            .filter(|&end| end <= limit)
            .filter_map(|end| end.checked_sub(bytes))
            .map(|gpa| gpa - gpa % PAGE_SIZE)
            .filter(|&gpa| gpa >= PAGE_SIZE && self.is_free(gpa, bytes))
            .max()
            .ok_or_else(|| LoadError::NoRoom { what: what.to_owned(), bytes })?;
        self.take(what, found, bytes);
        Ok(found)
    }

    /// Whether a range is all RAM.
    fn is_ram(&self, gpa: u64, bytes: u64) -> bool {
        let Some(end) = gpa.checked_add(bytes) else { return false };
        usize::try_from(bytes).is_ok_and(|length| {
            self.memory.check_range(GuestAddress(gpa), length) && end <= ram_end(self.memory)
        })
    }

    /// Whether a range may be taken for something that the image did not ask for: usable RAM below
    /// 4 GiB with nothing in it.
    fn is_free(&self, gpa: u64, bytes: u64) -> bool {
        let Some(end) = gpa.checked_add(bytes) else { return false };
        let in_bios_area = gpa < HIGH_RAM && end > EBDA;
        end <= MMIO_HOLE_START
            && !in_bios_area
            && self.is_ram(gpa, bytes)
            && self.overlapping(gpa, bytes).is_none()
    }

    fn overlapping(&self, gpa: u64, bytes: u64) -> Option<&Taken> {
        let end = gpa.saturating_add(bytes);
        self.taken.iter().find(|taken| gpa < taken.end && taken.start < end)
    }

    fn take(&mut self, what: &str, gpa: u64, bytes: u64) {
        self.taken.push(Taken { start: gpa, end: gpa + bytes, what: what.to_owned() });
    }
}

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
/// The ACPI tables.
pub const ACPI: u64 = 0xE_0000;
/// Room for the ACPI tables in bytes. It does not go up to 1 MiB, because linkers like to put a file's
/// headers on the page below a kernel that is linked there.
pub const ACPI_BYTES: u64 = 0x1_0000;
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
    places: Places,
    taken: Vec<Taken>,
}

/// What of RAM is for whatever may lie anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Places {
    /// A PC's: below 4 GiB, and not in the BIOS area.
    Pc,
    /// All of it.
    All,
}

struct Taken {
    start: u64,
    end: u64,
    what: String,
}

impl<'a> Placement<'a> {
    /// A PC's memory. Nothing is taken, but for the ACPI tables if there are any.
    #[must_use]
    pub fn new(memory: &'a GuestMemory, acpi: bool) -> Self {
        let mut placement = Self { memory, places: Places::Pc, taken: Vec::new() };
        if acpi {
            placement.take("the ACPI tables", ACPI, ACPI_BYTES);
        }
        placement
    }

    /// The memory of a machine whose RAM is all alike. Nothing is taken.
    #[must_use]
    pub fn without_places(memory: &'a GuestMemory) -> Self {
        Self { memory, places: Places::All, taken: Vec::new() }
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
    /// When there is no room, on a PC below 4 GiB.
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
    /// When there is no room, on a PC below 4 GiB.
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
        let starts = self.taken.iter().map(|taken| taken.start);
        let found = starts
            .chain(ram(self.memory).map(|(_, end)| end))
            .chain([limit, MMIO_HOLE_START])
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

    /// Whether a range may be taken for something that the image did not ask for: usable RAM with nothing
    /// in it.
    fn is_free(&self, gpa: u64, bytes: u64) -> bool {
        let Some(end) = gpa.checked_add(bytes) else { return false };
        let is_usable = match self.places {
            Places::Pc => end <= MMIO_HOLE_START && (gpa >= HIGH_RAM || end <= EBDA),
            Places::All => true,
        };
        is_usable && self.is_ram(gpa, bytes) && self.overlapping(gpa, bytes).is_none()
    }

    fn overlapping(&self, gpa: u64, bytes: u64) -> Option<&Taken> {
        let end = gpa.saturating_add(bytes);
        self.taken.iter().find(|taken| gpa < taken.end && taken.start < end)
    }

    fn take(&mut self, what: &str, gpa: u64, bytes: u64) {
        self.taken.push(Taken { start: gpa, end: gpa + bytes, what: what.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::allocate;

    const MIB: u64 = 1 << 20;

    fn ranges(memory: &GuestMemory) -> Vec<(u64, u64, RangeKind)> {
        memory_map(memory).iter().map(|range| (range.start, range.start + range.bytes, range.kind)).collect()
    }

    #[test]
    fn the_memory_map_leaves_out_the_bios_area_and_the_hole() {
        let low = [(0, EBDA, RangeKind::Ram), (EBDA, HIGH_RAM, RangeKind::Reserved)];
        assert_eq!(ranges(&allocate(MIB).unwrap()), low);
        let with_high = [low[0], low[1], (HIGH_RAM, 16 * MIB, RangeKind::Ram)];
        assert_eq!(ranges(&allocate(16 * MIB).unwrap()), with_high);
        let split = GuestMemory::from_ranges(&[
            (GuestAddress(0), 2 << 20),
            (GuestAddress(crate::memory::MMIO_HOLE_END), 1 << 20),
        ]);
        let split = ranges(&split.unwrap());
        assert_eq!(split[2], (HIGH_RAM, 2 * MIB, RangeKind::Ram));
        assert_eq!(split[3], (1 << 32, (1 << 32) + MIB, RangeKind::Ram));
    }

    #[test]
    fn an_image_keeps_its_place_and_everything_else_gives_way() {
        let memory = allocate(4 * MIB).unwrap();
        let mut placement = Placement::new(&memory, true);
        placement.fix("kernel", 0x400, 0x8000).unwrap();
        assert!(matches!(placement.fix("other", 0x83FF, 1), Err(LoadError::Overlap { .. })));
        placement.fix("other", 0x8400, 1).unwrap();
        assert!(matches!(placement.fix("tables", ACPI, 1), Err(LoadError::Overlap { .. })));
        assert_eq!(placement.place("gdt", GDT, 48).unwrap(), 0x9000);
        assert_eq!(placement.place("cmdline", CMDLINE, 48).unwrap(), CMDLINE);
        assert_eq!(placement.place("again", CMDLINE, 48).unwrap(), 0xA000);
        // Too large for the room below 640 KiB.
        assert_eq!(placement.place("large", GDT, MIB).unwrap(), HIGH_RAM);
        assert_eq!(placement.place_above("module", MIB, 10).unwrap(), 2 * MIB);
        assert_eq!(placement.place_below("initrd", u64::MAX, 0x1001).unwrap(), 4 * MIB - 0x2000);
        assert_eq!(placement.place_below("initrd", 3 * MIB, 1).unwrap(), 3 * MIB - 0x1000);
        assert!(matches!(placement.place_below("huge", u64::MAX, 3 * MIB), Err(LoadError::NoRoom { .. })));
        assert!(matches!(placement.place_above("huge", 0, u64::MAX), Err(LoadError::NoRoom { .. })));
    }

    #[test]
    fn addresses_outside_ram_are_refused() {
        let memory = allocate(4 * MIB).unwrap();
        let mut placement = Placement::new(&memory, false);
        for (gpa, bytes) in
            [(4 * MIB, 1), (4 * MIB - 1, 2), (u64::MAX, 1), (u64::MAX, u64::MAX), (0, u64::MAX)]
        {
            assert!(matches!(placement.fix("x", gpa, bytes), Err(LoadError::OutsideMemory { .. })));
        }
        placement.fix("nothing", u64::MAX, 0).unwrap();
    }
}

//! Guest RAM as the software CPU sees it: host addresses, and which parts hold decoded code.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _};

use super::coherence::Peer;
use super::host_access::read_host;
use super::integer::Int;
use crate::memory::{GuestMemory, PAGE_SIZE};

/// A range of guest RAM that is contiguous on the host.
#[derive(Clone, Copy)]
struct Region {
    start: u64,
    end: u64,
    host: usize,
    /// Number of its first page in the code map.
    first_page: u64,
}

/// Host memory that is guest RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostRange {
    /// Guest-physical address of its first byte.
    pub gpa: u64,
    /// Host address of its first byte.
    pub host: usize,
    /// Bytes, whole pages.
    pub size: u64,
}

/// Guest RAM, shared by the vCPUs of a machine.
pub struct Ram {
    regions: Vec<Region>,
    /// A bit for each 64 bytes of a page from which some vCPU has decoded code.
    code: Vec<AtomicU64>,
    /// How many vCPUs are about to take their first code from a page; held while code bits are set with it or
    /// cleared, so that no vCPU's claim falls between the clearing of bits and the word of it.
    pub(super) claims: Mutex<u32>,
    /// The vCPUs that execute from this RAM.
    pub(super) peers: RwLock<Vec<Arc<Peer>>>,
    /// Keeps the host's mapping alive, where it is ours.
    _memory: Option<GuestMemory>,
}

impl Ram {
    /// The view of `memory`.
    #[must_use]
    pub fn new(memory: &GuestMemory) -> Arc<Self> {
        let ranges = memory.iter().map(|region| HostRange {
            gpa: region.start_addr().0,
            host: region.as_ptr().expose_provenance(),
            size: region.len(),
        });
        Self::with(ranges, Some(memory.clone()))
    }

    /// RAM that somebody else has mapped.
    ///
    /// # Safety
    /// The ranges stay mapped, for reads and writes, as long as the answer lives, and all of the program
    /// takes them for memory that changes at any time.
    #[must_use]
    pub unsafe fn of_host(ranges: &[HostRange]) -> Arc<Self> {
        Self::with(ranges.iter().copied(), None)
    }

    fn with(ranges: impl Iterator<Item = HostRange>, memory: Option<GuestMemory>) -> Arc<Self> {
        let mut regions = Vec::new();
        let mut pages = 0;
        for HostRange { gpa, host, size } in ranges {
            regions.push(Region { start: gpa, end: gpa + size, host, first_page: pages });
            pages += size.div_ceil(PAGE_SIZE);
        }
        let code = (0..pages).map(|_| AtomicU64::new(0)).collect();
        let claims = Mutex::default();
        Arc::new(Self { regions, code, claims, peers: RwLock::default(), _memory: memory })
    }

    /// The host address of `len` bytes of RAM at `gpa`, if all are RAM.
    #[inline]
    #[must_use]
    pub fn host(&self, gpa: u64, len: u64) -> Option<usize> {
        let region = self.regions.iter().find(|r| gpa >= r.start && gpa < r.end)?;
        (len <= region.end - gpa).then(|| region.host + (gpa - region.start) as usize)
    }

    /// Reads a value of guest RAM.
    #[inline]
    #[must_use]
    pub fn read<T: Int>(&self, gpa: u64) -> Option<T> {
        // SAFETY: `host` vouches for the bytes.
        self.host(gpa, T::BYTES).map(|host| unsafe { read_host(host) })
    }

    /// Replaces the naturally aligned `old` by `new` at `gpa`; false if something else was there.
    #[must_use]
    pub fn compare_exchange_u64(&self, gpa: u64, old: u64, new: u64) -> bool {
        let Some(host) = self.host(gpa, 8).filter(|host| host.is_multiple_of(8)) else { return true };
        // SAFETY: eight mapped, aligned bytes that are only accessed as shared memory.
        let cell = unsafe { AtomicU64::from_ptr(std::ptr::with_exposed_provenance_mut(host)) };
        cell.compare_exchange(old, new, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    /// As `compare_exchange_u64`, of 32 bits.
    #[must_use]
    pub fn compare_exchange_u32(&self, gpa: u64, old: u32, new: u32) -> bool {
        let Some(host) = self.host(gpa, 4).filter(|host| host.is_multiple_of(4)) else { return true };
        // SAFETY: four mapped, aligned bytes that are only accessed as shared memory.
        let cell = unsafe { AtomicU32::from_ptr(std::ptr::with_exposed_provenance_mut(host)) };
        cell.compare_exchange(old, new, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    /// The number of `gpa`'s page among all pages of RAM.
    #[inline]
    #[must_use]
    pub fn page_number(&self, gpa: u64) -> Option<usize> {
        let region = self.regions.iter().find(|r| gpa >= r.start && gpa < r.end)?;
        Some((region.first_page + (gpa - region.start) / PAGE_SIZE) as usize)
    }

    /// Number of pages of RAM.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.code.len()
    }

    /// The code bits of a page: which of its 64 granules of 64 bytes hold decoded code.
    #[inline]
    #[must_use]
    pub fn code(&self, page: usize) -> Option<&AtomicU64> {
        self.code.get(page)
    }
}

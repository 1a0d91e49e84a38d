//! The port I/O bus and the MMIO bus: which device answers at an address.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::{Arc, Mutex};

use thiserror::Error;

use super::{Device, lock};

/// A range of addresses, for messages: first and last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    /// First address.
    pub first: u64,
    /// Last address.
    pub last: u64,
}

impl AddressRange {
    fn contains(self, address: u64) -> bool {
        self.first <= address && address <= self.last
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.first, self.last)
    }
}

/// Why a device cannot be put on a bus.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BusError {
    /// The range is taken, in part at least.
    #[error("device {name} at {range} overlaps device {other} at {other_range}: give one another address")]
    Overlap {
        /// The new device.
        name: String,
        /// Its range.
        range: AddressRange,
        /// The device that is there already.
        other: String,
        /// Its range.
        other_range: AddressRange,
    },
    /// The range is empty or runs past the end of the address space.
    #[error("device {name} at {base:#x} has the impossible length {len:#x}")]
    BadRange {
        /// The new device.
        name: String,
        /// First address.
        base: u64,
        /// Length in addresses.
        len: u64,
    },
}

struct Slot {
    range: AddressRange,
    /// The device's own offset of the range's first address.
    offset: u64,
    name: String,
    device: Arc<Mutex<dyn Device>>,
}

/// Devices by address. It is filled once and then only asked, so lookups take no lock of the bus.
#[derive(Default)]
pub struct Bus {
    /// Sorted by address, without overlaps.
    slots: Vec<Slot>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.ranges().map(|(range, name)| (range.to_string(), name))).finish()
    }
}

impl Bus {
    /// An empty bus.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `device` at `base`, `len` addresses long; its offsets start at 0.
    ///
    /// # Errors
    /// When the range is taken or impossible.
    pub fn insert(
        &mut self,
        base: u64,
        len: u64,
        name: &str,
        device: Arc<Mutex<dyn Device>>,
    ) -> Result<(), BusError> {
        self.insert_window(base, len, name, device, 0)
    }

    /// Puts a part of `device` at `base`: the device sees offsets from `offset` on. For devices that own
    /// several ranges.
    ///
    /// # Errors
    /// When the range is taken or impossible.
    pub fn insert_window(
        &mut self,
        base: u64,
        len: u64,
        name: &str,
        device: Arc<Mutex<dyn Device>>,
        offset: u64,
    ) -> Result<(), BusError> {
        let span = len.checked_sub(1);
        let fits = span.filter(|span| offset.checked_add(*span).is_some());
        let Some(last) = fits.and_then(|span| base.checked_add(span)) else {
            return Err(BusError::BadRange { name: name.to_owned(), base, len });
        };
        let range = AddressRange { first: base, last };
        let at = self.slots.partition_point(|slot| slot.range.last < base);
        if let Some(other) = self.slots.get(at).filter(|other| other.range.first <= last) {
            return Err(BusError::Overlap {
                name: name.to_owned(),
                range,
                other: other.name.clone(),
                other_range: other.range,
            });
        }
        self.slots.insert(at, Slot { range, offset, name: name.to_owned(), device });
        Ok(())
    }

    /// Takes over the devices of `other`, each `base` higher.
    ///
    /// # Errors
    /// When a range is taken or impossible.
    pub fn absorb(&mut self, other: Self, base: u64) -> Result<(), BusError> {
        for Slot { range, offset, name, device } in other.slots {
            let len = (range.last - range.first).saturating_add(1);
            let first = base.checked_add(range.first).ok_or_else(|| BusError::BadRange {
                name: name.clone(),
                base: range.first,
                len,
            })?;
            self.insert_window(first, len, &name, device, offset)?;
        }
        Ok(())
    }

    /// The ranges that are taken and the names of their devices, in the order of the addresses.
    pub fn ranges(&self) -> impl Iterator<Item = (AddressRange, &str)> {
        self.slots.iter().map(|slot| (slot.range, slot.name.as_str()))
    }

    /// The devices, one for each range.
    #[cfg(test)]
    pub(crate) fn devices(&self) -> impl Iterator<Item = Arc<Mutex<dyn Device>>> {
        self.slots.iter().map(|slot| Arc::clone(&slot.device))
    }

    /// Reads `data.len()` bytes from `address`. Bytes that no device answers are all-ones.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xFF);
        if let Some((slot, offset)) = self.whole(address, data.len()) {
            lock(&slot.device).read(offset, data);
            return;
        }
        for (address, byte) in Self::addresses(address).zip(data.iter_mut()) {
            if let Some((slot, offset)) = self.whole(address, 1) {
                lock(&slot.device).read(offset, std::slice::from_mut(byte));
            }
        }
    }

    /// Writes `data` to `address`. Bytes that no device takes are lost.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((slot, offset)) = self.whole(address, data.len()) {
            lock(&slot.device).write(offset, data);
            return;
        }
        for (address, byte) in Self::addresses(address).zip(data) {
            if let Some((slot, offset)) = self.whole(address, 1) {
                lock(&slot.device).write(offset, std::slice::from_ref(byte));
            }
        }
    }

    /// The addresses from `first` on, without wrapping around.
    fn addresses(first: u64) -> impl Iterator<Item = u64> {
        first..=u64::MAX
    }

    /// The slot that covers all `len` bytes from `address`, and the device's offset of `address`.
    fn whole(&self, address: u64, len: usize) -> Option<(&Slot, u64)> {
        let span = u64::try_from(len).ok()?.checked_sub(1)?;
        let last = address.checked_add(span)?;
        let at = self.slots.partition_point(|slot| slot.range.last < address);
        let slot = self.slots.get(at)?;
        (slot.range.contains(address) && slot.range.contains(last))
            .then(|| (slot, slot.offset + (address - slot.range.first)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Remembers the accesses; answers with the offset.
    #[derive(Default)]
    struct Recorder {
        writes: Vec<(u64, Vec<u8>)>,
    }

    impl Device for Recorder {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            for (byte, offset) in data.iter_mut().zip(offset..) {
                *byte = u8::try_from(offset & 0xFF).unwrap();
            }
        }

        fn write(&mut self, offset: u64, data: &[u8]) {
            self.writes.push((offset, data.to_vec()));
        }
    }

    fn recorder() -> Arc<Mutex<Recorder>> {
        Arc::new(Mutex::new(Recorder::default()))
    }

    #[test]
    fn an_overlap_names_both_devices_and_both_ranges() {
        let mut bus = Bus::new();
        bus.insert(0x3F8, 8, "com1", recorder()).unwrap();
        bus.insert(0x400, 1, "next", recorder()).unwrap();
        let error = bus.insert(0x3F0, 9, "floppy", recorder()).unwrap_err();
        let text = error.to_string();
        for part in ["floppy", "0x3f0-0x3f8", "com1", "0x3f8-0x3ff"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(bus.insert(0x3FF, 1, "last byte", recorder()).is_err());
        assert!(bus.insert(0x3F7, 0x100, "around", recorder()).is_err());
        bus.insert(0x3F7, 1, "before", recorder()).unwrap();
        assert_eq!(bus.ranges().map(|(_, name)| name).collect::<Vec<_>>(), ["before", "com1", "next"]);
    }

    #[test]
    fn impossible_ranges_are_errors() {
        let mut bus = Bus::new();
        assert!(matches!(bus.insert(1, 0, "empty", recorder()), Err(BusError::BadRange { .. })));
        assert!(matches!(bus.insert(u64::MAX, 2, "wraps", recorder()), Err(BusError::BadRange { .. })));
        bus.insert(u64::MAX, 1, "top", recorder()).unwrap();
        let mut data = [0; 4];
        bus.read(u64::MAX - 1, &mut data);
        assert_eq!(data, [0xFF, 0, 0xFF, 0xFF]);
    }

    #[test]
    fn unmapped_reads_are_all_ones_and_unmapped_writes_are_lost() {
        let bus = Bus::new();
        let mut data = [0; 8];
        bus.read(0x1234, &mut data);
        assert_eq!(data, [0xFF; 8]);
        bus.write(0x1234, &[1, 2, 3]);
        bus.read(0, &mut []);
        bus.write(0, &[]);
    }

    #[test]
    fn an_access_across_devices_is_split_by_bytes() {
        let (low, high) = (recorder(), recorder());
        let mut bus = Bus::new();
        bus.insert(0x10, 2, "low", low.clone()).unwrap();
        bus.insert_window(0x12, 1, "high", high.clone(), 7).unwrap();
        bus.write(0x11, &[0xA, 0xB, 0xC, 0xD]);
        assert_eq!(low.lock().unwrap().writes, [(1, vec![0xA])]);
        assert_eq!(high.lock().unwrap().writes, [(7, vec![0xB])]);
        let mut data = [0; 4];
        bus.read(0xF, &mut data);
        assert_eq!(data, [0xFF, 0, 1, 7]);
    }

    #[test]
    fn a_device_that_panicked_once_still_answers() {
        let device = recorder();
        let mut bus = Bus::new();
        bus.insert(0, 4, "poisoned", device.clone()).unwrap();
        let result = std::thread::spawn(move || {
            let _guard = device.lock().unwrap();
            panic!("expected in this test");
        })
        .join();
        assert!(result.is_err());
        let mut data = [0xEE; 1];
        bus.read(3, &mut data);
        assert_eq!(data, [3]);
    }

    proptest! {
        #[test]
        fn a_device_sees_only_its_own_offsets(
            base in any::<u64>(), len in 1_u64..64, delta in -80_i64..80, size in 0_usize..=16,
        ) {
            let device = recorder();
            let mut bus = Bus::new();
            if bus.insert(base, len, "device", device.clone()).is_err() {
                return Ok(());
            }
            let address = base.wrapping_add_signed(delta);
            bus.write(address, &vec![0; size]);
            let mut data = vec![0; size];
            bus.read(address, &mut data);
            for (offset, bytes) in &device.lock().unwrap().writes {
                prop_assert!(offset + u64::try_from(bytes.len()).unwrap() <= len);
            }
        }
    }
}

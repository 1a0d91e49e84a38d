//! QEMU's firmware configuration device: what machine this is, read byte by byte through two ports.
//!
//! Selector and data are the "traditional" interface of QEMU's `docs/specs/fw_cfg`; DMA and files are not
//! offered, and the ID item says so. Test kernels ask it for the number of processors and the size of RAM.

#![forbid(unsafe_code)]

use super::Device;

/// The selector's port; data is read from the next one.
pub const PORT: u64 = 0x510;

/// Number of I/O ports.
pub const PORTS: u64 = 2;

/// What the device tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FwCfgSetup {
    /// Bytes of RAM.
    pub ram: u64,
    /// Number of processors, all of which are there from the start.
    pub cpus: u16,
}

/// Items, by their selector.
mod key {
    pub(super) const SIGNATURE: u16 = 0x00;
    pub(super) const ID: u16 = 0x01;
    pub(super) const UUID: u16 = 0x02;
    pub(super) const RAM_SIZE: u16 = 0x03;
    pub(super) const NOGRAPHIC: u16 = 0x04;
    pub(super) const NB_CPUS: u16 = 0x05;
    pub(super) const MAX_CPUS: u16 = 0x0F;
    pub(super) const FILE_DIR: u16 = 0x19;
    pub(super) const IRQ0_OVERRIDE: u16 = 0x8002;
}

/// Bit 14 of a selector asks for writing, which is not offered.
const WRITE_CHANNEL: u16 = 1 << 14;

/// The device.
pub struct FwCfg {
    setup: FwCfgSetup,
    item: Vec<u8>,
    at: usize,
}

impl FwCfg {
    /// The device, with the signature selected.
    #[must_use]
    pub fn new(setup: FwCfgSetup) -> Self {
        let mut device = Self { setup, item: Vec::new(), at: 0 };
        device.select(key::SIGNATURE);
        device
    }

    fn select(&mut self, selector: u16) {
        self.at = 0;
        self.item = match selector & !WRITE_CHANNEL {
            key::SIGNATURE => b"QEMU".to_vec(),
            // Selector and data ports, no DMA.
            key::ID => 1_u32.to_le_bytes().to_vec(),
            key::UUID => vec![0; 16],
            key::RAM_SIZE => self.setup.ram.to_le_bytes().to_vec(),
            key::NOGRAPHIC => 1_u16.to_le_bytes().to_vec(),
            key::NB_CPUS | key::MAX_CPUS => self.setup.cpus.to_le_bytes().to_vec(),
            // The one item that is big-endian: the number of files.
            key::FILE_DIR => 0_u32.to_be_bytes().to_vec(),
            key::IRQ0_OVERRIDE => 1_u32.to_le_bytes().to_vec(),
            _ => Vec::new(),
        };
    }

    /// The item's next byte; 0 behind its end.
    fn next(&mut self) -> u8 {
        let byte = self.item.get(self.at).copied().unwrap_or(0);
        self.at = self.at.saturating_add(1).min(self.item.len());
        byte
    }
}

impl Device for FwCfg {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        // A wider read is not decoded.
        if let [byte] = data {
            *byte = self.next();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (0, [low, high]) = (offset, data) {
            self.select(u16::from_le_bytes([*low, *high]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(device: &mut FwCfg, selector: u16, len: usize) -> Vec<u8> {
        device.write(0, &selector.to_le_bytes());
        let mut byte = [0xEE];
        (0..len)
            .map(|_| {
                device.read(1, &mut byte);
                byte[0]
            })
            .collect()
    }

    fn device() -> FwCfg {
        FwCfg::new(FwCfgSetup { ram: 0x1_8000_0000, cpus: 3 })
    }

    #[test]
    fn the_items_are_those_of_qemu() {
        let mut device = device();
        assert_eq!(item(&mut device, 0, 6), b"QEMU\0\0");
        assert_eq!(item(&mut device, 1, 4), [1, 0, 0, 0]);
        assert_eq!(item(&mut device, 3, 8), 0x1_8000_0000_u64.to_le_bytes());
        assert_eq!(item(&mut device, 5, 4), [3, 0, 0, 0]);
        assert_eq!(item(&mut device, 0xF, 2), [3, 0]);
        assert_eq!(item(&mut device, 0x19, 4), [0; 4]);
        assert_eq!(item(&mut device, 0x1234, 4), [0; 4]);
    }

    #[test]
    fn selecting_starts_again_and_the_signature_is_selected_at_first() {
        let mut device = device();
        let mut byte = [0];
        device.read(1, &mut byte);
        assert_eq!(byte, [b'Q']);
        assert_eq!(item(&mut device, 0, 2), b"QE");
        assert_eq!(item(&mut device, 0, 2), b"QE");
    }

    #[test]
    fn other_accesses_change_nothing() {
        let mut device = device();
        device.write(0, &[5]);
        device.write(1, &[5, 0]);
        device.write(0, &[5, 0, 0, 0]);
        let mut wide = [0xFF; 4];
        device.read(0, &mut wide);
        assert_eq!(wide, [0xFF; 4]);
        let mut byte = [0];
        device.read(1, &mut byte);
        assert_eq!(byte, [b'Q']);
    }
}

//! QEMU's `pc-testdev`: registers and interrupt lines that test kernels play with.
//!
//! Ports 0xE0 to 0xE3 are one 32-bit register, in which each access reads or writes its own bytes; writing
//! a page's address to 0xE4 makes a host drop its mapping of the page, which nothing here has to. (The
//! register's second place, 0xE8, is left to the debug console.) A byte at port 0x2000 + n is the level of
//! ISA line n; a wider write is one of as many bytes, as ports of a byte take it. 64 KiB, on a PC at
//! 0xFF00_0000, keep what is written. The AArch64 machine has all this, too, in its own places.

#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex};

use super::{Bus, BusError, Device, IrqLine};

/// The register's first port.
pub const REGISTER_PORT: u64 = 0xE0;
/// Number of ports of the register and the flush port.
pub const REGISTER_PORTS: u64 = 8;
/// The port of the first interrupt line.
pub const IRQ_PORT: u64 = 0x2000;
/// Number of ports of the interrupt lines.
pub const IRQ_PORTS: u64 = 24;
/// Guest-physical address of the memory window on a PC.
pub const WINDOW_BASE: u64 = 0xFF00_0000;
/// Length of the memory window in bytes.
pub const WINDOW_LEN: u64 = 0x1_0000;

/// Puts the three parts on the buses, the memory window at `window`; there are up to `IRQ_PORTS` lines.
///
/// # Errors
/// When an address is taken.
pub fn attach(
    lines: Vec<Box<dyn IrqLine>>,
    ports: &mut Bus,
    mmio: &mut Bus,
    window: u64,
) -> Result<(), BusError> {
    let register = Arc::new(Mutex::new(Register::default()));
    ports.insert(REGISTER_PORT, REGISTER_PORTS, "test register", register)?;
    let lines = Arc::new(Mutex::new(Lines(lines)));
    ports.insert(IRQ_PORT, IRQ_PORTS, "test interrupt lines", lines)?;
    mmio.insert(window, WINDOW_LEN, "test window", Arc::new(Mutex::new(Window::default())))
}

#[derive(Default)]
struct Register([u8; 4]);

impl Register {
    /// The bytes of the register that an access touches; none for the flush port.
    fn part(&mut self, offset: u64, len: usize) -> Option<&mut [u8]> {
        let first = usize::try_from(offset).ok().filter(|first| *first < self.0.len())?;
        let end = first.checked_add(len)?.min(self.0.len());
        self.0.get_mut(first..end)
    }
}

impl Device for Register {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let Some(part) = self.part(offset, data.len()) else { return };
        for (to, from) in data.iter_mut().zip(part) {
            *to = *from;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let Some(part) = self.part(offset, data.len()) else { return };
        for (to, from) in part.iter_mut().zip(data) {
            *to = *from;
        }
    }
}

struct Lines(Vec<Box<dyn IrqLine>>);

impl Device for Lines {
    fn read(&mut self, _offset: u64, _data: &mut [u8]) {}

    fn write(&mut self, offset: u64, data: &[u8]) {
        let lines = usize::try_from(offset).ok().and_then(|first| self.0.get(first..));
        for (line, level) in lines.into_iter().flatten().zip(data) {
            line.set(*level != 0);
        }
    }
}

/// The window; its memory is there from the first write on.
#[derive(Default)]
struct Window(Vec<u8>);

impl Device for Window {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let bytes = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or(&[]);
        let bytes = bytes.iter().copied().chain(std::iter::repeat(0));
        for (to, from) in data.iter_mut().zip(bytes) {
            *to = from;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset >= WINDOW_LEN {
            return;
        }
        self.0.resize(WINDOW_LEN as usize, 0);
        let part =
            usize::try_from(offset).ok().and_then(|offset| self.0.get_mut(offset..)).unwrap_or_default();
        for (to, from) in part.iter_mut().zip(data) {
            *to = *from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::irqchip::IrqChip;
    use crate::devices::irqchip::rig::Messages;

    struct Rig {
        ports: Bus,
        mmio: Bus,
        messages: Arc<Messages>,
    }

    fn rig() -> Rig {
        let messages = Arc::new(Messages::default());
        let chip = IrqChip::new(messages.clone());
        let (mut ports, mut mmio) = (Bus::new(), Bus::new());
        chip.attach(&mut ports, &mut mmio).unwrap();
        let lines = (0..24).map(|gsi| Box::new(chip.line(gsi)) as Box<dyn IrqLine>).collect();
        attach(lines, &mut ports, &mut mmio, WINDOW_BASE).unwrap();
        Rig { ports, mmio, messages }
    }

    fn read<const N: usize>(bus: &Bus, address: u64) -> [u8; N] {
        let mut data = [0xEE; N];
        bus.read(address, &mut data);
        data
    }

    #[test]
    fn the_register_is_read_in_any_width() {
        let Rig { ports, .. } = rig();
        ports.write(0xE0, &0x1234_5678_u32.to_le_bytes());
        assert_eq!(read(&ports, 0xE0), [0x78_u8, 0x56, 0x34, 0x12]);
        assert_eq!(read(&ports, 0xE2), [0x34_u8, 0x12]);
        assert_eq!(read(&ports, 0xE3), [0x12_u8]);
        ports.write(0xE1, &[0xAB]);
        ports.write(0xE2, &[0xCD, 0xEF]);
        ports.write(0xE4, &[0; 4]);
        assert_eq!(read(&ports, 0xE0), [0x78_u8, 0xAB, 0xCD, 0xEF]);
        assert_eq!(read(&ports, 0xE3), [0xEF_u8, 0xFF]);
    }

    #[test]
    fn a_byte_drives_a_line() {
        let Rig { ports, mmio, messages } = rig();
        for (register, value) in [(0x10 + 2 * 14, 0x77), (0x11 + 2 * 14, 0), (0x10 + 2 * 20, 0x66)] {
            mmio.write(0xFEC0_0000, &u32::to_le_bytes(register));
            mmio.write(0xFEC0_0010, &u32::to_le_bytes(value));
        }
        for level in [1, 1, 0, 1, 0] {
            ports.write(0x200E, &[level]);
        }
        let data: Vec<_> = messages.take().iter().map(|message| message.data & 0xFF).collect();
        assert_eq!(data, [0x77, 0x77]);
        ports.write(0x2014, &[1]);
        assert_eq!(messages.take().len(), 1);
        ports.write(0x2013, &[0, 0, 1, 0]);
        assert_eq!(messages.take().len(), 0);
        ports.write(0x2013, &[0, 1]);
        assert_eq!(messages.take().len(), 1);
        ports.write(0x2017, &[1; 4]);
    }

    #[test]
    fn the_window_keeps_what_is_written() {
        let Rig { mmio, .. } = rig();
        assert_eq!(read(&mmio, WINDOW_BASE + 0xFFF8), [0_u8; 8]);
        mmio.write(WINDOW_BASE + 0xFFFC, &[1, 2, 3, 4]);
        mmio.write(WINDOW_BASE, &[9; 8]);
        assert_eq!(read(&mmio, WINDOW_BASE + 0xFFFA), [0_u8, 0, 1, 2, 3, 4]);
        assert_eq!(read(&mmio, WINDOW_BASE + 7), [9_u8, 0]);
    }
}

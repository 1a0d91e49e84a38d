//! The fixed devices of the AArch64 machine, and its device tree.
//!
//! The devices that a PC has at I/O ports and that are of use here are the same, in a window of memory that
//! stands for the ports: COM1's first register is at `PORTS + 0x3F8`.

#![forbid(unsafe_code)]

pub mod device_tree;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::debug_console::{self, DebugConsole};
use super::debug_exit::{self, DebugExit};
use super::pl031::{self, Pl031};
use super::pvpanic::{self, PvPanic};
use super::serial::{self, COM_NAMES, COM_PORTS, Serial, SerialSink};
use super::test_device;
use super::timer::{Clock, Timers, Waker};
use super::{Bus, BusError, EventSink, IrqLine};
use crate::accel::SpiLines;

/// The first guest-physical address of a device, behind the GIC.
pub const DEVICES: u64 = 0x0900_0000;
/// Guest-physical address of the real-time clock.
pub const RTC: u64 = 0x0901_0000;
/// Guest-physical address of `vm-accel exec`'s command channel. It has 64 KiB for itself, so that the guest's
/// `/dev/mem` maps it whatever the size of a page, and whatever Linux's `CONFIG_IO_STRICT_DEVMEM` forbids: the
/// pages on which a driver has a register.
pub const COMMAND_CHANNEL: u64 = 0x3EFE_0000;
/// Guest-physical address of the window that stands for I/O ports 0 to 0xFFFF.
pub const PORTS: u64 = 0x3EFF_0000;
/// Guest-physical address of the test device's window.
pub const TEST_WINDOW: u64 = 0x3F00_0000;

/// SPIs of COM1 to COM4.
pub const COM_SPIS: [u32; 4] = [1, 2, 3, 4];
/// SPI of the real-time clock.
pub const RTC_SPI: u32 = 8;
/// SPI of the test device's first line.
pub const TEST_SPI: u32 = 32;

/// A device's line to the GIC. It is lowered when it is dropped.
pub struct SpiLine {
    lines: Arc<dyn SpiLines>,
    spi: u32,
    level: AtomicBool,
}

impl SpiLine {
    /// The line of SPI number `spi`, which no other device has.
    #[must_use]
    pub fn new(lines: &Arc<dyn SpiLines>, spi: u32) -> Self {
        Self { lines: Arc::clone(lines), spi, level: AtomicBool::new(false) }
    }
}

impl IrqLine for SpiLine {
    fn set(&self, level: bool) {
        // The device's own lock orders its calls.
        if self.level.swap(level, Ordering::Relaxed) != level {
            self.lines.set_spi(self.spi, level);
        }
    }
}

impl Drop for SpiLine {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// What the devices are made with.
pub struct BoardSetup {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The GIC's lines.
    pub lines: Arc<dyn SpiLines>,
    /// Where guest events go.
    pub events: EventSink,
    /// Called when the earliest deadline of `Board::timers` changed.
    pub waker: Waker,
    /// Output of COM1 to COM4; a port without one does not exist.
    pub serial: [Option<SerialSink>; 4],
    /// Output of the debug console; without one it does not exist.
    pub debug_console: Option<SerialSink>,
}

/// The devices. Others are added to the buses.
pub struct Board {
    /// What is in the window that stands for I/O ports.
    pub ports: Bus,
    /// MMIO outside that window.
    pub mmio: Bus,
    /// Devices with deadlines.
    pub timers: Timers,
    /// COM1 to COM4.
    pub serial: [Option<Arc<Mutex<Serial>>>; 4],
}

impl Board {
    /// Makes the devices and puts them on their buses.
    ///
    /// # Errors
    /// When two devices overlap, which their addresses do not.
    pub fn new(setup: BoardSetup) -> Result<Self, BusError> {
        let BoardSetup { clock, lines, events, waker, serial, debug_console } = setup;
        let (mut ports, mut mmio, mut timers) = (Bus::new(), Bus::new(), Timers::default());
        let line = |spi| Box::new(SpiLine::new(&lines, spi)) as Box<dyn IrqLine>;

        let rtc = Arc::new(Mutex::new(Pl031::new(clock, line(RTC_SPI), waker)));
        mmio.insert(RTC, pl031::BYTES, "rtc", rtc.clone())?;
        timers.add(rtc);

        let mut coms = [const { None }; 4];
        let places = COM_PORTS.into_iter().zip(COM_SPIS).zip(COM_NAMES);
        for ((com, sink), (((port, _), spi), name)) in coms.iter_mut().zip(serial).zip(places) {
            let Some(sink) = sink else { continue };
            let device = Arc::new(Mutex::new(Serial::new(line(spi), sink)));
            ports.insert(port, serial::PORTS, name, device.clone())?;
            *com = Some(device);
        }

        let exit = Arc::new(Mutex::new(DebugExit::new(events.clone())));
        ports.insert(debug_exit::PORT, debug_exit::PORTS, "debug exit", exit)?;
        let panic = Arc::new(Mutex::new(PvPanic::new(events)));
        ports.insert(pvpanic::PORT, 1, "pvpanic", panic)?;
        if let Some(sink) = debug_console {
            let console = Arc::new(Mutex::new(DebugConsole::new(sink)));
            ports.insert(debug_console::PORT, 1, "debug console", console)?;
        }
        let test_lines = (TEST_SPI..).map(line).take(test_device::IRQ_PORTS as usize).collect();
        test_device::attach(test_lines, &mut ports, &mut mmio, TEST_WINDOW)?;
        Ok(Self { ports, mmio, timers, serial: coms })
    }

    /// All devices on one bus: those at ports are in their window.
    ///
    /// # Errors
    /// When a device that was added overlaps another.
    pub fn into_bus(self) -> Result<Bus, BusError> {
        let mut bus = self.mmio;
        bus.absorb(self.ports, PORTS)?;
        Ok(bus)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::devices::GuestEvent;
    use crate::devices::lock;
    use crate::devices::rig::Events;
    use crate::devices::timer::TestClock;

    #[derive(Default)]
    struct Lines(Mutex<Vec<(u32, bool)>>);

    impl SpiLines for Lines {
        fn set_spi(&self, spi: u32, level: bool) {
            lock(&self.0).push((spi, level));
        }
    }

    struct Rig {
        board: Board,
        lines: Arc<Lines>,
        events: Events,
        output: Arc<Mutex<Vec<u8>>>,
    }

    fn rig() -> Rig {
        let (lines, events, output) = (Arc::new(Lines::default()), Events::default(), Arc::default());
        let sink = |output: &Arc<Mutex<Vec<u8>>>| {
            let output = Arc::clone(output);
            Box::new(move |byte| lock(&output).push(byte)) as SerialSink
        };
        let board = Board::new(BoardSetup {
            clock: TestClock::at(Duration::from_secs(1000)),
            lines: lines.clone(),
            events: events.sink(),
            waker: Arc::new(|| {}),
            serial: [Some(sink(&output)), None, None, None],
            debug_console: Some(sink(&output)),
        })
        .unwrap();
        Rig { board, lines, events, output }
    }

    #[test]
    fn the_ports_of_a_pc_are_in_the_window() {
        let rig = rig();
        let com1 = rig.board.serial[0].clone().unwrap();
        let bus = rig.board.into_bus().unwrap();
        bus.write(PORTS + 0x3F8, b"a");
        bus.write(PORTS + 0xE9, b"b");
        assert_eq!(*lock(&rig.output), b"ab");
        bus.write(PORTS + 0xF4, &7_u32.to_le_bytes());
        bus.write(PORTS + 0x505, &[1]);
        assert_eq!(rig.events.take(), [GuestEvent::DebugExit(7), GuestEvent::Panicked]);
        // The receive interrupt: on, input, read away.
        bus.write(PORTS + 0x3F9, &[1]);
        assert_eq!(lock(&com1).enqueue(b"x"), 1);
        let mut byte = [0];
        bus.read(PORTS + 0x3F8, &mut byte);
        assert_eq!((byte, lock(&rig.lines.0).clone()), (*b"x", vec![(1, true), (1, false)]));
        // COM2 does not exist.
        bus.read(PORTS + 0x2F8, &mut byte);
        assert_eq!(byte, [0xFF]);
    }

    #[test]
    fn the_test_device_drives_lines_and_the_clock_counts() {
        let rig = rig();
        let bus = rig.board.into_bus().unwrap();
        for level in [1, 1, 0] {
            bus.write(PORTS + 0x2003, &[level]);
        }
        assert_eq!(*lock(&rig.lines.0), [(35, true), (35, false)]);
        let mut seconds = [0; 4];
        bus.read(RTC, &mut seconds);
        assert_eq!(u32::from_le_bytes(seconds), 1000);
        bus.write(TEST_WINDOW + 8, &[1, 2, 3]);
        let mut bytes = [0; 4];
        bus.read(TEST_WINDOW + 8, &mut bytes);
        assert_eq!(bytes, [1, 2, 3, 0]);
    }

    #[test]
    fn no_device_shares_a_page_with_the_command_channel() {
        const PAGE: u64 = 64 << 10;
        assert_eq!(COMMAND_CHANNEL % PAGE, 0);
        let bus = rig().board.into_bus().unwrap();
        for (range, name) in bus.ranges() {
            assert!(range.last < COMMAND_CHANNEL || range.first >= COMMAND_CHANNEL + PAGE, "{name}: {range}");
        }
    }

    proptest! {
        #[test]
        fn no_access_makes_a_device_panic(
            accesses in prop::collection::vec(
                (any::<prop::sample::Index>(), -2_i8..12, 1_usize..=8, any::<u64>(), any::<bool>()), 1..200,
            ),
        ) {
            let bus = rig().board.into_bus().unwrap();
            let starts: Vec<_> = bus.ranges().map(|(range, _)| range.first).collect();
            for (index, near, size, value, write) in accesses {
                let address = index.get(&starts).wrapping_add_signed(near.into());
                let mut data = value.to_le_bytes();
                if write { bus.write(address, &data[..size]) } else { bus.read(address, &mut data[..size]) }
            }
        }
    }
}

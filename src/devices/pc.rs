//! The fixed devices of the machine, at the addresses where a PC has them.

#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex};

use super::debug_console::{self, DebugConsole};
use super::debug_exit::{self, DebugExit};
use super::fw_cfg::{self, FwCfg, FwCfgSetup};
use super::i8042::I8042;
use super::irqchip::IrqChip;
use super::irqchip::pit::Pit;
use super::port_92::{self, Port92};
use super::post::{self, Post};
use super::pvpanic::{self, PvPanic};
use super::reset_control::{self, ResetControl};
use super::rtc::{self, MemorySize, Rtc};
use super::serial::{self, COM_NAMES, COM_PORTS, Serial, SerialSink};
use super::test_device;
use super::timer::{Clock, Timers, Waker};
use super::{Bus, BusError, EventSink, IrqLine};
use crate::accel::MsiSink;

/// What the devices are made with.
pub struct PcSetup {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// RAM sizes for the CMOS.
    pub memory: MemorySize,
    /// Number of processors, for the firmware configuration device.
    pub cpus: u16,
    /// Where interrupt messages go.
    pub msi: Arc<dyn MsiSink>,
    /// Where guest events go.
    pub events: EventSink,
    /// Called when the earliest deadline of `Pc::timers` changed.
    pub waker: Waker,
    /// Output of COM1 to COM4; a port without one does not exist.
    pub serial: [Option<SerialSink>; 4],
    /// Output of the debug console; without one the port does not exist.
    pub debug_console: Option<SerialSink>,
}

/// The devices. Others (ACPI, virtio) are added to the buses.
pub struct Pc {
    /// Port I/O.
    pub ports: Bus,
    /// MMIO.
    pub mmio: Bus,
    /// Interrupt controllers.
    pub irqchip: Arc<IrqChip>,
    /// Devices with deadlines.
    pub timers: Timers,
    /// COM1 to COM4.
    pub serial: [Option<Arc<Mutex<Serial>>>; 4],
    /// The POST code.
    pub post: Arc<Mutex<Post>>,
}

impl Pc {
    /// Makes the devices and puts them on their buses.
    ///
    /// # Errors
    /// When two devices overlap, which their addresses do not.
    pub fn new(setup: PcSetup) -> Result<Self, BusError> {
        let PcSetup { clock, memory, cpus, msi, events, waker, serial, debug_console } = setup;
        let irqchip = IrqChip::new(msi);
        let (mut ports, mut mmio, mut timers) = (Bus::new(), Bus::new(), Timers::default());
        irqchip.attach(&mut ports, &mut mmio)?;

        let pit = Arc::new(Mutex::new(Pit::new(clock.clone(), Box::new(irqchip.line(0)), waker.clone())));
        Pit::attach(&pit, &mut ports)?;
        timers.add(pit);

        let rtc = Rtc::new(clock, memory, Box::new(irqchip.line(rtc::IRQ)), waker);
        let rtc = Arc::new(Mutex::new(rtc));
        ports.insert(rtc::PORT, rtc::PORTS, "rtc", rtc.clone())?;
        timers.add(rtc);

        let mut coms = [const { None }; 4];
        for (((com, sink), (port, irq)), name) in coms.iter_mut().zip(serial).zip(COM_PORTS).zip(COM_NAMES) {
            let Some(sink) = sink else { continue };
            let device = Arc::new(Mutex::new(Serial::new(Box::new(irqchip.line(irq)), sink)));
            ports.insert(port, serial::PORTS, name, device.clone())?;
            *com = Some(device);
        }

        let i8042 = Arc::new(Mutex::new(I8042::new(Box::new(irqchip.line(1)), events.clone())));
        I8042::attach(&i8042, &mut ports)?;
        let port_92 = Arc::new(Mutex::new(Port92::new(events.clone())));
        ports.insert(port_92::PORT, 1, "system control port a", port_92)?;
        let reset = Arc::new(Mutex::new(ResetControl::new(events.clone())));
        ports.insert(reset_control::PORT, reset_control::PORTS, "reset control", reset)?;
        let exit = Arc::new(Mutex::new(DebugExit::new(events.clone())));
        ports.insert(debug_exit::PORT, debug_exit::PORTS, "debug exit", exit)?;
        let panic = Arc::new(Mutex::new(PvPanic::new(events)));
        ports.insert(pvpanic::PORT, 1, "pvpanic", panic)?;
        let ram = memory.low.saturating_add(memory.high);
        let fw_cfg = Arc::new(Mutex::new(FwCfg::new(FwCfgSetup { ram, cpus })));
        ports.insert(fw_cfg::PORT, fw_cfg::PORTS, "fw_cfg", fw_cfg)?;
        let lines = (0..test_device::IRQ_PORTS).map_while(|gsi| u8::try_from(gsi).ok());
        let lines = lines.map(|gsi| Box::new(irqchip.line(gsi)) as Box<dyn IrqLine>).collect();
        test_device::attach(lines, &mut ports, &mut mmio, test_device::WINDOW_BASE)?;
        let post = Arc::new(Mutex::new(Post::default()));
        ports.insert(post::PORT, 1, "post code", post.clone())?;
        if let Some(sink) = debug_console {
            let console = Arc::new(Mutex::new(DebugConsole::new(sink)));
            ports.insert(debug_console::PORT, 1, "debug console", console)?;
        }
        Ok(Self { ports, mmio, irqchip, timers, serial: coms, post })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::accel::InterruptController;
    use crate::devices::irqchip::IOAPIC_BASE;
    use crate::devices::irqchip::lapic::{ApicBus, Lapic, LapicSetup};
    use crate::devices::rig::Events;
    use crate::devices::timer::TestClock;
    use crate::devices::{GuestEvent, lock};

    struct Rig {
        pc: Pc,
        lapics: Vec<Arc<Lapic>>,
        clock: Arc<TestClock>,
        events: Events,
    }

    fn rig() -> Rig {
        let (bus, events) = (ApicBus::new(), Events::default());
        let clock = TestClock::at(Duration::from_secs(1_700_000_000));
        let pc = Pc::new(PcSetup {
            clock: clock.clone(),
            memory: MemorySize { low: 1 << 30, high: 0 },
            cpus: 2,
            msi: bus.clone(),
            events: events.sink(),
            waker: Arc::new(|| {}),
            serial: std::array::from_fn(|_| Some(Box::new(|_| {}) as SerialSink)),
            debug_console: Some(Box::new(|_| {})),
        })
        .unwrap();
        let lapics = (0..2)
            .map(|id| {
                let lapic = bus.add(LapicSetup {
                    id,
                    is_bsp: id == 0,
                    clock: clock.clone(),
                    tsc: Arc::new(|_| None),
                    interrupts: pc.irqchip.clone(),
                    wake: Arc::new(|| {}),
                    timer_changed: Arc::new(|| {}),
                });
                lapic.mmio_write(0xF0, 0x1FF);
                lapic
            })
            .collect();
        Rig { pc, lapics, clock, events }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Port { range: prop::sample::Index, near: i8, size: usize, value: u64, write: bool },
        AnyPort { port: u16, size: usize, value: u64, write: bool },
        Ioapic { offset: u16, size: usize, value: u64, write: bool },
        IoapicRegister { register: u8, value: u32 },
        Time { micros: u32 },
        Input { com: usize, bytes: Vec<u8> },
        Interrupts,
    }

    fn step() -> impl Strategy<Value = Step> {
        let size = || prop::sample::select(vec![1_usize, 2, 4, 8]);
        let byte_or_word = || prop_oneof![any::<u8>().prop_map(u64::from), any::<u64>()];
        prop_oneof![
            8 => (any::<prop::sample::Index>(), -2_i8..10, size(), byte_or_word(), any::<bool>()).prop_map(
                |(range, near, size, value, write)| Step::Port { range, near, size, value, write }
            ),
            1 => (any::<u16>(), size(), any::<u64>(), any::<bool>())
                .prop_map(|(port, size, value, write)| Step::AnyPort { port, size, value, write }),
            1 => (0_u16..0x1010, size(), any::<u64>(), any::<bool>())
                .prop_map(|(offset, size, value, write)| Step::Ioapic { offset, size, value, write }),
            2 => (0_u8..0x42, any::<u32>())
                .prop_map(|(register, value)| Step::IoapicRegister { register, value }),
            2 => prop_oneof![0_u32..1000, 0_u32..100_000_000].prop_map(|micros| Step::Time { micros }),
            1 => (0_usize..4, prop::collection::vec(any::<u8>(), 0..40))
                .prop_map(|(com, bytes)| Step::Input { com, bytes }),
            2 => Just(Step::Interrupts),
        ]
    }

    fn access(bus: &Bus, address: u64, size: usize, value: u64, write: bool) {
        let mut data = value.to_le_bytes();
        let data = data.get_mut(..size).unwrap();
        if write { bus.write(address, data) } else { bus.read(address, data) }
    }

    impl Rig {
        fn step(&self, step: Step) {
            match step {
                Step::Port { range, near, size, value, write } => {
                    let ranges: Vec<_> = self.pc.ports.ranges().map(|(range, _)| range.first).collect();
                    let port = range.get(&ranges).wrapping_add_signed(near.into());
                    access(&self.pc.ports, port, size, value, write);
                }
                Step::AnyPort { port, size, value, write } => {
                    access(&self.pc.ports, port.into(), size, value, write);
                }
                Step::Ioapic { offset, size, value, write } => {
                    access(&self.pc.mmio, IOAPIC_BASE + u64::from(offset), size, value, write);
                }
                Step::IoapicRegister { register, value } => {
                    access(&self.pc.mmio, IOAPIC_BASE, 4, register.into(), true);
                    access(&self.pc.mmio, IOAPIC_BASE + 0x10, 4, value.into(), true);
                }
                Step::Time { micros } => {
                    self.clock.advance(Duration::from_micros(micros.into()));
                    self.pc.timers.expire(self.clock.now());
                }
                Step::Input { com, bytes } => {
                    let serial = self.pc.serial[com].as_ref().unwrap();
                    assert!(lock(serial).enqueue(&bytes) <= bytes.len());
                }
                Step::Interrupts => {
                    let pending = self.pc.irqchip.extint_pending();
                    assert_eq!(self.pc.irqchip.extint_acknowledge().is_some(), pending);
                    for lapic in &self.lapics {
                        let _ = lapic.acknowledge();
                        lapic.mmio_write(0xB0, 0);
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn no_access_makes_a_device_panic(steps in prop::collection::vec(step(), 1..300)) {
            let rig = rig();
            for step in steps {
                rig.step(step);
            }
        }

        #[test]
        fn no_offset_makes_a_device_panic(
            steps in prop::collection::vec(
                (any::<prop::sample::Index>(), any::<u64>(), 0_usize..=8, any::<u64>(), any::<bool>()), 1..50,
            ),
        ) {
            let rig = rig();
            let devices: Vec<_> = rig.pc.ports.devices().chain(rig.pc.mmio.devices()).collect();
            for (index, offset, size, value, write) in steps {
                let device: &Arc<Mutex<dyn crate::devices::Device>> = index.get(&devices);
                let mut device = lock(device);
                let mut data = value.to_le_bytes();
                if write { device.write(offset, &data[..size]) } else { device.read(offset, &mut data[..size]) }
            }
        }
    }

    #[test]
    fn a_timer_tick_goes_all_the_way() {
        let rig = rig();
        let route = |register: u8, value: u32| {
            rig.pc.mmio.write(IOAPIC_BASE, &[register]);
            rig.pc.mmio.write(IOAPIC_BASE + 0x10, &value.to_le_bytes());
        };
        route(0x15, 1 << 24);
        route(0x14, 0x30);
        let deadline = rig.pc.timers.deadline().unwrap();
        rig.clock.advance(deadline - rig.clock.now());
        rig.pc.timers.expire(rig.clock.now());
        assert_eq!(rig.lapics[0].acknowledge(), None);
        assert_eq!(rig.lapics[1].acknowledge(), Some(0x30));
    }

    #[test]
    fn a_level_triggered_line_is_delivered_until_it_falls() {
        use crate::devices::IrqLine;
        let rig = rig();
        rig.pc.mmio.write(IOAPIC_BASE, &[0x10 + 2 * 20]);
        rig.pc.mmio.write(IOAPIC_BASE + 0x10, &0x8050_u32.to_le_bytes());
        let line = rig.pc.irqchip.line(20);
        line.set(true);
        for _ in 0..3 {
            assert_eq!(rig.lapics[0].acknowledge(), Some(0x50));
            assert_eq!(rig.lapics[0].acknowledge(), None);
            rig.lapics[0].mmio_write(0xB0, 0);
        }
        line.set(false);
        assert_eq!(rig.lapics[0].acknowledge(), Some(0x50), "it was delivered before the line fell");
        rig.lapics[0].mmio_write(0xB0, 0);
        assert_eq!(rig.lapics[0].acknowledge(), None);
    }

    #[test]
    fn the_ports_that_end_a_run() {
        let rig = rig();
        for (port, value) in [(0x64, 0xFE), (0x92, 1), (0xCF9, 6), (0xF4, 7), (0x505, 1), (0xCF8, 6)] {
            rig.pc.ports.write(port, &[value]);
        }
        let reset = GuestEvent::Reset;
        assert_eq!(rig.events.take(), [reset, reset, reset, GuestEvent::DebugExit(7), GuestEvent::Panicked]);
    }

    #[test]
    fn lines_eois_and_ipis_from_many_threads_do_not_deadlock() {
        use crate::devices::IrqLine;
        let rig = rig();
        rig.pc.mmio.write(IOAPIC_BASE, &[0x10 + 2 * 20]);
        rig.pc.mmio.write(IOAPIC_BASE + 0x10, &0x8050_u32.to_le_bytes());
        std::thread::scope(|scope| {
            let line = rig.pc.irqchip.line(20);
            scope.spawn(move || (0..2000).for_each(|_| line.pulse()));
            for lapic in &rig.lapics {
                scope.spawn(move || {
                    for _ in 0..2000 {
                        let _ = lapic.acknowledge();
                        lapic.mmio_write(0xB0, 0);
                        lapic.mmio_write(0x300, 0x8_0060);
                    }
                });
            }
        });
    }
}

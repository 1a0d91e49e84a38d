//! Interrupt controllers and the interval timer, shared by all backends.

#![forbid(unsafe_code)]

pub mod gicv3;
pub mod ioapic;
pub mod lapic;
pub mod pic;
pub mod pit;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::{Bus, BusError, ByteDevice, Device, IrqLine, lock};
use crate::accel::{InterruptController, Kick, MsiMessage, MsiSink};
use ioapic::IoApic;
use pic::{PicPair, PicPort};

/// Guest-physical address of the IOAPIC.
pub const IOAPIC_BASE: u64 = 0xFEC0_0000;

/// Length of the IOAPIC's page in bytes.
pub const IOAPIC_LEN: u64 = 0x1000;

/// Number of global system interrupts.
pub const GSIS: u8 = ioapic::PINS;

/// The IOAPIC pin of ISA IRQ 0, the timer: the MADT tells it as an override.
pub const TIMER_PIN: u8 = 2;

/// The IOAPIC pin that the 8259 pair's INTR is wired to.
const EXTINT_PIN: u8 = 0;

/// The 8259 pair and the IOAPIC behind one lock.
pub struct IrqChip {
    state: Mutex<State>,
    /// The 8259 pair's INTR.
    intr: AtomicBool,
    msi: Arc<dyn MsiSink>,
    boot_kick: OnceLock<Arc<dyn Kick>>,
}

#[derive(Default)]
struct State {
    pic: PicPair,
    ioapic: IoApic,
    /// How many devices assert each line: lines are wired-or.
    asserted: [u32; GSIS as usize],
    /// The level-triggered messages that the backend knows of.
    level_routes: Vec<MsiMessage>,
}

impl IrqChip {
    /// The chips after reset. Interrupt messages go to `msi`.
    #[must_use]
    pub fn new(msi: Arc<dyn MsiSink>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            intr: AtomicBool::new(false),
            msi,
            boot_kick: OnceLock::new(),
        })
    }

    /// Sets who is kicked when the 8259 pair wants the boot processor. The first call counts.
    pub fn set_boot_kick(&self, kick: Arc<dyn Kick>) {
        if self.boot_kick.set(kick).is_ok() && self.extint_pending() {
            self.kick();
        }
    }

    /// A line for one device. `gsi` is an ISA IRQ (0 to 15, where 0 is the IOAPIC's pin 2) or an IOAPIC
    /// pin (16 to 23). Devices may share a line. Line 2 and those that do not exist lead nowhere.
    #[must_use]
    pub fn line(self: &Arc<Self>, gsi: u8) -> GsiLine {
        GsiLine { chip: Arc::clone(self), gsi, level: AtomicBool::new(false) }
    }

    /// Puts the registers of all chips on the buses.
    ///
    /// # Errors
    /// When an address is taken.
    pub fn attach(self: &Arc<Self>, ports: &mut Bus, mmio: &mut Bus) -> Result<(), BusError> {
        let device = Arc::new(Mutex::new(PicRegisters(Arc::clone(self))));
        ports.insert_window(0x20, 2, "pic master", device.clone(), 0x20)?;
        ports.insert_window(0xA0, 2, "pic slave", device.clone(), 0xA0)?;
        ports.insert_window(0x4D0, 2, "pic edge/level control", device, 0x4D0)?;
        let device = Arc::new(Mutex::new(IoApicRegisters(Arc::clone(self))));
        mmio.insert(IOAPIC_BASE, IOAPIC_LEN, "ioapic", device)
    }

    /// Does something to the chips, then brings INTR and what hangs on it up to date.
    fn with<T>(&self, f: impl FnOnce(&mut State, &mut dyn FnMut(MsiMessage)) -> T) -> T {
        let mut guard = lock(&self.state);
        let mut send = |message| self.msi.signal_msi(message);
        let result = f(&mut guard, &mut send);
        let intr = guard.pic.intr();
        let rose = intr && !self.intr.swap(intr, Ordering::SeqCst);
        if !intr {
            self.intr.store(false, Ordering::SeqCst);
        }
        guard.ioapic.set_pin(EXTINT_PIN, intr, &mut send);
        drop(guard);
        if rose {
            self.kick();
        }
        result
    }

    fn kick(&self) {
        if let Some(kick) = self.boot_kick.get() {
            kick.kick();
        }
    }
}

impl State {
    fn set_gsi(&mut self, gsi: u8, level: bool, send: &mut dyn FnMut(MsiMessage)) {
        let Some(count) = self.asserted.get_mut(usize::from(gsi)) else { return };
        *count = if level { count.saturating_add(1) } else { count.saturating_sub(1) };
        let level = *count != 0;
        match gsi {
            0 => {
                self.pic.set_irq(0, level);
                self.ioapic.set_pin(TIMER_PIN, level, send);
            }
            TIMER_PIN => {}
            1..16 => {
                self.pic.set_irq(gsi, level);
                self.ioapic.set_pin(gsi, level, send);
            }
            _ => self.ioapic.set_pin(gsi, level, send),
        }
    }
}

impl InterruptController for IrqChip {
    fn extint_pending(&self) -> bool {
        self.intr.load(Ordering::SeqCst)
    }

    /// `None` when the request was withdrawn meanwhile: then there is no INTA cycle.
    fn extint_acknowledge(&self) -> Option<u8> {
        self.with(|state, send| {
            let vector = state.pic.intr().then(|| state.pic.acknowledge());
            // INTR falls with the INTA cycle: for another request it rises again, and makes another message.
            state.ioapic.set_pin(EXTINT_PIN, false, send);
            vector
        })
    }

    fn eoi(&self, vector: u8) {
        self.with(|state, send| state.ioapic.eoi(vector, send));
    }
}

/// A device's interrupt line. It is lowered when it is dropped.
pub struct GsiLine {
    chip: Arc<IrqChip>,
    gsi: u8,
    level: AtomicBool,
}

impl IrqLine for GsiLine {
    fn set(&self, level: bool) {
        if self.level.load(Ordering::Relaxed) == level {
            return;
        }
        self.chip.with(|state, send| {
            // The lock orders callers that share this line.
            if self.level.swap(level, Ordering::Relaxed) != level {
                state.set_gsi(self.gsi, level, send);
            }
        });
    }
}

impl Drop for GsiLine {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// The 8259 pair's ports; the offset is the port itself.
struct PicRegisters(Arc<IrqChip>);

impl PicRegisters {
    fn decode(port: u64) -> Option<(bool, PicPort)> {
        Some(match port {
            0x20 => (false, PicPort::Command),
            0x21 => (false, PicPort::Data),
            0xA0 => (true, PicPort::Command),
            0xA1 => (true, PicPort::Data),
            0x4D0 => (false, PicPort::EdgeLevel),
            0x4D1 => (true, PicPort::EdgeLevel),
            _ => return None,
        })
    }
}

impl ByteDevice for PicRegisters {
    fn read_byte(&mut self, offset: u64) -> u8 {
        Self::decode(offset).map_or(0xFF, |(slave, port)| self.0.with(|state, _| state.pic.read(slave, port)))
    }

    fn write_byte(&mut self, offset: u64, value: u8) {
        if let Some((slave, port)) = Self::decode(offset) {
            self.0.with(|state, _| state.pic.write(slave, port, value));
        }
    }
}

/// The IOAPIC's page.
struct IoApicRegisters(Arc<IrqChip>);

impl Device for IoApicRegisters {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        lock(&self.0.state).ioapic.read(offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.0.with(|state, send| {
            state.ioapic.write(offset, data, send);
            // A level-triggered pin is rare, so this is nearly always two empty lists.
            if !state.level_routes.iter().copied().eq(state.ioapic.level_routes()) {
                state.level_routes = state.ioapic.level_routes().collect();
                self.0.msi.level_routes_changed(&state.level_routes);
            }
        });
    }
}

/// Rigs for the tests of the devices.
#[cfg(test)]
pub(crate) mod rig {
    use super::*;

    /// Remembers the messages.
    #[derive(Default)]
    pub(crate) struct Messages(Mutex<Vec<MsiMessage>>, Mutex<Vec<usize>>);

    impl Messages {
        pub(crate) fn take(&self) -> Vec<MsiMessage> {
            std::mem::take(&mut *lock(&self.0))
        }

        /// How many level-triggered routes there were after each change since the last call.
        pub(crate) fn take_route_changes(&self) -> Vec<usize> {
            std::mem::take(&mut *lock(&self.1))
        }
    }

    impl MsiSink for Messages {
        fn signal_msi(&self, message: MsiMessage) {
            lock(&self.0).push(message);
        }

        fn level_routes_changed(&self, routes: &[MsiMessage]) {
            lock(&self.1).push(routes.len());
        }
    }

    /// A line that counts its rising edges.
    #[derive(Default, Clone)]
    pub(crate) struct CountedLine(Arc<Mutex<(bool, usize)>>);

    impl CountedLine {
        pub(crate) fn level(&self) -> bool {
            lock(&self.0).0
        }

        /// The rising edges since the last call.
        pub(crate) fn take_edges(&self) -> usize {
            std::mem::take(&mut lock(&self.0).1)
        }
    }

    impl IrqLine for CountedLine {
        fn set(&self, level: bool) {
            let mut state = lock(&self.0);
            if level && !state.0 {
                state.1 += 1;
            }
            state.0 = level;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::rig::Messages;
    use super::*;

    #[derive(Default)]
    struct Kicks(AtomicUsize);

    impl Kick for Kicks {
        fn kick(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct Rig {
        chip: Arc<IrqChip>,
        messages: Arc<Messages>,
        kicks: Arc<Kicks>,
        ports: Bus,
        mmio: Bus,
    }

    impl Rig {
        fn new() -> Self {
            let messages = Arc::new(Messages::default());
            let chip = IrqChip::new(messages.clone());
            let kicks = Arc::new(Kicks::default());
            chip.set_boot_kick(kicks.clone());
            let (mut ports, mut mmio) = (Bus::new(), Bus::new());
            chip.attach(&mut ports, &mut mmio).unwrap();
            Self { chip, messages, kicks, ports, mmio }
        }

        fn out(&self, port: u64, value: u8) {
            self.ports.write(port, &[value]);
        }

        /// The 8259 pair as Linux sets it up, with everything unmasked.
        fn init_pic(&self) {
            for (port, icws) in [(0x20, [0x30, 4, 1, 0]), (0xA0, [0x38, 2, 1, 0])] {
                self.out(port, 0x11);
                for icw in icws {
                    self.out(port + 1, icw);
                }
            }
        }

        fn route(&self, pin: u8, low: u32) {
            self.mmio.write(IOAPIC_BASE, &[0x10 + 2 * pin]);
            self.mmio.write(IOAPIC_BASE + 0x10, &low.to_le_bytes());
        }

        fn vectors(&self) -> Vec<u32> {
            self.messages.take().iter().map(|message| message.data & 0xFF).collect()
        }
    }

    #[test]
    fn a_line_reaches_both_chips() {
        let rig = Rig::new();
        rig.init_pic();
        rig.route(4, 0x44);
        let line = rig.chip.line(4);
        line.set(true);
        assert!(rig.chip.extint_pending());
        assert_eq!(rig.kicks.0.load(Ordering::Relaxed), 1);
        assert_eq!(rig.chip.extint_acknowledge(), Some(0x34));
        assert!(!rig.chip.extint_pending());
        assert_eq!(rig.chip.extint_acknowledge(), None);
        assert_eq!(rig.vectors(), [0x44]);
    }

    #[test]
    fn the_timer_is_pin_2_and_its_edges_count_only_when_unmasked() {
        let rig = Rig::new();
        let timer = rig.chip.line(0);
        rig.route(2, 0x1_0030);
        timer.pulse();
        assert!(rig.vectors().is_empty());
        rig.route(2, 0x30);
        timer.pulse();
        timer.pulse();
        assert_eq!(rig.vectors(), [0x30, 0x30]);
        let nowhere = rig.chip.line(2);
        nowhere.pulse();
        rig.chip.line(200).pulse();
        assert!(rig.vectors().is_empty());
    }

    #[test]
    fn the_8259_pair_goes_through_the_ioapic_as_extint() {
        let rig = Rig::new();
        rig.init_pic();
        rig.route(0, 0x700);
        rig.chip.line(0).pulse();
        assert_eq!(rig.messages.take(), [MsiMessage { address: 0xFEE0_0000, data: 0x700 }]);
        assert_eq!(rig.chip.extint_acknowledge(), Some(0x30));
    }

    #[test]
    fn each_request_of_the_8259_pair_makes_a_message() {
        let rig = Rig::new();
        rig.init_pic();
        // Again, with automatic end of interrupt: INTR stays up from one request to the next.
        rig.out(0x20, 0x11);
        for icw in [0x30, 4, 3, 0] {
            rig.out(0x21, icw);
        }
        rig.route(0, 0x700);
        rig.chip.line(3).pulse();
        rig.chip.line(0).pulse();
        assert_eq!(rig.messages.take().len(), 1);
        assert_eq!(rig.chip.extint_acknowledge(), Some(0x30));
        assert_eq!(rig.messages.take().len(), 1);
        assert_eq!(rig.chip.extint_acknowledge(), Some(0x33));
        assert!(rig.messages.take().is_empty());
    }

    #[test]
    fn a_shared_line_stays_up_until_all_lower_it() {
        let rig = Rig::new();
        rig.route(17, 0x8050);
        let (a, b) = (rig.chip.line(17), rig.chip.line(17));
        a.set(true);
        b.set(true);
        assert_eq!(rig.vectors(), [0x50]);
        a.set(false);
        rig.chip.eoi(0x50);
        assert_eq!(rig.vectors(), [0x50], "b still asserts it");
        drop(b);
        rig.chip.eoi(0x50);
        assert!(rig.vectors().is_empty());
    }

    #[test]
    fn the_backend_hears_of_level_triggered_pins() {
        let rig = Rig::new();
        let set = |register: u32, value: u32| {
            rig.mmio.write(IOAPIC_BASE, &register.to_le_bytes());
            rig.mmio.write(IOAPIC_BASE + 0x10, &value.to_le_bytes());
        };
        set(0x18, 0x31);
        assert!(rig.messages.take_route_changes().is_empty(), "an edge-triggered pin needs no route");
        set(0x1A, 0x8032);
        set(0x1C, 0x8033);
        set(0x1A, 0x1_8032);
        assert_eq!(rig.messages.take_route_changes(), [1, 2, 1]);
    }

    #[test]
    fn a_kick_that_is_set_late_still_comes() {
        let chip = IrqChip::new(Arc::new(Messages::default()));
        let (mut ports, mut mmio) = (Bus::new(), Bus::new());
        chip.attach(&mut ports, &mut mmio).unwrap();
        ports.write(0x21, &[0]);
        chip.line(1).pulse();
        let kicks = Arc::new(Kicks::default());
        chip.set_boot_kick(kicks.clone());
        assert_eq!(kicks.0.load(Ordering::Relaxed), 1);
    }
}

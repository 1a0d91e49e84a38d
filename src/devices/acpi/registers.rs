//! The registers behind the tables: sleep control and status, and the power button's event register.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::devices::{Device, EventSink, GuestEvent, IrqLine};

/// Offset of the sleep control register (ACPI 6.5, section 4.8.3.7).
pub(super) const SLEEP_CONTROL: u16 = 0;
/// Offset of the sleep status register. Its only bit says that the machine woke up, which never happens.
pub(super) const SLEEP_STATUS: u16 = 1;
/// Offset of the event register: a read gives the events since the last one.
pub(super) const EVENTS: u16 = 2;
/// SLP_TYP of soft off.
pub(super) const SLEEP_TYPE_S5: u8 = 5;
/// Event: the power button was pressed.
pub(super) const POWER_BUTTON: u8 = 1;

const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 0b111;

/// The device at [`super::ACPI_PORT`].
pub struct AcpiRegisters {
    sink: EventSink,
    button: PowerButton,
}

/// The machine's power button.
#[derive(Clone)]
pub struct PowerButton {
    events: Arc<Mutex<Events>>,
}

struct Events {
    pending: u8,
    line: Box<dyn IrqLine>,
}

impl AcpiRegisters {
    /// The registers; soft off goes to `sink`, and `line` is [`super::POWER_BUTTON_GSI`].
    #[must_use]
    pub fn new(sink: EventSink, line: Box<dyn IrqLine>) -> Self {
        let events = Arc::new(Mutex::new(Events { pending: 0, line }));
        Self { sink, button: PowerButton { events } }
    }

    /// The power button, for the host's side.
    #[must_use]
    pub fn power_button(&self) -> PowerButton {
        self.button.clone()
    }
}

impl PowerButton {
    /// Presses the button: the guest is asked to power off. A guest without an ACPI driver ignores it.
    pub fn press(&self) {
        let mut events = self.lock();
        events.pending |= POWER_BUTTON;
        events.line.set(true);
    }

    /// The events since the last call; lowers the line.
    fn take(&self) -> u8 {
        let mut events = self.lock();
        events.line.set(false);
        std::mem::take(&mut events.pending)
    }

    fn lock(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for AcpiRegisters {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = if is_at(EVENTS, offset, index) { self.button.take() } else { 0 };
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (index, value) in data.iter().enumerate() {
            if is_at(SLEEP_CONTROL, offset, index) && value & SLEEP_ENABLE != 0 {
                match (value >> SLEEP_TYPE_SHIFT) & SLEEP_TYPE_MASK {
                    SLEEP_TYPE_S5 => (self.sink)(GuestEvent::PowerOff),
                    other => log::warn!("the guest asks for sleep type {other}, which does not exist"),
                }
            }
        }
    }
}

/// Whether byte `index` of an access at `offset` is this register.
fn is_at(register: u16, offset: u64, index: usize) -> bool {
    offset.checked_add(index as u64) == Some(register.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    struct Line(Arc<AtomicBool>);

    impl IrqLine for Line {
        fn set(&self, level: bool) {
            self.0.store(level, Ordering::SeqCst);
        }
    }

    fn registers() -> (AcpiRegisters, Arc<Mutex<Vec<GuestEvent>>>, Arc<AtomicBool>) {
        let events = Arc::new(Mutex::new(Vec::new()));
        let level = Arc::new(AtomicBool::new(false));
        let sink = Arc::clone(&events);
        let sink: EventSink = Arc::new(move |event| sink.lock().unwrap().push(event));
        (AcpiRegisters::new(sink, Box::new(Line(Arc::clone(&level)))), events, level)
    }

    fn read(registers: &mut AcpiRegisters, offset: u64) -> u8 {
        let mut data = [0xFF];
        registers.read(offset, &mut data);
        data[0]
    }

    #[test]
    fn soft_off_needs_type_5_and_the_enable_bit() {
        let (mut registers, events, _) = registers();
        for value in [0, 5 << 2, 1 << 5, 0x20 | 3 << 2, 0xC0] {
            registers.write(0, &[value]);
        }
        registers.write(1, &[0x34]);
        registers.write(u64::MAX, &[0x34]);
        assert_eq!(*events.lock().unwrap(), []);
        registers.write(0, &[0x34, 0xFF]);
        assert_eq!(*events.lock().unwrap(), [GuestEvent::PowerOff]);
    }

    #[test]
    fn the_button_holds_its_line_until_the_guest_has_looked() {
        let (mut registers, _, level) = registers();
        assert_eq!(read(&mut registers, 2), 0);
        let button = registers.power_button();
        button.press();
        button.press();
        assert!(level.load(Ordering::SeqCst));
        assert_eq!((read(&mut registers, 0), read(&mut registers, 1)), (0, 0));
        assert!(level.load(Ordering::SeqCst));
        assert_eq!(read(&mut registers, 2), 1);
        assert!(!level.load(Ordering::SeqCst));
        assert_eq!(read(&mut registers, 2), 0);
    }
}

//! The 82093AA IOAPIC with the EOI register of version 0x20: 24 pins, each an interrupt message.

#![forbid(unsafe_code)]

use crate::accel::MsiMessage;

/// Number of pins.
pub const PINS: u8 = 24;

/// Version 0x20 (which has the EOI register) and the highest redirection entry.
const VERSION: u32 = 0x20 | ((PINS as u32 - 1) << 16);

const VECTOR: u64 = 0xFF;
const DELIVERY_SHIFT: u32 = 8;
const DELIVERY_MODE: u64 = 7;
const LOGICAL: u64 = 1 << 11;
/// Delivery status: never pending, because a message leaves at once.
const DELIVERY_STATUS: u64 = 1 << 12;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const DESTINATION_SHIFT: u32 = 56;
/// What software can write: vector, modes, polarity, trigger, mask, destination.
const WRITABLE: u64 = (0x1_FFFF & !DELIVERY_STATUS & !REMOTE_IRR) | (0xFF << DESTINATION_SHIFT);

/// The delivery modes that end with an EOI. The others are edges, whatever the trigger mode says.
const FIXED: u64 = 0;
const LOWEST_PRIORITY: u64 = 1;

/// An IOAPIC. A pin's level is the device's assertion; the polarity bit is kept but inverts nothing,
/// because the board's wiring would make up for it (KVM and QEMU do the same).
#[derive(Debug)]
pub struct IoApic {
    select: u8,
    id: u32,
    entries: [u64; PINS as usize],
    /// Levels of the pins.
    lines: u32,
}

impl Default for IoApic {
    fn default() -> Self {
        Self { select: 0, id: 0, entries: [MASKED; PINS as usize], lines: 0 }
    }
}

/// Whether an entry waits for an EOI after it was delivered.
fn is_level(entry: u64) -> bool {
    let mode = (entry >> DELIVERY_SHIFT) & DELIVERY_MODE;
    entry & LEVEL != 0 && (mode == FIXED || mode == LOWEST_PRIORITY)
}

/// The message of a redirection entry.
fn message(entry: u64) -> MsiMessage {
    let mut address = 0xFEE0_0000 | (entry >> DESTINATION_SHIFT) << 12;
    if entry & LOGICAL != 0 {
        address |= 1 << 2;
    }
    // Vector and delivery mode lie where a message has them.
    let mut data = (entry & (VECTOR | DELIVERY_MODE << DELIVERY_SHIFT)) as u32;
    if is_level(entry) {
        data |= 1 << 15 | 1 << 14;
    }
    MsiMessage { address, data }
}

impl IoApic {
    /// Drives a pin. A message that must be sent is given to `send`.
    pub fn set_pin(&mut self, pin: u8, level: bool, send: &mut dyn FnMut(MsiMessage)) {
        if pin >= PINS {
            return;
        }
        let bit = 1 << pin;
        let rising = level && self.lines & bit == 0;
        if level {
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
        let Some(entry) = self.entries.get_mut(usize::from(pin)) else { return };
        if is_level(*entry) {
            Self::deliver_level(entry, level, send);
        } else if rising && *entry & MASKED == 0 {
            // An edge on a masked pin is lost (82093AA, 3.2.4).
            send(message(*entry));
        }
    }

    /// Ends the service of `vector`: level-triggered pins that still assert it are delivered again.
    pub fn eoi(&mut self, vector: u8, send: &mut dyn FnMut(MsiMessage)) {
        for (pin, entry) in self.entries.iter_mut().enumerate() {
            if is_level(*entry) && *entry & VECTOR == u64::from(vector) && *entry & REMOTE_IRR != 0 {
                *entry &= !REMOTE_IRR;
                Self::deliver_level(entry, self.lines & (1 << pin) != 0, send);
            }
        }
    }

    /// The messages of the unmasked level-triggered pins: those whose end of service must be reported.
    pub fn level_routes(&self) -> impl Iterator<Item = MsiMessage> {
        self.entries.iter().copied().filter(|entry| is_level(*entry) && entry & MASKED == 0).map(message)
    }

    /// A read from the register page.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let value = match offset {
            0x00 => u32::from(self.select),
            0x10 => self.register(),
            _ => 0,
        };
        data.fill(0);
        for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
            *to = from;
        }
    }

    /// A write to the register page. The data registers take 32-bit accesses only.
    pub fn write(&mut self, offset: u64, data: &[u8], send: &mut dyn FnMut(MsiMessage)) {
        let Some(low) = data.first() else { return };
        let word = data.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes));
        match (offset, word) {
            (0x00, _) => self.select = *low,
            (0x10, Some(value)) => self.set_register(value, send),
            (0x40, Some(_)) => self.eoi(*low, send),
            _ => {}
        }
    }

    /// The redirection entry and the half of it that the selected register is.
    fn selected_entry(&self) -> Option<(usize, bool)> {
        let index = self.select.checked_sub(0x10)?;
        (index < 2 * PINS).then_some((usize::from(index / 2), index % 2 == 1))
    }

    fn register(&self) -> u32 {
        match self.select {
            0x00 | 0x02 => self.id,
            0x01 => VERSION,
            _ => self
                .selected_entry()
                .and_then(|(pin, high)| {
                    let entry = self.entries.get(pin)?;
                    Some(if high { (entry >> 32) as u32 } else { *entry as u32 })
                })
                .unwrap_or(u32::MAX),
        }
    }

    fn set_register(&mut self, value: u32, send: &mut dyn FnMut(MsiMessage)) {
        if self.select == 0 {
            self.id = value & 0x0F00_0000;
            return;
        }
        let Some((pin, high)) = self.selected_entry() else { return };
        let asserted = self.lines & (1 << pin) != 0;
        let Some(entry) = self.entries.get_mut(pin) else { return };
        let written = if high {
            u64::from(value) << 32 | *entry & 0xFFFF_FFFF
        } else {
            *entry & !0xFFFF_FFFF | u64::from(value)
        };
        *entry = written & WRITABLE | *entry & !WRITABLE;
        if is_level(*entry) {
            Self::deliver_level(entry, asserted, send);
        } else {
            // Linux and Xen reset a stuck remote IRR by switching the pin to edge and back.
            *entry &= !REMOTE_IRR;
        }
    }

    fn deliver_level(entry: &mut u64, asserted: bool, send: &mut dyn FnMut(MsiMessage)) {
        if asserted && *entry & (MASKED | REMOTE_IRR) == 0 {
            *entry |= REMOTE_IRR;
            send(message(*entry));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Rig {
        ioapic: IoApic,
        sent: Vec<MsiMessage>,
    }

    impl Rig {
        fn new() -> Self {
            Self { ioapic: IoApic::default(), sent: Vec::new() }
        }

        fn write(&mut self, offset: u64, value: u32) {
            let sent = &mut self.sent;
            self.ioapic.write(offset, &value.to_le_bytes(), &mut |m| sent.push(m));
        }

        fn set_register(&mut self, index: u8, value: u32) {
            self.write(0, u32::from(index));
            self.write(0x10, value);
        }

        fn register(&mut self, index: u8) -> u32 {
            self.write(0, u32::from(index));
            let mut data = [0; 4];
            self.ioapic.read(0x10, &mut data);
            u32::from_le_bytes(data)
        }

        fn route(&mut self, pin: u8, entry: u64) {
            self.set_register(0x11 + 2 * pin, (entry >> 32) as u32);
            self.set_register(0x10 + 2 * pin, entry as u32);
        }

        fn pin(&mut self, pin: u8, level: bool) {
            let sent = &mut self.sent;
            self.ioapic.set_pin(pin, level, &mut |m| sent.push(m));
        }

        fn take(&mut self) -> usize {
            std::mem::take(&mut self.sent).len()
        }
    }

    #[test]
    fn registers_after_reset() {
        let mut rig = Rig::new();
        assert_eq!(rig.register(1), 0x0017_0020);
        for pin in 0..PINS {
            assert_eq!(rig.register(0x10 + 2 * pin), 0x1_0000);
            assert_eq!(rig.register(0x11 + 2 * pin), 0);
        }
        rig.set_register(0, u32::MAX);
        assert_eq!(rig.register(0), 0x0F00_0000);
        rig.set_register(1, 0);
        assert_eq!(rig.register(1), 0x0017_0020);
    }

    #[test]
    fn read_only_bits_cannot_be_written() {
        let mut rig = Rig::new();
        rig.set_register(0x10, u32::MAX);
        assert_eq!(rig.register(0x10), 0x1_AFFF);
        rig.set_register(0x11, u32::MAX);
        assert_eq!(rig.register(0x11), 0xFF00_0000);
    }

    #[test]
    fn an_edge_is_one_message_and_is_lost_while_masked() {
        let mut rig = Rig::new();
        rig.route(4, 0x30 | MASKED);
        rig.pin(4, true);
        rig.route(4, 0x30);
        assert_eq!(rig.take(), 0);
        rig.pin(4, true);
        assert_eq!(rig.take(), 0);
        rig.pin(4, false);
        rig.pin(4, true);
        assert_eq!(rig.sent, [MsiMessage { address: 0xFEE0_0000, data: 0x30 }]);
    }

    #[test]
    fn a_level_waits_for_the_eoi_and_is_delivered_again() {
        let mut rig = Rig::new();
        rig.route(9, 0x51 | LEVEL | MASKED);
        rig.pin(9, true);
        assert_eq!(rig.take(), 0);
        rig.route(9, 0x51 | LEVEL);
        assert_eq!(rig.sent, [MsiMessage { address: 0xFEE0_0000, data: 0xC051 }]);
        assert_ne!(u64::from(rig.register(0x22)) & REMOTE_IRR, 0);
        rig.pin(9, false);
        rig.pin(9, true);
        assert_eq!(rig.take(), 1);
        rig.write(0x40, 0x50);
        assert_eq!(rig.take(), 0);
        rig.write(0x40, 0x51);
        assert_eq!(rig.take(), 1);
        rig.pin(9, false);
        rig.write(0x40, 0x51);
        assert_eq!(rig.take(), 0);
        assert_eq!(u64::from(rig.register(0x22)) & REMOTE_IRR, 0);
    }

    #[test]
    fn switching_to_edge_clears_the_remote_irr() {
        let mut rig = Rig::new();
        rig.route(9, 0x51 | LEVEL);
        rig.pin(9, true);
        rig.route(9, 0x51 | MASKED);
        rig.route(9, 0x51 | LEVEL);
        assert_eq!(rig.take(), 2);
    }

    #[test]
    fn the_message_carries_destination_and_modes() {
        let mut rig = Rig::new();
        rig.route(1, 0xAB << DESTINATION_SHIFT | LOGICAL | 1 << DELIVERY_SHIFT | 0x41);
        rig.pin(1, true);
        rig.route(2, 0x07 << DESTINATION_SHIFT | 4 << DELIVERY_SHIFT | LEVEL);
        rig.pin(2, true);
        assert_eq!(
            rig.sent,
            [
                MsiMessage { address: 0xFEEA_B004, data: 0x141 },
                MsiMessage { address: 0xFEE0_7000, data: 0x400 },
            ]
        );
        assert_eq!(u64::from(rig.register(0x14)) & REMOTE_IRR, 0, "an NMI has no EOI");
    }

    #[test]
    fn pins_that_do_not_exist_are_ignored() {
        let mut rig = Rig::new();
        rig.pin(24, true);
        rig.pin(255, true);
        assert_eq!(rig.register(0x10 + 48), u32::MAX);
        rig.set_register(0xFF, 0);
        assert_eq!(rig.take(), 0);
    }
}

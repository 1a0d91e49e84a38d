//! The 8042 keyboard controller: it answers a driver's probe at once, has neither keyboard nor mouse, and
//! resets the machine.

#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex};

use super::{Bus, BusError, ByteDevice, EventSink, GuestEvent, IrqLine};

/// The data port, 0x60.
const DATA: u64 = 0;
/// The command and status port, 0x64.
const COMMAND: u64 = 4;

const STATUS_OUTPUT_FULL: u8 = 1;
const STATUS_SYSTEM: u8 = 4;
const STATUS_COMMAND: u8 = 8;
const STATUS_UNLOCKED: u8 = 0x10;
const STATUS_AUX_OUTPUT: u8 = 0x20;

const MODE_KEYBOARD_IRQ: u8 = 1;
const MODE_SYSTEM: u8 = 4;

/// A device that cannot answer is asked to send again; here that is the end of the driver's patience.
const RESEND: u8 = 0xFE;
const SELF_TEST_PASSED: u8 = 0x55;
/// The interface test finds the clock line stuck: nothing is plugged in.
const CLOCK_STUCK_LOW: u8 = 1;
/// The output port: A20 is on, the processor is not in reset.
const OUTPUT_PORT: u8 = 0x03;
/// The input port: the keyboard is not locked.
const INPUT_PORT: u8 = 0x80;

/// What the next byte to the data port belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parameter {
    None,
    /// A byte of the internal RAM; byte 0 is the mode.
    Ram(u8),
    OutputPort,
    KeyboardOutput,
    AuxOutput,
    Aux,
}

/// The keyboard controller.
pub struct I8042 {
    irq: Box<dyn IrqLine>,
    events: EventSink,
    ram: [u8; 32],
    output: Option<u8>,
    output_is_aux: bool,
    parameter: Parameter,
    last_was_command: bool,
}

impl I8042 {
    /// The controller after the firmware's self-test. `irq` is IRQ 1.
    #[must_use]
    pub fn new(irq: Box<dyn IrqLine>, events: EventSink) -> Self {
        let mut ram = [0; 32];
        ram[0] = MODE_SYSTEM | MODE_KEYBOARD_IRQ;
        Self {
            irq,
            events,
            ram,
            output: None,
            output_is_aux: false,
            parameter: Parameter::None,
            last_was_command: false,
        }
    }

    /// Puts ports 0x60 and 0x64 on the bus.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn attach(controller: &Arc<Mutex<Self>>, ports: &mut Bus) -> Result<(), BusError> {
        ports.insert_window(0x60, 1, "i8042 data", controller.clone(), DATA)?;
        ports.insert_window(0x64, 1, "i8042 command", controller.clone(), COMMAND)
    }

    fn status(&self) -> u8 {
        let mut status = STATUS_UNLOCKED | self.ram[0] & STATUS_SYSTEM;
        if self.output.is_some() {
            status |= STATUS_OUTPUT_FULL;
            if self.output_is_aux {
                status |= STATUS_AUX_OUTPUT;
            }
        }
        if self.last_was_command {
            status |= STATUS_COMMAND;
        }
        status
    }

    fn answer(&mut self, value: u8, aux: bool) {
        self.output = Some(value);
        self.output_is_aux = aux;
    }

    fn command(&mut self, command: u8) {
        self.parameter = Parameter::None;
        match command {
            0x20..=0x3F => {
                let value = self.ram[usize::from(command & 0x1F)];
                self.answer(value, false);
            }
            0x60..=0x7F => self.parameter = Parameter::Ram(command & 0x1F),
            0xA9 | 0xAB => self.answer(CLOCK_STUCK_LOW, false),
            0xAA => {
                self.ram[0] |= MODE_SYSTEM;
                self.answer(SELF_TEST_PASSED, false);
            }
            // The ports' clocks: bit 5 of the mode is the auxiliary port's, bit 4 the keyboard's.
            0xA7 => self.ram[0] |= 0x20,
            0xA8 => self.ram[0] &= !0x20,
            0xAD => self.ram[0] |= 0x10,
            0xAE => self.ram[0] &= !0x10,
            0xC0 => self.answer(INPUT_PORT, false),
            0xD0 => self.answer(OUTPUT_PORT, false),
            0xD1 => self.parameter = Parameter::OutputPort,
            0xD2 => self.parameter = Parameter::KeyboardOutput,
            0xD3 => self.parameter = Parameter::AuxOutput,
            0xD4 => self.parameter = Parameter::Aux,
            // Pulses the output port's lines whose bits are clear; line 0 is the processor's reset.
            0xF0..=0xFF if command & 1 == 0 => (self.events)(GuestEvent::Reset),
            // A20 (0xDD, 0xDF), other lines, and what is unknown.
            _ => {}
        }
    }

    fn data(&mut self, value: u8) {
        match std::mem::replace(&mut self.parameter, Parameter::None) {
            Parameter::Ram(index) => self.ram[usize::from(index & 0x1F)] = value,
            Parameter::OutputPort if value & 1 == 0 => (self.events)(GuestEvent::Reset),
            Parameter::OutputPort => {}
            Parameter::KeyboardOutput => self.answer(value, false),
            // There is no auxiliary port, so its loop test must fail: the answer comes as the keyboard's.
            Parameter::AuxOutput => self.answer(!value, false),
            Parameter::Aux => self.answer(RESEND, true),
            Parameter::None => self.answer(RESEND, false),
        }
    }

    fn update_irq(&self) {
        let keyboard = self.output.is_some() && !self.output_is_aux;
        self.irq.set(keyboard && self.ram[0] & MODE_KEYBOARD_IRQ != 0);
    }
}

impl ByteDevice for I8042 {
    fn read_byte(&mut self, offset: u64) -> u8 {
        match offset {
            DATA => {
                let value = self.output.take().unwrap_or(0);
                self.update_irq();
                value
            }
            COMMAND => self.status(),
            _ => 0xFF,
        }
    }

    fn write_byte(&mut self, offset: u64, value: u8) {
        match offset {
            DATA => {
                self.last_was_command = false;
                self.data(value);
            }
            COMMAND => {
                self.last_was_command = true;
                self.command(value);
            }
            _ => return,
        }
        self.update_irq();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::irqchip::rig::CountedLine;
    use crate::devices::rig::Events;

    fn rig() -> (I8042, CountedLine, Events) {
        let (irq, events) = (CountedLine::default(), Events::default());
        (I8042::new(Box::new(irq.clone()), events.sink()), irq, events)
    }

    /// Sends a command and waits for the answer as Linux does: it must be there at once.
    fn ask(controller: &mut I8042, command: u8) -> u8 {
        controller.write_byte(COMMAND, command);
        assert_eq!(controller.read_byte(COMMAND) & 3, 1);
        controller.read_byte(DATA)
    }

    #[test]
    fn linux_probes_it_without_a_timeout() {
        let (mut controller, _, events) = rig();
        assert_eq!(controller.read_byte(COMMAND) & 3, 0, "empty and ready");
        assert_eq!(ask(&mut controller, 0xAA), 0x55);
        let mode = ask(&mut controller, 0x20);
        controller.write_byte(COMMAND, 0x60);
        controller.write_byte(DATA, mode | 0x10);
        assert_eq!(ask(&mut controller, 0x20), mode | 0x10);
        controller.write_byte(COMMAND, 0xD3);
        controller.write_byte(DATA, 0x5A);
        assert_eq!(controller.read_byte(COMMAND) & STATUS_AUX_OUTPUT, 0);
        assert_ne!(controller.read_byte(DATA), 0x5A);
        assert_eq!(ask(&mut controller, 0xA9), 1);
        assert_eq!(ask(&mut controller, 0xAB), 1);
        assert_eq!(events.take(), []);
    }

    #[test]
    fn a_byte_to_the_keyboard_is_refused_with_an_interrupt() {
        let (mut controller, irq, _) = rig();
        controller.write_byte(DATA, 0xF2);
        assert!(irq.level());
        assert_eq!(controller.read_byte(DATA), RESEND);
        assert!(!irq.level());
        controller.write_byte(COMMAND, 0x60);
        controller.write_byte(DATA, 0);
        controller.write_byte(DATA, 0xF2);
        assert!(!irq.level());
    }

    #[test]
    fn the_ways_to_a_reset() {
        let (mut controller, _, events) = rig();
        for harmless in [0xFF, 0xDD, 0xDF, 0xF1, 0x00] {
            controller.write_byte(COMMAND, harmless);
        }
        controller.write_byte(COMMAND, 0xD1);
        controller.write_byte(DATA, 0xDF);
        assert_eq!(events.take(), []);
        controller.write_byte(COMMAND, 0xFE);
        assert_eq!(events.take(), [GuestEvent::Reset]);
        controller.write_byte(COMMAND, 0xD1);
        controller.write_byte(DATA, 0xFE);
        assert_eq!(events.take(), [GuestEvent::Reset]);
    }
}

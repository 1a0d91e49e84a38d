//! A 16550A UART. Output leaves at once; input waits until the guest attends to it.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::timer::Waker;
use super::{ByteDevice, IrqLine};

/// I/O port and IRQ of COM1 to COM4.
pub const COM_PORTS: [(u64, u8); 4] = [(0x3F8, 4), (0x2F8, 3), (0x3E8, 4), (0x2E8, 3)];

/// The names of the serial ports.
pub const COM_NAMES: [&str; 4] = ["com1", "com2", "com3", "com4"];

/// Number of I/O ports of a UART.
pub const PORTS: u64 = 8;

/// Takes the bytes that the guest sends.
pub type SerialSink = Box<dyn FnMut(u8) + Send>;

const FIFO_SIZE: usize = 16;

/// So many reads of the line status without a byte sent are a guest that polls for input.
const POLLS_OF_A_READER: u8 = 16;

const IER_RECEIVED: u8 = 1;
const IER_THR_EMPTY: u8 = 2;
const IER_LINE_STATUS: u8 = 4;
const IER_MODEM_STATUS: u8 = 8;
const IER_ALL: u8 = 0xF;

const IIR_NONE: u8 = 1;
const IIR_MODEM_STATUS: u8 = 0;
const IIR_THR_EMPTY: u8 = 2;
const IIR_RECEIVED: u8 = 4;
const IIR_LINE_STATUS: u8 = 6;
const IIR_TIMEOUT: u8 = 0xC;
const IIR_FIFOS: u8 = 0xC0;

const FCR_ENABLE: u8 = 1;
const FCR_CLEAR_RECEIVER: u8 = 2;

const LCR_DIVISOR_LATCH: u8 = 0x80;

/// Opens the way of the interrupt on a PC.
const MCR_OUT2: u8 = 8;
const MCR_LOOPBACK: u8 = 0x10;

const LSR_DATA_READY: u8 = 1;
const LSR_OVERRUN: u8 = 2;
/// Transmitter holding register and shift register are always empty.
const LSR_TRANSMITTER_EMPTY: u8 = 0x60;

/// The other side is there: DCD, DSR, CTS.
const MSR_CONNECTED: u8 = 0xB0;

/// A 16550A.
///
/// Input is taken only while the guest attends to it, that is while its receive interrupt is on or while
/// it polls: a driver that starts clears the FIFO and would throw away what a pipe sent too early.
pub struct Serial {
    irq: Box<dyn IrqLine>,
    sink: SerialSink,
    room: Option<Waker>,
    /// The last `enqueue` had to leave something.
    starved: bool,
    received: VecDeque<u8>,
    polls: u8,
    thr_empty_pending: bool,
    overrun: bool,
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    /// Modem inputs in the high half, their changes in the low half.
    msr: u8,
    scratch: u8,
    divisor: [u8; 2],
}

impl Serial {
    /// A UART after reset.
    #[must_use]
    pub fn new(irq: Box<dyn IrqLine>, sink: SerialSink) -> Self {
        Self {
            irq,
            sink,
            room: None,
            starved: false,
            received: VecDeque::with_capacity(FIFO_SIZE),
            polls: 0,
            thr_empty_pending: false,
            overrun: false,
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            msr: MSR_CONNECTED,
            scratch: 0,
            // 9600 baud.
            divisor: [12, 0],
        }
    }

    /// Sets what is called when there is room for input again after `enqueue` could not take all. The
    /// UART is locked meanwhile.
    pub fn set_room_waker(&mut self, room: Waker) {
        self.room = Some(room);
    }

    /// Gives input to the guest.
    ///
    /// Returns how many bytes were taken. The rest is the caller's to keep until the room waker calls.
    pub fn enqueue(&mut self, input: &[u8]) -> usize {
        let taken = input.len().min(self.room());
        self.received.extend(input.iter().take(taken));
        self.starved = taken < input.len();
        self.update_irq();
        taken
    }

    fn has_fifos(&self) -> bool {
        self.fcr & FCR_ENABLE != 0
    }

    fn capacity(&self) -> usize {
        if self.has_fifos() { FIFO_SIZE } else { 1 }
    }

    fn room(&self) -> usize {
        // A probe sets every bit for a moment, to see which exist, and clears the FIFO later.
        let probed = self.ier == IER_ALL && self.mcr & MCR_OUT2 == 0 && !self.has_fifos();
        let attended = (self.ier & IER_RECEIVED != 0 && !probed) || self.polls >= POLLS_OF_A_READER;
        if attended && self.mcr & MCR_LOOPBACK == 0 {
            self.capacity().saturating_sub(self.received.len())
        } else {
            0
        }
    }

    fn tell_of_room(&mut self) {
        if self.starved && self.room() > 0 {
            self.starved = false;
            if let Some(room) = &self.room {
                room();
            }
        }
    }

    /// The number of received bytes at which the interrupt is not a timeout.
    fn trigger(&self) -> usize {
        if !self.has_fifos() {
            return 1;
        }
        match self.fcr >> 6 {
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        }
    }

    /// The source of the highest priority.
    fn interrupt(&self) -> u8 {
        if self.ier & IER_LINE_STATUS != 0 && self.overrun {
            IIR_LINE_STATUS
        } else if self.ier & IER_RECEIVED != 0 && !self.received.is_empty() {
            // Fewer bytes than the trigger level: nothing more is on the wire, so the timeout is now.
            if self.received.len() >= self.trigger() { IIR_RECEIVED } else { IIR_TIMEOUT }
        } else if self.ier & IER_THR_EMPTY != 0 && self.thr_empty_pending {
            IIR_THR_EMPTY
        } else if self.ier & IER_MODEM_STATUS != 0 && self.msr & 0xF != 0 {
            IIR_MODEM_STATUS
        } else {
            IIR_NONE
        }
    }

    fn update_irq(&self) {
        // OUT2 is not asked: guests that never set it work on other virtual machines, too.
        self.irq.set(self.interrupt() != IIR_NONE);
    }

    fn transmit(&mut self, value: u8) {
        self.polls = 0;
        // The holding register is full for a moment, which an edge-triggered input must see.
        self.thr_empty_pending = false;
        self.update_irq();
        if self.mcr & MCR_LOOPBACK == 0 {
            (self.sink)(value);
        } else if self.received.len() < self.capacity() {
            self.received.push_back(value);
        } else {
            self.overrun = true;
        }
        self.thr_empty_pending = true;
    }

    fn set_ier(&mut self, value: u8) {
        let value = value & 0xF;
        if value & !self.ier & IER_THR_EMPTY != 0 {
            self.thr_empty_pending = true;
        }
        self.ier = value;
    }

    fn set_fcr(&mut self, value: u8) {
        if value & FCR_CLEAR_RECEIVER != 0 {
            self.received.clear();
        }
        // Switching the FIFOs keeps what was received, so that no input is lost when a driver opens.
        self.fcr = if value & FCR_ENABLE != 0 { value & 0xC9 } else { 0 };
    }

    fn set_mcr(&mut self, value: u8) {
        self.mcr = value & 0x1F;
        let inputs = if self.mcr & MCR_LOOPBACK == 0 {
            MSR_CONNECTED
        } else {
            // RTS to CTS, DTR to DSR, OUT1 to RI, OUT2 to DCD.
            (self.mcr & 2) << 3 | (self.mcr & 1) << 5 | (self.mcr & 4) << 4 | (self.mcr & 8) << 4
        };
        let old = self.msr & 0xF0;
        // The ring indicator counts when it ends.
        let changed = (old ^ inputs) & 0xB0 | old & !inputs & 0x40;
        self.msr = inputs | self.msr & 0xF | changed >> 4;
    }

    fn line_status(&mut self) -> u8 {
        self.polls = self.polls.saturating_add(1);
        let mut status = LSR_TRANSMITTER_EMPTY;
        if !self.received.is_empty() {
            status |= LSR_DATA_READY;
        }
        if std::mem::take(&mut self.overrun) {
            status |= LSR_OVERRUN;
        }
        status
    }

    fn identification(&mut self) -> u8 {
        let source = self.interrupt();
        if source == IIR_THR_EMPTY {
            self.thr_empty_pending = false;
        }
        source | if self.has_fifos() { IIR_FIFOS } else { 0 }
    }
}

impl ByteDevice for Serial {
    fn read_byte(&mut self, offset: u64) -> u8 {
        let latch = self.lcr & LCR_DIVISOR_LATCH != 0;
        let value = match offset {
            0 if latch => self.divisor[0],
            1 if latch => self.divisor[1],
            0 => self.received.pop_front().unwrap_or(0),
            1 => self.ier,
            2 => self.identification(),
            3 => self.lcr,
            4 => self.mcr,
            5 => self.line_status(),
            6 => {
                let status = self.msr;
                self.msr &= 0xF0;
                status
            }
            7 => self.scratch,
            _ => 0xFF,
        };
        self.update_irq();
        self.tell_of_room();
        value
    }

    fn write_byte(&mut self, offset: u64, value: u8) {
        let latch = self.lcr & LCR_DIVISOR_LATCH != 0;
        match offset {
            0 if latch => self.divisor[0] = value,
            1 if latch => self.divisor[1] = value,
            0 => self.transmit(value),
            1 => self.set_ier(value),
            2 => self.set_fcr(value),
            3 => self.lcr = value,
            4 => self.set_mcr(value),
            7 => self.scratch = value,
            _ => {}
        }
        self.update_irq();
        self.tell_of_room();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::devices::irqchip::rig::CountedLine;

    struct Rig {
        serial: Serial,
        irq: CountedLine,
        output: Arc<Mutex<Vec<u8>>>,
        rooms: Arc<AtomicUsize>,
    }

    impl Rig {
        fn new() -> Self {
            let irq = CountedLine::default();
            let output = Arc::new(Mutex::new(Vec::new()));
            let rooms = Arc::new(AtomicUsize::new(0));
            let (sink, counter) = (output.clone(), rooms.clone());
            let mut serial =
                Serial::new(Box::new(irq.clone()), Box::new(move |byte| sink.lock().unwrap().push(byte)));
            serial.set_room_waker(Arc::new(move || {
                counter.fetch_add(1, Ordering::Relaxed);
            }));
            Self { serial, irq, output, rooms }
        }

        fn set(&mut self, offset: u64, value: u8) {
            self.serial.write_byte(offset, value);
        }

        fn get(&mut self, offset: u64) -> u8 {
            self.serial.read_byte(offset)
        }
    }

    #[test]
    fn linux_finds_a_16550a() {
        let mut rig = Rig::new();
        rig.set(1, 0);
        assert_eq!(rig.get(1), 0);
        rig.set(1, 0xFF);
        assert_eq!(rig.get(1), 0xF);
        rig.set(1, 0);
        rig.set(4, 0x1A);
        assert_eq!(rig.get(6) & 0xF0, 0x90);
        rig.set(4, 0);
        rig.set(2, 1);
        assert_eq!(rig.get(2), 0xC1);
        rig.set(2, 0);
        assert_eq!(rig.get(2), 0x01);
        rig.set(7, 0xA5);
        assert_eq!(rig.get(7), 0xA5);
        assert_eq!(rig.get(5), 0x60);
        rig.set(3, 0x80);
        rig.set(0, 1);
        rig.set(1, 2);
        assert_eq!((rig.get(0), rig.get(1)), (1, 2));
        rig.set(3, 3);
        assert_eq!(rig.get(1), 0);
    }

    #[test]
    fn enabling_the_transmit_interrupt_raises_it_each_time() {
        let mut rig = Rig::new();
        for _ in 0..2 {
            rig.set(1, 2);
            assert!(rig.irq.level());
            assert_eq!(rig.get(2), 0x02);
            assert!(!rig.irq.level());
            assert_eq!(rig.get(2), 0x01);
            rig.set(1, 0);
        }
        rig.set(1, 2);
        rig.set(1, 2);
        assert!(rig.irq.level(), "a second write of IER loses nothing");
    }

    #[test]
    fn each_byte_sent_is_an_edge() {
        let mut rig = Rig::new();
        rig.set(1, 2);
        rig.irq.take_edges();
        rig.set(0, b'a');
        rig.set(0, b'b');
        assert_eq!(rig.irq.take_edges(), 2);
        assert_eq!(*rig.output.lock().unwrap(), b"ab");
    }

    #[test]
    fn input_waits_until_the_guest_attends_to_it() {
        let mut rig = Rig::new();
        assert_eq!(rig.serial.enqueue(b"early"), 0);
        rig.set(2, 7);
        rig.set(1, 5);
        assert_eq!(rig.rooms.load(Ordering::Relaxed), 1);
        assert_eq!(rig.serial.enqueue(b"early"), 5);
        assert!(rig.irq.level());
        assert_eq!(rig.get(2), 0xC4);
    }

    /// What Linux's autoconfig does with IER, before it clears the FIFO.
    #[test]
    fn a_probe_loses_no_input() {
        let mut rig = Rig::new();
        rig.set(4, 1);
        rig.set(1, 0xF);
        assert_eq!(rig.serial.enqueue(b"early"), 0);
        rig.set(1, 0);
        rig.set(2, 7);
        rig.set(4, 9);
        rig.set(1, 0xF);
        assert_eq!(rig.serial.enqueue(b"early"), 5, "all interrupts of a driver that wants them");
    }

    #[test]
    fn received_bytes_and_the_trigger_level() {
        let mut rig = Rig::new();
        rig.set(2, 0x81);
        rig.set(1, 1);
        assert_eq!(rig.serial.enqueue(b"1234567"), 7);
        assert_eq!(rig.get(2), 0xCC);
        assert_eq!(rig.serial.enqueue(b"8"), 1);
        assert_eq!(rig.get(2), 0xC4);
        for expected in b"12345678" {
            assert_eq!(rig.get(5) & 1, 1);
            assert_eq!(rig.get(0), *expected);
        }
        assert_eq!(rig.get(5) & 1, 0);
        assert!(!rig.irq.level());
        assert_eq!(rig.get(2), 0xC1);
    }

    #[test]
    fn the_fifo_is_finite_and_tells_when_there_is_room() {
        let mut rig = Rig::new();
        rig.set(1, 1);
        assert_eq!(rig.serial.enqueue(b"ab"), 1, "without FIFOs there is one register");
        rig.set(2, 1);
        assert_eq!(rig.rooms.load(Ordering::Relaxed), 1);
        assert_eq!(rig.serial.enqueue(&[0; 100]), 15);
        assert_eq!(rig.serial.enqueue(&[0; 100]), 0);
        rig.get(0);
        assert_eq!(rig.rooms.load(Ordering::Relaxed), 2);
        rig.get(0);
        assert_eq!(rig.rooms.load(Ordering::Relaxed), 2);
        rig.set(2, 3);
        assert_eq!(rig.get(5) & 1, 0);
    }

    #[test]
    fn a_polling_guest_gets_input() {
        let mut rig = Rig::new();
        assert_eq!(rig.serial.enqueue(b"x"), 0);
        for _ in 0..POLLS_OF_A_READER {
            rig.get(5);
        }
        assert_eq!(rig.rooms.load(Ordering::Relaxed), 1);
        assert_eq!(rig.serial.enqueue(b"x"), 1);
        assert_eq!(rig.get(5) & 1, 1);
        assert_eq!(rig.get(0), b'x');
    }

    #[test]
    fn loopback_sends_to_itself_and_reports_modem_changes() {
        let mut rig = Rig::new();
        rig.set(1, 8);
        rig.set(4, 0x10);
        assert!(rig.irq.level());
        assert_eq!(rig.get(2), 0);
        assert_eq!(rig.get(6), 0x0B);
        assert!(!rig.irq.level());
        rig.set(0, 0x42);
        rig.set(0, 0x43);
        assert!(rig.output.lock().unwrap().is_empty());
        assert_eq!(rig.get(5), 0x63, "one register: overrun");
        assert_eq!(rig.get(5), 0x61);
        assert_eq!(rig.get(0), 0x42);
        rig.set(4, 0x14);
        assert_eq!(rig.get(6), 0x40);
        rig.set(4, 0x10);
        assert_eq!(rig.get(6), 0x04);
    }
}

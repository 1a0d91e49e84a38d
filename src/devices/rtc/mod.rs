//! The MC146818 real-time clock with its CMOS RAM: the host's time in UTC.

#![forbid(unsafe_code)]

mod calendar;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::timer::{Clock, Timed, Waker};
use super::{ByteDevice, IrqLine};
use calendar::DateTime;

/// The index port; the data port follows.
pub const PORT: u64 = 0x70;

/// Number of I/O ports.
pub const PORTS: u64 = 2;

/// The IRQ.
pub const IRQ: u8 = 8;

const SECONDS: u8 = 0x00;
const SECONDS_ALARM: u8 = 0x01;
const MINUTES: u8 = 0x02;
const MINUTES_ALARM: u8 = 0x03;
const HOURS: u8 = 0x04;
const HOURS_ALARM: u8 = 0x05;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const A: u8 = 0x0A;
const B: u8 = 0x0B;
const C: u8 = 0x0C;
const D: u8 = 0x0D;
const CENTURY: u8 = 0x32;

const A_UPDATE_IN_PROGRESS: u8 = 0x80;
const B_SET: u8 = 0x80;
/// The interrupts' enables lie in B where their flags lie in C.
const PERIODIC: u8 = 0x40;
const ALARM: u8 = 0x20;
const UPDATE: u8 = 0x10;
const B_BINARY: u8 = 0x04;
const B_24_HOURS: u8 = 0x02;
const C_INTERRUPT: u8 = 0x80;
const D_VALID: u8 = 0x80;
const PM: u8 = 0x80;
/// An alarm byte from here on matches anything.
const ALARM_ANY: u8 = 0xC0;

/// The update-in-progress flag is up so long before a second's end.
const UPDATE_TIME: Duration = Duration::from_micros(244);

const SECOND: Duration = Duration::from_secs(1);

/// Late seconds in which an alarm is looked for: a day has them all.
const ALARM_SECONDS: i64 = 86_400;

/// The real-time clock.
pub struct Rtc {
    clock: Arc<dyn Clock>,
    irq: Box<dyn IrqLine>,
    waker: Waker,
    index: u8,
    ram: [u8; 128],
    /// What the guest's clock is ahead of the host's, in seconds.
    offset: i64,
    /// The time that stands still while B's SET bit is on.
    frozen: Option<DateTime>,
    /// Up to which second (of the guest) update and alarm flags are known.
    seen_second: i64,
    started: Instant,
    /// Up to which period the periodic flag is known.
    seen_period: u128,
    next: Option<Instant>,
}

/// RAM sizes that the CMOS tells, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySize {
    /// RAM below 4 GiB.
    pub low: u64,
    /// RAM from 4 GiB on.
    pub high: u64,
}

impl Rtc {
    /// A clock that shows the host's UTC. `irq` is IRQ 8.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, memory: MemorySize, irq: Box<dyn IrqLine>, waker: Waker) -> Self {
        let mut ram = [0; 128];
        ram[usize::from(A)] = 0x26;
        ram[usize::from(B)] = B_24_HOURS;
        // A coprocessor is there.
        ram[0x14] = 0x02;
        let capped = |bytes: u64, unit: u64| u16::try_from(bytes / unit).unwrap_or(u16::MAX).to_le_bytes();
        let base = 640_u16.to_le_bytes();
        let above_1_mib = capped(memory.low.saturating_sub(1 << 20), 1 << 10);
        let above_16_mib = capped(memory.low.saturating_sub(16 << 20), 1 << 16);
        let high = (memory.high >> 16).min(0xFF_FFFF).to_le_bytes();
        for (index, bytes) in [
            (0x15, &base[..]),
            (0x17, &above_1_mib),
            (0x30, &above_1_mib),
            (0x34, &above_16_mib),
            (0x5B, &high[..3]),
        ] {
            for (to, from) in ram.iter_mut().skip(index).zip(bytes) {
                *to = *from;
            }
        }
        let started = clock.now();
        let mut rtc = Self {
            clock,
            irq,
            waker,
            index: 0,
            ram,
            offset: 0,
            frozen: None,
            seen_second: 0,
            started,
            seen_period: 0,
            next: None,
        };
        rtc.seen_second = rtc.second();
        rtc
    }

    fn register(&self, index: u8) -> u8 {
        self.ram[usize::from(index & 0x7F)]
    }

    /// The guest's time in whole seconds.
    fn second(&self) -> i64 {
        // The host's clock is some billions; the guest can set no more than a century of two digits.
        i64::try_from(self.clock.utc().as_secs()).unwrap_or(0).saturating_add(self.offset)
    }

    fn time(&self) -> DateTime {
        self.frozen.unwrap_or_else(|| DateTime::from_seconds(self.second()))
    }

    fn encode(&self, value: u8) -> u8 {
        if self.register(B) & B_BINARY != 0 { value } else { (value / 10) << 4 | (value % 10) }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.register(B) & B_BINARY != 0 { value } else { (value >> 4) * 10 + (value & 0xF) }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.register(B) & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let in_12 = if hour.is_multiple_of(12) { 12 } else { hour % 12 };
        self.encode(in_12) | if hour >= 12 { PM } else { 0 }
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.register(B) & B_24_HOURS != 0 {
            return self.decode(value);
        }
        let pm = if value & PM != 0 { 12 } else { 0 };
        self.decode(value & !PM) % 12 + pm
    }

    fn read_time(&self, index: u8) -> u8 {
        let time = self.time();
        // Years before 0 cannot be set, and 25599 is the last.
        let two_digits = |value: i64| u8::try_from(value.rem_euclid(100)).unwrap_or(0);
        match index {
            SECONDS => self.encode(time.second),
            MINUTES => self.encode(time.minute),
            HOURS => self.encode_hour(time.hour),
            WEEKDAY => self.encode(time.weekday()),
            DAY => self.encode(time.day),
            MONTH => self.encode(time.month),
            YEAR => self.encode(two_digits(time.year)),
            _ => self.encode(two_digits(time.year.div_euclid(100))),
        }
    }

    fn write_time(&mut self, index: u8, value: u8) {
        let mut time = self.time();
        let (century, year) = (time.year.div_euclid(100), time.year.rem_euclid(100));
        match index {
            SECONDS => time.second = self.decode(value),
            MINUTES => time.minute = self.decode(value),
            HOURS => time.hour = self.decode_hour(value),
            DAY => time.day = self.decode(value),
            MONTH => time.month = self.decode(value),
            YEAR => time.year = century * 100 + i64::from(self.decode(value)),
            CENTURY => time.year = i64::from(self.decode(value)) * 100 + year,
            // The weekday follows from the date.
            _ => {}
        }
        if self.frozen.is_some() {
            self.frozen = Some(time);
        } else {
            self.set_time(time);
        }
    }

    fn set_time(&mut self, time: DateTime) {
        self.offset = self.offset.saturating_add(time.seconds().saturating_sub(self.second()));
        self.seen_second = self.second();
    }

    fn is_update_in_progress(&self) -> bool {
        let into_second = Duration::from_nanos(u64::from(self.clock.utc().subsec_nanos()));
        self.runs() && into_second >= SECOND - UPDATE_TIME
    }

    /// Whether the clock runs: SET is off, and the divider is not in reset.
    fn runs(&self) -> bool {
        self.frozen.is_none() && self.register(A) & 0x60 != 0x60
    }

    /// The period of the periodic interrupt.
    fn period(&self) -> Option<Duration> {
        let cycles: u64 = match self.register(A) & 0xF {
            0 => return None,
            // Rates 1 and 2 are those of 8 and 9.
            rate @ (1 | 2) => 1 << (rate + 6),
            rate => 1 << (rate - 1),
        };
        Some(Duration::from_nanos(cycles * 1_000_000_000 / 32_768))
    }

    fn periods(&self, now: Instant) -> u128 {
        let period = self.period().map_or(u128::MAX, |period| period.as_nanos().max(1));
        now.saturating_duration_since(self.started).as_nanos() / period
    }

    fn alarm_matches(&self, second: i64) -> bool {
        let time = DateTime::from_seconds(second);
        let matches = |alarm: u8, value: u8| alarm >= ALARM_ANY || alarm == value;
        matches(self.register(SECONDS_ALARM), self.encode(time.second))
            && matches(self.register(MINUTES_ALARM), self.encode(time.minute))
            && matches(self.register(HOURS_ALARM), self.encode_hour(time.hour))
    }

    /// Brings the flags of C up to `now`.
    fn update_flags(&mut self, now: Instant) {
        let mut flags = 0;
        let periods = self.periods(now);
        if periods > self.seen_period {
            flags |= PERIODIC;
        }
        self.seen_period = periods;
        let second = self.second();
        if self.runs() && second > self.seen_second {
            flags |= UPDATE;
            let first = self.seen_second.max(second.saturating_sub(ALARM_SECONDS));
            if self.register(C) & ALARM == 0 && (first + 1..=second).any(|second| self.alarm_matches(second))
            {
                flags |= ALARM;
            }
        }
        self.seen_second = second;
        self.ram[usize::from(C)] |= flags;
        self.update_irq();
    }

    fn update_irq(&mut self) {
        let enabled = self.register(B) & (PERIODIC | ALARM | UPDATE);
        let interrupt = self.register(C) & enabled != 0;
        let c = &mut self.ram[usize::from(C)];
        *c = *c & !C_INTERRUPT | if interrupt { C_INTERRUPT } else { 0 };
        self.irq.set(interrupt);
    }

    fn rearm(&mut self, now: Instant) {
        let b = self.register(B);
        let periodic = self.period().filter(|_| b & PERIODIC != 0).and_then(|period| {
            let into = now.saturating_duration_since(self.started).as_nanos() % period.as_nanos().max(1);
            now.checked_add(period.saturating_sub(Duration::from_nanos(u64::try_from(into).ok()?)))
        });
        let second = (self.runs() && b & (ALARM | UPDATE) != 0).then(|| {
            let into = Duration::from_nanos(u64::from(self.clock.utc().subsec_nanos()));
            now.checked_add(SECOND.saturating_sub(into))
        });
        self.next = [periodic, second.flatten()].into_iter().flatten().min();
    }

    fn changed(&mut self, now: Instant) {
        let before = self.next;
        self.rearm(now);
        if self.next != before {
            (self.waker)();
        }
    }

    fn set_b(&mut self, value: u8) {
        let setting = value & B_SET != 0;
        // The update interrupt is off while the time is set.
        let kept = if setting { value & !UPDATE } else { value };
        match (setting, self.frozen) {
            (true, None) => self.frozen = Some(self.time()),
            (false, Some(time)) => {
                self.frozen = None;
                self.set_time(time);
            }
            _ => {}
        }
        self.ram[usize::from(B)] = kept;
    }

    fn read_data(&mut self) -> u8 {
        match self.index {
            index @ (SECONDS | MINUTES | HOURS | WEEKDAY..=YEAR | CENTURY) => self.read_time(index),
            A => self.register(A) | if self.is_update_in_progress() { A_UPDATE_IN_PROGRESS } else { 0 },
            C => {
                self.update_flags(self.clock.now());
                let flags = std::mem::take(&mut self.ram[usize::from(C)]);
                self.update_irq();
                flags
            }
            D => D_VALID,
            index => self.register(index),
        }
    }

    fn write_data(&mut self, value: u8) {
        let now = self.clock.now();
        self.update_flags(now);
        match self.index {
            index @ (SECONDS | MINUTES | HOURS | WEEKDAY..=YEAR | CENTURY) => self.write_time(index, value),
            A => {
                self.ram[usize::from(A)] = value & !A_UPDATE_IN_PROGRESS;
                self.seen_period = self.periods(now);
            }
            B => self.set_b(value),
            C | D => return,
            index => self.ram[usize::from(index & 0x7F)] = value,
        }
        self.update_irq();
        self.changed(now);
    }
}

impl ByteDevice for Rtc {
    fn read_byte(&mut self, offset: u64) -> u8 {
        if offset == 1 { self.read_data() } else { 0xFF }
    }

    fn write_byte(&mut self, offset: u64, value: u8) {
        match offset {
            // Bit 7 masks the NMI, which there is none of.
            0 => self.index = value & 0x7F,
            1 => self.write_data(value),
            _ => {}
        }
    }
}

impl Timed for Rtc {
    fn deadline(&self) -> Option<Instant> {
        self.next
    }

    fn expire(&mut self, now: Instant) {
        if self.next.is_some_and(|next| next <= now) {
            self.update_flags(now);
            self.rearm(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::irqchip::rig::CountedLine;
    use crate::devices::timer::TestClock;

    struct Rig {
        rtc: Rtc,
        clock: Arc<TestClock>,
        irq: CountedLine,
    }

    impl Rig {
        /// It is 2024-02-29 12:34:56.
        fn new() -> Self {
            Self::with_memory(512 << 20, 0)
        }

        fn with_memory(low: u64, high: u64) -> Self {
            let clock = TestClock::at(Duration::from_secs(1_709_210_096));
            let irq = CountedLine::default();
            let memory = MemorySize { low, high };
            let rtc = Rtc::new(clock.clone(), memory, Box::new(irq.clone()), Arc::new(|| {}));
            Self { rtc, clock, irq }
        }

        fn get(&mut self, index: u8) -> u8 {
            self.rtc.write_byte(0, index);
            self.rtc.read_byte(1)
        }

        fn set(&mut self, index: u8, value: u8) {
            self.rtc.write_byte(0, index);
            self.rtc.write_byte(1, value);
        }

        fn date(&mut self) -> [u8; 8] {
            [CENTURY, YEAR, MONTH, DAY, WEEKDAY, HOURS, MINUTES, SECONDS].map(|index| self.get(index))
        }

        fn run(&mut self, time: Duration) {
            self.clock.run(&mut self.rtc, time);
        }
    }

    #[test]
    fn it_shows_the_hosts_time_in_utc() {
        let mut rig = Rig::new();
        assert_eq!(rig.date(), [0x20, 0x24, 0x02, 0x29, 5, 0x12, 0x34, 0x56]);
        rig.set(B, B_24_HOURS | B_BINARY);
        assert_eq!(rig.date(), [20, 24, 2, 29, 5, 12, 34, 56]);
        rig.set(B, 0);
        assert_eq!(rig.get(HOURS), 0x92, "12 p.m.");
        rig.clock.advance(Duration::from_secs(12 * 3600));
        assert_eq!(rig.get(HOURS), 0x12, "12 a.m.");
        assert_eq!((rig.get(MONTH), rig.get(DAY)), (3, 1));
    }

    #[test]
    fn the_guest_sets_the_time() {
        let mut rig = Rig::new();
        rig.set(B, B_SET | B_24_HOURS);
        for (index, value) in [
            (CENTURY, 0x19),
            (YEAR, 0x99),
            (MONTH, 0x12),
            (DAY, 0x31),
            (HOURS, 0x23),
            (MINUTES, 0x59),
            (SECONDS, 0x58),
        ] {
            rig.set(index, value);
            rig.clock.advance(SECOND);
        }
        assert_eq!(rig.get(SECONDS), 0x58, "it stands still");
        rig.set(B, B_24_HOURS);
        rig.clock.advance(SECOND * 3);
        assert_eq!(rig.date(), [0x20, 0x00, 0x01, 0x01, 7, 0x00, 0x00, 0x01]);
        rig.set(MINUTES, 0x30);
        assert_eq!(rig.date(), [0x20, 0x00, 0x01, 0x01, 7, 0x00, 0x30, 0x01]);
    }

    #[test]
    fn the_update_flag_precedes_the_second() {
        let mut rig = Rig::new();
        assert_eq!(rig.get(A), 0x26);
        rig.clock.advance(SECOND - Duration::from_micros(200));
        assert_eq!(rig.get(A), 0xA6);
        rig.clock.advance(Duration::from_micros(200));
        assert_eq!(rig.get(A), 0x26);
        assert_eq!(rig.get(D), 0x80);
    }

    #[test]
    fn update_interrupts() {
        let mut rig = Rig::new();
        assert_eq!(rig.rtc.deadline(), None);
        rig.set(B, B_24_HOURS | UPDATE);
        for _ in 0..3 {
            rig.run(SECOND);
            assert_eq!(rig.irq.take_edges(), 1);
            assert_eq!(rig.get(C) & 0x90, 0x90);
            assert!(!rig.irq.level());
        }
        rig.set(B, B_24_HOURS);
        rig.run(SECOND);
        assert_eq!(rig.irq.take_edges(), 0);
        assert_eq!(rig.get(C) & 0x90, 0x10, "the flag comes without the interrupt, too");
    }

    #[test]
    fn alarms() {
        let mut rig = Rig::new();
        rig.set(SECONDS_ALARM, 0x06);
        rig.set(MINUTES_ALARM, 0x35);
        rig.set(HOURS_ALARM, 0xFF);
        rig.set(B, B_24_HOURS | ALARM);
        rig.run(SECOND * 9);
        assert_eq!(rig.irq.take_edges(), 0);
        rig.run(SECOND);
        assert_eq!(rig.irq.take_edges(), 1);
        assert_eq!(rig.get(C) & 0xA0, 0xA0);
        rig.run(Duration::from_secs(3600));
        assert_eq!(rig.irq.take_edges(), 1, "every hour");
    }

    #[test]
    fn periodic_interrupts() {
        for (rate, count) in [(6, 1024), (3, 8192), (15, 2), (1, 256), (2, 128)] {
            let mut rig = Rig::new();
            rig.set(A, 0x20 | rate);
            rig.set(B, B_24_HOURS | PERIODIC);
            let end = rig.clock.now() + SECOND;
            let mut ticks = 0;
            while let Some(deadline) = rig.rtc.deadline().filter(|deadline| *deadline <= end) {
                rig.clock.advance(deadline - rig.clock.now());
                rig.rtc.expire(deadline);
                ticks += rig.irq.take_edges();
                assert_eq!(rig.get(C) & 0xC0, 0xC0);
            }
            assert!((count..=count + 1).contains(&ticks), "{ticks} for rate {rate}");
        }
    }

    #[test]
    fn memory_sizes() {
        let mut rig = Rig::with_memory(512 << 20, 5 << 30);
        let mut word = |index: u8| u16::from_le_bytes([rig.get(index), rig.get(index + 1)]);
        assert_eq!(word(0x15), 640);
        assert_eq!((word(0x17), word(0x30)), (0xFFFF, 0xFFFF));
        assert_eq!(word(0x34), (512 - 16) * 16);
        assert_eq!(word(0x5B), (5_u64 << 14) as u16);
        let mut rig = Rig::with_memory(16 << 20, 0);
        let mut word = |index: u8| u16::from_le_bytes([rig.get(index), rig.get(index + 1)]);
        assert_eq!((word(0x30), word(0x34)), (15 * 1024, 0));
    }

    #[test]
    fn the_ram_keeps_what_is_written() {
        let mut rig = Rig::new();
        rig.set(0xFF, 0xA5);
        assert_eq!(rig.get(0x7F), 0xA5);
        rig.set(D, 0);
        assert_eq!(rig.get(D), 0x80);
        assert_eq!(rig.rtc.read_byte(0), 0xFF);
    }
}

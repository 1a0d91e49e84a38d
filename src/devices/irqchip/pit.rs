//! The 8254 programmable interval timer, and port 0x61, which gates and shows its channel 2.
//!
//! Nothing counts here: a counter's value and output follow from the time since it was loaded.

#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::devices::timer::{Clock, Timed, Waker};
use crate::devices::{Bus, BusError, ByteDevice, IrqLine};

/// Frequency of the counters' clock in Hz.
pub const FREQUENCY: u64 = 1_193_182;

/// Ticks of channel 0 come at least this far apart, however short the period is.
const MIN_INTERVAL: Duration = Duration::from_micros(200);

/// Late ticks of channel 0 that are made up for; more are lost.
const MAX_BACKLOG: u64 = 8;

/// Half a period of the memory refresh signal, which port 0x61 shows in bit 4.
const REFRESH_TOGGLE: Duration = Duration::from_nanos(15_085);

/// The offset of port 0x61 from port 0x40.
const PORT_61: u64 = 0x21;

/// The counter clock's ticks in `time`.
fn ticks(time: Duration) -> u64 {
    let ticks = time.as_nanos() * u128::from(FREQUENCY) / 1_000_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// The time until `ticks` of the counter clock have passed, rounded up.
fn duration(ticks: u64) -> Duration {
    let nanos = (u128::from(ticks) * 1_000_000_000).div_ceil(u128::from(FREQUENCY));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Which bytes of a counter are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Low,
    High,
    LowThenHigh,
}

#[derive(Debug)]
struct Channel {
    /// 0 to 5.
    mode: u8,
    bcd: bool,
    access: Access,
    /// The count, 1 to 65536 (10000 in BCD), once it was written.
    count: Option<u64>,
    /// The count for modes 1 and 5 waits for the gate's rising edge.
    triggered: bool,
    gate: bool,
    /// Time that was counted before `since`.
    counted: Duration,
    /// Since when it counts; `None` while it stands still.
    since: Option<Instant>,
    low_written: Option<u8>,
    high_is_next: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

impl Channel {
    fn new(gate: bool) -> Self {
        Self {
            mode: 3,
            bcd: false,
            access: Access::LowThenHigh,
            count: None,
            triggered: false,
            gate,
            counted: Duration::ZERO,
            since: None,
            low_written: None,
            high_is_next: false,
            latched_count: None,
            latched_status: None,
        }
    }

    fn is_periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    /// Modes 1 and 5 start by the gate's rising edge.
    fn is_triggered_by_gate(&self) -> bool {
        matches!(self.mode, 1 | 5)
    }

    /// Ticks since the count was loaded.
    fn elapsed(&self, now: Instant) -> u64 {
        let running = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        ticks(self.counted.saturating_add(running))
    }

    /// The count that is under way.
    fn active(&self) -> Option<u64> {
        self.count.filter(|_| self.triggered || !self.is_triggered_by_gate())
    }

    fn output(&self, now: Instant) -> bool {
        let Some(count) = self.active() else { return self.mode != 0 };
        let elapsed = self.elapsed(now);
        match self.mode {
            0 => elapsed >= count,
            1 => elapsed >= count,
            2 => !self.gate || elapsed % count != count - 1,
            3 => !self.gate || elapsed % count < count.div_ceil(2),
            _ => elapsed != count,
        }
    }

    fn value(&self, now: Instant) -> u16 {
        let modulus = if self.bcd { 10_000 } else { 0x1_0000 };
        let Some(count) = self.active() else { return 0 };
        let elapsed = self.elapsed(now);
        let value = match self.mode {
            2 => count - elapsed % count,
            3 => count - (elapsed % count).saturating_mul(2) % count,
            // The other modes go on counting down from the top after the end.
            _ => (count % modulus + modulus - elapsed % modulus) % modulus,
        } % modulus;
        let value = if self.bcd { binary_to_bcd(value) } else { value };
        // At most 0xFFFF by the modulus, or 0x9999.
        value as u16
    }

    fn status(&self, now: Instant) -> u8 {
        let access = match self.access {
            Access::Low => 1,
            Access::High => 2,
            Access::LowThenHigh => 3,
        };
        u8::from(self.output(now)) << 7
            | u8::from(self.count.is_none()) << 6
            | access << 4
            | self.mode << 1
            | u8::from(self.bcd)
    }

    fn control(&mut self, access: Access, mode: u8, bcd: bool) {
        *self = Self { mode, bcd, access, ..Self::new(self.gate) };
    }

    fn latch_count(&mut self, now: Instant) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.value(now));
            self.high_is_next = false;
        }
    }

    fn latch_status(&mut self, now: Instant) {
        if self.latched_status.is_none() {
            self.latched_status = Some(self.status(now));
        }
    }

    fn read(&mut self, now: Instant) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let value = self.latched_count.unwrap_or_else(|| self.value(now));
        let [low, high] = value.to_le_bytes();
        let (byte, done) = match self.access {
            Access::Low => (low, true),
            Access::High => (high, true),
            Access::LowThenHigh if self.high_is_next => (high, true),
            Access::LowThenHigh => (low, false),
        };
        self.high_is_next = !done;
        if done {
            self.latched_count = None;
        }
        byte
    }

    fn write(&mut self, value: u8, now: Instant) {
        let count = match (self.access, self.low_written.take()) {
            (Access::Low, _) => u16::from(value),
            (Access::High, _) => u16::from(value) << 8,
            (Access::LowThenHigh, Some(low)) => u16::from_le_bytes([low, value]),
            (Access::LowThenHigh, None) => {
                self.low_written = Some(value);
                if self.mode == 0 {
                    // The first byte stops the count.
                    self.count = None;
                    self.since = None;
                }
                return;
            }
        };
        let modulus = if self.bcd { 10_000 } else { 0x1_0000 };
        let count = if self.bcd { bcd_to_binary(count) } else { u64::from(count) } % modulus;
        self.count = Some(if count == 0 { modulus } else { count });
        if !self.is_triggered_by_gate() {
            self.restart(now);
        }
    }

    fn restart(&mut self, now: Instant) {
        self.counted = Duration::ZERO;
        self.since = (self.gate || self.is_triggered_by_gate()).then_some(now);
    }

    fn set_gate(&mut self, gate: bool, now: Instant) {
        let rising = gate && !self.gate;
        let falling = !gate && self.gate;
        self.gate = gate;
        if self.count.is_none() {
            return;
        }
        match self.mode {
            0 | 4 if rising => self.since = Some(now),
            0 | 4 if falling => {
                let running = self.since.take().map(|since| now.saturating_duration_since(since));
                self.counted = self.counted.saturating_add(running.unwrap_or_default());
            }
            1 | 5 if rising => {
                self.triggered = true;
                self.restart(now);
            }
            2 | 3 if rising => self.restart(now),
            2 | 3 if falling => {
                self.counted = Duration::ZERO;
                self.since = None;
            }
            _ => {}
        }
    }

    /// The number of rising edges of the output since the count was loaded, without the one that the
    /// loading itself may cause.
    fn edges(&self, now: Instant) -> u64 {
        let Some(count) = self.active() else { return 0 };
        let elapsed = self.elapsed(now);
        match self.mode {
            2 | 3 => elapsed / count,
            0 | 1 => u64::from(elapsed >= count),
            _ => u64::from(elapsed > count),
        }
    }

    /// When the rising edge after `edges` comes.
    fn edge_after(&self, edges: u64) -> Option<Instant> {
        let count = self.active()?;
        let at = match self.mode {
            2 | 3 => count.saturating_mul(edges.saturating_add(1)),
            _ if edges != 0 => return None,
            0 | 1 => count,
            _ => count + 1,
        };
        self.since?.checked_add(duration(at).saturating_sub(self.counted))
    }
}

fn binary_to_bcd(value: u64) -> u64 {
    let digit = |unit: u64| value / unit % 10;
    digit(1) | digit(10) << 4 | digit(100) << 8 | digit(1000) << 12
}

/// Digits above 9 count as they are.
fn bcd_to_binary(value: u16) -> u64 {
    let digit = |shift: u32| u64::from(value >> shift & 0xF);
    digit(0) + digit(4) * 10 + digit(8) * 100 + digit(12) * 1000
}

/// The PIT: ports 0x40 to 0x43 and 0x61. Channel 0 pulses IRQ 0 at each rising edge of its output.
pub struct Pit {
    clock: Arc<dyn Clock>,
    created: Instant,
    channels: [Channel; 3],
    speaker: bool,
    irq: Box<dyn IrqLine>,
    waker: Waker,
    /// Rising edges of channel 0 that were delivered or given up.
    delivered: u64,
    next: Option<Instant>,
}

impl Pit {
    /// The PIT as a PC's firmware leaves it: channel 0 ticks at 18.2 Hz. `waker` is called when the
    /// deadline changed.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, irq: Box<dyn IrqLine>, waker: Waker) -> Self {
        let now = clock.now();
        let mut pit = Self {
            clock,
            created: now,
            channels: [Channel::new(true), Channel::new(true), Channel::new(false)],
            speaker: false,
            irq,
            waker,
            delivered: 0,
            next: None,
        };
        for byte in [0, 0] {
            pit.channels[0].write(byte, now);
        }
        pit.next = pit.channels[0].edge_after(0);
        pit
    }

    /// Puts the PIT's ports on the bus.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn attach(pit: &Arc<Mutex<Self>>, ports: &mut Bus) -> Result<(), BusError> {
        ports.insert(0x40, 4, "pit", pit.clone())?;
        ports.insert_window(0x61, 1, "pit gate and speaker", pit.clone(), PORT_61)
    }

    fn channel_0_changed(&mut self) {
        self.delivered = 0;
        let now = self.clock.now();
        let next = self.channels[0].edge_after(0).map(|next| self.not_too_soon(next, now));
        if self.next != next {
            self.next = next;
            (self.waker)();
        }
    }

    /// Keeps a guest from keeping the host busy: a periodic tick has a least distance from `now`.
    fn not_too_soon(&self, next: Instant, now: Instant) -> Instant {
        if self.channels[0].is_periodic() { next.max(now + MIN_INTERVAL) } else { next }
    }

    fn control(&mut self, value: u8, now: Instant) {
        if value >> 6 == 3 {
            for (number, channel) in self.channels.iter_mut().enumerate() {
                if value & (2 << number) != 0 {
                    if value & 0x20 == 0 {
                        channel.latch_count(now);
                    }
                    if value & 0x10 == 0 {
                        channel.latch_status(now);
                    }
                }
            }
            return;
        }
        let number = usize::from(value >> 6);
        let Some(channel) = self.channels.get_mut(number) else { return };
        let access = match value >> 4 & 3 {
            0 => {
                channel.latch_count(now);
                return;
            }
            1 => Access::Low,
            2 => Access::High,
            _ => Access::LowThenHigh,
        };
        let mode = match value >> 1 & 7 {
            // Modes 2 and 3 have two encodings.
            mode @ (6 | 7) => mode - 4,
            mode => mode,
        };
        channel.control(access, mode, value & 1 != 0);
        if number == 0 {
            self.channel_0_changed();
        }
    }

    fn read_port_61(&self, now: Instant) -> u8 {
        let [_, _, speaker_channel] = &self.channels;
        let age = now.saturating_duration_since(self.created).as_nanos();
        let refresh = age / REFRESH_TOGGLE.as_nanos() % 2 == 1;
        u8::from(speaker_channel.gate)
            | u8::from(self.speaker) << 1
            | u8::from(refresh) << 4
            | u8::from(speaker_channel.output(now)) << 5
    }
}

impl ByteDevice for Pit {
    fn read_byte(&mut self, offset: u64) -> u8 {
        let now = self.clock.now();
        match offset {
            0 => self.channels[0].read(now),
            1 => self.channels[1].read(now),
            2 => self.channels[2].read(now),
            PORT_61 => self.read_port_61(now),
            _ => 0xFF,
        }
    }

    fn write_byte(&mut self, offset: u64, value: u8) {
        let now = self.clock.now();
        match offset {
            0 => {
                self.channels[0].write(value, now);
                self.channel_0_changed();
            }
            1 => self.channels[1].write(value, now),
            2 => self.channels[2].write(value, now),
            3 => self.control(value, now),
            PORT_61 => {
                self.channels[2].set_gate(value & 1 != 0, now);
                self.speaker = value & 2 != 0;
            }
            _ => {}
        }
    }
}

impl Timed for Pit {
    fn deadline(&self) -> Option<Instant> {
        self.next
    }

    fn expire(&mut self, now: Instant) {
        if self.next.is_none_or(|next| now < next) {
            return;
        }
        let due = self.channels[0].edges(now);
        if due > self.delivered {
            let backlog = due - self.delivered;
            self.delivered =
                if self.channels[0].is_periodic() { due - (backlog - 1).min(MAX_BACKLOG) } else { due };
            self.irq.pulse();
        }
        // Late ticks follow as soon as the least distance allows.
        let next = self.channels[0].edge_after(self.delivered);
        self.next = next.map(|next| self.not_too_soon(next, now));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::devices::irqchip::rig::CountedLine;
    use crate::devices::timer::TestClock;

    struct Rig {
        clock: Arc<TestClock>,
        irq: CountedLine,
        wakes: Arc<AtomicUsize>,
        pit: Pit,
    }

    impl Rig {
        fn new() -> Self {
            let clock = TestClock::new();
            let irq = CountedLine::default();
            let wakes = Arc::new(AtomicUsize::new(0));
            let counter = wakes.clone();
            let waker: Waker = Arc::new(move || {
                counter.fetch_add(1, Ordering::Relaxed);
            });
            let pit = Pit::new(clock.clone(), Box::new(irq.clone()), waker);
            Self { clock, irq, wakes, pit }
        }

        fn program(&mut self, channel: u8, control: u8, count: u16) {
            self.pit.write_byte(3, channel << 6 | 0x30 | control);
            for byte in count.to_le_bytes() {
                self.pit.write_byte(u64::from(channel), byte);
            }
        }

        fn advance(&mut self, ticks: u64) {
            self.clock.advance(duration(ticks));
        }

        fn run(&mut self, time: Duration) -> usize {
            self.clock.run(&mut self.pit, time);
            self.irq.take_edges()
        }

        fn count(&mut self, channel: u8) -> u16 {
            self.pit.write_byte(3, channel << 6);
            let low = self.pit.read_byte(u64::from(channel));
            let high = self.pit.read_byte(u64::from(channel));
            u16::from_le_bytes([low, high])
        }

        fn output_2(&mut self) -> bool {
            self.pit.read_byte(PORT_61) & 0x20 != 0
        }
    }

    #[test]
    fn it_ticks_like_a_pc_until_it_is_programmed() {
        let mut rig = Rig::new();
        assert_eq!(rig.run(Duration::from_secs(10)), 182);
    }

    #[test]
    fn a_periodic_tick_keeps_its_rate() {
        for mode in [2, 3, 6, 7] {
            let mut rig = Rig::new();
            rig.program(0, mode << 1, 11_932);
            assert!(rig.wakes.load(Ordering::Relaxed) > 0);
            assert_eq!(rig.run(Duration::from_secs(10)), 999, "100 Hz, a little slow");
        }
    }

    #[test]
    fn one_shot_modes_tick_once() {
        for mode in [0, 4] {
            let mut rig = Rig::new();
            rig.program(0, mode << 1, 1000);
            assert_eq!(rig.run(Duration::from_micros(800)), 0);
            assert_eq!(rig.run(Duration::from_secs(1)), 1);
            assert_eq!(rig.pit.deadline(), None);
        }
    }

    #[test]
    fn gate_triggered_modes_never_tick_on_channel_0() {
        let mut rig = Rig::new();
        rig.program(0, 1 << 1, 1000);
        assert_eq!(rig.pit.deadline(), None);
        assert_eq!(rig.run(Duration::from_secs(1)), 0);
    }

    #[test]
    fn an_absurd_period_is_coalesced() {
        for count in [1, 2, 10] {
            let mut rig = Rig::new();
            rig.program(0, 4, count);
            let ticks = rig.run(Duration::from_secs(1));
            assert!((4_000..=5_001).contains(&ticks), "{ticks}");
        }
    }

    #[test]
    fn late_ticks_are_made_up_for_within_bounds() {
        let mut rig = Rig::new();
        rig.program(0, 4, 1193);
        rig.clock.advance(Duration::from_secs(3600));
        let now = rig.clock.now();
        rig.pit.expire(now);
        assert_eq!(rig.irq.take_edges(), 1);
        assert_eq!(rig.run(Duration::from_millis(100)), 100 + 8);
    }

    #[test]
    fn counters_count_down_and_wrap() {
        let mut rig = Rig::new();
        rig.pit.write_byte(PORT_61, 1);
        rig.program(2, 0, 1000);
        rig.advance(400);
        assert_eq!(rig.count(2), 600);
        assert!(!rig.output_2());
        rig.advance(601);
        assert_eq!(rig.count(2), 0xFFFF);
        assert!(rig.output_2(), "mode 0 ends high");

        rig.program(2, 4, 1000);
        rig.advance(1300);
        assert_eq!(rig.count(2), 700);

        rig.program(2, 6, 1000);
        rig.advance(100);
        assert_eq!(rig.count(2), 800, "mode 3 counts by two");
        assert!(rig.output_2());
        rig.advance(500);
        assert_eq!(rig.count(2), 800);
        assert!(!rig.output_2());
    }

    #[test]
    fn a_count_of_zero_is_the_largest() {
        let mut rig = Rig::new();
        rig.pit.write_byte(PORT_61, 1);
        rig.program(2, 4, 0);
        assert_eq!(rig.count(2), 0);
        rig.advance(1);
        assert_eq!(rig.count(2), 0xFFFF);
        rig.program(2, 5, 0);
        rig.advance(1);
        assert_eq!(rig.count(2), 0x9999);
        rig.program(2, 1, 0x1234);
        rig.advance(35);
        assert_eq!(rig.count(2), 0x1199);
    }

    #[test]
    fn the_gate_pauses_restarts_and_triggers() {
        let mut rig = Rig::new();
        rig.program(2, 0, 1000);
        rig.advance(500);
        assert_eq!(rig.count(2), 1000, "the gate is low");
        rig.pit.write_byte(PORT_61, 1);
        rig.advance(300);
        rig.pit.write_byte(PORT_61, 0);
        rig.advance(300);
        assert_eq!(rig.count(2), 700);
        rig.pit.write_byte(PORT_61, 1);
        rig.advance(300);
        assert_eq!(rig.count(2), 400);

        rig.pit.write_byte(PORT_61, 0);
        rig.program(2, 2, 1000);
        rig.advance(2000);
        assert!(rig.output_2());
        rig.pit.write_byte(PORT_61, 3);
        assert!(!rig.output_2(), "one-shot by the gate's edge");
        assert_eq!(rig.pit.read_byte(PORT_61) & 3, 3);
        rig.advance(1001);
        assert!(rig.output_2());

        rig.program(2, 4, 1000);
        rig.advance(400);
        rig.pit.write_byte(PORT_61, 0);
        rig.pit.write_byte(PORT_61, 1);
        assert_eq!(rig.count(2), 1000);
    }

    #[test]
    fn a_latched_count_stands_still_until_it_is_read() {
        let mut rig = Rig::new();
        rig.pit.write_byte(PORT_61, 1);
        rig.program(2, 4, 1000);
        rig.advance(100);
        rig.pit.write_byte(3, 0x80);
        rig.advance(100);
        rig.pit.write_byte(3, 0x80);
        assert_eq!(rig.pit.read_byte(2), 900_u16.to_le_bytes()[0]);
        rig.advance(100);
        assert_eq!(rig.pit.read_byte(2), 900_u16.to_le_bytes()[1]);
        assert_eq!(rig.count(2), 700);
    }

    #[test]
    fn read_back_gives_status_then_count() {
        let mut rig = Rig::new();
        rig.pit.write_byte(PORT_61, 1);
        rig.pit.write_byte(3, 0xB4);
        rig.pit.write_byte(3, 0xE8);
        assert_eq!(rig.pit.read_byte(2), 0xF4, "out high, no count yet");
        rig.program(2, 4, 1000);
        rig.advance(10);
        rig.pit.write_byte(3, 0xC8);
        assert_eq!(rig.pit.read_byte(2), 0xB4);
        assert_eq!(u16::from_le_bytes([rig.pit.read_byte(2), rig.pit.read_byte(2)]), 990);
    }

    #[test]
    fn single_byte_accesses() {
        let mut rig = Rig::new();
        rig.pit.write_byte(PORT_61, 1);
        rig.pit.write_byte(3, 0x94);
        rig.pit.write_byte(2, 200);
        rig.advance(50);
        assert_eq!(rig.pit.read_byte(2), 150);
        assert_eq!(rig.pit.read_byte(2), 150);
        rig.pit.write_byte(3, 0xA4);
        rig.pit.write_byte(2, 2);
        assert_eq!(rig.pit.read_byte(2), 2);
    }

    #[test]
    fn the_refresh_bit_toggles() {
        let mut rig = Rig::new();
        let first = rig.pit.read_byte(PORT_61) & 0x10;
        rig.clock.advance(REFRESH_TOGGLE);
        assert_ne!(rig.pit.read_byte(PORT_61) & 0x10, first);
    }
}

//! ARM's PL031, a real-time clock of one counter of seconds (Arm DDI 0224).

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::timer::{Clock, Timed, Waker};
use super::{Device, IrqLine};

/// Length of the registers in bytes.
pub const BYTES: u64 = 0x1000;

const DATA: u64 = 0;
const MATCH: u64 = 4;
const LOAD: u64 = 8;
const CONTROL: u64 = 0xC;
const MASK: u64 = 0x10;
const RAW_STATUS: u64 = 0x14;
const MASKED_STATUS: u64 = 0x18;
const CLEAR: u64 = 0x1C;
/// The identification registers, a byte in each word: part 0x031 by ARM, revision 0, and a PrimeCell.
const IDENTIFICATION: u64 = 0xFE0;
const IDENTITY: [u8; 8] = [0x31, 0x10, 0x04, 0x00, 0x0D, 0xF0, 0x05, 0xB1];

/// A PL031. It counts the host's UTC seconds until the guest sets it.
pub struct Pl031 {
    clock: Arc<dyn Clock>,
    irq: Box<dyn IrqLine>,
    waker: Waker,
    /// What the guest's count is ahead of the host's.
    offset: u32,
    match_value: u32,
    load_value: u32,
    unmasked: bool,
    raised: bool,
    /// When the count reaches the match value.
    alarm: Option<Instant>,
}

impl Pl031 {
    /// A clock after reset. `waker` is called when the alarm's time has changed.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, irq: Box<dyn IrqLine>, waker: Waker) -> Self {
        Self {
            clock,
            irq,
            waker,
            offset: 0,
            match_value: 0,
            load_value: 0,
            unmasked: false,
            raised: false,
            alarm: None,
        }
    }

    /// The host's count: the low half of its seconds since 1970.
    fn host_count(&self) -> u32 {
        self.clock.utc().as_secs() as u32
    }

    fn count(&self) -> u32 {
        self.host_count().wrapping_add(self.offset)
    }

    /// Sets the alarm to the next time that the count is the match value, which is up to 136 years away.
    fn set_alarm(&mut self) {
        let seconds = Duration::from_secs(self.match_value.wrapping_sub(self.count()).into());
        // The present second has begun a while ago.
        let begun = Duration::from_nanos(self.clock.utc().subsec_nanos().into());
        self.alarm = self.clock.now().checked_add(seconds.saturating_sub(begun));
        self.update();
        (self.waker)();
    }

    fn update(&mut self) {
        if self.alarm.is_some_and(|alarm| alarm <= self.clock.now()) {
            self.alarm = None;
            self.raised = true;
        }
        self.irq.set(self.raised && self.unmasked);
    }

    fn register(&mut self, offset: u64) -> u32 {
        self.update();
        match offset {
            DATA => self.count(),
            MATCH => self.match_value,
            LOAD => self.load_value,
            CONTROL => 1,
            MASK => self.unmasked.into(),
            RAW_STATUS => self.raised.into(),
            MASKED_STATUS => (self.raised && self.unmasked).into(),
            _ => {
                let word = offset.checked_sub(IDENTIFICATION).map(|at| at / 4);
                let byte = word.and_then(|word| IDENTITY.get(usize::try_from(word).ok()?));
                byte.copied().unwrap_or(0).into()
            }
        }
    }
}

impl Device for Pl031 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        // Registers are words; of a narrow access, the device sees the word and the bus takes its part.
        let value = self.register(offset & !3).to_le_bytes();
        let part = value.iter().skip((offset & 3) as usize).copied().chain(std::iter::repeat(0));
        for (to, from) in data.iter_mut().zip(part) {
            *to = from;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let Some(&bytes) = data.first_chunk() else { return };
        let value = u32::from_le_bytes(bytes);
        match offset {
            MATCH => {
                self.match_value = value;
                self.set_alarm();
            }
            LOAD => {
                self.load_value = value;
                self.offset = value.wrapping_sub(self.host_count());
                self.set_alarm();
            }
            MASK => {
                self.unmasked = value & 1 != 0;
                (self.waker)();
            }
            CLEAR if value & 1 != 0 => self.raised = false,
            _ => {}
        }
        self.update();
    }
}

impl Timed for Pl031 {
    fn deadline(&self) -> Option<Instant> {
        self.alarm.filter(|_| self.unmasked)
    }

    fn expire(&mut self, _now: Instant) {
        self.update();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::irqchip::rig::CountedLine;
    use crate::devices::timer::TestClock;

    struct Rig {
        rtc: Pl031,
        clock: Arc<TestClock>,
        irq: CountedLine,
    }

    impl Rig {
        fn new() -> Self {
            let clock = TestClock::at(Duration::from_millis(1_700_000_000_250));
            let irq = CountedLine::default();
            let rtc = Pl031::new(clock.clone(), Box::new(irq.clone()), Arc::new(|| {}));
            Self { rtc, clock, irq }
        }

        fn get(&mut self, offset: u64) -> u32 {
            let mut data = [0xFF; 4];
            self.rtc.read(offset, &mut data);
            u32::from_le_bytes(data)
        }

        fn set(&mut self, offset: u64, value: u32) {
            self.rtc.write(offset, &value.to_le_bytes());
        }
    }

    #[test]
    fn it_counts_the_seconds_of_the_host_until_it_is_set() {
        let mut rig = Rig::new();
        assert_eq!((rig.get(DATA), rig.get(CONTROL)), (1_700_000_000, 1));
        rig.clock.advance(Duration::from_secs(5));
        assert_eq!(rig.get(DATA), 1_700_000_005);
        rig.set(LOAD, 100);
        rig.clock.advance(Duration::from_secs(2));
        assert_eq!((rig.get(DATA), rig.get(LOAD)), (102, 100));
    }

    #[test]
    fn a_driver_finds_a_primecell() {
        let mut rig = Rig::new();
        let identity: Vec<u32> = (0..8).map(|word| rig.get(0xFE0 + 4 * word)).collect();
        assert_eq!(identity, [0x31, 0x10, 0x04, 0, 0x0D, 0xF0, 0x05, 0xB1]);
        let mut byte = [0xFF];
        rig.rtc.read(0xFE4, &mut byte);
        assert_eq!(byte, [0x10]);
        let mut wide = [0xFF; 8];
        rig.rtc.read(0xFE0, &mut wide);
        assert_eq!(wide, [0x31, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn the_alarm_comes_when_the_count_is_reached_and_not_before() {
        let mut rig = Rig::new();
        rig.set(MATCH, 1_700_000_003);
        assert_eq!(rig.rtc.deadline(), None, "masked");
        rig.set(MASK, 1);
        let deadline = rig.rtc.deadline().unwrap();
        assert_eq!(deadline - rig.clock.now(), Duration::from_millis(2750));
        rig.clock.advance(Duration::from_millis(2749));
        rig.rtc.expire(rig.clock.now());
        assert_eq!((rig.get(RAW_STATUS), rig.irq.level()), (0, false));
        rig.clock.advance(Duration::from_millis(1));
        assert_eq!(rig.rtc.deadline(), Some(deadline), "it stays until the device is called");
        rig.rtc.expire(rig.clock.now());
        assert_eq!((rig.get(MASKED_STATUS), rig.irq.level()), (1, true));
        assert_eq!(rig.rtc.deadline(), None);
        rig.set(MASK, 0);
        assert_eq!((rig.get(RAW_STATUS), rig.get(MASKED_STATUS), rig.irq.level()), (1, 0, false));
        rig.set(CLEAR, 1);
        rig.set(MASK, 1);
        assert_eq!((rig.get(RAW_STATUS), rig.irq.level()), (0, false));
    }

    #[test]
    fn setting_the_clock_moves_the_alarm() {
        let mut rig = Rig::new();
        rig.set(MASK, 1);
        rig.set(MATCH, 50);
        rig.set(LOAD, 49);
        assert_eq!(rig.rtc.deadline().unwrap() - rig.clock.now(), Duration::from_millis(750));
        rig.set(LOAD, 50);
        assert!(rig.irq.level());
    }

    proptest::proptest! {
        #[test]
        fn no_access_makes_it_panic(
            accesses in proptest::collection::vec((0..0x1010_u64, 0..=8_usize, proptest::num::u64::ANY, proptest::bool::ANY), 1..60),
        ) {
            let mut rig = Rig::new();
            for (offset, size, value, write) in accesses {
                let mut data = value.to_le_bytes();
                if write { rig.rtc.write(offset, &data[..size]) } else { rig.rtc.read(offset, &mut data[..size]) }
                rig.clock.advance(Duration::from_secs(value & 0xFFFF));
                let _ = rig.rtc.deadline();
            }
        }
    }
}

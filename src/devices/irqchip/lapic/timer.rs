//! The local APIC's timer: one-shot, periodic and TSC-deadline (Intel SDM vol. 3, 11.5.4).

use std::time::{Duration, Instant};

/// Frequency of the timer's input clock, before the divider, in Hz.
pub const FREQUENCY: u64 = 1_000_000_000;

/// Periodic ticks come at least this far apart, however short the period is.
const MIN_INTERVAL: Duration = Duration::from_micros(200);

/// What the LVT's timer mode says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    OneShot,
    Periodic,
    TscDeadline,
}

impl Mode {
    /// The mode of an LVT entry; the reserved encoding is a one-shot.
    pub(super) fn of_lvt(lvt: u32) -> Self {
        match lvt >> 17 & 3 {
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::OneShot,
        }
    }
}

#[derive(Debug)]
pub(super) struct Timer {
    mode: Mode,
    divide: u32,
    initial: u32,
    /// When the count reaches zero (next).
    zero: Option<Instant>,
    /// When the host must look.
    deadline: Option<Instant>,
    tsc_deadline: u64,
}

impl Default for Timer {
    fn default() -> Self {
        Self { mode: Mode::OneShot, divide: 0, initial: 0, zero: None, deadline: None, tsc_deadline: 0 }
    }
}

impl Timer {
    /// Nanoseconds a count; the input clock has 1 GHz.
    fn divider(&self) -> u32 {
        // Bits 3, 1 and 0 make a number: 2, 4, … 128, and 7 for 1.
        let code = self.divide & 3 | (self.divide & 8) >> 1;
        if code == 7 { 1 } else { 2 << code }
    }

    fn span(&self, count: u32) -> Duration {
        Duration::from_nanos(u64::from(count) * u64::from(self.divider()))
    }

    fn arm(&mut self, zero: Option<Instant>, now: Instant) {
        self.zero = zero;
        self.deadline = match self.mode {
            Mode::Periodic => zero.map(|zero| zero.max(now + MIN_INTERVAL)),
            _ => zero,
        };
    }

    pub(super) fn set_mode(&mut self, mode: Mode, now: Instant) {
        if mode == self.mode {
            return;
        }
        let disarms = mode == Mode::TscDeadline || self.mode == Mode::TscDeadline;
        self.mode = mode;
        if disarms {
            self.tsc_deadline = 0;
            self.initial = 0;
        }
        self.arm(self.zero.filter(|_| !disarms), now);
    }

    pub(super) fn divide(&self) -> u32 {
        self.divide
    }

    /// Sets the divider; a count that is under way goes on with the new one.
    pub(super) fn set_divide(&mut self, value: u32, now: Instant) {
        let current = self.current(now);
        self.divide = value & 0xB;
        if self.mode != Mode::TscDeadline && self.zero.is_some() {
            self.arm(now.checked_add(self.span(current)), now);
        }
    }

    pub(super) fn initial(&self) -> u32 {
        self.initial
    }

    pub(super) fn set_initial(&mut self, count: u32, now: Instant) {
        if self.mode == Mode::TscDeadline {
            return;
        }
        self.initial = count;
        let zero = if count == 0 { None } else { now.checked_add(self.span(count)) };
        self.arm(zero, now);
    }

    /// The current count.
    pub(super) fn current(&self, now: Instant) -> u32 {
        let Some(zero) = self.zero.filter(|_| self.mode != Mode::TscDeadline) else { return 0 };
        let mut left = zero.saturating_duration_since(now).as_nanos();
        if left == 0 && self.mode == Mode::Periodic {
            let period = self.span(self.initial).as_nanos().max(1);
            left = period - now.saturating_duration_since(zero).as_nanos() % period;
        }
        u32::try_from(left.div_ceil(u128::from(self.divider()))).unwrap_or(u32::MAX)
    }

    pub(super) fn tsc_deadline(&self) -> u64 {
        self.tsc_deadline
    }

    /// Sets the TSC deadline, which is at `at`; 0 disarms. In other modes nothing happens.
    pub(super) fn set_tsc_deadline(&mut self, value: u64, at: impl FnOnce(u64) -> Option<Instant>) {
        if self.mode != Mode::TscDeadline {
            return;
        }
        self.tsc_deadline = value;
        self.zero = if value == 0 { None } else { at(value) };
        self.deadline = self.zero;
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether the timer fired. Ticks that are late become one.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let (Some(deadline), Some(zero)) = (self.deadline, self.zero) else { return false };
        if now < deadline {
            return false;
        }
        let next = if self.mode == Mode::Periodic {
            let period = self.span(self.initial).as_nanos().max(1);
            let into = now.saturating_duration_since(zero).as_nanos() % period;
            // A period is at most 2^32 counts of 128 ns.
            u64::try_from(period - into).ok().and_then(|left| now.checked_add(Duration::from_nanos(left)))
        } else {
            None
        };
        self.tsc_deadline = 0;
        self.arm(next, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(count: u64) -> Duration {
        Duration::from_micros(count)
    }

    fn timer(mode: Mode) -> (Timer, Instant) {
        let now = Instant::now();
        let mut timer = Timer::default();
        timer.set_mode(mode, now);
        timer.set_divide(0xB, now);
        (timer, now)
    }

    #[test]
    fn dividers() {
        let now = Instant::now();
        let mut timer = Timer::default();
        let codes = [0, 1, 2, 3, 8, 9, 10, 11];
        let dividers = codes.map(|code| {
            timer.set_divide(code, now);
            timer.divider()
        });
        assert_eq!(dividers, [2, 4, 8, 16, 32, 64, 128, 1]);
    }

    #[test]
    fn one_shot() {
        let (mut timer, now) = timer(Mode::OneShot);
        timer.set_initial(1_000_000, now);
        assert_eq!(timer.deadline(), Some(now + us(1000)));
        assert_eq!(timer.current(now + us(400)), 600_000);
        assert!(!timer.expire(now + us(999)));
        assert!(timer.expire(now + us(1000)));
        assert!(!timer.expire(now + us(5000)));
        assert_eq!((timer.current(now + us(5000)), timer.deadline()), (0, None));
        timer.set_initial(5, now);
        timer.set_initial(0, now);
        assert_eq!(timer.deadline(), None);
    }

    #[test]
    fn periodic_ticks_coalesce_when_they_are_late() {
        let (mut timer, now) = timer(Mode::Periodic);
        timer.set_initial(1_000_000, now);
        assert!(timer.expire(now + us(1000)));
        assert_eq!(timer.deadline(), Some(now + us(2000)));
        assert_eq!(timer.current(now + us(1250)), 750_000);
        assert!(timer.expire(now + us(100_300)));
        assert!(!timer.expire(now + us(100_300)));
        assert_eq!(timer.deadline(), Some(now + us(101_000)));
    }

    #[test]
    fn an_absurd_period_is_coalesced() {
        let (mut timer, now) = timer(Mode::Periodic);
        timer.set_initial(1, now);
        let mut at = now;
        for _ in 0..10 {
            let deadline = timer.deadline().unwrap();
            assert!(deadline >= at + MIN_INTERVAL);
            at = deadline;
            assert!(timer.expire(at));
        }
    }

    #[test]
    fn changing_the_divider_keeps_the_count() {
        let (mut timer, now) = timer(Mode::OneShot);
        timer.set_initial(1000, now);
        timer.set_divide(0, now + Duration::from_nanos(500));
        assert_eq!(timer.current(now + Duration::from_nanos(500)), 500);
        assert_eq!(timer.deadline(), Some(now + Duration::from_nanos(1500)));
    }

    #[test]
    fn tsc_deadline() {
        let (mut timer, now) = timer(Mode::TscDeadline);
        timer.set_initial(1000, now);
        assert_eq!((timer.deadline(), timer.initial()), (None, 0));
        timer.set_tsc_deadline(77, |_| Some(now + us(7)));
        assert_eq!((timer.tsc_deadline(), timer.deadline()), (77, Some(now + us(7))));
        assert!(timer.expire(now + us(7)));
        assert_eq!((timer.tsc_deadline(), timer.deadline()), (0, None));
        timer.set_tsc_deadline(77, |_| Some(now));
        timer.set_tsc_deadline(0, |_| Some(now));
        assert_eq!(timer.deadline(), None);
        timer.set_tsc_deadline(77, |_| Some(now));
        timer.set_mode(Mode::OneShot, now);
        assert_eq!((timer.tsc_deadline(), timer.deadline()), (0, None));
    }
}

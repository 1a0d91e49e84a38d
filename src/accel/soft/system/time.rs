//! Guest time: the TSC and its relation to the host's monotonic clock.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Frequency of the TSC, of its crystal, in hertz: a tick is a nanosecond, so no conversion rounds.
pub const TSC_HZ: u64 = 1_000_000_000;

/// The machine's clock: one for all its vCPUs, which makes their TSCs agree.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock {
    /// Ticks since the machine was made: the TSC of a vCPU that never adjusted its own.
    #[must_use]
    pub fn ticks(&self) -> u64 {
        let elapsed = self.start.elapsed();
        // A u64 of nanoseconds lasts 584 years.
        elapsed.as_secs().wrapping_mul(TSC_HZ).wrapping_add(u64::from(elapsed.subsec_nanos()))
    }

    /// The host's time at which `ticks` is reached; none if it lies beyond what the host can name.
    #[must_use]
    pub fn instant(&self, ticks: u64) -> Option<Instant> {
        self.start.checked_add(Duration::from_nanos(ticks))
    }

    /// The wall-clock time at tick 0, since the Unix epoch.
    #[must_use]
    pub fn boot_time(&self) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(Duration::from_nanos(self.ticks()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_never_go_back_and_convert_exactly() {
        let clock = Clock::default();
        let first = clock.ticks();
        let second = clock.ticks();
        assert!(second >= first);
        let at = clock.instant(5 * TSC_HZ).unwrap();
        assert_eq!(at.duration_since(clock.start), Duration::from_secs(5));
    }

    #[test]
    fn a_deadline_beyond_all_time_does_not_panic() {
        let _ = Clock::default().instant(u64::MAX);
    }
}

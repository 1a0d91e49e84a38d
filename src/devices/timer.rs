//! Time for devices: a clock that is given to them, and deadlines at which they want to be called.

#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use super::lock;

/// What devices take for time. Tests give them one that they control.
pub trait Clock: Send + Sync {
    /// Monotonic time.
    fn now(&self) -> Instant;

    /// Time since 1970-01-01 00:00:00 UTC.
    fn utc(&self) -> Duration;
}

/// The host's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostClock;

impl Clock for HostClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn utc(&self) -> Duration {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }
}

/// Called by a device when its earliest deadline changed. The device is locked meanwhile, so the callee
/// only notifies another thread; a lock that it takes must not be held while `Timers` is asked.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// A device that wants to be called at certain times.
pub trait Timed: Send {
    /// The earliest time at which `expire` has something to do.
    fn deadline(&self) -> Option<Instant>;

    /// Does all that is due at `now`. Being called early or late is harmless.
    fn expire(&mut self, now: Instant);
}

/// The devices that have deadlines.
#[derive(Default)]
pub struct Timers {
    devices: Vec<Arc<Mutex<dyn Timed>>>,
}

impl Timers {
    /// Adds a device.
    pub fn add(&mut self, device: Arc<Mutex<dyn Timed>>) {
        self.devices.push(device);
    }

    /// The earliest deadline of all.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.devices.iter().filter_map(|device| lock(device).deadline()).min()
    }

    /// Calls every device whose deadline is at or before `now`.
    pub fn expire(&self, now: Instant) {
        for device in &self.devices {
            let mut device = lock(device);
            if device.deadline().is_some_and(|deadline| deadline <= now) {
                device.expire(now);
            }
        }
    }
}

/// A clock that stands still until a test moves it.
#[cfg(test)]
pub(crate) struct TestClock {
    start: Instant,
    elapsed: Mutex<Duration>,
    utc_start: Duration,
}

#[cfg(test)]
impl TestClock {
    /// A clock that starts `utc_start` after the Unix epoch.
    pub(crate) fn at(utc_start: Duration) -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), elapsed: Mutex::default(), utc_start })
    }

    /// A clock that starts at the Unix epoch.
    pub(crate) fn new() -> Arc<Self> {
        Self::at(Duration::ZERO)
    }

    pub(crate) fn advance(&self, by: Duration) {
        *lock(&self.elapsed) += by;
    }

    /// Moves on by `by`, stopping at each deadline of `device` as the machine's timer thread does.
    pub(crate) fn run(&self, device: &mut dyn Timed, by: Duration) {
        let end = self.now() + by;
        for _ in 0..1_000_000 {
            let Some(deadline) = device.deadline().filter(|deadline| *deadline <= end) else {
                self.advance(end - self.now());
                return;
            };
            self.advance(deadline.saturating_duration_since(self.now()));
            device.expire(self.now());
        }
        panic!("the device's deadlines do not move on");
    }
}

#[cfg(test)]
impl Clock for TestClock {
    fn now(&self) -> Instant {
        self.start + *lock(&self.elapsed)
    }

    fn utc(&self) -> Duration {
        self.utc_start + *lock(&self.elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Once(Option<Instant>);

    impl Timed for Once {
        fn deadline(&self) -> Option<Instant> {
            self.0
        }

        fn expire(&mut self, _now: Instant) {
            self.0 = None;
        }
    }

    #[test]
    fn only_what_is_due_expires() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut timers = Timers::default();
        assert_eq!(timers.deadline(), None);
        timers.add(Arc::new(Mutex::new(Once(Some(later)))));
        timers.add(Arc::new(Mutex::new(Once(Some(now)))));
        assert_eq!(timers.deadline(), Some(now));
        timers.expire(now);
        assert_eq!(timers.deadline(), Some(later));
    }
}

//! A bell that any thread can ring, and one thread sleeps beside.

use std::io;
use std::sync::{Arc, Condvar, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use windows_sys::Win32::Media::timeBeginPeriod;

use super::{Input, lock};

/// Wakes its owner. Rings that come together count as one.
#[derive(Debug)]
pub struct Doorbell {
    shared: Arc<Shared>,
}

/// What the owner sleeps beside.
#[derive(Debug, Default)]
pub(super) struct Shared {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Shared {
    /// Makes the owner look at its input.
    pub(super) fn look(&self) {
        // Whoever is about to sleep has not yet looked, or will be notified.
        drop(lock(&self.rung));
        self.changed.notify_all();
    }
}

impl Doorbell {
    /// A new bell.
    ///
    /// # Errors
    /// Never on this host.
    pub fn new() -> io::Result<Self> {
        static FINE_TIMERS: Once = Once::new();
        // Sleeps end at the system's timer tick, 64 a second by default: too few for a guest's clock.
        // SAFETY: the call touches no memory; its effect ends with the process.
        FINE_TIMERS.call_once(|| unsafe {
            timeBeginPeriod(1);
        });
        Ok(Self { shared: Arc::default() })
    }

    /// Wakes the owner, now or at its next wait.
    pub fn ring(&self) {
        *lock(&self.shared.rung) = true;
        self.shared.changed.notify_all();
    }

    /// Sleeps until the bell rings or `timeout` is over; `None` is no limit. True if it rang. It may wake
    /// for nothing.
    pub fn wait(&self, timeout: Option<Duration>) -> bool {
        self.wait_for_input(None, timeout).0
    }

    /// [`Self::wait`] that also wakes when `input` can be read or is at its end; the second answer says
    /// that it is.
    pub(crate) fn wait_for_input(&self, input: Option<&Input>, timeout: Option<Duration>) -> (bool, bool) {
        if let Some(input) = input {
            input.listen(&self.shared);
        }
        // A time that is too far away to be an instant is no limit.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut rung = lock(&self.shared.rung);
        loop {
            let bell = std::mem::take(&mut *rung);
            let readable = input.is_some_and(Input::is_readable);
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if bell || readable || left == Some(Duration::ZERO) {
                return (bell, readable);
            }
            let changed = &self.shared.changed;
            rung = match left {
                Some(left) => changed.wait_timeout(rung, left).unwrap_or_else(PoisonError::into_inner).0,
                None => changed.wait(rung).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_count_once_and_are_not_lost() {
        let bell = Doorbell::new().unwrap();
        assert!(!bell.wait(Some(Duration::ZERO)));
        bell.ring();
        bell.ring();
        assert!(bell.wait(None));
        assert!(!bell.wait(Some(Duration::ZERO)));
    }

    #[test]
    fn a_sleeper_wakes() {
        let bell = Arc::new(Doorbell::new().unwrap());
        let ringer = Arc::clone(&bell);
        let thread = std::thread::spawn(move || ringer.ring());
        while !bell.wait(None) {}
        thread.join().unwrap();
    }
}

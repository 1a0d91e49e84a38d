//! Ends a vCPU's run, or its sleep, from another thread.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::accel::Kick;

/// Ends the run that is under way in the framework, or else the next one.
pub type EndRun = Box<dyn Fn() + Send>;

/// What other threads tell a vCPU.
///
/// A vCPU sleeps outside the framework, so there are two ways to reach it: the bell for one that sleeps, and
/// the framework's own call for one that runs.
#[derive(Default)]
pub struct Wakeup {
    /// The run is to return to its caller.
    kicked: AtomicBool,
    /// There is something to look at.
    rung: Mutex<bool>,
    bell: Condvar,
    /// Set while the vCPU exists in the framework.
    end_run: Mutex<Option<EndRun>>,
}

impl Wakeup {
    /// Makes the vCPU look at its interrupts.
    pub fn ring(&self) {
        *lock(&self.rung) = true;
        self.bell.notify_all();
        // Under the lock, so that the vCPU cannot go meanwhile.
        if let Some(end_run) = &*lock(&self.end_run) {
            end_run();
        }
    }

    /// Says how a run in the framework is ended, or that the vCPU is gone from there.
    pub fn connect(&self, end_run: Option<EndRun>) {
        *lock(&self.end_run) = end_run;
    }

    /// Whether a kick came; it is taken by this call.
    pub fn take_kick(&self) -> bool {
        self.kicked.swap(false, Ordering::SeqCst)
    }

    /// Forgets the rings so far. Before the vCPU looks at what they are about, so that none is lost.
    pub fn silence(&self) {
        *lock(&self.rung) = false;
    }

    /// Sleeps until the bell rings, or has rung since [`Self::silence`], or until `deadline`.
    pub fn sleep(&self, deadline: Option<Instant>) {
        let mut rung = lock(&self.rung);
        while !*rung {
            let Some(deadline) = deadline else {
                rung = self.bell.wait(rung).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            rung = self.bell.wait_timeout(rung, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Kick for Wakeup {
    fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        self.ring();
    }
}

/// The lock, also after a thread panicked with it: nothing in here can be half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn a_ring_before_the_sleep_counts() {
        let wakeup = Wakeup::default();
        wakeup.silence();
        wakeup.ring();
        wakeup.sleep(None);
        assert!(!wakeup.take_kick());
    }

    #[test]
    fn a_kick_wakes_a_sleeper_and_is_taken_once() {
        let wakeup = Arc::new(Wakeup::default());
        let kicker = Arc::clone(&wakeup);
        let thread = std::thread::spawn(move || kicker.kick());
        wakeup.sleep(None);
        thread.join().unwrap();
        assert!(wakeup.take_kick());
        assert!(!wakeup.take_kick());
    }

    #[test]
    fn a_deadline_ends_a_sleep() {
        Wakeup::default().sleep(Some(Instant::now()));
    }

    #[test]
    fn a_run_is_ended_while_there_is_a_vcpu() {
        let (wakeup, ended) = (Wakeup::default(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&ended);
        wakeup.connect(Some(Box::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        })));
        wakeup.kick();
        wakeup.ring();
        wakeup.connect(None);
        wakeup.kick();
        assert_eq!(ended.load(Ordering::SeqCst), 2);
    }
}

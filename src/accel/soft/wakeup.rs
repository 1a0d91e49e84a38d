//! How other threads reach a vCPU: the word of pending events, and the sleep of a halted one.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Instant;

use super::state::pending;
use crate::accel::Kick;
use crate::devices::irqchip::lapic::Lapic;

/// The events of one vCPU, and where it sleeps while it is halted.
#[derive(Debug, Default)]
pub struct Wakeup {
    events: Arc<AtomicU32>,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Wakeup {
    /// The events, for the vCPU's polls.
    pub fn events(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.events)
    }

    /// Raises `events`, bits of `state::pending`.
    pub fn raise(&self, events: u32) {
        self.events.fetch_or(events, Ordering::AcqRel);
        // Whoever is about to sleep has not yet looked, or will be notified.
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Sleeps until there is an event.
    pub fn sleep(&self) {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while self.events.load(Ordering::Acquire) == 0 {
            guard = self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Kick for Wakeup {
    fn kick(&self) {
        self.raise(pending::KICK);
    }
}

/// The APICs' timers: one thread waits for the earliest.
#[derive(Default)]
pub struct Alarm {
    state: Mutex<AlarmState>,
    changed: Condvar,
}

#[derive(Default)]
struct AlarmState {
    lapics: Vec<Weak<Lapic>>,
    /// A deadline has changed since the thread looked.
    dirty: bool,
    over: bool,
}

impl Alarm {
    /// Adds a timer.
    pub fn add(&self, lapic: &Arc<Lapic>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.lapics.push(Arc::downgrade(lapic));
    }

    /// Some timer's deadline has changed. The caller may hold its APIC's lock.
    pub fn changed(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).dirty = true;
        self.changed.notify_one();
    }

    /// Ends the thread.
    pub fn end(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).over = true;
        self.changed.notify_one();
    }

    /// Lets the timers expire, until `end`.
    pub fn watch(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.over {
            state.dirty = false;
            let lapics: Vec<_> = state.lapics.iter().filter_map(Weak::upgrade).collect();
            // An APIC may call `changed` while it holds its own lock.
            drop(state);
            let now = Instant::now();
            let mut earliest: Option<Instant> = None;
            for lapic in lapics {
                if lapic.timer_deadline().is_some_and(|deadline| deadline <= now) {
                    lapic.timer_expire(now);
                }
                if let Some(deadline) = lapic.timer_deadline() {
                    earliest = Some(earliest.map_or(deadline, |e| e.min(deadline)));
                }
            }
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.dirty || state.over {
                continue;
            }
            state = match earliest {
                Some(deadline) => {
                    let wait = deadline.saturating_duration_since(Instant::now());
                    self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

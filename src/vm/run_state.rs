//! What the threads of one run share: whether it has ended, and how.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::accel::{Activity, Kick};
use crate::console::Doorbell;
use crate::outcome::Outcome;

use super::VmError;
use super::facts::ExitCounts;

/// How a run ended: an outcome of the guest's, or a failure of ours.
pub type End = Result<Outcome, VmError>;

/// `activity` before a vCPU has answered.
const UNKNOWN: u8 = u8::MAX;

/// The shared state of one run.
pub struct RunState {
    ended: AtomicBool,
    end: Mutex<Option<End>>,
    /// Wakes the supervisor.
    bell: Arc<Doorbell>,
    /// The guest's kernel has said that it panics; a reset after that is no wish of its own.
    panicking: AtomicBool,
    kicks: OnceLock<Vec<Arc<dyn Kick>>>,
    /// For each vCPU: whether it shall report its activity, and what it reported.
    asked: Vec<AtomicBool>,
    activity: Vec<AtomicU8>,
    /// Exits of the vCPUs that have ended.
    exits: Mutex<ExitCounts>,
}

impl RunState {
    /// The state of a run with `cpus` vCPUs, whose supervisor listens to `bell`.
    #[must_use]
    pub fn new(cpus: u32, bell: Arc<Doorbell>) -> Self {
        Self {
            ended: AtomicBool::new(false),
            end: Mutex::new(None),
            bell,
            panicking: AtomicBool::new(false),
            kicks: OnceLock::new(),
            asked: (0..cpus).map(|_| AtomicBool::new(false)).collect(),
            activity: (0..cpus).map(|_| AtomicU8::new(UNKNOWN)).collect(),
            exits: Mutex::default(),
        }
    }

    /// Tells the state how to end each vCPU's run; before any of them runs.
    pub fn set_kicks(&self, kicks: Vec<Arc<dyn Kick>>) {
        // A second call would be a second run of the same state; the first one's handles stay.
        let _ = self.kicks.set(kicks);
    }

    /// Whether the run has ended. Asked before every entry of every vCPU.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Ends the run, unless it has ended already: the first end counts. Every vCPU is told to stop.
    pub fn finish(&self, end: End) {
        {
            let mut slot = self.end.lock().unwrap_or_else(PoisonError::into_inner);
            if slot.is_none() {
                *slot = Some(self.judge(end));
            }
            self.ended.store(true, Ordering::Release);
        }
        self.kick_all();
        self.wake_supervisor();
    }

    /// A panicking kernel's reset, power-off or crash is a panic's.
    fn judge(&self, end: End) -> End {
        let panicking = self.panicking.load(Ordering::Acquire);
        match end {
            Ok(Outcome::PoweredOff | Outcome::Reset | Outcome::TripleFault { .. } | Outcome::Hung { .. })
                if panicking =>
            {
                Ok(Outcome::Panicked)
            }
            end => end,
        }
    }

    /// Notes that the guest's kernel has begun to panic.
    pub fn note_panic(&self) {
        if !self.panicking.swap(true, Ordering::AcqRel) {
            self.wake_supervisor();
        }
    }

    /// Whether the guest's kernel has begun to panic.
    #[must_use]
    pub fn panicking(&self) -> bool {
        self.panicking.load(Ordering::Acquire)
    }

    /// Takes the end out; `None` while the run goes on.
    pub fn take_end(&self) -> Option<End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn kick_all(&self) {
        for kick in self.kicks.get().into_iter().flatten() {
            kick.kick();
        }
    }

    /// Asks every vCPU for its activity; the answers come in soon.
    pub fn ask_activity(&self) {
        for (asked, activity) in self.asked.iter().zip(&self.activity) {
            activity.store(UNKNOWN, Ordering::Release);
            asked.store(true, Ordering::Release);
        }
        self.kick_all();
    }

    /// Whether vCPU `id` shall report its activity; taken by this call.
    pub fn take_question(&self, id: u32) -> bool {
        self.asked.get(id as usize).is_some_and(|asked| asked.swap(false, Ordering::AcqRel))
    }

    /// Notes what vCPU `id` does.
    pub fn note_activity(&self, id: u32, activity: Activity) {
        if let Some(slot) = self.activity.get(id as usize) {
            slot.store(activity as u8, Ordering::Release);
        }
    }

    /// Whether every vCPU has answered that it can never run again.
    #[must_use]
    pub fn all_dead(&self) -> bool {
        const FOREVER: u8 = Activity::HaltedForever as u8;
        const UNSTARTED: u8 = Activity::WaitForStart as u8;
        self.activity.iter().all(|a| matches!(a.load(Ordering::Acquire), FOREVER | UNSTARTED))
    }

    /// Adds the exits of a vCPU that has ended.
    pub fn add_exits(&self, exits: &ExitCounts) {
        self.exits.lock().unwrap_or_else(PoisonError::into_inner).add(exits);
    }

    /// The exits of the vCPUs that have ended.
    #[must_use]
    pub fn exits(&self) -> ExitCounts {
        *self.exits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the supervisor look again.
    pub fn wake_supervisor(&self) {
        self.bell.ring();
    }
}

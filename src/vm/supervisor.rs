//! The thread that watches a run: device timers, guest output, the time limit, hang detection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::console::GuestOutput;
use crate::devices::timer::Timers;
use crate::outcome::Outcome;

use super::VmError;
use super::run_state::RunState;

/// How often the vCPUs are asked whether they can ever run again. Two answers in a row make a hang, so a
/// hung guest is noticed within three of these.
const WATCHDOG_PERIOD: Duration = Duration::from_millis(250);
/// How long a panicking kernel may go on printing before the run ends.
const PANIC_GRACE: Duration = Duration::from_secs(1);
/// Longer than any wait between two looks.
const IDLE: Duration = Duration::from_secs(3600);

/// What the supervisor looks after.
pub struct Supervisor {
    /// The run.
    pub state: Arc<RunState>,
    /// Timers of the devices.
    pub timers: Timers,
    /// Guest output on its way to the host.
    pub output: Arc<GuestOutput>,
    /// The time limit of the run.
    pub timeout: Option<Duration>,
}

/// The watchdog's rounds.
struct Watchdog {
    next: Instant,
    /// Whether every vCPU was dead in the last round.
    suspicious: bool,
}

impl Supervisor {
    /// Watches until the run ends.
    pub fn watch(self) {
        let start = Instant::now();
        // A time limit too far away to be an instant is none.
        let limit = self.timeout.and_then(|timeout| Some((timeout, start.checked_add(timeout)?)));
        let mut watchdog = Watchdog { next: start + WATCHDOG_PERIOD, suspicious: false };
        let mut panic_deadline = None;
        while !self.state.ended() {
            let now = Instant::now();
            self.timers.expire(now);
            let mut next = now + IDLE;
            let flush = match self.output.flush_if_due(now) {
                Ok(due) => due,
                Err(error) => {
                    self.state.finish(Err(VmError::Output(error)));
                    return;
                }
            };
            if let Some((timeout, deadline)) = limit {
                if now >= deadline {
                    self.state.finish(Ok(Outcome::TimedOut { limit: timeout }));
                    return;
                }
                next = next.min(deadline);
            }
            if self.state.panicking() {
                let deadline = *panic_deadline.get_or_insert(now + PANIC_GRACE);
                if now >= deadline {
                    self.state.finish(Ok(Outcome::Panicked));
                    return;
                }
                next = next.min(deadline);
            }
            self.look_for_hang(&mut watchdog, now);
            next = next.min(watchdog.next);
            for deadline in [flush, self.timers.deadline()].into_iter().flatten() {
                next = next.min(deadline);
            }
            self.state.sleep_until(next);
        }
    }

    /// One round: the answers to the last question, and the next question.
    fn look_for_hang(&self, watchdog: &mut Watchdog, now: Instant) {
        if now < watchdog.next {
            return;
        }
        let dead = self.state.all_dead();
        if dead && watchdog.suspicious {
            self.state.finish(Ok(Outcome::Hung { rip: None }));
            return;
        }
        watchdog.suspicious = dead;
        watchdog.next = now + WATCHDOG_PERIOD;
        self.state.ask_activity();
    }
}

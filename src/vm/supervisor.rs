//! The thread that watches a run: device timers, guest output, the time limit, hang detection.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::console::{Doorbell, Input, Signals, StdinPump};
use crate::devices::lock;
use crate::devices::serial::Serial;
use crate::devices::timer::Timers;
use crate::outcome::Outcome;

use super::VmError;
use super::extension::HostOutput;
use super::run_state::RunState;

/// How often the vCPUs are asked whether they can ever run again. Two answers in a row make a hang, so a
/// hung guest is noticed within three of these.
const WATCHDOG_PERIOD: Duration = Duration::from_millis(250);
/// How long a panicking kernel may go on printing before the run ends.
const PANIC_GRACE: Duration = Duration::from_secs(1);
/// Longer than any wait between two looks.
const IDLE: Duration = Duration::from_secs(3600);
/// A guest that lives shorter than this gets no input: it has no time to read it, and a short run is
/// spared a thread.
const INPUT_DELAY: Duration = Duration::from_millis(3);

/// What the supervisor looks after.
pub struct Supervisor {
    /// The run.
    pub state: Arc<RunState>,
    /// Rings when there is something to look at.
    pub bell: Arc<Doorbell>,
    /// Host signals that end the run.
    pub signals: Arc<Signals>,
    /// The serial port that stdin goes to.
    pub stdin: Option<Arc<Mutex<Serial>>>,
    /// Timers of the devices.
    pub timers: Timers,
    /// Guest output on its way to the host.
    pub output: HostOutput,
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
        self.watch_until_end();
        // A vCPU may wait for room in the output; now it has to end instead.
        self.output.stdout.stop_waiting();
        self.output.stderr.stop_waiting();
    }

    fn watch_until_end(&self) {
        let start = Instant::now();
        // A time limit too far away to be an instant is none.
        let limit = self.timeout.and_then(|timeout| Some((timeout, start.checked_add(timeout)?)));
        let mut watchdog = Watchdog { next: start + WATCHDOG_PERIOD, suspicious: false };
        let mut panic_deadline = None;
        let mut pump = None;
        while !self.state.ended() {
            let now = Instant::now();
            self.timers.expire(now);
            let mut next = now + IDLE;
            if let Some(signal) = self.signals.pending() {
                self.state.finish(Ok(Outcome::Signalled(signal)));
                return;
            }
            if let Some(serial) = self.stdin.as_ref().filter(|_| pump.is_none()) {
                if now >= start + INPUT_DELAY {
                    match self.start_input(serial) {
                        Ok(started) => pump = Some(started),
                        Err(error) => {
                            self.state.finish(Err(VmError::Console(error)));
                            return;
                        }
                    }
                } else {
                    next = next.min(start + INPUT_DELAY);
                }
            }
            let (stdout, stderr) = (&self.output.stdout, &self.output.stderr);
            for flushed in [stdout.flush_if_due(now), stderr.flush_if_due(now)] {
                match flushed {
                    Ok(due) => next = due.map_or(next, |due| next.min(due)),
                    Err(error) => {
                        self.state.finish(Err(error.into()));
                        return;
                    }
                }
            }
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
            next = self.timers.deadline().map_or(next, |deadline| next.min(deadline));
            self.bell.wait(Some(next.saturating_duration_since(Instant::now())));
        }
    }

    /// Carries stdin to `serial` until the answer is dropped.
    fn start_input(&self, serial: &Arc<Mutex<Serial>>) -> std::io::Result<StdinPump> {
        let (take, events) = (Arc::clone(serial), Arc::clone(&self.state));
        let (pump, room) = StdinPump::start(
            Input::stdin(),
            move |bytes| lock(&take).enqueue(bytes),
            move || events.finish(Ok(Outcome::Escaped)),
        )?;
        lock(serial).set_room_waker(Arc::new(move || room.ring()));
        Ok(pump)
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

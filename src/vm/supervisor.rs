//! The thread that watches a run: device timers, guest output, the time limit, hang detection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::console::say;
use crate::devices::timer::Timers;
use crate::outcome::Outcome;

use super::extension::HostOutput;
use super::host::Host;
use super::run_state::{End, RunState};
use super::typist::Typist;

/// Presses the guest's power button.
pub type Button = Box<dyn Fn() + Send>;

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
    /// The host's side.
    pub host: Arc<Host>,
    /// Whether a serial port is on stdin.
    pub has_stdin: bool,
    /// COM1, where the script types.
    pub com1: Option<Arc<dyn Typist>>,
    /// The guest's power button, where it has one.
    pub button: Option<Button>,
    /// Timers of the devices.
    pub timers: Timers,
    /// Guest output on its way to the host.
    pub output: HostOutput,
    /// How long the guest may take to power off after the first signal.
    pub grace: Option<Duration>,
    /// Whether a guest that hangs is ended.
    pub ends_hangs: bool,
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
        self.host.stop_waiting();
        if let Some(watcher) = &self.host.watcher {
            watcher.set_ending(true);
        }
    }

    fn watch_until_end(&self) {
        let start = Instant::now();
        let mut watchdog = Watchdog { next: start + WATCHDOG_PERIOD, suspicious: false };
        let mut panic_deadline = None;
        let mut grace_deadline = None;
        while !self.state.ended() {
            let now = Instant::now();
            self.timers.expire(now);
            let end = match self.look(now, start, &mut panic_deadline, &mut grace_deadline) {
                Ok(next) => {
                    self.look_for_hang(&mut watchdog, now);
                    let next =
                        [Some(watchdog.next), self.timers.deadline(), next].into_iter().flatten().min();
                    let next = next.unwrap_or(now + IDLE);
                    self.host.bell.wait(Some(next.saturating_duration_since(Instant::now())));
                    continue;
                }
                Err(end) => *end,
            };
            self.state.finish(end);
        }
    }

    /// Looks at everything but the timers; tells when to look again, or how the run ends.
    fn look(
        &self,
        now: Instant,
        start: Instant,
        panic_deadline: &mut Option<Instant>,
        grace_deadline: &mut Option<Instant>,
    ) -> Result<Option<Instant>, Box<End>> {
        let end = |outcome| Err(Box::new(Ok(outcome)));
        let failed = |error| Box::new(Err(error));
        let mut deadlines = [None; 6];
        let [input, stdout, stderr, script, panic, grace] = &mut deadlines;
        if let Some(signal) = self.host.signals.pending() {
            match self.grace.zip(self.button.as_ref()) {
                Some((time, button)) if self.host.signals.count() < 2 => {
                    let deadline = *grace_deadline.get_or_insert_with(|| {
                        say("vm-accel: the guest is asked to power off; a second signal ends it\n");
                        button();
                        now + time
                    });
                    if now >= deadline {
                        return end(Outcome::Signalled(signal));
                    }
                    *grace = Some(deadline);
                }
                _ => return end(Outcome::Signalled(signal)),
            }
        }
        if self.host.escaped() {
            return end(Outcome::Escaped);
        }
        if self.has_stdin {
            if now >= start + INPUT_DELAY {
                self.host.start_input().map_err(failed)?;
            } else {
                *input = Some(start + INPUT_DELAY);
            }
        }
        for (next, output) in [(stdout, &self.output.stdout), (stderr, &self.output.stderr)] {
            *next = output.flush_if_due(now).map_err(|error| failed(error.into()))?;
        }
        if let Some(watcher) = &self.host.watcher {
            let (next, verdict) = watcher.follow(self.com1.as_deref(), now);
            if let Some(verdict) = verdict {
                return end(Outcome::Script(verdict));
            }
            *script = next;
        }
        let mut next = deadlines_min(self.host.limit.map(|(deadline, _)| deadline), None);
        if let Some((deadline, limit)) = self.host.limit
            && now >= deadline
        {
            return end(Outcome::TimedOut { limit });
        }
        if self.state.panicking() {
            let deadline = *panic_deadline.get_or_insert(now + PANIC_GRACE);
            if now >= deadline {
                return end(Outcome::Panicked);
            }
            *panic = Some(deadline);
        }
        for deadline in deadlines {
            next = deadlines_min(next, deadline);
        }
        Ok(next)
    }

    /// One round: the answers to the last question, and the next question.
    fn look_for_hang(&self, watchdog: &mut Watchdog, now: Instant) {
        if now < watchdog.next {
            return;
        }
        let dead = self.state.all_dead();
        if dead && watchdog.suspicious && self.ends_hangs {
            self.state.finish(Ok(Outcome::Hung { rip: None }));
            return;
        }
        watchdog.suspicious = dead;
        watchdog.next = now + WATCHDOG_PERIOD;
        self.state.ask_activity();
    }
}

/// The earlier of two deadlines.
fn deadlines_min(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

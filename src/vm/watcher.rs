//! What COM1 writes, on its way to the script: from the vCPU that writes it to the thread that follows
//! the script.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::console::Doorbell;
use crate::devices::lock;
use crate::script::{Runner, Script, Verdict};

use super::typist::Typist;

/// Bytes that may wait before the vCPU has to.
const CAPACITY: usize = 1 << 20;
/// Bytes that are worth a look at once.
const BATCH: usize = 16 << 10;
/// How long the first byte waits for company.
const DELAY: Duration = Duration::from_millis(2);
/// How often text is offered again to a guest that takes none.
const RETRY: Duration = Duration::from_millis(10);

/// Follows COM1's output.
pub struct Watcher {
    queue: Mutex<Queue>,
    room: Condvar,
    runner: Mutex<Runner>,
    bell: Arc<Doorbell>,
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    /// When the first of `bytes` came.
    since: Option<Instant>,
    /// Nobody has to wait for room any more.
    ending: bool,
}

impl Watcher {
    /// Begins `script` at `now`. `bell` is rung when there is something to look at.
    pub fn new(script: Script, now: Instant, bell: Arc<Doorbell>) -> Self {
        let runner = Mutex::new(Runner::new(script, now));
        Self { queue: Mutex::default(), room: Condvar::new(), runner, bell }
    }

    /// Takes a byte of output. Waits while too much is queued.
    pub fn push(&self, byte: u8) {
        let mut queue = lock(&self.queue);
        while queue.bytes.len() >= CAPACITY && !queue.ending {
            queue = self.room.wait(queue).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        queue.bytes.push(byte);
        let count = queue.bytes.len();
        if count == 1 {
            queue.since = Some(Instant::now());
        }
        drop(queue);
        if count == 1 || count == BATCH {
            self.bell.ring();
        }
    }

    /// Whether nobody shall wait for room: at the end of a boot, and not from the next one on.
    pub fn set_ending(&self, ending: bool) {
        lock(&self.queue).ending = ending;
        self.room.notify_all();
    }

    /// Follows the script up to `now` and types at `port` what it wants typed. Tells when to look again,
    /// and the verdict when there is one.
    pub fn follow(&self, port: Option<&dyn Typist>, now: Instant) -> (Option<Instant>, Option<Verdict>) {
        let mut runner = lock(&self.runner);
        let (due, full) = {
            let queue = lock(&self.queue);
            (queue.since.map(|since| since + DELAY), queue.bytes.len() >= BATCH)
        };
        // Output that waits must not be late for a step's time.
        let over = |deadline: Option<Instant>| deadline.is_some_and(|deadline| now >= deadline);
        let look = full || over(due) || over(runner.deadline());
        if look {
            self.feed(&mut runner, now);
        }
        runner.tick(now);
        let mut next = [due.filter(|_| !look), runner.deadline()].into_iter().flatten().min();
        let to_send = runner.to_send();
        if let (Some(port), false) = (port, to_send.is_empty()) {
            // A vCPU may hold the port while it waits for room in the queue, so this must not wait for it.
            let taken = port.try_type_in(to_send);
            to_send.drain(..taken.min(to_send.len()));
            if !to_send.is_empty() {
                next = Some(next.map_or(now + RETRY, |next| next.min(now + RETRY)));
            }
        }
        (next, runner.verdict().cloned())
    }

    /// Gives the queue to the script, while the vCPU goes on.
    fn feed(&self, runner: &mut Runner, now: Instant) {
        let bytes = {
            let mut queue = lock(&self.queue);
            queue.since = None;
            std::mem::take(&mut queue.bytes)
        };
        self.room.notify_all();
        runner.output(&bytes, now);
    }

    /// The guest has ended, in words, and no vCPU runs any more: what the script makes of it. `wished` is
    /// an end of the guest's own wish, which a script that is not done does not accept.
    pub fn judge(&self, end: &str, wished: bool) -> Option<Verdict> {
        let now = Instant::now();
        let mut runner = lock(&self.runner);
        self.feed(&mut runner, now);
        if wished { runner.guest_ended(end, now).cloned() } else { runner.verdict().cloned() }
    }

    /// Asks the script.
    pub fn with_runner<T>(&self, ask: impl FnOnce(&Runner) -> T) -> T {
        ask(&lock(&self.runner))
    }
}

//! Guest output on its way to stdout or a file: batched, bounded, and never in the way of the run's end.
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::OutputFile;

/// Bytes that may wait before a vCPU that pushes more has to wait.
const CAPACITY: usize = 1 << 20;
/// Bytes that are worth a write at once.
const BATCH: usize = 64 << 10;
/// How long the first byte of a batch waits for company.
const DELAY: Duration = Duration::from_millis(2);
/// The first and the longest pause before a sink that takes nothing is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(10));

/// Called from any thread when the owner should look after the output.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// Where guest output goes.
pub trait Sink: Send {
    /// Writes what can be written without waiting, and says how much that was.
    ///
    /// # Errors
    /// [`ErrorKind::WouldBlock`] when nothing can be written now, anything else when nothing ever can.
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Waits until something can be written, at most for `timeout`.
    fn wait_writable(&self, timeout: Duration);
}

/// Guest output that did not reach its destination.
#[derive(Debug, Error)]
pub enum OutputError {
    /// The reader of a pipe is gone.
    #[error(
        "guest output is lost: the reader of {destination} has closed it. Keep it open, or write to a file"
    )]
    Closed {
        /// "stdout", or a file's path.
        destination: String,
    },
    /// The host refused to write.
    #[error(
        "guest output is lost: cannot write to {destination}: {source}. Free some space, or write it elsewhere"
    )]
    Io {
        /// "stdout", or a file's path.
        destination: String,
        /// The host's reason.
        source: io::Error,
    },
    /// The reader did not take the rest in the time that there was.
    #[error(
        "{bytes} bytes of guest output are lost: the reader of {destination} did not take them in time. Let it read faster, or write to a file"
    )]
    Stuck {
        /// "stdout", or a file's path.
        destination: String,
        /// How many bytes.
        bytes: usize,
    },
}

/// Collects guest output from the vCPUs; its owner writes it out from its own loop.
pub struct GuestOutput {
    queue: Mutex<Queue>,
    room: Condvar,
    writer: Mutex<Writer>,
    waker: Waker,
    /// The sink's name in errors.
    destination: String,
}

/// What the vCPUs have pushed.
#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    /// Bytes that the writer holds and has not written yet.
    in_flight: usize,
    /// When the first of `bytes` came.
    since: Option<Instant>,
    /// Nobody has to wait for room any more.
    ending: bool,
    /// The sink is broken; everything is dropped.
    failed: bool,
    /// Bytes dropped while `ending`.
    dropped: usize,
}

impl Queue {
    fn waiting(&self) -> usize {
        self.bytes.len() + self.in_flight
    }
}

/// What is being written.
struct Writer {
    sink: Box<dyn Sink>,
    batch: Vec<u8>,
    written: usize,
    pause: Duration,
}

impl GuestOutput {
    /// Output to `sink`, which errors call `destination`. `waker` is called when there is something to write after there was nothing, and
    /// when much has gathered.
    pub fn new(sink: Box<dyn Sink>, destination: impl Into<String>, waker: Waker) -> Self {
        Self {
            queue: Mutex::new(Queue::default()),
            room: Condvar::new(),
            writer: Mutex::new(Writer { sink, batch: Vec::new(), written: 0, pause: RETRY.0 }),
            waker,
            destination: destination.into(),
        }
    }

    /// Output to the process's stdout.
    pub fn stdout(waker: Waker) -> Self {
        Self::new(Box::new(OutputFile::stdout()), "stdout", waker)
    }

    /// Output to the process's stderr.
    pub fn stderr(waker: Waker) -> Self {
        Self::new(Box::new(OutputFile::stderr()), "stderr", waker)
    }

    /// Queues `bytes`. Waits while 1 MiB is queued, until there is room or [`Self::stop_waiting`] is
    /// called. Output to a broken sink is dropped; the owner knows of it.
    pub fn push(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut queue = lock(&self.queue);
        while queue.waiting() > 0
            && queue.waiting() + bytes.len() > CAPACITY
            && !queue.ending
            && !queue.failed
        {
            queue = self.room.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        if queue.failed {
            return;
        }
        // At the end a vCPU still finishes what it is at, but it cannot go on for ever.
        if queue.ending && queue.waiting() > 2 * CAPACITY {
            queue.dropped = queue.dropped.saturating_add(bytes.len());
            return;
        }
        let before = queue.bytes.len();
        queue.bytes.extend_from_slice(bytes);
        let after = queue.bytes.len();
        if before == 0 {
            queue.since = Some(Instant::now());
        }
        drop(queue);
        if before == 0 || (before < BATCH && after >= BATCH) {
            (self.waker)();
        }
    }

    /// Writes what is due at `now`, without waiting for a slow reader, and tells when to call again:
    /// `None` means at the next call of the waker.
    ///
    /// # Errors
    /// The first time that the sink breaks. After that, output is dropped and this is `Ok(None)`.
    pub fn flush_if_due(&self, now: Instant) -> Result<Option<Instant>, OutputError> {
        let mut writer = lock(&self.writer);
        if writer.written == writer.batch.len() {
            let mut queue = lock(&self.queue);
            let Some(since) = queue.since else { return Ok(None) };
            let due = since + DELAY;
            if now < due && queue.bytes.len() < BATCH {
                return Ok(Some(due));
            }
            Self::next_batch(&mut writer, &mut queue);
        }
        if self.write_batch(&mut writer)? {
            let queue = lock(&self.queue);
            Ok(queue.since.map(|since| since + DELAY))
        } else {
            let pause = writer.pause;
            writer.pause = (pause * 2).min(RETRY.1);
            Ok(Some(now + pause))
        }
    }

    /// From now on no push waits for room. Called before the vCPUs are told to end.
    pub fn stop_waiting(&self) {
        lock(&self.queue).ending = true;
        self.room.notify_all();
    }

    /// Writes everything. Waits for a slow reader until `give_up` says that the time is over; it is asked
    /// at least every 20 ms while nothing can be written.
    ///
    /// # Errors
    /// When output is lost, unless [`Self::flush_if_due`] has said so before.
    pub fn finish(&self, mut give_up: impl FnMut() -> bool) -> Result<(), OutputError> {
        const PATIENCE: Duration = Duration::from_millis(20);
        self.stop_waiting();
        let mut writer = lock(&self.writer);
        loop {
            if writer.written == writer.batch.len() {
                let mut queue = lock(&self.queue);
                if queue.bytes.is_empty() {
                    return match std::mem::take(&mut queue.dropped) {
                        0 => Ok(()),
                        bytes => Err(self.stuck(bytes)),
                    };
                }
                Self::next_batch(&mut writer, &mut queue);
            }
            if !self.write_batch(&mut writer)? {
                if give_up() {
                    let bytes = self.fail();
                    writer.written = writer.batch.len();
                    return Err(self.stuck(bytes));
                }
                writer.sink.wait_writable(PATIENCE);
            }
        }
    }

    /// Hands the queue to the writer.
    fn next_batch(writer: &mut Writer, queue: &mut Queue) {
        writer.batch.clear();
        writer.written = 0;
        std::mem::swap(&mut writer.batch, &mut queue.bytes);
        queue.in_flight = writer.batch.len();
        queue.since = None;
    }

    /// Writes the batch as far as the sink takes it at once; true when all of it is written.
    fn write_batch(&self, writer: &mut Writer) -> Result<bool, OutputError> {
        while let Some(rest) = writer.batch.get(writer.written..).filter(|rest| !rest.is_empty()) {
            match writer.sink.try_write(rest) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    writer.written = writer.batch.len().min(writer.written + count);
                    writer.pause = RETRY.0;
                    lock(&self.queue).in_flight = writer.batch.len() - writer.written;
                    self.room.notify_all();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    writer.written = writer.batch.len();
                    self.fail();
                    return Err(match error.kind() {
                        ErrorKind::BrokenPipe => {
                            OutputError::Closed { destination: self.destination.clone() }
                        }
                        _ => OutputError::Io { destination: self.destination.clone(), source: error },
                    });
                }
            }
        }
        Ok(true)
    }

    fn stuck(&self, bytes: usize) -> OutputError {
        OutputError::Stuck { destination: self.destination.clone(), bytes }
    }

    /// Drops everything, now and later; says how many bytes are lost now.
    fn fail(&self) -> usize {
        let mut queue = lock(&self.queue);
        let lost = queue.waiting() + queue.dropped;
        *queue = Queue { failed: true, ..Queue::default() };
        self.room.notify_all();
        lost
    }
}

/// The lock, also after a thread panicked with it: bytes cannot be half pushed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    /// A sink that takes `budget` bytes and then would block, or fails.
    #[derive(Clone, Default)]
    struct Fake(Arc<Mutex<FakeState>>);

    #[derive(Default)]
    struct FakeState {
        taken: Vec<u8>,
        budget: usize,
        writes: usize,
        error: Option<ErrorKind>,
    }

    impl Sink for Fake {
        fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut state = lock(&self.0);
            if let Some(kind) = state.error {
                return Err(kind.into());
            }
            if state.budget == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            let count = bytes.len().min(state.budget);
            state.taken.extend_from_slice(&bytes[..count]);
            state.budget -= count;
            state.writes += 1;
            Ok(count)
        }

        fn wait_writable(&self, _timeout: Duration) {}
    }

    fn output(budget: usize) -> (Arc<GuestOutput>, Fake, Arc<AtomicUsize>) {
        let fake = Fake::default();
        lock(&fake.0).budget = budget;
        let wakes = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&wakes);
        let waker = move || {
            counter.fetch_add(1, Ordering::SeqCst);
        };
        (Arc::new(GuestOutput::new(Box::new(fake.clone()), "stdout", Arc::new(waker))), fake, wakes)
    }

    #[test]
    fn bytes_wait_for_company_and_go_out_in_one_write() {
        let (output, fake, wakes) = output(usize::MAX);
        let start = Instant::now();
        assert!(output.flush_if_due(start).unwrap().is_none());
        for byte in b"login: " {
            output.push(&[*byte]);
        }
        assert_eq!(wakes.load(Ordering::SeqCst), 1);
        let due = output.flush_if_due(start).unwrap().expect("bytes are waiting");
        assert!(lock(&fake.0).taken.is_empty());
        assert!(output.flush_if_due(due).unwrap().is_none());
        let state = lock(&fake.0);
        assert_eq!((state.taken.as_slice(), state.writes), (&b"login: "[..], 1));
    }

    #[test]
    fn much_output_does_not_wait() {
        let (output, fake, wakes) = output(usize::MAX);
        let start = Instant::now();
        output.push(b"x");
        output.push(&[b'y'; BATCH]);
        assert_eq!(wakes.load(Ordering::SeqCst), 2);
        assert!(output.flush_if_due(start).unwrap().is_none());
        assert_eq!(lock(&fake.0).taken.len(), BATCH + 1);
    }

    #[test]
    fn a_slow_reader_gets_everything_in_order() {
        let (output, fake, _) = output(3);
        output.push(b"abcdef");
        let later = Instant::now() + DELAY;
        let again = output.flush_if_due(later).unwrap().expect("not all is written");
        assert!(again > later);
        output.push(b"ghi");
        let mut rounds = 0;
        output
            .finish(|| {
                lock(&fake.0).budget = 1;
                rounds += 1;
                rounds > 100
            })
            .unwrap();
        assert_eq!(lock(&fake.0).taken, b"abcdefghi");
    }

    #[test]
    fn a_stuck_reader_makes_vcpus_wait_but_not_the_end() {
        let (output, _, _) = output(0);
        output.push(&vec![0; CAPACITY]);
        let vcpu = {
            let output = Arc::clone(&output);
            thread::spawn(move || output.push(b"more"))
        };
        assert!(output.flush_if_due(Instant::now() + DELAY).unwrap().is_some());
        output.stop_waiting();
        vcpu.join().unwrap();
        let Err(OutputError::Stuck { bytes, .. }) = output.finish(|| true) else { panic!("nothing is lost") };
        assert_eq!(bytes, CAPACITY + 4);
    }

    #[test]
    fn a_waiting_vcpu_goes_on_when_there_is_room() {
        let (output, fake, _) = output(0);
        output.push(&vec![0; CAPACITY]);
        let vcpu = {
            let output = Arc::clone(&output);
            thread::spawn(move || output.push(b"more"))
        };
        lock(&fake.0).budget = usize::MAX;
        output.flush_if_due(Instant::now() + DELAY).unwrap();
        vcpu.join().unwrap();
        output.finish(|| false).unwrap();
        assert_eq!(lock(&fake.0).taken.len(), CAPACITY + 4);
    }

    #[test]
    fn a_broken_sink_is_told_once() {
        let (output, fake, _) = output(0);
        lock(&fake.0).error = Some(ErrorKind::BrokenPipe);
        output.push(b"x");
        let later = Instant::now() + DELAY;
        assert!(matches!(output.flush_if_due(later), Err(OutputError::Closed { .. })));
        output.push(&vec![0; 3 * CAPACITY]);
        output.push(b"never waits");
        assert!(output.flush_if_due(later).unwrap().is_none());
        assert!(output.finish(|| true).is_ok());
    }

    #[test]
    fn the_end_alone_writes_and_tells() {
        let (output, fake, _) = output(0);
        lock(&fake.0).error = Some(ErrorKind::StorageFull);
        output.push(b"ok\n");
        let message = output.finish(|| true).unwrap_err().to_string();
        assert!(message.contains("cannot write to stdout"), "{message}");
    }

    #[test]
    fn output_at_the_end_is_bounded() {
        let (output, _, _) = output(0);
        output.stop_waiting();
        for _ in 0..8 {
            output.push(&vec![0; CAPACITY]);
        }
        assert!(lock(&output.queue).waiting() <= 3 * CAPACITY);
    }
}

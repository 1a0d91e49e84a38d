//! The far end of a serial port where somebody may or may not be: a socket's client, a pty's other side.
//!
//! A thread carries the bytes. While somebody is there, the guest waits for a slow reader, and the reader
//! for a guest that takes no input. While nobody is there, the last 64 KiB of output are kept for who comes
//! next.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::Doorbell;
use super::pty::Pty;
use super::socket::Socket;
use crate::console::{OutputError, SocketError};

/// Output that is kept while nobody is there, in bytes.
const BACKLOG: usize = 64 << 10;
/// Output that may wait for a slow reader before the vCPU has to.
const CAPACITY: usize = 1 << 20;
/// Input that is kept of somebody who has gone.
const LAST_INPUT: usize = 64 << 10;
/// How long the first byte of output waits for company.
const DELAY: Duration = Duration::from_millis(2);
/// So much output need not wait.
const BATCH: usize = 4 << 10;
/// How often input is offered again to a guest that took none and has not called since.
const RETRY: Duration = Duration::from_millis(50);
/// How often it is looked whether somebody has opened a pty's other side: nothing tells.
const LOOK: Duration = Duration::from_millis(100);

/// A serial port's far end, as long as it lives.
#[derive(Debug)]
pub struct FarEnd {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// What errors call it.
    name: String,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    bell: Doorbell,
    stop: AtomicBool,
    /// Input waits for the guest.
    offering: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    output: VecDeque<u8>,
    connected: bool,
    /// Nobody has to wait for room any more.
    ending: bool,
}

/// Where the bytes go.
enum Side {
    Socket { socket: Socket, client: Option<File> },
    Pty(Pty),
}

impl FarEnd {
    /// Listens on a new socket at `path`. `take` gets input for the guest and says how many bytes it has
    /// taken; it must not wait for the guest, which may be waiting in [`Self::push`].
    ///
    /// # Errors
    /// When the socket cannot be made, or the host refuses a thread.
    pub fn listen(
        path: &Path,
        take: impl FnMut(&[u8]) -> usize + Send + 'static,
    ) -> Result<Self, SocketError> {
        let socket = Socket::listen(path)?;
        Self::start(Side::Socket { socket, client: None }, path.display().to_string(), take)
            .map_err(|source| SocketError::Host { path: path.to_owned(), source })
    }

    /// Makes a pty; [`Self::name`] is the name of its other side.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn pty(take: impl FnMut(&[u8]) -> usize + Send + 'static) -> io::Result<Self> {
        let pty = Pty::open()?;
        let name = pty.name().to_owned();
        Self::start(Side::Pty(pty), name, take)
    }

    fn start(
        side: Side,
        name: String,
        take: impl FnMut(&[u8]) -> usize + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
            bell: Doorbell::new()?,
            stop: AtomicBool::new(false),
            offering: AtomicBool::new(false),
        });
        let carrier = Carrier { shared: Arc::clone(&shared), side, take, pending: Vec::new(), deaf: false };
        let thread = thread::Builder::new().name("serial".to_owned()).spawn(move || carrier.run())?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)), name })
    }

    /// The socket's path, or the name of the pty's other side.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes a byte of output. Waits while somebody is there who reads more slowly than the guest writes.
    pub fn push(&self, byte: u8) {
        let mut queue = lock(&self.shared.queue);
        while queue.connected && !queue.ending && queue.output.len() >= CAPACITY {
            queue = self.shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let was_empty = queue.output.is_empty();
        queue.output.push_back(byte);
        queue.trim();
        let rings = queue.connected && (was_empty || queue.output.len() == BATCH);
        drop(queue);
        if rings {
            self.shared.bell.ring();
        }
    }

    /// The guest has taken input. Cheap where none waits.
    pub fn port_has_room(&self) {
        if self.shared.offering.swap(false, Ordering::SeqCst) {
            self.shared.bell.ring();
        }
    }

    /// Whether nobody shall wait in [`Self::push`]: at the end of a boot, and not from the next one on.
    pub fn set_ending(&self, ending: bool) {
        lock(&self.shared.queue).ending = ending;
        self.shared.changed.notify_all();
    }

    /// Hands over what somebody who is there still has to get, until `give_up` says that it takes too long,
    /// and ends. A socket's file is removed.
    ///
    /// # Errors
    /// When output is lost.
    pub fn finish(&self, mut give_up: impl FnMut() -> bool) -> Result<(), OutputError> {
        const PATIENCE: Duration = Duration::from_millis(20);
        self.set_ending(true);
        self.shared.bell.ring();
        let mut lost = 0;
        let mut queue = lock(&self.shared.queue);
        while queue.connected && !queue.output.is_empty() {
            let waited = self.shared.changed.wait_timeout(queue, PATIENCE);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            if give_up() {
                lost = if queue.connected { queue.output.len() } else { 0 };
                break;
            }
        }
        drop(queue);
        self.stop();
        match lost {
            0 => Ok(()),
            bytes => Err(OutputError::Stuck { destination: self.name.clone(), bytes }),
        }
    }

    /// Ends the thread, which never waits for long.
    fn stop(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.bell.ring();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            // A panic in it has been told of.
            let _ = thread.join();
        }
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Queue {
    /// Forgets the oldest bytes of too many.
    fn trim(&mut self) {
        let most = if self.connected { 2 * CAPACITY } else { BACKLOG };
        let excess = self.output.len().saturating_sub(most);
        self.output.drain(..excess);
    }
}

/// The thread's state.
struct Carrier<T> {
    shared: Arc<Shared>,
    side: Side,
    take: T,
    /// Input that the guest has not taken yet.
    pending: Vec<u8>,
    /// The client has closed its sending half: it only listens.
    deaf: bool,
}

impl<T: FnMut(&[u8]) -> usize> Carrier<T> {
    fn run(mut self) {
        while !self.shared.stop.load(Ordering::SeqCst) {
            // Set before the offer, so that room that comes just after it rings.
            self.shared.offering.store(true, Ordering::SeqCst);
            self.offer();
            if self.pending.is_empty() {
                self.shared.offering.store(false, Ordering::SeqCst);
            }
            self.wait();
            if let Side::Pty(pty) = &mut self.side {
                let (before, now) = (pty.was_open(), pty.look());
                if before != now {
                    self.connected(now);
                }
            }
        }
        match &mut self.side {
            Side::Pty(pty) => pty.drain(),
            Side::Socket { socket, client } => {
                // Who has come just before the end gets what was kept, whether he was seen by then or not.
                if client.is_none() {
                    *client = socket.accept();
                }
                self.write();
            }
        }
    }

    /// Offers what is pending.
    fn offer(&mut self) {
        let mut taken = 0;
        while let Some(rest) = self.pending.get(taken..).filter(|rest| !rest.is_empty()) {
            let count = (self.take)(rest).min(rest.len());
            if count == 0 {
                break;
            }
            taken += count;
        }
        self.pending.drain(..taken);
    }

    /// Waits for the bell or the other side, and does what is to be done.
    fn wait(&mut self) {
        let waits = !lock(&self.shared.queue).output.is_empty();
        let reads = self.pending.is_empty() && !self.deaf;
        let (fd, events) = match &self.side {
            Side::Socket { socket, client: None } => (Some(socket.as_raw_fd()), libc::POLLIN),
            Side::Socket { client: Some(client), .. } => (Some(client.as_raw_fd()), wanted(reads, waits)),
            Side::Pty(pty) if pty.was_open() => (Some(pty.as_raw_fd()), wanted(reads, waits)),
            Side::Pty(_) => (None, 0),
        };
        let looks = matches!(&self.side, Side::Pty(_)) && fd.is_none();
        let timeout = match (self.pending.is_empty(), looks) {
            (false, _) => Some(RETRY),
            (true, true) => Some(LOOK),
            (true, false) => None,
        };
        let (rang, ready) = self.shared.bell.wait_beside(fd.map(|fd| (fd, events)), timeout);
        if rang && lock(&self.shared.queue).output.len() < BATCH {
            thread::sleep(DELAY);
        }
        match &mut self.side {
            Side::Socket { socket, client: client @ None } => {
                if ready & libc::POLLIN != 0
                    && let Some(new) = socket.accept()
                {
                    *client = Some(new);
                    self.deaf = false;
                    self.connected(true);
                }
            }
            Side::Socket { .. } => {
                if ready & libc::POLLIN != 0 {
                    self.read();
                }
                if ready & (libc::POLLHUP | libc::POLLERR) != 0 || !self.write() {
                    self.hang_up();
                }
            }
            Side::Pty(pty) => {
                // A pty that somebody has closed may still have what he wrote.
                if self.pending.is_empty() && (ready & libc::POLLIN != 0 || !pty.was_open()) {
                    self.read();
                }
                if matches!(&self.side, Side::Pty(pty) if pty.was_open()) {
                    self.write();
                }
            }
        }
    }

    fn stream(&mut self) -> Option<&mut File> {
        match &mut self.side {
            Side::Socket { client, .. } => client.as_mut(),
            Side::Pty(pty) => Some(pty.stream()),
        }
    }

    /// Reads what there is; false if there is nothing, or nothing more will ever come.
    fn read(&mut self) -> bool {
        let mut chunk = [0; 4096];
        let Some(stream) = self.stream() else { return false };
        match stream.read(&mut chunk) {
            Ok(count @ 1..) => {
                self.pending.extend_from_slice(chunk.get(..count).unwrap_or_default());
                true
            }
            Ok(_) => {
                self.deaf = matches!(&self.side, Side::Socket { .. });
                false
            }
            Err(_) => false,
        }
    }

    /// Writes what is taken at once; false if nothing ever will be.
    fn write(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let Some(stream) = self.stream() else { return false };
        let mut queue = lock(&shared.queue);
        loop {
            let (bytes, _) = queue.output.as_slices();
            if bytes.is_empty() {
                return true;
            }
            match stream.write(bytes) {
                Ok(0) => return true,
                Ok(count) => {
                    queue.output.drain(..count);
                    shared.changed.notify_all();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
    }

    /// The client has gone; what he wrote last is kept for the guest.
    fn hang_up(&mut self) {
        while self.pending.len() < LAST_INPUT && self.read() {}
        if let Side::Socket { client, .. } = &mut self.side {
            *client = None;
        }
        self.connected(false);
    }

    fn connected(&self, connected: bool) {
        let mut queue = lock(&self.shared.queue);
        queue.connected = connected;
        queue.trim();
        drop(queue);
        self.shared.changed.notify_all();
    }
}

fn wanted(reads: bool, writes: bool) -> libc::c_short {
    (if reads { libc::POLLIN } else { 0 }) | (if writes { libc::POLLOUT } else { 0 })
}

/// The lock, also after a thread panicked with it: bytes cannot be half pushed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::{Receiver, channel};

    /// Long enough for a loaded machine; a test that passes does not wait for it.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn collect() -> (impl FnMut(&[u8]) -> usize + Send + 'static, Receiver<Vec<u8>>) {
        let (sender, receiver) = channel();
        let take = move |bytes: &[u8]| {
            let _ = sender.send(bytes.to_vec());
            bytes.len()
        };
        (take, receiver)
    }

    fn say(far: &FarEnd, text: &[u8]) {
        text.iter().for_each(|byte| far.push(*byte));
    }

    fn hear(stream: &mut impl Read, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn clients_come_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("com2");
        let (take, taken) = collect();
        let far = FarEnd::listen(&path, take).unwrap();
        say(&far, b"early ");
        for name in ["first", "second"] {
            let mut client = UnixStream::connect(&path).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            if name == "first" {
                assert_eq!(hear(&mut client, 6), b"early ");
            }
            client.write_all(name.as_bytes()).unwrap();
            let mut got = Vec::new();
            while got.len() < name.len() {
                got.extend(taken.recv_timeout(PATIENCE).unwrap());
            }
            assert_eq!(got, name.as_bytes());
            say(&far, name.as_bytes());
            assert_eq!(hear(&mut client, name.len()), name.as_bytes());
        }
        assert!(far.finish(|| false).is_ok());
        assert!(!path.exists());
    }

    #[test]
    fn who_only_listens_is_not_gone_and_last_words_are_heard() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("com2");
        let (take, taken) = collect();
        let far = FarEnd::listen(&path, take).unwrap();
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"command").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(taken.recv_timeout(PATIENCE).unwrap(), b"command");
        say(&far, b"answer");
        assert_eq!(hear(&mut client, 6), b"answer");
        drop(client);
        let mut brief = UnixStream::connect(&path).unwrap();
        brief.write_all(b"brief").unwrap();
        drop(brief);
        assert_eq!(taken.recv_timeout(PATIENCE).unwrap(), b"brief");
    }

    #[test]
    fn output_for_nobody_is_bounded_and_its_end_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("com2");
        let far = FarEnd::listen(&path, |_| 0).unwrap();
        say(&far, &vec![b'x'; 3 * BACKLOG]);
        say(&far, b"end");
        assert_eq!(lock(&far.shared.queue).output.len(), BACKLOG);
        let mut client = UnixStream::connect(&path).unwrap();
        assert!(hear(&mut client, BACKLOG).ends_with(b"xend"));
    }

    #[test]
    fn who_comes_just_before_the_end_gets_what_was_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("com2");
        let far = FarEnd::listen(&path, |_| 0).unwrap();
        say(&far, b"last words");
        let mut client = UnixStream::connect(&path).unwrap();
        assert!(far.finish(|| false).is_ok());
        let mut heard = String::new();
        client.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "last words");
    }

    #[test]
    fn a_client_that_reads_nothing_holds_up_the_guest_but_not_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("com2");
        let far = Arc::new(FarEnd::listen(&path, |_| 0).unwrap());
        let client = UnixStream::connect(&path).unwrap();
        while !lock(&far.shared.queue).connected {
            thread::sleep(DELAY);
        }
        let vcpu = {
            let far = Arc::clone(&far);
            thread::spawn(move || (0..8 * CAPACITY).for_each(|_| far.push(b'x')))
        };
        while lock(&far.shared.queue).output.len() < CAPACITY {
            thread::sleep(DELAY);
        }
        far.set_ending(true);
        vcpu.join().unwrap();
        let Err(OutputError::Stuck { bytes, .. }) = far.finish(|| true) else { panic!("nothing is lost") };
        assert!((CAPACITY..=2 * CAPACITY).contains(&bytes), "{bytes}");
        drop(client);
    }

    #[test]
    fn a_pty_is_raw_and_outlives_its_users() {
        let (take, taken) = collect();
        let far = FarEnd::pty(take).unwrap();
        say(&far, b"early\n");
        for _ in 0..2 {
            let mut user = OpenOptions::new().read(true).write(true).open(far.name()).unwrap();
            if lock(&far.shared.queue).output.is_empty() {
                say(&far, b"again\n");
            }
            assert!([&b"early\n"[..], b"again\n"].contains(&hear(&mut user, 6).as_slice()));
            user.write_all(b"typed\x03\x04\n").unwrap();
            let mut got = Vec::new();
            while got.len() < 8 {
                got.extend(taken.recv_timeout(PATIENCE).unwrap());
            }
            assert_eq!(got, b"typed\x03\x04\n", "raw, and nothing is echoed");
            drop(user);
            while lock(&far.shared.queue).connected {
                thread::sleep(DELAY);
            }
        }
        // Who only writes, and is gone before anybody looks.
        std::fs::write(far.name(), b"brief").unwrap();
        assert_eq!(taken.recv_timeout(PATIENCE).unwrap(), b"brief");
        assert!(far.finish(|| false).is_ok());
    }
}

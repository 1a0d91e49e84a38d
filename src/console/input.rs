//! The thread that carries stdin to a serial port.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use super::escape::{EscapeFilter, HELP, Key};
use super::say::say;
use crate::accel::host::{Doorbell, Got, Input};

/// Typed bytes that are kept for a guest that takes none. A pipe's are left in the pipe instead.
const TYPED_AHEAD: usize = 1 << 20;
/// The first and the longest pause before bytes are offered again without being asked for.
const PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(500));
/// How often a process in the background looks whether it is in the foreground.
const BACKGROUND: Duration = Duration::from_millis(250);
/// How long a stopping pump may take. It takes longer only where somebody else has read the bytes that
/// it was told of.
const FAREWELL: Duration = Duration::from_millis(200);

/// Carries stdin to the guest until it is dropped.
#[derive(Debug)]
pub struct StdinPump {
    bell: Arc<Doorbell>,
    stop: Arc<AtomicBool>,
    done: Receiver<()>,
}

/// Tells the pump that the guest has room for input again.
#[derive(Debug, Clone)]
pub struct RoomBell {
    bell: Arc<Doorbell>,
    waiting: Arc<AtomicBool>,
}

impl RoomBell {
    /// The guest has taken input. Cheap where the pump is not waiting for it.
    pub fn ring(&self) {
        if self.waiting.swap(false, Ordering::SeqCst) {
            self.bell.ring();
        }
    }
}

impl StdinPump {
    /// Starts the thread. `take` gets bytes for the guest and says how many it has taken; with fewer than
    /// all, it gets the rest again after [`RoomBell::ring`]. `escaped` is called when the user types
    /// Ctrl-A x at a terminal.
    ///
    /// # Errors
    /// When the host refuses a thread or a pipe.
    pub fn start(
        input: Input,
        take: impl FnMut(&[u8]) -> usize + Send + 'static,
        escaped: impl Fn() + Send + 'static,
    ) -> io::Result<(Self, RoomBell)> {
        let bell = Arc::new(Doorbell::new()?);
        let stop = Arc::new(AtomicBool::new(false));
        let waiting = Arc::new(AtomicBool::new(false));
        let (farewell, done) = channel();
        let room = RoomBell { bell: Arc::clone(&bell), waiting: Arc::clone(&waiting) };
        let pump = Pump {
            keys: input.is_terminal().then(EscapeFilter::default),
            input,
            bell: Arc::clone(&bell),
            stop: Arc::clone(&stop),
            waiting,
            pending: Vec::new(),
            take,
            escaped,
            _farewell: farewell,
        };
        thread::Builder::new().name("stdin".to_owned()).spawn(move || pump.run())?;
        Ok((Self { bell, stop, done }, room))
    }
}

#[cfg(test)]
impl StdinPump {
    /// Whether the thread ends within `patience`.
    pub(crate) fn ends_within(&self, patience: Duration) -> bool {
        self.done.recv_timeout(patience).is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Disconnected)
    }
}

impl Drop for StdinPump {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.bell.ring();
        // Disconnected is the thread's end. After a timeout it is left behind: it ends with the process.
        let _ = self.done.recv_timeout(FAREWELL);
    }
}

/// The thread's state.
struct Pump<T, E> {
    input: Input,
    /// The user's keys, where there is a user.
    keys: Option<EscapeFilter>,
    bell: Arc<Doorbell>,
    stop: Arc<AtomicBool>,
    waiting: Arc<AtomicBool>,
    /// Read and not taken yet.
    pending: Vec<u8>,
    take: T,
    escaped: E,
    /// Dropped with the rest at the thread's end.
    _farewell: Sender<()>,
}

impl<T: FnMut(&[u8]) -> usize, E: Fn()> Pump<T, E> {
    fn run(mut self) {
        let mut at_end = false;
        let mut pause = PAUSE.0;
        let mut chunk = [0; 4096];
        while !self.stop.load(Ordering::SeqCst) {
            // Set before the offer, so that room that comes just after it rings.
            self.waiting.store(true, Ordering::SeqCst);
            if self.offer() {
                pause = PAUSE.0;
            }
            if self.pending.is_empty() {
                self.waiting.store(false, Ordering::SeqCst);
                if at_end {
                    return;
                }
            }
            // A user must be heard while the guest takes nothing: the escape key may be next.
            let listen = !at_end && (self.pending.is_empty() || self.keys.is_some());
            let timeout = (!self.pending.is_empty()).then_some(pause);
            let (rang, readable) = self.bell.wait_for_input(listen.then_some(&self.input), timeout);
            if !rang && !readable {
                pause = (pause * 2).min(PAUSE.1);
            }
            if !readable {
                continue;
            }
            match self.input.read(&mut chunk) {
                Got::Bytes(count) => self.accept(chunk.get(..count).unwrap_or_default()),
                Got::Nothing => {}
                Got::InBackground => {
                    self.bell.wait(Some(BACKGROUND));
                }
                Got::End => at_end = true,
            }
        }
    }

    /// Offers what is pending; true if the guest has taken some.
    fn offer(&mut self) -> bool {
        let mut taken = 0;
        while let Some(rest) = self.pending.get(taken..).filter(|rest| !rest.is_empty()) {
            let count = (self.take)(rest).min(rest.len());
            if count == 0 {
                break;
            }
            taken += count;
        }
        self.pending.drain(..taken);
        taken > 0
    }

    /// Takes bytes from stdin: a pipe's as they are, a user's without the escape sequences.
    fn accept(&mut self, bytes: &[u8]) {
        let Some(keys) = &mut self.keys else {
            self.pending.extend_from_slice(bytes);
            return;
        };
        for byte in bytes {
            match keys.feed(*byte) {
                Key::Guest(byte) if self.pending.len() < TYPED_AHEAD => self.pending.push(byte),
                Key::Guest(_) => log::debug!("a typed byte is lost: the guest takes none"),
                Key::Quit => (self.escaped)(),
                Key::Help => say(HELP),
                Key::Nothing => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::Mutex;

    /// Long enough for a loaded machine; a test that passes does not wait for it.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// Takes everything, and sends it on.
    fn collect() -> (impl FnMut(&[u8]) -> usize + Send + 'static, Receiver<Vec<u8>>) {
        let (sender, receiver) = channel();
        let take = move |bytes: &[u8]| {
            let _ = sender.send(bytes.to_vec());
            bytes.len()
        };
        (take, receiver)
    }

    /// What comes until the pump ends.
    fn all(pump: &StdinPump, receiver: &Receiver<Vec<u8>>) -> Vec<u8> {
        assert!(pump.ends_within(PATIENCE));
        receiver.try_iter().flatten().collect()
    }

    #[test]
    fn a_pipe_passes_unchanged_and_ends() {
        let (reader, mut writer) = io::pipe().unwrap();
        let (take, taken) = collect();
        let (pump, _room) = StdinPump::start(Input::of_pipe(reader), take, || {}).unwrap();
        writer.write_all(b"a\x01x\n\x01\x01").unwrap();
        drop(writer);
        assert_eq!(all(&pump, &taken), b"a\x01x\n\x01\x01");
    }

    #[test]
    fn a_silent_pipe_does_not_keep_the_pump() {
        let (reader, _writer) = io::pipe().unwrap();
        let (take, _taken) = collect();
        let (pump, _room) = StdinPump::start(Input::of_pipe(reader), take, || {}).unwrap();
        pump.stop.store(true, Ordering::SeqCst);
        pump.bell.ring();
        assert!(pump.ends_within(PATIENCE));
    }

    #[test]
    fn a_guest_without_room_gets_the_rest_later() {
        let (reader, mut writer) = io::pipe().unwrap();
        let room_left = Arc::new(Mutex::new(3));
        let (sender, taken) = channel();
        let left = Arc::clone(&room_left);
        let take = move |bytes: &[u8]| {
            let mut left = left.lock().unwrap();
            let count = bytes.len().min(*left);
            *left -= count;
            let _ = sender.send(bytes[..count].to_vec());
            count
        };
        let (pump, room) = StdinPump::start(Input::of_pipe(reader), take, || {}).unwrap();
        writer.write_all(b"abcdef").unwrap();
        drop(writer);
        let mut got = Vec::new();
        while got.len() < 6 {
            got.extend(taken.recv_timeout(PATIENCE).unwrap());
            *room_left.lock().unwrap() = 2;
            room.ring();
        }
        assert_eq!(got, b"abcdef");
        drop(pump);
    }
}

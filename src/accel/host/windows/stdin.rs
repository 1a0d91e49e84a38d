//! Stdin, whatever it is: a console, a pipe, a file, closed.
//!
//! A thread reads it, and only while somebody wants input: what comes later stays where it is.

use std::fmt;
use std::io::{self, IsTerminal, Read};
use std::os::windows::io::{AsRawHandle, RawHandle};
use std::ptr;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread;

use windows_sys::Win32::System::Console::ReadConsoleW;

use super::{doorbell, lock};

/// Bytes, or UTF-16 units of a console, of one read.
const CHUNK: usize = 4096;

/// Where the guest's input comes from.
#[derive(Debug)]
pub struct Input {
    shared: Arc<Shared>,
    is_terminal: bool,
}

/// What a read gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Got {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now, more later.
    Nothing,
    /// Nothing until the shell puts this process into the foreground.
    #[expect(dead_code, reason = "consoles have no background; the pump knows of hosts whose have")]
    InBackground,
    /// Nothing any more.
    End,
}

/// What the reading thread and the reader share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wanted: Condvar,
}

struct State {
    /// Until the thread takes it.
    source: Option<Source>,
    /// Read and not taken yet.
    bytes: Vec<u8>,
    /// Somebody waits for input.
    wanted: bool,
    ended: bool,
    bell: Weak<doorbell::Shared>,
}

type Source = Box<dyn FnMut(&mut Vec<u8>) -> io::Result<()> + Send>;

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("bytes", &self.bytes.len()).field("ended", &self.ended).finish()
    }
}

impl Input {
    /// The process's stdin.
    #[must_use]
    pub fn stdin() -> Self {
        let stdin = io::stdin();
        let is_terminal = stdin.is_terminal();
        let source = if is_terminal { console(stdin.as_raw_handle()) } else { stream(stdin) };
        Self::new(source, is_terminal)
    }

    /// The reading end of a pipe, for tests.
    #[cfg(test)]
    pub(crate) fn of_pipe(reader: io::PipeReader) -> Self {
        Self::new(stream(reader), false)
    }

    fn new(source: Source, is_terminal: bool) -> Self {
        let state = State {
            source: Some(source),
            bytes: Vec::new(),
            wanted: false,
            ended: false,
            bell: Weak::default(),
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), wanted: Condvar::new() }), is_terminal }
    }

    /// Whether a user sits there.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Takes what has been read.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> Got {
        let mut state = lock(&self.shared.state);
        let count = state.bytes.len().min(buffer.len());
        if count == 0 {
            return if state.ended { Got::End } else { Got::Nothing };
        }
        for (to, from) in buffer.iter_mut().zip(state.bytes.drain(..count)) {
            *to = from;
        }
        Got::Bytes(count)
    }

    /// Whether there is something to read, or the end.
    pub(super) fn is_readable(&self) -> bool {
        let state = lock(&self.shared.state);
        state.ended || !state.bytes.is_empty()
    }

    /// Asks for input; `bell` will tell of it.
    pub(super) fn listen(&self, bell: &Arc<doorbell::Shared>) {
        let mut state = lock(&self.shared.state);
        if state.ended || !state.bytes.is_empty() {
            return;
        }
        state.wanted = true;
        state.bell = Arc::downgrade(bell);
        if let Some(source) = state.source.take() {
            let shared = Arc::clone(&self.shared);
            let started =
                thread::Builder::new().name("stdin reader".to_owned()).spawn(move || shared.read_all(source));
            if let Err(error) = started {
                log::warn!("stdin cannot be read: {error}");
                state.ended = true;
            }
        }
        self.shared.wanted.notify_all();
    }
}

impl Shared {
    /// The thread: reads what is wanted, to the end.
    fn read_all(&self, mut source: Source) {
        loop {
            let mut state = lock(&self.state);
            while !state.wanted {
                state = self.wanted.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.wanted = false;
            drop(state);
            let mut bytes = Vec::new();
            let result = source(&mut bytes);
            let mut state = lock(&self.state);
            if let Err(error) = &result
                && error.kind() != io::ErrorKind::BrokenPipe
            {
                log::debug!("stdin ends: {error}");
            }
            let ended = bytes.is_empty() || result.is_err();
            state.bytes.append(&mut bytes);
            state.ended = ended;
            let bell = state.bell.upgrade();
            drop(state);
            if let Some(bell) = bell {
                bell.look();
            }
            if ended {
                return;
            }
        }
    }
}

/// Reads a pipe or a file as it is.
fn stream(mut reader: impl Read + Send + 'static) -> Source {
    let mut chunk = [0; CHUNK];
    Box::new(move |bytes| {
        let count = reader.read(&mut chunk)?;
        bytes.extend_from_slice(chunk.get(..count).unwrap_or_default());
        Ok(())
    })
}

/// Reads keys, which a console gives as UTF-16. (The standard library takes Ctrl-Z for the end.)
fn console(handle: RawHandle) -> Source {
    // An address that is a number can go to another thread.
    let handle = handle.expose_provenance();
    let mut chunk = [0u16; CHUNK];
    let mut half = None;
    Box::new(move |bytes| {
        while bytes.is_empty() {
            let mut count = 0;
            let place = ptr::with_exposed_provenance_mut(handle);
            // SAFETY: the handle is the process's stdin; `chunk` is valid for writes of its length, and
            // `count` for the answer.
            let ok = unsafe {
                ReadConsoleW(place, chunk.as_mut_ptr().cast(), CHUNK as u32, &raw mut count, ptr::null())
            };
            if ok == 0 {
                return Err(io::Error::last_os_error());
            }
            let units = chunk.get(..count as usize).unwrap_or_default();
            if units.is_empty() {
                return Ok(());
            }
            half = append_utf8(bytes, half, units);
        }
        Ok(())
    })
}

/// Appends `units` as UTF-8; gives the first half of a character whose second half has not come yet.
fn append_utf8(bytes: &mut Vec<u8>, half: Option<u16>, units: &[u16]) -> Option<u16> {
    let is_first_half = |unit: &u16| (0xD800..0xDC00).contains(unit);
    let (units, rest) = match units.split_last() {
        Some((last, before)) if is_first_half(last) => (before, Some(*last)),
        _ => (units, None),
    };
    for character in char::decode_utf16(half.into_iter().chain(units.iter().copied())) {
        let character = character.unwrap_or(char::REPLACEMENT_CHARACTER);
        bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accel::host::Doorbell;
    use std::io::Write;

    #[test]
    fn input_is_read_when_it_is_wanted() {
        let bell = Doorbell::new().unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        let input = Input::of_pipe(reader);
        let mut buffer = [0; 2];
        assert_eq!(input.read(&mut buffer), Got::Nothing);
        writer.write_all(b"abc").unwrap();
        drop(writer);
        let mut all = Vec::new();
        loop {
            while !bell.wait_for_input(Some(&input), None).1 {}
            match input.read(&mut buffer) {
                Got::Bytes(count) => all.extend_from_slice(&buffer[..count]),
                Got::End => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(all, b"abc");
    }

    #[test]
    fn keys_become_utf8_also_in_halves() {
        let mut bytes = Vec::new();
        let half = append_utf8(&mut bytes, None, &[0x61, 0xE4, 0xD83D]);
        assert_eq!(append_utf8(&mut bytes, half, &[0xDE00, 0xDC00]), None);
        assert_eq!(String::from_utf8(bytes).unwrap(), "aä😀\u{FFFD}");
    }
}

//! The far end of a serial port where somebody may or may not be: there is none on this host yet, neither a
//! Unix socket nor a pty.
#![forbid(unsafe_code)]

use std::io;
use std::path::Path;

use crate::console::{OutputError, SocketError};

/// A serial port's far end, of which there is none.
#[derive(Debug)]
pub enum FarEnd {}

impl FarEnd {
    /// Listens on a new socket at `path`.
    ///
    /// # Errors
    /// Always.
    pub fn listen(
        path: &Path,
        _take: impl FnMut(&[u8]) -> usize + Send + 'static,
    ) -> Result<Self, SocketError> {
        Err(SocketError::Host { path: path.to_owned(), source: absent() })
    }

    /// Makes a pty.
    ///
    /// # Errors
    /// Always.
    pub fn pty(_take: impl FnMut(&[u8]) -> usize + Send + 'static) -> io::Result<Self> {
        Err(absent())
    }

    /// The socket's path, or the name of the pty's other side.
    #[must_use]
    pub fn name(&self) -> &str {
        match *self {}
    }

    /// Takes a byte of output.
    pub fn push(&self, _byte: u8) {
        match *self {}
    }

    /// The guest has taken input.
    pub fn port_has_room(&self) {
        match *self {}
    }

    /// Whether nobody shall wait in [`Self::push`].
    pub fn set_ending(&self, _ending: bool) {
        match *self {}
    }

    /// Hands over the rest, and ends.
    ///
    /// # Errors
    /// When output is lost.
    pub fn finish(&self, _give_up: impl FnMut() -> bool) -> Result<(), OutputError> {
        match *self {}
    }
}

fn absent() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "this is for hosts with Unix sockets and ptys")
}

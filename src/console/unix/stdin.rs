//! Stdin, whatever it is: a terminal, a pipe, a file, closed.

use std::io;
use std::os::fd::RawFd;

use super::in_foreground;

/// Where the guest's input comes from.
#[derive(Debug)]
pub struct Input {
    fd: RawFd,
    is_terminal: bool,
}

/// What a read gave.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::console) enum Got {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now, more later.
    Nothing,
    /// Nothing until the shell puts this process into the foreground.
    InBackground,
    /// Nothing any more.
    End,
}

impl Input {
    /// The process's stdin.
    #[must_use]
    pub fn stdin() -> Self {
        Self::from_fd(libc::STDIN_FILENO)
    }

    /// Reads from `fd`, which must stay open as long as the input is used.
    pub(in crate::console) fn from_fd(fd: RawFd) -> Self {
        // SAFETY: `isatty` touches no memory.
        Self { fd, is_terminal: unsafe { libc::isatty(fd) } == 1 }
    }

    /// Whether a user sits there.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Reads what there is. Called after the descriptor has become readable.
    pub(in crate::console) fn read(&self, buffer: &mut [u8]) -> Got {
        // SAFETY: `buffer` is valid for writes of its length.
        let count = unsafe { libc::read(self.fd, buffer.as_mut_ptr().cast(), buffer.len()) };
        match usize::try_from(count) {
            Ok(0) => Got::End,
            Ok(count) => Got::Bytes(count),
            Err(_) => match io::Error::last_os_error() {
                error if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {
                    Got::Nothing
                }
                error if error.raw_os_error() == Some(libc::EIO) && !in_foreground(self.fd) => {
                    Got::InBackground
                }
                error => {
                    log::debug!("stdin ends: {error}");
                    Got::End
                }
            },
        }
    }

    /// What [`super::Doorbell::wait_for_input`] waits for.
    pub(super) fn fd(&self) -> RawFd {
        self.fd
    }
}

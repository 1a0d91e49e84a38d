//! Stdin, whatever it is: a terminal, a pipe, a file, closed.

use std::io;
use std::os::fd::RawFd;

use super::in_foreground;

/// Where the guest's input comes from.
#[derive(Debug)]
pub struct Input {
    fd: RawFd,
    is_terminal: bool,
    /// Kept open, where it is not the process's stdin.
    #[cfg(test)]
    _own: Option<std::os::fd::OwnedFd>,
}

/// What a read gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Got {
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
    fn from_fd(fd: RawFd) -> Self {
        Self {
            fd,
            // SAFETY: `isatty` touches no memory.
            is_terminal: unsafe { libc::isatty(fd) } == 1,
            #[cfg(test)]
            _own: None,
        }
    }

    /// The reading end of a pipe, for tests.
    #[cfg(test)]
    pub(crate) fn of_pipe(reader: io::PipeReader) -> Self {
        let mut input = Self::from_fd(std::os::fd::AsRawFd::as_raw_fd(&reader));
        input._own = Some(reader.into());
        input
    }

    /// Whether a user sits there.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Reads what there is. Called after the descriptor has become readable.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> Got {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::StdinPump;
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::{AsRawFd, FromRawFd};
    use std::sync::mpsc::channel;
    use std::time::Duration;

    /// Long enough for a loaded machine; a test that passes does not wait for it.
    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn null_a_directory_and_a_closed_descriptor_end() {
        let null = File::open("/dev/null").unwrap();
        let folder = File::open(".").unwrap();
        for fd in [null.as_raw_fd(), folder.as_raw_fd(), 9999] {
            let take = |_: &[u8]| panic!("there is nothing to read");
            let (pump, _room) = StdinPump::start(Input::from_fd(fd), take, || {}).unwrap();
            assert!(pump.ends_within(PATIENCE));
        }
    }

    #[test]
    fn the_escape_key_is_heard_while_the_guest_takes_nothing() {
        let (mut primary, mut replica) = (0, 0);
        let null = std::ptr::null_mut;
        // SAFETY: the descriptors are valid for writes, and the other arguments may be null.
        assert_eq!(
            unsafe { libc::openpty(&mut primary, &mut replica, null(), null().cast(), null().cast()) },
            0
        );
        // SAFETY: both descriptors are open and nobody else's.
        let (mut primary, replica) = unsafe { (File::from_raw_fd(primary), File::from_raw_fd(replica)) };
        let (sender, escaped) = channel();
        let (_pump, _room) = StdinPump::start(
            Input::from_fd(replica.as_raw_fd()),
            |_| 0,
            move || {
                let _ = sender.send(());
            },
        )
        .unwrap();
        // The pty is in line mode, so a newline makes the line readable.
        primary.write_all(b"text\n").unwrap();
        primary.write_all(b"\x01x\n").unwrap();
        escaped.recv_timeout(PATIENCE).unwrap();
    }
}

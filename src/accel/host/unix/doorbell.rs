//! A bell that any thread and any signal handler can ring, and one thread sleeps beside.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::Input;

/// Wakes its owner. Rings that come together count as one.
#[derive(Debug)]
pub struct Doorbell {
    listen: OwnedFd,
    button: OwnedFd,
}

impl Doorbell {
    /// A new bell.
    ///
    /// # Errors
    /// When the process has no file descriptors left.
    pub fn new() -> io::Result<Self> {
        let mut fds = [0; 2];
        // SAFETY: `fds` has room for the two descriptors.
        if unsafe { libc::pipe(fds.as_mut_ptr()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        for fd in fds {
            // SAFETY: these commands of `fcntl` touch no memory; both descriptors are the new pipe's.
            unsafe {
                libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
                libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK);
            }
        }
        // SAFETY: the descriptors are open, and nobody else owns them.
        let [listen, button] = fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(Self { listen, button })
    }

    /// Wakes the owner, now or at its next wait.
    pub fn ring(&self) {
        ring(self.button.as_raw_fd());
    }

    /// Sleeps until the bell rings or `timeout` is over; `None` is no limit. True if it rang. It may wake
    /// for nothing.
    pub fn wait(&self, timeout: Option<Duration>) -> bool {
        self.wait_for_input(None, timeout).0
    }

    /// [`Self::wait`] that also wakes when `input` can be read or is at its end; the second answer says
    /// that it is.
    pub(crate) fn wait_for_input(&self, input: Option<&Input>, timeout: Option<Duration>) -> (bool, bool) {
        let (bell, ready) = self.wait_beside(input.map(|input| (input.fd(), libc::POLLIN)), timeout);
        (bell, ready != 0)
    }

    /// [`Self::wait`] that also wakes when a descriptor has one of the events that `poll` shall look for;
    /// the second answer is what it has found.
    pub(super) fn wait_beside(
        &self,
        other: Option<(RawFd, libc::c_short)>,
        timeout: Option<Duration>,
    ) -> (bool, libc::c_short) {
        // `poll` ignores a negative descriptor.
        let (fd, events) = other.unwrap_or((-1, 0));
        let mut fds = [
            libc::pollfd { fd: self.listen.as_raw_fd(), events: libc::POLLIN, revents: 0 },
            libc::pollfd { fd, events, revents: 0 },
        ];
        if super::poll(&mut fds, timeout).is_err() {
            // Out of kernel memory is all that is left; a pause keeps it from becoming a spin.
            std::thread::sleep(Duration::from_millis(1));
            return (false, 0);
        }
        let [bell, other] = fds.map(|fd| fd.revents);
        if bell != 0 {
            self.silence();
        }
        (bell != 0, other)
    }

    /// Forgets the rings so far.
    fn silence(&self) {
        let mut rings = [0u8; 64];
        loop {
            // SAFETY: `rings` is valid for writes of its length.
            let count =
                unsafe { libc::read(self.listen.as_raw_fd(), rings.as_mut_ptr().cast(), rings.len()) };
            if usize::try_from(count) != Ok(rings.len()) {
                return;
            }
        }
    }

    /// What [`ring`] takes.
    pub(super) fn button(&self) -> RawFd {
        self.button.as_raw_fd()
    }
}

/// Rings the bell with this button. Async-signal-safe.
pub(super) fn ring(button: RawFd) {
    // A full pipe is a bell that rings already, so the result does not matter.
    // SAFETY: the byte is valid for reads of one byte.
    unsafe { libc::write(button, [1u8].as_ptr().cast(), 1) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn rings_count_once_and_are_not_lost() {
        let bell = Doorbell::new().unwrap();
        assert!(!bell.wait(Some(Duration::ZERO)));
        for _ in 0..100_000 {
            bell.ring();
        }
        assert!(bell.wait(None));
        assert!(!bell.wait(Some(Duration::ZERO)));
    }

    #[test]
    fn a_sleeper_wakes() {
        let bell = Arc::new(Doorbell::new().unwrap());
        let ringer = Arc::clone(&bell);
        let thread = std::thread::spawn(move || ringer.ring());
        while !bell.wait(None) {}
        thread.join().unwrap();
    }
}

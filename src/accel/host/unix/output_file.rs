//! Stdout or a file, written to without ever waiting in the kernel.
//!
//! `O_NONBLOCK` belongs to the open file, which other processes share (the shell, `tee`), so it must not
//! be set on stdout. Each kind of file has another way not to block.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::console::Sink;

/// Longest write to a terminal that cannot be opened a second time.
const SHORT: usize = 64;

/// A file that guest output goes to.
#[derive(Debug)]
pub struct OutputFile {
    fd: RawFd,
    kind: Kind,
}

/// How not to block.
#[derive(Debug)]
enum Kind {
    /// Files and the like take everything at once.
    File,
    /// When `poll` calls it writable, so many bytes fit: `PIPE_BUF` in a pipe (POSIX `write`).
    Polled(usize),
    /// A socket can be asked not to block, call by call.
    Socket,
    /// What nobody else has open is non-blocking: a file, or the terminal opened once more.
    Own(OwnedFd),
}

impl OutputFile {
    /// The process's stdout.
    #[must_use]
    pub fn stdout() -> Self {
        Self::from_fd(libc::STDOUT_FILENO)
    }

    /// The process's stderr.
    #[must_use]
    pub fn stderr() -> Self {
        Self::from_fd(libc::STDERR_FILENO)
    }

    /// Writes to `fd`, which must stay open as long as this is used.
    fn from_fd(fd: RawFd) -> Self {
        let kind = match status(fd).map(|status| status.st_mode & libc::S_IFMT) {
            Some(libc::S_IFIFO) => Kind::Polled(libc::PIPE_BUF),
            Some(libc::S_IFSOCK) => Kind::Socket,
            // SAFETY: `isatty` touches no memory.
            Some(libc::S_IFCHR) if unsafe { libc::isatty(fd) } == 1 => match reopen_terminal(fd) {
                Some(own) => return Self { fd: own.as_raw_fd(), kind: Kind::Own(own) },
                None => Kind::Polled(SHORT),
            },
            _ => Kind::File,
        };
        Self { fd, kind }
    }

    /// Where to write.
    fn target(&self) -> RawFd {
        match &self.kind {
            Kind::Own(own) => own.as_raw_fd(),
            _ => self.fd,
        }
    }

    fn is_writable(&self, timeout: Duration) -> bool {
        let mut fds = [libc::pollfd { fd: self.target(), events: libc::POLLOUT, revents: 0 }];
        // A file that cannot be polled, or whose reader is gone, gives its error at the write.
        super::poll(&mut fds, Some(timeout)).is_err() || fds.iter().any(|fd| fd.revents != 0)
    }
}

impl Sink for OutputFile {
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.kind {
            Kind::File | Kind::Own(_) => write(self.target(), bytes),
            Kind::Polled(fits) => {
                if !self.is_writable(Duration::ZERO) {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                write(self.fd, bytes.get(..*fits).unwrap_or(bytes))
            }
            Kind::Socket => {
                // SAFETY: `bytes` is valid for reads of its length.
                let count =
                    unsafe { libc::send(self.fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT) };
                usize::try_from(count).map_err(|_| io::Error::last_os_error())
            }
        }
    }

    fn wait_writable(&self, timeout: Duration) {
        self.is_writable(timeout);
    }
}

fn write(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: `bytes` is valid for reads of its length.
    let count = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

fn status(fd: RawFd) -> Option<libc::stat> {
    let mut status = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: `status` is valid for the answer.
    if unsafe { libc::fstat(fd, status.as_mut_ptr()) } < 0 {
        return None;
    }
    // SAFETY: `fstat` has filled it.
    Some(unsafe { status.assume_init() })
}

/// The terminal `fd` once more, non-blocking; `None` if that is not possible, as where its name belongs
/// to another mount namespace.
fn reopen_terminal(fd: RawFd) -> Option<OwnedFd> {
    let mut name = [0u8; 256];
    // SAFETY: `name` is valid for writes of its length.
    if unsafe { libc::ttyname_r(fd, name.as_mut_ptr().cast(), name.len()) } != 0 {
        return None;
    }
    let name = CStr::from_bytes_until_nul(&name).ok()?;
    let flags = libc::O_WRONLY | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: `name` ends with a null.
    let own = unsafe { libc::open(name.as_ptr(), flags) };
    if own < 0 {
        return None;
    }
    // SAFETY: it has just been opened and is nobody else's.
    let own = unsafe { OwnedFd::from_raw_fd(own) };
    let same = status(own.as_raw_fd())?.st_rdev == status(fd)?.st_rdev;
    same.then_some(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{PipeReader, Read};
    use std::os::unix::net::UnixStream;

    fn fill(stdout: &mut OutputFile) -> usize {
        let mut total = 0;
        loop {
            match stdout.try_write(&[b'x'; 10_000]) {
                Ok(count) => total += count,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    return total;
                }
            }
        }
    }

    #[test]
    fn a_full_pipe_does_not_block() {
        let (mut reader, writer): (PipeReader, _) = io::pipe().unwrap();
        let mut stdout = OutputFile::from_fd(writer.as_raw_fd());
        assert!(fill(&mut stdout) >= libc::PIPE_BUF);
        let mut some = vec![0; 2 * libc::PIPE_BUF];
        reader.read_exact(&mut some).unwrap();
        assert!(fill(&mut stdout) > 0);
        drop(reader);
        assert_eq!(stdout.try_write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_full_socket_does_not_block() {
        let (_reader, writer) = UnixStream::pair().unwrap();
        assert!(fill(&mut OutputFile::from_fd(writer.as_raw_fd())) > 0);
    }

    #[test]
    fn a_stopped_terminal_does_not_block() {
        let (mut primary, mut replica) = (0, 0);
        let null = std::ptr::null_mut;
        // SAFETY: the descriptors are valid for writes, and the other arguments may be null.
        assert_eq!(
            unsafe { libc::openpty(&mut primary, &mut replica, null(), null().cast(), null().cast()) },
            0
        );
        // SAFETY: both descriptors are open and nobody else's.
        let (_primary, replica) = unsafe { (File::from_raw_fd(primary), OwnedFd::from_raw_fd(replica)) };
        let mut stdout = OutputFile::from_fd(replica.as_raw_fd());
        assert!(matches!(stdout.kind, Kind::Own(_)), "{stdout:?}");
        assert!(fill(&mut stdout) > 0);
    }

    #[test]
    fn files_take_everything_and_tell_their_errors() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(OutputFile::from_fd(file.as_raw_fd()).try_write(&[0; 100_000]).unwrap(), 100_000);
        let read_only = File::open("/dev/null").unwrap();
        assert!(OutputFile::from_fd(read_only.as_raw_fd()).try_write(b"x").is_err());
    }
}

//! A pty, of which this process has the primary side.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

/// How long a user's program may take to read the last output. It is lost when the primary side closes.
const FAREWELL: Duration = Duration::from_millis(500);

/// The primary side.
#[derive(Debug)]
pub(super) struct Pty {
    primary: File,
    name: String,
    /// Whether somebody had the other side open when it was looked for.
    open: bool,
}

impl Pty {
    /// A new pty in raw mode.
    ///
    /// # Errors
    /// When the host refuses.
    pub(super) fn open() -> io::Result<Self> {
        let (mut primary, mut replica) = (0, 0);
        let null = ptr::null_mut;
        // SAFETY: the descriptors are valid for writes, and the other arguments may be null.
        if unsafe { libc::openpty(&mut primary, &mut replica, null(), null().cast(), null().cast()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: both descriptors are open and nobody else's.
        let (primary, replica) = unsafe { (File::from_raw_fd(primary), OwnedFd::from_raw_fd(replica)) };
        // SAFETY: these commands of `fcntl` touch no memory.
        unsafe {
            libc::fcntl(primary.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC);
            libc::fcntl(primary.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK);
        }
        let name = name(&replica)?;
        make_raw(&replica)?;
        // From its close on, the primary side tells whether somebody else has the other side open.
        drop(replica);
        Ok(Self { primary, name, open: false })
    }

    /// The name of the other side.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What is read and written, without waiting.
    pub(super) fn stream(&mut self) -> &mut File {
        &mut self.primary
    }

    /// What [`Self::look`] has found.
    pub(super) fn was_open(&self) -> bool {
        self.open
    }

    /// Looks whether somebody has the other side open.
    pub(super) fn look(&mut self) -> bool {
        let mut fds = [libc::pollfd { fd: self.primary.as_raw_fd(), events: 0, revents: 0 }];
        let asked = super::poll(&mut fds, Some(Duration::ZERO));
        self.open = asked.is_ok() && fds.iter().all(|fd| fd.revents & libc::POLLHUP == 0);
        self.open
    }

    /// Waits until whoever has the other side open has read everything.
    pub(super) fn drain(&mut self) {
        let begin = Instant::now();
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK);
        while self.look() && begin.elapsed() < FAREWELL {
            let Ok(replica) = options.open(&self.name) else { return };
            let mut count: libc::c_int = 0;
            // SAFETY: `count` is valid for the answer.
            let asked = unsafe { libc::ioctl(replica.as_raw_fd(), libc::FIONREAD, &raw mut count) };
            if asked < 0 || count == 0 {
                return;
            }
            drop(replica);
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl AsRawFd for Pty {
    fn as_raw_fd(&self) -> RawFd {
        self.primary.as_raw_fd()
    }
}

fn name(replica: &OwnedFd) -> io::Result<String> {
    let mut name = [0u8; 256];
    // SAFETY: `name` is valid for writes of its length.
    match unsafe { libc::ttyname_r(replica.as_raw_fd(), name.as_mut_ptr().cast(), name.len()) } {
        0 => {}
        errno => return Err(io::Error::from_raw_os_error(errno)),
    }
    let name = CStr::from_bytes_until_nul(&name).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(name.to_string_lossy().into_owned())
}

fn make_raw(replica: &OwnedFd) -> io::Result<()> {
    let mut mode = MaybeUninit::<libc::termios>::zeroed();
    // SAFETY: `mode` is valid for the answer.
    if unsafe { libc::tcgetattr(replica.as_raw_fd(), mode.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `tcgetattr` has filled it.
    let mut mode = unsafe { mode.assume_init() };
    // SAFETY: `mode` is a valid `termios`.
    let set = unsafe {
        libc::cfmakeraw(&raw mut mode);
        libc::tcsetattr(replica.as_raw_fd(), libc::TCSANOW, &raw const mode)
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

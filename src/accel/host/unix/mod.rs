//! A POSIX host.

pub mod child;
mod doorbell;
mod far_end;
mod files;
mod output_file;
mod pty;
mod signals;
mod socket;
mod stdin;
mod terminal;
mod usage;

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

pub use doorbell::Doorbell;
pub use far_end::FarEnd;
pub use files::{is_executable, is_fifo, modified_seconds, permissions};
#[cfg(test)]
pub(crate) use files::{make_executable, symlink};
pub use output_file::OutputFile;
pub use signals::Signals;
pub(crate) use stdin::Got;
pub use stdin::Input;
pub use terminal::RawMode;
pub use usage::ResourceUsage;

/// Waits until one of `fds` is ready; `None` waits for ever. An interruption by a signal counts as a
/// wake-up with nothing ready.
fn poll(fds: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<()> {
    // `poll` counts milliseconds, a guest's timers are finer: the rest of the last one is slept.
    let (milliseconds, rest) = timeout.map_or((-1, Duration::ZERO), |timeout| {
        let whole = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        (whole, Duration::from_nanos(u64::from(timeout.subsec_nanos() % 1_000_000)))
    });
    let count = libc::nfds_t::try_from(fds.len()).unwrap_or_default();
    // SAFETY: `fds` is valid for reads and writes of `count` elements.
    if unsafe { libc::poll(fds.as_mut_ptr(), count, milliseconds) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() == io::ErrorKind::Interrupted {
            for fd in fds {
                fd.revents = 0;
            }
            return Ok(());
        }
        return Err(error);
    }
    if !rest.is_zero() && fds.iter().all(|fd| fd.revents == 0) {
        std::thread::sleep(rest);
    }
    Ok(())
}

/// Whether this process may use the terminal `fd`: it is in the foreground, or `fd` is a terminal that no
/// shell controls. Async-signal-safe.
fn in_foreground(fd: RawFd) -> bool {
    // SAFETY: neither call touches memory.
    let (foreground, own) = unsafe { (libc::tcgetpgrp(fd), libc::getpgrp()) };
    foreground < 0 || foreground == own
}

//! Signals that end the run: recorded by the handler, obeyed by the owner.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use super::doorbell::{self, Doorbell};
use super::terminal;

/// The signals that end a run.
const ENDING: [libc::c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];
/// With this many of them, the owner does not obey: the process dies as it would without a handler.
const INSISTENT: u32 = 3;

/// The first signal that came; 0 is none.
static FIRST: AtomicI32 = AtomicI32::new(0);
/// How many came.
static COUNT: AtomicU32 = AtomicU32::new(0);
/// The bell's button; negative is none.
static BUTTON: AtomicI32 = AtomicI32::new(-1);

/// Handlers for SIGINT, SIGTERM, SIGHUP and SIGQUIT, as long as it lives. A process has one.
#[derive(Debug)]
pub struct Signals {
    /// Kept open for the handler.
    _bell: Arc<Doorbell>,
}

impl Signals {
    /// Installs the handlers, which ring `bell`. A signal that the process was started to ignore, as by
    /// `nohup`, stays ignored. SIGPIPE and SIGTTIN are ignored: a write to a closed pipe and a read of the
    /// terminal from the background give an error then, instead of killing or stopping the machine.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn install(bell: &Arc<Doorbell>) -> io::Result<Self> {
        FIRST.store(0, Ordering::SeqCst);
        COUNT.store(0, Ordering::SeqCst);
        BUTTON.store(bell.button(), Ordering::SeqCst);
        for signal in ENDING {
            if !is_ignored(signal)? {
                set_handler(signal, on_ending_signal as *const () as libc::sighandler_t, 0)?;
            }
        }
        for signal in [libc::SIGPIPE, libc::SIGTTIN] {
            set_handler(signal, libc::SIG_IGN, 0)?;
        }
        Ok(Self { _bell: Arc::clone(bell) })
    }

    /// The first signal that asked for the end.
    #[must_use]
    pub fn pending(&self) -> Option<i32> {
        match FIRST.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(signal),
        }
    }

    /// How many such signals have come.
    #[must_use]
    pub fn count(&self) -> u32 {
        COUNT.load(Ordering::SeqCst)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for signal in ENDING {
            if matches!(is_ignored(signal), Ok(false)) {
                let _ = set_handler(signal, libc::SIG_DFL, 0);
            }
        }
        BUTTON.store(-1, Ordering::SeqCst);
    }
}

extern "C" fn on_ending_signal(signal: libc::c_int) {
    let _ = FIRST.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
    if COUNT.fetch_add(1, Ordering::SeqCst) + 1 >= INSISTENT {
        terminal::restore();
        // The signal is blocked inside its own handler, so it is delivered at the return.
        // SAFETY: both calls are async-signal-safe and touch no memory.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
        return;
    }
    let button = BUTTON.load(Ordering::SeqCst);
    if button >= 0 {
        preserving_errno(|| doorbell::ring(button));
    }
}

/// Runs a signal handler's work without its traces in `errno`.
pub(super) fn preserving_errno(work: impl FnOnce()) {
    let before = errno::errno();
    work();
    errno::set_errno(before);
}

fn is_ignored(signal: libc::c_int) -> io::Result<bool> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null action only asks; `action` is valid for the answer.
    if unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `sigaction` has filled it, and zeroes were valid before.
    Ok(unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN)
}

/// Sets `signal`'s handler: a function, `SIG_DFL` or `SIG_IGN`; gives what was there before.
pub(super) fn set_handler(
    signal: libc::c_int,
    handler: libc::sighandler_t,
    flags: libc::c_int,
) -> io::Result<libc::sigaction> {
    // SAFETY: a `sigaction` of zeroes is valid: no handler, an empty mask, no flags.
    let mut action = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
    let mut old = action;
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_RESTART | flags;
    // SAFETY: both structs are valid; `handler` is a constant or an async-signal-safe `extern "C"` function
    // with the arguments that `flags` tell of.
    if unsafe { libc::sigaction(signal, &raw const action, &raw mut old) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_signal_is_recorded_and_rings() {
        // The tests may have been started to ignore them, as in the background of a shell.
        for signal in [libc::SIGTERM, libc::SIGINT] {
            set_handler(signal, libc::SIG_DFL, 0).unwrap();
        }
        let bell = Arc::new(Doorbell::new().unwrap());
        let signals = Signals::install(&bell).unwrap();
        assert_eq!(signals.pending(), None);
        // SAFETY: `raise` touches no memory.
        unsafe {
            libc::raise(libc::SIGTERM);
            libc::raise(libc::SIGINT);
        }
        assert_eq!((signals.pending(), signals.count()), (Some(libc::SIGTERM), 2));
        assert!(bell.wait(None));
    }
}

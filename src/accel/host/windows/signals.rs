//! Ctrl-C, Ctrl-Break and the end of the console or session: recorded by the handler, obeyed by the owner.

use std::io;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use windows_sys::Win32::System::Console::{
    CTRL_BREAK_EVENT, CTRL_C_EVENT, CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT,
    SetConsoleCtrlHandler,
};
use windows_sys::core::BOOL;

use super::{Doorbell, lock, terminal};

/// POSIX's numbers, which exit statuses are made of: 130 and so on, as on any other host.
const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;
/// With this many of them, the owner does not obey: the process dies as it would without a handler.
const INSISTENT: u32 = 3;

/// The first event that came; 0 is none.
static FIRST: AtomicI32 = AtomicI32::new(0);
/// How many came.
static COUNT: AtomicU32 = AtomicU32::new(0);
/// Who is told.
static BELL: Mutex<Option<Arc<Doorbell>>> = Mutex::new(None);

/// A handler of console control events, as long as it lives. A process has one.
#[derive(Debug)]
pub struct Signals(());

impl Signals {
    /// Installs the handler, which rings `bell`.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn install(bell: &Arc<Doorbell>) -> io::Result<Self> {
        FIRST.store(0, Ordering::SeqCst);
        COUNT.store(0, Ordering::SeqCst);
        *lock(&BELL) = Some(Arc::clone(bell));
        // SAFETY: the handler is a function that lives for ever, and cannot unwind.
        if unsafe { SetConsoleCtrlHandler(Some(on_event), 1) } == 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(()))
    }

    /// The first event that asked for the end, as a POSIX signal.
    #[must_use]
    pub fn pending(&self) -> Option<i32> {
        match FIRST.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(signal),
        }
    }

    /// How many such events have come.
    #[must_use]
    pub fn count(&self) -> u32 {
        COUNT.load(Ordering::SeqCst)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // SAFETY: removing a handler touches no memory of ours.
        unsafe { SetConsoleCtrlHandler(Some(on_event), 0) };
        *lock(&BELL) = None;
    }
}

/// Runs on a thread that the host makes for it.
unsafe extern "system" fn on_event(event: u32) -> BOOL {
    let signal = match event {
        CTRL_C_EVENT => SIGINT,
        CTRL_BREAK_EVENT => SIGTERM,
        CTRL_CLOSE_EVENT | CTRL_LOGOFF_EVENT | CTRL_SHUTDOWN_EVENT => SIGHUP,
        _ => return 0,
    };
    let _ = FIRST.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
    if COUNT.fetch_add(1, Ordering::SeqCst) + 1 >= INSISTENT {
        terminal::restore();
        // Not handled: the next handler is the host's own, which ends the process.
        return 0;
    }
    let bell = lock(&BELL).clone();
    if let Some(bell) = bell {
        bell.ring();
    }
    if signal == SIGHUP {
        // The host ends the process when this returns, and a few seconds later in any case.
        thread::sleep(Duration::from_secs(10));
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_event_is_recorded_and_rings() {
        let bell = Arc::new(Doorbell::new().unwrap());
        let signals = Signals::install(&bell).unwrap();
        assert_eq!(signals.pending(), None);
        // SAFETY: the handler may be called at any time.
        let handled = unsafe { [on_event(CTRL_BREAK_EVENT), on_event(CTRL_C_EVENT), on_event(99)] };
        assert_eq!(handled, [1, 1, 0]);
        assert_eq!((signals.pending(), signals.count()), (Some(SIGTERM), 2));
        assert!(bell.wait(None));
        // SAFETY: the handler may be called at any time.
        assert_eq!(unsafe { on_event(CTRL_C_EVENT) }, 0, "who insists is not kept waiting");
    }
}

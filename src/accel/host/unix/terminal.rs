//! Raw mode, and its way back on every way out.
//!
//! The terminal gets its old mode back when the guard is dropped, at `exit`, at a panic, when the process
//! stops (SIGTSTP), and in the handler of a signal that kills it. All of them call [`restore`], which is
//! async-signal-safe.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::panic;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::in_foreground;
use super::signals::{preserving_errno, set_handler};

/// Signals by which the host ends a faulty program. (Aborting is the end of a panic in a panic.)
const FATAL: [libc::c_int; 5] = [libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];

/// The terminal in raw mode; null if there is none. What it points to is never freed, because a signal
/// handler may be reading it.
static RAW: AtomicPtr<Modes> = AtomicPtr::new(ptr::null_mut());

struct Modes {
    fd: RawFd,
    cooked: libc::termios,
    raw: libc::termios,
}

/// The terminal is in raw mode as long as this lives: each key goes to the guest, Ctrl-C too. Output is
/// still processed, so that a bare newline starts a line.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Puts stdin's terminal into raw mode. `None` where there is nothing to do: stdin is no terminal, or
    /// this process is in the background of its shell.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub fn enter() -> io::Result<Option<Self>> {
        Self::enter_on(libc::STDIN_FILENO)
    }

    fn enter_on(fd: RawFd) -> io::Result<Option<Self>> {
        let mut cooked = MaybeUninit::<libc::termios>::zeroed();
        // SAFETY: `cooked` is valid for the answer.
        if unsafe { libc::tcgetattr(fd, cooked.as_mut_ptr()) } < 0 || !in_foreground(fd) {
            return Ok(None);
        }
        // SAFETY: `tcgetattr` has filled it.
        let cooked = unsafe { cooked.assume_init() };
        let mut raw = cooked;
        // SAFETY: `raw` is a valid `termios`.
        unsafe { libc::cfmakeraw(&raw mut raw) };
        raw.c_oflag = cooked.c_oflag;
        let modes = Box::leak(Box::new(Modes { fd, cooked, raw }));
        // The way back comes before the way in.
        install_ways_back()?;
        RAW.store(modes, Ordering::SeqCst);
        if !set_mode(fd, &modes.raw) {
            let error = io::Error::last_os_error();
            RAW.store(ptr::null_mut(), Ordering::SeqCst);
            return Err(error);
        }
        Ok(Some(Self(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal its old mode back, once. Async-signal-safe.
pub(super) fn restore() {
    let modes = RAW.swap(ptr::null_mut(), Ordering::SeqCst);
    // SAFETY: it is null or a leaked box, which nothing changes.
    if let Some(modes) = unsafe { modes.as_ref() } {
        leave(modes);
    }
}

/// Sets the old mode, but leaves a terminal alone that the shell has taken back. Async-signal-safe.
fn leave(modes: &Modes) {
    if in_foreground(modes.fd) {
        set_mode(modes.fd, &modes.cooked);
    }
}

/// Sets a mode at once; false if the terminal refuses. Async-signal-safe.
fn set_mode(fd: RawFd, mode: &libc::termios) -> bool {
    loop {
        // SAFETY: `mode` is a valid `termios`.
        if unsafe { libc::tcsetattr(fd, libc::TCSANOW, mode) } == 0 {
            return true;
        }
        if errno::errno().0 != libc::EINTR {
            return false;
        }
    }
}

/// Installs, once a process, everything that restores the terminal when the guard cannot.
fn install_ways_back() -> io::Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| result = install());
    result
}

fn install() -> io::Result<()> {
    let others = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        restore();
        others(info);
    }));
    // SAFETY: `at_exit` is a function without arguments that cannot unwind.
    unsafe { libc::atexit(at_exit) };
    for (index, signal) in FATAL.into_iter().enumerate() {
        let handler = on_fatal_signal as *const () as libc::sighandler_t;
        let old = set_handler(signal, handler, libc::SA_ONSTACK | libc::SA_SIGINFO)?;
        if let Some(slot) = BEFORE.get(index) {
            slot.store(Box::leak(Box::new(old)), Ordering::SeqCst);
        }
    }
    set_handler(libc::SIGTSTP, on_stop as *const () as libc::sighandler_t, 0)?;
    set_handler(libc::SIGCONT, on_continue as *const () as libc::sighandler_t, 0)?;
    Ok(())
}

extern "C" fn at_exit() {
    restore();
}

/// The actions that were there before [`on_fatal_signal`]: Rust's own message about a stack overflow.
static BEFORE: [AtomicPtr<libc::sigaction>; FATAL.len()] =
    [const { AtomicPtr::new(ptr::null_mut()) }; FATAL.len()];

/// Restores the terminal and steps aside: a fault comes again and meets the handler from before, and a
/// signal that was sent kills.
extern "C" fn on_fatal_signal(signal: libc::c_int, info: *const libc::siginfo_t, _: *const libc::c_void) {
    restore();
    // SAFETY: the kernel gives a valid `siginfo_t`; a null one counts as sent.
    let is_fault = unsafe { info.as_ref() }.is_some_and(|info| info.si_code > 0);
    let before = FATAL.iter().zip(&BEFORE).find(|(fatal, _)| **fatal == signal);
    let action = before.map_or(ptr::null_mut(), |(_, action)| action.load(Ordering::SeqCst));
    if is_fault && !action.is_null() {
        // SAFETY: `action` is a leaked box, which nothing changes.
        unsafe { libc::sigaction(signal, action, ptr::null_mut()) };
    } else {
        // SAFETY: both calls are async-signal-safe and touch no memory.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    }
}

/// Stops the process with its terminal as it was.
extern "C" fn on_stop(_signal: libc::c_int) {
    preserving_errno(|| {
        // SAFETY: it is null or a leaked box, which nothing changes.
        if let Some(modes) = unsafe { RAW.load(Ordering::SeqCst).as_ref() } {
            leave(modes);
        }
        // SAFETY: `raise` is async-signal-safe and touches no memory.
        unsafe { libc::raise(libc::SIGSTOP) };
    });
}

/// Goes on after a stop, in raw mode again if the process is back in the foreground.
extern "C" fn on_continue(_signal: libc::c_int) {
    preserving_errno(|| {
        // SAFETY: it is null or a leaked box, which nothing changes.
        if let Some(modes) = unsafe { RAW.load(Ordering::SeqCst).as_ref() }
            && in_foreground(modes.fd)
        {
            set_mode(modes.fd, &modes.raw);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::{Doorbell, Signals};
    use super::*;
    use std::fs::File;
    use std::os::fd::{AsRawFd, FromRawFd};
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::sync::{Arc, Mutex};

    /// The state is the process's, so the tests take turns.
    static TURN: Mutex<()> = Mutex::new(());

    fn pty() -> (File, File) {
        let (mut primary, mut replica) = (0, 0);
        // SAFETY: the descriptors are valid for writes, and the other arguments may be null.
        let result = unsafe {
            libc::openpty(&mut primary, &mut replica, ptr::null_mut(), ptr::null_mut(), ptr::null_mut())
        };
        assert_eq!(result, 0, "openpty: {}", io::Error::last_os_error());
        // SAFETY: both descriptors are open and nobody else's.
        unsafe { (File::from_raw_fd(primary), File::from_raw_fd(replica)) }
    }

    fn mode(terminal: &File) -> libc::termios {
        let mut mode = MaybeUninit::zeroed();
        // SAFETY: `mode` is valid for the answer.
        assert_eq!(unsafe { libc::tcgetattr(terminal.as_raw_fd(), mode.as_mut_ptr()) }, 0);
        // SAFETY: `tcgetattr` has filled it.
        unsafe { mode.assume_init() }
    }

    fn is_raw(terminal: &File) -> bool {
        mode(terminal).c_lflag & (libc::ICANON | libc::ECHO | libc::ISIG) == 0
    }

    #[test]
    fn the_guard_brings_the_old_mode_back() {
        let _turn = TURN.lock();
        let (_primary, terminal) = pty();
        assert!(!is_raw(&terminal));
        let guard = RawMode::enter_on(terminal.as_raw_fd()).unwrap().expect("a pty is a terminal");
        assert!(is_raw(&terminal));
        assert_ne!(mode(&terminal).c_oflag & libc::OPOST, 0, "a bare newline must start a line");
        drop(guard);
        assert!(!is_raw(&terminal));
    }

    #[test]
    fn a_threads_panic_brings_the_old_mode_back() {
        let _turn = TURN.lock();
        let (_primary, terminal) = pty();
        let guard = RawMode::enter_on(terminal.as_raw_fd()).unwrap();
        let _ = std::thread::spawn(|| panic!("the message of this panic is part of the test")).join();
        assert!(!is_raw(&terminal));
        drop(guard);
    }

    #[test]
    fn raw_mode_comes_back_with_sigcont() {
        let _turn = TURN.lock();
        let (_primary, terminal) = pty();
        let guard = RawMode::enter_on(terminal.as_raw_fd()).unwrap();
        let modes = RAW.load(Ordering::SeqCst);
        // SAFETY: a leaked box.
        leave(unsafe { modes.as_ref() }.unwrap());
        assert!(!is_raw(&terminal));
        // SAFETY: `raise` touches no memory.
        unsafe { libc::raise(libc::SIGCONT) };
        assert!(is_raw(&terminal));
        drop(guard);
        // SAFETY: `raise` touches no memory.
        unsafe { libc::raise(libc::SIGCONT) };
        assert!(!is_raw(&terminal));
    }

    #[test]
    fn a_file_is_no_terminal() {
        let _turn = TURN.lock();
        let file = tempfile::tempfile().unwrap();
        assert!(RawMode::enter_on(file.as_raw_fd()).unwrap().is_none());
    }

    /// How the process in raw mode ends.
    const WAY: &str = "VM_ACCEL_TEST_WAY_OUT";

    #[expect(unconditional_recursion, reason = "it overflows the stack")]
    fn recurse(depth: u64) -> u64 {
        std::hint::black_box(recurse(std::hint::black_box(depth + 1))) + depth
    }

    #[test]
    #[ignore = "run by every_way_out_of_the_process_brings_the_old_mode_back, with a terminal as stdin"]
    fn process_in_raw_mode() {
        let bell = Arc::new(Doorbell::new().unwrap());
        let signals = Signals::install(&bell).unwrap();
        let guard = RawMode::enter().unwrap().expect("stdin is a terminal");
        // SAFETY: `raise` touches no memory.
        let raise = |signal| unsafe { libc::raise(signal) };
        match std::env::var(WAY).unwrap().as_str() {
            "exit" => std::process::exit(0),
            "abort" => std::process::abort(),
            "fault" => drop(raise(libc::SIGSEGV)),
            "overflow" => drop(recurse(0)),
            "insist" => loop {
                raise(libc::SIGTERM);
            },
            "obey" => {
                raise(libc::SIGTERM);
                while signals.pending().is_none() {
                    bell.wait(None);
                }
                drop(guard);
            }
            other => panic!("no way out is called {other}"),
        }
    }

    #[test]
    fn every_way_out_of_the_process_brings_the_old_mode_back() {
        for (way, signal) in [
            ("exit", None),
            ("obey", None),
            ("panic", None),
            ("abort", Some(libc::SIGABRT)),
            ("fault", Some(libc::SIGSEGV)),
            // Rust's own handler tells of a stack overflow and aborts.
            ("overflow", Some(libc::SIGABRT)),
            ("insist", Some(libc::SIGTERM)),
        ] {
            let (_primary, terminal) = pty();
            let name = format!("{}::process_in_raw_mode", module_path!().split_once("::").unwrap().1);
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--ignored", "--exact", &name])
                .env(WAY, way)
                .stdin(terminal.try_clone().unwrap())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(said.contains("running 1 test"), "{said}");
            assert_eq!(output.status.signal(), signal, "{way}: {said}");
            assert!(!is_raw(&terminal), "{way}");
        }
    }
}

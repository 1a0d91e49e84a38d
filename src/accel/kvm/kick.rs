//! Ends `KVM_RUN` from another thread.
//!
//! A kick is a signal to the vCPU's thread. Its handler sets `kvm_run.immediate_exit`, so a signal that
//! arrives just before `KVM_RUN` makes that call return at once: no kick is lost, and no signal mask has
//! to be switched around each run.

use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};

use crate::accel::Kick;

thread_local! {
    /// `kvm_run.immediate_exit` of the vCPU that runs on this thread.
    static IMMEDIATE_EXIT: Cell<*const AtomicU8> = const { Cell::new(ptr::null()) };
}

/// The signal of a kick. SIGRTMIN itself is left to others.
fn signal() -> libc::c_int {
    libc::SIGRTMIN() + 1
}

extern "C" fn on_kick(_signal: libc::c_int) {
    let flag = IMMEDIATE_EXIT.with(Cell::get);
    if !flag.is_null() {
        // SAFETY: the pointer is set while the vCPU that owns the mapping is entered on this thread,
        // and cleared before the mapping goes; the handler runs on that same thread.
        unsafe { (*flag).store(1, Ordering::Relaxed) };
    }
}

fn install_handler() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: `action` is zeroed, a valid value of the C struct, and then filled in.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_kick as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: the handler only touches a thread-local pointer and an atomic byte, both safe in a
        // signal handler; no SA_RESTART, because KVM_RUN is meant to return EINTR.
        let result = unsafe { libc::sigaction(signal(), &raw const action, ptr::null_mut()) };
        if result != 0 {
            log::error!("cannot install the vCPU kick handler: {}", io::Error::last_os_error());
        }
    });
}

/// The kick handle of one vCPU.
#[derive(Debug, Default)]
pub struct Kicker {
    /// Asked for while the vCPU was not entered.
    requested: AtomicBool,
    /// The thread that is inside `enter`.
    // As a number: musl's is a pointer.
    thread: Mutex<Option<usize>>,
}

impl Kicker {
    /// A handle for a vCPU that has no thread yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        install_handler();
        Arc::new(Self::default())
    }

    /// Ties the vCPU to the calling thread. Every call but the first on a thread is nearly free.
    ///
    /// `immediate_exit` is the byte in the vCPU's `kvm_run`; it must stay mapped until `leave`.
    pub fn enter(&self, immediate_exit: *const AtomicU8) {
        if IMMEDIATE_EXIT.with(Cell::get) == immediate_exit {
            return;
        }
        IMMEDIATE_EXIT.with(|flag| flag.set(immediate_exit));
        // SAFETY: no preconditions.
        let this = unsafe { libc::pthread_self() } as usize;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(this);
    }

    /// Whether a kick came; it is taken by this call.
    pub fn take_request(&self) -> bool {
        self.requested.swap(false, Ordering::SeqCst)
    }

    /// Unties the vCPU from its thread, before its `kvm_run` is unmapped.
    pub fn leave(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: no preconditions.
        let this = unsafe { libc::pthread_self() } as usize;
        if thread.is_some_and(|thread| thread == this) {
            IMMEDIATE_EXIT.with(|flag| flag.set(ptr::null()));
        }
        *thread = None;
    }
}

impl Kick for Kicker {
    fn kick(&self) {
        self.requested.store(true, Ordering::SeqCst);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        // The vCPU's own thread is not inside KVM_RUN, and sees the request before it enters again.
        // SAFETY: no preconditions.
        let this = unsafe { libc::pthread_self() } as usize;
        if let Some(thread) = *thread
            && thread != this
        {
            // SAFETY: the thread is alive: `leave` clears the field, under the same lock, before the
            // vCPU and with it the thread's loop end.
            unsafe { libc::pthread_kill(thread as libc::pthread_t, signal()) };
        }
    }
}

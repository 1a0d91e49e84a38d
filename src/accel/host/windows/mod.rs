//! A Windows host.
//!
//! Neither pipes nor consoles can be waited for together with an event there, so what may block has a
//! thread of its own: one that reads stdin, one that writes an output which is no file.

pub mod child;
mod doorbell;
mod far_end;
mod files;
mod output_file;
mod signals;
mod stdin;
mod terminal;
mod usage;

use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// The lock, also after a thread panicked with it: each is held for a few assignments only.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

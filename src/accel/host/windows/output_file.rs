//! Stdout or a file, written to without ever waiting in the kernel.
//!
//! Pipes and consoles block their writer, and there is no asking before. A thread writes to them.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::mem::ManuallyDrop;
use std::os::windows::io::{AsRawHandle, FromRawHandle, RawHandle};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use windows_sys::Win32::Storage::FileSystem::{FILE_TYPE_DISK, GetFileType};

use super::lock;
use crate::console::Sink;

/// Bytes that the thread is given at once.
const BATCH: usize = 64 << 10;
/// How long a write may take before it counts as blocked.
const QUICK: Duration = Duration::from_millis(2);

/// A file that guest output goes to.
#[derive(Debug)]
pub struct OutputFile {
    file: Arc<ManuallyDrop<File>>,
    /// Where a thread writes.
    desk: Option<Arc<Desk>>,
    started: bool,
}

/// Where the thread gets its work and leaves the result.
#[derive(Debug, Default)]
struct Desk {
    job: Mutex<Job>,
    changed: Condvar,
}

#[derive(Debug, Default)]
enum Job {
    #[default]
    None,
    Write(Vec<u8>),
    Done(io::Result<usize>),
    Quit,
}

impl OutputFile {
    /// The process's stdout.
    #[must_use]
    pub fn stdout() -> Self {
        Self::from_handle(io::stdout().as_raw_handle())
    }

    /// The process's stderr.
    #[must_use]
    pub fn stderr() -> Self {
        Self::from_handle(io::stderr().as_raw_handle())
    }

    /// Writes to `handle`, which must stay open as long as this is used, and is not closed.
    fn from_handle(handle: RawHandle) -> Self {
        // SAFETY: the call touches no memory.
        let is_disk = unsafe { GetFileType(handle) } == FILE_TYPE_DISK;
        // SAFETY: it is never dropped, so it owns nothing; writes to an invalid handle are errors.
        let file = ManuallyDrop::new(unsafe { File::from_raw_handle(handle) });
        Self { file: Arc::new(file), desk: (!is_disk).then(Arc::default), started: false }
    }

    fn start(&mut self, desk: &Arc<Desk>) -> io::Result<()> {
        if self.started {
            return Ok(());
        }
        let (desk, file) = (Arc::clone(desk), Arc::clone(&self.file));
        thread::Builder::new().name("output".to_owned()).spawn(move || desk.work(&file))?;
        self.started = true;
        Ok(())
    }
}

impl Desk {
    /// The thread.
    fn work(&self, file: &File) {
        let mut job = lock(&self.job);
        loop {
            match std::mem::take(&mut *job) {
                Job::Quit => return,
                Job::Write(bytes) => {
                    // Whoever looks meanwhile sees that there is still work.
                    *job = Job::Write(Vec::new());
                    drop(job);
                    let mut file = file;
                    let result = file.write(&bytes);
                    job = lock(&self.job);
                    if matches!(*job, Job::Quit) {
                        return;
                    }
                    *job = Job::Done(result);
                    self.changed.notify_all();
                }
                other => *job = other,
            }
            job = self.changed.wait(job).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for the end of a write, at most for `timeout`; gives the result.
    fn result(&self, timeout: Duration) -> Option<io::Result<usize>> {
        let mut job = self.wait(timeout);
        match std::mem::take(&mut *job) {
            Job::Done(result) => Some(result),
            other => {
                *job = other;
                None
            }
        }
    }

    fn wait(&self, timeout: Duration) -> std::sync::MutexGuard<'_, Job> {
        let is_busy = |job: &mut Job| matches!(job, Job::Write(_));
        let waited = self.changed.wait_timeout_while(lock(&self.job), timeout, is_busy);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Sink for OutputFile {
    /// A caller that is told `WouldBlock` offers the same bytes again: they are being written.
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(desk) = self.desk.clone() else {
            let mut file: &File = &self.file;
            return file.write(bytes);
        };
        self.start(&desk)?;
        if matches!(*lock(&desk.job), Job::None) {
            let batch = bytes.get(..BATCH).unwrap_or(bytes);
            *lock(&desk.job) = Job::Write(batch.to_vec());
            desk.changed.notify_all();
        }
        let written = desk.result(QUICK).unwrap_or_else(|| Err(ErrorKind::WouldBlock.into()))?;
        Ok(written.min(bytes.len()))
    }

    fn wait_writable(&self, timeout: Duration) {
        if let Some(desk) = &self.desk {
            drop(desk.wait(timeout));
        }
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if let Some(desk) = &self.desk {
            *lock(&desk.job) = Job::Quit;
            desk.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::time::Instant;

    #[test]
    fn a_full_pipe_does_not_block_and_loses_nothing() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut output = OutputFile::from_handle(writer.as_raw_handle());
        let bytes: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
        let mut written = 0;
        loop {
            match output.try_write(&bytes[written..]) {
                Ok(count) => written += count,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        let all = bytes.len();
        let copy = thread::spawn(move || {
            let mut got = vec![0; all];
            reader.read_exact(&mut got).unwrap();
            got
        });
        let start = Instant::now();
        while written < bytes.len() && start.elapsed() < Duration::from_secs(60) {
            match output.try_write(&bytes[written..]) {
                Ok(count) => written += count,
                Err(_) => output.wait_writable(Duration::from_millis(100)),
            }
        }
        assert!(copy.join().unwrap() == bytes);
    }

    #[test]
    fn a_closed_pipe_is_told() {
        let (reader, writer) = io::pipe().unwrap();
        let mut output = OutputFile::from_handle(writer.as_raw_handle());
        drop(reader);
        let error = loop {
            match output.try_write(b"x") {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => break error,
                Ok(_) => panic!("nobody can have read it"),
            }
        };
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }

    #[test]
    fn files_take_everything() {
        let file = tempfile::tempfile().unwrap();
        let mut output = OutputFile::from_handle(file.as_raw_handle());
        assert_eq!(output.try_write(&[0; 100_000]).unwrap(), 100_000);
    }
}

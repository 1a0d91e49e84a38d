//! What this process has used of the host.

use std::mem::MaybeUninit;
use std::time::Duration;

/// Memory and processor time of a process and its threads.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResourceUsage {
    /// The most memory that was resident, in bytes.
    pub peak_rss_bytes: u64,
    /// Processor time, in user and kernel mode together.
    pub cpu_time: Duration,
}

impl ResourceUsage {
    /// What this process has used so far; nothing where the host does not tell.
    #[must_use]
    pub fn of_this_process() -> Self {
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: `usage` is valid for the answer.
        if unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) } < 0 {
            return Self::default();
        }
        // SAFETY: `getrusage` has filled it.
        let usage = unsafe { usage.assume_init() };
        let time = |time: libc::timeval| {
            let seconds = Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or_default());
            seconds + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or_default())
        };
        Self {
            // Linux counts KiB (getrusage(2)).
            peak_rss_bytes: u64::try_from(usage.ru_maxrss).unwrap_or_default().saturating_mul(1024),
            cpu_time: time(usage.ru_utime) + time(usage.ru_stime),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_uses_something() {
        assert!(ResourceUsage::of_this_process().peak_rss_bytes > 0);
    }
}

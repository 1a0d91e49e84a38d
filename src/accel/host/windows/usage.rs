//! What this process has used of the host.

use std::mem::MaybeUninit;
use std::time::Duration;

use windows_sys::Win32::Foundation::FILETIME;
use windows_sys::Win32::System::ProcessStatus::{K32GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, GetProcessTimes};

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
        Self { peak_rss_bytes: peak_working_set().unwrap_or(0), cpu_time: cpu_time().unwrap_or_default() }
    }
}

fn peak_working_set() -> Option<u64> {
    let mut counters = MaybeUninit::<PROCESS_MEMORY_COUNTERS>::zeroed();
    let size = size_of::<PROCESS_MEMORY_COUNTERS>() as u32;
    // SAFETY: the pseudo handle is always valid, and `counters` is valid for `size` bytes of answer.
    if unsafe { K32GetProcessMemoryInfo(GetCurrentProcess(), counters.as_mut_ptr(), size) } == 0 {
        return None;
    }
    // SAFETY: integers, zeroed first.
    Some(unsafe { counters.assume_init() }.PeakWorkingSetSize as u64)
}

fn cpu_time() -> Option<Duration> {
    let mut times = [FILETIME { dwLowDateTime: 0, dwHighDateTime: 0 }; 4];
    let [created, ended, kernel, user] = &mut times;
    // SAFETY: the pseudo handle is always valid, and the four are valid for the answers.
    if unsafe { GetProcessTimes(GetCurrentProcess(), created, ended, kernel, user) } == 0 {
        return None;
    }
    // FILETIME counts 100 ns.
    let ticks = |time: &FILETIME| u64::from(time.dwHighDateTime) << 32 | u64::from(time.dwLowDateTime);
    Some(Duration::from_nanos((ticks(kernel) + ticks(user)).saturating_mul(100)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_uses_something() {
        assert!(ResourceUsage::of_this_process().peak_rss_bytes > 0);
    }
}

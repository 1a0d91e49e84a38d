//! How many scenarios run at a time.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use super::Scenario;

/// What a run takes besides the guest's RAM, in bytes: the program, the kernel's file, translated code.
const OVERHEAD: u64 = 64 << 20;

/// What running scenarios share.
#[derive(Debug)]
pub(super) enum Budget {
    /// So many at a time.
    Jobs(usize),
    /// As many as the host has cores and memory for.
    Host {
        /// Cores.
        cores: u32,
        /// Memory in bytes, where the host tells.
        memory: Option<u64>,
    },
}

impl Budget {
    /// `jobs` at a time, or what fits this host.
    pub(super) fn new(jobs: Option<usize>) -> Self {
        match jobs {
            Some(jobs) => Self::Jobs(jobs),
            None => Self::Host {
                cores: thread::available_parallelism().map_or(1, |cores| cores.get().try_into().unwrap_or(1)),
                memory: free_memory(),
            },
        }
    }

    /// Whether `next` may start beside `running`. One may always run.
    pub(super) fn has_room<'a>(
        &self,
        running: impl Iterator<Item = &'a Scenario> + Clone,
        next: &'a Scenario,
    ) -> bool {
        let count = running.clone().count();
        match self {
            Self::Jobs(jobs) => count < *jobs,
            Self::Host { cores, memory } => {
                let all = || running.clone().chain([next]);
                let busy: u32 = all().map(|scenario| scenario.config.cpus.min(*cores)).sum();
                let used = all().fold(0_u64, |sum, scenario| {
                    sum.saturating_add(scenario.config.memory).saturating_add(OVERHEAD)
                });
                count == 0 || (busy <= *cores && memory.is_none_or(|memory| used <= memory))
            }
        }
    }
}

/// Memory in bytes that may be used without swapping: what the kernel calls available, and what the
/// control groups leave.
fn free_memory() -> Option<u64> {
    let available = fs::read_to_string("/proc/meminfo").ok().and_then(|text| available(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = folders(&groups).into_iter().filter_map(|folder| room(&folder));
    available.into_iter().chain(limits).min()
}

/// `MemAvailable` of /proc/meminfo, which counts KiB.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The folders of this process's control groups, with those around them: version 2 has one tree, version 1
/// one for memory.
fn folders(groups: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let root = match controllers {
            "" => Path::new("/sys/fs/cgroup"),
            list if list.split(',').any(|name| name == "memory") => Path::new("/sys/fs/cgroup/memory"),
            _ => continue,
        };
        let inner = Path::new(path.trim_start_matches('/'));
        folders.extend(inner.ancestors().map(|group| root.join(group)));
    }
    folders
}

/// What a control group's limit leaves.
fn room(group: &Path) -> Option<u64> {
    let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    let limit = number("memory.max").or_else(|| number("memory.limit_in_bytes"))?;
    let used = number("memory.current").or_else(|| number("memory.usage_in_bytes")).unwrap_or_default();
    Some(limit.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::VmConfig;

    fn scenario(cpus: u32, memory: u64) -> Scenario {
        let config = VmConfig { cpus, memory: memory << 20, ..VmConfig::default() };
        Scenario { name: String::new(), file: PathBuf::new(), kept_as: PathBuf::new(), config }
    }

    #[test]
    fn cores_and_memory_are_shared() {
        let budget = Budget::Host { cores: 4, memory: Some(2 << 30) };
        let room = |running: &[Scenario], next| budget.has_room(running.iter(), &next);
        assert!(room(&[], scenario(16, 8 << 10)), "one may always run");
        assert!(room(&[scenario(1, 256), scenario(2, 256)], scenario(1, 256)));
        assert!(!room(&[scenario(1, 256), scenario(2, 256)], scenario(2, 256)));
        assert!(!room(&[scenario(1, 1024)], scenario(1, 1024)));
        let budget = Budget::Host { cores: 2, memory: None };
        assert!(budget.has_room([scenario(1, 1 << 19)].iter(), &scenario(1, 1 << 19)));
        let all = [scenario(8, 1), scenario(8, 1)];
        assert!(Budget::Jobs(3).has_room(all.iter(), &scenario(8, 1)));
        assert!(!Budget::Jobs(2).has_room(all.iter(), &scenario(8, 1)));
    }

    #[test]
    fn the_host_tells() {
        let text = "MemTotal:  8 kB\nMemFree: 1 kB\nMemAvailable:    4096 kB\n";
        assert_eq!(available(text), Some(4 << 20));
        assert_eq!(available("MemTotal: 8 kB"), None);
        let shown =
            |text: &str| folders(text).iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        assert_eq!(shown("0::/a/b\n"), ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup/"]);
        assert_eq!(shown("5:cpu:/x\n4:hugetlb,memory:/\nrubbish"), ["/sys/fs/cgroup/memory/"]);
    }
}

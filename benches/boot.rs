//! The software CPU against QEMU's: the same kernel, the same initramfs, interleaved runs.
//!
//! `cargo bench --bench boot` boots a stock Debian kernel on both and prints how long it takes from the
//! start of the process to its end, then runs workloads in that guest and prints the time of each, with
//! ratios. `cargo bench --bench boot -- boot` or `-- work` does one half; a number is the count of runs.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// A run that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(120);
/// Interleaved runs of each side.
const RUNS: usize = 3;

/// Kernel command lines of the boots.
const BOOTS: [(&str, &str); 2] = [("stock command line", ""), ("cryptomgr.notests=1", "cryptomgr.notests=1")];

/// Shell commands that are timed in the guest, each between two marks on its console. The shell's words
/// stand in double quotes on the kernel's command line, so none has one of those.
const WORK: [(&str, &str); 9] = [
    ("shell loop", "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done"),
    ("awk loop", "awk 'BEGIN{for(i=0;i<1000000;i++)s+=i*i}'"),
    ("sha256sum 32 MiB", "dd if=/dev/zero bs=1M count=32 2>/dev/null|sha256sum>/dev/null"),
    ("gzip 8 MiB", "dd if=/bin/busybox bs=1M count=8 2>/dev/null|gzip>/dev/null"),
    ("copy 2 GiB", "dd if=/dev/zero of=/dev/null bs=1M count=2048 2>/dev/null"),
    ("syscalls", "dd if=/dev/zero of=/dev/null bs=1 count=300000 2>/dev/null"),
    ("fork and exec", "i=0; while [ $i -lt 300 ]; do /bin/true; i=$((i+1)); done"),
    ("fork and pipe", "i=0; while [ $i -lt 200 ]; do echo $i|cat>/dev/null; i=$((i+1)); done"),
    ("file system", "i=0; while [ $i -lt 2000 ]; do echo $i>/tmp/f$i; i=$((i+1)); done; rm /tmp/f*"),
];

/// Files of the guest.
struct Guest {
    kernel: PathBuf,
    initramfs: PathBuf,
}

/// Who boots it.
#[derive(Clone, Copy)]
enum Side {
    Qemu,
    Ours,
}

impl Side {
    fn command(self, guest: &Guest, words: &str) -> Command {
        let cmdline = format!("console=ttyS0 panic=-1 reboot=t vmaccel.do=reboot {words}");
        match self {
            Self::Qemu => {
                let mut command = Command::new("qemu-system-x86_64");
                command
                    .args(["-M", "microvm,acpi=off", "-accel", "tcg", "-cpu", "max", "-m", "512"])
                    .args(["-nodefaults", "-no-user-config", "-nographic", "-serial", "stdio", "-no-reboot"])
                    .arg("-kernel")
                    .arg(&guest.kernel)
                    .arg("-initrd")
                    .arg(&guest.initramfs)
                    .args(["-append", &cmdline]);
                command
            }
            Self::Ours => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_vm-accel"));
                command
                    .args(["run", "--accel", "soft", "--memory", "512M", "--timeout", "120s", "--kernel"])
                    .arg(&guest.kernel)
                    .arg("--initrd")
                    .arg(&guest.initramfs)
                    .args(["--cmdline", &cmdline]);
                command
            }
        }
    }

    /// Boots once; gives the time to the end and the times between marks.
    fn run(self, guest: &Guest, words: &str) -> (Duration, BTreeMap<usize, Duration>) {
        let start = Instant::now();
        let mut child = self
            .command(guest, words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let mut marks = BTreeMap::new();
        let mut since = start;
        let mut reached = false;
        for line in BufReader::new(child.stdout.take().expect("a pipe")).split(b'\n') {
            let line = String::from_utf8_lossy(&line.expect("the pipe can be read")).into_owned();
            reached |= line.contains("init reached");
            if let Some((_, mark)) = line.split_once("mark:") {
                let now = Instant::now();
                if let Ok(index) = mark.trim().parse::<usize>() {
                    marks.insert(index, now - since);
                }
                since = now;
            }
            assert!(start.elapsed() < LIMIT, "a boot takes longer than {LIMIT:?}");
        }
        child.wait().expect("the program ends");
        assert!(reached, "the guest did not reach its init");
        (start.elapsed(), marks)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let runs = arguments.iter().find_map(|a| a.parse().ok()).unwrap_or(RUNS).max(1);
    let only = |half: &str| !arguments.iter().any(|a| ["boot", "work"].contains(&a.as_str()) && a != half);
    let Some(guest) = fetch() else { return ExitCode::SUCCESS };
    if only("boot") {
        for (name, words) in BOOTS {
            let (mut qemu, mut ours) = (Vec::new(), Vec::new());
            for _ in 0..runs {
                qemu.push(Side::Qemu.run(&guest, words).0);
                ours.push(Side::Ours.run(&guest, words).0);
            }
            report(&format!("boot, {name}"), &mut qemu, &mut ours);
        }
    }
    if only("work") {
        let script: Vec<String> =
            WORK.iter().enumerate().map(|(i, (_, work))| format!("{work}; echo mark:{i}")).collect();
        let words = format!("cryptomgr.notests=1 quiet vmaccel.run=\"echo mark:; {}\"", script.join("; "));
        let mut times: [Vec<_>; 2] = Default::default();
        for _ in 0..runs {
            times[0].push(Side::Qemu.run(&guest, &words).1);
            times[1].push(Side::Ours.run(&guest, &words).1);
        }
        for (index, (name, _)) in WORK.iter().enumerate() {
            let of = |side: &[BTreeMap<usize, Duration>]| -> Vec<Duration> {
                side.iter().filter_map(|marks| marks.get(&index).copied()).collect()
            };
            let (mut qemu, mut ours) = (of(&times[0]), of(&times[1]));
            assert!(!qemu.is_empty() && !ours.is_empty(), "{name} left no mark");
            report(name, &mut qemu, &mut ours);
        }
    }
    ExitCode::SUCCESS
}

fn report(name: &str, qemu: &mut [Duration], ours: &mut [Duration]) {
    let median = |times: &mut [Duration]| {
        times.sort();
        times[times.len() / 2].as_secs_f64()
    };
    let (qemu, ours) = (median(qemu), median(ours));
    println!("{name}: QEMU TCG {qemu:.2} s, vm-accel {ours:.2} s, ratio {:.2}", ours / qemu);
}

/// The Debian guest, if it and QEMU can be had here.
fn fetch() -> Option<Guest> {
    if Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
        println!("skipped: qemu-system-x86_64 is not installed");
        return None;
    }
    let output = Command::new(Path::new(ROOT).join("images/fetch-debian")).output().expect("a shell");
    if !output.status.success() {
        println!("skipped: {}", String::from_utf8_lossy(&output.stderr).trim());
        return None;
    }
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    Some(Guest { kernel: folder.join("vmlinuz"), initramfs: folder.join("initramfs.cpio") })
}

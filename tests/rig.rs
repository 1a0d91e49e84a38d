//! The KVM backend on a KVM that runs kernel-mode code as hardware does, whatever the host has: nested in
//! QEMU's emulated AMD-V (`images/rig-nested-kvm`). A stock Debian kernel boots there to its userland and
//! ends itself, and the tiny guests do what they do everywhere.
//!
//! Where QEMU, binutils or the Debian packages cannot be had, every test is ignored and says why.

mod support;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use support::manifest::TinyGuest;
use support::{Ended, PROJECT, Run, Trials, built};

/// Seconds after which the rig ends its machine.
const LIMIT: u32 = 580;
/// Ends a rig that does not.
const DEADLINE: Duration = Duration::from_secs(600);
/// The rig's status when the host lacks something.
const MISSING: Option<i32> = Some(3);

/// Guests that this rig cannot run rightly. The others are assembled without the few checks that QEMU's
/// CPU is known to fail by itself, with no hypervisor in it.
const UNFIT: [(&str, &str); 4] = [
    ("exceptions", "QEMU's AMD-V does not deliver a double fault to a nested guest (check 60)"),
    ("smc-smp", "QEMU's CPUs race with code that another CPU writes"),
    ("hostile-mmio", "an exit takes 50 us in this rig"),
    ("hostile-ports", "an exit takes 50 us in this rig"),
];

fn main() -> ExitCode {
    let mut trials = Trials::without_backends();
    for (name, cpus, word, end) in [
        ("debian_with_1_cpu", 1, "", "powered off"),
        ("debian_with_2_cpus", 2, "", "powered off"),
        ("debian_reboot", 1, " vmaccel.do=reboot", "reset"),
    ] {
        trials.add_ignorable(format!("nested-kvm::{name}"), move || {
            let debian = built::debian()?;
            let files = [debian.join("vmlinuz"), debian.join("initramfs.cpio")];
            let cmdline = format!("console=ttyS0{word}");
            let count = cpus.to_string();
            let args = ["run", "--accel", "kvm", "--memory", "256M", "--timeout", "200s", "--cpus", &count];
            let rest = ["--cmdline", &cmdline, "--initrd", "initramfs.cpio", "vmlinuz"];
            let ended = rig(cpus, &files, &[&["vm-accel"], &args[..], &rest].concat())?;
            ended.expect(0, &[end, "(kvm, status 0)"]);
            let stdout = String::from_utf8_lossy(&ended.stdout);
            for line in ["vm-accel: init reached, Linux 6.", &format!(", {cpus} CPUs")] {
                assert!(stdout.contains(line), "no `{line}`: {ended:?}");
            }
            Ok(())
        });
    }
    trials.add_ignorable("nested-kvm::auto_takes_it", || {
        let auto = tiny_guests()?.get(AUTO).ok_or("the rig ended too early")?;
        assert!(auto.code == Some(0) && auto.stderr.contains("(kvm, status 0)"), "{auto:?}");
        Ok(())
    });
    for guest in TinyGuest::all() {
        let name = format!("nested-kvm::{}", guest.name);
        if let Some((_, reason)) = UNFIT.iter().find(|(unfit, _)| *unfit == guest.name) {
            trials.ignored(name, reason);
            continue;
        }
        trials.add_ignorable(name, move || {
            let ended = tiny_guests()?.get(&guest.name).unwrap_or_else(|| panic!("the rig ended before it"));
            guest.check(ended.code, &String::from_utf8_lossy(&ended.stdout), &ended.stderr);
            Ok(())
        });
    }
    trials.run_in_turn()
}

/// Runs `words` in the rig with `files` beside; `Err` says what is missing here.
fn rig(cpus: u32, files: &[PathBuf], words: &[&str]) -> Result<Ended, String> {
    let mut command = Command::new(Path::new(PROJECT).join("images/rig-nested-kvm"));
    command.args(["--smp", &cpus.to_string(), "--timeout", &LIMIT.to_string()]);
    command.arg("--binary").arg(built::static_binary()?);
    for file in files {
        command.arg("--file").arg(file);
    }
    command.arg("--").args(words);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = Run::start_with(&mut command, DEADLINE).end();
    if ended.code == MISSING && ended.stdout.is_empty() {
        return Err(ended.stderr.lines().last().unwrap_or("the rig lacks something").to_owned());
    }
    Ok(ended)
}

/// The name of the run without `--accel`.
const AUTO: &str = "auto";
/// What the script in the rig prints before a guest's name, its status, and its stderr.
const MARKS: [&str; 3] = ["@@guest ", "@@status ", "@@stderr\n"];

/// How each tiny guest ended. They share one boot of the rig.
fn tiny_guests() -> Result<&'static HashMap<String, Ended>, String> {
    static ENDS: OnceLock<Result<HashMap<String, Ended>, String>> = OnceLock::new();
    ENDS.get_or_init(run_tiny_guests).as_ref().map_err(Clone::clone)
}

fn run_tiny_guests() -> Result<HashMap<String, Ended>, String> {
    let work = tempfile::tempdir().expect("a temporary directory");
    let build = Command::new(Path::new(PROJECT).join("images/build"))
        .arg("--to")
        .arg(work.path())
        // The processor is QEMU's; what is behind addresses that no device answers is ours.
        .args(["--defsym", "QEMU=1", "--defsym", "UNMAPPED=-1"])
        .output()
        .map_err(|error| format!("images/build: {error}"))?;
    if !build.status.success() {
        let said = String::from_utf8_lossy(&build.stderr);
        return Err(said.lines().last().unwrap_or("images/build fails").to_owned());
    }
    let [guest_mark, status_mark, stderr_mark] = MARKS;
    let mut script = String::new();
    let mut add = |name: &str, args: &[String]| {
        let words: Vec<String> = args.iter().map(|word| format!("'{word}'")).collect();
        let words = words.join(" ");
        writeln!(script, "vm-accel {words} > /tmp/out 2> /tmp/err; status=$?").expect("text");
        writeln!(script, "echo '{guest_mark}{name}'; echo \"{status_mark}$status\"; cat /tmp/out")
            .expect("text");
        writeln!(script, "echo; echo '{}'; cat /tmp/err", stderr_mark.trim_end()).expect("text");
    };
    let folder = Path::new("");
    let guests: Vec<TinyGuest> = TinyGuest::all()
        .into_iter()
        .filter(|guest| !UNFIT.iter().any(|(unfit, _)| *unfit == guest.name))
        .collect();
    let mut files = Vec::new();
    for guest in &guests {
        add(&guest.name, &guest.args("kvm", folder));
        files.push(work.path().join("tiny").join(&guest.file));
    }
    add(AUTO, &["run", "--timeout", "60s"].map(str::to_owned));
    let path = work.path().join("guests.sh");
    std::fs::write(&path, script).expect("the script is written");
    files.push(path);
    let ended = rig(2, &files, &["sh", "guests.sh"])?;
    let stdout = String::from_utf8_lossy(&ended.stdout);
    let ends: HashMap<String, Ended> = stdout.split(guest_mark).skip(1).filter_map(parse).collect();
    assert!(!ends.is_empty(), "no guest has run: {ended:?}");
    Ok(ends)
}

/// One guest's name and end from what the script printed between two marks.
fn parse(text: &str) -> Option<(String, Ended)> {
    let [_, status_mark, stderr_mark] = MARKS;
    let (name, rest) = text.split_once('\n')?;
    let (status, rest) = rest.strip_prefix(status_mark)?.split_once('\n')?;
    let (stdout, stderr) = rest.split_once(stderr_mark)?;
    let ended = Ended { code: status.parse().ok(), stdout: stdout.into(), stderr: stderr.to_owned() };
    Some((name.to_owned(), ended))
}

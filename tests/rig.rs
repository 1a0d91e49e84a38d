//! The KVM backend on a KVM that runs kernel-mode code as hardware does, whatever the host has: nested in
//! QEMU's emulated AMD-V (`images/rig-nested-kvm`). A stock Debian kernel boots there to its userland and
//! ends itself, and the tiny guests do what they do everywhere.
//!
//! That machine has faults of its own, which show now and then. What fails there is therefore run once more,
//! which is said on stderr, and only what fails again has failed.
//!
//! Where QEMU, binutils or the Debian packages cannot be had, every test is ignored and says why.

mod support;

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::OnceLock;

use support::manifest::TinyGuest;
use support::nested::Machine;
use support::{Ended, PROJECT, Trials, built};

/// Guests that this rig cannot run rightly. The others are assembled without the few checks that QEMU's
/// CPU is known to fail by itself, with no hypervisor in it.
const UNFIT: [(&str, &str); 2] = [
    ("exceptions", "QEMU's AMD-V does not deliver a double fault to a nested guest (check 60)"),
    (
        "wake",
        "QEMU's AMD-V takes interrupts between STI and HLT in a nested guest, which then sleeps for ever",
    ),
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
            let words = [&["vm-accel"], &args[..], &rest].concat();
            let mut ended = machine()?.run(&files, &words)?;
            if ended.code != Some(0) {
                eprintln!("{name} has failed and is run once more: {ended:?}");
                ended = machine()?.run(&files, &words)?;
            }
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
            guest.check(ended);
            Ok(())
        });
    }
    trials.run_in_turn()
}

/// The emulated machine.
fn machine() -> Result<Machine, String> {
    Ok(Machine { name: "x86-64", binary: built::static_binary()?, cpus: 1 })
}

/// The name of the run without `--accel`.
const AUTO: &str = "auto";
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
    let guests: Vec<TinyGuest> = TinyGuest::all()
        .into_iter()
        .filter(|guest| !UNFIT.iter().any(|(unfit, _)| *unfit == guest.name))
        .collect();
    let folder = work.path().join("tiny");
    let commands: [(&str, &[&str]); 1] = [(AUTO, &["run", "--timeout", "60s"])];
    let mut ends = machine()?.run_each(&guests, &folder, &commands, &[])?;
    let fails = |guest: &TinyGuest| ends.get(&guest.name).is_none_or(|ended| !guest.accepts(ended));
    let again: Vec<TinyGuest> = guests.into_iter().filter(fails).collect();
    if !again.is_empty() {
        for TinyGuest { name, .. } in &again {
            eprintln!("{name} has failed and is run once more: {:?}", ends.get(name));
        }
        ends.extend(machine()?.run_each(&again, &folder, &[], &[])?);
    }
    Ok(ends)
}

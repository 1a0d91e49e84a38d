//! The KVM backend on AArch64, on real KVM in an emulated machine (`images/rig-nested-kvm`): a stock Debian
//! kernel boots there to its userland and ends itself, and the tiny guests of `images/tiny-arm64` do what they
//! must, with a GICv3 and with a GICv2.
//!
//! Where QEMU, the cross compiler or the Debian packages cannot be had, every test is ignored and says why.

mod support;

use std::collections::HashMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;

use support::manifest::TinyGuest;
use support::nested::Machine;
use support::{Ended, TINY_ARM64, Trials, built};

/// Guests that this rig cannot run rightly.
const UNFIT: [(&str, &str); 1] = [(
    "mmio-signed",
    "QEMU's processor does not tell its hypervisor that a load from a device extends the sign",
)];
/// The machines that run the tiny guests: a GICv3, and a GICv2.
const MACHINES: [&str; 2] = ["arm64", "arm64-gicv2"];

/// The runs beside the tiny guests: the built-in guest, the probe, and a kernel for x86-64.
const AUTO: &str = "auto";
const PROBE: &str = "probe";
const X86: &str = "x86";
const X86_ON_KVM: &str = "x86-on-kvm";
const COMMANDS: [(&str, &[&str]); 4] = [
    (AUTO, &["run", "--timeout", "60s"]),
    (PROBE, &["probe", "--accel", "kvm"]),
    (X86, &["run", "--timeout", "60s", "ok-elf.elf"]),
    (X86_ON_KVM, &["run", "--accel", "kvm", "ok-elf.elf"]),
];
/// The files that they want.
const FILES: [&str; 1] = ["images/tiny/ok-elf.elf"];

fn main() -> ExitCode {
    let mut trials = Trials::without_backends();
    for (name, machine, cpus, word, status, end) in [
        ("debian_with_1_cpu", "arm64", 1, "", 0, "powered off"),
        ("debian_with_2_cpus", "arm64", 2, "", 0, "powered off"),
        ("debian_reboot", "arm64", 1, " vmaccel.do=reboot", 0, "reset"),
        ("debian_panic", "arm64", 1, " vmaccel.do=panic", 120, "panicked"),
        ("debian_halt", "arm64", 2, " vmaccel.run=\"halt -f\"", 122, "hangs"),
        ("debian_with_a_gicv2", "arm64-gicv2", 2, "", 0, "powered off"),
        ("debian_with_vhe", "arm64-vhe", 2, "", 0, "powered off"),
    ] {
        trials.add_ignorable(format!("nested-kvm-arm64::{name}"), move || {
            let debian = built::debian_arm64()?;
            let files = [debian.join("vmlinuz"), debian.join("initramfs.cpio")];
            let cmdline = format!("console=ttyS0 panic=-1 quiet{word}");
            let count = cpus.to_string();
            let args = ["run", "--memory", "256M", "--timeout", "200s", "--cpus", &count];
            let rest = ["--cmdline", &cmdline, "--initrd", "initramfs.cpio", "vmlinuz"];
            let machine = Machine { name: machine, binary: built::aarch64_binary()?, in_turn: false };
            let ended = machine.run(cpus, &files, &[&["vm-accel"], &args[..], &rest].concat())?;
            ended.expect(status, &[end, &format!("(kvm, status {status})")]);
            let stdout = String::from_utf8_lossy(&ended.stdout);
            for line in ["vm-accel: init reached, Linux 6.", &format!(", {cpus} CPUs")] {
                assert!(stdout.contains(line), "no `{line}`: {ended:?}");
            }
            Ok(())
        });
    }
    for (machine, ends) in MACHINES.into_iter().zip(&ENDS) {
        trials.add_ignorable(format!("nested-kvm-{machine}::the_builtin_guest"), move || {
            let auto = end_of(machine, ends, AUTO)?;
            assert!(auto.code == Some(0) && auto.stderr.contains("(kvm, status 0)"), "{auto:?}");
            let stdout = String::from_utf8_lossy(&auto.stdout);
            assert!(stdout.contains("all is well: powering off by PSCI"), "{auto:?}");
            Ok(())
        });
        trials.add_ignorable(format!("nested-kvm-{machine}::probe"), move || {
            let probe = end_of(machine, ends, PROBE)?;
            assert_eq!(probe.code, Some(0), "{probe:?}");
            Ok(())
        });
        trials.add_ignorable(format!("nested-kvm-{machine}::an_x86_kernel"), move || {
            let soft = end_of(machine, ends, X86)?.expect(0, &["(soft, status 0)"]);
            assert!(soft.stdout.starts_with(b"OK\n"), "{soft:?}");
            let words = ["kvm here runs AArch64 guests", "Use `--accel soft`"];
            end_of(machine, ends, X86_ON_KVM)?.expect(125, &words);
            Ok(())
        });
        for guest in TinyGuest::of(Path::new(TINY_ARM64)) {
            let name = format!("nested-kvm-{machine}::{}", guest.name);
            if let Some((_, reason)) = UNFIT.iter().find(|(unfit, _)| *unfit == guest.name) {
                trials.ignored(name, reason);
                continue;
            }
            trials.add_ignorable(name, move || {
                let ended = end_of(machine, ends, &guest.name)?;
                guest.check(ended.code, &String::from_utf8_lossy(&ended.stdout), &ended.stderr);
                Ok(())
            });
        }
    }
    trials.run_in_turn()
}

/// How each run ended on each machine. They share one boot of the rig.
static ENDS: [OnceLock<Ends>; MACHINES.len()] = [const { OnceLock::new() }; MACHINES.len()];

type Ends = Result<HashMap<String, Ended>, String>;

/// How the run `name` ended on the machine `machine`; `Err` says what is missing here.
fn end_of(
    machine: &'static str,
    ends: &'static OnceLock<Ends>,
    name: &str,
) -> Result<&'static Ended, String> {
    let run = || {
        let machine = Machine { name: machine, binary: built::aarch64_binary()?, in_turn: false };
        let folder = Path::new(TINY_ARM64);
        let mut guests = TinyGuest::of(folder);
        guests.retain(|guest| !UNFIT.iter().any(|(unfit, _)| *unfit == guest.name));
        machine.run_each(&guests, folder, &COMMANDS, &FILES)
    };
    let ends = ends.get_or_init(run).as_ref().map_err(Clone::clone)?;
    Ok(ends.get(name).unwrap_or_else(|| panic!("the rig ended before {name}")))
}

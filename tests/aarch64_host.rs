//! The software CPU on an AArch64 host: the tiny x86-64 guests and a stock Debian kernel for x86-64, run by
//! the AArch64 program under QEMU's user mode. Where it cannot be built or run, the tests are ignored and say
//! why.

mod support;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use support::manifest::TinyGuest;
use support::{Ended, Run, TINY, Trials, built, command_of};

/// Runs AArch64 programs.
const QEMU: &str = "qemu-aarch64-static";
/// Longer than any limit in the manifest.
const DEADLINE: Duration = Duration::from_secs(300);

fn run<S: AsRef<std::ffi::OsStr>>(program: &Path, args: impl IntoIterator<Item = S>) -> Ended {
    let mut command = command_of(Path::new(QEMU), [program]);
    Run::start_with(command.args(args), DEADLINE).end()
}

fn main() -> ExitCode {
    let mut trials = Trials::new();
    let program = match Command::new(QEMU).arg("--version").output() {
        Err(_) => Err(format!("{QEMU} is missing: install qemu-user-static")),
        Ok(_) => built::aarch64_binary(),
    };
    let program = match program {
        Ok(program) => program,
        Err(reason) => {
            trials.ignored("all", &reason);
            return trials.run();
        }
    };
    for guest in TinyGuest::all() {
        let program = program.clone();
        trials.add(format!("soft::{}", guest.name), move || {
            let ended = run(&program, guest.args("soft", Path::new(TINY)));
            guest.check(&ended);
        });
    }
    match built::debian() {
        Err(reason) => trials.ignored("soft::debian", &reason),
        Ok(debian) => trials.add("soft::debian", move || {
            let file = |name: &str| debian.join(name).display().to_string();
            let (kernel, initrd) = (file("vmlinuz"), file("initramfs.cpio"));
            // Without the kernel's self-tests of its ciphers: QEMU interprets the interpreter.
            let cmdline = "console=ttyS0 panic=-1 cryptomgr.notests=1";
            let args = [
                "run",
                &kernel,
                "--initrd",
                &initrd,
                "--accel",
                "soft",
                "--timeout",
                "290s",
                "--cmdline",
                cmdline,
            ];
            let ended = run(&program, args);
            ended.expect(0, &["powered off"]);
            assert!(String::from_utf8_lossy(&ended.stdout).contains("vm-accel: init reached"), "{ended:#?}");
        }),
    }
    trials.run_in_turn()
}

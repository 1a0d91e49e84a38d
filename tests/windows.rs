//! The Windows program, under Wine: the tiny guests on the software CPU and, through the test double of
//! WinHvPlatform.dll, on the WHPX backend; a stock Debian kernel; the library's own tests.
//!
//! `ci/windows-programs` builds it all. Where it cannot, or there is no Wine, the tests are ignored and say
//! why.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use support::manifest::TinyGuest;
use support::{Ended, PROJECT, Run, TINY, Trials, built, command_of};

/// Where Debian's wine64 is.
const WINE: &str = "/usr/lib/wine/wine64";
/// Longer than any limit in the manifest, with Wine's start.
const DEADLINE: Duration = Duration::from_secs(240);
/// Tests of the library that need a POSIX host: of programs that a Linux host lends its guests, and of the
/// suite's child processes.
const POSIX: [&str; 2] = ["exec::", "suite::"];

/// Programs for Windows, and a folder of Wine's own.
#[derive(Clone)]
struct Windows {
    /// The program beside which there is no WinHvPlatform.dll.
    plain: PathBuf,
    /// The program beside which there is the double.
    with_double: PathBuf,
    unit_tests: PathBuf,
    prefix: PathBuf,
}

impl Windows {
    /// Builds everything, or says why there is nothing.
    fn new() -> Result<Self, String> {
        if !Path::new(WINE).exists() {
            return Err(format!("there is no {WINE}: install wine64"));
        }
        let script = Path::new(PROJECT).join("ci/windows-programs");
        let output = Command::new(&script)
            .env_remove("CARGO_TARGET_DIR")
            .output()
            .map_err(|error| format!("ci/windows-programs: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            // Who cannot have the toolchain is told so; whose program does not compile has a failed test.
            let reason = said.lines().find(|line| line.starts_with("ci/cross-toolchain"));
            return Err(reason.map(str::to_owned).unwrap_or_else(|| panic!("{said}")));
        }
        let printed = String::from_utf8_lossy(&output.stdout);
        let mut lines = printed.lines().map(PathBuf::from);
        let (Some(folder), Some(unit_tests)) = (lines.next(), lines.next()) else {
            panic!("ci/windows-programs printed {printed:?}")
        };
        let own = Path::new(PROJECT).join("target/windows");
        let (plain, with_double) = (own.join("plain"), own.join("with-double"));
        for place in [&plain, &with_double] {
            fs::create_dir_all(place).expect("a folder");
            for file in ["vm-accel.exe", "bcryptprimitives.dll"] {
                fs::copy(folder.join(file), place.join(file)).expect("a copy");
            }
        }
        let double = folder.join("examples/winhvplatform.dll");
        fs::copy(double, with_double.join("WinHvPlatform.dll")).expect("the double");
        let prefix = own.join("wine");
        fs::create_dir_all(&prefix).expect("a folder");
        let windows = Self {
            plain: plain.join("vm-accel.exe"),
            with_double: with_double.join("vm-accel.exe"),
            unit_tests,
            prefix,
        };
        // The first start makes Wine's files, which two at once would do into each other.
        windows.run(&windows.plain, ["--version"]).expect(0, &[]);
        Ok(windows)
    }

    /// The program for tests of `backend`.
    fn program(&self, backend: &str) -> &Path {
        if backend == "soft" { &self.plain } else { &self.with_double }
    }

    /// A stock kernel runs from its bzImage to its end.
    fn boots(&self, backend: &str, debian: &Path) {
        let file = |name: &str| debian.join(name).display().to_string();
        let (kernel, initrd) = (file("vmlinuz"), file("initramfs.cpio"));
        // Without the kernel's self-tests of its ciphers, which take longer than all the rest.
        let cmdline = "console=ttyS0 panic=-1 cryptomgr.notests=1";
        let args = [
            "run",
            &kernel,
            "--initrd",
            &initrd,
            "--accel",
            backend,
            "--timeout",
            "230s",
            "--cmdline",
            cmdline,
        ];
        let ended = self.run(self.program(backend), args);
        ended.expect(0, &["powered off"]);
        assert!(String::from_utf8_lossy(&ended.stdout).contains("vm-accel: init reached"), "{ended:#?}");
    }

    /// Runs a program to its end.
    fn run<S: AsRef<std::ffi::OsStr>>(&self, program: &Path, args: impl IntoIterator<Item = S>) -> Ended {
        let mut command = command_of(Path::new(WINE), [program]);
        command.args(args).env("WINEPREFIX", &self.prefix).env("WINEDEBUG", "-all");
        // Wine would look for a screen and a sound card.
        command.env_remove("DISPLAY").env("WINEDLLOVERRIDES", "winemenubuilder.exe,mscoree,mshtml=");
        Run::start_with(&mut command, DEADLINE).end()
    }
}

fn main() -> ExitCode {
    let mut trials = Trials::new();
    let windows = match Windows::new() {
        Ok(windows) => windows,
        Err(reason) => {
            trials.ignored("all", &reason);
            return trials.run();
        }
    };
    let with = |test: fn(&Windows)| {
        let windows = windows.clone();
        move || test(&windows)
    };
    trials.add("probe_names_the_remedy", with(probe_names_the_remedy));
    trials.add("probe_finds_the_double", with(probe_finds_the_double));
    trials.add("exec_says_that_it_is_for_linux_hosts", with(exec_is_refused));
    trials.add("unit_tests", with(unit_tests));
    for guest in TinyGuest::all() {
        for backend in ["soft", "whpx"] {
            let (windows, guest) = (windows.clone(), guest.clone());
            let name = format!("{backend}::{}", guest.name);
            trials.add(name, move || {
                let ended = windows.run(windows.program(backend), guest.args(backend, Path::new(TINY)));
                guest.check(&ended);
            });
        }
    }
    let debian = built::debian();
    for backend in ["soft", "whpx"] {
        let name = format!("{backend}::debian");
        match debian.clone() {
            Err(reason) => trials.ignored(name, &reason),
            Ok(debian) => {
                let windows = windows.clone();
                trials.add(name, move || windows.boots(backend, &debian));
            }
        }
    }
    // Wine's server and the guests share two processors.
    trials.run_in_turn()
}

fn probe_names_the_remedy(windows: &Windows) {
    let ended = windows.run(&windows.plain, ["probe", "--accel", "whpx"]);
    assert_eq!(ended.code, Some(125), "{ended:#?}");
    let said = String::from_utf8_lossy(&ended.stdout);
    for word in
        ["Windows Hypervisor Platform", "DISM /Online /Enable-Feature /FeatureName:HypervisorPlatform"]
    {
        assert!(said.contains(word), "no {word:?}: {ended:#?}");
    }
}

fn probe_finds_the_double(windows: &Windows) {
    let ended = windows.run(&windows.with_double, ["probe", "--accel", "whpx", "--json"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
}

fn exec_is_refused(windows: &Windows) {
    windows.run(&windows.plain, ["exec", "--", "true"]).expect(125, &["Linux host", "initramfs"]);
}

fn unit_tests(windows: &Windows) {
    let skips = POSIX.iter().flat_map(|name| ["--skip", name]);
    let ended = windows.run(&windows.unit_tests, skips);
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.code == Some(0) && said.contains("test result: ok"), "{ended:#?}");
}

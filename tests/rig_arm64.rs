//! The KVM backend on AArch64, on real KVM in an emulated machine (`images/rig-nested-kvm`): a stock Debian
//! kernel boots there to its userland and ends itself, and the tiny guests of `images/tiny-arm64` do what they
//! must, with a GICv3 and with a GICv2, and `exec` runs that machine's own commands.
//!
//! Where QEMU, the cross compiler or the Debian packages cannot be had, every test is ignored and says why.

mod support;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
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
            let machine = Machine { name: machine, binary: built::aarch64_binary()?, cpus };
            let ended = machine.run(&files, &[&["vm-accel"], &args[..], &rest].concat())?;
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
                guest.check(ended);
                Ok(())
            });
        }
    }
    for (name, check) in EXEC {
        trials.add_ignorable(format!("nested-kvm-arm64::exec_{name}"), move || {
            let ends = EXEC_ENDS.get_or_init(exec_all).as_ref().map_err(Clone::clone)?;
            check(ends.get(name).unwrap_or_else(|| panic!("the rig ended before {name}")));
            Ok(())
        });
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
        let machine = Machine { name: machine, binary: built::aarch64_binary()?, cpus: 2 };
        let folder = Path::new(TINY_ARM64);
        let mut guests = TinyGuest::of(folder);
        guests.retain(|guest| !UNFIT.iter().any(|(unfit, _)| *unfit == guest.name));
        machine.run_each(&guests, folder, &COMMANDS, &FILES)
    };
    let ends = ends.get_or_init(run).as_ref().map_err(Clone::clone)?;
    Ok(ends.get(name).unwrap_or_else(|| panic!("the rig ended before {name}")))
}

/// Looks at how a run has ended.
type Check = fn(&Ended);

/// What `exec` does there, and what is to come of it.
const EXEC: [(&str, Check); 10] = [
    ("streams", |ended| {
        ended.expect(7, &[]).printed("aarch64\ntwo one\nrest");
        assert_eq!(ended.stderr, "oops\n");
    }),
    ("much_input", |ended| {
        ended.expect(0, &[]).printed("same\n");
        assert_eq!(ended.stderr, "");
    }),
    ("killed", |ended| {
        ended.expect(139, &[]).printed("");
        assert_eq!(ended.stderr, "");
    }),
    ("no_directory", |ended| _ = ended.expect(125, &["--workdir", "No such file"]).printed("")),
    ("dynamic", |ended| {
        ended.expect(3, &[]).printed("hello from libc\n");
        assert_eq!(ended.stderr, "");
    }),
    ("arm32", |ended| {
        ended.expect(42, &[]).printed("");
        assert_eq!(ended.stderr, "");
    }),
    ("lockdown", |ended| {
        ended.expect(125, &["powered off before the command ended"]).printed("");
        assert!(ended.stderr.contains("vm-accel: init: no /dev/mem: the kernel needs"), "{ended:?}");
    }),
    ("not_found", |ended| _ = ended.expect(127, &["no-such-command: command not found"]).printed("")),
    ("x86_kernel", |ended| {
        ended.expect(125, &["ok-elf.elf is no kernel for AArch64", "--kernel FILE"]).printed("");
    }),
    ("soft", |ended| {
        ended.expect(125, &["soft here runs x86-64 guests", "--accel kvm"]).printed("");
    }),
];
/// How each of them ended; they share one boot of the rig.
static EXEC_ENDS: OnceLock<Ends> = OnceLock::new();

fn exec_all() -> Ends {
    let lines = [
        (
            "streams",
            "printf 'one two\\nrest' | exec_in_guest -- busybox sh -c 'busybox uname -m; read a b; \
             echo \"$b $a\"; busybox cat; echo oops >&2; exit 7'",
        ),
        (
            "much_input",
            "busybox head -c 70001 /dev/urandom > /tmp/much; \
             exec_in_guest --cpus 2 -- busybox cat < /tmp/much > /tmp/back && busybox cmp /tmp/much /tmp/back && \
             echo same",
        ),
        ("killed", "exec_in_guest -- busybox sh -c 'kill -s SEGV $$'"),
        ("no_directory", "exec_in_guest --workdir /nowhere -- busybox true"),
        ("dynamic", "exec_in_guest -- ./dynamic"),
        ("arm32", "exec_in_guest -- ./arm32"),
        ("lockdown", "exec_in_guest --cmdline-append lockdown=integrity -- busybox true"),
        ("not_found", "exec_in_guest -- no-such-command"),
        ("x86_kernel", "vm-accel exec --kernel ok-elf.elf -- busybox true"),
        ("soft", "exec_in_guest --accel soft -- busybox true"),
    ]
    .map(|(name, line)| (name.to_owned(), line.to_owned()));
    // What a dynamic program needs there: the interpreter where it must be, and libc where only its DT_RUNPATH
    // says.
    let before = "lib=/opt/lib/aarch64-linux-gnu; mkdir -p /lib $lib; cp ld-linux-aarch64.so.1 /lib; \
         cp libc.so.6 $lib; chmod 755 arm32 dynamic /lib/ld-linux-aarch64.so.1; \
         exec_in_guest() { vm-accel exec --kernel vmlinuz --memory 256M --timeout 200s \"$@\"; }";
    let binary = built::aarch64_binary()?;
    let work = tempfile::tempdir().expect("a temporary directory");
    let (dynamic, arm32) = (work.path().join("dynamic"), work.path().join("arm32"));
    std::fs::write(&arm32, arm32_program()).expect("a program is written");
    let source = work.path().join("dynamic.c");
    let text = "#include <stdio.h>\nint main(void) { puts(\"hello from libc\"); return 3; }\n";
    std::fs::write(&source, text).expect("a source is written");
    let mut gcc = Command::new("aarch64-linux-gnu-gcc");
    gcc.arg("-o").arg(&dynamic).arg(&source).args(["-Wl,--enable-new-dtags", "-Wl,-rpath,/opt/$LIB"]);
    assert!(gcc.status().is_ok_and(|status| status.success()), "{gcc:?}");
    let mut files = vec![built::debian_arm64()?.join("vmlinuz"), dynamic, arm32];
    files.extend(FILES.map(|file| Path::new(support::PROJECT).join(file)));
    for name in ["libc.so.6", "ld-linux-aarch64.so.1"] {
        let said = Command::new("aarch64-linux-gnu-gcc").arg(format!("-print-file-name={name}")).output();
        let said = said.map_err(|error| format!("aarch64-linux-gnu-gcc: {error}"))?;
        files.push(PathBuf::from(String::from_utf8_lossy(&said.stdout).trim()));
    }
    Machine { name: "arm64", binary, cpus: 1 }.run_lines(before, &lines, files)
}

/// A program for 32-bit ARM that exits with 42: an ELF header, one segment, and
/// `mov r7, #1; mov r0, #42; svc 0`.
fn arm32_program() -> Vec<u8> {
    const BASE: u32 = 0x1_0000;
    const HEADERS: u32 = 52 + 32;
    let code = [0xE3A0_7001_u32, 0xE3A0_002A, 0xEF00_0000];
    let length = HEADERS + 4 * code.len() as u32;
    let mut file = b"\x7fELF\x01\x01\x01".to_vec();
    file.resize(16, 0);
    // ET_EXEC, EM_ARM.
    file.extend([2_u16, 40].into_iter().flat_map(u16::to_le_bytes));
    // Version, entry, program headers, no section headers, EABI5.
    file.extend([1, BASE + HEADERS, 52, 0, 0x500_0000].into_iter().flat_map(u32::to_le_bytes));
    file.extend([52_u16, 32, 1, 0, 0, 0].into_iter().flat_map(u16::to_le_bytes));
    // PT_LOAD from offset 0, readable and executable.
    let segment = [1, 0, BASE, BASE, length, length, 5, 0x1_0000];
    file.extend(segment.into_iter().chain(code).flat_map(u32::to_le_bytes));
    file
}

//! What a user can get wrong and what a host can refuse: status 125, one line on stderr that names the
//! thing, the reason and a remedy, nothing on stdout, no panic.
//!
//! `cli.rs` has the values of flags and the configuration file; here are files, memory, and the host.

mod support;

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use support::{Code, Ended, PROGRAM, Run, Trials, end_of, gzip, tiny, vm_accel};

/// `nobody` on every Linux system.
const NOBODY: u32 = 65534;

fn main() -> ExitCode {
    let mut trials = Trials::new();
    add_kernels(&mut trials);
    add_cut_elf_files(&mut trials);
    add_initrds_and_command_lines(&mut trials);
    add_memory(&mut trials);
    add_outputs(&mut trials);
    add_denied_kvm(&mut trials);
    trials.run()
}

/// A folder of its own that every user may look into.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("chmod");
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).expect("the file is written");
        path
    }
}

/// Checks that `command` is refused, and returns the line that says why.
#[track_caller]
fn refused(command: &mut Command, words: &[&str]) -> String {
    let ended = end_of(command);
    is_refusal(&ended, words);
    ended.printed("");
    ended.stderr
}

#[track_caller]
fn is_refusal(ended: &Ended, words: &[&str]) {
    ended.expect(125, words);
    assert_eq!(ended.stderr.lines().count(), 1, "one line: {}", ended.stderr);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    let (reason, remedy) = ended.stderr.trim_end().rsplit_once(". ").unwrap_or_default();
    assert!(!reason.is_empty() && !remedy.is_empty(), "reason and remedy: {}", ended.stderr);
}

/// `vm-accel run FILE` on a backend that every host has.
fn run(file: &Path) -> Command {
    let mut command = vm_accel(["run", "--accel", "soft", "--timeout", "20s"]);
    command.arg(file);
    command
}

/// 4 KiB of noise, the same every time (xorshift).
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed;
    (0..4096)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

fn add_kernels(trials: &mut Trials) {
    trials.add("missing_kernel", || {
        refused(&mut run(Path::new("no/such/kernel")), &["no/such/kernel", "No such file"]);
    });
    trials.add("kernel_is_a_directory", || {
        let folder = Folder::new();
        refused(&mut run(&folder.path("")), &[folder.0.path().to_str().unwrap(), "directory"]);
    });
    trials.add("empty_kernel", || {
        let folder = Folder::new();
        refused(&mut run(&folder.file("empty", b"")), &["empty"]);
        refused(run(&folder.file("empty", b"")).args(["--flat", "0x1000"]), &["empty"]);
    });
    trials.add("random_bytes", || {
        let folder = Folder::new();
        for seed in 1..9 {
            refused(&mut run(&folder.file("noise", &noise(seed))), &["noise"]);
        }
    });
    trials.add("compressed_kernel_that_is_cut", || {
        let folder = Folder::new();
        let packed = gzip(&fs::read(tiny("ok-elf.elf")).unwrap());
        // The checksum is cut, and the data.
        for cut in [1, packed.len() / 2] {
            let file = folder.file("kernel.gz", &packed[..packed.len() - cut]);
            refused(&mut run(&file), &["kernel.gz"]);
        }
        refused(&mut run(&folder.file("text.gz", &gzip(b"no kernel"))), &["text.gz", "compressed by gzip"]);
    });
    trials.add("fifo_as_kernel", || {
        let folder = Folder::new();
        let path = folder.path("fifo");
        let made = Command::new("mkfifo").arg(&path).status();
        assert!(made.is_ok_and(|status| status.success()), "mkfifo");
        refused(&mut run(&path), &["fifo"]);
        refused(run(&path).args(["--flat", "0x1000"]), &["fifo"]);
        refused(run(&tiny("ok-elf.elf")).arg("--initrd").arg(&path), &["fifo"]);
    });
    trials.add("device_as_kernel", || {
        for device in ["/dev/null", "/dev/zero"] {
            refused(&mut run(Path::new(device)), &[device]);
        }
    });
    trials.add("flat_kernel_that_does_not_fit", || {
        let folder = Folder::new();
        let file = folder.file("large", &vec![0x90; 3 << 20]);
        refused(run(&file).args(["--memory", "2M", "--flat", "0x1000"]), &["large"]);
    });
    if is_root() {
        trials.add("kernel_without_permission", || {
            let folder = Folder::new();
            let file = folder.file("secret", b"\x7fELF");
            fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
            let (_copy, mut command) = as_nobody(&["run", "--accel", "soft"]);
            refused(command.arg(&file), &["secret", "Permission denied"]);
        });
    } else {
        trials.ignored("kernel_without_permission", "only root can make a file that the child may not read");
    }
}

fn add_cut_elf_files(trials: &mut Trials) {
    trials.add("elf_cut_anywhere", || {
        let folder = Folder::new();
        for source in ["ok-elf.elf", "multiboot.elf", "pvh.elf"] {
            let whole = fs::read(tiny(source)).expect("a tiny guest");
            // Inside the identification, the header, the program headers, and segments.
            for size in [4, 8, 20, 40, 63, 64, 70, 100, 119, 120, 200, whole.len() / 2] {
                let name = format!("{source}-{size}");
                let file = folder.file(&name, &whole[..size.min(whole.len() - 1)]);
                refused(&mut run(&file), &[&name]);
            }
        }
    });
    // Offsets in a 64-bit ELF file: p_offset, p_vaddr, p_paddr, p_filesz, p_memsz of the first header.
    for (name, field, value) in [
        ("segment_outside_memory", 0x58, 0x40_0000_0000_u64),
        ("segment_in_the_mmio_hole", 0x58, 0xfee0_0000),
        ("segment_at_the_end_of_addresses", 0x58, u64::MAX - 0xfff),
        ("segment_data_outside_the_file", 0x48, 0x1000_0000),
        ("segment_data_wraps_around", 0x48, u64::MAX - 8),
        ("segment_larger_than_memory", 0x68, 1 << 40),
        ("segment_size_wraps_around", 0x68, u64::MAX),
        ("segment_file_size_above_memory_size", 0x60, u64::MAX),
    ] {
        trials.add(name, move || {
            let folder = Folder::new();
            let mut elf = fs::read(tiny("ok-elf.elf")).expect("a tiny guest");
            elf[field..field + 8].copy_from_slice(&value.to_le_bytes());
            refused(&mut run(&folder.file("patched", &elf)), &["patched"]);
        });
    }
    trials.add("elf_of_another_machine", || {
        let folder = Folder::new();
        let mut elf = fs::read(tiny("ok-elf.elf")).expect("a tiny guest");
        elf[18] = 0xb7; // EM_AARCH64
        refused(&mut run(&folder.file("arm", &elf)), &["AArch64"]);
    });
}

fn add_initrds_and_command_lines(trials: &mut Trials) {
    let kernel = || run(&tiny("ok-elf.elf"));
    trials.add("missing_initrd", move || {
        refused(kernel().args(["--initrd", "no/such/initrd"]), &["no/such/initrd", "No such file"]);
    });
    trials.add("initrd_that_does_not_fit", move || {
        let folder = Folder::new();
        let initrd = folder.path("initrd.cpio");
        fs::File::create(&initrd).unwrap().set_len(64 << 20).unwrap();
        refused(kernel().args(["--memory", "32M", "--initrd"]).arg(&initrd), &["initrd.cpio"]);
    });
    trials.add("initrd_larger_than_any_memory", move || {
        let folder = Folder::new();
        let initrd = folder.path("initrd.cpio");
        if fs::File::create(&initrd).unwrap().set_len(1 << 43).is_ok() {
            refused(kernel().arg("--initrd").arg(&initrd), &["initrd.cpio"]);
        }
    });
    trials.add("command_line_too_long", move || {
        let long = "x".repeat(70_000);
        let line = refused(kernel().args(["--cmdline", &long]), &["command line"]);
        assert!(line.len() < 1000, "the line repeats the command line");
    });
    trials.add("missing_module", || {
        let mut command = run(&tiny("multiboot.elf"));
        refused(command.args(["--module", "no/such/module,root"]), &["no/such/module"]);
    });
}

fn add_memory(trials: &mut Trials) {
    // A host that overcommits gives any amount, and then the guest must run; one that does not refuses.
    for memory in ["100G", "1023G"] {
        trials.add_each(&format!("memory_{memory}"), move |backend| {
            let mut command = vm_accel(["run", "--accel", &backend.kind, "--memory", memory]);
            let ended = end_of(command.args(["--timeout", "20s"]).arg(tiny("ok-elf.elf")));
            if ended.code == Some(0) {
                ended.printed("OK\n");
            } else {
                is_refusal(&ended, &["memory"]);
            }
        });
    }
    trials.add("memory_that_the_host_refuses", || {
        let mut command = run(&tiny("ok-elf.elf"));
        command.args(["--memory", "8G"]);
        // SAFETY: setrlimit is async-signal-safe and reads one struct.
        unsafe {
            command.pre_exec(|| {
                let limit = libc::rlimit { rlim_cur: 4 << 30, rlim_max: 4 << 30 };
                match libc::setrlimit(libc::RLIMIT_AS, &raw const limit) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        refused(&mut command, &["8192 MiB", "--memory"]);
    });
    trials.add_each("memory_too_small_for_the_kernel", |backend| {
        let mut command = vm_accel(["run", "--accel", &backend.kind, "--memory", "1M"]);
        refused(command.arg(tiny("ok-elf.elf")), &["ok-elf.elf"]);
    });
}

fn add_outputs(trials: &mut Trials) {
    trials.add("stdout_is_full", || {
        let full = OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let ended = end_of(run(&tiny("ok-elf.elf")).stdout(full));
        is_refusal(&ended, &["output is lost", "stdout", "No space left"]);
    });
    trials.add("reader_of_stdout_is_gone", || {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let ended = end_of(run(&tiny("ok-elf.elf")).stdout(Stdio::from(writer)));
        is_refusal(&ended, &["output is lost", "stdout"]);
    });
    trials.add("reader_of_stdout_goes_while_the_guest_prints", || {
        let file = Code::new().bytes(&[0xba, 0xf8, 0x03, 0xb0, b'x', 0xee, 0xeb, 0xfd]).file();
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let mut command = run(&file);
        let running = Run::start(command.args(["--flat", "0x1000"]).stdout(Stdio::from(writer)));
        drop((command, reader));
        is_refusal(&running.end(), &["output is lost", "stdout"]);
    });
    trials.add("full_stdout_does_not_matter_to_a_silent_guest", || {
        let full = OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let file = Code::new().exit(5).file();
        end_of(run(&file).args(["--flat", "0x1000"]).stdout(full)).expect(5, &[]);
    });
    trials.add("serial_file_in_a_missing_directory", || {
        let mut command = run(&tiny("ok-elf.elf"));
        refused(command.args(["--serial", "file:/no/such/folder/log"]), &["/no/such/folder/log"]);
    });
    trials.add("serial_file_on_a_full_disk", || {
        let mut command = run(&tiny("ok-elf.elf"));
        refused(command.args(["--serial", "file:/dev/full"]), &["/dev/full", "No space left"]);
    });
}

fn is_root() -> bool {
    // SAFETY: it takes and touches nothing.
    unsafe { libc::geteuid() == 0 }
}

/// The binary in a place that an unprivileged user can reach, to be run as that user.
fn as_nobody(args: &[&str]) -> (Folder, Command) {
    let folder = Folder::new();
    let program = folder.path("vm-accel");
    fs::copy(PROGRAM, &program).expect("a copy of the binary");
    let mut command = Command::new(program);
    command.args(args).env_clear().uid(NOBODY).gid(NOBODY).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    (folder, command)
}

fn add_denied_kvm(trials: &mut Trials) {
    let names = ["kvm_denied", "auto_goes_on_without_kvm"];
    let obstacle = match fs::metadata("/dev/kvm") {
        Err(error) => Some(format!("/dev/kvm: {error}")),
        Ok(kvm) if kvm.permissions().mode() & 0o006 == 0o006 => Some("/dev/kvm is open to everybody".into()),
        Ok(_) if !is_root() => Some("only root can become another user".to_owned()),
        Ok(_) => None,
    };
    if let Some(reason) = obstacle {
        names.into_iter().for_each(|name| trials.ignored(name, &reason));
        return;
    }
    trials.add(names[0], || {
        let (_copy, mut command) = as_nobody(&["run", "--accel", "kvm"]);
        refused(&mut command, &["/dev/kvm", "Permission denied", "group `kvm`", "setfacl"]);
    });
    trials.add(names[1], || {
        let (_copy, mut command) = as_nobody(&["run", "--accel", "auto", "--timeout", "20s"]);
        // The built-in guest: other users may not be able to reach the project's folder.
        let ended = end_of(&mut command);
        ended.expect(0, &["soft", "status 0"]);
        let lines: Vec<&str> = ended.stderr.lines().collect();
        assert_eq!(lines.len(), 2, "{}", ended.stderr);
        for word in ["the software CPU, because", "/dev/kvm", "Permission denied"] {
            assert!(lines[0].contains(word), "{}", ended.stderr);
        }
    });
}

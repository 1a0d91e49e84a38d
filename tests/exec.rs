//! `vm-accel exec`: commands of this host in a guest with a stock Debian kernel, on each backend that runs
//! kernel-mode code as a processor does; and what goes wrong before there is a guest.
//!
//! `images/fetch-debian` gets the kernel. Where it cannot, the tests are ignored and say why.

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use support::{Backend, Ended, Run, TINY, TINY_ARM64, Trials, built, end_of, vm_accel};

/// Ends a guest that hangs.
const LIMIT: &str = "150s";
/// Ends a `vm-accel` that hangs.
const DEADLINE: Duration = Duration::from_secs(170);

fn main() -> ExitCode {
    let mut trials = Trials::new();
    trials.add("refusals", refusals);
    // The guest is one of the host's own architecture.
    let (debian, backends) = match std::env::consts::ARCH {
        "aarch64" => (built::debian_arm64(), trials.arm64_backends()),
        _ => (built::debian(), trials.backends()),
    };
    for backend in backends {
        let all = format!("{}::all", backend.kind);
        let folder = match &debian {
            Err(reason) => {
                trials.ignored(all, reason);
                continue;
            }
            Ok(_) if backend.merely_emulates() => {
                trials.ignored(all, "merely emulates kernel mode; no stock kernel boots on it");
                continue;
            }
            Ok(folder) => folder.clone(),
        };
        let guest = Guest { folder, backend };
        for (what, test) in [
            ("version", Guest::version as fn(&Guest)),
            ("statuses", Guest::statuses),
            ("streams_are_apart", Guest::streams_are_apart),
            ("input_round_trip", Guest::input_round_trip),
            ("input_answer_by_answer", Guest::input_answer_by_answer),
            ("files", Guest::files),
            ("environment", Guest::environment),
            ("orphans", Guest::orphans),
            ("bad_starts", Guest::bad_starts),
            ("timeout", Guest::timeout),
            ("panic", Guest::panic),
            ("power_off_is_no_success", Guest::power_off_is_no_success),
            ("lost_output", Guest::lost_output),
            ("console", Guest::console),
        ] {
            let guest = guest.clone();
            trials.add(format!("{}::{what}", guest.backend.kind), move || test(&guest));
        }
    }
    trials.run()
}

/// A kernel on a backend.
#[derive(Clone)]
struct Guest {
    folder: PathBuf,
    backend: Backend,
}

impl Guest {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = vm_accel(["exec", "--accel", &self.backend.kind, "--memory", "256M"]);
        if !args.contains(&"--timeout") {
            command.args(["--timeout", LIMIT]);
        }
        command.args(args).env("VM_ACCEL_KERNEL", self.folder.join("vmlinuz"));
        command
    }

    fn exec(&self, args: &[&str]) -> Ended {
        Run::start_with(&mut self.command(args), DEADLINE).end()
    }

    fn version(&self) {
        let release = fs::read_to_string(self.folder.join("release")).unwrap();
        let ended = self.exec(&["--", "uname", "-r"]);
        ended.expect(0, &[]).printed(&release);
        assert_eq!(ended.stderr, "");
    }

    fn statuses(&self) {
        for status in [0, 7, 120, 122, 124, 125, 126, 127, 255] {
            let ended = self.exec(&["--", "sh", "-c", &format!("exit {status}")]);
            ended.expect(status, &[]).printed("");
            assert_eq!(ended.stderr, "");
        }
        for (signal, status) in [("KILL", 137), ("SEGV", 139), ("TERM", 143)] {
            let ended = self.exec(&["--", "sh", "-c", &format!("kill -s {signal} $$")]);
            ended.expect(status, &[]);
            assert_eq!(ended.stderr, "");
        }
    }

    fn streams_are_apart(&self) {
        let ended = self.exec(&["--", "sh", "-c", "echo one; echo two >&2; echo three"]);
        ended.expect(0, &[]).printed("one\nthree\n");
        assert_eq!(ended.stderr, "two\n");
    }

    /// Every byte value, in both directions, and the input's end.
    fn input_round_trip(&self) {
        let content: Vec<u8> =
            (0..1_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&content).unwrap();
        let open = || Stdio::from(fs::File::open(file.path()).unwrap());
        let ended = Run::start_with(self.command(&["--", "cat"]).stdin(open()), DEADLINE).end();
        ended.expect(0, &[]);
        assert!(ended.stdout == content, "{} bytes came back", ended.stdout.len());
        let ended = Run::start_with(self.command(&["--", "wc", "-c"]).stdin(open()), DEADLINE).end();
        ended.expect(0, &[]).printed("1048576\n");
        // A command that reads none of it ends all the same.
        Run::start_with(self.command(&["--", "true"]).stdin(open()), DEADLINE).end().expect(0, &[]);
    }

    fn input_answer_by_answer(&self) {
        let script = "while read line; do echo \"<$line>\"; done; echo end";
        let mut run =
            Run::start_with(self.command(&["--", "sh", "-c", script]).stdin(Stdio::piped()), DEADLINE);
        let mut stdin = run.stdin();
        for word in ["first", "second", "third"] {
            writeln!(stdin, "{word}").unwrap();
            run.wait_for(&format!("<{word}>\n"));
        }
        drop(stdin);
        run.end().expect(0, &[]).printed("<first>\n<second>\n<third>\nend\n");
    }

    fn files(&self) {
        let host = tempfile::tempdir().unwrap();
        let path = |name: &str| host.path().join(name);
        fs::create_dir(path("sub")).unwrap();
        fs::write(path("sub/file"), b"content\n").unwrap();
        std::os::unix::fs::symlink("sub/file", path("link")).unwrap();
        script(&path("tool"), "#!/bin/sh\necho tool: \"$@\"\n");
        let copy = format!("{}:/data", host.path().display());
        let file = format!("{}:/one/", path("sub/file").display());
        let words = "cat /data/link /one/file; readlink /data/link; ls -dl / /tmp; /data/tool x";
        let ended = self.exec(&[
            "--copy", &copy, "--copy", &file, "--with", "cat", "--with", "ls", "--with", "readlink", "--",
            "sh", "-c", words,
        ]);
        let text = String::from_utf8_lossy(&ended.expect(0, &[]).stdout).into_owned();
        assert!(text.starts_with("content\ncontent\nsub/file\ndrwxr-xr-x"), "{text}");
        assert!(text.contains("drwxrwxrwt") && text.ends_with("tool: x\n"), "{text}");
        // A script is a command, too.
        let tool = path("tool");
        self.exec(&["--", tool.to_str().unwrap(), "a b"]).expect(0, &[]).printed("tool: a b\n");
    }

    fn environment(&self) {
        let words =
            "echo $A $HOME; pwd; echo \"$#\" \"$1\"; [ -d /proc/1 ] && [ -c /dev/null ] && [ -d /sys/class ]";
        let args = ["--env", "A=b=c", "--workdir", "/tmp", "--", "sh", "-c", words, "sh", "", "*"];
        self.exec(&args).expect(0, &[]).printed("b=c /root\n/tmp\n2 \n");
        let ended = self.exec(&["--cpus", "2", "--", "nproc"]);
        ended.expect(0, &[]).printed("2\n");
    }

    /// What a command leaves running does not keep the guest, and what it has written is not lost.
    fn orphans(&self) {
        let ended = self.exec(&["--with", "sleep", "--", "sh", "-c", "(sleep 1000 &) ; echo done; exit 3"]);
        ended.expect(3, &[]).printed("done\n");
        let ended = self.exec(&[
            "--with",
            "true",
            "--",
            "sh",
            "-c",
            "i=0; while [ $i -lt 50 ]; do (true &); i=$((i + 1)); done",
        ]);
        ended.expect(0, &[]);
    }

    fn bad_starts(&self) {
        self.exec(&["--workdir", "/nowhere", "--", "true"]).expect(125, &["--workdir", "No such file"]);
        // The name is right, the content is not: the guest's kernel says so.
        let file = tempfile::tempdir().unwrap();
        let broken = file.path().join("broken");
        let mut content = fs::read("/proc/self/exe").unwrap();
        content.truncate(64);
        fs::write(&broken, content).unwrap();
        executable(&broken);
        let ended = self.exec(&["--", broken.to_str().unwrap()]);
        ended.expect(125, &["damaged ELF"]);
    }

    fn timeout(&self) {
        let ended = self.exec(&["--timeout", "8s", "--", "sleep", "1000"]);
        ended.expect(124, &["timeout", "before the command ended"]).printed("");
    }

    fn panic(&self) {
        let ended = self.exec(&["--", "sh", "-c", "echo before; echo c > /proc/sysrq-trigger; exit 0"]);
        ended.expect(120, &["panicked"]);
        assert!(ended.stderr.contains("Kernel panic - not syncing"), "{ended:?}");
    }

    fn power_off_is_no_success(&self) {
        let ended =
            self.exec(&["--with", "sleep", "--", "sh", "-c", "echo o > /proc/sysrq-trigger; sleep 100"]);
        ended.expect(125, &["powered off before the command ended"]);
    }

    fn lost_output(&self) {
        let mut command = self.command(&["--", "yes"]);
        command.stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
        Run::start_with(&mut command, DEADLINE).end().expect(125, &["output is lost"]);
    }

    fn console(&self) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("console");
        let ended = self.exec(&["--console", file.to_str().unwrap(), "--", "echo", "out"]);
        ended.expect(0, &[]).printed("out\n");
        assert_eq!(ended.stderr, "");
        assert!(fs::read_to_string(file).unwrap().contains("Linux version"));
        let ended = self.exec(&["--console", "stderr", "--cmdline-append", "mark=1", "--", "echo", "out"]);
        ended.expect(0, &[]).printed("out\n");
        assert!(ended.stderr.contains("Linux version") && ended.stderr.contains("mark=1"), "{ended:?}");
    }
}

fn script(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    executable(path);
}

fn executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// What is wrong before there is a guest.
fn refusals() {
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad");
    script(&bad, "#!/no/such/interpreter\n");
    let bad = bad.to_str().unwrap();
    let (other, name) = match std::env::consts::ARCH {
        "aarch64" => (format!("{TINY}/ok-elf.elf"), "ok-elf.elf is no kernel for AArch64"),
        _ => (format!("{TINY_ARM64}/ok.elf"), "ok.elf is no kernel for x86-64"),
    };
    for (args, status, words) in [
        (&["--kernel", "/dev/null", "--", "no-such-command-of-ours"][..], 127, "command not found"),
        (&["--kernel", "/dev/null", "--", "/etc/passwd"], 126, "chmod"),
        (&["--kernel", "/dev/null", "--", bad], 126, "/no/such/interpreter"),
        (&["--kernel", "/no/kernel", "--", "true"], 125, "/no/kernel"),
        (&["--kernel", &other, "--", "true"], 125, name),
        (&["--kernel", "x", "--copy", "a:b", "--", "true"], 125, "--copy a:b"),
        (&["--kernel", "x", "--copy", "/no/such:/x", "--", "true"], 125, "/no/such"),
        (&["--kernel", "x", "--with", "no-such-command-of-ours", "--", "true"], 125, "--with"),
        (&["--kernel", "x", "--env", "=x", "--", "true"], 125, "--env"),
        (&["--kernel", "x", "--cpus", "0", "--", "true"], 125, "1 to 255"),
        (&["--kernel", "x"], 125, "For more information"),
    ] {
        let ended = end_of(vm_accel(["exec", "--accel", "soft"]).args(args));
        ended.expect(status, &[words]).printed("");
    }
}

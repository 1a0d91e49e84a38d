//! A stock Debian kernel, bzImage and vmlinux, to a busybox init and through work in user space, on each
//! backend that runs kernel-mode code as a processor does.
//!
//! `images/fetch-debian` gets kernel and userland. Where it cannot, the tests are ignored and say why.

mod support;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use support::{Backend, Ended, PROGRAM, Run, Trials, built, command_of};

/// Ends a guest that hangs.
const LIMIT: &str = "240s";
/// Ends a `vm-accel` that hangs.
const DEADLINE: Duration = Duration::from_secs(260);

/// Work for the user space, and what it prints. It goes through the kernel's command line in double
/// quotes, so there are none inside.
const WORK: [(&str, &str, &str); 6] = [
    (
        "sha256sum",
        "seq 1 100000 | sha256sum",
        "b2bc7d3f8b652d2ec96865b68ad8f80e22cca174abe1aed7889e242a747d590f",
    ),
    ("awk", "seq 1 1000 | awk '{ s += $1 * $1 } END { print s / 8 * 10 }'", "417291875"),
    ("gzip", "seq 1 50000 | gzip | gzip -d | md5sum; seq 1 50000 | md5sum", ""),
    ("fork", "i=0; while [ $i -lt 200 ]; do (exit 3); i=$((i + 1)); done; echo $i-forks", "200-forks"),
    ("dd", "dd if=/dev/zero of=/tmp/f bs=1M count=16; wc -c /tmp/f", "16777216 /tmp/f"),
    ("random", "head -c 100000 /dev/urandom | wc -c", "100000"),
];

fn main() -> ExitCode {
    let mut trials = Trials::new();
    let debian = built::debian();
    for backend in trials.backends() {
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
        let guest = Debian { folder, backend };
        let name = |what: &str| format!("{}::{what}", guest.backend.kind);
        for (what, kernel, args) in [
            ("bzimage", "vmlinuz", &[][..]),
            ("bzimage_that_unpacks_itself", "vmlinuz", &["--no-decompress"]),
            ("vmlinux", "vmlinux", &[]),
            ("two_cpus", "vmlinuz", &["--cpus", "2"]),
        ] {
            let guest = guest.clone();
            trials.add(name(what), move || {
                let ended = guest.boot(kernel, args, "");
                let cpus = if args.contains(&"2") { 2 } else { 1 };
                shows(ended.expect(0, &["powered off"]), &format!("{cpus} CPUs"));
            });
        }
        let again = guest.clone();
        trials.add(name("reboot"), move || {
            again.boot("vmlinuz", &[], "vmaccel.do=reboot").expect(0, &["reset"]);
        });
        for (what, does) in [("panic", "panic"), ("init_dies", "crash")] {
            let guest = guest.clone();
            trials.add(name(what), move || {
                // Linux's default is to wait for ever after a panic; the other way is to reset.
                for more in ["", " panic=-1"] {
                    let ended = guest.boot("vmlinuz", &[], &format!("vmaccel.do={does}{more}"));
                    shows(ended.expect(120, &["panicked"]), "Kernel panic - not syncing");
                }
            });
        }
        for cpus in ["1", "2"] {
            let guest = guest.clone();
            trials.add(name(&format!("user_space_with_{cpus}_cpus")), move || guest.work(cpus));
        }
        let button = guest.clone();
        trials.add(name("power_button"), move || button.power_button());
        let shell = guest.clone();
        trials.add(name("shell"), move || shell.shell());
    }
    trials.run()
}

/// Checks that the guest has printed `text`.
#[track_caller]
fn shows(ended: &Ended, text: &str) {
    assert!(String::from_utf8_lossy(&ended.stdout).contains(text), "no `{text}`: {ended:#?}");
}

/// The guest on one backend.
#[derive(Clone)]
struct Debian {
    folder: PathBuf,
    backend: Backend,
}

impl Debian {
    fn command(&self, kernel: &str, args: &[&str], words: &str) -> Command {
        // Without optimization a software CPU takes minutes for a boot.
        let program = built::static_binary().unwrap_or_else(|_| PathBuf::from(PROGRAM));
        let args_of_all = ["run", "--accel", &self.backend.kind, "--memory", "256M", "--timeout", LIMIT];
        let mut command = command_of(&program, args_of_all);
        command.args(args);
        command.args(["--cmdline", &format!("console=ttyS0 {words}")]).arg("--initrd");
        command.arg(self.folder.join("initramfs.cpio")).arg(self.folder.join(kernel));
        command
    }

    /// Boots to the init and to the end.
    fn boot(&self, kernel: &str, args: &[&str], words: &str) -> Ended {
        let ended = Run::start_with(&mut self.command(kernel, args, words), DEADLINE).end();
        shows(&ended, "vm-accel: init reached, Linux 6.");
        ended
    }

    /// One boot that does all the work, each piece between marks.
    fn work(&self, cpus: &str) {
        let script: String = WORK
            .iter()
            .map(|(name, command, _)| format!("echo '<{name}>'; {command}; echo '</{name}>'; "))
            .collect();
        let ended = self.boot("vmlinuz", &["--cpus", cpus], &format!("quiet vmaccel.run=\"{script}\""));
        shows(ended.expect(0, &["powered off"]), "run ended with 0");
        let stdout = String::from_utf8_lossy(&ended.stdout).replace('\r', "");
        for (name, _, expected) in WORK {
            let (from, to) = (format!("\n<{name}>\n"), format!("</{name}>\n"));
            let part = stdout.split_once(&from).and_then(|(_, rest)| rest.split_once(&to));
            let part = part.unwrap_or_else(|| panic!("{name} has not run: {ended:?}")).0;
            assert!(part.contains(expected), "{name}: {part}");
            if name == "gzip" {
                let sums: Vec<&str> = part.lines().filter(|line| line.ends_with("-")).collect();
                assert!(sums.len() == 2 && sums[0] == sums[1], "{name}: {part}");
            }
        }
    }

    /// SIGTERM presses the power button, and the guest's user space powers off as it does for a user.
    fn power_button(&self) {
        let mut run = Run::start_with(
            &mut self.command("vmlinuz", &["--grace", "200s"], "quiet vmaccel.do=login"),
            DEADLINE,
        );
        run.wait_for("login: ");
        run.signal(libc::SIGTERM);
        let ended = run.end();
        shows(ended.expect(0, &["powered off"]), "Requesting system poweroff");
    }

    /// Types into the guest's shell and reads its answers.
    fn shell(&self) {
        let mut command = self.command("vmlinuz", &[], "quiet vmaccel.do=shell");
        let mut run = Run::start_with(command.stdin(Stdio::piped()), DEADLINE);
        run.wait_for("# ");
        let mut stdin = run.stdin();
        for (typed, answer) in [("echo $((6 * 7))-is-it\n", "42-is-it"), ("exit\n", "exit")] {
            stdin.write_all(typed.as_bytes()).expect("the guest's terminal takes input");
            run.wait_for(answer);
        }
        run.end().expect(0, &["powered off"]);
    }
}

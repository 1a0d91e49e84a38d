//! Runs the program on real KVM in an emulated machine, by `images/rig-nested-kvm`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::manifest::TinyGuest;
use super::{Ended, PROJECT, Run};

/// Seconds after which the rig ends its machine.
const LIMIT: u32 = 580;
/// Ends a rig that does not.
const DEADLINE: Duration = Duration::from_secs(600);
/// The rig's status when the host lacks something.
const MISSING: Option<i32> = Some(3);

/// What the rig says when its machine has reset itself. The processors that QEMU emulates do that now and then
/// when their hypervisor is used, whatever runs on it, so it says nothing of the program.
const RESET: &str = "rig-nested-kvm: L1 ended before the command did";
/// Times that a machine may do so.
const RESETS: usize = 3;

/// What the script in the rig prints before a run's name, its status, and its stderr.
const MARKS: [&str; 3] = ["@@guest ", "@@status ", "@@stderr\n"];

/// An emulated machine with KVM.
pub struct Machine {
    /// The rig's name for it.
    pub name: &'static str,
    /// The program, built for it.
    pub binary: PathBuf,
}

impl Machine {
    /// Runs `words` there with `files` beside; `Err` says what is missing here.
    pub fn run(&self, cpus: u32, files: &[PathBuf], words: &[&str]) -> Result<Ended, String> {
        let mut command = Command::new(Path::new(PROJECT).join("images/rig-nested-kvm"));
        command.args(["--machine", self.name, "--smp", &cpus.to_string(), "--timeout", &LIMIT.to_string()]);
        command.arg("--binary").arg(&self.binary);
        for file in files {
            command.arg("--file").arg(file);
        }
        command.arg("--").args(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut ended = Run::start_with(&mut command, DEADLINE).end();
        for _ in 0..RESETS {
            if !ended.stderr.contains(RESET) {
                break;
            }
            eprintln!("the rig's machine {} has reset itself; once more", self.name);
            ended = Run::start_with(&mut command, DEADLINE).end();
        }
        if ended.code == MISSING && ended.stdout.is_empty() {
            return Err(ended.stderr.lines().last().unwrap_or("the rig lacks something").to_owned());
        }
        Ok(ended)
    }

    /// Runs tiny guests, whose files are in `folder`, and further commands, which want `files`, one after the
    /// other in one boot; answers how each ended by its name.
    pub fn run_each(
        &self,
        guests: &[TinyGuest],
        folder: &Path,
        commands: &[(&str, &[&str])],
        files: &[&str],
    ) -> Result<HashMap<String, Ended>, String> {
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
        let mut files: Vec<PathBuf> = files.iter().map(|file| Path::new(PROJECT).join(file)).collect();
        for guest in guests {
            add(&guest.name, &guest.args("kvm", Path::new("")));
            files.push(folder.join(&guest.file));
        }
        for (name, words) in commands {
            add(name, &words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>());
        }
        let work = tempfile::tempdir().expect("a temporary directory");
        let path = work.path().join("guests.sh");
        std::fs::write(&path, script).expect("the script is written");
        files.push(path);
        let ended = self.run(2, &files, &["sh", "guests.sh"])?;
        let stdout = String::from_utf8_lossy(&ended.stdout);
        let ends: HashMap<String, Ended> = stdout.split(guest_mark).skip(1).filter_map(parse).collect();
        assert!(!ends.is_empty(), "no guest has run: {ended:?}");
        Ok(ends)
    }
}

/// One run's name and end from what the script printed between two marks.
fn parse(text: &str) -> Option<(String, Ended)> {
    let [_, status_mark, stderr_mark] = MARKS;
    let (name, rest) = text.split_once('\n')?;
    let (status, rest) = rest.strip_prefix(status_mark)?.split_once('\n')?;
    let (stdout, stderr) = rest.split_once(stderr_mark)?;
    let ended = Ended { code: status.parse().ok(), stdout: stdout.into(), stderr: stderr.to_owned() };
    Some((name.to_owned(), ended))
}

//! Runs the program on real KVM in an emulated machine, by `images/rig-nested-kvm`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::manifest::TinyGuest;
use super::{Ended, PROJECT, Run};

/// Seconds after which the rig ends its machine: one that runs one guest, and one that runs all of them.
const LIMITS: [u32; 2] = [280, 580];
/// The rig's status when the host lacks something.
const MISSING: Option<i32> = Some(3);
/// What the rig says when its machine has reset itself, or hangs. One whose CPUs run at the same time does
/// (see the rig's `--in-turn`) about once in 300 virtual machines, so it is started a second time.
const BROKEN: [&str; 2] =
    ["rig-nested-kvm: L1 ended before the command did", "rig-nested-kvm: not ended after"];

/// What the script in the rig prints before a run's name, its status, and its stderr.
const MARKS: [&str; 3] = ["@@guest ", "@@status ", "@@stderr\n"];

/// An emulated machine with KVM.
pub struct Machine {
    /// The rig's name for it.
    pub name: &'static str,
    /// The program, built for it.
    pub binary: PathBuf,
    /// Whether its CPUs run in turn where it runs many guests.
    pub in_turn: bool,
}

impl Machine {
    /// Runs `words`, which start one virtual machine, there with `files` beside; `Err` says what is missing
    /// here.
    pub fn run(&self, cpus: u32, files: &[PathBuf], words: &[&str]) -> Result<Ended, String> {
        let [limit, _] = LIMITS;
        let ended = self.start(cpus, limit, &[], files, words)?;
        if cpus == 1 || !BROKEN.iter().any(|broken| ended.stderr.contains(broken)) {
            return Ok(ended);
        }
        eprintln!("the rig's machine {} is started once more: {}", self.name, ended.stderr);
        self.start(cpus, limit, &[], files, words)
    }

    fn start(
        &self,
        cpus: u32,
        limit: u32,
        flags: &[&str],
        files: &[PathBuf],
        words: &[&str],
    ) -> Result<Ended, String> {
        let mut command = Command::new(Path::new(PROJECT).join("images/rig-nested-kvm"));
        command.args(["--machine", self.name, "--smp", &cpus.to_string(), "--timeout", &limit.to_string()]);
        command.args(flags).arg("--binary").arg(&self.binary);
        for file in files {
            command.arg("--file").arg(file);
        }
        command.arg("--").args(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let deadline = Duration::from_secs(u64::from(limit) + 20);
        let ended = Run::start_with(&mut command, deadline).end();
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
        let quoted = |args: &[String]| args.iter().map(|word| format!(" '{word}'")).collect::<String>();
        let mut lines = Vec::new();
        let mut files: Vec<PathBuf> = files.iter().map(|file| Path::new(PROJECT).join(file)).collect();
        for guest in guests {
            let args = guest.args("kvm", Path::new(""));
            lines.push((guest.name.clone(), format!("vm-accel{}", quoted(&args))));
            files.push(folder.join(&guest.file));
        }
        for (name, words) in commands {
            let args: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            lines.push(((*name).to_owned(), format!("vm-accel{}", quoted(&args))));
        }
        self.run_lines(2, "", &lines, files)
    }

    /// Runs lines of shell, each with its name, one after the other in one boot, after the line `before`;
    /// answers how each ended by its name.
    pub fn run_lines(
        &self,
        cpus: u32,
        before: &str,
        lines: &[(String, String)],
        mut files: Vec<PathBuf>,
    ) -> Result<HashMap<String, Ended>, String> {
        let [guest_mark, status_mark, stderr_mark] = MARKS;
        let mut script = format!("{before}\n");
        for (name, line) in lines {
            writeln!(script, "{{ {line}; }} > /tmp/out 2> /tmp/err; status=$?").expect("text");
            writeln!(script, "echo '{guest_mark}{name}'; echo \"{status_mark}$status\"; cat /tmp/out")
                .expect("text");
            writeln!(script, "echo; echo '{}'; cat /tmp/err", stderr_mark.trim_end()).expect("text");
        }
        let work = tempfile::tempdir().expect("a temporary directory");
        let path = work.path().join("guests.sh");
        std::fs::write(&path, script).expect("the script is written");
        files.push(path);
        let [_, limit] = LIMITS;
        let flags: &[&str] = if self.in_turn { &["--in-turn"] } else { &[] };
        let ended = self.start(cpus, limit, flags, &files, &["sh", "guests.sh"])?;
        let stdout = String::from_utf8_lossy(&ended.stdout);
        let ends: HashMap<String, Ended> = stdout.split(guest_mark).skip(1).filter_map(parse).collect();
        assert!(!ends.is_empty(), "no guest has run: {ended:?}");
        if ended.code != Some(0) {
            eprintln!("the rig's machine {} has not run them all: {}", self.name, ended.stderr);
        }
        Ok(ends)
    }
}

/// One run's name and end from what the script printed between two marks.
fn parse(text: &str) -> Option<(String, Ended)> {
    let [_, status_mark, stderr_mark] = MARKS;
    let (name, rest) = text.split_once('\n')?;
    let (status, rest) = rest.strip_prefix(status_mark)?.split_once('\n')?;
    let (stdout, stderr) = rest.split_once(stderr_mark)?;
    // The newline before the mark is the script's.
    let stdout = stdout.strip_suffix('\n')?;
    let ended = Ended { code: status.parse().ok(), stdout: stdout.into(), stderr: stderr.to_owned() };
    Some((name.to_owned(), ended))
}

//! Runs the program on real KVM in an emulated machine, by `images/rig-nested-kvm`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::manifest::TinyGuest;
use super::{Ended, PROJECT, Run};

/// Seconds after which the rig ends its machine.
const LIMIT: u32 = 280;
/// Ends a rig that does not.
const DEADLINE: Duration = Duration::from_secs(300);
/// The rig's status when the host lacks something.
const MISSING: Option<i32> = Some(3);
/// What the rig says when its machine has broken down: QEMU 7.2 now and then aborts when its x86-64 processor's
/// virtualization is used ("assertion failed: (qemu_mutex_iothread_locked())"). A machine whose kernel hangs says the
/// second.
const BROKEN: [&str; 2] =
    ["rig-nested-kvm: L1 ended before the command did", "rig-nested-kvm: not ended after"];
/// How often a machine that breaks down is started, for the same guests.
const STARTS: usize = 3;

/// What the script in the rig prints before a run's name, its status and its stderr, and after that.
const MARKS: [&str; 4] = ["@@guest ", "@@status ", "@@stderr\n", "@@end\n"];

/// An emulated machine with KVM.
pub struct Machine {
    /// The rig's name for it.
    pub name: &'static str,
    /// The program, built for it.
    pub binary: PathBuf,
    /// Its CPUs. The guests may have more.
    pub cpus: u32,
}

impl Machine {
    /// Runs `words` there with `files` beside; `Err` says what is missing here.
    pub fn run(&self, files: &[PathBuf], words: &[&str]) -> Result<Ended, String> {
        let mut ended = self.start(files, words)?;
        for _ in 1..STARTS {
            if !self.has_broken_down(&ended) {
                break;
            }
            ended = self.start(files, words)?;
        }
        Ok(ended)
    }

    /// Whether it has, which is said on stderr.
    fn has_broken_down(&self, ended: &Ended) -> bool {
        let broken = BROKEN.iter().any(|broken| ended.stderr.contains(broken));
        if broken {
            eprintln!("the rig's machine {} has broken down: {}", self.name, ended.stderr);
        }
        broken
    }

    fn start(&self, files: &[PathBuf], words: &[&str]) -> Result<Ended, String> {
        let mut command = Command::new(Path::new(PROJECT).join("images/rig-nested-kvm"));
        command.args([
            "--machine",
            self.name,
            "--smp",
            &self.cpus.to_string(),
            "--timeout",
            &LIMIT.to_string(),
        ]);
        command.arg("--binary").arg(&self.binary);
        for file in files {
            command.arg("--file").arg(file);
        }
        command.arg("--").args(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let ended = Run::start_with(&mut command, DEADLINE).end();
        if ended.code == MISSING && ended.stdout.is_empty() {
            return Err(ended.stderr.lines().last().unwrap_or("the rig lacks something").to_owned());
        }
        Ok(ended)
    }

    /// Runs tiny guests, whose files are in `folder`, and further commands, which want `files`, one after the
    /// other in one boot; answers how each ended by its name. A guest without an answer has not been run.
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
        self.run_lines("", &lines, files)
    }

    /// Runs lines of shell, each with its name, one after the other in one boot, after the line `before`;
    /// answers how each ended by its name. If the machine breaks down, another one runs what is left.
    pub fn run_lines(
        &self,
        before: &str,
        lines: &[(String, String)],
        mut files: Vec<PathBuf>,
    ) -> Result<HashMap<String, Ended>, String> {
        let [guest_mark, ..] = MARKS;
        let work = tempfile::tempdir().expect("a temporary directory");
        let path = work.path().join("guests.sh");
        files.push(path.clone());
        let mut ends = HashMap::new();
        let mut starts_in_vain = 0;
        while starts_in_vain < STARTS {
            let left = lines.iter().filter(|(name, _)| !ends.contains_key(name));
            std::fs::write(&path, script(before, left)).expect("the script is written");
            let ended = self.start(&files, &["sh", "guests.sh"])?;
            let stdout = String::from_utf8_lossy(&ended.stdout);
            let before = ends.len();
            ends.extend(stdout.split(guest_mark).skip(1).filter_map(parse));
            if !self.has_broken_down(&ended) {
                assert!(!ends.is_empty(), "no guest has run: {ended:?}");
                break;
            }
            starts_in_vain = if ends.len() > before { 0 } else { starts_in_vain + 1 };
        }
        Ok(ends)
    }
}

/// The script that runs these lines and marks what each prints.
fn script<'a>(before: &str, lines: impl Iterator<Item = &'a (String, String)>) -> String {
    let [guest, status, stderr, end] = MARKS.map(str::trim_end);
    let mut script = format!("{before}\n");
    for (name, line) in lines {
        writeln!(script, "{{ {line}; }} > /tmp/out 2> /tmp/err; status=$?").expect("text");
        writeln!(script, "echo '{guest} {name}'; echo \"{status} $status\"; cat /tmp/out").expect("text");
        writeln!(script, "echo; echo '{stderr}'; cat /tmp/err; echo '{end}'").expect("text");
    }
    script
}

/// One run's name and end from what the script printed between two marks.
fn parse(text: &str) -> Option<(String, Ended)> {
    let [_, status_mark, stderr_mark, end_mark] = MARKS;
    let (name, rest) = text.split_once('\n')?;
    let (status, rest) = rest.strip_prefix(status_mark)?.split_once('\n')?;
    let (stdout, rest) = rest.split_once(stderr_mark)?;
    let (stderr, _) = rest.split_once(end_mark)?;
    // The newline before the mark is the script's.
    let stdout = stdout.strip_suffix('\n')?;
    let ended = Ended { code: status.parse().ok(), stdout: stdout.into(), stderr: stderr.to_owned() };
    Some((name.to_owned(), ended))
}

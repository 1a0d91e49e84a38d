//! The examples of the documentation, run as they are written: every block of shell commands and every
//! scenario of `README.md`, `docs/scripting.md` and `docs/exec.md`, and the commands of its CI jobs.
//!
//! A command ends with 0, or with the status that the comment behind it begins with.

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::{Ended, PROGRAM, PROJECT, Run, Trials, built};
use tempfile::TempDir;

/// Ends a block that hangs.
const DEADLINE: Duration = Duration::from_secs(400);
/// The command that runs all scenarios.
const SUITE: &str = "vm-accel test tests/scenarios --junit junit.xml --report report.json --logs logs";

fn main() -> ExitCode {
    let mut trials = Trials::without_backends();
    trials.add("scenarios_are_the_files", scenarios_are_the_files);
    let debian = built::debian();
    let socat = Command::new("socat").arg("-V").stdout(Stdio::null()).status().is_ok();
    for file in ["README.md", "docs/scripting.md", "docs/exec.md"] {
        for block in blocks(file, "sh").into_iter().chain(blocks(file, "yaml")) {
            let name = format!("{file}:{}", block.line);
            if ["cargo ", "ci/test"].iter().any(|word| block.language == "sh" && block.text.contains(word)) {
                trials.ignored(name, "builds the project, which whoever runs this has done");
            } else if block.text.contains("socat") && !socat {
                trials.ignored(name, "socat is missing");
            } else {
                match debian.clone() {
                    Ok(folder) => trials.add(name, move || block.run(&folder)),
                    Err(reason) => trials.ignored(name, &reason),
                }
            }
        }
    }
    trials.run()
}

/// A fenced block of a document.
struct Block {
    language: &'static str,
    line: usize,
    text: String,
}

fn blocks(file: &str, language: &'static str) -> Vec<Block> {
    let document = fs::read_to_string(Path::new(PROJECT).join(file)).unwrap();
    let mut blocks = Vec::new();
    let mut lines = document.lines().enumerate();
    while let Some((line, text)) = lines.next() {
        if text == format!("```{language}") {
            let inside = lines.by_ref().map(|(_, text)| text).take_while(|text| *text != "```");
            let text = inside.map(|text| format!("{text}\n")).collect();
            blocks.push(Block { language, line: line + 1, text });
        }
    }
    assert!(!blocks.is_empty() || language == "yaml", "{file} has examples");
    blocks
}

/// Every scenario in the text is a file of `tests/scenarios`, named just before.
fn scenarios_are_the_files() {
    let document = fs::read_to_string(Path::new(PROJECT).join("docs/scripting.md")).unwrap();
    let blocks = blocks("docs/scripting.md", "toml");
    assert!(blocks.len() >= 4);
    for block in blocks {
        let before: Vec<&str> = document.lines().take(block.line - 1).collect();
        let name = before.iter().rev().find_map(|line| line.split('`').nth(1)).unwrap();
        assert_eq!(fs::read_to_string(Path::new(PROJECT).join(name)).unwrap(), block.text, "{name}");
    }
}

impl Block {
    /// The commands as a shell gets them.
    fn script(&self) -> String {
        if self.language == "sh" {
            return self.text.clone();
        }
        let commands = self.text.lines().filter_map(|line| line.find("vm-accel test").map(|at| &line[at..]));
        commands.map(|line| line.replace("${{ matrix.shard }}", "1") + "\n").collect()
    }

    fn run(&self, debian: &Path) {
        let script = self.script();
        let expected = expected(&script);
        assert!(!expected.is_empty() || !self.text.contains("vm-accel"), "a job has a command");
        let folder = place();
        let ended = shell(&folder, &script, debian);
        let statuses = fs::read_to_string(folder.path().join(".statuses")).unwrap_or_default();
        let statuses: Vec<i32> = statuses.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(statuses.len(), expected.len(), "{script}{ended:#?}");
        for (status, allowed) in statuses.iter().zip(&expected) {
            assert!(allowed.contains(status), "{statuses:?}, expected {expected:?}: {script}{ended:#?}");
        }
        if script.starts_with(SUITE) {
            check_suite(folder.path(), &ended);
        }
    }
}

/// For each call of vm-accel in `script` the statuses that are right.
fn expected(script: &str) -> Vec<Vec<i32>> {
    let script = script.replace("\\\n", " ");
    let mut expected = Vec::new();
    for line in script.lines() {
        let (command, comment) = match line.split_once("  #") {
            Some((command, comment)) => (command, comment.trim()),
            None => (line, ""),
        };
        for _ in command.matches("vm-accel ") {
            let digits: String = comment.chars().take_while(char::is_ascii_digit).collect();
            let status = digits.parse().unwrap_or(0);
            // KVM need not be here.
            let kvm = command.contains("--accel kvm");
            expected.push(if kvm { vec![status, 125] } else { vec![status] });
        }
    }
    expected
}

/// A folder that looks like the project's.
fn place() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["README.md", "images", "tests", "docs"] {
        symlink(Path::new(PROJECT).join(name), folder.path().join(name)).unwrap();
    }
    // A call of the program leaves its status.
    let bin = folder.path().join(".bin");
    fs::create_dir(&bin).unwrap();
    let wrapper = bin.join("vm-accel");
    let statuses = folder.path().join(".statuses");
    let text = format!(
        "#!/bin/sh\n{PROGRAM} \"$@\"\nstatus=$?\necho $status >> {}\nexit $status\n",
        statuses.display()
    );
    fs::write(&wrapper, text).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// Runs `script`; where it shows a guest's shell at the terminal, with a user at stdin who wants to leave.
fn shell(folder: &TempDir, script: &str, debian: &Path) -> Ended {
    let stdin = folder.path().join(".stdin");
    let is_typed_at =
        script.contains("do=shell") && ["--expect", "unix:", " | "].iter().all(|word| !script.contains(word));
    fs::write(&stdin, if is_typed_at { "exit\n" } else { "" }).unwrap();
    let path = format!("{}:{}", folder.path().join(".bin").display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command.arg("-uc").arg(script).current_dir(folder.path()).env("PATH", path);
    command.env("guest", debian).env("VM_ACCEL_KERNEL", debian.join("vmlinuz"));
    command.env("JOB_COMPLETION_INDEX", "0").env_remove("RUST_LOG").env_remove("VM_ACCEL_LOG");
    command.stdin(fs::File::open(stdin).unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Run::start_with(&mut command, DEADLINE).end()
}

/// What became of each scenario.
fn check_suite(folder: &Path, ended: &Ended) {
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let report: Value = serde_json::from_str(&read("report.json")).unwrap();
    let outcomes: Vec<(&str, &str)> = report["scenarios"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["name"].as_str().unwrap(), one["report"]["outcome"].as_str().unwrap()))
        .collect();
    assert_eq!(
        outcomes,
        [
            ("tests/scenarios/login.toml", "script-passed"),
            ("tests/scenarios/no-root.toml", "panic"),
            ("tests/scenarios/panic.toml", "panic"),
            ("tests/scenarios/poweroff.toml", "powered-off"),
            ("tests/scenarios/reboot.toml", "reset"),
            ("tests/scenarios/shell.toml", "powered-off"),
        ],
        "{ended:#?}"
    );
    // All of a panic's own lines are printed, and nothing comes after them.
    for name in ["no-root", "panic"] {
        let log = read(&format!("logs/tests/scenarios/{name}.log"));
        assert!(log.contains("Kernel panic - not syncing"), "{log}");
        let last = log.lines().last().unwrap_or_default();
        assert!(last.contains("---[ end Kernel panic - not syncing"), "{log}");
    }
    let junit = read("junit.xml");
    assert!(junit.contains("<testsuites tests=\"15\" failures=\"0\" errors=\"0\" skipped=\"0\""), "{junit}");
}

//! Scripts, reactions and reports, by the real binary on the software CPU, with the tiny guests.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_vm-accel");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn tiny(name: &str) -> String {
    format!("{ROOT}/images/tiny/{name}")
}

fn vm_accel(args: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(["run", "--accel", "soft"]).args(args).stdin(Stdio::null());
    command.env_remove("RUST_LOG").env_remove("VM_ACCEL_LOG").output().unwrap()
}

/// Runs a tiny real-mode guest; its status, stdout and stderr.
fn run(guest: &str, args: &[&str]) -> (i32, String, String) {
    let guest = tiny(guest);
    let output = vm_accel(&[&["--memory", "64M", "--flat", "0x1000:real", &guest], args].concat());
    ended(&output)
}

fn ended(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[test]
fn steps_that_match_end_with_0() {
    let (status, stdout, stderr) = run("ok.bin", &["--expect", "O", "--expect", "K"]);
    assert_eq!(status, 0, "{stderr}");
    assert!(stdout.contains("OK") || stdout.contains('O'), "{stdout}");
}

#[test]
fn a_guest_that_ends_too_early_fails_its_step() {
    let (status, _, stderr) = run("ok.bin", &["--step", "boot", "--expect", "login: "]);
    assert_eq!(status, 123, "{stderr}");
    for words in ["step 1 of 1 (boot)", "/login: /", "  OK", "status 123"] {
        assert!(stderr.contains(words), "{words}: {stderr}");
    }
}

#[test]
fn a_step_that_takes_too_long_fails() {
    let (status, _, stderr) = run("spin.bin", &["--step-timeout", "200ms", "--expect", "ready"]);
    assert_eq!(status, 123, "{stderr}");
    assert!(stderr.contains("/ready/ did not come within 200ms"), "{stderr}");
    // The run's own limit is another matter, and says which step it hit.
    let (status, _, stderr) = run("spin.bin", &["--timeout", "200ms", "--expect", "ready"]);
    assert_eq!(status, 124, "{stderr}");
    assert!(stderr.contains("step 1 of 1 waited for /ready/"), "{stderr}");
}

#[test]
fn patterns_of_failure_and_success() {
    let (status, _, stderr) = run("ok.bin", &["--fail-on", "O."]);
    assert_eq!(status, 123, "{stderr}");
    assert!(stderr.contains("the output matches /O./"), "{stderr}");
    assert_eq!(run("ok.bin", &["--succeed-on", "OK"]).0, 0);
    assert_eq!(run("ok.bin", &["--succeed-on", "never"]).0, 123);
}

#[test]
fn reactions() {
    for (guest, args, expected) in [
        ("reset-cf9.bin", &["--on-reset", "exit:3"][..], 3),
        ("reset-i8042.bin", &["--on-reset", "reboot", "--timeout", "300ms"], 124),
        ("poweroff-acpi.bin", &["--on-shutdown", "exit:4"], 4),
        ("triple-fault-real.bin", &["--on-crash", "exit:5"], 5),
        ("triple-fault-real.bin", &["--on-crash", "reboot", "--timeout", "300ms"], 124),
        ("panic.bin", &["--on-panic", "exit:0"], 0),
        ("cli-hlt.bin", &["--on-hang", "exit:6"], 6),
        ("cli-hlt.bin", &["--on-hang", "wait", "--timeout", "900ms"], 124),
        ("exit-42.bin", &[], 42),
        ("exit-42.bin", &["--debug-exit", "qemu"], 85),
        ("exit-42.bin", &["--debug-exit", "off"], 122),
    ] {
        let (status, _, stderr) = run(guest, args);
        assert_eq!(status, expected, "{guest} {args:?}: {stderr}");
    }
}

#[test]
fn a_report_tells_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (json, junit, log) = (path("report.json"), path("junit.xml"), path("serial.log"));
    let (status, stdout, stderr) = run(
        "ok.bin",
        &[
            "--report",
            &json,
            "--junit",
            &junit,
            "--log",
            &log,
            "--timestamps",
            "--cpus",
            "2",
            "--step",
            "a <name>",
            "--expect",
            "[O]K",
            "--expect",
            "more",
            "--expect",
            "yet more",
        ],
    );
    assert_eq!(status, 123, "{stderr}");
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!(report["version"], 2);
    assert_eq!((&report["outcome"], &report["status"]), (&"script-failed".into(), &123.into()));
    assert_eq!(report["backend"]["name"], "soft");
    assert_eq!(report["boots"], 1);
    assert_eq!(report["serial_bytes"], stdout.len());
    let results: Vec<_> = report["steps"].as_array().unwrap().iter().map(|step| &step["result"]).collect();
    assert_eq!(results, ["matched", "failed", "not-reached"]);
    assert_eq!(report["steps"][0]["matched"], "OK");
    assert_eq!(report["last_lines"][0], "OK");
    assert!(report["exits"]["io_out"].as_u64().unwrap() >= 3, "{report}");
    assert_eq!(report["registers"].as_array().unwrap().len(), 2);
    for cpu in 0..2 {
        assert!(report["registers"][cpu]["rip"].as_str().unwrap().starts_with("0x"), "{report}");
    }
    assert_eq!(report["expected_status"], 0);
    assert!(report["peak_rss_bytes"].as_u64().unwrap() > 0);
    let times = &report["times_ms"];
    let time = |name: &str| times[name].as_f64().unwrap_or_else(|| panic!("{name}: {times}"));
    assert!(0.0 < time("first_instruction"));
    assert!(time("first_instruction") <= time("first_serial_byte"));
    assert!(time("first_serial_byte") <= time("end"));

    let junit = std::fs::read_to_string(junit).unwrap();
    assert!(junit.contains("tests=\"3\" failures=\"1\" errors=\"0\" skipped=\"1\""), "{junit}");
    assert!(junit.contains("name=\"step 1: a &lt;name&gt;\""), "{junit}");
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.starts_with('[') && log.contains("] OK"), "{log}");
}

#[test]
fn a_report_is_written_whatever_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("report.json");
    for (guest, args, outcome) in [
        ("poweroff-acpi.bin", &[][..], "powered-off"),
        ("panic.bin", &[], "panic"),
        ("triple-fault-real.bin", &[], "triple-fault"),
        ("cli-hlt.bin", &[], "hang"),
        ("spin.bin", &["--timeout", "200ms"], "timeout"),
        ("no such file", &[], "error"),
    ] {
        let (status, ..) = run(guest, &[args, &["--report", json.to_str().unwrap()]].concat());
        let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        assert_eq!(report["outcome"], outcome);
        assert_eq!(report["status"], status, "{report}");
    }
}

#[test]
fn a_report_that_cannot_be_written_is_an_error_before_the_guest_starts() {
    for flag in ["--report", "--junit", "--log"] {
        let (status, stdout, stderr) = run("ok.bin", &[flag, "/no/such/folder/file"]);
        assert_eq!((status, stdout.as_str()), (125, ""), "{stderr}");
        assert!(stderr.contains("/no/such/folder/file") && stderr.contains(flag), "{stderr}");
    }
}

#[test]
fn bad_scripts_name_file_line_and_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("test.toml");
    for (text, words) in [
        ("[[step]]\nexpect = '('", "test.toml line 2: not a regular expression: unclosed group. Write"),
        ("cpus = 1\n[[step]]\nname = 'x'", "neither waits nor types"),
        ("[[step]]\nexpect = 'x'\ntimeout = '-5s'", "test.toml line 3: not a time"),
        ("[[step]]\nexpcet = 'x'", "line 2; did you mean `expect`?"),
    ] {
        std::fs::write(&file, text).unwrap();
        let (status, stdout, stderr) = ended(&vm_accel(&[file.to_str().unwrap()]));
        assert_eq!((status, stdout.as_str()), (125, ""), "{text}: {stderr}");
        assert!(stderr.contains(words) && stderr.lines().count() == 1, "{text}: {stderr}");
    }
}

/// Whether a process has a handler for `signal`, as Linux tells.
#[cfg(unix)]
fn catches(pid: &str, signal: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(caught.trim(), 16).unwrap() & (1 << (signal - 1)) != 0
}

/// The first signal presses the power button, which a guest without a driver for it ignores.
#[cfg(unix)]
#[test]
fn grace_waits_for_the_guest_and_a_second_signal_does_not() {
    use std::io::{BufRead, BufReader};
    let start = |grace: &str| {
        let mut command = Command::new(PROGRAM);
        command.args([
            "run",
            "--accel",
            "soft",
            "--flat",
            "0x1000:real",
            "--grace",
            grace,
            &tiny("spin.bin"),
        ]);
        command.args(["--timeout", "60s"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    for (grace, signals) in [("200ms", 1), ("50s", 2)] {
        let mut child = start(grace);
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let pid = child.id().to_string();
        // The shell's own `kill`: not every machine has another.
        let kill = format!("kill -TERM {pid}");
        let term = || assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        while !catches(&pid, libc::SIGTERM) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        term();
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        assert!(line.contains("asked to power off"), "{line}");
        if signals == 2 {
            term();
        }
        assert_eq!(child.wait().unwrap().code(), Some(143));
    }
}

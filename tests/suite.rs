//! `vm-accel test`: many scenarios at once, by the real binary, with tiny guests on the software CPU.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::{Code, Ended, Run, end_of, vm_accel};
use tempfile::TempDir;

/// A folder with scenarios and their guests.
struct Scenarios(TempDir);

impl Scenarios {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.guest("ok.bin", &Code::new().print("boot\nready\n").exit(0));
        folder.guest("hang.bin", &Code::new().print("about to hang\n").hang());
        folder.guest("spin.bin", &Code::new().print("about to spin\n").spin());
        folder.guest("exit-7.bin", &Code::new().print("seven\n").exit(7));
        fs::copy(support::tiny("triple-fault-real.bin"), folder.path("crash.bin")).unwrap();
        fs::copy(support::tiny("panic.bin"), folder.path("panic.bin")).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn guest(&self, name: &str, code: &Code) {
        fs::copy(&*code.file(), self.path(name)).unwrap();
    }

    /// A scenario file below `suite`.
    fn add(&self, name: &str, guest: &str, more: &str) -> &Self {
        let path = self.path("suite").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let kernel = self.path(guest);
        let text = format!(
            "kernel = '{}'\nflat = '0x1000:real'\nmemory = '16M'\naccel = 'soft'\n{more}\n",
            kernel.display()
        );
        fs::write(path, text).unwrap();
        self
    }

    /// `vm-accel test suite ARGS…`, in the folder.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = vm_accel(["test", "suite"]);
        command.args(args).current_dir(self.0.path());
        command
    }

    fn run(&self, args: &[&str]) -> Ended {
        end_of(&mut self.command(args))
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }
}

fn lines(ended: &Ended) -> Vec<String> {
    String::from_utf8_lossy(&ended.stdout).lines().map(str::to_owned).collect()
}

const STEP: &str = "[[step]]\nexpect = 'ready'\n";
const BAD_STEP: &str = "[[step]]\nname = 'login'\nexpect = 'login: '\n";

#[test]
fn fifty_of_which_five_hang_five_crash_and_five_fail_a_step() {
    let scenarios = Scenarios::new();
    let mut expected = BTreeMap::new();
    for number in 0..50 {
        let (kind, guest, more, status) = match number % 10 {
            3 => ("hang", "hang.bin", "", 122),
            5 => ("crash", "crash.bin", "", 121),
            8 => ("step", "ok.bin", BAD_STEP, 123),
            1 => ("panic", "panic.bin", "expect_status = 120", 120),
            2 => ("seven", "exit-7.bin", "expect_status = 7", 7),
            _ => ("ok", "ok.bin", STEP, 0),
        };
        let name = format!("{number:02}-{kind}.toml");
        scenarios.add(&name, guest, more);
        expected.insert(format!("suite/{name}"), (kind, status));
    }
    let ended = scenarios.run(&["-j", "4", "--report", "report.json", "--junit", "junit.xml"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let report = scenarios.json("report.json");
    assert_eq!(
        (&report["passed"], &report["failed"], &report["not_run"]),
        (&35.into(), &15.into(), &0.into())
    );
    assert_eq!(report["status"], 1);
    let results = report["scenarios"].as_array().unwrap();
    let names: Vec<_> = results.iter().map(|result| result["name"].as_str().unwrap()).collect();
    assert_eq!(names, expected.keys().collect::<Vec<_>>(), "in sorted order");
    for (result, (kind, status)) in results.iter().zip(expected.values()) {
        let fails = matches!(*kind, "hang" | "crash" | "step");
        assert_eq!(result["result"], if fails { "failed" } else { "passed" }, "{result}");
        assert_eq!(result["status"], *status, "{result}");
        assert_eq!(result["report"]["backend"]["name"], "soft");
    }
    // A line each as they end, and the failed ones once more, in order.
    let lines = lines(&ended);
    assert_eq!(lines.iter().filter(|line| line.starts_with("ok ")).count(), 35);
    assert_eq!(lines.iter().filter(|line| line.starts_with("FAIL ")).count(), 15);
    let again: Vec<&str> = lines
        .iter()
        .filter(|line| line.starts_with("suite/"))
        .filter_map(|line| line.split(':').next())
        .collect();
    let failed = expected.iter().filter(|(_, (kind, _))| matches!(*kind, "hang" | "crash" | "step"));
    assert_eq!(again, failed.map(|(name, _)| name).collect::<Vec<_>>());
    for words in
        ["every vCPU is halted", "triple fault", "step 1 of 1 (login) failed", "  about to hang", "  ready"]
    {
        assert!(lines.iter().any(|line| line.contains(words)), "{words}: {ended:?}");
    }
    assert!(lines.last().unwrap().starts_with("35 passed, 15 failed, in "), "{lines:?}");
    let junit = fs::read_to_string(scenarios.path("junit.xml")).unwrap();
    assert_eq!(junit.matches("<testsuite ").count(), 50);
    assert_eq!(junit.matches("<failure ").count(), 15);
    assert!(junit.contains("<testsuites tests=\"50\" failures=\"15\" errors=\"0\" skipped=\"0\""), "{junit}");
    assert!(junit.contains("name=\"step 1: login\"") && !junit.contains('\u{1b}'), "{junit}");
}

#[test]
fn all_pass() {
    let scenarios = Scenarios::new();
    scenarios.add("b.toml", "ok.bin", STEP).add("a/c.toml", "exit-7.bin", "expect_status = 7");
    let ended = scenarios.run(&[]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    let lines = lines(&ended);
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("ok    suite/b.toml: the script's step matched (")));
    let seven =
        "ok    suite/a/c.toml: the guest ended with 7 on the debug exit port, as expected (status 7, ";
    assert!(lines.iter().any(|line| line.starts_with(seven)), "{lines:?}");
    // With files instead of folders, and a report on stdout.
    let mut command = vm_accel(["test", "suite/b.toml", "suite", "--report", "-"]);
    let ended = end_of(command.current_dir(scenarios.0.path()));
    let report: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let names: Vec<_> = report["scenarios"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["suite/b.toml", "suite/a/c.toml"]);
    assert!(ended.stderr.contains("2 passed, 0 failed"), "{ended:?}");
}

#[test]
fn an_outcome_that_is_not_the_expected_one_fails() {
    let scenarios = Scenarios::new();
    scenarios.add("a.toml", "ok.bin", "expect_status = 120");
    scenarios.add("b.toml", "no-such-guest.bin", "expect_status = 125");
    let ended = scenarios.run(&["--report", "report.json"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let report = scenarios.json("report.json");
    assert_eq!(report["failed"], 2);
    // A failure of vm-accel or the host is nobody's wish.
    assert!(report["scenarios"][1]["message"].as_str().unwrap().contains("no-such-guest.bin"), "{report}");
    assert_eq!(report["scenarios"][1]["report"]["outcome"], "error");
}

#[test]
fn slices_are_the_suite() {
    let scenarios = Scenarios::new();
    for name in ["a", "b", "c", "d", "e"] {
        scenarios.add(&format!("{name}.toml"), "ok.bin", "");
    }
    for (shard, expected) in [("1/2", &["a", "c", "e"][..]), ("2/2", &["b", "d"]), ("6/6", &[])] {
        let ended = scenarios.run(&["--shard", shard, "--report", "report.json"]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let report = scenarios.json("report.json");
        let names: Vec<_> =
            report["scenarios"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(names, expected.iter().map(|name| format!("suite/{name}.toml")).collect::<Vec<_>>());
        assert_eq!(report["shard"]["count"].to_string(), shard[2..]);
    }
}

#[test]
fn what_cannot_be_is_refused_before_anything_starts() {
    let scenarios = Scenarios::new();
    scenarios.add("a.toml", "ok.bin", "log = 'a.log'");
    for (args, words) in [
        (&["--shard", "3/2"][..], "`--shard 3/2`: there are 2 slices only. Write `K/N`"),
        (&["--shard", "0/2"], "counted from 1"),
        (&["-j", "0"], "`--jobs 0`"),
        (&["-j", "-1"], "`--jobs -1`"),
        (&["--timeout", "soon"], "`--timeout soon`"),
        (&["no-such-folder"], "cannot read no-such-folder"),
        (&["ok.bin"], "ok.bin is no scenario file"),
        (&["--report", "/no/such/folder/file"], "--report"),
        (&["--junit", "/no/such/folder/file"], "--junit"),
        (&["--logs", "ok.bin"], "ok.bin"),
        (&["--report", "-", "--junit", "-"], "two reports on stdout"),
    ] {
        let ended = scenarios.run(args);
        ended.expect(125, &[words]).printed("");
    }
    scenarios.add("b.toml", "ok.bin", "memroy = '1G'").add("c.toml", "ok.bin", STEP);
    scenarios.add("d.toml", "ok.bin", "[[step]]\nexpect = '('");
    let ended = scenarios.run(&[]);
    ended.expect(125, &["`expect = '('` in suite/d.toml line 6: not a regular expression"]).printed("");
    assert!(ended.stderr.contains("`memroy` in suite/b.toml line 5; did you mean `memory`?"), "{ended:?}");
    assert!(!scenarios.path("suite/a.log").exists(), "nothing has started");
    let empty = tempfile::tempdir().unwrap();
    end_of(&mut vm_accel([Path::new("test"), empty.path()])).expect(125, &["no scenario"]).printed("");
    end_of(&mut vm_accel(["test"])).expect(125, &[]);
}

#[test]
fn limits_are_the_flag_s_or_the_file_s() {
    let scenarios = Scenarios::new();
    scenarios.add("a.toml", "spin.bin", "timeout = '100ms'\nexpect_status = 124");
    scenarios.add("b.toml", "spin.bin", "[[step]]\nexpect = 'never'");
    let ended = scenarios.run(&["--timeout", "300ms"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let lines = lines(&ended);
    assert!(
        lines.iter().any(|line| line.starts_with("ok    suite/a.toml: the timeout of 300ms ran out, as"))
    );
    let failed =
        "FAIL  suite/b.toml: the timeout of 300ms ran out; step 1 of 1 waited for /never/ (status 124";
    assert!(lines.iter().any(|line| line.starts_with(failed)), "{lines:?}");
}

#[test]
fn output_is_kept_apart() {
    let scenarios = Scenarios::new();
    scenarios.add("a.toml", "ok.bin", STEP).add("sub/a.toml", "exit-7.bin", "");
    let ended = scenarios.run(&["--logs", "logs"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let read = |name: &str| fs::read_to_string(scenarios.path("logs/suite").join(name)).unwrap();
    assert_eq!(read("a.log"), "boot\nready\n");
    assert_eq!(read("sub/a.log"), "seven\n");
    assert!(read("sub/a.err").contains("status 7"), "{}", read("sub/a.err"));
    assert_eq!(serde_json::from_str::<Value>(&read("sub/a.json")).unwrap()["status"], 7);
    assert!(lines(&ended).iter().any(|line| line == "  (all of it is in logs/suite/sub/a.log)"), "{ended:?}");
}

#[test]
fn lost_output_is_no_success() {
    let scenarios = Scenarios::new();
    scenarios.add("a.toml", "ok.bin", STEP);
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    end_of(scenarios.command(&[]).stdout(full())).expect(125, &["cannot write the results to stdout"]);
    scenarios.run(&["--report", "/dev/full"]).expect(125, &["cannot write the report /dev/full"]);
}

/// A scenario that ends by itself only after a minute, long after the suite must be over.
#[cfg(unix)]
#[test]
fn a_signal_ends_the_scenarios_and_the_suite() {
    for (signal, grace) in [(libc::SIGTERM, false), (libc::SIGINT, false), (libc::SIGTERM, true)] {
        let scenarios = Scenarios::new();
        let more = if grace { "grace = '50s'\ntimeout = '55s'" } else { "timeout = '55s'" };
        let marker = scenarios.path("marker");
        let log = format!("log = '{}'\n{more}", marker.display());
        scenarios.add("a.toml", "ok.bin", STEP);
        scenarios.add("b.toml", "spin.bin", &log).add("c.toml", "spin.bin", more);
        let args = ["-j", "1", "--junit", "junit.xml", "--report", "r.json", "--logs", "logs"];
        let mut run = Run::start(&mut scenarios.command(&args));
        let said = |file: &str, words: &str| {
            fs::read_to_string(scenarios.path(file)).is_ok_and(|text| text.contains(words))
        };
        run.wait_until("the second guest's output", |_| said("marker", "about to spin"));
        run.signal(signal);
        if grace {
            // The guest knows no power button, so that the second signal is what ends it.
            run.wait_until("the first signal", |_| said("logs/suite/b.err", "asked to power off"));
            run.signal(signal);
        }
        let ended = run.end();
        assert_eq!(ended.code, Some(128 + signal), "{ended:?}");
        let lines = lines(&ended);
        assert!(lines.last().unwrap().starts_with("1 passed, 0 failed, 2 not run"), "{ended:?}");
        let report = scenarios.json("r.json");
        let results: Vec<_> = report["scenarios"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["result"].as_str().unwrap())
            .collect();
        assert_eq!(results, ["passed", "not-run", "not-run"]);
        assert_eq!(report["status"], 128 + signal);
        assert!(fs::read_to_string(scenarios.path("junit.xml")).unwrap().contains("skipped=\"2\""));
    }
}

/// Who kills the suite leaves no guest behind.
#[cfg(target_os = "linux")]
#[test]
fn scenarios_end_with_the_suite_that_is_killed() {
    let scenarios = Scenarios::new();
    let marker = scenarios.path("marker");
    scenarios.add("a.toml", "spin.bin", &format!("log = '{}'\ntimeout = '55s'", marker.display()));
    let mut run = Run::start(&mut scenarios.command(&[]));
    run.wait_until("the guest's output", |_| {
        fs::read_to_string(&marker).is_ok_and(|text| text.contains("about to spin"))
    });
    // Field 4 of /proc/PID/stat is the parent.
    let children = |parent: i32| -> Vec<PathBuf> {
        let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        let is_child = |process: &PathBuf| {
            let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
            let field = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)).map(str::to_owned);
            stat.contains(") ") && field == Some(parent.to_string())
        };
        processes.filter(is_child).collect()
    };
    let guests = children(run.pid());
    assert_eq!(guests.len(), 1, "{guests:?}");
    run.signal(libc::SIGKILL);
    assert_eq!(run.end().code, None);
    // Nobody may have waited for it yet.
    let is_over = || {
        fs::read_to_string(guests[0].join("stat"))
            .map_or(true, |stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
    };
    let begin = std::time::Instant::now();
    while !is_over() {
        assert!(begin.elapsed().as_secs() < 40, "the guest goes on");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Stderr is a terminal: there is a bar on it, and its mode stays.
#[cfg(unix)]
#[test]
fn a_terminal_shows_a_bar() {
    use std::io::Read;
    use std::os::fd::{AsRawFd, FromRawFd};
    let scenarios = Scenarios::new();
    scenarios.add("a.toml", "ok.bin", STEP).add("b.toml", "ok.bin", STEP);
    let (mut primary, mut replica) = (0, 0);
    let null = std::ptr::null_mut;
    let size = libc::winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptors are valid for writes, the size for reads, and the others may be null.
    let result = unsafe {
        libc::openpty(&mut primary, &mut replica, null(), null().cast(), (&raw const size).cast_mut())
    };
    assert_eq!(result, 0);
    // SAFETY: both descriptors are open and nobody else's.
    let (mut primary, replica) = unsafe { (fs::File::from_raw_fd(primary), fs::File::from_raw_fd(replica)) };
    let mode = || {
        let mut mode = std::mem::MaybeUninit::<libc::termios>::zeroed();
        // SAFETY: `mode` is valid for the answer, which fills it.
        unsafe {
            assert_eq!(libc::tcgetattr(replica.as_raw_fd(), mode.as_mut_ptr()), 0);
            let mode = mode.assume_init();
            [mode.c_iflag, mode.c_oflag, mode.c_cflag, mode.c_lflag]
        }
    };
    let before = mode();
    let terminal = || replica.try_clone().unwrap();
    let mut command = scenarios.command(&["-j", "1"]);
    command.env("TERM", "xterm").stdin(terminal()).stdout(terminal()).stderr(terminal());
    let run = Run::start(&mut command);
    drop(command);
    let ended = run.end();
    assert_eq!(ended.code, Some(0));
    assert_eq!(mode(), before);
    drop(replica);
    let mut shown = Vec::new();
    // The end of a terminal is EIO.
    let _ = primary.read_to_end(&mut shown);
    let shown = String::from_utf8_lossy(&shown);
    for words in ["] 1/2 suite/b.toml", "ok    suite/a.toml: ", "2 passed, 0 failed"] {
        assert!(shown.contains(words), "{words}: {shown:?}");
    }
}

//! Runs the real binary: every child has a deadline, every backend of this host gets its trial, and
//! guests are put together byte by byte.
#![allow(dead_code, reason = "every test binary uses its own part of this module")]

pub mod built;
pub mod manifest;
pub mod nested;

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use libtest_mimic::{Completion, Trial};
use serde::Deserialize;

/// The binary under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_vm-accel");
/// The project's folder.
pub const PROJECT: &str = env!("CARGO_MANIFEST_DIR");
/// The tiny guests and their list.
pub const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/images/tiny");
/// The tiny guests of AArch64 and their list.
pub const TINY_ARM64: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/images/tiny-arm64");
/// A child that has not ended after this time is killed, and its test fails. The machine may be slow and
/// busy, so it is far more than any of these children needs.
const DEADLINE: Duration = Duration::from_secs(60);
/// How often a waiting test looks again.
const TICK: Duration = Duration::from_millis(5);

/// `vm-accel ARGS…`, with nothing on stdin and its output collected.
pub fn vm_accel<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    command_of(Path::new(PROGRAM), args)
}

/// The same for another build of the program.
pub fn command_of<S: AsRef<std::ffi::OsStr>>(program: &Path, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program);
    command.args(args).env_remove("RUST_LOG").env_remove("VM_ACCEL_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// `vm-accel run` of a flat guest in real mode at [`Code::START`].
pub fn run_flat(backend: &Backend, guest: &Path, args: &[&str]) -> Command {
    let mut command = vm_accel(["run", "--accel", &backend.kind, "--memory", "16M", "--flat", "0x1000:real"]);
    command.args(args).arg(guest);
    command
}

/// A file of gzip's with this content.
pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).and_then(|()| encoder.finish()).expect("a vector takes all")
}

/// The child takes signals although these tests may run in the background of a shell, or under `nohup`.
fn take_signals() -> io::Result<()> {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        // SAFETY: a default action runs no code of this process.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    Ok(())
}

/// How a child ended.
pub struct Ended {
    /// Its exit status; `None` when a signal killed it.
    pub code: Option<i32>,
    /// What it wrote to stdout, if that was collected.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stdout = String::from_utf8_lossy(&self.stdout);
        write!(f, "status {:?}\nstdout: {stdout}\nstderr: {}", self.code, self.stderr)
    }
}

impl Ended {
    /// Checks the exit status, and that the last line on stderr has all of `words`.
    #[track_caller]
    pub fn expect(&self, code: i32, words: &[&str]) -> &Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        let last = self.stderr.lines().last().unwrap_or_default();
        for word in words {
            assert!(last.contains(word), "no `{word}` in the last line on stderr: {self:#?}");
        }
        self
    }

    /// Checks that stdout holds `text` and nothing else.
    #[track_caller]
    pub fn printed(&self, text: &str) -> &Self {
        assert_eq!(String::from_utf8_lossy(&self.stdout), text, "stdout; stderr: {}", self.stderr);
        self
    }
}

/// What a child has written so far.
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

impl Collected {
    fn from(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&bytes);
        let thread = std::thread::spawn(move || {
            let mut chunk = [0; 65536];
            while let Ok(count @ 1..) = pipe.read(&mut chunk) {
                shared.lock().unwrap().extend_from_slice(&chunk[..count]);
            }
        });
        Self { bytes, thread }
    }

    fn so_far(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    fn all(self) -> Vec<u8> {
        self.thread.join().expect("the reader does not panic");
        std::mem::take(&mut self.bytes.lock().unwrap())
    }
}

/// A child that runs; it is killed if it is dropped before its end.
pub struct Run {
    child: Child,
    stdout: Option<Collected>,
    stderr: Option<Collected>,
    deadline: Instant,
}

impl Run {
    /// Starts `command`.
    pub fn start(command: &mut Command) -> Self {
        Self::start_with(command, DEADLINE)
    }

    /// Starts `command` with a deadline of its own.
    pub fn start_with(command: &mut Command, limit: Duration) -> Self {
        // SAFETY: `signal` is async-signal-safe, and a default action runs no code of this process.
        unsafe { command.pre_exec(take_signals) };
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self {
            stdout: child.stdout.take().map(Collected::from),
            stderr: child.stderr.take().map(Collected::from),
            child,
            deadline: Instant::now() + limit,
        }
    }

    /// The child's process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id")
    }

    /// The child's end of a pipe, if stdin is one.
    pub fn stdin(&mut self) -> std::process::ChildStdin {
        self.child.stdin.take().expect("stdin is a pipe")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: plain system call; the child has not been waited for, so the id is its own.
        assert_eq!(unsafe { libc::kill(self.pid(), signal) }, 0);
    }

    /// Waits until stdout holds `text`.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        let seen = |pipe: &Option<Collected>| pipe.as_ref().map(Collected::so_far).unwrap_or_default();
        self.wait_until(text, |run| {
            seen(&run.stdout).windows(text.len()).any(|window| window == text.as_bytes())
        });
    }

    /// Waits until stderr holds `text`.
    #[track_caller]
    pub fn wait_for_stderr(&mut self, text: &str) {
        self.wait_until(text, |run| {
            let seen = run.stderr.as_ref().map(Collected::so_far).unwrap_or_default();
            String::from_utf8_lossy(&seen).contains(text)
        });
    }

    /// What stderr holds by now.
    pub fn stderr_so_far(&self) -> String {
        let seen = self.stderr.as_ref().map(Collected::so_far).unwrap_or_default();
        String::from_utf8_lossy(&seen).into_owned()
    }

    /// Waits until `condition` holds, called `what` if it never does.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        while !condition(self) {
            let ended = self.child.try_wait().expect("the child can be waited for");
            if (ended.is_some() && !condition(self)) || Instant::now() > self.deadline {
                let stderr = self.stderr.as_ref().map(Collected::so_far).unwrap_or_default();
                panic!("no {what:?}; {ended:?}; stderr: {}", String::from_utf8_lossy(&stderr));
            }
            sleep(TICK);
        }
    }

    /// User and system time that the child has used, in milliseconds (Linux's `/proc/PID/stat`).
    pub fn cpu_ms(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("/proc");
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // SAFETY: no argument is a pointer.
        ticks * 1000 / u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap()
    }

    /// Waits for the child's end.
    #[track_caller]
    pub fn end(mut self) -> Ended {
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                break status;
            }
            if Instant::now() > self.deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                let said = |pipe: Option<Collected>| {
                    String::from_utf8_lossy(&pipe.map(Collected::all).unwrap_or_default()).into_owned()
                };
                let (stdout, stderr) = (said(self.stdout.take()), said(self.stderr.take()));
                panic!("did not end in time; stdout: {stdout}\nstderr: {stderr}");
            }
            sleep(TICK);
        };
        Ended {
            code: status.code(),
            stdout: self.stdout.take().map(Collected::all).unwrap_or_default(),
            stderr: String::from_utf8_lossy(&self.stderr.take().map(Collected::all).unwrap_or_default())
                .into_owned(),
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `command` to its end.
#[track_caller]
pub fn end_of(command: &mut Command) -> Ended {
    Run::start(command).end()
}

/// A backend as `vm-accel probe --json` describes it.
#[derive(Debug, Clone, Deserialize)]
pub struct Backend {
    pub kind: String,
    pub guest: Option<String>,
    pub usable: bool,
    pub reason: Option<String>,
    pub measurement: Option<Measurement>,
}

/// How kernel-mode code runs on a backend.
#[derive(Debug, Clone, Deserialize)]
pub struct Measurement {
    pub kernel_sse: bool,
    pub merely_emulates: bool,
}

impl Backend {
    /// Whether kernel-mode code is emulated by a hypervisor, instruction by instruction and not fully.
    pub fn merely_emulates(&self) -> bool {
        self.measurement.as_ref().is_some_and(|measurement| measurement.merely_emulates)
    }

    /// Whether SSE works in kernel mode.
    pub fn kernel_sse(&self) -> bool {
        self.measurement.as_ref().is_none_or(|measurement| measurement.kernel_sse)
    }
}

/// What `probe` says of this host.
pub fn backends() -> Vec<Backend> {
    let probe = end_of(&mut vm_accel(["probe", "--json"]));
    let mut backends: Vec<Backend> = serde_json::from_slice(&probe.stdout)
        .unwrap_or_else(|error| panic!("probe prints JSON: {error}: {probe:#?}"));
    for backend in &mut backends {
        // The software CPU needs nothing of the host: where it fails, a test must fail.
        backend.usable |= backend.kind == "soft";
    }
    backends
}

/// The tests of one file.
pub struct Trials {
    backends: Vec<Backend>,
    arm64: Vec<Backend>,
    trials: Vec<Trial>,
}

impl Trials {
    /// No tests yet; a backend that is not usable here has its one line.
    pub fn new() -> Self {
        let (backends, unusable): (Vec<_>, Vec<_>) = backends().into_iter().partition(|it| it.usable);
        let is_arm64 = |backend: &Backend| backend.guest.as_deref() == Some("aarch64");
        let (arm64, backends) = backends.into_iter().partition(is_arm64);
        let mut trials = Self { backends, arm64, trials: Vec::new() };
        for backend in unusable {
            let reason = backend.reason.unwrap_or_else(|| "not usable here".into());
            trials.ignored(format!("{}::all", backend.kind), &reason);
        }
        trials
    }

    /// No tests yet, and none that needs a backend of this host.
    pub fn without_backends() -> Self {
        Self { backends: Vec::new(), arm64: Vec::new(), trials: Vec::new() }
    }

    /// The backends of x86-64 guests that are usable here.
    pub fn backends(&self) -> Vec<Backend> {
        self.backends.clone()
    }

    /// The backends of AArch64 guests that are usable here.
    pub fn arm64_backends(&self) -> Vec<Backend> {
        self.arm64.clone()
    }

    /// A test that runs once.
    pub fn add(&mut self, name: impl Into<String>, test: impl FnOnce() + Send + 'static) {
        self.trials.push(Trial::test(name, move || {
            test();
            Ok(())
        }));
    }

    /// A test that cannot run here, and why.
    pub fn ignored(&mut self, name: impl Into<String>, reason: &str) {
        let trial = Trial::test(name, || Err("it cannot run here".into()));
        self.trials.push(trial.with_kind(reason.replace('\n', " ")).with_ignored_flag(true));
    }

    /// A test that may find out that it cannot run here, and then says why.
    pub fn add_ignorable(
        &mut self,
        name: impl Into<String>,
        test: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) {
        self.trials.push(Trial::ignorable_test(name, move || {
            Ok(match test() {
                Ok(()) => Completion::Completed,
                Err(reason) => Completion::ignored_with(reason),
            })
        }));
    }

    /// A test on each backend that is usable here.
    pub fn add_each(&mut self, name: &str, test: impl Fn(&Backend) + Clone + Send + 'static) {
        for backend in self.backends() {
            let test = test.clone();
            self.add(format!("{}::{name}", backend.kind), move || test(&backend));
        }
    }

    /// Runs what the command line asks for.
    pub fn run(self) -> std::process::ExitCode {
        libtest_mimic::run(&libtest_mimic::Arguments::from_args(), self.trials).exit_code()
    }

    /// [`Self::run`], one trial after the other: for those that each want the whole machine.
    pub fn run_in_turn(self) -> std::process::ExitCode {
        let mut arguments = libtest_mimic::Arguments::from_args();
        arguments.test_threads = Some(1);
        libtest_mimic::run(&arguments, self.trials).exit_code()
    }
}

/// 16-bit machine code that is loaded at [`Code::START`], and the file that it becomes.
#[derive(Clone, Default)]
pub struct Code(Vec<u8>);

impl Code {
    /// Where [`run_flat`] loads it.
    pub const START: u16 = 0x1000;

    pub fn new() -> Self {
        Self::default()
    }

    /// Instructions as they are.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// `mov dx, PORT; mov al, BYTE; out dx, al`, a byte after the other.
    pub fn print_to(mut self, port: u16, text: &str) -> Self {
        self.0.push(0xba);
        self.0.extend(port.to_le_bytes());
        for byte in text.bytes() {
            self.0.extend([0xb0, byte, 0xee]);
        }
        self
    }

    /// Prints on COM1.
    pub fn print(self, text: &str) -> Self {
        self.print_to(0x3f8, text)
    }

    /// Waits for a byte on COM1 and takes it:
    /// `mov dx, 0x3fd; 1: in al, dx; test al, 1; jz 1b; mov dx, 0x3f8; in al, dx`.
    pub fn wait_for_byte(self) -> Self {
        self.bytes(&[0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xfb, 0xba, 0xf8, 0x03, 0xec])
    }

    /// `mov ax, VALUE; out 0xf4, ax`.
    pub fn exit(self, value: u16) -> Self {
        let [low, high] = value.to_le_bytes();
        self.bytes(&[0xb8, low, high, 0xe7, 0xf4])
    }

    /// `jmp .`.
    pub fn spin(self) -> Self {
        self.bytes(&[0xeb, 0xfe])
    }

    /// `1: sti; hlt; jmp 1b`.
    pub fn idle(self) -> Self {
        self.bytes(&[0xfb, 0xf4, 0xeb, 0xfc])
    }

    /// `cli; hlt`.
    pub fn hang(self) -> Self {
        self.bytes(&[0xfa, 0xf4])
    }

    /// `mov dx, 0xcf9; mov al, 6; out dx, al`, then spins.
    pub fn reset(self) -> Self {
        self.bytes(&[0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee]).spin()
    }

    /// The guest as a file.
    pub fn file(&self) -> Guest {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(&self.0).expect("the guest is written");
        Guest(file.into_temp_path())
    }
}

/// A guest's file; it goes with this value.
pub struct Guest(tempfile::TempPath);

impl std::ops::Deref for Guest {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

/// The file of a tiny guest.
pub fn tiny(file: &str) -> PathBuf {
    Path::new(TINY).join(file)
}

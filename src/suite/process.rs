//! One scenario's process: `vm-accel run` of its file, with what it says collected.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{AutoChoices, DEFAULT_LIMIT, Scenario, SuiteError};
use crate::console::{Doorbell, child};
use crate::report::Report;
use crate::script::{AnsiFilter, Tail};

/// How long a process may take to end after its guest's time limit or after it was asked to. A longer time
/// means that it is broken.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than any deadline that matters.
const FAR: Duration = Duration::from_secs(366 * 24 * 3600);

/// Starts processes.
pub(super) struct Launcher {
    program: PathBuf,
    flags: Vec<OsString>,
    /// The backend of scenarios that leave the choice to us.
    auto: AutoChoices,
    /// Where the output of each is kept.
    logs: Option<PathBuf>,
    /// Where the reports of each are until they are read, unless they are kept.
    folder: TempDir,
}

/// A process that runs.
pub(super) struct Running<'a> {
    /// The scenario's place in the suite.
    pub index: usize,
    /// The scenario.
    pub scenario: &'a Scenario,
    child: Child,
    begun: Instant,
    /// When it has to have ended.
    deadline: Instant,
    killed: bool,
    /// Pipes that are open.
    open: Arc<AtomicUsize>,
    /// Stdout and stderr.
    readers: [JoinHandle<Collected>; 2],
    report: PathBuf,
    log: Option<PathBuf>,
}

/// What a pipe has brought.
struct Collected {
    tail: Tail,
    /// Why it is not kept whole.
    lost: Option<(PathBuf, io::Error)>,
}

/// What a process leaves behind.
pub(super) struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// It did not end in time and was killed.
    pub killed: bool,
    /// How long it ran.
    pub time: Duration,
    /// Its report, if it wrote one.
    pub report: Option<Report>,
    /// The report as it was written.
    pub json: Option<serde_json::Value>,
    /// The last lines of the guest's output.
    pub output: Vec<String>,
    /// The last lines that vm-accel has said.
    pub said: Vec<String>,
    /// The file with the guest's output, if it is kept.
    pub log: Option<PathBuf>,
    /// Output that could not be kept: the file and the host's reason.
    pub lost: Option<(PathBuf, io::Error)>,
}

/// Lines that are shown of a failed scenario.
const SHOWN: usize = 20;

impl Launcher {
    /// Starts processes with `flags`, which keep their output in `logs` and run on `auto` where they leave
    /// the choice.
    pub(super) fn new(
        logs: Option<&Path>,
        flags: Vec<OsString>,
        auto: AutoChoices,
    ) -> Result<Self, SuiteError> {
        if let Some(folder) = logs {
            fs::create_dir_all(folder)
                .map_err(|source| SuiteError::Logs { path: folder.to_owned(), source })?;
        }
        Ok(Self {
            program: std::env::current_exe().map_err(SuiteError::Start)?,
            flags,
            auto,
            logs: logs.map(Path::to_owned),
            folder: TempDir::new().map_err(SuiteError::Host)?,
        })
    }

    /// Starts `scenario`. `bell` is rung when it has ended.
    pub(super) fn start<'a>(
        &self,
        index: usize,
        scenario: &'a Scenario,
        bell: &Arc<Doorbell>,
    ) -> Result<Running<'a>, SuiteError> {
        let mut files = [None, None];
        let mut log = None;
        let report = match &self.logs {
            Some(logs) => {
                let place = logs.join(&scenario.kept_as);
                let [stdout, stderr] = &mut files;
                let named = |extension: &str| {
                    let mut path = place.clone();
                    path.as_mut_os_string().push(extension);
                    path
                };
                *stdout = Some(create(&named(".log"))?);
                *stderr = Some(create(&named(".err"))?);
                log = Some(named(".log"));
                named(".json")
            }
            None => self.folder.path().join(format!("{index}.json")),
        };
        let mut command = Command::new(&self.program);
        command.arg("run").arg(&scenario.file).args(&self.flags);
        if let Some(kind) = self.auto.backend_of(&scenario.config) {
            command.args(["--accel", &kind.to_string()]);
        }
        // An older one of the same name would be taken for this run's, if this run wrote none.
        if let Err(source) = fs::remove_file(&report)
            && source.kind() != io::ErrorKind::NotFound
        {
            return Err(SuiteError::Logs { path: report, source });
        }
        let limit = scenario.config.timeout.unwrap_or(DEFAULT_LIMIT);
        if scenario.config.timeout.is_none() {
            command.arg("--timeout").arg(format!("{}s", limit.as_secs()));
        }
        command.arg("--report").arg(&report);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        child::prepare(&mut command);
        let begun = Instant::now();
        let mut child = command.spawn().map_err(SuiteError::Start)?;
        let open = Arc::new(AtomicUsize::new(2));
        let [out_file, err_file] = files;
        let stdout = read(child.stdout.take(), out_file, &open, bell);
        let stderr = read(child.stderr.take(), err_file, &open, bell);
        let readers = match (stdout, stderr) {
            (Ok(stdout), Ok(stderr)) => [stdout, stderr],
            (Err(error), _) | (_, Err(error)) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(SuiteError::Host(error));
            }
        };
        let deadline = later(begun, limit.saturating_add(PATIENCE));
        Ok(Running { index, scenario, child, begun, deadline, killed: false, open, readers, report, log })
    }
}

impl Running<'_> {
    /// Asks the process to end, as SIGTERM does.
    pub(super) fn ask_to_end(&mut self) {
        child::terminate(&self.child);
        let grace = self.scenario.config.grace.unwrap_or_default();
        self.deadline = self.deadline.min(later(Instant::now(), grace.saturating_add(PATIENCE)));
    }

    /// When it has to have ended.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Kills a process that does not end.
    pub(super) fn kill_if_late(&mut self, now: Instant) {
        if now >= self.deadline && !self.has_ended() {
            self.killed = true;
            let _ = self.child.kill();
            self.deadline = later(now, FAR);
        }
    }

    /// Whether it has closed its output, which nobody else has.
    pub(super) fn has_ended(&self) -> bool {
        self.open.load(Ordering::Acquire) == 0
    }

    /// Collects what it left behind.
    ///
    /// # Errors
    /// When the host cannot tell how it ended.
    pub(super) fn finish(mut self) -> Result<Ended, SuiteError> {
        let status = self.child.wait().map_err(SuiteError::Host)?;
        let time = self.begun.elapsed();
        let [stdout, stderr] = self.readers;
        let panicked = || SuiteError::Host(io::Error::other("a reader of output has panicked"));
        let stdout = stdout.join().map_err(|_| panicked())?;
        let stderr = stderr.join().map_err(|_| panicked())?;
        let json: Option<serde_json::Value> =
            fs::read(&self.report).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let report: Option<Report> = json.clone().and_then(|json| serde_json::from_value(json).ok());
        // COM1 may be elsewhere than on stdout; the report has followed it there.
        let output = match &report {
            Some(report) if !report.last_lines.is_empty() => {
                let skip = report.last_lines.len().saturating_sub(SHOWN);
                report.last_lines.iter().skip(skip).cloned().collect()
            }
            _ => stdout.tail.last(SHOWN),
        };
        Ok(Ended {
            status,
            killed: self.killed,
            time,
            report,
            json,
            output,
            said: stderr.tail.last(SHOWN),
            log: self.log,
            lost: stdout.lost.or(stderr.lost),
        })
    }
}

/// Kills the processes that still run.
pub(super) fn kill_all(running: &mut Vec<Running<'_>>) {
    for one in running.iter_mut() {
        let _ = one.child.kill();
    }
    for mut one in running.drain(..) {
        let _ = one.child.wait();
    }
}

/// `now + time`, or an instant that is as good as never.
fn later(now: Instant, time: Duration) -> Instant {
    now.checked_add(time.min(FAR)).unwrap_or(now)
}

fn create(path: &Path) -> Result<(PathBuf, File), SuiteError> {
    let logs = |source| SuiteError::Logs { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(logs)?;
    }
    Ok((path.to_owned(), File::create(path).map_err(logs)?))
}

/// Reads `pipe` to its end in a thread of its own, and keeps it in `file`.
fn read(
    pipe: Option<impl Read + Send + 'static>,
    file: Option<(PathBuf, File)>,
    open: &Arc<AtomicUsize>,
    bell: &Arc<Doorbell>,
) -> io::Result<JoinHandle<Collected>> {
    let (open, bell) = (Arc::clone(open), Arc::clone(bell));
    thread::Builder::new().name("output".to_owned()).spawn(move || {
        let collected = collect(pipe, file);
        open.fetch_sub(1, Ordering::AcqRel);
        bell.ring();
        collected
    })
}

fn collect(pipe: Option<impl Read>, mut file: Option<(PathBuf, File)>) -> Collected {
    let mut collected = Collected { tail: Tail::default(), lost: None };
    let Some(mut pipe) = pipe else { return collected };
    let mut filter = AnsiFilter::default();
    let mut chunk = [0; 16 << 10];
    loop {
        let count = match pipe.read(&mut chunk) {
            Ok(0) => return collected,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return collected,
        };
        let bytes = chunk.get(..count).unwrap_or_default();
        bytes.iter().filter_map(|byte| filter.keep(*byte)).for_each(|byte| collected.tail.push(byte));
        if let Some((path, open)) = &mut file
            && let Err(error) = open.write_all(bytes)
        {
            // What comes after it is read all the same, so that the process can end.
            collected.lost = Some((path.clone(), error));
            file = None;
        }
    }
}

//! Runs many scenarios at once, each in a process of its own: one that hangs or crashes harms no other.
//!
//! [`find`] reads every scenario file before anything starts; [`run`] starts as many as may run at a time,
//! shows each as it ends, and writes the reports. `docs/scripting.md` tells how it is used.
#![forbid(unsafe_code)]

mod budget;
mod error;
mod process;
mod results;
mod scenario;
mod shard;
mod show;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;

use crate::accel::select;
use crate::accel::{Accel, AccelKind, GuestArch};
use crate::config::VmConfig;
use crate::console::{Doorbell, Signals};
use crate::report::Target;
use crate::vm::guest_arch;
use budget::Budget;
pub use error::SuiteError;
use process::{Launcher, Running, kill_all};
use results::{Results, Verdict};
pub use scenario::{Scenario, find};
pub use shard::{Shard, parse_jobs, parse_shard};
use show::Show;

/// Exit status when a scenario failed.
pub const STATUS_FAILED: u8 = 1;
/// The time limit of a scenario that has none: a test ends by itself.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(600);

/// A suite: what to run and how.
#[derive(Debug)]
pub struct Suite {
    /// The scenarios of all shards, in order.
    pub scenarios: Vec<Scenario>,
    /// The part that runs here.
    pub shard: Shard,
    /// How many run at a time; without it, as many as fit the host.
    pub jobs: Option<usize>,
    /// Flags of `run` for every scenario.
    pub flags: Vec<OsString>,
    /// Where the JSON report goes; `-` is stdout.
    pub report: Option<PathBuf>,
    /// Where the JUnit report goes; `-` is stdout.
    pub junit: Option<PathBuf>,
    /// The folder that keeps the output of every scenario.
    pub logs: Option<PathBuf>,
}

/// Runs `suite` and answers the exit status: 0 if every scenario passed, 1 if one did not, 128 + n after
/// signal n.
///
/// # Errors
/// When the host fails the suite; what runs has ended then.
pub fn run(suite: &Suite) -> Result<u8, SuiteError> {
    let begin = Instant::now();
    let scenarios = suite.shard.of(&suite.scenarios);
    let report = suite.report.as_deref().map(|path| Target::open("--report", path)).transpose()?;
    let junit = suite.junit.as_deref().map(|path| Target::open("--junit", path)).transpose()?;
    let on_stdout = [&report, &junit].into_iter().flatten().any(Target::is_stdout);
    let launcher = Launcher::new(suite.logs.as_deref(), suite.flags.clone(), AutoChoices::new(&scenarios))?;
    let mut results = Results::new(&scenarios, suite.shard);
    let mut show = Show::new(scenarios.len(), on_stdout);
    let signal = run_all(suite.jobs, &launcher, &scenarios, &mut results, &mut show)?;
    let status = match signal {
        Some(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        None if results.all_passed() => 0,
        None => STATUS_FAILED,
    };
    results.finish(begin.elapsed(), status);
    show.summary(&results)?;
    if let Some(target) = junit {
        target.write(&results.junit())?;
    }
    if let Some(target) = report {
        target.write(&results.json())?;
    }
    match results.lost_output() {
        Some(error) => Err(error),
        None => Ok(status),
    }
}

/// Runs every scenario; tells the signal that ended them early. Nothing goes on when this returns.
fn run_all<'a>(
    jobs: Option<usize>,
    launcher: &Launcher,
    scenarios: &[&'a Scenario],
    results: &mut Results<'a>,
    show: &mut Show,
) -> Result<Option<i32>, SuiteError> {
    let mut running = Vec::new();
    let result = drive(Budget::new(jobs), launcher, scenarios, &mut running, results, show);
    kill_all(&mut running);
    result
}

fn drive<'a>(
    budget: Budget,
    launcher: &Launcher,
    scenarios: &[&'a Scenario],
    running: &mut Vec<Running<'a>>,
    results: &mut Results<'a>,
    show: &mut Show,
) -> Result<Option<i32>, SuiteError> {
    let bell = Arc::new(Doorbell::new().map_err(SuiteError::Host)?);
    let signals = Signals::install(&bell).map_err(SuiteError::Host)?;
    let mut waiting = scenarios.iter().enumerate().peekable();
    let mut told = 0;
    loop {
        let ending = signals.pending().is_some();
        while let Some((index, scenario)) = waiting.peek().copied().filter(|_| !ending) {
            if !budget.has_room(running.iter().map(|one| one.scenario), scenario) {
                break;
            }
            running.push(launcher.start(index, scenario, &bell)?);
            waiting.next();
        }
        if running.is_empty() {
            return Ok(signals.pending());
        }
        // Each signal is handed on: the first presses the button of a guest with `grace`.
        let count = signals.count();
        if count > told {
            told = count;
            running.iter_mut().for_each(Running::ask_to_end);
        }
        show.running(running.iter().map(|one| one.scenario.name.as_str()), results.failures());
        let next = running.iter().map(Running::deadline).chain([show.next_tick()]).min();
        let pause = next.map(|next| next.saturating_duration_since(Instant::now()));
        bell.wait(pause);
        let now = Instant::now();
        let mut at = 0;
        while let Some(one) = running.get_mut(at) {
            one.kill_if_late(now);
            if !one.has_ended() {
                at += 1;
                continue;
            }
            let one = running.swap_remove(at);
            let (index, scenario) = (one.index, one.scenario);
            let verdict = Verdict::new(one.finish()?, signals.pending().is_some());
            show.ended(scenario, &verdict)?;
            results.set(index, verdict);
        }
    }
}

/// The backends for scenarios that leave the choice to us, by their guests' architecture. They are measured
/// once, while the host is quiet. Where there is none, the scenario's own process says why.
struct AutoChoices(Vec<(Option<GuestArch>, AccelKind)>);

impl AutoChoices {
    fn new(scenarios: &[&Scenario]) -> Self {
        let mut choices: Vec<(Option<GuestArch>, AccelKind)> = Vec::new();
        for scenario in scenarios.iter().filter(|scenario| scenario.config.accel == AccelKind::Auto) {
            let Ok(wanted) = guest_arch(&scenario.config) else { continue };
            if choices.iter().any(|(known, _)| *known == wanted) {
                continue;
            }
            let Ok(choice) = select::choose(wanted) else { continue };
            let kind = choice.backend.kind();
            let level = if kind == AccelKind::Soft { Level::Warn } else { Level::Info };
            log::log!(level, "{}", choice.reason);
            choices.push((wanted, kind));
        }
        Self(choices)
    }

    /// The backend for `config`, unless it names one.
    fn backend_of(&self, config: &VmConfig) -> Option<AccelKind> {
        if config.accel != AccelKind::Auto {
            return None;
        }
        let wanted = guest_arch(config).ok()?;
        self.0.iter().find(|(known, _)| *known == wanted).map(|(_, kind)| *kind)
    }
}

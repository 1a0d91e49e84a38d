//! The virtual machine: memory, backend, devices, vCPU threads and the run loop.

mod bios_timer;
mod extension;
mod facts;
mod guest;
mod host;
mod machine;
mod panic_watch;
mod reset_vector;
mod run_state;
mod supervisor;
mod typist;
mod vcpu_loop;
mod watcher;
mod whole_machine;

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;
use thiserror::Error;

use crate::accel::{
    Accel, AccelError, AccelKind, PlatformBackend, PlatformVcpu, VcpuError, VcpuOps, VcpuSetup,
    select::Choice,
};
use crate::config::{Reaction, VmConfig};
use crate::console::{self, GuestOutput, OutputError, RawMode, SocketError};
use crate::devices::BusError;
use crate::devices::acpi::AcpiError;
use crate::loader::LoadError;
use crate::memory::MemoryError;
use crate::outcome::Outcome;
use crate::script::Verdict;
pub use extension::{Extension, HostOutput, Wiring};
pub use facts::{ExitCounts, Facts, Registers};
use guest::Guest;
pub use guest::guest_arch;
use host::{Host, Ports};
use machine::Machine;
use run_state::{End, RunState};
use supervisor::{Button, Supervisor};
use typist::Typist;
use vcpu_loop::{Platform, linear_rip, run_vcpu};

/// Why a run failed by vm-accel's or the host's fault: exit status 125.
#[derive(Debug, Error)]
pub enum VmError {
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The kernel, the initrd or the command line.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The backend.
    #[error(transparent)]
    Accel(#[from] AccelError),
    /// No backend for this kernel.
    #[error("{kernel}: {reason}")]
    NoBackend {
        /// Its file.
        kernel: String,
        /// The reason, and what to do.
        reason: AccelError,
    },
    /// A vCPU.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// Two devices at one address.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The machine has no place for so many vCPUs.
    #[error("the AArch64 machine has at most {limit} CPUs, not {cpus}. Lower `--cpus`")]
    TooManyCpus {
        /// What was asked for.
        cpus: u32,
        /// What there can be.
        limit: u32,
    },
    /// The ACPI tables.
    #[error(transparent)]
    Acpi(#[from] AcpiError),
    /// The terminal, or stdin.
    #[error("cannot use the terminal: {0}")]
    Console(#[source] io::Error),
    /// A serial port's file.
    #[error("cannot write the serial port's file {path}: {reason}. Name a file that you may write with `--serial file:PATH`", path = .path.display())]
    SerialFile {
        /// The file.
        path: PathBuf,
        /// The host's reason.
        reason: io::Error,
    },
    /// A serial port's socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A serial port's pty.
    #[error(
        "cannot make a pty for a serial port: {0}. Use `--serial unix:PATH`, or give the process access to /dev/ptmx and /dev/pts"
    )]
    Pty(#[source] io::Error),
    /// The log of the serial output.
    #[error("cannot write the log {path}: {reason}. Name a file that you may write with `--log FILE`", path = .path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// The host's reason.
        reason: io::Error,
    },
    /// Guest output was lost.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The host gave no thread.
    #[error("cannot start a thread: {0}. Lower `--cpus`, or raise the host's limit of processes")]
    Thread(#[source] io::Error),
    /// A defect of ours: a thread panicked.
    #[error("internal error: {0} panicked. This is a defect of vm-accel; please report it")]
    Panicked(String),
}

/// A run that came to an end of the guest's making.
#[derive(Debug)]
pub struct Ended {
    /// What became of the guest.
    pub outcome: Outcome,
    /// The backend that ran it.
    pub accel: AccelKind,
    /// What the script still waited for, and the last lines of the guest's output, if the script has
    /// failed or did not come to its end.
    pub unfinished: Option<Unfinished>,
    /// What else there is to tell.
    pub facts: Facts,
}

/// A script that did not come to its end.
#[derive(Debug)]
pub struct Unfinished {
    /// The step that was waiting, in words.
    pub waiting: Option<String>,
    /// The last lines of the guest's output.
    pub last_lines: Vec<String>,
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.last_lines.is_empty() {
            writeln!(f, "vm-accel: the guest wrote nothing")?;
        } else {
            writeln!(f, "vm-accel: the last lines of the guest's output:")?;
        }
        for line in &self.last_lines {
            writeln!(f, "  {line}")?;
        }
        match &self.waiting {
            Some(waiting) => writeln!(f, "vm-accel: {waiting}"),
            None => Ok(()),
        }
    }
}

/// Lines of output that are shown when a script fails.
const SHOWN_LINES: usize = 20;
/// Lines of output that a report has.
const REPORTED_LINES: usize = 100;

/// Boots the machine that `config` describes and waits for its end. Guest output goes to stdout, and
/// nothing else does.
///
/// # Errors
/// When the guest could not be started, or the host failed it.
pub fn run(config: &VmConfig) -> Result<Ended, VmError> {
    run_with(config, None)
}

/// [`run`] with an addition to the machine.
///
/// # Errors
/// As [`run`].
pub fn run_with(
    config: &VmConfig,
    mut extension: Option<&mut (dyn Extension + '_)>,
) -> Result<Ended, VmError> {
    let start = Instant::now();
    let kernel = guest::open_kernel(config)?;
    let Choice { backend, reason } = guest::create_backend(config.accel, &kernel)?;
    let accel = backend.kind();
    // A whole-machine backend has no place for an addition; it says so when it is given memory.
    if extension.is_none() && backend.takes_whole_machines() {
        let facts = Facts { reason, protocol: "the backend's own".into(), ..Facts::default() };
        return run_whole(config, backend, start, facts);
    }
    let mut guest = guest::load(config, kernel, backend, extension.as_deref())?;
    // Said only now, so that a bad kernel is one line on stderr and not two.
    if config.accel == AccelKind::Auto {
        // A command's stderr is its own.
        let warn = accel == AccelKind::Soft && extension.is_none();
        log::log!(if warn { Level::Warn } else { Level::Info }, "{reason}");
    }
    log::info!("booting {}", guest.boot.protocol);
    let mut facts = Facts {
        reason,
        protocol: guest.boot.protocol.clone(),
        kernel_version: guest.boot.version.clone(),
        ..Facts::default()
    };

    let host = Arc::new(Host::new(config, start)?);
    let raw_mode = if config.uses_stdio() { RawMode::enter().map_err(VmError::Console)? } else { None };
    let end = loop {
        let end = boot(config, guest, &host, &mut facts, extension.as_deref_mut());
        if let Some(end) = end_of_run(config, &host, end) {
            break end;
        }
        log::info!("the guest boots again");
        let again = guest::open_kernel(config).map_err(VmError::from).and_then(|kernel| {
            guest::load(config, kernel, PlatformBackend::new(accel)?, extension.as_deref())
        });
        guest = match again {
            Ok(guest) => guest,
            Err(error) => break Err(error),
        };
    };
    conclude(config, &host, raw_mode, end, accel, facts)
}

/// Runs a machine that the backend has whole. It boots only once: the backend does not tell a reset.
fn run_whole(
    config: &VmConfig,
    mut backend: PlatformBackend,
    start: Instant,
    mut facts: Facts,
) -> Result<Ended, VmError> {
    let accel = backend.kind();
    let host = Arc::new(Host::new(config, start)?);
    let raw_mode = if config.uses_stdio() { RawMode::enter().map_err(VmError::Console)? } else { None };
    let end = whole_machine::boot(config, &host, &mut facts, |events| {
        let no_machine = || AccelError::NotOnThisPlatform { kind: accel, remedy: "Use `--accel auto`" };
        backend.start_machine(config, events).unwrap_or_else(|| Err(no_machine()))
    });
    conclude(config, &host, raw_mode, end, accel, facts)
}

/// What is to be told of a run that ended so.
fn conclude(
    config: &VmConfig,
    host: &Arc<Host>,
    raw_mode: Option<RawMode>,
    end: End,
    accel: AccelKind,
    mut facts: Facts,
) -> Result<Ended, VmError> {
    host.stop_input();
    let interrupted = matches!(end, Ok(Outcome::Signalled(_)));
    let handed_over = host.close_lines(patience(host, interrupted));
    // The terminal is as it was before anything else is said on it.
    drop(raw_mode);
    facts.end = Some(Instant::now());
    (facts.serial_bytes, facts.first_serial_byte) = host.written.get();
    let outcome = script_judges(host, end?);
    unless_ended_from_outside(&outcome, handed_over)?;
    host.flush_files(config)?;
    if let Some(watcher) = &host.watcher {
        watcher.with_runner(|runner| {
            facts.steps = runner.records().to_vec();
            facts.init_seen = runner.init_seen();
            facts.last_lines = runner.last_lines(REPORTED_LINES);
        });
    }
    let unfinished = host.watcher.as_ref().and_then(|watcher| {
        watcher.with_runner(|runner| {
            let failed = matches!(outcome, Outcome::Script(Verdict::Failed(_)));
            // The failure itself says what it waited for.
            let waiting = runner.waiting().filter(|_| !failed);
            (failed || waiting.is_some())
                .then(|| Unfinished { waiting, last_lines: runner.last_lines(SHOWN_LINES) })
        })
    });
    Ok(Ended { outcome, accel, unfinished, facts })
}

/// How the run ends after a boot that ended so; `None` if the guest boots again. A guest that resets for
/// ever cannot outrun the time limit or a signal.
fn end_of_run(config: &VmConfig, host: &Host, end: End) -> Option<End> {
    match end {
        Ok(outcome) if config.reactions.to(&outcome) == Reaction::Reboot => match host.signals.pending() {
            // Who asked it to power off wants no other boot.
            Some(_) if config.grace.is_some() => Some(Ok(outcome)),
            Some(signal) => Some(Ok(Outcome::Signalled(signal))),
            None if host.escaped() => Some(Ok(Outcome::Escaped)),
            None => host
                .limit
                .filter(|(deadline, _)| Instant::now() >= *deadline)
                .map(|(_, limit)| Ok(Outcome::TimedOut { limit })),
        },
        end => Some(end),
    }
}

/// Runs one guest from its start to its end. All its output is written when this returns.
fn boot(
    config: &VmConfig,
    guest: Guest,
    host: &Arc<Host>,
    facts: &mut Facts,
    extension: Option<&mut (dyn Extension + '_)>,
) -> Result<Outcome, VmError> {
    // The memory stays until the vCPUs are gone.
    let Guest { mut backend, memory: _memory, boot } = guest;
    let state = Arc::new(RunState::new(config.cpus, Arc::clone(&host.bell)));
    let waker: console::Waker = {
        let bell = Arc::clone(&host.bell);
        Arc::new(move || bell.ring())
    };
    let output = HostOutput {
        stdout: Arc::new(GuestOutput::stdout(Arc::clone(&waker))),
        stderr: Arc::new(GuestOutput::stderr(waker)),
    };
    let machine = Machine::new(config, backend.interrupt_sink(), &state, host, &output, extension)?;
    if boot.bios {
        bios_timer::start(&machine.platform.ports);
    }
    let setup = VcpuSetup { cpus: config.cpus, interrupts: machine.controller() };
    let mut vcpus = Vec::new();
    for id in 0..config.cpus {
        vcpus.push(backend.create_vcpu(id, &setup)?);
    }
    if let Some(boot_vcpu) = vcpus.first_mut() {
        if let Some(special) = &boot.special {
            boot_vcpu.set_special_regs(special)?;
        }
        boot_vcpu.set_regs(&boot.regs)?;
        machine.set_boot_kick(boot_vcpu.kicker());
    }
    state.set_kicks(vcpus.iter().map(VcpuOps::kicker).collect());
    if let Some(watcher) = &host.watcher {
        watcher.set_ending(false);
    }
    let ports: Ports = machine.serial.map(|port| port.map(|port| port as Arc<dyn Typist>));
    host.connect(&ports);
    let supervisor = Supervisor {
        state: Arc::clone(&state),
        host: Arc::clone(host),
        has_stdin: config.uses_stdio(),
        com1: ports.into_iter().next().flatten(),
        button: machine.button.map(|button| Box::new(move || button.press()) as Button),
        timers: machine.timers,
        output: output.clone(),
        grace: config.grace,
        ends_hangs: config.reactions.hang != Reaction::Wait,
    };
    facts.boots = facts.boots.saturating_add(1);
    facts.first_instruction.get_or_insert_with(Instant::now);
    let boots_again = |outcome: &Outcome| config.reactions.to(outcome) == Reaction::Reboot;
    let (end, registers) =
        execute(vcpus, machine.platform, supervisor, &state, boots_again, host.watcher.is_some());
    host.disconnect();
    facts.registers = registers;
    facts.exits.add(&state.exits());
    let interrupted = matches!(end, Ok(Outcome::Signalled(_)));
    let flushed = flush(&output, || patience(host, interrupted));
    lost_output(end, flushed)
}

/// Writes the rest of the guest's output.
fn flush<P: FnMut() -> bool>(output: &HostOutput, patience: impl Fn() -> P) -> Result<(), OutputError> {
    output.stdout.finish(patience()).and(output.stderr.finish(patience()))
}

/// The end of a boot whose output was written so.
fn lost_output(end: End, flushed: Result<(), OutputError>) -> Result<Outcome, VmError> {
    let outcome = end?;
    unless_ended_from_outside(&outcome, flushed)?;
    Ok(outcome)
}

/// Lost output is a failure. But who ends a run from outside may well have stopped reading, and wants that
/// end as the status.
fn unless_ended_from_outside(outcome: &Outcome, result: Result<(), OutputError>) -> Result<(), OutputError> {
    match result {
        Err(error) if matches!(outcome, Outcome::Signalled(_) | Outcome::Escaped) => {
            log::warn!("{error}");
            Ok(())
        }
        result => result,
    }
}

/// What the script makes of the guest's end: what the guest wrote counts before how it ended.
fn script_judges(host: &Host, outcome: Outcome) -> Outcome {
    let wished = matches!(outcome, Outcome::PoweredOff | Outcome::Reset | Outcome::DebugExit(_));
    let Some(watcher) = &host.watcher else { return outcome };
    match outcome {
        Outcome::Script(_) | Outcome::Signalled(_) | Outcome::Escaped => outcome,
        outcome => match watcher.judge(&outcome.to_string(), wished) {
            Some(verdict) => Outcome::Script(verdict),
            None => outcome,
        },
    }
}

/// How long a slow reader may hold up the end of the run.
fn patience(host: &Host, interrupted: bool) -> impl FnMut() -> bool + '_ {
    const PATIENCE: Duration = Duration::from_secs(10);
    let start = Instant::now();
    let before = host.signals.count();
    move || interrupted || start.elapsed() > PATIENCE || host.signals.count() > before
}

/// Runs all vCPUs to the end of the run: vCPU 0 on this thread, which saves a short run a thread. Tells
/// the last registers of each vCPU, too, if somebody wants them.
fn execute(
    vcpus: Vec<PlatformVcpu>,
    platform: Platform,
    supervisor: Supervisor,
    state: &Arc<RunState>,
    boots_again: impl Fn(&Outcome) -> bool,
    wants_registers: bool,
) -> (End, Vec<Option<Registers>>) {
    let platform = Arc::new(platform);
    let supervisor = spawn("supervisor", state, move || {
        supervisor.watch();
        Ok(())
    });
    let supervisor = match supervisor {
        Ok(thread) => thread,
        Err(error) => return (Err(error), Vec::new()),
    };
    let mut vcpus = vcpus.into_iter();
    let Some(mut boot_vcpu) = vcpus.next() else {
        return (Err(VmError::Panicked("a machine without a vCPU".into())), Vec::new());
    };
    let last = move |vcpu: &PlatformVcpu| wants_registers.then(|| facts::registers(vcpu)).flatten();
    let mut threads = Vec::new();
    for mut vcpu in vcpus {
        let platform = Arc::clone(&platform);
        let shared = Arc::clone(state);
        let thread = spawn(&format!("vcpu{}", vcpu.get_id()), state, move || {
            run_vcpu(&mut vcpu, &platform, &shared)?;
            Ok(last(&vcpu))
        });
        match thread {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                state.finish(Err(error));
                break;
            }
        }
    }
    guarded("vcpu0", state, || run_vcpu(&mut boot_vcpu, &platform, state).map_err(VmError::from));
    // A panic inside was caught and has ended the run.
    let others: Vec<_> = threads.into_iter().map(|thread| thread.join().ok().flatten().flatten()).collect();
    let end = state.take_end().unwrap_or_else(|| Err(VmError::Panicked("the run loop".into())));
    // At the run's end it is not joined: it ends by itself, and a short run need not wait for that.
    if end.as_ref().is_ok_and(boots_again) {
        let _ = supervisor.join();
    }
    let mut registers = Vec::new();
    if wants_registers {
        registers.push(last(&boot_vcpu));
        registers.extend(others);
    }
    let end = end.map(|outcome| match outcome {
        Outcome::Hung { rip: None } => Outcome::Hung { rip: linear_rip(&boot_vcpu) },
        outcome => outcome,
    });
    (end, registers)
}

/// Does `work`; an error or a panic in it ends the run.
fn guarded<T>(name: &str, state: &RunState, work: impl FnOnce() -> Result<T, VmError>) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(result)) => return Some(result),
        Ok(Err(error)) => state.finish(Err(error)),
        Err(_) => state.finish(Err(VmError::Panicked(format!("the thread {name}")))),
    }
    None
}

/// Starts a thread whose errors and panics end the run.
fn spawn<T: Send + 'static>(
    name: &str,
    state: &Arc<RunState>,
    work: impl FnOnce() -> Result<T, VmError> + Send + 'static,
) -> Result<std::thread::JoinHandle<Option<T>>, VmError> {
    let state = Arc::clone(state);
    let thread_name = name.to_owned();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || guarded(&thread_name, &state, work))
        .map_err(VmError::Thread)
}

//! The virtual machine: memory, backend, devices, vCPU threads and the run loop.

mod extension;
mod machine;
mod panic_watch;
mod reset_vector;
mod run_state;
mod supervisor;
mod vcpu_loop;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;
use thiserror::Error;

use crate::accel::{
    Accel, AccelError, AccelKind, InterruptController, PlatformBackend, PlatformVcpu, VcpuError, VcpuOps,
    VcpuSetup,
    select::{self, Choice},
};
use crate::config::{KernelSource, VmConfig};
use crate::console::{self, Doorbell, GuestOutput, OutputError, RawMode, Signals};
use crate::devices::BusError;
use crate::devices::acpi::{self, AcpiError, AcpiSpec};
use crate::loader::{self, KernelImage, LoadError, LoadRequest};
use crate::memory::{self, MemoryError};
use crate::outcome::Outcome;
pub use extension::{Extension, HostOutput, Wiring};
use machine::Machine;
use run_state::{End, RunState};
use supervisor::Supervisor;
use vcpu_loop::{Platform, linear_rip, run_vcpu};

/// The guest that runs when no kernel is named; its source is in `images/builtin`.
const BUILTIN_GUEST: &[u8] = include_bytes!("../../images/builtin/builtin.elf");

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
    /// A vCPU.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// Two devices at one address.
    #[error(transparent)]
    Bus(#[from] BusError),
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
}

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
pub fn run_with(config: &VmConfig, extension: Option<&mut (dyn Extension + '_)>) -> Result<Ended, VmError> {
    let kernel = match &config.kernel {
        KernelSource::Builtin => KernelImage::builtin(BUILTIN_GUEST),
        KernelSource::File(path) => KernelImage::open(path)?,
    };
    let Choice { mut backend, reason } = create_backend(config.accel)?;
    let accel = backend.kind();
    // A whole-machine backend has no place for an addition; it says so when it is asked for a vCPU.
    if extension.is_none()
        && let Some(outcome) = backend.run_machine(config)
    {
        return Ok(Ended { outcome: outcome?, accel });
    }
    let memory = memory::allocate(config.memory)?;
    reset_vector::write(&memory)?;
    let rsdp = acpi::write_tables(&memory, &acpi_spec(config))?;
    let file = config.initrd.as_deref().map(KernelImage::open).transpose()?;
    let boot = loader::load(&LoadRequest {
        kernel,
        initrd: extension.as_deref().and_then(|extension| extension.initrd()).or(file.as_ref()),
        cmdline: config.cmdline.as_deref(),
        modules: &config.modules,
        flat: config.flat,
        decompress: config.decompress,
        memory: &memory,
        rsdp: Some(rsdp),
    })?;
    // Said only now, so that a bad kernel is one line on stderr and not two.
    if config.accel == AccelKind::Auto {
        // A command's stderr is its own.
        let warn = accel == AccelKind::Soft && extension.is_none();
        log::log!(if warn { Level::Warn } else { Level::Info }, "{reason}");
    }
    log::info!("booting {}", boot.protocol);

    backend.map_memory(&memory)?;
    let bell = Arc::new(Doorbell::new().map_err(VmError::Console)?);
    let state = Arc::new(RunState::new(config.cpus, Arc::clone(&bell)));
    let waker: console::Waker = {
        let state = Arc::clone(&state);
        Arc::new(move || state.wake_supervisor())
    };
    let output = HostOutput {
        stdout: Arc::new(GuestOutput::stdout(Arc::clone(&waker))),
        stderr: Arc::new(GuestOutput::stderr(waker)),
    };
    let machine = Machine::new(config, backend.msi_sink(), &state, &output, extension)?;
    let interrupts = Arc::clone(&machine.irqchip) as Arc<dyn InterruptController>;
    let setup = VcpuSetup { cpus: config.cpus, interrupts };
    let mut vcpus = Vec::new();
    for id in 0..config.cpus {
        vcpus.push(backend.create_vcpu(id, &setup)?);
    }
    if let Some(boot_vcpu) = vcpus.first_mut() {
        boot_vcpu.set_special_regs(&boot.special)?;
        boot_vcpu.set_regs(&boot.regs)?;
        machine.irqchip.set_boot_kick(boot_vcpu.kicker());
    }
    state.set_kicks(vcpus.iter().map(VcpuOps::kicker).collect());

    let signals = Arc::new(Signals::install(&bell).map_err(VmError::Console)?);
    let stdin = machine.stdin.clone();
    let raw_mode = if stdin.is_some() { RawMode::enter().map_err(VmError::Console)? } else { None };
    let supervisor = Supervisor {
        state: Arc::clone(&state),
        bell,
        signals: Arc::clone(&signals),
        stdin,
        timers: machine.timers,
        output: output.clone(),
        timeout: config.timeout,
    };
    let end = execute(vcpus, machine.platform, supervisor, &state);
    let flushed = output.stdout.finish(patience(&signals)).and(output.stderr.finish(patience(&signals)));
    // The terminal is as it was before anything else is said on it.
    drop(raw_mode);
    let outcome = end?;
    match flushed {
        // Who ends a run from outside may well have stopped reading, and wants that end as the status.
        Err(error) if matches!(outcome, Outcome::Signalled(_) | Outcome::Escaped) => log::warn!("{error}"),
        flushed => flushed?,
    }
    Ok(Ended { outcome, accel })
}

/// The backend that is asked for, and why it is taken.
fn create_backend(kind: AccelKind) -> Result<Choice, AccelError> {
    if kind == AccelKind::Auto {
        return select::choose();
    }
    Ok(Choice { backend: PlatformBackend::new(kind)?, reason: format!("{kind}, as asked for") })
}

fn acpi_spec(config: &VmConfig) -> AcpiSpec {
    let serial = std::array::from_fn(|port| config.serial.get(port).is_some_and(Option::is_some));
    AcpiSpec { cpus: config.cpus, serial, virtio_mmio: Vec::new() }
}

/// How long a slow reader may hold up the end of the run.
fn patience(signals: &Signals) -> impl FnMut() -> bool + '_ {
    const PATIENCE: Duration = Duration::from_secs(10);
    let start = Instant::now();
    let before = signals.pending();
    move || start.elapsed() > PATIENCE || before.is_some() || signals.pending().is_some()
}

/// Runs all vCPUs to the end of the run: vCPU 0 on this thread, which saves a short run a thread.
fn execute(
    vcpus: Vec<PlatformVcpu>,
    platform: Platform,
    supervisor: Supervisor,
    state: &Arc<RunState>,
) -> End {
    let platform = Arc::new(platform);
    // It is not joined: it ends by itself when the run does, and a short run need not wait for that.
    spawn("supervisor", state, move || {
        supervisor.watch();
        Ok(())
    })?;
    let mut vcpus = vcpus.into_iter();
    let Some(mut boot_vcpu) = vcpus.next() else {
        return Err(VmError::Panicked("a machine without a vCPU".into()));
    };
    let mut threads = Vec::new();
    for mut vcpu in vcpus {
        let platform = Arc::clone(&platform);
        let shared = Arc::clone(state);
        let thread = spawn(&format!("vcpu{}", vcpu.get_id()), state, move || {
            run_vcpu(&mut vcpu, &platform, &shared).map_err(VmError::from)
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
    for thread in threads {
        // A panic inside was caught and has ended the run.
        let _ = thread.join();
    }
    let end = state.take_end().unwrap_or_else(|| Err(VmError::Panicked("the run loop".into())));
    end.map(|outcome| match outcome {
        Outcome::Hung { rip: None } => Outcome::Hung { rip: linear_rip(&boot_vcpu) },
        outcome => outcome,
    })
}

/// Does `work`; an error or a panic in it ends the run.
fn guarded(name: &str, state: &RunState, work: impl FnOnce() -> Result<(), VmError>) {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => state.finish(Err(error)),
        Err(_) => state.finish(Err(VmError::Panicked(format!("the thread {name}")))),
    }
}

/// Starts a thread whose errors and panics end the run.
fn spawn(
    name: &str,
    state: &Arc<RunState>,
    work: impl FnOnce() -> Result<(), VmError> + Send + 'static,
) -> Result<std::thread::JoinHandle<()>, VmError> {
    let state = Arc::clone(state);
    let thread_name = name.to_owned();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || guarded(&thread_name, &state, work))
        .map_err(VmError::Thread)
}

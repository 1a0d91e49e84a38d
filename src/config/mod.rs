//! What a run is made of: the TOML file and the flags, validated.
//!
//! The file and the command line give [`Settings`] each; the command line's override the file's, and
//! [`Settings::into_config`] checks what is left and fills in the defaults.
#![forbid(unsafe_code)]

mod error;
mod file;
mod reaction;
mod value;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::accel::AccelKind;
use crate::memory;
use crate::script::{Pattern, Script, Step};
pub use error::{ConfigError, Origin, ValueError};
pub use reaction::{Reaction, Reactions, parse_on_hang, parse_reaction};
pub use value::{
    MAX_CPUS, MAX_MEMORY, MAX_TIMEOUT, MIN_MEMORY, parse_accel, parse_cpus, parse_debug_exit, parse_flat,
    parse_memory, parse_module, parse_serial, parse_status, parse_timeout,
};

/// RAM of a machine that is not told how much, in bytes: enough for a distribution's kernel with its
/// initramfs.
pub const DEFAULT_MEMORY: u64 = 512 << 20;
/// The command line of a Linux kernel that is not given one: its messages go to COM1, and a panic ends
/// the run at once. The restart itself needs no option: Linux finds the ACPI reset register first.
pub const DEFAULT_LINUX_CMDLINE: &str = "console=ttyS0 panic=-1";

/// Where the kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelSource {
    /// The guest that is built into the binary.
    Builtin,
    /// A file; its format is found out by its content.
    File(PathBuf),
}

/// How a flat binary is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlatMode {
    /// 16-bit real mode.
    Real,
    /// 64-bit long mode, memory identity-mapped.
    Long,
}

/// A flat binary's load address, which is also its entry point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flat {
    /// Guest-physical address.
    pub address: u64,
    /// Mode of the boot processor.
    pub mode: FlatMode,
}

/// Where a serial port's output goes and its input comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SerialBackend {
    /// The terminal: stdout and stdin.
    Stdio,
    /// A file, output only; replaced if it exists.
    File(PathBuf),
    /// A Unix socket at this path, which is listened on.
    Unix(PathBuf),
    /// A new pty, whose name is told on stderr.
    Pty,
    /// Nowhere.
    Null,
}

/// A file that a Multiboot kernel gets as a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// The file.
    pub path: PathBuf,
    /// The string that goes with it.
    pub cmdline: String,
}

/// What a value on the debug exit port means for the exit status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum DebugExit {
    /// The value is the status.
    #[default]
    Raw,
    /// As QEMU's isa-debug-exit has it: the status is twice the value plus one.
    Qemu,
    /// There is no such port.
    Off,
}

/// Everything that a run needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmConfig {
    /// Kernel.
    pub kernel: KernelSource,
    /// Initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Kernel command line; `None` when the user gave none, which is not the same as an empty one.
    pub cmdline: Option<String>,
    /// Multiboot modules.
    pub modules: Vec<Module>,
    /// Start the kernel as a flat binary.
    pub flat: Option<Flat>,
    /// Decompress a bzImage on the host and boot the vmlinux inside.
    pub decompress: bool,
    /// RAM in bytes.
    pub memory: u64,
    /// Number of vCPUs.
    pub cpus: u32,
    /// Backend.
    pub accel: AccelKind,
    /// COM1 to COM4; a port that is `None` does not exist.
    pub serial: [Option<SerialBackend>; 4],
    /// End the run after this time.
    pub timeout: Option<Duration>,
    /// What a value on the debug exit port means.
    pub debug_exit: DebugExit,
    /// What to do when the guest ends.
    pub reactions: Reactions,
    /// How long the guest may take to power off after the first signal.
    pub grace: Option<Duration>,
    /// What to wait for on COM1, and what to type there.
    pub script: Script,
    /// The exit status that a test of this machine passes with.
    pub expect_status: u8,
    /// Where the JSON report goes; `-` is stdout.
    pub report: Option<PathBuf>,
    /// Where the JUnit report goes; `-` is stdout.
    pub junit: Option<PathBuf>,
    /// The file that keeps COM1's output.
    pub log: Option<PathBuf>,
    /// Whether the lines of `log` begin with the time.
    pub timestamps: bool,
}

impl Default for VmConfig {
    fn default() -> Self {
        Self {
            kernel: KernelSource::Builtin,
            initrd: None,
            cmdline: None,
            modules: Vec::new(),
            flat: None,
            decompress: true,
            memory: DEFAULT_MEMORY,
            cpus: 1,
            accel: AccelKind::Auto,
            serial: [Some(SerialBackend::Stdio), None, None, None],
            timeout: None,
            debug_exit: DebugExit::Raw,
            reactions: Reactions::default(),
            grace: None,
            script: Script::default(),
            expect_status: 0,
            report: None,
            junit: None,
            log: None,
            timestamps: false,
        }
    }
}

impl VmConfig {
    /// Whether a serial port is connected to the terminal.
    #[must_use]
    pub fn uses_stdio(&self) -> bool {
        self.serial.contains(&Some(SerialBackend::Stdio))
    }
}

/// What one source says: the TOML file or the command line. `None` leaves it to the other source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Kernel file.
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Kernel command line.
    pub cmdline: Option<String>,
    /// Multiboot modules.
    pub modules: Option<Vec<Module>>,
    /// Start the kernel as a flat binary.
    pub flat: Option<Flat>,
    /// Decompress a bzImage on the host.
    pub decompress: Option<bool>,
    /// RAM in bytes.
    pub memory: Option<u64>,
    /// Number of vCPUs.
    pub cpus: Option<u32>,
    /// Backend.
    pub accel: Option<AccelKind>,
    /// COM1 and up.
    pub serial: Option<Vec<Option<SerialBackend>>>,
    /// End the run after this time.
    pub timeout: Option<Duration>,
    /// What a value on the debug exit port means.
    pub debug_exit: Option<DebugExit>,
    /// What to do when the guest resets the machine.
    pub on_reset: Option<Reaction>,
    /// What to do when the guest powers off.
    pub on_shutdown: Option<Reaction>,
    /// What to do at a triple fault.
    pub on_crash: Option<Reaction>,
    /// What to do when the guest's kernel panics.
    pub on_panic: Option<Reaction>,
    /// What to do when no vCPU can ever run again.
    pub on_hang: Option<Reaction>,
    /// How long the guest may take to power off after the first signal.
    pub grace: Option<Duration>,
    /// Steps of the script.
    pub steps: Option<Vec<Step>>,
    /// Output that is a failure.
    pub fail_on: Option<Vec<Pattern>>,
    /// Output that is success.
    pub succeed_on: Option<Vec<Pattern>>,
    /// The exit status that a test passes with.
    pub expect_status: Option<u8>,
    /// Where the JSON report goes.
    pub report: Option<PathBuf>,
    /// Where the JUnit report goes.
    pub junit: Option<PathBuf>,
    /// The file that keeps COM1's output.
    pub log: Option<PathBuf>,
    /// Whether the lines of `log` begin with the time.
    pub timestamps: Option<bool>,
}

impl Settings {
    /// Reads the TOML file at `path`. Relative paths in it are relative to the file's folder.
    ///
    /// # Errors
    /// When the file cannot be read, or says something that cannot be.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        file::parse(&text, path)
    }

    /// These settings with those of `stronger` over them. A list replaces the other whole.
    #[must_use]
    pub fn overridden_by(self, stronger: Self) -> Self {
        Self {
            kernel: stronger.kernel.or(self.kernel),
            initrd: stronger.initrd.or(self.initrd),
            cmdline: stronger.cmdline.or(self.cmdline),
            modules: stronger.modules.or(self.modules),
            flat: stronger.flat.or(self.flat),
            decompress: stronger.decompress.or(self.decompress),
            memory: stronger.memory.or(self.memory),
            cpus: stronger.cpus.or(self.cpus),
            accel: stronger.accel.or(self.accel),
            serial: stronger.serial.or(self.serial),
            timeout: stronger.timeout.or(self.timeout),
            debug_exit: stronger.debug_exit.or(self.debug_exit),
            on_reset: stronger.on_reset.or(self.on_reset),
            on_shutdown: stronger.on_shutdown.or(self.on_shutdown),
            on_crash: stronger.on_crash.or(self.on_crash),
            on_panic: stronger.on_panic.or(self.on_panic),
            on_hang: stronger.on_hang.or(self.on_hang),
            grace: stronger.grace.or(self.grace),
            steps: stronger.steps.or(self.steps),
            fail_on: stronger.fail_on.or(self.fail_on),
            succeed_on: stronger.succeed_on.or(self.succeed_on),
            expect_status: stronger.expect_status.or(self.expect_status),
            report: stronger.report.or(self.report),
            junit: stronger.junit.or(self.junit),
            log: stronger.log.or(self.log),
            timestamps: stronger.timestamps.or(self.timestamps),
        }
    }

    /// The configuration, with the defaults for what is not set.
    ///
    /// # Errors
    /// When settings contradict each other.
    pub fn into_config(self) -> Result<VmConfig, ConfigError> {
        let defaults = VmConfig::default();
        let serial = match self.serial {
            Some(ports) => serial_ports(ports)?,
            None => defaults.serial,
        };
        let config = VmConfig {
            kernel: self.kernel.map_or(KernelSource::Builtin, KernelSource::File),
            initrd: self.initrd,
            cmdline: self.cmdline,
            modules: self.modules.unwrap_or_default(),
            flat: self.flat,
            decompress: self.decompress.unwrap_or(defaults.decompress),
            memory: self.memory.unwrap_or(defaults.memory),
            cpus: self.cpus.unwrap_or(defaults.cpus),
            accel: self.accel.unwrap_or(defaults.accel),
            serial,
            timeout: self.timeout,
            debug_exit: self.debug_exit.unwrap_or(defaults.debug_exit),
            reactions: Reactions {
                reset: self.on_reset.unwrap_or_default(),
                shutdown: self.on_shutdown.unwrap_or_default(),
                crash: self.on_crash.unwrap_or_default(),
                panic: self.on_panic.unwrap_or_default(),
                hang: self.on_hang.unwrap_or_default(),
            },
            grace: self.grace,
            script: Script {
                steps: self.steps.unwrap_or_default(),
                fail_on: self.fail_on.unwrap_or_default(),
                succeed_on: self.succeed_on.unwrap_or_default(),
            },
            expect_status: self.expect_status.unwrap_or_default(),
            report: self.report,
            junit: self.junit,
            log: self.log,
            timestamps: self.timestamps.unwrap_or_default(),
        };
        if config.timestamps && config.log.is_none() {
            return Err(conflict("`timestamps` is given without `log`", "Name a file with `--log FILE`"));
        }
        check_script(&config)?;
        check_kernel_options(&config)?;
        Ok(config)
    }
}

/// COM1 to COM4 from a list of up to four.
fn serial_ports(ports: Vec<Option<SerialBackend>>) -> Result<[Option<SerialBackend>; 4], ConfigError> {
    let mut serial = [None, None, None, None];
    if ports.len() > serial.len() {
        return Err(conflict(
            format!("`serial` is given {} times, but a machine has COM1 to COM4", ports.len()),
            "Give it four times at most",
        ));
    }
    for (index, port) in ports.into_iter().enumerate() {
        if matches!(port, Some(SerialBackend::Stdio | SerialBackend::File(_) | SerialBackend::Unix(_)))
            && serial.contains(&port)
        {
            return Err(conflict(
                format!("`serial` connects COM{} to what another port is connected to already", index + 1),
                "Give each port a file or socket of its own, and `stdio` to one port only",
            ));
        }
        if let Some(slot) = serial.get_mut(index) {
            *slot = port;
        }
    }
    Ok(serial)
}

/// Checks that the script has a port.
fn check_script(config: &VmConfig) -> Result<(), ConfigError> {
    if config.script.is_empty() || config.serial.first().is_some_and(Option::is_some) {
        return Ok(());
    }
    Err(conflict(
        "the script waits for output on COM1, but `serial` leaves COM1 out",
        "Connect COM1 to `stdio`, or to `null` if nobody has to see it",
    ))
}

/// Checks what depends on the kernel.
fn check_kernel_options(config: &VmConfig) -> Result<(), ConfigError> {
    const NAME_A_KERNEL: &str = "Name a kernel: `vm-accel run KERNEL`, or the key `kernel`";
    if config.kernel == KernelSource::Builtin {
        for (given, name) in [
            (config.initrd.is_some(), "initrd"),
            (!config.modules.is_empty(), "module"),
            (config.flat.is_some(), "flat"),
            (config.cmdline.is_some(), "cmdline"),
        ] {
            if given {
                return Err(conflict(format!("`{name}` is given without a kernel"), NAME_A_KERNEL));
            }
        }
    }
    let Some(flat) = config.flat else { return Ok(()) };
    for (given, name) in [
        (config.initrd.is_some(), "initrd"),
        (!config.modules.is_empty(), "module"),
        (config.cmdline.is_some(), "cmdline"),
    ] {
        if given {
            return Err(conflict(
                format!(
                    "`{name}` and `flat` are both given, but a flat binary has no protocol to receive it"
                ),
                format!("Leave out one of `{name}` and `flat`"),
            ));
        }
    }
    let in_ram = memory::layout(config.memory)
        .iter()
        .any(|(gpa, bytes)| flat.address.checked_sub(*gpa).is_some_and(|offset| offset < *bytes));
    if in_ram {
        Ok(())
    } else {
        Err(conflict(
            format!("`flat` at {:#x} is outside the {} MiB of RAM", flat.address, config.memory >> 20),
            "Write a lower address, or give the machine more `memory`",
        ))
    }
}

fn conflict(reason: impl Into<String>, remedy: impl Into<String>) -> ConfigError {
    ConfigError::Conflict(ValueError::new(reason, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_given_means_the_builtin_guest_with_defaults() {
        assert_eq!(Settings::default().into_config().unwrap(), VmConfig::default());
    }

    #[test]
    fn flags_override_the_file() {
        let file = Settings { memory: Some(1 << 30), cpus: Some(2), ..Settings::default() };
        let flags =
            Settings { cpus: Some(4), serial: Some(vec![Some(SerialBackend::Null)]), ..Settings::default() };
        let config = file.overridden_by(flags).into_config().unwrap();
        assert_eq!((config.memory, config.cpus), (1 << 30, 4));
        assert_eq!(config.serial, [Some(SerialBackend::Null), None, None, None]);
    }

    #[test]
    fn contradictions_are_named() {
        let kernel = || Settings { kernel: Some("k".into()), ..Settings::default() };
        let flat = |address| Some(Flat { address, mode: FlatMode::Long });
        let stdio = Some(SerialBackend::Stdio);
        for (settings, word) in [
            (Settings { initrd: Some("i".into()), ..Settings::default() }, "`initrd`"),
            (Settings { cmdline: Some("c".into()), ..Settings::default() }, "`cmdline`"),
            (Settings { flat: flat(0x7c00), ..Settings::default() }, "`flat`"),
            (Settings { flat: flat(DEFAULT_MEMORY), ..kernel() }, "outside the 512 MiB"),
            (Settings { flat: flat(memory::MMIO_HOLE_START), memory: Some(8 << 30), ..kernel() }, "outside"),
            (Settings { flat: flat(0x7c00), cmdline: Some("c".into()), ..kernel() }, "`cmdline`"),
            (Settings { serial: Some(vec![stdio.clone(), stdio]), ..kernel() }, "COM2"),
            (Settings { serial: Some(vec![None; 5]), ..kernel() }, "5 times"),
        ] {
            let message = settings.into_config().unwrap_err().to_string();
            assert!(message.contains(word) && !message.contains('\n'), "{message}");
        }
        assert!(Settings { flat: flat(5 << 30), memory: Some(8 << 30), ..kernel() }.into_config().is_ok());
    }
}

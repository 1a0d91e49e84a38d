//! The flags of `vm-accel run`, and how they become a configuration.

use std::path::{Path, PathBuf};

use clap::Args;

use super::machine::{MachineFlags, all, one};
use super::steps::StepFlags;
use crate::config::{self, ConfigError, Settings, ValueError, VmConfig};
use crate::script::Pattern;

/// The flags of `run`. Values are checked by [`RunArgs::config`], so that a flag and the file's key of
/// the same name follow the same rules and give the same errors.
#[derive(Debug, Clone, Default, Args)]
pub struct RunArgs {
    /// A configuration (ends in .toml) or a kernel; without either, the built-in guest runs
    #[arg(value_name = "CONFIG.toml|KERNEL")]
    pub file: Option<PathBuf>,
    /// Kernel: bzImage, AArch64 Image, vmlinux, Multiboot or other ELF, or flat binary
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Kernel command line [default for Linux: console=ttyS0 panic=-1]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub cmdline: Option<String>,
    /// How large the machine is, what runs it, and how long.
    #[command(flatten)]
    pub machine: MachineFlags,
    /// Start a flat binary there, in real or long mode [default: real below 1 MiB]
    #[arg(long, value_name = "ADDR[:real|:long]")]
    pub flat: Option<String>,
    /// A Multiboot module; may be repeated
    #[arg(long = "module", value_name = "PATH[,CMDLINE]")]
    pub modules: Vec<String>,
    /// COM1, repeated COM2 to COM4: stdio, null, file:PATH, unix:PATH, pty or none [default: stdio]
    #[arg(long, value_name = "BACKEND")]
    pub serial: Vec<String>,
    /// Boot a bzImage as it is; do not decompress it on the host
    #[arg(long)]
    pub no_decompress: bool,
    /// Decompress a bzImage on the host, whatever the configuration says
    #[arg(long, overrides_with = "no_decompress", hide = true)]
    pub decompress: bool,
    /// Status of debug exit value V: V (raw), 2V+1 (qemu), or no such port (off) [default: raw]
    #[arg(long, value_name = "MEANING")]
    pub debug_exit: Option<String>,
    /// When the guest resets: reboot, or exit[:STATUS] [default: exit]
    #[arg(long, value_name = "reboot|exit[:N]")]
    pub on_reset: Option<String>,
    /// When the guest powers off [default: exit]
    #[arg(long, value_name = "exit[:N]|reboot")]
    pub on_shutdown: Option<String>,
    /// At a triple fault [default: exit]
    #[arg(long, value_name = "exit[:N]|reboot")]
    pub on_crash: Option<String>,
    /// When the guest's kernel panics [default: exit]
    #[arg(long, value_name = "exit[:N]|reboot")]
    pub on_panic: Option<String>,
    /// When no vCPU can ever run again [default: exit]
    #[arg(long, value_name = "exit[:N]|wait")]
    pub on_hang: Option<String>,
    /// At the first SIGINT or SIGTERM, press the guest's power button and wait so long
    #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
    pub grace: Option<String>,
    /// The steps of a script.
    #[command(flatten)]
    pub steps: StepFlags,
    /// End with status 123 when this comes on COM1; may be repeated
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    pub fail_on: Vec<String>,
    /// End with status 0 when this comes on COM1; may be repeated
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    pub succeed_on: Vec<String>,
    /// Write a JSON report of the run; - is stdout
    #[arg(long, value_name = "FILE|-")]
    pub report: Option<PathBuf>,
    /// Write a JUnit report with a test case a step; - is stdout
    #[arg(long, value_name = "FILE|-")]
    pub junit: Option<PathBuf>,
    /// Keep COM1's whole output in a file, too
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Begin each line of --log with the seconds since the start
    #[arg(long)]
    pub timestamps: bool,
}

impl RunArgs {
    /// The configuration: the file's settings, if there is one, with the flags' over them.
    ///
    /// # Errors
    /// When the file cannot be read, or a value cannot be.
    pub fn config(&self) -> Result<VmConfig, ConfigError> {
        let mut flags = self.flags()?;
        match &self.file {
            Some(file) if is_config(file) => Settings::from_file(file)?.overridden_by(flags).into_config(),
            Some(kernel) => {
                if let Some(other) = &self.kernel {
                    return Err(ConfigError::Conflict(ValueError::new(
                        format!("two kernels are given, {} and {}", kernel.display(), other.display()),
                        "Leave one of them out",
                    )));
                }
                flags.kernel = Some(kernel.clone());
                flags.into_config()
            }
            None => flags.into_config(),
        }
    }

    fn flags(&self) -> Result<Settings, ConfigError> {
        let machine = self.machine.values()?;
        Ok(Settings {
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
            cmdline: self.cmdline.clone(),
            modules: all("--module", &self.modules, config::parse_module)?,
            flat: one("--flat", self.flat.as_deref(), config::parse_flat)?,
            decompress: match (self.decompress, self.no_decompress) {
                (true, _) => Some(true),
                (false, true) => Some(false),
                (false, false) => None,
            },
            memory: machine.memory,
            cpus: machine.cpus,
            accel: machine.accel,
            serial: all("--serial", &self.serial, config::parse_serial)?,
            timeout: machine.timeout,
            debug_exit: one("--debug-exit", self.debug_exit.as_deref(), config::parse_debug_exit)?,
            on_reset: one("--on-reset", self.on_reset.as_deref(), config::parse_reaction)?,
            on_shutdown: one("--on-shutdown", self.on_shutdown.as_deref(), config::parse_reaction)?,
            on_crash: one("--on-crash", self.on_crash.as_deref(), config::parse_reaction)?,
            on_panic: one("--on-panic", self.on_panic.as_deref(), config::parse_reaction)?,
            on_hang: one("--on-hang", self.on_hang.as_deref(), config::parse_on_hang)?,
            grace: one("--grace", self.grace.as_deref(), config::parse_timeout)?,
            steps: self.steps.steps()?,
            fail_on: all("--fail-on", &self.fail_on, Pattern::new)?,
            succeed_on: all("--succeed-on", &self.succeed_on, Pattern::new)?,
            expect_status: None,
            report: self.report.clone(),
            junit: self.junit.clone(),
            log: self.log.clone(),
            timestamps: self.timestamps.then_some(true),
        })
    }
}

fn is_config(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml"))
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, Command};
    use super::*;
    use crate::config::{KernelSource, SerialBackend};
    use crate::script::Step;
    use clap::Parser;

    fn run(args: &[&str]) -> Result<VmConfig, String> {
        let args = ["vm-accel", "run"].iter().chain(args);
        match Cli::try_parse_from(args).map_err(|error| error.to_string())?.command {
            Command::Run(args) => args.config().map_err(|error| error.to_string()),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn flags_make_a_configuration() {
        let config = run(&[
            "bzImage",
            "-m1G",
            "-c",
            "4",
            "--initrd",
            "i",
            "--cmdline",
            "-- --x",
            "--no-decompress",
            "--module",
            "m,x",
            "--serial",
            "null",
            "--serial",
            "stdio",
            "--timeout",
            "2m",
        ])
        .unwrap();
        assert_eq!(config.kernel, KernelSource::File("bzImage".into()));
        assert_eq!((config.memory, config.cpus, config.decompress), (1 << 30, 4, false));
        assert_eq!(config.cmdline.as_deref(), Some("-- --x"));
        assert_eq!(config.serial, [Some(SerialBackend::Null), Some(SerialBackend::Stdio), None, None]);
        assert_eq!(run(&[]).unwrap(), VmConfig::default());
    }

    #[test]
    fn a_toml_file_is_a_configuration_and_flags_override_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("vm.toml");
        std::fs::write(&file, "kernel = 'k'\nmemory = '1G'\ncpus = 2\ndecompress = false").unwrap();
        let file = file.to_str().unwrap();
        let config = run(&[file, "--cpus", "3", "--decompress"]).unwrap();
        assert_eq!(config.kernel, KernelSource::File(folder.path().join("k")));
        assert_eq!((config.memory, config.cpus, config.decompress), (1 << 30, 3, true));
        let config = run(&[file, "--kernel", "other"]).unwrap();
        assert_eq!(config.kernel, KernelSource::File("other".into()));
    }

    #[test]
    fn steps_keep_their_order() {
        let config = run(&[
            "--send",
            "x",
            "--step-timeout",
            "5",
            "--expect",
            "a",
            "--send",
            "-b\\n",
            "--send",
            "c",
            "--step",
            "last",
            "--expect",
            "-d",
            "--fail-on",
            "-e",
        ])
        .unwrap();
        let step = |name: Option<&str>, expect: Option<&str>, send: Option<&str>, timeout| Step {
            name: name.map(str::to_owned),
            expect: expect.map(|text| Pattern::new(text).unwrap()),
            send: send.map(|text| text.as_bytes().to_vec()),
            timeout: (timeout > 0).then(|| std::time::Duration::from_secs(timeout)),
        };
        let steps = [
            step(None, None, Some("x"), 0),
            step(None, Some("a"), Some("-b\n"), 5),
            step(None, None, Some("c"), 5),
            step(Some("last"), Some("-d"), None, 5),
        ];
        assert_eq!(config.script.steps, steps);
        assert_eq!(config.script.fail_on, [Pattern::new("-e").unwrap()]);
    }

    #[test]
    fn wrong_values_name_flag_value_and_remedy_on_one_line() {
        for (args, words) in [
            (&["-c", "0"][..], "`--cpus 0`: a machine needs a CPU. Write"),
            (&["-c", "2000"], "`--cpus 2000`: a machine can have 255"),
            (&["-c", "-1"], "`--cpus -1`"),
            (&["-m", "0"], "`--memory 0`"),
            (&["-m", "a\nb"], "`--memory a\\nb`"),
            (&["--timeout", "soon"], "`--timeout soon`"),
            (&["--accel", "xen"], "`--accel xen`"),
            (&["--expect", "("], "`--expect (`: not a regular expression"),
            (&["--expect", ""], "waits for nothing"),
            (&["--send", "\\q"], "`--send \\q`: there is no escape"),
            (&["--expect", "a", "--step", "b"], "`--step b`: a name without a step"),
            (&["--step-timeout", "-1", "--expect", "a"], "`--step-timeout -1`"),
            (&["--fail-on", "["], "`--fail-on [`"),
            (&["--grace", "0"], "`--grace 0`"),
            (&["--on-hang", "reboot"], "`--on-hang reboot`"),
            (&["--on-reset", "exit:900"], "`--on-reset exit:900`: not an exit status"),
            (&["--expect", "a", "--serial", "none"], "leaves COM1 out"),
            (&["k", "--kernel", "l"], "two kernels"),
            (&["nowhere.toml"], "cannot read the configuration nowhere.toml"),
        ] {
            let message = run(args).unwrap_err();
            assert!(message.contains(words) && !message.contains('\n'), "{message}");
        }
    }
}

//! The command line.
//!
//! `parse` reads it into plain values; main matches on [`Command`]. Nothing here opens a file but the
//! configuration that [`RunArgs::config`] is asked for.
#![forbid(unsafe_code)]

mod exec;
mod logging;
mod machine;
mod run;
mod steps;
mod test;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::accel::AccelKind;
pub use exec::ExecArgs;
pub use machine::MachineFlags;
pub use run::RunArgs;
pub use test::TestArgs;

/// Exit status of vm-accel's own failures, a wrong command line among them.
pub const STATUS_FAILURE: u8 = 125;

const ABOUT: &str = "Boots a kernel from the shell and ends with an honest exit status";

const EXAMPLES: &str = "\
Examples:
  vm-accel run                                    the built-in guest: does this host work?
  vm-accel run vmlinuz --initrd initrd.cpio       a Linux kernel, its console on this terminal
  vm-accel run vm.toml --memory 2G                a configuration file, one value overridden
  vm-accel exec -- uname -r                       a command of this host in a guest
  vm-accel test scenarios/                        many scenario files at once, with reports
  vm-accel probe                                  what can run guests here, and how fast
  vm-accel inspect vmlinuz                        what kind of kernel a file is

Exit status of `run`: 0 powered off or reset by the guest; 0-119 the guest's own from the debug exit
port; 120 kernel panic; 121 triple fault; 122 hung; 123 the script failed; 124 timeout;
125 vm-accel's own failure; 126 an instruction that the accelerator cannot execute; 128+n ended by signal n; 130 the escape key.

Guest output goes to stdout, vm-accel's own words to stderr. VM_ACCEL_LOG or RUST_LOG set the log
level where neither -v nor -q does.";

const RUN_EXAMPLES: &str = "\
Examples:
  vm-accel run vmlinuz --initrd initrd.cpio --cmdline 'console=ttyS0 quiet'
  vm-accel run -m 1G -c 4 --timeout 30s vmlinux
  vm-accel run --accel soft --flat 0x7c00 boot.bin
  vm-accel run kernel.elf --module 'disk.img,root' --module font.psf
  vm-accel run vm.toml --serial null --serial file:com2.log
  vm-accel run vmlinuz --initrd i.cpio --expect '# $' --send 'poweroff -f\\n' --fail-on 'Oops|BUG:'
  echo 'poweroff -f' | vm-accel run vmlinuz --initrd initrd.cpio

At a terminal, Ctrl-A x ends the run, Ctrl-A h shows the keys, and Ctrl-A Ctrl-A sends a Ctrl-A.

A configuration file holds the same settings as the flags, and the flags override it:
  kernel = \"vmlinuz\"          # paths are relative to the file
  initrd = \"initrd.cpio\"
  cmdline = \"console=ttyS0\"
  memory = \"1G\"
  cpus = 2
  accel = \"auto\"
  serial = [\"stdio\", \"file:com2.log\"]
  timeout = \"30s\"
  # also: modules, flat, decompress, debug_exit, on_reset, on_shutdown, on_crash, on_panic, on_hang,
  # grace, fail_on, succeed_on, expect_status (for `test`), report, junit, log, timestamps, and the
  # steps of a script:
  [[step]]
  expect = \"login: \"
  send = 'root\\n'
  timeout = \"20s\"";

const EXEC_EXAMPLES: &str = "\
Examples:
  vm-accel exec -- uname -r
  vm-accel exec --kernel bzImage -m 1G --timeout 30s -- ./test-of-a-system-call
  echo hello | vm-accel exec -- wc -c
  vm-accel exec --with ls --with grep -- sh -c 'ls /sys/class | grep net'
  vm-accel exec --copy ./data:/data --env LANG=C -- sha256sum /data/file
  vm-accel exec --console stderr -- true

The exit status is the command's own, 128+n if signal n ended it. 127 no such command, 126 it cannot be
executed. What the guest did not survive has the statuses of `run` (120 to 124), and words on stderr.";

const TEST_EXAMPLES: &str = "\
Examples:
  vm-accel test tests/                            every *.toml below tests/, each in a process of its own
  vm-accel test boot.toml panic.toml -j 2 --timeout 2m
  vm-accel test tests/ --shard 2/4 --junit junit.xml --report report.json --logs logs

A scenario file is a configuration of `run`, usually with steps. It passes if its guest ends with status 0,
or with the `expect_status` that the file names. It may take 10m if neither it nor --timeout says otherwise.
--memory, --cpus, --accel and --timeout override what the files say.

Exit status: 0 every scenario passed; 1 one did not; 125 vm-accel's own failure, such as a file that cannot
be read, before anything starts; 128+n ended by signal n.";

const PROBE_EXAMPLES: &str = "\
Examples:
  vm-accel probe                  every backend: usable or not, why, what to do, how fast
  vm-accel probe --accel kvm      status 0 if KVM works here, 125 if not
  vm-accel probe --json | jq .";

const INSPECT_EXAMPLES: &str = "\
Examples:
  vm-accel inspect /boot/vmlinuz
  vm-accel inspect kernel.elf --json";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  vm-accel completions bash > ~/.local/share/bash-completion/completions/vm-accel
  vm-accel completions zsh > ~/.zfunc/_vm-accel";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "vm-accel", version, about = ABOUT, after_help = EXAMPLES)]
#[command(disable_help_subcommand = true)]
pub struct Cli {
    /// Loudness of the log.
    #[command(flatten)]
    pub verbosity: Verbosity,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How much vm-accel says about itself on stderr.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Verbosity {
    /// Say more on stderr (twice: debug, three times: trace)
    #[arg(short, long, global = true, action = ArgAction::Count, display_order = 100)]
    pub verbose: u8,
    /// Say less on stderr (once: errors only, twice: nothing)
    #[arg(short, long, global = true, action = ArgAction::Count, display_order = 101)]
    pub quiet: u8,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot a kernel and wait for its end
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<RunArgs>),
    /// Run a command of this host in a Linux guest
    #[command(after_help = EXEC_EXAMPLES)]
    Exec(Box<ExecArgs>),
    /// Run many scenario files at once, and tell which passed
    #[command(after_help = TEST_EXAMPLES)]
    Test(Box<TestArgs>),
    /// Tell which backends work on this host, and what to do about the others
    #[command(after_help = PROBE_EXAMPLES)]
    Probe {
        /// Only this backend; the exit status says whether it is usable
        #[arg(long, value_enum, default_value_t, value_name = "BACKEND")]
        accel: AccelKind,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Tell what kind of kernel a file is and how it would be booted
    #[command(after_help = INSPECT_EXAMPLES)]
    Inspect {
        /// The file
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a shell's completion script
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
}

impl Cli {
    /// Starts the logger: `-v` and `-q`, else `VM_ACCEL_LOG`, else `RUST_LOG`, else warnings. Only the
    /// first call has an effect.
    pub fn start_logging(&self) {
        logging::start(self.verbosity);
    }
}

/// Reads the process's command line. What clap answers itself, such as `--help` or a usage error, is
/// printed already when this returns.
///
/// # Errors
/// The status with which the process should end: 0 after `--help` and `--version`, else 125.
pub fn parse() -> Result<Cli, u8> {
    parse_from(std::env::args_os())
}

/// [`parse`] for the given arguments, the program's name first.
///
/// # Errors
/// As [`parse`].
pub fn parse_from(args: impl IntoIterator<Item = OsString>) -> Result<Cli, u8> {
    let args: Vec<OsString> = args.into_iter().collect();
    Cli::try_parse_from(&args).map_err(|error| {
        let printed = error.print().and_then(|()| io::stdout().flush());
        // A file where a command should be is a kernel whose `run` was forgotten.
        let file = args.get(1..).and_then(|rest| rest.iter().find(|arg| Path::new(arg).is_file()));
        if let (ErrorKind::InvalidSubcommand, Some(file)) = (error.kind(), file) {
            eprintln!("\n  tip: to boot a kernel, write `vm-accel run {}`", file.to_string_lossy());
        }
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion if printed.is_ok() => 0,
            _ => STATUS_FAILURE,
        }
    })
}

/// Writes `shell`'s completion script to `output`.
///
/// # Errors
/// When `output` cannot take it.
pub fn write_completions(shell: Shell, output: &mut dyn Write) -> io::Result<()> {
    // clap_complete panics where a write fails, so it gets memory to write to.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "vm-accel", &mut script);
    output.write_all(&script)?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn completions_name_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            write_completions(shell, &mut script).unwrap();
            assert!(String::from_utf8(script).unwrap().contains("inspect"), "{shell}");
        }
    }

    #[test]
    fn probe_defaults_to_all_backends() {
        let cli = Cli::try_parse_from(["vm-accel", "probe", "-v"]).unwrap();
        assert_eq!(cli.verbosity.verbose, 1);
        assert!(matches!(cli.command, Command::Probe { accel: AccelKind::Auto, json: false }));
    }
}

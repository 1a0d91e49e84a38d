//! The flags of `vm-accel exec`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::machine::MachineFlags;
use crate::config::ConfigError;
use crate::exec::{Console, Request};

/// The flags of `exec`.
#[derive(Debug, Clone, Default, Args)]
pub struct ExecArgs {
    /// The command, found on this host's PATH, and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
    /// Linux kernel [default: $VM_ACCEL_KERNEL, else the newest /boot/vmlinuz-*]
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// How large the machine is, what runs it, and how long.
    #[command(flatten)]
    pub machine: MachineFlags,
    /// More words for the kernel command line
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub cmdline_append: Option<String>,
    /// A further command of this host that the guest shall have; may be repeated
    #[arg(long, value_name = "CMD")]
    pub with: Vec<String>,
    /// A file or directory for the guest; may be repeated
    #[arg(long, value_name = "HOST[:GUEST]")]
    pub copy: Vec<String>,
    /// An environment variable, with this host's value where none is given; may be repeated
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// The command's working directory in the guest [default: /]
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<PathBuf>,
    /// Kernel messages: stderr, none or a file's path [default: none]
    #[arg(long, value_name = "stderr|none|FILE")]
    pub console: Option<String>,
}

impl ExecArgs {
    /// The request that the flags make.
    ///
    /// # Errors
    /// When a value cannot be read.
    pub fn request(&self) -> Result<Request, ConfigError> {
        let (command, args) =
            self.command.split_first().map(|(c, a)| (c.clone(), a.to_vec())).unwrap_or_default();
        let machine = self.machine.values()?;
        Ok(Request {
            command,
            args,
            kernel: self.kernel.clone(),
            memory: machine.memory,
            cpus: machine.cpus,
            accel: machine.accel,
            timeout: machine.timeout,
            cmdline: self.cmdline_append.clone(),
            with: self.with.clone(),
            copy: self.copy.clone(),
            env: self.env.clone(),
            workdir: self.workdir.clone(),
            console: match self.console.as_deref() {
                None | Some("none" | "") => Console::None,
                Some("stderr") => Console::Stderr,
                Some(path) => Console::File(path.strip_prefix("file:").unwrap_or(path).into()),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, Command};
    use super::*;
    use clap::Parser;

    fn exec(args: &[&str]) -> Request {
        let cli = Cli::try_parse_from(["vm-accel", "exec"].iter().chain(args)).unwrap();
        let Command::Exec(args) = cli.command else { panic!("not exec") };
        args.request().unwrap()
    }

    #[test]
    fn the_command_s_own_flags_are_its_own() {
        for args in
            [&["--cpus", "2", "--", "ls", "-l", "--memory"][..], &["--cpus", "2", "ls", "-l", "--memory"]]
        {
            let request = exec(args);
            assert_eq!((request.command.to_str(), request.cpus), (Some("ls"), Some(2)));
            assert_eq!(request.args, ["-l", "--memory"]);
        }
        assert!(Cli::try_parse_from(["vm-accel", "exec"]).is_err());
        assert_eq!(exec(&["--console", "file:x", "a"]).console, Console::File("x".into()));
        assert_eq!(exec(&["--console", "stderr", "a"]).console, Console::Stderr);
    }
}

//! What of a configuration Virtualization.framework can do, and what it is told.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use crate::accel::{AccelError, AccelResult};
use crate::config::{KernelSource, Reaction, SerialBackend, VmConfig};

/// The command line of a kernel that is given none: the framework's console is a virtio one.
const DEFAULT_CMDLINE: &str = "console=hvc0 panic=-1";
/// The framework counts memory in MiB.
const MIB: u64 = 1 << 20;

/// What the framework is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// A Linux kernel: on Apple silicon an uncompressed `Image`, on Intel a bzImage.
    pub kernel: PathBuf,
    /// Initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Kernel command line.
    pub cmdline: String,
    /// RAM in bytes.
    pub memory: u64,
    /// Number of vCPUs.
    pub cpus: u32,
}

impl Plan {
    /// The plan for `config`.
    ///
    /// # Errors
    /// When it asks for something that the framework does not have.
    pub fn new(config: &VmConfig) -> AccelResult<Self> {
        const OWN_MACHINE: &str = "Use `--accel hvf` or `--accel soft`, whose machine is vm-accel's own";
        let impossible = |what: &str, remedy: &str| AccelError::Unusable {
            what: "Virtualization.framework".into(),
            reason: what.into(),
            remedy: remedy.into(),
        };
        let KernelSource::File(kernel) = &config.kernel else {
            return Err(impossible(
                "it boots Linux kernels only, and the built-in guest is none",
                "Name a kernel, or use `--accel hvf` or `--accel soft`",
            ));
        };
        if config.flat.is_some() {
            return Err(impossible("it boots Linux kernels only, and `flat` is given", OWN_MACHINE));
        }
        if !config.modules.is_empty() {
            return Err(impossible("it boots Linux kernels only, and `module` is given", OWN_MACHINE));
        }
        if let Some(port) = config.serial.iter().skip(1).position(Option::is_some) {
            let what = format!("its machine has one console, and COM{} is asked for", port + 2);
            return Err(impossible(&what, OWN_MACHINE));
        }
        if matches!(config.reactions.hang, Reaction::Exit(_)) && config.timeout.is_none() {
            log::info!("Virtualization.framework does not tell whether a guest hangs; `--timeout` ends one");
        }
        if !config.memory.is_multiple_of(MIB) {
            return Err(impossible("its memory is counted in MiB", "Write a whole number of MiB"));
        }
        Ok(Self {
            kernel: absolute(kernel)?,
            initrd: config.initrd.as_ref().map(absolute).transpose()?,
            cmdline: config.cmdline.clone().unwrap_or_else(|| DEFAULT_CMDLINE.into()),
            memory: config.memory,
            cpus: config.cpus,
        })
    }
}

/// Whether anything is on the console.
#[must_use]
pub fn has_console(config: &VmConfig) -> bool {
    config.serial.first().is_some_and(|port: &Option<SerialBackend>| port.is_some())
}

/// The file's absolute path, which a URL needs. A file that is not there is named here, because the framework
/// only says that something is invalid.
fn absolute(path: &PathBuf) -> AccelResult<PathBuf> {
    std::fs::canonicalize(path).map_err(|reason| AccelError::Unusable {
        what: format!("cannot open {}", path.display()),
        reason: reason.to_string(),
        remedy: "Name a file that you may read".into(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Flat, FlatMode, Module};

    fn config() -> VmConfig {
        VmConfig {
            kernel: KernelSource::File("Cargo.toml".into()),
            timeout: Some(Duration::from_secs(1)),
            ..VmConfig::default()
        }
    }

    #[test]
    fn a_linux_kernel_gets_a_virtio_console() {
        let plan = Plan::new(&VmConfig { cpus: 3, ..config() }).unwrap();
        assert!(plan.kernel.is_absolute() && plan.kernel.ends_with("Cargo.toml"));
        assert_eq!(plan.cmdline, "console=hvc0 panic=-1");
        assert_eq!((plan.memory, plan.cpus, plan.initrd), (512 << 20, 3, None));
        let own = Plan::new(&VmConfig { cmdline: Some(String::new()), ..config() }).unwrap();
        assert_eq!(own.cmdline, "");
        assert!(has_console(&config()));
    }

    #[test]
    fn what_is_impossible_is_named() {
        let module = Module { path: "x".into(), cmdline: String::new() };
        let mut serial = config().serial;
        serial[2] = Some(SerialBackend::Null);
        for (config, word) in [
            (VmConfig { kernel: KernelSource::Builtin, ..config() }, "built-in"),
            (VmConfig { flat: Some(Flat { address: 0, mode: FlatMode::Real }), ..config() }, "`flat`"),
            (VmConfig { modules: vec![module], ..config() }, "`module`"),
            (VmConfig { serial, ..config() }, "COM3"),
            (VmConfig { memory: (512 << 20) + 4096, ..config() }, "MiB"),
            (VmConfig { kernel: KernelSource::File("no/such/kernel".into()), ..config() }, "no/such/kernel"),
            (VmConfig { initrd: Some("no/such/initrd".into()), ..config() }, "no/such/initrd"),
        ] {
            let error = Plan::new(&config).unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains('\n'), "{error}");
        }
    }
}

//! Runs a command of the host in a guest: a Linux kernel with an initramfs that is composed here, in
//! memory, of a small init of our own, the command, and what the command needs.
//!
//! The command's standard streams and its exit status go through the command channel, a device that only
//! these machines have; the kernel's messages go to COM1. `docs/exec.md` tells how it is used.
#![forbid(unsafe_code)]

mod arch;
mod channel;
mod elf;
mod error;
mod kernel;
mod libraries;
mod program;
mod tree;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::accel::{AccelKind, GuestArch, host};
use crate::config::{DEFAULT_MEMORY, KernelSource, SerialBackend, VmConfig};
use crate::console::{Input, StdinPump, say};
use crate::devices::serial::SerialSink;
use crate::devices::{arm64, lock};
use crate::loader::KernelImage;
use crate::outcome::Outcome;
use crate::vm::{self, Extension, HostOutput, VmError, Wiring};
use channel::{Channel, Fate, Shared};
pub use error::ExecError;
use libraries::Linker;
use tree::{Content, Tree};

/// Where init and its instructions are in the guest; a place that nobody else wants.
const INIT_PATH: &str = "/.vm-accel/init";
const COMMAND_PATH: &str = "/.vm-accel/command";
/// What init's buffer holds.
const MAX_COMMAND: usize = 2 << 20;
/// Status of a run that vm-accel or its guest's kernel could not bring to an end of the command's own.
const STATUS_FAILURE: u8 = 125;
/// PATH in the guest.
const GUEST_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Bytes of the console that are kept for a bad end.
const LAST_WORDS: usize = 4 << 10;

/// Where the kernel's messages go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Console {
    /// Nowhere; the last lines are shown after a bad end.
    #[default]
    None,
    /// To stderr.
    Stderr,
    /// To a file.
    File(PathBuf),
}

/// What to run, and how.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The command: a name that is looked for on PATH, or a path.
    pub command: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// The kernel; without one `VM_ACCEL_KERNEL`, else the newest in /boot.
    pub kernel: Option<PathBuf>,
    /// RAM in bytes; without it enough for the files.
    pub memory: Option<u64>,
    /// Number of vCPUs.
    pub cpus: Option<u32>,
    /// Backend.
    pub accel: Option<AccelKind>,
    /// End the run after this time.
    pub timeout: Option<Duration>,
    /// More words for the kernel command line.
    pub cmdline: Option<String>,
    /// Further commands of the host that the guest shall have.
    pub with: Vec<String>,
    /// Host files and where they go in the guest: `HOST:GUEST` or `PATH`.
    pub copy: Vec<String>,
    /// Environment: `NAME=VALUE`, or `NAME` for the host's value.
    pub env: Vec<String>,
    /// Working directory in the guest.
    pub workdir: Option<PathBuf>,
    /// Where the kernel's messages go.
    pub console: Console,
}

/// Runs the command and answers the exit status. Its output is on stdout and stderr; vm-accel's own
/// words about a bad end go to stderr.
///
/// # Errors
/// When the command cannot be run at all.
pub fn run(request: &Request) -> Result<u8, ExecError> {
    // What runs the host's commands is a guest of the host's own architecture.
    let arch = host::LINUX_PROGRAMS.ok_or(ExecError::NoLinuxHost)?;
    let kernel = match (&request.kernel, std::env::var_os("VM_ACCEL_KERNEL").filter(|path| !path.is_empty()))
    {
        (Some(kernel), _) => kernel.clone(),
        (None, Some(kernel)) => kernel.into(),
        (None, None) => kernel::newest(Path::new("/boot"))?,
    };
    let initramfs = initramfs(request, arch)?;
    log::info!("the initramfs has {} KiB", initramfs.len() >> 10);
    let config = config(request, arch, kernel.clone(), initramfs.len() as u64);
    if vm::guest_arch(&config).map_err(VmError::from)? != Some(arch) {
        return Err(ExecError::OtherKernel { kernel, guest: arch });
    }
    let mut guest = Guest {
        arch,
        initramfs: KernelImage::memory("of the command", initramfs),
        console: request.console.clone(),
        shared: Arc::default(),
        last_words: Arc::default(),
        input: None,
    };
    let result = vm::run_with(&config, Some(&mut guest));
    // No more input is taken from the terminal than the command wanted.
    drop(guest.input.take());
    let ended = result?;
    let fate = guest.shared.fate().filter(|_| ended.outcome == Outcome::PoweredOff);
    let command = request.command.to_string_lossy();
    let (status, words) = match fate {
        Some(Fate::Exited(status)) => return Ok(status),
        Some(Fate::Killed(signal)) => return Ok(128 + signal),
        Some(Fate::NotStarted(errno)) => {
            let reason = std::io::Error::from_raw_os_error(errno);
            let status = if errno == libc::ENOENT { 127 } else { 126 };
            (status, format!("{command}: cannot be started in the guest: {reason}"))
        }
        Some(Fate::NoDirectory(errno)) => {
            let reason = std::io::Error::from_raw_os_error(errno);
            (STATUS_FAILURE, format!("cannot enter --workdir in the guest: {reason}. Bring it with --copy"))
        }
        None if guest.shared.escaped() => (130, Outcome::Escaped.to_string()),
        None => {
            let status = match ended.outcome {
                // The command's status is not known, and success would be a guess.
                Outcome::PoweredOff | Outcome::Reset => STATUS_FAILURE,
                ref outcome => outcome.status(config.debug_exit),
            };
            let before = "before the command ended";
            (status, format!("{} {before} ({}, status {status})", ended.outcome, ended.accel))
        }
    };
    let user = matches!(ended.outcome, Outcome::Signalled(_)) || guest.shared.escaped();
    let last_words = if fate.is_some() || user { String::new() } else { guest.last_words() };
    say(&format!("{last_words}vm-accel: {words}\n"));
    Ok(status)
}

/// The machine.
fn config(request: &Request, arch: GuestArch, kernel: PathBuf, initramfs: u64) -> VmConfig {
    let mut cmdline = arch::cmdline(arch);
    if request.console == Console::None {
        cmdline += " quiet";
    }
    if let Some(more) = &request.cmdline {
        cmdline = format!("{cmdline} {more}");
    }
    let com1 = match &request.console {
        Console::File(path) => SerialBackend::File(path.clone()),
        Console::None | Console::Stderr => SerialBackend::Null,
    };
    // The archive, what is unpacked of it, which may be half of RAM, and the kernel.
    let enough = initramfs.saturating_mul(3).saturating_add(256 << 20).next_multiple_of(1 << 20);
    let defaults = VmConfig::default();
    VmConfig {
        kernel: KernelSource::File(kernel),
        cmdline: Some(cmdline),
        memory: request.memory.unwrap_or(DEFAULT_MEMORY.max(enough)),
        cpus: request.cpus.unwrap_or(defaults.cpus),
        accel: request.accel.unwrap_or(defaults.accel),
        timeout: request.timeout,
        // COM2 is the bell that says that there is input.
        serial: [Some(com1), Some(SerialBackend::Null), None, None],
        ..defaults
    }
}

/// The archive that the kernel unpacks as its root file system.
fn initramfs(request: &Request, arch: GuestArch) -> Result<Vec<u8>, ExecError> {
    let search = std::env::var("PATH").unwrap_or_else(|_| GUEST_PATH.to_owned());
    let library_path = std::env::var("LD_LIBRARY_PATH").ok();
    let linker = Linker::of_host(library_path.as_deref());
    let command = request.command.to_str().ok_or_else(|| ExecError::NotExecutable {
        command: request.command.to_string_lossy().into_owned(),
        reason: "its name is not UTF-8; rename it".to_owned(),
    })?;
    let mut tree = Tree::default();
    for (directory, mode) in [
        ("/dev", 0o755),
        ("/proc", 0o555),
        ("/sys", 0o555),
        ("/run", 0o755),
        ("/tmp", 0o1777),
        ("/root", 0o700),
    ] {
        tree.add_directory(Path::new(directory), mode)?;
    }
    // Where the host has /bin for /usr/bin and its like, so has the guest: scripts name either.
    for name in ["/bin", "/sbin", "/lib", "/lib32", "/lib64"] {
        if Path::new(name).is_symlink() {
            tree.add_host_file(Path::new(name))?;
        }
    }
    let program = program::find(command, &search)?;
    program::add(&program, arch, &search, &linker, &mut tree)?;
    let mut programs = vec![program.clone()];
    for name in &request.with {
        let bad = |error: ExecError| flag("--with", name, &error.to_string());
        let program = program::find(name, &search).map_err(bad)?;
        program::add(&program, arch, &search, &linker, &mut tree).map_err(bad)?;
        programs.push(program);
    }
    // The guest's dynamic linker finds libraries outside of its own directories by it.
    let cache = Path::new("/etc/ld.so.cache");
    if cache.is_file() {
        tree.add_host_file(cache)?;
    }
    for copy in &request.copy {
        let (host, guest) = copy_of(copy)?;
        tree.copy(&host, &guest)?;
    }
    for (path, content) in [
        ("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
        ("/etc/group", "root:x:0:\n"),
        ("/etc/hosts", "127.0.0.1 localhost vm-accel\n"),
    ] {
        if !tree.contains(Path::new(path)) {
            tree.add_file(Path::new(path), Content::Bytes(content.into()), 0o644)?;
        }
    }
    let mut args = vec![request.command.clone()];
    args.extend(request.args.iter().cloned());
    let env = environment(&request.env, &programs, library_path.as_deref())?;
    let workdir = request.workdir.as_deref().unwrap_or(Path::new("/"));
    let instructions = instructions(&program, workdir, &args, &env)?;
    tree.add_file(Path::new(INIT_PATH), Content::Bytes(arch::init(arch).into()), 0o755)?;
    tree.add_file(Path::new(COMMAND_PATH), Content::Bytes(instructions), 0o600)?;
    tree.archive()
}

fn flag(flag: &'static str, value: &str, reason: &str) -> ExecError {
    ExecError::Flag { flag, value: value.to_owned(), reason: reason.to_owned() }
}

/// The two paths of a `--copy`.
fn copy_of(value: &str) -> Result<(PathBuf, PathBuf), ExecError> {
    let (host, guest) = match value.rsplit_once(':') {
        Some((host, guest)) if guest.starts_with('/') && !host.is_empty() => {
            (PathBuf::from(host), guest.to_owned())
        }
        Some(_) => {
            let reason = "the place in the guest must be an absolute path: write HOST:/PLACE";
            return Err(flag("--copy", value, reason));
        }
        None if value.is_empty() => return Err(flag("--copy", value, "write HOST:GUEST")),
        None => {
            let host = std::path::absolute(value)
                .map_err(|source| ExecError::Read { path: value.into(), source })?;
            let guest =
                host.to_str().ok_or_else(|| flag("--copy", value, "its path is not UTF-8"))?.to_owned();
            (host, guest)
        }
    };
    let mut place = PathBuf::from(&guest);
    if guest.ends_with('/') {
        let name = host.file_name().ok_or_else(|| flag("--copy", value, "the host's path has no name"))?;
        place.push(name);
    }
    Ok((host, place))
}

/// The command's environment.
fn environment(
    wanted: &[String],
    programs: &[PathBuf],
    library_path: Option<&str>,
) -> Result<Vec<OsString>, ExecError> {
    let mut path: Vec<&str> = GUEST_PATH.split(':').collect();
    for program in programs {
        let directory = program.parent().and_then(Path::to_str).unwrap_or("/");
        if !path.contains(&directory) {
            path.insert(0, directory);
        }
    }
    let mut env: Vec<(String, OsString)> = vec![
        ("PATH".into(), path.join(":").into()),
        ("HOME".into(), "/root".into()),
        ("USER".into(), "root".into()),
    ];
    if let Some(term) = std::env::var_os("TERM") {
        env.push(("TERM".into(), term));
    }
    if let Some(library_path) = library_path.filter(|list| !list.is_empty()) {
        env.push(("LD_LIBRARY_PATH".into(), library_path.into()));
    }
    for word in wanted {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, OsString::from(value)),
            None => {
                let value = std::env::var_os(word);
                (
                    word.as_str(),
                    value.ok_or_else(|| {
                        flag("--env", word, "the host has no such variable: write NAME=VALUE")
                    })?,
                )
            }
        };
        if name.is_empty() {
            return Err(flag("--env", word, "write NAME=VALUE"));
        }
        env.retain(|(old, _)| old != name);
        env.push((name.to_owned(), value));
    }
    let join = |(name, value): (String, OsString)| {
        let mut word = OsString::from(name + "=");
        word.push(value);
        word
    };
    Ok(env.into_iter().map(join).collect())
}

/// What init reads: two counts, then strings that end in NUL.
fn instructions(
    program: &Path,
    workdir: &Path,
    args: &[OsString],
    env: &[OsString],
) -> Result<Vec<u8>, ExecError> {
    let mut bytes = Vec::new();
    for count in [args.len(), env.len()] {
        // More than fit are found out by their length below.
        bytes.extend(u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
    }
    let paths = [program.as_os_str(), workdir.as_os_str()].into_iter();
    for string in paths.chain(args.iter().map(OsString::as_os_str)).chain(env.iter().map(OsString::as_os_str))
    {
        bytes.extend_from_slice(string.as_encoded_bytes());
        bytes.push(0);
    }
    if bytes.len() > MAX_COMMAND { Err(ExecError::TooLong { bytes: bytes.len() }) } else { Ok(bytes) }
}

/// What the machine gets besides the configuration.
struct Guest {
    arch: GuestArch,
    initramfs: KernelImage,
    console: Console,
    shared: Arc<Shared>,
    last_words: Arc<Mutex<VecDeque<u8>>>,
    input: Option<StdinPump>,
}

impl Guest {
    /// The end of the console's text, for a bad end of the run.
    fn last_words(&self) -> String {
        let words: Vec<u8> = lock(&self.last_words).iter().copied().collect();
        let words = String::from_utf8_lossy(&words).replace('\r', "");
        let words = words.trim();
        if words.is_empty() {
            return String::new();
        }
        let lines: String = words.lines().map(|line| format!("  {line}\n")).collect();
        format!("vm-accel: the guest's console ended with\n{lines}")
    }
}

impl Extension for Guest {
    fn initrd(&self) -> Option<&KernelImage> {
        Some(&self.initramfs)
    }

    fn console(&mut self, host: &HostOutput) -> Option<SerialSink> {
        match self.console {
            Console::File(_) => None,
            Console::Stderr => {
                let stderr = Arc::clone(&host.stderr);
                Some(Box::new(move |byte| stderr.push(&[byte])))
            }
            Console::None => {
                let words = Arc::clone(&self.last_words);
                Some(Box::new(move |byte| {
                    let mut words = lock(&words);
                    if words.len() == LAST_WORDS {
                        words.pop_front();
                    }
                    words.push_back(byte);
                }))
            }
        }
    }

    fn attach(&mut self, wiring: Wiring<'_>) -> Result<(), VmError> {
        let Wiring { ports, mmio, serial, events, host } = wiring;
        let [_, com2, ..] = serial;
        self.shared.set_bell(com2.clone());
        let channel = Channel::new(Arc::clone(&self.shared), host, Arc::clone(&events));
        let channel = Arc::new(Mutex::new(channel));
        let (bus, start) = match self.arch {
            GuestArch::X86_64 => (ports, channel::PORT),
            GuestArch::Aarch64 => (mmio, arm64::COMMAND_CHANNEL),
        };
        bus.insert(start, channel::LENGTH, "command channel", channel)?;

        let source = Source(Arc::clone(&self.shared));
        let shared = Arc::clone(&self.shared);
        let escaped = move || {
            shared.escape();
            events(crate::devices::GuestEvent::PowerOff);
        };
        let (pump, room) = StdinPump::start(Input::stdin(), move |bytes| source.take(bytes), escaped)
            .map_err(VmError::Console)?;
        self.shared.set_room(room);
        self.input = Some(pump);
        Ok(())
    }
}

/// The input thread's end of the channel: when the thread is done, so is the input.
struct Source(Arc<Shared>);

impl Source {
    fn take(&self, bytes: &[u8]) -> usize {
        self.0.take(bytes)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.0.end_input();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_name_a_place() {
        let paths = |value: &str| {
            copy_of(value).map(|(host, guest)| (host.display().to_string(), guest.display().to_string()))
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(paths("a/b:/c").unwrap(), pair("a/b", "/c"));
        assert_eq!(paths("a/b:/c/").unwrap(), pair("a/b", "/c/b"));
        assert_eq!(paths("a:b:/c").unwrap(), pair("a:b", "/c"));
        assert_eq!(paths("/etc/hosts").unwrap(), pair("/etc/hosts", "/etc/hosts"));
        for bad in ["", ":", "a:b", ":/c", "a:"] {
            assert_eq!(copy_of(bad).unwrap_err().status(), 125, "{bad}");
        }
    }

    #[test]
    fn the_environment_is_small_and_can_be_changed() {
        let env =
            environment(&["A=b=c".into(), "HOME=/x".into()], &["/opt/t/run".into()], Some("/l")).unwrap();
        let env: Vec<_> = env.iter().filter_map(|word| word.to_str()).collect();
        assert!(
            env.contains(&"A=b=c") && env.contains(&"HOME=/x") && !env.contains(&"HOME=/root"),
            "{env:?}"
        );
        assert!(
            env.contains(&format!("PATH=/opt/t:{GUEST_PATH}").as_str())
                && env.contains(&"LD_LIBRARY_PATH=/l")
        );
        for bad in ["=x", "VM_ACCEL_NO_SUCH_VARIABLE"] {
            assert!(environment(&[bad.into()], &[], None).is_err());
        }
    }

    #[test]
    fn instructions_are_counted_strings() {
        let bytes = instructions(Path::new("/p"), Path::new("/"), &["p".into(), "".into()], &["A=b".into()]);
        assert_eq!(bytes.unwrap(), b"\x02\0\0\0\x01\0\0\0/p\0/\0p\0\0A=b\0");
        let long = OsString::from("x".repeat(MAX_COMMAND));
        assert!(instructions(Path::new("/p"), Path::new("/"), &[long], &[]).is_err());
    }
}

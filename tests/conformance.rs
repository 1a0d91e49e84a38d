//! The tiny guests of `images/tiny`, each on each backend, run by the real binary.
//!
//! A test is named `BACKEND::GUEST`. A guest that a backend of this host cannot run is reported as
//! ignored, with the reason in brackets.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};
use serde::Deserialize;

const PROGRAM: &str = env!("CARGO_BIN_EXE_vm-accel");
const GUESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/images/tiny");
/// Guests that hang by design are ended after this time; the others get longer.
const SPIN_TIMEOUT: &str = "1s";
const TIMEOUT: &str = "60s";
const TIMED_OUT: i32 = 124;

/// `images/tiny/manifest.toml`.
#[derive(Deserialize)]
struct Manifest {
    guest: Vec<Guest>,
}

/// One tiny guest: how it is loaded and what it must do.
#[derive(Clone, Deserialize)]
struct Guest {
    name: String,
    file: String,
    flat: Option<u64>,
    mode: Option<String>,
    cpus: u32,
    status: i32,
    stdout: String,
    needs: Vec<String>,
}

/// What `vm-accel probe --json` says of a backend.
#[derive(Clone, Deserialize)]
struct Backend {
    kind: String,
    usable: bool,
    reason: Option<String>,
    measurement: Option<Measurement>,
}

#[derive(Clone, Deserialize)]
struct Measurement {
    kernel_sse: bool,
    merely_emulates: bool,
}

impl Backend {
    /// Why this backend cannot run `guest` here.
    fn obstacle(&self, guest: &Guest) -> Option<String> {
        if !self.usable {
            return Some(self.reason.clone().unwrap_or_else(|| "not usable here".into()));
        }
        let measurement = self.measurement.as_ref()?;
        if guest.needs.iter().any(|need| need == "sse-kernel") && !measurement.kernel_sse {
            return Some("no SSE in kernel mode on this backend".into());
        }
        if measurement.merely_emulates && !guest.needs.is_empty() {
            return Some(format!("this backend only emulates kernel-mode code; needs {:?}", guest.needs));
        }
        None
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let manifest = std::fs::read_to_string(Path::new(GUESTS).join("manifest.toml")).expect("the manifest");
    let manifest: Manifest = toml::from_str(&manifest).expect("the manifest is well-formed");
    let probe = Command::new(PROGRAM).args(["probe", "--json"]).output().expect("vm-accel starts");
    let backends: Vec<Backend> = serde_json::from_slice(&probe.stdout).expect("probe prints JSON");
    let mut trials = Vec::new();
    for backend in backends {
        for guest in &manifest.guest {
            let obstacle = backend.obstacle(guest);
            let (kind, guest) = (backend.kind.clone(), guest.clone());
            let trial = Trial::test(format!("{kind}::{}", guest.name), move || run(&kind, &guest));
            trials.push(match obstacle {
                Some(reason) => trial.with_kind(reason).with_ignored_flag(true),
                None => trial,
            });
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Runs `guest` on the backend `kind` and checks its status and output.
fn run(kind: &str, guest: &Guest) -> Result<(), Failed> {
    let mut command = Command::new(PROGRAM);
    command.args(["run", "--accel", kind, "--memory", "64M", "--cpus", &guest.cpus.to_string()]);
    command.args(["--timeout", if guest.status == TIMED_OUT { SPIN_TIMEOUT } else { TIMEOUT }]);
    if let Some(address) = guest.flat {
        command.args(["--flat", &format!("{address:#x}:{}", guest.mode.as_deref().unwrap_or("real"))]);
    }
    command.arg(Path::new(GUESTS).join(&guest.file)).stdin(Stdio::null());
    let output = command.output()?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    if output.status.code() != Some(guest.status) {
        return Err(format!(
            "{:?}, expected status {}\nstdout: {stdout}\nstderr: {stderr}",
            output.status, guest.status
        )
        .into());
    }
    if !stdout.contains(&guest.stdout) {
        return Err(format!("stdout lacks {:?}: {stdout}\nstderr: {stderr}", guest.stdout).into());
    }
    Ok(())
}

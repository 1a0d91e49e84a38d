//! The tiny guests of `images/tiny`, each on each backend, run by the real binary.
//!
//! A test is named `BACKEND::GUEST`. A guest that a backend of this host cannot run is reported as
//! ignored, with the reason in brackets.

mod support;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde::Deserialize;
use support::{Backend, Run, TINY, Trials, vm_accel};

/// What ends a guest that has no limit of its own in the manifest.
const TIMEOUT: &str = "60s";
/// Guests whose limit is longer than any host takes get this.
const DEADLINE: Duration = Duration::from_secs(150);

/// `images/tiny/manifest.toml`.
#[derive(Deserialize)]
struct Manifest {
    guest: Vec<Guest>,
}

/// One tiny guest: how it is loaded and what it must do. `images/README.md` has the keys.
#[derive(Clone, Deserialize)]
struct Guest {
    name: String,
    file: String,
    flat: Option<u64>,
    mode: Option<String>,
    cpus: u32,
    cmdline: Option<String>,
    timeout: Option<String>,
    status: i32,
    stdout: String,
    needs: Vec<String>,
}

impl Guest {
    /// Why `backend` cannot run this guest here: what it was measured to be.
    fn obstacle(&self, backend: &Backend) -> Option<String> {
        let needs = |what| self.needs.iter().any(|need| need == what);
        if needs("sse-kernel") && !backend.kernel_sse() {
            return Some("no SSE in kernel mode".into());
        }
        let emulated = ["full-kernel", "cmpxchg16b-kernel"].into_iter().find(|need| needs(need))?;
        backend.merely_emulates().then(|| format!("merely emulates kernel mode, and it needs {emulated}"))
    }

    /// Runs the guest on `backend` and checks its status and output.
    fn run(&self, backend: &Backend) {
        let mut command = vm_accel(["run", "--accel", &backend.kind, "--memory", "64M"]);
        command.args(["--cpus", &self.cpus.to_string()]);
        command.args(["--timeout", self.timeout.as_deref().unwrap_or(TIMEOUT)]);
        if let Some(address) = self.flat {
            let mode = self.mode.as_deref().expect("a flat guest has a mode");
            command.args(["--flat", &format!("{address:#x}:{mode}")]);
        }
        if let Some(cmdline) = &self.cmdline {
            command.args(["--cmdline", cmdline]);
        }
        let ended = Run::start_with(command.arg(Path::new(TINY).join(&self.file)), DEADLINE).end();
        ended.expect(self.status, &[]);
        assert!(
            String::from_utf8_lossy(&ended.stdout).contains(&self.stdout),
            "stdout lacks {:?}: {ended:#?}",
            self.stdout
        );
    }
}

fn main() -> ExitCode {
    let manifest = std::fs::read_to_string(Path::new(TINY).join("manifest.toml")).expect("the manifest");
    let manifest: Manifest = toml::from_str(&manifest).expect("the manifest is well-formed");
    let mut trials = Trials::new();
    for backend in trials.backends() {
        for guest in &manifest.guest {
            let name = format!("{}::{}", backend.kind, guest.name);
            match guest.obstacle(&backend) {
                Some(reason) => trials.ignored(name, &reason),
                None => {
                    let (guest, backend) = (guest.clone(), backend.clone());
                    trials.add(name, move || guest.run(&backend));
                }
            }
        }
    }
    trials.run()
}

//! The tiny guests of `images/tiny`, or on a backend of AArch64 guests those of `images/tiny-arm64`, each on
//! each backend, run by the real binary.
//!
//! A test is named `BACKEND::GUEST`. A guest that a backend of this host cannot run is reported as
//! ignored, with the reason in brackets.

mod support;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use support::manifest::TinyGuest;
use support::{Backend, Run, TINY, TINY_ARM64, Trials, vm_accel};

/// Longer than any limit in the manifest.
const DEADLINE: Duration = Duration::from_secs(150);

/// Why `backend` cannot run `guest` here: by what was measured, not by the machine's name.
fn obstacle(guest: &TinyGuest, backend: &Backend) -> Option<String> {
    let needs = |what| guest.needs.iter().any(|need| need == what);
    if needs("sse-kernel") && !backend.kernel_sse() {
        return Some("no SSE in kernel mode".into());
    }
    let emulated = ["full-kernel", "cmpxchg16b-kernel"].into_iter().find(|need| needs(need))?;
    backend.merely_emulates().then(|| format!("merely emulates kernel mode, and it needs {emulated}"))
}

fn add(trials: &mut Trials, name: String, guest: TinyGuest, backend: &Backend, folder: &'static str) {
    let kind = backend.kind.clone();
    trials.add(name, move || {
        let mut command = vm_accel(guest.args(&kind, Path::new(folder)));
        let ended = Run::start_with(&mut command, DEADLINE).end();
        guest.check(&ended);
    });
}

fn main() -> ExitCode {
    let mut trials = Trials::new();
    for backend in trials.backends() {
        for guest in TinyGuest::all() {
            let name = format!("{}::{}", backend.kind, guest.name);
            match obstacle(&guest, &backend) {
                Some(reason) => trials.ignored(name, &reason),
                None => add(&mut trials, name, guest, &backend, TINY),
            }
        }
    }
    for backend in trials.arm64_backends() {
        for guest in TinyGuest::of(Path::new(TINY_ARM64)) {
            add(&mut trials, format!("{}::{}", backend.kind, guest.name), guest, &backend, TINY_ARM64);
        }
    }
    trials.run()
}

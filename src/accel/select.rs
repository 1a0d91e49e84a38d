//! `auto`: the fastest backend that works here, by evidence.

use super::measure::{Measurement, measure};
use super::{Accel, AccelError, AccelKind, AccelResult, GuestArch, PlatformBackend};

/// The backend that `auto` took, and why.
pub struct Choice {
    /// A fresh virtual machine on it.
    pub backend: PlatformBackend,
    /// One line for the user.
    pub reason: String,
}

/// The host's hypervisors, the best first.
const HYPERVISORS: &[AccelKind] = if cfg!(target_os = "linux") {
    &[AccelKind::Kvm]
} else if cfg!(target_os = "macos") {
    &[AccelKind::Hvf, AccelKind::Vz]
} else if cfg!(target_os = "windows") {
    &[AccelKind::Whpx]
} else {
    &[]
};

/// Takes the first hypervisor that runs the guest's kernel-mode code itself, else the software CPU. `wanted` is
/// the guest's architecture; `None` is a guest that there is in every one.
///
/// # Errors
/// When nothing here runs such a guest.
pub fn choose(wanted: Option<GuestArch>) -> AccelResult<Choice> {
    let mut reasons = Vec::new();
    for kind in HYPERVISORS {
        match hypervisor(*kind, wanted) {
            Ok(choice) => return Ok(choice),
            Err(reason) => reasons.push(reason),
        }
    }
    without_hypervisor(reasons, wanted)
}

/// The hypervisor `kind`, if it is worth being taken; else the reason why it is not.
fn hypervisor(kind: AccelKind, wanted: Option<GuestArch>) -> Result<Choice, String> {
    if let (Some(wanted), Some(runs)) = (wanted, PlatformBackend::guest_of(kind))
        && wanted != runs
    {
        return Err(format!("{kind} here runs {runs} guests"));
    }
    let backend = PlatformBackend::new(kind).map_err(|error| format!("{kind} is not usable: {error}"))?;
    if backend.takes_whole_machines() {
        // Its machine is another one, so it is taken only for what nothing else runs.
        return if wanted == Some(GuestArch::Aarch64) {
            Ok(Choice { backend, reason: format!("{kind}: it runs whole AArch64 machines") })
        } else {
            Err(format!("{kind} runs Linux only, on a machine of its own"))
        };
    }
    if super::native::runs_kernel_code_natively() {
        return Ok(Choice { backend, reason: format!("{kind}: this processor virtualizes in hardware") });
    }
    // Not beside the one that is measured: some hosts give a process one virtual machine at a time.
    drop(backend);
    let measured = measure(|| PlatformBackend::new(kind), false)
        .map_err(|error| format!("{kind} fails its test: {error}"))?;
    if measured.merely_emulates() {
        return Err(emulates(kind, &measured));
    }
    let backend = PlatformBackend::new(kind).map_err(|error| format!("{kind} is not usable: {error}"))?;
    let mips = measured.kernel_mips;
    let reason = format!("{kind}: it runs kernel-mode code at {mips:.0} million instructions/s");
    Ok(Choice { backend, reason })
}

/// The software CPU, where it runs such a guest.
fn without_hypervisor(mut reasons: Vec<String>, wanted: Option<GuestArch>) -> AccelResult<Choice> {
    if reasons.is_empty() {
        reasons.push("this platform has no hypervisor that vm-accel knows".into());
    }
    if wanted == Some(GuestArch::Aarch64) {
        reasons.insert(0, "the kernel is for AArch64".into());
        reasons
            .push("the software CPU runs x86-64 guests. Use an AArch64 host with a usable hypervisor".into());
        return Err(AccelError::NoneUsable(reasons));
    }
    Ok(Choice {
        backend: PlatformBackend::new(AccelKind::Soft)?,
        reason: format!("the software CPU, because {}", reasons.join("; ")),
    })
}

/// What is to be said of a hypervisor that merely emulates.
#[must_use]
pub fn emulates(kind: AccelKind, m: &Measurement) -> String {
    format!(
        "this {kind} only emulates kernel-mode code, at {:.1} million instructions/s{}",
        m.kernel_mips,
        if m.kernel_sse { "" } else { " and without SSE" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aarch64_guest_that_nothing_here_runs_is_an_error_that_says_what_is_missing() {
        match choose(Some(GuestArch::Aarch64)) {
            Ok(choice) => assert_eq!(choice.backend.guest(), GuestArch::Aarch64),
            Err(error) => {
                let error = error.to_string();
                assert!(
                    error.contains("the kernel is for AArch64")
                        && error.contains("AArch64 host with a usable"),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn an_x86_guest_always_has_a_backend() {
        assert_eq!(choose(Some(GuestArch::X86_64)).unwrap().backend.guest(), GuestArch::X86_64);
    }
}

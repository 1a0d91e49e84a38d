//! `auto`: the fastest backend that works here, by evidence.

use super::measure::{Measurement, measure};
use super::{AccelError, AccelKind, AccelResult, GuestArch, PlatformBackend};

/// The backend that `auto` took, and why.
pub struct Choice {
    /// A fresh virtual machine on it.
    pub backend: PlatformBackend,
    /// One line for the user.
    pub reason: String,
}

/// Takes KVM where it runs the guest's kernel-mode code itself, else the software CPU. `wanted` is the
/// guest's architecture; `None` is a guest that there is in every one.
///
/// # Errors
/// When nothing here runs such a guest.
pub fn choose(wanted: Option<GuestArch>) -> AccelResult<Choice> {
    if let (Some(wanted), Some(runs)) = (wanted, PlatformBackend::guest_of(AccelKind::Kvm))
        && wanted != runs
    {
        return without_kvm(format!("kvm here runs {runs} guests"), Some(wanted));
    }
    match PlatformBackend::new(AccelKind::Kvm) {
        Err(error) => without_kvm(format!("kvm is not usable: {error}"), wanted),
        Ok(backend) if super::native::runs_kernel_code_natively() => {
            Ok(Choice { backend, reason: "kvm: this processor virtualizes in hardware".into() })
        }
        Ok(backend) => match measure(|| PlatformBackend::new(AccelKind::Kvm), false) {
            Ok(m) if m.merely_emulates() => without_kvm(emulates(&m), wanted),
            Ok(m) => {
                let reason =
                    format!("kvm: it runs kernel-mode code at {:.0} million instructions/s", m.kernel_mips);
                Ok(Choice { backend, reason })
            }
            Err(error) => without_kvm(format!("kvm fails its test: {error}"), wanted),
        },
    }
}

/// The software CPU, where it runs such a guest.
fn without_kvm(why: String, wanted: Option<GuestArch>) -> AccelResult<Choice> {
    if wanted == Some(GuestArch::Aarch64) {
        return Err(AccelError::NoneUsable(vec![
            "the kernel is for AArch64".into(),
            why,
            "the software CPU runs x86-64 guests. Use an AArch64 host with a usable KVM".into(),
        ]));
    }
    Ok(Choice {
        backend: PlatformBackend::new(AccelKind::Soft)?,
        reason: format!("the software CPU, because {why}"),
    })
}

/// What is to be said of a KVM that merely emulates.
#[must_use]
pub fn emulates(m: &Measurement) -> String {
    format!(
        "this kvm only emulates kernel-mode code, at {:.1} million instructions/s{}",
        m.kernel_mips,
        if m.kernel_sse { "" } else { " and without SSE" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accel::Accel;

    #[test]
    fn an_aarch64_guest_that_nothing_here_runs_is_an_error_that_says_what_is_missing() {
        match choose(Some(GuestArch::Aarch64)) {
            Ok(choice) => assert_eq!(choice.backend.guest(), GuestArch::Aarch64),
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("the kernel is for AArch64") && error.contains("kvm"), "{error}");
            }
        }
    }

    #[test]
    fn an_x86_guest_always_has_a_backend() {
        assert_eq!(choose(Some(GuestArch::X86_64)).unwrap().backend.guest(), GuestArch::X86_64);
    }
}

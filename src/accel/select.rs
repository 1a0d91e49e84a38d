//! `auto`: the fastest backend that works here, by evidence.

use super::measure::{Measurement, measure};
use super::{AccelKind, AccelResult, PlatformBackend};

/// The backend that `auto` took, and why.
pub struct Choice {
    /// A fresh virtual machine on it.
    pub backend: PlatformBackend,
    /// One line for the user.
    pub reason: String,
}

/// Takes KVM where it runs kernel-mode code itself, else the software CPU.
///
/// # Errors
/// When not even the software CPU can be made.
pub fn choose() -> AccelResult<Choice> {
    match PlatformBackend::new(AccelKind::Kvm) {
        Err(error) => soft(format!("kvm is not usable: {error}")),
        Ok(backend) if super::native::runs_kernel_code_natively() => {
            Ok(Choice { backend, reason: "kvm: this processor virtualizes in hardware".into() })
        }
        Ok(backend) => match measure(|| PlatformBackend::new(AccelKind::Kvm), false) {
            Ok(m) if m.merely_emulates() => soft(emulates(&m)),
            Ok(m) => {
                let reason =
                    format!("kvm: it runs kernel-mode code at {:.0} million instructions/s", m.kernel_mips);
                Ok(Choice { backend, reason })
            }
            Err(error) => soft(format!("kvm fails its test: {error}")),
        },
    }
}

fn soft(why: String) -> AccelResult<Choice> {
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

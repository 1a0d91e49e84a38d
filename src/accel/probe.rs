//! What works on this host, how fast, and what to do about the rest.

use std::fmt;

use serde::Serialize;

use super::measure::{Measurement, measure};
use super::{Accel, AccelError, AccelKind, GuestArch, PlatformBackend, select};

/// What was found out about one backend.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The backend.
    pub kind: AccelKind,
    /// The architecture of the guests that it runs on this host; `None` where it does not exist.
    pub guest: Option<GuestArch>,
    /// Whether it runs guests here.
    pub usable: bool,
    /// Why it does not, or what is to be known about it.
    pub reason: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
    /// How it runs kernel-mode code.
    pub measurement: Option<Measured>,
}

/// A measurement and what follows from it.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Measured {
    /// The figures.
    #[serde(flatten)]
    pub figures: Measurement,
    /// A hypervisor emulates kernel-mode code instruction by instruction.
    pub merely_emulates: bool,
}

/// The backends that this binary knows, in the order in which `probe` prints them.
const KINDS: [AccelKind; 5] =
    [AccelKind::Kvm, AccelKind::Hvf, AccelKind::Whpx, AccelKind::Vz, AccelKind::Soft];

/// Tries the backend `kind`, or all for `Auto`, with tiny guests.
#[must_use]
pub fn probe(kind: AccelKind) -> Vec<Finding> {
    KINDS.into_iter().filter(|k| kind == AccelKind::Auto || *k == kind).map(look).collect()
}

fn look(kind: AccelKind) -> Finding {
    let guest = PlatformBackend::guest_of(kind);
    match PlatformBackend::new(kind) {
        Ok(backend) if backend.takes_whole_machines() => {
            return Finding {
                kind,
                guest,
                usable: true,
                reason: Some("it runs whole Linux machines and is not measured".into()),
                remedy: None,
                measurement: None,
            };
        }
        // Gone before the one that is measured: some hosts give a process one at a time.
        _ => {}
    }
    match measure(|| PlatformBackend::new(kind), true) {
        Ok(figures) => {
            let merely_emulates = kind != AccelKind::Soft && figures.merely_emulates();
            Finding {
                kind,
                guest,
                usable: true,
                reason: merely_emulates.then(|| select::emulates(kind, &figures)),
                remedy: merely_emulates.then(|| "Use `--accel soft`, as `--accel auto` does".into()),
                measurement: Some(Measured { figures, merely_emulates }),
            }
        }
        Err(error) => {
            let (reason, remedy) = split(error);
            Finding {
                kind,
                guest,
                usable: false,
                reason: Some(reason),
                remedy: Some(remedy),
                measurement: None,
            }
        }
    }
}

/// An error's reason and its remedy.
fn split(error: AccelError) -> (String, String) {
    match error {
        AccelError::NotOnThisPlatform { kind, remedy } => {
            (format!("{kind} is not available on this platform"), remedy.into())
        }
        AccelError::Unusable { what, reason, remedy } => (format!("{what}: {reason}"), remedy),
        other => (other.to_string(), "Use `--accel soft`".into()),
    }
}

impl fmt::Display for Finding {
    /// One line, or two where there is something to say.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.to_string();
        match &self.measurement {
            Some(Measured { figures, merely_emulates }) => {
                let verdict = if *merely_emulates { "slow" } else { "usable" };
                let sse = if figures.kernel_sse { "yes" } else { "no" };
                write!(
                    f,
                    "{kind:<8}{verdict:<10}{:>12.1}{:>12.1}{:>12.2}   {sse}",
                    figures.kernel_mips, figures.exit_us, figures.start_ms
                )?;
            }
            None => {
                let verdict = if self.usable { "usable" } else { "no" };
                write!(f, "{kind:<8}{verdict:<10}{:>12}{:>12}{:>12}   -", "-", "-", "-")?;
            }
        }
        if let Some(reason) = &self.reason {
            write!(f, "\n        {reason}.")?;
            if let Some(remedy) = &self.remedy {
                write!(f, " {remedy}.")?;
            }
        }
        Ok(())
    }
}

/// The heading of the table whose rows are [`Finding`]s.
#[must_use]
pub fn heading() -> String {
    format!(
        "{:<8}{:<10}{:>12}{:>12}{:>12}   kernel SSE",
        "backend", "verdict", "kernel MIPS", "exit us", "start ms"
    )
}

//! `images/tiny/manifest.toml` and `images/tiny-arm64/manifest.toml`: the tiny guests, how each is loaded and what it must do.

use std::path::Path;

use serde::Deserialize;

use super::{Ended, TINY};

/// What ends a guest that has no limit of its own in the manifest.
const TIMEOUT: &str = "60s";

#[derive(Deserialize)]
struct Manifest {
    guest: Vec<TinyGuest>,
}

/// One tiny guest. `images/README.md` has the keys.
#[derive(Clone, Deserialize)]
pub struct TinyGuest {
    pub name: String,
    pub file: String,
    pub flat: Option<u64>,
    pub mode: Option<String>,
    pub cpus: u32,
    pub cmdline: Option<String>,
    pub timeout: Option<String>,
    pub status: i32,
    pub stdout: String,
    pub needs: Vec<String>,
}

impl TinyGuest {
    /// Every guest of the list of x86-64.
    pub fn all() -> Vec<Self> {
        Self::of(Path::new(TINY))
    }

    /// Every guest of the list in `folder`.
    pub fn of(folder: &Path) -> Vec<Self> {
        let text = std::fs::read_to_string(folder.join("manifest.toml")).expect("the manifest");
        toml::from_str::<Manifest>(&text).expect("the manifest is well-formed").guest
    }

    /// The words behind `vm-accel` that run it on `backend`, with its file in `folder`.
    pub fn args(&self, backend: &str, folder: &Path) -> Vec<String> {
        let mut args: Vec<String> = ["run", "--accel", backend, "--memory", "64M"].map(str::to_owned).into();
        let mut flag = |name: &str, value: &str| args.extend([name.to_owned(), value.to_owned()]);
        flag("--cpus", &self.cpus.to_string());
        flag("--timeout", self.timeout.as_deref().unwrap_or(TIMEOUT));
        if let Some(address) = self.flat {
            let mode = self.mode.as_deref().expect("a flat guest has a mode");
            flag("--flat", &format!("{address:#x}:{mode}"));
        }
        if let Some(cmdline) = &self.cmdline {
            flag("--cmdline", cmdline);
        }
        args.push(folder.join(&self.file).display().to_string());
        args
    }

    /// Whether this is how it must end: status and output.
    pub fn accepts(&self, ended: &Ended) -> bool {
        ended.code == Some(self.status) && String::from_utf8_lossy(&ended.stdout).contains(&self.stdout)
    }

    /// Checks that it ended as it must.
    #[track_caller]
    pub fn check(&self, ended: &Ended) {
        let Self { status, stdout, .. } = self;
        assert!(self.accepts(ended), "expected {status} and the output {stdout:?}: {ended:?}");
    }
}

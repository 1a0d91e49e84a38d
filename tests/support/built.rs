//! What tests need beside the program: a stock Debian guest, and an optimized, statically linked build for
//! guests that compute much and for machines that have no libraries.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::PROJECT;

/// What it is built for: the nested machine's and, where it is a Linux machine, the host's.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The binary, or why there is none. The first call builds it, which takes minutes if it has never been
/// built; cargo keeps it in a folder of its own, so that nothing else has to be built again.
pub fn static_binary() -> Result<PathBuf, String> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BINARY.get_or_init(build).clone()
}

fn build() -> Result<PathBuf, String> {
    let folder = Path::new(PROJECT).join("target/rig");
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--locked", "--bin", "vm-accel", "--target", TARGET]);
    command.current_dir(PROJECT).env_remove("CARGO_ENCODED_RUSTFLAGS");
    command.env("CARGO_TARGET_DIR", &folder).env("RUSTFLAGS", "-C target-feature=+crt-static");
    // Whole-program optimization would take longer than it saves these tests.
    command.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    let output = command.output().map_err(|error| format!("cargo does not run: {error}"))?;
    if output.status.success() {
        return Ok(folder.join(TARGET).join("release/vm-accel"));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let reason = said.lines().find(|line| line.starts_with("error")).unwrap_or("cargo fails");
    Err(format!("no static build: {reason}"))
}

/// The folder with a Debian kernel and userland that `images/fetch-debian` makes, or why there is none.
pub fn debian() -> Result<PathBuf, String> {
    let script = Path::new(PROJECT).join("images/fetch-debian");
    let output = Command::new(script).output().map_err(|error| format!("images/fetch-debian: {error}"))?;
    if output.status.success() {
        return Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.lines().last().unwrap_or("images/fetch-debian failed").to_owned())
}

//! Links the program statically where that can be done, because a dynamic start costs a short run a tenth
//! of its time: the loader, the C library's symbols, the pages that relocations touch.
//!
//! It is done for glibc with the linker's own means and not by `-C target-feature=+crt-static`, because
//! Cargo cannot set that for the one program and leave procedural macros and tests alone. Where glibc's
//! static library is missing, and for every other target, the program is linked as usual.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Libraries that Rust's standard library names, and the archives that hold what each has.
const LIBRARIES: [(&str, &[&str]); 7] = [
    // GCC's shared unwinder has no archive of its name.
    ("gcc_s", &["libgcc_eh.a", "libgcc.a"]),
    // What the C library itself needs of GCC.
    ("c", &["libc.a", "libgcc_eh.a", "libgcc.a"]),
    ("m", &["libm.a"]),
    ("dl", &["libdl.a"]),
    ("rt", &["librt.a"]),
    ("pthread", &["libpthread.a"]),
    ("util", &["libutil.a"]),
];

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let native = variable("HOST") == variable("TARGET");
    let glibc = variable("CARGO_CFG_TARGET_OS") == "linux" && variable("CARGO_CFG_TARGET_ENV") == "gnu";
    let asked_for = variable("CARGO_CFG_TARGET_FEATURE").split(',').any(|feature| feature == "crt-static");
    if !native || !glibc || asked_for {
        return Ok(());
    }
    let folder = PathBuf::from(variable("OUT_DIR")).join("static");
    if !write_scripts(&folder)? {
        return Ok(());
    }
    // Searched before the system's folders, so that `-lc` finds the script and not libc.so.
    println!("cargo:rustc-link-arg-bins=-L{}", folder.display());
    println!("cargo:rustc-link-arg-bins=-static-pie");
    Ok(())
}

/// Writes a linker script for each library, which names its archives; `false` if one is missing.
fn write_scripts(folder: &Path) -> io::Result<bool> {
    fs::create_dir_all(folder)?;
    for (name, archives) in LIBRARIES {
        let mut paths = Vec::new();
        for archive in archives {
            let Some(path) = find(archive) else { return Ok(false) };
            paths.push(path.display().to_string());
        }
        fs::write(folder.join(format!("lib{name}.a")), format!("GROUP ( {} )\n", paths.join(" ")))?;
    }
    Ok(true)
}

/// Where the C compiler, which is the linker's driver too, has `archive`.
fn find(archive: &str) -> Option<PathBuf> {
    let output = Command::new("cc").arg(format!("-print-file-name={archive}")).output().ok()?;
    // It answers with the bare name if it has none.
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    path.is_absolute().then_some(path)
}

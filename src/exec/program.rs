//! A command of the host, and everything that it needs in the guest.

use std::fs;
use std::path::{Path, PathBuf};

use super::ExecError;
use super::elf;
use super::libraries::Linker;
use super::tree::Tree;
use crate::accel::{GuestArch, host};

/// How many interpreters may need interpreters themselves; Linux's own limit is less.
const MAX_INTERPRETERS: usize = 4;

/// The path of `command` on the host: as it is if it has a slash, else the first executable file of that
/// name in the directories of `search`.
///
/// # Errors
/// As a shell has them: not found, or not executable.
pub fn find(command: &str, search: &str) -> Result<PathBuf, ExecError> {
    let mut refused = None;
    let candidates: Vec<PathBuf> = if command.contains('/') {
        vec![PathBuf::from(command)]
    } else {
        // An empty name would be every directory itself; an empty directory means the current one.
        let directories = search.split(':').map(|d| if d.is_empty() { "." } else { d });
        directories.filter(|_| !command.is_empty()).map(|d| Path::new(d).join(command)).collect()
    };
    for path in candidates {
        let Ok(metadata) = path.metadata() else { continue };
        if metadata.is_dir() {
            refused.get_or_insert("it is a directory");
        } else if !host::is_executable(&metadata) {
            refused.get_or_insert("it has no execute permission; add it with chmod +x");
        } else {
            return std::path::absolute(&path).map_err(|source| ExecError::Read { path, source });
        }
    }
    let command = command.to_owned();
    Err(match refused {
        // A directory in PATH that has a subdirectory of this name is no reason.
        Some(reason) if command.contains('/') || !reason.ends_with("directory") => {
            ExecError::NotExecutable { command, reason: reason.to_owned() }
        }
        _ => ExecError::NotFound { command },
    })
}

/// Adds the program at `path` with its interpreter and libraries to `tree`, for a guest of this architecture.
///
/// # Errors
/// When something that it needs is missing, or it is a program for another processor.
pub fn add(
    path: &Path,
    guest: GuestArch,
    search: &str,
    linker: &Linker,
    tree: &mut Tree,
) -> Result<(), ExecError> {
    let mut path = path.to_owned();
    for _ in 0..MAX_INTERPRETERS {
        let read = |source| ExecError::Read { path: path.clone(), source };
        let file = fs::read(&path).map_err(read)?;
        tree.add_host_file(&path)?;
        let refused = |reason: &str| ExecError::NotExecutable {
            command: path.display().to_string(),
            reason: reason.to_owned(),
        };
        if let Some(script) = file.strip_prefix(b"#!") {
            let line = script.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let line = std::str::from_utf8(line).map_err(|_| refused("its first line is not UTF-8"))?;
            let mut words = line.split_ascii_whitespace();
            let interpreter = words.next().ok_or_else(|| refused("its first line names no interpreter"))?;
            if !Path::new(interpreter).exists() {
                return Err(refused(&format!("its interpreter {interpreter} does not exist; install it")));
            }
            // env finds the real interpreter on PATH.
            if interpreter.ends_with("/env")
                && let Some(real) = words.find(|word| !word.starts_with('-') && !word.contains('='))
            {
                add(&find(real, search)?, guest, search, linker, tree)?;
            }
            path = PathBuf::from(interpreter);
            continue;
        }
        match elf::kind(&file) {
            Some(kind) if kind.runs_on(guest) => {
                for library in linker.closure(&path, &file)? {
                    tree.add_host_file(&library)?;
                }
                return Ok(());
            }
            Some(_) => {
                let reason = format!("it is a program for another processor; bring one for {guest}");
                return Err(refused(&reason));
            }
            None => return Err(refused("it is neither an ELF program nor a script with #!")),
        }
    }
    Err(ExecError::NotExecutable {
        command: path.display().to_string(),
        reason: "its interpreter is a script whose interpreter is a script, and so on".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::arch;

    fn executable(path: &Path, content: &[u8]) {
        fs::write(path, content).unwrap();
        host::make_executable(path).unwrap();
    }

    #[test]
    fn commands_are_found_as_a_shell_does() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        fs::create_dir_all(one.join("folder")).unwrap();
        fs::create_dir(&two).unwrap();
        fs::write(one.join("tool"), b"").unwrap();
        fs::write(one.join("plain"), b"").unwrap();
        executable(&two.join("tool"), b"");
        let search = format!("{}:{}", one.display(), two.display());
        assert_eq!(find("tool", &search).unwrap(), two.join("tool"));
        for (command, status) in [("plain", 126), ("folder", 127), ("none", 127), ("", 127), ("/", 126)] {
            assert_eq!(find(command, &search).unwrap_err().status(), status, "{command}");
        }
    }

    #[test]
    fn a_script_brings_its_interpreter() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().canonicalize().unwrap().join("script");
        let (search, linker) = ("/usr/bin:/bin", Linker::of_host(None));
        let guest = host::LINUX_PROGRAMS.expect("a Linux host");
        for line in ["#!/bin/sh\n", "#! /usr/bin/env sh\n", "#!/usr/bin/env -S A=b sh -e\n"] {
            executable(&script, line.as_bytes());
            let mut tree = Tree::default();
            add(&script, guest, search, &linker, &mut tree).unwrap();
            assert!(tree.contains(&script) && tree.contains(&find("sh", search).unwrap()), "{line}");
        }
        for content in ["#!\n", "#!/no/such/thing\n", "text", "\x7fELF", "#!/usr/bin/env nothing-like-it\n"] {
            executable(&script, content.as_bytes());
            assert!(add(&script, guest, search, &linker, &mut Tree::default()).is_err(), "{content}");
        }
    }

    #[test]
    fn a_program_must_be_one_for_the_guest() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().canonicalize().unwrap().join("program");
        let linker = Linker::of_host(None);
        for (guest, other) in
            [(GuestArch::X86_64, GuestArch::Aarch64), (GuestArch::Aarch64, GuestArch::X86_64)]
        {
            executable(&program, arch::init(guest));
            let mut tree = Tree::default();
            add(&program, guest, "", &linker, &mut tree).unwrap();
            assert!(tree.contains(&program));
            let error = add(&program, other, "", &linker, &mut Tree::default()).unwrap_err();
            assert!(error.to_string().ends_with(&format!("bring one for {other}")), "{error}");
            assert_eq!(error.status(), 126);
        }
    }
}

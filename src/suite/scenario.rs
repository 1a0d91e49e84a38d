//! The scenario files: which there are, what each says, and what it is called.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use super::SuiteError;
use crate::config::{ConfigError, SerialBackend, Settings, VmConfig};
use crate::script::printable;

/// How deep folders may be in each other.
const DEEPEST: usize = 64;

/// A scenario file that has been read.
#[derive(Debug)]
pub struct Scenario {
    /// Its path, as results show it.
    pub name: String,
    /// Its path.
    pub file: PathBuf,
    /// What its kept output is called, without an extension: a relative path that no other scenario has.
    pub kept_as: PathBuf,
    /// What it says, with the flags over it.
    pub config: VmConfig,
}

/// The scenarios at `paths` in order: files as they are given, folders with all that is in them and ends in
/// `.toml`, sorted by path; what begins with a dot is left out, and so are links to folders. A file that is
/// named twice is one scenario. `flags` override what the files say.
///
/// # Errors
/// When a path cannot be read, there is no scenario, or one is not well-formed: then every such file is
/// named.
pub fn find(paths: &[PathBuf], flags: &Settings) -> Result<Vec<Scenario>, SuiteError> {
    let mut files = Vec::new();
    for path in paths {
        let unreadable = |source| SuiteError::Read { path: path.clone(), source };
        if fs::metadata(path).map_err(unreadable)?.is_dir() {
            let mut found = Vec::new();
            walk(path, DEEPEST, &mut found)?;
            found.sort();
            files.append(&mut found);
        } else if is_scenario(path) {
            files.push(path.clone());
        } else {
            return Err(SuiteError::NotAScenario(path.clone()));
        }
    }
    let mut seen = HashSet::new();
    files.retain(|file| seen.insert(fs::canonicalize(file).unwrap_or_else(|_| file.clone())));
    if files.is_empty() {
        let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        return Err(SuiteError::Nothing(paths.join(", ")));
    }
    let (mut scenarios, mut problems) = (Vec::new(), Vec::new());
    let mut kept = HashSet::new();
    for file in files {
        match Settings::from_file(&file).and_then(|file| file.overridden_by(flags.clone()).into_config()) {
            Ok(config) => scenarios.push(Scenario {
                name: printable(file.display().to_string().as_bytes()),
                kept_as: kept_as(&file, &mut kept),
                file,
                config,
            }),
            // The others name the file themselves.
            Err(error @ ConfigError::Conflict(_)) => problems.push(format!("{}: {error}", file.display())),
            Err(error) => problems.push(error.to_string()),
        }
    }
    if !problems.is_empty() {
        return Err(SuiteError::Scenarios(problems));
    }
    check_files(&scenarios)?;
    Ok(scenarios)
}

fn walk(folder: &Path, deeper: usize, found: &mut Vec<PathBuf>) -> Result<(), SuiteError> {
    let unreadable = |source| SuiteError::Read { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        if entry.file_type().map_err(unreadable)?.is_dir() {
            if deeper > 0 {
                walk(&path, deeper - 1, found)?;
            }
        } else if is_scenario(&path) && !path.is_dir() {
            found.push(path);
        }
    }
    Ok(())
}

fn is_scenario(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml"))
}

/// The scenario's path below a folder of logs: without what would lead out of it, and with a number where
/// that makes two the same.
fn kept_as(file: &Path, kept: &mut HashSet<PathBuf>) -> PathBuf {
    let inside = file.components().filter(|part| matches!(part, Component::Normal(_)));
    let plain = inside.collect::<PathBuf>().with_extension("");
    let mut path = plain.clone();
    let mut number = 1;
    while !kept.insert(path.clone()) {
        number += 1;
        path.clone_from(&plain);
        path.as_mut_os_string().push(format!("-{number}"));
    }
    path
}

/// Checks that no two scenarios write the same file.
fn check_files(scenarios: &[Scenario]) -> Result<(), SuiteError> {
    let mut writers: BTreeMap<PathBuf, &str> = BTreeMap::new();
    for scenario in scenarios {
        let config = &scenario.config;
        let serial = config.serial.iter().flatten().filter_map(|backend| match backend {
            SerialBackend::File(path) | SerialBackend::Unix(path) => Some(path),
            SerialBackend::Stdio | SerialBackend::Null | SerialBackend::Pty => None,
        });
        for path in serial.chain(&config.log).chain(&config.junit) {
            // Two paths of one new file have the same folder. Devices take everything.
            let folder = path.parent().and_then(|folder| fs::canonicalize(folder).ok());
            let place = folder.zip(path.file_name()).map_or(path.clone(), |(folder, name)| folder.join(name));
            if place.starts_with("/dev") || path.as_os_str() == "-" {
                continue;
            }
            if let Some(first) = writers.insert(place, &scenario.name) {
                let (first, second) = (first.to_owned(), scenario.name.clone());
                return Err(SuiteError::SameFile { path: path.clone(), first, second });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn names(folder: &Path, paths: &[&str]) -> Result<Vec<String>, String> {
        let paths: Vec<PathBuf> = paths.iter().map(|path| folder.join(path)).collect();
        let found = find(&paths, &Settings::default()).map_err(|error| error.to_string())?;
        let name = |scenario: &Scenario| scenario.file.strip_prefix(folder).unwrap().display().to_string();
        Ok(found.iter().map(name).collect())
    }

    #[test]
    fn folders_are_walked_in_order_and_nothing_comes_twice() {
        let files = ["b.toml", "a/z.toml", "a/c/d.TOML", "a.toml", "x.txt", ".git/no.toml", ".no.toml"];
        let folder = folder(&files.map(|name| (name, "")));
        let all = ["a/c/d.TOML", "a/z.toml", "a.toml", "b.toml"];
        assert_eq!(names(folder.path(), &["."]).unwrap(), all);
        assert_eq!(
            names(folder.path(), &["b.toml", "a", "./b.toml"]).unwrap(),
            ["b.toml", "a/c/d.TOML", "a/z.toml"]
        );
    }

    #[test]
    fn what_is_no_scenario_is_told() {
        let folder = folder(&[
            ("good.toml", "cpus = 2"),
            ("bad/a.toml", "cpus = 2\nmemroy = '1G'"),
            ("bad/b.toml", "initrd = 'x'"),
            ("empty/x.txt", ""),
            ("same/a.toml", "log = 'x.log'"),
            ("same/b.toml", "serial = ['stdio', 'file:../same/x.log']"),
            ("dev/a.toml", "log = '/dev/null'"),
            ("dev/b.toml", "log = '/dev/null'"),
        ]);
        for (path, words) in [
            ("nowhere", &["nowhere", "No such file"][..]),
            ("empty/x.txt", &["no scenario file", "`.toml`"]),
            ("empty", &["there is no scenario in", "empty"]),
            ("bad", &["line 2; did you mean `memory`?", "\nvm-accel: ", "b.toml: `initrd` is given without"]),
            ("same", &["a.toml and", "b.toml both write", "x.log"]),
        ] {
            let message = names(folder.path(), &["good.toml", path]).err();
            let message = match path {
                "empty" => names(folder.path(), &[path]).unwrap_err(),
                _ => message.unwrap(),
            };
            for word in words {
                assert!(message.contains(word), "{message}");
            }
        }
        assert_eq!(names(folder.path(), &["dev"]).unwrap().len(), 2);
    }

    #[test]
    fn kept_output_has_a_place_of_its_own() {
        let mut kept = HashSet::new();
        let mut place = |path: &str| kept_as(Path::new(path), &mut kept).display().to_string();
        assert_eq!(place("../a/b.toml"), "a/b");
        assert_eq!(place("/a/b.toml"), "a/b-2");
        assert_eq!(place("./c.d.toml"), "c.d");
    }
}

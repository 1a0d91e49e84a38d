//! Finds the shared libraries of a program where the host's dynamic linker would: ld.so(8).

use std::collections::{HashSet, VecDeque};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::ExecError;
use super::elf::{self, Kind, Needs};

/// Where libraries are when nothing else says so. Debian's and Fedora's, 64 and 32 bits; a library of
/// the wrong kind is passed over.
const DEFAULT_DIRECTORIES: [&str; 14] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib/i386-linux-gnu",
    "/usr/lib/i386-linux-gnu",
    "/lib/arm-linux-gnueabihf",
    "/usr/lib/arm-linux-gnueabihf",
    "/lib32",
    "/usr/lib32",
    "/lib",
    "/usr/lib",
];
/// How deep /etc/ld.so.conf may include.
const MAX_INCLUDES: usize = 8;

/// The search for libraries on one host.
#[derive(Debug)]
pub struct Linker {
    /// LD_LIBRARY_PATH, then later what the configuration and the defaults say.
    first: Vec<PathBuf>,
    last: Vec<PathBuf>,
}

impl Linker {
    /// The host's: `library_path` is its LD_LIBRARY_PATH.
    #[must_use]
    pub fn of_host(library_path: Option<&str>) -> Self {
        let first =
            library_path.map(|list| list.split([':', ';']).filter(|d| !d.is_empty()).map(PathBuf::from));
        let mut last = Vec::new();
        read_configuration(Path::new("/etc/ld.so.conf"), &mut last, 0);
        last.extend(DEFAULT_DIRECTORIES.map(PathBuf::from));
        Self { first: first.map(Iterator::collect).unwrap_or_default(), last }
    }

    /// The files that `program` (whose content is `file`) needs to run, its interpreter among them.
    ///
    /// # Errors
    /// When one is missing or damaged.
    pub fn closure(&self, program: &Path, file: &[u8]) -> Result<Vec<PathBuf>, ExecError> {
        let needs = parse(program, file)?;
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        if let Some(interpreter) = &needs.interpreter {
            let path = PathBuf::from(interpreter);
            if !path.exists() {
                return Err(missing(program, interpreter));
            }
            seen.insert(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
            found.push(path);
        }
        // Breadth first, as the linker does; DT_RPATH is inherited by what a file loads.
        let mut todo = VecDeque::from([(program.to_owned(), needs, Vec::new())]);
        while let Some((path, needs, mut inherited)) = todo.pop_front() {
            let kind = needs.kind;
            let expand =
                |list: &[String]| list.iter().filter_map(|d| expand(d, &path, kind)).collect::<Vec<_>>();
            let runpath = expand(&needs.runpath);
            inherited.splice(0..0, expand(&needs.rpath));
            for name in &needs.libraries {
                if !seen.insert(name.clone()) {
                    continue;
                }
                // A file with DT_RUNPATH does not look at any DT_RPATH.
                let rpath: &[PathBuf] = if runpath.is_empty() { &inherited } else { &[] };
                let directories = rpath.iter().chain(&self.first).chain(&runpath).chain(&self.last);
                let library = find(name, directories, needs.kind).ok_or_else(|| missing(&path, name))?;
                let file =
                    fs::read(&library).map_err(|source| ExecError::Read { path: library.clone(), source })?;
                let needs = parse(&library, &file)?;
                found.push(library.clone());
                todo.push_back((library, needs, inherited.clone()));
            }
        }
        Ok(found)
    }
}

fn parse(path: &Path, file: &[u8]) -> Result<Needs, ExecError> {
    elf::needs(file).map_err(|reason| ExecError::DamagedElf { path: path.to_owned(), reason })
}

fn missing(program: &Path, library: &str) -> ExecError {
    ExecError::MissingLibrary { program: program.to_owned(), library: library.to_owned() }
}

fn find<'a>(name: &str, mut directories: impl Iterator<Item = &'a PathBuf>, kind: Kind) -> Option<PathBuf> {
    let fits = |path: &Path| {
        let mut head = [0; 20];
        let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
        read.is_ok() && elf::kind(&head) == Some(kind)
    };
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| fits(path));
    }
    directories.find_map(|directory| Some(directory.join(name)).filter(|path| fits(path)))
}

/// A directory of DT_RPATH or DT_RUNPATH of the file at `path`, which is of this kind; one that cannot be
/// known is left out.
fn expand(directory: &str, path: &Path, kind: Kind) -> Option<PathBuf> {
    let real = path.canonicalize().ok()?;
    let origin = real.parent()?.to_str()?;
    let mut expanded = directory.replace("${ORIGIN}", origin).replace("$ORIGIN", origin);
    if let Some(name) = kind.multiarch() {
        let lib = format!("lib/{name}");
        expanded = expanded.replace("${LIB}", &lib).replace("$LIB", &lib);
    }
    (!expanded.is_empty() && !expanded.contains('$')).then(|| PathBuf::from(expanded))
}

/// The directories that a file like /etc/ld.so.conf names, with what it includes.
fn read_configuration(path: &Path, directories: &mut Vec<PathBuf>, depth: usize) {
    let Ok(text) = fs::read_to_string(path) else { return };
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(pattern) = line.strip_prefix("include").filter(|rest| rest.starts_with([' ', '\t'])) {
            if depth < MAX_INCLUDES {
                for file in matching(pattern.trim(), path) {
                    read_configuration(&file, directories, depth + 1);
                }
            }
        } else if line.starts_with('/') {
            directories.push(PathBuf::from(line));
        }
    }
}

/// The files that an `include` means: a path whose last part may have one `*`.
fn matching(pattern: &str, includer: &Path) -> Vec<PathBuf> {
    let pattern = includer.parent().unwrap_or(Path::new("/")).join(pattern);
    let (Some(directory), Some(name)) = (pattern.parent(), pattern.file_name().and_then(|n| n.to_str()))
    else {
        return Vec::new();
    };
    let Some((head, tail)) = name.split_once('*') else { return vec![pattern.clone()] };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.strip_prefix(head).is_some_and(|rest| rest.ends_with(tail))
        })
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accel::GuestArch;
    use crate::exec::arch;

    #[test]
    fn this_test_has_its_interpreter_and_libraries() {
        let program = std::env::current_exe().unwrap();
        let file = fs::read(&program).unwrap();
        let found = Linker::of_host(None).closure(&program, &file).unwrap();
        let names: Vec<_> = found.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        assert!(names.iter().any(|name| name.starts_with("ld-")), "{names:?}");
        assert!(names.contains(&"libc.so.6"), "{names:?}");
        // The interpreter is also a library of libc, and is there once.
        assert_eq!(names.iter().filter(|name| name.starts_with("ld-linux")).count(), 1, "{names:?}");
    }

    #[test]
    fn a_missing_library_is_named_with_who_needs_it() {
        let program = std::env::current_exe().unwrap();
        let file = fs::read(&program).unwrap();
        let nowhere = Linker { first: Vec::new(), last: Vec::new() };
        let error = nowhere.closure(&program, &file).unwrap_err().to_string();
        assert!(error.contains(".so.") && error.contains(program.to_str().unwrap()), "{error}");
    }

    #[test]
    fn a_configuration_includes_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("conf.d")).unwrap();
        fs::write(path("conf"), "include conf.d/*.conf\n# /no\n/three # here\ninclude conf\n").unwrap();
        fs::write(path("conf.d/b.conf"), "/two\n").unwrap();
        fs::write(path("conf.d/a.conf"), "/one\n").unwrap();
        fs::write(path("conf.d/readme"), "/no\n").unwrap();
        let mut directories = Vec::new();
        read_configuration(&path("conf"), &mut directories, MAX_INCLUDES - 1);
        // A file that includes itself comes to an end.
        assert_eq!(directories, ["/one", "/two", "/three", "/three"].map(PathBuf::from));
    }

    #[test]
    fn origin_is_where_the_file_is_and_lib_is_of_its_kind() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("program");
        fs::write(&file, b"").unwrap();
        let real = folder.path().canonicalize().unwrap();
        for (guest, lib) in
            [(GuestArch::X86_64, "lib/x86_64-linux-gnu"), (GuestArch::Aarch64, "lib/aarch64-linux-gnu")]
        {
            let kind = elf::kind(arch::init(guest)).unwrap();
            assert_eq!(expand("$ORIGIN/../lib", &file, kind), Some(real.join("../lib")));
            assert_eq!(expand("/opt/$LIB/x:${LIB}", &file, kind), Some(format!("/opt/{lib}/x:{lib}").into()));
            assert_eq!(expand("$PLATFORM/lib", &file, kind), None);
        }
    }
}

//! The guest's root file system, before it is an archive.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io::Write;
use std::path::{Component, Path, PathBuf};

use cpio::newc::{self, Builder, ModeFileType};

use super::ExecError;
use crate::accel::host;

/// As many symbolic links as Linux follows in one path.
const MAX_LINKS: usize = 40;

/// Content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Bytes.
    Bytes(Vec<u8>),
    /// A host file, read when the archive is written.
    Host(PathBuf),
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Directory,
    Symlink(PathBuf),
    File(Content),
    Fifo,
}

#[derive(Debug, Clone)]
struct Entry {
    node: Node,
    /// Permissions, without the type.
    mode: u32,
    /// Seconds since 1970.
    mtime: u32,
}

/// A file tree. Its keys are absolute paths that lead through no symbolic link of the tree, so that
/// parents come before their children.
#[derive(Debug, Default)]
pub struct Tree {
    entries: BTreeMap<PathBuf, Entry>,
}

impl Tree {
    /// Whether something is at `path` itself, a symbolic link not followed.
    #[must_use]
    pub fn contains(&self, path: &Path) -> bool {
        self.resolve(path, false).is_ok_and(|path| self.entries.contains_key(&path))
    }

    /// Adds a directory, and those above it.
    ///
    /// # Errors
    /// When a file is in the way.
    pub fn add_directory(&mut self, path: &Path, mode: u32) -> Result<(), ExecError> {
        let path = self.resolve(path, true)?;
        self.make_parents(&path)?;
        self.insert(path, Entry { node: Node::Directory, mode, mtime: 0 })
    }

    /// Adds a file with `content`, and the directories above it. It takes the place of another file.
    ///
    /// # Errors
    /// When a directory is there.
    pub fn add_file(&mut self, path: &Path, content: Content, mode: u32) -> Result<(), ExecError> {
        let path = self.resolve(path, true)?;
        self.make_parents(&path)?;
        self.insert(path, Entry { node: Node::File(content), mode, mtime: 0 })
    }

    /// Adds the host's file at `path` at the same place, with every symbolic link on the way to it.
    ///
    /// # Errors
    /// When the host has no such file.
    pub fn add_host_file(&mut self, path: &Path) -> Result<(), ExecError> {
        let mut place = PathBuf::from("/");
        let mut rest: Vec<PathBuf> = parts_reversed(path);
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part.as_os_str() == ".." {
                place.pop();
                continue;
            }
            place.push(part);
            let metadata = metadata(&place)?;
            if metadata.is_symlink() {
                links += 1;
                if links > MAX_LINKS {
                    return Err(too_many_links(path));
                }
                let target = read_link(&place)?;
                let entry = Entry::of(&metadata, Node::Symlink(target.clone()));
                self.entries.entry(place.clone()).or_insert(entry);
                if target.is_absolute() {
                    place = PathBuf::from("/");
                } else {
                    place.pop();
                }
                rest.extend(parts_reversed(&target));
            } else if metadata.is_dir() {
                let entry = Entry::of(&metadata, Node::Directory);
                self.entries.entry(place.clone()).or_insert(entry);
            } else {
                let entry = Entry::of(&metadata, Node::File(Content::Host(place.clone())));
                self.entries.entry(place.clone()).or_insert(entry);
            }
        }
        Ok(())
    }

    /// Copies the host's `from` to `to`: a file, or a directory with all that is in it. Symbolic links
    /// in a directory stay links; `from` itself is followed.
    ///
    /// # Errors
    /// When something cannot be read, or `to` is a directory where `from` is none.
    pub fn copy(&mut self, from: &Path, to: &Path) -> Result<(), ExecError> {
        let read = |source| ExecError::Read { path: from.to_owned(), source };
        let metadata = fs::metadata(from).map_err(read)?;
        let to = self.resolve(to, true)?;
        self.make_parents(&to)?;
        let mut todo = vec![(from.to_owned(), to, metadata)];
        while let Some((from, to, metadata)) = todo.pop() {
            let kind = metadata.file_type();
            let node = if kind.is_dir() {
                let read = |source| ExecError::Read { path: from.clone(), source };
                for entry in fs::read_dir(&from).map_err(read)? {
                    let entry = entry.map_err(read)?;
                    let metadata = entry.metadata().map_err(read)?;
                    todo.push((entry.path(), to.join(entry.file_name()), metadata));
                }
                Node::Directory
            } else if kind.is_symlink() {
                Node::Symlink(read_link(&from)?)
            } else if kind.is_file() {
                // Said now, and not in the middle of the archive.
                fs::File::open(&from).map_err(|source| ExecError::Read { path: from.clone(), source })?;
                Node::File(Content::Host(std::path::absolute(&from).unwrap_or_else(|_| from.clone())))
            } else if host::is_fifo(kind) {
                Node::Fifo
            } else {
                log::warn!("{} is a socket or device; it is not copied", from.display());
                continue;
            };
            self.insert(to, Entry::of(&metadata, node))?;
        }
        Ok(())
    }

    /// The tree as a cpio archive in the newc format, as the kernel unpacks it.
    ///
    /// # Errors
    /// When a host file cannot be read, or has a name or a size that the format cannot say.
    pub fn archive(&self) -> Result<Vec<u8>, ExecError> {
        let mut archive = Vec::new();
        for (index, (path, entry)) in self.entries.iter().enumerate() {
            let unfit = |reason: &str| ExecError::Unfit { path: path.clone(), reason: reason.to_owned() };
            let name = path.strip_prefix("/").unwrap_or(path).to_str();
            let name = name.ok_or_else(|| unfit("its name is not UTF-8. Rename it"))?;
            // The root's own mode, which the kernel would leave open to all.
            let name = if name.is_empty() { "." } else { name };
            let read;
            let (kind, content): (_, &[u8]) = match &entry.node {
                Node::Directory => (ModeFileType::Directory, &[]),
                Node::Fifo => (ModeFileType::Fifo, &[]),
                Node::Symlink(target) => (ModeFileType::Symlink, target.as_os_str().as_encoded_bytes()),
                Node::File(Content::Bytes(bytes)) => (ModeFileType::Regular, bytes),
                Node::File(Content::Host(file)) => {
                    read = fs::read(file).map_err(|source| ExecError::Read { path: file.clone(), source })?;
                    (ModeFileType::Regular, &read)
                }
            };
            let length = u32::try_from(content.len())
                .map_err(|_| unfit("it has 4 GiB or more, which an initramfs cannot hold. Leave it out"))?;
            // Distinct inodes: equal ones with several links would be hard links.
            let mut written = Builder::new(name)
                .ino(index as u32 + 1)
                .mode(entry.mode & 0o7777)
                .set_mode_file_type(kind)
                .mtime(entry.mtime)
                .write(&mut archive, length);
            written
                .write_all(content)
                .and_then(|()| written.finish().map(drop))
                .map_err(|e| unfit(&e.to_string()))?;
        }
        newc::trailer(&mut archive)
            .map_err(|e| ExecError::Unfit { path: "/".into(), reason: e.to_string() })?;
        Ok(archive)
    }

    /// The place that `path` means in the tree: absolute, without `.`, `..` and symbolic links; the last
    /// part is followed if `last` says so.
    fn resolve(&self, path: &Path, last: bool) -> Result<PathBuf, ExecError> {
        let mut place = PathBuf::from("/");
        let mut rest = parts_reversed(path);
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part.as_os_str() == ".." {
                place.pop();
                continue;
            }
            place.push(part);
            if let Some(Entry { node: Node::Symlink(target), .. }) = self.entries.get(&place)
                && (last || !rest.is_empty())
            {
                links += 1;
                if links > MAX_LINKS {
                    return Err(too_many_links(path));
                }
                if target.is_absolute() {
                    place = PathBuf::from("/");
                } else {
                    place.pop();
                }
                rest.extend(parts_reversed(target));
            }
        }
        Ok(place)
    }

    /// Adds the directories above `path`, which is resolved.
    fn make_parents(&mut self, path: &Path) -> Result<(), ExecError> {
        let parents: Vec<_> = path.ancestors().skip(1).map(Path::to_owned).collect();
        for parent in parents.into_iter().rev() {
            match self.entries.get(&parent) {
                None => {
                    self.entries.insert(parent, Entry { node: Node::Directory, mode: 0o755, mtime: 0 });
                }
                Some(Entry { node: Node::Directory, .. }) => {}
                Some(_) => {
                    let reason = format!("{} is a file there. Choose another place", parent.display());
                    return Err(ExecError::Unfit { path: path.to_owned(), reason });
                }
            }
        }
        Ok(())
    }

    fn insert(&mut self, path: PathBuf, entry: Entry) -> Result<(), ExecError> {
        let is_directory = |node: &Node| matches!(node, Node::Directory);
        match self.entries.get(&path) {
            Some(old) if is_directory(&old.node) != is_directory(&entry.node) => {
                let (there, new) =
                    if is_directory(&old.node) { ("directory", "file") } else { ("file", "directory") };
                let reason = format!("a {there} is there, where a {new} should be. Choose another place");
                Err(ExecError::Unfit { path, reason })
            }
            _ => {
                self.entries.insert(path, entry);
                Ok(())
            }
        }
    }
}

impl Entry {
    fn of(metadata: &Metadata, node: Node) -> Self {
        let mtime = host::modified_seconds(metadata).clamp(0, u32::MAX.into()) as u32;
        Self { node, mode: host::permissions(metadata), mtime }
    }
}

/// The names in `path`, the last one first; `..` stays.
fn parts_reversed(path: &Path) -> Vec<PathBuf> {
    let parts =
        path.components().rev().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    parts.map(|part| PathBuf::from(part.as_os_str())).collect()
}

fn metadata(path: &Path) -> Result<Metadata, ExecError> {
    fs::symlink_metadata(path).map_err(|source| ExecError::Read { path: path.to_owned(), source })
}

fn read_link(path: &Path) -> Result<PathBuf, ExecError> {
    fs::read_link(path).map_err(|source| ExecError::Read { path: path.to_owned(), source })
}

fn too_many_links(path: &Path) -> ExecError {
    ExecError::Unfit {
        path: path.to_owned(),
        reason: "its symbolic links lead in a circle. Mend them".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accel::host::symlink;

    /// Names, modes and contents of an archive.
    fn unpack(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut rest = archive;
        let mut entries = Vec::new();
        loop {
            let reader = newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                return entries;
            }
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            let mut content = Vec::new();
            rest = reader.to_writer(&mut content).unwrap();
            entries.push((name, mode, content));
        }
    }

    #[test]
    fn parents_come_first_and_modes_are_kept() {
        let mut tree = Tree::default();
        tree.add_file(Path::new("/a/b/c"), Content::Bytes(b"hello".to_vec()), 0o640).unwrap();
        tree.add_directory(Path::new("/tmp"), 0o1777).unwrap();
        let entries = unpack(&tree.archive().unwrap());
        let expected = [
            (".", 0o40755, &b""[..]),
            ("a", 0o40755, b""),
            ("a/b", 0o40755, b""),
            ("a/b/c", 0o100_640, b"hello"),
            ("tmp", 0o41777, b""),
        ];
        let expected = expected.map(|(name, mode, content)| (name.to_owned(), mode, content.to_vec()));
        assert_eq!(entries, expected);
    }

    #[test]
    fn a_directory_is_copied_with_its_links() {
        let host = tempfile::tempdir().unwrap();
        fs::create_dir(host.path().join("sub")).unwrap();
        fs::write(host.path().join("sub/file"), b"x").unwrap();
        symlink("sub/file", host.path().join("link")).unwrap();
        symlink("nowhere", host.path().join("dangling")).unwrap();
        let mut tree = Tree::default();
        tree.copy(host.path(), Path::new("/data")).unwrap();
        let entries = unpack(&tree.archive().unwrap());
        let names: Vec<_> = entries.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, [".", "data", "data/dangling", "data/link", "data/sub", "data/sub/file"]);
        assert_eq!((entries[3].1 & 0o170_000, entries[3].2.as_slice()), (0o120_000, &b"sub/file"[..]));
        // A file through a link of the tree lands where the link leads.
        symlink("data", host.path().join("sub/up")).unwrap();
        tree.entries
            .insert("/way".into(), Entry { node: Node::Symlink("data/sub".into()), mode: 0o777, mtime: 0 });
        tree.add_file(Path::new("/way/new"), Content::Bytes(vec![]), 0o644).unwrap();
        assert!(tree.entries.contains_key(Path::new("/data/sub/new")));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let mut tree = Tree::default();
        let bytes = || Content::Bytes(vec![]);
        tree.add_file(Path::new("/f"), bytes(), 0o644).unwrap();
        assert!(tree.add_file(Path::new("/f/g"), bytes(), 0o644).is_err());
        assert!(tree.add_directory(Path::new("/f"), 0o755).is_err());
        tree.add_directory(Path::new("/d"), 0o755).unwrap();
        assert!(tree.add_file(Path::new("/d"), bytes(), 0o644).is_err());
        assert!(tree.copy(Path::new("/nonexistent/x"), Path::new("/x")).is_err());
        let circle = |to: &str| Entry { node: Node::Symlink(to.into()), mode: 0o777, mtime: 0 };
        tree.entries.insert("/l".into(), circle("m"));
        tree.entries.insert("/m".into(), circle("/l"));
        assert!(tree.add_file(Path::new("/l/x"), bytes(), 0o644).is_err());
        // `..` does not lead out.
        tree.add_file(Path::new("/../../up"), bytes(), 0o644).unwrap();
        assert!(tree.contains(Path::new("/up")));
    }

    #[test]
    fn a_host_file_brings_the_links_on_its_way() {
        let host = tempfile::tempdir().unwrap();
        let root = host.path().canonicalize().unwrap();
        fs::create_dir(root.join("real")).unwrap();
        fs::write(root.join("real/lib.so.1.2"), b"elf").unwrap();
        symlink("lib.so.1.2", root.join("real/lib.so.1")).unwrap();
        symlink("real", root.join("lib")).unwrap();
        let mut tree = Tree::default();
        tree.add_host_file(&root.join("lib/lib.so.1")).unwrap();
        for name in ["lib", "real", "real/lib.so.1", "real/lib.so.1.2"] {
            assert!(tree.entries.contains_key(&root.join(name)), "{name}");
        }
        assert!(!tree.entries.contains_key(&root.join("lib/lib.so.1")));
    }
}

//! A file that is loaded into guest memory: a kernel, an initrd or a module.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use vm_memory::{Bytes, GuestAddress};

use super::error::LoadError;
use crate::memory::GuestMemory;

/// Bytes a file is copied by: the piece stays in the host's second-level cache.
const PIECE: usize = 128 << 10;

/// Content that is loaded into guest memory, with the name that errors use.
#[derive(Debug)]
pub struct KernelImage {
    name: String,
    len: u64,
    source: Source,
}

#[derive(Debug)]
enum Source {
    File(File),
    Bytes(Cow<'static, [u8]>),
}

impl KernelImage {
    /// Opens a regular, non-empty file. Anything else is refused before it is opened, so a FIFO
    /// cannot block.
    ///
    /// # Errors
    /// When the path is no such file or cannot be opened.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let name: String =
            path.display().to_string().chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let failed = |source| LoadError::Open { name: name.clone(), source };
        check_regular(&name, &path.metadata().map_err(failed)?)?;
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        check_regular(&name, &metadata)?;
        let len = metadata.len();
        Ok(Self { name, len, source: Source::File(file) })
    }

    /// A guest that is part of the program.
    pub fn builtin(bytes: impl Into<Cow<'static, [u8]>>) -> Self {
        Self::memory("the built-in guest", bytes)
    }

    /// Content that lies in memory; errors call it `name`.
    pub fn memory(name: impl Into<String>, bytes: impl Into<Cow<'static, [u8]>>) -> Self {
        let bytes = bytes.into();
        Self { name: name.into(), len: bytes.len() as u64, source: Source::Bytes(bytes) }
    }

    /// The name that errors use: the path, on one line.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no content at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first `max` bytes, or all if there are fewer.
    pub(super) fn head(&self, max: usize) -> Result<Vec<u8>, LoadError> {
        self.range(0, self.len.min(max as u64))
    }

    /// A range of bytes. The caller bounds `bytes`; the range is checked against the length.
    pub(super) fn range(&self, offset: u64, bytes: u64) -> Result<Vec<u8>, LoadError> {
        self.check_range(offset, bytes)?;
        let length = usize::try_from(bytes).map_err(|e| self.read_error(offset, io::Error::other(e)))?;
        let mut buffer = vec![0; length];
        self.reader(offset, bytes).read_exact(&mut buffer).map_err(|e| self.read_error(offset, e))?;
        Ok(buffer)
    }

    /// Reads a range of bytes in order; the end of the range or of the file is the end of input.
    pub(super) fn reader(&self, offset: u64, bytes: u64) -> RangeReader<'_> {
        RangeReader { image: self, offset, left: bytes, placed: false }
    }

    /// Copies a range of bytes to guest memory.
    pub(super) fn copy_to(
        &self,
        memory: &GuestMemory,
        gpa: u64,
        offset: u64,
        bytes: u64,
    ) -> Result<(), LoadError> {
        self.check_range(offset, bytes)?;
        if let Source::Bytes(content) = &self.source {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let length = usize::try_from(bytes).unwrap_or(usize::MAX);
            let content = start.checked_add(length).and_then(|end| content.get(start..end));
            return write(memory, gpa, content.unwrap_or_default());
        }
        let mut reader = self.reader(offset, bytes);
        let mut piece = vec![0; PIECE.min(usize::try_from(bytes).unwrap_or(PIECE))];
        let mut done = 0;
        while done < bytes {
            let length = piece.len().min(usize::try_from(bytes - done).unwrap_or(usize::MAX));
            let piece = piece.get_mut(..length).unwrap_or_default();
            reader.read_exact(piece).map_err(|e| self.read_error(offset + done, e))?;
            write(memory, gpa + done, piece)?;
            done += length as u64;
        }
        Ok(())
    }

    fn check_range(&self, offset: u64, bytes: u64) -> Result<(), LoadError> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(self.read_error(offset, io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn read_error(&self, offset: u64, source: io::Error) -> LoadError {
        LoadError::Read { name: self.name.clone(), offset, source }
    }
}

fn check_regular(name: &str, metadata: &Metadata) -> Result<(), LoadError> {
    let name = || name.to_owned();
    if metadata.is_dir() {
        Err(LoadError::NotRegular { name: name(), kind: "a directory" })
    } else if !metadata.is_file() {
        Err(LoadError::NotRegular { name: name(), kind: "a pipe, socket or device" })
    } else if metadata.len() == 0 {
        Err(LoadError::Empty { name: name() })
    } else {
        Ok(())
    }
}

/// Writes to guest memory.
pub(super) fn write(memory: &GuestMemory, gpa: u64, bytes: &[u8]) -> Result<(), LoadError> {
    memory
        .write_slice(bytes, GuestAddress(gpa))
        .map_err(|e| LoadError::GuestMemory { gpa, reason: e.to_string() })
}

/// Reads a range of an image in order. It takes the file's position on its first read, so only one
/// reader of an image can be in use at a time.
pub(super) struct RangeReader<'a> {
    image: &'a KernelImage,
    offset: u64,
    left: u64,
    placed: bool,
}

impl Read for RangeReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let buffer = buffer.get_mut(..length).unwrap_or_default();
        let count = match &self.image.source {
            Source::File(file) => {
                let mut file = file;
                if !self.placed {
                    file.seek(SeekFrom::Start(self.offset))?;
                    self.placed = true;
                }
                file.read(buffer)?
            }
            Source::Bytes(content) => {
                let start = usize::try_from(self.offset).unwrap_or(usize::MAX);
                content.get(start..).unwrap_or_default().read(buffer)?
            }
        };
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_regular_file_is_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let error = KernelImage::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("is a directory") && error.contains(dir.path().to_str().unwrap()), "{error}");

        let empty = dir.path().join("empty");
        std::fs::write(&empty, b"").unwrap();
        assert!(matches!(KernelImage::open(&empty), Err(LoadError::Empty { .. })));

        let missing = dir.path().join("missing\nname");
        let error = KernelImage::open(&missing).unwrap_err();
        assert!(matches!(error, LoadError::Open { .. }));
        assert!(!error.to_string().contains('\n'), "{error}");
    }

    #[test]
    fn a_pipe_is_refused_without_blocking() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        match std::process::Command::new("mkfifo").arg(&fifo).status() {
            Ok(status) if status.success() => {
                assert!(matches!(KernelImage::open(&fifo), Err(LoadError::NotRegular { .. })));
            }
            failed => eprintln!("NOT TESTED: a FIFO as kernel, for mkfifo failed: {failed:?}"),
        }
    }

    #[test]
    fn a_file_is_copied_to_guest_memory_in_pieces() {
        let content: Vec<u8> = (0..PIECE * 2 + 77).map(|i| (i % 251) as u8).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &content).unwrap();
        let memory = crate::memory::allocate(1 << 20).unwrap();
        for image in [KernelImage::open(file.path()).unwrap(), KernelImage::builtin(content.clone())] {
            image.copy_to(&memory, 0x1000, 3, image.len() - 3).unwrap();
            let mut copied = vec![0; content.len() - 3];
            memory.read_slice(&mut copied, GuestAddress(0x1000)).unwrap();
            assert_eq!(copied, content[3..]);
            assert!(image.copy_to(&memory, 0, 4, image.len() - 3).is_err());
            assert!(image.range(u64::MAX, 2).is_err());
        }
    }

    #[test]
    fn a_file_that_becomes_shorter_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [1; 100]).unwrap();
        let image = KernelImage::open(file.path()).unwrap();
        file.as_file().set_len(50).unwrap();
        assert!(matches!(image.range(40, 20), Err(LoadError::Read { .. })));
    }
}

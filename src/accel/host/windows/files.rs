//! What a file's metadata tells, in the words of a POSIX guest.
#![forbid(unsafe_code)]

use std::fs::{FileType, Metadata};
use std::time::UNIX_EPOCH;

/// The permission bits that come closest: there is no execute permission, so everybody has it.
#[must_use]
pub fn permissions(metadata: &Metadata) -> u32 {
    if metadata.permissions().readonly() { 0o555 } else { 0o755 }
}

/// Whether somebody may execute the file.
#[must_use]
pub fn is_executable(metadata: &Metadata) -> bool {
    metadata.is_file()
}

/// Whether it is a named pipe; those are not in the file system.
#[must_use]
pub fn is_fifo(_kind: FileType) -> bool {
    false
}

/// When the file was changed last, in seconds since 1970.
#[must_use]
pub fn modified_seconds(metadata: &Metadata) -> i64 {
    let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or(0)
}

/// Gives everybody the permission to execute the file, for tests: it is so.
#[cfg(test)]
pub(crate) fn make_executable(_path: &std::path::Path) -> std::io::Result<()> {
    Ok(())
}

/// Makes the symbolic link `link`, for tests.
#[cfg(test)]
pub(crate) fn symlink(target: &str, link: std::path::PathBuf) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

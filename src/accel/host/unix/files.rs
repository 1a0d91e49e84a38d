//! What a POSIX file's metadata tells.
#![forbid(unsafe_code)]

use std::fs::{FileType, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

/// The permission bits, set-id and sticky bits included.
#[must_use]
pub fn permissions(metadata: &Metadata) -> u32 {
    metadata.permissions().mode() & 0o7777
}

/// Whether somebody may execute the file.
#[must_use]
pub fn is_executable(metadata: &Metadata) -> bool {
    permissions(metadata) & 0o111 != 0
}

/// Whether it is a named pipe.
#[must_use]
pub fn is_fifo(kind: FileType) -> bool {
    kind.is_fifo()
}

/// When the file was changed last, in seconds since 1970.
#[must_use]
pub fn modified_seconds(metadata: &Metadata) -> i64 {
    metadata.mtime()
}

/// Gives everybody the permission to execute the file, for tests.
#[cfg(test)]
pub(crate) fn make_executable(path: &std::path::Path) -> std::io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}

/// Makes the symbolic link `link`, for tests.
#[cfg(test)]
pub(crate) fn symlink(target: &str, link: std::path::PathBuf) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

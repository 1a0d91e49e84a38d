//! The kernel that is booted when none is named.

use std::cmp::Ordering;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::ExecError;

/// The newest kernel in `folder` (/boot) that can be read.
///
/// # Errors
/// When there is none.
pub fn newest(folder: &Path) -> Result<PathBuf, ExecError> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let kernels = entries.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // Fedora's rescue kernel is as old as the installation.
        name.starts_with("vmlinuz-") && !name.contains("rescue") && path.is_file() && File::open(path).is_ok()
    });
    kernels.max_by(|a, b| by_version(&a.to_string_lossy(), &b.to_string_lossy())).ok_or(ExecError::NoKernel)
}

/// Compares names whose numbers count as numbers: 6.9 is before 6.10.
fn by_version(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (digits_a, digits_b) = (digits(a), digits(b));
        let order = if digits_a.is_empty() || digits_b.is_empty() {
            let (x, y) = (a.chars().next(), b.chars().next());
            let Some(letter) = x.filter(|_| x == y) else { return x.cmp(&y) };
            a = a.get(letter.len_utf8()..).unwrap_or_default();
            b = b.get(letter.len_utf8()..).unwrap_or_default();
            Ordering::Equal
        } else {
            a = a.get(digits_a.len()..).unwrap_or_default();
            b = b.get(digits_b.len()..).unwrap_or_default();
            let (x, y) = (digits_a.trim_start_matches('0'), digits_b.trim_start_matches('0'));
            x.len().cmp(&y.len()).then(x.cmp(y))
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

fn digits(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_their_numbers() {
        for (older, newer) in [("6.9", "6.10"), ("6.1.0-9", "6.1.0-41"), ("6.1", "6.1.1"), ("5.99", "6.0")] {
            assert_eq!(by_version(older, newer), Ordering::Less);
            assert_eq!(by_version(newer, older), Ordering::Greater);
        }
        assert_eq!(by_version("é1", "é1"), Ordering::Equal);
    }

    #[test]
    fn the_newest_kernel_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(newest(folder.path()), Err(ExecError::NoKernel)));
        for name in ["vmlinuz-6.1.0-9-amd64", "vmlinuz-6.1.0-41-amd64", "vmlinuz-0-rescue-x", "config-9"] {
            fs::write(folder.path().join(name), b"x").unwrap();
        }
        assert_eq!(newest(folder.path()).unwrap(), folder.path().join("vmlinuz-6.1.0-41-amd64"));
    }
}

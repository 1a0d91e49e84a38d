//! Linux's version, as an uncompressed kernel tells it.
#![forbid(unsafe_code)]

use std::io::Read;

use memchr::memmem::Finder;

use super::error::LoadError;

/// What stands before the version in every Linux kernel.
const BANNER: &[u8] = b"Linux version ";
const BANNER_MAX: usize = 256;
/// Bytes that are searched at a time.
const PIECE: usize = 1 << 20;

/// Looks for the version in an uncompressed kernel, which errors call `name`.
///
/// # Errors
/// When it cannot be read.
pub fn banner(name: &str, mut reader: impl Read) -> Result<Option<String>, LoadError> {
    let finder = Finder::new(BANNER);
    let mut window = Vec::new();
    loop {
        let before = window.len();
        let read = reader.by_ref().take(PIECE as u64).read_to_end(&mut window);
        read.map_err(|source| LoadError::Read { name: name.to_owned(), offset: 0, source })?;
        let ended = window.len() == before;
        // A format string of the kernel's begins like the banner.
        let is_banner = |at: &usize| window.get(at + BANNER.len()).is_some_and(u8::is_ascii_digit);
        let found = finder.find_iter(&window).find(is_banner);
        if let Some(at) = found.filter(|at| ended || at + BANNER_MAX <= window.len()) {
            let text = window.get(at + BANNER.len()..).unwrap_or_default();
            let text = text.get(..BANNER_MAX).unwrap_or(text);
            let text = text.split(|&byte| byte == 0 || byte == b'\n').next().unwrap_or_default();
            return Ok(Some(String::from_utf8_lossy(text).into_owned()));
        }
        if ended {
            return Ok(None);
        }
        // The banner may go on in the next piece.
        window.drain(..found.unwrap_or(window.len().saturating_sub(BANNER.len())));
    }
}

/// The first number of a version: 6 of "6.1.0-50-amd64".
#[must_use]
pub fn major(version: &str) -> Option<u32> {
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version.get(..digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_is_found_wherever_it_is() {
        // Also across the pieces that the file is read by.
        for before in [PIECE - 20, PIECE - 14, PIECE - 5, PIECE, 2 * PIECE - 200] {
            let file = [&vec![b'L'; before][..], b"Linux version %s Linux version 1.2\n"].concat();
            assert_eq!(banner("x", &file[..]).unwrap().as_deref(), Some("1.2"));
        }
        assert_eq!(banner("x", &b"Linux version "[..]).unwrap(), None);
    }

    #[test]
    fn the_major_number_ends_before_the_first_other_character() {
        for (version, number) in [("6.1.0-50", Some(6)), ("10", Some(10)), ("", None), ("x1", None)] {
            assert_eq!(major(version), number, "{version}");
        }
    }
}

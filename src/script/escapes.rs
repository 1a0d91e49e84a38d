//! The escapes in a text to send: `\n`, `\x03` and the like.

use crate::config::ValueError;

const REMEDY: &str =
    r"Write `\n`, `\r`, `\t`, `\e`, `\0`, `\xHH` with two hexadecimal digits, or `\\` for a backslash";

/// The bytes that `text` means.
///
/// # Errors
/// When it has an escape that does not exist, or means nothing at all.
pub fn unescape(text: &str) -> Result<Vec<u8>, ValueError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            bytes.extend(character.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        bytes.push(match characters.next() {
            Some('n') => b'\n',
            Some('r') => b'\r',
            Some('t') => b'\t',
            Some('e') => 0x1B,
            Some('0') => 0,
            Some('\\') => b'\\',
            Some('x') => {
                let digits: Option<Vec<u32>> =
                    [characters.next(), characters.next()].iter().map(|d| (*d)?.to_digit(16)).collect();
                match digits.as_deref() {
                    Some([high, low]) => u8::try_from(high * 16 + low).unwrap_or_default(),
                    _ => return Err(ValueError::new(r"`\x` without two hexadecimal digits", REMEDY)),
                }
            }
            Some(other) => {
                let shown = other.escape_default();
                return Err(ValueError::new(format!(r"there is no escape `\{shown}`"), REMEDY));
            }
            None => return Err(ValueError::new("a lone backslash at the end", REMEDY)),
        });
    }
    if bytes.is_empty() {
        return Err(ValueError::new("nothing to send", r"Write a text, such as `ls\n`"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes() {
        for (text, bytes) in [
            (r"ls -l\n", &b"ls -l\n"[..]),
            (r"\x03\x1B\e[A\t\r\0", b"\x03\x1b\x1b[A\t\r\0"),
            (r"C:\\x", b"C:\\x"),
            (r"\xff", b"\xff"),
            ("ä\n", "ä\n".as_bytes()),
        ] {
            assert_eq!(unescape(text).unwrap(), bytes, "{text}");
        }
        for text in ["", r"\", r"\q", r"\x", r"\x0", r"\xg0", r"\x+1", "\\ä"] {
            assert!(!unescape(text).unwrap_err().to_string().contains('\n'), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(\\\\|x|n|\\PC){0,12}") {
            let _ = unescape(&text);
        }
    }
}

//! Leaves out what a terminal would not show: ANSI sequences (ECMA-48) and carriage returns.

/// The longest string sequence (a window title, say) that is left out whole. A guest that begins one and
/// never ends it shall not swallow the rest of its output.
const LONGEST_STRING: usize = 4096;

const BELL: u8 = 0x07;
const CANCEL: u8 = 0x18;
const SUBSTITUTE: u8 = 0x1A;
const ESCAPE: u8 = 0x1B;

/// Follows the sequences in a stream of bytes, whatever its split.
#[derive(Debug, Default)]
pub struct AnsiFilter {
    state: State,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    /// Plain text.
    #[default]
    Text,
    /// After ESC, or after ESC and intermediate bytes.
    Escape,
    /// In a control sequence: ESC [ …
    Control,
    /// In a control string: ESC ] … and the like, so many bytes long by now.
    String(usize),
    /// After an ESC in a control string: `\` ends it.
    StringEscape(usize),
}

impl AnsiFilter {
    /// Takes the next byte; gives it back if a terminal would show it.
    pub fn keep(&mut self, byte: u8) -> Option<u8> {
        let (next, kept) = match (self.state, byte) {
            // Both cancel any sequence.
            (State::Text, CANCEL | SUBSTITUTE) => (State::Text, Some(byte)),
            (_, CANCEL | SUBSTITUTE) => (State::Text, None),
            (State::String(count), ESCAPE) => (State::StringEscape(count), None),
            (_, ESCAPE) => (State::Escape, None),
            (State::Text, b'\r') => (State::Text, None),
            (State::Text, _) => (State::Text, Some(byte)),
            (State::Escape, b'[') => (State::Control, None),
            (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => (State::String(0), None),
            (State::Escape, 0x20..=0x2F) => (State::Escape, None),
            (State::Control, 0x20..=0x3F) => (State::Control, None),
            // A control character inside a sequence is obeyed as if it stood alone.
            (state @ (State::Escape | State::Control), 0..=0x1F) => {
                let kept = (byte != b'\r').then_some(byte);
                (if byte == b'\n' { State::Text } else { state }, kept)
            }
            (State::Escape | State::Control, 0x30..=0x7E) => (State::Text, None),
            // No sequence has such a byte: what has begun was none.
            (State::Escape | State::Control, _) => (State::Text, Some(byte)),
            (State::String(_), BELL) | (State::StringEscape(_), b'\\') => (State::Text, None),
            (State::String(_) | State::StringEscape(_), b'\n') => (State::Text, Some(byte)),
            (State::String(count) | State::StringEscape(count), _) if count < LONGEST_STRING => {
                (State::String(count + 1), None)
            }
            (State::String(_) | State::StringEscape(_), _) => (State::Text, Some(byte)),
        };
        self.state = next;
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn strip(text: &[u8]) -> String {
        let mut filter = AnsiFilter::default();
        let kept = text.iter().filter_map(|byte| filter.keep(*byte)).collect();
        String::from_utf8(kept).unwrap()
    }

    #[test]
    fn sequences_are_left_out() {
        for (text, shown) in [
            (&b"a\x1b[1;31mred\x1b[0m b"[..], "ared b"),
            (b"\x1b[?2004h# ", "# "),
            (b"\x1b]0;title\x07x\x1b]0;title\x1b\\y", "xy"),
            (b"\x1b(B\x1b=\x1b>\x1bcz", "z"),
            (b"a\r\nb\r", "a\nb"),
            (b"\x1b[\x1b[2Jq", "q"),
            (b"\x1b[12\nnext", "\nnext"),
            (b"\x1b]never ended\nnext", "\nnext"),
            (b"\x1b[3\x18m", "m"),
            ("ä\u{1b}[mö".as_bytes(), "äö"),
        ] {
            assert_eq!(strip(text), shown, "{text:?}");
        }
    }

    #[test]
    fn an_endless_string_ends() {
        let mut text = b"\x1b]".to_vec();
        text.extend([b'x'; LONGEST_STRING + 10]);
        assert_eq!(strip(&text).len(), 10);
    }

    proptest! {
        #[test]
        fn plain_lines_are_kept(text in "[ -~\n]{0,100}") {
            prop_assert_eq!(strip(text.as_bytes()), text);
        }
    }
}

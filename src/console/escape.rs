//! The escape key of a terminal: Ctrl-A and a letter.
#![forbid(unsafe_code)]

/// Ctrl-A, which starts an escape sequence.
const ESCAPE: u8 = 0x01;

/// What the keys are, for Ctrl-A h.
pub(super) const HELP: &str =
    "\nvm-accel: Ctrl-A x ends the run, Ctrl-A h shows this, Ctrl-A Ctrl-A sends a Ctrl-A\n";

/// What a key means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// Goes to the guest.
    Guest(u8),
    /// Ends the run.
    Quit,
    /// Shows the keys.
    Help,
    /// The first half of a sequence, or a sequence that means nothing.
    Nothing,
}

/// Follows the keys that a user types.
#[derive(Debug, Default)]
pub(super) struct EscapeFilter {
    escaped: bool,
}

impl EscapeFilter {
    /// What the next key means.
    pub(super) fn feed(&mut self, key: u8) -> Key {
        if !std::mem::take(&mut self.escaped) {
            self.escaped = key == ESCAPE;
            return if self.escaped { Key::Nothing } else { Key::Guest(key) };
        }
        match key {
            ESCAPE => Key::Guest(ESCAPE),
            b'x' | b'X' => Key::Quit,
            b'h' | b'H' | b'?' => Key::Help,
            _ => Key::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(typed: &[u8]) -> Vec<Key> {
        let mut filter = EscapeFilter::default();
        typed.iter().map(|key| filter.feed(*key)).filter(|key| *key != Key::Nothing).collect()
    }

    #[test]
    fn plain_keys_go_to_the_guest() {
        assert_eq!(keys(b"x\x03"), [Key::Guest(b'x'), Key::Guest(3)]);
    }

    #[test]
    fn sequences() {
        assert_eq!(keys(b"\x01x"), [Key::Quit]);
        assert_eq!(keys(b"\x01h"), [Key::Help]);
        assert_eq!(keys(b"\x01\x01x"), [Key::Guest(1), Key::Guest(b'x')]);
        assert_eq!(keys(b"\x01qx"), [Key::Guest(b'x')]);
        assert_eq!(keys(b"\x01"), []);
    }
}

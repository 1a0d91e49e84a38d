//! Sees a Linux kernel panic in the serial text.

use std::collections::VecDeque;

/// What a Linux panic begins with, whatever its reason.
const START: &[u8] = b"Kernel panic - not syncing";
/// The last line that a panicking Linux prints before it waits for ever.
const FINISH: &[u8] = b"---[ end Kernel panic - not syncing";

/// How far a panic's own text has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PanicText {
    /// None so far.
    #[default]
    None,
    /// The kernel has begun to panic.
    Begun,
    /// It has printed its last line.
    Complete,
}

/// Reads serial output byte by byte, in any split.
#[derive(Debug, Default)]
pub struct PanicWatch {
    line: VecDeque<u8>,
    seen: PanicText,
}

impl PanicWatch {
    /// Takes one byte of output and says how far a panic has come. Nearly free on ordinary text: a line
    /// is looked at once, when it ends.
    pub fn push(&mut self, byte: u8) -> PanicText {
        /// Longer than any prefix that a kernel prints before the words.
        const LONGEST: usize = 512;
        if byte != b'\n' {
            if self.line.len() == LONGEST {
                self.line.pop_front();
            }
            self.line.push_back(byte);
            return self.seen;
        }
        let line = self.line.make_contiguous();
        let contains = |words: &[u8]| line.windows(words.len()).any(|window| window == words);
        if contains(FINISH) {
            self.seen = PanicText::Complete;
        } else if self.seen == PanicText::None && contains(START) {
            self.seen = PanicText::Begun;
        }
        self.line.clear();
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(text: &str) -> PanicText {
        let mut watch = PanicWatch::default();
        text.bytes().fold(PanicText::None, |_, byte| watch.push(byte))
    }

    #[test]
    fn ordinary_text_is_no_panic() {
        assert_eq!(feed("Kernel panic is a word\r\nnot syncing\r\n"), PanicText::None);
    }

    #[test]
    fn a_panic_begins_and_completes() {
        let begun = "[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n";
        assert_eq!(feed(begun), PanicText::Begun);
        let all =
            format!("{begun}[    1.0] CPU: 0\r\n[    1.1] ---[ end Kernel panic - not syncing: VFS ]---\r\n");
        assert_eq!(feed(&all), PanicText::Complete);
    }

    #[test]
    fn a_line_without_end_does_not_grow() {
        let mut watch = PanicWatch::default();
        for _ in 0..1_000_000 {
            watch.push(b'x');
        }
        assert!(watch.line.len() <= 512);
    }
}

//! The last lines of the output, for messages.

use std::collections::VecDeque;

/// How many lines are kept.
const LINES: usize = 100;
/// How many bytes of a line are kept.
const LINE_BYTES: usize = 1024;

/// The end of a stream of text.
#[derive(Debug, Default)]
pub struct Tail {
    /// Whole lines.
    lines: VecDeque<Vec<u8>>,
    /// The line that has not ended yet.
    open: Vec<u8>,
}

impl Tail {
    /// Takes the next byte.
    pub fn push(&mut self, byte: u8) {
        if byte == b'\n' {
            if self.lines.len() == LINES {
                self.lines.pop_front();
            }
            self.lines.push_back(std::mem::take(&mut self.open));
        } else if self.open.len() < LINE_BYTES {
            self.open.push(byte);
        }
    }

    /// The last `count` lines, at most 100 of them, without control characters.
    #[must_use]
    pub fn last(&self, count: usize) -> Vec<String> {
        let open = (!self.open.is_empty()).then_some(&self.open);
        let skip = (self.lines.len() + usize::from(open.is_some())).saturating_sub(count.min(LINES));
        self.lines.iter().chain(open).skip(skip).map(|line| printable(line)).collect()
    }
}

/// `bytes` as text on one line; what cannot be shown is escaped.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for character in String::from_utf8_lossy(bytes).chars() {
        if character.is_control() && character != '\t' {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_no_more() {
        let mut tail = Tail::default();
        assert!(tail.last(10).is_empty());
        for line in 0..1000 {
            format!("line {line}\n").bytes().for_each(|byte| tail.push(byte));
        }
        assert_eq!(tail.last(2), ["line 998", "line 999"]);
        assert_eq!(tail.last(usize::MAX).len(), LINES);
        b"open\x07".iter().for_each(|byte| tail.push(*byte));
        assert_eq!(tail.last(2), ["line 999", "open\\u{7}"]);
        std::iter::repeat_n(b'x', 1 << 20).for_each(|byte| tail.push(byte));
        assert!(tail.open.len() <= LINE_BYTES && tail.last(100).len() == LINES);
    }
}

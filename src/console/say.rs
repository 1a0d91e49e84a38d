//! vm-accel's own words on stderr, which may be a terminal that takes nothing any more.
#![forbid(unsafe_code)]

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use super::{OutputFile, Sink};

/// How long stderr may take nothing.
const PATIENCE: Duration = Duration::from_millis(500);

/// Writes `text` to stderr as it is. Gives up if stderr takes nothing for half a second: the run's end
/// matters more than the words about it.
pub fn say(text: &str) {
    write_patiently(&mut OutputFile::stderr(), text.as_bytes(), PATIENCE);
}

fn write_patiently(sink: &mut dyn Sink, mut bytes: &[u8], patience: Duration) {
    let mut deadline = Instant::now() + patience;
    while !bytes.is_empty() {
        match sink.try_write(bytes) {
            Ok(count) if count > 0 => {
                bytes = bytes.get(count..).unwrap_or_default();
                deadline = Instant::now() + patience;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() != ErrorKind::WouldBlock => return,
            _ => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return;
                }
                sink.wait_writable(left);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// Takes one byte at every other try, `budget` in all.
    struct Slow {
        taken: Vec<u8>,
        budget: usize,
        ready: bool,
    }

    impl Sink for Slow {
        fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.ready = !self.ready;
            if self.ready || self.taken.len() == self.budget {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.taken.extend(bytes.first());
            Ok(1)
        }

        fn wait_writable(&self, _timeout: Duration) {}
    }

    #[test]
    fn a_slow_reader_gets_the_words_and_a_stuck_one_does_not_hold_them() {
        for budget in [4, 2] {
            let mut slow = Slow { taken: Vec::new(), budget, ready: false };
            write_patiently(&mut slow, b"done", Duration::from_millis(20));
            assert_eq!(slow.taken, b"done"[..budget]);
        }
    }
}

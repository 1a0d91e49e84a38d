//! The file that keeps the serial output.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::process_start;

/// The serial output on its way to a file.
#[derive(Debug)]
pub struct SerialLog {
    file: BufWriter<File>,
    timestamps: bool,
    at_line_start: bool,
}

impl SerialLog {
    /// Creates the file at `path`, or empties it. With `timestamps`, every line begins with the seconds
    /// since the process started.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: &Path, timestamps: bool) -> io::Result<Self> {
        Ok(Self { file: BufWriter::new(File::create(path)?), timestamps, at_line_start: true })
    }

    /// Takes the next byte. The file is complete to the last line.
    ///
    /// # Errors
    /// When the host does not take it.
    pub fn push(&mut self, byte: u8) -> io::Result<()> {
        if self.timestamps && std::mem::take(&mut self.at_line_start) {
            write!(self.file, "[{:12.6}] ", process_start().elapsed().as_secs_f64())?;
        }
        self.file.write_all(&[byte])?;
        if byte == b'\n' {
            self.at_line_start = true;
            self.file.flush()?;
        }
        Ok(())
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// When the host does not take it.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_stamped_where_they_begin() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        for (timestamps, lines) in [(false, ["one", "", "two"]), (true, ["] one", "] ", "] two"])] {
            let mut log = SerialLog::create(&path, timestamps).unwrap();
            b"one\n\ntwo".iter().for_each(|byte| log.push(*byte).unwrap());
            log.flush().unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            let found: Vec<&str> = text.split('\n').collect();
            assert_eq!(found.len(), 3);
            for (found, expected) in found.iter().zip(lines) {
                assert!(found.ends_with(expected) && found.starts_with('[') == timestamps, "{found}");
            }
        }
    }
}

//! The command channel: the device through which a guest's init and vm-accel exchange the command's
//! input, output and end. Its other half is in `images/exec-init`, for each architecture.
//!
//! All registers are 32 bits wide. Data goes through one register four bytes at a time, which x86's string
//! instructions fill and empty quickly; lengths go before it, so that any bytes can be data and nothing
//! that a command prints can be taken for its end.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::console::RoomBell;
use crate::devices::serial::Serial;
use crate::devices::{Device, EventSink, GuestEvent, lock};
use crate::vm::HostOutput;

/// First I/O port on a PC. The AArch64 machine has a place in memory for it.
pub const PORT: u64 = 0x700;
/// Length in ports or bytes.
pub const LENGTH: u64 = 0x20;

const REG_MAGIC: u64 = 0;
const REG_STDOUT: u64 = 4;
const REG_STDERR: u64 = 8;
const REG_DATA: u64 = 12;
const REG_INPUT: u64 = 16;
const REG_STATUS: u64 = 20;
const REG_FAILED: u64 = 24;

/// "VXC1": what is here, and its version.
const MAGIC: u32 = 0x3143_5856;
/// In the input register: nothing more will ever come after the bytes that it tells of.
const INPUT_END: u32 = 1 << 31;
/// The most bytes that the input register offers at once.
const INPUT_CHUNK: usize = 64 << 10;
/// Input that waits here for the guest. What is more is left to its source.
const INPUT_CAPACITY: usize = 256 << 10;
/// Output is handed on in pieces of this size.
const OUTPUT_PIECE: usize = 4 << 10;

/// What the guest has told of its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It exited with this status.
    Exited(u8),
    /// This signal ended it.
    Killed(u8),
    /// It could not be started: this error of `execve`.
    NotStarted(i32),
    /// Its working directory could not be entered: this error of `chdir`.
    NoDirectory(i32),
}

/// What the device, the input thread and the owner of the run share.
#[derive(Default)]
pub struct Shared {
    input: Mutex<InputQueue>,
    fate: Mutex<Option<Fate>>,
    escaped: Mutex<bool>,
}

#[derive(Default)]
struct InputQueue {
    bytes: VecDeque<u8>,
    ended: bool,
    /// The guest has found nothing and waits for the bell.
    armed: bool,
    /// The source has more than there was room for.
    starved: bool,
    /// COM2, whose interrupt wakes the guest.
    bell: Option<Arc<Mutex<Serial>>>,
    /// Wakes the source.
    room: Option<RoomBell>,
}

impl Shared {
    /// The command's fate, once the guest has told it.
    #[must_use]
    pub fn fate(&self) -> Option<Fate> {
        *lock(&self.fate)
    }

    /// Whether the user has left by the escape key.
    #[must_use]
    pub fn escaped(&self) -> bool {
        *lock(&self.escaped)
    }

    /// Notes that the user leaves by the escape key.
    pub fn escape(&self) {
        *lock(&self.escaped) = true;
    }

    /// Takes input for the command and says how many bytes there was room for. The source is woken by
    /// `room` when there is room again.
    pub fn take(&self, bytes: &[u8]) -> usize {
        let mut input = lock(&self.input);
        let count = bytes.len().min(INPUT_CAPACITY.saturating_sub(input.bytes.len()));
        input.bytes.extend(bytes.iter().take(count));
        input.starved = count < bytes.len();
        input.ring();
        count
    }

    /// No more input will come.
    pub fn end_input(&self) {
        let mut input = lock(&self.input);
        input.ended = true;
        input.ring();
    }

    /// Tells how the guest is woken.
    pub fn set_bell(&self, bell: Option<Arc<Mutex<Serial>>>) {
        lock(&self.input).bell = bell;
    }

    /// Tells how the source is woken.
    pub fn set_room(&self, room: RoomBell) {
        lock(&self.input).room = Some(room);
    }
}

impl InputQueue {
    /// Wakes a guest that waits. A newline, because the guest's terminal may collect lines.
    fn ring(&mut self) {
        if self.armed && (self.ended || !self.bytes.is_empty()) {
            self.armed = false;
            if let Some(bell) = &self.bell {
                lock(bell).enqueue(b"\n");
            }
        }
    }
}

/// Which stream the data register writes to.
#[derive(Debug, Clone, Copy)]
enum Stream {
    Stdout,
    Stderr,
}

/// The device.
pub struct Channel {
    shared: Arc<Shared>,
    host: HostOutput,
    events: EventSink,
    stream: Stream,
    /// Bytes that the data register still takes.
    output_left: usize,
    piece: Vec<u8>,
    /// Bytes that the data register still gives.
    input_left: usize,
}

impl Channel {
    /// A channel whose command's output goes to `host`, and whose end to `events`.
    #[must_use]
    pub fn new(shared: Arc<Shared>, host: HostOutput, events: EventSink) -> Self {
        let piece = Vec::with_capacity(OUTPUT_PIECE);
        Self { shared, host, events, stream: Stream::Stdout, output_left: 0, piece, input_left: 0 }
    }

    fn begin_output(&mut self, stream: Stream, bytes: u32) {
        self.hand_on();
        self.stream = stream;
        self.output_left = bytes as usize;
    }

    fn output(&mut self, data: [u8; 4]) {
        let count = self.output_left.min(data.len());
        self.piece.extend(data.iter().take(count));
        self.output_left -= count;
        if self.output_left == 0 || self.piece.len() >= OUTPUT_PIECE {
            self.hand_on();
        }
    }

    fn hand_on(&mut self) {
        match self.stream {
            Stream::Stdout => self.host.stdout.push(&self.piece),
            Stream::Stderr => self.host.stderr.push(&self.piece),
        }
        self.piece.clear();
    }

    /// Says how much input there is, and gives the data register that much.
    fn begin_input(&mut self) -> u32 {
        let mut input = lock(&self.shared.input);
        self.input_left = input.bytes.len().min(INPUT_CHUNK);
        let end = input.ended && self.input_left == input.bytes.len();
        input.armed = self.input_left == 0 && !end;
        // At most 64 KiB.
        self.input_left as u32 | if end { INPUT_END } else { 0 }
    }

    fn input(&mut self) -> [u8; 4] {
        let mut data = [0; 4];
        let mut input = lock(&self.shared.input);
        for byte in data.iter_mut().take(self.input_left) {
            *byte = input.bytes.pop_front().unwrap_or_default();
        }
        self.input_left = self.input_left.saturating_sub(data.len());
        if self.input_left == 0 && input.starved {
            input.starved = false;
            if let Some(room) = &input.room {
                room.ring();
            }
        }
        data
    }

    /// The first fate is the command's; the run ends.
    fn end(&mut self, fate: Fate) {
        self.hand_on();
        lock(&self.shared.fate).get_or_insert(fate);
        (self.events)(GuestEvent::PowerOff);
    }
}

impl Device for Channel {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let value = match (offset, data.len()) {
            (REG_MAGIC, 4) => MAGIC.to_le_bytes(),
            (REG_DATA, 4) => self.input(),
            (REG_INPUT, 4) => self.begin_input().to_le_bytes(),
            _ => return,
        };
        data.copy_from_slice(&value);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let Ok(bytes) = <[u8; 4]>::try_from(data) else { return };
        let value = u32::from_le_bytes(bytes);
        match offset {
            REG_STDOUT => self.begin_output(Stream::Stdout, value),
            REG_STDERR => self.begin_output(Stream::Stderr, value),
            REG_DATA => self.output(bytes),
            REG_STATUS => self.end(wait_status(value)),
            REG_FAILED if value >> 16 == 0 => self.end(Fate::NotStarted(value as i32)),
            REG_FAILED => self.end(Fate::NoDirectory((value & 0xFFFF) as i32)),
            _ => {}
        }
    }
}

/// What a wait status says: wait(2), `WIFEXITED` and its kin.
fn wait_status(value: u32) -> Fate {
    match value & 0x7F {
        0 => Fate::Exited((value >> 8) as u8),
        signal => Fate::Killed(signal as u8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::{GuestOutput, Sink};
    use crate::devices::rig::Events;
    use std::io;
    use std::time::Duration;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Sink for Memory {
        fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            lock(&self.0).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn wait_writable(&self, _timeout: Duration) {}
    }

    struct Rig {
        channel: Channel,
        shared: Arc<Shared>,
        events: Events,
        streams: [Memory; 2],
    }

    fn rig() -> Rig {
        let streams = [Memory::default(), Memory::default()];
        let [stdout, stderr] =
            streams.clone().map(|sink| Arc::new(GuestOutput::new(Box::new(sink), "memory", Arc::new(|| {}))));
        let (shared, events) = (Arc::<Shared>::default(), Events::default());
        let channel = Channel::new(shared.clone(), HostOutput { stdout, stderr }, events.sink());
        Rig { channel, shared, events, streams }
    }

    impl Rig {
        fn write(&mut self, register: u64, value: u32) {
            self.channel.write(register, &value.to_le_bytes());
        }

        fn read(&mut self, register: u64) -> u32 {
            let mut data = [0xFF; 4];
            self.channel.read(register, &mut data);
            u32::from_le_bytes(data)
        }

        fn send(&mut self, register: u64, bytes: &[u8]) {
            self.write(register, bytes.len() as u32);
            for four in bytes.chunks(4) {
                let mut data = [0xEE; 4];
                data[..four.len()].copy_from_slice(four);
                self.channel.write(REG_DATA, &data);
            }
        }

        fn outputs(&self) -> [Vec<u8>; 2] {
            self.channel.host.stdout.finish(|| true).unwrap();
            self.channel.host.stderr.finish(|| true).unwrap();
            self.streams.clone().map(|memory| lock(&memory.0).clone())
        }
    }

    #[test]
    fn output_is_exact_and_apart() {
        let mut rig = rig();
        let much: Vec<u8> = (0..10_001_u32).map(|i| (i % 251) as u8).collect();
        rig.send(REG_STDOUT, &much);
        rig.send(REG_STDERR, b"oops\n");
        rig.send(REG_STDOUT, b"");
        rig.send(REG_STDOUT, b"end");
        // More than was announced, and accesses of other widths, are nothing.
        rig.write(REG_DATA, 0);
        rig.channel.write(REG_DATA, b"x");
        rig.channel.write(REG_STATUS, &[0; 8]);
        rig.channel.write(0x1F, &[1, 2]);
        assert_eq!(rig.outputs(), [[&much[..], b"end"].concat(), b"oops\n".to_vec()]);
        assert!(rig.events.take().is_empty());
    }

    #[test]
    fn input_is_exact_and_ends() {
        let mut rig = rig();
        assert_eq!((rig.read(REG_MAGIC), rig.read(REG_INPUT)), (MAGIC, 0));
        assert_eq!(rig.shared.take(b"abcdefg"), 7);
        assert_eq!(rig.read(REG_INPUT), 7);
        // What comes meanwhile belongs to the next round.
        rig.shared.take(b"hi");
        rig.shared.end_input();
        assert_eq!(rig.read(REG_DATA).to_le_bytes(), *b"abcd");
        assert_eq!(rig.read(REG_DATA).to_le_bytes(), *b"efg\0");
        assert_eq!(rig.read(REG_DATA), 0);
        assert_eq!(rig.read(REG_INPUT), 2 | INPUT_END);
        assert_eq!(rig.read(REG_DATA).to_le_bytes(), *b"hi\0\0");
        assert_eq!(rig.read(REG_INPUT), INPUT_END);
    }

    #[test]
    fn input_is_bounded() {
        let mut rig = rig();
        assert_eq!(rig.shared.take(&vec![1; 1 << 20]), INPUT_CAPACITY);
        assert_eq!(rig.shared.take(b"x"), 0);
        assert_eq!(rig.read(REG_INPUT) as usize, INPUT_CHUNK);
        for _ in 0..INPUT_CHUNK / 4 {
            rig.read(REG_DATA);
        }
        assert_eq!(rig.shared.take(&vec![1; 1 << 20]), INPUT_CHUNK);
    }

    #[test]
    fn the_first_fate_counts_and_ends_the_run() {
        for (register, value, fate) in [
            (REG_STATUS, 0xFF00, Fate::Exited(255)),
            (REG_STATUS, 9, Fate::Killed(9)),
            (REG_STATUS, 0x80 | 11, Fate::Killed(11)),
            (REG_FAILED, 2, Fate::NotStarted(2)),
            (REG_FAILED, 0x1_0002, Fate::NoDirectory(2)),
        ] {
            let mut rig = rig();
            assert_eq!(rig.shared.fate(), None);
            rig.write(register, value);
            rig.write(REG_STATUS, 0);
            assert_eq!(rig.shared.fate(), Some(fate));
            assert_eq!(rig.events.take(), [GuestEvent::PowerOff; 2]);
        }
    }
}

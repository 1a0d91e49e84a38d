//! The host's side of a run, which stays when the guest boots again: the serial ports' far ends, stdin,
//! signals, the script and the time limit.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::config::{SerialBackend, VmConfig};
use crate::console::{Doorbell, FarEnd, Input, OutputError, RoomBell, Signals, StdinPump, say};
use crate::devices::lock;
use crate::report::SerialLog;

use super::VmError;
use super::facts::SerialCount;
use super::typist::Typist;
use super::watcher::Watcher;

/// The far end of a serial port.
pub enum SerialPort {
    /// Nothing.
    Null,
    /// Stdout and stdin.
    Stdio,
    /// A file.
    File {
        /// Its path, for messages.
        path: PathBuf,
        /// The file.
        file: Arc<Mutex<BufWriter<File>>>,
    },
    /// A socket or a pty.
    Line(Arc<FarEnd>),
}

/// The serial port of the present boot.
type Slot = Arc<Mutex<Option<Arc<dyn Typist>>>>;
/// COM1 to COM4 of a boot.
pub type Ports = [Option<Arc<dyn Typist>>; 4];

/// The host's side.
pub struct Host {
    /// Rings when the supervisor has something to look at.
    pub bell: Arc<Doorbell>,
    /// Host signals that end the run.
    pub signals: Signals,
    /// COM1 to COM4.
    pub serial: [Option<SerialPort>; 4],
    /// How much the serial ports have written.
    pub written: Arc<SerialCount>,
    /// What keeps COM1's output.
    pub log: Option<Arc<Mutex<SerialLog>>>,
    /// What follows COM1's output.
    pub watcher: Option<Arc<Watcher>>,
    /// When the run's time is over, and how long it is.
    pub limit: Option<(Instant, Duration)>,
    /// COM1 to COM4 of the present boot.
    ports: [Slot; 4],
    /// Which of them stdin goes to.
    stdin: Option<usize>,
    pump: Mutex<Option<StdinPump>>,
    room: OnceLock<RoomBell>,
    escaped: AtomicBool,
}

impl Host {
    /// Opens what `config` names, for a run that began at `start`.
    ///
    /// # Errors
    /// When a file cannot be made, or the host refuses something.
    pub fn new(config: &VmConfig, start: Instant) -> Result<Self, VmError> {
        let ports: [Slot; 4] = Default::default();
        let mut serial = [const { None }; 4];
        for (number, (port, backend)) in serial.iter_mut().zip(&config.serial).enumerate() {
            if let (Some(backend), Some(slot)) = (backend, ports.get(number)) {
                *port = Some(open(backend, number, slot)?);
            }
        }
        let bell = Arc::new(Doorbell::new().map_err(VmError::Console)?);
        let signals = Signals::install(&bell).map_err(VmError::Console)?;
        let log = config.log.as_deref().map(|path| {
            SerialLog::create(path, config.timestamps)
                .map_err(|reason| VmError::Log { path: path.to_owned(), reason })
        });
        let log = log.transpose()?.map(|log| Arc::new(Mutex::new(log)));
        // A report tells the last lines, so it needs somebody who follows them.
        let is_told = config.report.is_some() || config.junit.is_some();
        let watcher = (is_told || !config.script.is_empty())
            .then(|| Arc::new(Watcher::new(config.script.clone(), Instant::now(), Arc::clone(&bell))));
        Ok(Self {
            bell,
            signals,
            serial,
            written: Arc::default(),
            log,
            watcher,
            // A time limit too far away to be an instant is none.
            limit: config.timeout.and_then(|timeout| Some((start.checked_add(timeout)?, timeout))),
            ports,
            stdin: config.serial.iter().position(|port| *port == Some(SerialBackend::Stdio)),
            pump: Mutex::new(None),
            room: OnceLock::new(),
            escaped: AtomicBool::new(false),
        })
    }

    /// Connects the ports of a new boot.
    pub fn connect(&self, ports: &Ports) {
        for (slot, port) in self.ports.iter().zip(ports) {
            lock(slot).clone_from(port);
        }
        for line in self.lines() {
            line.set_ending(false);
        }
    }

    /// Disconnects the ports of a boot that is over, so that no input is lost in them.
    pub fn disconnect(&self) {
        self.ports.iter().for_each(|slot| *lock(slot) = None);
    }

    fn lines(&self) -> impl Iterator<Item = &FarEnd> {
        self.serial.iter().flatten().filter_map(|port| match port {
            SerialPort::Line(line) => Some(&**line),
            _ => None,
        })
    }

    /// From now on no vCPU waits for a slow reader of a socket or pty.
    pub fn stop_waiting(&self) {
        self.lines().for_each(|line| line.set_ending(true));
    }

    /// Hands over the last output of sockets and ptys, and closes them. Each waits for a slow reader until
    /// `give_up` says that the time is over.
    ///
    /// # Errors
    /// When output is lost.
    pub fn close_lines(&self, mut give_up: impl FnMut() -> bool) -> Result<(), OutputError> {
        let mut result = Ok(());
        for line in self.lines() {
            result = result.and(line.finish(&mut give_up));
        }
        result
    }

    /// Begins to read stdin, if that has not begun yet.
    ///
    /// # Errors
    /// When the host refuses a thread or a pipe.
    pub fn start_input(self: &Arc<Self>) -> Result<(), VmError> {
        let mut pump = lock(&self.pump);
        if pump.is_some() {
            return Ok(());
        }
        // Weak, because the pump is owned by what it would own.
        let (take, escaped) = (Arc::downgrade(self), Arc::downgrade(self));
        let (started, room) = StdinPump::start(
            Input::stdin(),
            move |bytes| {
                let port = take.upgrade().and_then(|host| lock(host.ports.get(host.stdin?)?).clone());
                port.map_or(0, |port| port.type_in(bytes))
            },
            move || {
                if let Some(host) = escaped.upgrade() {
                    host.escaped.store(true, Ordering::Release);
                    host.bell.ring();
                }
            },
        )
        .map_err(VmError::Console)?;
        *pump = Some(started);
        // There is one pump, so there is one bell.
        let _ = self.room.set(room);
        Ok(())
    }

    /// Ends the reading of stdin.
    pub fn stop_input(&self) {
        // Dropped without the lock, because it waits for the thread.
        let pump = lock(&self.pump).take();
        drop(pump);
    }

    /// Writes what the files still lack.
    ///
    /// # Errors
    /// When one does not take it.
    pub fn flush_files(&self, config: &VmConfig) -> Result<(), VmError> {
        for port in self.serial.iter().flatten() {
            if let SerialPort::File { path, file } = port {
                lock(file).flush().map_err(|reason| VmError::SerialFile { path: path.clone(), reason })?;
            }
        }
        if let (Some(log), Some(path)) = (&self.log, &config.log) {
            lock(log).flush().map_err(|reason| VmError::Log { path: path.clone(), reason })?;
        }
        Ok(())
    }

    /// Whether the user has typed the escape key.
    pub fn escaped(&self) -> bool {
        self.escaped.load(Ordering::Acquire)
    }

    /// Whether anything on the host's side writes to the serial port `number`, from 0.
    pub fn has_input_for(&self, number: usize) -> bool {
        let scripted = number == 0 && self.watcher.is_some();
        let line = matches!(self.serial.get(number), Some(Some(SerialPort::Line(_))));
        self.stdin == Some(number) || scripted || line
    }

    /// The serial port `number` can take more input, after it could not take all.
    pub fn port_has_room(&self, number: usize) {
        if let Some(room) = self.room.get().filter(|_| self.stdin == Some(number)) {
            room.ring();
        }
        if let Some(Some(SerialPort::Line(line))) = self.serial.get(number) {
            line.port_has_room();
        }
        if number == 0 && self.watcher.is_some() {
            self.bell.ring();
        }
    }
}

/// Opens the far end of the serial port `number`, from 0, whose near end is in `slot`.
fn open(backend: &SerialBackend, number: usize, slot: &Slot) -> Result<SerialPort, VmError> {
    let slot = Arc::clone(slot);
    // A vCPU may hold the port while it waits for room in the output, so this must not wait for it.
    let take = move |bytes: &[u8]| lock(&slot).as_ref().map_or(0, |port| port.try_type_in(bytes));
    Ok(match backend {
        SerialBackend::Unix(path) => SerialPort::Line(Arc::new(FarEnd::listen(path, take)?)),
        SerialBackend::Pty => {
            let pty = FarEnd::pty(take).map_err(VmError::Pty)?;
            say(&format!("vm-accel: COM{} is {}\n", number + 1, pty.name()));
            SerialPort::Line(Arc::new(pty))
        }
        SerialBackend::Null => SerialPort::Null,
        SerialBackend::Stdio => SerialPort::Stdio,
        SerialBackend::File(path) => {
            let file =
                File::create(path).map_err(|reason| VmError::SerialFile { path: path.clone(), reason })?;
            SerialPort::File { path: path.clone(), file: Arc::new(Mutex::new(BufWriter::new(file))) }
        }
    })
}

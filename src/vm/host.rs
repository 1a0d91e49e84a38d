//! The host's side of a run, which stays when the guest boots again: the serial ports' far ends, stdin,
//! signals, the script and the time limit.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::config::{SerialBackend, VmConfig};
use crate::console::{Doorbell, Input, RoomBell, Signals, StdinPump};
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
}

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
    /// The console of the present boot that stdin goes to.
    stdin: Mutex<Option<Arc<dyn Typist>>>,
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
        let mut serial = [const { None }; 4];
        for (port, backend) in serial.iter_mut().zip(&config.serial) {
            if let Some(backend) = backend {
                *port = Some(open(backend)?);
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
            stdin: Mutex::new(None),
            pump: Mutex::new(None),
            room: OnceLock::new(),
            escaped: AtomicBool::new(false),
        })
    }

    /// Sends stdin to `port` from now on.
    pub fn connect_stdin(&self, port: Option<Arc<dyn Typist>>) {
        *lock(&self.stdin) = port;
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
                let port = take.upgrade().and_then(|host| lock(&host.stdin).clone());
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

    /// A serial port that could not take all its input can take more.
    pub fn port_has_room(&self) {
        if let Some(room) = self.room.get() {
            room.ring();
        }
        if self.watcher.is_some() {
            self.bell.ring();
        }
    }
}

fn open(backend: &SerialBackend) -> Result<SerialPort, VmError> {
    Ok(match backend {
        SerialBackend::Null => SerialPort::Null,
        SerialBackend::Stdio => SerialPort::Stdio,
        SerialBackend::File(path) => {
            let file =
                File::create(path).map_err(|reason| VmError::SerialFile { path: path.clone(), reason })?;
            SerialPort::File { path: path.clone(), file: Arc::new(Mutex::new(BufWriter::new(file))) }
        }
    })
}

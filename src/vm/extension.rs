//! What a caller adds to the machine that a configuration describes.

use std::sync::{Arc, Mutex};

use crate::console::GuestOutput;
use crate::devices::serial::{Serial, SerialSink};
use crate::devices::{Bus, EventSink};
use crate::loader::KernelImage;

use super::VmError;

/// An addition to the machine: an initial RAM disk that lies in memory, a console, devices.
pub trait Extension {
    /// The initial RAM disk, in place of the configuration's.
    fn initrd(&self) -> Option<&KernelImage>;

    /// Where the bytes of COM1 go, in place of where the configuration says.
    fn console(&mut self, host: &HostOutput) -> Option<SerialSink>;

    /// Adds devices to the finished machine.
    ///
    /// # Errors
    /// When the host refuses what they need.
    fn attach(&mut self, wiring: Wiring<'_>) -> Result<(), VmError>;
}

/// The host's output streams. A push may wait while the reader is slow, so it is for vCPUs only.
#[derive(Clone)]
pub struct HostOutput {
    /// The process's stdout.
    pub stdout: Arc<GuestOutput>,
    /// The process's stderr.
    pub stderr: Arc<GuestOutput>,
}

/// What a device of an extension can be wired to.
pub struct Wiring<'a> {
    /// Port I/O.
    pub ports: &'a mut Bus,
    /// Memory-mapped I/O.
    pub mmio: &'a mut Bus,
    /// COM1 to COM4, where the configuration has them.
    pub serial: &'a [Option<Arc<Mutex<Serial>>>; 4],
    /// Where guest events go.
    pub events: EventSink,
    /// Where output goes.
    pub host: HostOutput,
}

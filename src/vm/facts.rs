//! What a run leaves to be told: counts, times, the last registers.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::accel::{VcpuExit, VcpuOps};
use crate::script::StepRecord;

/// The registers of one vCPU: name and value.
pub type Registers = Vec<(String, u64)>;

/// Names of the kinds of exits, in the order of [`ExitCounts`].
const KINDS: [&str; 10] = [
    "io_in",
    "io_out",
    "mmio_read",
    "mmio_write",
    "hlt",
    "shutdown",
    "interrupted",
    "emulation_failure",
    "debug",
    "system_event",
];

/// How many exits of each kind there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExitCounts([u64; KINDS.len()]);

impl ExitCounts {
    /// Counts `exit`.
    pub fn count(&mut self, exit: &VcpuExit) {
        let kind = match exit {
            VcpuExit::IoIn { .. } => 0,
            VcpuExit::IoOut { .. } => 1,
            VcpuExit::MmioRead { .. } => 2,
            VcpuExit::MmioWrite { .. } => 3,
            VcpuExit::Hlt => 4,
            VcpuExit::Shutdown => 5,
            VcpuExit::Interrupted => 6,
            VcpuExit::EmulationFailure { .. } => 7,
            VcpuExit::Debug => 8,
            VcpuExit::SystemEvent(_) => 9,
        };
        if let Some(count) = self.0.get_mut(kind) {
            *count += 1;
        }
    }

    /// Adds those of another vCPU or boot.
    pub fn add(&mut self, other: &Self) {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum = sum.saturating_add(count);
        }
    }

    /// The counts with the names of their kinds.
    pub fn by_name(&self) -> impl Iterator<Item = (&'static str, u64)> {
        KINDS.into_iter().zip(self.0)
    }
}

/// What a run leaves to be told.
#[derive(Debug, Default)]
pub struct Facts {
    /// Why this backend was taken.
    pub reason: String,
    /// How the kernel was booted.
    pub protocol: String,
    /// The kernel's version string, where the file has one.
    pub kernel_version: Option<String>,
    /// How often the guest was booted.
    pub boots: u32,
    /// When vCPU 0 was entered for the first time.
    pub first_instruction: Option<Instant>,
    /// When a serial port wrote for the first time.
    pub first_serial_byte: Option<Instant>,
    /// When the guest's kernel said that it starts user space.
    pub init_seen: Option<Instant>,
    /// When the guest had ended.
    pub end: Option<Instant>,
    /// Exits of all vCPUs in all boots.
    pub exits: ExitCounts,
    /// Bytes that all serial ports wrote.
    pub serial_bytes: u64,
    /// The steps of the script, as far as they have begun.
    pub steps: Vec<StepRecord>,
    /// The registers of each vCPU at the end, where the backend could tell; none where nobody wants them.
    pub registers: Vec<Option<Registers>>,
    /// The last lines of COM1's output, where anything followed it.
    pub last_lines: Vec<String>,
}

/// Counts what the serial ports write.
#[derive(Debug, Default)]
pub struct SerialCount {
    bytes: AtomicU64,
    first: OnceLock<Instant>,
}

impl SerialCount {
    /// Counts one byte.
    pub fn count(&self) {
        if self.bytes.fetch_add(1, Ordering::Relaxed) == 0 {
            let _ = self.first.set(Instant::now());
        }
    }

    /// How many bytes, and when the first came.
    pub fn get(&self) -> (u64, Option<Instant>) {
        (self.bytes.load(Ordering::Relaxed), self.first.get().copied())
    }
}

/// The registers of `vcpu` by name.
pub fn registers<V: VcpuOps>(vcpu: &V) -> Option<Registers> {
    let registers = vcpu.get_regs().ok()?.named().into_iter().chain(vcpu.get_special_regs().ok()?.named());
    Some(registers.map(|(name, value)| (name.to_owned(), value)).collect())
}

//! What a run leaves to be told: counts, times, the last registers.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::accel::{GuestRegs, SpecialRegs, VcpuExit, VcpuOps};
use crate::script::StepRecord;

/// The registers of one vCPU: name and value.
pub type Registers = Vec<(String, u64)>;

/// Names of the kinds of exits, in the order of [`ExitCounts`].
const KINDS: [&str; 9] = [
    "io_in",
    "io_out",
    "mmio_read",
    "mmio_write",
    "hlt",
    "shutdown",
    "interrupted",
    "emulation_failure",
    "debug",
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
    let general: GuestRegs = vcpu.get_regs().ok()?;
    let mut registers: Registers = general.iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let SpecialRegs::X86_64(special) = vcpu.get_special_regs().ok()?;
    for (name, value) in [
        ("cr0", special.cr0),
        ("cr2", special.cr2),
        ("cr3", special.cr3),
        ("cr4", special.cr4),
        ("cr8", special.cr8),
        ("efer", special.efer),
        ("cs", special.cs.selector.into()),
        ("cs_base", special.cs.base),
        ("ss", special.ss.selector.into()),
        ("gdt", special.gdt.base),
        ("idt", special.idt.base),
    ] {
        registers.push((name.to_owned(), value));
    }
    Some(registers)
}

//! ACPI: the tables that describe the machine, and the registers behind them.
//!
//! The machine is hardware-reduced (ACPI 6.5, section 4.1): no SCI, no PM timer, no fixed events. It is
//! switched off through the sleep control register, reset through port 0xCF9, and asked to switch itself
//! off through a power button whose interrupt is a Generic Event Device's.
#![forbid(unsafe_code)]

mod dsdt;
mod fadt;
mod madt;
mod registers;
mod rsdp;

use acpi_tables::Aml;
use acpi_tables::sdt::Sdt;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::memory::GuestMemory;
pub use registers::{AcpiRegisters, PowerButton};

/// First I/O port of [`AcpiRegisters`].
pub const ACPI_PORT: u16 = 0x600;
/// Number of ports of [`AcpiRegisters`].
pub const ACPI_PORTS: u16 = 8;
/// Global system interrupt of the power button: level-triggered, active high.
pub const POWER_BUTTON_GSI: u8 = 20;
/// Port of the reset register, and the value that resets.
pub const RESET_PORT: (u16, u8) = (0xCF9, 0x06);
/// Guest-physical address of the RSDP: where the search for it starts (ACPI 6.5, section 5.2.5.1).
pub const RSDP_ADDRESS: u64 = 0xE_0000;
/// End of the tables, the end of the BIOS area.
const TABLES_END: u64 = 0x10_0000;

const OEM_ID: [u8; 6] = *b"VMACCL";
const OEM_TABLE_ID: [u8; 8] = *b"VMACCEL ";
const OEM_REVISION: u32 = 1;
/// Bytes of the header that all tables but the RSDP share.
const HEADER_BYTES: u32 = 36;

/// A serial port of the PC: base port and interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SerialPort {
    port: u16,
    irq: u32,
}

/// COM1 to COM4.
const SERIAL_PORTS: [SerialPort; 4] = [
    SerialPort { port: 0x3F8, irq: 4 },
    SerialPort { port: 0x2F8, irq: 3 },
    SerialPort { port: 0x3E8, irq: 4 },
    SerialPort { port: 0x2E8, irq: 3 },
];

/// A virtio device on the MMIO bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtioMmio {
    /// Guest-physical address of its registers.
    pub address: u32,
    /// Bytes of its registers.
    pub bytes: u32,
    /// Global system interrupt: level-triggered, active high.
    pub gsi: u32,
}

/// What the tables describe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AcpiSpec {
    /// Number of vCPUs; their APIC ids are 0 to `cpus - 1`.
    pub cpus: u32,
    /// Which of COM1 to COM4 exist.
    pub serial: [bool; 4],
    /// Virtio devices.
    pub virtio_mmio: Vec<VirtioMmio>,
}

/// Why the tables could not be written.
#[derive(Debug, Error)]
pub enum AcpiError {
    /// The tables do not fit between [`RSDP_ADDRESS`] and 1 MiB.
    #[error(
        "the ACPI tables need {bytes} bytes, but there are 131072. Give the machine fewer CPUs with `--cpus`"
    )]
    TooLarge {
        /// What they need.
        bytes: usize,
    },
    /// There is no RAM where they belong.
    #[error(
        "cannot write the ACPI tables at {gpa:#x}: {source}. Give the machine 1 MiB of RAM or more with `--memory`"
    )]
    Memory {
        /// Guest-physical address.
        gpa: u64,
        /// The reason.
        source: GuestMemoryError,
    },
}

/// Writes the tables between 0xE0000 and 1 MiB, and gives the RSDP's guest-physical address.
///
/// # Errors
/// When they do not fit, or `memory` ends below 1 MiB.
pub fn write_tables(memory: &GuestMemory, spec: &AcpiSpec) -> Result<u64, AcpiError> {
    let image = image(spec);
    if u64::try_from(image.len()).is_ok_and(|bytes| bytes > TABLES_END - RSDP_ADDRESS) {
        return Err(AcpiError::TooLarge { bytes: image.len() });
    }
    memory
        .write_slice(&image, GuestAddress(RSDP_ADDRESS))
        .map_err(|source| AcpiError::Memory { gpa: RSDP_ADDRESS, source })?;
    Ok(RSDP_ADDRESS)
}

/// The bytes from [`RSDP_ADDRESS`] on.
fn image(spec: &AcpiSpec) -> Vec<u8> {
    // The RSDP is written last, when the others have an address.
    let mut image = vec![0; rsdp::BYTES];
    let dsdt = append(&mut image, dsdt::table(spec).as_slice());
    let fadt = append(&mut image, &bytes(&fadt::table(dsdt)));
    let madt = append(&mut image, madt::table(spec.cpus).as_slice());
    let entries = [fadt, madt];
    let rsdt =
        append(&mut image, with_header(*b"RSDT", 1, &entries.map(u32::to_le_bytes).concat()).as_slice());
    let wide = entries.map(|entry| u64::from(entry).to_le_bytes());
    let xsdt = append(&mut image, with_header(*b"XSDT", 1, &wide.concat()).as_slice());
    let rsdp = rsdp::structure(rsdt, xsdt.into());
    image.iter_mut().zip(rsdp).for_each(|(to, from)| *to = from);
    image
}

/// Appends a table at the next multiple of 16 and gives its guest-physical address.
fn append(image: &mut Vec<u8>, table: &[u8]) -> u32 {
    image.resize(image.len().next_multiple_of(16), 0);
    // An image that ends above 4 GiB is refused before anybody sees the address.
    let address = RSDP_ADDRESS.saturating_add(image.len() as u64);
    image.extend_from_slice(table);
    u32::try_from(address).unwrap_or(u32::MAX)
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// A table with this body, its length and its checksum.
fn with_header(signature: [u8; 4], revision: u8, body: &[u8]) -> Sdt {
    let mut table = Sdt::new(signature, HEADER_BYTES, revision, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(body);
    table
}

#[cfg(test)]
mod tests;

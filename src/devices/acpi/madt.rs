//! The MADT: processors and interrupt controllers (ACPI 6.5, section 5.2.12).

use acpi_tables::sdt::Sdt;

use super::with_header;

const REVISION: u8 = 5;
const LAPIC_ADDRESS: u32 = 0xFEE0_0000;
const IOAPIC_ADDRESS: u32 = 0xFEC0_0000;
/// The value of the IOAPIC's id register after reset.
const IOAPIC_ID: u8 = 0;
/// Two 8259s are there.
const PCAT_COMPAT: u32 = 1;
const ENABLED: u32 = 1;
/// APIC ids from here on need an x2APIC structure.
const X2APIC_IDS: u32 = 255;

/// The MADT for `cpus` vCPUs.
pub(super) fn table(cpus: u32) -> Sdt {
    let mut body = Vec::new();
    body.extend(LAPIC_ADDRESS.to_le_bytes());
    body.extend(PCAT_COMPAT.to_le_bytes());
    for id in 0..cpus {
        match u8::try_from(id) {
            Ok(short) if id < X2APIC_IDS => {
                // Processor Local APIC: UID, APIC id, flags.
                body.extend([0, 8, short, short]);
                body.extend(ENABLED.to_le_bytes());
            }
            _ => {
                // Processor Local x2APIC: x2APIC id, flags, UID.
                body.extend([9, 16, 0, 0]);
                body.extend(id.to_le_bytes());
                body.extend(ENABLED.to_le_bytes());
                body.extend(id.to_le_bytes());
            }
        }
    }
    // I/O APIC: id, address, first GSI.
    body.extend([1, 12, IOAPIC_ID, 0]);
    body.extend(IOAPIC_ADDRESS.to_le_bytes());
    body.extend(0u32.to_le_bytes());
    // Interrupt source override: ISA 0, the PIT, is GSI 2; trigger and polarity are the bus's.
    body.extend([2, 10, 0, 0]);
    body.extend(2u32.to_le_bytes());
    body.extend(0u16.to_le_bytes());
    // Local APIC NMI: LINT1 of all processors.
    body.extend([4, 6, 0xFF, 0, 0, 1]);
    if cpus > X2APIC_IDS {
        // Local x2APIC NMI: the same for the others.
        body.extend([10, 12, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 1, 0, 0, 0]);
    }
    with_header(*b"APIC", REVISION, &body)
}

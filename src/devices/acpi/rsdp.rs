//! The RSDP, which names the tables of tables (ACPI 6.5, section 5.2.5.3).

use super::OEM_ID;

/// Bytes of an RSDP of revision 2.
pub(super) const BYTES: usize = 36;
/// Bytes of the revision 1 part, which has a checksum of its own.
const OLD_BYTES: usize = 20;
const REVISION: u8 = 2;

/// The RSDP. A guest that knows ACPI 1.0 only goes by the RSDT, any other by the XSDT.
pub(super) fn structure(rsdt: u32, xsdt: u64) -> Vec<u8> {
    let mut rsdp = Vec::with_capacity(BYTES);
    rsdp.extend(b"RSD PTR ");
    rsdp.push(0);
    rsdp.extend(OEM_ID);
    rsdp.push(REVISION);
    rsdp.extend(rsdt.to_le_bytes());
    let old_checksum = checksum(rsdp.iter().take(OLD_BYTES));
    rsdp.extend((BYTES as u32).to_le_bytes());
    rsdp.extend(xsdt.to_le_bytes());
    rsdp.extend([0; 4]);
    rsdp[8] = old_checksum;
    rsdp[32] = checksum(rsdp.iter());
    rsdp
}

/// The byte that makes the sum 0.
fn checksum<'a>(bytes: impl Iterator<Item = &'a u8>) -> u8 {
    bytes.fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

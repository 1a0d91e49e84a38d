//! The FADT: what the fixed hardware of a hardware-reduced machine is (ACPI 6.5, section 5.2.9).

use acpi_tables::fadt::{FADT, FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use super::registers::{SLEEP_CONTROL, SLEEP_STATUS};
use super::{ACPI_PORT, OEM_ID, OEM_REVISION, OEM_TABLE_ID, RESET_PORT};

/// IA-PC boot architecture flags (ACPI 6.5, table 5.11): ISA devices, no VGA. The clear bits say that MSIs work
/// and that there is a CMOS RTC. So is the 8042's, which has no keyboard and only resets: Linux would look for
/// one, and take IRQ 1 for its interrupt, which is another device's where there are no legacy interrupts.
const BOOT_ARCHITECTURE: u16 = 1 | 1 << 2;
/// CMOS register of the century.
const CENTURY: u8 = 0x32;

/// The FADT that names the DSDT at `dsdt`.
pub(super) fn table(dsdt: u32) -> FADT {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt.into())
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // These two say that the buttons are not fixed hardware.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless)
        .flag(Flags::HwReducedAcpi)
        .preferred_pm_profile(PmProfile::EnterpriseServer);
    fadt.dsdt = dsdt.into();
    fadt.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    fadt.century = CENTURY;
    let (reset_port, reset_value) = RESET_PORT;
    fadt.reset_reg = byte_port(reset_port);
    fadt.reset_value = reset_value;
    fadt.sleep_control_reg = byte_port(ACPI_PORT + SLEEP_CONTROL);
    fadt.sleep_status_reg = byte_port(ACPI_PORT + SLEEP_STATUS);
    fadt.finalize()
}

fn byte_port(port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into())
}

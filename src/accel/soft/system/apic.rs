//! The CPU's way to its local APIC: MSRs and CR8.

#![forbid(unsafe_code)]

use super::super::abort::Exec;
use super::super::state::Cpu;

/// `IA32_APIC_BASE.EN`.
const BASE_ENABLED: u64 = 1 << 11;

impl Cpu {
    /// Whether CPUID shows an APIC: `IA32_APIC_BASE.EN`.
    #[must_use]
    pub fn apic_enabled(&self) -> bool {
        self.lapic.base() & BASE_ENABLED != 0
    }

    /// CR8.
    #[must_use]
    pub fn read_tpr(&self) -> u64 {
        self.lapic.cr8().into()
    }

    /// Sets CR8.
    ///
    /// # Errors
    /// #GP(0) for reserved bits.
    pub fn write_tpr(&mut self, value: u64) -> Exec {
        if value > 15 {
            return self.general_protection();
        }
        self.lapic.set_cr8(value as u8);
        Ok(())
    }

    /// Reads `IA32_APIC_BASE`, `IA32_TSC_DEADLINE` or an x2APIC register.
    ///
    /// # Errors
    /// #GP(0) for one that does not exist.
    pub fn read_apic_msr(&mut self, msr: u32) -> Exec<u64> {
        match self.lapic.msr_read(msr) {
            Ok(value) => Ok(value),
            Err(_) => self.general_protection(),
        }
    }

    /// Writes `IA32_APIC_BASE`, `IA32_TSC_DEADLINE` or an x2APIC register.
    ///
    /// # Errors
    /// #GP(0) for one that does not exist, or a value that it does not take.
    pub fn write_apic_msr(&mut self, msr: u32, value: u64) -> Exec {
        match self.lapic.msr_write(msr, value) {
            Ok(()) => Ok(()),
            Err(_) => self.general_protection(),
        }
    }

    /// The TSC has been changed: a deadline means another time now.
    pub fn tsc_changed(&mut self) {}
}

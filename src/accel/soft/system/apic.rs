//! The CPU's way to its local APIC: MSRs and CR8.

#![forbid(unsafe_code)]

use super::super::abort::Exec;
use super::super::mmu::MAXPHYADDR;
use super::super::state::Cpu;
use super::msr::number;

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
            Ok(ticks) if msr == number::TSC_DEADLINE => Ok(self.deadline_tsc(ticks)),
            Ok(value) => Ok(value),
            Err(_) => self.general_protection(),
        }
    }

    /// Writes `IA32_APIC_BASE`, `IA32_TSC_DEADLINE` or an x2APIC register.
    ///
    /// # Errors
    /// #GP(0) for one that does not exist, or a value that it does not take.
    pub fn write_apic_msr(&mut self, msr: u32, value: u64) -> Exec {
        if msr == number::APIC_BASE && value >> MAXPHYADDR != 0 {
            return self.general_protection();
        }
        let adjust = self.system.msrs.tsc_adjust;
        let value = if msr == number::TSC_DEADLINE { moved(value, adjust.wrapping_neg()) } else { value };
        match self.lapic.msr_write(msr, value) {
            Ok(()) => Ok(()),
            Err(_) => self.general_protection(),
        }
    }

    /// Changes `IA32_TSC_ADJUST`; a deadline keeps its value of the TSC, and so means another time.
    pub fn set_tsc_adjust(&mut self, adjust: u64) {
        // The register exists whatever the APIC's mode.
        let deadline = self.read_apic_msr(number::TSC_DEADLINE).unwrap_or(0);
        self.system.msrs.tsc_adjust = adjust;
        if deadline != 0 {
            let _ = self.write_apic_msr(number::TSC_DEADLINE, deadline);
        }
    }

    /// A deadline that the APIC has in ticks of the machine's clock, as the guest's TSC has it.
    fn deadline_tsc(&self, ticks: u64) -> u64 {
        moved(ticks, self.system.msrs.tsc_adjust)
    }
}

/// A deadline moved by a signed number of ticks; none, which is 0, stays none, and one before the clock's
/// start becomes its first tick, which is over.
fn moved(deadline: u64, by: u64) -> u64 {
    if deadline == 0 || by == 0 {
        return deadline;
    }
    deadline.saturating_add_signed(by.cast_signed()).max(1)
}

//! System registers that trap although the guest may use them.

#![forbid(unsafe_code)]

use super::syndrome::{SystemAccess, SystemRegister};

/// What a trapped access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It reads this.
    Read(u64),
    /// Nothing.
    Ignored,
    /// It reads the physical counter.
    PhysicalCount,
    /// There is no such register: it is undefined.
    Undefined,
}

/// The OS lock's status: the lock exists (OSLM = 0b10) and is open.
const OSLSR_EL1: SystemRegister = SystemRegister::new(2, 0, 1, 1, 4);
const OSLSR_OPEN: u64 = 1 << 3;
/// The physical counter.
const CNTPCT_EL0: SystemRegister = SystemRegister::new(3, 3, 14, 0, 1);

/// The effect of an access that is not the GIC's.
#[must_use]
pub fn effect(access: SystemAccess) -> Effect {
    let register = access.register.0;
    let (op0, op1) = (register >> 14, register >> 11 & 7);
    let (crn, crm) = (register >> 7 & 15, register >> 3 & 15);
    let known = match (op0, op1, crn, crm) {
        // Cache maintenance by set and way: guests' memory is coherent.
        (1, 0, 7, 6 | 10 | 14) => true,
        // Debug registers: no debugger is attached from outside, and the guest gets no self-hosted one.
        (2, ..) => true,
        // The ID registers of which the framework has no value: the features are absent.
        (3, 0, 0, _) if access.is_read => true,
        // ACTLR_EL1: what it controls is the processor's own matter.
        (3, 0, 1, 0) => true,
        // Performance monitors: PMCR_EL0.N reads as 0, so there is none.
        (3, 3, 9, 12..=14) | (3, 0, 9, 14) | (3, 3, 14, 8..=15) => true,
        // LORegions: there is none.
        (3, 0, 10, 4) => true,
        // The physical timer, which the device tree's readers leave alone: it never fires.
        (3, 3, 14, 2) => true,
        _ => false,
    };
    match (access.register, access.is_read) {
        (OSLSR_EL1, true) => Effect::Read(OSLSR_OPEN),
        (CNTPCT_EL0, true) => Effect::PhysicalCount,
        (_, true) if known => Effect::Read(0),
        (_, false) if known => Effect::Ignored,
        _ => Effect::Undefined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(register: SystemRegister) -> Effect {
        effect(SystemAccess { register, rt: 0, is_read: true })
    }

    fn write(register: SystemRegister) -> Effect {
        effect(SystemAccess { register, rt: 0, is_read: false })
    }

    #[test]
    fn what_kernels_touch_at_their_start_is_there() {
        let (oslar, osdlr) = (SystemRegister::new(2, 0, 1, 0, 4), SystemRegister::new(2, 0, 1, 3, 4));
        assert_eq!((write(oslar), write(osdlr)), (Effect::Ignored, Effect::Ignored));
        assert_eq!(read(OSLSR_EL1), Effect::Read(8));
        // PMCR_EL0 and PMUSERENR_EL0.
        let (pmcr, pmuserenr) = (SystemRegister::new(3, 3, 9, 12, 0), SystemRegister::new(3, 3, 9, 14, 0));
        assert_eq!((read(pmcr), write(pmuserenr)), (Effect::Read(0), Effect::Ignored));
        // `dc cisw`, and ID_AA64ISAR2_EL1.
        assert_eq!(write(SystemRegister::new(1, 0, 7, 14, 2)), Effect::Ignored);
        assert_eq!(read(SystemRegister::new(3, 0, 0, 6, 2)), Effect::Read(0));
        assert_eq!(read(CNTPCT_EL0), Effect::PhysicalCount);
    }

    #[test]
    fn what_is_not_there_is_undefined() {
        // MIDR_EL1 cannot be written, the counter neither; an implementation-defined register.
        for register in [SystemRegister::new(3, 0, 0, 0, 0), CNTPCT_EL0, SystemRegister::new(3, 0, 15, 2, 0)]
        {
            assert_eq!(write(register), Effect::Undefined, "{register:x?}");
        }
        assert_eq!(read(SystemRegister::new(3, 7, 15, 0, 0)), Effect::Undefined);
    }
}

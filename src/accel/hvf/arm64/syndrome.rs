//! The syndrome of an exception that a guest took to EL2, as ESR_EL2 encodes it (Arm ARM, DDI 0487,
//! D24.2.40 "ESR_EL2").

#![forbid(unsafe_code)]

/// An exception to EL2 that is the backend's to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exception {
    /// WFI or WFIT: nothing to do until an interrupt.
    WaitForInterrupt,
    /// WFE or WFET: nothing to do until an event.
    WaitForEvent,
    /// HVC. The program counter is behind it already.
    Hvc,
    /// SMC. The program counter is at it.
    Smc,
    /// MSR or MRS of a register that traps, or a system instruction.
    SystemRegister(SystemAccess),
    /// A data access that stage 2 refuses.
    DataAbort(DataAbort),
    /// An instruction fetch that stage 2 refuses.
    InstructionAbort,
    /// A breakpoint, watchpoint, single step or BRK that the host asked for.
    Debug,
    /// Anything else, by its exception class.
    Other(u8),
}

/// A trapped MSR, MRS or system instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemAccess {
    /// The register.
    pub register: SystemRegister,
    /// The general register that is read or written; 31 is XZR.
    pub rt: u8,
    /// MRS, as opposed to MSR.
    pub is_read: bool,
}

/// A system register by the fields of its encoding, packed as in the instruction: op0, op1, CRn, CRm, op2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SystemRegister(pub u16);

impl SystemRegister {
    /// The register with this encoding.
    #[must_use]
    pub const fn new(op0: u16, op1: u16, crn: u16, crm: u16, op2: u16) -> Self {
        Self((op0 & 3) << 14 | (op1 & 7) << 11 | (crn & 15) << 7 | (crm & 15) << 3 | op2 & 7)
    }
}

/// A data access that stage 2 refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataAbort {
    /// What the instruction was to do, where the syndrome tells: it does for a load or store of one general
    /// register without write-back.
    pub access: Option<Access>,
    /// A store, or a cache maintenance instruction.
    pub is_write: bool,
    /// A cache maintenance or address translation instruction.
    pub is_cache_maintenance: bool,
    /// The fault came while the guest's own page tables were walked.
    pub in_table_walk: bool,
    /// Nothing is mapped there, as opposed to a permission or an error.
    pub is_translation_fault: bool,
}

/// A load or store of one general register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Bytes: 1, 2, 4 or 8.
    pub size: u8,
    /// A load extends the sign.
    pub sign_extend: bool,
    /// The general register; 31 is XZR or WZR.
    pub register: u8,
    /// A load writes the whole register, and not only its lower half with zeros above.
    pub is_64_bit: bool,
}

/// Exception classes.
mod class {
    pub const WFX: u8 = 0x01;
    pub const HVC64: u8 = 0x16;
    pub const SMC64: u8 = 0x17;
    pub const SYSTEM: u8 = 0x18;
    pub const INSTRUCTION_ABORT_LOWER: u8 = 0x20;
    pub const DATA_ABORT_LOWER: u8 = 0x24;
    pub const BREAKPOINT_LOWER: u8 = 0x30;
    pub const STEP_LOWER: u8 = 0x32;
    pub const WATCHPOINT_LOWER: u8 = 0x34;
    pub const BRK64: u8 = 0x3c;
}

/// Bits `low` to `low + count - 1` of `value`.
const fn bits(value: u64, low: u32, count: u32) -> u64 {
    value >> low & ((1 << count) - 1)
}

impl Exception {
    /// Decodes a syndrome.
    #[must_use]
    pub fn decode(syndrome: u64) -> Self {
        // Six bits fit.
        let class = bits(syndrome, 26, 6) as u8;
        match class {
            // TI: WFI, WFE, WFIT, WFET.
            class::WFX if bits(syndrome, 0, 1) == 0 => Self::WaitForInterrupt,
            class::WFX => Self::WaitForEvent,
            class::HVC64 => Self::Hvc,
            class::SMC64 => Self::Smc,
            class::SYSTEM => Self::SystemRegister(SystemAccess::decode(syndrome)),
            class::DATA_ABORT_LOWER => Self::DataAbort(DataAbort::decode(syndrome)),
            class::INSTRUCTION_ABORT_LOWER => Self::InstructionAbort,
            class::BREAKPOINT_LOWER | class::STEP_LOWER | class::WATCHPOINT_LOWER | class::BRK64 => {
                Self::Debug
            }
            other => Self::Other(other),
        }
    }
}

impl SystemAccess {
    /// ISS of a trapped MSR, MRS or system instruction.
    fn decode(syndrome: u64) -> Self {
        let field = |low, count| bits(syndrome, low, count) as u16;
        Self {
            register: SystemRegister::new(
                field(20, 2),
                field(14, 3),
                field(10, 4),
                field(1, 4),
                field(17, 3),
            ),
            rt: bits(syndrome, 5, 5) as u8,
            is_read: bits(syndrome, 0, 1) != 0,
        }
    }
}

impl DataAbort {
    /// ISS of a data abort.
    fn decode(syndrome: u64) -> Self {
        let flag = |bit| bits(syndrome, bit, 1) != 0;
        Self {
            access: flag(24).then(|| Access {
                size: 1 << bits(syndrome, 22, 2),
                sign_extend: flag(21),
                register: bits(syndrome, 16, 5) as u8,
                is_64_bit: flag(15),
            }),
            is_write: flag(6),
            is_cache_maintenance: flag(8),
            in_table_walk: flag(7),
            // DFSC 0b0001LL: a translation fault at level LL.
            is_translation_fault: bits(syndrome, 2, 4) == 0b0001,
        }
    }
}

impl Access {
    /// What a load that read `value` leaves in its register.
    #[must_use]
    pub fn extend(self, value: u64) -> u64 {
        let unused = 64 - 8 * u32::from(self.size.min(8));
        let zero_extended = value << unused >> unused;
        let extended = if self.sign_extend {
            ((value << unused).cast_signed() >> unused).cast_unsigned()
        } else {
            zero_extended
        };
        if self.is_64_bit { extended } else { extended & 0xffff_ffff }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EC and ISS with IL set, as a 32-bit instruction gives it.
    fn esr(class: u64, iss: u64) -> u64 {
        class << 26 | 1 << 25 | iss
    }

    #[test]
    fn waiting_instructions_are_told_apart_by_ti() {
        for (ti, expected) in [
            (0, Exception::WaitForInterrupt),
            (1, Exception::WaitForEvent),
            (2, Exception::WaitForInterrupt),
            (3, Exception::WaitForEvent),
        ] {
            // CV and COND = 0b1110, as an A64 instruction has them.
            assert_eq!(Exception::decode(esr(0x01, 1 << 24 | 0xe << 20 | ti)), expected);
        }
    }

    #[test]
    fn calls_are_hvc_and_smc_whatever_their_immediate() {
        assert_eq!(Exception::decode(0x5a00_0000), Exception::Hvc);
        assert_eq!(Exception::decode(0x5a00_0001), Exception::Hvc);
        assert_eq!(Exception::decode(0x5e00_0000), Exception::Smc);
    }

    #[test]
    fn a_store_of_a_byte_to_a_uart() {
        // `strb w1, [x0]` to an address without stage 2 mapping: level 1 translation fault.
        let Exception::DataAbort(abort) = Exception::decode(0x9301_0045) else { panic!("no data abort") };
        let access = Access { size: 1, sign_extend: false, register: 1, is_64_bit: false };
        assert_eq!(
            abort,
            DataAbort {
                access: Some(access),
                is_write: true,
                is_cache_maintenance: false,
                in_table_walk: false,
                is_translation_fault: true,
            }
        );
    }

    #[test]
    fn loads_of_each_size_and_extension() {
        for (sas, size) in [(0, 1), (1, 2), (2, 4), (3, 8)] {
            for (sse, sf) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let iss = 1 << 24 | sas << 22 | sse << 21 | 30 << 16 | sf << 15 | 0x07;
                let Exception::DataAbort(abort) = Exception::decode(esr(0x24, iss)) else {
                    panic!("no data abort")
                };
                let access = Access { size, sign_extend: sse != 0, register: 30, is_64_bit: sf != 0 };
                assert_eq!((abort.access, abort.is_write), (Some(access), false));
            }
        }
    }

    #[test]
    fn an_abort_without_a_valid_syndrome_tells_no_access() {
        // `ldp`: ISV is 0.
        let Exception::DataAbort(abort) = Exception::decode(esr(0x24, 0x06)) else { panic!("no data abort") };
        assert_eq!((abort.access, abort.is_translation_fault), (None, true));
        // A table walk that leaves RAM, and a permission fault.
        let walk = DataAbort::decode(1 << 7 | 0x05);
        assert!(walk.in_table_walk);
        assert!(!DataAbort::decode(0x0f).is_translation_fault);
        assert!(!DataAbort::decode(0x10).is_translation_fault);
        // `dc civac` to MMIO: CM and WnR.
        let maintenance = DataAbort::decode(1 << 8 | 1 << 6 | 0x06);
        assert!(maintenance.is_cache_maintenance && maintenance.is_write);
    }

    #[test]
    fn system_registers_are_named_by_their_encoding() {
        // `msr ICC_SGI1R_EL1, x3`: S3_0_C12_C11_5.
        let iss = 3 << 20 | 5 << 17 | 12 << 10 | 3 << 5 | 11 << 1;
        let Exception::SystemRegister(access) = Exception::decode(esr(0x18, iss)) else {
            panic!("no system register")
        };
        assert_eq!(
            access,
            SystemAccess { register: SystemRegister::new(3, 0, 12, 11, 5), rt: 3, is_read: false }
        );
        // `mrs xzr, OSLSR_EL1`: S2_0_C1_C1_4.
        let iss = 2 << 20 | 4 << 17 | 1 << 10 | 31 << 5 | 1 << 1 | 1;
        let Exception::SystemRegister(access) = Exception::decode(esr(0x18, iss)) else {
            panic!("no system register")
        };
        assert_eq!(
            access,
            SystemAccess { register: SystemRegister::new(2, 0, 1, 1, 4), rt: 31, is_read: true }
        );
        // SCTLR_EL1, whose packed encoding is in the framework's header, too.
        assert_eq!(SystemRegister::new(3, 0, 1, 0, 0), SystemRegister(0xc080));
    }

    #[test]
    fn the_rest_is_told_by_its_class() {
        assert_eq!(Exception::decode(esr(0x20, 0x06)), Exception::InstructionAbort);
        for class in [0x30, 0x32, 0x34, 0x3c] {
            assert_eq!(Exception::decode(esr(class, 0)), Exception::Debug);
        }
        assert_eq!(Exception::decode(esr(0x07, 0)), Exception::Other(0x07));
        assert_eq!(Exception::decode(u64::MAX), Exception::Other(0x3f));
    }

    #[test]
    fn a_load_extends_as_its_instruction_says() {
        let access = |size, sign_extend, is_64_bit| Access { size, sign_extend, register: 0, is_64_bit };
        assert_eq!(access(1, false, false).extend(0xff80), 0x80);
        // `ldrsb w0` and `ldrsb x0`.
        assert_eq!(access(1, true, false).extend(0x80), 0xffff_ff80);
        assert_eq!(access(1, true, true).extend(0x80), 0xffff_ffff_ffff_ff80);
        assert_eq!(access(2, true, true).extend(0x7fff), 0x7fff);
        assert_eq!(access(4, true, true).extend(0x8000_0000), 0xffff_ffff_8000_0000);
        assert_eq!(access(8, false, true).extend(u64::MAX), u64::MAX);
    }
}

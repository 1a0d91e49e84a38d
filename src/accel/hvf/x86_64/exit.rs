//! Why a guest left VMX non-root operation: exit reasons and qualifications (Intel SDM vol. 3, appendix C and
//! chapter 28.2).

#![forbid(unsafe_code)]

/// A basic exit reason that the backend answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// An exception, or an NMI of the host's.
    ExceptionOrNmi,
    /// An interrupt of the host's.
    ExternalInterrupt,
    /// Triple fault.
    TripleFault,
    /// The guest can take an interrupt now.
    InterruptWindow,
    /// The guest can take an NMI now.
    NmiWindow,
    /// CPUID.
    Cpuid,
    /// HLT.
    Hlt,
    /// INVD or WBINVD.
    CacheFlush,
    /// RDPMC.
    Rdpmc,
    /// VMCALL, or another instruction of VMX or SMX.
    Vmx,
    /// An access to a control register.
    ControlRegister,
    /// IN, OUT, INS or OUTS.
    Io,
    /// RDMSR.
    Rdmsr,
    /// WRMSR.
    Wrmsr,
    /// The guest's state cannot be entered.
    EntryFailure,
    /// MWAIT or MONITOR.
    Mwait,
    /// PAUSE.
    Pause,
    /// A guest-physical address that is not mapped.
    EptViolation,
    /// The preemption timer.
    PreemptionTimer,
    /// XSETBV.
    Xsetbv,
    /// Anything else, by its number.
    Other(u16),
}

impl Reason {
    /// The reason in the VMCS field of that name.
    #[must_use]
    pub fn decode(field: u64) -> Self {
        // Bits 0 to 15; bit 31 says that the entry failed.
        match field as u16 {
            0 => Self::ExceptionOrNmi,
            1 => Self::ExternalInterrupt,
            2 => Self::TripleFault,
            7 => Self::InterruptWindow,
            8 => Self::NmiWindow,
            10 => Self::Cpuid,
            12 => Self::Hlt,
            13 | 54 => Self::CacheFlush,
            15 => Self::Rdpmc,
            11 | 18..=27 | 50 | 53 | 59 => Self::Vmx,
            28 => Self::ControlRegister,
            30 => Self::Io,
            31 => Self::Rdmsr,
            32 => Self::Wrmsr,
            33 | 34 | 41 => Self::EntryFailure,
            36 | 39 => Self::Mwait,
            40 => Self::Pause,
            48 => Self::EptViolation,
            52 => Self::PreemptionTimer,
            55 => Self::Xsetbv,
            other => Self::Other(other),
        }
    }
}

/// An access to a port (table 28-5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoAccess {
    /// Bytes: 1, 2 or 4.
    pub size: u8,
    /// IN, as opposed to OUT.
    pub is_input: bool,
    /// INS or OUTS.
    pub is_string: bool,
    /// With a REP prefix.
    pub is_repeated: bool,
    /// The port.
    pub port: u16,
}

impl IoAccess {
    /// Decodes a qualification.
    #[must_use]
    pub fn decode(qualification: u64) -> Self {
        Self {
            size: (qualification & 7) as u8 + 1,
            is_input: qualification & 1 << 3 != 0,
            is_string: qualification & 1 << 4 != 0,
            is_repeated: qualification & 1 << 5 != 0,
            port: (qualification >> 16) as u16,
        }
    }
}

/// An access to a control register (table 28-3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrAccess {
    /// MOV to control register `cr` from general register `gpr`, in the order of the instruction encoding.
    Write {
        /// 0, 3, 4 or 8.
        cr: u8,
        /// 0 is RAX, 4 is RSP, 15 is R15.
        gpr: u8,
    },
    /// MOV from control register `cr`.
    Read {
        /// 3 or 8.
        cr: u8,
        /// As above.
        gpr: u8,
    },
    /// CLTS.
    Clts,
    /// LMSW with this source.
    Lmsw(u16),
}

impl CrAccess {
    /// Decodes a qualification.
    #[must_use]
    pub fn decode(qualification: u64) -> Self {
        let cr = (qualification & 15) as u8;
        let gpr = (qualification >> 8 & 15) as u8;
        match qualification >> 4 & 3 {
            0 => Self::Write { cr, gpr },
            1 => Self::Read { cr, gpr },
            2 => Self::Clts,
            _ => Self::Lmsw((qualification >> 16) as u16),
        }
    }
}

/// An access to a guest-physical address that is not mapped (table 28-7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EptViolation {
    /// A load.
    pub is_read: bool,
    /// A store.
    pub is_write: bool,
    /// A fetch.
    pub is_fetch: bool,
    /// The access itself, as opposed to the walk of the guest's page tables that it needed.
    pub is_final: bool,
}

impl EptViolation {
    /// Decodes a qualification.
    #[must_use]
    pub fn decode(qualification: u64) -> Self {
        let flag = |bit: u32| qualification >> bit & 1 != 0;
        // Bit 8 means something only if bit 7 says that there is a linear address.
        Self { is_read: flag(0), is_write: flag(1), is_fetch: flag(2), is_final: !flag(7) || flag(8) }
    }
}

/// An event that is delivered to the guest, as the VM-entry and IDT-vectoring fields have it (tables 25-17
/// and 25-18).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Vector, type and whether there is an error code; valid.
    pub information: u64,
    /// The error code.
    pub error: u64,
    /// Length of the instruction that raised it.
    pub length: u64,
}

/// The event is valid.
const EVENT_VALID: u64 = 1 << 31;
/// It has an error code.
const EVENT_ERROR: u64 = 1 << 11;
/// Vector, type and error flag.
const EVENT_FIELDS: u64 = 0xfff;
/// Type: NMI, and hardware exception. 0 is an external interrupt.
const EVENT_NMI: u64 = 2 << 8;
const EVENT_EXCEPTION: u64 = 3 << 8;

impl Event {
    /// An external interrupt.
    #[must_use]
    pub fn interrupt(vector: u8) -> Self {
        Self { information: EVENT_VALID | u64::from(vector), error: 0, length: 0 }
    }

    /// An NMI.
    #[must_use]
    pub fn nmi() -> Self {
        Self { information: EVENT_VALID | EVENT_NMI | 2, error: 0, length: 0 }
    }

    /// #UD.
    #[must_use]
    pub fn undefined() -> Self {
        Self { information: EVENT_VALID | EVENT_EXCEPTION | 6, error: 0, length: 0 }
    }

    /// #GP(0).
    #[must_use]
    pub fn general_protection() -> Self {
        Self { information: EVENT_VALID | EVENT_EXCEPTION | EVENT_ERROR | 13, error: 0, length: 0 }
    }

    /// The event whose delivery an exit interrupted, if it did.
    #[must_use]
    pub fn interrupted(vectoring: u64, error: u64, length: u64) -> Option<Self> {
        if vectoring & EVENT_VALID == 0 {
            return None;
        }
        let information = vectoring & (EVENT_VALID | EVENT_FIELDS);
        Some(Self { information, error: if information & EVENT_ERROR != 0 { error } else { 0 }, length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_those_of_appendix_c() {
        for (number, reason) in [
            (0, Reason::ExceptionOrNmi),
            (1, Reason::ExternalInterrupt),
            (2, Reason::TripleFault),
            (7, Reason::InterruptWindow),
            (10, Reason::Cpuid),
            (12, Reason::Hlt),
            (13, Reason::CacheFlush),
            (18, Reason::Vmx),
            (28, Reason::ControlRegister),
            (30, Reason::Io),
            (31, Reason::Rdmsr),
            (32, Reason::Wrmsr),
            (33, Reason::EntryFailure),
            (36, Reason::Mwait),
            (40, Reason::Pause),
            (48, Reason::EptViolation),
            (54, Reason::CacheFlush),
            (55, Reason::Xsetbv),
            (9, Reason::Other(9)),
        ] {
            assert_eq!(Reason::decode(number), reason);
        }
        // A failed entry has bit 31.
        assert_eq!(Reason::decode(0x8000_0021), Reason::EntryFailure);
    }

    #[test]
    fn port_accesses() {
        // `out 0x3f8, al` by DX; `in eax, 0xcfc` by DX; `rep insb` from 0x1f0.
        let expected =
            IoAccess { size: 1, is_input: false, is_string: false, is_repeated: false, port: 0x3f8 };
        assert_eq!(IoAccess::decode(0x03f8_0000), expected);
        let expected =
            IoAccess { size: 4, is_input: true, is_string: false, is_repeated: false, port: 0xcfc };
        assert_eq!(IoAccess::decode(0x0cfc_000b), expected);
        let expected = IoAccess { size: 1, is_input: true, is_string: true, is_repeated: true, port: 0x1f0 };
        assert_eq!(IoAccess::decode(0x01f0_0038), expected);
        // `out 0x80, ax`: an immediate port has bit 6.
        assert_eq!(IoAccess::decode(0x0080_0041).size, 2);
    }

    #[test]
    fn control_register_accesses() {
        assert_eq!(CrAccess::decode(0x000), CrAccess::Write { cr: 0, gpr: 0 });
        assert_eq!(CrAccess::decode(0x204), CrAccess::Write { cr: 4, gpr: 2 });
        assert_eq!(CrAccess::decode(0xf18), CrAccess::Read { cr: 8, gpr: 15 });
        assert_eq!(CrAccess::decode(0x20), CrAccess::Clts);
        assert_eq!(CrAccess::decode(0x0001_0030), CrAccess::Lmsw(1));
    }

    #[test]
    fn unmapped_accesses() {
        let expected = EptViolation { is_read: false, is_write: true, is_fetch: false, is_final: true };
        assert_eq!(EptViolation::decode(0x182), expected);
        // The walk of the guest's page tables.
        assert!(!EptViolation::decode(0x081).is_final);
        assert!(EptViolation::decode(0x184).is_fetch);
    }

    #[test]
    fn events_are_encoded_as_for_an_entry() {
        assert_eq!(Event::interrupt(0x30).information, 0x8000_0030);
        assert_eq!(Event::nmi().information, 0x8000_0202);
        assert_eq!(Event::undefined().information, 0x8000_0306);
        assert_eq!(Event::general_protection().information, 0x8000_0b0d);
        assert_eq!(Event::interrupted(0x30, 0, 0), None);
        // A page fault that was being delivered; bit 12 is undefined there, and reserved for an entry.
        let event = Event::interrupted(0x8000_1b0e, 2, 0).unwrap();
        assert_eq!((event.information, event.error), (0x8000_0b0e, 2));
        // `int 0x80`, two bytes long.
        let event = Event::interrupted(0x8000_0480, 9, 2).unwrap();
        assert_eq!((event.information, event.error, event.length), (0x8000_0480, 0, 2));
    }
}

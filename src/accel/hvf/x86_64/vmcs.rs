//! Fields of the VMCS (Intel SDM vol. 3, appendix B), as far as they are used.

#![forbid(unsafe_code)]

/// A field.
pub type Field = u32;

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident = $value:expr;)+) => {
        $($(#[$doc])* pub const $name: Field = $value;)+

        /// The fields by name.
        #[cfg(test)]
        pub const ALL: &[(&str, Field)] = &[$((stringify!($name), $name)),+];
    };
}

fields! {
    /// The first of the segment selectors: ES, CS, SS, DS, FS, GS, LDTR, TR.
    GUEST_ES_SELECTOR = 0x0800;
    /// PAT.
    GUEST_IA32_PAT = 0x2804;
    /// EFER.
    GUEST_IA32_EFER = 0x2806;
    /// The first of the four page directory pointers.
    GUEST_PDPTE0 = 0x280a;
    /// The address that is not mapped.
    GUEST_PHYSICAL_ADDRESS = 0x2400;
    /// Pin-based controls.
    CTRL_PIN_BASED = 0x4000;
    /// Primary processor-based controls.
    CTRL_CPU_BASED = 0x4002;
    /// Exceptions that exit.
    CTRL_EXCEPTION_BITMAP = 0x4004;
    /// VM-exit controls.
    CTRL_EXIT = 0x400c;
    /// VM-entry controls.
    CTRL_ENTRY = 0x4012;
    /// The event that the entry delivers.
    ENTRY_EVENT = 0x4016;
    /// Its error code.
    ENTRY_ERROR = 0x4018;
    /// Length of the instruction that raised it.
    ENTRY_LENGTH = 0x401a;
    /// Secondary processor-based controls.
    CTRL_CPU_BASED2 = 0x401e;
    /// Exit reason.
    EXIT_REASON = 0x4402;
    /// The event that the exit interrupted.
    IDT_VECTORING = 0x4408;
    /// Its error code.
    IDT_VECTORING_ERROR = 0x440a;
    /// Length of the instruction that exited.
    EXIT_LENGTH = 0x440c;
    /// The first of the segment limits.
    GUEST_ES_LIMIT = 0x4800;
    /// GDTR limit.
    GUEST_GDTR_LIMIT = 0x4810;
    /// IDTR limit.
    GUEST_IDTR_LIMIT = 0x4812;
    /// The first of the segments' access rights.
    GUEST_ES_RIGHTS = 0x4814;
    /// What blocks interrupts.
    GUEST_INTERRUPTIBILITY = 0x4824;
    /// Running, halted, waiting.
    GUEST_ACTIVITY = 0x4826;
    /// SYSENTER's code segment.
    GUEST_SYSENTER_CS = 0x482a;
    /// Bits of CR0 that the guest does not own.
    CTRL_CR0_MASK = 0x6000;
    /// Bits of CR4 that the guest does not own.
    CTRL_CR4_MASK = 0x6002;
    /// What the guest reads of them in CR0.
    CTRL_CR0_SHADOW = 0x6004;
    /// What the guest reads of them in CR4.
    CTRL_CR4_SHADOW = 0x6006;
    /// Exit qualification.
    EXIT_QUALIFICATION = 0x6400;
    /// CR0.
    GUEST_CR0 = 0x6800;
    /// CR3.
    GUEST_CR3 = 0x6802;
    /// CR4.
    GUEST_CR4 = 0x6804;
    /// The first of the segment bases.
    GUEST_ES_BASE = 0x6806;
    /// GDTR base.
    GUEST_GDTR_BASE = 0x6816;
    /// IDTR base.
    GUEST_IDTR_BASE = 0x6818;
    /// SYSENTER's stack.
    GUEST_SYSENTER_ESP = 0x6824;
    /// SYSENTER's entry.
    GUEST_SYSENTER_EIP = 0x6826;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Table B: width in bits 13 and 14, type in bits 10 and 11, index in bits 1 to 9.
    #[test]
    fn encodings_have_the_width_and_type_of_their_fields() {
        for (name, field) in ALL {
            let (width, kind) = (field >> 13 & 3, field >> 10 & 3);
            let expected_kind = match *name {
                name if name.starts_with("CTRL") || name.starts_with("ENTRY") => 0,
                "GUEST_PHYSICAL_ADDRESS" => 1,
                name if name.starts_with("EXIT") || name.starts_with("IDT") => 1,
                _ => 2,
            };
            assert_eq!(kind, expected_kind, "{name}");
            let natural = name.contains("CR") || name.ends_with("BASE") || name.contains("SYSENTER_E");
            let expected_width = match *name {
                "GUEST_ES_SELECTOR" => 0,
                "GUEST_IA32_PAT" | "GUEST_IA32_EFER" | "GUEST_PDPTE0" | "GUEST_PHYSICAL_ADDRESS" => 1,
                "EXIT_QUALIFICATION" => 3,
                _ if natural => 3,
                _ => 2,
            };
            assert_eq!(width, expected_width, "{name}");
        }
    }
}

//! Segment and gate descriptors as memory holds them (Intel SDM vol. 3, 3.4.5 and 6.11).

#![forbid(unsafe_code)]

use crate::accel::Segment;

/// Types of system descriptors (Intel SDM vol. 3, table 3-2).
#[allow(missing_docs, reason = "the names are the SDM's")]
pub mod system {
    pub const TSS16: u8 = 1;
    pub const LDT: u8 = 2;
    pub const TSS16_BUSY: u8 = 3;
    pub const CALL_GATE16: u8 = 4;
    pub const TASK_GATE: u8 = 5;
    pub const INTERRUPT_GATE16: u8 = 6;
    pub const TRAP_GATE16: u8 = 7;
    /// 32 bits wide, or 64 in IA-32e mode; so are the next ones.
    pub const TSS: u8 = 9;
    pub const TSS_BUSY: u8 = 11;
    pub const CALL_GATE: u8 = 12;
    pub const INTERRUPT_GATE: u8 = 14;
    pub const TRAP_GATE: u8 = 15;
}

/// Bits of a code or data descriptor's type.
#[allow(missing_docs, reason = "the names are the SDM's")]
pub mod type_bit {
    pub const ACCESSED: u8 = 1;
    /// Writable (data) or readable (code).
    pub const WRITABLE: u8 = 2;
    pub const READABLE: u8 = 2;
    /// Expand-down (data) or conforming (code).
    pub const EXPAND_DOWN: u8 = 4;
    pub const CONFORMING: u8 = 4;
    pub const CODE: u8 = 8;
}

/// The eight bytes of a descriptor, or the low eight of one of sixteen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Descriptor(pub u64);

impl Descriptor {
    /// Type, 4 bits.
    #[must_use]
    pub fn type_(self) -> u8 {
        (self.0 >> 40) as u8 & 0xf
    }

    /// Code or data, as opposed to system.
    #[must_use]
    pub fn is_segment(self) -> bool {
        self.0 >> 44 & 1 != 0
    }

    /// A code segment.
    #[must_use]
    pub fn is_code(self) -> bool {
        self.is_segment() && self.type_() & type_bit::CODE != 0
    }

    /// A data segment.
    #[must_use]
    pub fn is_data(self) -> bool {
        self.is_segment() && self.type_() & type_bit::CODE == 0
    }

    /// A conforming code segment.
    #[must_use]
    pub fn is_conforming(self) -> bool {
        self.is_code() && self.type_() & type_bit::CONFORMING != 0
    }

    /// A code segment that may be read.
    #[must_use]
    pub fn is_readable_code(self) -> bool {
        self.is_code() && self.type_() & type_bit::READABLE != 0
    }

    /// A data segment that may be written.
    #[must_use]
    pub fn is_writable_data(self) -> bool {
        self.is_data() && self.type_() & type_bit::WRITABLE != 0
    }

    /// Descriptor privilege level.
    #[must_use]
    pub fn dpl(self) -> u8 {
        (self.0 >> 45) as u8 & 3
    }

    /// Present.
    #[must_use]
    pub fn present(self) -> bool {
        self.0 >> 47 & 1 != 0
    }

    /// The L flag: 64-bit code.
    #[must_use]
    pub fn long(self) -> bool {
        self.0 >> 53 & 1 != 0
    }

    /// The D/B flag.
    #[must_use]
    pub fn default_big(self) -> bool {
        self.0 >> 54 & 1 != 0
    }

    /// The low 32 bits of the base.
    #[must_use]
    pub fn base(self) -> u32 {
        ((self.0 >> 16) as u32 & 0xff_ffff) | (self.0 >> 32) as u32 & 0xff00_0000
    }

    /// The limit in bytes.
    #[must_use]
    pub fn limit(self) -> u32 {
        let raw = (self.0 as u32 & 0xffff) | (self.0 >> 32) as u32 & 0xf_0000;
        if self.0 >> 55 & 1 != 0 { raw << 12 | 0xfff } else { raw }
    }

    /// The segment register that holds this descriptor under `selector`.
    #[must_use]
    pub fn segment(self, selector: u16) -> Segment {
        Segment {
            base: u64::from(self.base()),
            limit: self.limit(),
            selector,
            type_: self.type_(),
            dpl: self.dpl(),
            present: self.present(),
            db: self.default_big(),
            s: self.is_segment(),
            l: self.long(),
            g: self.0 >> 55 & 1 != 0,
            avl: self.0 >> 52 & 1 != 0,
            unusable: false,
        }
    }

    /// A gate's selector.
    #[must_use]
    pub fn gate_selector(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// A gate's offset: 16 bits for the 16-bit types, else the low 32.
    #[must_use]
    pub fn gate_offset(self) -> u32 {
        let low = self.0 as u32 & 0xffff;
        if self.type_() & 8 == 0 { low } else { low | (self.0 >> 32) as u32 & 0xffff_0000 }
    }

    /// A call gate's number of parameters.
    #[must_use]
    pub fn gate_parameters(self) -> u8 {
        (self.0 >> 32) as u8 & 0x1f
    }

    /// A 64-bit interrupt or trap gate's index in the interrupt stack table; 0 for none.
    #[must_use]
    pub fn gate_ist(self) -> u8 {
        (self.0 >> 32) as u8 & 7
    }
}

/// Whether a selector is null: its index and table are zero.
#[must_use]
pub fn is_null(selector: u16) -> bool {
    selector & !3 == 0
}

/// A selector's requested privilege level.
#[must_use]
pub fn rpl(selector: u16) -> u8 {
    selector as u8 & 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_segments() {
        let code = Descriptor(0x00af_9b00_0000_ffff);
        assert!(code.is_code() && code.is_readable_code() && !code.is_conforming());
        assert!(code.long() && !code.default_big() && code.present());
        assert_eq!((code.base(), code.limit(), code.dpl()), (0, 0xffff_ffff, 0));
        let data = Descriptor(0x00cf_f300_0000_ffff).segment(0x2b);
        assert_eq!((data.type_, data.dpl, data.selector), (3, 3, 0x2b));
        assert!(data.s && data.db && data.g && data.present && !data.unusable);
    }

    #[test]
    fn scattered_base_and_byte_limit() {
        let tss = Descriptor(0x1200_8934_5678_0067);
        assert_eq!((tss.base(), tss.limit(), tss.type_()), (0x1234_5678, 0x67, system::TSS));
        assert!(!tss.is_segment());
    }

    #[test]
    fn gates() {
        let gate = Descriptor(0x1234_8e05_0008_5678);
        assert_eq!(gate.type_(), system::INTERRUPT_GATE);
        assert_eq!(gate.gate_offset(), 0x1234_5678);
        assert_eq!(gate.gate_selector(), 8);
        assert_eq!(gate.gate_ist(), 5);
        let gate16 = Descriptor(0x1234_861f_0008_5678);
        assert_eq!(gate16.gate_offset(), 0x5678);
        assert_eq!(gate16.gate_parameters(), 0x1f);
    }

    #[test]
    fn null_selectors() {
        for selector in 0..4 {
            assert!(is_null(selector));
            assert_eq!(rpl(selector), selector as u8);
        }
        assert!(!is_null(4));
    }
}

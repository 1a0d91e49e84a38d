//! RFLAGS, its arithmetic flags computed on demand.

#![forbid(unsafe_code)]

use super::integer::Int;
use super::state::Cpu;

/// The bits of RFLAGS.
#[allow(missing_docs, reason = "the SDM's mnemonics are the documentation")]
pub mod rflags {
    pub const CF: u64 = 1;
    pub const RESERVED_ONE: u64 = 2;
    pub const PF: u64 = 1 << 2;
    pub const AF: u64 = 1 << 4;
    pub const ZF: u64 = 1 << 6;
    pub const SF: u64 = 1 << 7;
    pub const TF: u64 = 1 << 8;
    pub const IF: u64 = 1 << 9;
    pub const DF: u64 = 1 << 10;
    pub const OF: u64 = 1 << 11;
    pub const IOPL: u64 = 3 << 12;
    pub const NT: u64 = 1 << 14;
    pub const RF: u64 = 1 << 16;
    pub const VM: u64 = 1 << 17;
    pub const AC: u64 = 1 << 18;
    pub const VIF: u64 = 1 << 19;
    pub const VIP: u64 = 1 << 20;
    pub const ID: u64 = 1 << 21;
    /// The six arithmetic flags.
    pub const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;
    /// Every flag that exists.
    pub const ALL: u64 = ARITHMETIC | TF | IF | DF | IOPL | NT | RF | VM | AC | VIF | VIP | ID;
}
use rflags::{AF, ARITHMETIC, CF, OF, PF, RESERVED_ONE, SF, ZF};

/// What made the flags; in `Lazy::kind` it is shifted left by 2 and joined by the operand's log2 size.
pub mod kind {
    /// `src` holds the flags themselves.
    pub const EAGER: u32 = 0;
    /// `result = a + src`.
    pub const ADD: u32 = 1;
    /// `result = a + src + 1`.
    pub const ADC: u32 = 2;
    /// `result = a - src`.
    pub const SUB: u32 = 3;
    /// `result = a - src - 1`.
    pub const SBB: u32 = 4;
    /// A bitwise operation: CF and OF clear.
    pub const LOGIC: u32 = 5;
    /// INC; `src` is the carry flag, which it keeps.
    pub const INC: u32 = 6;
    /// DEC; `src` is the carry flag, which it keeps.
    pub const DEC: u32 = 7;
    /// A shift or product: `src` holds CF and OF at their places; AF is clear.
    pub const SHIFT: u32 = 8;
    /// As `SHIFT`, and `src` holds AF as well: a rotate or bit test, which keep what `result` tells.
    pub const KEPT: u32 = 9;
}

/// The last flag-setting operation. Values are zero-extended from the operand size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Lazy {
    /// Its result.
    pub result: u64,
    /// Its second operand.
    pub src: u64,
    /// `kind << 2 | log2 of the operand size in bytes`.
    pub kind: u32,
}

impl Lazy {
    fn bits(self) -> u32 {
        8 << (self.kind & 3)
    }

    fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }

    fn first(self) -> u64 {
        let a = match self.kind >> 2 {
            kind::ADD => self.result.wrapping_sub(self.src),
            kind::ADC => self.result.wrapping_sub(self.src).wrapping_sub(1),
            kind::SUB => self.result.wrapping_add(self.src),
            _ => self.result.wrapping_add(self.src).wrapping_add(1),
        };
        a & self.mask()
    }

    /// CF.
    #[inline]
    #[must_use]
    pub fn carry(self) -> bool {
        match self.kind >> 2 {
            kind::EAGER | kind::INC | kind::DEC | kind::SHIFT | kind::KEPT => self.src & CF != 0,
            kind::ADD => self.result < self.src,
            kind::ADC => self.result <= self.src,
            kind::SUB => self.first() < self.src,
            kind::SBB => self.first() <= self.src,
            _ => false,
        }
    }

    /// ZF.
    #[inline(always)]
    #[must_use]
    pub fn zero(self) -> bool {
        if self.kind >> 2 == kind::EAGER { self.src & ZF != 0 } else { self.result == 0 }
    }

    /// SF.
    #[inline(always)]
    #[must_use]
    pub fn sign(self) -> bool {
        if self.kind >> 2 == kind::EAGER {
            self.src & SF != 0
        } else {
            self.result >> (self.bits() - 1) & 1 != 0
        }
    }

    /// PF.
    #[inline]
    #[must_use]
    pub fn parity(self) -> bool {
        if self.kind >> 2 == kind::EAGER {
            self.src & PF != 0
        } else {
            (self.result as u8).count_ones() & 1 == 0
        }
    }

    /// OF.
    #[inline]
    #[must_use]
    pub fn overflow(self) -> bool {
        let top = self.bits() - 1;
        match self.kind >> 2 {
            kind::EAGER | kind::SHIFT | kind::KEPT => self.src & OF != 0,
            kind::ADD | kind::ADC => (self.first() ^ self.result) & (self.src ^ self.result) & 1 << top != 0,
            kind::SUB | kind::SBB => {
                let a = self.first();
                (a ^ self.src) & (a ^ self.result) & 1 << top != 0
            }
            kind::INC => self.result == 1 << top,
            kind::DEC => self.result == (1 << top) - 1,
            _ => false,
        }
    }

    /// AF.
    #[inline]
    #[must_use]
    pub fn adjust(self) -> bool {
        match self.kind >> 2 {
            kind::EAGER | kind::KEPT => self.src & AF != 0,
            kind::LOGIC | kind::SHIFT => false,
            kind::INC => self.result & 15 == 0,
            kind::DEC => self.result & 15 == 15,
            _ => (self.first() ^ self.src ^ self.result) & 16 != 0,
        }
    }

    /// The six arithmetic flags at their places in RFLAGS.
    #[must_use]
    pub fn arithmetic(self) -> u64 {
        if self.kind >> 2 == kind::EAGER {
            return self.src & ARITHMETIC;
        }
        let mut flags = 0;
        for (set, bit) in [
            (self.carry(), CF),
            (self.parity(), PF),
            (self.adjust(), AF),
            (self.zero(), ZF),
            (self.sign(), SF),
            (self.overflow(), OF),
        ] {
            if set {
                flags |= bit;
            }
        }
        flags
    }

    /// Whether condition `code` (0 to 15, as in the opcodes of Jcc) holds.
    #[inline(always)]
    #[must_use]
    pub fn condition(self, code: u8) -> bool {
        let holds = match code >> 1 & 7 {
            0 => self.overflow(),
            1 => self.carry(),
            2 => self.zero(),
            3 => self.carry() || self.zero(),
            4 => self.sign(),
            5 => self.parity(),
            6 => self.sign() != self.overflow(),
            _ => self.zero() || self.sign() != self.overflow(),
        };
        holds != (code & 1 != 0)
    }
}

/// ZF, SF and PF of a result.
#[inline]
#[must_use]
pub fn result_flags<T: Int>(result: T) -> u64 {
    let value = result.to_u64();
    let mut flags = 0;
    if value == 0 {
        flags |= ZF;
    }
    if value >> (T::BITS - 1) & 1 != 0 {
        flags |= SF;
    }
    if (value as u8).count_ones() & 1 == 0 {
        flags |= PF;
    }
    flags
}

impl Cpu {
    /// RFLAGS.
    #[must_use]
    pub fn rflags(&self) -> u64 {
        self.rflags_rest & !ARITHMETIC | self.lazy.arithmetic() | RESERVED_ONE
    }

    /// Sets the whole of RFLAGS; bits that do not exist stay clear.
    pub fn set_rflags(&mut self, value: u64) {
        self.lazy = Lazy { result: 0, src: value & ARITHMETIC, kind: kind::EAGER };
        self.rflags_rest = value & rflags::ALL & !ARITHMETIC | RESERVED_ONE;
        self.update_tlb_set();
    }

    /// Sets all six arithmetic flags.
    #[inline]
    pub fn set_arithmetic(&mut self, flags: u64) {
        self.lazy = Lazy { result: 0, src: flags, kind: kind::EAGER };
    }

    /// Notes a shift's or product's result, CF and OF.
    #[inline(always)]
    pub(crate) fn set_shifted<T: Int>(&mut self, result: T, carry: bool, overflow: bool) {
        self.lazy.result = result.to_u64();
        self.lazy.src = u64::from(carry) | u64::from(overflow) << 11;
        self.lazy.kind = kind::SHIFT << 2 | T::LOG2;
    }

    /// Sets CF and OF (at their places in `flags`) and keeps the others.
    #[inline(always)]
    pub(crate) fn set_carry_and_overflow(&mut self, flags: u64) {
        if self.lazy.kind >> 2 == kind::EAGER {
            self.lazy.src = self.lazy.src & !(CF | OF) | flags;
        } else {
            let adjust = if self.lazy.adjust() { AF } else { 0 };
            self.lazy.src = flags | adjust;
            self.lazy.kind = kind::KEPT << 2 | self.lazy.kind & 3;
        }
    }

    /// Sets CF and keeps the others.
    #[inline(always)]
    pub(crate) fn set_carry(&mut self, carry: bool) {
        let overflow = if self.lazy.overflow() { OF } else { 0 };
        self.set_carry_and_overflow(u64::from(carry) | overflow);
    }

    /// Notes what the arithmetic flags are to be computed from.
    #[inline(always)]
    pub(crate) fn set_lazy<T: Int>(&mut self, kind: u32, result: T, src: T) {
        self.lazy.result = result.to_u64();
        self.lazy.src = src.to_u64();
        self.lazy.kind = kind << 2 | T::LOG2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same flags, computed.
    fn eager(lazy: Lazy) -> Lazy {
        Lazy { result: 0, src: lazy.arithmetic(), kind: kind::EAGER }
    }

    #[test]
    fn conditions_after_a_comparison_are_those_of_its_flags() {
        for a in 0..=u8::MAX {
            for b in 0..=u8::MAX {
                let result = a.wrapping_sub(b).into();
                let lazy = Lazy { result, src: b.into(), kind: kind::SUB << 2 };
                for code in 0..16 {
                    assert_eq!(lazy.condition(code), eager(lazy).condition(code), "{a} {b} {code}");
                }
            }
        }
    }

    #[test]
    fn wide_comparisons_are_signed_and_unsigned() {
        for (a, b) in [(0, u64::MAX), (1 << 63, 1), (u64::MAX, 1 << 63), (5, 5)] {
            let lazy = Lazy { result: a.wrapping_sub(b), src: b, kind: kind::SUB << 2 | 3 };
            assert_eq!(lazy.condition(2), a < b);
            assert_eq!(lazy.condition(6), a <= b);
            assert_eq!(lazy.condition(12), (a as i64) < b as i64);
            assert_eq!(lazy.condition(14), a as i64 <= b as i64);
        }
    }

    #[test]
    fn kept_flags_are_told_by_result_and_source() {
        let lazy = Lazy { result: 0x80, src: CF | OF | AF, kind: kind::KEPT << 2 };
        assert_eq!(lazy.arithmetic(), CF | OF | AF | SF);
        let lazy = Lazy { result: 0, src: 0, kind: kind::KEPT << 2 | 3 };
        assert_eq!(lazy.arithmetic(), ZF | PF);
    }
}

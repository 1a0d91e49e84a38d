//! The x87 floating-point unit, 80 bits wide.
//!
//! `execute` holds the instructions, `environment` the images of FNSTENV and FNSAVE, `compare`, `convert` and
//! `softfloat` the arithmetic, which is integer arithmetic: right to the bit and the same on every host.
//! Transcendental functions come from `unit`: the host's own x87 where there is one (`host`), else the
//! portable twin (`transcendental`). Where the manuals leave a choice, AMD's processors are followed, except
//! that C1 is cleared where Intel's manual says so.

mod compare;
mod convert;
mod environment;
mod execute;
#[cfg(target_arch = "x86_64")]
mod host;
#[cfg(all(test, target_arch = "x86_64"))]
mod host_arithmetic;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod native_tests;
#[cfg(all(test, target_arch = "x86_64"))]
mod samples;
pub mod softfloat;
pub mod transcendental;
#[cfg(all(test, target_arch = "x86_64"))]
mod twin_tests;
mod unit;
mod wide;

pub use execute::{Effects, Fault, Inputs, MemoryOperand, is_waiting, memory_operand};

/// A register of the x87 stack: the 80-bit double-extended format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct F80 {
    /// The significand, integer bit included.
    pub mantissa: u64,
    /// Sign (bit 15) and biased exponent.
    pub sign_exponent: u16,
}

/// The state of the x87 unit; MMX registers are the mantissas of `regs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X87 {
    /// The physical registers R0 to R7 (not in stack order).
    pub regs: [F80; 8],
    /// Control word.
    pub control: u16,
    /// Status word; TOP lives in its bits 11 to 13.
    pub status: u16,
    /// Abridged tag word, by physical register: a bit is set for a register in use.
    pub tag: u8,
    /// Last opcode (11 bits).
    pub opcode: u16,
    /// Last instruction pointer and its selector.
    pub ip: u64,
    /// Selector of `ip`.
    pub cs: u16,
    /// Last data pointer.
    pub dp: u64,
    /// Selector of `dp`.
    pub ds: u16,
}

impl Default for X87 {
    /// The state after FNINIT.
    fn default() -> Self {
        Self {
            regs: [F80::default(); 8],
            control: 0x37f,
            status: 0,
            tag: 0,
            opcode: 0,
            ip: 0,
            cs: 0,
            dp: 0,
            ds: 0,
        }
    }
}

/// Bits of the status word; the low six are the control word's masks too (SDM vol. 1, 8.1.3).
#[allow(missing_docs, reason = "the SDM's mnemonics are the documentation")]
pub mod status {
    pub const IE: u16 = 1 << 0;
    pub const DE: u16 = 1 << 1;
    pub const ZE: u16 = 1 << 2;
    pub const OE: u16 = 1 << 3;
    pub const UE: u16 = 1 << 4;
    pub const PE: u16 = 1 << 5;
    pub const SF: u16 = 1 << 6;
    pub const ES: u16 = 1 << 7;
    pub const C0: u16 = 1 << 8;
    pub const C1: u16 = 1 << 9;
    pub const C2: u16 = 1 << 10;
    pub const C3: u16 = 1 << 14;
    pub const B: u16 = 1 << 15;
    /// The six exceptions.
    pub const EXCEPTIONS: u16 = 0x3f;
    /// The exceptions found before a result exists: unmasked, they leave the destination as it was.
    pub const BEFORE_RESULT: u16 = IE | DE | ZE;
}

/// The mask of each exception set: nothing traps.
pub const ALL_MASKED: u16 = status::EXCEPTIONS;

const EXPONENT: u16 = 0x7fff;
const INTEGER_BIT: u64 = 1 << 63;
const QUIET_BIT: u64 = 1 << 62;

impl F80 {
    /// +0.
    pub const ZERO: Self = Self::new(0, 0);
    /// +1.
    pub const ONE: Self = Self::new(0x3fff, INTEGER_BIT);
    /// "Real indefinite": the NaN that a masked invalid operation gives.
    pub const INDEFINITE: Self = Self::new(0xffff, INTEGER_BIT | QUIET_BIT);

    /// A register of this sign, exponent and significand.
    #[must_use]
    pub const fn new(sign_exponent: u16, mantissa: u64) -> Self {
        Self { mantissa, sign_exponent }
    }

    /// Infinity.
    #[must_use]
    pub const fn infinity(negative: bool) -> Self {
        Self::new(EXPONENT | (negative as u16) << 15, INTEGER_BIT)
    }

    /// Zero.
    #[must_use]
    pub const fn zero(negative: bool) -> Self {
        Self::new((negative as u16) << 15, 0)
    }

    /// The ten bytes as they lie in memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&self.mantissa.to_le_bytes());
        bytes[8..].copy_from_slice(&self.sign_exponent.to_le_bytes());
        bytes
    }

    /// The register whose bytes these are.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 10]) -> Self {
        let [m0, m1, m2, m3, m4, m5, m6, m7, e0, e1] = bytes;
        Self::new(u16::from_le_bytes([e0, e1]), u64::from_le_bytes([m0, m1, m2, m3, m4, m5, m6, m7]))
    }

    /// The sign bit.
    #[must_use]
    pub const fn is_negative(self) -> bool {
        self.sign_exponent >> 15 != 0
    }

    /// The biased exponent.
    #[must_use]
    pub const fn exponent(self) -> u16 {
        self.sign_exponent & EXPONENT
    }

    /// +0 or -0.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.exponent() == 0 && self.mantissa == 0
    }

    /// Denormal or pseudo-denormal.
    #[must_use]
    pub const fn is_denormal(self) -> bool {
        self.exponent() == 0 && self.mantissa != 0
    }

    /// +infinity or -infinity.
    #[must_use]
    pub const fn is_infinite(self) -> bool {
        self.exponent() == EXPONENT && self.mantissa == INTEGER_BIT
    }

    /// Quiet or signalling NaN.
    #[must_use]
    pub const fn is_nan(self) -> bool {
        self.exponent() == EXPONENT && self.mantissa > INTEGER_BIT
    }

    /// Signalling NaN.
    #[must_use]
    pub const fn is_signalling(self) -> bool {
        self.is_nan() && self.mantissa & QUIET_BIT == 0
    }

    /// Unnormal, pseudo-infinity or pseudo-NaN: the encodings that are invalid since the 387.
    #[must_use]
    pub const fn is_unsupported(self) -> bool {
        self.exponent() != 0 && self.mantissa & INTEGER_BIT == 0
    }

    const fn quieted(self) -> Self {
        Self::new(self.sign_exponent, self.mantissa | QUIET_BIT)
    }

    const fn negated(self) -> Self {
        Self::new(self.sign_exponent ^ 0x8000, self.mantissa)
    }
}

impl X87 {
    /// TOP: the physical number of ST0.
    #[inline]
    #[must_use]
    pub const fn top(&self) -> usize {
        (self.status >> 11) as usize & 7
    }

    /// Makes physical register `top` (modulo 8) ST0.
    #[inline]
    pub const fn set_top(&mut self, top: usize) {
        self.status = self.status & !0x3800 | ((top & 7) as u16) << 11;
    }

    /// The content of ST(i), empty or not.
    #[inline]
    #[must_use]
    pub const fn st(&self, i: usize) -> F80 {
        self.regs[(self.top() + i) & 7]
    }

    /// Whether ST(i) is tagged empty.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self, i: usize) -> bool {
        self.tag >> ((self.top() + i) & 7) & 1 == 0
    }

    #[inline]
    const fn set_st(&mut self, i: usize, value: F80) {
        let register = (self.top() + i) & 7;
        self.regs[register] = value;
        self.tag |= 1 << register;
    }

    #[inline]
    const fn free(&mut self, i: usize) {
        self.tag &= !(1 << ((self.top() + i) & 7));
    }

    #[inline]
    const fn pop(&mut self) {
        self.free(0);
        self.set_top(self.top() + 1);
    }

    #[inline]
    const fn push(&mut self, value: F80) {
        self.set_top(self.top() + 7);
        self.set_st(0, value);
    }

    /// Whether FWAIT, or any other waiting instruction, raises #MF now.
    #[inline]
    #[must_use]
    pub const fn wait(&self) -> bool {
        self.status & !self.control & status::EXCEPTIONS != 0
    }

    /// Makes ES and B what the exceptions and their masks say, as after a load of either.
    pub const fn summarize(&mut self) {
        self.status &= !(status::ES | status::B);
        if self.wait() {
            self.status |= status::ES | status::B;
        }
    }

    /// Loads the control word, of which some bits do not exist.
    pub const fn set_control(&mut self, control: u16) {
        self.control = control & 0x1f3f | 0x40;
        self.summarize();
    }

    /// FNINIT: the registers keep their content but are empty.
    pub fn init(&mut self) {
        *self = Self { regs: self.regs, ..Self::default() };
    }

    /// MMi.
    #[inline]
    #[must_use]
    pub const fn mmx_get(&self, i: usize) -> u64 {
        self.regs[i & 7].mantissa
    }

    /// Writes MMi, and with it the exponent and TOP; the tags are set by `mmx_enter`, which is done here too.
    #[inline]
    pub const fn mmx_set(&mut self, i: usize, value: u64) {
        self.mmx_enter();
        self.regs[i & 7] = F80::new(0xffff, value);
    }

    /// What each MMX instruction but EMMS does to the x87 state: TOP becomes 0 and all registers are in use.
    #[inline]
    pub const fn mmx_enter(&mut self) {
        self.set_top(0);
        self.tag = 0xff;
    }

    /// EMMS: all registers are empty.
    #[inline]
    pub const fn emms(&mut self) {
        self.set_top(0);
        self.tag = 0;
    }
}

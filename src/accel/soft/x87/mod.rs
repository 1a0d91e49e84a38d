//! The x87 floating-point unit, 80 bits wide.

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

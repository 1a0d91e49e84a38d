//! The operand sizes as a trait, so that an operation is written once.

#![forbid(unsafe_code)]

/// An unsigned integer of an operand size.
pub trait Int: Copy + Eq + Ord + Default + std::fmt::Debug + 'static {
    /// Size in bytes.
    const BYTES: u64;
    /// Size in bits.
    const BITS: u32;
    /// Binary logarithm of the size in bytes.
    const LOG2: u32;
    /// The low bits of `value`.
    fn from_u64(value: u64) -> Self;
    /// Zero-extended.
    fn to_u64(self) -> u64;
    /// Sign-extended.
    fn to_i64(self) -> i64;
}

impl Int for u8 {
    const BYTES: u64 = 1;
    const BITS: u32 = 8;
    const LOG2: u32 = 0;
    #[inline(always)]
    fn from_u64(value: u64) -> Self {
        value as Self
    }
    #[inline(always)]
    fn to_u64(self) -> u64 {
        u64::from(self)
    }
    #[inline(always)]
    fn to_i64(self) -> i64 {
        i64::from(self as i8)
    }
}

impl Int for u16 {
    const BYTES: u64 = 2;
    const BITS: u32 = 16;
    const LOG2: u32 = 1;
    #[inline(always)]
    fn from_u64(value: u64) -> Self {
        value as Self
    }
    #[inline(always)]
    fn to_u64(self) -> u64 {
        u64::from(self)
    }
    #[inline(always)]
    fn to_i64(self) -> i64 {
        i64::from(self as i16)
    }
}

impl Int for u32 {
    const BYTES: u64 = 4;
    const BITS: u32 = 32;
    const LOG2: u32 = 2;
    #[inline(always)]
    fn from_u64(value: u64) -> Self {
        value as Self
    }
    #[inline(always)]
    fn to_u64(self) -> u64 {
        u64::from(self)
    }
    #[inline(always)]
    fn to_i64(self) -> i64 {
        i64::from(self as i32)
    }
}

impl Int for u64 {
    const BYTES: u64 = 8;
    const BITS: u32 = 64;
    const LOG2: u32 = 3;
    #[inline(always)]
    fn from_u64(value: u64) -> Self {
        value
    }
    #[inline(always)]
    fn to_u64(self) -> u64 {
        self
    }
    #[inline(always)]
    fn to_i64(self) -> i64 {
        self as i64
    }
}

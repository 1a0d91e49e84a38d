//! SSE to SSE4.2 and MMX: the arithmetic, as pure functions on register values.
//!
//! [`lookup`] tells for an instruction how its operands map onto registers and memory, and gives the
//! function that computes its result. Whoever executes it fetches operands, checks alignment, raises
//! faults and writes results. An XMM register is a `u128` (lane 0 is the least significant), an MMX
//! register is a `u128` of which the upper half is zero on the way in and ignored on the way out.
//!
//! On x86-64 hosts floating point is done by `host` and most of the rest by `host_integer`; elsewhere by
//! `portable`, on top of `softfloat`, and by the lane code of `arithmetic`, `shift` and `shuffle`, with the
//! same results. Only RCPPS and RSQRTPS differ, as they do between processors.

#[cfg(any(test, not(target_arch = "x86_64")))]
mod approximation;
mod arithmetic;
mod crc32;
mod crypto;
mod float;
mod horizontal;
#[cfg(target_arch = "x86_64")]
mod host;
#[cfg(target_arch = "x86_64")]
mod host_integer;
mod lanes;
mod mmx;
mod portable;
mod shift;
mod shuffle;
mod softfloat;
mod string;
mod table;

pub use shuffle::byte_mask;
pub use string::StringResult;
pub use table::lookup;

/// Carry flag.
const CF: u32 = 1 << 0;
/// Parity flag.
const PF: u32 = 1 << 2;
/// Zero flag.
const ZF: u32 = 1 << 6;
/// Sign flag.
const SF: u32 = 1 << 7;
/// Overflow flag.
const OF: u32 = 1 << 11;

/// An unmasked SIMD floating-point exception: the flags are set in MXCSR, nothing else is written. It is
/// delivered as #XM, or as #UD while CR4.OSXMMEXCPT is clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Xm;

/// `(first operand, second operand, immediate) -> result`.
pub type IntFn = fn(u128, u128, u8) -> u128;
/// `(first operand, second operand, immediate, MXCSR) -> result`.
pub type FpFn = fn(u128, u128, u8, &mut u32) -> Result<u128, Xm>;
/// `(source, immediate) -> general-purpose register`, zero-extended to 64 bits.
pub type ExtractFn = fn(u128, u8) -> u64;
/// `(source, MXCSR) -> general-purpose register`, zero-extended to 64 bits.
pub type ToIntFn = fn(u128, &mut u32) -> Result<u64, Xm>;
/// `(source, immediate) -> value` of which the low bytes are stored.
pub type StoreFn = fn(u128, u8) -> u128;
/// `(first operand, second operand, MXCSR) -> EFLAGS`: all six arithmetic flags, zeros included.
pub type FlagsFn = fn(u128, u128, &mut u32) -> Result<u32, Xm>;
/// `(first operand, second operand, XMM0) -> result`.
pub type BlendFn = fn(u128, u128, u128) -> u128;
/// `(first operand, second operand, immediate, RAX, RDX) -> result`.
pub type StringFn = fn(u128, u128, u8, u64, u64) -> StringResult;
/// `(checksum, source) -> checksum`.
pub type CrcFn = fn(u32, u64) -> u32;

/// Where a string comparison's result goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StringTarget {
    /// RCX, zero-extended from 32 bits.
    Rcx,
    /// XMM0.
    Xmm0,
}

/// How an instruction's operands map onto registers and memory.
///
/// `op0` and `op1` are the operands in iced-x86's order; the immediate, if there is one, is the last
/// operand, else pass 0. A memory operand has `bytes` bytes, is zero-extended, and must lie on a
/// 16-byte boundary (#GP) when `aligned` is set. A register operand is passed whole, whatever its size.
///
/// All forms but the MMX ones follow the SSE rules of CR0.EM, CR4.OSFXSR and CR0.TS. Forms with an MMX
/// operand besides move the x87 unit to MMX mode (TOP 0, all tags valid) and take #MF first when one is
/// pending; the exponent of a written MMX register becomes all ones.
#[derive(Debug, Clone, Copy)]
pub enum Form {
    /// `op0 xmm <- f(op0, op1 xmm or memory, imm)`. A load that ignores its old value is of this form too.
    Xmm { f: IntFn, bytes: u8, aligned: bool },
    /// As `Xmm`, in floating point.
    XmmFp { f: FpFn, bytes: u8, aligned: bool },
    /// `op0 xmm <- f(op0, 0, imm)`: shifts by an immediate.
    XmmImm { f: IntFn },
    /// `op0 xmm <- f(op0, op1 general-purpose register, imm)`; the register is passed with all 64 bits.
    XmmGpr { f: IntFn },
    /// As `XmmGpr`, in floating point.
    XmmGprFp { f: FpFn },
    /// `op0 xmm <- f(op0, op1 xmm or memory, XMM0)`; memory is 16 bytes and aligned.
    Blend { f: BlendFn },
    /// `op0 memory <- low bytes of f(op1 xmm, imm)`.
    Store { f: StoreFn, bytes: u8, aligned: bool },
    /// `op0 general-purpose register <- f(op1 xmm, imm)`; all 64 bits are written.
    Gpr { f: ExtractFn },
    /// `op0 general-purpose register <- f(op1 xmm or memory)`; all 64 bits are written.
    GprFp { f: ToIntFn, bytes: u8 },
    /// `EFLAGS <- f(op0 xmm, op1 xmm or memory)`.
    Flags { f: FlagsFn, bytes: u8, aligned: bool },
    /// `RCX or XMM0, EFLAGS <- f(op0 xmm, op1 xmm or memory, imm, RAX, RDX)`; memory is 16 bytes at any
    /// address.
    String { f: StringFn, target: StringTarget },
    /// MASKMOVDQU: to the implicit memory operand op0 (16 bytes at any address) go the bytes of op1 whose
    /// bit is set in [`byte_mask`] of op2.
    MaskStore,
    /// `op0 general-purpose register <- f(op0, op1 register or memory)`: CRC32. All 64 bits are written,
    /// zero-extended from 32; `bytes` is the size of op1.
    Crc { f: CrcFn, bytes: u8 },

    /// `op0 mm <- f(op0, op1 mm or memory, imm)`.
    Mmx { f: IntFn, bytes: u8 },
    /// `op0 mm <- f(op0, 0, imm)`: shifts by an immediate.
    MmxImm { f: IntFn },
    /// `op0 mm <- f(op0, op1 general-purpose register, imm)`.
    MmxGpr { f: IntFn },
    /// `op0 mm <- f(op0, op1 xmm, imm)`: MOVDQ2Q.
    MmxXmm { f: IntFn },
    /// `op0 mm <- f(op0, op1 xmm or memory, imm)`: conversions.
    MmxXmmFp { f: FpFn, bytes: u8, aligned: bool },
    /// `op0 xmm <- f(op0, op1 mm, imm)`: MOVQ2DQ.
    XmmMmx { f: IntFn },
    /// `op0 xmm <- f(op0, op1 mm or 8 bytes of memory, imm)`: conversions.
    XmmMmxFp { f: FpFn },
    /// `op0 memory <- the low bytes of op1 mm`.
    MmxStore { bytes: u8 },
    /// `op0 general-purpose register <- f(op1 mm, imm)`; all 64 bits are written.
    GprMmx { f: ExtractFn },
    /// MASKMOVQ: as `MaskStore`, of 8 bytes and MMX registers.
    MmxMaskStore,
}

#[cfg(test)]
mod coverage_tests;
#[cfg(all(test, target_os = "linux", target_arch = "x86_64"))]
mod native_tests;

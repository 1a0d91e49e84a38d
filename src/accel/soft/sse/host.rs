//! Floating-point instructions on an x86-64 host: its SSE unit under the guest's MXCSR.
//!
//! Only while all exceptions are masked: nothing can trap then. Where one is unmasked, which is rare,
//! `portable` computes. What is newer than SSE2 is used only where the host has it.

use std::arch::asm;
use std::arch::is_x86_feature_detected;

use super::host_integer::{register, value};
use super::{CF, PF, Xm, ZF, portable};

/// The MXCSR that Rust code runs under.
const RUST_MXCSR: u32 = 0x1f80;

/// The same, as an operand in memory.
static RUST_MXCSR_IN_MEMORY: u32 = RUST_MXCSR;

/// The exception masks of MXCSR.
pub const MASKS: u32 = 0x3f << 7;

/// The exception flags of MXCSR.
const FLAGS: u32 = 0x3f;

/// The bits of MXCSR that exist: others would raise #GP.
const MXCSR_BITS: u32 = 0xffff;

/// Executes `instruction` with the guest's MXCSR and gives that its flags. Each `asm!` has it all, so that
/// the compiler moves no arithmetic of its own in between. Operands are evaluated twice.
///
/// Loading MXCSR costs twice the addition itself. Where the guest's controls are Rust's too, and every
/// flag that is set afterwards, by this instruction or by one before, is already the guest's, nothing is
/// to be loaded. That is the common case: the precision flag sticks.
macro_rules! under_mxcsr {
    ($mxcsr:ident, $instruction:expr, $($operand:tt)*) => {{
        let mut csr = FLAGS;
        if *$mxcsr & MXCSR_BITS & !FLAGS == RUST_MXCSR {
            // SAFETY: the instruction touches no memory and, all exceptions being masked, cannot trap.
            // Rust lets MXCSR's flags change.
            unsafe {
                asm!(
                    $instruction,
                    "stmxcsr [{csr}]",
                    csr = in(reg) &raw mut csr,
                    $($operand)*
                    options(nostack),
                );
            }
        }
        if csr & FLAGS & !*$mxcsr != 0 || *$mxcsr & MXCSR_BITS & !FLAGS != RUST_MXCSR {
            csr = *$mxcsr & MXCSR_BITS;
            // SAFETY: as above; the MXCSR that Rust expects is restored.
            unsafe {
                asm!(
                    "ldmxcsr [{csr}]",
                    $instruction,
                    "stmxcsr [{csr}]",
                    "ldmxcsr [{rust}]",
                    csr = in(reg) &raw mut csr,
                    rust = in(reg) &raw const RUST_MXCSR_IN_MEMORY,
                    $($operand)*
                    options(nostack),
                );
            }
            *$mxcsr = csr;
        }
    }};
}

/// Instructions with two XMM operands: name, host's instruction, and what else must hold for the host to
/// do it. A macro because an instruction's name has to be a literal.
macro_rules! instructions {
    ($($name:ident: $instruction:literal $(if $available:expr)?;)*) => {$(
        pub fn $name(a: u128, b: u128, imm: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
            if *mxcsr & MASKS != MASKS $(|| !$available)? {
                return portable::$name(a, b, imm, mxcsr);
            }
            let mut x = register(a);
            under_mxcsr!(mxcsr, concat!($instruction, " {x}, {y}"),
                x = inout(xmm_reg) register(a) => x, y = in(xmm_reg) register(b),);
            Ok(value(x))
        }
    )*};
}

instructions! {
    addps: "addps";
    addpd: "addpd";
    addss: "addss";
    addsd: "addsd";
    subps: "subps";
    subpd: "subpd";
    subss: "subss";
    subsd: "subsd";
    mulps: "mulps";
    mulpd: "mulpd";
    mulss: "mulss";
    mulsd: "mulsd";
    divps: "divps";
    divpd: "divpd";
    divss: "divss";
    divsd: "divsd";
    minps: "minps";
    minpd: "minpd";
    minss: "minss";
    minsd: "minsd";
    maxps: "maxps";
    maxpd: "maxpd";
    maxss: "maxss";
    maxsd: "maxsd";
    sqrtps: "sqrtps";
    sqrtpd: "sqrtpd";
    sqrtss: "sqrtss";
    sqrtsd: "sqrtsd";
    addsubps: "addsubps" if is_x86_feature_detected!("sse3");
    addsubpd: "addsubpd" if is_x86_feature_detected!("sse3");
    cvtps2pd: "cvtps2pd";
    cvtpd2ps: "cvtpd2ps";
    cvtss2sd: "cvtss2sd";
    cvtsd2ss: "cvtsd2ss";
    cvtdq2ps: "cvtdq2ps";
    cvtps2dq: "cvtps2dq";
    cvttps2dq: "cvttps2dq";
    cvtpd2dq: "cvtpd2dq";
    cvttpd2dq: "cvttpd2dq";
}

/// Instructions that have no exceptions and do not heed MXCSR.
macro_rules! approximations {
    ($($name:ident: $instruction:literal;)*) => {$(
        pub fn $name(a: u128, b: u128, _: u8, _: &mut u32) -> Result<u128, Xm> {
            let x;
            // SAFETY: the instruction touches no memory and cannot trap.
            unsafe {
                asm!(concat!($instruction, " {x}, {y}"), x = inout(xmm_reg) register(a) => x, y = in(xmm_reg) register(b),
                    options(pure, nomem, nostack, preserves_flags));
            }
            Ok(value(x))
        }
    )*};
}

approximations! {
    rcpps: "rcpps";
    rcpss: "rcpss";
    rsqrtps: "rsqrtps";
    rsqrtss: "rsqrtss";
}

/// Comparisons: an immediate is part of the instruction, so there is one for each of the eight predicates.
macro_rules! comparisons {
    ($($name:ident: $width:literal;)*) => {$(
        pub fn $name(a: u128, b: u128, imm: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
            if *mxcsr & MASKS != MASKS {
                return portable::$name(a, b, imm, mxcsr);
            }
            let mut x = register(a);
            let y = register(b);
            macro_rules! compare {
                ($predicate:literal) => {
                    under_mxcsr!(mxcsr, concat!("cmp", $predicate, $width, " {x}, {y}"),
                        x = inout(xmm_reg) register(a) => x, y = in(xmm_reg) y,)
                };
            }
            match imm & 7 {
                0 => compare!("eq"),
                1 => compare!("lt"),
                2 => compare!("le"),
                3 => compare!("unord"),
                4 => compare!("neq"),
                5 => compare!("nlt"),
                6 => compare!("nle"),
                _ => compare!("ord"),
            }
            Ok(value(x))
        }
    )*};
}

comparisons! {
    cmpps: "ps";
    cmppd: "pd";
    cmpss: "ss";
    cmpsd: "sd";
}

/// Roundings to an integer. The immediate's mode is put into MXCSR, from where the host's instruction
/// takes it; that it is not to report precision is heeded afterwards.
macro_rules! roundings {
    ($($name:ident: $instruction:literal;)*) => {$(
        pub fn $name(a: u128, b: u128, imm: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
            if *mxcsr & MASKS != MASKS || !is_x86_feature_detected!("sse4.1") {
                return portable::$name(a, b, imm, mxcsr);
            }
            let mut x = register(a);
            let y = register(b);
            let mut csr = *mxcsr;
            let csr_ref = &mut csr;
            if imm & 4 == 0 {
                *csr_ref = *csr_ref & !(3 << 13) | u32::from(imm & 3) << 13;
            }
            if imm & 8 == 0 {
                under_mxcsr!(csr_ref, concat!($instruction, " {x}, {y}, 4"),
                    x = inout(xmm_reg) register(a) => x, y = in(xmm_reg) y,);
            } else {
                under_mxcsr!(csr_ref, concat!($instruction, " {x}, {y}, 12"),
                    x = inout(xmm_reg) register(a) => x, y = in(xmm_reg) y,);
            }
            *mxcsr |= csr & 0x3f;
            Ok(value(x))
        }
    )*};
}

roundings! {
    roundps: "roundps";
    roundpd: "roundpd";
    roundss: "roundss";
    roundsd: "roundsd";
}

/// Conversions of an integer, the second operand, to a scalar.
macro_rules! from_integers {
    ($($name:ident: $instruction:literal;)*) => {$(
        pub fn $name(a: u128, b: u128, imm: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
            if *mxcsr & MASKS != MASKS {
                return portable::$name(a, b, imm, mxcsr);
            }
            let mut x = register(a);
            under_mxcsr!(mxcsr, $instruction, x = inout(xmm_reg) register(a) => x, y = in(reg) b as u64,);
            Ok(value(x))
        }
    )*};
}

from_integers! {
    cvtsi2ss_32: "cvtsi2ss {x}, {y:e}";
    cvtsi2ss_64: "cvtsi2ss {x}, {y}";
    cvtsi2sd_64: "cvtsi2sd {x}, {y}";
}

/// Conversions of a scalar to an integer; writing a 32-bit register clears the upper half.
macro_rules! to_integers {
    ($($name:ident: $instruction:literal;)*) => {$(
        pub fn $name(a: u128, mxcsr: &mut u32) -> Result<u64, Xm> {
            if *mxcsr & MASKS != MASKS {
                return portable::$name(a, mxcsr);
            }
            let mut integer = 0u64;
            under_mxcsr!(mxcsr, $instruction, r = out(reg) integer, x = in(xmm_reg) register(a),);
            Ok(integer)
        }
    )*};
}

to_integers! {
    cvtss2si_32: "cvtss2si {r:e}, {x}";
    cvtss2si_64: "cvtss2si {r}, {x}";
    cvttss2si_32: "cvttss2si {r:e}, {x}";
    cvttss2si_64: "cvttss2si {r}, {x}";
    cvtsd2si_32: "cvtsd2si {r:e}, {x}";
    cvtsd2si_64: "cvtsd2si {r}, {x}";
    cvttsd2si_32: "cvttsd2si {r:e}, {x}";
    cvttsd2si_64: "cvttsd2si {r}, {x}";
}

/// Scalar comparisons into EFLAGS.
macro_rules! flag_comparisons {
    ($($name:ident: $instruction:literal;)*) => {$(
        pub fn $name(a: u128, b: u128, mxcsr: &mut u32) -> Result<u32, Xm> {
            if *mxcsr & MASKS != MASKS {
                return portable::$name(a, b, mxcsr);
            }
            let (mut carry, mut parity, mut zero) = (0u8, 0u8, 0u8);
            under_mxcsr!(mxcsr, concat!($instruction, " {x}, {y}\nsetc {c}\nsetp {p}\nsetz {z}"),
                x = in(xmm_reg) register(a), y = in(xmm_reg) register(b),
                c = out(reg_byte) carry, p = out(reg_byte) parity, z = out(reg_byte) zero,);
            Ok(u32::from(carry) * CF | u32::from(parity) * PF | u32::from(zero) * ZF)
        }
    )*};
}

flag_comparisons! {
    comiss: "comiss";
    comisd: "comisd";
    ucomiss: "ucomiss";
    ucomisd: "ucomisd";
}

//! Arithmetic on the host's own x87: what the twin is tested against.
//!
//! It is no faster than the twin: the flags of an inexact result have to be cleared, which takes the host
//! longer than the twin's whole operation.

use std::arch::asm;

use super::F80;
use super::compare::UNORDERED;
use super::host::Slot;
use super::softfloat::Answer;
use super::status::{C1, EXCEPTIONS};

/// Declares a function of two operands for an instruction that neither pushes nor pops; it has `a` in ST0 and
/// `b` in ST1, and gives ST0 and the status bits of the mask. (The template of `asm!` must be a literal.)
macro_rules! binary {
    ($(#[$doc:meta])* $name:ident, $instruction:literal, $mask:expr) => {
        $(#[$doc])*
        #[inline]
        pub fn $name(control: u16, a: F80, b: F80) -> Answer {
            let (mut a, b) = (Slot::of(a), Slot::of(b));
            let mut words = [control | 0x40, 0];
            let status: u16;
            // SAFETY: the pointers are to live, properly sized locals; the stack of the x87 unit is empty
            // by the ABI at the start and left empty, and the control word is restored.
            unsafe {
                asm!(
                    "fnstsw ax",
                    "test al, 0x7f",
                    "jz 2f",
                    "fnclex",
                    "2:",
                    "fnstcw word ptr [{words} + 2]",
                    "fld tbyte ptr [{b}]",
                    "fld tbyte ptr [{a}]",
                    "movzx {t:e}, word ptr [{words} + 2]",
                    "cmp word ptr [{words}], {t:x}",
                    "je 3f",
                    "fldcw word ptr [{words}]",
                    $instruction,
                    "fnstsw ax",
                    "fnclex",
                    "fldcw word ptr [{words} + 2]",
                    "jmp 4f",
                    "3:",
                    $instruction,
                    "fnstsw ax",
                    "test al, 0x80",
                    "jz 4f",
                    "fnclex",
                    "4:",
                    "fstp tbyte ptr [{a}]",
                    "fstp st(0)",
                    a = in(reg) &raw mut a,
                    b = in(reg) &raw const b,
                    words = in(reg) &raw mut words,
                    t = out(reg) _,
                    out("ax") status,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                    out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                    options(nostack),
                );
            }
            (a.value(), status & $mask)
        }
    };
}

binary!(
    /// `a + b`.
    add,
    "fadd st, st(1)",
    EXCEPTIONS | C1
);
binary!(
    /// `a - b`.
    sub,
    "fsub st, st(1)",
    EXCEPTIONS | C1
);
binary!(
    /// `a * b`.
    mul,
    "fmul st, st(1)",
    EXCEPTIONS | C1
);
binary!(
    /// `a / b`.
    div,
    "fdiv st, st(1)",
    EXCEPTIONS | C1
);
binary!(
    /// The square root of `a`.
    square_root,
    "fsqrt",
    EXCEPTIONS | C1
);
binary!(
    /// FPREM.
    truncating_remainder,
    "fprem",
    EXCEPTIONS | UNORDERED | C1
);
binary!(
    /// FPREM1.
    nearest_remainder,
    "fprem1",
    EXCEPTIONS | UNORDERED | C1
);

/// The square root of `a`.
pub fn sqrt(control: u16, a: F80) -> Answer {
    square_root(control, a, a)
}

/// FPREM (`nearest` false) and FPREM1: what is left of `a` divided by `b`, or one step towards it (C2).
pub fn remainder(control: u16, a: F80, b: F80, nearest: bool) -> Answer {
    if nearest { nearest_remainder(control, a, b) } else { truncating_remainder(control, a, b) }
}

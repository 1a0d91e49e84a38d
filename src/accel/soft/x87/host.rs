//! Transcendental functions on the host's own x87, with the guest's control word.
//!
//! The unmasked exceptions of the guest stay unmasked: the host's unit then gives what an unmasked exception
//! gives, and the exception is cleared before any instruction that would wait for it. Each function leaves
//! the register stack empty and the control word as it was, as every ABI demands.

use std::arch::asm;

use super::softfloat::Answer;
use super::status::{C1, C2, EXCEPTIONS};
use super::{F80, X87};

/// The layout that `fld tbyte` and `fstp tbyte` want.
#[repr(C)]
pub(super) struct Slot {
    mantissa: u64,
    sign_exponent: u16,
}

impl Slot {
    pub(super) const fn of(a: F80) -> Self {
        Self { mantissa: a.mantissa, sign_exponent: a.sign_exponent }
    }

    #[cfg(test)]
    pub(super) const fn value(&self) -> F80 {
        F80::new(self.sign_exponent, self.mantissa)
    }
}

/// Declares a function that runs an instruction with `a` in ST0 and `b` in ST1 and gives the unit's whole
/// state after it. (The template of `asm!` must be a literal.)
macro_rules! whole {
    ($name:ident, $instruction:literal) => {
        fn $name(control: u16, a: F80, b: F80) -> X87 {
            let (a, b) = (Slot::of(a), Slot::of(b));
            let mut words = [control | 0x40, 0];
            let mut image = [0u8; super::environment::IMAGE];
            // SAFETY: the pointers are to live, properly sized locals; `fnsave` leaves the x87 unit's stack
            // empty, as the ABI has it at the start, and the control word is restored.
            unsafe {
                asm!(
                    "fnclex",
                    "fnstcw word ptr [{words} + 2]",
                    "fld tbyte ptr [{b}]",
                    "fld tbyte ptr [{a}]",
                    "fldcw word ptr [{words}]",
                    $instruction,
                    "fnsave [{image}]",
                    "fldcw word ptr [{words} + 2]",
                    a = in(reg) &raw const a,
                    b = in(reg) &raw const b,
                    words = in(reg) &raw mut words,
                    image = in(reg) &raw mut image,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                    out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                    options(nostack),
                );
            }
            let mut after = X87::default();
            after.load_image(&image, true, false);
            after
        }
    };
}

whole!(run_f2xm1, "f2xm1");
whole!(run_fyl2x, "fyl2x");
whole!(run_fyl2xp1, "fyl2xp1");
whole!(run_fptan, "fptan");
whole!(run_fpatan, "fpatan");
whole!(run_fsin, "fsin");
whole!(run_fcos, "fcos");
whole!(run_fsincos, "fsincos");

/// The result in ST0, and the status bits in `mask`.
fn answer(after: &X87, mask: u16) -> Answer {
    (after.st(0), after.status & mask)
}

/// F2XM1: two to the power of `a`, minus one.
pub fn exp2_minus_one(control: u16, a: F80) -> Answer {
    answer(&run_f2xm1(control, a, F80::ZERO), EXCEPTIONS | C1)
}

/// FYL2X: `b` times the base-two logarithm of `a`.
pub fn log2_times(control: u16, a: F80, b: F80) -> Answer {
    answer(&run_fyl2x(control, a, b), EXCEPTIONS | C1)
}

/// FYL2XP1: `b` times the base-two logarithm of `a + 1`.
pub fn log2_of_one_plus_times(control: u16, a: F80, b: F80) -> Answer {
    answer(&run_fyl2xp1(control, a, b), EXCEPTIONS | C1)
}

/// FPATAN: the angle of the point with the abscissa `a` and the ordinate `b`.
pub fn arctangent(control: u16, a: F80, b: F80) -> Answer {
    answer(&run_fpatan(control, a, b), EXCEPTIONS | C1)
}

/// FSIN; C2 if `a` is out of range.
pub fn sine(control: u16, a: F80) -> Answer {
    answer(&run_fsin(control, a, F80::ZERO), EXCEPTIONS | C1 | C2)
}

/// FCOS; C2 if `a` is out of range.
pub fn cosine(control: u16, a: F80) -> Answer {
    answer(&run_fcos(control, a, F80::ZERO), EXCEPTIONS | C1 | C2)
}

/// FSINCOS: sine, cosine; C2 if `a` is out of range.
pub fn sine_cosine(control: u16, a: F80) -> (F80, F80, u16) {
    let after = run_fsincos(control, a, F80::ZERO);
    (after.st(1), after.st(0), after.status & (EXCEPTIONS | C1 | C2))
}

/// FPTAN: the tangent and what is pushed after it, 1 or a NaN; C2 if `a` is out of range.
pub fn tangent(control: u16, a: F80) -> (F80, F80, u16) {
    let after = run_fptan(control, a, F80::ZERO);
    (after.st(1), after.st(0), after.status & (EXCEPTIONS | C1 | C2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_unit_is_left_as_it_was() {
        let state = || {
            let mut image = [0u8; 28];
            // SAFETY: `fnstenv` writes 28 bytes; it masks all exceptions, so the control word is reloaded.
            unsafe {
                asm!("fnstenv [{0}]", "fldcw word ptr [{0}]", in(reg) &raw mut image, options(nostack));
            }
            let mut x87 = X87::default();
            x87.load_environment(&image, true, false);
            (x87.control, x87.tag, x87.top())
        };
        let before = state();
        for control in [0x340, 0x37f, 0xc40, 0x27f] {
            assert_eq!(log2_times(control, F80::ZERO, F80::ONE).1, super::super::status::ZE);
            assert_eq!(state(), before);
            assert_eq!(sine(control, F80::infinity(true)).1, super::super::status::IE);
            assert_eq!(sine_cosine(control, F80::INDEFINITE).2, 0);
            assert_eq!(state(), before);
        }
    }
}

//! Comparison and classification.
#![forbid(unsafe_code)]

use super::F80;
use super::status::{C0, C1, C2, C3, DE, IE};

/// The condition codes of "unordered".
pub(super) const UNORDERED: u16 = C0 | C2 | C3;

/// Compares: the condition codes and the exceptions. With `quiet`, as FUCOM does, a quiet NaN raises none.
pub(super) fn compare(a: F80, b: F80, quiet: bool) -> (u16, u16) {
    if a.is_unsupported() || b.is_unsupported() {
        return (UNORDERED, IE);
    }
    if a.is_nan() || b.is_nan() {
        let invalid = !quiet || a.is_signalling() || b.is_signalling();
        return (UNORDERED, if invalid { IE } else { 0 });
    }
    let flags = if a.is_denormal() || b.is_denormal() { DE } else { 0 };
    let (x, y) = (order(a), order(b));
    let codes = match x.cmp(&y) {
        std::cmp::Ordering::Less => C0,
        std::cmp::Ordering::Equal => C3,
        std::cmp::Ordering::Greater => 0,
    };
    (codes, flags)
}

/// An integer that is ordered as the numbers are.
fn order(a: F80) -> i128 {
    // A pseudo-denormal has the value that the exponent 1 would give it.
    let exponent = if a.exponent() == 0 { a.mantissa >> 63 } else { u64::from(a.exponent()) };
    let magnitude = i128::from(exponent) << 64 | i128::from(a.mantissa);
    if a.is_negative() { -magnitude } else { magnitude }
}

/// FXAM: the condition codes.
pub(super) fn examine(a: F80, empty: bool) -> u16 {
    let sign = if a.is_negative() { C1 } else { 0 };
    sign | if empty {
        C3 | C0
    } else if a.is_unsupported() {
        0
    } else if a.is_nan() {
        C0
    } else if a.is_infinite() {
        C2 | C0
    } else if a.is_zero() {
        C3
    } else if a.exponent() == 0 {
        C3 | C2
    } else {
        C2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_zeros_signs_and_pseudo_denormals() {
        let minus_one = F80::ONE.negated();
        assert_eq!(compare(F80::zero(true), F80::ZERO, false), (C3, 0));
        assert_eq!(compare(minus_one, F80::ONE, false), (C0, 0));
        assert_eq!(compare(F80::infinity(false), F80::ONE, false), (0, 0));
        let pseudo = F80::new(0, 1 << 63);
        assert_eq!(compare(pseudo, F80::new(1, 1 << 63), true), (C3, DE));
        assert_eq!(compare(F80::INDEFINITE, F80::ONE, true), (UNORDERED, 0));
        assert_eq!(compare(F80::INDEFINITE, F80::ONE, false), (UNORDERED, IE));
    }
}

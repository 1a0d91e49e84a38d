//! Conversions between the 80-bit format and those of memory.
#![forbid(unsafe_code)]

use super::softfloat::{BIAS, Rounding, shift_right_jam, unpack};
use super::status::{C1, DE, IE, OE, PE, UE};
use super::{EXPONENT, F80, INTEGER_BIT, QUIET_BIT};

/// A binary interchange format narrower than 80 bits.
struct Format {
    /// Bits of the stored fraction.
    fraction: u32,
    /// The highest biased exponent, that of infinities.
    top: u32,
}

const SINGLE: Format = Format { fraction: 23, top: 0xff };
const DOUBLE: Format = Format { fraction: 52, top: 0x7ff };

/// Widens a single; a signalling NaN stays one. The flags are DE or none.
#[inline]
pub(super) fn from_single(bits: u32) -> (F80, u16) {
    widen(&SINGLE, u64::from(bits))
}

/// Widens a double; a signalling NaN stays one. The flags are DE or none.
#[inline]
pub(super) fn from_double(bits: u64) -> (F80, u16) {
    widen(&DOUBLE, bits)
}

#[inline]
fn widen(format: &Format, bits: u64) -> (F80, u16) {
    let exponent = (bits >> format.fraction) as u32 & format.top;
    let fraction = bits & ((1 << format.fraction) - 1);
    let sign = if bits >> format.fraction > u64::from(format.top) { 0x8000 } else { 0 };
    let significand = fraction << (63 - format.fraction);
    let rebias = BIAS as u32 - (format.top >> 1);
    if exponent == format.top {
        (F80::new(sign | EXPONENT, INTEGER_BIT | significand), 0)
    } else if exponent != 0 {
        (F80::new(sign | (exponent + rebias) as u16, INTEGER_BIT | significand), 0)
    } else if fraction == 0 {
        (F80::new(sign, 0), 0)
    } else {
        let shift = significand.leading_zeros();
        (F80::new(sign | (rebias + 1 - shift) as u16, significand << shift), DE)
    }
}

/// Rounds to a single: its bits and the flags. An unmasked IE, OE or UE means that nothing is stored.
pub(super) fn to_single(control: u16, a: F80) -> (u32, u16) {
    let (bits, flags) = narrow(&SINGLE, control, a);
    (bits as u32, flags)
}

/// Rounds to a double: its bits and the flags. An unmasked IE, OE or UE means that nothing is stored.
pub(super) fn to_double(control: u16, a: F80) -> (u64, u16) {
    narrow(&DOUBLE, control, a)
}

fn narrow(format: &Format, control: u16, a: F80) -> (u64, u16) {
    let drop = 63 - format.fraction;
    let negative = a.is_negative();
    let infinity = u64::from(format.top) << format.fraction;
    let sign = if negative { (u64::from(format.top) + 1) << format.fraction } else { 0 };
    let fraction = |mantissa: u64| (mantissa & !INTEGER_BIT) >> drop;
    if a.is_unsupported() {
        let sign = (u64::from(format.top) + 1) << format.fraction;
        return (sign | infinity | fraction(QUIET_BIT), IE);
    }
    if a.exponent() == EXPONENT {
        let flags = if a.is_signalling() { IE } else { 0 };
        let quiet = if a.is_nan() { QUIET_BIT } else { 0 };
        return (sign | infinity | fraction(a.mantissa | quiet), flags);
    }
    if a.is_zero() {
        return (sign, 0);
    }
    let mode = Rounding::of(control);
    let rounded = |significand: u128| {
        let shift = 64 + drop;
        let rest = significand & ((1 << shift) - 1);
        let kept = (significand >> shift) as u64;
        let up = mode.rounds_up(negative, kept & 1 != 0, rest, 1 << (shift - 1));
        (kept + u64::from(up), if rest != 0 { PE } else { 0 } | if up { C1 } else { 0 })
    };
    let (exponent, significand) = unpack(a);
    let exponent = exponent - BIAS + (format.top >> 1) as i32;
    let significand = u128::from(significand) << 64;
    let (value, flags) = rounded(significand);
    let carried = i32::from(value >> (format.fraction + 1) != 0);
    if exponent + carried >= format.top as i32 {
        let to_infinity = match mode {
            Rounding::Nearest => true,
            Rounding::Down => negative,
            Rounding::Up => !negative,
            Rounding::Chop => false,
        };
        if control & OE == 0 {
            return (0, OE | flags);
        }
        return if to_infinity { (sign | infinity, OE | PE | C1) } else { (sign | (infinity - 1), OE | PE) };
    }
    if exponent + carried > 0 {
        // The carry of the integer bit goes into the exponent by itself.
        return (
            sign | ((i64::from(exponent) - 1) << format.fraction).cast_unsigned().wrapping_add(value),
            flags,
        );
    }
    if control & UE == 0 {
        return (0, UE | flags);
    }
    let (value, flags) = rounded(shift_right_jam(significand, exponent.abs_diff(1)));
    (sign | value, flags | if flags & PE != 0 { UE } else { 0 })
}

/// An integer, which is always exact.
#[must_use]
pub(super) fn from_integer(value: i64) -> F80 {
    if value == 0 {
        return F80::ZERO;
    }
    let magnitude = value.unsigned_abs();
    let shift = magnitude.leading_zeros();
    let sign = if value < 0 { 0x8000 } else { 0 };
    F80::new(sign | (BIAS + 63 - shift as i32) as u16, magnitude << shift)
}

/// The magnitude rounded to an integer and the flags; `None` for what is 2^64 or more, or no number.
fn to_magnitude(mode: Rounding, a: F80) -> Option<(u64, u16)> {
    if a.is_zero() {
        return Some((0, 0));
    }
    if a.is_unsupported() || a.exponent() == EXPONENT {
        return None;
    }
    let (exponent, significand) = unpack(a);
    let power = exponent - BIAS;
    if power > 63 {
        return None;
    }
    let fixed = shift_right_jam(u128::from(significand) << 64, power.abs_diff(63));
    let (kept, rest) = ((fixed >> 64) as u64, fixed & u128::from(u64::MAX));
    let up = mode.rounds_up(a.is_negative(), kept & 1 != 0, rest, 1 << 63);
    let flags = if rest != 0 { PE } else { 0 } | if up { C1 } else { 0 };
    Some((kept.checked_add(u64::from(up))?, flags))
}

/// Rounds to an integer of `bits` bits (16, 32 or 64), or truncates; out of range it is the "integer
/// indefinite" (the lowest one) and IE.
pub(super) fn to_integer(control: u16, a: F80, bits: u32, truncate: bool) -> (i64, u16) {
    let indefinite = i64::MIN >> (64 - bits);
    let mode = if truncate { Rounding::Chop } else { Rounding::of(control) };
    let Some((magnitude, flags)) = to_magnitude(mode, a) else {
        return (indefinite, IE);
    };
    let limit = indefinite.unsigned_abs();
    if a.is_negative() && magnitude <= limit {
        (0i64.wrapping_sub_unsigned(magnitude), flags)
    } else if magnitude < limit {
        (magnitude as i64, flags)
    } else {
        (indefinite, IE)
    }
}

/// The packed decimal of an invalid operation.
pub(super) const BCD_INDEFINITE: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff];

/// Rounds to 18 packed decimal digits (FBSTP).
pub(super) fn to_bcd(control: u16, a: F80) -> ([u8; 10], u16) {
    let (mut magnitude, flags) = match to_magnitude(Rounding::of(control), a) {
        Some((magnitude, flags)) if magnitude < 1_000_000_000_000_000_000 => (magnitude, flags),
        _ => return (BCD_INDEFINITE, IE),
    };
    let mut bytes = [0; 10];
    for byte in &mut bytes[..9] {
        let pair = (magnitude % 100) as u8;
        magnitude /= 100;
        *byte = ((pair / 10) << 4) | (pair % 10);
    }
    bytes[9] = if a.is_negative() { 0x80 } else { 0 };
    (bytes, flags)
}

/// The number of 18 packed decimal digits (FBLD). Nibbles above 9 count as the digits that they are not.
pub(super) fn from_bcd(bytes: [u8; 10]) -> F80 {
    let [digits @ .., sign] = bytes;
    // At most 15 * (10^18 - 1) / 9, which fits.
    let magnitude = digits.iter().rev().fold(0u64, |value, byte| {
        value.wrapping_mul(100).wrapping_add(u64::from(byte >> 4) * 10 + u64::from(byte & 15))
    });
    let value = from_integer(magnitude as i64);
    if sign & 0x80 != 0 { value.negated() } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn doubles_and_singles_come_back(bits: u64) {
            let a = f64::from_bits(bits);
            prop_assume!(!a.is_nan() && !f32::from_bits(bits as u32).is_nan());
            prop_assert_eq!(to_double(0x37f, from_double(bits).0), (bits, 0));
            let single = from_double(bits).0;
            prop_assert_eq!(to_single(0x37f, single).0, (a as f32).to_bits());
            prop_assert_eq!(to_double(0x37f, from_single(bits as u32).0).1, 0);
        }

        #[test]
        fn integers_come_back(value: i64) {
            prop_assert_eq!(to_integer(0x37f, from_integer(value), 64, false), (value, 0));
            let (narrow, flags) = to_integer(0x37f, from_integer(value), 32, false);
            let fits = i32::try_from(value).is_ok();
            prop_assert_eq!((narrow, flags), if fits { (value, 0) } else { (i64::from(i32::MIN), IE) });
        }
    }

    #[test]
    fn decimal_digits_are_packed_from_the_lowest() {
        let a = from_integer(-1_234_567_890);
        let (bytes, flags) = to_bcd(0x37f, a);
        assert_eq!((bytes, flags), ([0x90, 0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0, 0x80], 0));
        assert_eq!(from_bcd(bytes), a);
        assert_eq!(to_bcd(0x37f, from_integer(i64::MAX)), (BCD_INDEFINITE, IE));
    }
}

//! Arithmetic on 80-bit numbers, right to the bit, flags included.
//!
//! Each function takes the control word and gives the result with the status bits that it raises: the
//! exceptions, C1 for a result rounded up (away from zero) and, for remainders, the quotient's bits. Where
//! an unmasked exception of `status::BEFORE_RESULT` is raised the result means nothing.
#![forbid(unsafe_code)]

use super::status::{C0, C1, C2, C3, DE, IE, OE, PE, UE, ZE};
use super::{EXPONENT, F80, INTEGER_BIT};

/// Bias of the exponent.
pub(super) const BIAS: i32 = 0x3fff;
/// What the exponent of an unmasked overflow or underflow is moved by (SDM vol. 1, 8.5.4).
const WRAP: i32 = 0x6000;

/// A result and the status bits that it raises.
pub type Answer = (F80, u16);

/// The rounding control's modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rounding {
    Nearest,
    Down,
    Up,
    Chop,
}

impl Rounding {
    pub(super) const fn of(control: u16) -> Self {
        match control >> 10 & 3 {
            0 => Self::Nearest,
            1 => Self::Down,
            2 => Self::Up,
            _ => Self::Chop,
        }
    }

    /// Whether a magnitude is rounded up: it has `rest` of `unit` beyond its last bit, which is `odd`.
    pub(super) const fn rounds_up(self, negative: bool, odd: bool, rest: u128, half: u128) -> bool {
        match self {
            Self::Nearest => rest > half || rest == half && odd,
            Self::Down => negative && rest != 0,
            Self::Up => !negative && rest != 0,
            Self::Chop => false,
        }
    }
}

/// Bits of the significand that precision control asks for.
const fn precision(control: u16) -> u32 {
    match control >> 8 & 3 {
        0 => 24,
        2 => 53,
        _ => 64,
    }
}

/// Shifts right; what falls out leaves its mark in the last bit.
pub(super) const fn shift_right_jam(value: u128, count: u32) -> u128 {
    if count == 0 {
        value
    } else if count >= 128 {
        (value != 0) as u128
    } else {
        value >> count | (value << (128 - count) != 0) as u128
    }
}

/// Splits a finite number that is not zero: biased exponent (below 1 for denormals), normal significand.
pub(super) const fn unpack(a: F80) -> (i32, u64) {
    let exponent = if a.exponent() == 0 { 1 } else { a.exponent() as i32 };
    let shift = a.mantissa.leading_zeros();
    (exponent - shift as i32, a.mantissa << (shift & 63))
}

/// Rounds `significand` (its top bit set unless it is zero) to precision control.
pub(super) fn round(control: u16, negative: bool, exponent: i32, significand: u128) -> Answer {
    round_to(precision(control), control, negative, exponent, significand)
}

/// Rounds `significand` (its top bit set unless it is zero) to `bits` bits.
pub(super) fn round_to(bits: u32, control: u16, negative: bool, exponent: i32, significand: u128) -> Answer {
    if significand == 0 {
        return (F80::zero(negative), 0);
    }
    let sign = u16::from(negative) << 15;
    let mode = Rounding::of(control);
    let shift = 128 - bits;
    let half = 1u128 << (shift - 1);
    let rounded = |significand: u128| {
        let rest = significand & ((1 << shift) - 1);
        let kept = significand >> shift;
        let up = mode.rounds_up(negative, kept & 1 != 0, rest, half);
        let flags = if rest != 0 { PE } else { 0 } | if up { C1 } else { 0 };
        ((kept + u128::from(up)) << (64 - bits), flags)
    };

    let (value, flags) = rounded(significand);
    let (value, new_exponent) =
        if value >> 64 != 0 { (INTEGER_BIT, exponent + 1) } else { (value as u64, exponent) };
    if new_exponent >= i32::from(EXPONENT) {
        return overflow(bits, control, negative, new_exponent, value, flags);
    }
    if new_exponent > 0 {
        return (F80::new(sign | new_exponent as u16, value), flags);
    }
    if control & UE == 0 {
        let wrapped = new_exponent + WRAP;
        if wrapped <= 0 {
            return (F80::zero(negative), UE | PE);
        }
        return (F80::new(sign | wrapped as u16, value), flags | UE);
    }
    let distance = exponent.abs_diff(1);
    let (value, flags) = rounded(shift_right_jam(significand, distance));
    let value = value as u64;
    // A denormal that was rounded up to the integer bit is the smallest normal number.
    let exponent = (value >> 63) as u16;
    (F80::new(sign | exponent, value), flags | if flags & PE != 0 { UE } else { 0 })
}

fn overflow(bits: u32, control: u16, negative: bool, exponent: i32, value: u64, flags: u16) -> Answer {
    let sign = u16::from(negative) << 15;
    if control & OE == 0 {
        let wrapped = exponent - WRAP;
        if wrapped >= i32::from(EXPONENT) {
            return (F80::infinity(negative), OE | PE | C1);
        }
        return (F80::new(sign | wrapped as u16, value), flags | OE);
    }
    let to_infinity = match Rounding::of(control) {
        Rounding::Nearest => true,
        Rounding::Down => negative,
        Rounding::Up => !negative,
        Rounding::Chop => false,
    };
    if to_infinity {
        (F80::infinity(negative), OE | PE | C1)
    } else {
        (F80::new(sign | (EXPONENT - 1), u64::MAX << (64 - bits)), OE | PE)
    }
}

/// What an operation with an operand that is no number gives, if there is one (SDM vol. 1, table 4-7).
pub(super) fn nan_of(a: F80, b: F80) -> Option<Answer> {
    // Without the highest exponent there can only be unnormals.
    if a.is_unsupported() || b.is_unsupported() {
        return Some((F80::INDEFINITE, IE));
    }
    let flags = if a.is_signalling() || b.is_signalling() { IE } else { 0 };
    let chosen = match (a.is_nan(), b.is_nan()) {
        (false, false) => return None,
        (true, false) => a,
        (false, true) => b,
        (true, true) if a.is_signalling() != b.is_signalling() => {
            if a.is_signalling() {
                b
            } else {
                a
            }
        }
        (true, true) => match a.mantissa.cmp(&b.mantissa) {
            std::cmp::Ordering::Less => b,
            std::cmp::Ordering::Greater => a,
            std::cmp::Ordering::Equal if a.is_negative() => b,
            std::cmp::Ordering::Equal => a,
        },
    };
    Some((chosen.quieted(), flags))
}

/// DE, if an operand is denormal.
pub(super) const fn denormal_of(a: F80, b: F80) -> u16 {
    if a.is_denormal() || b.is_denormal() { DE } else { 0 }
}

/// Adds DE to an answer; unmasked, it comes before all that the result would raise.
pub(super) const fn with_denormal(control: u16, denormal: u16, answer: Answer) -> Answer {
    if denormal & !control != 0 { (answer.0, denormal) } else { (answer.0, answer.1 | denormal) }
}

/// `a + b`.
#[must_use]
pub fn add(control: u16, a: F80, b: F80) -> Answer {
    if let Some(answer) = nan_of(a, b) {
        return answer;
    }
    match (a.is_infinite(), b.is_infinite()) {
        (true, true) if a.is_negative() != b.is_negative() => return (F80::INDEFINITE, IE),
        (true, _) => return with_denormal(control, denormal_of(a, b), (a, 0)),
        (_, true) => return with_denormal(control, denormal_of(a, b), (b, 0)),
        _ => {}
    }
    let down = Rounding::of(control) == Rounding::Down;
    let answer = match (a.is_zero(), b.is_zero()) {
        (true, true) if a.is_negative() == b.is_negative() => (a, 0),
        (true, true) => (F80::zero(down), 0),
        (true, false) => renormalized(control, b),
        (false, true) => renormalized(control, a),
        (false, false) => {
            let (mut large, mut small) = ((unpack(a), a), (unpack(b), b));
            if large.0 < small.0 {
                (large, small) = (small, large);
            }
            let ((exponent, x), (small_exponent, y)) = (large.0, small.0);
            let negative = large.1.is_negative();
            let x = u128::from(x) << 63;
            let y = shift_right_jam(u128::from(y) << 63, exponent.abs_diff(small_exponent));
            let sum = if negative == small.1.is_negative() { x + y } else { x - y };
            if sum == 0 {
                (F80::zero(down), 0)
            } else {
                let shift = sum.leading_zeros();
                round(control, negative, exponent + 1 - shift as i32, sum << shift)
            }
        }
    };
    with_denormal(control, denormal_of(a, b), answer)
}

/// A finite number that is not zero, rounded to precision control.
fn renormalized(control: u16, a: F80) -> Answer {
    let (exponent, significand) = unpack(a);
    round(control, a.is_negative(), exponent, u128::from(significand) << 64)
}

/// `a - b`.
#[must_use]
pub fn sub(control: u16, a: F80, b: F80) -> Answer {
    // A NaN keeps its sign.
    if b.is_nan() { add(control, a, b) } else { add(control, a, b.negated()) }
}

/// `a * b`.
#[must_use]
pub fn mul(control: u16, a: F80, b: F80) -> Answer {
    if let Some(answer) = nan_of(a, b) {
        return answer;
    }
    let negative = a.is_negative() != b.is_negative();
    let denormal = denormal_of(a, b);
    if a.is_infinite() || b.is_infinite() {
        if a.is_zero() || b.is_zero() {
            return (F80::INDEFINITE, IE);
        }
        return with_denormal(control, denormal, (F80::infinity(negative), 0));
    }
    if a.is_zero() || b.is_zero() {
        return with_denormal(control, denormal, (F80::zero(negative), 0));
    }
    let ((a_exponent, x), (b_exponent, y)) = (unpack(a), unpack(b));
    let product = u128::from(x) * u128::from(y);
    let shift = product.leading_zeros();
    let exponent = a_exponent + b_exponent - BIAS + 1 - shift as i32;
    with_denormal(control, denormal, round(control, negative, exponent, product << shift))
}

/// `a / b`.
#[must_use]
pub fn div(control: u16, a: F80, b: F80) -> Answer {
    if let Some(answer) = nan_of(a, b) {
        return answer;
    }
    let negative = a.is_negative() != b.is_negative();
    let denormal = denormal_of(a, b);
    match (a.is_infinite(), b.is_infinite()) {
        (true, true) => return (F80::INDEFINITE, IE),
        (true, false) => return with_denormal(control, denormal, (F80::infinity(negative), 0)),
        (false, true) => return with_denormal(control, denormal, (F80::zero(negative), 0)),
        (false, false) => {}
    }
    match (a.is_zero(), b.is_zero()) {
        (true, true) => return (F80::INDEFINITE, IE),
        (false, true) => return (F80::infinity(negative), ZE),
        (true, false) => return with_denormal(control, denormal, (F80::zero(negative), 0)),
        (false, false) => {}
    }
    let ((a_exponent, x), (b_exponent, y)) = (unpack(a), unpack(b));
    let less = x < y;
    let exponent = a_exponent - b_exponent + BIAS - i32::from(less);
    let (dividend, divisor) = (u128::from(x) << (63 + u32::from(less)), u128::from(y));
    let (high, rest) = (dividend / divisor, dividend % divisor);
    let (low, rest) = ((rest << 64) / divisor, (rest << 64) % divisor);
    let quotient = high << 64 | low | u128::from(rest != 0);
    with_denormal(control, denormal, round(control, negative, exponent, quotient))
}

/// The square root of `a`.
#[must_use]
pub fn sqrt(control: u16, a: F80) -> Answer {
    if let Some(answer) = nan_of(a, a) {
        return answer;
    }
    if a.is_zero() {
        return (a, 0);
    }
    if a.is_negative() {
        return (F80::INDEFINITE, IE);
    }
    if a.is_infinite() {
        return (a, 0);
    }
    let (exponent, x) = unpack(a);
    let power = exponent - BIAS;
    let square = u128::from(x) << if power & 1 == 0 { 63 } else { 64 };
    let root = square.isqrt();
    let rest = square - root * root;
    // The root is beyond root + 1/2 exactly if the rest is more than root.
    let below = match rest {
        0 => 0,
        rest if rest > root => (1 << 63) | 1,
        _ => 1,
    };
    let answer = round(control, false, (power >> 1) + BIAS, root << 64 | below);
    with_denormal(control, denormal_of(a, a), answer)
}

/// FRNDINT: `a` as an integer.
#[must_use]
pub fn round_to_integer(control: u16, a: F80) -> Answer {
    if let Some(answer) = nan_of(a, a) {
        return answer;
    }
    if a.is_infinite() || a.is_zero() {
        return (a, 0);
    }
    let (exponent, significand) = unpack(a);
    let power = exponent - BIAS;
    if power >= 63 {
        return (a, 0);
    }
    let negative = a.is_negative();
    let fixed = shift_right_jam(u128::from(significand) << 64, power.abs_diff(63));
    let rest = fixed & u128::from(u64::MAX);
    let kept = (fixed >> 64) as u64;
    let up = Rounding::of(control).rounds_up(negative, kept & 1 != 0, rest, 1 << 63);
    let flags = if rest != 0 { PE } else { 0 } | if up { C1 } else { 0 };
    // `kept` is below 2^63, so this cannot overflow.
    let integer = kept + u64::from(up);
    let value = if integer == 0 {
        F80::zero(negative)
    } else {
        let shift = integer.leading_zeros();
        F80::new(u16::from(negative) << 15 | (BIAS + 63 - shift as i32) as u16, integer << shift)
    };
    with_denormal(control, denormal_of(a, a), (value, flags))
}

/// FSCALE: `a` times two to the power of `b`, which is truncated.
#[must_use]
pub fn scale(control: u16, a: F80, b: F80) -> Answer {
    if let Some(answer) = nan_of(a, b) {
        return answer;
    }
    let denormal = denormal_of(a, b);
    let negative = a.is_negative();
    if b.is_infinite() {
        if b.is_negative() && a.is_infinite() || !b.is_negative() && a.is_zero() {
            return (F80::INDEFINITE, IE);
        }
        let value = if b.is_negative() { F80::zero(negative) } else { F80::infinity(negative) };
        return with_denormal(control, denormal, (value, 0));
    }
    if a.is_infinite() || a.is_zero() {
        return with_denormal(control, denormal, (a, 0));
    }
    let power = if b.is_zero() {
        0
    } else {
        let (exponent, significand) = unpack(b);
        let magnitude = match exponent - BIAS {
            ..0 => 0,
            // Beyond all that the exponents can hold, wrapped ones included.
            17.. => 1 << 17,
            power => (significand >> (63 - power)) as i32,
        };
        if b.is_negative() { -magnitude } else { magnitude }
    };
    let (exponent, significand) = unpack(a);
    let answer = round_to(64, control, negative, exponent + power, u128::from(significand) << 64);
    with_denormal(control, denormal, answer)
}

/// FPREM (`nearest` false) and FPREM1: what is left of `a` divided by `b`, or one step towards it (C2).
#[must_use]
pub fn remainder(control: u16, a: F80, b: F80, nearest: bool) -> Answer {
    if let Some(answer) = nan_of(a, b) {
        return answer;
    }
    if a.is_infinite() || b.is_zero() {
        return (F80::INDEFINITE, IE);
    }
    let denormal = denormal_of(a, b);
    if a.is_zero() {
        return with_denormal(control, denormal, (a, 0));
    }
    let unchanged = |exponent, significand: u64| {
        round_to(64, control, a.is_negative(), exponent, u128::from(significand) << 64)
    };
    let (a_exponent, x) = unpack(a);
    if b.is_infinite() {
        return with_denormal(control, denormal, unchanged(a_exponent, x));
    }
    let (b_exponent, y) = unpack(b);
    let distance = a_exponent - b_exponent;
    if distance < if nearest { -1 } else { 0 } {
        return with_denormal(control, denormal, unchanged(a_exponent, x));
    }
    // The part of the distance that one instruction covers, in steps of 32 beyond 63.
    let partial = distance >= 64;
    let covered = if partial { 32 | distance & 31 } else { distance };
    // In units of half of b's last bit, so that a may be half as large as b.
    let dividend = u128::from(x) << (covered + 1);
    let divisor = u128::from(y) << 1;
    let (mut quotient, mut rest) = (dividend / divisor, dividend % divisor);
    let mut negative = a.is_negative();
    if nearest && !partial && (rest * 2 > divisor || rest * 2 == divisor && quotient & 1 != 0) {
        rest = divisor - rest;
        quotient += 1;
        negative = !negative;
    }
    let flags = if partial {
        C2
    } else {
        let bit = |n: u32, flag: u16| if quotient >> n & 1 != 0 { flag } else { 0 };
        bit(2, C0) | bit(1, C3) | bit(0, C1)
    };
    if rest == 0 {
        return with_denormal(control, denormal, (F80::zero(a.is_negative()), flags));
    }
    let shift = rest.leading_zeros();
    let exponent = b_exponent + (distance - covered) + 63 - shift as i32;
    let (value, raised) = round_to(64, control, negative, exponent, rest << shift);
    with_denormal(control, denormal, (value, flags | raised & !C1))
}

/// FXTRACT: the significand (new ST0) and the exponent (new ST1).
#[must_use]
pub fn extract(control: u16, a: F80) -> (F80, F80, u16) {
    if let Some((value, flags)) = nan_of(a, a) {
        return (value, value, flags);
    }
    if a.is_infinite() {
        return (a, F80::infinity(false), 0);
    }
    if a.is_zero() {
        return (a, F80::infinity(true), ZE);
    }
    let (exponent, significand) = unpack(a);
    let sign = a.sign_exponent & 0x8000;
    let flags = with_denormal(control, denormal_of(a, a), (a, 0)).1;
    let power = super::convert::from_integer(i64::from(exponent - BIAS));
    (F80::new(sign | BIAS as u16, significand), power, flags)
}

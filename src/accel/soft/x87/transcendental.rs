//! The transcendental functions of the portable twin, right to about one unit in the last place.
//!
//! Each takes the control word and gives the result with the status bits that it raises, as `softfloat`
//! does. Results come from series in 128 bits and are rounded once.
#![forbid(unsafe_code)]

use super::F80;
use super::softfloat::{Answer, denormal_of, nan_of, with_denormal};
use super::status::{C2, IE, ZE};
use super::wide::Wide;

const PI: Wide = Wide::new(1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1);
const LN_2: Wide = Wide::new(-1, 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af);
const LOG2_E: Wide = Wide::new(0, 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e89);
/// Half of pi in units of 2^-65: angles are reduced by a pi of 66 bits, as processors do.
const HALF_PI_FIXED: u128 = 0x3_243f_6a88_85a3_08d3;
/// The arctangents of 0, 1/4, 1/2, 3/4 and 1.
const ARCTANGENTS: [Wide; 5] = [
    Wide::ZERO,
    Wide::new(-3, 0xfadb_afc9_6406_eb15_6dc7_9ef5_f7a2_17e6),
    Wide::new(-2, 0xed63_382b_0dda_7b45_6fe4_45ec_bc3a_8d03),
    Wide::new(-1, 0xa4bc_7d19_34f7_0924_19a8_7f2a_457d_ac9f),
    Wide::new(-1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1),
];
/// The significand of the square root of two.
const SQRT_2: u128 = 0xb504_f333_f9de_6484_597d_89b3_754a_be9f;
/// Terms that any of the series here needs for 128 bits.
const TERMS: u32 = 40;

/// Sums a series whose next term `next` makes of the last one and its number, from 1.
fn series(first: Wide, next: impl Fn(Wide, u32) -> (Wide, Wide)) -> Wide {
    let (mut sum, mut power) = (first, first);
    for n in 1..TERMS {
        let (new_power, term) = next(power, n);
        let last = term.significand == 0 || term.exponent < sum.exponent - 130;
        power = new_power;
        sum = sum.add(term);
        if last {
            break;
        }
    }
    sum
}

/// F2XM1: two to the power of `a`, minus one. Beyond -1 to 1, where it is undefined, `a` stays.
#[must_use]
pub fn exp2_minus_one(control: u16, a: F80) -> Answer {
    if let Some(answer) = nan_of(a, a) {
        return answer;
    }
    if a.is_infinite() {
        return (if a.is_negative() { F80::ONE.negated() } else { a }, 0);
    }
    if a.is_zero() {
        return (a, 0);
    }
    let x = Wide::of(a);
    if x.exponent >= 0 {
        let half = F80::new(0xbffe, 1 << 63);
        return (if a == F80::ONE.negated() { half } else { a }, 0);
    }
    let y = x.mul(LN_2);
    let sum = series(y, |power, n| {
        let term = power.mul(y).div_by(n + 1);
        (term, term)
    });
    with_denormal(control, denormal_of(a, a), sum.rounded(control))
}

/// The inverse hyperbolic tangent of a small number.
fn inverse_hyperbolic_tangent(z: Wide) -> Wide {
    let square = z.mul(z);
    series(z, |power, n| {
        let power = power.mul(square);
        (power, power.div_by(2 * n + 1))
    })
}

/// The base-two logarithm of a positive number that is no power of two.
fn log2(x: Wide) -> Wide {
    let mut exponent = x.exponent;
    let mut significand = Wide { exponent: 0, ..x };
    if significand.significand > SQRT_2 {
        significand.exponent = -1;
        exponent += 1;
    }
    let z = significand.sub(Wide::ONE).div(significand.add(Wide::ONE));
    let logarithm = inverse_hyperbolic_tangent(z).scaled(1).mul(LOG2_E);
    logarithm.add(integer(exponent))
}

fn integer(value: i32) -> Wide {
    Wide { negative: value < 0, ..Wide::of_integer(u128::from(value.unsigned_abs()), 0) }
}

/// FYL2X: `b` times the base-two logarithm of `a`.
#[must_use]
pub fn log2_times(control: u16, a: F80, b: F80) -> Answer {
    if let Some(answer) = nan_of(a, b) {
        return answer;
    }
    let denormal = denormal_of(a, b);
    let exact = |value| with_denormal(control, denormal, (value, 0));
    if a.is_zero() {
        return if b.is_zero() {
            (F80::INDEFINITE, IE)
        } else if b.is_infinite() {
            exact(b.negated())
        } else {
            (F80::infinity(!b.is_negative()), ZE)
        };
    }
    if a.is_negative() {
        return (F80::INDEFINITE, IE);
    }
    if a.is_infinite() {
        return if b.is_zero() { (F80::INDEFINITE, IE) } else { exact(F80::infinity(b.is_negative())) };
    }
    let x = Wide::of(a);
    let below_one = x.exponent < 0;
    if b.is_infinite() {
        let one = x == Wide::ONE;
        return if one { (F80::INDEFINITE, IE) } else { exact(F80::infinity(b.is_negative() != below_one)) };
    }
    if b.is_zero() || x == Wide::ONE {
        return exact(F80::zero(b.is_negative() != below_one));
    }
    let y = Wide::of(b);
    let answer = if x.significand == 1 << 127 {
        y.mul(integer(x.exponent)).rounded_exactly(control)
    } else {
        y.mul(log2(x)).rounded(control)
    };
    with_denormal(control, denormal, answer)
}

/// FYL2XP1: `b` times the base-two logarithm of `a + 1`. From -1 down, where it is undefined, it is invalid.
#[must_use]
pub fn log2_of_one_plus_times(control: u16, a: F80, b: F80) -> Answer {
    if let Some(answer) = nan_of(a, b) {
        return answer;
    }
    let denormal = denormal_of(a, b);
    let exact = |value| with_denormal(control, denormal, (value, 0));
    let negative = a.is_negative() != b.is_negative();
    if a.is_zero() {
        return if b.is_infinite() { (F80::INDEFINITE, IE) } else { exact(F80::zero(negative)) };
    }
    if a.is_negative() && a.exponent() >= F80::ONE.exponent() {
        return (F80::INDEFINITE, IE);
    }
    if a.is_infinite() {
        return if b.is_zero() { (F80::INDEFINITE, IE) } else { exact(F80::infinity(negative)) };
    }
    if b.is_infinite() {
        return exact(F80::infinity(negative));
    }
    if b.is_zero() {
        return exact(F80::zero(negative));
    }
    let x = Wide::of(a);
    let logarithm = if x.exponent < -1 {
        let z = x.div(x.add(Wide::power_of_two(1)));
        inverse_hyperbolic_tangent(z).scaled(1).mul(LOG2_E)
    } else {
        let sum = x.add(Wide::ONE);
        if sum.significand == 1 << 127 { integer(sum.exponent) } else { log2(sum) }
    };
    with_denormal(control, denormal, logarithm.mul(Wide::of(b)).rounded(control))
}

/// The arctangent of a number from 0 to 1.
fn arctangent_to_one(t: Wide) -> Wide {
    // To the nearest quarter: the rest is at most 1/8.
    let quarters = t.scaled(2).nearest_small().min(4);
    let centre = Wide::of_integer(u128::from(quarters), -2);
    let rest = t.sub(centre).div(Wide::ONE.add(t.mul(centre)));
    let square = rest.mul(rest).negated();
    let arctangent = series(rest, |power, n| {
        let power = power.mul(square);
        (power, power.div_by(2 * n + 1))
    });
    let [zero, ..] = ARCTANGENTS;
    ARCTANGENTS.get(quarters as usize).copied().unwrap_or(zero).add(arctangent)
}

/// FPATAN: the angle of the point with the abscissa `a` and the ordinate `b`.
#[must_use]
pub fn arctangent(control: u16, a: F80, b: F80) -> Answer {
    if let Some(answer) = nan_of(a, b) {
        return answer;
    }
    let denormal = denormal_of(a, b);
    let signed = |angle: Wide| {
        let angle = Wide { negative: b.is_negative(), ..angle };
        with_denormal(control, denormal, angle.rounded(control))
    };
    let half_pi = PI.scaled(-1);
    match (a.is_infinite(), b.is_infinite()) {
        (true, true) if a.is_negative() => return signed(half_pi.add(PI.scaled(-2))),
        (true, true) => return signed(PI.scaled(-2)),
        (false, true) => return signed(half_pi),
        _ => {}
    }
    if b.is_zero() || a.is_infinite() {
        return if a.is_negative() {
            signed(PI)
        } else {
            with_denormal(control, denormal, (F80::zero(b.is_negative()), 0))
        };
    }
    if a.is_zero() {
        return signed(half_pi);
    }
    let (x, y) = (Wide { negative: false, ..Wide::of(a) }, Wide { negative: false, ..Wide::of(b) });
    let steep = (y.exponent, y.significand) > (x.exponent, x.significand);
    let angle = if steep { half_pi.sub(arctangent_to_one(x.div(y))) } else { arctangent_to_one(y.div(x)) };
    signed(if a.is_negative() { PI.sub(angle) } else { angle })
}

/// Reduces an angle below 2^63 to -pi/4..pi/4 and its quadrant.
fn reduce(a: F80) -> (Wide, u128) {
    let x = Wide::of(a);
    if x.exponent < -1 {
        return (x, 0);
    }
    // `of` leaves the lower half of the significand empty; the exponent is -1 to 62.
    let fixed = (x.significand >> 64) << (x.exponent + 2).clamp(0, 64);
    let (mut quadrant, mut rest) = (fixed / HALF_PI_FIXED, fixed % HALF_PI_FIXED);
    let beyond = rest > HALF_PI_FIXED / 2;
    if beyond {
        rest = HALF_PI_FIXED - rest;
        quadrant += 1;
    }
    let rest = Wide { negative: beyond, ..Wide::of_integer(rest, -65) };
    if x.negative { (rest.negated(), quadrant.wrapping_neg() & 3) } else { (rest, quadrant & 3) }
}

/// The sine and the cosine of -pi/4..pi/4.
fn kernels(x: Wide) -> (Wide, Wide) {
    let square = x.mul(x).negated();
    let sum = |first, odd: u32| {
        series(first, |power: Wide, n| {
            let term = power.mul(square).div_by((2 * n - 1 + odd) * (2 * n + odd));
            (term, term)
        })
    };
    (sum(x, 1), sum(Wide::ONE, 0))
}

/// The sine and the cosine of an angle below 2^63 that is not zero.
fn sine_and_cosine(a: F80) -> (Wide, Wide) {
    let (rest, quadrant) = reduce(a);
    let (sine, cosine) = kernels(rest);
    match quadrant {
        0 => (sine, cosine),
        1 => (cosine, sine.negated()),
        2 => (sine.negated(), cosine.negated()),
        _ => (cosine.negated(), sine),
    }
}

/// What FSIN, FCOS, FSINCOS and FPTAN do with angles that they do not compute with, but for zero.
fn no_angle(a: F80) -> Option<Answer> {
    if let Some(answer) = nan_of(a, a) {
        Some(answer)
    } else if a.is_infinite() {
        Some((F80::INDEFINITE, IE))
    } else if a.exponent() >= F80::ONE.exponent() + 63 {
        Some((a, C2))
    } else {
        None
    }
}

/// FSIN; C2 if `a` is out of range.
#[must_use]
pub fn sine(control: u16, a: F80) -> Answer {
    let (sine, _, flags) = sine_cosine(control, a);
    (sine, flags)
}

/// FCOS; C2 if `a` is out of range.
#[must_use]
pub fn cosine(control: u16, a: F80) -> Answer {
    if let Some(answer) = no_angle(a) {
        return answer;
    }
    if a.is_zero() {
        return (F80::ONE, 0);
    }
    let answer = sine_and_cosine(a).1.rounded(control);
    with_denormal(control, denormal_of(a, a), answer)
}

/// FSINCOS: sine, cosine; C2 if `a` is out of range.
#[must_use]
pub fn sine_cosine(control: u16, a: F80) -> (F80, F80, u16) {
    if let Some((value, flags)) = no_angle(a) {
        return (value, value, flags);
    }
    if a.is_zero() {
        return (a, F80::ONE, 0);
    }
    let (sine, cosine) = sine_and_cosine(a);
    let (sine, flags) = with_denormal(control, denormal_of(a, a), sine.rounded(control));
    (sine, cosine.rounded(control).0, flags)
}

/// FPTAN: the tangent and what is pushed after it, 1 or a NaN; C2 if `a` is out of range.
#[must_use]
pub fn tangent(control: u16, a: F80) -> (F80, F80, u16) {
    if let Some((value, flags)) = no_angle(a) {
        return (value, value, flags);
    }
    if a.is_zero() {
        return (a, F80::ONE, 0);
    }
    let (sine, cosine) = sine_and_cosine(a);
    let answer = sine.div(cosine).rounded(control);
    let (tangent, flags) = with_denormal(control, denormal_of(a, a), answer);
    (tangent, F80::ONE, flags)
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::super::samples::Random;
    use super::super::{host, status};
    use super::*;

    type Function = fn(u16, F80, F80) -> Answer;

    fn first((value, _, flags): (F80, F80, u16)) -> Answer {
        (value, flags)
    }

    fn second((_, value, flags): (F80, F80, u16)) -> Answer {
        (value, flags)
    }

    const FUNCTIONS: [(&str, Function, Function); 9] = [
        ("f2xm1", |c, a, _| host::exp2_minus_one(c, a), |c, a, _| exp2_minus_one(c, a)),
        ("fyl2x", host::log2_times, log2_times),
        ("fyl2xp1", host::log2_of_one_plus_times, log2_of_one_plus_times),
        ("fpatan", host::arctangent, arctangent),
        ("fsin", |c, a, _| host::sine(c, a), |c, a, _| sine(c, a)),
        ("fcos", |c, a, _| host::cosine(c, a), |c, a, _| cosine(c, a)),
        ("fptan", |c, a, _| first(host::tangent(c, a)), |c, a, _| first(tangent(c, a))),
        ("fsincos' sine", |c, a, _| first(host::sine_cosine(c, a)), |c, a, _| first(sine_cosine(c, a))),
        ("fsincos' cosine", |c, a, _| second(host::sine_cosine(c, a)), |c, a, _| second(sine_cosine(c, a))),
    ];

    /// An integer in which neighbouring numbers differ by one.
    fn position(a: F80) -> i128 {
        let magnitude = i128::from(a.exponent()) << 63 | i128::from(a.mantissa & !(1 << 63));
        if a.is_negative() { -magnitude } else { magnitude }
    }

    #[test]
    fn the_series_agree_with_the_host_to_the_last_place() {
        let mut random = Random::seeded();
        let rounds = Random::rounds(10_000);
        let mut failures = 0;
        for (name, host, twin) in FUNCTIONS {
            for _ in 0..rounds {
                let (a, b) = (random.number(), random.number());
                let control = random.control() | status::EXCEPTIONS;
                let (expected, ours) = (host(control, a, b), twin(control, a, b));
                let undefined = match name {
                    "f2xm1" => !a.is_infinite() && a.exponent() >= 0x3fff,
                    "fyl2xp1" => a.exponent() >= 0x3ffd,
                    _ => false,
                };
                // Out of range there is no result.
                if undefined || ours.1 & expected.1 & C2 != 0 {
                    continue;
                }
                let distance = (position(expected.0) - position(ours.0)).unsigned_abs();
                if distance > 1 || (expected.1 ^ ours.1) & (status::EXCEPTIONS | C2) != 0 {
                    failures += 1;
                    if failures < 10 {
                        println!(
                            "{name} cw {control:04x} {a:x?} {b:x?}\n host {expected:x?}\n twin {ours:x?}"
                        );
                    }
                }
            }
        }
        assert_eq!(failures, 0);
    }
}

//! IEEE 754 binary32 and binary64 in integer arithmetic, with MXCSR's controls and flags and the rules
//! of the SSE instructions for NaNs, denormals and underflow (Intel SDM vol. 1, sections 4.8 and 11.5).
#![forbid(unsafe_code)]

use std::cmp::Ordering;

use super::Xm;

/// MXCSR: invalid operation.
pub const IE: u32 = 1 << 0;
/// MXCSR: denormal operand.
pub const DE: u32 = 1 << 1;
/// MXCSR: division by zero.
pub const ZE: u32 = 1 << 2;
/// MXCSR: overflow.
pub const OE: u32 = 1 << 3;
/// MXCSR: underflow.
pub const UE: u32 = 1 << 4;
/// MXCSR: precision (an inexact result).
pub const PE: u32 = 1 << 5;
/// MXCSR: denormal operands are zeros.
pub const DAZ: u32 = 1 << 6;
/// MXCSR: tiny results are zeros, where underflow is masked.
pub const FZ: u32 = 1 << 15;

/// Rounding modes as MXCSR.RC and the immediate of ROUNDPS encode them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// To nearest, ties to even.
    Nearest,
    /// Toward minus infinity.
    Down,
    /// Toward plus infinity.
    Up,
    /// Toward zero.
    Zero,
}

impl Rounding {
    /// The mode with the two-bit code `code`.
    pub fn from_code(code: u32) -> Self {
        match code & 3 {
            0 => Self::Nearest,
            1 => Self::Down,
            2 => Self::Up,
            _ => Self::Zero,
        }
    }
}

/// The controls under which one instruction computes, and the exceptions that it meets.
pub struct Env {
    /// Rounding mode.
    pub rounding: Rounding,
    /// Denormal operands are zeros.
    pub daz: bool,
    /// Tiny results are zeros.
    pub flush: bool,
    /// Underflow is unmasked: every tiny result is one, exact or not.
    pub trap_underflow: bool,
    /// Overflow is unmasked.
    pub trap_overflow: bool,
    /// Exception flags so far.
    pub flags: u32,
}

impl Env {
    /// The environment that `mxcsr` asks for.
    pub fn new(mxcsr: u32) -> Self {
        let trap_underflow = mxcsr & UE << 7 == 0;
        Self {
            rounding: Rounding::from_code(mxcsr >> 13),
            daz: mxcsr & DAZ != 0,
            flush: mxcsr & FZ != 0 && !trap_underflow,
            trap_underflow,
            trap_overflow: mxcsr & (OE << 7) == 0,
            flags: 0,
        }
    }

    /// Adds the flags to `mxcsr` and gives `value`, or #XM if one of them is unmasked.
    ///
    /// # Errors
    /// [`Xm`]. An unmasked exception that precedes the computation (invalid, denormal, division by
    /// zero) hides those that follow it (overflow, underflow, precision).
    pub fn finish<T>(&self, mxcsr: &mut u32, value: T) -> Result<T, Xm> {
        let unmasked = !(*mxcsr >> 7) & self.flags;
        let before = IE | DE | ZE;
        *mxcsr |= if unmasked & before != 0 { self.flags & before } else { self.flags };
        if unmasked == 0 { Ok(value) } else { Err(Xm) }
    }
}

/// A binary interchange format. Values are bit patterns in the low bits of a `u64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// Bits of the fraction.
    fraction: u32,
    /// Bits of the exponent.
    exponent: u32,
}

/// binary32.
pub const F32: Format = Format { fraction: 23, exponent: 8 };
/// binary64.
pub const F64: Format = Format { fraction: 52, exponent: 11 };

/// What a bit pattern stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// A number, `significand * 2^exponent`; zero has significand 0.
    Finite {
        exponent: i32,
        significand: u64,
    },
    Infinite,
    QuietNan,
    SignalingNan,
}

/// An operand.
#[derive(Debug, Clone, Copy)]
struct Operand {
    bits: u64,
    negative: bool,
    class: Class,
    /// A denormal number that counts as one (DAZ is off).
    denormal: bool,
}

impl Operand {
    fn is_nan(self) -> bool {
        matches!(self.class, Class::QuietNan | Class::SignalingNan)
    }

    fn is_zero(self) -> bool {
        matches!(self.class, Class::Finite { significand: 0, .. })
    }
}

/// A comparison's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// The first operand is less.
    Less,
    /// They are equal.
    Equal,
    /// The first operand is greater.
    Greater,
    /// One of them is a NaN.
    Unordered,
}

/// `significand * 2^exponent` in units of `2^quantum`, rounded, and whether it was inexact.
///
/// The significand must be less than `2^127` and, where it has to be shifted left, small enough.
fn round_to(
    negative: bool,
    exponent: i32,
    significand: u128,
    quantum: i32,
    rounding: Rounding,
) -> (u128, bool) {
    let shift = quantum - exponent;
    if shift <= 0 {
        return (significand << -shift, false);
    }
    // How what is cut off compares with half a unit.
    let (kept, cut, half) = if shift < 128 {
        (significand >> shift, significand & ((1 << shift) - 1), 1 << (shift - 1))
    } else {
        (0, significand, u128::MAX)
    };
    let up = match rounding {
        Rounding::Nearest => cut > half || cut == half && kept & 1 != 0,
        Rounding::Down => negative && cut != 0,
        Rounding::Up => !negative && cut != 0,
        Rounding::Zero => false,
    };
    (kept + u128::from(up), cut != 0)
}

impl Format {
    fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }
    fn sign(self) -> u64 {
        1 << (self.fraction + self.exponent)
    }
    fn fraction_mask(self) -> u64 {
        (1 << self.fraction) - 1
    }
    fn infinity(self) -> u64 {
        ((1 << self.exponent) - 1) << self.fraction
    }
    fn quiet_bit(self) -> u64 {
        1 << (self.fraction - 1)
    }
    /// The NaN that invalid operations give: "QNaN floating-point indefinite".
    fn indefinite(self) -> u64 {
        self.sign() | self.infinity() | self.quiet_bit()
    }
    fn signed(self, negative: bool, magnitude: u64) -> u64 {
        if negative { self.sign() | magnitude } else { magnitude }
    }

    fn operand(self, env: &Env, bits: u64) -> Operand {
        let fraction = bits & self.fraction_mask();
        let biased = (bits & self.infinity()) >> self.fraction;
        let least = 1 - self.bias() - self.fraction as i32;
        let denormal = biased == 0 && fraction != 0;
        let class = if biased == 0 {
            let significand = if env.daz { 0 } else { fraction };
            Class::Finite { exponent: least, significand }
        } else if bits & self.infinity() != self.infinity() {
            let significand = fraction | 1 << self.fraction;
            Class::Finite { exponent: least + biased as i32 - 1, significand }
        } else if fraction == 0 {
            Class::Infinite
        } else if fraction & self.quiet_bit() != 0 {
            Class::QuietNan
        } else {
            Class::SignalingNan
        };
        Operand { bits, negative: bits & self.sign() != 0, class, denormal: denormal && !env.daz }
    }

    /// The result of an operation on `operands` of which one is a NaN; `None` if none is. An infinite or
    /// finite operand's denormal exception is up to the caller.
    fn nan(self, env: &mut Env, operands: &[Operand]) -> Option<u64> {
        if operands.iter().any(|o| o.class == Class::SignalingNan) {
            env.flags |= IE;
        }
        operands.iter().find(|o| o.is_nan()).map(|o| o.bits | self.quiet_bit())
    }

    fn invalid(self, env: &mut Env) -> u64 {
        env.flags |= IE;
        self.indefinite()
    }

    fn note_denormals(env: &mut Env, operands: &[Operand]) {
        if operands.iter().any(|o| o.denormal) {
            env.flags |= DE;
        }
    }

    /// Rounds `significand * 2^exponent` (not zero, less than 2^127) to this format.
    fn round(self, env: &mut Env, negative: bool, exponent: i32, significand: u128) -> u64 {
        let top = exponent + significand.ilog2() as i32;
        let fraction = self.fraction as i32;
        let least = 1 - self.bias();
        // First as if the exponent had no bounds: whether a result is tiny is decided after rounding.
        let (rounded, inexact) = round_to(negative, exponent, significand, top - fraction, env.rounding);
        let carried = rounded >> (fraction + 1) != 0;
        let top = if carried { top + 1 } else { top };
        let rounded = if carried { rounded >> 1 } else { rounded };
        let precision = if inexact { PE } else { 0 };
        if top < least {
            if env.trap_underflow {
                env.flags |= UE | precision;
                return 0;
            }
            if env.flush {
                env.flags |= UE | PE;
                return self.signed(negative, 0);
            }
            let (rounded, inexact) =
                round_to(negative, exponent, significand, least - fraction, env.rounding);
            if inexact {
                env.flags |= UE | PE;
            }
            // If it has become the least normal number, its leading bit is the exponent's.
            return self.signed(negative, rounded as u64);
        }
        env.flags |= precision;
        if top > self.bias() {
            env.flags |= OE;
            // A trapped overflow is inexact only if the result would be so with a greater exponent.
            if !env.trap_overflow {
                env.flags |= PE;
            }
            let away = match env.rounding {
                Rounding::Nearest => true,
                Rounding::Down => negative,
                Rounding::Up => !negative,
                Rounding::Zero => false,
            };
            return self.signed(negative, self.infinity() - u64::from(!away));
        }
        let biased = (top + self.bias()) as u64;
        self.signed(negative, biased << self.fraction | rounded as u64 & self.fraction_mask())
    }

    /// `a + b`, or `a - b`.
    fn sum(self, env: &mut Env, a: u64, b: u64, subtract: bool) -> u64 {
        let (a, b) = (self.operand(env, a), self.operand(env, b));
        if let Some(nan) = self.nan(env, &[a, b]) {
            return nan;
        }
        let b_negative = b.negative != subtract;
        let (exponent_a, a_significand, exponent_b, b_significand) = match (a.class, b.class) {
            (Class::Infinite, Class::Infinite) if a.negative != b_negative => return self.invalid(env),
            (Class::Infinite, _) => {
                Self::note_denormals(env, &[b]);
                return a.bits;
            }
            (
                Class::Finite { exponent: ea, significand: sa },
                Class::Finite { exponent: eb, significand: sb },
            ) => (ea, sa, eb, sb),
            _ => {
                Self::note_denormals(env, &[a]);
                return self.signed(b_negative, self.infinity());
            }
        };
        Self::note_denormals(env, &[a, b]);
        // 64 bits below the greater exponent's unit, and whatever lies beyond in the last one.
        let exponent = exponent_a.max(exponent_b) - 64;
        let align = |e: i32, s: u64| {
            let wide = u128::from(s) << 64;
            let shift = (exponent + 64 - e).min(127);
            let lost = wide & ((1 << shift) - 1) != 0;
            wide >> shift | u128::from(lost)
        };
        let (x, y) = (align(exponent_a, a_significand), align(exponent_b, b_significand));
        let (negative, magnitude) = if a.negative == b_negative {
            (a.negative, x + y)
        } else if x >= y {
            (a.negative, x - y)
        } else {
            (b_negative, y - x)
        };
        if magnitude == 0 {
            let negative = if a.negative == b_negative { a.negative } else { env.rounding == Rounding::Down };
            return self.signed(negative, 0);
        }
        self.round(env, negative, exponent, magnitude)
    }

    /// `a + b`.
    pub fn add(self, env: &mut Env, a: u64, b: u64) -> u64 {
        self.sum(env, a, b, false)
    }

    /// `a - b`.
    pub fn sub(self, env: &mut Env, a: u64, b: u64) -> u64 {
        self.sum(env, a, b, true)
    }

    /// `a * b`.
    pub fn mul(self, env: &mut Env, a: u64, b: u64) -> u64 {
        let (a, b) = (self.operand(env, a), self.operand(env, b));
        if let Some(nan) = self.nan(env, &[a, b]) {
            return nan;
        }
        let negative = a.negative != b.negative;
        let (
            Class::Finite { exponent: ea, significand: sa },
            Class::Finite { exponent: eb, significand: sb },
        ) = (a.class, b.class)
        else {
            if a.is_zero() || b.is_zero() {
                return self.invalid(env);
            }
            Self::note_denormals(env, &[a, b]);
            return self.signed(negative, self.infinity());
        };
        Self::note_denormals(env, &[a, b]);
        if sa == 0 || sb == 0 {
            return self.signed(negative, 0);
        }
        self.round(env, negative, ea + eb, u128::from(sa) * u128::from(sb))
    }

    /// `a / b`.
    pub fn div(self, env: &mut Env, a: u64, b: u64) -> u64 {
        let (a, b) = (self.operand(env, a), self.operand(env, b));
        if let Some(nan) = self.nan(env, &[a, b]) {
            return nan;
        }
        let negative = a.negative != b.negative;
        let (ea, sa, eb, sb) = match (a.class, b.class) {
            (
                Class::Finite { exponent: ea, significand: sa },
                Class::Finite { exponent: eb, significand: sb },
            ) => (ea, sa, eb, sb),
            (Class::Infinite, Class::Infinite) => return self.invalid(env),
            (Class::Infinite, _) => {
                Self::note_denormals(env, &[b]);
                return self.signed(negative, self.infinity());
            }
            _ => {
                Self::note_denormals(env, &[a]);
                return self.signed(negative, 0);
            }
        };
        match (sa, sb) {
            (0, 0) => return self.invalid(env),
            (_, 0) => {
                env.flags |= ZE;
                return self.signed(negative, self.infinity());
            }
            (0, _) => {
                Self::note_denormals(env, &[b]);
                return self.signed(negative, 0);
            }
            _ => Self::note_denormals(env, &[a, b]),
        }
        let (za, zb) = (sa.leading_zeros(), sb.leading_zeros());
        let (dividend, divisor) = (u128::from(sa << za) << 63, u128::from(sb << zb));
        let quotient = (dividend / divisor) << 1 | u128::from(dividend % divisor != 0);
        self.round(env, negative, ea - za as i32 - (eb - zb as i32) - 64, quotient)
    }

    /// The square root of `a`.
    pub fn sqrt(self, env: &mut Env, a: u64) -> u64 {
        let a = self.operand(env, a);
        if let Some(nan) = self.nan(env, &[a]) {
            return nan;
        }
        if a.is_zero() {
            return self.signed(a.negative, 0);
        }
        if a.negative {
            return self.invalid(env);
        }
        let Class::Finite { exponent, significand } = a.class else { return a.bits };
        Self::note_denormals(env, &[a]);
        let zeros = significand.leading_zeros();
        let exponent = exponent - zeros as i32;
        // The radicand's exponent has to be even.
        let extra = 62 + exponent.rem_euclid(2);
        let radicand = u128::from(significand << zeros) << extra;
        let root = radicand.isqrt();
        let inexact = root * root != radicand;
        self.round(env, false, (exponent - extra) / 2 - 1, root << 1 | u128::from(inexact))
    }

    /// How `a` compares with `b`. A NaN is invalid if it is signaling, or of any kind when `signal` is set.
    pub fn compare(self, env: &mut Env, a: u64, b: u64, signal: bool) -> Relation {
        let (a, b) = (self.operand(env, a), self.operand(env, b));
        if a.is_nan() || b.is_nan() {
            if signal || a.class == Class::SignalingNan || b.class == Class::SignalingNan {
                env.flags |= IE;
            }
        } else {
            Self::note_denormals(env, &[a, b]);
        }
        if a.is_nan() || b.is_nan() {
            return Relation::Unordered;
        }
        // Magnitudes of one format are ordered as their bit patterns.
        let key = |o: Operand| {
            let magnitude = if o.is_zero() { 0 } else { (o.bits & !self.sign()) as i64 };
            if o.negative { -magnitude } else { magnitude }
        };
        match key(a).cmp(&key(b)) {
            Ordering::Less => Relation::Less,
            Ordering::Equal => Relation::Equal,
            Ordering::Greater => Relation::Greater,
        }
    }

    /// `a`, or zero of its sign if it is a denormal and denormals are zeros.
    fn flushed(self, env: &Env, a: u64) -> u64 {
        let magnitude = a & !self.sign();
        if env.daz && magnitude != 0 && magnitude <= self.fraction_mask() { a & self.sign() } else { a }
    }

    /// MINPS and its kin: `a` if it is less than `b`, else `b`; also where they are unordered or both zero.
    pub fn min(self, env: &mut Env, a: u64, b: u64) -> u64 {
        let first = self.compare(env, a, b, true) == Relation::Less;
        self.flushed(env, if first { a } else { b })
    }

    /// MAXPS and its kin: `a` if it is greater than `b`, else `b`.
    pub fn max(self, env: &mut Env, a: u64, b: u64) -> u64 {
        let first = self.compare(env, a, b, true) == Relation::Greater;
        self.flushed(env, if first { a } else { b })
    }

    /// `a` rounded to an integer, in this format. Precision is reported unless `quiet`.
    pub fn round_to_integer(self, env: &mut Env, a: u64, rounding: Rounding, quiet: bool) -> u64 {
        let a = self.operand(env, a);
        if let Some(nan) = self.nan(env, &[a]) {
            return nan;
        }
        let Class::Finite { exponent, significand } = a.class else { return a.bits };
        if exponent >= 0 {
            return a.bits;
        }
        let (integer, inexact) = round_to(a.negative, exponent, significand.into(), 0, rounding);
        if inexact && !quiet {
            env.flags |= PE;
        }
        if integer == 0 { self.signed(a.negative, 0) } else { self.round(env, a.negative, 0, integer) }
    }

    /// `a` as a signed integer of `width` bits (32 or 64), in the low bits; the most negative one stands
    /// for what does not fit.
    pub fn to_integer(self, env: &mut Env, a: u64, width: u32, rounding: Rounding) -> u64 {
        let a = self.operand(env, a);
        let most_negative = 1u64 << (width - 1);
        if let Class::Finite { exponent, significand } = a.class
            && exponent < 64
        {
            let (magnitude, inexact) = round_to(a.negative, exponent, significand.into(), 0, rounding);
            let limit = u128::from(most_negative) - u128::from(!a.negative);
            if magnitude <= limit {
                if inexact {
                    env.flags |= PE;
                }
                let magnitude = magnitude as u64;
                let value = if a.negative { magnitude.wrapping_neg() } else { magnitude };
                return value & u64::MAX >> (64 - width);
            }
        }
        env.flags |= IE;
        most_negative
    }

    /// The integer `value` in this format.
    pub fn integer(self, env: &mut Env, value: i64) -> u64 {
        if value == 0 {
            return 0;
        }
        self.round(env, value < 0, 0, value.unsigned_abs().into())
    }

    /// `a`, of this format, in the format `to`.
    pub fn convert(self, env: &mut Env, a: u64, to: Self) -> u64 {
        let a = self.operand(env, a);
        if let Some(nan) = self.nan(env, &[a]) {
            let payload = nan & self.fraction_mask();
            let payload = if to.fraction > self.fraction {
                payload << (to.fraction - self.fraction)
            } else {
                payload >> (self.fraction - to.fraction)
            };
            return to.signed(a.negative, to.infinity() | payload);
        }
        let Class::Finite { exponent, significand } = a.class else {
            return to.signed(a.negative, to.infinity());
        };
        Self::note_denormals(env, &[a]);
        if significand == 0 {
            return to.signed(a.negative, 0);
        }
        to.round(env, a.negative, exponent, significand.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All exceptions masked, to nearest.
    const DEFAULT: u32 = 0x1f80;

    /// Compares with the host's arithmetic, which gives NaNs of its own.
    fn same(ours: u64, theirs: f64) -> bool {
        ours == theirs.to_bits() || f64::from_bits(ours).is_nan() && theirs.is_nan()
    }

    proptest! {
        #[test]
        fn doubles_round_as_the_host_does(x in any::<u64>(), y in any::<u64>(), near in any::<bool>()) {
            // Half of the pairs have exponents near one another.
            let y = if near { y >> 12 | x & 0xfff << 52 } else { y };
            let (a, b) = (f64::from_bits(x), f64::from_bits(y));
            let mut env = Env::new(DEFAULT);
            prop_assert!(same(F64.add(&mut env, x, y), a + b));
            prop_assert!(same(F64.sub(&mut env, x, y), a - b));
            prop_assert!(same(F64.mul(&mut env, x, y), a * b));
            prop_assert!(same(F64.div(&mut env, x, y), a / b));
            prop_assert!(same(F64.sqrt(&mut env, x), a.sqrt()));
            prop_assert!(same(F32.convert(&mut env, x & 0xffff_ffff, F64), f64::from(f32::from_bits(x as u32))));
            prop_assert_eq!(f32::from_bits(F64.convert(&mut env, x, F32) as u32).is_nan(), a.is_nan());
            if !a.is_nan() {
                prop_assert_eq!(F64.convert(&mut env, x, F32) as u32, (a as f32).to_bits());
            }
            prop_assert_eq!(F64.integer(&mut env, x as i64), (x as i64 as f64).to_bits());
        }
    }

    #[test]
    fn flags_tell_what_happened() {
        let flags = |f: &dyn Fn(&mut Env) -> u64, mxcsr| {
            let mut env = Env::new(mxcsr);
            let result = f(&mut env);
            (result, env.flags)
        };
        let (one, three, least) = (1f64.to_bits(), 3f64.to_bits(), 1u64);
        let normal = f64::MIN_POSITIVE.to_bits();
        assert_eq!(flags(&|e| F64.div(e, one, three), DEFAULT), ((1f64 / 3.0).to_bits(), PE));
        assert_eq!(flags(&|e| F64.div(e, one, 0), DEFAULT), (f64::INFINITY.to_bits(), ZE));
        assert_eq!(flags(&|e| F64.div(e, 0, 0), DEFAULT), (0xfff8 << 48, IE));
        assert_eq!(flags(&|e| F64.add(e, one, least), DEFAULT), (one, DE | PE));
        assert_eq!(flags(&|e| F64.add(e, one, least), DEFAULT | DAZ), (one, 0));
        // An exact tiny result is an underflow only when that is flushed or traps.
        let half = 0.5f64.to_bits();
        assert_eq!(flags(&|e| F64.mul(e, normal, half), DEFAULT), (normal >> 1, 0));
        assert_eq!(flags(&|e| F64.mul(e, normal, half), DEFAULT | FZ), (0, UE | PE));
        assert_eq!(flags(&|e| F64.mul(e, normal, half), DEFAULT & !(UE << 7)).1, UE);
    }
}

//! Numbers with a significand of 128 bits, in which the transcendental functions are computed.
#![forbid(unsafe_code)]

use super::F80;
use super::softfloat::{Answer, BIAS, round_to, unpack};
use super::status::{PE, UE};

/// `(-1)^negative * significand * 2^(exponent - 127)`; the significand's top bit is set unless it is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wide {
    pub negative: bool,
    pub exponent: i32,
    pub significand: u128,
}

impl Wide {
    pub(super) const ZERO: Self = Self { negative: false, exponent: 0, significand: 0 };
    pub(super) const ONE: Self = Self::power_of_two(0);

    /// A positive number in [1, 2) times two to the power of `exponent`.
    pub(super) const fn new(exponent: i32, significand: u128) -> Self {
        Self { negative: false, exponent, significand }
    }

    pub(super) const fn power_of_two(exponent: i32) -> Self {
        Self::new(exponent, 1 << 127)
    }

    /// A finite number.
    pub(super) fn of(a: F80) -> Self {
        if a.is_zero() {
            return Self { negative: a.is_negative(), ..Self::ZERO };
        }
        let (exponent, significand) = unpack(a);
        Self {
            negative: a.is_negative(),
            exponent: exponent - BIAS,
            significand: u128::from(significand) << 64,
        }
    }

    /// `value * 2^scale`.
    pub(super) fn of_integer(value: u128, scale: i32) -> Self {
        if value == 0 {
            return Self::ZERO;
        }
        let shift = value.leading_zeros();
        Self::new(127 - shift as i32 + scale, value << shift)
    }

    /// Rounded as the control word says. These functions' results are never exact, so PE is always raised.
    pub(super) fn rounded(self, control: u16) -> Answer {
        // Leave no result looking exact.
        round_to(64, control, self.negative, self.exponent + BIAS, self.significand | 1)
    }

    /// Rounded as the control word says where the last bit is no guess. PE is raised nevertheless, as
    /// processors do.
    pub(super) fn rounded_exactly(self, control: u16) -> Answer {
        let (value, flags) = round_to(64, control, self.negative, self.exponent + BIAS, self.significand);
        (value, flags | PE | if value.is_denormal() { UE } else { 0 })
    }

    /// The nearest integer of a number in 0 to 2^16.
    pub(super) fn nearest_small(self) -> u32 {
        let doubled = match self.exponent {
            exponent @ -1..=16 => (self.significand >> (126 - exponent)) as u32,
            _ => 0,
        };
        doubled.div_ceil(2)
    }

    pub(super) const fn negated(self) -> Self {
        Self { negative: !self.negative, ..self }
    }

    pub(super) const fn scaled(self, power: i32) -> Self {
        Self { exponent: self.exponent + power, ..self }
    }

    pub(super) fn add(self, other: Self) -> Self {
        if self.significand == 0 {
            return other;
        }
        if other.significand == 0 {
            return self;
        }
        let (large, small) = if (self.exponent, self.significand) >= (other.exponent, other.significand) {
            (self, other)
        } else {
            (other, self)
        };
        let distance = large.exponent.abs_diff(small.exponent);
        // What is too small to matter still makes the result inexact, on the right side.
        let y = small.significand.checked_shr(distance).unwrap_or(0).max(1);
        if large.negative == small.negative {
            let (sum, carry) = large.significand.overflowing_add(y);
            if carry {
                return Self { exponent: large.exponent + 1, significand: sum >> 1 | 1 << 127, ..large };
            }
            return Self { significand: sum, ..large };
        }
        let difference = large.significand - y;
        if difference == 0 {
            return Self::ZERO;
        }
        let shift = difference.leading_zeros();
        Self { exponent: large.exponent - shift as i32, significand: difference << shift, ..large }
    }

    pub(super) fn sub(self, other: Self) -> Self {
        self.add(other.negated())
    }

    pub(super) fn mul(self, other: Self) -> Self {
        let negative = self.negative != other.negative;
        let high = high_product(self.significand, other.significand);
        if high == 0 {
            return Self { negative, ..Self::ZERO };
        }
        let shift = high.leading_zeros();
        Self {
            negative,
            exponent: self.exponent + other.exponent + 1 - shift as i32,
            significand: high << shift,
        }
    }

    /// The quotient; the divisor is not zero.
    pub(super) fn div(self, other: Self) -> Self {
        if self.significand == 0 {
            return Self { negative: self.negative != other.negative, ..Self::ZERO };
        }
        // Newton's iteration from 63 bits of the reciprocal of the divisor's significand in [1, 2).
        let divisor = Self { negative: false, exponent: 0, ..other };
        let estimate = (u128::MAX >> 1) / (other.significand >> 64).max(1);
        let mut reciprocal = Self::of_integer(estimate, -64);
        for _ in 0..2 {
            let error = Self::ONE.sub(divisor.mul(reciprocal));
            reciprocal = reciprocal.add(reciprocal.mul(error));
        }
        let quotient = self.mul(reciprocal);
        Self {
            negative: self.negative != other.negative,
            exponent: quotient.exponent - other.exponent,
            ..quotient
        }
    }

    /// Divided by a small positive integer.
    pub(super) fn div_by(self, divisor: u32) -> Self {
        if self.significand == 0 {
            return self;
        }
        let divisor = u128::from(divisor);
        let (mut quotient, rest) = (self.significand / divisor, self.significand % divisor);
        let shift = quotient.leading_zeros();
        quotient = (quotient << shift) | ((rest << shift) / divisor);
        Self { exponent: self.exponent - shift as i32, significand: quotient, ..self }
    }
}

/// The upper half of the product.
fn high_product(a: u128, b: u128) -> u128 {
    let low = u128::from(u64::MAX);
    let (a1, a0, b1, b0) = (a >> 64, a & low, b >> 64, b & low);
    let (cross, other) = (a1 * b0, a0 * b1);
    let carry = ((a0 * b0) >> 64) + (cross & low) + (other & low);
    a1 * b1 + (cross >> 64) + (other >> 64) + (carry >> 64)
}

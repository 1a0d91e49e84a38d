//! RCPPS, RSQRTPS and their scalar twins on hosts that do not have them.
#![forbid(unsafe_code)]

use super::Xm;
use super::lanes::map;
use super::softfloat::{Env, F32};

/// MXCSR under which approximations are computed: to nearest, all masked, denormals are zeros.
const APPROXIMATION: u32 = 0x9fc0;

/// Rounds a binary32 to 12 bits of significand: what RCPPS and RSQRTPS promise is a relative error of
/// at most 1.5 * 2^-12, and processors differ in the bits.
fn twelve_bits(bits: u64) -> u32 {
    let bits = bits as u32;
    let infinite_or_nan = bits & 0x7f80_0000 == 0x7f80_0000;
    if infinite_or_nan { bits } else { bits.wrapping_add(0x7ff + (bits >> 12 & 1)) & 0xffff_f000 }
}

const ONE: u64 = 0x3f80_0000;

/// An approximation of `1 / b`.
fn reciprocal(b: u32) -> u32 {
    twelve_bits(F32.div(&mut Env::new(APPROXIMATION), ONE, b.into()))
}

/// An approximation of `1 / sqrt(b)`.
fn reciprocal_root(b: u32) -> u32 {
    let mut env = Env::new(APPROXIMATION);
    let root = F32.sqrt(&mut env, b.into());
    twelve_bits(F32.div(&mut env, ONE, root))
}

/// `low` as the lowest lane of `a`.
fn low_lane(a: u128, low: u32) -> u128 {
    a & !u128::from(u32::MAX) | u128::from(low)
}

pub fn rcpps(_: u128, b: u128, _: u8, _: &mut u32) -> Result<u128, Xm> {
    Ok(map::<u32, 4>(b, reciprocal))
}
pub fn rcpss(a: u128, b: u128, _: u8, _: &mut u32) -> Result<u128, Xm> {
    Ok(low_lane(a, reciprocal(b as u32)))
}
pub fn rsqrtps(_: u128, b: u128, _: u8, _: &mut u32) -> Result<u128, Xm> {
    Ok(map::<u32, 4>(b, reciprocal_root))
}
pub fn rsqrtss(a: u128, b: u128, _: u8, _: &mut u32) -> Result<u128, Xm> {
    Ok(low_lane(a, reciprocal_root(b as u32)))
}

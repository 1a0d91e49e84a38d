//! Floating-point instructions that combine lanes of one register, out of packed ones.
#![forbid(unsafe_code)]

use super::Xm;
use super::float::unit;
use super::lanes::Lanes;

/// The even and the odd lanes of `a` and `b`, those of `a` first.
fn deinterleave_single(a: u128, b: u128) -> (u128, u128) {
    let (a, b) = (<[u32; 4]>::split(a), <[u32; 4]>::split(b));
    ([a[0], a[2], b[0], b[2]].join(), [a[1], a[3], b[1], b[3]].join())
}

/// The low and the high lanes of `a` and `b`.
fn deinterleave_double(a: u128, b: u128) -> (u128, u128) {
    let (a, b) = (<[u64; 2]>::split(a), <[u64; 2]>::split(b));
    ([a[0], b[0]].join(), [a[1], b[1]].join())
}

pub fn haddps(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    let (even, odd) = deinterleave_single(a, b);
    unit::addps(even, odd, 0, mxcsr)
}
pub fn haddpd(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    let (low, high) = deinterleave_double(a, b);
    unit::addpd(low, high, 0, mxcsr)
}
pub fn hsubps(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    let (even, odd) = deinterleave_single(a, b);
    unit::subps(even, odd, 0, mxcsr)
}
pub fn hsubpd(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    let (low, high) = deinterleave_double(a, b);
    unit::subpd(low, high, 0, mxcsr)
}

/// Products where the immediate's upper half selects them, then `(p0 + p1) + (p2 + p3)`, to the lanes
/// that its lower half selects.
pub fn dpps(a: u128, b: u128, imm: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    let keep = |register: u128, bits: u8| {
        let mut lanes = <[u32; 4]>::split(register);
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane = if bits >> i & 1 != 0 { *lane } else { 0 };
        }
        lanes.join()
    };
    let products = unit::mulps(keep(a, imm >> 4), keep(b, imm >> 4), 0, mxcsr)?;
    let (even, odd) = deinterleave_single(products, 0);
    let sums = <[u32; 4]>::split(unit::addps(even, odd, 0, mxcsr)?);
    let sum = unit::addss(sums[0].into(), sums[1].into(), 0, mxcsr)? as u32;
    Ok(keep([sum; 4].join(), imm))
}

/// As [`dpps`], with two lanes.
pub fn dppd(a: u128, b: u128, imm: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    let keep = |register: u128, bits: u8| {
        let lanes = <[u64; 2]>::split(register);
        [if bits & 1 != 0 { lanes[0] } else { 0 }, if bits & 2 != 0 { lanes[1] } else { 0 }].join()
    };
    let products = unit::mulpd(keep(a, imm >> 4), keep(b, imm >> 4), 0, mxcsr)?;
    let sum = unit::addsd(products & u128::from(u64::MAX), products >> 64, 0, mxcsr)? as u64;
    Ok(keep([sum; 2].join(), imm))
}

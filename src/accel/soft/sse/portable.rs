//! Floating-point instructions on any host: each lane through `softfloat`.
#![forbid(unsafe_code)]

use super::lanes::{Lanes, build};
use super::softfloat::{Env, F32, F64, Format, Relation, Rounding};
use super::{CF, PF, Xm, ZF};

/// An operation on one lane of two operands.
type Lane = fn(Format, &mut Env, u64, u64) -> u64;

/// All four binary32 lanes.
fn packed_single(
    a: u128,
    b: u128,
    mxcsr: &mut u32,
    f: impl Fn(&mut Env, u64, u64, usize) -> u64,
) -> Result<u128, Xm> {
    let mut env = Env::new(*mxcsr);
    let (a, b) = (<[u32; 4]>::split(a), <[u32; 4]>::split(b));
    let result = build::<u32, 4>(|i| f(&mut env, a[i].into(), b[i].into(), i) as u32);
    env.finish(mxcsr, result)
}

/// Both binary64 lanes.
fn packed_double(
    a: u128,
    b: u128,
    mxcsr: &mut u32,
    f: impl Fn(&mut Env, u64, u64, usize) -> u64,
) -> Result<u128, Xm> {
    let mut env = Env::new(*mxcsr);
    let (a, b) = (<[u64; 2]>::split(a), <[u64; 2]>::split(b));
    let result = build::<u64, 2>(|i| f(&mut env, a[i], b[i], i));
    env.finish(mxcsr, result)
}

/// The lowest binary32 lane; the others are those of `a`.
fn scalar_single(
    a: u128,
    b: u128,
    mxcsr: &mut u32,
    f: impl Fn(&mut Env, u64, u64) -> u64,
) -> Result<u128, Xm> {
    let mut env = Env::new(*mxcsr);
    let low = f(&mut env, (a as u32).into(), (b as u32).into());
    env.finish(mxcsr, a & !u128::from(u32::MAX) | u128::from(low))
}

/// The lowest binary64 lane; the other is that of `a`.
fn scalar_double(
    a: u128,
    b: u128,
    mxcsr: &mut u32,
    f: impl Fn(&mut Env, u64, u64) -> u64,
) -> Result<u128, Xm> {
    let mut env = Env::new(*mxcsr);
    let low = f(&mut env, a as u64, b as u64);
    env.finish(mxcsr, a & !u128::from(u64::MAX) | u128::from(low))
}

fn ps(a: u128, b: u128, mxcsr: &mut u32, f: Lane) -> Result<u128, Xm> {
    packed_single(a, b, mxcsr, |env, x, y, _| f(F32, env, x, y))
}
fn pd(a: u128, b: u128, mxcsr: &mut u32, f: Lane) -> Result<u128, Xm> {
    packed_double(a, b, mxcsr, |env, x, y, _| f(F64, env, x, y))
}
fn ss(a: u128, b: u128, mxcsr: &mut u32, f: Lane) -> Result<u128, Xm> {
    scalar_single(a, b, mxcsr, |env, x, y| f(F32, env, x, y))
}
fn sd(a: u128, b: u128, mxcsr: &mut u32, f: Lane) -> Result<u128, Xm> {
    scalar_double(a, b, mxcsr, |env, x, y| f(F64, env, x, y))
}

pub fn addps(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    ps(a, b, mxcsr, Format::add)
}
pub fn addpd(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    pd(a, b, mxcsr, Format::add)
}
pub fn addss(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    ss(a, b, mxcsr, Format::add)
}
pub fn addsd(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    sd(a, b, mxcsr, Format::add)
}
pub fn subps(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    ps(a, b, mxcsr, Format::sub)
}
pub fn subpd(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    pd(a, b, mxcsr, Format::sub)
}
pub fn subss(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    ss(a, b, mxcsr, Format::sub)
}
pub fn subsd(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    sd(a, b, mxcsr, Format::sub)
}
pub fn mulps(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    ps(a, b, mxcsr, Format::mul)
}
pub fn mulpd(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    pd(a, b, mxcsr, Format::mul)
}
pub fn mulss(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    ss(a, b, mxcsr, Format::mul)
}
pub fn mulsd(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    sd(a, b, mxcsr, Format::mul)
}
pub fn divps(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    ps(a, b, mxcsr, Format::div)
}
pub fn divpd(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    pd(a, b, mxcsr, Format::div)
}
pub fn divss(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    ss(a, b, mxcsr, Format::div)
}
pub fn divsd(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    sd(a, b, mxcsr, Format::div)
}
pub fn minps(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    ps(a, b, mxcsr, Format::min)
}
pub fn minpd(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    pd(a, b, mxcsr, Format::min)
}
pub fn minss(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    ss(a, b, mxcsr, Format::min)
}
pub fn minsd(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    sd(a, b, mxcsr, Format::min)
}
pub fn maxps(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    ps(a, b, mxcsr, Format::max)
}
pub fn maxpd(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    pd(a, b, mxcsr, Format::max)
}
pub fn maxss(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    ss(a, b, mxcsr, Format::max)
}
pub fn maxsd(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    sd(a, b, mxcsr, Format::max)
}
pub fn sqrtps(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    ps(a, b, mxcsr, sqrt)
}
pub fn sqrtpd(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    pd(a, b, mxcsr, sqrt)
}
pub fn sqrtss(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    ss(a, b, mxcsr, sqrt)
}
pub fn sqrtsd(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    sd(a, b, mxcsr, sqrt)
}

/// The square root of the second operand.
fn sqrt(format: Format, env: &mut Env, _: u64, b: u64) -> u64 {
    format.sqrt(env, b)
}

/// The comparison with predicate `imm` (three bits) of CMPPS: all ones or zero.
fn predicate(format: Format, env: &mut Env, a: u64, b: u64, imm: u8) -> u64 {
    // LT, LE, NLT and NLE signal on quiet NaNs.
    let relation = format.compare(env, a, b, matches!(imm & 3, 1 | 2));
    let holds = match imm & 3 {
        0 => relation == Relation::Equal,
        1 => relation == Relation::Less,
        2 => matches!(relation, Relation::Less | Relation::Equal),
        _ => relation == Relation::Unordered,
    };
    if holds != (imm & 4 != 0) { u64::MAX } else { 0 }
}

pub fn cmpps(a: u128, b: u128, imm: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    packed_single(a, b, mxcsr, |env, x, y, _| predicate(F32, env, x, y, imm))
}
pub fn cmppd(a: u128, b: u128, imm: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    packed_double(a, b, mxcsr, |env, x, y, _| predicate(F64, env, x, y, imm))
}
pub fn cmpss(a: u128, b: u128, imm: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    scalar_single(a, b, mxcsr, |env, x, y| predicate(F32, env, x, y, imm) & u64::from(u32::MAX))
}
pub fn cmpsd(a: u128, b: u128, imm: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    scalar_double(a, b, mxcsr, |env, x, y| predicate(F64, env, x, y, imm))
}

/// COMISS and its kin; quiet NaNs are invalid when `signal` is set.
fn flags(format: Format, a: u64, b: u64, signal: bool, mxcsr: &mut u32) -> Result<u32, Xm> {
    let mut env = Env::new(*mxcsr);
    let eflags = match format.compare(&mut env, a, b, signal) {
        Relation::Greater => 0,
        Relation::Less => CF,
        Relation::Equal => ZF,
        Relation::Unordered => ZF | PF | CF,
    };
    env.finish(mxcsr, eflags)
}

pub fn comiss(a: u128, b: u128, mxcsr: &mut u32) -> Result<u32, Xm> {
    flags(F32, (a as u32).into(), (b as u32).into(), true, mxcsr)
}
pub fn comisd(a: u128, b: u128, mxcsr: &mut u32) -> Result<u32, Xm> {
    flags(F64, a as u64, b as u64, true, mxcsr)
}
pub fn ucomiss(a: u128, b: u128, mxcsr: &mut u32) -> Result<u32, Xm> {
    flags(F32, (a as u32).into(), (b as u32).into(), false, mxcsr)
}
pub fn ucomisd(a: u128, b: u128, mxcsr: &mut u32) -> Result<u32, Xm> {
    flags(F64, a as u64, b as u64, false, mxcsr)
}

/// Subtracts in even lanes and adds in odd ones.
pub fn addsubps(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    packed_single(
        a,
        b,
        mxcsr,
        |env, x, y, i| {
            if i % 2 == 0 { F32.sub(env, x, y) } else { F32.add(env, x, y) }
        },
    )
}
/// Subtracts in the low lane and adds in the high one.
pub fn addsubpd(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    packed_double(a, b, mxcsr, |env, x, y, i| if i == 0 { F64.sub(env, x, y) } else { F64.add(env, x, y) })
}

/// Rounds to an integer as the immediate of ROUNDPS tells.
fn round(format: Format, env: &mut Env, b: u64, imm: u8) -> u64 {
    let rounding = if imm & 4 != 0 { env.rounding } else { Rounding::from_code(imm.into()) };
    format.round_to_integer(env, b, rounding, imm & 8 != 0)
}
pub fn roundps(a: u128, b: u128, imm: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    packed_single(a, b, mxcsr, |env, _, y, _| round(F32, env, y, imm))
}
pub fn roundpd(a: u128, b: u128, imm: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    packed_double(a, b, mxcsr, |env, _, y, _| round(F64, env, y, imm))
}
pub fn roundss(a: u128, b: u128, imm: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    scalar_single(a, b, mxcsr, |env, _, y| round(F32, env, y, imm))
}
pub fn roundsd(a: u128, b: u128, imm: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    scalar_double(a, b, mxcsr, |env, _, y| round(F64, env, y, imm))
}

pub fn cvtps2pd(_: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    let b = <[u32; 4]>::split(b);
    let mut env = Env::new(*mxcsr);
    let result = build::<u64, 2>(|i| F32.convert(&mut env, b[i].into(), F64));
    env.finish(mxcsr, result)
}
pub fn cvtpd2ps(_: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    let b = <[u64; 2]>::split(b);
    let mut env = Env::new(*mxcsr);
    let result = build::<u32, 4>(|i| b.get(i).map_or(0, |&x| F64.convert(&mut env, x, F32) as u32));
    env.finish(mxcsr, result)
}
pub fn cvtss2sd(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    scalar_double(a, b, mxcsr, |env, _, y| F32.convert(env, y & u64::from(u32::MAX), F64))
}
pub fn cvtsd2ss(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    scalar_single(a, b, mxcsr, |env, _, _| F64.convert(env, b as u64, F32))
}
pub fn cvtdq2ps(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    packed_single(a, b, mxcsr, |env, _, y, _| F32.integer(env, (y as i32).into()))
}
pub fn cvtsi2ss_32(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    scalar_single(a, b, mxcsr, |env, _, y| F32.integer(env, (y as i32).into()))
}
pub fn cvtsi2ss_64(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    scalar_single(a, b, mxcsr, |env, _, _| F32.integer(env, b as i64))
}
pub fn cvtsi2sd_64(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    scalar_double(a, b, mxcsr, |env, _, y| F64.integer(env, y as i64))
}

pub fn cvtps2dq(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    packed_single(a, b, mxcsr, |env, _, y, _| F32.to_integer(env, y, 32, env.rounding))
}
pub fn cvttps2dq(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    packed_single(a, b, mxcsr, |env, _, y, _| F32.to_integer(env, y, 32, Rounding::Zero))
}
/// Two doubles to two doublewords; the upper half is zero.
fn doubles_to_integers(b: u128, mxcsr: &mut u32, truncate: bool) -> Result<u128, Xm> {
    let b = <[u64; 2]>::split(b);
    let mut env = Env::new(*mxcsr);
    let rounding = if truncate { Rounding::Zero } else { env.rounding };
    let result =
        build::<u32, 4>(|i| b.get(i).map_or(0, |&x| F64.to_integer(&mut env, x, 32, rounding) as u32));
    env.finish(mxcsr, result)
}
pub fn cvtpd2dq(_: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    doubles_to_integers(b, mxcsr, false)
}
pub fn cvttpd2dq(_: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    doubles_to_integers(b, mxcsr, true)
}

/// A scalar to an integer of `width` bits.
fn scalar_to_integer(format: Format, a: u64, width: u32, truncate: bool, mxcsr: &mut u32) -> Result<u64, Xm> {
    let mut env = Env::new(*mxcsr);
    let rounding = if truncate { Rounding::Zero } else { env.rounding };
    let value = format.to_integer(&mut env, a, width, rounding);
    env.finish(mxcsr, value)
}
pub fn cvtss2si_32(a: u128, mxcsr: &mut u32) -> Result<u64, Xm> {
    scalar_to_integer(F32, (a as u32).into(), 32, false, mxcsr)
}
pub fn cvtss2si_64(a: u128, mxcsr: &mut u32) -> Result<u64, Xm> {
    scalar_to_integer(F32, (a as u32).into(), 64, false, mxcsr)
}
pub fn cvttss2si_32(a: u128, mxcsr: &mut u32) -> Result<u64, Xm> {
    scalar_to_integer(F32, (a as u32).into(), 32, true, mxcsr)
}
pub fn cvttss2si_64(a: u128, mxcsr: &mut u32) -> Result<u64, Xm> {
    scalar_to_integer(F32, (a as u32).into(), 64, true, mxcsr)
}
pub fn cvtsd2si_32(a: u128, mxcsr: &mut u32) -> Result<u64, Xm> {
    scalar_to_integer(F64, a as u64, 32, false, mxcsr)
}
pub fn cvtsd2si_64(a: u128, mxcsr: &mut u32) -> Result<u64, Xm> {
    scalar_to_integer(F64, a as u64, 64, false, mxcsr)
}
pub fn cvttsd2si_32(a: u128, mxcsr: &mut u32) -> Result<u64, Xm> {
    scalar_to_integer(F64, a as u64, 32, true, mxcsr)
}
pub fn cvttsd2si_64(a: u128, mxcsr: &mut u32) -> Result<u64, Xm> {
    scalar_to_integer(F64, a as u64, 64, true, mxcsr)
}

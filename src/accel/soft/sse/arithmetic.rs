//! Integer arithmetic, comparison and logic, lane by lane.
//!
//! All functions have the shape of [`IntFn`](super::IntFn): first operand, second operand, immediate.
//! On the zero-extended value of an MMX register they give, in the low half, what the MMX instruction
//! gives, except where a twin with the suffix `_mm` stands beside.
#![forbid(unsafe_code)]

use super::lanes::{Lanes, build, map, zip};

pub fn paddb(a: u128, b: u128, _: u8) -> u128 {
    zip::<u8, 16>(a, b, u8::wrapping_add)
}
pub fn paddw(a: u128, b: u128, _: u8) -> u128 {
    zip::<u16, 8>(a, b, u16::wrapping_add)
}
pub fn paddd(a: u128, b: u128, _: u8) -> u128 {
    zip::<u32, 4>(a, b, u32::wrapping_add)
}
pub fn paddq(a: u128, b: u128, _: u8) -> u128 {
    zip::<u64, 2>(a, b, u64::wrapping_add)
}
pub fn psubb(a: u128, b: u128, _: u8) -> u128 {
    zip::<u8, 16>(a, b, u8::wrapping_sub)
}
pub fn psubw(a: u128, b: u128, _: u8) -> u128 {
    zip::<u16, 8>(a, b, u16::wrapping_sub)
}
pub fn psubd(a: u128, b: u128, _: u8) -> u128 {
    zip::<u32, 4>(a, b, u32::wrapping_sub)
}
pub fn psubq(a: u128, b: u128, _: u8) -> u128 {
    zip::<u64, 2>(a, b, u64::wrapping_sub)
}
pub fn paddsb(a: u128, b: u128, _: u8) -> u128 {
    zip::<i8, 16>(a, b, i8::saturating_add)
}
pub fn paddsw(a: u128, b: u128, _: u8) -> u128 {
    zip::<i16, 8>(a, b, i16::saturating_add)
}
pub fn paddusb(a: u128, b: u128, _: u8) -> u128 {
    zip::<u8, 16>(a, b, u8::saturating_add)
}
pub fn paddusw(a: u128, b: u128, _: u8) -> u128 {
    zip::<u16, 8>(a, b, u16::saturating_add)
}
pub fn psubsb(a: u128, b: u128, _: u8) -> u128 {
    zip::<i8, 16>(a, b, i8::saturating_sub)
}
pub fn psubsw(a: u128, b: u128, _: u8) -> u128 {
    zip::<i16, 8>(a, b, i16::saturating_sub)
}
pub fn psubusb(a: u128, b: u128, _: u8) -> u128 {
    zip::<u8, 16>(a, b, u8::saturating_sub)
}
pub fn psubusw(a: u128, b: u128, _: u8) -> u128 {
    zip::<u16, 8>(a, b, u16::saturating_sub)
}

pub fn pminub(a: u128, b: u128, _: u8) -> u128 {
    zip::<u8, 16>(a, b, u8::min)
}
pub fn pminsb(a: u128, b: u128, _: u8) -> u128 {
    zip::<i8, 16>(a, b, i8::min)
}
pub fn pminuw(a: u128, b: u128, _: u8) -> u128 {
    zip::<u16, 8>(a, b, u16::min)
}
pub fn pminsw(a: u128, b: u128, _: u8) -> u128 {
    zip::<i16, 8>(a, b, i16::min)
}
pub fn pminud(a: u128, b: u128, _: u8) -> u128 {
    zip::<u32, 4>(a, b, u32::min)
}
pub fn pminsd(a: u128, b: u128, _: u8) -> u128 {
    zip::<i32, 4>(a, b, i32::min)
}
pub fn pmaxub(a: u128, b: u128, _: u8) -> u128 {
    zip::<u8, 16>(a, b, u8::max)
}
pub fn pmaxsb(a: u128, b: u128, _: u8) -> u128 {
    zip::<i8, 16>(a, b, i8::max)
}
pub fn pmaxuw(a: u128, b: u128, _: u8) -> u128 {
    zip::<u16, 8>(a, b, u16::max)
}
pub fn pmaxsw(a: u128, b: u128, _: u8) -> u128 {
    zip::<i16, 8>(a, b, i16::max)
}
pub fn pmaxud(a: u128, b: u128, _: u8) -> u128 {
    zip::<u32, 4>(a, b, u32::max)
}
pub fn pmaxsd(a: u128, b: u128, _: u8) -> u128 {
    zip::<i32, 4>(a, b, i32::max)
}
pub fn pavgb(a: u128, b: u128, _: u8) -> u128 {
    zip::<u8, 16>(a, b, |x, y| ((u16::from(x) + u16::from(y) + 1) >> 1) as u8)
}
pub fn pavgw(a: u128, b: u128, _: u8) -> u128 {
    zip::<u16, 8>(a, b, |x, y| ((u32::from(x) + u32::from(y) + 1) >> 1) as u16)
}
pub fn pabsb(_: u128, b: u128, _: u8) -> u128 {
    map::<i8, 16>(b, i8::wrapping_abs)
}
pub fn pabsw(_: u128, b: u128, _: u8) -> u128 {
    map::<i16, 8>(b, i16::wrapping_abs)
}
pub fn pabsd(_: u128, b: u128, _: u8) -> u128 {
    map::<i32, 4>(b, i32::wrapping_abs)
}
pub fn psignb(a: u128, b: u128, _: u8) -> u128 {
    zip::<i8, 16>(a, b, |x, y| x.wrapping_mul(y.signum()))
}
pub fn psignw(a: u128, b: u128, _: u8) -> u128 {
    zip::<i16, 8>(a, b, |x, y| x.wrapping_mul(y.signum()))
}
pub fn psignd(a: u128, b: u128, _: u8) -> u128 {
    zip::<i32, 4>(a, b, |x, y| x.wrapping_mul(y.signum()))
}

pub fn pcmpeqb(a: u128, b: u128, _: u8) -> u128 {
    zip::<u8, 16>(a, b, |x, y| if x == y { u8::MAX } else { 0 })
}
pub fn pcmpeqw(a: u128, b: u128, _: u8) -> u128 {
    zip::<u16, 8>(a, b, |x, y| if x == y { u16::MAX } else { 0 })
}
pub fn pcmpeqd(a: u128, b: u128, _: u8) -> u128 {
    zip::<u32, 4>(a, b, |x, y| if x == y { u32::MAX } else { 0 })
}
pub fn pcmpeqq(a: u128, b: u128, _: u8) -> u128 {
    zip::<u64, 2>(a, b, |x, y| if x == y { u64::MAX } else { 0 })
}
pub fn pcmpgtb(a: u128, b: u128, _: u8) -> u128 {
    zip::<i8, 16>(a, b, |x, y| -i8::from(x > y))
}
pub fn pcmpgtw(a: u128, b: u128, _: u8) -> u128 {
    zip::<i16, 8>(a, b, |x, y| -i16::from(x > y))
}
pub fn pcmpgtd(a: u128, b: u128, _: u8) -> u128 {
    zip::<i32, 4>(a, b, |x, y| -i32::from(x > y))
}
pub fn pcmpgtq(a: u128, b: u128, _: u8) -> u128 {
    zip::<i64, 2>(a, b, |x, y| -i64::from(x > y))
}

pub fn pmullw(a: u128, b: u128, _: u8) -> u128 {
    zip::<i16, 8>(a, b, i16::wrapping_mul)
}
pub fn pmulld(a: u128, b: u128, _: u8) -> u128 {
    zip::<i32, 4>(a, b, i32::wrapping_mul)
}
pub fn pmulhw(a: u128, b: u128, _: u8) -> u128 {
    zip::<i16, 8>(a, b, |x, y| ((i32::from(x) * i32::from(y)) >> 16) as i16)
}
pub fn pmulhuw(a: u128, b: u128, _: u8) -> u128 {
    zip::<u16, 8>(a, b, |x, y| ((u32::from(x) * u32::from(y)) >> 16) as u16)
}
pub fn pmulhrsw(a: u128, b: u128, _: u8) -> u128 {
    zip::<i16, 8>(a, b, |x, y| ((((i32::from(x) * i32::from(y)) >> 14) + 1) >> 1) as i16)
}
pub fn pmuludq(a: u128, b: u128, _: u8) -> u128 {
    zip::<u64, 2>(a, b, |x, y| (x & 0xffff_ffff) * (y & 0xffff_ffff))
}
pub fn pmuldq(a: u128, b: u128, _: u8) -> u128 {
    zip::<i64, 2>(a, b, |x, y| i64::from(x as i32) * i64::from(y as i32))
}
pub fn pmaddwd(a: u128, b: u128, _: u8) -> u128 {
    let (a, b) = (<[i16; 8]>::split(a), <[i16; 8]>::split(b));
    let product = |i: usize| i32::from(a[i]) * i32::from(b[i]);
    // Only (-32768)² twice overflows, and wraps.
    build::<i32, 4>(|i| product(2 * i).wrapping_add(product(2 * i + 1)))
}
pub fn pmaddubsw(a: u128, b: u128, _: u8) -> u128 {
    let (a, b) = (<[u8; 16]>::split(a), <[i8; 16]>::split(b));
    let product = |i: usize| i32::from(a[i]) * i32::from(b[i]);
    build::<i16, 8>(|i| saturate_i16(product(2 * i) + product(2 * i + 1)))
}

/// The sum of absolute differences of eight bytes from `a` and `b` on.
fn absolute_differences(a: &[u8], b: &[u8]) -> u16 {
    a.iter().zip(b).map(|(&x, &y)| u16::from(x.abs_diff(y))).sum()
}

pub fn psadbw(a: u128, b: u128, _: u8) -> u128 {
    let (a, b) = (<[u8; 16]>::split(a), <[u8; 16]>::split(b));
    let half = |i: usize| u64::from(absolute_differences(&a[8 * i..8 * i + 8], &b[8 * i..8 * i + 8]));
    build::<u64, 2>(half)
}
pub fn mpsadbw(a: u128, b: u128, imm: u8) -> u128 {
    let (a, b) = (<[u8; 16]>::split(a), <[u8; 16]>::split(b));
    let from = usize::from((imm >> 2) & 1) * 4;
    let block = usize::from(imm & 3) * 4;
    build::<u16, 8>(|i| absolute_differences(&a[from + i..from + i + 4], &b[block..block + 4]))
}
pub fn phminposuw(_: u128, b: u128, _: u8) -> u128 {
    let mut minimum = (u16::MAX, 0);
    for (i, value) in <[u16; 8]>::split(b).into_iter().enumerate() {
        if value < minimum.0 {
            minimum = (value, i);
        }
    }
    u128::from(minimum.0) | (minimum.1 as u128) << 16
}

/// Combines neighbouring words: those of `a` make the low half, those of `b` the high half.
fn horizontal_words(a: u128, b: u128, f: impl Fn(i16, i16) -> i16) -> u128 {
    let (a, b) = (<[i16; 8]>::split(a), <[i16; 8]>::split(b));
    build::<i16, 8>(|i| if i < 4 { f(a[2 * i], a[2 * i + 1]) } else { f(b[2 * i - 8], b[2 * i - 7]) })
}

/// Combines neighbouring doublewords: those of `a` make the low half, those of `b` the high half.
fn horizontal_dwords(a: u128, b: u128, f: impl Fn(i32, i32) -> i32) -> u128 {
    let (a, b) = (<[i32; 4]>::split(a), <[i32; 4]>::split(b));
    build::<i32, 4>(|i| if i < 2 { f(a[2 * i], a[2 * i + 1]) } else { f(b[2 * i - 4], b[2 * i - 3]) })
}

/// Two MMX values as one register: what works on the halves of a pair of registers works on this one.
pub(super) fn pair_mm(a: u128, b: u128) -> u128 {
    a | b << 64
}

pub fn phaddw(a: u128, b: u128, _: u8) -> u128 {
    horizontal_words(a, b, i16::wrapping_add)
}
pub fn phaddd(a: u128, b: u128, _: u8) -> u128 {
    horizontal_dwords(a, b, i32::wrapping_add)
}
pub fn phaddsw(a: u128, b: u128, _: u8) -> u128 {
    horizontal_words(a, b, i16::saturating_add)
}
pub fn phsubw(a: u128, b: u128, _: u8) -> u128 {
    horizontal_words(a, b, i16::wrapping_sub)
}
pub fn phsubd(a: u128, b: u128, _: u8) -> u128 {
    horizontal_dwords(a, b, i32::wrapping_sub)
}
pub fn phsubsw(a: u128, b: u128, _: u8) -> u128 {
    horizontal_words(a, b, i16::saturating_sub)
}
pub fn phaddw_mm(a: u128, b: u128, _: u8) -> u128 {
    phaddw(pair_mm(a, b), 0, 0)
}
pub fn phaddd_mm(a: u128, b: u128, _: u8) -> u128 {
    phaddd(pair_mm(a, b), 0, 0)
}
pub fn phaddsw_mm(a: u128, b: u128, _: u8) -> u128 {
    phaddsw(pair_mm(a, b), 0, 0)
}
pub fn phsubw_mm(a: u128, b: u128, _: u8) -> u128 {
    phsubw(pair_mm(a, b), 0, 0)
}
pub fn phsubd_mm(a: u128, b: u128, _: u8) -> u128 {
    phsubd(pair_mm(a, b), 0, 0)
}
pub fn phsubsw_mm(a: u128, b: u128, _: u8) -> u128 {
    phsubsw(pair_mm(a, b), 0, 0)
}

/// Clamps to the range of a signed word.
pub(super) fn saturate_i16(value: i32) -> i16 {
    value.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16
}

pub fn pand(a: u128, b: u128, _: u8) -> u128 {
    a & b
}
pub fn pandn(a: u128, b: u128, _: u8) -> u128 {
    !a & b
}
pub fn por(a: u128, b: u128, _: u8) -> u128 {
    a | b
}
pub fn pxor(a: u128, b: u128, _: u8) -> u128 {
    a ^ b
}

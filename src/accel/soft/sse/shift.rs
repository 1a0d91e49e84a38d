//! Shifts. A count is the low 64 bits of the second operand, or the immediate in the `_imm` twins.
#![forbid(unsafe_code)]

use super::lanes::map;

/// The count in `b`, or 255 when it is greater than any lane is wide.
fn count(b: u128) -> u32 {
    (b as u64).min(255) as u32
}

pub fn psllw(a: u128, b: u128, _: u8) -> u128 {
    let n = count(b);
    map::<u16, 8>(a, |x| x.checked_shl(n).unwrap_or(0))
}
pub fn pslld(a: u128, b: u128, _: u8) -> u128 {
    let n = count(b);
    map::<u32, 4>(a, |x| x.checked_shl(n).unwrap_or(0))
}
pub fn psllq(a: u128, b: u128, _: u8) -> u128 {
    let n = count(b);
    map::<u64, 2>(a, |x| x.checked_shl(n).unwrap_or(0))
}
pub fn psrlw(a: u128, b: u128, _: u8) -> u128 {
    let n = count(b);
    map::<u16, 8>(a, |x| x.checked_shr(n).unwrap_or(0))
}
pub fn psrld(a: u128, b: u128, _: u8) -> u128 {
    let n = count(b);
    map::<u32, 4>(a, |x| x.checked_shr(n).unwrap_or(0))
}
pub fn psrlq(a: u128, b: u128, _: u8) -> u128 {
    let n = count(b);
    map::<u64, 2>(a, |x| x.checked_shr(n).unwrap_or(0))
}
pub fn psraw(a: u128, b: u128, _: u8) -> u128 {
    let n = count(b).min(15);
    map::<i16, 8>(a, |x| x >> n)
}
pub fn psrad(a: u128, b: u128, _: u8) -> u128 {
    let n = count(b).min(31);
    map::<i32, 4>(a, |x| x >> n)
}

pub fn psllw_imm(a: u128, _: u128, imm: u8) -> u128 {
    psllw(a, imm.into(), 0)
}
pub fn pslld_imm(a: u128, _: u128, imm: u8) -> u128 {
    pslld(a, imm.into(), 0)
}
pub fn psllq_imm(a: u128, _: u128, imm: u8) -> u128 {
    psllq(a, imm.into(), 0)
}
pub fn psrlw_imm(a: u128, _: u128, imm: u8) -> u128 {
    psrlw(a, imm.into(), 0)
}
pub fn psrld_imm(a: u128, _: u128, imm: u8) -> u128 {
    psrld(a, imm.into(), 0)
}
pub fn psrlq_imm(a: u128, _: u128, imm: u8) -> u128 {
    psrlq(a, imm.into(), 0)
}
pub fn psraw_imm(a: u128, _: u128, imm: u8) -> u128 {
    psraw(a, imm.into(), 0)
}
pub fn psrad_imm(a: u128, _: u128, imm: u8) -> u128 {
    psrad(a, imm.into(), 0)
}
/// The count is in bytes.
pub fn pslldq_imm(a: u128, _: u128, imm: u8) -> u128 {
    a.checked_shl(u32::from(imm) * 8).unwrap_or(0)
}
/// The count is in bytes.
pub fn psrldq_imm(a: u128, _: u128, imm: u8) -> u128 {
    a.checked_shr(u32::from(imm) * 8).unwrap_or(0)
}

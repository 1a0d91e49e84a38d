//! Instructions that only move lanes: moves, unpack, pack, shuffle, blend, insert, extract, extend.
//!
//! Functions that write an MMX register and differ from the XMM form have the suffix `_mm`.
#![forbid(unsafe_code)]

use super::arithmetic::{pair_mm, saturate_i16};
use super::lanes::{Lanes, build};

const LOW: u128 = u64::MAX as u128;
const DWORD: u128 = u32::MAX as u128;

/// The second operand as it is.
pub fn mov(_: u128, b: u128, _: u8) -> u128 {
    b
}
/// The low doubleword, zero-extended.
pub fn movd(_: u128, b: u128, _: u8) -> u128 {
    b & DWORD
}
/// The low quadword, zero-extended.
pub fn movq(_: u128, b: u128, _: u8) -> u128 {
    b & LOW
}
/// MOVSS between registers: the upper lanes stay.
pub fn movss(a: u128, b: u128, _: u8) -> u128 {
    a & !DWORD | b & DWORD
}
/// MOVSD between registers, and MOVLPS: the upper half stays.
pub fn movsd(a: u128, b: u128, _: u8) -> u128 {
    a & !LOW | b & LOW
}
pub fn movhlps(a: u128, b: u128, _: u8) -> u128 {
    a & !LOW | b >> 64
}
/// MOVLHPS, MOVHPS: the low half of `b` becomes the upper half. Also PUNPCKLQDQ and UNPCKLPD.
pub fn movlhps(a: u128, b: u128, _: u8) -> u128 {
    a & LOW | b << 64
}
pub fn movddup(_: u128, b: u128, _: u8) -> u128 {
    b & LOW | b << 64
}
pub fn movsldup(_: u128, b: u128, _: u8) -> u128 {
    let b = <[u32; 4]>::split(b);
    [b[0], b[0], b[2], b[2]].join()
}
pub fn movshdup(_: u128, b: u128, _: u8) -> u128 {
    let b = <[u32; 4]>::split(b);
    [b[1], b[1], b[3], b[3]].join()
}

pub fn punpcklbw(a: u128, b: u128, _: u8) -> u128 {
    let (a, b) = (<[u8; 16]>::split(a), <[u8; 16]>::split(b));
    build::<u8, 16>(|i| if i % 2 == 0 { a[i / 2] } else { b[i / 2] })
}
pub fn punpcklwd(a: u128, b: u128, _: u8) -> u128 {
    let (a, b) = (<[u16; 8]>::split(a), <[u16; 8]>::split(b));
    build::<u16, 8>(|i| if i % 2 == 0 { a[i / 2] } else { b[i / 2] })
}
pub fn punpckldq(a: u128, b: u128, _: u8) -> u128 {
    let (a, b) = (<[u32; 4]>::split(a), <[u32; 4]>::split(b));
    [a[0], b[0], a[1], b[1]].join()
}
pub fn punpckhbw(a: u128, b: u128, _: u8) -> u128 {
    punpcklbw(a >> 64, b >> 64, 0)
}
pub fn punpckhwd(a: u128, b: u128, _: u8) -> u128 {
    punpcklwd(a >> 64, b >> 64, 0)
}
pub fn punpckhdq(a: u128, b: u128, _: u8) -> u128 {
    punpckldq(a >> 64, b >> 64, 0)
}
pub fn punpckhqdq(a: u128, b: u128, _: u8) -> u128 {
    b & !LOW | a >> 64
}
pub fn punpckhbw_mm(a: u128, b: u128, _: u8) -> u128 {
    punpcklbw(a, b, 0) >> 64
}
pub fn punpckhwd_mm(a: u128, b: u128, _: u8) -> u128 {
    punpcklwd(a, b, 0) >> 64
}
pub fn punpckhdq_mm(a: u128, b: u128, _: u8) -> u128 {
    punpckldq(a, b, 0) >> 64
}

pub fn packsswb(a: u128, b: u128, _: u8) -> u128 {
    let (a, b) = (<[i16; 8]>::split(a), <[i16; 8]>::split(b));
    build::<i8, 16>(|i| (if i < 8 { a[i] } else { b[i - 8] }).clamp(-128, 127) as i8)
}
pub fn packuswb(a: u128, b: u128, _: u8) -> u128 {
    let (a, b) = (<[i16; 8]>::split(a), <[i16; 8]>::split(b));
    build::<u8, 16>(|i| (if i < 8 { a[i] } else { b[i - 8] }).clamp(0, 255) as u8)
}
pub fn packssdw(a: u128, b: u128, _: u8) -> u128 {
    let (a, b) = (<[i32; 4]>::split(a), <[i32; 4]>::split(b));
    build::<i16, 8>(|i| saturate_i16(if i < 4 { a[i] } else { b[i - 4] }))
}
pub fn packusdw(a: u128, b: u128, _: u8) -> u128 {
    let (a, b) = (<[i32; 4]>::split(a), <[i32; 4]>::split(b));
    build::<u16, 8>(|i| (if i < 4 { a[i] } else { b[i - 4] }).clamp(0, 0xffff) as u16)
}
pub fn packsswb_mm(a: u128, b: u128, _: u8) -> u128 {
    packsswb(pair_mm(a, b), 0, 0)
}
pub fn packuswb_mm(a: u128, b: u128, _: u8) -> u128 {
    packuswb(pair_mm(a, b), 0, 0)
}
pub fn packssdw_mm(a: u128, b: u128, _: u8) -> u128 {
    packssdw(pair_mm(a, b), 0, 0)
}

/// The two-bit selector `i` of an immediate.
fn select(imm: u8, i: usize) -> usize {
    usize::from((imm >> (2 * i)) & 3)
}

pub fn pshufd(_: u128, b: u128, imm: u8) -> u128 {
    let b = <[u32; 4]>::split(b);
    build::<u32, 4>(|i| b[select(imm, i)])
}
/// Also PSHUFW, on the value of an MMX register.
pub fn pshuflw(_: u128, b: u128, imm: u8) -> u128 {
    let b = <[u16; 8]>::split(b);
    build::<u16, 8>(|i| if i < 4 { b[select(imm, i)] } else { b[i] })
}
pub fn pshufhw(_: u128, b: u128, imm: u8) -> u128 {
    let b = <[u16; 8]>::split(b);
    build::<u16, 8>(|i| if i < 4 { b[i] } else { b[4 + select(imm, i - 4)] })
}
pub fn shufps(a: u128, b: u128, imm: u8) -> u128 {
    let (a, b) = (<[u32; 4]>::split(a), <[u32; 4]>::split(b));
    build::<u32, 4>(|i| if i < 2 { a[select(imm, i)] } else { b[select(imm, i)] })
}
pub fn shufpd(a: u128, b: u128, imm: u8) -> u128 {
    let (a, b) = (<[u64; 2]>::split(a), <[u64; 2]>::split(b));
    [a[usize::from(imm & 1)], b[usize::from((imm >> 1) & 1)]].join()
}
pub fn pshufb(a: u128, b: u128, _: u8) -> u128 {
    let (a, b) = (<[u8; 16]>::split(a), <[u8; 16]>::split(b));
    build::<u8, 16>(|i| if b[i] & 0x80 != 0 { 0 } else { a[usize::from(b[i] & 15)] })
}
pub fn pshufb_mm(a: u128, b: u128, _: u8) -> u128 {
    pshufb(a, b & 0x8787_8787_8787_8787, 0)
}
pub fn palignr(a: u128, b: u128, imm: u8) -> u128 {
    match u32::from(imm) * 8 {
        0 => b,
        n @ 8..128 => b >> n | a << (128 - n),
        n => a.checked_shr(n - 128).unwrap_or(0),
    }
}
pub fn palignr_mm(a: u128, b: u128, imm: u8) -> u128 {
    pair_mm(b, a).checked_shr(u32::from(imm) * 8).unwrap_or(0)
}

pub fn pblendw(a: u128, b: u128, imm: u8) -> u128 {
    let (a, b) = (<[u16; 8]>::split(a), <[u16; 8]>::split(b));
    build::<u16, 8>(|i| if imm >> i & 1 != 0 { b[i] } else { a[i] })
}
pub fn blendps(a: u128, b: u128, imm: u8) -> u128 {
    let (a, b) = (<[u32; 4]>::split(a), <[u32; 4]>::split(b));
    build::<u32, 4>(|i| if imm >> i & 1 != 0 { b[i] } else { a[i] })
}
pub fn blendpd(a: u128, b: u128, imm: u8) -> u128 {
    let (a, b) = (<[u64; 2]>::split(a), <[u64; 2]>::split(b));
    build::<u64, 2>(|i| if imm >> i & 1 != 0 { b[i] } else { a[i] })
}
pub fn pblendvb(a: u128, b: u128, mask: u128) -> u128 {
    let (a, b, m) = (<[u8; 16]>::split(a), <[u8; 16]>::split(b), <[i8; 16]>::split(mask));
    build::<u8, 16>(|i| if m[i] < 0 { b[i] } else { a[i] })
}
pub fn blendvps(a: u128, b: u128, mask: u128) -> u128 {
    let (a, b, m) = (<[u32; 4]>::split(a), <[u32; 4]>::split(b), <[i32; 4]>::split(mask));
    build::<u32, 4>(|i| if m[i] < 0 { b[i] } else { a[i] })
}
pub fn blendvpd(a: u128, b: u128, mask: u128) -> u128 {
    let (a, b, m) = (<[u64; 2]>::split(a), <[u64; 2]>::split(b), <[i64; 2]>::split(mask));
    build::<u64, 2>(|i| if m[i] < 0 { b[i] } else { a[i] })
}

pub fn pinsrb(a: u128, b: u128, imm: u8) -> u128 {
    let mut a = <[u8; 16]>::split(a);
    a[usize::from(imm & 15)] = b as u8;
    a.join()
}
pub fn pinsrw(a: u128, b: u128, imm: u8) -> u128 {
    let mut a = <[u16; 8]>::split(a);
    a[usize::from(imm & 7)] = b as u16;
    a.join()
}
pub fn pinsrw_mm(a: u128, b: u128, imm: u8) -> u128 {
    pinsrw(a, b, imm & 3)
}
pub fn pinsrd(a: u128, b: u128, imm: u8) -> u128 {
    let mut a = <[u32; 4]>::split(a);
    a[usize::from(imm & 3)] = b as u32;
    a.join()
}
pub fn pinsrq(a: u128, b: u128, imm: u8) -> u128 {
    let mut a = <[u64; 2]>::split(a);
    a[usize::from(imm & 1)] = b as u64;
    a.join()
}
/// INSERTPS from a register: bits 6 and 7 of the immediate choose the source lane.
pub fn insertps(a: u128, b: u128, imm: u8) -> u128 {
    insertps_mem(a, <[u32; 4]>::split(b)[usize::from(imm >> 6)].into(), imm)
}
/// INSERTPS from memory: the source is the low lane of `b`.
pub fn insertps_mem(a: u128, b: u128, imm: u8) -> u128 {
    let mut a = <[u32; 4]>::split(a);
    a[usize::from((imm >> 4) & 3)] = b as u32;
    build::<u32, 4>(|i| if imm >> i & 1 != 0 { 0 } else { a[i] })
}

pub fn pextrb(a: u128, imm: u8) -> u64 {
    <[u8; 16]>::split(a)[usize::from(imm & 15)].into()
}
pub fn pextrw(a: u128, imm: u8) -> u64 {
    <[u16; 8]>::split(a)[usize::from(imm & 7)].into()
}
pub fn pextrw_mm(a: u128, imm: u8) -> u64 {
    pextrw(a, imm & 3)
}
/// Also EXTRACTPS.
pub fn pextrd(a: u128, imm: u8) -> u64 {
    <[u32; 4]>::split(a)[usize::from(imm & 3)].into()
}
pub fn pextrq(a: u128, imm: u8) -> u64 {
    <[u64; 2]>::split(a)[usize::from(imm & 1)]
}
/// MOVD to a general-purpose register.
pub fn low_dword(a: u128, _: u8) -> u64 {
    a as u64 & 0xffff_ffff
}
/// MOVQ to a general-purpose register.
pub fn low_qword(a: u128, _: u8) -> u64 {
    a as u64
}
/// The upper half, as MOVHPS stores it.
pub fn high_half(a: u128, _: u8) -> u128 {
    a >> 64
}
/// The whole register; a store takes the low bytes of it.
pub fn whole(a: u128, _: u8) -> u128 {
    a
}
pub fn store_pextrb(a: u128, imm: u8) -> u128 {
    pextrb(a, imm).into()
}
pub fn store_pextrw(a: u128, imm: u8) -> u128 {
    pextrw(a, imm).into()
}
pub fn store_pextrd(a: u128, imm: u8) -> u128 {
    pextrd(a, imm).into()
}
pub fn store_pextrq(a: u128, imm: u8) -> u128 {
    pextrq(a, imm).into()
}

pub fn pmovmskb(a: u128, _: u8) -> u64 {
    byte_mask(a).into()
}
pub fn movmskps(a: u128, _: u8) -> u64 {
    (0..4).map(|i| (a >> (32 * i + 31) & 1) as u64 * (1 << i)).sum()
}
pub fn movmskpd(a: u128, _: u8) -> u64 {
    (a >> 63 & 1) as u64 | (a >> 126 & 2) as u64
}

/// The sign bits of the bytes: bit `i` is set when byte `i` has its bit 7 set. This is also the mask of
/// the bytes that MASKMOVDQU and MASKMOVQ write.
pub fn byte_mask(mask: u128) -> u16 {
    let bytes = <[u8; 16]>::split(mask);
    bytes.into_iter().enumerate().fold(0, |bits, (i, byte)| bits | u16::from(byte >> 7) << i)
}

pub fn pmovsxbw(_: u128, b: u128, _: u8) -> u128 {
    let b = <[i8; 16]>::split(b);
    build::<i16, 8>(|i| b[i].into())
}
pub fn pmovsxbd(_: u128, b: u128, _: u8) -> u128 {
    let b = <[i8; 16]>::split(b);
    build::<i32, 4>(|i| b[i].into())
}
pub fn pmovsxbq(_: u128, b: u128, _: u8) -> u128 {
    let b = <[i8; 16]>::split(b);
    build::<i64, 2>(|i| b[i].into())
}
pub fn pmovsxwd(_: u128, b: u128, _: u8) -> u128 {
    let b = <[i16; 8]>::split(b);
    build::<i32, 4>(|i| b[i].into())
}
pub fn pmovsxwq(_: u128, b: u128, _: u8) -> u128 {
    let b = <[i16; 8]>::split(b);
    build::<i64, 2>(|i| b[i].into())
}
pub fn pmovsxdq(_: u128, b: u128, _: u8) -> u128 {
    let b = <[i32; 4]>::split(b);
    build::<i64, 2>(|i| b[i].into())
}
pub fn pmovzxbw(_: u128, b: u128, _: u8) -> u128 {
    let b = <[u8; 16]>::split(b);
    build::<u16, 8>(|i| b[i].into())
}
pub fn pmovzxbd(_: u128, b: u128, _: u8) -> u128 {
    let b = <[u8; 16]>::split(b);
    build::<u32, 4>(|i| b[i].into())
}
pub fn pmovzxbq(_: u128, b: u128, _: u8) -> u128 {
    let b = <[u8; 16]>::split(b);
    build::<u64, 2>(|i| b[i].into())
}
pub fn pmovzxwd(_: u128, b: u128, _: u8) -> u128 {
    let b = <[u16; 8]>::split(b);
    build::<u32, 4>(|i| b[i].into())
}
pub fn pmovzxwq(_: u128, b: u128, _: u8) -> u128 {
    let b = <[u16; 8]>::split(b);
    build::<u64, 2>(|i| b[i].into())
}
pub fn pmovzxdq(_: u128, b: u128, _: u8) -> u128 {
    let b = <[u32; 4]>::split(b);
    build::<u64, 2>(|i| b[i].into())
}

//! AES-NI (FIPS 197) and PCLMULQDQ.
//!
//! A register is the AES state column by column: byte `4 c + r` is row `r` of column `c`.
#![forbid(unsafe_code)]

use super::lanes::{Lanes, build};

/// Multiplies in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1.
const fn gf_mul(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a = a << 1 ^ if a & 0x80 != 0 { 0x1b } else { 0 };
        b >>= 1;
    }
    product
}

/// SubBytes: the inverse in GF(2^8), then the affine map.
const SBOX: [u8; 256] = sbox();
const INVERSE_SBOX: [u8; 256] = inverse_sbox();

const fn sbox() -> [u8; 256] {
    let mut sbox = [0x63; 256];
    // 3 generates the multiplicative group and 0xf6 is its inverse: p runs over all, q over the inverses.
    let (mut p, mut q) = (1u8, 1u8);
    loop {
        p = gf_mul(p, 3);
        q = gf_mul(q, 0xf6);
        sbox[p as usize] =
            q ^ q.rotate_left(1) ^ q.rotate_left(2) ^ q.rotate_left(3) ^ q.rotate_left(4) ^ 0x63;
        if p == 1 {
            return sbox;
        }
    }
}

const fn inverse_sbox() -> [u8; 256] {
    let mut inverse = [0; 256];
    let mut i = 0;
    while i < 256 {
        inverse[SBOX[i] as usize] = i as u8;
        i += 1;
    }
    inverse
}

/// SubBytes after ShiftRows.
fn sub_shift(state: u128) -> [u8; 16] {
    let s = <[u8; 16]>::split(state);
    std::array::from_fn(|i| SBOX[usize::from(s[(i + 4 * (i % 4)) % 16])])
}

/// InvSubBytes after InvShiftRows.
fn inverse_sub_shift(state: u128) -> [u8; 16] {
    let s = <[u8; 16]>::split(state);
    std::array::from_fn(|i| INVERSE_SBOX[usize::from(s[(i + 12 * (i % 4)) % 16])])
}

/// Multiplies each column by the circulant matrix with the first row `row`.
fn mix_columns(s: [u8; 16], row: [u8; 4]) -> u128 {
    build::<u8, 16>(|i| (0..4).fold(0, |sum, k| sum ^ gf_mul(s[i / 4 * 4 + (i + k) % 4], row[k])))
}

const MIX: [u8; 4] = [2, 3, 1, 1];
const INVERSE_MIX: [u8; 4] = [14, 11, 13, 9];

pub fn aesenc(a: u128, b: u128, _: u8) -> u128 {
    mix_columns(sub_shift(a), MIX) ^ b
}
pub fn aesenclast(a: u128, b: u128, _: u8) -> u128 {
    sub_shift(a).join() ^ b
}
pub fn aesdec(a: u128, b: u128, _: u8) -> u128 {
    mix_columns(inverse_sub_shift(a), INVERSE_MIX) ^ b
}
pub fn aesdeclast(a: u128, b: u128, _: u8) -> u128 {
    inverse_sub_shift(a).join() ^ b
}
pub fn aesimc(_: u128, b: u128, _: u8) -> u128 {
    mix_columns(<[u8; 16]>::split(b), INVERSE_MIX)
}
pub fn aeskeygenassist(_: u128, b: u128, imm: u8) -> u128 {
    let b = <[u32; 4]>::split(b);
    let sub = |word: u32| u32::from_le_bytes(word.to_le_bytes().map(|byte| SBOX[usize::from(byte)]));
    let rotate = |word: u32| word.rotate_right(8) ^ u32::from(imm);
    [sub(b[1]), rotate(sub(b[1])), sub(b[3]), rotate(sub(b[3]))].join()
}

pub fn pclmulqdq(a: u128, b: u128, imm: u8) -> u128 {
    let a = <[u64; 2]>::split(a)[usize::from(imm & 1)];
    let b = <[u64; 2]>::split(b)[usize::from((imm >> 4) & 1)];
    (0..64).fold(0, |product, i| product ^ (u128::from(a) << i & (u128::from(b >> i) & 1).wrapping_neg()))
}

//! PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM (Intel SDM vol. 1, section 14.9, and vol. 2, section 4.1).
#![forbid(unsafe_code)]

use super::lanes::build;
use super::{CF, OF, SF, ZF};

/// A comparison's result: the index for ECX or the mask for XMM0, and the arithmetic flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StringResult {
    /// What is written to ECX (zero-extended) or to XMM0.
    pub value: u128,
    /// The six arithmetic flags at their places in EFLAGS.
    pub eflags: u32,
}

/// A string operand: its elements, extended to 32 bits, and how many of them are valid.
struct Operand {
    elements: [i32; 16],
    length: usize,
}

/// The number of elements of a register.
fn capacity(imm: u8) -> usize {
    if imm & 1 != 0 { 8 } else { 16 }
}

/// The elements of `register` in the format that `imm` tells; `length` is limited to the capacity.
fn operand(register: u128, imm: u8, length: Option<u64>) -> Operand {
    let mut elements = [0; 16];
    for (i, element) in elements.iter_mut().enumerate().take(capacity(imm)) {
        *element = match imm & 3 {
            0 => i32::from((register >> (8 * i)) as u8),
            1 => i32::from((register >> (16 * i)) as u16),
            2 => i32::from((register >> (8 * i)) as i8),
            _ => i32::from((register >> (16 * i)) as i16),
        };
    }
    let valid = &elements[..capacity(imm)];
    let length = match length {
        Some(length) => length.min(valid.len() as u64) as usize,
        None => valid.iter().position(|&e| e == 0).unwrap_or(valid.len()),
    };
    Operand { elements, length }
}

/// The aggregated comparison (IntRes1): bit `j` belongs to element `j` of the second operand.
fn aggregate(a: &Operand, b: &Operand, imm: u8) -> u32 {
    let count = capacity(imm);
    let matches = |j: usize| match (imm >> 2) & 3 {
        // Equal any.
        0 => j < b.length && a.elements[..a.length].contains(&b.elements[j]),
        // Ranges.
        1 => {
            j < b.length
                && a.elements[..a.length]
                    .chunks_exact(2)
                    .any(|range| (range[0]..=range[1]).contains(&b.elements[j]))
        }
        // Equal each.
        2 => match (j < a.length, j < b.length) {
            (true, true) => a.elements[j] == b.elements[j],
            (false, false) => true,
            _ => false,
        },
        // Equal ordered; what lies beyond the register counts as a match.
        _ => (0..a.length.min(count - j)).all(|i| j + i < b.length && a.elements[i] == b.elements[j + i]),
    };
    (0..count).filter(|&j| matches(j)).fold(0, |bits, j| bits | 1 << j)
}

/// The comparison up to IntRes2, and the flags.
fn compare(a: &Operand, b: &Operand, imm: u8) -> (u32, u32) {
    let count = capacity(imm);
    let result = aggregate(a, b, imm)
        ^ match (imm >> 4) & 3 {
            1 => (1 << count) - 1,
            3 => (1 << b.length) - 1,
            _ => 0,
        };
    let mut eflags = 0;
    for (set, flag) in
        [(result != 0, CF), (b.length < count, ZF), (a.length < count, SF), (result & 1 != 0, OF)]
    {
        eflags |= if set { flag } else { 0 };
    }
    (result, eflags)
}

/// The index of the lowest or highest match.
fn index((result, eflags): (u32, u32), imm: u8) -> StringResult {
    let value = match (result, imm & 0x40 != 0) {
        (0, _) => capacity(imm) as u128,
        (_, false) => result.trailing_zeros().into(),
        (_, true) => result.ilog2().into(),
    };
    StringResult { value, eflags }
}

/// The matches as a bit mask or as a mask of elements.
fn mask((result, eflags): (u32, u32), imm: u8) -> StringResult {
    let value = match imm & 0x41 {
        0x40 => build::<u8, 16>(|i| if result >> i & 1 != 0 { u8::MAX } else { 0 }),
        0x41 => build::<u16, 8>(|i| if result >> i & 1 != 0 { u16::MAX } else { 0 }),
        _ => result.into(),
    };
    StringResult { value, eflags }
}

/// Compares strings that end with a zero element.
fn implicit(a: u128, b: u128, imm: u8) -> (u32, u32) {
    compare(&operand(a, imm, None), &operand(b, imm, None), imm)
}

/// Compares strings with lengths in EAX and EDX, of which the absolute value counts.
fn explicit(a: u128, b: u128, imm: u8, eax: u64, edx: u64) -> (u32, u32) {
    let length = |register: u64| Some(u64::from((register as i32).unsigned_abs()));
    compare(&operand(a, imm, length(eax)), &operand(b, imm, length(edx)), imm)
}

/// Compares strings with lengths in RAX and RDX (REX.W).
fn explicit64(a: u128, b: u128, imm: u8, rax: u64, rdx: u64) -> (u32, u32) {
    let length = |register: u64| Some((register as i64).unsigned_abs());
    compare(&operand(a, imm, length(rax)), &operand(b, imm, length(rdx)), imm)
}

pub fn pcmpestri(a: u128, b: u128, imm: u8, eax: u64, edx: u64) -> StringResult {
    index(explicit(a, b, imm, eax, edx), imm)
}
pub fn pcmpestri64(a: u128, b: u128, imm: u8, rax: u64, rdx: u64) -> StringResult {
    index(explicit64(a, b, imm, rax, rdx), imm)
}
pub fn pcmpestrm(a: u128, b: u128, imm: u8, eax: u64, edx: u64) -> StringResult {
    mask(explicit(a, b, imm, eax, edx), imm)
}
pub fn pcmpestrm64(a: u128, b: u128, imm: u8, rax: u64, rdx: u64) -> StringResult {
    mask(explicit64(a, b, imm, rax, rdx), imm)
}
pub fn pcmpistri(a: u128, b: u128, imm: u8, _: u64, _: u64) -> StringResult {
    index(implicit(a, b, imm), imm)
}
pub fn pcmpistrm(a: u128, b: u128, imm: u8, _: u64, _: u64) -> StringResult {
    mask(implicit(a, b, imm), imm)
}

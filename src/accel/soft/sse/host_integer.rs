//! Integer instructions on an x86-64 host: its own, because from portable lane code on `u128` the
//! compiler makes scalar code, ten times as long.

use std::arch::asm;
use std::arch::is_x86_feature_detected;
use std::arch::x86_64::__m128i;

use iced_x86::Mnemonic;

use super::{ExtractFn, Form, IntFn};

/// A `u128` in an XMM register.
pub fn register(value: u128) -> __m128i {
    // SAFETY: both types have 16 bytes, and every bit pattern is valid.
    unsafe { std::mem::transmute::<u128, __m128i>(value) }
}

/// An XMM register's value.
pub fn value(register: __m128i) -> u128 {
    // SAFETY: as above.
    unsafe { std::mem::transmute::<__m128i, u128>(register) }
}

/// Instructions with two XMM operands, by the feature that they need: a function for each, and the table
/// of them. A macro because an instruction's name has to be a literal.
macro_rules! instructions {
    ($($feature:tt: $($mnemonic:ident $name:ident),*;)*) => {
        $($(
            fn $name(a: u128, b: u128, _: u8) -> u128 {
                let mut x = register(a);
                // SAFETY: the instruction exists here, since `function` has looked, and touches only registers.
                unsafe {
                    asm!(concat!(stringify!($name), " {x}, {y}"),
                        x = inout(xmm_reg) x, y = in(xmm_reg) register(b),
                        options(pure, nomem, nostack, preserves_flags));
                }
                value(x)
            }
        )*)*

        /// The function for an instruction on XMM registers, if there is one and the host has it.
        fn function(mnemonic: Mnemonic) -> Option<IntFn> {
            let (f, available): (IntFn, bool) = match mnemonic {
                $($(Mnemonic::$mnemonic => ($name, is_x86_feature_detected!($feature)),)*)*
                _ => return None,
            };
            available.then_some(f)
        }
    };
}

instructions! {
    "sse2":
        Paddb paddb, Paddw paddw, Paddd paddd, Paddq paddq,
        Psubb psubb, Psubw psubw, Psubd psubd, Psubq psubq,
        Paddsb paddsb, Paddsw paddsw, Paddusb paddusb, Paddusw paddusw,
        Psubsb psubsb, Psubsw psubsw, Psubusb psubusb, Psubusw psubusw,
        Pminub pminub, Pminsw pminsw, Pmaxub pmaxub, Pmaxsw pmaxsw,
        Pavgb pavgb, Pavgw pavgw, Pcmpeqb pcmpeqb, Pcmpeqw pcmpeqw,
        Pcmpeqd pcmpeqd, Pcmpgtb pcmpgtb, Pcmpgtw pcmpgtw, Pcmpgtd pcmpgtd,
        Pmullw pmullw, Pmulhw pmulhw, Pmulhuw pmulhuw, Pmuludq pmuludq,
        Pmaddwd pmaddwd, Psadbw psadbw, Psllw psllw, Pslld pslld,
        Psllq psllq, Psrlw psrlw, Psrld psrld, Psrlq psrlq,
        Psraw psraw, Psrad psrad, Punpcklbw punpcklbw, Punpcklwd punpcklwd,
        Punpckldq punpckldq, Punpckhbw punpckhbw, Punpckhwd punpckhwd, Punpckhdq punpckhdq,
        Packsswb packsswb, Packuswb packuswb, Packssdw packssdw;
    "ssse3":
        Pshufb pshufb, Phaddw phaddw, Phaddd phaddd, Phaddsw phaddsw,
        Phsubw phsubw, Phsubd phsubd, Phsubsw phsubsw, Pmaddubsw pmaddubsw,
        Pmulhrsw pmulhrsw, Psignb psignb, Psignw psignw, Psignd psignd,
        Pabsb pabsb, Pabsw pabsw, Pabsd pabsd;
    "sse4.1":
        Pminsb pminsb, Pminuw pminuw, Pminsd pminsd, Pminud pminud,
        Pmaxsb pmaxsb, Pmaxuw pmaxuw, Pmaxsd pmaxsd, Pmaxud pmaxud,
        Pmulld pmulld, Pmuldq pmuldq, Pcmpeqq pcmpeqq, Packusdw packusdw,
        Phminposuw phminposuw, Pmovsxbw pmovsxbw, Pmovsxbd pmovsxbd, Pmovsxbq pmovsxbq,
        Pmovsxwd pmovsxwd, Pmovsxwq pmovsxwq, Pmovsxdq pmovsxdq, Pmovzxbw pmovzxbw,
        Pmovzxbd pmovzxbd, Pmovzxbq pmovzxbq, Pmovzxwd pmovzxwd, Pmovzxwq pmovzxwq,
        Pmovzxdq pmovzxdq;
    "sse4.2":
        Pcmpgtq pcmpgtq;
    "aes":
        Aesenc aesenc, Aesenclast aesenclast, Aesdec aesdec, Aesdeclast aesdeclast,
        Aesimc aesimc;
}

/// Shifts by an immediate, which here is a count in a register.
fn shift_by_immediate(mnemonic: Mnemonic) -> Option<IntFn> {
    Some(match mnemonic {
        Mnemonic::Psllw => |a, _, imm| psllw(a, imm.into(), 0),
        Mnemonic::Pslld => |a, _, imm| pslld(a, imm.into(), 0),
        Mnemonic::Psllq => |a, _, imm| psllq(a, imm.into(), 0),
        Mnemonic::Psrlw => |a, _, imm| psrlw(a, imm.into(), 0),
        Mnemonic::Psrld => |a, _, imm| psrld(a, imm.into(), 0),
        Mnemonic::Psrlq => |a, _, imm| psrlq(a, imm.into(), 0),
        Mnemonic::Psraw => |a, _, imm| psraw(a, imm.into(), 0),
        Mnemonic::Psrad => |a, _, imm| psrad(a, imm.into(), 0),
        _ => return None,
    })
}

/// PMOVMSKB.
fn pmovmskb(a: u128, _: u8) -> u64 {
    let mask: u64;
    // SAFETY: SSE2, and only registers are touched; writing a 32-bit register clears the upper half.
    unsafe {
        asm!("pmovmskb {r:e}, {x}", r = out(reg) mask, x = in(xmm_reg) register(a),
            options(pure, nomem, nostack, preserves_flags));
    }
    mask
}

/// PCLMULQDQ: the immediate chooses the halves.
fn multiply_carryless(a: u128, b: u128, imm: u8) -> u128 {
    let a = if imm & 1 != 0 { a >> 64 } else { a };
    let b = if imm & 16 != 0 { b >> 64 } else { b };
    let mut x = register(a);
    // SAFETY: `prefer_host` has looked whether the instruction exists; it touches only registers.
    unsafe {
        asm!("pclmulqdq {x}, {y}, 0", x = inout(xmm_reg) x, y = in(xmm_reg) register(b),
            options(pure, nomem, nostack, preserves_flags));
    }
    value(x)
}

/// `form`, the portable form of an instruction, with the host's function where there is one.
pub fn prefer_host(mnemonic: Mnemonic, form: Form) -> Form {
    match (mnemonic, form) {
        (Mnemonic::Pclmulqdq, Form::Xmm { bytes, aligned, .. }) if is_x86_feature_detected!("pclmulqdq") => {
            Form::Xmm { f: multiply_carryless, bytes, aligned }
        }
        (_, Form::Xmm { f, bytes, aligned }) => {
            Form::Xmm { f: function(mnemonic).unwrap_or(f), bytes, aligned }
        }
        (_, Form::XmmImm { f }) => Form::XmmImm { f: shift_by_immediate(mnemonic).unwrap_or(f) },
        (Mnemonic::Pmovmskb, Form::Gpr { .. }) => Form::Gpr { f: pmovmskb as ExtractFn },
        _ => form,
    }
}

//! Which form and function each instruction of the XMM registers has; `mmx` and `float` have the others.
#![forbid(unsafe_code)]

use iced_x86::Code;

use super::{CF, ZF, arithmetic, crc32, crypto, float, mmx, shift, shuffle, string};
use super::{Form, IntFn, StoreFn, StringTarget, Xm};

/// How `code` is executed, or `None` when it is not an instruction of this module.
///
/// `memory` tells whether one of the operands (implicit ones aside) is in memory: some instructions do
/// something else then.
pub fn lookup(code: Code, memory: bool) -> Option<Form> {
    let form = lookup_portable(code, memory)?;
    #[cfg(target_arch = "x86_64")]
    let form = super::host_integer::prefer_host(code.mnemonic(), form);
    Some(form)
}

/// As [`lookup`], with lane code for all integer instructions.
pub(super) fn lookup_portable(code: Code, memory: bool) -> Option<Form> {
    moves(code, memory)
        .or_else(|| integer(code))
        .or_else(|| float::lookup(code, memory))
        .or_else(|| mmx::lookup(code, memory))
}

/// An XMM register and 16 aligned bytes or another XMM register.
fn packed(f: IntFn) -> Form {
    Form::Xmm { f, bytes: 16, aligned: true }
}

/// An XMM register and 16 bytes at any address or another XMM register.
fn unaligned(f: IntFn) -> Form {
    Form::Xmm { f, bytes: 16, aligned: false }
}

/// An XMM register and less than 16 bytes or another XMM register.
fn partial(f: IntFn, bytes: u8) -> Form {
    Form::Xmm { f, bytes, aligned: false }
}

/// A store of less than 16 bytes.
fn store(f: StoreFn, bytes: u8) -> Form {
    Form::Store { f, bytes, aligned: false }
}

/// What moves data between XMM registers, general-purpose registers and memory.
fn moves(code: Code, memory: bool) -> Option<Form> {
    let load_or = |register: IntFn, load: IntFn, bytes| partial(if memory { load } else { register }, bytes);
    let store_or = |f: StoreFn, bytes, register| if memory { store(f, bytes) } else { register };
    Some(match code {
        Code::Movaps_xmm_xmmm128 | Code::Movapd_xmm_xmmm128 | Code::Movdqa_xmm_xmmm128 => {
            packed(shuffle::mov)
        }
        Code::Movntdqa_xmm_m128 => packed(shuffle::mov),
        Code::Movups_xmm_xmmm128
        | Code::Movupd_xmm_xmmm128
        | Code::Movdqu_xmm_xmmm128
        | Code::Lddqu_xmm_m128 => unaligned(shuffle::mov),
        Code::Movaps_xmmm128_xmm | Code::Movapd_xmmm128_xmm | Code::Movdqa_xmmm128_xmm if !memory => {
            packed(shuffle::mov)
        }
        Code::Movaps_xmmm128_xmm
        | Code::Movapd_xmmm128_xmm
        | Code::Movdqa_xmmm128_xmm
        | Code::Movntps_m128_xmm
        | Code::Movntpd_m128_xmm
        | Code::Movntdq_m128_xmm => Form::Store { f: shuffle::whole, bytes: 16, aligned: true },
        Code::Movups_xmmm128_xmm | Code::Movupd_xmmm128_xmm | Code::Movdqu_xmmm128_xmm => {
            store_or(shuffle::whole, 16, unaligned(shuffle::mov))
        }

        Code::Movss_xmm_xmmm32 => load_or(shuffle::movss, shuffle::movd, 4),
        Code::Movsd_xmm_xmmm64 => load_or(shuffle::movsd, shuffle::movq, 8),
        Code::Movss_xmmm32_xmm => store_or(shuffle::whole, 4, partial(shuffle::movss, 4)),
        Code::Movsd_xmmm64_xmm => store_or(shuffle::whole, 8, partial(shuffle::movsd, 8)),
        Code::Movq_xmm_xmmm64 => partial(shuffle::movq, 8),
        Code::Movq_xmmm64_xmm => store_or(shuffle::whole, 8, partial(shuffle::movq, 8)),
        Code::Movhlps_xmm_xmm => partial(shuffle::movhlps, 8),
        Code::Movlhps_xmm_xmm => partial(shuffle::movlhps, 8),
        Code::Movlps_xmm_m64 | Code::Movlpd_xmm_m64 => partial(shuffle::movsd, 8),
        Code::Movhps_xmm_m64 | Code::Movhpd_xmm_m64 => partial(shuffle::movlhps, 8),
        Code::Movlps_m64_xmm | Code::Movlpd_m64_xmm => store(shuffle::whole, 8),
        Code::Movhps_m64_xmm | Code::Movhpd_m64_xmm => store(shuffle::high_half, 8),
        Code::Movddup_xmm_xmmm64 => partial(shuffle::movddup, 8),
        Code::Movsldup_xmm_xmmm128 => packed(shuffle::movsldup),
        Code::Movshdup_xmm_xmmm128 => packed(shuffle::movshdup),

        Code::Movd_xmm_rm32 => gpr_or_load(shuffle::movd, 4, memory),
        Code::Movq_xmm_rm64 => gpr_or_load(shuffle::movq, 8, memory),
        Code::Movd_rm32_xmm => store_or(shuffle::whole, 4, Form::Gpr { f: shuffle::low_dword }),
        Code::Movq_rm64_xmm => store_or(shuffle::whole, 8, Form::Gpr { f: shuffle::low_qword }),
        Code::Pinsrb_xmm_r32m8_imm8 | Code::Pinsrb_xmm_r64m8_imm8 => gpr_or_load(shuffle::pinsrb, 1, memory),
        Code::Pinsrw_xmm_r32m16_imm8 | Code::Pinsrw_xmm_r64m16_imm8 => {
            gpr_or_load(shuffle::pinsrw, 2, memory)
        }
        Code::Pinsrd_xmm_rm32_imm8 => gpr_or_load(shuffle::pinsrd, 4, memory),
        Code::Pinsrq_xmm_rm64_imm8 => gpr_or_load(shuffle::pinsrq, 8, memory),
        Code::Insertps_xmm_xmmm32_imm8 => load_or(shuffle::insertps, shuffle::insertps_mem, 4),
        Code::Pextrb_r32m8_xmm_imm8 | Code::Pextrb_r64m8_xmm_imm8 => {
            store_or(shuffle::store_pextrb, 1, Form::Gpr { f: shuffle::pextrb })
        }
        Code::Pextrw_r32m16_xmm_imm8 | Code::Pextrw_r64m16_xmm_imm8 => {
            store_or(shuffle::store_pextrw, 2, Form::Gpr { f: shuffle::pextrw })
        }
        Code::Pextrw_r32_xmm_imm8 | Code::Pextrw_r64_xmm_imm8 => Form::Gpr { f: shuffle::pextrw },
        Code::Pextrd_rm32_xmm_imm8 | Code::Extractps_rm32_xmm_imm8 | Code::Extractps_r64m32_xmm_imm8 => {
            store_or(shuffle::store_pextrd, 4, Form::Gpr { f: shuffle::pextrd })
        }
        Code::Pextrq_rm64_xmm_imm8 => store_or(shuffle::store_pextrq, 8, Form::Gpr { f: shuffle::pextrq }),
        Code::Pmovmskb_r32_xmm | Code::Pmovmskb_r64_xmm => Form::Gpr { f: shuffle::pmovmskb },
        Code::Movmskps_r32_xmm | Code::Movmskps_r64_xmm => Form::Gpr { f: shuffle::movmskps },
        Code::Movmskpd_r32_xmm | Code::Movmskpd_r64_xmm => Form::Gpr { f: shuffle::movmskpd },
        Code::Maskmovdqu_rDI_xmm_xmm => Form::MaskStore,
        _ => return None,
    })
}

/// A general-purpose register or memory as the source of an XMM register.
fn gpr_or_load(f: IntFn, bytes: u8, memory: bool) -> Form {
    if memory { partial(f, bytes) } else { Form::XmmGpr { f } }
}

/// PTEST.
fn ptest(a: u128, b: u128, _: &mut u32) -> Result<u32, Xm> {
    Ok(if a & b == 0 { ZF } else { 0 } | if !a & b == 0 { CF } else { 0 })
}

/// Integer arithmetic, logic, shuffles, string comparisons, checksums and ciphers.
fn integer(code: Code) -> Option<Form> {
    let index = |f| Form::String { f, target: StringTarget::Rcx };
    let mask = |f| Form::String { f, target: StringTarget::Xmm0 };
    Some(match code {
        Code::Unpcklps_xmm_xmmm128 | Code::Punpckldq_xmm_xmmm128 => packed(shuffle::punpckldq),
        Code::Unpcklpd_xmm_xmmm128 | Code::Punpcklqdq_xmm_xmmm128 => packed(shuffle::movlhps),
        Code::Unpckhps_xmm_xmmm128 | Code::Punpckhdq_xmm_xmmm128 => packed(shuffle::punpckhdq),
        Code::Unpckhpd_xmm_xmmm128 | Code::Punpckhqdq_xmm_xmmm128 => packed(shuffle::punpckhqdq),
        Code::Andps_xmm_xmmm128 | Code::Andpd_xmm_xmmm128 | Code::Pand_xmm_xmmm128 => {
            packed(arithmetic::pand)
        }
        Code::Andnps_xmm_xmmm128 | Code::Andnpd_xmm_xmmm128 | Code::Pandn_xmm_xmmm128 => {
            packed(arithmetic::pandn)
        }
        Code::Orps_xmm_xmmm128 | Code::Orpd_xmm_xmmm128 | Code::Por_xmm_xmmm128 => packed(arithmetic::por),
        Code::Xorps_xmm_xmmm128 | Code::Xorpd_xmm_xmmm128 | Code::Pxor_xmm_xmmm128 => {
            packed(arithmetic::pxor)
        }
        Code::Punpcklbw_xmm_xmmm128 => packed(shuffle::punpcklbw),
        Code::Punpcklwd_xmm_xmmm128 => packed(shuffle::punpcklwd),
        Code::Packsswb_xmm_xmmm128 => packed(shuffle::packsswb),
        Code::Pcmpgtb_xmm_xmmm128 => packed(arithmetic::pcmpgtb),
        Code::Pcmpgtw_xmm_xmmm128 => packed(arithmetic::pcmpgtw),
        Code::Pcmpgtd_xmm_xmmm128 => packed(arithmetic::pcmpgtd),
        Code::Packuswb_xmm_xmmm128 => packed(shuffle::packuswb),
        Code::Punpckhbw_xmm_xmmm128 => packed(shuffle::punpckhbw),
        Code::Punpckhwd_xmm_xmmm128 => packed(shuffle::punpckhwd),
        Code::Packssdw_xmm_xmmm128 => packed(shuffle::packssdw),
        Code::Pshufd_xmm_xmmm128_imm8 => packed(shuffle::pshufd),
        Code::Pshufhw_xmm_xmmm128_imm8 => packed(shuffle::pshufhw),
        Code::Pshuflw_xmm_xmmm128_imm8 => packed(shuffle::pshuflw),
        Code::Psrlw_xmm_imm8 => Form::XmmImm { f: shift::psrlw_imm },
        Code::Psraw_xmm_imm8 => Form::XmmImm { f: shift::psraw_imm },
        Code::Psllw_xmm_imm8 => Form::XmmImm { f: shift::psllw_imm },
        Code::Psrld_xmm_imm8 => Form::XmmImm { f: shift::psrld_imm },
        Code::Psrad_xmm_imm8 => Form::XmmImm { f: shift::psrad_imm },
        Code::Pslld_xmm_imm8 => Form::XmmImm { f: shift::pslld_imm },
        Code::Psrlq_xmm_imm8 => Form::XmmImm { f: shift::psrlq_imm },
        Code::Psrldq_xmm_imm8 => Form::XmmImm { f: shift::psrldq_imm },
        Code::Psllq_xmm_imm8 => Form::XmmImm { f: shift::psllq_imm },
        Code::Pslldq_xmm_imm8 => Form::XmmImm { f: shift::pslldq_imm },
        Code::Pcmpeqb_xmm_xmmm128 => packed(arithmetic::pcmpeqb),
        Code::Pcmpeqw_xmm_xmmm128 => packed(arithmetic::pcmpeqw),
        Code::Pcmpeqd_xmm_xmmm128 => packed(arithmetic::pcmpeqd),
        Code::Shufps_xmm_xmmm128_imm8 => packed(shuffle::shufps),
        Code::Shufpd_xmm_xmmm128_imm8 => packed(shuffle::shufpd),
        Code::Psrlw_xmm_xmmm128 => packed(shift::psrlw),
        Code::Psrld_xmm_xmmm128 => packed(shift::psrld),
        Code::Psrlq_xmm_xmmm128 => packed(shift::psrlq),
        Code::Paddq_xmm_xmmm128 => packed(arithmetic::paddq),
        Code::Pmullw_xmm_xmmm128 => packed(arithmetic::pmullw),
        Code::Psubusb_xmm_xmmm128 => packed(arithmetic::psubusb),
        Code::Psubusw_xmm_xmmm128 => packed(arithmetic::psubusw),
        Code::Pminub_xmm_xmmm128 => packed(arithmetic::pminub),
        Code::Paddusb_xmm_xmmm128 => packed(arithmetic::paddusb),
        Code::Paddusw_xmm_xmmm128 => packed(arithmetic::paddusw),
        Code::Pmaxub_xmm_xmmm128 => packed(arithmetic::pmaxub),
        Code::Pavgb_xmm_xmmm128 => packed(arithmetic::pavgb),
        Code::Psraw_xmm_xmmm128 => packed(shift::psraw),
        Code::Psrad_xmm_xmmm128 => packed(shift::psrad),
        Code::Pavgw_xmm_xmmm128 => packed(arithmetic::pavgw),
        Code::Pmulhuw_xmm_xmmm128 => packed(arithmetic::pmulhuw),
        Code::Pmulhw_xmm_xmmm128 => packed(arithmetic::pmulhw),
        Code::Psubsb_xmm_xmmm128 => packed(arithmetic::psubsb),
        Code::Psubsw_xmm_xmmm128 => packed(arithmetic::psubsw),
        Code::Pminsw_xmm_xmmm128 => packed(arithmetic::pminsw),
        Code::Paddsb_xmm_xmmm128 => packed(arithmetic::paddsb),
        Code::Paddsw_xmm_xmmm128 => packed(arithmetic::paddsw),
        Code::Pmaxsw_xmm_xmmm128 => packed(arithmetic::pmaxsw),
        Code::Psllw_xmm_xmmm128 => packed(shift::psllw),
        Code::Pslld_xmm_xmmm128 => packed(shift::pslld),
        Code::Psllq_xmm_xmmm128 => packed(shift::psllq),
        Code::Pmuludq_xmm_xmmm128 => packed(arithmetic::pmuludq),
        Code::Pmaddwd_xmm_xmmm128 => packed(arithmetic::pmaddwd),
        Code::Psadbw_xmm_xmmm128 => packed(arithmetic::psadbw),
        Code::Psubb_xmm_xmmm128 => packed(arithmetic::psubb),
        Code::Psubw_xmm_xmmm128 => packed(arithmetic::psubw),
        Code::Psubd_xmm_xmmm128 => packed(arithmetic::psubd),
        Code::Psubq_xmm_xmmm128 => packed(arithmetic::psubq),
        Code::Paddb_xmm_xmmm128 => packed(arithmetic::paddb),
        Code::Paddw_xmm_xmmm128 => packed(arithmetic::paddw),
        Code::Paddd_xmm_xmmm128 => packed(arithmetic::paddd),
        Code::Pshufb_xmm_xmmm128 => packed(shuffle::pshufb),
        Code::Phaddw_xmm_xmmm128 => packed(arithmetic::phaddw),
        Code::Phaddd_xmm_xmmm128 => packed(arithmetic::phaddd),
        Code::Phaddsw_xmm_xmmm128 => packed(arithmetic::phaddsw),
        Code::Pmaddubsw_xmm_xmmm128 => packed(arithmetic::pmaddubsw),
        Code::Phsubw_xmm_xmmm128 => packed(arithmetic::phsubw),
        Code::Phsubd_xmm_xmmm128 => packed(arithmetic::phsubd),
        Code::Phsubsw_xmm_xmmm128 => packed(arithmetic::phsubsw),
        Code::Psignb_xmm_xmmm128 => packed(arithmetic::psignb),
        Code::Psignw_xmm_xmmm128 => packed(arithmetic::psignw),
        Code::Psignd_xmm_xmmm128 => packed(arithmetic::psignd),
        Code::Pmulhrsw_xmm_xmmm128 => packed(arithmetic::pmulhrsw),
        Code::Pblendvb_xmm_xmmm128 => Form::Blend { f: shuffle::pblendvb },
        Code::Blendvps_xmm_xmmm128 => Form::Blend { f: shuffle::blendvps },
        Code::Blendvpd_xmm_xmmm128 => Form::Blend { f: shuffle::blendvpd },
        Code::Pabsb_xmm_xmmm128 => packed(arithmetic::pabsb),
        Code::Pabsw_xmm_xmmm128 => packed(arithmetic::pabsw),
        Code::Pabsd_xmm_xmmm128 => packed(arithmetic::pabsd),
        Code::Pmovsxbw_xmm_xmmm64 => partial(shuffle::pmovsxbw, 8),
        Code::Pmovsxbd_xmm_xmmm32 => partial(shuffle::pmovsxbd, 4),
        Code::Pmovsxbq_xmm_xmmm16 => partial(shuffle::pmovsxbq, 2),
        Code::Pmovsxwd_xmm_xmmm64 => partial(shuffle::pmovsxwd, 8),
        Code::Pmovsxwq_xmm_xmmm32 => partial(shuffle::pmovsxwq, 4),
        Code::Pmovsxdq_xmm_xmmm64 => partial(shuffle::pmovsxdq, 8),
        Code::Pmuldq_xmm_xmmm128 => packed(arithmetic::pmuldq),
        Code::Pcmpeqq_xmm_xmmm128 => packed(arithmetic::pcmpeqq),
        Code::Packusdw_xmm_xmmm128 => packed(shuffle::packusdw),
        Code::Pmovzxbw_xmm_xmmm64 => partial(shuffle::pmovzxbw, 8),
        Code::Pmovzxbd_xmm_xmmm32 => partial(shuffle::pmovzxbd, 4),
        Code::Pmovzxbq_xmm_xmmm16 => partial(shuffle::pmovzxbq, 2),
        Code::Pmovzxwd_xmm_xmmm64 => partial(shuffle::pmovzxwd, 8),
        Code::Pmovzxwq_xmm_xmmm32 => partial(shuffle::pmovzxwq, 4),
        Code::Pmovzxdq_xmm_xmmm64 => partial(shuffle::pmovzxdq, 8),
        Code::Pcmpgtq_xmm_xmmm128 => packed(arithmetic::pcmpgtq),
        Code::Pminsb_xmm_xmmm128 => packed(arithmetic::pminsb),
        Code::Pminsd_xmm_xmmm128 => packed(arithmetic::pminsd),
        Code::Pminuw_xmm_xmmm128 => packed(arithmetic::pminuw),
        Code::Pminud_xmm_xmmm128 => packed(arithmetic::pminud),
        Code::Pmaxsb_xmm_xmmm128 => packed(arithmetic::pmaxsb),
        Code::Pmaxsd_xmm_xmmm128 => packed(arithmetic::pmaxsd),
        Code::Pmaxuw_xmm_xmmm128 => packed(arithmetic::pmaxuw),
        Code::Pmaxud_xmm_xmmm128 => packed(arithmetic::pmaxud),
        Code::Pmulld_xmm_xmmm128 => packed(arithmetic::pmulld),
        Code::Phminposuw_xmm_xmmm128 => packed(arithmetic::phminposuw),
        Code::Aesimc_xmm_xmmm128 => packed(crypto::aesimc),
        Code::Aesenc_xmm_xmmm128 => packed(crypto::aesenc),
        Code::Aesenclast_xmm_xmmm128 => packed(crypto::aesenclast),
        Code::Aesdec_xmm_xmmm128 => packed(crypto::aesdec),
        Code::Aesdeclast_xmm_xmmm128 => packed(crypto::aesdeclast),
        Code::Blendps_xmm_xmmm128_imm8 => packed(shuffle::blendps),
        Code::Blendpd_xmm_xmmm128_imm8 => packed(shuffle::blendpd),
        Code::Pblendw_xmm_xmmm128_imm8 => packed(shuffle::pblendw),
        Code::Palignr_xmm_xmmm128_imm8 => packed(shuffle::palignr),
        Code::Mpsadbw_xmm_xmmm128_imm8 => packed(arithmetic::mpsadbw),
        Code::Pclmulqdq_xmm_xmmm128_imm8 => packed(crypto::pclmulqdq),
        Code::Aeskeygenassist_xmm_xmmm128_imm8 => packed(crypto::aeskeygenassist),

        Code::Ptest_xmm_xmmm128 => Form::Flags { f: ptest, bytes: 16, aligned: true },
        Code::Pcmpestri_xmm_xmmm128_imm8 => index(string::pcmpestri),
        Code::Pcmpestri64_xmm_xmmm128_imm8 => index(string::pcmpestri64),
        Code::Pcmpistri_xmm_xmmm128_imm8 => index(string::pcmpistri),
        Code::Pcmpestrm_xmm_xmmm128_imm8 => mask(string::pcmpestrm),
        Code::Pcmpestrm64_xmm_xmmm128_imm8 => mask(string::pcmpestrm64),
        Code::Pcmpistrm_xmm_xmmm128_imm8 => mask(string::pcmpistrm),
        Code::Crc32_r32_rm8 | Code::Crc32_r64_rm8 => Form::Crc { f: crc32::crc32_8, bytes: 1 },
        Code::Crc32_r32_rm16 => Form::Crc { f: crc32::crc32_16, bytes: 2 },
        Code::Crc32_r32_rm32 => Form::Crc { f: crc32::crc32_32, bytes: 4 },
        Code::Crc32_r64_rm64 => Form::Crc { f: crc32::crc32_64, bytes: 8 },
        _ => return None,
    })
}

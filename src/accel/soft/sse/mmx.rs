//! Which form and function each instruction of the MMX registers has.
#![forbid(unsafe_code)]

use iced_x86::Code;

use super::{Form, IntFn};
use super::{arithmetic, shift, shuffle};

/// An MMX register and memory or another MMX register.
fn mmx(f: IntFn, bytes: u8) -> Form {
    Form::Mmx { f, bytes }
}

/// How `code` is executed, or `None` when it is not an instruction of the MMX registers.
pub fn lookup(code: Code, memory: bool) -> Option<Form> {
    moves(code, memory).or_else(|| packed(code))
}

/// What moves data between MMX registers and elsewhere.
fn moves(code: Code, memory: bool) -> Option<Form> {
    let from_gpr = |f: IntFn, bytes| if memory { mmx(f, bytes) } else { Form::MmxGpr { f } };
    let store_or = |bytes, register| if memory { Form::MmxStore { bytes } } else { register };
    Some(match code {
        Code::Movd_mm_rm32 => from_gpr(shuffle::movd, 4),
        Code::Movq_mm_rm64 => from_gpr(shuffle::movq, 8),
        Code::Movq_mm_mmm64 => mmx(shuffle::mov, 8),
        Code::Movd_rm32_mm => store_or(4, Form::GprMmx { f: shuffle::low_dword }),
        Code::Movq_rm64_mm => store_or(8, Form::GprMmx { f: shuffle::low_qword }),
        Code::Movq_mmm64_mm => store_or(8, mmx(shuffle::mov, 8)),
        Code::Movntq_m64_mm => Form::MmxStore { bytes: 8 },
        Code::Pinsrw_mm_r32m16_imm8 | Code::Pinsrw_mm_r64m16_imm8 => from_gpr(shuffle::pinsrw_mm, 2),
        Code::Pextrw_r32_mm_imm8 | Code::Pextrw_r64_mm_imm8 => Form::GprMmx { f: shuffle::pextrw_mm },
        Code::Pmovmskb_r32_mm | Code::Pmovmskb_r64_mm => Form::GprMmx { f: shuffle::pmovmskb },
        Code::Movdq2q_mm_xmm => Form::MmxXmm { f: shuffle::movq },
        Code::Movq2dq_xmm_mm => Form::XmmMmx { f: shuffle::movq },
        Code::Maskmovq_rDI_mm_mm => Form::MmxMaskStore,
        _ => return None,
    })
}

/// Arithmetic, logic and shuffles.
fn packed(code: Code) -> Option<Form> {
    Some(match code {
        Code::Punpcklbw_mm_mmm32 => mmx(shuffle::punpcklbw, 4),
        Code::Punpcklwd_mm_mmm32 => mmx(shuffle::punpcklwd, 4),
        Code::Punpckldq_mm_mmm32 => mmx(shuffle::punpckldq, 4),
        Code::Packsswb_mm_mmm64 => mmx(shuffle::packsswb_mm, 8),
        Code::Pcmpgtb_mm_mmm64 => mmx(arithmetic::pcmpgtb, 8),
        Code::Pcmpgtw_mm_mmm64 => mmx(arithmetic::pcmpgtw, 8),
        Code::Pcmpgtd_mm_mmm64 => mmx(arithmetic::pcmpgtd, 8),
        Code::Packuswb_mm_mmm64 => mmx(shuffle::packuswb_mm, 8),
        Code::Punpckhbw_mm_mmm64 => mmx(shuffle::punpckhbw_mm, 8),
        Code::Punpckhwd_mm_mmm64 => mmx(shuffle::punpckhwd_mm, 8),
        Code::Punpckhdq_mm_mmm64 => mmx(shuffle::punpckhdq_mm, 8),
        Code::Packssdw_mm_mmm64 => mmx(shuffle::packssdw_mm, 8),
        Code::Pshufw_mm_mmm64_imm8 => mmx(shuffle::pshuflw, 8),
        Code::Psrlw_mm_imm8 => Form::MmxImm { f: shift::psrlw_imm },
        Code::Psraw_mm_imm8 => Form::MmxImm { f: shift::psraw_imm },
        Code::Psllw_mm_imm8 => Form::MmxImm { f: shift::psllw_imm },
        Code::Psrld_mm_imm8 => Form::MmxImm { f: shift::psrld_imm },
        Code::Psrad_mm_imm8 => Form::MmxImm { f: shift::psrad_imm },
        Code::Pslld_mm_imm8 => Form::MmxImm { f: shift::pslld_imm },
        Code::Psrlq_mm_imm8 => Form::MmxImm { f: shift::psrlq_imm },
        Code::Psllq_mm_imm8 => Form::MmxImm { f: shift::psllq_imm },
        Code::Pcmpeqb_mm_mmm64 => mmx(arithmetic::pcmpeqb, 8),
        Code::Pcmpeqw_mm_mmm64 => mmx(arithmetic::pcmpeqw, 8),
        Code::Pcmpeqd_mm_mmm64 => mmx(arithmetic::pcmpeqd, 8),
        Code::Psrlw_mm_mmm64 => mmx(shift::psrlw, 8),
        Code::Psrld_mm_mmm64 => mmx(shift::psrld, 8),
        Code::Psrlq_mm_mmm64 => mmx(shift::psrlq, 8),
        Code::Paddq_mm_mmm64 => mmx(arithmetic::paddq, 8),
        Code::Pmullw_mm_mmm64 => mmx(arithmetic::pmullw, 8),
        Code::Psubusb_mm_mmm64 => mmx(arithmetic::psubusb, 8),
        Code::Psubusw_mm_mmm64 => mmx(arithmetic::psubusw, 8),
        Code::Pminub_mm_mmm64 => mmx(arithmetic::pminub, 8),
        Code::Pand_mm_mmm64 => mmx(arithmetic::pand, 8),
        Code::Paddusb_mm_mmm64 => mmx(arithmetic::paddusb, 8),
        Code::Paddusw_mm_mmm64 => mmx(arithmetic::paddusw, 8),
        Code::Pmaxub_mm_mmm64 => mmx(arithmetic::pmaxub, 8),
        Code::Pandn_mm_mmm64 => mmx(arithmetic::pandn, 8),
        Code::Pavgb_mm_mmm64 => mmx(arithmetic::pavgb, 8),
        Code::Psraw_mm_mmm64 => mmx(shift::psraw, 8),
        Code::Psrad_mm_mmm64 => mmx(shift::psrad, 8),
        Code::Pavgw_mm_mmm64 => mmx(arithmetic::pavgw, 8),
        Code::Pmulhuw_mm_mmm64 => mmx(arithmetic::pmulhuw, 8),
        Code::Pmulhw_mm_mmm64 => mmx(arithmetic::pmulhw, 8),
        Code::Psubsb_mm_mmm64 => mmx(arithmetic::psubsb, 8),
        Code::Psubsw_mm_mmm64 => mmx(arithmetic::psubsw, 8),
        Code::Pminsw_mm_mmm64 => mmx(arithmetic::pminsw, 8),
        Code::Por_mm_mmm64 => mmx(arithmetic::por, 8),
        Code::Paddsb_mm_mmm64 => mmx(arithmetic::paddsb, 8),
        Code::Paddsw_mm_mmm64 => mmx(arithmetic::paddsw, 8),
        Code::Pmaxsw_mm_mmm64 => mmx(arithmetic::pmaxsw, 8),
        Code::Pxor_mm_mmm64 => mmx(arithmetic::pxor, 8),
        Code::Psllw_mm_mmm64 => mmx(shift::psllw, 8),
        Code::Pslld_mm_mmm64 => mmx(shift::pslld, 8),
        Code::Psllq_mm_mmm64 => mmx(shift::psllq, 8),
        Code::Pmuludq_mm_mmm64 => mmx(arithmetic::pmuludq, 8),
        Code::Pmaddwd_mm_mmm64 => mmx(arithmetic::pmaddwd, 8),
        Code::Psadbw_mm_mmm64 => mmx(arithmetic::psadbw, 8),
        Code::Psubb_mm_mmm64 => mmx(arithmetic::psubb, 8),
        Code::Psubw_mm_mmm64 => mmx(arithmetic::psubw, 8),
        Code::Psubd_mm_mmm64 => mmx(arithmetic::psubd, 8),
        Code::Psubq_mm_mmm64 => mmx(arithmetic::psubq, 8),
        Code::Paddb_mm_mmm64 => mmx(arithmetic::paddb, 8),
        Code::Paddw_mm_mmm64 => mmx(arithmetic::paddw, 8),
        Code::Paddd_mm_mmm64 => mmx(arithmetic::paddd, 8),
        Code::Pshufb_mm_mmm64 => mmx(shuffle::pshufb_mm, 8),
        Code::Phaddw_mm_mmm64 => mmx(arithmetic::phaddw_mm, 8),
        Code::Phaddd_mm_mmm64 => mmx(arithmetic::phaddd_mm, 8),
        Code::Phaddsw_mm_mmm64 => mmx(arithmetic::phaddsw_mm, 8),
        Code::Pmaddubsw_mm_mmm64 => mmx(arithmetic::pmaddubsw, 8),
        Code::Phsubw_mm_mmm64 => mmx(arithmetic::phsubw_mm, 8),
        Code::Phsubd_mm_mmm64 => mmx(arithmetic::phsubd_mm, 8),
        Code::Phsubsw_mm_mmm64 => mmx(arithmetic::phsubsw_mm, 8),
        Code::Psignb_mm_mmm64 => mmx(arithmetic::psignb, 8),
        Code::Psignw_mm_mmm64 => mmx(arithmetic::psignw, 8),
        Code::Psignd_mm_mmm64 => mmx(arithmetic::psignd, 8),
        Code::Pmulhrsw_mm_mmm64 => mmx(arithmetic::pmulhrsw, 8),
        Code::Pabsb_mm_mmm64 => mmx(arithmetic::pabsb, 8),
        Code::Pabsw_mm_mmm64 => mmx(arithmetic::pabsw, 8),
        Code::Pabsd_mm_mmm64 => mmx(arithmetic::pabsd, 8),
        Code::Palignr_mm_mmm64_imm8 => mmx(shuffle::palignr_mm, 8),
        _ => return None,
    })
}

//! Which form and function each floating-point instruction has.
#![forbid(unsafe_code)]

use iced_x86::Code;

use super::horizontal;
use super::lanes::{Lanes, build};
use super::{Form, FpFn, Xm};

/// What computes: the host's SSE unit where it has one.
#[cfg(target_arch = "x86_64")]
pub(super) use super::host as unit;
#[cfg(not(target_arch = "x86_64"))]
pub(super) use super::portable as unit;

/// What computes RCPPS and RSQRTPS.
#[cfg(not(target_arch = "x86_64"))]
use super::approximation as estimate;
#[cfg(target_arch = "x86_64")]
use super::host as estimate;

/// How `code` is executed, or `None` when it is not a floating-point instruction.
pub fn lookup(code: Code, memory: bool) -> Option<Form> {
    arithmetic(code).or_else(|| conversion(code, memory))
}

/// An XMM register and memory or another XMM register; 16 bytes have to be aligned.
fn fp(f: FpFn, bytes: u8) -> Form {
    Form::XmmFp { f, bytes, aligned: bytes == 16 }
}

/// Arithmetic, comparisons and rounding.
fn arithmetic(code: Code) -> Option<Form> {
    Some(match code {
        Code::Addps_xmm_xmmm128 => fp(unit::addps, 16),
        Code::Addpd_xmm_xmmm128 => fp(unit::addpd, 16),
        Code::Addss_xmm_xmmm32 => fp(unit::addss, 4),
        Code::Addsd_xmm_xmmm64 => fp(unit::addsd, 8),
        Code::Subps_xmm_xmmm128 => fp(unit::subps, 16),
        Code::Subpd_xmm_xmmm128 => fp(unit::subpd, 16),
        Code::Subss_xmm_xmmm32 => fp(unit::subss, 4),
        Code::Subsd_xmm_xmmm64 => fp(unit::subsd, 8),
        Code::Mulps_xmm_xmmm128 => fp(unit::mulps, 16),
        Code::Mulpd_xmm_xmmm128 => fp(unit::mulpd, 16),
        Code::Mulss_xmm_xmmm32 => fp(unit::mulss, 4),
        Code::Mulsd_xmm_xmmm64 => fp(unit::mulsd, 8),
        Code::Divps_xmm_xmmm128 => fp(unit::divps, 16),
        Code::Divpd_xmm_xmmm128 => fp(unit::divpd, 16),
        Code::Divss_xmm_xmmm32 => fp(unit::divss, 4),
        Code::Divsd_xmm_xmmm64 => fp(unit::divsd, 8),
        Code::Minps_xmm_xmmm128 => fp(unit::minps, 16),
        Code::Minpd_xmm_xmmm128 => fp(unit::minpd, 16),
        Code::Minss_xmm_xmmm32 => fp(unit::minss, 4),
        Code::Minsd_xmm_xmmm64 => fp(unit::minsd, 8),
        Code::Maxps_xmm_xmmm128 => fp(unit::maxps, 16),
        Code::Maxpd_xmm_xmmm128 => fp(unit::maxpd, 16),
        Code::Maxss_xmm_xmmm32 => fp(unit::maxss, 4),
        Code::Maxsd_xmm_xmmm64 => fp(unit::maxsd, 8),
        Code::Sqrtps_xmm_xmmm128 => fp(unit::sqrtps, 16),
        Code::Sqrtpd_xmm_xmmm128 => fp(unit::sqrtpd, 16),
        Code::Sqrtss_xmm_xmmm32 => fp(unit::sqrtss, 4),
        Code::Sqrtsd_xmm_xmmm64 => fp(unit::sqrtsd, 8),
        Code::Rcpps_xmm_xmmm128 => fp(estimate::rcpps, 16),
        Code::Rcpss_xmm_xmmm32 => fp(estimate::rcpss, 4),
        Code::Rsqrtps_xmm_xmmm128 => fp(estimate::rsqrtps, 16),
        Code::Rsqrtss_xmm_xmmm32 => fp(estimate::rsqrtss, 4),
        Code::Cmpps_xmm_xmmm128_imm8 => fp(unit::cmpps, 16),
        Code::Cmppd_xmm_xmmm128_imm8 => fp(unit::cmppd, 16),
        Code::Cmpss_xmm_xmmm32_imm8 => fp(unit::cmpss, 4),
        Code::Cmpsd_xmm_xmmm64_imm8 => fp(unit::cmpsd, 8),
        Code::Roundps_xmm_xmmm128_imm8 => fp(unit::roundps, 16),
        Code::Roundpd_xmm_xmmm128_imm8 => fp(unit::roundpd, 16),
        Code::Roundss_xmm_xmmm32_imm8 => fp(unit::roundss, 4),
        Code::Roundsd_xmm_xmmm64_imm8 => fp(unit::roundsd, 8),
        Code::Addsubps_xmm_xmmm128 => fp(unit::addsubps, 16),
        Code::Haddps_xmm_xmmm128 => fp(horizontal::haddps, 16),
        Code::Hsubps_xmm_xmmm128 => fp(horizontal::hsubps, 16),
        Code::Dpps_xmm_xmmm128_imm8 => fp(horizontal::dpps, 16),
        Code::Addsubpd_xmm_xmmm128 => fp(unit::addsubpd, 16),
        Code::Haddpd_xmm_xmmm128 => fp(horizontal::haddpd, 16),
        Code::Hsubpd_xmm_xmmm128 => fp(horizontal::hsubpd, 16),
        Code::Dppd_xmm_xmmm128_imm8 => fp(horizontal::dppd, 16),
        Code::Comiss_xmm_xmmm32 => Form::Flags { f: unit::comiss, bytes: 4, aligned: false },
        Code::Ucomiss_xmm_xmmm32 => Form::Flags { f: unit::ucomiss, bytes: 4, aligned: false },
        Code::Comisd_xmm_xmmm64 => Form::Flags { f: unit::comisd, bytes: 8, aligned: false },
        Code::Ucomisd_xmm_xmmm64 => Form::Flags { f: unit::ucomisd, bytes: 8, aligned: false },
        _ => return None,
    })
}

/// Two doublewords to two doubles, which is exact.
fn cvtdq2pd(_: u128, b: u128, _: u8) -> u128 {
    let b = <[i32; 4]>::split(b);
    build::<u64, 2>(|i| f64::from(b[i]).to_bits())
}

/// A doubleword to the low double, which is exact.
fn cvtsi2sd_32(a: u128, b: u128, _: u8) -> u128 {
    a & !u128::from(u64::MAX) | u128::from(f64::from(b as i32).to_bits())
}

/// Conversions between formats and to and from integers.
fn conversion(code: Code, memory: bool) -> Option<Form> {
    let to_mmx = |f: FpFn, bytes: u8| Form::MmxXmmFp { f, bytes, aligned: bytes == 16 };
    let from_gpr = |f: FpFn, bytes: u8| if memory { fp(f, bytes) } else { Form::XmmGprFp { f } };
    Some(match code {
        Code::Cvtps2pd_xmm_xmmm64 => fp(unit::cvtps2pd, 8),
        Code::Cvtpd2ps_xmm_xmmm128 => fp(unit::cvtpd2ps, 16),
        Code::Cvtss2sd_xmm_xmmm32 => fp(unit::cvtss2sd, 4),
        Code::Cvtsd2ss_xmm_xmmm64 => fp(unit::cvtsd2ss, 8),
        Code::Cvtdq2ps_xmm_xmmm128 => fp(unit::cvtdq2ps, 16),
        Code::Cvtps2dq_xmm_xmmm128 => fp(unit::cvtps2dq, 16),
        Code::Cvttps2dq_xmm_xmmm128 => fp(unit::cvttps2dq, 16),
        Code::Cvtpd2dq_xmm_xmmm128 => fp(unit::cvtpd2dq, 16),
        Code::Cvttpd2dq_xmm_xmmm128 => fp(unit::cvttpd2dq, 16),
        Code::Cvtss2si_r32_xmmm32 => Form::GprFp { f: unit::cvtss2si_32, bytes: 4 },
        Code::Cvtss2si_r64_xmmm32 => Form::GprFp { f: unit::cvtss2si_64, bytes: 4 },
        Code::Cvtsd2si_r32_xmmm64 => Form::GprFp { f: unit::cvtsd2si_32, bytes: 8 },
        Code::Cvtsd2si_r64_xmmm64 => Form::GprFp { f: unit::cvtsd2si_64, bytes: 8 },
        Code::Cvttss2si_r32_xmmm32 => Form::GprFp { f: unit::cvttss2si_32, bytes: 4 },
        Code::Cvttss2si_r64_xmmm32 => Form::GprFp { f: unit::cvttss2si_64, bytes: 4 },
        Code::Cvttsd2si_r32_xmmm64 => Form::GprFp { f: unit::cvttsd2si_32, bytes: 8 },
        Code::Cvttsd2si_r64_xmmm64 => Form::GprFp { f: unit::cvttsd2si_64, bytes: 8 },
        Code::Cvtdq2pd_xmm_xmmm64 => Form::Xmm { f: cvtdq2pd, bytes: 8, aligned: false },
        Code::Cvtsi2sd_xmm_rm32 if memory => Form::Xmm { f: cvtsi2sd_32, bytes: 4, aligned: false },
        Code::Cvtsi2sd_xmm_rm32 => Form::XmmGpr { f: cvtsi2sd_32 },
        Code::Cvtsi2sd_xmm_rm64 => from_gpr(unit::cvtsi2sd_64, 8),
        Code::Cvtsi2ss_xmm_rm32 => from_gpr(unit::cvtsi2ss_32, 4),
        Code::Cvtsi2ss_xmm_rm64 => from_gpr(unit::cvtsi2ss_64, 8),
        // With a memory operand CVTPI2PD, unlike CVTPI2PS, leaves the x87 unit alone.
        Code::Cvtpi2pd_xmm_mmm64 if memory => Form::Xmm { f: cvtdq2pd, bytes: 8, aligned: false },
        Code::Cvtpi2pd_xmm_mmm64 => Form::XmmMmx { f: cvtdq2pd },
        Code::Cvtpi2ps_xmm_mmm64 => Form::XmmMmxFp { f: cvtpi2ps },
        Code::Cvtps2pi_mm_xmmm64 => to_mmx(cvtps2pi, 8),
        Code::Cvttps2pi_mm_xmmm64 => to_mmx(cvttps2pi, 8),
        Code::Cvtpd2pi_mm_xmmm128 => to_mmx(unit::cvtpd2dq, 16),
        Code::Cvttpd2pi_mm_xmmm128 => to_mmx(unit::cvttpd2dq, 16),
        _ => return None,
    })
}

/// Two doublewords to the low two lanes; the upper ones are those of `a`.
fn cvtpi2ps(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    let converted = unit::cvtdq2ps(a, b & u128::from(u64::MAX), 0, mxcsr)?;
    Ok(a & !u128::from(u64::MAX) | converted & u128::from(u64::MAX))
}

/// The low two lanes only; the zeros above raise nothing.
fn cvtps2pi(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    unit::cvtps2dq(a, b & u128::from(u64::MAX), 0, mxcsr)
}

/// As `cvtps2pi`.
fn cvttps2pi(a: u128, b: u128, _: u8, mxcsr: &mut u32) -> Result<u128, Xm> {
    unit::cvttps2dq(a, b & u128::from(u64::MAX), 0, mxcsr)
}

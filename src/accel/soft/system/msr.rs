//! Model-specific registers (Intel SDM vol. 4, chapter 2; KVM's in kvmclock).

#![forbid(unsafe_code)]

use super::super::abort::Exec;
use super::super::state::{Cpu, cr0, efer, seg};
use super::mtrr::{self, Mtrrs};
use super::{access, cpuid, kvmclock};

/// Numbers of MSRs.
#[allow(missing_docs, reason = "the SDM's names are the documentation")]
pub mod number {
    pub const TSC: u32 = 0x10;
    pub const PLATFORM_ID: u32 = 0x17;
    pub const APIC_BASE: u32 = 0x1b;
    pub const TSC_ADJUST: u32 = 0x3b;
    pub const BIOS_UPDT_TRIG: u32 = 0x79;
    pub const BIOS_SIGN_ID: u32 = 0x8b;
    pub const PLATFORM_INFO: u32 = 0xce;
    pub const MTRRCAP: u32 = 0xfe;
    pub const ARCH_CAPABILITIES: u32 = 0x10a;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const MCG_CAP: u32 = 0x179;
    pub const MCG_STATUS: u32 = 0x17a;
    pub const MISC_ENABLE: u32 = 0x1a0;
    pub const DEBUGCTL: u32 = 0x1d9;
    pub const PAT: u32 = 0x277;
    pub const TSC_DEADLINE: u32 = 0x6e0;
    pub const PKRS: u32 = 0x6e1;
    pub const X2APIC: std::ops::RangeInclusive<u32> = 0x800..=0x8ff;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const SFMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
}

/// `IA32_DEBUGCTL`: LBR and BTF, which are kept and have no effect.
pub const DEBUGCTL_ALL: u64 = 0b11;

/// `IA32_MISC_ENABLE` after reset: fast strings; branch trace store and PEBS are not available.
const MISC_ENABLE_RESET: u64 = 1 | 1 << 11 | 1 << 12;
/// Its bits that a write leaves alone: performance monitoring, BTS, PEBS.
const MISC_ENABLE_FIXED: u64 = 1 << 7 | 1 << 11 | 1 << 12;
/// Its bits that exist: fast strings, TCC, performance monitoring, FERR#, BTS, PEBS, TM2, EIST, MONITOR,
/// the EIST lock, the CPUID limit, xTPR, XD disable.
const MISC_ENABLE_ALL: u64 =
    MISC_ENABLE_FIXED | 1 | 1 << 3 | 1 << 10 | 1 << 13 | 1 << 16 | 1 << 18 | 1 << 20 | 0b11 << 22 | 1 << 34;

/// `MSR_PLATFORM_INFO`: the ratio of the TSC to 100 MHz.
const PLATFORM_INFO: u64 = (super::time::TSC_HZ / 100_000_000) << 8;

/// The registers that only this module and the instructions named after them use.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "a register's name is its documentation")]
pub struct Msrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u32,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub tsc_aux: u32,
    /// The TSC is the machine's clock plus this.
    pub tsc_adjust: u64,
    pub pat: u64,
    pub misc_enable: u64,
    pub debugctl: u64,
    pub mcg_status: u64,
    pub mtrrs: Mtrrs,
    pub kvm_wall_clock: u64,
    pub kvm_system_time: u64,
    pub kvm_async_pf: u64,
    /// Version of the system time page.
    kvm_version: u32,
}

impl Default for Msrs {
    fn default() -> Self {
        Self {
            star: 0,
            lstar: 0,
            cstar: 0,
            sfmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            tsc_aux: 0,
            tsc_adjust: 0,
            pat: mtrr::PAT_RESET,
            misc_enable: MISC_ENABLE_RESET,
            debugctl: 0,
            mcg_status: 0,
            mtrrs: Mtrrs::default(),
            kvm_wall_clock: 0,
            kvm_system_time: 0,
            kvm_async_pf: 0,
            kvm_version: 0,
        }
    }
}

/// RDMSR.
///
/// # Errors
/// #GP(0) but at CPL 0, or for an MSR that does not exist.
pub fn rdmsr(cpu: &mut Cpu) -> Exec {
    cpu.require_cpl0()?;
    let value = read(cpu, cpu.gpr[1] as u32)?;
    cpu.gpr[0] = value & 0xffff_ffff;
    cpu.gpr[2] = value >> 32;
    Ok(())
}

/// WRMSR.
///
/// # Errors
/// #GP(0) but at CPL 0, for an MSR that does not exist or a value that it does not take.
pub fn wrmsr(cpu: &mut Cpu) -> Exec {
    cpu.require_cpl0()?;
    let value = cpu.gpr[2] << 32 | cpu.gpr[0] & 0xffff_ffff;
    write(cpu, cpu.gpr[1] as u32, value)
}

/// Reads an MSR.
///
/// # Errors
/// #GP(0) if it does not exist.
pub fn read(cpu: &mut Cpu, msr: u32) -> Exec<u64> {
    use number::*;
    let msrs = &cpu.system.msrs;
    Ok(match msr {
        TSC => cpu.tsc(),
        // Slot 0.
        PLATFORM_ID => 0,
        APIC_BASE | TSC_DEADLINE | 0x800..=0x8ff => return cpu.read_apic_msr(msr),
        TSC_ADJUST => msrs.tsc_adjust,
        BIOS_SIGN_ID => 1 << 32,
        PLATFORM_INFO => self::PLATFORM_INFO,
        MTRRCAP => mtrr::CAP,
        ARCH_CAPABILITIES => cpuid::ARCH_CAPABILITIES,
        SYSENTER_CS => u64::from(msrs.sysenter_cs),
        SYSENTER_ESP => msrs.sysenter_esp,
        SYSENTER_EIP => msrs.sysenter_eip,
        // No banks.
        MCG_CAP => 0,
        MCG_STATUS => msrs.mcg_status,
        MISC_ENABLE => msrs.misc_enable,
        DEBUGCTL => msrs.debugctl,
        // The last branch and the last interrupt, which are not recorded.
        0x1db..=0x1de => 0,
        PAT => msrs.pat,
        PKRS => u64::from(cpu.pkrs),
        EFER => cpu.efer,
        STAR => msrs.star,
        LSTAR => msrs.lstar,
        CSTAR => msrs.cstar,
        SFMASK => msrs.sfmask,
        FS_BASE => cpu.seg[seg::FS].base,
        GS_BASE => cpu.seg[seg::GS].base,
        KERNEL_GS_BASE => msrs.kernel_gs_base,
        TSC_AUX => u64::from(msrs.tsc_aux),
        kvmclock::WALL_CLOCK | kvmclock::WALL_CLOCK_NEW => msrs.kvm_wall_clock,
        kvmclock::SYSTEM_TIME | kvmclock::SYSTEM_TIME_NEW => msrs.kvm_system_time,
        kvmclock::ASYNC_PF => msrs.kvm_async_pf,
        _ => match msrs.mtrrs.read(msr) {
            Some(value) => value,
            None => return cpu.general_protection(),
        },
    })
}

/// Writes an MSR.
///
/// # Errors
/// #GP(0) if it does not exist, can only be read, or does not take the value.
pub fn write(cpu: &mut Cpu, msr: u32, value: u64) -> Exec {
    use number::*;
    let canonical = access::is_canonical(value);
    let narrow = value >> 32 == 0;
    let msrs = &mut cpu.system.msrs;
    match msr {
        TSC => {
            let delta = value.wrapping_sub(cpu.tsc());
            let adjust = cpu.system.msrs.tsc_adjust.wrapping_add(delta);
            set_tsc_adjust(cpu, adjust);
        }
        TSC_ADJUST => set_tsc_adjust(cpu, value),
        APIC_BASE | TSC_DEADLINE | 0x800..=0x8ff => return cpu.write_apic_msr(msr, value),
        // No microcode: an update changes nothing.
        BIOS_UPDT_TRIG | BIOS_SIGN_ID => {}
        SYSENTER_CS => msrs.sysenter_cs = value as u32,
        SYSENTER_ESP if canonical => msrs.sysenter_esp = value,
        SYSENTER_EIP if canonical => msrs.sysenter_eip = value,
        MCG_STATUS if value & !0b111 == 0 => msrs.mcg_status = value,
        MISC_ENABLE if value & !MISC_ENABLE_ALL == 0 => {
            msrs.misc_enable = msrs.misc_enable & MISC_ENABLE_FIXED | value & !MISC_ENABLE_FIXED;
        }
        DEBUGCTL if value & !DEBUGCTL_ALL == 0 => msrs.debugctl = value,
        PAT if mtrr::is_pat(value) => msrs.pat = value,
        PKRS if narrow => cpu.set_protection_keys(cpu.pkru, value as u32),
        EFER => return write_efer(cpu, value),
        STAR => msrs.star = value,
        LSTAR if canonical => msrs.lstar = value,
        CSTAR if canonical => msrs.cstar = value,
        SFMASK if narrow => msrs.sfmask = value,
        FS_BASE if canonical => set_base(cpu, seg::FS, value),
        GS_BASE if canonical => set_base(cpu, seg::GS, value),
        KERNEL_GS_BASE if canonical => msrs.kernel_gs_base = value,
        TSC_AUX if narrow => msrs.tsc_aux = value as u32,
        kvmclock::WALL_CLOCK | kvmclock::WALL_CLOCK_NEW => {
            msrs.kvm_wall_clock = value;
            write_wall_clock(cpu, value);
        }
        kvmclock::SYSTEM_TIME | kvmclock::SYSTEM_TIME_NEW => {
            msrs.kvm_system_time = value;
            write_system_time(cpu);
        }
        kvmclock::ASYNC_PF if value & kvmclock::ASYNC_PF_RESERVED == 0 => msrs.kvm_async_pf = value,
        _ => {
            if msrs.mtrrs.write(msr, value).is_none() {
                return cpu.general_protection();
            }
        }
    }
    Ok(())
}

fn set_base(cpu: &mut Cpu, segment: usize, value: u64) {
    cpu.seg[segment].base = value;
    cpu.update_mode();
}

fn write_efer(cpu: &mut Cpu, value: u64) -> Exec {
    const WRITABLE: u64 = efer::SCE | efer::LME | efer::NXE;
    let changed = value ^ cpu.efer;
    if value & !(WRITABLE | efer::LMA) != 0 || cpu.cr0 & cr0::PG != 0 && changed & efer::LME != 0 {
        return cpu.general_protection();
    }
    // LMA is the processor's own.
    cpu.efer = value & WRITABLE | cpu.efer & efer::LMA;
    if changed & efer::NXE != 0 {
        cpu.flush_tlb_all();
    }
    Ok(())
}

fn set_tsc_adjust(cpu: &mut Cpu, value: u64) {
    cpu.set_tsc_adjust(value);
    write_system_time(cpu);
}

/// Fills the guest's system time page, if it has one.
fn write_system_time(cpu: &mut Cpu) {
    let msrs = &mut cpu.system.msrs;
    if msrs.kvm_system_time & kvmclock::ENABLED == 0 {
        return;
    }
    let gpa = msrs.kvm_system_time & !kvmclock::ENABLED;
    msrs.kvm_version = msrs.kvm_version.wrapping_add(2);
    let version = msrs.kvm_version;
    let adjust = msrs.tsc_adjust;
    let ticks = cpu.system.clock.ticks();
    let page = kvmclock::system_time(version, ticks.wrapping_add(adjust), ticks);
    write_versioned(cpu, gpa, &page);
}

fn write_wall_clock(cpu: &mut Cpu, gpa: u64) {
    let page = kvmclock::wall_clock(2, cpu.system.clock.boot_time());
    write_versioned(cpu, gpa, &page);
}

/// Writes a page that starts with a version: an odd one while its other words change.
fn write_versioned(cpu: &mut Cpu, gpa: u64, page: &[u8]) {
    let Some((version, _)) = page.split_first_chunk::<4>() else { return };
    let version = u32::from_le_bytes(*version);
    write_word(cpu, gpa, version.wrapping_sub(1));
    for (at, chunk) in (0u64..).step_by(4).zip(page.chunks_exact(4)).skip(1) {
        let word = chunk.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        write_word(cpu, gpa.wrapping_add(at), word);
    }
    write_word(cpu, gpa, version);
}

/// Writes guest RAM; where there is none the word is lost.
fn write_word(cpu: &mut Cpu, gpa: u64, word: u32) {
    if cpu.ram.host(gpa, 4).is_some() {
        // RAM takes any store.
        let _: Exec = cpu.write_phys(gpa, word);
    }
}

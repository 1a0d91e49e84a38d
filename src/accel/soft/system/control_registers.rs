//! CR0 to CR8 (Intel SDM vol. 3, 2.5) and the transitions between modes (9.8, 9.9).

#![forbid(unsafe_code)]

use iced_x86::{Instruction, OpKind};

use super::super::abort::Exec;
use super::super::mmu::MAXPHYADDR;
use super::super::state::{Cpu, Mode, cr0, cr4, efer, seg};
use super::descriptor::system;
use super::invpcid::PCID;
use super::operand;

/// Every bit of CR0 that exists.
const CR0_ALL: u64 = cr0::PE
    | cr0::MP
    | cr0::EM
    | cr0::TS
    | cr0::ET
    | cr0::NE
    | cr0::WP
    | cr0::AM
    | cr0::NW
    | cr0::CD
    | cr0::PG;

/// The bits of CR4 whose features CPUID names; all others are reserved.
pub const CR4_ALL: u64 = cr4::TSD
    | cr4::DE
    | cr4::PSE
    | cr4::PAE
    | cr4::MCE
    | cr4::PGE
    | cr4::PCE
    | cr4::OSFXSR
    | cr4::OSXMMEXCPT
    | cr4::UMIP
    | cr4::FSGSBASE
    | cr4::PCIDE
    | cr4::OSXSAVE
    | cr4::SMEP
    | cr4::SMAP
    | cr4::PKE
    | cr4::PKS;

/// Bits of CR4 whose change makes translations stale.
const CR4_TRANSLATION: u64 =
    cr4::PSE | cr4::PAE | cr4::PGE | cr4::PCIDE | cr4::SMEP | cr4::SMAP | cr4::PKE | cr4::PKS;

/// Reserved bits of a page-directory-pointer entry in PAE paging.
const PDPTE_RESERVED: u64 = 0x1e6 | !((1 << MAXPHYADDR) - 1);

/// MOV to or from a control register.
///
/// # Errors
/// #UD for a register that does not exist; #GP(0) for what must not be.
pub fn mov(cpu: &mut Cpu, instruction: &Instruction) -> Exec {
    let (to, from) = (instruction.op0_register(), instruction.op1_register());
    let writes = to.is_cr();
    let number = if writes { to.number() } else { from.number() };
    if !matches!(number, 0 | 2 | 3 | 4 | 8) {
        return cpu.undefined();
    }
    cpu.require_cpl0()?;
    if writes {
        let value = operand::register_value(cpu, from);
        return match number {
            0 => write_cr0(cpu, value),
            2 => {
                cpu.cr2 = value;
                Ok(())
            }
            3 => write_cr3(cpu, value),
            4 => write_cr4(cpu, value),
            _ => cpu.write_tpr(value),
        };
    }
    let value = match number {
        0 => cpu.cr0,
        2 => cpu.cr2,
        3 => cpu.cr3,
        4 => cpu.cr4,
        _ => cpu.read_tpr(),
    };
    operand::set_register(cpu, to, value);
    Ok(())
}

/// Sets CR0 as MOV does.
///
/// # Errors
/// #GP(0) for combinations that must not be, and transitions that must not happen.
pub fn write_cr0(cpu: &mut Cpu, value: u64) -> Exec {
    if value >> 32 != 0
        || value & cr0::PG != 0 && value & cr0::PE == 0
        || value & cr0::NW != 0 && value & cr0::CD == 0
    {
        return cpu.general_protection();
    }
    let value = value & CR0_ALL | cr0::ET;
    let changed = value ^ cpu.cr0;
    let mut lma = cpu.efer & efer::LMA;
    if changed & cr0::PG != 0 {
        if value & cr0::PG == 0 {
            if cpu.mode == Mode::Long || cpu.cr4 & cr4::PCIDE != 0 {
                return cpu.general_protection();
            }
            lma = 0;
        } else if cpu.efer & efer::LME != 0 {
            let tss16 = matches!(cpu.tr.type_, system::TSS16 | system::TSS16_BUSY) && !cpu.tr.unusable;
            if cpu.cr4 & cr4::PAE == 0 || cpu.seg[seg::CS].l || tss16 {
                return cpu.general_protection();
            }
            lma = efer::LMA;
        } else if cpu.cr4 & cr4::PAE != 0 {
            check_pointers(cpu, cpu.cr3)?;
        }
    }
    cpu.cr0 = value;
    cpu.efer = cpu.efer & !efer::LMA | lma;
    if changed & (cr0::PG | cr0::WP | cr0::PE) != 0 {
        cpu.flush_tlb_all();
    }
    cpu.update_mode();
    Ok(())
}

/// The page-directory-pointer entries of PAE paging are checked when CR3 is loaded.
fn check_pointers(cpu: &mut Cpu, cr3: u64) -> Exec {
    let table = cr3 & 0xffff_ffe0;
    for i in 0..4 {
        let entry = cpu.ram.read::<u64>(table + i * 8).unwrap_or(u64::MAX);
        if entry & 1 != 0 && entry & PDPTE_RESERVED != 0 {
            return cpu.general_protection();
        }
    }
    Ok(())
}

fn is_pae_paging(cpu: &Cpu) -> bool {
    cpu.cr0 & cr0::PG != 0 && cpu.cr4 & cr4::PAE != 0 && !cpu.long_mode_active()
}

/// Sets CR3 as MOV does. With PCIDs, bit 63 allows to keep the new PCID's translations; none are.
///
/// # Errors
/// #GP(0) for reserved bits, in CR3 or in the entries that it points to.
pub fn write_cr3(cpu: &mut Cpu, value: u64) -> Exec {
    let value = if cpu.cr4 & cr4::PCIDE != 0 { value & !(1 << 63) } else { value };
    if cpu.long_mode_active() && value >> MAXPHYADDR != 0 {
        return cpu.general_protection();
    }
    if is_pae_paging(cpu) {
        check_pointers(cpu, value)?;
    }
    set_cr3(cpu, value);
    Ok(())
}

/// Sets CR3 and drops the translations that are not global.
pub fn set_cr3(cpu: &mut Cpu, value: u64) {
    cpu.cr3 = value;
    cpu.flush_tlb_nonglobal();
}

/// Sets CR4 as MOV does.
///
/// # Errors
/// #GP(0) for reserved bits, PAE cleared in IA-32e mode, or PCIDE set outside it or with a PCID but 0.
pub fn write_cr4(cpu: &mut Cpu, value: u64) -> Exec {
    if value & !CR4_ALL != 0 || cpu.long_mode_active() && value & cr4::PAE == 0 {
        return cpu.general_protection();
    }
    let changed = value ^ cpu.cr4;
    let pcide = changed & value & cr4::PCIDE != 0;
    if pcide && (!cpu.long_mode_active() || cpu.cr3 & PCID != 0) {
        return cpu.general_protection();
    }
    let legacy_pae = cpu.cr0 & cr0::PG != 0 && value & cr4::PAE != 0 && !cpu.long_mode_active();
    if legacy_pae && changed & (cr4::PAE | cr4::PGE | cr4::PSE | cr4::SMEP) != 0 {
        check_pointers(cpu, cpu.cr3)?;
    }
    cpu.cr4 = value;
    if changed & CR4_TRANSLATION != 0 {
        cpu.flush_tlb_all();
    }
    cpu.update_mode();
    Ok(())
}

/// CLTS.
///
/// # Errors
/// #GP(0) but at CPL 0.
pub fn clts(cpu: &mut Cpu) -> Exec {
    cpu.require_cpl0()?;
    cpu.cr0 &= !cr0::TS;
    Ok(())
}

/// LMSW: it sets PE but cannot clear it.
///
/// # Errors
/// #GP(0) but at CPL 0; the faults of the operand.
pub fn lmsw(cpu: &mut Cpu, instruction: &Instruction) -> Exec {
    cpu.require_cpl0()?;
    let value = operand::read(cpu, instruction, 0, 2)?;
    write_cr0(cpu, cpu.cr0 & !0xe | value & 0xf)
}

/// SMSW.
///
/// # Errors
/// #GP(0) for a user under UMIP; the faults of the store.
pub fn smsw(cpu: &mut Cpu, instruction: &Instruction) -> Exec {
    super::tables::require_umip(cpu)?;
    super::tables::store_word(cpu, instruction, cpu.cr0)
}

/// INVLPG.
///
/// # Errors
/// #GP(0) but at CPL 0.
pub fn invlpg(cpu: &mut Cpu, instruction: &Instruction) -> Exec {
    cpu.require_cpl0()?;
    if instruction.op_kind(0) != OpKind::Memory {
        return cpu.undefined();
    }
    let (segment, offset) = operand::address(cpu, instruction);
    let based = cpu.mode != Mode::Long || segment >= seg::FS;
    let base = cpu.seg.get(segment).filter(|_| based).map_or(0, |s| s.base);
    let linear = base.wrapping_add(offset);
    cpu.invlpg(if cpu.mode == Mode::Long { linear } else { linear & 0xffff_ffff });
    Ok(())
}

//! INVPCID (Intel SDM vol. 2A, INVPCID; vol. 3, 4.10.1).
//!
//! The buffers hold translations of the current address space alone: loading CR3 empties them, whatever
//! its bit 63 allows to keep. So nothing is ever cached for another PCID.

#![forbid(unsafe_code)]

use iced_x86::Instruction;

use super::super::abort::Exec;
use super::super::memory::Access;
use super::super::state::{Cpu, Mode, cr4};
use super::{access, operand};

/// The bits of CR3, and of a descriptor, that are the PCID.
pub const PCID: u64 = 0xfff;

/// INVPCID.
///
/// # Errors
/// #GP(0) but at CPL 0, for a type that does not exist, a reserved bit in
/// the descriptor, a PCID while CR4.PCIDE is clear, an address that is not canonical; the faults of the
/// load.
pub fn invpcid(cpu: &mut Cpu, instruction: &Instruction) -> Exec {
    cpu.require_cpl0()?;
    let kind = operand::register_value(cpu, instruction.op_register(0));
    let at = operand::linear(cpu, instruction, 0, 16, false)?;
    let pcid = access::read(cpu, at, 8, Access::Current)?;
    let linear = access::read(cpu, at.wrapping_add(8), 8, Access::Current)?;
    let foreign = pcid != 0 && cpu.cr4 & cr4::PCIDE == 0;
    if pcid & !PCID != 0 || kind > 3 || kind < 2 && foreign || kind == 0 && !is_canonical(linear) {
        return cpu.general_protection();
    }
    let current = cpu.cr4 & cr4::PCIDE == 0 || pcid == cpu.cr3 & PCID;
    match kind {
        0 if current => cpu.invlpg(if cpu.mode == Mode::Long { linear } else { linear & 0xffff_ffff }),
        1 if current => cpu.flush_tlb_nonglobal(),
        0 | 1 => {}
        2 => cpu.flush_tlb_all(),
        _ => cpu.flush_tlb_nonglobal(),
    }
    Ok(())
}

/// The descriptor's address is checked in every mode.
fn is_canonical(linear: u64) -> bool {
    linear.cast_signed() << 16 >> 16 == linear.cast_signed()
}

//! A vCPU that can never do anything again.
//!
//! WFI ends when an interrupt is pending, also when interrupts are masked, so a sleeping AArch64 vCPU says
//! nothing about its future. What does is its code: if interrupts are masked and it goes round in a loop of
//! instructions that change nothing (WFI, WFE, barriers, branches), no interrupt leads out of it. This is how
//! kernels end that have nothing left to do.

#![forbid(unsafe_code)]

use vm_memory::{Bytes, GuestAddress};

use super::translate::translate;
use crate::accel::{Arm64Regs, Arm64SpecialRegs};
use crate::memory::GuestMemory;

/// PSTATE.I and PSTATE.F: IRQs and FIQs are masked.
const MASKED: u64 = 1 << 7 | 1 << 6;
/// Longer than any loop of this kind.
const LONGEST: usize = 16;

const NOP: u32 = 0xD503_201F;
const YIELD: u32 = 0xD503_203F;
const WFE: u32 = 0xD503_205F;
const WFI: u32 = 0xD503_207F;
const ISB: u32 = 0xD503_3FDF;
/// DSB and DMB with any option.
const BARRIER_MASK: u32 = 0xFFFF_F0DF;
const BARRIER: u32 = 0xD503_309F;

/// Whether interrupts are masked in this PSTATE.
#[must_use]
pub fn masks_interrupts(pstate: u64) -> bool {
    pstate & MASKED == MASKED
}

/// Whether a vCPU with these registers goes round for ever without an effect, whatever interrupts come.
#[must_use]
pub fn is_parked(memory: &GuestMemory, regs: &Arm64Regs, special: &Arm64SpecialRegs) -> bool {
    if !masks_interrupts(regs.pstate) {
        return false;
    }
    let mut seen = Vec::new();
    let mut pc = regs.pc;
    while seen.len() < LONGEST {
        if seen.contains(&pc) {
            return true;
        }
        seen.push(pc);
        let Some(next) = instruction(memory, special, pc).and_then(|code| idle_successor(code, pc)) else {
            return false;
        };
        pc = next;
    }
    false
}

/// The instruction at a virtual address.
#[must_use]
pub fn instruction(memory: &GuestMemory, special: &Arm64SpecialRegs, pc: u64) -> Option<u32> {
    memory.read_obj(GuestAddress(translate(memory, special, pc)?)).ok().map(u32::from_le)
}

/// Where an instruction without any effect goes; `None` for one that has an effect.
fn idle_successor(code: u32, pc: u64) -> Option<u64> {
    match code {
        NOP | YIELD | WFE | WFI | ISB => Some(pc.wrapping_add(4)),
        _ if code & BARRIER_MASK == BARRIER => Some(pc.wrapping_add(4)),
        // B: a signed offset of 26 bits in words.
        _ if code >> 26 == 0b00_0101 => {
            let offset = i64::from((code << 6).cast_signed() >> 6) * 4;
            Some(pc.wrapping_add_signed(offset))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::allocate;

    fn parked(code: &[u32], pstate: u64) -> bool {
        let memory = allocate(1 << 20).unwrap();
        for (at, word) in (0x1000..).step_by(4).zip(code) {
            memory.write_obj(*word, GuestAddress(at)).unwrap();
        }
        let regs = Arm64Regs { pc: 0x1008, pstate, ..Default::default() };
        is_parked(&memory, &regs, &Arm64SpecialRegs::default())
    }

    const EL1_MASKED: u64 = 0x3C5;
    const SELF: u32 = 0x1400_0000;
    const BACK_BY_1: u32 = 0x17FF_FFFF;
    const BACK_BY_2: u32 = 0x17FF_FFFE;
    const ADD: u32 = 0x9100_0400;

    #[test]
    fn a_loop_of_nothing_with_interrupts_masked_is_the_end() {
        // Behind the WFI, as after a kick; on a branch to itself; and Linux's loop of WFE and WFI.
        assert!(parked(&[0, WFI, BACK_BY_1], EL1_MASKED));
        assert!(parked(&[0, 0, SELF], EL1_MASKED));
        assert!(parked(&[WFE, WFI, BACK_BY_2], EL1_MASKED));
        assert!(parked(&[0, 0xD503_3F9F, WFI, BACK_BY_1], EL1_MASKED));
    }

    #[test]
    fn whoever_can_be_interrupted_or_does_something_is_not_parked() {
        assert!(!parked(&[0, WFI, BACK_BY_1], EL1_MASKED & !(1 << 7)));
        assert!(!parked(&[0, 0, SELF], 0x5));
        assert!(!parked(&[0, WFI, ADD, BACK_BY_2], EL1_MASKED));
        assert!(!parked(&[ADD, WFI, BACK_BY_2], EL1_MASKED));
        assert!(!parked(&[NOP; 40], EL1_MASKED), "it does not come round");
        assert!(!parked(&[], EL1_MASKED), "no code at all");
    }

    #[test]
    fn code_that_is_not_mapped_is_not_judged() {
        let memory = allocate(1 << 20).unwrap();
        let regs = Arm64Regs { pc: 1 << 40, pstate: EL1_MASKED, ..Default::default() };
        assert!(!is_parked(&memory, &regs, &Arm64SpecialRegs::default()));
    }
}

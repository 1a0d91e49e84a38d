//! DR0 to DR7 (Intel SDM vol. 3, 18.2).

#![forbid(unsafe_code)]

use iced_x86::Instruction;

use super::super::abort::{AbortReason, Exception, Exec, vector};
use super::super::flags::rflags;
use super::super::state::{Cpu, cr4, seg};
use super::operand;

/// DR6: a debug register was accessed while DR7.GD was set.
pub const BD: u64 = 1 << 13;
/// DR6: single step.
pub const BS: u64 = 1 << 14;
/// DR6: a task switch to a TSS with its T flag set.
pub const BT: u64 = 1 << 15;

/// DR7: the next access of a debug register faults.
const GD: u64 = 1 << 13;

/// DR6's bits that are always set, and those that can be written.
const DR6_FIXED: u64 = 0xffff_0ff0;
const DR6_WRITABLE: u64 = 0xe00f;
/// As above, of DR7.
const DR7_FIXED: u64 = 0x400;
const DR7_WRITABLE: u64 = 0xffff_23ff;

/// MOV to or from a debug register.
///
/// # Errors
/// #UD for a register that does not exist; #GP(0); #DB for an access under DR7.GD.
pub fn mov(cpu: &mut Cpu, instruction: &Instruction) -> Exec {
    let (to, from) = (instruction.op0_register(), instruction.op1_register());
    let writes = to.is_dr();
    let number = match if writes { to.number() } else { from.number() } {
        4 | 5 if cpu.cr4 & cr4::DE != 0 => return cpu.undefined(),
        4 => 6,
        5 => 7,
        number @ (0..=3 | 6 | 7) => number,
        _ => return cpu.undefined(),
    };
    cpu.require_cpl0()?;
    if cpu.dr[7] & GD != 0 {
        cpu.note_debug_condition(BD);
        return cpu.raise(vector::DB, None);
    }
    if !writes {
        let value = cpu.dr[number];
        operand::set_register(cpu, to, value);
        return Ok(());
    }
    let value = operand::register_value(cpu, from);
    if number >= 6 && value >> 32 != 0 {
        return cpu.general_protection();
    }
    cpu.dr[number] = match number {
        6 => value & DR6_WRITABLE | DR6_FIXED,
        7 => value & DR7_WRITABLE | DR7_FIXED,
        _ => value,
    };
    // Without breakpoints nobody kept account of what the last instruction was.
    cpu.system.stack_loaded = false;
    // Pages with data breakpoints are not to be accessed by way of the translation buffers.
    cpu.flush_tlb_all();
    Ok(())
}

/// What the delivery of #DB changes: its handler can use the debug registers and is not traced.
pub fn on_debug_exception(cpu: &mut Cpu) {
    cpu.dr[7] &= !GD;
    cpu.system.msrs.debugctl &= !super::msr::DEBUGCTL_ALL;
}

/// Whether the #DB to be delivered is the fault of a debug register access, by DR6.
#[must_use]
pub fn is_general_detect(cpu: &Cpu) -> bool {
    cpu.dr[6] & BD != 0
}

/// An access that a breakpoint may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// Instruction fetch.
    Fetch,
    /// Load from memory.
    Load,
    /// Store to memory.
    Store,
    /// IN or OUT.
    Port,
}

/// What an instruction started with, as far as traps care.
#[derive(Debug, Clone, Copy)]
pub struct Trace {
    /// RFLAGS.TF was set.
    stepping: bool,
    /// RFLAGS.RF, which every instruction clears.
    resume: u64,
}

impl Cpu {
    /// Notes the breakpoints that an access of `len` bytes meets; they trap after the instruction.
    pub(in crate::accel::soft) fn watch(&mut self, address: u64, len: u64, access: Watched) {
        if self.dr[7] & 0xff != 0 {
            self.system.breakpoints |= self.breakpoints(address, len, access);
        }
    }

    /// The bits of DR6 for the enabled breakpoints that an access meets.
    fn breakpoints(&self, address: u64, len: u64, access: Watched) -> u64 {
        let mut hit = 0;
        for (i, &start) in self.dr.iter().take(4).enumerate() {
            let kind = self.dr[7] >> (16 + 4 * i) & 3;
            let waits = match access {
                Watched::Fetch => kind == 0,
                Watched::Store => kind & 1 != 0,
                Watched::Load => kind == 3,
                Watched::Port => kind == 2 && self.cr4 & cr4::DE != 0,
            };
            // The length's encoding: 1, 2, 8, 4 bytes.
            let size = [1, 2, 8, 4][(self.dr[7] >> (18 + 4 * i) & 3) as usize];
            let start = start & !(size - 1);
            // Either range begins inside the other.
            let meets = address.wrapping_sub(start) < size || start.wrapping_sub(address) < len;
            if self.dr[7] >> (2 * i) & 3 != 0 && waits && meets {
                hit |= 1 << i;
            }
        }
        hit
    }

    /// Notes why #DB is raised: the breakpoints' bits of DR6 tell the latest one, software clears the others.
    pub(in crate::accel::soft) fn note_debug_condition(&mut self, bits: u64) {
        self.dr[6] = self.dr[6] & !0xf | bits;
    }

    /// Raises the #DB of a breakpoint at the instruction that is about to be executed. Behind a load of SS by
    /// MOV or POP there is none (Intel SDM vol. 3, 6.8.3).
    pub(in crate::accel::soft) fn raise_instruction_breakpoint(&mut self) -> Exec {
        let inhibited = self.rflags_rest & rflags::RF != 0 || self.system.stack_loaded;
        if self.dr[7] & 0xff == 0 || inhibited || !self.replay.is_empty() {
            return Ok(());
        }
        let base = if self.code_bits() == 64 { 0 } else { self.seg[seg::CS].base };
        let hit = self.breakpoints(base.wrapping_add(self.rip), 1, Watched::Fetch);
        if hit == 0 {
            return Ok(());
        }
        self.note_debug_condition(hit);
        self.raise(vector::DB, None)
    }

    /// Raises the trap of single-stepping behind an instruction that has completed.
    pub fn raise_single_step(&mut self) {
        self.note_debug_condition(BS);
        self.abort = AbortReason::Exception(Exception { vector: vector::DB, error_code: None });
    }

    /// Before an instruction that may be followed by a trap.
    pub(in crate::accel::soft) fn start_trace(&mut self) -> Trace {
        self.system.untraced = false;
        self.system.stack_loaded = false;
        // Those that the load of SS before it met.
        self.system.breakpoints = std::mem::take(&mut self.system.held_breakpoints);
        let flags = self.rflags_rest & (rflags::TF | rflags::RF);
        self.rflags_rest &= !rflags::RF;
        Trace { stepping: flags & rflags::TF != 0, resume: flags & rflags::RF }
    }

    /// After it: raises #DB for the breakpoints that it met and for single-stepping.
    pub(in crate::accel::soft) fn end_trace(&mut self, trace: Trace, completed: bool) {
        if !completed {
            self.rflags_rest |= trace.resume;
            return;
        }
        let mut hit = self.system.breakpoints;
        if self.system.stack_loaded {
            self.system.held_breakpoints = hit;
            return;
        }
        if trace.stepping && !self.system.untraced {
            hit |= BS;
        }
        if hit != 0 {
            self.note_debug_condition(hit);
            self.abort = AbortReason::Exception(Exception { vector: vector::DB, error_code: None });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::machine;
    use super::*;

    #[test]
    fn breakpoints_meet_what_they_wait_for() {
        let mut cpu = machine::long(0);
        // DR0: execution of one byte; DR1: stores to four; DR2: any access of eight; DR3: ports, two.
        (cpu.dr[0], cpu.dr[1], cpu.dr[2], cpu.dr[3]) = (0x9000, 0x5006, 0x6000, 0x60);
        cpu.dr[7] = 0xaa | 0x6bd0 << 16;
        cpu.cr4 |= cr4::DE;
        for (address, len, access, hit) in [
            (0x9000, 1, Watched::Fetch, 1),
            (0x9001, 1, Watched::Fetch, 0),
            (0x9000, 1, Watched::Store, 0),
            (0x5004, 1, Watched::Store, 2),
            (0x5007, 1, Watched::Store, 2),
            (0x5000, 8, Watched::Store, 2),
            (0x5008, 8, Watched::Store, 0),
            (0x5004, 4, Watched::Load, 0),
            (0x6007, 1, Watched::Load, 4),
            (0x6000, 1, Watched::Store, 4),
            (0x5fff, 1, Watched::Load, 0),
            (0x61, 1, Watched::Port, 8),
            (0x62, 1, Watched::Port, 0),
            (u64::MAX, 8, Watched::Load, 0),
        ] {
            assert_eq!(cpu.breakpoints(address, len, access), hit, "{address:#x} {len} {access:?}");
        }
        cpu.dr[7] &= !0xff;
        assert_eq!(cpu.breakpoints(0x9000, 1, Watched::Fetch), 0);
    }

    #[test]
    fn an_instruction_breakpoint_yields_to_the_resume_flag() {
        let mut cpu = machine::long(0);
        cpu.dr[0] = cpu.rip;
        cpu.dr[7] = 0x401;
        assert!(cpu.raise_instruction_breakpoint().is_err());
        assert_eq!(cpu.dr[6] & 0xf, 1);
        cpu.abort = AbortReason::None;
        cpu.set_rflags(rflags::RF);
        assert!(cpu.raise_instruction_breakpoint().is_ok());
        let trace = cpu.start_trace();
        assert_eq!(cpu.rflags_rest & rflags::RF, 0);
        cpu.end_trace(trace, true);
        assert_eq!((cpu.rflags_rest & rflags::RF, cpu.abort), (0, AbortReason::None));
    }
}

//! DR0 to DR7 (Intel SDM vol. 3, 18.2).

#![forbid(unsafe_code)]

use iced_x86::Instruction;

use super::super::abort::{Exec, vector};
use super::super::state::{Cpu, cr4};
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
        cpu.dr[6] |= BD;
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

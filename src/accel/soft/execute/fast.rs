//! Handlers of decoded operations: leaving and chaining blocks, and the general handler. The
//! specialised ones are in `special`, and `select` chooses among them.

use std::sync::atomic::Ordering;

use super::Flow;
use crate::accel::soft::abort::{AbortReason, Exception, vector};
use crate::accel::soft::cache::key;
use crate::accel::soft::mmu::{PAGE_MASK, Want};
use crate::accel::soft::op::{Next, Op};
use crate::accel::soft::state::{Cpu, Mode, seg};

/// Leaves the block; `cpu.rip` is set.
pub(super) const LEAVE: Next = std::ptr::null();

/// The instruction was aborted: it is the one to go on with.
#[cold]
#[inline(never)]
pub(super) fn aborted(cpu: &mut Cpu, op: &Op) -> Next {
    // A linear access knows no segment: an address in the stack segment that is not canonical is #SS.
    let not_canonical = Exception { vector: vector::GP, error_code: Some(0) };
    if cpu.abort == AbortReason::Exception(not_canonical) && op.uses_stack_segment() {
        cpu.abort = AbortReason::Exception(Exception { vector: vector::SS, error_code: Some(0) });
    }
    stopped(cpu, op)
}

/// As `aborted`, when the fault has nothing to do with a memory operand.
#[cold]
#[inline(never)]
pub(super) fn stopped(cpu: &mut Cpu, op: &Op) -> Next {
    cpu.rip = cpu.wrap_rip(cpu.page_base.wrapping_add(op.offset.into()));
    LEAVE
}

/// Goes on at the operation number `link` of the cache.
#[inline(always)]
pub(super) fn linked(cpu: &Cpu, link: u32) -> Next {
    cpu.cache.ops.as_ptr().wrapping_add(link as usize)
}

/// Goes on at `rip`, in any page, if its block is at hand.
#[inline(never)]
pub(super) fn go(cpu: &mut Cpu, rip: u64) -> Next {
    cpu.rip = rip;
    if cpu.pending.load(Ordering::Relaxed) != 0 {
        return LEAVE;
    }
    if cpu.mode != Mode::Long && rip > u64::from(cpu.seg[seg::CS].limit) {
        return LEAVE;
    }
    let la = cpu.code_address(rip);
    let entry = cpu.tlb.get(cpu.tlb_set, Want::Execute, la);
    if entry.tag != la & PAGE_MASK {
        return LEAVE;
    }
    let gpa = entry.addend | la & 0xfff;
    match cpu.cache.find(key(gpa, cpu.mode_key())) {
        Some(op) => {
            cpu.set_code_page(gpa, rip);
            linked(cpu, op)
        }
        None => LEAVE,
    }
}

/// Goes on at a target in `op.imm` that has no link yet.
#[cold]
#[inline(never)]
pub(super) fn unlinked(cpu: &mut Cpu, op: &Op, target: u64) -> Next {
    let rip = cpu.wrap_rip(cpu.page_base.wrapping_add(target));
    if target >= 4096 {
        return go(cpu, rip);
    }
    cpu.rip = rip;
    cpu.link_from = std::ptr::from_ref(op);
    cpu.link_to = (rip, cpu.code_page);
    LEAVE
}

/// Takes the branch of `op`, whose target is `op.imm`.
#[inline(always)]
pub(super) fn branch(cpu: &mut Cpu, op: &Op) -> Next {
    let link = op.link.get();
    if link != 0 && cpu.pending.load(Ordering::Relaxed) == 0 {
        return linked(cpu, link);
    }
    unlinked(cpu, op, op.imm)
}

/// Ends a block that goes on with the instruction at `op.imm`.
pub fn end_block(cpu: &mut Cpu, op: &Op) -> Next {
    match op.link.get() {
        0 => unlinked(cpu, op, op.imm),
        link => linked(cpu, link),
    }
}

/// Leaves a block that is no longer valid.
pub fn leave_block(cpu: &mut Cpu, op: &Op) -> Next {
    stopped(cpu, op)
}

/// An instruction in its general form.
pub fn general(cpu: &mut Cpu, op: &Op) -> Next {
    let Some(detail) = cpu.cache.details.get(op.imm as usize) else { return stopped(cpu, op) };
    let (instruction, run) = (detail.instruction, detail.run);
    cpu.rip = cpu.wrap_rip(cpu.page_base.wrapping_add(op.offset.into()));
    cpu.next_rip = cpu.wrap_rip(cpu.rip.wrapping_add(op.len.into()));
    match run(cpu, &instruction) {
        Ok(Flow::Next) => op.following(),
        Ok(Flow::Jump) => go(cpu, cpu.rip),
        Ok(Flow::Halt) => {
            cpu.rip = cpu.next_rip;
            cpu.halted = true;
            LEAVE
        }
        Err(_) => LEAVE,
    }
}

/// An x87 instruction in its general form.
pub fn general_x87(cpu: &mut Cpu, op: &Op) -> Next {
    if let Some(detail) = cpu.cache.details.get(op.imm as usize) {
        (cpu.escape, cpu.operand_is_wide) = (detail.escape, detail.is_wide);
    }
    general(cpu, op)
}

/// An instruction in its general form that ends a block, and after which everything is looked at anew
/// unless it is a mere branch.
pub fn general_last(cpu: &mut Cpu, op: &Op) -> Next {
    let Some(detail) = cpu.cache.details.get(op.imm as usize) else { return stopped(cpu, op) };
    let (instruction, run) = (detail.instruction, detail.run);
    cpu.rip = cpu.wrap_rip(cpu.page_base.wrapping_add(op.offset.into()));
    cpu.next_rip = cpu.wrap_rip(cpu.rip.wrapping_add(op.len.into()));
    match run(cpu, &instruction) {
        Ok(Flow::Next) => cpu.rip = cpu.next_rip,
        Ok(Flow::Jump) | Err(_) => {}
        Ok(Flow::Halt) => {
            cpu.rip = cpu.next_rip;
            cpu.halted = true;
        }
    }
    LEAVE
}

//! Handlers of decoded operations: leaving and chaining blocks, and the general handler. The
//! specialised ones are in `special`, and `select` chooses among them.

use std::sync::atomic::Ordering;

use super::Flow;
use crate::accel::soft::abort::{AbortReason, Exception, vector};
use crate::accel::soft::cache::{MODE_FLAT, MODE_LONG, key};
use crate::accel::soft::mmu::{PAGE_MASK, Want};
use crate::accel::soft::op::{Next, Op};
use crate::accel::soft::returns;
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

/// The block at `rip`, in any page, if it is at hand; sets `cpu.rip` and the page that is executed.
fn find(cpu: &mut Cpu, rip: u64) -> Option<u32> {
    cpu.rip = rip;
    if cpu.pending.load(Ordering::Relaxed) != 0 {
        return None;
    }
    if cpu.mode != Mode::Long && rip > u64::from(cpu.seg[seg::CS].limit) {
        return None;
    }
    let la = cpu.code_address(rip);
    let entry = cpu.tlb_entry(Want::Execute, la);
    if entry.tag != la & PAGE_MASK {
        return None;
    }
    let gpa = entry.addend | la & 0xfff;
    let op = cpu.cache.find(key(gpa, cpu.mode_key()))?;
    cpu.set_code_page(gpa, rip);
    Some(op)
}

/// Goes on at `rip`, in any page, if its block is at hand.
#[inline(never)]
pub(super) fn go(cpu: &mut Cpu, rip: u64) -> Next {
    match find(cpu, rip) {
        Some(link) => linked(cpu, link),
        None => LEAVE,
    }
}

#[inline(never)]
fn go_and_remember(cpu: &mut Cpu, op: &Op, rip: u64) -> Next {
    match find(cpu, rip) {
        Some(link) => {
            op.link.set(link);
            linked(cpu, link)
        }
        None => LEAVE,
    }
}

/// As `go`, in 64-bit mode or in `FLAT` 32-bit code: tries first the block that `op` went to the last time.
#[inline(always)]
pub(super) fn go_again<const FLAT: bool>(cpu: &mut Cpu, op: &Op, rip: u64) -> Next {
    let entry = cpu.tlb_entry(Want::Execute, rip);
    let gpa = entry.addend | rip & 0xfff;
    let link = op.link.get();
    if entry.tag == rip & PAGE_MASK
        && cpu.cache.is_block(link, key(gpa, if FLAT { MODE_FLAT } else { MODE_LONG }))
        && cpu.pending.load(Ordering::Relaxed) == 0
    {
        cpu.code_page = entry.addend;
        cpu.page_base = rip & PAGE_MASK;
        return linked(cpu, link);
    }
    go_and_remember(cpu, op, rip)
}

/// Returns to `rip` in 64-bit mode or in `FLAT` 32-bit code: to the operation behind the last call, if that is
/// where it is.
#[inline(always)]
pub(super) fn go_back<const FLAT: bool>(cpu: &mut Cpu, op: &Op, rip: u64) -> Next {
    if let Some((page, back)) = cpu.returns.pop(if FLAT { rip | returns::FLAT } else { rip }) {
        let entry = cpu.tlb_entry(Want::Execute, rip);
        if entry.tag == rip & PAGE_MASK && entry.addend == page && cpu.pending.load(Ordering::Relaxed) == 0 {
            cpu.code_page = page;
            cpu.page_base = rip & PAGE_MASK;
            return back;
        }
    }
    go_again::<FLAT>(cpu, op, rip)
}

/// Goes on at a target in `op.imm` that has no link yet.
#[cold]
#[inline(never)]
pub(super) fn unlinked(cpu: &mut Cpu, op: &Op, target: u64) -> Next {
    let rip = cpu.wrap_rip(cpu.page_base.wrapping_add(target));
    if target >= 4096 {
        let remembers = cpu.mode == Mode::Long || cpu.flat;
        return if remembers { go_and_remember(cpu, op, rip) } else { go(cpu, rip) };
    }
    cpu.rip = rip;
    link_later(cpu, op)
}

/// Leaves the block; `op` is linked to the block at `cpu.rip` once that has been found.
fn link_later(cpu: &mut Cpu, op: &Op) -> Next {
    cpu.link_from = std::ptr::from_ref(op);
    cpu.link_to = (cpu.rip, cpu.code_page);
    LEAVE
}

/// Takes a linked branch to another page, in 64-bit mode or in `FLAT` 32-bit code.
#[inline(never)]
fn leave_page<const FLAT: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let rip = cpu.page_base.wrapping_add(op.imm);
    go_again::<FLAT>(cpu, op, if FLAT { rip & 0xffff_ffff } else { rip })
}

/// Takes the branch of `op`, whose target is `op.imm`; only `FLAT` code and that of 64-bit mode is linked across
/// pages.
#[inline(always)]
pub(super) fn branch<const FLAT: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    let link = op.link.get();
    if link != 0 && op.imm >= 4096 {
        return leave_page::<FLAT>(cpu, op);
    }
    if link != 0 && cpu.pending.load(Ordering::Relaxed) == 0 {
        return linked(cpu, link);
    }
    unlinked(cpu, op, op.imm)
}

/// Ends a block that goes on with the instruction at `op.imm`.
pub fn end_block<const FLAT: bool>(cpu: &mut Cpu, op: &Op) -> Next {
    match op.link.get() {
        0 => unlinked(cpu, op, op.imm),
        _ if op.imm >= 4096 => leave_page::<FLAT>(cpu, op),
        link => linked(cpu, link),
    }
}

/// Leaves a block that is no longer valid, for the one that has taken its place.
pub fn leave_block(cpu: &mut Cpu, op: &Op) -> Next {
    match op.link.get() {
        0 => {
            stopped(cpu, op);
            link_later(cpu, op)
        }
        link => linked(cpu, link),
    }
}

/// The first operation of each block while the number of instructions is limited: takes those of the block,
/// `op.imm`, from what is left. The last ones are executed one by one.
pub fn spend(cpu: &mut Cpu, op: &Op) -> Next {
    match cpu.budget.map(|left| left.checked_sub(op.imm)) {
        Some(None) => stopped(cpu, op),
        left => {
            cpu.budget = left.flatten();
            op.next(cpu)
        }
    }
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

//! A decoded operation.

use std::cell::Cell;

use iced_x86::Instruction;

use super::execute::General;
use super::state::{Cpu, ZERO_SLOT};

/// The operation to go on with, or null to leave the block: then `cpu.rip` is set, and `cpu.abort`
/// says whether the instruction there was aborted.
pub type Next = *const Op;

/// Executes an operation.
pub type Handler = fn(&mut Cpu, &Op) -> Next;

/// An instruction, decoded: 32 bytes, so that two share a cache line. What the fields mean is the
/// handler's matter.
#[repr(C)]
#[derive(Debug, Clone)]
pub struct Op {
    /// What executes it.
    pub handler: Cell<Handler>,
    /// An immediate; or the number of a `Detail`; or a branch target, relative to `Cpu::page_base`.
    pub imm: u64,
    /// Displacement of an address.
    pub disp: i32,
    /// Number of the operation that a taken branch goes on with, 0 if that is not known yet.
    pub link: Cell<u32>,
    /// Byte offset of the first operand in the general registers.
    pub a: u8,
    /// Byte offset of the second operand.
    pub b: u8,
    /// Base of an address, in units of 8 bytes from the start of `Cpu`.
    pub base: u8,
    /// Index of an address.
    pub index: u8,
    /// Offset of the instruction in its page.
    pub offset: u16,
    /// Length of the instruction.
    pub len: u8,
    /// Scale of the index (bits 0 and 1), segment base as a slot (bits 2 to 7).
    pub scale: u8,
}

/// An instruction in iced's form, for operations without a handler of their own.
#[derive(Clone)]
pub struct Detail {
    /// The instruction; its instruction pointer counts from the start of its page.
    pub instruction: Instruction,
    /// What executes it.
    pub run: General,
    /// Escape and ModRM bytes, of an x87 instruction.
    pub escape: (u8, u8),
    /// Its operand size is 32 bits.
    pub is_wide: bool,
}

impl Op {
    /// The operation behind this one.
    #[inline(always)]
    #[must_use]
    pub fn following(&self) -> Next {
        // Every block ends with an operation that does not call this.
        std::ptr::from_ref(self).wrapping_add(1)
    }

    /// Goes on with the operation behind this one: a sibling call, so that every handler has an indirect
    /// jump of its own, which the host's processor predicts well. Where the compiler makes a call of it,
    /// the stack grows for the length of a block and no more, because branches return.
    #[inline(always)]
    #[must_use]
    pub fn next(&self, cpu: &mut Cpu) -> Next {
        // SAFETY: a block's operations lie side by side, and its last one does not call this.
        let next = unsafe { &*self.following() };
        next.handler.get()(cpu, next)
    }

    /// Whether the memory operand is in the stack segment: its base is RSP or RBP, and no segment is named.
    #[must_use]
    pub fn uses_stack_segment(&self) -> bool {
        matches!(self.base, 4 | 5) && self.scale >> 2 == ZERO_SLOT
    }

    /// The instruction's offset behind its last byte.
    #[inline(always)]
    #[must_use]
    pub fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.len)
    }
}

//! A stack on which values are pushed, or from which they are popped, before the CPU's own state changes.

#![forbid(unsafe_code)]

use super::super::abort::{Exec, vector};
use super::super::memory::Access;
use super::super::state::{Cpu, Mode, seg};
use super::access;
use super::descriptor::type_bit;
use crate::accel::Segment;

/// RSP's number.
pub const RSP: usize = 4;

/// A stack under construction.
#[derive(Debug, Clone, Copy)]
pub struct Stack {
    segment: Segment,
    /// 64-bit: flat, and addresses must be canonical.
    long: bool,
    /// The stack pointer; `mask` says which of its bits move.
    pub pointer: u64,
    mask: u64,
    access: Access,
    /// An event's frame: it is not replayed, so where there is no RAM it is lost.
    event: bool,
    /// The error code of a stack fault.
    fault: u32,
}

impl Stack {
    /// The current stack.
    #[must_use]
    pub fn current(cpu: &Cpu) -> Self {
        let segment = cpu.seg[seg::SS];
        let long = cpu.mode == Mode::Long;
        Self {
            segment,
            long,
            pointer: cpu.gpr[RSP],
            mask: mask(&segment, long),
            access: Access::Current,
            event: false,
            fault: 0,
        }
    }

    /// A stack that an event or a gate switches to.
    #[must_use]
    pub fn switched(segment: Segment, pointer: u64, cpl: u8) -> Self {
        Self {
            segment,
            long: false,
            pointer,
            mask: mask(&segment, false),
            access: access_of(cpl),
            event: false,
            fault: 0,
        }
    }

    /// A 64-bit stack that an event or a gate switches to.
    #[must_use]
    pub fn switched_long(pointer: u64, cpl: u8) -> Self {
        Self {
            segment: Segment::default(),
            long: true,
            pointer,
            mask: u64::MAX,
            access: access_of(cpl),
            event: false,
            fault: 0,
        }
    }

    /// The same stack for an event's frame.
    #[must_use]
    pub fn for_event(self) -> Self {
        Self { event: true, ..self }
    }

    /// The same stack, whose stack faults have the error code `fault`.
    #[must_use]
    pub fn with_fault(self, fault: u32) -> Self {
        Self { fault, ..self }
    }

    /// The same stack, accessed with the current privilege level's rights.
    #[must_use]
    pub fn with_current_rights(self) -> Self {
        Self { access: Access::Current, ..self }
    }

    /// The stack pointer's bits that move.
    #[must_use]
    pub fn mask(&self) -> u64 {
        self.mask
    }

    /// Moves the pointer by `delta` without an access.
    pub fn skip(&mut self, delta: u64) {
        self.pointer = self.moved(delta);
    }

    fn moved(&self, delta: u64) -> u64 {
        self.pointer & !self.mask | self.pointer.wrapping_add(delta) & self.mask
    }

    /// Pushes the low `size` bytes of `value`.
    ///
    /// # Errors
    /// A stack or page fault.
    pub fn push(&mut self, cpu: &mut Cpu, size: u8, value: u64) -> Exec {
        let pointer = self.moved(0u64.wrapping_sub(u64::from(size)));
        let linear = self.linear(cpu, pointer & self.mask, size)?;
        let result = access::write(cpu, linear, size, value, self.access);
        if self.event {
            access::without_mmio(cpu, result, ())?;
        } else {
            result?;
        }
        self.pointer = pointer;
        Ok(())
    }

    /// Pops `size` bytes.
    ///
    /// # Errors
    /// A stack or page fault.
    pub fn pop(&mut self, cpu: &mut Cpu, size: u8) -> Exec<u64> {
        let linear = self.linear(cpu, self.pointer & self.mask, size)?;
        let value = access::read(cpu, linear, size, self.access)?;
        self.pointer = self.moved(u64::from(size));
        Ok(value)
    }

    fn linear(&self, cpu: &mut Cpu, offset: u64, size: u8) -> Exec<u64> {
        let last = offset.wrapping_add(u64::from(size) - 1);
        if self.long {
            if !access::is_canonical(offset) || !access::is_canonical(last) {
                return cpu.raise(vector::SS, Some(self.fault));
            }
            return Ok(offset);
        }
        let limit = u64::from(self.segment.limit);
        // Null after a return from 64-bit to compatibility mode.
        let outside = if self.segment.unusable && cpu.mode == Mode::Protected {
            true
        } else if self.segment.s
            && self.segment.type_ & (type_bit::CODE | type_bit::EXPAND_DOWN) == type_bit::EXPAND_DOWN
        {
            offset <= limit || last > if self.segment.db { 0xffff_ffff } else { 0xffff }
        } else {
            last > limit
        };
        if outside {
            return cpu.raise(vector::SS, Some(self.fault));
        }
        Ok(self.segment.base.wrapping_add(offset) & 0xffff_ffff)
    }
}

/// How much of RSP a stack segment uses.
fn mask(segment: &Segment, long: bool) -> u64 {
    if long {
        u64::MAX
    } else if segment.db {
        0xffff_ffff
    } else {
        0xffff
    }
}

fn access_of(cpl: u8) -> Access {
    if cpl == 3 { Access::User } else { Access::Supervisor }
}

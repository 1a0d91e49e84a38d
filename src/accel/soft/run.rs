//! The loop that executes guest code: events, blocks, faults.

use std::sync::atomic::Ordering;

use super::abort::AbortReason;
use super::decode::LONGEST;
use super::flags::rflags;
use super::op::{Next, Op};
use super::state::{Cpu, pending, seg};
use super::system;
use crate::devices::irqchip::lapic::{EVENT_INIT, EVENT_NMI, EVENT_SIPI};

/// Why the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// A kick.
    Kicked,
    /// The CPU is halted, and nothing is there to wake it.
    Halted,
    /// As many instructions have been executed as were allowed.
    Spent,
    /// An access for the caller, or the end of the run.
    Abort(AbortReason),
}

impl Cpu {
    /// Executes guest code until the caller is needed.
    pub fn execute(&mut self) -> Stop {
        self.unpark();
        let stop = self.execute_until_stop();
        self.park();
        stop
    }

    /// Executes one instruction, or on with one that has been answered, and delivers the exception that it
    /// raises. No interrupt is looked for. Gives what stopped it, `None` for nothing.
    pub(super) fn execute_one(&mut self) -> AbortReason {
        self.unpark();
        self.step_with_trap();
        let stop = self.settle();
        self.park();
        match stop {
            Some(Stop::Abort(reason)) => reason,
            _ => AbortReason::None,
        }
    }

    fn execute_until_stop(&mut self) -> Stop {
        loop {
            if let Some(stop) = self.look_around() {
                return stop;
            }
            if self.must_step() {
                self.spend_one();
                self.step_with_trap();
            } else {
                match self.block() {
                    Ok(Some(op)) => self.run_from(op),
                    Ok(None) => {
                        self.spend_one();
                        self.step_with_trap();
                    }
                    Err(_) => self.spend_one(),
                }
            }
            if self.abort != AbortReason::None
                && let Some(stop) = self.settle()
            {
                return stop;
            }
        }
    }

    /// What is due between two blocks.
    fn look_around(&mut self) -> Option<Stop> {
        if self.pending.load(Ordering::Relaxed) != 0 {
            let events = self.pending.swap(0, Ordering::AcqRel);
            if events & pending::INTERRUPT != 0 {
                self.interrupt_waiting = true;
            }
            if events & pending::CODE != 0 {
                self.follow_others();
            }
            if events & pending::KICK != 0 {
                return Some(Stop::Kicked);
            }
        }
        // An instruction that is being answered comes first, it has happened in part.
        if self.interrupt_waiting && self.replay.is_empty() && !self.interrupt_shadow {
            self.take_interrupt();
            if let Some(stop) = self.settle() {
                return Some(stop);
            }
        }
        if self.halted || self.waits_for_sipi {
            return Some(Stop::Halted);
        }
        (self.budget == Some(0)).then_some(Stop::Spent)
    }

    /// Takes one instruction from what is left of a limit.
    fn spend_one(&mut self) {
        self.budget = self.budget.map(|left| left.saturating_sub(1));
    }

    /// Delivers what the interrupt controllers have for this CPU, if it may be delivered now.
    fn take_interrupt(&mut self) {
        let events = self.lapic.events();
        if events & (EVENT_INIT | EVENT_SIPI) != 0 {
            self.take_startup();
        }
        if self.waits_for_sipi {
            self.interrupt_waiting = false;
            return;
        }
        if events & EVENT_NMI != 0 && !self.system.nmi_blocked && self.lapic.take_nmi() {
            self.halted = false;
            // The only error is a triple fault, which stays in `abort`.
            let _ = system::deliver_nmi(self);
            return;
        }
        if self.rflags_rest & rflags::IF == 0 {
            return;
        }
        let vector = if self.lapic.has_interrupt() {
            self.lapic.acknowledge()
        } else if self.id == 0 && self.interrupts.extint_pending() && self.lapic.accepts_extint() {
            self.lapic.extint_taken();
            self.interrupts.extint_acknowledge()
        } else {
            // The 8259 pair's request waits for LINT0, of whose unmasking nobody tells.
            self.interrupt_waiting =
                events & EVENT_NMI != 0 || self.id == 0 && self.interrupts.extint_pending();
            return;
        };
        if let Some(vector) = vector {
            self.halted = false;
            let _ = system::deliver_interrupt(self, vector);
        }
    }

    /// INIT and the start-up IPI (Intel SDM vol. 3, 9.4).
    fn take_startup(&mut self) {
        if self.lapic.take_init() {
            self.lapic.init();
            self.reset_by_init();
            self.waits_for_sipi = true;
        }
        if let Some(vector) = self.lapic.take_sipi()
            && self.waits_for_sipi
        {
            let cs = &mut self.seg[seg::CS];
            cs.selector = u16::from(vector) << 8;
            cs.base = u64::from(vector) << 12;
            self.rip = 0;
            self.waits_for_sipi = false;
            self.halted = false;
        }
    }

    /// Whether the next instruction is to be executed on its own.
    fn must_step(&mut self) -> bool {
        if !self.replay.is_empty() || self.rflags_rest & rflags::TF != 0 {
            return true;
        }
        // The shadow matters only to an interrupt that waits.
        let shadow = self.interrupt_shadow;
        self.interrupt_shadow = false;
        if shadow && self.interrupt_waiting {
            self.interrupt_shadow = true;
            return true;
        }
        self.dr[7] & 0xff != 0 || self.budget.is_some_and(|left| left < LONGEST as u64)
    }

    /// One instruction, with the debug exceptions before and after it.
    fn step_with_trap(&mut self) {
        if self.raise_instruction_breakpoint().is_err() {
            return;
        }
        let trace = self.start_trace();
        let result = self.step();
        self.end_trace(trace, result.is_ok());
    }

    /// The seam to a translator: executes decoded blocks from operation `op` on until something is due.
    fn run_from(&mut self, op: u32) {
        let from = std::mem::replace(&mut self.link_from, std::ptr::null());
        if !from.is_null() {
            // SAFETY: an operation of the cache, which has not been cleared since it was executed:
            // `decode_block` resets `link_from` when it clears.
            let from: &Op = unsafe { &*from };
            // An interrupt may have come between.
            if self.link_to == (self.rip, self.code_page) {
                from.link.set(op);
            }
        }
        let mut next: Next = self.cache.ops.as_ptr().wrapping_add(op as usize);
        while !next.is_null() {
            // SAFETY: handlers give pointers to operations of the cache or null. The cache's vector never
            // moves, and it is changed only while no handler runs.
            let op = unsafe { &*next };
            next = op.handler.get()(self, op);
        }
        // No block executes: whoever stores now (the delivery of an event) may store to any code.
        self.code_page = u64::MAX;
    }

    /// Deals with an abort: delivers an exception, or gives what the caller has to do.
    fn settle(&mut self) -> Option<Stop> {
        match std::mem::take(&mut self.abort) {
            AbortReason::None => None,
            AbortReason::Exception(exception) => {
                self.replay.clear();
                self.halted = false;
                log::trace!("vCPU {} at {:#x}: {exception:x?}, CR2 {:#x}", self.id, self.rip, self.cr2);
                match system::deliver_exception(self, exception) {
                    Ok(()) => None,
                    Err(_) => Some(Stop::Abort(std::mem::take(&mut self.abort))),
                }
            }
            AbortReason::Retry => {
                self.step_with_trap();
                self.settle()
            }
            reason => Some(Stop::Abort(reason)),
        }
    }
}

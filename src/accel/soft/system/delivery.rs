//! Delivery of interrupts and exceptions (Intel SDM vol. 3, chapter 6; vol. 2, INT n).

#![forbid(unsafe_code)]

use super::super::abort::{Abort, AbortReason, Exception, Exec, vector};
use super::super::flags::rflags;
use super::super::state::{Cpu, Mode, seg};
use super::descriptor::{self, Descriptor, system};
use super::segments::{self, Blame, selector_code};
use super::stack::{RSP, Stack};
use super::{access, debug_registers, task};
use crate::accel::Segment;

/// The error code's bit that says: while delivering something the program did not ask for.
const EXT: u32 = 1;
/// The error code's bit that says: the index is one into the IDT.
const IDT: u32 = 2;

/// Where an event comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// An interrupt of the LAPIC, the PICs, or an NMI.
    External,
    /// An exception.
    Exception,
    /// INT n.
    Int,
    /// INT3 and INTO.
    Breakpoint,
    /// INT1.
    Icebp,
}

/// What is to be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Vector.
    pub vector: u8,
    /// The error code to be pushed.
    pub error_code: Option<u32>,
    /// Where it comes from.
    pub origin: Origin,
    /// The instruction pointer to be pushed.
    pub return_rip: u64,
}

impl Event {
    /// The EXT bit of faults during delivery.
    fn ext(&self) -> u32 {
        match self.origin {
            Origin::Int | Origin::Breakpoint => 0,
            Origin::External | Origin::Exception | Origin::Icebp => EXT,
        }
    }

    /// Whether the gate's DPL is compared with the CPL.
    fn checks_gate(&self) -> bool {
        matches!(self.origin, Origin::Int | Origin::Breakpoint)
    }

    fn idt_code(&self) -> Option<u32> {
        Some(u32::from(self.vector) << 3 | IDT | self.ext())
    }
}

/// Delivers an exception that the instruction at `cpu.rip` (or, for a trap, the one before it) raised.
///
/// # Errors
/// `AbortReason::TripleFault`.
pub fn deliver_exception(cpu: &mut Cpu, exception: Exception) -> Exec {
    deliver(cpu, exception, Origin::Exception)
}

/// Delivers a maskable interrupt. Whether it may be delivered now is the caller's matter.
///
/// # Errors
/// `AbortReason::TripleFault`.
pub fn deliver_interrupt(cpu: &mut Cpu, vector: u8) -> Exec {
    deliver(cpu, Exception { vector, error_code: None }, Origin::External)
}

/// Delivers an NMI; further ones are blocked until IRET. See `System::nmi_blocked`.
///
/// # Errors
/// `AbortReason::TripleFault`.
pub fn deliver_nmi(cpu: &mut Cpu) -> Exec {
    cpu.system.nmi_blocked = true;
    deliver_interrupt(cpu, vector::NMI)
}

/// How an event combines with a fault of its delivery (Intel SDM vol. 3, tables 6-4 and 6-5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

fn class(vector: u8, origin: Origin) -> Class {
    match vector {
        _ if origin != Origin::Exception => Class::Benign,
        vector::DE | vector::TS | vector::NP | vector::SS | vector::GP => Class::Contributory,
        vector::PF => Class::PageFault,
        vector::DF => Class::DoubleFault,
        _ => Class::Benign,
    }
}

/// What follows when `next` is raised while an event of class `first` is being delivered; none is the
/// shutdown.
fn combine(first: Class, next: Exception) -> Option<Exception> {
    let second = class(next.vector, Origin::Exception);
    match (first, second) {
        (_, Class::Benign) | (Class::Benign, _) | (Class::Contributory, Class::PageFault) => Some(next),
        (Class::DoubleFault, _) => None,
        (Class::Contributory | Class::PageFault, _) => {
            Some(Exception { vector: vector::DF, error_code: Some(0) })
        }
    }
}

fn deliver(cpu: &mut Cpu, exception: Exception, origin: Origin) -> Exec {
    // No block is under way that a frame pushed over its code could damage.
    let stepping = std::mem::replace(&mut cpu.stepping, true);
    let result = deliver_all(cpu, exception, origin);
    cpu.stepping = stepping;
    result
}

/// Delivers an event, or what its delivery raises.
fn deliver_all(cpu: &mut Cpu, exception: Exception, origin: Origin) -> Exec {
    let (mut current, mut origin) = (exception, origin);
    loop {
        if origin == Origin::Exception && current.vector == vector::DB {
            debug_registers::on_debug_exception(cpu);
        }
        let event =
            Event { vector: current.vector, error_code: current.error_code, origin, return_rip: cpu.rip };
        if attempt(cpu, event).is_ok() {
            cpu.abort = AbortReason::None;
            return Ok(());
        }
        let AbortReason::Exception(next) = cpu.abort else { return Err(Abort) };
        let Some(combined) = combine(class(current.vector, origin), next) else {
            cpu.abort = AbortReason::TripleFault;
            return Err(Abort);
        };
        (current, origin) = (combined, Origin::Exception);
    }
}

/// Delivers an event of the instruction under way: INT n, INT3, INTO, INT1.
///
/// # Errors
/// The fault of the delivery, which is then the instruction's own.
pub fn software_interrupt(cpu: &mut Cpu, vector: u8, origin: Origin) -> Exec {
    let return_rip = cpu.next_rip;
    attempt(cpu, Event { vector, error_code: None, origin, return_rip })?;
    cpu.system.untraced = true;
    if origin == Origin::Icebp {
        // One #DB tells both.
        let hit = std::mem::take(&mut cpu.system.breakpoints);
        if hit != 0 {
            cpu.note_debug_condition(hit);
        }
        debug_registers::on_debug_exception(cpu);
    }
    Ok(())
}

/// Tries to deliver an event; nothing but memory has changed if it fails.
fn attempt(cpu: &mut Cpu, event: Event) -> Exec {
    if cpu.mode == Mode::Real {
        real(cpu, event)?;
    } else if cpu.long_mode_active() {
        long(cpu, event)?;
    } else {
        protected(cpu, event)?;
    }
    cpu.interrupt_shadow = false;
    Ok(())
}

/// RFLAGS as pushed: a fault's handler is to restart the instruction without its breakpoint.
fn flags_image(cpu: &Cpu, event: &Event) -> u64 {
    let flags = cpu.rflags();
    let fault = event.origin == Origin::Exception
        && match event.vector {
            vector::NMI | vector::BP | vector::OF | vector::DF | vector::MC => false,
            vector::DB => debug_registers::is_general_detect(cpu),
            _ => true,
        };
    if fault {
        flags | rflags::RF
    } else if cpu.dr[7] & 0xff == 0 {
        // Instructions clear it only where breakpoints look at it.
        flags & !rflags::RF
    } else {
        flags
    }
}

fn real(cpu: &mut Cpu, event: Event) -> Exec {
    let entry = u64::from(event.vector) * 4;
    if entry + 3 > u64::from(cpu.idt.limit) {
        return cpu.raise(vector::GP, event.idt_code());
    }
    let pointer = access::system_read(cpu, cpu.idt.base.wrapping_add(entry), 4)?;
    let mut stack = Stack::current(cpu).for_event();
    let flags = flags_image(cpu, &event);
    let selector = (pointer >> 16) as u16;
    for value in [flags, u64::from(cpu.seg[seg::CS].selector), event.return_rip] {
        stack.push(cpu, 2, value)?;
    }
    if pointer & 0xffff > u64::from(cpu.seg[seg::CS].limit) {
        return cpu.general_protection();
    }
    cpu.gpr[RSP] = stack.pointer;
    segments::load(cpu, seg::CS, selector)?;
    cpu.rip = pointer & 0xffff;
    cpu.set_rflags(cpu.rflags() & !(rflags::IF | rflags::TF | rflags::RF | rflags::AC));
    Ok(())
}

/// A gate's code segment, and the privilege level that it gives.
fn target(cpu: &mut Cpu, selector: u16, ext: u32) -> Exec<(Descriptor, u8)> {
    if descriptor::is_null(selector) {
        return cpu.raise(vector::GP, Some(ext));
    }
    let code = Some(selector_code(selector) | ext);
    let Some(mut descriptor) = segments::read_descriptor(cpu, selector)? else {
        return cpu.raise(vector::GP, code);
    };
    if !descriptor.is_code() || descriptor.dpl() > cpu.cpl {
        return cpu.raise(vector::GP, code);
    }
    if !descriptor.present() {
        return cpu.raise(vector::NP, code);
    }
    if cpu.long_mode_active() && (!descriptor.long() || descriptor.default_big()) {
        return cpu.raise(vector::GP, code);
    }
    segments::mark_accessed(cpu, selector, &mut descriptor)?;
    let cpl = if descriptor.is_conforming() { cpu.cpl } else { descriptor.dpl() };
    Ok((descriptor, cpl))
}

/// Enters the handler: what is common to all protected modes.
fn enter(cpu: &mut Cpu, gate: Descriptor, code: Descriptor, cpl: u8, rip: u64) {
    cpu.seg[seg::CS] = code.segment(gate.gate_selector() & !3 | u16::from(cpl));
    cpu.cpl = cpl;
    cpu.rip = rip;
    let mut clear = rflags::TF | rflags::NT | rflags::RF | rflags::VM;
    if gate.type_() & 1 == 0 {
        clear |= rflags::IF;
    }
    cpu.set_rflags(cpu.rflags() & !clear);
    cpu.update_mode();
}

fn long(cpu: &mut Cpu, event: Event) -> Exec {
    let ext = event.ext();
    let entry = u64::from(event.vector) * 16;
    if entry + 15 > u64::from(cpu.idt.limit) {
        return cpu.raise(vector::GP, event.idt_code());
    }
    let address = cpu.idt.base.wrapping_add(entry);
    let gate = Descriptor(access::system_read(cpu, address, 8)?);
    let high = access::system_read(cpu, address.wrapping_add(8), 8)?;
    if gate.is_segment() || !matches!(gate.type_(), system::INTERRUPT_GATE | system::TRAP_GATE) {
        return cpu.raise(vector::GP, event.idt_code());
    }
    if event.checks_gate() && gate.dpl() < cpu.cpl {
        return cpu.raise(vector::GP, event.idt_code());
    }
    if !gate.present() {
        return cpu.raise(vector::NP, event.idt_code());
    }
    let (code, cpl) = target(cpu, gate.gate_selector(), ext)?;
    let switches = cpl < cpu.cpl;
    let pointer = if gate.gate_ist() != 0 {
        task::interrupt_stack(cpu, gate.gate_ist(), ext)?
    } else if switches {
        task::long_stack(cpu, cpl, ext)?
    } else {
        cpu.gpr[RSP]
    };
    let mut stack = Stack::switched_long(pointer & !0xf, cpl).for_event().with_fault(ext);
    if !switches {
        stack = stack.with_current_rights();
    }
    let flags = flags_image(cpu, &event);
    let frame = [
        u64::from(cpu.seg[seg::SS].selector),
        cpu.gpr[RSP],
        flags,
        u64::from(cpu.seg[seg::CS].selector),
        event.return_rip,
    ];
    for value in frame {
        stack.push(cpu, 8, value)?;
    }
    if let Some(error_code) = event.error_code {
        stack.push(cpu, 8, u64::from(error_code))?;
    }
    let rip = u64::from(gate.gate_offset()) | (high & 0xffff_ffff) << 32;
    if !access::is_canonical(rip) {
        return cpu.raise(vector::GP, Some(ext));
    }
    if switches {
        cpu.seg[seg::SS] = segments::null(u16::from(cpl), cpl);
    }
    cpu.gpr[RSP] = stack.pointer;
    enter(cpu, gate, code, cpl, rip);
    Ok(())
}

fn protected(cpu: &mut Cpu, event: Event) -> Exec {
    let from_virtual = cpu.mode == Mode::Virtual8086;
    if from_virtual && event.origin == Origin::Int && cpu.iopl() < 3 {
        return cpu.general_protection();
    }
    let ext = event.ext();
    let entry = u64::from(event.vector) * 8;
    if entry + 7 > u64::from(cpu.idt.limit) {
        return cpu.raise(vector::GP, event.idt_code());
    }
    let gate = Descriptor(access::system_read(cpu, cpu.idt.base.wrapping_add(entry), 8)?);
    let is_gate = matches!(
        gate.type_(),
        system::TASK_GATE
            | system::INTERRUPT_GATE16
            | system::TRAP_GATE16
            | system::INTERRUPT_GATE
            | system::TRAP_GATE
    );
    if gate.is_segment() || !is_gate || event.checks_gate() && gate.dpl() < cpu.cpl {
        return cpu.raise(vector::GP, event.idt_code());
    }
    if !gate.present() {
        return cpu.raise(vector::NP, event.idt_code());
    }
    if gate.type_() == system::TASK_GATE {
        return task::interrupt(cpu, gate.gate_selector(), event.return_rip, event.error_code, ext);
    }
    let (code, cpl) = target(cpu, gate.gate_selector(), ext)?;
    if from_virtual && cpl != 0 {
        return cpu.raise(vector::GP, Some(selector_code(gate.gate_selector()) | ext));
    }
    let size = if gate.type_() & 8 == 0 { 2 } else { 4 };
    let old_stack = u64::from(cpu.seg[seg::SS].selector);
    let old_pointer = cpu.gpr[RSP];
    let switched: Option<Segment>;
    let mut stack;
    if cpl < cpu.cpl {
        let (selector, pointer) = task::legacy_stack(cpu, cpl, ext)?;
        let segment = segments::stack_segment(cpu, selector, cpl, false, Blame::Tss(ext))?;
        stack = Stack::switched(segment, pointer, cpl).for_event().with_fault(selector_code(selector) | ext);
        switched = Some(segment);
        if from_virtual {
            for index in [seg::GS, seg::FS, seg::DS, seg::ES] {
                stack.push(cpu, size, u64::from(segments::selector(cpu, index)))?;
            }
        }
        stack.push(cpu, size, old_stack)?;
        stack.push(cpu, size, old_pointer)?;
    } else {
        stack = Stack::current(cpu).for_event().with_fault(ext);
        switched = None;
    }
    let flags = flags_image(cpu, &event);
    for value in [flags, u64::from(cpu.seg[seg::CS].selector), event.return_rip] {
        stack.push(cpu, size, value)?;
    }
    if let Some(error_code) = event.error_code {
        stack.push(cpu, size, u64::from(error_code))?;
    }
    if gate.gate_offset() > code.limit() {
        return cpu.raise(vector::GP, Some(ext));
    }
    if let Some(segment) = switched {
        cpu.seg[seg::SS] = segment;
    }
    cpu.gpr[RSP] = stack.pointer;
    if from_virtual {
        for index in [seg::GS, seg::FS, seg::DS, seg::ES] {
            cpu.seg[index] = segments::null(0, 0);
        }
    }
    enter(cpu, gate, code, cpl, u64::from(gate.gate_offset()));
    Ok(())
}

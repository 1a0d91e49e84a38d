//! Far transfers of control: JMP, CALL and RET between segments, call gates (Intel SDM vol. 3, 5.8).

#![forbid(unsafe_code)]

use iced_x86::{Instruction, OpKind};

use super::super::abort::{Exec, vector};
use super::super::memory::Access;
use super::super::state::{Cpu, Mode, seg};
use super::descriptor::{self, Descriptor, system};
use super::segments::{self, Blame, selector_code};
use super::stack::{RSP, Stack};
use super::task::{self, Switch};
use super::{access, operand};

/// A far pointer and the operand size with which it is used, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FarPointer {
    /// Selector.
    pub selector: u16,
    /// Offset.
    pub offset: u64,
    /// Operand size.
    pub size: u8,
}

impl FarPointer {
    /// The far pointer that is the instruction's operand: immediate or in memory.
    ///
    /// # Errors
    /// The faults of reading it.
    pub fn operand(cpu: &mut Cpu, instruction: &Instruction, op: u32, size: u8) -> Exec<Self> {
        match instruction.op_kind(op) {
            OpKind::FarBranch16 => Ok(Self {
                selector: instruction.far_branch_selector(),
                offset: u64::from(instruction.far_branch16()),
                size,
            }),
            OpKind::FarBranch32 => Ok(Self {
                selector: instruction.far_branch_selector(),
                offset: u64::from(instruction.far_branch32()),
                size,
            }),
            _ => {
                let linear = operand::linear(cpu, instruction, 0, u64::from(size) + 2, false)?;
                let offset = access::read(cpu, linear, size, Access::Current)?;
                let selector = cpu.read_u16(linear.wrapping_add(u64::from(size)), Access::Current)?;
                Ok(Self { selector, offset, size })
            }
        }
    }
}

/// Far JMP.
///
/// # Errors
/// The faults of the transfer.
pub fn jump(cpu: &mut Cpu, target: FarPointer) -> Exec {
    if matches!(cpu.mode, Mode::Real | Mode::Virtual8086) {
        return flat(cpu, target);
    }
    match resolve(cpu, target)? {
        Destination::Code(code) => {
            check_offset(cpu, code.descriptor, target.offset)?;
            code.enter(cpu, cpu.cpl, target.offset)
        }
        Destination::Gate(gate) => {
            let code = gate_code(cpu, gate)?;
            if !code.descriptor.is_conforming() && code.descriptor.dpl() != cpu.cpl {
                return cpu.raise(vector::GP, Some(selector_code(code.selector)));
            }
            check_offset(cpu, code.descriptor, gate.offset)?;
            code.enter(cpu, cpu.cpl, gate.offset)
        }
        Destination::Task(selector) => {
            let next_rip = cpu.next_rip;
            task::switch(cpu, selector, Switch::Jump, next_rip, 0)
        }
    }
}

/// Far CALL.
///
/// # Errors
/// The faults of the transfer.
pub fn call(cpu: &mut Cpu, target: FarPointer) -> Exec {
    if matches!(cpu.mode, Mode::Real | Mode::Virtual8086) {
        if target.offset > u64::from(cpu.seg[seg::CS].limit) {
            return cpu.general_protection();
        }
        let stack = push_return(cpu, Stack::current(cpu), target.size)?;
        flat(cpu, target)?;
        cpu.gpr[RSP] = stack.pointer;
        return Ok(());
    }
    match resolve(cpu, target)? {
        Destination::Code(code) => {
            let stack = push_return(cpu, Stack::current(cpu), target.size)?;
            check_offset(cpu, code.descriptor, target.offset)?;
            code.enter(cpu, cpu.cpl, target.offset)?;
            cpu.gpr[RSP] = stack.pointer;
            Ok(())
        }
        Destination::Gate(gate) => call_gate(cpu, gate),
        Destination::Task(selector) => {
            let next_rip = cpu.next_rip;
            task::switch(cpu, selector, Switch::Call, next_rip, 0)
        }
    }
}

/// Real and virtual-8086 mode: no descriptors.
fn flat(cpu: &mut Cpu, target: FarPointer) -> Exec {
    if target.offset > u64::from(cpu.seg[seg::CS].limit) {
        return cpu.general_protection();
    }
    segments::load(cpu, seg::CS, target.selector)?;
    cpu.rip = target.offset;
    Ok(())
}

fn push_return(cpu: &mut Cpu, mut stack: Stack, size: u8) -> Exec<Stack> {
    let selector = u64::from(cpu.seg[seg::CS].selector);
    let next_rip = cpu.next_rip;
    stack.push(cpu, size, selector)?;
    stack.push(cpu, size, next_rip)?;
    Ok(stack)
}

/// A code segment's selector and descriptor.
#[derive(Debug, Clone, Copy)]
struct Code {
    selector: u16,
    descriptor: Descriptor,
}

impl Code {
    /// Loads CS, with its RPL set to `cpl`, and jumps.
    fn enter(mut self, cpu: &mut Cpu, cpl: u8, offset: u64) -> Exec {
        segments::mark_accessed(cpu, self.selector, &mut self.descriptor)?;
        cpu.seg[seg::CS] = self.descriptor.segment(self.selector & !3 | u16::from(cpl));
        cpu.cpl = cpl;
        cpu.rip = offset;
        cpu.update_mode();
        Ok(())
    }
}

/// A call gate.
#[derive(Debug, Clone, Copy)]
struct Gate {
    selector: u16,
    offset: u64,
    parameters: u8,
    /// Bytes of an item that it pushes.
    size: u8,
}

/// What a far pointer's selector names.
enum Destination {
    Code(Code),
    Gate(Gate),
    Task(u16),
}

/// Finds out, and does the checks that JMP and CALL share.
fn resolve(cpu: &mut Cpu, target: FarPointer) -> Exec<Destination> {
    let selector = target.selector;
    if descriptor::is_null(selector) {
        return cpu.general_protection();
    }
    let code = Some(selector_code(selector));
    let Some(descriptor) = segments::read_descriptor(cpu, selector)? else {
        return cpu.raise(vector::GP, code);
    };
    let rpl = descriptor::rpl(selector);
    let cpl = cpu.cpl;
    if descriptor.is_segment() {
        let allowed = descriptor.is_code()
            && if descriptor.is_conforming() {
                descriptor.dpl() <= cpl
            } else {
                rpl <= cpl && descriptor.dpl() == cpl
            };
        if !allowed || cpu.long_mode_active() && descriptor.long() && descriptor.default_big() {
            return cpu.raise(vector::GP, code);
        }
        if !descriptor.present() {
            return cpu.raise(vector::NP, code);
        }
        return Ok(Destination::Code(Code { selector, descriptor }));
    }
    let long = cpu.long_mode_active();
    let known = match descriptor.type_() {
        system::CALL_GATE => true,
        system::CALL_GATE16 | system::TASK_GATE | system::TSS16 | system::TSS => !long,
        _ => false,
    };
    if !known || descriptor.dpl() < cpl || descriptor.dpl() < rpl {
        return cpu.raise(vector::GP, code);
    }
    let mut offset = u64::from(descriptor.gate_offset());
    if long {
        let Some(address) = segments::descriptor_address(cpu, selector, 16) else {
            return cpu.raise(vector::GP, code);
        };
        let high = access::system_read(cpu, address.wrapping_add(8), 8)?;
        if high >> 40 & 0x1f != 0 {
            return cpu.raise(vector::GP, code);
        }
        offset |= high << 32;
    }
    if !descriptor.present() {
        return cpu.raise(vector::NP, code);
    }
    Ok(match descriptor.type_() {
        system::TASK_GATE => Destination::Task(descriptor.gate_selector()),
        system::TSS16 | system::TSS => Destination::Task(selector),
        kind => Destination::Gate(Gate {
            selector: descriptor.gate_selector(),
            offset,
            parameters: if long { 0 } else { descriptor.gate_parameters() },
            size: match kind {
                system::CALL_GATE16 => 2,
                _ if long => 8,
                _ => 4,
            },
        }),
    })
}

/// The code segment of a call gate.
fn gate_code(cpu: &mut Cpu, gate: Gate) -> Exec<Code> {
    let selector = gate.selector;
    if descriptor::is_null(selector) {
        return cpu.general_protection();
    }
    let code = Some(selector_code(selector));
    let Some(descriptor) = segments::read_descriptor(cpu, selector)? else {
        return cpu.raise(vector::GP, code);
    };
    let wrong_size = cpu.long_mode_active() && (!descriptor.long() || descriptor.default_big());
    if !descriptor.is_code() || descriptor.dpl() > cpu.cpl || wrong_size {
        return cpu.raise(vector::GP, code);
    }
    if !descriptor.present() {
        return cpu.raise(vector::NP, code);
    }
    Ok(Code { selector, descriptor })
}

fn call_gate(cpu: &mut Cpu, gate: Gate) -> Exec {
    let code = gate_code(cpu, gate)?;
    let cpl = code.descriptor.dpl();
    if code.descriptor.is_conforming() || cpl >= cpu.cpl {
        let stack = push_return(cpu, Stack::current(cpu), gate.size)?;
        check_offset(cpu, code.descriptor, gate.offset)?;
        code.enter(cpu, cpu.cpl, gate.offset)?;
        cpu.gpr[RSP] = stack.pointer;
        return Ok(());
    }
    let (segment, mut stack) = if cpu.long_mode_active() {
        let pointer = task::long_stack(cpu, cpl, 0)?;
        (segments::null(u16::from(cpl), cpl), Stack::switched_long(pointer, cpl))
    } else {
        let (selector, pointer) = task::legacy_stack(cpu, cpl, 0)?;
        let segment = segments::stack_segment(cpu, selector, cpl, false, Blame::Tss(0))?;
        (segment, Stack::switched(segment, pointer, cpl).with_fault(selector_code(selector)))
    };
    let old_pointer = cpu.gpr[RSP];
    stack.push(cpu, gate.size, u64::from(cpu.seg[seg::SS].selector))?;
    stack.push(cpu, gate.size, old_pointer)?;
    // Parameters keep their order: the last one pushed by the caller is pushed last here too.
    for i in (0..u64::from(gate.parameters)).rev() {
        let mut old = Stack::current(cpu);
        old.skip(i * u64::from(gate.size));
        let parameter = old.pop(cpu, gate.size)?;
        stack.push(cpu, gate.size, parameter)?;
    }
    let stack = push_return(cpu, stack, gate.size)?;
    check_offset(cpu, code.descriptor, gate.offset)?;
    code.enter(cpu, cpl, gate.offset)?;
    segments::set(cpu, seg::SS, segment);
    cpu.gpr[RSP] = stack.pointer;
    Ok(())
}

/// Checks an instruction pointer against the code segment that it is to be used in.
///
/// # Errors
/// #GP(0).
pub fn check_offset(cpu: &mut Cpu, code: Descriptor, offset: u64) -> Exec {
    let valid = if cpu.long_mode_active() && code.long() {
        access::is_canonical(offset)
    } else {
        offset <= u64::from(code.limit())
    };
    if valid { Ok(()) } else { cpu.general_protection() }
}

/// Far RET, and IRET, whose flags the caller handles: what is on the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Return {
    /// Operand size in bytes.
    pub size: u8,
    /// CS.
    pub selector: u16,
    /// RIP.
    pub offset: u64,
    /// Bytes of parameters to be released.
    pub release: u64,
    /// SS and RSP are on the stack also for a return to the same level (IRET in 64-bit mode).
    pub always_stack: bool,
}

/// Far RET.
///
/// # Errors
/// The faults of the transfer.
pub fn ret(cpu: &mut Cpu, size: u8, release: u16) -> Exec {
    let mut stack = Stack::current(cpu);
    let offset = stack.pop(cpu, size)?;
    let selector = stack.pop(cpu, size)? as u16;
    let release = u64::from(release);
    if matches!(cpu.mode, Mode::Real | Mode::Virtual8086) {
        stack.skip(release);
        flat(cpu, FarPointer { selector, offset, size })?;
        cpu.gpr[RSP] = stack.pointer;
        return Ok(());
    }
    return_to(cpu, stack, Return { size, selector, offset, release, always_stack: false })
}

/// Returns to a code segment of the same or an outer level, SS and RSP taken from `stack` if need be.
///
/// # Errors
/// The faults of the transfer.
pub fn return_to(cpu: &mut Cpu, mut stack: Stack, to: Return) -> Exec {
    if descriptor::is_null(to.selector) {
        return cpu.general_protection();
    }
    let code = Some(selector_code(to.selector));
    let Some(descriptor) = segments::read_descriptor(cpu, to.selector)? else {
        return cpu.raise(vector::GP, code);
    };
    let cpl = descriptor::rpl(to.selector);
    let privileged =
        if descriptor.is_conforming() { descriptor.dpl() > cpl } else { descriptor.dpl() != cpl };
    let long = cpu.long_mode_active() && descriptor.long();
    if cpl < cpu.cpl || !descriptor.is_code() || privileged || long && descriptor.default_big() {
        return cpu.raise(vector::GP, code);
    }
    if !descriptor.present() {
        return cpu.raise(vector::NP, code);
    }
    let target = Code { selector: to.selector, descriptor };
    stack.skip(to.release);
    let outer = cpl > cpu.cpl;
    if !outer && !to.always_stack {
        check_offset(cpu, descriptor, to.offset)?;
        target.enter(cpu, cpl, to.offset)?;
        cpu.gpr[RSP] = stack.pointer;
        return Ok(());
    }
    let pointer = stack.pop(cpu, to.size)?;
    let selector = stack.pop(cpu, to.size)? as u16;
    let segment = segments::stack_segment(cpu, selector, cpl, long && cpl != 3, Blame::Selector)?;
    check_offset(cpu, descriptor, to.offset)?;
    target.enter(cpu, cpl, to.offset)?;
    segments::set(cpu, seg::SS, segment);
    // A return to a 16-bit stack leaves the upper half of ESP as it was.
    cpu.gpr[RSP] = if long {
        pointer
    } else if segment.db {
        pointer & 0xffff_ffff
    } else {
        cpu.gpr[RSP] & 0xffff_0000 | pointer & 0xffff
    };
    if outer {
        let mut new = Stack::current(cpu);
        new.skip(to.release);
        cpu.gpr[RSP] = new.pointer;
        segments::drop_privileged(cpu, cpl);
    }
    Ok(())
}

//! Loading segment registers (Intel SDM vol. 3, 3.4 and 5.5 to 5.8).

#![forbid(unsafe_code)]

use super::super::abort::{Exec, vector};
use super::super::state::{Cpu, Mode, seg};
use super::access;
use super::descriptor::{self, Descriptor, type_bit};
use crate::accel::Segment;

/// A code or data segment's accessed bit, in the byte of the descriptor that holds the type.
const ACCESSED_BYTE: u64 = 5;

/// A null selector's segment register.
#[must_use]
pub fn null(selector: u16, dpl: u8) -> Segment {
    Segment {
        selector,
        dpl,
        type_: type_bit::WRITABLE | type_bit::ACCESSED,
        unusable: true,
        ..Segment::default()
    }
}

/// The segment register of a selector in virtual-8086 mode.
#[must_use]
pub fn virtual8086(selector: u16) -> Segment {
    Segment {
        base: u64::from(selector) << 4,
        limit: 0xffff,
        selector,
        type_: type_bit::WRITABLE | type_bit::ACCESSED,
        dpl: 3,
        present: true,
        s: true,
        ..Segment::default()
    }
}

/// The error code that names a selector.
#[must_use]
pub fn selector_code(selector: u16) -> u32 {
    u32::from(selector & !3)
}

/// The linear address of a selector's descriptor, if it lies within its table; `size` is 8 or 16.
#[must_use]
pub fn descriptor_address(cpu: &Cpu, selector: u16, size: u32) -> Option<u64> {
    let (base, limit) = if selector & 4 == 0 {
        (cpu.gdt.base, u32::from(cpu.gdt.limit))
    } else if cpu.ldt.unusable {
        return None;
    } else {
        (cpu.ldt.base, cpu.ldt.limit)
    };
    let offset = u32::from(selector & !7);
    (offset + (size - 1) <= limit).then(|| base.wrapping_add(u64::from(offset)))
}

/// Reads a selector's descriptor; none if it lies outside its table.
///
/// # Errors
/// A page fault of the access.
pub fn read_descriptor(cpu: &mut Cpu, selector: u16) -> Exec<Option<Descriptor>> {
    match descriptor_address(cpu, selector, 8) {
        Some(address) => Ok(Some(Descriptor(access::system_read(cpu, address, 8)?))),
        None => Ok(None),
    }
}

/// Sets the accessed bit of a code or data descriptor in memory, if it is clear.
///
/// # Errors
/// A page fault of the access.
pub fn mark_accessed(cpu: &mut Cpu, selector: u16, descriptor: &mut Descriptor) -> Exec {
    if descriptor.type_() & type_bit::ACCESSED != 0 {
        return Ok(());
    }
    descriptor.0 |= 1 << 40;
    match descriptor_address(cpu, selector, 8) {
        Some(address) => {
            access::system_write(cpu, address.wrapping_add(ACCESSED_BYTE), 1, descriptor.0 >> 40)
        }
        None => Ok(()),
    }
}

/// What MOV, POP and LxS do to a segment register other than CS.
///
/// # Errors
/// The faults of the load; nothing has changed then.
pub fn load(cpu: &mut Cpu, index: usize, selector: u16) -> Exec {
    let segment = prepare(cpu, index, selector)?;
    set(cpu, index, segment);
    Ok(())
}

/// Sets a segment register to what `prepare` found.
pub fn set(cpu: &mut Cpu, index: usize, segment: Segment) {
    if let Some(register) = cpu.seg.get_mut(index) {
        *register = segment;
    }
    cpu.update_mode();
}

/// Does the checks of loading segment register `index`, and gives what it will hold.
///
/// # Errors
/// The faults of the load.
pub fn prepare(cpu: &mut Cpu, index: usize, selector: u16) -> Exec<Segment> {
    match cpu.mode {
        // Real mode changes the base alone: limits and attributes of protected mode live on ("unreal").
        Mode::Real => Ok(Segment {
            base: u64::from(selector) << 4,
            selector,
            unusable: false,
            ..cpu.seg.get(index).copied().unwrap_or_default()
        }),
        Mode::Virtual8086 => Ok(virtual8086(selector)),
        Mode::Protected | Mode::Long if index == seg::SS => {
            let cpl = cpu.cpl;
            let may_be_null = cpu.mode == Mode::Long && cpl < 3 && descriptor::rpl(selector) == cpl;
            stack_segment(cpu, selector, cpl, may_be_null, Blame::Selector)
        }
        Mode::Protected | Mode::Long => data_segment(cpu, selector, cpu.cpl, Blame::Selector),
    }
}

/// Whose fault a bad selector is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// An instruction's operand's, or a popped selector's: #GP.
    Selector,
    /// The TSS's: #TS. With the EXT bit of error codes.
    Tss(u32),
}

impl Blame {
    /// The vector of most faults, and the EXT bit.
    #[must_use]
    pub fn vector_and_ext(self) -> (u8, u32) {
        match self {
            Self::Selector => (vector::GP, 0),
            Self::Tss(ext) => (vector::TS, ext),
        }
    }
}

/// The checks of a data segment register (DS, ES, FS, GS) at privilege level `cpl`.
///
/// # Errors
/// The faults of the load.
pub fn data_segment(cpu: &mut Cpu, selector: u16, cpl: u8, blame: Blame) -> Exec<Segment> {
    if descriptor::is_null(selector) {
        return Ok(null(selector, 0));
    }
    let (bad, ext) = blame.vector_and_ext();
    let code = Some(selector_code(selector) | ext);
    let Some(mut descriptor) = read_descriptor(cpu, selector)? else {
        return cpu.raise(bad, code);
    };
    let privilege = cpl.max(descriptor::rpl(selector));
    if !descriptor.is_data() && !descriptor.is_readable_code()
        || !descriptor.is_conforming() && privilege > descriptor.dpl()
    {
        return cpu.raise(bad, code);
    }
    if !descriptor.present() {
        return cpu.raise(vector::NP, code);
    }
    mark_accessed(cpu, selector, &mut descriptor)?;
    Ok(descriptor.segment(selector))
}

/// The checks of a stack segment for privilege level `cpl`.
///
/// # Errors
/// The faults of the load.
pub fn stack_segment(
    cpu: &mut Cpu,
    selector: u16,
    cpl: u8,
    may_be_null: bool,
    blame: Blame,
) -> Exec<Segment> {
    let (bad, ext) = blame.vector_and_ext();
    if descriptor::is_null(selector) {
        return if may_be_null { Ok(null(selector, cpl)) } else { cpu.raise(bad, Some(ext)) };
    }
    let code = Some(selector_code(selector) | ext);
    let Some(mut descriptor) = read_descriptor(cpu, selector)? else {
        return cpu.raise(bad, code);
    };
    if descriptor::rpl(selector) != cpl || descriptor.dpl() != cpl || !descriptor.is_writable_data() {
        return cpu.raise(bad, code);
    }
    if !descriptor.present() {
        return cpu.raise(vector::SS, code);
    }
    mark_accessed(cpu, selector, &mut descriptor)?;
    Ok(descriptor.segment(selector))
}

/// Makes the data segment registers null that a less privileged level must not use (Intel SDM vol. 2, RET).
/// Only the selector is defined to change: a base of FS or GS set by WRMSR is still there in 64-bit mode.
pub fn drop_privileged(cpu: &mut Cpu, cpl: u8) {
    for index in [seg::ES, seg::DS, seg::FS, seg::GS] {
        if let Some(register) = cpu.seg.get_mut(index) {
            let conforming = type_bit::CODE | type_bit::CONFORMING;
            if !register.unusable && register.dpl < cpl && register.type_ & conforming != conforming {
                *register = Segment { selector: 0, unusable: true, ..*register };
            }
        }
    }
    cpu.update_mode();
}

/// What reading a segment register stores.
#[must_use]
pub fn selector(cpu: &Cpu, index: usize) -> u16 {
    cpu.seg.get(index).map_or(0, |segment| segment.selector)
}

//! String instructions. Repeated ones commit as they go, so that a fault or an interrupt finds the
//! registers at the iteration that is next; MOVS and STOS work on a page at a time.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::operand::segment_index;
use super::{Alu, Cmp, Flow};
use crate::accel::soft::abort::Exec;
use crate::accel::soft::flags::rflags;
use crate::accel::soft::integer::Int;
use crate::accel::soft::state::{Cpu, seg};

const RCX: usize = 1;
const RSI: usize = 6;
const RDI: usize = 7;

/// The registers of a string instruction: address size, direction, repetition.
#[derive(Debug, Clone, Copy)]
pub struct Repeat {
    mask: u64,
    repeated: bool,
    backwards: bool,
    /// Segment of the source.
    pub segment: usize,
}

impl Repeat {
    /// Of an instruction one of whose memory operands is of `kind`.
    pub fn of(cpu: &Cpu, i: &Instruction, kind: OpKind) -> Self {
        let mask = match kind {
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => 0xffff,
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => 0xffff_ffff,
            _ => u64::MAX,
        };
        Self {
            mask,
            repeated: i.has_rep_prefix() || i.has_repne_prefix(),
            backwards: cpu.rflags_rest & rflags::DF != 0,
            segment: segment_index(i.memory_segment()),
        }
    }

    fn count(&self, cpu: &Cpu) -> u64 {
        if self.repeated { cpu.gpr[RCX] & self.mask } else { 1 }
    }

    /// Whether no iteration is left.
    pub fn is_done(&self, cpu: &Cpu) -> bool {
        self.count(cpu) == 0
    }

    /// Offset of the source.
    pub fn source(&self, cpu: &Cpu) -> u64 {
        cpu.gpr[RSI] & self.mask
    }

    /// Offset of the destination.
    pub fn destination(&self, cpu: &Cpu) -> u64 {
        cpu.gpr[RDI] & self.mask
    }

    fn set(&self, cpu: &mut Cpu, register: usize, value: u64) {
        cpu.gpr[register] = if self.mask == 0xffff {
            cpu.gpr[register] & !self.mask | value & self.mask
        } else {
            value & self.mask
        };
    }

    fn advance(&self, cpu: &mut Cpu, register: usize, bytes: u64) {
        let old = cpu.gpr[register];
        let new = if self.backwards { old.wrapping_sub(bytes) } else { old.wrapping_add(bytes) };
        self.set(cpu, register, new);
    }

    /// Moves the source on by `n` items.
    pub fn advance_source(&self, cpu: &mut Cpu, size: u64, n: u64) {
        self.advance(cpu, RSI, size.wrapping_mul(n));
    }

    /// Moves the destination on by `n` items.
    pub fn advance_destination(&self, cpu: &mut Cpu, size: u64, n: u64) {
        self.advance(cpu, RDI, size.wrapping_mul(n));
    }

    fn count_down(&self, cpu: &mut Cpu, n: u64) {
        if self.repeated {
            let left = cpu.gpr[RCX].wrapping_sub(n);
            self.set(cpu, RCX, left);
        }
        // What this iteration has done by replay is over.
        cpu.replay.clear();
    }

    /// Counts one iteration; an instruction that has more of them starts anew, so that interrupts
    /// come between.
    pub fn one_more(&self, cpu: &mut Cpu) -> Exec<Flow> {
        self.count_down(cpu, 1);
        if self.repeated && !self.is_done(cpu) { Ok(Flow::Jump) } else { Ok(Flow::Next) }
    }

    /// How many items from `offset` lie in one page and before the offset wraps, at most `count`; 0
    /// if the first crosses a page or the direction is down.
    fn run(&self, offset: u64, la: u64, size: u64, count: u64) -> u64 {
        if self.backwards {
            return 0;
        }
        let page = (4096 - (la & 0xfff)) / size;
        let wrap = (self.mask - offset) / size;
        page.min(wrap).min(count)
    }
}

/// Whether a repeated instruction is to let something else happen first.
fn interrupted(cpu: &Cpu) -> bool {
    cpu.pending.load(std::sync::atomic::Ordering::Relaxed) != 0 || cpu.stepping
}

/// Copies guest RAM upwards, item by item where that shows.
///
/// # Safety
/// `bytes` bytes of guest RAM are mapped at both addresses.
unsafe fn copy_up(source: usize, destination: usize, bytes: usize, item: usize) {
    let from = std::ptr::with_exposed_provenance::<u8>(source);
    let to = std::ptr::with_exposed_provenance_mut::<u8>(destination);
    let distance = destination.wrapping_sub(source);
    if distance >= bytes || distance == 0 {
        // SAFETY: the caller vouches for both; the ranges may overlap downwards. Other vCPUs that
        // access these bytes meanwhile race in the guest as they would on hardware.
        unsafe { std::ptr::copy(from, to, bytes) };
    } else {
        // The destination is ahead inside the source: what has been stored is loaded again.
        let step = distance.min(item).max(1);
        let chunk = if distance.is_multiple_of(item) { item } else { step };
        let mut done = 0;
        while done < bytes {
            let n = chunk.min(bytes - done);
            // SAFETY: inside both ranges.
            unsafe { std::ptr::copy(from.add(done), to.add(done), n) };
            done += n;
        }
    }
}

/// MOVS.
pub fn movs(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    match i.mnemonic() {
        Mnemonic::Movsb => movs_sized::<u8>(cpu, i),
        Mnemonic::Movsw => movs_sized::<u16>(cpu, i),
        Mnemonic::Movsd => movs_sized::<u32>(cpu, i),
        _ => movs_sized::<u64>(cpu, i),
    }
}

fn movs_sized<T: Int>(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let repeat = Repeat::of(cpu, i, i.op1_kind());
    loop {
        let count = repeat.count(cpu);
        if count == 0 {
            return Ok(Flow::Next);
        }
        let (from, to) = (repeat.source(cpu), repeat.destination(cpu));
        let source = cpu.linear(repeat.segment, from, T::BYTES, false)?;
        let destination = cpu.linear(seg::ES, to, T::BYTES, true)?;
        let mut n =
            repeat.run(from, source, T::BYTES, count).min(repeat.run(to, destination, T::BYTES, count));
        let distance = destination.wrapping_sub(source);
        if n > 1 && distance != 0 && distance < T::BYTES {
            // Items that overlap themselves.
            n = 1;
        }
        if n > 1
            && cpu.is_run_inside(repeat.segment, from, n * T::BYTES)
            && cpu.is_run_inside(seg::ES, to, n * T::BYTES)
            && let Some(host_source) = cpu.host_for_load(source)?
            && let Some((host, gpa)) = cpu.host_for_store(destination, n * T::BYTES)?
        {
            // SAFETY: `run` keeps both inside the pages that the translations vouch for.
            unsafe { copy_up(host_source, host, (n * T::BYTES) as usize, T::BYTES as usize) };
            if let Some(gpa) = gpa {
                cpu.code_written(gpa, n * T::BYTES);
            }
        } else {
            n = 1;
            let value: T = cpu.load(source)?;
            cpu.store(destination, value)?;
        }
        repeat.advance_source(cpu, T::BYTES, n);
        repeat.advance_destination(cpu, T::BYTES, n);
        repeat.count_down(cpu, n);
        if !repeat.repeated {
            return Ok(Flow::Next);
        }
        if n < count && interrupted(cpu) {
            return Ok(Flow::Jump);
        }
    }
}

/// STOS.
pub fn stos(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    match i.mnemonic() {
        Mnemonic::Stosb => stos_sized::<u8>(cpu, i),
        Mnemonic::Stosw => stos_sized::<u16>(cpu, i),
        Mnemonic::Stosd => stos_sized::<u32>(cpu, i),
        _ => stos_sized::<u64>(cpu, i),
    }
}

fn stos_sized<T: Int>(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    let repeat = Repeat::of(cpu, i, i.op0_kind());
    let value: T = cpu.reg(0);
    loop {
        let count = repeat.count(cpu);
        if count == 0 {
            return Ok(Flow::Next);
        }
        let to = repeat.destination(cpu);
        let destination = cpu.linear(seg::ES, to, T::BYTES, true)?;
        let mut n = repeat.run(to, destination, T::BYTES, count);
        if n > 1
            && cpu.is_run_inside(seg::ES, to, n * T::BYTES)
            && let Some((host, gpa)) = cpu.host_for_store(destination, n * T::BYTES)?
        {
            fill(host, value, n);
            if let Some(gpa) = gpa {
                cpu.code_written(gpa, n * T::BYTES);
            }
        } else {
            n = 1;
            cpu.store(destination, value)?;
        }
        repeat.advance_destination(cpu, T::BYTES, n);
        repeat.count_down(cpu, n);
        if !repeat.repeated {
            return Ok(Flow::Next);
        }
        if n < count && interrupted(cpu) {
            return Ok(Flow::Jump);
        }
    }
}

/// Fills `n` items at an address that `host_for_store` has given for them.
fn fill<T: Int>(host: usize, value: T, n: u64) {
    let to = std::ptr::with_exposed_provenance_mut::<u8>(host);
    let first = value.to_u64() as u8;
    let bytes = value.to_u64().to_le_bytes();
    let uniform = bytes[..T::BYTES as usize].iter().all(|&byte| byte == first);
    // SAFETY: the caller's translation vouches for `n` items.
    unsafe {
        if uniform {
            std::ptr::write_bytes(to, first, (n * T::BYTES) as usize);
        } else {
            for item in 0..n as usize {
                to.cast::<T>().add(item).write_unaligned(value);
            }
        }
    }
}

/// LODS.
pub fn lods(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    fn sized<T: Int>(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
        let repeat = Repeat::of(cpu, i, i.op1_kind());
        loop {
            if repeat.is_done(cpu) {
                return Ok(Flow::Next);
            }
            let value: T = cpu.read_seg(repeat.segment, repeat.source(cpu))?;
            cpu.set_reg(0, value);
            repeat.advance_source(cpu, T::BYTES, 1);
            repeat.count_down(cpu, 1);
            if !repeat.repeated {
                return Ok(Flow::Next);
            }
            if interrupted(cpu) && !repeat.is_done(cpu) {
                return Ok(Flow::Jump);
            }
        }
    }
    match i.mnemonic() {
        Mnemonic::Lodsb => sized::<u8>(cpu, i),
        Mnemonic::Lodsw => sized::<u16>(cpu, i),
        Mnemonic::Lodsd => sized::<u32>(cpu, i),
        _ => sized::<u64>(cpu, i),
    }
}

/// SCAS.
pub fn scas(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    fn sized<T: Int>(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
        let repeat = Repeat::of(cpu, i, i.op1_kind());
        let a: T = cpu.reg(0);
        compare(cpu, i, repeat, |cpu| {
            let b: T = cpu.read_seg(seg::ES, repeat.destination(cpu))?;
            repeat.advance_destination(cpu, T::BYTES, 1);
            Cmp::flags(cpu, b, Cmp::result(a, b, false), false);
            Ok(a == b)
        })
    }
    match i.mnemonic() {
        Mnemonic::Scasb => sized::<u8>(cpu, i),
        Mnemonic::Scasw => sized::<u16>(cpu, i),
        Mnemonic::Scasd => sized::<u32>(cpu, i),
        _ => sized::<u64>(cpu, i),
    }
}

/// CMPS.
pub fn cmps(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    fn sized<T: Int>(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
        let repeat = Repeat::of(cpu, i, i.op0_kind());
        compare(cpu, i, repeat, |cpu| {
            let a: T = cpu.read_seg(repeat.segment, repeat.source(cpu))?;
            let b: T = cpu.read_seg(seg::ES, repeat.destination(cpu))?;
            repeat.advance_source(cpu, T::BYTES, 1);
            repeat.advance_destination(cpu, T::BYTES, 1);
            Cmp::flags(cpu, b, Cmp::result(a, b, false), false);
            Ok(a == b)
        })
    }
    match i.mnemonic() {
        Mnemonic::Cmpsb => sized::<u8>(cpu, i),
        Mnemonic::Cmpsw => sized::<u16>(cpu, i),
        Mnemonic::Cmpsd => sized::<u32>(cpu, i),
        _ => sized::<u64>(cpu, i),
    }
}

/// Repeats `step`, which says whether its items are equal, as REPE or REPNE want.
fn compare(
    cpu: &mut Cpu,
    i: &Instruction,
    repeat: Repeat,
    step: impl Fn(&mut Cpu) -> Exec<bool>,
) -> Exec<Flow> {
    let until_equal = i.has_repne_prefix();
    loop {
        if repeat.is_done(cpu) {
            return Ok(Flow::Next);
        }
        let equal = step(cpu)?;
        repeat.count_down(cpu, 1);
        if !repeat.repeated || equal == until_equal {
            return Ok(Flow::Next);
        }
        if interrupted(cpu) && !repeat.is_done(cpu) {
            return Ok(Flow::Jump);
        }
    }
}

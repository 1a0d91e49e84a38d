//! The memory-mapped registers: the distributor's and the redistributors'.

#![forbid(unsafe_code)]

use super::State;
use super::interrupts::{Bank, Bits, PRIVATE};

/// GICD_CTLR: affinity routing is on, and there is one security state.
const CTLR_ARE_DS: u32 = 1 << 4 | 1 << 6;
/// GICD_TYPER: ten bits of INTID; no routing to one of many.
const TYPER: u32 = 9 << 19 | 1 << 25;
/// PIDR2: architecture revision 3.
const PIDR2: u32 = 0x30;
/// GICR_TYPER: the last redistributor.
const TYPER_LAST: u64 = 1 << 4;
/// GICR_WAKER: the vCPU sleeps; its interface does.
const WAKER_SLEEP: u32 = 1 << 1;
const WAKER_CHILDREN: u32 = 1 << 2;
/// An MPIDR's affinity fields in GICD_IROUTER.
const ROUTE: u64 = 0xff_00ff_ffff;
/// A redistributor: a frame for itself and a frame for its SGIs and PPIs.
const REDISTRIBUTOR: u64 = 0x2_0000;
const SGI_FRAME: u64 = 0x1_0000;

/// A store of a word, or of some of its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Word {
    /// Offset, a multiple of 4.
    offset: u64,
    value: u32,
    /// The bytes that are stored.
    mask: u32,
}

/// A load of `data.len()` bytes, by the words that have them.
pub fn read(data: &mut [u8], offset: u64, mut word: impl FnMut(u64) -> u32) {
    let mut known: Option<(u64, [u8; 4])> = None;
    for (n, byte) in (0..).zip(data) {
        let at = offset.wrapping_add(n);
        let base = at & !3;
        let bytes = match known {
            Some((place, bytes)) if place == base => bytes,
            _ => word(base).to_le_bytes(),
        };
        known = Some((base, bytes));
        *byte = bytes.get((at & 3) as usize).copied().unwrap_or_default();
    }
}

/// A store of `data`, by the words that have it.
pub fn write(data: &[u8], offset: u64, mut word: impl FnMut(Word)) {
    let mut left: Option<Word> = None;
    for (n, byte) in (0..).zip(data) {
        let at = offset.wrapping_add(n);
        let shift = 8 * (at & 3) as u32;
        let (base, value, mask) = (at & !3, u32::from(*byte) << shift, 0xff << shift);
        match &mut left {
            Some(word) if word.offset == base => {
                word.value |= value;
                word.mask |= mask;
            }
            _ => {
                if let Some(full) = left.replace(Word { offset: base, value, mask }) {
                    word(full);
                }
            }
        }
    }
    left.into_iter().for_each(word);
}

/// Which register with a bit an interrupt is at `offset`, and which word of it.
fn bits_at(offset: u64) -> Option<(Bits, usize)> {
    let kind = match offset {
        0x080..0x100 => Bits::Group,
        0x100..0x180 => Bits::Enable { set: true },
        0x180..0x200 => Bits::Enable { set: false },
        0x200..0x280 => Bits::Pending { set: true },
        0x280..0x300 => Bits::Pending { set: false },
        0x300..0x380 => Bits::Active { set: true },
        0x380..0x400 => Bits::Active { set: false },
        _ => return None,
    };
    Some((kind, (offset & 0x7f) as usize / 4))
}

/// The registers that the distributor and a redistributor's second frame have in common. `first` is the
/// INTID of the bank's first interrupt.
fn read_bank(bank: &Bank, first: usize, offset: u64) -> u32 {
    if let Some((kind, word)) = bits_at(offset) {
        return word.checked_sub(first / 32).map_or(0, |word| bank.bits(kind, word));
    }
    match offset {
        0x400..0x800 => {
            let number = (offset - 0x400) as usize;
            number.checked_sub(first).map_or(0, |number| bank.priorities(number))
        }
        0xc00..0xd00 => {
            let word = (offset - 0xc00) as usize / 4;
            word.checked_sub(first / 16).map_or(0, |word| bank.triggers(word))
        }
        _ => 0,
    }
}

fn write_bank(bank: &mut Bank, first: usize, word: Word) {
    if let Some((kind, index)) = bits_at(word.offset) {
        if let (Some(index), u32::MAX) = (index.checked_sub(first / 32), word.mask) {
            bank.set_bits(kind, index, word.value);
        }
        return;
    }
    match word.offset {
        0x400..0x800 => {
            if let Some(number) = ((word.offset - 0x400) as usize).checked_sub(first) {
                bank.set_priorities(number, word.value, word.mask);
            }
        }
        0xc00..0xd00 if word.mask == u32::MAX => {
            let index = (word.offset - 0xc00) as usize / 4;
            // The first word is the SGIs', which are edges for ever.
            if let Some(index) = index.checked_sub(first / 16).filter(|_| index != 0) {
                bank.set_triggers(index, word.value);
            }
        }
        _ => {}
    }
}

/// The shared interrupt and the half of its register that is at `offset` of the distributor.
fn route_at(offset: u64) -> Option<(usize, u32)> {
    let within = offset.checked_sub(0x6000).filter(|within| *within < 0x2000)?;
    let number = (within / 8).checked_sub(PRIVATE.into())?;
    Some((number as usize, (within as u32 & 4) * 8))
}

impl State {
    pub(super) fn read_distributor(&self, offset: u64) -> u32 {
        if let Some((number, shift)) = route_at(offset) {
            return (self.shared.route(number) >> shift) as u32;
        }
        match offset {
            0x0 => u32::from(self.enabled[0]) | u32::from(self.enabled[1]) << 1 | CTLR_ARE_DS,
            // ITLinesNumber: 32 interrupts for each one more.
            0x4 => TYPER | (self.shared.len() / 32).min(31) as u32,
            0xffe8 => PIDR2,
            _ => read_bank(&self.shared, PRIVATE as usize, offset),
        }
    }

    pub(super) fn write_distributor(&mut self, word: Word) {
        if let Some((number, shift)) = route_at(word.offset) {
            let old = self.shared.route(number);
            let mask = u64::from(word.mask) << shift;
            let route = (old & !mask | u64::from(word.value) << shift) & ROUTE;
            let cpus = &self.cpus;
            let find = |route| cpus.iter().position(|cpu| cpu.affinity == route)?.try_into().ok();
            self.shared.set_route(number, route, find);
            return;
        }
        match word.offset {
            0x0 if word.mask == u32::MAX => {
                self.enabled = [word.value & 1 != 0, word.value & 2 != 0];
            }
            _ => write_bank(&mut self.shared, PRIVATE as usize, word),
        }
    }

    pub(super) fn read_redistributor(&self, offset: u64) -> u32 {
        let index = (offset / REDISTRIBUTOR) as usize;
        let Some(cpu) = self.cpus.get(index) else { return 0 };
        let within = offset % REDISTRIBUTOR;
        match within {
            0x8 | 0xc => {
                let last = if index + 1 == self.cpus.len() { TYPER_LAST } else { 0 };
                // Aff3 to Aff0 as four bytes.
                let affinity = cpu.affinity >> 32 << 24 | cpu.affinity & 0xff_ffff;
                let typer = affinity << 32 | (index as u64) << 8 | last;
                (typer >> (8 * (within & 4))) as u32
            }
            0x14 if cpu.asleep => WAKER_SLEEP | WAKER_CHILDREN,
            0xffe8 => PIDR2,
            SGI_FRAME.. => read_bank(&cpu.private, 0, within - SGI_FRAME),
            _ => 0,
        }
    }

    pub(super) fn write_redistributor(&mut self, word: Word) {
        let Some(cpu) = self.cpus.get_mut((word.offset / REDISTRIBUTOR) as usize) else { return };
        let within = word.offset % REDISTRIBUTOR;
        match within {
            0x14 if word.mask == u32::MAX => cpu.asleep = word.value & WAKER_SLEEP != 0,
            SGI_FRAME.. => {
                let word = Word { offset: within - SGI_FRAME, ..word };
                // Only the first word of each: there are 32 of them.
                let is_first = bits_at(word.offset).is_none_or(|(_, index)| index == 0);
                if is_first {
                    write_bank(&mut cpu.private, 0, word);
                }
            }
            _ => {}
        }
    }
}

//! The state of interrupts, and the registers that have a field for each.

#![forbid(unsafe_code)]

/// Interrupts that every vCPU has of its own: 16 SGIs and 16 PPIs.
pub const PRIVATE: u32 = 32;
/// Software-generated ones among them.
const SGIS: usize = 16;
/// The bits of a priority that there are.
pub const PRIORITY_BITS: u8 = 0xf8;

/// One interrupt.
#[derive(Debug, Clone, Copy, Default)]
struct Interrupt {
    enabled: bool,
    group_1: bool,
    /// Made pending by an edge or by software.
    latched: bool,
    active: bool,
    /// The line's level.
    line: bool,
    is_edge: bool,
    priority: u8,
    /// The vCPU that a shared interrupt goes to; `None` for one that there is not.
    target: Option<u32>,
    /// GICD_IROUTER as it was written.
    route: u64,
}

impl Interrupt {
    fn is_pending(&self) -> bool {
        self.latched || self.line && !self.is_edge
    }
}

/// A number of interrupts in a row.
pub struct Bank(Vec<Interrupt>);

/// A kind of register with one bit an interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bits {
    /// The group: 1 for group 1.
    Group,
    /// Enabled: set by writes, or cleared by them.
    Enable { set: bool },
    /// Pending.
    Pending { set: bool },
    /// Active.
    Active { set: bool },
}

impl Bank {
    /// A vCPU's own: SGIs are edges.
    pub fn private() -> Self {
        let mut bank = vec![Interrupt::default(); PRIVATE as usize];
        for sgi in bank.iter_mut().take(SGIS) {
            sgi.is_edge = true;
        }
        Self(bank)
    }

    /// The machine's: `count` rounded up to a multiple of 32, routed to vCPU 0.
    pub fn shared(count: u32) -> Self {
        let count = (count as usize).next_multiple_of(32);
        Self(vec![Interrupt { target: Some(0), ..Interrupt::default() }; count])
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Drives a line.
    pub fn set_line(&mut self, number: u32, level: bool) {
        if let Some(interrupt) = self.0.get_mut(number as usize) {
            if level && !interrupt.line && interrupt.is_edge {
                interrupt.latched = true;
            }
            interrupt.line = level;
        }
    }

    /// Makes an interrupt pending.
    pub fn pend(&mut self, number: u32) {
        if let Some(interrupt) = self.0.get_mut(number as usize) {
            interrupt.latched = true;
        }
    }

    /// Whether an interrupt is in group 1.
    pub fn is_group_1(&self, number: u32) -> bool {
        self.0.get(number as usize).is_some_and(|interrupt| interrupt.group_1)
    }

    /// Makes a pending interrupt active.
    pub fn acknowledge(&mut self, number: u32) {
        if let Some(interrupt) = self.0.get_mut(number as usize) {
            interrupt.active = true;
            interrupt.latched = false;
        }
    }

    /// Makes an active interrupt inactive.
    pub fn deactivate(&mut self, number: u32) {
        if let Some(interrupt) = self.0.get_mut(number as usize) {
            interrupt.active = false;
        }
    }

    /// The highest priority that is to be signalled, among those that go to `target` if one is given.
    pub fn highest(&self, group: usize, target: Option<u32>) -> Option<(u32, u8)> {
        let candidate = |interrupt: &Interrupt| {
            interrupt.enabled
                && !interrupt.active
                && interrupt.is_pending()
                && usize::from(interrupt.group_1) == group
                && (target.is_none() || interrupt.target == target)
        };
        (0..)
            .zip(&self.0)
            .filter(|(_, interrupt)| candidate(interrupt))
            .map(|(number, interrupt)| (number, interrupt.priority))
            .min_by_key(|(number, priority)| (*priority, *number))
    }

    /// Word `word` of a register with a bit an interrupt.
    pub fn bits(&self, kind: Bits, word: usize) -> u32 {
        let mut value = 0;
        for (bit, interrupt) in self.0.iter().skip(word * 32).take(32).enumerate() {
            let is_set = match kind {
                Bits::Group => interrupt.group_1,
                Bits::Enable { .. } => interrupt.enabled,
                Bits::Pending { .. } => interrupt.is_pending(),
                Bits::Active { .. } => interrupt.active,
            };
            value |= u32::from(is_set) << bit;
        }
        value
    }

    /// Writes word `word` of a register with a bit an interrupt.
    pub fn set_bits(&mut self, kind: Bits, word: usize, value: u32) {
        for (bit, interrupt) in self.0.iter_mut().skip(word * 32).take(32).enumerate() {
            let written = value >> bit & 1 != 0;
            match kind {
                Bits::Group => interrupt.group_1 = written,
                Bits::Enable { set } if written => interrupt.enabled = set,
                Bits::Pending { set } if written => interrupt.latched = set,
                Bits::Active { set } if written => interrupt.active = set,
                Bits::Enable { .. } | Bits::Pending { .. } | Bits::Active { .. } => {}
            }
        }
    }

    /// Four priorities.
    pub fn priorities(&self, first: usize) -> u32 {
        let mut bytes = [0; 4];
        for (byte, interrupt) in bytes.iter_mut().zip(self.0.iter().skip(first)) {
            *byte = interrupt.priority;
        }
        u32::from_le_bytes(bytes)
    }

    /// Writes those of four priorities whose byte is in `mask`.
    pub fn set_priorities(&mut self, first: usize, value: u32, mask: u32) {
        let bytes = value.to_le_bytes().into_iter().zip(mask.to_le_bytes());
        for ((byte, mask), interrupt) in bytes.zip(self.0.iter_mut().skip(first)) {
            if mask != 0 {
                interrupt.priority = byte & PRIORITY_BITS;
            }
        }
    }

    /// Word `word` of the trigger modes, two bits an interrupt: the upper one is set for an edge.
    pub fn triggers(&self, word: usize) -> u32 {
        let edges = self.0.iter().skip(word * 16).take(16).enumerate();
        edges.fold(0, |value, (n, interrupt)| value | u32::from(interrupt.is_edge) << (2 * n + 1))
    }

    /// Writes word `word` of the trigger modes.
    pub fn set_triggers(&mut self, word: usize, value: u32) {
        for (n, interrupt) in self.0.iter_mut().skip(word * 16).take(16).enumerate() {
            interrupt.is_edge = value >> (2 * n + 1) & 1 != 0;
        }
    }

    /// Where a shared interrupt goes, as it was written.
    pub fn route(&self, number: usize) -> u64 {
        self.0.get(number).map_or(0, |interrupt| interrupt.route)
    }

    /// Sends a shared interrupt to the vCPU that `find` gives for an affinity.
    pub fn set_route(&mut self, number: usize, route: u64, find: impl FnOnce(u64) -> Option<u32>) {
        if let Some(interrupt) = self.0.get_mut(number) {
            interrupt.route = route;
            interrupt.target = find(route);
        }
    }
}

//! The CPU interfaces, which are system registers (IHI 0069, chapter 12.2).

#![forbid(unsafe_code)]

use super::interrupts::PRIORITY_BITS;
use super::{Cpu, State};

/// What a vCPU is signalled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Signals {
    /// An interrupt of group 0.
    pub fiq: bool,
    /// An interrupt of group 1.
    pub irq: bool,
}

/// No interrupt.
const SPURIOUS: u32 = 1023;
/// The running priority when nothing runs.
const IDLE: u8 = 0xff;
/// ICC_SRE_EL1: the system registers are on; no bypass.
const SRE: u64 = 7;
/// ICC_CTLR_EL1: five bits of priority; 16 bits of INTID.
const CTLR: u64 = 4 << 8;
const CTLR_EOI_MODE: u64 = 1 << 1;
const CTLR_CBPR: u64 = 1;
/// The lowest binary point with five bits of priority: group 0's; group 1's is one higher.
const LOWEST_BINARY_POINT: [u8; 2] = [2, 3];
/// More than can be active at once: a preemption needs a higher priority, and there are 32.
const MAX_ACTIVE: usize = 32;

/// A system register of the CPU interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemRegister {
    PriorityMask,
    Acknowledge(usize),
    EndOfInterrupt(usize),
    HighestPending(usize),
    BinaryPoint(usize),
    ActivePriorities(usize, u32),
    Deactivate,
    RunningPriority,
    Control,
    Enable,
    GroupEnable(usize),
    /// ICC_SGI0R_EL1 and ICC_ASGI1R_EL1 are the same with one security state: they make group 0 SGIs.
    GenerateSgi(usize),
}

impl SystemRegister {
    /// The register with an encoding: op0, op1, CRn, CRm, op2 packed as in the instruction.
    pub fn decode(encoding: u16) -> Option<Self> {
        if encoding >> 11 != 0b11_000 {
            return None;
        }
        let n = u32::from(encoding & 3);
        Some(match (encoding >> 7 & 15, encoding >> 3 & 15, encoding & 7) {
            (4, 6, 0) => Self::PriorityMask,
            (12, 8, 0) => Self::Acknowledge(0),
            (12, 8, 1) => Self::EndOfInterrupt(0),
            (12, 8, 2) => Self::HighestPending(0),
            (12, 8, 3) => Self::BinaryPoint(0),
            (12, 8, 4..=7) => Self::ActivePriorities(0, n),
            (12, 9, 0..=3) => Self::ActivePriorities(1, n),
            (12, 11, 1) => Self::Deactivate,
            (12, 11, 3) => Self::RunningPriority,
            (12, 11, 5) => Self::GenerateSgi(1),
            (12, 11, 6 | 7) => Self::GenerateSgi(0),
            (12, 12, 0) => Self::Acknowledge(1),
            (12, 12, 1) => Self::EndOfInterrupt(1),
            (12, 12, 2) => Self::HighestPending(1),
            (12, 12, 3) => Self::BinaryPoint(1),
            (12, 12, 4) => Self::Control,
            (12, 12, 5) => Self::Enable,
            (12, 12, 6) => Self::GroupEnable(0),
            (12, 12, 7) => Self::GroupEnable(1),
            _ => return None,
        })
    }
}

/// The registers of one vCPU's interface.
#[derive(Debug, Clone)]
pub struct CpuInterface {
    mask: u8,
    enabled: [bool; 2],
    binary_point: [u8; 2],
    /// EOImode and CBPR.
    control: u64,
    /// Group and priority of what is active, in the order of acknowledgement.
    active: Vec<(usize, u8)>,
}

impl Default for CpuInterface {
    fn default() -> Self {
        Self {
            mask: 0,
            enabled: [false; 2],
            binary_point: LOWEST_BINARY_POINT,
            control: 0,
            active: Vec::new(),
        }
    }
}

impl CpuInterface {
    fn running_priority(&self) -> u8 {
        self.active.iter().map(|(_, priority)| *priority).min().unwrap_or(IDLE)
    }

    /// The bits of a priority that decide on preemption.
    fn group_priority(&self, group: usize, priority: u8) -> u8 {
        let common = self.control & CTLR_CBPR != 0;
        let point = self.binary_point.get(if common { 0 } else { group }).copied().unwrap_or_default();
        // Group 1's own binary point counts one bit less.
        let bits = if group == 0 || common { point + 1 } else { point };
        priority & (0xff_u16 << bits.min(8)) as u8
    }

    /// Whether a pending interrupt with this priority is signalled.
    pub fn admits(&self, group: usize, priority: u8) -> bool {
        let enabled = self.enabled.get(group).copied().unwrap_or(false);
        let running = self.running_priority();
        let preempts = running == IDLE || self.group_priority(group, priority) < running;
        enabled && priority < self.mask && preempts
    }

    /// The active priorities of a group as a bit mask, of which there is one word.
    fn active_priorities(&self, group: usize, word: u32) -> u64 {
        let of_group = self.active.iter().filter(|(of, _)| *of == group && word == 0);
        of_group.fold(0, |bits, (_, priority)| bits | 1 << (priority >> 3))
    }
}

impl Cpu {
    /// Ends the interrupt of the highest priority that runs, if it is one of this group.
    fn drop_priority(&mut self, group: usize) {
        let active = &mut self.interface.active;
        let lowest = active.iter().enumerate().min_by_key(|(_, (_, priority))| *priority);
        if let Some((at, (of, _))) = lowest
            && *of == group
        {
            active.remove(at);
        }
    }
}

impl State {
    pub(super) fn read_system(&mut self, index: usize, register: SystemRegister) -> Option<u64> {
        let interface = &self.cpus.get(index)?.interface;
        Some(match register {
            SystemRegister::PriorityMask => interface.mask.into(),
            SystemRegister::Acknowledge(group) => self.acknowledge(index, group).into(),
            SystemRegister::HighestPending(group) => {
                self.highest(index, group).map_or(SPURIOUS, |(intid, _)| intid).into()
            }
            SystemRegister::BinaryPoint(group) => {
                interface.binary_point.get(group).copied().unwrap_or_default().into()
            }
            SystemRegister::ActivePriorities(group, word) => interface.active_priorities(group, word),
            SystemRegister::RunningPriority => interface.running_priority().into(),
            SystemRegister::Control => CTLR | interface.control,
            SystemRegister::Enable => SRE,
            SystemRegister::GroupEnable(group) => {
                interface.enabled.get(group).copied().unwrap_or(false).into()
            }
            SystemRegister::EndOfInterrupt(_)
            | SystemRegister::Deactivate
            | SystemRegister::GenerateSgi(_) => return None,
        })
    }

    pub(super) fn write_system(&mut self, index: usize, register: SystemRegister, value: u64) -> Option<()> {
        let cpu = self.cpus.get_mut(index)?;
        let interface = &mut cpu.interface;
        match register {
            SystemRegister::PriorityMask => interface.mask = value as u8 & PRIORITY_BITS,
            SystemRegister::BinaryPoint(group) => {
                let lowest = LOWEST_BINARY_POINT.get(group).copied().unwrap_or_default();
                if let Some(point) = interface.binary_point.get_mut(group) {
                    *point = (value as u8 & 7).max(lowest);
                }
            }
            // What software restores is nothing, at its start.
            SystemRegister::ActivePriorities(group, 0) if value == 0 => {
                interface.active.retain(|(of, _)| *of != group);
            }
            SystemRegister::ActivePriorities(..) | SystemRegister::Enable => {}
            SystemRegister::Control => interface.control = value & (CTLR_EOI_MODE | CTLR_CBPR),
            SystemRegister::GroupEnable(group) => {
                if let Some(enabled) = interface.enabled.get_mut(group) {
                    *enabled = value & 1 != 0;
                }
            }
            SystemRegister::EndOfInterrupt(group) => {
                let deactivates = interface.control & CTLR_EOI_MODE == 0;
                if value < SPURIOUS.into() {
                    cpu.drop_priority(group);
                    if deactivates {
                        self.deactivate(index, value);
                    }
                }
            }
            SystemRegister::Deactivate => self.deactivate(index, value),
            SystemRegister::GenerateSgi(group) => self.generate_sgi(index, group, value),
            SystemRegister::Acknowledge(_)
            | SystemRegister::HighestPending(_)
            | SystemRegister::RunningPriority => return None,
        }
        Some(())
    }

    /// Makes the interrupt that is signalled active, and gives its INTID.
    fn acknowledge(&mut self, index: usize, group: usize) -> u32 {
        let Some((intid, priority)) = self.highest(index, group) else { return SPURIOUS };
        let Some(cpu) = self.cpus.get_mut(index) else { return SPURIOUS };
        let interface = &mut cpu.interface;
        if !interface.admits(group, priority) || interface.active.len() >= MAX_ACTIVE {
            return SPURIOUS;
        }
        let priority = interface.group_priority(group, priority);
        interface.active.push((group, priority));
        if let Some((bank, number)) = self.bank(index, intid) {
            bank.acknowledge(number);
        }
        intid
    }

    fn deactivate(&mut self, index: usize, intid: u64) {
        // INTIDs beyond 32 bits are none.
        let Ok(intid) = u32::try_from(intid) else { return };
        if let Some((bank, number)) = self.bank(index, intid) {
            bank.deactivate(number);
        }
    }

    /// ICC_SGI1R_EL1's fields: the target list and the affinities above it, or all but the sender.
    fn generate_sgi(&mut self, sender: usize, group: usize, value: u64) {
        let intid = (value >> 24 & 15) as u32;
        let to_all_others = value >> 40 & 1 != 0;
        let cluster = (value >> 48 & 0xff) << 32 | (value >> 32 & 0xff) << 16 | (value >> 16 & 0xff) << 8;
        // RS: which 16 of the 256 vCPUs of the cluster.
        let range = value >> 44 & 15;
        for (index, cpu) in self.cpus.iter_mut().enumerate() {
            let within = cpu.affinity & 0xff;
            let is_target = if to_all_others {
                index != sender
            } else {
                cpu.affinity & !0xff == cluster && within >> 4 == range && value >> (within & 15) & 1 != 0
            };
            // A register makes SGIs of its own group only.
            if is_target && usize::from(cpu.private.is_group_1(intid)) == group {
                cpu.private.pend(intid);
            }
        }
    }
}

//! A local APIC's registers and what happens inside it. No locks, no other APICs: what must happen
//! outside is an `Action`.

use std::time::Instant;

use super::bus::Delivery;
use super::timer::{Mode as TimerMode, Timer};
use super::vectors::Vectors;

/// Integrated APIC, version 0x14, with six LVT entries.
const VERSION: u32 = 0x14 | (LVTS as u32 - 1) << 16;

/// Number of LVT entries: timer, thermal, performance, LINT0, LINT1, error.
const LVTS: usize = 6;
const LVT_TIMER: usize = 0;
pub(super) const LVT_LINT0: usize = 3;
const LVT_LINT1: usize = 4;
const LVT_ERROR: usize = 5;
pub(super) const LVT_MASKED: u32 = 1 << 16;

/// What software can write in each LVT entry.
const LVT_WRITABLE: [u32; LVTS] = [0x7_00FF, 0x1_07FF, 0x1_07FF, 0x1_A7FF, 0x1_A7FF, 0x1_00FF];
/// Delivery status and remote IRR: they are read-only but not reserved.
const LVT_READ_ONLY: u32 = 1 << 12 | 1 << 14;

const SVR_ENABLED: u32 = 1 << 8;
/// Vector, enable and focus checking.
const SVR_WRITABLE: u32 = 0x3FF;

pub(super) const ERROR_SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
const ERROR_RECEIVED_ILLEGAL_VECTOR: u32 = 1 << 6;
const ERROR_ILLEGAL_REGISTER: u32 = 1 << 7;

/// A register's number: its offset in the xAPIC page divided by 16, or its MSR less 0x800.
pub(super) mod index {
    pub(in super::super) const ID: u32 = 0x02;
    pub(in super::super) const VERSION: u32 = 0x03;
    pub(in super::super) const TPR: u32 = 0x08;
    pub(in super::super) const APR: u32 = 0x09;
    pub(in super::super) const PPR: u32 = 0x0A;
    pub(in super::super) const EOI: u32 = 0x0B;
    pub(in super::super) const RRD: u32 = 0x0C;
    pub(in super::super) const LDR: u32 = 0x0D;
    pub(in super::super) const DFR: u32 = 0x0E;
    pub(in super::super) const SVR: u32 = 0x0F;
    pub(in super::super) const ISR: u32 = 0x10;
    pub(in super::super) const TMR: u32 = 0x18;
    pub(in super::super) const IRR: u32 = 0x20;
    pub(in super::super) const ESR: u32 = 0x28;
    pub(in super::super) const ICR_LOW: u32 = 0x30;
    pub(in super::super) const ICR_HIGH: u32 = 0x31;
    pub(in super::super) const LVT: u32 = 0x32;
    pub(in super::super) const LVT_LAST: u32 = 0x37;
    pub(in super::super) const TIMER_INITIAL: u32 = 0x38;
    pub(in super::super) const TIMER_CURRENT: u32 = 0x39;
    pub(in super::super) const TIMER_DIVIDE: u32 = 0x3E;
    pub(in super::super) const SELF_IPI: u32 = 0x3F;
}

/// How the registers are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// The APIC is disabled by its base MSR.
    Disabled,
    /// The page.
    XApic,
    /// The MSRs.
    X2Apic,
}

/// What a register write makes happen outside this APIC, or to the vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    None,
    /// A level-triggered vector was serviced.
    Eoi(u8),
    /// The ICR was written.
    Ipi(u64),
}

/// A write that must fault in x2APIC mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reserved;

#[derive(Debug)]
pub(super) struct Registers {
    id: u32,
    pub(super) access: Access,
    tpr: u8,
    ldr: u32,
    dfr: u32,
    svr: u32,
    isr: Vectors,
    tmr: Vectors,
    irr: Vectors,
    esr: u32,
    /// Errors since the last write to the ESR.
    errors: u32,
    icr: u64,
    pub(super) lvt: [u32; LVTS],
    pub(super) timer: Timer,
    /// An LVT entry delivered an NMI.
    pub(super) nmi: bool,
}

impl Registers {
    /// The state after reset. The boot processor's LINT0 takes the 8259 pair's INTR and its LINT1 the NMI,
    /// although the APIC is software-disabled: virtual wire, as KVM sets it up without firmware.
    pub(super) fn new(id: u32, is_bsp: bool, access: Access) -> Self {
        let mut lvt = [LVT_MASKED; LVTS];
        if is_bsp {
            lvt[LVT_LINT0] = 7 << 8;
            lvt[LVT_LINT1] = 4 << 8;
        }
        let mut registers = Self {
            id,
            access,
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xFF,
            isr: Vectors::default(),
            tmr: Vectors::default(),
            irr: Vectors::default(),
            esr: 0,
            errors: 0,
            icr: 0,
            lvt,
            timer: Timer::default(),
            nmi: false,
        };
        registers.set_access(access);
        registers
    }

    pub(super) fn set_access(&mut self, access: Access) {
        self.access = access;
        if access == Access::X2Apic {
            self.ldr = (self.id >> 4) << 16 | 1 << (self.id & 0xF);
        }
    }

    pub(super) fn is_software_enabled(&self) -> bool {
        self.svr & SVR_ENABLED != 0
    }

    pub(super) fn tpr(&self) -> u8 {
        self.tpr
    }

    pub(super) fn set_tpr(&mut self, tpr: u8) {
        self.tpr = tpr;
    }

    pub(super) fn ppr(&self) -> u8 {
        let service = self.isr.highest().unwrap_or(0) & 0xF0;
        if self.tpr & 0xF0 >= service { self.tpr } else { service }
    }

    /// The vector that the vCPU can take now.
    pub(super) fn deliverable(&self) -> Option<u8> {
        if self.access == Access::Disabled {
            return None;
        }
        self.irr.highest().filter(|vector| vector & 0xF0 > self.ppr() & 0xF0)
    }

    pub(super) fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.deliverable()?;
        self.irr.set(vector, false);
        self.isr.set(vector, true);
        Some(vector)
    }

    /// Takes a fixed interrupt.
    pub(super) fn accept(&mut self, vector: u8, level_triggered: bool) {
        if vector < 16 {
            self.error(ERROR_RECEIVED_ILLEGAL_VECTOR);
        } else if self.is_software_enabled() && self.access != Access::Disabled {
            self.tmr.set(vector, level_triggered);
            self.irr.set(vector, true);
        }
    }

    pub(super) fn error(&mut self, bit: u32) {
        self.errors |= bit;
        let lvt = self.lvt[LVT_ERROR];
        // An illegal vector here would be an error again.
        if lvt & 0xFF >= 16 {
            self.deliver_lvt(lvt & !0x700);
        }
    }

    fn deliver_lvt(&mut self, lvt: u32) {
        if lvt & LVT_MASKED != 0 {
            return;
        }
        match Delivery::of(lvt) {
            Delivery::Fixed => self.accept((lvt & 0xFF) as u8, false),
            Delivery::Nmi => self.nmi = true,
            _ => {}
        }
    }

    /// Lets the timer fire if it is due.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.timer.expire(now) {
            self.deliver_lvt(self.lvt[LVT_TIMER] & !0x700);
        }
    }

    pub(super) fn matches_logical(&self, address: u32) -> bool {
        match self.access {
            Access::Disabled => false,
            Access::X2Apic => self.ldr >> 16 == address >> 16 && self.ldr & address & 0xFFFF != 0,
            Access::XApic => {
                let (own, address) = (self.ldr >> 24, address & 0xFF);
                match self.dfr >> 28 {
                    0xF => own & address != 0,
                    0x0 => own >> 4 == address >> 4 && own & address & 0xF != 0,
                    _ => false,
                }
            }
        }
    }

    /// Reads a register; `None` is one that does not exist or is write-only in this mode.
    pub(super) fn read(&self, register: u32, now: Instant) -> Option<u32> {
        let x2apic = self.access == Access::X2Apic;
        Some(match register {
            index::ID if x2apic => self.id,
            index::ID => self.id << 24,
            index::VERSION => VERSION,
            index::TPR => u32::from(self.tpr),
            index::PPR => u32::from(self.ppr()),
            index::APR | index::RRD | index::EOI if !x2apic => 0,
            index::LDR => self.ldr,
            index::DFR if !x2apic => self.dfr,
            index::SVR => self.svr,
            index::ISR..index::TMR => self.isr.word(register - index::ISR),
            index::TMR..index::IRR => self.tmr.word(register - index::TMR),
            index::IRR..index::ESR => self.irr.word(register - index::IRR),
            index::ESR => self.esr,
            index::ICR_LOW => self.icr as u32,
            index::ICR_HIGH if !x2apic => (self.icr >> 32) as u32,
            index::LVT..=index::LVT_LAST => self.lvt.get((register - index::LVT) as usize).copied()?,
            index::TIMER_INITIAL => self.timer.initial(),
            index::TIMER_CURRENT => self.timer.current(now),
            index::TIMER_DIVIDE => self.timer.divide(),
            _ => return None,
        })
    }

    /// The whole ICR, as x2APIC mode reads it.
    pub(super) fn icr(&self) -> u64 {
        self.icr
    }

    /// A write in xAPIC mode. Reserved bits and read-only registers are ignored.
    pub(super) fn write_page(&mut self, register: u32, value: u32, now: Instant) -> Action {
        match register {
            index::LDR => self.ldr = value & 0xFF00_0000,
            index::DFR => self.dfr = value | 0x0FFF_FFFF,
            index::ICR_HIGH => self.icr = self.icr & 0xFFFF_FFFF | u64::from(value & 0xFF00_0000) << 32,
            index::ICR_LOW => {
                self.icr = self.icr & !0xFFFF_FFFF | u64::from(value & !(1 << 12));
                return Action::Ipi(self.icr);
            }
            index::SELF_IPI => self.error(ERROR_ILLEGAL_REGISTER),
            _ if self.read(register, now).is_none() => self.error(ERROR_ILLEGAL_REGISTER),
            _ => return self.write(register, value, now),
        }
        Action::None
    }

    /// A read in xAPIC mode.
    pub(super) fn read_page(&mut self, register: u32, now: Instant) -> u32 {
        self.read(register, now).unwrap_or_else(|| {
            self.error(ERROR_ILLEGAL_REGISTER);
            0
        })
    }

    /// A write in x2APIC mode.
    pub(super) fn write_msr(&mut self, register: u32, value: u64, now: Instant) -> Result<Action, Reserved> {
        if register == index::ICR_LOW {
            self.icr = value & !(1 << 12);
            return Ok(Action::Ipi(self.icr));
        }
        let value = u32::try_from(value).map_err(|_| Reserved)?;
        let allowed = match register {
            index::EOI | index::ESR => 0,
            index::TPR | index::SELF_IPI => 0xFF,
            // Focus checking and EOI suppression are tolerated, as other hypervisors do.
            index::SVR => SVR_WRITABLE | 1 << 12,
            index::LVT..=index::LVT_LAST => {
                LVT_READ_ONLY | LVT_WRITABLE.get((register - index::LVT) as usize).ok_or(Reserved)?
            }
            index::TIMER_INITIAL => u32::MAX,
            index::TIMER_DIVIDE => 0xB,
            // Read-only or not there.
            _ => return Err(Reserved),
        };
        if value & !allowed != 0 {
            return Err(Reserved);
        }
        if register == index::SELF_IPI {
            // Fixed, to oneself.
            return Ok(Action::Ipi(u64::from(value) | 1 << 18));
        }
        Ok(self.write(register, value, now))
    }

    /// The registers that both modes write alike.
    fn write(&mut self, register: u32, value: u32, now: Instant) -> Action {
        match register {
            index::TPR => self.tpr = (value & 0xFF) as u8,
            index::EOI => return self.eoi(),
            index::SVR => {
                self.svr = value & SVR_WRITABLE;
                if !self.is_software_enabled() {
                    for lvt in &mut self.lvt {
                        *lvt |= LVT_MASKED;
                    }
                }
            }
            index::ESR => self.esr = std::mem::take(&mut self.errors),
            index::LVT..=index::LVT_LAST => self.write_lvt((register - index::LVT) as usize, value, now),
            index::TIMER_INITIAL => self.timer.set_initial(value, now),
            index::TIMER_DIVIDE => self.timer.set_divide(value, now),
            _ => {}
        }
        Action::None
    }

    fn write_lvt(&mut self, number: usize, value: u32, now: Instant) {
        if number == LVT_TIMER {
            // A count that has ended does not go on in another mode.
            self.expire(now);
        }
        let (Some(lvt), Some(writable)) = (self.lvt.get_mut(number), LVT_WRITABLE.get(number)) else {
            return;
        };
        *lvt = value & writable;
        if self.svr & SVR_ENABLED == 0 {
            *lvt |= LVT_MASKED;
        }
        if number == LVT_TIMER {
            self.timer.set_mode(TimerMode::of_lvt(value), now);
        }
    }

    fn eoi(&mut self) -> Action {
        let Some(vector) = self.isr.highest() else { return Action::None };
        self.isr.set(vector, false);
        if self.tmr.contains(vector) { Action::Eoi(vector) } else { Action::None }
    }
}

//! The bus between the local APICs: interrupt messages and interprocessor interrupts find their way.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use super::{Lapic, LapicSetup};
use crate::accel::{MsiMessage, MsiSink};

/// The delivery modes of messages and of the ICR (Intel SDM vol. 3, 11.6.1 and 11.11.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    Fixed,
    LowestPriority,
    Smi,
    Reserved,
    Nmi,
    Init,
    StartUp,
    ExtInt,
}

impl Delivery {
    /// From bits 8 to 10 of a message, an ICR or an LVT entry.
    pub(super) fn of(bits: u32) -> Self {
        match bits >> 8 & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            3 => Self::Reserved,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            _ => Self::ExtInt,
        }
    }
}

/// Who gets a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Destination {
    All,
    /// All but the one with this id.
    Others(u32),
    Physical(u32),
    Logical(u32),
}

/// A message on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) delivery: Delivery,
    pub(super) vector: u8,
    pub(super) level_triggered: bool,
}

/// All local APICs of a machine.
#[derive(Default)]
pub struct ApicBus {
    /// Weak, because the APICs hold the bus and the interrupt controllers, which hold the bus.
    lapics: RwLock<Vec<Weak<Lapic>>>,
    /// Where the search for the lowest priority starts, so that equals take turns.
    turn: AtomicUsize,
}

impl ApicBus {
    /// A bus without APICs.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Makes the local APIC of a vCPU. It is on the bus until it is dropped.
    #[must_use]
    pub fn add(self: &Arc<Self>, setup: LapicSetup) -> Arc<Lapic> {
        let lapic = Arc::new(Lapic::new(Arc::clone(self), setup));
        let mut lapics = self.lapics.write().unwrap_or_else(PoisonError::into_inner);
        lapics.retain(|lapic| lapic.strong_count() > 0);
        lapics.push(Arc::downgrade(&lapic));
        lapic
    }

    /// Whether there is an APIC with this id that takes messages.
    pub(super) fn has(&self, id: u32) -> bool {
        let lapics = self.lapics.read().unwrap_or_else(PoisonError::into_inner);
        lapics.iter().filter_map(Weak::upgrade).any(|lapic| lapic.is_present() && lapic.id() == id)
    }

    /// Delivers `message`. The caller holds no APIC's lock.
    pub(super) fn deliver(&self, destination: Destination, message: Message) {
        let lapics = self.lapics.read().unwrap_or_else(PoisonError::into_inner);
        let matching = lapics.iter().filter_map(Weak::upgrade).filter(|lapic| match destination {
            Destination::All => lapic.is_present(),
            Destination::Others(id) => lapic.is_present() && lapic.id() != id,
            Destination::Physical(id) => lapic.is_present() && lapic.id() == id,
            Destination::Logical(address) => lapic.matches_logical(address),
        });
        if message.delivery == Delivery::LowestPriority {
            let candidates: Vec<_> =
                matching.filter_map(|lapic| Some((lapic.arbitration()?, lapic))).collect();
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % candidates.len().max(1);
            let (before, after) = candidates.split_at(turn);
            if let Some((_, lapic)) = after.iter().chain(before).min_by_key(|(priority, _)| *priority) {
                lapic.receive(message);
            }
        } else {
            matching.for_each(|lapic| lapic.receive(message));
        }
    }
}

impl MsiSink for ApicBus {
    fn signal_msi(&self, message: MsiMessage) {
        let low = (message.address >> 12 & 0xFF) as u32;
        let address = low | (message.address >> 32) as u32 & 0xFFFF_FF00;
        let destination = match address {
            0xFF | u32::MAX => Destination::All,
            _ if message.address & 4 != 0 => Destination::Logical(address),
            _ => Destination::Physical(address),
        };
        let level_triggered = message.data & 1 << 15 != 0;
        if level_triggered && message.data & 1 << 14 == 0 {
            // A level's end is no interrupt.
            return;
        }
        let vector = (message.data & 0xFF) as u8;
        self.deliver(destination, Message { delivery: Delivery::of(message.data), vector, level_triggered });
    }
}

//! What the vCPUs of a machine on Apple silicon share: PSCI, the GIC, and the way to wake each other.

#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::psci::Psci;
use crate::accel::SpiLines;
use crate::accel::arm64::{GICD, GICD_BYTES, GICR, GICR_BYTES, SPIS, affinity};
use crate::accel::hvf::wakeup::Wakeup;
use crate::devices::irqchip::gicv3::GicV3;
use crate::memory::GuestMemory;

/// The INTID of the virtual timer.
pub const VIRTUAL_TIMER: u32 = 27;

/// Who has the GIC.
pub enum Interrupts {
    /// The framework, from macOS 15 on.
    Framework,
    /// This program.
    Own(GicV3),
}

impl Interrupts {
    /// A load from a register of ours; false if there is none at `gpa`.
    pub fn read(&self, gpa: u64, data: &mut [u8]) -> bool {
        let Self::Own(gic) = self else { return false };
        match place(gpa, gic.cpus()) {
            Some(Place::Distributor(offset)) => gic.read_distributor(offset, data),
            Some(Place::Redistributor(offset)) => gic.read_redistributor(offset, data),
            None => return false,
        }
        true
    }

    /// A store to a register of ours; false if there is none at `gpa`.
    pub fn write(&self, gpa: u64, data: &[u8]) -> bool {
        let Self::Own(gic) = self else { return false };
        match place(gpa, gic.cpus()) {
            Some(Place::Distributor(offset)) => gic.write_distributor(offset, data),
            Some(Place::Redistributor(offset)) => gic.write_redistributor(offset, data),
            None => return false,
        }
        true
    }
}

/// A register of the GIC.
enum Place {
    Distributor(u64),
    Redistributor(u64),
}

fn place(gpa: u64, cpus: u64) -> Option<Place> {
    let within = |base: u64, bytes: u64| gpa.checked_sub(base).filter(|offset| *offset < bytes);
    within(GICD, GICD_BYTES)
        .map(Place::Distributor)
        .or_else(|| within(GICR, cpus * GICR_BYTES).map(Place::Redistributor))
}

/// One machine.
pub struct Machine {
    /// The power states.
    pub psci: Psci,
    /// The GIC.
    pub interrupts: Interrupts,
    /// RAM, to look at instructions.
    pub memory: GuestMemory,
}

/// The machine, once it is known how many vCPUs it has, and its vCPUs' wake-ups.
#[derive(Default)]
pub struct Shared {
    machine: OnceLock<Arc<Machine>>,
    wakeups: Mutex<Vec<Arc<Wakeup>>>,
}

impl Shared {
    /// The machine.
    pub fn machine(&self) -> Option<Arc<Machine>> {
        self.machine.get().cloned()
    }

    /// Makes the machine of `cpus` vCPUs, if it is not made yet.
    pub fn make(self: &Arc<Self>, cpus: u32, framework_has_gic: bool, memory: &GuestMemory) -> Arc<Machine> {
        let make = || {
            let interrupts = if framework_has_gic {
                Interrupts::Framework
            } else {
                let affinities: Vec<u64> = (0..cpus).map(affinity).collect();
                let gic = GicV3::new(&affinities, SPIS);
                // Weak, because the machine is owned by what it would own.
                let shared = Arc::downgrade(self);
                gic.set_wake(Box::new(move |cpu| {
                    if let Some(shared) = shared.upgrade() {
                        shared.wake(cpu);
                    }
                }));
                Interrupts::Own(gic)
            };
            Arc::new(Machine { psci: Psci::new(cpus), interrupts, memory: memory.clone() })
        };
        Arc::clone(self.machine.get_or_init(make))
    }

    /// Adds the wake-up of the next vCPU.
    pub fn add(&self, wakeup: Arc<Wakeup>) {
        self.wakeups.lock().unwrap_or_else(PoisonError::into_inner).push(wakeup);
    }

    /// Makes a vCPU look at its interrupts.
    pub fn wake(&self, cpu: u32) {
        let wakeup = self.wakeups.lock().unwrap_or_else(PoisonError::into_inner).get(cpu as usize).cloned();
        if let Some(wakeup) = wakeup {
            wakeup.ring();
        }
    }

    /// Makes every vCPU look at its interrupts.
    #[cfg(target_os = "macos")]
    pub fn wake_all(&self) {
        let wakeups = self.wakeups.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for wakeup in wakeups {
            wakeup.ring();
        }
    }
}

/// The lines of a GIC of ours.
pub struct OwnLines(pub Arc<Shared>);

impl SpiLines for OwnLines {
    fn set_spi(&self, spi: u32, level: bool) {
        // Before there is a machine, nothing can raise a line.
        if let Some(machine) = self.0.machine()
            && let Interrupts::Own(gic) = &machine.interrupts
        {
            gic.set_spi(spi, level);
        }
    }
}

//! The software CPU as a backend.

use std::sync::{Arc, PoisonError};

use super::coherence::Peer;
use super::ram::{HostRange, Ram};
use super::state::{Cpu, pending};
use super::system::System;
use super::system::cpuid::Topology;
use super::system::time::Clock;
use super::vcpu::SoftVcpu;
use super::wakeup::{Alarm, Wakeup};
use crate::accel::{Accel, AccelError, AccelKind, AccelResult, GuestArch, InterruptSink, MsiSink, VcpuSetup};
use crate::devices::irqchip::lapic::{ApicBus, LapicSetup};
use crate::devices::timer::HostClock;
use crate::memory::GuestMemory;

/// A virtual machine on the software CPU.
pub struct SoftBackend {
    ram: Option<Arc<Ram>>,
    apics: Arc<ApicBus>,
    clock: Clock,
    alarm: Arc<Alarm>,
}

impl SoftBackend {
    /// Creates a virtual machine.
    ///
    /// # Errors
    /// When the host has no thread for the timers.
    pub fn new() -> AccelResult<Self> {
        let alarm = Arc::new(Alarm::default());
        let watched = Arc::clone(&alarm);
        std::thread::Builder::new()
            .name("apic-timers".into())
            .spawn(move || watched.watch())
            .map_err(|source| AccelError::Host { operation: "starting a thread", source })?;
        Ok(Self { ram: None, apics: ApicBus::new(), clock: Clock::default(), alarm })
    }

    /// Takes host memory as guest RAM, in place of `map_memory`.
    ///
    /// # Safety
    /// The ranges stay mapped, for reads and writes, as long as this virtual machine or a vCPU of it lives,
    /// and all of the program takes them for memory that changes at any time.
    pub unsafe fn map_host(&mut self, ranges: &[HostRange]) {
        // SAFETY: the caller promises what is asked for.
        self.ram = Some(unsafe { Ram::of_host(ranges) });
    }
}

impl Drop for SoftBackend {
    fn drop(&mut self) {
        self.alarm.end();
    }
}

impl Accel for SoftBackend {
    type Vcpu = SoftVcpu;

    fn kind(&self) -> AccelKind {
        AccelKind::Soft
    }

    fn guest(&self) -> GuestArch {
        GuestArch::X86_64
    }

    fn map_memory(&mut self, memory: &GuestMemory) -> AccelResult<()> {
        self.ram = Some(Ram::new(memory));
        Ok(())
    }

    fn create_vcpu(&mut self, id: u32, setup: &VcpuSetup) -> AccelResult<SoftVcpu> {
        let Some(ram) = &self.ram else {
            return Err(AccelError::Unusable {
                what: "the software CPU".into(),
                reason: "it has no memory".into(),
                remedy: "Map memory before the first vCPU".into(),
            });
        };
        let mut cpu = Cpu::new(id, Arc::clone(ram));
        cpu.system = System::new(Topology { apic_id: id, cpus: setup.cpus }, self.clock);
        let wakeup = Arc::new(Wakeup::default());
        let (woken, alarm, clock) = (Arc::clone(&wakeup), Arc::clone(&self.alarm), self.clock);
        let lapic = self.apics.add(LapicSetup {
            id,
            is_bsp: id == 0,
            clock: Arc::new(HostClock),
            tsc: Arc::new(move |tsc| clock.instant(tsc)),
            interrupts: Arc::clone(&setup.interrupts),
            wake: Arc::new(move || woken.raise(pending::INTERRUPT)),
            timer_changed: Arc::new(move || alarm.changed()),
        });
        self.alarm.add(&lapic);
        cpu.pending = wakeup.events();
        let peer = Peer::new(id, wakeup.events());
        ram.peers.write().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&peer));
        cpu.peer = Some(peer);
        cpu.lapic = lapic;
        cpu.interrupts = Arc::clone(&setup.interrupts);
        cpu.waits_for_sipi = id != 0;
        Ok(SoftVcpu::new(cpu, wakeup))
    }

    fn interrupt_sink(&self) -> InterruptSink {
        InterruptSink::Lapic(Arc::clone(&self.apics) as Arc<dyn MsiSink>)
    }
}

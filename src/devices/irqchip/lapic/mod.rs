//! The local APIC of a vCPU whose backend has none: xAPIC page, x2APIC MSRs, timer, interprocessor
//! interrupts (Intel SDM vol. 3, chapter 11).

#![forbid(unsafe_code)]

mod bus;
mod registers;
mod timer;
mod vectors;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use thiserror::Error;

use crate::accel::InterruptController;
use crate::devices::lock;
use crate::devices::timer::{Clock, Waker};
use bus::{Delivery, Destination, Message};
use registers::{Access, Action, ERROR_SEND_ILLEGAL_VECTOR, LVT_LINT0, LVT_MASKED, Registers, index};

pub use bus::ApicBus;
pub use timer::FREQUENCY as TIMER_FREQUENCY;

/// The guest-physical address of the page after reset.
pub const DEFAULT_BASE: u64 = 0xFEE0_0000;

/// Length of the page in bytes.
pub const PAGE_LEN: u64 = 0x1000;

/// `IA32_APIC_BASE`.
pub const MSR_APIC_BASE: u32 = 0x1B;
/// `IA32_TSC_DEADLINE`.
pub const MSR_TSC_DEADLINE: u32 = 0x6E0;
/// The first x2APIC register's MSR.
pub const MSR_X2APIC_FIRST: u32 = 0x800;
/// The last MSR that is kept for x2APIC registers.
pub const MSR_X2APIC_LAST: u32 = 0x8FF;

const BASE_BSP: u64 = 1 << 8;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLED: u64 = 1 << 11;
/// Bits 12 to 51: no processor has more physical address bits.
const BASE_ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;

/// An interrupt waits, and the processor priority lets it through.
pub const EVENT_INTERRUPT: u32 = 1;
/// An NMI came.
pub const EVENT_NMI: u32 = 1 << 1;
/// An INIT came.
pub const EVENT_INIT: u32 = 1 << 2;
/// A start-up IPI came; its vector is in bits 24 to 31.
pub const EVENT_SIPI: u32 = 1 << 3;
/// An ExtINT message came: the 8259 pair has an interrupt for this processor.
pub const EVENT_EXTINT: u32 = 1 << 4;
/// A second NMI came before the first was taken.
const EVENT_NMI_MORE: u32 = 1 << 5;
const SIPI_VECTOR_SHIFT: u32 = 24;

/// The vCPU must take a #GP(0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the MSR access raises #GP(0)")]
pub struct GeneralProtection;

/// Converts a TSC value into the time at which the guest's TSC reaches it; `None` is never.
pub type TscToInstant = Arc<dyn Fn(u64) -> Option<Instant> + Send + Sync>;

/// What a local APIC is made with.
pub struct LapicSetup {
    /// APIC id.
    pub id: u32,
    /// Whether this is the boot processor.
    pub is_bsp: bool,
    /// Time for the timer.
    pub clock: Arc<dyn Clock>,
    /// The guest's TSC.
    pub tsc: TscToInstant,
    /// Where EOIs of level-triggered interrupts go.
    pub interrupts: Arc<dyn InterruptController>,
    /// Wakes the vCPU, after `events` gained something. It must not call back into this APIC.
    pub wake: Waker,
    /// Called after the timer's deadline changed.
    pub timer_changed: Waker,
}

/// A local APIC. Any thread may send to it; registers are accessed by the vCPU's own thread.
pub struct Lapic {
    id: u32,
    is_bsp: bool,
    bus: Arc<ApicBus>,
    clock: Arc<dyn Clock>,
    tsc: TscToInstant,
    interrupts: Arc<dyn InterruptController>,
    wake: Waker,
    timer_changed: Waker,
    /// `EVENT_*` bits. `EVENT_INTERRUPT` changes only while `registers` is locked.
    events: AtomicU32,
    base: AtomicU64,
    registers: Mutex<Registers>,
}

impl Lapic {
    fn new(bus: Arc<ApicBus>, setup: LapicSetup) -> Self {
        let LapicSetup { id, is_bsp, clock, tsc, interrupts, wake, timer_changed } = setup;
        let bsp = if is_bsp { BASE_BSP } else { 0 };
        Self {
            id,
            is_bsp,
            bus,
            clock,
            tsc,
            interrupts,
            wake,
            timer_changed,
            events: AtomicU32::new(0),
            base: AtomicU64::new(DEFAULT_BASE | BASE_ENABLED | bsp),
            registers: Mutex::new(Registers::new(id, is_bsp, Access::XApic)),
        }
    }

    /// The APIC id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// All pending events, as `EVENT_*` bits.
    #[must_use]
    pub fn events(&self) -> u32 {
        self.events.load(Ordering::Relaxed)
    }

    /// Whether `acknowledge` would give a vector. One relaxed load.
    #[must_use]
    pub fn has_interrupt(&self) -> bool {
        self.events() & EVENT_INTERRUPT != 0
    }

    /// Takes the interrupt of the highest priority: it is in service from now on.
    pub fn acknowledge(&self) -> Option<u8> {
        self.with(Registers::acknowledge)
    }

    /// Takes a pending NMI.
    #[must_use]
    pub fn take_nmi(&self) -> bool {
        // In one step, or one that comes in between would be a second one without a first.
        let taken = |events: u32| match events & (EVENT_NMI | EVENT_NMI_MORE) {
            0 => None,
            both if both & EVENT_NMI_MORE != 0 => Some(events & !EVENT_NMI_MORE),
            _ => Some(events & !EVENT_NMI),
        };
        self.events.fetch_update(Ordering::SeqCst, Ordering::SeqCst, taken).is_ok()
    }

    /// Notes that NMIs have been blocked until now: of those that came meanwhile one is left, as a
    /// processor remembers no more. (Two that come together while none is blocked are both taken: on a
    /// processor the first one would be under way when the second comes.)
    pub fn merge_nmis(&self) {
        self.take(EVENT_NMI_MORE);
    }

    /// Takes a pending INIT. The vCPU then calls `init` and waits for a start-up IPI.
    #[must_use]
    pub fn take_init(&self) -> bool {
        self.take(EVENT_INIT) != 0
    }

    /// Takes a pending start-up IPI and gives its vector. A vCPU that does not wait for one drops it.
    #[must_use]
    pub fn take_sipi(&self) -> Option<u8> {
        let events = self.take(EVENT_SIPI | 0xFF << SIPI_VECTOR_SHIFT);
        (events & EVENT_SIPI != 0).then_some((events >> SIPI_VECTOR_SHIFT) as u8)
    }

    /// Whether the 8259 pair's INTR reaches this processor: by LINT0, by an ExtINT message, or because
    /// the APIC is disabled.
    #[must_use]
    pub fn accepts_extint(&self) -> bool {
        if self.events() & EVENT_EXTINT != 0 {
            return true;
        }
        let registers = lock(&self.registers);
        let lint0 = registers.lvt[LVT_LINT0];
        registers.access == Access::Disabled
            || lint0 & LVT_MASKED == 0 && Delivery::of(lint0) == Delivery::ExtInt
    }

    /// Notes that an INTA cycle answered the ExtINT message.
    pub fn extint_taken(&self) {
        self.take(EVENT_EXTINT);
    }

    /// CR8: the upper half of the task priority.
    #[must_use]
    pub fn cr8(&self) -> u8 {
        lock(&self.registers).tpr() >> 4
    }

    /// Sets CR8; its upper bits must be 0, which the vCPU checks.
    pub fn set_cr8(&self, value: u8) {
        self.set_tpr(value << 4);
    }

    /// Sets the task priority register.
    pub fn set_tpr(&self, value: u8) {
        self.with(|registers| registers.set_tpr(value));
    }

    /// The guest-physical address of the register page; `None` while there is none (x2APIC mode or
    /// disabled).
    #[must_use]
    pub fn page(&self) -> Option<u64> {
        let base = self.base.load(Ordering::Relaxed);
        (base & (BASE_ENABLED | BASE_X2APIC) == BASE_ENABLED).then_some(base & BASE_ADDRESS)
    }

    /// `IA32_APIC_BASE`.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base.load(Ordering::Relaxed)
    }

    /// Reads the 32-bit register at `offset` bytes in the page. Offsets that are not a multiple of 16
    /// read as 0; without a page all-ones are read.
    #[must_use]
    pub fn mmio_read(&self, offset: u64) -> u32 {
        let Some(register) = Self::register_at(offset) else { return 0 };
        if self.page().is_none() {
            return u32::MAX;
        }
        let now = self.clock.now();
        self.with(|registers| registers.read_page(register, now))
    }

    /// Writes the 32-bit register at `offset` bytes in the page. Other offsets are ignored.
    pub fn mmio_write(&self, offset: u64, value: u32) {
        let Some(register) = Self::register_at(offset).filter(|_| self.page().is_some()) else { return };
        let now = self.clock.now();
        let action = self.with(|registers| registers.write_page(register, value, now));
        self.perform(action);
    }

    /// Reads any number of bytes from the page: each register's 4 bytes, and 0 between them.
    pub fn mmio_read_bytes(&self, offset: u64, data: &mut [u8]) {
        let mut current: Option<(u64, [u8; 4])> = None;
        let mut at = offset;
        for byte in data {
            let start = at & !0xF;
            let bytes = match current {
                Some((register, bytes)) if register == start => bytes,
                _ => self.mmio_read(start).to_le_bytes(),
            };
            current = Some((start, bytes));
            *byte = usize::try_from(at & 0xF).ok().and_then(|i| bytes.get(i)).copied().unwrap_or(0);
            at = at.wrapping_add(1);
        }
    }

    /// Writes to the page. Only what covers the 4 bytes of a register does something.
    pub fn mmio_write_bytes(&self, offset: u64, data: &[u8]) {
        if let Some(value) = data.first_chunk::<4>() {
            self.mmio_write(offset, u32::from_le_bytes(*value));
        }
    }

    /// Reads `MSR_APIC_BASE`, `MSR_TSC_DEADLINE` or an x2APIC register.
    ///
    /// # Errors
    /// When the MSR does not exist, is write-only, or the APIC is not in x2APIC mode.
    pub fn msr_read(&self, msr: u32) -> Result<u64, GeneralProtection> {
        match msr {
            MSR_APIC_BASE => Ok(self.base()),
            MSR_TSC_DEADLINE => Ok(lock(&self.registers).timer.tsc_deadline()),
            MSR_X2APIC_FIRST..=MSR_X2APIC_LAST => {
                let registers = lock(&self.registers);
                let register = msr - MSR_X2APIC_FIRST;
                match (registers.access, register) {
                    (Access::X2Apic, index::ICR_LOW) => Ok(registers.icr()),
                    (Access::X2Apic, _) => {
                        registers.read(register, self.clock.now()).map(u64::from).ok_or(GeneralProtection)
                    }
                    _ => Err(GeneralProtection),
                }
            }
            _ => Err(GeneralProtection),
        }
    }

    /// Writes `MSR_APIC_BASE`, `MSR_TSC_DEADLINE` or an x2APIC register.
    ///
    /// # Errors
    /// When the MSR does not exist or is read-only, the value has reserved bits, the transition of modes
    /// is illegal, or the APIC is not in x2APIC mode.
    pub fn msr_write(&self, msr: u32, value: u64) -> Result<(), GeneralProtection> {
        let now = self.clock.now();
        match msr {
            MSR_APIC_BASE => self.set_base(value),
            MSR_TSC_DEADLINE => {
                self.with(|registers| {
                    registers.timer.set_tsc_deadline(value, |tsc| (self.tsc)(tsc));
                    registers.expire(now);
                });
                Ok(())
            }
            MSR_X2APIC_FIRST..=MSR_X2APIC_LAST => {
                let action = self.with(|registers| {
                    if registers.access != Access::X2Apic {
                        return Err(GeneralProtection);
                    }
                    let register = msr - MSR_X2APIC_FIRST;
                    registers.write_msr(register, value, now).map_err(|_| GeneralProtection)
                })?;
                self.perform(action);
                Ok(())
            }
            _ => Err(GeneralProtection),
        }
    }

    /// When the timer must be looked at.
    #[must_use]
    pub fn timer_deadline(&self) -> Option<Instant> {
        lock(&self.registers).timer.deadline()
    }

    /// Lets the timer fire if it is due at `now`.
    pub fn timer_expire(&self, now: Instant) {
        self.with(|registers| registers.expire(now));
    }

    /// Power-on reset.
    pub fn reset(&self) {
        let bsp = if self.is_bsp { BASE_BSP } else { 0 };
        self.with(|registers| {
            self.base.store(DEFAULT_BASE | BASE_ENABLED | bsp, Ordering::Relaxed);
            *registers = Registers::new(self.id, self.is_bsp, Access::XApic);
            self.take(!EVENT_INTERRUPT);
        });
    }

    /// INIT: as a reset, but base, mode and a start-up IPI that came meanwhile stay.
    pub fn init(&self) {
        self.with(|registers| {
            *registers = Registers::new(self.id, self.is_bsp, registers.access);
            self.take(EVENT_NMI | EVENT_NMI_MORE | EVENT_EXTINT);
        });
    }

    fn set_base(&self, value: u64) -> Result<(), GeneralProtection> {
        if value & !(BASE_ADDRESS | BASE_ENABLED | BASE_X2APIC | BASE_BSP) != 0 {
            return Err(GeneralProtection);
        }
        self.with(|registers| {
            let access = match (value & BASE_ENABLED != 0, value & BASE_X2APIC != 0) {
                (false, false) => Access::Disabled,
                (true, false) => Access::XApic,
                (true, true) => Access::X2Apic,
                (false, true) => return Err(GeneralProtection),
            };
            match (registers.access, access) {
                (Access::X2Apic, Access::XApic) | (Access::Disabled, Access::X2Apic) => {
                    return Err(GeneralProtection);
                }
                (old, new) if old == new => {}
                // Disabling resets it; the boot processor's virtual wire is gone then, too.
                (_, Access::Disabled) => *registers = Registers::new(self.id, false, Access::Disabled),
                _ => registers.set_access(access),
            }
            let bsp = self.base() & BASE_BSP;
            self.base.store(value & !BASE_BSP | bsp, Ordering::Relaxed);
            Ok(())
        })
    }

    /// The register at an offset in the page.
    fn register_at(offset: u64) -> Option<u32> {
        (offset < PAGE_LEN && offset.is_multiple_of(16)).then(|| u32::try_from(offset / 16).ok()).flatten()
    }

    /// Works on the registers, then brings `events` and the timer's deadline up to date.
    fn with<T>(&self, f: impl FnOnce(&mut Registers) -> T) -> T {
        let mut registers = lock(&self.registers);
        let deadline = registers.timer.deadline();
        let result = f(&mut registers);
        let mut raised = 0;
        if std::mem::take(&mut registers.nmi) {
            raised |= EVENT_NMI;
        }
        if registers.deliverable().is_some() {
            raised |= EVENT_INTERRUPT;
        } else {
            self.take(EVENT_INTERRUPT);
        }
        let new = raised & !self.events.fetch_or(raised, Ordering::SeqCst) != 0;
        let timer_changed = registers.timer.deadline() != deadline;
        drop(registers);
        if new {
            (self.wake)();
        }
        if timer_changed {
            (self.timer_changed)();
        }
        result
    }

    /// Clears events; gives what was pending.
    fn take(&self, events: u32) -> u32 {
        if self.events() & events == 0 {
            return 0;
        }
        self.events.fetch_and(!events, Ordering::SeqCst) & events
    }

    fn raise(&self, event: u32) {
        self.events.fetch_or(event, Ordering::SeqCst);
        (self.wake)();
    }

    fn perform(&self, action: Action) {
        match action {
            Action::None => {}
            Action::Eoi(vector) => self.interrupts.eoi(vector),
            Action::Ipi(icr) => self.send(icr),
        }
    }

    /// Sends what the ICR says.
    fn send(&self, icr: u64) {
        let low = icr as u32;
        let vector = (low & 0xFF) as u8;
        let delivery = Delivery::of(low);
        let (asserts, is_level) = (low & 1 << 14 != 0, low & 1 << 15 != 0);
        match delivery {
            // INIT level de-assert only synchronised the arbitration of old APICs.
            Delivery::Init if is_level && !asserts => return,
            Delivery::Fixed | Delivery::LowestPriority if vector < 16 => {
                self.with(|registers| registers.error(ERROR_SEND_ILLEGAL_VECTOR));
                return;
            }
            Delivery::ExtInt | Delivery::Reserved | Delivery::Smi => return,
            _ => {}
        }
        let x2apic = self.base() & BASE_X2APIC != 0;
        let (address, broadcast) =
            if x2apic { ((icr >> 32) as u32, u32::MAX) } else { ((icr >> 56) as u32, 0xFF) };
        let destination = match low >> 18 & 3 {
            0 if address == broadcast => Destination::All,
            0 if low & 1 << 11 != 0 => Destination::Logical(address),
            0 => Destination::Physical(address),
            1 => Destination::Physical(self.id),
            2 => Destination::All,
            _ => Destination::Others(self.id),
        };
        self.bus.deliver(destination, Message { delivery, vector, level_triggered: false });
    }

    /// Sends the interrupt that the low half of an ICR describes to the processor `id`, as a hypercall
    /// asks for it. Gives whether there is one.
    pub fn send_to(&self, id: u32, icr: u32) -> bool {
        let delivery = Delivery::of(icr);
        let vector = (icr & 0xFF) as u8;
        let sendable = match delivery {
            Delivery::Fixed | Delivery::LowestPriority => vector >= 16,
            Delivery::Nmi => true,
            _ => false,
        };
        let message = Message { delivery: Delivery::Fixed, vector, level_triggered: false };
        let message = if delivery == Delivery::Nmi { Message { delivery, ..message } } else { message };
        self.bus.has(id) && {
            if sendable {
                self.bus.deliver(Destination::Physical(id), message);
            }
            true
        }
    }

    /// Takes a message from the bus.
    fn receive(&self, message: Message) {
        let Message { delivery, vector, level_triggered } = message;
        match delivery {
            Delivery::Fixed | Delivery::LowestPriority => {
                self.with(|registers| registers.accept(vector, level_triggered));
            }
            Delivery::Nmi => {
                let count = |events: u32| {
                    Some(events | if events & EVENT_NMI == 0 { EVENT_NMI } else { EVENT_NMI_MORE })
                };
                // It never fails.
                let _ = self.events.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count);
                (self.wake)();
            }
            Delivery::ExtInt => self.raise(EVENT_EXTINT),
            Delivery::Init => {
                // What was sent before the INIT is void.
                self.take(EVENT_SIPI | 0xFF << SIPI_VECTOR_SHIFT);
                self.raise(EVENT_INIT);
            }
            Delivery::StartUp => {
                // Only the first one until it is taken counts.
                let sipi = EVENT_SIPI | u32::from(vector) << SIPI_VECTOR_SHIFT;
                let first = |events: u32| (events & EVENT_SIPI == 0).then_some(events | sipi);
                if self.events.fetch_update(Ordering::SeqCst, Ordering::SeqCst, first).is_ok() {
                    (self.wake)();
                }
            }
            Delivery::Smi | Delivery::Reserved => {}
        }
    }

    /// Whether messages reach it.
    fn is_present(&self) -> bool {
        self.base() & BASE_ENABLED != 0
    }

    fn matches_logical(&self, address: u32) -> bool {
        lock(&self.registers).matches_logical(address)
    }

    /// Its priority for lowest-priority delivery; `None` if it takes no fixed interrupts.
    fn arbitration(&self) -> Option<u8> {
        let registers = lock(&self.registers);
        registers.is_software_enabled().then(|| registers.ppr())
    }
}

#[cfg(test)]
mod tests;

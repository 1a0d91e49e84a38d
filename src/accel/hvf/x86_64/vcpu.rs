//! A vCPU on Intel: what it runs into, and what becomes of that.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::controls::{INTERRUPT_WINDOW, set_up};
use super::cpu::Cpu;
use super::cpuid::{self, Guest, Leaf, XCR0_ALL};
use super::exit::{CrAccess, EptViolation, Event, IoAccess, Reason};
use super::msr::{self, Msrs, is_pat};
use super::registers::{
    self, CR0_ET, CR0_PG, CR4_PAE, CR4_VMXE, EFER_LMA, EFER_LME, by_encoding, cr0, cr4, set_cr0, set_cr4,
};
use super::vmcs::{
    CTRL_CPU_BASED, ENTRY_ERROR, ENTRY_EVENT, ENTRY_LENGTH, EXIT_LENGTH, EXIT_QUALIFICATION, EXIT_REASON,
    GUEST_ACTIVITY, GUEST_CR3, GUEST_IA32_EFER, GUEST_IA32_PAT, GUEST_INTERRUPTIBILITY, GUEST_PDPTE0,
    GUEST_PHYSICAL_ADDRESS, IDT_VECTORING, IDT_VECTORING_ERROR,
};
use crate::accel::ffi::hvf::x86_64::{HV_X86_RAX, HV_X86_RFLAGS, HV_X86_RIP, HV_X86_XCR0};
use crate::accel::hvf::error::HvResult;
use crate::accel::hvf::wakeup::Wakeup;
use crate::accel::soft::{Access, Emulator, Registers, Step};
use crate::accel::{
    Activity, FpuRegs, GuestRegs, InterruptController, Kick, Segment, SpecialRegs, VcpuError, VcpuExit,
    VcpuOps, VcpuResult, X86Regs, X86SpecialRegs,
};
use crate::devices::irqchip::lapic::{
    EVENT_INIT, EVENT_NMI, EVENT_SIPI, Lapic, MSR_APIC_BASE, MSR_X2APIC_FIRST, MSR_X2APIC_LAST, PAGE_LEN,
};
use crate::memory::GuestMemory;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// RFLAGS: the bit that is always 1, and the interrupt flag.
const RFLAGS_ONE: u64 = 1 << 1;
const RFLAGS_IF: u64 = 1 << 9;
/// Interruptibility: blocking by STI and by MOV SS; by NMI.
const BLOCKED_SHORTLY: u64 = 0b11;
const BLOCKED_NMI: u64 = 1 << 3;
/// EFER's bits: SCE, LME, LMA, NXE.
const EFER_ALL: u64 = 1 | EFER_LME | EFER_LMA | 1 << 11;
/// CR4.OSXSAVE.
const CR4_OSXSAVE: u64 = 1 << 18;
/// PAT after a reset.
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// CR0 after a reset: caches off, extension type.
const CR0_RESET: u64 = 0x6000_0010;
/// RIP and RFLAGS after a reset, and CS.
const RESET_RIP: u64 = 0xfff0;

/// CPUID of the host.
pub type HostCpuid = fn(u32, u32) -> Leaf;

/// What a vCPU is made of.
pub struct Parts<C> {
    /// Its number.
    pub id: u32,
    /// How many there are.
    pub cpus: u32,
    /// The framework's vCPU.
    pub cpu: C,
    /// Ends its runs.
    pub wakeup: Arc<Wakeup>,
    /// Its APIC.
    pub lapic: Arc<Lapic>,
    /// The machine's interrupt controllers.
    pub interrupts: Arc<dyn InterruptController>,
    /// RAM.
    pub memory: GuestMemory,
    /// CPUID of the host.
    pub host_cpuid: HostCpuid,
}

/// What the caller has been asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Given {
    Nothing,
    /// IN of so many bytes to RAX.
    Input(u8),
    /// An access of the instruction that is emulated.
    EmulatedRead(u8),
    EmulatedWrite,
}

/// What a run ends with.
enum End {
    Interrupted,
    Halted,
    IoIn { port: u16, size: u8 },
    IoOut { port: u16, size: u8, value: u32 },
    MmioRead { gpa: u64, size: u8 },
    MmioWrite { gpa: u64, size: u8, value: u64 },
    Shutdown,
    Failure { rip: u64, bytes: Vec<u8> },
    Unexpected(String),
}

/// A vCPU.
pub struct HvfVcpu<C> {
    parts: Parts<C>,
    msrs: Msrs,
    emulator: Emulator,
    /// An instruction is under way in the emulator, which was loaded with this.
    loaded: Option<Box<Registers>>,
    /// What the next entry delivers.
    event: Option<Event>,
    given: Given,
    data: [u8; 8],
    is_set_up: bool,
    halted: bool,
    told_halted: bool,
    waits_for_sipi: bool,
}

impl<C: Cpu> HvfVcpu<C> {
    /// A vCPU that has not run yet.
    pub fn new(parts: Parts<C>) -> Self {
        Self {
            emulator: Emulator::new(parts.id, &parts.memory),
            waits_for_sipi: parts.id != 0,
            parts,
            msrs: Msrs::default(),
            loaded: None,
            event: None,
            given: Given::Nothing,
            data: [0; 8],
            is_set_up: false,
            halted: false,
            told_halted: false,
        }
    }

    fn error(&self) -> impl FnOnce(crate::accel::hvf::error::HvError) -> VcpuError + use<C> {
        let id = self.parts.id;
        move |error| error.of_vcpu(id)
    }

    /// Sets controls and registers, the first time that the vCPU is touched on its thread.
    fn set_up(&mut self) -> HvResult<()> {
        if self.is_set_up {
            return Ok(());
        }
        set_up(&mut self.parts.cpu)?;
        self.parts.cpu.set_vmcs(GUEST_IA32_PAT, PAT_RESET)?;
        self.is_set_up = true;
        self.reset()
    }

    /// The state after a reset, which INIT gives, too.
    fn reset(&mut self) -> HvResult<()> {
        let data = Segment { limit: 0xffff, type_: 3, present: true, s: true, ..Segment::default() };
        let code = Segment { selector: 0xf000, base: 0xffff_0000, type_: 11, ..data };
        let special = X86SpecialRegs {
            cs: code,
            ds: data,
            es: data,
            fs: data,
            gs: data,
            ss: data,
            cr0: CR0_RESET,
            ..X86SpecialRegs::default()
        };
        let cpu = &mut self.parts.cpu;
        registers::set_special(cpu, &special)?;
        let regs = X86Regs { rip: RESET_RIP, rflags: RFLAGS_ONE, ..X86Regs::default() };
        regs.write_each(|reg, value| cpu.set_reg(reg, value))?;
        cpu.set_vmcs(GUEST_INTERRUPTIBILITY, 0)?;
        cpu.set_vmcs(GUEST_ACTIVITY, 0)?;
        self.event = None;
        self.loaded = None;
        Ok(())
    }

    /// Goes behind the instruction that exited. What it held off, STI and MOV SS, ends there.
    fn advance(&mut self) -> HvResult<()> {
        let cpu = &mut self.parts.cpu;
        let rip = cpu.reg(HV_X86_RIP)?.wrapping_add(cpu.vmcs(EXIT_LENGTH)?);
        cpu.set_reg(HV_X86_RIP, rip)?;
        let blocked = cpu.vmcs(GUEST_INTERRUPTIBILITY)?;
        cpu.set_vmcs(GUEST_INTERRUPTIBILITY, blocked & !BLOCKED_SHORTLY)
    }

    /// Takes over the answer to the last exit. Gives an end if an emulated instruction needs another one.
    fn take_answer(&mut self) -> HvResult<Option<End>> {
        let value = u64::from_le_bytes(self.data);
        match std::mem::replace(&mut self.given, Given::Nothing) {
            Given::Nothing => Ok(None),
            Given::Input(size) => {
                let rax = self.parts.cpu.reg(HV_X86_RAX)?;
                let value = match size {
                    1 => rax & !0xff | value & 0xff,
                    2 => rax & !0xffff | value & 0xffff,
                    // A 32-bit result clears the upper half.
                    _ => value & 0xffff_ffff,
                };
                self.parts.cpu.set_reg(HV_X86_RAX, value)?;
                self.advance()?;
                Ok(None)
            }
            Given::EmulatedRead(size) => {
                let unused = 64 - 8 * u32::from(size.clamp(1, 8));
                self.emulator.answer(Some(value << unused >> unused));
                self.emulate()
            }
            Given::EmulatedWrite => {
                self.emulator.answer(None);
                self.emulate()
            }
        }
    }

    /// Runs until the caller is needed.
    fn run_until_end(&mut self) -> HvResult<End> {
        self.set_up()?;
        if let Some(end) = self.take_answer()? {
            return Ok(end);
        }
        loop {
            // First, so that what rings from here on is seen in the next round.
            self.parts.wakeup.silence();
            if self.parts.wakeup.take_kick() {
                return Ok(End::Interrupted);
            }
            self.take_startup()?;
            if self.waits_for_sipi {
                self.parts.wakeup.sleep(None);
                continue;
            }
            self.offer_interrupts()?;
            if self.halted {
                if !self.told_halted && self.parts.cpu.reg(HV_X86_RFLAGS)? & RFLAGS_IF == 0 {
                    self.told_halted = true;
                    return Ok(End::Halted);
                }
                self.parts.wakeup.sleep(None);
                continue;
            }
            self.told_halted = false;
            self.inject()?;
            self.parts.cpu.run()?;
            self.keep_interrupted_event()?;
            if let Some(end) = self.answer()? {
                return Ok(end);
            }
        }
    }

    /// INIT and the start-up IPI (Intel SDM vol. 3, 9.4).
    fn take_startup(&mut self) -> HvResult<()> {
        if self.parts.lapic.events() & (EVENT_INIT | EVENT_SIPI) == 0 {
            return Ok(());
        }
        if self.parts.lapic.take_init() {
            self.parts.lapic.init();
            self.reset()?;
            self.halted = false;
            self.waits_for_sipi = true;
        }
        if let Some(vector) = self.parts.lapic.take_sipi()
            && self.waits_for_sipi
        {
            let cpu = &mut self.parts.cpu;
            let mut special = registers::special(cpu, 0, 0)?;
            special.cs.selector = u16::from(vector) << 8;
            special.cs.base = u64::from(vector) << 12;
            registers::set_special(cpu, &special)?;
            cpu.set_reg(HV_X86_RIP, 0)?;
            self.waits_for_sipi = false;
        }
        Ok(())
    }

    /// Takes what the interrupt controllers have for this vCPU, or asks for an exit when it can be taken.
    fn offer_interrupts(&mut self) -> HvResult<()> {
        let Parts { cpu, lapic, interrupts, id, .. } = &mut self.parts;
        let blocked = cpu.vmcs(GUEST_INTERRUPTIBILITY)?;
        let is_free = self.event.is_none() && blocked & BLOCKED_SHORTLY == 0;
        if lapic.events() & EVENT_NMI != 0 && is_free && blocked & BLOCKED_NMI == 0 && lapic.take_nmi() {
            self.event = Some(Event::nmi());
            self.halted = false;
            return Ok(());
        }
        let extint = *id == 0 && interrupts.extint_pending() && lapic.accepts_extint();
        let waits = lapic.has_interrupt() || extint;
        if waits && is_free && cpu.reg(HV_X86_RFLAGS)? & RFLAGS_IF != 0 {
            let vector = if lapic.has_interrupt() {
                lapic.acknowledge()
            } else {
                lapic.extint_taken();
                interrupts.extint_acknowledge()
            };
            self.event = vector.map(Event::interrupt);
            self.halted &= self.event.is_none();
            return Ok(());
        }
        let controls = cpu.vmcs(CTRL_CPU_BASED)?;
        let wanted = if waits { controls | INTERRUPT_WINDOW } else { controls & !INTERRUPT_WINDOW };
        if wanted != controls {
            cpu.set_vmcs(CTRL_CPU_BASED, wanted)?;
        }
        Ok(())
    }

    /// Gives the event to the next entry.
    fn inject(&mut self) -> HvResult<()> {
        let Some(event) = self.event.take() else { return Ok(()) };
        let cpu = &mut self.parts.cpu;
        cpu.set_vmcs(ENTRY_EVENT, event.information)?;
        cpu.set_vmcs(ENTRY_ERROR, event.error)?;
        cpu.set_vmcs(ENTRY_LENGTH, event.length)
    }

    /// An event that an exit interrupted is delivered by the next entry.
    fn keep_interrupted_event(&mut self) -> HvResult<()> {
        let cpu = &self.parts.cpu;
        let vectoring = cpu.vmcs(IDT_VECTORING)?;
        self.event = Event::interrupted(vectoring, cpu.vmcs(IDT_VECTORING_ERROR)?, cpu.vmcs(EXIT_LENGTH)?);
        Ok(())
    }

    /// What becomes of an exit; `None` if the guest goes on.
    fn answer(&mut self) -> HvResult<Option<End>> {
        let field = self.parts.cpu.vmcs(EXIT_REASON)?;
        let qualification = self.parts.cpu.vmcs(EXIT_QUALIFICATION)?;
        match Reason::decode(field) {
            // The host's own matter, or something to look at in the next round.
            Reason::ExceptionOrNmi
            | Reason::ExternalInterrupt
            | Reason::InterruptWindow
            | Reason::NmiWindow
            | Reason::PreemptionTimer => {}
            Reason::TripleFault => return Ok(Some(End::Shutdown)),
            Reason::Cpuid => self.cpuid()?,
            Reason::Hlt => {
                self.advance()?;
                self.halted = true;
            }
            Reason::CacheFlush | Reason::Pause => self.advance()?,
            Reason::Rdpmc => self.event = Some(Event::general_protection()),
            Reason::Vmx | Reason::Mwait => self.event = Some(Event::undefined()),
            Reason::ControlRegister => self.control_register(CrAccess::decode(qualification))?,
            Reason::Io => return self.io(IoAccess::decode(qualification)),
            Reason::Rdmsr => self.rdmsr()?,
            Reason::Wrmsr => self.wrmsr()?,
            Reason::Xsetbv => self.xsetbv()?,
            Reason::EptViolation => {
                let gpa = self.parts.cpu.vmcs(GUEST_PHYSICAL_ADDRESS)?;
                // The framework maps RAM when it is touched; the access is tried again.
                if self.parts.memory.address_in_range(GuestAddress(gpa)) {
                    return Ok(None);
                }
                if EptViolation::decode(qualification).is_fetch {
                    // Nothing is there to be executed.
                    let base = registers::special(&self.parts.cpu, 0, 0)?.cs.base;
                    let rip = self.parts.cpu.reg(HV_X86_RIP)?.wrapping_add(base);
                    return Ok(Some(End::Failure { rip, bytes: Vec::new() }));
                }
                return self.begin_emulation();
            }
            Reason::EntryFailure | Reason::Other(_) => {
                return Ok(Some(End::Unexpected(format!(
                    "VMX exit reason {field:#x}, qualification {qualification:#x}"
                ))));
            }
        }
        Ok(None)
    }

    /// Half of a general register, as instructions with EDX:EAX use them.
    fn half(&self, gpr: u8) -> HvResult<u32> {
        Ok(self.parts.cpu.reg(by_encoding(gpr))? as u32)
    }

    fn cpuid(&mut self) -> HvResult<()> {
        let (leaf, subleaf) = (self.half(0)?, self.half(1)?);
        let guest = Guest {
            id: self.parts.id,
            cpus: self.parts.cpus,
            osxsave: cr4(&self.parts.cpu)? & CR4_OSXSAVE != 0,
            xcr0: self.parts.cpu.reg(HV_X86_XCR0)?,
        };
        let Leaf { eax, ebx, ecx, edx } = cpuid::answer(self.parts.host_cpuid, leaf, subleaf, guest);
        for (gpr, value) in [(0, eax), (3, ebx), (1, ecx), (2, edx)] {
            self.parts.cpu.set_reg(by_encoding(gpr), value.into())?;
        }
        self.advance()
    }

    fn control_register(&mut self, access: CrAccess) -> HvResult<()> {
        let Parts { cpu, lapic, memory, .. } = &mut self.parts;
        match access {
            CrAccess::Write { cr: 0, gpr } => {
                let value = cpu.reg(by_encoding(gpr))?;
                set_cr0(cpu, value)?;
                load_pdptes(cpu, memory)?;
                cpu.flush_tlb()?;
            }
            CrAccess::Write { cr: 3, gpr } => {
                let value = cpu.reg(by_encoding(gpr))?;
                cpu.set_vmcs(GUEST_CR3, value)?;
                load_pdptes(cpu, memory)?;
                cpu.flush_tlb()?;
            }
            CrAccess::Write { cr: 4, gpr } => {
                let value = cpu.reg(by_encoding(gpr))?;
                if value & CR4_VMXE != 0 {
                    self.event = Some(Event::general_protection());
                    return Ok(());
                }
                set_cr4(cpu, value)?;
                load_pdptes(cpu, memory)?;
            }
            CrAccess::Write { cr: 8, gpr } => {
                let value = cpu.reg(by_encoding(gpr))?;
                if value > 15 {
                    self.event = Some(Event::general_protection());
                    return Ok(());
                }
                lapic.set_cr8(value as u8);
            }
            CrAccess::Read { cr: 3, gpr } => {
                let value = cpu.vmcs(GUEST_CR3)?;
                cpu.set_reg(by_encoding(gpr), value)?;
            }
            CrAccess::Read { cr: 8, gpr } => cpu.set_reg(by_encoding(gpr), lapic.cr8().into())?,
            CrAccess::Clts => {
                let value = cr0(cpu)? & !(1 << 3);
                set_cr0(cpu, value)?;
            }
            CrAccess::Lmsw(source) => {
                // It sets PE, MP, EM and TS, and cannot clear PE.
                let old = cr0(cpu)?;
                set_cr0(cpu, old & !0b1110 | u64::from(source) & 0xf)?;
            }
            CrAccess::Write { .. } | CrAccess::Read { .. } => {
                self.event = Some(Event::undefined());
                return Ok(());
            }
        }
        self.advance()
    }

    fn io(&mut self, access: IoAccess) -> HvResult<Option<End>> {
        let IoAccess { port, size, .. } = access;
        if access.is_string {
            return self.begin_emulation();
        }
        if access.is_input {
            return Ok(Some(End::IoIn { port, size }));
        }
        let value = self.half(0)?;
        self.advance()?;
        Ok(Some(End::IoOut { port, size, value }))
    }

    fn rdmsr(&mut self) -> HvResult<()> {
        let number = self.half(1)?;
        let value = match number {
            MSR_APIC_BASE | MSR_X2APIC_FIRST..=MSR_X2APIC_LAST => self.parts.lapic.msr_read(number).ok(),
            msr::EFER => Some(self.parts.cpu.vmcs(GUEST_IA32_EFER)?),
            msr::PAT => Some(self.parts.cpu.vmcs(GUEST_IA32_PAT)?),
            _ => self.msrs.read(number),
        };
        let Some(value) = value else {
            log::debug!("vCPU {}: rdmsr {number:#x}: #GP", self.parts.id);
            self.event = Some(Event::general_protection());
            return Ok(());
        };
        self.parts.cpu.set_reg(by_encoding(0), value & 0xffff_ffff)?;
        self.parts.cpu.set_reg(by_encoding(2), value >> 32)?;
        self.advance()
    }

    fn wrmsr(&mut self) -> HvResult<()> {
        let number = self.half(1)?;
        let value = u64::from(self.half(2)?) << 32 | u64::from(self.half(0)?);
        let cpu = &mut self.parts.cpu;
        let done = match number {
            MSR_APIC_BASE | MSR_X2APIC_FIRST..=MSR_X2APIC_LAST => {
                self.parts.lapic.msr_write(number, value).ok()
            }
            msr::EFER => {
                let old = cpu.vmcs(GUEST_IA32_EFER)?;
                let changes_mode = (value ^ old) & EFER_LME != 0 && cr0(cpu)? & CR0_PG != 0;
                if value & !EFER_ALL != 0 || changes_mode {
                    None
                } else {
                    cpu.set_vmcs(GUEST_IA32_EFER, value & !EFER_LMA | old & EFER_LMA)?;
                    Some(())
                }
            }
            msr::PAT if is_pat(value) => {
                cpu.set_vmcs(GUEST_IA32_PAT, value)?;
                Some(())
            }
            msr::PAT => None,
            _ => self.msrs.write(number, value),
        };
        if done.is_none() {
            log::debug!("vCPU {}: wrmsr {number:#x} of {value:#x}: #GP", self.parts.id);
            self.event = Some(Event::general_protection());
            return Ok(());
        }
        self.advance()
    }

    fn xsetbv(&mut self) -> HvResult<()> {
        let value = u64::from(self.half(2)?) << 32 | u64::from(self.half(0)?);
        // x87 is always on, and AVX needs SSE.
        let is_valid = value & !XCR0_ALL == 0 && value & 1 != 0 && value & 0b110 != 0b100;
        if self.half(1)? != 0 || !is_valid {
            self.event = Some(Event::general_protection());
            return Ok(());
        }
        self.parts.cpu.set_reg(HV_X86_XCR0, value)?;
        self.advance()
    }

    /// Gives the present instruction to the software CPU.
    fn begin_emulation(&mut self) -> HvResult<Option<End>> {
        let registers = self.all_registers()?;
        if let Err(error) = self.emulator.load(&registers) {
            return Ok(Some(End::Unexpected(error.to_string())));
        }
        self.loaded = Some(Box::new(registers));
        self.emulate()
    }

    /// Executes on, up to the end of the instruction or the next access that the caller has to answer.
    fn emulate(&mut self) -> HvResult<Option<End>> {
        loop {
            match self.emulator.step() {
                Step::Access(Access::IoIn { port, size }) => return Ok(Some(End::IoIn { port, size })),
                Step::Access(Access::IoOut { port, size, value }) => {
                    return Ok(Some(End::IoOut { port, size, value }));
                }
                Step::Access(Access::MmioRead { gpa, size }) => {
                    let Some(offset) = self.apic_offset(gpa) else {
                        return Ok(Some(End::MmioRead { gpa, size }));
                    };
                    let mut data = [0; 8];
                    let bytes = data.get_mut(..usize::from(size)).unwrap_or_default();
                    self.parts.lapic.mmio_read_bytes(offset, bytes);
                    self.emulator.answer(Some(u64::from_le_bytes(data)));
                }
                Step::Access(Access::MmioWrite { gpa, size, value }) => {
                    let Some(offset) = self.apic_offset(gpa) else {
                        return Ok(Some(End::MmioWrite { gpa, size, value }));
                    };
                    let data = value.to_le_bytes();
                    let bytes = data.get(..usize::from(size)).unwrap_or_default();
                    self.parts.lapic.mmio_write_bytes(offset, bytes);
                    self.emulator.answer(None);
                }
                Step::Done => return self.write_back(),
                Step::Unimplemented { rip, bytes } => return Ok(Some(End::Failure { rip, bytes })),
                Step::TripleFault => return Ok(Some(End::Shutdown)),
            }
        }
    }

    /// Where in the APIC's page an address is.
    fn apic_offset(&self, gpa: u64) -> Option<u64> {
        gpa.checked_sub(self.parts.lapic.page()?).filter(|offset| *offset < PAGE_LEN)
    }

    fn all_registers(&self) -> HvResult<Registers> {
        let cpu = &self.parts.cpu;
        let lapic = &self.parts.lapic;
        Ok(Registers {
            general: X86Regs::read_each(|reg| cpu.reg(reg))?,
            special: registers::special(cpu, lapic.cr8().into(), lapic.base())?,
            fpu: registers::fpu(&cpu.xsave()?),
        })
    }

    /// Takes the registers back from the software CPU, as far as they have changed.
    fn write_back(&mut self) -> HvResult<Option<End>> {
        let Some(before) = self.loaded.take() else { return Ok(None) };
        let after = match self.emulator.registers(before.special.apic_base) {
            Ok(after) => after,
            Err(error) => return Ok(Some(End::Unexpected(error.to_string()))),
        };
        let Parts { cpu, .. } = &mut self.parts;
        if after.general != before.general {
            after.general.write_each(|reg, value| cpu.set_reg(reg, value))?;
        }
        // The software CPU has a CR8 of its own, and CR0.ET is always 1 there.
        let (new, old) = (after.special, before.special);
        let new = X86SpecialRegs { cr8: old.cr8, cr0: new.cr0 | CR0_ET, ..new };
        if new != (X86SpecialRegs { cr0: old.cr0 | CR0_ET, ..old }) {
            registers::set_special(cpu, &new)?;
        }
        if after.fpu != before.fpu {
            let mut area = cpu.xsave()?;
            registers::set_fpu(&mut area, &after.fpu);
            cpu.set_xsave(&area)?;
        }
        let blocked = cpu.vmcs(GUEST_INTERRUPTIBILITY)?;
        cpu.set_vmcs(GUEST_INTERRUPTIBILITY, blocked & !BLOCKED_SHORTLY)?;
        Ok(None)
    }

    /// The framework's vCPU.
    #[cfg(test)]
    pub fn cpu_mut(&mut self) -> &mut C {
        &mut self.parts.cpu
    }
}

/// Loads the page directory pointers, where paging is PAE's: with EPT a processor does so at MOV to CR3 only.
fn load_pdptes(cpu: &mut impl Cpu, memory: &GuestMemory) -> HvResult<()> {
    let paging = cr0(cpu)? & CR0_PG != 0 && cr4(cpu)? & CR4_PAE != 0;
    if !paging || cpu.vmcs(GUEST_IA32_EFER)? & EFER_LMA != 0 {
        return Ok(());
    }
    let table = cpu.vmcs(GUEST_CR3)? & 0xffff_ffe0;
    for index in 0..4_u32 {
        // Outside of RAM it is not present, and the guest faults.
        let entry: u64 = memory.read_obj(GuestAddress(table + 8 * u64::from(index))).unwrap_or(0);
        cpu.set_vmcs(GUEST_PDPTE0 + 2 * index, u64::from_le(entry))?;
    }
    Ok(())
}

impl<C: Cpu> VcpuOps for HvfVcpu<C> {
    fn get_id(&self) -> u32 {
        self.parts.id
    }

    fn run(&mut self) -> VcpuResult<VcpuExit<'_>> {
        let id = self.parts.id;
        let end = self.run_until_end().map_err(|error| error.of_vcpu(id))?;
        let emulates = self.loaded.is_some();
        Ok(match end {
            End::Interrupted => VcpuExit::Interrupted,
            End::Halted => VcpuExit::Hlt,
            End::IoIn { port, size } => {
                self.given = if emulates { Given::EmulatedRead(size) } else { Given::Input(size) };
                VcpuExit::IoIn { port, data: self.ask(size) }
            }
            End::MmioRead { gpa, size } => {
                self.given = Given::EmulatedRead(size);
                VcpuExit::MmioRead { gpa, data: self.ask(size) }
            }
            End::IoOut { port, size, value } => {
                self.given = if emulates { Given::EmulatedWrite } else { Given::Nothing };
                VcpuExit::IoOut { port, data: self.give(value.into(), size) }
            }
            End::MmioWrite { gpa, size, value } => {
                self.given = Given::EmulatedWrite;
                VcpuExit::MmioWrite { gpa, data: self.give(value, size) }
            }
            End::Shutdown => VcpuExit::Shutdown,
            End::Failure { rip, bytes } => VcpuExit::EmulationFailure { rip, bytes },
            End::Unexpected(what) => return Err(VcpuError::Unexpected { id, what }),
        })
    }

    fn get_regs(&self) -> VcpuResult<GuestRegs> {
        let cpu = &self.parts.cpu;
        X86Regs::read_each(|reg| cpu.reg(reg)).map(GuestRegs::X86_64).map_err(self.error())
    }

    fn set_regs(&mut self, regs: &GuestRegs) -> VcpuResult<()> {
        let GuestRegs::X86_64(regs) = regs else { return Err(VcpuError::OtherGuest { id: self.parts.id }) };
        let error = self.error();
        // The instruction that was being answered is not the next one any more.
        self.given = Given::Nothing;
        self.loaded = None;
        self.event = None;
        self.halted = false;
        let set = |vcpu: &mut Self| {
            vcpu.set_up()?;
            let cpu = &mut vcpu.parts.cpu;
            regs.write_each(|reg, value| cpu.set_reg(reg, value))?;
            cpu.set_reg(HV_X86_RFLAGS, regs.rflags | RFLAGS_ONE)?;
            cpu.set_vmcs(GUEST_INTERRUPTIBILITY, 0)
        };
        set(self).map_err(error)
    }

    fn get_fpu_regs(&self) -> VcpuResult<FpuRegs> {
        let area = self.parts.cpu.xsave().map_err(self.error())?;
        Ok(FpuRegs::X86_64(registers::fpu(&area)))
    }

    fn set_fpu_regs(&mut self, regs: &FpuRegs) -> VcpuResult<()> {
        let FpuRegs::X86_64(regs) = regs else { return Err(VcpuError::OtherGuest { id: self.parts.id }) };
        let mut area = self.parts.cpu.xsave().map_err(self.error())?;
        registers::set_fpu(&mut area, regs);
        self.parts.cpu.set_xsave(&area).map_err(self.error())
    }

    fn get_special_regs(&self) -> VcpuResult<SpecialRegs> {
        let Parts { cpu, lapic, .. } = &self.parts;
        let special = registers::special(cpu, lapic.cr8().into(), lapic.base()).map_err(self.error())?;
        Ok(SpecialRegs::X86_64(special))
    }

    fn set_special_regs(&mut self, regs: &SpecialRegs) -> VcpuResult<()> {
        let SpecialRegs::X86_64(regs) = regs else { return Err(VcpuError::OtherGuest { id: self.parts.id }) };
        let error = self.error();
        let set = |vcpu: &mut Self| {
            vcpu.set_up()?;
            let Parts { cpu, lapic, memory, .. } = &mut vcpu.parts;
            registers::set_special(cpu, regs)?;
            lapic.set_cr8(regs.cr8 as u8 & 15);
            // A loader that does not care leaves it 0.
            if regs.apic_base != 0 && regs.apic_base != lapic.base() {
                let _ = lapic.msr_write(MSR_APIC_BASE, regs.apic_base);
            }
            load_pdptes(cpu, memory)
        };
        set(self).map_err(error)
    }

    fn activity(&self) -> VcpuResult<Activity> {
        if self.waits_for_sipi {
            return Ok(Activity::WaitForStart);
        }
        if !self.halted {
            return Ok(Activity::Running);
        }
        let rflags = self.parts.cpu.reg(HV_X86_RFLAGS).map_err(self.error())?;
        Ok(if rflags & RFLAGS_IF == 0 { Activity::HaltedForever } else { Activity::Halted })
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::clone(&self.parts.wakeup) as Arc<dyn Kick>
    }
}

impl<C: Cpu> HvfVcpu<C> {
    /// Presets the bytes that the caller fills.
    fn ask(&mut self, size: u8) -> &mut [u8] {
        self.data = [0; 8];
        self.data.get_mut(..usize::from(size)).unwrap_or_default()
    }

    fn give(&mut self, value: u64, size: u8) -> &[u8] {
        self.data = value.to_le_bytes();
        self.data.get(..usize::from(size)).unwrap_or_default()
    }
}

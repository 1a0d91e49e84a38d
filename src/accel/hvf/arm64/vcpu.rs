//! A vCPU on Apple silicon: what it runs into, and what becomes of that.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cpu::Cpu;
use super::inject::{Raise, raise};
use super::machine::{Interrupts, Machine, Shared, VIRTUAL_TIMER};
use super::psci::{Answer, Start};
use super::registers::{self, CNTV_CTL_EL0, CNTV_CVAL_EL0, SCTLR_EL1, SCTLR_RESET};
use super::syndrome::{Access, DataAbort, Exception, SystemAccess};
use super::traps::{Effect, effect};
use crate::accel::arm64::parked;
use crate::accel::ffi::hvf::arm64::{
    Exit, HV_EXIT_REASON_CANCELED, HV_EXIT_REASON_EXCEPTION, HV_EXIT_REASON_VTIMER_ACTIVATED, HV_REG_CPSR,
    HV_REG_PC, Reg,
};
use crate::accel::hvf::error::HvResult;
use crate::accel::hvf::wakeup::Wakeup;
use crate::accel::{
    Activity, FpuRegs, GuestRegs, Kick, SpecialRegs, SystemEvent, VcpuError, VcpuExit, VcpuOps, VcpuResult,
};

/// The register that reads as zero and takes no value.
const ZERO: u8 = 31;
/// CNTV_CTL_EL0: enabled, masked, condition met.
const TIMER_ENABLE: u64 = 1 << 0;
const TIMER_MASKED: u64 = 1 << 1;
const TIMER_MET: u64 = 1 << 2;
/// PSTATE of a vCPU that is started: EL1h with all interrupts masked.
const PSTATE_START: u64 = 0x3c5;
/// How long a WFI lasts at most when the framework has the GIC: it does not say when an interrupt comes.
const BLIND_WAIT: Duration = Duration::from_millis(1);

/// What the caller has been asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Given {
    Nothing,
    Read(Access),
    Write,
}

/// What a run ends with.
enum End {
    Interrupted,
    Read { gpa: u64, access: Access },
    Write { gpa: u64, size: u8, value: u64 },
    System(SystemEvent),
    Failure,
    Unexpected(String),
}

/// A vCPU.
pub struct HvfVcpu<C> {
    id: u32,
    cpu: C,
    shared: Arc<Shared>,
    wakeup: Arc<Wakeup>,
    given: Given,
    data: [u8; 8],
    /// WFI waits for an interrupt.
    waiting: bool,
    /// The framework has masked the virtual timer, because its condition was met.
    timer_fired: bool,
}

impl<C: Cpu> HvfVcpu<C> {
    /// vCPU `id` of a machine, on the framework's `cpu`. `wakeup` ends its runs.
    pub fn new(id: u32, cpu: C, shared: Arc<Shared>, wakeup: Arc<Wakeup>) -> Self {
        Self {
            id,
            cpu,
            shared,
            wakeup,
            given: Given::Nothing,
            data: [0; 8],
            waiting: false,
            timer_fired: false,
        }
    }

    /// A general register as an operand.
    fn operand(&self, register: u8) -> HvResult<u64> {
        if register == ZERO { Ok(0) } else { self.cpu.reg(Reg::from(register)) }
    }

    fn set_operand(&mut self, register: u8, value: u64) -> HvResult<()> {
        if register == ZERO { Ok(()) } else { self.cpu.set_reg(Reg::from(register), value) }
    }

    /// Goes behind the present instruction.
    fn advance(&mut self) -> HvResult<()> {
        let pc = self.cpu.reg(HV_REG_PC)?;
        self.cpu.set_reg(HV_REG_PC, pc.wrapping_add(4))
    }

    /// Takes over the answer to the last exit.
    fn take_answer(&mut self) -> HvResult<()> {
        match std::mem::replace(&mut self.given, Given::Nothing) {
            Given::Nothing => Ok(()),
            Given::Read(access) => {
                self.set_operand(access.register, access.extend(u64::from_le_bytes(self.data)))?;
                self.advance()
            }
            Given::Write => self.advance(),
        }
    }

    /// Runs until the caller is needed.
    fn run_until_end(&mut self, machine: &Machine) -> HvResult<End> {
        self.take_answer()?;
        loop {
            // First, so that what rings from here on is seen in the next round.
            self.wakeup.silence();
            if self.wakeup.take_kick() {
                return Ok(End::Interrupted);
            }
            if !machine.psci.is_on(self.id) {
                match machine.psci.take_start(self.id) {
                    Some(start) => self.start(start)?,
                    None => {
                        self.wakeup.sleep(None);
                        continue;
                    }
                }
            }
            let signalled = self.offer_interrupts(machine)?;
            if self.waiting && !signalled && !self.wait(machine)? {
                continue;
            }
            self.waiting = false;
            let exit = self.cpu.run()?;
            if let Some(end) = self.answer(machine, exit)? {
                return Ok(end);
            }
        }
    }

    /// Puts the registers where PSCI starts a vCPU.
    fn start(&mut self, start: Start) -> HvResult<()> {
        self.waiting = false;
        self.cpu.set_sys_reg(SCTLR_EL1, SCTLR_RESET)?;
        self.cpu.set_reg(HV_REG_CPSR, PSTATE_START)?;
        self.cpu.set_reg(HV_REG_PC, start.entry)?;
        self.cpu.set_reg(0, start.context)
    }

    /// Gives the interrupt lines of a GIC of ours to the framework; says whether one is signalled.
    fn offer_interrupts(&mut self, machine: &Machine) -> HvResult<bool> {
        let Interrupts::Own(gic) = &machine.interrupts else { return Ok(false) };
        if self.timer_fired {
            let met = TIMER_ENABLE | TIMER_MET;
            let is_met = self.cpu.sys_reg(CNTV_CTL_EL0)? & (met | TIMER_MASKED) == met;
            gic.set_ppi(self.id, VIRTUAL_TIMER, is_met);
            if !is_met {
                self.timer_fired = false;
                self.cpu.mask_virtual_timer(false)?;
            }
        }
        let signals = gic.signals(self.id);
        // The framework forgets the lines at each exit.
        self.cpu.set_lines(signals.irq, signals.fiq)?;
        Ok(signals.irq || signals.fiq)
    }

    /// Sleeps in WFI. True when the guest is to go on; false when something rang, which may be an interrupt.
    fn wait(&mut self, machine: &Machine) -> HvResult<bool> {
        let timer = self.time_to_timer()?;
        let limit = match machine.interrupts {
            Interrupts::Own(_) => timer,
            Interrupts::Framework => Some(timer.map_or(BLIND_WAIT, |timer| timer.min(BLIND_WAIT))),
        };
        // A deadline too far away to be an instant is none.
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        self.wakeup.sleep(deadline);
        Ok(deadline.is_some_and(|deadline| Instant::now() >= deadline))
    }

    /// When the virtual timer wakes the guest.
    fn time_to_timer(&self) -> HvResult<Option<Duration>> {
        let control = self.cpu.sys_reg(CNTV_CTL_EL0)?;
        if self.timer_fired || control & (TIMER_ENABLE | TIMER_MASKED) != TIMER_ENABLE {
            return Ok(None);
        }
        let ticks = self.cpu.sys_reg(CNTV_CVAL_EL0)?.saturating_sub(self.cpu.virtual_count()?);
        Ok(Some(self.cpu.time_of(ticks)))
    }

    /// What becomes of an exit; `None` if the guest goes on.
    fn answer(&mut self, machine: &Machine, exit: Exit) -> HvResult<Option<End>> {
        match exit.reason {
            // Somebody rang; the next round finds out why.
            HV_EXIT_REASON_CANCELED => Ok(None),
            HV_EXIT_REASON_VTIMER_ACTIVATED => {
                self.timer_fired = true;
                Ok(None)
            }
            HV_EXIT_REASON_EXCEPTION => self.exception(machine, exit),
            reason => Ok(Some(End::Unexpected(format!("the framework ended a run for reason {reason}")))),
        }
    }

    fn exception(&mut self, machine: &Machine, exit: Exit) -> HvResult<Option<End>> {
        let exit = exit.exception;
        match Exception::decode(exit.syndrome) {
            Exception::WaitForInterrupt => {
                self.advance()?;
                self.waiting = true;
            }
            Exception::WaitForEvent => {
                self.advance()?;
                std::thread::yield_now();
            }
            Exception::Hvc => return self.call(machine),
            Exception::Smc => {
                self.advance()?;
                return self.call(machine);
            }
            Exception::SystemRegister(access) => self.system_register(machine, access)?,
            Exception::DataAbort(abort) => {
                return self.data_abort(machine, abort, exit.virtual_address, exit.physical_address);
            }
            Exception::InstructionAbort => raise(&mut self.cpu, Raise::FetchAbort(exit.virtual_address))?,
            Exception::Debug | Exception::Other(_) => {
                let syndrome = exit.syndrome;
                return Ok(Some(End::Unexpected(format!("the guest left with syndrome {syndrome:#x}"))));
            }
        }
        Ok(None)
    }

    /// PSCI.
    fn call(&mut self, machine: &Machine) -> HvResult<Option<End>> {
        let mut args = [0; 4];
        for (register, arg) in (0..).zip(&mut args) {
            *arg = self.cpu.reg(register)?;
        }
        match machine.psci.call(self.id, args, |target| self.shared.wake(target)) {
            Answer::Return(value) => self.cpu.set_reg(0, value)?,
            Answer::Suspend => {
                self.cpu.set_reg(0, 0)?;
                self.waiting = true;
            }
            Answer::Off => {}
            Answer::System(event) => return Ok(Some(End::System(event))),
        }
        Ok(None)
    }

    fn system_register(&mut self, machine: &Machine, access: SystemAccess) -> HvResult<()> {
        let encoding = access.register.0;
        if let Interrupts::Own(gic) = &machine.interrupts {
            if access.is_read {
                if let Some(value) = gic.read_system(self.id, encoding) {
                    self.set_operand(access.rt, value)?;
                    return self.advance();
                }
            } else {
                let value = self.operand(access.rt)?;
                if gic.write_system(self.id, encoding, value).is_some() {
                    return self.advance();
                }
            }
        }
        match effect(access) {
            Effect::Read(value) => self.set_operand(access.rt, value)?,
            Effect::Ignored => {}
            Effect::PhysicalCount => {
                let count = self.cpu.virtual_count()?;
                self.set_operand(access.rt, count)?;
            }
            Effect::Undefined => {
                log::debug!("vCPU {}: undefined {access:x?}", self.id);
                return raise(&mut self.cpu, Raise::Undefined);
            }
        }
        self.advance()
    }

    fn data_abort(
        &mut self,
        machine: &Machine,
        abort: DataAbort,
        virtual_address: u64,
        gpa: u64,
    ) -> HvResult<Option<End>> {
        if abort.is_cache_maintenance {
            // There is nothing to maintain where there is no RAM.
            self.advance()?;
            return Ok(None);
        }
        if abort.in_table_walk || !abort.is_translation_fault {
            raise(&mut self.cpu, Raise::DataAbort(virtual_address))?;
            return Ok(None);
        }
        let Some(access) = abort.access else { return Ok(Some(End::Failure)) };
        let size = usize::from(access.size);
        if abort.is_write {
            let value = self.operand(access.register)?;
            if machine.interrupts.write(gpa, value.to_le_bytes().get(..size).unwrap_or_default()) {
                self.advance()?;
                return Ok(None);
            }
            return Ok(Some(End::Write { gpa, size: access.size, value }));
        }
        let mut data = [0; 8];
        if machine.interrupts.read(gpa, data.get_mut(..size).unwrap_or_default()) {
            self.set_operand(access.register, access.extend(u64::from_le_bytes(data)))?;
            self.advance()?;
            return Ok(None);
        }
        Ok(Some(End::Read { gpa, access }))
    }

    /// The address of the present instruction, and its bytes as far as they can be read.
    fn failed_instruction(&self, machine: &Machine) -> HvResult<(u64, Vec<u8>)> {
        let (pc, special) = (self.cpu.reg(HV_REG_PC)?, registers::special(&self.cpu)?);
        let code = parked::instruction(&machine.memory, &special, pc);
        Ok((pc, code.map(|code| code.to_le_bytes().to_vec()).unwrap_or_default()))
    }

    /// The framework's vCPU.
    #[cfg(test)]
    pub fn cpu_mut(&mut self) -> &mut C {
        &mut self.cpu
    }

    fn machine(&self) -> VcpuResult<Arc<Machine>> {
        self.shared
            .machine()
            .ok_or_else(|| VcpuError::Unexpected { id: self.id, what: "it belongs to no machine".into() })
    }
}

impl<C: Cpu> VcpuOps for HvfVcpu<C> {
    fn get_id(&self) -> u32 {
        self.id
    }

    fn run(&mut self) -> VcpuResult<VcpuExit<'_>> {
        let id = self.id;
        let machine = self.machine()?;
        match self.run_until_end(&machine).map_err(|error| error.of_vcpu(id))? {
            End::Interrupted => Ok(VcpuExit::Interrupted),
            End::Read { gpa, access } => {
                self.given = Given::Read(access);
                self.data = [0; 8];
                let data = self.data.get_mut(..usize::from(access.size)).unwrap_or_default();
                Ok(VcpuExit::MmioRead { gpa, data })
            }
            End::Write { gpa, size, value } => {
                self.given = Given::Write;
                self.data = value.to_le_bytes();
                Ok(VcpuExit::MmioWrite { gpa, data: self.data.get(..usize::from(size)).unwrap_or_default() })
            }
            End::System(event) => Ok(VcpuExit::SystemEvent(event)),
            End::Failure => {
                let (rip, bytes) = self.failed_instruction(&machine).map_err(|error| error.of_vcpu(id))?;
                Ok(VcpuExit::EmulationFailure { rip, bytes })
            }
            End::Unexpected(what) => Err(VcpuError::Unexpected { id, what }),
        }
    }

    fn get_regs(&self) -> VcpuResult<GuestRegs> {
        registers::general(&self.cpu).map(GuestRegs::Aarch64).map_err(|error| error.of_vcpu(self.id))
    }

    fn set_regs(&mut self, regs: &GuestRegs) -> VcpuResult<()> {
        let GuestRegs::Aarch64(regs) = regs else { return Err(VcpuError::OtherGuest { id: self.id }) };
        // The instruction that was being answered is not the next one any more.
        self.given = Given::Nothing;
        self.waiting = false;
        registers::set_general(&mut self.cpu, regs).map_err(|error| error.of_vcpu(self.id))
    }

    fn get_fpu_regs(&self) -> VcpuResult<FpuRegs> {
        registers::fpu(&self.cpu).map(FpuRegs::Aarch64).map_err(|error| error.of_vcpu(self.id))
    }

    fn set_fpu_regs(&mut self, regs: &FpuRegs) -> VcpuResult<()> {
        let FpuRegs::Aarch64(regs) = regs else { return Err(VcpuError::OtherGuest { id: self.id }) };
        registers::set_fpu(&mut self.cpu, regs).map_err(|error| error.of_vcpu(self.id))
    }

    fn get_special_regs(&self) -> VcpuResult<SpecialRegs> {
        registers::special(&self.cpu).map(SpecialRegs::Aarch64).map_err(|error| error.of_vcpu(self.id))
    }

    fn set_special_regs(&mut self, regs: &SpecialRegs) -> VcpuResult<()> {
        let SpecialRegs::Aarch64(regs) = regs else { return Err(VcpuError::OtherGuest { id: self.id }) };
        registers::set_special(&mut self.cpu, regs).map_err(|error| error.of_vcpu(self.id))
    }

    fn activity(&self) -> VcpuResult<Activity> {
        let machine = self.machine()?;
        if !machine.psci.is_on(self.id) {
            return Ok(Activity::WaitForStart);
        }
        let error = |error: crate::accel::hvf::error::HvError| error.of_vcpu(self.id);
        let regs = registers::general(&self.cpu).map_err(error)?;
        let special = registers::special(&self.cpu).map_err(error)?;
        Ok(if parked::is_parked(&machine.memory, &regs, &special) {
            Activity::HaltedForever
        } else if self.waiting {
            Activity::Halted
        } else {
            Activity::Running
        })
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::clone(&self.wakeup) as Arc<dyn Kick>
    }
}

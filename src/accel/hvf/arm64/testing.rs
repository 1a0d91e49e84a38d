//! A vCPU made of recorded exits, for tests.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::cpu::Cpu;
use crate::accel::Kick;
use crate::accel::ffi::hvf::arm64::{
    Exit, ExitException, HV_EXIT_REASON_CANCELED, HV_EXIT_REASON_EXCEPTION, Reg, SysReg,
};
use crate::accel::hvf::error::HvResult;
use crate::accel::hvf::wakeup::Wakeup;

/// A vCPU that gives exits and keeps registers.
#[derive(Default)]
pub struct ScriptedCpu {
    pub exits: VecDeque<Exit>,
    pub regs: BTreeMap<Reg, u64>,
    pub sys_regs: BTreeMap<SysReg, u64>,
    pub vectors: BTreeMap<u32, u128>,
    /// IRQ and FIQ, and what they were at each run.
    pub lines: (bool, bool),
    pub lines_at_run: Vec<(bool, bool)>,
    pub timer_masked: bool,
    pub count: u64,
    /// Kicked when there is no exit left.
    pub at_end: Option<Arc<Wakeup>>,
}

impl ScriptedCpu {
    /// Adds an exception with this syndrome, at this address.
    pub fn exception(&mut self, syndrome: u64, address: u64) {
        let exception = ExitException { syndrome, virtual_address: !address, physical_address: address };
        self.exits.push_back(Exit { reason: HV_EXIT_REASON_EXCEPTION, exception });
    }
}

impl Cpu for ScriptedCpu {
    /// The next exit; when there is none left, somebody ends the run.
    fn run(&mut self) -> HvResult<Exit> {
        self.lines_at_run.push(std::mem::take(&mut self.lines));
        let canceled = Exit { reason: HV_EXIT_REASON_CANCELED, ..Exit::default() };
        Ok(self.exits.pop_front().unwrap_or_else(|| {
            if let Some(wakeup) = &self.at_end {
                wakeup.kick();
            }
            canceled
        }))
    }

    fn reg(&self, reg: Reg) -> HvResult<u64> {
        Ok(self.regs.get(&reg).copied().unwrap_or_default())
    }

    fn set_reg(&mut self, reg: Reg, value: u64) -> HvResult<()> {
        self.regs.insert(reg, value);
        Ok(())
    }

    fn sys_reg(&self, reg: SysReg) -> HvResult<u64> {
        Ok(self.sys_regs.get(&reg).copied().unwrap_or_default())
    }

    fn set_sys_reg(&mut self, reg: SysReg, value: u64) -> HvResult<()> {
        self.sys_regs.insert(reg, value);
        Ok(())
    }

    fn vector(&self, number: u32) -> HvResult<u128> {
        Ok(self.vectors.get(&number).copied().unwrap_or_default())
    }

    fn set_vector(&mut self, number: u32, value: u128) -> HvResult<()> {
        self.vectors.insert(number, value);
        Ok(())
    }

    fn set_lines(&mut self, irq: bool, fiq: bool) -> HvResult<()> {
        self.lines = (irq, fiq);
        Ok(())
    }

    fn mask_virtual_timer(&mut self, masked: bool) -> HvResult<()> {
        self.timer_masked = masked;
        Ok(())
    }

    fn virtual_count(&self) -> HvResult<u64> {
        Ok(self.count)
    }

    fn time_of(&self, ticks: u64) -> Duration {
        Duration::from_nanos(ticks)
    }
}

//! A vCPU made of recorded exits, for tests.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::cpu::{Cpu, XsaveArea};
use super::vmcs::{EXIT_REASON, Field};
use crate::accel::Kick;
use crate::accel::ffi::hvf::x86_64::Reg;
use crate::accel::hvf::error::HvResult;
use crate::accel::hvf::wakeup::Wakeup;

/// A vCPU that gives exits and keeps registers.
#[derive(Default)]
pub struct ScriptedCpu {
    /// Each exit as the fields that it sets.
    pub exits: VecDeque<Vec<(Field, u64)>>,
    pub fields: BTreeMap<Field, u64>,
    pub regs: BTreeMap<Reg, u64>,
    pub area: XsaveArea,
    pub capabilities: BTreeMap<u32, u64>,
    /// The fields at each run.
    pub runs: Vec<BTreeMap<Field, u64>>,
    /// Kicked when there is no exit left.
    pub at_end: Option<Arc<Wakeup>>,
}

impl Cpu for ScriptedCpu {
    /// The next exit; when there is none left, somebody ends the run, which is a host's interrupt.
    fn run(&mut self) -> HvResult<()> {
        self.runs.push(self.fields.clone());
        let exit = self.exits.pop_front().unwrap_or_else(|| {
            if let Some(wakeup) = &self.at_end {
                wakeup.kick();
            }
            vec![(EXIT_REASON, 1)]
        });
        self.fields.extend(exit);
        Ok(())
    }

    fn vmcs(&self, field: Field) -> HvResult<u64> {
        Ok(self.fields.get(&field).copied().unwrap_or_default())
    }

    fn set_vmcs(&mut self, field: Field, value: u64) -> HvResult<()> {
        self.fields.insert(field, value);
        Ok(())
    }

    fn reg(&self, reg: Reg) -> HvResult<u64> {
        Ok(self.regs.get(&reg).copied().unwrap_or_default())
    }

    fn set_reg(&mut self, reg: Reg, value: u64) -> HvResult<()> {
        self.regs.insert(reg, value);
        Ok(())
    }

    fn xsave(&self) -> HvResult<XsaveArea> {
        Ok(self.area.clone())
    }

    fn set_xsave(&mut self, area: &XsaveArea) -> HvResult<()> {
        self.area = area.clone();
        Ok(())
    }

    fn flush_tlb(&mut self) -> HvResult<()> {
        Ok(())
    }

    /// A processor that can do everything and has to do nothing.
    fn capability(&self, capability: u32) -> HvResult<u64> {
        Ok(self.capabilities.get(&capability).copied().unwrap_or(0xffff_ffff_0000_0000))
    }
}

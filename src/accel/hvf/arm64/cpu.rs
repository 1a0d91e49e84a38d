//! One vCPU of the framework on Apple silicon, as the backend's logic needs it. The framework's own is
//! [`super::framework`]; tests have one made of recorded exits.

#![forbid(unsafe_code)]

use std::time::Duration;

use crate::accel::ffi::hvf::arm64::{Exit, Reg, SysReg};
use crate::accel::hvf::error::HvResult;

/// A vCPU. Its errors are the framework's.
pub trait Cpu: Send {
    /// Runs guest code until something is needed.
    ///
    /// # Errors
    /// When the framework refuses.
    fn run(&mut self) -> HvResult<Exit>;

    /// Reads a general register.
    ///
    /// # Errors
    /// When the framework refuses.
    fn reg(&self, reg: Reg) -> HvResult<u64>;

    /// Writes a general register.
    ///
    /// # Errors
    /// When the framework refuses.
    fn set_reg(&mut self, reg: Reg, value: u64) -> HvResult<()>;

    /// Reads a system register.
    ///
    /// # Errors
    /// When the framework refuses, or does not know the register.
    fn sys_reg(&self, reg: SysReg) -> HvResult<u64>;

    /// Writes a system register.
    ///
    /// # Errors
    /// When the framework refuses, or does not know the register.
    fn set_sys_reg(&mut self, reg: SysReg, value: u64) -> HvResult<()>;

    /// Reads V0 to V31.
    ///
    /// # Errors
    /// When the framework refuses.
    fn vector(&self, number: u32) -> HvResult<u128>;

    /// Writes V0 to V31.
    ///
    /// # Errors
    /// When the framework refuses.
    fn set_vector(&mut self, number: u32, value: u128) -> HvResult<()>;

    /// Drives the interrupt lines IRQ and FIQ for the next run.
    ///
    /// # Errors
    /// When the framework refuses.
    fn set_lines(&mut self, irq: bool, fiq: bool) -> HvResult<()>;

    /// Keeps the virtual timer from ending runs, or lets it.
    ///
    /// # Errors
    /// When the framework refuses.
    fn mask_virtual_timer(&mut self, masked: bool) -> HvResult<()>;

    /// What the guest would read from its virtual counter now.
    ///
    /// # Errors
    /// When the framework refuses.
    fn virtual_count(&self) -> HvResult<u64>;

    /// How long the counters take to count so far.
    fn time_of(&self, ticks: u64) -> Duration;
}

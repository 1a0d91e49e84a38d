//! One vCPU of the framework on Intel, as the backend's logic needs it. The framework's own is
//! [`super::framework`]; tests have one made of recorded exits.

#![forbid(unsafe_code)]

use super::vmcs::Field;
use crate::accel::ffi::hvf::x86_64::Reg;
use crate::accel::hvf::error::HvResult;

/// Bytes of an XSAVE area that the framework may want: the legacy region, the header and the AVX state, and
/// room for what a newer processor adds.
pub const XSAVE_BYTES: usize = 4096;

/// An XSAVE area, aligned as the instruction wants it.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct XsaveArea(pub [u8; XSAVE_BYTES]);

impl Default for XsaveArea {
    fn default() -> Self {
        Self([0; XSAVE_BYTES])
    }
}

/// A vCPU. Its errors are the framework's.
#[allow(clippy::missing_errors_doc, reason = "every call fails when the framework refuses it, and only then")]
pub trait Cpu: Send {
    /// Runs guest code until something is needed; the VMCS says what.
    fn run(&mut self) -> HvResult<()>;

    /// Reads a field of the VMCS.
    fn vmcs(&self, field: Field) -> HvResult<u64>;

    /// Writes a field of the VMCS.
    fn set_vmcs(&mut self, field: Field, value: u64) -> HvResult<()>;

    /// Reads an architectural register.
    fn reg(&self, reg: Reg) -> HvResult<u64>;

    /// Writes an architectural register.
    fn set_reg(&mut self, reg: Reg, value: u64) -> HvResult<()>;

    /// Reads the x87, SSE and AVX state.
    fn xsave(&self) -> HvResult<XsaveArea>;

    /// Writes the x87, SSE and AVX state.
    fn set_xsave(&mut self, area: &XsaveArea) -> HvResult<()>;

    /// Forgets the guest's translations.
    fn flush_tlb(&mut self) -> HvResult<()>;

    /// Which bits of a set of controls must and may be 1.
    fn capability(&self, capability: u32) -> HvResult<u64>;
}

//! The framework's vCPU on Intel.

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::Arc;
use std::thread::{self, ThreadId};

use super::cpu::{Cpu, XSAVE_BYTES, XsaveArea};
use super::msr;
use super::vmcs::Field;
use crate::accel::ffi::hvf::x86_64::{
    Reg, VcpuId, hv_vcpu_create, hv_vcpu_enable_native_msr, hv_vcpu_interrupt, hv_vcpu_invalidate_tlb,
    hv_vcpu_read_fpstate, hv_vcpu_read_register, hv_vcpu_write_fpstate, hv_vcpu_write_register,
    hv_vmx_read_capability, hv_vmx_vcpu_read_vmcs, hv_vmx_vcpu_write_vmcs,
};
use crate::accel::ffi::hvf::{HV_BAD_ARGUMENT, hv_vcpu_destroy, hv_vcpu_run};
use crate::accel::hvf::error::{HvError, HvResult, check};
use crate::accel::hvf::wakeup::Wakeup;

/// A vCPU. The framework's is made by the first call, and belongs to the thread of that call: the one that
/// runs it.
pub struct FrameworkCpu {
    id: u32,
    wakeup: Arc<Wakeup>,
    bound: Cell<Option<(VcpuId, ThreadId)>>,
}

impl FrameworkCpu {
    /// vCPU `id`, whose runs `wakeup` will end.
    pub fn new(id: u32, wakeup: Arc<Wakeup>) -> Self {
        Self { id, wakeup, bound: Cell::new(None) }
    }

    /// The framework's vCPU, made if need be.
    fn bound(&self) -> HvResult<VcpuId> {
        if let Some((vcpu, thread)) = self.bound.get() {
            return if thread == thread::current().id() {
                Ok(vcpu)
            } else {
                Err(HvError { operation: "using a vCPU beside its thread", code: HV_BAD_ARGUMENT })
            };
        }
        let mut vcpu = 0;
        // SAFETY: `vcpu` is valid for writes.
        check("hv_vcpu_create", unsafe { hv_vcpu_create(&raw mut vcpu, 0) })?;
        self.bound.set(Some((vcpu, thread::current().id())));
        for msr in msr::NATIVE {
            // SAFETY: this is the vCPU's thread.
            let code = unsafe { hv_vcpu_enable_native_msr(vcpu, msr, true) };
            check("hv_vcpu_enable_native_msr", code)?;
        }
        self.wakeup.connect(Some(Box::new(move || {
            // SAFETY: one vCPU, which exists: `drop` disconnects before it destroys it.
            let code = unsafe { hv_vcpu_interrupt(&raw const vcpu, 1) };
            if let Err(error) = check("hv_vcpu_interrupt", code) {
                log::warn!("{error}");
            }
        })));
        Ok(vcpu)
    }
}

impl Drop for FrameworkCpu {
    fn drop(&mut self) {
        self.wakeup.connect(None);
        match self.bound.get() {
            Some((vcpu, thread)) if thread == thread::current().id() => {
                // SAFETY: this is the vCPU's thread, it does not run, and nobody can end its runs any more.
                if let Err(error) = check("hv_vcpu_destroy", unsafe { hv_vcpu_destroy(vcpu) }) {
                    log::warn!("{error}");
                }
            }
            Some(_) => log::warn!("vCPU {} is dropped beside its thread and stays", self.id),
            None => {}
        }
    }
}

impl Cpu for FrameworkCpu {
    /// Every interrupt of the host's ends this, too, so that a ring just before it is late by a tick of the
    /// host's clock at most.
    fn run(&mut self) -> HvResult<()> {
        let vcpu = self.bound()?;
        // SAFETY: this is the vCPU's thread.
        check("hv_vcpu_run", unsafe { hv_vcpu_run(vcpu) })
    }

    fn vmcs(&self, field: Field) -> HvResult<u64> {
        let (vcpu, mut value) = (self.bound()?, 0);
        // SAFETY: this is the vCPU's thread, and `value` is valid for writes.
        let code = unsafe { hv_vmx_vcpu_read_vmcs(vcpu, field, &raw mut value) };
        check("hv_vmx_vcpu_read_vmcs", code)?;
        Ok(value)
    }

    fn set_vmcs(&mut self, field: Field, value: u64) -> HvResult<()> {
        let vcpu = self.bound()?;
        // SAFETY: this is the vCPU's thread.
        check("hv_vmx_vcpu_write_vmcs", unsafe { hv_vmx_vcpu_write_vmcs(vcpu, field, value) })
    }

    fn reg(&self, reg: Reg) -> HvResult<u64> {
        let (vcpu, mut value) = (self.bound()?, 0);
        // SAFETY: this is the vCPU's thread, and `value` is valid for writes.
        check("hv_vcpu_read_register", unsafe { hv_vcpu_read_register(vcpu, reg, &raw mut value) })?;
        Ok(value)
    }

    fn set_reg(&mut self, reg: Reg, value: u64) -> HvResult<()> {
        let vcpu = self.bound()?;
        // SAFETY: this is the vCPU's thread.
        check("hv_vcpu_write_register", unsafe { hv_vcpu_write_register(vcpu, reg, value) })
    }

    fn xsave(&self) -> HvResult<XsaveArea> {
        let (vcpu, mut area) = (self.bound()?, XsaveArea::default());
        let buffer = area.0.as_mut_ptr().cast::<c_void>();
        // SAFETY: this is the vCPU's thread, and the buffer is valid for writes of so many bytes.
        check("hv_vcpu_read_fpstate", unsafe { hv_vcpu_read_fpstate(vcpu, buffer, XSAVE_BYTES) })?;
        Ok(area)
    }

    fn set_xsave(&mut self, area: &XsaveArea) -> HvResult<()> {
        let (vcpu, buffer) = (self.bound()?, area.0.as_ptr().cast::<c_void>());
        // SAFETY: this is the vCPU's thread, and the buffer is valid for reads of so many bytes.
        check("hv_vcpu_write_fpstate", unsafe { hv_vcpu_write_fpstate(vcpu, buffer, XSAVE_BYTES) })
    }

    fn flush_tlb(&mut self) -> HvResult<()> {
        let vcpu = self.bound()?;
        // SAFETY: this is the vCPU's thread.
        check("hv_vcpu_invalidate_tlb", unsafe { hv_vcpu_invalidate_tlb(vcpu) })
    }

    fn capability(&self, capability: u32) -> HvResult<u64> {
        let mut value = 0;
        // SAFETY: `value` is valid for writes.
        let code = unsafe { hv_vmx_read_capability(capability, &raw mut value) };
        check("hv_vmx_read_capability", code)?;
        Ok(value)
    }
}

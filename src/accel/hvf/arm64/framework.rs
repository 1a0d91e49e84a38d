//! The framework's vCPU and GIC on Apple silicon.

use std::arch::asm;
use std::cell::Cell;
use std::ffi::{CStr, c_void};
use std::ptr;
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::Duration;

use super::cpu::Cpu;
use super::machine::Shared;
use super::registers::{MPIDR_EL1, SCTLR_EL1, SCTLR_RESET};
use crate::accel::SpiLines;
use crate::accel::arm64::{FIRST_SPI, GICD, GICR, affinity};
use crate::accel::ffi::hvf::arm64::{
    Exit, HV_INTERRUPT_TYPE_FIQ, HV_INTERRUPT_TYPE_IRQ, Reg, SysReg, Timebase, VcpuId, gic, hv_vcpu_create,
    hv_vcpu_get_reg, hv_vcpu_get_simd_fp_reg, hv_vcpu_get_sys_reg, hv_vcpu_get_vtimer_offset,
    hv_vcpu_set_pending_interrupt, hv_vcpu_set_reg, hv_vcpu_set_simd_fp_reg, hv_vcpu_set_sys_reg,
    hv_vcpu_set_vtimer_mask, hv_vcpus_exit, mach_absolute_time, mach_timebase_info, os_release,
};
use crate::accel::ffi::hvf::{HV_BAD_ARGUMENT, HvReturn, hv_vcpu_destroy, hv_vcpu_run};
use crate::accel::hvf::error::{HvError, HvResult, check};
use crate::accel::hvf::wakeup::Wakeup;

/// MPIDR_EL1: the bit that is always 1.
const MPIDR_RES1: u64 = 1 << 31;

/// A vCPU that exists in the framework, on the thread that it belongs to.
#[derive(Clone, Copy)]
struct Bound {
    vcpu: VcpuId,
    exit: *const Exit,
    thread: ThreadId,
}

/// A vCPU. The framework's is made by the first call, and belongs to the thread of that call: the one that
/// runs it.
pub struct FrameworkCpu {
    id: u32,
    wakeup: Arc<Wakeup>,
    bound: Cell<Option<Bound>>,
}

// SAFETY: the pointer in `bound` is only read on the thread on which the framework made the vCPU, which
// `bound()` checks; everything else may be sent.
unsafe impl Send for FrameworkCpu {}

impl FrameworkCpu {
    /// vCPU `id`, whose runs `wakeup` will end.
    pub fn new(id: u32, wakeup: Arc<Wakeup>) -> Self {
        Self { id, wakeup, bound: Cell::new(None) }
    }

    /// The framework's vCPU, made if need be.
    fn bound(&self) -> HvResult<Bound> {
        if let Some(bound) = self.bound.get() {
            return if bound.thread == thread::current().id() {
                Ok(bound)
            } else {
                Err(HvError { operation: "using a vCPU beside its thread", code: HV_BAD_ARGUMENT })
            };
        }
        let (mut vcpu, mut exit) = (0, ptr::null());
        // SAFETY: both pointers are valid for writes, and a null configuration is the default one.
        let code = unsafe { hv_vcpu_create(&raw mut vcpu, &raw mut exit, ptr::null_mut()) };
        check("hv_vcpu_create", code)?;
        self.bound.set(Some(Bound { vcpu, exit, thread: thread::current().id() }));
        // The framework's GIC knows a vCPU by its affinity; what SCTLR_EL1 is after a reset, it does not say.
        for (reg, value) in [(MPIDR_EL1, MPIDR_RES1 | affinity(self.id)), (SCTLR_EL1, SCTLR_RESET)] {
            // SAFETY: this is the vCPU's thread.
            check("hv_vcpu_set_sys_reg", unsafe { hv_vcpu_set_sys_reg(vcpu, reg, value) })?;
        }
        self.wakeup.connect(Some(Box::new(move || {
            // SAFETY: one vCPU, which exists: `drop` disconnects before it destroys it.
            let code = unsafe { hv_vcpus_exit(&raw const vcpu, 1) };
            if let Err(error) = check("hv_vcpus_exit", code) {
                log::warn!("{error}");
            }
        })));
        self.bound.get().ok_or(HvError { operation: "hv_vcpu_create", code: HV_BAD_ARGUMENT })
    }
}

impl Drop for FrameworkCpu {
    fn drop(&mut self) {
        self.wakeup.connect(None);
        match self.bound.get() {
            Some(bound) if bound.thread == thread::current().id() => {
                // SAFETY: this is the vCPU's thread, it does not run, and nobody can end its runs any more.
                let code = unsafe { hv_vcpu_destroy(bound.vcpu) };
                if let Err(error) = check("hv_vcpu_destroy", code) {
                    log::warn!("{error}");
                }
            }
            Some(_) => log::warn!("vCPU {} is dropped beside its thread and stays", self.id),
            None => {}
        }
    }
}

impl Cpu for FrameworkCpu {
    fn run(&mut self) -> HvResult<Exit> {
        let bound = self.bound()?;
        // SAFETY: this is the vCPU's thread.
        check("hv_vcpu_run", unsafe { hv_vcpu_run(bound.vcpu) })?;
        // SAFETY: the framework keeps this valid while the vCPU exists, and writes it only inside
        // `hv_vcpu_run`, which this thread has left.
        Ok(unsafe { *bound.exit })
    }

    fn reg(&self, reg: Reg) -> HvResult<u64> {
        let (vcpu, mut value) = (self.bound()?.vcpu, 0);
        // SAFETY: this is the vCPU's thread, and `value` is valid for writes.
        check("hv_vcpu_get_reg", unsafe { hv_vcpu_get_reg(vcpu, reg, &raw mut value) })?;
        Ok(value)
    }

    fn set_reg(&mut self, reg: Reg, value: u64) -> HvResult<()> {
        let vcpu = self.bound()?.vcpu;
        // SAFETY: this is the vCPU's thread.
        check("hv_vcpu_set_reg", unsafe { hv_vcpu_set_reg(vcpu, reg, value) })
    }

    fn sys_reg(&self, reg: SysReg) -> HvResult<u64> {
        let (vcpu, mut value) = (self.bound()?.vcpu, 0);
        // SAFETY: this is the vCPU's thread, and `value` is valid for writes.
        check("hv_vcpu_get_sys_reg", unsafe { hv_vcpu_get_sys_reg(vcpu, reg, &raw mut value) })?;
        Ok(value)
    }

    fn set_sys_reg(&mut self, reg: SysReg, value: u64) -> HvResult<()> {
        let vcpu = self.bound()?.vcpu;
        // SAFETY: this is the vCPU's thread.
        check("hv_vcpu_set_sys_reg", unsafe { hv_vcpu_set_sys_reg(vcpu, reg, value) })
    }

    fn vector(&self, number: u32) -> HvResult<u128> {
        let (vcpu, mut value) = (self.bound()?.vcpu, 0_u128);
        // SAFETY: this is the vCPU's thread, and `value` is 16 bytes, aligned, valid for writes.
        let code = unsafe { hv_vcpu_get_simd_fp_reg(vcpu, number, &raw mut value) };
        check("hv_vcpu_get_simd_fp_reg", code)?;
        Ok(value)
    }

    fn set_vector(&mut self, number: u32, value: u128) -> HvResult<()> {
        let vcpu = self.bound()?.vcpu;
        let code: u64;
        // SAFETY: this is the vCPU's thread; the arguments are where the procedure call standard has them,
        // with the vector in V0, and everything that a C function may change is declared.
        unsafe {
            asm!(
                "ldr q0, [{value}]",
                "blr {function}",
                value = in(reg) &raw const value,
                function = in(reg) hv_vcpu_set_simd_fp_reg as *const (),
                inlateout("x0") vcpu => code,
                in("x1") u64::from(number),
                clobber_abi("C"),
            );
        }
        // The result is W0.
        check("hv_vcpu_set_simd_fp_reg", code as HvReturn)
    }

    fn set_lines(&mut self, irq: bool, fiq: bool) -> HvResult<()> {
        let vcpu = self.bound()?.vcpu;
        for (kind, level) in [(HV_INTERRUPT_TYPE_IRQ, irq), (HV_INTERRUPT_TYPE_FIQ, fiq)] {
            // SAFETY: this is the vCPU's thread.
            let code = unsafe { hv_vcpu_set_pending_interrupt(vcpu, kind, level) };
            check("hv_vcpu_set_pending_interrupt", code)?;
        }
        Ok(())
    }

    fn mask_virtual_timer(&mut self, masked: bool) -> HvResult<()> {
        let vcpu = self.bound()?.vcpu;
        // SAFETY: this is the vCPU's thread.
        check("hv_vcpu_set_vtimer_mask", unsafe { hv_vcpu_set_vtimer_mask(vcpu, masked) })
    }

    fn virtual_count(&self) -> HvResult<u64> {
        let (vcpu, mut offset) = (self.bound()?.vcpu, 0);
        // SAFETY: this is the vCPU's thread, and `offset` is valid for writes.
        let code = unsafe { hv_vcpu_get_vtimer_offset(vcpu, &raw mut offset) };
        check("hv_vcpu_get_vtimer_offset", code)?;
        // SAFETY: no preconditions.
        Ok(unsafe { mach_absolute_time() }.wrapping_sub(offset))
    }

    fn time_of(&self, ticks: u64) -> Duration {
        let mut timebase = Timebase { numerator: 0, denominator: 0 };
        // SAFETY: `timebase` is valid for writes.
        unsafe { mach_timebase_info(&raw mut timebase) };
        let nanoseconds =
            u128::from(ticks) * u128::from(timebase.numerator) / u128::from(timebase.denominator.max(1));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

/// The functions of the framework's GIC.
struct Functions {
    config_create: gic::ConfigCreate,
    set_distributor: gic::ConfigSetBase,
    set_redistributor: gic::ConfigSetBase,
    create: gic::Create,
    set_spi: gic::SetSpi,
}

/// A function of the libraries that are loaded, by its name.
fn function(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the name ends with a zero byte.
    let function = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!function.is_null()).then_some(function)
}

impl Functions {
    /// The functions, where macOS has them.
    fn load() -> Option<Self> {
        let config_create = function(c"hv_gic_config_create")?;
        let set_distributor = function(c"hv_gic_config_set_distributor_base")?;
        let set_redistributor = function(c"hv_gic_config_set_redistributor_base")?;
        let create = function(c"hv_gic_create")?;
        let set_spi = function(c"hv_gic_set_spi")?;
        // SAFETY: each address is the function's of that name, whose type is in `<Hypervisor/hv_gic.h>`.
        Some(unsafe {
            Self {
                config_create: std::mem::transmute::<*mut c_void, gic::ConfigCreate>(config_create),
                set_distributor: std::mem::transmute::<*mut c_void, gic::ConfigSetBase>(set_distributor),
                set_redistributor: std::mem::transmute::<*mut c_void, gic::ConfigSetBase>(set_redistributor),
                create: std::mem::transmute::<*mut c_void, gic::Create>(create),
                set_spi: std::mem::transmute::<*mut c_void, gic::SetSpi>(set_spi),
            }
        })
    }
}

/// The lines of the framework's GIC.
pub struct FrameworkLines {
    set_spi: gic::SetSpi,
    shared: Arc<Shared>,
}

impl FrameworkLines {
    /// Makes the GIC of the process's virtual machine, before its first vCPU; `None` where macOS has none.
    ///
    /// # Errors
    /// When the framework refuses.
    pub fn create(shared: &Arc<Shared>) -> HvResult<Option<Self>> {
        let Some(functions) = Functions::load() else { return Ok(None) };
        // SAFETY: no preconditions.
        let config = unsafe { (functions.config_create)() };
        if config.is_null() {
            return Err(HvError { operation: "hv_gic_config_create", code: HV_BAD_ARGUMENT });
        }
        // SAFETY: the configuration was just made, and the virtual machine has no vCPU yet.
        let result = unsafe {
            check("hv_gic_config_set_distributor_base", (functions.set_distributor)(config, GICD))
                .and_then(|()| {
                    let code = (functions.set_redistributor)(config, GICR);
                    check("hv_gic_config_set_redistributor_base", code)
                })
                .and_then(|()| check("hv_gic_create", (functions.create)(config)))
        };
        // SAFETY: the configuration is this function's own, and not used after this.
        unsafe { os_release(config) };
        result.map(|()| Some(Self { set_spi: functions.set_spi, shared: Arc::clone(shared) }))
    }
}

impl SpiLines for FrameworkLines {
    fn set_spi(&self, spi: u32, level: bool) {
        // SAFETY: the GIC exists as long as the virtual machine; without one the call fails.
        let code = unsafe { (self.set_spi)(FIRST_SPI + spi, level) };
        if let Err(error) = check("hv_gic_set_spi", code) {
            log::debug!("SPI {spi}: {error}");
        }
        if level {
            // One that sleeps in WFI is outside the framework.
            self.shared.wake_all();
        }
    }
}

//! macOS's Hypervisor.framework (`<Hypervisor/Hypervisor.h>`), as far as it is used.
//!
//! The framework has two faces, one on Apple silicon and one on Intel, which share the memory calls and the
//! error codes. A process has at most one virtual machine. A vCPU belongs to the thread that created it:
//! every call that takes a vCPU is to be made there, except those that end its run.

/// What every call returns: a `mach_error_t`.
pub type HvReturn = i32;
/// Protection of guest memory.
pub type HvMemoryFlags = u64;

/// The call has done what it should.
pub const HV_SUCCESS: HvReturn = 0;
/// It has not, for no named reason.
pub const HV_ERROR: HvReturn = code(0x01);
/// Another part of the process has the virtual machine.
pub const HV_BUSY: HvReturn = code(0x02);
/// An argument cannot be.
pub const HV_BAD_ARGUMENT: HvReturn = code(0x03);
/// The guest's state cannot be entered.
pub const HV_ILLEGAL_GUEST_STATE: HvReturn = code(0x04);
/// The host has run out of something.
pub const HV_NO_RESOURCES: HvReturn = code(0x05);
/// There is no virtual machine or no vCPU.
pub const HV_NO_DEVICE: HvReturn = code(0x06);
/// The process lacks the entitlement.
pub const HV_DENIED: HvReturn = code(0x07);
/// On Apple silicon: there is such a thing already. On Intel: a pointer is bad.
pub const HV_EXISTS_OR_FAULT: HvReturn = code(0x08);
/// This processor or this macOS cannot.
pub const HV_UNSUPPORTED: HvReturn = code(0x0f);

/// The guest may read.
pub const HV_MEMORY_READ: HvMemoryFlags = 1 << 0;
/// The guest may write.
pub const HV_MEMORY_WRITE: HvMemoryFlags = 1 << 1;
/// The guest may execute.
pub const HV_MEMORY_EXEC: HvMemoryFlags = 1 << 2;

/// An error code: system `err_local`, subsystem `0xba5`.
const fn code(number: u32) -> HvReturn {
    (0xfae9_4000 | number).cast_signed()
}

#[cfg(target_os = "macos")]
#[link(name = "Hypervisor", kind = "framework")]
unsafe extern "C" {
    /// Ends the process's virtual machine. All its vCPUs must be gone.
    pub fn hv_vm_destroy() -> HvReturn;
    /// Maps `size` bytes at `address` into the guest at `gpa`. All three are multiples of the host's page
    /// size, and the memory stays mapped until the virtual machine is gone.
    pub fn hv_vm_map(address: *mut std::ffi::c_void, gpa: u64, size: usize, flags: HvMemoryFlags)
    -> HvReturn;
    /// Runs a vCPU until it needs something. Only on its own thread.
    pub fn hv_vcpu_run(vcpu: VcpuId) -> HvReturn;
    /// Ends a vCPU. Only on its own thread, and not while it runs.
    pub fn hv_vcpu_destroy(vcpu: VcpuId) -> HvReturn;
}

#[cfg(all(target_os = "macos", target_arch = "aarch64"))]
type VcpuId = arm64::VcpuId;
#[cfg(all(target_os = "macos", target_arch = "x86_64"))]
type VcpuId = x86_64::VcpuId;

/// The framework on Apple silicon.
#[cfg(any(test, target_arch = "aarch64"))]
pub mod arm64 {
    #[cfg(target_os = "macos")]
    use std::ffi::c_void;

    #[cfg(target_os = "macos")]
    use super::HvReturn;

    /// A vCPU's name.
    #[cfg_attr(not(target_os = "macos"), allow(dead_code, reason = "the type of foreign functions"))]
    pub type VcpuId = u64;
    /// A general register (`hv_reg_t`): X0 to X30 are 0 to 30.
    pub type Reg = u32;
    /// A system register (`hv_sys_reg_t`): its encoding in MRS.
    pub type SysReg = u16;

    /// The program counter.
    pub const HV_REG_PC: Reg = 31;
    /// Floating-point control.
    pub const HV_REG_FPCR: Reg = 32;
    /// Floating-point status.
    pub const HV_REG_FPSR: Reg = 33;
    /// PSTATE in SPSR's layout.
    pub const HV_REG_CPSR: Reg = 34;

    /// Interrupt line IRQ (`hv_interrupt_type_t`).
    pub const HV_INTERRUPT_TYPE_IRQ: u32 = 0;
    /// Interrupt line FIQ.
    pub const HV_INTERRUPT_TYPE_FIQ: u32 = 1;

    /// `hv_vcpus_exit` ended the run.
    pub const HV_EXIT_REASON_CANCELED: u32 = 0;
    /// The guest took an exception to EL2.
    pub const HV_EXIT_REASON_EXCEPTION: u32 = 1;
    /// The virtual timer's condition is met; its interrupt is masked from now on.
    pub const HV_EXIT_REASON_VTIMER_ACTIVATED: u32 = 2;

    /// An exception that the guest took to EL2 (`hv_vcpu_exit_exception_t`).
    #[repr(C)]
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub struct ExitException {
        /// As ESR_EL2 has it.
        pub syndrome: u64,
        /// As FAR_EL2 has it.
        pub virtual_address: u64,
        /// The intermediate physical address of a stage 2 fault.
        pub physical_address: u64,
    }

    /// Why a run ended (`hv_vcpu_exit_t`). The framework writes it at each end.
    #[repr(C)]
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub struct Exit {
        /// One of `HV_EXIT_REASON_…`.
        pub reason: u32,
        /// Valid for `HV_EXIT_REASON_EXCEPTION`.
        pub exception: ExitException,
    }

    #[cfg(target_os = "macos")]
    unsafe extern "C" {
        /// Creates the process's virtual machine; `config` may be null.
        pub fn hv_vm_create(config: *mut c_void) -> HvReturn;
        /// Creates a vCPU of the calling thread, and says where its exits will be told: `*exit` is valid
        /// until the vCPU is destroyed. `config` may be null.
        pub fn hv_vcpu_create(vcpu: *mut VcpuId, exit: *mut *const Exit, config: *mut c_void) -> HvReturn;
        /// Ends the runs of `count` vCPUs, or else their next ones. On any thread.
        pub fn hv_vcpus_exit(vcpus: *const VcpuId, count: u32) -> HvReturn;
        /// Reads a general register into `*value`.
        pub fn hv_vcpu_get_reg(vcpu: VcpuId, reg: Reg, value: *mut u64) -> HvReturn;
        /// Writes a general register.
        pub fn hv_vcpu_set_reg(vcpu: VcpuId, reg: Reg, value: u64) -> HvReturn;
        /// Reads a system register into `*value`.
        pub fn hv_vcpu_get_sys_reg(vcpu: VcpuId, reg: SysReg, value: *mut u64) -> HvReturn;
        /// Writes a system register.
        pub fn hv_vcpu_set_sys_reg(vcpu: VcpuId, reg: SysReg, value: u64) -> HvReturn;
        /// Reads V`reg` into the 16 bytes at `value`.
        pub fn hv_vcpu_get_simd_fp_reg(vcpu: VcpuId, reg: u32, value: *mut u128) -> HvReturn;
        /// Writes V`reg`. Its third argument is a vector in register V0, for which Rust has no foreign
        /// type: it is to be called by assembly that puts `vcpu` into X0 and `reg` into W1.
        pub fn hv_vcpu_set_simd_fp_reg();
        /// Sets the level of an interrupt line for the next run; the framework clears it after that.
        pub fn hv_vcpu_set_pending_interrupt(vcpu: VcpuId, kind: u32, pending: bool) -> HvReturn;
        /// Lets the virtual timer end runs (`false`) or not (`true`).
        pub fn hv_vcpu_set_vtimer_mask(vcpu: VcpuId, masked: bool) -> HvReturn;
        /// Reads how much the guest's virtual counter is behind `mach_absolute_time`.
        pub fn hv_vcpu_get_vtimer_offset(vcpu: VcpuId, offset: *mut u64) -> HvReturn;
        /// Gives up a reference to an object of the framework's that a `…_create` without `vm` or `vcpu` in
        /// its name returned.
        pub fn os_release(object: *mut c_void);
        /// The host's counter, which is the one of the guest's timers, too.
        pub fn mach_absolute_time() -> u64;
        /// Writes how long a tick of the host's counter is.
        pub fn mach_timebase_info(info: *mut Timebase) -> i32;
    }

    /// The length of a tick of `mach_absolute_time` in nanoseconds, as a fraction
    /// (`mach_timebase_info_data_t`).
    #[repr(C)]
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Timebase {
        /// Above the line.
        pub numerator: u32,
        /// Below it.
        pub denominator: u32,
    }

    /// The functions of the framework's own GIC, which macOS has from version 15 on. They are looked up at
    /// run time, so that the program starts on older ones.
    #[cfg(target_os = "macos")]
    pub mod gic {
        use std::ffi::c_void;

        use super::super::HvReturn;

        /// `hv_gic_config_create`: an object to be given to `os_release`.
        pub type ConfigCreate = unsafe extern "C" fn() -> *mut c_void;
        /// `hv_gic_config_set_distributor_base` and `hv_gic_config_set_redistributor_base`: a guest-physical
        /// address with the alignment that the framework asks for.
        pub type ConfigSetBase = unsafe extern "C" fn(config: *mut c_void, base: u64) -> HvReturn;
        /// `hv_gic_create`: after `hv_vm_create`, before the first vCPU.
        pub type Create = unsafe extern "C" fn(config: *mut c_void) -> HvReturn;
        /// `hv_gic_set_spi`: drives the line with this INTID. On any thread.
        pub type SetSpi = unsafe extern "C" fn(intid: u32, level: bool) -> HvReturn;
    }
}

/// The framework on Intel.
#[cfg(any(test, target_arch = "x86_64"))]
pub mod x86_64 {
    #[cfg(target_os = "macos")]
    use std::ffi::c_void;

    #[cfg(target_os = "macos")]
    use super::HvReturn;

    /// A vCPU's name.
    #[cfg(target_os = "macos")]
    pub type VcpuId = u32;
    /// An architectural register (`hv_x86_reg_t`).
    pub type Reg = u32;

    /// Instruction pointer, and the numbers of the others after it: RFLAGS, RAX, RCX, RDX, RBX, RSI, RDI, RSP,
    /// RBP, R8 to R15.
    pub const HV_X86_RIP: Reg = 0;
    /// Flags.
    pub const HV_X86_RFLAGS: Reg = 1;
    /// The first general register.
    pub const HV_X86_RAX: Reg = 2;
    /// R8; R9 to R15 follow.
    pub const HV_X86_R8: Reg = 10;
    /// Page fault address.
    pub const HV_X86_CR2: Reg = 38;
    /// XSAVE's enabled features.
    pub const HV_X86_XCR0: Reg = 50;

    /// Which capability `hv_vmx_read_capability` tells (`hv_vmx_capability_t`): pin-based controls.
    pub const HV_VMX_CAP_PINBASED: u32 = 0;
    /// Primary processor-based controls.
    pub const HV_VMX_CAP_PROCBASED: u32 = 1;
    /// Secondary processor-based controls.
    pub const HV_VMX_CAP_PROCBASED2: u32 = 2;
    /// VM-entry controls.
    pub const HV_VMX_CAP_ENTRY: u32 = 3;
    /// VM-exit controls.
    pub const HV_VMX_CAP_EXIT: u32 = 4;

    #[cfg(target_os = "macos")]
    unsafe extern "C" {
        /// Creates the process's virtual machine; `flags` is 0.
        pub fn hv_vm_create(flags: u64) -> HvReturn;
        /// Creates a vCPU of the calling thread; `flags` is 0.
        pub fn hv_vcpu_create(vcpu: *mut VcpuId, flags: u64) -> HvReturn;
        /// Ends the runs of `count` vCPUs. On any thread.
        pub fn hv_vcpu_interrupt(vcpus: *const VcpuId, count: u32) -> HvReturn;
        /// Reads an architectural register into `*value`.
        pub fn hv_vcpu_read_register(vcpu: VcpuId, reg: Reg, value: *mut u64) -> HvReturn;
        /// Writes an architectural register.
        pub fn hv_vcpu_write_register(vcpu: VcpuId, reg: Reg, value: u64) -> HvReturn;
        /// Lets the guest use an MSR without exits.
        pub fn hv_vcpu_enable_native_msr(vcpu: VcpuId, msr: u32, enable: bool) -> HvReturn;
        /// Reads the x87, SSE and AVX state, as XSAVE lays it out, into `size` bytes.
        pub fn hv_vcpu_read_fpstate(vcpu: VcpuId, buffer: *mut c_void, size: usize) -> HvReturn;
        /// Writes the x87, SSE and AVX state, as XSAVE lays it out, from `size` bytes.
        pub fn hv_vcpu_write_fpstate(vcpu: VcpuId, buffer: *const c_void, size: usize) -> HvReturn;
        /// Forgets the guest's translations.
        pub fn hv_vcpu_invalidate_tlb(vcpu: VcpuId) -> HvReturn;
        /// Reads a field of the VMCS into `*value`.
        pub fn hv_vmx_vcpu_read_vmcs(vcpu: VcpuId, field: u32, value: *mut u64) -> HvReturn;
        /// Writes a field of the VMCS.
        pub fn hv_vmx_vcpu_write_vmcs(vcpu: VcpuId, field: u32, value: u64) -> HvReturn;
        /// Reads which bits of a set of controls may be 0 (the lower half) and 1 (the upper half).
        pub fn hv_vmx_read_capability(capability: u32, value: *mut u64) -> HvReturn;
    }
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn codes_are_those_of_hv_error_h() {
        for (ours, published) in [
            (HV_SUCCESS, 0),
            (HV_ERROR, 0xfae9_4001_u32),
            (HV_BUSY, 0xfae9_4002),
            (HV_BAD_ARGUMENT, 0xfae9_4003),
            (HV_ILLEGAL_GUEST_STATE, 0xfae9_4004),
            (HV_NO_RESOURCES, 0xfae9_4005),
            (HV_NO_DEVICE, 0xfae9_4006),
            (HV_DENIED, 0xfae9_4007),
            (HV_EXISTS_OR_FAULT, 0xfae9_4008),
            (HV_UNSUPPORTED, 0xfae9_400f),
        ] {
            assert_eq!(ours as u32, published);
        }
        assert_eq!((HV_MEMORY_READ, HV_MEMORY_WRITE, HV_MEMORY_EXEC), (1, 2, 4));
    }

    #[test]
    fn arm64_numbers_are_those_of_hv_vcpu_types_h() {
        use arm64::*;
        assert_eq!([HV_REG_PC, HV_REG_FPCR, HV_REG_FPSR, HV_REG_CPSR], [31, 32, 33, 34]);
        assert_eq!([HV_INTERRUPT_TYPE_IRQ, HV_INTERRUPT_TYPE_FIQ], [0, 1]);
        assert_eq!(
            [HV_EXIT_REASON_CANCELED, HV_EXIT_REASON_EXCEPTION, HV_EXIT_REASON_VTIMER_ACTIVATED],
            [0, 1, 2]
        );
        assert_eq!((size_of::<Exit>(), offset_of!(Exit, exception)), (32, 8));
        assert_eq!(
            [
                offset_of!(ExitException, syndrome),
                offset_of!(ExitException, virtual_address),
                offset_of!(ExitException, physical_address),
            ],
            [0, 8, 16]
        );
        assert_eq!(size_of::<Timebase>(), 8);
    }

    #[test]
    fn x86_64_numbers_are_those_of_hv_arch_x86_h() {
        use x86_64::*;
        // The registers are numbered through: RIP, RFLAGS, RAX, …, R15, segments and tables, CR0 and so on.
        assert_eq!(
            [HV_X86_RIP, HV_X86_RFLAGS, HV_X86_RAX, HV_X86_R8, HV_X86_CR2, HV_X86_XCR0],
            [0, 1, 2, 10, 38, 50]
        );
        assert_eq!(
            [
                HV_VMX_CAP_PINBASED,
                HV_VMX_CAP_PROCBASED,
                HV_VMX_CAP_PROCBASED2,
                HV_VMX_CAP_ENTRY,
                HV_VMX_CAP_EXIT
            ],
            [0, 1, 2, 3, 4]
        );
    }
}

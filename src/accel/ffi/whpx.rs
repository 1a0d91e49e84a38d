//! What `WinHvPlatform.dll` declares: the Windows Hypervisor Platform for x86-64, as
//! `WinHvPlatform.h` and `WinHvPlatformDefs.h` of the Windows SDK publish it.
//!
//! The library is loaded at run time, so its functions are types of pointers here. Every function gives
//! an `HRESULT`: negative is a failure.
#![allow(missing_docs, reason = "the names are the SDK's, in Rust's spelling; its documentation is theirs")]

use std::ffi::c_void;

/// An `HRESULT`.
pub type HResult = i32;
/// A `WHV_PARTITION_HANDLE`.
pub type PartitionHandle = isize;
/// A `WHV_REGISTER_NAME`.
pub type RegisterName = i32;

/// Writes at most `size` bytes of a capability to `buffer`, and their number to `written`, which may be
/// null. Contract: both are valid for these writes.
pub type GetCapability =
    unsafe extern "system" fn(code: i32, buffer: *mut c_void, size: u32, written: *mut u32) -> HResult;
/// Makes a partition. Contract: `partition` is valid for the answer.
pub type CreatePartition = unsafe extern "system" fn(partition: *mut PartitionHandle) -> HResult;
/// Brings a partition to life after its properties are set. Contract: none beyond a handle of
/// `CreatePartition` that is not deleted, as for every function below.
pub type SetupPartition = unsafe extern "system" fn(partition: PartitionHandle) -> HResult;
/// Ends a partition with its processors and mappings. Contract: no other call is under way or follows.
pub type DeletePartition = unsafe extern "system" fn(partition: PartitionHandle) -> HResult;
/// Sets a property. Contract: `buffer` holds `size` bytes.
pub type SetPartitionProperty = unsafe extern "system" fn(
    partition: PartitionHandle,
    code: i32,
    buffer: *const c_void,
    size: u32,
) -> HResult;
/// Maps host memory into the guest. Contract: `source` is page-aligned and stays mapped until the
/// partition is deleted; the guest reads and writes it at any time.
pub type MapGpaRange = unsafe extern "system" fn(
    partition: PartitionHandle,
    source: *const c_void,
    gpa: u64,
    size: u64,
    flags: i32,
) -> HResult;
/// Makes a virtual processor. Contract: none.
pub type CreateVirtualProcessor =
    unsafe extern "system" fn(partition: PartitionHandle, index: u32, flags: u32) -> HResult;
/// Ends a virtual processor. Contract: it is not running.
pub type DeleteVirtualProcessor =
    unsafe extern "system" fn(partition: PartitionHandle, index: u32) -> HResult;
/// Runs a virtual processor until an exit. Contract: `context` is valid for `size` bytes of answer; one
/// thread at a time for each processor.
pub type RunVirtualProcessor = unsafe extern "system" fn(
    partition: PartitionHandle,
    index: u32,
    context: *mut c_void,
    size: u32,
) -> HResult;
/// Ends the run that is under way, or else the next one. Contract: none.
pub type CancelRunVirtualProcessor =
    unsafe extern "system" fn(partition: PartitionHandle, index: u32, flags: u32) -> HResult;
/// Reads registers. Contract: `names` holds `count` names, `values` is valid for as many answers.
pub type GetVirtualProcessorRegisters = unsafe extern "system" fn(
    partition: PartitionHandle,
    index: u32,
    names: *const RegisterName,
    count: u32,
    values: *mut RegisterValue,
) -> HResult;
/// Writes registers. Contract: `names` and `values` hold `count` items.
pub type SetVirtualProcessorRegisters = unsafe extern "system" fn(
    partition: PartitionHandle,
    index: u32,
    names: *const RegisterName,
    count: u32,
    values: *const RegisterValue,
) -> HResult;
/// Sends an interrupt message to the partition's APICs. Contract: `control` points to `size` bytes.
pub type RequestInterrupt = unsafe extern "system" fn(
    partition: PartitionHandle,
    control: *const InterruptControl,
    size: u32,
) -> HResult;

/// The functions of the library that are used.
#[derive(Clone, Copy)]
pub struct Functions {
    pub get_capability: GetCapability,
    pub create_partition: CreatePartition,
    pub setup_partition: SetupPartition,
    pub delete_partition: DeletePartition,
    pub set_partition_property: SetPartitionProperty,
    pub map_gpa_range: MapGpaRange,
    pub create_virtual_processor: CreateVirtualProcessor,
    pub delete_virtual_processor: DeleteVirtualProcessor,
    pub run_virtual_processor: RunVirtualProcessor,
    pub cancel_run_virtual_processor: CancelRunVirtualProcessor,
    pub get_virtual_processor_registers: GetVirtualProcessorRegisters,
    pub set_virtual_processor_registers: SetVirtualProcessorRegisters,
    pub request_interrupt: RequestInterrupt,
}

/// `WHV_REGISTER_VALUE`, a union of 16 bytes, as two words.
#[repr(C, align(16))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RegisterValue {
    pub low: u64,
    pub high: u64,
}

/// `WHV_X64_SEGMENT_REGISTER`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SegmentRegister {
    pub base: u64,
    pub limit: u32,
    pub selector: u16,
    /// Type, S, DPL, P in the low byte; AVL, L, D, G in the top four bits.
    pub attributes: u16,
}

/// `WHV_INTERRUPT_CONTROL`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InterruptControl {
    /// Type in bits 0–7, destination mode in 8–11, trigger mode in 12–15.
    pub bits: u64,
    pub destination: u32,
    pub vector: u32,
}

/// `WHV_VP_EXIT_CONTEXT`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct VpExitContext {
    pub execution_state: u16,
    /// Length of the instruction in bits 0–3, CR8 in bits 4–7.
    pub length_and_cr8: u8,
    pub reserved: u8,
    pub reserved2: u32,
    pub cs: SegmentRegister,
    pub rip: u64,
    pub rflags: u64,
}

/// `WHV_MEMORY_ACCESS_CONTEXT`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct MemoryAccessContext {
    pub instruction_byte_count: u8,
    pub reserved: [u8; 3],
    pub instruction_bytes: [u8; 16],
    /// Type in bits 0–1: read, write, execute.
    pub access_info: u32,
    pub gpa: u64,
    pub gva: u64,
}

/// `WHV_X64_IO_PORT_ACCESS_CONTEXT`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct IoPortAccessContext {
    pub instruction_byte_count: u8,
    pub reserved: [u8; 3],
    pub instruction_bytes: [u8; 16],
    /// Write in bit 0, size in bits 1–3, string instruction in bit 4, REP in bit 5.
    pub access_info: u32,
    pub port: u16,
    pub reserved2: [u16; 3],
    pub rax: u64,
    pub rcx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub ds: SegmentRegister,
    pub es: SegmentRegister,
}

/// `WHV_X64_MSR_ACCESS_CONTEXT`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct MsrAccessContext {
    /// Write in bit 0.
    pub access_info: u32,
    pub msr: u32,
    pub rax: u64,
    pub rdx: u64,
}

/// `WHV_X64_CPUID_ACCESS_CONTEXT`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct CpuidAccessContext {
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    pub default_rax: u64,
    pub default_rcx: u64,
    pub default_rdx: u64,
    pub default_rbx: u64,
}

/// The union in `WHV_RUN_VP_EXIT_CONTEXT`.
#[repr(C)]
#[derive(Clone, Copy)]
pub union ExitDetails {
    pub memory: MemoryAccessContext,
    pub io_port: IoPortAccessContext,
    pub msr: MsrAccessContext,
    pub cpuid: CpuidAccessContext,
    /// `WHV_X64_APIC_EOI_CONTEXT`.
    pub eoi_vector: u32,
    /// Room for what is not used, and integers throughout.
    pub words: [u64; 22],
}

/// `WHV_RUN_VP_EXIT_CONTEXT`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RunVpExitContext {
    pub reason: i32,
    pub reserved: u32,
    pub vp: VpExitContext,
    pub details: ExitDetails,
}

/// `WHV_CAPABILITY_CODE`.
pub mod capability {
    pub const HYPERVISOR_PRESENT: i32 = 0;
    pub const FEATURES: i32 = 1;
    pub const EXTENDED_VM_EXITS: i32 = 2;
    /// `WHV_CAPABILITY_FEATURES.LocalApicEmulation`.
    pub const FEATURE_LOCAL_APIC: u64 = 1 << 1;
}

/// `WHV_PARTITION_PROPERTY_CODE`.
pub mod property {
    pub const EXTENDED_VM_EXITS: i32 = 1;
    pub const CPUID_EXIT_LIST: i32 = 0x1003;
    pub const LOCAL_APIC_EMULATION_MODE: i32 = 0x1005;
    pub const PROCESSOR_COUNT: i32 = 0x1fff;
    /// `WHV_EXTENDED_VM_EXITS.X64CpuidExit`.
    pub const EXIT_CPUID: u64 = 1;
    /// `WHV_EXTENDED_VM_EXITS.X64MsrExit`.
    pub const EXIT_MSR: u64 = 1 << 1;
    /// `WHV_X64_LOCAL_APIC_EMULATION_MODE`.
    pub const APIC_XAPIC: i32 = 1;
    pub const APIC_X2APIC: i32 = 2;
}

/// `WHV_MAP_GPA_RANGE_FLAGS`.
pub mod map {
    pub const READ: i32 = 1;
    pub const WRITE: i32 = 2;
    pub const EXECUTE: i32 = 4;
}

/// `WHV_RUN_VP_EXIT_REASON`.
pub mod exit {
    pub const NONE: i32 = 0;
    pub const MEMORY_ACCESS: i32 = 1;
    pub const IO_PORT: i32 = 2;
    pub const UNRECOVERABLE_EXCEPTION: i32 = 4;
    pub const INVALID_REGISTER: i32 = 5;
    pub const UNSUPPORTED_FEATURE: i32 = 6;
    pub const INTERRUPT_WINDOW: i32 = 7;
    pub const HALT: i32 = 8;
    pub const APIC_EOI: i32 = 9;
    pub const MSR: i32 = 0x1000;
    pub const CPUID: i32 = 0x1001;
    pub const CANCELED: i32 = 0x2001;
}

/// `WHV_INTERRUPT_TYPE` and its modes.
pub mod interrupt {
    pub const FIXED: u64 = 0;
    pub const LOWEST_PRIORITY: u64 = 1;
    pub const NMI: u64 = 4;
    pub const INIT: u64 = 5;
    pub const SIPI: u64 = 6;
    pub const LOGICAL: u64 = 1;
    pub const LEVEL: u64 = 1;
}

/// `WHV_REGISTER_NAME`.
pub mod register {
    pub const RAX: i32 = 0;
    pub const RCX: i32 = 1;
    pub const RDX: i32 = 2;
    pub const RBX: i32 = 3;
    pub const RSP: i32 = 4;
    pub const RBP: i32 = 5;
    pub const RSI: i32 = 6;
    pub const RDI: i32 = 7;
    pub const R8: i32 = 8;
    pub const R15: i32 = 15;
    pub const RIP: i32 = 16;
    pub const RFLAGS: i32 = 17;
    pub const ES: i32 = 18;
    pub const CS: i32 = 19;
    pub const SS: i32 = 20;
    pub const DS: i32 = 21;
    pub const FS: i32 = 22;
    pub const GS: i32 = 23;
    pub const LDTR: i32 = 24;
    pub const TR: i32 = 25;
    pub const IDTR: i32 = 26;
    pub const GDTR: i32 = 27;
    pub const CR0: i32 = 28;
    pub const CR2: i32 = 29;
    pub const CR3: i32 = 30;
    pub const CR4: i32 = 31;
    pub const CR8: i32 = 32;
    pub const XMM0: i32 = 0x1000;
    pub const FP_MMX0: i32 = 0x1010;
    pub const FP_CONTROL_STATUS: i32 = 0x1018;
    pub const XMM_CONTROL_STATUS: i32 = 0x1019;
    pub const EFER: i32 = 0x2001;
    pub const APIC_BASE: i32 = 0x2003;
    pub const INTERRUPT_STATE: i32 = 0x8000_0001_u32 as i32;
    pub const PENDING_EVENT: i32 = 0x8000_0002_u32 as i32;
    pub const DELIVERABILITY_NOTIFICATIONS: i32 = 0x8000_0004_u32 as i32;
    pub const INTERNAL_ACTIVITY: i32 = 0x8000_0005_u32 as i32;
    /// `WHV_X64_INTERRUPT_STATE_REGISTER.InterruptShadow`.
    pub const INTERRUPT_SHADOW: u64 = 1;
    /// `WHV_X64_DELIVERABILITY_NOTIFICATIONS_REGISTER.InterruptNotification`.
    pub const INTERRUPT_NOTIFICATION: u64 = 1 << 1;
    /// `WHV_INTERNAL_ACTIVITY_REGISTER.StartupSuspend`.
    pub const STARTUP_SUSPEND: u64 = 1;
    /// `WHV_INTERNAL_ACTIVITY_REGISTER.HaltSuspend`.
    pub const HALT_SUSPEND: u64 = 1 << 1;
    /// `WHV_X64_PENDING_EVENT_TYPE`, in place in the first word, with `EventPending`.
    pub const EVENT_EXCEPTION: u64 = 1;
    pub const EVENT_EXT_INT: u64 = 1 | 5 << 1;
    /// `WHV_X64_PENDING_EXCEPTION_EVENT.DeliverErrorCode`.
    pub const EVENT_ERROR_CODE: u64 = 1 << 8;
}

#[cfg(test)]
mod tests {
    use super::*;
    use windows_sys::Win32::System::Hypervisor as sdk;

    #[test]
    fn constants_are_the_sdks() {
        let pairs = [
            (capability::HYPERVISOR_PRESENT, sdk::WHvCapabilityCodeHypervisorPresent),
            (capability::FEATURES, sdk::WHvCapabilityCodeFeatures),
            (capability::EXTENDED_VM_EXITS, sdk::WHvCapabilityCodeExtendedVmExits),
            (property::EXTENDED_VM_EXITS, sdk::WHvPartitionPropertyCodeExtendedVmExits),
            (property::CPUID_EXIT_LIST, sdk::WHvPartitionPropertyCodeCpuidExitList),
            (property::LOCAL_APIC_EMULATION_MODE, sdk::WHvPartitionPropertyCodeLocalApicEmulationMode),
            (property::PROCESSOR_COUNT, sdk::WHvPartitionPropertyCodeProcessorCount),
            (property::APIC_XAPIC, sdk::WHvX64LocalApicEmulationModeXApic),
            (property::APIC_X2APIC, sdk::WHvX64LocalApicEmulationModeX2Apic),
            (map::READ, sdk::WHvMapGpaRangeFlagRead),
            (map::WRITE, sdk::WHvMapGpaRangeFlagWrite),
            (map::EXECUTE, sdk::WHvMapGpaRangeFlagExecute),
            (exit::NONE, sdk::WHvRunVpExitReasonNone),
            (exit::MEMORY_ACCESS, sdk::WHvRunVpExitReasonMemoryAccess),
            (exit::IO_PORT, sdk::WHvRunVpExitReasonX64IoPortAccess),
            (exit::UNRECOVERABLE_EXCEPTION, sdk::WHvRunVpExitReasonUnrecoverableException),
            (exit::INVALID_REGISTER, sdk::WHvRunVpExitReasonInvalidVpRegisterValue),
            (exit::UNSUPPORTED_FEATURE, sdk::WHvRunVpExitReasonUnsupportedFeature),
            (exit::INTERRUPT_WINDOW, sdk::WHvRunVpExitReasonX64InterruptWindow),
            (exit::HALT, sdk::WHvRunVpExitReasonX64Halt),
            (exit::APIC_EOI, sdk::WHvRunVpExitReasonX64ApicEoi),
            (exit::MSR, sdk::WHvRunVpExitReasonX64MsrAccess),
            (exit::CPUID, sdk::WHvRunVpExitReasonX64Cpuid),
            (exit::CANCELED, sdk::WHvRunVpExitReasonCanceled),
            (interrupt::FIXED as i32, sdk::WHvX64InterruptTypeFixed),
            (interrupt::LOWEST_PRIORITY as i32, sdk::WHvX64InterruptTypeLowestPriority),
            (interrupt::NMI as i32, sdk::WHvX64InterruptTypeNmi),
            (interrupt::INIT as i32, sdk::WHvX64InterruptTypeInit),
            (interrupt::SIPI as i32, sdk::WHvX64InterruptTypeSipi),
            (interrupt::LOGICAL as i32, sdk::WHvX64InterruptDestinationModeLogical),
            (interrupt::LEVEL as i32, sdk::WHvX64InterruptTriggerModeLevel),
            (register::RAX, sdk::WHvX64RegisterRax),
            (register::RCX, sdk::WHvX64RegisterRcx),
            (register::RDX, sdk::WHvX64RegisterRdx),
            (register::RBX, sdk::WHvX64RegisterRbx),
            (register::RSP, sdk::WHvX64RegisterRsp),
            (register::RBP, sdk::WHvX64RegisterRbp),
            (register::RSI, sdk::WHvX64RegisterRsi),
            (register::RDI, sdk::WHvX64RegisterRdi),
            (register::R8, sdk::WHvX64RegisterR8),
            (register::R15, sdk::WHvX64RegisterR15),
            (register::RIP, sdk::WHvX64RegisterRip),
            (register::RFLAGS, sdk::WHvX64RegisterRflags),
            (register::ES, sdk::WHvX64RegisterEs),
            (register::CS, sdk::WHvX64RegisterCs),
            (register::SS, sdk::WHvX64RegisterSs),
            (register::DS, sdk::WHvX64RegisterDs),
            (register::FS, sdk::WHvX64RegisterFs),
            (register::GS, sdk::WHvX64RegisterGs),
            (register::LDTR, sdk::WHvX64RegisterLdtr),
            (register::TR, sdk::WHvX64RegisterTr),
            (register::IDTR, sdk::WHvX64RegisterIdtr),
            (register::GDTR, sdk::WHvX64RegisterGdtr),
            (register::CR0, sdk::WHvX64RegisterCr0),
            (register::CR2, sdk::WHvX64RegisterCr2),
            (register::CR3, sdk::WHvX64RegisterCr3),
            (register::CR4, sdk::WHvX64RegisterCr4),
            (register::CR8, sdk::WHvX64RegisterCr8),
            (register::XMM0, sdk::WHvX64RegisterXmm0),
            (register::FP_MMX0, sdk::WHvX64RegisterFpMmx0),
            (register::FP_CONTROL_STATUS, sdk::WHvX64RegisterFpControlStatus),
            (register::XMM_CONTROL_STATUS, sdk::WHvX64RegisterXmmControlStatus),
            (register::EFER, sdk::WHvX64RegisterEfer),
            (register::APIC_BASE, sdk::WHvX64RegisterApicBase),
            (register::INTERRUPT_STATE, sdk::WHvRegisterInterruptState),
            (register::PENDING_EVENT, sdk::WHvRegisterPendingEvent),
            (register::DELIVERABILITY_NOTIFICATIONS, sdk::WHvX64RegisterDeliverabilityNotifications),
            (register::INTERNAL_ACTIVITY, sdk::WHvRegisterInternalActivityState),
            ((register::EVENT_EXCEPTION >> 1) as i32, sdk::WHvX64PendingEventException),
            ((register::EVENT_EXT_INT >> 1) as i32, sdk::WHvX64PendingEventExtInt),
        ];
        for (index, (ours, theirs)) in pairs.into_iter().enumerate() {
            assert_eq!(ours, theirs, "pair {index}");
        }
    }

    #[test]
    fn structs_are_laid_out_as_the_sdks() {
        assert_eq!(size_of::<RegisterValue>(), size_of::<sdk::WHV_REGISTER_VALUE>());
        assert_eq!(size_of::<SegmentRegister>(), size_of::<sdk::WHV_X64_SEGMENT_REGISTER>());
        assert_eq!(size_of::<InterruptControl>(), size_of::<sdk::WHV_INTERRUPT_CONTROL>());
        assert_eq!(size_of::<VpExitContext>(), size_of::<sdk::WHV_VP_EXIT_CONTEXT>());
        assert_eq!(size_of::<MemoryAccessContext>(), size_of::<sdk::WHV_MEMORY_ACCESS_CONTEXT>());
        assert_eq!(size_of::<IoPortAccessContext>(), size_of::<sdk::WHV_X64_IO_PORT_ACCESS_CONTEXT>());
        assert_eq!(size_of::<MsrAccessContext>(), size_of::<sdk::WHV_X64_MSR_ACCESS_CONTEXT>());
        assert_eq!(size_of::<CpuidAccessContext>(), size_of::<sdk::WHV_X64_CPUID_ACCESS_CONTEXT>());
        assert_eq!(size_of::<RunVpExitContext>(), size_of::<sdk::WHV_RUN_VP_EXIT_CONTEXT>());
        use std::mem::offset_of;
        assert_eq!(
            offset_of!(RunVpExitContext, details),
            offset_of!(sdk::WHV_RUN_VP_EXIT_CONTEXT, Anonymous)
        );
        assert_eq!(offset_of!(VpExitContext, cs), offset_of!(sdk::WHV_VP_EXIT_CONTEXT, Cs));
        assert_eq!(offset_of!(VpExitContext, rflags), offset_of!(sdk::WHV_VP_EXIT_CONTEXT, Rflags));
        assert_eq!(offset_of!(MemoryAccessContext, gpa), offset_of!(sdk::WHV_MEMORY_ACCESS_CONTEXT, Gpa));
        assert_eq!(
            offset_of!(IoPortAccessContext, rax),
            offset_of!(sdk::WHV_X64_IO_PORT_ACCESS_CONTEXT, Rax)
        );
    }
}

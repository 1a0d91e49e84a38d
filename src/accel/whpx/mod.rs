//! The WHPX backend: one partition of the Windows Hypervisor Platform.
//!
//! Hyper-V emulates the LAPICs (`LocalApicEmulationMode`); the IOAPIC, the PICs and the PIT are ours. It
//! emulates no instruction that touches MMIO and no string I/O: the software CPU's interpreter does.
//! Everything but the loading of the library is plain code, which runs against any implementation of its
//! functions.

pub mod library;
mod registers;
mod vcpu;

use std::io;
use std::ptr;
use std::sync::{Arc, OnceLock};

use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use super::ffi::whpx::{
    Functions, HResult, InterruptControl, PartitionHandle, capability, interrupt, map, property,
};
use super::{
    Accel, AccelError, AccelKind, AccelResult, GuestArch, InterruptSink, MsiMessage, MsiSink, VcpuSetup,
};
use crate::memory::GuestMemory;
pub use vcpu::WhpxVcpu;

/// Leaves of CPUID that the hypervisor does not answer: its own name, because a guest that finds Hyper-V
/// would look for more of it than a partition has.
const CPUID_EXITS: [u32; 1] = [vcpu::CPUID_HYPERVISOR];

/// A failed call, with its `HRESULT`.
fn failure(result: HResult) -> io::Error {
    io::Error::other(format!("HRESULT {result:#010x}"))
}

/// `Ok` unless `result` says otherwise.
fn check(operation: &'static str, result: HResult) -> AccelResult<()> {
    if result < 0 { Err(AccelError::Host { operation, source: failure(result) }) } else { Ok(()) }
}

/// A partition; it ends with the last reference.
struct Partition {
    functions: &'static Functions,
    handle: PartitionHandle,
    /// Guest RAM, which must outlive the partition.
    memory: OnceLock<GuestMemory>,
}

impl Partition {
    fn set(&self, operation: &'static str, code: i32, value: &[u8]) -> AccelResult<()> {
        let size = value.len() as u32;
        // SAFETY: the handle is ours, and the slice holds `size` bytes.
        let result = unsafe {
            (self.functions.set_partition_property)(self.handle, code, value.as_ptr().cast(), size)
        };
        check(operation, result)
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        // SAFETY: whoever could call has a reference to this, so nobody does; `memory` is dropped later.
        unsafe { (self.functions.delete_partition)(self.handle) };
    }
}

/// One virtual machine of WHPX.
pub struct WhpxBackend {
    partition: Arc<Partition>,
    /// The exits that the hypervisor can make of instructions that it knows nothing about.
    extended_exits: u64,
    is_set_up: bool,
}

impl WhpxBackend {
    /// Loads the platform and creates an empty partition.
    ///
    /// # Errors
    /// When the platform is absent, switched off or too old; each with its remedy.
    pub fn new() -> AccelResult<Self> {
        Self::with(library::load()?)
    }

    /// A partition of the platform that `functions` implement.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with(functions: &'static Functions) -> AccelResult<Self> {
        if get_capability(functions, capability::HYPERVISOR_PRESENT)? & 0xffff_ffff == 0 {
            return Err(AccelError::Unusable {
                what: "WinHvPlatform.dll".into(),
                reason: "the hypervisor does not run".into(),
                remedy: library::REMEDY.into(),
            });
        }
        if get_capability(functions, capability::FEATURES)? & capability::FEATURE_LOCAL_APIC == 0 {
            return Err(AccelError::Unusable {
                what: "WinHvPlatform.dll".into(),
                reason: "it emulates no local APIC".into(),
                remedy: "Use Windows 10 version 1809 or newer; or use `--accel soft`".into(),
            });
        }
        let wanted = property::EXIT_CPUID | property::EXIT_MSR;
        let extended_exits = get_capability(functions, capability::EXTENDED_VM_EXITS)? & wanted;
        let mut handle = 0;
        // SAFETY: `handle` is valid for the answer.
        check("WHvCreatePartition", unsafe { (functions.create_partition)(&raw mut handle) })?;
        let partition = Arc::new(Partition { functions, handle, memory: OnceLock::new() });
        Ok(Self { partition, extended_exits, is_set_up: false })
    }

    /// Sets the partition up for `cpus` processors, and maps its memory.
    fn set_up(&mut self, cpus: u32) -> AccelResult<()> {
        let partition = &self.partition;
        partition.set(
            "WHvSetPartitionProperty(ProcessorCount)",
            property::PROCESSOR_COUNT,
            &cpus.to_le_bytes(),
        )?;
        let apic = |mode: i32| {
            let code = property::LOCAL_APIC_EMULATION_MODE;
            partition.set("WHvSetPartitionProperty(LocalApicEmulationMode)", code, &mode.to_le_bytes())
        };
        apic(property::APIC_X2APIC).or_else(|_| apic(property::APIC_XAPIC))?;
        partition.set(
            "WHvSetPartitionProperty(ExtendedVmExits)",
            property::EXTENDED_VM_EXITS,
            &self.extended_exits.to_le_bytes(),
        )?;
        if self.extended_exits & property::EXIT_CPUID != 0 {
            let leaves: Vec<u8> = CPUID_EXITS.iter().flat_map(|leaf| leaf.to_le_bytes()).collect();
            partition.set("WHvSetPartitionProperty(CpuidExitList)", property::CPUID_EXIT_LIST, &leaves)?;
        }
        // SAFETY: the handle is ours.
        check("WHvSetupPartition", unsafe { (partition.functions.setup_partition)(partition.handle) })?;
        for region in partition.memory.get().into_iter().flat_map(GuestMemoryBackend::iter) {
            let flags = map::READ | map::WRITE | map::EXECUTE;
            // SAFETY: the mapping is of whole pages, and the partition keeps it for longer than it lives.
            let result = unsafe {
                (partition.functions.map_gpa_range)(
                    partition.handle,
                    region.as_ptr().cast_const().cast(),
                    region.start_addr().raw_value(),
                    region.len(),
                    flags,
                )
            };
            check("WHvMapGpaRange", result)?;
        }
        self.is_set_up = true;
        Ok(())
    }
}

/// A capability's first eight bytes, zeroes where it has fewer.
fn get_capability(functions: &Functions, code: i32) -> AccelResult<u64> {
    let mut value = 0u64;
    // SAFETY: `value` is valid for eight bytes, and the number of bytes written is not asked for.
    let result = unsafe { (functions.get_capability)(code, (&raw mut value).cast(), 8, ptr::null_mut()) };
    check("WHvGetCapability", result)?;
    Ok(value)
}

impl Accel for WhpxBackend {
    type Vcpu = WhpxVcpu;

    fn kind(&self) -> AccelKind {
        AccelKind::Whpx
    }

    fn guest(&self) -> GuestArch {
        GuestArch::X86_64
    }

    /// Remembers the memory: a partition takes it once it knows its processors.
    fn map_memory(&mut self, memory: &GuestMemory) -> AccelResult<()> {
        self.partition.memory.set(memory.clone()).map_err(|_| AccelError::Unusable {
            what: "WHPX".into(),
            reason: "its memory is mapped already".into(),
            remedy: "Make another virtual machine".into(),
        })
    }

    fn create_vcpu(&mut self, id: u32, setup: &VcpuSetup) -> AccelResult<WhpxVcpu> {
        if !self.is_set_up {
            self.set_up(setup.cpus)?;
        }
        WhpxVcpu::new(id, Arc::clone(&self.partition), Arc::clone(&setup.interrupts))
    }

    fn interrupt_sink(&self) -> InterruptSink {
        InterruptSink::Lapic(Arc::new(WhpxMsi(Arc::clone(&self.partition))))
    }
}

/// Hands interrupt messages to Hyper-V's LAPICs.
struct WhpxMsi(Arc<Partition>);

impl MsiSink for WhpxMsi {
    fn signal_msi(&self, message: MsiMessage) {
        let Some(control) = interrupt_control(message) else {
            log::debug!("WHPX has no interrupt like {message:x?}");
            return;
        };
        let size = size_of::<InterruptControl>() as u32;
        // SAFETY: the handle is the partition's, and `control` points to `size` bytes.
        let result = unsafe { (self.0.functions.request_interrupt)(self.0.handle, &raw const control, size) };
        // A message that names no APIC is dropped, as on the bus.
        if result < 0 {
            log::debug!("WHvRequestInterrupt of {message:x?} failed: {}", failure(result));
        }
    }
}

/// An interrupt message in WHPX's words (Intel SDM vol. 3, 11.11); `None` for SMI and ExtINT.
fn interrupt_control(message: MsiMessage) -> Option<InterruptControl> {
    let kind = match message.data >> 8 & 7 {
        0 => interrupt::FIXED,
        1 => interrupt::LOWEST_PRIORITY,
        4 => interrupt::NMI,
        5 => interrupt::INIT,
        _ => return None,
    };
    let logical = message.address >> 2 & 1 != 0;
    let level = message.data >> 15 & 1 != 0;
    let bits = kind
        | if logical { interrupt::LOGICAL << 8 } else { 0 }
        | if level { interrupt::LEVEL << 12 } else { 0 };
    let destination = message.address >> 12 & 0xff | message.address >> 32 & 0xffff_ff00;
    Some(InterruptControl { bits, destination: destination as u32, vector: message.data & 0xff })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_become_interrupt_requests() {
        let request = |address, data| interrupt_control(MsiMessage { address, data });
        let fixed = InterruptControl { bits: 0, destination: 3, vector: 0x41 };
        assert_eq!(request(0xfee0_3000, 0x41), Some(fixed));
        let level = InterruptControl { bits: 1 << 12 | 1 << 8 | 1, destination: 0xff, vector: 0x30 };
        assert_eq!(request(0xfeef_f004, 0x8130), Some(level));
        let far = InterruptControl { bits: 4, destination: 0x105, vector: 0 };
        assert_eq!(request(0x100_fee0_5000, 0x400), Some(far));
        assert_eq!(request(0xfee0_0000, 0x700), None, "ExtINT is no message for a LAPIC here");
    }
}

//! A test double of `WinHvPlatform.dll`: the functions that the WHPX backend uses, on top of the software
//! CPU. It behaves as the Windows Hypervisor Platform is documented to: the APICs are its own, port I/O,
//! MMIO and EOIs are exits with nothing executed, a processor that halts sleeps inside, a cancelled run
//! ends now or at its next start. It checks the order of the calls.
//!
//! Built as `WinHvPlatform.dll` beside the program it lets the backend run under Wine; the test
//! `tests/whpx.rs` calls it directly.
#![allow(non_snake_case, reason = "the names are the SDK's")]
#![allow(clippy::missing_safety_doc, reason = "the contracts are in accel::ffi::whpx")]

mod partition;
mod processor;
mod registers;

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use partition::Partition;
use vm_accel::accel::ffi::whpx::{
    HResult, InterruptControl, PartitionHandle, RegisterName, RegisterValue, RunVpExitContext, capability,
    property,
};

/// Success.
const S_OK: HResult = 0;
/// `E_INVALIDARG`.
const E_INVALID_ARGUMENT: HResult = 0x8007_0057_u32 as i32;
/// `WHV_E_INSUFFICIENT_BUFFER`.
const E_INSUFFICIENT_BUFFER: HResult = 0x8037_0301_u32 as i32;
/// `WHV_E_UNKNOWN_PROPERTY`.
const E_UNKNOWN_PROPERTY: HResult = 0x8037_0303_u32 as i32;
/// `WHV_E_INVALID_PARTITION_CONFIG`.
const E_INVALID_CONFIGURATION: HResult = 0x8037_0305_u32 as i32;

/// The result of a function of the double.
type Outcome<T = ()> = Result<T, HResult>;

static PARTITIONS: Mutex<BTreeMap<PartitionHandle, Arc<Partition>>> = Mutex::new(BTreeMap::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does `work` with the partition `handle`.
fn with(handle: PartitionHandle, work: impl FnOnce(&Partition) -> Outcome) -> HResult {
    let partition = lock(&PARTITIONS).get(&handle).cloned();
    match partition.ok_or(E_INVALID_ARGUMENT).and_then(|partition| work(&partition)) {
        Ok(()) => S_OK,
        Err(error) => error,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WHvGetCapability(
    code: i32,
    buffer: *mut c_void,
    size: u32,
    written: *mut u32,
) -> HResult {
    let (value, len) = match code {
        // A BOOL.
        capability::HYPERVISOR_PRESENT => (1u64, 4),
        capability::FEATURES => (capability::FEATURE_LOCAL_APIC, 8),
        capability::EXTENDED_VM_EXITS => (property::EXIT_CPUID | property::EXIT_MSR, 8),
        _ => return E_INVALID_ARGUMENT,
    };
    if size < len {
        return E_INSUFFICIENT_BUFFER;
    }
    let bytes = value.to_le_bytes();
    // SAFETY: the caller's buffer has room for `size` bytes, and `written` is null or valid.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.cast(), len as usize);
        if let Some(written) = written.as_mut() {
            *written = len;
        }
    }
    S_OK
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WHvCreatePartition(partition: *mut PartitionHandle) -> HResult {
    let Ok(made) = Partition::new() else { return E_INVALID_CONFIGURATION };
    let mut partitions = lock(&PARTITIONS);
    let handle = partitions.last_key_value().map_or(0x1000, |(last, _)| last + 1);
    partitions.insert(handle, Arc::new(made));
    // SAFETY: the caller's place is valid.
    unsafe { *partition = handle };
    S_OK
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WHvSetupPartition(partition: PartitionHandle) -> HResult {
    with(partition, Partition::set_up)
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WHvDeletePartition(partition: PartitionHandle) -> HResult {
    match lock(&PARTITIONS).remove(&partition) {
        Some(_) => S_OK,
        None => E_INVALID_ARGUMENT,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WHvSetPartitionProperty(
    partition: PartitionHandle,
    code: i32,
    buffer: *const c_void,
    size: u32,
) -> HResult {
    // SAFETY: the caller's buffer holds `size` bytes.
    let value = unsafe { slice::from_raw_parts(buffer.cast::<u8>(), size as usize) };
    with(partition, |partition| partition.set_property(code, value))
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WHvMapGpaRange(
    partition: PartitionHandle,
    source: *const c_void,
    gpa: u64,
    size: u64,
    flags: i32,
) -> HResult {
    with(partition, |partition| partition.map(source.expose_provenance(), gpa, size, flags))
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WHvCreateVirtualProcessor(
    partition: PartitionHandle,
    index: u32,
    _flags: u32,
) -> HResult {
    with(partition, |partition| partition.create_processor(index))
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WHvDeleteVirtualProcessor(partition: PartitionHandle, index: u32) -> HResult {
    with(partition, |partition| partition.delete_processor(index))
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WHvRunVirtualProcessor(
    partition: PartitionHandle,
    index: u32,
    context: *mut c_void,
    size: u32,
) -> HResult {
    if (size as usize) < size_of::<RunVpExitContext>() {
        return E_INSUFFICIENT_BUFFER;
    }
    with(partition, |partition| {
        let exit = partition.processor(index)?.run()?;
        // SAFETY: the caller's buffer has room for the context.
        unsafe { context.cast::<RunVpExitContext>().write_unaligned(exit) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WHvCancelRunVirtualProcessor(
    partition: PartitionHandle,
    index: u32,
    _flags: u32,
) -> HResult {
    with(partition, |partition| {
        partition.processor(index)?.cancel();
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WHvGetVirtualProcessorRegisters(
    partition: PartitionHandle,
    index: u32,
    names: *const RegisterName,
    count: u32,
    values: *mut RegisterValue,
) -> HResult {
    // SAFETY: the caller's arrays have `count` items.
    let (names, values) = unsafe {
        (slice::from_raw_parts(names, count as usize), slice::from_raw_parts_mut(values, count as usize))
    };
    with(partition, |partition| partition.processor(index)?.get(names, values))
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WHvSetVirtualProcessorRegisters(
    partition: PartitionHandle,
    index: u32,
    names: *const RegisterName,
    count: u32,
    values: *const RegisterValue,
) -> HResult {
    // SAFETY: the caller's arrays have `count` items.
    let (names, values) = unsafe {
        (slice::from_raw_parts(names, count as usize), slice::from_raw_parts(values, count as usize))
    };
    with(partition, |partition| partition.processor(index)?.set(names, values))
}

#[unsafe(no_mangle)]
pub unsafe extern "system" fn WHvRequestInterrupt(
    partition: PartitionHandle,
    control: *const InterruptControl,
    size: u32,
) -> HResult {
    if (size as usize) < size_of::<InterruptControl>() {
        return E_INVALID_ARGUMENT;
    }
    // SAFETY: the caller's pointer is to `size` bytes.
    let control = unsafe { control.read_unaligned() };
    with(partition, |partition| partition.interrupt(control))
}

//! Memory accesses of the system side, of a size known only at run time.

#![forbid(unsafe_code)]

use super::super::abort::{Abort, AbortReason, Exec};
use super::super::memory::Access;
use super::super::state::Cpu;

/// Loads `size` bytes (1, 2, 4 or 8).
///
/// # Errors
/// A fault or an MMIO access.
pub fn read(cpu: &mut Cpu, linear: u64, size: u8, access: Access) -> Exec<u64> {
    match size {
        1 => cpu.read_u8(linear, access).map(u64::from),
        2 => cpu.read_u16(linear, access).map(u64::from),
        4 => cpu.read_u32(linear, access).map(u64::from),
        _ => cpu.read_u64(linear, access),
    }
}

/// Stores the low `size` bytes (1, 2, 4 or 8) of `value`.
///
/// # Errors
/// A fault or an MMIO access.
pub fn write(cpu: &mut Cpu, linear: u64, size: u8, value: u64, access: Access) -> Exec {
    match size {
        1 => cpu.write_u8(linear, value as u8, access),
        2 => cpu.write_u16(linear, value as u16, access),
        4 => cpu.write_u32(linear, value as u32, access),
        _ => cpu.write_u64(linear, value, access),
    }
}

/// Loads from a system structure (GDT, LDT, IDT, TSS). Where there is no RAM it is all-ones: these
/// accesses are not replayed.
///
/// # Errors
/// A page fault.
pub fn system_read(cpu: &mut Cpu, linear: u64, size: u8) -> Exec<u64> {
    let result = read(cpu, system_linear(cpu, linear), size, Access::Supervisor);
    without_mmio(cpu, result, u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8))))
}

/// Stores to a system structure; where there is no RAM the store is lost.
///
/// # Errors
/// A page fault.
pub fn system_write(cpu: &mut Cpu, linear: u64, size: u8, value: u64) -> Exec {
    let result = write(cpu, system_linear(cpu, linear), size, value, Access::Supervisor);
    without_mmio(cpu, result, ())
}

/// Takes `otherwise` for the result of an access without RAM.
///
/// # Errors
/// Any abort but that of MMIO.
pub fn without_mmio<T>(cpu: &mut Cpu, result: Exec<T>, otherwise: T) -> Exec<T> {
    match (result, cpu.abort) {
        (Err(Abort), AbortReason::MmioRead { .. } | AbortReason::MmioWrite { .. }) => {
            cpu.abort = AbortReason::None;
            Ok(otherwise)
        }
        (result, _) => result,
    }
}

/// Outside IA-32e mode linear addresses have 32 bits.
fn system_linear(cpu: &Cpu, linear: u64) -> u64 {
    if cpu.long_mode_active() { linear } else { linear & 0xffff_ffff }
}

/// Whether an address is canonical for 48-bit linear addresses.
#[must_use]
pub fn is_canonical(address: u64) -> bool {
    (address as i64) << 16 >> 16 == address as i64
}

//! Loads and stores of guest RAM, in the order that x86 promises its guests.
//!
//! An x86 processor lets a later load overtake an earlier store, and nothing else (Intel SDM vol. 3, 10.2).
//! An x86-64 host does the same with plain accesses. Other hosts reorder more, and a guest with several
//! vCPUs would notice, so there every aligned load acquires and every aligned store releases: that is x86's
//! order exactly, because nothing passes an acquiring load, and a releasing store passes nothing. An access
//! without alignment has a fence of its own.

use super::integer::Int;

pub(super) use host::{read_host, write_host};

/// A value without alignment, so that one volatile access reads or writes it anywhere.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Unaligned<T: Copy>(T);

#[cfg(target_arch = "x86_64")]
mod host {
    use std::arch::asm;

    use super::{Int, Unaligned};

    /// Reads guest RAM at a host address.
    ///
    /// # Safety
    /// `T::BYTES` bytes at `host` must lie in the mapping of guest RAM.
    #[inline(always)]
    pub(in crate::accel::soft) unsafe fn read_host<T: Int>(host: usize) -> T {
        // SAFETY: the caller promises that the bytes are mapped; any bits make an integer. The access is
        // volatile, as vm-memory's own are: other vCPUs and devices may write at the same time, which is
        // the guest's race, and the compiler neither repeats nor assumes anything about the value.
        unsafe { std::ptr::read_volatile(std::ptr::with_exposed_provenance::<Unaligned<T>>(host)).0 }
    }

    /// Writes guest RAM at a host address.
    ///
    /// # Safety
    /// As for `read_host`.
    #[inline(always)]
    pub(in crate::accel::soft) unsafe fn write_host<T: Int>(host: usize, value: T) {
        // The compiler makes a detour by the stack of a volatile write without alignment.
        let value = value.to_u64();
        // SAFETY: one store to the bytes that the caller vouches for; no Rust reference to guest RAM exists.
        unsafe {
            match T::BYTES {
                1 => {
                    asm!("mov [{}], {}", in(reg) host, in(reg_byte) value as u8, options(nostack, preserves_flags))
                }
                2 => {
                    asm!("mov [{}], {:x}", in(reg) host, in(reg) value as u16, options(nostack, preserves_flags))
                }
                4 => {
                    asm!("mov [{}], {:e}", in(reg) host, in(reg) value as u32, options(nostack, preserves_flags))
                }
                _ => asm!("mov [{}], {}", in(reg) host, in(reg) value, options(nostack, preserves_flags)),
            }
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod host {
    use std::ptr;
    use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

    use super::{Int, Unaligned};

    /// Reads guest RAM at a host address.
    ///
    /// # Safety
    /// `T::BYTES` bytes at `host` must lie in the mapping of guest RAM.
    #[inline(always)]
    pub(in crate::accel::soft) unsafe fn read_host<T: Int>(host: usize) -> T {
        if !(host as u64).is_multiple_of(T::BYTES) {
            // SAFETY: the caller promises that the bytes are mapped; any bits make an integer.
            let value = unsafe { ptr::read_volatile(ptr::with_exposed_provenance::<Unaligned<T>>(host)).0 };
            fence(Ordering::Acquire);
            return value;
        }
        // SAFETY: mapped, aligned bytes that are only accessed as shared memory.
        T::from_u64(unsafe {
            match T::BYTES {
                1 => {
                    AtomicU8::from_ptr(ptr::with_exposed_provenance_mut(host)).load(Ordering::Acquire).into()
                }
                2 => {
                    AtomicU16::from_ptr(ptr::with_exposed_provenance_mut(host)).load(Ordering::Acquire).into()
                }
                4 => {
                    AtomicU32::from_ptr(ptr::with_exposed_provenance_mut(host)).load(Ordering::Acquire).into()
                }
                _ => AtomicU64::from_ptr(ptr::with_exposed_provenance_mut(host)).load(Ordering::Acquire),
            }
        })
    }

    /// Writes guest RAM at a host address.
    ///
    /// # Safety
    /// As for `read_host`.
    #[inline(always)]
    pub(in crate::accel::soft) unsafe fn write_host<T: Int>(host: usize, value: T) {
        if !(host as u64).is_multiple_of(T::BYTES) {
            fence(Ordering::Release);
            // SAFETY: as for `read_host`; no Rust reference to guest RAM exists.
            unsafe { ptr::write_volatile(ptr::with_exposed_provenance_mut(host), Unaligned(value)) };
            return;
        }
        let value = value.to_u64();
        // SAFETY: mapped, aligned bytes that are only accessed as shared memory.
        unsafe {
            match T::BYTES {
                1 => AtomicU8::from_ptr(ptr::with_exposed_provenance_mut(host))
                    .store(value as u8, Ordering::Release),
                2 => AtomicU16::from_ptr(ptr::with_exposed_provenance_mut(host))
                    .store(value as u16, Ordering::Release),
                4 => AtomicU32::from_ptr(ptr::with_exposed_provenance_mut(host))
                    .store(value as u32, Ordering::Release),
                _ => AtomicU64::from_ptr(ptr::with_exposed_provenance_mut(host))
                    .store(value, Ordering::Release),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_go_anywhere() {
        let mut bytes = [0u8; 24];
        let base = bytes.as_mut_ptr().expose_provenance();
        for at in 0..9 {
            // SAFETY: all of these bytes are `bytes`'.
            unsafe {
                write_host(base + at, 0x1122_3344_5566_7788u64);
                assert_eq!(read_host::<u64>(base + at), 0x1122_3344_5566_7788);
                assert_eq!(read_host::<u32>(base + at + 1), 0x4455_6677);
                write_host(base + at, 0xaau8);
                write_host(base + at + 1, 0xbbccu16);
                assert_eq!(read_host::<u32>(base + at), 0x55bb_ccaa);
            }
        }
    }

    /// The order that x86 promises: who sees the second store sees the first.
    #[test]
    fn messages_pass_in_order() {
        static CELLS: [std::sync::atomic::AtomicU64; 2] = [const { std::sync::atomic::AtomicU64::new(0) }; 2];
        let place = |index: usize| CELLS[index].as_ptr().expose_provenance();
        let writer = std::thread::spawn(move || {
            for round in 1..20_000u64 {
                // SAFETY: atomics of this test, aligned.
                unsafe {
                    write_host(place(0), round);
                    write_host(place(1), round);
                }
            }
        });
        while !writer.is_finished() {
            // SAFETY: as above.
            let (flag, data): (u64, u64) = unsafe { (read_host(place(1)), read_host(place(0))) };
            assert!(data >= flag, "{data} {flag}");
        }
        writer.join().unwrap();
    }
}

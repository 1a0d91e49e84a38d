//! KVM's paravirtual clock: the pages that a guest registers through MSRs
//! (Linux, Documentation/virt/kvm/x86/msr.rst); and its asynchronous page faults, of which there are none.

#![forbid(unsafe_code)]

use std::time::Duration;

use super::time::TSC_HZ;

/// `MSR_KVM_WALL_CLOCK_NEW`.
pub const WALL_CLOCK_NEW: u32 = 0x4b56_4d00;
/// `MSR_KVM_SYSTEM_TIME_NEW`.
pub const SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
/// `MSR_KVM_WALL_CLOCK`.
pub const WALL_CLOCK: u32 = 0x11;
/// `MSR_KVM_SYSTEM_TIME`.
pub const SYSTEM_TIME: u32 = 0x12;

/// `MSR_KVM_ASYNC_PF_EN`: a guest that does not ask CPUID may set it. RAM is never absent, so no page fault
/// is ever announced.
pub const ASYNC_PF: u32 = 0x4b56_4d02;
/// Its reserved bits.
pub const ASYNC_PF_RESERVED: u64 = 0b11 << 4;

/// Bit 0 of the system time MSR: the page is kept up to date.
pub const ENABLED: u64 = 1;

/// `PVCLOCK_TSC_STABLE_BIT`: the clock is the same and monotonic on all vCPUs.
const FLAG_TSC_STABLE: u8 = 1;

/// Nanoseconds = `(ticks << shift) * multiplier >> 32`; exact, because a tick is a nanosecond.
const TSC_SHIFT: i8 = 1;
const TSC_MULTIPLIER: u32 = 1 << 31;
const _: () = assert!(TSC_HZ == 1_000_000_000);

/// `struct pvclock_vcpu_time_info`: at TSC value `tsc` the system time is `nanoseconds`. An even version
/// says that the page is consistent; each update has another.
#[must_use]
pub fn system_time(version: u32, tsc: u64, nanoseconds: u64) -> [u8; 32] {
    let mut page = [0; 32];
    page[0..4].copy_from_slice(&(version & !1).to_le_bytes());
    page[8..16].copy_from_slice(&tsc.to_le_bytes());
    page[16..24].copy_from_slice(&nanoseconds.to_le_bytes());
    page[24..28].copy_from_slice(&TSC_MULTIPLIER.to_le_bytes());
    page[28] = TSC_SHIFT.to_le_bytes()[0];
    page[29] = FLAG_TSC_STABLE;
    page
}

/// `struct pvclock_wall_clock`: the wall-clock time at system time 0.
#[must_use]
pub fn wall_clock(version: u32, boot: Duration) -> [u8; 12] {
    let mut page = [0; 12];
    page[0..4].copy_from_slice(&(version & !1).to_le_bytes());
    // Seconds since 1970 in 32 bits, as the interface has it.
    page[4..8].copy_from_slice(&((boot.as_secs() & 0xffff_ffff) as u32).to_le_bytes());
    page[8..12].copy_from_slice(&boot.subsec_nanos().to_le_bytes());
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a guest computes from the page (Linux, `__pvclock_read_cycles`).
    fn guest_nanoseconds(page: &[u8; 32], tsc: u64) -> u64 {
        let word = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
        let delta = tsc.wrapping_sub(word(8)) << page[28];
        let scaled = (u128::from(delta) * u128::from(word(24) as u32)) >> 32;
        word(16).wrapping_add(scaled as u64)
    }

    #[test]
    fn a_guest_computes_the_same_nanoseconds() {
        let page = system_time(2, 1_000, 400);
        for (tsc, expected) in [(1_000, 400), (1_001, 401), (5_000_001_000, 5_000_000_400)] {
            assert_eq!(guest_nanoseconds(&page, tsc), expected);
        }
        assert_eq!(page[0] & 1, 0);
        assert_eq!(page[29] & 1, 1);
    }

    #[test]
    fn wall_clock_layout() {
        let page = wall_clock(3, Duration::new(0x1_0000_0002, 7));
        assert_eq!(page, [2, 0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0]);
    }
}

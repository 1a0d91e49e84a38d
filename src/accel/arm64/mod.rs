//! What every backend of AArch64 guests has in common: where the machine's GIC is, how vCPUs are numbered,
//! and when one can never run again.

#![forbid(unsafe_code)]

pub mod parked;
pub mod translate;

/// Guest-physical address of the GIC's distributor.
pub const GICD: u64 = 0x0800_0000;
/// Length of the distributor in bytes: a GICv3's; a GICv2's is the first 4 KiB.
pub const GICD_BYTES: u64 = 0x1_0000;
/// Length of a GICv2's distributor in bytes.
pub const GICV2_GICD_BYTES: u64 = 0x1000;
/// Guest-physical address of a GICv2's CPU interface.
pub const GICC: u64 = 0x0801_0000;
/// Length of the CPU interface in bytes.
pub const GICC_BYTES: u64 = 0x2000;
/// Guest-physical address of a GICv3's redistributors, which lie behind each other.
pub const GICR: u64 = 0x080A_0000;
/// Length of one vCPU's redistributor in bytes.
pub const GICR_BYTES: u64 = 0x2_0000;
/// The most vCPUs whose redistributors have room: the devices begin behind them.
pub const MAX_CPUS: u32 = 123;

/// Number of shared peripheral interrupts of the GIC.
pub const SPIS: u32 = 96;
/// The INTID of the first shared peripheral interrupt.
pub const FIRST_SPI: u32 = 32;

/// PPI numbers of the generic timer: secure physical, non-secure physical, virtual, hypervisor's physical.
pub const TIMER_PPIS: [u32; 4] = [13, 14, 11, 10];

/// The affinity fields of the MPIDR of vCPU `id`: 16 vCPUs share the fields above the lowest one, because an
/// SGI names up to 16 (GIC architecture, `ICC_SGI1R_EL1`). KVM numbers its vCPUs so, too.
#[must_use]
pub fn affinity(id: u32) -> u64 {
    let id = u64::from(id);
    (id >> 12 & 0xFF) << 16 | (id >> 4 & 0xFF) << 8 | id & 0xF
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinities_are_unique_and_the_redistributors_end_before_the_devices() {
        assert_eq!([0, 1, 15, 16, 17, 122].map(affinity), [0, 1, 15, 0x100, 0x101, 0x70A]);
        assert_eq!(affinity(0x1234), 0x1_2304);
        assert!(GICR + u64::from(MAX_CPUS) * GICR_BYTES <= crate::devices::arm64::DEVICES);
    }
}

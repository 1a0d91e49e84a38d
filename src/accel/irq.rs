//! Interrupts between a backend and the machine's devices, in each direction and by guest architecture.
//!
//! On x86-64 the IOAPIC, the PICs and the PIT are devices; the LAPIC belongs to the backend (the
//! hypervisor's own, or ours inside the software CPU). What passes between them is an MSI one way, and the
//! INTA cycle and the EOI broadcast the other way. On AArch64 the whole GIC belongs to the backend, and what
//! passes is the level of its lines.

#![forbid(unsafe_code)]

use std::sync::Arc;

/// What a backend offers the machine's devices to interrupt its vCPUs with; it tells the machine, too.
#[derive(Clone)]
pub enum InterruptSink {
    /// An x86-64 guest's LAPICs.
    Lapic(Arc<dyn MsiSink>),
    /// An AArch64 guest's GIC.
    Gic(Gic),
}

/// An interrupt message, as a device writes it and the IOAPIC makes it (Intel SDM vol. 3, 11.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsiMessage {
    /// Address: `0xFEEx_xxxx` with destination id and mode. Bits 32 and up hold the high part of a
    /// 32-bit destination id, as KVM and QEMU encode it.
    pub address: u64,
    /// Data: vector, delivery mode, level, trigger mode.
    pub data: u32,
}

/// Where interrupt messages go: a backend's LAPICs.
pub trait MsiSink: Send + Sync {
    /// Delivers a message. One that names no LAPIC is dropped, as on the bus.
    fn signal_msi(&self, message: MsiMessage);

    /// Says which messages the IOAPIC's unmasked level-triggered pins now make. A backend whose LAPICs
    /// broadcast every EOI has no use for it; one with LAPICs in the hypervisor reports an EOI only for
    /// these.
    fn level_routes_changed(&self, routes: &[MsiMessage]) {
        let _ = routes;
    }
}

/// What a backend's vCPUs ask of the machine's interrupt controllers.
pub trait InterruptController: Send + Sync {
    /// Whether the 8259 pair asserts INTR to the boot processor. Cheap: it is asked before every run.
    fn extint_pending(&self) -> bool;

    /// The INTA cycle: acknowledges the 8259 pair's highest request and gives its vector.
    fn extint_acknowledge(&self) -> Option<u8>;

    /// A LAPIC's EOI broadcast for a level-triggered `vector`.
    fn eoi(&self, vector: u8);
}

/// The interrupt controllers of a machine whose backend has them all.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoController;

impl InterruptController for NoController {
    fn extint_pending(&self) -> bool {
        false
    }

    fn extint_acknowledge(&self) -> Option<u8> {
        None
    }

    fn eoi(&self, _vector: u8) {}
}

/// A backend's GIC. Its registers are at the addresses of `accel::arm64`.
#[derive(Clone)]
pub struct Gic {
    /// The version of its architecture.
    pub version: GicVersion,
    /// Its lines.
    pub lines: Arc<dyn SpiLines>,
}

/// The version of a GIC's architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GicVersion {
    /// GICv2: memory-mapped CPU interfaces, and so 8 vCPUs at most.
    V2,
    /// GICv3: a redistributor a vCPU, and CPU interfaces in system registers.
    V3,
}

/// The lines of a GIC's shared peripheral interrupts.
pub trait SpiLines: Send + Sync {
    /// Drives SPI number `spi` (its INTID is 32 higher) to `level`. It is only called when the level
    /// changes.
    fn set_spi(&self, spi: u32, level: bool);
}

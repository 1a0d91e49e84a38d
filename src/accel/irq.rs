//! The two directions of interrupts between a backend and the machine's interrupt controllers.
//!
//! The IOAPIC, the PICs and the PIT are devices; the LAPIC belongs to the backend (the hypervisor's own,
//! or ours inside the software CPU). What passes between them is an MSI one way, and the INTA cycle and
//! the EOI broadcast the other way.

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

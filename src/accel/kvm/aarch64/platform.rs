//! What a virtual machine has beside its memory: its GIC, and what its vCPUs are.
//!
//! The GIC is KVM's: a GICv3, or a GICv2 where the host's hardware can only do that. It is made with the
//! virtual machine, because the device tree tells which it is, and initialized with the last vCPU, because
//! KVM wants to know all of them by then.

use std::sync::Arc;

use kvm_bindings::{
    KVM_ARM_IRQ_TYPE_SHIFT, KVM_ARM_IRQ_TYPE_SPI, KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2,
    KVM_ARM_VCPU_PTRAUTH_ADDRESS, KVM_ARM_VCPU_PTRAUTH_GENERIC, KVM_CAP_ARM_NISV_TO_USER,
    KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CTRL,
    KVM_DEV_ARM_VGIC_GRP_NR_IRQS, KVM_VGIC_V2_ADDR_TYPE_CPU, KVM_VGIC_V2_ADDR_TYPE_DIST,
    KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST, kvm_create_device, kvm_device_attr,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3, kvm_enable_cap,
    kvm_vcpu_init,
};
use kvm_ioctls::{Cap, DeviceFd, Kvm, VcpuFd, VmFd};

use super::super::host;
use super::KvmVcpu;
use crate::accel::arm64::{FIRST_SPI, GICC, GICD, GICR, SPIS};
use crate::accel::{AccelError, AccelResult, Gic, GicVersion, GuestArch, InterruptSink, SpiLines, VcpuSetup};
use crate::memory::GuestMemory;

/// What this KVM's guests are.
pub const GUEST: GuestArch = GuestArch::Aarch64;
/// What to do where there is no KVM.
pub const HOW_TO_HAVE_KVM: &str = "Boot the host at EL2 (its kernel says `CPU: All CPU(s) started at EL2`), \
     or enable nested virtualization of the outer machine; an x86-64 kernel runs with `--accel soft`";
/// What the machine needs of KVM.
pub const REQUIRED: [(Cap, &str); 6] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::OneReg, "KVM_CAP_ONE_REG"),
    (Cap::DeviceCtrl, "KVM_CAP_DEVICE_CTRL"),
    (Cap::ArmPsci02, "KVM_CAP_ARM_PSCI_0_2"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// A GICv2 has eight CPU interfaces.
const GICV2_CPUS: u32 = 8;

/// What a virtual machine has beside its memory.
pub struct Platform {
    gic: DeviceFd,
    version: GicVersion,
    /// What `KVM_ARM_VCPU_INIT` is given for the boot processor.
    init: kvm_vcpu_init,
}

impl Platform {
    /// Gives a fresh virtual machine its GIC.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn new(_kvm: Kvm, vm: &VmFd) -> AccelResult<Self> {
        let (version, gic) = create_gic(vm)?;
        let lines = FIRST_SPI + SPIS;
        set_attribute(&gic, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, Some(&lines))?;
        let places = match version {
            GicVersion::V3 => [(KVM_VGIC_V3_ADDR_TYPE_DIST, GICD), (KVM_VGIC_V3_ADDR_TYPE_REDIST, GICR)],
            GicVersion::V2 => [(KVM_VGIC_V2_ADDR_TYPE_DIST, GICD), (KVM_VGIC_V2_ADDR_TYPE_CPU, GICC)],
        };
        for (kind, gpa) in places {
            set_attribute(&gic, KVM_DEV_ARM_VGIC_GRP_ADDR, kind, Some(&gpa))?;
        }
        if vm.check_extension_raw(KVM_CAP_ARM_NISV_TO_USER.into()) > 0 {
            // Else KVM_RUN fails where a guest loads from a device by an instruction that cannot be emulated.
            let nisv = kvm_enable_cap { cap: KVM_CAP_ARM_NISV_TO_USER, ..Default::default() };
            vm.enable_cap(&nisv).map_err(host("KVM_ENABLE_CAP(KVM_CAP_ARM_NISV_TO_USER)"))?;
        }
        Ok(Self { gic, version, init: vcpu_init(vm)? })
    }

    /// Makes a vCPU of one that KVM has just created. The last one completes the GIC.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn finish_vcpu(
        &mut self,
        id: u32,
        fd: VcpuFd,
        setup: &VcpuSetup,
        memory: Option<GuestMemory>,
    ) -> AccelResult<KvmVcpu> {
        if self.version == GicVersion::V2 && setup.cpus > GICV2_CPUS {
            return Err(AccelError::Unusable {
                what: format!("a machine with {} CPUs", setup.cpus),
                reason: "this host's interrupt controller is a GICv2".into(),
                remedy: format!("Give it {GICV2_CPUS} at most with `--cpus`"),
            });
        }
        let mut init = self.init;
        if id != 0 {
            init.features[0] |= 1 << KVM_ARM_VCPU_POWER_OFF;
        }
        fd.vcpu_init(&init).map_err(host("KVM_ARM_VCPU_INIT"))?;
        if id + 1 == setup.cpus {
            set_attribute::<u64>(&self.gic, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, None)?;
        }
        Ok(KvmVcpu::new(id, fd, memory))
    }

    /// The GIC.
    pub fn interrupt_sink(&self, vm: &Arc<VmFd>) -> InterruptSink {
        InterruptSink::Gic(Gic { version: self.version, lines: Arc::new(KvmSpis(Arc::clone(vm))) })
    }
}

/// Makes the best GIC that the host has.
fn create_gic(vm: &VmFd) -> AccelResult<(GicVersion, DeviceFd)> {
    let create = |type_| {
        let mut device = kvm_create_device { type_, fd: 0, flags: 0 };
        vm.create_device(&mut device)
    };
    let v3 = match create(kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3) {
        Ok(gic) => return Ok((GicVersion::V3, gic)),
        Err(error) => error,
    };
    match create(kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2) {
        Ok(gic) => Ok((GicVersion::V2, gic)),
        Err(v2) => Err(AccelError::Unusable {
            what: "this KVM emulates no interrupt controller".into(),
            reason: format!("a GICv3: {v3}; a GICv2: {v2}"),
            remedy: "Use a host whose GIC has the virtualization extensions".into(),
        }),
    }
}

/// `KVM_SET_DEVICE_ATTR` with a value that KVM reads.
fn set_attribute<T>(gic: &DeviceFd, group: u32, attr: u32, value: Option<&T>) -> AccelResult<()> {
    let addr = value.map_or(0, |value| std::ptr::from_ref(value) as u64);
    let attribute = kvm_device_attr { group, attr: attr.into(), addr, flags: 0 };
    gic.set_device_attr(&attribute).map_err(host("KVM_SET_DEVICE_ATTR of the GIC"))
}

/// The host's own kind of processor, with PSCI, and with pointer authentication where the host has it.
fn vcpu_init(vm: &VmFd) -> AccelResult<kvm_vcpu_init> {
    let mut init = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut init).map_err(host("KVM_ARM_PREFERRED_TARGET"))?;
    init.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
    // KVM wants both or none.
    if vm.check_extension(Cap::ArmPtrAuthAddress) && vm.check_extension(Cap::ArmPtrAuthGeneric) {
        init.features[0] |= 1 << KVM_ARM_VCPU_PTRAUTH_ADDRESS | 1 << KVM_ARM_VCPU_PTRAUTH_GENERIC;
    }
    Ok(init)
}

/// Drives the lines of KVM's GIC.
struct KvmSpis(Arc<VmFd>);

impl SpiLines for KvmSpis {
    fn set_spi(&self, spi: u32, level: bool) {
        let line = KVM_ARM_IRQ_TYPE_SPI << KVM_ARM_IRQ_TYPE_SHIFT | (FIRST_SPI + spi);
        if let Err(e) = self.0.set_irq_line(line, level) {
            log::warn!("KVM_IRQ_LINE of SPI {spi} failed: {e}");
        }
    }
}

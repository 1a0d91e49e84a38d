//! What of Linux's KVM API the crate `kvm-ioctls` does not have.

use libc::Ioctl;

/// `KVM_INTERRUPT`, a vCPU ioctl that takes a `struct kvm_interrupt`: queues an external interrupt
/// vector, as an INTA cycle would have given it. `_IOW(0xAE, 0x86, struct kvm_interrupt)`.
pub const KVM_INTERRUPT: Ioctl = 0x4004_AE86;

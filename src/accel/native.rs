//! Whether the host's processor virtualizes in hardware, so that a hypervisor on it need not be timed.

/// Whether CPUID shows VMX or SVM. `false` only means that a hypervisor must prove itself.
#[cfg(target_arch = "x86_64")]
#[must_use]
pub fn runs_kernel_code_natively() -> bool {
    use std::arch::x86_64::__cpuid;
    const VMX: u32 = 1 << 5;
    const SVM: u32 = 1 << 2;
    let vmx = __cpuid(1).ecx & VMX != 0;
    let extended = __cpuid(0x8000_0000).eax;
    vmx || (extended >= 0x8000_0001 && __cpuid(0x8000_0001).ecx & SVM != 0)
}

/// On other processors a hypervisor that opens runs guest code itself.
#[cfg(not(target_arch = "x86_64"))]
#[must_use]
pub fn runs_kernel_code_natively() -> bool {
    true
}

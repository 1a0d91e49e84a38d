//! CPUID for one vCPU: what KVM supports, with this machine's topology.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Leaf 1 ECX: the x2APIC is supported.
const X2APIC: u32 = 1 << 21;
/// Leaf 1 ECX: the LAPIC timer has a TSC-deadline mode.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1 ECX: a hypervisor runs this CPU.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 EDX: leaf 1 EBX has a valid count of logical processors.
const HTT: u32 = 1 << 28;

/// Leaf 0 EAX at most: leaf 0x1F would tell the topology a second time.
const HIGHEST_LEAF: u32 = 0x1e;

/// Changes KVM's leaves into those of vCPU `id` of `cpus`: one package of `cpus` cores, a thread each,
/// APIC ids equal to the vCPUs' numbers (Intel SDM vol. 2, CPUID; AMD APM vol. 3, appendix E).
pub fn adjust(cpuid: &mut CpuId, id: u32, cpus: u32, deadline_timer: bool) {
    // Bits of the APIC id that number the cores of the package.
    let core_bits = u32::BITS - cpus.saturating_sub(1).leading_zeros();
    // KVM leaves the topology to its user and gives at most an empty subleaf 0.
    cpuid.retain(|entry| !matches!(entry.function, 0xb | 0x1f));
    for index in 0..3 {
        // Without room for them the guest finds its topology in the older leaves.
        let _ = cpuid.push(topology(index, id, cpus, core_bits));
    }
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            0x0 => entry.eax = entry.eax.clamp(0xb, HIGHEST_LEAF),
            0x1 => {
                entry.ebx = (entry.ebx & 0x0000_ffff) | cpus.min(255) << 16 | id << 24;
                entry.ecx |= X2APIC | HYPERVISOR;
                if deadline_timer {
                    entry.ecx |= TSC_DEADLINE;
                }
                if cpus > 1 {
                    entry.edx |= HTT;
                } else {
                    entry.edx &= !HTT;
                }
            }
            0x4 | 0x8000_001d => caches(entry, cpus),
            0x8000_0008 => {
                entry.ecx = (entry.ecx & !0xf0ff) | cpus.saturating_sub(1).min(0xff) | core_bits << 12;
            }
            0x8000_001e => {
                entry.eax = id;
                // One thread a core; the core's id.
                entry.ebx = id & 0xff;
                entry.ecx = 0;
            }
            _ => {}
        }
    }
}

/// Deterministic cache parameters: levels 1 and 2 belong to a core, level 3 to the package.
fn caches(entry: &mut kvm_cpuid_entry2, cpus: u32) {
    let level = entry.eax >> 5 & 7;
    if entry.eax & 0x1f == 0 {
        return;
    }
    let sharing = if level >= 3 { cpus.saturating_sub(1).min(0xfff) } else { 0 };
    entry.eax = (entry.eax & 0x3fff) | sharing << 14;
    if entry.function == 0x4 {
        entry.eax |= cpus.saturating_sub(1).min(0x3f) << 26;
    }
}

/// Extended topology, leaf 0xB: a level of threads (one a core), then a level of cores.
fn topology(index: u32, id: u32, cpus: u32, core_bits: u32) -> kvm_cpuid_entry2 {
    let (shift, count, kind) = match index {
        0 => (0, 1, 1),
        1 => (core_bits, cpus, 2),
        _ => (0, 0, 0),
    };
    kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: index | kind << 8,
        edx: id,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, eax: 0x121, ..Default::default() }
    }

    fn find(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *cpuid.as_slice().iter().find(|e| e.function == function && e.index == index).unwrap()
    }

    #[test]
    fn ids_agree_between_leaves() {
        for (id, cpus) in [(0, 1), (1, 2), (2, 3), (200, 254)] {
            let entries = [leaf(1, 0), leaf(0xb, 0), leaf(0x8000_001e, 0)];
            let mut cpuid = CpuId::from_entries(&entries).unwrap();
            adjust(&mut cpuid, id, cpus, true);
            let one = find(&cpuid, 1, 0);
            assert_eq!(one.ebx >> 24, id);
            assert_eq!(one.ebx >> 16 & 0xff, cpus);
            assert_eq!(one.edx & HTT != 0, cpus > 1);
            assert_ne!(one.ecx & TSC_DEADLINE, 0);
            assert_eq!(find(&cpuid, 0xb, 0).edx, id);
            let cores = find(&cpuid, 0xb, 1);
            assert_eq!((cores.ebx, cores.ecx), (cpus, 0x201));
            assert!(1 << cores.eax >= cpus, "the shift must cover every core");
            assert_eq!(find(&cpuid, 0xb, 2).ecx, 2);
            assert_eq!(find(&cpuid, 0x8000_001e, 0).eax, id);
        }
    }
}

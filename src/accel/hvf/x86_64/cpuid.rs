//! CPUID for a guest on Intel: the host's, without what the backend does not give.

#![forbid(unsafe_code)]

/// What CPUID answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "a register's name is its documentation")]
pub struct Leaf {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// What the answer depends on beside the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guest {
    /// Number and APIC id of the vCPU.
    pub id: u32,
    /// Number of vCPUs.
    pub cpus: u32,
    /// CR4.OSXSAVE.
    pub osxsave: bool,
    /// XCR0.
    pub xcr0: u64,
}

/// The highest basic leaf.
const HIGHEST_LEAF: u32 = 0xd;
/// Leaf 1 ECX without DTES64, MONITOR, DS-CPL, VMX, SMX, EIST, TM2, SDBG, PDCM, DCA, TSC-deadline, OSXSAVE.
const LEAF1_ECX: u32 = !(0b11_1111_1100 | 1 << 11 | 1 << 15 | 1 << 18 | 1 << 24 | 1 << 27) | 1 << 9;
const ECX_X2APIC: u32 = 1 << 21;
const ECX_OSXSAVE: u32 = 1 << 27;
const ECX_HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 EDX without MCE, MCA, DS, ACPI, HTT, TM, PBE.
const LEAF1_EDX: u32 = !(1 << 7 | 1 << 14 | 0b11 << 21 | 0b111 << 28 | 1 << 31);
const EDX_HTT: u32 = 1 << 28;
/// Leaf 7 EBX: FSGSBASE, BMI1, AVX2, SMEP, BMI2, ERMS, INVPCID, RDSEED, ADX, SMAP, CLFLUSHOPT, SHA.
const LEAF7_EBX: u32 = 1
    | 1 << 3
    | 1 << 5
    | 1 << 7
    | 1 << 8
    | 1 << 9
    | 1 << 10
    | 1 << 18
    | 1 << 19
    | 1 << 20
    | 1 << 23
    | 1 << 29;
/// XCR0: x87, SSE, AVX.
pub const XCR0_ALL: u64 = 7;
/// Bytes of an XSAVE area with the AVX state, and without.
const XSAVE_AVX: u32 = 832;
const XSAVE_SSE: u32 = 576;

/// The guest's answer for a leaf and subleaf, from the host's.
#[must_use]
pub fn answer(host: impl Fn(u32, u32) -> Leaf, leaf: u32, subleaf: u32, guest: Guest) -> Leaf {
    let Guest { id, cpus, osxsave, xcr0 } = guest;
    // Bits of the APIC id that number the cores of the package.
    let core_bits = u32::BITS - cpus.saturating_sub(1).leading_zeros();
    let native = host(leaf, subleaf);
    match leaf {
        0 => Leaf { eax: native.eax.clamp(0xb, HIGHEST_LEAF), ..native },
        1 => {
            let mut ecx = native.ecx & LEAF1_ECX | ECX_X2APIC | ECX_HYPERVISOR;
            if osxsave {
                ecx |= ECX_OSXSAVE;
            }
            let edx = native.edx & LEAF1_EDX | if cpus > 1 { EDX_HTT } else { 0 };
            let ebx = native.ebx & 0xffff | cpus.min(255) << 16 | id << 24;
            Leaf { eax: native.eax, ebx, ecx, edx }
        }
        // One thread a core; levels 1 and 2 are the core's, level 3 the package's.
        4 if native.eax & 0x1f != 0 => {
            let sharing = if native.eax >> 5 & 7 >= 3 { cpus.saturating_sub(1).min(0xfff) } else { 0 };
            let cores = cpus.saturating_sub(1).min(0x3f);
            Leaf { eax: native.eax & 0x3fff | sharing << 14 | cores << 26, ..native }
        }
        7 if subleaf == 0 => Leaf { ebx: native.ebx & LEAF7_EBX, ..Leaf::default() },
        0xb => {
            let (shift, count, kind) = match subleaf {
                0 => (0, 1, 1),
                1 => (core_bits, cpus, 2),
                _ => (0, 0, 0),
            };
            Leaf { eax: shift, ebx: count, ecx: subleaf & 0xff | kind << 8, edx: id }
        }
        0xd => match subleaf {
            0 => {
                let ebx = if xcr0 & 4 != 0 { XSAVE_AVX } else { XSAVE_SSE };
                Leaf { eax: native.eax & XCR0_ALL as u32, ebx, ecx: XSAVE_AVX, edx: 0 }
            }
            // XSAVEOPT, XSAVEC, XGETBV of 1; no XSAVES.
            1 => Leaf { eax: native.eax & 7, ..Leaf::default() },
            2 => native,
            _ => Leaf::default(),
        },
        2 | 0x8000_0000 | 0x8000_0002..=0x8000_0006 => native,
        // SYSCALL, NX, 1 GiB pages, RDTSCP, long mode; LAHF, LZCNT, PREFETCHW.
        0x8000_0001 => Leaf {
            eax: native.eax,
            ebx: 0,
            ecx: native.ecx & (1 | 1 << 5 | 1 << 8),
            edx: native.edx & (1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29),
        },
        // The invariant TSC.
        0x8000_0007 => Leaf { edx: native.edx & 1 << 8, ..Leaf::default() },
        0x8000_0008 => Leaf { eax: native.eax & 0xffff, ..Leaf::default() },
        _ => Leaf::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that has everything.
    fn all(_: u32, _: u32) -> Leaf {
        Leaf { eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX }
    }

    const GUEST: Guest = Guest { id: 2, cpus: 4, osxsave: false, xcr0: 1 };

    #[test]
    fn what_the_backend_does_not_give_is_hidden() {
        let leaf = answer(all, 1, 0, GUEST);
        // MONITOR, VMX, SMX, TSC-deadline, OSXSAVE; x2APIC and the hypervisor are there, and so is SSSE3.
        for bit in [3, 5, 6, 24, 27] {
            assert_eq!(leaf.ecx >> bit & 1, 0, "ECX bit {bit}");
        }
        for bit in [0, 9, 13, 17, 19, 20, 21, 23, 25, 26, 28, 31] {
            assert_eq!(leaf.ecx >> bit & 1, 1, "ECX bit {bit}");
        }
        assert_eq!(leaf.ebx >> 16, 2 << 8 | 4);
        assert_eq!(leaf.edx >> 28 & 1, 1);
        assert_eq!(answer(all, 1, 0, Guest { osxsave: true, ..GUEST }).ecx >> 27 & 1, 1);
        // TSX, MPX, AVX-512 and SGX; every mitigation MSR.
        let leaf = answer(all, 7, 0, GUEST);
        assert_eq!(leaf.ebx & (1 << 2 | 1 << 4 | 1 << 11 | 1 << 14 | 1 << 16), 0);
        assert_eq!((leaf.ecx, leaf.edx), (0, 0));
        assert_eq!(answer(all, 0xa, 0, GUEST), Leaf::default());
        assert_eq!(answer(all, 0, 0, GUEST).eax, 0xd);
    }

    #[test]
    fn the_topology_is_the_machines() {
        assert_eq!(answer(all, 0xb, 0, GUEST), Leaf { eax: 0, ebx: 1, ecx: 0x100, edx: 2 });
        assert_eq!(answer(all, 0xb, 1, GUEST), Leaf { eax: 2, ebx: 4, ecx: 0x201, edx: 2 });
        assert_eq!(answer(all, 0xb, 2, GUEST), Leaf { eax: 0, ebx: 0, ecx: 2, edx: 2 });
    }

    #[test]
    fn the_xsave_area_is_as_long_as_what_is_enabled() {
        assert_eq!(answer(all, 0xd, 0, GUEST), Leaf { eax: 7, ebx: 576, ecx: 832, edx: 0 });
        assert_eq!(answer(all, 0xd, 0, Guest { xcr0: 7, ..GUEST }).ebx, 832);
    }
}

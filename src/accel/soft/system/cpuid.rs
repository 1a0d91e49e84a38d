//! The CPU's identity (Intel SDM vol. 2A, CPUID). `docs/cpu-identity.md` has the reasons.
//!
//! A GenuineIntel of family 6, model 28 (Bonnell, in order): Linux knows that it does not speculate, so
//! it turns on no mitigation at all; a syscall then costs a tenth. Kernels that ask
//! `IA32_ARCH_CAPABILITIES` instead of the model hear the same. The features are those of x86-64-v2
//! and the system features that the CPU executes, whatever a Bonnell of silicon had.

#![forbid(unsafe_code)]

use super::super::fxsave::{self, component};
use super::time::TSC_HZ;

/// Physical address width in bits: page-table and MTRR bits from here to 51 are reserved.
pub const PHYSICAL_BITS: u32 = super::super::mmu::MAXPHYADDR;
/// Linear address width in bits.
pub const LINEAR_BITS: u32 = 48;

/// `IA32_ARCH_CAPABILITIES`: `RDCL_NO`, `SKIP_L1DFL_VMENTRY`, `SSB_NO`, `MDS_NO`, `PSCHANGE_MC_NO`, `TAA_NO`,
/// `SBDR_SSDP_NO`, `FBSDP_NO`, `PSDP_NO`, `BHI_NO`, `PBRSB_NO`, `GDS_NO`, `RFDS_NO`, `ITS_NO`: nothing here speculates.
pub const ARCH_CAPABILITIES: u64 = 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 0b111 << 13
    | 1 << 20
    | 1 << 24
    | 1 << 26
    | 1 << 27
    | 1 << 62;

/// Highest basic leaf; a higher one answers as this one does, as on Intel's processors.
const MAX_BASIC: u32 = 0x1f;
const MAX_EXTENDED: u32 = 0x8000_0008;
const HYPERVISOR: u32 = 0x4000_0000;
const MAX_HYPERVISOR: u32 = HYPERVISOR + 0x10;

/// Family 6, model 28, stepping 10. Steppings up to 2 would make Linux distrust large pages.
const SIGNATURE: u32 = 0x0001_06ca;
const VENDOR: &[u8; 12] = b"GenuineIntel";
const BRAND: &[u8; 48] = b"vm-accel software CPU\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const KVM: &[u8; 12] = b"KVMKVMKVM\0\0\0";

/// Leaf 1, EDX: FPU, DE, PSE, TSC, MSR, PAE, MCE, CX8, SEP, MTRR, PGE, MCA, CMOV, PAT, PSE36, CLFSH,
/// MMX, FXSR, SSE, SSE2, SS. APIC and HTT are added.
const LEAF1_EDX: u32 = 1
    | 0b11_1111 << 2 // DE PSE TSC MSR PAE MCE are bits 2 to 7
    | 1 << 8
    | 0b11_1111 << 11 // SEP MTRR PGE MCA CMOV PAT
    | 1 << 17
    | 1 << 19
    | 0b1_1111 << 23; // MMX FXSR SSE SSE2 SS
const EDX_APIC: u32 = 1 << 9;
const EDX_HTT: u32 = 1 << 28;

/// Leaf 1, ECX: SSE3, PCLMULQDQ, SSSE3, CX16, PCID, SSE4.1, SSE4.2, x2APIC.
const LEAF1_ECX_LOW: u32 = 1 | 1 << 1 | 1 << 9 | 1 << 13 | 1 << 17 | 1 << 19 | 1 << 20 | 1 << 21;
/// Leaf 1, ECX: these, MOVBE, POPCNT, TSC-deadline, AES, XSAVE, RDRAND, hypervisor.
const LEAF1_ECX: u32 = LEAF1_ECX_LOW | 1 << 22 | 1 << 23 | 1 << 24 | 1 << 25 | 1 << 26 | 1 << 30 | 1 << 31;
const ECX_OSXSAVE: u32 = 1 << 27;

/// Leaf 7.0, EBX: FSGSBASE, `TSC_ADJUST`, SMEP, ERMS, INVPCID, RDSEED, SMAP, CLFLUSHOPT, CLWB.
const LEAF7_EBX: u32 = 1 | 1 << 1 | 1 << 7 | 1 << 9 | 1 << 10 | 1 << 18 | 1 << 20 | 1 << 23 | 1 << 24;
/// Leaf 7.0, ECX: UMIP, PKU, RDPID, PKS.
const LEAF7_ECX: u32 = 1 << 2 | 1 << 3 | 1 << 22 | 1 << 31;
const ECX_OSPKE: u32 = 1 << 4;
/// Leaf 7.0, EDX: FSRM, SERIALIZE, `ARCH_CAPABILITIES`.
const LEAF7_EDX: u32 = 1 << 4 | 1 << 14 | 1 << 29;

/// Leaf 0x8000_0001, EDX: SYSCALL, NX, 1 GiB pages, RDTSCP, long mode.
const EXT1_EDX: u32 = 1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29;
/// Leaf 0x8000_0001, ECX: LAHF in 64-bit mode, PREFETCHW.
const EXT1_ECX: u32 = 1 | 1 << 8;

/// Leaf `0x4000_0001`, EAX: CLOCKSOURCE, `NOP_IO_DELAY`, CLOCKSOURCE2, `CLOCKSOURCE_STABLE_BIT`.
const KVM_FEATURES: u32 = 1 | 1 << 1 | 1 << 3 | 1 << 24;

/// A leaf's answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "a register's name is its documentation")]
pub struct Leaf {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// What differs between the vCPUs of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    /// The vCPU's APIC id.
    pub apic_id: u32,
    /// Number of vCPUs in the machine, at least 1.
    pub cpus: u32,
}

/// The state of the CPU that shows in CPUID.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Live {
    /// CR4.OSXSAVE.
    pub osxsave: bool,
    /// CR4.PKE.
    pub ospke: bool,
    /// `IA32_APIC_BASE.EN`.
    pub apic: bool,
    /// XCR0.
    pub xcr0: u64,
}

impl Topology {
    /// Bits of an APIC id that number the processors of the package.
    fn shift(self) -> u32 {
        self.cpus.clamp(1, 1 << 16).next_power_of_two().trailing_zeros()
    }

    /// The answer to CPUID with `leaf` in EAX and `subleaf` in ECX.
    #[must_use]
    pub fn cpuid(self, leaf: u32, subleaf: u32, live: Live) -> Leaf {
        match leaf {
            0 => text_leaf(MAX_BASIC, [0, 2, 1], VENDOR),
            1 => self.features(live),
            // No descriptors: ask leaf 4.
            2 => Leaf { eax: 0x0000_ff01, ..Leaf::default() },
            4 => self.caches(subleaf),
            // ARAT: the APIC timer never stops.
            6 => Leaf { eax: 1 << 2, ..Leaf::default() },
            7 if subleaf == 0 => {
                let ospke = if live.ospke { ECX_OSPKE } else { 0 };
                Leaf { eax: 0, ebx: LEAF7_EBX, ecx: LEAF7_ECX | ospke, edx: LEAF7_EDX }
            }
            0xb | 0x1f => self.levels(subleaf),
            0xd => xsave(subleaf, live.xcr0),
            // The TSC runs at the crystal's frequency.
            0x15 => Leaf { eax: 1, ebx: 1, ecx: u32::try_from(TSC_HZ).unwrap_or(0), edx: 0 },
            0x16 => {
                let mhz = u32::try_from(TSC_HZ / 1_000_000).unwrap_or(0);
                Leaf { eax: mhz, ebx: mhz, ecx: 100, edx: 0 }
            }
            _ if leaf <= MAX_BASIC => Leaf::default(),
            HYPERVISOR => text_leaf(MAX_HYPERVISOR, [0, 1, 2], KVM),
            0x4000_0001 => Leaf { eax: KVM_FEATURES, ..Leaf::default() },
            0x4000_0010 => {
                let khz = u32::try_from(TSC_HZ / 1000).unwrap_or(0);
                Leaf { eax: khz, ebx: khz, ..Leaf::default() }
            }
            _ if leaf >> 28 == 4 => Leaf::default(),
            0x8000_0000 => Leaf { eax: MAX_EXTENDED, ..Leaf::default() },
            0x8000_0001 => Leaf { eax: 0, ebx: 0, ecx: EXT1_ECX, edx: EXT1_EDX },
            0x8000_0002..=0x8000_0004 => brand(leaf - 0x8000_0002),
            // L2: 1 MiB, 16 ways, lines of 64 bytes.
            0x8000_0006 => Leaf { ecx: 1024 << 16 | 8 << 12 | 64, ..Leaf::default() },
            // Invariant TSC.
            0x8000_0007 => Leaf { edx: 1 << 8, ..Leaf::default() },
            0x8000_0008 => Leaf { eax: LINEAR_BITS << 8 | PHYSICAL_BITS, ..Leaf::default() },
            0x8000_0005 => Leaf::default(),
            _ => self.levels(subleaf),
        }
    }

    fn features(self, live: Live) -> Leaf {
        let logical = self.cpus.clamp(1, 128).next_power_of_two();
        Leaf {
            eax: SIGNATURE,
            ebx: (self.apic_id & 0xff) << 24 | logical << 16 | (64 / 8) << 8,
            ecx: LEAF1_ECX | if live.osxsave { ECX_OSXSAVE } else { 0 },
            edx: LEAF1_EDX | if live.apic { EDX_APIC } else { 0 } | if self.cpus > 1 { EDX_HTT } else { 0 },
        }
    }

    /// Leaf 4: L1 data and code of 32 KiB, L2 of 1 MiB, a shared L3 of 16 MiB.
    fn caches(self, subleaf: u32) -> Leaf {
        let package = (1u32 << self.shift().min(12)) - 1;
        // Type (1 data, 2 code, 3 both), level, ways, sets, processors that share it less one.
        let (kind, level, ways, sets, shared) = match subleaf {
            0 => (1, 1, 8, 64, 0),
            1 => (2, 1, 8, 64, 0),
            2 => (3, 2, 16, 1024, 0),
            3 => (3, 3, 16, 16384, package),
            _ => return Leaf::default(),
        };
        Leaf {
            // Self-initialising.
            eax: package.min(63) << 26 | shared << 14 | 1 << 8 | level << 5 | kind,
            ebx: (ways - 1) << 22 | (64 - 1),
            ecx: sets - 1,
            edx: 0,
        }
    }

    /// Leaves 0xB and 0x1F: one thread a core, all cores in one package.
    fn levels(self, subleaf: u32) -> Leaf {
        let (eax, ebx, kind) = match subleaf {
            0 => (0, 1, 1),
            1 => (self.shift(), self.cpus.max(1) & 0xffff, 2),
            _ => (0, 0, 0),
        };
        Leaf { eax, ebx, ecx: kind << 8 | subleaf & 0xff, edx: self.apic_id }
    }
}

/// PKRU's subleaf.
const PKRU: u32 = component::PKRU.trailing_zeros();

/// Leaf 0xD: x87, SSE and PKRU, whose area is the same in the standard and the compacted form.
fn xsave(subleaf: u32, xcr0: u64) -> Leaf {
    let enabled = fxsave::area_bytes(xcr0) as u32;
    match subleaf {
        0 => Leaf { eax: component::ALL as u32, ebx: enabled, ecx: fxsave::XSAVE_BYTES as u32, edx: 0 },
        // XSAVEOPT, XSAVEC, XGETBV with ECX = 1.
        1 => Leaf { eax: 0b111, ebx: enabled, ecx: 0, edx: 0 },
        PKRU => Leaf { eax: fxsave::PKRU_BYTES as u32, ebx: fxsave::PKRU_OFFSET as u32, ecx: 0, edx: 0 },
        _ => Leaf::default(),
    }
}

/// Four bytes of a text as a register holds them; zero beyond its end.
fn text(bytes: &[u8], word: usize) -> u32 {
    bytes.get(word * 4..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

/// A leaf of a maximum and a text whose words go to EBX, ECX and EDX as `order` says.
fn text_leaf(eax: u32, [ebx, ecx, edx]: [usize; 3], bytes: &[u8]) -> Leaf {
    Leaf { eax, ebx: text(bytes, ebx), ecx: text(bytes, ecx), edx: text(bytes, edx) }
}

fn brand(part: u32) -> Leaf {
    let word = part as usize * 4;
    Leaf {
        eax: text(BRAND, word),
        ebx: text(BRAND, word + 1),
        ecx: text(BRAND, word + 2),
        edx: text(BRAND, word + 3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Topology = Topology { apic_id: 0, cpus: 1 };
    const LIVE: Live = Live { osxsave: false, ospke: false, apic: true, xcr0: 1 };

    fn string(words: &[u32]) -> String {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        String::from_utf8(bytes).unwrap().trim_end_matches('\0').to_string()
    }

    #[test]
    fn vendor_brand_and_hypervisor_texts() {
        let vendor = ONE.cpuid(0, 0, LIVE);
        assert_eq!(string(&[vendor.ebx, vendor.edx, vendor.ecx]), "GenuineIntel");
        let kvm = ONE.cpuid(0x4000_0000, 0, LIVE);
        assert_eq!(string(&[kvm.ebx, kvm.ecx, kvm.edx]), "KVMKVMKVM");
        let brand: Vec<u32> = (0x8000_0002..=0x8000_0004)
            .map(|leaf| ONE.cpuid(leaf, 0, LIVE))
            .flat_map(|l| [l.eax, l.ebx, l.ecx, l.edx])
            .collect();
        assert_eq!(string(&brand), "vm-accel software CPU");
    }

    #[test]
    fn the_model_is_one_that_linux_knows_not_to_speculate() {
        let eax = ONE.cpuid(1, 0, LIVE).eax;
        let family = eax >> 8 & 0xf;
        let model = (eax >> 16 & 0xf) << 4 | eax >> 4 & 0xf;
        assert_eq!((family, model), (6, 28));
        assert!(eax & 0xf > 2);
    }

    #[test]
    fn x86_64_v2_without_avx() {
        let leaf = ONE.cpuid(1, 0, LIVE);
        for bit in [0, 4, 5, 6, 8, 15, 23, 24, 25, 26] {
            assert!(leaf.edx >> bit & 1 == 1, "EDX bit {bit}");
        }
        for bit in [0, 9, 13, 19, 20, 23] {
            assert!(leaf.ecx >> bit & 1 == 1, "ECX bit {bit}");
        }
        assert_eq!(leaf.ecx >> 28 & 1, 0, "AVX");
        assert_eq!(leaf.ecx >> 3 & 1, 0, "MONITOR");
        let extended = ONE.cpuid(0x8000_0001, 0, LIVE);
        assert_eq!(extended.ecx & 1, 1, "LAHF");
        assert_eq!(extended.edx >> 29 & 1, 1, "LM");
    }

    #[test]
    fn live_bits_follow_the_state() {
        assert_eq!(ONE.cpuid(1, 0, LIVE).ecx >> 27 & 1, 0);
        assert_eq!(ONE.cpuid(1, 0, Live { osxsave: true, ..LIVE }).ecx >> 27 & 1, 1);
        assert_eq!(ONE.cpuid(1, 0, Live { apic: false, ..LIVE }).edx >> 9 & 1, 0);
        assert_eq!(ONE.cpuid(7, 0, LIVE).ecx >> 4 & 1, 0);
        assert_eq!(ONE.cpuid(7, 0, Live { ospke: true, ..LIVE }).ecx >> 4 & 1, 1);
        for (xcr0, size) in [(1, 576), (3, 576), (0x201, 584)] {
            assert_eq!(ONE.cpuid(0xd, 0, Live { xcr0, ..LIVE }).ebx, size);
        }
        assert_eq!(ONE.cpuid(0xd, 0, LIVE).ecx, 584);
    }

    #[test]
    fn topology_of_many_processors() {
        for cpus in [1u32, 2, 3, 4, 5, 8, 64, 200, 255] {
            for apic_id in [0, cpus - 1] {
                let topology = Topology { apic_id, cpus };
                for leaf in [0xb, 0x1f] {
                    let core = topology.cpuid(leaf, 1, LIVE);
                    assert_eq!(core.edx, apic_id);
                    assert_eq!(core.ebx, cpus);
                    assert_eq!(apic_id >> core.eax, 0, "one package");
                    assert_eq!(topology.cpuid(leaf, 2, LIVE).ecx, 2, "the end");
                }
                assert_eq!(topology.cpuid(1, 0, LIVE).ebx >> 24, apic_id);
            }
        }
    }

    #[test]
    fn leaves_out_of_range() {
        let last = ONE.cpuid(MAX_BASIC, 0, LIVE);
        assert_eq!(ONE.cpuid(0x20, 0, LIVE), last);
        assert_eq!(ONE.cpuid(0x8000_0009, 0, LIVE), last);
        assert_eq!(ONE.cpuid(0x4000_0100, 0, LIVE), Leaf::default());
        assert_eq!(ONE.cpuid(3, 0, LIVE), Leaf::default());
    }

    #[test]
    fn every_leaf_answers() {
        for leaf in
            (0..0x40).chain(0x4000_0000..0x4000_0040).chain(0x8000_0000..0x8000_0040).chain([u32::MAX])
        {
            for subleaf in [0, 1, 2, 3, 4, 5, 62, u32::MAX] {
                for cpus in [0, 1, 255, u32::MAX] {
                    let _ = Topology { apic_id: u32::MAX, cpus }.cpuid(leaf, subleaf, LIVE);
                }
            }
        }
    }
}

//! Model-specific registers whose accesses exit (Intel SDM vol. 4, chapter 2).

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

/// EFER.
pub const EFER: u32 = 0xc000_0080;
/// PAT.
pub const PAT: u32 = 0x277;
/// MSRs that the guest uses without exits: the TSC, SYSENTER's, SYSCALL's, the bases of FS and GS, TSC_AUX.
pub const NATIVE: [u32; 12] = [
    0x10,
    0x174,
    0x175,
    0x176,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0100,
    0xc000_0101,
    0xc000_0102,
    0xc000_0103,
];

/// MTRRs: eight variable ranges, fixed ranges, write-combining.
const MTRRCAP: u32 = 0xfe;
const MTRRCAP_VALUE: u64 = 8 | 1 << 8 | 1 << 10;
const MTRR_DEF_TYPE: u32 = 0x2ff;
/// On, everything write-back, as firmware leaves it.
const MTRR_DEF_TYPE_RESET: u64 = 1 << 11 | 6;
const MISC_ENABLE: u32 = 0x1a0;
/// Fast strings; no branch trace store, no PEBS.
const MISC_ENABLE_RESET: u64 = 1 | 1 << 11 | 1 << 12;

/// The registers that are kept and have no effect.
#[derive(Debug, Clone, Default)]
pub struct Msrs(BTreeMap<u32, u64>);

/// Whether a register is kept.
fn is_kept(msr: u32) -> bool {
    matches!(
        msr,
        MISC_ENABLE | MTRR_DEF_TYPE | 0x200..=0x20f | 0x250 | 0x258 | 0x259 | 0x268..=0x26f
    )
}

impl Msrs {
    /// Reads a register; `None` is #GP.
    #[must_use]
    pub fn read(&self, msr: u32) -> Option<u64> {
        match msr {
            MTRRCAP => Some(MTRRCAP_VALUE),
            // Platform id, microcode revision, platform information, machine check, debug control.
            0x17 | 0x8b | 0xce | 0x179 | 0x17a | 0x1d9 => Some(0),
            _ if is_kept(msr) => Some(self.0.get(&msr).copied().unwrap_or(match msr {
                MTRR_DEF_TYPE => MTRR_DEF_TYPE_RESET,
                MISC_ENABLE => MISC_ENABLE_RESET,
                _ => 0,
            })),
            _ => None,
        }
    }

    /// Writes a register; `None` is #GP.
    pub fn write(&mut self, msr: u32, value: u64) -> Option<()> {
        match msr {
            // Microcode, its revision, machine check, debug control.
            0x79 | 0x8b | 0x17a | 0x1d9 => Some(()),
            _ if is_kept(msr) => {
                self.0.insert(msr, value);
                Some(())
            }
            _ => None,
        }
    }
}

/// Whether every byte of a PAT is a memory type.
#[must_use]
pub fn is_pat(value: u64) -> bool {
    value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mtrrs_are_kept_and_unknown_registers_are_not() {
        let mut msrs = Msrs::default();
        assert_eq!(msrs.read(0xfe), Some(0x508));
        assert_eq!(msrs.read(0x2ff), Some(0x806));
        assert_eq!(msrs.read(0x1a0), Some(0x1801));
        msrs.write(0x200, 0x1234).unwrap();
        assert_eq!(msrs.read(0x200), Some(0x1234));
        // IA32_SPEC_CTRL, TSC-deadline, and a register of another maker.
        for msr in [0x48, 0x6e0, 0xc001_0015] {
            assert_eq!((msrs.read(msr), msrs.write(msr, 0)), (None, None), "{msr:#x}");
        }
        assert_eq!(msrs.write(0x79, 1), Some(()));
    }

    #[test]
    fn a_pat_has_memory_types_only() {
        assert!(is_pat(0x0007_0406_0007_0406));
        assert!(!is_pat(2) && !is_pat(8 << 56));
    }
}

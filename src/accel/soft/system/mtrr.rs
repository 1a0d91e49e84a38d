//! Memory type registers (Intel SDM vol. 3, 12.11 and 12.12). Memory is write-back to this CPU whatever
//! they say; they are kept, and checked, for the guest that reads them back.

#![forbid(unsafe_code)]

use super::cpuid::PHYSICAL_BITS;

/// `IA32_MTRRCAP`: 8 variable ranges, fixed ranges, write-combining.
pub const CAP: u64 = VARIABLE as u64 | 1 << 8 | 1 << 10;
/// `IA32_PAT` after reset.
pub const PAT_RESET: u64 = 0x0007_0406_0007_0406;

const VARIABLE: usize = 8;

/// MSR numbers.
const PHYSBASE0: u32 = 0x200;
const FIXED: [u32; 11] = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];
const DEF_TYPE: u32 = 0x2ff;

/// The MTRRs of a vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mtrrs {
    /// Base and mask of each variable range.
    variable: [u64; 2 * VARIABLE],
    fixed: [u64; FIXED.len()],
    def_type: u64,
}

impl Default for Mtrrs {
    /// As firmware leaves them: enabled, and memory is write-back. Disabled ones would make Linux do
    /// without PAT.
    fn default() -> Self {
        Self { variable: [0; 2 * VARIABLE], fixed: [0; FIXED.len()], def_type: 1 << 11 | 6 }
    }
}

impl Mtrrs {
    /// The register `msr`; none if there is no such MTRR.
    #[must_use]
    pub fn read(&self, msr: u32) -> Option<u64> {
        if msr == DEF_TYPE {
            return Some(self.def_type);
        }
        if let Some(index) = FIXED.iter().position(|&fixed| fixed == msr) {
            return self.fixed.get(index).copied();
        }
        self.variable.get(msr.checked_sub(PHYSBASE0)? as usize).copied()
    }

    /// Sets the register `msr`; none (#GP) if there is no such MTRR or `value` sets reserved bits or
    /// names a memory type that does not exist.
    #[must_use]
    pub fn write(&mut self, msr: u32, value: u64) -> Option<()> {
        if msr == DEF_TYPE {
            let valid = value & !0xcff == 0 && is_type(value as u8);
            return valid.then(|| self.def_type = value);
        }
        if let Some(index) = FIXED.iter().position(|&fixed| fixed == msr) {
            let register = self.fixed.get_mut(index)?;
            return value.to_le_bytes().into_iter().all(is_type).then(|| *register = value);
        }
        let register = self.variable.get_mut(msr.checked_sub(PHYSBASE0)? as usize)?;
        let address = (1u64 << PHYSICAL_BITS) - (1 << 12);
        let valid = if msr & 1 == 0 {
            value & !(address | 0xff) == 0 && is_type(value as u8)
        } else {
            value & !(address | 1 << 11) == 0
        };
        valid.then(|| *register = value)
    }
}

/// Whether `value` is one that `IA32_PAT` takes.
#[must_use]
pub fn is_pat(value: u64) -> bool {
    value.to_le_bytes().into_iter().all(|entry| is_type(entry) || entry == 7)
}

/// UC, WC, WT, WP or WB.
fn is_type(value: u8) -> bool {
    matches!(value, 0 | 1 | 4 | 5 | 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked() {
        let cases: &[(u32, u64, bool)] = &[
            (DEF_TYPE, 0xc06, true),
            (DEF_TYPE, 0xc02, false),
            (DEF_TYPE, 0x1000, false),
            (0x200, 0x8000_0006, true),
            (0x200, 0x8000_0007, false),
            (0x200, 0x8000_0106, false),
            (0x201, 0xff_8000_0800, true),
            (0x201, 0xff_8000_0801, false),
            (0x201, 1 << 40, false),
            (0x20f, 0x800, true),
            (0x210, 0, false),
            (0x250, 0x0606_0606_0606_0606, true),
            (0x250, 0x0606_0606_0606_0206, false),
            (0x251, 0, false),
            (0x26f, 0, true),
            (0x270, 0, false),
        ];
        for &(msr, value, accepted) in cases {
            let mut mtrrs = Mtrrs::default();
            assert_eq!(mtrrs.write(msr, value).is_some(), accepted, "{msr:#x} = {value:#x}");
            if accepted {
                assert_eq!(mtrrs.read(msr), Some(value));
            }
        }
    }

    #[test]
    fn pat_types() {
        assert!(is_pat(PAT_RESET));
        assert!(is_pat(0x0707_0707_0707_0707));
        for bad in [2, 3, 8, 0x80] {
            assert!(!is_pat(bad << 24));
        }
    }
}

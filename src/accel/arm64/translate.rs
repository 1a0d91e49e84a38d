//! A vCPU's view of memory: a stage 1 translation at EL1 (Arm ARM, D8 "The AArch64 Virtual Memory System
//! Architecture"), for what the host wants to know of a guest's code. Addresses are of 48 bits at most;
//! permissions are not looked at.

#![forbid(unsafe_code)]

use vm_memory::{Bytes, GuestAddress};

use crate::accel::Arm64SpecialRegs;
use crate::memory::GuestMemory;

/// SCTLR_EL1.M: translation is on.
const SCTLR_M: u64 = 1;
/// The output address of a descriptor of 48 bits.
const ADDRESS: u64 = 0x0000_FFFF_FFFF_FFFF;
/// The input addresses that this walk knows.
const MAX_INPUT_BITS: u64 = 48;

/// One of the two halves of the address space.
struct Regime {
    table: u64,
    /// Bits of an address that the tables translate.
    input_bits: u64,
    /// Bits of an address within a page.
    page_bits: u64,
    disabled: bool,
}

impl Regime {
    fn of(special: &Arm64SpecialRegs, address: u64) -> Option<Self> {
        let tcr = special.tcr_el1;
        let upper = address >> 55 & 1 != 0;
        let (table, size, granule, disabled) = if upper {
            (special.ttbr1_el1, tcr >> 16 & 0x3F, tcr >> 30 & 3, tcr >> 23 & 1)
        } else {
            (special.ttbr0_el1, tcr & 0x3F, tcr >> 14 & 3, tcr >> 7 & 1)
        };
        // The two fields count the granules differently.
        let page_bits = match (upper, granule) {
            (false, 0) | (true, 2) => 12,
            (false, 2) | (true, 1) => 14,
            (false, 1) | (true, 3) => 16,
            _ => return None,
        };
        let input_bits = 64 - size;
        let known = (page_bits + 1..=MAX_INPUT_BITS).contains(&input_bits);
        known.then_some(Self { table: table & ADDRESS & !1, input_bits, page_bits, disabled: disabled != 0 })
    }
}

/// The guest-physical address behind a virtual one; `None` if nothing is mapped there.
#[must_use]
pub fn translate(memory: &GuestMemory, special: &Arm64SpecialRegs, address: u64) -> Option<u64> {
    if special.sctlr_el1 & SCTLR_M == 0 {
        return Some(address);
    }
    let regime = Regime::of(special, address)?;
    // Between bit 55 and the translated bits there is only sign.
    let high = (address << 8).cast_signed() >> (regime.input_bits + 8);
    if regime.disabled || high != 0 && high != -1 {
        return None;
    }
    let input = address & ((1 << regime.input_bits) - 1);
    let level_bits = regime.page_bits - 3;
    let levels = (regime.input_bits - regime.page_bits).div_ceil(level_bits);
    let mut table = regime.table;
    for below in (0..levels).rev() {
        let shift = regime.page_bits + below * level_bits;
        let index = (input >> shift) & ((1 << level_bits) - 1);
        let descriptor: u64 = memory.read_obj(GuestAddress(table.checked_add(index * 8)?)).ok()?;
        let (valid, is_table) = (descriptor & 1 != 0, descriptor & 2 != 0);
        let offset = (1_u64 << shift) - 1;
        match (valid, is_table, below) {
            (false, ..) | (true, false, 0) => return None,
            (true, true, 1..) => table = descriptor & ADDRESS & !((1 << regime.page_bits) - 1),
            // A page, or a block.
            (true, ..) => return Some(descriptor & ADDRESS & !offset | input & offset),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::allocate;

    fn put(memory: &GuestMemory, gpa: u64, value: u64) {
        memory.write_obj(value, GuestAddress(gpa)).unwrap();
    }

    fn regs(tcr: u64) -> Arm64SpecialRegs {
        Arm64SpecialRegs {
            sctlr_el1: 1,
            tcr_el1: tcr,
            ttbr0_el1: 0x1000,
            ttbr1_el1: 0x8001,
            ..Default::default()
        }
    }

    #[test]
    fn without_translation_an_address_is_itself() {
        let memory = allocate(1 << 20).unwrap();
        assert_eq!(translate(&memory, &Arm64SpecialRegs::default(), u64::MAX), Some(u64::MAX));
    }

    #[test]
    fn pages_of_4_kib_are_found_through_four_levels_and_blocks_through_fewer() {
        let memory = allocate(1 << 20).unwrap();
        let special = regs(16 | 16 << 16 | 2 << 30);
        let address = 0x0000_8080_4030_2123_u64;
        put(&memory, 0x1000 + (address >> 39) * 8, 0x2003);
        put(&memory, 0x2000 + (address >> 30 & 511) * 8, 0x3003);
        put(&memory, 0x3000 + (address >> 21 & 511) * 8, 0x4003);
        put(&memory, 0x4000 + (address >> 12 & 511) * 8, 0x0060_0000_00AB_C703);
        assert_eq!(translate(&memory, &special, address), Some(0xAB_C123));
        assert_eq!(translate(&memory, &special, address + 0x1000), None);
        // A block of 2 MiB in the upper half.
        put(&memory, 0x8000 + 511 * 8, 0x9003);
        put(&memory, 0x9000 + 511 * 8, 0xA003);
        put(&memory, 0xA000 + 511 * 8, 0x4060_0701);
        assert_eq!(translate(&memory, &special, u64::MAX - 0xF), Some(0x407F_FFF0));
        assert_eq!(translate(&memory, &special, 0xFFF0_0000_0000_0000), None, "neither half");
        let disabled = regs(16 | 16 << 16 | 2 << 30 | 1 << 23 | 1 << 7);
        assert_eq!(translate(&memory, &disabled, address), None);
    }

    #[test]
    fn pages_of_16_and_64_kib_have_tables_of_their_own_size() {
        let memory = allocate(1 << 20).unwrap();
        // 42 bits in 64 KiB pages: two levels.
        let special = Arm64SpecialRegs { ttbr0_el1: 0x1_0000, ..regs(22 | 1 << 14) };
        put(&memory, 0x1_0000 + 3 * 8, 0x2_0003);
        put(&memory, 0x2_0000 + 5 * 8, 0x7_0003);
        assert_eq!(translate(&memory, &special, 3 << 29 | 5 << 16 | 0xBEEF), Some(0x7_BEEF));
        // 36 bits in 16 KiB pages: two levels.
        let special = Arm64SpecialRegs { ttbr0_el1: 0x3_0000, ..regs(28 | 2 << 14) };
        put(&memory, 0x3_0000 + 2 * 8, 0x4_0003);
        put(&memory, 0x4_0000 + 9 * 8, 0x8_C003);
        assert_eq!(translate(&memory, &special, 2 << 25 | 9 << 14 | 0x3ABC), Some(0x8_FABC));
    }

    proptest::proptest! {
        #[test]
        fn no_registers_and_no_tables_make_the_walk_fail(
            tcr: u64, ttbr0 in 0..0x2_0000_u64, ttbr1: u64, address: u64, words: [u64; 8], low: bool,
        ) {
            let memory = allocate(1 << 16).unwrap();
            for (at, word) in (0..0x1_0000).step_by(8).zip(words.iter().cycle()) {
                put(&memory, at, if low { word & 0xF003 } else { *word });
            }
            let special = Arm64SpecialRegs { ttbr0_el1: ttbr0, ttbr1_el1: ttbr1, ..regs(tcr) };
            let _ = translate(&memory, &special, address);
        }
    }
}

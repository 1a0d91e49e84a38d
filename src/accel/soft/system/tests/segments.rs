//! Segment registers and descriptor tables.

use super::machine::*;
use crate::accel::soft::abort::vector;
use crate::accel::soft::execute::Flow;
use crate::accel::soft::flags::rflags::ZF;
use crate::accel::soft::state::{Cpu, cr4, seg};
use crate::accel::soft::system::stack::RSP;

/// The fault of a case, if it has one: vector and error code.
type Expected = Option<(u8, u32)>;

/// `mov sreg, ax`.
fn mov(index: usize) -> [u8; 2] {
    [0x8e, 0xc0 | (index as u8) << 3]
}

fn load(cpu: &mut Cpu, index: usize, selector: u16) -> Result<Flow, crate::accel::soft::abort::AbortReason> {
    cpu.gpr[0] = u64::from(selector);
    step(cpu, &mov(index))
}

#[test]
fn real_mode_keeps_limits() {
    let mut cpu = real();
    cpu.seg[seg::DS].limit = u32::MAX;
    assert_eq!(load(&mut cpu, seg::DS, 0x1234), Ok(Flow::Next));
    let ds = cpu.seg[seg::DS];
    assert_eq!((ds.base, ds.limit, ds.selector), (0x12340, u32::MAX, 0x1234));
}

#[test]
fn data_segments_are_checked() {
    const EXECUTE_ONLY: u64 = 0x00cf_9800_0000_ffff;
    const ABSENT: u64 = 0x00cf_7200_0000_ffff;
    let cases: &[(&str, u8, u16, u64, Expected)] = &[
        ("null", 0, 3, 0, None),
        ("outside", 0, OUTSIDE | 1, 0, Some((vector::GP, OUTSIDE as u32))),
        ("data", 0, DATA, 0, None),
        ("data by a user", 3, DATA, 0, Some((vector::GP, DATA as u32))),
        ("RPL", 0, DATA | 3, 0, Some((vector::GP, DATA as u32))),
        ("user data", 0, USER_DATA, 0, None),
        ("conforming by a user", 3, CONFORMING | 3, 0, None),
        ("execute only", 0, FREE, EXECUTE_ONLY, Some((vector::GP, FREE as u32))),
        ("system", 0, LOCAL, 0, Some((vector::GP, LOCAL as u32))),
        ("absent", 3, FREE, ABSENT, Some((vector::NP, FREE as u32))),
    ];
    for &(what, cpl, selector, free, expected) in cases {
        let mut cpu = protected(cpl);
        set_descriptor(&mut cpu, FREE, free);
        let before = cpu.seg;
        let result = load(&mut cpu, seg::DS, selector);
        match expected {
            None => {
                assert_eq!(result, Ok(Flow::Next), "{what}");
                assert_eq!(cpu.seg[seg::DS].selector, selector, "{what}");
            }
            Some((vector, code)) => {
                assert_eq!(result, fault(vector, code), "{what}");
                assert_eq!(cpu.seg, before, "{what}");
            }
        }
    }
}

#[test]
fn stack_segments_are_checked() {
    let cases: &[(&str, u8, u16, Expected)] = &[
        ("null", 0, 0, Some((vector::GP, 0))),
        ("outside", 0, OUTSIDE, Some((vector::GP, OUTSIDE as u32))),
        ("data", 0, DATA, None),
        ("RPL", 0, DATA | 3, Some((vector::GP, DATA as u32))),
        ("DPL", 0, USER_DATA, Some((vector::GP, 0x28))),
        ("code", 0, CODE32, Some((vector::GP, CODE32 as u32))),
        ("read only", 0, FREE, Some((vector::GP, FREE as u32))),
        ("absent", 0, FREE + 8, Some((vector::SS, FREE as u32 + 8))),
        ("user data", 3, USER_DATA, None),
    ];
    for &(what, cpl, selector, expected) in cases {
        let mut cpu = protected(cpl);
        set_descriptor(&mut cpu, FREE, 0x00cf_9000_0000_ffff);
        set_descriptor(&mut cpu, FREE + 8, 0x00cf_1200_0000_ffff);
        let result = load(&mut cpu, seg::SS, selector);
        match expected {
            None => {
                assert_eq!(result, Ok(Flow::Next), "{what}");
                assert!(cpu.interrupt_shadow, "{what}");
            }
            Some((vector, code)) => assert_eq!(result, fault(vector, code), "{what}"),
        }
    }
}

#[test]
fn a_null_stack_segment_in_64_bit_mode() {
    for (cpl, selector, allowed) in [(0, 0, true), (0, 1, false), (3, 3, false)] {
        let mut cpu = long(cpl);
        let result = load(&mut cpu, seg::SS, selector);
        assert_eq!(result, if allowed { Ok(Flow::Next) } else { fault(vector::GP, 0) });
    }
}

#[test]
fn loading_sets_the_accessed_bit_once() {
    let mut cpu = protected(0);
    assert_eq!(descriptor(&cpu, DATA).type_(), 2);
    load(&mut cpu, seg::ES, DATA).unwrap();
    assert_eq!((descriptor(&cpu, DATA).type_(), cpu.seg[seg::ES].type_), (3, 3));
}

#[test]
fn null_clears_the_base_in_64_bit_mode() {
    let mut cpu = long(0);
    cpu.seg[seg::GS].base = 0x1234_5678_9abc;
    load(&mut cpu, seg::GS, 0).unwrap();
    assert_eq!(cpu.seg[seg::GS].base, 0);
}

#[test]
fn the_local_table_is_used_and_its_limit_holds() {
    let mut cpu = protected(0);
    put(&mut cpu, LDT + 0x18, 8, 0x1200_9234_5678_ffff);
    load(&mut cpu, seg::ES, 0x1c).unwrap();
    assert_eq!(cpu.seg[seg::ES].base, 0x1234_5678);
    assert_eq!(load(&mut cpu, seg::ES, 0x24), fault(vector::GP, 0x24));
    cpu.ldt.unusable = true;
    assert_eq!(load(&mut cpu, seg::ES, 0x1c), fault(vector::GP, 0x1c));
}

#[test]
fn far_loads_take_selector_and_offset() {
    let mut cpu = protected(0);
    put(&mut cpu, 0x5000, 4, 0xdead_beef);
    put(&mut cpu, 0x5004, 2, u64::from(USER_DATA));
    cpu.gpr[3] = 0x5000;
    // lds edx, [ebx]; lfs dx, [ebx]
    assert_eq!(step(&mut cpu, &[0xc5, 0x13]), Ok(Flow::Next));
    assert_eq!((cpu.gpr[2], cpu.seg[seg::DS].selector), (0xdead_beef, USER_DATA));
    put(&mut cpu, 0x5002, 2, u64::from(DATA));
    assert_eq!(step(&mut cpu, &[0x66, 0x0f, 0xb4, 0x13]), Ok(Flow::Next));
    assert_eq!((cpu.gpr[2], cpu.seg[seg::FS].selector), (0xdead_beef, DATA));
}

#[test]
fn segments_on_the_stack() {
    let mut cpu = protected(0);
    assert_eq!(step(&mut cpu, &[0x1e]), Ok(Flow::Next));
    assert_eq!((cpu.gpr[RSP], stack(&cpu, 4, 1)[0]), (STACK - 4, u64::from(DATA)));
    put(&mut cpu, STACK - 4, 4, u64::from(USER_DATA));
    assert_eq!(step(&mut cpu, &[0x07]), Ok(Flow::Next));
    assert_eq!((cpu.gpr[RSP], cpu.seg[seg::ES].selector), (STACK, USER_DATA));
    put(&mut cpu, STACK, 4, u64::from(OUTSIDE));
    assert_eq!(step(&mut cpu, &[0x17]), fault(vector::GP, OUTSIDE as u32));
    assert_eq!(cpu.gpr[RSP], STACK);
}

#[test]
fn table_registers_load_and_store() {
    let mut cpu = protected(0);
    cpu.gpr[3] = 0x5000;
    put(&mut cpu, 0x5000, 6, 0x8765_4321_0123);
    // lgdt [ebx]; sgdt [ebx]
    step(&mut cpu, &[0x0f, 0x01, 0x13]).unwrap();
    assert_eq!((cpu.gdt.base, cpu.gdt.limit), (0x8765_4321, 0x123));
    // lidt with a 16-bit operand takes 24 bits.
    step(&mut cpu, &[0x66, 0x0f, 0x01, 0x1b]).unwrap();
    assert_eq!((cpu.idt.base, cpu.idt.limit), (0x65_4321, 0x123));
    put(&mut cpu, 0x5000, 8, 0);
    step(&mut cpu, &[0x0f, 0x01, 0x03]).unwrap();
    assert_eq!(get(&cpu, 0x5000, 8), 0x8765_4321_0123);
    let mut cpu = long(0);
    cpu.gpr[3] = 0x5000;
    put(&mut cpu, 0x5002, 8, 1 << 47);
    assert_eq!(step(&mut cpu, &[0x0f, 0x01, 0x13]), fault(vector::GP, 0));
    let mut cpu = long(3);
    assert_eq!(step(&mut cpu, &[0x0f, 0x01, 0x13]), fault(vector::GP, 0));
}

#[test]
fn umip_keeps_users_out() {
    let mut cpu = long(3);
    cpu.gpr[3] = 0x5000;
    let stores: [&[u8]; 5] = [
        &[0x0f, 0x01, 0x03],
        &[0x0f, 0x01, 0x0b],
        &[0x0f, 0x00, 0xc0],
        &[0x0f, 0x00, 0xc8],
        &[0x0f, 0x01, 0xe0],
    ];
    for bytes in stores {
        assert_eq!(step(&mut cpu, bytes), Ok(Flow::Next));
    }
    cpu.cr4 |= cr4::UMIP;
    for bytes in stores {
        assert_eq!(step(&mut cpu, bytes), fault(vector::GP, 0));
    }
}

#[test]
fn task_register_and_local_table() {
    let ltr: &[u8] = &[0x0f, 0x00, 0xd8];
    let lldt: &[u8] = &[0x0f, 0x00, 0xd0];
    let mut cpu = long(0);
    cpu.gpr[0] = u64::from(TASK);
    set_descriptor(&mut cpu, TASK + 8, 0xffff_8000);
    assert_eq!(step(&mut cpu, ltr), Ok(Flow::Next));
    assert_eq!((cpu.tr.base, cpu.tr.type_), (0xffff_8000_0000_3000, 11));
    assert_eq!(step(&mut cpu, ltr), fault(vector::GP, TASK as u32), "busy");
    for (selector, descriptor, vector) in [
        (0, 0, vector::GP),
        (4, 0, vector::GP),
        (OUTSIDE, 0, vector::GP),
        (FREE, 0x0000_0900_3000_0067, vector::NP),
        (FREE, 0x0000_8100_3000_0067, vector::GP),
    ] {
        set_descriptor(&mut cpu, FREE, descriptor);
        cpu.gpr[0] = u64::from(selector);
        assert_eq!(step(&mut cpu, ltr), fault(vector, u32::from(selector)), "{selector:#x}");
    }
    cpu.gpr[0] = u64::from(LOCAL);
    assert_eq!(step(&mut cpu, lldt), Ok(Flow::Next));
    assert_eq!((cpu.ldt.base, cpu.ldt.limit, cpu.ldt.unusable), (LDT, 0x1f, false));
    cpu.gpr[0] = 0;
    assert_eq!(step(&mut cpu, lldt), Ok(Flow::Next));
    assert!(cpu.ldt.unusable);
    cpu.gpr[0] = u64::from(DATA);
    assert_eq!(step(&mut cpu, lldt), fault(vector::GP, DATA as u32));
    let mut cpu = real();
    assert_eq!(step(&mut cpu, ltr), fault_without_code(vector::UD));
}

#[test]
fn rights_and_limits_that_may_be_seen() {
    // CPL, selector, and whether LAR, LSL, VERR, VERW see it.
    let cases: &[(u8, u16, [bool; 4])] = &[
        (0, 0, [false; 4]),
        (0, OUTSIDE, [false; 4]),
        (0, DATA, [true, true, true, true]),
        (0, CODE32, [true, true, true, false]),
        (3, DATA, [false; 4]),
        (3, USER_DATA, [true, true, true, true]),
        (3, CONFORMING, [true, true, true, false]),
        (0, TASK, [true, true, false, false]),
        (0, LOCAL, [true, true, false, false]),
        (0, FREE, [true, false, false, false]),
    ];
    let instructions: [&[u8]; 4] =
        [&[0x0f, 0x02, 0xd0], &[0x0f, 0x03, 0xd0], &[0x0f, 0x00, 0xe0], &[0x0f, 0x00, 0xe8]];
    for &(cpl, selector, seen) in cases {
        let mut cpu = protected(cpl);
        set_descriptor(&mut cpu, FREE, gate(12, CODE32, HANDLER, 0, 0));
        for (bytes, seen) in instructions.into_iter().zip(seen) {
            cpu.gpr[0] = u64::from(selector);
            step(&mut cpu, bytes).unwrap();
            assert_eq!(cpu.rflags() & ZF != 0, seen, "{selector:#x} {bytes:x?}");
        }
    }
    let mut cpu = protected(0);
    cpu.gpr[0] = u64::from(DATA);
    step(&mut cpu, instructions[0]).unwrap();
    assert_eq!(cpu.gpr[2], 0x00cf_9200);
    step(&mut cpu, instructions[1]).unwrap();
    assert_eq!(cpu.gpr[2], 0xffff_ffff);
}

#[test]
fn arpl_raises_the_requested_level() {
    let mut cpu = protected(0);
    (cpu.gpr[0], cpu.gpr[1]) = (0x10, 3);
    // arpl ax, cx
    step(&mut cpu, &[0x63, 0xc8]).unwrap();
    assert_eq!((cpu.gpr[0], cpu.rflags() & ZF), (0x13, ZF));
    step(&mut cpu, &[0x63, 0xc8]).unwrap();
    assert_eq!((cpu.gpr[0], cpu.rflags() & ZF), (0x13, 0));
}

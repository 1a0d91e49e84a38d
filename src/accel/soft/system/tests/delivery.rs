//! Interrupts, exceptions and IRET.

use super::machine::*;
use crate::accel::soft::abort::{AbortReason, Exception, vector};
use crate::accel::soft::execute::Flow;
use crate::accel::soft::flags::rflags::{AC, CF, IF, NT, RF, TF, VM, ZF};
use crate::accel::soft::state::{Cpu, Mode, seg};
use crate::accel::soft::system::delivery::{deliver_exception, deliver_interrupt, deliver_nmi};
use crate::accel::soft::system::stack::RSP;

const INT_80: &[u8] = &[0xcd, 0x80];
const IRETD: &[u8] = &[0xcf];
const IRETQ: &[u8] = &[0x48, 0xcf];

fn exception(vector: u8, code: u32) -> Exception {
    Exception { vector, error_code: Some(code) }
}

#[test]
fn real_mode_goes_through_the_vector_table_and_back() {
    let mut cpu = real();
    put(&mut cpu, 0x80 * 4, 4, 0x0123_4567);
    cpu.set_rflags(IF | TF | CF | AC);
    assert_eq!(step(&mut cpu, INT_80), Ok(Flow::Jump));
    assert_eq!((cpu.seg[seg::CS].selector, cpu.seg[seg::CS].base, cpu.rip), (0x123, 0x1230, 0x4567));
    assert_eq!(cpu.rflags(), CF | 2);
    assert_eq!(stack(&cpu, 2, 3), [CODE + 2, 0, IF | TF | CF | 2]);
    assert_eq!(step(&mut cpu, IRETD), Ok(Flow::Jump));
    assert_eq!((cpu.rip, cpu.seg[seg::CS].selector, cpu.gpr[RSP]), (CODE + 2, 0, STACK));
    assert_eq!(cpu.rflags(), IF | TF | CF | 2);
}

#[test]
fn real_mode_pushes_no_error_code_and_checks_the_table_limit() {
    let mut cpu = real();
    put(&mut cpu, 13 * 4, 4, HANDLER & 0xffff);
    deliver_exception(&mut cpu, exception(vector::GP, 0)).unwrap();
    assert_eq!(cpu.gpr[RSP], STACK - 6);
    cpu.idt.limit = 0x80 * 4 + 2;
    assert_eq!(step(&mut cpu, INT_80), fault(vector::GP, 0x80 << 3 | 2));
}

#[test]
fn a_vector_table_without_room_is_a_shutdown() {
    let mut cpu = real();
    cpu.idt.limit = 0;
    assert!(deliver_exception(&mut cpu, exception(vector::GP, 0)).is_err());
    assert_eq!(cpu.abort, AbortReason::TripleFault);
}

#[test]
fn gates_of_each_kind_at_the_same_level() {
    for (kind, size, clears_if) in [(6, 2, true), (7, 2, false), (14, 4, true), (15, 4, false)] {
        let mut cpu = protected(0);
        set_gate(&mut cpu, 0x80, gate(kind, CODE32, HANDLER, 0, 0));
        cpu.set_rflags(IF | NT | TF | ZF);
        assert_eq!(step(&mut cpu, INT_80), Ok(Flow::Jump), "type {kind}");
        assert_eq!(stack(&cpu, size, 3), [CODE + 2, u64::from(CODE32), IF | NT | TF | ZF | 2]);
        assert_eq!(cpu.gpr[RSP], STACK - 3 * size);
        assert_eq!(cpu.rip, HANDLER);
        assert_eq!(cpu.rflags(), ZF | 2 | if clears_if { 0 } else { IF });
        let iret: &[u8] = if size == 2 { &[0x66, 0xcf] } else { IRETD };
        assert_eq!(step(&mut cpu, iret), Ok(Flow::Jump));
        assert_eq!((cpu.rip, cpu.gpr[RSP]), (CODE + 2, STACK));
        assert_eq!(cpu.rflags(), IF | NT | TF | ZF | 2);
    }
}

#[test]
fn an_inner_level_gets_its_stack_from_the_tss() {
    let mut cpu = protected(3);
    set_gate(&mut cpu, 14, gate(14, CODE32, HANDLER, 0, 0));
    cpu.set_rflags(IF);
    deliver_exception(&mut cpu, exception(vector::PF, 7)).unwrap();
    assert_eq!(cpu.gpr[RSP], STACK0 - 24);
    let frame = [7, CODE, u64::from(USER_CODE32), IF | RF | 2, STACK, u64::from(USER_DATA)];
    assert_eq!(stack(&cpu, 4, 6), frame);
    assert_eq!((cpu.cpl, cpu.seg[seg::CS].selector, cpu.seg[seg::SS].selector), (0, CODE32, DATA));
    cpu.gpr[RSP] += 4;
    assert_eq!(step(&mut cpu, IRETD), Ok(Flow::Jump));
    assert_eq!((cpu.cpl, cpu.rip, cpu.gpr[RSP]), (3, CODE, STACK));
    assert_eq!(cpu.seg[seg::SS].selector, USER_DATA);
    assert_eq!(cpu.rflags(), IF | RF | 2);
}

#[test]
fn returning_outward_drops_privileged_segments() {
    let mut cpu = protected(3);
    set_gate(&mut cpu, 0x80, gate(14, CODE32, HANDLER, 3, 0));
    step(&mut cpu, INT_80).unwrap();
    let inner = descriptor(&cpu, DATA).segment(DATA);
    cpu.seg[seg::FS] = inner;
    cpu.seg[seg::GS] = descriptor(&cpu, CONFORMING).segment(CONFORMING);
    step(&mut cpu, IRETD).unwrap();
    assert!(cpu.seg[seg::FS].unusable);
    assert_eq!(cpu.seg[seg::FS].selector, 0);
    assert_eq!(cpu.seg[seg::GS].selector, CONFORMING);
    assert_eq!(cpu.seg[seg::DS].selector, USER_DATA);
}

#[test]
fn a_base_set_by_wrmsr_outlives_the_return_to_a_user() {
    let mut cpu = long(0);
    (cpu.seg[seg::FS].base, cpu.seg[seg::GS].base) = (0x1111_2222_3333, 0x4444_5555_6666);
    let frame = [u64::from(USER_DATA), STACK, 2, u64::from(USER_CODE64), CODE];
    for (at, value) in (STACK - 40..).step_by(8).zip(frame.into_iter().rev()) {
        put(&mut cpu, at, 8, value);
    }
    cpu.gpr[RSP] = STACK - 40;
    step(&mut cpu, IRETQ).unwrap();
    assert_eq!(cpu.cpl, 3);
    assert_eq!([seg::DS, seg::FS, seg::GS].map(|index| cpu.seg[index].selector), [0; 3]);
    assert_eq!((cpu.seg[seg::FS].base, cpu.seg[seg::GS].base), (0x1111_2222_3333, 0x4444_5555_6666));
}

/// Each way in which a gate can be wrong, and the fault of INT n and of an external interrupt.
#[test]
fn bad_gates() {
    let good = gate(14, CODE32, HANDLER, 3, 0);
    let target = |selector: u16| gate(14, selector, HANDLER, 3, 0);
    let cases: &[(&str, u64, u8, u32)] = &[
        ("not a gate", 0x00cf_9a00_0000_ffff, vector::GP, 0x80 << 3 | 2),
        ("an LDT", gate(2, CODE32, HANDLER, 3, 0), vector::GP, 0x80 << 3 | 2),
        ("a call gate", gate(12, CODE32, HANDLER, 3, 0), vector::GP, 0x80 << 3 | 2),
        ("not present", good & !NOT_PRESENT, vector::NP, 0x80 << 3 | 2),
        ("null selector", target(3), vector::GP, 0),
        ("outside the table", target(OUTSIDE), vector::GP, u32::from(OUTSIDE)),
        ("data", target(DATA), vector::GP, u32::from(DATA)),
        ("outer code", target(USER_CODE32), vector::GP, u32::from(USER_CODE32) & !3),
        ("absent code", target(FREE), vector::NP, u32::from(FREE)),
    ];
    for &(what, gate, vector, code) in cases {
        for external in [false, true] {
            let mut cpu = protected(0);
            let absent = descriptor(&cpu, CODE32).0 & !NOT_PRESENT;
            set_descriptor(&mut cpu, FREE, absent);
            set_gate(&mut cpu, 0x80, gate);
            let before = (cpu.gpr, cpu.rip, cpu.rflags(), cpu.seg);
            if external {
                // The faults of its delivery are delivered instead.
                set_gate(&mut cpu, vector, super::machine::gate(14, CODE32, HANDLER, 0, 0));
                deliver_interrupt(&mut cpu, 0x80).unwrap();
                assert_eq!(stack(&cpu, 4, 2), [u64::from(code | 1), CODE], "{what}");
            } else {
                assert_eq!(step(&mut cpu, INT_80), fault(vector, code), "{what}");
                assert_eq!((cpu.gpr, cpu.rip, cpu.rflags(), cpu.seg), before, "{what}");
            }
        }
    }
}

#[test]
fn software_interrupts_are_held_against_the_gate() {
    let mut cpu = protected(3);
    for vector in [1, 3, 4, 0x80] {
        set_gate(&mut cpu, vector, gate(14, CODE32, HANDLER, 0, 0));
    }
    assert_eq!(step(&mut cpu, INT_80), fault(vector::GP, 0x80 << 3 | 2));
    assert_eq!(step(&mut cpu, &[0xcc]), fault(vector::GP, 3 << 3 | 2));
    assert_eq!(step(&mut cpu, &[0xce]), Ok(Flow::Next), "INTO without overflow");
    cpu.set_rflags(1 << 11);
    assert_eq!(step(&mut cpu, &[0xce]), fault(vector::GP, 4 << 3 | 2));
    assert_eq!(step(&mut cpu, &[0xf1]), Ok(Flow::Jump), "INT1 is not");
    let mut cpu = protected(3);
    set_gate(&mut cpu, 0x80, gate(14, CODE32, HANDLER, 0, 0));
    deliver_interrupt(&mut cpu, 0x80).unwrap();
    assert_eq!(cpu.cpl, 0);
}

#[test]
fn bad_inner_stacks_are_invalid_tss() {
    type Break = fn(&mut Cpu);
    let cases: &[(&str, Break, u8, u32)] = &[
        ("null", |cpu| put(cpu, TSS + 8, 2, 0), vector::TS, 0),
        ("outside", |cpu| put(cpu, TSS + 8, 2, 0x100), vector::TS, 0x100),
        ("wrong RPL", |cpu| put(cpu, TSS + 8, 2, 0x11), vector::TS, 0x10),
        ("wrong DPL", |cpu| put(cpu, TSS + 8, 2, 0x28), vector::TS, 0x28),
        ("code", |cpu| put(cpu, TSS + 8, 2, 8), vector::TS, 8),
        (
            "absent",
            |cpu| {
                set_descriptor(cpu, FREE, 0x00cf_1200_0000_ffff);
                put(cpu, TSS + 8, 2, u64::from(FREE));
            },
            vector::SS,
            FREE as u32,
        ),
        (
            "without room",
            |cpu| {
                set_descriptor(cpu, FREE, 0x0040_9200_0000_0fff);
                put(cpu, TSS + 8, 2, u64::from(FREE));
            },
            vector::SS,
            FREE as u32,
        ),
        ("short TSS", |cpu| cpu.tr.limit = 8, vector::TS, TASK as u32),
    ];
    for &(what, break_it, vector, code) in cases {
        let mut cpu = protected(3);
        set_gate(&mut cpu, 0x80, gate(14, CODE32, HANDLER, 3, 0));
        break_it(&mut cpu);
        assert_eq!(step(&mut cpu, INT_80), fault(vector, code), "{what}");
        assert_eq!((cpu.cpl, cpu.rip, cpu.gpr[RSP]), (3, CODE, STACK), "{what}");
    }
}

#[test]
fn virtual_8086_pushes_its_segments_and_comes_back() {
    let mut cpu = virtual8086(0);
    set_gate(&mut cpu, 0x80, gate(14, CODE32, HANDLER, 3, 0));
    assert_eq!(step(&mut cpu, INT_80), fault(vector::GP, 0), "INT n needs IOPL 3");
    deliver_interrupt(&mut cpu, 0x80).unwrap();
    assert_eq!((cpu.mode, cpu.cpl, cpu.gpr[RSP]), (Mode::Protected, 0, STACK0 - 36));
    let frame = stack(&cpu, 4, 9);
    assert_eq!(frame, [CODE, 0, VM | 2, STACK, 0x12, 0x10, 0x13, 0x14, 0x15]);
    for index in [seg::ES, seg::DS, seg::FS, seg::GS] {
        assert!(cpu.seg[index].unusable);
    }
    assert_eq!(step(&mut cpu, IRETD), Ok(Flow::Jump));
    assert_eq!((cpu.mode, cpu.cpl, cpu.rip, cpu.gpr[RSP]), (Mode::Virtual8086, 3, CODE, STACK));
    assert_eq!(cpu.seg[seg::GS].base, 0x150);
    assert_eq!(step(&mut cpu, IRETD), fault(vector::GP, 0), "IRET needs IOPL 3");
}

#[test]
fn virtual_8086_is_left_only_for_level_0() {
    let mut cpu = virtual8086(3);
    set_gate(&mut cpu, 0x80, gate(14, CONFORMING, HANDLER, 3, 0));
    assert_eq!(step(&mut cpu, INT_80), fault(vector::GP, u32::from(CONFORMING)));
}

#[test]
fn long_mode_aligns_the_stack_and_always_pushes_it() {
    let mut cpu = long(0);
    set_long_gate(&mut cpu, 14, gate(14, CODE64, HANDLER, 0, 0), 0);
    cpu.gpr[RSP] = STACK - 3;
    deliver_exception(&mut cpu, exception(vector::PF, 2)).unwrap();
    assert_eq!(cpu.gpr[RSP], STACK - 16 - 48);
    let frame = [2, CODE, u64::from(CODE64), RF | 2, STACK - 3, u64::from(DATA)];
    assert_eq!(stack(&cpu, 8, 6), frame);
    assert_eq!(cpu.seg[seg::SS].selector, DATA);
    cpu.gpr[RSP] += 8;
    assert_eq!(step(&mut cpu, IRETQ), Ok(Flow::Jump));
    assert_eq!((cpu.rip, cpu.gpr[RSP], cpu.seg[seg::SS].selector), (CODE, STACK - 3, DATA));
}

#[test]
fn long_mode_inner_level_and_interrupt_stacks() {
    for ist in 0..8u8 {
        let mut cpu = long(3);
        set_long_gate(&mut cpu, 0x80, gate(14, CODE64, HANDLER, 3, ist), 0xffff_8000);
        assert_eq!(step(&mut cpu, INT_80), Ok(Flow::Jump));
        let top = if ist == 0 { STACK0 } else { STACK_IST + u64::from(ist) * 0x100 };
        assert_eq!(cpu.gpr[RSP], top - 40);
        assert_eq!(cpu.rip, 0xffff_8000_0000_0000 | HANDLER);
        assert_eq!((cpu.cpl, cpu.seg[seg::SS].selector, cpu.seg[seg::SS].unusable), (0, 0, true));
        cpu.rip = HANDLER;
        assert_eq!(step(&mut cpu, IRETQ), Ok(Flow::Jump));
        assert_eq!((cpu.cpl, cpu.rip, cpu.gpr[RSP]), (3, CODE + 2, STACK));
        assert_eq!(cpu.seg[seg::SS].selector, USER_DATA);
    }
}

#[test]
fn an_interrupt_stack_is_used_at_the_same_level_too() {
    let mut cpu = long(0);
    set_long_gate(&mut cpu, 2, gate(14, CODE64, HANDLER, 0, 1), 0);
    deliver_nmi(&mut cpu).unwrap();
    assert_eq!(cpu.gpr[RSP], STACK_IST + 0x100 - 40);
    assert_eq!(cpu.seg[seg::SS].selector, DATA);
    assert!(cpu.system.nmi_blocked);
    step(&mut cpu, IRETQ).unwrap();
    assert!(!cpu.system.nmi_blocked);
}

#[test]
fn long_mode_from_and_to_compatibility_mode() {
    let mut cpu = compatibility(3);
    set_long_gate(&mut cpu, 0x80, gate(14, CODE64, HANDLER, 3, 0), 0);
    assert_eq!(step(&mut cpu, INT_80), Ok(Flow::Jump));
    assert_eq!((cpu.mode, cpu.cpl), (Mode::Long, 0));
    assert_eq!(step(&mut cpu, IRETQ), Ok(Flow::Jump));
    assert_eq!((cpu.mode, cpu.cpl, cpu.rip, cpu.gpr[RSP]), (Mode::Protected, 3, CODE + 2, STACK));
}

#[test]
fn bad_long_gates() {
    let good = gate(14, CODE64, HANDLER, 3, 0);
    let cases: &[(&str, u64, u64, u8, u32)] = &[
        ("16-bit", gate(6, CODE64, HANDLER, 3, 0), 0, vector::GP, 0x80 << 3 | 2),
        ("task gate", gate(5, TASK, 0, 3, 0), 0, vector::GP, 0x80 << 3 | 2),
        ("absent", good & !NOT_PRESENT, 0, vector::NP, 0x80 << 3 | 2),
        ("32-bit code", gate(14, CODE32, HANDLER, 3, 0), 0, vector::GP, u32::from(CODE32)),
        ("not canonical", good, 0x8000, vector::GP, 0),
    ];
    for &(what, low, high, vector, code) in cases {
        let mut cpu = long(0);
        set_long_gate(&mut cpu, 0x80, low, high);
        assert_eq!(step(&mut cpu, INT_80), fault(vector, code), "{what}");
        assert_eq!((cpu.rip, cpu.gpr[RSP]), (CODE, STACK), "{what}");
    }
    let mut cpu = long(0);
    cpu.idt.limit = 0x80 * 16 + 14;
    assert_eq!(step(&mut cpu, INT_80), fault(vector::GP, 0x80 << 3 | 2));
    let mut cpu = long(3);
    set_long_gate(&mut cpu, 0x80, good, 0);
    put(&mut cpu, TSS + 4, 8, 1 << 60);
    assert_eq!(step(&mut cpu, INT_80), fault(vector::SS, 0));
}

#[test]
fn faults_of_delivery_combine() {
    // The first event, what is wrong with it, and what is delivered in the end.
    let absent = gate(14, CODE64, HANDLER, 0, 0) & !NOT_PRESENT;
    for (first, second, delivered) in [
        (vector::GP, vector::NP, Some(vector::DF)),
        (vector::PF, vector::NP, Some(vector::DF)),
        (vector::UD, vector::NP, Some(vector::NP)),
        (vector::DB, vector::NP, Some(vector::NP)),
        (vector::AC, vector::NP, Some(vector::NP)),
        (vector::DF, vector::NP, None),
    ] {
        let mut cpu = long(0);
        for vector in [vector::DF, second] {
            set_long_gate(&mut cpu, vector, gate(14, CODE64, HANDLER + u64::from(vector), 0, 0), 0);
        }
        set_long_gate(&mut cpu, first, absent, 0);
        let result = deliver_exception(&mut cpu, Exception { vector: first, error_code: None });
        match delivered {
            Some(vector) => {
                assert_eq!(result, Ok(()), "{first}");
                assert_eq!(cpu.rip, HANDLER + u64::from(vector), "{first}");
                let code = if vector == vector::DF { 0 } else { u64::from(first) << 3 | 3 };
                assert_eq!(stack(&cpu, 8, 2), [code, CODE]);
            }
            None => {
                assert!(result.is_err());
                assert_eq!(cpu.abort, AbortReason::TripleFault);
            }
        }
    }
}

#[test]
fn a_page_fault_during_a_general_protection_is_a_page_fault() {
    let mut cpu = long(0);
    set_long_gate(&mut cpu, 13, gate(14, CODE64, HANDLER, 0, 0), 0);
    set_long_gate(&mut cpu, 14, gate(14, CODE64, HANDLER + 14, 0, 1), 0);
    cpu.gpr[RSP] = UNMAPPED + 0x100;
    deliver_exception(&mut cpu, exception(vector::GP, 0)).unwrap();
    assert_eq!((cpu.rip, cpu.cr2), (HANDLER + 14, UNMAPPED + 0xf8));
    // A page fault during that one doubles, and one during the double fault shuts down.
    let mut cpu = long(0);
    set_long_gate(&mut cpu, 14, gate(14, CODE64, HANDLER, 0, 0), 0);
    set_long_gate(&mut cpu, 8, gate(14, CODE64, HANDLER + 8, 0, 1), 0);
    cpu.gpr[RSP] = UNMAPPED + 0x100;
    deliver_exception(&mut cpu, exception(vector::PF, 0)).unwrap();
    assert_eq!(cpu.rip, HANDLER + 8);
    let mut cpu = long(0);
    set_long_gate(&mut cpu, 14, gate(14, CODE64, HANDLER, 0, 0), 0);
    set_long_gate(&mut cpu, 8, gate(14, CODE64, HANDLER + 8, 0, 0), 0);
    cpu.gpr[RSP] = UNMAPPED + 0x100;
    assert!(deliver_exception(&mut cpu, exception(vector::PF, 0)).is_err());
    assert_eq!(cpu.abort, AbortReason::TripleFault);
}

#[test]
fn a_stack_outside_memory_loses_the_frame() {
    let mut cpu = protected(0);
    set_gate(&mut cpu, 0x80, gate(14, CODE32, HANDLER, 0, 0));
    cpu.gpr[RSP] = 0x4000_0000;
    assert_eq!(deliver_interrupt(&mut cpu, 0x80), Ok(()));
    assert_eq!(cpu.rip, HANDLER);
}

#[test]
fn traps_push_no_resume_flag() {
    for (vector, pushed) in [(vector::DB, 0), (vector::BP, 0), (vector::UD, RF), (vector::MF, RF)] {
        let mut cpu = protected(0);
        set_gate(&mut cpu, vector, gate(14, CODE32, HANDLER, 0, 0));
        deliver_exception(&mut cpu, Exception { vector, error_code: None }).unwrap();
        assert_eq!(stack(&cpu, 4, 3)[2], pushed | 2);
    }
}

#[test]
fn iret_faults_change_nothing() {
    // Frames: RIP, CS, flags, RSP, SS.
    let cases: &[(&str, [u64; 5], u8, u32)] = &[
        ("null CS", [CODE, 0, 2, STACK, 0x10], vector::GP, 0),
        ("outside", [CODE, 0x100, 2, STACK, 0x10], vector::GP, 0x100),
        ("data", [CODE, 0x10, 2, STACK, 0x10], vector::GP, 0x10),
        ("RPL beyond DPL", [CODE, 0x1b, 2, STACK, 0x2b], vector::GP, 0x18),
        ("null user SS", [CODE, 0x33, 2, STACK, 0], vector::GP, 0),
        ("SS of another level", [CODE, 0x33, 2, STACK, 0x10], vector::GP, 0x10),
        ("SS with another RPL", [CODE, 0x33, 2, STACK, 0x28], vector::GP, 0x28),
        ("code in SS", [CODE, 0x33, 2, STACK, 0x33], vector::GP, 0x30),
        ("not canonical", [1 << 47, 0x33, 2, STACK, 0x2b], vector::GP, 0),
        ("beyond the limit", [1 << 32, 0x23, 2, STACK, 0x2b], vector::GP, 0),
        ("null SS in compatibility mode", [CODE, 0x08, 2, STACK, 0], vector::GP, 0),
    ];
    for &(what, frame, vector, code) in cases {
        let mut cpu = long(0);
        for (i, value) in (0..).zip(frame) {
            put(&mut cpu, STACK + 8 * i, 8, value);
        }
        let before = (cpu.gpr, cpu.rip, cpu.rflags(), cpu.seg);
        assert_eq!(step(&mut cpu, IRETQ), fault(vector, code), "{what}");
        assert_eq!((cpu.gpr, cpu.rip, cpu.rflags(), cpu.seg), before, "{what}");
    }
}

#[test]
fn iret_to_level_0_takes_a_null_stack() {
    let mut cpu = long(0);
    for (i, value) in (0..).zip([HANDLER, u64::from(CODE64), 2, 0xffff_8000_0000_0000, 0]) {
        put(&mut cpu, STACK + 8 * i, 8, value);
    }
    assert_eq!(step(&mut cpu, IRETQ), Ok(Flow::Jump));
    assert_eq!((cpu.rip, cpu.gpr[RSP]), (HANDLER, 0xffff_8000_0000_0000));
    assert!(cpu.seg[seg::SS].unusable);
}

#[test]
fn iret_changes_only_the_flags_that_the_level_may() {
    let mut cpu = protected(3);
    for (i, value) in (0..).zip([HANDLER, u64::from(USER_CODE32), IF | 0x3000 | CF | AC]) {
        put(&mut cpu, STACK + 4 * i, 4, value);
    }
    step(&mut cpu, IRETD).unwrap();
    assert_eq!(cpu.rflags(), CF | AC | 2);
}

#[test]
fn a_nested_task_cannot_return_in_long_mode() {
    let mut cpu = long(0);
    cpu.set_rflags(NT);
    assert_eq!(step(&mut cpu, IRETQ), fault(vector::GP, 0));
}

#[test]
fn a_16_bit_stack_keeps_the_upper_half_of_esp() {
    let mut cpu = protected(0);
    set_descriptor(&mut cpu, FREE, 0x0000_f200_0000_ffff);
    for (i, value) in (0..).zip([CODE, u64::from(USER_CODE32), 2, 0x1234_5678, u64::from(FREE) | 3]) {
        put(&mut cpu, STACK + 4 * i, 4, value);
    }
    step(&mut cpu, IRETD).unwrap();
    assert_eq!(cpu.gpr[RSP], 0x5678);
}

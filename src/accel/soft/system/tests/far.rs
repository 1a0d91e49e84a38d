//! Far JMP, CALL and RET.

use super::machine::*;
use crate::accel::soft::abort::vector;
use crate::accel::soft::execute::Flow;
use crate::accel::soft::state::{Cpu, Mode, seg};
use crate::accel::soft::system::stack::RSP;

/// `jmp ptr16:32` or `call ptr16:32`.
fn far32(opcode: u8, selector: u16) -> Vec<u8> {
    let mut bytes = vec![opcode];
    bytes.extend((HANDLER as u32).to_le_bytes());
    bytes.extend(selector.to_le_bytes());
    bytes
}

const JMP: u8 = 0xea;
const CALL: u8 = 0x9a;
const RETFD: &[u8] = &[0xcb];
const RETFQ: &[u8] = &[0x48, 0xcb];
/// `jmp far [rbx]` and `call far [rbx]` with a 32-bit offset.
const JMP_INDIRECT: &[u8] = &[0xff, 0x2b];
const CALL_INDIRECT: &[u8] = &[0xff, 0x1b];

fn with_call_gate(cpl: u8, kind: u8, target: u16, dpl: u8, parameters: u8) -> Cpu {
    let mut cpu = protected(cpl);
    set_descriptor(&mut cpu, FREE, gate(kind, target, HANDLER, dpl, parameters));
    cpu
}

#[test]
fn real_mode_jump_call_and_return() {
    let mut cpu = real();
    assert_eq!(step(&mut cpu, &[CALL, 0x34, 0x12, 0x00, 0x10]), Ok(Flow::Jump));
    assert_eq!((cpu.rip, cpu.seg[seg::CS].base), (0x1234, 0x10000));
    assert_eq!(stack(&cpu, 2, 2), [CODE + 5, 0]);
    assert_eq!(step(&mut cpu, &[0xca, 4, 0]), Ok(Flow::Jump));
    assert_eq!((cpu.rip, cpu.gpr[RSP]), (CODE + 5, STACK + 4));
    assert_eq!(step(&mut cpu, &[JMP, 0x34, 0x12, 0x00, 0x10]), Ok(Flow::Jump));
    assert_eq!((cpu.rip, cpu.seg[seg::CS].selector), (0x1234, 0x1000));
}

#[test]
fn far_jumps_are_checked() {
    let cases: &[(u8, u16, u8, u32)] = &[
        (0, 0, vector::GP, 0),
        (0, 3, vector::GP, 0),
        (0, OUTSIDE, vector::GP, OUTSIDE as u32),
        (0, DATA, vector::GP, DATA as u32),
        (0, USER_CODE32, vector::GP, 0x20),
        (0, CODE32 | 1, vector::GP, 8),
        (3, CODE32, vector::GP, 8),
        (0, LOCAL, vector::GP, LOCAL as u32),
        (0, FREE, vector::NP, FREE as u32),
    ];
    for &(cpl, selector, vector, code) in cases {
        let mut cpu = protected(cpl);
        set_descriptor(&mut cpu, FREE, 0x00cf_1a00_0000_ffff);
        assert_eq!(step(&mut cpu, &far32(JMP, selector)), fault(vector, code), "{selector:#x}");
        assert_eq!(step(&mut cpu, &far32(CALL, selector)), fault(vector, code), "{selector:#x}");
        assert_eq!((cpu.rip, cpu.gpr[RSP], cpu.seg[seg::CS].selector & 3), (CODE, STACK, u16::from(cpl)));
    }
}

#[test]
fn far_jumps_and_calls_at_the_same_level() {
    for (cpl, selector) in [(0, CODE32), (3, USER_CODE32), (3, CONFORMING), (3, 0x20)] {
        let mut cpu = protected(cpl);
        assert_eq!(step(&mut cpu, &far32(JMP, selector)), Ok(Flow::Jump));
        assert_eq!((cpu.rip, cpu.cpl), (HANDLER, cpl));
        assert_eq!(cpu.seg[seg::CS].selector, selector & !3 | u16::from(cpl));
        assert_eq!(descriptor(&cpu, selector).type_() & 1, 1, "accessed");
        let mut cpu = protected(cpl);
        let old = cpu.seg[seg::CS].selector;
        assert_eq!(step(&mut cpu, &far32(CALL, selector)), Ok(Flow::Jump));
        assert_eq!(stack(&cpu, 4, 2), [CODE + 7, u64::from(old)]);
        assert_eq!(step(&mut cpu, RETFD), Ok(Flow::Jump));
        assert_eq!((cpu.rip, cpu.gpr[RSP], cpu.seg[seg::CS].selector), (CODE + 7, STACK, old));
    }
}

#[test]
fn an_offset_beyond_the_limit() {
    let mut cpu = protected(0);
    set_descriptor(&mut cpu, FREE, 0x0040_9a00_0000_0fff);
    assert_eq!(step(&mut cpu, &far32(JMP, FREE)), fault(vector::GP, 0));
}

#[test]
fn call_gates_copy_parameters_to_the_inner_stack() {
    for (kind, size) in [(12, 4u64), (4, 2)] {
        let mut cpu = with_call_gate(3, kind, CODE32, 3, 3);
        for i in 0..3 {
            put(&mut cpu, STACK + i * size, size as u8, 0x11 * (i + 1));
        }
        assert_eq!(step(&mut cpu, &far32(CALL, FREE | 3)), Ok(Flow::Jump));
        assert_eq!((cpu.cpl, cpu.rip), (0, HANDLER));
        assert_eq!(cpu.gpr[RSP], STACK0 - 7 * size);
        let frame = [CODE + 7, u64::from(USER_CODE32), 0x11, 0x22, 0x33, STACK, u64::from(USER_DATA)];
        assert_eq!(stack(&cpu, size, 7), frame);
        let ret: &[u8] = if size == 4 { &[0xca, 12, 0] } else { &[0x66, 0xca, 6, 0] };
        assert_eq!(step(&mut cpu, ret), Ok(Flow::Jump));
        assert_eq!((cpu.cpl, cpu.rip, cpu.gpr[RSP]), (3, CODE + 7, STACK + 3 * size));
        assert_eq!(cpu.seg[seg::SS].selector, USER_DATA);
    }
}

#[test]
fn call_gates_are_checked() {
    let cases: &[(&str, u8, u64, u8, u32)] = &[
        ("gate DPL", 3, gate(12, CODE32, HANDLER, 0, 0), vector::GP, FREE as u32),
        ("absent", 3, gate(12, CODE32, HANDLER, 3, 0) & !NOT_PRESENT, vector::NP, FREE as u32),
        ("null", 3, gate(12, 0, HANDLER, 3, 0), vector::GP, 0),
        ("outside", 3, gate(12, OUTSIDE, HANDLER, 3, 0), vector::GP, OUTSIDE as u32),
        ("data", 3, gate(12, DATA, HANDLER, 3, 0), vector::GP, DATA as u32),
        ("outer", 0, gate(12, USER_CODE32, HANDLER, 3, 0), vector::GP, 0x20),
        ("interrupt gate", 0, gate(14, CODE32, HANDLER, 3, 0), vector::GP, FREE as u32),
    ];
    for &(what, cpl, gate, vector, code) in cases {
        let mut cpu = protected(cpl);
        set_descriptor(&mut cpu, FREE, gate);
        assert_eq!(step(&mut cpu, &far32(CALL, FREE)), fault(vector, code), "{what}");
        assert_eq!((cpu.cpl, cpu.rip, cpu.gpr[RSP]), (cpl, CODE, STACK), "{what}");
    }
    let mut cpu = with_call_gate(3, 12, CODE32, 3, 0);
    assert_eq!(step(&mut cpu, &far32(JMP, FREE)), fault(vector::GP, 8), "JMP stays at its level");
    let mut cpu = with_call_gate(0, 12, CODE32, 3, 0);
    assert_eq!(step(&mut cpu, &far32(JMP, FREE)), Ok(Flow::Jump));
}

#[test]
fn long_mode_call_gate_and_return() {
    let mut cpu = long(3);
    set_descriptor(&mut cpu, FREE, gate(12, CODE64, HANDLER, 3, 0));
    set_descriptor(&mut cpu, FREE + 8, 0);
    cpu.gpr[3] = 0x5000;
    put(&mut cpu, 0x5004, 2, u64::from(FREE));
    assert_eq!(step(&mut cpu, CALL_INDIRECT), Ok(Flow::Jump));
    assert_eq!((cpu.cpl, cpu.rip, cpu.gpr[RSP]), (0, HANDLER, STACK0 - 32));
    assert!(cpu.seg[seg::SS].unusable);
    let frame = [CODE + 2, u64::from(USER_CODE64), STACK, u64::from(USER_DATA)];
    assert_eq!(stack(&cpu, 8, 4), frame);
    assert_eq!(step(&mut cpu, RETFQ), Ok(Flow::Jump));
    assert_eq!((cpu.cpl, cpu.rip, cpu.gpr[RSP]), (3, CODE + 2, STACK));
    // A type in the upper half, a gate to 32-bit code, a target that is not canonical.
    set_descriptor(&mut cpu, FREE + 8, 1 << 40);
    assert_eq!(step(&mut cpu, CALL_INDIRECT), fault(vector::GP, FREE as u32));
    set_descriptor(&mut cpu, FREE + 8, 0x8000);
    assert_eq!(step(&mut cpu, CALL_INDIRECT), fault(vector::GP, 0));
    set_descriptor(&mut cpu, FREE, gate(12, CODE32, HANDLER, 3, 0));
    assert_eq!(step(&mut cpu, CALL_INDIRECT), fault(vector::GP, CODE32 as u32));
}

#[test]
fn between_64_bit_and_compatibility_mode() {
    let mut cpu = long(0);
    cpu.gpr[3] = 0x5000;
    put(&mut cpu, 0x5000, 4, HANDLER);
    put(&mut cpu, 0x5004, 2, u64::from(CODE32));
    assert_eq!(step(&mut cpu, JMP_INDIRECT), Ok(Flow::Jump));
    assert_eq!((cpu.mode, cpu.rip), (Mode::Protected, HANDLER));
    assert_eq!(step(&mut cpu, &far32(JMP, CODE64)), Ok(Flow::Jump));
    assert_eq!(cpu.mode, Mode::Long);
    // Both L and D set.
    set_descriptor(&mut cpu, FREE, 0x00ef_9a00_0000_ffff);
    put(&mut cpu, 0x5004, 2, u64::from(FREE));
    assert_eq!(step(&mut cpu, JMP_INDIRECT), fault(vector::GP, FREE as u32));
}

#[test]
fn returns_are_checked() {
    // RIP, CS, RSP, SS.
    let cases: &[(&str, [u64; 4], u8, u32)] = &[
        ("null", [CODE, 0, STACK, 0x2b], vector::GP, 0),
        ("inner", [CODE, 8, STACK, 0x2b], vector::GP, 8),
        ("data", [CODE, 0x2b, STACK, 0x2b], vector::GP, 0x28),
        ("outside", [CODE, 0x103, STACK, 0x2b], vector::GP, 0x100),
    ];
    for &(what, frame, vector, code) in cases {
        let mut cpu = protected(3);
        for (i, value) in (0..).zip(frame) {
            put(&mut cpu, STACK + 4 * i, 4, value);
        }
        assert_eq!(step(&mut cpu, RETFD), fault(vector, code), "{what}");
        assert_eq!((cpu.rip, cpu.gpr[RSP]), (CODE, STACK), "{what}");
    }
}

#[test]
fn a_call_onto_a_stack_without_room() {
    let mut cpu = protected(0);
    cpu.seg[seg::SS].limit = 0xfff;
    assert_eq!(step(&mut cpu, &far32(CALL, CODE32)), fault(vector::SS, 0));
    assert_eq!((cpu.rip, cpu.gpr[RSP]), (CODE, STACK));
}

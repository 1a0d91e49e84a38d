//! The TSS: I/O permissions and task switches.

use super::machine::*;
use crate::accel::soft::abort::vector;
use crate::accel::soft::execute::Flow;
use crate::accel::soft::flags::rflags::NT;
use crate::accel::soft::state::{Cpu, cr0, seg};
use crate::accel::soft::system::delivery::deliver_exception;
use crate::accel::soft::system::stack::RSP;

const OTHER_TSS: u64 = 0x4000;
const OTHER: u16 = FREE;

#[test]
fn io_permissions() {
    let mut cpu = protected(3);
    cpu.tr.limit = 0x68 + 3;
    // Ports 0 to 15, and what follows is all-ones.
    put(&mut cpu, TSS + 0x68, 4, 0xffff_0010);
    for (port, size, allowed) in [
        (0, 1, true),
        (3, 1, true),
        (4, 1, false),
        (3, 2, false),
        (1, 4, false),
        (5, 1, true),
        (8, 4, true),
        (14, 2, true),
        (15, 2, false),
        (16, 1, false),
        (24, 1, false),
        (0xffff, 4, false),
    ] {
        assert_eq!(cpu.check_port(port, size).is_ok(), allowed, "{port} {size}");
    }
    cpu.set_rflags(3 << 12);
    assert!(cpu.check_port(4, 1).is_ok(), "IOPL 3");
    let mut cpu = virtual8086(3);
    assert!(cpu.check_port(4, 1).is_err(), "virtual-8086 mode asks the bitmap");
}

fn with_other_task() -> Cpu {
    let mut cpu = protected(0);
    cpu.tr.type_ = 11;
    set_descriptor(&mut cpu, TASK, 0x0000_8b00_3000_0067);
    set_descriptor(&mut cpu, OTHER, 0x0000_8900_4000_0067);
    put(&mut cpu, OTHER_TSS + 32, 4, HANDLER);
    put(&mut cpu, OTHER_TSS + 36, 4, 2);
    put(&mut cpu, OTHER_TSS + 40 + 4 * 4, 4, 0x6000);
    for (i, selector) in (0..).zip([DATA, CODE32, DATA, DATA, 0, 0]) {
        put(&mut cpu, OTHER_TSS + 72 + 4 * i, 4, u64::from(selector));
    }
    cpu
}

fn call(selector: u16) -> Vec<u8> {
    let mut bytes = vec![0x9a, 0, 0, 0, 0];
    bytes.extend(selector.to_le_bytes());
    bytes
}

#[test]
fn calling_a_task_and_returning() {
    let mut cpu = with_other_task();
    cpu.gpr[3] = 0x1234;
    assert_eq!(step(&mut cpu, &call(OTHER)), Ok(Flow::Jump));
    assert_eq!((cpu.rip, cpu.gpr[RSP], cpu.tr.selector), (HANDLER, 0x6000, OTHER));
    assert_eq!((cpu.rflags(), cpu.cr0 & cr0::TS), (NT | 2, cr0::TS));
    assert_eq!(get(&cpu, OTHER_TSS, 2), u64::from(TASK));
    assert_eq!((descriptor(&cpu, OTHER).type_(), descriptor(&cpu, TASK).type_()), (11, 11));
    assert!(cpu.seg[seg::FS].unusable);
    assert_eq!(step(&mut cpu, &[0xcf]), Ok(Flow::Jump));
    assert_eq!((cpu.rip, cpu.gpr[RSP], cpu.gpr[3]), (CODE + 7, STACK, 0x1234));
    assert_eq!((descriptor(&cpu, OTHER).type_(), descriptor(&cpu, TASK).type_()), (9, 11));
    assert_eq!(cpu.rflags(), 2);
}

#[test]
fn jumping_to_a_task() {
    let mut cpu = with_other_task();
    let mut bytes = call(OTHER);
    bytes[0] = 0xea;
    assert_eq!(step(&mut cpu, &bytes), Ok(Flow::Jump));
    assert_eq!((cpu.rip, cpu.rflags()), (HANDLER, 2));
    assert_eq!((descriptor(&cpu, OTHER).type_(), descriptor(&cpu, TASK).type_()), (11, 9));
}

#[test]
fn a_task_gate_in_the_idt() {
    let mut cpu = with_other_task();
    set_gate(&mut cpu, 8, gate(5, OTHER, 0, 0, 0));
    let double_fault = crate::accel::soft::abort::Exception { vector: vector::DF, error_code: Some(0) };
    deliver_exception(&mut cpu, double_fault).unwrap();
    assert_eq!((cpu.rip, cpu.gpr[RSP], stack(&cpu, 4, 1)[0]), (HANDLER, 0x6000 - 4, 0));
    assert_eq!(get(&cpu, TSS + 32, 4), CODE);
}

#[test]
fn bad_tasks() {
    let mut cpu = with_other_task();
    assert_eq!(step(&mut cpu, &call(TASK)), fault(vector::GP, TASK as u32), "busy");
    set_descriptor(&mut cpu, OTHER, 0x0000_0900_4000_0067);
    assert_eq!(step(&mut cpu, &call(OTHER)), fault(vector::NP, OTHER as u32));
    set_descriptor(&mut cpu, OTHER, 0x0000_8900_4000_0066);
    assert_eq!(step(&mut cpu, &call(OTHER)), fault(vector::TS, OTHER as u32));
    assert_eq!((cpu.rip, cpu.tr.selector), (CODE, TASK));
    // What is wrong with the new task's own registers is its fault.
    let mut cpu = with_other_task();
    put(&mut cpu, OTHER_TSS + 80, 4, 0);
    assert_eq!(step(&mut cpu, &call(OTHER)), fault(vector::TS, 0));
    assert_eq!((cpu.rip, cpu.tr.selector), (HANDLER, OTHER));
    // NT without a task to return to.
    let mut cpu = protected(0);
    cpu.set_rflags(NT);
    assert_eq!(step(&mut cpu, &[0xcf]), fault(vector::TS, 0));
}

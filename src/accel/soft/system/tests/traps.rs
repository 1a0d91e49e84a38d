//! Debug exceptions and faults of whole programs, run by the core.

use super::machine::*;
use crate::accel::soft::flags::rflags::{RF, TF};
use crate::accel::soft::run::Stop;
use crate::accel::soft::state::Cpu;
use crate::accel::soft::system::stack::RSP;

const HLT: u8 = 0xf4;
const BS: u64 = 1 << 14;

/// A 64-bit machine with a program, and a handler of #DB that halts.
fn machine(program: &[u8], handler: &[u8]) -> Cpu {
    let mut cpu = long(0);
    for vector in 0..32 {
        set_long_gate(&mut cpu, vector, gate(14, CODE64, HANDLER + 0x100, 0, 0), 0);
    }
    set_long_gate(&mut cpu, 1, gate(14, CODE64, HANDLER, 0, 0), 0);
    for (address, bytes) in [(CODE, program), (HANDLER, handler), (HANDLER + 0x100, &[HLT])] {
        for (at, &byte) in (address..).zip(bytes) {
            put(&mut cpu, at, 1, byte.into());
        }
    }
    cpu
}

#[track_caller]
fn run(cpu: &mut Cpu) {
    assert_eq!(cpu.execute(), Stop::Halted);
}

#[test]
fn a_single_step_traps_behind_the_instruction() {
    let mut cpu = machine(&[0x90, 0x90, HLT], &[HLT]);
    cpu.set_rflags(TF);
    run(&mut cpu);
    assert_eq!((cpu.rip, cpu.dr[6] & BS), (HANDLER + 1, BS));
    assert_eq!(stack(&cpu, 8, 3), [CODE + 1, u64::from(CODE64), TF | 2]);
}

#[test]
fn an_interrupt_instruction_is_not_stepped_into() {
    // int 0x80, whose handler halts: had it trapped, #DB's would have.
    let mut cpu = machine(&[0xcd, 0x1f, HLT], &[HLT]);
    cpu.set_rflags(TF);
    run(&mut cpu);
    assert_eq!((cpu.rip, cpu.dr[6] & BS), (HANDLER + 0x101, 0));
}

#[test]
fn a_sysret_that_sets_tf_traps_before_the_program_goes_on() {
    for sysret in [&[0x48, 0x0f, 0x07][..], &[0x0f, 0x07]] {
        for was_stepping in [false, true] {
            let mut cpu = machine(sysret, &[HLT]);
            put(&mut cpu, CODE + 0x100, 1, HLT.into());
            (cpu.gpr[1], cpu.gpr[11]) = (CODE + 0x100, TF);
            cpu.system.msrs.star = u64::from(USER_CODE32) << 48;
            cpu.set_rflags(if was_stepping { TF } else { 0 });
            run(&mut cpu);
            assert_eq!((cpu.rip, cpu.dr[6] & BS), (HANDLER + 1, BS));
            assert_eq!(stack(&cpu, 8, 3)[0], CODE + 0x100);
            assert_eq!(stack(&cpu, 8, 3)[2], TF | 2);
        }
    }
}

#[test]
fn a_load_of_ss_holds_the_trap_off() {
    // mov ss, ax; nop
    let mut cpu = machine(&[0x8e, 0xd0, 0x90, HLT], &[HLT]);
    cpu.gpr[0] = u64::from(DATA);
    cpu.set_rflags(TF);
    run(&mut cpu);
    assert_eq!(stack(&cpu, 8, 1), [CODE + 3]);
}

#[test]
fn an_instruction_breakpoint_faults_before_it_and_lets_it_pass_once_resumed() {
    // The handler: or dword [rsp + 16], RF; inc rbx; iretq.
    let handler = [0x81, 0x4c, 0x24, 0x10, 0, 0, 1, 0, 0x48, 0xff, 0xc3, 0x48, 0xcf];
    let mut cpu = machine(&[0x90, 0x90, 0x90, HLT], &handler);
    (cpu.dr[0], cpu.dr[7]) = (CODE + 1, 0x401);
    run(&mut cpu);
    assert_eq!((cpu.rip, cpu.gpr[3], cpu.dr[6] & 0xf), (CODE + 4, 1, 1));
    assert_eq!(cpu.rflags() & RF, 0);
}

#[test]
fn an_instruction_breakpoint_behind_a_load_of_ss_is_lost() {
    let breakpoint = |program: &[u8], at: u64| {
        let mut cpu = machine(program, &[HLT]);
        cpu.gpr[0] = u64::from(DATA);
        (cpu.dr[0], cpu.dr[6], cpu.dr[7]) = (at, 0xffff_0ff0, 0x401);
        run(&mut cpu);
        (cpu.rip, cpu.dr[6] & 0xf)
    };
    // mov ss, ax; nop; nop
    let program = [0x8e, 0xd0, 0x90, 0x90, HLT];
    assert_eq!(breakpoint(&program, CODE), (HANDLER + 1, 1));
    assert_eq!(breakpoint(&program, CODE + 2), (CODE + 5, 0));
    assert_eq!(breakpoint(&program, CODE + 3), (HANDLER + 1, 1));
    // sti, and a load of DS, hold nothing of the kind off: sti; nop; mov ds, ax; nop
    let program = [0xfb, 0x90, 0x8e, 0xd8, 0x90, HLT];
    assert_eq!(breakpoint(&program, CODE + 1), (HANDLER + 1, 1));
    assert_eq!(breakpoint(&program, CODE + 4), (HANDLER + 1, 1));
    // mov ss, ax, long before; mov rcx, 0x401; mov dr7, rcx; nop
    let program = [0x8e, 0xd0, 0x48, 0xc7, 0xc1, 1, 4, 0, 0, 0x0f, 0x23, 0xf9, 0x90, HLT];
    let mut cpu = machine(&program, &[HLT]);
    cpu.gpr[0] = u64::from(DATA);
    cpu.dr[0] = CODE + 12;
    run(&mut cpu);
    assert_eq!((cpu.rip, cpu.dr[6] & 0xf), (HANDLER + 1, 1));
}

#[test]
fn a_data_breakpoint_traps_behind_the_store() {
    // mov [rcx], eax
    let mut cpu = machine(&[0x89, 0x01, 0x90, HLT], &[HLT]);
    cpu.gpr[1] = 0x5002;
    (cpu.dr[2], cpu.dr[7]) = (0x5004, 0x420 | 1 << 24);
    run(&mut cpu);
    assert_eq!((cpu.rip, cpu.dr[6] & 0xf), (HANDLER + 1, 4));
    assert_eq!(stack(&cpu, 8, 1), [CODE + 2]);
}

#[test]
fn a_fault_names_its_instruction_and_carries_the_resume_flag() {
    // mov eax, [rcx]
    let mut cpu = machine(&[0x90, 0x8b, 0x01, HLT], &[HLT]);
    cpu.gpr[1] = UNMAPPED;
    run(&mut cpu);
    assert_eq!((cpu.rip, cpu.cr2), (HANDLER + 0x101, UNMAPPED));
    assert_eq!(stack(&cpu, 8, 4), [0, CODE + 1, u64::from(CODE64), RF | 2]);
}

#[test]
fn a_frame_pushed_over_the_program_itself() {
    // ud2, whose frame goes where the program is.
    let mut cpu = machine(&[0x0f, 0x0b, HLT], &[HLT]);
    cpu.gpr[RSP] = CODE + 0x20;
    run(&mut cpu);
    assert_eq!((cpu.rip, get(&cpu, CODE - 8, 8)), (HANDLER + 0x101, CODE));
}

#[test]
fn from_real_mode_to_long_mode() {
    // The way of a boot loader: lgdt, CR4.PAE, CR3, EFER.LME, CR0 and a far jump.
    let program: &[u8] = &[
        0x0f, 0x01, 0x16, 0x00, 0x50, // lgdt [0x5000]
        0x66, 0xb8, 0x20, 0, 0, 0, // mov eax, PAE
        0x0f, 0x22, 0xe0, // mov cr4, eax
        0x66, 0xb8, 0, 0, 1, 0, // mov eax, PAGES
        0x0f, 0x22, 0xd8, // mov cr3, eax
        0x66, 0xb9, 0x80, 0, 0, 0xc0, // mov ecx, EFER
        0x66, 0xb8, 0, 1, 0, 0, // mov eax, LME
        0x66, 0x31, 0xd2, // xor edx, edx
        0x0f, 0x30, // wrmsr
        0x66, 0xb8, 1, 0, 0, 0x80, // mov eax, PG | PE
        0x0f, 0x22, 0xc0, // mov cr0, eax
        0xea, 0x00, 0xa0, 0x18, 0x00, // jmp CODE64:HANDLER
    ];
    let mut cpu = real();
    put(&mut cpu, 0x5000, 2, 0xff);
    put(&mut cpu, 0x5002, 4, GDT);
    put(&mut cpu, PAGES, 8, PAGES + 0x1007);
    put(&mut cpu, PAGES + 0x1000, 8, PAGES + 0x2007);
    put(&mut cpu, PAGES + 0x2000, 8, 0x87);
    for (at, &byte) in (CODE..).zip(program) {
        put(&mut cpu, at, 1, byte.into());
    }
    // mov rax, 0x123456789abcdef0; hlt
    for (at, &byte) in (HANDLER..).zip(&[0x48, 0xb8, 0xf0, 0xde, 0xbc, 0x9a, 0x78, 0x56, 0x34, 0x12, HLT]) {
        put(&mut cpu, at, 1, byte.into());
    }
    run(&mut cpu);
    assert_eq!((cpu.rip, cpu.gpr[0]), (HANDLER + 11, 0x1234_5678_9abc_def0));
}

/// A program under a breakpoint for the 16-bit data at 0x5000; its handler counts in RBX.
fn watching(program: &[u8]) -> Cpu {
    // inc rbx; iretq
    let mut cpu = machine(program, &[0x48, 0xff, 0xc3, 0x48, 0xcf]);
    put(&mut cpu, 0x5000, 2, u64::from(DATA));
    cpu.gpr[1] = 0x5000;
    cpu.gpr[3] = 0;
    (cpu.dr[1], cpu.dr[6], cpu.dr[7]) = (0x5000, 0xffff_0ff0 | BS | 1, 0x408 | 0b0111 << 20);
    cpu
}

#[test]
fn a_breakpoint_of_a_load_of_ss_waits_for_the_next_instruction() {
    // mov ss, [rcx]; nop
    let mut cpu = watching(&[0x8e, 0x11, 0x90, HLT]);
    run(&mut cpu);
    assert_eq!(cpu.gpr[3], 1);
    // Other breakpoints' bits are told anew, that of single-stepping is software's to clear.
    assert_eq!(cpu.dr[6] & (BS | 0xf), BS | 2);
    assert_eq!(get(&cpu, STACK - 40, 8), CODE + 3);
}

#[test]
fn int1_takes_the_breakpoint_that_waits_along() {
    // mov ss, [rcx]; int1
    let mut cpu = watching(&[0x8e, 0x11, 0xf1, HLT]);
    run(&mut cpu);
    assert_eq!(cpu.gpr[3], 1);
    // mov ss, [rcx]; int 1
    let mut cpu = watching(&[0x8e, 0x11, 0xcd, 0x01, HLT]);
    run(&mut cpu);
    assert_eq!(cpu.gpr[3], 2);
}

#[test]
fn clac_and_stac_do_not_need_smap_turned_on() {
    // stac; pushfq; clac; pushfq
    let mut cpu = machine(&[0x0f, 0x01, 0xcb, 0x9c, 0x0f, 0x01, 0xca, 0x9c, HLT], &[HLT]);
    run(&mut cpu);
    assert_eq!(stack(&cpu, 8, 2).iter().map(|flags| flags >> 18 & 1).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn a_program_that_spins_goes_on_spinning() {
    // mov ecx, 200; again: pause; loop again
    let mut cpu = machine(&[0xb9, 200, 0, 0, 0, 0xf3, 0x90, 0xe2, 0xfc, HLT], &[HLT]);
    cpu.system.topology.cpus = 2;
    cpu.pauses = u32::MAX - 100;
    run(&mut cpu);
    assert_eq!((cpu.rip, cpu.gpr[1], cpu.pauses), (CODE + 10, 0, 99));
}

#[test]
fn hypercalls_answer_as_kvm_does() {
    // vmcall
    let mut cpu = machine(&[0x0f, 0x01, 0xc1, HLT], &[HLT]);
    cpu.gpr[0] = 0x1234;
    run(&mut cpu);
    assert_eq!(cpu.gpr[0].cast_signed(), -1000);
    // An IPI to the processors 0 and 70 by NMI: the first is this one, the other is not there.
    let mut cpu = machine(&[0x0f, 0x01, 0xc1, HLT], &[HLT]);
    (cpu.gpr[0], cpu.gpr[3], cpu.gpr[1], cpu.gpr[2], cpu.gpr[6]) = (10, 1, 1 << 6, 0, 0x400);
    run(&mut cpu);
    assert_eq!((cpu.gpr[0], cpu.lapic.take_nmi()), (1, true));
    let mut cpu = machine(&[0x0f, 0x01, 0xc1, HLT], &[HLT]);
    (cpu.gpr[0], cpu.gpr[6]) = (10, 1 << 11);
    run(&mut cpu);
    assert_eq!(cpu.gpr[0].cast_signed(), -22);
}

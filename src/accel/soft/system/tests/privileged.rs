//! Control and debug registers, MSRs, fast system calls, XSAVE.

use super::machine::*;
use crate::accel::soft::abort::{AbortReason, vector};
use crate::accel::soft::execute::Flow;
use crate::accel::soft::flags::rflags::{CF, IF, RF, VM};
use crate::accel::soft::memory::Access;
use crate::accel::soft::state::{Cpu, Mode, cr0, cr4, efer, seg};
use crate::accel::soft::system::msr::{self, number as n};
use crate::accel::soft::system::stack::RSP;
use crate::accel::soft::system::time::TSC_HZ;
use crate::accel::soft::system::{control_registers, kvmclock};

const BAD_ADDRESS: u64 = 0x8000_0000_0000;

#[test]
fn privileged_instructions_are_for_level_0() {
    let instructions: &[&[u8]] = &[
        &[0xf4],
        &[0x0f, 0x06],
        &[0x0f, 0x08],
        &[0x0f, 0x09],
        &[0x0f, 0x20, 0xc0],
        &[0x0f, 0x22, 0xc0],
        &[0x0f, 0x21, 0xc0],
        &[0x0f, 0x23, 0xc0],
        &[0x0f, 0x30],
        &[0x0f, 0x32],
        &[0x0f, 0x01, 0x3b],
        &[0x0f, 0x01, 0xf0],
        &[0x0f, 0x01, 0xf8],
        &[0x0f, 0x01, 0xd1],
        &[0x0f, 0x00, 0xd0],
        &[0x0f, 0x00, 0xd8],
        &[0x0f, 0x35],
        &[0x48, 0x0f, 0x07],
    ];
    for bytes in instructions {
        let mut cpu = long(3);
        cpu.system.msrs.sysenter_cs = 8;
        assert_eq!(step(&mut cpu, bytes), fault(vector::GP, 0), "{bytes:x?}");
        assert_eq!(cpu.rip, CODE);
    }
}

#[test]
fn what_cpuid_does_not_offer_is_undefined() {
    // MONITOR, MWAIT, VMXON, XSAVES, GETSEC, RSM.
    let instructions: &[&[u8]] = &[
        &[0x0f, 0x01, 0xc8],
        &[0x0f, 0x01, 0xc9],
        &[0xf3, 0x0f, 0xc7, 0x33],
        &[0x0f, 0xc7, 0x2b],
        &[0x0f, 0x37],
        &[0x0f, 0xaa],
    ];
    for bytes in instructions {
        let mut cpu = long(0);
        assert_eq!(step(&mut cpu, bytes), fault_without_code(vector::UD), "{bytes:x?}");
    }
}

#[test]
fn cr0_is_checked() {
    let base = cr0::PE | cr0::ET;
    let cases: &[(u64, bool)] = &[
        (base, true),
        (base | 1 << 32, false),
        (cr0::PG, false),
        (base | cr0::NW, false),
        (base | cr0::NW | cr0::CD, true),
        (base | 1 << 10, true),
    ];
    for &(value, accepted) in cases {
        let mut cpu = protected(0);
        assert_eq!(control_registers::write_cr0(&mut cpu, value).is_ok(), accepted, "{value:#x}");
        assert_eq!(cpu.cr0 & (1 << 10), 0);
        assert_ne!(cpu.cr0 & cr0::ET, 0);
    }
}

#[test]
fn entering_and_leaving_long_mode() {
    let mut cpu = protected(0);
    msr::write(&mut cpu, n::EFER, efer::LME).unwrap();
    assert!(control_registers::write_cr0(&mut cpu, cr0::PE | cr0::PG).is_err(), "without PAE");
    control_registers::write_cr4(&mut cpu, cr4::PAE).unwrap();
    control_registers::write_cr0(&mut cpu, cr0::PE | cr0::PG).unwrap();
    assert_eq!((cpu.efer & efer::LMA, cpu.mode), (efer::LMA, Mode::Protected));
    assert!(msr::write(&mut cpu, n::EFER, 0).is_err(), "LME under paging");
    assert!(control_registers::write_cr4(&mut cpu, 0).is_err(), "PAE in IA-32e mode");
    control_registers::write_cr0(&mut cpu, cr0::PE).unwrap();
    assert_eq!(cpu.efer & efer::LMA, 0);
    let mut cpu = long(0);
    assert!(control_registers::write_cr0(&mut cpu, cr0::PE).is_err(), "paging off in 64-bit mode");
}

#[test]
fn protected_mode_and_back() {
    let mut cpu = real();
    cpu.gpr[0] = 1;
    // lmsw ax
    step(&mut cpu, &[0x0f, 0x01, 0xf0]).unwrap();
    assert_eq!((cpu.mode, cpu.cpl), (Mode::Protected, 0));
    cpu.gpr[0] = 0;
    step(&mut cpu, &[0x0f, 0x01, 0xf0]).unwrap();
    assert_eq!(cpu.mode, Mode::Protected, "LMSW cannot go back");
    step(&mut cpu, &[0x0f, 0x22, 0xc0]).unwrap();
    assert_eq!(cpu.mode, Mode::Real);
}

#[test]
fn cr3_and_cr4_reserved_bits() {
    let mut cpu = long(0);
    assert!(control_registers::write_cr3(&mut cpu, 1 << 40).is_err());
    assert!(control_registers::write_cr3(&mut cpu, PAGES | 0x18).is_ok());
    for bit in [0, 1, 12, 13, 14, 15, 19, 23, 25, 32, 63] {
        let value = cpu.cr4 | 1 << bit;
        assert!(control_registers::write_cr4(&mut cpu, value).is_err(), "bit {bit}");
    }
}

#[test]
fn pcids_are_for_long_mode_and_start_with_0() {
    let mut cpu = protected(0);
    assert!(control_registers::write_cr4(&mut cpu, cr4::PCIDE).is_err());
    let mut cpu = long(0);
    let on = cpu.cr4 | cr4::PCIDE;
    control_registers::write_cr3(&mut cpu, PAGES | 1).unwrap();
    assert!(control_registers::write_cr4(&mut cpu, on).is_err());
    control_registers::write_cr3(&mut cpu, PAGES).unwrap();
    assert!(control_registers::write_cr3(&mut cpu, PAGES | 1 << 63).is_err(), "reserved without PCIDs");
    control_registers::write_cr4(&mut cpu, on).unwrap();
    control_registers::write_cr3(&mut cpu, PAGES | 0x123 | 1 << 63).unwrap();
    assert_eq!(cpu.cr3, PAGES | 0x123);
    let on_with_a_pcid = cpu.cr4 | cr4::UMIP;
    control_registers::write_cr4(&mut cpu, on_with_a_pcid).unwrap();
    let mut cpu = compatibility(0);
    let off = cpu.cr0 & !cr0::PG;
    let on = cpu.cr4 | cr4::PCIDE;
    control_registers::write_cr4(&mut cpu, on).unwrap();
    assert!(control_registers::write_cr0(&mut cpu, off).is_err(), "paging stays on");
}

/// INVPCID RAX, [RBX] with a descriptor of `pcid` and `address`.
fn invpcid(cpu: &mut Cpu, kind: u64, pcid: u64, address: u64) -> Result<Flow, AbortReason> {
    put(cpu, 0xb000, 8, pcid);
    put(cpu, 0xb008, 8, address);
    (cpu.gpr[0], cpu.gpr[3]) = (kind, 0xb000);
    step(cpu, &[0x66, 0x0f, 0x38, 0x82, 0x03])
}

#[test]
fn invpcid_checks_its_descriptor() {
    // Type, PCID, address; whether it faults without PCIDs, and with them.
    let cases = [
        (0, 0, 0xffff_8000_0000_0000, false, false),
        (0, 0, BAD_ADDRESS, true, true),
        (0, 1, 0, true, false),
        (1, 0, BAD_ADDRESS, false, false),
        (1, 0xfff, 0, true, false),
        (2, 0xfff, BAD_ADDRESS, false, false),
        (3, 7, BAD_ADDRESS, false, false),
        (1, 0x1000, 0, true, true),
        (2, 0x1000, 0, true, true),
        (4, 0, 0, true, true),
        (1 << 32, 0, 0, true, true),
    ];
    for (kind, pcid, address, without, with) in cases {
        for (pcide, faults) in [(0, without), (cr4::PCIDE, with)] {
            let mut cpu = long(0);
            let value = cpu.cr4 | pcide;
            control_registers::write_cr4(&mut cpu, value).unwrap();
            let expected = if faults { fault(vector::GP, 0) } else { Ok(Flow::Next) };
            assert_eq!(
                invpcid(&mut cpu, kind, pcid, address),
                expected,
                "{kind} {pcid:#x} {address:#x} {pcide:#x}"
            );
        }
    }
    let mut cpu = long(3);
    assert_eq!(step(&mut cpu, &[0x66, 0x0f, 0x38, 0x82, 0x03]), fault(vector::GP, 0));
}

#[test]
fn invpcid_drops_the_translations_of_its_pcid() {
    for (kind, pcid, drops) in
        [(0, 1, true), (0, 2, false), (1, 1, true), (1, 2, false), (2, 2, true), (3, 2, true)]
    {
        let mut cpu = long(0);
        let value = cpu.cr4 | cr4::PCIDE;
        control_registers::write_cr4(&mut cpu, value).unwrap();
        control_registers::write_cr3(&mut cpu, PAGES | 1).unwrap();
        cpu.read_u8(0xc000, Access::Current).unwrap();
        // The descriptor's page is in the buffers too.
        cpu.read_u8(0xb000, Access::Current).unwrap();
        put(&mut cpu, PAGES + 0x2000, 8, 0);
        cpu.read_u8(0xc000, Access::Current).expect("stale");
        assert_eq!(invpcid(&mut cpu, kind, pcid, 0xc000), Ok(Flow::Next));
        assert_eq!(cpu.read_u8(0xc000, Access::Current).is_err(), drops, "{kind} {pcid}");
    }
}

#[test]
fn pae_pointers_are_checked_on_loading_cr3() {
    let mut cpu = protected(0);
    put(&mut cpu, 0x4000, 8, PAGES | 1);
    control_registers::write_cr4(&mut cpu, cr4::PAE).unwrap();
    control_registers::write_cr3(&mut cpu, 0x4000).unwrap();
    control_registers::write_cr0(&mut cpu, cr0::PE | cr0::PG).unwrap();
    for reserved in [1 << 1, 1 << 5, 1 << 8, 1 << 40, 1 << 63] {
        put(&mut cpu, 0x4020, 8, PAGES | 1 | reserved);
        assert!(control_registers::write_cr3(&mut cpu, 0x4020).is_err(), "{reserved:#x}");
        put(&mut cpu, 0x4020, 8, reserved);
        assert!(control_registers::write_cr3(&mut cpu, 0x4020).is_ok(), "not present");
    }
}

#[test]
fn debug_registers() {
    let write = |n: u8| [0x0f, 0x23, 0xc0 | n << 3];
    let read = |n: u8| [0x0f, 0x21, 0xc0 | n << 3];
    let mut cpu = long(0);
    cpu.gpr[0] = 0xffff_ffff;
    step(&mut cpu, &write(6)).unwrap();
    step(&mut cpu, &write(7)).unwrap();
    assert_eq!((cpu.dr[6], cpu.dr[7]), (0xffff_efff, 0xffff_27ff));
    // General detect, now on, faults whatever the register.
    assert_eq!(step(&mut cpu, &read(0)), fault_without_code(vector::DB));
    assert_ne!(cpu.dr[6] & 1 << 13, 0);
    cpu.dr[7] = 0x400;
    cpu.gpr[0] = 1 << 32;
    assert_eq!(step(&mut cpu, &write(6)), fault(vector::GP, 0));
    assert_eq!(step(&mut cpu, &write(7)), fault(vector::GP, 0));
    assert_eq!(step(&mut cpu, &write(3)), Ok(Flow::Next));
    step(&mut cpu, &read(5)).unwrap();
    assert_eq!(cpu.gpr[0], 0x400);
    cpu.cr4 |= cr4::DE;
    assert_eq!(step(&mut cpu, &read(4)), fault_without_code(vector::UD));
}

fn accepts(cpu: &mut Cpu, number: u32, value: u64) -> bool {
    let taken = msr::write(cpu, number, value).is_ok();
    if !taken {
        assert_eq!(Err(cpu.abort), fault(vector::GP, 0), "{number:#x}");
    }
    taken
}

#[test]
fn msrs_take_what_they_should_and_give_it_back() {
    let cases: &[(u32, u64, bool)] = &[
        (n::STAR, u64::MAX, true),
        (n::LSTAR, 0xffff_8000_0000_0000, true),
        (n::LSTAR, BAD_ADDRESS, false),
        (n::CSTAR, BAD_ADDRESS, false),
        (n::SFMASK, 0xffff_ffff, true),
        (n::SFMASK, 1 << 32, false),
        (n::FS_BASE, 0x7fff_ffff_ffff, true),
        (n::FS_BASE, BAD_ADDRESS, false),
        (n::GS_BASE, BAD_ADDRESS, false),
        (n::KERNEL_GS_BASE, BAD_ADDRESS, false),
        (n::KERNEL_GS_BASE, u64::MAX, true),
        (n::TSC_AUX, 0xffff_ffff, true),
        (n::TSC_AUX, 1 << 32, false),
        (n::SYSENTER_CS, 0x1234, true),
        (n::SYSENTER_ESP, BAD_ADDRESS, false),
        (n::SYSENTER_EIP, BAD_ADDRESS, false),
        (n::SYSENTER_EIP, 0xffff_8000_0000_1234, true),
        (n::PAT, 0x0007_0406_0007_0406, true),
        (n::PAT, 0x0707_0707_0707_0707, true),
        (n::PAT, 2, false),
        (n::MISC_ENABLE, 0x4_00c5_1889, true),
        (n::MISC_ENABLE, 2, false),
        (n::EFER, efer::SCE, true),
        (n::EFER, 1 << 12, false),
        (n::EFER, 1 << 1, false),
        (n::MCG_STATUS, 0, true),
        (n::MCG_STATUS, 8, false),
        (n::MCG_CAP, 0, false),
        (n::MTRRCAP, 0, false),
        (n::ARCH_CAPABILITIES, 0, false),
        (n::DEBUGCTL, 3, true),
        (n::DEBUGCTL, 1 << 6, false),
        (n::TSC_ADJUST, 0, true),
        (kvmclock::ASYNC_PF, 0x5043, true),
        (kvmclock::ASYNC_PF, 0x5011, false),
        (0x2ff, 0xc06, true),
        (0x48, 0, false),
        (0x3a, 0, false),
        (0x400, 0, false),
        (0xda0, 0, false),
        (0xc001_0010, 0, false),
        (0x1234_5678, 0, false),
    ];
    for &(number, value, accepted) in cases {
        let mut cpu = protected(0);
        assert_eq!(accepts(&mut cpu, number, value), accepted, "{number:#x} = {value:#x}");
        let fixed = if number == n::MISC_ENABLE { 1 << 7 | 1 << 11 | 1 << 12 } else { 0 };
        if accepted {
            let read = msr::read(&mut cpu, number).unwrap();
            assert_eq!(read & !fixed, value & !fixed, "{number:#x}");
        }
    }
}

#[test]
fn unknown_msrs_fault_on_reading() {
    for number in [0x2, 0x48, 0x49, 0x10b, 0x122, 0x140, 0x400, 0xda0, 0xc000_0104, 0xc001_0015, u32::MAX] {
        let mut cpu = long(0);
        cpu.gpr[1] = u64::from(number) | 0xdead_0000_0000;
        assert_eq!(step(&mut cpu, &[0x0f, 0x32]), fault(vector::GP, 0), "{number:#x}");
    }
}

#[test]
fn no_msr_number_panics() {
    let mut cpu = long(0);
    for number in (0..0x2000).chain(0x4b56_4d00..0x4b56_4d10).chain(0xc000_0000..0xc000_0200) {
        for value in [0, u64::MAX, 1 << 47, 0xfff, 1] {
            let _ = msr::write(&mut cpu, number, value);
        }
        let _ = msr::read(&mut cpu, number);
    }
}

#[test]
fn the_tsc_and_its_adjustment() {
    let mut cpu = long(0);
    msr::write(&mut cpu, n::TSC, 5 * TSC_HZ).unwrap();
    assert!(cpu.tsc() >= 5 * TSC_HZ);
    let adjust = msr::read(&mut cpu, n::TSC_ADJUST).unwrap();
    assert!(adjust > 4 * TSC_HZ && adjust <= 5 * TSC_HZ);
    step(&mut cpu, &[0x0f, 0x31]).unwrap();
    assert!(cpu.gpr[2] << 32 | cpu.gpr[0] >= 5 * TSC_HZ);
    msr::write(&mut cpu, n::TSC_AUX, 7).unwrap();
    step(&mut cpu, &[0x0f, 0x01, 0xf9]).unwrap();
    assert_eq!(cpu.gpr[1], 7);
    step(&mut cpu, &[0xf3, 0x0f, 0xc7, 0xfb]).unwrap();
    assert_eq!(cpu.gpr[3], 7);
    let mut cpu = long(3);
    cpu.cr4 |= cr4::TSD;
    assert_eq!(step(&mut cpu, &[0x0f, 0x31]), fault(vector::GP, 0));
    assert_eq!(step(&mut cpu, &[0x0f, 0x01, 0xf9]), fault(vector::GP, 0));
    assert_eq!(step(&mut cpu, &[0x0f, 0x33]), fault(vector::GP, 0), "RDPMC");
}

#[test]
fn kvm_clock_pages() {
    let mut cpu = long(0);
    msr::write(&mut cpu, kvmclock::SYSTEM_TIME_NEW, 0x5000 | 1).unwrap();
    let version = get(&cpu, 0x5000, 4);
    assert!(version != 0 && version & 1 == 0);
    assert_eq!(get(&cpu, 0x5008, 8), get(&cpu, 0x5010, 8), "a tick is a nanosecond");
    msr::write(&mut cpu, n::TSC_ADJUST, 1000).unwrap();
    assert_eq!(get(&cpu, 0x5008, 8), get(&cpu, 0x5010, 8) + 1000);
    assert!(get(&cpu, 0x5000, 4) > version);
    msr::write(&mut cpu, kvmclock::WALL_CLOCK_NEW, 0x5100).unwrap();
    assert!(get(&cpu, 0x5104, 4) > 1_600_000_000);
    // Outside memory.
    msr::write(&mut cpu, kvmclock::SYSTEM_TIME_NEW, u64::MAX).unwrap();
    msr::write(&mut cpu, kvmclock::WALL_CLOCK, u64::MAX).unwrap();
}

fn with_syscall(cpl: u8) -> Cpu {
    let mut cpu = long(cpl);
    cpu.system.msrs.star = 0x0023_0010 << 32;
    cpu.system.msrs.lstar = 0xffff_8000_0000_1000;
    cpu.system.msrs.sfmask = IF;
    cpu
}

#[test]
fn syscall_and_sysret() {
    let mut cpu = with_syscall(3);
    cpu.set_rflags(IF | CF | RF);
    assert_eq!(step(&mut cpu, &[0x0f, 0x05]), Ok(Flow::Jump));
    assert_eq!((cpu.rip, cpu.cpl, cpu.mode), (0xffff_8000_0000_1000, 0, Mode::Long));
    assert_eq!((cpu.gpr[1], cpu.gpr[11], cpu.rflags()), (CODE + 2, IF | CF | 2, CF | 2));
    assert_eq!((cpu.seg[seg::CS].selector, cpu.seg[seg::SS].selector), (0x10, 0x18));
    cpu.gpr[11] = u64::MAX;
    assert_eq!(step(&mut cpu, &[0x48, 0x0f, 0x07]), Ok(Flow::Jump));
    assert_eq!((cpu.rip, cpu.cpl, cpu.mode), (CODE + 2, 3, Mode::Long));
    assert_eq!((cpu.seg[seg::CS].selector, cpu.seg[seg::SS].selector), (0x33, 0x2b));
    assert_eq!(cpu.rflags() & (RF | VM), 0);
    let mut cpu = with_syscall(0);
    cpu.gpr[1] = 0x1_0000_1234;
    assert_eq!(step(&mut cpu, &[0x0f, 0x07]), Ok(Flow::Jump));
    assert_eq!((cpu.rip, cpu.mode, cpu.code_bits()), (0x1234, Mode::Protected, 32));
    assert_eq!(cpu.seg[seg::CS].selector, 0x23);
}

#[test]
fn sysret_to_an_address_that_is_not_canonical_faults_in_the_kernel() {
    let mut cpu = with_syscall(0);
    cpu.gpr[1] = BAD_ADDRESS;
    cpu.gpr[RSP] = 0x1234;
    assert_eq!(step(&mut cpu, &[0x48, 0x0f, 0x07]), fault(vector::GP, 0));
    assert_eq!((cpu.cpl, cpu.rip, cpu.gpr[RSP]), (0, CODE, 0x1234));
}

#[test]
fn syscall_needs_long_mode_and_sce() {
    let mut cpu = with_syscall(0);
    cpu.efer &= !efer::SCE;
    assert_eq!(step(&mut cpu, &[0x0f, 0x05]), fault_without_code(vector::UD));
    assert_eq!(step(&mut cpu, &[0x48, 0x0f, 0x07]), fault_without_code(vector::UD));
    let mut cpu = protected(3);
    cpu.efer |= efer::SCE;
    assert_eq!(step(&mut cpu, &[0x0f, 0x05]), fault_without_code(vector::UD));
    let mut cpu = compatibility(3);
    cpu.efer |= efer::SCE;
    msr::write(&mut cpu, n::CSTAR, HANDLER).unwrap();
    msr::write(&mut cpu, n::STAR, 8 << 32).unwrap();
    assert_eq!(step(&mut cpu, &[0x0f, 0x05]), Ok(Flow::Jump));
    assert_eq!((cpu.rip, cpu.cpl, cpu.mode, cpu.gpr[1]), (HANDLER, 0, Mode::Long, CODE + 2));
}

#[test]
fn sysenter_and_sysexit() {
    let mut cpu = protected(3);
    assert_eq!(step(&mut cpu, &[0x0f, 0x34]), fault(vector::GP, 0), "no CS");
    msr::write(&mut cpu, n::SYSENTER_CS, 0x0b).unwrap();
    msr::write(&mut cpu, n::SYSENTER_ESP, STACK0).unwrap();
    msr::write(&mut cpu, n::SYSENTER_EIP, HANDLER).unwrap();
    cpu.set_rflags(IF);
    assert_eq!(step(&mut cpu, &[0x0f, 0x34]), Ok(Flow::Jump));
    assert_eq!((cpu.rip, cpu.gpr[RSP], cpu.cpl, cpu.rflags()), (HANDLER, STACK0, 0, 2));
    assert_eq!((cpu.seg[seg::CS].selector, cpu.seg[seg::SS].selector), (8, 0x10));
    (cpu.gpr[1], cpu.gpr[2]) = (STACK, CODE);
    assert_eq!(step(&mut cpu, &[0x0f, 0x35]), Ok(Flow::Jump));
    assert_eq!((cpu.rip, cpu.gpr[RSP], cpu.cpl), (CODE, STACK, 3));
    assert_eq!((cpu.seg[seg::CS].selector, cpu.seg[seg::SS].selector), (0x1b, 0x23));
    let mut cpu = long(0);
    cpu.system.msrs.sysenter_cs = 8;
    (cpu.gpr[1], cpu.gpr[2]) = (BAD_ADDRESS, CODE);
    assert_eq!(step(&mut cpu, &[0x48, 0x0f, 0x35]), fault(vector::GP, 0));
    cpu.gpr[1] = STACK;
    assert_eq!(step(&mut cpu, &[0x48, 0x0f, 0x35]), Ok(Flow::Jump));
    assert_eq!((cpu.seg[seg::CS].selector, cpu.seg[seg::SS].selector, cpu.mode), (0x2b, 0x33, Mode::Long));
}

#[test]
fn segment_bases() {
    let mut cpu = long(0);
    (cpu.seg[seg::GS].base, cpu.system.msrs.kernel_gs_base) = (1, 2);
    step(&mut cpu, &[0x0f, 0x01, 0xf8]).unwrap();
    assert_eq!((cpu.seg[seg::GS].base, cpu.system.msrs.kernel_gs_base), (2, 1));
    // wrfsbase rax, rdfsbase rcx
    cpu.gpr[0] = 0xffff_8000_1234_5678;
    step(&mut cpu, &[0xf3, 0x48, 0x0f, 0xae, 0xd0]).unwrap();
    step(&mut cpu, &[0xf3, 0x48, 0x0f, 0xae, 0xc1]).unwrap();
    assert_eq!(cpu.gpr[1], 0xffff_8000_1234_5678);
    cpu.gpr[0] = BAD_ADDRESS;
    assert_eq!(step(&mut cpu, &[0xf3, 0x48, 0x0f, 0xae, 0xd0]), fault(vector::GP, 0));
    cpu.cr4 &= !cr4::FSGSBASE;
    assert_eq!(step(&mut cpu, &[0xf3, 0x48, 0x0f, 0xae, 0xc1]), fault_without_code(vector::UD));
}

#[test]
fn xcr0_and_the_state_areas() {
    let mut cpu = long(0);
    (cpu.gpr[0], cpu.gpr[1], cpu.gpr[2]) = (3, 0, 0);
    step(&mut cpu, &[0x0f, 0x01, 0xd1]).unwrap();
    for (eax, edx, ecx) in [(2, 0, 0), (7, 0, 0), (3, 1, 0), (3, 0, 1)] {
        (cpu.gpr[0], cpu.gpr[2], cpu.gpr[1]) = (eax, edx, ecx);
        assert_eq!(step(&mut cpu, &[0x0f, 0x01, 0xd1]), fault(vector::GP, 0));
    }
    cpu.gpr[1] = 0;
    step(&mut cpu, &[0x0f, 0x01, 0xd0]).unwrap();
    assert_eq!((cpu.gpr[0], cpu.gpr[2]), (3, 0));
    cpu.xmm[3] = 0x1234;
    cpu.gpr[3] = 0x5000;
    // xsave64 [rbx]; xrstor64 [rbx]
    step(&mut cpu, &[0x48, 0x0f, 0xae, 0x23]).unwrap();
    cpu.xmm[3] = 0;
    step(&mut cpu, &[0x48, 0x0f, 0xae, 0x2b]).unwrap();
    assert_eq!(cpu.xmm[3], 0x1234);
    cpu.gpr[3] = 0x5010;
    assert_eq!(step(&mut cpu, &[0x48, 0x0f, 0xae, 0x23]), fault(vector::GP, 0), "aligned to 64");
    assert_eq!(step(&mut cpu, &[0x0f, 0xae, 0x03]), Ok(Flow::Next), "FXSAVE to 16");
    cpu.gpr[3] = 0x5008;
    assert_eq!(step(&mut cpu, &[0x0f, 0xae, 0x03]), fault(vector::GP, 0));
    cpu.cr0 |= cr0::TS;
    assert_eq!(step(&mut cpu, &[0x0f, 0xae, 0x03]), fault_without_code(vector::NM));
    assert_eq!(step(&mut cpu, &[0x0f, 0xae, 0x13]), fault_without_code(vector::NM), "LDMXCSR");
    step(&mut cpu, &[0x0f, 0x06]).unwrap();
    put(&mut cpu, 0x5008, 4, 1 << 16);
    assert_eq!(step(&mut cpu, &[0x0f, 0xae, 0x13]), fault(vector::GP, 0));
    cpu.cr4 &= !cr4::OSXSAVE;
    assert_eq!(step(&mut cpu, &[0x0f, 0x01, 0xd0]), fault_without_code(vector::UD));
}

#[test]
fn xsave_to_a_page_that_is_not_there() {
    let mut cpu = long(0);
    cpu.gpr[0] = 3;
    cpu.gpr[3] = UNMAPPED - 64;
    let before = get(&cpu, UNMAPPED - 64, 8);
    cpu.x87.control = 0x1234;
    assert_eq!(step(&mut cpu, &[0x48, 0x0f, 0xae, 0x23]), fault(vector::PF, 2));
    assert_eq!((cpu.cr2, get(&cpu, UNMAPPED - 64, 8)), (UNMAPPED, before));
}

#[test]
fn random_numbers() {
    let mut cpu = long(3);
    step(&mut cpu, &[0x48, 0x0f, 0xc7, 0xf0]).unwrap();
    step(&mut cpu, &[0x48, 0x0f, 0xc7, 0xf9]).unwrap();
    assert_eq!(cpu.rflags() & CF, CF);
    assert_ne!(cpu.gpr[0], cpu.gpr[1]);
}

#[test]
fn hlt_halts_behind_itself() {
    let mut cpu = long(0);
    assert_eq!(step(&mut cpu, &[0xf4]), Ok(Flow::Halt));
    assert_eq!(cpu.rip, CODE + 1);
}

//! Protection keys (Intel SDM vol. 3, 4.6.2 and 4.7).

use super::machine::*;
use crate::accel::soft::abort::{AbortReason, Exception, Exec, vector};
use crate::accel::soft::memory::Access;
use crate::accel::soft::mmu::Want;
use crate::accel::soft::state::{Cpu, cr0, cr4};
use crate::accel::soft::system::{control_registers, msr};

const KEY: u64 = 5;
const ACCESS: u32 = 1 << (2 * KEY);
const WRITE: u32 = 2 << (2 * KEY);

const RDPKRU: &[u8] = &[0x0f, 0x01, 0xee];
const WRPKRU: &[u8] = &[0x0f, 0x01, 0xef];

/// A 64-bit machine whose only page, of 2 MiB, has the key; `user` is the page's U/S bit.
fn machine(cpl: u8, user: bool) -> Cpu {
    let mut cpu = long(cpl);
    put(&mut cpu, PAGES + 0x2000, 8, KEY << 59 | 0x83 | if user { 4 } else { 0 });
    set_cr4(&mut cpu, cr4::PKE | cr4::PKS);
    cpu
}

fn set_cr4(cpu: &mut Cpu, bits: u64) {
    let value = cpu.cr4 & !(cr4::PKE | cr4::PKS) | bits;
    control_registers::write_cr4(cpu, value).unwrap();
}

/// An access's page fault code, or none.
fn access(cpu: &mut Cpu, want: Want) -> Option<u32> {
    cpu.abort = AbortReason::None;
    let result: Exec<u64> = cpu.translate(STACK, want, Access::Current);
    match (result, cpu.abort) {
        (Ok(gpa), _) => {
            assert_eq!(gpa, STACK);
            None
        }
        (Err(_), AbortReason::Exception(Exception { vector: vector::PF, error_code })) => error_code,
        (_, abort) => panic!("{abort:?}"),
    }
}

fn accesses(cpu: &mut Cpu) -> [Option<u32>; 3] {
    [Want::Read, Want::Write, Want::Execute].map(|want| access(cpu, want))
}

#[test]
fn pkru_denies_data_accesses_to_user_pages() {
    for (pkru, read, write) in [
        (0, None, None),
        (WRITE, None, Some(0x23)),
        (ACCESS, Some(0x21), Some(0x23)),
        (!(ACCESS | WRITE), None, None),
    ] {
        for (cpl, mode) in [(0, 0), (3, 4)] {
            let mut cpu = machine(cpl, true);
            cpu.set_protection_keys(pkru, u32::MAX);
            let code = |code: Option<u32>| code.map(|code| code | mode);
            assert_eq!(accesses(&mut cpu), [code(read), code(write), None], "{pkru:#x} at CPL {cpl}");
        }
    }
}

#[test]
fn pkrs_denies_data_accesses_to_supervisor_pages() {
    for (pkrs, read, write) in [(0, None, None), (WRITE, None, Some(0x23)), (ACCESS, Some(0x21), Some(0x23))]
    {
        let mut cpu = machine(0, false);
        cpu.set_protection_keys(u32::MAX, pkrs);
        assert_eq!(accesses(&mut cpu), [read, write, None], "{pkrs:#x}");
    }
}

#[test]
fn a_supervisor_without_write_protection_writes_all_the_same() {
    for user in [false, true] {
        let mut cpu = machine(0, user);
        let value = cpu.cr0 & !cr0::WP;
        control_registers::write_cr0(&mut cpu, value).unwrap();
        cpu.set_protection_keys(WRITE, WRITE);
        assert_eq!(access(&mut cpu, Want::Write), None);
        cpu.set_protection_keys(ACCESS, ACCESS);
        assert_eq!(access(&mut cpu, Want::Write), Some(0x23));
    }
}

#[test]
fn the_keys_mean_nothing_until_they_are_turned_on() {
    for (user, bit) in [(true, cr4::PKE), (false, cr4::PKS)] {
        let mut cpu = machine(0, user);
        cpu.set_protection_keys(u32::MAX, u32::MAX);
        set_cr4(&mut cpu, (cr4::PKE | cr4::PKS) & !bit);
        assert_eq!(accesses(&mut cpu), [None; 3]);
        set_cr4(&mut cpu, bit);
        assert_eq!(access(&mut cpu, Want::Read), Some(0x21), "no stale translation");
    }
}

#[test]
fn rights_that_shrink_leave_no_translation_behind() {
    let mut cpu = machine(3, true);
    cpu.gpr[1] = 0;
    cpu.gpr[2] = 0;
    assert_eq!(access(&mut cpu, Want::Write), None);
    cpu.gpr[0] = u64::from(WRITE) | 1 << 40;
    step(&mut cpu, WRPKRU).unwrap();
    assert!(cpu.write_u8(STACK, 1, Access::Current).is_err());
    assert!(cpu.read_u8(STACK, Access::Current).is_ok());
    (cpu.gpr[0], cpu.gpr[2]) = (u64::MAX, u64::MAX);
    step(&mut cpu, RDPKRU).unwrap();
    assert_eq!((cpu.gpr[0], cpu.gpr[2]), (u64::from(WRITE), 0));
}

#[test]
fn faults_of_the_instructions() {
    for bytes in [RDPKRU, WRPKRU] {
        let mut cpu = machine(3, true);
        cpu.gpr[1] = 1;
        assert_eq!(step(&mut cpu, bytes), fault(vector::GP, 0), "ECX");
        set_cr4(&mut cpu, cr4::PKS);
        cpu.gpr[1] = 0;
        assert_eq!(step(&mut cpu, bytes), fault_without_code(vector::UD), "CR4.PKE");
    }
    let mut cpu = machine(0, true);
    cpu.gpr[2] = 1;
    assert_eq!(step(&mut cpu, WRPKRU), fault(vector::GP, 0), "EDX");
    assert!(msr::write(&mut cpu, msr::number::PKRS, 1 << 32).is_err());
    msr::write(&mut cpu, msr::number::PKRS, 0xffff_fffc).unwrap();
    assert_eq!(msr::read(&mut cpu, msr::number::PKRS).unwrap(), 0xffff_fffc);
}

#[test]
fn xsave_and_xrstor_hold_pkru() {
    const XSAVE: &[u8] = &[0x0f, 0xae, 0x20];
    const XRSTOR: &[u8] = &[0x0f, 0xae, 0x28];
    const AREA: u64 = 0x4000;
    let mut cpu = machine(0, false);
    cpu.xcr0 = 0x203;
    (cpu.gpr[0], cpu.gpr[2]) = (AREA, 0);
    // EAX is both the address and the mask: bit 9 of it asks for PKRU.
    for (address, saved) in [(AREA | 0x200, 0x1234), (AREA, 0xffff)] {
        put(&mut cpu, address + 576, 8, 0xffff);
        cpu.gpr[0] = address;
        cpu.set_protection_keys(0x1234, 0);
        step(&mut cpu, XSAVE).unwrap();
        assert_eq!(get(&cpu, address + 576, 8), saved);
    }
    cpu.gpr[0] = AREA | 0x200;
    cpu.set_protection_keys(0x5678, 0);
    step(&mut cpu, XRSTOR).unwrap();
    assert_eq!(cpu.pkru, 0x1234);
    put(&mut cpu, AREA + 0x200 + 512, 8, 0);
    step(&mut cpu, XRSTOR).unwrap();
    assert_eq!(cpu.pkru, 0, "the initial state");
}

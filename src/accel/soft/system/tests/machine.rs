//! The machines: a CPU in each mode, with tables in low memory.

use iced_x86::{Decoder, DecoderOptions};

use crate::accel::soft::abort::{AbortReason, Exception};
use crate::accel::soft::execute::Flow;
use crate::accel::soft::flags::rflags;
use crate::accel::soft::ram::Ram;
use crate::accel::soft::state::{Cpu, cr0, cr4, efer, seg};
use crate::accel::soft::system::descriptor::Descriptor;
use crate::accel::soft::system::{control_registers, stack::RSP};
use crate::accel::{DescriptorTable, Segment};
use crate::memory;

pub const GDT: u64 = 0x1000;
pub const IDT: u64 = 0x2000;
pub const TSS: u64 = 0x3000;
pub const LDT: u64 = 0x3800;
pub const PAGES: u64 = 0x10000;
/// Where the stacks start: the program's, and ring 0's from the TSS; IST n is at `STACK_IST + n * 0x100`.
pub const STACK: u64 = 0x8000;
pub const STACK0: u64 = 0x7000;
pub const STACK_IST: u64 = 0x6000;
/// Where the program is, and the handler.
pub const CODE: u64 = 0x9000;
pub const HANDLER: u64 = 0xa000;
/// Mapped by no page, in paging.
pub const UNMAPPED: u64 = 0x20_0000;

pub const CODE32: u16 = 0x08;
pub const DATA: u16 = 0x10;
pub const CODE64: u16 = 0x18;
pub const USER_CODE32: u16 = 0x23;
pub const USER_DATA: u16 = 0x2b;
pub const USER_CODE64: u16 = 0x33;
pub const CONFORMING: u16 = 0x38;
pub const TASK: u16 = 0x40;
pub const LOCAL: u16 = 0x50;
pub const CODE16: u16 = 0x60;
pub const DATA16: u16 = 0x68;
/// Slots for what a test needs; the first of three of 16 bytes.
pub const FREE: u16 = 0x80;
/// Beyond the GDT.
pub const OUTSIDE: u16 = 0x100;

pub const NOT_PRESENT: u64 = 1 << 47;

fn new() -> Cpu {
    let ram = memory::allocate(2 << 20).unwrap();
    let mut cpu = Cpu::new(0, Ram::new(&ram));
    let descriptors: [(u16, u64); 11] = [
        (CODE32, 0x00cf_9a00_0000_ffff),
        (DATA, 0x00cf_9200_0000_ffff),
        (CODE64, 0x00af_9a00_0000_ffff),
        (USER_CODE32, 0x00cf_fa00_0000_ffff),
        (USER_DATA, 0x00cf_f200_0000_ffff),
        (USER_CODE64, 0x00af_fa00_0000_ffff),
        (CONFORMING, 0x00cf_9e00_0000_ffff),
        (TASK, 0x0000_8900_3000_0067),
        (LOCAL, 0x0000_8200_3800_001f),
        (CODE16, 0x0000_9a00_0000_ffff),
        (DATA16, 0x0000_9200_0000_ffff),
    ];
    for (selector, descriptor) in descriptors {
        set_descriptor(&mut cpu, selector, descriptor);
    }
    cpu.gdt = DescriptorTable { base: GDT, limit: 0xff };
    cpu.idt = DescriptorTable { base: IDT, limit: 0xfff };
    cpu.gpr[RSP] = STACK;
    cpu.rip = CODE;
    cpu.tr = Segment { base: TSS, ..descriptor(&cpu, TASK).segment(TASK) };
    cpu.ldt = Segment { base: LDT, ..descriptor(&cpu, LOCAL).segment(LOCAL) };
    cpu
}

/// Real mode, CS and SS at 0.
pub fn real() -> Cpu {
    let mut cpu = new();
    cpu.seg[seg::CS].base = 0;
    cpu.seg[seg::CS].selector = 0;
    cpu.idt = DescriptorTable { base: 0, limit: 0x3ff };
    cpu.update_mode();
    cpu
}

/// Protected mode without paging, at privilege level `cpl`, in 32-bit code.
pub fn protected(cpl: u8) -> Cpu {
    let mut cpu = new();
    cpu.cr0 = cr0::PE | cr0::ET;
    put(&mut cpu, TSS + 4, 4, STACK0);
    put(&mut cpu, TSS + 8, 2, u64::from(DATA));
    put(&mut cpu, TSS + 0x66, 2, 0x68);
    let (code, data) = if cpl == 0 { (CODE32, DATA) } else { (USER_CODE32, USER_DATA) };
    enter(&mut cpu, code, data, cpl);
    cpu
}

/// Virtual-8086 mode with an I/O privilege level.
pub fn virtual8086(iopl: u64) -> Cpu {
    let mut cpu = protected(0);
    for index in 0..6 {
        cpu.seg[index] = crate::accel::soft::system::segments::virtual8086(0x10 + index as u16);
    }
    cpu.seg[seg::CS] = crate::accel::soft::system::segments::virtual8086(0);
    cpu.set_rflags(rflags::VM | iopl << 12);
    cpu.update_mode();
    cpu
}

/// 64-bit mode at privilege level `cpl`.
pub fn long(cpl: u8) -> Cpu {
    let mut cpu = new();
    put(&mut cpu, TSS + 4, 8, STACK0);
    for ist in 1..8 {
        put(&mut cpu, TSS + 28 + 8 * ist, 8, STACK_IST + ist * 0x100);
    }
    put(&mut cpu, TSS + 0x66, 2, 0x68);
    put(&mut cpu, PAGES, 8, PAGES + 0x1007);
    put(&mut cpu, PAGES + 0x1000, 8, PAGES + 0x2007);
    put(&mut cpu, PAGES + 0x2000, 8, 0x87);
    cpu.efer = efer::LME | efer::SCE | efer::NXE;
    cpu.cr4 = cr4::PAE | cr4::PGE | cr4::FSGSBASE | cr4::OSFXSR | cr4::OSXSAVE;
    cpu.cr3 = PAGES;
    cpu.cr0 = cr0::PE | cr0::ET;
    control_registers::write_cr0(&mut cpu, cr0::PE | cr0::PG | cr0::WP).unwrap();
    let (code, data) = if cpl == 0 { (CODE64, DATA) } else { (USER_CODE64, USER_DATA) };
    enter(&mut cpu, code, data, cpl);
    cpu
}

/// Compatibility mode: 32-bit code in IA-32e mode.
pub fn compatibility(cpl: u8) -> Cpu {
    let mut cpu = long(cpl);
    let code = if cpl == 0 { CODE32 } else { USER_CODE32 };
    cpu.seg[seg::CS] = descriptor(&cpu, code).segment(code);
    cpu.update_mode();
    cpu
}

fn enter(cpu: &mut Cpu, code: u16, data: u16, cpl: u8) {
    cpu.seg[seg::CS] = descriptor(cpu, code).segment(code);
    for index in [seg::SS, seg::DS, seg::ES, seg::FS, seg::GS] {
        cpu.seg[index] = descriptor(cpu, data).segment(data);
    }
    cpu.cpl = cpl;
    cpu.update_mode();
}

pub fn put(cpu: &mut Cpu, gpa: u64, size: u8, value: u64) {
    for i in 0..u64::from(size) {
        cpu.write_phys(gpa + i, (value >> (8 * i)) as u8).unwrap();
    }
}

pub fn get(cpu: &Cpu, gpa: u64, size: u64) -> u64 {
    (0..size).fold(0, |value, i| value | u64::from(cpu.ram.read::<u8>(gpa + i).unwrap()) << (8 * i))
}

pub fn descriptor(cpu: &Cpu, selector: u16) -> Descriptor {
    Descriptor(get(cpu, GDT + u64::from(selector & !7), 8))
}

pub fn set_descriptor(cpu: &mut Cpu, selector: u16, value: u64) {
    put(cpu, GDT + u64::from(selector & !7), 8, value);
}

/// A gate: `kind` is its type, offset `offset`, and its DPL.
pub fn gate(kind: u8, selector: u16, offset: u64, dpl: u8, low: u8) -> u64 {
    offset & 0xffff
        | u64::from(selector) << 16
        | u64::from(low) << 32
        | u64::from(kind) << 40
        | u64::from(dpl) << 45
        | 1 << 47
        | (offset >> 16 & 0xffff) << 48
}

/// Sets a gate of 8 bytes in the IDT.
pub fn set_gate(cpu: &mut Cpu, vector: u8, gate: u64) {
    put(cpu, IDT + u64::from(vector) * 8, 8, gate);
}

/// Sets a gate of 16 bytes in the IDT.
pub fn set_long_gate(cpu: &mut Cpu, vector: u8, gate: u64, high: u64) {
    put(cpu, IDT + u64::from(vector) * 16, 8, gate);
    put(cpu, IDT + u64::from(vector) * 16 + 8, 8, high);
}

/// Executes one system instruction.
pub fn step(cpu: &mut Cpu, bytes: &[u8]) -> Result<Flow, AbortReason> {
    let mut decoder = Decoder::with_ip(cpu.code_bits(), bytes, cpu.rip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    assert!(!instruction.is_invalid(), "{bytes:x?}");
    assert_eq!(instruction.len(), bytes.len(), "{instruction:?}");
    cpu.next_rip = instruction.next_ip();
    cpu.abort = AbortReason::None;
    match crate::accel::soft::system::execute(cpu, &instruction) {
        Ok(flow) => {
            if flow != Flow::Jump {
                cpu.rip = cpu.next_rip;
            }
            Ok(flow)
        }
        Err(_) => Err(cpu.abort),
    }
}

pub fn fault(vector: u8, code: u32) -> Result<Flow, AbortReason> {
    Err(AbortReason::Exception(Exception { vector, error_code: Some(code) }))
}

pub fn fault_without_code(vector: u8) -> Result<Flow, AbortReason> {
    Err(AbortReason::Exception(Exception { vector, error_code: None }))
}

/// The items on the stack, the last one pushed first.
pub fn stack(cpu: &Cpu, size: u64, items: u64) -> Vec<u64> {
    (0..items).map(|i| get(cpu, cpu.gpr[RSP] + i * size, size)).collect()
}

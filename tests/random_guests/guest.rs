//! A guest made of a byte string: RAM, mode, registers and code, run for a bounded number of instructions.
//!
//! The same bytes make the same guest. What a guest reads of the host differs from run to run: the time, random
//! numbers, and which of its instructions a timer of its own interrupts.

use std::sync::Arc;

use vm_accel::accel::soft::{SoftBackend, SoftVcpu};
use vm_accel::accel::{
    Accel, DescriptorTable, FpuRegs, GuestRegs, InterruptController, Segment, SpecialRegs, VcpuExit, VcpuOps,
    VcpuResult, VcpuSetup, X86FpuRegs, X86Regs, X86SpecialRegs,
};
use vm_accel::memory;
use vm_memory::{Bytes, GuestAddress};

use crate::source::Source;

/// Length of RAM in bytes.
pub const RAM: u64 = 4 << 20;
/// Instructions that a guest executes after each start.
const INSTRUCTIONS: u64 = 20_000;
/// New states on what is left of RAM.
const STARTS: u32 = 40;
/// Accesses to devices after which a new state follows.
const EXITS: u32 = 200;
/// Bytes of the input that become code at a start.
const CODE: usize = 4096;

/// What a guest has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    pub instructions: u64,
    pub exits: u64,
}

struct NoInterrupts;

impl InterruptController for NoInterrupts {
    fn extint_pending(&self) -> bool {
        false
    }

    fn extint_acknowledge(&self) -> Option<u8> {
        None
    }

    fn eoi(&self, _vector: u8) {}
}

/// RAM of random code and data, with descriptor tables, gates and paging structures that are often right.
fn fill(random: &mut Source, ram: &memory::GuestMemory) {
    let mut image = vec![0u8; RAM as usize];
    let style = random.below(4);
    for chunk in image.chunks_exact_mut(8) {
        let mut bytes = random.next();
        if style == 0 {
            // More prefixes and escapes than chance has.
            bytes =
                bytes & !0xff00 | [0x0f00, 0x6600, 0xf300, 0xf200, 0x4800, 0x6700][random.below(6) as usize];
        }
        chunk.copy_from_slice(&bytes.to_le_bytes());
    }
    let mut put =
        |at: u64, value: u64| image[at as usize..at as usize + 8].copy_from_slice(&value.to_le_bytes());
    for at in (0x1000..0x1100).step_by(8) {
        let access = if random.percent(85) { 0x80 | random.below(0x80) } else { random.below(256) };
        let flags = random.below(16);
        let base = random.below(RAM) & !0xfff;
        let limit = random.next() & 0xfffff;
        put(
            at,
            limit & 0xffff
                | (base & 0xff_ffff) << 16
                | access << 40
                | (limit >> 16) << 48
                | flags << 52
                | base >> 24 << 56,
        );
    }
    for at in (0x2000..0x3000).step_by(16) {
        let kind = [0x8e, 0xee, 0x8f, 0xef, 0x85, 0x86, 0x0e, random.below(256)][random.below(8) as usize];
        let (selector, offset) = (random.below(0x20) << 3, random.below(RAM));
        put(at, offset & 0xffff | selector << 16 | random.below(8) << 32 | kind << 40 | offset >> 16 << 48);
        put(at + 8, if random.percent(90) { 0 } else { random.next() });
    }
    for at in (0x3000..0x3100).step_by(8) {
        let address = random.below(RAM);
        put(at, address);
    }
    // Long mode's four levels at 0x10000, from which also PAE's three and the two of 32 bits are made.
    let flags = |random: &mut Source| if random.percent(95) { 7 } else { random.below(0x200) };
    for level in 0..3u64 {
        for entry in 0..4 {
            let to = 0x10000 + (level + 1) * 0x1000;
            let rights = flags(random);
            put(0x10000 + level * 0x1000 + entry * 8, to | rights & !0x80);
            put(0x10000 + level * 0x1000 + 0xff8 - entry * 8, to | rights & !0x80);
        }
    }
    for entry in 0..512 {
        let high = if random.percent(90) { 0 } else { random.next() & 0xfff0_0000_0000_0000 };
        let rights = flags(random);
        put(0x13000 + entry * 8, (entry * 0x1000) | rights | high);
    }
    for entry in 0..8 {
        put(0x20000 + entry * 8, 0x21007 | 0x21007 << 32);
    }
    for entry in 0..512 {
        put(0x21000 + entry * 8, (entry * 0x2000) | 7 | ((entry * 0x2000 + 0x1000) | 7) << 32);
    }
    ram.write_slice(&image, GuestAddress(0)).unwrap();
}

fn segment(random: &mut Source, code: bool, dpl: u8, bits: u64) -> Segment {
    let type_ =
        if code { 8 | random.below(8) as u8 | 3 } else { [3, 3, 3, 1, 7, 5][random.below(6) as usize] };
    let limit = [0xffff_ffff, 0xffff_ffff, 0xffff, 0xf_ffff, 0xfff, 0][random.below(6) as usize];
    Segment {
        base: if bits == 64 || random.percent(60) { 0 } else { random.below(RAM) },
        limit: if code { limit | 0xffff } else { limit },
        selector: (random.below(0x20) as u16) << 3 | u16::from(dpl),
        type_,
        dpl,
        present: true,
        db: bits == 32,
        s: true,
        l: code && bits == 64,
        g: true,
        avl: false,
        unusable: !code && random.percent(5),
    }
}

/// A state that a processor could be in.
fn special(random: &mut Source, fresh: &X86SpecialRegs) -> (X86SpecialRegs, u64) {
    let mut s = *fresh;
    let mut rflags = random.next() & 0x27_5fd5 | 2;
    s.gdt = DescriptorTable { base: 0x1000, limit: 0xff };
    s.idt = DescriptorTable { base: 0x2000, limit: [0xfff, 0x3ff, 0][random.below(3) as usize] };
    // Real mode; protected mode with 16 and 32 bits, paged or not; virtual-8086; compatibility; long.
    let mode = random.below(7);
    let bits = match mode {
        0 | 1 | 4 => 16,
        2 | 3 | 5 => 32,
        _ => 64,
    };
    let cpl = if mode == 0 || random.percent(50) { 0 } else { 3 };
    s.cr4 = random.next() & 0x0031_0fff & !0x2000;
    s.cr0 = 0x10 | random.next() & 0x0005_0020;
    if random.percent(10) {
        s.cr0 |= random.next() & 0xe;
    }
    if mode != 0 {
        s.cr0 |= 1;
    }
    if mode >= 3 && mode != 4 || random.percent(if mode == 0 { 0 } else { 40 }) {
        s.cr0 |= 1 << 31;
    }
    if mode >= 5 {
        s.cr4 |= 1 << 5;
        s.cr3 = 0x10000;
        s.efer = 0x500 | random.next() & 0x801;
    } else {
        s.efer = random.next() & 0x801;
        s.cr3 = if s.cr4 & 1 << 5 != 0 { 0x11000 } else { 0x20000 };
    }
    if random.percent(3) {
        s.cr3 = random.below(1 << 32) & !0xfff;
    }
    s.cr2 = random.next();
    s.cr8 = random.below(16);
    s.cs = segment(random, true, cpl, bits);
    s.ss = segment(random, false, cpl, bits.min(32));
    s.ss.unusable = false;
    s.ss.type_ = 3;
    for place in [&mut s.ds, &mut s.es, &mut s.fs, &mut s.gs] {
        *place = segment(random, false, cpl, bits.min(32));
    }
    if mode == 0 || mode == 4 {
        // Real-address and virtual-8086 segments.
        for place in [&mut s.cs, &mut s.ss, &mut s.ds, &mut s.es, &mut s.fs, &mut s.gs] {
            let selector = random.next() as u16;
            *place = Segment {
                base: u64::from(selector) << 4,
                limit: 0xffff,
                selector,
                type_: if mode == 0 { place.type_ } else { 3 },
                dpl: if mode == 0 { 0 } else { 3 },
                present: true,
                s: true,
                ..Segment::default()
            };
        }
        if mode == 4 {
            rflags |= 1 << 17;
            s.efer &= !0x500;
        }
    }
    s.tr =
        Segment { base: 0x3000, limit: 0x67, selector: 0x40, type_: 11, present: true, ..Segment::default() };
    s.ldt =
        Segment { base: 0x1000, limit: 0xff, selector: 0x48, type_: 2, present: true, ..Segment::default() };
    (s, rflags)
}

/// Gives the vCPU a new state.
fn start(random: &mut Source, vcpu: &mut SoftVcpu, fresh: &X86SpecialRegs) -> VcpuResult<()> {
    let (special, rflags) = special(random, fresh);
    vcpu.set_special_regs(&SpecialRegs::X86_64(special))?;
    let mut fpu = X86FpuRegs {
        fcw: random.next() as u16,
        fsw: random.next() as u16,
        ftwx: random.next() as u8,
        mxcsr: random.next() as u32 & 0xffff,
        ..X86FpuRegs::default()
    };
    for register in &mut fpu.fpr {
        register[..8].copy_from_slice(&random.next().to_le_bytes());
        register[8..10].copy_from_slice(&(random.next() as u16).to_le_bytes());
    }
    vcpu.set_fpu_regs(&FpuRegs::X86_64(fpu))?;
    let mut v = || random.value();
    let regs = X86Regs {
        rax: v(),
        rbx: v(),
        rcx: v(),
        rdx: v(),
        rsi: v(),
        rdi: v(),
        rbp: v(),
        rsp: v() & 0x3f_ffff,
        r8: v(),
        r9: v(),
        r10: v(),
        r11: v(),
        r12: v(),
        r13: v(),
        r14: v(),
        r15: v(),
        rip: v() & 0xffff,
        rflags,
    };
    vcpu.set_regs(&GuestRegs::X86_64(regs))
}

/// Runs the guest that `source` describes.
///
/// # Errors
/// What the backend could not do, or a promise that it has broken.
pub fn run(mut source: Source) -> Result<Report, String> {
    let ram = memory::allocate(RAM).map_err(|e| e.to_string())?;
    fill(&mut source.background(), &ram);
    let mut backend = SoftBackend::new().map_err(|e| e.to_string())?;
    backend.map_memory(&ram).map_err(|e| e.to_string())?;
    let setup = VcpuSetup { cpus: 1, interrupts: Arc::new(NoInterrupts) };
    let mut vcpu = backend.create_vcpu(0, &setup).map_err(|e| e.to_string())?;
    let SpecialRegs::X86_64(fresh) = vcpu.get_special_regs().map_err(|e| e.to_string())? else {
        return Err("registers of another architecture".into());
    };
    let mut report = Report { instructions: 0, exits: 0 };
    for _ in 0..STARTS {
        start(&mut source, &mut vcpu, &fresh).map_err(|e| e.to_string())?;
        put_code(&mut source, &vcpu, &ram)?;
        run_once(&mut source, &mut vcpu, &mut report)?;
        if source.is_used_up() {
            break;
        }
    }
    Ok(report)
}

/// Puts bytes of the input where the vCPU is about to execute.
fn put_code(source: &mut Source, vcpu: &SoftVcpu, ram: &memory::GuestMemory) -> Result<(), String> {
    let code = source.take(CODE);
    let base = vcpu.get_special_regs().map_err(|e| e.to_string())?.code_base();
    let rip = vcpu.get_regs().map_err(|e| e.to_string())?.instruction_pointer();
    // RAM is mapped as it lies, most of the time.
    let at = base.wrapping_add(rip) % RAM;
    let room = code.len().min((RAM - at) as usize);
    ram.write_slice(&code[..room], GuestAddress(at)).map_err(|e| e.to_string())
}

/// Runs until the instructions or the accesses to devices are used up, or the guest has ended.
fn run_once(source: &mut Source, vcpu: &mut SoftVcpu, report: &mut Report) -> Result<(), String> {
    vcpu.limit_instructions(Some(INSTRUCTIONS));
    for _ in 0..EXITS {
        report.exits += 1;
        match vcpu.run().map_err(|e| e.to_string())? {
            VcpuExit::IoIn { data, .. } | VcpuExit::MmioRead { data, .. } => {
                data.fill_with(|| source.next() as u8);
            }
            VcpuExit::Hlt | VcpuExit::Shutdown | VcpuExit::EmulationFailure { .. } => break,
            _ => {}
        }
        if vcpu.instructions_left() == Some(0) {
            break;
        }
    }
    report.instructions += INSTRUCTIONS - vcpu.instructions_left().unwrap_or(0);
    let (bytes, most) = vcpu.cache_bytes();
    if bytes > most { Err(format!("the code cache has {bytes} bytes, more than {most}")) } else { Ok(()) }
}

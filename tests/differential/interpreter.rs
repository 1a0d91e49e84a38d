//! The software CPU: the same addresses with the same contents, at privilege level 3 of 64-bit mode.
//!
//! Every exception goes through the IDT to a HLT of its own at privilege level 0.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use vm_accel::accel::soft::ram::Ram;
use vm_accel::accel::soft::run::Stop;
use vm_accel::accel::soft::state::{Cpu, cr0, cr4, efer, seg};
use vm_accel::accel::soft::x87::F80;
use vm_accel::accel::{DescriptorTable, Segment};
use vm_accel::memory;

use crate::machine::{
    CODE, CODE_PAGES, DATA_BYTES, DATA_PAGES, Fx, GS_BASE, Input, Outcome, PAGE, PANICKED, RSP, STOPPED,
};

const RAM: u64 = 2 << 20;
/// All of RAM for privilege level 0, in the upper half.
const KERNEL: u64 = 0xffff_8000_0000_0000;
const GDT: u64 = 0x1000;
const IDT: u64 = 0x2000;
const TSS: u64 = 0x3000;
const STACK: u64 = 0x8000;
/// A HLT for each vector, 16 bytes apart.
const HANDLERS: u64 = 0x9000;
const TABLES: u64 = 0x10000;
const CODE_GPA: u64 = 0x10_0000;
const DATA_GPA: u64 = 0x10_4000;

/// Linux's selectors.
const KERNEL_CS: u16 = 0x10;
const USER_SS: u16 = 0x2b;
const USER_CS: u16 = 0x33;
const USER_CS_32: u16 = 0x23;

pub struct Interpreter {
    cpu: Box<Cpu>,
    ram: Arc<Ram>,
}

fn put(cpu: &mut Cpu, gpa: u64, value: u64) {
    cpu.write_phys(gpa, value).unwrap();
}

impl Interpreter {
    pub fn new() -> Self {
        let memory = memory::allocate(RAM).unwrap();
        let ram = Ram::new(&memory);
        let mut cpu = Box::new(Cpu::new(0, Arc::clone(&ram)));
        put(&mut cpu, GDT + u64::from(KERNEL_CS), 0x00af_9a00_0000_ffff);
        for vector in 0..32 {
            let handler = HANDLERS + vector * 16;
            // #BP and #OF are raised by instructions.
            let dpl = if matches!(vector, 3 | 4) { 3 } else { 0 };
            let gate = handler | u64::from(KERNEL_CS) << 16 | (0x8e | dpl << 5) << 40;
            put(&mut cpu, IDT + vector * 16, gate);
            put(&mut cpu, IDT + vector * 16 + 8, KERNEL >> 32);
            cpu.write_phys(handler, 0xf4u8).unwrap();
        }
        put(&mut cpu, TSS + 4, KERNEL + STACK);
        // No I/O permission map.
        cpu.write_phys(TSS + 0x66, 0x68u16).unwrap();
        // One paging structure of each kind; the page of the program's 2 MiB.
        put(&mut cpu, TABLES, TABLES + 0x1007);
        put(&mut cpu, TABLES + 256 * 8, TABLES + 0x5003);
        put(&mut cpu, TABLES + 0x5000, TABLES + 0x6003);
        put(&mut cpu, TABLES + 0x6000, 0x83);
        put(&mut cpu, TABLES + 0x1008, TABLES + 0x3007);
        put(&mut cpu, TABLES + 0x3000 + (CODE >> 21 & 511) * 8, TABLES + 0x4007);
        for page in 0..CODE_PAGES as u64 {
            put(&mut cpu, TABLES + 0x4000 + page * 8, (CODE_GPA + page * 4096) | 5);
        }
        for page in 0..DATA_PAGES as u64 {
            let rights = if page + 1 < DATA_PAGES as u64 { 7 } else { 5 } | 1 << 63;
            put(&mut cpu, TABLES + 0x4000 + (0x100 + page) * 8, (DATA_GPA + page * 4096) | rights);
        }
        for byte in 0..(CODE_PAGES * PAGE) as u64 {
            cpu.write_phys(CODE_GPA + byte, 0xccu8).unwrap();
        }
        cpu.gdt = DescriptorTable { base: KERNEL + GDT, limit: 0xff };
        cpu.idt = DescriptorTable { base: KERNEL + IDT, limit: 0xfff };
        let segment = Segment { limit: 0xffff_ffff, present: true, ..Segment::default() };
        cpu.tr = Segment { base: KERNEL + TSS, limit: 0x67, selector: 0x40, type_: 11, ..segment };
        cpu.ldt = Segment { unusable: true, ..Segment::default() };
        cpu.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG;
        cpu.cr3 = TABLES;
        cpu.cr4 = cr4::PSE | cr4::PAE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::FSGSBASE;
        cpu.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
        Self { cpu, ram }
    }

    fn enter_user(&mut self, bits: u32, limited: bool) {
        let cpu = &mut self.cpu;
        let user = Segment {
            limit: 0xffff_ffff,
            dpl: 3,
            present: true,
            s: true,
            g: true,
            type_: 3,
            ..Segment::default()
        };
        let null = Segment { unusable: true, ..Segment::default() };
        cpu.seg = [null; 6];
        cpu.seg[seg::CS] = Segment { selector: USER_CS, type_: 11, l: true, ..user };
        cpu.seg[seg::SS] = Segment { selector: USER_SS, db: true, ..user };
        if bits == 64 {
            cpu.seg[seg::GS].base = GS_BASE;
        } else {
            cpu.seg[seg::CS] = Segment { selector: USER_CS_32, type_: 11, db: true, ..user };
            cpu.seg[seg::DS] = cpu.seg[seg::SS];
            cpu.seg[seg::ES] = cpu.seg[seg::SS];
            if limited {
                // Without the last byte, where no code is.
                cpu.seg[seg::CS].limit -= 1;
            }
        }
        cpu.cpl = 3;
        cpu.halted = false;
        cpu.interrupt_shadow = false;
        cpu.update_mode();
    }

    fn set_fx(&mut self, fx: &Fx) {
        let cpu = &mut self.cpu;
        let x87 = &mut cpu.x87;
        x87.status = fx.u16(2);
        x87.tag = fx.0[4];
        x87.set_control(fx.u16(0));
        let top = x87.top();
        for n in 0..8 {
            x87.regs[(top + n) & 7] = F80::from_bytes(fx.st(n));
        }
        for (n, xmm) in cpu.xmm.iter_mut().enumerate() {
            *xmm = fx.xmm(n);
        }
        cpu.mxcsr = fx.mxcsr();
    }

    fn fx(&self) -> Fx {
        let mut fx = Fx::new();
        let x87 = &self.cpu.x87;
        fx.set_u16(0, x87.control);
        fx.set_u16(2, x87.status);
        fx.0[4] = x87.tag;
        for n in 0..8 {
            fx.set_st(n, x87.st(n).to_bytes());
            fx.set_xmm(n, self.cpu.xmm[n]);
            fx.set_xmm(n + 8, self.cpu.xmm[n + 8]);
        }
        fx.set_mxcsr(self.cpu.mxcsr);
        fx
    }

    fn data(&self) -> *mut u8 {
        let host = self.ram.host(DATA_GPA, DATA_BYTES as u64).unwrap();
        std::ptr::with_exposed_provenance_mut(host)
    }

    /// Executes the instruction.
    pub fn run(&mut self, input: &Input) -> Outcome {
        match catch_unwind(AssertUnwindSafe(|| self.run_inner(input))) {
            Ok(outcome) => outcome,
            Err(_) => {
                *self = Self::new();
                Outcome {
                    vector: PANICKED,
                    error: 0,
                    cr2: 0,
                    rip: input.rip,
                    gpr: input.gpr,
                    rflags: input.rflags,
                    fx: input.fx.clone(),
                    data: input.data.clone(),
                }
            }
        }
    }

    fn write_code(&mut self, rip: u64, bytes: impl Iterator<Item = u8>) {
        let room = (CODE_PAGES * PAGE) as u64 - (rip - CODE);
        for (gpa, byte) in (CODE_GPA + (rip - CODE)..).zip(bytes).take(room as usize) {
            self.cpu.write_phys(gpa, byte).unwrap();
        }
    }

    fn run_inner(&mut self, input: &Input) -> Outcome {
        self.write_code(input.rip, input.code.iter().copied());
        // SAFETY: `host` vouches for the bytes, which nothing else refers to.
        unsafe { std::ptr::copy_nonoverlapping(input.data.as_ptr(), self.data(), DATA_BYTES) };
        // A prefix for CS may reach that byte as data.
        self.enter_user(input.bits, input.limited && !input.code.contains(&0x2e));
        self.set_fx(&input.fx);
        let cpu = &mut self.cpu;
        cpu.gpr = input.gpr;
        cpu.rip = input.rip;
        cpu.set_rflags(input.rflags);
        // A breakpoint that is never hit makes the CPU step.
        cpu.dr[0] = 0x1234_5678_0000;
        cpu.dr[7] = if input.stepped { 0x403 } else { 0x400 };
        cpu.flush_tlb_all();
        let stop = cpu.execute();
        let (rsp, rip) = (cpu.gpr[RSP], cpu.rip);
        let mut outcome = Outcome {
            vector: STOPPED,
            error: 0,
            cr2: cpu.cr2,
            rip,
            gpr: cpu.gpr,
            rflags: cpu.rflags(),
            fx: self.fx(),
            // SAFETY: as above.
            data: unsafe { std::slice::from_raw_parts(self.data(), DATA_BYTES) }.to_vec(),
        };
        let handler = rip.wrapping_sub(KERNEL + HANDLERS);
        if stop == Stop::Halted && handler < 512 {
            outcome.vector = (handler / 16) as u8;
            let mut item = rsp;
            let mut pop = || {
                item += 8;
                self.ram.read::<u64>(item - 8 - KERNEL).unwrap()
            };
            if matches!(outcome.vector, 8 | 10..=14 | 17) {
                outcome.error = pop();
            }
            outcome.rip = pop();
            pop();
            outcome.rflags = pop();
            outcome.gpr[RSP] = pop();
        }
        self.write_code(input.rip, input.code.iter().map(|_| 0xcc));
        outcome
    }
}

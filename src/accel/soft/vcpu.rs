//! The software CPU's vCPU: what the machine asks of any backend's.

use std::sync::Arc;

use super::abort::AbortReason;
use super::flags::rflags;
use super::memory::Answer;
use super::run::Stop;
use super::state::{Cpu, Mode, cr0, efer, seg};
use super::wakeup::Wakeup;
use super::x87::F80;
use crate::accel::{
    Activity, FpuRegs, GuestRegs, Kick, SpecialRegs, VcpuError, VcpuExit, VcpuOps, VcpuResult, X86FpuRegs,
    X86Regs, X86SpecialRegs,
};
use crate::devices::irqchip::lapic::MSR_APIC_BASE;

/// A vCPU.
pub struct SoftVcpu {
    cpu: Box<Cpu>,
    wakeup: Arc<Wakeup>,
    /// The bytes of the access that the caller has been given.
    data: [u8; 8],
    given: Given,
    /// The caller has been told that the CPU is halted for ever.
    told_halted: bool,
}

/// What the caller has been asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Given {
    Nothing,
    Read(usize),
    Write,
}

impl SoftVcpu {
    pub(super) fn new(cpu: Cpu, wakeup: Arc<Wakeup>) -> Self {
        Self { cpu: Box::new(cpu), wakeup, data: [0; 8], given: Given::Nothing, told_halted: false }
    }

    /// Executes one instruction, or on with the one that has been answered; gives what it needs.
    pub(super) fn step(&mut self) -> AbortReason {
        self.cpu.execute_one()
    }

    /// Answers an access of `step`: with the value of a load, or `None` for a store.
    pub(super) fn answer(&mut self, value: Option<u64>) {
        self.cpu.replay.push(value.map_or(Answer::Write, Answer::Read));
    }

    /// Linear address of the instruction at RIP, and its bytes as far as they can be read.
    pub fn instruction(&mut self) -> (u64, Vec<u8>) {
        (self.cpu.code_address(self.cpu.rip), self.cpu.instruction_bytes())
    }

    /// Whether interrupts are held off until the next instruction has completed (STI, MOV SS).
    #[must_use]
    pub fn interrupt_shadow(&self) -> bool {
        self.cpu.interrupt_shadow
    }

    /// Sets or ends that state.
    pub fn set_interrupt_shadow(&mut self, shadow: bool) {
        self.cpu.interrupt_shadow = shadow;
    }

    /// Lets `run` execute `most` more instructions and no others, a repeated string instruction counted as
    /// one; or any number with `None`. When none is left, `run` gives `VcpuExit::Interrupted`. Under a limit
    /// a halted CPU does not sleep: `run` gives `VcpuExit::Hlt`.
    pub fn limit_instructions(&mut self, most: Option<u64>) {
        if most.is_some() != self.cpu.budget.is_some() {
            // Blocks count or do not, by what held when they were decoded.
            self.cpu.clear_cache();
        }
        self.cpu.budget = most;
    }

    /// How many instructions `run` may still execute; `None` is no limit.
    #[must_use]
    pub fn instructions_left(&self) -> Option<u64> {
        self.cpu.budget
    }

    /// The memory that decoded code takes, and the most that it can take, in bytes.
    #[must_use]
    pub fn cache_bytes(&self) -> (usize, usize) {
        self.cpu.cache.bytes()
    }

    /// Takes over the answer to the last exit.
    fn take_answer(&mut self) {
        match std::mem::replace(&mut self.given, Given::Nothing) {
            Given::Nothing => {}
            Given::Read(size) => {
                let mut bytes = [0; 8];
                for (to, from) in bytes.iter_mut().zip(&self.data).take(size) {
                    *to = *from;
                }
                self.cpu.replay.push(Answer::Read(u64::from_le_bytes(bytes)));
            }
            Given::Write => self.cpu.replay.push(Answer::Write),
        }
    }

    /// Presets the bytes that the caller fills.
    fn ask(&mut self, size: u8) -> &mut [u8] {
        self.data = [0xff; 8];
        let size = usize::from(size).min(8);
        self.given = Given::Read(size);
        &mut self.data[..size]
    }

    fn give(&mut self, value: u64, size: u8) -> &[u8] {
        self.data = value.to_le_bytes();
        self.given = Given::Write;
        &self.data[..usize::from(size).min(8)]
    }

    fn exit(&mut self, reason: AbortReason) -> VcpuExit<'_> {
        match reason {
            AbortReason::IoIn { port, size } => VcpuExit::IoIn { port, data: self.ask(size) },
            AbortReason::IoOut { port, size, value } => {
                VcpuExit::IoOut { port, data: self.give(value.into(), size) }
            }
            AbortReason::MmioRead { gpa, size } => VcpuExit::MmioRead { gpa, data: self.ask(size) },
            AbortReason::MmioWrite { gpa, size, value } => {
                VcpuExit::MmioWrite { gpa, data: self.give(value, size) }
            }
            AbortReason::Unimplemented => {
                let rip = self.cpu.code_address(self.cpu.rip);
                VcpuExit::EmulationFailure { rip, bytes: self.cpu.instruction_bytes() }
            }
            AbortReason::TripleFault => VcpuExit::Shutdown,
            AbortReason::None | AbortReason::Exception(_) | AbortReason::Retry => VcpuExit::Interrupted,
        }
    }

    fn halted_for_ever(&self) -> bool {
        self.cpu.halted && self.cpu.rflags_rest & rflags::IF == 0
    }
}

impl VcpuOps for SoftVcpu {
    fn get_id(&self) -> u32 {
        self.cpu.id
    }

    fn run(&mut self) -> VcpuResult<VcpuExit<'_>> {
        self.take_answer();
        if self.cpu.id == 0 && self.cpu.interrupts.extint_pending() {
            self.cpu.interrupt_waiting = true;
        }
        loop {
            match self.cpu.execute() {
                Stop::Kicked => {
                    log::trace!(
                        "vCPU {} kicked at {:#x}:{:#x}",
                        self.cpu.id,
                        self.cpu.seg[seg::CS].selector,
                        self.cpu.rip
                    );
                    return Ok(VcpuExit::Interrupted);
                }
                Stop::Spent => return Ok(VcpuExit::Interrupted),
                Stop::Halted if self.cpu.budget.is_some() => return Ok(VcpuExit::Hlt),
                Stop::Halted => {
                    if self.halted_for_ever() && !self.told_halted {
                        self.told_halted = true;
                        return Ok(VcpuExit::Hlt);
                    }
                    self.wakeup.sleep();
                    self.told_halted = false;
                }
                Stop::Abort(reason) => return Ok(self.exit(reason)),
            }
        }
    }

    fn get_regs(&self) -> VcpuResult<GuestRegs> {
        let cpu = &self.cpu;
        let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = cpu.gpr;
        Ok(GuestRegs::X86_64(X86Regs {
            rax,
            rcx,
            rdx,
            rbx,
            rsp,
            rbp,
            rsi,
            rdi,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rip: cpu.rip,
            rflags: cpu.rflags(),
        }))
    }

    fn set_regs(&mut self, regs: &GuestRegs) -> VcpuResult<()> {
        let GuestRegs::X86_64(r) = regs else { return Err(VcpuError::OtherGuest { id: self.get_id() }) };
        let cpu = &mut self.cpu;
        cpu.gpr = [
            r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
            r.r14, r.r15,
        ];
        cpu.rip = r.rip;
        cpu.set_rflags(r.rflags);
        cpu.update_mode();
        // The instruction that was being answered is not the next one any more.
        cpu.replay.clear();
        self.given = Given::Nothing;
        cpu.halted = false;
        Ok(())
    }

    fn get_fpu_regs(&self) -> VcpuResult<FpuRegs> {
        let (cpu, x87) = (&self.cpu, &self.cpu.x87);
        let mut regs = X86FpuRegs {
            fcw: x87.control,
            fsw: x87.status,
            ftwx: x87.tag,
            last_opcode: x87.opcode,
            last_ip: x87.ip,
            last_dp: x87.dp,
            xmm: cpu.xmm.map(u128::to_le_bytes),
            mxcsr: cpu.mxcsr,
            ..X86FpuRegs::default()
        };
        for (n, place) in regs.fpr.iter_mut().enumerate() {
            place[..10].copy_from_slice(&x87.st(n).to_bytes());
        }
        Ok(FpuRegs::X86_64(regs))
    }

    fn set_fpu_regs(&mut self, regs: &FpuRegs) -> VcpuResult<()> {
        let FpuRegs::X86_64(regs) = regs else {
            return Err(VcpuError::OtherGuest { id: self.get_id() });
        };
        let cpu = &mut self.cpu;
        let x87 = &mut cpu.x87;
        x87.status = regs.fsw;
        x87.tag = regs.ftwx;
        x87.opcode = regs.last_opcode;
        x87.ip = regs.last_ip;
        x87.dp = regs.last_dp;
        x87.set_control(regs.fcw);
        let top = x87.top();
        for (n, bytes) in regs.fpr.iter().enumerate() {
            let mut image = [0; 10];
            image.copy_from_slice(&bytes[..10]);
            x87.regs[(top + n) & 7] = F80::from_bytes(image);
        }
        cpu.xmm = regs.xmm.map(u128::from_le_bytes);
        cpu.mxcsr = regs.mxcsr & 0xffff;
        Ok(())
    }

    fn get_special_regs(&self) -> VcpuResult<SpecialRegs> {
        let cpu = &self.cpu;
        Ok(SpecialRegs::X86_64(X86SpecialRegs {
            cs: cpu.seg[seg::CS],
            ds: cpu.seg[seg::DS],
            es: cpu.seg[seg::ES],
            fs: cpu.seg[seg::FS],
            gs: cpu.seg[seg::GS],
            ss: cpu.seg[seg::SS],
            tr: cpu.tr,
            ldt: cpu.ldt,
            gdt: cpu.gdt,
            idt: cpu.idt,
            cr0: cpu.cr0,
            cr2: cpu.cr2,
            cr3: cpu.cr3,
            cr4: cpu.cr4,
            cr8: cpu.lapic.cr8().into(),
            efer: cpu.efer,
            apic_base: cpu.lapic.base(),
        }))
    }

    fn set_special_regs(&mut self, regs: &SpecialRegs) -> VcpuResult<()> {
        let SpecialRegs::X86_64(r) = regs else {
            return Err(VcpuError::OtherGuest { id: self.get_id() });
        };
        let cpu = &mut self.cpu;
        cpu.seg[seg::CS] = r.cs;
        cpu.seg[seg::DS] = r.ds;
        cpu.seg[seg::ES] = r.es;
        cpu.seg[seg::FS] = r.fs;
        cpu.seg[seg::GS] = r.gs;
        cpu.seg[seg::SS] = r.ss;
        cpu.tr = r.tr;
        cpu.ldt = r.ldt;
        cpu.gdt = r.gdt;
        cpu.idt = r.idt;
        cpu.cr0 = r.cr0 | cr0::ET;
        cpu.cr2 = r.cr2;
        cpu.cr3 = r.cr3;
        cpu.cr4 = r.cr4;
        cpu.efer = r.efer;
        if cpu.cr0 & cr0::PG != 0 && cpu.efer & efer::LME != 0 {
            cpu.efer |= efer::LMA;
        }
        // A loader that does not care leaves these 0.
        if r.apic_base != 0 && r.apic_base != cpu.lapic.base() {
            let _ = cpu.lapic.msr_write(MSR_APIC_BASE, r.apic_base);
        }
        cpu.lapic.set_cr8(r.cr8 as u8 & 15);
        cpu.cpl = if cpu.cr0 & cr0::PE != 0 { r.ss.dpl & 3 } else { 0 };
        cpu.flush_tlb_all();
        cpu.update_mode();
        if cpu.mode == Mode::Real {
            cpu.cpl = 0;
        }
        Ok(())
    }

    fn activity(&self) -> VcpuResult<Activity> {
        Ok(if self.cpu.waits_for_sipi {
            Activity::WaitForStart
        } else if self.halted_for_ever() {
            Activity::HaltedForever
        } else if self.cpu.halted {
            Activity::Halted
        } else {
            Activity::Running
        })
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::clone(&self.wakeup) as Arc<dyn Kick>
    }
}

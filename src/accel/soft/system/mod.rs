//! The system side: events, segments, tasks, control registers, MSRs, identity, time.

pub mod access;
pub mod apic;
pub mod control_registers;
pub mod counters;
pub mod cpuid;
pub mod debug_registers;
pub mod delivery;
pub mod descriptor;
pub mod far;
mod invpcid;
pub mod iret;
pub mod kvmclock;
pub mod msr;
pub mod mtrr;
pub mod operand;
pub mod random;
pub mod segments;
pub mod stack;
pub mod syscall;
pub mod tables;
pub mod task;
pub mod time;
pub mod xsave;

#[cfg(test)]
mod tests;

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use super::abort::{Exec, vector};
use super::execute::Flow;
use super::flags::rflags;
use super::fxsave::SaveKind;
use super::state::{Cpu, efer, seg};
use cpuid::Topology;
use delivery::Origin;
pub use delivery::{deliver_exception, deliver_interrupt, deliver_nmi};
use far::FarPointer;
use msr::Msrs;
use random::Random;
use stack::{RSP, Stack};
use tables::{Look, Table};
use time::Clock;

/// The state of a vCPU that only the system side uses.
#[derive(Debug, Clone)]
pub struct System {
    /// The machine's clock.
    pub clock: Clock,
    /// What CPUID says of the machine's processors.
    pub topology: Topology,
    /// MSRs.
    pub msrs: Msrs,
    /// An NMI has been delivered and no IRET executed since.
    pub nmi_blocked: bool,
    /// The instruction that has just been executed is followed by no single-step trap: it has cleared
    /// RFLAGS.TF on its way to a handler.
    pub untraced: bool,
    /// Breakpoints that the instruction under way has met, as bits of DR6.
    pub breakpoints: u64,
    /// The instruction that has just been executed has loaded SS: its traps wait for the next one.
    pub stack_loaded: bool,
    /// The breakpoints that it has met.
    pub held_breakpoints: u64,
    random: Random,
}

impl System {
    /// The state after RESET.
    #[must_use]
    pub fn new(topology: Topology, clock: Clock) -> Self {
        Self {
            clock,
            topology,
            msrs: Msrs::default(),
            nmi_blocked: false,
            untraced: false,
            breakpoints: 0,
            stack_loaded: false,
            held_breakpoints: 0,
            random: Random::default(),
        }
    }
}

impl Cpu {
    /// IA-32e mode: 64-bit or compatibility mode.
    #[inline]
    #[must_use]
    pub fn long_mode_active(&self) -> bool {
        self.efer & efer::LMA != 0
    }

    /// The I/O privilege level.
    #[inline]
    #[must_use]
    pub fn iopl(&self) -> u8 {
        (self.rflags_rest >> 12) as u8 & 3
    }

    /// Raises #GP(0) but at CPL 0.
    ///
    /// # Errors
    /// #GP(0).
    #[inline]
    pub fn require_cpl0(&mut self) -> Exec {
        if self.cpl == 0 { Ok(()) } else { self.general_protection() }
    }

    /// The time-stamp counter.
    #[inline]
    #[must_use]
    pub fn tsc(&self) -> u64 {
        self.system.clock.ticks().wrapping_add(self.system.msrs.tsc_adjust)
    }

    /// The host's time at which the TSC reaches `tsc`; none if that lies beyond what the host can name.
    #[must_use]
    pub fn tsc_instant(&self, tsc: u64) -> Option<std::time::Instant> {
        self.system.clock.instant(tsc.wrapping_sub(self.system.msrs.tsc_adjust))
    }
}

/// Executes a system instruction: whatever the execution core does not do itself.
///
/// The core does: all integer and string instructions, near control transfers, push and pop of general
/// registers and flags, reading segment registers into general ones, CLI, STI, CLD, STD, LAHF, SAHF,
/// CLAC, STAC, IN, OUT, INS, OUTS, UD0-2, BOUND. After any instruction here it looks for interrupts and
/// derives the next block anew.
///
/// `cpu.rip` is the instruction's own address and `cpu.next_rip` that of the next one. Nothing is
/// committed when it aborts. What CPUID does not offer is #UD.
///
/// # Errors
/// `Abort`, with the reason in `cpu.abort`.
pub fn execute(cpu: &mut Cpu, instruction: &Instruction) -> Exec<Flow> {
    let i = instruction;
    match i.mnemonic() {
        Mnemonic::Hlt => return cpu.require_cpl0().map(|()| Flow::Halt),
        Mnemonic::Int
        | Mnemonic::Int1
        | Mnemonic::Int3
        | Mnemonic::Into
        | Mnemonic::Iret
        | Mnemonic::Iretd
        | Mnemonic::Iretq
        | Mnemonic::Retf
        | Mnemonic::Jmp
        | Mnemonic::Call
        | Mnemonic::Syscall
        | Mnemonic::Sysret
        | Mnemonic::Sysretq
        | Mnemonic::Sysenter
        | Mnemonic::Sysexit
        | Mnemonic::Sysexitq => return transfer(cpu, i),
        Mnemonic::Mov => mov(cpu, i)?,
        Mnemonic::Pop | Mnemonic::Push => segment_on_stack(cpu, i)?,
        Mnemonic::Lds => load_far(cpu, i, seg::DS)?,
        Mnemonic::Les => load_far(cpu, i, seg::ES)?,
        Mnemonic::Lss => load_far(cpu, i, seg::SS)?,
        Mnemonic::Lfs => load_far(cpu, i, seg::FS)?,
        Mnemonic::Lgs => load_far(cpu, i, seg::GS)?,
        Mnemonic::Lgdt => tables::load(cpu, i, Table::Gdt)?,
        Mnemonic::Lidt => tables::load(cpu, i, Table::Idt)?,
        Mnemonic::Sgdt => tables::store(cpu, i, Table::Gdt)?,
        Mnemonic::Sidt => tables::store(cpu, i, Table::Idt)?,
        Mnemonic::Lldt => tables::load_local(cpu, i)?,
        Mnemonic::Ltr => tables::load_task(cpu, i)?,
        Mnemonic::Sldt => tables::store_selector(cpu, i, false)?,
        Mnemonic::Str => tables::store_selector(cpu, i, true)?,
        Mnemonic::Lar => tables::look(cpu, i, Look::Rights)?,
        Mnemonic::Lsl => tables::look(cpu, i, Look::Limit)?,
        Mnemonic::Verr => tables::look(cpu, i, Look::Read)?,
        Mnemonic::Verw => tables::look(cpu, i, Look::Write)?,
        Mnemonic::Arpl => tables::adjust_rpl(cpu, i)?,
        Mnemonic::Clts => control_registers::clts(cpu)?,
        Mnemonic::Lmsw => control_registers::lmsw(cpu, i)?,
        Mnemonic::Smsw => control_registers::smsw(cpu, i)?,
        Mnemonic::Invlpg => control_registers::invlpg(cpu, i)?,
        Mnemonic::Invpcid => invpcid::invpcid(cpu, i)?,
        Mnemonic::Invd | Mnemonic::Wbinvd | Mnemonic::Wbnoinvd => cpu.require_cpl0()?,
        Mnemonic::Serialize => {}
        Mnemonic::Swapgs => syscall::swapgs(cpu)?,
        Mnemonic::Rdfsbase => syscall::read_base(cpu, i, seg::FS)?,
        Mnemonic::Rdgsbase => syscall::read_base(cpu, i, seg::GS)?,
        Mnemonic::Wrfsbase => syscall::write_base(cpu, i, seg::FS)?,
        Mnemonic::Wrgsbase => syscall::write_base(cpu, i, seg::GS)?,
        Mnemonic::Rdmsr => msr::rdmsr(cpu)?,
        Mnemonic::Wrmsr => msr::wrmsr(cpu)?,
        Mnemonic::Cpuid => counters::cpuid(cpu),
        Mnemonic::Rdtsc => counters::rdtsc(cpu)?,
        Mnemonic::Rdtscp => counters::rdtscp(cpu)?,
        Mnemonic::Rdpid => counters::rdpid(cpu, i),
        // No counters.
        Mnemonic::Rdpmc => return cpu.general_protection(),
        Mnemonic::Rdrand | Mnemonic::Rdseed => random::random(cpu, i),
        Mnemonic::Vmcall | Mnemonic::Vmmcall => counters::hypercall(cpu),
        Mnemonic::Xgetbv => xsave::xgetbv(cpu)?,
        Mnemonic::Xsetbv => xsave::xsetbv(cpu)?,
        Mnemonic::Rdpkru => xsave::rdpkru(cpu)?,
        Mnemonic::Wrpkru => xsave::wrpkru(cpu)?,
        Mnemonic::Ldmxcsr => xsave::ldmxcsr(cpu, i)?,
        Mnemonic::Stmxcsr => xsave::stmxcsr(cpu, i)?,
        Mnemonic::Fxsave => xsave::fxsave(cpu, i, false)?,
        Mnemonic::Fxsave64 => xsave::fxsave(cpu, i, true)?,
        Mnemonic::Fxrstor => xsave::fxrstor(cpu, i, false)?,
        Mnemonic::Fxrstor64 => xsave::fxrstor(cpu, i, true)?,
        Mnemonic::Xsave => xsave::xsave(cpu, i, false, SaveKind::Xsave)?,
        Mnemonic::Xsave64 => xsave::xsave(cpu, i, true, SaveKind::Xsave)?,
        Mnemonic::Xsaveopt => xsave::xsave(cpu, i, false, SaveKind::Xsaveopt)?,
        Mnemonic::Xsaveopt64 => xsave::xsave(cpu, i, true, SaveKind::Xsaveopt)?,
        Mnemonic::Xsavec => xsave::xsave(cpu, i, false, SaveKind::Xsavec)?,
        Mnemonic::Xsavec64 => xsave::xsave(cpu, i, true, SaveKind::Xsavec)?,
        Mnemonic::Xrstor => xsave::xrstor(cpu, i, false)?,
        Mnemonic::Xrstor64 => xsave::xrstor(cpu, i, true)?,
        _ => return cpu.undefined(),
    }
    Ok(Flow::Next)
}

/// The instructions that set RIP.
fn transfer(cpu: &mut Cpu, i: &Instruction) -> Exec<Flow> {
    match i.code() {
        Code::Int_imm8 => delivery::software_interrupt(cpu, i.immediate8(), Origin::Int)?,
        Code::Int1 => delivery::software_interrupt(cpu, vector::DB, Origin::Icebp)?,
        Code::Int3 => delivery::software_interrupt(cpu, vector::BP, Origin::Breakpoint)?,
        Code::Into => {
            if cpu.rflags() & rflags::OF == 0 {
                return Ok(Flow::Next);
            }
            delivery::software_interrupt(cpu, vector::OF, Origin::Breakpoint)?;
        }
        Code::Iretw => iret::iret(cpu, 2)?,
        Code::Iretd => iret::iret(cpu, 4)?,
        Code::Iretq => iret::iret(cpu, 8)?,
        Code::Retfw => far::ret(cpu, 2, 0)?,
        Code::Retfd => far::ret(cpu, 4, 0)?,
        Code::Retfq => far::ret(cpu, 8, 0)?,
        Code::Retfw_imm16 => far::ret(cpu, 2, i.immediate16())?,
        Code::Retfd_imm16 => far::ret(cpu, 4, i.immediate16())?,
        Code::Retfq_imm16 => far::ret(cpu, 8, i.immediate16())?,
        Code::Jmp_ptr1616 | Code::Jmp_m1616 => far_operand(cpu, i, 2).and_then(|to| far::jump(cpu, to))?,
        Code::Jmp_ptr1632 | Code::Jmp_m1632 => far_operand(cpu, i, 4).and_then(|to| far::jump(cpu, to))?,
        Code::Jmp_m1664 => far_operand(cpu, i, 8).and_then(|to| far::jump(cpu, to))?,
        Code::Call_ptr1616 | Code::Call_m1616 => far_operand(cpu, i, 2).and_then(|to| far::call(cpu, to))?,
        Code::Call_ptr1632 | Code::Call_m1632 => far_operand(cpu, i, 4).and_then(|to| far::call(cpu, to))?,
        Code::Call_m1664 => far_operand(cpu, i, 8).and_then(|to| far::call(cpu, to))?,
        Code::Syscall => syscall::syscall(cpu)?,
        Code::Sysretd => syscall::sysret(cpu, false)?,
        Code::Sysretq => syscall::sysret(cpu, true)?,
        Code::Sysenter => syscall::sysenter(cpu)?,
        Code::Sysexitd => syscall::sysexit(cpu, false)?,
        Code::Sysexitq => syscall::sysexit(cpu, true)?,
        _ => return cpu.undefined(),
    }
    Ok(Flow::Jump)
}

fn far_operand(cpu: &mut Cpu, i: &Instruction, size: u8) -> Exec<FarPointer> {
    FarPointer::operand(cpu, i, 0, size)
}

/// The number of a segment register.
fn segment_number(register: Register) -> Option<usize> {
    register.is_segment_register().then(|| register.number())
}

/// What a load of SS by MOV or POP holds off for one instruction: interrupts and traps.
fn shadow(cpu: &mut Cpu, index: usize) {
    cpu.interrupt_shadow |= index == seg::SS;
    cpu.system.stack_loaded |= index == seg::SS;
}

/// MOV with a segment, control or debug register.
fn mov(cpu: &mut Cpu, i: &Instruction) -> Exec {
    let (to, from) = (i.op0_register(), i.op1_register());
    if i.op0_kind() == OpKind::Register && (to.is_cr() || from.is_cr()) {
        return control_registers::mov(cpu, i);
    }
    if i.op0_kind() == OpKind::Register && (to.is_dr() || from.is_dr()) {
        return debug_registers::mov(cpu, i);
    }
    if i.op0_kind() == OpKind::Register
        && let Some(index) = segment_number(to)
    {
        if index == seg::CS {
            return cpu.undefined();
        }
        let selector = operand::read(cpu, i, 1, 2)? as u16;
        segments::load(cpu, index, selector)?;
        shadow(cpu, index);
        return Ok(());
    }
    if let Some(index) = segment_number(from) {
        let selector = u64::from(segments::selector(cpu, index));
        return operand::write(cpu, i, 0, 2, selector);
    }
    cpu.undefined()
}

/// PUSH and POP of a segment register.
fn segment_on_stack(cpu: &mut Cpu, i: &Instruction) -> Exec {
    let Some(index) = segment_number(i.op0_register()) else { return cpu.undefined() };
    let size = i.stack_pointer_increment().unsigned_abs() as u8;
    let mut stack = Stack::current(cpu);
    if i.mnemonic() == Mnemonic::Push {
        let selector = u64::from(segments::selector(cpu, index));
        stack.push(cpu, size, selector)?;
    } else {
        let selector = stack.pop(cpu, size)? as u16;
        segments::load(cpu, index, selector)?;
        shadow(cpu, index);
    }
    cpu.gpr[RSP] = stack.pointer;
    Ok(())
}

/// LDS, LES, LSS, LFS, LGS.
fn load_far(cpu: &mut Cpu, i: &Instruction, index: usize) -> Exec {
    let destination = i.op0_register();
    let size = u8::try_from(destination.size()).unwrap_or(8);
    let pointer = FarPointer::operand(cpu, i, 1, size)?;
    segments::load(cpu, index, pointer.selector)?;
    operand::set_register(cpu, destination, pointer.offset);
    Ok(())
}

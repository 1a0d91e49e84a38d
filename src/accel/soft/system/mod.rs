//! The system side: events, segments, privileged instructions, time.

use super::abort::Exec;
use super::execute::Flow;
use super::state::Cpu;

/// Executes a system instruction: whatever the execution core does not do itself.
///
/// The core does: all integer and string instructions, near control transfers, push and pop of general
/// registers and flags, reading segment registers into general ones, CLI, STI, CLD, STD, LAHF, SAHF,
/// CLAC, STAC, IN, OUT, INS, OUTS, UD0-2, BOUND. Here belong: INT n, INT1, INT3, INTO, IRET, far JMP, CALL
/// and RET, loads of segment registers (MOV, POP, LDS and the like), HLT, SYSCALL, SYSENTER and their
/// returns, SWAPGS, CR and DR moves, CLTS, LMSW, SMSW, SGDT and the other table registers, LAR, LSL,
/// VERR, VERW, ARPL, INVLPG, INVD, WBINVD, INVPCID, MSRs, CPUID, RDTSC(P), RDPMC, RDPID, FS/GS base
/// moves, XGETBV, XSETBV, the XSAVE family, FXSAVE and FXRSTOR, MONITOR, MWAIT, VMCALL, SERIALIZE.
///
/// After any of them the core looks for interrupts and derives the next block anew.
///
/// `cpu.rip` is the instruction's own address and `cpu.next_rip` that of the next one. Nothing is
/// committed when it aborts.
///
/// # Errors
/// `Abort`, with the reason in `cpu.abort`.
pub fn execute(cpu: &mut Cpu, instruction: &iced_x86::Instruction) -> Exec<Flow> {
    let _ = instruction;
    cpu.unimplemented()
}

//! What a backend is worth here: it runs tiny kernel-mode guests and takes the time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use serde::Serialize;
use vm_memory::{Bytes, GuestAddress};

use super::{
    Accel, AccelError, AccelResult, Arm64Regs, GuestArch, GuestRegs, NoController, Segment, SpecialRegs,
    VcpuError, VcpuExit, VcpuOps, VcpuSetup, X86Regs, X86SpecialRegs,
};
use crate::memory;

/// Port that each tiny x86-64 guest writes at its end.
const END_PORT: u16 = 0xf4;
/// Address without RAM that each tiny AArch64 guest writes at its end.
const END_GPA: u64 = 0x1000_0000;
/// A tiny guest that has not ended after this time never will.
const DEADLINE: Duration = Duration::from_secs(2);
/// RAM of the tiny guests.
const MEMORY: u64 = 64 << 10;

/// The tiny guests, in 32-bit x86 code with the rounds in ECX.
const X86: Snippets = Snippets {
    // 1: dec ecx; jnz 1b; out 0xf4, al
    spin: &[0x49, 0x75, 0xfd, 0xe6, 0xf4],
    // 1: out 0x80, al; dec ecx; jnz 1b; out 0xf4, al
    exits: &[0xe6, 0x80, 0x49, 0x75, 0xfb, 0xe6, 0xf4],
    // pxor xmm0, xmm0; paddd xmm0, xmm0; out 0xf4, al
    simd: &[0x66, 0x0f, 0xef, 0xc0, 0x66, 0x0f, 0xfe, 0xc0, 0xe6, 0xf4],
};

/// The tiny guests in A64 code, with the rounds in X0 and `END_GPA` in X1.
const ARM64: Snippets = Snippets {
    // 1: subs x0, x0, #1; b.ne 1b; str w0, [x1]
    spin: &[0x00, 0x04, 0x00, 0xf1, 0xe1, 0xff, 0xff, 0x54, 0x20, 0x00, 0x00, 0xb9],
    // 1: str w0, [x1, #8]; subs x0, x0, #1; b.ne 1b; str w0, [x1]
    exits: &[0x20, 0x08, 0x00, 0xb9, 0x00, 0x04, 0x00, 0xf1, 0xc1, 0xff, 0xff, 0x54, 0x20, 0x00, 0x00, 0xb9],
    // mov x2, #0x300000; msr cpacr_el1, x2; isb; movi v0.4s, #1; add v0.4s, v0.4s, v0.4s; str w0, [x1]
    simd: &[
        0x02, 0x06, 0xa0, 0xd2, 0x42, 0x10, 0x18, 0xd5, 0xdf, 0x3f, 0x03, 0xd5, 0x20, 0x04, 0x00, 0x4f, 0x00,
        0x84, 0xa0, 0x4e, 0x20, 0x00, 0x00, 0xb9,
    ],
};

/// The tiny guests of one architecture.
struct Snippets {
    /// Two instructions a round.
    spin: &'static [u8],
    /// An exit a round.
    exits: &'static [u8],
    /// Two SIMD instructions.
    simd: &'static [u8],
}

impl Snippets {
    fn of(guest: GuestArch) -> &'static Self {
        match guest {
            GuestArch::X86_64 => &X86,
            GuestArch::Aarch64 => &ARM64,
        }
    }
}

/// Where the tiny guests lie.
const SPIN: u64 = 0x1000;
const EXITS: u64 = 0x1100;
const SIMD: u64 = 0x1200;

/// How kernel-mode code runs on a backend.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Measurement {
    /// Time to make the virtual machine, one vCPU and to run its first instructions, in milliseconds.
    pub start_ms: f64,
    /// Kernel-mode instructions a second, in millions, of a two-instruction loop.
    pub kernel_mips: f64,
    /// Time of an I/O exit and back, in microseconds.
    pub exit_us: f64,
    /// Whether SSE instructions, or AArch64's SIMD instructions, work in kernel mode.
    pub kernel_sse: bool,
}

impl Measurement {
    /// Whether kernel-mode code is emulated instruction by instruction by a hypervisor: then a stock
    /// kernel takes minutes or fails.
    #[must_use]
    pub fn merely_emulates(&self) -> bool {
        self.kernel_mips < EMULATED_MIPS || !self.kernel_sse
    }
}

/// Slower than any native or translated execution, faster than any hypervisor's emulator.
const EMULATED_MIPS: f64 = 40.0;

/// How a tiny guest ended.
#[derive(Debug, PartialEq)]
enum End {
    Reached,
    EmulationFailure,
}

fn vcpu_error(error: &VcpuError) -> AccelError {
    AccelError::Unusable {
        what: "a tiny guest does not run".into(),
        reason: error.to_string(),
        remedy: "Use `--accel soft`".into(),
    }
}

/// The registers with which the tiny guest at `gpa` starts.
fn registers(guest: GuestArch, gpa: u64, rounds: u32) -> GuestRegs {
    /// EL1 with its own stack pointer, every interrupt masked.
    const EL1H_MASKED: u64 = 0x3c5;
    let rounds = rounds.into();
    match guest {
        GuestArch::X86_64 => {
            GuestRegs::X86_64(X86Regs { rip: gpa, rflags: 2, rcx: rounds, rsp: 0x8000, ..Default::default() })
        }
        GuestArch::Aarch64 => GuestRegs::Aarch64(Arm64Regs {
            pc: gpa,
            pstate: EL1H_MASKED,
            x0: rounds,
            x1: END_GPA,
            ..Default::default()
        }),
    }
}

/// Runs the tiny guest at `gpa` for so many rounds to its end and gives the time it took.
fn run<V: VcpuOps>(
    vcpu: &mut V,
    guest: GuestArch,
    gpa: u64,
    rounds: u32,
    late: &AtomicBool,
) -> AccelResult<(End, Duration)> {
    vcpu.set_regs(&registers(guest, gpa, rounds)).map_err(|e| vcpu_error(&e))?;
    let start = Instant::now();
    loop {
        let stopped = match vcpu.run().map_err(|e| vcpu_error(&e))? {
            VcpuExit::IoOut { port: END_PORT, .. } | VcpuExit::MmioWrite { gpa: END_GPA, .. } => {
                return Ok((End::Reached, start.elapsed()));
            }
            VcpuExit::IoOut { .. } | VcpuExit::MmioWrite { .. } => continue,
            VcpuExit::EmulationFailure { .. } => return Ok((End::EmulationFailure, start.elapsed())),
            VcpuExit::Interrupted => {
                if !late.load(Ordering::Acquire) {
                    continue;
                }
                format!("it did not end within {DEADLINE:?}")
            }
            other => format!("it stopped with {other:?}"),
        };
        return Err(AccelError::Unusable {
            what: "a tiny kernel-mode guest does not run".into(),
            reason: stopped,
            remedy: "Use `--accel soft`".into(),
        });
    }
}

/// The mode that the tiny guests need: on x86-64 flat 32-bit protected mode at CPL 0 with SSE on and paging
/// off; on AArch64 the one after reset.
fn kernel_mode(special: &SpecialRegs) -> SpecialRegs {
    let SpecialRegs::X86_64(special) = special else { return *special };
    let data = Segment {
        base: 0,
        limit: u32::MAX,
        selector: 0x10,
        type_: 3,
        present: true,
        db: true,
        s: true,
        g: true,
        ..Default::default()
    };
    let code = Segment { selector: 8, type_: 11, ..data };
    // CR0: PE, MP, ET, NE. CR4: OSFXSR, OSXMMEXCPT.
    SpecialRegs::X86_64(X86SpecialRegs {
        cs: code,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        cr0: 0x33,
        cr4: 0x600,
        ..*special
    })
}

/// Measures a backend that `make` creates. `thorough` takes longer (some ten milliseconds where
/// kernel-mode code is emulated) and gives figures good enough to print.
///
/// # Errors
/// When the backend cannot be made or a tiny guest does not run on it.
pub fn measure<A: Accel>(make: impl FnOnce() -> AccelResult<A>, thorough: bool) -> AccelResult<Measurement> {
    let start = Instant::now();
    let mut backend = make()?;
    let memory = memory::allocate(MEMORY).map_err(|e| AccelError::Unusable {
        what: "cannot measure the backend".into(),
        reason: e.to_string(),
        remedy: "Free some memory on the host".into(),
    })?;
    let guest = backend.guest();
    let Snippets { spin, exits, simd } = Snippets::of(guest);
    for (gpa, code) in [(SPIN, spin), (EXITS, exits), (SIMD, simd)] {
        memory.write_slice(code, GuestAddress(gpa)).map_err(|e| AccelError::Unusable {
            what: "cannot write a tiny guest".into(),
            reason: e.to_string(),
            remedy: "Free some memory on the host".into(),
        })?;
    }
    backend.map_memory(&memory)?;
    let mut vcpu = backend.create_vcpu(0, &VcpuSetup { cpus: 1, interrupts: Arc::new(NoController) })?;
    let special = vcpu.get_special_regs().map_err(|e| vcpu_error(&e))?;
    vcpu.set_special_regs(&kernel_mode(&special)).map_err(|e| vcpu_error(&e))?;

    // A hypervisor that never enters the guest must not hang its user.
    let (ended, end) = mpsc::channel::<()>();
    let late = Arc::new(AtomicBool::new(false));
    let kicker = vcpu.kicker();
    let watchdog = {
        let late = Arc::clone(&late);
        std::thread::spawn(move || {
            if end.recv_timeout(DEADLINE) == Err(mpsc::RecvTimeoutError::Timeout) {
                late.store(true, Ordering::Release);
                kicker.kick();
            }
        })
    };
    let result = phases(&mut vcpu, guest, start, &late, thorough);
    drop(ended);
    // It ends at once: the channel is closed, or it has kicked already.
    let _ = watchdog.join();
    result
}

fn phases<V: VcpuOps>(
    vcpu: &mut V,
    guest: GuestArch,
    start: Instant,
    late: &AtomicBool,
    thorough: bool,
) -> AccelResult<Measurement> {
    /// Long enough to tell emulation from execution, short enough for every start.
    const QUICK_ROUNDS: u32 = 1_000;
    /// Below this, the quick loop cannot have been emulated.
    const QUICK_LIMIT: Duration = Duration::from_micros(50);

    run(vcpu, guest, SPIN, 1, late)?;
    let started = start.elapsed();
    let (_, mut time) = run(vcpu, guest, SPIN, QUICK_ROUNDS, late)?;
    let mut rounds = QUICK_ROUNDS;
    if thorough || time > QUICK_LIMIT {
        // A figure to print, or to rule out a hiccup: so long a run that its ends do not count.
        let enough = if thorough { Duration::from_millis(20) } else { time * 4 };
        let factor = (enough.as_secs_f64() / time.as_secs_f64().max(1e-6)).clamp(1.0, 10_000.0);
        rounds *= factor as u32;
        time = run(vcpu, guest, SPIN, rounds, late)?.1;
    }
    let exits = if thorough { 1_000 } else { 20 };
    let (_, exit_time) = run(vcpu, guest, EXITS, exits, late)?;
    // Last, because a vCPU does not go on after a failed instruction.
    let (sse, _) = run(vcpu, guest, SIMD, 0, late)?;
    Ok(Measurement {
        start_ms: started.as_secs_f64() * 1e3,
        kernel_mips: 2.0 * f64::from(rounds) / time.as_secs_f64().max(1e-9) / 1e6,
        exit_us: exit_time.as_secs_f64() * 1e6 / f64::from(exits),
        kernel_sse: sse == End::Reached,
    })
}

//! Every form against the host's own instruction, and the portable floating point against the host's.

use std::arch::{asm, is_x86_feature_detected};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use iced_x86::{Code, CpuidFeature, Encoder, EncodingKind, Instruction, MemoryOperand, Mnemonic, Register};

use super::host::MASKS;
use super::table::lookup_portable;
use super::{Form, FpFn, StringTarget, ToIntFn, Xm, approximation, byte_mask, host, lookup, portable};

const ARITHMETIC_FLAGS: u32 = 0x8d5;

/// A xorshift generator of registers that are worth trying.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = std::env::var("SSE_TEST_SEED").ok().and_then(|s| s.parse().ok());
        let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(0)) | 1;
        println!("SSE_TEST_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }

    fn single(&mut self) -> u32 {
        const SPECIAL: [u32; 26] = [
            0,
            1,
            2,
            0x7f_ffff,
            0x80_0000,
            0x80_0001,
            0x3f80_0000,
            0x3f80_0001,
            0x3f7f_ffff,
            0x3f00_0000,
            0x4020_0000,
            0x7f80_0000,
            0x7f7f_ffff,
            0x7fc0_0000,
            0x7fc1_2345,
            0x7f80_0001,
            0x7fbf_ffff,
            0x4f00_0000,
            0x4eff_ffff,
            0x5f00_0000,
            0x5eff_ffff,
            0x4b00_0001,
            0x4b80_0000,
            0x1f80_0000,
            0x40_0000,
            0x0100_0000,
        ];
        let sign = (self.next() as u32) & 0x8000_0000;
        match self.below(6) {
            0..=2 => SPECIAL[self.below(26) as usize] ^ sign,
            // Near one another, so that sums cancel.
            3 => (0x3f00_0000 + self.below(0x0200_0000) as u32) ^ sign,
            // Around the least normal number and its square root.
            4 => ([0x0040_0000, 0x1f00_0000][self.below(2) as usize] + self.below(0x0180_0000) as u32) ^ sign,
            _ => self.next() as u32,
        }
    }

    fn double(&mut self) -> u64 {
        const SPECIAL: [u64; 26] = [
            0,
            1,
            2,
            0xf_ffff_ffff_ffff,
            0x10_0000_0000_0000,
            0x10_0000_0000_0001,
            0x3ff0_0000_0000_0000,
            0x3ff0_0000_0000_0001,
            0x3fef_ffff_ffff_ffff,
            0x3fe0_0000_0000_0000,
            0x4004_0000_0000_0000,
            0x7ff0_0000_0000_0000,
            0x7fef_ffff_ffff_ffff,
            0x7ff8_0000_0000_0000,
            0x7ff8_0000_1234_5678,
            0x7ff0_0000_0000_0001,
            0x7ff7_ffff_ffff_ffff,
            0x41e0_0000_0000_0000,
            0x41df_ffff_ffff_ffff,
            0x41df_ffff_ffc0_0000,
            0x43e0_0000_0000_0000,
            0x43df_ffff_ffff_ffff,
            0x4330_0000_0000_0001,
            0x4340_0000_0000_0000,
            0x3810_0000_0000_0000,
            0x3690_0000_0000_0000,
        ];
        let sign = self.next() & 1 << 63;
        match self.below(7) {
            0..=2 => SPECIAL[self.below(26) as usize] ^ sign,
            3 => (0x3fe0_0000_0000_0000 + self.below(0x40_0000_0000_0000)) ^ sign,
            4 => {
                ([0x8_0000_0000_0000, 0x1fe0_0000_0000_0000][self.below(2) as usize]
                    + self.below(0x30_0000_0000_0000))
                    ^ sign
            }
            // The range of binary32, both ends of it.
            5 => {
                ([0x3680_0000_0000_0000, 0x47d0_0000_0000_0000][self.below(2) as usize]
                    + self.below(0x0200_0000_0000_0000))
                    ^ sign
            }
            _ => self.next(),
        }
    }

    fn register(&mut self) -> u128 {
        let pair = |low: u64, high: u64| u128::from(low) | u128::from(high) << 64;
        match self.below(8) {
            0..=2 => (0..4).fold(0, |r, i| r | u128::from(self.single()) << (32 * i)),
            3 | 4 => pair(self.double(), self.double()),
            5 => {
                let bytes = [0, 0, 1, 2, 3, 0x7f, 0x80, 0x81, 0xfe, 0xff];
                (0..16).fold(0, |r, i| r | bytes[self.below(10) as usize] << (8 * i))
            }
            6 => pair(self.below(80), self.below(80)),
            _ => pair(self.next(), self.next()),
        }
    }

    /// Controls and sticky flags; all exceptions masked unless `unmasked`.
    fn mxcsr(&mut self, unmasked: bool) -> u32 {
        let random = self.next() as u32;
        let sticky = if random & 1 << 31 != 0 { random & 0x3f } else { 0 };
        let masks = if unmasked { random >> 8 & MASKS } else { MASKS };
        // Half of the time the controls that nearly all programs use.
        let controls = if random & 1 << 30 != 0 { random & 0xe040 } else { 0 };
        controls | sticky | masks
    }
}

/// What an instruction can read and write.
#[repr(C, align(64))]
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    memory: [u128; 2],
    xmm: [u128; 3],
    mm: [u64; 4],
    rax: u64,
    rcx: u64,
    rdx: u64,
    eflags: u64,
    mxcsr: u32,
}

impl State {
    fn random(random: &mut Random, unmasked: bool) -> Self {
        let mut length =
            || [random.below(20), random.below(20).wrapping_neg(), random.next()][random.below(3) as usize];
        let (rax, rdx) = (length(), length());
        let memory = random.register();
        Self {
            memory: [memory, memory],
            xmm: std::array::from_fn(|_| random.register()),
            mm: std::array::from_fn(|_| random.register() as u64),
            rax,
            rcx: random.register() as u64,
            rdx,
            eflags: 0,
            mxcsr: random.mxcsr(unmasked),
        }
    }
}

/// The page of machine code; one at a time, because SIGFPE's handler is the process's.
static NATIVE: Mutex<()> = Mutex::new(());
static TRAPPED: AtomicBool = AtomicBool::new(false);
/// Address of the instruction under test, and of what follows it.
static INSTRUCTION: AtomicUsize = AtomicUsize::new(0);
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// Skips the instruction under test.
extern "C" fn on_sigfpe(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid context to a handler with SA_SIGINFO.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let rip = &mut context.uc_mcontext.gregs[libc::REG_RIP as usize];
    if *rip as usize == INSTRUCTION.load(Ordering::SeqCst) {
        *rip = NEXT.load(Ordering::SeqCst) as i64;
        TRAPPED.store(true, Ordering::SeqCst);
    } else {
        // SAFETY: puts the default back, under which the fault ends the process.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Executes single instructions.
struct Native {
    page: *mut u8,
    _alone: MutexGuard<'static, ()>,
}

impl Native {
    fn new() -> Self {
        let alone = NATIVE.lock().unwrap_or_else(PoisonError::into_inner);
        let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        // SAFETY: a new anonymous mapping; a handler that only changes the context.
        let page = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_sigfpe as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigaction(libc::SIGFPE, &raw const action, std::ptr::null_mut());
            libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
        };
        assert_ne!(page, libc::MAP_FAILED, "no executable memory");
        Self { page: page.cast(), _alone: alone }
    }

    /// Executes `code`, one instruction, on `state`; whether it raised #XM.
    fn run(&self, code: &[u8], state: &mut State) -> bool {
        TRAPPED.store(false, Ordering::SeqCst);
        INSTRUCTION.store(self.page as usize, Ordering::SeqCst);
        NEXT.store(self.page as usize + code.len(), Ordering::SeqCst);
        let rust_mxcsr = 0x1f80u32;
        // SAFETY: the page is ours and has room; the instruction reads and writes only the registers that
        // are declared here and `state.memory`, to which RDI points.
        unsafe {
            std::ptr::copy_nonoverlapping(code.as_ptr(), self.page, code.len());
            self.page.add(code.len()).write(0xc3);
            asm!(
                "movdqu xmm0, [rdi + 32]", "movdqu xmm1, [rdi + 48]", "movdqu xmm2, [rdi + 64]",
                "movq mm0, [rdi + 80]", "movq mm1, [rdi + 88]", "movq mm2, [rdi + 96]",
                "mov rax, [rdi + 112]", "mov rcx, [rdi + 120]", "mov rdx, [rdi + 128]",
                "ldmxcsr [rdi + 144]",
                "call {page}",
                "stmxcsr [rdi + 144]",
                "ldmxcsr [{rust}]",
                "pushfq", "pop qword ptr [rdi + 136]",
                "mov [rdi + 112], rax", "mov [rdi + 120], rcx", "mov [rdi + 128], rdx",
                "movdqu [rdi + 32], xmm0", "movdqu [rdi + 48], xmm1", "movdqu [rdi + 64], xmm2",
                "movq [rdi + 80], mm0", "movq [rdi + 88], mm1", "movq [rdi + 96], mm2",
                "emms",
                in("rdi") state,
                page = in(reg) self.page,
                rust = in(reg) &raw const rust_mxcsr,
                out("rax") _, out("rcx") _, out("rdx") _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _,
                out("mm0") _, out("mm1") _, out("mm2") _, out("mm3") _,
                out("mm4") _, out("mm5") _, out("mm6") _, out("mm7") _,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            );
        }
        TRAPPED.load(Ordering::SeqCst)
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: our own mapping.
        unsafe { libc::munmap(self.page.cast(), 4096) };
    }
}

/// Executes `form` as the interpreter does, with registers 1 and 2 as operands and RAX, RCX as the
/// destination and the source among the general-purpose registers.
fn execute(form: Form, s: &mut State, memory: bool, imm: u8) -> Result<(), Xm> {
    let loaded = |bytes: u8| s.memory[0] & u128::MAX >> (128 - 8 * u32::from(bytes));
    let xmm = |bytes: u8| if memory { loaded(bytes) } else { s.xmm[2] };
    let mm = |bytes: u8| if memory { loaded(bytes) } else { s.mm[2].into() };
    let gpr = |bytes: u8| if memory { loaded(bytes) as u64 } else { s.rcx };
    let mm1 = u128::from(s.mm[1]);
    match form {
        Form::Xmm { f, bytes, .. } => s.xmm[1] = f(s.xmm[1], xmm(bytes), imm),
        Form::XmmFp { f, bytes, .. } => s.xmm[1] = f(s.xmm[1], xmm(bytes), imm, &mut s.mxcsr)?,
        Form::XmmImm { f } => s.xmm[1] = f(s.xmm[1], 0, imm),
        Form::XmmGpr { f } => s.xmm[1] = f(s.xmm[1], s.rcx.into(), imm),
        Form::XmmGprFp { f } => s.xmm[1] = f(s.xmm[1], s.rcx.into(), imm, &mut s.mxcsr)?,
        Form::Blend { f } => s.xmm[1] = f(s.xmm[1], xmm(16), s.xmm[0]),
        Form::Store { f, bytes, .. } => {
            let mask = u128::MAX >> (128 - 8 * u32::from(bytes));
            s.memory[0] = s.memory[0] & !mask | f(s.xmm[2], imm) & mask;
        }
        Form::Gpr { f } => s.rax = f(s.xmm[2], imm),
        Form::GprFp { f, bytes } => s.rax = f(xmm(bytes), &mut s.mxcsr)?,
        Form::Flags { f, bytes, .. } => s.eflags = f(s.xmm[1], xmm(bytes), &mut s.mxcsr)?.into(),
        Form::String { f, target } => {
            let result = f(s.xmm[1], xmm(16), imm, s.rax, s.rdx);
            s.eflags = result.eflags.into();
            match target {
                StringTarget::Rcx => s.rcx = result.value as u64,
                StringTarget::Xmm0 => s.xmm[0] = result.value,
            }
        }
        Form::MaskStore => {
            for i in (0..16).filter(|i| byte_mask(s.xmm[2]) >> i & 1 != 0) {
                s.memory[0] = s.memory[0] & !(0xff << (8 * i)) | s.xmm[1] & 0xff << (8 * i);
            }
        }
        Form::Crc { f, bytes } => s.rax = f(s.rax as u32, gpr(bytes)).into(),
        Form::Mmx { f, bytes } => s.mm[1] = f(mm1, mm(bytes), imm) as u64,
        Form::MmxImm { f } => s.mm[1] = f(mm1, 0, imm) as u64,
        Form::MmxGpr { f } => s.mm[1] = f(mm1, s.rcx.into(), imm) as u64,
        Form::MmxXmm { f } => s.mm[1] = f(mm1, s.xmm[2], imm) as u64,
        Form::MmxXmmFp { f, bytes, .. } => s.mm[1] = f(mm1, xmm(bytes), imm, &mut s.mxcsr)? as u64,
        Form::XmmMmx { f } => s.xmm[1] = f(s.xmm[1], s.mm[2].into(), imm),
        Form::XmmMmxFp { f } => s.xmm[1] = f(s.xmm[1], mm(8), imm, &mut s.mxcsr)?,
        Form::MmxStore { bytes } => {
            let mask = u128::MAX >> (128 - 8 * u32::from(bytes));
            s.memory[0] = s.memory[0] & !mask | u128::from(s.mm[2]) & mask;
        }
        Form::GprMmx { f } => s.rax = f(s.mm[2].into(), imm),
        Form::MmxMaskStore => {
            for i in (0..8).filter(|i| byte_mask(s.mm[2].into()) >> i & 1 != 0) {
                s.memory[0] = s.memory[0] & !(0xff << (8 * i)) | u128::from(s.mm[1]) & 0xff << (8 * i);
            }
        }
    }
    Ok(())
}

/// The machine code of `code` with the operands of `execute`, or `None` if it has no such operands.
fn encode(code: Code, form: Form, memory: bool, imm: u8) -> Option<(Vec<u8>, Instruction)> {
    use Register::{CL, CX, EAX, ECX, MM1, MM2, RAX, RCX, RDI, XMM1, XMM2};
    let name = format!("{code:?}");
    let wide = name.contains("r64") || name.contains("rm64");
    let (rax, rcx) = if wide { (RAX, RCX) } else { (EAX, ECX) };
    let (first, second) = match form {
        Form::Xmm { .. } | Form::XmmFp { .. } | Form::Blend { .. } => (Some(XMM1), Some(XMM2)),
        Form::Flags { .. } | Form::String { .. } => (Some(XMM1), Some(XMM2)),
        Form::XmmImm { .. } => (Some(XMM1), None),
        Form::MmxImm { .. } => (Some(MM1), None),
        Form::XmmGpr { .. } | Form::XmmGprFp { .. } => (Some(XMM1), Some(rcx)),
        Form::Store { .. } => (None, Some(XMM2)),
        Form::Gpr { .. } | Form::GprFp { .. } => (Some(rax), Some(XMM2)),
        Form::Crc { bytes, .. } => (
            Some(rax),
            Some(match bytes {
                1 => CL,
                2 => CX,
                4 => ECX,
                _ => RCX,
            }),
        ),
        Form::Mmx { .. } => (Some(MM1), Some(MM2)),
        Form::MmxGpr { .. } => (Some(MM1), Some(rcx)),
        Form::MmxXmm { .. } | Form::MmxXmmFp { .. } => (Some(MM1), Some(XMM2)),
        Form::XmmMmx { .. } | Form::XmmMmxFp { .. } => (Some(XMM1), Some(MM2)),
        Form::MmxStore { .. } => (None, Some(MM2)),
        Form::GprMmx { .. } => (Some(rax), Some(MM2)),
        Form::MaskStore | Form::MmxMaskStore => (None, None),
    };
    let at_rdi = MemoryOperand::with_base(RDI);
    let imm = i32::from(imm);
    let with_imm = name.ends_with("_imm8");
    let instruction = match (first, second) {
        (None, None) if !memory => return None,
        (None, None) if matches!(form, Form::MaskStore) => {
            Instruction::with_maskmovdqu(64, XMM1, XMM2, Register::None)
        }
        (None, None) => Instruction::with_maskmovq(64, MM1, MM2, Register::None),
        (Some(_), None) if memory => return None,
        (Some(a), None) => Instruction::with2(code, a, imm),
        (None, Some(b)) if with_imm => Instruction::with3(code, at_rdi, b, imm),
        (None, Some(b)) => Instruction::with2(code, at_rdi, b),
        (Some(a), Some(_)) if memory && with_imm => Instruction::with3(code, a, at_rdi, imm),
        (Some(a), Some(_)) if memory => Instruction::with2(code, a, at_rdi),
        (Some(a), Some(b)) if with_imm => Instruction::with3(code, a, b, imm),
        (Some(a), Some(b)) => Instruction::with2(code, a, b),
    };
    let mut encoder = Encoder::new(64);
    let instruction = instruction.ok()?;
    encoder.encode(&instruction, 0).ok()?;
    Some((encoder.take_buffer(), instruction))
}

/// The size of the memory operand is that of the instruction, and it has to be aligned if it has 16 bytes.
fn check_memory_operand(instruction: &Instruction, form: Form) {
    let (bytes, aligned) = match form {
        Form::Xmm { bytes, aligned, .. }
        | Form::XmmFp { bytes, aligned, .. }
        | Form::Store { bytes, aligned, .. }
        | Form::Flags { bytes, aligned, .. }
        | Form::MmxXmmFp { bytes, aligned, .. } => (bytes, aligned),
        Form::GprFp { bytes, .. }
        | Form::Crc { bytes, .. }
        | Form::Mmx { bytes, .. }
        | Form::MmxStore { bytes, .. } => (bytes, false),
        _ => return,
    };
    let mnemonic = instruction.mnemonic();
    let anywhere =
        matches!(mnemonic, Mnemonic::Movups | Mnemonic::Movupd | Mnemonic::Movdqu | Mnemonic::Lddqu);
    assert_eq!(usize::from(bytes), instruction.memory_size().size(), "{mnemonic:?}");
    assert_eq!(aligned, bytes == 16 && !anywhere, "{mnemonic:?}");
}

/// Whether the host has the instruction.
fn on_host(code: Code) -> bool {
    code.cpuid_features().iter().all(|feature| match feature {
        CpuidFeature::SSE3 => is_x86_feature_detected!("sse3"),
        CpuidFeature::SSSE3 => is_x86_feature_detected!("ssse3"),
        CpuidFeature::SSE4_1 => is_x86_feature_detected!("sse4.1"),
        CpuidFeature::SSE4_2 => is_x86_feature_detected!("sse4.2"),
        CpuidFeature::AES => is_x86_feature_detected!("aes"),
        CpuidFeature::PCLMULQDQ => is_x86_feature_detected!("pclmulqdq"),
        _ => true,
    })
}

/// Compares all forms that `lookup` gives and `choose` takes with the host's instructions.
fn against_the_host(
    lookup: impl Fn(Code, bool) -> Option<Form>,
    rounds: usize,
    unmasked: bool,
    choose: impl Fn(Form) -> bool,
) {
    let mut random = Random::new();
    let seed = random.0;
    let native = Native::new();
    for code in Code::values().filter(|code| code.encoding() == EncodingKind::Legacy) {
        let mut encodings = 0;
        for memory in [false, true] {
            let Some(form) = lookup(code, memory).filter(|&form| choose(form)) else { continue };
            if !on_host(code) {
                eprintln!("SKIPPED: this processor has no {code:?}");
                encodings += 1;
                continue;
            }
            for _ in 0..rounds {
                let imm = random.next() as u8;
                let Some((bytes, instruction)) = encode(code, form, memory, imm) else { break };
                if memory {
                    check_memory_operand(&instruction, form);
                }
                encodings += 1;
                let before = State::random(&mut random, unmasked);
                let (mut ours, mut theirs) = (before.clone(), before.clone());
                let trapped = native.run(&bytes, &mut theirs);
                let result = execute(form, &mut ours, memory, imm);
                if trapped || !matches!(form, Form::Flags { .. } | Form::String { .. }) {
                    ours.eflags = theirs.eflags;
                }
                theirs.eflags &= u64::from(ARITHMETIC_FLAGS);
                ours.eflags &= u64::from(ARITHMETIC_FLAGS);
                assert!(
                    ours == theirs && trapped == result.is_err(),
                    "{code:?} imm {imm:#x} memory {memory} seed {seed}\nbefore {before:x?}\n  ours {ours:x?} {result:?}\ntheirs {theirs:x?} trapped {trapped}"
                );
            }
        }
        let chosen = [false, true].iter().any(|&memory| lookup(code, memory).is_some_and(&choose));
        assert!(!chosen || encodings > 0, "{code:?} was not tested");
    }
}

/// Whether a form heeds MXCSR.
fn is_float(form: Form) -> bool {
    matches!(
        form,
        Form::XmmFp { .. }
            | Form::XmmGprFp { .. }
            | Form::GprFp { .. }
            | Form::Flags { .. }
            | Form::MmxXmmFp { .. }
            | Form::XmmMmxFp { .. }
    )
}

#[test]
fn integer_forms_agree_with_the_host() {
    against_the_host(lookup, 300, false, |form| !is_float(form));
}

#[test]
fn portable_integer_forms_agree_with_the_host() {
    against_the_host(lookup_portable, 300, false, |form| !is_float(form));
}

#[test]
fn float_forms_agree_with_the_host() {
    against_the_host(lookup, 600, false, is_float);
}

#[test]
fn unmasked_exceptions_agree_with_the_host() {
    against_the_host(lookup, 600, true, is_float);
}

#[test]
fn string_comparisons_agree_with_the_host_for_every_immediate() {
    against_the_host(lookup, 3000, false, |form| matches!(form, Form::String { .. }));
}

/// The functions of both units, by name.
macro_rules! twins {
    ($($name:ident),* $(,)?) => { [$((stringify!($name), host::$name, portable::$name)),*] };
}

#[test]
fn the_portable_unit_agrees_with_the_hosts() {
    let functions: [(&str, FpFn, FpFn); 50] = twins![
        addps,
        addpd,
        addss,
        addsd,
        subps,
        subpd,
        subss,
        subsd,
        mulps,
        mulpd,
        mulss,
        mulsd,
        divps,
        divpd,
        divss,
        divsd,
        minps,
        minpd,
        minss,
        minsd,
        maxps,
        maxpd,
        maxss,
        maxsd,
        sqrtps,
        sqrtpd,
        sqrtss,
        sqrtsd,
        cmpps,
        cmppd,
        cmpss,
        cmpsd,
        addsubps,
        addsubpd,
        roundps,
        roundpd,
        roundss,
        roundsd,
        cvtps2pd,
        cvtpd2ps,
        cvtss2sd,
        cvtsd2ss,
        cvtdq2ps,
        cvtps2dq,
        cvttps2dq,
        cvtpd2dq,
        cvttpd2dq,
        cvtsi2ss_32,
        cvtsi2ss_64,
        cvtsi2sd_64,
    ];
    let conversions: [(&str, ToIntFn, ToIntFn); 8] = twins![
        cvtss2si_32,
        cvtss2si_64,
        cvttss2si_32,
        cvttss2si_64,
        cvtsd2si_32,
        cvtsd2si_64,
        cvttsd2si_32,
        cvttsd2si_64,
    ];
    let comparisons: [(&str, super::FlagsFn, super::FlagsFn); 4] = twins![comiss, comisd, ucomiss, ucomisd];
    let mut random = Random::new();
    let seed = random.0;
    for _ in 0..3000 {
        let (a, b, imm) = (random.register(), random.register(), random.next() as u8);
        let before = random.mxcsr(false);
        for (name, host, portable) in functions {
            let (mut x, mut y) = (before, before);
            let (theirs, ours) = (host(a, b, imm, &mut x), portable(a, b, imm, &mut y));
            assert!(
                theirs == ours && x == y,
                "{name} {a:#x} {b:#x} imm {imm:#x} mxcsr {before:#x} seed {seed}: {theirs:x?} {x:#x}, portable {ours:x?} {y:#x}"
            );
        }
        for (name, host, portable) in conversions {
            let (mut x, mut y) = (before, before);
            assert_eq!(host(a, &mut x), portable(a, &mut y), "{name} {a:#x} mxcsr {before:#x} seed {seed}");
            assert_eq!(x, y, "{name} {a:#x} mxcsr {before:#x} seed {seed}");
        }
        for (name, host, portable) in comparisons {
            let (mut x, mut y) = (before, before);
            assert_eq!(host(a, b, &mut x), portable(a, b, &mut y), "{name} {a:#x} {b:#x} seed {seed}");
            assert_eq!(x, y, "{name} {a:#x} {b:#x} mxcsr {before:#x} seed {seed}");
        }
    }
}

#[test]
fn approximations_are_as_close_as_promised() {
    let functions: [(FpFn, FpFn); 4] = [
        (approximation::rcpps, host::rcpps),
        (approximation::rcpss, host::rcpss),
        (approximation::rsqrtps, host::rsqrtps),
        (approximation::rsqrtss, host::rsqrtss),
    ];
    let mut random = Random::new();
    for _ in 0..3000 {
        let (a, b) = (random.register(), random.register());
        for (portable, host) in functions {
            let (ours, theirs) =
                (portable(a, b, 0, &mut 0x1f80).unwrap(), host(a, b, 0, &mut 0x1f80).unwrap());
            for i in 0..4 {
                let (x, y) = ((ours >> (32 * i)) as u32, (theirs >> (32 * i)) as u32);
                let (x, y) = (f32::from_bits(x), f32::from_bits(y));
                let tiny = x.abs() < 1.2e-38 && y.abs() < 1.2e-38;
                let close = (x - y).abs() <= y.abs() / 1024.0;
                let same = x.to_bits() == y.to_bits();
                assert!(same || close || tiny, "{b:#x}: {x:e} against {y:e}");
            }
        }
    }
}

//! The instruction forms: every opcode with every prefix that selects among instructions, sorted by what iced
//! decodes them to.

use std::collections::BTreeMap;

use iced_x86::{
    Code, CodeSize, CpuidFeature, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind,
};

/// An instruction without its operands' bytes.
#[derive(Debug, Clone, Copy)]
pub struct Template {
    pub prefix: Option<u8>,
    pub wide: bool,
    pub map: u8,
    pub opcode: u8,
    pub modrm: u8,
}

/// An instruction with its operand in a register or in memory.
pub struct Form {
    pub code: Code,
    pub memory: bool,
    /// Of the code: 64 or 32.
    pub bits: u32,
    pub templates: Vec<Template>,
}

impl Template {
    /// Appends the bytes up to ModRM; `rex` has the bits R, X and B.
    pub fn emit(self, rex: Option<u8>, bytes: &mut Vec<u8>) {
        bytes.extend(self.prefix);
        match (self.wide, rex) {
            (true, rex) => bytes.push(0x48 | rex.unwrap_or(0)),
            (false, Some(rex)) => bytes.push(0x40 | rex),
            (false, None) => {}
        }
        bytes.extend_from_slice([&[][..], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]][usize::from(self.map)]);
        bytes.extend([self.opcode, self.modrm]);
    }
}

pub fn decode(bits: u32, bytes: &[u8], rip: u64) -> Instruction {
    // As the interpreter does: CPUs without MPX and CET execute the opcodes of both as NOPs.
    Decoder::with_ip(bits, bytes, rip, DecoderOptions::FORCE_RESERVED_NOP).decode()
}

pub fn has_memory(i: &Instruction) -> bool {
    i.op_kinds().any(|kind| kind == OpKind::Memory)
}

/// Whether the software CPU's CPUID offers the instruction.
pub fn is_offered(i: &Instruction) -> bool {
    use CpuidFeature as F;
    let offered = |feature: &F| {
        matches!(
            feature,
            F::INTEL8086
                | F::INTEL8086_ONLY
                | F::INTEL186
                | F::INTEL286
                | F::INTEL286_ONLY
                | F::INTEL386
                | F::INTEL386_ONLY
                | F::INTEL386_A0_ONLY
                | F::INTEL486
                | F::INTEL486_A_ONLY
                | F::X64
                | F::FPU
                | F::FPU287
                | F::FPU287XL_ONLY
                | F::FPU387
                | F::FPU387SL_ONLY
                | F::CMOV
                | F::CX8
                | F::CMPXCHG16B
                | F::CLFSH
                | F::FSGSBASE
                | F::FXSR
                | F::MMX
                | F::MOVBE
                | F::MULTIBYTENOP
                | F::PAUSE
                | F::POPCNT
                | F::PREFETCHW
                | F::SSE
                | F::SSE2
                | F::SSE3
                | F::SSSE3
                | F::SSE4_1
                | F::SSE4_2
        )
    };
    // Without BMI1 and LZCNT the prefix means nothing; and these are NOPs where they are not known.
    let always = matches!(
        i.mnemonic(),
        Mnemonic::Endbr64 | Mnemonic::Endbr32 | Mnemonic::Rdsspd | Mnemonic::Rdsspq | Mnemonic::Reservednop
    );
    always || i.cpuid_features().iter().all(offered)
}

/// Whether the software CPU executes the instruction, but not in a way that could be compared here.
pub fn is_system(i: &Instruction) -> bool {
    use CpuidFeature as F;
    let system = |feature: &F| {
        matches!(
            feature,
            F::AES
                | F::PCLMULQDQ
                | F::CET_SS
                | F::CLFLUSHOPT
                | F::CLWB
                | F::INVPCID
                | F::MONITOR
                | F::MSR
                | F::PKU
                | F::RDPID
                | F::RDPMC
                | F::RDRAND
                | F::RDSEED
                | F::RDTSCP
                | F::SEP
                | F::SERIALIZE
                | F::SMAP
                | F::SYSCALL
                | F::TSC
                | F::XSAVE
                | F::CPUID
                | F::INTEL286_ONLY
                | F::PAUSE
                | F::SMM
                | F::SVM
                | F::VMX
                | F::BMI1
                | F::LZCNT
                | F::WBNOINVD
        )
    };
    i.cpuid_features().iter().any(system)
}

/// Whether the instruction does in this process what it does at privilege level 3 of any machine: it does not
/// enter the kernel on purpose, nor depend on the kernel's tables, its settings or the time.
pub fn is_comparable(i: &Instruction) -> bool {
    use Mnemonic as M;
    let system = matches!(
        i.mnemonic(),
        M::Syscall
            | M::Sysenter
            | M::Sysexit
            | M::Sysret
            | M::Int
            | M::Int1
            | M::Rdtsc
            | M::Rdtscp
            | M::Rdpmc
            | M::Cpuid
            | M::Rdrand
            | M::Rdseed
            | M::Rdpid
            | M::Sgdt
            | M::Sidt
            | M::Sldt
            | M::Str
            | M::Smsw
            | M::Lar
            | M::Lsl
            | M::Verr
            | M::Verw
            | M::Lss
            | M::Lfs
            | M::Lgs
            | M::Les
            | M::Lds
            | M::Arpl
            | M::Iret
            | M::Iretd
            | M::Iretq
            | M::Retf
            | M::Xgetbv
            | M::Rdfsbase
            | M::Wrfsbase
            | M::Wrgsbase
    );
    let loads_segment = i.op_count() > 0
        && i.op0_kind() == OpKind::Register
        && i.op0_register().is_segment_register()
        && i.mnemonic() != M::Push;
    let far = i.is_jmp_far_indirect() || i.is_call_far_indirect() || i.is_jmp_far() || i.is_call_far();
    !system && !loads_segment && !far
}

/// Whether Intel's and AMD's processors do different things, so that the software CPU can only do as one.
pub fn is_vendor_specific(bytes: &[u8], i: &Instruction) -> bool {
    let near = matches!(
        i.flow_control(),
        FlowControl::UnconditionalBranch
            | FlowControl::ConditionalBranch
            | FlowControl::Call
            | FlowControl::IndirectBranch
            | FlowControl::IndirectCall
            | FlowControl::Return
    );
    // Intel's ignore the operand-size prefix of a near branch in 64-bit mode.
    let narrow_branch = near && i.code_size() == CodeSize::Code64 && bytes[..i.len() - 1].contains(&0x66);
    let repeat = bytes[..i.len() - 1].iter().any(|byte| matches!(byte, 0xf2 | 0xf3));
    narrow_branch
        || match i.mnemonic() {
            // AMD's processors take F2 and F3 for a change of the condition.
            Mnemonic::Loope | Mnemonic::Loopne => repeat,
            // AMD's execute `xchg r8, rax` where REX.B stands between F3 and 90.
            Mnemonic::Pause => bytes[..i.len() - 1].iter().any(|byte| byte & 0xf1 == 0x41),
            // The register forms of PREFETCH are undefined on AMD's.
            Mnemonic::Reservednop => i.code() as usize <= Code::Reservednop_rm64_r64_0F0D as usize,
            // AMD's load 32 bits, Intel's 16.
            Mnemonic::Movsxd => i.code() == Code::Movsxd_r16_rm16,
            // AMD's fetch no operands of these.
            Mnemonic::Ud0 | Mnemonic::Ud1 => true,
            _ => false,
        }
}

/// What is undefined to iced, and what the processor may do instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undefined {
    /// Raise #UD.
    Always,
    /// Raise #GP(0) because it is longer than 15 bytes, if the undefined opcode is taken to have operands.
    OrTooLong,
    /// Execute it: AVX, AVX-512 and XOP, near branches of AMD's length, LOCK with VERW.
    NotHere,
}

pub fn undefined(bytes: &[u8]) -> Undefined {
    let is_prefix = |byte: &&u8| PREFIXES.contains(*byte) || (0x40..0x50).contains(*byte);
    let prefixes = bytes.iter().take_while(is_prefix).count();
    let narrow = bytes[..prefixes].contains(&0x66);
    match bytes[prefixes..] {
        [0x62 | 0x8f | 0xc4 | 0xc5, ..] | [0x0f, 0 | 1, ..] => Undefined::NotHere,
        // AMD's have LOCK for another control register, and look at the privilege level first.
        [0x0f, 0x20..=0x23, ..] if bytes[..prefixes].contains(&0xf0) => Undefined::NotHere,
        [0xe8 | 0xe9, ..] | [0x0f, 0x80..=0x8f, ..] if narrow => Undefined::NotHere,
        _ if prefixes >= 5 => Undefined::OrTooLong,
        _ => Undefined::Always,
    }
}

const PREFIXES: [u8; 11] = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3];
/// Templates kept of a form: more than a run tries.
const KEPT: usize = 4096;

/// Every form of 64-bit or 32-bit code that this CPU offers and that can be compared.
pub fn all(bits: u32) -> Vec<Form> {
    let mut forms: BTreeMap<(Code, bool), Vec<Template>> = BTreeMap::new();
    let mut bytes = Vec::new();
    for map in 0..4 {
        for opcode in 0..=255 {
            let other = PREFIXES.contains(&opcode)
                || opcode == 0x0f
                || bits == 64 && matches!(opcode, 0x40..=0x4f | 0x62 | 0xc4 | 0xc5);
            if map == 0 && other || map == 1 && matches!(opcode, 0x38 | 0x3a) {
                continue;
            }
            for (prefix, wide) in
                [None, Some(0x66), Some(0xf3), Some(0xf2)].into_iter().flat_map(|p| [(p, false), (p, true)])
            {
                if wide && bits == 32 {
                    continue;
                }
                for modrm in 0..=255 {
                    let template = Template { prefix, wide, map, opcode, modrm };
                    bytes.clear();
                    template.emit(None, &mut bytes);
                    bytes.resize(15, 0);
                    let i = decode(bits, &bytes, 0);
                    if i.is_invalid() || !is_offered(&i) || !is_comparable(&i) {
                        continue;
                    }
                    let kept = forms.entry((i.code(), has_memory(&i))).or_default();
                    if kept.len() < KEPT {
                        kept.push(template);
                    }
                }
            }
        }
    }
    forms.into_iter().map(|((code, memory), templates)| Form { code, memory, bits, templates }).collect()
}

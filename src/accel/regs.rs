//! Register state in neutral structs, by guest architecture.
//!
//! The architecture is the guest's, not the host's: one host can run guests of two (its hypervisor's
//! own and the software CPU's x86-64), so the neutral types are enums with a variant for each.

use super::macros::reg_map;

reg_map! {
    /// The general registers of an x86-64 vCPU.
    pub struct X86Regs: u64 {
        rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags,
    }
}

reg_map! {
    /// The general registers of an AArch64 vCPU, and the register that holds its flags and exception level.
    pub struct Arm64Regs: u64 {
        x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15, x16, x17, x18, x19, x20, x21,
        x22, x23, x24, x25, x26, x27, x28, x29, x30, pc, pstate,
    }
}

reg_map! {
    /// The system registers of an AArch64 vCPU that its memory, its exceptions and its stacks depend on.
    pub struct Arm64SpecialRegs: u64 {
        sp_el0, sp_el1, elr_el1, spsr_el1, sctlr_el1, cpacr_el1, ttbr0_el1, ttbr1_el1, tcr_el1, mair_el1,
        vbar_el1, esr_el1, far_el1, contextidr_el1, tpidr_el0, tpidr_el1, tpidrro_el0,
    }
}

/// A segment register with its hidden part (Intel SDM vol. 3, 3.4.3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Segment {
    /// Base address.
    pub base: u64,
    /// Limit in bytes, granularity already applied.
    pub limit: u32,
    /// Visible selector.
    pub selector: u16,
    /// Descriptor type, 4 bits.
    pub type_: u8,
    /// Descriptor privilege level.
    pub dpl: u8,
    /// Present.
    pub present: bool,
    /// Default operand size (32-bit).
    pub db: bool,
    /// Code or data segment, as opposed to a system segment.
    pub s: bool,
    /// 64-bit code segment.
    pub l: bool,
    /// Granularity flag, as the descriptor had it.
    pub g: bool,
    /// Available to system software.
    pub avl: bool,
    /// The segment register holds a null selector.
    pub unusable: bool,
}

/// A descriptor table register.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DescriptorTable {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// The special registers of an x86-64 vCPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "a register's name is its documentation")]
pub struct X86SpecialRegs {
    pub cs: Segment,
    pub ds: Segment,
    pub es: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub ss: Segment,
    pub tr: Segment,
    pub ldt: Segment,
    pub gdt: DescriptorTable,
    pub idt: DescriptorTable,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub cr8: u64,
    pub efer: u64,
    pub apic_base: u64,
}

/// The x87 and SSE registers of an x86-64 vCPU, as FXSAVE names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct X86FpuRegs {
    /// ST0 to ST7 in stack order; ten bytes of each are used.
    pub fpr: [[u8; 16]; 8],
    /// Control word.
    pub fcw: u16,
    /// Status word.
    pub fsw: u16,
    /// Abridged tag word: a bit is set for a register in use.
    pub ftwx: u8,
    /// Last opcode.
    pub last_opcode: u16,
    /// Last instruction pointer.
    pub last_ip: u64,
    /// Last data pointer.
    pub last_dp: u64,
    /// XMM0 to XMM15.
    pub xmm: [[u8; 16]; 16],
    /// SSE control and status.
    pub mxcsr: u32,
}

impl Default for X86FpuRegs {
    /// The state after FNINIT and a reset MXCSR.
    fn default() -> Self {
        Self {
            fpr: [[0; 16]; 8],
            fcw: 0x37f,
            fsw: 0,
            ftwx: 0,
            last_opcode: 0,
            last_ip: 0,
            last_dp: 0,
            xmm: [[0; 16]; 16],
            mxcsr: 0x1f80,
        }
    }
}

/// The floating-point and SIMD registers of an AArch64 vCPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Arm64FpuRegs {
    /// V0 to V31.
    pub v: [u128; 32],
    /// Status.
    pub fpsr: u32,
    /// Control.
    pub fpcr: u32,
}

/// General registers of a vCPU, instruction pointer and flags included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestRegs {
    /// An x86-64 guest's.
    X86_64(X86Regs),
    /// An AArch64 guest's.
    Aarch64(Arm64Regs),
}

impl GuestRegs {
    /// The instruction pointer.
    #[must_use]
    pub fn instruction_pointer(&self) -> u64 {
        match self {
            Self::X86_64(regs) => regs.rip,
            Self::Aarch64(regs) => regs.pc,
        }
    }

    /// The registers by name.
    #[must_use]
    pub fn named(&self) -> Vec<(&'static str, u64)> {
        match self {
            Self::X86_64(regs) => regs.iter().collect(),
            Self::Aarch64(regs) => regs.iter().collect(),
        }
    }
}

/// Floating-point and vector registers of a vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FpuRegs {
    /// An x86-64 guest's.
    X86_64(X86FpuRegs),
    /// An AArch64 guest's.
    Aarch64(Arm64FpuRegs),
}

/// Segment, control and system registers of a vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialRegs {
    /// An x86-64 guest's.
    X86_64(X86SpecialRegs),
    /// An AArch64 guest's.
    Aarch64(Arm64SpecialRegs),
}

impl SpecialRegs {
    /// The registers that tell most of a guest's fate, by name.
    #[must_use]
    pub fn named(&self) -> Vec<(&'static str, u64)> {
        match self {
            Self::X86_64(special) => vec![
                ("cr0", special.cr0),
                ("cr2", special.cr2),
                ("cr3", special.cr3),
                ("cr4", special.cr4),
                ("cr8", special.cr8),
                ("efer", special.efer),
                ("cs", special.cs.selector.into()),
                ("cs_base", special.cs.base),
                ("ss", special.ss.selector.into()),
                ("gdt", special.gdt.base),
                ("idt", special.idt.base),
            ],
            Self::Aarch64(special) => special.iter().collect(),
        }
    }

    /// What the instruction pointer is relative to: the base of an x86-64 guest's code segment.
    #[must_use]
    pub fn code_base(&self) -> u64 {
        match self {
            Self::X86_64(special) => special.cs.base,
            Self::Aarch64(_) => 0,
        }
    }
}

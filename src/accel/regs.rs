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

/// General registers of a vCPU, instruction pointer and flags included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestRegs {
    /// An x86-64 guest's.
    X86_64(X86Regs),
}

impl GuestRegs {
    /// The instruction pointer.
    #[must_use]
    pub fn instruction_pointer(&self) -> u64 {
        let Self::X86_64(regs) = self;
        regs.rip
    }

    /// The registers by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let Self::X86_64(regs) = self;
        regs.iter()
    }
}

/// Floating-point and vector registers of a vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FpuRegs {
    /// An x86-64 guest's.
    X86_64(X86FpuRegs),
}

/// Segment, control and system registers of a vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialRegs {
    /// An x86-64 guest's.
    X86_64(X86SpecialRegs),
}

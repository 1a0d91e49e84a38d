//! The architectural state of one vCPU.

use super::abort::{Abort, AbortReason, Exception};
use super::x87::X87;
use crate::accel::{DescriptorTable, Segment};

/// Index of a segment register in `Cpu::seg`: the encoding of the instruction set.
#[allow(missing_docs, reason = "a register's name is its documentation")]
pub mod seg {
    pub const ES: usize = 0;
    pub const CS: usize = 1;
    pub const SS: usize = 2;
    pub const DS: usize = 3;
    pub const FS: usize = 4;
    pub const GS: usize = 5;
}

/// The general mode of operation: what CR0.PE, EFER.LMA, RFLAGS.VM and CS.L make of the CPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Real-address mode (CR0.PE = 0).
    #[default]
    Real,
    /// Virtual-8086 mode.
    Virtual8086,
    /// Protected mode; also compatibility mode, in which EFER.LMA is set.
    Protected,
    /// 64-bit mode.
    Long,
}

/// The state of one vCPU.
#[repr(C)]
pub struct Cpu {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gpr: [u64; 16],
    /// Instruction pointer, an offset in CS. While an instruction executes it is that instruction's own.
    pub rip: u64,
    /// RFLAGS but for the arithmetic flags, which may be kept lazily: read with `rflags()`.
    pub rflags_rest: u64,
    /// Segment registers by `seg::*`.
    pub seg: [Segment; 6],
    /// LDTR.
    pub ldt: Segment,
    /// TR.
    pub tr: Segment,
    /// GDTR.
    pub gdt: DescriptorTable,
    /// IDTR.
    pub idt: DescriptorTable,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
    /// XCR0.
    pub xcr0: u64,
    /// DR0 to DR7 (4 and 5 unused).
    pub dr: [u64; 8],
    /// Mode of operation, derived; kept by whoever changes what it derives from.
    pub mode: Mode,
    /// Current privilege level, derived.
    pub cpl: u8,
    /// XMM0 to XMM15.
    pub xmm: [u128; 16],
    /// MXCSR.
    pub mxcsr: u32,
    /// The x87 unit.
    pub x87: X87,
    /// Why the last instruction did not complete.
    pub abort: AbortReason,
}

impl Cpu {
    /// Makes the instruction under way raise `vector` with an error code: `return cpu.raise(..)`.
    #[cold]
    pub fn raise<T>(&mut self, vector: u8, error_code: Option<u32>) -> Result<T, Abort> {
        self.abort = AbortReason::Exception(Exception { vector, error_code });
        Err(Abort)
    }
}

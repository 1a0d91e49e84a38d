//! Execution of decoded operations.

/// What follows an instruction of the system side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// The next instruction, at `cpu.next_rip`.
    Next,
    /// `cpu.rip` has been set.
    Jump,
    /// As `Next`, and the CPU halts (HLT).
    Halt,
}

//! Why an instruction did not complete.

/// The instruction did not complete and changed nothing; the reason is in `Cpu::abort`.
///
/// The marker is empty so that the result of a memory access stays in registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abort;

/// The result of executing, or of a part of it that can fault.
pub type Exec<T = ()> = Result<T, Abort>;

/// What stopped an instruction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AbortReason {
    /// Nothing; set while no abort is under way.
    #[default]
    None,
    /// An exception to be delivered to the guest.
    Exception(Exception),
    /// A load from an address without RAM. The instruction is executed again with the answer.
    MmioRead {
        /// Guest-physical address.
        gpa: u64,
        /// Bytes: 1 to 8.
        size: u8,
    },
    /// A store to an address without RAM. The instruction is executed again with the store done.
    MmioWrite {
        /// Guest-physical address.
        gpa: u64,
        /// Bytes: 1 to 8.
        size: u8,
        /// The value, little-endian.
        value: u64,
    },
    /// An `in`, or one item of `ins`. The instruction is executed again with the answer.
    IoIn {
        /// I/O port.
        port: u16,
        /// Bytes: 1, 2 or 4.
        size: u8,
    },
    /// An `out`, or one item of `outs`. The instruction is executed again with the output done.
    IoOut {
        /// I/O port.
        port: u16,
        /// Bytes: 1, 2 or 4.
        size: u8,
        /// The value.
        value: u32,
    },
    /// The instruction writes to the block that holds it: it is executed again on its own.
    Retry,
    /// Triple fault.
    TripleFault,
    /// A valid instruction that this CPU does not implement.
    Unimplemented,
}

/// An exception (Intel SDM vol. 3, chapter 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// Vector, 0 to 31.
    pub vector: u8,
    /// Error code, for the vectors that push one.
    pub error_code: Option<u32>,
}

/// Vector numbers of exceptions.
#[allow(missing_docs, reason = "the SDM's mnemonics are the documentation")]
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const MC: u8 = 18;
    pub const XM: u8 = 19;
}

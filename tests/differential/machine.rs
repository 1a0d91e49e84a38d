//! What an instruction can read and write, and where: the same on both sides.

/// Two pages of code. What is not the instruction under test is INT3.
pub const CODE: u64 = 0x6000_0000;
pub const CODE_PAGES: usize = 2;
/// Three pages of data, the last one read-only. What lies around code and data is not mapped.
pub const DATA: u64 = 0x6010_0000;
pub const DATA_PAGES: usize = 3;
pub const PAGE: usize = 4096;
pub const DATA_BYTES: usize = DATA_PAGES * PAGE;
/// The base of GS; those of the others are 0, and FS is the thread's.
pub const GS_BASE: u64 = 0x2468_0000;

pub const RAX: usize = 0;
pub const RCX: usize = 1;
pub const RDX: usize = 2;
pub const RBX: usize = 3;
pub const RSP: usize = 4;
pub const RBP: usize = 5;
pub const RSI: usize = 6;
pub const RDI: usize = 7;

/// The image of FXSAVE in 64-bit mode.
#[repr(C, align(16))]
#[derive(Clone, PartialEq, Eq)]
pub struct Fx(pub [u8; 512]);

impl Fx {
    /// As after FNINIT, with MXCSR as after reset.
    pub fn new() -> Self {
        let mut fx = Self([0; 512]);
        fx.set_u16(0, 0x37f);
        fx.set_mxcsr(0x1f80);
        fx
    }

    pub fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    pub fn set_u16(&mut self, at: usize, value: u16) {
        self.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    pub fn mxcsr(&self) -> u32 {
        u32::from_le_bytes([self.0[24], self.0[25], self.0[26], self.0[27]])
    }

    pub fn set_mxcsr(&mut self, value: u32) {
        self.0[24..28].copy_from_slice(&value.to_le_bytes());
    }

    pub fn st(&self, n: usize) -> [u8; 10] {
        self.0[32 + 16 * n..42 + 16 * n].try_into().unwrap()
    }

    pub fn set_st(&mut self, n: usize, value: [u8; 10]) {
        self.0[32 + 16 * n..42 + 16 * n].copy_from_slice(&value);
    }

    pub fn xmm(&self, n: usize) -> u128 {
        u128::from_le_bytes(self.0[160 + 16 * n..176 + 16 * n].try_into().unwrap())
    }

    pub fn set_xmm(&mut self, n: usize, value: u128) {
        self.0[160 + 16 * n..176 + 16 * n].copy_from_slice(&value.to_le_bytes());
    }
}

/// An instruction and the state it starts from.
#[derive(Clone)]
pub struct Input {
    pub code: Vec<u8>,
    pub rip: u64,
    pub gpr: [u64; 16],
    pub rflags: u64,
    pub fx: Fx,
    pub data: Vec<u8>,
    /// Linear address of its memory operand, if it has one.
    pub target: u64,
    /// Arithmetic flags that are not compared.
    pub undefined: u64,
    /// Of the code: 64 or 32.
    pub bits: u32,
    /// 32-bit code is decoded as code of segments that are not all of the linear addresses.
    pub limited: bool,
    /// Executed outside the interpreter's block cache.
    pub stepped: bool,
}

impl Input {
    /// What is above 32 bits does not exist in 32-bit code.
    pub fn narrow(&mut self) {
        for register in &mut self.gpr {
            *register &= 0xffff_ffff;
        }
    }
}

/// The exception that ended it, which is #BP behind the instruction if that has completed.
#[derive(Clone)]
pub struct Outcome {
    pub vector: u8,
    pub error: u64,
    pub cr2: u64,
    pub rip: u64,
    pub gpr: [u64; 16],
    pub rflags: u64,
    pub fx: Fx,
    pub data: Vec<u8>,
}

/// `Outcome::vector` where the interpreter does not raise an exception at all.
pub const STOPPED: u8 = 0xf0;
pub const PANICKED: u8 = 0xf1;

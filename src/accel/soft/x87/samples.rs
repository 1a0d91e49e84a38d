//! Random operands and states for the tests.

use super::{EXPONENT, F80, INTEGER_BIT, QUIET_BIT, X87, convert};

/// A generator of numbers that lie where arithmetic has its edges.
pub(super) struct Random(u64);

impl Random {
    /// A seed from VM_ACCEL_TEST_SEED or the clock, which a failure prints.
    pub(super) fn seeded() -> Self {
        let seed = std::env::var("VM_ACCEL_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let clock = || std::time::UNIX_EPOCH.elapsed().map_or(1, |elapsed| elapsed.as_nanos() as u64);
        let seed = seed.unwrap_or_else(clock);
        println!("VM_ACCEL_TEST_SEED={seed}");
        Self(seed)
    }

    /// How often to try: what VM_ACCEL_TEST_ROUNDS says, or `default`.
    pub(super) fn rounds(default: u32) -> u32 {
        std::env::var("VM_ACCEL_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn mantissa(&mut self) -> u64 {
        match self.below(8) {
            0 => INTEGER_BIT,
            1 => u64::MAX,
            2 => u64::MAX << self.below(64),
            3 => INTEGER_BIT | self.next() >> self.below(64),
            4 => INTEGER_BIT | self.next() << self.below(64),
            5 => INTEGER_BIT | 1 << self.below(64) | 1 << self.below(64),
            _ => INTEGER_BIT | self.next(),
        }
    }

    pub(super) fn number(&mut self) -> F80 {
        let sign = (self.next() as u16) & 0x8000;
        let mantissa = self.mantissa();
        let exponent = match self.below(16) {
            0 => return F80::zero(sign != 0),
            1 => return F80::infinity(sign != 0),
            2 => return F80::new(sign | EXPONENT, mantissa),
            3 => return F80::new(sign | EXPONENT, mantissa & !QUIET_BIT | 1),
            // Denormals, pseudo-denormals and what is no number.
            4 => return F80::new(sign, mantissa >> self.below(64)),
            5 if self.below(4) == 0 => return F80::new(self.next() as u16, self.next()),
            5 | 6 => self.below(80),
            7 => 0x7fff - 1 - self.below(80),
            8 => 0x3fff + self.below(70),
            9 => self.below(0x7fff),
            10 => 0x3fff - 1022 - 60 + self.below(70),
            11 => 0x3fff + 1020 + self.below(8),
            12 => 0x3fff - 150 + self.below(30),
            _ => 0x3fff - 4 + self.below(8),
        };
        F80::new(sign | exponent as u16, mantissa)
    }

    pub(super) fn control(&mut self) -> u16 {
        let control = 0x40 | (self.next() as u16) & 0x1f00;
        match self.below(4) {
            0 => control | (self.next() as u16) & 0x3f,
            1 => control | 0x3f & !(1 << self.below(6)),
            _ => control | 0x3f,
        }
    }

    /// A state without pending exceptions.
    pub(super) fn state(&mut self) -> X87 {
        let mut x87 = X87 { control: self.control(), ..X87::default() };
        x87.status = (self.next() as u16) & !0x80ff | (self.next() as u16) & 0x7f & x87.control;
        x87.tag = match self.below(4) {
            0 => self.next() as u8,
            1 => !(1 << self.below(8)),
            _ => {
                // The upper half of the stack: what most instructions need.
                0x1fu8.rotate_left(u32::from(x87.status >> 11 & 7))
            }
        };
        for register in &mut x87.regs {
            *register = self.number();
        }
        if self.below(16) == 0 {
            let (a, b) = (self.below(8) as usize, self.below(8) as usize);
            x87.regs[a] = x87.regs[b];
        }
        x87
    }

    pub(super) fn memory(&mut self) -> [u8; 128] {
        let mut memory = [0; 128];
        for bytes in memory.chunks_exact_mut(8) {
            bytes.copy_from_slice(&self.next().to_le_bytes());
        }
        let a = self.number();
        match self.below(8) {
            0 => memory[..10].copy_from_slice(&a.to_bytes()),
            1 => memory[..10].copy_from_slice(&convert::to_bcd(0x37f, a).0),
            2 => memory[..8].copy_from_slice(&convert::to_double(0x37f, a).0.to_le_bytes()),
            3 => memory[..4].copy_from_slice(&convert::to_single(0x37f, a).0.to_le_bytes()),
            4 => memory[..4].copy_from_slice(&(self.next() as u32 & 0x807f_ffff).to_le_bytes()),
            5 => memory[..4].copy_from_slice(&(self.next() as u32 | 0x7f80_0000).to_le_bytes()),
            6 => memory[..8].copy_from_slice(&(self.next() & 0x800f_ffff_ffff_ffff).to_le_bytes()),
            _ => {}
        }
        memory
    }
}

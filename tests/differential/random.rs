//! Random values that are worth trying.

/// A splitmix generator.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 8) % n
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// An integer, often at a boundary of one of the operand sizes.
    pub fn integer(&mut self) -> u64 {
        const EDGES: [u64; 22] = [
            0,
            1,
            2,
            7,
            0x0f,
            0x10,
            0x7f,
            0x80,
            0xff,
            0x100,
            0x7fff,
            0x8000,
            0xffff,
            0x1_0000,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            0x1_0000_0000,
            0x7fff_ffff_ffff,
            0x8000_0000_0000,
            0x7fff_ffff_ffff_ffff,
            0x8000_0000_0000_0000,
        ];
        let edge = self.pick(&EDGES);
        match self.below(8) {
            0 | 1 => edge,
            2 => edge.wrapping_neg(),
            3 => edge.wrapping_add(self.below(5)).wrapping_sub(2),
            4 => self.below(70),
            5 => self.next() & self.next() & self.next(),
            _ => self.next(),
        }
    }

    fn single(&mut self) -> u32 {
        const EDGES: [u32; 14] = [
            0,
            1,
            0x7f_ffff,
            0x80_0000,
            0x3f80_0000,
            0x3f00_0000,
            0x4b80_0000,
            0x4f00_0000,
            0x5f00_0000,
            0x7f7f_ffff,
            0x7f80_0000,
            0x7f80_0001,
            0x7fc0_0000,
            0x4020_0000,
        ];
        let sign = self.next() as u32 & 0x8000_0000;
        sign ^ match self.below(3) {
            0 => self.pick(&EDGES),
            1 => 0x3f00_0000 + self.below(0x0200_0000) as u32,
            _ => self.next() as u32,
        }
    }

    fn double(&mut self) -> u64 {
        const EDGES: [u64; 14] = [
            0,
            1,
            0xf_ffff_ffff_ffff,
            0x10_0000_0000_0000,
            0x3ff0_0000_0000_0000,
            0x3fe0_0000_0000_0000,
            0x41e0_0000_0000_0000,
            0x43e0_0000_0000_0000,
            0x7fef_ffff_ffff_ffff,
            0x7ff0_0000_0000_0000,
            0x7ff0_0000_0000_0001,
            0x7ff8_0000_0000_0000,
            0x4330_0000_0000_0001,
            0x4004_0000_0000_0000,
        ];
        let sign = self.next() & 1 << 63;
        sign ^ match self.below(3) {
            0 => self.pick(&EDGES),
            1 => 0x3fe0_0000_0000_0000 + self.below(0x40_0000_0000_0000),
            _ => self.next(),
        }
    }

    /// Sixteen bytes of integers or numbers.
    pub fn vector(&mut self) -> u128 {
        let pair = |low: u64, high: u64| u128::from(low) | u128::from(high) << 64;
        match self.below(4) {
            0 => (0..4).fold(0, |v, n| v | u128::from(self.single()) << (32 * n)),
            1 => pair(self.double(), self.double()),
            2 => pair(self.integer(), self.integer()),
            _ => pair(self.next(), self.next()),
        }
    }

    /// A register of the x87 stack.
    pub fn extended(&mut self) -> [u8; 10] {
        const EDGES: [(u16, u64); 13] = [
            (0, 0),
            (0, 1),
            (0, 1 << 63),
            (1, 1 << 63),
            (0x3fff, 1 << 63),
            (0x3ffe, 1 << 63),
            (0x4000, 0xc90f_daa2_2168_c235),
            (0x403e, u64::MAX),
            (0x7ffe, u64::MAX),
            (0x7fff, 1 << 63),
            (0x7fff, 3 << 62),
            (0x7fff, 1 << 63 | 1),
            (0x4005, 1),
        ];
        let (exponent, mantissa) = match self.below(4) {
            0 | 1 => self.pick(&EDGES),
            2 => (0x3fe0 + self.below(0x40) as u16, self.next() | 1 << 63),
            _ => (self.next() as u16 & 0x7fff, self.next() | 1 << 63),
        };
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&mantissa.to_le_bytes());
        bytes[8..].copy_from_slice(&(exponent | (self.next() as u16) << 15).to_le_bytes());
        bytes
    }
}

//! Where the choices of a guest come from: the bytes of an input, and then a generator that they seed.

/// A splitmix generator.
struct Generator(u64);

impl Generator {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

/// Choices.
pub struct Source {
    input: Vec<u8>,
    used: usize,
    generator: Generator,
}

impl Source {
    /// The choices that `input` makes. Its first 8 bytes seed what it does not say.
    pub fn of_bytes(input: &[u8]) -> Self {
        let (seed, rest) = input.split_at(input.len().min(8));
        let mut bytes = [0; 8];
        bytes[..seed.len()].copy_from_slice(seed);
        Self { input: rest.to_vec(), used: 0, generator: Generator(u64::from_le_bytes(bytes)) }
    }

    /// The choices of a seed alone.
    #[allow(dead_code, reason = "a fuzzer gives bytes")]
    pub fn of_seed(seed: u64) -> Self {
        Self::of_bytes(&seed.to_le_bytes())
    }

    /// Choices that use up nothing of the input.
    pub fn background(&self) -> Self {
        Self { input: Vec::new(), used: 0, generator: Generator(!self.generator.0) }
    }

    /// Whether an input that said something has nothing more to say.
    pub fn is_used_up(&self) -> bool {
        !self.input.is_empty() && self.used == self.input.len()
    }

    /// The next bytes of the input, at most `most`.
    pub fn take(&mut self, most: usize) -> Vec<u8> {
        let bytes: Vec<u8> = self.input.iter().skip(self.used).take(most).copied().collect();
        self.used += bytes.len();
        bytes
    }

    pub fn next(&mut self) -> u64 {
        let bytes = self.take(8);
        if bytes.is_empty() {
            return self.generator.next();
        }
        bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    /// A number below `n`; of a small one a byte of the input decides.
    pub fn below(&mut self, n: u64) -> u64 {
        match self.take(usize::from(n <= 256)).first() {
            Some(byte) => u64::from(*byte) % n,
            None => (self.next() >> 8) % n,
        }
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// A register: small, an address in RAM, at an edge, or anything.
    pub fn value(&mut self) -> u64 {
        match self.below(6) {
            0 => self.below(256),
            1 | 2 => self.below(crate::guest::RAM),
            3 => {
                [u64::MAX, 1 << 63, 0xffff_ffff, 0x8000_0000, 0x7fff_ffff_ffff, 0xfff][self.below(6) as usize]
            }
            4 => self.below(1 << 32),
            _ => self.next(),
        }
    }
}

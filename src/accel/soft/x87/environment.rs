//! The images of FNSTENV, FLDENV, FNSAVE and FRSTOR (SDM vol. 1, figures 8-9 to 8-12).
#![forbid(unsafe_code)]

use super::{F80, X87};

/// Bytes of FNSAVE's image in its longest form.
pub(super) const IMAGE: usize = 108;

/// Bytes of the environment.
pub(super) const fn environment_bytes(wide: bool) -> u8 {
    if wide { 28 } else { 14 }
}

impl X87 {
    /// The full tag word: two bits for each physical register.
    pub(super) fn full_tag(&self) -> u16 {
        (0..8).rev().fold(0, |tags, i| {
            let register = self.regs[i];
            let tag = if self.tag >> i & 1 == 0 {
                3
            } else if register.is_zero() {
                1
            } else if register.is_nan()
                || register.is_infinite()
                || register.is_denormal()
                || register.is_unsupported()
            {
                2
            } else {
                0
            };
            tags << 2 | tag
        })
    }

    fn set_full_tag(&mut self, tags: u16) {
        self.tag = (0..8).fold(0, |tag, i| tag | u8::from(tags >> (2 * i) & 3 != 3) << i);
    }

    /// The environment, in the first 14 or 28 bytes.
    pub(super) fn environment(&self, wide: bool, real: bool) -> [u8; IMAGE] {
        let mut image = [0; IMAGE];
        let tags = self.full_tag();
        // In real mode the pointers are linear addresses.
        let ip = if real { self.ip.wrapping_add(u64::from(self.cs) << 4) } else { self.ip } as u32;
        let dp = if real { self.dp.wrapping_add(u64::from(self.ds) << 4) } else { self.dp } as u32;
        let opcode = self.opcode & 0x7ff;
        if wide {
            let high = 0xffff_0000;
            let words = [self.control, self.status, tags].map(|word| high | u32::from(word));
            let pointers = if real {
                [
                    high | ip & 0xffff,
                    (ip >> 16) << 12 | u32::from(opcode),
                    high | dp & 0xffff,
                    (dp >> 16) << 12,
                ]
            } else {
                [ip, u32::from(opcode) << 16 | u32::from(self.cs), dp, high | u32::from(self.ds)]
            };
            for (bytes, word) in image.chunks_exact_mut(4).zip(words.into_iter().chain(pointers)) {
                bytes.copy_from_slice(&word.to_le_bytes());
            }
        } else {
            let pointers = if real {
                [ip as u16, ((ip >> 16) as u16) << 12 | opcode, dp as u16, ((dp >> 16) as u16) << 12]
            } else {
                [ip as u16, self.cs, dp as u16, self.ds]
            };
            let words = [self.control, self.status, tags].into_iter().chain(pointers);
            for (bytes, word) in image.chunks_exact_mut(2).zip(words) {
                bytes.copy_from_slice(&word.to_le_bytes());
            }
        }
        image
    }

    /// Loads an environment of 14 or 28 bytes.
    pub(super) fn load_environment(&mut self, memory: &[u8], wide: bool, real: bool) {
        let word = |i: usize| {
            let at = if wide { 4 * i } else { 2 * i };
            let byte = |at: usize| u32::from(memory.get(at).copied().unwrap_or(0));
            let low = byte(at) | byte(at + 1) << 8;
            if wide { low | byte(at + 2) << 16 | byte(at + 3) << 24 } else { low }
        };
        self.status = word(1) as u16;
        self.set_full_tag(word(2) as u16);
        if real {
            let high = |word: u32| u64::from(word >> 12 << 16);
            self.ip = u64::from(word(3) & 0xffff) | high(word(4));
            self.opcode = word(4) as u16 & 0x7ff;
            self.dp = u64::from(word(5) & 0xffff) | high(word(6));
            self.cs = 0;
            self.ds = 0;
        } else {
            self.ip = u64::from(word(3));
            self.cs = word(4) as u16;
            self.dp = u64::from(word(5));
            self.ds = word(6) as u16;
            if wide {
                self.opcode = (word(4) >> 16) as u16 & 0x7ff;
            }
        }
        self.set_control(word(0) as u16);
    }

    /// FNSAVE's image: the environment, then ST0 to ST7.
    pub(super) fn image(&self, wide: bool, real: bool) -> [u8; IMAGE] {
        let mut image = self.environment(wide, real);
        let registers = &mut image[usize::from(environment_bytes(wide))..];
        for (i, bytes) in registers.chunks_exact_mut(10).take(8).enumerate() {
            bytes.copy_from_slice(&self.st(i).to_bytes());
        }
        image
    }

    /// FRSTOR.
    pub(super) fn load_image(&mut self, memory: &[u8], wide: bool, real: bool) {
        self.load_environment(memory, wide, real);
        let registers = memory.get(usize::from(environment_bytes(wide))..).unwrap_or(&[]);
        let (registers, _) = registers.as_chunks::<10>();
        for (i, &bytes) in registers.iter().take(8).enumerate() {
            let register = (self.top() + i) & 7;
            self.regs[register] = F80::from_bytes(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_of_the_environment_comes_back() {
        let mut x87 = X87 { status: 0x2800, opcode: 0x5c1, ip: 0x12345, dp: 0x6789a, ..X87::default() };
        x87.set_st(0, F80::ONE);
        x87.set_st(3, F80::ZERO);
        for (wide, real) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut expected = x87.clone();
            if !wide && !real {
                (expected.ip, expected.dp) = (0x2345, 0x789a);
                expected.opcode = 0;
            }
            let mut loaded = X87::default();
            loaded.load_image(&x87.image(wide, real), wide, real);
            assert_eq!(loaded, expected, "wide {wide}, real {real}");
        }
    }

    #[test]
    fn real_mode_pointers_are_linear() {
        let x87 = X87 { cs: 0x1234, ip: 0x10, ds: 0xf000, dp: 0xfff0, opcode: 0x123, ..X87::default() };
        let image = x87.environment(false, true);
        assert_eq!(image[6..14], [0x50, 0x23, 0x23, 0x11, 0xf0, 0xff, 0x00, 0xf0]);
    }
}

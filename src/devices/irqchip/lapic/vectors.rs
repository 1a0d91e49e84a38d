//! A set of interrupt vectors, as ISR, TMR and IRR hold them.

/// 256 bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Vectors([u32; 8]);

impl Vectors {
    fn position(vector: u8) -> (usize, u32) {
        (usize::from(vector >> 5), 1 << (vector & 31))
    }

    pub(super) fn contains(&self, vector: u8) -> bool {
        let (word, bit) = Self::position(vector);
        self.0[word] & bit != 0
    }

    pub(super) fn set(&mut self, vector: u8, value: bool) {
        let (word, bit) = Self::position(vector);
        if value {
            self.0[word] |= bit;
        } else {
            self.0[word] &= !bit;
        }
    }

    /// The highest vector in the set.
    pub(super) fn highest(&self) -> Option<u8> {
        let (index, word) = self.0.iter().enumerate().rfind(|(_, word)| **word != 0)?;
        u8::try_from(index * 32 + word.ilog2() as usize).ok()
    }

    /// 32 vectors, as a register shows them.
    pub(super) fn word(&self, index: u32) -> u32 {
        self.0[index as usize & 7]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(operations in prop::collection::vec((any::<u8>(), any::<bool>()), 0..64)) {
            let mut vectors = Vectors::default();
            let mut model = std::collections::BTreeSet::new();
            for (vector, value) in operations {
                vectors.set(vector, value);
                if value { model.insert(vector); } else { model.remove(&vector); }
                prop_assert_eq!(vectors.contains(vector), value);
                prop_assert_eq!(vectors.highest(), model.last().copied());
            }
        }
    }
}

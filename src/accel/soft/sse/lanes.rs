//! An XMM register as lanes of one width.

use std::array;

/// An array of lanes that fills an XMM register; lane 0 is the least significant.
pub trait Lanes: Copy {
    /// The lanes of `register`.
    fn split(register: u128) -> Self;
    /// The register that has these lanes.
    fn join(self) -> u128;
}

impl Lanes for [u8; 16] {
    fn split(register: u128) -> Self {
        register.to_le_bytes()
    }

    fn join(self) -> u128 {
        u128::from_le_bytes(self)
    }
}

/// A macro because a transmutation needs concrete types.
macro_rules! lanes {
    ($($lane:ty, $count:literal;)*) => {$(
        impl Lanes for [$lane; $count] {
            fn split(register: u128) -> Self {
                // SAFETY: both types have 16 bytes, and every bit pattern is a valid integer.
                let mut lanes = unsafe { std::mem::transmute::<u128, Self>(register) };
                if cfg!(target_endian = "big") {
                    lanes.reverse();
                }
                lanes
            }

            fn join(mut self) -> u128 {
                if cfg!(target_endian = "big") {
                    self.reverse();
                }
                // SAFETY: as above.
                unsafe { std::mem::transmute::<Self, u128>(self) }
            }
        }
    )*};
}

lanes! {
    i8, 16;
    u16, 8; i16, 8;
    u32, 4; i32, 4;
    u64, 2; i64, 2;
}

/// Applies `f` to each lane of a register.
pub fn map<T: Copy, const N: usize>(a: u128, f: impl Fn(T) -> T) -> u128
where
    [T; N]: Lanes,
{
    <[T; N]>::split(a).map(f).join()
}

/// Applies `f` to each pair of corresponding lanes of two registers.
pub fn zip<T: Copy, const N: usize>(a: u128, b: u128, f: impl Fn(T, T) -> T) -> u128
where
    [T; N]: Lanes,
{
    let (a, b) = (<[T; N]>::split(a), <[T; N]>::split(b));
    array::from_fn::<T, N, _>(|i| f(a[i], b[i])).join()
}

/// The register whose lane `i` is `f(i)`.
pub fn build<T: Copy, const N: usize>(f: impl FnMut(usize) -> T) -> u128
where
    [T; N]: Lanes,
{
    array::from_fn::<T, N, _>(f).join()
}

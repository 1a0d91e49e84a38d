//! The macros of the register tables: they write what would otherwise be written once a register.

/// Declares a struct of registers that are all of one type, and its table of names.
///
/// ```ignore
/// reg_map! {
///     /// Doc.
///     pub struct Pair: u64 { rax, rbx }
/// }
/// ```
/// gives `struct Pair { pub rax: u64, pub rbx: u64 }` with `Pair::NAMES` and `Pair::iter()`, which
/// yields `(name, value)` in the order of the declaration, and with `Pair::try_from_fn(read)`.
macro_rules! reg_map {
    ($(#[$meta:meta])* pub struct $name:ident: $ty:ty { $($(#[$fmeta:meta])* $reg:ident),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[allow(missing_docs, reason = "a register's name is its documentation")]
        pub struct $name { $($(#[$fmeta])* pub $reg: $ty),+ }

        impl $name {
            /// The registers' names, in the order of the declaration.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($reg)),+];

            /// The registers that `read` gives for their numbers, which count the declaration from 0.
            ///
            /// # Errors
            /// The first of `read`'s.
            pub fn try_from_fn<E>(mut read: impl FnMut(usize) -> Result<$ty, E>) -> Result<Self, E> {
                let mut numbers = 0..;
                Ok(Self { $($reg: read(numbers.next().unwrap_or_default())?),+ })
            }

            /// The registers by name, in the order of the declaration.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, $ty)> + '_ {
                Self::NAMES.iter().copied().zip([$(self.$reg),+])
            }
        }
    };
}

/// Declares the conversions between a neutral register struct and a platform's, field by field, where
/// both use the same names. `..expr` gives the platform's remaining fields (padding).
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
macro_rules! impl_reg_accessors {
    ($neutral:ty, $foreign:ty { $($reg:ident),+ $(,)? } $(.. $rest:expr)?) => {
        impl From<&$foreign> for $neutral {
            fn from(from: &$foreign) -> Self {
                Self { $($reg: from.$reg),+ }
            }
        }

        impl From<&$neutral> for $foreign {
            fn from(from: &$neutral) -> Self {
                Self { $($reg: from.$reg),+ $(, ..$rest)? }
            }
        }
    };
}

/// Declares how a neutral register struct is read from and written to a platform that has a call a register:
/// each register with the platform's name for it. The calls may fail, and the first failure is the answer.
#[cfg(any(target_os = "macos", test))]
macro_rules! impl_reg_calls {
    ($neutral:ty, $name:ty { $($reg:ident = $number:expr),+ $(,)? }) => {
        impl $neutral {
            /// Reads every register by `read`.
            pub(crate) fn read_each<E>(mut read: impl FnMut($name) -> Result<u64, E>) -> Result<Self, E> {
                Ok(Self { $($reg: read($number)?),+ })
            }

            /// Writes every register by `write`.
            pub(crate) fn write_each<E>(
                &self,
                mut write: impl FnMut($name, u64) -> Result<(), E>,
            ) -> Result<(), E> {
                $(write($number, self.$reg)?;)+
                Ok(())
            }
        }
    };
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(crate) use impl_reg_accessors;
#[cfg(any(target_os = "macos", test))]
pub(crate) use impl_reg_calls;
pub(crate) use reg_map;

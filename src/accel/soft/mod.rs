//! The software x86-64 CPU: runs guests where there is no hypervisor.

pub mod abort;
pub mod fxsave;
pub mod sse;
pub mod state;
pub mod x87;

mod placeholder;
pub use placeholder::{SoftBackend, SoftVcpu};

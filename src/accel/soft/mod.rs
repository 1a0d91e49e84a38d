//! The software x86-64 CPU: runs guests where there is no hypervisor.

pub mod abort;
pub mod cache;
mod decode;
pub mod execute;
pub mod flags;
pub mod fxsave;
pub mod integer;
pub mod memory;
pub mod mmu;
pub mod op;
pub mod ram;
pub mod run;
pub mod sse;
pub mod state;
pub mod system;
pub mod x87;

mod placeholder;
pub use placeholder::{SoftBackend, SoftVcpu};

//! The software x86-64 CPU: runs guests where there is no hypervisor.

pub mod abort;
mod backend;
pub mod cache;
pub mod coherence;
mod decode;
mod emulator;
pub mod execute;
pub mod flags;
pub mod fxsave;
mod host_access;
pub mod integer;
pub mod memory;
pub mod mmu;
pub mod op;
pub mod ram;
mod returns;
pub mod run;
pub mod sse;
pub mod state;
pub mod system;
#[cfg(test)]
mod tests;
mod vcpu;
mod wakeup;
pub mod x87;

pub use backend::SoftBackend;
pub use emulator::{Access, Emulator, Registers, Step};
pub use ram::HostRange;
pub use vcpu::SoftVcpu;
#[cfg(all(target_os = "macos", target_arch = "x86_64"))]
pub(in crate::accel) use wakeup::Alarm;

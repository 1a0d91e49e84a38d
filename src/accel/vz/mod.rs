//! The VZ backend: macOS's Virtualization.framework. It takes a whole machine, with devices of its own: a
//! Linux kernel, a virtio console, a virtio source of entropy.

#[cfg(target_os = "macos")]
mod backend;
#[cfg(target_os = "macos")]
mod machine;
pub mod plan;

#[cfg(target_os = "macos")]
pub use backend::{NoVcpu, VzBackend};
#[cfg(target_os = "macos")]
pub use machine::GUEST;

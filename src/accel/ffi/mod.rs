//! Foreign declarations, one file a platform, and nothing else.

#[cfg(any(target_os = "macos", test))]
pub mod hvf;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod kvm;
pub mod whpx;

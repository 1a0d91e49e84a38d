//! The kernel's command line in guest memory.
#![forbid(unsafe_code)]

use super::LoadRequest;
use super::error::LoadError;
use super::image::write;
use super::layout::{self, Placement};
use crate::config::DEFAULT_LINUX_CMDLINE;

/// The limit for kernels that do not say theirs, in bytes.
pub const MAX: usize = 0xFFFF;

/// Checks a string and answers it with a NUL behind it.
pub fn terminated(what: &str, string: &str) -> Result<Vec<u8>, LoadError> {
    if string.contains('\0') {
        return Err(LoadError::Nul { what: what.to_owned() });
    }
    let mut bytes = string.as_bytes().to_vec();
    bytes.push(0);
    Ok(bytes)
}

/// Writes the command line of a kernel that is, or may be, Linux, and answers its address.
pub fn load(request: &LoadRequest, placement: &mut Placement<'_>, limit: usize) -> Result<u32, LoadError> {
    write_text(request, request.cmdline.unwrap_or(DEFAULT_LINUX_CMDLINE), placement, limit)
}

/// Writes the command line of a Multiboot kernel and answers its address: the kernel's file name, as its
/// first argument, and what the user gave.
pub fn load_named(request: &LoadRequest, placement: &mut Placement<'_>) -> Result<u32, LoadError> {
    let text = format!("{} {}", request.kernel.name(), request.cmdline.unwrap_or_default());
    write_text(request, text.trim_end(), placement, MAX)
}

fn write_text(
    request: &LoadRequest,
    text: &str,
    placement: &mut Placement<'_>,
    limit: usize,
) -> Result<u32, LoadError> {
    let bytes = terminated("the command line", text)?;
    if text.len() > limit.min(MAX) {
        return Err(LoadError::CmdlineTooLong {
            name: request.kernel.name().to_owned(),
            bytes: text.len(),
            limit: limit.min(MAX),
        });
    }
    let gpa = placement.place("the command line", layout::CMDLINE, bytes.len() as u64)?;
    write(request.memory, gpa, &bytes)?;
    Ok(gpa as u32)
}

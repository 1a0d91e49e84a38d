//! The kernel's command line in guest memory.
#![forbid(unsafe_code)]

use super::LoadRequest;
use super::error::LoadError;
use super::image::write;
use super::layout::{self, Placement};

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

/// Writes the command line to guest memory and answers its address.
pub fn load(request: &LoadRequest, placement: &mut Placement<'_>, limit: usize) -> Result<u32, LoadError> {
    let bytes = terminated("the command line", request.cmdline)?;
    if request.cmdline.len() > limit.min(MAX) {
        return Err(LoadError::CmdlineTooLong {
            name: request.kernel.name().to_owned(),
            bytes: request.cmdline.len(),
            limit: limit.min(MAX),
        });
    }
    let gpa = placement.place("the command line", layout::CMDLINE, bytes.len() as u64)?;
    write(request.memory, gpa, &bytes)?;
    Ok(gpa as u32)
}

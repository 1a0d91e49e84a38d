//! The initial RAM disk and modules: files, or content that lies in memory, that
//! go into guest memory as they are.
#![forbid(unsafe_code)]

use super::LoadRequest;
use super::cmdline;
use super::error::LoadError;
use super::image::KernelImage;
use super::layout::Placement;
use crate::config::Module;

/// A file in guest memory, below 4 GiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Guest-physical address.
    pub gpa: u32,
    /// Length in bytes.
    pub bytes: u32,
    /// The string that goes with a module, and a NUL; empty for the initrd.
    pub string: Vec<u8>,
}

/// Copies the initrd to the highest free pages that end at `limit` or below.
pub fn load(
    request: &LoadRequest,
    placement: &mut Placement<'_>,
    limit: u64,
) -> Result<Option<Loaded>, LoadError> {
    let Some(image) = request.initrd else { return Ok(None) };
    let what = format!("the initrd {}", image.name());
    let gpa = placement.place_below(&what, limit, image.len())?;
    copy(request, image, gpa, Vec::new()).map(Some)
}

/// Copies the modules to the lowest free pages from `floor` on.
pub fn load_modules(
    request: &LoadRequest,
    placement: &mut Placement<'_>,
    floor: u64,
) -> Result<Vec<Loaded>, LoadError> {
    let modules = request.modules.iter();
    let load = |module: &Module| {
        load_module(request, placement, floor, &KernelImage::open(&module.path)?, &module.cmdline)
    };
    modules.map(load).collect()
}

/// Copies one module to the lowest free pages from `floor` on.
pub fn load_module(
    request: &LoadRequest,
    placement: &mut Placement<'_>,
    floor: u64,
    image: &KernelImage,
    string: &str,
) -> Result<Loaded, LoadError> {
    let what = format!("the module {}", image.name());
    let string = cmdline::terminated(&format!("the string of {what}"), string)?;
    let gpa = placement.place_above(&what, floor, image.len())?;
    copy(request, image, gpa, string)
}

fn copy(request: &LoadRequest, image: &KernelImage, gpa: u64, string: Vec<u8>) -> Result<Loaded, LoadError> {
    image.copy_to(request.memory, gpa, 0, image.len())?;
    // `Placement` gives no room behind 4 GiB.
    Ok(Loaded { gpa: gpa as u32, bytes: image.len() as u32, string })
}

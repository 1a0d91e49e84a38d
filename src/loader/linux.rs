//! Linux's boot protocol behind the real-mode setup: the 64-bit and the 32-bit entry (Linux:
//! Documentation/arch/x86/boot.rst). Kernels that are not Linux are started like this too where no
//! other protocol applies.
#![forbid(unsafe_code)]

use std::fmt;

use super::LoadRequest;
use super::boot_params::{self, Contents};
use super::error::LoadError;
use super::layout::{self, Placement, memory_map};
use super::{cmdline, initrd, start};
use crate::accel::{X86Regs, X86SpecialRegs};
use crate::memory::PAGE_SIZE;

/// The mode in which an entry point is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// 32-bit protected mode, paging off.
    Protected,
    /// Long mode, identity-mapped.
    Long,
}

impl fmt::Display for Width {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Protected => "32-bit entry",
            Self::Long => "64-bit entry",
        })
    }
}

/// A kernel in guest memory.
pub struct Kernel<'a> {
    /// Guest-physical address of the entry point.
    pub entry: u64,
    /// The entry point's mode.
    pub width: Width,
    /// The bzImage's setup header, or empty.
    pub setup_header: &'a [u8],
    /// Where a bzImage's 32-bit code lies, or 0.
    pub code32_start: u32,
    /// Where the initrd must end.
    pub initrd_limit: u64,
    /// The longest command line in bytes.
    pub cmdline_limit: usize,
}

/// Gives the kernel its zero page, command line, initrd and a stack, and answers its start state.
pub fn boot(
    request: &LoadRequest,
    placement: &mut Placement<'_>,
    kernel: &Kernel<'_>,
) -> Result<(X86Regs, X86SpecialRegs), LoadError> {
    if !request.modules.is_empty() {
        return Err(LoadError::Unsupported {
            name: request.kernel.name().to_owned(),
            reason: "its boot protocol has no modules".to_owned(),
            remedy: "Leave `--module` out, or give a Multiboot or PVH kernel",
        });
    }
    let memory = request.memory;
    let zero_page = placement.place("the zero page", layout::ZERO_PAGE, PAGE_SIZE)?;
    let (mut regs, special) = match (kernel.width, u32::try_from(kernel.entry)) {
        (Width::Long, _) if kernel.entry < start::IDENTITY_MAP_MAX => {
            start::long_mode(memory, placement, kernel.entry)?
        }
        (Width::Protected, Ok(entry)) => start::protected_mode(memory, placement, entry)?,
        _ => {
            return Err(LoadError::Unsupported {
                name: request.kernel.name().to_owned(),
                reason: format!("its entry point {:#x} cannot be reached", kernel.entry),
                remedy: "Link it below 4 GiB",
            });
        }
    };
    regs.rsi = zero_page;
    let cmdline = cmdline::load(request, placement, kernel.cmdline_limit)?;
    regs.rsp = start::stack(placement)?;
    let initrd = initrd::load(request, placement, kernel.initrd_limit)?;
    let contents = Contents {
        setup_header: kernel.setup_header,
        code32_start: kernel.code32_start,
        cmdline,
        initrd: initrd.map(|initrd| (initrd.gpa, initrd.bytes)),
        rsdp: request.rsdp,
        map: &memory_map(memory),
    };
    boot_params::write_zero_page(memory, zero_page, &contents)?;
    Ok((regs, special))
}

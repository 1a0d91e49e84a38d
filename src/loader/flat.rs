//! Flat binaries: the file's bytes at an address, started there.
#![forbid(unsafe_code)]

use super::error::LoadError;
use super::layout::Placement;
use super::linux::{self, Kernel, Width};
use super::{LoadRequest, cmdline, start};
use crate::accel::{X86Regs, X86SpecialRegs};
use crate::config::{Flat, FlatMode};
use crate::memory::MMIO_HOLE_START;

/// Real mode reaches addresses below this.
const REAL_MODE_END: u64 = 1 << 20;
/// `dl` of a BIOS that boots from its first hard disk.
const FIRST_HARD_DISK: u64 = 0x80;

/// Copies the file to its address and answers the start state.
///
/// In real mode the entry is `0000:address` below 64 KiB and `address >> 4` : `address & 15` above,
/// `dl` is 0x80, and the stack is below 0x7C00 as under a BIOS, or below 0x90000 if the file is there.
/// In long mode memory is identity-mapped, rsp is a stack, and rsi has Linux's zero page, so that the
/// memory map, the command line and the initrd can be found.
pub fn load(
    request: &LoadRequest,
    placement: &mut Placement<'_>,
    flat: Flat,
) -> Result<(X86Regs, X86SpecialRegs), LoadError> {
    let image = &request.kernel;
    let refused =
        |reason: String, remedy| LoadError::Unsupported { name: image.name().to_owned(), reason, remedy };
    let real = flat.mode == FlatMode::Real;
    if real && flat.address >= REAL_MODE_END {
        let reason = format!("real mode cannot start at {:#x}", flat.address);
        return Err(refused(reason, "Give an address below 1 MiB, or start it in long mode"));
    }
    if real && (request.initrd.is_some() || !request.modules.is_empty()) {
        let reason = "a flat binary in real mode cannot be told of an initrd or modules".to_owned();
        return Err(refused(reason, "Leave `--initrd` and `--module` out"));
    }
    placement.fix(image.name(), flat.address, image.len())?;
    image.copy_to(request.memory, flat.address, 0, image.len())?;
    if !real {
        let kernel = Kernel {
            entry: flat.address,
            width: Width::Long,
            setup_header: &[],
            code32_start: 0,
            initrd_limit: MMIO_HOLE_START,
            cmdline_limit: cmdline::MAX,
        };
        return linux::boot(request, placement, &kernel);
    }
    let (cs, ip) = match u16::try_from(flat.address) {
        Ok(ip) => (0, ip),
        Err(_) => ((flat.address >> 4) as u16, (flat.address & 0xF) as u16),
    };
    let end = flat.address + image.len();
    let stack_is_free = end <= 0x7000 || flat.address >= 0x7C00;
    let (ss, sp) = if stack_is_free { (0, 0x7C00) } else { (0x8000, 0xFFF0) };
    let (mut regs, special) = start::real_mode(cs, ip, ss, sp);
    regs.rdx = FIRST_HARD_DISK;
    Ok((regs, special))
}

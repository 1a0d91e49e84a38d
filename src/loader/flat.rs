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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::load;
    use crate::loader::testing::{memory, read, registers, request};

    fn start(address: u64, mode: FlatMode) -> Result<(X86Regs, X86SpecialRegs), LoadError> {
        let memory = memory(4);
        let flat = Some(Flat { address, mode });
        let state = load(&LoadRequest { flat, ..request(vec![0xF4; 600], &memory) })?;
        assert_eq!(read(&memory, address, 600), [0xF4; 600]);
        Ok(registers(&state))
    }

    #[test]
    fn real_mode_reaches_the_address() {
        for (address, cs, ip) in [
            (0, 0, 0),
            (0x7C00, 0, 0x7C00),
            (0xFFF0, 0, 0xFFF0),
            (0x1_0000, 0x1000, 0),
            (0xF_0005, 0xF000, 5),
        ] {
            let (regs, special) = start(address, FlatMode::Real).unwrap();
            assert_eq!((special.cs.selector, regs.rip), (cs, ip));
            assert_eq!(special.cs.base + regs.rip, address);
            assert_eq!((special.cr0 & 1, special.ss.base + regs.rsp, regs.rdx), (0, 0x7C00, 0x80));
        }
        let (regs, special) = start(0x7A00, FlatMode::Real).unwrap();
        assert_eq!(special.ss.base + regs.rsp, 0x8_FFF0);
        assert!(matches!(start(0x10_0000, FlatMode::Real), Err(LoadError::Unsupported { .. })));
    }

    #[test]
    fn long_mode_reaches_any_address_in_ram() {
        for address in [0, 0x500, 0x7000, 0x9000, 0x8_FF00, 0x10_0000, 0x3F_FDA8] {
            let (regs, special) = start(address, FlatMode::Long).unwrap();
            assert_eq!((regs.rip, special.efer), (address, 0x500));
            assert_eq!(regs.rsp % 16, 0);
        }
        for address in [0x3F_FDA9, 0x40_0000, u64::MAX] {
            assert!(matches!(start(address, FlatMode::Long), Err(LoadError::OutsideMemory { .. })));
        }
    }

    #[test]
    fn real_mode_has_no_initrd() {
        let memory = memory(4);
        let flat = Some(Flat { address: 0x7C00, mode: FlatMode::Real });
        let initrd = crate::loader::KernelImage::memory("the initrd", [0].as_slice());
        let initrd = Some(&initrd);
        let error = load(&LoadRequest { flat, initrd, ..request(vec![0xF4], &memory) }).unwrap_err();
        assert!(error.to_string().contains("--initrd"), "{error}");
    }
}

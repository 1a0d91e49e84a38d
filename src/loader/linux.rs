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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::testing::{
        elf32, elf64, memory, multiboot_header, part, read, read_string, read_u32, registers, request,
        try_load,
    };
    use crate::loader::{LoadError, load};

    #[test]
    fn an_elf64_without_more_is_started_in_long_mode() {
        let memory = memory(4);
        let file = elf64(0x10_0010, &[part(0x10_0000, &[0x90; 64])], None);
        let state = load(&request(file, &memory)).unwrap();
        let (regs, special) = registers(&state);
        assert_eq!(state.protocol, "ELF through its 64-bit entry");
        assert_eq!((regs.rip, special.efer, special.cs.l), (0x10_0010, 0x500, true));
        assert_eq!((regs.rsi, regs.rsp), (layout::ZERO_PAGE, layout::STACK + layout::STACK_BYTES));
        assert_eq!(read(&memory, regs.rsi + 0x1FE, 2), [0x55, 0xAA]);
        assert_eq!(read(&memory, regs.rsi + 0x202, 4), b"HdrS");
        assert_eq!(read_string(&memory, read_u32(&memory, regs.rsi + 0x228).into()), "console=ttyS0");
    }

    #[test]
    fn an_elf32_without_more_is_started_in_protected_mode() {
        let state = try_load(elf32(0x10_0010, &[part(0x10_0000, &[0x90; 64])]), 4).unwrap();
        let (regs, special) = registers(&state);
        assert_eq!(state.protocol, "ELF through its 32-bit entry");
        assert_eq!((regs.rip, special.cr0, special.efer), (0x10_0010, 0x11, 0));
    }

    #[test]
    fn modules_need_another_protocol() {
        let memory = memory(4);
        let module = crate::config::Module { path: "x".into(), cmdline: String::new() };
        let file = elf64(0x10_0010, &[part(0x10_0000, &[0x90; 64])], None);
        let error = load(&LoadRequest { modules: &[module], ..request(file, &memory) }).unwrap_err();
        assert!(error.to_string().contains("--module"), "{error}");
    }

    #[test]
    fn a_kernel_with_only_a_multiboot2_header_is_refused() {
        let words = [0xE852_50D6_u32, 0, 16, 0_u32.wrapping_sub(0xE852_50D6 + 16)];
        let mut content: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let error = |content: &[u8]| try_load(elf64(0x10_0000, &[part(0x10_0000, content)], None), 4);
        assert!(error(&content).unwrap_err().to_string().contains("Multiboot 2"));
        // With a Multiboot 1 header beside it, that one is used.
        content.extend(multiboot_header(0, &[]));
        assert_eq!(error(&content).unwrap().protocol, "Multiboot ELF");
        assert!(matches!(try_load(content[..16].to_vec(), 4), Err(LoadError::UnknownFormat { .. })));
    }
}

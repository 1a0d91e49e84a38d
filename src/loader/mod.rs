//! Puts a kernel into guest memory and says in which state the boot processor starts.
//!
//! A loader answers with a neutral `BootState`; it touches no vCPU and no device. The format is found
//! out by the content:
//!
//! 1. A file that the user says is flat is loaded as `flat` tells.
//! 2. ELF32: Multiboot if it has a header, else PVH if it has the note, else the 32-bit boot protocol
//!    at its entry point.
//! 3. ELF64: PVH if it has the note, else Multiboot if it has a header, else the 64-bit boot protocol
//!    at its entry point, be it Linux or not. (PVH goes first here because Multiboot does not know
//!    ELF64; other loaders refuse it.)
//! 4. bzImage: the vmlinux inside, decompressed here, as an ELF file; else its own 64-bit or 32-bit
//!    entry point.
//! 5. Multiboot with address fields.
//!
//! `guest_arch` tells AArch64 kernels from these; `arm64` loads them.
//!
//! Nothing that a file says is trusted: every length, offset and address is checked against the file
//! and guest memory, and nothing of ours is put where the image lies.
#![forbid(unsafe_code)]

pub mod arm64;
mod bios_area;
mod boot_params;
mod bzimage;
mod cmdline;
mod decompress;
mod elf;
mod error;
mod flat;
mod image;
mod initrd;
mod inspect;
pub mod layout;
mod linux;
mod multiboot;
mod packed;
mod pvh;
mod start;
#[cfg(test)]
mod testing;
mod version;

use crate::accel::{GuestArch, GuestRegs, SpecialRegs, X86Regs, X86SpecialRegs};
use crate::config::{Flat, FlatMode, Module};
use crate::memory::{GuestMemory, MMIO_HOLE_START};
use bzimage::BzImage;
use elf::{Class, Elf};
pub use error::LoadError;
pub use image::KernelImage;
pub use inspect::{EntryPoint, Inspection, SegmentInfo, inspect, inspect_image};
use layout::Placement;
use linux::{Kernel, Width};
use multiboot::{Header, Multiboot};
pub use packed::unpack;

/// Bytes of the file's beginning that tell its format; a bzImage's setup header and a Multiboot header
/// lie within.
const HEAD_BYTES: usize = multiboot::SEARCH_BYTES;

/// The state in which the boot processor starts, and what is known of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootState {
    /// General registers.
    pub regs: GuestRegs,
    /// Segment, control and system registers; `None` is their state after reset.
    pub special: Option<SpecialRegs>,
    /// How the kernel is booted, in words: "bzImage, vmlinux inside through its PVH note".
    pub protocol: String,
    /// The kernel's version string, where the file has one.
    pub version: Option<String>,
    /// The kernel's protocol is one of a PC with a BIOS, whose data area and handlers are in memory: its
    /// timer ticks.
    pub bios: bool,
}

/// What to load, and into which memory.
pub struct LoadRequest<'a> {
    /// The kernel.
    pub kernel: KernelImage,
    /// The initial RAM disk; Multiboot kernels get it as their first module.
    pub initrd: Option<&'a KernelImage>,
    /// The user's kernel command line. Without one, a Linux kernel gets `DEFAULT_LINUX_CMDLINE` and a
    /// Multiboot kernel just its own name.
    pub cmdline: Option<&'a str>,
    /// Modules for Multiboot and PVH kernels.
    pub modules: &'a [Module],
    /// The kernel is a flat binary.
    pub flat: Option<Flat>,
    /// Decompress a bzImage here and boot the vmlinux inside.
    pub decompress: bool,
    /// Guest RAM, fresh and zero.
    pub memory: &'a GuestMemory,
    /// Guest-physical address of the ACPI RSDP. Whoever gives it writes the tables, to
    /// `layout::ACPI_BYTES` bytes at `layout::ACPI`.
    pub rsdp: Option<u64>,
}

/// Registers, and the protocol in words.
type Started = (X86Regs, X86SpecialRegs, String);

/// The architecture that a kernel is for. What is no kernel at all is left to x86-64's loader, which says so.
///
/// # Errors
/// When the file cannot be read, or is a damaged AArch64 ELF file.
pub fn guest_arch(image: &KernelImage) -> Result<GuestArch, LoadError> {
    let is_arm64 =
        elf::machine(&image.head(64)?) == Some(elf::EM_AARCH64) || arm64::Format::of(image)?.is_some();
    Ok(if is_arm64 { GuestArch::Aarch64 } else { GuestArch::X86_64 })
}

/// Loads an x86-64 kernel and what goes with it into guest memory.
///
/// # Errors
/// When a file cannot be read or is damaged, or does not fit into guest memory.
pub fn load(request: &LoadRequest) -> Result<BootState, LoadError> {
    let image = &request.kernel;
    let mut placement = Placement::new(request.memory, request.rsdp.is_some());
    let mut version = None;
    let mut bios = false;
    let (regs, special, protocol) = if let Some(flat) = request.flat {
        let (regs, special) = flat::load(request, &mut placement, flat)?;
        let mode = if flat.mode == FlatMode::Real { "real" } else { "long" };
        (regs, special, format!("flat binary in {mode} mode"))
    } else {
        match Format::of(image)? {
            Format::Elf(elf, header) => load_elf(request, &mut placement, &elf, header.as_ref(), &mut bios)?,
            Format::BzImage(bzimage) => {
                version.clone_from(&bzimage.version);
                load_bzimage(request, &bzimage)?
            }
            Format::Multiboot(header) => {
                let (regs, special) = Multiboot::new(image, &header, None)?.boot(request, &mut placement)?;
                bios = true;
                (regs, special, "Multiboot by its address fields".to_owned())
            }
        }
    };
    log::debug!("{}: {protocol}, entry {:#x}", image.name(), regs.rip);
    let (regs, special) = (GuestRegs::X86_64(regs), Some(SpecialRegs::X86_64(special)));
    Ok(BootState { regs, special, protocol, version, bios })
}

/// What a file is, with its headers checked.
enum Format {
    Elf(Elf, Option<Header>),
    BzImage(BzImage),
    Multiboot(Header),
}

impl Format {
    fn of(image: &KernelImage) -> Result<Self, LoadError> {
        let head = image.head(HEAD_BYTES)?;
        if head.starts_with(elf::MAGIC) {
            let header = Header::find(image, &head)?;
            return match (Elf::parse(image, &head, GuestArch::X86_64), header) {
                (Ok(elf), header) => Ok(Self::Elf(elf, header)),
                // Address fields stand for themselves.
                (Err(_), Some(header)) if header.addresses.is_some() => Ok(Self::Multiboot(header)),
                (Err(e), _) => Err(e),
            };
        }
        if bzimage::is_bzimage(&head) {
            return BzImage::parse(image, &head).map(Self::BzImage);
        }
        if let Some(header) = Header::find(image, &head)? {
            return Ok(Self::Multiboot(header));
        }
        Err(LoadError::UnknownFormat { name: image.name().to_owned(), found: describe(&head) })
    }
}

/// How an ELF file is booted.
enum ElfBoot {
    Pvh(u32),
    Multiboot(Multiboot),
    Linux(Width),
}

impl ElfBoot {
    fn choose(
        image: &KernelImage,
        elf: &Elf,
        header: Option<&Header>,
        pvh: Option<u32>,
    ) -> Result<Self, LoadError> {
        let pvh = pvh.map(Self::Pvh);
        let multiboot = || header.map(|header| Multiboot::new(image, header, Some(elf)).map(Self::Multiboot));
        let chosen = match elf.class {
            Class::Elf32 => multiboot().transpose()?.or(pvh),
            Class::Elf64 => pvh.map_or_else(multiboot, |pvh| Some(Ok(pvh))).transpose()?,
        };
        match chosen {
            Some(chosen) => Ok(chosen),
            None => elf.checked_entry(image.name()).map(|_| Self::Linux(width(elf.class))),
        }
    }
}

fn load_elf(
    request: &LoadRequest,
    placement: &mut Placement<'_>,
    elf: &Elf,
    header: Option<&Header>,
    bios: &mut bool,
) -> Result<Started, LoadError> {
    let image = &request.kernel;
    let pvh = pvh_entry(image, elf)?;
    let boot = ElfBoot::choose(image, elf, header, pvh)?;
    refuse_multiboot2(image, &boot)?;
    match boot {
        ElfBoot::Multiboot(multiboot) => {
            let (regs, special) = multiboot.boot(request, placement)?;
            *bios = true;
            Ok((regs, special, "Multiboot ELF".to_owned()))
        }
        ElfBoot::Pvh(entry) => {
            elf.load(image, request.memory, placement)?;
            let (regs, special) = pvh::boot(request, placement, elf, entry, cmdline::MAX)?;
            Ok((regs, special, "ELF through its PVH note".to_owned()))
        }
        ElfBoot::Linux(width) => {
            elf.load(image, request.memory, placement)?;
            let kernel = Kernel {
                entry: elf.entry,
                width,
                setup_header: &[],
                code32_start: 0,
                initrd_limit: MMIO_HOLE_START,
                cmdline_limit: cmdline::MAX,
            };
            let (regs, special) = linux::boot(request, placement, &kernel)?;
            Ok((regs, special, format!("ELF through its {width}")))
        }
    }
}

/// The PVH entry point, unless it is for Xen only.
fn pvh_entry(image: &KernelImage, elf: &Elf) -> Result<Option<u32>, LoadError> {
    let Some(entry) = elf.find_note(image, pvh::entry)? else {
        return Ok(None);
    };
    let is_linux = elf.find_note(image, |note| pvh::is_linux(note).then_some(()))?.is_some();
    let version = if is_linux { version::banner(image.name(), image.reader(0, image.len()))? } else { None };
    Ok(Some(entry).filter(|_| pvh::is_for_all(version.as_deref())))
}

/// Without another way to boot it, a kernel with a Multiboot 2 header would be started by a protocol
/// that it does not know.
fn refuse_multiboot2(image: &KernelImage, boot: &ElfBoot) -> Result<(), LoadError> {
    if matches!(boot, ElfBoot::Linux(_)) && multiboot::is_multiboot2(&image.head(32 << 10)?) {
        return Err(LoadError::Unsupported {
            name: image.name().to_owned(),
            reason: "it has only a Multiboot 2 header".to_owned(),
            remedy: "Build it with a Multiboot 1 header or a PVH note",
        });
    }
    Ok(())
}

fn load_bzimage(request: &LoadRequest, bzimage: &BzImage) -> Result<Started, LoadError> {
    let acpi = request.rsdp.is_some();
    if request.decompress && bzimage.has_payload() {
        let mut placement = Placement::new(request.memory, acpi);
        match load_payload(request, &mut placement, bzimage) {
            Ok((elf, Some(entry))) => {
                let limit = bzimage.cmdline_limit;
                let (regs, special) = pvh::boot(request, &mut placement, &elf, entry, limit)?;
                return Ok((regs, special, "bzImage, vmlinux inside through its PVH note".to_owned()));
            }
            Ok((elf, None)) => {
                let kernel = bzimage.kernel_at(elf.entry, width(elf.class), 0);
                let (regs, special) = linux::boot(request, &mut placement, &kernel)?;
                let words = format!("bzImage, vmlinux inside through its {}", kernel.width);
                return Ok((regs, special, words));
            }
            Err(e) => log::info!("the guest decompresses its kernel itself: {e}"),
        }
    }
    let mut placement = Placement::new(request.memory, acpi);
    let kernel = bzimage.load(request, &mut placement)?;
    let (regs, special) = linux::boot(request, &mut placement, &kernel)?;
    Ok((regs, special, format!("bzImage through its {}", kernel.width)))
}

/// Decompresses a bzImage's payload into guest memory, and answers the vmlinux's headers and its PVH
/// entry point.
fn load_payload(
    request: &LoadRequest,
    placement: &mut Placement<'_>,
    bzimage: &BzImage,
) -> Result<(Elf, Option<u32>), LoadError> {
    let image = &request.kernel;
    let name = format!("the payload of {}", image.name());
    let vmlinux = bzimage.payload(image, layout::ram_end(request.memory))?;
    let elf = vmlinux.elf.clone();
    elf.fix(&name, placement)?;
    let pvh = vmlinux.finish(&name, Some(request.memory), pvh::entry)?;
    let is_for_all = pvh::is_for_all(bzimage.version.as_deref());
    let pvh = pvh.filter(|&entry| is_for_all && elf.contains(entry.into()));
    if pvh.is_none() {
        elf.checked_entry(&name)?;
    }
    Ok((elf, pvh))
}

fn width(class: Class) -> Width {
    match class {
        Class::Elf32 => Width::Protected,
        Class::Elf64 => Width::Long,
    }
}

/// What a file that is no kernel looks like.
fn describe(head: &[u8]) -> String {
    use decompress::Compression;
    if head.starts_with(b"MZ") {
        return "it is a Windows or EFI program".to_owned();
    }
    if head.starts_with(b"#!") {
        return "it is a script".to_owned();
    }
    if multiboot::is_multiboot2(head) {
        return "it has only a Multiboot 2 header".to_owned();
    }
    match Compression::detect(head) {
        Some(compression) => format!("it is a file compressed by {compression}"),
        None => "its content is of no known format".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::*;
    use super::*;

    #[test]
    fn what_is_no_kernel_is_said_to_be_none() {
        for (content, words) in [
            (&b"#!/bin/sh"[..], "a script"),
            (b"MZ and more", "a Windows or EFI program"),
            (b"\x1F\x8B\x08", "compressed by gzip"),
            (b"text", "no known format"),
        ] {
            let error = try_load(content.to_vec(), 4).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("--flat"), "{error}");
        }
    }

    /// Kernels of each kind, as seeds for mutations.
    fn seeds() -> Vec<Vec<u8>> {
        let multiboot = [&multiboot_header(3, &[])[..], &[0x90; 200]].concat();
        let addresses = [0x10_0000, 0x10_0000, 0, 0x10_1000, 0x10_0020];
        vec![
            bzimage(include_bytes!("testdata/vmlinux.lz4")),
            bzimage(include_bytes!("testdata/vmlinux.zst")),
            bzimage(&vmlinux(true)),
            vmlinux(true),
            vmlinux(false),
            elf32(0x10_0000, &[part(0x10_0000, &multiboot)]),
            elf64(0x10_0000, &[part(0x8000, &multiboot), part(0x10_0000, &[1; 99])], None),
            [&multiboot_header(1 << 16, &addresses)[..], &[0xCC; 300]].concat(),
        ]
    }

    /// Loads and inspects. Whatever is loaded, the parts of an ELF file lie in memory untouched.
    fn load_whatever(file: Vec<u8>) {
        let memory = memory(24);
        let image = KernelImage::builtin(file.clone());
        inspect_image(&image).unwrap();
        match load(&LoadRequest { rsdp: Some(layout::ACPI), ..request(file.clone(), &memory) }) {
            Err(e) => assert!(!e.to_string().contains('\n')),
            Ok(state) => {
                let Ok(Format::Elf(elf, None)) = Format::of(&image) else { return };
                assert!(!state.protocol.is_empty());
                for part in &elf.loads {
                    let (start, bytes) = (part.offset as usize, part.file_bytes as usize);
                    assert!(read(&memory, part.gpa, bytes) == file[start..start + bytes]);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_damaged_header_never_panics(
            seed in 0..8_usize,
            changes in prop::collection::vec((0..0x300_usize, any::<u8>()), 1..6),
            length in prop::option::of(0..3000_usize),
        ) {
            let mut file = seeds().swap_remove(seed);
            for (at, byte) in changes {
                let at = at % file.len();
                file[at] = byte;
            }
            file.truncate(length.unwrap_or(usize::MAX));
            load_whatever(file);
        }

        #[test]
        fn a_field_of_extreme_value_never_panics(
            seed in 0..8_usize,
            at in 0..0x98_usize,
            value in prop::sample::select(vec![0_u32, 1, 0x7FFF_FFFF, 0x8000_0000, u32::MAX, u32::MAX - 4095, 0x1000, 0x180_0000]),
        ) {
            let mut file = seeds().swap_remove(seed);
            // The setup header of a bzImage, the headers of the others.
            let at = if seed < 3 { 0x1F0 + at } else { at * 4 } & !3;
            if let Some(field) = file.get_mut(at..at + 4) {
                field.copy_from_slice(&value.to_le_bytes());
            }
            load_whatever(file);
        }

        #[test]
        fn random_bytes_never_panic(seed in 0..8_usize, keep in 0..600_usize, bytes: Vec<u8>) {
            let seed = seeds().swap_remove(seed);
            load_whatever([&seed[..keep.min(seed.len())], &bytes].concat());
        }
    }
}

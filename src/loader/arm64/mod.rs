//! AArch64 kernels: Linux's `Image`, plain or compressed, and ELF files (Linux:
//! Documentation/arch/arm64/booting.rst).
//!
//! An `Image` goes to the lowest place that its header allows. A `vmlinux` is the same image as an ELF file
//! whose addresses are all virtual ones, so it is placed by its header, too. Any other ELF file goes where it
//! is linked. Each is entered at EL1 with translation off, interrupts masked and the device tree's address
//! in X0.
#![forbid(unsafe_code)]

mod header;
mod packed;

use std::io::{BufRead, BufReader, Read};
use std::ops::Range;

use super::decompress::Compression;
use super::elf::{self, Elf};
use super::error::LoadError;
use super::image::{KernelImage, write};
use super::layout::{Placement, ram_end};
use super::{BootState, SegmentInfo, cmdline};
use crate::accel::{Arm64Regs, GuestArch, GuestRegs};
use crate::config::DEFAULT_LINUX_CMDLINE;
use crate::memory::{ARM64_RAM, GuestMemory};
use header::Header;
use packed::Packed;

/// PSTATE at the entry: EL1 with its own stack pointer; debug exceptions, SErrors, IRQs and FIQs masked.
const EL1H_MASKED: u64 = 0x3C5;
/// The longest command line that Linux takes (`COMMAND_LINE_SIZE` less its NUL).
pub(super) const CMDLINE_MAX: usize = 2047;
/// Room for the device tree in bytes.
const DEVICE_TREE_ROOM: u64 = 128 << 10;
/// Kernels of every age reach this much from the RAM's beginning on.
const NEAR: u64 = 1 << 30;
/// The kernel and its initrd lie in a window of this size (booting.rst, "Call the kernel image").
const FAR: u64 = 32 << 30;
/// What a kernel that does not tell its size may have behind its file, in bytes.
const OLD_BSS: u64 = 16 << 20;
/// What a kernel that does not tell its size is decompressed to at most, in lengths of its file.
const EXPANSION: u64 = 6;
/// The most bytes that a kernel is decompressed to for a look inside.
const OUTPUT_MAX: u64 = 1 << 30;
/// A file's beginning that is looked into to tell what is packed in it.
const GLIMPSE: u64 = 1 << 20;

/// What a kernel is told by its device tree.
pub struct Told<'a> {
    /// The command line.
    pub cmdline: &'a str,
    /// Where the initrd lies.
    pub initrd: Option<Range<u64>>,
}

/// Makes the device tree; an error says what is wrong with the command line.
pub type DeviceTree<'a> = dyn Fn(&Told<'_>) -> Result<Vec<u8>, String> + 'a;

/// What to load, and into which memory.
pub struct Request<'a> {
    /// The kernel.
    pub kernel: KernelImage,
    /// The initial RAM disk.
    pub initrd: Option<&'a KernelImage>,
    /// The user's kernel command line; without one, the kernel gets `DEFAULT_LINUX_CMDLINE`.
    pub cmdline: Option<&'a str>,
    /// Guest RAM, fresh and zero.
    pub memory: &'a GuestMemory,
    /// Makes the device tree.
    pub device_tree: &'a DeviceTree<'a>,
}

/// What an AArch64 kernel's file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Format {
    /// Linux's `Image`.
    Image(Header),
    /// The same, compressed.
    Packed(Packed, Header),
    /// Linux's `vmlinux`: an ELF file that begins with an `Image`'s header at this virtual address.
    Vmlinux(Elf, Header, u64),
    /// Another ELF file.
    Elf(Elf),
}

impl Format {
    /// Tells what a file is; `None` if it is no AArch64 kernel.
    ///
    /// # Errors
    /// When the file cannot be read or is a damaged ELF file.
    pub(super) fn of(image: &KernelImage) -> Result<Option<Self>, LoadError> {
        let head = image.head(header::BYTES)?;
        if elf::machine(&head) == Some(elf::EM_AARCH64) {
            return Self::of_elf(image, &head).map(Some);
        }
        if let Some(header) = Header::parse(&head) {
            return Ok(Some(Self::Image(header)));
        }
        let Some(packed) = Packed::find(image, &head)? else { return Ok(None) };
        // Whether it can be decompressed, and what is in it, is told by its first bytes.
        let Ok(reader) = packed.reader(image, GLIMPSE) else { return Ok(None) };
        let mut head = Vec::new();
        let read = reader.take(header::BYTES as u64).read_to_end(&mut head);
        Ok(read.ok().and_then(|_| Header::parse(&head)).map(|header| Self::Packed(packed, header)))
    }

    fn of_elf(image: &KernelImage, head: &[u8]) -> Result<Self, LoadError> {
        let elf = Elf::parse(image, head, GuestArch::Aarch64)?;
        if let Some(first) = elf.loads.iter().min_by_key(|load| load.virt) {
            let head = image.range(first.offset, first.file_bytes.min(header::BYTES as u64))?;
            if let Some(header) = Header::parse(&head) {
                let start = first.virt;
                return Ok(Self::Vmlinux(elf, header, start));
            }
        }
        Ok(Self::Elf(elf))
    }

    /// How it is booted, in words.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Image(_) => "AArch64 Image".to_owned(),
            Self::Packed(packed, _) if packed.is_zboot => {
                format!("AArch64 Image in an EFI zboot program, compressed by {}", packed.compression)
            }
            Self::Packed(packed, _) => format!("AArch64 Image, compressed by {}", packed.compression),
            Self::Vmlinux(..) => "AArch64 vmlinux by its Image header".to_owned(),
            Self::Elf(_) => "AArch64 ELF at its entry point".to_owned(),
        }
    }

    /// Whether it is an ELF file.
    pub(super) fn is_elf(&self) -> bool {
        matches!(self, Self::Vmlinux(..) | Self::Elf(_))
    }

    /// Whether it is booted as Linux.
    pub(super) fn is_linux(&self) -> bool {
        !matches!(self, Self::Elf(_))
    }

    /// How the file is compressed.
    pub(super) fn compression(&self) -> Option<Compression> {
        match self {
            Self::Packed(packed, _) => Some(packed.compression),
            _ => None,
        }
    }

    /// The file's content, decompressed.
    pub(super) fn reader<'a>(&self, image: &'a KernelImage) -> Result<Box<dyn BufRead + 'a>, LoadError> {
        match self {
            Self::Packed(packed, _) => packed.reader(image, OUTPUT_MAX),
            _ => Ok(Box::new(BufReader::new(image.reader(0, image.len())))),
        }
    }

    /// The entry point, and what is loaded where.
    pub(super) fn places(&self, image: &KernelImage) -> Result<(u64, Vec<SegmentInfo>), LoadError> {
        Ok(match self {
            Self::Image(header) | Self::Packed(_, header) | Self::Vmlinux(_, header, _) => {
                let gpa = Self::image_base(header);
                let memory_bytes = header.image_bytes.unwrap_or(0);
                (gpa, vec![SegmentInfo { gpa, file_bytes: image.len(), memory_bytes }])
            }
            Self::Elf(elf) => {
                let segment = |load: &elf::Load| SegmentInfo {
                    gpa: load.gpa,
                    file_bytes: load.file_bytes,
                    memory_bytes: load.memory_bytes,
                };
                (elf.checked_entry(image.name())?, elf.loads.iter().map(segment).collect())
            }
        })
    }

    /// Where an `Image` goes.
    pub(super) fn image_base(header: &Header) -> u64 {
        ARM64_RAM.next_multiple_of(header::ALIGN).saturating_add(header.text_offset)
    }
}

/// Loads a kernel and what goes with it into guest memory.
///
/// # Errors
/// When a file cannot be read or is damaged, or does not fit into guest memory.
pub fn load(request: &Request) -> Result<BootState, LoadError> {
    let image = &request.kernel;
    let mut placement = Placement::without_places(request.memory);
    let Some(format) = Format::of(image)? else {
        return Err(LoadError::UnknownFormat {
            name: image.name().to_owned(),
            found: "its content is of no known AArch64 format".to_owned(),
        });
    };
    let entry = match &format {
        Format::Image(header) => {
            let reader = Box::new(BufReader::new(image.reader(0, image.len())));
            load_image(request, &mut placement, header, reader, image.len())?
        }
        Format::Packed(packed, header) => {
            let reader = packed.reader(image, ram_end(request.memory).saturating_sub(ARM64_RAM))?;
            load_image(request, &mut placement, header, reader, image.len().saturating_mul(EXPANSION))?
        }
        Format::Vmlinux(elf, header, start) => load_vmlinux(request, &mut placement, elf, header, *start)?,
        Format::Elf(elf) => {
            let entry = elf.checked_entry(image.name())?;
            elf.load(image, request.memory, &mut placement)?;
            entry
        }
    };
    let device_tree = tell(request, &mut placement, format.is_linux())?;
    let regs = Arm64Regs { pc: entry, pstate: EL1H_MASKED, x0: device_tree, ..Default::default() };
    let protocol = format.words();
    log::debug!("{}: {protocol}, entry {entry:#x}", image.name());
    Ok(BootState { regs: GuestRegs::Aarch64(regs), special: None, protocol, version: None, bios: false })
}

/// Takes an image's place and answers its base and its length.
fn place_image(
    request: &Request,
    placement: &mut Placement<'_>,
    header: &Header,
    file_bytes: u64,
) -> Result<(u64, u64), LoadError> {
    let name = request.kernel.name();
    if header.big_endian {
        return Err(LoadError::Unsupported {
            name: name.to_owned(),
            reason: "it is for a big-endian machine".to_owned(),
            remedy: "Build it with CONFIG_CPU_LITTLE_ENDIAN",
        });
    }
    let base = Format::image_base(header);
    let bytes = header.image_bytes.unwrap_or_else(|| file_bytes.saturating_add(OLD_BSS));
    placement.fix(name, base, bytes)?;
    Ok((base, bytes))
}

/// Copies an image out of `reader` to its place, and answers its entry point.
fn load_image(
    request: &Request,
    placement: &mut Placement<'_>,
    header: &Header,
    mut reader: Box<dyn BufRead + '_>,
    file_bytes: u64,
) -> Result<u64, LoadError> {
    let name = request.kernel.name();
    let (base, bytes) = place_image(request, placement, header, file_bytes)?;
    let mut done = 0;
    loop {
        let failed = |source| LoadError::Read { name: name.to_owned(), offset: done, source };
        let piece = reader.fill_buf().map_err(failed)?;
        if piece.is_empty() {
            return Ok(base);
        }
        let length = piece.len();
        if done + length as u64 > bytes {
            return Err(LoadError::Malformed {
                name: name.to_owned(),
                format: "AArch64 Image",
                reason: format!("it is longer than the {bytes:#x} bytes that its header says"),
            });
        }
        write(request.memory, base + done, piece)?;
        reader.consume(length);
        done += length as u64;
    }
}

/// Copies a `vmlinux` to where its `Image` would be, and answers its entry point.
fn load_vmlinux(
    request: &Request,
    placement: &mut Placement<'_>,
    elf: &Elf,
    header: &Header,
    start: u64,
) -> Result<u64, LoadError> {
    let image = &request.kernel;
    let (base, bytes) = place_image(request, placement, header, image.len())?;
    for load in &elf.loads {
        let at = load.virt.saturating_sub(start);
        if at.checked_add(load.memory_bytes).is_none_or(|end| end > bytes) {
            return Err(LoadError::Malformed {
                name: image.name().to_owned(),
                format: "AArch64 vmlinux",
                reason: format!("a segment lies behind the {bytes:#x} bytes that its header says"),
            });
        }
        image.copy_to(request.memory, base + at, load.offset, load.file_bytes)?;
    }
    Ok(base)
}

/// Puts the initrd and the device tree into memory, and answers the tree's address.
fn tell(request: &Request, placement: &mut Placement<'_>, is_linux: bool) -> Result<u64, LoadError> {
    const TREE: &str = "the device tree";
    let text = request.cmdline.unwrap_or(DEFAULT_LINUX_CMDLINE);
    cmdline::terminated("the command line", text)?;
    if text.len() > CMDLINE_MAX {
        return Err(LoadError::CmdlineTooLong {
            name: request.kernel.name().to_owned(),
            bytes: text.len(),
            limit: CMDLINE_MAX,
        });
    }
    let near = (ARM64_RAM + NEAR).min(ram_end(request.memory));
    let gpa = if is_linux {
        // Below a multiple of 2 MiB, so that it does not lie across one: older kernels map it by such blocks.
        placement.place_below(TREE, near - near % header::ALIGN, DEVICE_TREE_ROOM)?
    } else {
        // Where other machines have it for programs that do not look at X0.
        placement.place(TREE, ARM64_RAM, DEVICE_TREE_ROOM)?
    };
    let initrd = match request.initrd {
        None => None,
        Some(initrd) => {
            let what = format!("the initrd {}", initrd.name());
            let start = placement
                .place_below(&what, near, initrd.len())
                .or_else(|_| placement.place_below(&what, ARM64_RAM + FAR, initrd.len()))?;
            initrd.copy_to(request.memory, start, 0, initrd.len())?;
            Some(start..start + initrd.len())
        }
    };
    let tree = (request.device_tree)(&Told { cmdline: text, initrd })
        .map_err(|reason| LoadError::DeviceTree { reason })?;
    if tree.len() as u64 > DEVICE_TREE_ROOM {
        let reason = format!("it has {} bytes, more than the {DEVICE_TREE_ROOM} of its room", tree.len());
        return Err(LoadError::DeviceTree { reason });
    }
    write(request.memory, gpa, &tree)?;
    Ok(gpa)
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

//! Linux's bzImage: the setup header, and the kernel behind it (Linux:
//! Documentation/arch/x86/boot.rst).
#![forbid(unsafe_code)]

use super::LoadRequest;
use super::boot_params::{SETUP_HEADER, SETUP_HEADER_END};
use super::decompress::Compression;
use super::elf::ElfStream;
use super::error::LoadError;
use super::image::KernelImage;
use super::layout::{HIGH_RAM, Placement, page_up};
use super::linux::{Kernel, Width};
use crate::memory::MMIO_HOLE_START;

const XLF_KERNEL_64: u16 = 1;
const LOADED_HIGH: u8 = 1;
/// Where the 64-bit entry point lies in the kernel.
const ENTRY_64: u64 = 0x200;
/// A payload that says to be larger than this many times its compressed length is not believed; a
/// few MiB are always allowed.
const RATIO_MAX: u64 = 256;
const OUTPUT_ALLOWED: u64 = 64 << 20;

/// The checked setup header of a bzImage, and where its parts are in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BzImage {
    /// The setup header as it is in the file, from `SETUP_HEADER` on.
    pub setup_header: Vec<u8>,
    /// Version of the boot protocol: major in the upper byte, minor in the lower one.
    pub protocol: u16,
    /// The kernel's version string.
    pub version: Option<String>,
    /// The kernel has the 64-bit entry point.
    pub long: bool,
    /// Guest-physical address where the kernel is loaded.
    pub load_gpa: u64,
    /// Bytes that it needs there while it starts.
    pub init_bytes: u64,
    /// The highest address that the initrd may use, and one more.
    pub initrd_limit: u64,
    /// The longest command line in bytes.
    pub cmdline_limit: usize,
    /// Offset and length of the kernel in the file.
    kernel: (u64, u64),
    /// Offset and length of the compressed payload in the file.
    payload: Option<(u64, u64)>,
}

/// Whether a file that starts with `head` is a bzImage.
#[must_use]
pub fn is_bzimage(head: &[u8]) -> bool {
    head.get(0x1FE..0x200) == Some(&[0x55, 0xAA]) && head.get(0x202..0x206) == Some(b"HdrS")
}

impl BzImage {
    /// Reads and checks the setup header of a file that starts with `head`.
    ///
    /// # Errors
    /// When the file is damaged, or older than the boot protocol 2.00.
    pub fn parse(image: &KernelImage, head: &[u8]) -> Result<Self, LoadError> {
        let name = image.name();
        let cut_off = || malformed(name, "its setup header is cut off");
        // The jump at 0x200 goes to the end of the header.
        let header_bytes = usize::from(*head.get(0x201).ok_or_else(cut_off)?);
        let end = (0x202 + header_bytes).clamp(0x230, SETUP_HEADER_END);
        let setup_header = head.get(SETUP_HEADER..end).ok_or_else(cut_off)?.to_vec();
        // Fields that an older protocol does not have read as 0.
        let field = |offset: usize, version_with_it: u16, bytes: usize| {
            let field = head.get(offset..offset + bytes).filter(|_| offset + bytes <= end);
            let protocol = head.get(0x206..0x208).unwrap_or_default();
            let protocol = protocol.iter().rev().fold(0, |value, &byte| value << 8 | u16::from(byte));
            let bytes = field.filter(|_| protocol >= version_with_it).unwrap_or_default();
            bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
        };
        let protocol = field(0x206, 0, 2) as u16;
        if protocol < 0x200 || field(0x211, 0x200, 1) as u8 & LOADED_HIGH == 0 {
            return Err(LoadError::Unsupported {
                name: name.to_owned(),
                reason: "this Linux is older than bzImage's boot protocol".to_owned(),
                remedy: "Give a bzImage of Linux 2.4 or later",
            });
        }
        let setup_sectors = match field(SETUP_HEADER, 0, 1) {
            0 => 4,
            sectors => sectors,
        };
        let kernel_offset = (setup_sectors + 1) * 512;
        let kernel_bytes = field(0x1F4, 0, if protocol >= 0x204 { 4 } else { 2 }) * 16;
        let present = image.len().saturating_sub(kernel_offset);
        // The length is rounded up to 16 bytes; the file's need not be.
        if present == 0 || kernel_bytes > page_up(present) {
            let reason = format!("its kernel should have {kernel_bytes} bytes, and {present} are there");
            return Err(malformed(name, &reason));
        }
        let kernel_bytes = if kernel_bytes == 0 { present } else { kernel_bytes.min(present) };
        let payload_offset = kernel_offset + field(0x248, 0x208, 4);
        let payload_bytes = field(0x24C, 0x208, 4);
        let in_kernel = payload_offset + payload_bytes <= kernel_offset + kernel_bytes;
        let load_gpa = field(0x258, 0x20A, 8);
        Ok(Self {
            setup_header,
            protocol,
            version: version(image, field(0x20E, 0x200, 2), kernel_offset)?,
            long: field(0x236, 0x20C, 2) as u16 & XLF_KERNEL_64 != 0,
            load_gpa: if load_gpa == 0 { HIGH_RAM } else { load_gpa },
            init_bytes: field(0x260, 0x20A, 4).max(kernel_bytes),
            initrd_limit: match field(0x22C, 0x203, 4) {
                0 => 0x3800_0000,
                highest => highest + 1,
            },
            cmdline_limit: match field(0x238, 0x206, 4) {
                0 => 255,
                limit => limit as usize,
            },
            kernel: (kernel_offset, kernel_bytes),
            payload: (payload_bytes > 4 && in_kernel).then_some((payload_offset, payload_bytes)),
        })
    }

    /// Copies the kernel as it is, compressed, and says how it is booted.
    ///
    /// # Errors
    /// When the file cannot be read or there is no room.
    pub fn load(
        &self,
        request: &LoadRequest,
        placement: &mut Placement<'_>,
    ) -> Result<Kernel<'_>, LoadError> {
        let name = request.kernel.name();
        let code32_start = u32::try_from(self.load_gpa)
            .map_err(|_| malformed(name, &format!("it wants to lie at {:#x}", self.load_gpa)))?;
        placement.fix(&format!("the kernel {name}"), self.load_gpa, self.init_bytes)?;
        let (offset, bytes) = self.kernel;
        request.kernel.copy_to(request.memory, self.load_gpa, offset, bytes)?;
        let (entry, width) = self.entry();
        Ok(self.kernel_at(entry, width, code32_start))
    }

    /// The entry point of the kernel as it is, compressed, and its mode.
    #[must_use]
    pub fn entry(&self) -> (u64, Width) {
        match self.long {
            true => (self.load_gpa.saturating_add(ENTRY_64), Width::Long),
            false => (self.load_gpa, Width::Protected),
        }
    }

    /// Length of the compressed kernel in bytes.
    #[must_use]
    pub fn kernel_bytes(&self) -> u64 {
        self.kernel.1
    }

    /// How the payload is compressed, if there is one and its beginning is known.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn compression(&self, image: &KernelImage) -> Result<Option<Compression>, LoadError> {
        let Some((offset, bytes)) = self.payload else { return Ok(None) };
        Ok(Compression::detect(&image.range(offset, bytes.min(8))?))
    }

    /// A kernel with this setup header.
    #[must_use]
    pub fn kernel_at(&self, entry: u64, width: Width, code32_start: u32) -> Kernel<'_> {
        Kernel {
            entry,
            width,
            setup_header: &self.setup_header,
            code32_start,
            initrd_limit: self.initrd_limit.min(MMIO_HOLE_START),
            cmdline_limit: self.cmdline_limit,
        }
    }

    /// Opens the payload, and reads the headers of the vmlinux in it. `output_max` is the most bytes
    /// that it may decompress to.
    ///
    /// # Errors
    /// When there is none, or it cannot be decompressed.
    pub fn payload<'a>(&self, image: &'a KernelImage, output_max: u64) -> Result<ElfStream<'a>, LoadError> {
        let name = image.name();
        let (offset, bytes) =
            self.payload.ok_or_else(|| malformed(name, "its setup header tells no payload"))?;
        let compression = self
            .compression(image)?
            .ok_or_else(|| malformed(name, "its payload is compressed in no known way"))?;
        let (data_bytes, output_bytes) = match compression {
            Compression::None => (bytes, bytes),
            _ => {
                let length = image.range(offset + bytes - 4, 4)?;
                let length = length.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
                let appended = if compression.has_length_appended() { 4 } else { 0 };
                (bytes - appended, length)
            }
        };
        if output_bytes > output_max.min(bytes.saturating_mul(RATIO_MAX).max(OUTPUT_ALLOWED)) {
            let reason = format!("its payload of {bytes} bytes would decompress to {output_bytes}");
            return Err(malformed(name, &reason));
        }
        let source = compression
            .reader(image.reader(offset, data_bytes), output_bytes)
            .map_err(|e| malformed(name, &format!("its {compression} payload: {e}")))?;
        ElfStream::open(&format!("the payload of {name}"), source, output_bytes)
    }
}

/// The version string, whose offset is counted from 0x200 and must lie in the setup code.
fn version(image: &KernelImage, offset: u64, setup_bytes: u64) -> Result<Option<String>, LoadError> {
    let offset = offset + 0x200;
    if offset == 0x200 || offset >= setup_bytes.min(image.len()) {
        return Ok(None);
    }
    let bytes = image.range(offset, (setup_bytes.min(image.len()) - offset).min(256))?;
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    let text: String = String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).collect();
    Ok((!text.is_empty()).then_some(text))
}

fn malformed(name: &str, reason: &str) -> LoadError {
    LoadError::Malformed { name: name.to_owned(), format: "bzImage", reason: reason.to_owned() }
}

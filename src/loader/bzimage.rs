//! Linux's bzImage: the setup header, and the kernel behind it (Linux:
//! Documentation/arch/x86/boot.rst).
#![forbid(unsafe_code)]

use super::LoadRequest;
use super::boot_params::{SETUP_HEADER, SETUP_HEADER_END};
use super::decompress::{Compression, believed_output};
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
            let protocol = protocol.iter().rev().fold(0, |value, &byte| (value << 8) | u16::from(byte));
            let bytes = field.filter(|_| protocol >= version_with_it).unwrap_or_default();
            bytes.iter().rev().fold(0, |value, &byte| (value << 8) | u64::from(byte))
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

    /// Whether the setup header tells of a vmlinux, which kernels that are not Linux have not.
    #[must_use]
    pub fn has_payload(&self) -> bool {
        self.payload.is_some()
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
                let length = length.iter().rev().fold(0, |value, &byte| (value << 8) | u64::from(byte));
                let appended = if compression.has_length_appended() { 4 } else { 0 };
                (bytes - appended, length)
            }
        };
        if output_bytes > output_max.min(believed_output(bytes)) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::testing::{
        VMLINUX_ENTRY, VMLINUX_PVH_ENTRY, bzimage, memory, read, read_string, read_u32, registers, request,
        try_load, vmlinux,
    };
    use crate::loader::{KernelImage, LoadRequest, load};

    fn parse(file: Vec<u8>) -> Result<BzImage, LoadError> {
        let image = KernelImage::builtin(file);
        BzImage::parse(&image, &image.head(8192).unwrap())
    }

    fn change(offset: usize, bytes: &[u8]) -> Vec<u8> {
        let mut file = bzimage(&vmlinux(true));
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
        file
    }

    #[test]
    fn the_setup_header_is_read() {
        let bzimage = parse(change(0, &[0])).unwrap();
        assert_eq!(bzimage.setup_header.len(), 0x268 - 0x1F1);
        assert_eq!(bzimage.version.as_deref(), Some("9.8.7-test #1"));
        assert_eq!((bzimage.protocol, bzimage.long), (0x20F, true));
        assert_eq!((bzimage.load_gpa, bzimage.init_bytes), (VMLINUX_ENTRY, 0x40_0000));
        assert_eq!((bzimage.initrd_limit, bzimage.cmdline_limit), (0x8000_0000, 2047));
    }

    #[test]
    fn fields_that_an_old_protocol_lacks_get_their_defaults() {
        let bzimage = parse(change(0x206, &[2, 2])).unwrap();
        assert_eq!((bzimage.long, bzimage.load_gpa), (false, HIGH_RAM));
        assert_eq!((bzimage.initrd_limit, bzimage.cmdline_limit), (0x3800_0000, 255));
        assert!(bzimage.payload.is_none());
        // The header ends before xloadflags, whatever the version says.
        assert!(!parse(change(0x201, &[0x34])).unwrap().long);
    }

    #[test]
    fn damaged_headers_are_refused() {
        let error = |file: Vec<u8>| parse(file).unwrap_err().to_string();
        assert!(error(change(0x206, &[0xFF, 1])).contains("older"));
        assert!(error(change(0x211, &[0])).contains("older"));
        assert!(error(change(0x1F4, &[0xFF; 4])).contains("should have"));
        assert!(error(change(0x1F1, &[0xFF])).contains("0 are there"));
        assert!(error(change(0, &[0])[..0x210].to_vec()).contains("cut off"));
        assert!(error(change(0, &[0])[..2000].to_vec()).contains("should have"));
        // A version string outside of the file is none.
        assert_eq!(parse(change(0x20E, &[0xFF; 2])).unwrap().version, None);
    }

    #[test]
    fn a_compressed_kernel_is_started_by_its_64_bit_entry() {
        let memory = memory(32);
        let state = load(&LoadRequest { decompress: false, ..request(change(0, &[0]), &memory) }).unwrap();
        let (regs, special) = registers(&state);
        assert_eq!(state.protocol, "bzImage through its 64-bit entry");
        assert_eq!(regs.rip, VMLINUX_ENTRY + 0x200);
        assert_eq!(read(&memory, regs.rip, 12), b"64-bit entry");
        assert!(special.cs.l);
        assert_eq!(read(&memory, regs.rsi + 0x202, 4), b"HdrS");
        assert_eq!(read(&memory, regs.rsi + 0x210, 1), [0xFF]);
        assert_eq!(read_string(&memory, read_u32(&memory, regs.rsi + 0x228).into()), "console=ttyS0");
        // Behind the header there is nothing of the file.
        assert_eq!(read(&memory, regs.rsi + 0x268, 0x60), [0; 0x60]);
    }

    #[test]
    fn a_32_bit_kernel_is_started_by_its_32_bit_entry() {
        let memory = memory(32);
        let file = change(0x236, &[0]);
        let state = load(&LoadRequest { decompress: false, ..request(file, &memory) }).unwrap();
        let (regs, special) = registers(&state);
        assert_eq!(read(&memory, regs.rip, 12), b"32-bit entry");
        assert_eq!((special.cr0, special.cs.db), (0x11, true));
        assert_eq!((regs.rbp, regs.rdi, regs.rbx), (0, 0, 0));
    }

    #[test]
    fn an_uncompressed_payload_is_started_by_its_best_entry() {
        let state = try_load(bzimage(&vmlinux(true)), 32).unwrap();
        assert_eq!(state.protocol, "bzImage, vmlinux inside through its PVH note");
        assert_eq!(state.version.as_deref(), Some("9.8.7-test #1"));
        assert_eq!(registers(&state).0.rip, u64::from(VMLINUX_PVH_ENTRY));
        let state = try_load(bzimage(&vmlinux(false)), 32).unwrap();
        assert_eq!(state.protocol, "bzImage, vmlinux inside through its 64-bit entry");
        assert_eq!(registers(&state).0.rip, VMLINUX_ENTRY);
    }

    #[test]
    fn every_compression_gives_the_same_vmlinux() {
        let plain = memory(32);
        load(&request(vmlinux(true), &plain)).unwrap();
        for payload in [
            &include_bytes!("testdata/vmlinux.gz")[..],
            include_bytes!("testdata/vmlinux.bz2"),
            include_bytes!("testdata/vmlinux.lzma"),
            include_bytes!("testdata/vmlinux.xz"),
            include_bytes!("testdata/vmlinux.lz4"),
            include_bytes!("testdata/vmlinux.zst"),
        ] {
            let memory = memory(32);
            let state = load(&request(bzimage(payload), &memory)).unwrap();
            assert_eq!(registers(&state).0.rip, u64::from(VMLINUX_PVH_ENTRY));
            assert!(read(&memory, VMLINUX_ENTRY, 0x11_0000) == read(&plain, VMLINUX_ENTRY, 0x11_0000));
        }
    }

    #[test]
    fn a_payload_that_cannot_be_decompressed_is_left_to_the_guest() {
        let lz4 = include_bytes!("testdata/vmlinux.lz4");
        let mut cut = lz4.to_vec();
        cut[3000..].fill(0xFF);
        let mut bomb = lz4.to_vec();
        let end = bomb.len();
        bomb[end - 4..].copy_from_slice(&u32::MAX.to_le_bytes());
        for payload in [&cut[..], &bomb, b"nothing known", &[0x89, b'L', b'Z', b'O', 0, 0, 0, 0, 0], b""] {
            let memory = memory(32);
            let state = load(&request(bzimage(payload), &memory)).unwrap();
            assert_eq!(state.protocol, "bzImage through its 64-bit entry");
            assert_eq!(read(&memory, VMLINUX_ENTRY + 0x240, payload.len()), payload);
        }
    }

    #[test]
    fn what_the_kernel_needs_is_checked() {
        let file = || bzimage(b"no payload");
        assert!(matches!(try_load(file(), 19), Err(LoadError::OutsideMemory { .. })));
        let memory = memory(32);
        let long = "x".repeat(2048);
        let error = load(&LoadRequest { cmdline: Some(&long), ..request(file(), &memory) }).unwrap_err();
        assert!(
            error.to_string().contains("2048 bytes, and the built-in guest takes at most 2047"),
            "{error}"
        );
        let error = load(&LoadRequest { cmdline: Some("a\0b"), ..request(file(), &memory) }).unwrap_err();
        assert!(matches!(error, LoadError::Nul { .. }));
    }

    #[test]
    fn the_initrd_lies_high_and_apart_from_the_kernel() {
        let initrd = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(initrd.path(), [7; 5000]).unwrap();
        let memory = memory(32);
        let with = |file, mib: &_| {
            let image = KernelImage::open(initrd.path()).unwrap();
            load(&LoadRequest { initrd: Some(&image), ..request(file, mib) })
        };
        let state = with(bzimage(b"no payload"), &memory).unwrap();
        let zero_page = registers(&state).0.rsi;
        assert_eq!(read_u32(&memory, zero_page + 0x218), (32 << 20) - 0x2000);
        assert_eq!(read_u32(&memory, zero_page + 0x21C), 5000);
        assert_eq!(read(&memory, (32 << 20) - 0x2000, 5000), [7; 5000]);

        // The kernel allows it only below 20 MiB, and needs 16 to 20 MiB itself.
        let mut file = bzimage(b"no payload");
        file[0x22C..0x230].copy_from_slice(&0x13F_FFFF_u32.to_le_bytes());
        let memory = crate::loader::testing::memory(32);
        let state = with(file, &memory).unwrap();
        assert_eq!(read_u32(&memory, registers(&state).0.rsi + 0x218), 0x100_0000 - 0x2000);

        std::fs::write(initrd.path(), vec![7; 20 << 20]).unwrap();
        assert!(matches!(with(bzimage(b"no payload"), &memory), Err(LoadError::NoRoom { .. })));
    }
}

//! What a kernel file is and how it would be booted, without booting it.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::bzimage::BzImage;
use super::elf::{Class, Elf, Load};
use super::error::LoadError;
use super::image::KernelImage;
use super::multiboot::Multiboot;
use super::{ElfBoot, Format, arm64, guest_arch, pvh, pvh_entry, refuse_multiboot2, unpack, version, width};
use crate::accel::GuestArch;

/// The most bytes that a payload is decompressed to for a look inside.
const OUTPUT_MAX: u64 = 1 << 30;

/// What is known of a kernel file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// The file.
    pub file: String,
    /// Its length in bytes.
    pub file_bytes: u64,
    /// The format: "bzImage", "ELF64", "ELF32", "Multiboot" or "Image".
    pub format: Option<&'static str>,
    /// The architecture of its machine: "x86-64" or "AArch64".
    pub architecture: Option<&'static str>,
    /// The kernel's version string.
    pub version: Option<String>,
    /// Linux's boot protocol, "2.15".
    pub boot_protocol: Option<String>,
    /// How a bzImage's payload, or an AArch64 Image, is compressed.
    pub compression: Option<String>,
    /// The entry points, the one that is used first.
    pub entry_points: Vec<EntryPoint>,
    /// What is loaded where.
    pub segments: Vec<SegmentInfo>,
    /// The longest command line in bytes, where the kernel tells.
    pub cmdline_limit: Option<usize>,
    /// How it would be booted.
    pub boots_as: Option<String>,
    /// What is wrong with it, or keeps it from the fastest way to boot.
    pub problem: Option<String>,
}

/// An entry point of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EntryPoint {
    /// The protocol that uses it.
    pub protocol: String,
    /// Guest-physical address.
    pub gpa: u64,
}

/// A part of a kernel in guest memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SegmentInfo {
    /// Guest-physical address.
    pub gpa: u64,
    /// Bytes that the file has.
    pub file_bytes: u64,
    /// Bytes in memory.
    pub memory_bytes: u64,
}

/// Tells what a kernel file is. A file that can be read and is no kernel is told as that.
///
/// # Errors
/// When the file cannot be read.
pub fn inspect(path: &Path) -> Result<Inspection, LoadError> {
    inspect_image(&KernelImage::open(path)?)
}

/// Tells what a kernel is, be it a file or built in.
///
/// # Errors
/// When it cannot be read.
pub fn inspect_image(image: &KernelImage) -> Result<Inspection, LoadError> {
    let mut inspection = Inspection {
        file: image.name().to_owned(),
        file_bytes: image.len(),
        format: None,
        architecture: None,
        version: None,
        boot_protocol: None,
        compression: None,
        entry_points: Vec::new(),
        segments: Vec::new(),
        cmdline_limit: None,
        boots_as: None,
        problem: None,
    };
    let arm64 = match guest_arch(image) {
        Ok(GuestArch::Aarch64) => Some(arm64::Format::of(image)),
        Ok(GuestArch::X86_64) => None,
        Err(e) => Some(Err(e)),
    };
    if let Some(format) = arm64 {
        inspection.architecture = Some("AArch64");
        return finish(inspection, |inspection| match format? {
            Some(format) => inspection.arm64(image, &format),
            None => Ok(()),
        });
    }
    finish(inspection, |inspection| inspection.x86_64(image))
}

/// Lets `look` look; what is wrong with the kernel is a part of what is told of it.
fn finish(
    mut inspection: Inspection,
    look: impl FnOnce(&mut Inspection) -> Result<(), LoadError>,
) -> Result<Inspection, LoadError> {
    match look(&mut inspection) {
        Err(e @ (LoadError::Open { .. } | LoadError::Read { .. })) => return Err(e),
        Err(e) => inspection.problem = Some(e.to_string()),
        Ok(()) => {}
    }
    Ok(inspection)
}

impl Inspection {
    fn x86_64(&mut self, image: &KernelImage) -> Result<(), LoadError> {
        if let Some((unpacked, compression)) = unpack(image)? {
            self.compression = Some(compression.to_string());
            return self.x86_64(&unpacked);
        }
        let format = Format::of(image)?;
        self.architecture = Some("x86-64");
        match format {
            Format::Elf(elf, header) => self.elf(image, &elf, header.as_ref()),
            Format::BzImage(bzimage) => self.bzimage(image, &bzimage),
            Format::Multiboot(header) => {
                self.format = Some("Multiboot");
                let multiboot = Multiboot::new(image, &header, None)?;
                self.entry("Multiboot", multiboot.entry.into());
                self.segments(&multiboot.loads);
                self.boots_as = Some("Multiboot by its address fields".to_owned());
                Ok(())
            }
        }
    }

    fn arm64(&mut self, image: &KernelImage, format: &arm64::Format) -> Result<(), LoadError> {
        self.boots_as = Some(format.words());
        self.format = Some(if format.is_elf() { "ELF64" } else { "Image" });
        self.compression = format.compression().map(|compression| compression.to_string());
        let (entry, segments) = format.places(image)?;
        self.entry("AArch64", entry);
        self.segments = segments;
        self.cmdline_limit = format.is_linux().then_some(arm64::CMDLINE_MAX);
        self.version = version::banner(image.name(), format.reader(image)?)?;
        Ok(())
    }
}
impl Inspection {
    fn elf(
        &mut self,
        image: &KernelImage,
        elf: &Elf,
        header: Option<&super::Header>,
    ) -> Result<(), LoadError> {
        self.format = Some(match elf.class {
            Class::Elf32 => "ELF32",
            Class::Elf64 => "ELF64",
        });
        self.segments(&elf.loads);
        self.version = version::banner(image.name(), image.reader(0, image.len()))?;
        let pvh = pvh_entry(image, elf)?;
        let boot = ElfBoot::choose(image, elf, header, pvh)?;
        refuse_multiboot2(image, &boot)?;
        let entry_words = width(elf.class).to_string();
        let multiboot = match header {
            Some(header) => Multiboot::new(image, header, Some(elf)).ok(),
            None => None,
        };
        self.boots_as = Some(match &boot {
            ElfBoot::Pvh(entry) => {
                self.entry("PVH", (*entry).into());
                "ELF through its PVH note".to_owned()
            }
            ElfBoot::Multiboot(multiboot) => {
                self.entry("Multiboot", multiboot.entry.into());
                "Multiboot ELF".to_owned()
            }
            ElfBoot::Linux(_) => {
                self.entry(&entry_words, elf.entry);
                format!("ELF through its {entry_words}")
            }
        });
        // The ways that are not taken.
        match boot {
            ElfBoot::Pvh(_) => {
                multiboot.iter().for_each(|multiboot| self.entry("Multiboot", multiboot.entry.into()));
                self.entry(&entry_words, elf.entry);
            }
            ElfBoot::Multiboot(_) => pvh.iter().for_each(|&entry| self.entry("PVH", entry.into())),
            ElfBoot::Linux(_) => {}
        }
        Ok(())
    }

    fn bzimage(&mut self, image: &KernelImage, bzimage: &BzImage) -> Result<(), LoadError> {
        self.format = Some("bzImage");
        self.version.clone_from(&bzimage.version);
        self.boot_protocol = Some(format!("{}.{:02}", bzimage.protocol >> 8, bzimage.protocol & 0xFF));
        self.cmdline_limit = Some(bzimage.cmdline_limit);
        let (entry, width_word) = bzimage.entry();
        let words = if bzimage.has_payload() { Some(self.payload(image, bzimage)) } else { None };
        if let Some(Ok(words)) = words {
            self.boots_as = Some(format!("bzImage, vmlinux inside through its {words}"));
        } else {
            self.boots_as = Some(format!("bzImage through its {width_word}"));
            self.problem = words.and_then(Result::err).map(|e| e.to_string());
            self.segments.push(SegmentInfo {
                gpa: bzimage.load_gpa,
                file_bytes: bzimage.kernel_bytes(),
                memory_bytes: bzimage.init_bytes,
            });
        }
        self.entry(&format!("bzImage, {width_word}"), entry);
        Ok(())
    }

    /// Looks into a bzImage's payload, and says how the vmlinux is entered.
    fn payload(&mut self, image: &KernelImage, bzimage: &BzImage) -> Result<String, LoadError> {
        self.compression = bzimage.compression(image)?.map(|compression| compression.to_string());
        let vmlinux = bzimage.payload(image, OUTPUT_MAX)?;
        let elf = vmlinux.elf.clone();
        let pvh = vmlinux.finish(&format!("the payload of {}", image.name()), None, pvh::entry)?;
        let pvh = pvh.filter(|_| pvh::is_for_all(bzimage.version.as_deref()));
        self.segments(&elf.loads);
        let entry_words = width(elf.class).to_string();
        if let Some(pvh) = pvh {
            self.entry("vmlinux, PVH", pvh.into());
        }
        self.entry(&format!("vmlinux, {entry_words}"), elf.entry);
        Ok(if pvh.is_some() { "PVH note".to_owned() } else { entry_words })
    }

    fn entry(&mut self, protocol: &str, gpa: u64) {
        self.entry_points.push(EntryPoint { protocol: protocol.to_owned(), gpa });
    }

    fn segments(&mut self, loads: &[Load]) {
        self.segments.extend(loads.iter().map(|load| SegmentInfo {
            gpa: load.gpa,
            file_bytes: load.file_bytes,
            memory_bytes: load.memory_bytes,
        }));
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} ({} bytes)", self.file, self.format.unwrap_or("no kernel"), self.file_bytes)?;
        let mut line = |key: &str, value: Option<&str>| match value {
            Some(value) => writeln!(f, "  {key:<14}{value}"),
            None => Ok(()),
        };
        line("architecture", self.architecture)?;
        line("version", self.version.as_deref())?;
        line("boot protocol", self.boot_protocol.as_deref())?;
        line("compression", self.compression.as_deref())?;
        line("command line", self.cmdline_limit.map(|limit| format!("at most {limit} bytes")).as_deref())?;
        line("boots as", self.boots_as.as_deref())?;
        line("problem", self.problem.as_deref())?;
        for entry in &self.entry_points {
            writeln!(f, "  {:<14}{:#012x} {}", "entry", entry.gpa, entry.protocol)?;
        }
        for segment in &self.segments {
            let SegmentInfo { gpa, file_bytes, memory_bytes } = segment;
            writeln!(f, "  {:<14}{gpa:#012x} {file_bytes:#x} bytes, {memory_bytes:#x} in memory", "segment")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::testing::{bzimage, elf32, multiboot_header, part, vmlinux};

    fn look(file: Vec<u8>) -> Inspection {
        let inspection = inspect_image(&KernelImage::builtin(file)).unwrap();
        assert!(!inspection.to_string().is_empty());
        assert!(serde_json::to_string(&inspection).unwrap().contains("\"file_bytes\""));
        inspection
    }

    #[test]
    fn a_bzimage_is_looked_into() {
        let inspection = look(bzimage(include_bytes!("testdata/vmlinux.lz4")));
        assert_eq!(inspection.format, Some("bzImage"));
        assert_eq!(inspection.version.as_deref(), Some("9.8.7-test #1"));
        assert_eq!(inspection.boot_protocol.as_deref(), Some("2.15"));
        assert_eq!(inspection.compression.as_deref(), Some("lz4"));
        assert_eq!(inspection.boots_as.as_deref(), Some("bzImage, vmlinux inside through its PVH note"));
        let entries: Vec<_> = inspection.entry_points.iter().map(|entry| entry.gpa).collect();
        assert_eq!(entries, [0x100_0010, 0x100_0000, 0x100_0200]);
        assert_eq!((inspection.segments.len(), inspection.problem), (2, None));
    }

    #[test]
    fn a_bzimage_with_a_damaged_payload_says_so_and_how_it_boots() {
        let inspection = look(bzimage(b"damaged payload"));
        assert_eq!(inspection.boots_as.as_deref(), Some("bzImage through its 64-bit entry"));
        assert!(inspection.problem.unwrap().contains("no known way"));
        assert_eq!(inspection.segments[0].gpa, 0x100_0000);
    }

    #[test]
    fn a_vmlinux_has_its_version_in_its_banner() {
        let inspection = look(vmlinux(true));
        assert_eq!(inspection.version.as_deref(), Some("9.8.7 (test)"));
        assert_eq!(inspection.boots_as.as_deref(), Some("ELF through its PVH note"));
    }

    #[test]
    fn multiboot_and_no_kernel_are_told() {
        let kernel = elf32(0x10_0000, &[part(0x10_0000, &multiboot_header(0, &[]))]);
        assert_eq!(look(kernel).boots_as.as_deref(), Some("Multiboot ELF"));
        let none = look(b"#!/bin/sh\n".to_vec());
        assert!(none.problem.unwrap().contains("a script"));
        assert_eq!((none.format, none.boots_as), (None, None));
    }
}

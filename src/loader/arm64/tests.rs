use std::cell::RefCell;

use proptest::prelude::*;

use super::testing::{elf, gzip, image, zboot};
use super::*;
use crate::loader::testing::{Part, part, read};
use crate::loader::{guest_arch, inspect_image};
use crate::memory::allocate_for;

const MIB: u64 = 1 << 20;

/// What a load gave.
struct Loaded {
    memory: GuestMemory,
    regs: Arm64Regs,
    protocol: String,
    cmdline: String,
    initrd: Option<Range<u64>>,
}

fn try_load(kernel: Vec<u8>, mib: u64, initrd: Option<Vec<u8>>) -> Result<Loaded, LoadError> {
    load_with(kernel, mib, initrd, None)
}

fn load_with(
    kernel: Vec<u8>,
    mib: u64,
    initrd: Option<Vec<u8>>,
    cmdline: Option<&str>,
) -> Result<Loaded, LoadError> {
    let memory = allocate_for(GuestArch::Aarch64, mib * MIB).unwrap();
    let told = RefCell::new((String::new(), None));
    let initrd = initrd.map(|content| KernelImage::memory("initrd", content));
    let state = load(&Request {
        kernel: KernelImage::builtin(kernel),
        initrd: initrd.as_ref(),
        cmdline,
        memory: &memory,
        device_tree: &|what| {
            *told.borrow_mut() = (what.cmdline.to_owned(), what.initrd.clone());
            Ok(b"tree".to_vec())
        },
    })?;
    let GuestRegs::Aarch64(regs) = state.regs else { panic!("{state:?}") };
    assert_eq!((state.special, regs.pstate), (None, 0x3C5));
    assert_eq!(read(&memory, regs.x0, 4), b"tree");
    let (cmdline, initrd) = told.into_inner();
    Ok(Loaded { memory, regs, protocol: state.protocol, cmdline, initrd })
}

#[test]
fn an_image_goes_to_its_offset_and_the_initrd_and_the_tree_go_above_it() {
    let file = image(0x8_0000, 4 * MIB, b"kernel");
    let loaded = try_load(file.clone(), 64, Some(vec![7; 5000])).unwrap();
    let regs = loaded.regs;
    assert_eq!((regs.pc, regs.x0), (0x4008_0000, 0x4400_0000 - DEVICE_TREE_ROOM));
    assert_eq!(read(&loaded.memory, regs.pc, file.len()), file);
    assert_eq!(loaded.protocol, "AArch64 Image");
    assert_eq!(loaded.cmdline, DEFAULT_LINUX_CMDLINE);
    let initrd = loaded.initrd.unwrap();
    assert_eq!((initrd.start, initrd.end - initrd.start), (regs.x0 - 0x2000, 5000));
    assert_eq!(read(&loaded.memory, initrd.start, 5000), vec![7; 5000]);
}

#[test]
fn much_memory_does_not_put_anything_out_of_an_old_kernels_reach() {
    let loaded = try_load(image(0, 4 * MIB, b""), 3 << 10, Some(vec![7; 5000])).unwrap();
    assert!(loaded.regs.x0 < 0x8000_0000 && loaded.initrd.unwrap().end <= 0x8000_0000);
}

#[test]
fn compressed_images_are_decompressed_here() {
    let content: Vec<u8> = (0..100_000_u32).map(|i| (i / 7) as u8).collect();
    let plain = image(0, 4 * MIB, &content);
    for (file, words) in [
        (gzip(&plain), "AArch64 Image, compressed by gzip"),
        (zboot(&gzip(&plain), b""), "AArch64 Image in an EFI zboot program, compressed by gzip"),
        (
            zboot(&lz4(&plain), &(plain.len() as u32).to_le_bytes()),
            "AArch64 Image in an EFI zboot program, compressed by lz4",
        ),
    ] {
        assert_eq!(guest_arch(&KernelImage::builtin(file.clone())).unwrap(), GuestArch::Aarch64);
        let inspection = inspect_image(&KernelImage::builtin(file.clone())).unwrap();
        assert_eq!(inspection.boots_as.as_deref(), Some(words));
        let loaded = try_load(file, 64, None).unwrap();
        assert_eq!(loaded.protocol, words);
        assert_eq!(read(&loaded.memory, loaded.regs.pc, plain.len()), plain);
    }
}

/// lz4's legacy format.
fn lz4(content: &[u8]) -> Vec<u8> {
    let block = lz4_flex::block::compress(content);
    let mut file = 0x184C_2102_u32.to_le_bytes().to_vec();
    file.extend((block.len() as u32).to_le_bytes());
    file.extend(block);
    file
}

#[test]
fn what_is_compressed_and_no_image_is_left_to_the_other_loaders() {
    for file in [gzip(b"text"), zboot(&gzip(b"text"), b""), gzip(&image(0, MIB, b""))[..12].to_vec()] {
        assert_eq!(guest_arch(&KernelImage::builtin(file)).unwrap(), GuestArch::X86_64);
    }
}

#[test]
fn an_elf_file_goes_where_it_is_linked_and_the_tree_to_the_beginning_of_ram() {
    let loaded = try_load(elf(0x4020_0010, &[part(0x4020_0000, &[9; 64])]), 64, None).unwrap();
    assert_eq!((loaded.regs.pc, loaded.regs.x0), (0x4020_0010, 0x4000_0000));
    assert_eq!(read(&loaded.memory, 0x4020_0000, 64), [9; 64]);
    assert_eq!(loaded.protocol, "AArch64 ELF at its entry point");
    // A file that is linked there has precedence.
    let loaded = try_load(elf(0x4000_0000, &[part(0x4000_0000, &[9; 64])]), 64, None).unwrap();
    assert_eq!((loaded.regs.pc, loaded.regs.x0), (0x4000_0000, 0x4000_1000));
}

#[test]
fn a_vmlinux_is_placed_by_its_image_header() {
    let high = 0xFFFF_8000_0800_0000_u64;
    let head = Part { virt: high, ..part(high, &image(0, 4 * MIB, b"text")) };
    let data = Part { virt: high + 0x10_0000, ..part(high + 0x10_0000, b"data") };
    let file = elf(high, &[head, data]);
    let loaded = try_load(file, 64, None).unwrap();
    assert_eq!(loaded.regs.pc, 0x4000_0000);
    assert_eq!(read(&loaded.memory, 0x4000_0000 + 64, 4), b"text");
    assert_eq!(read(&loaded.memory, 0x4010_0000, 4), b"data");
    // A segment outside the image.
    let far = Part { virt: high + 4 * MIB, ..part(high, b"data") };
    let head = Part { virt: high, ..part(high, &image(0, 4 * MIB, b"text")) };
    assert!(matches!(try_load(elf(high, &[head, far]), 64, None), Err(LoadError::Malformed { .. })));
}

#[test]
fn what_does_not_fit_is_an_error() {
    let error = |kernel, initrd| try_load(kernel, 64, initrd).map(|_| ()).unwrap_err().to_string();
    assert!(error(image(0, 65 * MIB, b""), None).contains("--memory"));
    assert!(error(image(0, 16, b"long"), None).contains("longer than"));
    assert!(error(image(0, MIB, b""), Some(vec![0; 64 << 20])).contains("the initrd"));
    assert!(error(elf(0x1000, &[part(0x1000, &[0; 8])]), None).contains("no RAM"));
    let mut big_endian = image(0, MIB, b"");
    big_endian[24] |= 1;
    assert!(error(big_endian, None).contains("big-endian"));
}

#[test]
fn command_lines_are_checked() {
    let kernel = || image(0, MIB, b"");
    assert_eq!(load_with(kernel(), 64, None, Some("quiet")).unwrap().cmdline, "quiet");
    let error = |cmdline: &str| load_with(kernel(), 64, None, Some(cmdline)).map(|_| ()).unwrap_err();
    assert!(matches!(error("a\0b"), LoadError::Nul { .. }));
    assert!(matches!(error(&"x".repeat(2048)), LoadError::CmdlineTooLong { .. }));
}

#[test]
fn other_architectures_are_told_apart() {
    let arch = |file: Vec<u8>| guest_arch(&KernelImage::builtin(file)).unwrap();
    assert_eq!(arch(image(0, MIB, b"")), GuestArch::Aarch64);
    assert_eq!(arch(elf(0, &[part(0, &[0; 8])])), GuestArch::Aarch64);
    assert_eq!(arch(crate::loader::testing::vmlinux(true)), GuestArch::X86_64);
    assert_eq!(arch(crate::loader::testing::bzimage(b"x")), GuestArch::X86_64);
    assert_eq!(arch(b"#!/bin/sh".to_vec()), GuestArch::X86_64);
}

#[test]
fn inspection_tells_what_an_aarch64_kernel_is() {
    let content = b"Linux version 9.8.7 (arm64)\n\0";
    let inspection = inspect_image(&KernelImage::builtin(image(0, 4 * MIB, content))).unwrap();
    assert_eq!(inspection.format, Some("Image"));
    assert_eq!(inspection.architecture, Some("AArch64"));
    assert_eq!(inspection.version.as_deref(), Some("9.8.7 (arm64)"));
    assert_eq!(inspection.entry_points[0].gpa, 0x4000_0000);
    let packed = inspect_image(&KernelImage::builtin(gzip(&image(0, 4 * MIB, content)))).unwrap();
    assert_eq!(packed.version.as_deref(), Some("9.8.7 (arm64)"));
    assert_eq!(packed.compression.as_deref(), Some("gzip"));
    let elf = inspect_image(&KernelImage::builtin(elf(0x4000_0000, &[part(0x4000_0000, b"x")]))).unwrap();
    assert_eq!((elf.format, elf.segments.len()), (Some("ELF64"), 1));
}

fn seeds() -> Vec<Vec<u8>> {
    let plain = image(0x8_0000, MIB, &[7; 500]);
    let high = 0xFFFF_8000_0800_0000_u64;
    vec![
        plain.clone(),
        gzip(&plain),
        zboot(&gzip(&plain), b""),
        zboot(&lz4(&plain), &(plain.len() as u32).to_le_bytes()),
        elf(0x4000_0000, &[part(0x4000_0000, &[1; 300]), part(0x4010_0000, &[2; 30])]),
        elf(high, &[Part { virt: high, ..part(high, &plain) }]),
    ]
}

proptest! {
    #[test]
    fn a_damaged_file_never_panics(
        seed in 0..6_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 0..6),
        length in prop::option::of(0..800_usize),
    ) {
        let mut file = seeds().swap_remove(seed);
        for (at, byte, early) in changes {
            let at = at.index(if early { 128.min(file.len()) } else { file.len() });
            file[at] = byte;
        }
        file.truncate(length.unwrap_or(usize::MAX));
        let image = KernelImage::builtin(file.clone());
        let _ = guest_arch(&image);
        let _ = inspect_image(&image);
        if let Err(error) = try_load(file, 16, Some(vec![1; 10])) {
            assert!(!error.to_string().contains('\n'));
        }
    }
}

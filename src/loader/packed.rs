//! A kernel's file that is compressed as a whole, as distributions ship Multiboot kernels. There is no code
//! in it that could decompress it in the guest, so it is done on the host.
#![forbid(unsafe_code)]

use std::io::Read;

use super::decompress::{Compression, believed_output};
use super::error::LoadError;
use super::image::KernelImage;
use super::{HEAD_BYTES, bzimage, elf, multiboot};

/// The most bytes that a kernel may decompress to.
const OUTPUT_MAX: u64 = 1 << 30;

/// Decompresses a kernel for x86-64, and answers it with the compression that it had. `None` is a file that is
/// not compressed, or has no kernel in it.
///
/// # Errors
/// When the file cannot be read, is damaged, or decompresses to more than any kernel.
pub fn unpack(image: &KernelImage) -> Result<Option<(KernelImage, Compression)>, LoadError> {
    let start = image.head(16)?;
    let compression = match Compression::detect(&start) {
        None | Some(Compression::None | Compression::Lzo) => return Ok(None),
        Some(compression) => compression,
    };
    let mut content = Vec::new();
    let Ok(mut reader) = compression.reader(image.reader(0, image.len()), OUTPUT_MAX) else {
        return Ok(None);
    };
    let begins = reader.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut content);
    if begins.is_err() || !is_kernel(&content) {
        return Ok(None);
    }
    let damaged =
        |reason| LoadError::Malformed { name: image.name().to_owned(), format: "compressed kernel", reason };
    let limit = OUTPUT_MAX.min(believed_output(image.len()));
    let left = limit - content.len() as u64;
    reader
        .take(left + 1)
        .read_to_end(&mut content)
        .map_err(|e| damaged(format!("its {compression} data: {e}")))?;
    if content.len() as u64 > limit {
        return Err(damaged(format!("its {} bytes decompress to more than {limit}", image.len())));
    }
    Ok(Some((KernelImage::memory(image.name(), content), compression)))
}

fn is_kernel(head: &[u8]) -> bool {
    head.starts_with(elf::MAGIC) || bzimage::is_bzimage(head) || multiboot::is_multiboot(head)
}

#[cfg(test)]
mod tests {
    use flate2::Compression as Level;
    use flate2::write::GzEncoder;
    use std::io::Write;

    use super::*;
    use crate::loader::testing::{bzimage, elf32, multiboot_header, part, try_load, vmlinux};

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Level::best());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn image(content: &[u8]) -> KernelImage {
        KernelImage::memory("kernel.gz", content.to_vec())
    }

    #[test]
    fn a_compressed_kernel_is_what_is_in_it() {
        let multiboot = elf32(0x10_0000, &[part(0x10_0000, &multiboot_header(0, &[]))]);
        for kernel in [multiboot, vmlinux(true), bzimage(&vmlinux(true))] {
            let (unpacked, compression) = unpack(&image(&gzip(&kernel))).unwrap().unwrap();
            assert_eq!((unpacked.name(), compression), ("kernel.gz", Compression::Gzip));
            assert!(unpacked.head(kernel.len() + 1).unwrap() == kernel);
            assert!(unpack(&image(&kernel)).unwrap().is_none());
        }
        // A payload of a bzImage, without the length behind it.
        let (xz, _) = include_bytes!("testdata/vmlinux.xz").split_last_chunk::<4>().unwrap();
        assert_eq!(unpack(&image(xz)).unwrap().unwrap().1, Compression::Xz);
    }

    #[test]
    fn what_has_no_kernel_in_it_is_left_alone() {
        for content in [&gzip(b"text")[..], &gzip(&gzip(&vmlinux(true))), b"text"] {
            assert!(unpack(&image(content)).unwrap().is_none());
        }
        let error = try_load(gzip(b"text"), 4).unwrap_err().to_string();
        assert!(error.contains("compressed by gzip"), "{error}");
    }

    #[test]
    fn damage_is_an_error() {
        let packed = gzip(&vmlinux(true));
        let error = unpack(&image(&packed[..packed.len() - 9])).unwrap_err().to_string();
        assert!(error.starts_with("kernel.gz is a damaged compressed kernel: its gzip data"), "{error}");
        assert!(unpack(&image(&packed[..12])).unwrap().is_none());
        let mut bomb = vmlinux(true);
        bomb.resize(65 << 20, 0);
        let error = unpack(&image(&gzip(&bomb))).unwrap_err().to_string();
        assert!(error.contains("decompress to more than 67108864"), "{error}");
    }
}

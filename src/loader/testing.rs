//! Kernels built byte by byte for the tests.
#![forbid(unsafe_code)]

use vm_memory::{Bytes, GuestAddress};

use super::{BootState, KernelImage, LoadError, LoadRequest, load};
use crate::accel::{GuestRegs, SpecialRegs, X86Regs, X86SpecialRegs};
use crate::memory::{GuestMemory, allocate};

pub const MIB: u64 = 1 << 20;

pub fn memory(mib: u64) -> GuestMemory {
    allocate(mib * MIB).unwrap()
}

pub fn request<'a>(kernel: Vec<u8>, memory: &'a GuestMemory) -> LoadRequest<'a> {
    LoadRequest {
        kernel: KernelImage::builtin(kernel),
        initrd: None,
        cmdline: Some("console=ttyS0"),
        modules: &[],
        flat: None,
        decompress: true,
        memory,
        rsdp: None,
    }
}

pub fn try_load(kernel: Vec<u8>, mib: u64) -> Result<BootState, LoadError> {
    load(&request(kernel, &memory(mib)))
}

pub fn registers(state: &BootState) -> (X86Regs, X86SpecialRegs) {
    match (state.regs, state.special) {
        (GuestRegs::X86_64(regs), Some(SpecialRegs::X86_64(special))) => (regs, special),
        other => panic!("{other:?}"),
    }
}

pub fn read(memory: &GuestMemory, gpa: u64, bytes: usize) -> Vec<u8> {
    let mut buffer = vec![0; bytes];
    memory.read_slice(&mut buffer, GuestAddress(gpa)).unwrap();
    buffer
}

pub fn read_u32(memory: &GuestMemory, gpa: u64) -> u32 {
    memory.read_obj(GuestAddress(gpa)).unwrap()
}

pub fn read_u64(memory: &GuestMemory, gpa: u64) -> u64 {
    memory.read_obj(GuestAddress(gpa)).unwrap()
}

pub fn read_string(memory: &GuestMemory, gpa: u64) -> String {
    let bytes: Vec<u8> = (gpa..)
        .map(|gpa| memory.read_obj(GuestAddress(gpa)).unwrap())
        .take_while(|&byte: &u8| byte != 0)
        .collect();
    String::from_utf8(bytes).unwrap()
}

/// A segment of an ELF file.
#[derive(Clone)]
pub struct Part {
    pub gpa: u64,
    pub virt: u64,
    pub content: Vec<u8>,
    pub memory_bytes: u64,
}

pub fn part(gpa: u64, content: &[u8]) -> Part {
    Part { gpa, virt: gpa, content: content.to_vec(), memory_bytes: content.len() as u64 }
}

/// An ELF64 executable with these segments, and a note segment if there is a note.
pub fn elf64(entry: u64, parts: &[Part], note: Option<&[u8]>) -> Vec<u8> {
    let count = parts.len() + usize::from(note.is_some());
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    [entry, 64, 0].iter().for_each(|field| file.extend(field.to_le_bytes()));
    file.extend(0_u32.to_le_bytes());
    [64, 56, count as u16, 0, 0, 0].iter().for_each(|field: &u16| file.extend(field.to_le_bytes()));
    let mut contents = Vec::new();
    let start = (64 + 56 * count).next_multiple_of(16) as u64;
    let note = note.map(|note| (4_u32, part(0, note)));
    for (kind, part) in parts.iter().map(|part| (1_u32, part.clone())).chain(note) {
        let fields = [
            start + contents.len() as u64,
            part.virt,
            part.gpa,
            part.content.len() as u64,
            part.memory_bytes,
            4,
        ];
        [kind, 7].iter().for_each(|field| file.extend(field.to_le_bytes()));
        fields.iter().for_each(|field| file.extend(field.to_le_bytes()));
        contents.extend(&part.content);
        contents.resize(contents.len().next_multiple_of(16), 0);
    }
    file.resize(start as usize, 0);
    file.extend(contents);
    file
}

/// An ELF32 executable with these segments.
pub fn elf32(entry: u32, parts: &[Part]) -> Vec<u8> {
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([2, 0, 3, 0, 1, 0, 0, 0]);
    [entry, 52, 0, 0].iter().for_each(|field| file.extend(field.to_le_bytes()));
    [52, 32, parts.len() as u16, 0, 0, 0].iter().for_each(|field: &u16| file.extend(field.to_le_bytes()));
    let start = (52 + 32 * parts.len()).next_multiple_of(16);
    let mut contents = Vec::new();
    for part in parts {
        let offset = (start + contents.len()) as u32;
        let (file_bytes, memory_bytes) = (part.content.len() as u32, part.memory_bytes as u32);
        [1, offset, part.virt as u32, part.gpa as u32, file_bytes, memory_bytes, 7, 4]
            .iter()
            .for_each(|field: &u32| file.extend(field.to_le_bytes()));
        contents.extend(&part.content);
        contents.resize(contents.len().next_multiple_of(16), 0);
    }
    file.resize(start, 0);
    file.extend(contents);
    file
}

/// A note with a PVH entry point.
pub fn pvh_note(entry: u32) -> Vec<u8> {
    let mut note = Vec::new();
    [4, 4, 18].iter().for_each(|field: &u32| note.extend(field.to_le_bytes()));
    note.extend(b"Xen\0");
    note.extend(entry.to_le_bytes());
    note
}

/// Code with calls, which xz's x86 filter changes, then zeros.
pub fn code() -> Vec<u8> {
    let mut code = Vec::new();
    for i in 0..1000_u32 {
        code.push(0xE8);
        code.extend(0x1000_u32.wrapping_sub(i * 7).to_le_bytes());
        code.extend([0x48, 0x89, i as u8, 0x90]);
    }
    code.resize(20 << 10, 0);
    code
}

pub const VMLINUX_ENTRY: u64 = 0x100_0000;
pub const VMLINUX_PVH_ENTRY: u32 = 0x100_0010;
pub const VMLINUX_DATA: u64 = 0x110_0000;

/// What Linux's vmlinux looks like.
pub fn vmlinux(pvh: bool) -> Vec<u8> {
    let high = 0xFFFF_FFFF_8000_0000_u64;
    let text = Part { virt: high + VMLINUX_ENTRY, ..part(VMLINUX_ENTRY, &code()) };
    let data = b"Linux version 9.8.7 (test)\n\0";
    let data = Part { virt: high + VMLINUX_DATA, memory_bytes: 0x1_0000, ..part(VMLINUX_DATA, data) };
    elf64(VMLINUX_ENTRY, &[text, data], pvh.then(|| pvh_note(VMLINUX_PVH_ENTRY)).as_deref())
}

pub const BZIMAGE_PAYLOAD: usize = 1024 + 0x240;

/// A bzImage with this payload.
pub fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; BZIMAGE_PAYLOAD];
    let mut set = |offset: usize, bytes: &[u8]| file[offset..offset + bytes.len()].copy_from_slice(bytes);
    let kernel_bytes = (0x240 + payload.len()).next_multiple_of(16);
    set(0x1F1, &[1]);
    set(0x1F4, &(kernel_bytes as u32 / 16).to_le_bytes());
    set(0x1FE, &[0x55, 0xAA, 0xEB, 0x66]);
    set(0x202, b"HdrS");
    set(0x206, &0x20F_u16.to_le_bytes());
    set(0x20E, &0x100_u16.to_le_bytes());
    set(0x211, &[1]);
    set(0x214, &0x10_0000_u32.to_le_bytes());
    set(0x22C, &0x7FFF_FFFF_u32.to_le_bytes());
    set(0x230, &0x20_0000_u32.to_le_bytes());
    set(0x234, &[1, 21, 3, 0]);
    set(0x238, &2047_u32.to_le_bytes());
    set(0x248, &0x240_u32.to_le_bytes());
    set(0x24C, &(payload.len() as u32).to_le_bytes());
    set(0x258, &VMLINUX_ENTRY.to_le_bytes());
    set(0x260, &0x40_0000_u32.to_le_bytes());
    set(0x300, b"9.8.7-test #1\0");
    set(1024, b"32-bit entry");
    set(1024 + 0x200, b"64-bit entry");
    file.extend(payload);
    file.resize(1024 + kernel_bytes, 0);
    file
}

/// A Multiboot header with these flags, and its address fields.
pub fn multiboot_header(flags: u32, addresses: &[u32]) -> Vec<u8> {
    let magic = 0x1BAD_B002_u32;
    let checksum = 0_u32.wrapping_sub(magic).wrapping_sub(flags);
    [magic, flags, checksum].iter().chain(addresses).flat_map(|word| word.to_le_bytes()).collect()
}

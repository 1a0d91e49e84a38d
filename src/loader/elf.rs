//! ELF executables: the headers, checked, and the way of their segments into guest memory (System V
//! gABI, chapters 4 and 5).
#![forbid(unsafe_code)]

use std::io::{BufRead, Read};

use super::error::LoadError;
use super::image::{KernelImage, write};
use super::layout::Placement;
use crate::accel::GuestArch;
use crate::memory::GuestMemory;

/// First bytes of every ELF file.
pub const MAGIC: &[u8] = b"\x7fELF";

const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
/// The number of AArch64 in an ELF header.
pub const EM_AARCH64: u16 = 183;
const ET_REL: u16 = 1;
const ET_CORE: u16 = 4;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
/// More program headers than any kernel has.
const PROGRAM_HEADERS_MAX: u16 = 1024;
/// More bytes than the notes of any kernel have.
const NOTES_MAX: u64 = 1 << 20;
/// Where the program headers of a compressed file end at the latest.
const STREAM_HEADERS_MAX: u64 = 1 << 20;
/// Zeros are left out by pieces of this many bytes.
const ZERO_PIECE: usize = 4096;

/// The width of an ELF file's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// ELF32.
    Elf32,
    /// ELF64.
    Elf64,
}

/// A part of the file that is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Offset in the file.
    pub offset: u64,
    /// Bytes that the file has.
    pub file_bytes: u64,
    /// Guest-physical address.
    pub gpa: u64,
    /// Bytes in memory; what the file does not have is zero.
    pub memory_bytes: u64,
    /// Virtual address.
    pub virt: u64,
}

/// A range of the file that holds notes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Notes {
    offset: u64,
    bytes: u64,
    align: u64,
}

/// The checked headers of an ELF executable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elf {
    /// Width of its addresses.
    pub class: Class,
    /// Guest-physical address of the entry point, as the file says; see `checked_entry`.
    pub entry: u64,
    /// What is loaded, in the file's order of program headers.
    pub loads: Vec<Load>,
    notes: Vec<Notes>,
}

/// A note: the name without its NUL, the type, the content.
pub struct Note<'a> {
    /// Who defined the note.
    pub name: &'a [u8],
    /// Its type.
    pub kind: u32,
    /// Its content.
    pub content: &'a [u8],
}

/// The file header's fields that tell where the program headers are.
struct FileHeader {
    class: Class,
    entry: u64,
    table_offset: u64,
    entry_bytes: u16,
    count: u16,
}

/// Little-endian fields of a byte range; out of range is `None`.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..)?.first_chunk().copied()
    }
    fn u16(self, offset: usize) -> Option<u16> {
        self.array(offset).map(u16::from_le_bytes)
    }
    fn u32(self, offset: usize) -> Option<u32> {
        self.array(offset).map(u32::from_le_bytes)
    }
    fn u64(self, offset: usize) -> Option<u64> {
        self.array(offset).map(u64::from_le_bytes)
    }
    /// A field that is as wide as an address.
    fn address(self, class: Class, offset: usize) -> Option<u64> {
        match class {
            Class::Elf32 => self.u32(offset).map(u64::from),
            Class::Elf64 => self.u64(offset),
        }
    }
}

impl Elf {
    /// Reads and checks the headers of a file that starts with `head`.
    ///
    /// # Errors
    /// When the file is damaged, or is no executable for a bare machine of this architecture.
    pub fn parse(image: &KernelImage, head: &[u8], guest: GuestArch) -> Result<Self, LoadError> {
        let name = image.name();
        let header = FileHeader::parse(name, head, guest)?;
        let bytes = header.table_bytes();
        if header.table_offset.checked_add(bytes).is_none_or(|end| end > image.len()) {
            return Err(malformed(name, "its program headers lie behind the end of the file"));
        }
        let table = image.range(header.table_offset, bytes)?;
        Self::from_table(name, &header, &table, image.len())
    }

    fn from_table(name: &str, header: &FileHeader, table: &[u8], file_bytes: u64) -> Result<Self, LoadError> {
        let (mut loads, mut notes) = (Vec::new(), Vec::new());
        for entry in table.chunks_exact(header.entry_bytes.into()) {
            let program = Program::parse(header.class, entry)
                .ok_or_else(|| malformed(name, "its program headers are cut off"))?;
            let in_file = program.offset.checked_add(program.file_bytes).is_some_and(|end| end <= file_bytes);
            match program.kind {
                PT_INTERP => {
                    return Err(LoadError::Unsupported {
                        name: name.to_owned(),
                        reason: "this is a program for an operating system, not a kernel".to_owned(),
                        remedy: "Give a kernel, and the program in its `--initrd`",
                    });
                }
                PT_LOAD if program.memory_bytes < program.file_bytes => {
                    let (file, memory) = (program.file_bytes, program.memory_bytes);
                    let reason =
                        format!("a segment has {file:#x} bytes in the file and {memory:#x} in memory");
                    return Err(malformed(name, &reason));
                }
                PT_LOAD if !in_file && program.file_bytes > 0 => {
                    return Err(malformed(name, "a segment goes on behind the end of the file"));
                }
                PT_LOAD if program.memory_bytes > 0 => loads.push(program.load()),
                PT_NOTE if in_file && program.file_bytes <= NOTES_MAX && notes.len() < 16 => {
                    notes.push(program.notes());
                }
                _ => {}
            }
        }
        if loads.is_empty() {
            return Err(malformed(name, "it has nothing to load"));
        }
        // Some linkers leave every physical address at 0; the virtual ones are meant then.
        if loads.len() > 1 && loads.iter().all(|load| load.gpa == 0) {
            for load in &mut loads {
                load.gpa = load.virt;
            }
        }
        let entry = physical_entry(&loads, header.entry);
        Ok(Self { class: header.class, entry, loads, notes })
    }

    /// The entry point, which must lie in a segment. (A kernel with a PVH note, or with Multiboot's
    /// address fields, need not have one.)
    ///
    /// # Errors
    /// When it does not.
    pub fn checked_entry(&self, name: &str) -> Result<u64, LoadError> {
        if !self.contains(self.entry) {
            let reason = format!("its entry point {:#x} lies in none of its segments", self.entry);
            return Err(malformed(name, &reason));
        }
        Ok(self.entry)
    }

    /// Takes the places of the segments.
    ///
    /// # Errors
    /// When one lies outside RAM or overlaps something.
    pub fn fix(&self, name: &str, placement: &mut Placement<'_>) -> Result<(), LoadError> {
        let what = format!("a segment of {name}");
        self.loads.iter().try_for_each(|load| placement.fix(&what, load.gpa, load.memory_bytes))
    }

    /// Takes the places of the segments and copies them to guest memory, which is zero where the file
    /// has nothing.
    ///
    /// # Errors
    /// As for `fix`, and when the file cannot be read.
    pub fn load(
        &self,
        image: &KernelImage,
        memory: &GuestMemory,
        placement: &mut Placement<'_>,
    ) -> Result<(), LoadError> {
        self.fix(image.name(), placement)?;
        self.loads.iter().try_for_each(|load| image.copy_to(memory, load.gpa, load.offset, load.file_bytes))
    }

    /// Whether a guest-physical address lies in a segment.
    #[must_use]
    pub fn contains(&self, gpa: u64) -> bool {
        self.loads.iter().any(|load| gpa.checked_sub(load.gpa).is_some_and(|at| at < load.memory_bytes))
    }

    /// The first note that `pick` takes, read from the file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn find_note<T>(
        &self,
        image: &KernelImage,
        pick: impl Fn(&Note<'_>) -> Option<T>,
    ) -> Result<Option<T>, LoadError> {
        for notes in &self.notes {
            let content = image.range(notes.offset, notes.bytes)?;
            if let Some(found) = pick_note(&content, notes.align, &pick) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// An ELF file that comes out of a decompressor, in order and once.
pub struct ElfStream<'a> {
    /// Its headers.
    pub elf: Elf,
    source: Box<dyn BufRead + 'a>,
    head: Vec<u8>,
    limit: u64,
}

impl<'a> ElfStream<'a> {
    /// Reads the headers. `limit` is the most bytes that the file may have.
    ///
    /// # Errors
    /// As for `Elf::parse`, and when the decompressor fails.
    pub fn open(name: &str, mut source: Box<dyn BufRead + 'a>, limit: u64) -> Result<Self, LoadError> {
        let failed = |offset: u64, source| LoadError::Read { name: name.to_owned(), offset, source };
        let mut head = Vec::new();
        source.by_ref().take(64).read_to_end(&mut head).map_err(|e| failed(0, e))?;
        let header = FileHeader::parse(name, &head, GuestArch::X86_64)?;
        let start = usize::try_from(header.table_offset).unwrap_or(usize::MAX);
        let bytes = header.table_bytes();
        let end = header.table_offset.checked_add(bytes).filter(|&end| end <= limit.min(STREAM_HEADERS_MAX));
        let end = end.ok_or_else(|| malformed(name, "its program headers lie too far behind"))?;
        let missing = end.saturating_sub(head.len() as u64);
        source.by_ref().take(missing).read_to_end(&mut head).map_err(|e| failed(64, e))?;
        let table = usize::try_from(end).ok().and_then(|end| head.get(start..end));
        let table = table.ok_or_else(|| malformed(name, "it ends within its program headers"))?;
        let elf = Elf::from_table(name, &header, table, limit)?;
        Ok(Self { elf, source, head, limit })
    }

    /// Reads the rest, copies the segments to guest memory if it is given, and answers the first note
    /// that `pick` takes. The whole input is read, so that its checksum, if it has one, is checked.
    ///
    /// # Errors
    /// When the decompressor fails, or the input ends early or does not end.
    pub fn finish<T>(
        self,
        name: &str,
        memory: Option<&GuestMemory>,
        pick: impl Fn(&Note<'_>) -> Option<T>,
    ) -> Result<Option<T>, LoadError> {
        let Self { elf, mut source, head, limit } = self;
        let mut notes = vec![Vec::new(); elf.notes.len()];
        elf.deliver(0, &head, memory, &mut notes)?;
        let mut offset = head.len() as u64;
        loop {
            let failed = |source| LoadError::Read { name: name.to_owned(), offset, source };
            let bytes = source.fill_buf().map_err(failed)?;
            if bytes.is_empty() {
                break;
            }
            elf.deliver(offset, bytes, memory, &mut notes)?;
            let length = bytes.len();
            source.consume(length);
            offset = offset.saturating_add(length as u64);
            if offset > limit {
                return Err(malformed(name, "it is longer than it says"));
            }
        }
        let ends = elf.loads.iter().map(|load| load.offset.saturating_add(load.file_bytes));
        if ends.max().is_some_and(|end| end > offset) {
            return Err(malformed(name, "it ends within a segment"));
        }
        let mut ranges = elf.notes.iter().zip(&notes);
        Ok(ranges.find_map(|(range, content)| pick_note(content, range.align, &pick)))
    }
}

impl Elf {
    /// Takes what falls into segments and notes of `bytes`, which lie at `offset` of the file.
    fn deliver(
        &self,
        offset: u64,
        bytes: &[u8],
        memory: Option<&GuestMemory>,
        notes: &mut [Vec<u8>],
    ) -> Result<(), LoadError> {
        if let Some(memory) = memory {
            for load in &self.loads {
                if let Some((at, part)) = part(bytes, offset, load.offset, load.file_bytes) {
                    write_non_zero(memory, load.gpa.saturating_add(at), part)?;
                }
            }
        }
        for (range, content) in self.notes.iter().zip(notes) {
            if let Some((_, part)) = part(bytes, offset, range.offset, range.bytes) {
                content.extend_from_slice(part);
            }
        }
        Ok(())
    }
}

/// Writes to guest memory that is zero, and leaves out pages of zeros: a vmlinux stores its bss, and the
/// host need not give memory for that.
fn write_non_zero(memory: &GuestMemory, gpa: u64, bytes: &[u8]) -> Result<(), LoadError> {
    let mut start = 0;
    while let Some(rest) = bytes.get(start..).filter(|rest| !rest.is_empty()) {
        let zeros = rest.chunks(ZERO_PIECE).take_while(|piece| is_zero(piece)).map(<[u8]>::len).sum();
        let rest = rest.get(zeros..).unwrap_or_default();
        let length = rest.chunks(ZERO_PIECE).take_while(|piece| !is_zero(piece)).map(<[u8]>::len).sum();
        start += zeros;
        if let Some(part) = rest.get(..length).filter(|part| !part.is_empty()) {
            write(memory, gpa.saturating_add(start as u64), part)?;
        }
        start += length;
    }
    Ok(())
}

fn is_zero(bytes: &[u8]) -> bool {
    // By cache lines, so that a page with content is left early and one without is looked at quickly.
    bytes.chunks(64).all(|line| line.iter().fold(0, |all, &byte| all | byte) == 0)
}

/// The part of `bytes`, which lie at `offset` of a file, that falls into a range of the file, and its
/// place in the range.
fn part(bytes: &[u8], offset: u64, range: u64, range_bytes: u64) -> Option<(u64, &[u8])> {
    let end = offset.checked_add(bytes.len() as u64)?;
    let from = offset.max(range);
    let to = end.min(range.checked_add(range_bytes)?);
    let index = |at: u64| usize::try_from(at.checked_sub(offset)?).ok();
    (from < to).then_some(())?;
    Some((from - range, bytes.get(index(from)?..index(to)?)?))
}

/// The entry point as a guest-physical address: a virtual one is translated by its segment.
fn physical_entry(loads: &[Load], entry: u64) -> u64 {
    let within = |start: u64, load: &Load| entry.checked_sub(start).filter(|&at| at < load.memory_bytes);
    if loads.iter().any(|load| within(load.gpa, load).is_some()) {
        return entry;
    }
    loads
        .iter()
        .find_map(|load| within(load.virt, load).and_then(|at| load.gpa.checked_add(at)))
        .unwrap_or(entry)
}

/// The machine number in the header of a file that starts with `head`; `None` if it is no little-endian ELF
/// file.
#[must_use]
pub fn machine(head: &[u8]) -> Option<u16> {
    (head.starts_with(MAGIC) && head.get(5) == Some(&1)).then(|| Fields(head).u16(18))?
}

impl FileHeader {
    fn parse(name: &str, head: &[u8], guest: GuestArch) -> Result<Self, LoadError> {
        let fields = Fields(head);
        if !head.starts_with(MAGIC) {
            return Err(malformed(name, "it does not begin as one"));
        }
        let cut_off = || malformed(name, "its header is cut off");
        let byte = |offset: usize| head.get(offset).copied().ok_or_else(cut_off);
        let class = match byte(4)? {
            1 => Class::Elf32,
            2 => Class::Elf64,
            class => return Err(malformed(name, &format!("its class is {class}"))),
        };
        if byte(5)? != 1 {
            return Err(unsupported(name, "it is for a big-endian machine".to_owned()));
        }
        let machine = fields.u16(18).ok_or_else(cut_off)?;
        match (guest, class, machine) {
            (GuestArch::X86_64, Class::Elf32, EM_386 | EM_X86_64)
            | (GuestArch::X86_64, Class::Elf64, EM_X86_64)
            | (GuestArch::Aarch64, Class::Elf64, EM_AARCH64) => {}
            _ => return Err(unsupported(name, format!("it is for {}", machine_name(machine)))),
        }
        match fields.u16(16).ok_or_else(cut_off)? {
            ET_REL => return Err(unsupported(name, "it is an object file, not linked yet".to_owned())),
            ET_CORE => return Err(unsupported(name, "it is a core dump".to_owned())),
            _ => {}
        }
        let (table, sizes, least) = match class {
            Class::Elf32 => (28, 42, 32),
            Class::Elf64 => (32, 54, 56),
        };
        let header = Self {
            class,
            entry: fields.address(class, 24).ok_or_else(cut_off)?,
            table_offset: fields.address(class, table).ok_or_else(cut_off)?,
            entry_bytes: fields.u16(sizes).ok_or_else(cut_off)?,
            count: fields.u16(sizes + 2).ok_or_else(cut_off)?,
        };
        if header.count == 0 {
            return Err(malformed(name, "it has no program headers"));
        }
        if header.entry_bytes != least || header.count > PROGRAM_HEADERS_MAX {
            let (count, bytes) = (header.count, header.entry_bytes);
            return Err(malformed(name, &format!("it has {count} program headers of {bytes} bytes")));
        }
        Ok(header)
    }

    fn table_bytes(&self) -> u64 {
        u64::from(self.entry_bytes) * u64::from(self.count)
    }
}

/// A program header.
struct Program {
    kind: u32,
    offset: u64,
    virt: u64,
    phys: u64,
    file_bytes: u64,
    memory_bytes: u64,
    align: u64,
}

impl Program {
    fn parse(class: Class, entry: &[u8]) -> Option<Self> {
        let fields = Fields(entry);
        let offsets: [usize; 6] = match class {
            Class::Elf32 => [4, 8, 12, 16, 20, 28],
            Class::Elf64 => [8, 16, 24, 32, 40, 48],
        };
        let [offset, virt, phys, file_bytes, memory_bytes, align] =
            offsets.map(|offset| fields.address(class, offset));
        Some(Self {
            kind: fields.u32(0)?,
            offset: offset?,
            virt: virt?,
            phys: phys?,
            file_bytes: file_bytes?,
            memory_bytes: memory_bytes?,
            align: align?,
        })
    }

    fn load(&self) -> Load {
        Load {
            offset: self.offset,
            file_bytes: self.file_bytes,
            gpa: self.phys,
            memory_bytes: self.memory_bytes,
            virt: self.virt,
        }
    }

    fn notes(&self) -> Notes {
        Notes { offset: self.offset, bytes: self.file_bytes, align: self.align }
    }
}

/// The first of the notes in `content` that `pick` takes. Notes are 4-byte aligned unless their
/// segment is 8-byte aligned. A note that is cut off ends the search.
fn pick_note<T>(content: &[u8], align: u64, pick: &impl Fn(&Note<'_>) -> Option<T>) -> Option<T> {
    let align = if align == 8 { 8 } else { 4 };
    let mut at = 0_usize;
    loop {
        let fields = Fields(content.get(at..)?);
        let name_bytes = usize::try_from(fields.u32(0)?).ok()?;
        let content_bytes = usize::try_from(fields.u32(4)?).ok()?;
        let name_end = name_bytes.checked_add(12)?;
        let content_start = name_end.checked_next_multiple_of(align)?;
        let content_end = content_start.checked_add(content_bytes)?;
        let name = fields.0.get(12..name_end)?;
        let note = Note {
            name: name.strip_suffix(b"\0").unwrap_or(name),
            kind: fields.u32(8)?,
            content: fields.0.get(content_start..content_end)?,
        };
        if let Some(found) = pick(&note) {
            return Some(found);
        }
        at = at.checked_add(content_end.checked_next_multiple_of(align)?)?;
    }
}

fn machine_name(machine: u16) -> String {
    match machine {
        EM_386 => "x86-32".to_owned(),
        8 => "MIPS".to_owned(),
        20 | 21 => "PowerPC".to_owned(),
        40 => "ARM".to_owned(),
        EM_AARCH64 => "AArch64".to_owned(),
        243 => "RISC-V".to_owned(),
        other => format!("machine number {other}"),
    }
}

fn malformed(name: &str, reason: &str) -> LoadError {
    LoadError::Malformed { name: name.to_owned(), format: "ELF file", reason: reason.to_owned() }
}

fn unsupported(name: &str, reason: String) -> LoadError {
    LoadError::Unsupported {
        name: name.to_owned(),
        reason,
        remedy: "Give an executable for a bare x86-64 machine",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::testing::{
        Part, elf32, elf64, memory, part, pvh_note, read, request, try_load, vmlinux,
    };
    use crate::loader::{load, pvh};

    fn parse(file: Vec<u8>) -> Result<Elf, LoadError> {
        let image = KernelImage::builtin(file);
        Elf::parse(&image, &image.head(8192).unwrap(), GuestArch::X86_64)
    }

    fn error(file: Vec<u8>) -> String {
        let error = parse(file).unwrap_err().to_string();
        assert!(!error.contains('\n'));
        error
    }

    fn kernel() -> Vec<u8> {
        elf64(0x10_0000, &[part(0x10_0000, &[0x90; 64])], None)
    }

    #[test]
    fn both_classes_are_read_alike() {
        let elf = parse(kernel()).unwrap();
        assert_eq!((elf.class, elf.entry), (Class::Elf64, 0x10_0000));
        let elf = parse(elf32(0x10_0004, &[part(0x10_0000, &[0x90; 64])])).unwrap();
        assert_eq!((elf.class, elf.entry), (Class::Elf32, 0x10_0004));
        assert_eq!((elf.loads[0].gpa, elf.loads[0].file_bytes), (0x10_0000, 64));
    }

    #[test]
    fn a_virtual_entry_point_is_translated() {
        let high = 0xFFFF_FFFF_8000_0000;
        let text = Part { virt: high, ..part(0x20_0000, &[0x90; 64]) };
        assert_eq!(parse(elf64(high + 8, &[text], None)).unwrap().entry, 0x20_0008);
    }

    #[test]
    fn headers_that_contradict_the_file_are_refused() {
        for length in [4, 16, 63, 64, 100] {
            assert!(error(kernel()[..length].to_vec()).contains("damaged ELF"), "{length}");
        }
        let change = |offset: usize, bytes: &[u8]| {
            let mut file = kernel();
            file[offset..offset + bytes.len()].copy_from_slice(bytes);
            file
        };
        assert!(error(change(4, &[3])).contains("class"));
        assert!(error(change(5, &[2])).contains("big-endian"));
        assert!(error(change(16, &[1])).contains("object file"));
        assert!(error(change(18, &[183])).contains("AArch64"));
        let lost = parse(change(24, &[0; 8])).unwrap();
        assert!(lost.checked_entry("x").unwrap_err().to_string().contains("entry point"));
        assert!(try_load(change(24, &[0; 8]), 4).unwrap_err().to_string().contains("entry point"));
        assert!(error(change(32, &[0xFF; 8])).contains("behind the end"));
        assert!(error(change(54, &[55])).contains("55 bytes"));
        assert!(error(change(56, &[0xFF, 0xFF])).contains("65535 program headers"));
        assert!(error(change(56, &[0, 0])).contains("no program headers"));
        assert!(error(change(64, &[3])).contains("a program for an operating system"));
        assert!(error(change(64, &[9])).contains("nothing to load"));
        assert!(error(change(64 + 8, &[0xFF; 8])).contains("behind the end"));
        assert!(error(change(64 + 32, &[0xFF])).contains("in the file and"));
        assert!(error(change(64 + 40, &[1, 0])).contains("in the file and"));
    }

    #[test]
    fn segments_must_lie_in_memory_and_apart() {
        let load = |parts: &[Part]| try_load(elf64(parts[0].gpa, parts, None), 2).unwrap_err();
        let outside = load(&[part(0x1F_FFC1, &[1; 64])]);
        assert!(matches!(outside, LoadError::OutsideMemory { .. }), "{outside}");
        let bss = Part { memory_bytes: u64::MAX, ..part(0x10_0000, &[1; 64]) };
        assert!(matches!(load(&[bss]), LoadError::OutsideMemory { .. }));
        let overlap = load(&[part(0x10_0000, &[1; 64]), part(0x10_003F, &[1; 64])]);
        assert!(matches!(overlap, LoadError::Overlap { .. }), "{overlap}");
    }

    #[test]
    fn notes_are_found_behind_others_and_absurd_ones_end_the_search() {
        let find = |note: Vec<u8>| {
            let image = KernelImage::builtin(elf64(0x10_0000, &[part(0x10_0000, &[1; 64])], Some(&note)));
            parse(image.range(0, image.len()).unwrap()).unwrap().find_note(&image, pvh::entry).unwrap()
        };
        let mut other = vec![4, 0, 0, 0, 5, 0, 0, 0, 18, 0, 0, 0];
        other.extend(b"GNU\0hello\0\0\0");
        assert_eq!(find([other.clone(), pvh_note(0x10_0000)].concat()), Some(0x10_0000));
        for at in [0, 4] {
            let mut absurd = other.clone();
            absurd[at..at + 4].copy_from_slice(&[0xFF; 4]);
            assert_eq!(find([absurd, pvh_note(0x10_0000)].concat()), None);
        }
        assert_eq!(find(pvh_note(1)[..18].to_vec()), None);
    }

    #[test]
    fn a_stream_is_loaded_as_a_file_is() {
        let file = vmlinux(true);
        let direct = memory(32);
        load(&request(file.clone(), &direct)).unwrap();
        let streamed = memory(32);
        let stream = ElfStream::open("x", Box::new(&file[..]), file.len() as u64).unwrap();
        let loads = stream.elf.loads.clone();
        let entry = stream.finish("x", Some(&streamed), pvh::entry).unwrap();
        assert_eq!(entry, Some(crate::loader::testing::VMLINUX_PVH_ENTRY));
        for load in loads {
            let bytes = load.memory_bytes as usize;
            assert!(read(&direct, load.gpa, bytes) == read(&streamed, load.gpa, bytes));
        }
        for length in [10, 64, 200, 3000, file.len() - 60] {
            let stream = ElfStream::open("x", Box::new(&file[..length]), file.len() as u64);
            let finished = stream.and_then(|stream| stream.finish("x", None, pvh::entry));
            assert!(finished.is_err(), "{length}");
        }
        let long = [&file[..], &[0; 100]].concat();
        let stream = ElfStream::open("x", Box::new(&long[..]), file.len() as u64).unwrap();
        assert!(stream.finish("x", None, pvh::entry).is_err());
    }

    #[test]
    fn pages_of_zeros_are_left_out_and_nothing_else() {
        let memory = memory(1);
        write(&memory, 0, &[1; 0x1_0000]).unwrap();
        let mut bytes = vec![0; 0x5001];
        bytes[0x1FFF] = 7;
        bytes[0x5000] = 9;
        write_non_zero(&memory, 0x100, &bytes).unwrap();
        let mut expected = vec![1; 0x5001];
        expected[0x1000..0x2000].fill(0);
        (expected[0x1FFF], expected[0x5000]) = (7, 9);
        assert!(read(&memory, 0x100, 0x5001) == expected);
    }
}

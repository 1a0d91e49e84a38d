//! What an ELF program's headers say that it needs: its interpreter and its shared libraries.

use object::Endianness;
use object::elf::{self, FileHeader32, FileHeader64};
use object::read::StringTable;
use object::read::elf::{Dyn, FileHeader, ProgramHeader};

use crate::accel::GuestArch;

/// What makes two ELF files fit together: class (32 or 64 bits) and machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind {
    class: u8,
    machine: u16,
}

impl Kind {
    /// Whether a kernel of this architecture can run it. The 32-bit programs of AArch64's processors are among
    /// them, although not every processor has them: the guest's kernel knows.
    #[must_use]
    pub fn runs_on(self, guest: GuestArch) -> bool {
        match guest {
            GuestArch::X86_64 => [elf::EM_X86_64.0, elf::EM_386.0].contains(&self.machine),
            GuestArch::Aarch64 => [elf::EM_AARCH64.0, elf::EM_ARM.0].contains(&self.machine),
        }
    }

    /// The name that Debian gives the directory of such a file's libraries.
    #[must_use]
    pub fn multiarch(self) -> Option<&'static str> {
        match elf::Machine(self.machine) {
            elf::EM_X86_64 => Some("x86_64-linux-gnu"),
            elf::EM_386 => Some("i386-linux-gnu"),
            elf::EM_AARCH64 => Some("aarch64-linux-gnu"),
            elf::EM_ARM => Some("arm-linux-gnueabihf"),
            _ => None,
        }
    }
}

/// The needs of an ELF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// Class and machine.
    pub kind: Kind,
    /// PT_INTERP.
    pub interpreter: Option<String>,
    /// DT_NEEDED, in order.
    pub libraries: Vec<String>,
    /// DT_RPATH, where there is no DT_RUNPATH.
    pub rpath: Vec<String>,
    /// DT_RUNPATH.
    pub runpath: Vec<String>,
}

/// Whether `head` begins an ELF file.
#[must_use]
pub fn is_elf(head: &[u8]) -> bool {
    head.starts_with(&elf::ELFMAG)
}

/// Class and machine of an ELF file, from its first bytes.
#[must_use]
pub fn kind(head: &[u8]) -> Option<Kind> {
    if !is_elf(head) {
        return None;
    }
    let machine = <[u8; 2]>::try_from(head.get(18..20)?).ok()?;
    // The machines that can be meant here are all little-endian.
    Some(Kind { class: *head.get(4)?, machine: u16::from_le_bytes(machine) })
}

/// Reads an ELF file's needs.
///
/// # Errors
/// What is wrong with the file.
pub fn needs(file: &[u8]) -> Result<Needs, String> {
    let kind = kind(file).ok_or("it is no ELF file")?;
    match kind.class {
        1 => needs_of::<FileHeader32<Endianness>>(file, kind),
        2 => needs_of::<FileHeader64<Endianness>>(file, kind),
        class => Err(format!("its class is {class}")),
    }
}

fn needs_of<H: FileHeader<Endian = Endianness>>(file: &[u8], kind: Kind) -> Result<Needs, String> {
    let words = |e: object::Error| e.to_string();
    let header = H::parse(file).map_err(words)?;
    let endian = header.endian().map_err(words)?;
    let segments = header.program_headers(endian, file).map_err(words)?;
    let mut needs =
        Needs { kind, interpreter: None, libraries: Vec::new(), rpath: Vec::new(), runpath: Vec::new() };
    let mut dynamic: &[H::Dyn] = &[];
    for segment in segments {
        if let Some(path) = segment.interpreter(endian, file).map_err(words)? {
            needs.interpreter = Some(text(path)?);
        }
        if let Some(table) = segment.dynamic(endian, file).map_err(words)? {
            dynamic = table;
        }
    }
    let entries: Vec<(i64, u64)> = dynamic
        .iter()
        .map(|entry| (entry.tag(endian).0, entry.val(endian)))
        .take_while(|(tag, _)| *tag != elf::DT_NULL.0)
        .collect();
    let value = |wanted| entries.iter().find(|(tag, _)| *tag == wanted).map(|(_, value)| *value);
    let Some(address) = value(elf::DT_STRTAB.0) else { return Ok(needs) };
    let strings = segments
        .iter()
        .filter(|segment| segment.p_type(endian) == elf::PT_LOAD)
        .find_map(|segment| {
            let offset = address.checked_sub(segment.p_vaddr(endian).into())?;
            let start: u64 = segment.p_offset(endian).into();
            (offset < segment.p_filesz(endian).into()).then(|| start.checked_add(offset)).flatten()
        })
        .ok_or("its string table is in no segment")?;
    let end = strings.saturating_add(value(elf::DT_STRSZ.0).unwrap_or_default()).min(file.len() as u64);
    let strings = StringTable::new(file, strings, end);
    for (tag, value) in &entries {
        let string = || -> Result<String, String> {
            let offset = u32::try_from(*value).map_err(|e| e.to_string())?;
            text(strings.get(offset).map_err(|()| "a name is outside its string table")?)
        };
        let list = || string().map(|paths| paths.split(':').map(str::to_owned).collect());
        match elf::DynamicTag(*tag) {
            elf::DT_NEEDED => needs.libraries.push(string()?),
            elf::DT_RPATH => needs.rpath = list()?,
            elf::DT_RUNPATH => needs.runpath = list()?,
            _ => {}
        }
    }
    if !needs.runpath.is_empty() {
        needs.rpath.clear();
    }
    Ok(needs)
}

fn text(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a name is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::arch::init;
    use proptest::prelude::*;

    fn own() -> Vec<u8> {
        std::fs::read(std::env::current_exe().unwrap()).unwrap()
    }

    #[test]
    fn a_dynamic_program_names_its_needs() {
        let needs = needs(&own()).unwrap();
        assert!(needs.interpreter.is_some(), "{needs:?}");
        assert!(needs.libraries.iter().any(|name| name.starts_with("libc.")), "{needs:?}");
    }

    #[test]
    fn a_static_program_needs_nothing() {
        for guest in [GuestArch::X86_64, GuestArch::Aarch64] {
            let needs = needs(init(guest)).unwrap();
            for other in [GuestArch::X86_64, GuestArch::Aarch64] {
                assert_eq!(needs.kind.runs_on(other), guest == other);
            }
            assert_eq!((needs.interpreter, needs.libraries), (None, vec![]));
        }
    }

    #[test]
    fn damaged_files_are_no_panic() {
        assert!(needs(b"").is_err());
        assert!(needs(b"\x7fELF").is_err());
        let file = own();
        for length in (0..4096).step_by(7) {
            let _ = needs(&file[..length]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn changed_files_are_no_panic(changes in prop::collection::vec((0usize..2048, any::<u8>()), 1..20)) {
            let mut file = init(GuestArch::X86_64).to_vec();
            for (at, value) in changes {
                if let Some(byte) = file.get_mut(at) {
                    *byte = value;
                }
            }
            let _ = needs(&file);
        }
    }
}

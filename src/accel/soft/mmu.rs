//! Address translation: page walks and the translation lookaside buffers (Intel SDM vol. 3, chapter 4).

use super::abort::{Exec, vector};
use super::flags::rflags;
use super::ram::Ram;
use super::state::{Cpu, Mode, cr0, cr4, efer};

/// Physical address width: CPUID 0x8000_0008 has to say the same.
pub const MAXPHYADDR: u32 = 40;

/// Bits of a linear address that number its page.
pub const PAGE_MASK: u64 = !0xfff;

/// Entries of one buffer.
const ENTRIES: usize = 1024;
/// A tag that no page has.
const INVALID: u64 = 1;

/// The entry is in the log of those that a load of CR3 flushes.
const LOCAL: u8 = 1;
/// The entry is in the log of global ones.
const GLOBAL: u8 = 2;

/// Which buffer of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Want {
    /// Loads.
    Read = 0,
    /// Stores.
    Write = 1,
    /// Instruction fetches.
    Execute = 2,
}

/// With whose rights memory is accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// An explicit access at the current privilege level.
    Current,
    /// An implicit access of the system (GDT, LDT, IDT, TSS), whatever the CPL.
    Supervisor,
    /// An access as at CPL 3.
    User,
}

/// Sets of buffers: implicit supervisor accesses (SMAP in force), supervisor with AC set, user.
const SUPERVISOR: usize = 0;
const SUPERVISOR_AC: usize = 1;
const USER: usize = 2;

/// A translation. `addend` makes the host's address of a linear one, or, for `Want::Execute`, is the
/// guest-physical page.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Entry {
    pub tag: u64,
    pub addend: u64,
}

/// The translation lookaside buffers: three for each of three sets.
///
/// A flush clears what has been filled since the last one, so its cost is part of the fills'.
pub(super) struct Tlb {
    entries: Vec<Entry>,
    /// In which of the logs an entry is: `LOCAL`, `GLOBAL`.
    logged: Box<[u8]>,
    local: Vec<u16>,
    global: Vec<u16>,
    /// Linear ranges mapped by large pages since the last full flush, below and above the middle.
    large: [(u64, u64); 2],
}

impl Tlb {
    pub fn new() -> Self {
        let entries = vec![Entry { tag: INVALID, addend: 0 }; 9 * ENTRIES];
        let logged = vec![0; 9 * ENTRIES].into_boxed_slice();
        Self { entries, logged, local: Vec::new(), global: Vec::new(), large: [(u64::MAX, 0); 2] }
    }

    /// The first entry of a set.
    fn set(&mut self, set: usize) -> *const Entry {
        self.entries[set * 3 * ENTRIES..][..3 * ENTRIES].as_ptr()
    }

    fn fill(&mut self, set: usize, want: Want, la: u64, addend: u64, global: bool) {
        let index = set * 3 * ENTRIES + want as usize * ENTRIES + (la >> 12) as usize % ENTRIES;
        let (log, bit) = if global { (&mut self.global, GLOBAL) } else { (&mut self.local, LOCAL) };
        if self.logged[index] & bit == 0 {
            self.logged[index] |= bit;
            log.push(index as u16);
        }
        self.entries[index] = Entry { tag: la & PAGE_MASK, addend };
    }

    fn note_large(&mut self, start: u64, size: u64) {
        let range = &mut self.large[(start >> 63) as usize];
        range.0 = range.0.min(start);
        range.1 = range.1.max(start.wrapping_add(size - 1));
    }

    fn flush_local(&mut self) {
        for index in self.local.drain(..) {
            self.entries[usize::from(index)].tag = INVALID;
            self.logged[usize::from(index)] &= !LOCAL;
        }
    }

    pub fn flush_all(&mut self) {
        self.flush_local();
        for index in self.global.drain(..) {
            self.entries[usize::from(index)].tag = INVALID;
            self.logged[usize::from(index)] &= !GLOBAL;
        }
        self.large = [(u64::MAX, 0); 2];
    }

    fn flush_page(&mut self, la: u64) {
        let (low, high) = self.large[(la >> 63) as usize];
        if (low..=high).contains(&la) {
            return self.flush_all();
        }
        for buffer in self.entries.chunks_exact_mut(ENTRIES) {
            let entry = &mut buffer[(la >> 12) as usize % ENTRIES];
            if entry.tag == la & PAGE_MASK {
                entry.tag = INVALID;
            }
        }
    }

    /// Drops every store translation, so that a page that now holds code is written with care.
    pub fn flush_writes(&mut self) {
        for set in self.entries.chunks_exact_mut(3 * ENTRIES) {
            for entry in &mut set[ENTRIES..2 * ENTRIES] {
                entry.tag = INVALID;
            }
        }
    }

    /// Drops the store translations of one page of host memory.
    pub fn flush_writes_of(&mut self, host: u64) {
        for set in self.entries.chunks_exact_mut(3 * ENTRIES) {
            for entry in &mut set[ENTRIES..2 * ENTRIES] {
                if entry.tag.wrapping_add(entry.addend) == host {
                    entry.tag = INVALID;
                }
            }
        }
    }
}

/// The outcome of a walk that found a page; addresses are those of the 4 KiB page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Page {
    gpa: u64,
    user: bool,
    global: bool,
    large: Option<(u64, u64)>,
}

/// Bits of paging-structure entries.
mod entry {
    pub const P: u64 = 1;
    pub const W: u64 = 1 << 1;
    pub const U: u64 = 1 << 2;
    pub const A: u64 = 1 << 5;
    pub const D: u64 = 1 << 6;
    pub const PS: u64 = 1 << 7;
    pub const G: u64 = 1 << 8;
    pub const KEY_SHIFT: u32 = 59;
    pub const XD: u64 = 1 << 63;
}

/// Bits of a page fault's error code.
mod error {
    pub const P: u32 = 1;
    pub const W: u32 = 2;
    pub const U: u32 = 4;
    pub const RSVD: u32 = 8;
    pub const I: u32 = 16;
    pub const PK: u32 = 32;
}

/// What PKRU and `IA32_PKRS` say of a protection key.
mod key {
    pub const ACCESS: u32 = 1;
    pub const WRITE: u32 = 2;
}

/// What a walk is for.
#[derive(Clone, Copy)]
struct Rights {
    want: Want,
    /// At user privilege.
    user: bool,
    /// Supervisor data accesses to user pages are allowed.
    smap_open: bool,
}

const PHYSICAL: u64 = ((1 << MAXPHYADDR) - 1) & PAGE_MASK;
const ENTRY_ADDRESS: u64 = ((1 << 52) - 1) & PAGE_MASK;

fn read_entry(ram: &Ram, gpa: u64, bytes: u64) -> u64 {
    // What is not RAM answers all-ones, as a bus does: reserved bits.
    if bytes == 8 {
        ram.read::<u64>(gpa).unwrap_or(u64::MAX)
    } else {
        ram.read::<u32>(gpa).map_or(0xffff_ffff, u64::from)
    }
}

/// Sets accessed and dirty bits; false if the entry has changed meanwhile.
fn mark(ram: &Ram, gpa: u64, bytes: u64, old: u64, bits: u64) -> bool {
    if old & bits == bits {
        return true;
    }
    if bytes == 8 {
        ram.compare_exchange_u64(gpa, old, old | bits)
    } else {
        ram.compare_exchange_u32(gpa, old as u32, (old | bits) as u32)
    }
}

impl Cpu {
    /// Walks the paging structures; the error is a page fault's error code.
    fn walk(&self, la: u64, rights: Rights) -> Result<Page, u32> {
        loop {
            if let Some(result) = self.walk_once(la, rights) {
                return result;
            }
        }
    }

    /// One try, `None` if another processor changed an entry under way.
    fn walk_once(&self, la: u64, rights: Rights) -> Option<Result<Page, u32>> {
        let pae = self.cr4 & cr4::PAE != 0;
        let long = self.efer & efer::LMA != 0;
        let nxe = pae && self.efer & efer::NXE != 0;
        let bytes: u64 = if pae { 8 } else { 4 };
        let index_bits = if pae { 9 } else { 10 };
        let levels = if long {
            4
        } else if pae {
            3
        } else {
            2
        };
        let mut code = 0;
        if rights.want == Want::Write {
            code |= error::W;
        }
        if rights.user {
            code |= error::U;
        }
        if rights.want == Want::Execute && (nxe || self.cr4 & cr4::SMEP != 0) {
            code |= error::I;
        }
        let mut path = [(0u64, 0u64); 4];
        let mut table = match (long, pae) {
            (true, _) => self.cr3 & PHYSICAL,
            (false, true) => self.cr3 & 0xffff_ffe0,
            (false, false) => self.cr3 & 0xffff_f000,
        };
        let (mut user, mut writable, mut no_execute) = (true, true, false);
        let mut level = levels;
        let (leaf, shift) = loop {
            level -= 1;
            let shift = 12 + index_bits * level;
            let index_mask = if pae && !long && level == 2 { 3 } else { (1 << index_bits) - 1 };
            let address = table + (la >> shift & index_mask) * bytes;
            let value = read_entry(&self.ram, address, bytes);
            if value & entry::P == 0 {
                return Some(Err(code));
            }
            let pointer_pae = pae && !long && level == 2;
            let leaf = level == 0
                || value & entry::PS != 0
                    && match (pae, level) {
                        (true, 1) => true,
                        (true, 2) => long,
                        (false, 1) => self.cr4 & cr4::PSE != 0,
                        _ => false,
                    };
            if pae {
                let mut reserved = ENTRY_ADDRESS & !PHYSICAL;
                if !nxe {
                    reserved |= entry::XD;
                }
                if !long {
                    reserved |= 0x7ff0_0000_0000_0000;
                }
                if pointer_pae {
                    reserved = ENTRY_ADDRESS & !PHYSICAL | 0xfff0_0000_0000_01e6;
                } else if level == 3 {
                    reserved |= entry::PS;
                } else if leaf && level > 0 {
                    reserved |= ((1 << shift) - 1) & !0x1fff;
                }
                if value & reserved != 0 {
                    return Some(Err(code | error::P | error::RSVD));
                }
            } else if leaf && level == 1 && value & 1 << 21 != 0 {
                return Some(Err(code | error::P | error::RSVD));
            }
            if !pointer_pae {
                user &= value & entry::U != 0;
                writable &= value & entry::W != 0;
                no_execute |= pae && value & entry::XD != 0;
                path[level as usize] = (address, value);
            }
            if leaf {
                break (value, shift);
            }
            table = value & if pae { PHYSICAL } else { 0xffff_f000 };
        };
        let denied = if rights.user {
            !user || rights.want == Want::Write && !writable
        } else {
            match rights.want {
                Want::Execute => user && self.cr4 & cr4::SMEP != 0,
                _ if user && self.cr4 & cr4::SMAP != 0 && !rights.smap_open => true,
                Want::Write => !writable && self.cr0 & cr0::WP != 0,
                Want::Read => false,
            }
        };
        let key_denies = long && self.key_denies(rights, user, leaf);
        if key_denies {
            code |= error::PK;
        }
        if denied || key_denies || rights.want == Want::Execute && no_execute {
            return Some(Err(code | error::P));
        }
        for step in (level..levels).rev() {
            let (address, value) = path[step as usize];
            if address == 0 && value == 0 {
                continue;
            }
            let mut bits = entry::A;
            if step == level && rights.want == Want::Write {
                bits |= entry::D;
            }
            if !mark(&self.ram, address, bytes, value, bits) {
                return None;
            }
        }
        let size = 1u64 << shift;
        let frame = if pae {
            leaf & PHYSICAL
        } else if level == 1 {
            leaf & 0xffc0_0000 | (leaf >> 13 & 0xff) << 32
        } else {
            leaf & 0xffff_f000
        };
        let gpa = frame & !(size - 1) | la & (size - 1) & PAGE_MASK;
        let global = leaf & entry::G != 0 && self.cr4 & cr4::PGE != 0;
        let large = (level > 0).then_some((la & !(size - 1), size));
        Some(Ok(Page { gpa, user, global, large }))
    }

    /// Whether the protection key of a page denies an access (Intel SDM vol. 3, 4.6.2).
    fn key_denies(&self, rights: Rights, user_page: bool, leaf: u64) -> bool {
        let (enabled, register) = if user_page { (cr4::PKE, self.pkru) } else { (cr4::PKS, self.pkrs) };
        if self.cr4 & enabled == 0 {
            return false;
        }
        let denied = register >> (2 * (leaf >> entry::KEY_SHIFT & 15));
        match rights.want {
            Want::Execute => false,
            Want::Read => denied & key::ACCESS != 0,
            Want::Write => {
                denied & key::ACCESS != 0
                    || denied & key::WRITE != 0 && (rights.user || self.cr0 & cr0::WP != 0)
            }
        }
    }

    /// Changes what the protection keys deny: translations made under the old rights are stale.
    pub fn set_protection_keys(&mut self, pkru: u32, pkrs: u32) {
        if (pkru, pkrs) != (self.pkru, self.pkrs) {
            (self.pkru, self.pkrs) = (pkru, pkrs);
            if self.cr4 & (cr4::PKE | cr4::PKS) != 0 {
                self.flush_tlb_all();
            }
        }
    }

    /// The set of translations for an access.
    fn set_of(&self, access: Access) -> usize {
        match access {
            Access::Current => self.tlb_set,
            Access::Supervisor => SUPERVISOR,
            Access::User => USER,
        }
    }

    /// Chooses the translations that fit the CPL and RFLAGS.AC.
    pub(super) fn update_tlb_set(&mut self) {
        self.tlb_set = if self.cpl == 3 {
            USER
        } else if self.cr4 & cr4::SMAP != 0 && self.rflags_rest & rflags::AC != 0 {
            SUPERVISOR_AC
        } else {
            SUPERVISOR
        };
        self.tlb_current = self.tlb.set(self.tlb_set);
    }

    /// The entry that the translation of `la` for the current privilege level would be in.
    #[inline(always)]
    pub(super) fn tlb_entry(&self, want: Want, la: u64) -> Entry {
        let index = want as usize * ENTRIES + (la >> 12) as usize % ENTRIES;
        // SAFETY: `tlb_current` leads to the three buffers of a set, which live as long as the CPU and never
        // move; `index` is below their entries.
        unsafe { self.tlb_current.add(index).read() }
    }

    /// Whether `la` is canonical, where that matters.
    #[inline]
    #[must_use]
    pub fn is_canonical(&self, la: u64) -> bool {
        self.mode != Mode::Long || (la as i64) << 16 >> 16 == la as i64
    }

    /// Translates a linear address, filling the buffers.
    ///
    /// # Errors
    /// #PF, or #GP(0) for an address that is not canonical.
    pub fn translate(&mut self, la: u64, want: Want, access: Access) -> Exec<u64> {
        let set = self.set_of(access);
        let la = if self.efer & efer::LMA != 0 {
            if (la as i64) << 16 >> 16 != la as i64 {
                return self.general_protection();
            }
            la
        } else {
            la & 0xffff_ffff
        };
        let rights = Rights { want, user: set == USER, smap_open: set == SUPERVISOR_AC };
        let page = if self.cr0 & cr0::PG == 0 {
            Page { gpa: la & PAGE_MASK, user: true, global: true, large: None }
        } else {
            match self.walk(la, rights) {
                Ok(page) => page,
                Err(code) => {
                    self.cr2 = la;
                    return self.raise(vector::PF, Some(code));
                }
            }
        };
        if let Some((start, size)) = page.large {
            self.tlb.note_large(start, size);
        }
        if let Some(host) = self.ram.host(page.gpa, 4096) {
            let linear = la & PAGE_MASK;
            if want == Want::Execute {
                self.tlb.fill(set, want, linear, page.gpa, page.global);
            } else if !self.is_private_page(page.gpa) {
                let addend = (host as u64).wrapping_sub(linear);
                self.tlb.fill(set, Want::Read, linear, addend, page.global);
                if want == Want::Write && self.is_plain_data(page.gpa) {
                    self.tlb.fill(set, Want::Write, linear, addend, page.global);
                }
            }
        }
        Ok(page.gpa | la & 0xfff)
    }

    /// Whether accesses to the page are to take the slow path although it is RAM: a page with a data
    /// breakpoint, or the LAPIC's.
    fn is_private_page(&self, gpa: u64) -> bool {
        let _ = gpa;
        self.dr[7] & 0xff != 0
    }

    /// Whether the page holds no decoded code.
    fn is_plain_data(&self, gpa: u64) -> bool {
        let code = self.ram.page_number(gpa).and_then(|page| self.ram.code(page));
        code.is_none_or(|bits| bits.load(std::sync::atomic::Ordering::SeqCst) == 0)
    }

    /// Drops every translation, also the global ones.
    pub fn flush_tlb_all(&mut self) {
        self.tlb.flush_all();
    }

    /// Drops the translations that are not global (a load of CR3).
    pub fn flush_tlb_nonglobal(&mut self) {
        self.tlb.flush_local();
    }

    /// Drops the translations of one page.
    pub fn invlpg(&mut self, la: u64) {
        self.tlb.flush_page(la);
    }
}

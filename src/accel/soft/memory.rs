//! Memory as instructions see it: linear and logical addresses, MMIO by replay.

use std::sync::atomic::{Ordering, fence};

use super::abort::{AbortReason, Exec, vector};
use super::host_access::{read_host, write_host};
use super::integer::Int;
pub use super::mmu::Access;
use super::mmu::{PAGE_MASK, Want};
use super::state::{Cpu, Mode, seg};
use super::system::debug_registers::Watched;

/// What an instruction that is executed again has done already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// A load or an `in`, with its value.
    Read(u64),
    /// A store or an `out`.
    Write,
}

/// The accesses of the instruction under way that the caller of `run` has answered, in order.
#[derive(Debug, Default)]
pub(super) struct Replay {
    answers: Vec<Answer>,
    next: usize,
}

impl Replay {
    /// Adds the answer to the access that aborted the instruction.
    pub fn push(&mut self, answer: Answer) {
        self.answers.push(answer);
    }

    /// Whether the instruction under way has had answers.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// The instruction starts again.
    pub fn rewind(&mut self) {
        self.next = 0;
    }

    /// The instruction, or an iteration of it, has completed.
    pub fn clear(&mut self) {
        self.answers.clear();
        self.next = 0;
    }

    fn take(&mut self) -> Option<Answer> {
        let answer = self.answers.get(self.next).copied()?;
        self.next += 1;
        Some(answer)
    }
}

impl Cpu {
    /// Loads at the current privilege level from a linear address.
    ///
    /// # Errors
    /// A fault or an MMIO access.
    #[inline(always)]
    pub fn load<T: Int>(&mut self, la: u64) -> Exec<T> {
        let entry = self.tlb_entry(Want::Read, la);
        // The last byte's page: an access across pages never hits.
        if entry.tag == la.wrapping_add(T::BYTES - 1) & PAGE_MASK {
            // SAFETY: an entry's addend leads to its whole page of mapped RAM, and the access is
            // inside the page.
            return Ok(unsafe { read_host(la.wrapping_add(entry.addend) as usize) });
        }
        self.load_slow(la, Access::Current)
    }

    /// Stores at the current privilege level to a linear address.
    ///
    /// # Errors
    /// A fault or an MMIO access.
    #[inline(always)]
    pub fn store<T: Int>(&mut self, la: u64, value: T) -> Exec {
        let entry = self.tlb_entry(Want::Write, la);
        if entry.tag == la.wrapping_add(T::BYTES - 1) & PAGE_MASK {
            // SAFETY: as in `load`; a store translation exists only for a writable page without code.
            unsafe { write_host(la.wrapping_add(entry.addend) as usize, value) };
            return Ok(());
        }
        self.store_slow(la, value, Access::Current)
    }

    /// As `load`; with `FAST` only by a translation that is at hand: the error is then no abort.
    #[inline(always)]
    pub(super) fn load_by<T: Int, const FAST: bool>(&mut self, la: u64) -> Exec<T> {
        if !FAST {
            return self.load(la);
        }
        let entry = self.tlb_entry(Want::Read, la);
        if entry.tag == la.wrapping_add(T::BYTES - 1) & PAGE_MASK {
            // SAFETY: as in `load`.
            return Ok(unsafe { read_host(la.wrapping_add(entry.addend) as usize) });
        }
        Err(super::abort::Abort)
    }

    /// As `store`; with `FAST` only by a translation that is at hand: the error is then no abort.
    #[inline(always)]
    pub(super) fn store_by<T: Int, const FAST: bool>(&mut self, la: u64, value: T) -> Exec {
        if !FAST {
            return self.store(la, value);
        }
        let entry = self.tlb_entry(Want::Write, la);
        if entry.tag == la.wrapping_add(T::BYTES - 1) & PAGE_MASK {
            // SAFETY: as in `store`.
            unsafe { write_host(la.wrapping_add(entry.addend) as usize, value) };
            return Ok(());
        }
        Err(super::abort::Abort)
    }

    /// 16 bytes by a translation that is at hand: the error is no abort.
    #[inline(always)]
    pub(super) fn load_pair(&mut self, la: u64) -> Exec<u128> {
        let entry = self.tlb_entry(Want::Read, la);
        if entry.tag != la.wrapping_add(15) & PAGE_MASK {
            return Err(super::abort::Abort);
        }
        let host = la.wrapping_add(entry.addend) as usize;
        // SAFETY: as in `load`.
        let (low, high): (u64, u64) = unsafe { (read_host(host), read_host(host + 8)) };
        Ok(u128::from(high) << 64 | u128::from(low))
    }

    /// 16 bytes by a translation that is at hand: the error is no abort.
    #[inline(always)]
    pub(super) fn store_pair(&mut self, la: u64, value: u128) -> Exec {
        let entry = self.tlb_entry(Want::Write, la);
        if entry.tag != la.wrapping_add(15) & PAGE_MASK {
            return Err(super::abort::Abort);
        }
        let host = la.wrapping_add(entry.addend) as usize;
        // SAFETY: as in `store`.
        unsafe {
            write_host(host, value as u64);
            write_host(host + 8, (value >> 64) as u64);
        }
        Ok(())
    }

    /// Reads, changes and writes memory; gives the old and the new value. With `FAST` only by a translation
    /// that is at hand: the error is then no abort.
    #[inline(always)]
    pub(super) fn modify_by<T: Int, const FAST: bool>(
        &mut self,
        la: u64,
        change: impl Fn(T) -> T,
    ) -> Exec<(T, T)> {
        if !FAST {
            return self.modify(la, false, change);
        }
        let entry = self.tlb_entry(Want::Write, la);
        if entry.tag == la.wrapping_add(T::BYTES - 1) & PAGE_MASK {
            let host = la.wrapping_add(entry.addend) as usize;
            // SAFETY: as in `load` and `store`.
            let old = unsafe { read_host(host) };
            let new = change(old);
            // SAFETY: as above.
            unsafe { write_host(host, new) };
            return Ok((old, new));
        }
        Err(super::abort::Abort)
    }

    /// Loads from a linear address.
    ///
    /// # Errors
    /// A fault or an MMIO access.
    #[inline]
    pub fn read_linear<T: Int>(&mut self, la: u64, access: Access) -> Exec<T> {
        if access == Access::Current { self.load(la) } else { self.load_slow(la, access) }
    }

    /// Stores to a linear address.
    ///
    /// # Errors
    /// A fault or an MMIO access.
    #[inline]
    pub fn write_linear<T: Int>(&mut self, la: u64, value: T, access: Access) -> Exec {
        if access == Access::Current { self.store(la, value) } else { self.store_slow(la, value, access) }
    }

    /// Loads a byte from a linear address.
    ///
    /// # Errors
    /// A fault or an MMIO access.
    pub fn read_u8(&mut self, la: u64, access: Access) -> Exec<u8> {
        self.read_linear(la, access)
    }

    /// Loads 16 bits from a linear address.
    ///
    /// # Errors
    /// A fault or an MMIO access.
    pub fn read_u16(&mut self, la: u64, access: Access) -> Exec<u16> {
        self.read_linear(la, access)
    }

    /// Loads 32 bits from a linear address.
    ///
    /// # Errors
    /// A fault or an MMIO access.
    pub fn read_u32(&mut self, la: u64, access: Access) -> Exec<u32> {
        self.read_linear(la, access)
    }

    /// Loads 64 bits from a linear address.
    ///
    /// # Errors
    /// A fault or an MMIO access.
    pub fn read_u64(&mut self, la: u64, access: Access) -> Exec<u64> {
        self.read_linear(la, access)
    }

    /// Stores a byte to a linear address.
    ///
    /// # Errors
    /// A fault or an MMIO access.
    pub fn write_u8(&mut self, la: u64, value: u8, access: Access) -> Exec {
        self.write_linear(la, value, access)
    }

    /// Stores 16 bits to a linear address.
    ///
    /// # Errors
    /// A fault or an MMIO access.
    pub fn write_u16(&mut self, la: u64, value: u16, access: Access) -> Exec {
        self.write_linear(la, value, access)
    }

    /// Stores 32 bits to a linear address.
    ///
    /// # Errors
    /// A fault or an MMIO access.
    pub fn write_u32(&mut self, la: u64, value: u32, access: Access) -> Exec {
        self.write_linear(la, value, access)
    }

    /// Stores 64 bits to a linear address.
    ///
    /// # Errors
    /// A fault or an MMIO access.
    pub fn write_u64(&mut self, la: u64, value: u64, access: Access) -> Exec {
        self.write_linear(la, value, access)
    }

    /// Loads `buffer.len()` bytes (any length) from a linear address.
    ///
    /// # Errors
    /// A fault or an MMIO access.
    pub fn read_bytes(&mut self, la: u64, buffer: &mut [u8], access: Access) -> Exec {
        let mut done = 0;
        while done < buffer.len() {
            let at = la.wrapping_add(done as u64);
            let room = (4096 - (at & 0xfff)) as usize;
            let left = (buffer.len() - done).min(room);
            if left >= 8 {
                let value: u64 = self.read_linear(at, access)?;
                buffer[done..done + 8].copy_from_slice(&value.to_le_bytes());
                done += 8;
            } else if left >= 4 {
                let value: u32 = self.read_linear(at, access)?;
                buffer[done..done + 4].copy_from_slice(&value.to_le_bytes());
                done += 4;
            } else if left >= 2 {
                let value: u16 = self.read_linear(at, access)?;
                buffer[done..done + 2].copy_from_slice(&value.to_le_bytes());
                done += 2;
            } else {
                buffer[done] = self.read_linear(at, access)?;
                done += 1;
            }
        }
        Ok(())
    }

    /// Stores bytes (any number) to a linear address; all of it is probed first.
    ///
    /// # Errors
    /// A fault or an MMIO access.
    pub fn write_bytes(&mut self, la: u64, bytes: &[u8], access: Access) -> Exec {
        self.probe_write(la, bytes.len() as u64, access)?;
        let mut done = 0;
        while done < bytes.len() {
            let at = la.wrapping_add(done as u64);
            let room = (4096 - (at & 0xfff)) as usize;
            let rest = &bytes[done..done + (bytes.len() - done).min(room)];
            if let Some(&chunk) = rest.first_chunk::<8>() {
                self.write_linear(at, u64::from_le_bytes(chunk), access)?;
                done += 8;
            } else if let Some(&chunk) = rest.first_chunk::<4>() {
                self.write_linear(at, u32::from_le_bytes(chunk), access)?;
                done += 4;
            } else {
                self.write_linear(at, rest[0], access)?;
                done += 1;
            }
        }
        Ok(())
    }

    /// Raises what a store of `len` bytes would raise, and stores nothing.
    ///
    /// # Errors
    /// A fault.
    pub fn probe_write(&mut self, la: u64, len: u64, access: Access) -> Exec {
        self.probe(la, len, Want::Write, access)
    }

    /// Raises what a load of `len` bytes would raise.
    ///
    /// # Errors
    /// A fault.
    pub fn probe_read(&mut self, la: u64, len: u64, access: Access) -> Exec {
        self.probe(la, len, Want::Read, access)
    }

    fn probe(&mut self, la: u64, len: u64, want: Want, access: Access) -> Exec {
        let Some(last) = len.checked_sub(1).map(|n| la.wrapping_add(n)) else { return Ok(()) };
        if la & PAGE_MASK != last & PAGE_MASK {
            self.check_end(la, len)?;
        }
        let mut page = la;
        loop {
            self.translate(page, want, access)?;
            if want == Want::Write {
                self.before_code_write(page, last, access)?;
            }
            if page & PAGE_MASK == last & PAGE_MASK {
                return Ok(());
            }
            page = (page & PAGE_MASK).wrapping_add(4096);
        }
    }

    /// An operand with an end that is not canonical faults for that before its pages are looked at.
    fn check_end(&mut self, la: u64, size: u64) -> Exec {
        if self.is_canonical(la.wrapping_add(size - 1)) { Ok(()) } else { self.general_protection() }
    }

    #[cold]
    #[inline(never)]
    fn load_slow<T: Int>(&mut self, la: u64, access: Access) -> Exec<T> {
        if self.is_watched() && access == Access::Current {
            self.watch(la, T::BYTES, Watched::Load);
        }
        let first = 4096 - (la & 0xfff);
        if first >= T::BYTES {
            let gpa = self.translate(la, Want::Read, access)?;
            return self.read_phys(gpa);
        }
        self.check_end(la, T::BYTES)?;
        let low = self.translate(la, Want::Read, access)?;
        let high = self.translate(la.wrapping_add(first), Want::Read, access)?;
        let mut value = 0;
        for i in 0..T::BYTES {
            let gpa = if i < first { low + i } else { high + (i - first) };
            value |= u64::from(self.read_phys::<u8>(gpa)?) << (8 * i);
        }
        Ok(T::from_u64(value))
    }

    #[cold]
    #[inline(never)]
    fn store_slow<T: Int>(&mut self, la: u64, value: T, access: Access) -> Exec {
        if self.is_watched() && access == Access::Current {
            self.watch(la, T::BYTES, Watched::Store);
        }
        let first = 4096 - (la & 0xfff);
        if first >= T::BYTES {
            let gpa = self.translate(la, Want::Write, access)?;
            self.retry_own_code(gpa, T::BYTES)?;
            return self.write_phys(gpa, value);
        }
        self.check_end(la, T::BYTES)?;
        let low = self.translate(la, Want::Write, access)?;
        let high = self.translate(la.wrapping_add(first), Want::Write, access)?;
        self.retry_own_code(low, first)?;
        self.retry_own_code(high, T::BYTES - first)?;
        for i in 0..T::BYTES {
            let gpa = if i < first { low + i } else { high + (i - first) };
            self.write_phys(gpa, (value.to_u64() >> (8 * i)) as u8)?;
        }
        Ok(())
    }

    fn before_code_write(&mut self, la: u64, last: u64, access: Access) -> Exec {
        let gpa = self.translate(la, Want::Write, access)?;
        let bytes = if la & PAGE_MASK == last & PAGE_MASK { last - la + 1 } else { 4096 - (la & 0xfff) };
        self.retry_own_code(gpa, bytes)
    }

    /// Loads from a guest-physical address; the value must not cross a page.
    ///
    /// # Errors
    /// An MMIO access.
    pub fn read_phys<T: Int>(&mut self, gpa: u64) -> Exec<T> {
        if let Some(host) = self.ram.host(gpa, T::BYTES) {
            // SAFETY: `host` vouches for the bytes.
            return Ok(unsafe { read_host(host) });
        }
        self.read_mmio(gpa, T::BYTES as u8).map(T::from_u64)
    }

    /// Stores to a guest-physical address; the value must not cross a page.
    ///
    /// # Errors
    /// An MMIO access.
    pub fn write_phys<T: Int>(&mut self, gpa: u64, value: T) -> Exec {
        if let Some(host) = self.ram.host(gpa, T::BYTES) {
            // SAFETY: `host` vouches for the bytes.
            unsafe { write_host(host, value) };
            self.code_written(gpa, T::BYTES);
            return Ok(());
        }
        self.write_mmio(gpa, T::BYTES as u8, value.to_u64())
    }

    fn read_mmio(&mut self, gpa: u64, size: u8) -> Exec<u64> {
        if self.lapic.page() == Some(gpa & PAGE_MASK) {
            let mut bytes = [0; 8];
            self.lapic.mmio_read_bytes(gpa & 0xfff, &mut bytes[..usize::from(size).min(8)]);
            return Ok(u64::from_le_bytes(bytes));
        }
        match self.replay.take() {
            Some(Answer::Read(value)) => Ok(value),
            Some(Answer::Write) => Ok(u64::MAX),
            None => {
                self.abort = AbortReason::MmioRead { gpa, size };
                Err(super::abort::Abort)
            }
        }
    }

    fn write_mmio(&mut self, gpa: u64, size: u8, value: u64) -> Exec {
        if self.lapic.page() == Some(gpa & PAGE_MASK) {
            let bytes = value.to_le_bytes();
            self.lapic.mmio_write_bytes(gpa & 0xfff, &bytes[..usize::from(size).min(8)]);
            return Ok(());
        }
        if self.replay.take().is_some() {
            return Ok(());
        }
        self.abort = AbortReason::MmioWrite { gpa, size, value };
        Err(super::abort::Abort)
    }

    /// `in` of 1, 2 or 4 bytes, by replay; permissions are the caller's matter.
    ///
    /// # Errors
    /// `AbortReason::IoIn`.
    pub fn read_port(&mut self, port: u16, size: u8) -> Exec<u32> {
        self.watch(port.into(), size.into(), Watched::Port);
        match self.replay.take() {
            Some(Answer::Read(value)) => Ok(value as u32),
            Some(Answer::Write) => Ok(u32::MAX),
            None => {
                self.abort = AbortReason::IoIn { port, size };
                Err(super::abort::Abort)
            }
        }
    }

    /// `out` of 1, 2 or 4 bytes, by replay; permissions are the caller's matter.
    ///
    /// # Errors
    /// `AbortReason::IoOut`.
    pub fn write_port(&mut self, port: u16, size: u8, value: u32) -> Exec {
        self.watch(port.into(), size.into(), Watched::Port);
        if self.replay.take().is_some() {
            return Ok(());
        }
        self.abort = AbortReason::IoOut { port, size, value };
        Err(super::abort::Abort)
    }

    /// The linear address of `size` bytes at `offset` of a segment, checked as an access of that
    /// segment is (limit, rights, canonical form).
    ///
    /// # Errors
    /// #GP(0), or #SS(0) for the stack segment.
    #[inline]
    pub fn linear(&mut self, segment: usize, offset: u64, size: u64, write: bool) -> Exec<u64> {
        if self.mode == Mode::Long {
            let base = if segment >= seg::FS { self.seg[segment].base } else { 0 };
            let la = base.wrapping_add(offset);
            let last = la.wrapping_add(size.saturating_sub(1));
            if self.is_canonical(la) && self.is_canonical(last) {
                return Ok(la);
            }
            return self.segment_fault(segment);
        }
        self.linear_legacy(segment, offset, size, write)
    }

    fn linear_legacy(&mut self, segment: usize, offset: u64, size: u64, write: bool) -> Exec<u64> {
        let s = self.seg[segment];
        let offset = offset & 0xffff_ffff;
        let last = offset + size.saturating_sub(1);
        let limit = u64::from(s.limit);
        let inside = if s.s && s.type_ & 0xc == 4 {
            // Expand-down: the valid offsets are above the limit.
            offset > limit && last <= if s.db { 0xffff_ffff } else { 0xffff }
        } else {
            last <= limit
        };
        let rights = self.mode != Mode::Protected
            || !s.unusable
                && s.present
                && if write { s.type_ & 0xa == 2 } else { s.type_ & 8 == 0 || s.type_ & 2 != 0 };
        if inside && rights {
            Ok(s.base.wrapping_add(offset) & 0xffff_ffff)
        } else {
            self.segment_fault(segment)
        }
    }

    #[cold]
    fn segment_fault<T>(&mut self, segment: usize) -> Exec<T> {
        self.raise(if segment == seg::SS { vector::SS } else { vector::GP }, Some(0))
    }

    /// Loads from a logical address.
    ///
    /// # Errors
    /// A fault or an MMIO access.
    pub fn read_seg<T: Int>(&mut self, segment: usize, offset: u64) -> Exec<T> {
        let la = self.linear(segment, offset, T::BYTES, false)?;
        self.load(la)
    }

    /// Stores to a logical address.
    ///
    /// # Errors
    /// A fault or an MMIO access.
    pub fn write_seg<T: Int>(&mut self, segment: usize, offset: u64, value: T) -> Exec {
        let la = self.linear(segment, offset, T::BYTES, true)?;
        self.store(la, value)
    }

    /// Loads what is about to be stored to: faults as the store would.
    #[inline(always)]
    pub(super) fn load_for_store<T: Int>(&mut self, la: u64) -> Exec<T> {
        let entry = self.tlb_entry(Want::Write, la);
        if entry.tag == la.wrapping_add(T::BYTES - 1) & PAGE_MASK {
            // SAFETY: as in `load`.
            return Ok(unsafe { read_host(la.wrapping_add(entry.addend) as usize) });
        }
        self.probe_write(la, T::BYTES, Access::Current)?;
        self.load(la)
    }

    /// The host address of bytes in one page that may be loaded at the current privilege level; `None`
    /// if they are no RAM.
    pub(super) fn host_for_load(&mut self, la: u64) -> Exec<Option<usize>> {
        let entry = self.tlb_entry(Want::Read, la);
        if entry.tag == la & PAGE_MASK {
            return Ok(Some(la.wrapping_add(entry.addend) as usize));
        }
        let gpa = self.translate(la, Want::Read, Access::Current)?;
        if self.is_watched() {
            return Ok(None);
        }
        Ok(self.ram.host(gpa, 1))
    }

    /// The host address of `len` bytes in one page that may be stored to at the current privilege
    /// level, and their guest-physical address if `code_written` has to be told afterwards; `None` if
    /// they are no RAM.
    pub(super) fn host_for_store(&mut self, la: u64, len: u64) -> Exec<Option<(usize, Option<u64>)>> {
        let entry = self.tlb_entry(Want::Write, la);
        if entry.tag == la & PAGE_MASK {
            return Ok(Some((la.wrapping_add(entry.addend) as usize, None)));
        }
        let gpa = self.translate(la, Want::Write, Access::Current)?;
        if self.is_watched() {
            return Ok(None);
        }
        self.retry_own_code(gpa, len)?;
        Ok(self.ram.host(gpa, len).map(|host| (host, Some(gpa))))
    }

    /// Whether data breakpoints are armed, so that every access has to be looked at.
    fn is_watched(&self) -> bool {
        self.dr[7] & 0xff != 0
    }

    /// Whether `len` bytes from a valid offset on are all inside the segment.
    pub(super) fn is_run_inside(&self, segment: usize, offset: u64, len: u64) -> bool {
        if self.mode == Mode::Long {
            return true;
        }
        let s = &self.seg[segment];
        let down = s.s && s.type_ & 0xc == 4;
        !down && (offset & 0xffff_ffff).saturating_add(len - 1) <= u64::from(s.limit)
    }

    /// Aborts for a repetition by single step if a store would change the page that is executed.
    fn retry_own_code(&mut self, gpa: u64, len: u64) -> Exec {
        if gpa & PAGE_MASK != self.code_page || self.stepping {
            return Ok(());
        }
        let Some(code) = self.ram.page_number(gpa).and_then(|page| self.ram.code(page)) else {
            return Ok(());
        };
        if code.load(Ordering::SeqCst) & granules(gpa, len) == 0 {
            return Ok(());
        }
        self.abort = AbortReason::Retry;
        Err(super::abort::Abort)
    }

    /// Drops the blocks decoded from bytes that have been written.
    pub(super) fn code_written(&mut self, gpa: u64, len: u64) {
        let Some(page) = self.ram.page_number(gpa) else { return };
        // The bytes were written before the bits are read: whoever decodes sets the bits first.
        fence(Ordering::SeqCst);
        let hit = match self.ram.code(page) {
            Some(code) => code.load(Ordering::SeqCst) & granules(gpa, len),
            None => 0,
        };
        if hit != 0 {
            self.invalidate_code(page, hit);
        }
    }
}

/// The granules of 64 bytes that `len` bytes of a page touch.
pub(super) fn granules(gpa: u64, len: u64) -> u64 {
    let first = (gpa & 0xfff) / 64;
    let last = ((gpa & 0xfff) + len.saturating_sub(1)).min(4095) / 64;
    (u64::MAX << first) & (u64::MAX >> (63 - last))
}

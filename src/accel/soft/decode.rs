//! Decodes blocks.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use iced_x86::{Decoder, DecoderError, DecoderOptions, FlowControl, Instruction, Mnemonic, Register};

use super::abort::Exec;
use super::cache::key;
use super::execute::{self, Flow, General, fast};
use super::host_access::read_host;
use super::memory::{Access, granules};
use super::mmu::{PAGE_MASK, Want};
use super::op::{Detail, Op};
use super::returns::Returns;
use super::state::{Cpu, Mode};
use super::{sse, system};

/// Instructions of a block at most.
pub(super) const LONGEST: usize = 64;
/// Bytes of an instruction at most.
const LONGEST_INSTRUCTION: usize = 15;
/// CPUs without MPX and CET execute the opcodes of both as NOPs.
const OPTIONS: u32 = DecoderOptions::FORCE_RESERVED_NOP;

/// Whether a block ends with the instruction.
fn ends_block(i: &Instruction) -> bool {
    !matches!(i.flow_control(), FlowControl::Next | FlowControl::ConditionalBranch)
        || matches!(i.mnemonic(), Mnemonic::Sti | Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq)
}

/// What executes an instruction in its general form, and whether it belongs to the system side.
fn general(i: &Instruction) -> (General, bool) {
    if i.is_invalid() {
        return (|cpu, _| cpu.undefined(), false);
    }
    if let Some(run) = execute::general(i) {
        return (run, false);
    }
    if sse::lookup(i.code(), execute::has_memory(i)).is_some() || matches!(i.mnemonic(), Mnemonic::Emms) {
        return (execute::sse_instruction, false);
    }
    if execute::is_x87(i) {
        return (execute::x87_instruction, false);
    }
    (system::execute, true)
}

fn op_of(i: &Instruction, offset: u64) -> Op {
    Op {
        handler: Cell::new(fast::general),
        imm: 0,
        disp: 0,
        link: Cell::new(0),
        a: 0,
        b: 0,
        base: 0,
        index: 0,
        offset: offset as u16,
        len: i.len() as u8,
        scale: 0,
    }
}

/// Whether an instruction that is not valid has more than 15 bytes: that is not #UD but #GP(0), which `step` raises.
fn is_too_long(bits: u32, code: &[u8]) -> bool {
    let Some(code) = code.get(..LONGEST_INSTRUCTION) else { return false };
    let mut decoder = Decoder::new(bits, code, OPTIONS);
    let _ = decoder.decode();
    decoder.last_error() == DecoderError::NoMoreBytes
}

impl Cpu {
    /// The first operation of the block at `self.rip`, decoded if need be; `None` if the instruction
    /// has to be executed by `step`.
    pub(super) fn block(&mut self) -> Exec<Option<u32>> {
        let rip = self.rip;
        self.check_target(rip)?;
        let la = self.code_address(rip);
        let entry = self.tlb_entry(Want::Execute, la);
        let gpa = if entry.tag == la & PAGE_MASK {
            entry.addend | la & 0xfff
        } else {
            self.translate(la, Want::Execute, Access::Current)?
        };
        debug_assert_eq!(self.flat, self.is_flat());
        let Some(page) = self.ram.page_number(gpa) else { return Ok(None) };
        self.set_code_page(gpa, rip);
        let key = key(gpa, self.mode_key());
        if let Some(op) = self.cache.find(key) {
            return Ok(Some(op));
        }
        if let Some(op) = self.cache.find_slowly(key, page) {
            return Ok(Some(op));
        }
        Ok(self.decode_block(gpa, key, page))
    }

    fn decode_block(&mut self, gpa: u64, key: u64, page: usize) -> Option<u32> {
        if !self.cache.has_room(LONGEST + 4) || self.cache.ops.is_empty() {
            self.clear_cache();
        }
        let start = gpa & 0xfff;
        let bytes = (4096 - start).min((LONGEST * LONGEST_INSTRUCTION / 2) as u64);
        let room = granules(gpa, bytes);
        if !self.claim_code(gpa, page, room) {
            return None;
        }
        let host = self.ram.host(gpa, bytes)?;
        let mut code = [0; LONGEST * LONGEST_INSTRUCTION / 2];
        let code = &mut code[..bytes as usize];
        for (at, byte) in code.iter_mut().enumerate() {
            // SAFETY: `host` vouches for the bytes.
            *byte = unsafe { read_host(host + at) };
        }
        let bits = self.code_bits();
        let mut decoder = Decoder::with_ip(bits, code, start, OPTIONS);
        let mut instruction = Instruction::default();
        let mut head = op_of(&Instruction::default(), start);
        head.handler = Cell::new(fast::leave_block);
        head.imm = key;
        self.cache.ops.push(head);
        let first = self.cache.ops.len();
        if self.budget.is_some() {
            let mut spend = op_of(&Instruction::default(), start);
            spend.handler = Cell::new(fast::spend);
            self.cache.ops.push(spend);
        }
        let first_instruction = self.cache.ops.len();
        let mut offset = start;
        let mut instructions = 0;
        let mut before = Instruction::default();
        for _ in 0..LONGEST {
            if !decoder.can_decode() {
                break;
            }
            decoder.decode_out(&mut instruction);
            if decoder.last_error() == DecoderError::NoMoreBytes {
                break;
            }
            self.drop_segment_prefix(&mut instruction);
            let len = instruction.len() as u64;
            let at = (offset - start) as usize;
            if instruction.is_invalid() && is_too_long(bits, code.get(at..).unwrap_or_default()) {
                break;
            }
            instructions += 1;
            if !(self.cache.ops.len() > first_instruction && self.fuse(&before, &instruction)) {
                self.emit(&instruction, offset, code.get(at..at + len as usize).unwrap_or_default());
            }
            before = instruction;
            offset += len;
            if instruction.is_invalid() || self.ends_after(&instruction) {
                break;
            }
        }
        if offset == start {
            return None;
        }
        if before.mnemonic() == Mnemonic::Sti
            && self.has_quick_forms()
            && let Some(sti) = self.cache.ops.last()
        {
            sti.handler.set(execute::LAST_STI);
        }
        if self.budget.is_some()
            && let Some(spend) = self.cache.ops.get_mut(first)
        {
            spend.imm = instructions;
        }
        // Also behind a branch: it may not be taken.
        let mut end = op_of(&Instruction::default(), offset);
        end.handler = Cell::new(if self.flat { fast::end_block::<true> } else { fast::end_block::<false> });
        end.imm = offset;
        self.cache.ops.push(end);
        self.cache.add(key, first as u32, granules(gpa, offset - start), page);
        Some(first as u32)
    }

    /// Joins a conditional jump with the operation before it, where there is a handler for both.
    fn fuse(&mut self, before: &Instruction, jump: &Instruction) -> bool {
        if jump.flow_control() != FlowControl::ConditionalBranch || !self.has_quick_forms() {
            return false;
        }
        let flat = self.flat;
        let Some(op) = self.cache.ops.last_mut() else { return false };
        let Some(handler) = execute::fuse(op, before, jump, flat) else { return false };
        op.handler = Cell::new(handler);
        true
    }

    /// Whether the code has handlers for memory, stack and branches: 64-bit mode, and flat 32-bit code.
    fn has_quick_forms(&self) -> bool {
        self.is_long() || self.flat
    }

    fn ends_after(&self, i: &Instruction) -> bool {
        // STI looks for interrupts itself where it has a handler of its own.
        (ends_block(i) || general(i).1) && !(i.mnemonic() == Mnemonic::Sti && self.has_quick_forms())
    }

    /// Appends the operation of an instruction at `offset` of its page.
    fn emit(&mut self, i: &Instruction, offset: u64, bytes: &[u8]) {
        if execute::is_nop(i) {
            return;
        }
        let mut op = op_of(i, offset);
        if let Some(handler) = execute::select(self, i, &mut op) {
            op.handler = Cell::new(handler);
        } else {
            let (run, is_system) = general(i);
            op.handler = Cell::new(if is_system || ends_block(i) {
                fast::general_last
            } else if execute::is_x87(i) {
                fast::general_x87
            } else {
                fast::general
            });
            op.imm = self.cache.details.len() as u64;
            self.note_escape(bytes);
            let (escape, is_wide) = (self.escape, self.operand_is_wide);
            self.cache.details.push(Detail { instruction: *i, run, escape, is_wide });
        }
        self.cache.ops.push(op);
    }

    pub(super) fn flush_writes_of_page(&mut self, gpa: u64) {
        if let Some(host) = self.ram.host(gpa & !0xfff, 4096) {
            self.tlb.flush_writes_of(host as u64);
        }
    }

    /// Marks granules of a page as code, so that stores to them are noticed; false if another vCPU may
    /// still store to the page unnoticed.
    fn claim_code(&mut self, gpa: u64, page: usize, granules: u64) -> bool {
        let Some(code) = self.ram.code(page) else { return false };
        if !self.is_alone() {
            return self.claim_shared_code(gpa, page, granules);
        }
        if code.fetch_or(granules, Ordering::SeqCst) == 0 {
            self.flush_writes_of_page(gpa);
        }
        true
    }

    /// Decodes the instruction at `self.rip`, which may cross a page.
    pub(super) fn fetch(&mut self) -> Exec<Instruction> {
        let rip = self.rip;
        self.check_target(rip)?;
        let gpa = self.translate(self.code_address(rip), Want::Execute, Access::Current)?;
        self.set_code_page(gpa, rip);
        let mut bytes = [0xff; LONGEST_INSTRUCTION];
        let room = ((4096 - (gpa & 0xfff)) as usize).min(LONGEST_INSTRUCTION);
        self.read_code(gpa, &mut bytes[..room]);
        let start = gpa & 0xfff;
        let mut decoder = Decoder::with_ip(self.code_bits(), &bytes[..room], start, OPTIONS);
        let mut instruction = decoder.decode();
        if decoder.last_error() == DecoderError::NoMoreBytes && room < LONGEST_INSTRUCTION {
            let next = self.code_address(rip.wrapping_add(room as u64));
            let gpa = self.translate(next, Want::Execute, Access::Current)?;
            let (_, rest) = bytes.split_at_mut(room);
            self.read_code(gpa, rest);
            decoder = Decoder::with_ip(self.code_bits(), &bytes, start, OPTIONS);
            instruction = decoder.decode();
        }
        if decoder.last_error() == DecoderError::NoMoreBytes {
            // More than 15 bytes.
            return self.general_protection();
        }
        if self.mode != Mode::Long {
            let last = rip.wrapping_add(instruction.len() as u64 - 1);
            self.check_target(last)?;
        }
        self.note_escape(&bytes[..instruction.len()]);
        self.drop_segment_prefix(&mut instruction);
        Ok(instruction)
    }

    /// In 64-bit mode prefixes for ES, CS, SS and DS mean nothing: whether a fault is #SS depends on the
    /// base register alone.
    fn drop_segment_prefix(&self, i: &mut Instruction) {
        let ignored = [Register::ES, Register::CS, Register::SS, Register::DS];
        if self.mode == Mode::Long && ignored.contains(&i.segment_prefix()) {
            i.set_segment_prefix(Register::None);
        }
    }

    /// Keeps what the x87 unit has to know of an instruction beyond iced's form.
    pub(super) fn note_escape(&mut self, bytes: &[u8]) {
        self.escape = execute::escape_bytes(bytes);
        let prefix = execute::has_operand_size_prefix(bytes);
        self.operand_is_wide = (self.code_bits() != 16) != prefix;
    }

    fn read_code(&mut self, gpa: u64, bytes: &mut [u8]) {
        if let Some(host) = self.ram.host(gpa, bytes.len() as u64) {
            for (at, byte) in bytes.iter_mut().enumerate() {
                // SAFETY: `host` vouches for the bytes.
                *byte = unsafe { read_host(host + at) };
            }
        }
    }

    /// The bytes at `self.rip`, as far as they can be read without a fault; for reports.
    pub(super) fn instruction_bytes(&mut self) -> Vec<u8> {
        let la = self.code_address(self.rip);
        let mut bytes = Vec::new();
        for n in 0..LONGEST_INSTRUCTION as u64 {
            let byte = self
                .translate(la.wrapping_add(n), Want::Execute, Access::Supervisor)
                .ok()
                .and_then(|gpa| self.ram.read::<u8>(gpa));
            let Some(byte) = byte else { break };
            bytes.push(byte);
        }
        self.abort = super::abort::AbortReason::None;
        bytes
    }

    /// Executes the one instruction at `self.rip` outside the cache.
    pub(super) fn step(&mut self) -> Exec {
        self.replay.rewind();
        self.stepping = true;
        let result = self.step_instruction();
        self.stepping = false;
        result
    }

    fn step_instruction(&mut self) -> Exec {
        let instruction = self.fetch()?;
        let (run, _) = general(&instruction);
        self.next_rip = self.wrap_rip(self.rip.wrapping_add(instruction.len() as u64));
        let shadow = self.interrupt_shadow;
        self.interrupt_shadow = false;
        match run(self, &instruction) {
            Ok(Flow::Next) => self.rip = self.next_rip,
            Ok(Flow::Jump) => {}
            Ok(Flow::Halt) => {
                self.rip = self.next_rip;
                self.halted = true;
            }
            Err(abort) => {
                self.interrupt_shadow = shadow;
                return Err(abort);
            }
        }
        self.replay.clear();
        Ok(())
    }

    /// Cuts an instruction pointer to the mode's width.
    #[inline]
    pub(super) fn wrap_rip(&self, rip: u64) -> u64 {
        if self.mode == Mode::Long { rip } else { rip & 0xffff_ffff }
    }

    /// Drops the blocks decoded from `granules` of a page of RAM that has been written to.
    #[cold]
    pub(super) fn invalidate_code(&mut self, page: usize, granules: u64) {
        let left = self.drop_blocks(page, granules);
        let alone = self.is_alone();
        if !alone {
            self.release_shared_code(page, granules);
        } else if let Some(code) = self.ram.code(page) {
            code.store(left, Ordering::SeqCst);
        }
    }

    /// Drops this vCPU's blocks; gives the granules of those of the page that are left.
    pub(super) fn drop_blocks(&mut self, page: usize, granules: u64) -> u64 {
        self.cache.invalidate(page, granules, |op| {
            op.handler.set(fast::leave_block);
            op.link.set(0);
        })
    }

    /// Forgets all blocks. None may be executing.
    pub(super) fn clear_cache(&mut self) {
        let mut none = op_of(&Instruction::default(), 0);
        none.handler = Cell::new(fast::leave_block);
        self.cache.clear(none);
        self.link_from = std::ptr::null();
        self.returns = Returns::new();
    }
}

const _: () = assert!(size_of::<Op>() == 32);

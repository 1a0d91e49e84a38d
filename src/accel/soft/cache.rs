//! The cache of decoded blocks, keyed by guest-physical address and mode.

use super::mmu::PAGE_MASK;
use super::op::{Detail, Op};
use super::state::Cpu;

/// Operations that fit.
const OPS: usize = 1 << 19;
/// Instructions in iced's form that fit.
const DETAILS: usize = 1 << 18;
/// Slots of the table that finds blocks.
const SLOTS: usize = 1 << 17;

/// A decoded block.
struct Block {
    key: u64,
    /// Its first operation.
    op: u32,
    /// The granules of its page that it was decoded from.
    granules: u64,
    /// The next block of the page, 0 for none.
    next: u32,
}

/// The blocks of one vCPU.
pub struct Cache {
    /// Operation 0 is none. Never moves: allocated once.
    pub(super) ops: Vec<Op>,
    /// Instructions of general operations.
    pub(super) details: Vec<Detail>,
    /// First operations of blocks, by a hash of the key; 0 for none.
    slots: Box<[u32]>,
    blocks: Vec<Block>,
    /// First block of each page of RAM, 0 for none.
    pages: Vec<u32>,
}

/// The mode in the key of 64-bit code.
pub const MODE_LONG: u64 = 2;

/// The mode in the key of flat 32-bit code, see `Cpu::flat`.
pub const MODE_FLAT: u64 = 3;

/// The key of a block.
#[must_use]
pub fn key(gpa: u64, mode: u64) -> u64 {
    gpa << 2 | mode
}

fn slot(key: u64) -> usize {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SLOTS.trailing_zeros())) as usize
}

impl Cache {
    /// An empty cache for a RAM of `pages` pages.
    #[must_use]
    pub fn new(pages: usize) -> Self {
        let mut cache = Self {
            ops: Vec::new(),
            details: Vec::new(),
            slots: vec![0; SLOTS].into_boxed_slice(),
            blocks: Vec::new(),
            pages: vec![0; pages],
        };
        cache.blocks.push(Block { key: u64::MAX, op: 0, granules: 0, next: 0 });
        cache
    }

    /// The first operation of a block.
    #[inline]
    #[must_use]
    pub fn find(&self, key: u64) -> Option<u32> {
        let op = self.slots[slot(key)];
        self.is_block(op, key).then_some(op)
    }

    /// Whether `op` is the first operation of the block of `key`, which may have been retired.
    #[inline(always)]
    #[must_use]
    pub fn is_block(&self, op: u32, key: u64) -> bool {
        // The operation before the first tells the key.
        op != 0 && self.ops.get(op as usize - 1).is_some_and(|head| head.imm == key)
    }

    /// As `find`, looking also for blocks that another has pushed out of the table.
    pub fn find_slowly(&mut self, key: u64, page: usize) -> Option<u32> {
        let mut number = self.pages.get(page).copied().unwrap_or(0);
        while number != 0 {
            let block = &self.blocks[number as usize];
            if block.key == key {
                self.slots[slot(key)] = block.op;
                return Some(block.op);
            }
            number = block.next;
        }
        None
    }

    /// Whether a block of the longest kind fits.
    #[must_use]
    pub fn has_room(&self, longest: usize) -> bool {
        self.ops.len() + longest < OPS && self.details.len() + longest < DETAILS
    }

    /// The memory that it takes, and the most that it can take, in bytes.
    #[must_use]
    pub fn bytes(&self) -> (usize, usize) {
        let fixed = self.slots.len() * size_of::<u32>() + self.pages.len() * size_of::<u32>();
        let decoded = |ops, details, blocks| {
            ops * size_of::<Op>() + details * size_of::<Detail>() + blocks * size_of::<Block>()
        };
        let now = decoded(self.ops.capacity(), self.details.capacity(), self.blocks.capacity());
        // A block has three operations at least, and a vector doubles.
        (fixed + now, fixed + decoded(OPS, DETAILS, 2 * OPS / 3))
    }

    /// Forgets everything. No block may be executing.
    pub fn clear(&mut self, none: Op) {
        self.ops.clear();
        self.ops.reserve_exact(OPS);
        self.ops.push(none);
        self.details.clear();
        self.details.reserve_exact(DETAILS);
        self.blocks.truncate(1);
        self.slots.fill(0);
        self.pages.fill(0);
    }

    /// Notes a block.
    pub fn add(&mut self, key: u64, op: u32, granules: u64, page: usize) {
        let number = self.blocks.len() as u32;
        let Some(first) = self.pages.get_mut(page) else { return };
        self.blocks.push(Block { key, op, granules, next: *first });
        *first = number;
        self.slots[slot(key)] = op;
    }

    /// Drops the blocks of a page that were decoded from any of `granules`: calls `retire` for the first
    /// operation of each. Gives the granules of the blocks that are left.
    pub fn invalidate(&mut self, page: usize, granules: u64, retire: impl Fn(&Op)) -> u64 {
        let Some(&first) = self.pages.get(page) else { return 0 };
        let (mut number, mut before, mut left) = (first, 0u32, 0);
        while number != 0 {
            let block = &self.blocks[number as usize];
            let (next, key) = (block.next, block.key);
            if block.granules & granules == 0 {
                left |= block.granules;
                before = number;
            } else {
                retire(&self.ops[block.op as usize]);
                let slot = &mut self.slots[slot(key)];
                if *slot == block.op {
                    *slot = 0;
                }
                if before == 0 {
                    self.pages[page] = next;
                } else {
                    self.blocks[before as usize].next = next;
                }
            }
            number = next;
        }
        left
    }
}

impl Cpu {
    /// The part of a block's key that is not its address.
    #[inline]
    pub(super) fn mode_key(&self) -> u64 {
        match self.code_bits() {
            64 => MODE_LONG,
            32 if self.flat => MODE_FLAT,
            32 => 1,
            _ => 0,
        }
    }

    /// The linear address of `rip`.
    #[inline]
    pub(super) fn code_address(&self, rip: u64) -> u64 {
        match self.mode {
            super::state::Mode::Long => rip,
            _ => self.seg[super::state::seg::CS].base.wrapping_add(rip) & 0xffff_ffff,
        }
    }

    /// Notes that the code of the page at `gpa` is executed from `rip`.
    #[inline]
    pub(super) fn set_code_page(&mut self, gpa: u64, rip: u64) {
        self.code_page = gpa & PAGE_MASK;
        self.page_base = rip.wrapping_sub(gpa & 0xfff);
    }
}

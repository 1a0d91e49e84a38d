//! Where calls return to: a RET finds its operation without a look at the table of blocks.

#![forbid(unsafe_code)]

use super::mmu::PAGE_MASK;
use super::op::Next;

/// Calls that are remembered.
const DEPTH: usize = 32;
/// An address that is not canonical, so no RET goes there.
const NOWHERE: u64 = 1 << 62;

/// Marks an address of flat 32-bit code, which no address of 64-bit mode equals then.
pub const FLAT: u64 = 1 << 61;

/// What is known of one call.
#[derive(Clone, Copy)]
struct Return {
    /// The address behind it.
    rip: u64,
    /// The guest-physical page of that address.
    page: u64,
    /// The operation behind it, in the block of the call.
    op: Next,
}

/// The last calls of 64-bit mode and of flat 32-bit code, as a ring.
pub struct Returns {
    ring: [Return; DEPTH],
    top: usize,
}

impl Returns {
    /// No calls.
    #[must_use]
    pub fn new() -> Self {
        Self { ring: [Return { rip: NOWHERE, page: 0, op: std::ptr::null() }; DEPTH], top: 0 }
    }

    /// Notes a call whose operation is followed by `op`.
    #[inline(always)]
    pub fn push(&mut self, rip: u64, page: u64, op: Next) {
        self.top = (self.top + 1) % DEPTH;
        // The operation behind a call that ends its page is one of the page that has been left.
        let rip = if rip & !PAGE_MASK == 0 { NOWHERE } else { rip };
        self.ring[self.top] = Return { rip, page, op };
    }

    /// The guest-physical page and the operation of the last call, if it returns to `rip`.
    #[inline(always)]
    #[must_use]
    pub fn pop(&mut self, rip: u64) -> Option<(u64, Next)> {
        let last = self.ring[self.top % DEPTH];
        self.top = self.top.wrapping_sub(1) % DEPTH;
        (last.rip == rip).then_some((last.page, last.op))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_return_matches_only_its_call() {
        let mut returns = Returns::new();
        let op = std::ptr::dangling();
        returns.push(0x1005, 0x8000, op);
        returns.push(0x2005, 0x9000, op);
        assert_eq!(returns.pop(0x2005), Some((0x9000, op)));
        assert_eq!(returns.pop(0x1006), None);
        assert_eq!(returns.pop(0x1005), None);
    }

    #[test]
    fn the_oldest_calls_are_forgotten() {
        let mut returns = Returns::new();
        for call in 1..=DEPTH as u64 + 1 {
            returns.push(call, 0, std::ptr::dangling());
        }
        for call in (2..=DEPTH as u64 + 1).rev() {
            assert!(returns.pop(call).is_some());
        }
        assert!(returns.pop(1).is_none());
    }

    #[test]
    fn a_call_at_the_end_of_a_page_is_not_remembered() {
        let mut returns = Returns::new();
        returns.push(0x3000, 0x8000, std::ptr::dangling());
        assert!(returns.pop(0x3000).is_none());
    }
}

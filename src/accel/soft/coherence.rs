//! Keeps the vCPUs' decoded code and store translations true to each other's stores.
//!
//! A page that holds decoded code of any vCPU is stored to by the slow path of all of them, which tells
//! the others what was written. Before a page gets its first code, every other vCPU drops its store
//! translations.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use super::state::{Cpu, pending};

/// Writes that are remembered one by one; beyond that everything is dropped.
const MOST: usize = 1024;

/// What other vCPUs have to tell one vCPU.
#[derive(Debug)]
pub struct Peer {
    id: u32,
    pending: Arc<AtomicU32>,
    /// It executes no guest code, and looks at `pending` before it does again.
    parked: AtomicBool,
    /// Pages and granules of code that have been written to.
    written: Mutex<Vec<(usize, u64)>>,
    /// How often it has been asked to drop its store translations, and how often it has done so.
    asked: AtomicU64,
    done: AtomicU64,
}

impl Peer {
    /// Of a vCPU that does not run yet.
    #[must_use]
    pub fn new(id: u32, pending: Arc<AtomicU32>) -> Arc<Self> {
        Arc::new(Self {
            id,
            pending,
            parked: AtomicBool::new(true),
            written: Mutex::default(),
            asked: AtomicU64::new(0),
            done: AtomicU64::new(0),
        })
    }

    fn note_written(&self, page: usize, granules: u64) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.len() < MOST {
            written.push((page, granules));
        } else {
            *written = vec![(usize::MAX, u64::MAX); MOST];
        }
        drop(written);
        self.pending.fetch_or(pending::CODE, Ordering::SeqCst);
    }
}

impl Cpu {
    /// The vCPU is about to execute guest code.
    pub(super) fn unpark(&self) {
        if let Some(peer) = &self.peer {
            peer.parked.store(false, Ordering::SeqCst);
            // Before the look at `pending`: who saw it parked has raised that.
            fence(Ordering::SeqCst);
        }
    }

    /// The vCPU executes no guest code for now.
    pub(super) fn park(&self) {
        if let Some(peer) = &self.peer {
            peer.parked.store(true, Ordering::SeqCst);
        }
    }

    fn others(&self) -> Vec<Arc<Peer>> {
        let peers = self.ram.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.iter().filter(|peer| peer.id != self.id).cloned().collect()
    }

    /// Whether the machine has one vCPU.
    pub(super) fn is_alone(&self) -> bool {
        self.peer.is_none() || self.ram.peers.read().unwrap_or_else(PoisonError::into_inner).len() < 2
    }

    /// Tells the other vCPUs that code has been written to, and that nobody holds it as code any more.
    pub(super) fn release_shared_code(&self, page: usize, granules: u64) {
        // The word goes first: once the bits are clear, no store is noticed, and by then every vCPU knows that
        // it has to decode anew. With the lock nobody does that before the bits are clear.
        let _claims = self.ram.claims.lock().unwrap_or_else(PoisonError::into_inner);
        for peer in self.others() {
            peer.note_written(page, granules);
        }
        if let Some(code) = self.ram.code(page) {
            code.fetch_and(!granules, Ordering::SeqCst);
        }
    }

    /// Marks granules of a page as code; false if there is no such page.
    pub(super) fn claim_shared_code(&mut self, gpa: u64, page: usize, granules: u64) -> bool {
        let ram = Arc::clone(&self.ram);
        let Some(code) = ram.code(page) else { return false };
        let (first, others_claim) = {
            let mut claims = ram.claims.lock().unwrap_or_else(PoisonError::into_inner);
            *claims += 1;
            (code.fetch_or(granules, Ordering::SeqCst) == 0, *claims > 1)
        };
        // Whoever marked the page first may still be waiting for the others.
        if first || others_claim {
            self.flush_writes_of_page(gpa);
            self.drop_store_translations_of_others();
        }
        *ram.claims.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        true
    }

    /// Makes sure that no other vCPU stores to a page by an old translation.
    pub(super) fn drop_store_translations_of_others(&mut self) {
        let waits: Vec<_> = self
            .others()
            .into_iter()
            .map(|peer| {
                let ticket = peer.asked.fetch_add(1, Ordering::SeqCst) + 1;
                peer.pending.fetch_or(pending::CODE, Ordering::SeqCst);
                (peer, ticket)
            })
            .collect();
        for (peer, ticket) in waits {
            while !peer.parked.load(Ordering::SeqCst) && peer.done.load(Ordering::SeqCst) < ticket {
                // It may be waiting for this one in the same way.
                self.answer_store_requests();
                std::thread::yield_now();
            }
        }
    }

    fn answer_store_requests(&mut self) {
        let Some(peer) = &self.peer else { return };
        let asked = peer.asked.load(Ordering::SeqCst);
        if peer.done.load(Ordering::SeqCst) < asked {
            self.tlb.flush_writes();
            peer.done.store(asked, Ordering::SeqCst);
        }
    }

    /// Does what other vCPUs have asked for (`pending::CODE`). No block may be executing.
    pub(super) fn follow_others(&mut self) {
        self.answer_store_requests();
        let Some(peer) = &self.peer else { return };
        let written = std::mem::take(&mut *peer.written.lock().unwrap_or_else(PoisonError::into_inner));
        for (page, granules) in written {
            if page == usize::MAX {
                self.clear_cache();
                return;
            }
            self.drop_blocks(page, granules);
        }
    }
}

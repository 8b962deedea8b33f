//! What devices saw of memory at one moment.

use super::arena::WORDS;
use alloc::vec::Vec;
use iommu_core::addr::{PAGE_SIZE, PhysAddr};

/// A copy of every allocated frame, as devices saw it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Addresses of the frames, ascending.
    frames: Vec<u64>,
    /// Their words, frame after frame.
    words: Vec<u64>,
}

impl Snapshot {
    /// Adds a frame above all those before it.
    pub(super) fn push(&mut self, phys: u64, words: impl Iterator<Item = u64>) {
        self.frames.push(phys);
        self.words.extend(words);
        debug_assert_eq!(self.words.len(), self.frames.len() * WORDS);
    }

    /// The 8 bytes at `phys`; `None` where `phys` is misaligned, or the frame was not allocated then.
    pub fn read64(&self, phys: PhysAddr) -> Option<u64> {
        let frame = phys.get() & !(PAGE_SIZE - 1);
        let at = self.frames.binary_search(&frame).ok().filter(|_| phys.is_aligned(8))?;
        self.words.get(at * WORDS + ((phys.get() - frame) / 8) as usize).copied()
    }

    /// Addresses of the frames that were allocated, ascending.
    pub fn frames(&self) -> impl Iterator<Item = PhysAddr> + '_ {
        self.frames.iter().copied().map(PhysAddr::new)
    }
}

impl core::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Snapshot of {} frames", self.frames.len())
    }
}

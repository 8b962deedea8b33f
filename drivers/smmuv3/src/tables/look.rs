//! Words of the structures, for whoever prints them.

use super::Tables;
use iommu_core::addr::PhysAddr;
use iommu_hal::Hal;
use iommu_hal::mem::{ENTRIES, Frames};

impl<H: Hal + Clone> Tables<H> {
    /// The word at `at`, where that is in a structure of these.
    pub(crate) fn load(&self, at: PhysAddr) -> Option<u64> {
        let leaves = self.leaves.iter().map(|(_, frames)| frames);
        let own = core::iter::once(&self.root).chain(leaves).find_map(|frames| word(frames, at));
        own.or_else(|| self.devices.iter().find_map(|held| held.contexts.as_ref()?.load(at)))
    }
}

/// The word at `at`, where that is in `frames`.
pub(super) fn word<H: Hal>(frames: &Frames<H>, at: PhysAddr) -> Option<u64> {
    let offset = at.get().checked_sub(frames.phys().get())?;
    let index = usize::try_from(offset / 8).ok()?;
    let frame = frames.frame(index / ENTRIES)?;
    Some(frame.load(index % ENTRIES))
}

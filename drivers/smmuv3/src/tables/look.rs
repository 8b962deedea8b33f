//! Words of the structures, for whoever prints them.

use super::entries::SPLIT;
use super::{Attachment, Tables};
use crate::dump::Streams;
use iommu_core::addr::PhysAddr;
use iommu_hal::Hal;
use iommu_hal::mem::{ENTRIES, Frames};

impl<H: Hal + Clone> Tables<H> {
    /// The word at `at`, where that is in a structure of these.
    pub(crate) fn load(&self, at: PhysAddr) -> Option<u64> {
        let leaves = self.leaves.iter().map(|(_, frames)| frames);
        let own = core::iter::once(&self.root).chain(leaves).find_map(|frames| word(frames, at));
        own.or_else(|| self.devices.iter().find_map(|held| held.contexts.as_ref()?.load(at)))
            .or_else(|| self.devices.iter().flat_map(|held| &held.streams).find_map(|stream| stream.load(at)))
    }

    /// Where the stream table is, and its shape.
    pub(crate) fn streams(&self) -> Streams {
        let split = self.shape.two_level.then_some(SPLIT);
        Streams { root: self.root.phys(), bits: self.shape.stream_bits, split }
    }
}

impl Attachment {
    /// The word at `at`, where that is in the domain's own context descriptor, which never changes once it is written.
    fn load(&self, at: PhysAddr) -> Option<u64> {
        let stage = self.stage1()?;
        let offset = at.get().checked_sub(stage.context.get())?;
        stage.descriptor.words().get(usize::try_from(offset / 8).ok()?).copied()
    }
}

/// The word at `at`, where that is in `frames`.
pub(super) fn word<H: Hal>(frames: &Frames<H>, at: PhysAddr) -> Option<u64> {
    let offset = at.get().checked_sub(frames.phys().get())?;
    let index = usize::try_from(offset / 8).ok()?;
    let frame = frames.frame(index / ENTRIES)?;
    Some(frame.load(index % ENTRIES))
}

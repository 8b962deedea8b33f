//! What an unmap hands back.

use iommu_core::addr::{Iova, PhysAddr, PhysExtent};

/// A physically contiguous run that an unmap took out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Removed {
    /// Where it was mapped.
    pub iova: Iova,
    /// The memory that was mapped there.
    pub extent: PhysExtent,
    /// Whether it may have been written through since its dirty state was last cleared: exact in tables that
    /// [track](crate::Config::track_dirty), always set in others.
    pub dirty: bool,
}

/// Joins what is taken out to runs as long as possible.
pub(crate) struct Extents<'s> {
    pending: Option<Removed>,
    sink: &'s mut dyn FnMut(&Removed),
}

impl<'s> Extents<'s> {
    pub(crate) fn new(sink: &'s mut dyn FnMut(&Removed)) -> Self {
        Self { pending: None, sink }
    }

    /// Adds `len` bytes of `phys` that were mapped at `iova`. Calls come in rising order.
    pub(crate) fn add(&mut self, iova: Iova, phys: PhysAddr, len: u64, dirty: bool) {
        match &mut self.pending {
            Some(Removed { iova: start, extent, dirty: same })
                if *same == dirty
                    && start.wrapping_add(extent.len) == iova
                    && extent.start.wrapping_add(extent.len) == phys =>
            {
                extent.len += len;
            }
            pending => {
                if let Some(done) = pending.replace(Removed { iova, extent: PhysExtent::new(phys, len), dirty }) {
                    (self.sink)(&done);
                }
            }
        }
    }

    /// Hands out what is left.
    pub(crate) fn finish(self) {
        if let Some(done) = self.pending {
            (self.sink)(&done);
        }
    }
}

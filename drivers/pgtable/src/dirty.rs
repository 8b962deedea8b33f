//! What of one table was stored to and not yet cleaned.

use core::ops::Range;
use iommu_hal::Hal;
use iommu_hal::mem::Frame;

/// The smallest range of a table's entries that holds all that were stored to.
#[derive(Default)]
pub(crate) struct Dirty(Range<usize>);

impl Dirty {
    /// Adds `count` entries from `first` on. Calls come in rising order.
    pub(crate) fn add(&mut self, first: usize, count: usize) {
        if self.0.is_empty() {
            self.0.start = first;
        }
        self.0.end = first + count;
    }

    /// Makes them visible to a walker that does not snoop; costs nothing for others.
    pub(crate) fn clean<H: Hal + ?Sized>(self, table: &Frame<'_, H>) {
        table.clean(self.0.start, self.0.len());
    }
}

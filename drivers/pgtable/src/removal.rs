//! Taking leaves and tables out, once it is known that they go.

use crate::format::{self, Format, Grain};
use crate::removed::{Extents, Removed};
use crate::table::PageTable;
use crate::walk::Place;
use core::ops::Range;
use iommu_core::addr::{Iova, IovaRange, PhysAddr};
use iommu_core::hw::Gather;
use iommu_hal::Hal;
use iommu_hal::mem::Frame;

/// What one operation takes out, and for whom.
pub(crate) struct Removal<'r> {
    gather: &'r mut Gather,
    extents: Extents<'r>,
    /// All leaves that go are of this level, and noted already: none needs a look.
    foreseen: Option<u8>,
}

impl<'r> Removal<'r> {
    pub(crate) fn new(gather: &'r mut Gather, removed: &'r mut dyn FnMut(&Removed)) -> Self {
        Self { gather, extents: Extents::new(removed), foreseen: None }
    }

    /// Notes that all that goes is at `range`, maps contiguous memory from `phys` on by leaves of `level`, and is not
    /// tracked.
    pub(crate) fn foresee(&mut self, range: IovaRange, level: u8, phys: PhysAddr) {
        // Inside of an aperture: the length fits.
        self.extents.add(range.start(), phys, range.len().unwrap_or(0), true);
        self.foreseen = Some(level);
    }

    /// Hands out what is left.
    pub(crate) fn finish(self) {
        self.extents.finish();
    }
}

impl<H: Hal, F: Format> PageTable<H, F> {
    /// Takes out the entry at `index` of `table`, which leads to a table, with all below it. It translates what follows
    /// `iova`.
    pub(crate) fn take_out(
        &self,
        table: &Frame<'_, H>,
        index: usize,
        level: u8,
        iova: Iova,
        removal: &mut Removal<'_>,
    ) {
        let link = table.swap(index, 0);
        if format::is_link::<F>(link, level) {
            self.retire_tree((self.frame(F::table_address(link)), level - 1), iova, removal);
        }
    }

    /// Puts a table that nothing leads to any more, which translates what follows `iova`, and all tables below it with
    /// those that wait for a flush.
    ///
    /// Hardware that has cached the entry which led here goes on to walk the table, and finds each address as it was or
    /// not present. Until the flush both are allowed, in any order, so that the stores need neither barrier nor
    /// cleaning. Tables below come first: link and ticket overwrite what leads to two of them.
    fn retire_tree(&self, (table, level): Place<'_, H>, iova: Iova, removal: &mut Removal<'_>) {
        let size = self.grain.size(level);
        let range = IovaRange::from_len(iova, size << self.grain.index_bits());
        if removal.foreseen == Some(level) {
            range.into_iter().for_each(|range| removal.gather.add_leaves(range, level));
        } else {
            let mut index = 0;
            while index < table.entries() {
                let entry = table.load(index);
                let at = iova.wrapping_add(index as u64 * size);
                index += if format::is_link::<F>(entry, level) {
                    self.retire_tree((self.frame(F::table_address(entry)), level - 1), at, removal);
                    1
                } else {
                    self.note_leaves((&table, level), index..table.entries(), at, removal)
                };
            }
        }
        self.retire(&table, removal.gather.ticket());
        range.into_iter().for_each(|range| removal.gather.add_table(range, level));
    }

    /// Takes the leaves at the start of `entries` that map contiguous memory alike out of a live table, and returns how
    /// many; at least one entry is dealt with.
    pub(crate) fn take_leaves(
        &self,
        (table, level): (&Frame<'_, H>, u8),
        entries: Range<usize>,
        iova: Iova,
        removal: &mut Removal<'_>,
    ) -> usize {
        let count = if removal.foreseen == Some(level) {
            let range = IovaRange::from_len(iova, (entries.len() as u64) << self.grain.shift(level));
            range.into_iter().for_each(|range| removal.gather.add_leaves(range, level));
            entries.len()
        } else {
            self.note_leaves((table, level), entries.clone(), iova, removal)
        };
        if !self.tracked {
            Self::store_zeros(table, entries.start, count);
        }
        count
    }

    /// Notes the leaves at the start of `entries` that map contiguous memory alike, and returns how many; at least one
    /// entry is dealt with. They stay where they are, unless the table tracks: what they say of writes must be final.
    fn note_leaves(
        &self,
        (table, level): (&Frame<'_, H>, u8),
        entries: Range<usize>,
        iova: Iova,
        removal: &mut Removal<'_>,
    ) -> usize {
        let first = table.load(entries.start);
        if !format::is_present::<F>(first) {
            return 1;
        }
        let phys = F::leaf_address(first, level);
        let count = self.alike(table, level, entries.start, entries.len(), first).max(1);
        let shift = self.grain.shift(level);
        let len = (count as u64) << shift;
        if self.tracked {
            // Hardware may note a write to a group in any entry of it.
            let group = 1 << (format::leaf_bits::<F>(self.grain, first, level) - shift);
            for at in (0..count).step_by(group) {
                // In one step: hardware notes a write before, or finds nothing to write through.
                let take = |index| F::is_dirty(table.swap(index, 0));
                let taken = (entries.start + at..entries.start + count.min(at + group)).map(take);
                let dirty = taken.fold(false, |any, dirty| any | dirty);
                let offset = (at as u64) << shift;
                let size = (group as u64) << shift;
                removal.extents.add(iova.wrapping_add(offset), phys.wrapping_add(offset), size, dirty);
            }
        } else {
            removal.extents.add(iova, phys, len, true);
        }
        if let Some(range) = IovaRange::from_len(iova, len) {
            removal.gather.add_leaves(range, level);
        }
        count
    }
}

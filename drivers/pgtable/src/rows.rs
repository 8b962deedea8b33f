//! Going through the entries of a range table by table, not address by address.

use crate::format::{self, Format, Grain};
use crate::table::PageTable;
use core::ops::Range;
use iommu_core::addr::{Iova, IovaRange};
use iommu_core::hw::{Gather, HwError};
use iommu_hal::Hal;
use iommu_hal::mem::Frame;

/// Entries side by side in one table, none of which leads to a table.
pub(crate) struct Row<'t, H: Hal> {
    pub(crate) table: Frame<'t, H>,
    pub(crate) level: u8,
    pub(crate) entries: Range<usize>,
    /// The first address that the first of them translates.
    pub(crate) iova: Iova,
}

/// A leaf, or a whole contiguous group of leaves: what changes as one.
#[derive(Clone, Copy)]
pub(crate) struct Group<'t, H: Hal> {
    pub(crate) table: Frame<'t, H>,
    pub(crate) level: u8,
    /// Where its first entry stands.
    pub(crate) index: usize,
    pub(crate) count: usize,
    /// The first address that it maps.
    pub(crate) iova: Iova,
    /// Its first entry, as it was found.
    pub(crate) entry: u64,
}

impl<H: Hal> Group<'_, H> {
    /// Bytes that it maps.
    pub(crate) fn size<G: Grain>(&self, grain: G) -> u64 {
        (self.count as u64) << grain.shift(self.level)
    }

    /// Its last address.
    pub(crate) fn last<G: Grain>(&self, grain: G) -> Iova {
        self.iova.wrapping_add(self.size(grain) - 1)
    }

    /// Whether all of it lies in `range`.
    pub(crate) fn is_in<G: Grain>(&self, grain: G, range: IovaRange) -> bool {
        range.start() <= self.iova && self.last(grain) <= range.last()
    }

    /// Notes that it changed.
    pub(crate) fn note<G: Grain>(&self, grain: G, gather: &mut Gather) {
        if let Some(range) = IovaRange::new(self.iova, self.last(grain)) {
            gather.add_leaves(range, self.level);
        }
    }

    /// Where it stands.
    pub(crate) fn entries(&self) -> Range<usize> {
        self.index..self.index + self.count
    }
}

/// What stands in a row, in rising order: each leaf, or contiguous group, that has an entry in it, and each entry that
/// is none, by the first address that it translates.
pub(crate) struct Found<'t, H: Hal, F: Format> {
    row: Row<'t, H>,
    grain: F::Grain,
}

impl<'t, H: Hal, F: Format> Iterator for Found<'t, H, F> {
    type Item = Result<Group<'t, H>, Iova>;

    fn next(&mut self) -> Option<Self::Item> {
        let grain = self.grain;
        let Row { table, level, ref mut entries, ref mut iova } = self.row;
        let index = entries.next()?;
        let at = *iova;
        let size = grain.size(level);
        *iova = at.wrapping_add(size);
        let entry = table.load(index);
        // A neighbour may have put in a table since the row was made: it holds nothing that concerns this range.
        if !format::is_leaf::<F>(entry, level) {
            return Some(Err(at));
        }
        let count = 1 << (format::leaf_bits::<F>(grain, entry, level) - grain.shift(level));
        let before = index & (count - 1);
        if count != 1 {
            let after = (index - before + count).min(entries.end);
            *iova = at.wrapping_add((after - index) as u64 * size);
            entries.start = after;
        }
        let index = index - before;
        let entry = if before == 0 { entry } else { table.load(index) };
        let iova = Iova::new(at.get() - before as u64 * size);
        Some(Ok(Group { table, level, index, count, iova, entry }))
    }
}

impl<'t, H: Hal> Row<'t, H> {
    /// What stands in it.
    pub(crate) fn found<F: Format>(self, grain: F::Grain) -> Found<'t, H, F> {
        Found { row: self, grain }
    }

    /// The leaves and contiguous groups that have an entry in it.
    pub(crate) fn groups<F: Format>(self, grain: F::Grain) -> impl Iterator<Item = Group<'t, H>> {
        self.found::<F>(grain).filter_map(Result::ok)
    }
}

impl<H: Hal, F: Format> PageTable<H, F> {
    /// Calls `visit` with every row of entries that translate an address of `range`, in rising order, up to the first
    /// error. `range` lies in the aperture. `visit` may change the entries of its row.
    pub(crate) fn for_each_row<'t>(
        &'t self,
        range: IovaRange,
        mut visit: impl FnMut(Row<'t, H>) -> Result<(), HwError>,
    ) -> Result<(), HwError> {
        self.rows_below(self.root_frame(), self.top(), Iova::new(0), range, &mut visit)
    }

    /// As [`PageTable::for_each_row`], for what `table`, which translates what follows `base`, and those below it hold.
    // Once for all visitors: a call each row costs nothing beside the row, a copy each visitor is text.
    fn rows_below<'t>(
        &'t self,
        table: Frame<'t, H>,
        level: u8,
        base: Iova,
        range: IovaRange,
        visit: &mut dyn FnMut(Row<'t, H>) -> Result<(), HwError>,
    ) -> Result<(), HwError> {
        let at = |index: usize| base.wrapping_add(index as u64 * self.grain.size(level));
        let all = window(self.grain, table.entries(), level, base, range);
        let mut first = all.start;
        // Entries of the lowest level never lead to tables.
        let above = if level == 0 { 0..0 } else { all.clone() };
        for index in above {
            let entry = table.follow(index);
            if format::is_link::<F>(entry, level) {
                if first != index {
                    visit(Row { table, level, entries: first..index, iova: at(first) })?;
                }
                first = index + 1;
                self.rows_below(self.frame(F::table_address(entry)), level - 1, at(index), range, visit)?;
            }
        }
        if first < all.end {
            visit(Row { table, level, entries: first..all.end, iova: at(first) })?;
        }
        Ok(())
    }
}

/// Of the `entries` entries of a table of `level`, which translates what follows `base`, those that translate an address
/// of `range`. There are some.
pub(crate) fn window<G: Grain>(grain: G, entries: usize, level: u8, base: Iova, range: IovaRange) -> Range<usize> {
    let shift = grain.shift(level);
    let first = range.start().get().saturating_sub(base.get()) >> shift;
    let last = range.last().get().saturating_sub(base.get()) >> shift;
    first as usize..(last as usize).min(entries - 1) + 1
}

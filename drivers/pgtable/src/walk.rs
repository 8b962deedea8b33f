//! From the root down to the entry that translates an address.

use crate::format::{self, Format, Grain};
use crate::table::PageTable;
use iommu_core::addr::{Iova, PhysAddr};
use iommu_hal::Hal;
use iommu_hal::mem::Frame;

/// A table and its level.
pub(crate) type Place<'t, H> = (Frame<'t, H>, u8);

/// Where a walk has ended.
#[derive(Clone, Copy)]
pub(crate) struct Spot<'t, H: Hal> {
    pub(crate) table: Frame<'t, H>,
    pub(crate) level: u8,
    pub(crate) index: usize,
    /// What the walk found there. Loaded once: above the level that was asked for a neighbour may put a table in at any
    /// moment, and who looks again may find one where none was.
    pub(crate) entry: u64,
}

/// The table that was worked on last: what comes next often stands in it too.
pub(crate) struct Last<'t, H: Hal> {
    pub(crate) table: Frame<'t, H>,
    /// An address that it translates.
    pub(crate) iova: Iova,
    pub(crate) level: u8,
}

impl<H: Hal> Last<'_, H> {
    /// Whether this is the table of `level` that translates `iova`.
    #[inline]
    pub(crate) fn holds<G: Grain>(&self, grain: G, iova: Iova, level: u8) -> bool {
        let above = grain.shift(level) + grain.index_bits();
        level == self.level && (iova.get() ^ self.iova.get()) >> above == 0
    }
}

impl<H: Hal, F: Format> PageTable<H, F> {
    /// Level of the root.
    #[inline]
    pub(crate) fn top(&self) -> u8 {
        self.levels - 1
    }

    /// Index of the entry of `table`, which is of `level`, that translates `iova`, inside of the aperture.
    #[inline]
    pub(crate) fn index(&self, table: &Frame<'_, H>, iova: Iova, level: u8) -> usize {
        (iova.get() >> self.grain.shift(level)) as usize & (table.entries() - 1)
    }

    /// The view of the root.
    #[inline]
    pub(crate) fn root_frame(&self) -> Frame<'_, H> {
        // SAFETY: as for `frame`; the request was for as many bytes.
        unsafe { Frame::with_entries(&self.hal, self.root, self.root_entries, self.root_request.memory) }
    }

    /// The view of a table below the root.
    #[inline]
    pub(crate) fn frame(&self, phys: PhysAddr) -> Frame<'_, H> {
        // SAFETY: `phys` was read out of an entry that leads to a table or out of a chain. These were written by this
        // table only, with frames that it allocated with this request. They are freed once nothing leads to them and
        // whoever had the claim on all that they translate is done. Nothing else makes a reference to them.
        unsafe { Frame::with_entries(&self.hal, phys, 1 << self.grain.index_bits(), self.request.memory) }
    }

    /// Goes down to the table that translates `iova` and is of `level`, or ends above it, where an entry leads to no
    /// table.
    #[inline(always)]
    pub(crate) fn walk(&self, iova: Iova, level: u8) -> Spot<'_, H> {
        // Unrolled for the depth that most tables have: shifts by constants, and no counting.
        if self.levels == 4 { self.walk_from(3, iova, level) } else { self.walk_from(self.top(), iova, level) }
    }

    #[inline(always)]
    fn walk_from(&self, top: u8, iova: Iova, level: u8) -> Spot<'_, H> {
        let mut table = self.root_frame();
        let mut at = top;
        loop {
            let index = self.index(&table, iova, at);
            let entry = table.follow(index);
            if at <= level || !format::is_link::<F>(entry, at) {
                return Spot { table, level: at, index, entry };
            }
            table = self.frame(F::table_address(entry));
            at -= 1;
        }
    }

    /// The entry for `iova` in a table that holds it.
    #[inline]
    pub(crate) fn spot<'t>(&self, last: &Last<'t, H>, iova: Iova) -> Spot<'t, H> {
        let &Last { table, level, .. } = last;
        let index = self.index(&table, iova, level);
        Spot { table, level, index, entry: table.follow(index) }
    }
}

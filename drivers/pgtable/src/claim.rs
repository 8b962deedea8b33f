//! The right to change a range of a table.

use crate::format::Format;
use crate::removed::Removed;
use crate::table::PageTable;
use core::fmt;
use iommu_core::addr::{Iova, IovaRange, PhysExtent};
use iommu_core::hw::{Gather, HwError, Prot, Transition, Translation};
use iommu_hal::Hal;

/// Who tells hardware that entries have changed, for the operations that have to know it done before they go on.
///
/// # Implementation safety
///
/// [`flush`](Flush::flush) returns `Ok` only once no hardware uses anything any more that the gather names: leaves,
/// tables, and what leads to them.
pub unsafe trait Flush {
    /// Invalidates what `gather` holds, and waits until hardware has confirmed that.
    ///
    /// Called in the middle of an operation on the table: it must not touch that table.
    ///
    /// # Errors
    ///
    /// Whatever kept hardware from confirming. It may go on using what the gather names, in each form that it had since
    /// it was last confirmed, in sizes that the table no longer shows. The table remembers: the next operation that is
    /// given a unit has it flush everything before anything else, and until then every unmap asks for everything in its
    /// gather.
    fn flush(&mut self, gather: &Gather) -> Result<(), HwError>;
}

/// The exclusive right to change a range of addresses of a table. Whoever holds one works on it with plain stores, while
/// others work on theirs.
///
/// [`PageTable::exclusive`] gives one for all addresses, [`Claim::split_at`] makes two out of one, so that CPUs can work
/// side by side without unsafe code; [`PageTable::claim`] is for owners who know by other means that ranges are disjoint.
///
/// An operation on addresses outside of the claim fails with [`HwError::OutOfRange`] and changes nothing. A leaf, or
/// contiguous group, counts as changed as a whole.
pub struct Claim<'t, H: Hal, F: Format> {
    table: &'t PageTable<H, F>,
    /// Inside of the table's aperture.
    range: IovaRange,
}

impl<'t, H: Hal, F: Format> Claim<'t, H, F> {
    pub(crate) fn new(table: &'t PageTable<H, F>, range: IovaRange) -> Self {
        Self { table, range }
    }

    /// The addresses it is for.
    pub fn range(&self) -> IovaRange {
        self.range
    }

    /// Two claims: on what lies below `iova`, and on the rest. `None` in place of an empty one.
    pub fn split_at(self, iova: Iova) -> (Option<Self>, Option<Self>) {
        let below = iova.get().checked_sub(1).map(Iova::new);
        let (start, last) = (self.range.start(), self.range.last());
        let low = below.and_then(|below| IovaRange::new(start, below.min(last)));
        let high = IovaRange::new(iova.max(start), last);
        (low.map(|range| Self::new(self.table, range)), high.map(|range| Self::new(self.table, range)))
    }

    /// Maps `extents`, one after the other, from `iova` on, each address with the largest leaf or contiguous group that
    /// its alignment, the memory's alignment and length, and the unit allow. Empty extents are skipped; where nothing is
    /// left, nothing is mapped and that is no error.
    ///
    /// At every moment hardware finds each address either as before or as mapped here. It may have cached that nothing
    /// was there: the driver knows whether its unit does. What was mapped here before must have been forgotten: the flush
    /// of its unmap comes before the map. `unit` is asked only where tables without any leaf stand where large leaves
    /// go: they are taken out first.
    ///
    /// # Errors
    ///
    /// [`HwError::Protection`], [`HwError::Misaligned`], [`HwError::OutOfRange`], [`HwError::OutputTooWide`],
    /// [`HwError::AlreadyMapped`], [`HwError::OutOfMemory`]: nothing has changed. Those of `unit`: no address leads
    /// anywhere else than before.
    #[inline]
    pub fn map(&mut self, iova: Iova, extents: &[PhysExtent], prot: Prot, unit: &mut dyn Flush) -> Result<(), HwError> {
        self.table.map(self.range, iova, extents, prot, unit)
    }

    /// Takes `range` out of the table, hands what was mapped to `removed` as physically contiguous runs in rising order,
    /// and notes in `gather`, which the driver has claimed for this table, the ranges and levels of the leaves and
    /// tables that are gone. The frames of those tables are kept, under the gather's ticket, for
    /// [`free_gathered`](Claim::free_gathered).
    ///
    /// Until hardware has confirmed the invalidation of what the gather holds, a device may still reach the memory, the
    /// addresses must not be mapped anew, and hardware may still walk the frames: each holds what it held, but for its
    /// first two entries, and in tables that track for all leaves, which read as not present.
    ///
    /// # Errors
    ///
    /// [`HwError::Misaligned`], [`HwError::OutOfRange`]; [`HwError::NotMapped`] and [`HwError::SplitsLeaf`] for the
    /// lowest address that stands in the way: nothing has changed, neither in the table nor in the gather.
    #[inline]
    pub fn unmap(
        &mut self,
        range: IovaRange,
        gather: &mut Gather,
        removed: &mut dyn FnMut(&Removed),
    ) -> Result<(), HwError> {
        self.check(range)?;
        self.table.unmap(range, gather, removed)
    }

    /// Changes what all of `range` allows to `prot`, and has `unit` confirm it. What is known of writes to it stays.
    ///
    /// Leaves that allow just that already are left alone; where all do, and hardware has confirmed all that it was
    /// asked to, `unit` is not asked.
    ///
    /// [`Transition::ThroughBlocked`] where accesses in between may have been refused: contiguous groups are taken out
    /// and put back, one by one, each with a flush, as their entries must never differ in what they allow.
    ///
    /// # Errors
    ///
    /// [`HwError::Protection`], [`HwError::Misaligned`], [`HwError::OutOfRange`]; [`HwError::NotMapped`] and
    /// [`HwError::SplitsLeaf`] for the lowest address that stands in the way: nothing has changed. Those of `unit`, and
    /// [`HwError::Hardware`] where a leaf does not stop changing: each address leads where it did, with the old
    /// protection or the new.
    pub fn protect(&mut self, range: IovaRange, prot: Prot, unit: &mut dyn Flush) -> Result<Transition, HwError> {
        self.check(range)?;
        self.table.protect(range, prot, unit)
    }

    /// Cuts leaves and contiguous groups until none that holds an address of `range` is larger than `largest` bytes;
    /// what lies beside `range` stays as large as it can. `range` may begin and end anywhere, and what is not mapped is
    /// skipped. Every address leads where it did, and what is cut from a leaf that was written through counts as written
    /// through. Has `unit` confirm it.
    ///
    /// To unmap part of a leaf, cut the part first, down to its own alignment.
    ///
    /// [`Transition::ThroughBlocked`] where accesses in between may have been refused: leaves of a format that does not
    /// [resize live](Format::resizes_live) are taken out, one by one, each with a flush, before what they are cut into
    /// goes in.
    ///
    /// # Errors
    ///
    /// [`HwError::Unsupported`] where `largest` is none of the table's page sizes; [`HwError::OutOfRange`], also where a
    /// leaf to cut reaches out of the claim; [`HwError::OutOfMemory`]: nothing has changed. Those of `unit`, and
    /// [`HwError::Hardware`] where a leaf does not stop changing: some leaves may have been cut.
    pub fn cut(&mut self, range: IovaRange, largest: u64, unit: &mut dyn Flush) -> Result<Transition, HwError> {
        self.check(range)?;
        self.table.cut(self.range, range, largest, unit)
    }

    /// Merges leaves in `range` that map contiguous memory with the same protection into contiguous groups and larger
    /// leaves, as far as those lie in `range`, which may begin and end anywhere. Every address leads where it did, and a
    /// leaf counts as written through if any that it was merged from does. Has `unit` confirm it, and frees the tables
    /// that are no longer needed. Never allocates.
    ///
    /// [`Transition::ThroughBlocked`] as for [`Claim::cut`].
    ///
    /// # Errors
    ///
    /// [`HwError::OutOfRange`]: nothing has changed. Those of `unit`, and [`HwError::Hardware`] where a leaf does not
    /// stop changing: some leaves may have been merged, and those of the flush that failed have been put back.
    pub fn merge(&mut self, range: IovaRange, unit: &mut dyn Flush) -> Result<Transition, HwError> {
        self.check(range)?;
        self.table.merge(range, unit)
    }

    /// As [`PageTable::read_dirty`].
    ///
    /// # Errors
    ///
    /// As there, and [`HwError::OutOfRange`] outside of the claim.
    pub fn read_dirty(&self, range: IovaRange, dirty: &mut dyn FnMut(IovaRange)) -> Result<(), HwError> {
        self.check(range)?;
        self.table.read_dirty(range, dirty)
    }

    /// As [`PageTable::read_and_clear_dirty`].
    ///
    /// # Errors
    ///
    /// As there, and [`HwError::OutOfRange`] outside of the claim.
    pub fn read_and_clear_dirty(
        &mut self,
        range: IovaRange,
        gather: &mut Gather,
        dirty: &mut dyn FnMut(IovaRange),
    ) -> Result<(), HwError> {
        self.check(range)?;
        self.table.read_and_clear_dirty(range, gather, dirty)
    }

    /// Where the table sends `iova`, if anywhere and if it lies in the claim.
    #[inline]
    pub fn translate(&self, iova: Iova) -> Option<Translation> {
        if self.range.contains(iova) { self.table.translate(iova) } else { None }
    }

    /// As [`PageTable::free_gathered`].
    ///
    /// # Safety
    ///
    /// As there.
    pub unsafe fn free_gathered(&mut self, gather: &mut Gather) {
        // SAFETY: the caller promises the same.
        unsafe { self.table.free_gathered(gather) };
    }

    #[inline]
    fn check(&self, range: IovaRange) -> Result<(), HwError> {
        if self.range.covers(range) {
            return Ok(());
        }
        Err(HwError::OutOfRange { iova: range.start(), len: range.len().unwrap_or(u64::MAX) })
    }
}

impl<H: Hal, F: Format> fmt::Debug for Claim<'_, H, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("table", self.table).field("range", &self.range).finish()
    }
}

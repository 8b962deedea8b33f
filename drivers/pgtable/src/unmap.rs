//! Unmapping: look first, then take away, and note what hardware may still hold.

use crate::format::{self, Format, Grain};
use crate::lines::Lines;
use crate::map::check_aligned;
use crate::removal::Removal;
use crate::removed::Removed;
use crate::table::PageTable;
use crate::walk::{Last, Place, Spot};
use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
use iommu_core::hw::{Gather, HwError};
use iommu_hal::Hal;
use iommu_hal::mem::Frame;

/// Leaves of one size side by side in one table that map contiguous memory with the same attributes.
struct Stretch<'t, H: Hal> {
    table: Frame<'t, H>,
    level: u8,
    count: usize,
    /// The first.
    entry: u64,
}

impl<H: Hal, F: Format> PageTable<H, F> {
    /// See [`Claim::unmap`](crate::Claim::unmap).
    #[inline]
    pub(crate) fn unmap(
        &self,
        range: IovaRange,
        gather: &mut Gather,
        removed: &mut dyn FnMut(&Removed),
    ) -> Result<(), HwError> {
        if self.plain && self.is_confirmed() && self.unmap_warm(range, gather, removed) {
            return Ok(());
        }
        self.unmap_stretches(range, gather, removed)
    }

    /// Unmaps leaves of contiguous memory that are part of one table, as most ranges are. Otherwise nothing is done.
    #[inline(always)]
    fn unmap_warm(&self, range: IovaRange, gather: &mut Gather, removed: &mut dyn FnMut(&Removed)) -> bool {
        // The smallest pages by themselves: shifts by constants.
        match self.walk(range.start(), 0) {
            spot @ Spot { level: 0, .. } => self.unmap_part(Spot { level: 0, ..spot }, range, gather, removed),
            // All that a table translates: the table goes too, so there is more to do.
            Spot { level, .. } if range.last().get() - range.start().get() >= self.grain.size(level + 1) - 1 => false,
            _ => self.unmap_large(range, gather, removed),
        }
    }

    #[inline(never)]
    fn unmap_large(&self, range: IovaRange, gather: &mut Gather, removed: &mut dyn FnMut(&Removed)) -> bool {
        self.unmap_part(self.walk(range.start(), 0), range, gather, removed)
    }

    /// Unmaps leaves in a table, if they are all that is mapped at `range`.
    #[inline(always)]
    fn unmap_part(
        &self,
        Spot { table, level, index, entry }: Spot<'_, H>,
        range: IovaRange,
        gather: &mut Gather,
        removed: &mut dyn FnMut(&Removed),
    ) -> bool {
        let iova = range.start();
        let shift = self.grain.shift(level);
        let len = range.last().get().wrapping_sub(iova.get()).wrapping_add(1);
        let count = (len >> shift) as usize;
        let present = format::is_present::<F>(entry);
        let whole = (iova.get() | len) & ((1 << format::leaf_bits::<F>(self.grain, entry, level)) - 1) == 0;
        let together = (iova.get() ^ range.last().get()) >> (shift + self.grain.index_bits()) == 0;
        if !present || !whole || !together || count == table.entries() {
            return false;
        }
        if count != 1 && self.alike(&table, level, index, count, entry) != count {
            return false;
        }
        Self::store_zeros(&table, index, count);
        gather.add_leaves(range, level);
        let extent = PhysExtent::new(F::leaf_address(entry, level), len);
        removed(&Removed { iova, extent, dirty: true });
        true
    }

    /// Everything that can be known without a look at the table.
    pub(crate) fn check_range(&self, range: IovaRange) -> Result<(), HwError> {
        let start = range.start();
        check_aligned(self.grain, start.get())?;
        check_aligned(self.grain, range.last().get().wrapping_add(1).wrapping_sub(start.get()))?;
        if self.geometry().aperture.covers(range) {
            return Ok(());
        }
        Err(HwError::OutOfRange { iova: start, len: range.len().unwrap_or(u64::MAX) })
    }

    /// The leaves from `at` on, the first of one, as far as they lie in one table and hold nothing above `end`.
    #[inline]
    fn stretch<'t>(&'t self, at: Iova, end: Iova, last: &Option<Last<'t, H>>) -> Result<Stretch<'t, H>, HwError> {
        let known = last.as_ref().filter(|last| last.holds(self.grain, at, last.level)).map(|last| self.spot(last, at));
        let known = known.filter(|spot| !format::is_link::<F>(spot.entry, spot.level));
        let Spot { table, level, index, entry } = known.unwrap_or_else(|| self.walk(at, 0));
        if !format::is_present::<F>(entry) {
            return Err(HwError::NotMapped { iova: at });
        }
        let bits = format::leaf_bits::<F>(self.grain, entry, level);
        let shift = self.grain.shift(level);
        let room = self.room(&table, index, level, at, end);
        let same = self.alike(&table, level, index, room, entry);
        // Whole groups only.
        let count = same >> (bits - shift) << (bits - shift);
        let inside = at.get() & ((1 << bits) - 1);
        if inside != 0 || count == 0 {
            return Err(HwError::SplitsLeaf { iova: Iova::new(at.get() - inside), size: 1 << bits });
        }
        Ok(Stretch { table, level, count, entry })
    }

    /// Entries of `table` from `index` on, which translates `at`, that hold nothing above `end`.
    #[inline]
    fn room(&self, table: &Frame<'_, H>, index: usize, level: u8, at: Iova, end: Iova) -> usize {
        // Both lie in the aperture: the sum does not wrap.
        let bytes = end.get().wrapping_sub(at.get()).wrapping_add(1);
        (table.entries() - index).min((bytes >> self.grain.shift(level)) as usize)
    }

    /// Unmaps what is mapped in whatever way.
    #[inline(never)]
    fn unmap_stretches(
        &self,
        range: IovaRange,
        gather: &mut Gather,
        removed: &mut dyn FnMut(&Removed),
    ) -> Result<(), HwError> {
        self.check_range(range)?;
        let uniform = self.check_mapped(range)?;
        let mut lines = Lines::<H, F>::new();
        let mut removal = Removal::new(gather, removed);
        if let Some((level, phys)) = uniform {
            removal.foresee(range, level, phys);
        }
        let mut at = Some(range.start());
        while let Some(iova) = at {
            let (table, level) = self.walk_to_covered(iova, range);
            let index = self.index(&table, iova, level);
            let count = if format::is_link::<F>(table.load(index), level) {
                self.take_out(&table, index, level, iova, &mut removal);
                1
            } else {
                let room = self.room(&table, index, level, iova, range.last());
                self.take_leaves((&table, level), index..index + room, iova, &mut removal)
            };
            lines.add(table, level, index, count);
            at = next(iova, (count as u64) << self.grain.shift(level), range);
        }
        lines.finish();
        removal.finish();
        self.note_unconfirmed(gather);
        Ok(())
    }

    /// Checks that every page of `range` is mapped, and that no end of it lies inside a leaf. Returns the level of the
    /// leaves and the memory of the first, where all of them map contiguous memory alike and need no look at each.
    fn check_mapped(&self, range: IovaRange) -> Result<Option<(u8, PhysAddr)>, HwError> {
        let mut last: Option<Last<'_, H>> = None;
        let mut first = None;
        let mut uniform = !self.tracked;
        let mut at = Some(range.start());
        while let Some(iova) = at {
            let Stretch { table, level, count, entry } = self.stretch(iova, range.last(), &last)?;
            let (first_level, first_entry) = *first.get_or_insert((level, entry));
            let steps = iova.get().wrapping_sub(range.start().get()) >> self.grain.shift(level);
            let expected = first_entry.wrapping_add(format::step::<F>(self.grain, level).wrapping_mul(steps));
            uniform &= level == first_level && entry == expected;
            at = next(iova, (count as u64) << self.grain.shift(level), range);
            last = Some(Last { table, iova, level });
        }
        Ok(first.filter(|_| uniform).map(|(level, entry)| (level, F::leaf_address(entry, level))))
    }

    /// Goes down to the entry that translates `iova` and is a leaf, or leads to a table all of which lies in `range`.
    fn walk_to_covered(&self, iova: Iova, range: IovaRange) -> Place<'_, H> {
        let mut table = self.root_frame();
        let mut level = self.top();
        loop {
            let entry = table.follow(self.index(&table, iova, level));
            let inside = self.grain.size(level) - 1;
            let covered = iova.get() & inside == 0 && iova.get() | inside <= range.last().get();
            if covered || level == 0 || !format::is_link::<F>(entry, level) {
                return (table, level);
            }
            table = self.frame(F::table_address(entry));
            level -= 1;
        }
    }
}

/// What follows the `len` bytes from `iova` on, in `range`.
fn next(iova: Iova, len: u64, range: IovaRange) -> Option<Iova> {
    iova.checked_add(len).filter(|next| *next <= range.last())
}

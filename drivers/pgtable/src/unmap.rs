//! Unmapping: look first, then take away, and note what hardware may still hold.

use crate::chain::Chain;
use crate::dirty::Dirty;
use crate::format::Format;
use crate::span::Span;
use crate::table::PageTable;
use core::ops::Range;
use iommu_core::addr::{IovaRange, PAGE_SIZE, PhysAddr};
use iommu_core::hw::{Gather, HwError};
use iommu_hal::Hal;
use iommu_hal::mem::Frame;

impl<H: Hal, F: Format> PageTable<H, F> {
    /// Takes `range` out of the table, and notes in `gather`, which the driver has claimed for this table, the ranges
    /// and levels of the leaves that are gone and the ranges of tables that nothing leads to any more. The frames of
    /// those tables are kept, under the gather's ticket, for [`PageTable::free_gathered`].
    ///
    /// Until hardware has confirmed the invalidation of what the gather holds, a device may still reach the memory, and
    /// hardware may still walk the frames: each holds what it held, but for its first two entries, which read as not
    /// present.
    ///
    /// # Errors
    ///
    /// [`HwError::Misaligned`], [`HwError::OutOfRange`]; [`HwError::NotMapped`] and [`HwError::SplitsLeaf`] for the
    /// lowest address that stands in the way: nothing has changed, neither in the table nor in the gather.
    pub fn unmap(&mut self, range: IovaRange, gather: &mut Gather) -> Result<(), HwError> {
        self.check_unmap(range)?;
        let root = self.frame(self.root());
        let span = Span::new(range, self.top());
        self.check_mapped(&root, span)?;
        let mut taken = Taken { ticket: gather.ticket(), gather, retired: self.retired };
        self.remove(&root, span, &mut taken);
        let retired = taken.retired;
        self.tables -= retired.count - self.retired.count;
        self.retired = retired;
        Ok(())
    }

    /// Everything that can be known without a look at the table.
    fn check_unmap(&self, range: IovaRange) -> Result<(), HwError> {
        let start = range.start();
        let len = range.len().unwrap_or(u64::MAX);
        if !range.is_aligned(PAGE_SIZE) {
            let value = if start.is_aligned(PAGE_SIZE) { len } else { start.get() };
            return Err(HwError::Misaligned { value, align: PAGE_SIZE });
        }
        if !self.geometry().aperture.covers(range) {
            return Err(HwError::OutOfRange { iova: start, len });
        }
        Ok(())
    }

    /// Checks that `table` maps every page of `span`, and that no end of it lies inside a leaf.
    fn check_mapped(&self, table: &Frame<'_, H>, span: Span) -> Result<(), HwError> {
        for index in span.entries() {
            let entry = table.load(index);
            if !F::is_present(entry) {
                return Err(HwError::NotMapped { iova: span.part(index).start() });
            }
            if !F::is_leaf(entry, span.level()) {
                self.check_mapped(&self.frame(F::address(entry, span.level())), span.below(index))?;
            } else if !span.covers(index) {
                return Err(HwError::SplitsLeaf { iova: span.base(index), size: span.size() });
            }
        }
        Ok(())
    }

    /// Clears what `table` holds for `span`, all of which is mapped.
    fn remove(&self, table: &Frame<'_, H>, span: Span, taken: &mut Taken<'_>) {
        let mut dirty = Dirty::default();
        let mut left = span.entries();
        while let Some(piece) = next_piece::<H, F>(table, span, &mut left) {
            match piece {
                Piece::Leaves(leaves) => {
                    for index in leaves.clone() {
                        table.store(index, 0);
                    }
                    dirty.add(leaves.start, leaves.len());
                    taken.gather.add_leaves(span.parts(leaves), span.level());
                }
                Piece::Table(index, phys) if span.covers(index) => {
                    table.store(index, 0);
                    dirty.add(index, 1);
                    self.retire(phys, span.below(index), taken);
                }
                Piece::Table(index, phys) => self.remove(&self.frame(phys), span.below(index), taken),
            }
        }
        dirty.clean(table);
    }

    /// Puts the table in the frame `phys`, which nothing leads to any more, and all tables below it onto the chain of
    /// retired ones. It translated `span`, all of it mapped.
    ///
    /// Hardware that has cached the entry which led here goes on to walk the table, and finds each address as it was
    /// or, where link and ticket took an entry's place, not present. Until the flush both are allowed, in any order, so
    /// that the stores need neither barrier nor cleaning. Tables below come first: link and ticket overwrite what leads
    /// to two of them.
    fn retire(&self, phys: PhysAddr, span: Span, taken: &mut Taken<'_>) {
        let table = self.frame(phys);
        let mut left = span.entries();
        while let Some(piece) = next_piece::<H, F>(&table, span, &mut left) {
            match piece {
                Piece::Leaves(leaves) => taken.gather.add_leaves(span.parts(leaves), span.level()),
                Piece::Table(index, phys) => self.retire(phys, span.below(index), taken),
            }
        }
        taken.retired.push(&table, taken.ticket);
        taken.gather.add_table(span.range());
    }
}

/// What an unmap has taken out so far.
struct Taken<'g> {
    gather: &'g mut Gather,
    ticket: u64,
    retired: Chain,
}

/// What stands next in a table, all of whose entries in question are present.
enum Piece {
    /// Leaves side by side.
    Leaves(Range<usize>),
    /// An entry that leads to the table in this frame.
    Table(usize, PhysAddr),
}

/// Takes the next piece of `table` out of the entries `left`, part of those of `span`.
fn next_piece<H: Hal, F: Format>(table: &Frame<'_, H>, span: Span, left: &mut Range<usize>) -> Option<Piece> {
    if (*left).is_empty() {
        return None;
    }
    let first = left.start;
    let level = span.level();
    let leaves = match level {
        // There is nothing else.
        0 => left.len(),
        _ => left.clone().take_while(|index| F::is_leaf(table.load(*index), level)).count(),
    };
    left.start += leaves.max(1);
    Some(match leaves {
        0 => Piece::Table(first, F::address(table.load(first), level)),
        _ => Piece::Leaves(first..left.start),
    })
}

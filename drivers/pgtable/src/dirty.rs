//! What was written through: reading it, and clearing it.

use crate::format::{self, Attributes, Format, Grain};
use crate::rows::Row;
use crate::table::PageTable;
use iommu_core::addr::{Iova, IovaRange, PhysAddr};
use iommu_core::hw::{Gather, HwError, Prot};
use iommu_hal::Hal;

/// Joins what is dirty to ranges as long as possible.
struct Ranges<'s> {
    pending: Option<IovaRange>,
    sink: &'s mut dyn FnMut(IovaRange),
}

impl Ranges<'_> {
    /// Adds a range above all those before it.
    fn add(&mut self, range: IovaRange) {
        match &mut self.pending {
            Some(pending) if pending.is_followed_by(range) => *pending = pending.union(range),
            pending => {
                if let Some(done) = pending.replace(range) {
                    (self.sink)(done);
                }
            }
        }
    }

    /// Hands out what is left.
    fn finish(self) {
        if let Some(done) = self.pending {
            (self.sink)(done);
        }
    }
}

impl<H: Hal, F: Format> PageTable<H, F> {
    /// Hands the addresses in `range` whose leaves were written through to `dirty`, in rising order, neighbours joined.
    /// A contiguous group counts as one leaf. What is not mapped is skipped.
    ///
    /// # Errors
    ///
    /// [`HwError::Unsupported`] where the table does not [track](crate::Config::track_dirty);
    /// [`HwError::Misaligned`], [`HwError::OutOfRange`]; [`HwError::SplitsLeaf`] where an end of the range lies inside
    /// a leaf: nothing was handed out.
    pub fn read_dirty(&self, range: IovaRange, dirty: &mut dyn FnMut(IovaRange)) -> Result<(), HwError> {
        self.scan(range, dirty, None)
    }

    /// As [`PageTable::read_dirty`], and makes clean what it hands out, each leaf in one step: a write is in what is
    /// handed out, or is found by the next call. Notes in `gather`, which the driver has claimed for this table, the
    /// leaves that were cleaned: until hardware has confirmed their invalidation, it need not note writes through them.
    ///
    /// # Errors
    ///
    /// As there, and nothing has changed, neither in the table nor in the gather. [`HwError::Hardware`] where a leaf
    /// does not stop changing: what was handed out may be clean, and is in the gather.
    pub fn read_and_clear_dirty(
        &self,
        range: IovaRange,
        gather: &mut Gather,
        dirty: &mut dyn FnMut(IovaRange),
    ) -> Result<(), HwError> {
        self.scan(range, dirty, Some(gather))
    }

    /// Hands out what is dirty, and cleans it where there is a gather.
    fn scan(
        &self,
        range: IovaRange,
        sink: &mut dyn FnMut(IovaRange),
        mut gather: Option<&mut Gather>,
    ) -> Result<(), HwError> {
        if !self.tracked {
            return Err(HwError::Unsupported("dirty state of a table that does not track it"));
        }
        self.check_range(range)?;
        self.check_ends(range)?;
        let mut ranges = Ranges { pending: None, sink };
        let scanned = self.for_each_row(range, |row| self.scan_row(row, &mut ranges, gather.as_deref_mut()));
        ranges.finish();
        if let Some(gather) = gather.filter(|gather| !gather.is_empty()) {
            self.note_unconfirmed(gather);
        }
        scanned
    }

    /// As [`PageTable::read_dirty`], or with a gather as [`PageTable::read_and_clear_dirty`], of a range that may begin and
    /// end inside of leaves. Of those what lies in the range is handed out, and they stay as they are: whoever asks for the
    /// rest finds it.
    pub(crate) fn scan_cut(
        &self,
        range: IovaRange,
        sink: &mut dyn FnMut(IovaRange),
        mut gather: Option<&mut Gather>,
    ) -> Result<(), HwError> {
        let low = self.reaching_out(range, range.start());
        // Right behind the one that holds the start, and right before the one that holds the end.
        let start = low.map_or(Some(range.start()), |leaf| leaf.last().checked_add(1));
        let Some(rest) = start.and_then(|start| IovaRange::new(start, range.last())) else {
            return self.scan_part(low, range, sink);
        };
        let high = self.reaching_out(rest, range.last());
        let last = high.map_or(Some(range.last()), |leaf| leaf.start().get().checked_sub(1).map(Iova::new));
        let inner = last.and_then(|last| IovaRange::new(rest.start(), last));
        let mut ranges = Ranges { pending: None, sink };
        let mut add = |range| ranges.add(range);
        let scanned = self
            .scan_part(low, range, &mut add)
            .and_then(|()| inner.map_or(Ok(()), |inner| self.scan(inner, &mut add, gather.take())))
            .and_then(|()| self.scan_part(high, range, &mut add));
        ranges.finish();
        scanned
    }

    /// Hands out what `range` has of a leaf, if that is there and dirty. Checks the range.
    fn scan_part(
        &self,
        leaf: Option<IovaRange>,
        range: IovaRange,
        sink: &mut dyn FnMut(IovaRange),
    ) -> Result<(), HwError> {
        self.check_range(range)?;
        let Some(leaf) = leaf else { return Ok(()) };
        let mut dirty = false;
        self.scan(leaf, &mut |_| dirty = true, None)?;
        let part = IovaRange::new(leaf.start().max(range.start()), leaf.last().min(range.last()));
        part.filter(|_| dirty).into_iter().for_each(sink);
        Ok(())
    }

    /// Checks that no leaf or contiguous group reaches out of `range`. Only those that hold an end of it can.
    fn check_ends(&self, range: IovaRange) -> Result<(), HwError> {
        match [range.start(), range.last()].into_iter().find_map(|at| self.reaching_out(range, at)) {
            Some(leaf) => Err(HwError::SplitsLeaf { iova: leaf.start(), size: leaf.len().unwrap_or(u64::MAX) }),
            None => Ok(()),
        }
    }

    /// The leaf or contiguous group that holds `at`, if it reaches out of `range`.
    fn reaching_out(&self, range: IovaRange, at: Iova) -> Option<IovaRange> {
        let leaf = self.leaves(IovaRange::new(at, at)?).next()?;
        IovaRange::from_len(leaf.iova, leaf.size).filter(|leaf| !range.covers(*leaf))
    }

    /// Goes through a row, which holds whole groups only, as many entries at once as are alike: leaves with the same
    /// attributes, dirty state included, wherever they lead; or none.
    fn scan_row(
        &self,
        row: Row<'_, H>,
        ranges: &mut Ranges<'_>,
        mut gather: Option<&mut Gather>,
    ) -> Result<(), HwError> {
        let Row { table, level, entries, mut iova } = row;
        let address = address_bits::<F>(self.grain, level);
        let shift = self.grain.shift(level);
        let mut index = entries.start;
        while index < entries.end {
            let entry = table.load(index);
            let room = entries.end - index;
            let (count, dirty) = if !format::is_present::<F>(entry) {
                (table.matching_run(index, room, 0, 0, !F::PRESENT).max(1), false)
            } else if !format::is_leaf::<F>(entry, level) {
                // A neighbour's table, put in since the row was made.
                (1, false)
            } else {
                let alike = table.matching_run(index, room, entry, 0, address).max(1);
                let group_bits = format::leaf_bits::<F>(self.grain, entry, level) - shift;
                match alike >> group_bits << group_bits {
                    0 => (1 << group_bits, self.any_dirty(&table, index..index + (1 << group_bits))),
                    groups => (groups, F::is_dirty(entry)),
                }
            };
            let len = (count as u64) << shift;
            if dirty && let Some(range) = IovaRange::from_len(iova, len) {
                ranges.add(range);
                if let Some(gather) = gather.as_deref_mut() {
                    gather.add_leaves(range, level);
                    for index in index..index + count {
                        self.update(&table, index, |leaf| self.cleaned(leaf, level))?;
                    }
                }
            }
            index += count;
            iova = iova.wrapping_add(len);
        }
        Ok(())
    }

    /// The leaf `entry` of `level` as if it had not been written through.
    fn cleaned(&self, entry: u64, level: u8) -> u64 {
        self.leaf(F::leaf_address(entry, level), level, F::prot(entry), F::is_grouped(entry), false)
    }
}

/// The bits of a leaf of `level` that hold its address.
fn address_bits<F: Format>(grain: F::Grain, level: u8) -> u64 {
    let attributes = Attributes { prot: Prot::READ_WRITE, grouped: false, tracked: true };
    let leaf = |phys| F::leaf(PhysAddr::new(phys), level, attributes, F::Options::default());
    leaf((1 << F::OUTPUT_BITS) - grain.size(level)) ^ leaf(0)
}

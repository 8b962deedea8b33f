//! The part of a range that one table translates, and the entries that do so.

use crate::format;
use core::ops::Range;
use iommu_core::addr::{Iova, IovaRange};

/// A range inside of what one table of some level translates.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    range: IovaRange,
    level: u8,
}

impl Span {
    /// `range`, which lies in what one table of `level` translates.
    pub(crate) fn new(range: IovaRange, level: u8) -> Self {
        Self { range, level }
    }

    /// The range.
    pub(crate) fn range(self) -> IovaRange {
        self.range
    }

    /// Level of the table.
    pub(crate) fn level(self) -> u8 {
        self.level
    }

    /// Bytes that one entry of the table translates.
    pub(crate) fn size(self) -> u64 {
        format::size(self.level)
    }

    /// The entries that translate the range.
    pub(crate) fn entries(self) -> Range<usize> {
        self.index(self.range.start())..self.index(self.range.last()) + 1
    }

    /// The lowest address that the entry at `index` translates.
    pub(crate) fn base(self, index: usize) -> Iova {
        let table = self.range.start().get() & !(format::size(self.level + 1) - 1);
        Iova::new(table | (index as u64) << format::shift(self.level))
    }

    /// Whether the range holds all that the entry at `index`, one of [`Span::entries`], translates.
    pub(crate) fn covers(self, index: usize) -> bool {
        let base = self.base(index).get();
        self.range.start().get() <= base && base | (self.size() - 1) <= self.range.last().get()
    }

    /// What of the range the entry at `index`, one of [`Span::entries`], translates.
    pub(crate) fn part(self, index: usize) -> IovaRange {
        self.parts(index..index + 1)
    }

    /// What of the range the `entries`, some of [`Span::entries`] and at least one, translate.
    pub(crate) fn parts(self, entries: Range<usize>) -> IovaRange {
        let start = self.base(entries.start).max(self.range.start());
        let last = self.base(entries.end - 1).get() | (self.size() - 1);
        // The entries translate part of the range, so the two ends are in order.
        IovaRange::new(start, Iova::new(last).min(self.range.last())).unwrap_or(self.range)
    }

    /// What of the range the table below the entry at `index`, one of [`Span::entries`], translates.
    pub(crate) fn below(self, index: usize) -> Self {
        Self::new(self.part(index), self.level - 1)
    }

    fn index(self, iova: Iova) -> usize {
        format::index(iova.get(), self.level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_cut_at_its_own_ends_only() {
        let range = IovaRange::new(Iova::new(0x7_c01f_f000), Iova::new(0x7_c040_0fff)).unwrap();
        let span = Span::new(range, 1);
        assert_eq!(span.entries(), 0..3);
        assert_eq!([0, 1, 2].map(|index| span.covers(index)), [false, true, false]);
        assert_eq!(span.base(2).get(), 0x7_c040_0000);
        assert_eq!(span.parts(0..3), range);
        let cut = span.below(0);
        assert_eq!((cut.range().start().get(), cut.range().last().get()), (0x7_c01f_f000, 0x7_c01f_ffff));
        assert_eq!((cut.level(), cut.entries()), (0, 511..512));
        assert_eq!(span.below(2).entries(), 0..1);
    }
}

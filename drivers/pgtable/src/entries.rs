//! The loops over many entries of one table, where the time of long runs goes.
//!
//! Where the format has [one grain](Grain::FIXED) each is compiled for each level by itself, because the difference between
//! neighbours is a constant then. All stay out of line, because most calls are for one entry.

use crate::format::{self, Format, Grain};
use crate::table::PageTable;
use iommu_hal::Hal;
use iommu_hal::mem::Frame;

/// Calls the instance of a loop for `$level`.
macro_rules! at_level {
    ($level:expr, $loop:ident($($argument:expr),*)) => {
        match $level {
            0 => Self::$loop::<0>($($argument),*),
            1 => Self::$loop::<1>($($argument),*),
            2 => Self::$loop::<2>($($argument),*),
            3 => Self::$loop::<3>($($argument),*),
            _ => Self::$loop::<4>($($argument),*),
        }
    };
}

impl<H: Hal, F: Format> PageTable<H, F> {
    /// Stores `count` leaves from `first` on that map contiguous memory from what `leaf` maps on.
    #[inline]
    pub(crate) fn store_leaves(&self, table: &Frame<'_, H>, level: u8, first: usize, count: usize, leaf: u64) {
        match count {
            1 => table.store(first, leaf),
            _ if F::Grain::FIXED => at_level!(level, store_many(self.grain, table, first, count, leaf)),
            _ => Self::store_stepped(table, first, count, leaf, format::step::<F>(self.grain, level)),
        }
    }

    #[inline(never)]
    fn store_many<const LEVEL: u8>(grain: F::Grain, table: &Frame<'_, H>, first: usize, count: usize, leaf: u64) {
        table.store_run(first, count, leaf, format::step::<F>(grain, LEVEL));
    }

    #[inline(never)]
    fn store_stepped(table: &Frame<'_, H>, first: usize, count: usize, leaf: u64, step: u64) {
        table.store_run(first, count, leaf, step);
    }

    /// Stores zero in `count` entries from `first` on.
    #[inline]
    pub(crate) fn store_zeros(table: &Frame<'_, H>, first: usize, count: usize) {
        match count {
            1 => table.store(first, 0),
            _ => Self::zero_many(table, first, count),
        }
    }

    #[inline(never)]
    fn zero_many(table: &Frame<'_, H>, first: usize, count: usize) {
        table.store_run(first, count, 0, 0);
    }

    /// Whether hardware follows any of `count` entries from `first` on.
    #[inline]
    pub(crate) fn any_present(table: &Frame<'_, H>, first: usize, count: usize) -> bool {
        match count {
            1 => format::is_present::<F>(table.load(first)),
            _ => Self::any_present_in_many(table, first, count),
        }
    }

    #[inline(never)]
    fn any_present_in_many(table: &Frame<'_, H>, first: usize, count: usize) -> bool {
        table.any_set(first, count, F::PRESENT)
    }

    /// How many of `count` entries from `first` on, where the leaf `leaf` stands, map contiguous memory like it. In
    /// tables that track, their dirty state may differ.
    #[inline]
    pub(crate) fn alike(&self, table: &Frame<'_, H>, level: u8, first: usize, count: usize, leaf: u64) -> usize {
        match self.tracked {
            false if F::Grain::FIXED => at_level!(level, same_in_many(self.grain, table, first, count, leaf)),
            tracked => {
                let ignored = if tracked { F::DIRTY } else { 0 };
                Self::alike_in_many(table, first, count, leaf, (format::step::<F>(self.grain, level), ignored))
            }
        }
    }

    #[inline(never)]
    fn alike_in_many(
        table: &Frame<'_, H>,
        first: usize,
        count: usize,
        leaf: u64,
        (step, ignored): (u64, u64),
    ) -> usize {
        table.matching_run(first, count, leaf, step, ignored)
    }

    #[inline(never)]
    fn same_in_many<const LEVEL: u8>(
        grain: F::Grain,
        table: &Frame<'_, H>,
        first: usize,
        count: usize,
        leaf: u64,
    ) -> usize {
        table.matching_run(first, count, leaf, format::step::<F>(grain, LEVEL), 0)
    }
}

//! What of the tables was stored to and is not yet visible to a walker that does not snoop.

use crate::format::{self, Format, MOST_LEVELS};
use core::marker::PhantomData;
use core::ops::Range;
use iommu_hal::mem::Frame;
use iommu_hal::{Hal, WalkerMemory};

/// For each level one table, and the smallest range of its entries that holds all that were stored to. An operation goes
/// through the addresses in rising order, so each table is worked on once, and each of its cache lines cleaned once.
pub(crate) struct Lines<'t, H: Hal, F> {
    levels: [Option<(Frame<'t, H>, Range<usize>)>; MOST_LEVELS],
    format: PhantomData<F>,
}

impl<'t, H: Hal, F: Format> Lines<'t, H, F> {
    pub(crate) fn new() -> Self {
        Self { levels: [const { None }; MOST_LEVELS], format: PhantomData }
    }

    /// Adds `count` entries, from `first` on, of `table`, which is of `level`. Cleans what is held of another table of
    /// that level. Costs nothing where the walker snoops.
    pub(crate) fn add(&mut self, table: Frame<'t, H>, level: u8, first: usize, count: usize) {
        if table.memory() == WalkerMemory::Coherent {
            return;
        }
        let Some(held) = self.levels.get_mut(usize::from(level)) else { return };
        match held {
            Some((same, range)) if same.phys() == table.phys() => {
                *range = range.start.min(first)..range.end.max(first + count);
            }
            _ => {
                if let Some((other, range)) = held.replace((table, first..first + count)) {
                    Self::clean(&other, level, range);
                }
            }
        }
    }

    /// Cleans all that is left.
    pub(crate) fn finish(self) {
        for (level, held) in (0u8..).zip(self.levels) {
            if let Some((table, range)) = held {
                Self::clean(&table, level, range);
            }
        }
    }

    /// Makes entries visible, and marks those that lead to tables as being so.
    ///
    /// The operation went through, or put in, each link in the range before this, and no other CPU puts in any between
    /// two that it went through, as all that they translate is the operation's: none is marked that was not cleaned.
    fn clean(table: &Frame<'t, H>, level: u8, range: Range<usize>) {
        table.clean(range.start, range.len());
        if level == 0 {
            return;
        }
        for index in range {
            let entry = table.load(index);
            if format::is_link::<F>(entry, level) && entry & F::VISIBLE == 0 {
                table.set_bits(index, F::VISIBLE);
            }
        }
    }
}

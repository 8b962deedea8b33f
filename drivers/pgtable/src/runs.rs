//! The extents of one map call as runs: neighbours that touch are one, empty ones are none.

use crate::format;
use iommu_core::addr::{Iova, PhysAddr, PhysExtent};

/// A position in extents that are mapped one after the other. Every length and address was checked before.
#[derive(Clone)]
pub(crate) struct Runs<'e> {
    iova: u64,
    phys: u64,
    /// Bytes left of the run at hand; 0 only at the end of all.
    left: u64,
    rest: &'e [PhysExtent],
}

impl<'e> Runs<'e> {
    /// The start of `extents`, mapped from `iova` on.
    pub(crate) fn new(iova: Iova, extents: &'e [PhysExtent]) -> Self {
        let mut runs = Self { iova: iova.get(), phys: 0, left: 0, rest: extents };
        runs.refill();
        runs
    }

    /// Whether nothing is left.
    pub(crate) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Where the position is mapped.
    pub(crate) fn iova(&self) -> Iova {
        Iova::new(self.iova)
    }

    /// The memory at the position.
    pub(crate) fn phys(&self) -> PhysAddr {
        PhysAddr::new(self.phys)
    }

    /// Index of the entry for the position in a table of `level`.
    pub(crate) fn index(&self, level: u8) -> usize {
        format::index(self.iova, level)
    }

    /// How many leaves of `level` fit from here to the end of the run; 0 where a boundary is in the way.
    pub(crate) fn leaves(&self, level: u8) -> u64 {
        let aligned = (self.iova | self.phys) & (format::size(level) - 1) == 0;
        if aligned { self.left >> format::shift(level) } else { 0 }
    }

    /// Moves on by `leaves` leaves of `level`, no more than [`Runs::leaves`] gave.
    pub(crate) fn advance(&mut self, leaves: usize, level: u8) {
        let bytes = (leaves as u64) << format::shift(level);
        self.iova = self.iova.wrapping_add(bytes);
        self.phys = self.phys.wrapping_add(bytes);
        self.left = self.left.saturating_sub(bytes);
        if self.left == 0 {
            self.refill();
        }
    }

    /// Takes the next run out of the extents.
    fn refill(&mut self) {
        while let [next, rest @ ..] = self.rest {
            if self.left == 0 {
                self.phys = next.start.get();
            } else if next.len != 0 && next.start.get() != self.phys.wrapping_add(self.left) {
                break;
            }
            self.left += next.len;
            self.rest = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_that_touch_are_one_run_and_empty_ones_are_none() {
        let extent = |start, len| PhysExtent::new(PhysAddr::new(start), len);
        let extents = [
            extent(0x9_9000, 0),
            extent(0x1000, 0x1000),
            extent(0x7_7000, 0),
            extent(0x2000, 0x3000),
            extent(0x4000, 0x1000),
            extent(0x6_6000, 0),
        ];
        let mut runs = Runs::new(Iova::new(0x10_0000), &extents);
        assert_eq!((runs.phys().get(), runs.leaves(0), runs.leaves(1)), (0x1000, 4, 0));
        runs.advance(4, 0);
        assert_eq!((runs.iova().get(), runs.phys().get(), runs.leaves(0)), (0x10_4000, 0x4000, 1));
        runs.advance(1, 0);
        assert!(runs.is_done());
        assert!(Runs::new(Iova::new(0), &extents[..1]).is_done());
        assert!(Runs::new(Iova::new(0), &[]).is_done());
    }
}

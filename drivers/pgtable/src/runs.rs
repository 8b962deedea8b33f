//! The extents of one map call as pieces: leaves of one size, side by side in one table, of contiguous memory.

use crate::format::Grain;
use crate::sizes;
use iommu_core::addr::{Iova, PhysAddr, PhysExtent};
use iommu_core::hw::PageSizes;

/// A position in extents that are mapped one after the other. Every length and address was checked before. Neighbours
/// that touch are one run, empty ones are none.
#[derive(Clone)]
pub(crate) struct Runs<'e> {
    iova: u64,
    phys: u64,
    /// Bytes left of the run at hand; 0 only at the end of all.
    left: u64,
    rest: &'e [PhysExtent],
    sizes: PageSizes,
}

/// Leaves of one size, side by side in one table, that map contiguous memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    pub(crate) iova: Iova,
    pub(crate) phys: PhysAddr,
    /// Of the table that holds them.
    pub(crate) level: u8,
    /// They form contiguous groups.
    pub(crate) grouped: bool,
    /// Entries.
    pub(crate) count: usize,
}

impl Piece {
    /// Bytes that it maps.
    pub(crate) fn len<G: Grain>(&self, grain: G) -> u64 {
        (self.count as u64) << grain.shift(self.level)
    }
}

impl<'e> Runs<'e> {
    /// The start of `extents`, mapped from `iova` on with leaves of `sizes`.
    #[inline]
    pub(crate) fn new(iova: Iova, extents: &'e [PhysExtent], sizes: PageSizes) -> Self {
        let mut runs = Self { iova: iova.get(), phys: 0, left: 0, rest: extents, sizes };
        runs.refill();
        runs
    }

    /// Takes the next piece, with the largest leaves that the position, the run's length and the sizes allow; `None` at
    /// the end. Ends where a larger size becomes possible.
    #[inline]
    pub(crate) fn next<G: Grain>(&mut self, grain: G) -> Option<Piece> {
        if self.left == 0 {
            return None;
        }
        let bits = sizes::largest(self.sizes, self.iova | self.phys, self.left);
        let (level, group) = sizes::split(grain, bits);
        let table = grain.shift(level) + grain.index_bits();
        let to_border = |bits: u32| (1 << bits) - (self.iova & ((1 << bits) - 1));
        // The root of concatenated tables is wider than others: there the end of the input range is the end.
        let mut bytes = self.left.min(to_border(table));
        if let Some(larger) = sizes::next_larger(self.sizes, bits) {
            let border = to_border(larger);
            let reached = (self.iova ^ self.phys) & ((1 << larger) - 1) == 0;
            if reached && border < bytes && self.left - border >= 1 << larger {
                bytes = border;
            }
        }
        bytes &= !((1 << bits) - 1);
        let piece = Piece {
            iova: Iova::new(self.iova),
            phys: PhysAddr::new(self.phys),
            level,
            grouped: group != 0,
            count: (bytes >> grain.shift(level)) as usize,
        };
        self.iova = self.iova.wrapping_add(bytes);
        self.phys = self.phys.wrapping_add(bytes);
        self.left -= bytes;
        if self.left == 0 {
            self.refill();
        }
        Some(piece)
    }

    /// Takes the next run out of the extents.
    #[inline]
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
    use crate::{Format, VtdSecondStage};
    use std::vec::Vec;

    fn pieces(iova: u64, extents: &[(u64, u64)], sizes: u64) -> Vec<(u64, u64, u8, usize)> {
        let extents: Vec<_> = extents.iter().map(|&(at, len)| PhysExtent::new(PhysAddr::new(at), len)).collect();
        let mut runs = Runs::new(Iova::new(iova), &extents, PageSizes::new(sizes));
        let next = || runs.next(VtdSecondStage::grain(Default::default()));
        core::iter::from_fn(next).map(|p| (p.iova.get(), p.phys.get(), p.level, p.count)).collect()
    }

    #[test]
    fn neighbours_that_touch_are_one_run_and_empty_ones_are_none() {
        let extents =
            [(0x9_9000, 0), (0x1000, 0x1000), (0x7_7000, 0), (0x2000, 0x3000), (0x4000, 0x1000), (0x6_6000, 0)];
        assert_eq!(pieces(0x10_0000, &extents, 0x1000), [(0x10_0000, 0x1000, 0, 4), (0x10_4000, 0x4000, 0, 1)]);
        assert_eq!(pieces(0, &extents[..1], 0x1000), []);
        assert_eq!(pieces(0, &[], 0x1000), []);
    }

    #[test]
    fn a_piece_ends_where_larger_leaves_begin() {
        let sizes = 0x1000 | 0x20_0000 | 0x4000_0000;
        let expected = [(0x1f_f000, 0x5f_f000, 0, 1), (0x20_0000, 0x60_0000, 1, 2), (0x60_0000, 0xa0_0000, 0, 3)];
        assert_eq!(pieces(0x1f_f000, &[(0x5f_f000, 0x40_4000)], sizes), expected);
        // The next border of 2 MiB is reached with less than 2 MiB left: small leaves to the end of the table.
        let expected = [(0x1f_f000, 0x5f_f000, 0, 1), (0x20_0000, 0x60_0000, 0, 511)];
        assert_eq!(pieces(0x1f_f000, &[(0x5f_f000, 0x20_0000)], sizes), expected);
        // Never aligned to each other: a table at a time.
        let expected = [(0x20_0000, 0x1000, 0, 512), (0x40_0000, 0x20_1000, 0, 512)];
        assert_eq!(pieces(0x20_0000, &[(0x1000, 0x40_0000)], sizes), expected);
    }
}

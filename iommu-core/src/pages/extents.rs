//! Physical runs in order, in as little memory as their shape allows.

use crate::addr::{PhysAddr, PhysExtent};
use alloc::vec::Vec;
use core::mem::size_of;

/// What one number costs, in bytes.
const WORD: u64 = size_of::<u64>() as u64;

/// Physical runs, one after the other. No two that follow each other touch, and none is empty.
pub(super) enum Runs {
    /// A single one.
    One(PhysExtent),
    /// All as long as the first, but for a last one that may be shorter: 8 bytes each.
    Equal { each: u64, total: u64, starts: Vec<u64> },
    /// Of any length; `ends[n]` is how many bytes the runs up to number n have together: 16 bytes each.
    Mixed { starts: Vec<u64>, ends: Vec<u64> },
}

impl Runs {
    /// The length in bytes.
    #[inline]
    pub(super) fn total(&self) -> u64 {
        match self {
            Self::One(run) => run.len,
            Self::Equal { total, .. } => *total,
            Self::Mixed { ends, .. } => ends.last().copied().unwrap_or(0),
        }
    }

    /// Bytes of memory held beside the value itself.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::One(_) => 0,
            Self::Equal { starts, .. } => words(starts.capacity()),
            Self::Mixed { starts, ends } => words(starts.capacity()).saturating_add(words(ends.capacity())),
        }
    }

    /// Run number `index`: its first physical address, and the offsets at which it begins and ends; the end of a shorter
    /// last one may be given as if it were as long as the others.
    fn run(&self, index: usize) -> Option<(u64, u64, u64)> {
        match self {
            Self::One(run) => (index == 0).then_some((run.start.get(), 0, run.len)),
            Self::Equal { each, starts, .. } => {
                let start = *starts.get(index)?;
                let begin = each.checked_mul(index as u64)?;
                Some((start, begin, begin.saturating_add(*each)))
            }
            Self::Mixed { starts, ends } => {
                let begin = index.checked_sub(1).and_then(|before| ends.get(before)).copied().unwrap_or(0);
                Some((*starts.get(index)?, begin, *ends.get(index)?))
            }
        }
    }

    /// The number of the run that holds `offset`, which lies inside.
    fn index(&self, offset: u64) -> usize {
        match self {
            Self::One(_) => 0,
            Self::Equal { each, .. } => {
                offset.checked_div(*each).and_then(|index| usize::try_from(index).ok()).unwrap_or(usize::MAX)
            }
            Self::Mixed { ends, .. } => ends.partition_point(|&end| end <= offset),
        }
    }

    /// Where byte `offset` lies.
    #[inline]
    pub(super) fn phys(&self, offset: u64) -> Option<PhysAddr> {
        if offset >= self.total() {
            return None;
        }
        match self {
            Self::One(run) => run.start.checked_add(offset),
            _ => {
                let (start, begin, _) = self.run(self.index(offset))?;
                Some(PhysAddr::new(start).wrapping_add(offset.saturating_sub(begin)))
            }
        }
    }

    /// The runs behind the `len` bytes from `offset`, cut to them, and to what there is.
    #[inline]
    pub(super) fn cut(&self, offset: u64, len: u64) -> Cut<'_> {
        match self {
            Self::One(run) => Cut::of_one(*run, offset, len),
            _ => {
                let left = self.total().saturating_sub(offset).min(len);
                Cut { left, rest: Rest::Many { runs: self, index: self.index(offset), offset } }
            }
        }
    }
}

/// The size of `count` numbers, in bytes.
pub(super) fn words(count: usize) -> u64 {
    (count as u64).saturating_mul(WORD)
}

/// Walks through runs, cut to a range.
pub(crate) struct Cut<'a> {
    /// Bytes that are still to come.
    left: u64,
    rest: Rest<'a>,
}

enum Rest<'a> {
    /// All the bytes that are left begin here.
    One(PhysAddr),
    /// They begin at `offset`, which lies in run number `index`.
    Many { runs: &'a Runs, index: usize, offset: u64 },
}

impl Cut<'_> {
    #[inline]
    pub(super) fn of_one(run: PhysExtent, offset: u64, len: u64) -> Self {
        Self { left: run.len.saturating_sub(offset).min(len), rest: Rest::One(run.start.wrapping_add(offset)) }
    }
}

impl Iterator for Cut<'_> {
    type Item = PhysExtent;

    #[inline]
    fn next(&mut self) -> Option<PhysExtent> {
        if self.left == 0 {
            return None;
        }
        match &mut self.rest {
            Rest::One(start) => Some(PhysExtent::new(*start, core::mem::take(&mut self.left))),
            Rest::Many { runs, index, offset } => {
                let (start, begin, end) = runs.run(*index)?;
                let into = offset.saturating_sub(begin);
                let len = end.saturating_sub(*offset).min(self.left);
                *index = index.saturating_add(1);
                *offset = end;
                self.left -= len;
                Some(PhysExtent::new(PhysAddr::new(start).wrapping_add(into), len))
            }
        }
    }
}

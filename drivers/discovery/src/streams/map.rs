//! Ids that become other ids on their way: requesters, streams, device ids.

use alloc::vec::Vec;

/// Neighbouring ids that become neighbouring ids of one target, or all the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct IdRange {
    /// First id that goes in.
    pub(crate) first: u32,
    /// Last id that goes in; not below `first`.
    pub(crate) last: u32,
    /// What the first becomes; those of the others need no more than 32 bits.
    pub(crate) output: u32,
    /// Whether all become the same.
    pub(crate) single: bool,
    /// Whose ids come out.
    pub(crate) target: usize,
}

impl IdRange {
    /// What the last id becomes.
    pub(crate) const fn last_output(&self) -> u32 {
        if self.single { self.output } else { self.output.wrapping_add(self.last.wrapping_sub(self.first)) }
    }
}

/// Ranges of which no two have an id in common.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct IdMap {
    mask: u32,
    /// Sorted by what goes in.
    ranges: Vec<IdRange>,
}

impl IdMap {
    /// A map of nothing.
    pub(crate) const EMPTY: Self = Self { mask: u32::MAX, ranges: Vec::new() };

    /// The map of `ranges`, whose ids are masked before they are looked up.
    ///
    /// # Errors
    ///
    /// The first id that two ranges have.
    pub(crate) fn new(mask: u32, mut ranges: Vec<IdRange>) -> Result<Self, u32> {
        ranges.sort_unstable_by_key(|range| (range.first, range.last));
        let twice = ranges.iter().zip(ranges.iter().skip(1)).find(|(range, next)| next.first <= range.last);
        match twice {
            Some((_, next)) => Err(next.first),
            None => Ok(Self { mask, ranges }),
        }
    }

    /// The ranges, sorted by what goes in.
    pub(crate) fn ranges(&self) -> &[IdRange] {
        &self.ranges
    }

    /// Whose id `id` becomes, and which.
    pub(crate) fn lookup(&self, id: u32) -> Option<(usize, u32)> {
        let masked = id & self.mask;
        // The last range that begins at or before it.
        let index = self.ranges.partition_point(|range| range.first <= masked).checked_sub(1)?;
        let range = self.ranges.get(index).filter(|range| masked <= range.last)?;
        // In the range, for which the sum was checked.
        let offset = if range.single { 0 } else { masked.wrapping_sub(range.first) };
        Some((range.target, range.output.wrapping_add(offset)))
    }
}

//! What an unmap changed, for the flush that must follow.

use super::{HwError, unique_number};
use crate::addr::{Iova, IovaRange};

/// A set of table levels as a mask: bit n stands for level n, 0 being the lowest (4 KiB leaves).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LevelSet(u8);

impl LevelSet {
    /// The set of `level`, below 8, alone.
    #[inline]
    pub fn of(level: u8) -> Self {
        Self(1u8.checked_shl(level.into()).unwrap_or(0))
    }

    /// Adds `level`, below 8.
    pub fn insert(&mut self, level: u8) {
        self.0 |= 1u8.checked_shl(level.into()).unwrap_or(0);
    }

    /// Whether `level` is in the set.
    pub fn contains(self, level: u8) -> bool {
        self.0 & 1u8.checked_shl(level.into()).unwrap_or(0) != 0
    }

    /// Whether no level is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The mask.
    pub const fn mask(self) -> u8 {
        self.0
    }
}

/// Stands where no range is. All zeros, as that is the cheapest to make.
const NOWHERE: IovaRange = match IovaRange::from_len(Iova::new(0), 1) {
    Some(range) => range,
    None => IovaRange::FULL,
};

/// One range that a gather holds, and what changed in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Touched {
    /// The addresses.
    pub range: IovaRange,
    /// Levels of the leaves that are gone or changed.
    pub leaves: LevelSet,
    /// Levels of the tables that nothing leads to any more. Where there are any, caches of upper entries must go too.
    pub tables: LevelSet,
}

impl Touched {
    /// What stands in a slot that is not in use.
    const UNUSED: Self = Self { range: NOWHERE, leaves: LevelSet(0), tables: LevelSet(0) };

    #[inline]
    fn union(self, other: Self) -> Self {
        Self {
            range: self.range.union(other.range),
            leaves: LevelSet(self.leaves.0 | other.leaves.0),
            tables: LevelSet(self.tables.0 | other.tables.0),
        }
    }

    /// Whether the two are one without covering anything that neither does.
    fn joins(self, other: Self) -> bool {
        let (held, added) = (self.range, other.range);
        held.overlaps(added) || held.is_followed_by(added) || added.is_followed_by(held)
    }

    /// Addresses that the union of the two would cover and neither does.
    fn distance(self, other: Self) -> u64 {
        let (low, high) = if self.range.start() <= other.range.start() { (self, other) } else { (other, self) };
        high.range.start().get().saturating_sub(low.range.last().get())
    }
}

/// Number of separate ranges a gather keeps before it falls back on ranges that cover several.
const RANGES: usize = 8;

/// Collects what unmaps of *one* domain changed: ranges, and the levels of leaves and tables in each.
///
/// It never allocates and never fails: where ranges become too many, the new one is merged with the one nearest to it.
/// Table frames that were taken out stay with the domain, under the gather's [ticket](Gather::ticket), until the gather
/// is flushed or the domain goes: a frame that hardware may still read is never reused.
#[derive(Debug)]
#[must_use = "what was unmapped stays reachable until the gather is flushed"]
pub struct Gather {
    owner: Option<u64>,
    ticket: Option<u64>,
    /// The first `count` are in use.
    touched: [Touched; RANGES],
    count: usize,
    everything: bool,
}

impl Default for Gather {
    fn default() -> Self {
        Self::new()
    }
}

impl Gather {
    /// A gather that holds nothing.
    pub const fn new() -> Self {
        Self { owner: None, ticket: None, touched: [Touched::UNUSED; RANGES], count: 0, everything: false }
    }

    /// For drivers: binds the gather to the domain with the number `owner`, unique among all domains.
    ///
    /// # Errors
    ///
    /// [`HwError::ForeignDomain`] where it holds another domain's work.
    pub fn claim(&mut self, owner: u64) -> Result<(), HwError> {
        match self.owner {
            Some(other) if other != owner && !self.is_empty() => Err(HwError::ForeignDomain),
            _ => {
                self.owner = Some(owner);
                Ok(())
            }
        }
    }

    /// For drivers: notes that leaves of `level` inside `range` are gone, or allow less than before.
    #[inline(always)]
    pub fn add_leaves(&mut self, range: IovaRange, level: u8) {
        self.add(range, LevelSet::of(level), LevelSet::default());
    }

    /// For drivers: notes that a table of `level` which had translated `range` no longer hangs in the tree.
    pub fn add_table(&mut self, range: IovaRange, level: u8) {
        self.add(range, LevelSet::default(), LevelSet::of(level));
    }

    /// For drivers: the number under which a domain keeps the frames of the tables that this gather's unmaps took out.
    /// No other gather has it or ever had it, and this one gets another when it is cleared, so whoever holds a number
    /// also holds every range that goes with it.
    pub fn ticket(&mut self) -> u64 {
        *self.ticket.get_or_insert_with(unique_number)
    }

    /// Asks for an invalidation of everything the domain has.
    pub fn add_everything(&mut self) {
        self.everything = true;
    }

    /// Whether there is nothing to flush.
    pub fn is_empty(&self) -> bool {
        !self.everything && self.count == 0
    }

    /// What changed, range by range. Meaningless where [`Gather::everything`] is set.
    pub fn touched(&self) -> impl Iterator<Item = Touched> + '_ {
        self.touched.iter().take(self.count).copied()
    }

    /// The ranges to invalidate. Meaningless where [`Gather::everything`] is set.
    pub fn ranges(&self) -> impl Iterator<Item = IovaRange> + '_ {
        self.touched().map(|touched| touched.range)
    }

    /// The levels of the leaves that are gone, over all ranges.
    pub fn levels(&self) -> LevelSet {
        self.touched().fold(LevelSet(0), |all, touched| LevelSet(all.0 | touched.leaves.0))
    }

    /// Whether entries that pointed to tables changed anywhere, so that caches of upper levels must go.
    pub fn tables_changed(&self) -> bool {
        self.everything || self.touched().any(|touched| !touched.tables.is_empty())
    }

    /// Whether the whole domain must be invalidated.
    pub fn everything(&self) -> bool {
        self.everything
    }

    /// For drivers: empties the gather, after the flush was confirmed and the frames were freed.
    pub fn clear(&mut self) {
        (self.owner, self.ticket, self.count, self.everything) = (None, None, 0, false);
    }

    #[inline(always)]
    fn add(&mut self, range: IovaRange, leaves: LevelSet, tables: LevelSet) {
        // Unmaps walk upwards, so what is added nearly always is the first, or follows the only one.
        let [only, ..] = &mut self.touched;
        if self.count == 0 {
            *only = Touched { range, leaves, tables };
            self.count = 1;
        } else if self.count == 1 && only.range.is_followed_by(range) {
            only.range = only.range.extended_to(range.last());
            only.leaves = LevelSet(only.leaves.0 | leaves.0);
            only.tables = LevelSet(only.tables.0 | tables.0);
        } else {
            self.insert(range, leaves, tables);
        }
    }

    #[inline(never)]
    fn insert(&mut self, range: IovaRange, leaves: LevelSet, tables: LevelSet) {
        let mut added = Touched { range, leaves, tables };
        loop {
            added = self.take_in(added);
            if let Some(free) = self.touched.get_mut(self.count) {
                *free = added;
                self.count += 1;
                return;
            }
            // Full. Invalidating too much is correct, too little never.
            if let Some(nearest) = self.touched.iter().min_by_key(|held| held.distance(added)) {
                added = added.union(*nearest);
            }
        }
    }

    /// Takes out every range that joins `added`, and returns them all as one. No two that are held join, so a single look
    /// finds all: what the union newly touches, one of its parts has touched.
    fn take_in(&mut self, added: Touched) -> Touched {
        let mut all = added;
        let mut kept = 0;
        for at in 0..self.count.min(RANGES) {
            let held = self.touched[at];
            if held.joins(all) {
                all = all.union(held);
            } else {
                self.touched[kept] = held;
                kept += 1;
            }
        }
        self.count = kept;
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, len: u64) -> IovaRange {
        IovaRange::from_len(Iova::new(start), len).unwrap()
    }

    #[test]
    fn adjacent_leaves_become_one_range() {
        let mut gather = Gather::new();
        assert!(gather.is_empty());
        for page in 0..512 {
            gather.add_leaves(range(page * 0x1000, 0x1000), 0);
        }
        assert_eq!(gather.ranges().count(), 1);
        assert_eq!(gather.ranges().next(), Some(range(0, 0x20_0000)));
        assert!(gather.levels().contains(0) && !gather.levels().contains(1));
        assert!(!gather.tables_changed());
    }

    #[test]
    fn too_many_ranges_are_covered_not_lost() {
        let mut gather = Gather::new();
        let pages: [u64; 20] = core::array::from_fn(|n| n as u64 * 0x10_0000);
        for page in pages {
            gather.add_leaves(range(page, 0x1000), 0);
        }
        for page in pages {
            assert!(gather.ranges().any(|held| held.covers(range(page, 0x1000))));
        }
    }

    #[test]
    fn each_range_keeps_its_own_levels() {
        let mut gather = Gather::new();
        gather.add_leaves(range(0x1000, 0x1000), 0);
        gather.add_leaves(range(0x4000_0000, 0x20_0000), 1);
        gather.add_table(range(0x4020_0000, 0x20_0000), 0);
        let held: [Touched; 2] = core::array::from_fn(|at| gather.touched().nth(at).unwrap());
        assert_eq!(gather.touched().count(), 2);
        assert_eq!((held[0].range, held[0].leaves.mask(), held[0].tables.mask()), (range(0x1000, 0x1000), 1, 0));
        let joined = range(0x4000_0000, 0x40_0000);
        assert_eq!((held[1].range, held[1].leaves.mask(), held[1].tables.mask()), (joined, 2, 1));
        assert_eq!((gather.levels().mask(), gather.tables_changed()), (3, true));
    }

    #[test]
    fn one_range_too_many_goes_to_the_nearest() {
        let mut gather = Gather::new();
        (0..RANGES as u64).for_each(|n| gather.add_leaves(range(n << 30, 0x1000), 0));
        gather.add_leaves(range((3 << 30) + 0x5000, 0x1000), 0);
        assert_eq!(gather.ranges().count(), RANGES);
        assert!(gather.ranges().any(|held| held == range(3 << 30, 0x6000)));
        gather.add_everything();
        assert!(gather.everything() && gather.tables_changed() && !gather.is_empty());
    }

    #[test]
    fn what_comes_to_touch_becomes_one() {
        for order in [[3, 1, 0, 2], [0, 2, 1, 3], [3, 0, 2, 1], [0, 1, 3, 2]] {
            let mut gather = Gather::new();
            order.iter().for_each(|page| gather.add_leaves(range(page << 12, 0x1000), 0));
            assert!(gather.ranges().eq([range(0, 0x4000)]), "{order:?}: {gather:?}");
        }
    }

    #[test]
    fn a_gather_serves_one_domain() {
        let mut gather = Gather::new();
        gather.claim(7).unwrap();
        // Nothing was put in: it is still anybody's.
        gather.claim(8).unwrap();
        gather.add_leaves(range(0, 0x1000), 0);
        gather.claim(8).unwrap();
        assert_eq!(gather.claim(7), Err(HwError::ForeignDomain));
        gather.clear();
        gather.claim(7).unwrap();
    }
}

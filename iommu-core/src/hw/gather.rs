//! What an unmap changed, for the flush that must follow.

use super::{HwError, unique_number};
use crate::addr::IovaRange;

/// A set of table levels as a mask: bit n stands for level n, 0 being the lowest (4 KiB leaves).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LevelSet(u8);

impl LevelSet {
    /// Adds `level`, below 8.
    pub fn insert(&mut self, level: u8) {
        self.0 |= 1u8.checked_shl(level.into()).unwrap_or(0);
    }

    /// Whether `level` is in the set.
    pub fn contains(self, level: u8) -> bool {
        self.0 & 1u8.checked_shl(level.into()).unwrap_or(0) != 0
    }

    /// The mask.
    pub const fn mask(self) -> u8 {
        self.0
    }
}

/// Number of separate ranges a gather keeps before it falls back on ranges that cover several.
const RANGES: usize = 8;

/// Collects what unmaps of *one* domain changed: ranges, leaf levels, and whether tables were taken out.
///
/// It never allocates and never fails: where ranges become too many, neighbours are merged into one that covers both.
/// Table frames that were taken out stay with the domain, under the gather's [ticket](Gather::ticket), until the gather
/// is flushed or the domain goes: a frame that hardware may still read is never reused.
#[derive(Debug, Default)]
#[must_use = "what was unmapped stays reachable until the gather is flushed"]
pub struct Gather {
    owner: Option<u64>,
    ticket: Option<u64>,
    ranges: [Option<IovaRange>; RANGES],
    levels: LevelSet,
    tables: bool,
    everything: bool,
}

impl Gather {
    /// A gather that holds nothing.
    pub const fn new() -> Self {
        Self {
            owner: None,
            ticket: None,
            ranges: [None; RANGES],
            levels: LevelSet(0),
            tables: false,
            everything: false,
        }
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

    /// For drivers: notes that leaves of `level` inside `range` are gone.
    pub fn add_leaves(&mut self, range: IovaRange, level: u8) {
        self.levels.insert(level);
        self.add_range(range);
    }

    /// For drivers: notes that a table which had translated `range` no longer hangs in the tree.
    pub fn add_table(&mut self, range: IovaRange) {
        self.tables = true;
        self.add_range(range);
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
        self.tables = true;
    }

    /// Whether there is nothing to flush.
    pub fn is_empty(&self) -> bool {
        !self.everything && self.ranges[0].is_none()
    }

    /// The ranges to invalidate. Meaningless where [`Gather::everything`] is set.
    pub fn ranges(&self) -> impl Iterator<Item = IovaRange> + '_ {
        self.ranges.iter().flatten().copied()
    }

    /// The levels of the leaves that are gone.
    pub fn levels(&self) -> LevelSet {
        self.levels
    }

    /// Whether entries that pointed to tables changed too, so that caches of upper levels must go.
    pub fn tables_changed(&self) -> bool {
        self.tables
    }

    /// Whether the whole domain must be invalidated.
    pub fn everything(&self) -> bool {
        self.everything
    }

    /// For drivers: empties the gather, after the flush was confirmed and the frames were freed.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    fn add_range(&mut self, range: IovaRange) {
        // Unmaps walk upwards, so the newest range nearly always extends the last one or follows it.
        let joins = |held: IovaRange| held.overlaps(range) || held.is_followed_by(range) || range.is_followed_by(held);
        if let Some(held) = self.ranges.iter_mut().flatten().find(|held| joins(**held)) {
            *held = held.union(range);
            return;
        }
        match self.ranges.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => *slot = Some(range),
            // Full: widen the last one. Invalidating too much is correct, too little never.
            None => {
                let last = &mut self.ranges[RANGES - 1];
                *last = Some(last.map_or(range, |held| held.union(range)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Iova;

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

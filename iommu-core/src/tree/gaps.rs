//! First fit: the lowest hole that is large enough.

use super::node::Node;
use super::shape::Shape;
use crate::slab::Spot;

/// What is looked for.
struct Wanted {
    start: u64,
    last: u64,
    len: u64,
    align: u64,
}

impl Wanted {
    /// The address in the hole `from..=to`, if it fits.
    #[inline]
    fn fit(&self, from: u64, to: u64) -> Option<u64> {
        let at = from.max(self.start).checked_next_multiple_of(self.align)?;
        let end = at.checked_add(self.len - 1)?;
        (end <= to.min(self.last)).then_some(at)
    }
}

impl<V: Copy, const L: usize, const I: usize> Shape<V, L, I> {
    /// See [`super::Tree::first_gap`].
    pub(super) fn first_gap(&self, start: u64, last: u64, len: u64, align: u64) -> Option<u64> {
        if len == 0 || !align.is_power_of_two() {
            return None;
        }
        let wanted = Wanted { start, last, len, align };
        if self.len == 0 {
            return wanted.fit(0, u64::MAX);
        }
        if let Some(end) = self.whole.start.checked_sub(1)
            && let Some(at) = wanted.fit(0, end)
        {
            return Some(at);
        }
        if self.whole.gap >= len
            && let Some(at) = self.gap_under(self.root, self.height, &wanted)
        {
            return Some(at);
        }
        wanted.fit(self.whole.last.checked_add(1)?, u64::MAX)
    }

    /// The lowest fitting hole between two ranges under the node `at`, which has `height` levels below it.
    fn gap_under(&self, at: Spot, height: usize, wanted: &Wanted) -> Option<u64> {
        if height == 0 {
            return self.gap_in_leaf(at, wanted);
        }
        let inner = &self.inners[at];
        // Nodes before this one, and the holes between them, lie below the window.
        let from = inner.find(wanted.start);
        for slot in from..inner.len() {
            let start = inner.start(slot);
            if slot > from
                && inner.gap_before(slot) >= wanted.len
                && let Some(at) = wanted.fit(inner.last(slot - 1) + 1, start - 1)
            {
                return Some(at);
            }
            if start > wanted.last {
                return None;
            }
            if inner.gap(slot) >= wanted.len
                && inner.last(slot) > wanted.start
                && let Some(at) = self.gap_under(inner.node(slot), height - 1, wanted)
            {
                return Some(at);
            }
        }
        None
    }

    fn gap_in_leaf(&self, at: Spot, wanted: &Wanted) -> Option<u64> {
        let leaf = &self.leaves[at];
        for place in leaf.count(wanted.start).max(1)..leaf.len() {
            let before = leaf.last(place - 1);
            if before >= wanted.last {
                return None;
            }
            if leaf.gap_before(place) >= wanted.len
                && let Some(at) = wanted.fit(before + 1, leaf.start(place) - 1)
            {
                return Some(at);
            }
        }
        None
    }
}

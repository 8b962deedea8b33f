//! One range after the other.

use super::node::Node;
use super::shape::Shape;
use crate::slab::Spot;

/// Ranges that share an address with a window, lowest first.
pub(super) struct Overlapping<'t, V, const L: usize, const I: usize> {
    tree: &'t Shape<V, L, I>,
    /// The leaf and the place in it of the next range, if it is in that leaf.
    at: Option<(Spot, usize)>,
    /// Where to look for the next one, if it is in another leaf. None at the end.
    from: Option<u64>,
    last: u64,
}

impl<V: Copy, const L: usize, const I: usize> Shape<V, L, I> {
    pub(super) fn overlapping(&self, start: u64, last: u64) -> Overlapping<'_, V, L, I> {
        Overlapping { tree: self, at: None, from: (start <= last).then_some(start), last }
    }
}

impl<V: Copy, const L: usize, const I: usize> Iterator for Overlapping<'_, V, L, I> {
    type Item = (u64, u64, V);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        // Most look for one range, and know where it ends.
        let from = self.from.filter(|from| *from <= self.last)?;
        let (at, place) = match self.at {
            Some((at, place)) if place < self.tree.leaves[at].len() => (at, place),
            // One more way down for each leaf.
            _ => self.tree.first_from(from)?,
        };
        let entry = self.tree.leaves[at].entry(place);
        if entry.0 > self.last {
            self.from = None;
            return None;
        }
        self.at = Some((at, place + 1));
        self.from = entry.1.checked_add(1);
        Some(entry)
    }
}

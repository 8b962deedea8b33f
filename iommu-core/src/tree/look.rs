//! Looking for ranges.

use super::node::Node;
use super::shape::Shape;
use crate::slab::Spot;

impl<V: Copy, const L: usize, const I: usize> Shape<V, L, I> {
    /// The leaf and the place in it of the lowest range that ends at or above `key`.
    #[inline]
    pub(super) fn first_from(&self, key: u64) -> Option<(Spot, usize)> {
        if self.len == 0 || self.whole.last < key {
            return None;
        }
        let mut at = self.root;
        if self.height > 0 && self.is_near(key) {
            at = self.leaf;
        } else {
            for _ in 0..self.height {
                let inner = &self.inners[at];
                at = inner.node(inner.find(key));
            }
        }
        let leaf = &self.leaves[at];
        let place = leaf.count(key);
        if place > 0 && leaf.last(place - 1) >= key {
            return Some((at, place - 1));
        }
        // Nothing there ends at or above the key and begins at or below it: it is the next one.
        if place < leaf.len() { Some((at, place)) } else { self.next_leaf(key) }
    }

    /// As [`Shape::first_from`], where that is the first range of a leaf behind the one that the key belongs to.
    #[cold]
    fn next_leaf(&self, key: u64) -> Option<(Spot, usize)> {
        let mut at = self.root;
        for _ in 0..self.height {
            let inner = &self.inners[at];
            let slot = inner.find(key);
            at = inner.node(slot + usize::from(inner.last(slot) < key));
        }
        Some((at, 0))
    }

    #[inline]
    pub(super) fn first_overlap(&self, start: u64, last: u64) -> Option<(u64, u64, V)> {
        let (at, place) = self.first_from(start)?;
        let entry = self.leaves[at].entry(place);
        (entry.0 <= last && start <= last).then_some(entry)
    }

    #[inline]
    pub(super) fn last_overlap(&self, start: u64, last: u64) -> Option<(u64, u64, V)> {
        if self.len == 0 {
            return None;
        }
        let mut at = self.root;
        for _ in 0..self.height {
            let inner = &self.inners[at];
            at = inner.node(inner.find(last));
        }
        let leaf = &self.leaves[at];
        let entry = leaf.entry(leaf.count(last).checked_sub(1)?);
        (entry.1 >= start && start <= last).then_some(entry)
    }

    pub(super) fn replace(&mut self, start: u64, value: V) -> Option<V> {
        let (at, place) = self.first_from(start)?;
        let leaf = &mut self.leaves[at];
        if leaf.start(place) != start {
            return None;
        }
        Some(core::mem::replace(leaf.value_mut(place), value))
    }
}

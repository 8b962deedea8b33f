//! The tree for any size of nodes: the way down, and what changes one leaf alone.

use super::InsertError;
use super::arena::Arena;
use super::inner::Inner;
use super::leaf::Leaf;
use super::node::{Node, Summary};
use crate::slab::Spot;
use iommu_alloc::OutOfMemory;

/// Levels above the leaves at the most. Nodes that are not at an edge of the tree are a quarter full at least, so that
/// the nodes that can be told apart end before the levels do.
pub(super) const LEVELS: usize = 16;

/// The tree, with `L` ranges in a leaf and `I` nodes under an inner node at the most.
pub(super) struct Shape<V, const L: usize, const I: usize> {
    pub(super) leaves: Arena<Leaf<V, L>>,
    pub(super) inners: Arena<Inner<I>>,
    /// A leaf where `height` is 0. Means nothing in an empty tree.
    pub(super) root: Spot,
    /// Levels above the leaves.
    pub(super) height: usize,
    pub(super) len: usize,
    /// Of the root. Means nothing in an empty tree.
    pub(super) whole: Summary,
    /// The leaf that was changed last, as what comes next is often near; none where nodes came or went since.
    pub(super) leaf: Spot,
    /// The way to that leaf: for each level, the parents of leaves first, the node and the place in it.
    pub(super) path: [(Spot, u32); LEVELS],
}

impl<V: Copy, const L: usize, const I: usize> Shape<V, L, I> {
    pub(super) const fn new() -> Self {
        Self {
            leaves: Arena::new(),
            inners: Arena::new(),
            root: Spot::NONE,
            height: 0,
            len: 0,
            whole: Summary { start: 0, last: 0, gap: 0 },
            leaf: Spot::NONE,
            path: [(Spot::NONE, 0); LEVELS],
        }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> usize {
        self.leaves.bytes() + self.inners.bytes()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new();
    }

    /// Whether the leaf that was changed last is the one to look for `key` in.
    #[inline]
    pub(super) fn is_near(&self, key: u64) -> bool {
        if self.leaf == Spot::NONE {
            return false;
        }
        let leaf = &self.leaves[self.leaf];
        let (start, last) = (leaf.start(0), leaf.last(leaf.len() - 1));
        (start <= key || start == self.whole.start) && (key <= last || last == self.whole.last)
    }

    /// Notes the way to the leaf with the highest range that begins at or below `key`, or to the lowest leaf. The tree is
    /// not empty.
    #[inline]
    fn descend(&mut self, key: u64) {
        if self.height == 0 {
            self.leaf = self.root;
            return;
        }
        if self.is_near(key) {
            return;
        }
        let mut at = self.root;
        for step in self.path[..self.height].iter_mut().rev() {
            let inner = &self.inners[at];
            let slot = inner.find(key);
            *step = (at, slot as u32);
            at = inner.node(slot);
        }
        self.leaf = at;
    }

    /// What those above know of the node on `level` of the way.
    #[inline]
    pub(super) fn known(&self, level: usize) -> Summary {
        if level >= self.height {
            return self.whole;
        }
        let (at, slot) = self.path[level];
        self.inners[at].get(slot as usize)
    }

    /// Lets those above know that the node on `level` of the way is `new` now: as far up as it makes a difference.
    ///
    /// Numbers are handed over one by one, as a structure that is written in parts and read whole makes CPUs wait.
    #[inline]
    pub(super) fn raise(&mut self, level: usize, new: Summary) {
        let old = self.known(level);
        if old != new {
            self.raise_changed(level, new.start, new.last, new.gap);
        }
    }

    fn raise_changed(&mut self, mut level: usize, start: u64, last: u64, gap: u64) {
        let mut new = Summary { start, last, gap };
        while level < self.height {
            let known = self.known(level + 1);
            let (at, slot) = self.path[level];
            let slot = slot as usize;
            let inner = &mut self.inners[at];
            let old = inner.get(slot);
            inner.set(slot, new);
            // The largest hole that was, and is, where something changed: inside, below, above.
            let (mut had, mut has) = (old.gap, new.gap);
            let mut outer = known;
            if old.start != new.start {
                match slot.checked_sub(1) {
                    None => outer.start = new.start,
                    Some(below) => {
                        let end = inner.last(below) + 1;
                        had = had.max(old.start - end);
                        has = has.max(new.start - end);
                    }
                }
            }
            if old.last != new.last {
                if slot + 1 == inner.len() {
                    outer.last = new.last;
                } else {
                    let end = inner.start(slot + 1) - 1;
                    had = had.max(end - old.last);
                    has = has.max(end - new.last);
                }
            }
            if has >= known.gap {
                outer.gap = has;
            } else if had == known.gap {
                outer.gap = inner.largest_gap(known.gap);
            }
            if known == outer {
                return;
            }
            new = outer;
            level += 1;
        }
        self.whole = new;
    }

    #[inline]
    pub(super) fn insert(&mut self, start: u64, last: u64, value: V) -> Result<(), InsertError<V>> {
        debug_assert!(start <= last);
        if self.len == 0 {
            return self.insert_first(start, last, value).map_err(|OutOfMemory| InsertError::OutOfMemory);
        }
        self.descend(last);
        let leaf = &self.leaves[self.leaf];
        let place = leaf.count(last);
        if place > 0 && leaf.last(place - 1) >= start {
            return Err(self.overlap(start, last));
        }
        let end = leaf.len();
        if end >= L {
            self.cut(place, (start, last, value)).map_err(|OutOfMemory| InsertError::OutOfMemory)?;
            self.len += 1;
            return Ok(());
        }
        let known = self.known(0);
        let leaf = &mut self.leaves[self.leaf];
        let mut new = known;
        if place == 0 {
            new.start = start;
            new.gap = known.gap.max(known.start - last - 1);
        } else if place == end {
            new.last = last;
            new.gap = known.gap.max(start - known.last - 1);
        }
        // A part of a hole goes, or it is cut in two. It may have been the largest.
        let again = place > 0 && place < end && leaf.gap_before(place) == known.gap;
        leaf.insert(place, start, last, value);
        if again {
            new.gap = leaf.largest_gap(known.gap);
        }
        if new != known {
            self.raise_changed(0, new.start, new.last, new.gap);
        }
        self.len += 1;
        Ok(())
    }

    fn insert_first(&mut self, start: u64, last: u64, value: V) -> Result<(), OutOfMemory> {
        self.root = self.leaves.add(Leaf::new(start, last, value))?;
        self.leaf = self.root;
        self.whole = Summary { start, last, gap: 0 };
        self.len = 1;
        Ok(())
    }

    #[cold]
    fn overlap(&self, start: u64, last: u64) -> InsertError<V> {
        match self.first_overlap(start, last) {
            Some((start, last, value)) => InsertError::Overlap { start, last, value },
            None => InsertError::OutOfMemory,
        }
    }

    #[inline]
    pub(super) fn remove(&mut self, start: u64) -> Option<(u64, V)> {
        if self.len == 0 {
            return None;
        }
        self.descend(start);
        let known = self.known(0);
        let leaf = &mut self.leaves[self.leaf];
        let place = leaf.count(start).checked_sub(1)?;
        let (found, last, value) = leaf.entry(place);
        if found != start {
            return None;
        }
        let end = leaf.len() - 1;
        self.len -= 1;
        // At an edge of the tree a leaf may run down to nothing.
        let edge = known.start == self.whole.start || known.last == self.whole.last;
        if end == 0 || end < Leaf::<V, L>::LEAST && !edge {
            leaf.remove(place);
            self.join();
            return Some((last, value));
        }
        let mut new = known;
        let mut again = false;
        if place == 0 {
            again = leaf.gap_before(1) == known.gap;
            new.start = leaf.start(1);
        } else if place == end {
            again = leaf.gap_before(end) == known.gap;
            new.last = leaf.last(end - 1);
        } else {
            new.gap = known.gap.max(leaf.start(place + 1) - leaf.last(place - 1) - 1);
        }
        leaf.remove(place);
        if again {
            new.gap = leaf.largest_gap(known.gap);
        }
        if new != known {
            self.raise_changed(0, new.start, new.last, new.gap);
        }
        Some((last, value))
    }
}

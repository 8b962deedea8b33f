//! What happens when a node has become too empty: it takes from its neighbour, or becomes one with it.

use super::arena::Arena;
use super::inner::Inner;
use super::node::Node;
use super::shape::Shape;
use crate::slab::Spot;

/// Makes the node at `slot` of `parent` full enough, where it is not, and lets the parent know what has become of it.
/// Of the nodes at an `edge` of the tree, nothing is asked for but that they are not empty.
fn mend<T: Node, const I: usize>(nodes: &mut Arena<T>, parent: &mut Inner<I>, slot: usize, edge: bool) {
    let at = parent.node(slot);
    let len = nodes[at].len();
    if len == 0 {
        nodes.free(at);
        parent.remove(slot);
        return;
    }
    if edge || len >= T::LEAST {
        parent.set(slot, nodes[at].summary());
        return;
    }
    let low = slot.saturating_sub(1);
    let (below, above) = (parent.node(low), parent.node(low + 1));
    let (mut lower, mut upper) = (nodes[below], nodes[above]);
    let all = lower.len() + upper.len();
    if all <= T::MERGED {
        lower.append(&upper);
        nodes.free(above);
        parent.remove(low + 1);
    } else {
        let half = all / 2;
        if lower.len() > half {
            let mut moved = lower.split_off(half);
            moved.append(&upper);
            upper = moved;
        } else {
            let rest = upper.split_off(half - lower.len());
            lower.append(&upper);
            upper = rest;
        }
        nodes[above] = upper;
        parent.set(low + 1, upper.summary());
    }
    nodes[below] = lower;
    parent.set(low, lower.summary());
}

impl<V: Copy, const L: usize, const I: usize> Shape<V, L, I> {
    /// Goes up from a leaf, at the end of the way, that has lost a range and holds too few. Takes no memory.
    #[cold]
    pub(super) fn join(&mut self) {
        // The way leads elsewhere afterwards.
        let leaf = core::mem::replace(&mut self.leaf, Spot::NONE);
        if self.len == 0 {
            return self.clear();
        }
        if self.height == 0 {
            self.whole = self.leaves[leaf].summary();
            return;
        }
        for level in 0..self.height {
            let (at, slot) = self.path[level];
            let mut parent = self.inners[at];
            let edge = self.at_edge(level);
            if level == 0 {
                mend(&mut self.leaves, &mut parent, slot as usize, edge);
            } else {
                mend(&mut self.inners, &mut parent, slot as usize, edge);
            }
            self.inners[at] = parent;
            if parent.len() >= Inner::<I>::LEAST {
                self.raise(level + 1, parent.summary());
                return;
            }
        }
        // The root holds few. One node is no reason for a level.
        while self.height > 0 && self.inners[self.root].len() == 1 {
            let root = self.root;
            self.root = self.inners[root].node(0);
            self.inners.free(root);
            self.height -= 1;
        }
        self.whole = match self.height {
            0 => self.leaves[self.root].summary(),
            _ => self.inners[self.root].summary(),
        };
    }

    /// Whether the node on `level` of the way is the lowest of its level, or the highest.
    fn at_edge(&self, level: usize) -> bool {
        let above = &self.path[level..self.height];
        above.iter().all(|(_, slot)| *slot == 0)
            || above.iter().all(|(at, slot)| *slot as usize + 1 == self.inners[*at].len())
    }
}

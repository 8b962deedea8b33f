//! Everything that must hold at any time, looked at node by node.

use super::arena::Arena;
use super::inner::Inner;
use super::leaf::Leaf;
use super::node::{Node, Summary};
use super::shape::Shape;
use crate::slab::Spot;
use std::collections::BTreeSet;
use std::vec::Vec;

extern crate std;

/// What was met on the way.
#[derive(Default)]
struct Seen {
    leaves: BTreeSet<Spot>,
    inners: BTreeSet<Spot>,
    /// Ranges, in order.
    ranges: Vec<(u64, u64)>,
}

fn check_arena<T: Node>(arena: &Arena<T>, used: &BTreeSet<Spot>) {
    let free: Vec<Spot> = arena.free_nodes().collect();
    assert_eq!(free.len(), arena.spare(), "the list of free nodes is as long as counted");
    let mut all = used.clone();
    for spot in free {
        assert!(all.insert(spot), "{spot:?} is free and used, or free twice");
    }
    assert_eq!(used.len(), arena.len());
    assert!(all.iter().copied().eq((0..all.len() as u32).map(Spot::of)), "no node is lost");
}

impl<V: Copy, const L: usize, const I: usize> Shape<V, L, I> {
    /// Panics where anything is not as it must be.
    pub(super) fn check(&self) {
        let mut seen = Seen::default();
        if self.len == 0 {
            assert_eq!(self.leaves.len() + self.inners.len(), 0);
        } else {
            let whole = self.check_node(self.root, self.height, (true, true), &mut seen);
            assert_eq!(whole, self.whole, "summary of the root");
            assert!(self.height == 0 || self.inners[self.root].len() > 1, "a level too many");
        }
        assert_eq!(seen.ranges.len(), self.len);
        assert!(seen.ranges.iter().all(|(start, last)| start <= last));
        assert!(seen.ranges.is_sorted_by(|one, next| one.1 < next.0), "order");
        check_arena(&self.leaves, &seen.leaves);
        check_arena(&self.inners, &seen.inners);
    }

    /// `edge`: whether the node is the lowest of its level, and the highest.
    fn check_node(&self, at: Spot, height: usize, edge: (bool, bool), seen: &mut Seen) -> Summary {
        let root = edge == (true, true);
        let fill = |len: usize, least: usize, most: usize| {
            let least = if root || edge.0 || edge.1 { 1 } else { least };
            assert!((least..=most).contains(&len), "{at:?} on level {height} holds {len}");
        };
        let first = seen.ranges.len();
        if height == 0 {
            assert!(seen.leaves.insert(at), "a leaf is there twice");
            let leaf = &self.leaves[at];
            fill(leaf.len(), Leaf::<V, L>::LEAST, L);
            seen.ranges.extend((0..leaf.len()).map(|place| (leaf.start(place), leaf.last(place))));
            assert!((leaf.len()..L).all(|place| leaf.start(place) == u64::MAX), "padding");
        } else {
            assert!(seen.inners.insert(at), "a node is there twice");
            let inner = &self.inners[at];
            fill(inner.len(), Inner::<I>::LEAST, I);
            for slot in 0..inner.len() {
                let edge = (edge.0 && slot == 0, edge.1 && slot + 1 == inner.len());
                let below = self.check_node(inner.node(slot), height - 1, edge, seen);
                assert_eq!(inner.get(slot), below, "summary at {slot} of {at:?} on level {height}");
            }
            assert!((inner.len()..I).all(|slot| inner.start(slot) == u64::MAX), "padding");
        }
        let ranges = &seen.ranges[first..];
        let gap = ranges.windows(2).map(|two| two[1].0 - two[0].1 - 1).max().unwrap_or(0);
        Summary { start: ranges[0].0, last: ranges[ranges.len() - 1].1, gap }
    }
}

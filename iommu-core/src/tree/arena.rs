//! Where the nodes of one kind live, under numbers. Those that are free form a list inside of themselves.

use super::node::Node;
use crate::slab::{Chunks, Growth, Spot};
use core::ops::{Index, IndexMut};
use iommu_alloc::OutOfMemory;

/// Nodes of one kind.
pub(super) struct Arena<T> {
    nodes: Chunks<T>,
    /// The first free node. The last one notes that there is none behind it.
    free: Spot,
    /// How many are free.
    spare: usize,
}

impl<T: Node> Arena<T> {
    pub(super) const fn new() -> Self {
        Self { nodes: Chunks::new(), free: Spot::NONE, spare: 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.nodes.bytes()
    }

    /// Nodes in use.
    pub(super) fn len(&self) -> usize {
        self.nodes.len() - self.spare
    }

    /// The memory that is missing for `count` more nodes, for [`Arena::grow`] if nothing else fails.
    pub(super) fn prepare(&self, count: usize) -> Result<Growth<T>, OutOfMemory> {
        let more = count.saturating_sub(self.spare);
        if more > Spot::MOST - self.nodes.len() {
            return Err(OutOfMemory);
        }
        self.nodes.prepare(more)
    }

    /// Takes memory that was prepared.
    pub(super) fn grow(&mut self, growth: Growth<T>) {
        self.nodes.grow(growth);
    }

    /// Puts a node in. Cannot fail where there was room.
    pub(super) fn add(&mut self, node: T) -> Result<Spot, OutOfMemory> {
        let at = self.free;
        if at == Spot::NONE {
            let growth = self.prepare(1)?;
            self.grow(growth);
            return self.nodes.push(node).map(Spot::of);
        }
        let slot = self.nodes.at_mut(at);
        self.free = Spot::new(slot.link());
        self.spare -= 1;
        *slot = node;
        Ok(at)
    }

    /// Takes back the node `at`, which is in use.
    pub(super) fn free(&mut self, at: Spot) {
        self.nodes.at_mut(at).set_link(self.free.word());
        self.free = at;
        self.spare += 1;
    }

    /// The free nodes.
    #[cfg(test)]
    pub(super) fn free_nodes(&self) -> impl Iterator<Item = Spot> + '_ {
        let next = |at: Spot| if at == Spot::NONE { None } else { Some(at) };
        core::iter::successors(next(self.free), move |at| next(Spot::new(self[*at].link())))
    }

    /// Free nodes, as counted.
    #[cfg(test)]
    pub(super) fn spare(&self) -> usize {
        self.spare
    }
}

impl<T: Node> Index<Spot> for Arena<T> {
    type Output = T;

    #[inline]
    fn index(&self, at: Spot) -> &T {
        self.nodes.at(at)
    }
}

impl<T: Node> IndexMut<Spot> for Arena<T> {
    #[inline]
    fn index_mut(&mut self, at: Spot) -> &mut T {
        self.nodes.at_mut(at)
    }
}

//! What happens when a leaf is full: it is cut in two, and so are those above it that are full too.

use super::inner::Inner;
use super::leaf::Leaf;
use super::node::Node;
use super::shape::{LEVELS, Shape};
use crate::slab::Spot;
use iommu_alloc::OutOfMemory;

/// Where in the tree an entry comes in that a node has no room for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    /// Above everything.
    Top,
    /// Below everything.
    Bottom,
    Between,
}

impl Where {
    /// How many entries of a full node stay below the cut, where one comes in at `place`; and whether it goes below too.
    ///
    /// At the edges of the tree nothing will come in between the halves, so that one of them keeps everything: addresses
    /// that rise, or fall, leave full nodes behind. At the end of another node, a run of rising addresses is likely, and
    /// of falling ones at its beginning. Else both halves get the same.
    fn cut<T: Node>(self, place: usize) -> (usize, bool) {
        let (most, half) = (T::MOST, T::MOST / 2);
        let cut = match self {
            Self::Top => most,
            Self::Bottom => place,
            Self::Between if place == 0 => T::LEAST.min(half),
            Self::Between if place == most => (most - T::LEAST).max(half + 1),
            Self::Between => half + usize::from(place > half),
        };
        (cut, place < cut || place == cut && cut <= half)
    }
}

impl<V: Copy, const L: usize, const I: usize> Shape<V, L, I> {
    /// Puts a range at `place` of the leaf at the end of the way, which is full.
    #[cold]
    pub(super) fn cut(&mut self, place: usize, (start, last, value): (u64, u64, V)) -> Result<(), OutOfMemory> {
        let path = self.path;
        let full = path[..self.height].iter().take_while(|(at, _)| self.inners[*at].len() >= I).count();
        let grows = full == self.height;
        if grows && self.height >= LEVELS {
            return Err(OutOfMemory);
        }
        // From here on there is a node whenever one is needed.
        self.make_room(1, full + usize::from(grows))?;

        let side = if start > self.whole.last {
            Where::Top
        } else if last < self.whole.start {
            Where::Bottom
        } else {
            Where::Between
        };
        let (cut, below) = side.cut::<Leaf<V, L>>(place);
        // The way leads elsewhere now.
        let at = core::mem::replace(&mut self.leaf, Spot::NONE);
        let lower = &mut self.leaves[at];
        let mut upper = lower.split_off(cut);
        if below {
            lower.insert(place, start, last, value);
        } else {
            upper.insert(place - cut, start, last, value);
        }
        let mut summaries = (lower.summary(), upper.summary());
        let mut node = self.leaves.add(upper)?;

        for (at, slot) in &path[..full] {
            let slot = *slot as usize;
            let place = slot + 1;
            let (cut, below) = side.cut::<Inner<I>>(place);
            let lower = &mut self.inners[*at];
            lower.set(slot, summaries.0);
            let mut upper = lower.split_off(cut);
            if below {
                lower.insert(place, summaries.1, node);
            } else {
                upper.insert(place - cut, summaries.1, node);
            }
            summaries = (lower.summary(), upper.summary());
            node = self.inners.add(upper)?;
        }

        if grows {
            let mut root = Inner::new(summaries.0, self.root);
            root.insert(1, summaries.1, node);
            self.whole = root.summary();
            self.root = self.inners.add(root)?;
            self.height += 1;
        } else {
            let (at, slot) = path[full];
            let parent = &mut self.inners[at];
            parent.set(slot as usize, summaries.0);
            parent.insert(slot as usize + 1, summaries.1, node);
            let new = parent.summary();
            self.raise(full + 1, new);
        }
        Ok(())
    }

    /// Makes sure that there are as many free nodes. An error leaves everything as it was.
    fn make_room(&mut self, leaves: usize, inners: usize) -> Result<(), OutOfMemory> {
        let (leaves, inners) = (self.leaves.prepare(leaves)?, self.inners.prepare(inners)?);
        self.leaves.grow(leaves);
        self.inners.grow(inners);
        Ok(())
    }

    /// See [`super::Tree::reserve`].
    pub(super) fn reserve(&mut self, count: usize) -> Result<(), OutOfMemory> {
        let (least, few) = (Leaf::<V, L>::LEAST, Inner::<I>::LEAST);
        // An insert cuts one leaf at the most; and leaves hold so many ranges at least, but for those at the edges.
        let held = self.len.saturating_add(count) / least + 2;
        let leaves = count.min(held.saturating_sub(self.leaves.len()));
        let mut below = self.leaves.len() + leaves;
        let mut inners = 0usize;
        for level in 1..=LEVELS {
            if level > self.height && below <= I {
                // The root, which is not cut.
                inners += 1;
                break;
            }
            below = below / few + 2;
            inners = inners.saturating_add(below.min(leaves));
        }
        self.make_room(leaves, inners)
    }
}

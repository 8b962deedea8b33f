//! What a domain's tables hold, and what hardware may still hold of what they held.

use super::World;
use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
use iommu_core::hw::{Gather, HwError, PageSizes, Prot};
use std::collections::BTreeMap;

/// A leaf.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaf {
    pub(super) size: u64,
    pub(super) phys: PhysAddr,
    pub(super) prot: Prot,
    /// Written through since the record was cleared.
    pub(super) dirty: bool,
    /// The record was cleared, and a cached copy says that it is dirty still: writes are not noted until the flush.
    pub(super) unnoted: bool,
    token: u64,
}

/// What hardware may still use.
#[derive(Clone, Copy, Debug)]
struct Stale {
    range: IovaRange,
    phys: PhysAddr,
    prot: Prot,
    token: u64,
    /// Hardware did not confirm: the tables may say otherwise.
    unconfirmed: bool,
}

/// Leaves by address, and what is stale.
pub(super) struct Tables {
    world: World,
    domain: u64,
    pub(super) leaves: BTreeMap<u64, Leaf>,
    stale: Vec<Stale>,
    /// Nothing leads here: nothing can be reached.
    retired: bool,
}

/// What the core asked for and must not.
pub(super) type Misuse = String;

impl Tables {
    pub(super) fn new(world: &World, domain: u64) -> Self {
        Self { world: world.clone(), domain, leaves: BTreeMap::new(), stale: Vec::new(), retired: false }
    }

    /// The leaf that holds `iova`, and where it begins.
    pub(super) fn leaf(&self, iova: u64) -> Option<(u64, Leaf)> {
        let (&start, leaf) = self.leaves.range(..=iova).next_back()?;
        (iova - start < leaf.size).then_some((start, *leaf))
    }

    /// The first leaf that touches `range`.
    pub(super) fn first(&self, range: IovaRange) -> Option<u64> {
        let (start, last) = (range.start().get(), range.last().get());
        self.leaf(start).map(|(at, _)| at).or_else(|| self.leaves.range(start..=last).next().map(|(&at, _)| at))
    }

    /// What may not be mapped at `range`, and why.
    pub(super) fn in_the_way(&self, range: IovaRange) -> Option<Misuse> {
        if let Some(at) = self.first(range) {
            return Some(format!("{range} is mapped over the leaf at {at:#x}"));
        }
        let stale = self.stale.iter().find(|stale| stale.range.overlaps(range))?;
        Some(format!("{range} is mapped before the unmap of {} was flushed", stale.range))
    }

    /// Maps the run `extent` at `iova`, in the largest leaves that fit.
    pub(super) fn insert(&mut self, iova: u64, extent: PhysExtent, prot: Prot, sizes: PageSizes) {
        let mut done = 0;
        while done < extent.len {
            let (at, phys) = (iova + done, extent.start.get() + done);
            // Sizes that divide both sides and are not larger than the rest.
            let even = (at | phys).trailing_zeros().min((extent.len - done).ilog2());
            let fit = sizes.mask() & (u64::MAX >> (63 - even));
            let size = 1 << fit.checked_ilog2().expect("aligned to the smallest page");
            self.put(at, Leaf { size, phys: PhysAddr::new(phys), prot, dirty: false, unnoted: false, token: 0 });
            done += size;
        }
    }

    fn put(&mut self, at: u64, mut leaf: Leaf) {
        leaf.token = self.world.expose(PhysExtent::new(leaf.phys, leaf.size), self.domain, at);
        self.leaves.insert(at, leaf);
    }

    /// The leaves that make up `range`, whole.
    fn whole(&self, range: IovaRange) -> Result<Vec<u64>, HwError> {
        let mut at = range.start().get();
        let mut found = Vec::new();
        loop {
            let Some((start, leaf)) = self.leaf(at) else {
                return Err(HwError::NotMapped { iova: Iova::new(at) });
            };
            let last = start + (leaf.size - 1);
            if start != at || last > range.last().get() {
                // A hole further on counts before a leaf that is cut.
                let hole = self.hole(range);
                return Err(hole.unwrap_or(HwError::SplitsLeaf { iova: Iova::new(start), size: leaf.size }));
            }
            found.push(start);
            match last.checked_add(1) {
                Some(next) if next <= range.last().get() => at = next,
                _ => return Ok(found),
            }
        }
    }

    fn hole(&self, range: IovaRange) -> Option<HwError> {
        let mut at = range.start().get();
        loop {
            let Some((start, leaf)) = self.leaf(at) else {
                return Some(HwError::NotMapped { iova: Iova::new(at) });
            };
            match (start + (leaf.size - 1)).checked_add(1) {
                Some(next) if next <= range.last().get() => at = next,
                _ => return None,
            }
        }
    }

    /// Takes `range` out: stale from now on.
    pub(super) fn remove(&mut self, range: IovaRange, gather: &mut Gather, unconfirmed: bool) -> Result<(), HwError> {
        for at in self.whole(range)? {
            let Some(leaf) = self.leaves.remove(&at) else { continue };
            let gone = super::range(at, leaf.size);
            gather.add_leaves(gone, 0);
            self.stale.push(Stale { range: gone, phys: leaf.phys, prot: leaf.prot, token: leaf.token, unconfirmed });
        }
        Ok(())
    }

    /// Whether the core may not know what is mapped at `range`, as hardware did not confirm.
    pub(super) fn is_unsure(&self, range: IovaRange) -> bool {
        self.stale.iter().any(|stale| stale.unconfirmed && stale.range.overlaps(range))
    }

    /// Hardware did not say whether it mapped these.
    pub(super) fn unsure(&mut self, iova: u64, extent: PhysExtent, prot: Prot) {
        let token = self.world.expose(extent, self.domain, iova);
        let range = super::range(iova, extent.len);
        self.stale.push(Stale { range, phys: extent.start, prot, token, unconfirmed: true });
    }

    /// Hardware has forgotten what the gather says.
    pub(super) fn flush(&mut self, gather: &Gather) {
        let forgotten = |range: IovaRange| gather.everything() || gather.ranges().any(|held| held.covers(range));
        let world = &self.world;
        self.stale.retain(|stale| {
            let gone = forgotten(stale.range);
            if gone {
                world.hide(stale.phys, stale.token);
            }
            !gone
        });
        let unnoted = self.leaves.iter_mut().filter(|(_, leaf)| leaf.unnoted);
        for (&at, leaf) in unnoted {
            leaf.unnoted = !forgotten(super::range(at, leaf.size));
        }
    }

    /// Nothing can be reached through these tables any more, until something leads to them.
    pub(super) fn retire(&mut self) {
        for stale in self.stale.drain(..) {
            self.world.hide(stale.phys, stale.token);
        }
        for leaf in self.leaves.values() {
            self.world.hide(leaf.phys, leaf.token);
        }
        self.retired = true;
    }

    /// Something leads to these tables from now on.
    pub(super) fn revive(&mut self) {
        if std::mem::take(&mut self.retired) {
            for (at, leaf) in std::mem::take(&mut self.leaves) {
                self.put(at, leaf);
            }
        }
    }

    /// Makes two rows of smaller leaves of the one that reaches across `at`, as often as it takes.
    pub(super) fn split(&mut self, at: u64, sizes: PageSizes) -> bool {
        let mut any = false;
        while let Some((start, leaf)) = self.leaf(at).filter(|(start, _)| *start != at) {
            let smaller = (0..63).rev().map(|bit| 1u64 << bit).find(|&size| size < leaf.size && sizes.contains(size));
            let size = smaller.expect("not aligned to the smallest page");
            self.leaves.remove(&start);
            for offset in (0..leaf.size).step_by(size as usize) {
                self.put(start + offset, Leaf { size, phys: leaf.phys.wrapping_add(offset), ..leaf });
            }
            self.world.hide(leaf.phys, leaf.token);
            any = true;
        }
        any
    }

    /// Where a device gets to at `iova`: by the tables, then by what is stale.
    pub(super) fn ways(&self, iova: u64) -> Vec<(PhysAddr, Prot)> {
        let live = self.leaf(iova).map(|(start, leaf)| (leaf.phys.wrapping_add(iova - start), leaf.prot));
        let stale = self.stale.iter().filter(|stale| stale.range.contains(Iova::new(iova)));
        let stale = stale.map(|stale| (stale.phys.wrapping_add(iova - stale.range.start().get()), stale.prot));
        live.into_iter().chain(stale).collect()
    }

    /// Whether something was unmapped and not flushed yet.
    pub(super) fn has_stale(&self) -> bool {
        !self.stale.is_empty()
    }

    /// A device writes.
    pub(super) fn write(&mut self, iova: u64) {
        if let Some((start, _)) = self.leaf(iova)
            && let Some(leaf) = self.leaves.get_mut(&start)
            && !leaf.unnoted
        {
            leaf.dirty = true;
        }
    }
}

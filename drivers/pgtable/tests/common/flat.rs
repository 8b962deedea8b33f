//! A flat map of addresses: what every page leads to, page by page, and nothing of tables or leaves. Neighbours that lead
//! to neighbours are kept as one run, so that a terabyte costs no more than a page.

use super::raw::Leaf;
use iommu_core::addr::{IovaRange, PhysExtent};
use iommu_core::hw::Prot;
use std::collections::BTreeMap;

/// What one address leads to: physical address, read, write.
pub type Page = (u64, bool, bool);

/// Addresses side by side that lead to memory side by side with the same protection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    pub len: u64,
    pub phys: u64,
    pub read: bool,
    pub write: bool,
}

/// The oracle. Runs are as long as they can be, so that maps that lead alike are equal.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Flat {
    runs: BTreeMap<u64, Run>,
}

impl Flat {
    /// What leaves in rising order map.
    pub fn of(leaves: &[Leaf]) -> Self {
        let mut flat = Self::default();
        let mut end = 0;
        for Leaf { iova, size, phys, read, write, .. } in leaves {
            assert!(*iova >= end, "leaves overlap, or fall");
            end = iova + size;
            flat.insert(*iova, Run { len: *size, phys: *phys, read: *read, write: *write });
        }
        flat
    }

    /// Whether the leaves, in rising order, map this and nothing else.
    pub fn is_mapped_by(&self, leaves: &[Leaf]) -> bool {
        *self == Self::of(leaves)
    }

    /// Start and length of every run, in rising order.
    pub fn runs(&self) -> impl Iterator<Item = (u64, Run)> + '_ {
        self.runs.iter().map(|(start, run)| (*start, *run))
    }

    /// Bytes mapped.
    pub fn len(&self) -> u64 {
        self.runs.values().map(|run| run.len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// What `iova` leads to.
    pub fn get(&self, iova: u64) -> Option<Page> {
        let (start, run) = self.runs.range(..=iova).next_back()?;
        (iova - start < run.len).then(|| (run.phys + (iova - start), run.read, run.write))
    }

    /// The lowest address of `range` that leads somewhere.
    pub fn first_mapped(&self, range: IovaRange) -> Option<u64> {
        let (start, last) = (range.start().get(), range.last().get());
        match self.get(start) {
            Some(_) => Some(start),
            None => self.runs.range(start..=last).next().map(|(start, _)| *start),
        }
    }

    /// The lowest address of `range` that leads nowhere.
    pub fn first_hole(&self, range: IovaRange) -> Option<u64> {
        let mut at = range.start().get();
        while at <= range.last().get() {
            match self.runs.range(..=at).next_back() {
                Some((start, run)) if at - start < run.len => at = start + run.len,
                _ => return Some(at),
            }
        }
        None
    }

    /// What a map call adds.
    pub fn map(&mut self, iova: u64, extents: &[PhysExtent], prot: Prot) {
        let mut at = iova;
        for extent in extents.iter().filter(|extent| extent.len != 0) {
            let range = super::range(at, extent.len);
            assert_eq!(self.first_mapped(range), None, "the oracle lets nothing be mapped twice");
            self.insert(at, Run { len: extent.len, phys: extent.start.get(), read: prot.read, write: prot.write });
            at += extent.len;
        }
    }

    /// Takes out what `range` holds of it.
    pub fn unmap(&mut self, range: IovaRange) {
        self.take(range);
    }

    /// Changes what all that is mapped in `range` allows.
    pub fn protect(&mut self, range: IovaRange, prot: Prot) {
        for (start, run) in self.take(range) {
            self.insert(start, Run { read: prot.read, write: prot.write, ..run });
        }
    }

    /// Takes out what `range` holds, and returns it.
    fn take(&mut self, range: IovaRange) -> Vec<(u64, Run)> {
        let (start, last) = (range.start().get(), range.last().get());
        self.cut(start);
        if let Some(end) = last.checked_add(1) {
            self.cut(end);
        }
        let taken: Vec<_> = self.runs.range(start..=last).map(|(start, run)| (*start, *run)).collect();
        for (start, _) in &taken {
            self.runs.remove(start);
        }
        taken
    }

    /// Makes two runs of one that goes across `at`.
    fn cut(&mut self, at: u64) {
        let Some((&start, &run)) = self.runs.range(..at).next_back() else { return };
        let below = at - start;
        if below < run.len {
            self.runs.insert(start, Run { len: below, ..run });
            self.runs.insert(at, Run { len: run.len - below, phys: run.phys + below, ..run });
        }
    }

    /// Puts in a run where nothing is, joined with its neighbours.
    fn insert(&mut self, at: u64, run: Run) {
        let (mut at, mut run) = (at, run);
        let joins = |(low, first): (u64, Run), (high, second): (u64, Run)| {
            low + first.len == high
                && first.phys + first.len == second.phys
                && (first.read, first.write) == (second.read, second.write)
        };
        if let Some((&start, &before)) = self.runs.range(..at).next_back()
            && joins((start, before), (at, run))
        {
            self.runs.remove(&start);
            (at, run) = (start, Run { len: before.len + run.len, ..before });
        }
        if let Some((&start, &after)) = self.runs.range(at..).next()
            && joins((at, run), (start, after))
        {
            self.runs.remove(&start);
            run.len += after.len;
        }
        self.runs.insert(at, run);
    }
}

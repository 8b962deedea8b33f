//! What a table is to hold after each operation, leaf by leaf, worked out from what the operations promise and from
//! nothing in the crate under test. The flat map of addresses, which knows of no leaves at all, stands beside it.
#![allow(dead_code, reason = "each suite is a crate of its own and uses part of this")]

use crate::common::Kind;
use crate::common::raw::Leaf;
use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent, total_len};
use iommu_core::hw::{HwError, Prot};
use iommu_pgtable::Removed;
use std::collections::BTreeMap;

/// A leaf, or a contiguous group of them. Where it begins is its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cell {
    pub size: u64,
    pub phys: u64,
    pub prot: Prot,
    /// It was written through. Never set where that is not tracked.
    pub dirty: bool,
}

/// The leaves that there are to be.
#[derive(Clone, Debug)]
pub struct Oracle {
    pub leaves: BTreeMap<u64, Cell>,
    /// Leaf sizes, those of contiguous groups among them, from the smallest up.
    pub sizes: Vec<u64>,
    output_bits: u32,
    write_only: bool,
    pub tracked: bool,
}

/// First and last address.
pub fn ends(range: IovaRange) -> (u64, u64) {
    (range.start().get(), range.last().get())
}

/// The range from one address to another, both included.
pub fn between(first: u64, last: u64) -> IovaRange {
    IovaRange::new(Iova::new(first), Iova::new(last)).unwrap()
}

impl Oracle {
    pub fn new<K: Kind>() -> Self {
        Self {
            leaves: BTreeMap::new(),
            sizes: K::sizes(),
            output_bits: K::RAW.address_bits,
            write_only: K::RAW.has_write_only(),
            tracked: K::RAW.tracked,
        }
    }

    pub fn page(&self) -> u64 {
        self.sizes[0]
    }

    /// The leaf that holds `at`, and where it begins.
    pub fn find(&self, at: u64) -> Option<(u64, Cell)> {
        let (start, cell) = self.leaves.range(..=at).next_back()?;
        (at - start < cell.size).then_some((*start, *cell))
    }

    /// The leaves that hold an address of `range`.
    pub fn within(&self, range: IovaRange) -> impl Iterator<Item = (u64, Cell)> + '_ {
        let (first, last) = ends(range);
        let first = self.find(first).map_or(first, |(start, _)| start);
        self.leaves.range(first..=last).map(|(start, cell)| (*start, *cell))
    }

    /// Whether a walk found these leaves and no others.
    pub fn is_mapped_by(&self, leaves: &[Leaf]) -> bool {
        let found = leaves.iter().map(|leaf| {
            let prot = Prot { read: leaf.read, write: leaf.write };
            (leaf.iova, Cell { size: leaf.size, phys: leaf.phys, prot, dirty: leaf.dirty })
        });
        found.eq(self.leaves.iter().map(|(start, cell)| (*start, *cell)))
    }

    fn expresses(&self, prot: Prot) -> bool {
        prot.read || prot.write && self.write_only
    }

    fn misaligned(&self, value: u64) -> Option<HwError> {
        let align = self.page();
        (!value.is_multiple_of(align)).then_some(HwError::Misaligned { value, align })
    }

    /// The errors one of which a map by the owner of `claim` has to give, for its arguments if there is anything wrong
    /// with them; none where it succeeds if there is memory for tables.
    pub fn check_map(&self, claim: IovaRange, iova: u64, extents: &[PhysExtent], prot: Prot) -> Vec<HwError> {
        let mut errors = Vec::new();
        let len = total_len(extents).unwrap_or(u64::MAX);
        if len == 0 {
            return errors;
        }
        errors.extend((!self.expresses(prot)).then_some(HwError::Protection(prot)));
        errors.extend(self.misaligned(iova));
        for extent in extents.iter().filter(|extent| extent.len != 0) {
            errors.extend(self.misaligned(extent.start.get()));
            errors.extend(self.misaligned(extent.len));
            let last = extent.last().unwrap_or(PhysAddr::new(u64::MAX));
            if last.get() >> self.output_bits != 0 {
                errors.push(HwError::OutputTooWide { phys: last, bits: self.output_bits as u8 });
            }
        }
        let range = IovaRange::from_len(Iova::new(iova), len);
        if range.is_none_or(|range| !claim.covers(range)) {
            errors.push(HwError::OutOfRange { iova: Iova::new(iova), len });
        }
        if errors.is_empty()
            && let Some((start, _)) = range.and_then(|range| self.within(range).next())
        {
            errors.push(HwError::AlreadyMapped { iova: Iova::new(start.max(iova)) });
        }
        errors
    }

    /// Maps what nothing is wrong with.
    pub fn map(&mut self, iova: u64, extents: &[PhysExtent], prot: Prot) {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for extent in extents.iter().filter(|extent| extent.len != 0) {
            match runs.last_mut() {
                Some((start, len)) if *start + *len == extent.start.get() => *len += extent.len,
                _ => runs.push((extent.start.get(), extent.len)),
            }
        }
        let mut at = iova;
        for (mut phys, mut left) in runs {
            while left != 0 {
                let fits = |size: &&u64| (at | phys).is_multiple_of(**size) && **size <= left;
                let size = *self.sizes.iter().rev().find(fits).unwrap();
                self.leaves.insert(at, Cell { size, phys, prot, dirty: false });
                (at, phys, left) = (at + size, phys + size, left - size);
            }
        }
    }

    /// As `check_map`, for an operation on a range that has to be mapped, without a leaf that reaches out of it.
    pub fn check_covered(&self, claim: IovaRange, range: IovaRange) -> Vec<HwError> {
        let (first, last) = ends(range);
        let mut errors = Vec::new();
        errors.extend(self.misaligned(first));
        errors.extend(self.misaligned(last.wrapping_add(1).wrapping_sub(first)));
        errors.extend(Self::check_claim(claim, range));
        if !errors.is_empty() {
            return errors;
        }
        let mut at = Some(first);
        for (start, cell) in self.within(range) {
            if at.is_some_and(|at| at < start) {
                break;
            }
            if start < first || start + (cell.size - 1) > last {
                return vec![HwError::SplitsLeaf { iova: Iova::new(start), size: cell.size }];
            }
            at = start.checked_add(cell.size).filter(|at| *at <= last);
        }
        at.into_iter().map(|at| HwError::NotMapped { iova: Iova::new(at) }).collect()
    }

    /// The error of an operation on addresses outside of the claim.
    pub fn check_claim(claim: IovaRange, range: IovaRange) -> Option<HwError> {
        let len = range.len().unwrap_or(u64::MAX);
        (!claim.covers(range)).then_some(HwError::OutOfRange { iova: range.start(), len })
    }

    /// The same for a look at what is dirty in a range, which need not be mapped.
    pub fn check_dirty(&self, claim: IovaRange, range: IovaRange) -> Vec<HwError> {
        let (first, last) = ends(range);
        let mut errors = Vec::new();
        if !self.tracked {
            errors.push(HwError::Unsupported(""));
        }
        errors.extend(self.misaligned(first));
        errors.extend(self.misaligned(last.wrapping_add(1).wrapping_sub(first)));
        errors.extend(Self::check_claim(claim, range));
        if errors.is_empty() {
            let reaches_out = |(start, cell): &(u64, Cell)| *start < first || start + (cell.size - 1) > last;
            let leaf = [first, last].into_iter().filter_map(|at| self.find(at)).find(reaches_out);
            errors.extend(leaf.map(|(start, cell)| HwError::SplitsLeaf { iova: Iova::new(start), size: cell.size }));
        }
        errors
    }

    pub fn check_protect(&self, claim: IovaRange, range: IovaRange, prot: Prot) -> Vec<HwError> {
        if self.expresses(prot) {
            return self.check_covered(claim, range);
        }
        // Either may be found first.
        let (first, last) = ends(range);
        let mut errors = vec![HwError::Protection(prot)];
        errors.extend(self.misaligned(first));
        errors.extend(self.misaligned(last.wrapping_add(1).wrapping_sub(first)));
        errors.extend(Self::check_claim(claim, range));
        errors
    }

    /// Unmaps what is mapped, and gives what is to be handed out.
    pub fn unmap(&mut self, range: IovaRange) -> Vec<Removed> {
        let mut removed: Vec<Removed> = Vec::new();
        for (start, cell) in self.within(range).collect::<Vec<_>>() {
            self.leaves.remove(&start);
            let dirty = cell.dirty || !self.tracked;
            match removed.last_mut() {
                Some(last)
                    if last.dirty == dirty
                        && last.iova.get() + last.extent.len == start
                        && last.extent.start.get() + last.extent.len == cell.phys =>
                {
                    last.extent.len += cell.size;
                }
                _ => removed.push(Removed {
                    iova: Iova::new(start),
                    extent: PhysExtent::new(PhysAddr::new(cell.phys), cell.size),
                    dirty,
                }),
            }
        }
        removed
    }

    /// Changes the protection of what is mapped.
    pub fn protect(&mut self, range: IovaRange, prot: Prot) {
        let (first, last) = ends(range);
        self.leaves.range_mut(first..=last).for_each(|(_, cell)| cell.prot = prot);
    }

    /// The leaves that a cut of `range` takes apart.
    pub fn to_cut(&self, range: IovaRange, largest: u64) -> Vec<(u64, Cell)> {
        self.within(range).filter(|(_, cell)| cell.size > largest).collect()
    }

    /// The errors of a cut. Which addresses it names where a leaf reaches out of the claim is left open.
    pub fn check_cut(&self, claim: IovaRange, range: IovaRange, largest: u64) -> Vec<HwError> {
        let mut errors = Vec::new();
        errors.extend(Self::check_claim(claim, range));
        if !self.sizes.contains(&largest) {
            errors.push(HwError::Unsupported(""));
        }
        if errors.is_empty() {
            let leaves = self.to_cut(range, largest).into_iter();
            errors.extend(
                leaves.filter_map(|(start, cell)| Self::check_claim(claim, between(start, start + (cell.size - 1)))),
            );
        }
        errors
    }

    /// Cuts what is larger than `largest`, which leaves can be as small as.
    pub fn cut(&mut self, range: IovaRange, largest: u64) {
        for (start, cell) in self.to_cut(range, largest) {
            self.leaves.remove(&start);
            self.cut_leaf(start, cell, ends(range), largest);
        }
    }

    fn cut_leaf(&mut self, start: u64, cell: Cell, within: (u64, u64), largest: u64) {
        let beside = start > within.1 || start + (cell.size - 1) < within.0;
        if beside || cell.size <= largest {
            self.leaves.insert(start, cell);
            return;
        }
        let size = *self.sizes.iter().rev().find(|size| **size < cell.size).unwrap();
        for offset in (0..cell.size).step_by(size as usize) {
            self.cut_leaf(start + offset, Cell { size, phys: cell.phys + offset, ..cell }, within, largest);
        }
    }

    /// Merges what is contiguous and allows the same; returns how many leaves that made.
    pub fn merge(&mut self, range: IovaRange) -> usize {
        let (first, last) = ends(range);
        let mut merged = 0;
        let sizes = self.sizes.clone();
        for size in sizes.into_iter().skip(1) {
            let starts = self.leaves.range(first..=last).map(|(start, _)| *start);
            let starts: Vec<_> = starts.filter(|start| start % size == 0 && last - start >= size - 1).collect();
            merged += starts.into_iter().filter(|start| self.merge_block(*start, size)).count();
        }
        merged
    }

    fn merge_block(&mut self, start: u64, size: u64) -> bool {
        let Some(&first) = self.leaves.get(&start).filter(|cell| cell.phys % size == 0 && cell.size < size) else {
            return false;
        };
        let mut whole = Cell { size: 0, ..first };
        for (at, cell) in self.leaves.range(start..start + size) {
            if *at != start + whole.size || cell.phys != first.phys + whole.size || cell.prot != first.prot {
                return false;
            }
            whole = Cell { size: whole.size + cell.size, dirty: whole.dirty | cell.dirty, ..whole };
        }
        if whole.size == size {
            let gone: Vec<_> = self.leaves.range(start..start + size).map(|(at, _)| *at).collect();
            gone.iter().for_each(|at| _ = self.leaves.remove(at));
            self.leaves.insert(start, whole);
        }
        whole.size == size
    }

    /// What of `range` was written through, neighbours joined.
    pub fn dirty(&self, range: IovaRange) -> Vec<IovaRange> {
        let (first, last) = ends(range);
        let mut dirty: Vec<(u64, u64)> = Vec::new();
        for (start, cell) in self.within(range).filter(|(_, cell)| cell.dirty) {
            let (from, to) = (start.max(first), (start + (cell.size - 1)).min(last));
            match dirty.last_mut() {
                Some((_, end)) if *end + 1 == from => *end = to,
                _ => dirty.push((from, to)),
            }
        }
        dirty.into_iter().map(|(from, to)| between(from, to)).collect()
    }

    /// The device writes through the leaf that holds `at`. Whether it may.
    pub fn write(&mut self, at: u64) -> bool {
        let Some((start, cell)) = self.find(at).filter(|(_, cell)| cell.prot.write) else { return false };
        self.leaves.insert(start, Cell { dirty: self.tracked, ..cell });
        true
    }

    /// Makes every leaf clean that holds an address of `range`.
    pub fn clean(&mut self, range: IovaRange) {
        for (start, cell) in self.within(range).collect::<Vec<_>>() {
            self.leaves.insert(start, Cell { dirty: false, ..cell });
        }
    }
}

/// Numbers that look random, the same for the same seed.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Below `bound`, not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True once in `n`.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

//! Mapped areas: an array sorted by address, no two of which overlap.

use super::IoasError;
use crate::addr::{IovaRange, PhysExtent};
use crate::hw::Prot;
use alloc::vec::Vec;
use core::ops::Range;

/// One mapped area.
#[derive(Debug)]
pub struct Area {
    range: IovaRange,
    extents: Vec<PhysExtent>,
    prot: Prot,
    draining: bool,
}

impl Area {
    pub(super) fn new(range: IovaRange, extents: &[PhysExtent], prot: Prot) -> Result<Self, IoasError> {
        let mut copy = Vec::new();
        copy.try_reserve_exact(extents.len()).map_err(|_| IoasError::OutOfMemory)?;
        copy.extend_from_slice(extents);
        Ok(Self { range, extents: copy, prot, draining: false })
    }

    /// Where it lies.
    pub fn range(&self) -> IovaRange {
        self.range
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.range.len().unwrap_or(u64::MAX)
    }

    /// The memory behind it, one run after the other.
    pub fn extents(&self) -> &[PhysExtent] {
        &self.extents
    }

    /// What devices may do.
    pub fn prot(&self) -> Prot {
        self.prot
    }

    /// Whether it was to be unmapped and hardware has not confirmed that: its memory must not be reused.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    pub(super) fn set_draining(&mut self) {
        self.draining = true;
    }

    pub(super) fn into_draining(mut self) -> Self {
        self.set_draining();
        self
    }
}

/// All areas of an address space.
#[derive(Default)]
pub(super) struct Areas(Vec<Area>);

impl Areas {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Makes sure that the next [`Areas::insert`] needs no memory.
    pub(super) fn reserve_one(&mut self) -> Result<(), IoasError> {
        self.0.try_reserve(1).map_err(|_| IoasError::OutOfMemory)
    }

    /// Adds an area that overlaps none.
    pub(super) fn insert(&mut self, area: Area) {
        let at = self.0.partition_point(|held| held.range.start() < area.range.start());
        self.0.insert(at, area);
    }

    /// The positions of all areas that share an address with `range`.
    pub(super) fn touched_by(&self, range: IovaRange) -> Range<usize> {
        let first = self.0.partition_point(|held| held.range.last() < range.start());
        let end = self.0.partition_point(|held| held.range.start() <= range.last());
        first..end.max(first)
    }

    /// The lowest area that shares an address with `range`.
    pub(super) fn overlapping(&self, range: IovaRange) -> Option<&Area> {
        self.0.get(self.touched_by(range)).and_then(<[Area]>::first)
    }

    pub(super) fn get_mut(&mut self, positions: Range<usize>) -> &mut [Area] {
        self.0.get_mut(positions).unwrap_or_default()
    }

    pub(super) fn remove(&mut self, positions: Range<usize>) {
        self.0.drain(positions);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Area> + '_ {
        self.0.iter()
    }
}

//! Ranges in which no area may lie, by whoever reserved them.

use super::{DomainId, IoasError};
use crate::addr::{Iova, IovaRange};
use alloc::vec::Vec;

/// Who keeps a range free.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Owner {
    /// A domain, for what its hardware treats specially.
    Domain(DomainId),
    /// The embedder, under a number of its choice: a device's reserved regions, say.
    Embedder(u64),
}

/// Reserved ranges, sorted by start; those of different owners may overlap.
#[derive(Default)]
pub(super) struct Reserved(Vec<(IovaRange, Owner)>);

impl Reserved {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn insert(&mut self, range: IovaRange, owner: Owner) -> Result<(), IoasError> {
        self.0.try_reserve(1).map_err(|_| IoasError::OutOfMemory)?;
        let at = self.0.partition_point(|(held, _)| held.start() <= range.start());
        self.0.insert(at, (range, owner));
        Ok(())
    }

    pub(super) fn release(&mut self, owner: Owner) {
        self.0.retain(|(_, held)| *held != owner);
    }

    /// The first reserved range that shares an address with `range`.
    pub(super) fn overlapping(&self, range: IovaRange) -> Option<IovaRange> {
        self.0.iter().map(|(held, _)| *held).find(|held| held.overlaps(range))
    }

    /// What is left of `within` between the reserved ranges, lowest first.
    pub(super) fn gaps(&self, within: Option<IovaRange>) -> impl Iterator<Item = IovaRange> + '_ {
        let last = within.map(IovaRange::last);
        // The lowest address not looked at yet; `None` once the end of the space is reached.
        let mut next = within.map(IovaRange::start);
        let mut ranges = self.0.iter().map(|(range, _)| *range);
        core::iter::from_fn(move || {
            loop {
                let (start, last) = (next?, last?);
                let Some(range) = ranges.next() else {
                    next = None;
                    return IovaRange::new(start, last);
                };
                let end = range.start().get().checked_sub(1).map(|end| Iova::new(end).min(last));
                next = match range.last().checked_add(1) {
                    Some(after) if after <= last => Some(after.max(start)),
                    _ => None,
                };
                if let Some(gap) = end.and_then(|end| IovaRange::new(start, end)) {
                    return Some(gap);
                }
            }
        })
    }
}

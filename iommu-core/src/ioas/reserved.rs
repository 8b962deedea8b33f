//! Which addresses areas may lie at: what owners keep free, what is allowed, and what every domain translates.

use crate::addr::{Iova, IovaRange, PAGE_SIZE};
use crate::error::Error;
use alloc::vec::Vec;

/// Who keeps a range free.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Owner {
    /// The embedder, by a number of its own.
    Embedder(u64),
    /// A domain or a device, by a number of [`crate::hw::unique_number`].
    Object(u64),
}

/// Reserved ranges in the order of their first addresses. Those of several owners may overlap. There are few: some a
/// device and a domain.
#[derive(Default)]
pub(super) struct Reserved(Vec<(IovaRange, Owner)>);

impl Reserved {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn insert(&mut self, range: IovaRange, owner: Owner) -> Result<(), Error> {
        self.0.try_reserve(1).map_err(|_| Error::OutOfMemory)?;
        let at = self.0.partition_point(|(held, _)| held.start() < range.start());
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
    pub(super) fn gaps(&self, within: IovaRange) -> impl Iterator<Item = IovaRange> + '_ {
        let last = within.last();
        // The lowest address not looked at yet; `None` once the end is reached.
        let mut next = Some(within.start());
        let mut ranges = self.0.iter().map(|(range, _)| *range);
        core::iter::from_fn(move || {
            loop {
                let start = next?;
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

/// Where automatic placement may go when nothing is said: not the lowest page, so that no address is ever 0, and not the
/// highest, so that none is ever the last.
const DEFAULT_WINDOW: IovaRange = match IovaRange::new(Iova::new(PAGE_SIZE), Iova::new(u64::MAX - PAGE_SIZE)) {
    Some(range) => range,
    None => IovaRange::FULL,
};

/// The ranges that automatic placement stays in, ascending and disjoint, and that nobody may reserve. Empty: no list was
/// given.
#[derive(Default)]
pub(super) struct Allowed(Vec<IovaRange>);

impl Allowed {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// A list of `ranges`, in any order.
    pub(super) fn of(ranges: &[IovaRange]) -> Result<Self, Error> {
        let mut list = Vec::new();
        list.try_reserve_exact(ranges.len()).map_err(|_| Error::OutOfMemory)?;
        list.extend_from_slice(ranges);
        list.sort_unstable_by_key(|range| range.start());
        match list.windows(2).find(|pair| pair[0].overlaps(pair[1])) {
            Some(_) => Err(Error::Invalid("allowed ranges overlap each other")),
            None => Ok(Self(list)),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = IovaRange> + '_ {
        self.0.iter().copied()
    }

    /// The first allowed range that shares an address with `range`.
    pub(super) fn overlapping(&self, range: IovaRange) -> Option<IovaRange> {
        let at = self.0.partition_point(|held| held.last() < range.start());
        self.0.get(at).copied().filter(|held| held.overlaps(range))
    }

    /// The windows for automatic placement, lowest first.
    pub(super) fn windows(&self) -> impl Iterator<Item = IovaRange> + '_ {
        let default = if self.0.is_empty() { Some(DEFAULT_WINDOW) } else { None };
        // Address 0 is never given out, whatever is allowed: too many take it for "none".
        let not_zero = |range: IovaRange| IovaRange::new(range.start().max(Iova::new(1)), range.last());
        default.into_iter().chain(self.iter().filter_map(not_zero))
    }
}

/// What two ranges have in common.
pub(super) fn common(one: IovaRange, other: IovaRange) -> Option<IovaRange> {
    IovaRange::new(one.start().max(other.start()), one.last().min(other.last()))
}

/// The part of `range` outside of `inside`, of two parts the lower.
pub(super) fn outside(range: IovaRange, inside: Option<IovaRange>) -> Option<IovaRange> {
    let Some(inside) = inside else { return Some(range) };
    if range.start() < inside.start() {
        let below = Iova::new(inside.start().get() - 1);
        return IovaRange::new(range.start(), below.min(range.last()));
    }
    let above = inside.last().checked_add(1)?;
    IovaRange::new(above.max(range.start()), range.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    extern crate std;

    fn range(start: u64, last: u64) -> IovaRange {
        IovaRange::new(Iova::new(start), Iova::new(last)).unwrap()
    }

    #[test]
    fn gaps_are_what_nobody_reserves() {
        let mut reserved = Reserved::new();
        let owner = Owner::Embedder(1);
        let gaps = |reserved: &Reserved, within| reserved.gaps(within).collect::<std::vec::Vec<_>>();
        assert_eq!(gaps(&reserved, IovaRange::FULL), [IovaRange::FULL]);
        for part in [range(0, 0xfff), range(0x5000, 0x7fff), range(u64::MAX - 0xfff, u64::MAX)] {
            reserved.insert(part, owner).unwrap();
        }
        reserved.insert(range(0x6000, 0x6fff), Owner::Embedder(2)).unwrap();
        let expected = [range(0x1000, 0x4fff), range(0x8000, u64::MAX - 0x1000)];
        assert_eq!(gaps(&reserved, IovaRange::FULL), expected);
        assert_eq!(gaps(&reserved, range(0x4fff, 0x8000)), [range(0x4fff, 0x4fff), range(0x8000, 0x8000)]);
        reserved.release(owner);
        assert_eq!(gaps(&reserved, range(0x6000, 0x7000)), [range(0x7000, 0x7000)]);
        reserved.insert(IovaRange::FULL, owner).unwrap();
        assert_eq!(gaps(&reserved, IovaRange::FULL), []);
    }

    #[test]
    fn outside_is_the_lower_part() {
        let inside = Some(range(0x1000, 0x1fff));
        assert_eq!(outside(range(0x1000, 0x1fff), inside), None);
        assert_eq!(outside(range(0, 0x2fff), inside), Some(range(0, 0xfff)));
        assert_eq!(outside(range(0x1800, 0x2fff), inside), Some(range(0x2000, 0x2fff)));
        assert_eq!(outside(range(0x3000, 0x3fff), inside), Some(range(0x3000, 0x3fff)));
        assert_eq!(outside(range(0, 5), inside), Some(range(0, 5)));
        assert_eq!(outside(range(1, 5), None), Some(range(1, 5)));
        assert_eq!(outside(IovaRange::FULL, Some(IovaRange::FULL)), None);
    }

    #[test]
    fn an_allowed_list_is_disjoint() {
        assert!(Allowed::of(&[range(5, 9), range(1, 5)]).is_err());
        let allowed = Allowed::of(&[range(5, 9), range(0, 4)]).unwrap();
        assert_eq!(allowed.windows().collect::<std::vec::Vec<_>>(), [range(1, 4), range(5, 9)]);
        assert_eq!(allowed.overlapping(range(9, 20)), Some(range(5, 9)));
        assert_eq!(allowed.overlapping(range(10, 20)), None);
        assert_eq!(Allowed::new().windows().next(), Some(DEFAULT_WINDOW));
    }
}

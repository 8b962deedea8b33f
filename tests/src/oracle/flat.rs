//! What an address space is, as plainly as possible: a sorted list that says for each address which byte of which memory
//! is there. Written from the specification; shares no type with the library but addresses and protections.

use iommu_core::hw::Prot;

/// The page size of the host, in bytes.
pub const PAGE: u64 = 4096;
/// Automatic placement aligns to no more than this, where there are no domains.
pub const LARGEST: u64 = 1 << 30;

/// Why an operation must be refused: one of these words, each a variant of the library's error. Where several conditions
/// are broken at once any of them may be named.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Refusals(pub Vec<&'static str>);

impl Refusals {
    /// Notes that `what` is a reason where `broken`.
    pub fn note(&mut self, broken: bool, what: &'static str) {
        if broken {
            self.0.push(what);
        }
    }

    /// `Ok` where nothing was noted.
    pub fn or_ok(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

/// `what` is the only reason.
pub fn refuse<T>(what: &'static str) -> Result<T, Refusals> {
    Err(Refusals(vec![what]))
}

/// One area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Area {
    /// Its first address.
    pub first: u64,
    /// Its last address.
    pub last: u64,
    /// The memory, by number.
    pub object: usize,
    /// Offset of its first byte there.
    pub offset: u64,
    /// What is allowed.
    pub prot: Prot,
    /// It was unmapped, or could not be mapped, and hardware has not confirmed that nobody reaches it.
    pub draining: bool,
    /// Its memory was taken back.
    pub revoked: bool,
    /// How many pins of accesses use it.
    pub pins: u32,
    /// How many locks.
    pub locks: u32,
}

impl Area {
    /// Whether it is mapped in every domain.
    pub fn is_live(&self) -> bool {
        !self.draining && !self.revoked
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.last - self.first + 1
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Whether it shares an address with `first..=last`.
    pub fn touches(&self, first: u64, last: u64) -> bool {
        self.first <= last && first <= self.last
    }
}

/// Who keeps a range free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keeper {
    /// The embedder, by number.
    Embedder(u64),
    /// A domain, by slot.
    Domain(usize),
    /// A device, by number.
    Device(usize),
    /// An access, by number.
    Access(usize),
}

/// A range that is kept free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept {
    /// Its first address.
    pub first: u64,
    /// Its last address.
    pub last: u64,
    /// By whom.
    pub keeper: Keeper,
}

/// An address space.
#[derive(Clone, Debug, Default)]
pub struct Flat {
    /// Areas, lowest first.
    pub areas: Vec<Area>,
    /// Ranges kept free, in no order.
    pub kept: Vec<Kept>,
    /// Where automatic placement stays, lowest first; empty stands for everywhere.
    pub allowed: Vec<(u64, u64)>,
    /// What its domains and accesses demand, in bytes; 0 where large pages are off.
    pub demands: Vec<(Keeper, u64)>,
    /// Large pages are off.
    pub small_only: bool,
}

impl Flat {
    /// What addresses and lengths must be multiples of.
    pub fn alignment(&self) -> u64 {
        let demanded = self.demands.iter().map(|demand| demand.1).max().unwrap_or(1);
        if self.small_only { demanded.max(PAGE) } else { demanded }
    }

    /// The areas that share an address with `first..=last`.
    pub fn touching(&self, first: u64, last: u64) -> impl Iterator<Item = &Area> {
        self.areas.iter().filter(move |area| area.touches(first, last))
    }

    /// The area at `at`.
    pub fn at(&self, at: u64) -> Option<&Area> {
        self.touching(at, at).next()
    }

    /// The number of the area at `at`.
    pub fn index_at(&self, at: u64) -> Option<usize> {
        self.areas.iter().position(|area| area.touches(at, at))
    }

    /// Adds an area.
    pub fn insert(&mut self, area: Area) {
        let at = self.areas.partition_point(|other| other.first < area.first);
        self.areas.insert(at, area);
    }

    /// Whether a range that is kept free shares an address with `first..=last`.
    pub fn is_kept(&self, first: u64, last: u64) -> bool {
        self.kept.iter().any(|kept| kept.first <= last && first <= kept.last)
    }

    /// Whether an allowed range shares an address with `first..=last`.
    pub fn is_allowed_somewhere(&self, first: u64, last: u64) -> bool {
        self.allowed.iter().any(|allowed| allowed.0 <= last && first <= allowed.1)
    }

    /// Whether areas would be at odds with `align`.
    pub fn is_misaligned(&self, align: u64) -> bool {
        self.areas.iter().any(|area| area.first % align != 0 || area.len() % align != 0 || area.offset % align != 0)
    }

    /// The ranges that are not kept free, lowest first.
    pub fn usable(&self) -> Vec<(u64, u64)> {
        let mut kept: Vec<_> = self.kept.iter().map(|kept| (kept.first, kept.last)).collect();
        kept.sort_unstable();
        let (mut free, mut next) = (Vec::new(), Some(0));
        for (first, last) in kept {
            let Some(from) = next else { break };
            if from < first {
                free.push((from, first - 1));
            }
            if last >= from {
                next = last.checked_add(1);
            }
        }
        if let Some(from) = next {
            free.push((from, u64::MAX));
        }
        free
    }

    /// The lowest hole for `len` bytes, aligned to `align`, where automatic placement may put it: never at 0.
    pub fn hole(&self, len: u64, align: u64) -> Option<u64> {
        let window = [(PAGE, u64::MAX - PAGE)];
        let within: &[(u64, u64)] = if self.allowed.is_empty() { &window } else { &self.allowed };
        within.iter().find_map(|(first, last)| self.hole_in((*first).max(1), *last, len, align))
    }

    fn hole_in(&self, first: u64, last: u64, len: u64, align: u64) -> Option<u64> {
        let mut at = first;
        loop {
            at = at.checked_next_multiple_of(align)?;
            let end = at.checked_add(len - 1).filter(|end| *end <= last)?;
            let area = self.touching(at, end).map(|area| area.last);
            let kept = self.kept.iter().filter(|kept| kept.first <= end && at <= kept.last).map(|kept| kept.last);
            match area.chain(kept).max() {
                // Nothing below the end of what is in the way is large enough, as it stands in each place from here on.
                Some(in_the_way) => at = in_the_way.checked_add(1)?,
                None => return Some(at),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(first: u64, len: u64) -> Area {
        let prot = Prot::READ;
        Area {
            first,
            last: first + len - 1,
            object: 0,
            offset: 0,
            prot,
            draining: false,
            revoked: false,
            pins: 0,
            locks: 0,
        }
    }

    #[test]
    fn holes_are_the_lowest() {
        let mut flat = Flat::default();
        assert_eq!((flat.hole(1, 1), flat.hole(1, 0x4000)), (Some(PAGE), Some(0x4000)));
        flat.insert(area(0x1000, 0x1000));
        flat.insert(area(0x3000, 0x800));
        assert_eq!((flat.hole(0x1000, 0x1000), flat.hole(0x1001, 1)), (Some(0x2000), Some(0x3800)));
        flat.kept.push(Kept { first: 0x2800, last: 0x2fff, keeper: Keeper::Embedder(0) });
        assert_eq!(flat.hole(0x1000, 0x800), Some(0x3800));
        flat.allowed = vec![(0, 0x1fff), (0x4000, 0x4fff)];
        assert_eq!((flat.hole(0x1000, 1), flat.hole(0x1001, 1)), (Some(0x4000), None), "never at 0");
        assert_eq!(flat.usable(), [(0, 0x27ff), (0x3000, u64::MAX)]);
    }
}

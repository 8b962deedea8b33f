//! Random operations by the owner of a claim, each compared with the oracle: what it returns, what it hands out, and
//! that a refused one leaves memory as it was.
#![allow(dead_code, reason = "each suite is a crate of its own and uses part of this")]

use crate::common::{Flat, Kind};
use crate::oracle::{Cell as Leaf, Oracle, Random, between, ends};
use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
use iommu_core::hw::{Gather, HwError, Prot, Touched, Transition};
use iommu_hal::Hal;
use iommu_models::memory::TestMemory;
use iommu_pgtable::{Claim, Flush, Format, Removed};
use std::cell::Cell;

/// One operation.
#[derive(Clone, Debug)]
pub enum Action {
    Map { iova: u64, extents: Vec<PhysExtent>, prot: Prot },
    Unmap(IovaRange),
    Protect(IovaRange, Prot),
    Cut(IovaRange, u64),
    Merge(IovaRange),
    ReadDirty(IovaRange),
    ClearDirty(IovaRange),
    Leaves(IovaRange),
    Flush,
}

impl Action {
    /// The first and the last address that it is about.
    pub fn ends(&self) -> Option<(u64, u64)> {
        match self {
            Action::Map { iova, extents, .. } => {
                let len = extents.iter().fold(0u64, |len, extent| len.saturating_add(extent.len));
                Some((*iova, iova.saturating_add(len.saturating_sub(1))))
            }
            Action::Unmap(range)
            | Action::Protect(range, _)
            | Action::Cut(range, _)
            | Action::Merge(range)
            | Action::ReadDirty(range)
            | Action::ClearDirty(range)
            | Action::Leaves(range) => Some(ends(*range)),
            Action::Flush => None,
        }
    }
}

/// How likely each operation is, in the order of `Action`.
pub type Weights = [u64; 9];

/// Where operations take place.
pub struct Places {
    /// Addresses close to which they do.
    pub borders: Vec<u64>,
    /// All addresses lie in this, but for a few mistakes.
    pub within: IovaRange,
    pub weights: Weights,
    /// Where leaves were cut, to be merged again.
    pub recent: Cell<Option<IovaRange>>,
}

/// What most addresses lead to: memory at a constant distance, aligned to it in every size, so that neighbours that were
/// mapped one by one can be merged.
const HOME: u64 = 7 << 40;

impl Places {
    /// An address close to a border, on a page.
    fn address<K: Kind>(&self, random: &mut Random) -> u64 {
        let border = random.pick(&self.borders);
        let unit = if random.one_in(2) { random.pick(&K::sizes()) } else { K::PAGE };
        let steps = if unit == K::PAGE { random.below(24) } else { random.below(4) };
        let far = unit * steps;
        let at = if random.one_in(2) { border.saturating_sub(far) } else { border + far };
        let (first, last) = ends(self.within);
        at.clamp(first, last) & !(K::PAGE - 1)
    }

    /// Bytes from `at` on.
    fn length<K: Kind>(&self, at: u64, random: &mut Random) -> u64 {
        let pages = |random: &mut Random| random.below(20) * K::PAGE;
        match random.below(10) {
            0..2 => pages(random) + K::PAGE,
            2..5 => {
                // To a border of some size, and on.
                let size = random.pick(&K::sizes());
                let border = at.next_multiple_of(size) - at;
                border + size * random.below(2) + if random.one_in(2) { pages(random) } else { 0 }
            }
            5..8 => random.pick(&K::sizes()) * (1 + random.below(3)),
            8 => random.pick(&K::sizes()) * (1 + random.below(2)) + pages(random),
            _ => pages(random),
        }
    }

    /// Memory for what is mapped at `at`: most of the time such that large leaves fit.
    fn memory<K: Kind>(&self, at: u64, random: &mut Random) -> u64 {
        let inside = at & ((1 << 40) - 1);
        let aligned = (random.below(60) << 40) + inside;
        match random.below(10) {
            0..6 => HOME + inside,
            6 => aligned,
            7 => aligned ^ random.pick(&K::sizes()),
            8 => aligned ^ (K::PAGE * random.below(8)),
            _ => HOME + random.below(1 << 20) * K::PAGE,
        }
    }

    fn prot(random: &mut Random) -> Prot {
        match random.below(40) {
            0..24 => Prot::READ_WRITE,
            24..35 => Prot::READ,
            35..39 => Prot::WRITE,
            _ => Prot { read: false, write: false },
        }
    }

    fn map<K: Kind>(&self, oracle: &Oracle, random: &mut Random) -> Action {
        let mut iova = self.address::<K>(random);
        for _ in 0..4 {
            if oracle.find(iova).is_some() {
                iova = self.address::<K>(random);
            }
        }
        let mut extents: Vec<PhysExtent> = Vec::new();
        let mut at = iova;
        for _ in 0..1 + random.below(3) * random.below(3) {
            let touching = extents.last().filter(|_| random.one_in(3)).and_then(|last| last.last());
            let start = touching.map_or_else(|| self.memory::<K>(at, random), |last| last.get() + 1);
            let mut len = self.length::<K>(at, random);
            // Small pages only: not too many of them.
            let aligned =
                K::sizes().into_iter().rev().find(|size| (start ^ at).is_multiple_of(*size)).unwrap_or(K::PAGE);
            let most = match random.one_in(30) {
                true => aligned * K::ENTRIES + 8 * K::PAGE,
                false => aligned * 80,
            };
            if len > most {
                len = most;
            }
            extents.push(PhysExtent::new(PhysAddr::new(start), len));
            at += len;
        }
        // Up to what is mapped there, or to the end.
        let end = self.within.last().get() + 1;
        let room = oracle.leaves.range(iova..at).next().map_or(end, |(next, _)| *next).min(end);
        if room < at && !random.one_in(6) {
            Self::shorten(&mut extents, room - iova);
        }
        let mut prot = Self::prot(random);
        // Mistakes.
        match random.below(200) {
            0 => iova += 1 << random.below(K::PAGE.ilog2().into()),
            1 => extents[0].len += 8,
            2 => extents[0].start = PhysAddr::new(extents[0].start.get() + K::PAGE / 2),
            3 => extents[0].start = PhysAddr::new((1 << 46) - K::PAGE * random.below(2)),
            4 => extents.clear(),
            5 => extents.push(PhysExtent::new(PhysAddr::new(0), (1 << 63) - K::PAGE)),
            6 => prot = Prot { read: false, write: false },
            7 => iova = K::TOP - K::PAGE * random.below(2),
            _ => {}
        }
        Action::Map { iova, extents, prot }
    }

    /// Leaves of `extents` the first `room` bytes.
    fn shorten(extents: &mut [PhysExtent], mut room: u64) {
        for extent in extents {
            extent.len = extent.len.min(room);
            room -= extent.len;
        }
    }

    /// From a leaf on, so many of them, as long as there is no gap.
    fn leaves(&self, oracle: &Oracle, at: u64, most: usize) -> Option<IovaRange> {
        let (first, last) = ends(self.within);
        let (start, _) = oracle.leaves.range(at..=last).next().or_else(|| oracle.leaves.range(first..=last).next())?;
        let mut end = *start;
        for (at, cell) in oracle.leaves.range(start..=&last).take(most) {
            if *at != end {
                break;
            }
            end += cell.size;
        }
        Some(between(*start, end - 1))
    }

    /// A range to work on: mapped as a whole, or whatever comes.
    fn range<K: Kind>(&self, oracle: &Oracle, random: &mut Random) -> IovaRange {
        let at = self.address::<K>(random);
        let most = match random.below(4) {
            0 => 1,
            1 => random.below(30) as usize + 1,
            2 => usize::MAX,
            _ => random.below(600) as usize + 1,
        };
        let mapped = if random.one_in(6) { None } else { self.leaves(oracle, at, most) };
        let mut range = mapped.unwrap_or_else(|| {
            let len = self.length::<K>(at, random).max(K::PAGE);
            between(at, at + (len - 1))
        });
        let (first, last) = ends(range);
        // Into a leaf at an end, or out of it; mistakes.
        match random.below(40) {
            7..10 if last - first >= K::PAGE => range = between(first + K::PAGE, last),
            10..13 if last - first >= K::PAGE => range = between(first, last - K::PAGE),
            2 => range = between(first, last + K::PAGE),
            3 => range = between(first.saturating_sub(K::PAGE), last),
            4 if random.one_in(3) => range = between(first + 1, last + 1),
            5 if random.one_in(3) => range = between(first, last + 1),
            6 if random.one_in(3) => range = between(K::TOP - K::PAGE, K::TOP + K::PAGE - 1),
            _ => {}
        }
        range
    }

    /// A range and a size to cut it to, such that not too much comes of it.
    fn cut<K: Kind>(&self, oracle: &Oracle, random: &mut Random) -> Action {
        let mut range = self.range::<K>(oracle, random);
        for _ in 0..4 {
            if oracle.within(range).all(|(_, cell)| cell.size == K::PAGE) {
                range = self.range::<K>(oracle, random);
            }
        }
        let sizes = K::sizes();
        let biggest = oracle.within(range).map(|(_, cell)| cell.size).max().unwrap_or(u64::MAX);
        let smaller = sizes.iter().filter(|size| **size < biggest).count();
        let among = if smaller == 0 || random.one_in(5) { sizes.len() } else { smaller };
        let size = sizes[random.below(among as u64) as usize];
        let (first, last) = ends(range);
        let middle = first + random.below(last - first + 1);
        let len = random.below(size * (K::ENTRIES / 8)) + 1;
        let inside = between(middle, middle.saturating_add(len).min(last));
        let largest = match random.below(20) {
            0 => K::PAGE - 1,
            1 => size + random.below(size),
            _ => size,
        };
        self.recent.set(Some(range));
        Action::Cut(inside, largest)
    }

    fn merge<K: Kind>(&self, oracle: &Oracle, random: &mut Random) -> Action {
        let sizes = K::sizes();
        let size = sizes[random.below(sizes.len() as u64) as usize];
        let range = match self.recent.get() {
            Some(range) if !random.one_in(4) => range,
            _ => self.range::<K>(oracle, random),
        };
        let (first, last) = ends(range);
        let (low, high) = ends(self.within);
        let (first, last) = match random.below(12) {
            0 => (low, high),
            1 => (first, last),
            // Not all of a block.
            2 => (first.next_multiple_of(size) + K::PAGE, first.next_multiple_of(size) + 3 * size),
            _ => ((first & !(size - 1)).max(low), (last | (size - 1)).min(high)),
        };
        Action::Merge(if first <= last { between(first, last) } else { self.within })
    }

    /// The next operation.
    pub fn action<K: Kind>(&self, oracle: &Oracle, random: &mut Random) -> Action {
        let mut number = random.below(self.weights.iter().sum());
        let kind = self.weights.iter().position(|weight| {
            let found = number < *weight;
            number = number.wrapping_sub(*weight);
            found
        });
        match kind {
            Some(0) => self.map::<K>(oracle, random),
            Some(1) => Action::Unmap(self.range::<K>(oracle, random)),
            Some(2) => Action::Protect(self.range::<K>(oracle, random), Self::prot(random)),
            Some(3) => self.cut::<K>(oracle, random),
            Some(4) => self.merge::<K>(oracle, random),
            Some(5) => Action::ReadDirty(self.range::<K>(oracle, random)),
            Some(6) => Action::ClearDirty(self.range::<K>(oracle, random)),
            Some(7) => Action::Leaves(self.range::<K>(oracle, random)),
            _ => Action::Flush,
        }
    }
}

/// What an operation came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Came {
    /// It did what it should. So many leaves are concerned.
    Done(usize),
    /// It did, and says what DMA saw meanwhile.
    Through(Transition, usize),
    Refused(HwError),
}

/// Whoever has a claim, and what is to be there.
pub struct Owner<'m> {
    pub oracle: Oracle,
    pub flat: Flat,
    pub gather: Gather,
    /// The memory of the tables, where nobody else works on it: it must be as before after a refused operation.
    pub memory: Option<&'m TestMemory>,
    /// Live leaves may change their size.
    pub resizes_live: bool,
}

impl<'m> Owner<'m> {
    pub fn new<K: Kind>(memory: Option<&'m TestMemory>) -> Self {
        Self {
            oracle: Oracle::new::<K>(),
            flat: Flat::default(),
            gather: Gather::new(),
            memory,
            resizes_live: K::F::resizes_live(K::options()),
        }
    }

    /// Carries out `action` on `claim`, and finds out whether all of it was as the oracle says. It `may_fail` for want
    /// of memory.
    pub fn act<H: Hal, F: Format>(
        &mut self,
        action: &Action,
        claim: &mut Claim<'_, H, F>,
        unit: &mut dyn Flush,
        may_fail: bool,
    ) -> Came {
        let errors = self.errors(action, claim.range());
        let before = self.memory.filter(|_| may_fail || !errors.is_empty()).map(|memory| memory.snapshot());
        let held: Vec<Touched> = self.gather.touched().collect();
        let came = match action {
            Action::Map { iova, extents, prot } => claim.map(Iova::new(*iova), extents, *prot, unit).map(|()| None),
            Action::Unmap(range) => self.unmap(*range, claim, &errors),
            Action::Protect(range, prot) => claim.protect(*range, *prot, unit).map(Some),
            Action::Cut(range, largest) => claim.cut(*range, *largest, unit).map(Some),
            Action::Merge(range) => claim.merge(*range, unit).map(Some),
            Action::ReadDirty(range) => self.read_dirty(*range, claim),
            Action::ClearDirty(range) => self.clear_dirty(*range, claim),
            Action::Leaves(_) => Ok(None),
            Action::Flush => {
                unit.flush(&self.gather).unwrap();
                // SAFETY: the unit, if there is any, has just forgotten what the gather holds.
                unsafe { claim.free_gathered(&mut self.gather) };
                self.gather.clear();
                Ok(None)
            }
        };
        match came {
            Err(error) => {
                let excused = may_fail && errors.is_empty() && error == HwError::OutOfMemory;
                assert!(excused || errors.iter().any(|other| alike(action, &error, other)), "{error:?}: {errors:?}");
                assert!(held.into_iter().eq(self.gather.touched()), "the gather has changed");
                let same = before.is_none_or(|before| self.memory.is_none_or(|memory| memory.snapshot() == before));
                assert!(same, "{error:?}, and memory has changed");
                Came::Refused(error)
            }
            Ok(transition) => {
                assert_eq!(errors, [], "it succeeded");
                let concerned = self.follow(action, transition);
                transition.map_or(Came::Done(concerned), |transition| Came::Through(transition, concerned))
            }
        }
    }

    /// The errors one of which `action` must give; none where it must succeed.
    fn errors(&self, action: &Action, claim: IovaRange) -> Vec<HwError> {
        match action {
            Action::Map { iova, extents, prot } => self.oracle.check_map(claim, *iova, extents, *prot),
            Action::Unmap(range) => self.oracle.check_covered(claim, *range),
            Action::Protect(range, prot) => self.oracle.check_protect(claim, *range, *prot),
            Action::Cut(range, largest) => self.oracle.check_cut(claim, *range, *largest),
            Action::Merge(range) => Oracle::check_claim(claim, *range).into_iter().collect(),
            Action::ReadDirty(range) | Action::ClearDirty(range) => self.oracle.check_dirty(claim, *range),
            Action::Leaves(_) | Action::Flush => Vec::new(),
        }
    }

    /// Where addresses are to lead after `action`.
    pub fn flat_after(&self, action: &Action, claim: IovaRange) -> Flat {
        let mut flat = self.flat.clone();
        if self.errors(action, claim).is_empty() {
            match action {
                Action::Map { iova, extents, prot } => flat.map(*iova, extents, *prot),
                Action::Unmap(range) => flat.unmap(*range),
                Action::Protect(range, prot) => flat.protect(*range, *prot),
                _ => {}
            }
        }
        flat
    }

    /// What is to be there after the successful `action`. Returns how many leaves are concerned.
    fn follow(&mut self, action: &Action, transition: Option<Transition>) -> usize {
        let hitless = transition == Some(Transition::Hitless);
        match action {
            Action::Map { iova, extents, prot } => {
                self.oracle.map(*iova, extents, *prot);
                self.flat.map(*iova, extents, *prot);
                extents.iter().map(|extent| extent.len).sum::<u64>() as usize
            }
            Action::Protect(range, prot) => {
                let blocked = |(_, cell): (u64, Leaf)| self.is_group(cell.size) && cell.prot != *prot;
                assert_eq!(hitless, !self.oracle.within(*range).any(blocked), "groups go through blocked");
                self.oracle.protect(*range, *prot);
                self.flat.protect(*range, *prot);
                self.oracle.within(*range).count()
            }
            Action::Cut(range, largest) => {
                let cut = self.oracle.to_cut(*range, *largest).len();
                assert_eq!(hitless, self.resizes_live || cut == 0, "{cut} were to be cut");
                self.oracle.cut(*range, *largest);
                cut
            }
            Action::Merge(range) => {
                let merged = self.oracle.merge(*range);
                assert_eq!(hitless, self.resizes_live || merged == 0, "{merged} were to be merged");
                merged
            }
            Action::Unmap(_) | Action::ReadDirty(_) | Action::ClearDirty(_) | Action::Leaves(_) | Action::Flush => 1,
        }
    }

    /// Whether leaves of this size are contiguous groups.
    fn is_group(&self, size: u64) -> bool {
        let bits = size.ilog2() - self.oracle.page().ilog2();
        !bits.is_multiple_of(self.oracle.page().ilog2() - 3)
    }

    fn unmap<H: Hal, F: Format>(
        &mut self,
        range: IovaRange,
        claim: &mut Claim<'_, H, F>,
        errors: &[HwError],
    ) -> Result<Option<Transition>, HwError> {
        let mut removed: Vec<Removed> = Vec::new();
        let came = claim.unmap(range, &mut self.gather, &mut |run| removed.push(*run));
        if errors.is_empty() {
            assert_eq!(removed, self.oracle.unmap(range), "what was handed out");
            self.flat.unmap(range);
        } else {
            assert_eq!(removed, [], "a refused unmap hands out nothing");
        }
        came.map(|()| None)
    }

    fn read_dirty<H: Hal, F: Format>(
        &mut self,
        range: IovaRange,
        claim: &mut Claim<'_, H, F>,
    ) -> Result<Option<Transition>, HwError> {
        let mut dirty = Vec::new();
        claim.read_dirty(range, &mut |range| dirty.push(range))?;
        assert_eq!(dirty, self.oracle.dirty(range));
        Ok(None)
    }

    fn clear_dirty<H: Hal, F: Format>(
        &mut self,
        range: IovaRange,
        claim: &mut Claim<'_, H, F>,
    ) -> Result<Option<Transition>, HwError> {
        let mut dirty = Vec::new();
        claim.read_and_clear_dirty(range, &mut self.gather, &mut |range| dirty.push(range))?;
        assert_eq!(dirty, self.oracle.dirty(range));
        self.oracle.clean(range);
        Ok(None)
    }

    /// Compares what the table says of `at` with the oracle and with the flat map.
    pub fn compare_at<H: Hal, F: Format>(&self, claim: &Claim<'_, H, F>, at: u64) {
        let said = claim.translate(Iova::new(at)).map(|to| (to.phys.get(), to.prot, to.page_size));
        let expected = self.oracle.find(at).map(|(start, cell)| (cell.phys + (at - start), cell.prot, cell.size));
        let expected = expected.filter(|_| claim.range().contains(Iova::new(at)));
        assert_eq!(said, expected, "{at:#x}");
        let flat = self.flat.get(at).filter(|_| claim.range().contains(Iova::new(at)));
        assert_eq!(said.map(|(phys, prot, _)| (phys, prot.read, prot.write)), flat, "{at:#x}");
    }

    /// The same at both ends of what `action` was about, and beside them.
    pub fn compare_around<H: Hal, F: Format>(&self, claim: &Claim<'_, H, F>, action: &Action) {
        let Some((first, last)) = action.ends() else { return };
        for at in [first.wrapping_sub(1), first, first + (last - first) / 2, last, last.wrapping_add(1)] {
            self.compare_at(claim, at);
        }
    }
}

/// Whether an error is the one expected. What a cut names that would reach out of the claim, and the words for what is
/// not supported, are left open.
fn alike(action: &Action, error: &HwError, expected: &HwError) -> bool {
    match (action, error, expected) {
        (Action::Cut(..), HwError::OutOfRange { .. }, HwError::OutOfRange { .. }) => true,
        (_, HwError::Unsupported(_), HwError::Unsupported(_)) => true,
        _ => error == expected,
    }
}

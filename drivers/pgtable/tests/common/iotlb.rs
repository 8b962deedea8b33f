//! Hardware that remembers all that it may: leaves, and which tables the upper entries led to. It looks at the tables
//! whenever it is asked to, from the root or from a table that it remembers, and forgets nothing but what an
//! invalidation names. Written from the specifications: VT-d section 6.2, the SMMU's section 3.17 and the Arm manual's
//! section D8.16.
//!
//! What it finds must be what there was or what there is to be, at every look. Where live leaves must not change their
//! size it also refuses to remember two translations of one address that differ in more than what they allow.
#![allow(dead_code, reason = "each suite is a crate of its own and uses part of this")]

use crate::common::raw::{Entry, Leaf, Place, Raw, Single, Start};
use crate::common::{Flat, Kind};
use crate::oracle::Random;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{Gather, HwError, Touched, Wait};
use iommu_models::memory::TestMemory;
use iommu_pgtable::{Flush, Format};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

/// A leaf as it was when hardware last looked: one entry, or a contiguous group as a whole.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Cached {
    iova: u64,
    size: u64,
    phys: u64,
    read: bool,
    write: bool,
    /// Hardware need not note another write.
    dirty: bool,
    level: u32,
    grouped: bool,
}

/// A table that an upper entry led to when hardware last looked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Upper {
    iova: u64,
    level: u32,
    table: u64,
}

/// What became of a look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    Nothing,
    Leaf(Cached),
}

pub struct Iotlb {
    raw: Raw,
    root: u64,
    /// An invalidation drops the levels only that it names, as range invalidations with a level may.
    by_level: bool,
    /// Live leaves may change their size.
    live: bool,
    random: Random,
    leaves: BTreeSet<Cached>,
    uppers: BTreeSet<Upper>,
    /// Where addresses may lead.
    allowed: Vec<Flat>,
    /// Addresses that it looks at when anything is stored.
    pub interest: Vec<u64>,
    /// An address that must lead somewhere all the time, and was found to lead nowhere.
    refused: Option<u64>,
    /// The map by which addresses lead somewhere all the time.
    steady: Option<Flat>,
    /// Stores seen.
    stores: u64,
    /// Devices write to what is of interest as well.
    pub writing: bool,
    /// Addresses through which they did, and hardware had to note it.
    pub writes: Vec<u64>,
    /// Entries dropped for each kind, so that a test in which nothing was cached fails.
    pub dropped_leaves: usize,
    pub dropped_uppers: usize,
}

impl Iotlb {
    pub fn new<K: Kind>(raw: Raw, root: PhysAddr, by_level: bool, random: Random) -> Self {
        Self {
            raw,
            root: root.get(),
            by_level,
            live: K::F::resizes_live(K::options()),
            random,
            leaves: BTreeSet::new(),
            uppers: BTreeSet::new(),
            allowed: vec![Flat::default()],
            interest: Vec::new(),
            refused: None,
            steady: None,
            stores: 0,
            writing: false,
            writes: Vec::new(),
            dropped_leaves: 0,
            dropped_uppers: 0,
        }
    }

    /// From now on addresses may also lead where `flat` says.
    pub fn allow(&mut self, flat: &Flat) {
        if self.allowed.last() != Some(flat) {
            self.allowed.push(flat.clone());
        }
    }

    /// From now on addresses lead where `flat` says and nowhere else.
    pub fn allow_only(&mut self, flat: &Flat) {
        self.allowed = vec![flat.clone()];
    }

    /// From now on what is mapped in `flat` must not lead nowhere.
    pub fn expect_steady(&mut self, flat: &Flat) {
        (self.steady, self.refused) = (Some(flat.clone()), None);
    }

    /// The end of that. Gives an address that led nowhere for a moment.
    pub fn end_steady(&mut self) -> Option<u64> {
        self.steady = None;
        self.refused.take()
    }

    /// Last address that a table of `level` translates which begins at `iova`.
    fn last(&self, upper: Upper) -> u64 {
        let size = if upper.level == self.raw.levels { self.raw.top() } else { self.raw.entry_size(upper.level + 1) };
        upper.iova + (size - 1)
    }

    fn read(memory: &TestMemory, table: u64, index: u64) -> u64 {
        let address = PhysAddr::new(table + 8 * index);
        assert!(memory.is_allocated(address), "hardware walks the table {table:#x}, which was freed");
        memory.device_read64(address).unwrap()
    }

    /// Walks from `start` to `at`, and remembers what it comes by.
    fn walk(&mut self, memory: &TestMemory, start: Upper, at: u64) -> Answer {
        let Upper { mut table, mut level, .. } = start;
        loop {
            let size = self.raw.entry_size(level);
            let index = at / size % self.raw.entries(level);
            let entry = Self::read(memory, table, index);
            match self.raw.entry(entry, level).unwrap() {
                Entry::Nothing => return Answer::Nothing,
                Entry::Table(next) => {
                    (table, level) = (next, level - 1);
                    self.uppers.insert(Upper { iova: at & !(size - 1), level, table });
                }
                Entry::Leaf(leaf) => {
                    if leaf.grouped {
                        self.check_group(memory, table, index, level, leaf);
                    }
                    return Answer::Leaf(self.remember(leaf, level, at));
                }
            }
        }
    }

    /// Remembers the leaf that translates `at`, alone or for its group.
    fn remember(&mut self, leaf: Single, level: u32, at: u64) -> Cached {
        let one = self.raw.entry_size(level);
        let group = if leaf.grouped { self.raw.group(level) } else { 1 };
        let size = if self.random.one_in(2) { one } else { one * group };
        let before = at % size / one * one;
        let Single { phys, read, write, dirty, grouped } = leaf;
        let cached = Cached { iova: at & !(size - 1), size, phys: phys - before, read, write, dirty, level, grouped };
        if !self.live {
            let last = cached.iova + (size - 1);
            for other in self.leaves.iter().filter(|other| overlaps(other.iova, other.size, cached.iova, last)) {
                let same = other.level == level && other.grouped == grouped;
                let distance = other.phys.wrapping_sub(other.iova);
                let same = same && distance == cached.phys.wrapping_sub(cached.iova);
                assert!(same, "two translations of {at:#x} at once: {other:x?} is still there, and now {cached:x?}");
            }
        }
        self.leaves.insert(cached);
        cached
    }

    /// All entries of a group that are there must be alike: hardware may answer from any of them for all.
    fn check_group(&self, memory: &TestMemory, table: u64, index: u64, level: u32, leaf: Single) {
        let group = self.raw.group(level);
        let first = index / group * group;
        for other in first..first + group {
            let entry = Self::read(memory, table, other);
            let Entry::Leaf(single) = self.raw.entry(entry, level).unwrap() else { continue };
            let phys = leaf.phys.wrapping_add(other.wrapping_sub(index).wrapping_mul(self.raw.entry_size(level)));
            // While a group is cut or merged its entries may be of two sizes, where the unit allows that.
            let same = (single.read, single.write) == (leaf.read, leaf.write) && (single.grouped || self.live);
            assert!(same && single.phys == phys, "a group that is not alike: {single:x?} beside {leaf:x?}");
        }
    }

    /// Where a walk to `at` begins: in the root, or in a table that is remembered.
    fn start(&mut self, at: u64) -> Upper {
        let root = Upper { iova: 0, level: self.raw.levels, table: self.root };
        let known: Vec<_> = self.uppers.iter().filter(|upper| upper.iova <= at && at <= self.last(**upper)).collect();
        match known.len() {
            0 => root,
            _ if self.random.one_in(3) => root,
            count => *known[self.random.below(count as u64) as usize],
        }
    }

    /// Looks where `at` leads, from the root or from a table that is remembered.
    pub fn look(&mut self, memory: &TestMemory, at: u64) {
        if at >= self.raw.top() {
            return;
        }
        let start = self.start(at);
        match self.walk(memory, start, at) {
            Answer::Nothing => {
                if self.steady.as_ref().is_some_and(|steady| steady.get(at).is_some()) {
                    self.refused = Some(at);
                }
            }
            Answer::Leaf(leaf) => {
                let to = (leaf.phys + (at - leaf.iova), leaf.read, leaf.write);
                let allowed = self.allowed.iter().any(|flat| flat.get(at) == Some(to));
                assert!(allowed, "{at:#x} leads to {to:x?}, from {start:x?}, and never was to");
            }
        }
    }

    /// A device writes to `at`, if it may, and hardware notes that in the leaf that it finds, from the root or from a
    /// table that is remembered; unless it remembers that it need not.
    pub fn write(&mut self, memory: &TestMemory, at: u64) {
        let covers = |leaf: &&Cached| overlaps(leaf.iova, leaf.size, at, at);
        if self.random.one_in(2) && self.leaves.iter().filter(covers).any(|leaf| leaf.write && leaf.dirty) {
            return;
        }
        let read = |phys| memory.device_read64(PhysAddr::new(phys));
        let Upper { iova, level, table } = self.start(at);
        let Some(place) = self.raw.locate(&read, Start { table, level, iova }, at).unwrap() else { return };
        let Some(written) = self.raw.written(place.entry, place.level) else { return };
        // Some formats set a bit, some clear one.
        memory.device_or64(PhysAddr::new(place.address), written);
        memory.device_write32(PhysAddr::new(place.address), written as u32);
        self.writes.push(at);
        self.look(memory, at);
    }

    /// Looks at everything of interest.
    pub fn look_around(&mut self, memory: &TestMemory) {
        for at in self.interest.clone() {
            self.look(memory, at);
        }
    }

    /// A store was seen. Looks at something of interest: often, but not always, where there are many.
    fn stored(&mut self, memory: &TestMemory) {
        self.stores += 1;
        if !self.interest.is_empty() && (self.stores % 64 < 24 || self.random.one_in(16)) {
            for _ in 0..3 {
                let at = self.random.pick(&self.interest);
                self.look(memory, at);
            }
            if self.writing {
                let at = self.random.pick(&self.interest);
                self.write(memory, at);
            }
        }
    }

    /// Forgets what `gather` names.
    pub fn invalidate(&mut self, gather: &Gather) {
        let (leaves, uppers) = (self.leaves.len(), self.uppers.len());
        if gather.everything() {
            self.leaves.clear();
            self.uppers.clear();
        }
        for Touched { range, leaves, tables } in gather.touched() {
            let (first, last) = (range.start().get(), range.last().get());
            let by_level = self.by_level;
            self.leaves.retain(|leaf| {
                let named = !by_level || leaves.contains(leaf.level as u8 - 1);
                !(named && overlaps(leaf.iova, leaf.size, first, last))
            });
            if tables.is_empty() {
                continue;
            }
            let kept = self.uppers.iter().copied().filter(|upper| {
                let named = !by_level || tables.contains(upper.level as u8 - 1);
                !(named && upper.iova <= last && first <= self.last(*upper))
            });
            self.uppers = kept.collect();
        }
        self.dropped_leaves += leaves - self.leaves.len();
        self.dropped_uppers += uppers - self.uppers.len();
    }

    /// All that is remembered must be as it stands in the tables now, but for what `pending` gathers are to forget.
    pub fn check_nothing_stale(&self, memory: &TestMemory, pending: &[&Gather]) {
        let read = |phys| memory.device_read64(PhysAddr::new(phys));
        let root = self.raw.root(self.root);
        let pending: Vec<Touched> = pending.iter().flat_map(|gather| gather.touched()).collect();
        let is_pending = |first: u64, last: u64| {
            pending.iter().any(|touched| touched.range.start().get() <= last && first <= touched.range.last().get())
        };
        for leaf in &self.leaves {
            let last = leaf.iova + (leaf.size - 1);
            if is_pending(leaf.iova, last) {
                continue;
            }
            let place = self.raw.locate(&read, root, leaf.iova).unwrap();
            let now = self.raw.walk(&read, root, leaf.iova).unwrap();
            assert!(place.zip(now).is_some_and(|now| self.is_same(leaf, now)), "{leaf:x?} is stale: now {now:x?}");
        }
        for upper in &self.uppers {
            let now = self.table_of(memory, upper.level, upper.iova);
            if !is_pending(upper.iova, self.last(*upper)) {
                assert_eq!(now, Some(upper.table), "{upper:x?} is stale");
            }
        }
        assert_eq!(memory.take_stale_reads(), []);
    }

    /// Whether a remembered leaf is what a walk finds now.
    fn is_same(&self, leaf: &Cached, (place, now): (Place, Leaf)) -> bool {
        let one = self.raw.entry_size(place.level);
        leaf.level == place.level
            && leaf.grouped == (now.group != 1)
            && (leaf.size == now.size || leaf.size == one)
            && leaf.phys == now.phys + (leaf.iova - now.iova)
            && (leaf.read, leaf.write) == (now.read, now.write)
            // For a whole group any of its entries may say that a write was noted.
            && (!leaf.dirty || now.dirty || leaf.size != one)
    }

    /// The table of `level` that translates `at` now.
    fn table_of(&self, memory: &TestMemory, level: u32, at: u64) -> Option<u64> {
        let mut table = self.root;
        for above in (level + 1..=self.raw.levels).rev() {
            let index = at / self.raw.entry_size(above) % self.raw.entries(above);
            let entry = Self::read(memory, table, index);
            let Entry::Table(next) = self.raw.entry(entry, above).unwrap() else { return None };
            table = next;
        }
        Some(table)
    }

    /// How much is remembered.
    pub fn len(&self) -> (usize, usize) {
        (self.leaves.len(), self.uppers.len())
    }
}

fn overlaps(iova: u64, size: u64, first: u64, last: u64) -> bool {
    iova <= last && first <= iova + (size - 1)
}

/// The unit in front of the tables: looks at them at every store, and forgets when it is told to.
pub struct Hardware<'m> {
    pub memory: &'m TestMemory,
    pub iotlb: Arc<Mutex<Iotlb>>,
    pub flushes: usize,
    /// The number of the flush that fails, the first being 0: nothing is forgotten.
    pub fails: Option<usize>,
}

impl<'m> Hardware<'m> {
    /// Starts to look.
    pub fn new(memory: &'m TestMemory, iotlb: Iotlb) -> Self {
        let iotlb = Arc::new(Mutex::new(iotlb));
        let looking = iotlb.clone();
        memory.set_observer(Some(Box::new(move |memory, _| looking.lock().unwrap().stored(memory))));
        Self { memory, iotlb, flushes: 0, fails: None }
    }

    pub fn iotlb(&self) -> MutexGuard<'_, Iotlb> {
        self.iotlb.lock().unwrap()
    }
}

impl Drop for Hardware<'_> {
    fn drop(&mut self) {
        self.memory.set_observer(None);
    }
}

// SAFETY: the hardware has forgotten what the gather names when this returns `Ok`.
unsafe impl Flush for Hardware<'_> {
    fn flush(&mut self, gather: &Gather) -> Result<(), HwError> {
        let number = self.flushes;
        self.flushes += 1;
        let mut iotlb = self.iotlb.lock().unwrap();
        iotlb.look_around(self.memory);
        if self.fails == Some(number) {
            return Err(HwError::TimedOut(Wait::Completion));
        }
        iotlb.invalidate(gather);
        // What it still remembers may lead it to what it just forgot.
        iotlb.look_around(self.memory);
        Ok(())
    }
}

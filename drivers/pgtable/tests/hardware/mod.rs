//! Hardware at work while leaves change: it walks at every store, from the root and from each table that it may have
//! cached the way to, and notes writes in what it finds.
#![allow(dead_code, reason = "each suite is a crate of its own and uses part of this")]

mod inject;
mod kinds;
mod sizes;

pub use inject::*;
pub use kinds::*;
pub use sizes::*;

use crate::common::raw::{Leaf, Start};
use crate::common::unit::Flushed;
use crate::common::{self, Flat, Kind, Page, Unit, iova, memory_for, range, run, scan};
use iommu_core::addr::{IovaRange, PhysAddr};
use iommu_core::hw::{Gather, HwError, Prot, Touched, Transition};
use iommu_hal::WalkerMemory;
use iommu_models::memory::{Snapshot, TestMemory};
use iommu_pgtable::PageTable;
use std::sync::{Arc, Mutex};

/// What the memory behind an address lies above it: aligned for leaves of every size.
pub const ABOVE: u64 = 1 << 40;

pub type Table<K> = PageTable<Arc<TestMemory>, <K as Kind>::F>;

/// One operation.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    Protect(IovaRange, Prot),
    Cut(IovaRange, u64),
    Merge(IovaRange),
}

impl Op {
    pub fn run<K: Kind>(self, table: &mut Table<K>, unit: &mut Unit<'_>) -> Result<Transition, HwError> {
        let mut claim = table.exclusive();
        match self {
            Self::Protect(range, prot) => claim.protect(range, prot, unit),
            Self::Cut(range, largest) => claim.cut(range, largest, unit),
            Self::Merge(range) => claim.merge(range, unit),
        }
    }
}

/// A table, and what it is to map.
pub struct Rig<K: Kind> {
    pub memory: Arc<TestMemory>,
    pub how: WalkerMemory,
    pub table: Table<K>,
    pub flat: Flat,
}

impl<K: Kind> Rig<K> {
    pub fn new(how: WalkerMemory) -> Self {
        let memory = Arc::new(memory_for(how));
        Self { table: K::table_in(memory.clone(), how), memory, how, flat: Flat::default() }
    }

    /// Maps `len` bytes at `at` as large as they go.
    pub fn map(&mut self, at: u64, len: u64, prot: Prot) {
        self.map_to(at, at + ABOVE, len, prot);
    }

    pub fn map_to(&mut self, at: u64, phys: u64, len: u64, prot: Prot) {
        let mut unit = Unit::default();
        self.table.exclusive().map(iova(at), &[run(phys, len)], prot, &mut unit).unwrap();
        self.flat.map(at, &[run(phys, len)], prot);
    }

    /// Maps a range without a hole in which each leaf is larger than the one before it, up to the middle, and smaller
    /// from there.
    pub fn ramp(&mut self, prot: Prot) -> IovaRange {
        let sizes = sizes::<K>();
        let (largest, sum) = (*sizes.last().unwrap(), sizes.iter().sum::<u64>());
        let start = 5 * largest - sum;
        self.map(start, 2 * sum - largest, prot);
        assert_eq!(self.leaves().len(), 2 * sizes.len() - 1);
        range(start, 2 * sum - largest)
    }

    /// The leaves, which must map what they are to map.
    pub fn leaves(&self) -> Vec<Leaf> {
        let leaves = common::leaves_in::<K, _>(&self.memory, &self.table, self.how);
        assert!(self.flat.is_mapped_by(&leaves), "{leaves:x?}");
        leaves
    }

    pub fn tables(&self) -> Vec<Start> {
        scan::<K, _>(&self.memory, &self.table, self.how).1
    }

    pub fn snapshot(&self) -> (Snapshot, usize, usize) {
        (self.memory.snapshot(), self.table.tables(), self.table.retired())
    }

    /// Hardware writes through `at`.
    pub fn write(&self, at: u64) {
        let root = K::RAW.root(self.table.root().get());
        assert!(note_write(&K::RAW, &self.memory, root, at), "a write through {at:#x} was refused");
    }

    /// All that was written through.
    pub fn dirty(&self) -> Vec<IovaRange> {
        let mut all = Vec::new();
        self.table.read_dirty(self.table.geometry().aperture, &mut |range| all.push(range)).unwrap();
        all
    }

    pub fn is_dirty(&self, at: u64) -> bool {
        self.dirty().iter().any(|range| range.contains(iova(at)))
    }

    pub fn run(&mut self, op: Op, unit: &mut Unit<'_>) -> Result<Transition, HwError> {
        op.run::<K>(&mut self.table, unit)
    }

    /// Runs `op`, which leads each address where it leads in `new`. Everything that hardware finds at any store must lead
    /// where it did, or where it is to; nowhere only where entries cannot change live, and the transition says so.
    pub fn watch(&mut self, op: Op, new: Flat) -> (Transition, Vec<Flushed>) {
        let before = self.leaves();
        let old = std::mem::replace(&mut self.flat, new);
        let raw = K::raw(self.how);
        let samples: Vec<(u64, [Option<Page>; 2])> = before
            .iter()
            .flat_map(|leaf| [leaf.iova, leaf.iova + leaf.size / 2, leaf.iova + leaf.size - 1])
            .map(|at| (at, [old.get(at), self.flat.get(at)]))
            .collect();
        let samples = thinned(samples);
        // Groups are never live: their entries allow the same at every moment.
        let groups = before.iter().any(|leaf| leaf.group != 1);
        let hitless = live::<K>() && !(groups && matches!(op, Op::Protect(..)));
        let cached = Arc::new(Mutex::new((self.tables(), false)));
        let seen_by = cached.clone();
        self.memory.set_observer(Some(Box::new(move |memory, _| {
            let read = |phys| memory.device_read64(PhysAddr::new(phys));
            let (starts, blocked) = &mut *seen_by.lock().unwrap();
            for (at, allowed) in &samples {
                for start in starts.iter().filter(|start| holds(&raw, start, *at)) {
                    let seen = raw.walk(&read, *start, *at).unwrap();
                    let seen = seen.map(|leaf| (leaf.phys + (at - leaf.iova), leaf.read, leaf.write));
                    *blocked |= seen.is_none();
                    assert!(seen.is_none() || allowed.contains(&seen), "{at:#x} leads to {seen:x?} from {start:x?}");
                    assert!(!hitless || seen.is_some(), "{at:#x} leads nowhere from {start:x?}");
                }
            }
            assert_eq!(memory.take_stale_reads(), []);
        })));
        let (memory, root, old_leaves) =
            (self.memory.clone(), raw.root(self.table.root().get()), thinned(before.clone()));
        let at_flush = |gather: &Gather| {
            let read = |phys| memory.device_read64(PhysAddr::new(phys));
            for leaf in &old_leaves {
                if gather.ranges().any(|range| range.contains(iova(leaf.iova))) {
                    let seen = raw.walk(&read, root, leaf.iova).unwrap().map(|seen| Leaf { dirty: leaf.dirty, ..seen });
                    assert_ne!(seen, Some(*leaf), "hardware is to forget what it would find again");
                }
            }
            forget_flushed(&raw, &mut cached.lock().unwrap().0, gather);
        };
        let mut unit = Unit { at_flush: Some(Box::new(at_flush)), ..Unit::default() };
        let transition = op.run::<K>(&mut self.table, &mut unit).unwrap();
        self.memory.set_observer(None);
        let asked = std::mem::take(&mut unit.asked);
        drop(unit);
        let blocked = cached.lock().unwrap().1;
        assert!(transition == Transition::ThroughBlocked || !blocked, "blocked, and not said");
        check_gathered::<K>(&before, &self.leaves(), &asked);
        assert_eq!(self.table.retired(), 0);
        (transition, asked)
    }
}

/// Checks that each leaf that is no longer what it was is in a flush, and that nothing else is.
fn check_gathered<K: Kind>(before: &[Leaf], after: &[Leaf], asked: &[Flushed]) {
    let same = |leaf: &Leaf| {
        let there = after.binary_search_by_key(&leaf.iova, |new| new.iova);
        there.is_ok_and(|at| Leaf { dirty: leaf.dirty, ..after[at] } == *leaf)
    };
    for leaf in before {
        let all = range(leaf.iova, leaf.size);
        let level = level::<K>(leaf);
        let mut touched = asked.iter().flat_map(|flushed| &flushed.touched);
        if same(leaf) {
            assert!(!touched.any(|touched| touched.range.overlaps(all)), "{leaf:x?} is as it was: {asked:x?}");
        } else {
            let covers = |touched: &Touched| touched.range.covers(all) && touched.leaves.contains(level);
            assert!(touched.any(covers), "{leaf:x?} has changed: {asked:x?}");
        }
    }
    assert!(asked.iter().all(|flushed| !flushed.everything));
}

//! Random maps, unmaps and flushes, each compared with a flat map of pages and with what raw entries say.

mod common;

use common::raw::Leaf;
use common::{Flat, G1, K4, Kind, M2, iova, range};
use iommu_core::addr::{IovaRange, PhysAddr, PhysExtent};
use iommu_core::hw::{Gather, HwError, Prot};
use iommu_hal::WalkerMemory;
use iommu_models::memory::TestMemory;
use iommu_pgtable::PageTable;
use proptest::prelude::*;
use std::cell::Cell;

for_each_kind!(random_operations_agree_with_a_flat_map_of_pages);

/// Operations in a case, and cases a format.
const OPERATIONS: usize = 150;
const CASES: u32 = 24;

#[derive(Clone, Debug)]
enum Operation {
    /// Window, first page in it, extents as (first page, pages, touching the one before), protection.
    Map(usize, u64, Vec<(u64, u64, bool)>, Prot),
    /// As `Map`, with the allocation after so many failing.
    MapShort(usize, u64, Vec<(u64, u64, bool)>, usize),
    /// Window, first page, pages.
    Unmap(usize, u64, u64),
    /// What number this leaf has, modulo all; how many after it go too.
    UnmapLeaves(usize, usize),
    /// All without a gap around the leaf of this number, modulo all.
    UnmapStretch(usize),
    Flush,
}

/// Page numbers: often the border of a large page.
fn page() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0u64), Just(512), Just(1024), 0..1200u64, 505..520u64]
}

fn pages() -> impl Strategy<Value = u64> {
    prop_oneof![Just(1u64), Just(512), Just(1024), 0..20u64, 500..530u64]
}

fn operation() -> impl Strategy<Value = Operation> {
    let extents = || prop::collection::vec((page(), pages(), any::<bool>()), 1..5);
    let prot = prop_oneof![3 => Just(Prot::READ_WRITE), 2 => Just(Prot::READ), 1 => Just(Prot::WRITE)];
    let window = || 0..8usize;
    prop_oneof![
        8 => (window(), page(), extents(), prot).prop_map(|(w, p, e, prot)| Operation::Map(w, p, e, prot)),
        3 => (window(), page(), extents(), 0..3usize).prop_map(|(w, p, e, n)| Operation::MapShort(w, p, e, n)),
        3 => (window(), page(), pages()).prop_map(|(w, p, n)| Operation::Unmap(w, p, n)),
        2 => (any::<usize>(), 0..600usize).prop_map(|(leaf, n)| Operation::UnmapLeaves(leaf, n)),
        4 => any::<usize>().prop_map(Operation::UnmapStretch),
        1 => Just(Operation::Flush),
    ]
}

/// How often what happened, so that a test that tries nothing fails.
#[derive(Clone, Copy, Default, Debug)]
struct Tally {
    mapped: usize,
    overlapped: usize,
    out_of_memory: usize,
    unmapped: usize,
    holes: usize,
    split: usize,
    tables_freed: usize,
}

/// A table, the oracle beside it, and what was unmapped since the last flush.
struct Rig<'m, K: Kind> {
    memory: &'m TestMemory,
    table: PageTable<&'m TestMemory, K::F>,
    flat: Flat,
    gather: Gather,
    tally: Tally,
}

impl<'m, K: Kind> Rig<'m, K> {
    /// Leaves as a device walks to them.
    fn leaves(&self) -> Vec<Leaf> {
        let read = |phys| self.memory.device_read64(PhysAddr::new(phys));
        let (leaves, tables) = K::RAW.scan(&read, K::RAW.root(self.table.root().get())).unwrap();
        assert_eq!(tables.len(), self.table.tables());
        assert_eq!(self.memory.in_use(), tables.len() + self.table.retired());
        assert_eq!(self.memory.take_stale_reads(), []);
        leaves
    }

    fn map(&mut self, start: u64, extents: &[PhysExtent], prot: Prot, may_fail: bool) {
        let len = extents.iter().map(|extent| extent.len).sum::<u64>();
        let top = 1u64 << K::INPUT_BITS;
        let taken = self.flat.0.range(start..start + len).next();
        let expected = match taken {
            _ if !prot.read && !K::RAW.has_write_only() => Err(HwError::Protection(prot)),
            _ if len == 0 => Ok(()),
            _ if start + len > top => Err(HwError::OutOfRange { iova: iova(start), len }),
            Some((page, _)) => Err(HwError::AlreadyMapped { iova: iova(*page) }),
            None => Ok(()),
        };
        let before = self.memory.snapshot();
        let result = self.table.map(iova(start), extents, prot);
        if !(may_fail && expected.is_ok() && result == Err(HwError::OutOfMemory)) {
            assert_eq!(result, expected);
        }
        match result {
            Ok(()) => {
                self.tally.mapped += 1;
                self.flat.map(start, extents, prot);
            }
            Err(error) => {
                self.tally.overlapped += usize::from(matches!(error, HwError::AlreadyMapped { .. }));
                self.tally.out_of_memory += usize::from(error == HwError::OutOfMemory);
                assert!(self.memory.snapshot() == before);
            }
        }
    }

    fn unmap(&mut self, range: IovaRange, before: &[Leaf]) {
        let (start, last) = (range.start().get(), range.last().get());
        // The lowest address that stands in the way, from the leaves that a raw walk finds.
        let mut at = start;
        let mut expected = Ok(());
        let mut gone = before.iter().filter(|leaf| leaf.iova <= last && start < leaf.iova + leaf.size);
        while at <= last {
            match gone.next() {
                Some(leaf) if leaf.iova < start || leaf.iova == at && leaf.iova + leaf.size - 1 > last => {
                    expected = Err(HwError::SplitsLeaf { iova: iova(leaf.iova), size: leaf.size });
                    break;
                }
                Some(leaf) if leaf.iova == at => at += leaf.size,
                _ => {
                    expected = Err(HwError::NotMapped { iova: iova(at) });
                    break;
                }
            }
        }
        if last >> K::INPUT_BITS != 0 {
            expected = Err(HwError::OutOfRange { iova: iova(start), len: last - start + 1 });
        }
        let memory = self.memory.snapshot();
        let tables = self.table.tables();
        let freed = self.table.retired();
        let result = self.table.unmap(range, &mut self.gather);
        assert_eq!(result, expected, "{range}");
        if let Err(error) = result {
            self.tally.holes += usize::from(matches!(error, HwError::NotMapped { .. }));
            self.tally.split += usize::from(matches!(error, HwError::SplitsLeaf { .. }));
            assert!(self.memory.snapshot() == memory);
            return;
        }
        self.tally.unmapped += 1;
        self.tally.tables_freed += tables - self.table.tables();
        self.flat.unmap(range);
        assert_eq!(self.table.retired() - freed, tables - self.table.tables());
        assert!(self.gather.tables_changed() || self.table.retired() == 0);
        for leaf in before.iter().filter(|leaf| range.contains(iova(leaf.iova))) {
            let whole = common::range(leaf.iova, leaf.size);
            assert!(self.gather.ranges().any(|held| held.covers(whole)), "{whole} is in no range");
            assert!(self.gather.levels().contains(leaf.size.ilog2() as u8 / 9 - 1));
        }
    }

    fn flush(&mut self) {
        // SAFETY: the walker of this test holds nothing between two steps.
        unsafe { self.table.free_gathered(&mut self.gather) };
        self.gather.clear();
    }

    fn compare(&self, leaves: &[Leaf]) {
        assert!(self.flat.is_mapped_by(leaves), "the tables are not what the oracle says");
        // Both ends of every stretch without a gap, and what lies beside them.
        for (at, leaf) in leaves.iter().enumerate() {
            let end = leaf.iova + leaf.size;
            if at == 0 || leaves[at - 1].iova + leaves[at - 1].size != leaf.iova {
                self.compare_at(leaf.iova.wrapping_sub(1), None);
                self.compare_at(leaf.iova, Some(leaf));
            }
            if leaves.get(at + 1).is_none_or(|next| next.iova != end) {
                self.compare_at(end - 1, Some(leaf));
                self.compare_at(end, None);
            }
        }
    }

    fn compare_at(&self, at: u64, leaf: Option<&Leaf>) {
        let seen = self.table.translate(iova(at)).map(|to| (to.phys.get(), to.page_size, to.prot.read, to.prot.write));
        let expected = leaf.map(|leaf| (leaf.phys + at - leaf.iova, leaf.size, leaf.read, leaf.write));
        assert_eq!(seen, expected, "{at:#x}");
    }
}

fn extents(parts: &[(u64, u64, bool)]) -> Vec<PhysExtent> {
    let mut end = 0;
    let place = |&(page, pages, touching): &(u64, u64, bool)| {
        let start = if touching { end } else { 0x40_0000_0000 + page * K4 };
        end = start + pages * K4;
        PhysExtent::new(PhysAddr::new(start), pages * K4)
    };
    parts.iter().map(place).collect()
}

/// Whether no gap is between the leaf at `at` and the next one.
fn touch(at: usize, leaves: &[Leaf]) -> bool {
    leaves[at].iova + leaves[at].size == leaves[at + 1].iova
}

/// From the start of one leaf to the end of another.
fn whole(leaves: &[Leaf], first: usize, last: usize) -> IovaRange {
    range(leaves[first].iova, leaves[last].iova + leaves[last].size - leaves[first].iova)
}

fn run_case<K: Kind>(operations: &[Operation], non_coherent: bool, tally: Tally) -> Tally {
    let (memory, how) = match non_coherent {
        true => (common::non_coherent(), WalkerMemory::NonCoherent),
        false => (common::memory(), WalkerMemory::Coherent),
    };
    // From 2 MiB below borders on: of entries of every level, and the top.
    let root_entry = 1u64 << (12 + 9 * (K::LEVELS - 1));
    let borders = [M2, 3 * G1, root_entry, (1 << K::INPUT_BITS) - M2, M2 + 5 * G1, 9 * G1, 2 * root_entry, 13 * G1];
    let windows = borders.map(|border| border - M2);
    let table = K::table_in(&memory, how);
    let mut rig = Rig::<K> { memory: &memory, table, flat: Flat::default(), gather: Gather::new(), tally };
    let mut leaves = Vec::new();
    for (step, operation) in operations.iter().enumerate() {
        let reads_leaves = !matches!(operation, Operation::Map(..) | Operation::MapShort(..));
        if reads_leaves || step % 8 == 0 {
            leaves = rig.leaves();
            rig.compare(&leaves);
        }
        match operation {
            Operation::Map(window, page, parts, prot) => {
                rig.map(windows[*window] + page * K4, &extents(parts), *prot, false);
            }
            Operation::MapShort(window, page, parts, allocations) => {
                memory.fail_after(*allocations);
                rig.map(windows[*window] + page * K4, &extents(parts), Prot::READ, true);
                memory.fail_never();
            }
            Operation::Unmap(window, page, pages) => {
                rig.unmap(range(windows[*window] + page * K4, (pages + 1) * K4), &leaves);
            }
            Operation::UnmapLeaves(first, more) if !leaves.is_empty() => {
                let first = first % leaves.len();
                let last = (first..leaves.len() - 1).take(*more).find(|at| !touch(*at, &leaves));
                rig.unmap(whole(&leaves, first, last.unwrap_or(leaves.len().min(first + more + 1) - 1)), &leaves);
            }
            Operation::UnmapStretch(leaf) if !leaves.is_empty() => {
                let leaf = leaf % leaves.len();
                let first = (0..leaf).rev().find(|at| !touch(*at, &leaves)).map_or(0, |before| before + 1);
                let last = (leaf..leaves.len() - 1).find(|at| !touch(*at, &leaves)).unwrap_or(leaves.len() - 1);
                rig.unmap(whole(&leaves, first, last), &leaves);
            }
            Operation::UnmapLeaves(..) | Operation::UnmapStretch(_) | Operation::Flush => rig.flush(),
        }
    }
    rig.flush();
    rig.compare(&rig.leaves());
    let tally = rig.tally;
    drop(rig);
    assert_eq!(memory.in_use(), 0);
    memory.check_freed();
    tally
}

fn random_operations_agree_with_a_flat_map_of_pages<K: Kind>() {
    let config = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
    let strategy = (prop::collection::vec(operation(), OPERATIONS), any::<bool>());
    let tally = Cell::new(Tally::default());
    proptest!(config, |((operations, non_coherent) in strategy)| {
        tally.set(run_case::<K>(&operations, non_coherent, tally.get()));
    });
    let Tally { mapped, overlapped, out_of_memory, unmapped, holes, split, tables_freed } = tally.get();
    let least = [mapped, overlapped, out_of_memory, unmapped, holes, split, tables_freed].into_iter().min();
    assert!(least >= Some(5) && mapped >= 300 && unmapped >= 300, "{:?}", tally.get());
}

//! Real threads: each works on ranges of its own that share tables with those of the others, and compares with an oracle
//! of its own.

use crate::actions::{Owner, Places};
use crate::common::{self, Flat, Kind, Unit, iova, range, run};
use crate::oracle::{self, Oracle, Random};
use crate::{find, page_at, parts};
use iommu_core::addr::IovaRange;
use iommu_core::hw::{Gather, HwError, Prot};
use iommu_hal::{Hal, WalkerMemory};
use iommu_models::memory::TestMemory;
use iommu_pgtable::{Claim, PageTable};
use std::cell::Cell;
use std::sync::Barrier;

const THREADS: usize = 4;

/// Ranges side by side that share tables: pages in one leaf table and across a border of two; large leaves on both sides
/// of a border between two tables above; more of them.
fn shared_ranges<K: Kind>() -> Vec<IovaRange> {
    let far = if 3 * K::HUGE <= K::TOP { 2 * K::HUGE } else { K::TOP / 2 };
    let neighbours = |start: u64, len: u64| (0..THREADS as u64).map(move |n| range(start + n * len, len));
    let pages = neighbours(3 * K::LARGE - 10 * K::PAGE, 5 * K::PAGE);
    let large = neighbours(far - 2 * K::LARGE, K::LARGE);
    let more = neighbours(far + 8 * K::LARGE, 2 * K::LARGE + 3 * K::PAGE);
    pages.chain(large).chain(more).collect()
}

/// A range of its own, and what is to be there.
struct Part {
    owner: Owner<'static>,
    places: Places,
    random: Random,
}

impl Part {
    fn new<K: Kind>(range: IovaRange, number: usize) -> Self {
        let (first, last) = oracle::ends(range);
        let dirty = if K::RAW.tracked { 3 } else { 0 };
        Self {
            owner: Owner::new::<K>(None),
            places: Places {
                borders: vec![first, last + 1, (first + (last - first) / 2) & !(K::PAGE - 1)],
                within: range,
                weights: [20, 12, 4, 5, 5, dirty, dirty, 0, 3],
                recent: Cell::new(None),
            },
            random: Random(number as u64),
        }
    }

    fn act<K: Kind, H: Hal>(&mut self, claim: &mut Claim<'_, H, K::F>, operations: usize) {
        for _ in 0..operations {
            let action = self.places.action::<K>(&self.owner.oracle, &mut self.random);
            self.owner.act(&action, claim, &mut Unit::default(), false);
            self.owner.compare_around(claim, &action);
        }
    }
}

pub fn owners_of_disjoint_ranges_work_side_by_side<K: Kind>() {
    let rounds = if K::ENTRIES == 512 { 12 } else { 3 };
    for how in K::memories() {
        let memory = common::memory_for(*how);
        let mut table = K::table_in(&memory, *how);
        let ranges = shared_ranges::<K>();
        let mut owners: Vec<Part> = (0..).zip(&ranges).map(|(number, range)| Part::new::<K>(*range, number)).collect();
        for round in 0..rounds {
            let claims = parts(table.exclusive(), &ranges);
            let mut hands: Vec<Vec<_>> = (0..THREADS).map(|_| Vec::new()).collect();
            for (number, work) in claims.into_iter().zip(&mut owners).enumerate() {
                hands[number % THREADS].push(work);
            }
            std::thread::scope(|scope| {
                for mut work in hands {
                    scope.spawn(move || {
                        for turn in 0..24 {
                            let (claim, part) = &mut work[turn % 3];
                            part.act::<K, _>(claim, 5);
                        }
                    });
                }
            });
            memory.take_maintenance();
            check_all::<K>(&memory, &table, *how, &owners);
            if round % 2 == 1 {
                clear::<K>(&mut table, &mut owners);
            }
        }
        for part in &mut owners {
            let gather = &mut part.owner.gather;
            common::flush::<K, _>(&table, gather);
        }
        assert_eq!(table.retired(), 0);
        drop(table);
        assert_eq!(memory.in_use(), 0);
        memory.check_freed();
    }
}

/// Compares all that stands in the table with the oracles of all owners.
fn check_all<K: Kind>(memory: &TestMemory, table: &PageTable<&TestMemory, K::F>, how: WalkerMemory, parts: &[Part]) {
    let leaves = common::leaves_in::<K, _>(memory, table, how);
    let mut all = Oracle::new::<K>();
    for part in parts {
        all.leaves.extend(part.owner.oracle.leaves.iter().map(|(at, cell)| (*at, *cell)));
    }
    assert!(all.is_mapped_by(&leaves), "the leaves are others than those of the oracles");
}

/// Unmaps all, and takes the tables out, so that they are put in anew.
fn clear<K: Kind>(table: &mut PageTable<&TestMemory, K::F>, parts: &mut [Part]) {
    let mut claim = table.exclusive();
    for part in parts.iter_mut() {
        for (at, cell) in std::mem::take(&mut part.owner.oracle.leaves) {
            claim.unmap(range(at, cell.size), &mut part.owner.gather, &mut |_| ()).unwrap();
        }
        part.owner.flat = Flat::default();
    }
    let sizes = K::sizes();
    let size = if sizes.contains(&K::HUGE) { K::HUGE } else { K::LARGE };
    let mut gather = Gather::new();
    for border in (0..).map(|n| n * size).take_while(|at| at + size <= K::TOP).take(4) {
        let whole = range(border, size);
        claim.map(iova(border), &[run(border, size)], Prot::READ, &mut Unit::default()).unwrap();
        claim.unmap(whole, &mut gather, &mut |_| ()).unwrap();
    }
    common::flush::<K, _>(table, &mut gather);
}

/// Threads that map at the same moment, below tables that are not there yet: neighbours by the entries of each level.
pub fn neighbours_put_in_the_same_tables_at_once<K: Kind>() {
    for how in K::memories() {
        let memory = common::memory_for(*how);
        let mut lost = 0;
        let rounds = if K::ENTRIES == 512 { 40 } else { 10 };
        for round in 0..rounds * u64::from(K::RAW.levels) {
            let level = 1 + (round % u64::from(K::RAW.levels)) as u32;
            let span = K::RAW.entry_size(level);
            let mut table = K::table_in(&memory, *how);
            let ranges: Vec<_> =
                (0..3).map(|n| range((1 + n) * span, span)).take_while(|range| range.last().get() < K::TOP).collect();
            let short = (round % 5 == 4).then(|| memory.exhaust_after(round as usize % (4 * ranges.len()))).is_some();
            let start = Barrier::new(ranges.len());
            let root = table.root();
            let allocated = memory.allocations();
            let (memory, start) = (&memory, &start);
            let mapped: Vec<_> = std::thread::scope(|scope| {
                let map = |claim: &mut Claim<'_, &TestMemory, K::F>| {
                    let at = claim.range().start().get();
                    start.wait();
                    let mapped = claim.map(iova(at), &[page_at::<K>(at)], Prot::READ, &mut Unit::default());
                    let found = find::<K>(memory, root, *how, at);
                    assert_eq!(found.is_some(), mapped.is_ok(), "{at:#x} for hardware: {found:x?}");
                    mapped
                };
                let claims = parts(table.exclusive(), &ranges).into_iter();
                let threads: Vec<_> = claims.map(|mut claim| scope.spawn(move || map(&mut claim))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            memory.fail_never();
            lost += memory.allocations() - allocated - (table.tables() - 1);
            let mut flat = Flat::default();
            for (range, mapped) in ranges.iter().zip(mapped) {
                assert!(mapped.is_ok() || short && mapped == Err(HwError::OutOfMemory), "{mapped:?}");
                let at = range.start().get();
                if mapped.is_ok() {
                    flat.map(at, &[page_at::<K>(at)], Prot::READ);
                }
            }
            assert!(flat.is_mapped_by(&common::leaves_in::<K, _>(memory, &table, *how)));
            drop(table);
            assert_eq!(memory.in_use(), 0);
        }
        println!("{lost} tables were not needed, because another thread came first");
    }
}

//! The Nth allocation of an operation fails, for every N up to the one from which it succeeds: nothing has changed. And
//! the Nth flush: no address leads anywhere else than before, and nothing is reused that hardware may still walk.

mod common;
#[path = "common/iotlb.rs"]
mod iotlb;
#[path = "common/live.rs"]
mod live;
#[path = "common/oracle.rs"]
mod oracle;

use common::{Flat, Kind, Unit, iova, range, run};
use iommu_core::addr::{IovaRange, PhysExtent};
use iommu_core::hw::{Gather, HwError, Prot};
use iommu_hal::WalkerMemory;
use iommu_models::memory::TestMemory;
use iommu_pgtable::{Claim, Flush, PageTable};
use iotlb::{Hardware, Iotlb};
use oracle::{Oracle, Random};

for_each_kind!(any_allocation_that_fails_changes_nothing, any_flush_that_fails_leads_nowhere_else);
for_each_live_kind!(any_allocation_that_fails_changes_nothing, any_flush_that_fails_leads_nowhere_else);

/// How many allocations there are at most in what is tried here.
const MOST: usize = 3000;

/// One operation that may need memory, or a flush, and what was mapped before.
#[derive(Clone, Debug)]
enum Operation {
    Map(u64, Vec<PhysExtent>),
    Cut(IovaRange, u64),
    Protect(IovaRange, Prot),
    Merge(IovaRange),
}

struct Case {
    before: Vec<(u64, PhysExtent)>,
    /// Mapped and unmapped again, page by page, so that empty tables stand there.
    emptied: Vec<u64>,
    operation: Operation,
    after: Flat,
}

impl Case {
    fn new(before: &[(u64, PhysExtent)], emptied: &[u64], operation: Operation) -> Self {
        let mut after = Flat::default();
        for (at, extent) in before {
            after.map(*at, &[*extent], Prot::READ_WRITE);
        }
        match &operation {
            Operation::Map(at, extents) => after.map(*at, extents, Prot::READ_WRITE),
            Operation::Protect(range, prot) => after.protect(*range, *prot),
            Operation::Cut(..) | Operation::Merge(_) => {}
        }
        Self { before: before.to_vec(), emptied: emptied.to_vec(), operation, after }
    }

    /// A table as it is before the operation.
    fn table<'m, K: Kind>(&self, memory: &'m TestMemory, how: WalkerMemory) -> PageTable<&'m TestMemory, K::F> {
        let mut table = K::table_in(memory, how);
        for at in &self.emptied {
            common::map::<K, _>(&mut table, *at, &[run(0, K::PAGE)], Prot::READ).unwrap();
            let mut gather = Gather::new();
            common::unmap::<K, _>(&mut table, range(*at, K::PAGE), &mut gather).unwrap();
        }
        for (at, extent) in &self.before {
            common::map::<K, _>(&mut table, *at, &[*extent], Prot::READ_WRITE).unwrap();
        }
        table
    }

    fn flat_before(&self) -> Flat {
        let mut flat = Flat::default();
        self.before.iter().for_each(|(at, extent)| flat.map(*at, &[*extent], Prot::READ_WRITE));
        flat
    }

    fn run<K: Kind>(&self, claim: &mut Claim<'_, &TestMemory, K::F>, unit: &mut dyn Flush) -> Result<(), HwError> {
        match &self.operation {
            Operation::Map(at, extents) => claim.map(iova(*at), extents, Prot::READ_WRITE, unit),
            Operation::Cut(range, largest) => claim.cut(*range, *largest, unit).map(|_| ()),
            Operation::Protect(range, prot) => claim.protect(*range, *prot, unit).map(|_| ()),
            Operation::Merge(range) => claim.merge(*range, unit).map(|_| ()),
        }
    }
}

/// Leaves of the sizes that there are, the largest not too large to be cut to pages.
fn cases<K: Kind>() -> Vec<Case> {
    let (page, large, top) = (K::PAGE, K::LARGE, K::TOP);
    let map = |at, extents: &[PhysExtent]| Operation::Map(at, extents.to_vec());
    let mut cases = vec![
        // One page into nothing, and into what is there but for one table.
        Case::new(&[], &[], map(5 * large + page, &[run(page, page)])),
        Case::new(&[(0, run(0, page))], &[], map(5 * large + page, &[run(page, page)])),
        // Both sides of a border; at the top.
        Case::new(&[], &[], map(3 * large - page, &[run(page, 2 * page)])),
        Case::new(&[], &[], map(top - 2 * large - page, &[run(8 * large - page, 2 * large + page)])),
        // Several runs, some of which touch, one empty.
        Case::new(
            &[],
            &[],
            map(
                large - 3 * page,
                &[run(0, 2 * page), run(2 * page, page), run(77 * page, 0), run(large, large), run(9 * page, 2 * page)],
            ),
        ),
        // Large leaves with pages before and after, of which one goes where an empty table stands.
        Case::new(
            &[(6 * large + 2 * page, run(page, page))],
            &[3 * large + 9 * page],
            map(2 * large - page, &[run(9 * large - page, 4 * large + 2 * page)]),
        ),
        // Nothing but pages for some tables.
        Case::new(&[], &[large], map(page, &[run(0, 3 * large)])),
        // A leaf to pages; a page out of several leaves; both ends of two leaves.
        Case::new(&[(4 * large, run(0, large))], &[], Operation::Cut(range(4 * large, large), page)),
        Case::new(&[(4 * large, run(0, 4 * large))], &[], Operation::Cut(range(6 * large + page, page), page)),
        Case::new(&[(4 * large, run(0, 2 * large))], &[], Operation::Cut(range(5 * large - page, 2 * page), page)),
        // Pages, groups and a large leaf; what leads to what follows.
        Case::new(
            &[(large - 40 * page, run(large - 40 * page, 2 * large))],
            &[],
            Operation::Protect(range(large - 40 * page, 2 * large), Prot::READ),
        ),
        // What can be merged to some leaves of several sizes.
        Case::new(
            &[(large - page, run(3 * large - page, page)), (2 * large, run(4 * large, large / 2))]
                .into_iter()
                .chain(pieces(large, 3 * large, large, page))
                .chain(pieces(5 * large / 2, 9 * large / 2, large / 2, page))
                .collect::<Vec<_>>(),
            &[],
            Operation::Merge(range(0, 4 * large)),
        ),
    ];
    // A huge leaf, through all levels, and several tables in its way.
    let huge = K::HUGE;
    if K::sizes().contains(&huge) {
        cases.push(Case::new(&[(huge, run(0, huge))], &[], Operation::Cut(range(huge + 7 * large, page), page)));
        cases.push(Case::new(
            &[],
            &[huge, huge + 3 * large, 3 * huge],
            map(huge - page, &[run(5 * huge - page, 3 * huge)]),
        ));
    }
    cases
}

/// `len` bytes in two halves, so that no leaf of all of it is made.
fn pieces(at: u64, phys: u64, len: u64, page: u64) -> [(u64, PhysExtent); 2] {
    let half = (len / 2) & !(page - 1);
    [(at, run(phys, half)), (at + half, run(phys + half, len - half))]
}

/// The leaves that there are to be in the end.
fn oracle<K: Kind>(case: &Case) -> Oracle {
    let mut oracle = Oracle::new::<K>();
    case.before.iter().for_each(|(at, extent)| oracle.map(*at, &[*extent], Prot::READ_WRITE));
    match &case.operation {
        Operation::Map(at, extents) => oracle.map(*at, extents, Prot::READ_WRITE),
        Operation::Cut(range, largest) => oracle.cut(*range, *largest),
        Operation::Protect(range, prot) => oracle.protect(*range, *prot),
        Operation::Merge(range) => _ = oracle.merge(*range),
    }
    oracle
}

fn any_allocation_that_fails_changes_nothing<K: Kind>() {
    let mut failures = 0;
    for how in K::memories() {
        let memory = common::memory_for(*how);
        memory.exhaust_after(0);
        assert_eq!(PageTable::<_, K::F>::new(&memory, K::config(*how)).err(), Some(HwError::OutOfMemory));
        assert_eq!((memory.in_use(), memory.failures()), (0, 1));
        for (number, case) in cases::<K>().iter().enumerate() {
            // The one allocation, or all from it on.
            for all in [false, true] {
                failures += fail_each::<K>(case, *how, all, number);
            }
        }
    }
    println!("{failures} failed");
    assert!(failures >= 30);
}

fn fail_each<K: Kind>(case: &Case, how: WalkerMemory, all: bool, number: usize) -> usize {
    let memory = common::memory_for(how);
    let mut table = case.table::<K>(&memory, how);
    let (before, in_use) = (memory.snapshot(), memory.in_use());
    let mut nth = 0;
    loop {
        match all {
            true => memory.exhaust_after(nth),
            false => memory.fail_after(nth),
        }
        let mut unit = Unit::default();
        let (allocations, failed) = (memory.allocations(), memory.failures());
        let result = case.run::<K>(&mut table.exclusive(), &mut unit);
        let failed = memory.failures() - failed;
        memory.fail_never();
        if result.is_ok() {
            assert_eq!(failed, 0, "an allocation failed, and that was not told");
            break;
        }
        assert_eq!((result, failed), (Err(HwError::OutOfMemory), 1), "case {number}, allocation {nth}");
        assert_eq!(memory.allocations() - allocations, nth + 1, "it went on after a failure");
        assert_eq!((memory.in_use(), unit.flushes), (in_use, 0));
        assert!(memory.snapshot() == before, "case {number}, allocation {nth}: memory has changed");
        nth += 1;
        assert!(nth < MOST);
    }
    let leaves = common::leaves_in::<K, _>(&memory, &table, how);
    assert!(oracle::<K>(case).is_mapped_by(&leaves), "case {number}: {leaves:x?}");
    assert!(case.after.is_mapped_by(&leaves));
    let needs_none = matches!(case.operation, Operation::Protect(..) | Operation::Merge(_));
    assert!(needs_none || nth != 0, "case {number} needed no memory");
    drop(table);
    assert_eq!(memory.in_use(), 0);
    memory.check_freed();
    nth
}

fn any_flush_that_fails_leads_nowhere_else<K: Kind>() {
    let mut failures = 0;
    for how in K::memories() {
        for (number, case) in cases::<K>().iter().enumerate() {
            let mut nth = 0;
            while fail_flush::<K>(case, *how, nth, number) {
                failures += 1;
                // Contiguous groups are taken out one by one: not every one of many.
                nth += 1 + nth / 8 * 3;
                assert!(nth < MOST);
            }
        }
    }
    println!("{failures} failed");
    assert!(failures >= 5);
}

/// Whether there was a flush of this number, that failed.
fn fail_flush<K: Kind>(case: &Case, how: WalkerMemory, nth: usize, number: usize) -> bool {
    let memory = common::memory_for(how);
    let mut table = case.table::<K>(&memory, how);
    let before = case.flat_before();
    let mut iotlb = Iotlb::new::<K>(K::raw(how), table.root(), false, Random(nth as u64));
    iotlb.allow(&before);
    iotlb.allow(&case.after);
    iotlb.interest = interest::<K>(case);
    let mut hardware = Hardware::new(&memory, iotlb);
    hardware.iotlb().look_around(&memory);
    hardware.fails = Some(nth);
    let result = case.run::<K>(&mut table.exclusive(), &mut hardware);
    hardware.fails = None;
    let failed = hardware.flushes > nth;
    assert_eq!(result.is_err(), failed, "case {number}, flush {nth}: {result:?}");
    // What hardware was not made to forget is still there, and leads where it led.
    (0..4).for_each(|_| hardware.iotlb().look_around(&memory));
    let leaves = common::leaves_in::<K, _>(&memory, &table, how);
    let now = Flat::of(&leaves);
    match (&case.operation, failed) {
        (_, false) => assert_eq!(now, case.after),
        // Part of it may allow what it is to, the rest what it did.
        (Operation::Protect(..), true) => {
            for (at, page) in addresses::<K>(&leaves) {
                assert!([before.get(at), case.after.get(at)].contains(&Some(page)), "{at:#x}");
            }
            let with = |prot| {
                let mut flat = now.clone();
                flat.protect(IovaRange::FULL, prot);
                flat
            };
            let mut same = before.clone();
            same.protect(IovaRange::FULL, Prot::READ);
            assert_eq!(with(Prot::READ), same);
        }
        (_, true) => assert_eq!(now, before, "case {number}, flush {nth}"),
    }
    if failed && nth.is_multiple_of(2) {
        // Another time.
        case.run::<K>(&mut table.exclusive(), &mut hardware).unwrap();
        let leaves = common::leaves_in::<K, _>(&memory, &table, how);
        assert_eq!(Flat::of(&leaves), case.after);
        if !matches!(case.operation, Operation::Merge(_)) {
            assert!(oracle::<K>(case).is_mapped_by(&leaves), "case {number}: {leaves:x?}");
        }
    } else if failed {
        // Not again: all of it goes.
        let mut gather = Gather::new();
        for (start, run) in now.runs() {
            common::unmap::<K, _>(&mut table, range(start, run.len), &mut gather).unwrap();
        }
        hardware.flush(&gather).unwrap();
        common::flush::<K, _>(&table, &mut gather);
    }
    // Whatever hardware was not made to forget then, it has forgotten now.
    hardware.iotlb().check_nothing_stale(&memory, &[]);
    drop(hardware);
    drop(table);
    assert_eq!(memory.in_use(), 0);
    memory.check_freed();
    failed
}

/// What leaves map at their ends.
fn addresses<K: Kind>(leaves: &[common::raw::Leaf]) -> impl Iterator<Item = (u64, common::Page)> {
    leaves.iter().flat_map(|leaf| {
        [0, leaf.size - K::PAGE].map(|offset| (leaf.iova + offset, (leaf.phys + offset, leaf.read, leaf.write)))
    })
}

/// Addresses close to the borders of what a case is about.
fn interest<K: Kind>(case: &Case) -> Vec<u64> {
    let mut random = Random(9);
    let mut all = Vec::new();
    for (start, run) in case.after.runs() {
        all.extend([start, start + run.len - 1]);
        all.extend((0..6).map(|_| start + random.below(run.len)));
    }
    all
}

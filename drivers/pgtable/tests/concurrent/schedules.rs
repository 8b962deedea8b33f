//! Orders of what CPUs do side by side, as many as a scheduler tries.

use crate::common::{self, ArmFirst4, Flat, Kind, Second4, Unit, iova, range, run};
use crate::oracle::{self, Oracle};
use crate::stepped::{Stepped, explore};
use crate::{COHERENT, NON_COHERENT, find, leaf_table, parts};
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{Gather, HwError, Prot};
use iommu_hal::WalkerMemory;
use iommu_pgtable::{Claim, Removed, SharedTable};
use shuttle::rand::Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Schedules of each scenario.
const PUT_IN: usize = 600;
const RETIRE: usize = 300;
const RESHAPE: usize = 200;
const COLLAPSE: usize = 400;
const SHARED: usize = 600;
const _: () = assert!(6 * PUT_IN + 2 * RETIRE + 2 * RESHAPE + 2 * COLLAPSE + 2 * SHARED >= 2_000);

/// CPUs that map next to each other below tables that are not there yet, each of which must find its pages reachable
/// for hardware when it is done. With `short` memory some of them fail.
fn put_in<K: Kind>(how: WalkerMemory, cpus: u64, short: bool, lost: &AtomicUsize) -> u64 {
    let hal = Stepped::new::<K>(how);
    let mut table = K::table_in(&hal, how);
    let root = table.root();
    let mut random = shuttle::rand::thread_rng();
    let span = K::RAW.entry_size(random.gen_range(1..=K::RAW.levels));
    let ranges: Vec<_> = (0..cpus).map(|cpu| range((1 + cpu) * span, span)).collect();
    if short {
        hal.memory.exhaust_after(random.gen_range(0..u64::from(K::RAW.levels) * cpus) as usize);
    }
    let map = |claim: &mut Claim<'_, &Stepped, K::F>| {
        let at = claim.range().start().get();
        let mapped = claim.map(iova(at), &[run(at, K::PAGE)], Prot::READ_WRITE, &mut Unit::default());
        let found = find::<K>(&hal.memory, root, how, at).map(|leaf| leaf.phys);
        assert_eq!(found, mapped.is_ok().then_some(at), "for hardware, after {mapped:?}");
        mapped
    };
    let mut claims = parts(table.exclusive(), &ranges);
    hal.step();
    let mapped: Vec<_> = shuttle::thread::scope(|scope| {
        let threads: Vec<_> = claims.iter_mut().map(|claim| scope.spawn(|| map(claim))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let order = hal.stop();
    lost.fetch_add(hal.freed(), Ordering::Relaxed);
    hal.memory.fail_never();
    for (claim, mapped) in claims.iter_mut().zip(mapped) {
        assert!(mapped.is_ok() || short && mapped == Err(HwError::OutOfMemory));
        if mapped.is_err() {
            map(claim).unwrap();
        }
    }
    drop(claims);
    let flat = ranges.iter().fold(Flat::default(), |mut flat, range| {
        let at = range.start().get();
        flat.map(at, &[run(at, K::PAGE)], Prot::READ_WRITE);
        flat
    });
    assert!(flat.is_mapped_by(&common::leaves_in::<K, _>(&hal.memory, &table, how)));
    drop(table);
    assert_eq!(hal.memory.in_use(), 0);
    order
}

fn explore_put_in<K: Kind + 'static>(name: &str, how: WalkerMemory, cpus: u64, short: bool) {
    let lost = Arc::new(AtomicUsize::new(0));
    let count = lost.clone();
    explore(name, PUT_IN, move || put_in::<K>(how, cpus, short, &count));
    let lost = lost.load(Ordering::Relaxed);
    println!("{lost} tables were not needed, because another CPU came first");
    assert!(lost >= PUT_IN / 4);
}

#[test]
fn two_cpus_put_in_the_same_tables() {
    explore_put_in::<Second4>("two CPUs put in the same tables", COHERENT, 2, false);
}

#[test]
fn three_cpus_put_in_the_same_tables() {
    explore_put_in::<Second4>("three CPUs put in the same tables", COHERENT, 3, false);
}

#[test]
fn cpus_put_in_tables_that_hardware_does_not_snoop() {
    explore_put_in::<Second4>("two CPUs put in tables, not snooped", NON_COHERENT, 2, false);
    explore_put_in::<ArmFirst4>("three CPUs put in tables, not snooped", NON_COHERENT, 3, false);
}

#[test]
fn cpus_run_out_of_frames() {
    explore_put_in::<Second4>("two CPUs run out of frames", COHERENT, 2, true);
    explore_put_in::<Second4>("three CPUs run out of frames, not snooped", NON_COHERENT, 3, true);
}

/// Unmaps all of its range, which takes the leaf table out; frees that; and again by way of a large leaf.
fn retire<K: Kind>(hal: &Stepped, root: PhysAddr, how: WalkerMemory, claim: &mut Claim<'_, &Stepped, K::F>) {
    let mine = claim.range();
    let at = mine.start().get();
    let frame = leaf_table::<K>(&hal.memory, root, at).unwrap();
    hal.guard(frame);
    let mut gather = Gather::new();
    let mut removed: Vec<Removed> = Vec::new();
    claim.unmap(mine, &mut gather, &mut |run| removed.push(*run)).unwrap();
    assert_eq!((removed.len(), removed[0].extent), (1, run(at + K::PAGE, K::LARGE)));
    assert_eq!(find::<K>(&hal.memory, root, how, at), None);
    assert!(gather.touched().all(|touched| touched.range == mine && touched.tables.contains(0)));
    hal.release(frame);
    // SAFETY: there is no hardware but what `guard` stands for.
    unsafe { claim.free_gathered(&mut gather) };
    assert!(hal.was_freed(frame), "the gather was for this frame, and it is still there");
    gather.clear();
    // A new table, empty again, makes way for a large leaf.
    let page = range(at + 3 * K::PAGE, K::PAGE);
    claim.map(page.start(), &[run(0, K::PAGE)], Prot::READ, &mut Unit::default()).unwrap();
    assert!(find::<K>(&hal.memory, root, how, page.start().get()).is_some());
    claim.unmap(page, &mut gather, &mut |_| ()).unwrap();
    let frame = leaf_table::<K>(&hal.memory, root, at).unwrap();
    hal.guard(frame);
    let mut unit = Unit { at_flush: Some(Box::new(|_| hal.release(frame))), ..Unit::default() };
    claim.map(iova(at), &[run(at, K::LARGE)], Prot::READ, &mut unit).unwrap();
    assert_eq!(unit.flushes, 1);
    let found = find::<K>(&hal.memory, root, how, at).map(|leaf| (leaf.phys, leaf.size));
    assert_eq!(found, Some((at, K::LARGE)));
}

/// CPUs each of which has a large leaf's addresses, below one table; set up by `fill`, worked on by `work`, after which
/// `leaves` are there.
fn side_by_side<K: Kind>(
    how: WalkerMemory,
    cpus: u64,
    fill: impl Fn(u64, &mut Claim<'_, &Stepped, K::F>),
    work: impl Fn(u64, &Stepped, PhysAddr, &mut Claim<'_, &Stepped, K::F>) + Sync,
    leaves: impl Fn(u64, &mut Oracle),
) -> u64 {
    let hal = Stepped::new::<K>(how);
    let mut table = K::table_in(&hal, how);
    let root = table.root();
    let ranges: Vec<_> = (0..cpus).map(|cpu| range((4 + cpu) * K::LARGE, K::LARGE)).collect();
    let mut claims = parts(table.exclusive(), &ranges);
    (0..).zip(&mut claims).for_each(|(cpu, claim)| fill(cpu, claim));
    hal.step();
    shuttle::thread::scope(|scope| {
        for (cpu, claim) in (0..).zip(&mut claims) {
            let (hal, work) = (&hal, &work);
            scope.spawn(move || work(cpu, hal, root, claim));
        }
    });
    let order = hal.stop();
    drop(claims);
    assert_eq!(table.retired(), 0, "every gather was flushed, and tables are still waiting");
    let mut oracle = Oracle::new::<K>();
    (0..cpus).for_each(|cpu| leaves(cpu, &mut oracle));
    assert!(oracle.is_mapped_by(&common::leaves_in::<K, _>(&hal.memory, &table, how)));
    drop(table);
    assert_eq!(hal.memory.in_use(), 0);
    hal.memory.check_freed();
    order
}

/// Pages in all of the claim, of memory that is not aligned, so that they stay pages.
fn fill_with_pages<K: Kind>(claim: &mut Claim<'_, &Stepped, K::F>) {
    let at = claim.range().start();
    claim.map(at, &[run(at.get() + K::PAGE, K::LARGE)], Prot::READ, &mut Unit::default()).unwrap();
}

fn explore_retire<K: Kind + 'static>(name: &str, how: WalkerMemory, cpus: u64) {
    explore(name, RETIRE, move || {
        side_by_side::<K>(
            how,
            cpus,
            |_, claim| fill_with_pages::<K>(claim),
            |_, hal, root, claim| retire::<K>(hal, root, how, claim),
            |cpu, oracle| {
                let at = (4 + cpu) * K::LARGE;
                oracle.map(at, &[run(at, K::LARGE)], Prot::READ);
            },
        )
    });
}

#[test]
fn a_gather_is_freed_while_a_neighbour_retires_tables() {
    explore_retire::<Second4>("two CPUs retire and free", COHERENT, 2);
    explore_retire::<Second4>("three CPUs retire and free, not snooped", NON_COHERENT, 3);
}

/// One CPU cuts its large leaf to pages and merges them again, one merges its pages and cuts what comes of them, and
/// what others have next to that is mapped and unmapped meanwhile.
fn reshape<K: Kind>(cpu: u64, hal: &Stepped, root: PhysAddr, how: WalkerMemory, claim: &mut Claim<'_, &Stepped, K::F>) {
    let mine = claim.range();
    let (first, last) = oracle::ends(mine);
    let check = |size: u64, prot: Prot| {
        for at in [first, last] {
            let found =
                find::<K>(&hal.memory, root, how, at).map(|leaf| (leaf.phys + (at - leaf.iova), leaf.size, leaf.write));
            assert_eq!(found, Some((at, size, prot.write)), "{at:#x}");
        }
    };
    // Each flush is for the frame of this CPU's leaf table, where there is one.
    let unit = || Unit {
        at_flush: Some(Box::new(|_| {
            leaf_table::<K>(&hal.memory, root, first).into_iter().for_each(|frame| hal.release(frame))
        })),
        ..Unit::default()
    };
    for turn in 0..2 {
        if (cpu + turn).is_multiple_of(2) {
            claim.cut(mine, K::PAGE, &mut unit()).unwrap();
            check(K::PAGE, Prot::READ);
            claim.protect(range(first, K::PAGE), Prot::READ, &mut unit()).unwrap();
        } else {
            claim.merge(mine, &mut unit()).unwrap();
            check(K::LARGE, Prot::READ);
        }
        assert_eq!(claim.translate(iova(last)).map(|to| to.phys.get()), Some(last));
    }
}

fn explore_reshape<K: Kind + 'static>(name: &str, how: WalkerMemory) {
    explore(name, RESHAPE, move || {
        side_by_side::<K>(
            how,
            3,
            |cpu, claim| match cpu {
                2 => fill_with_pages::<K>(claim),
                _ => {
                    let at = claim.range().start();
                    claim.map(at, &[run(at.get(), K::LARGE)], Prot::READ, &mut Unit::default()).unwrap();
                    if cpu == 1 {
                        claim.cut(claim.range(), K::PAGE, &mut Unit::default()).unwrap();
                    }
                }
            },
            |cpu, hal, root, claim| match cpu {
                2 => retire::<K>(hal, root, how, claim),
                _ => reshape::<K>(cpu, hal, root, how, claim),
            },
            |cpu, oracle| {
                let at = (4 + cpu) * K::LARGE;
                oracle.map(at, &[run(at, K::LARGE)], Prot::READ);
                if cpu == 1 {
                    oracle.cut(range(at, K::LARGE), K::PAGE);
                }
            },
        )
    });
}

#[test]
fn leaves_are_cut_and_merged_next_to_neighbours() {
    explore_reshape::<Second4>("leaves are cut and merged", COHERENT);
    explore_reshape::<ArmFirst4>("leaves are cut and merged, not snooped", NON_COHERENT);
}

/// One CPU maps a huge leaf where tables without a leaf stand, which go; others put in tables, and map and unmap, below
/// the same table above.
fn collapse<K: Kind>(how: WalkerMemory) -> u64 {
    let hal = Stepped::new::<K>(how);
    let mut table = K::table_in(&hal, how);
    let root = table.root();
    let huge = K::HUGE;
    let ranges: Vec<_> = (1..4).map(|n| range(n * huge, huge)).collect();
    let mut claims = parts(table.exclusive(), &ranges);
    // Two leaf tables, and the one above them.
    let unit = &mut Unit::default();
    let pages = [huge + 5 * K::PAGE, huge + 9 * K::LARGE];
    for at in pages {
        claims[0].map(iova(at), &[run(0, K::PAGE)], Prot::READ, unit).unwrap();
        claims[0].unmap(range(at, K::PAGE), &mut Gather::new(), &mut |_| ()).unwrap();
    }
    let frames = pages.map(|at| leaf_table::<K>(&hal.memory, root, at).unwrap());
    frames.iter().for_each(|frame| hal.guard(*frame));
    hal.step();
    shuttle::thread::scope(|scope| {
        let hal = &hal;
        for (cpu, claim) in claims.iter_mut().enumerate() {
            scope.spawn(move || {
                let at = claim.range().start();
                if cpu == 0 {
                    let look = |gather: &Gather| {
                        assert_eq!(find::<K>(&hal.memory, root, how, pages[0]), None);
                        let named = |level| gather.touched().any(|touched| touched.tables.contains(level));
                        assert!(named(0) && named(1) && gather.ranges().any(|held| held == range(huge, huge)));
                        frames.iter().for_each(|frame| hal.release(*frame));
                    };
                    let mut unit = Unit { at_flush: Some(Box::new(look)), ..Unit::default() };
                    claim.map(at, &[run(0, huge)], Prot::READ, &mut unit).unwrap();
                    assert_eq!(find::<K>(&hal.memory, root, how, 2 * huge - 1).map(|leaf| leaf.size), Some(huge));
                    return;
                }
                let unit = &mut Unit::default();
                let page = range(at.get() + K::LARGE, K::PAGE);
                assert_eq!(claim.translate(at), None);
                claim.map(page.start(), &[run(0, K::PAGE)], Prot::READ, unit).unwrap();
                assert!(find::<K>(&hal.memory, root, how, page.start().get()).is_some());
                if cpu == 2 {
                    let mut gather = Gather::new();
                    claim.unmap(page, &mut gather, &mut |_| ()).unwrap();
                    claim.map(at, &[run(0, huge)], Prot::READ, &mut Unit::default()).unwrap();
                }
            });
        }
    });
    let order = hal.stop();
    drop(claims);
    assert!(frames.iter().all(|frame| hal.was_freed(*frame)));
    assert_eq!(table.retired(), 0);
    let leaves = common::leaves_in::<K, _>(&hal.memory, &table, how);
    let found = leaves.iter().map(|leaf| (leaf.iova, leaf.size));
    assert!(found.eq([(huge, huge), (2 * huge + K::LARGE, K::PAGE), (3 * huge, huge)]));
    drop(table);
    assert_eq!(hal.memory.in_use(), 0);
    hal.memory.check_freed();
    order
}

#[test]
fn a_huge_leaf_replaces_tables_next_to_neighbours() {
    explore("a huge leaf replaces tables", COLLAPSE, || collapse::<Second4>(COHERENT));
    explore("a huge leaf replaces tables, not snooped", COLLAPSE, || collapse::<ArmFirst4>(NON_COHERENT));
}

/// How often each of two outcomes came about, of those that the order decides.
#[derive(Default)]
struct Outcomes {
    mapped_first: AtomicUsize,
    mapped_between: AtomicUsize,
    seen_small: AtomicUsize,
    seen_large: AtomicUsize,
    seen_nothing: AtomicUsize,
}

/// CPUs that come with overlapping ranges of a shared table: one takes a whole table out, frees it and maps a large leaf
/// in its place; one looks up addresses there; one maps and unmaps a page there, and one beside it; one works elsewhere.
fn shared<K: Kind>(how: WalkerMemory, outcomes: &Outcomes) -> u64 {
    let hal = Stepped::new::<K>(how);
    let mut table = K::table_in(&hal, how);
    let root = table.root();
    let (large, page) = (K::LARGE, K::PAGE);
    let (whole, inside, beside) = (range(large, large), range(large + 3 * page, page), range(2 * large, page));
    let small = run(large + page, large);
    table.exclusive().map(whole.start(), &[small], Prot::READ, &mut Unit::default()).unwrap();
    let shared = SharedTable::new(table);
    let count = |outcome: &AtomicUsize| _ = outcome.fetch_add(1, Ordering::Relaxed);
    hal.step();
    shuttle::thread::scope(|scope| {
        let (hal, shared) = (&hal, &shared);
        scope.spawn(move || {
            let frame = leaf_table::<K>(&hal.memory, root, large).unwrap();
            hal.guard(frame);
            let mut gather = Gather::new();
            shared.unmap(whole, &mut gather, &mut |_| ()).unwrap();
            hal.release(frame);
            // SAFETY: there is no hardware but what `guard` stands for.
            unsafe { shared.free_gathered(&mut gather) };
            assert!(hal.was_freed(frame));
            match shared.map(whole.start(), &[run(large, large)], Prot::READ, &mut Unit::default()) {
                Ok(()) => count(&outcomes.mapped_first),
                Err(error) => assert_eq!(error, HwError::AlreadyMapped { iova: inside.start() }),
            }
        });
        scope.spawn(move || {
            for at in [0, 3, 9, 3] {
                let at = large + at * page;
                match shared.translate(iova(at)).map(|to| to.phys.get()) {
                    None => count(&outcomes.seen_nothing),
                    Some(phys) if phys == at => count(&outcomes.seen_large),
                    Some(phys) => {
                        assert_eq!(phys, at + page);
                        count(&outcomes.seen_small);
                    }
                }
            }
        });
        scope.spawn(move || {
            let (unit, mut gather) = (&mut Unit::default(), Gather::new());
            let mapped = shared.map(inside.start(), &[run(large + 3 * page, page)], Prot::READ, unit);
            shared.map(beside.start(), &[run(0, page)], Prot::READ, unit).unwrap();
            assert!(find::<K>(&hal.memory, root, how, 2 * large).is_some());
            match mapped {
                Ok(()) => {
                    count(&outcomes.mapped_between);
                    shared.unmap(inside, &mut gather, &mut |_| ()).unwrap();
                }
                Err(error) => assert_eq!(error, HwError::AlreadyMapped { iova: inside.start() }),
            }
            // SAFETY: as above.
            unsafe { shared.free_gathered(&mut gather) };
            // Half of the large leaf, if it is there, or of its table.
            assert!(shared.split(iova(large + large / 2), unit).is_ok());
        });
        scope.spawn(move || {
            // Shares the tables above, and waits for nobody.
            for at in [4 * large, 4 * large + page, 5 * large] {
                let part = range(at, page);
                shared.map(part.start(), &[run(0, page)], Prot::READ, &mut Unit::default()).unwrap();
                assert!(find::<K>(&hal.memory, root, how, at).is_some());
                shared.unmap(part, &mut Gather::new(), &mut |_| ()).unwrap();
            }
        });
    });
    let order = hal.stop();
    let table = shared.into_inner();
    let leaves = common::leaves_in::<K, _>(&hal.memory, &table, how);
    assert!(leaves.iter().all(|leaf| leaf.phys == leaf.iova || leaf.iova == 2 * large), "{leaves:x?}");
    assert!(leaves.last().is_some_and(|leaf| leaf.iova == 2 * large));
    drop(table);
    assert_eq!(hal.memory.in_use(), 0);
    hal.memory.check_freed();
    order
}

fn explore_shared<K: Kind + 'static>(name: &str, how: WalkerMemory) {
    let outcomes = Arc::new(Outcomes::default());
    let counts = outcomes.clone();
    explore(name, SHARED, move || shared::<K>(how, &counts));
    let Outcomes { mapped_first, mapped_between, seen_small, seen_large, seen_nothing } = &*outcomes;
    let seen = [mapped_first, mapped_between, seen_small, seen_large, seen_nothing];
    let seen = seen.map(|count| count.load(Ordering::Relaxed));
    println!("large leaf, page before it, and looks that found pages, the leaf, nothing: {seen:?}");
    assert!(seen.iter().all(|count| *count >= 10), "{seen:?}");
}

#[test]
fn overlapping_ranges_of_a_shared_table_take_turns() {
    explore_shared::<Second4>("overlapping ranges", COHERENT);
    explore_shared::<ArmFirst4>("overlapping ranges, not snooped", NON_COHERENT);
}

//! Mapping and unmapping, in ever less simple ways.

use crate::common::raw::{Leaf, Start};
use crate::common::{
    Flat, Kind, Unit, assert_translates, flush, frames, greedy, iova, leaves, leaves_in, map, memory, memory_for,
    range, run, scan, shape, side_by_side, staircase, unmap,
};
use iommu_core::addr::{IovaRange, PhysAddr, PhysExtent};
use iommu_core::hw::{Gather, HwError, Prot};
use iommu_hal::{Hal, WalkerMemory};
use iommu_models::memory::TestMemory;
use iommu_pgtable::PageTable;

/// One leaf of each size is mapped, found, and taken out, alone in its table, each way that tables are read.
pub fn map_simple<K: Kind>() {
    for &how in K::memories() {
        for size in K::sizes() {
            let memory = memory_for(how);
            let mut table = K::table_in(&memory, how);
            for (at, phys) in [(0, 0), (size, 5 * size), (K::TOP - size, (1 << 46) - size), (3 * K::LARGEST, 0)] {
                map::<K, _>(&mut table, at, &[run(phys, size)], Prot::READ_WRITE).unwrap();
                let found = leaves_in::<K, _>(&memory, &table, how);
                assert_eq!(shape(&found), [(at, phys, size)]);
                assert!(found[0].read && found[0].write);
                assert_translates::<K, _>(&table, at.wrapping_sub(1), None);
                assert_translates::<K, _>(&table, at, Some(&found[0]));
                assert_translates::<K, _>(&table, at + size - 1, Some(&found[0]));
                assert_translates::<K, _>(&table, at + size, None);
                let mut gather = Gather::new();
                let told = unmap::<K, _>(&mut table, range(at, size), &mut gather).unwrap();
                assert_eq!((told.len(), told[0].iova, told[0].extent), (1, iova(at), run(phys, size)));
                assert_eq!(leaves_in::<K, _>(&memory, &table, how), []);
                assert!(gather.ranges().any(|held| held.covers(range(at, size))));
                flush::<K, _>(&table, &mut gather);
            }
            drop(table);
            assert_eq!(memory.in_use(), 0);
            memory.check_freed();
        }
    }
}

/// The tables that translate nothing outside of `held`.
fn below<K: Kind, H: Hal>(memory: &TestMemory, table: &PageTable<H, K::F>, held: IovaRange) -> Vec<Start> {
    let (_, tables) = scan::<K, H>(memory, table, WalkerMemory::Coherent);
    let inside = |start: &Start| {
        let size = K::RAW.entry_size(start.level) << K::RAW.index_bits;
        start.level < K::RAW.levels && held.covers(range(start.iova, size))
    };
    tables.into_iter().filter(inside).collect()
}

/// A leaf takes the place of tables that hold no leaf: they are taken out, hardware is asked once to forget them, and
/// only then is the leaf there and are their frames free. One leaf among them, wherever it is, and nothing changes. Where
/// hardware does not confirm, nothing leads anywhere else than before, and it can be tried again.
pub fn map_table_to_oa<K: Kind>() {
    for size in K::sizes() {
        let (at, page) = (3 * K::LARGEST, K::PAGE);
        let (held, extent) = (range(at, size), run(9 * K::LARGEST, size));
        // A leaf that is left behind, or not: at the first page, the last, one in the middle.
        for left in [None, Some(0), Some(size / 2 / page * page), Some(size - page)] {
            let memory = memory();
            let mut table = K::table(&memory);
            let mut gather = Gather::new();
            // Tables of every level below, at both ends; a neighbour that keeps its own.
            for inside in [0, size - page] {
                if table.translate(iova(at + inside)).is_none() {
                    map::<K, _>(&mut table, at + inside, &[run(page, page)], Prot::READ).unwrap();
                }
            }
            map::<K, _>(&mut table, at + size, &[run(page, page)], Prot::READ).unwrap();
            for inside in [0, size - page] {
                if table.translate(iova(at + inside)).is_some() {
                    unmap::<K, _>(&mut table, range(at + inside, page), &mut gather).unwrap();
                }
            }
            flush::<K, _>(&table, &mut gather);
            let gone = below::<K, _>(&memory, &table, held);
            assert_eq!(gone.is_empty(), level_of::<K>(size) == 1, "{size:#x}");
            let neighbour = leaves::<K, _>(&memory, &table);
            assert_eq!(shape(&neighbour), [(at + size, page, page)]);
            if let Some(inside) = left {
                map::<K, _>(&mut table, at + inside, &[run(page, page)], Prot::READ).unwrap();
                let before = (memory.snapshot(), memory.allocations());
                let mut unit = Unit::default();
                let refused = table.exclusive().map(iova(at), &[extent], Prot::READ, &mut unit);
                assert_eq!(refused, Err(HwError::AlreadyMapped { iova: iova(at + inside) }), "{size:#x}");
                assert!((memory.snapshot(), memory.allocations()) == before && unit.flushes == 0);
                leaves::<K, _>(&memory, &table);
                continue;
            }
            collapse::<K>(&memory, &mut table, held, extent, &gone);
            let found = leaves::<K, _>(&memory, &table);
            assert_eq!(shape(&found), [(at, extent.start.get(), size), (at + size, page, page)]);
        }
    }
}

/// The level whose entries leaves of this size stand in.
fn level_of<K: Kind>(size: u64) -> u32 {
    (size.ilog2() - K::RAW.page_bits) / K::RAW.index_bits + 1
}

/// Maps `extent` over the tables `gone`, first with hardware that does not confirm.
fn collapse<K: Kind>(
    memory: &TestMemory,
    table: &mut PageTable<&TestMemory, K::F>,
    held: IovaRange,
    extent: PhysExtent,
    gone: &[Start],
) {
    let (tables, retired, in_use) = (table.tables(), gone.len(), memory.in_use());
    let (root, allocations) = (table.root(), memory.allocations());
    let read = |phys| memory.device_read64(PhysAddr::new(phys));
    let nowhere = |at: u64| K::RAW.walk(&read, K::RAW.root(root.get()), at).unwrap().is_none();
    let kept = |start: &Start| memory.is_allocated(PhysAddr::new(start.table));
    let look = |gather: &Gather| {
        // Hardware may still walk them, and the leaf is not there yet.
        assert!(gone.iter().all(kept) && nowhere(held.start().get()) && nowhere(held.last().get()));
        for start in gone {
            let whole = range(start.iova, K::RAW.entry_size(start.level) << K::RAW.index_bits);
            let level = start.level as u8 - 1;
            let named =
                |touched: iommu_core::hw::Touched| touched.range.covers(whole) && touched.tables.contains(level);
            assert!(gather.everything() || gather.touched().any(named), "{start:x?} is not to be forgotten");
        }
    };
    if !gone.is_empty() {
        let mut unit = Unit { at_flush: Some(Box::new(look)), ..Unit::failing(0) };
        let failed = table.exclusive().map(held.start(), &[extent], Prot::READ, &mut unit);
        assert_eq!((failed, unit.flushes), (Err(Unit::ERROR), 1));
        drop(unit);
        assert!(nowhere(held.start().get()) && nowhere(held.last().get()));
        // Hardware never confirmed: the frames stay until the table goes.
        assert!(gone.iter().all(kept));
        assert_eq!((table.tables(), table.retired()), (tables - retired, retired));
        leaves::<K, _>(memory, table);
        // Put up again what stood in the way: hardware is asked to forget everything first, and once.
        let mut unit = Unit::default();
        for start in gone.iter().filter(|start| start.level == 1) {
            table.exclusive().map(iova(start.iova), &[run(0, K::PAGE)], Prot::READ, &mut unit).unwrap();
            unmap::<K, _>(table, range(start.iova, K::PAGE), &mut Gather::new()).unwrap();
        }
        assert!(table.tables() == tables && unit.flushes == 1 && unit.asked[0].everything);
    }
    let gone = below::<K, _>(memory, table, held);
    assert_eq!(gone.len(), retired);
    let kept = |start: &Start| memory.is_allocated(PhysAddr::new(start.table));
    let look = |_: &Gather| assert!(gone.iter().all(kept) && nowhere(held.start().get()));
    let mut unit = Unit { at_flush: Some(Box::new(look)), ..Unit::default() };
    table.exclusive().map(held.start(), &[extent], Prot::READ, &mut unit).unwrap();
    assert_eq!(unit.flushes, usize::from(retired != 0), "once, and only where tables were taken out");
    assert!(!gone.iter().any(kept), "their frames are free");
    // Those of the flush that failed still wait.
    assert_eq!((table.tables(), table.retired()), (tables - retired, retired));
    let expected = if retired != 0 { frames::<K>(tables) } else { in_use };
    assert_eq!(memory.in_use(), expected);
    assert!(retired != 0 || memory.allocations() == allocations);
}

/// Part of a leaf, or of a contiguous group, is not unmapped: the error names the leaf, and nothing changes. With cuts at
/// its first page, its middle, at a single entry of a group, at its last page; alone and with whole leaves beside it.
pub fn unmap_split<K: Kind>() {
    let page = K::PAGE;
    for &how in K::memories() {
        for &size in &K::sizes()[1..] {
            let memory = memory_for(how);
            let mut table = K::table_in(&memory, how);
            let at = 4 * K::LARGEST;
            map::<K, _>(&mut table, at, &[run(8 * K::LARGEST, size)], Prot::READ_WRITE).unwrap();
            map::<K, _>(&mut table, at - 3 * page, &[run(0, 3 * page)], Prot::READ).unwrap();
            map::<K, _>(&mut table, at + size, &[run(0, 3 * page)], Prot::READ).unwrap();
            let found = leaves_in::<K, _>(&memory, &table, how);
            assert_eq!(found.iter().filter(|leaf| leaf.size == size).count(), 1);
            let before = memory.snapshot();
            let mut gather = Gather::new();
            let one = K::RAW.entry_size(level_of::<K>(size)).min(size / 2);
            for (low, high) in [
                (0, page),
                (0, one),
                (0, size / 2),
                (0, size - page),
                (page, size),
                (one, size),
                (one, 2 * one),
                (size / 2, size),
                (size - one, size),
                (size - page, size),
                (size / 2, size / 2 + page),
                (page, size - page),
            ] {
                if low >= high || high > size || (low, high) == (0, size) {
                    continue;
                }
                let ends = [
                    (at + low, at + high),
                    // With what lies below it, where the cut is above, and with what lies above it.
                    if low == 0 { (at - 3 * page, at + high) } else { (at + low, at + high) },
                    if high == size { (at + low, at + size + 3 * page) } else { (at + low, at + high) },
                ];
                for (start, end) in ends {
                    let mut told = |gone: &_| panic!("{gone:x?} was removed");
                    let refused = table.exclusive().unmap(range(start, end - start), &mut gather, &mut told);
                    let error = Err(HwError::SplitsLeaf { iova: iova(at), size });
                    assert_eq!(refused, error, "{start:#x} to {end:#x}");
                    assert!(memory.snapshot() == before && gather.is_empty());
                }
            }
            unmap::<K, _>(&mut table, range(at - page, size + 2 * page), &mut gather).unwrap();
            assert_eq!(leaves_in::<K, _>(&memory, &table, how).iter().map(|leaf| leaf.size).sum::<u64>(), 4 * page);
        }
    }
}

/// Numbers that look random, and are the same every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// The answer that an unmap owes, from the leaves that stand there.
fn expected_unmap(leaves: &[Leaf], held: IovaRange) -> Result<(), HwError> {
    let (start, last) = (held.start().get(), held.last().get());
    let mut at = start;
    for leaf in leaves.iter().filter(|leaf| leaf.iova + leaf.size > start && leaf.iova <= last) {
        if leaf.iova > at {
            return Err(HwError::NotMapped { iova: iova(at) });
        }
        if leaf.iova < at || leaf.iova + (leaf.size - 1) > last {
            return Err(HwError::SplitsLeaf { iova: iova(leaf.iova), size: leaf.size });
        }
        at = leaf.iova + leaf.size;
    }
    if at <= last { Err(HwError::NotMapped { iova: iova(at) }) } else { Ok(()) }
}

/// Some hundred maps and unmaps of random places, sizes and protections, near each other so that they meet: each is
/// refused or done as a flat map of addresses says, and in the end every address leads where that says.
pub fn random_map<K: Kind>() {
    for &how in K::memories() {
        let memory = memory_for(how);
        let mut table = K::table_in(&memory, how);
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let (mut flat, mut gather) = (Flat::default(), Gather::new());
        let sizes = K::sizes();
        let (mut done, mut refused) = ([0, 0], [0, 0]);
        for step in 0..160 {
            let size = random.pick(&sizes);
            // Around a border of the largest leaf, or at the top.
            let border = random.pick(&[2, 4, 5, 8, 11, K::TOP / K::LARGEST - 2]) * K::LARGEST;
            let slip = random.pick(&[0, 0, 0, K::PAGE, 3 * K::PAGE, K::LARGE]);
            let at = border + size * random.below((2 * K::LARGEST / size).min(4)) + slip;
            let at = at - if random.below(2) == 0 { size.min(border) } else { 0 };
            if random.below(5) < 3 {
                let aligned = 16 * K::LARGEST + at % K::LARGEST;
                let phys = random.pick(&[aligned, aligned, 20 * K::LARGEST, 20 * K::LARGEST + 5 * K::PAGE]);
                // Not more than some thousand leaves.
                let most = 3000 * sizes.iter().rev().find(|size| (at | phys).is_multiple_of(**size)).unwrap();
                let len = (size * (1 + random.below(2)) + random.pick(&[0, 0, K::PAGE])).min(most);
                let extents = [run(phys, len), run(random.below(1 << 20) * K::PAGE, random.below(3) * K::PAGE)];
                let all = extents[0].len + extents[1].len;
                let prot = random.pick(&[Prot::READ, Prot::READ_WRITE]);
                let expected = match flat.first_mapped(range(at, all)) {
                    _ if at + all > K::TOP => Err(HwError::OutOfRange { iova: iova(at), len: all }),
                    Some(taken) => Err(HwError::AlreadyMapped { iova: iova(taken) }),
                    None => Ok(()),
                };
                let mapped = table.exclusive().map(iova(at), &extents, prot, &mut Unit::default());
                assert_eq!(mapped, expected, "step {step}: {at:#x} {extents:x?}");
                match mapped {
                    Ok(()) => flat.map(at, &extents, prot),
                    Err(_) => refused[0] += 1,
                }
                done[0] += usize::from(mapped.is_ok());
            } else {
                let (found, _) = scan::<K, _>(&memory, &table, how);
                // A run of leaves, with or without something beside it.
                let held = match found.len() {
                    0 => range(at, size),
                    count => {
                        let first = random.below(count as u64) as usize;
                        let last = (first + random.below(40) as usize).min(count - 1);
                        let end = found[last].iova + found[last].size;
                        let end = end + random.pick(&[0, 0, K::PAGE]);
                        range(found[first].iova, end.min(K::TOP) - found[first].iova)
                    }
                };
                let expected = expected_unmap(&found, held);
                let told = unmap::<K, _>(&mut table, held, &mut gather);
                assert_eq!(told.as_ref().map(|_| ()).map_err(|error| *error), expected, "step {step}: {held}");
                match told {
                    Ok(told) => {
                        done[1] += 1;
                        for gone in &told {
                            let from = flat.get(gone.iova.get()).unwrap();
                            assert_eq!(from.0, gone.extent.start.get());
                        }
                        assert_eq!(told.iter().map(|gone| gone.extent.len).sum::<u64>(), held.len().unwrap());
                        flat.unmap(held);
                    }
                    Err(_) => refused[1] += 1,
                }
                if random.below(3) == 0 {
                    flush::<K, _>(&table, &mut gather);
                }
            }
            if step % 20 == 0 {
                assert!(flat.is_mapped_by(&leaves_in::<K, _>(&memory, &table, how)), "step {step}");
            }
        }
        flush::<K, _>(&table, &mut gather);
        let found = leaves_in::<K, _>(&memory, &table, how);
        assert!(flat.is_mapped_by(&found));
        for leaf in &found {
            assert_translates::<K, _>(&table, leaf.iova + leaf.size / 2, Some(leaf));
        }
        // It did try something.
        assert!(done.iter().chain(&refused).all(|times| *times >= 3), "done {done:?}, refused {refused:?}");
        drop(table);
        assert_eq!(memory.in_use(), 0);
        memory.check_freed();
    }
}

/// Ranges that begin and end at the border of a size, a page beside it, or the next smaller size beside it are mapped with
/// the largest leaves that fit, and no byte more or less.
pub fn pgsize_boundary<K: Kind>() {
    let sizes = K::sizes();
    let memory = memory();
    let mut table = K::table(&memory);
    let mut gather = Gather::new();
    for pair in sizes.windows(2) {
        let &[smaller, size] = pair else { unreachable!() };
        let border = 4 * K::LARGEST;
        let beside = |at: u64| [at - smaller, at - K::PAGE, at, at + K::PAGE, at + smaller];
        for start in beside(border) {
            for end in beside(border + size) {
                if end <= start || end - start > 2 * size {
                    continue;
                }
                let (phys, len) = (8 * K::LARGEST + start, end - start);
                // Into nothing, and where the tables that it takes stand already, and others that give way.
                for _ in 0..2 {
                    let extents = [run(phys, len)];
                    table.exclusive().map(iova(start), &extents, Prot::READ, &mut Unit::default()).unwrap();
                    let found = leaves::<K, _>(&memory, &table);
                    assert_eq!(shape(&found), greedy::<K>(start, phys, len), "{start:#x} to {end:#x}");
                    assert_translates::<K, _>(&table, start - 1, None);
                    assert_translates::<K, _>(&table, start, found.first());
                    assert_translates::<K, _>(&table, end - 1, found.last());
                    assert_translates::<K, _>(&table, end, None);
                    let told = unmap::<K, _>(&mut table, range(start, len), &mut gather).unwrap();
                    assert_eq!((told.len(), told[0].extent), (1, run(phys, len)));
                    flush::<K, _>(&table, &mut gather);
                    assert_eq!(leaves::<K, _>(&memory, &table), []);
                }
                drop(std::mem::replace(&mut table, K::table(&memory)));
            }
        }
    }
}

/// Leaves of all sizes beside each other, each mapped by a call of its own, in no order; taken out by ranges that have
/// nothing to do with those calls, put back, and all taken out: then nothing is left.
pub fn mixed<K: Kind>() {
    for &how in K::memories() {
        let memory = memory_for(how);
        let mut table = K::table_in(&memory, how);
        let mut gather = Gather::new();
        let (start, len, steps) = staircase(&K::sizes(), 6 * K::LARGEST, 3);
        let (all, end) = (side_by_side(start, 16 * K::LARGEST + start, &steps), start + len);
        let prot = |n: usize| if n.is_multiple_of(3) { Prot::READ } else { Prot::READ_WRITE };
        // First the odd ones from the top down, then the even ones from the bottom up.
        let odd = (0..all.len()).rev().filter(|n| n % 2 == 1);
        let even = (0..all.len()).filter(|n| n % 2 == 0);
        let mut flat = Flat::default();
        for n in odd.chain(even) {
            let (at, phys, size) = all[n];
            map::<K, _>(&mut table, at, &[run(phys, size)], prot(n)).unwrap();
            flat.map(at, &[run(phys, size)], prot(n));
        }
        let found = leaves_in::<K, _>(&memory, &table, how);
        assert_eq!(shape(&found), all);
        assert!(flat.is_mapped_by(&found));
        let taken = table.exclusive().map(iova(start), &[run(0, end - start)], Prot::READ, &mut Unit::default());
        assert_eq!(taken, Err(HwError::AlreadyMapped { iova: iova(start) }));
        // From every leaf to every second, third, .. one after it, and back.
        for first in 0..all.len() {
            for last in (first..all.len()).step_by(1 + first) {
                let (low, high) = (all[first].0, all[last].0 + all[last].2);
                let told = unmap::<K, _>(&mut table, range(low, high - low), &mut gather).unwrap();
                // It goes on in memory, whatever each leaf allows.
                assert_eq!((told.len(), told[0].iova, told[0].extent.len), (1, iova(low), high - low));
                let left: Vec<_> = all.iter().filter(|(at, ..)| *at < low || *at >= high).copied().collect();
                assert_eq!(shape(&leaves_in::<K, _>(&memory, &table, how)), left);
                flush::<K, _>(&table, &mut gather);
                for (n, (at, phys, size)) in all.iter().enumerate().take(last + 1).skip(first) {
                    let mapped = table.exclusive().map(iova(*at), &[run(*phys, *size)], prot(n), &mut Unit::default());
                    assert_eq!(mapped, Ok(()));
                }
                assert!(flat.is_mapped_by(&leaves_in::<K, _>(&memory, &table, how)));
            }
        }
        unmap::<K, _>(&mut table, range(start, end - start), &mut gather).unwrap();
        flush::<K, _>(&table, &mut gather);
        assert_eq!(leaves_in::<K, _>(&memory, &table, how), []);
        drop(table);
        assert_eq!(memory.in_use(), 0);
        memory.check_freed();
    }
}

//! Merging leaves: every address leads where it did, at every moment.

mod common;
mod hardware;

use common::{Kind, Unit, iova, range, run};
use hardware::{ABOVE, Op, Rig, check_half_done, check_writes, live, one, pairs, sizes_of, thinned, told};
use iommu_core::addr::IovaRange;
use iommu_core::hw::{Gather, PageSizes, Prot, Transition};
use iommu_hal::WalkerMemory;
use iommu_pgtable::{Armv8Stage2, Config, PageTable, Stage2Options};
use std::cell::Cell;

for_all_kinds!(
    what_was_cut_is_merged_again,
    what_differs_is_not_merged,
    every_store_of_a_merge_leads_where_it_did,
    merges_end_at_the_range,
    a_unit_that_fails_a_merge,
    beside_a_neighbour_at_work,
);
for_tracked_kinds!(
    a_merged_leaf_is_dirty_if_any_part_was,
    writes_in_the_middle_of_a_merge_are_not_lost,
    writes_before_a_flush_that_fails_are_not_lost,
);

fn what_was_cut_is_merged_again<K: Kind>() {
    for how in K::memories() {
        for (size, largest) in pairs::<K>(2048) {
            let (mut rig, at) = one::<K>(*how, size);
            let before = rig.snapshot();
            rig.run(Op::Cut(range(at + size / 2, K::PAGE), largest), &mut Unit::default()).unwrap();
            rig.run(Op::Cut(range(at, size), largest), &mut Unit::default()).unwrap();
            let mut unit = Unit::default();
            let transition = rig.run(Op::Merge(range(at, size)), &mut unit).unwrap();
            assert_eq!(sizes_of(&rig.leaves()), [(at, size)]);
            assert_eq!(transition, told::<K>(&unit.asked));
            assert_eq!(rig.snapshot(), before);
            // Once more changes nothing.
            rig.memory.set_observer(Some(Box::new(|_, phys| panic!("a store to {phys}"))));
            let mut unit = Unit::default();
            assert_eq!(rig.run(Op::Merge(rig.table.geometry().aperture), &mut unit), Ok(Transition::Hitless));
            assert_eq!(unit.flushes, 0);
            rig.memory.set_observer(None);
        }
    }
}

/// The smallest size above that of a page.
fn next<K: Kind>() -> u64 {
    K::sizes()[1]
}

fn what_differs_is_not_merged<K: Kind>() {
    for (how, size) in K::memories().iter().flat_map(|how| [(how, next::<K>()), (how, K::LARGE)]) {
        let page = K::PAGE;
        let merges = |fill: &dyn Fn(&mut Rig<K>)| {
            let mut rig = Rig::<K>::new(*how);
            fill(&mut rig);
            let before = rig.leaves();
            rig.run(Op::Merge(rig.table.geometry().aperture), &mut Unit::default()).unwrap();
            let after = rig.leaves();
            (before != after).then_some(after)
        };
        let half = size / 2;
        // Alike: pages beside each other, mapped from the top down.
        let alike = |rig: &mut Rig<K>| {
            for at in (0..size / page).rev() {
                rig.map(size + at * page, page, Prot::READ);
            }
        };
        assert_eq!(sizes_of(&merges(&alike).unwrap()), [(size, size)]);
        // A page that allows more, a hole at either end, memory that is elsewhere, or not aligned.
        assert_eq!(
            merges(&|rig| {
                rig.map(size, half, Prot::READ);
                rig.map(size + half, half, Prot::READ_WRITE);
            }),
            None
        );
        assert_eq!(merges(&|rig| rig.map(size, size - page, Prot::READ)), None);
        assert_eq!(merges(&|rig| rig.map(size + page, size - page, Prot::READ)), None);
        assert_eq!(
            merges(&|rig| {
                rig.map(size, half, Prot::READ);
                rig.map_to(size + half, ABOVE, half, Prot::READ);
            }),
            None
        );
        assert_eq!(merges(&|rig| rig.map_to(size, ABOVE + half, size, Prot::READ)), None);
        assert_eq!(merges(&|_| ()), None);
    }
}

/// Pages from `at` on, in `len` bytes, that nobody has merged yet.
fn crumbs<K: Kind>(rig: &mut Rig<K>, at: u64, len: u64) {
    rig.map(at, len, Prot::READ_WRITE);
    rig.run(Op::Cut(range(at, len), K::PAGE), &mut Unit::default()).unwrap();
    assert_eq!(
        rig.leaves().iter().filter(|leaf| leaf.iova >= at && leaf.iova < at + len).count() as u64,
        len / K::PAGE
    );
}

fn every_store_of_a_merge_leads_where_it_did<K: Kind>() {
    for how in K::memories() {
        // Two tables and parts of two more, or of a large one.
        let mut rig = Rig::<K>::new(*how);
        let (start, len) = (2 * K::LARGE - 40 * K::PAGE, K::LARGE + 80 * K::PAGE);
        crumbs(&mut rig, start, len);
        let (transition, asked) = rig.watch(Op::Merge(range(start, len)), rig.flat.clone());
        assert_eq!(transition, told::<K>(&asked));
        let expected: Vec<_> =
            common::greedy::<K>(start, start + ABOVE, len).iter().map(|leaf| (leaf.0, leaf.2)).collect();
        assert_eq!(sizes_of(&rig.leaves()), expected);
        if live::<K>() {
            assert_eq!(asked.len(), 1);
        }
    }
}

fn merges_end_at_the_range<K: Kind>() {
    let size = next::<K>();
    let mut rig = Rig::<K>::new(WalkerMemory::Coherent);
    crumbs(&mut rig, size, 4 * size);
    let mut unit = Unit::default();
    // Nothing whole in it.
    for part in [range(size + K::PAGE, size), range(2 * size, size - 1), range(3 * size - K::PAGE, 2 * K::PAGE)] {
        assert_eq!(rig.run(Op::Merge(part), &mut unit), Ok(Transition::Hitless));
    }
    assert_eq!(unit.flushes, 0);
    assert_eq!(rig.leaves().len() as u64, 4 * size / K::PAGE);
    // One, and parts of its neighbours.
    rig.watch(Op::Merge(range(2 * size - K::PAGE, size + 2 * K::PAGE)), rig.flat.clone());
    let leaves = rig.leaves();
    let large: Vec<_> = leaves.iter().filter(|leaf| leaf.size != K::PAGE).map(|leaf| (leaf.iova, leaf.size)).collect();
    assert_eq!(large, [(2 * size, size)]);
}

fn a_unit_that_fails_a_merge<K: Kind>() {
    for how in K::memories() {
        // Two tables and parts of others.
        let (start, len) = (K::LARGE - 20 * K::PAGE, K::LARGE + 40 * K::PAGE);
        fail_merges(range(start, len), || {
            let mut rig = Rig::<K>::new(*how);
            crumbs(&mut rig, start, len);
            rig
        });
        // Tables, and groups that they become a part of.
        for (size, _) in pairs::<K>(u64::MAX).into_iter().filter(|(_, largest)| *largest == K::PAGE) {
            let at = 3 * size;
            fail_merges(range(at, size), || {
                let mut rig = one::<K>(*how, size).0;
                rig.run(Op::Cut(range(at + size / 2, K::PAGE), K::PAGE), &mut Unit::default()).unwrap();
                rig
            });
        }
    }
}

/// Has each flush of a merge of `part` fail.
fn fail_merges<K: Kind>(part: IovaRange, make: impl Fn() -> Rig<K>) {
    for n in 0.. {
        let mut rig = make();
        let before = rig.leaves();
        let written: Vec<_> = before.iter().step_by(3).map(|leaf| leaf.iova + leaf.size - 1).collect();
        if K::RAW.tracked {
            written.iter().for_each(|at| rig.write(*at));
        }
        let mut unit = Unit::failing(n);
        let done = rig.run(Op::Merge(part), &mut unit);
        if done.is_ok() {
            assert_eq!(n, unit.flushes);
            break;
        }
        assert_eq!(done, Err(Unit::ERROR));
        assert_eq!(unit.flushes, n + 1);
        assert_eq!(rig.table.retired(), 0);
        if n == 0 && !live::<K>() {
            assert_eq!(sizes_of(&rig.leaves()), sizes_of(&before), "nothing goes in before hardware has forgotten");
        }
        check_half_done(&mut rig, Op::Merge(part), &before, &written);
        drop(rig.table);
        assert_eq!(rig.memory.in_use(), 0);
    }
}

/// A write is noted in what is about to be put back.
fn writes_before_a_flush_that_fails_are_not_lost<K: Kind>() {
    for (size, largest) in pairs::<K>(512) {
        let (mut rig, at) = one::<K>(WalkerMemory::Coherent, size);
        rig.run(Op::Cut(range(at, size), largest), &mut Unit::default()).unwrap();
        let (memory, root, written) = (rig.memory.clone(), rig.table.root(), Cell::new(false));
        let at_flush = |_: &Gather| written.set(written.get() | common::write_through::<K>(&memory, root, at));
        let mut unit = Unit { at_flush: Some(Box::new(at_flush)), ..Unit::failing(0) };
        assert_eq!(rig.run(Op::Merge(range(at, size)), &mut unit), Err(Unit::ERROR));
        drop(unit);
        assert_eq!(written.get(), live::<K>(), "blocked, or not");
        assert_eq!(rig.is_dirty(at), written.get());
    }
}

/// Two CPUs in the same tables: one cuts and merges, the other maps and unmaps.
fn beside_a_neighbour_at_work<K: Kind>() {
    let mut rig = Rig::<K>::new(WalkerMemory::Coherent);
    let (large, page) = (K::LARGE, K::PAGE);
    let all = range(3 * large - 2 * page, 2 * large + 4 * page);
    rig.map(all.start().get(), all.len().unwrap(), Prot::READ);
    let before = rig.leaves();
    let border = iova(all.last().get() + 1);
    let (Some(mut low), Some(mut high)) = rig.table.exclusive().split_at(border) else { panic!("an empty claim") };
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut unit = Unit::default();
            for round in 0..20 {
                low.cut(all, page, &mut unit).unwrap();
                low.merge(range(3 * large, 2 * large), &mut unit).unwrap();
                let prot = if round % 2 == 0 { Prot::READ_WRITE } else { Prot::READ };
                low.protect(all, prot, &mut unit).unwrap();
                for at in [all.start(), iova(4 * large), all.last()] {
                    let there = low.translate(at).unwrap();
                    assert_eq!((there.phys.get(), there.prot), (at.get() + ABOVE, prot));
                }
            }
            low.merge(all, &mut unit).unwrap();
        });
        scope.spawn(move || {
            let mut unit = Unit::default();
            for round in 0..20 {
                // From inside of the table at the border to inside of one that was not there.
                let part = IovaRange::new(border, iova((7 + round % 3) * large - 1)).unwrap();
                high.map(border, &[run(border.get() + ABOVE, part.len().unwrap())], Prot::READ, &mut unit).unwrap();
                high.cut(range(6 * large, large), page, &mut unit).unwrap();
                let mut gather = Gather::new();
                high.unmap(part, &mut gather, &mut |_| ()).unwrap();
                // SAFETY: no hardware walks these tables.
                unsafe { high.free_gathered(&mut gather) };
            }
        });
    });
    assert_eq!(rig.leaves(), before);
    assert_eq!(rig.table.retired(), 0);
}

fn a_merged_leaf_is_dirty_if_any_part_was<K: Kind>() {
    for (size, largest) in pairs::<K>(512) {
        for offset in [None, Some(0), Some(size / 2), Some(size - K::PAGE)] {
            let (mut rig, at) = one::<K>(WalkerMemory::Coherent, size);
            rig.run(Op::Cut(range(at, size), largest), &mut Unit::default()).unwrap();
            offset.iter().for_each(|offset| rig.write(at + offset));
            rig.run(Op::Merge(range(at, size)), &mut Unit::default()).unwrap();
            assert_eq!(sizes_of(&rig.leaves()), [(at, size)]);
            assert_eq!(rig.dirty(), if offset.is_some() { vec![range(at, size)] } else { vec![] });
        }
    }
}

fn writes_in_the_middle_of_a_merge_are_not_lost<K: Kind>() {
    for (size, largest) in thinned(pairs::<K>(512)).into_iter().take(4) {
        let at = 3 * size;
        let make = || {
            let mut rig = one::<K>(WalkerMemory::Coherent, size).0;
            rig.run(Op::Cut(range(at, size), largest), &mut Unit::default()).unwrap();
            rig
        };
        check_writes(make, Op::Merge(range(at, size)), &[at, at + size / 2, at + size - 1]);
    }
}

/// Blocks in the root become a group there: 16 GiB, more than the suites above map.
#[test]
fn a_root_has_groups_too() {
    const G1: u64 = 1 << 30;
    let memory = common::memory();
    let config = Config::<Armv8Stage2> {
        levels: 3,
        page_sizes: PageSizes::new(0x1000 | G1 | (16 * G1)),
        input_bits: 39,
        output_bits: 46,
        memory: WalkerMemory::Coherent,
        address_bits: 46,
        track_dirty: false,
        options: Stage2Options::default(),
    };
    let mut table = PageTable::new(&memory, config).unwrap();
    let mut unit = Unit::default();
    for block in 16..32 {
        table.exclusive().map(iova(block * G1), &[run(block * G1, G1)], Prot::READ, &mut unit).unwrap();
    }
    let sizes = |table: &PageTable<_, _>| table.leaves(IovaRange::FULL).map(|leaf| leaf.size).collect::<Vec<_>>();
    assert_eq!(sizes(&table), [G1; 16]);
    let merged = table.exclusive().merge(range(16 * G1, 16 * G1), &mut unit);
    assert_eq!((merged, unit.flushes), (Ok(Transition::ThroughBlocked), 1));
    assert_eq!(sizes(&table), [16 * G1]);
    assert_eq!(table.translate(iova(20 * G1 + 5)).map(|to| to.phys.get()), Some(20 * G1 + 5));
}

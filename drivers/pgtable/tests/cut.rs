//! Cutting leaves: every address leads where it did, at every moment.

mod common;
mod hardware;

use common::raw::Leaf;
use common::unit::Flushed;
use common::{Kind, Unit, iova, range};
use hardware::{
    ABOVE, Op, Rig, SecondGap, check_half_done, check_writes, level, live, one, pairs, sizes, sizes_of, thinned, told,
};
use iommu_core::addr::{Iova, IovaRange};
use iommu_core::hw::{Gather, HwError, Prot, Transition};
use iommu_hal::WalkerMemory;
use iommu_models::memory::Maintenance;

for_all_kinds!(
    leaves_are_cut_as_little_as_can_be,
    every_store_of_a_cut_leads_where_it_did,
    cutting_more_than_one_leaf,
    errors_of_a_cut_change_nothing,
    a_cut_without_memory_changes_nothing,
    a_unit_that_fails_a_cut,
    links_of_a_cut_are_visible,
);
for_tracked_kinds!(pieces_are_as_dirty_as_their_leaf, writes_in_the_middle_of_a_cut_are_not_lost);

/// What leaves are after a cut: each address in the largest leaf that the cut allows.
fn pieces<K: Kind>(leaves: &[Leaf], part: IovaRange, largest: u64) -> Vec<(u64, u64)> {
    let mut all = Vec::new();
    for leaf in leaves {
        let end = leaf.iova + leaf.size;
        let mut at = leaf.iova;
        while at < end {
            let allowed = |size: &&u64| {
                at % **size == 0 && at + **size <= end && (**size <= largest || !part.overlaps(range(at, **size)))
            };
            let size = K::sizes().into_iter().rev().filter(|size| *size <= leaf.size).collect::<Vec<_>>();
            let size = *size.iter().find(allowed).unwrap();
            all.push((at, size));
            at += size;
        }
    }
    all
}

/// The flushes of a cut that changes so many leaves.
fn flushes<K: Kind>(changed: usize) -> usize {
    if live::<K>() { changed.min(1) } else { changed }
}

fn leaves_are_cut_as_little_as_can_be<K: Kind>() {
    for (size, largest) in pairs::<K>(2048) {
        let page = K::PAGE;
        let parts = [
            (0, size),
            (0, page),
            (size - page, page),
            (size / 2 - page, 2 * page),
            (size / 2, largest),
            (largest, size - largest),
            // Any address will do.
            (size / 2 + 17, 1),
            (size / 2 - 1, 2),
        ];
        for (offset, len) in parts {
            let (mut rig, at) = one::<K>(WalkerMemory::Coherent, size);
            let part = range(at + offset, len);
            let expected = pieces::<K>(&rig.leaves(), part, largest);
            let before = rig.leaves();
            let mut unit = Unit::default();
            let transition = rig.run(Op::Cut(part, largest), &mut unit);
            let leaves = rig.leaves();
            assert_eq!(sizes_of(&leaves), expected, "{size:#x} {largest:#x} {part:x?}");
            assert!(leaves.iter().all(|leaf| !leaf.dirty));
            let [Flushed { touched, everything: false }] = &unit.asked[..] else { panic!("{:?}", unit.asked) };
            let [touched] = touched[..] else { panic!("{touched:?}") };
            assert_eq!(touched.range, range(at, size));
            assert_eq!(touched.leaves.mask(), 1 << level::<K>(&before[0]));
            assert_eq!(touched.tables.mask(), 0);
            assert_eq!(transition, Ok(told::<K>(&unit.asked)));
            // Once more changes nothing.
            rig.memory.set_observer(Some(Box::new(|_, phys| panic!("a store to {phys}"))));
            let mut unit = Unit::default();
            assert_eq!(rig.run(Op::Cut(part, largest), &mut unit), Ok(Transition::Hitless));
            assert_eq!(unit.flushes, 0);
            rig.memory.set_observer(None);
        }
    }
}

fn every_store_of_a_cut_leads_where_it_did<K: Kind>() {
    for how in K::memories() {
        for (size, largest) in pairs::<K>(128) {
            let (mut rig, at) = one::<K>(*how, size);
            let part = range(at + size / 2, largest);
            let (transition, asked) = rig.watch(Op::Cut(part, largest), rig.flat.clone());
            assert_eq!(transition, told::<K>(&asked));
            assert_eq!(asked.len(), 1);
        }
        // Across tables, from the largest to the smallest.
        let mut rig = Rig::<K>::new(*how);
        let all = rig.ramp(Prot::READ_WRITE);
        let middle = range(all.start().get() + all.len().unwrap() / 2, K::PAGE);
        rig.watch(Op::Cut(middle, K::PAGE), rig.flat.clone());
    }
}

fn cutting_more_than_one_leaf<K: Kind>() {
    for how in K::memories() {
        for largest in sizes::<K>().into_iter().rev().skip(1).take(3) {
            let mut rig = Rig::<K>::new(*how);
            let all = rig.ramp(Prot::READ);
            // What is not mapped is skipped.
            let around = IovaRange::new(iova(0), Iova::new(all.last().get() + 5 * K::LARGE)).unwrap();
            if sizes::<K>().last().unwrap() / largest > 4096 {
                continue;
            }
            let before = rig.leaves();
            let expected = pieces::<K>(&before, around, largest);
            let larger = before.iter().filter(|leaf| leaf.size > largest).count();
            let mut unit = Unit::default();
            let transition = rig.run(Op::Cut(around, largest), &mut unit).unwrap();
            assert_eq!(sizes_of(&rig.leaves()), expected);
            assert_eq!(unit.flushes, flushes::<K>(larger));
            assert_eq!(transition, told::<K>(&unit.asked));
            // And back.
            rig.watch(Op::Merge(around), rig.flat.clone());
            assert_eq!(sizes_of(&rig.leaves()), sizes_of(&before));
        }
    }
}

fn errors_of_a_cut_change_nothing<K: Kind>() {
    for how in K::memories() {
        let mut rig = Rig::<K>::new(*how);
        let all = rig.ramp(Prot::READ);
        let before = rig.snapshot();
        let unsupported = Err(HwError::Unsupported("leaves of a size that the table does not have"));
        let mut unit = Unit::default();
        for largest in [0, 1, K::PAGE / 2, K::PAGE + 1, 3 * K::PAGE, 1 << 50] {
            assert_eq!(rig.run(Op::Cut(all, largest), &mut unit), unsupported);
        }
        let top = range(K::TOP - K::PAGE, 2 * K::PAGE);
        let out = HwError::OutOfRange { iova: top.start(), len: 2 * K::PAGE };
        assert_eq!(rig.run(Op::Cut(top, K::PAGE), &mut unit), Err(out));
        assert_eq!(rig.run(Op::Merge(top), &mut unit), Err(out));
        // Leaves that reach out of the claim, to either side.
        for leaf in rig.leaves().into_iter().filter(|leaf| leaf.size != K::PAGE) {
            for (start, len) in [(leaf.iova + K::PAGE, leaf.size), (leaf.iova - K::PAGE, leaf.size)] {
                // SAFETY: there is no other claim.
                let mut claim = unsafe { rig.table.claim(range(start, len)) }.unwrap();
                let out = HwError::OutOfRange { iova: iova(leaf.iova), len: leaf.size };
                let part = range(leaf.iova + leaf.size / 2, K::PAGE);
                assert_eq!(claim.cut(part, K::PAGE, &mut unit), Err(out));
                // No larger than what is asked for: it stays as it is.
                assert_eq!(claim.cut(part, leaf.size, &mut unit), Ok(Transition::Hitless));
            }
        }
        assert_eq!(unit.flushes, 0);
        assert_eq!(rig.snapshot(), before);
    }
}

fn a_cut_without_memory_changes_nothing<K: Kind>() {
    for how in K::memories() {
        let mut rig = Rig::<K>::new(*how);
        let all = rig.ramp(Prot::READ);
        let middle = range(all.start().get() + all.len().unwrap() / 2, K::PAGE);
        let before = rig.snapshot();
        for n in 0.. {
            rig.memory.fail_after(n);
            let mut unit = Unit::default();
            let done = rig.run(Op::Cut(middle, K::PAGE), &mut unit);
            rig.memory.fail_never();
            if done.is_ok() {
                let leaves = rig.leaves();
                assert!(leaves.iter().any(|leaf| leaf.size == K::PAGE && leaf.iova == middle.start().get()));
                assert_eq!(n, rig.table.tables() - before.1, "every table was asked for once");
                break;
            }
            assert_eq!(done, Err(HwError::OutOfMemory));
            assert_eq!(unit.flushes, 0);
            assert_eq!(rig.snapshot(), before);
        }
    }
}

fn a_unit_that_fails_a_cut<K: Kind>() {
    for how in K::memories() {
        for n in 0.. {
            let mut rig = Rig::<K>::new(*how);
            let all = rig.ramp(Prot::READ_WRITE);
            let before = rig.leaves();
            let written: Vec<_> = before.iter().step_by(3).map(|leaf| leaf.iova + leaf.size - 1).collect();
            if K::RAW.tracked {
                written.iter().for_each(|at| rig.write(*at));
            }
            // One page in each of many leaves.
            let largest = sizes::<K>()[sizes::<K>().len() - 2];
            let op = Op::Cut(all, largest.min(K::LARGE));
            let mut unit = Unit::failing(n);
            let done = rig.run(op, &mut unit);
            if done.is_ok() {
                assert_eq!(n, unit.flushes);
                break;
            }
            assert_eq!(done, Err(Unit::ERROR));
            assert_eq!(unit.flushes, n + 1);
            assert_eq!(rig.table.retired(), 0);
            if !live::<K>() {
                let changed = before
                    .iter()
                    .filter(|leaf| !rig.leaves().iter().any(|new| sizes_of(&[*new]) == sizes_of(&[**leaf])));
                assert_eq!(changed.count(), n, "one after the other");
            }
            check_half_done(&mut rig, op, &before, &written);
            drop(rig.table);
            assert_eq!(rig.memory.in_use(), 0);
        }
    }
}

fn pieces_are_as_dirty_as_their_leaf<K: Kind>() {
    for (size, largest) in pairs::<K>(512) {
        for dirty in [false, true] {
            let (mut rig, at) = one::<K>(WalkerMemory::Coherent, size);
            let all = range(at, size);
            if dirty {
                rig.write(at + size - 1);
            }
            rig.run(Op::Cut(range(at + size / 2, K::PAGE), largest), &mut Unit::default()).unwrap();
            assert_eq!(rig.dirty(), if dirty { vec![all] } else { vec![] });
            assert!(rig.leaves().iter().all(|leaf| leaf.dirty == dirty));
        }
    }
}

fn writes_in_the_middle_of_a_cut_are_not_lost<K: Kind>() {
    for (size, largest) in thinned(pairs::<K>(512)).into_iter().take(4) {
        let at = 3 * size;
        let part = range(at + size / 2, K::PAGE);
        let make = || one::<K>(WalkerMemory::Coherent, size).0;
        check_writes(make, Op::Cut(part, largest), &[at, at + size / 2, at + size - 1]);
    }
}

/// What a cut has put in is visible, and known to be: a map that comes past it has its own line to clean and no more.
fn links_of_a_cut_are_visible<K: Kind>() {
    if !K::memories().contains(&WalkerMemory::NonCoherent) {
        return;
    }
    let size = *sizes::<K>().last().unwrap();
    let (mut rig, at) = one::<K>(WalkerMemory::NonCoherent, size);
    let page = range(at + size / 2, K::PAGE);
    rig.run(Op::Cut(page, K::PAGE), &mut Unit::default()).unwrap();
    let mut gather = Gather::new();
    common::unmap::<K, _>(&mut rig.table, page, &mut gather).unwrap();
    common::flush::<K, _>(&rig.table, &mut gather);
    rig.memory.take_maintenance();
    let extent = common::run(page.start().get() + ABOVE, K::PAGE);
    common::map::<K, _>(&mut rig.table, page.start().get(), &[extent], Prot::READ_WRITE).unwrap();
    let cleaned = rig.memory.take_maintenance();
    assert!(matches!(cleaned[..], [Maintenance::Clean { len: 8, .. }]), "{cleaned:x?}");
    rig.leaves();
}

/// Pages of 1 GiB and of 4 KiB, and nothing between.
#[test]
fn sizes_that_are_missing_are_skipped() {
    let (mut rig, at) = one::<SecondGap>(WalkerMemory::NonCoherent, 1 << 30);
    let page = range(at + (1 << 29), 4096);
    rig.run(Op::Cut(page, 4096), &mut Unit::default()).unwrap();
    assert_eq!(sizes_of(&rig.leaves()), (0..1 << 18).map(|page| (at + page * 4096, 4096)).collect::<Vec<_>>());
    assert_eq!(rig.table.tables(), 2 + 1 + 512);
    // They do not come together again: there are no leaves for each table.
    rig.run(Op::Merge(range(at, 1 << 30)), &mut Unit::default()).unwrap();
    assert_eq!(rig.leaves().len(), 1 << 18);
}

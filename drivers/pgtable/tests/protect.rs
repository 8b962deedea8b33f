//! Changing what is allowed: all of a range or none of it, and nothing but that.

mod common;
mod hardware;

use common::raw::Leaf;
use common::{Kind, Unit, iova, range};
use hardware::{Op, Rig, thinned};
use iommu_core::addr::IovaRange;
use iommu_core::hw::{HwError, Prot, Transition};
use iommu_hal::WalkerMemory;

for_all_kinds!(
    every_store_shows_old_or_new,
    parts_change_alone,
    what_allows_it_already_is_left_alone,
    errors_change_nothing,
    a_unit_that_fails_leaves_old_or_new,
);
for_tracked_kinds!(writes_in_the_middle_are_not_lost, what_was_written_through_stays_so);

/// The flushes that it takes to change these leaves.
fn flushes<'l>(leaves: impl Iterator<Item = &'l Leaf>) -> usize {
    let (groups, others): (Vec<&Leaf>, Vec<_>) = leaves.partition(|leaf| leaf.group != 1);
    groups.len() + usize::from(!others.is_empty())
}

fn transition(flushes: usize, leaves: &[Leaf]) -> Transition {
    let blocked = flushes != 0 && leaves.iter().any(|leaf| leaf.group != 1);
    if blocked { Transition::ThroughBlocked } else { Transition::Hitless }
}

/// Changes `part` to `prot` with everything watched.
fn protect<K: Kind>(rig: &mut Rig<K>, part: IovaRange, prot: Prot) {
    let before = rig.leaves();
    let (changing, others): (Vec<_>, Vec<_>) = before
        .iter()
        .copied()
        .partition(|leaf| part.contains(iova(leaf.iova)) && (leaf.read, leaf.write) != (prot.read, prot.write));
    let mut new = rig.flat.clone();
    new.protect(part, prot);
    let (told, asked) = rig.watch(Op::Protect(part, prot), new);
    let expected = flushes(changing.iter());
    assert_eq!(asked.len(), expected);
    assert_eq!(told, transition(expected, &changing));
    // Leaf by leaf, in place.
    let mut after = others;
    after.extend(changing.iter().map(|leaf| Leaf { read: prot.read, write: prot.write, ..*leaf }));
    after.sort_by_key(|leaf| leaf.iova);
    assert_eq!(rig.leaves(), after);
}

fn every_store_shows_old_or_new<K: Kind>() {
    for how in K::memories() {
        let mut rig = Rig::<K>::new(*how);
        let all = rig.ramp(Prot::READ);
        protect(&mut rig, all, Prot::READ_WRITE);
        protect(&mut rig, all, Prot::READ);
        if K::RAW.has_write_only() {
            protect(&mut rig, all, Prot::WRITE);
        }
    }
}

fn parts_change_alone<K: Kind>() {
    for how in K::memories() {
        let mut rig = Rig::<K>::new(*how);
        let all = rig.ramp(Prot::READ);
        let leaves = rig.leaves();
        for (n, leaf) in leaves.iter().enumerate().step_by(3) {
            protect(&mut rig, range(leaf.iova, leaf.size), Prot::READ_WRITE);
            let next = leaves.get(n + 1).unwrap_or(leaf);
            let two = IovaRange::new(iova(leaf.iova), iova(next.iova + next.size - 1)).unwrap();
            protect(&mut rig, two, Prot::READ_WRITE);
            protect(&mut rig, range(leaf.iova, leaf.size), Prot::READ);
        }
        // Some allow it already.
        protect(&mut rig, all, Prot::READ_WRITE);
    }
}

fn what_allows_it_already_is_left_alone<K: Kind>() {
    for how in K::memories() {
        let mut rig = Rig::<K>::new(*how);
        let all = rig.ramp(Prot::READ);
        rig.memory.take_maintenance();
        rig.memory.set_observer(Some(Box::new(|_, phys| panic!("a store to {phys}"))));
        let mut unit = Unit::default();
        assert_eq!(rig.run(Op::Protect(all, Prot::READ), &mut unit), Ok(Transition::Hitless));
        assert_eq!(unit.flushes, 0);
        assert_eq!(rig.memory.take_maintenance(), []);
    }
}

fn errors_change_nothing<K: Kind>() {
    for how in K::memories() {
        let mut rig = Rig::<K>::new(*how);
        let all = rig.ramp(Prot::READ);
        let (start, end) = (all.start().get(), all.last().get() + 1);
        // A hole, and more after it.
        rig.map(end + K::PAGE, K::PAGE, Prot::READ);
        let leaves = rig.leaves();
        let (first, last) = (range(0, start + K::PAGE), range(start, end + 2 * K::PAGE - start));
        let top = K::TOP;
        let mut wrong = vec![
            (range(start + 8, K::PAGE), Prot::READ_WRITE, HwError::Misaligned { value: start + 8, align: K::PAGE }),
            (range(start, K::PAGE + 8), Prot::READ_WRITE, HwError::Misaligned { value: K::PAGE + 8, align: K::PAGE }),
            (range(top, K::PAGE), Prot::READ_WRITE, HwError::OutOfRange { iova: iova(top), len: K::PAGE }),
            (first, Prot::READ_WRITE, HwError::NotMapped { iova: iova(0) }),
            (last, Prot::READ_WRITE, HwError::NotMapped { iova: iova(end) }),
            (range(end, K::PAGE), Prot::READ_WRITE, HwError::NotMapped { iova: iova(end) }),
            (range(start - K::PAGE, 2 * K::PAGE), Prot::READ, HwError::NotMapped { iova: iova(start - K::PAGE) }),
            (all, Prot { read: false, write: false }, HwError::Protection(Prot { read: false, write: false })),
        ];
        if !K::RAW.has_write_only() {
            wrong.push((all, Prot::WRITE, HwError::Protection(Prot::WRITE)));
        }
        for leaf in leaves.iter().filter(|leaf| leaf.size != K::PAGE) {
            let splits = HwError::SplitsLeaf { iova: iova(leaf.iova), size: leaf.size };
            wrong.push((range(leaf.iova, leaf.size - K::PAGE), Prot::READ_WRITE, splits));
            wrong.push((range(leaf.iova + K::PAGE, leaf.size - K::PAGE), Prot::READ, splits));
            wrong.push((range(start, leaf.iova + leaf.size / 2 - start), Prot::READ_WRITE, splits));
        }
        let before = rig.snapshot();
        for (part, prot, error) in wrong {
            let mut unit = Unit::default();
            assert_eq!(rig.run(Op::Protect(part, prot), &mut unit), Err(error), "{part:x?}");
            assert_eq!(unit.flushes, 0);
            assert_eq!(rig.snapshot(), before);
        }
        // Mapped, and somebody else's.
        let claimed = range(start, K::PAGE);
        // SAFETY: there is no other claim.
        let mut claim = unsafe { rig.table.claim(claimed) }.unwrap();
        let denied = HwError::OutOfRange { iova: iova(start), len: end - start };
        assert_eq!(claim.protect(all, Prot::READ_WRITE, &mut Unit::default()), Err(denied));
        assert_eq!(rig.snapshot(), before);
    }
}

fn a_unit_that_fails_leaves_old_or_new<K: Kind>() {
    for how in K::memories() {
        for n in 0.. {
            let mut rig = Rig::<K>::new(*how);
            let all = rig.ramp(Prot::READ_WRITE);
            let before = rig.leaves();
            let written: Vec<_> = before.iter().step_by(2).map(|leaf| leaf.iova).collect();
            if K::RAW.tracked {
                written.iter().for_each(|at| rig.write(*at));
            }
            let mut unit = Unit::failing(n);
            let done = rig.run(Op::Protect(all, Prot::READ), &mut unit);
            if n == unit.flushes {
                assert!(done.is_ok() && n == flushes(before.iter()));
                break;
            }
            assert_eq!(done, Err(Unit::ERROR));
            assert_eq!(unit.flushes, n + 1);
            let after = common::leaves_in::<K, _>(&rig.memory, &rig.table, rig.how);
            let bare = |leaf: &Leaf| Leaf { write: false, dirty: false, ..*leaf };
            assert!(after.iter().map(bare).eq(before.iter().map(bare)), "{after:x?}");
            let changed = after.iter().filter(|leaf| !leaf.write).count();
            // One group after the other; then all others at once.
            let groups = before.iter().filter(|leaf| leaf.group != 1).count();
            assert_eq!(changed, if n < groups { n } else { before.len() });
            if K::RAW.tracked {
                assert!(before.iter().all(|leaf| rig.is_dirty(leaf.iova) == written.contains(&leaf.iova)));
            }
            // Another try does it.
            rig.run(Op::Protect(all, Prot::READ), &mut Unit::default()).unwrap();
            rig.flat.protect(all, Prot::READ);
            rig.leaves();
        }
    }
}

fn writes_in_the_middle_are_not_lost<K: Kind>() {
    let make = |prot| {
        let mut rig = Rig::<K>::new(WalkerMemory::Coherent);
        let all = rig.ramp(prot);
        (rig, all)
    };
    for (old, new) in [(Prot::READ_WRITE, Prot::READ), (Prot::READ, Prot::READ_WRITE)] {
        let (mut rig, all) = make(old);
        let tables = rig.tables().len();
        let leaves = rig.leaves();
        let step = leaves.len() / 4;
        let mut noted = 0;
        for when in rig.moments(Op::Protect(all, new)) {
            for leaf in leaves.iter().skip(when % step).step_by(step) {
                for from in [0, tables - 1] {
                    let (mut rig, all) = make(old);
                    let at = leaf.iova + leaf.size / 2 + 4;
                    let written = rig.inject(Op::Protect(all, new), when, from, at);
                    rig.flat.protect(all, new);
                    assert_eq!(rig.is_dirty(at), written, "{at:#x} at {when} from {from}");
                    assert!(rig.dirty().iter().all(|range| range.contains(iova(at))), "{:x?}", rig.dirty());
                    noted += usize::from(written);
                    rig.leaves();
                }
            }
        }
        assert!(noted > 3);
    }
}

fn what_was_written_through_stays_so<K: Kind>() {
    let mut rig = Rig::<K>::new(WalkerMemory::Coherent);
    let all = rig.ramp(Prot::READ_WRITE);
    let leaves = rig.leaves();
    let written = thinned(leaves.iter().skip(1).step_by(2).map(|leaf| leaf.iova + leaf.size - 1).collect());
    written.iter().for_each(|at| rig.write(*at));
    for prot in [Prot::READ, Prot::READ_WRITE, Prot::READ] {
        rig.run(Op::Protect(all, prot), &mut Unit::default()).unwrap();
        rig.flat.protect(all, prot);
        for leaf in rig.leaves() {
            assert_eq!(leaf.dirty, written.contains(&(leaf.iova + leaf.size - 1)), "{leaf:x?} {prot}");
        }
    }
}

//! What was written through: read, and read and cleared.

mod common;
mod hardware;

use common::{Kind, iova, range};
use hardware::{Op, Rig, level, sizes};
use iommu_core::addr::{IovaRange, PhysAddr};
use iommu_core::hw::{Gather, HwError, Prot};
use iommu_hal::WalkerMemory;
use iommu_pgtable::SharedTable;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

for_tracked_kinds!(
    what_was_written_through_is_found_and_cleared,
    a_group_is_dirty_if_any_of_its_entries_is,
    scattered_pages_are_told_apart,
    a_write_in_the_middle_of_clearing_is_found_later,
    protection_keeps_what_was_written_through,
    a_shared_table_hands_out_what_the_range_has_of_a_leaf,
);
for_all_kinds!(errors_change_nothing);

/// A leaf of every size, each beside a leaf of the next smaller one, with holes between.
fn spread<K: Kind>(rig: &mut Rig<K>) -> Vec<IovaRange> {
    let mut all = Vec::new();
    let mut at = 0;
    for size in sizes::<K>() {
        at = (at + size).next_multiple_of(2 * size);
        for start in [at, at + size] {
            rig.map(start, size, Prot::READ_WRITE);
            all.push(range(start, size));
        }
        at += 4 * size;
    }
    assert!(rig.leaves().len() >= all.len() - 1);
    all
}

fn read_and_clear<K: Kind>(rig: &Rig<K>, range: IovaRange) -> (Vec<IovaRange>, Gather) {
    let (mut all, mut gather) = (Vec::new(), Gather::new());
    rig.table.read_and_clear_dirty(range, &mut gather, &mut |range| all.push(range)).unwrap();
    (all, gather)
}

/// The leaves that hold these addresses, joined.
fn leaves_of<K: Kind>(rig: &Rig<K>, written: &[u64]) -> Vec<IovaRange> {
    let mut joined: Vec<IovaRange> = Vec::new();
    for leaf in rig.leaves() {
        let all = range(leaf.iova, leaf.size);
        if written.iter().any(|at| all.contains(iova(*at))) {
            match joined.last_mut() {
                Some(last) if last.is_followed_by(all) => *last = last.union(all),
                _ => joined.push(all),
            }
        }
    }
    joined
}

fn what_was_written_through_is_found_and_cleared<K: Kind>() {
    let mut rig = Rig::<K>::new(WalkerMemory::Coherent);
    let all = spread(&mut rig);
    let aperture = rig.table.geometry().aperture;
    assert_eq!(rig.dirty(), []);
    for some in [&all[..1], &all[1..2], &all[1..4], &all[2..], &all[..]] {
        let written: Vec<_> = some.iter().map(|range| range.last().get() - 5).collect();
        written.iter().for_each(|at| rig.write(*at));
        let expected = leaves_of(&rig, &written);
        let dirty: Vec<_> = rig.leaves().into_iter().filter(|leaf| leaf.dirty).collect();
        let before = rig.snapshot();
        assert_eq!(rig.dirty(), expected);
        assert_eq!(rig.snapshot(), before, "reading changes nothing");

        // One store for each entry that is dirty: one in each leaf or group.
        let stores = Arc::new(AtomicUsize::new(0));
        let counter = stores.clone();
        rig.memory.set_observer(Some(Box::new(move |_, _| _ = counter.fetch_add(1, Ordering::Relaxed))));
        let (found, gather) = read_and_clear(&rig, aperture);
        rig.memory.set_observer(None);
        assert_eq!(found, expected);
        assert_eq!(stores.load(Ordering::Relaxed), dirty.len());
        for leaf in &dirty {
            let covers = |touched: iommu_core::hw::Touched| {
                touched.range.covers(range(leaf.iova, leaf.size)) && touched.leaves.contains(level::<K>(leaf))
            };
            assert!(gather.touched().any(covers), "{leaf:x?}: {gather:x?}");
        }
        if expected.len() <= 8 {
            assert_eq!(gather.ranges().collect::<Vec<_>>(), expected);
        }
        assert!(!gather.everything() && !gather.tables_changed());
        assert!(rig.leaves().iter().all(|leaf| !leaf.dirty));
        assert_eq!(read_and_clear(&rig, aperture).0, []);
        assert!(read_and_clear(&rig, aperture).1.is_empty());
    }
    // Ends on the borders of leaves, and in holes.
    all.iter().for_each(|range| rig.write(range.start().get()));
    for part in &all {
        assert_eq!(read_and_clear(&rig, *part).0, [*part]);
        assert_eq!(read_and_clear(&rig, *part).0, []);
    }
    let first = all[0];
    rig.write(first.start().get());
    let around = IovaRange::new(iova(first.start().get() - K::PAGE), first.last()).unwrap();
    assert_eq!(read_and_clear(&rig, around).0, [first]);
}

fn a_group_is_dirty_if_any_of_its_entries_is<K: Kind>() {
    let mut rig = Rig::<K>::new(WalkerMemory::Coherent);
    let all = spread(&mut rig);
    for leaf in rig.leaves().into_iter().filter(|leaf| leaf.group != 1) {
        let whole = range(leaf.iova, leaf.size);
        assert!(all.iter().any(|part| part.covers(whole)));
        let one = leaf.size / leaf.group;
        for entry in 0..leaf.group {
            rig.write(leaf.iova + entry * one + 1);
            assert_eq!(rig.dirty(), [whole], "entry {entry}");
            if entry % 3 == 0 {
                rig.write(leaf.iova + (leaf.group - 1) * one);
            }
            assert_eq!(read_and_clear(&rig, whole).0, [whole]);
            assert_eq!(rig.dirty(), []);
        }
    }
}

fn scattered_pages_are_told_apart<K: Kind>() {
    // Memory in falling order, pages that allow less, and holes, across the border of two tables.
    let mut rig = Rig::<K>::new(WalkerMemory::Coherent);
    let start = K::LARGE - 40 * K::PAGE;
    let mut written = Vec::new();
    for page in 0..80 {
        let at = start + page * K::PAGE;
        if page % 7 == 3 {
            continue;
        }
        let prot = if page % 5 == 2 { Prot::READ } else { Prot::READ_WRITE };
        rig.map_to(at, (1 << 40) + (100 - page) * 2 * K::PAGE, K::PAGE, prot);
        if prot.write && (page / 3) % 2 == 0 {
            rig.write(at + 8);
            written.push(at);
        }
    }
    let expected = leaves_of(&rig, &written);
    assert!(expected.len() > 8);
    assert_eq!(rig.dirty(), expected);
    let all = range(start, 80 * K::PAGE);
    let (found, gather) = read_and_clear(&rig, all);
    assert_eq!(found, expected);
    assert!(expected.iter().all(|part| gather.ranges().any(|range| range.covers(*part))));
    assert_eq!(rig.dirty(), []);
}

fn errors_change_nothing<K: Kind>() {
    for how in K::memories() {
        let mut rig = Rig::<K>::new(*how);
        let all = spread(&mut rig);
        let last = *all.last().unwrap();
        if K::RAW.tracked {
            all.iter().for_each(|range| rig.write(range.start().get()));
        }
        let rig = rig;
        let check = |part: IovaRange, expected: HwError| {
            let before = rig.snapshot();
            let mut gather = Gather::new();
            let mut found = |range: IovaRange| panic!("{range:?} was handed out");
            assert_eq!(rig.table.read_dirty(part, &mut found), Err(expected), "{part:x?}");
            assert_eq!(rig.table.read_and_clear_dirty(part, &mut gather, &mut found), Err(expected), "{part:x?}");
            assert!(gather.is_empty());
            assert_eq!(rig.snapshot(), before);
        };
        if !K::RAW.tracked {
            check(last, HwError::Unsupported("dirty state of a table that does not track it"));
            continue;
        }
        let start = last.start().get();
        check(range(start + 8, K::PAGE), HwError::Misaligned { value: start + 8, align: K::PAGE });
        check(range(start, K::PAGE + 1), HwError::Misaligned { value: K::PAGE + 1, align: K::PAGE });
        check(range(K::TOP, K::PAGE), HwError::OutOfRange { iova: iova(K::TOP), len: K::PAGE });
        let out = HwError::OutOfRange { iova: iova(K::TOP - K::PAGE), len: 2 * K::PAGE };
        check(range(K::TOP - K::PAGE, 2 * K::PAGE), out);
        for leaf in rig.leaves().into_iter().filter(|leaf| leaf.size != K::PAGE) {
            let splits = HwError::SplitsLeaf { iova: iova(leaf.iova), size: leaf.size };
            check(range(leaf.iova + K::PAGE, leaf.size - K::PAGE), splits);
            check(range(leaf.iova, leaf.size - K::PAGE), splits);
            check(range(leaf.iova + leaf.size / 2, K::PAGE), splits);
            check(range(0, leaf.iova + K::PAGE), splits);
        }
    }
}

fn a_write_in_the_middle_of_clearing_is_found_later<K: Kind>() {
    let mut rig = Rig::<K>::new(WalkerMemory::Coherent);
    let all = spread(&mut rig);
    let aperture = rig.table.geometry().aperture;
    let raw = K::RAW;
    let root = raw.root(rig.table.root().get());
    for again in &all {
        all.iter().for_each(|range| rig.write(range.last().get()));
        // At every store of the clearing: it is for this leaf, or for another.
        let at = again.last().get();
        let written = Arc::new(Mutex::new(0));
        let count = written.clone();
        rig.memory.set_observer(Some(Box::new(move |memory, _| {
            let read = |phys| memory.device_read64(PhysAddr::new(phys));
            let place = raw.locate(&read, root, at).unwrap().unwrap();
            let new = raw.written(place.entry, place.level).unwrap();
            *count.lock().unwrap() += usize::from(new != place.entry);
            memory.device_write32(PhysAddr::new(place.address), new as u32).unwrap();
        })));
        let (found, _) = read_and_clear(&rig, aperture);
        rig.memory.set_observer(None);
        assert!(found.iter().any(|range| range.covers(*again)));
        assert_eq!(*written.lock().unwrap(), 1, "it was cleared once, and written through once more");
        let leaf = leaves_of(&rig, &[at]);
        assert_eq!(rig.dirty(), leaf);
        assert_eq!(read_and_clear(&rig, aperture).0, leaf);
    }
}

fn protection_keeps_what_was_written_through<K: Kind>() {
    let mut rig = Rig::<K>::new(WalkerMemory::Coherent);
    let all = spread(&mut rig);
    let written: Vec<_> = all.iter().step_by(2).map(|range| range.start().get() + 16).collect();
    written.iter().for_each(|at| rig.write(*at));
    let expected = leaves_of(&rig, &written);
    for prot in [Prot::READ, Prot::READ_WRITE, Prot::READ] {
        for part in &all {
            rig.run(Op::Protect(*part, prot), &mut common::Unit::default()).unwrap();
            rig.flat.protect(*part, prot);
        }
        assert_eq!(rig.dirty(), expected, "{prot}");
    }
    assert_eq!(read_and_clear(&rig, rig.table.geometry().aperture).0, expected, "read-only leaves are cleaned too");
    assert_eq!(rig.dirty(), []);
}

/// A CPU clears while hardware writes: each time that hardware has set the bit is found, once.
#[test]
fn each_write_is_found_once() {
    type K = common::Second4Tracked;
    let mut rig = Rig::<K>::new(WalkerMemory::Coherent);
    rig.map(0, 4 * K::PAGE, Prot::READ_WRITE);
    let read = |phys| rig.memory.device_read64(PhysAddr::new(phys));
    let root = K::RAW.root(rig.table.root().get());
    let place = K::RAW.locate(&read, root, 2 * K::PAGE).unwrap().unwrap();
    let bit = K::RAW.written(place.entry, place.level).unwrap() & !place.entry;
    let enough = AtomicBool::new(false);
    let mut found = 0;
    let set = std::thread::scope(|scope| {
        let hardware = scope.spawn(|| {
            let mut set = 0;
            while !enough.load(Ordering::Acquire) {
                let old = rig.memory.device_or64(PhysAddr::new(place.address), bit).unwrap();
                set += usize::from(old & bit == 0);
            }
            set
        });
        for _ in 0..1_000_000 {
            if found >= 1000 {
                break;
            }
            found += read_and_clear(&rig, range(0, 4 * K::PAGE)).0.len();
        }
        enough.store(true, Ordering::Release);
        hardware.join().unwrap()
    });
    found += read_and_clear(&rig, range(0, 4 * K::PAGE)).0.len();
    assert_eq!(found, set);
}

fn a_shared_table_hands_out_what_the_range_has_of_a_leaf<K: Kind>() {
    let mut rig = Rig::<K>::new(WalkerMemory::Coherent);
    // Two of the largest leaves, and a page right behind.
    let (page, size) = (K::PAGE, *sizes::<K>().last().unwrap());
    let start = 2 * size;
    rig.map(start, 2 * size, Prot::READ_WRITE);
    rig.map(start + 2 * size, page, Prot::READ_WRITE);
    assert_eq!(rig.leaves().len(), 3);
    // The first leaf, and the page.
    rig.write(start + page);
    rig.write(start + 2 * size);
    let Rig { table, .. } = rig;
    let shared = SharedTable::new(table);
    let read = |range: IovaRange| {
        let mut all = Vec::new();
        shared.read_dirty(range, &mut |range| all.push(range)).unwrap();
        all
    };
    let clear = |range: IovaRange| {
        let (mut all, mut gather) = (Vec::new(), Gather::new());
        shared.read_and_clear_dirty(range, &mut gather, &mut |range| all.push(range)).unwrap();
        (all, gather.ranges().collect::<Vec<_>>())
    };
    let (first, whole) = (range(start, size), range(start, 2 * size + page));
    let last = range(start + 2 * size, page);
    assert_eq!(read(whole), [first, last]);
    // Inside of one leaf; from one into the next; from a hole; up to behind it.
    let inside = range(start + page, page);
    assert_eq!(read(inside), [inside]);
    assert_eq!(read(range(start + size - page, 2 * page)), [range(start + size - page, page)]);
    assert_eq!(read(range(start - page, 3 * page)), [range(start, 2 * page)]);
    assert_eq!(read(range(start + size, size - page)), []);
    assert_eq!(read(range(start + size + page, size)), [last]);
    // Reaching out, they stay dirty: their other part has not been handed out.
    assert_eq!(clear(inside), (vec![inside], vec![]));
    assert_eq!(clear(range(start + page, 2 * size)), (vec![range(start + page, size - page), last], vec![last]));
    assert_eq!(read(whole), [first]);
    assert_eq!(clear(range(start, size + page)), (vec![first], vec![first]));
    assert_eq!(read(whole), []);
    let misaligned = shared.read_dirty(range(start + 1, page), &mut |_| panic!("nothing is handed out"));
    assert!(matches!(misaligned, Err(HwError::Misaligned { .. })));
}

//! Hardware that notes writes in leaves at the same moment as the owner of the range changes them.

use crate::common::{self, Kind, iova, range, run};
use crate::oracle::Random;
use iommu_core::addr::{IovaRange, PhysAddr};
use iommu_core::hw::{Gather, HwError, Prot};
use iommu_hal::Hal;
use iommu_models::memory::TestMemory;
use iommu_pgtable::{Claim, Flush};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A unit that is in the middle of a walk, or not: whoever has the lock walks.
struct Walking<'l>(&'l Mutex<()>);

// SAFETY: walks begin in the root and hold the lock; once it was free, none is under way that began before.
unsafe impl Flush for Walking<'_> {
    fn flush(&mut self, _: &Gather) -> Result<(), HwError> {
        drop(self.0.lock().unwrap());
        Ok(())
    }
}

/// A device writes through pages, each of them once, and hardware notes that by compare-and-exchange, while the owner
/// cuts, merges, protects and looks for what is dirty: each write is found in the end.
pub fn hardware_notes_writes_while_leaves_change<K: Kind>() {
    let memory = common::memory();
    let (mut found, mut refused) = (0, 0);
    for round in 0..12 {
        let mut random = Random(round);
        let mut table = K::table(&memory);
        let (root, all) = (table.root(), range(0, 2 * K::LARGE));
        let mut claim = table.exclusive();
        let mut dirty: Vec<IovaRange> = Vec::new();
        let walking = Mutex::new(());
        let unit = &mut Walking(&walking);
        claim.map(iova(0), &[run(0, 2 * K::LARGE)], Prot::READ_WRITE, unit).unwrap();
        if round % 2 == 0 {
            claim.cut(all, K::PAGE, unit).unwrap();
        }
        let mut pages: Vec<u64> = (0..2 * K::ENTRIES).map(|page| page * K::PAGE).collect();
        (1..pages.len()).for_each(|n| pages.swap(n, random.below(n as u64 + 1) as usize));
        let done = AtomicBool::new(false);
        let written = std::thread::scope(|scope| {
            let hardware = scope.spawn(|| {
                let write = |page: &u64| {
                    let _walk = walking.lock().unwrap();
                    write_once::<K>(&memory, root, *page)
                };
                let written: Vec<u64> = pages.iter().copied().filter(write).collect();
                done.store(true, Ordering::Relaxed);
                written
            });
            while !done.load(Ordering::Relaxed) {
                change::<K>(&mut claim, unit, &mut random, &mut dirty);
            }
            hardware.join().unwrap()
        });
        claim.read_dirty(all, &mut |range| dirty.push(range)).unwrap();
        for at in &written {
            assert!(
                dirty.iter().any(|range| range.contains(iova(*at))),
                "the write to {at:#x} was lost, round {round}"
            );
        }
        found += written.len();
        refused += pages.len() - written.len();
        drop(table);
        assert_eq!(memory.in_use(), 0);
    }
    println!("{found} writes, {refused} refused");
    assert!(found >= 1000);
}

/// Writes to `at` as hardware does, if that is allowed.
fn write_once<K: Kind>(memory: &TestMemory, root: PhysAddr, at: u64) -> bool {
    let read = |phys| memory.device_read64(PhysAddr::new(phys));
    loop {
        let place = K::RAW.locate(&read, K::RAW.root(root.get()), at).unwrap();
        let Some((place, new)) = place.and_then(|place| Some((place, K::RAW.written(place.entry, place.level)?)))
        else {
            return false;
        };
        let word = memory.phys_to_virt(PhysAddr::new(place.address)).cast::<AtomicU64>();
        // SAFETY: the entry lies in a table, none of which is freed during a walk; tables are accessed atomically only.
        let word = unsafe { word.as_ref() };
        if word.compare_exchange(place.entry, new, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            return true;
        }
    }
}

/// Changes leaves in some way, and notes what is said to be dirty.
fn change<K: Kind>(
    claim: &mut Claim<'_, &TestMemory, K::F>,
    unit: &mut Walking<'_>,
    random: &mut Random,
    dirty: &mut Vec<IovaRange>,
) {
    let (sizes, all) = (K::sizes(), range(0, 2 * K::LARGE));
    let size = random.pick(&sizes).min(K::LARGE);
    let part = range(random.below(2 * K::LARGE) & !(size - 1), size);
    match random.below(8) {
        0 => _ = claim.cut(part, K::PAGE, unit).unwrap(),
        1 => _ = claim.merge(part, unit).unwrap(),
        // Refused where it splits a leaf.
        2 => _ = claim.protect(part, Prot::READ, unit),
        3 => _ = claim.protect(all, Prot::READ_WRITE, unit).unwrap(),
        _ => {
            let mut gather = Gather::new();
            let cleared = claim.read_and_clear_dirty(part, &mut gather, &mut |range| dirty.push(range));
            assert!(matches!(cleared, Ok(()) | Err(HwError::SplitsLeaf { .. })), "{cleared:?}");
            unit.flush(&gather).unwrap();
        }
    }
}

//! Threads that come with any ranges, overlapping ones too, and a flat oracle that each looks at and changes while it has
//! the claim on the range.

use crate::common::{self, Kind, Unit, iova, range, run};
use crate::hooked::Hooked;
use crate::oracle::Random;
use iommu_core::addr::{IovaRange, PhysExtent};
use iommu_core::hw::{Gather, HwError, Prot};
use iommu_hal::WalkerMemory;
use iommu_pgtable::{Claim, Removed, SharedTable};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const THREADS: u64 = 4;

/// Where each page of the first `2 * LARGE` leads, plus one; 0 where it leads nowhere.
struct Pages(Vec<AtomicU64>);

impl Pages {
    fn of<K: Kind>(&self, range: IovaRange) -> &[AtomicU64] {
        &self.0[(range.start().get() / K::PAGE) as usize..=(range.last().get() / K::PAGE) as usize]
    }

    fn get<K: Kind>(&self, at: u64) -> Option<u64> {
        self.0[(at / K::PAGE) as usize].load(Ordering::Relaxed).checked_sub(1)
    }
}

/// Compares what the claim says of a range with the oracle: all of it, or some pages of a long one.
fn compare<K: Kind>(claim: &Claim<'_, Hooked, K::F>, pages: &Pages, range: IovaRange, random: &mut Random) {
    let len = range.len().unwrap();
    for n in 0..(len / K::PAGE).min(16) {
        let offset = if len / K::PAGE <= 16 { n * K::PAGE } else { random.below(len / K::PAGE) * K::PAGE };
        let at = range.start().get() + offset;
        let found = claim.translate(iova(at)).map(|to| to.phys.get());
        assert_eq!(found, pages.get::<K>(at), "{at:#x}");
    }
}

/// Maps, if nothing is mapped there.
fn map<K: Kind>(claim: &mut Claim<'_, Hooked, K::F>, pages: &Pages, part: IovaRange, extent: PhysExtent) -> bool {
    let cells = pages.of::<K>(part);
    let taken = cells.iter().position(|cell| cell.load(Ordering::Relaxed) != 0);
    let mapped = claim.map(part.start(), &[extent], Prot::READ_WRITE, &mut Unit::default());
    if let Some(first) = taken {
        let iova = iova(part.start().get() + first as u64 * K::PAGE);
        assert_eq!(mapped, Err(HwError::AlreadyMapped { iova }));
        return false;
    }
    mapped.unwrap();
    let each = (extent.start.get()..).step_by(K::PAGE as usize);
    cells.iter().zip(each).for_each(|(cell, phys)| cell.store(phys + 1, Ordering::Relaxed));
    true
}

/// Unmaps, if all is mapped and no leaf reaches out.
fn unmap<K: Kind>(
    claim: &mut Claim<'_, Hooked, K::F>,
    pages: &Pages,
    part: IovaRange,
    gather: &mut Gather,
) -> Result<(), HwError> {
    let cells = pages.of::<K>(part);
    let hole = cells.iter().position(|cell| cell.load(Ordering::Relaxed) == 0);
    let mut at = part.start().get();
    let unmapped = claim.unmap(part, gather, &mut |removed: &Removed| {
        assert_eq!(removed.iova.get(), at, "what goes is in order");
        for offset in (0..removed.extent.len).step_by(K::PAGE as usize) {
            assert_eq!(pages.get::<K>(at + offset), Some(removed.extent.start.get() + offset));
        }
        at += removed.extent.len;
    });
    match (unmapped, hole) {
        (Ok(()), None) => {
            assert_eq!(at, part.last().get() + 1, "all of it is handed out");
            cells.iter().for_each(|cell| cell.store(0, Ordering::Relaxed));
        }
        (Err(HwError::SplitsLeaf { size, .. }), _) => assert!(size > K::PAGE),
        (Err(HwError::NotMapped { iova }), Some(hole)) => {
            assert_eq!(iova.get(), part.start().get() + hole as u64 * K::PAGE);
        }
        (other, hole) => panic!("{other:?} with a hole at {hole:?}"),
    }
    unmapped
}

pub fn threads_come_with_any_ranges<K: Kind>() {
    let turns = if K::ENTRIES <= 512 { 2000 } else { 300 };
    let hal = Hooked::new();
    let table = SharedTable::<_, K::F>::new(K::table(hal.clone()));
    let pages = Pages((0..2 * K::ENTRIES).map(|_| AtomicU64::new(0)).collect());
    let done: [AtomicUsize; 4] = [const { AtomicUsize::new(0) }; 4];
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (table, pages, done) = (&table, &pages, &done);
            scope.spawn(move || {
                let mut random = Random(0x5eed + thread);
                let mut gather = Gather::new();
                for _ in 0..turns {
                    // A large leaf, a table of pages, or a few pages around the border.
                    let (start, len, shift) = match random.below(5) {
                        0 => (random.below(2) * K::LARGE, K::LARGE, 0),
                        1 => (random.below(2) * K::LARGE, K::LARGE, K::PAGE),
                        _ => (
                            K::LARGE - 8 * K::PAGE + random.below(12) * K::PAGE,
                            (1 + random.below(4)) * K::PAGE,
                            K::PAGE,
                        ),
                    };
                    let part = range(start, len);
                    let memory = run((1 + random.below(8)) * 8 * K::LARGE + start % K::LARGE + shift, len);
                    let what = random.below(8);
                    if what == 7 {
                        let at = start + random.below(len / K::PAGE) * K::PAGE;
                        table.split(iova(at), &mut Unit::default()).unwrap();
                        done[2].fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    table.with_claim(part, |mut claim| {
                        assert_eq!(claim.range(), part);
                        compare::<K>(&claim, pages, part, &mut random);
                        let changed = match what {
                            0..3 => map::<K>(&mut claim, pages, part, memory),
                            3..6 => unmap::<K>(&mut claim, pages, part, &mut gather).is_ok(),
                            _ => false,
                        };
                        done[usize::from(what >= 3)].fetch_add(usize::from(changed), Ordering::Relaxed);
                        compare::<K>(&claim, pages, part, &mut random);
                    });
                    // An address that others may be changing: it leads nowhere, or to a page of some map.
                    let at = if random.below(2) == 0 { random.below(2 * K::LARGE) } else { start + random.below(len) };
                    if let Some(to) = table.translate(iova(at)) {
                        assert_eq!((to.phys.get() % K::PAGE, to.prot), (at % K::PAGE, Prot::READ_WRITE));
                        done[3].fetch_add(1, Ordering::Relaxed);
                    }
                    if random.below(3) == 0 {
                        // SAFETY: there is no hardware.
                        unsafe { table.free_gathered(&mut gather) };
                        gather.clear();
                    }
                }
                // SAFETY: as above.
                unsafe { table.free_gathered(&mut gather) };
            });
        }
    });
    let done = done.map(AtomicUsize::into_inner);
    println!("{} maps, {} unmaps, {} splits, {} translations", done[0], done[1], done[2], done[3]);
    assert!(done.iter().all(|done| *done >= 4), "{done:?}");
    let table = table.into_inner();
    assert_eq!(table.retired(), 0);
    let leaves = common::leaves_in::<K, _>(hal.memory(), &table, WalkerMemory::Coherent);
    let mapped: u64 = leaves.iter().map(|leaf| leaf.size / K::PAGE).sum();
    for at in leaves.iter().flat_map(|leaf| (0..leaf.size).step_by(K::PAGE as usize).map(|offset| (*leaf, offset))) {
        assert_eq!(pages.get::<K>(at.0.iova + at.1), Some(at.0.phys + at.1));
    }
    assert_eq!(pages.0.iter().filter(|page| page.load(Ordering::Relaxed) != 0).count() as u64, mapped);
    drop(table);
    assert_eq!(hal.memory().in_use(), 0);
    hal.memory().check_freed();
}

//! What hardware finds at every single store of a map or unmap: for each address the old state or the new one, from the
//! root and from every table that it may have cached an entry to.

mod common;

use common::raw::{Leaf, Start, entry_size};
use common::{Flat, G1, K4, Kind, M2, Page, iova, range, run};
use iommu_core::addr::{IovaRange, PhysAddr, PhysExtent};
use iommu_core::hw::{Gather, Prot};
use iommu_hal::WalkerMemory;
use iommu_models::memory::TestMemory;
use iommu_pgtable::PageTable;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

for_each_kind!(
    every_store_of_a_map_shows_old_or_new,
    every_store_of_an_unmap_shows_old_or_new,
    retired_tables_never_show_anything_else,
    a_new_subtree_appears_with_one_store,
);

const MEMORIES: [WalkerMemory; 2] = [WalkerMemory::Coherent, WalkerMemory::NonCoherent];

struct Rig<K: Kind> {
    memory: Arc<TestMemory>,
    table: PageTable<Arc<TestMemory>, K::F>,
    flat: Flat,
}

/// The page that a leaf leads `at` to.
fn page(leaf: Option<Leaf>, at: u64) -> Option<Page> {
    leaf.map(|leaf| (leaf.phys + (at - leaf.iova), leaf.read, leaf.write))
}

impl<K: Kind> Rig<K> {
    /// Empty tables. In the memory of `Coherent` tables every store is seen at once, as with caches that write back
    /// early; in that of the others what was cleaned.
    fn new(how: WalkerMemory) -> Self {
        let memory = Arc::new(match how {
            WalkerMemory::Coherent => common::memory(),
            WalkerMemory::NonCoherent => common::non_coherent(),
        });
        Self { table: K::table_in(memory.clone(), how), memory, flat: Flat::default() }
    }

    fn with(mut self, at: u64, extents: &[PhysExtent]) -> Self {
        self.table.map(iova(at), extents, Prot::READ).unwrap();
        self.flat.map(at, extents, Prot::READ);
        self
    }

    fn tables(&self) -> Vec<Start> {
        let read = |phys| self.memory.device_read64(PhysAddr::new(phys));
        K::RAW.scan(&read, K::RAW.root(self.table.root().get())).unwrap().1
    }

    /// Runs `change`. At every store and after it, each page of `around` and its neighbours must lead where it did or
    /// where `new` says; from tables that were there before, it may lead nowhere as well.
    fn watch(&mut self, around: IovaRange, new: Flat, change: impl FnOnce(&mut PageTable<Arc<TestMemory>, K::F>)) {
        let old = std::mem::replace(&mut self.flat, new.clone());
        let starts = self.tables();
        let root = starts[0];
        let (first, last) = (around.start().get().saturating_sub(K4), around.last().get() + K4);
        let top = (1 << K::INPUT_BITS) - 1;
        let after = new.clone();
        let check = move |memory: &TestMemory| {
            let read = |phys| memory.device_read64(PhysAddr::new(phys));
            for at in (first..=last.min(top)).step_by(K4 as usize) {
                let (old, new) = (old.0.get(&at).copied(), new.0.get(&at).copied());
                for start in &starts {
                    if at < start.iova || at - start.iova >= entry_size(start.level + 1) {
                        continue;
                    }
                    let seen = page(K::RAW.walk(&read, *start, at).unwrap(), at);
                    let allowed = seen == old || seen == new || seen.is_none() && *start != root;
                    assert!(allowed, "{at:#x} leads to {seen:x?}: neither {old:x?} nor {new:x?}, from {start:x?}");
                }
            }
            assert_eq!(memory.take_stale_reads(), []);
        };
        let check = Arc::new(check);
        let stores = Arc::new(AtomicUsize::new(0));
        let (seen, counter) = (check.clone(), stores.clone());
        self.memory.set_observer(Some(Box::new(move |memory, _| {
            counter.fetch_add(1, Ordering::Relaxed);
            seen(memory);
        })));
        change(&mut self.table);
        self.memory.set_observer(None);
        check(&self.memory);
        assert_ne!(stores.load(Ordering::Relaxed), 0);
        // After it: the new state and no other.
        let read = |phys| self.memory.device_read64(PhysAddr::new(phys));
        assert!(after.is_mapped_by(&K::RAW.scan(&read, root).unwrap().0));
    }

    fn map(&mut self, at: u64, extents: &[PhysExtent], prot: Prot) {
        let mut new = self.flat.clone();
        new.map(at, extents, prot);
        let len = extents.iter().map(|extent| extent.len).sum();
        self.watch(range(at, len), new, |table| table.map(iova(at), extents, prot).unwrap());
    }

    fn unmap(&mut self, at: u64, len: u64) -> Gather {
        let mut new = self.flat.clone();
        new.unmap(range(at, len));
        let mut gather = Gather::new();
        self.watch(range(at, len), new, |table| table.unmap(range(at, len), &mut gather).unwrap());
        gather
    }
}

fn every_store_of_a_map_shows_old_or_new<K: Kind>() {
    for how in MEMORIES {
        // Into nothing.
        Rig::<K>::new(how).map(0x5_4321_0000, &[run(7 * K4, K4)], Prot::READ_WRITE);
        // Beside pages of the same table, and across the border of two.
        let mut rig = Rig::<K>::new(how).with(M2 - 9 * K4, &[run(K4, 3 * K4)]).with(M2 + 9 * K4, &[run(K4, 3 * K4)]);
        rig.map(M2 - 6 * K4, &[run(3 * K4, 2 * K4), run(77 * K4, 13 * K4)], Prot::READ_WRITE);
        // Across 1 GiB: small, large, small, with a table in the way of a large one.
        let mut rig = Rig::<K>::new(how).with(G1, &[run(K4, K4)]);
        let _ = rig.unmap(G1, K4);
        rig.map(G1 - M2 - 2 * K4, &[run(8 * G1 - M2 - 2 * K4, 2 * M2 + 4 * K4)], Prot::READ_WRITE);
        // The top of the aperture.
        let top = 1 << K::INPUT_BITS;
        Rig::<K>::new(how).map(top - 3 * K4, &[run(9 * K4, K4), run(K4, 2 * K4)], Prot::READ);
    }
}

fn every_store_of_an_unmap_shows_old_or_new<K: Kind>() {
    for how in MEMORIES {
        let around = |how| {
            let rig = Rig::<K>::new(how).with(G1 - M2 - 2 * K4, &[run(8 * G1 - M2 - 2 * K4, 2 * M2 + 4 * K4)]);
            rig.with(G1 + M2 + 2 * K4, &[run(G1, 20 * K4)])
        };
        // Pages at one end, the large ones, pages up to the middle of a table.
        let _ = around(how).unmap(G1 - M2 - 2 * K4, 2 * K4);
        let _ = around(how).unmap(G1 - M2, 2 * M2);
        let _ = around(how).unmap(G1 - M2 - K4, 2 * M2 + 9 * K4);
        // A covered table between two that are not.
        let mut rig = Rig::<K>::new(how).with(M2 - 4 * K4, &[run(K4, M2 + 8 * K4)]);
        let _ = rig.unmap(M2 - 2 * K4, M2 + 4 * K4);
        assert_eq!(rig.table.retired(), 1);
    }
}

fn retired_tables_never_show_anything_else<K: Kind>() {
    for how in MEMORIES {
        let mut rig = Rig::<K>::new(how).with(M2, &[run(K4, M2)]);
        let leaves = rig.flat.clone();
        let starts = rig.tables();
        let _gather = rig.unmap(M2, M2);
        // Other mappings, the flush outstanding: the frame shows what it held or nothing, and is nobody else's.
        rig.map(M2, &[run(9 * G1, M2 / 2), run(7 * G1 + K4, M2 / 2)], Prot::READ);
        let read = |phys| rig.memory.device_read64(PhysAddr::new(phys));
        let retired = starts.last().unwrap();
        assert_eq!((retired.level, rig.table.retired()), (1, 1));
        for at in (M2..2 * M2).step_by(K4 as usize) {
            let seen = page(K::RAW.walk(&read, *retired, at).unwrap(), at);
            // Link and ticket took the place of two entries; they are not cleaned.
            let cut = at < M2 + 2 * K4 && how == WalkerMemory::Coherent;
            assert_eq!(seen, leaves.0.get(&at).copied().filter(|_| !cut), "{at:#x}");
        }
    }
}

fn a_new_subtree_appears_with_one_store<K: Kind>() {
    let mut rig = Rig::<K>::new(WalkerMemory::Coherent);
    let root = K::RAW.root(rig.table.root().get());
    let steps = Arc::new(std::sync::Mutex::new(Vec::new()));
    let record = steps.clone();
    rig.memory.set_observer(Some(Box::new(move |memory, _| {
        let read = |phys| memory.device_read64(PhysAddr::new(phys));
        let count = K::RAW.scan(&read, root).unwrap().0.len();
        let mut steps = record.lock().unwrap();
        if steps.last() != Some(&count) {
            steps.push(count);
        }
    })));
    rig.table.map(iova(M2 - 3 * K4), &[run(0, 3 * K4), run(K4, 4 * K4)], Prot::READ).unwrap();
    rig.memory.set_observer(None);
    assert_eq!(*steps.lock().unwrap(), [0, 7]);
}

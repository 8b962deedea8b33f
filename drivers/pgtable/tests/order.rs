//! What hardware finds at every single store of a map or unmap: for each address the old state or the new one, from the
//! root and from every table that it may have cached an entry to.

mod common;

use common::raw::{Entry, Leaf, Raw, Start};
use common::{Flat, Kind, Page, Unit, iova, range, run, staircase};
use iommu_core::addr::{IovaRange, PhysAddr, PhysExtent};
use iommu_core::hw::{Gather, Prot};
use iommu_hal::WalkerMemory;
use iommu_models::memory::TestMemory;
use iommu_pgtable::PageTable;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

for_each_kind!(
    every_store_of_a_map_shows_old_or_new,
    every_store_of_an_unmap_shows_old_or_new,
    every_store_of_a_collapse_shows_old_or_new,
    retired_tables_never_show_anything_else,
    tables_are_linked_empty_and_leaves_stored_after,
);

/// How the tables are read, and when a device sees what is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum View {
    /// The walker snoops: it sees every store at once.
    Snooped,
    /// It does not, and sees what was cleaned, no sooner.
    Cleaned,
    /// It does not, and caches write back every store at once.
    WrittenBackEarly,
}

impl View {
    /// Those that a kind can have.
    fn all<K: Kind>() -> &'static [Self] {
        match K::RAW.tracked {
            true => &[Self::Snooped],
            false => &[Self::Snooped, Self::Cleaned, Self::WrittenBackEarly],
        }
    }

    fn memory(self) -> TestMemory {
        if self == Self::Cleaned { common::non_coherent() } else { common::memory() }
    }

    fn how(self) -> WalkerMemory {
        if self == Self::Snooped { WalkerMemory::Coherent } else { WalkerMemory::NonCoherent }
    }
}

/// The page that a leaf leads `at` to.
fn page(leaf: Option<Leaf>, at: u64) -> Option<Page> {
    leaf.map(|leaf| (leaf.phys + (at - leaf.iova), leaf.read, leaf.write))
}

/// Every so many stores, so many of the addresses are looked at that are not looked at at every store, in turns.
const SOME: usize = 32;

/// Looks at the tables at every store.
struct Watch {
    raw: Raw,
    root: Start,
    old: Flat,
    new: Flat,
    /// Tables that hardware may walk from, the root first.
    starts: Vec<Start>,
    /// Tables in the tree, by their address.
    known: BTreeMap<u64, Start>,
    /// Addresses looked at at every store, and in turns.
    often: Vec<u64>,
    seldom: Vec<u64>,
    stores: usize,
    /// Tables put in.
    linked: usize,
}

impl Watch {
    /// A watch of what changes in `around`, at both of its ends, and at the borders of what is and will be mapped there.
    fn new(raw: Raw, starts: Vec<Start>, around: IovaRange, old: Flat, new: Flat) -> Self {
        let (page, first, last) = (raw.page(), around.start().get(), around.last().get());
        let mut often = BTreeSet::new();
        let mut border = |at: u64| {
            for at in [at.wrapping_sub(page), at, at.wrapping_add(page)] {
                if at < raw.top() {
                    often.insert(at);
                }
            }
        };
        border(first);
        border(last + 1);
        for (start, run) in old.runs().chain(new.runs()) {
            for at in [start, start + run.len] {
                if at + page >= first && at <= last + page {
                    border(at);
                }
            }
        }
        // A number of them that has nothing in common with the sizes of leaves.
        let pages = (last - first + 1) / page;
        let seldom = (0..pages.min(1021)).map(|n| first + pages * n / pages.min(1021) * page).collect();
        let known = starts.iter().map(|start| (start.table, *start)).collect();
        let (root, often) = (starts[0], often.into_iter().collect());
        Self { raw, root, old, new, starts, known, often, seldom, stores: 0, linked: 0 }
    }

    /// Looks after a store to `phys`.
    fn stored(&mut self, memory: &TestMemory, phys: PhysAddr) {
        self.stores += 1;
        let mut near = self.often.clone();
        // The table that was stored to, if it is in the tree.
        if let Some((_, start)) = self.known.range(..=phys.get()).next_back().map(|(at, start)| (*at, *start)) {
            let index = (phys.get() - start.table) / 8;
            if index < self.raw.entries(start.level) {
                let size = self.raw.entry_size(start.level);
                let at = start.iova + index * size;
                let beside = [at.wrapping_sub(self.raw.page()), at, at + size - self.raw.page(), at + size];
                near.extend(beside.into_iter().filter(|at| *at < self.raw.top()));
                self.look_at_link(memory, phys, start, at);
            }
        }
        if self.stores.is_multiple_of(SOME) {
            near.extend(self.seldom.iter().cycle().skip(self.stores % self.seldom.len()).take(SOME));
        }
        self.look(memory, &near);
    }

    /// A table is in the tree once the link is stored, and holds nothing then, neither for software nor for hardware.
    fn look_at_link(&mut self, memory: &TestMemory, phys: PhysAddr, start: Start, iova: u64) {
        let Ok(Entry::Table(table)) = self.raw.entry(memory.read64(phys), start.level) else { return };
        if self.known.contains_key(&table) {
            return;
        }
        let level = start.level - 1;
        for index in 0..self.raw.entries(level) {
            let at = PhysAddr::new(table + 8 * index);
            assert_eq!(memory.read64(at), 0, "a table is put in that is not empty");
            let seen = self.raw.entry(memory.device_read64(at).unwrap(), level);
            assert_eq!(seen, Ok(Entry::Nothing), "a table is put in that is not empty in memory");
        }
        self.linked += 1;
        self.known.insert(table, Start { table, level, iova });
    }

    /// Walks to addresses from wherever hardware may.
    fn look(&self, memory: &TestMemory, at: &[u64]) {
        let read = |phys| memory.device_read64(PhysAddr::new(phys));
        for &at in at {
            let (old, new) = (self.old.get(at), self.new.get(at));
            for start in &self.starts {
                let inside =
                    *start == self.root || at >= start.iova && at - start.iova < self.raw.entry_size(start.level + 1);
                if !inside {
                    continue;
                }
                let seen = page(self.raw.walk(&read, *start, at).unwrap(), at);
                // From a table that was taken out an address may lead nowhere.
                let allowed = seen == old || seen == new || seen.is_none() && *start != self.root;
                assert!(allowed, "{at:#x} leads to {seen:x?}: neither {old:x?} nor {new:x?}, from {start:x?}");
            }
        }
        assert_eq!(memory.take_stale_reads(), []);
    }

    /// Hardware has forgotten every table that is not in the tree.
    fn forget(&mut self, tree: &[Start]) {
        self.starts.retain(|start| tree.contains(start));
    }
}

struct Rig<K: Kind> {
    view: View,
    memory: Arc<TestMemory>,
    table: PageTable<Arc<TestMemory>, K::F>,
    flat: Flat,
}

impl<K: Kind> Rig<K> {
    fn new(view: View) -> Self {
        let memory = Arc::new(view.memory());
        Self { view, table: K::table_in(memory.clone(), view.how()), memory, flat: Flat::default() }
    }

    fn with(mut self, at: u64, extents: &[PhysExtent]) -> Self {
        common::map::<K, _>(&mut self.table, at, extents, Prot::READ).unwrap();
        self.flat.map(at, extents, Prot::READ);
        self
    }

    fn raw(&self) -> Raw {
        K::raw(self.view.how())
    }

    fn scan(&self) -> (Vec<Leaf>, Vec<Start>) {
        common::scan::<K, _>(&self.memory, &self.table, self.view.how())
    }

    /// Runs `change`, with a look at every store and after it. Afterwards the new state stands there and no other.
    /// Returns how many tables were put in.
    fn watch(
        &mut self,
        around: IovaRange,
        new: Flat,
        change: impl FnOnce(&mut PageTable<Arc<TestMemory>, K::F>, &mut Unit<'_>),
    ) -> usize {
        let old = std::mem::replace(&mut self.flat, new.clone());
        let (raw, starts) = (self.raw(), self.scan().1);
        let root = starts[0];
        let watch = Arc::new(Mutex::new(Watch::new(raw, starts, around, old, new)));
        let at_store = watch.clone();
        self.memory.set_observer(Some(Box::new(move |memory, phys| {
            // A failure in an earlier look is the one to report.
            if let Ok(mut watch) = at_store.lock() {
                watch.stored(memory, phys);
            }
        })));
        let (at_flush, memory) = (watch.clone(), self.memory.clone());
        let mut unit = Unit {
            at_flush: Some(Box::new(move |_| {
                let read = |phys| memory.device_read64(PhysAddr::new(phys));
                let (_, tree) = raw.scan(&read, root).unwrap();
                at_flush.lock().unwrap().forget(&tree);
            })),
            ..Unit::default()
        };
        change(&mut self.table, &mut unit);
        self.memory.set_observer(None);
        let watch = watch.lock().unwrap();
        watch.look(&self.memory, &watch.often);
        watch.look(&self.memory, &watch.seldom);
        assert_ne!(watch.stores, 0);
        assert!(self.flat.is_mapped_by(&self.scan().0));
        watch.linked
    }

    fn map(&mut self, at: u64, extents: &[PhysExtent], prot: Prot) -> usize {
        let mut new = self.flat.clone();
        new.map(at, extents, prot);
        let len = extents.iter().map(|extent| extent.len).sum();
        self.watch(range(at, len), new, |table, unit| {
            table.exclusive().map(iova(at), extents, prot, unit).unwrap();
        })
    }

    fn unmap(&mut self, at: u64, len: u64) -> Gather {
        let mut new = self.flat.clone();
        new.unmap(range(at, len));
        let mut gather = Gather::new();
        self.watch(range(at, len), new, |table, _| {
            table.exclusive().unmap(range(at, len), &mut gather, &mut |_| ()).unwrap();
        });
        gather
    }
}

fn every_store_of_a_map_shows_old_or_new<K: Kind>() {
    let (page, large, big) = (K::PAGE, K::LARGE, K::LARGEST);
    for &view in View::all::<K>() {
        // Into nothing.
        Rig::<K>::new(view).map(0x4321 * page, &[run(7 * page, page)], Prot::READ_WRITE);
        // Beside pages of the same table, and across the border of two.
        let rig = Rig::<K>::new(view).with(large - 9 * page, &[run(page, 3 * page)]);
        let mut rig = rig.with(large + 9 * page, &[run(page, 3 * page)]);
        rig.map(large - 6 * page, &[run(3 * page, 2 * page), run(77 * page, 13 * page)], Prot::READ_WRITE);
        // Leaves of every size.
        let (start, len, _) = staircase(&K::sizes(), 4 * big, 1);
        Rig::<K>::new(view).map(start, &[run(8 * big + start, len)], Prot::READ_WRITE);
        // Whole tables of pages, and the top of the aperture.
        Rig::<K>::new(view).map(3 * large - page, &[run(8 * page, 2 * large + 3 * page)], Prot::READ);
        Rig::<K>::new(view).map(K::TOP - 3 * page, &[run(9 * page, page), run(page, 2 * page)], Prot::READ);
    }
}

fn every_store_of_an_unmap_shows_old_or_new<K: Kind>() {
    let (page, large, big) = (K::PAGE, K::LARGE, K::LARGEST);
    let (start, len, _) = staircase(&K::sizes(), 4 * big, 1);
    for &view in View::all::<K>() {
        let around = || {
            let rig = Rig::<K>::new(view).with(start, &[run(8 * big + start, len)]);
            rig.with(start + len, &[run(big, 20 * page)])
        };
        // A page at one end, leaves of every other size, pages up to the middle of a table.
        let _ = around().unmap(start, page);
        let _ = around().unmap(start + page, len - 2 * page);
        let _ = around().unmap(start + page, len + 9 * page);
        let _ = around().unmap(4 * big, big);
        // A covered table between two that are not.
        let mut rig = Rig::<K>::new(view).with(large - 4 * page, &[run(page, large + 8 * page)]);
        let _ = rig.unmap(large - 2 * page, large + 4 * page);
        assert_eq!(rig.table.retired(), 1);
    }
}

fn every_store_of_a_collapse_shows_old_or_new<K: Kind>() {
    let (page, large, big) = (K::PAGE, K::LARGE, K::LARGEST);
    for &view in View::all::<K>() {
        // A table without a leaf where the middle one of three large leaves goes, pages beside them.
        let mut rig =
            Rig::<K>::new(view).with(large - page, &[run(7 * page, page)]).with(2 * large, &[run(page, page)]);
        let gather = rig.unmap(2 * large, page);
        assert!(!gather.tables_changed());
        let tables = rig.table.tables();
        rig.map(large, &[run(5 * large, 3 * large)], Prot::READ_WRITE);
        assert_eq!((rig.table.tables(), rig.table.retired()), (tables - 1, 0));
        // The largest leaf, where tables of every level that it takes the place of stand.
        let mut rig = Rig::<K>::new(view).with(4 * big - page, &[run(7 * page, 3 * page)]);
        let _ = rig.unmap(4 * big, 2 * page);
        rig.map(4 * big, &[run(8 * big, big)], Prot::READ_WRITE);
        assert_eq!(rig.table.retired(), 0);
    }
}

fn retired_tables_never_show_anything_else<K: Kind>() {
    let (page_size, large, big) = (K::PAGE, K::LARGE, K::LARGEST);
    for &view in View::all::<K>() {
        let mut rig = Rig::<K>::new(view).with(large, &[run(page_size, large)]);
        let (raw, before, starts) = (rig.raw(), rig.flat.clone(), rig.scan().1);
        let _gather = rig.unmap(large, large);
        // Other mappings, the flush outstanding: the frame shows what it held or nothing, and is nobody else's.
        rig.map(large, &[run(9 * big, large / 2), run(7 * big + page_size, large / 2)], Prot::READ);
        let read = |phys| rig.memory.device_read64(PhysAddr::new(phys));
        let retired = starts.last().unwrap();
        assert_eq!((retired.level, rig.table.retired()), (1, 1));
        for at in (large..2 * large).step_by(page_size as usize) {
            let seen = page(raw.walk(&read, *retired, at).unwrap(), at);
            assert!(seen.is_none() || seen == before.get(at), "{at:#x} leads to {seen:x?}");
        }
    }
}

fn tables_are_linked_empty_and_leaves_stored_after<K: Kind>() {
    let (page, large) = (K::PAGE, K::LARGE);
    for &view in View::all::<K>() {
        let mut rig = Rig::<K>::new(view);
        // The watch looks into each table at the moment when it is put in.
        let extents = [run(0, 3 * page), run(page, 4 * page), run(7 * page, large)];
        let linked = rig.map(5 * large - 3 * page, &extents, Prot::READ);
        assert_eq!((linked, rig.table.tables()), (K::RAW.levels as usize - 1 + 2, linked + 1));
        // Into frames that were tables before, of a chain of retired ones.
        let mut gather = rig.unmap(5 * large - 3 * page, large + 7 * page);
        common::flush::<K, _>(&rig.table, &mut gather);
        let (tables, frames) = (rig.table.tables(), rig.memory.in_use());
        let linked = rig.map(4 * large + page, &[run(3 * page, large + 2 * page)], Prot::READ_WRITE);
        assert_eq!(linked, rig.table.tables() - tables);
        assert!(linked >= 1 && rig.memory.in_use() > frames);
        // What is mapped only ever grows.
        let seen = Arc::new(Mutex::new(0));
        let (raw, root, last) = (rig.raw(), rig.table.root(), seen.clone());
        rig.memory.set_observer(Some(Box::new(move |memory, _| {
            let read = |phys| memory.device_read64(PhysAddr::new(phys));
            let mut last = last.lock().unwrap();
            let found = (0..16).filter(|n| {
                let at = 20 * large - 8 * page + n * page;
                raw.walk(&read, raw.root(root.get()), at).unwrap().is_some()
            });
            let found = found.count();
            assert!(found >= *last, "an address that led somewhere leads nowhere");
            *last = found;
        })));
        common::map::<K, _>(&mut rig.table, 20 * large - 8 * page, &[run(page, 16 * page)], Prot::READ).unwrap();
        rig.memory.set_observer(None);
        let all = rig.view != View::Cleaned;
        assert!(*seen.lock().unwrap() == 16 || !all);
    }
}

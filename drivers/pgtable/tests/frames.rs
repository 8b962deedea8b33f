//! Where table frames go: into gathers, back after the flush, all back at the end; what a gather holds; and what of the
//! tables is made visible to walkers that do not snoop.

mod common;

use common::raw::Entry;
use common::{
    Kind, Second4, flush, frames, iova, leaves, leaves_in, map, memory, non_coherent, range, run, scan, unmap,
};
use iommu_core::addr::{IovaRange, PhysAddr};
use iommu_core::hw::{Gather, Prot, Touched};
use iommu_hal::{FrameRequest, Hal, WalkerMemory};
use iommu_models::memory::{Maintenance, TestMemory};
use iommu_pgtable::{Config, PageTable};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

for_each_kind!(
    dropping_gives_every_frame_back,
    leaking_gives_nothing_back,
    a_covered_table_goes_into_the_gather_and_comes_back_after_the_flush,
    a_covered_table_names_its_leaves_too,
    one_gather_takes_many_unmaps,
    a_table_that_is_not_covered_stays,
    a_whole_tree_is_freed_but_for_what_holds_it,
    a_gather_names_the_leaves_that_are_gone,
    a_retired_table_keeps_all_but_two_entries,
    a_flush_frees_its_own_gather_only,
    a_warm_table_allocates_nothing,
    each_line_is_cleaned_once_an_operation,
    a_link_is_marked_visible_once_it_was_cleaned,
    a_link_of_a_neighbour_is_cleaned_before_it_is_relied_on,
);

fn is_send_and_sync<T: Send + Sync>(_: &T) {}

/// Where the lowest table on the way to `at` lies.
fn lowest_table<K: Kind, H: Hal>(memory: &TestMemory, table: &PageTable<H, K::F>, at: u64) -> PhysAddr {
    let (_, tables) = scan::<K, H>(memory, table, WalkerMemory::Coherent);
    let lowest = tables.iter().find(|start| start.level == 1 && start.iova == at / K::LARGE * K::LARGE);
    PhysAddr::new(lowest.unwrap().table)
}

/// The levels as a gather counts them, from 0: those of leaves of these sizes.
fn leaf_levels<K: Kind>(sizes: &[u64]) -> u8 {
    let level = |size: u64| (size.ilog2() - K::RAW.page_bits) / K::RAW.index_bits;
    sizes.iter().fold(0, |mask, size| mask | 1 << level(*size))
}

/// Range, levels of leaves and levels of tables of all that a gather holds.
fn held(gather: &Gather) -> Vec<(IovaRange, u8, u8)> {
    assert!(!gather.everything());
    let plain = |touched: Touched| (touched.range, touched.leaves.mask(), touched.tables.mask());
    gather.touched().map(plain).collect()
}

fn dropping_gives_every_frame_back<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    is_send_and_sync(&table);
    let (big, page) = (K::LARGEST, K::PAGE);
    assert_eq!((table.tables(), memory.in_use()), (1, frames::<K>(1)));
    for at in [0, big - page, big, 7 * big + K::LARGE, K::TOP - page] {
        map::<K, _>(&mut table, at, &[run(page, page)], Prot::READ).unwrap();
        leaves::<K, _>(&memory, &table);
    }
    map::<K, _>(&mut table, 9 * big, &[run(0, 2 * big + K::LARGE + page)], Prot::READ).unwrap();
    leaves::<K, _>(&memory, &table);
    // One that waits for its flush, and never gets it.
    let _ = unmap::<K, _>(&mut table, range(7 * big + K::LARGE, page), &mut Gather::new()).unwrap();
    let allocations = memory.allocations();
    drop(table);
    assert_eq!((memory.in_use(), memory.allocations()), (0, allocations));
    memory.check_freed();
}

fn leaking_gives_nothing_back<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    map::<K, _>(&mut table, 0, &[run(0, K::PAGE)], Prot::READ).unwrap();
    let before = memory.snapshot();
    table.leak();
    assert!(memory.snapshot() == before);
    assert_eq!(memory.in_use(), frames::<K>(K::LEVELS.into()));
}

fn a_covered_table_goes_into_the_gather_and_comes_back_after_the_flush<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    let (large, page) = (K::LARGE, K::PAGE);
    // Three tables of pages, the middle one covered by the unmap.
    map::<K, _>(&mut table, large, &[run(page, 3 * large)], Prot::READ).unwrap();
    let tables = table.tables();
    let retired = lowest_table::<K, _>(&memory, &table, 2 * large);
    let mut gather = Gather::new();
    unmap::<K, _>(&mut table, range(2 * large - page, large + 2 * page), &mut gather).unwrap();
    assert_eq!((table.retired(), table.tables()), (1, tables - 1));
    assert_eq!(held(&gather), [(range(2 * large - page, large + 2 * page), 1, 1)]);
    assert!(gather.tables_changed() && !gather.is_empty());
    leaves::<K, _>(&memory, &table);
    // The frame is not used again before the flush.
    map::<K, _>(&mut table, 2 * large, &[run(0x77 * page, large)], Prot::READ).unwrap();
    leaves::<K, _>(&memory, &table);
    assert_eq!((table.tables(), table.retired(), memory.in_use()), (tables, 1, frames::<K>(tables + 1)));
    assert!(memory.is_allocated(retired));
    flush::<K, _>(&table, &mut gather);
    leaves::<K, _>(&memory, &table);
    assert_eq!((table.tables(), table.retired(), memory.is_allocated(retired)), (tables, 0, false));
    drop(table);
    assert_eq!(memory.in_use(), 0);
    memory.check_freed();
}

fn a_covered_table_names_its_leaves_too<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    let large = K::LARGE;
    map::<K, _>(&mut table, large, &[run(K::PAGE, 4 * large)], Prot::READ).unwrap();
    // Nothing but the table, and then what is left: two tables with a hole between them.
    for all in [range(2 * large, large), range(large, large), range(3 * large, 2 * large)] {
        let mut gather = Gather::new();
        unmap::<K, _>(&mut table, all, &mut gather).unwrap();
        assert_eq!(held(&gather), [(all, 1, 1)]);
        flush::<K, _>(&table, &mut gather);
    }
    assert_eq!(leaves::<K, _>(&memory, &table), []);
}

fn one_gather_takes_many_unmaps<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    map::<K, _>(&mut table, 0, &[run(K::PAGE, 20 * K::LARGE)], Prot::READ).unwrap();
    let tables = table.tables();
    let mut gather = Gather::new();
    for (n, at) in [3, 9, 4, 15, 0].into_iter().enumerate() {
        unmap::<K, _>(&mut table, range(at * K::LARGE, K::LARGE), &mut gather).unwrap();
        assert_eq!((table.retired(), table.tables()), (n + 1, tables - n - 1));
    }
    assert_eq!(memory.in_use(), frames::<K>(tables));
    flush::<K, _>(&table, &mut gather);
    assert_eq!(memory.in_use(), frames::<K>(tables - 5));
    leaves::<K, _>(&memory, &table);
    drop(table);
    assert_eq!(memory.in_use(), 0);
    memory.check_freed();
}

fn a_table_that_is_not_covered_stays<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    let page = K::PAGE;
    map::<K, _>(&mut table, 0, &[run(0, page), run(9 * page, page)], Prot::READ).unwrap();
    let mut gather = Gather::new();
    unmap::<K, _>(&mut table, range(0, page), &mut gather).unwrap();
    assert_eq!(held(&gather), [(range(0, page), 1, 0)]);
    unmap::<K, _>(&mut table, range(page, page), &mut gather).unwrap();
    // Empty, and kept.
    assert_eq!((table.retired(), table.tables()), (0, usize::from(K::LEVELS)));
    assert_eq!(leaves::<K, _>(&memory, &table), []);
    let allocations = memory.allocations();
    map::<K, _>(&mut table, 0, &[run(page, K::LARGE)], Prot::READ).unwrap();
    assert_eq!(memory.allocations(), allocations);
}

fn a_whole_tree_is_freed_but_for_what_holds_it<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    let empty = memory.snapshot();
    let (big, large, page) = (K::LARGEST, K::LARGE, K::PAGE);
    // All that one entry of a high level translates: of the root, where that is not more than some thousand leaves.
    let fits = |level: &u32| K::RAW.entry_size(*level) / K::RAW.entry_size(K::RAW.top_leaf_level()) <= 1 << 11;
    let level = (2..=K::RAW.levels).rev().find(fits).unwrap();
    let len = if level == 2 { 4 * large } else { K::RAW.entry_size(level) };
    // Pages at both ends, and whatever fits in between.
    let middle = run(4 * big + large, len - large - page);
    map::<K, _>(&mut table, 0, &[run(page, large), middle, run(0, page)], Prot::READ).unwrap();
    assert_eq!(leaves::<K, _>(&memory, &table).iter().map(|leaf| leaf.size).sum::<u64>(), len);
    let tables = table.tables();
    assert!(tables >= 3);
    let mut gather = Gather::new();
    unmap::<K, _>(&mut table, range(0, len), &mut gather).unwrap();
    let left = (K::RAW.levels - level) as usize + 1;
    assert_eq!((table.retired(), table.tables()), (tables - left, left));
    let [(whole, _, gone)] = held(&gather)[..] else { panic!("{gather:?}") };
    assert_eq!((whole, gone), (range(0, len), (1 << (level - 1)) - 1));
    assert_eq!(leaves::<K, _>(&memory, &table), []);
    flush::<K, _>(&table, &mut gather);
    assert!(left != 1 || memory.snapshot() == empty);
    assert_eq!((table.retired(), memory.in_use()), (0, frames::<K>(left)));
    flush::<K, _>(&table, &mut gather);
    assert_eq!(memory.in_use(), frames::<K>(left));
}

fn a_gather_names_the_leaves_that_are_gone<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    let (big, large, page) = (K::LARGEST, K::LARGE, K::PAGE);
    let start = 4 * big - large - page;
    map::<K, _>(&mut table, start, &[run(start, big + 2 * (large + page))], Prot::READ).unwrap();
    map::<K, _>(&mut table, 20 * big, &[run(20 * big, large)], Prot::READ).unwrap();
    for (at, len, sizes) in [
        (20 * big, large, &[large][..]),
        (start, page, &[page]),
        (4 * big, big + large, &[big, large]),
        (4 * big - large, large, &[large]),
    ] {
        let mut gather = Gather::new();
        unmap::<K, _>(&mut table, range(at, len), &mut gather).unwrap();
        assert_eq!(held(&gather), [(range(at, len), leaf_levels::<K>(sizes), 0)], "{at:#x}");
        assert!(!gather.tables_changed());
        assert_eq!(gather.levels().mask(), leaf_levels::<K>(sizes));
    }
    // A hole between two unmaps stays one.
    map::<K, _>(&mut table, 0, &[run(0, 9 * page)], Prot::READ).unwrap();
    let mut gather = Gather::new();
    unmap::<K, _>(&mut table, range(0, page), &mut gather).unwrap();
    unmap::<K, _>(&mut table, range(4 * page, page), &mut gather).unwrap();
    assert_eq!(held(&gather), [(range(0, page), 1, 0), (range(4 * page, page), 1, 0)]);
    // What is far apart keeps its own levels.
    map::<K, _>(&mut table, 8 * big, &[run(0, page)], Prot::READ).unwrap();
    map::<K, _>(&mut table, 10 * big, &[run(0, large)], Prot::READ).unwrap();
    let mut gather = Gather::new();
    unmap::<K, _>(&mut table, range(8 * big, page), &mut gather).unwrap();
    unmap::<K, _>(&mut table, range(10 * big, large), &mut gather).unwrap();
    assert_eq!(held(&gather), [(range(8 * big, page), 0b01, 0), (range(10 * big, large), 0b10, 0)]);
    // A table of large leaves: both levels of what hangs below it.
    if K::RAW.levels >= 3 {
        let (whole, at) = (K::HUGE, 40 * big.max(K::HUGE) % (K::TOP / 2));
        map::<K, _>(&mut table, at, &[run(page, large), run(large, whole - large)], Prot::READ).unwrap();
        let mut gather = Gather::new();
        unmap::<K, _>(&mut table, range(at, whole), &mut gather).unwrap();
        assert_eq!(held(&gather), [(range(at, whole), 0b11, 0b11)]);
        assert_eq!(table.retired(), 2);
    }
    leaves::<K, _>(&memory, &table);
}

fn a_retired_table_keeps_all_but_two_entries<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    map::<K, _>(&mut table, 0, &[run(K::PAGE, 2 * K::LARGE)], Prot::READ).unwrap();
    let before = memory.snapshot();
    let frames = [0, K::LARGE].map(|at| lowest_table::<K, _>(&memory, &table, at));
    let mut gather = Gather::new();
    unmap::<K, _>(&mut table, range(0, 2 * K::LARGE), &mut gather).unwrap();
    for phys in frames {
        for word in 0..K::ENTRIES {
            let at = phys.wrapping_add(word * 8);
            let (value, was) = (memory.read64(at), before.read64(at).unwrap());
            let gone = K::RAW.entry(value, 1) == Ok(Entry::Nothing);
            // Link and ticket: not present in any format. Where hardware notes writes, its last word is waited for by
            // taking the entries out.
            assert!(if word < 2 { gone } else { value == was || gone && K::RAW.tracked }, "{word}: {value:#x}");
        }
    }
}

fn a_flush_frees_its_own_gather_only<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    map::<K, _>(&mut table, 0, &[run(K::PAGE, 6 * K::LARGE)], Prot::READ).unwrap();
    let frames: Vec<PhysAddr> = (0..6).map(|n| lowest_table::<K, _>(&memory, &table, n * K::LARGE)).collect();
    let [mut first, mut second] = [Gather::new(), Gather::new()];
    for n in 0..6 {
        let gather = if n % 2 == 0 { &mut first } else { &mut second };
        unmap::<K, _>(&mut table, range(n * K::LARGE, K::LARGE), gather).unwrap();
    }
    let held = |memory: &TestMemory| frames.iter().map(|phys| memory.is_allocated(*phys)).collect::<Vec<_>>();
    // A gather that never saw these unmaps frees nothing, nor does one that was cleared.
    flush::<K, _>(&table, &mut Gather::new());
    assert_eq!((table.retired(), held(&memory)), (6, vec![true; 6]));
    flush::<K, _>(&table, &mut second);
    assert_eq!((table.retired(), held(&memory)), (3, vec![true, false, true, false, true, false]));
    flush::<K, _>(&table, &mut second);
    assert_eq!(table.retired(), 3);
    first.clear();
    flush::<K, _>(&table, &mut first);
    // Nobody can flush these any more: they are the table's until it goes.
    assert_eq!(table.retired(), 3);
    leaves::<K, _>(&memory, &table);
    drop(table);
    assert_eq!(memory.in_use(), 0);
    memory.check_freed();
}

fn a_warm_table_allocates_nothing<K: Kind>() {
    for &how in K::memories() {
        let memory = common::memory_for(how);
        let mut table = K::table_in(&memory, how);
        let (large, page) = (K::LARGE, K::PAGE);
        let mut gather = Gather::new();
        // Pages in three tables, and one large leaf; pages at the ends keep the tables.
        let work = [(page, run(7 * page, 3 * large - 2 * page)), (6 * large, run(6 * large, large))];
        for at in [0, 3 * large - page] {
            map::<K, _>(&mut table, at, &[run(0, page)], Prot::READ).unwrap();
        }
        for (at, extent) in work {
            map::<K, _>(&mut table, at, &[extent], Prot::READ).unwrap();
        }
        unmap::<K, _>(&mut table, range(page, large - page), &mut gather).unwrap();
        unmap::<K, _>(&mut table, range(2 * large, large - page), &mut gather).unwrap();
        unmap::<K, _>(&mut table, range(6 * large, large), &mut gather).unwrap();
        flush::<K, _>(&table, &mut gather);
        let (allocations, in_use) = (memory.allocations(), memory.in_use());
        for _ in 0..3 {
            for (at, phys, len) in [
                (page, 9 * page, large - page),
                (2 * large, page, large - page),
                (6 * large, 0, large),
                (page, 77 * page, page),
                (2 * large - 5 * page + large, 3 * page, 4 * page),
            ] {
                map::<K, _>(&mut table, at, &[run(phys, len)], Prot::READ_WRITE).unwrap();
                unmap::<K, _>(&mut table, range(at, len), &mut gather).unwrap();
            }
        }
        assert_eq!((memory.allocations(), memory.in_use(), table.retired()), (allocations, in_use, 0));
        leaves_in::<K, _>(&memory, &table, how);
    }
}

/// How often each cache line was cleaned since the last call.
fn cleaned(memory: &TestMemory) -> BTreeMap<u64, usize> {
    let mut lines = BTreeMap::<u64, usize>::new();
    for step in memory.take_maintenance() {
        let Maintenance::Clean { phys, len } = step else { panic!("{step:?}") };
        for line in phys.get() / 64..(phys.get() + len as u64).div_ceil(64) {
            *lines.entry(line * 64).or_default() += 1;
        }
    }
    lines
}

/// Every entry that software put in is visible to the device, and every link is marked so; nothing else is there for it.
fn assert_visible<K: Kind, H: Hal>(memory: &TestMemory, table: &PageTable<H, K::F>) {
    let raw = K::raw(WalkerMemory::NonCoherent);
    let software = |phys| Some(memory.read64(PhysAddr::new(phys)));
    let (_, tables) = raw.scan(&software, raw.root(table.root().get())).unwrap();
    for start in &tables {
        for index in 0..raw.entries(start.level) {
            let at = PhysAddr::new(start.table + 8 * index);
            let (put, seen) = (memory.read64(at), memory.device_read64(at).unwrap());
            let decoded = raw.entry(put, start.level).unwrap();
            assert_eq!(raw.entry(seen, start.level).unwrap(), decoded, "{start:x?} {index}");
            if matches!(decoded, Entry::Table(_)) {
                assert_ne!(put & raw.visible(), 0, "{start:x?} {index} is not marked");
            }
        }
    }
    let (_, seen) = scan::<K, H>(memory, table, WalkerMemory::NonCoherent);
    assert_eq!(seen, tables);
}

fn each_line_is_cleaned_once_an_operation<K: Kind>() {
    if K::RAW.tracked {
        return;
    }
    let once = |memory: &TestMemory, what: &str| {
        let lines = cleaned(memory);
        assert!(!lines.is_empty(), "{what}: nothing was cleaned");
        assert!(lines.values().all(|times| *times == 1), "{what}: a line was cleaned twice: {lines:x?}");
        lines.len()
    };
    let memory = non_coherent();
    let mut table = K::table_in(&memory, WalkerMemory::NonCoherent);
    let (large, page) = (K::LARGE, K::PAGE);
    assert_eq!(memory.take_maintenance(), []);
    let pages = K::ENTRIES;
    let scattered: Vec<_> = (0..pages).map(|n| run((2 * pages - n) * page, page)).collect();
    map::<K, _>(&mut table, 0, &scattered, Prot::READ).unwrap();
    // One line of each table that leads to another, all of the one that holds the leaves.
    assert_eq!(once(&memory, "a table of pages") as u64, K::RAW.levels as u64 - 1 + pages / 8);
    assert_visible::<K, _>(&memory, &table);
    // Through links that are visible already: the leaves alone.
    let mut gather = Gather::new();
    unmap::<K, _>(&mut table, range(8 * page, 16 * page), &mut gather).unwrap();
    assert_eq!(once(&memory, "unmap of 16 pages"), 2);
    assert_visible::<K, _>(&memory, &table);
    map::<K, _>(&mut table, 8 * page, &scattered[..16], Prot::READ).unwrap();
    assert_eq!(once(&memory, "map of 16 pages"), 2);
    // Leaves of every size and many tables, up and down; extents that go on in the same line.
    let sizes = K::sizes();
    let (last, smaller) = sizes.split_last().unwrap();
    let slope: u64 = smaller.iter().sum();
    let start = 16 * last - slope - 3 * large;
    let up = run(24 * last - slope - 3 * large, 3 * large + 2 * slope + last);
    let extents = [run(page, page), run(5 * page, page), run(page, large), up, run(9 * page, 2 * large + 7 * page)];
    map::<K, _>(&mut table, start - large - 2 * page, &extents, Prot::READ).unwrap();
    once(&memory, "a map of all sizes");
    assert_visible::<K, _>(&memory, &table);
    let len = extents.iter().map(|extent| extent.len).sum::<u64>();
    unmap::<K, _>(&mut table, range(start - large - 2 * page, len), &mut gather).unwrap();
    once(&memory, "an unmap of all sizes");
    assert_visible::<K, _>(&memory, &table);
    flush::<K, _>(&table, &mut gather);
    assert_eq!(leaves_in::<K, _>(&memory, &table, WalkerMemory::NonCoherent).len() as u64, pages);

    // Nothing where the walker snoops.
    let memory = non_coherent();
    let mut table = K::table_in(&memory, WalkerMemory::Coherent);
    map::<K, _>(&mut table, 0, &scattered, Prot::READ).unwrap();
    unmap::<K, _>(&mut table, range(0, 16 * page), &mut gather).unwrap();
    assert_eq!(memory.take_maintenance(), []);
    assert_eq!(table.translate(iova(16 * page)).unwrap().phys.get(), (2 * pages - 16) * page);
}

fn a_link_is_marked_visible_once_it_was_cleaned<K: Kind>() {
    if K::RAW.tracked {
        return;
    }
    let memory = Arc::new(non_coherent());
    let mut table = K::table_in(memory.clone(), WalkerMemory::NonCoherent);
    let raw = K::raw(WalkerMemory::NonCoherent);
    let bit = raw.visible();
    let marked = Arc::new(AtomicUsize::new(0));
    let count = marked.clone();
    memory.set_observer(Some(Box::new(move |memory, phys| {
        let value = memory.read64(phys);
        if let Ok(Entry::Table(table)) = raw.entry(value, 2)
            && value & bit != 0
        {
            count.fetch_add(1, Ordering::Relaxed);
            // The device finds the link, and an empty table or what the operation has cleaned of it.
            let seen = memory.device_read64(phys).unwrap();
            assert_eq!(seen | bit, value, "marked before it was cleaned");
            assert!(memory.is_allocated(PhysAddr::new(table)));
        }
    })));
    let (large, page) = (K::LARGE, K::PAGE);
    let extents = [run(page, 3 * large), run(0, large), run(7 * page, 2 * page)];
    map::<K, _>(&mut table, large - page, &extents, Prot::READ).unwrap();
    map::<K, _>(&mut table, K::TOP - page, &[run(page, page)], Prot::READ).unwrap();
    memory.set_observer(None);
    // Every table but the root was marked once, and a walk that relied on a mark would not be wrong.
    assert_eq!(marked.load(Ordering::Relaxed), table.tables() - 1);
    assert_visible::<K, _>(&memory, &table);
}

fn a_link_of_a_neighbour_is_cleaned_before_it_is_relied_on<K: Kind>() {
    if K::RAW.tracked {
        return;
    }
    let memory = non_coherent();
    let mut table = K::table_in(&memory, WalkerMemory::NonCoherent);
    let raw = K::raw(WalkerMemory::NonCoherent);
    let (large, page) = (K::LARGE, K::PAGE);
    map::<K, _>(&mut table, 5 * large, &[run(page, 8 * page)], Prot::READ).unwrap();
    let (_, tables) = scan::<K, _>(&memory, &table, WalkerMemory::NonCoherent);
    // As a neighbour leaves it that is between putting tables in and cleaning: not marked.
    let links: Vec<PhysAddr> = tables
        .iter()
        .filter(|start| start.level > 1)
        .map(|start| start.table + 8 * (5 * large / raw.entry_size(start.level) % raw.entries(start.level)))
        .map(PhysAddr::new)
        .collect();
    assert_eq!(links.len() as u32, raw.levels - 1);
    for link in &links {
        assert_ne!(memory.read64(*link) & raw.visible(), 0);
        memory.write64(*link, memory.read64(*link) & !raw.visible());
    }
    cleaned(&memory);
    map::<K, _>(&mut table, 5 * large + 100 * page, &[run(page, page)], Prot::READ).unwrap();
    let lines = cleaned(&memory);
    for link in &links {
        assert!(lines.contains_key(&(link.get() / 64 * 64)), "{link} was not cleaned");
        assert_ne!(memory.read64(*link) & raw.visible(), 0, "{link} was not marked");
    }
    assert_eq!(lines.len(), links.len() + 1);
    // And not again.
    map::<K, _>(&mut table, 5 * large + 101 * page, &[run(page, page)], Prot::READ).unwrap();
    assert_eq!(cleaned(&memory).len(), 1);
    assert_visible::<K, _>(&memory, &table);
}

#[test]
fn a_chain_may_hold_the_frame_at_address_zero() {
    // Just enough frames. The test memory reuses as late as it can, so that the fourth one is the root, and the frame
    // at 0 comes in the middle of the five that the map takes.
    let memory = TestMemory::new(PhysAddr::new(0), 6);
    let request = FrameRequest::single(46, WalkerMemory::Coherent);
    let allocated = [(); 3].map(|()| memory.alloc_frames(request).unwrap());
    for frame in allocated {
        // SAFETY: it was allocated just now, and no one knows of it.
        unsafe { memory.free_frames(frame, request) };
    }
    let mut table = Second4::table(&memory);
    let (large, page) = (Second4::LARGE, Second4::PAGE);
    assert_eq!(table.root().get(), 3 * page);
    map::<Second4, _>(&mut table, 0, &[run(page, 3 * large)], Prot::READ).unwrap();
    assert_eq!((table.tables(), memory.in_use()), (6, 6));
    let mut gather = Gather::new();
    unmap::<Second4, _>(&mut table, range(0, 3 * large), &mut gather).unwrap();
    assert_eq!((table.retired(), memory.is_allocated(PhysAddr::new(0))), (3, true));
    flush::<Second4, _>(&table, &mut gather);
    assert_eq!((memory.in_use(), memory.is_allocated(PhysAddr::new(0))), (3, false));
    drop(table);
    assert_eq!(memory.in_use(), 0);
    memory.check_freed();
}

#[test]
fn frames_are_asked_for_as_configured() {
    let memory = memory();
    let config = Config { address_bits: 38, ..Second4::config(WalkerMemory::NonCoherent) };
    let table = PageTable::new(&memory, config).unwrap();
    // The test memory checks on free that the request is the one it was allocated with.
    drop(table);
    assert_eq!(memory.in_use(), 0);
}

//! Where table frames go: into gathers, back after the flush, all back at the end; and what a gather holds.

mod common;

use common::{G1, K4, Kind, M2, Second4, iova, memory, non_coherent, range, run};
use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{Gather, Prot};
use iommu_hal::{FrameRequest, Hal, WalkerMemory};
use iommu_models::memory::{Maintenance, TestMemory};
use iommu_pgtable::{Config, PageTable};
use std::collections::BTreeMap;

for_each_kind!(
    dropping_gives_every_frame_back,
    leaking_gives_nothing_back,
    a_covered_table_goes_into_the_gather_and_comes_back_after_the_flush,
    one_gather_takes_many_unmaps,
    a_table_that_is_not_covered_stays,
    a_whole_tree_is_freed_but_for_the_root,
    a_gather_names_the_leaves_that_are_gone,
    a_retired_table_keeps_all_but_two_entries,
    a_flush_frees_its_own_gather_only,
);

fn is_send_and_sync<T: Send + Sync>(_: &T) {}

/// Frees what the gather holds, as a driver does once the flush is confirmed.
fn flush<H: Hal, K: Kind>(table: &mut PageTable<H, K::F>, gather: &mut Gather) {
    // SAFETY: no hardware walks these tables.
    unsafe { table.free_gathered(gather) };
    gather.clear();
}

/// The frame of the lowest table on the way to `at`, from the raw entries: all formats here keep the address of the next
/// table in bits 51:12.
fn lowest_table<K: Kind>(memory: &TestMemory, root: PhysAddr, at: u64) -> PhysAddr {
    (1..K::LEVELS).rev().fold(root, |phys, level| {
        let index = at >> (12 + 9 * level) & 0x1ff;
        PhysAddr::new(memory.read64(phys.wrapping_add(index * 8)) & 0xf_ffff_ffff_f000)
    })
}

fn dropping_gives_every_frame_back<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    is_send_and_sync(&table);
    assert_eq!((table.tables(), memory.in_use()), (1, 1));
    for at in [0, G1 - K4, G1, 7 * G1 + M2, (1 << K::INPUT_BITS) - K4] {
        table.map(iova(at), &[run(K4, K4)], Prot::READ).unwrap();
        assert_eq!(table.tables(), memory.in_use());
    }
    table.map(iova(9 * G1), &[run(0, 2 * G1 + M2 + K4)], Prot::READ).unwrap();
    assert_eq!(table.tables(), memory.in_use());
    let allocations = memory.allocations();
    drop(table);
    assert_eq!((memory.in_use(), memory.allocations()), (0, allocations));
    memory.check_freed();
}

fn leaking_gives_nothing_back<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    table.map(iova(0), &[run(0, K4)], Prot::READ).unwrap();
    let before = memory.snapshot();
    table.leak();
    assert!(memory.snapshot() == before);
    assert_eq!(memory.in_use(), usize::from(K::LEVELS));
}

fn a_covered_table_goes_into_the_gather_and_comes_back_after_the_flush<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    // Three tables of pages, the middle one covered by the unmap; and a page that keeps the upper ones.
    table.map(iova(M2), &[run(K4, 3 * M2)], Prot::READ).unwrap();
    let tables = table.tables();
    let retired = lowest_table::<K>(&memory, table.root(), 2 * M2);
    let mut gather = Gather::new();
    table.unmap(range(2 * M2 - K4, M2 + 2 * K4), &mut gather).unwrap();
    assert_eq!((table.retired(), table.tables(), memory.in_use()), (1, tables - 1, tables));
    assert!(gather.tables_changed() && !gather.is_empty());
    // The frame is not used again before the flush.
    table.map(iova(2 * M2), &[run(0x77 * K4, M2)], Prot::READ).unwrap();
    assert_eq!(memory.in_use(), tables + 1);
    assert!(memory.is_allocated(retired));
    flush::<_, K>(&mut table, &mut gather);
    assert_eq!((table.tables(), memory.in_use(), memory.is_allocated(retired)), (tables, tables, false));
    drop(table);
    assert_eq!(memory.in_use(), 0);
    memory.check_freed();
}

fn one_gather_takes_many_unmaps<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    table.map(iova(0), &[run(K4, 20 * M2)], Prot::READ).unwrap();
    let tables = table.tables();
    let mut gather = Gather::new();
    for (n, at) in [3, 9, 4, 15, 0].into_iter().enumerate() {
        table.unmap(range(at * M2, M2), &mut gather).unwrap();
        assert_eq!((table.retired(), table.tables()), (n + 1, tables - n - 1));
    }
    assert_eq!(memory.in_use(), tables);
    flush::<_, K>(&mut table, &mut gather);
    assert_eq!(memory.in_use(), tables - 5);
    drop(table);
    assert_eq!(memory.in_use(), 0);
    memory.check_freed();
}

fn a_table_that_is_not_covered_stays<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    table.map(iova(0), &[run(0, K4), run(9 * K4, K4)], Prot::READ).unwrap();
    let mut gather = Gather::new();
    table.unmap(range(0, K4), &mut gather).unwrap();
    assert!(!gather.tables_changed() && gather.levels().contains(0));
    assert_eq!(gather.ranges().collect::<Vec<_>>(), [range(0, K4)]);
    table.unmap(range(K4, K4), &mut gather).unwrap();
    // Empty, and kept.
    assert_eq!((table.retired(), table.tables()), (0, usize::from(K::LEVELS)));
    let allocations = memory.allocations();
    table.map(iova(0), &[run(0, M2)], Prot::READ).unwrap();
    assert_eq!(memory.allocations(), allocations);
}

fn a_whole_tree_is_freed_but_for_the_root<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    let empty = memory.snapshot();
    // All that one root entry translates: 1 GiB with three levels, 512 GiB with four.
    let len = 1u64 << (12 + 9 * (K::LEVELS - 1));
    // Pages at both ends, and whatever fits in between.
    table.map(iova(0), &[run(K4, M2), run(4 * G1 + M2, len - M2 - K4), run(0, K4)], Prot::READ).unwrap();
    let tables = table.tables();
    assert!(tables > 3);
    let mut gather = Gather::new();
    table.unmap(range(0, len), &mut gather).unwrap();
    assert_eq!((table.retired(), table.tables()), (tables - 1, 1));
    assert_eq!(gather.ranges().collect::<Vec<_>>(), [range(0, len)]);
    flush::<_, K>(&mut table, &mut gather);
    assert!(memory.snapshot() == empty);
    assert_eq!(table.retired(), 0);
    flush::<_, K>(&mut table, &mut gather);
    assert_eq!(memory.in_use(), 1);
}

fn a_gather_names_the_leaves_that_are_gone<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    let start = G1 - M2 - K4;
    let len = G1 + 2 * (M2 + K4);
    table.map(iova(start), &[run(start, len)], Prot::READ).unwrap();
    table.map(iova(6 * G1), &[run(6 * G1, M2)], Prot::READ).unwrap();
    for (at, len, levels, tables) in [
        (6 * G1, M2, 0b010, false),
        (start, K4, 0b001, false),
        (G1, G1 + M2, 0b110, false),
        (G1 - M2, M2, 0b010, false),
    ] {
        let mut gather = Gather::new();
        table.unmap(range(at, len), &mut gather).unwrap();
        assert_eq!((gather.levels().mask(), gather.tables_changed()), (levels, tables), "{at:#x}");
        assert_eq!(gather.ranges().collect::<Vec<_>>(), [range(at, len)]);
    }
    // A hole between two unmaps stays one.
    table.map(iova(0), &[run(0, 9 * K4)], Prot::READ).unwrap();
    let mut gather = Gather::new();
    table.unmap(range(0, K4), &mut gather).unwrap();
    table.unmap(range(4 * K4, K4), &mut gather).unwrap();
    assert_eq!(gather.ranges().collect::<Vec<_>>(), [range(0, K4), range(4 * K4, K4)]);
    // A table of large pages: both levels of what hangs below it.
    table.map(iova(8 * G1), &[run(K4, M2), run(M2, G1 - M2)], Prot::READ).unwrap();
    let mut gather = Gather::new();
    table.unmap(range(8 * G1, G1), &mut gather).unwrap();
    assert_eq!((gather.levels().mask(), gather.tables_changed(), table.retired()), (0b011, true, 2));
    assert_eq!(gather.ranges().collect::<Vec<_>>(), [range(8 * G1, G1)]);
}

fn a_retired_table_keeps_all_but_two_entries<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    table.map(iova(0), &[run(K4, 2 * M2)], Prot::READ).unwrap();
    let before = memory.snapshot();
    let frames = [0, M2].map(|at| lowest_table::<K>(&memory, table.root(), at));
    let mut gather = Gather::new();
    table.unmap(range(0, 2 * M2), &mut gather).unwrap();
    for phys in frames {
        for word in 2..512 {
            let at = phys.wrapping_add(word * 8);
            assert_eq!(memory.read64(at), before.read64(at).unwrap());
        }
        // Link and ticket: not present in any format.
        for word in [0, 1] {
            assert_eq!(memory.read64(phys.wrapping_add(word * 8)) & 0xfff, 0);
        }
    }
}

fn a_flush_frees_its_own_gather_only<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    table.map(iova(0), &[run(K4, 6 * M2)], Prot::READ).unwrap();
    let frames: Vec<PhysAddr> = (0..6).map(|n| lowest_table::<K>(&memory, table.root(), n * M2)).collect();
    let [mut first, mut second] = [Gather::new(), Gather::new()];
    for n in 0..6 {
        let gather = if n % 2 == 0 { &mut first } else { &mut second };
        table.unmap(range(n * M2, M2), gather).unwrap();
    }
    let held = |memory: &TestMemory| frames.iter().map(|phys| memory.is_allocated(*phys)).collect::<Vec<_>>();
    // A gather that never saw these unmaps frees nothing, nor does one that was cleared.
    flush::<_, K>(&mut table, &mut Gather::new());
    assert_eq!((table.retired(), held(&memory)), (6, vec![true; 6]));
    flush::<_, K>(&mut table, &mut second);
    assert_eq!((table.retired(), held(&memory)), (3, vec![true, false, true, false, true, false]));
    flush::<_, K>(&mut table, &mut second);
    assert_eq!(table.retired(), 3);
    first.clear();
    flush::<_, K>(&mut table, &mut first);
    // Nobody can flush these any more: they are the table's until it goes.
    assert_eq!(table.retired(), 3);
    drop(table);
    assert_eq!(memory.in_use(), 0);
    memory.check_freed();
}

#[test]
fn a_chain_may_hold_the_frame_at_address_zero() {
    // Just enough frames. The test memory reuses as late as it can, so that the fourth one is the root, and the frame
    // at 0 comes in the middle of the five that the map takes.
    let memory = TestMemory::new(PhysAddr::new(0), 6);
    let request = FrameRequest::single(46, WalkerMemory::Coherent);
    let frames = [(); 3].map(|()| memory.alloc_frames(request).unwrap());
    for frame in frames {
        // SAFETY: it was allocated just now, and no one knows of it.
        unsafe { memory.free_frames(frame, request) };
    }
    let mut table = Second4::table(&memory);
    assert_eq!(table.root().get(), 3 * K4);
    table.map(iova(0), &[run(K4, 3 * M2)], Prot::READ).unwrap();
    assert_eq!((table.tables(), memory.in_use()), (6, 6));
    let mut gather = Gather::new();
    table.unmap(range(0, 3 * M2), &mut gather).unwrap();
    assert_eq!((table.retired(), memory.is_allocated(PhysAddr::new(0))), (3, true));
    flush::<_, Second4>(&mut table, &mut gather);
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

#[test]
fn each_line_of_a_new_table_is_cleaned_once_and_nothing_when_coherent() {
    let cleans = |memory: &TestMemory| {
        let mut lines = BTreeMap::<u64, usize>::new();
        for step in memory.take_maintenance() {
            let Maintenance::Clean { phys, len } = step else { panic!("{step:?}") };
            for line in phys.get() / 64..(phys.get() + len as u64).div_ceil(64) {
                *lines.entry(line * 64).or_default() += 1;
            }
        }
        lines
    };
    let memory = non_coherent();
    let mut table = Second4::table_in(&memory, WalkerMemory::NonCoherent);
    let scattered: Vec<_> = (0..512).map(|page| run((1000 - page) * K4, K4)).collect();
    table.map(iova(0), &scattered, Prot::READ).unwrap();
    let lines = cleans(&memory);
    // One line of each table that leads to another, all 64 of the one that holds the leaves.
    assert_eq!((lines.len(), lines.values().sum::<usize>()), (3 + 64, 3 + 64));
    let mut gather = Gather::new();
    table.unmap(range(8 * K4, 16 * K4), &mut gather).unwrap();
    assert_eq!(cleans(&memory).into_values().collect::<Vec<_>>(), [1, 1]);

    let memory = non_coherent();
    let mut table = Second4::table_in(&memory, WalkerMemory::Coherent);
    table.map(iova(0), &scattered, Prot::READ).unwrap();
    table.unmap(range(0, 16 * K4), &mut Gather::new()).unwrap();
    assert_eq!(memory.take_maintenance(), []);
    assert_eq!(table.translate(Iova::new(16 * K4)).unwrap().phys.get(), (1000 - 16) * K4);
}

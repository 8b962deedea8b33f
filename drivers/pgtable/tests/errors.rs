//! What is refused, with which value, and that nothing changes by it.

mod common;

use common::{G1, K4, Kind, M2, iova, memory, range, run};
use iommu_core::addr::{IovaRange, PhysAddr, PhysExtent};
use iommu_core::hw::{Gather, HwError, PageSizes, Prot};
use iommu_hal::WalkerMemory;
use iommu_models::memory::TestMemory;
use iommu_pgtable::{Config, PageTable};

for_each_kind!(
    a_bad_map_changes_nothing,
    a_bad_unmap_changes_nothing,
    nothing_to_map_is_no_error,
    lengths_that_overflow_are_out_of_range,
    any_failing_allocation_changes_nothing,
    a_bad_config_is_refused,
    widths_are_cut_to_what_the_format_has,
);

/// A table with a leaf of each size: 1 GiB at 1 GiB, 2 MiB at 4 GiB, a page at 4 GiB + 4 MiB.
fn furnished<K: Kind>(memory: &TestMemory) -> PageTable<&TestMemory, K::F> {
    let mut table = K::table(memory);
    table.map(iova(G1), &[run(G1, G1)], Prot::READ).unwrap();
    table.map(iova(4 * G1), &[run(0, M2)], Prot::READ).unwrap();
    table.map(iova(4 * G1 + 2 * M2), &[run(K4, K4)], Prot::READ).unwrap();
    table
}

fn a_bad_map_changes_nothing<K: Kind>() {
    let top = 1u64 << K::INPUT_BITS;
    let misaligned = |value| HwError::Misaligned { value, align: K4 };
    let outside = |start, len| HwError::OutOfRange { iova: iova(start), len };
    let wide = |phys| HwError::OutputTooWide { phys: PhysAddr::new(phys), bits: 46 };
    let mapped = |start| HwError::AlreadyMapped { iova: iova(start) };
    let none = Prot { read: false, write: false };
    let page = run(G1, K4);
    let cases: &[(u64, &[PhysExtent], Prot, HwError)] = &[
        (0, &[page], none, HwError::Protection(none)),
        (0x10, &[page], Prot::READ, misaligned(0x10)),
        (0, &[page, run(0x1800, K4)], Prot::READ, misaligned(0x1800)),
        (0, &[page, run(0, K4 + 1)], Prot::READ, misaligned(K4 + 1)),
        (top - K4, &[page, page], Prot::READ, outside(top - K4, 2 * K4)),
        (top, &[page], Prot::READ, outside(top, K4)),
        (u64::MAX - 0xfff, &[page, page], Prot::READ, outside(u64::MAX - 0xfff, 2 * K4)),
        (0, &[run(1 << 46, K4)], Prot::READ, wide((1 << 46) + K4 - 1)),
        (0, &[page, run((1 << 46) - K4, 2 * K4)], Prot::READ, wide((1 << 46) + K4 - 1)),
        (0, &[run(0u64.wrapping_sub(K4), 2 * K4)], Prot::READ, wide(u64::MAX)),
        // Onto the leaves themselves, and with new pages on either side.
        (4 * G1 + 2 * M2, &[page], Prot::READ, mapped(4 * G1 + 2 * M2)),
        (4 * G1 + 5 * K4, &[page], Prot::READ, mapped(4 * G1 + 5 * K4)),
        (2 * G1 - M2, &[run(0, M2)], Prot::READ, mapped(2 * G1 - M2)),
        (4 * G1 + M2, &[run(G1, 2 * M2)], Prot::READ, mapped(4 * G1 + 2 * M2)),
        (G1 - 3 * K4, &[run(0, 8 * K4)], Prot::READ, mapped(G1)),
        // A large leaf over a table that is not empty, and after large leaves that would fit.
        (4 * G1 + 2 * M2, &[run(0, M2)], Prot::READ, mapped(4 * G1 + 2 * M2)),
        (3 * G1, &[run(8 * G1, 2 * G1)], Prot::READ, mapped(4 * G1)),
        (0, &[run(8 * G1, 5 * G1)], Prot::READ, mapped(G1)),
    ];
    let memory = memory();
    let mut table = furnished::<K>(&memory);
    let (before, allocations) = (memory.snapshot(), memory.allocations());
    for (start, extents, prot, error) in cases {
        assert_eq!(table.map(iova(*start), extents, *prot), Err(*error), "{start:#x} {extents:x?}");
        assert!(memory.snapshot() == before, "{error} has changed the tables");
        assert_eq!(memory.allocations(), allocations);
    }
    assert_eq!(table.tables(), memory.in_use());
}

fn a_bad_unmap_changes_nothing<K: Kind>() {
    let top = 1u64 << K::INPUT_BITS;
    let misaligned = |value| HwError::Misaligned { value, align: K4 };
    let outside = |start, len| HwError::OutOfRange { iova: iova(start), len };
    let hole = |start| HwError::NotMapped { iova: iova(start) };
    let splits = |start, size| HwError::SplitsLeaf { iova: iova(start), size };
    let cases = [
        (range(G1 + 1, G1), misaligned(G1 + 1)),
        (range(G1, G1 - 1), misaligned(G1 - 1)),
        (range(top - K4, 2 * K4), outside(top - K4, 2 * K4)),
        (IovaRange::FULL, outside(0, u64::MAX)),
        (range(0, K4), hole(0)),
        (range(0, top), hole(0)),
        (range(G1, G1 + K4), hole(2 * G1)),
        (range(4 * G1, 2 * M2), hole(4 * G1 + M2)),
        (range(4 * G1 + 2 * M2, 2 * K4), hole(4 * G1 + 2 * M2 + K4)),
        (range(G1, K4), splits(G1, G1)),
        (range(G1 + K4, G1 - K4), splits(G1, G1)),
        (range(G1, G1 - K4), splits(G1, G1)),
        (range(G1 + M2, M2), splits(G1, G1)),
        (range(4 * G1, M2 - K4), splits(4 * G1, M2)),
        (range(4 * G1 + K4, M2 - K4), splits(4 * G1, M2)),
        (range(4 * G1 + 9 * K4, K4), splits(4 * G1, M2)),
    ];
    let memory = memory();
    let mut table = furnished::<K>(&memory);
    let before = memory.snapshot();
    let mut gather = Gather::new();
    for (range, error) in cases {
        assert_eq!(table.unmap(range, &mut gather), Err(error), "{range}");
        assert!(memory.snapshot() == before, "{error} has changed the tables");
        assert!(gather.is_empty() && !gather.tables_changed() && gather.levels().mask() == 0);
    }
    assert_eq!(table.tables(), memory.in_use());
}

fn nothing_to_map_is_no_error<K: Kind>() {
    let memory = memory();
    let mut table = furnished::<K>(&memory);
    let before = memory.snapshot();
    table.map(iova(G1), &[], Prot::READ).unwrap();
    // Empty extents are skipped wherever they lie.
    table.map(iova(G1), &[run(0, 0), run(1 << 60, 0), run(0x123, 0)], Prot::READ).unwrap();
    assert!(memory.snapshot() == before);
    table.map(iova(0), &[run(0x123, 0), run(7 * K4, K4), run(1 << 60, 0)], Prot::READ).unwrap();
    assert_eq!(table.translate(iova(1)).unwrap().phys.get(), 7 * K4 + 1);
}

fn lengths_that_overflow_are_out_of_range<K: Kind>() {
    let memory = memory();
    let config = Config { output_bits: K::OUTPUT_BITS, ..K::config(WalkerMemory::Coherent) };
    let mut table = PageTable::new(&memory, config).unwrap();
    // As many of the longest as make 2^64 bytes.
    let longest = 1 << K::OUTPUT_BITS;
    let extents = vec![run(0, longest); 1 << (64 - K::OUTPUT_BITS)];
    let error = HwError::OutOfRange { iova: iova(0), len: u64::MAX };
    assert_eq!(table.map(iova(0), &extents, Prot::READ), Err(error));
    assert_eq!(
        table.map(iova(0), &extents[1..], Prot::READ),
        Err(HwError::OutOfRange { iova: iova(0), len: 0u64.wrapping_sub(longest) })
    );
    assert_eq!(memory.in_use(), 1);
}

fn any_failing_allocation_changes_nothing<K: Kind>() {
    // The ends of 1 GiB, with pages, large pages and a hole that is filled: tables of every level are missing.
    let extents = [run(8 * G1 - 2 * M2 - K4, 3 * M2), run(M2, 3 * K4), run(4 * M2 - K4, M2 + K4), run(0, 600 * K4)];
    let start = G1 - 2 * M2 - K4;
    let memory = memory();
    let mut table = furnished::<K>(&memory);
    table.map(iova(0), &[run(0, K4)], Prot::READ).unwrap();
    table.unmap(range(G1, G1), &mut Gather::new()).unwrap();
    let (before, tables, allocations) = (memory.snapshot(), table.tables(), memory.allocations());
    let mut n = 0;
    loop {
        memory.fail_after(n);
        match table.map(iova(start), &extents, Prot::READ) {
            Ok(()) => break,
            Err(error) => assert_eq!(error, HwError::OutOfMemory),
        }
        assert!(memory.snapshot() == before, "allocation {n} failed and the tables have changed");
        assert_eq!((table.tables(), memory.in_use()), (tables, tables));
        memory.check_freed();
        // No allocation after the one that failed.
        let tried = memory.allocations() - allocations;
        assert_eq!(tried, (n + 1) * (n + 2) / 2);
        n += 1;
    }
    memory.fail_never();
    assert_eq!((n, table.tables()), (memory.in_use() - tables, memory.in_use()));
    assert!(n >= 4, "only {n} tables were missing");
    drop(table);
    assert_eq!(memory.in_use(), 0);
    memory.exhaust_after(0);
    assert!(matches!(PageTable::new(&memory, K::config(WalkerMemory::Coherent)), Err(HwError::OutOfMemory)));
}

fn a_bad_config_is_refused<K: Kind>() {
    let memory = memory();
    let good = K::config(WalkerMemory::Coherent);
    let bad = [
        Config { levels: 0, ..good },
        Config { levels: 2, ..good },
        Config { levels: 5, ..good },
        Config { page_sizes: PageSizes::new(M2 | G1), ..good },
        Config { input_bits: 11, ..good },
        Config { output_bits: 0, ..good },
        Config { address_bits: 11, ..good },
    ];
    for config in bad {
        assert!(matches!(PageTable::new(&memory, config), Err(HwError::Hardware(_))), "{config:?}");
    }
    assert_eq!(memory.allocations(), 0);
}

fn widths_are_cut_to_what_the_format_has<K: Kind>() {
    let memory = memory();
    let good = K::config(WalkerMemory::Coherent);
    let wide = Config { input_bits: 255, output_bits: 255, address_bits: 255, ..good };
    let geometry = PageTable::new(&memory, wide).unwrap().geometry();
    assert_eq!((geometry.aperture, geometry.output_bits), (range(0, 1 << K::INPUT_BITS), K::OUTPUT_BITS));
    let mut narrow = PageTable::new(&memory, Config { input_bits: 31, output_bits: 32, ..good }).unwrap();
    assert_eq!(narrow.geometry().aperture, range(0, 1 << 31));
    let error = HwError::OutOfRange { iova: iova(1 << 31), len: K4 };
    assert_eq!(narrow.map(iova(1 << 31), &[run(0, K4)], Prot::READ), Err(error));
    let error = HwError::OutputTooWide { phys: PhysAddr::new((1 << 32) + K4 - 1), bits: 32 };
    assert_eq!(narrow.map(iova(0), &[run(1 << 32, K4)], Prot::READ), Err(error));
    // Frames that the unit cannot reach are not taken: the test memory lies above 2^37.
    assert!(matches!(PageTable::new(&memory, Config { address_bits: 37, ..good }), Err(HwError::OutOfMemory)));
}

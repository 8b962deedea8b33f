//! What is refused, with which value, and that nothing changes by it.

mod common;

use common::raw::Raw;
use common::{Kind, Unit, flush, frames, iova, leaves, map, memory, range, run, unmap};
use iommu_core::addr::{IovaRange, PhysAddr, PhysExtent};
use iommu_core::hw::{Gather, HwError, PageSizes, Prot};
use iommu_hal::WalkerMemory;
use iommu_models::memory::TestMemory;
use iommu_pgtable::{Config, Format, PageTable};

for_each_kind!(
    a_bad_map_changes_nothing,
    a_bad_unmap_changes_nothing,
    nothing_to_map_is_no_error,
    lengths_that_overflow_are_out_of_range,
    any_failing_allocation_changes_nothing,
    a_flush_that_fails_leaves_nothing_behind,
    a_bad_config_is_refused,
    widths_are_cut_to_what_the_format_has,
    a_claim_splits_in_two,
    operations_outside_of_a_claim_are_refused,
    a_claim_is_cut_to_the_aperture,
);

/// A table with three leaves, each alone: the largest at its own size, a large one at 4 times that, a page two large ones
/// above.
fn furnished<K: Kind>(memory: &TestMemory) -> PageTable<&TestMemory, K::F> {
    let mut table = K::table(memory);
    let big = K::LARGEST;
    map::<K, _>(&mut table, big, &[run(big, big)], Prot::READ).unwrap();
    map::<K, _>(&mut table, 4 * big, &[run(0, K::LARGE)], Prot::READ).unwrap();
    map::<K, _>(&mut table, 4 * big + 2 * K::LARGE, &[run(K::PAGE, K::PAGE)], Prot::READ).unwrap();
    assert_eq!(leaves::<K, _>(memory, &table).len(), 3);
    table
}

fn a_bad_map_changes_nothing<K: Kind>() {
    let (top, big, large, page) = (K::TOP, K::LARGEST, K::LARGE, K::PAGE);
    let misaligned = |value| HwError::Misaligned { value, align: page };
    let outside = |start, len| HwError::OutOfRange { iova: iova(start), len };
    let wide = |phys| HwError::OutputTooWide { phys: PhysAddr::new(phys), bits: 46 };
    let mapped = |start| HwError::AlreadyMapped { iova: iova(start) };
    let none = Prot { read: false, write: false };
    let one = run(big, page);
    let wrapped = 0u64.wrapping_sub(page);
    let cases: &[(u64, &[PhysExtent], Prot, HwError)] = &[
        (0, &[one], none, HwError::Protection(none)),
        (page / 2, &[one], Prot::READ, misaligned(page / 2)),
        (0, &[one, run(page + 8, page)], Prot::READ, misaligned(page + 8)),
        (0, &[one, run(0, page + 1)], Prot::READ, misaligned(page + 1)),
        (top - page, &[one, one], Prot::READ, outside(top - page, 2 * page)),
        (top, &[one], Prot::READ, outside(top, page)),
        (wrapped, &[one, one], Prot::READ, outside(wrapped, 2 * page)),
        (0, &[run(1 << 46, page)], Prot::READ, wide((1 << 46) + page - 1)),
        (0, &[one, run((1 << 46) - page, 2 * page)], Prot::READ, wide((1 << 46) + page - 1)),
        (0, &[run(wrapped, 2 * page)], Prot::READ, wide(u64::MAX)),
        // Onto the leaves themselves, and with new pages on either side.
        (4 * big + 2 * large, &[one], Prot::READ, mapped(4 * big + 2 * large)),
        (4 * big + 5 * page, &[one], Prot::READ, mapped(4 * big + 5 * page)),
        (2 * big - large, &[run(0, large)], Prot::READ, mapped(2 * big - large)),
        (2 * big - page, &[run(0, 4 * page)], Prot::READ, mapped(2 * big - page)),
        (4 * big + large, &[run(big, 2 * large)], Prot::READ, mapped(4 * big + 2 * large)),
        (big - 3 * page, &[run(0, 8 * page)], Prot::READ, mapped(big)),
        // A large leaf over a table that is not empty, and after large leaves that would fit.
        (4 * big + 2 * large, &[run(0, large)], Prot::READ, mapped(4 * big + 2 * large)),
        (3 * big, &[run(8 * big, 2 * big)], Prot::READ, mapped(4 * big)),
        (0, &[run(8 * big, 5 * big)], Prot::READ, mapped(big)),
    ];
    let memory = memory();
    let mut table = furnished::<K>(&memory);
    let (before, allocations) = (memory.snapshot(), memory.allocations());
    for (start, extents, prot, error) in cases {
        assert_eq!(map::<K, _>(&mut table, *start, extents, *prot), Err(*error), "{start:#x} {extents:x?}");
        assert!(memory.snapshot() == before, "{error} has changed the tables");
        assert_eq!(memory.allocations(), allocations);
    }
    if !K::RAW.has_write_only() {
        assert_eq!(map::<K, _>(&mut table, 0, &[one], Prot::WRITE), Err(HwError::Protection(Prot::WRITE)));
        assert!(memory.snapshot() == before);
    }
    assert_eq!(leaves::<K, _>(&memory, &table).len(), 3);
}

fn a_bad_unmap_changes_nothing<K: Kind>() {
    let (top, big, large, page) = (K::TOP, K::LARGEST, K::LARGE, K::PAGE);
    let misaligned = |value| HwError::Misaligned { value, align: page };
    let outside = |start, len| HwError::OutOfRange { iova: iova(start), len };
    let hole = |start| HwError::NotMapped { iova: iova(start) };
    let splits = |start, size| HwError::SplitsLeaf { iova: iova(start), size };
    let cases = [
        (range(big + 1, big), misaligned(big + 1)),
        (range(big, big - 1), misaligned(big - 1)),
        (range(top - page, 2 * page), outside(top - page, 2 * page)),
        (IovaRange::FULL, outside(0, u64::MAX)),
        (range(0, page), hole(0)),
        (range(0, top), hole(0)),
        (range(big, big + page), hole(2 * big)),
        (range(big, 3 * big), hole(2 * big)),
        (range(4 * big, 2 * large), hole(4 * big + large)),
        (range(4 * big + 2 * large, 2 * page), hole(4 * big + 2 * large + page)),
        (range(big, page), splits(big, big)),
        (range(big + page, big - page), splits(big, big)),
        (range(big, big - page), splits(big, big)),
        (range(big + big / 2, page), splits(big, big)),
        (range(2 * big - page, 2 * page), splits(big, big)),
        (range(4 * big, large - page), splits(4 * big, large)),
        (range(4 * big + page, large - page), splits(4 * big, large)),
        (range(4 * big + 9 * page, page), splits(4 * big, large)),
    ];
    let memory = memory();
    let mut table = furnished::<K>(&memory);
    let before = memory.snapshot();
    let mut gather = Gather::new();
    for (range, error) in cases {
        let mut told = |removed: &_| panic!("{removed:?} was removed, and {error}");
        assert_eq!(table.exclusive().unmap(range, &mut gather, &mut told), Err(error), "{range}");
        assert!(memory.snapshot() == before, "{error} has changed the tables");
        assert!(gather.is_empty() && !gather.tables_changed() && gather.levels().mask() == 0);
    }
    assert_eq!(leaves::<K, _>(&memory, &table).len(), 3);
}

fn nothing_to_map_is_no_error<K: Kind>() {
    let memory = memory();
    let mut table = furnished::<K>(&memory);
    let (before, allocations) = (memory.snapshot(), memory.allocations());
    // Empty extents are skipped wherever they lie, and whatever is mapped there.
    for at in [0, K::LARGEST, K::TOP] {
        map::<K, _>(&mut table, at, &[], Prot::READ).unwrap();
        map::<K, _>(&mut table, at, &[run(0, 0), run(1 << 60, 0), run(0x123, 0)], Prot::READ).unwrap();
    }
    assert!(memory.snapshot() == before);
    assert_eq!(memory.allocations(), allocations);
    let page = K::PAGE;
    map::<K, _>(&mut table, 0, &[run(0x123, 0), run(7 * page, page), run(1 << 60, 0)], Prot::READ).unwrap();
    assert_eq!(table.translate(iova(1)).unwrap().phys.get(), 7 * page + 1);
    assert_eq!(leaves::<K, _>(&memory, &table).len(), 4);
}

fn lengths_that_overflow_are_out_of_range<K: Kind>() {
    let memory = memory();
    let config = Config { output_bits: K::OUTPUT_BITS, ..K::config(WalkerMemory::Coherent) };
    let mut table = PageTable::new(&memory, config).unwrap();
    // As many of the longest as make 2^64 bytes.
    let longest = 1 << K::OUTPUT_BITS;
    let extents = vec![run(0, longest); 1 << (64 - K::OUTPUT_BITS)];
    let error = |len| Err(HwError::OutOfRange { iova: iova(0), len });
    assert_eq!(map::<K, _>(&mut table, 0, &extents, Prot::READ), error(u64::MAX));
    assert_eq!(map::<K, _>(&mut table, 0, &extents[1..], Prot::READ), error(0u64.wrapping_sub(longest)));
    assert_eq!(memory.in_use(), frames::<K>(1));
}

fn any_failing_allocation_changes_nothing<K: Kind>() {
    // From a page below large leaves into pages that no larger leaf fits: tables of every level are missing.
    let (big, large, page) = (K::LARGEST, K::LARGE, K::PAGE);
    let start = 17 * big - 2 * large - page;
    let extents = [
        run(8 * big - 2 * large - page, 3 * large),
        run(large, 3 * page),
        run(4 * large - page, large + page),
        run(0, 600 * page),
    ];
    let memory = memory();
    let mut table = furnished::<K>(&memory);
    map::<K, _>(&mut table, 0, &[run(0, page)], Prot::READ).unwrap();
    let before = (memory.snapshot(), table.tables(), table.bytes(), memory.in_use());
    let allocations = memory.allocations();
    let mut n = 0;
    loop {
        memory.fail_after(n);
        match map::<K, _>(&mut table, start, &extents, Prot::READ) {
            Ok(()) => break,
            Err(error) => assert_eq!(error, HwError::OutOfMemory),
        }
        let now = (memory.snapshot(), table.tables(), table.bytes(), memory.in_use());
        assert!(now == before, "allocation {n} failed and the tables have changed");
        memory.check_freed();
        // No allocation after the one that failed.
        let tried = memory.allocations() - allocations;
        assert_eq!(tried, (n + 1) * (n + 2) / 2);
        n += 1;
    }
    memory.fail_never();
    assert_eq!(n, table.tables() - before.1);
    assert!(n >= 4, "only {n} tables were missing");
    leaves::<K, _>(&memory, &table);
    drop(table);
    assert_eq!(memory.in_use(), 0);
    memory.exhaust_after(0);
    assert!(matches!(PageTable::new(&memory, K::config(WalkerMemory::Coherent)), Err(HwError::OutOfMemory)));
}

fn a_flush_that_fails_leaves_nothing_behind<K: Kind>() {
    // Pages where a table is missing, then a large leaf where an empty one stands.
    let (large, page) = (K::LARGE, K::PAGE);
    let memory = memory();
    let mut table = K::table(&memory);
    map::<K, _>(&mut table, 9 * large, &[run(page, page)], Prot::READ).unwrap();
    unmap::<K, _>(&mut table, range(9 * large, page), &mut Gather::new()).unwrap();
    let extents = [run(page, large), run(4 * large, large)];
    let mut unit = Unit::failing(0);
    let failed = table.exclusive().map(iova(8 * large), &extents, Prot::READ, &mut unit);
    assert_eq!((failed, unit.flushes), (Err(Unit::ERROR), 1));
    // But for the table that hardware has not confirmed to have forgotten.
    assert_eq!(leaves::<K, _>(&memory, &table), []);
    assert_eq!((table.tables(), table.retired()), (usize::from(K::LEVELS) - 1, 1));
    // Tried again, once hardware has confirmed that it has forgotten everything.
    let mut unit = Unit::default();
    table.exclusive().map(iova(8 * large), &extents, Prot::READ, &mut unit).unwrap();
    assert!(unit.flushes == 1 && unit.asked[0].everything);
    assert_eq!(leaves::<K, _>(&memory, &table).last().unwrap().size, large);
    map::<K, _>(&mut table, 0, &[run(0, page)], Prot::READ).unwrap();
    drop(table);
    assert_eq!(memory.in_use(), 0);
}

fn a_bad_config_is_refused<K: Kind>() {
    let memory = memory();
    let good = K::config(WalkerMemory::Coherent);
    let page_bits = K::RAW.page_bits as u8;
    let bad = [
        Config { levels: 0, ..good },
        Config { levels: K::F::LEVELS.start() - 1, ..good },
        Config { levels: K::F::LEVELS.end() + 1, ..good },
        Config { levels: 255, ..good },
        Config { page_sizes: PageSizes::new(K::RAW.sizes & !K::PAGE), ..good },
        Config { page_sizes: PageSizes::new(0), ..good },
        Config { input_bits: page_bits - 1, ..good },
        Config { output_bits: 0, ..good },
        Config { address_bits: page_bits - 1, ..good },
    ];
    for config in bad {
        assert!(matches!(PageTable::new(&memory, config), Err(HwError::Hardware(_))), "{config:?}");
    }
    // So narrow that hardware would begin its walks below the root.
    let least = K::RAW.least_input_bits() as u8;
    if least > page_bits {
        let shallow = PageTable::new(&memory, Config { input_bits: least - 1, ..good });
        assert!(matches!(shallow, Err(HwError::Hardware(_))));
    }
    // What hardware notes would not be seen, or lost.
    let blind = Config { memory: WalkerMemory::NonCoherent, track_dirty: true, ..good };
    assert!(matches!(PageTable::new(&memory, blind), Err(HwError::Unsupported(_))));
    assert_eq!(memory.allocations(), 0);
}

fn widths_are_cut_to_what_the_format_has<K: Kind>() {
    let memory = memory();
    let good = K::config(WalkerMemory::Coherent);
    let wide = Config { input_bits: 255, output_bits: 255, address_bits: 255, ..good };
    let mut table = PageTable::new(&memory, wide).unwrap();
    let input_bits = K::RAW.most_input_bits();
    assert_eq!(table.geometry().aperture, range(0, 1 << input_bits));
    assert_eq!(table.geometry().output_bits, K::OUTPUT_BITS);
    // All of it is there.
    let (top, phys) = (1 << input_bits, 1 << K::OUTPUT_BITS);
    map::<K, _>(&mut table, top - K::PAGE, &[run(phys - K::PAGE, K::PAGE)], Prot::READ).unwrap();
    let raw = Raw { input_bits, address_bits: K::OUTPUT_BITS.into(), ..K::RAW };
    let read = |phys| memory.device_read64(PhysAddr::new(phys));
    let leaf = raw.walk(&read, raw.root(table.root().get()), top - 1).unwrap().unwrap();
    assert_eq!((leaf.iova, leaf.phys, leaf.size), (top - K::PAGE, phys - K::PAGE, K::PAGE));
    assert_eq!(raw.scan(&read, raw.root(table.root().get())).unwrap().0, [leaf]);
    drop(table);

    let input_bits = K::RAW.least_input_bits().max(31);
    let top = 1 << input_bits;
    let config = Config { input_bits: input_bits as u8, output_bits: 32, ..good };
    let mut narrow = PageTable::new(&memory, config).unwrap();
    assert_eq!(narrow.geometry().aperture, range(0, top));
    let error = HwError::OutOfRange { iova: iova(top), len: K::PAGE };
    assert_eq!(map::<K, _>(&mut narrow, top, &[run(0, K::PAGE)], Prot::READ), Err(error));
    let error = HwError::OutputTooWide { phys: PhysAddr::new((1 << 32) + K::PAGE - 1), bits: 32 };
    assert_eq!(map::<K, _>(&mut narrow, 0, &[run(1 << 32, K::PAGE)], Prot::READ), Err(error));
    map::<K, _>(&mut narrow, top - K::PAGE, &[run((1 << 32) - K::PAGE, K::PAGE)], Prot::READ).unwrap();
    assert_eq!(narrow.translate(iova(top - 1)).unwrap().phys.get(), (1 << 32) - 1);
    let raw = Raw { input_bits, address_bits: 46, ..K::RAW };
    assert_eq!(raw.scan(&read, raw.root(narrow.root().get())).unwrap().0.len(), 1);
    drop(narrow);

    // Frames that the unit cannot reach are not taken: the test memory lies above 2^37.
    assert!(matches!(PageTable::new(&memory, Config { address_bits: 37, ..good }), Err(HwError::OutOfMemory)));
}

fn a_claim_splits_in_two<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    let (top, border) = (K::TOP, 5 * K::LARGE + 3 * K::PAGE);
    let all = range(0, top);
    assert_eq!(table.exclusive().range(), all);
    // In two, and at or beyond the ends.
    let parts = |table: &mut PageTable<_, _>, at| {
        let (low, high) = table.exclusive().split_at(iova(at));
        (low.map(|claim| claim.range()), high.map(|claim| claim.range()))
    };
    assert_eq!(parts(&mut table, 0), (None, Some(all)));
    assert_eq!(parts(&mut table, top), (Some(all), None));
    assert_eq!(parts(&mut table, u64::MAX), (Some(all), None));
    assert_eq!(parts(&mut table, 1), (Some(range(0, 1)), Some(range(1, top - 1))));
    assert_eq!(parts(&mut table, border), (Some(range(0, border)), Some(range(border, top - border))));

    // Each works on its own, and sees its own.
    let (low, high) = table.exclusive().split_at(iova(border));
    let (mut low, mut high, mut unit) = (low.unwrap(), high.unwrap(), Unit::default());
    let (page, len) = (K::PAGE, 4 * K::PAGE);
    high.map(iova(border), &[run(page, len)], Prot::READ, &mut unit).unwrap();
    low.map(iova(border - len), &[run(K::LARGE, len)], Prot::READ, &mut unit).unwrap();
    let seen = |claim: &iommu_pgtable::Claim<'_, _, _>, at| claim.translate(iova(at)).map(|to| to.phys.get());
    assert_eq!((seen(&high, border), seen(&high, border - 1)), (Some(page), None));
    assert_eq!((seen(&low, border), seen(&low, border - 1)), (None, Some(K::LARGE + len - 1)));
    let (middle, upper) = high.split_at(iova(border + 2 * page));
    let (mut middle, mut upper) = (middle.unwrap(), upper.unwrap());
    assert_eq!(middle.range(), range(border, 2 * page));
    let mut gather = Gather::new();
    middle.unmap(range(border, 2 * page), &mut gather, &mut |_| ()).unwrap();
    upper.unmap(range(border + 2 * page, 2 * page), &mut gather, &mut |_| ()).unwrap();
    low.unmap(range(border - len, len), &mut gather, &mut |_| ()).unwrap();
    flush::<K, _>(&table, &mut gather);
    assert_eq!(leaves::<K, _>(&memory, &table), []);
}

fn operations_outside_of_a_claim_are_refused<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    let (page, large) = (K::PAGE, K::LARGE);
    // Leaves on both sides of both ends of the claim, and across one.
    map::<K, _>(&mut table, 2 * large - 4 * page, &[run(page, 2 * large + 8 * page)], Prot::READ).unwrap();
    map::<K, _>(&mut table, 8 * large, &[run(8 * large, large)], Prot::READ).unwrap();
    let (before, allocations) = (memory.snapshot(), memory.allocations());
    let (claimed, rest) = table.exclusive().split_at(iova(4 * large));
    let (_, claimed) = claimed.unwrap().split_at(iova(2 * large));
    let mut claim = claimed.unwrap();
    assert_eq!(claim.range(), range(2 * large, 2 * large));
    let mut unit = Unit::default();
    let mut gather = Gather::new();
    for (at, len) in [
        (2 * large - page, page),
        (2 * large - page, 2 * page),
        (4 * large - page, 2 * page),
        (4 * large, page),
        (2 * large - page, 2 * large + 2 * page),
        (0, page),
        (8 * large, large),
    ] {
        let outside = Err(HwError::OutOfRange { iova: iova(at), len });
        let held = range(at, len);
        assert_eq!(claim.map(iova(at), &[run(0, len)], Prot::READ, &mut unit), outside);
        assert_eq!(claim.unmap(held, &mut gather, &mut |_| panic!("{held} was removed")), outside);
        assert_eq!(claim.protect(held, Prot::READ, &mut unit).map(|_| ()), outside);
        assert_eq!(claim.cut(held, page, &mut unit).map(|_| ()), outside);
        assert_eq!(claim.merge(held, &mut unit).map(|_| ()), outside);
        assert_eq!(claim.read_dirty(held, &mut |_| panic!("dirty")), outside);
        assert_eq!(claim.read_and_clear_dirty(held, &mut gather, &mut |_| panic!("dirty")), outside);
        assert!(memory.snapshot() == before, "{held}");
    }
    assert_eq!((claim.translate(iova(2 * large - 1)), claim.translate(iova(4 * large))), (None, None));
    assert!(claim.translate(iova(2 * large)).is_some());
    assert!(gather.is_empty() && unit.flushes == 0);

    // A leaf that reaches out of a claim is not taken apart.
    let (mut low, _) = rest.unwrap().split_at(iova(8 * large + page));
    let half = low.as_mut().unwrap().unmap(range(8 * large, page), &mut gather, &mut |_| ());
    assert_eq!(half, Err(HwError::SplitsLeaf { iova: iova(8 * large), size: large }));
    assert!(memory.snapshot() == before);
    assert_eq!(memory.allocations(), allocations);

    // All of it, and no more.
    claim.unmap(range(2 * large, 2 * large), &mut gather, &mut |_| ()).unwrap();
    claim.map(iova(2 * large), &[run(0, 2 * large)], Prot::READ, &mut unit).unwrap();
    let left = unmap::<K, _>(&mut table, range(2 * large - 4 * page, 4 * page), &mut gather).unwrap();
    assert_eq!(left.len(), 1);

    // Where the table stands already, and nothing in it on either side of the claim.
    map::<K, _>(&mut table, 20 * large, &[run(0, page)], Prot::READ).unwrap();
    let before = memory.snapshot();
    let (_, upper) = table.exclusive().split_at(iova(20 * large + 8 * page));
    let (claim, _) = upper.unwrap().split_at(iova(20 * large + 16 * page));
    let mut claim = claim.unwrap();
    for (at, count) in [(7, 1), (7, 2), (15, 2), (16, 1), (7, 10), (2, 3)] {
        let (at, len) = (20 * large + at * page, count * page);
        let outside = Err(HwError::OutOfRange { iova: iova(at), len });
        assert_eq!(claim.map(iova(at), &[run(page, len)], Prot::READ, &mut unit), outside);
        assert!(memory.snapshot() == before);
    }
    claim.map(iova(20 * large + 8 * page), &[run(page, 8 * page)], Prot::READ, &mut unit).unwrap();
}

fn a_claim_is_cut_to_the_aperture<K: Kind>() {
    let memory = memory();
    let table = K::table(&memory);
    let (top, page) = (K::TOP, K::PAGE);
    // SAFETY: one claim at a time.
    let claim = |start, last| unsafe { table.claim(IovaRange::new(iova(start), iova(last)).unwrap()) };
    let cut = |start, last| claim(start, last).map(|claim| claim.range());
    assert_eq!(cut(0, u64::MAX), Some(range(0, top)));
    assert_eq!(cut(page, 2 * page - 1), Some(range(page, page)));
    assert_eq!(cut(top - 1, top), Some(range(top - 1, 1)));
    assert_eq!((cut(top, top), cut(top, u64::MAX), cut(u64::MAX, u64::MAX)), (None, None, None));
    // What it does not have it does not change, though it was asked for.
    let mut claim = claim(top - page, u64::MAX).unwrap();
    let beyond = Err(HwError::OutOfRange { iova: iova(top - page), len: 2 * page });
    assert_eq!(claim.map(iova(top - page), &[run(0, 2 * page)], Prot::READ, &mut Unit::default()), beyond);
    claim.map(iova(top - page), &[run(page, page)], Prot::READ, &mut Unit::default()).unwrap();
    assert_eq!(leaves::<K, _>(&memory, &table).len(), 1);
}

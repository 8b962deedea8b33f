//! After a flush inside of an operation failed: hardware may hold what no table shows any more. Whatever comes next has to
//! have everything invalidated, and an operation that reports success was confirmed.

mod common;

use common::unit::{Flushed, Unit};
use common::{iova, memory, range, run};
use iommu_core::hw::{Gather, HwError, PageSizes, Prot, Transition};
use iommu_hal::WalkerMemory;
use iommu_models::memory::TestMemory;
use iommu_pgtable::{Armv8Stage1, Armv8Stage2, Config, Flush, PageTable, Stage1Options, Stage2Options};

const K4: u64 = 0x1000;
const M2: u64 = 0x20_0000;
const M32: u64 = 16 * M2;

/// A table whose leaves change their size while they are live.
fn live(memory: &TestMemory) -> PageTable<&TestMemory, Armv8Stage1> {
    let config = Config {
        levels: 4,
        page_sizes: PageSizes::new(K4 | M2),
        input_bits: 48,
        output_bits: 46,
        memory: WalkerMemory::Coherent,
        address_bits: 46,
        track_dirty: false,
        options: Stage1Options { resizes_live: true, ..Stage1Options::default() },
    };
    PageTable::new(memory, config).unwrap()
}

/// What was asked for last.
fn last<'u>(unit: &'u Unit<'_>) -> Option<&'u Flushed> {
    unit.asked.last()
}

/// Unmaps a page, and says whether that asks for everything.
fn unmap_asks_for_everything(table: &mut PageTable<&TestMemory, Armv8Stage1>, at: u64) -> bool {
    let mut gather = Gather::new();
    table.exclusive().unmap(range(at, K4), &mut gather, &mut |_| ()).unwrap();
    gather.everything()
}

#[test]
fn a_protection_that_is_tried_again_is_confirmed() {
    let memory = memory();
    let mut table = live(&memory);
    let mut unit = Unit::failing(0);
    table.exclusive().map(iova(M2), &[run(M2, K4)], Prot::READ_WRITE, &mut unit).unwrap();
    assert_eq!(table.exclusive().protect(range(M2, K4), Prot::READ, &mut unit), Err(Unit::ERROR));
    assert_eq!(table.exclusive().protect(range(M2, K4), Prot::READ, &mut unit), Ok(Transition::Hitless));
    assert!(unit.flushes == 2 && last(&unit).unwrap().everything);
    // Made up for: the next one has nothing to ask for.
    assert_eq!(table.exclusive().protect(range(M2, K4), Prot::READ, &mut unit), Ok(Transition::Hitless));
    assert_eq!(unit.flushes, 2);
}

#[test]
fn an_unmap_after_a_failed_cut_asks_for_everything() {
    let memory = memory();
    let mut table = live(&memory);
    let mut unit = Unit::failing(0);
    table.exclusive().map(iova(M2), &[run(M2, M2)], Prot::READ_WRITE, &mut unit).unwrap();
    assert_eq!(table.exclusive().cut(range(M2, K4), K4, &mut unit), Err(Unit::ERROR));
    assert!(unmap_asks_for_everything(&mut table, M2));
    // Whoever gets a unit next makes up for it; then it is as before.
    assert_eq!(table.exclusive().cut(range(M2, K4), K4, &mut unit), Ok(Transition::Hitless));
    assert!(last(&unit).unwrap().everything);
    assert!(!unmap_asks_for_everything(&mut table, M2 + K4));
}

#[test]
fn an_unmap_after_a_failed_merge_asks_for_everything() {
    let memory = memory();
    let mut table = live(&memory);
    let mut unit = Unit::failing(0);
    for page in 0..512 {
        let at = M2 + page * K4;
        table.exclusive().map(iova(at), &[run(at, K4)], Prot::READ_WRITE, &mut unit).unwrap();
    }
    assert_eq!(table.exclusive().merge(range(M2, M2), &mut unit), Err(Unit::ERROR));
    assert!(unmap_asks_for_everything(&mut table, M2));
    // A map makes up for it too, however little it maps; nothing is mapped where that fails.
    unit.fails = Some(1);
    let map = |table: &mut PageTable<&TestMemory, Armv8Stage1>, unit: &mut Unit<'_>| {
        table.exclusive().map(iova(M2), &[run(M2, K4)], Prot::READ_WRITE, unit)
    };
    assert_eq!(map(&mut table, &mut unit), Err(Unit::ERROR));
    assert_eq!(table.translate(iova(M2)), None);
    assert_eq!(map(&mut table, &mut unit), Ok(()));
    assert!(unit.flushes == 3 && last(&unit).unwrap().everything);
    assert!(!unmap_asks_for_everything(&mut table, M2));
}

#[test]
fn a_map_in_place_of_an_empty_table_is_tried_again_with_a_flush() {
    let memory = memory();
    let mut table = live(&memory);
    let mut unit = Unit::default();
    table.exclusive().map(iova(M2), &[run(M2, K4)], Prot::READ_WRITE, &mut unit).unwrap();
    assert!(!unmap_asks_for_everything(&mut table, M2));
    unit.fails = Some(0);
    let block = [run(M2, M2)];
    assert_eq!(table.exclusive().map(iova(M2), &block, Prot::READ_WRITE, &mut unit), Err(Unit::ERROR));
    assert_eq!(table.translate(iova(M2)), None);
    assert_eq!(table.exclusive().map(iova(M2), &block, Prot::READ_WRITE, &mut unit), Ok(()));
    assert!(unit.flushes == 2 && last(&unit).unwrap().everything);
    assert_eq!(table.translate(iova(M2)).map(|to| to.page_size), Some(M2));
}

/// Blocks, and a table of pages that map on: merged, the pages become a block and all blocks a group. Where hardware does
/// not confirm the first, the table comes back, and must not come back into the middle of a group.
#[test]
fn a_table_that_is_put_back_stands_in_no_group() {
    let memory = memory();
    let config = Config {
        levels: 3,
        page_sizes: PageSizes::new(K4 | M2 | M32),
        input_bits: 39,
        output_bits: 46,
        memory: WalkerMemory::Coherent,
        address_bits: 46,
        track_dirty: false,
        options: Stage2Options { resizes_live: true, ..Stage2Options::default() },
    };
    let mut table = PageTable::<_, Armv8Stage2>::new(&memory, config).unwrap();
    let mut unit = Unit::failing(0);
    let pages = M32 + 15 * M2;
    let blocks = (0..15).map(|n| (M32 + n * M2, M2));
    for (at, len) in blocks.chain((0..512).map(|n| (pages + n * K4, K4))) {
        table.exclusive().map(iova(at), &[run(at, len)], Prot::READ_WRITE, &mut unit).unwrap();
    }
    assert_eq!(table.exclusive().merge(range(M32, M32), &mut unit), Err(Unit::ERROR));
    let sizes = |table: &PageTable<_, Armv8Stage2>| table.leaves(range(M32, M32)).map(|leaf| leaf.size).max();
    assert_eq!(sizes(&table), Some(M2));
    assert_eq!(table.exclusive().merge(range(M32, M32), &mut unit), Ok(Transition::Hitless));
    assert_eq!(sizes(&table), Some(M32));
}

#[test]
fn levels_go_with_the_width_where_hardware_tells_the_root_by_it() {
    let memory = memory();
    let config = |levels, input_bits| Config::<Armv8Stage1> {
        levels,
        page_sizes: PageSizes::new(K4 | M2),
        input_bits,
        output_bits: 46,
        memory: WalkerMemory::Coherent,
        address_bits: 46,
        track_dirty: false,
        options: Stage1Options::default(),
    };
    for (levels, bits, fits) in [(4, 39, false), (4, 40, true), (3, 39, true), (3, 32, true), (4, 32, false)] {
        assert_eq!(PageTable::new(&memory, config(levels, bits)).is_ok(), fits, "{levels} levels for {bits} bits");
    }
}

#[test]
fn nothing_is_mapped_of_nothing_whatever_else_is_wrong() {
    let memory = memory();
    let mut table = live(&memory);
    let mut unit = Unit::default();
    let none = Prot { read: false, write: false };
    for (at, prot) in [(0x123, Prot::READ), (1 << 60, Prot::READ), (0, none)] {
        assert_eq!(table.exclusive().map(iova(at), &[run(0x777, 0)], prot, &mut unit), Ok(()));
        assert_eq!(table.exclusive().map(iova(at), &[], prot, &mut unit), Ok(()));
    }
    assert_eq!(unit.flushes, 0);
}

/// One operation fails while another makes up for an earlier failure: only the earlier one is made up for.
#[test]
fn a_failure_in_the_middle_of_making_up_is_not_forgotten() {
    struct Nested<'t, 'm>(&'t PageTable<&'m TestMemory, Armv8Stage1>, usize);
    // SAFETY: there is no hardware.
    unsafe impl Flush for Nested<'_, '_> {
        fn flush(&mut self, _: &Gather) -> Result<(), HwError> {
            self.1 += 1;
            if self.1 == 1 {
                // A neighbour: fails, makes up for both failures, and fails again.
                let mut unit = Unit { fails: Some(0), ..Unit::default() };
                // SAFETY: nobody else has a claim on these addresses.
                let mut claim = unsafe { self.0.claim(range(8 * M2, M2)) }.unwrap();
                assert_eq!(claim.protect(range(8 * M2, K4), Prot::READ, &mut unit), Err(Unit::ERROR));
                assert_eq!(claim.protect(range(8 * M2, K4), Prot::READ_WRITE, &mut unit), Ok(Transition::Hitless));
                unit.fails = Some(unit.flushes);
                assert_eq!(claim.protect(range(8 * M2, K4), Prot::READ, &mut unit), Err(Unit::ERROR));
            }
            Ok(())
        }
    }
    let memory = memory();
    let table = live(&memory);
    // SAFETY: the neighbour's range is another one.
    let mut claim = unsafe { table.claim(range(0, 8 * M2)) }.unwrap();
    let mut unit = Unit::failing(0);
    claim.map(iova(M2), &[run(M2, K4)], Prot::READ_WRITE, &mut unit).unwrap();
    {
        // SAFETY: as above.
        let mut neighbour = unsafe { table.claim(range(8 * M2, M2)) }.unwrap();
        neighbour.map(iova(8 * M2), &[run(8 * M2, K4)], Prot::READ_WRITE, &mut unit).unwrap();
    }
    assert_eq!(claim.protect(range(M2, K4), Prot::READ, &mut unit), Err(Unit::ERROR));
    assert_eq!(claim.protect(range(M2, K4), Prot::READ, &mut Nested(&table, 0)), Ok(Transition::Hitless));
    let mut gather = Gather::new();
    claim.unmap(range(M2, K4), &mut gather, &mut |_| ()).unwrap();
    assert!(gather.everything(), "the neighbour's last failure was forgotten");
}

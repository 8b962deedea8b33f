//! Which leaves a map makes, bit for bit, and what an unmap leaves of them.

mod common;

use common::raw::Leaf;
use common::{ArmFirst4, ArmSecond4, First4, Flat, G1, K4, Kind, M2, Second3, Second4, iova, memory, range, run};
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{Gather, HwError, PageSizes, Prot};
use iommu_hal::{Hal, WalkerMemory};
use iommu_models::memory::TestMemory;
use iommu_pgtable::{
    Armv8Stage1, Armv8Stage2, Config, PageTable, SecondStageOptions, Stage1Options, VtdFirstStage, VtdSecondStage,
};

for_each_kind!(
    leaves_are_as_large_as_alignment_and_length_allow,
    touching_extents_are_one_run,
    only_the_given_sizes_are_used,
    a_table_in_the_way_makes_leaves_smaller,
    permissions_are_exact,
    the_ends_of_the_aperture_map,
    translate_agrees_with_the_raw_walk,
    unmap_takes_whole_leaves_of_every_size,
);

fn leaves<K: Kind, H: Hal>(memory: &TestMemory, table: &PageTable<H, K::F>) -> Vec<Leaf> {
    let read = |phys| memory.device_read64(PhysAddr::new(phys));
    let (leaves, tables) = K::RAW.scan(&read, K::RAW.root(table.root().get())).unwrap();
    assert_eq!(tables.len(), table.tables());
    leaves
}

/// Start, physical start and size of each leaf.
fn shape(leaves: &[Leaf]) -> Vec<(u64, u64, u64)> {
    leaves.iter().map(|leaf| (leaf.iova, leaf.phys, leaf.size)).collect()
}

/// The entries that lead to `iova`, root first.
fn path(memory: &TestMemory, root: PhysAddr, iova: u64, shifts: &[u32]) -> Vec<u64> {
    let mut table = root.get();
    let load = |shift: &u32| {
        let entry = memory.read64(PhysAddr::new(table + 8 * (iova >> shift & 511)));
        table = entry & 0xf_ffff_ffff_f000;
        entry
    };
    shifts.iter().map(load).collect()
}

fn assert_path(memory: &TestMemory, root: PhysAddr, iova: u64, shifts: &[u32], table_bits: u64, leaf: u64) {
    let path = path(memory, root, iova, shifts);
    let (last, upper) = path.split_last().unwrap();
    assert_eq!(*last, leaf, "{last:#x} is not {leaf:#x}");
    for entry in upper {
        assert_eq!(entry & !0xf_ffff_ffff_f000, table_bits, "{entry:#x}");
        assert!(memory.is_allocated(PhysAddr::new(entry & 0xf_ffff_ffff_f000)));
    }
}

#[test]
fn second_stage_entries_bit_for_bit() {
    for (levels, root, snoop, snp) in [(3, 30, false, 0), (4, 39, false, 0), (4, 39, true, 0x800)] {
        let memory = memory();
        let options = SecondStageOptions { snoop };
        let config = Config::<VtdSecondStage> { levels, options, ..Second4::config(WalkerMemory::Coherent) };
        let mut table = PageTable::new(&memory, config).unwrap();
        let shifts: Vec<u32> = [12, 21, 30, 39].into_iter().filter(|shift| *shift <= root).rev().collect();
        table.map(iova(0x11_2233_4000), &[run(0x12_3456_7000, K4)], Prot::READ_WRITE).unwrap();
        assert_path(&memory, table.root(), 0x11_2233_4000, &shifts, 0x3, 0x12_3456_7003 | snp);
        table.map(iova(0x11_2233_5000), &[run(0x12_3456_8000, K4)], Prot::READ).unwrap();
        assert_path(&memory, table.root(), 0x11_2233_5000, &shifts, 0x3, 0x12_3456_8001 | snp);
        table.map(iova(0x11_2233_6000), &[run(0x12_3456_9000, K4)], Prot::WRITE).unwrap();
        assert_path(&memory, table.root(), 0x11_2233_6000, &shifts, 0x3, 0x12_3456_9002 | snp);
        table.map(iova(0x11_2240_0000), &[run(0x12_3460_0000, M2)], Prot::READ_WRITE).unwrap();
        let large = &shifts[..shifts.len() - 1];
        assert_path(&memory, table.root(), 0x11_2240_0000, large, 0x3, 0x12_3460_0083 | snp);
        table.map(iova(0x11_4000_0000), &[run(0x12_8000_0000, G1)], Prot::READ).unwrap();
        let huge = &shifts[..shifts.len() - 2];
        assert_path(&memory, table.root(), 0x11_4000_0000, huge, 0x3, 0x12_8000_0081 | snp);
        assert_eq!(table.tables(), usize::from(levels));
    }
}

#[test]
fn first_stage_entries_bit_for_bit() {
    let memory = memory();
    let mut table = PageTable::new(&memory, First4::config(WalkerMemory::Coherent)).unwrap();
    let root = table.root();
    table.map(iova(0x6011_2233_4000), &[run(0x12_3456_7000, K4)], Prot::READ_WRITE).unwrap();
    assert_path(&memory, root, 0x6011_2233_4000, &[39, 30, 21, 12], 0x27, 0x12_3456_7067);
    table.map(iova(0x6011_2233_5000), &[run(0x12_3456_8000, K4)], Prot::READ).unwrap();
    assert_path(&memory, root, 0x6011_2233_5000, &[39, 30, 21, 12], 0x27, 0x12_3456_8025);
    table.map(iova(0x6011_2240_0000), &[run(0x12_3460_0000, M2)], Prot::READ_WRITE).unwrap();
    assert_path(&memory, root, 0x6011_2240_0000, &[39, 30, 21], 0x27, 0x12_3460_00e7);
    table.map(iova(0x6011_4000_0000), &[run(0x12_8000_0000, G1)], Prot::READ).unwrap();
    assert_path(&memory, root, 0x6011_4000_0000, &[39, 30], 0x27, 0x12_8000_00a5);
    assert_eq!(table.tables(), 4);
}

#[test]
fn armv8_stage_1_entries_bit_for_bit() {
    // Valid, AP[1], inner shareable, AF, nG, PXN, UXN: bits 0, 6, 9:8, 10, 11, 53, 54. Bit 7 takes writes away.
    for (levels, index, attribute) in [(4, 0, 0), (4, 7, 7 << 2), (4, 8, 0), (3, 3, 3 << 2)] {
        let memory = memory();
        let options = Stage1Options { attribute_index: index };
        let config = Config::<Armv8Stage1> { levels, options, ..ArmFirst4::config(WalkerMemory::Coherent) };
        let mut table = PageTable::new(&memory, config).unwrap();
        let shifts = &[39, 30, 21, 12][4 - usize::from(levels)..];
        let (root, leaf) = (table.root(), 0x0060_0000_0000_0f41 | attribute);
        table.map(iova(0x11_2233_4000), &[run(0x12_3456_7000, K4)], Prot::READ_WRITE).unwrap();
        assert_path(&memory, root, 0x11_2233_4000, shifts, 0x3, 0x12_3456_7002 | leaf);
        table.map(iova(0x11_2233_5000), &[run(0x12_3456_8000, K4)], Prot::READ).unwrap();
        assert_path(&memory, root, 0x11_2233_5000, shifts, 0x3, 0x12_3456_8082 | leaf);
        table.map(iova(0x11_2240_0000), &[run(0x12_3460_0000, M2)], Prot::READ_WRITE).unwrap();
        assert_path(&memory, root, 0x11_2240_0000, &shifts[..shifts.len() - 1], 0x3, 0x12_3460_0000 | leaf);
        table.map(iova(0x11_4000_0000), &[run(0x12_8000_0000, G1)], Prot::READ).unwrap();
        assert_path(&memory, root, 0x11_4000_0000, &shifts[..shifts.len() - 2], 0x3, 0x12_8000_0080 | leaf);
        assert_eq!(table.tables(), usize::from(levels));
    }
}

#[test]
fn armv8_stage_2_entries_bit_for_bit() {
    // Valid, MemAttr write-back, inner shareable, AF, XN[1]: bits 0, 5:2, 9:8, 10, 54. Bit 6 is read, bit 7 write.
    const LEAF: u64 = 0x0040_0000_0000_073d;
    for levels in [3, 4] {
        let memory = memory();
        let config = Config::<Armv8Stage2> { levels, ..ArmSecond4::config(WalkerMemory::Coherent) };
        let mut table = PageTable::new(&memory, config).unwrap();
        let shifts = &[39, 30, 21, 12][4 - usize::from(levels)..];
        let root = table.root();
        table.map(iova(0x11_2233_4000), &[run(0x12_3456_7000, K4)], Prot::READ_WRITE).unwrap();
        assert_path(&memory, root, 0x11_2233_4000, shifts, 0x3, 0x12_3456_70c2 | LEAF);
        table.map(iova(0x11_2233_5000), &[run(0x12_3456_8000, K4)], Prot::READ).unwrap();
        assert_path(&memory, root, 0x11_2233_5000, shifts, 0x3, 0x12_3456_8042 | LEAF);
        table.map(iova(0x11_2233_6000), &[run(0x12_3456_9000, K4)], Prot::WRITE).unwrap();
        assert_path(&memory, root, 0x11_2233_6000, shifts, 0x3, 0x12_3456_9082 | LEAF);
        table.map(iova(0x11_2240_0000), &[run(0x12_3460_0000, M2)], Prot::READ_WRITE).unwrap();
        assert_path(&memory, root, 0x11_2240_0000, &shifts[..shifts.len() - 1], 0x3, 0x12_3460_00c0 | LEAF);
        table.map(iova(0x11_4000_0000), &[run(0x12_8000_0000, G1)], Prot::WRITE).unwrap();
        assert_path(&memory, root, 0x11_4000_0000, &shifts[..shifts.len() - 2], 0x3, 0x12_8000_0080 | LEAF);
        assert_eq!(table.tables(), usize::from(levels));
    }
}

fn leaves_are_as_large_as_alignment_and_length_allow<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    // A page, a 2 MiB leaf, a 1 GiB leaf, a 2 MiB leaf, a page: the run is aligned with the addresses modulo 1 GiB.
    let start = G1 - M2 - K4;
    table.map(iova(start), &[run(8 * G1 + start, G1 + 2 * (M2 + K4))], Prot::READ_WRITE).unwrap();
    let at = [G1 - M2 - K4, G1 - M2, G1, 2 * G1, 2 * G1 + M2];
    let expected: Vec<_> = at.into_iter().zip([K4, M2, G1, M2, K4]).map(|(at, size)| (at, 8 * G1 + at, size)).collect();
    assert_eq!(shape(&leaves::<K, _>(&memory, &table)), expected);

    // Memory aligned to 2 MiB only: no 1 GiB leaf.
    table.map(iova(4 * G1), &[run(8 * G1 + M2, G1)], Prot::READ_WRITE).unwrap();
    let large = leaves::<K, _>(&memory, &table).into_iter().filter(|leaf| leaf.iova >= 4 * G1);
    assert_eq!(large.filter(|leaf| leaf.size == M2).count(), 512);

    // Memory aligned to pages only.
    table.map(iova(6 * G1), &[run(8 * G1 + K4, 2 * M2)], Prot::READ_WRITE).unwrap();
    let small = leaves::<K, _>(&memory, &table).into_iter().filter(|leaf| leaf.iova >= 6 * G1);
    assert_eq!(small.filter(|leaf| leaf.size == K4).count(), 1024);
}

fn touching_extents_are_one_run<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    let halves = [run(M2, M2 / 2), run(77 * G1, 0), run(M2 + M2 / 2, M2 / 2)];
    table.map(iova(0), &halves, Prot::READ_WRITE).unwrap();
    // The other way round they do not touch.
    table.map(iova(M2), &[halves[2], halves[0]], Prot::READ_WRITE).unwrap();
    let leaves = leaves::<K, _>(&memory, &table);
    assert_eq!(shape(&leaves[..2]), [(0, M2, M2), (M2, M2 + M2 / 2, K4)]);
    assert_eq!(leaves.len(), 1 + 512);
    assert_eq!(leaves[257].phys, M2);
}

fn only_the_given_sizes_are_used<K: Kind>() {
    for (sizes, count, last) in [(K4, 1024, K4), (K4 | G1, 1024, K4), (K4 | M2, 2, M2), (K4 | M2 | 1 << 39, 2, M2)] {
        let memory = memory();
        let config = Config { page_sizes: PageSizes::new(sizes), ..K::config(WalkerMemory::Coherent) };
        let mut table = PageTable::new(&memory, config).unwrap();
        table.map(iova(G1 - 2 * M2), &[run(5 * G1 - 2 * M2, 2 * M2)], Prot::READ).unwrap();
        let leaves = leaves::<K, _>(&memory, &table);
        assert_eq!((leaves.len(), leaves.last().unwrap().size), (count, last));
        assert_eq!(table.geometry().page_sizes, PageSizes::new(sizes & (K4 | M2 | G1)));
    }
}

fn a_table_in_the_way_makes_leaves_smaller<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    table.map(iova(M2), &[run(G1, K4)], Prot::READ).unwrap();
    let mut gather = Gather::new();
    table.unmap(range(M2, K4), &mut gather).unwrap();
    assert_eq!(table.retired(), 0);
    // Three large pages in a row, an empty table in the middle one's place.
    table.map(iova(0), &[run(4 * M2, 3 * M2)], Prot::READ).unwrap();
    let leaves = leaves::<K, _>(&memory, &table);
    assert_eq!(leaves.len(), 1 + 512 + 1);
    assert_eq!(shape(&leaves[..2]), [(0, 4 * M2, M2), (M2, 5 * M2, K4)]);
    assert_eq!(leaves[513].size, M2);
}

fn permissions_are_exact<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    let mut at = 0;
    for prot in [Prot::READ, Prot::READ_WRITE, Prot::WRITE] {
        for size in [K4, M2, G1] {
            at += G1;
            let mapped = table.map(iova(at), &[run(at, size)], prot);
            if prot == Prot::WRITE && !K::RAW.has_write_only() {
                assert_eq!(mapped, Err(HwError::Protection(prot)));
                continue;
            }
            assert_eq!(mapped, Ok(()));
            let leaf = leaves::<K, _>(&memory, &table).pop().unwrap();
            assert_eq!((leaf.iova, leaf.size, leaf.read, leaf.write), (at, size, prot.read, prot.write));
            assert_eq!(table.translate(iova(at)).unwrap().prot, prot);
        }
    }
}

fn the_ends_of_the_aperture_map<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    let top = 1 << K::INPUT_BITS;
    assert_eq!(table.geometry().aperture, range(0, top));
    assert_eq!((table.geometry().output_bits, table.levels()), (46, K::LEVELS));
    table.map(iova(0), &[run((1 << 46) - K4, K4)], Prot::READ).unwrap();
    table.map(iova(top - K4), &[run(0, K4)], Prot::READ).unwrap();
    let expected = [(0, (1 << 46) - K4, K4), (top - K4, 0, K4)];
    assert_eq!(shape(&leaves::<K, _>(&memory, &table)), expected);
    assert_eq!(table.translate(iova(top - 1)).unwrap().phys.get(), K4 - 1);
    assert_eq!((table.translate(iova(top)), table.translate(iova(u64::MAX))), (None, None));
    table.unmap(range(top - K4, K4), &mut Gather::new()).unwrap();
    table.unmap(range(0, K4), &mut Gather::new()).unwrap();
    assert_eq!(leaves::<K, _>(&memory, &table), []);
}

fn translate_agrees_with_the_raw_walk<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    table.map(iova(G1 - M2 - K4), &[run(9 * G1 - M2 - K4, G1 + M2 + 3 * K4)], Prot::READ).unwrap();
    let read = |phys| memory.device_read64(PhysAddr::new(phys));
    for at in [0, G1 - M2 - K4 - 1, G1 - M2 - 1, G1 - M2, G1 - 1, G1, 2 * G1 - 1, 2 * G1 + 2 * K4 - 1, 2 * G1 + 2 * K4]
    {
        let raw = K::RAW.walk(&read, K::RAW.root(table.root().get()), at).unwrap();
        let seen = table.translate(iova(at)).map(|to| (to.phys.get(), to.page_size, to.prot.read, to.prot.write));
        assert_eq!(seen, raw.map(|leaf| (leaf.phys + at - leaf.iova, leaf.size, leaf.read, leaf.write)), "{at:#x}");
    }
}

fn unmap_takes_whole_leaves_of_every_size<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    let start = G1 - M2 - K4;
    let len = G1 + 2 * (M2 + K4);
    table.map(iova(start), &[run(start, len)], Prot::READ).unwrap();
    let whole = Flat::of(&leaves::<K, _>(&memory, &table));
    assert_eq!(whole.0.len() as u64, len / K4);
    // From the middle of one table to the middle of another, over a huge leaf.
    let cut = range(G1 - M2, M2 + G1 + M2);
    table.unmap(cut, &mut Gather::new()).unwrap();
    assert_eq!(shape(&leaves::<K, _>(&memory, &table)), [(start, start, K4), (2 * G1 + M2, 2 * G1 + M2, K4)]);
}

#[test]
fn three_levels_have_their_gigabytes_in_the_root() {
    let memory = memory();
    let mut table = Second3::table(&memory);
    table.map(iova(3 * G1), &[run(G1, 2 * G1)], Prot::READ).unwrap();
    assert_eq!(table.tables(), 1);
    let huge = [(3 * G1, G1, G1), (4 * G1, 2 * G1, G1)];
    assert_eq!(shape(&leaves::<Second3, _>(&memory, &table)), huge);
}

#[test]
fn a_first_stage_has_four_levels_only() {
    let memory = memory();
    let config = Config::<VtdFirstStage> { levels: 3, ..First4::config(WalkerMemory::Coherent) };
    assert!(matches!(PageTable::new(&memory, config), Err(HwError::Hardware(_))));
    assert_eq!(memory.allocations(), 0);
}

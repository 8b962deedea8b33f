//! Which leaves a map makes, bit for bit, and what an unmap leaves of them.

mod common;

use common::raw::Raw;
use common::{
    ArmFirst4, ArmFirst16K4, ArmFirst64K3, ArmSecond4, ArmSecond16K3, First4, Kind, Second3, Second4, Sv48, flush,
    greedy, iova, leaves, map, memory, range, run, shape, side_by_side, staircase, unmap,
};
use iommu_core::addr::{IovaRange, PhysAddr};
use iommu_core::hw::{Gather, HwError, PageSizes, Prot};
use iommu_hal::WalkerMemory;
use iommu_models::memory::TestMemory;
use iommu_pgtable::{
    Armv8Stage1, Armv8Stage2, Config, FirstStageOptions, Format, Granule4K, Granule16K, Granule64K, PageTable, Riscv64,
    SecondStageOptions, Shareability, Stage1Options, Stage2Options, VtdFirstStage, VtdSecondStage,
};
use std::sync::Arc;

for_each_kind!(
    leaves_are_as_large_as_alignment_and_length_allow,
    touching_extents_are_one_run,
    only_the_given_sizes_are_used,
    permissions_are_exact,
    the_ends_of_the_aperture_map,
    translate_agrees_with_the_raw_walk,
    unmap_takes_whole_leaves_of_every_size,
    unmap_tells_what_was_there,
    leaves_are_told_by_range,
);

/// What stands in the entries on the way to a leaf: address bits of a page, address bits that a table translates, and
/// how an entry holds the address of the next table.
#[derive(Clone, Copy)]
struct Shape {
    page_bits: u32,
    index_bits: u32,
    address: fn(u64) -> u64,
}

const G4K: Shape = Shape { page_bits: 12, index_bits: 9, address: |entry| entry & 0xf_ffff_ffff_f000 };
const G16K: Shape = Shape { page_bits: 14, index_bits: 11, address: |entry| entry & 0xffff_ffff_c000 };
const G64K: Shape = Shape { page_bits: 16, index_bits: 13, address: |entry| entry & 0xffff_ffff_0000 };
const RISCV: Shape = Shape { address: |entry| (entry & 0x3f_ffff_ffff_fc00) << 2, ..G4K };

/// One table, in which single leaves are compared with what they are to be, bit for bit.
struct Bits<F: Format> {
    memory: Arc<TestMemory>,
    table: PageTable<Arc<TestMemory>, F>,
    shape: Shape,
    /// Entries that lead to tables, without their address.
    link: u64,
}

impl<F: Format> Bits<F> {
    fn new(config: Config<F>, shape: Shape, link: u64) -> Self {
        let memory = Arc::new(memory());
        Self { table: PageTable::new(memory.clone(), config).unwrap(), memory, shape, link }
    }

    /// Maps `len` bytes, and expects `leaf` in the entry of the level (counted from 0) that leads `at` there.
    fn expect(&mut self, at: u64, phys: u64, len: u64, prot: Prot, level: u32, leaf: u64) {
        let mut unit = common::Unit::default();
        self.table.exclusive().map(iova(at), &[run(phys, len)], prot, &mut unit).unwrap();
        self.stands(at, level, leaf);
    }

    /// Expects `leaf` in the entry of the level that translates `at`.
    fn stands(&self, at: u64, level: u32, leaf: u64) {
        let Shape { page_bits, index_bits, address } = self.shape;
        let (mut table, top) = (self.table.root().get(), u32::from(self.table.levels()) - 1);
        for above in (level..=top).rev() {
            let index = at >> (page_bits + above * index_bits);
            let index = if above == top { index } else { index & ((1 << index_bits) - 1) };
            let entry = self.memory.read64(PhysAddr::new(table + 8 * index));
            if above == level {
                assert_eq!(entry, leaf, "{at:#x}: {entry:#x} is not {leaf:#x}");
                return;
            }
            table = address(entry);
            assert!(self.memory.is_allocated(PhysAddr::new(table)));
            let shifted = if address(1 << 10) != 0 { table >> 2 } else { table };
            assert_eq!(entry ^ shifted, self.link, "{at:#x}: {entry:#x}");
        }
    }
}

#[test]
fn second_stage_entries_bit_for_bit() {
    for levels in [3, 4, 5] {
        for (snoop, track_dirty) in [(false, false), (true, false), (false, true), (true, true)] {
            let options = SecondStageOptions { snoop };
            let config = Second4::config(WalkerMemory::Coherent);
            let config = Config::<VtdSecondStage> { levels, input_bits: 57, options, track_dirty, ..config };
            // SNP in leaves; A everywhere, D where it was written.
            let (snp, a) = (if snoop { 0x800 } else { 0 }, if track_dirty { 0x100 } else { 0 });
            let mut bits = Bits::new(config, G4K, 0x3 | a);
            bits.expect(0x11_2233_4000, 0x12_3456_7000, 0x1000, Prot::READ_WRITE, 0, 0x12_3456_7003 | snp | a);
            bits.expect(0x11_2233_5000, 0x12_3456_8000, 0x1000, Prot::READ, 0, 0x12_3456_8001 | snp | a);
            bits.expect(0x11_2233_6000, 0x12_3456_9000, 0x1000, Prot::WRITE, 0, 0x12_3456_9002 | snp | a);
            bits.expect(0x11_2240_0000, 0x12_3460_0000, 0x20_0000, Prot::READ_WRITE, 1, 0x12_3460_0083 | snp | a);
            bits.expect(0x11_4000_0000, 0x12_8000_0000, 0x4000_0000, Prot::READ, 2, 0x12_8000_0081 | snp | a);
            assert_eq!(bits.table.tables(), usize::from(levels));
        }
    }
}

#[test]
fn first_stage_entries_bit_for_bit() {
    for levels in [4, 5] {
        for (supervisor, no_execute, track_dirty) in
            [(false, false, false), (true, false, false), (false, true, false), (true, true, true)]
        {
            let options = FirstStageOptions { supervisor, no_execute };
            let config = First4::config(WalkerMemory::Coherent);
            let config = Config::<VtdFirstStage> { levels, input_bits: 57, options, track_dirty, ..config };
            // P, A, and U/S everywhere; XD in leaves; D in those that are writable, unless hardware is to set it.
            let (us, xd) = (if supervisor { 0 } else { 4 }, if no_execute { 1 << 63 } else { 0 });
            let d = if track_dirty { 0 } else { 0x40 };
            let mut bits = Bits::new(config, G4K, 0x23 | us);
            let (leaf, at) = (us | xd, 0x6000_0000_0000);
            bits.expect(at + 0x11_2233_4000, 0x12_3456_7000, 0x1000, Prot::READ_WRITE, 0, 0x12_3456_7023 | leaf | d);
            bits.expect(at + 0x11_2233_5000, 0x12_3456_8000, 0x1000, Prot::READ, 0, 0x12_3456_8021 | leaf);
            let large = 0x20_0000;
            bits.expect(at + 0x11_2240_0000, 0x12_3460_0000, large, Prot::READ_WRITE, 1, 0x12_3460_00a3 | leaf | d);
            bits.expect(at + 0x11_4000_0000, 0x12_8000_0000, 0x4000_0000, Prot::READ, 2, 0x12_8000_00a1 | leaf);
            assert_eq!(bits.table.tables(), usize::from(levels));
        }
    }
}

#[test]
fn armv8_stage_1_entries_bit_for_bit() {
    // Valid, AP[1], inner shareable, AF, nG, PXN, UXN: bits 0, 6, 9:8, 10, 11, 53, 54. Bit 7 takes writes away.
    const PLAIN: u64 = 0x0060_0000_0000_0f41;
    let plain = Stage1Options::default();
    let cases = [
        (plain, PLAIN),
        (Stage1Options { attribute_index: 7, ..plain }, PLAIN | 7 << 2),
        (Stage1Options { attribute_index: 8, ..plain }, PLAIN),
        (Stage1Options { attribute_index: 3, ..plain }, PLAIN | 3 << 2),
        (Stage1Options { shareability: Shareability::Outer, ..plain }, PLAIN & !0x100),
        (Stage1Options { shareability: Shareability::Non, ..plain }, PLAIN & !0x300),
        (Stage1Options { privileged: true, ..plain }, PLAIN & !0x40),
        (Stage1Options { executable: true, ..plain }, PLAIN & !(3 << 53)),
        (Stage1Options { resizes_live: true, ..plain }, PLAIN),
    ];
    for (options, leaf) in cases {
        for (levels, track_dirty) in [(3, false), (4, false), (4, true)] {
            let config = ArmFirst4::config(WalkerMemory::Coherent);
            let config = Config::<Armv8Stage1<Granule4K>> { levels, options, track_dirty, ..config };
            // Writable: AP[2] is clear, or DBM (51) is set beside it until it is written through.
            let writable = if track_dirty { 1 << 51 | 0x80 } else { 0 };
            let mut bits = Bits::new(config, G4K, 0x3);
            bits.expect(0x11_2233_4000, 0x12_3456_7000, 0x1000, Prot::READ_WRITE, 0, 0x12_3456_7002 | leaf | writable);
            bits.expect(0x11_2233_5000, 0x12_3456_8000, 0x1000, Prot::READ, 0, 0x12_3456_8082 | leaf);
            let (at, phys) = (0x11_2240_0000, 0x12_3460_0000);
            bits.expect(at, phys, 0x20_0000, Prot::READ_WRITE, 1, phys | leaf | writable);
            bits.expect(0x11_4000_0000, 0x12_8000_0000, 0x4000_0000, Prot::READ, 2, 0x12_8000_0080 | leaf);
            assert_eq!(bits.table.tables(), usize::from(levels));
            // Groups of 16: bit 52, the last and the first of each.
            let hint = 1 << 52;
            bits.expect(0x11_2234_0000, 0x12_3457_0000, 0x1_0000, Prot::READ, 0, 0x12_3457_0082 | leaf | hint);
            bits.stands(0x11_2234_f000, 0, 0x12_3457_f082 | leaf | hint);
            bits.stands(0x11_2235_0000, 0, 0);
            let (at, phys) = (0x11_2400_0000, 0x12_3600_0000);
            bits.expect(at, phys, 0x200_0000, Prot::READ_WRITE, 1, phys | leaf | writable | hint);
            bits.stands(0x11_25e0_0000, 1, 0x12_37e0_0000 | leaf | writable | hint);
            let (at, phys) = (0x14_0000_0000, 0x20_0000_0000);
            bits.expect(at, phys, 0x4_0000_0000, Prot::READ_WRITE, 2, phys | leaf | writable | hint);
            bits.stands(0x17_c000_0000, 2, 0x23_c000_0000 | leaf | writable | hint);
        }
    }
}

#[test]
fn armv8_stage_1_entries_of_larger_granules_bit_for_bit() {
    const LEAF: u64 = 0x0060_0000_0000_0f41;
    const HINT: u64 = 1 << 52;
    for levels in [2, 3, 4] {
        let config = ArmFirst16K4::config(WalkerMemory::Coherent);
        let config = Config::<Armv8Stage1<Granule16K>> { levels, ..config };
        let mut bits = Bits::new(config, G16K, 0x3);
        bits.expect(0x1_2233_4000, 0x12_3456_8000, 0x4000, Prot::READ_WRITE, 0, 0x12_3456_8002 | LEAF);
        bits.expect(0x1_2400_0000, 0x12_3600_0000, 0x200_0000, Prot::READ, 1, 0x12_3600_0080 | LEAF);
        bits.expect(0x1_2240_0000, 0x12_3460_0000, 0x20_0000, Prot::READ, 0, 0x12_3460_0082 | LEAF | HINT);
        bits.stands(0x1_225f_c000, 0, 0x12_347f_c082 | LEAF | HINT);
        bits.expect(0x1_4000_0000, 0x12_8000_0000, 0x4000_0000, Prot::READ, 1, 0x12_8000_0080 | LEAF | HINT);
        bits.stands(0x1_7e00_0000, 1, 0x12_be00_0080 | LEAF | HINT);
        assert_eq!(bits.table.tables(), usize::from(levels));
    }
    for levels in [2, 3] {
        let config = ArmFirst64K3::config(WalkerMemory::Coherent);
        let config = Config::<Armv8Stage1<Granule64K>> { levels, ..config };
        let mut bits = Bits::new(config, G64K, 0x3);
        bits.expect(0x11_2233_0000, 0x12_3456_0000, 0x1_0000, Prot::READ_WRITE, 0, 0x12_3456_0002 | LEAF);
        bits.expect(0x11_4000_0000, 0x12_8000_0000, 0x2000_0000, Prot::READ, 1, 0x12_8000_0080 | LEAF);
        bits.expect(0x11_2240_0000, 0x12_3460_0000, 0x20_0000, Prot::READ, 0, 0x12_3460_0082 | LEAF | HINT);
        bits.stands(0x11_225f_0000, 0, 0x12_347f_0082 | LEAF | HINT);
        bits.expect(0x14_0000_0000, 0x20_0000_0000, 0x4_0000_0000, Prot::READ, 1, 0x20_0000_0080 | LEAF | HINT);
        bits.stands(0x17_e000_0000, 1, 0x23_e000_0080 | LEAF | HINT);
        assert_eq!(bits.table.tables(), usize::from(levels));
    }
}

#[test]
fn armv8_stage_2_entries_bit_for_bit() {
    // Valid, MemAttr write-back, inner shareable, AF, XN[1]: bits 0, 5:2, 9:8, 10, 54. Bit 6 is read, bit 7 write.
    const PLAIN: u64 = 0x0040_0000_0000_073d;
    let plain = Stage2Options::default();
    let cases = [
        (plain, PLAIN),
        (Stage2Options { memory_attributes: 6, ..plain }, PLAIN & !0x3c | 6 << 2),
        (Stage2Options { memory_attributes: 0x1f, ..plain }, PLAIN),
        (Stage2Options { memory_attributes: 1, ..plain }, PLAIN & !0x3c | 1 << 2),
        (Stage2Options { shareability: Shareability::Outer, ..plain }, PLAIN & !0x100),
        (Stage2Options { shareability: Shareability::Non, ..plain }, PLAIN & !0x300),
        (Stage2Options { executable: true, ..plain }, PLAIN & !(3 << 53)),
        (Stage2Options { resizes_live: true, ..plain }, PLAIN),
    ];
    for (options, leaf) in cases {
        // Three levels: one root table, and two and sixteen side by side.
        for (levels, input_bits, track_dirty) in
            [(3, 39, false), (3, 40, false), (3, 43, true), (4, 48, false), (4, 48, true)]
        {
            let config = ArmSecond4::config(WalkerMemory::Coherent);
            let config = Config::<Armv8Stage2<Granule4K>> { levels, input_bits, options, track_dirty, ..config };
            // Writable: S2AP[1], or DBM (51) until it is written through.
            let w = if track_dirty { 1 << 51 } else { 0x80 };
            let mut bits = Bits::new(config, G4K, 0x3);
            // In the last root table.
            let at = if levels == 3 { (1 << input_bits) - 0x80_0000_0000 } else { 0 };
            bits.expect(at + 0x11_2233_4000, 0x12_3456_7000, 0x1000, Prot::READ_WRITE, 0, 0x12_3456_7042 | leaf | w);
            bits.expect(at + 0x11_2233_5000, 0x12_3456_8000, 0x1000, Prot::READ, 0, 0x12_3456_8042 | leaf);
            bits.expect(at + 0x11_2233_6000, 0x12_3456_9000, 0x1000, Prot::WRITE, 0, 0x12_3456_9002 | leaf | w);
            let (large, phys) = (at + 0x11_2240_0000, 0x12_3460_0000);
            bits.expect(large, phys, 0x20_0000, Prot::READ_WRITE, 1, phys | 0x40 | leaf | w);
            bits.expect(at + 0x11_4000_0000, 0x12_8000_0000, 0x4000_0000, Prot::WRITE, 2, 0x12_8000_0000 | leaf | w);
            assert_eq!(bits.table.tables(), usize::from(levels));
            let hint = 1 << 52;
            bits.expect(at + 0x11_2234_0000, 0x12_3457_0000, 0x1_0000, Prot::READ, 0, 0x12_3457_0042 | leaf | hint);
            bits.stands(at + 0x11_2234_f000, 0, 0x12_3457_f042 | leaf | hint);
        }
    }
}

#[test]
fn armv8_stage_2_entries_of_larger_granules_bit_for_bit() {
    const LEAF: u64 = 0x0040_0000_0000_073d;
    let config = ArmSecond16K3::config(WalkerMemory::Coherent);
    let options = Stage2Options::default();
    let config = Config::<Armv8Stage2<Granule16K>> { input_bits: 48, options, ..config };
    let mut bits = Bits::new(config, G16K, 0x3);
    // The second root table.
    let at = 1 << 47;
    bits.expect(at + 0x1_2233_4000, 0x12_3456_8000, 0x4000, Prot::READ_WRITE, 0, 0x12_3456_80c2 | LEAF);
    bits.expect(at + 0x1_2400_0000, 0x12_3600_0000, 0x200_0000, Prot::WRITE, 1, 0x12_3600_0080 | LEAF);
    let config = Config::<Armv8Stage2<Granule64K>> {
        levels: 2,
        page_sizes: PageSizes::new(0x1_0000 | 0x2000_0000),
        input_bits: 46,
        output_bits: 48,
        memory: WalkerMemory::Coherent,
        address_bits: 48,
        track_dirty: false,
        options,
    };
    let mut bits = Bits::new(config, G64K, 0x3);
    // The last of sixteen.
    let at = 15 << 42;
    bits.expect(at + 0x11_2233_0000, 0xff12_3456_0000, 0x1_0000, Prot::READ_WRITE, 0, 0xff12_3456_00c2 | LEAF);
    bits.expect(at + 0x11_4000_0000, 0x12_8000_0000, 0x2000_0000, Prot::READ, 1, 0x12_8000_0040 | LEAF);
}

#[test]
fn riscv64_entries_bit_for_bit() {
    for levels in [3, 4] {
        for track_dirty in [false, true] {
            let config = Sv48::config(WalkerMemory::Coherent);
            let config = Config::<Riscv64> { levels, track_dirty, ..config };
            // V, R, U, A; W and D where it is writable. The page number begins at bit 10.
            let (leaf, w) = (0x53, if track_dirty { 0x4 } else { 0x84 });
            let mut bits = Bits::new(config, RISCV, 0x1);
            bits.expect(0x11_2233_4000, 0x12_3456_7000, 0x1000, Prot::READ_WRITE, 0, 0x4_8d15_9c00 | leaf | w);
            bits.expect(0x11_2233_5000, 0x12_3456_8000, 0x1000, Prot::READ, 0, 0x4_8d15_a000 | leaf);
            bits.expect(0x11_2240_0000, 0x12_3460_0000, 0x20_0000, Prot::READ_WRITE, 1, 0x4_8d18_0000 | leaf | w);
            bits.expect(0x11_4000_0000, 0x12_8000_0000, 0x4000_0000, Prot::READ, 2, 0x4_a000_0000 | leaf);
            assert_eq!(bits.table.tables(), usize::from(levels));
            if levels == 4 {
                let (huge, phys) = (0x80_0000_0000, 0x300_0000_0000);
                bits.expect(5 * huge, phys, huge, Prot::READ, 3, 0xc0_0000_0000 | leaf);
            }
        }
    }
}

fn leaves_are_as_large_as_alignment_and_length_allow<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    let (sizes, big) = (K::sizes(), K::LARGEST);
    // One of each size up and down: the run is aligned with the addresses modulo the largest.
    let (start, len, steps) = staircase(&sizes, 4 * big, 2);
    map::<K, _>(&mut table, start, &[run(8 * big + start, len)], Prot::READ_WRITE).unwrap();
    let expected = side_by_side(start, 8 * big + start, &steps);
    assert_eq!(shape(&leaves::<K, _>(&memory, &table)), expected);
    assert_eq!(greedy::<K>(start, 8 * big + start, len), expected);
    // Memory that is aligned less than the addresses: no larger leaf.
    for (n, pair) in sizes.windows(2).enumerate() {
        let &[size, larger] = pair else { unreachable!() };
        let at = (10 + 2 * n as u64) * big;
        map::<K, _>(&mut table, at, &[run(8 * big + size, 2 * larger)], Prot::READ_WRITE).unwrap();
        let found = leaves::<K, _>(&memory, &table).into_iter().filter(|leaf| leaf.iova >= at);
        let expected = side_by_side(at, 8 * big + size, &vec![size; (2 * larger / size) as usize]);
        assert_eq!(shape(&found.collect::<Vec<_>>()), expected);
    }
    // And addresses that are aligned less than the memory.
    for (n, pair) in sizes.windows(2).enumerate() {
        let &[size, larger] = pair else { unreachable!() };
        let at = (30 + 2 * n as u64) * big;
        map::<K, _>(&mut table, at + size, &[run(8 * big, 2 * larger)], Prot::READ_WRITE).unwrap();
        let found = leaves::<K, _>(&memory, &table).into_iter().filter(|leaf| leaf.iova >= at);
        assert!(found.into_iter().all(|leaf| leaf.size == size));
    }
}

fn touching_extents_are_one_run<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    let (large, half) = (K::LARGE, K::LARGE / 2);
    let halves = [run(large, half), run(77 * large, 0), run(large + half, half)];
    map::<K, _>(&mut table, 0, &halves, Prot::READ_WRITE).unwrap();
    // The other way round they do not touch.
    map::<K, _>(&mut table, large, &[halves[2], halves[0]], Prot::READ_WRITE).unwrap();
    let mut expected = vec![(0, large, large)];
    expected.extend(greedy::<K>(large, large + half, half));
    expected.extend(greedy::<K>(large + half, large, half));
    assert_eq!(shape(&leaves::<K, _>(&memory, &table)), expected);
}

fn only_the_given_sizes_are_used<K: Kind>() {
    let sizes = K::sizes();
    let big = K::LARGEST;
    // Every choice of sizes with the smallest.
    for choice in 0..1u64 << (sizes.len() - 1) {
        let chosen: Vec<u64> = sizes
            .iter()
            .copied()
            .enumerate()
            .filter(|(n, _)| *n == 0 || choice >> (n - 1) & 1 == 1)
            .map(|(_, size)| size)
            .collect();
        let largest = *chosen.last().unwrap();
        let mask = chosen.iter().sum::<u64>();
        let memory = memory();
        // Sizes that no format has do no harm.
        let page_sizes = PageSizes::new(mask | 0x2000 | 1 << 45 | 1 << 63);
        let mut table = PageTable::new(&memory, Config { page_sizes, ..K::config(WalkerMemory::Coherent) }).unwrap();
        assert_eq!(table.geometry().page_sizes, PageSizes::new(mask));
        // Long enough that a larger leaf would fit.
        let most = sizes.iter().find(|size| **size > largest).map_or(1, |larger| 2 * larger / largest);
        let (start, len, steps) = staircase(&chosen, 4 * big, most);
        map::<K, _>(&mut table, start, &[run(8 * big + start, len)], Prot::READ).unwrap();
        let raw = Raw { sizes: mask, ..K::RAW };
        let read = |phys| memory.device_read64(PhysAddr::new(phys));
        let (leaves, _) = raw.scan(&read, raw.root(table.root().get())).unwrap();
        assert_eq!(shape(&leaves), side_by_side(start, 8 * big + start, &steps), "{mask:#x}");
    }
}

fn permissions_are_exact<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    let mut at = 0;
    for prot in [Prot::READ, Prot::READ_WRITE, Prot::WRITE] {
        for size in K::sizes() {
            at += K::LARGEST;
            let mapped = map::<K, _>(&mut table, at, &[run(at, size)], prot);
            if prot == Prot::WRITE && !K::RAW.has_write_only() {
                assert_eq!(mapped, Err(HwError::Protection(prot)));
                continue;
            }
            assert_eq!(mapped, Ok(()));
            let leaf = leaves::<K, _>(&memory, &table).pop().unwrap();
            assert_eq!((leaf.iova, leaf.size, leaf.read, leaf.write), (at, size, prot.read, prot.write));
            assert_eq!(table.translate(iova(at)).unwrap().prot, prot);
            assert!(!leaf.dirty, "it starts clean");
        }
    }
}

fn the_ends_of_the_aperture_map<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    let (top, page) = (K::TOP, K::PAGE);
    assert_eq!(table.geometry().aperture, range(0, top));
    assert_eq!((table.geometry().output_bits, table.levels()), (46, K::LEVELS));
    map::<K, _>(&mut table, 0, &[run((1 << 46) - page, page)], Prot::READ).unwrap();
    map::<K, _>(&mut table, top - page, &[run(0, page)], Prot::READ).unwrap();
    let expected = [(0, (1 << 46) - page, page), (top - page, 0, page)];
    assert_eq!(shape(&leaves::<K, _>(&memory, &table)), expected);
    assert_eq!(table.translate(iova(top - 1)).unwrap().phys.get(), page - 1);
    assert_eq!((table.translate(iova(top)), table.translate(iova(u64::MAX))), (None, None));
    unmap::<K, _>(&mut table, range(top - page, page), &mut Gather::new()).unwrap();
    unmap::<K, _>(&mut table, range(0, page), &mut Gather::new()).unwrap();
    assert_eq!(leaves::<K, _>(&memory, &table), []);
    // The largest leaf too, in a table where no other one was in its place.
    drop(table);
    let (mut table, big) = (K::table(&memory), K::LARGEST);
    map::<K, _>(&mut table, top - big, &[run((1 << 46) - big, big)], Prot::READ).unwrap();
    assert_eq!(shape(&leaves::<K, _>(&memory, &table)), [(top - big, (1 << 46) - big, big)]);
    assert_eq!(table.translate(iova(top - 1)).unwrap().phys.get(), (1 << 46) - 1);
}

fn translate_agrees_with_the_raw_walk<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    let big = K::LARGEST;
    let (start, len, steps) = staircase(&K::sizes(), 4 * big, 1);
    map::<K, _>(&mut table, start, &[run(8 * big + start, len)], Prot::READ).unwrap();
    let read = |phys| memory.device_read64(PhysAddr::new(phys));
    let root = K::RAW.root(table.root().get());
    let mut borders = vec![0, 1, K::PAGE, K::TOP - 1, start + len + K::PAGE];
    for (at, _, size) in side_by_side(start, 0, &steps) {
        borders.extend([at - 1, at, at + 1, at + size / 2, at + size - 1, at + size]);
    }
    for at in borders {
        let raw = K::RAW.walk(&read, root, at).unwrap();
        assert_eq!(raw.is_some(), at >= start && at < start + len);
        common::assert_translates::<K, _>(&table, at, raw.as_ref());
    }
}

fn unmap_takes_whole_leaves_of_every_size<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    let (page, big) = (K::PAGE, K::LARGEST);
    let (start, len, steps) = staircase(&K::sizes(), 4 * big, 3);
    let mut expected = side_by_side(start, start, &steps);
    map::<K, _>(&mut table, start, &[run(start, len)], Prot::READ).unwrap();
    // Leaf by leaf: every third.
    let mut gather = Gather::new();
    for (at, _, size) in expected.iter().copied().step_by(3) {
        unmap::<K, _>(&mut table, range(at, size), &mut gather).unwrap();
    }
    expected = expected.iter().copied().enumerate().filter(|(n, _)| n % 3 != 0).map(|(_, leaf)| leaf).collect();
    assert_eq!(shape(&leaves::<K, _>(&memory, &table)), expected);
    flush::<K, _>(&table, &mut gather);
    // All but the ends, over leaves of every size.
    let at = 10 * big;
    map::<K, _>(&mut table, start + at, &[run(start, len)], Prot::READ).unwrap();
    unmap::<K, _>(&mut table, range(start + at + page, len - 2 * page), &mut gather).unwrap();
    expected.extend([(start + at, start, page), (start + at + len - page, start + len - page, page)]);
    assert_eq!(shape(&leaves::<K, _>(&memory, &table)), expected);
    flush::<K, _>(&table, &mut gather);
    leaves::<K, _>(&memory, &table);
}

fn unmap_tells_what_was_there<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    let (page, large, big) = (K::PAGE, K::LARGE, K::LARGEST);
    // Contiguous over leaves of every size and many tables: one run.
    let (start, len, _) = staircase(&K::sizes(), 4 * big, 2);
    map::<K, _>(&mut table, start, &[run(start + 8 * big, len)], Prot::READ_WRITE).unwrap();
    let mut gather = Gather::new();
    let told = unmap::<K, _>(&mut table, range(start, len), &mut gather).unwrap();
    let plain = |told: &[iommu_pgtable::Removed]| -> Vec<_> {
        told.iter().map(|gone| (gone.iova.get(), gone.extent.start.get(), gone.extent.len, gone.dirty)).collect()
    };
    // Where nothing is noted, anything may have been written.
    let dirty = !K::RAW.tracked;
    assert_eq!(plain(&told), [(start, start + 8 * big, len, dirty)]);
    // Mapped by several calls and in pieces of memory: a run for each that does not go on; protections do not matter.
    let at = 20 * big + large - 4 * page;
    map::<K, _>(&mut table, at, &[run(page, 2 * page), run(3 * page, 2 * page)], Prot::READ).unwrap();
    map::<K, _>(&mut table, at + 4 * page, &[run(5 * page, page), run(9 * page, large)], Prot::READ_WRITE).unwrap();
    let told = unmap::<K, _>(&mut table, range(at, large + 5 * page), &mut gather).unwrap();
    let expected = [(at, page, 5 * page, dirty), (at + 5 * page, 9 * page, large, dirty)];
    let mut joined: Vec<(u64, u64, u64, bool)> = Vec::new();
    for gone in plain(&told) {
        match joined.last_mut() {
            Some(last) if last.0 + last.2 == gone.0 && last.1 + last.2 == gone.1 => last.2 += gone.2,
            _ => joined.push(gone),
        }
    }
    assert_eq!(joined, expected);
    assert_eq!(plain(&told), expected, "runs as long as they can be");
    // Part of a table of pages.
    map::<K, _>(&mut table, 0, &[run(7 * page, 9 * page)], Prot::READ).unwrap();
    let told = unmap::<K, _>(&mut table, range(2 * page, 3 * page), &mut gather).unwrap();
    assert_eq!(plain(&told), [(2 * page, 9 * page, 3 * page, dirty)]);
}

fn leaves_are_told_by_range<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    let (page, big) = (K::PAGE, K::LARGEST);
    let (start, len, steps) = staircase(&K::sizes(), 4 * big, 2);
    map::<K, _>(&mut table, start, &[run(start + 8 * big, len)], Prot::READ).unwrap();
    map::<K, _>(&mut table, K::TOP - page, &[run(0, page)], Prot::READ).unwrap();
    let all = side_by_side(start, start + 8 * big, &steps);
    let told = |range: IovaRange| -> Vec<_> {
        table.leaves(range).map(|leaf| (leaf.iova.get(), leaf.phys.get(), leaf.size)).collect()
    };
    assert_eq!(told(range(0, start)), []);
    assert_eq!(told(range(0, start + 1)), all[..1]);
    assert_eq!(told(range(start + len, K::TOP - page - start - len)), []);
    assert_eq!(told(range(K::TOP, page)), []);
    assert_eq!(told(IovaRange::new(iova(K::TOP - 1), iova(u64::MAX)).unwrap()), [(K::TOP - page, 0, page)]);
    assert_eq!(told(range(0, K::TOP - page)), all);
    // From the middle of one to the middle of another, not aligned to anything.
    for (n, leaf) in all.iter().enumerate() {
        assert_eq!(told(range(leaf.0 + leaf.2 / 2 + 1, 1)), all[n..=n]);
        if let Some(next) = all.get(n + 1) {
            let from = leaf.0 + leaf.2 - 1;
            assert_eq!(told(range(from, next.2 / 2 + 3)), all[n..n + 2]);
        }
    }
}

#[test]
fn three_levels_have_their_gigabytes_in_the_root() {
    let memory = memory();
    let mut table = Second3::table(&memory);
    let giga = 0x4000_0000;
    map::<Second3, _>(&mut table, 3 * giga, &[run(giga, 2 * giga)], Prot::READ).unwrap();
    assert_eq!(table.tables(), 1);
    let huge = [(3 * giga, giga, giga), (4 * giga, 2 * giga, giga)];
    assert_eq!(shape(&leaves::<Second3, _>(&memory, &table)), huge);
}

//! What the suites share: the formats under test, a decoder of raw entries, a flat oracle, a unit.
#![allow(dead_code, unused_imports, reason = "each suite is a crate of its own and uses part of this")]

pub mod flat;
pub mod kinds;
pub mod raw;
pub mod unit;

pub use flat::{Flat, Page};
pub use kinds::*;
pub use unit::Unit;

use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
use iommu_core::hw::{Gather, HwError, Prot};
use iommu_hal::{Hal, WalkerMemory};
use iommu_models::memory::TestMemory;
use iommu_pgtable::{PageTable, Removed};
use raw::{Leaf, Raw, Start};

/// Where the tables lie: far from what the tests map.
pub const BASE: u64 = 0x3f_0000_0000;

/// 16 MiB of tables.
pub fn memory() -> TestMemory {
    TestMemory::new(PhysAddr::new(BASE), 4096)
}

pub fn non_coherent() -> TestMemory {
    TestMemory::non_coherent(PhysAddr::new(BASE), 4096)
}

/// Memory in which tables that are read in this way are seen as they are seen there.
pub fn memory_for(how: WalkerMemory) -> TestMemory {
    match how {
        WalkerMemory::Coherent => memory(),
        WalkerMemory::NonCoherent => non_coherent(),
    }
}

pub fn run(phys: u64, len: u64) -> PhysExtent {
    PhysExtent::new(PhysAddr::new(phys), len)
}

pub fn iova(raw: u64) -> Iova {
    Iova::new(raw)
}

pub fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::from_len(Iova::new(start), len).unwrap()
}

/// Maps where hardware has nothing to forget.
pub fn map<K: Kind, H: Hal>(
    table: &mut PageTable<H, K::F>,
    at: u64,
    extents: &[PhysExtent],
    prot: Prot,
) -> Result<(), HwError> {
    let mut unit = Unit::default();
    let mapped = table.exclusive().map(iova(at), extents, prot, &mut unit);
    assert_eq!(unit.flushes, 0, "a map that takes out no table has no need of the unit");
    mapped
}

/// Unmaps, and gives what was removed.
pub fn unmap<K: Kind, H: Hal>(
    table: &mut PageTable<H, K::F>,
    range: IovaRange,
    gather: &mut Gather,
) -> Result<Vec<Removed>, HwError> {
    let mut all = Vec::new();
    table.exclusive().unmap(range, gather, &mut |removed| all.push(*removed))?;
    Ok(all)
}

/// Frees what the gather holds, as a driver does once the flush is confirmed.
pub fn flush<K: Kind, H: Hal>(table: &PageTable<H, K::F>, gather: &mut Gather) {
    // SAFETY: no hardware walks these tables.
    unsafe { table.free_gathered(gather) };
    gather.clear();
}

/// Frames of 4 KiB that a tree takes with so many tables, the root among them.
pub fn frames<K: Kind>(tables: usize) -> usize {
    let frames = |entries: u64| (entries * 8).div_ceil(4096) as usize;
    frames(K::RAW.entries(K::RAW.levels)) + (tables - 1) * frames(K::ENTRIES)
}

/// Leaves and tables as a device finds them.
pub fn scan<K: Kind, H: Hal>(
    memory: &TestMemory,
    table: &PageTable<H, K::F>,
    how: WalkerMemory,
) -> (Vec<Leaf>, Vec<Start>) {
    let read = |phys| memory.device_read64(PhysAddr::new(phys));
    let raw = K::raw(how);
    let found = raw.scan(&read, raw.root(table.root().get())).unwrap();
    assert_eq!(memory.take_stale_reads(), []);
    found
}

/// Leaves as a device finds them, where no other table lies in `memory`. What the table says of itself agrees: its
/// leaves, the number of its tables, the memory that they take.
pub fn leaves_in<K: Kind, H: Hal>(memory: &TestMemory, table: &PageTable<H, K::F>, how: WalkerMemory) -> Vec<Leaf> {
    let (leaves, tables) = scan::<K, H>(memory, table, how);
    assert_eq!(tables.len(), table.tables(), "tables that a walk finds, and that the table counts");
    assert_eq!(memory.in_use(), frames::<K>(table.tables() + table.retired()), "frames in use");
    assert_eq!(table.bytes(), memory.in_use() * 4096, "bytes in use");
    let told = table.leaves(IovaRange::FULL);
    let told = told.map(|leaf| (leaf.iova.get(), leaf.phys.get(), leaf.size, leaf.prot.read, leaf.prot.write));
    let found = leaves.iter().map(|leaf| (leaf.iova, leaf.phys, leaf.size, leaf.read, leaf.write));
    assert!(told.eq(found), "the table tells of other leaves than a walk finds: {leaves:x?}");
    leaves
}

/// As [`leaves_in`], for walkers that snoop.
pub fn leaves<K: Kind, H: Hal>(memory: &TestMemory, table: &PageTable<H, K::F>) -> Vec<Leaf> {
    leaves_in::<K, H>(memory, table, WalkerMemory::Coherent)
}

/// Start, physical start and size of each leaf.
pub fn shape(leaves: &[Leaf]) -> Vec<(u64, u64, u64)> {
    leaves.iter().map(|leaf| (leaf.iova, leaf.phys, leaf.size)).collect()
}

/// What the table itself says of `at`, beside what a walk finds there.
pub fn assert_translates<K: Kind, H: Hal>(table: &PageTable<H, K::F>, at: u64, leaf: Option<&Leaf>) {
    let seen = table.translate(iova(at)).map(|to| (to.phys.get(), to.page_size, to.prot.read, to.prot.write));
    let expected = leaf.map(|leaf| (leaf.phys + (at - leaf.iova), leaf.size, leaf.read, leaf.write));
    assert_eq!(seen, expected, "{at:#x}");
}

/// Writes through `at` as hardware does: notes it in the leaf where that is tracked. Returns whether it is allowed.
pub fn write_through<K: Kind>(memory: &TestMemory, root: PhysAddr, at: u64) -> bool {
    let read = |phys| memory.device_read64(PhysAddr::new(phys));
    let Some(place) = K::RAW.locate(&read, K::RAW.root(root.get()), at).unwrap() else { return false };
    let Some(written) = K::RAW.written(place.entry, place.level) else { return false };
    memory.write64(PhysAddr::new(place.address), written);
    true
}

/// The sizes of the leaves that `len` bytes at `iova` and `phys` are mapped with, in order, where the largest that fits
/// is always taken.
pub fn greedy<K: Kind>(iova: u64, phys: u64, len: u64) -> Vec<(u64, u64, u64)> {
    let sizes = K::sizes();
    let mut at = 0;
    let mut leaves = Vec::new();
    while at < len {
        let fits = |size: &&u64| {
            (iova + at).is_multiple_of(**size) && (phys + at).is_multiple_of(**size) && **size <= len - at
        };
        let size = *sizes.iter().rev().find(fits).unwrap();
        leaves.push((iova + at, phys + at, size));
        at += size;
    }
    leaves
}

/// Where a staircase of leaves begins, and how long it is: one of each of `sizes` up, as many as `most` of the largest
/// from the address `peak` on, and one of each of the others down.
pub fn staircase(sizes: &[u64], peak: u64, most: u64) -> (u64, u64, Vec<u64>) {
    let (largest, smaller) = sizes.split_last().unwrap();
    let slope: u64 = smaller.iter().sum();
    let mut steps = smaller.to_vec();
    steps.extend((0..most).map(|_| largest));
    steps.extend(smaller.iter().rev());
    (peak - slope, 2 * slope + most * largest, steps)
}

/// Leaves of these sizes, side by side.
pub fn side_by_side(start: u64, phys: u64, steps: &[u64]) -> Vec<(u64, u64, u64)> {
    let mut at = 0;
    let place = |size: &u64| {
        let leaf = (start + at, phys + at, *size);
        at += size;
        leaf
    };
    steps.iter().map(place).collect()
}

//! What single entries hold: addresses, attributes, dirty state, and software's bits.

use crate::common::raw::{Entry, Layout, Place, Raw};
use crate::common::{
    Kind, Unit, assert_translates, flush, iova, leaves, leaves_in, map, memory, memory_for, range, run, scan,
    side_by_side, staircase, unmap, write_through,
};
use iommu_core::addr::{IovaRange, PhysAddr};
use iommu_core::hw::{Gather, HwError, Prot};
use iommu_hal::{Hal, WalkerMemory};
use iommu_models::memory::TestMemory;
use iommu_pgtable::{Format, PageTable};

/// Where the leaf that translates `at` stands.
fn place<K: Kind, H: Hal>(memory: &TestMemory, table: &PageTable<H, K::F>, how: WalkerMemory, at: u64) -> Place {
    let read = |phys| memory.device_read64(PhysAddr::new(phys));
    let raw = K::raw(how);
    raw.locate(&read, raw.root(table.root().get()), at).unwrap().unwrap()
}

/// The protections that a leaf of this format can have.
fn prots<K: Kind>() -> Vec<Prot> {
    let all = [Prot::READ, Prot::READ_WRITE, Prot::WRITE];
    all.into_iter().filter(|prot| prot.read || K::RAW.has_write_only()).collect()
}

/// A leaf leads exactly where it was mapped, with every bit that an address can have: for every size and every bit above
/// it, alone and with all others.
pub fn entry_oa<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    let at = 3 * K::LARGEST;
    let mut gather = Gather::new();
    // From the largest down: tables that smaller leaves leave behind would be in the way.
    for size in K::sizes().into_iter().rev() {
        let all = (1 << 46) - size;
        let alone = (size.ilog2()..46).map(|bit| 1 << bit);
        let missing = (size.ilog2()..46).map(|bit| all & !(1 << bit));
        for phys in alone.chain(missing).chain([0, all]) {
            map::<K, _>(&mut table, at, &[run(phys, size)], Prot::READ).unwrap();
            let found = leaves::<K, _>(&memory, &table);
            let [leaf] = found[..] else { panic!("{found:x?}") };
            assert_eq!((leaf.iova, leaf.phys, leaf.size), (at, phys, size));
            for inside in [0, 1, K::PAGE - 1, size / 2, size - 1] {
                assert_translates::<K, _>(&table, at + inside, Some(&leaf));
            }
            // The format reads what the entry holds, single ones of a group too.
            for inside in [0, size / 2, size - K::PAGE] {
                let Place { level, entry, .. } = place::<K, _>(&memory, &table, WalkerMemory::Coherent, at + inside);
                let one = K::RAW.entry_size(level);
                let address = K::F::leaf_address(entry, level as u8 - 1).get();
                assert_eq!(address, phys + inside / one * one, "{entry:#x}");
            }
            let told = unmap::<K, _>(&mut table, range(at, size), &mut gather).unwrap();
            assert_eq!((told.len(), told[0].extent), (1, run(phys, size)));
            flush::<K, _>(&table, &mut gather);
        }
    }
}

/// What a leaf allows is read out of it as it was put in, by hardware and by the table, for every size and protection;
/// and so is whether it is one of a group.
pub fn attr_from_entry<K: Kind>() {
    for &how in K::memories() {
        let memory = memory_for(how);
        let mut table = K::table_in(&memory, how);
        let mut at = 0;
        let mut expected = Vec::new();
        for prot in prots::<K>() {
            for size in K::sizes() {
                at += K::LARGEST;
                map::<K, _>(&mut table, at, &[run(2 * K::LARGEST, size)], prot).unwrap();
                expected.push((at, size, prot));
            }
        }
        let found = leaves_in::<K, _>(&memory, &table, how);
        assert_eq!(found.len(), expected.len());
        for (leaf, (at, size, prot)) in found.iter().zip(expected) {
            assert_eq!((leaf.iova, leaf.size, leaf.read, leaf.write), (at, size, prot.read, prot.write));
            assert_eq!(table.translate(iova(at + size - 1)).unwrap().prot, prot);
            assert_eq!(table.leaves(range(at, 1)).next().unwrap().prot, prot);
            let Place { level, entry, .. } = place::<K, _>(&memory, &table, how, at);
            assert_eq!((K::F::prot(entry), K::F::is_grouped(entry)), (prot, leaf.group != 1), "{entry:#x}");
            assert_eq!(K::RAW.entry_size(level) * leaf.group, size);
            assert_ne!(entry & K::F::PRESENT, 0);
        }
    }
}

/// Ranges that neighbours were joined in, for leaves of these starts and sizes.
fn joined(leaves: impl Iterator<Item = (u64, u64)>) -> Vec<IovaRange> {
    let mut ranges: Vec<IovaRange> = Vec::new();
    for (at, size) in leaves {
        let next = range(at, size);
        match ranges.last_mut() {
            Some(last) if last.is_followed_by(next) => *last = last.union(next),
            _ => ranges.push(next),
        }
    }
    ranges
}

/// Where dirty state is tracked: leaves of every size start clean, hardware's note of a write is seen in the leaf that it
/// made it in and in no other, is cleared in one step with being read, comes back with the next write, and an unmap
/// tells it. Elsewhere there is nothing that hardware would have to note, and anything unmapped may have been written.
pub fn dirty<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    let (start, len, steps) = staircase(&K::sizes(), 4 * K::LARGEST, 2);
    let leaf = |n: usize| {
        let (at, _, size) = side_by_side(start, 0, &steps)[n];
        (at, size)
    };
    let whole = range(start, len);
    map::<K, _>(&mut table, start, &[run(8 * K::LARGEST + start, len)], Prot::READ_WRITE).unwrap();
    map::<K, _>(&mut table, start + len, &[run(0, K::PAGE)], Prot::READ).unwrap();
    let root = table.root();
    let written = |at| write_through::<K>(&memory, root, at);
    if !K::RAW.tracked {
        let before = memory.snapshot();
        for (at, _, size) in side_by_side(start, 0, &steps) {
            assert!(written(at) && written(at + size - 1));
        }
        assert!(!written(start + len) && memory.snapshot() == before, "hardware had to note something");
        let mut gather = Gather::new();
        let unknown = Err(HwError::Unsupported("dirty state of a table that does not track it"));
        assert_eq!(table.read_dirty(whole, &mut |range| panic!("{range} is dirty")), unknown);
        let cleared = table.exclusive().read_and_clear_dirty(whole, &mut gather, &mut |range| panic!("{range}"));
        assert_eq!(cleared, unknown);
        assert!(gather.is_empty());
        let told = unmap::<K, _>(&mut table, whole, &mut gather).unwrap();
        assert!(told.iter().all(|gone| gone.dirty));
        return;
    }
    // What hardware, and what the table says.
    let dirty = |table: &PageTable<_, K::F>| {
        let mut told = Vec::new();
        table.read_dirty(whole, &mut |range| told.push(range)).unwrap();
        let found = leaves::<K, _>(&memory, table);
        assert_eq!(told, joined(found.iter().filter(|leaf| leaf.dirty).map(|leaf| (leaf.iova, leaf.size))));
        told
    };
    assert_eq!(dirty(&table), []);
    assert!(!written(start + len), "a leaf that refuses writes notes none");
    assert_eq!(dirty(&table), []);
    // Every other leaf, in groups through whatever entry.
    let some: Vec<_> = (0..steps.len()).step_by(2).map(leaf).collect();
    for (n, (at, size)) in some.iter().enumerate() {
        assert!(written(if n % 2 == 0 { *at } else { at + size - 1 }));
    }
    assert_eq!(dirty(&table), joined(some.iter().copied()));
    assert_translates::<K, _>(&table, start, Some(&leaves::<K, _>(&memory, &table)[0]));
    // Read and cleared: told once.
    let mut gather = Gather::new();
    let mut told = Vec::new();
    table.exclusive().read_and_clear_dirty(whole, &mut gather, &mut |range| told.push(range)).unwrap();
    assert_eq!(told, joined(some.iter().copied()));
    assert_eq!(dirty(&table), []);
    for (at, size) in &some {
        let level = (size.ilog2() - K::RAW.page_bits) / K::RAW.index_bits;
        let held = gather.touched().find(|touched| touched.range.covers(range(*at, *size)));
        assert!(held.unwrap().leaves.contains(level as u8), "{at:#x} is not to be invalidated");
    }
    assert!(!gather.tables_changed());
    // And a second time, all of them.
    for n in 0..steps.len() {
        assert!(written(leaf(n).0 + leaf(n).1 / 2));
    }
    assert_eq!(dirty(&table), [whole]);
    // One alone: the others stay.
    let (at, size) = leaf(1);
    let mut gather = Gather::new();
    table.exclusive().read_and_clear_dirty(range(at, size), &mut gather, &mut |_| ()).unwrap();
    let others = (0..steps.len()).filter(|n| *n != 1).map(leaf);
    assert_eq!(dirty(&table), joined(others));
    // Part of a leaf is refused, and so is what is not in the table.
    let half = table.exclusive().read_and_clear_dirty(range(at, size / 2), &mut gather, &mut |_| panic!("told"));
    assert_eq!(half, Err(HwError::SplitsLeaf { iova: iova(at), size }));
    let outside = Err(HwError::OutOfRange { iova: iova(K::TOP), len: K::PAGE });
    assert_eq!(table.read_dirty(range(K::TOP, K::PAGE), &mut |_| panic!("told")), outside);
    // An unmap tells which were written.
    let told = unmap::<K, _>(&mut table, whole, &mut Gather::new()).unwrap();
    let runs =
        |dirty| told.iter().filter(move |gone| gone.dirty == dirty).map(|gone| (gone.iova.get(), gone.extent.len));
    assert_eq!(joined(runs(true)), joined((0..steps.len()).filter(|n| *n != 1).map(leaf)));
    assert_eq!(joined(runs(false)), [range(at, size)]);
}

/// A leaf has none of the bits that are software's, however the table is read: it is the same bit for bit. Only Armv8
/// tables that track dirty state have one, for what was written through before writes were taken away; there and
/// elsewhere it is not forgotten.
pub fn sw_bit_leaf<K: Kind>() {
    let (start, len, steps) = staircase(&K::sizes(), 4 * K::LARGEST, 1);
    let mut alike = Vec::new();
    for &how in K::memories() {
        let memory = memory_for(how);
        let mut table = K::table_in(&memory, how);
        map::<K, _>(&mut table, start, &[run(8 * K::LARGEST + start, len)], Prot::READ_WRITE).unwrap();
        let found = leaves_in::<K, _>(&memory, &table, how);
        let entries: Vec<u64> = found
            .iter()
            .flat_map(|leaf| (0..leaf.group).map(|n| leaf.iova + n * (leaf.size / leaf.group)))
            .map(|at| place::<K, _>(&memory, &table, how, at).entry)
            .collect();
        assert!(entries.iter().all(|entry| entry & K::RAW.software_bits(true) == 0));
        alike.push(entries);
    }
    assert!(alike.windows(2).all(|pair| pair[0] == pair[1]));
    if !K::RAW.tracked {
        return;
    }
    let memory = memory();
    let mut table = K::table(&memory);
    map::<K, _>(&mut table, start, &[run(8 * K::LARGEST + start, len)], Prot::READ_WRITE).unwrap();
    let root = table.root();
    let written: Vec<_> =
        side_by_side(start, 0, &steps).into_iter().step_by(2).map(|(at, _, size)| (at, size)).collect();
    for (at, size) in &written {
        assert!(write_through::<K>(&memory, root, at + size - K::PAGE));
    }
    let arm = matches!(K::RAW.layout, Layout::Armv8Stage1 { .. } | Layout::Armv8Stage2 { .. });
    for prot in [Prot::READ, Prot::READ_WRITE, Prot::READ] {
        table.exclusive().protect(range(start, len), prot, &mut Unit::default()).unwrap();
        let found = leaves::<K, _>(&memory, &table);
        let dirty = found.iter().filter(|leaf| leaf.dirty).map(|leaf| (leaf.iova, leaf.size));
        assert_eq!(dirty.collect::<Vec<_>>(), written, "{prot}");
        for leaf in &found {
            assert_eq!((leaf.read, leaf.write), (prot.read, prot.write));
            let one = leaf.size / leaf.group;
            let bits = (0..leaf.group)
                .map(|n| place::<K, _>(&memory, &table, WalkerMemory::Coherent, leaf.iova + n * one).entry)
                .fold(0, |bits, entry| bits | entry & K::RAW.software_bits(true));
            let expected = if arm && leaf.dirty && !prot.write { 1 << 56 } else { 0 };
            assert_eq!(bits, expected, "{prot}: {leaf:x?}");
            assert_eq!(write_through::<K>(&memory, root, leaf.iova), prot.write);
        }
        // That was a write through every leaf, where it is allowed: back to what it was.
        if prot.write {
            let clean = found.iter().filter(|leaf| !leaf.dirty);
            for leaf in clean {
                let range = range(leaf.iova, leaf.size);
                table.exclusive().read_and_clear_dirty(range, &mut Gather::new(), &mut |_| ()).unwrap();
            }
        }
    }
}

/// The entries that lead to tables, where they stand.
fn links<K: Kind, H: Hal>(
    memory: &TestMemory,
    table: &PageTable<H, K::F>,
    raw: &Raw,
    how: WalkerMemory,
) -> Vec<PhysAddr> {
    let (_, tables) = scan::<K, H>(memory, table, how);
    let upper = tables.iter().filter(|start| start.level > 1);
    let entries = upper.flat_map(|start| (0..raw.entries(start.level)).map(|n| (start.level, start.table + 8 * n)));
    entries
        .filter(|(level, at)| matches!(raw.entry(memory.read64(PhysAddr::new(*at)), *level), Ok(Entry::Table(_))))
        .map(|(_, at)| PhysAddr::new(at))
        .collect()
}

/// The mark of entries that lead to tables: set in all of them where the walker does not snoop, in none where it does,
/// no other bit of software's anywhere, and it takes nothing from the address. It stays as leaves come and go.
pub fn sw_bit_table<K: Kind>() {
    for &how in K::memories() {
        let memory = memory_for(how);
        let mut table = K::table_in(&memory, how);
        let raw = K::raw(how);
        let expected = if how == WalkerMemory::NonCoherent { raw.visible() } else { 0 };
        let check = |table: &PageTable<_, K::F>| {
            let links = links::<K, _>(&memory, table, &raw, how);
            assert_eq!(links.len(), table.tables() - 1);
            for link in &links {
                let entry = memory.read64(*link);
                assert_eq!(entry & raw.software_bits(false), expected, "{entry:#x}");
                assert_eq!(entry & K::F::VISIBLE, expected);
                let address = K::F::table_address(entry);
                assert!(memory.is_allocated(address) && address.is_aligned(K::ENTRIES * 8));
                // Without the mark it is the same entry.
                let plain = K::F::table(address, K::RAW.tracked, K::options());
                assert_eq!(entry & !expected, plain);
            }
            links
        };
        assert_eq!(check(&table), []);
        let mut before = Vec::new();
        for at in [0, K::LARGE, 3 * K::LARGEST - K::PAGE, K::TOP - K::PAGE] {
            map::<K, _>(&mut table, at, &[run(K::PAGE, K::PAGE)], Prot::READ).unwrap();
            let after = check(&table);
            assert!(after.len() > before.len() && before.iter().all(|link| after.contains(link)));
            before = after;
        }
        map::<K, _>(&mut table, K::PAGE, &[run(7 * K::PAGE, 9 * K::PAGE)], Prot::READ_WRITE).unwrap();
        assert_eq!(check(&table), before);
        let mut gather = Gather::new();
        unmap::<K, _>(&mut table, range(0, 4 * K::PAGE), &mut gather).unwrap();
        assert_eq!(check(&table), before);
        flush::<K, _>(&table, &mut gather);
        assert_eq!(leaves_in::<K, _>(&memory, &table, how).len(), 6 + 3);
    }
}

//! The numbers that shape a tree: sizes, widths, levels, entries, and where tables lie.

use crate::common::raw::{Place, Raw};
use crate::common::{
    Kind, Unit, assert_translates, flush, frames, greedy, iova, leaves, leaves_in, map, memory, memory_for, range, run,
    scan, shape, unmap,
};
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{Gather, HwError, PageSizes, Prot};
use iommu_hal::WalkerMemory;
use iommu_models::memory::TestMemory;
use iommu_pgtable::{Config, Format, PageTable};

/// The entries that a walk to `at` reads, the one of the root first.
fn path<K: Kind>(memory: &TestMemory, root: PhysAddr, at: u64) -> Vec<Place> {
    let read = |phys| memory.device_read64(PhysAddr::new(phys));
    K::RAW.path(&read, K::RAW.root(root.get()), at).unwrap()
}

/// A new table is as it was asked for, maps nothing, is visible to hardware at once, takes the frames of its root and no
/// other, and shares nothing with another one.
pub fn init<K: Kind>() {
    for &how in K::memories() {
        let memory = memory_for(how);
        let table = K::table_in(&memory, how);
        assert_eq!((table.levels(), table.tables(), table.retired()), (K::LEVELS, 1, 0));
        let geometry = table.geometry();
        assert_eq!((geometry.aperture, geometry.output_bits), (range(0, K::TOP), 46));
        assert_eq!(geometry.page_sizes, PageSizes::new(K::RAW.sizes));
        assert_eq!((memory.allocations(), memory.in_use()), (1, frames::<K>(1)));
        let bytes = K::RAW.entries(K::RAW.levels) * 8;
        assert!(table.root().is_aligned(bytes.max(4096)) && memory.is_allocated(table.root()));
        for word in (0..table.bytes() as u64).step_by(8) {
            assert_eq!(memory.device_read64(table.root().wrapping_add(word)), Some(0));
        }
        assert_eq!(leaves_in::<K, _>(&memory, &table, how), []);
        for at in [0, K::PAGE, K::LARGEST, K::TOP - 1] {
            assert_translates::<K, _>(&table, at, None);
        }
        let mut other = K::table_in(&memory, how);
        assert_ne!(table.root(), other.root());
        map::<K, _>(&mut other, 0, &[run(0, K::PAGE)], Prot::READ).unwrap();
        assert_eq!(scan::<K, _>(&memory, &table, how).0, []);
        drop(other);
        assert_eq!(leaves_in::<K, _>(&memory, &table, how), []);
        drop(table);
        assert_eq!(memory.in_use(), 0);
        memory.check_freed();
    }
}

/// Every bit of an address counts, of those that are translated and of those that come out, in whatever order pages are
/// mapped: a page at each power of two, and the one below it.
pub fn bitops<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    let mut expected = Vec::new();
    // From the middle to both ends.
    let bits: Vec<u32> = (K::RAW.page_bits..K::RAW.input_bits).collect();
    let (low, high) = bits.split_at(bits.len() / 2);
    for bit in high.iter().chain(low) {
        let out = 1u64 << (K::RAW.page_bits + bit % (46 - K::RAW.page_bits));
        for (at, phys) in [(1u64 << bit, out), ((1 << bit) - K::PAGE, (1 << 46) - out)] {
            if expected.iter().any(|leaf: &(u64, u64, u64)| leaf.0 == at) {
                continue;
            }
            map::<K, _>(&mut table, at, &[run(phys, K::PAGE)], Prot::READ).unwrap();
            expected.push((at, phys, K::PAGE));
        }
    }
    expected.sort();
    let found = leaves::<K, _>(&memory, &table);
    assert_eq!(shape(&found), expected);
    for bit in bits {
        for at in [1u64 << bit, (1 << bit) - 1, (1 << bit) + K::PAGE - 1, (1 << bit) + K::PAGE, (1 << bit) * 5 / 4] {
            let leaf = found.iter().find(|leaf| leaf.iova <= at && at - leaf.iova < leaf.size);
            assert_translates::<K, _>(&table, at, leaf);
        }
    }
    // And taken out one by one, each is gone and no other.
    let mut gather = Gather::new();
    while !expected.is_empty() {
        let (at, _, size) = expected.remove(expected.len() / 2);
        unmap::<K, _>(&mut table, range(at, size), &mut gather).unwrap();
        flush::<K, _>(&table, &mut gather);
        assert_translates::<K, _>(&table, at, None);
        if expected.len().is_multiple_of(16) {
            assert_eq!(shape(&leaves::<K, _>(&memory, &table)), expected);
        }
    }
}

/// The first leaf is the largest that the alignment of the address, that of the memory, and the length allow: for every
/// size as each of the three.
pub fn best_pgsize<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    let (sizes, largest) = (K::sizes(), K::LARGEST);
    let mut gather = Gather::new();
    for &virt in &sizes {
        for &phys in &sizes {
            for &len in &sizes {
                let best = virt.min(phys).min(len);
                // More leaves than that tell nothing new.
                let len = len.min(best * K::ENTRIES);
                // Aligned to this size, and to no larger one.
                let (at, to) = (6 * largest + virt, 8 * largest + phys);
                // Tables that smaller ones have left behind give way.
                table.exclusive().map(iova(at), &[run(to, len)], Prot::READ, &mut Unit::default()).unwrap();
                let found = leaves::<K, _>(&memory, &table);
                let first = sizes.iter().rev().find(|size| (at | to).is_multiple_of(**size) && **size <= len);
                assert_eq!(found[0].size, *first.unwrap(), "{virt:#x} {phys:#x} {len:#x}");
                assert_eq!(shape(&found), greedy::<K>(at, to, len));
                unmap::<K, _>(&mut table, range(at, len), &mut gather).unwrap();
                flush::<K, _>(&table, &mut gather);
            }
        }
    }
    assert_eq!(leaves::<K, _>(&memory, &table), []);
}

/// So many leaves of a size take so many entries, in so many tables: around the number that one table holds.
pub fn pgsz_count<K: Kind>() {
    let sizes = K::sizes();
    for &size in &sizes {
        for count in [1, 2, 3, K::ENTRIES - 1, K::ENTRIES, K::ENTRIES + 1] {
            let (memory, start) = (memory(), K::LARGEST);
            if start + count * size >= K::TOP {
                continue;
            }
            let mut table = K::table(&memory);
            // The same memory again and again, so that none goes on where the one before has ended.
            let extents = vec![run(K::LARGEST + size, size); count as usize];
            map::<K, _>(&mut table, start, &extents, Prot::READ).unwrap();
            let found = leaves::<K, _>(&memory, &table);
            assert_eq!(found.len() as u64, count);
            assert!(found.iter().all(|leaf| leaf.size == size));
            // One table of each level for each different address above what it translates.
            let level = (1..=K::RAW.levels).rev().find(|level| K::RAW.entry_size(*level) <= size).unwrap();
            let tables = |level| {
                let whole = K::RAW.entry_size(level + 1);
                (start + count * size - 1) / whole - start / whole + 1
            };
            let expected = (level..K::RAW.levels).map(tables).sum::<u64>() + 1;
            assert_eq!(table.tables() as u64, expected, "{count} leaves of {size:#x}");
            let mut gather = Gather::new();
            unmap::<K, _>(&mut table, range(start, (count - 1).max(1) * size), &mut gather).unwrap();
            assert_eq!(leaves::<K, _>(&memory, &table).len(), usize::from(count > 1));
            flush::<K, _>(&table, &mut gather);
            leaves::<K, _>(&memory, &table);
        }
    }
}

/// An entry that leads to a table holds the address of its frame, whole, wherever that lies: with the lowest bits and the
/// highest of physical addresses. It stays what it is while the table fills and empties.
pub fn table_ptr<K: Kind>() {
    let bytes = 4096 * 4096;
    let highest = 1u64 << K::OUTPUT_BITS.min(52);
    for (base, address_bits) in [(0, 46), (1 << 45, 46), ((1 << 46) - bytes, 46), (highest - bytes, K::OUTPUT_BITS)] {
        let memory = TestMemory::new(PhysAddr::new(base), 4096);
        let config = Config { address_bits, ..K::config(WalkerMemory::Coherent) };
        let mut table = PageTable::new(&memory, config).unwrap();
        let raw = Raw { address_bits: address_bits.into(), ..K::RAW };
        let read = |phys| memory.device_read64(PhysAddr::new(phys));
        let links = |root: PhysAddr| {
            let (_, tables) = raw.scan(&read, raw.root(root.get())).unwrap();
            tables.iter().map(|start| start.table).collect::<Vec<_>>()
        };
        for n in 0..8 {
            map::<K, _>(&mut table, n * K::TOP / 8, &[run(K::PAGE, K::PAGE)], Prot::READ).unwrap();
        }
        let before = links(table.root());
        assert_eq!(before.len(), table.tables());
        assert_eq!(memory.in_use(), frames::<K>(before.len()));
        let size = K::ENTRIES * 8;
        for link in &before[1..] {
            assert!(link.is_multiple_of(size) && *link >= base && link + size <= base + bytes, "{link:#x}");
            assert!(memory.is_allocated(PhysAddr::new(*link)) && *link != table.root().get());
        }
        for n in 0..8 {
            let at = n * K::TOP / 8 + K::PAGE;
            map::<K, _>(&mut table, at, &[run(K::PAGE, 5 * K::PAGE)], Prot::READ).unwrap();
            assert_eq!(links(table.root()), before);
            unmap::<K, _>(&mut table, range(at - K::PAGE, 3 * K::PAGE), &mut Gather::new()).unwrap();
            assert_eq!(links(table.root()), before);
        }
    }
}

/// For every width that can be asked for, the last page below it is mapped and found, and the first one above is
/// refused.
pub fn max_va<K: Kind>() {
    let memory = memory();
    for input_bits in K::RAW.least_input_bits()..=K::RAW.most_input_bits() {
        let config = Config { input_bits: input_bits as u8, ..K::config(WalkerMemory::Coherent) };
        let mut table = PageTable::new(&memory, config).unwrap();
        let (top, page) = (1u64 << input_bits, K::PAGE);
        assert_eq!(table.geometry().aperture, range(0, top));
        let beyond = |at, len| Err(HwError::OutOfRange { iova: iova(at), len });
        assert_eq!(map::<K, _>(&mut table, top, &[run(0, page)], Prot::READ), beyond(top, page));
        assert_eq!(map::<K, _>(&mut table, top - page, &[run(0, 2 * page)], Prot::READ), beyond(top - page, 2 * page));
        assert_eq!(table.tables(), 1);
        map::<K, _>(&mut table, top - page, &[run(7 * page, page)], Prot::READ).unwrap();
        let raw = Raw { input_bits, ..K::RAW };
        let read = |phys| memory.device_read64(PhysAddr::new(phys));
        let (found, tables) = raw.scan(&read, raw.root(table.root().get())).unwrap();
        assert_eq!((shape(&found), tables.len()), (vec![(top - page, 7 * page, page)], table.tables()));
        assert_eq!(table.translate(iova(top - 1)).unwrap().phys.get(), 8 * page - 1);
        assert_eq!(table.translate(iova(top)), None);
        assert_eq!(table.leaves(range(top, page)).next(), None);
        let mut gather = Gather::new();
        assert_eq!(
            unmap::<K, _>(&mut table, range(top - page, 2 * page), &mut gather),
            beyond(top - page, 2 * page).map(|()| vec![])
        );
        unmap::<K, _>(&mut table, range(top - page, page), &mut gather).unwrap();
    }
}

/// A table of each level has as many entries as the format says, each for as much as a whole table of the level below
/// translates; what is next to its last one is in another table. The root ends where the addresses do.
pub fn table_radix<K: Kind>() {
    let memory = memory();
    let mut table = K::table(&memory);
    let root = table.root();
    let levels = K::RAW.levels as usize;
    let mut mapped = Vec::new();
    let mut page = |table: &mut _, at| {
        if !mapped.contains(&at) {
            map::<K, _>(table, at, &[run(K::PAGE, K::PAGE)], Prot::READ).unwrap();
            mapped.push(at);
        }
    };
    page(&mut table, 0);
    for level in 1..=K::RAW.levels {
        let (size, entries) = (K::RAW.entry_size(level), K::RAW.entries(level));
        assert_eq!(entries, if level == K::RAW.levels { K::TOP / size } else { K::ENTRIES });
        // Where the entries on the way to it stand, in the order of levels.
        let way = |at| {
            let mut way: Vec<u64> = path::<K>(&memory, root, at).iter().map(|place| place.address).collect();
            assert_eq!(way.len(), levels);
            way.reverse();
            way
        };
        let here = level as usize - 1;
        for index in [1, 2, entries / 2, entries - 1].into_iter().filter(|index| *index < entries) {
            let at = index * size;
            page(&mut table, at);
            let (first, second) = (way(0), way(at));
            assert_eq!(second[here] - first[here], 8 * index, "level {level}");
            assert_eq!(second[here + 1..], first[here + 1..], "the tables above are the same");
            assert!(first[..here].iter().zip(&second[..here]).all(|(first, second)| first != second));
        }
        if level < K::RAW.levels {
            let at = entries * size;
            page(&mut table, at);
            let table_of = |entry: u64| entry & !(K::ENTRIES * 8 - 1);
            assert_ne!(table_of(way(at)[here]), table_of(way(0)[here]));
            assert_eq!(way(at)[here] % (K::ENTRIES * 8), 0, "the first entry of the next table");
        } else {
            assert_eq!(entries * size, K::TOP);
        }
    }
    mapped.sort();
    assert_eq!(leaves::<K, _>(&memory, &table).iter().map(|leaf| leaf.iova).collect::<Vec<_>>(), mapped);
}

/// A table that may use every size uses exactly those of its format and levels, contiguous groups among them, each with
/// as many entries, at the level where it belongs.
pub fn entry_possible_sizes<K: Kind>() {
    let memory = memory();
    let config = Config { page_sizes: PageSizes::new(u64::MAX), ..K::config(WalkerMemory::Coherent) };
    let mut known = Vec::new();
    for level in 1..=K::RAW.top_leaf_level() {
        let (size, group) = (K::RAW.entry_size(level), K::RAW.group(level));
        known.push((size, level, 1));
        if group != 1 {
            known.push((size * group, level, group));
        }
    }
    let mask = known.iter().fold(0, |mask, (size, ..)| mask | size);
    let raw = Raw { sizes: mask, ..K::RAW };
    let read = |phys| memory.device_read64(PhysAddr::new(phys));
    for (size, level, group) in known {
        let mut table = PageTable::new(&memory, config).unwrap();
        assert_eq!(table.geometry().page_sizes, PageSizes::new(mask));
        let root = raw.root(table.root().get());
        map::<K, _>(&mut table, size, &[run(3 * size, size)], Prot::READ).unwrap();
        let (found, _) = raw.scan(&read, root).unwrap();
        let [leaf] = found[..] else { panic!("{found:x?}") };
        assert_eq!((leaf.iova, leaf.phys, leaf.size, leaf.group), (size, 3 * size, size, group));
        assert_eq!(raw.locate(&read, root, 2 * size - 1).unwrap().unwrap().level, level);
        assert_eq!(table.translate(iova(2 * size - 1)).unwrap().page_size, size);
        let mut gather = Gather::new();
        unmap::<K, _>(&mut table, range(size, size), &mut gather).unwrap();
        flush::<K, _>(&table, &mut gather);
        assert_eq!(raw.scan(&read, root).unwrap().0, []);
    }
}

/// A table has the levels that it was made with, for good. For each number of levels of the format, the top is exactly
/// what they translate: a table with more of them takes what one with fewer refuses, and what both take they map alike.
pub fn increase_level<K: Kind>() {
    let memory = memory();
    let page = K::PAGE;
    let read = |phys| memory.device_read64(PhysAddr::new(phys));
    let mut tops = Vec::new();
    let mut low = Vec::new();
    // Some options leave out some of them: a first stage of VT-d has no 3.
    for levels in K::F::LEVELS.filter(|levels| K::F::input_bits(*levels, K::options()) != 0) {
        let raw = Raw { levels: levels.into(), ..K::RAW };
        let raw = Raw { input_bits: raw.most_input_bits(), ..raw };
        let config = Config { levels, input_bits: u8::MAX, ..K::config(WalkerMemory::Coherent) };
        let mut table = PageTable::new(&memory, config).unwrap();
        let top = raw.top();
        assert_eq!((table.levels(), table.geometry().aperture), (levels, range(0, top)));
        // What fewer levels refuse.
        for below in tops.iter().filter(|below| **below < top) {
            map::<K, _>(&mut table, *below, &[run(page, page)], Prot::READ).unwrap();
            assert_eq!(table.translate(iova(*below)).unwrap().phys.get(), page);
        }
        map::<K, _>(&mut table, top - page, &[run(3 * page, page)], Prot::READ).unwrap();
        let beyond = Err(HwError::OutOfRange { iova: iova(top), len: page });
        assert_eq!(map::<K, _>(&mut table, top, &[run(page, page)], Prot::READ), beyond);
        // What all take.
        map::<K, _>(&mut table, K::LARGE - page, &[run(3 * K::LARGE - page, K::LARGE + 2 * page)], Prot::READ).unwrap();
        let (found, tables) = raw.scan(&read, raw.root(table.root().get())).unwrap();
        assert_eq!((tables.len(), found.last().unwrap().iova), (table.tables(), top - page));
        low.push(found.into_iter().filter(|leaf| leaf.iova < 4 * K::LARGE).collect::<Vec<_>>());
        // The walk of a page takes as many steps.
        let path = raw.path(&read, raw.root(table.root().get()), top - page).unwrap();
        assert_eq!(path.len(), usize::from(levels));
        tops.push(top);
    }
    assert!(low.iter().all(|leaves| *leaves == low[0] && leaves.len() == 3), "{low:x?}");
    assert!(tops.windows(2).all(|pair| pair[0] < pair[1] || pair[1] == 1 << 48), "{tops:x?}");
    assert!(tops.contains(&(1 << K::RAW.most_input_bits())));
}

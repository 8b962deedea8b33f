//! Splits: what lies below an address can be unmapped without what lies above.

use crate::common::{self, Flat, Kind, Unit, iova, range, run};
use crate::hooked::Hooked;
use iommu_core::hw::{Gather, HwError, Prot, Transition};
use iommu_hal::WalkerMemory;
use iommu_pgtable::{PageTable, SharedTable};

/// A table with a leaf, or contiguous group, of `size` and a page on either side; where that is.
fn one<K: Kind>(hal: &Hooked, size: u64) -> (SharedTable<Hooked, K::F>, u64, Flat) {
    let mut table = K::table(hal.clone());
    let at = size.max(K::LARGE).min(K::TOP / 2);
    let parts = [(at - K::PAGE, K::PAGE, 5), (at, size, 0), (at + size, K::PAGE, 7)];
    let mut flat = Flat::default();
    for (at, len, shift) in parts {
        let memory = run(at + shift * K::PAGE, len);
        table.exclusive().map(iova(at), &[memory], Prot::READ_WRITE, &mut Unit::default()).unwrap();
        flat.map(at, &[memory], Prot::READ_WRITE);
    }
    (SharedTable::new(table), at, flat)
}

fn leaves<K: Kind>(hal: &Hooked, table: &PageTable<Hooked, K::F>) -> Vec<common::raw::Leaf> {
    common::leaves_in::<K, _>(hal.memory(), table, WalkerMemory::Coherent)
}

pub fn a_split_leaves_nothing_that_reaches_across<K: Kind>() {
    let sizes = K::sizes();
    for size in sizes.iter().copied().filter(|size| *size != K::PAGE && *size <= K::TOP / 4) {
        // An address of each alignment that lies inside, and the last page.
        let smaller = sizes.iter().filter(|smaller| **smaller < size);
        let inside = smaller.flat_map(|smaller| [*smaller, size / 2 + *smaller, size - *smaller]);
        for offset in inside.filter(|offset| *offset < size) {
            let hal = Hooked::new();
            let (table, start, mut flat) = one::<K>(&hal, size);
            let at = start + offset;
            let mut unit = Unit::default();
            let transition = table.split(iova(at), &mut unit).unwrap();
            assert_eq!(unit.flushes, 1);
            let blocked = unit.asked.len() == 1 && !crate::split::live::<K>();
            let expected = if blocked { Transition::ThroughBlocked } else { Transition::Hitless };
            assert_eq!(transition, expected, "{size:#x} at {offset:#x}");

            let mut table = table.into_inner();
            let all = leaves::<K>(&hal, &table);
            assert!(flat.is_mapped_by(&all), "an address leads elsewhere");
            assert!(all.iter().all(|leaf| leaf.iova + leaf.size <= at || at <= leaf.iova));
            // As large as can be: what is aligned to the largest size below that of the leaf stays so.
            let next = *sizes.iter().rev().find(|smaller| **smaller < size).unwrap();
            let whole = all.iter().filter(|leaf| leaf.size == next).count() as u64;
            assert!(whole >= size / next - u64::from(!offset.is_multiple_of(next)), "{whole} of {next:#x}");

            // Once more changes nothing.
            let shared = SharedTable::new(table);
            hal.memory().set_observer(Some(Box::new(|_, phys| panic!("a store to {phys}"))));
            let mut unit = Unit::default();
            for at in [at, start, start + size, start - K::PAGE, start + size + K::PAGE, 0] {
                assert_eq!(shared.split(iova(at), &mut unit), Ok(Transition::Hitless));
            }
            assert_eq!(unit.flushes, 0);
            hal.memory().set_observer(None);

            // The lower part goes, the upper stays; then the other way round.
            let mut gather = Gather::new();
            shared.unmap(range(start, offset), &mut gather, &mut |_| ()).unwrap();
            flat.unmap(range(start, offset));
            table = shared.into_inner();
            common::flush::<K, _>(&table, &mut gather);
            assert!(flat.is_mapped_by(&leaves::<K>(&hal, &table)));
            let shared = SharedTable::new(table);
            shared.unmap(range(at, size - offset), &mut gather, &mut |_| ()).unwrap();
            flat.unmap(range(at, size - offset));
            table = shared.into_inner();
            common::flush::<K, _>(&table, &mut gather);
            assert!(flat.is_mapped_by(&leaves::<K>(&hal, &table)));
            drop(table);
            assert_eq!(hal.memory().in_use(), 0);
        }
    }
}

/// Whether leaves are cut while hardware uses them.
fn live<K: Kind>() -> bool {
    <K::F as iommu_pgtable::Format>::resizes_live(K::options())
}

pub fn what_a_split_refuses<K: Kind>() {
    let hal = Hooked::new();
    let (table, start, flat) = one::<K>(&hal, K::LARGE);
    let unit = &mut Unit::default();
    let misaligned = |at| Err(HwError::Misaligned { value: at, align: K::PAGE });
    for at in [start + 1, start + K::PAGE - 1, start + K::PAGE / 2, u64::MAX] {
        assert_eq!(table.split(iova(at), unit), misaligned(at));
    }
    for at in [K::TOP, u64::MAX - K::PAGE + 1] {
        assert_eq!(table.split(iova(at), unit), Err(HwError::OutOfRange { iova: iova(at), len: 1 }));
    }
    hal.memory().exhaust_after(0);
    let last = start + K::LARGE - K::PAGE;
    assert_eq!(table.split(iova(last), unit), Err(HwError::OutOfMemory));
    hal.memory().fail_never();
    assert_eq!(unit.flushes, 0);
    // Where hardware does not confirm, each address leads where it did, in whatever leaves.
    assert_eq!(table.split(iova(last), &mut Unit::failing(0)), Err(Unit::ERROR));
    let table = table.into_inner();
    assert!(flat.is_mapped_by(&leaves::<K>(&hal, &table)));
}

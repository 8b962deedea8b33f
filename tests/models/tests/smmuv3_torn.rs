//! STEs and CDs are fetched word by word, in any order, and memory may change between any two words.

mod smmuv3_common;

use iommu_core::addr::PhysAddr;
use iommu_models::memory::TestMemory;
use iommu_models::smmuv3::walk::Stage;
use iommu_models::smmuv3::{Config, FaultCode, Order, Piece, Structure};
use smmuv3_common::*;
use std::sync::{Arc, Mutex};

/// Runs `change` once, after word `index` of the structure at `phys` was fetched.
fn between(bench: &Bench, phys: u64, index: usize, change: impl Fn(&TestMemory) + Send + 'static) {
    let mut armed = true;
    bench.model.on_fetch(Some(Box::new(move |memory, piece| {
        if piece.entry == PhysAddr::new(phys) && piece.index == index && std::mem::take(&mut armed) {
            change(memory);
        }
    })));
}

/// What one read fetched, in order.
fn fetched(bench: &Bench) -> Vec<Piece> {
    let seen: Arc<Mutex<Vec<Piece>>> = Arc::default();
    let list = seen.clone();
    bench.model.on_fetch(Some(Box::new(move |_, piece| list.lock().unwrap().push(*piece))));
    let _ = bench.read_at(0);
    bench.model.on_fetch(None);
    let seen = seen.lock().unwrap();
    seen.clone()
}

fn words(pieces: &[Piece], structure: Structure) -> Vec<usize> {
    pieces.iter().filter(|piece| piece.structure == structure).map(|piece| piece.index).collect()
}

#[test]
fn each_word_is_fetched_by_itself_in_the_order_that_was_chosen() {
    let bench = Bench::first(Config::nested());
    bench.map_first(0, 0x5000);
    let pieces = fetched(&bench);
    assert_eq!(words(&pieces, Structure::Ste), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(words(&pieces, Structure::Cd), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(words(&pieces, Structure::Table(Stage::First)), [0, 0, 0]);
    let places: Vec<u64> = pieces.iter().map(|piece| piece.entry.get()).collect();
    assert_eq!((places[0], places[8]), (bench.ste(SID), bench.cd(SID.into())));
    assert_eq!(places[16..], bench.first[..]);
    // Cached: nothing is fetched.
    assert_eq!(fetched(&bench), []);
    let bench = Bench::first(Config::nested());
    bench.model.set_order(Order::Descending);
    let pieces = fetched(&bench);
    assert_eq!(words(&pieces, Structure::Ste), [7, 6, 5, 4, 3, 2, 1, 0]);
    let shuffled = |seed| {
        let bench = Bench::first(Config::nested());
        bench.model.set_order(Order::Shuffled(seed));
        let pieces = fetched(&bench);
        (words(&pieces, Structure::Ste), words(&pieces, Structure::Cd))
    };
    assert_eq!(shuffled(1), shuffled(1));
    let (ste, cd) = shuffled(1);
    assert!(ste != cd && shuffled(2) != shuffled(1));
    let mut sorted = ste.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn level_1_descriptors_are_fetched_whole() {
    let mut bench = Bench::nested(Config::server());
    let level1 = frame(&bench.memory);
    bench.set(level1, bench.cds | 1);
    bench.set(bench.ste(SID), 4 << 59 | 1 << 4 | level1 | 7 << 1 | 1);
    bench.set(bench.ste(SID) + 8, 2);
    // SID's own CD is that of substream 0.
    for word in 0..8 {
        bench.set(bench.cd(0) + word * 8, bench.get(bench.cd(8) + word * 8));
    }
    // The level-1 descriptor and the tables are in frames that came after stage 2 was built: map all again.
    bench.map_first(0, 0x5000);
    bench.map_second(5, 0x9000);
    let pieces = fetched(&bench);
    assert_eq!(words(&pieces, Structure::CdTable), [0]);
    assert_eq!(pieces.iter().find(|piece| piece.structure == Structure::CdTable).unwrap().entry.get(), level1);
    assert_eq!(bench.read_at(0), Ok(0x9000));
    assert_eq!(words(&pieces, Structure::Table(Stage::First)).len(), 3);
    bench.disable(SMMUEN);
    bench.write32(STRTAB_BASE_CFG, 1 << 16 | 8 << 6 | 16);
    bench.enable(SMMUEN);
    bench.invalidate_all();
    let level2 = frames(&bench.memory, 2);
    bench.set(bench.streams, level2 | 9);
    let pieces = fetched(&bench);
    assert_eq!(pieces[0].structure, Structure::StreamTable);
    assert_eq!((pieces[0].entry.get(), pieces[0].index, pieces[0].count), (bench.streams, 0, 1));
}

/// An entry that becomes valid while it is fetched, written word by word with V last.
///
/// Where word 0 comes first it is not valid yet, or whole. Where it comes last no order of stores helps: a driver must
/// have invalidated what was fetched before.
#[test]
fn an_ste_published_by_its_first_word_is_whole_where_that_is_read_first() {
    for order in [Order::Ascending, Order::Descending] {
        for index in 0..8 {
            let bench = Bench::second(Config::nested());
            bench.map_second(0, 0x5000);
            let phys = bench.ste(SID);
            let values: Vec<u64> = (0..4).map(|word| bench.get(phys + word * 8)).collect();
            (0..4).for_each(|word| bench.set(phys + word * 8, 0));
            bench.model.set_order(order);
            between(&bench, phys, index, move |memory| {
                for (word, value) in values.iter().enumerate().rev() {
                    memory.write64(PhysAddr::new(phys + word as u64 * 8), *value);
                }
            });
            let expected = match order {
                Order::Descending if index > 3 => Ok(0x5000),
                // Word 3 had been fetched: stage 2 begins at address 0.
                Order::Descending if index == 3 => Err(FaultCode::F_WALK_EABT),
                // Word 2 as well; or word 0 was.
                _ => Err(FaultCode::C_BAD_STE),
            };
            assert_eq!(bench.read_at(0), expected, "{order:?}, word {index}");
        }
    }
}

/// A live STE that is changed word by word is seen as a mixture: the hole of drivers that edit in place.
#[test]
fn an_ste_edited_in_place_is_seen_as_a_mixture() {
    // From VMID 7 to VMID 9 with tables of its own: the new tables come to be cached under the old VMID, or the other way
    // round.
    for (order, vmid) in [(Order::Ascending, VMID), (Order::Descending, VMID + 2)] {
        let mut bench = Bench::second(Config::nested());
        bench.map_second(0, 0x5000);
        let other = frame(&bench.memory);
        bench.set(other, 0x4000_0000 | PAGE_2 & !2);
        bench.model.set_order(order);
        let phys = bench.ste(SID);
        let index = if order == Order::Ascending { 2 } else { 3 };
        between(&bench, phys, index, move |memory| {
            memory.write64(PhysAddr::new(phys + 16), STE_2 | (VMID + 2));
            memory.write64(PhysAddr::new(phys + 24), other);
        });
        let expected = if order == Order::Ascending { 0x4000_0000 } else { 0x5000 };
        assert_eq!(bench.read_at(0), Ok(expected), "{order:?}");
        // Cached under which VMID shows by what takes it away.
        bench.set(other, 0);
        bench.set(bench.second[0], 0);
        bench.tlbi_vmid(VMID + VMID + 2 - vmid);
        assert_eq!(bench.read_at(0), Ok(expected), "{order:?}");
        bench.tlbi_vmid(vmid);
        assert_eq!(bench.read_at(0), Err(FaultCode::F_TRANSLATION), "{order:?}");
    }
}

#[test]
fn a_cd_is_torn_as_well() {
    // The ASID is in word 0, TTB0 in word 1.
    for (order, index, table) in
        [(Order::Ascending, 0, true), (Order::Descending, 0, false), (Order::Descending, 1, false)]
    {
        let bench = Bench::first(Config::nested());
        bench.map_first(0, 0x5000);
        let other = frame(&bench.memory);
        bench.set(other, 0x4000_0000 | PAGE_1 & !2);
        bench.model.set_order(order);
        let phys = bench.cd(SID.into());
        between(&bench, phys, index, move |memory| memory.write64(PhysAddr::new(phys + 8), other));
        let expected = if table { 0x4000_0000 } else { 0x5000 };
        assert_eq!(bench.read_at(0), Ok(expected), "{order:?}, word {index}");
    }
}

#[test]
fn a_walk_sees_tables_that_change_between_two_levels() {
    let bench = Bench::first(Config::nested());
    bench.map_first(0, 0x5000);
    let (phys, leaf) = (bench.first[1], bench.first[2]);
    between(&bench, phys, 0, move |memory| memory.write64(PhysAddr::new(leaf), 0x8000 | PAGE_1));
    assert_eq!(bench.read_at(0), Ok(0x8000));
}

#[test]
fn what_was_torn_stays_until_it_is_invalidated() {
    let mut bench = Bench::first(Config::nested());
    bench.map_first(0, 0x5000);
    let phys = bench.ste(SID);
    // Word 0 was fetched as invalid; then the STE is complete.
    let word = bench.get(phys);
    bench.set(phys, 0);
    between(&bench, phys, 0, move |memory| memory.write64(PhysAddr::new(phys), word));
    assert_eq!(bench.read_at(0), Err(FaultCode::C_BAD_STE));
    assert_eq!(bench.read_at(0), Err(FaultCode::C_BAD_STE));
    bench.cfgi_ste(SID);
    assert_eq!(bench.read_at(0), Ok(0x5000));
}

#[test]
fn entries_are_lost_where_a_switch_asks_for_it() {
    let bench = Bench::first(Config::nested());
    bench.map_first(0, 0x5000);
    assert_eq!(bench.read_at(0), Ok(0x5000));
    bench.map_first(0, 0x6000);
    bench.model.evict(3, 1);
    // Never invalidated; but some time all of it has been read anew.
    let found = (0..50).find(|_| bench.read_at(0) == Ok(0x6000));
    assert!(found.is_some());
    bench.model.evict(0, 0);
    bench.map_first(0, 0x7000);
    assert!((0..50).all(|_| bench.read_at(0) == Ok(0x6000)));
}

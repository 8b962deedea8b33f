//! Entries of more than 128 bits are fetched in parts, between which memory may change.

mod walks;

use iommu_core::addr::PhysAddr;
use iommu_models::memory::TestMemory;
use iommu_models::vtd::walk::Structure;
use iommu_models::vtd::{Config, FaultCode, Order, Piece, Pieces};
use std::sync::{Arc, Mutex};
use walks::*;

/// Runs `change` after part `index` of the entry at `phys` was fetched.
fn between(rig: &Rig, phys: u64, index: usize, change: impl Fn(&TestMemory) + Send + 'static) {
    rig.model.on_fetch(Some(Box::new(move |memory, piece| {
        if piece.entry == PhysAddr::new(phys) && piece.index == index {
            change(memory);
        }
    })));
}

/// The parts fetched by one request, in order: structure, index, count.
fn fetched(rig: &Rig) -> Vec<(Structure, usize, usize)> {
    let seen: Arc<Mutex<Vec<Piece>>> = Arc::default();
    let list = seen.clone();
    rig.model.on_fetch(Some(Box::new(move |_, piece| list.lock().unwrap().push(*piece))));
    assert_eq!(rig.access(0, false), Ok(PAGE));
    rig.model.on_fetch(None);
    let seen = seen.lock().unwrap();
    seen.iter().map(|piece| (piece.structure, piece.index, piece.count)).collect()
}

#[test]
fn parts_are_of_128_bits_in_either_order() {
    let rig = Rig::scalable(Config::server(), SECOND).on();
    let all = fetched(&rig);
    let of = |all: &[(Structure, usize, usize)], structure| -> Vec<_> {
        all.iter().filter(|piece| piece.0 == structure).map(|piece| (piece.1, piece.2)).collect()
    };
    assert_eq!(of(&all, Structure::Root), [(0, 1)]);
    assert_eq!(of(&all, Structure::Context), [(0, 2), (1, 2)]);
    assert_eq!(of(&all, Structure::Directory), [(0, 1)]);
    assert_eq!(of(&all, Structure::PasidTable), [(0, 4), (1, 4), (2, 4), (3, 4)]);
    assert_eq!(all.len(), 1 + 2 + 1 + 4 + 4);
    let rig = Rig::scalable(Config::server(), SECOND).on();
    rig.model.set_pieces(Pieces { order: Order::Backward, ..Pieces::default() });
    let all = fetched(&rig);
    assert_eq!(of(&all, Structure::Context), [(1, 2), (0, 2)]);
    assert_eq!(of(&all, Structure::PasidTable), [(3, 4), (2, 4), (1, 4), (0, 4)]);
    // Worse than any hardware, for whoever wants it.
    let rig = Rig::scalable(Config::server(), SECOND).on();
    rig.model.set_pieces(Pieces { words: 1, order: Order::Forward });
    let all = fetched(&rig);
    assert_eq!((of(&all, Structure::Context).len(), of(&all, Structure::PasidTable).len()), (4, 8));
    // An entry of legacy mode comes whole.
    let rig = Rig::legacy(Config::server()).on();
    let all = fetched(&rig);
    assert_eq!((of(&all, Structure::Root), of(&all, Structure::Context)), (vec![(0, 1)], vec![(0, 1)]));
}

/// An entry that becomes present while it is fetched, written word by word with P last.
///
/// Where the part with P comes first it is not present yet, or whole. Where it comes last no order of stores helps: the
/// words that were fetched before are still those of an entry that was not there.
#[test]
fn an_entry_published_by_its_present_bit_is_whole_where_that_is_read_first() {
    for order in [Order::Forward, Order::Backward] {
        for index in 0..4 {
            let rig = Rig::scalable(Config::server(), FIRST).on();
            let words: Vec<u64> = (0..8).map(|word| rig.get(rig.pasids + word * 8)).collect();
            (0..8).for_each(|word| rig.set(rig.pasids + word * 8, 0));
            rig.model.set_pieces(Pieces { order, ..Pieces::default() });
            let phys = rig.pasids;
            between(&rig, phys, index, move |memory| {
                for (word, value) in words.iter().enumerate().rev() {
                    memory.write64(PhysAddr::new(phys + word as u64 * 8), *value);
                }
            });
            let found = rig.access(0, false);
            match order {
                Order::Forward => assert_eq!(found, Err(FaultCode::PASID_NOT_PRESENT), "part {index}"),
                Order::Backward if index == 0 => assert_eq!(found, Err(FaultCode::PASID_NOT_PRESENT)),
                // The part with FSPTPTR had been fetched.
                Order::Backward if index == 1 => assert_eq!(found, Err(FaultCode::FIRST_TOP_ACCESS)),
                Order::Backward => assert_eq!(found, Ok(PAGE), "part {index}"),
            }
        }
    }
}

/// A live entry that is changed field by field is seen as a mixture: the hole of drivers that edit in place.
#[test]
fn an_entry_edited_in_place_is_seen_as_a_mixture() {
    // From the second stage, domain 5, to the first stage, domain 6; P stays set.
    for (order, index, mixed) in
        [(Order::Forward, 0, FaultCode::SECOND_PERMISSION), (Order::Backward, 1, FaultCode::FIRST_TOP_ACCESS)]
    {
        let rig = Rig::scalable(Config::server(), SECOND).on();
        rig.set(rig.second[3], 0);
        rig.model.set_pieces(Pieces { order, ..Pieces::default() });
        let (phys, table) = (rig.pasids, rig.first[0]);
        between(&rig, phys, index, move |memory| {
            memory.write64(PhysAddr::new(phys + 16), table);
            memory.write64(PhysAddr::new(phys + 8), 6);
            memory.write64(PhysAddr::new(phys), FIRST << 6 | 2 << 2 | 1);
        });
        assert_eq!(rig.access(0, false), Err(mixed), "{order:?}");
        assert_eq!(rig.get(phys) >> 6 & 7, FIRST);
    }
}

#[test]
fn a_context_entry_is_torn_as_well() {
    // RID_PASID and P lie in the same part; the other part is reserved.
    for (order, index, expected) in [
        (Order::Forward, 0, Err(FaultCode::CONTEXT_RESERVED)),
        (Order::Forward, 1, Ok(PAGE)),
        (Order::Backward, 0, Ok(PAGE)),
        (Order::Backward, 1, Ok(PAGE)),
    ] {
        let rig = Rig::scalable(Config::server(), SECOND).on();
        rig.model.set_pieces(Pieces { order, ..Pieces::default() });
        let phys = rig.context_entry();
        between(&rig, phys, index, move |memory| memory.write64(PhysAddr::new(phys + 16), 1));
        assert_eq!(rig.access(0, false), expected, "{order:?}, part {index}");
    }
}

#[test]
fn a_walk_sees_tables_that_change_between_two_levels() {
    let rig = Rig::scalable(Config::server(), SECOND).on();
    let (phys, leaf) = (rig.second[1], rig.second[3]);
    between(&rig, phys, 0, move |memory| memory.write64(PhysAddr::new(leaf), 0x8000 | 3));
    assert_eq!(rig.access(0, false), Ok(0x8000));
}

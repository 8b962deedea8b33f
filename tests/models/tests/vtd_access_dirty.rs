//! Accessed and dirty bits: who sets them, where, and what happens where nobody can.

mod walks;

use iommu_core::addr::PhysAddr;
use iommu_models::vtd::{AddressType, Config, FaultCode, Operation};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use walks::*;

const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const EXTENDED: u64 = 1 << 10;
const SECOND_ACCESSED: u64 = 1 << 8;
const SECOND_DIRTY: u64 = 1 << 9;

/// Nothing was accessed yet. Page walks snoop; the second stage tracks where `tracked` says so.
fn clean(kind: u64, tracked: bool) -> Rig {
    let rig = Rig::scalable(Config::server_nested(), kind);
    rig.first.iter().for_each(|at| rig.remove(*at, ACCESSED | DIRTY));
    rig.add(rig.pasids + 8, 1 << 23);
    rig.add(rig.pasids, u64::from(tracked) << 9);
    rig
}

/// The bits of `mask` in the entries that page 0 goes through.
fn bits(rig: &Rig, tables: &[u64], mask: u64) -> Vec<u64> {
    tables.iter().map(|at| rig.get(*at) & mask).collect()
}

#[test]
fn the_first_stage_is_always_marked() {
    let rig = clean(FIRST, false).on();
    assert_eq!(rig.access(0, false), Ok(PAGE));
    assert_eq!(bits(&rig, &rig.first, !0xfff | ACCESSED | DIRTY | EXTENDED)[3], PAGE | ACCESSED);
    assert_eq!(bits(&rig, &rig.first, ACCESSED | DIRTY | EXTENDED), [ACCESSED; 4]);
    assert_eq!(rig.access(0, true), Ok(PAGE));
    assert_eq!(bits(&rig, &rig.first, ACCESSED | DIRTY), [ACCESSED, ACCESSED, ACCESSED, ACCESSED | DIRTY]);
    // Once set, nobody clears them, and what is cached is not written again.
    rig.set(rig.first[3], PAGE | 7);
    assert_eq!((rig.access(0, false), rig.access(0, true)), (Ok(PAGE), Ok(PAGE)));
    assert_eq!(rig.get(rig.first[3]), PAGE | 7);
}

#[test]
fn a_large_leaf_is_marked_where_it_stands() {
    let rig = clean(FIRST, false).on();
    rig.set(rig.first[2], 0x4000_0087);
    assert_eq!(rig.access(0x1234, true), Ok(0x4000_1234));
    assert_eq!(rig.get(rig.first[2]), 0x4000_0087 | ACCESSED | DIRTY);
    assert_eq!(rig.get(rig.first[3]) & (ACCESSED | DIRTY), 0);
    let rig = clean(SECOND, true).on();
    rig.set(rig.second[1], 0x4000_0083);
    assert_eq!(rig.access(0x1234, true), Ok(0x4000_1234));
    assert_eq!(rig.get(rig.second[1]), 0x4000_0083 | SECOND_ACCESSED | SECOND_DIRTY);
}

#[test]
fn the_extended_flag_goes_with_the_accessed_one() {
    let rig = clean(FIRST, false).on();
    rig.add(rig.pasids + 16, 1 << 7);
    // Accessed already, but by somebody else.
    rig.add(rig.first[1], ACCESSED);
    assert_eq!(rig.access(0, true), Ok(PAGE));
    assert_eq!(bits(&rig, &rig.first, ACCESSED | EXTENDED), [ACCESSED | EXTENDED; 4]);
    // Without snooping it must be set before.
    let rig = clean(FIRST, false);
    rig.first.iter().for_each(|at| rig.add(*at, ACCESSED | DIRTY));
    rig.remove(rig.pasids + 8, 1 << 23);
    assert_eq!(rig.write(), Ok(PAGE));
    rig.add(rig.pasids + 16, 1 << 7);
    assert_eq!(rig.read(), Err(FaultCode::FIRST_ACCESSED));
    rig.first.iter().for_each(|at| rig.add(*at, EXTENDED));
    assert_eq!(rig.write(), Ok(PAGE));
}

#[test]
fn the_second_stage_is_marked_where_that_is_enabled() {
    for (tracked, accessed, dirty) in [(false, 0, 0), (true, SECOND_ACCESSED, SECOND_DIRTY)] {
        let rig = clean(SECOND, tracked).on();
        assert_eq!(rig.access(0, false), Ok(PAGE));
        assert_eq!(bits(&rig, &rig.second, SECOND_ACCESSED | SECOND_DIRTY), [accessed; 4]);
        assert_eq!(rig.access(0, true), Ok(PAGE));
        let expected = [accessed, accessed, accessed, accessed | dirty];
        assert_eq!(bits(&rig, &rig.second, SECOND_ACCESSED | SECOND_DIRTY), expected);
    }
    // Legacy mode has none.
    let rig = Rig::legacy(Config::server_nested()).on();
    assert_eq!(rig.access(0, true), Ok(PAGE));
    assert_eq!(bits(&rig, &rig.second, SECOND_ACCESSED | SECOND_DIRTY), [0; 4]);
}

#[test]
fn a_walk_that_does_not_snoop_marks_nothing() {
    for kind in [FIRST, NESTED] {
        let rig = clean(kind, false);
        rig.remove(rig.pasids + 8, 1 << 23);
        assert_eq!(rig.read(), Err(FaultCode::FIRST_ACCESSED));
        for at in rig.first.clone() {
            assert_eq!(rig.read(), Err(FaultCode::FIRST_ACCESSED));
            rig.add(at, ACCESSED);
        }
        assert_eq!((rig.read(), rig.write()), (Ok(PAGE), Err(FaultCode::FIRST_ACCESSED)));
        rig.add(rig.first[3], DIRTY);
        assert_eq!(rig.write(), Ok(PAGE));
    }
    let rig = clean(SECOND, true);
    rig.remove(rig.pasids + 8, 1 << 23);
    for at in rig.second.clone() {
        assert_eq!(rig.read(), Err(FaultCode::SECOND_ACCESSED));
        rig.add(at, SECOND_ACCESSED);
    }
    assert_eq!((rig.read(), rig.write()), (Ok(PAGE), Err(FaultCode::SECOND_ACCESSED)));
    rig.add(rig.second[3], SECOND_DIRTY);
    assert_eq!(rig.write(), Ok(PAGE));
    // Live, nothing is written.
    let rig = clean(FIRST, false).on();
    rig.remove(rig.pasids + 8, 1 << 23);
    assert_eq!(rig.access(0, true), Err(FaultCode::FIRST_ACCESSED));
    assert_eq!(bits(&rig, &rig.first, ACCESSED | DIRTY), [0; 4]);
}

#[test]
fn both_stages_of_a_guest_are_marked() {
    let rig = clean(NESTED, true).on();
    let leaves =
        |rig: &Rig| GUEST_TABLES.map(|guest| rig.get(rig.guest_leaf(guest)) & (SECOND_ACCESSED | SECOND_DIRTY));
    // Tables accessed already: reading them is no write.
    rig.first.iter().for_each(|at| rig.add(*at, ACCESSED));
    assert_eq!(rig.access(0, false), Ok(PAGE));
    assert_eq!(bits(&rig, &rig.second[..3], SECOND_ACCESSED), [SECOND_ACCESSED; 3]);
    assert_eq!(leaves(&rig), [SECOND_ACCESSED; 4]);
    assert_eq!(rig.get(rig.guest_leaf(GUEST_PAGE)), PAGE | 3 | SECOND_ACCESSED);
    // Setting a bit in a table is.
    let rig = clean(NESTED, true).on();
    assert_eq!(rig.access(0, false), Ok(PAGE));
    assert_eq!(leaves(&rig), [SECOND_ACCESSED | SECOND_DIRTY; 4]);
    assert_eq!(rig.get(rig.guest_leaf(GUEST_PAGE)), PAGE | 3 | SECOND_ACCESSED);
    assert_eq!(rig.access(0, true), Ok(PAGE));
    assert_eq!(rig.get(rig.guest_leaf(GUEST_PAGE)), PAGE | 3 | SECOND_ACCESSED | SECOND_DIRTY);
    assert_eq!(rig.get(rig.first[3]) & (ACCESSED | DIRTY), ACCESSED | DIRTY);
}

#[test]
fn what_is_refused_dirties_nothing() {
    let rig = clean(FIRST, false).on();
    rig.remove(rig.first[1], 2);
    assert_eq!(rig.access(0, true), Err(FaultCode::NO_WRITE));
    assert_eq!(rig.get(rig.first[3]) & DIRTY, 0);
    let rig = clean(SECOND, true).on();
    rig.set(rig.second[3], PAGE | 2);
    assert_eq!(rig.access(0, false), Err(FaultCode::NO_READ));
    assert_eq!(rig.get(rig.second[3]) & SECOND_DIRTY, 0);
    // The second stage refuses what the first would mark.
    let rig = clean(NESTED, true).on();
    rig.set(rig.guest_leaf(GUEST_PAGE), PAGE | 1);
    assert_eq!(rig.access(0, true), Err(FaultCode::NO_WRITE));
    assert_eq!(rig.get(rig.first[3]) & DIRTY, 0);
}

#[test]
fn a_cached_leaf_that_was_clean_is_walked_again_for_a_write() {
    for (kind, leaf, dirty) in [(FIRST, 3, DIRTY), (SECOND, 3, SECOND_DIRTY)] {
        let rig = clean(kind, true).on();
        let at = if kind == FIRST { rig.first[leaf] } else { rig.second[leaf] };
        assert_eq!((rig.access(0, false), rig.model.cached()[2]), (Ok(PAGE), 1));
        rig.set(at, rig.get(at) & 0xfff | 0x8000);
        // The cache still serves reads.
        assert_eq!(rig.access(0, false), Ok(PAGE));
        // A write finds what is there now, and marks that.
        assert_eq!(rig.access(0, true), Ok(0x8000));
        assert_eq!(rig.get(at) & dirty, dirty);
    }
}

#[test]
fn a_cached_leaf_of_a_guest_is_clean_while_either_stage_is() {
    for first in [true, false] {
        let rig = clean(NESTED, true).on();
        let page = rig.guest_leaf(GUEST_PAGE);
        // Dirty in the other stage already.
        rig.add(if first { page } else { rig.first[3] }, if first { SECOND_DIRTY } else { DIRTY });
        assert_eq!((rig.access(0, false), rig.access(0, true)), (Ok(PAGE), Ok(PAGE)));
        assert_eq!((rig.get(rig.first[3]) & DIRTY, rig.get(page) & SECOND_DIRTY), (DIRTY, SECOND_DIRTY));
    }
}

#[test]
fn a_translation_for_writing_dirties_at_once() {
    for (operation, dirty) in [(Operation::Atomic, DIRTY), (Operation::Read, 0)] {
        let rig = clean(FIRST, false).on();
        rig.add(rig.context_entry(), 1 << 2);
        let ask = request(0, false).operation(operation).address(AddressType::Translation);
        let found = rig.live(&ask).unwrap();
        assert_eq!((found.read, found.write), (true, dirty != 0), "{operation:?}");
        assert_eq!(rig.get(rig.first[3]) & (ACCESSED | DIRTY), ACCESSED | dirty, "{operation:?}");
    }
    // A unit without NWFS takes every translation for one that writes.
    let rig = Rig::scalable(Config::server(), FIRST).on();
    rig.add(rig.pasids + 8, 1 << 23);
    rig.remove(rig.first[3], DIRTY);
    rig.add(rig.context_entry(), 1 << 2);
    let ask = request(0, false).address(AddressType::Translation);
    assert!(rig.live(&ask).unwrap().write);
    assert_eq!(rig.get(rig.first[3]) & DIRTY, DIRTY);
    // Write permission that is not there is not given, and nothing is dirtied.
    let rig = clean(FIRST, false).on();
    rig.add(rig.context_entry(), 1 << 2);
    rig.remove(rig.first[3], 2);
    let found = rig.live(&ask.operation(Operation::Atomic)).unwrap();
    assert_eq!((found.read, found.write, rig.get(rig.first[3]) & DIRTY), (true, false, 0));
}

#[test]
fn an_entry_that_changes_under_the_walk_is_not_overwritten() {
    let rig = clean(FIRST, false).on();
    let leaf = rig.first[3];
    let times = Arc::new(AtomicUsize::new(0));
    let count = times.clone();
    // Software takes the mapping away right after the leaf was read, once.
    rig.model.on_fetch(Some(Box::new(move |memory, piece| {
        if piece.entry == PhysAddr::new(leaf) && count.fetch_add(1, Ordering::Relaxed) == 0 {
            memory.write64(piece.entry, 0);
        }
    })));
    assert_eq!(rig.access(0, true), Err(FaultCode::FIRST_NOT_PRESENT));
    assert_eq!((rig.get(leaf), times.load(Ordering::Relaxed)), (0, 2));
    // One that never stands still ends in a fault.
    for (kind, code) in [(FIRST, FaultCode::FIRST_UPDATE_FAILED), (SECOND, FaultCode::SECOND_UPDATE_FAILED)] {
        let rig = clean(kind, true).on();
        let leaf = if kind == FIRST { rig.first[3] } else { rig.second[3] };
        rig.model.on_fetch(Some(Box::new(move |memory, piece| {
            if piece.entry == PhysAddr::new(leaf) {
                let value = memory.read64(piece.entry);
                memory.write64(piece.entry, value ^ 1 << 52);
            }
        })));
        assert_eq!(rig.access(0, true), Err(code));
    }
}

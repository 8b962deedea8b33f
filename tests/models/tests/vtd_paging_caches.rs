//! Paging-structure caches: entries that lead to tables are used after memory has changed, until an invalidation without
//! IH covers them.

mod common;

use common::*;
use iommu_core::addr::PhysAddr;
use iommu_hal::mem::Frames;
use iommu_hal::{FrameRequest, WalkerMemory};
use iommu_models::vtd::{Config, FaultCode, Violation};

const OTHER: u64 = 6;
/// IH: only leaves changed.
const HINT: u64 = 1 << 6;
const NEST: u64 = 1 << 26;
const LARGE: u64 = 0x20_0000;

fn is_first(bench: &Bench) -> bool {
    bench.model.config().ecap >> 47 & 1 != 0
}

/// An entry that leads to a table, as [`Bench::attach`] writes them.
fn leads(bench: &Bench, table: u64) -> u64 {
    table | if is_first(bench) { 0x27 } else { 3 }
}

/// Invalidates a page of the stage that the unit has; `bits` are AM and IH.
fn invalidate(bench: &mut Bench, address: u64, bits: u64) {
    if is_first(bench) {
        bench.pasid_iotlb_page(DOMAIN, 0, address, bits);
    } else {
        bench.iotlb_page(DOMAIN, address, bits);
    }
}

fn not_mapped(bench: &Bench) -> FaultCode {
    if is_first(bench) { FaultCode::FIRST_NOT_PRESENT } else { FaultCode::SECOND_PERMISSION }
}

#[test]
fn a_freed_table_is_walked_where_only_leaves_were_invalidated() {
    for config in [Config::second_stage(), Config::first_stage()] {
        for (hint, stale) in [(HINT, true), (0, false)] {
            let mut bench = Bench::up(config);
            let memory = bench.memory.clone();
            let request = FrameRequest { order: 0, address_bits: 46, memory: WalkerMemory::Coherent };
            let table = Frames::alloc(&*memory, request).expect("a frame");
            let at = table.phys().get();
            bench.set(bench.tables[2], leads(&bench, at));
            bench.set(at + 3 * 8, bench.get(bench.leaf(0)) | if is_first(&bench) { 0x5067 } else { 0x5003 });
            assert_eq!(bench.read_at(0x3000), Ok(0x5000));
            bench.set(bench.tables[2], 0);
            invalidate(&mut bench, 0x3000, hint);
            drop(table);
            let found = bench.read_at(0x3000);
            let reads = bench.memory.take_stale_reads();
            if stale {
                assert_eq!(reads, [PhysAddr::new(at + 3 * 8)], "{found:?}");
            } else {
                assert_eq!((found, reads), (Err(not_mapped(&bench)), vec![]));
            }
            assert_eq!(bench.model.violations(), []);
        }
    }
}

#[test]
fn entries_of_every_level_are_held() {
    for config in [Config::second_stage(), Config::first_stage()] {
        let mut bench = Bench::up(config);
        bench.map(0, 0x5000);
        assert_eq!(bench.read_at(0), Ok(0x5000));
        assert_eq!(bench.model.cached_structures(), if is_first(&bench) { [3, 0] } else { [0, 3] });
        for level in 0..3 {
            let entry = bench.get(bench.tables[level]);
            bench.set(bench.tables[level], 0);
            invalidate(&mut bench, 0, HINT);
            assert_eq!(bench.read_at(0), Ok(0x5000), "level {level}");
            // Elsewhere below the same entries: nothing of what is held for the first page is touched.
            invalidate(&mut bench, 1 << 45, 0);
            invalidate(&mut bench, 0, HINT);
            assert_eq!(bench.read_at(0), Ok(0x5000), "level {level}");
            invalidate(&mut bench, 0x1000, 0);
            assert_eq!(bench.read_at(0), Ok(0x5000), "level {level}: the leaf is held");
            invalidate(&mut bench, 0, HINT);
            assert_eq!(bench.read_at(0), Err(not_mapped(&bench)), "level {level}");
            bench.set(bench.tables[level], entry);
            assert_eq!(bench.read_at(0), Ok(0x5000));
        }
    }
}

#[test]
fn a_lower_entry_is_used_without_those_above_it() {
    // Two tables below one entry that goes: the page invalidated is below the first.
    for config in [Config::second_stage(), Config::first_stage()] {
        let mut bench = Bench::up(config);
        bench.map(0, 0x5000);
        let second = frame(&bench.memory);
        bench.set(bench.tables[2] + 8, leads(&bench, second));
        bench.set(second, bench.get(bench.leaf(0)));
        assert_eq!((bench.read_at(0), bench.read_at(LARGE)), (Ok(0x5000), Ok(0x5000)));
        bench.set(bench.tables[1], 0);
        invalidate(&mut bench, 0, 0);
        assert_eq!(bench.read_at(0), Err(not_mapped(&bench)));
        invalidate(&mut bench, LARGE, HINT);
        assert_eq!(bench.read_at(LARGE), Ok(0x5000), "its entry of level 2 is held");
        invalidate(&mut bench, LARGE, 0);
        assert_eq!(bench.read_at(LARGE), Err(not_mapped(&bench)));
    }
}

#[test]
fn what_upper_entries_allow_is_held_with_them() {
    let mut bench = Bench::up(Config::second_stage());
    bench.map(0, 0x5000);
    bench.set(bench.tables[0], bench.tables[1] | 1);
    assert_eq!(bench.write_at(0), Err(FaultCode::NO_WRITE));
    bench.set(bench.tables[0], bench.tables[1] | 3);
    bench.iotlb_page(DOMAIN, 0, HINT);
    assert_eq!(bench.write_at(0), Err(FaultCode::NO_WRITE));
    bench.iotlb_page(DOMAIN, 0, 0);
    assert_eq!(bench.write_at(0), Ok(0x5000));
}

#[test]
fn the_second_stage_goes_by_domain_for_whoever_asks() {
    let mut bench = Bench::up(Config::second_stage());
    bench.map(0, 0x5000);
    // Another function with the same PASID table.
    bench.set(bench.context_entry(RID + 1), bench.directory | 1);
    assert_eq!(bench.read_at(0), Ok(0x5000));
    bench.set(bench.tables[0], 0);
    assert_eq!(bench.access(RID + 1, None, 0, false), Ok(0x5000), "what one has met, the other uses");
    // Not what the first stage's invalidations take.
    bench.pasid_iotlb(DOMAIN, 0);
    assert_eq!(bench.read_at(0), Ok(0x5000));
    bench.iotlb_domain(OTHER);
    bench.iotlb_page(OTHER, 0, 0);
    bench.pasid_iotlb(DOMAIN, 0);
    assert_eq!(bench.read_at(0), Ok(0x5000));
    bench.iotlb_domain(DOMAIN);
    assert_eq!(bench.read_at(0), Err(FaultCode::SECOND_PERMISSION));
    assert_eq!(bench.access(RID + 1, None, 0, false), Err(FaultCode::SECOND_PERMISSION));
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn a_global_invalidation_takes_everything() {
    for config in [Config::second_stage(), Config::first_stage()] {
        let mut bench = Bench::up(config);
        bench.map(0, 0x5000);
        assert_eq!(bench.read_at(0), Ok(0x5000));
        bench.submit(0x12, 0);
        assert_eq!((bench.model.cached()[2], bench.model.cached_structures()), (0, [0, 0]));
    }
}

#[test]
fn the_first_stage_goes_by_domain_and_pasid() {
    let mut bench = Bench::up(Config::first_stage());
    bench.map(0, 0x5000);
    let take_away = |bench: &Bench| bench.set(bench.tables[0], 0);
    let put_back = |bench: &Bench| {
        bench.set(bench.tables[0], leads(bench, bench.tables[1]));
        assert_eq!(bench.read_at(0), Ok(0x5000));
    };
    // What leaves the upper entries alone, with the leaf taken by IH=1 in each round.
    for (low, high) in [
        (OTHER << 16 | 2 << 4 | 6, 0),
        (1 << 32 | DOMAIN << 16 | 2 << 4 | 6, 0),
        (1 << 32 | DOMAIN << 16 | 3 << 4 | 6, 0),
        (DOMAIN << 16 | 3 << 4 | 6, 1 << 40),
        (OTHER << 16 | 2 << 4 | 2, 0),
        (OTHER << 16 | 3 << 4 | 2, 0),
    ] {
        put_back(&bench);
        take_away(&bench);
        bench.submit(low, high);
        bench.pasid_iotlb_page(DOMAIN, 0, 0, HINT);
        assert_eq!(bench.read_at(0), Ok(0x5000), "{low:#x} {high:#x}");
    }
    // What takes them; type 2 with pages too, whatever the address, and with IH.
    for (low, high) in [
        (DOMAIN << 16 | 2 << 4 | 6, 0),
        (DOMAIN << 16 | 3 << 4 | 6, 0),
        (DOMAIN << 16 | 2 << 4 | 2, 0),
        (DOMAIN << 16 | 3 << 4 | 2, 1 << 40 | HINT),
    ] {
        put_back(&bench);
        take_away(&bench);
        bench.submit(low, high);
        assert_eq!(bench.read_at(0), Err(FaultCode::FIRST_NOT_PRESENT), "{low:#x} {high:#x}");
    }
}

/// A unit with nested translation, and PASID 0 of [`RID`] on it: the guest's tables are [`Bench::tables`], at the guest
/// addresses 0x8000_0000 and up; gives the second stage's leaf table for those.
fn nested() -> (Bench, u64) {
    let config = Config::server().ecap_bits(NEST, true);
    let mut bench = Bench::up(config);
    let guest = |number: u64| 0x8000_0000 + number * 0x1000;
    // The second stage, four levels: guest addresses from 2 GiB on.
    let below: Vec<u64> = (0..4).map(|_| frame(&bench.memory)).collect();
    bench.set(below[0], below[1] | 3);
    bench.set(below[1] + 2 * 8, below[2] | 3);
    bench.set(below[2], below[3] | 3);
    for number in 0..4 {
        bench.set(below[3] + number * 8, bench.tables[number as usize] | 3);
        if number > 0 {
            bench.set(bench.tables[number as usize - 1], guest(number) | 0x27);
        }
    }
    // Where the guest's pages are.
    bench.set(below[3] + 16 * 8, 0x7_0000 | 3);
    bench.set(bench.pasids + 16, guest(0));
    bench.set(bench.pasids + 8, 1 << 23 | DOMAIN);
    bench.set(bench.pasids, below[0] | 3 << 6 | 2 << 2 | 1);
    bench.set(bench.leaf(0), guest(16) | 0x67);
    bench.pasid_cache(DOMAIN, 0);
    (bench, below[3])
}

#[test]
fn nested_entries_hold_where_the_second_stage_put_the_tables() {
    let (mut bench, leaves) = nested();
    assert_eq!(bench.read_at(0x123), Ok(0x7_0123));
    let [first, second] = bench.model.cached_structures();
    assert_eq!((first, second), (3, 3));
    // The guest's lowest table moves to another host page, which maps elsewhere.
    let moved = frame(&bench.memory);
    bench.set(moved, (0x8000_0000 + 17 * 0x1000) | 0x67);
    bench.set(leaves + 17 * 8, 0x9_0000 | 3);
    bench.set(leaves + 3 * 8, moved | 3);
    // The first stage's own invalidation leaves nothing of that behind, if it is not told that only leaves changed.
    bench.pasid_iotlb_page(DOMAIN, 0, 0, HINT);
    assert_eq!(bench.read_at(0x123), Ok(0x7_0123), "the entry of level 2 is held with its host address");
    bench.pasid_iotlb_page(DOMAIN, 0, 0, 0);
    assert_eq!(bench.read_at(0x123), Ok(0x9_0123));
    // Second-stage pages take everything nested of the domain, with IH too, whatever the address.
    bench.set(leaves + 3 * 8, bench.tables[3] | 3);
    bench.iotlb_page(OTHER, 0, 0);
    bench.pasid_iotlb(OTHER, 0);
    assert_eq!(bench.read_at(0x123), Ok(0x9_0123));
    bench.iotlb_page(DOMAIN, 0x8000_3000, HINT);
    assert_eq!(bench.read_at(0x123), Ok(0x7_0123));
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn second_stage_entries_below_nested_ones_need_type_2_without_the_hint() {
    let (mut bench, leaves) = nested();
    assert_eq!(bench.read_at(0), Ok(0x7_0000));
    // Another leaf table of the second stage: the guest's page is elsewhere.
    let other = frame(&bench.memory);
    for index in 0..32 {
        bench.set(other + index * 8, bench.get(leaves + index * 8));
    }
    bench.set(other + 16 * 8, 0xa_0000 | 3);
    // Its entry of level 2 is found by way of the PASID entry.
    let top = bench.get(bench.pasids) & 0x000f_ffff_ffff_f000;
    let third = bench.get(top) & !0xfff;
    let entry = bench.get(third + 2 * 8) & !0xfff;
    bench.set(entry, other | 3);
    bench.pasid_iotlb(DOMAIN, 0);
    bench.iotlb_page(DOMAIN, 0x8000_0000, HINT);
    assert_eq!(bench.read_at(0), Ok(0x7_0000));
    bench.iotlb_page(DOMAIN, 0x9000_0000, 0);
    assert_eq!(bench.read_at(0), Ok(0x7_0000));
    bench.iotlb_page(DOMAIN, 0x8000_0000, 0);
    assert_eq!(bench.read_at(0), Ok(0xa_0000));
}

#[test]
fn with_caching_mode_upper_entries_that_are_missing_are_held() {
    for caching in [false, true] {
        let config = if caching { Config::second_stage().caching_mode() } else { Config::second_stage() };
        let mut bench = Bench::up(config);
        bench.map(0, 0x5000);
        bench.map(1, 0x6000);
        let entry = bench.get(bench.tables[1]);
        bench.set(bench.tables[1], 0);
        assert_eq!(bench.read_at(0), Err(FaultCode::SECOND_PERMISSION));
        bench.set(bench.tables[1], entry);
        let stale = |phys| if caching { Err(FaultCode::SECOND_PERMISSION) } else { Ok(phys) };
        // The page alone does not do, nor does the hint.
        bench.iotlb_page(DOMAIN, 0, HINT);
        assert_eq!((bench.read_at(0), bench.read_at(0x1000)), (stale(0x5000), stale(0x6000)));
        bench.iotlb_page(DOMAIN, 1 << 30, 0);
        assert_eq!(bench.read_at(0x1000), stale(0x6000));
        // Everything below the entry, since pages of it were met.
        bench.iotlb_page(DOMAIN, 0, 18);
        assert_eq!((bench.read_at(0), bench.read_at(0x1000)), (Ok(0x5000), Ok(0x6000)));
    }
}

#[test]
fn the_root_pointer_takes_them_with_esrtps() {
    for (drops, config) in
        [(false, Config::second_stage()), (true, Config::second_stage().cap_bits(Config::CAP_ESRTPS, true))]
    {
        let bench = Bench::up(config);
        bench.map(0, 0x5000);
        assert_eq!(bench.read_at(0), Ok(0x5000));
        bench.set_root();
        assert_eq!(bench.model.cached_structures(), if drops { [0, 0] } else { [0, 3] });
    }
}

#[test]
fn eviction_only_ever_leads_back_to_memory() {
    let bench = Bench::up(Config::second_stage());
    bench.map(0, 0x5000);
    assert_eq!(bench.read_at(0), Ok(0x5000));
    bench.set(bench.leaf(0), 0x6003);
    // Held for ever without it.
    assert!((0..100).all(|_| bench.read_at(0) == Ok(0x5000)));
    bench.model.evict(7, 3);
    let found: Vec<_> = (0..100).map(|_| bench.read_at(0)).collect();
    let turn = found.iter().position(|found| *found == Ok(0x6000)).expect("one of them is lost at last");
    assert!(turn > 0 && found[turn..].iter().all(|found| *found == Ok(0x6000)), "{found:?}");
    // Now tables: one that is gone from memory is used as long as the entry that leads to it is there.
    bench.model.evict(0, 0);
    bench.set(bench.tables[0], 0);
    assert!((0..100).all(|_| bench.read_at(0) == Ok(0x6000)));
    bench.model.evict(8, 3);
    assert!((0..1000).any(|_| bench.read_at(0) == Err(FaultCode::SECOND_PERMISSION)));
}

#[test]
fn domain_ids_of_different_tables_are_flagged() {
    let config = Config::server();
    // PASIDs 64 and 65 beside RID_PASID: second table of the directory.
    let pair = |words: [[u64; 3]; 2]| {
        let bench = Bench::up(config);
        let table = frame(&bench.memory);
        bench.set(bench.directory + 8, table | 1);
        for (number, [low, middle, high]) in words.into_iter().enumerate() {
            let entry = table + number as u64 * 64;
            bench.set(entry + 16, high);
            bench.set(entry + 8, middle);
            bench.set(entry, low);
        }
        bench.set(bench.context_entry(RID), bench.directory | 1 << 3 | 1);
        for pasid in [64, 65] {
            let _ = bench.access(RID, Some(pasid), 0, false);
        }
        bench.model.take_violations()
    };
    let shared = [Violation::DomainShared { domain: 9 }];
    let (second, first, pass) = (2 << 6 | 2 << 2 | 1, 1 << 6 | 1, 4 << 6 | 2 << 2 | 1);
    // Two second stages: one table, two tables, two depths.
    assert_eq!(pair([[0x1_2341_0000 | second, 9, 0], [0x1_2341_0000 | second, 9, 0]]), []);
    assert_eq!(pair([[0x1_2341_0000 | second, 9, 0], [0x1_2341_1000 | second, 10, 0]]), []);
    assert_eq!(pair([[0x1_2341_0000 | second, 9, 0], [0x1_2341_1000 | second, 9, 0]]), shared);
    assert_eq!(pair([[0x1_2341_0000 | second, 9, 0], [0x1_2341_0000 | second ^ 3 << 2, 9, 0]]), shared);
    // First stages and pass-through may share one, but not with a second stage.
    assert_eq!(pair([[first, 9, 0x1_2341_0000], [first, 9, 0x1_2341_1000]]), []);
    assert_eq!(pair([[first, 9, 0x1_2341_0000], [pass, 9, 0]]), []);
    assert_eq!(pair([[first, 9, 0x1_2341_0000], [0x1_2341_0000 | second, 9, 0]]), shared);
    assert_eq!(pair([[pass, 9, 0], [0x1_2341_0000 | second, 9, 0]]), shared);
}

#[test]
fn domain_id_0_belongs_to_a_unit_with_caching_mode() {
    for caching in [false, true] {
        let config = if caching { Config::second_stage().caching_mode() } else { Config::second_stage() };
        let bench = Bench::up(config);
        bench.set(bench.pasids + 8, 0);
        assert_eq!(bench.read_at(0), Err(FaultCode::SECOND_PERMISSION));
        let expected = if caching { vec![Violation::DomainReserved { requester: RID }] } else { vec![] };
        assert_eq!(bench.model.violations(), expected);
    }
}

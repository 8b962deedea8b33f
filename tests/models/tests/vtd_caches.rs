//! The caches: each keeps what it may until an invalidation covers it, and no longer.

mod common;

use common::*;
use iommu_core::addr::Iova;
use iommu_models::vtd::{Config, FaultCode};

const OTHER: u64 = 6;

#[test]
fn a_translation_stays_until_an_invalidation_covers_it() {
    let mut bench = Bench::up(Config::second_stage());
    bench.map(3, 0x5000);
    bench.map(4, 0x6000);
    assert_eq!((bench.read_at(0x3000), bench.read_at(0x4000)), (Ok(0x5000), Ok(0x6000)));
    assert_eq!(bench.model.cached(), [1, 1, 2]);
    bench.set(bench.leaf(3), 0);
    bench.map(4, 0x7000);
    let stale = (Ok(0x5000), Ok(0x6000));
    bench.iotlb_page(DOMAIN, 0x2000, 0);
    bench.iotlb_page(DOMAIN, 0x5000, 0);
    bench.iotlb_page(OTHER, 0x3000, 0);
    bench.iotlb_domain(OTHER);
    bench.pasid_iotlb_page(DOMAIN, 0, 0x3000, 0);
    bench.pasid_iotlb(DOMAIN, 1);
    bench.context_device(RID);
    bench.pasid_cache(DOMAIN, 0);
    assert_eq!((bench.read_at(0x3000), bench.read_at(0x4000)), stale);
    bench.iotlb_page(DOMAIN, 0x3000, 0);
    assert_eq!((bench.read_at(0x3000), bench.read_at(0x4000)), (Err(FaultCode::SECOND_PERMISSION), Ok(0x6000)));
    bench.iotlb_page(DOMAIN, 0x4000, 2);
    assert_eq!(bench.read_at(0x4000), Ok(0x7000));
    bench.map(4, 0x8000);
    bench.iotlb_domain(DOMAIN);
    assert_eq!(bench.read_at(0x4000), Ok(0x8000));
    bench.map(4, 0x9000);
    bench.submit(0x12, 0);
    assert_eq!(bench.read_at(0x4000), Ok(0x9000));
    bench.map(4, 0xa000);
    bench.pasid_iotlb(DOMAIN, 0);
    assert_eq!(bench.read_at(0x4000), Ok(0xa000), "PASID-selective covers every kind");
}

#[test]
fn first_stage_translations_go_by_domain_and_pasid() {
    let mut bench = Bench::up(Config::first_stage());
    bench.map(3, 0x5000);
    assert_eq!(bench.write_at(0x3000), Ok(0x5000));
    bench.set(bench.leaf(3), 0);
    bench.iotlb_domain(OTHER);
    bench.iotlb_page(OTHER, 0x3000, 0);
    bench.pasid_iotlb(DOMAIN, 1);
    bench.pasid_iotlb(OTHER, 0);
    bench.pasid_iotlb_page(DOMAIN, 0, 0x4000, 0);
    assert_eq!(bench.write_at(0x3000), Ok(0x5000));
    bench.pasid_iotlb_page(DOMAIN, 0, 0x3000, 0);
    assert_eq!(bench.write_at(0x3000), Err(FaultCode::FIRST_NOT_PRESENT));
    bench.map(3, 0x6000);
    assert_eq!(bench.write_at(0x3000), Ok(0x6000));
    bench.set(bench.leaf(3), 0);
    bench.pasid_iotlb(DOMAIN, 0);
    assert_eq!(bench.write_at(0x3000), Err(FaultCode::FIRST_NOT_PRESENT));
    // Type 2 takes a domain's first stage as a whole, whatever the address.
    for low in [DOMAIN << 16 | 2 << 4 | 2, DOMAIN << 16 | 3 << 4 | 2] {
        bench.map(3, 0x7000);
        assert_eq!(bench.write_at(0x3000), Ok(0x7000));
        bench.set(bench.leaf(3), 0);
        bench.submit(low, 0x10_0000);
        assert_eq!(bench.write_at(0x3000), Err(FaultCode::FIRST_NOT_PRESENT));
    }
}

#[test]
fn a_large_leaf_is_one_entry_that_any_page_of_it_takes_away() {
    let mut bench = Bench::up(Config::second_stage());
    let entry = bench.tables[2] + 8;
    bench.set(entry, 0x4000_0000 | 1 << 7 | 3);
    let whole = bench.model.dma(RID, None, Iova::new(0x20_0000), 0x20_0000, true).unwrap();
    assert_eq!((whole.len(), whole[0].start.get(), whole[0].len), (1, 0x4000_0000, 0x20_0000));
    assert_eq!(bench.model.cached(), [1, 1, 1]);
    bench.set(entry, 0);
    bench.iotlb_page(DOMAIN, 0x40_0000, 0);
    assert_eq!(bench.read_at(0x2f_f000), Ok(0x400f_f000));
    bench.iotlb_page(DOMAIN, 0x3f_f000, 0);
    assert_eq!(bench.read_at(0x20_0000), Err(FaultCode::SECOND_PERMISSION));
}

#[test]
fn permissions_are_cached_too() {
    let mut bench = Bench::up(Config::second_stage());
    bench.set(bench.leaf(0), 0x5000 | 1);
    assert_eq!(bench.write_at(0), Err(FaultCode::NO_WRITE));
    bench.map(0, 0x5000);
    assert_eq!((bench.read_at(0), bench.write_at(0)), (Ok(0x5000), Err(FaultCode::NO_WRITE)));
    bench.iotlb_domain(DOMAIN);
    assert_eq!(bench.write_at(0), Ok(0x5000));
    bench.set(bench.leaf(0), 0x5000 | 1);
    assert_eq!(bench.write_at(0), Ok(0x5000));
}

#[test]
fn a_cached_permission_is_what_every_level_allows() {
    for (config, code) in [(Config::second_stage(), FaultCode::NO_WRITE), (Config::first_stage(), FaultCode::NO_WRITE)]
    {
        for level in 0..3 {
            let bench = Bench::up(config);
            bench.map(0, 0x5000);
            bench.set(bench.tables[level], bench.get(bench.tables[level]) & !2);
            assert_eq!((bench.read_at(0), bench.write_at(0)), (Ok(0x5000), Err(code)));
            let found = bench.model.translate(RID, None, Iova::new(0), false).unwrap();
            assert!(found.read && !found.write);
        }
    }
}

#[test]
fn a_context_entry_stays_until_its_device_is_invalidated() {
    let mut bench = Bench::up(Config::second_stage());
    bench.map(0, 0x5000);
    assert_eq!(bench.read_at(0), Ok(0x5000));
    bench.set(bench.context_entry(RID), 0);
    bench.submit(0x37, 0);
    bench.iotlb_domain(DOMAIN);
    assert_eq!(bench.read_at(0), Ok(0x5000));
    bench.context_device(RID + 1);
    bench.submit(0x37, 0);
    bench.iotlb_domain(DOMAIN);
    assert_eq!(bench.read_at(0), Ok(0x5000));
    bench.context_device(RID);
    bench.iotlb_domain(DOMAIN);
    assert_eq!(bench.read_at(0), Err(FaultCode::CONTEXT_NOT_PRESENT));
}

#[test]
fn a_function_mask_covers_the_device() {
    let mut bench = Bench::up(Config::second_stage());
    for function in 0..8 {
        bench.attach(RID + function);
        bench.map(0, 0x5000);
        assert_eq!(bench.access(RID + function, None, 0, false), Ok(0x5000));
    }
    assert_eq!(bench.model.cached()[0], 8);
    bench.submit(1 << 48 | u64::from(RID) << 32 | 0x31, 0);
    assert_eq!(bench.model.cached()[0], 6);
    bench.submit(3 << 48 | u64::from(RID) << 32 | 0x31, 0);
    assert_eq!(bench.model.cached()[0], 0);
}

#[test]
fn a_pasid_entry_stays_until_it_is_invalidated() {
    let mut bench = Bench::up(Config::second_stage());
    bench.map(0, 0x5000);
    assert_eq!(bench.read_at(0), Ok(0x5000));
    bench.set(bench.pasids, 0);
    bench.context_device(RID);
    bench.iotlb_domain(DOMAIN);
    for (domain, pasid) in [(OTHER, 0), (DOMAIN, 1)] {
        bench.pasid_cache(domain, pasid);
        bench.iotlb_domain(DOMAIN);
        assert_eq!(bench.read_at(0), Ok(0x5000));
    }
    bench.pasid_cache(DOMAIN, 0);
    assert_eq!(bench.read_at(0), Ok(0x5000), "the IOTLB still has it");
    bench.iotlb_domain(DOMAIN);
    assert_eq!(bench.read_at(0), Err(FaultCode::PASID_NOT_PRESENT));
}

#[test]
fn pass_through_goes_by_pasid() {
    let mut bench = Bench::up(Config::second_stage());
    bench.set(bench.pasids, 4 << 6 | 2 << 2 | 1);
    assert_eq!(bench.write_at(0x12_3456), Ok(0x12_3456));
    bench.set(bench.pasids, 0);
    bench.pasid_cache(DOMAIN, 0);
    // Pages of type 6 are the first stage's.
    bench.pasid_iotlb_page(DOMAIN, 0, 0x12_3000, 0);
    bench.iotlb_page(DOMAIN, 0x12_4000, 0);
    bench.iotlb_domain(OTHER);
    assert_eq!(bench.write_at(0x12_3456), Ok(0x12_3456));
    bench.pasid_iotlb(DOMAIN, 0);
    assert_eq!(bench.write_at(0x12_3456), Err(FaultCode::PASID_NOT_PRESENT));
    bench.set(bench.pasids, 4 << 6 | 2 << 2 | 1);
    assert_eq!(bench.write_at(0x12_3456), Ok(0x12_3456));
    bench.set(bench.pasids, 0);
    bench.pasid_cache(DOMAIN, 0);
    bench.iotlb_page(DOMAIN, 0x12_3000, 0);
    assert_eq!(bench.write_at(0x12_3456), Err(FaultCode::PASID_NOT_PRESENT));
}

#[test]
fn what_is_not_present_is_kept_with_caching_mode_only() {
    for caching in [false, true] {
        let config = Config::second_stage();
        let config = if caching { config.caching_mode() } else { config };
        let mut bench = Bench::up(config);
        // A leaf.
        assert_eq!(bench.read_at(0), Err(FaultCode::SECOND_PERMISSION));
        bench.map(0, 0x5000);
        let stale = |code| if caching { Err(code) } else { Ok(0x5000) };
        assert_eq!(bench.read_at(0), stale(FaultCode::SECOND_PERMISSION));
        bench.iotlb_page(DOMAIN, 0, 0);
        assert_eq!(bench.read_at(0), Ok(0x5000));
        // A PASID entry.
        let entry = bench.get(bench.pasids);
        bench.set(bench.pasids, 0);
        bench.pasid_cache(DOMAIN, 0);
        bench.iotlb_domain(DOMAIN);
        assert_eq!(bench.read_at(0), Err(FaultCode::PASID_NOT_PRESENT));
        bench.set(bench.pasids, entry);
        assert_eq!(bench.read_at(0), stale(FaultCode::PASID_NOT_PRESENT));
        // What would fault is tagged with domain id 0.
        bench.pasid_cache(DOMAIN, 0);
        bench.pasid_cache(0, 1);
        assert_eq!(bench.read_at(0), stale(FaultCode::PASID_NOT_PRESENT));
        bench.pasid_cache(0, 0);
        assert_eq!(bench.read_at(0), Ok(0x5000));
        // A context entry.
        let entry = bench.get(bench.context_entry(RID));
        bench.set(bench.context_entry(RID), 0);
        bench.context_device(RID);
        bench.iotlb_domain(DOMAIN);
        assert_eq!(bench.read_at(0), Err(FaultCode::CONTEXT_NOT_PRESENT));
        bench.set(bench.context_entry(RID), entry);
        assert_eq!(bench.read_at(0), stale(FaultCode::CONTEXT_NOT_PRESENT));
        bench.context_device(RID);
        assert_eq!(bench.read_at(0), Ok(0x5000));
        assert_eq!(bench.model.violations(), []);
    }
}

#[test]
fn the_first_stage_never_keeps_what_is_not_present() {
    let bench = Bench::up(Config::first_stage().caching_mode());
    assert_eq!(bench.read_at(0), Err(FaultCode::FIRST_NOT_PRESENT));
    bench.map(0, 0x5000);
    assert_eq!(bench.read_at(0), Ok(0x5000));
}

#[test]
fn a_new_root_drops_the_caches_with_esrtps_only() {
    for (drops, config) in
        [(false, Config::second_stage()), (true, Config::second_stage().cap_bits(Config::CAP_ESRTPS, true))]
    {
        let bench = Bench::up(config);
        bench.map(0, 0x5000);
        assert_eq!(bench.read_at(0), Ok(0x5000));
        bench.set(bench.leaf(0), 0);
        bench.set_root();
        assert_eq!(bench.read_at(0).is_err(), drops);
    }
}

#[test]
fn pasids_of_one_function_are_kept_apart() {
    let mut bench = Bench::up(Config::server());
    bench.map(0, 0x5000);
    // PASID 70: second directory entry, seventh of its table; PASIDE in the context entry.
    let (other, own) = (frame(&bench.memory), bench.pasids);
    for word in 0..8 {
        bench.set(other + 6 * 64 + word * 8, bench.get(own + word * 8));
    }
    bench.set(bench.directory + 8, other | 1);
    assert_eq!(bench.access(RID, Some(70), 0, false), Err(FaultCode::PASID_DISABLED));
    bench.set(bench.context_entry(RID), bench.directory | 1 << 3 | 1);
    bench.context_device(RID);
    assert_eq!((bench.access(RID, Some(70), 0, false), bench.read_at(0)), (Ok(0x5000), Ok(0x5000)));
    bench.set(bench.leaf(0), 0);
    bench.pasid_iotlb(DOMAIN, 70);
    assert_eq!(bench.access(RID, Some(70), 0, false), Err(FaultCode::FIRST_NOT_PRESENT));
    assert_eq!(bench.read_at(0), Ok(0x5000));
}

#[test]
fn in_scalable_mode_contexts_go_by_source_alone() {
    // Global, and by domain id, which is as much; by source id, whatever the domain id.
    for low in [0x11, OTHER << 16 | 2 << 4 | 1, u64::from(RID) << 32 | OTHER << 16 | 3 << 4 | 1] {
        let mut bench = Bench::up(Config::second_stage());
        bench.map(0, 0x5000);
        assert_eq!(bench.read_at(0), Ok(0x5000));
        bench.set(bench.context_entry(RID), 0);
        bench.submit(low, 0);
        bench.iotlb_domain(DOMAIN);
        assert_eq!(bench.read_at(0), Err(FaultCode::CONTEXT_NOT_PRESENT), "{low:#x}");
        assert_eq!(bench.model.violations(), []);
    }
}

#[test]
fn each_granularity_of_the_pasid_cache_covers_what_it_says() {
    // RID_PASID is 70: second table of the directory. What says 0 or another PASID covers nothing.
    for (low, taken) in [
        (0x37, true),
        (DOMAIN << 16 | 7, true),
        (OTHER << 16 | 7, false),
        (70 << 32 | DOMAIN << 16 | 1 << 4 | 7, true),
        (70 << 32 | OTHER << 16 | 1 << 4 | 7, false),
        (DOMAIN << 16 | 1 << 4 | 7, false),
        (71 << 32 | DOMAIN << 16 | 1 << 4 | 7, false),
    ] {
        let mut bench = Bench::up(Config::server());
        bench.map(0, 0x5000);
        let table = frame(&bench.memory);
        for word in 0..8 {
            bench.set(table + 6 * 64 + word * 8, bench.get(bench.pasids + word * 8));
        }
        bench.set(bench.directory + 8, table | 1);
        bench.set(bench.context_entry(RID) + 8, 70);
        assert_eq!(bench.read_at(0), Ok(0x5000));
        // PASID 0 is nothing that this function ever used.
        bench.set(bench.pasids, 0);
        bench.set(table + 6 * 64, 0);
        bench.submit(low, 0);
        bench.pasid_iotlb(DOMAIN, 0);
        assert_eq!(bench.read_at(0), Ok(0x5000));
        bench.pasid_iotlb(DOMAIN, 70);
        let expected = if taken { Err(FaultCode::PASID_NOT_PRESENT) } else { Ok(0x5000) };
        assert_eq!(bench.read_at(0), expected, "{low:#x}");
        assert_eq!(bench.model.violations(), []);
    }
}

#[test]
fn a_directory_entry_is_held_with_what_it_led_to() {
    let mut bench = Bench::up(Config::server());
    bench.map(0, 0x5000);
    assert_eq!(bench.read_at(0), Ok(0x5000));
    bench.set(bench.directory, 0);
    bench.submit(0x11, 0);
    bench.pasid_iotlb(DOMAIN, 0);
    assert_eq!(bench.read_at(0), Ok(0x5000));
    bench.pasid_cache(DOMAIN, 0);
    bench.pasid_iotlb(DOMAIN, 0);
    assert_eq!(bench.read_at(0), Err(FaultCode::DIRECTORY_NOT_PRESENT));
}

#[test]
fn translations_of_nested_entries_go_as_those_of_the_first_stage() {
    // A guest whose tables and pages lie where the second stage maps one to one: leaves of 1 GiB.
    for (low, high, taken) in [
        (0x12, 0, true),
        (DOMAIN << 16 | 2 << 4 | 2, 0, true),
        (OTHER << 16 | 2 << 4 | 2, 0, false),
        // Pages of the second stage take all of the domain.
        (DOMAIN << 16 | 3 << 4 | 2, 0x7000_0000, true),
        (OTHER << 16 | 3 << 4 | 2, 0x3000, false),
        (DOMAIN << 16 | 2 << 4 | 6, 0, true),
        (1 << 32 | DOMAIN << 16 | 2 << 4 | 6, 0, false),
        // Pages of the first stage are those asked for.
        (DOMAIN << 16 | 3 << 4 | 6, 0x3000, true),
        (DOMAIN << 16 | 3 << 4 | 6, 0x4000, false),
        (1 << 32 | DOMAIN << 16 | 3 << 4 | 6, 0x3000, false),
    ] {
        let mut bench = Bench::up(Config::server().ecap_bits(1 << 26, true));
        let (top, third) = (frame(&bench.memory), frame(&bench.memory));
        bench.set(top, third | 3);
        for gigabyte in 0..8 {
            bench.set(third + gigabyte * 8, gigabyte << 30 | 1 << 7 | 3);
        }
        bench.set(bench.pasids + 8, 1 << 23 | DOMAIN);
        bench.set(bench.pasids, top | 3 << 6 | 2 << 2 | 1);
        bench.map(3, 0x5000);
        assert_eq!(bench.read_at(0x3000), Ok(0x5000));
        bench.set(bench.leaf(3), 0);
        bench.submit(low, high);
        let expected = if taken { Err(FaultCode::FIRST_NOT_PRESENT) } else { Ok(0x5000) };
        assert_eq!(bench.read_at(0x3000), expected, "{low:#x} {high:#x}");
        assert_eq!(bench.model.violations(), []);
    }
}

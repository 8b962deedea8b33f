//! Rows of the root pointer, of context, directory and PASID entries, and of domain ids.

use super::*;

#[test]
fn a_new_root_drops_everything_unless_hardware_does() {
    let all = [(CONTEXT_GLOBAL, 0), (PASID_CACHE_GLOBAL, 0), (IOTLB_GLOBAL, 0)];
    assert_eq!(run(0, Change::RootPointer), all);
    assert_eq!(run(ESRTPS, Change::RootPointer), []);
    assert_eq!(planned(&legacy(0), &[Change::RootPointer]).0, [(CONTEXT_GLOBAL, 0), (IOTLB_GLOBAL, 0)]);
}

#[test]
fn a_context_entry_set_is_announced_only_in_caching_mode() {
    let set = Change::ContextSet { source: SOURCE };
    assert_eq!(run(0, set), []);
    assert!(flushes_write_buffer(RWBF, &[set]) && !flushes_write_buffer(0, &[set]));
    assert_eq!(run(CM, set), [(CONTEXT_DEVICE, 0), (PASID_CACHE_DOMAIN_0, 0), (IOTLB_DOMAIN_0, 0)]);
    assert!(!flushes_write_buffer(CM | RWBF, &[set]), "invalidations flush it");
}

#[test]
fn a_context_entry_cleared_drops_its_cached_copy() {
    for more in [0, CM, RWBF, ESRTPS] {
        assert_eq!(run(more, Change::ContextCleared { source: SOURCE }), [(CONTEXT_DEVICE, 0)]);
    }
}

#[test]
fn a_live_context_entry_that_changes_drops_what_was_found_through_it() {
    let changed = |tlb| Change::ContextChanged { source: SOURCE, tlb };
    let expected = [(CONTEXT_DEVICE, 0), (PASID_CACHE_GLOBAL, 0), (IOTLB_GLOBAL, 0)];
    assert_eq!(run(0, changed(None)), expected);
    // The second for every PASID at once: G, bit 0.
    let tlbs = [(DEVICE_TLB, EVERYWHERE_3), (PASID_DEVICE_TLB & !(0xf_ffff << 32), EVERYWHERE_8 | 1)];
    assert_eq!(run(0, changed(Some(TLB))), [&expected[..], &tlbs].concat());
    // ECAP.PASID, bit 40: no PASIDs, none of their translations.
    let without = Capabilities::new(CAP, ECAP & !(1 << 40));
    assert_eq!(planned(&without, &[changed(Some(TLB))]).0, [&expected[..], &tlbs[..1]].concat());
}

#[test]
fn a_legacy_context_entry_set_is_announced_only_in_caching_mode() {
    let set = Change::LegacyContextSet { source: SOURCE, tag: SECOND };
    assert_eq!(planned(&legacy(0), &[set]).0, []);
    assert!(planned(&legacy(RWBF), &[set]).1);
    let expected = [(CONTEXT_DEVICE, 0), (IOTLB_DOMAIN_0, 0), (IOTLB_DOMAIN, 0)];
    assert_eq!(planned(&legacy(CM), &[set]).0, expected);
}

#[test]
fn a_legacy_context_entry_is_dropped_by_the_domain_that_it_led_to() {
    let cleared = |user| Change::LegacyContextCleared { user, tag: SECOND };
    let expected = [(CONTEXT_DEVICE_OF_DOMAIN, 0), (IOTLB_DOMAIN, 0)];
    assert_eq!(planned(&legacy(0), &[cleared(USER)]).0, expected);
    let tlb = [(DEVICE_TLB, EVERYWHERE_3)];
    assert_eq!(planned(&legacy(0), &[cleared(with_tlb(USER))]).0, [&expected[..], &tlb].concat());
}

#[test]
fn a_directory_entry_set_is_announced_only_in_caching_mode() {
    assert_eq!(run(0, Change::DirectoryEntrySet), []);
    assert!(flushes_write_buffer(RWBF, &[Change::DirectoryEntrySet]));
    assert_eq!(run(CM, Change::DirectoryEntrySet), [(PASID_CACHE_DOMAIN_0, 0), (IOTLB_DOMAIN_0, 0)]);
}

#[test]
fn a_directory_entry_cleared_drops_whatever_was_behind_it() {
    let cleared = |tlb| Change::DirectoryEntryCleared { tlb };
    let expected = [(PASID_CACHE_GLOBAL, 0), (IOTLB_GLOBAL, 0)];
    assert_eq!(run(0, cleared(None)), expected);
    let tlbs = [(DEVICE_TLB, EVERYWHERE_3), (PASID_DEVICE_TLB & !(0xf_ffff << 32), EVERYWHERE_8 | 1)];
    assert_eq!(run(0, cleared(Some(TLB))), [&expected[..], &tlbs].concat());
}

#[test]
fn a_pasid_entry_set_is_announced_only_in_caching_mode() {
    for tag in [FIRST, SECOND] {
        let set = |user| Change::PasidEntrySet { user, tag };
        assert_eq!(run(0, set(USER)), []);
        assert!(flushes_write_buffer(RWBF, &[set(USER)]) && !flushes_write_buffer(0, &[set(USER)]));
        let caches = [(PASID_CACHE_ONE_0, 0), (PASID_CACHE_ONE, 0)];
        let translations = [(PASID_IOTLB_ALL_0, 0), (PASID_IOTLB_ALL, 0)];
        assert_eq!(run(CM, set(USER)), [caches, translations].concat());
        let pasid = |all: [(u64, u64); 2]| all.map(|(low, high)| (low | 0x5_4321 << 32, high));
        assert_eq!(run(CM, set(with_pasid(0x5_4321))), [pasid(caches), pasid(translations)].concat());
    }
}

#[test]
fn an_attach_joins_its_rows_in_order() {
    let attach = [Change::ContextSet { source: SOURCE }, Change::PasidEntrySet { user: USER, tag: FIRST }];
    let expected = [
        (CONTEXT_DEVICE, 0),
        (PASID_CACHE_DOMAIN_0, 0),
        (PASID_CACHE_ONE_0, 0),
        (PASID_CACHE_ONE, 0),
        (IOTLB_DOMAIN_0, 0),
        (PASID_IOTLB_ALL_0, 0),
        (PASID_IOTLB_ALL, 0),
    ];
    assert_eq!(run_all(CM, &attach), expected);
    // Whatever order they come in.
    let backwards = run_all(CM, &[attach[1], attach[0]]);
    let kinds = |words: &[(u64, u64)]| words.iter().map(|(low, _)| low & 0xf).collect::<Vec<_>>();
    assert_eq!(kinds(&backwards), [1, 7, 7, 7, 6, 6, 2]);
}

#[test]
fn a_pasid_entry_cleared_drops_pasid_cache_then_iotlb_then_device_tlb() {
    let cleared = |user, tag| Change::PasidEntryCleared { user, tag };
    for more in [0, CM, RWBF, ESRTPS] {
        assert_eq!(run(more, cleared(USER, SECOND)), [(PASID_CACHE_ONE, 0), (IOTLB_DOMAIN, 0)]);
        assert_eq!(run(more, cleared(USER, FIRST)), [(PASID_CACHE_ONE, 0), (PASID_IOTLB_ALL, 0)]);
    }
    let expected = [(PASID_CACHE_ONE, 0), (IOTLB_DOMAIN, 0), (DEVICE_TLB, EVERYWHERE_3)];
    assert_eq!(run(0, cleared(with_tlb(USER), SECOND)), expected);
    let pasid = 0x5_4321 << 32;
    let expected = [(PASID_CACHE_ONE | pasid, 0), (PASID_IOTLB_ALL | pasid, 0), (PASID_DEVICE_TLB, EVERYWHERE_8)];
    assert_eq!(run(0, cleared(with_tlb(with_pasid(0x5_4321)), FIRST)), expected);
    let expected = [(PASID_CACHE_ONE | pasid, 0), (IOTLB_DOMAIN, 0), (PASID_DEVICE_TLB, EVERYWHERE_8)];
    assert_eq!(run(0, cleared(with_tlb(with_pasid(0x5_4321)), SECOND)), expected);
}

#[test]
fn a_detach_joins_its_rows_in_order() {
    let detach = |tag| [Change::PasidEntryCleared { user: USER, tag }, Change::ContextCleared { source: SOURCE }];
    assert_eq!(run_all(0, &detach(SECOND)), [(CONTEXT_DEVICE, 0), (PASID_CACHE_ONE, 0), (IOTLB_DOMAIN, 0)]);
    assert_eq!(run_all(0, &detach(FIRST)), [(CONTEXT_DEVICE, 0), (PASID_CACHE_ONE, 0), (PASID_IOTLB_ALL, 0)]);
}

#[test]
fn another_field_of_a_live_pasid_entry_drops_what_the_pasid_has() {
    let changed = |user, tag| Change::PasidEntryChanged { user, tag };
    for tag in [FIRST, SECOND] {
        assert_eq!(run(0, changed(USER, tag)), [(PASID_CACHE_ONE, 0), (PASID_IOTLB_ALL, 0)]);
        let expected = [(PASID_CACHE_ONE, 0), (PASID_IOTLB_ALL, 0), (DEVICE_TLB, EVERYWHERE_3)];
        assert_eq!(run(0, changed(with_tlb(USER), tag)), expected);
    }
}

#[test]
fn accessed_and_dirty_bits_switched_drop_entries_and_translations_of_every_domain_id() {
    let change = |of: &[(Tag, User)]| run(0, Change::AccessDirtyChanged { users: &users(of) });
    assert_eq!(change(&[]), []);
    assert_eq!(change(&[(SECOND, USER)]), [(PASID_CACHE_ONE, 0), (IOTLB_DOMAIN, 0)]);
    let one = [(SECOND, with_tlb(with_pasid(0x5_4321)))];
    let pasid = 0x5_4321 << 32;
    let expected = [(PASID_CACHE_ONE | pasid, 0), (IOTLB_DOMAIN, 0), (PASID_DEVICE_TLB, EVERYWHERE_8)];
    assert_eq!(change(&one), expected);
    // Several: one for the domain in place of one for each.
    let several = [(SECOND, USER), (SECOND, with_pasid(3)), (SECOND, with_tlb(with_pasid(0x5_4321)))];
    let expected = [(PASID_CACHE_DOMAIN, 0), (IOTLB_DOMAIN, 0), (PASID_DEVICE_TLB, EVERYWHERE_8)];
    assert_eq!(change(&several), expected);
    let many: Vec<_> = (1..=9).map(|pasid| (Tag::Domain(pasid), with_pasid(1))).collect();
    let expected = (1..=9).map(|id| (7 | id << 16, 0)).chain((1..=9).map(|id| (IOTLB_DOMAIN_0 | id << 16, 0)));
    assert_eq!(change(&many), expected.collect::<Vec<_>>());
    // SSADE is the second stage's, whoever leads through it.
    let nested = [(SECOND, USER), (NESTED, with_pasid(3))];
    let nested_cache = 7 | 1 << 4 | 0x2345 << 16 | 3 << 32;
    assert_eq!(change(&nested), [(PASID_CACHE_ONE, 0), (nested_cache, 0), (IOTLB_DOMAIN, 0), (IOTLB_NESTED, 0)]);
}

#[test]
fn a_retired_domain_leaves_nothing_under_its_id() {
    assert_eq!(run(0, Change::DomainRetired { tag: SECOND }), [(PASID_CACHE_DOMAIN, 0), (IOTLB_DOMAIN, 0)]);
    assert_eq!(run(0, Change::DomainRetired { tag: FIRST }), [(PASID_CACHE_DOMAIN, 0), (IOTLB_DOMAIN, 0)]);
    let retired = planned(&legacy(0), &[Change::DomainRetired { tag: SECOND }]).0;
    assert_eq!(retired, [(CONTEXT_DOMAIN, 0), (IOTLB_DOMAIN, 0)]);
}

#[test]
fn draining_is_asked_for_only_where_it_exists() {
    for (bits, drain) in [(0, 0), (1 << 54, 1 << 6), (1 << 55, 1 << 7)] {
        let some = Capabilities::new(CAP & !(3 << 54) | bits, ECAP);
        let (words, _) = planned(&some, &[Change::DomainRetired { tag: SECOND }]);
        assert_eq!(words[1].0, IOTLB_DOMAIN & !DRAIN | drain);
    }
}

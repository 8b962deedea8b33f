//! Every row of the transition table, as raw descriptor words worked out from the specification's bit numbers.

use super::*;
use iommu_core::addr::Iova;

const CAP: u64 = 0x00d2_008c_222f_0606;
const ECAP: u64 = 0x0000_4800_80f0_0f4a;
/// DW and DR, bits 6 and 7: the capabilities above report both.
const DRAIN: u64 = 0b11 << 6;
const DID: u16 = 0x1234;
const SECOND: Tag = Tag::Domain(DID);
const FIRST: Tag = Tag::DomainAndPasid(DID);

const CONTEXT_GLOBAL: u64 = 1 | 1 << 4;
const CONTEXT_DEVICE: u64 = 1 | 3 << 4 | 0x0abc << 32;
const PASID_CACHE_GLOBAL: u64 = 7 | 3 << 4;
const PASID_CACHE_ONE: u64 = 7 | 1 << 4 | 0x1234 << 16;
const PASID_CACHE_DOMAIN: u64 = 7 | 0x1234 << 16;
const IOTLB_GLOBAL: u64 = 2 | 1 << 4 | DRAIN;
const IOTLB_DOMAIN: u64 = 2 | 2 << 4 | DRAIN | 0x1234 << 16;
const IOTLB_DOMAIN_0: u64 = 2 | 2 << 4 | DRAIN;
const IOTLB_PAGES: u64 = 2 | 3 << 4 | DRAIN | 0x1234 << 16;
const PASID_IOTLB_ALL: u64 = 6 | 2 << 4 | 0x1234 << 16;
const PASID_IOTLB_PAGES: u64 = 6 | 3 << 4 | 0x1234 << 16;

fn caps(more: u64) -> Capabilities {
    Capabilities::new(CAP | more, ECAP)
}

fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::from_len(Iova::new(start), len).unwrap()
}

/// The first two words of each descriptor of `changes`; the others must be zero. And whether the write buffer is flushed.
fn planned(caps: &Capabilities, changes: &[Change<'_>]) -> (alloc::vec::Vec<(u64, u64)>, bool) {
    let mut words = alloc::vec::Vec::new();
    let mut submit = |batch: &[Invalidation]| {
        words.extend(batch.iter().map(|invalidation| {
            let descriptor = crate::queue::encode(invalidation).unwrap().0;
            assert_eq!(descriptor[2..], [0, 0]);
            (descriptor[0], descriptor[1])
        }));
        Ok(())
    };
    let mut batch = Batch::new(&mut submit);
    let buffered = changes.iter().fold(false, |some, change| plan(caps, change, &mut batch) | some);
    let submitted = batch.finish().unwrap();
    (words, buffered && !submitted)
}

fn run_all(more: u64, changes: &[Change<'_>]) -> alloc::vec::Vec<(u64, u64)> {
    planned(&caps(more), changes).0
}

fn run(more: u64, change: Change<'_>) -> alloc::vec::Vec<(u64, u64)> {
    run_all(more, &[change])
}

fn flushes_write_buffer(more: u64, changes: &[Change<'_>]) -> bool {
    planned(&caps(more), changes).1
}

const SOURCE: RequesterId = RequesterId::new(0xabc);
/// Requests without PASID.
const USER: User = User { source: SOURCE, pasid: None, index: 0, tlb: None };

fn one_user() -> Users {
    let mut users = Users::new();
    users.add(Seat::new(USER).unwrap());
    users
}

const CM: u64 = 1 << 7;
const RWBF: u64 = 1 << 4;
const ESRTPS: u64 = 1 << 63;

#[test]
fn a_new_root_drops_everything_unless_hardware_does() {
    let all = [(CONTEXT_GLOBAL, 0), (PASID_CACHE_GLOBAL, 0), (IOTLB_GLOBAL, 0)];
    assert_eq!(run(0, Change::RootPointer), all);
    assert_eq!(run(ESRTPS, Change::RootPointer), []);
}

#[test]
fn attach_invalidates_only_in_caching_mode() {
    let attach = |tag| [Change::ContextSet { source: SOURCE }, Change::PasidEntrySet { user: USER, tag }];
    assert_eq!(run_all(0, &attach(SECOND)), []);
    let expected = [(CONTEXT_DEVICE, 0), (PASID_CACHE_ONE, 0), (IOTLB_DOMAIN_0, 0), (PASID_IOTLB_ALL, 0)];
    assert_eq!(run_all(CM, &attach(SECOND)), expected);
    assert_eq!(run_all(CM, &attach(FIRST)), expected);
    assert!(flushes_write_buffer(RWBF, &attach(FIRST)));
    assert!(!flushes_write_buffer(0, &attach(FIRST)));
}

#[test]
fn detach_drops_context_then_pasid_then_iotlb() {
    let detach = |tag| [Change::ContextCleared { source: SOURCE }, Change::PasidEntryCleared { user: USER, tag }];
    for more in [0, CM, RWBF, ESRTPS] {
        assert_eq!(run_all(more, &detach(SECOND)), [(CONTEXT_DEVICE, 0), (PASID_CACHE_ONE, 0), (IOTLB_DOMAIN, 0)]);
        assert_eq!(run_all(more, &detach(FIRST)), [(CONTEXT_DEVICE, 0), (PASID_CACHE_ONE, 0), (PASID_IOTLB_ALL, 0)]);
    }
}

#[test]
fn a_pasid_entry_cleared_drops_pasid_cache_then_iotlb() {
    assert_eq!(
        run(0, Change::PasidEntryCleared { user: USER, tag: SECOND }),
        [(PASID_CACHE_ONE, 0), (IOTLB_DOMAIN, 0)]
    );
    assert_eq!(
        run(0, Change::PasidEntryCleared { user: USER, tag: FIRST }),
        [(PASID_CACHE_ONE, 0), (PASID_IOTLB_ALL, 0)]
    );
}

#[test]
fn a_pasid_entry_set_invalidates_only_in_caching_mode() {
    assert_eq!(run(0, Change::PasidEntrySet { user: USER, tag: SECOND }), []);
    assert_eq!(
        run(CM, Change::PasidEntrySet { user: USER, tag: SECOND }),
        [(PASID_CACHE_ONE, 0), (PASID_IOTLB_ALL, 0)]
    );
    assert!(flushes_write_buffer(RWBF, &[Change::PasidEntrySet { user: USER, tag: SECOND }]));
}

#[test]
fn maps_invalidate_the_second_stage_in_caching_mode_with_upper_levels() {
    let map = |tag| Change::Mapped { tag, range: range(0x5000, 0x1000) };
    assert_eq!(run(0, map(SECOND)), []);
    // IH = 0: bit 6 of the second word is clear.
    assert_eq!(run(CM, map(SECOND)), [(IOTLB_PAGES, 0x5000)]);
    assert_eq!(run(CM, map(FIRST)), []);
    assert!(flushes_write_buffer(RWBF, &[map(SECOND)]));
    assert!(flushes_write_buffer(RWBF | CM, &[map(FIRST)]));
}

#[test]
fn unmap_drops_the_covering_block_and_upper_levels_only_where_tables_went() {
    let users = one_user();
    let mut gather = Gather::new();
    gather.add_leaves(range(0x3000, 0x2000), 0);
    // Pages 3 and 4 share no block smaller than eight pages. IH = 1.
    let block = 3 | 1 << 6;
    assert_eq!(run(0, Change::Unmapped { tag: SECOND, users: &users, gather: &gather }), [(IOTLB_PAGES, block)]);
    assert_eq!(run(0, Change::Unmapped { tag: FIRST, users: &users, gather: &gather }), [(PASID_IOTLB_PAGES, block)]);
    gather.add_table(range(0x20_0000, 0x20_0000), 0);
    // The first range still lost leaves only.
    let expected = [(IOTLB_PAGES, block), (IOTLB_PAGES, 0x20_0000 | 9)];
    assert_eq!(run(0, Change::Unmapped { tag: SECOND, users: &users, gather: &gather }), expected);
    gather.add_everything();
    assert_eq!(run(0, Change::Unmapped { tag: SECOND, users: &users, gather: &gather }), [(IOTLB_DOMAIN, 0)]);
    assert_eq!(run(0, Change::Unmapped { tag: FIRST, users: &users, gather: &gather }), [(PASID_IOTLB_ALL, 0)]);
}

#[test]
fn blocks_beyond_mamv_or_units_without_psi_drop_the_domain() {
    let users = one_user();
    let mut gather = Gather::new();
    // MAMV is 18: a block of 2^18 pages is 1 GiB, and one page more needs 2 GiB.
    gather.add_leaves(range(0x4000_0000, 0x4000_0000), 2);
    let change = Change::Unmapped { tag: SECOND, users: &users, gather: &gather };
    assert_eq!(run(0, change), [(IOTLB_PAGES, 0x4000_0000 | 1 << 6 | 18)]);
    let no_psi = Capabilities::new(CAP & !(1 << 39), ECAP);
    assert_eq!(planned(&no_psi, &[change]).0, [(IOTLB_DOMAIN, 0)]);
    // However many ranges there are, one that needs the whole domain makes the others unnecessary.
    let mut wide = Gather::new();
    wide.add_leaves(range(0x1000, 0x1000), 0);
    wide.add_leaves(range(0x3fff_f000, 0x2000), 0);
    wide.add_leaves(range(0x7fff_f000, 0x2000), 0);
    assert_eq!(run(0, Change::Unmapped { tag: SECOND, users: &users, gather: &wide }), [(IOTLB_DOMAIN, 0)]);
}

#[test]
fn a_block_of_everything_is_everything() {
    let all = Capabilities::new(CAP | 0x3f << 48, ECAP);
    let change = Change::Mapped { tag: SECOND, range: IovaRange::FULL };
    assert_eq!(planned(&Capabilities::new(all.cap() | CM, ECAP), &[change]).0, [(IOTLB_DOMAIN, 0)]);
}

#[test]
fn every_range_of_a_full_gather_is_covered() {
    let users = one_user();
    let mut gather = Gather::new();
    (0..20).for_each(|n| gather.add_leaves(range(n << 30, 0x1000), 0));
    let plan = run(0, Change::Unmapped { tag: SECOND, users: &users, gather: &gather });
    let domain = plan.iter().any(|(low, _)| *low == IOTLB_DOMAIN);
    let pages = |page: u64| {
        plan.iter().any(|(_, high)| {
            let mask = 12 + (high & 0x3f);
            page >> mask == high >> mask
        })
    };
    assert!(domain || (0..20).all(|n| pages(n << 30)));
}

#[test]
fn a_retired_domain_leaves_nothing_under_its_id() {
    assert_eq!(run(0, Change::DomainRetired { tag: SECOND }), [(PASID_CACHE_DOMAIN, 0), (IOTLB_DOMAIN, 0)]);
    // What is cached by PASID went with its users.
    assert_eq!(run(0, Change::DomainRetired { tag: FIRST }), [(PASID_CACHE_DOMAIN, 0), (IOTLB_DOMAIN, 0)]);
}

#[test]
fn draining_is_asked_for_only_where_it_exists() {
    let none = Capabilities::new(CAP & !(3 << 54), ECAP);
    let (words, _) = planned(&none, &[Change::DomainRetired { tag: SECOND }]);
    assert_eq!(words[1].0, IOTLB_DOMAIN & !DRAIN);
}

#[test]
fn a_live_context_entry_that_changes_drops_what_was_found_through_it() {
    let changed = Change::ContextChanged { source: SOURCE, tlb: None };
    assert_eq!(run(0, changed), [(CONTEXT_DEVICE, 0), (PASID_CACHE_GLOBAL, 0)]);
}

#[test]
fn legacy_entries_are_dropped_by_the_domain_that_they_led_to() {
    // SMTS, bit 43, is clear.
    let legacy = |more| Capabilities::new(CAP | more, ECAP & !(1 << 43));
    let set = Change::LegacyContextSet { source: SOURCE, tag: SECOND };
    assert_eq!(planned(&legacy(0), &[set]).0, []);
    assert!(planned(&legacy(RWBF), &[set]).1);
    assert_eq!(planned(&legacy(CM), &[set]).0, [(CONTEXT_DEVICE, 0), (IOTLB_DOMAIN, 0)]);
    let mut domains = alloc::vec::Vec::new();
    let mut submit = |batch: &[Invalidation]| {
        domains.extend_from_slice(batch);
        Ok(())
    };
    let mut batch = Batch::new(&mut submit);
    plan(&legacy(0), &Change::LegacyContextCleared { user: USER, tag: SECOND }, &mut batch);
    batch.finish().unwrap();
    let scope = ContextScope::Device { domain: DID, source: SOURCE };
    let drain = Drain { writes: true, reads: true };
    let iotlb = Invalidation::Iotlb { scope: IotlbScope::Domain(DID), drain };
    assert_eq!(domains, [Invalidation::ContextCache(scope), iotlb]);
    assert_eq!(planned(&legacy(0), &[Change::DomainRetired { tag: SECOND }]).0, [(IOTLB_DOMAIN, 0)]);
    assert_eq!(planned(&legacy(0), &[Change::RootPointer]).0, [(CONTEXT_GLOBAL, 0), (IOTLB_GLOBAL, 0)]);
}

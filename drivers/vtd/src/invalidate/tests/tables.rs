//! Rows of page tables: ours of either stage, ours below a guest's, and a guest's.

use super::*;

#[test]
fn maps_are_announced_in_caching_mode_of_the_second_stage_with_upper_levels() {
    let here = users(&[(SECOND, USER)]);
    let map = |tag| Change::Mapped { tag, users: &here, range: range(0x5000, 0x1000) };
    assert_eq!(run(0, map(SECOND)), []);
    // IH = 0.
    assert_eq!(run(CM, map(SECOND)), [(IOTLB_PAGES, 0x5000)]);
    assert_eq!(planned(&legacy(CM), &[map(SECOND)]).0, [(IOTLB_PAGES, 0x5000)]);
    assert!(flushes_write_buffer(RWBF, &[map(SECOND)]) && !flushes_write_buffer(0, &[map(SECOND)]));
    let here = users(&[(FIRST, USER)]);
    let map = Change::Mapped { tag: FIRST, users: &here, range: range(0x5000, 0x1000) };
    assert_eq!(run(CM, map), []);
    assert!(flushes_write_buffer(RWBF | CM, &[map]));
    // Nobody was refused for lack of it.
    let map = Change::Mapped { tag: SECOND, users: &Users::new(), range: range(0x5000, 0x1000) };
    assert_eq!(run(CM, map), []);
    assert!(flushes_write_buffer(RWBF | CM, &[map]));
    // Those of a first stage on top were refused under its own domain id.
    let here = users(&[(SECOND, USER), (NESTED, with_pasid(3))]);
    let map = Change::Mapped { tag: SECOND, users: &here, range: range(0x5000, 0x1000) };
    assert_eq!(run(CM, map), [(IOTLB_PAGES, 0x5000), (IOTLB_NESTED_PAGES, 0x5000)]);
}

#[test]
fn an_unmap_drops_the_covering_block_and_upper_levels_only_where_tables_went() {
    let (one, other) = ([(SECOND, USER)], [(FIRST, USER)]);
    let mut gather = gather(&[(0x3000, 0x2000)]);
    // Pages 3 and 4 share no block smaller than eight pages.
    let block = 3 | LEAVES;
    assert_eq!(unmap(SECOND, &one, &gather), [(IOTLB_PAGES, block)]);
    assert_eq!(unmap(FIRST, &other, &gather), [(PASID_IOTLB_PAGES, block)]);
    gather.add_table(range(0x20_0000, 0x20_0000), 0);
    // The first range still lost leaves only.
    assert_eq!(unmap(SECOND, &one, &gather), [(IOTLB_PAGES, block), (IOTLB_PAGES, 0x20_0000 | 9)]);
    assert_eq!(unmap(FIRST, &other, &gather), [(PASID_IOTLB_PAGES, block), (PASID_IOTLB_PAGES, 0x20_0000 | 9)]);
    gather.add_everything();
    assert_eq!(unmap(SECOND, &one, &gather), [(IOTLB_DOMAIN, 0)]);
    assert_eq!(unmap(FIRST, &other, &gather), [(PASID_IOTLB_ALL, 0)]);
}

#[test]
fn nothing_is_cached_of_what_nobody_leads_to() {
    let gather = gather(&[(0x3000, 0x1000)]);
    for tag in [FIRST, SECOND] {
        assert_eq!(unmap(tag, &[], &gather), []);
        let nobody = Users::new();
        assert!(flushes_write_buffer(RWBF, &[Change::Unmapped { tag, users: &nobody, gather: &gather }]));
    }
}

#[test]
fn a_contiguous_gibibyte_is_one_block() {
    let mut gather = Gather::new();
    (0..512).for_each(|n| gather.add_leaves(range((512 + n) << 21, 1 << 21), 1));
    // AM = 18.
    assert_eq!(unmap(SECOND, &[(SECOND, USER)], &gather), [(IOTLB_PAGES, 0x4000_0000 | LEAVES | 18)]);
    assert_eq!(unmap(FIRST, &[(FIRST, USER)], &gather), [(PASID_IOTLB_PAGES, 0x4000_0000 | LEAVES | 18)]);
}

#[test]
fn blocks_beyond_mamv_or_units_without_psi_drop_the_domain() {
    let here = users(&[(SECOND, USER)]);
    // MAMV is 18: a block of 2^18 pages is 1 GiB, and one page more needs 2 GiB.
    let gib = gather(&[(0x4000_0000, 0x4000_0000)]);
    let change = Change::Unmapped { tag: SECOND, users: &here, gather: &gib };
    // CAP.PSI, bit 39.
    let no_psi = Capabilities::new(CAP & !(1 << 39), ECAP);
    assert_eq!(planned(&no_psi, &[change]).0, [(IOTLB_DOMAIN, 0)]);
    // However many ranges there are, one that needs the whole domain makes the others unnecessary.
    let wide = gather(&[(0x1000, 0x1000), (0x3fff_f000, 0x2000), (0x7fff_f000, 0x2000)]);
    assert_eq!(unmap(SECOND, &[(SECOND, USER)], &wide), [(IOTLB_DOMAIN, 0)]);
    // Those by PASID have no such limit, on any unit: 2^19 and 2^20 pages.
    let first = users(&[(FIRST, USER)]);
    let change = Change::Unmapped { tag: FIRST, users: &first, gather: &wide };
    let expected = [0x1000 | LEAVES, LEAVES | 19, LEAVES | 20].map(|high| (PASID_IOTLB_PAGES, high));
    assert_eq!(planned(&no_psi, &[change]).0, expected);
}

#[test]
fn blocks_that_some_units_count_wrongly_drop_the_pasid() {
    // Two pages on both sides of an address: 2^30 pages around 2 TiB, 2^31 around 4 TiB, 2^33 around 16 TiB.
    let around = |bits: u32| gather(&[((1 << bits) - 0x1000, 0x2000)]);
    assert_eq!(unmap(FIRST, &[(FIRST, USER)], &around(41)), [(PASID_IOTLB_PAGES, LEAVES | 30)]);
    assert_eq!(unmap(FIRST, &[(FIRST, USER)], &around(42)), [(PASID_IOTLB_ALL, 0)]);
    assert_eq!(unmap(FIRST, &[(FIRST, USER)], &around(44)), [(PASID_IOTLB_ALL, 0)]);
    // A guest's own request, too.
    let here = users(&[(NESTED, with_pasid(3))]);
    let wide = Some(range((1 << 44) - 0x1000, 0x2000));
    let change = Change::GuestChanged { tag: NESTED, users: &here, range: wide, leaves_only: true };
    let words = run(0, change);
    assert!(words.len() == 1 && words[0].1 == 0, "{words:x?}");
}

#[test]
fn a_block_of_everything_is_everything() {
    let here = users(&[(SECOND, USER)]);
    // MAMV has all its bits set.
    let caps = Capabilities::new(CAP | 0x3f << 48 | CM, ECAP);
    let change = Change::Mapped { tag: SECOND, users: &here, range: IovaRange::FULL };
    assert_eq!(planned(&caps, &[change]).0, [(IOTLB_DOMAIN, 0)]);
    let mut all = Gather::new();
    all.add_leaves(IovaRange::FULL, 0);
    assert_eq!(unmap(FIRST, &[(FIRST, USER)], &all), [(PASID_IOTLB_ALL, 0)]);
}

#[test]
fn every_range_of_a_full_gather_is_covered() {
    let ranges: [(u64, u64); 20] = core::array::from_fn(|n| ((n as u64) << 30, 0x1000));
    let plan = unmap(SECOND, &[(SECOND, USER)], &gather(&ranges));
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
fn every_pasid_of_a_first_stage_has_translations_of_its_own() {
    let pasids: Vec<_> = (1..=8).map(|pasid| (FIRST, with_pasid(pasid))).collect();
    let page = gather(&[(0x5000, 0x1000)]);
    let expected: Vec<_> = (1..=8).map(|pasid| (PASID_IOTLB_PAGES | pasid << 32, 0x5000 | LEAVES)).collect();
    assert_eq!(unmap(FIRST, &pasids, &page), expected);
    // The same PASID of two functions is tagged alike.
    let other = User { source: RequesterId::new(0xabd), ..with_pasid(1) };
    assert_eq!(unmap(FIRST, &[(FIRST, with_pasid(1)), (FIRST, other)], &page), expected[..1]);
    // Two ranges of four PASIDs are eight; of five they are ten, and the domain is one.
    let two = gather(&[(0x5000, 0x1000), (0x9000, 0x1000)]);
    assert_eq!(unmap(FIRST, &pasids[..4], &two).len(), 8);
    assert_eq!(unmap(FIRST, &pasids[..5], &two), [(IOTLB_DOMAIN, 0)]);
    let many: Vec<_> = (1..=9).map(|pasid| (FIRST, with_pasid(pasid))).collect();
    assert_eq!(unmap(FIRST, &many, &page), [(IOTLB_DOMAIN, 0)]);
    // Without draining of its own it is no match for those by PASID, which always drain.
    let undrained = Capabilities::new(CAP & !(1 << 55), ECAP);
    let here = users(&many);
    let change = Change::Unmapped { tag: FIRST, users: &here, gather: &page };
    let expected: Vec<_> = (1..=9).map(|pasid| (PASID_IOTLB_ALL | pasid << 32, 0)).collect();
    assert_eq!(planned(&undrained, &[change]).0, expected);
}

#[test]
fn device_tlbs_forget_the_same_after_the_iotlb() {
    let both = |tag| [(tag, with_tlb(USER)), (tag, with_tlb(with_pasid(0x5_4321)))];
    let mut pages = gather(&[(0x5000, 0x1000), (0x8000, 0x8000)]);
    // One page: S = 0. Eight pages: S, and the two lowest bits of the address set, the third clear.
    let tlbs = [
        (DEVICE_TLB, 0x5000),
        (DEVICE_TLB, 0x8000 | 0x3000 | 1),
        (PASID_DEVICE_TLB, 0x5000),
        (PASID_DEVICE_TLB, 0x8000 | 0x3000 | 1 << 11),
    ];
    let iotlb = [(IOTLB_PAGES, 0x5000 | LEAVES), (IOTLB_PAGES, 0x8000 | LEAVES | 3)];
    assert_eq!(unmap(SECOND, &both(SECOND), &pages), [&iotlb[..], &tlbs].concat());
    let by_pasid = |pasid: u64| iotlb.map(|(_, high)| (PASID_IOTLB_PAGES | pasid << 32, high));
    let expected = [&by_pasid(0)[..], &by_pasid(0x5_4321), &tlbs].concat();
    assert_eq!(unmap(FIRST, &both(FIRST), &pages), expected);
    pages.add_everything();
    let expected = [(IOTLB_DOMAIN, 0), (DEVICE_TLB, EVERYWHERE_3), (PASID_DEVICE_TLB, EVERYWHERE_8)];
    assert_eq!(unmap(SECOND, &both(SECOND), &pages), expected);
    // Nobody else is asked.
    assert_eq!(unmap(SECOND, &[(SECOND, USER)], &pages), [(IOTLB_DOMAIN, 0)]);
}

#[test]
fn a_change_below_a_guest_takes_its_domain_id_and_all_of_its_device_tlbs() {
    let child = [(NESTED, with_tlb(with_pasid(0x5_4321)))];
    let page = gather(&[(0x5000, 0x1000)]);
    // Nobody leads to the domain itself.
    // All of it: hardware drains by the guest's addresses, which are not those of the change.
    let expected = [(IOTLB_NESTED, 0), (PASID_DEVICE_TLB, EVERYWHERE_8)];
    assert_eq!(unmap(SECOND, &child, &page), expected);
    let two = gather(&[(0x5000, 0x1000), (0x9000, 0x1000)]);
    let family = [child[0], (NESTED, with_pasid(4)), (SECOND, USER)];
    let expected = [
        (IOTLB_PAGES, 0x5000 | LEAVES),
        (IOTLB_PAGES, 0x9000 | LEAVES),
        (IOTLB_NESTED, 0),
        (PASID_DEVICE_TLB, EVERYWHERE_8),
    ];
    assert_eq!(unmap(SECOND, &family, &two), expected);
    let mut all = Gather::new();
    all.add_everything();
    assert_eq!(unmap(SECOND, &child, &all), [(IOTLB_NESTED, 0), (PASID_DEVICE_TLB, EVERYWHERE_8)]);
    let no_psi = Capabilities::new(CAP & !(1 << 39), ECAP);
    let here = users(&child);
    let change = Change::Unmapped { tag: SECOND, users: &here, gather: &page };
    assert_eq!(planned(&no_psi, &[change]).0, [(IOTLB_NESTED, 0), (PASID_DEVICE_TLB, EVERYWHERE_8)]);
}

#[test]
fn a_guest_reaches_its_own_users_and_nobody_elses() {
    let here = users(&[
        (SECOND, with_tlb(USER)),
        (NESTED, with_tlb(with_pasid(0x5_4321))),
        (Tag::Domain(0x3456), with_tlb(with_pasid(7))),
    ]);
    let change = |range, leaves_only| run(0, Change::GuestChanged { tag: NESTED, users: &here, range, leaves_only });
    let pasid = 0x5_4321 << 32;
    let page = range(0x5000, 0x1000);
    let expected = [(PASID_IOTLB_NESTED_PAGES | pasid, 0x5000 | LEAVES), (PASID_DEVICE_TLB, 0x5000)];
    assert_eq!(change(Some(page), true), expected);
    let expected = [(PASID_IOTLB_NESTED_PAGES | pasid, 0x5000), (PASID_DEVICE_TLB, 0x5000)];
    assert_eq!(change(Some(page), false), expected);
    let all = [(6 | 2 << 4 | 0x2345 << 16 | pasid, 0), (PASID_DEVICE_TLB, EVERYWHERE_8)];
    assert_eq!(change(None, true), all);
    assert_eq!(change(Some(IovaRange::FULL), true), all);
    // Many users of one guest: no more than one for its domain id.
    let many: Vec<_> = (1..=9).map(|pasid| (NESTED, with_pasid(pasid))).collect();
    let here = users(&many);
    let change = Change::GuestChanged { tag: NESTED, users: &here, range: Some(page), leaves_only: true };
    assert_eq!(run(0, change), [(IOTLB_NESTED, 0)]);
    let nobody = Users::new();
    let change = Change::GuestChanged { tag: NESTED, users: &nobody, range: None, leaves_only: true };
    assert_eq!(run(0, change), []);
}

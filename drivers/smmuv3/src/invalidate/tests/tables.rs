//! Rows about translation tables.

use super::*;
use alloc::vec;

#[test]
fn a_map_needs_nothing() {
    assert_eq!(run(Change::Mapped), [] as [Words; 0]);
}

#[test]
fn leaves_of_one_level_are_named_with_it() {
    // One page, one large leaf, one huge one, a whole GiB of pages.
    let page = [[TLBI_NH_VA, 0x3000 | LEAF | TG_4K | ttl(3)]];
    assert_eq!(unmapped(1, FIRST, &gather(&[(0x3000, K4)], 0)), page);
    let large = [[TLBI_S2_IPA | scale(9), (7 * M2) | LEAF | TG_4K | ttl(2)]];
    assert_eq!(unmapped(1, SECOND, &gather(&[(7 * M2, M2)], 1)), large);
    let huge = [[TLBI_S2_IPA | num(2) | scale(18), (5 * G1) | LEAF | TG_4K | ttl(1)]];
    assert_eq!(unmapped(1, SECOND, &gather(&[(5 * G1, 3 * G1)], 2)), huge);
    let pages = [[TLBI_NH_VA | scale(18), G1 | LEAF | TG_4K | ttl(3)]];
    assert_eq!(unmapped(1, FIRST, &gather(&[(G1, G1)], 0)), pages);
}

#[test]
fn other_granules_count_in_their_own_pages() {
    let one = |page_bits: u8, level: u8, start: u64, len: u64| {
        let users = users(&[(user(STREAM, None, false), FIRST)]);
        unmapped_for(&caps(0, 1), &users, FIRST, page_bits, &gather(&[(start, len)], level))
    };
    // TG is 2 for 16 KiB, whose blocks have 32 MiB, and 3 for 64 KiB, whose blocks have 512 MiB.
    let (tg_16k, tg_64k) = (2 << 10, 3 << 10);
    assert_eq!(one(14, 0, 0x4000, 0x4000), [[TLBI_NH_VA, 0x4000 | LEAF | tg_16k | ttl(3)]]);
    assert_eq!(one(14, 1, 1 << 25, 1 << 25), [[TLBI_NH_VA | scale(11), 1 << 25 | LEAF | tg_16k | ttl(2)]]);
    assert_eq!(one(16, 0, 0x3_0000, 0x3_0000), [[TLBI_NH_VA | num(2), 0x3_0000 | LEAF | tg_64k | ttl(3)]]);
    assert_eq!(one(16, 1, 1 << 29, 1 << 29), [[TLBI_NH_VA | scale(13), 1 << 29 | LEAF | tg_64k | ttl(2)]]);
}

#[test]
fn mixed_levels_and_tables_are_not_named() {
    let mut mixed = gather(&[(M2, M2)], 1);
    mixed.add_leaves(range(2 * M2, 2 * K4), 0);
    // 514 pages: 2, then 512.
    let expected = [[TLBI_NH_VA | scale(1), M2 | LEAF | TG_4K], [TLBI_NH_VA | scale(9), (M2 + 2 * K4) | LEAF | TG_4K]];
    assert_eq!(unmapped(1, FIRST, &mixed), expected);
    // A table went: neither a level nor Leaf.
    let mut tables = gather(&[(M2, M2)], 0);
    tables.add_table(range(M2, M2), 0);
    assert_eq!(unmapped(1, SECOND, &tables), [[TLBI_S2_IPA | scale(9), M2 | TG_4K]]);
    // A lone page without a level is not a range.
    let mut lone = gather(&[(M2, 33 * K4)], 0);
    lone.add_table(range(M2, K4), 0);
    assert_eq!(unmapped(1, SECOND, &lone), [[TLBI_S2_IPA, M2], [TLBI_S2_IPA | scale(5), (M2 + K4) | TG_4K]]);
}

#[test]
fn without_ranges_each_leaf_has_a_command() {
    let pages: Vec<Words> = (0..5).map(|page| [TLBI_NH_VA, 0x3000 + page * K4 + LEAF]).collect();
    assert_eq!(unmapped(0, FIRST, &gather(&[(0x3000, 5 * K4)], 0)), pages);
    let large: Vec<Words> = (0..3).map(|leaf| [TLBI_S2_IPA, M2 + leaf * M2 + LEAF]).collect();
    assert_eq!(unmapped(0, SECOND, &gather(&[(M2, 3 * M2)], 1)), large);
    let mut tables = gather(&[(0, 2 * G1)], 2);
    tables.add_table(range(0, 2 * G1), 1);
    assert_eq!(unmapped(0, SECOND, &tables), [[TLBI_S2_IPA, 0], [TLBI_S2_IPA, G1]]);
    // A table that held no leaf: one command where it hung.
    let mut empty = Gather::new();
    empty.add_table(range(M2, 2 * M2), 0);
    assert_eq!(unmapped(0, FIRST, &empty), [[TLBI_NH_VA, M2], [TLBI_NH_VA, 2 * M2]]);
    // Mixed: as if all were small. One page more than fits is everything.
    let most = gather(&[(0, 30 * K4)], 0);
    assert_eq!(unmapped(0, FIRST, &most).len(), 30);
    assert_eq!(unmapped(0, FIRST, &gather(&[(0, 31 * K4)], 0)), [TLBI_NH_ASID]);
    assert_eq!(unmapped(0, SECOND, &gather(&[(0, 26 * K4), (M2, 5 * K4)], 0)), [TLBI_S12_VMALL]);
    // Blocks of 32 MiB of the granule of 16 KiB.
    let users = users(&[(user(STREAM, None, false), FIRST)]);
    let found = unmapped_for(&caps(0, 0), &users, FIRST, 14, &gather(&[(1 << 25, 1 << 26)], 1));
    assert_eq!(found, [[TLBI_NH_VA, 1 << 25 | LEAF], [TLBI_NH_VA, 1 << 26 | LEAF]]);
}

#[test]
fn everything_is_everything_and_nobody_is_nobody() {
    for ril in [0, 1] {
        let mut all = gather(&[(0, K4)], 0);
        all.add_everything();
        assert_eq!(unmapped(ril, FIRST, &all), [TLBI_NH_ASID]);
        assert_eq!(unmapped(ril, SECOND, &all), [TLBI_S12_VMALL]);
        assert_eq!(unmapped_for(&caps(0, ril), &Users::new(), FIRST, 12, &all), [] as [Words; 0]);
    }
}

#[test]
fn what_guests_cached_through_it_goes_with_a_stage_2() {
    let page = gather(&[(0x3000, K4)], 0);
    let ipa = [TLBI_S2_IPA, 0x3000 | LEAF | TG_4K | ttl(3)];
    let of_page = [0x40 | OTHER_SID, 0x3000];
    let mut among = vec![(user(STREAM, None, true), GUEST)];
    let for_all = |among: &[(User, Tag)]| unmapped_for(&caps(0, 1), &users(among), SECOND, 12, &page);
    assert_eq!(for_all(&among), [ipa, TLBI_NH_ALL, ATC_ALL]);
    among.push((user(OTHER, None, true), SECOND));
    assert_eq!(for_all(&among), [ipa, TLBI_NH_ALL, ATC_ALL, of_page]);
    assert_eq!(for_all(&among[1..]), [ipa, of_page]);
}

#[test]
fn device_tlbs_forget_blocks_around_what_went() {
    let at = |ranges: &[(u64, u64)]| {
        let users = users(&[(user(STREAM, Some(PASID), true), FIRST), (user(OTHER, None, false), FIRST)]);
        let found = unmapped_for(&caps(0, 1), &users, FIRST, 12, &gather(ranges, 0));
        found.into_iter().filter(|words| words[0] as u8 == 0x40).collect::<Vec<_>>()
    };
    let word0 = ATC_ALL_OF_PASID[0];
    assert_eq!(at(&[(0x3000, K4)]), [[word0, 0x3000]]);
    // Three pages across 0x4000: the block of eight that holds them.
    assert_eq!(at(&[(0x3000, 3 * K4)]), [[word0, 3]]);
    assert_eq!(at(&[(0x10_0000, M2)]), [[word0, 10]]);
    assert_eq!(at(&[(0x3000, K4), (G1, G1)]), [[word0, 0x3000], [word0, G1 | 18]]);
    // The whole of 48 bits: 2^36 pages.
    assert_eq!(at(&[(0, 1 << 48)]), [[word0, 36]]);
}

//! Every row of the transition table, as raw command words worked out from the specification's bit numbers.

use super::*;
use alloc::vec;
use alloc::vec::Vec;
use iommu_core::addr::{Iova, IovaRange};

/// A command's two words.
type Words = (u64, u64);

const STREAM: u32 = 0x0001_0abc;
const FIRST: Tag = Tag::Asid(0x8765);
const SECOND: Tag = Tag::Vmid(0x1234);

const SID: u64 = 0x0001_0abc << 32;
const SYNC: Words = (0x46, 0);
const CFGI_STE: Words = (0x03 | SID, 1);
const CFGI_STE_AND_LEVEL_1: Words = (0x03 | SID, 0);
const CFGI_ALL: Words = (0x04, 31);
const CFGI_CD: Words = (0x05 | SID, 1);
const TLBI_NH_ASID: Words = (0x11 | 0x8765 << 48, 0);
const TLBI_NH_VA: u64 = 0x12 | 0x8765 << 48;
const TLBI_EL2_ALL: Words = (0x20, 0);
const TLBI_S12_VMALL: Words = (0x28 | 0x1234 << 32, 0);
const TLBI_S2_IPA: u64 = 0x2a | 0x1234 << 32;
const TLBI_NSNH_ALL: Words = (0x30, 0);

/// Leaf, TG = 4 KiB, and TTL by the architecture's level.
const LEAF: u64 = 1;
const TG: u64 = 1 << 10;
const fn ttl(level: u64) -> u64 {
    level << 8
}
const fn num(num: u64) -> u64 {
    num << 12
}
const fn scale(scale: u64) -> u64 {
    scale << 20
}

const K4: u64 = 0x1000;
const M2: u64 = 0x20_0000;
const G1: u64 = 0x4000_0000;

fn caps(hyp: u32, ril: u32) -> Capabilities {
    Capabilities::new([0x0d44_101b | hyp << 9, 0x0273_0010, 0, 0x1014 | ril << 10, 0, 0x74], 1)
}

fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::from_len(Iova::new(start), len).unwrap()
}

fn words(plan: &Plan) -> Vec<Words> {
    plan.commands().iter().map(|command| (command.0[0], command.0[1])).collect()
}

fn run(change: Change<'_>) -> Vec<Words> {
    words(&plan(&caps(0, 1), &change))
}

fn unmapped(ril: u32, tag: Tag, gather: &Gather) -> Vec<Words> {
    words(&plan(&caps(0, ril), &Change::Unmapped { tag, gather }))
}

/// A gather of leaves of one level.
fn gather(ranges: &[(u64, u64)], level: u8) -> Gather {
    let mut gather = Gather::new();
    ranges.iter().for_each(|(start, len)| gather.add_leaves(range(*start, *len), level));
    gather
}

#[test]
fn a_new_stream_table_drops_everything_configuration_first() {
    assert_eq!(run(Change::StreamTable), [CFGI_ALL, SYNC, TLBI_NSNH_ALL]);
    let with_el2 = [CFGI_ALL, SYNC, TLBI_EL2_ALL, TLBI_NSNH_ALL];
    assert_eq!(words(&plan(&caps(1, 1), &Change::StreamTable)), with_el2);
}

#[test]
fn a_prepared_entry_drops_the_path_to_it_as_well() {
    assert_eq!(run(Change::EntryPrepared { stream: STREAM }), [CFGI_STE_AND_LEVEL_1]);
}

#[test]
fn attach_drops_the_entry_and_its_context() {
    let attach = |tag| Change::StreamAttached { stream: STREAM, tag };
    assert_eq!(run(attach(FIRST)), [CFGI_STE, CFGI_CD]);
    assert_eq!(run(attach(SECOND)), [CFGI_STE]);
    assert_eq!(run(attach(Tag::Bypass)), [CFGI_STE]);
}

#[test]
fn detach_drops_configuration_then_translations() {
    let detach = |tag| Change::StreamDetached { stream: STREAM, tag };
    assert_eq!(run(detach(FIRST)), [CFGI_STE, CFGI_CD, SYNC, TLBI_NH_ASID]);
    assert_eq!(run(detach(SECOND)), [CFGI_STE, SYNC, TLBI_S12_VMALL]);
    assert_eq!(run(detach(Tag::Bypass)), [CFGI_STE]);
}

#[test]
fn a_map_needs_nothing() {
    assert_eq!(run(Change::Mapped), []);
}

#[test]
fn a_retired_domain_leaves_nothing_under_its_id() {
    assert_eq!(run(Change::DomainRetired { tag: FIRST }), [TLBI_NH_ASID]);
    assert_eq!(run(Change::DomainRetired { tag: SECOND }), [TLBI_S12_VMALL]);
    assert_eq!(run(Change::DomainRetired { tag: Tag::Bypass }), []);
}

#[test]
fn leaves_of_one_level_are_named_with_it() {
    // One page, one large leaf, one huge one.
    let page = [(TLBI_NH_VA, 0x3000 | LEAF | TG | ttl(3))];
    assert_eq!(unmapped(1, FIRST, &gather(&[(0x3000, K4)], 0)), page);
    let large = [(TLBI_S2_IPA | scale(9), (7 * M2) | LEAF | TG | ttl(2))];
    assert_eq!(unmapped(1, SECOND, &gather(&[(7 * M2, M2)], 1)), large);
    let huge = [(TLBI_S2_IPA | num(2) | scale(18), (5 * G1) | LEAF | TG | ttl(1))];
    assert_eq!(unmapped(1, SECOND, &gather(&[(5 * G1, 3 * G1)], 2)), huge);
}

#[test]
fn mixed_levels_and_tables_are_not_named() {
    let mut mixed = gather(&[(M2, M2)], 1);
    mixed.add_leaves(range(2 * M2, 2 * K4), 0);
    // 514 pages: 2, then 512.
    let expected = [(TLBI_NH_VA | scale(1), M2 | LEAF | TG), (TLBI_NH_VA | scale(9), (M2 + 2 * K4) | LEAF | TG)];
    assert_eq!(unmapped(1, FIRST, &mixed), expected);
    // A table went: neither a level nor Leaf.
    let mut tables = gather(&[(M2, M2)], 0);
    tables.add_table(range(M2, M2), 0);
    assert_eq!(unmapped(1, SECOND, &tables), [(TLBI_S2_IPA | scale(9), M2 | TG)]);
    // A lone page without a level is not a range.
    let mut lone = gather(&[(M2, 33 * K4)], 0);
    lone.add_table(range(M2, K4), 0);
    let expected = [(TLBI_S2_IPA, M2), (TLBI_S2_IPA | scale(5), (M2 + K4) | TG)];
    assert_eq!(unmapped(1, SECOND, &lone), expected);
}

#[test]
fn without_ranges_each_leaf_has_a_command() {
    let pages: Vec<Words> = (0..5).map(|page| (TLBI_NH_VA, 0x3000 + page * K4 + LEAF)).collect();
    assert_eq!(unmapped(0, FIRST, &gather(&[(0x3000, 5 * K4)], 0)), pages);
    let large: Vec<Words> = (0..3).map(|leaf| (TLBI_S2_IPA, M2 + leaf * M2 + LEAF)).collect();
    assert_eq!(unmapped(0, SECOND, &gather(&[(M2, 3 * M2)], 1)), large);
    let mut tables = gather(&[(0, 2 * G1)], 2);
    tables.add_table(range(0, 2 * G1), 1);
    assert_eq!(unmapped(0, SECOND, &tables), [(TLBI_S2_IPA, 0), (TLBI_S2_IPA, G1)]);
    // A table that held no leaf: one command where it hung.
    let mut empty = Gather::new();
    empty.add_table(range(M2, 2 * M2), 0);
    assert_eq!(unmapped(0, FIRST, &empty), [(TLBI_NH_VA, M2), (TLBI_NH_VA, 2 * M2)]);
    // Mixed: as if all were small. One page more than fits is everything.
    let most = gather(&[(0, 64 * K4)], 0);
    assert_eq!(unmapped(0, FIRST, &most).len(), 64);
    assert_eq!(unmapped(0, FIRST, &gather(&[(0, 65 * K4)], 0)), [TLBI_NH_ASID]);
    assert_eq!(unmapped(0, SECOND, &gather(&[(0, 60 * K4), (M2, 5 * K4)], 0)), [TLBI_S12_VMALL]);
}

#[test]
fn everything_is_everything() {
    for ril in [0, 1] {
        let mut all = gather(&[(0, K4)], 0);
        all.add_everything();
        assert_eq!(unmapped(ril, FIRST, &all), [TLBI_NH_ASID]);
        assert_eq!(unmapped(ril, SECOND, &all), [TLBI_S12_VMALL]);
    }
}

/// The pages that range-form commands cover, worked out from their fields.
fn covered(commands: &[Words], opcode: u64) -> Vec<(u64, u64)> {
    let span = |(word0, word1): &Words| {
        assert_eq!(word0 & 0xffff_ffff_0000_00ff, opcode);
        let (tg, num, scale) = (word1 >> 10 & 3, word0 >> 12 & 31, word0 >> 20 & 31);
        let pages = if tg == 0 { 1 } else { (num + 1) << scale };
        assert!(tg == 0 || tg == 1 && (num, scale, word1 >> 8 & 3) != (0, 0, 0), "a reserved combination");
        (word1 >> 12, pages)
    };
    commands.iter().map(span).collect()
}

#[test]
fn ranges_are_covered_exactly() {
    let lengths = [1, 2, 3, 31, 32, 33, 63, 64, 65, 511, 512, 513, 1023, 1024, 1025, 0x12345, 0xf_ffff, 1 << 26];
    for pages in lengths.into_iter().chain([(1 << 36) - 1, 1 << 36]) {
        for tables in [false, true] {
            let start = if pages < 1 << 35 { 0x7_7777_7000 } else { 0 };
            let mut gather = gather(&[(start, pages * K4)], 0);
            if tables {
                gather.add_table(range(start, pages * K4), 0);
            }
            let commands = unmapped(1, FIRST, &gather);
            assert!(commands.len() <= 8, "{pages:#x} pages took {} commands", commands.len());
            let mut next = start / K4;
            for (first, count) in covered(&commands, TLBI_NH_VA) {
                assert_eq!(first, next);
                next += count;
            }
            assert_eq!(next, start / K4 + pages);
        }
    }
}

#[test]
fn a_full_gather_fits_into_a_plan() {
    let ranges: Vec<(u64, u64)> = (0..8).map(|n| (n << 44, (1 << 43) - K4)).collect();
    let gather = gather(&ranges, 0);
    let commands = unmapped(1, SECOND, &gather);
    let covered = covered(&commands, TLBI_S2_IPA);
    for (start, len) in ranges {
        let inside = |(first, count): &&(u64, u64)| *first >= start / K4 && first + count <= (start + len) / K4;
        let pages: u64 = covered.iter().filter(inside).map(|(_, count)| count).sum();
        assert_eq!(pages, len / K4);
    }
    assert!(commands != vec![TLBI_S12_VMALL] && commands.len() <= MOST);
}

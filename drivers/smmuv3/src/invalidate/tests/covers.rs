//! NUM, SCALE, TG and TTL against a cover worked out page by page.

use super::*;
use alloc::vec;

/// Pages of 2^`page_bits` bytes that commands drop, from their raw fields by section 4.4.1.1: first page and number. Checks that
/// none of them is a reserved or unpredictable combination.
fn covered(commands: &[Words], opcode: u64, page_bits: u8) -> Vec<(u64, u64)> {
    let span = |[word0, word1]: &Words| {
        assert_eq!(word0 & 0xffff_ffff_0000_00ff, opcode);
        assert_eq!(word0 & !(opcode | 0x1f << 12 | 0x1f << 20), 0, "RES0 bits of {word0:#x}");
        let (tg, ttl, num, scale) = (word1 >> 10 & 3, word1 >> 8 & 3, word0 >> 12 & 31, word0 >> 20 & 31);
        assert_eq!(word1 & 0xfe, 0, "RES0 bits of {word1:#x}");
        let address = word1 >> 12 << 12;
        if tg == 0 {
            assert_eq!((ttl, num, scale), (0, 0, 0), "RES0 without TG");
            return (address >> page_bits, 1);
        }
        assert_eq!(tg, [1, 2, 3][(usize::from(page_bits) - 12) / 2]);
        assert_ne!((num, scale, ttl), (0, 0, 0), "reserved");
        // With a level the address is aligned to the leaves of that.
        let aligned = match (page_bits, ttl) {
            (12, 1) => 30,
            (12, 2) => 21,
            (14, 2) => 25,
            (16, 1) => 42,
            (16, 2) => 29,
            (14, 1) => panic!("reserved"),
            _ => page_bits.into(),
        };
        assert!(address.trailing_zeros() >= aligned, "unpredictable: {address:#x} for level {ttl}");
        (address >> page_bits, (num + 1) << scale)
    };
    commands.iter().map(span).collect()
}

/// For each number of pages up to `most` the fewest commands that cover just that many: (NUM + 1) * 2^SCALE each.
fn fewest(most: usize) -> Vec<usize> {
    let mut fewest = vec![usize::MAX; most + 1];
    fewest[0] = 0;
    let one: Vec<usize> = (1..=most).filter(|pages| pages >> pages.trailing_zeros() <= 32).collect();
    for pages in 1..=most {
        fewest[pages] = one.iter().take_while(|one| **one <= pages).map(|one| fewest[pages - one] + 1).min().unwrap();
    }
    fewest
}

/// The commands for `pages` pages from page `first` on.
fn commands(page_bits: u8, level: u8, first: u64, pages: u64, tables: bool) -> Vec<Words> {
    let whole = range(first << page_bits, pages << page_bits);
    let mut gather = Gather::new();
    gather.add_leaves(whole, level);
    if tables {
        gather.add_table(whole, level);
    }
    let users = users(&[(user(STREAM, None, false), FIRST)]);
    unmapped_for(&caps(0, 1), &users, FIRST, page_bits, &gather)
}

#[test]
fn every_small_range_is_covered_exactly_by_as_few_commands_as_there_can_be() {
    const MOST: usize = 2_300;
    let fewest = fewest(MOST);
    let mut tried = 0;
    for page_bits in [12, 14, 16] {
        for first in [0u64, 1, 33, 0x7_7777] {
            for pages in 1..=MOST as u64 {
                for tables in [false, true] {
                    let commands = commands(page_bits, 0, first, pages, tables);
                    // Page by page: each of the range once, and no other.
                    let mut hits = vec![0u8; MOST + 2];
                    for (start, count) in covered(&commands, TLBI_NH_VA, page_bits) {
                        (start..start + count).for_each(|page| hits[(page + 1 - first) as usize] += 1);
                    }
                    let expected = |at: usize| u8::from((1..=pages as usize).contains(&at));
                    assert!((0..hits.len()).all(|at| hits[at] == expected(at)), "{pages} pages from {first}");
                    assert_eq!(commands.len(), fewest[pages as usize], "{pages} pages");
                    let leaf = commands.iter().all(|words| words[1] & 1 == u64::from(!tables));
                    assert!(leaf, "Leaf of {pages} pages");
                    tried += 1;
                }
            }
        }
    }
    assert_eq!(tried, 3 * 4 * MOST * 2);
}

#[test]
fn ranges_of_large_leaves_name_their_level_and_cover_exactly() {
    for (page_bits, level, ttl, leaf_bits) in [(12, 1, 2, 21), (12, 2, 1, 30), (14, 1, 2, 25), (16, 1, 2, 29)] {
        let each = 1u64 << (leaf_bits - page_bits);
        for first in [0u64, 1, 5, 100] {
            for leaves in 1..=300u64 {
                let commands = commands(page_bits, level, first * each, leaves * each, false);
                assert!(commands.iter().all(|words| words[1] >> 8 & 3 == ttl), "TTL");
                let mut next = first * each;
                for (start, count) in covered(&commands, TLBI_NH_VA, page_bits) {
                    assert_eq!(start, next);
                    next += count;
                }
                assert_eq!(next, (first + leaves) * each, "{leaves} leaves of level {level} from {first}");
            }
        }
    }
}

#[test]
fn long_ranges_take_eight_commands_at_most() {
    for page_bits in [12u8, 14, 16] {
        let all = 48 - page_bits;
        for pages in [0x12345, 0xf_ffff, 1 << 26, (1 << all) - 1, 1 << all] {
            let commands = commands(page_bits, 0, 0, pages, true);
            assert!(commands.len() <= 8, "{pages:#x} pages took {} commands", commands.len());
            let covered = covered(&commands, TLBI_NH_VA, page_bits);
            let end = covered.iter().fold(0, |next, (start, count)| {
                assert_eq!(*start, next);
                start + count
            });
            assert_eq!(end, pages);
        }
    }
}

#[test]
fn a_full_gather_is_covered_or_everything_is() {
    // Eight ranges, each of which takes eight commands: too many.
    let ranges: Vec<(u64, u64)> = (0..8).map(|n| (n << 44, (1 << 43) - K4)).collect();
    assert_eq!(unmapped(1, SECOND, &gather(&ranges, 0)), [TLBI_S12_VMALL]);
    // Eight that take two.
    let ranges: Vec<(u64, u64)> = (0..8).map(|n| (n << 30, 63 * K4)).collect();
    let commands = unmapped(1, SECOND, &gather(&ranges, 0));
    let covered = covered(&commands, TLBI_S2_IPA, 12);
    for (start, len) in ranges {
        let inside = |(first, count): &&(u64, u64)| *first >= start / K4 && first + count <= (start + len) / K4;
        let pages: u64 = covered.iter().filter(inside).map(|(_, count)| count).sum();
        assert_eq!(pages, len / K4);
    }
}

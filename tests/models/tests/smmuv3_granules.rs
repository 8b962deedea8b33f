//! Every granule of both stages: where walks begin, which levels have leaves, concatenated tops, contiguous groups.

mod smmuv3_common;

use iommu_core::addr::Iova;
use iommu_models::smmuv3::{Config, FaultCode, Violation};
use smmuv3_common::*;

/// Granules by their log2, and the encodings of TG0, TG1 and S2TG.
const GRANULES: [(u32, u64, u64); 3] = [(12, 0, 2), (14, 2, 1), (16, 1, 3)];

const NOTHING: Result<u64, FaultCode> = Err(FaultCode::F_TRANSLATION);

fn shift(granule: u32, level: u32) -> u32 {
    granule + (3 - level) * (granule - 3)
}

/// Tables of `granule` from `level` down to level 3, first entries linked.
fn tables(bench: &Bench, granule: u32, level: u32, order: u8) -> Vec<u64> {
    let below = (granule - 12) as u8;
    let all: Vec<u64> = (level..=3).map(|at| frames(&bench.memory, if at == level { order } else { below })).collect();
    all.windows(2).for_each(|pair| bench.set(pair[0], pair[1] | 3));
    all
}

/// A unit with 16-bit memory for large tables.
fn up() -> Bench {
    Bench::up(Config { idr3: Config::server().idr3 | Config::STT, ..Config::server() })
}

/// Puts [`SID`] behind stage 1 with its lower half of `input` bits.
fn first(bench: &Bench, tg: u64, input: u64, table: u64) {
    let cd = bench.cd(SID.into());
    bench.set(cd + 8, table);
    bench.set(cd + 24, 0xff);
    bench.set(cd, CD & !(0x3f | 7 << 32) | 5 << 32 | (64 - input) | tg << 6);
    bench.set_ste(SID, &[cd | 5 << 1 | 1, 0, 0, 0]);
}

/// Puts [`SID`] behind stage 2 of `input` bits.
fn second(bench: &Bench, tg: u64, input: u64, start: u64, table: u64) {
    let word = STE_2 & !(0x3f << 32 | 3 << 38 | 7 << 48) | 5 << 48 | (64 - input) << 32 | start << 38 | tg << 46;
    bench.set_ste(SID, &[6 << 1 | 1, 0, word | VMID, table]);
}

fn walk(bench: &Bench, iova: u64) -> Result<u64, FaultCode> {
    bench.model.translate(SID, None, Iova::new(iova), true).map(|found| found.phys.get())
}

#[test]
fn a_walk_of_stage_1_begins_where_the_width_says() {
    for (granule, tg, _) in GRANULES {
        // The widest input of each level.
        for input in 17..=48 {
            if granule == 16 && input < 18 {
                continue;
            }
            let level = 4 - (input - granule).div_ceil(granule - 3);
            let bench = up();
            let order = 4;
            let all = tables(&bench, granule, level, order);
            first(&bench, tg, input.into(), all[0]);
            let last = *all.last().unwrap();
            bench.set(last, 0x4000_0000 | PAGE_1);
            assert_eq!(walk(&bench, 0), Ok(0x4000_0000), "{granule}, {input} bits");
            // The last page of all.
            let index = |at: u32| {
                let top = at == level;
                (1u64 << if top { input - shift(granule, at) } else { granule - 3 }) - 1
            };
            for (at, pair) in (level..).zip(all.windows(2)) {
                bench.set(pair[0] + index(at) * 8, pair[1] | 3);
            }
            bench.set(last + index(3) * 8, 0x5_0000_0000 | PAGE_1);
            let page = (1 << input) - (1 << granule);
            assert_eq!(walk(&bench, page), Ok(0x5_0000_0000), "{granule}, {input} bits");
            assert_eq!(walk(&bench, 1 << input), NOTHING);
        }
    }
}

#[test]
fn widths_are_limited() {
    for (granule, tg, _) in GRANULES {
        for (small, most) in [(false, 39), (true, if granule == 16 { 47 } else { 48 })] {
            let config = Config::server();
            let config = if small { Config { idr3: config.idr3 | Config::STT, ..config } } else { config };
            let bench = Bench::up(config);
            let table = frames(&bench.memory, 4);
            for t0sz in 0..64 {
                first(&bench, tg, 64 - t0sz, table);
                let illegal = walk(&bench, 0) == Err(FaultCode::C_BAD_CD);
                assert_eq!(illegal, t0sz < 16 || t0sz > most, "{granule}, {small}, {t0sz}");
            }
        }
    }
}

#[test]
fn only_some_levels_have_leaves() {
    for (granule, tg, _) in GRANULES {
        let top = 4 - (48 - granule).div_ceil(granule - 3);
        for level in top..=3 {
            let bench = up();
            let all = tables(&bench, granule, top, 4);
            first(&bench, tg, 48, all[0]);
            let size = 1u64 << shift(granule, level);
            let leaf = if level == 3 { 3 } else { 1 };
            // Bits below the size are not of a block's address; but a page has none.
            let junk = if level == 3 { 0 } else { 1 << 13 };
            bench.set(all[(level - top) as usize], (3 * size) | junk | PAGE_1 & !3 | leaf);
            let expected = matches!((granule, level), (_, 2 | 3) | (12, 1));
            let found = bench.model.translate(SID, None, Iova::new(0x234), true);
            match expected {
                true => {
                    let found = found.unwrap();
                    assert_eq!((found.phys.get(), found.size), (3 * size + 0x234, size), "{granule}, level {level}");
                }
                false => assert_eq!(found.unwrap_err(), FaultCode::F_TRANSLATION, "{granule}, level {level}"),
            }
        }
    }
}

#[test]
fn addresses_have_reserved_bits() {
    for (granule, tg, _) in GRANULES {
        let bench = up();
        let top = 4 - (48 - granule).div_ceil(granule - 3);
        let all = tables(&bench, granule, top, 4);
        first(&bench, tg, 48, all[0]);
        let (above, last) = (all[all.len() - 2], all[all.len() - 1]);
        bench.set(last, 0x4000_0000 | PAGE_1);
        for at in [above, last] {
            for bit in 12..51 {
                let word = bench.get(at);
                bench.set(at, word ^ 1 << bit);
                let found = walk(&bench, 0);
                bench.set(at, word);
                // Elsewhere, or nowhere.
                let reserved = bit < granule || bit > 47;
                assert_eq!(found == Err(FaultCode::F_ADDR_SIZE), reserved, "{granule}, bit {bit}");
            }
        }
        assert_eq!(walk(&bench, 0), Ok(0x4000_0000));
    }
}

#[test]
fn the_upper_half_has_a_granule_of_its_own() {
    for (granule, _, tg1) in GRANULES {
        let bench = up();
        let top = 4 - (40 - granule).div_ceil(granule - 3);
        let all = tables(&bench, granule, top, 4);
        // The lower half has 4 KiB.
        first(&bench, 0, 39, bench.first[0]);
        let cd = bench.cd(SID.into());
        bench.set(cd, bench.get(cd) & !(1 << 30) | 24 << 16 | tg1 << 22);
        bench.set(cd + 16, all[0]);
        bench.set(*all.last().unwrap(), 0x4000_0000 | PAGE_1);
        assert_eq!(walk(&bench, !0 << 40), Ok(0x4000_0000));
        assert_eq!((walk(&bench, 0), walk(&bench, !0 << 41)), (NOTHING, NOTHING));
        bench.set(cd, bench.get(cd) & !(3 << 22));
        assert_eq!(walk(&bench, 0), Err(FaultCode::C_BAD_CD));
    }
}

#[test]
fn stage_2_begins_where_it_says_with_up_to_16_tables_side_by_side() {
    for (granule, tg, _) in GRANULES {
        for start in 0..4u64 {
            let level = match (granule, start) {
                (12, 3) => 3,
                (12, start) => 2 - start as u32,
                (_, 3) => continue,
                (_, start) => 3 - start as u32,
            };
            let least = shift(granule, level) + 1;
            let most = least + granule - 4 + 4;
            for input in 17..=48u32 {
                if granule == 16 && input < 18 {
                    continue;
                }
                let bench = up();
                // Up to 1 MiB of top.
                let top = frames(&bench.memory, 8);
                second(&bench, tg, input.into(), start, top);
                let entries = 1u64 << input.saturating_sub(shift(granule, level));
                let legal = (least..=most).contains(&input);
                if !legal {
                    assert_eq!(walk(&bench, 0), Err(FaultCode::C_BAD_STE), "{granule}, {start}, {input}");
                    continue;
                }
                assert_eq!(walk(&bench, 0), NOTHING, "{granule}, {start}, {input}");
                if matches!((granule, level), (_, 2) | (12, 1)) {
                    // A block in the last of the tables.
                    let size = 1u64 << shift(granule, level);
                    bench.set(top + (entries - 1) * 8, (2 * size) | PAGE_2 & !2);
                    assert_eq!(walk(&bench, (1 << input) - 8), Ok(3 * size - 8), "{granule}, {start}, {input}");
                }
                // Aligned to all of it.
                second(&bench, tg, input.into(), start, top + entries * 4);
                let expected = if entries * 4 < 16 { NOTHING } else { Err(FaultCode::C_BAD_STE) };
                if entries * 4 >= 16 {
                    assert_eq!(walk(&bench, 0), expected, "{granule}, {start}, {input}: alignment");
                }
            }
        }
    }
}

#[test]
fn the_highest_levels_of_stage_2_need_wide_addresses() {
    for (granule, tg, start, bits) in [(12, 0, 2u64, 44), (14, 2, 2, 42), (16, 1, 2, 44)] {
        for (code, width) in [(3, 42), (4, 44), (5, 48)] {
            let bench = up();
            let top = frames(&bench.memory, 4);
            let input = if granule == 14 { 40 } else { 43 }.min(width);
            second(&bench, tg, input, start, top);
            let word = bench.ste(SID) + 16;
            bench.set(word, bench.get(word) & !(7 << 48) | code << 48);
            let illegal = walk(&bench, 0) == Err(FaultCode::C_BAD_STE);
            assert_eq!(illegal, width < bits, "{granule}, {width}");
        }
    }
}

#[test]
fn a_contiguous_group_is_one_translation() {
    for (granule, tg, _) in GRANULES {
        for level in [2, 3] {
            let log2 = match (granule, level) {
                (12, _) => 4,
                (14, 3) => 7,
                _ => 5,
            };
            let mut bench = up();
            let top = 4 - (48 - granule).div_ceil(granule - 3);
            let all = tables(&bench, granule, top, 4);
            first(&bench, tg, 48, all[0]);
            let table = all[(level - top) as usize];
            let size = 1u64 << shift(granule, level);
            let leaf = if level == 3 { 3 } else { 1 };
            let base = size << log2;
            for index in 0..1 << log2 {
                bench.set(table + index * 8, (base + index * size) | PAGE_1 & !3 | leaf | 1 << 52);
            }
            // Asked for in the middle; all of it is there, although the tables are gone.
            assert_eq!(bench.write_at(3 * size + 8), Ok(base + 3 * size + 8));
            assert_eq!(bench.model.cached()[2], 1);
            bench.set(all[0], 0);
            assert_eq!(bench.write_at(0), Ok(base));
            assert_eq!(bench.write_at((size << log2) - 8), Ok(base + (size << log2) - 8));
            // Any page of it takes it away.
            bench.tlbi_va(0, ASID, (size << log2) & !0xfff);
            assert_eq!(bench.write_at(0), Ok(base));
            bench.run(ASID << 48 | 0x12, (size << log2) - 0x1000);
            assert_eq!(bench.write_at(0), NOTHING, "{granule}, level {level}");
            assert_eq!(bench.model.violations(), []);
        }
    }
}

#[test]
fn groups_may_be_kept_leaf_by_leaf() {
    let bench = Bench::first(Config::nested());
    bench.model.split_groups(true);
    for index in 0..16 {
        bench.map_first(index, (0x10_0000 + index * 0x1000) | 1 << 52);
    }
    assert_eq!((bench.read_at(0), bench.read_at(0x1000)), (Ok(0x10_0000), Ok(0x10_1000)));
    assert_eq!(bench.model.cached()[2], 2);
    bench.map_first(2, 0);
    assert_eq!(bench.read_at(0x2000), Ok(0));
}

#[test]
fn leaves_of_a_group_must_agree() {
    let group_of = |config: Config, change: &dyn Fn(&Bench)| {
        let bench = Bench::second(config);
        for index in 0..16 {
            bench.map_second(index, (0x10_0000 + index * 0x1000) | 1 << 52);
        }
        change(&bench);
        assert_eq!(bench.read_at(0), Ok(0x10_0000));
        bench.model.violations()
    };
    let group = |change: &dyn Fn(&Bench)| group_of(Config::server(), change);
    let noted = [Violation::Contiguous { iova: 0 }];
    assert_eq!(group(&|_| {}), []);
    // Access flags may differ, and leaves may be missing; one page of it is reached all the same.
    assert_eq!(group(&|bench| bench.set(bench.second[2] + 8, 0x10_1000 | 1 << 52 | PAGE_2 & !(1 << 10))), []);
    assert_eq!(group(&|bench| bench.set(bench.second[2] + 8, 0)), []);
    // Elsewhere, with other rights, without the bit.
    assert_eq!(group(&|bench| bench.map_second(1, 0x20_0000 | 1 << 52)), noted);
    assert_eq!(group(&|bench| bench.set(bench.second[2] + 8, 0x10_1000 | 1 << 52 | PAGE_2 & !(1 << 7))), noted);
    assert_eq!(group(&|bench| bench.map_second(15, 0x10_f000)), noted);
    // A unit that does without break-before-make takes a change of the bit, and no other.
    let lenient = Config::server().break_level(2);
    assert_eq!(group_of(lenient, &|bench| bench.map_second(15, 0x10_f000)), []);
    assert_eq!(group_of(lenient, &|bench| bench.map_second(1, 0x20_0000 | 1 << 52)), noted);
}

#[test]
fn a_leaf_that_is_taken_out_of_a_group_is_still_reached() {
    // The hole of drivers that clear one leaf of a group: the others bring it back.
    let mut bench = Bench::second(Config::nested());
    for index in 0..16 {
        bench.map_second(index, (0x10_0000 + index * 0x1000) | 1 << 52);
    }
    assert_eq!(bench.read_at(0x5000), Ok(0x10_5000));
    bench.set(bench.second[2] + 5 * 8, 0);
    bench.tlbi_ipa(VMID, 0x5000);
    assert_eq!(bench.read_at(0x5000), NOTHING);
    assert_eq!(bench.read_at(0x6000), Ok(0x10_6000));
    assert_eq!(bench.read_at(0x5000), Ok(0x10_5000));
}

#[test]
fn what_says_nt_is_not_kept() {
    let bench = Bench::second(Config::nested());
    bench.set(bench.second[1], 0x4000_0000 | PAGE_2 & !2 | 1 << 16);
    assert_eq!(bench.read_at(0x3000), Ok(0x4000_3000));
    assert_eq!(bench.model.cached(), [1, 0, 0]);
}

#[test]
fn the_highest_byte_is_ignored_where_the_cd_says_so() {
    let mut bench = Bench::first(Config::nested());
    bench.map_first(3, 0x5000);
    let tagged = 0xab << 56 | 0x3000;
    assert_eq!(bench.read_at(tagged), NOTHING);
    let cd = bench.cd(SID.into());
    bench.set(cd, bench.get(cd) | 1 << 38);
    bench.cfgi_cd(SID);
    assert_eq!((bench.read_at(tagged), bench.read_at(0x3000)), (Ok(0x5000), Ok(0x5000)));
    // One translation, which the plain address takes away.
    assert_eq!(bench.model.cached()[2], 1);
    bench.map_first(3, 0x6000);
    bench.tlbi_va(0, ASID, 0x3000);
    assert_eq!(bench.read_at(tagged), Ok(0x6000));
    assert_eq!(bench.read_at(0x80 << 48 | 0x3000), NOTHING);
}

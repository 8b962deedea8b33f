//! The walker: stream tables, STEs, CDs and translation tables, bit by bit; and what a stream reaches.

mod smmuv3_common;

use iommu_core::addr::{Iova, PhysAddr};
use iommu_models::smmuv3::walk::{Reach, Translation, reachable, translate};
use iommu_models::smmuv3::{Config, FaultCode};
use smmuv3_common::*;

/// What a write to address 0 meets, walked without caches.
fn walk(bench: &Bench) -> Result<u64, FaultCode> {
    walk_at(bench, 0)
}

fn walk_at(bench: &Bench, iova: u64) -> Result<u64, FaultCode> {
    bench.model.translate(SID, None, Iova::new(iova), true).map(|found| found.phys.get())
}

/// Changes bits of the STE's words one by one: each time with the fault given, or none.
fn ste_bits(second: bool, config: Config, cases: &[(u64, u32, u64, u64, Option<FaultCode>)]) {
    for (word, low, width, value, fault) in cases {
        let bench = if second { Bench::second(config) } else { Bench::first(config) };
        if second {
            bench.map_second(0, 0x5000)
        } else {
            bench.map_first(0, 0x5000)
        }
        let at = bench.ste(SID) + word * 8;
        let mask = ((1u64 << width) - 1) << low;
        bench.set(at, bench.get(at) & !mask | value << low);
        let expected = fault.map_or(Ok(0x5000), Err);
        assert_eq!(walk(&bench), expected, "second {second}: word {word}, {width} bits from {low}: {value:#x}");
    }
}

/// The same of the CD's words.
fn cd_bits(config: Config, cases: &[(u64, u32, u64, u64, Option<FaultCode>)]) {
    for (word, low, width, value, fault) in cases {
        let bench = Bench::first(config);
        bench.map_first(0, 0x5000);
        let at = bench.cd(SID.into()) + word * 8;
        let mask = ((1u64 << width) - 1) << low;
        bench.set(at, bench.get(at) & !mask | value << low);
        let expected = fault.map_or(Ok(0x5000), Err);
        assert_eq!(walk(&bench), expected, "word {word}, {width} bits from {low}: {value:#x}");
    }
}

const STE: Option<FaultCode> = Some(FaultCode::C_BAD_STE);
const CD_BAD: Option<FaultCode> = Some(FaultCode::C_BAD_CD);

#[test]
fn an_ste_is_valid_and_of_a_kind() {
    for (config, expected) in [
        (0, Err(FaultCode::NONE)),
        (1, Err(FaultCode::C_BAD_STE)),
        (2, Err(FaultCode::C_BAD_STE)),
        (3, Err(FaultCode::C_BAD_STE)),
        (4, Ok(0)),
    ] {
        let bench = Bench::up(Config::nested());
        bench.set_ste(SID, &[config << 1 | 1]);
        assert_eq!(walk(&bench), expected);
        bench.set_ste(SID, &[config << 1]);
        assert_eq!(walk(&bench), Err(FaultCode::C_BAD_STE));
    }
    let bench = Bench::up(Config::nested());
    // An STE that aborts: nothing else is looked at.
    bench.set_ste(SID, &[1, u64::MAX, u64::MAX]);
    assert_eq!(walk(&bench), Err(FaultCode::NONE));
    bench.set_ste(SID, &[4 << 1 | 1, 0, STE_2, 0x1000]);
    assert_eq!(walk_at(&bench, 0xfff_ffff_f000), Ok(0xfff_ffff_f000));
    assert_eq!(walk_at(&bench, 1 << 44), Err(FaultCode::F_ADDR_SIZE));
}

#[test]
fn a_unit_does_not_do_what_it_lacks() {
    for (config, kind) in
        [(Config::stage_1(), 6), (Config::stage_2(), 5), (Config::stage_1(), 7), (Config::stage_2(), 7)]
    {
        let mut bench = Bench::up(config);
        bench.attach_nested(SID);
        bench.set(bench.ste(SID), bench.cd(SID.into()) | kind << 1 | 1);
        assert_eq!(walk(&bench), Err(FaultCode::C_BAD_STE));
    }
}

#[test]
fn bits_of_an_ste_of_stage_1() {
    ste_bits(
        false,
        Config::nested(),
        &[
            (0, 52, 1, 1, STE),
            (0, 44, 1, 1, STE),
            // Substreams, where there are none. The format alone means nothing.
            (0, 59, 5, 1, STE),
            (0, 4, 2, 1, None),
            // S1DSS, S1CIR, S1COR, S1CSH.
            (1, 0, 8, 0xd4, None),
            // S2HWU, S1PIE, S2FWB, S1MPAM, S1STALLD, EATS, reserved.
            (1, 8, 1, 1, STE),
            (1, 24, 1, 1, STE),
            (1, 25, 1, 1, STE),
            (1, 26, 1, 1, STE),
            (1, 27, 1, 1, STE),
            (1, 28, 2, 1, STE),
            (1, 41, 1, 1, STE),
            (1, 52, 1, 1, STE),
            // STRW: EL1; EL2 needs IDR0.HYP.
            (1, 30, 2, 2, STE),
            (1, 30, 2, 1, STE),
            // SHCFG, software's own bits.
            (1, 44, 2, 1, None),
            (1, 20, 4, 0xf, None),
            // What stage 2 would look at is ignored, but for bits that are nobody's.
            (2, 0, 16, 0xabcd, None),
            (2, 32, 16, 0xffff, None),
            (2, 16, 1, 1, STE),
            (2, 59, 1, 1, STE),
            (3, 4, 48, 0x123, None),
            (3, 0, 1, 1, STE),
            (4, 0, 1, 1, STE),
            (5, 12, 1, 1, STE),
            (7, 63, 1, 1, STE),
        ],
    );
    let server = Config::server();
    ste_bits(false, server, &[(1, 25, 1, 1, None), (1, 27, 1, 1, None), (1, 28, 2, 1, None), (1, 30, 2, 2, None)]);
}

#[test]
fn bits_of_an_ste_of_stage_2() {
    ste_bits(
        true,
        Config::nested(),
        &[
            // S1ContextPtr, S1CDMax, S1DSS are ignored.
            (0, 6, 46, u64::MAX >> 18, None),
            (0, 59, 5, 31, None),
            (1, 0, 8, 0xff, None),
            (1, 30, 2, 3, None),
            // S2T0SZ: 20 is the least for 44 bits; with three bits fewer the top table is eight side by side, at 0 here.
            (2, 32, 6, 19, STE),
            (2, 32, 6, 40, STE),
            (2, 32, 6, 30, None),
            (2, 32, 6, 33, None),
            (2, 32, 6, 34, STE),
            // S2SL0: level 3 without small tables; level 0 with 39 bits has no index.
            (2, 38, 2, 3, STE),
            (2, 38, 2, 2, STE),
            // S2TG: 3 is none.
            (2, 46, 2, 3, STE),
            // S2PS: 7 is none; 48 bits are capped to 44; 36 bits are too few for 39 of input.
            (2, 48, 3, 7, STE),
            (2, 48, 3, 5, None),
            (2, 48, 3, 1, STE),
            // S2AA64, S2ENDI, S2AFFD, S2PTW, S2HD, S2HA, S2S.
            (2, 51, 1, 0, STE),
            (2, 52, 1, 1, STE),
            (2, 53, 1, 1, None),
            (2, 54, 1, 1, None),
            (2, 55, 1, 1, STE),
            (2, 56, 1, 1, STE),
            (2, 57, 1, 1, STE),
            (2, 16, 1, 1, STE),
            // S2TTB: alignment, width.
            (3, 4, 1, 1, STE),
            (3, 44, 1, 1, STE),
            (3, 1, 1, 1, STE),
            (4, 32, 1, 1, STE),
        ],
    );
    let server = Config::server();
    ste_bits(true, server, &[(2, 57, 1, 1, None), (2, 56, 1, 1, None), (2, 55, 2, 3, None), (2, 55, 1, 1, STE)]);
    // EATS 1 and S2S exclude each other.
    let bench = Bench::second(server);
    bench.map_second(0, 0x5000);
    bench.set(bench.ste(SID) + 8, 1 << 28);
    assert_eq!(walk(&bench), Ok(0x5000));
    bench.set(bench.ste(SID) + 16, bench.get(bench.ste(SID) + 16) | 1 << 57);
    assert_eq!(walk(&bench), Err(FaultCode::C_BAD_STE));
    ste_bits(true, Config::nested().granules(Config::GRAN4K), &[(2, 46, 2, 1, STE), (2, 46, 2, 2, STE)]);
    ste_bits(true, Config::nested().idr0_bits(Config::VMID16, false), &[(2, 0, 16, 0xff, None), (2, 8, 1, 1, STE)]);
}

#[test]
fn bits_of_a_cd() {
    cd_bits(
        Config::nested(),
        &[
            // V, AA64, ENDI.
            (0, 31, 1, 0, CD_BAD),
            (0, 41, 1, 0, CD_BAD),
            (0, 15, 1, 1, CD_BAD),
            // T0SZ.
            (0, 0, 6, 15, CD_BAD),
            (0, 0, 6, 40, CD_BAD),
            (0, 0, 6, 26, None),
            (0, 0, 6, 33, None),
            // One level more: the page is taken for a table.
            (0, 0, 6, 24, Some(FaultCode::F_WALK_EABT)),
            // TG0: 3 is none.
            (0, 6, 2, 3, CD_BAD),
            // EPD1 clear: T1SZ 0 is none.
            (0, 30, 1, 0, CD_BAD),
            // EPD0.
            (0, 14, 1, 1, Some(FaultCode::F_TRANSLATION)),
            // IPS: capped, or none, or too small for what the leaf leads to.
            (0, 32, 3, 5, None),
            (0, 32, 3, 7, CD_BAD),
            (0, 32, 3, 0, CD_BAD),
            // A with TERM_MODEL, S, HA, HD, R.
            (0, 46, 1, 0, CD_BAD),
            (0, 44, 1, 1, CD_BAD),
            (0, 43, 1, 1, CD_BAD),
            (0, 42, 1, 1, CD_BAD),
            (0, 45, 1, 0, None),
            (0, 48, 16, 0xffff, None),
            // TTB0: alignment, width, reserved; HAD0 is there.
            (1, 4, 1, 1, CD_BAD),
            (1, 44, 1, 1, CD_BAD),
            (1, 0, 1, 1, CD_BAD),
            (1, 1, 1, 1, None),
            (1, 60, 1, 1, CD_BAD),
            (2, 0, 1, 1, CD_BAD),
            (3, 0, 32, 0x1234, None),
            (5, 0, 1, 1, CD_BAD),
            (7, 63, 1, 1, CD_BAD),
        ],
    );
    cd_bits(
        Config::server(),
        &[(0, 46, 1, 0, None), (0, 44, 1, 1, None), (0, 43, 1, 1, None), (0, 42, 2, 3, None), (0, 42, 1, 1, CD_BAD)],
    );
    cd_bits(Config::nested().idr0_bits(Config::ASID16, false), &[(0, 48, 16, 0xff, None), (0, 56, 1, 1, CD_BAD)]);
    cd_bits(Config { idr3: 0, ..Config::nested() }, &[(1, 1, 1, 1, CD_BAD)]);
    cd_bits(Config::nested().granules(Config::GRAN4K), &[(0, 6, 2, 1, CD_BAD), (0, 6, 2, 2, CD_BAD)]);
}

#[test]
fn descriptors_of_stage_1() {
    let (translation, permission) = (Err(FaultCode::F_TRANSLATION), Err(FaultCode::F_PERMISSION));
    let page = 0x5000 | PAGE_1;
    for (level, word, read, write) in [
        (2, page, Ok(0x5000), Ok(0x5000)),
        (2, 0, translation, translation),
        (2, page & !1, translation, translation),
        // Level 3 has no blocks.
        (2, page & !2, translation, translation),
        (2, page & !(1 << 10), Err(FaultCode::F_ACCESS), Err(FaultCode::F_ACCESS)),
        // AP: read only; privileged only.
        (2, page | 1 << 7, Ok(0x5000), permission),
        (2, page & !(1 << 6), permission, permission),
        // Beyond 44 bits; the reserved bits of the address.
        (2, page | 1 << 44, Err(FaultCode::F_ADDR_SIZE), Err(FaultCode::F_ADDR_SIZE)),
        (2, page | 1 << 50, Err(FaultCode::F_ADDR_SIZE), Err(FaultCode::F_ADDR_SIZE)),
        // Ignored: software's bits, XN, contiguous.
        (2, page | 0xf << 55 | 3 << 53, Ok(0x5000), Ok(0x5000)),
        // Blocks of 2 MiB and 1 GiB; bits below them are none of the address.
        (1, 0x4000_0000 | PAGE_1 & !2, Ok(0x4000_0000), Ok(0x4000_0000)),
        (0, 0x4000_0000 | PAGE_1 & !2, Ok(0x4000_0000), Ok(0x4000_0000)),
        (0, 0x1_0000_0000_0000 | 3, Err(FaultCode::F_ADDR_SIZE), Err(FaultCode::F_ADDR_SIZE)),
        (0, 0x2000 | 3, Err(FaultCode::F_WALK_EABT), Err(FaultCode::F_WALK_EABT)),
    ] {
        let bench = Bench::first(Config::nested());
        bench.set(bench.first[level], word);
        let at = |write| bench.model.translate(SID, None, Iova::new(0), write).map(|found| found.phys.get());
        assert_eq!((at(false), at(true)), (read, write), "level {}: {word:#x}", level + 1);
    }
}

#[test]
fn tables_forbid_what_lies_below() {
    for level in 0..2 {
        let config = Config::nested();
        let bench = Bench::first(Config { idr1: config.idr1 | Config::ATTR_PERMS_OVR, ..config });
        bench.map_first(0, 0x5000);
        let at = bench.first[level];
        // APTable: read only.
        bench.set(at, bench.get(at) | 1 << 62);
        let found = bench.model.translate(SID, None, Iova::new(0), false).unwrap();
        assert!(found.read && !found.write);
        // No user.
        bench.set(at, bench.get(at) & !(1 << 62) | 1 << 61);
        assert_eq!(walk(&bench), Err(FaultCode::F_PERMISSION));
        // HAD0, PRIVCFG 3.
        let word = bench.cd(SID.into()) + 8;
        bench.set(word, bench.get(word) | 2);
        assert_eq!(walk(&bench), Ok(0x5000));
        bench.set(word, bench.get(word) & !2);
        bench.set(bench.ste(SID) + 8, 3 << 48);
        assert_eq!(walk(&bench), Ok(0x5000));
    }
}

#[test]
fn descriptors_of_stage_2() {
    let (translation, permission) = (Err(FaultCode::F_TRANSLATION), Err(FaultCode::F_PERMISSION));
    let page = 0x5000 | PAGE_2;
    for (level, word, read, write) in [
        (2, page, Ok(0x5000), Ok(0x5000)),
        (2, 0, translation, translation),
        (2, page & !2, translation, translation),
        (2, page & !(1 << 10), Err(FaultCode::F_ACCESS), Err(FaultCode::F_ACCESS)),
        // S2AP.
        (2, page & !(1 << 7), Ok(0x5000), permission),
        (2, page & !(1 << 6), permission, Ok(0x5000)),
        (2, page & !(3 << 6), permission, permission),
        (2, page | 1 << 44, Err(FaultCode::F_ADDR_SIZE), Err(FaultCode::F_ADDR_SIZE)),
        (1, 0x4000_0000 | PAGE_2 & !2, Ok(0x4000_0000), Ok(0x4000_0000)),
        (0, 0x4000_0000 | PAGE_2 & !2, Ok(0x4000_0000), Ok(0x4000_0000)),
        (0, 0x2000 | 3, Err(FaultCode::F_WALK_EABT), Err(FaultCode::F_WALK_EABT)),
    ] {
        let bench = Bench::second(Config::nested());
        bench.set(bench.second[level], word);
        let at = |write| bench.model.translate(SID, None, Iova::new(0), write).map(|found| found.phys.get());
        assert_eq!((at(false), at(true)), (read, write), "level {}: {word:#x}", level + 1);
    }
    // S2AFFD.
    let bench = Bench::second(Config::nested());
    bench.set(bench.second[2], page & !(1 << 10));
    bench.set(bench.ste(SID) + 16, bench.get(bench.ste(SID) + 16) | 1 << 53);
    assert_eq!(walk(&bench), Ok(0x5000));
}

#[test]
fn addresses_end_where_the_tables_do() {
    let bench = Bench::first(Config::nested());
    bench.set(bench.first[0] + 511 * 8, 0x4000_0000 | PAGE_1 & !2);
    assert_eq!(walk_at(&bench, 0x7f_ffff_f000), Ok(0x7fff_f000));
    for beyond in [0x80_0000_0000, 1 << 44, !0xfff] {
        assert_eq!(walk_at(&bench, beyond), Err(FaultCode::F_TRANSLATION), "{beyond:#x}");
    }
    let bench = Bench::second(Config::nested());
    bench.set(bench.second[0] + 511 * 8, 0x4000_0000 | PAGE_2 & !2);
    assert_eq!(walk_at(&bench, 0x7f_ffff_f000), Ok(0x7fff_f000));
    assert_eq!(walk_at(&bench, 0x80_0000_0000), Err(FaultCode::F_TRANSLATION));
    // Beyond what stage 2 could take at all.
    assert_eq!(walk_at(&bench, 1 << 44), Err(FaultCode::F_ADDR_SIZE));
}

#[test]
fn top_tables_lie_side_by_side() {
    let mut bench = Bench::up(Config::nested());
    // 40 bits from level 1: two tables.
    let top = frames(&bench.memory, 1);
    bench.second[0] = top;
    bench.attach_second(SID, VMID);
    bench.set(bench.ste(SID) + 16, (STE_2 - (1 << 32)) | VMID);
    bench.set(top + 0x1000 + 511 * 8, 0x4000_0000 | PAGE_2 & !2);
    assert_eq!(walk_at(&bench, 0xff_ffff_f000), Ok(0x7fff_f000));
    assert_eq!(walk_at(&bench, 0x100_0000_0000), Err(FaultCode::F_TRANSLATION));
    bench.set(bench.ste(SID) + 24, top + 0x1000);
    assert_eq!(walk(&bench), Err(FaultCode::C_BAD_STE));
    // 44 bits from level 0: one table of 32 entries.
    bench.set(bench.ste(SID) + 24, top + 0x100);
    bench.set(bench.ste(SID) + 16, STE_2 & !(0xff << 32) | 20 << 32 | 2 << 38 | VMID);
    bench.set(top + 0x100 + 31 * 8, bench.second[1] | 3);
    bench.set(bench.second[1] + 511 * 8, 0x4000_0000 | PAGE_2 & !2);
    assert_eq!(walk_at(&bench, 0xfff_ffff_f000), Ok(0x7fff_f000));
    // Level 0 needs an output of 44 bits.
    bench.set(bench.ste(SID) + 16, STE_2 & !(0xff << 32 | 7 << 48) | 24 << 32 | 2 << 38 | 3 << 48 | VMID);
    assert_eq!(walk(&bench), Err(FaultCode::C_BAD_STE));
}

#[test]
fn the_upper_half_has_tables_of_its_own() {
    let bench = Bench::first(Config::nested());
    let cd = bench.cd(SID.into());
    // T1SZ 25, TG1 4 KiB, EPD1 clear; both halves by the same tables.
    bench.set(cd, bench.get(cd) & !(1 << 30) | 25 << 16 | 2 << 22);
    bench.set(cd + 16, bench.first[0]);
    bench.map_first(3, 0x5000);
    assert_eq!(walk_at(&bench, 0xffff_ff80_0000_3000), Ok(0x5000));
    assert_eq!(walk_at(&bench, 0xffff_ff00_0000_3000), Err(FaultCode::F_TRANSLATION));
    assert_eq!(walk_at(&bench, 0x3000), Ok(0x5000));
    let read64 = |phys| bench.memory.device_read64(phys);
    let all = reachable(&read64, bench.model.tables(), bench.model.config(), SID, None).unwrap();
    assert_eq!(all.iter().map(|reach| reach.iova.get()).collect::<Vec<_>>(), [0x3000, 0xffff_ff80_0000_3000]);
    bench.set(cd, bench.get(cd) & !(3 << 22));
    assert_eq!(walk(&bench), Err(FaultCode::C_BAD_CD));
}

#[test]
fn two_levels_of_stream_table() {
    for split in [6, 8, 10] {
        let bench = Bench::up(Config::nested());
        let level1 = frames(&bench.memory, 2);
        let tables = iommu_models::smmuv3::walk::Tables { base: level1, config: 1 << 16 | split << 6 | 16 };
        let read64 = |phys| bench.memory.device_read64(phys);
        let at = |sid| {
            let found = translate(&read64, tables, bench.model.config(), sid, None, Iova::new(0x1000), true);
            found.map(|found| found.phys.get())
        };
        let sid = 5 << split | 3;
        assert_eq!(at(sid), Err(FaultCode::C_BAD_STREAMID));
        let leaf = frames(&bench.memory, 4);
        bench.set(leaf + 3 * 64, 4 << 1 | 1);
        bench.set(level1 + 5 * 8, leaf | u64::from(split + 1));
        assert_eq!((at(sid), at(sid + 1)), (Ok(0x1000), Err(FaultCode::C_BAD_STE)));
        assert_eq!(at(sid + (1 << split)), Err(FaultCode::C_BAD_STREAMID));
        assert_eq!(at(1 << 16), Err(FaultCode::C_BAD_STREAMID));
        // Four of them; then three; then too many; then nowhere.
        bench.set(level1 + 5 * 8, leaf | 3);
        assert_eq!((at(sid), at(sid + 1)), (Ok(0x1000), Err(FaultCode::C_BAD_STREAMID)));
        bench.set(level1 + 5 * 8, leaf | 2);
        assert_eq!(at(sid), Err(FaultCode::C_BAD_STREAMID));
        bench.set(level1 + 5 * 8, leaf | u64::from(split + 2));
        assert_eq!(at(sid), Err(FaultCode::C_BAD_STREAMID));
        bench.set(level1 + 5 * 8, 0x100_0000 | u64::from(split + 1));
        assert_eq!(at(sid), Err(FaultCode::F_STE_FETCH));
    }
}

#[test]
fn a_level_1_stream_table_descriptor_has_reserved_bits() {
    let bench = Bench::up(Config::nested());
    let (level1, leaf) = (frame(&bench.memory), frames(&bench.memory, 2));
    let tables = iommu_models::smmuv3::walk::Tables { base: level1, config: 1 << 16 | 8 << 6 | 16 };
    let read64 = |phys| bench.memory.device_read64(phys);
    let at = || translate(&read64, tables, bench.model.config(), 3, None, Iova::new(0), true).map(|_| ());
    bench.set(leaf + 3 * 64, 4 << 1 | 1);
    for bit in 0..64 {
        bench.set(level1, (leaf | 9) ^ 1 << bit);
        let expected = match bit {
            // Spans 8, 11, 13, 1 and 25 of 9: 128 streams, and four that are none or too small.
            0 => Ok(()),
            1..=5 | 52..=63 => Err(FaultCode::C_BAD_STREAMID),
            // Below its alignment.
            6..=13 => Ok(()),
            _ => continue,
        };
        assert_eq!(at(), expected, "bit {bit}");
    }
}

#[test]
fn a_linear_table_ends() {
    let bench = Bench::up(Config::nested());
    bench.set_ste(63, &[4 << 1 | 1]);
    assert_eq!(bench.access(63, None, 0x1000, false), Ok(0x1000));
    assert_eq!(bench.access(64, None, 0x1000, false), Err(FaultCode::C_BAD_STREAMID));
    assert_eq!(bench.access(u32::MAX, None, 0x1000, false), Err(FaultCode::C_BAD_STREAMID));
}

#[test]
fn substreams_have_cds_of_their_own() {
    let bench = Bench::first(Config::server());
    bench.map_first(0, 0x5000);
    let at = |ssid| bench.model.translate(SID, ssid, Iova::new(0), true).map(|found| found.phys.get());
    assert_eq!((at(None), at(Some(0))), (Ok(0x5000), Err(FaultCode::C_BAD_SUBSTREAMID)));
    // Eight of them, linear; SID's own CD is the first.
    let ste = |format: u64, log2: u64, pointer: u64, default: u64| {
        bench.set_ste(SID, &[log2 << 59 | format << 4 | pointer | 5 << 1 | 1, default]);
    };
    ste(0, 3, bench.cd(8), 0);
    let own = [0, 1, 2, 3].map(|word| bench.get(bench.cd(8) + word * 8));
    for (word, value) in own.into_iter().enumerate().rev() {
        bench.set(bench.cd(8 + 5) + word as u64 * 8, value);
    }
    assert_eq!(at(None), Err(FaultCode::F_STREAM_DISABLED));
    assert_eq!((at(Some(0)), at(Some(5))), (Ok(0x5000), Ok(0x5000)));
    assert_eq!((at(Some(4)), at(Some(8))), (Err(FaultCode::C_BAD_CD), Err(FaultCode::C_BAD_SUBSTREAMID)));
    ste(0, 3, bench.cd(8), 1);
    assert_eq!((at(None), at(Some(0))), (Ok(0), Ok(0x5000)));
    ste(0, 3, bench.cd(8), 2);
    assert_eq!((at(None), at(Some(0))), (Ok(0x5000), Err(FaultCode::F_STREAM_DISABLED)));
    ste(0, 3, bench.cd(8), 3);
    assert_eq!(at(None), Err(FaultCode::C_BAD_STE));
    // Two levels, leaves of 64.
    let level1 = frame(&bench.memory);
    bench.set(level1 + 8, bench.cds | 1);
    ste(1, 12, level1, 2);
    assert_eq!((at(Some(64 + 8)), at(Some(64 + 13))), (Ok(0x5000), Ok(0x5000)));
    assert_eq!((at(Some(63)), at(Some(64))), (Err(FaultCode::C_BAD_SUBSTREAMID), Err(FaultCode::C_BAD_CD)));
    ste(3, 12, level1, 2);
    assert_eq!(at(Some(64 + 8)), Err(FaultCode::C_BAD_STE));
    ste(0, 21, level1, 2);
    assert_eq!(at(Some(64 + 8)), Err(FaultCode::C_BAD_STE));
}

#[test]
fn a_translation_names_its_tags() {
    let bench = Bench::first(Config::nested());
    bench.map_first(1, 0x5000);
    let at = |bench: &Bench| bench.model.translate(SID, None, Iova::new(0x1234), false).unwrap();
    let found = Translation {
        phys: PhysAddr::new(0x5234),
        size: 0x1000,
        write: true,
        read: true,
        asid: Some(ASID as u16),
        vmid: Some(0),
    };
    assert_eq!(at(&bench), found);
    let bench = Bench::second(Config::nested());
    bench.map_second(1, 0x5000);
    assert_eq!(at(&bench), Translation { asid: None, vmid: Some(VMID as u16), ..found });
    bench.set_ste(SID, &[4 << 1 | 1]);
    assert_eq!(at(&bench), Translation { phys: PhysAddr::new(0x1234), asid: None, vmid: None, ..found });
    let bench = Bench::nested(Config::nested());
    bench.map_first(1, 0x7000);
    bench.map_second(7, 0x5000);
    assert_eq!(at(&bench), Translation { vmid: Some(VMID as u16), ..found });
}

#[test]
fn a_stream_reaches_its_leaves() {
    let bench = Bench::first(Config::nested());
    let read64 = |phys| bench.memory.device_read64(phys);
    let all = || reachable(&read64, bench.model.tables(), bench.model.config(), SID, None);
    let reach =
        |iova, phys, len, write| Reach { iova: Iova::new(iova), phys: PhysAddr::new(phys), len, read: true, write };
    assert_eq!(all(), Ok(vec![]));
    bench.map_first(3, 0x5000);
    bench.set(bench.first[2] + 4 * 8, 0x6000 | PAGE_1 | 1 << 7);
    // Not reachable: no access flag.
    bench.set(bench.first[2] + 5 * 8, 0x6000 | PAGE_1 & !(1 << 10));
    bench.set(bench.first[1] + 8, 0x4000_0000 | PAGE_1 & !2);
    assert_eq!(
        all(),
        Ok(vec![
            reach(0x3000, 0x5000, 0x1000, true),
            reach(0x4000, 0x6000, 0x1000, false),
            reach(0x20_0000, 0x4000_0000, 0x20_0000, true),
        ])
    );
    bench.set(bench.ste(SID), 4 << 1 | 1);
    assert_eq!(all(), Ok(vec![reach(0, 0, 1 << 44, true)]));
    bench.set(bench.ste(SID), 0);
    assert_eq!(all(), Err(FaultCode::C_BAD_STE));
}

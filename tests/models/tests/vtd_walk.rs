//! The walker: depths, leaves, and each check of each structure.

mod common;

use common::*;
use iommu_core::addr::{Iova, PhysAddr};
use iommu_models::vtd::walk::{reachable, translate};
use iommu_models::vtd::{Config, FaultCode};

/// What the tables in memory say, without caches.
fn walk(bench: &Bench, iova: u64, write: bool) -> Result<u64, FaultCode> {
    bench.model.translate(RID, None, Iova::new(iova), write).map(|found| found.phys.get())
}

/// Changes one word, walks address 0 for reading, and puts the word back.
fn with(bench: &Bench, phys: u64, value: u64) -> Result<u64, FaultCode> {
    let before = bench.get(phys);
    bench.set(phys, value);
    let found = walk(bench, 0, false);
    bench.set(phys, before);
    found
}

fn or(bench: &Bench, phys: u64, bits: u64) -> Result<u64, FaultCode> {
    with(bench, phys, bench.get(phys) | bits)
}

#[test]
fn structures_are_checked() {
    let bench = Bench::up(Config::second_stage());
    bench.map(0, 0x5000);
    assert_eq!(walk(&bench, 0x123, true), Ok(0x5123));
    let (root, context, directory, pasid) = (bench.root, bench.context_entry(RID), bench.directory, bench.pasids);
    let checks = [
        (root, [FaultCode::ROOT_NOT_PRESENT, FaultCode::ROOT_RESERVED, FaultCode::CONTEXT_ACCESS]),
        (context, [FaultCode::CONTEXT_NOT_PRESENT, FaultCode::CONTEXT_RESERVED, FaultCode::DIRECTORY_ACCESS]),
        (directory, [FaultCode::DIRECTORY_NOT_PRESENT, FaultCode::DIRECTORY_RESERVED, FaultCode::PASID_ACCESS]),
        (pasid, [FaultCode::PASID_NOT_PRESENT, FaultCode::PASID_RESERVED, FaultCode::SECOND_TOP_ACCESS]),
    ];
    for (word, [not_present, reserved, nowhere]) in checks {
        assert_eq!(with(&bench, word, 0), Err(not_present));
        assert_eq!(or(&bench, word, 1 << 50), Err(reserved), "address beyond the host");
        assert_eq!(with(&bench, word, bench.get(word) & 0xfff), Err(nowhere));
    }
    for (word, bits, code) in [
        (root, 1 << 1, FaultCode::ROOT_RESERVED),
        (root, 1 << 11, FaultCode::ROOT_RESERVED),
        (directory, 1 << 2, FaultCode::DIRECTORY_RESERVED),
        (directory, 1 << 11, FaultCode::DIRECTORY_RESERVED),
    ] {
        assert_eq!(or(&bench, word, bits), Err(code), "{word:#x} {bits:#x}");
    }
    // Context: bits 8:5; DTE, PASIDE, PRE of a unit without; RID_PRIV; the other words.
    for (word, bit) in [(0, 5), (0, 8), (0, 2), (0, 3), (0, 4), (1, 20), (1, 21), (1, 63), (2, 0), (3, 63)] {
        assert_eq!(or(&bench, context + word * 8, 1 << bit), Err(FaultCode::CONTEXT_RESERVED), "{word} {bit}");
    }
    // RID_PASID is reserved without RPS.
    assert_eq!(or(&bench, context + 8, 1), Err(FaultCode::CONTEXT_RESERVED));
    // PASID entry: reserved bits; SSADE, PWSNP, PGSNP, ERE, EAFE of a unit without.
    for (word, bit) in
        [(0, 10), (0, 11), (1, 16), (1, 22), (2, 8), (2, 11), (3, 0), (7, 63), (0, 9), (1, 23), (1, 24), (2, 1), (2, 7)]
    {
        assert_eq!(or(&bench, pasid + word * 8, 1 << bit), Err(FaultCode::PASID_RESERVED), "{word} {bit}");
    }
    // PGTT: reserved, first stage and nested which this unit lacks; width 5 levels which it lacks.
    for kind in [0, 1, 3, 5, 6, 7] {
        let entry = bench.get(pasid) & !(7 << 6) | kind << 6;
        assert_eq!(with(&bench, pasid, entry), Err(FaultCode::PASID_INVALID), "PGTT {kind}");
    }
    for width in [0, 3, 4] {
        let entry = bench.get(pasid) & !(7 << 2) | width << 2;
        assert_eq!(with(&bench, pasid, entry), Err(FaultCode::PASID_INVALID), "AW {width}");
    }
    assert_eq!(walk(&bench, 0, true), Ok(0x5000));
}

#[test]
fn the_root_and_the_mode_are_checked() {
    let bench = Bench::up(Config::second_stage());
    let read64 = |phys| bench.memory.device_read64(phys);
    let code =
        |rtaddr, pasid| translate(&read64, rtaddr, bench.model.config(), RID, pasid, Iova::new(0), false).unwrap_err();
    assert_eq!(code(bench.root, Some(1)), FaultCode::MODE);
    assert_eq!(code(bench.root | 2 << 10, None), FaultCode::ROOT_ADDRESS);
    // Without ADMS.
    assert_eq!(code(bench.root | 3 << 10, None), FaultCode::ROOT_ADDRESS);
    assert_eq!(code(1 << 50 | SCALABLE, None), FaultCode::ROOT_ADDRESS);
    assert_eq!(code(0x1000 | SCALABLE, None), FaultCode::ROOT_ACCESS);
}

#[test]
fn both_halves_of_a_root_entry_are_used() {
    let mut bench = Bench::up(Config::second_stage());
    let high = 0x1288;
    bench.attach(high);
    bench.map(0, 0x7000);
    assert_eq!(bench.access(high, None, 0, false), Ok(0x7000));
    bench.set(bench.root_entry(high), 0);
    assert_eq!(bench.root_entry(high), bench.root + 0x12 * 16 + 8);
    bench.submit(0x11, 0);
    bench.submit(0x12, 0);
    assert_eq!(bench.access(high, None, 0, false), Err(FaultCode::ROOT_NOT_PRESENT));
}

#[test]
fn pasids_are_bounded_by_the_directory() {
    let bench = Bench::up(Config::server());
    bench.map(0, 0x5000);
    let context = bench.context_entry(RID);
    bench.set(context, bench.get(context) | 1 << 3);
    let walk = |pasid| bench.model.translate(RID, Some(pasid), Iova::new(0), true).map(|found| found.phys.get());
    // The PASID of requests without.
    assert_eq!(walk(0), Err(FaultCode::RID_PASID));
    assert_eq!(walk(1), Err(FaultCode::PASID_NOT_PRESENT));
    assert_eq!(walk(8191), Err(FaultCode::DIRECTORY_NOT_PRESENT));
    assert_eq!(walk(8192), Err(FaultCode::PASID_TOO_LARGE));
    bench.set(context, bench.get(context) | 1 << 9);
    // Twice the directory; its upper half lies in the same frame.
    assert_eq!(walk(8192), Err(FaultCode::DIRECTORY_NOT_PRESENT));
    bench.set(context + 8, 0x4000);
    assert_eq!(bench.read_at(0), Err(FaultCode::CONTEXT_INVALID));
    bench.set(context + 8, 1);
    assert_eq!(bench.model.translate(RID, None, Iova::new(0), true), Err(FaultCode::PASID_NOT_PRESENT));
}

#[test]
fn second_stage_entries_are_checked() {
    let bench = Bench::up(Config::second_stage());
    bench.map(0, 0x5000);
    let [top, third, second, first] = bench.tables[..] else { unreachable!() };
    for table in [top, third, second, first] {
        assert_eq!(with(&bench, table, bench.get(table) & !3), Err(FaultCode::SECOND_PERMISSION));
        assert_eq!(or(&bench, table, 1 << 49), Err(FaultCode::SECOND_RESERVED));
        assert_eq!(or(&bench, table, 1 << 62), Err(FaultCode::SECOND_RESERVED));
        // Software's bits.
        assert_eq!(or(&bench, table, 1 << 63 | 0x3ff << 52 | 1 << 10), Ok(0x5000));
        // Only what every level allows.
        bench.set(table, bench.get(table) & !2);
        assert_eq!((walk(&bench, 0, false), walk(&bench, 0, true)), (Ok(0x5000), Err(FaultCode::NO_WRITE)));
        bench.set(table, bench.get(table) & !3 | 2);
        assert_eq!((walk(&bench, 0, false), walk(&bench, 0, true)), (Err(FaultCode::NO_READ), Ok(0x5000)));
        bench.set(table, bench.get(table) | 3);
    }
    for table in [top, third, second] {
        assert_eq!(with(&bench, table, 0x1003), Err(FaultCode::SECOND_ACCESS));
    }
    assert_eq!(or(&bench, top, 1 << 7), Err(FaultCode::SECOND_RESERVED));
    // SNP without SC, and in an entry that leads on.
    assert_eq!(or(&bench, first, 1 << 11), Err(FaultCode::SECOND_RESERVED));
    assert_eq!(or(&bench, second, 1 << 11), Err(FaultCode::SECOND_RESERVED));
    // Large leaves are aligned.
    assert_eq!(with(&bench, second, 0x4020_0083), Ok(0x4020_0000));
    assert_eq!(with(&bench, second, 0x4020_1083), Err(FaultCode::SECOND_RESERVED));
    assert_eq!(with(&bench, third, 0x4000_0083), Ok(0x4000_0000));
    assert_eq!(with(&bench, third, 0x4020_0083), Err(FaultCode::SECOND_RESERVED));
    assert_eq!(walk(&bench, 1 << 48, false), Err(FaultCode::BEYOND_WIDTH));
}

#[test]
fn large_leaves_need_the_capability() {
    let bench = Bench::up(Config::second_stage().cap_bits(3 << 34, false));
    assert_eq!(with(&bench, bench.tables[2], 0x4020_0083), Err(FaultCode::SECOND_RESERVED));
    assert_eq!(with(&bench, bench.tables[1], 0x4000_0083), Err(FaultCode::SECOND_RESERVED));
    let bench = Bench::up(Config::first_stage().cap_bits(1 << 56, false));
    assert_eq!(with(&bench, bench.tables[2], 0x4020_00e7), Ok(0x4020_0000));
    assert_eq!(with(&bench, bench.tables[1], 0x4000_00e7), Err(FaultCode::FIRST_RESERVED));
}

#[test]
fn the_second_stage_has_three_to_five_levels() {
    let config = Config::server();
    for levels in 3..=5u64 {
        let bench = Bench::up(config);
        let tables: Vec<u64> = (0..levels).map(|_| frame(&bench.memory)).collect();
        // The highest page but one.
        let iova = (1 << (12 + 9 * levels)) - 0x2000u64;
        for (depth, table) in tables.iter().enumerate() {
            let level = levels - depth as u64;
            let next = tables.get(depth + 1).copied().unwrap_or(0x7000);
            bench.set(table + (iova >> (3 + 9 * level) & 0x1ff) * 8, next | 3);
        }
        bench.set(bench.pasids, tables[0] | 2 << 6 | (levels - 2) << 2 | 1);
        assert_eq!(walk(&bench, iova + 5, true), Ok(0x7005), "{levels} levels");
        assert_eq!(walk(&bench, iova + 0x1000, true), Err(FaultCode::SECOND_PERMISSION));
        assert_eq!(walk(&bench, 1 << (12 + 9 * levels), true), Err(FaultCode::BEYOND_WIDTH));
    }
    // MGAW bounds the input of a deeper table.
    let bench = Bench::up(Config::second_stage().cap_bits(0x3f << 16, false).cap_bits(38 << 16, true));
    assert_eq!(walk(&bench, (1 << 39) - 1, true), Err(FaultCode::SECOND_PERMISSION));
    assert_eq!(walk(&bench, 1 << 39, true), Err(FaultCode::BEYOND_WIDTH));
}

#[test]
fn first_stage_entries_are_checked() {
    let bench = Bench::up(Config::first_stage());
    bench.map(0, 0x5000);
    assert_eq!(walk(&bench, 0x10, true), Ok(0x5010));
    let [top, third, second, first] = bench.tables[..] else { unreachable!() };
    for table in [top, third, second, first] {
        let entry = bench.get(table);
        assert_eq!(with(&bench, table, entry & !1), Err(FaultCode::FIRST_NOT_PRESENT));
        assert_eq!(with(&bench, table, entry & !4), Err(FaultCode::USER));
        assert_eq!(or(&bench, table, 1 << 49), Err(FaultCode::FIRST_RESERVED));
        // XD without NXE.
        assert_eq!(or(&bench, table, 1 << 63), Err(FaultCode::FIRST_RESERVED));
        assert_eq!(or(&bench, table, 0x7ff << 52 | 1 << 9), Ok(0x5000));
        assert_eq!(with(&bench, table, entry & !(1 << 5)), Err(FaultCode::FIRST_ACCESSED));
        bench.set(table, entry & !2);
        assert_eq!((walk(&bench, 0, false), walk(&bench, 0, true)), (Ok(0x5000), Err(FaultCode::FIRST_WRITE)));
        bench.set(table, entry);
    }
    bench.set(first, bench.get(first) & !(1 << 6));
    assert_eq!((walk(&bench, 0, false), walk(&bench, 0, true)), (Ok(0x5000), Err(FaultCode::FIRST_ACCESSED)));
    assert_eq!(with(&bench, top, 0x1027), Err(FaultCode::FIRST_ACCESS));
    assert_eq!(with(&bench, bench.pasids + 16, 0x1000), Err(FaultCode::FIRST_TOP_ACCESS));
    assert_eq!(or(&bench, top, 1 << 7), Err(FaultCode::FIRST_RESERVED));
    // PAT at bit 7 of a 4 KiB leaf, at bit 12 of a larger one.
    assert_eq!(or(&bench, first, 1 << 7), Ok(0x5000));
    assert_eq!(with(&bench, second, 0x4020_10e7), Ok(0x4020_0000));
    assert_eq!(with(&bench, second, 0x4020_20e7), Err(FaultCode::FIRST_RESERVED));
    assert_eq!(with(&bench, third, 0x4000_00e7), Ok(0x4000_0000));
    assert_eq!(with(&bench, third, 0x4000_20e7), Err(FaultCode::FIRST_RESERVED));
    // NXE makes XD an ordinary bit.
    bench.set(bench.pasids + 16, bench.get(bench.pasids + 16) | 1 << 5);
    assert_eq!(or(&bench, first, 1 << 63), Ok(0x5000));
}

#[test]
fn the_first_stage_wants_canonical_addresses() {
    let bench = Bench::up(Config::first_stage());
    assert_eq!(walk(&bench, 1 << 47, false), Err(FaultCode::NOT_CANONICAL));
    assert_eq!(walk(&bench, (1 << 47) - 1, false), Err(FaultCode::FIRST_NOT_PRESENT));
    assert_eq!(walk(&bench, u64::MAX << 47, false), Err(FaultCode::FIRST_NOT_PRESENT));
    // Five levels need FS5LP.
    let fifth = bench.tables[0] | 1 << 2;
    assert_eq!(with(&bench, bench.pasids + 16, fifth), Err(FaultCode::PASID_INVALID));
    let bench = Bench::up(Config::server());
    bench.map(0, 0x5000);
    let top = frame(&bench.memory);
    bench.set(top, bench.tables[0] | 0x27);
    bench.set(bench.pasids + 16, top | 1 << 2);
    assert_eq!(walk(&bench, 0, true), Ok(0x5000));
    assert_eq!(walk(&bench, 1 << 47, false), Err(FaultCode::FIRST_NOT_PRESENT));
    assert_eq!(walk(&bench, 1 << 56, false), Err(FaultCode::NOT_CANONICAL));
}

#[test]
fn pass_through_keeps_to_the_host() {
    let bench = Bench::up(Config::second_stage());
    bench.set(bench.pasids, 4 << 6 | 2 << 2 | 1);
    assert_eq!(walk(&bench, 0x1234_5678, true), Ok(0x1234_5678));
    assert_eq!(walk(&bench, 1 << 48, true), Err(FaultCode::BEYOND_HOST));
    assert_eq!(with(&bench, bench.pasids, 4 << 6 | 1), Err(FaultCode::PASID_INVALID));
}

#[test]
fn a_walk_runs_on_a_snapshot() {
    let bench = Bench::up(Config::second_stage());
    bench.map(0, 0x5000);
    let snapshot = bench.memory.snapshot();
    bench.map(0, 0x6000);
    let read64 = |phys: PhysAddr| snapshot.read64(phys);
    let found = translate(&read64, bench.model.root(), bench.model.config(), RID, None, Iova::new(0x10), true).unwrap();
    assert_eq!((found.phys.get(), found.size, found.domain), (0x5010, 0x1000, DOMAIN as u16));
    assert!(found.read && found.write);
}

#[test]
fn all_that_is_reachable_is_found() {
    for (config, read_only) in [(Config::second_stage(), 1), (Config::first_stage(), 0x25)] {
        let bench = Bench::up(config);
        let reach = || {
            let read64 = |phys| bench.memory.device_read64(phys);
            let found = reachable(&read64, bench.model.root(), bench.model.config(), RID, None)?;
            let list = found.iter().map(|r| (r.iova.get(), r.phys.get(), r.len, r.read, r.write));
            Ok::<_, FaultCode>(list.collect::<Vec<_>>())
        };
        assert_eq!(reach(), Ok(vec![]));
        bench.map(3, 0x5000);
        bench.set(bench.leaf(511), 0x6000 | read_only);
        let large = if read_only == 1 { 0x83 } else { 0xe7 };
        bench.set(bench.tables[2] + 8, 0x4000_0000 | large);
        bench.set(bench.tables[1] + 511 * 8, 0x8000_0000 | large);
        // One that would fault: reserved bits.
        bench.set(bench.leaf(4), 0x7000 | 1 << 49 | 3);
        let top = (511 << 30, 0x8000_0000, 1 << 30, true, true);
        let second = (0x20_0000, 0x4000_0000, 0x20_0000, true, true);
        let pages = [(0x3000, 0x5000, 0x1000, true, true), (0x1f_f000, 0x6000, 0x1000, true, false)];
        assert_eq!(reach(), Ok(vec![pages[0], pages[1], second, top]));
        // The upper half of the first stage is sign-extended.
        bench.set(bench.tables[0], 0);
        bench.set(bench.tables[0] + 511 * 8, bench.tables[1] | 0x27);
        let first = reach().unwrap()[0].0;
        assert_eq!(first, if read_only == 1 { 0xff80_0000_3000 } else { 0xffff_ff80_0000_3000 });
        bench.set(bench.pasids, 4 << 6 | 2 << 2 | 1);
        assert_eq!(reach(), Ok(vec![(0, 0, 1 << 48, true, true)]));
        bench.set(bench.pasids, 0);
        assert_eq!(reach(), Err(FaultCode::PASID_NOT_PRESENT));
    }
}

//! Stage 1 through stage 2: where CDs and tables are fetched, whose faults they are, and how both are cached.

mod smmuv3_common;

use iommu_core::addr::Iova;
use iommu_models::smmuv3::walk::{Reach, reachable};
use iommu_models::smmuv3::{Config, Event, FaultCode};
use smmuv3_common::*;

/// CLASS.
const CD_FETCH: u64 = 0;
const TABLE: u64 = 1;
const INPUT: u64 = 2;

/// Where the page of stage 2 stands that maps `ipa` within the arena.
fn slot(bench: &Bench, ipa: u64) -> u64 {
    let base = bench.memory.base().get();
    let middle = bench.get(bench.second[0] + (base >> 30) * 8) & !0xfff;
    let leaves = bench.get(middle + (base >> 21 & 0x1ff) * 8) & !0xfff;
    leaves + (ipa >> 12 & 0x1ff) * 8
}

/// A nested stream: page 3 leads to 0x7000 of the guest, which is 0x9000 of the host.
fn rig() -> Bench {
    let bench = Bench::nested(Config::nested());
    bench.map_first(3, 0x7000);
    bench.map_second(7, 0x9000);
    bench
}

fn event(bench: &Bench, write: bool) -> Event {
    bench.model.take_events();
    let _ = bench.access(SID, None, 0x3010, write);
    bench.model.take_events()[0]
}

/// S2, CLASS, IPA of an event.
fn second(event: &Event) -> (bool, u64, u64) {
    (event.raw[1] >> 39 & 1 != 0, event.raw[1] >> 40 & 3, event.raw[3])
}

#[test]
fn everything_of_stage_1_lies_behind_stage_2() {
    let bench = rig();
    assert_eq!(bench.write_at(0x3010), Ok(0x9010));
    // The guest's tables and its CD are moved: the guest does not see it.
    for at in [bench.cd(SID.into()), bench.first[0], bench.first[1], bench.first[2]] {
        let mut bench = rig();
        let from = at & !0xfff;
        let to = frame(&bench.memory);
        // Frames are handed out alike: this rig has it in the same place.
        assert!((0..512).any(|word| bench.get(from + word * 8) != 0), "{at:#x}");
        for word in 0..512 {
            bench.set(to + word * 8, bench.get(from + word * 8));
            bench.set(from + word * 8, 0);
        }
        assert!(bench.write_at(0x3010).is_err());
        bench.set(slot(&bench, from), to | PAGE_2);
        bench.invalidate_all();
        assert_eq!(bench.write_at(0x3010), Ok(0x9010), "{at:#x}");
    }
}

#[test]
fn faults_of_stage_2_say_what_was_asked_for() {
    let places = |bench: &Bench| {
        let cd = bench.cd(SID.into());
        [
            (CD_FETCH, cd),
            (TABLE, bench.first[0]),
            (TABLE, bench.first[1]),
            (TABLE, bench.first[2] + 3 * 8),
            (INPUT, 0x7010),
        ]
    };
    for index in 0..5 {
        for (word, code) in [
            (0, FaultCode::F_TRANSLATION),
            (PAGE_2 & !(1 << 10), FaultCode::F_ACCESS),
            (PAGE_2 & !(1 << 6), FaultCode::F_PERMISSION),
            (PAGE_2 | 1 << 46, FaultCode::F_ADDR_SIZE),
        ] {
            let bench = rig();
            let (class, ipa) = places(&bench)[index];
            let at = if class == INPUT { bench.second[2] + 7 * 8 } else { slot(&bench, ipa) };
            let word = if word == 0 { 0 } else { bench.get(at) & 0x0000_0fff_ffff_f000 | word };
            bench.set(at, word);
            let event = event(&bench, false);
            assert_eq!((event.code, event.iova), (code, Iova::new(0x3010)));
            assert_eq!(second(&event), (true, class, ipa & !0xfff), "{code:?}, {index}");
            // TTRnW: it was a read.
            let read = code == FaultCode::F_PERMISSION && class == TABLE;
            assert_eq!(event.raw[1] >> 44 & 1 != 0, read);
        }
    }
}

#[test]
fn no_memory_behind_stage_2_is_an_abort_of_what_was_fetched() {
    // Of the guest's own tables: stage 1's; S2 is clear.
    let bench = rig();
    bench.set(slot(&bench, bench.first[1]), 0x9000 | PAGE_2);
    let seen = event(&bench, false);
    assert_eq!((seen.code, second(&seen)), (FaultCode::F_WALK_EABT, (false, TABLE, 0x9000)));
    let bench = rig();
    let cd = bench.cd(SID.into());
    bench.set(slot(&bench, cd), 0x9000 | PAGE_2);
    let seen = event(&bench, false);
    assert_eq!((seen.code, seen.raw[3] & !0xfff), (FaultCode::F_CD_FETCH, 0x9000));
    // Of the host's tables.
    let bench = rig();
    bench.set(bench.second[0], 0xa000 | 3);
    let seen = event(&bench, false);
    assert_eq!((seen.code, second(&seen)), (FaultCode::F_WALK_EABT, (true, INPUT, 0xa000)));
}

#[test]
fn both_stages_must_allow_an_access() {
    for first in [true, false] {
        for second in [0, 1, 2, 3u64] {
            let bench = rig();
            bench.set(bench.first[2] + 3 * 8, 0x7000 | PAGE_1 | u64::from(!first) << 7);
            bench.set(bench.second[2] + 7 * 8, 0x9000 | PAGE_2 & !(3 << 6) | second << 6);
            let refused = Err(FaultCode::F_PERMISSION);
            let read = if second & 1 != 0 { Ok(0x9010) } else { refused };
            let write = if first && second & 2 != 0 { Ok(0x9010) } else { refused };
            for _ in 0..2 {
                // The second time from the caches.
                assert_eq!((bench.read_at(0x3010), bench.write_at(0x3010)), (read, write), "{first}, {second}");
            }
            if write.is_err() {
                // Stage 1 comes first.
                let seen = event(&bench, true);
                assert_eq!(seen.raw[1] >> 39 & 1 != 0, first, "{first}, {second}");
            }
        }
    }
}

#[test]
fn level_1_descriptors_of_cds_lie_behind_stage_2_as_well() {
    let bench = Bench::nested(Config::server());
    let level1 = frame(&bench.memory);
    bench.set(level1 + 8, bench.cds | 1);
    bench.set(bench.ste(SID), 12 << 59 | 1 << 4 | level1 | 7 << 1 | 1);
    bench.map_first(3, 0x7000);
    bench.map_second(7, 0x9000);
    let at = |ssid| bench.access(SID, Some(ssid), 0x3010, true);
    assert_eq!(at(64 + 8), Ok(0x9010));
    assert_eq!(bench.write_at(0x3010), Err(FaultCode::F_STREAM_DISABLED));
    bench.set(slot(&bench, level1), 0);
    // CD and descriptor are cached, and stage 2 of them.
    assert_eq!((at(64 + 8), at(64 + 9)), (Ok(0x9010), Err(FaultCode::C_BAD_CD)));
    let other = Bench::nested(Config::server());
    other.set(other.ste(SID), 12 << 59 | 1 << 4 | 0x20_0000 | 7 << 1 | 1);
    other.model.take_events();
    assert_eq!(other.access(SID, Some(64), 0, false), Err(FaultCode::F_TRANSLATION));
    let seen = other.model.take_events()[0];
    assert_eq!(second(&seen), (true, CD_FETCH, 0x20_0000));
    // S1DSS 1: only stage 2 is left.
    let bypass = Bench::nested(Config::server());
    bypass.map_second(7, 0x9000);
    bypass.set_ste(SID, &[3 << 59 | bypass.cds | 7 << 1 | 1, 1, STE_2 | VMID, bypass.second[0]]);
    assert_eq!(bypass.write_at(0x7010), Ok(0x9010));
    assert_eq!(bypass.write_at(0x3010), Err(FaultCode::F_TRANSLATION));
}

#[test]
fn s2ptw_keeps_stage_1_out_of_device_memory() {
    for (place, class) in [(0, CD_FETCH), (1, TABLE)] {
        let bench = rig();
        let at = slot(&bench, if place == 0 { bench.cd(SID.into()) } else { bench.first[1] });
        bench.set(at, bench.get(at) & !(0xf << 2) | 1 << 2);
        assert_eq!(bench.model.translate(SID, None, Iova::new(0x3010), true).unwrap().phys.get(), 0x9010);
        let word = bench.ste(SID) + 16;
        bench.set(word, bench.get(word) | 1 << 54);
        let seen = event(&bench, false);
        assert_eq!((seen.code, second(&seen).1), (FaultCode::F_PERMISSION, class));
    }
    // What the device itself asks for may be device memory.
    let bench = rig();
    bench.set(bench.second[2] + 7 * 8, 0x9000 | PAGE_2 & !(0xf << 2) | 1 << 2);
    bench.set(bench.ste(SID) + 16, bench.get(bench.ste(SID) + 16) | 1 << 54);
    assert_eq!(bench.write_at(0x3010), Ok(0x9010));
}

#[test]
fn what_stage_2_gave_tables_of_stage_1_stays_until_stage_1_is_invalidated() {
    // The hypervisor moves a page in which the guest has a table: TLBI_S2_IPA does not reach what is kept of both stages.
    for (level, also) in [(0, 0x10), (1, 0x10), (2, 0x10), (2, 0x28), (2, 0x30)] {
        let mut bench = rig();
        bench.map_first(4, 0x8000);
        bench.map_second(8, 0xb000);
        assert_eq!(bench.read_at(0x3000), Ok(0x9000));
        let from = bench.first[level];
        let to = frame(&bench.memory);
        for word in 0..512 {
            bench.set(to + word * 8, bench.get(from + word * 8));
        }
        // The guest's page 4 leads elsewhere in the copy.
        let (middle, leaves) = (frame(&bench.memory), frame(&bench.memory));
        bench.set(leaves + 4 * 8, 0x7000 | PAGE_1);
        bench.set(middle, leaves | 3);
        match level {
            0 => bench.set(to, middle | 3),
            1 => bench.set(to, leaves | 3),
            _ => bench.set(to + 4 * 8, 0x7000 | PAGE_1),
        }
        bench.set(slot(&bench, from), to | PAGE_2);
        bench.tlbi_ipa(VMID, from);
        assert_eq!(bench.read_at(0x4000), Ok(0xb000), "level {level}");
        bench.map_first(5, 0x8000);
        let low = if also == 0x30 { 0x30 } else { VMID << 32 | also };
        bench.run(low, 0);
        assert_eq!(bench.read_at(0x4000), Ok(0x9000), "level {level}");
        assert_eq!(bench.model.violations(), []);
    }
}

#[test]
fn tables_that_are_read_for_the_first_time_go_by_what_stage_2_says_now() {
    let mut bench = rig();
    assert_eq!(bench.read_at(0x3000), Ok(0x9000));
    bench.set(slot(&bench, bench.first[2]), 0);
    bench.tlbi_ipa(VMID, bench.first[2]);
    assert_eq!(bench.read_at(0x20_0000), Err(FaultCode::F_TRANSLATION), "of stage 1: nothing is mapped there");
    bench.run(VMID << 32 | 0x10, 0);
    bench.model.take_events();
    assert_eq!(bench.read_at(0x3000), Err(FaultCode::F_TRANSLATION));
    assert_eq!(second(&bench.model.take_events()[0]), (true, TABLE, bench.first[2]));
}

#[test]
fn translations_of_cds_and_tables_alone_go_by_ipa() {
    let mut bench = rig();
    assert_eq!(bench.read_at(0x3000), Ok(0x9000));
    // Both stages' are gone, stage 2's own are not: the table is found where it was.
    let at = slot(&bench, bench.first[2]);
    let word = bench.get(at);
    bench.set(at, 0);
    bench.run(VMID << 32 | 0x10, 0);
    assert_eq!(bench.read_at(0x3000), Ok(0x9000));
    bench.run(VMID << 32 | 0x10, 0);
    bench.tlbi_ipa(VMID + 1, bench.first[2]);
    assert_eq!(bench.read_at(0x3000), Ok(0x9000));
    bench.run(VMID << 32 | 0x10, 0);
    bench.tlbi_ipa(VMID, bench.first[2]);
    assert_eq!(bench.read_at(0x3000), Err(FaultCode::F_TRANSLATION));
    bench.set(at, word);
    assert_eq!(bench.read_at(0x3000), Ok(0x9000));
}

#[test]
fn guests_invalidate_by_asid_and_address_under_their_vmid() {
    for (low, high, gone) in [
        (VMID << 32 | ASID << 48 | 0x11, 0, true),
        (VMID << 32 | (ASID + 1) << 48 | 0x11, 0, false),
        ((VMID + 1) << 32 | ASID << 48 | 0x11, 0, false),
        (VMID << 32 | ASID << 48 | 0x12, 0x3001, true),
        (VMID << 32 | ASID << 48 | 0x12, 0x4001, false),
        (VMID << 32 | 0x13, 0x3001, true),
        ((VMID + 1) << 32 | 0x13, 0x3001, false),
        (VMID << 32 | 0x2a, 0x3001, false),
        (VMID << 32 | 0x2a, 0x7001, false),
        (VMID << 32 | 0x28, 0, true),
        ((VMID + 1) << 32 | 0x28, 0, false),
        (0x20, 0, false),
    ] {
        let mut bench = Bench::nested(Config::server());
        bench.map_first(3, 0x7000);
        bench.map_second(7, 0x9000);
        bench.map_second(8, 0xb000);
        assert_eq!(bench.read_at(0x3000), Ok(0x9000));
        bench.map_first(3, 0x8000);
        bench.run(low, high);
        assert_eq!(bench.read_at(0x3000), Ok(if gone { 0xb000 } else { 0x9000 }), "{low:#x}, {high:#x}");
    }
}

#[test]
fn a_block_of_stage_1_in_pieces_is_taken_away_by_any_of_its_addresses() {
    let mut bench = Bench::nested(Config::nested());
    // 2 MiB of stage 1 over pages of stage 2.
    bench.set(bench.first[1], PAGE_1 & !2);
    for page in 0..4 {
        bench.map_second(page, 0x10_0000 + page * 0x1000);
    }
    let all = |bench: &Bench| (0..4).map(|page| bench.read_at(page * 0x1000).unwrap_or(0)).collect::<Vec<_>>();
    assert_eq!(all(&bench), [0x10_0000, 0x10_1000, 0x10_2000, 0x10_3000]);
    assert_eq!(bench.model.translate(SID, None, Iova::new(0), false).unwrap().size, 0x1000);
    bench.set(bench.first[1], 0);
    bench.tlbi_va(VMID, ASID, 0x20_0000);
    assert_eq!(all(&bench).len(), 4);
    assert_ne!(all(&bench)[3], 0);
    bench.tlbi_va(VMID, ASID, 0x1f_f000);
    assert_eq!(all(&bench), [0; 4]);
}

#[test]
fn a_translation_is_as_large_as_the_smaller_of_both() {
    let bench = Bench::nested(Config::nested());
    bench.set(bench.second[1], 0x4000_0000 | PAGE_2 & !2);
    bench.map_first(3, 0x7000);
    assert_eq!(bench.read_at(0x3010), Ok(0x4000_7010));
    let found = bench.model.translate(SID, None, Iova::new(0x3010), false).unwrap();
    assert_eq!((found.size, found.vmid, found.asid), (0x1000, Some(VMID as u16), Some(ASID as u16)));
}

#[test]
fn a_nested_stream_reaches_what_both_stages_map() {
    let bench = rig();
    bench.set(bench.first[1] + 8, PAGE_1 & !2);
    bench.set(bench.second[2] + 9 * 8, 0xc000 | PAGE_2 & !(1 << 7));
    let read64 = |phys| bench.memory.device_read64(phys);
    let all = reachable(&read64, bench.model.tables(), bench.model.config(), SID, None).unwrap();
    let all: Vec<(u64, u64, u64, bool)> =
        all.iter().map(|Reach { iova, phys, len, write, .. }| (iova.get(), phys.get(), *len, *write)).collect();
    let expected =
        [(0x3000, 0x9000, 0x1000, true), (0x20_7000, 0x9000, 0x1000, true), (0x20_9000, 0xc000, 0x1000, false)];
    assert_eq!(all, expected);
}

#[test]
fn tables_of_64_kib_over_pages_of_4_kib() {
    // A table of stage 1 is 16 pages of stage 2, each where it is.
    let mut bench = Bench::nested(Config::nested());
    let (table, moved) = (frames(&bench.memory, 4), frame(&bench.memory));
    let cd = bench.cd(SID.into());
    // 34 bits: a top table of 32 entries, and one of 64 KiB below.
    let top = frames(&bench.memory, 0);
    bench.set(cd + 8, top);
    bench.set(cd, bench.get(cd) & !0xff | 30 | 1 << 6);
    bench.set(top, table | 3);
    let leaf = 5 * 512 + 7;
    bench.set(table + leaf * 8, 0x1_0000 | PAGE_1);
    bench.map_second(16, 0x9000);
    assert_eq!(bench.read_at(leaf << 16), Ok(0x9000));
    // The sixth page of the table is moved.
    bench.set(moved + 7 * 8, 0x2_0000 | PAGE_1);
    bench.set(moved + 8 * 8, 0x2_0000 | PAGE_1);
    bench.map_second(32, 0xb000);
    let at = slot(&bench, table + 5 * 0x1000);
    bench.set(at, moved | PAGE_2);
    bench.tlbi_ipa(VMID, table + 5 * 0x1000);
    assert_eq!(bench.read_at((leaf + 1) << 16), Err(FaultCode::F_TRANSLATION));
    bench.run(VMID << 32 | 0x13, leaf << 16);
    assert_eq!((bench.read_at(leaf << 16), bench.read_at((leaf + 1) << 16)), (Ok(0xb000), Ok(0xb000)));
}

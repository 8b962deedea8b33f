//! The caches: each keeps what it may until an invalidation covers it and a CMD_SYNC has passed, and no longer.

mod smmuv3_common;

use iommu_core::addr::Iova;
use iommu_models::smmuv3::{Config, FaultCode, Violation};
use smmuv3_common::*;

const NOTHING: Result<u64, FaultCode> = Err(FaultCode::F_TRANSLATION);

#[test]
fn nothing_is_gone_before_the_sync() {
    let mut bench = Bench::first(Config::nested());
    bench.map_first(3, 0x5000);
    assert_eq!(bench.read_at(0x3000), Ok(0x5000));
    bench.set(bench.first[2] + 3 * 8, 0);
    bench.submit(0x30, 0);
    bench.submit(4, 31);
    assert_eq!(bench.read32(CMDQ_CONS), bench.prod());
    assert_eq!(bench.read_at(0x3000), Ok(0x5000));
    bench.sync();
    assert_eq!(bench.read_at(0x3000), NOTHING);
}

#[test]
fn a_translation_of_stage_1_stays_until_an_invalidation_covers_it() {
    let mut bench = Bench::first(Config::nested());
    bench.map_first(3, 0x5000);
    bench.map_first(4, 0x6000);
    assert_eq!((bench.read_at(0x3000), bench.read_at(0x4000)), (Ok(0x5000), Ok(0x6000)));
    assert_eq!(bench.model.cached(), [1, 1, 2]);
    bench.map_first(3, 0);
    bench.map_first(4, 0x7000);
    bench.tlbi_va(0, ASID, 0x2000);
    bench.tlbi_va(0, ASID + 1, 0x3000);
    bench.tlbi_va(1, ASID, 0x3000);
    bench.tlbi_asid(0, ASID + 1);
    bench.tlbi_asid(1, ASID);
    bench.tlbi_ipa(0, 0x3000);
    bench.run(1 << 32 | 0x10, 0);
    bench.tlbi_vmid(1);
    bench.cfgi_ste(SID);
    bench.cfgi_cd(SID);
    assert_eq!((bench.read_at(0x3000), bench.read_at(0x4000)), (Ok(0x5000), Ok(0x6000)));
    bench.tlbi_va(0, ASID, 0x3000);
    assert_eq!((bench.read_at(0x3000), bench.read_at(0x4000)), (Ok(0), Ok(0x6000)));
    for (page, (low, high)) in
        [(0x11 | ASID << 48, 0), (0x13, 0x4001), (0x10, 0), (0x28, 0), (0x30, 0), (0x12 | ASID << 48, 0x4000)]
            .into_iter()
            .enumerate()
    {
        let page = 0x10_0000 + page as u64 * 0x1000;
        bench.map_first(4, page);
        assert_ne!(bench.read_at(0x4000), Ok(page));
        bench.run(low, high);
        assert_eq!(bench.read_at(0x4000), Ok(page), "{low:#x}");
    }
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn a_translation_of_stage_2_goes_by_vmid() {
    let mut bench = Bench::second(Config::nested());
    bench.map_second(3, 0x5000);
    assert_eq!(bench.write_at(0x3000), Ok(0x5000));
    bench.set(bench.second[2] + 3 * 8, 0);
    bench.tlbi_ipa(VMID, 0x4000);
    bench.tlbi_ipa(VMID + 1, 0x3000);
    bench.tlbi_vmid(VMID + 1);
    bench.run(VMID << 32 | 0x10, 0);
    bench.tlbi_va(VMID, 0, 0x3000);
    assert_eq!(bench.write_at(0x3000), Ok(0x5000));
    bench.tlbi_ipa(VMID, 0x3000);
    assert_eq!(bench.write_at(0x3000), NOTHING);
    bench.map_second(3, 0x6000);
    assert_eq!(bench.write_at(0x3000), Ok(0x6000));
    bench.set(bench.second[2] + 3 * 8, 0);
    bench.tlbi_vmid(VMID);
    assert_eq!(bench.write_at(0x3000), NOTHING);
}

#[test]
fn tags_are_shared_by_streams() {
    // Two streams, one ASID: what one has cached the other meets, whatever its own tables say.
    let mut bench = Bench::first(Config::nested());
    bench.map_first(3, 0x5000);
    assert_eq!(bench.read_at(0x3000), Ok(0x5000));
    bench.first = (0..3).map(|_| frame(&bench.memory)).collect();
    bench.attach_first(SID + 1, ASID);
    assert_eq!(bench.access(SID + 1, None, 0x3000, false), Ok(0x5000));
    bench.attach_first(SID + 2, ASID + 1);
    assert_eq!(bench.access(SID + 2, None, 0x3000, false), NOTHING);
}

#[test]
fn a_global_translation_is_everybodys() {
    let mut bench = Bench::first(Config::nested());
    bench.set(bench.first[2] + 3 * 8, 0x5000 | PAGE_1 & !(1 << 11));
    assert_eq!(bench.read_at(0x3000), Ok(0x5000));
    bench.first = (0..3).map(|_| frame(&bench.memory)).collect();
    bench.attach_first(SID + 1, ASID + 1);
    assert_eq!(bench.access(SID + 1, None, 0x3000, false), Ok(0x5000));
    bench.tlbi_asid(0, ASID);
    assert_eq!(bench.access(SID + 1, None, 0x3000, false), Ok(0x5000));
    bench.tlbi_va(0, ASID + 1, 0x3000);
    assert_eq!(bench.access(SID + 1, None, 0x3000, false), NOTHING);
}

#[test]
fn both_stages_at_once_are_dropped_by_stage_1() {
    let mut bench = Bench::nested(Config::nested());
    bench.map_first(3, 0x7000);
    bench.map_second(7, 0x9000);
    assert_eq!(bench.read_at(0x3010), Ok(0x9010));
    bench.map_second(7, 0xa000);
    bench.tlbi_ipa(VMID, 0x7000);
    assert_eq!(bench.read_at(0x3010), Ok(0x9010));
    bench.run(VMID << 32 | 0x10, 0);
    assert_eq!(bench.read_at(0x3010), Ok(0xa010));
    // And the other way round: stage 2 is still cached.
    bench.map_second(7, 0xb000);
    bench.run(VMID << 32 | 0x10, 0);
    assert_eq!(bench.read_at(0x3010), Ok(0xa010));
    bench.tlbi_vmid(VMID);
    assert_eq!(bench.read_at(0x3010), Ok(0xb010));
}

#[test]
fn a_range_covers_what_it_spans() {
    let mut bench = Bench::first(Config::nested());
    for page in 0..16 {
        bench.map_first(page, 0x10_0000 + page * 0x1000);
    }
    let read = |bench: &Bench| bench.model.dma(SID, None, Iova::new(0), 0x1_0000, false).unwrap().len();
    assert_eq!(read(&bench), 1);
    for page in 0..16 {
        bench.map_first(page, 0x20_0000 + page * 0x2000);
    }
    assert_eq!(read(&bench), 1);
    // NUM 2: three pages, from page 4 on.
    bench.run(0x12 | ASID << 48 | 2 << 12, 0x4000 | 1 << 10 | 1);
    assert_eq!(read(&bench), 5, "before, three pages, behind");
    let pages: Vec<bool> = (0..16).map(|page| bench.read_at(page * 0x1000) == Ok(0x20_0000 + page * 0x2000)).collect();
    assert_eq!(pages.iter().positions(), [4, 5, 6]);
    // Another granule, or another level, is not meant.
    bench.run(0x12 | ASID << 48 | 2 << 12, 0x8000 | 2 << 10 | 1);
    bench.run(0x12 | ASID << 48 | 7 << 12, 0x8000 | 1 << 10 | 2 << 8 | 1);
    assert_eq!(bench.read_at(0x8000), Ok(0x10_8000));
    bench.run(0x12 | ASID << 48 | 3 << 20, 0x8000 | 1 << 10 | 3 << 8 | 1);
    assert_eq!(bench.read_at(0x8000), Ok(0x21_0000));
    assert_eq!(bench.read_at(0xf000), Ok(0x21_e000));
    assert_eq!(bench.read_at(0x3000), Ok(0x10_3000));
}

trait Positions {
    fn positions(self) -> Vec<usize>;
}

impl<'a, I: Iterator<Item = &'a bool>> Positions for I {
    fn positions(self) -> Vec<usize> {
        self.enumerate().filter_map(|(index, set)| set.then_some(index)).collect()
    }
}

#[test]
fn a_large_leaf_is_one_entry_that_any_page_of_it_takes_away() {
    let mut bench = Bench::second(Config::nested());
    let entry = bench.second[1] + 8;
    bench.set(entry, 0x4000_0000 | PAGE_2 & !2);
    let whole = bench.model.dma(SID, None, Iova::new(0x20_0000), 0x20_0000, true).unwrap();
    assert_eq!((whole.len(), whole[0].start.get(), whole[0].len), (1, 0x4000_0000, 0x20_0000));
    assert_eq!(bench.model.cached(), [1, 0, 1]);
    bench.set(entry, 0);
    bench.tlbi_ipa(VMID, 0x40_0000);
    assert_eq!(bench.read_at(0x2f_f000), Ok(0x400f_f000));
    bench.tlbi_ipa(VMID, 0x3f_f000);
    assert_eq!(bench.read_at(0x20_0000), NOTHING);
}

#[test]
fn what_leads_to_tables_is_dropped_by_invalidations_of_more_than_leaves() {
    for second in [false, true] {
        let mut bench = if second { Bench::second(Config::nested()) } else { Bench::first(Config::nested()) };
        let tables = if second { bench.second.clone() } else { bench.first.clone() };
        if second {
            bench.map_second(3, 0x5000)
        } else {
            bench.map_first(3, 0x5000)
        }
        assert_eq!(bench.read_at(0x3000), Ok(0x5000));
        // The table of leaves is taken out, with its leaves.
        bench.set(tables[1], 0);
        let low = if second { VMID << 32 | 0x2a } else { ASID << 48 | 0x12 };
        bench.run(low, 0x3000 | 1);
        assert_eq!(bench.read_at(0x3000), Ok(0x5000), "the descriptor that led there is still cached");
        bench.run(low, 0x3000);
        assert_eq!(bench.read_at(0x3000), NOTHING);
        assert_eq!(bench.memory.take_stale_reads(), []);
    }
}

#[test]
fn rights_are_cached_too() {
    let mut bench = Bench::second(Config::nested());
    bench.set(bench.second[2], 0x5000 | PAGE_2 & !(1 << 7));
    assert_eq!(bench.write_at(0), Err(FaultCode::F_PERMISSION));
    bench.map_second(0, 0x5000);
    assert_eq!((bench.read_at(0), bench.write_at(0)), (Ok(0x5000), Err(FaultCode::F_PERMISSION)));
    bench.tlbi_vmid(VMID);
    assert_eq!(bench.write_at(0), Ok(0x5000));
    bench.set(bench.second[2], 0x5000 | PAGE_2 & !(1 << 7));
    assert_eq!(bench.write_at(0), Ok(0x5000));
}

#[test]
fn faults_are_not_cached() {
    let bench = Bench::first(Config::nested());
    assert_eq!(bench.read_at(0x3000), NOTHING);
    bench.map_first(3, 0x5000);
    assert_eq!(bench.read_at(0x3000), Ok(0x5000));
    bench.set(bench.first[2], 0x5000 | PAGE_1 & !(1 << 10));
    assert_eq!(bench.read_at(0), Err(FaultCode::F_ACCESS));
    bench.map_first(0, 0x5000);
    assert_eq!(bench.read_at(0), Ok(0x5000));
}

#[test]
fn an_ste_stays_until_its_stream_is_invalidated_valid_or_not() {
    let mut bench = Bench::up(Config::nested());
    assert_eq!(bench.read_at(0), Err(FaultCode::C_BAD_STE));
    bench.attach_second(SID, VMID);
    bench.map_second(0, 0x5000);
    assert_eq!(bench.read_at(0), Err(FaultCode::C_BAD_STE));
    bench.cfgi_ste(SID + 1);
    assert_eq!(bench.read_at(0), Err(FaultCode::C_BAD_STE));
    bench.cfgi_ste(SID);
    assert_eq!(bench.read_at(0), Ok(0x5000));
    bench.set(bench.ste(SID), 0);
    bench.run(0x30, 0);
    assert_eq!(bench.read_at(0), Ok(0x5000));
    // Ranges: 8 to 9 and 6 to 7; then 8 to 11.
    bench.run(u64::from(SID - 2) << 32 | 4, 0);
    assert_eq!(bench.read_at(0), Ok(0x5000));
    bench.run(u64::from(SID + 3) << 32 | 4, 1);
    assert_eq!(bench.read_at(0), Err(FaultCode::C_BAD_STE));
    bench.set(bench.ste(SID), 6 << 1 | 1);
    bench.run(4, 31);
    assert_eq!(bench.read_at(0), Ok(0x5000));
}

#[test]
fn a_cd_stays_until_it_or_its_stream_is_invalidated() {
    for (low, high) in [(5, 1), (5, 0), (6, 0), (3, 1), (4, 31)] {
        let mut bench = Bench::first(Config::nested());
        bench.map_first(0, 0x5000);
        assert_eq!(bench.read_at(0), Ok(0x5000));
        let cd = bench.cd(SID.into());
        bench.set(cd, bench.get(cd) & !(1 << 31));
        bench.run(0x30, 0);
        bench.cfgi_cd(SID + 1);
        bench.cfgi_ste(SID + 1);
        assert_eq!(bench.read_at(0), Ok(0x5000));
        bench.run(u64::from(SID) << 32 | low, high);
        assert_eq!(bench.read_at(0), Err(FaultCode::C_BAD_CD), "{low:#x}");
    }
}

#[test]
fn a_level_1_descriptor_is_dropped_by_invalidations_of_more_than_leaves() {
    let mut bench = Bench::up(Config::nested());
    bench.disable(SMMUEN);
    bench.write32(STRTAB_BASE_CFG, 1 << 16 | 8 << 6 | 16);
    bench.enable(SMMUEN);
    let [level1, level2] = [bench.streams, frames(&bench.memory, 2)];
    bench.write32(GERRORN, 0);
    assert_eq!(bench.read_at(0), Err(FaultCode::C_BAD_STREAMID));
    bench.set(level2 + u64::from(SID) * 64, 4 << 1 | 1);
    bench.set(level1, level2 | 9);
    assert_eq!(bench.read_at(0), Err(FaultCode::C_BAD_STREAMID));
    bench.cfgi_ste(SID);
    assert_eq!(bench.read_at(0), Err(FaultCode::C_BAD_STREAMID));
    bench.run(u64::from(SID) << 32 | 3, 0);
    assert_eq!(bench.read_at(0), Ok(0));
    // Another stream of the same leaf table finds it in the cache.
    bench.set(level1, 0);
    bench.set(level2 + 9 * 64, 4 << 1 | 1);
    assert_eq!(bench.access(9, None, 0, false), Ok(0));
    bench.run(9 << 32 | 3, 0);
    assert_eq!(bench.access(9, None, 0, false), Err(FaultCode::C_BAD_STREAMID));
    assert_eq!(bench.read_at(0), Ok(0));
}

#[test]
fn caches_outlive_the_enable() {
    let mut bench = Bench::first(Config::nested());
    bench.map_first(0, 0x5000);
    assert_eq!(bench.read_at(0), Ok(0x5000));
    bench.disable(SMMUEN);
    assert_eq!(bench.read_at(0x1234), Ok(0x1234));
    bench.set(bench.ste(SID), 0);
    bench.enable(SMMUEN);
    assert_eq!(bench.read_at(0), Ok(0x5000));
    bench.invalidate_all();
    assert_eq!(bench.read_at(0), Err(FaultCode::C_BAD_STE));
}

#[test]
fn two_sizes_at_once_are_a_conflict_where_the_unit_does_not_take_them() {
    for (bbml, conflict) in [(0, true), (1, true), (2, false)] {
        let config = Config::nested();
        let config = Config { idr3: config.idr3 & !(3 << 11) | bbml << 11, ..config };
        let mut bench = Bench::second(config);
        bench.map_second(0, 0x5000);
        assert_eq!(bench.read_at(0), Ok(0x5000));
        bench.set(bench.second[1], 0x4000_0000 | PAGE_2 & !2);
        // The way to the table goes, its first leaf stays.
        bench.run(VMID << 32 | 0x2a, 0x1000);
        assert_eq!(bench.read_at(0x1000), Ok(0x4000_1000));
        assert_eq!(bench.model.violations() == [Violation::Conflict { iova: 0x1000 }], conflict);
        assert_eq!(bench.read_at(0), Ok(0x5000), "the smaller one is found first");
    }
}

#[test]
fn el2_is_a_world_of_its_own() {
    let mut bench = Bench::first(Config::server());
    bench.map_first(3, 0x5000);
    // STRW 2; the ASID means nothing.
    bench.set(bench.ste(SID) + 8, 2 << 30);
    assert_eq!(bench.read_at(0x3000), Ok(0x5000));
    bench.set(bench.first[2] + 3 * 8, 0);
    bench.tlbi_asid(0, ASID);
    bench.run(0x30, 0);
    assert_eq!(bench.read_at(0x3000), Ok(0x5000));
    bench.run(0x20, 0);
    assert_eq!(bench.read_at(0x3000), NOTHING);
}

#[test]
fn between_two_syncs_translations_may_come_back_by_a_stale_configuration() {
    for (sync_between, first, stale) in
        [(false, false, false), (false, true, true), (true, true, false), (true, false, false)]
    {
        let mut bench = Bench::first(Config::nested());
        bench.map_first(0, 0x5000);
        assert_eq!(bench.read_at(0), Ok(0x5000));
        bench.model.translations_first(first);
        // Detached, and its ASID given to another whose tables are others.
        bench.set(bench.ste(SID), 1);
        bench.put(u64::from(SID) << 32 | 3, 1);
        if sync_between {
            bench.put(0x46, 0);
        }
        bench.put(ASID << 48 | 0x11, 0);
        bench.sync();
        assert_eq!(bench.read_at(0), Err(FaultCode::NONE));
        bench.first = (0..3).map(|_| frame(&bench.memory)).collect();
        bench.attach_first(SID + 1, ASID);
        let expected = if stale { Ok(0x5000) } else { NOTHING };
        assert_eq!(bench.access(SID + 1, None, 0, false), expected, "CMD_SYNC {sync_between}, first {first}");
    }
}

#[test]
fn a_translation_that_is_changed_without_a_break_is_noted_where_it_is_walked_anew() {
    for unit in [Config::server(), Config::server().break_level(2)] {
        let mut bench = Bench::first(unit);
        let cd = bench.cd(SID.into());
        bench.set(cd, bench.get(cd) | 3 << 42);
        let clean = PAGE_1 | 1 << 7 | 1 << 51;
        bench.set(bench.first[2], 0x5000 | clean);
        assert_eq!(bench.read_at(0), Ok(0x5000));
        // Elsewhere, while the clean one is cached: a write walks anew.
        bench.set(bench.first[2], 0x6000 | clean);
        assert_eq!(bench.write_at(0), Ok(0x6000));
        assert_eq!(bench.model.take_violations(), [Violation::Changed { iova: 0 }]);
        // With a break there is nothing to note.
        bench.set(bench.first[2], 0);
        bench.tlbi_va(0, ASID, 0);
        bench.set(bench.first[2], 0x7000 | clean);
        assert_eq!(bench.write_at(0), Ok(0x7000));
        assert_eq!(bench.model.violations(), []);
    }
}

#[test]
fn neighbours_that_are_said_to_be_alike_share_an_ste() {
    // CONT 1: streams 8 and 9. What was fetched for one serves the other.
    let mut bench = Bench::second(Config::nested());
    bench.map_second(0, 0x5000);
    bench.set(bench.ste(SID) + 8, 1 << 13);
    assert_eq!(bench.read_at(0), Ok(0x5000));
    let at = |bench: &Bench, sid| bench.access(sid, None, 0, false);
    assert_eq!((at(&bench, SID + 1), at(&bench, SID + 2)), (Ok(0x5000), Err(FaultCode::C_BAD_STE)));
    // It does not affect invalidation.
    bench.cfgi_ste(SID + 1);
    assert_eq!(at(&bench, SID + 1), Ok(0x5000));
    bench.cfgi_ste(SID);
    assert_eq!(at(&bench, SID + 1), Err(FaultCode::C_BAD_STE));
}

#[test]
fn a_range_of_streams_drops_cds_and_level_1_descriptors() {
    let mut bench = Bench::up(Config::server());
    let (level1, table) = (frame(&bench.memory), frame(&bench.memory));
    bench.set(bench.cds + 3 * 64, CD);
    bench.set(level1, bench.cds | 1);
    for sid in [8, 11, 12] {
        bench.set_ste(sid, &[6 << 59 | 1 << 4 | level1 | 5 << 1 | 1, 0, 0, 0]);
    }
    let at = |bench: &Bench, sid, ssid| bench.access(sid, Some(ssid), 0, false).unwrap_err();
    for sid in [8, 11, 12] {
        assert_eq!(at(&bench, sid, 3), FaultCode::F_WALK_EABT);
    }
    bench.set(bench.cds + 3 * 64, 0);
    bench.set(level1, table);
    // 8 to 11.
    bench.run(9 << 32 | 4, 1);
    for sid in [8, 11, 12] {
        let (cd, descriptor) = if sid == 12 {
            (FaultCode::F_WALK_EABT, FaultCode::C_BAD_CD)
        } else {
            (FaultCode::C_BAD_SUBSTREAMID, FaultCode::C_BAD_SUBSTREAMID)
        };
        assert_eq!((at(&bench, sid, 3), at(&bench, sid, 4)), (cd, descriptor), "{sid}");
    }
}

#[test]
fn a_fetch_that_failed_is_not_cached() {
    let bench = Bench::first(Config::nested());
    bench.map_first(0, 0x5000);
    let word = bench.get(bench.ste(SID));
    bench.set(bench.ste(SID), 0x2000 | 5 << 1 | 1);
    assert_eq!(bench.read_at(0), Err(FaultCode::F_CD_FETCH));
    assert_eq!(bench.model.cached(), [1, 0, 0]);
    bench.set(bench.ste(SID), word);
    let other = Bench::nested(Config::nested());
    other.map_first(3, 0x7000);
    other.map_second(7, 0x9000);
    // Behind stage 2: nothing was cached of a CD that stage 2 refused.
    let middle = other.get(other.second[0] + (other.memory.base().get() >> 30) * 8) & !0xfff;
    let at = middle + (other.memory.base().get() >> 21 & 0x1ff) * 8;
    let word = other.get(at);
    other.set(at, 0);
    assert_eq!(other.read_at(0x3000), Err(FaultCode::F_TRANSLATION));
    other.set(at, word);
    assert_eq!(other.read_at(0x3000), Ok(0x9000));
}

#[test]
fn between_two_syncs_substreams_ask_again_as_well() {
    let mut bench = Bench::first(Config::server());
    bench.map_first(0, 0x5000);
    for word in 0..8 {
        bench.set(bench.cds + 3 * 64 + word * 8, bench.get(bench.cd(SID.into()) + word * 8));
    }
    bench.set_ste(SID, &[3 << 59 | bench.cds | 5 << 1 | 1, 0, 0, 0]);
    assert_eq!(bench.access(SID, Some(3), 0, false), Ok(0x5000));
    bench.model.translations_first(true);
    // The CD is taken away; its ASID goes to another whose tables are others.
    bench.set(bench.cds + 3 * 64, 0);
    bench.put(u64::from(SID) << 32 | 3 << 12 | 5, 1);
    bench.put(ASID << 48 | 0x11, 0);
    bench.sync();
    bench.first = (0..3).map(|_| frame(&bench.memory)).collect();
    bench.attach_first(SID + 1, ASID);
    assert_eq!(bench.access(SID + 1, None, 0, false), Ok(0x5000));
}

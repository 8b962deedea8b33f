//! Substreams: CD tables of each format, S1DSS, level-1 descriptors, and the caches of both.

mod smmuv3_common;

use iommu_core::addr::Iova;
use iommu_models::smmuv3::walk::reachable;
use iommu_models::smmuv3::{Config, FaultCode};
use smmuv3_common::*;

const BAD_SUBSTREAM: Result<u64, FaultCode> = Err(FaultCode::C_BAD_SUBSTREAMID);
const DISABLED: Result<u64, FaultCode> = Err(FaultCode::F_STREAM_DISABLED);
const BAD_STE: Result<u64, FaultCode> = Err(FaultCode::C_BAD_STE);
const BAD_CD: Result<u64, FaultCode> = Err(FaultCode::C_BAD_CD);

/// A stream with CDs for substreams 0 to 7 in one frame; substream n leads to page n of memory at 0x10_0000.
struct Rig {
    bench: Bench,
    table: u64,
}

impl Rig {
    fn new(config: Config) -> Self {
        let bench = Bench::up(config);
        let table = frame(&bench.memory);
        let rig = Self { bench, table };
        (0..8).for_each(|ssid| rig.put_cd(table + ssid * 64, ssid));
        rig
    }

    /// A CD with a block of its own at address 0, and an ASID that is 0x10 more than the number.
    fn put_cd(&self, at: u64, number: u64) {
        let bench = &self.bench;
        let (top, middle, leaves) = (frame(&bench.memory), frame(&bench.memory), frame(&bench.memory));
        bench.set(top, middle | 3);
        bench.set(middle, leaves | 3);
        bench.set(leaves, (0x10_0000 + number * 0x1000) | PAGE_1);
        bench.set(at + 8, top);
        bench.set(at + 24, 0xff);
        bench.set(at, CD & !(0xffff << 48) | (0x10 + number) << 48);
    }

    fn ste(&self, format: u64, log2: u64, pointer: u64, default: u64) {
        self.bench.set_ste(SID, &[log2 << 59 | format << 4 | pointer | 5 << 1 | 1, default, 0, 0]);
    }

    fn at(&self, ssid: impl Into<Option<u32>>) -> Result<u64, FaultCode> {
        self.bench.access(SID, ssid.into(), 0, true)
    }

    /// The same without caches.
    fn walked(&self, ssid: impl Into<Option<u32>>) -> Result<u64, FaultCode> {
        let found = self.bench.model.translate(SID, ssid.into(), Iova::new(0), true);
        found.map(|found| found.phys.get())
    }
}

const fn page(ssid: u64) -> Result<u64, FaultCode> {
    Ok(0x10_0000 + ssid * 0x1000)
}

#[test]
fn a_linear_table_is_indexed_by_substream() {
    let rig = Rig::new(Config::server());
    for log2 in 1..=3 {
        rig.ste(0, log2, rig.table, 0);
        for ssid in 0..16 {
            let expected = if ssid < 1 << log2 { page(ssid.into()) } else { BAD_SUBSTREAM };
            assert_eq!(rig.walked(ssid), expected, "{log2}: {ssid}");
        }
    }
    assert_eq!(rig.walked(0xf_ffff), BAD_SUBSTREAM);
    // The table is aligned to its size: 4 KiB for 64.
    rig.ste(0, 6, rig.table, 0);
    assert_eq!((rig.walked(7), rig.walked(8)), (page(7), BAD_CD));
    for log2 in 1..=7 {
        rig.ste(0, log2, rig.table | 1 << (log2 + 5), 0);
        assert_eq!(rig.walked(0), BAD_STE, "{log2}");
    }
}

#[test]
fn a_two_level_table_has_leaves_of_either_size() {
    for (format, leaf, order) in [(1, 6u32, 0), (2, 10, 4)] {
        let rig = Rig::new(Config::server());
        let (level1, level2) = (frame(&rig.bench.memory), frames(&rig.bench.memory, order));
        let last = (1u64 << leaf) - 1;
        rig.put_cd(level2 + last * 64, 1);
        rig.put_cd(level2, 2);
        rig.bench.set(level1 + 3 * 8, level2 | 1);
        rig.ste(format, u64::from(leaf) + 2, level1, 0);
        let base = 3 << leaf;
        assert_eq!((rig.walked(base), rig.walked(base + last as u32)), (page(2), page(1)), "{format}");
        assert_eq!((rig.walked(base - 1), rig.walked(base + 1)), (BAD_SUBSTREAM, BAD_CD));
        assert_eq!(rig.walked(4 << leaf), BAD_SUBSTREAM);
        // Fewer than a leaf holds: only the first descriptor counts.
        rig.bench.set(level1, level2 | 1);
        rig.ste(format, 3, level1, 0);
        assert_eq!((rig.walked(0), rig.walked(8)), (page(2), BAD_SUBSTREAM));
        // As wide as there are substreams; the table of level-1 descriptors is aligned to its size, or to 64 bytes.
        let wide = frames(&rig.bench.memory, 5);
        rig.bench.set(wide + u64::from(0xf_ffffu32 >> leaf) * 8, level2 | 1);
        rig.ste(format, 20, wide, 0);
        assert_eq!(rig.walked(0xf_ffff), page(1), "{format}");
        rig.ste(format, u64::from(leaf) + 4, level1 | 0x40, 0);
        assert_eq!(rig.walked(0), BAD_STE);
        rig.ste(format, u64::from(leaf) + 3, level1 | 0x40, 0);
        assert_eq!(rig.walked(0), BAD_SUBSTREAM);
    }
}

#[test]
fn a_level_1_descriptor_has_reserved_bits() {
    for (format, low) in [(1, 0xffeu64), (2, 0xfffe)] {
        let rig = Rig::new(Config::server());
        let (level1, level2) = (frame(&rig.bench.memory), frames(&rig.bench.memory, 4));
        rig.put_cd(level2, 2);
        rig.ste(format, 12, level1, 0);
        for bit in 0..64 {
            rig.bench.set(level1, (level2 | 1) ^ 1 << bit);
            let address = 0x000f_ffff_ffff_ffff & !(low | 1);
            let expected = match bit {
                0 => BAD_SUBSTREAM,
                _ if (low | 0xfff << 52) >> bit & 1 != 0 => BAD_SUBSTREAM,
                // Another address.
                _ if address >> bit & 1 != 0 => continue,
                _ => unreachable!(),
            };
            assert_eq!(rig.walked(0), expected, "{format}: {bit}");
        }
        rig.bench.set(level1, 0x2000_0000 | 1);
        assert_eq!(rig.walked(0), Err(FaultCode::F_CD_FETCH));
        rig.bench.set(level1, level2 | 1);
        assert_eq!(rig.walked(0), page(2));
    }
}

#[test]
fn requests_without_substream_go_where_s1dss_says() {
    let mut rig = Rig::new(Config::server());
    for (default, without, zero) in [(0, DISABLED, page(0)), (1, Ok(0), page(0)), (2, page(0), DISABLED)] {
        rig.ste(0, 3, rig.table, default);
        assert_eq!((rig.walked(None), rig.walked(0), rig.walked(3)), (without, zero, page(3)), "{default}");
        rig.bench.cfgi_ste(SID);
        assert_eq!((rig.at(None), rig.at(0), rig.at(3)), (without, zero, page(3)), "{default}");
    }
    rig.ste(0, 3, rig.table, 3);
    assert_eq!((rig.walked(None), rig.walked(3)), (BAD_STE, BAD_STE));
    // Without substreams it means nothing, and nobody may bring one.
    for default in 0..4 {
        rig.ste(0, 0, rig.table, default);
        assert_eq!((rig.walked(None), rig.walked(0)), (page(0), BAD_SUBSTREAM));
    }
    // Bypassed by S1DSS, addresses end where the unit's do.
    rig.ste(0, 3, rig.table, 1);
    let beyond = rig.bench.model.translate(SID, None, Iova::new(1 << 48), false);
    assert_eq!(beyond.unwrap_err(), FaultCode::F_ADDR_SIZE);
}

#[test]
fn what_a_unit_lacks_is_illegal() {
    let walked = |config: Config, format, log2| {
        let rig = Rig::new(config);
        rig.ste(format, log2, rig.table, 0);
        rig.walked(1)
    };
    let server = Config::server();
    assert_eq!(walked(server.ssid_bits(3), 0, 3), page(1));
    assert_eq!(walked(server.ssid_bits(2), 0, 3), BAD_STE);
    assert_eq!(walked(server.ssid_bits(0), 0, 1), BAD_STE);
    assert_eq!(walked(server.idr0_bits(Config::CD2L, false), 1, 3), BAD_STE);
    assert_eq!(walked(server.idr0_bits(Config::CD2L, false), 0, 3), page(1));
    assert_eq!(walked(server, 3, 3), BAD_STE);
    // A format without substreams is ignored.
    let rig = Rig::new(server.idr0_bits(Config::CD2L, false));
    for format in 0..4 {
        rig.ste(format, 0, rig.table, 0);
        assert_eq!(rig.walked(None), page(0));
    }
}

#[test]
fn without_stage_1_a_substream_is_refused() {
    let bench = Bench::second(Config::server());
    bench.map_second(0, 0x5000);
    assert_eq!((bench.access(SID, None, 0, true), bench.access(SID, Some(0), 0, true)), (Ok(0x5000), BAD_SUBSTREAM));
    bench.set_ste(SID + 1, &[4 << 1 | 1]);
    assert_eq!((bench.access(9, None, 0, true), bench.access(9, Some(3), 0, true)), (Ok(0), BAD_SUBSTREAM));
    // An STE that aborts says nothing of it.
    bench.set_ste(SID + 2, &[1]);
    assert_eq!(bench.access(10, Some(3), 0, true), Err(FaultCode::NONE));
    bench.model.take_events();
    let _ = bench.access(SID, Some(5), 0, true);
    let event = bench.model.take_events()[0];
    // No SSV: the number is always there.
    assert_eq!((event.code, event.ssid, event.raw[0] >> 11 & 0x1f_ffff), (FaultCode::C_BAD_SUBSTREAMID, Some(5), 10));
}

#[test]
fn each_substream_has_a_cd_of_its_own_in_the_cache() {
    let mut rig = Rig::new(Config::server());
    rig.ste(0, 3, rig.table, 0);
    assert_eq!((rig.at(1), rig.at(2)), (page(1), page(2)));
    assert_eq!(rig.bench.model.cached(), [1, 2, 2]);
    for ssid in 1..3 {
        let at = rig.table + ssid * 64;
        rig.bench.set(at, rig.bench.get(at) & !(1 << 31));
    }
    rig.bench.run(u64::from(SID) << 32 | 3 << 12 | 5, 1);
    rig.bench.run(u64::from(SID + 1) << 32 | 1 << 12 | 5, 1);
    rig.bench.run(0x30, 0);
    assert_eq!((rig.at(1), rig.at(2)), (page(1), page(2)));
    rig.bench.run(u64::from(SID) << 32 | 1 << 12 | 5, 1);
    assert_eq!((rig.at(1), rig.at(2)), (BAD_CD, page(2)));
    // And one that is not valid stays as well.
    rig.put_cd(rig.table + 64, 1);
    assert_eq!(rig.at(1), BAD_CD);
    rig.bench.run(u64::from(SID) << 32 | 6, 0);
    assert_eq!((rig.at(1), rig.at(2)), (page(1), BAD_CD));
}

#[test]
fn a_level_1_descriptor_is_dropped_by_invalidations_of_more_than_leaves() {
    for (format, leaf) in [(1u64, 6u64), (2, 10)] {
        let mut rig = Rig::new(Config::server());
        let (level1, level2) = (frame(&rig.bench.memory), frames(&rig.bench.memory, 4));
        (0..3).for_each(|ssid| rig.put_cd(level2 + ssid * 64, ssid));
        let first = 1u64 << leaf;
        let at = |rig: &Rig, number: u64| rig.at((first + number) as u32);
        rig.ste(format, leaf + 2, level1, 0);
        let command = |low: u64, ssid: u64| u64::from(SID) << 32 | ssid << 12 | low;
        assert_eq!(at(&rig, 0), BAD_SUBSTREAM);
        rig.bench.set(level1 + 8, level2 | 1);
        for (low, ssid, high) in [(5, first, 1), (5, 0, 0), (5, 2 * first, 0)] {
            rig.bench.run(command(low, ssid), high);
            assert_eq!(at(&rig, 0), BAD_SUBSTREAM, "not valid, but cached");
        }
        // Any substream below it.
        rig.bench.run(command(5, first + 7), 0);
        assert_eq!(at(&rig, 0), page(0));
        // Another substream finds it in the cache.
        rig.bench.set(level1 + 8, 0);
        assert_eq!(at(&rig, 1), page(1));
        for (low, ssid, high) in [(5, first, 0), (6, 0, 0), (3, 0, 1), (4, 0, 31)] {
            rig.bench.set(level1 + 8, level2 | 1);
            rig.bench.run(4, 31);
            assert_eq!(at(&rig, 0), page(0));
            rig.bench.set(level1 + 8, 0);
            rig.bench.run(command(5, first + 2), 1);
            assert_eq!(at(&rig, 2), page(2));
            let low = if low == 4 { 4 } else { command(low, ssid) };
            rig.bench.run(low, high);
            // The CDs that are cached still lead somewhere, where they are.
            assert_eq!(at(&rig, 5), BAD_SUBSTREAM, "{low:#x}");
        }
    }
}

#[test]
fn a_cd_outlives_its_level_1_descriptor() {
    let mut rig = Rig::new(Config::server());
    let level1 = frame(&rig.bench.memory);
    rig.bench.set(level1, rig.table | 1);
    rig.ste(1, 6, level1, 0);
    assert_eq!((rig.at(1), rig.at(2)), (page(1), page(2)));
    rig.bench.set(level1, 0);
    // Only that of substream 1 goes, and the descriptor.
    rig.bench.run(u64::from(SID) << 32 | 1 << 12 | 5, 0);
    assert_eq!((rig.at(1), rig.at(2)), (BAD_SUBSTREAM, page(2)));
}

#[test]
fn a_table_grows_by_its_first_word() {
    let mut rig = Rig::new(Config::server());
    rig.ste(0, 1, rig.table, 0);
    assert_eq!((rig.at(1), rig.at(5)), (page(1), BAD_SUBSTREAM));
    let word = rig.bench.ste(SID);
    rig.bench.set(word, rig.bench.get(word) & !(0x1f << 59) | 3 << 59);
    assert_eq!(rig.at(5), BAD_SUBSTREAM, "the STE is cached");
    rig.bench.cfgi_ste(SID);
    assert_eq!((rig.at(1), rig.at(5)), (page(1), page(5)));
}

#[test]
fn a_substream_reaches_its_own_leaves() {
    let rig = Rig::new(Config::server());
    rig.ste(0, 3, rig.table, 1);
    let read64 = |phys| rig.bench.memory.device_read64(phys);
    let all = |ssid| {
        let all = reachable(&read64, rig.bench.model.tables(), rig.bench.model.config(), SID, ssid);
        all.map(|all| all.iter().map(|reach| (reach.phys.get(), reach.len)).collect::<Vec<_>>())
    };
    assert_eq!(all(Some(3)), Ok(vec![(0x10_3000, 0x1000)]));
    assert_eq!(all(None), Ok(vec![(0, 1 << 48)]));
    assert_eq!(all(Some(8)), Err(FaultCode::C_BAD_SUBSTREAMID));
}

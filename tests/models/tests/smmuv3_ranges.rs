//! TLB invalidation by range and with level hints (section 4.4.1): each drops the least that it must.

mod smmuv3_common;

use iommu_core::addr::Iova;
use iommu_models::smmuv3::{Config, FaultCode, Violation};
use smmuv3_common::*;

const NOTHING: Result<u64, FaultCode> = Err(FaultCode::F_TRANSLATION);

/// log2 of the granule, TG0 and TG of commands.
const GRANULES: [(u32, u64, u64); 3] = [(12, 0, 1), (14, 2, 2), (16, 1, 3)];

fn shift(granule: u32, level: u32) -> u32 {
    granule + (3 - level) * (granule - 3)
}

/// A stream behind stage 1 of 48 bits; what it maps is torn down after it was cached.
struct Rig {
    bench: Bench,
    granule: u32,
    /// Tables from level `top` down to 3.
    tables: Vec<u64>,
    top: u32,
}

impl Rig {
    fn new(granule: u32, tg: u64) -> Self {
        let bench = Bench::up(Config::server());
        let top = 4 - (48 - granule).div_ceil(granule - 3);
        let order = (granule - 12) as u8;
        let tables: Vec<u64> = (top..=3).map(|_| frames(&bench.memory, order)).collect();
        tables.windows(2).for_each(|pair| bench.set(pair[0], pair[1] | 3));
        let cd = bench.cd(SID.into());
        bench.set(cd + 8, tables[0]);
        bench.set(cd, CD & !(0x3f | 7 << 32) | 5 << 32 | 16 | tg << 6);
        bench.set_ste(SID, &[cd | 5 << 1 | 1, 0, 0, 0]);
        Self { bench, granule, tables, top }
    }

    fn table(&self, level: u32) -> u64 {
        self.tables[(level - self.top) as usize]
    }

    /// Puts a leaf of `level` at number `index` of its table, and caches it.
    fn cache(&self, level: u32, index: u64) -> u64 {
        let (size, leaf) = (1u64 << shift(self.granule, level), if level == 3 { 3 } else { 1 });
        let phys = (index + 1) * size;
        let at = self.table(level) + index * 8;
        self.bench.set(at, phys | PAGE_1 & !3 | leaf);
        assert_eq!(self.bench.read_at(index * size), Ok(phys), "{}, level {level}", self.granule);
        // Gone, but cached.
        self.bench.set(at, 0);
        index * size
    }

    fn is_cached(&self, iova: u64) -> bool {
        self.bench.read_at(iova).is_ok()
    }

    /// TLBI_NH_VA; `tg` 0 means without range.
    fn invalidate(&mut self, address: u64, num: u64, scale: u64, tg: u64, ttl: u64, leaf: u64) {
        let low = ASID << 48 | scale << 20 | num << 12 | 0x12;
        self.bench.run(low, address | tg << 10 | ttl << 8 | leaf);
    }
}

#[test]
fn a_range_is_num_and_one_times_two_to_the_scale() {
    for (granule, tg0, tg) in GRANULES {
        let size = 1u64 << granule;
        for scale in 0..4 {
            for num in [0, 1, 2, 5, 31] {
                if num == 0 && scale == 0 {
                    continue;
                }
                let mut rig = Rig::new(granule, tg0);
                let len = (num + 1) << scale;
                let first = 3;
                let pages: Vec<u64> =
                    [0, first - 1, first, first + len / 2, first + len - 1, first + len, first + len + 7]
                        .into_iter()
                        .filter(|page| *page < 1 << (granule - 3))
                        .collect();
                let cached: Vec<u64> = pages.iter().map(|page| rig.cache(3, *page)).collect();
                rig.invalidate(first * size, num, scale, tg, 0, 1);
                for (page, iova) in pages.into_iter().zip(cached) {
                    let inside = (first..first + len).contains(&page);
                    assert_eq!(rig.is_cached(iova), !inside, "{granule}, {num}, {scale}: page {page}");
                }
                assert_eq!(rig.bench.model.violations(), []);
            }
        }
    }
}

#[test]
fn another_granule_is_not_meant() {
    for (granule, tg0, own) in GRANULES {
        for tg in 1..4 {
            let mut rig = Rig::new(granule, tg0);
            let iova = rig.cache(3, 0);
            rig.invalidate(0, 31, 3, tg, 0, 1);
            assert_eq!(rig.is_cached(iova), tg != own, "{granule}, TG {tg}");
        }
        // Without TG any is.
        let mut rig = Rig::new(granule, tg0);
        let iova = rig.cache(3, 5);
        rig.invalidate((5 << granule) + (1 << granule) - 0x1000, 0, 0, 0, 0, 1);
        assert!(!rig.is_cached(iova));
    }
}

#[test]
fn a_level_hint_spares_leaves_of_other_levels() {
    for (granule, tg0, tg) in GRANULES {
        let levels: &[u32] = if granule == 12 { &[1, 2, 3] } else { &[2, 3] };
        for own in levels {
            for ttl in 0..4u32 {
                let mut rig = Rig::new(granule, tg0);
                let iova = rig.cache(*own, 0);
                // Large enough for any.
                rig.invalidate(0, 1, 0, tg, ttl.into(), 1);
                // Level 1 of 16 KiB is taken as no hint.
                let any = ttl == 0 || (granule, ttl) == (14, 1);
                assert_eq!(rig.is_cached(iova), !(any || ttl == *own), "{granule}, level {own}, TTL {ttl}");
                assert_eq!(rig.bench.model.violations(), []);
            }
        }
    }
}

#[test]
fn an_address_that_is_not_aligned_for_its_level_drops_nothing_and_is_noted() {
    for (granule, tg0, tg) in GRANULES {
        for ttl in 0..4u32 {
            let level = if (granule, ttl) == (14, 1) { 0 } else { ttl };
            let align = shift(granule, if level == 0 { 3 } else { level });
            for bit in 12..44 {
                let mut rig = Rig::new(granule, tg0);
                let iova = rig.cache(3, 0);
                rig.invalidate(1 << bit, 31, 31, tg, ttl.into(), 1);
                let violations = rig.bench.model.violations();
                if bit >= align {
                    assert_eq!(violations, [], "{granule}, TTL {ttl}, bit {bit}");
                } else {
                    let (granule, level) = (granule as u8, level as u8);
                    assert_eq!(violations, [Violation::RangeMisaligned { address: 1 << bit, granule, level }]);
                }
                assert!(rig.is_cached(iova));
            }
        }
    }
}

#[test]
fn leaf_keeps_what_leads_to_tables() {
    for (granule, tg0, tg) in GRANULES {
        // A table is taken out; the way to it is cached.
        for (ttl, leaf, gone) in [(0, 1, false), (3, 1, false), (0, 0, true), (3, 0, true), (2, 0, false)] {
            let mut rig = Rig::new(granule, tg0);
            let iova = rig.cache(3, 0);
            let (above, below) = (rig.table(2), rig.table(3));
            rig.bench.set(below, 0x4000_0000 | PAGE_1);
            rig.bench.set(above, 0);
            rig.invalidate(0, 1, 0, tg, ttl, leaf);
            // Level 2 hints: neither the page nor the descriptor of level 2 that leads to its table.
            let expected = if gone {
                NOTHING
            } else if ttl == 2 {
                Ok(1 << granule)
            } else {
                Ok(0x4000_0000)
            };
            assert_eq!(rig.bench.read_at(iova), expected, "{granule}, TTL {ttl}, Leaf {leaf}");
        }
    }
}

#[test]
fn a_level_hint_drops_only_the_ways_above_it() {
    // 4 KiB: with TTL 2, descriptors of levels 0 and 1 go, that of level 2 stays.
    let mut rig = Rig::new(12, 0);
    rig.cache(3, 0);
    let other = frame(&rig.bench.memory);
    let leaves = frame(&rig.bench.memory);
    rig.bench.set(other + 8, leaves | 3);
    rig.bench.set(leaves, 0x5000_0000 | PAGE_1);
    rig.bench.set(rig.table(1), other | 3);
    // By the table of level 2 that is cached: nothing there.
    assert_eq!(rig.bench.read_at(0x20_0000), NOTHING);
    rig.invalidate(0, 1, 0, 1, 2, 0);
    assert_eq!(rig.bench.read_at(0x20_0000), Ok(0x5000_0000));
    // That of level 2 still leads to the leaves.
    rig.bench.set(rig.table(3) + 8, 0x6000_0000 | PAGE_1);
    assert_eq!(rig.bench.read_at(0x1000), Ok(0x6000_0000));
}

#[test]
fn ranges_of_stage_2_go_by_vmid_and_ipa() {
    let mut bench = Bench::second(Config::server());
    for page in 0..8 {
        bench.map_second(page, 0x10_0000 + page * 0x1000);
        assert_eq!(bench.read_at(page * 0x1000), Ok(0x10_0000 + page * 0x1000));
        bench.set(bench.second[2] + page * 8, 0);
    }
    let cached = |bench: &Bench| (0..8).filter(|page| bench.read_at(page * 0x1000).is_ok()).collect::<Vec<_>>();
    bench.run((VMID + 1) << 32 | 7 << 12 | 0x2a, 1 << 10 | 1);
    bench.run(VMID << 32 | 7 << 12 | 0x2a, 2 << 10 | 1);
    assert_eq!(cached(&bench).len(), 8);
    // NUM 2: three from page 2; then SCALE 1: two from page 6.
    bench.run(VMID << 32 | 2 << 12 | 0x2a, 0x2000 | 1 << 10 | 1);
    assert_eq!(cached(&bench), [0, 1, 5, 6, 7]);
    bench.run(VMID << 32 | 1 << 20 | 0x2a, 0x6000 | 1 << 10 | 3 << 8 | 1);
    assert_eq!(cached(&bench), [0, 1, 5]);
}

#[test]
fn a_range_ends_with_the_addresses() {
    let mut bench = Bench::first(Config::server());
    let cd = bench.cd(SID.into());
    bench.set(cd, bench.get(cd) & !(1 << 30) | 25 << 16 | 2 << 22);
    bench.set(cd + 16, bench.first[0]);
    bench.map_first(0, 0x5000);
    let high = 0xffff_ff80_0000_0000;
    assert_eq!((bench.read_at(0), bench.read_at(high)), (Ok(0x5000), Ok(0x5000)));
    bench.map_first(0, 0x6000);
    // All of the upper half and more; the lower one does not come after it.
    bench.run(ASID << 48 | 31 << 20 | 31 << 12 | 0x12, high | 1 << 10 | 1);
    assert_eq!((bench.read_at(0), bench.read_at(high)), (Ok(0x5000), Ok(0x6000)));
}

#[test]
fn a_piece_of_a_large_leaf_takes_it_away_by_range_as_well() {
    let mut rig = Rig::new(12, 0);
    let iova = rig.cache(2, 1);
    rig.invalidate(iova + 0x1f_e000, 1, 0, 1, 0, 1);
    assert!(!rig.is_cached(iova));
    let found = rig.bench.model.dma(SID, None, Iova::new(iova), 1, false);
    assert!(found.is_err());
}

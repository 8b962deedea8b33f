//! Accessed and dirty flags written by hardware (section 3.13), in both stages.

mod smmuv3_common;

use iommu_core::addr::{Iova, PhysAddr};
use iommu_models::smmuv3::{Config, FaultCode, Structure, Violation};
use smmuv3_common::*;

const AF: u64 = 1 << 10;
const WRITE: u64 = 1 << 7;
const DBM: u64 = 1 << 51;

const REFUSED: Result<u64, FaultCode> = Err(FaultCode::F_PERMISSION);

/// HA and HD of a CD; S2HA and S2HD, with tables that are snooped.
const HA: u64 = 1 << 43;
const HD: u64 = 1 << 42;
const S2HA: u64 = 1 << 56;
const S2HD: u64 = 1 << 55;

fn first(flags: u64) -> Bench {
    let bench = Bench::first(Config::server());
    let cd = bench.cd(SID.into());
    bench.set(cd, bench.get(cd) | flags);
    bench
}

fn second(flags: u64) -> Bench {
    let bench = Bench::second(Config::server());
    let word = bench.ste(SID) + 16;
    bench.set(word, bench.get(word) | flags);
    bench
}

/// The leaf of page 0, its flags and what an access makes of it.
struct Leaf {
    second: bool,
    flags: u64,
    before: u64,
    write: bool,
    expected: Result<u64, FaultCode>,
    after: u64,
}

#[test]
fn flags_become_what_the_access_makes_of_them() {
    // Bit 7 is read-only in stage 1, and writable in stage 2.
    let (page_1, page_2) = (0x5000 | PAGE_1 & !AF, 0x5000 | PAGE_2 & !(AF | WRITE));
    let fault = Err(FaultCode::F_ACCESS);
    let of = |second, flags, before, write, expected, after| Leaf { second, flags, before, write, expected, after };
    for leaf in [
        of(false, 0, page_1, false, fault, page_1),
        of(false, HA, page_1, false, Ok(0x5000), page_1 | AF),
        of(false, HA, page_1, true, Ok(0x5000), page_1 | AF),
        // Not writable at all: not let through, and not touched.
        of(false, HA, page_1 | WRITE, true, REFUSED, page_1 | WRITE),
        of(false, HA, page_1 | WRITE | DBM, true, REFUSED, page_1 | WRITE | DBM),
        of(false, HA | HD, page_1 | WRITE, true, REFUSED, page_1 | WRITE),
        of(false, HA | HD, page_1 | WRITE | DBM, false, Ok(0x5000), page_1 | WRITE | DBM | AF),
        of(false, HA | HD, page_1 | WRITE | DBM, true, Ok(0x5000), page_1 | DBM | AF),
        of(false, HA | HD, page_1 | AF | WRITE | DBM, true, Ok(0x5000), page_1 | DBM | AF),
        of(false, 0, page_1 | AF | WRITE | DBM, true, REFUSED, page_1 | AF | WRITE | DBM),
        // Not a user's.
        of(false, HA | HD, page_1 & !(1 << 6) | DBM | WRITE, true, REFUSED, page_1 & !(1 << 6) | DBM | WRITE),
        of(true, 0, page_2, false, fault, page_2),
        of(true, S2HA, page_2, false, Ok(0x5000), page_2 | AF),
        of(true, S2HA, page_2 | DBM, true, REFUSED, page_2 | DBM),
        of(true, S2HA | S2HD, page_2 | DBM, true, Ok(0x5000), page_2 | DBM | AF | WRITE),
        of(true, S2HA | S2HD, page_2 | DBM, false, Ok(0x5000), page_2 | DBM | AF),
        of(true, S2HA | S2HD, page_2, true, REFUSED, page_2),
        of(true, 0, page_2 | AF | DBM, true, REFUSED, page_2 | AF | DBM),
    ] {
        let bench = if leaf.second { second(leaf.flags) } else { first(leaf.flags) };
        let at = if leaf.second { bench.second[2] } else { bench.first[2] };
        bench.set(at, leaf.before);
        let name = format!("{}, {:#x}, {:#x}, {}", leaf.second, leaf.flags, leaf.before, leaf.write);
        // The walker without caches says the same, and writes nothing.
        let walked = bench.model.translate(SID, None, Iova::new(0), leaf.write).map(|found| found.phys.get());
        assert_eq!((walked, bench.get(at)), (leaf.expected, leaf.before), "{name}");
        assert_eq!(bench.access(SID, None, 0, leaf.write), leaf.expected, "{name}");
        assert_eq!(bench.get(at), leaf.after, "{name}");
        assert_eq!(bench.model.violations(), []);
    }
}

#[test]
fn affd_means_nothing_where_flags_are_written() {
    for second_stage in [false, true] {
        let (affd, ha) = if second_stage { (1 << 53, S2HA) } else { (1 << 35, HA) };
        for flags in [affd, affd | ha] {
            let bench = if second_stage { second(flags) } else { first(flags) };
            let (at, page) = if second_stage { (bench.second[2], PAGE_2) } else { (bench.first[2], PAGE_1) };
            bench.set(at, 0x5000 | page & !AF);
            assert_eq!(bench.read_at(0), Ok(0x5000));
            assert_eq!(bench.get(at) & AF != 0, flags & ha != 0);
        }
    }
}

#[test]
fn a_table_that_forbids_writes_keeps_leaves_clean() {
    let bench = first(HA | HD);
    bench.set(bench.first[1], bench.first[2] | 3 | 1 << 62);
    let before = 0x5000 | PAGE_1 | WRITE | DBM;
    bench.set(bench.first[2], before);
    assert_eq!((bench.write_at(0), bench.get(bench.first[2])), (REFUSED, before));
    assert_eq!(bench.read_at(0), Ok(0x5000));
}

#[test]
fn blocks_are_made_dirty_as_well() {
    let bench = first(HA | HD);
    let before = 0x4000_0000 | PAGE_1 & !(2 | AF) | WRITE | DBM;
    bench.set(bench.first[1], before);
    assert_eq!(bench.write_at(0x12_3000), Ok(0x4012_3000));
    assert_eq!(bench.get(bench.first[1]), before & !WRITE | AF);
}

#[test]
fn flags_are_cached_with_the_translation() {
    for second_stage in [false, true] {
        let mut bench = if second_stage { second(S2HA | S2HD) } else { first(HA | HD) };
        let (at, clean) = if second_stage {
            (bench.second[2], 0x5000 | PAGE_2 & !WRITE | DBM)
        } else {
            (bench.first[2], 0x5000 | PAGE_1 | WRITE | DBM)
        };
        bench.set(at, clean);
        assert_eq!(bench.read_at(0), Ok(0x5000));
        // Clean in the cache: a write walks anew and makes it dirty.
        assert_eq!((bench.write_at(0), bench.get(at)), (Ok(0x5000), clean ^ WRITE));
        // Harvested without invalidation: the next write leaves no trace, nor does an access.
        bench.set(at, clean & !AF);
        assert_eq!((bench.write_at(0), bench.get(at)), (Ok(0x5000), clean & !AF));
        if second_stage {
            bench.tlbi_ipa(VMID, 0);
        } else {
            bench.tlbi_va(0, ASID, 0);
        }
        assert_eq!((bench.write_at(0), bench.get(at)), (Ok(0x5000), clean ^ WRITE));
    }
}

#[test]
fn an_update_does_not_overwrite_what_software_stored_meanwhile() {
    // Between the fetch of the leaf and its update it is unmapped, or leads elsewhere.
    for (stored, expected) in [(0, Err(FaultCode::F_TRANSLATION)), (0x8000 | PAGE_1, Ok(0x8000))] {
        let bench = first(HA | HD);
        let at = bench.first[2];
        bench.set(at, 0x5000 | PAGE_1 & !AF);
        let mut armed = true;
        bench.model.on_fetch(Some(Box::new(move |memory, piece| {
            if piece.entry == PhysAddr::new(at) && std::mem::take(&mut armed) {
                memory.write64(PhysAddr::new(at), stored);
            }
        })));
        assert_eq!(bench.write_at(0), expected);
        assert_eq!(bench.get(at), stored);
    }
}

#[test]
fn software_that_never_rests_does_not_stop_the_unit() {
    let bench = first(HA);
    let at = bench.first[2];
    bench.set(at, 0x5000 | PAGE_1 & !AF);
    let mut turn = 0;
    bench.model.on_fetch(Some(Box::new(move |memory, piece| {
        if piece.entry == PhysAddr::new(at) {
            turn += 1;
            memory.write64(PhysAddr::new(at), 0x5000 | PAGE_1 & !AF | turn << 55);
        }
    })));
    assert_eq!(bench.write_at(0), Err(FaultCode::F_WALK_EABT));
}

/// A nested stream with both stages' flags; page 3 leads to 0x7000 of the guest and 0x9000 of the host.
fn nested(flags: u64, second: u64) -> Bench {
    let bench = Bench::nested(Config::server());
    let (cd, word) = (bench.cd(SID.into()), bench.ste(SID) + 16);
    bench.set(cd, bench.get(cd) | flags);
    bench.set(word, bench.get(word) | second);
    bench.map_first(3, 0x7000);
    bench.map_second(7, 0x9000);
    bench
}

/// Where the page of stage 2 stands that maps `ipa` within the arena.
fn slot(bench: &Bench, ipa: u64) -> u64 {
    let base = bench.memory.base().get();
    let middle = bench.get(bench.second[0] + (base >> 30) * 8) & !0xfff;
    let leaves = bench.get(middle + (base >> 21 & 0x1ff) * 8) & !0xfff;
    leaves + (ipa >> 12 & 0x1ff) * 8
}

#[test]
fn nested_every_stage_has_its_own() {
    let bench = nested(HA | HD, S2HA | S2HD);
    let leaf = bench.first[2] + 3 * 8;
    let (table, page) = (slot(&bench, bench.first[2]), bench.second[2] + 7 * 8);
    let cd = slot(&bench, bench.cds);
    bench.set(leaf, 0x7000 | PAGE_1 & !AF | WRITE | DBM);
    for at in [table, cd, page] {
        bench.set(at, bench.get(at) & !(AF | WRITE) | DBM);
    }
    // A read: accessed everywhere; stage 2 of the table is dirty, for it was written; the page is clean.
    assert_eq!(bench.read_at(0x3000), Ok(0x9000));
    assert_eq!(bench.get(leaf), 0x7000 | PAGE_1 | WRITE | DBM);
    let flags = |at| bench.get(at) & (AF | WRITE);
    assert_eq!((flags(table), flags(cd), flags(page)), (AF | WRITE, AF, AF));
    assert_eq!(bench.write_at(0x3000), Ok(0x9000));
    assert_eq!((bench.get(leaf), flags(page), flags(cd)), (0x7000 | PAGE_1 | DBM, AF | WRITE, AF));
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn nested_nothing_is_dirty_that_the_other_stage_refuses() {
    // Stage 1 is read only: stage 2 stays clean.
    let bench = nested(HA | HD, S2HA | S2HD);
    let page = bench.second[2] + 7 * 8;
    bench.set(bench.first[2] + 3 * 8, 0x7000 | PAGE_1 | WRITE);
    bench.set(page, 0x9000 | PAGE_2 & !WRITE | DBM);
    assert_eq!((bench.write_at(0x3000), bench.get(page)), (REFUSED, 0x9000 | PAGE_2 & !WRITE | DBM));
    // Stage 2 is read only: stage 1 stays clean.
    let bench = nested(HA | HD, S2HA | S2HD);
    let leaf = bench.first[2] + 3 * 8;
    bench.set(leaf, 0x7000 | PAGE_1 | WRITE | DBM);
    bench.set(bench.second[2] + 7 * 8, 0x9000 | PAGE_2 & !WRITE);
    assert_eq!((bench.write_at(0x3000), bench.get(leaf)), (REFUSED, 0x7000 | PAGE_1 | WRITE | DBM));
}

#[test]
fn nested_a_table_that_may_not_be_written_faults_as_a_table() {
    let bench = nested(HA, 0);
    let leaf = bench.first[2] + 3 * 8;
    bench.set(leaf, 0x7000 | PAGE_1 & !AF);
    let table = slot(&bench, bench.first[2]);
    bench.set(table, bench.get(table) & !WRITE);
    bench.model.take_events();
    assert_eq!((bench.read_at(0x3000), bench.get(leaf)), (REFUSED, 0x7000 | PAGE_1 & !AF));
    let seen = bench.model.take_events()[0];
    // S2, CLASS TT, RnW of the request; TTRnW of the update, IPA of the table.
    assert_eq!(seen.raw[1] >> 44 & 1, 0);
    assert_eq!((seen.raw[1] >> 39 & 1, seen.raw[1] >> 40 & 3, seen.raw[1] >> 35 & 1), (1, 1, 1));
    assert_eq!(seen.raw[3], bench.first[2]);
}

#[test]
fn updates_need_walks_that_snoop() {
    let noted = |config: Config, change: &dyn Fn(&Bench)| {
        let bench = Bench::first(config);
        bench.map_first(0, 0x5000);
        change(&bench);
        let _ = bench.read_at(0);
        bench.model.violations()
    };
    let set = |bits: u64, clear: u64| {
        move |bench: &Bench| {
            let cd = bench.cd(SID.into());
            bench.set(cd, bench.get(cd) & !clear | bits);
        }
    };
    let first = [Violation::UpdatesNotSnooped { second: false }];
    let server = Config::server();
    assert_eq!(noted(server, &set(HA, 0)), []);
    assert_eq!(noted(server.non_coherent(), &set(HA, 0)), first);
    assert_eq!(noted(server.non_coherent(), &set(0, 0)), []);
    // IR0, OR0, SH0.
    assert_eq!(noted(server, &set(HA, 1 << 8)), first);
    assert_eq!(noted(server, &set(HA, 1 << 10)), first);
    assert_eq!(noted(server, &set(HA, 3 << 12)), first);
    let bench = second(S2HA);
    bench.map_second(0, 0x5000);
    let word = bench.ste(SID) + 16;
    bench.set(word, bench.get(word) & !(3 << 40));
    assert_eq!(bench.read_at(0), Ok(0x5000));
    assert_eq!(bench.model.violations(), [Violation::UpdatesNotSnooped { second: true }]);
}

#[test]
fn a_group_is_dirty_by_one_of_its_leaves() {
    let bench = first(HA | HD);
    let clean = |index: u64| (0x10_0000 + index * 0x1000) | PAGE_1 | WRITE | DBM | 1 << 52;
    (0..16).for_each(|index| bench.set(bench.first[2] + index * 8, clean(index)));
    assert_eq!(bench.write_at(0x3000), Ok(0x10_3000));
    // The others are written through the same translation, and say nothing of it.
    assert_eq!(bench.write_at(0x4000), Ok(0x10_4000));
    assert_eq!(bench.get(bench.first[2] + 3 * 8), clean(3) & !WRITE);
    assert_eq!(bench.get(bench.first[2] + 4 * 8), clean(4));
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn only_leaves_have_flags_here() {
    let bench = first(HA);
    bench.map_first(0, 0x5000);
    let fetched = std::sync::Arc::new(std::sync::Mutex::new(0));
    let count = fetched.clone();
    bench.model.on_fetch(Some(Box::new(move |_, piece| {
        *count.lock().unwrap() += usize::from(matches!(piece.structure, Structure::Table(_)));
    })));
    assert_eq!(bench.read_at(0), Ok(0x5000));
    assert_eq!(*fetched.lock().unwrap(), 3);
    assert_eq!(bench.get(bench.first[0]), bench.first[1] | 3);
}

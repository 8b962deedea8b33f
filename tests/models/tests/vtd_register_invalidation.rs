//! Invalidation by registers, in legacy mode: CCMD, IVA, IOTLB; and what entries of legacy mode are tagged with.

mod common;

use common::*;
use iommu_models::vtd::{Config, Descriptor, FaultCode, Granularity, Violation};

const CCMD: usize = 0x28;
/// ECAP.IRO is 0xf.
const IVA: usize = 0xf0;
const IOTLB: usize = 0xf8;
const START: u64 = 1 << 63;
const OTHER: u64 = 6;

/// A unit in legacy mode, without a queue; [`RID`] attached to three levels, page 3 mapped. Gives the context entry and
/// the tables.
fn up(config: Config) -> (Bench, u64, Vec<u64>) {
    let bench = Bench::new(config);
    let tables: Vec<u64> = (0..3).map(|_| frame(&bench.memory)).collect();
    for pair in tables.windows(2) {
        bench.set(pair[0], pair[1] | 3);
    }
    bench.set(tables[2] + 3 * 8, 0x5003);
    bench.set(bench.root, bench.context | 1);
    let entry = bench.context + u64::from(RID) * 16;
    bench.set(entry + 8, DOMAIN << 8 | 1);
    bench.set(entry, tables[0] | 1);
    bench.write64(RTADDR, bench.root);
    bench.command(SRTP);
    bench.command(TE);
    assert_eq!(bench.read_at(0x3000), Ok(0x5000));
    (bench, entry, tables)
}

/// Commands one invalidation of the IOTLB; gives IAIG.
fn iotlb(bench: &Bench, granularity: u64, domain: u64, address: u64) -> u64 {
    bench.write64(IVA, address);
    bench.write64(IOTLB, START | granularity << 60 | domain << 32);
    let value = bench.read64(IOTLB);
    assert_eq!(value & START, 0);
    value >> 57 & 3
}

/// Commands one invalidation of the context cache; gives CAIG.
fn context(bench: &Bench, granularity: u64, mask: u64, source: u16, domain: u64) -> u64 {
    bench.write64(CCMD, START | granularity << 61 | mask << 32 | u64::from(source) << 16 | domain);
    let value = bench.read64(CCMD);
    assert_eq!((value & START, value & 0xffff), (0, domain));
    value >> 59 & 3
}

#[test]
fn each_granularity_of_the_iotlb_covers_what_it_says() {
    for (granularity, domain, address, taken) in [
        (1, 0, 0, true),
        (2, DOMAIN, 0, true),
        (2, OTHER, 0, false),
        (3, DOMAIN, 0x3000, true),
        (3, DOMAIN, 0x3000 | 1 << 6, true),
        (3, DOMAIN, 0x2000 | 1, true),
        (3, DOMAIN, 0x4000, false),
        (3, OTHER, 0x3000, false),
    ] {
        let (bench, _, tables) = up(Config::second_stage());
        bench.set(tables[2] + 3 * 8, 0);
        assert_eq!(iotlb(&bench, granularity, domain, address), granularity);
        let expected = if taken { Err(FaultCode(6)) } else { Ok(0x5000) };
        assert_eq!(bench.read_at(0x3000), expected, "{granularity} {domain} {address:#x}");
        assert_eq!(bench.model.violations(), []);
    }
}

#[test]
fn upper_entries_stay_with_the_hint() {
    let (bench, _, tables) = up(Config::second_stage());
    bench.set(tables[0], 0);
    assert_eq!(iotlb(&bench, 3, DOMAIN, 0x3000 | 1 << 6), 3);
    assert_eq!(bench.read_at(0x3000), Ok(0x5000));
    assert_eq!(iotlb(&bench, 3, DOMAIN, 0x3000), 3);
    assert_eq!(bench.read_at(0x3000), Err(FaultCode(6)));
}

#[test]
fn contexts_of_legacy_mode_go_by_source_and_domain() {
    for (granularity, mask, source, domain, taken) in [
        (1, 0, 0, 0, true),
        (2, 0, 0, DOMAIN, true),
        (2, 0, 0, OTHER, false),
        (3, 0, RID, DOMAIN, true),
        (3, 0, RID, OTHER, false),
        (3, 0, RID + 1, DOMAIN, false),
        (3, 1, RID + 4, DOMAIN, true),
        (3, 3, RID + 7, DOMAIN, true),
        (3, 2, RID + 1, DOMAIN, false),
    ] {
        let (bench, entry, _) = up(Config::second_stage());
        bench.set(entry, 0);
        assert_eq!(context(&bench, granularity, mask, source, domain), granularity);
        iotlb(&bench, 1, 0, 0);
        let expected = if taken { Err(FaultCode(2)) } else { Ok(0x5000) };
        assert_eq!(bench.read_at(0x3000), expected, "{granularity} {mask} {source:#x} {domain}");
        assert_eq!(bench.model.violations(), []);
    }
}

#[test]
fn what_would_fault_is_tagged_with_domain_0() {
    let (bench, entry, _) = up(Config::second_stage().caching_mode());
    let low = bench.get(entry);
    bench.set(entry, 0);
    context(&bench, 1, 0, 0, 0);
    iotlb(&bench, 1, 0, 0);
    assert_eq!(bench.read_at(0x3000), Err(FaultCode(2)));
    bench.set(entry, low);
    context(&bench, 3, 0, RID, DOMAIN);
    context(&bench, 2, 0, 0, DOMAIN);
    iotlb(&bench, 1, 0, 0);
    assert_eq!(bench.read_at(0x3000), Err(FaultCode(2)));
    context(&bench, 3, 0, RID, 0);
    assert_eq!(bench.read_at(0x3000), Ok(0x5000));
}

#[test]
fn what_a_unit_cannot_do_is_answered_with_0_or_done_coarsely() {
    let (bench, entry, tables) = up(Config::second_stage());
    // Beyond MAMV, and granularities that are none.
    assert_eq!(iotlb(&bench, 3, DOMAIN, 19), 0);
    assert_eq!(iotlb(&bench, 0, DOMAIN, 0), 0);
    assert_eq!(context(&bench, 0, 0, RID, DOMAIN), 0);
    bench.set(tables[2] + 3 * 8, 0x6003);
    bench.set(entry, 0);
    assert_eq!(bench.read_at(0x3000), Ok(0x5000));
    assert_eq!(bench.model.take_register_log(), []);
    // By a switch, or for want of PSI.
    bench.model.invalidate_coarsely(true);
    assert_eq!((context(&bench, 3, 0, RID + 8, DOMAIN), iotlb(&bench, 3, DOMAIN, 0x8000)), (2, 2));
    assert_eq!(bench.read_at(0x3000), Err(FaultCode(2)));
    let (bench, _, tables) = up(Config::second_stage().cap_bits(1 << 39, false));
    bench.set(tables[2] + 3 * 8, 0x6003);
    assert_eq!(iotlb(&bench, 3, DOMAIN, 0x8000), 2);
    assert_eq!(bench.read_at(0x3000), Ok(0x6000));
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn commands_are_logged_with_what_they_drain() {
    let (bench, ..) = up(Config::second_stage());
    bench.write64(IOTLB, START | 2 << 60 | 3 << 48 | DOMAIN << 32);
    bench.write64(CCMD, START | 1 << 61);
    let domain = DOMAIN as u16;
    assert_eq!(
        bench.model.take_register_log(),
        [
            Descriptor::Iotlb { granularity: Granularity::Domain(domain), drain_writes: true, drain_reads: true },
            Descriptor::ContextCache(Granularity::Global),
        ]
    );
}

#[test]
fn answers_come_late_or_never_and_nothing_is_written_meanwhile() {
    let (bench, _, tables) = up(Config::second_stage());
    bench.set(tables[2] + 3 * 8, 0x6003);
    bench.model.answer_after(2);
    let command = START | 2 << 60 | DOMAIN << 32;
    bench.write64(IOTLB, command);
    bench.write64(IVA, 0);
    bench.write64(IOTLB, command);
    bench.write64(CCMD, START | 1 << 61);
    assert_eq!(
        bench.model.take_violations(),
        [
            Violation::WriteWhilePending { offset: IVA, value: 0 },
            Violation::WriteWhilePending { offset: IOTLB, value: command },
            Violation::WriteWhilePending { offset: CCMD, value: START | 1 << 61 },
        ]
    );
    assert_eq!([(); 3].map(|()| bench.read64(IOTLB) >> 63), [1, 1, 0]);
    assert_eq!(bench.read_at(0x3000), Ok(0x6000));
    bench.write64(CCMD, START | 1 << 61);
    assert_eq!([(); 3].map(|()| bench.read64(CCMD) >> 63), [1, 1, 0]);
    bench.model.answer_after(0);
    bench.model.never_invalidate(true);
    bench.write64(CCMD, START | 1 << 61);
    assert!((0..50).all(|_| bench.read64(CCMD) >> 63 == 1));
    bench.model.never_invalidate(false);
    assert_eq!(bench.read64(CCMD) >> 59, 1 << 2 | 1);
    assert_eq!(bench.model.violations(), []);
}

#[test]
fn with_the_queue_on_it_is_never_answered() {
    let (mut bench, _, tables) = up(Config::second_stage());
    bench.start_queue();
    bench.set(tables[2] + 3 * 8, 0x6003);
    let value = START | 1 << 60;
    bench.write64(IOTLB, value);
    assert_eq!(bench.model.take_violations(), [Violation::InvalidationByRegister { offset: IOTLB, value }]);
    assert!((0..50).all(|_| bench.read64(IOTLB) >> 63 == 1));
    assert_eq!(bench.read_at(0x3000), Ok(0x5000));
}

#[test]
fn scalable_mode_and_later_versions_have_none() {
    let bench = Bench::up(Config::second_stage());
    bench.map(0, 0x5000);
    assert_eq!(bench.read_at(0), Ok(0x5000));
    bench.map(0, 0x6000);
    bench.write32(GCMD, TE);
    for (offset, value) in [(IOTLB, START | 1 << 60), (CCMD, START | 1 << 61)] {
        bench.write64(offset, value);
        assert_eq!(bench.read64(offset) & (START | 3 << if offset == CCMD { 59 } else { 57 }), 0);
        assert_eq!(bench.model.take_violations(), [Violation::InvalidationByRegister { offset, value }]);
    }
    assert_eq!(bench.read_at(0), Ok(0x5000));
    let (bench, _, tables) = up(Config { version: 0x60, ..Config::second_stage() });
    bench.set(tables[2] + 3 * 8, 0x6003);
    assert_eq!(iotlb(&bench, 1, 0, 0), 0);
    assert_eq!(bench.read_at(0x3000), Ok(0x5000));
    assert_eq!(bench.model.violations().len(), 1);
}

#[test]
fn reserved_bits_are_flagged() {
    let (bench, ..) = up(Config::second_stage());
    bench.write64(CCMD, 1 << 34);
    bench.write64(IOTLB, 1 << 62 | 1);
    bench.write64(IVA, 1 << 7);
    // Read only, so that what was read may be written back.
    bench.write64(CCMD, 3 << 59);
    bench.write64(IOTLB, 3 << 57);
    assert_eq!(
        bench.model.violations(),
        [
            Violation::ReservedBits { offset: CCMD, bits: 1 << 34 },
            Violation::ReservedBits { offset: IOTLB, bits: 1 << 62 | 1 },
            Violation::ReservedBits { offset: IVA, bits: 1 << 7 },
        ]
    );
    assert_eq!((bench.read64(CCMD), bench.read64(IOTLB), bench.read64(IVA)), (0, 0, 0));
}

#[test]
fn what_is_drained_is_in_memory_with_the_answer() {
    for (flags, left) in [(0, 1), (1 << 48, 0), (1 << 49, 1)] {
        let (bench, ..) = up(Config::second_stage());
        bench.model.linger(true);
        assert_eq!(bench.write_at(0x3000), Ok(0x5000));
        bench.model.answer_after(1);
        bench.write64(IOTLB, START | 2 << 60 | flags | DOMAIN << 32);
        assert_eq!((bench.read64(IOTLB) >> 63, bench.model.in_flight().len()), (1, 1));
        assert_eq!((bench.read64(IOTLB) >> 63, bench.model.in_flight().len()), (0, left), "{flags:#x}");
    }
}

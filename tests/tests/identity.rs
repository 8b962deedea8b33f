//! Identity: by pass-through where the unit has it, else by tables that lead everything to itself; a stream sees the same.

use iommu_core::addr::Iova;
use iommu_core::hw::{HwError, Pasid, RequesterId, Stage, Stream, Target, Transition, Unit as _};
use iommu_models::vtd::{Config, FaultCode};
use iommu_tests::bench::{Bench, memory, stream};
use iommu_tests::case::{Case, narrow};

const RED: u16 = 0x0108;
const BLUE: u16 = 0x01a0;
const GIB: u64 = 1 << 30;
const INTERRUPTS: u64 = 0xfee0_0000;

/// Units without pass-through, whose host has 36 bits of address, and the bits that identity reaches.
fn cases() -> Vec<(Case, u32)> {
    let host = 36;
    let without =
        |case: Case| Case { config: Config { haw: host, ..case.config.ecap_bits(Config::ECAP_PT, false) }, ..case };
    // A second stage of 35 bits does not reach all of the memory.
    let short = Config { cap: narrow().cap & !(0x3f << 16) | 34 << 16, ..narrow() };
    let short = Case { name: "35 bits".into(), config: short, stage: Stage::Second, non_coherent: false };
    let legacy = |name: &str, config| Case { name: name.into(), config, stage: Stage::Second, non_coherent: true };
    let legacy = [
        legacy("legacy", Config::legacy()),
        legacy("legacy, caching mode", Config::legacy().caching_mode()),
        legacy("legacy, snooped", Config::legacy().ecap_bits(Config::ECAP_C, true)),
    ];
    let plain = Case::all().into_iter().chain(legacy).map(|case| (without(case), u32::from(host)));
    plain.chain([(without(short), 35)]).collect()
}

#[test]
fn tables_do_what_pass_through_does() {
    for (case, bits) in cases() {
        // 2 MiB of tables are room enough.
        let bench = Bench::up_on(&case, memory(case.non_coherent));
        assert!(bench.unit.capabilities().identity);
        let kept = bench.memory.in_use();
        let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
        let own = bench.memory.in_use() - kept;
        bench.attach(RED, &*domain);
        bench.expect(RED, 0x1000, Ok(0x5000_0000));
        bench.unit.attach(stream(RED), Target::Identity).unwrap();
        assert_eq!(bench.unit.attach(stream(BLUE), Target::Identity), Ok(Transition::Hitless));
        for rid in [RED, BLUE] {
            for at in [0, 0x1000, 0x1fff, INTERRUPTS - 1, INTERRUPTS + 0x10_0000, 7 * GIB + 5, (1 << bits) - 1] {
                bench.expect(rid, at, Ok(at));
            }
            assert!(bench.read(rid, 1 << bits).is_err(), "{}", case.name);
            // Requests to the range are interrupts, and none to memory.
            assert!(bench.read(rid, INTERRUPTS).is_err() && bench.write(rid, INTERRUPTS).is_err(), "{}", case.name);
            assert_eq!(bench.unit.attach(stream(rid), Target::Identity), Ok(Transition::Hitless));
        }
        // Large leaves: few tables.
        let structures = bench.kept();
        let tables = bench.memory.in_use() - structures - own;
        assert!(tables < 100, "{}: {tables}", case.name);
        // Nothing may lead into the range, not even to itself: with a PASID there is a walk, and it finds nothing there.
        if bench.unit.capabilities().pasid_bits > 1 {
            let part = Stream::with_pasid(RequesterId::new(RED), Pasid::new(2).unwrap());
            bench.unit.attach(part, Target::Identity).unwrap();
            let walk = |at| bench.model.dma(RED, Some(2), Iova::new(at), 1, true).map_err(|blocked| blocked.code);
            assert_eq!(walk(INTERRUPTS - 1).unwrap()[0].start.get(), INTERRUPTS - 1);
            // Tables of the second stage, where there is one.
            let second = bench.unit.capabilities().second_stage;
            let nothing = if second { FaultCode::SECOND_PERMISSION } else { FaultCode::FIRST_NOT_PRESENT };
            for at in [INTERRUPTS, INTERRUPTS + 0xf_ffff] {
                assert_eq!(walk(at), Err(nothing), "{}", case.name);
            }
            bench.unit.detach(part).unwrap();
        }
        bench.detach(BLUE);
        assert!(bench.read(BLUE, 0x1000).is_err() && bench.write(BLUE, 0x1000).is_err(), "{}", case.name);
        bench.attach(RED, &*domain);
        bench.expect(RED, 0x1000, Ok(0x5000_0000));
        assert!(bench.read(RED, 0x2000).is_err() && bench.write(RED, 0x2000).is_err(), "{}", case.name);
        drop(domain);
        // They stay for the next.
        bench.unit.attach(stream(BLUE), Target::Identity).unwrap();
        bench.expect(BLUE, 7 * GIB, Ok(7 * GIB));
        bench.check();
    }
}

#[test]
fn without_memory_for_tables_the_stream_stays_where_it_was() {
    for (case, _) in cases() {
        let bench = Bench::up(&case);
        let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
        bench.attach(RED, &*domain);
        let before = bench.memory.in_use();
        for n in 0.. {
            bench.memory.fail_after(n);
            let found = bench.unit.attach(stream(RED), Target::Identity);
            bench.memory.fail_never();
            if found.is_ok() {
                assert!(n > 0);
                break;
            }
            assert_eq!(found, Err(HwError::OutOfMemory), "{}", case.name);
            assert_eq!(bench.memory.in_use(), before, "{}", case.name);
            bench.expect(RED, 0x1000, Ok(0x5000_0000));
        }
        bench.expect(RED, 3 * GIB, Ok(3 * GIB));
        bench.check();
    }
}

//! Device TLBs: functions that keep translations themselves are let through once the unit was told of them, asked to forget
//! whatever is taken away, and refused when they have none any more; those that do not answer hold up nobody else.

use iommu_core::addr::Iova;
use iommu_core::hw::{DeviceTlb, Domain, HwError, Invalidation, Pasid, RequesterId, Stage, Stream, StreamId};
use iommu_core::hw::{Target, Transition, Unit as _};
use iommu_models::vtd::{Config, FaultCode, Queue};
use iommu_tests::bench::{Bench, map, stream, try_unmap, unmap};
use iommu_tests::case::Case;
use iommu_vtd::capabilities::names;
use iommu_vtd::{CODE_DEVICE_TLB_TIMEOUT, DEVICE_TLB_REQUEST};
use std::sync::Arc;

const RED: u16 = 0x0108;
const BLUE: u16 = 0x0110;

const PAGE: u64 = 0x4000;
const LARGE: u64 = 1 << 21;

/// What a device that does not answer gives.
fn silent(found: Result<(), HwError>) -> bool {
    matches!(found, Err(HwError::Queue { code: CODE_DEVICE_TLB_TIMEOUT, .. }))
}

/// Units that know device TLBs, of both modes.
fn cases() -> Vec<Case> {
    let scalable = Case::all().into_iter().filter(|case| case.config.ecap & Config::ECAP_DT != 0);
    let legacy = Config::legacy().ecap_bits(Config::ECAP_DT, true);
    let legacy = [("legacy", legacy), ("legacy, caching mode", legacy.caching_mode())];
    let legacy =
        legacy.map(|(name, config)| Case { name: name.into(), config, stage: Stage::Second, non_coherent: true });
    scalable.chain(legacy).collect()
}

/// Streams of `rid`: with PASIDs where the unit has them.
fn streams(case: &Case, rid: u16) -> Vec<Stream> {
    let adi = |pasid| Stream::with_pasid(RequesterId::new(rid), Pasid::new(pasid).expect("20 bits"));
    let pasids: &[u32] = if case.config.ecap & Config::ECAP_PASID != 0 { &[1, 0x9_0001] } else { &[] };
    [stream(rid)].into_iter().chain(pasids.iter().map(|pasid| adi(*pasid))).collect()
}

const fn phys(number: u64) -> u64 {
    0x10_0000_0000 + number * LARGE
}

/// A page, and a large page.
fn domain(bench: &Bench, number: u64) -> Box<dyn Domain> {
    let domain = bench.domain_with(PAGE, phys(number) + PAGE, 0x1000);
    map(&*domain, LARGE, phys(number + 16), LARGE);
    domain
}

fn tlb(rid: u16) -> DeviceTlb {
    DeviceTlb { queue_depth: 4, physical: RequesterId::new(rid).into(), global_invalidate: false }
}

fn id(rid: u16) -> StreamId {
    RequesterId::new(rid).into()
}

fn pasid(stream: Stream) -> Option<u32> {
    stream.pasid.map(|pasid| pasid.get())
}

/// Where a plain request goes.
fn plain(bench: &Bench, stream: Stream, iova: u64) -> Result<u64, FaultCode> {
    let found = bench.model.dma(stream.id.get() as u16, pasid(stream), Iova::new(iova), 1, true);
    found.map(|extents| extents[0].start.get()).map_err(|blocked| blocked.code)
}

/// Where one goes with what the function's device TLB holds, or is given.
fn cached(bench: &Bench, stream: Stream, iova: u64) -> Result<u64, FaultCode> {
    let found = bench.model.endpoint(stream.id.get() as u16).dma(pasid(stream), Iova::new(iova), 1, true);
    found.map(|extents| extents[0].start.get()).map_err(|blocked| blocked.code)
}

/// Fills the device TLB with all that `number`'s domain has.
#[track_caller]
fn fill(bench: &Bench, streams: &[Stream], number: u64) {
    for stream in streams {
        assert_eq!(cached(bench, *stream, PAGE), Ok(phys(number) + PAGE), "{}: {stream}", bench.case.name);
        assert_eq!(cached(bench, *stream, LARGE + 5), Ok(phys(number + 16) + 5), "{}: {stream}", bench.case.name);
    }
}

fn up(case: &Case) -> Bench {
    let bench = Bench::up(case);
    for rid in [RED, BLUE] {
        // What lets hardware send more than it takes is flagged.
        bench.model.endpoint(rid).set_queue_depth(4);
    }
    bench
}

#[test]
fn a_device_tlb_is_refused_until_it_is_told_of_and_once_it_is_gone() {
    for case in cases() {
        let bench = up(&case);
        assert!(bench.unit.capabilities().device_tlbs);
        let kept = bench.memory.in_use();
        let one = domain(&bench, 1);
        let streams = streams(&case, RED);
        for told_first in [false, true] {
            if told_first {
                bench.unit.set_device_tlb(id(RED), Some(tlb(RED))).unwrap();
            }
            streams.iter().for_each(|stream| assert!(bench.unit.attach(*stream, Target::Paging(&*one)).is_ok()));
            // Plain requests go on whatever happens to the others.
            let (model, going) = (bench.model.clone(), streams.clone());
            let look = Arc::new(move || {
                for stream in &going {
                    let found = model.dma(RED, pasid(*stream), Iova::new(PAGE), 1, true);
                    assert!(found.is_ok(), "{stream}: {found:?}");
                }
            });
            let at_store = look.clone();
            bench.memory.set_observer(Some(Box::new(move |_, _| at_store())));
            bench.spy.set_hook(Some(Box::new(move |_, _| look())));
            if !told_first {
                streams.iter().for_each(|stream| assert!(cached(&bench, *stream, PAGE).is_err()));
                bench.unit.set_device_tlb(id(RED), Some(tlb(RED))).unwrap();
            }
            fill(&bench, &streams, 1);
            // Told again, told of another depth.
            bench.unit.set_device_tlb(id(RED), Some(tlb(RED))).unwrap();
            bench.unit.set_device_tlb(id(RED), Some(DeviceTlb { queue_depth: 2, ..tlb(RED) })).unwrap();
            fill(&bench, &streams, 1);
            bench.unit.set_device_tlb(id(RED), None).unwrap();
            bench.unit.set_device_tlb(id(RED), None).unwrap();
            bench.memory.set_observer(None);
            bench.spy.set_hook(None);
            // Neither what it holds nor what it asks for: DTE is clear.
            streams
                .iter()
                .for_each(|stream| assert!(cached(&bench, *stream, PAGE).is_err(), "{}: {stream}", case.name));
            // As it does when ATS goes off.
            bench.model.endpoint(RED).forget();
            bench.invalidations();
            // Nobody asks it any more, neither by what is unmapped nor by what is detached.
            unmap(&*one, LARGE, LARGE);
            map(&*one, LARGE, phys(17), LARGE);
            streams.iter().for_each(|stream| assert!(bench.unit.detach(*stream).is_ok()));
            let asked = bench.invalidations().into_iter().filter(|it| format!("{it:?}").contains("DeviceTlb")).count();
            assert_eq!(asked, 0, "{}", case.name);
        }
        drop(one);
        assert_eq!((bench.memory.in_use(), bench.kept()), (kept + 1, kept + 1), "{}", case.name);
        bench.check();
    }
}

#[test]
fn whatever_is_taken_away_is_forgotten_by_the_device_too() {
    for case in cases() {
        let bench = up(&case);
        let (one, other) = (domain(&bench, 1), domain(&bench, 2));
        let (red, blue) = (streams(&case, RED), streams(&case, BLUE));
        for rid in [RED, BLUE] {
            bench.unit.set_device_tlb(id(rid), Some(tlb(rid))).unwrap();
        }
        for (stream, domain) in red.iter().map(|red| (red, &one)).chain(blue.iter().map(|blue| (blue, &other))) {
            assert!(bench.unit.attach(*stream, Target::Paging(&**domain)).is_ok());
        }
        fill(&bench, &red, 1);
        fill(&bench, &blue, 2);
        // Leaves of either size.
        unmap(&*one, PAGE, 0x1000);
        red.iter().for_each(|red| assert!(cached(&bench, *red, PAGE).is_err(), "{}: {red}", case.name));
        unmap(&*one, LARGE, LARGE);
        red.iter().for_each(|red| assert!(cached(&bench, *red, LARGE + 5).is_err(), "{}: {red}", case.name));
        fill(&bench, &blue, 2);
        map(&*one, PAGE, phys(1) + PAGE, 0x1000);
        map(&*one, LARGE, phys(17), LARGE);
        fill(&bench, &red, 1);
        // One after the other moves, and then goes.
        for (number, stream) in red.iter().enumerate() {
            assert_eq!(bench.unit.attach(*stream, Target::Paging(&*other)), Ok(Transition::ThroughBlocked));
            fill(&bench, &red[..=number], 2);
            fill(&bench, &red[number + 1..], 1);
        }
        for (number, stream) in red.iter().enumerate() {
            bench.unit.detach(*stream).unwrap();
            red[..=number].iter().for_each(|red| assert!(cached(&bench, *red, PAGE).is_err(), "{}: {red}", case.name));
            fill(&bench, &red[number + 1..], 2);
            fill(&bench, &blue, 2);
        }
        assert_eq!(bench.model.endpoint(RED).cached(), [], "{}", case.name);
        other.retire().unwrap();
        assert_eq!(bench.model.endpoint(BLUE).cached(), [], "{}", case.name);
        blue.iter().for_each(|blue| assert!(cached(&bench, *blue, PAGE).is_err()));
        drop((one, other));
        assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
        bench.check();
    }
}

#[test]
fn a_device_that_never_answers_is_blocked_and_holds_up_nobody() {
    for case in cases() {
        let bench = up(&case);
        let (one, other) = (domain(&bench, 1), domain(&bench, 2));
        let (red, blue) = (streams(&case, RED), streams(&case, BLUE));
        for rid in [RED, BLUE] {
            bench.unit.set_device_tlb(id(rid), Some(tlb(rid))).unwrap();
        }
        red.iter().chain(&blue).for_each(|stream| assert!(bench.unit.attach(*stream, Target::Paging(&*one)).is_ok()));
        fill(&bench, &red, 1);
        fill(&bench, &blue, 1);
        bench.model.set_unanswering(RED, true);
        // The first goes as far as it can, however often; its other streams are where they are.
        for _ in 0..2 {
            assert!(silent(bench.unit.detach(red[0]).map(drop)), "{}", case.name);
            assert!(plain(&bench, red[0], PAGE).is_err(), "{}", case.name);
            red[1..].iter().for_each(|red| assert_eq!(plain(&bench, *red, PAGE), Ok(phys(1) + PAGE), "{}", case.name));
        }
        // Others come, move and go as ever.
        for stream in &blue {
            assert_eq!(bench.unit.attach(*stream, Target::Paging(&*other)), Ok(Transition::ThroughBlocked));
        }
        fill(&bench, &blue, 2);
        unmap(&*other, LARGE, LARGE);
        blue.iter().for_each(|blue| assert!(cached(&bench, *blue, LARGE).is_err()));
        // What it holds is not forgotten, so nothing may be used again.
        if red.len() > 1 {
            assert!(silent(try_unmap(&*one, PAGE, 0x1000)), "{}", case.name);
        }
        // All of a domain, with a device among its users that answers.
        assert!(bench.unit.attach(blue[0], Target::Paging(&*one)).is_ok());
        assert!(silent(one.retire()), "{}", case.name);
        red.iter().chain(&blue[..1]).for_each(|stream| assert!(plain(&bench, *stream, PAGE).is_err(), "{}", case.name));
        assert_eq!(cached(&bench, blue[0], PAGE).map_err(drop), Err(()), "{}", case.name);
        // The one that answers is out of it already.
        bench.invalidations();
        bench.unit.detach(blue[0]).unwrap();
        assert_eq!(bench.invalidations(), [], "{}", case.name);
        // Its ATS goes off: it is asked no more.
        bench.unit.set_device_tlb(id(RED), None).unwrap();
        bench.model.endpoint(RED).forget();
        for stream in &red {
            bench.unit.detach(*stream).unwrap_or_else(|error| panic!("{}: {stream}: {error}", case.name));
        }
        one.retire().unwrap();
        assert!(bench.unit.attach(red[0], Target::Paging(&*other)).is_ok());
        assert_eq!(plain(&bench, red[0], PAGE), Ok(phys(2) + PAGE), "{}", case.name);
        drop((one, other));
        assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
        bench.check();
    }
}

#[test]
fn a_device_that_answers_again_is_let_go() {
    for case in cases() {
        let bench = up(&case);
        let one = domain(&bench, 1);
        let red = streams(&case, RED);
        bench.unit.set_device_tlb(id(RED), Some(tlb(RED))).unwrap();
        red.iter().for_each(|stream| assert!(bench.unit.attach(*stream, Target::Paging(&*one)).is_ok()));
        fill(&bench, &red, 1);
        bench.model.set_unanswering(RED, true);
        red.iter().for_each(|stream| assert!(silent(bench.unit.detach(*stream).map(drop)), "{}", case.name));
        bench.model.set_unanswering(RED, false);
        red.iter().for_each(|stream| assert!(bench.unit.detach(*stream).is_ok(), "{}", case.name));
        assert_eq!(bench.model.endpoint(RED).cached(), [], "{}", case.name);
        red.iter().for_each(|stream| assert!(bench.unit.attach(*stream, Target::Paging(&*one)).is_ok()));
        fill(&bench, &red, 1);
        drop(one);
        assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
        bench.check();
    }
}

#[test]
fn hardware_that_does_not_confirm_leaves_it_there_until_it_does() {
    for case in cases() {
        for refuses in [false, true] {
            let bench = up(&case);
            let one = domain(&bench, 1);
            let red = streams(&case, RED);
            red.iter().for_each(|stream| assert!(bench.unit.attach(*stream, Target::Paging(&*one)).is_ok()));
            // What hardware holds of the context entry is what it held before.
            red.iter().for_each(|stream| assert_eq!(plain(&bench, *stream, PAGE), Ok(phys(1) + PAGE)));
            let fail = |on: bool| match (refuses, on) {
                (true, true) => bench.model.fail_descriptor_after(0),
                (true, false) => bench.model.fail_descriptor_after(usize::MAX),
                (false, on) => bench.model.set_queue(if on { Queue::Stopped } else { Queue::Running }),
            };
            fail(true);
            assert!(bench.unit.set_device_tlb(id(RED), Some(tlb(RED))).is_err(), "{}", case.name);
            fail(false);
            // It counts as there: whatever is taken away is asked for.
            bench.invalidations();
            unmap(&*one, LARGE, LARGE);
            let log = bench.invalidations();
            let asked = log.iter().filter(|it| format!("{it:?}").contains("DeviceTlb")).count();
            assert_eq!(asked, red.len(), "{}: {log:?}", case.name);
            bench.unit.set_device_tlb(id(RED), Some(tlb(RED))).unwrap();
            red.iter()
                .for_each(|stream| assert_eq!(cached(&bench, *stream, PAGE), Ok(phys(1) + PAGE), "{}", case.name));
            fail(true);
            assert!(bench.unit.set_device_tlb(id(RED), None).is_err(), "{}", case.name);
            fail(false);
            unmap(&*one, PAGE, 0x1000);
            assert_eq!(bench.model.endpoint(RED).cached(), [], "{}", case.name);
            bench.unit.set_device_tlb(id(RED), None).unwrap();
            red.iter().for_each(|stream| assert!(cached(&bench, *stream, PAGE).is_err()));
            drop(one);
            assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
            bench.check();
        }
    }
}

#[test]
fn once_it_is_gone_nothing_that_hardware_did_not_forget_lets_it_through() {
    for case in cases() {
        let bench = up(&case);
        let one = domain(&bench, 1);
        let red = streams(&case, RED);
        bench.unit.set_device_tlb(id(RED), Some(tlb(RED))).unwrap();
        red.iter().for_each(|stream| assert!(bench.unit.attach(*stream, Target::Paging(&*one)).is_ok()));
        fill(&bench, &red, 1);
        // Hardware refuses the first descriptor, that of the context cache where there is one, and does the others.
        for stream in &red {
            bench.model.fail_descriptor_after(0);
            assert!(bench.unit.detach(*stream).is_err(), "{}: {stream}", case.name);
        }
        bench.model.fail_descriptor_after(usize::MAX);
        bench.unit.set_device_tlb(id(RED), None).unwrap();
        // A function that goes on all the same: with translations that it was asked to forget.
        for stream in &red {
            let rid = bench.model.endpoint(RED);
            rid.forget();
            assert!(cached(&bench, *stream, PAGE).is_err(), "{}: {stream}", case.name);
        }
        red.iter().for_each(|stream| assert!(bench.unit.detach(*stream).is_ok(), "{}", case.name));
        drop(one);
        assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
        bench.check();
    }
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    for case in cases() {
        let bench = up(&case);
        let one = domain(&bench, 1);
        bench.attach(RED, &*one);
        bench.spy.take_writes();
        for depth in [0, 33, 255] {
            let found = bench.unit.set_device_tlb(id(RED), Some(DeviceTlb { queue_depth: depth, ..tlb(RED) }));
            assert!(matches!(found, Err(HwError::Hardware(_))), "{found:?}");
        }
        let wide = StreamId::new(0x1_0108);
        for told in [Some(tlb(RED)), None] {
            assert_eq!(bench.unit.set_device_tlb(wide, told), Err(HwError::NoSuchStream { stream: 0x1_0108 }));
        }
        assert_eq!(bench.unit.set_device_tlb(id(RED), None), Ok(()), "there is none");
        assert!(cached(&bench, stream(RED), PAGE).is_err());
        let request = Invalidation { kind: DEVICE_TLB_REQUEST, words: [3, 0] };
        assert!(matches!(bench.unit.invalidate_device(id(RED), &request), Err(HwError::Hardware(_))));
        assert_eq!(bench.spy.take_writes(), []);
        // A unit without them.
        let without = Case { config: case.config.ecap_bits(Config::ECAP_DT, false), ..case.clone() };
        let bench = Bench::up(&without);
        assert!(!bench.unit.capabilities().device_tlbs);
        assert_eq!(bench.unit.set_device_tlb(id(RED), Some(tlb(RED))), Err(HwError::Missing(names::DEVICE_TLBS)));
        assert_eq!(bench.unit.set_device_tlb(id(RED), None), Ok(()));
    }
}

#[test]
fn the_physical_function_is_named_only_where_the_unit_throttles() {
    for case in cases() {
        // DIT, bit 41.
        for throttles in [false, true] {
            let case = Case { config: case.config.ecap_bits(1 << 41, throttles), ..case.clone() };
            let bench = Bench::up(&case);
            let one = domain(&bench, 1);
            // Another in the field, or the lack of it, is flagged.
            bench.model.endpoint(RED).set_physical_function(0x0100);
            let virtual_one = DeviceTlb { physical: RequesterId::new(0x0100).into(), ..tlb(RED) };
            bench.unit.set_device_tlb(id(RED), Some(virtual_one)).unwrap();
            let red = streams(&case, RED);
            red.iter().for_each(|stream| assert!(bench.unit.attach(*stream, Target::Paging(&*one)).is_ok()));
            bench.model.take_log();
            red.iter().for_each(|stream| assert!(bench.unit.detach(*stream).is_ok()));
            let log = bench.model.take_log();
            let mut seen = 0;
            for raw in log.iter().map(|executed| executed.raw[0]).filter(|low| matches!(low & 0xf, 3 | 8)) {
                // PFSID 3:0 in bits 15:12, 15:4 in bits 63:52.
                let field = (raw >> 52) << 4 | raw >> 12 & 0xf;
                assert_eq!(field, if throttles { 0x0100 } else { 0 }, "{}", case.name);
                seen += 1;
            }
            assert_eq!(seen, red.len(), "{}: {log:?}", case.name);
            bench.check();
        }
    }
}

#[test]
fn a_guest_has_its_own_device_forget_and_no_other() {
    for case in cases() {
        let bench = up(&case);
        let one = domain(&bench, 1);
        for rid in [RED, BLUE] {
            bench.unit.set_device_tlb(id(rid), Some(tlb(rid))).unwrap();
            for stream in streams(&case, rid) {
                assert!(bench.unit.attach(stream, Target::Paging(&*one)).is_ok());
            }
            fill(&bench, &streams(&case, rid), 1);
        }
        let held = |rid| bench.model.endpoint(rid).cached().len();
        let all = held(BLUE);
        let ask = |words| bench.unit.invalidate_device(id(RED), &Invalidation { kind: DEVICE_TLB_REQUEST, words });
        // The source id in the request is the guest's business.
        ask([3 | u64::from(BLUE) << 32, PAGE]).unwrap();
        assert_eq!((held(RED), held(BLUE)), (all - 1, all), "{}", case.name);
        // 2 MiB.
        ask([3, LARGE | 0xf_f000 | 1]).unwrap();
        assert_eq!((held(RED), held(BLUE)), (all - 2, all), "{}", case.name);
        let with_pasid = ask([8 | 1 << 32 | u64::from(BLUE) << 16, 0x7fff_ffff_ffff_f000 | 1 << 11]);
        if case.config.ecap & Config::ECAP_PASID != 0 {
            with_pasid.unwrap();
            assert_eq!((held(RED), held(BLUE)), (all - 4, all), "{}", case.name);
        } else {
            assert!(matches!(with_pasid, Err(HwError::Missing(_))), "{with_pasid:?}");
        }
        assert!(matches!(ask([4, 0]), Err(HwError::Hardware(_))));
        assert!(ask([3 | 1 << 8, 0]).is_err());
        drop(one);
        bench.check();
    }
}

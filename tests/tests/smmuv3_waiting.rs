//! Accesses that wait in hardware: each goes on, or is refused, exactly once, whoever answers and whatever becomes of its
//! stream; nobody waits for ever. What the driver notes of records that were made up is tested in `smmuv3_stalls`.

use iommu_core::addr::Iova;
use iommu_core::device::{AttachTo, Device, DeviceConfig};
use iommu_core::fault::{Cookie, Event, FaultQueue, FaultRouter};
use iommu_core::group::{Group, OwnerId};
use iommu_core::hw::{
    Domain, DomainConfig, Fault, PageRequest, PageResponse, Pasid, Prot, ResponseCode, Stage, Stream, StreamId, Target,
    Unit,
};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_core::ioas::{Ioas, IoasConfig};
use iommu_models::smmuv3::{Config, FaultCode, Outcome, Queue, Resumed, Violation};
use iommu_tests::smmuv3::bench::{Bench, extent, map, stream, unmap};
use iommu_tests::smmuv3::case::Case;
use iommu_tests::spaces::map_fixed;
use std::sync::Arc;

const RED: u32 = 8;
const BLUE: u32 = 0x11;
const PAGE: u64 = 0x1000;
const PHYS: u64 = 0x5000_0000;

/// Units that stall where that is asked for, and such as can do nothing else.
fn cases() -> Vec<Case> {
    let kinds = [("stall or terminate", Config::server()), ("stall", Config::server().stalling(2))];
    let each = |stage| kinds.map(|(name, config)| Case { name: name.into(), config, ..Case::nested(stage) });
    [Stage::First, Stage::Second].into_iter().flat_map(each).collect()
}

fn stalling(bench: &Bench) -> Box<dyn Domain> {
    let config = DomainConfig { stall: true, ..DomainConfig::new(bench.case.stage) };
    bench.unit.create_domain(&config).expect("a domain that stalls")
}

const fn part(pasid: u32) -> Option<u32> {
    Some(pasid)
}

fn stream_of(sid: u32, pasid: Option<u32>) -> Stream {
    Stream { id: StreamId::new(sid), pasid: pasid.map(|pasid| Pasid::new(pasid).expect("20 bits")) }
}

/// A write, which must wait.
#[track_caller]
fn wait(bench: &Bench, sid: u32, pasid: Option<u32>, iova: u64) {
    let found = bench.model.dma(sid, pasid, Iova::new(iova), 8, true);
    assert!(found.as_ref().is_err_and(|blocked| blocked.stalled), "{}: {found:x?}", bench.case.name);
}

/// Those that wait: stream, substream, address.
fn waiting(bench: &Bench) -> Vec<(u32, Option<u32>, u64)> {
    bench.model.stalled().iter().map(|one| (one.sid, one.ssid, one.iova.get())).collect()
}

/// What there is to report.
fn reported(bench: &Bench) -> Vec<Fault> {
    let mut faults = Vec::new();
    while bench.unit.report_faults(&mut |fault| faults.push(*fault)).more {}
    faults
}

#[track_caller]
fn respond(bench: &Bench, fault: &Fault, code: ResponseCode) {
    let group = fault.stalled.expect("it waits");
    bench.unit.respond(&PageResponse { stream: fault.stream, group, code }).expect("an answer");
}

/// What became of those that waited: the stream's address, and where it went.
fn resumed(bench: &Bench) -> Vec<(u32, u64, Result<u64, Outcome>)> {
    let each = |Resumed { request, outcome }| {
        let outcome = match outcome {
            Outcome::Done(extents) => Ok(extents[0].start.get()),
            other => Err(other),
        };
        (request.sid, request.iova.get(), outcome)
    };
    bench.model.take_resumed().into_iter().map(each).collect()
}

/// Nobody waits and no record is unanswered.
#[track_caller]
fn check(bench: &Bench) {
    assert_eq!(bench.model.stalled(), [], "{}", bench.case.name);
    assert_eq!(bench.model.unanswered(), [], "{}", bench.case.name);
    bench.check();
}

const ABORTED: Result<u64, Outcome> = Err(Outcome::Aborted);

#[test]
fn what_waits_goes_on_where_it_is_let_and_is_aborted_where_not() {
    for case in cases() {
        let bench = Bench::up(&case);
        assert!(bench.unit.capabilities().stalls, "{}: said", case.name);
        let domain = stalling(&bench);
        bench.attach(RED, &*domain);
        for round in 0..3 {
            wait(&bench, RED, None, PAGE + 8);
            wait(&bench, RED, None, 5 * PAGE);
            let faults = reported(&bench);
            let [one, other] = &faults[..] else { panic!("{}: {faults:?}", case.name) };
            assert_eq!((one.iova.get(), other.iova.get()), (PAGE + 8, 5 * PAGE));
            // Tried again in vain it waits again, with a record of its own.
            respond(&bench, one, ResponseCode::Success);
            assert_eq!(resumed(&bench), [], "{}", case.name);
            let again = reported(&bench);
            let [again] = &again[..] else { panic!("{}: {again:?}", case.name) };
            assert_eq!(again.iova, one.iova);
            map(&*domain, PAGE, PHYS, PAGE);
            respond(&bench, again, ResponseCode::Success);
            assert_eq!(resumed(&bench), [(RED, PAGE + 8, Ok(PHYS + 8))], "{}", case.name);
            let refusal = [ResponseCode::Invalid, ResponseCode::Failure][round % 2];
            respond(&bench, other, refusal);
            assert_eq!(resumed(&bench), [(RED, 5 * PAGE, ABORTED)], "{}", case.name);
            unmap(&*domain, PAGE, PAGE);
            check(&bench);
        }
        // What went on by itself is still answered, to nothing.
        wait(&bench, RED, None, PAGE);
        map(&*domain, PAGE, PHYS, PAGE);
        bench.model.retry_early();
        assert_eq!(resumed(&bench), [(RED, PAGE, Ok(PHYS))]);
        respond(&bench, &reported(&bench)[0], ResponseCode::Success);
        assert_eq!(resumed(&bench), []);
        check(&bench);
    }
}

/// A function that waits, with another beside it in the same domain: whatever way it leaves, its own accesses are over when
/// the call returns, whether anybody was told of them or not, and the other's are not.
#[test]
fn a_stream_that_leaves_waits_no_more() {
    for case in cases() {
        for (leave, told) in (0..4).flat_map(|leave| [false, true].map(|told| (leave, told))) {
            let bench = Bench::up(&case);
            let (domain, other) = (stalling(&bench), stalling(&bench));
            map(&*other, PAGE, PHYS, PAGE);
            bench.attach(RED, &*domain);
            bench.attach(BLUE, &*domain);
            [(RED, PAGE), (RED, 2 * PAGE), (BLUE, PAGE)].into_iter().for_each(|(sid, at)| wait(&bench, sid, None, at));
            let mut known = if told { reported(&bench) } else { Vec::new() };
            match leave {
                0 => bench.detach(RED),
                1 => bench.unit.attach(stream(RED), Target::Identity).map(drop).unwrap(),
                2 => drop(bench.attach(RED, &*other)),
                _ => domain.retire().unwrap(),
            }
            let mut ended = resumed(&bench);
            ended.sort_by_key(|(sid, at, _)| (*sid, *at));
            if leave == 3 {
                assert_eq!(ended, [(RED, PAGE, ABORTED), (RED, 2 * PAGE, ABORTED), (BLUE, PAGE, ABORTED)]);
            } else {
                assert_eq!(ended, [(RED, PAGE, ABORTED), (RED, 2 * PAGE, ABORTED)], "{} {leave}", case.name);
                assert_eq!(waiting(&bench), [(BLUE, None, PAGE)], "{} {leave}", case.name);
                known.extend(reported(&bench));
                let rest: Vec<&Fault> = known.iter().filter(|fault| fault.stream == stream(BLUE)).collect();
                map(&*domain, PAGE, PHYS, PAGE);
                respond(&bench, rest[0], ResponseCode::Success);
                assert_eq!(resumed(&bench), [(BLUE, PAGE, Ok(PHYS))], "{} {leave}", case.name);
            }
            assert!(told || reported(&bench).iter().all(|fault| fault.stalled.is_none()), "{} {leave}", case.name);
            match leave {
                1 => bench.expect(RED, PAGE, Ok(PAGE)),
                2 => bench.expect(RED, PAGE, Ok(PHYS)),
                _ => bench.expect_blocked(RED, PAGE),
            }
            check(&bench);
        }
    }
}

#[test]
fn a_part_that_leaves_is_over_while_its_function_and_its_neighbours_wait_on() {
    for case in cases().into_iter().filter(|case| case.stage == Stage::First) {
        for to_other in [false, true] {
            let bench = Bench::up(&case);
            let domains = [(); 4].map(|()| stalling(&bench));
            map(&*domains[3], PAGE, PHYS, PAGE);
            let all = [None, part(5), part(6)];
            for (pasid, domain) in all.iter().zip(&domains) {
                bench.unit.attach(stream_of(RED, *pasid), Target::Paging(&**domain)).unwrap();
            }
            for pasid in [part(5), part(6), None, part(5)] {
                wait(&bench, RED, pasid, PAGE);
            }
            let target = if to_other { Target::Paging(&*domains[3]) } else { Target::Blocked };
            bench.unit.attach(stream_of(RED, part(5)), target).unwrap();
            assert_eq!(resumed(&bench), [(RED, PAGE, ABORTED), (RED, PAGE, ABORTED)], "{}", case.name);
            assert_eq!(waiting(&bench), [(RED, part(6), PAGE), (RED, None, PAGE)]);
            for domain in [&domains[0], &domains[2]] {
                map(&**domain, PAGE, PHYS + PAGE, PAGE);
            }
            let left: Vec<Fault> = reported(&bench).into_iter().filter(|fault| fault.stalled.is_some()).collect();
            assert_eq!(left.len(), 2, "{}: {left:?}", case.name);
            left.iter().for_each(|fault| respond(&bench, fault, ResponseCode::Success));
            assert_eq!(resumed(&bench), [(RED, PAGE, Ok(PHYS + PAGE)), (RED, PAGE, Ok(PHYS + PAGE))]);
            // The function leaves while a part waits.
            unmap(&*domains[2], PAGE, PAGE);
            wait(&bench, RED, part(6), PAGE);
            bench.detach(RED);
            assert_eq!(waiting(&bench), [(RED, part(6), PAGE)], "{}", case.name);
            bench.unit.attach(stream_of(RED, part(6)), Target::Blocked).unwrap();
            assert_eq!(resumed(&bench), [(RED, PAGE, ABORTED)]);
            check(&bench);
        }
    }
}

/// More wait than hardware has tags for, and than its queue has room for: they get records as others are answered, and those
/// without one leave with their stream all the same.
#[test]
fn more_wait_than_can_be_told_of() {
    for (case, leaves) in cases().into_iter().flat_map(|case| [false, true].map(|leaves| (case.clone(), leaves))) {
        for config in [case.config, case.config.queues(1)] {
            let bench = Bench::up(&Case { config, ..case.clone() });
            let domain = stalling(&bench);
            bench.attach(RED, &*domain);
            bench.attach(BLUE, &*domain);
            (0..40).for_each(|page| wait(&bench, if page % 2 == 0 { RED } else { BLUE }, None, page * PAGE));
            assert_eq!(waiting(&bench).len(), 40);
            let mut expected = 40;
            if leaves {
                bench.detach(RED);
                // Those without a record are tried again, and refused (section 7.2.1).
                let ended = resumed(&bench);
                assert!(
                    ended.len() == 20 && ended.iter().all(|(sid, _, end)| *sid == RED && end.is_err()),
                    "{ended:x?}"
                );
                assert!(waiting(&bench).iter().all(|(sid, ..)| *sid == BLUE), "{}", case.name);
                expected = 20;
            }
            map(&*domain, 0, PHYS, 40 * PAGE);
            let mut done = Vec::new();
            for round in 0.. {
                assert!(round < 100, "{}: {:x?} wait for ever", case.name, waiting(&bench));
                let faults = reported(&bench);
                let stalled = faults.iter().filter(|fault| fault.stalled.is_some());
                stalled.for_each(|fault| respond(&bench, fault, ResponseCode::Success));
                done.extend(resumed(&bench));
                if waiting(&bench).is_empty() {
                    break;
                }
            }
            assert_eq!(done.len(), expected, "{}", case.name);
            for (_, at, outcome) in done {
                assert_eq!(outcome, Ok(PHYS + at), "{}", case.name);
            }
            check(&bench);
        }
    }
}

#[test]
fn what_hangs_is_over_once_hardware_confirms() {
    for case in cases() {
        let bench = Bench::up(&case);
        let domain = stalling(&bench);
        bench.attach(RED, &*domain);
        wait(&bench, RED, None, PAGE);
        let [fault] = reported(&bench)[..] else { panic!("one") };
        bench.model.set_queue(Queue::Stopped);
        assert!(bench.unit.detach(stream(RED)).is_err());
        let group = fault.stalled.unwrap();
        let _ = bench.unit.respond(&PageResponse { stream: fault.stream, group, code: ResponseCode::Invalid });
        assert_eq!(waiting(&bench), [(RED, None, PAGE)]);
        bench.model.set_queue(Queue::Running);
        bench.detach(RED);
        bench.unit.sync().unwrap();
        assert_eq!(resumed(&bench), [(RED, PAGE, ABORTED)], "{}", case.name);
        bench.attach(RED, &*domain);
        map(&*domain, PAGE, PHYS, PAGE);
        bench.expect(RED, PAGE, Ok(PHYS));
        assert_eq!(bench.model.stalled(), []);
        assert_eq!(bench.memory.take_stale_reads(), []);
    }
}

#[test]
fn a_shutdown_leaves_nobody_waiting() {
    for case in cases() {
        let bench = Bench::up(&case);
        let domain = stalling(&bench);
        bench.attach(RED, &*domain);
        [1, 2, 3].into_iter().for_each(|page| wait(&bench, RED, None, page * PAGE));
        bench.unit.shutdown().unwrap();
        assert_eq!(resumed(&bench).len(), 3, "{}", case.name);
        assert_eq!(bench.model.stalled(), []);
        assert!(bench.read(RED, PAGE).is_err());
        bench.check();
    }
}

/// Where two accesses are alike, hardware may tell of one alone, and its answer is for both.
#[test]
fn what_is_alike_and_told_of_once_is_answered_together() {
    for case in cases() {
        let bench = Bench::up(&case);
        bench.model.suppress_stalls(true);
        let domain = stalling(&bench);
        bench.attach(RED, &*domain);
        (0..4).for_each(|at| wait(&bench, RED, None, PAGE + 8 * at));
        let [fault] = reported(&bench)[..] else { panic!("{}: one", case.name) };
        map(&*domain, PAGE, PHYS, PAGE);
        respond(&bench, &fault, ResponseCode::Success);
        let gone: Vec<_> = (0..4).map(|at| (RED, PAGE + 8 * at, Ok(PHYS + 8 * at))).collect();
        assert_eq!(resumed(&bench), gone, "{}", case.name);
        unmap(&*domain, PAGE, PAGE);
        (0..4).for_each(|at| wait(&bench, RED, None, PAGE + 8 * at));
        bench.detach(RED);
        assert_eq!(resumed(&bench).iter().filter(|(.., end)| *end == ABORTED).count(), 4, "{}", case.name);
        check(&bench);
    }
}

/// What an owner is told of through the core.
struct Owner {
    ioas: Ioas,
    queue: FaultQueue,
    hwpt: Hwpt,
    device: Device,
}

impl Owner {
    fn of(bench: &Bench, unit: &Arc<dyn Unit>, router: &FaultRouter, sid: u32) -> Self {
        let (ioas, queue) = (Ioas::new(IoasConfig::default()).unwrap(), FaultQueue::new(8).unwrap());
        let config = HwptConfig { faults: Some(queue.clone()), stall: true, ..HwptConfig::new(bench.case.stage) };
        let hwpt = Hwpt::new(&ioas, unit, config).unwrap();
        let config = DeviceConfig {
            unit: unit.clone(),
            streams: &[StreamId::new(sid)],
            function: None,
            regions: &[],
            coherent: true,
            isolated_msi: true,
            router: Some(router.clone()),
            account: None,
        };
        let device = Device::new(&Group::new(None).unwrap(), &config).unwrap();
        device.bind(OwnerId(sid.into()), false).unwrap();
        device.attach(AttachTo::Hwpt(&hwpt)).unwrap();
        Self { ioas, queue, hwpt, device }
    }

    /// The oldest group that it was told of.
    #[track_caller]
    fn asked(&self) -> (Cookie, PageRequest) {
        match self.queue.read().unwrap().map(|record| record.event) {
            Some(Event::PageRequests { cookie, requests }) => (cookie, requests[0]),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn owners_answer_what_waits_through_the_core() {
    for case in cases() {
        let bench = Bench::up(&case);
        let unit = bench.handle();
        let router = FaultRouter::new(unit.clone()).unwrap();
        let route = || while bench.unit.report_faults(&mut |fault| _ = router.fault(fault)).more {};
        let (red, blue) = (Owner::of(&bench, &unit, &router, RED), Owner::of(&bench, &unit, &router, BLUE));
        wait(&bench, RED, None, PAGE + 0x123);
        wait(&bench, BLUE, None, PAGE);
        route();
        // Each is told of its own, as a request for a page, and lets it in.
        let (cookie, request) = red.asked();
        assert_eq!((request.stream, request.iova, request.prot), (stream(RED), Iova::new(PAGE), Prot::WRITE));
        map_fixed(&red.ioas, PAGE, &[extent(PHYS, PAGE)], Prot::READ_WRITE).unwrap();
        red.queue.respond(cookie, ResponseCode::Success).unwrap();
        assert_eq!(resumed(&bench), [(RED, PAGE + 0x123, Ok(PHYS + 0x123))], "{}", case.name);
        assert!(red.queue.respond(cookie, ResponseCode::Success).is_err(), "once");
        // Or does not.
        let (cookie, request) = blue.asked();
        assert_eq!(request.stream, stream(BLUE));
        assert!(red.queue.respond(cookie, ResponseCode::Success).is_err(), "another's");
        blue.queue.respond(cookie, ResponseCode::Invalid).unwrap();
        assert_eq!(resumed(&bench), [(BLUE, PAGE, ABORTED)], "{}", case.name);
        // More than its queue takes: the rest is refused by the core, and nothing waits for ever.
        (0..12).for_each(|page| wait(&bench, BLUE, None, page * PAGE));
        route();
        assert_eq!(resumed(&bench).iter().filter(|(.., end)| *end == ABORTED).count(), 12 - waiting(&bench).len());
        assert!((1..=8).contains(&waiting(&bench).len()), "{}", case.name);
        let (cookie, _) = blue.asked();
        // A device that goes takes all of it along; nobody's answer reaches who comes next.
        blue.device.detach().unwrap();
        assert!(blue.queue.respond(cookie, ResponseCode::Success).is_err());
        assert!(waiting(&bench).is_empty(), "{}: {:x?}", case.name, waiting(&bench));
        route();
        assert!(resumed(&bench).iter().all(|(.., end)| *end == ABORTED), "{}", case.name);
        bench.expect_blocked(BLUE, PAGE);
        assert_eq!(bench.read(RED, PAGE), Ok(PHYS));
        // The core refuses what it was told of once the device has gone, and with it all that waited: that is for nobody
        // (section 4.7.1), and has to be of the device that went.
        let stray = bench.model.take_violations();
        let of_blue = |found: &Violation| matches!(found, Violation::StrayResume { sid: BLUE, .. });
        assert!(stray.len() <= 8 && stray.iter().all(of_blue), "{}: {stray:?}", case.name);
        drop((red.device, red.hwpt, blue.hwpt));
        check(&bench);
    }
}

#[test]
fn what_nobody_asked_to_wait_does_not() {
    for case in cases().into_iter().filter(|case| case.config.idr0 >> 24 & 3 == 0) {
        let bench = Bench::up(&case);
        let (plain, domain) = (bench.domain(), stalling(&bench));
        bench.attach(RED, &*plain);
        bench.attach(BLUE, &*domain);
        bench.expect(RED, PAGE, Err(FaultCode::F_TRANSLATION));
        assert_eq!(waiting(&bench), []);
        bench.attach(BLUE, &*plain);
        bench.expect(BLUE, PAGE, Err(FaultCode::F_TRANSLATION));
        check(&bench);
    }
}

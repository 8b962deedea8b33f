//! Accesses that wait for an answer: told with their tag, answered by CMD_RESUME from wherever the answer comes, and over when
//! their stream leaves.

use iommu_core::addr::Iova;
use iommu_core::fault::FaultRouter;
use iommu_core::hw::{Fault, HwError, PageResponse, Pasid, ResponseCode, Stage, Stream, StreamId, Unit as _};
use iommu_models::smmuv3::{Command, Config, Queue};
use iommu_tests::smmuv3::bench::{Bench, stream};
use iommu_tests::smmuv3::case::Case;
use iommu_tests::smmuv3::spy::{CMDQ_PROD, Moment};
use std::sync::{Arc, Mutex};

const RED: u32 = 8;
const BLUE: u32 = 0x11;

/// A unit that stalls.
fn case(stage: Stage) -> Case {
    let mut all = Case::all().into_iter();
    all.find(|case| case.name.starts_with("server,") && case.stage == stage).expect("a server")
}

/// F_TRANSLATION of a write at `address`, stalled as `tag`.
fn record(sid: u32, ssid: Option<u32>, address: u64, tag: u16) -> [u64; 4] {
    let substream = ssid.map_or(0, |ssid| 1 << 11 | u64::from(ssid) << 12);
    [0x10 | substream | u64::from(sid) << 32, u64::from(tag) | 1 << 31 | 2 << 40, address, 0]
}

fn response(sid: u32, group: u16, code: ResponseCode) -> PageResponse {
    PageResponse { stream: stream(sid), group, code }
}

/// What there is to report.
fn reported(bench: &Bench) -> Vec<Fault> {
    let mut faults = Vec::new();
    while bench.unit.report_faults(&mut |fault| faults.push(*fault)).more {}
    faults
}

/// The answers that hardware was given since the last look: stream, tag, action.
fn answers(bench: &Bench) -> Vec<(u32, u16, u8)> {
    let resume = |command| match command {
        Command::Resume { sid, tag, action } => Some((sid, tag, action)),
        _ => None,
    };
    bench.commands().into_iter().filter_map(resume).collect()
}

const RETRY: u8 = 1;
/// Terminate, and abort.
const ABORT: u8 = 2;

#[test]
fn a_stalled_access_is_told_with_its_tag_and_answered_once() {
    for stage in [Stage::First, Stage::Second] {
        let bench = Bench::up(&case(stage));
        for (tag, code, action) in [
            (0, ResponseCode::Success, RETRY),
            (0x1ff, ResponseCode::Invalid, ABORT),
            (u16::MAX, ResponseCode::Failure, ABORT),
        ] {
            assert!(bench.model.put_event(record(RED, Some(5), 0x1234_5678, tag)));
            let [fault] = reported(&bench)[..] else { panic!("one") };
            assert_eq!((fault.stalled, fault.iova), (Some(tag), Iova::new(0x1234_5678)));
            assert_eq!(fault.stream, Stream::with_pasid(StreamId::new(RED), Pasid::new(5).unwrap()));
            assert_eq!(answers(&bench), []);
            bench.unit.respond(&PageResponse { stream: fault.stream, group: tag, code }).unwrap();
            assert_eq!(answers(&bench), [(RED, tag, action)]);
        }
        bench.check();
    }
}

#[test]
fn a_unit_that_cannot_stall_has_nothing_to_answer() {
    let bench = Bench::up(&Case::nested(Stage::First));
    let found = bench.unit.respond(&response(RED, 1, ResponseCode::Success));
    assert!(matches!(found, Err(HwError::Unsupported(_))), "{found:?}");
    assert_eq!(bench.commands(), []);
}

/// Where faults of its streams go is the core's: [`FaultRouter`] makes a request of a stalled one, and refuses nobody's.
#[test]
fn a_stalled_access_of_nobody_is_refused_by_the_core() {
    let bench = Bench::up(&case(Stage::First));
    let router = FaultRouter::new(bench.handle()).unwrap();
    bench.model.put_event(record(BLUE, None, 0x1000, 3));
    while bench.unit.report_faults(&mut |fault| assert!(!router.fault(fault))).more {}
    assert_eq!(answers(&bench), [(BLUE, 3, ABORT)], "it does not wait for ever");
    bench.check();
}

/// An interrupt at every write to the doorbell, on the CPU that has the queue: its answers cost no wait, and are sent.
#[test]
fn an_answer_from_an_interrupt_in_the_middle_of_a_command_does_not_wait() {
    let bench = Bench::up(&case(Stage::First));
    let given = Arc::new(Mutex::new(Vec::new()));
    let (unit, told) = (bench.unit.clone(), given.clone());
    bench.spy.set_hook(Some(Box::new(move |write, moment| {
        if write.offset == CMDQ_PROD && moment == Moment::Before && told.lock().unwrap().len() < 5 {
            let tag = told.lock().unwrap().len() as u16;
            told.lock().unwrap().push(tag);
            unit.respond(&response(RED, tag, ResponseCode::Success)).expect("it is not waited for");
        }
    })));
    let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
    bench.attach(RED, &*domain);
    bench.spy.set_hook(None);
    let sent = answers(&bench);
    bench.unit.sync().unwrap();
    let all: Vec<_> = sent.into_iter().chain(answers(&bench)).collect();
    let given = given.lock().unwrap();
    assert!(given.len() >= 2);
    assert_eq!(all.len(), given.len(), "each once: {all:?}");
    given.iter().for_each(|tag| assert!(all.contains(&(RED, *tag, RETRY)), "{tag}: {all:?}"));
    bench.check();
}

#[test]
fn answers_that_a_hanging_queue_does_not_take_are_sent_later() {
    let bench = Bench::up(&case(Stage::Second));
    bench.model.set_queue(Queue::Stopped);
    // More than are noted.
    for tag in 0..70 {
        let found = bench.unit.respond(&response(RED, tag, ResponseCode::Success));
        assert!(matches!(found, Err(HwError::TimedOut(_))), "{tag}: {found:?}");
    }
    bench.model.set_queue(Queue::Running);
    for _ in 0..8 {
        bench.unit.sync().unwrap();
    }
    let found = answers(&bench);
    for tag in 0..64 {
        assert!(found.contains(&(RED, tag, RETRY)), "{tag}");
    }
    bench.unit.sync().unwrap();
    assert_eq!(answers(&bench), [], "and then no more");
}

#[test]
fn units_that_can_only_stall_are_not_what_answers_are_for_alone() {
    // STALL_MODEL 2: every fault stalls.
    let config = Config::server().idr0_bits(3 << 24, false).idr0_bits(2 << 24, true);
    let bench = Bench::up(&Case { config, ..case(Stage::First) });
    bench.model.put_event(record(RED, None, 0, 9));
    assert_eq!(reported(&bench)[0].stalled, Some(9));
    bench.unit.respond(&response(RED, 9, ResponseCode::Invalid)).unwrap();
    assert_eq!(answers(&bench), [(RED, 9, ABORT)]);
}

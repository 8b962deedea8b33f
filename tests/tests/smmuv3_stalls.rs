//! Accesses that wait for an answer: told with their tag, answered by CMD_RESUME from wherever the answer comes, and over when
//! their stream leaves.

use iommu_core::addr::Iova;
use iommu_core::fault::FaultRouter;
use iommu_core::hw::{
    DomainConfig, Fault, HwError, PageResponse, Pasid, ResponseCode, Stage, Stream, StreamId, Target, Unit as _,
};
use iommu_hal::Hal as _;
use iommu_models::smmuv3::{Action, Command, Config, Queue, Violation};
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

/// The records here are made up: the model has no access that waits under their tags. Nothing else may be wrong.
#[track_caller]
fn check(bench: &Bench) {
    let wrong = bench.model.take_violations();
    let stray = |found: &Violation| matches!(found, Violation::StrayResume { .. });
    assert!(wrong.iter().all(stray), "{wrong:?}");
    bench.check();
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
fn answers(bench: &Bench) -> Vec<(u32, u16, Action)> {
    let resume = |command| match command {
        Command::Resume { sid, tag, action } => Some((sid, tag, action)),
        _ => None,
    };
    bench.commands().into_iter().filter_map(resume).collect()
}

const RETRY: Action = Action::Retry;
const ABORT: Action = Action::Abort;

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
        check(&bench);
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
    check(&bench);
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
    check(&bench);
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

/// A domain whose faulting accesses wait.
fn stalling(bench: &Bench) -> Box<dyn iommu_core::hw::Domain> {
    let config = DomainConfig { stall: true, ..DomainConfig::new(bench.case.stage) };
    bench.unit.create_domain(&config).expect("a domain that stalls")
}

#[test]
fn a_stream_that_leaves_takes_its_stalls_along() {
    for stage in [Stage::First, Stage::Second] {
        let bench = Bench::up(&case(stage));
        let domain = stalling(&bench);
        for leave in [0, 1, 2] {
            bench.attach(RED, &*domain);
            // One that somebody was told of, two that nobody was, one of another stream.
            bench.model.put_event(record(RED, None, 0x1000, 1));
            assert_eq!(reported(&bench)[0].stalled, Some(1));
            for (sid, tag) in [(RED, 2), (BLUE, 3), (RED, 4)] {
                bench.model.put_event(record(sid, None, 0x1000, tag));
            }
            bench.commands();
            match leave {
                0 => bench.detach(RED),
                1 => bench.unit.attach(stream(RED), Target::Identity).map(drop).unwrap(),
                _ => domain.retire().unwrap(),
            }
            let commands = bench.commands();
            let at = |wanted: &dyn Fn(&Command) -> bool| commands.iter().position(wanted);
            let ended = at(&|command| *command == Command::StallTerminate { sid: RED }).expect("stalls are ended");
            // Only once hardware has forgotten the entry (section 4.7.2).
            let forgotten = at(&|command| matches!(command, Command::ConfigSte { sid: RED, .. })).unwrap();
            let sync = Command::Sync { signal: 0, message: None };
            assert!(commands[forgotten..ended].contains(&sync), "{leave}: {commands:?}");
            assert!(!commands.contains(&Command::StallTerminate { sid: BLUE }));
            // What is found later is told as a fault: who leads there next has nothing to answer.
            let told: Vec<_> = reported(&bench).iter().map(|fault| (fault.stream.id.get(), fault.stalled)).collect();
            assert_eq!(told, [(RED, None), (BLUE, Some(3)), (RED, None)], "{leave}");
            bench.detach(RED);
            bench.model.put_event(record(RED, None, 0x1000, 5));
            assert_eq!(reported(&bench)[0].stalled, Some(5), "marks are of events, not of places in the queue");
        }
        check(&bench);
    }
}

#[test]
fn a_domain_that_does_not_stall_has_nothing_to_end() {
    let bench = Bench::up(&case(Stage::First));
    assert!(bench.unit.capabilities().stalls);
    let domain = bench.domain();
    bench.attach(RED, &*domain);
    bench.detach(RED);
    assert!(!bench.commands().iter().any(|command| matches!(command, Command::StallTerminate { .. })));
    // Where the unit cannot stall, it is refused at once, as ever.
    let bench = Bench::up(&Case::nested(Stage::First));
    assert!(!bench.unit.capabilities().stalls);
    let domain = stalling(&bench);
    bench.attach(RED, &*domain);
    bench.model.dma(RED, None, Iova::new(0x1000), 1, true).unwrap_err();
    assert_eq!(reported(&bench)[0].stalled, None);
    bench.detach(RED);
    assert!(!bench.commands().iter().any(|command| matches!(command, Command::StallTerminate { .. })));
    check(&bench);
}

#[test]
fn a_part_that_leaves_is_refused_alone_while_its_function_goes_on() {
    let bench = Bench::up(&case(Stage::First));
    let (domain, other) = (stalling(&bench), stalling(&bench));
    let part = |pasid| Stream::with_pasid(StreamId::new(RED), Pasid::new(pasid).unwrap());
    bench.unit.attach(part(5), Target::Paging(&*domain)).unwrap();
    bench.unit.attach(part(6), Target::Paging(&*other)).unwrap();
    for (pasid, tag) in [(5, 1), (6, 2), (5, 3)] {
        bench.model.put_event(record(RED, Some(pasid), 0x1000, tag));
    }
    bench.commands();
    bench.unit.detach(part(5)).unwrap();
    let commands = bench.commands();
    assert!(!commands.iter().any(|command| matches!(command, Command::StallTerminate { .. })), "others wait on");
    let refused: Vec<_> = commands
        .iter()
        .filter_map(|command| match *command {
            Command::Resume { sid, tag, action } => Some((sid, tag, action)),
            _ => None,
        })
        .collect();
    assert_eq!(refused, [(RED, 1, ABORT), (RED, 3, ABORT)]);
    let told: Vec<_> = reported(&bench).iter().map(|fault| (fault.stream, fault.stalled)).collect();
    assert_eq!(told, [(part(5), None), (part(6), Some(2)), (part(5), None)]);
    check(&bench);
}

#[test]
fn hardware_that_hangs_is_waited_for_once_however_many_accesses_wait() {
    let bench = Bench::up(&case(Stage::First));
    let (domain, other) = (stalling(&bench), stalling(&bench));
    let part = |pasid| Stream::with_pasid(StreamId::new(RED), Pasid::new(pasid).unwrap());
    let wait = |end: &dyn Fn()| {
        let before = bench.memory.now();
        end();
        bench.memory.now() - before
    };
    bench.unit.attach(part(6), Target::Paging(&*other)).unwrap();
    bench.unit.attach(part(5), Target::Paging(&*domain)).unwrap();
    bench.commands();
    bench.unit.detach(part(5)).unwrap();
    let all = bench.commands().len();
    bench.unit.attach(part(5), Target::Paging(&*domain)).unwrap();
    (0..100).for_each(|tag| assert!(bench.model.put_event(record(RED, Some(5), 0x1000, tag))));
    bench.model.stop_queue_after(all);
    let waited = wait(&|| _ = bench.unit.detach(part(5)));
    let once = wait(&|| assert!(bench.unit.sync().is_err()));
    assert!(once != 0 && waited <= 2 * once, "{waited} ns, and {once} ns for one");
    bench.model.set_queue(Queue::Running);
    check(&bench);
}

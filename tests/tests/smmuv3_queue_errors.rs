//! The command queue when hardware refuses, hangs or wraps: an error value that says what it was, everything else done
//! all the same, nothing freed that was not confirmed, and a queue that works again.

use iommu_core::addr::Iova;
use iommu_core::hw::{Gather, HwError, Stage, Target, Unit as _};
use iommu_hal::regs::Registers;
use iommu_models::smmuv3::{Command, Config, Executed, FaultCode, Queue};
use iommu_tests::smmuv3::bench::{Bench, map, range, stream, unmap};
use iommu_tests::smmuv3::case::Case;
use iommu_tests::smmuv3::four_pages::{HUNG, PAGES, RED, four_pages, phys, unmap_four};
use iommu_tests::smmuv3::spy::{CMDQ_CONS, CMDQ_PROD, GERROR, GERRORN, Moment};

const ILLEGAL: u8 = 1;
const ABORTED: u8 = 2;
const LARGE: u64 = 1 << 21;
const SYNC: Command = Command::Sync { signal: 0, message: None };

fn both() -> [Case; 2] {
    [Stage::First, Stage::Second].map(Case::nested)
}

/// Opcode of an invalidation by address.
fn opcode(case: &Case) -> u64 {
    if case.stage == Stage::First { 0x12 } else { 0x2a }
}

fn raws(log: &[Executed]) -> Vec<u64> {
    log.iter().map(|executed| executed.raw[0]).collect()
}

#[track_caller]
fn assert_idle(bench: &Bench) {
    assert_eq!(bench.model.read32(GERROR), bench.model.read32(GERRORN), "the error is acknowledged");
    assert_eq!(bench.model.read32(CMDQ_CONS) & 0xf_ffff, bench.model.read32(CMDQ_PROD));
}

#[test]
fn a_refused_command_is_named_and_the_others_run() {
    for case in both() {
        for n in 0..4 {
            let bench = Bench::up(&case);
            let domain = four_pages(&bench);
            bench.model.take_log();
            bench.model.fail_command_after(n);
            let (mut gather, found) = unmap_four(&*domain);
            let Err(HwError::Queue { code: ILLEGAL, entry }) = found else { panic!("{found:?}") };
            assert_eq!(entry & 0xff, opcode(&case), "command {n}: {entry:#x}");
            assert!(!gather.is_empty(), "the gather keeps its content");
            for (at, iova) in PAGES.iter().enumerate() {
                let expected = if at == n { Ok(phys(*iova)) } else { Err(case.not_mapped()) };
                bench.expect(RED, *iova, expected);
            }
            assert_idle(&bench);
            bench.model.take_log();
            domain.flush(&mut gather).expect("the queue works again");
            assert!(gather.is_empty());
            assert_eq!(raws(&bench.model.take_log()).len(), 5, "four and a CMD_SYNC, and nothing of before");
            PAGES.iter().for_each(|iova| bench.expect(RED, *iova, Err(case.not_mapped())));
            bench.check();
        }
    }
}

#[test]
fn a_refused_sync_is_named_too() {
    for case in both() {
        let bench = Bench::up(&case);
        let domain = four_pages(&bench);
        bench.model.fail_command_after(4);
        let (mut gather, found) = unmap_four(&*domain);
        let Err(HwError::Queue { code: ILLEGAL, entry }) = found else { panic!("{found:?}, the error is lost") };
        assert_eq!(entry & 0xff, 0x46, "a CMD_SYNC: {entry:#x}");
        domain.flush(&mut gather).expect("the queue works again");
        PAGES.iter().for_each(|iova| bench.expect(RED, *iova, Err(case.not_mapped())));
        assert_idle(&bench);
        bench.check();
    }
}

#[test]
fn several_refusals_in_one_batch_report_the_first() {
    for case in both() {
        let bench = Bench::up(&case);
        let domain = four_pages(&bench);
        bench.model.take_log();
        bench.model.fail_command_after(1);
        // The second refusal comes when the driver has repaired the first: at its write of GERRORN.
        let (model, mut again) = (bench.model.clone(), true);
        bench.spy.set_hook(Some(Box::new(move |write, moment| {
            if (write.offset, moment) == (GERRORN, Moment::Before) && std::mem::take(&mut again) {
                model.fail_command_after(2);
            }
        })));
        let (mut gather, found) = unmap_four(&*domain);
        bench.spy.set_hook(None);
        let Err(HwError::Queue { code: ILLEGAL, entry }) = found else { panic!("{found:?}") };
        assert_eq!(entry & 0xff, opcode(&case));
        // The second and the fourth are still to be done.
        for (at, iova) in PAGES.iter().enumerate() {
            assert_eq!(bench.read(RED, *iova).is_ok(), at % 2 == 1, "page {at}");
        }
        domain.flush(&mut gather).expect("the queue works again");
        PAGES.iter().for_each(|iova| bench.expect(RED, *iova, Err(case.not_mapped())));
        bench.check();
    }
}

#[test]
fn a_command_that_cannot_be_fetched_is_tried_again() {
    // The frame of the queue cannot be taken away, so GERROR is raised by hand in mid-batch.
    let case = Case::nested(Stage::Second);
    let bench = Bench::up(&case);
    let domain = four_pages(&bench);
    bench.model.stop_queue_after(2);
    bench.model.raise_error(1);
    let model = bench.model.clone();
    bench.spy.set_hook(Some(Box::new(move |write, moment| {
        if (write.offset, moment) == (GERRORN, Moment::After) {
            model.set_queue(Queue::Running);
        }
    })));
    let (mut gather, found) = unmap_four(&*domain);
    bench.spy.set_hook(None);
    // Whatever it reports: what it says is done is done.
    match found {
        Ok(()) => {}
        Err(HwError::Queue { code, .. }) => assert!(code == 0 || code == ABORTED, "{code}"),
        Err(other) => panic!("{other}"),
    }
    domain.flush(&mut gather).expect("the queue works again");
    PAGES.iter().for_each(|iova| bench.expect(RED, *iova, Err(case.not_mapped())));
    assert_idle(&bench);
    bench.check();
}

#[test]
fn every_refusal_in_an_attach_or_detach_leaves_the_stream_blocked() {
    for case in Case::all() {
        let [near, ..] = case.streams();
        // Attach: five commands, CMD_SYNCs included. Replacement: ten. Detach: five.
        for n in 0..12 {
            let bench = Bench::up(&case);
            let (red, blue) =
                (bench.domain_with(0x1000, 0x5000_0000, 0x1000), bench.domain_with(0x2000, 0x6000_0000, 0x1000));
            let nowhere = |bench: &Bench, what: &str| {
                bench.model.fail_command_after(usize::MAX);
                for iova in [0x1000, 0x2000, 0x5000_0000] {
                    let walked = bench.model.translate(near, None, Iova::new(iova), false);
                    assert!(walked.is_err(), "{}: {what}, command {n}: {walked:x?}", case.name);
                }
            };
            let _ = bench.read(near, 0x1000);
            bench.model.fail_command_after(n);
            match bench.unit.attach(stream(near), Target::Paging(&*red)) {
                Ok(_) => {}
                Err(HwError::Queue { .. }) => {
                    nowhere(&bench, "attach");
                    bench.attach(near, &*red);
                }
                Err(other) => panic!("{other}"),
            }
            bench.expect(near, 0x1000, Ok(0x5000_0000));
            bench.model.fail_command_after(n);
            match bench.unit.attach(stream(near), Target::Paging(&*blue)) {
                Ok(_) => {}
                Err(HwError::Queue { .. }) => {
                    nowhere(&bench, "replacement");
                    bench.attach(near, &*blue);
                }
                Err(other) => panic!("{other}"),
            }
            bench.expect(near, 0x2000, Ok(0x6000_0000));
            bench.expect(near, 0x1000, Err(case.not_mapped()));
            bench.model.fail_command_after(n);
            match bench.unit.detach(stream(near)) {
                Ok(_) => {}
                Err(HwError::Queue { .. }) => {
                    nowhere(&bench, "detach");
                    bench.detach(near);
                }
                Err(other) => panic!("{other}"),
            }
            bench.model.fail_command_after(usize::MAX);
            bench.expect_blocked(near, 0x2000);
            drop((red, blue));
            assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
            bench.check();
        }
    }
}

/// The queue stands still, or never completes a CMD_SYNC.
const HANGS: [Queue; 2] = [Queue::Stopped, Queue::NoSync];

#[test]
fn a_queue_that_hangs_confirms_nothing_and_frees_nothing() {
    for case in Case::all() {
        for hang in HANGS {
            let bench = Bench::up(&case);
            // A table full of pages, which goes with them.
            let domain = bench.domain_with(LARGE, 0x5000_1000, LARGE);
            bench.attach(RED, &*domain);
            bench.expect(RED, LARGE, Ok(0x5000_1000));
            let before = bench.memory.in_use();
            bench.model.set_queue(hang);
            bench.spy.take_reads();
            let mut gather = Gather::new();
            domain.unmap(range(LARGE, LARGE), &mut gather).unwrap();
            assert_eq!(domain.flush(&mut gather), Err(HUNG), "{}", case.name);
            assert!(bench.spy.take_reads() < 700, "{}: the wait is bounded", case.name);
            assert!(!gather.is_empty() && bench.memory.in_use() == before, "{}", case.name);
            bench.expect(RED, LARGE, Ok(0x5000_1000));
            // Again and again: a queue that hangs is not overrun.
            for _ in 0..300 {
                assert_eq!(domain.flush(&mut gather), Err(HUNG), "{}", case.name);
            }
            bench.model.set_queue(Queue::Running);
            domain.flush(&mut gather).unwrap_or_else(|error| panic!("{}: {error}", case.name));
            bench.expect(RED, LARGE, Err(case.not_mapped()));
            assert_eq!(bench.memory.in_use(), before - 1, "{}", case.name);
            bench.check();
        }
    }
}

#[test]
fn a_detach_that_is_not_confirmed_keeps_everything_until_it_is() {
    for case in Case::all() {
        for hang in HANGS {
            let bench = Bench::up(&case);
            let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
            bench.attach(RED, &*domain);
            bench.expect(RED, 0x1000, Ok(0x5000_0000));
            let tag = bench.tag(RED, 0x1000);
            bench.model.set_queue(hang);
            assert_eq!(bench.unit.detach(stream(RED)), Err(HUNG), "{}", case.name);
            // Blocked as far as the tables say; hardware does not know it yet.
            assert_eq!(bench.model.translate(RED, None, Iova::new(0x1000), false), Err(FaultCode::NONE));
            bench.expect(RED, 0x1000, Ok(0x5000_0000));
            assert_eq!(domain.retire(), Err(HUNG));
            // It goes all the same: its tables and its id do not.
            let before = bench.memory.in_use();
            drop(domain);
            assert_eq!(bench.memory.in_use(), before, "{}: hardware may still walk them", case.name);
            bench.expect(RED, 0x1000, Ok(0x5000_0000));
            bench.model.set_queue(Queue::Running);
            let other = bench.domain_with(0x2000, 0x6000_0000, 0x1000);
            bench.attach(RED, &*other);
            assert_ne!(bench.tag(RED, 0x2000), tag, "{}: the id is not used again", case.name);
            bench.expect(RED, 0x1000, Err(case.not_mapped()));
            bench.expect(RED, 0x2000, Ok(0x6000_0000));
            bench.check();
        }
    }
}

#[test]
fn an_attach_that_is_not_confirmed_leads_nowhere() {
    for case in Case::all() {
        for hang in HANGS {
            // Before anything, after the entry was prepared, after it was published.
            for n in 0..4 {
                let bench = Bench::up(&case);
                let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
                let _ = bench.read(RED, 0x1000);
                match hang {
                    Queue::Stopped => bench.model.stop_queue_after(n),
                    _ if n > 0 => continue,
                    _ => bench.model.set_queue(hang),
                }
                let found = bench.unit.attach(stream(RED), Target::Paging(&*domain));
                let walked = bench.model.translate(RED, None, Iova::new(0x1000), false);
                match found {
                    Ok(_) => panic!("{}: five commands are needed", case.name),
                    Err(found) => assert_eq!(found, HUNG, "{}", case.name),
                }
                assert!(walked.is_err(), "{}: {n}: {walked:?}", case.name);
                bench.model.set_queue(Queue::Running);
                bench.attach(RED, &*domain);
                bench.expect(RED, 0x1000, Ok(0x5000_0000));
                bench.detach(RED);
                bench.expect_blocked(RED, 0x1000);
                drop(domain);
                assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
                bench.check();
            }
        }
    }
}

#[test]
fn a_late_completion_counts() {
    let case = Case::nested(Stage::Second);
    let bench = Bench::up(&case);
    let domain = four_pages(&bench);
    // One look before the deadline: 100 of them fit.
    bench.model.execute_after(95);
    let (_, found) = unmap_four(&*domain);
    assert_eq!(found, Ok(()));
    bench.model.execute_after(400);
    let page = PAGES[0];
    map(&*domain, page, 0x5000_0000, 0x1000);
    bench.expect(RED, page, Ok(0x5000_0000));
    let mut gather = Gather::new();
    domain.unmap(range(page, 0x1000), &mut gather).unwrap();
    assert_eq!(domain.flush(&mut gather), Err(HUNG));
    bench.model.execute_after(0);
    for _ in 0..400 {
        bench.model.read32(CMDQ_CONS);
    }
    // What came too late was done; the gather is flushed again all the same.
    domain.flush(&mut gather).unwrap();
    bench.expect(RED, page, Err(case.not_mapped()));
    bench.check();
}

#[test]
fn the_queue_wraps_as_often_as_it_likes() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let domain = bench.domain();
        bench.attach(RED, &*domain);
        let slots = 1 << (case.config.idr1 >> 21 & 0x1f).min(8);
        // Two commands a round at least.
        let mut used = 0;
        for _ in 0..5 * slots / 2 {
            map(&*domain, 0x1000, 0x5000_0000, 0x2000);
            bench.expect(RED, 0x2000, Ok(0x5000_1000));
            unmap(&*domain, 0x1000, 0x2000);
            bench.expect(RED, 0x1000, Err(case.not_mapped()));
            used += bench.model.take_log().len();
        }
        assert!(used >= 4 * slots, "{}: {used} commands", case.name);
        bench.check();
    }
}

#[test]
fn a_marker_is_the_producer_index() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let mask = (2 << (case.config.idr1 >> 21 & 0x1f).min(8)) - 1;
        let mut last = bench.unit.marker();
        for _ in 0..600 {
            let marker = bench.unit.sync().unwrap();
            assert_eq!(marker, last + 1, "{}", case.name);
            assert_eq!(marker & mask, bench.model.read32(CMDQ_PROD), "{}", case.name);
            assert_eq!(bench.model.read32(CMDQ_CONS) & 0xf_ffff, bench.model.read32(CMDQ_PROD));
            last = bench.unit.marker();
            assert_eq!(last, marker);
        }
        assert!(bench.commands().iter().all(|command| *command == SYNC));
        bench.check();
    }
}

#[test]
fn an_old_error_code_is_no_error() {
    // CMDQ_CONS.ERR keeps its value after the acknowledgement; what counts is GERROR.
    let case = Case::nested(Stage::Second);
    let bench = Bench::up(&case);
    let domain = four_pages(&bench);
    bench.model.fail_command_after(0);
    let (mut gather, found) = unmap_four(&*domain);
    assert!(found.is_err());
    assert_eq!(bench.model.read32(CMDQ_CONS) >> 24, ILLEGAL.into());
    domain.flush(&mut gather).unwrap();
    bench.unit.sync().unwrap();
    bench.detach(RED);
    bench.check();
}

#[test]
fn other_global_errors_fail_no_command_and_are_told_once() {
    let case = Case { config: Config::server(), ..Case::nested(Stage::First) };
    for bit in [2, 3, 4, 5, 6, 7, 8] {
        let bench = Bench::up(&case);
        let domain = four_pages(&bench);
        bench.model.raise_error(1 << bit);
        let (_, found) = unmap_four(&*domain);
        assert_eq!(found, Ok(()), "GERROR bit {bit}");
        let told = bench.unit.global_errors();
        assert_eq!(told.bits(), 1 << bit);
        assert_eq!((told.lost_events(), told.service_failure()), (bit == 2, bit == 8));
        assert!(bench.unit.global_errors().is_empty());
        assert_idle(&bench);
        // It may come again.
        bench.model.raise_error(1 << bit);
        assert_eq!(bench.unit.global_errors().bits(), 1 << bit);
        bench.check();
    }
}

#[test]
fn an_error_of_the_queue_is_not_acknowledged_by_who_looks_for_others() {
    let case = Case::nested(Stage::Second);
    let bench = Bench::up(&case);
    let domain = four_pages(&bench);
    bench.model.fail_command_after(1);
    // An interrupt handler collects errors at the very moment that the command is refused.
    let (unit, mut armed) = (bench.unit.clone(), true);
    bench.spy.set_hook(Some(Box::new(move |write, moment| {
        if (write.offset, moment) == (CMDQ_PROD, Moment::After) && std::mem::take(&mut armed) {
            assert!(unit.global_errors().is_empty());
            unit.report_faults(&mut |fault| panic!("{fault}"));
        }
    })));
    let (mut gather, found) = unmap_four(&*domain);
    bench.spy.set_hook(None);
    assert!(matches!(found, Err(HwError::Queue { code: ILLEGAL, .. })), "{found:?}");
    bench.expect(RED, PAGES[1], Ok(phys(PAGES[1])));
    domain.flush(&mut gather).unwrap();
    bench.expect(RED, PAGES[1], Err(case.not_mapped()));
    assert!(bench.unit.global_errors().is_empty());
    bench.check();
}

/// An interrupt is an edge: a handler that finds another at the register gets no second one.
#[test]
fn an_error_that_shows_while_another_is_acknowledged_is_acknowledged_and_told() {
    const EVENTQ_ABT_ERR: u32 = 1 << 2;
    let bench = Bench::up(&Case::nested(Stage::Second));
    let domain = four_pages(&bench);
    bench.model.fail_command_after(1);
    let (unit, model, mut armed) = (bench.unit.clone(), bench.model.clone(), true);
    bench.spy.set_hook(Some(Box::new(move |write, moment| {
        if (write.offset, moment) == (GERRORN, Moment::Before) && std::mem::take(&mut armed) {
            model.raise_error(EVENTQ_ABT_ERR);
            assert!(unit.global_errors().is_empty(), "the register is not its own just now");
        }
    })));
    let (_, found) = unmap_four(&*domain);
    bench.spy.set_hook(None);
    assert!(matches!(found, Err(HwError::Queue { code: ILLEGAL, .. })), "{found:?}");
    // Events are lost as long as it is active.
    assert_idle(&bench);
    let told = bench.unit.report_faults(&mut |fault| panic!("{fault}"));
    assert!(told.lost, "whoever comes next is told");
    assert_eq!(bench.unit.global_errors().bits(), EVENTQ_ABT_ERR);
    assert!(bench.unit.global_errors().is_empty());
    bench.check();
}

#[test]
fn a_unit_that_is_gone_gives_errors_and_no_endless_loop() {
    for case in both() {
        let bench = Bench::up(&case);
        let domain = four_pages(&bench);
        bench.model.set_absent(true);
        bench.spy.take_reads();
        let (_gather, found) = unmap_four(&*domain);
        assert!(found.is_err());
        assert!(bench.unit.detach(stream(RED)).is_err());
        assert!(bench.unit.sync().is_err());
        drop(domain);
        assert!(bench.spy.take_reads() < 5000);
        // All ones are no events and no errors.
        let mut faults = 0;
        let report = bench.unit.report_faults(&mut |_| faults += 1);
        assert_eq!((faults, report.reported, report.more), (0, 0, false), "{report:?}");
        assert!(bench.unit.global_errors().is_empty());
    }
}

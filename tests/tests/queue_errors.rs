//! The invalidation queue when hardware refuses: an error value that says what it was, everything else done all the
//! same, and a queue that works again.

use iommu_core::addr::Iova;
use iommu_core::hw::{HwError, Target, Unit as _};
use iommu_hal::regs::Registers;
use iommu_models::vtd::{Config, Executed, FaultCode, Queue};
use iommu_tests::bench::{Bench, stream};
use iommu_tests::case::Case;
use iommu_tests::four_pages::{PAGES, RED, four_pages, phys, unmap_four};
use iommu_tests::spy::{FSTS, IQH, IQT, Moment};

/// IQERCD.IQEI: invalid descriptor type.
const INVALID_TYPE: u8 = 3;

fn second_stage() -> Case {
    Case::plain()[0].clone()
}

fn raws(log: &[Executed]) -> Vec<u64> {
    log.iter().map(|executed| executed.raw[0]).collect()
}

#[test]
fn a_refused_descriptor_is_named_and_the_others_run() {
    for n in 0..4 {
        let bench = Bench::up(&second_stage());
        let domain = four_pages(&bench);
        bench.model.take_log();
        bench.model.fail_descriptor_after(n);
        let (mut gather, found) = unmap_four(&*domain);
        let Err(HwError::Queue { code: INVALID_TYPE, entry }) = found else { panic!("{found:?}") };
        // Page-selective IOTLB invalidation.
        assert_eq!(entry & 0x3f, 3 << 4 | 2, "descriptor {n}: {entry:#x}");
        assert!(!gather.is_empty(), "the gather keeps its content");
        for (at, iova) in PAGES.iter().enumerate() {
            let expected = if at == n { Ok(phys(*iova)) } else { Err(FaultCode::SECOND_PERMISSION) };
            bench.expect(RED, *iova, expected);
        }
        assert_eq!(bench.model.read32(FSTS) & 0x70, 0, "the error is cleared");
        assert_eq!(bench.model.read64(IQH), bench.model.read64(IQT));
        bench.model.take_log();
        domain.flush(&mut gather).expect("the queue works again");
        assert!(gather.is_empty());
        assert_eq!(raws(&bench.model.take_log()).len(), 5, "four and a wait, and nothing of before");
        PAGES.iter().for_each(|iova| bench.expect(RED, *iova, Err(FaultCode::SECOND_PERMISSION)));
        bench.check();
    }
}

#[test]
fn a_refused_wait_is_named_too() {
    let bench = Bench::up(&second_stage());
    let domain = four_pages(&bench);
    bench.model.fail_descriptor_after(4);
    let (mut gather, found) = unmap_four(&*domain);
    let Err(HwError::Queue { code: INVALID_TYPE, entry }) = found else { panic!("{found:?}, the error is lost") };
    assert_eq!(entry & 0xf, 5, "a wait: {entry:#x}");
    domain.flush(&mut gather).expect("the queue works again");
    PAGES.iter().for_each(|iova| bench.expect(RED, *iova, Err(FaultCode::SECOND_PERMISSION)));
    bench.check();
}

#[test]
fn several_refusals_in_one_batch_report_the_first() {
    let bench = Bench::up(&second_stage());
    let domain = four_pages(&bench);
    bench.model.take_log();
    bench.model.fail_descriptor_after(1);
    // The second refusal comes when the driver has repaired the first: at its write of FSTS.
    let (model, mut again) = (bench.model.clone(), true);
    bench.spy.set_hook(Some(Box::new(move |write, moment| {
        if (write.offset, moment) == (FSTS, Moment::Before) && std::mem::take(&mut again) {
            model.fail_descriptor_after(2);
        }
    })));
    let (mut gather, found) = unmap_four(&*domain);
    bench.spy.set_hook(None);
    // Both are page-selective; they differ in their second word only.
    let first = bench.model.take_log()[0].raw[0];
    assert_eq!(found, Err(HwError::Queue { code: INVALID_TYPE, entry: first }));
    // The second and the fourth are still to be done.
    for (at, iova) in PAGES.iter().enumerate() {
        assert_eq!(bench.read(RED, *iova).is_ok(), at % 2 == 1, "page {at}");
    }
    domain.flush(&mut gather).expect("the queue works again");
    bench.check();
}

#[test]
fn every_refusal_in_an_attach_or_detach_leaves_the_stream_blocked() {
    for case in Case::all() {
        // Attach: four descriptors in caching mode, none without. Replacement: up to four. Detach: three.
        for n in 0..4 {
            let bench = Bench::up(&case);
            let (red, blue) =
                (bench.domain_with(0x1000, 0x5000_0000, 0x1000), bench.domain_with(0x2000, 0x6000_0000, 0x1000));
            let nowhere = |bench: &Bench, what: &str| {
                for iova in [0x1000, 0x2000, 0x5000_0000] {
                    assert!(
                        bench.model.translate(RED, None, Iova::new(iova), false).is_err(),
                        "{}: {what}, descriptor {n}",
                        case.name
                    );
                }
            };
            let _ = bench.read(RED, 0x1000);
            bench.model.fail_descriptor_after(n);
            match bench.unit.attach(stream(RED), Target::Paging(&*red)) {
                Ok(_) => {}
                Err(HwError::Queue { .. }) => {
                    nowhere(&bench, "attach");
                    bench.attach(RED, &*red);
                }
                Err(other) => panic!("{other}"),
            }
            bench.expect(RED, 0x1000, Ok(0x5000_0000));
            bench.model.fail_descriptor_after(n);
            match bench.unit.attach(stream(RED), Target::Paging(&*blue)) {
                Ok(_) => {}
                Err(HwError::Queue { .. }) => {
                    nowhere(&bench, "replacement");
                    bench.attach(RED, &*blue);
                }
                Err(other) => panic!("{other}"),
            }
            bench.expect(RED, 0x2000, Ok(0x6000_0000));
            bench.expect(RED, 0x1000, Err(case.not_mapped()));
            bench.model.fail_descriptor_after(n);
            match bench.unit.detach(stream(RED)) {
                Ok(_) => {}
                Err(HwError::Queue { .. }) => {
                    nowhere(&bench, "detach");
                    bench.detach(RED);
                }
                Err(other) => panic!("{other}"),
            }
            bench.model.fail_descriptor_after(usize::MAX);
            bench.expect(RED, 0x2000, Err(FaultCode::CONTEXT_NOT_PRESENT));
            drop((red, blue));
            bench.check();
        }
    }
}

#[test]
fn a_device_tlb_that_times_out_is_no_error_of_an_unmap_without_one() {
    // Hardware drops the waits all the same, whether it has read them or not: the unmap goes again.
    for named in [0x4321, 0] {
        let bench = Bench::up(&Case { config: Config::server(), ..second_stage() });
        let domain = four_pages(&bench);
        bench.model.take_log();
        bench.model.set_queue(Queue::Stopped);
        bench.model.raise_time_out(named);
        let model = bench.model.clone();
        bench.spy.set_hook(Some(Box::new(move |write, moment| {
            if (write.offset, moment) == (FSTS, Moment::After) {
                model.set_queue(Queue::Running);
            }
        })));
        let (gather, found) = unmap_four(&*domain);
        bench.spy.set_hook(None);
        assert_eq!(found, Ok(()));
        assert!(gather.is_empty());
        assert_eq!(bench.model.read32(FSTS) & 0x70, 0);
        let log = bench.model.take_log();
        let waits = log.iter().filter(|it| it.raw[0] & 0xf == 5).count();
        assert_eq!((log.len(), waits), (10, 2), "what hardware reads late confirms nothing: {log:x?}");
        PAGES.iter().for_each(|iova| bench.expect(RED, *iova, Err(FaultCode::SECOND_PERMISSION)));
        bench.check();
    }
}

#[test]
fn an_unexpected_completion_is_no_error() {
    let bench = Bench::up(&second_stage());
    let domain = four_pages(&bench);
    // Found while a wait is pending: the first look comes before hardware is done.
    bench.model.set_queue(Queue::Stopped);
    bench.model.raise_unexpected_completion(0x4321);
    let (model, mut looks) = (bench.model.clone(), 0);
    bench.spy.set_hook(Some(Box::new(move |write, _| {
        looks += u32::from(write.offset == FSTS);
        if looks == 1 {
            model.set_queue(Queue::Running);
        }
    })));
    let (_, found) = unmap_four(&*domain);
    bench.spy.set_hook(None);
    assert_eq!(found, Ok(()));
    assert_eq!(bench.model.read32(FSTS) & 0x70, 0);
    bench.check();
}

#[test]
fn an_error_left_by_others_does_not_fail_what_comes_next() {
    // Raised between two batches, so that none of ours is concerned.
    let bench = Bench::up(&Case { config: Config::server(), ..second_stage() });
    let domain = four_pages(&bench);
    bench.model.raise_unexpected_completion(0x1);
    let (_, found) = unmap_four(&*domain);
    assert_eq!(found, Ok(()));
    bench.check();
}

#[test]
fn a_unit_that_is_gone_gives_errors_and_no_endless_loop() {
    let bench = Bench::up(&second_stage());
    let domain = four_pages(&bench);
    bench.model.set_absent(true);
    bench.spy.take_reads();
    // Errors that say that nothing was confirmed: any other would mean that nothing has changed.
    let unconfirmed = |error| matches!(error, HwError::TimedOut(_) | HwError::Queue { .. });
    let (_gather, found) = unmap_four(&*domain);
    assert!(found.is_err_and(unconfirmed), "{found:?}");
    assert!(bench.unit.detach(stream(RED)).is_err_and(unconfirmed));
    assert!(bench.unit.sync().is_err_and(unconfirmed));
    drop(domain);
    assert!(bench.spy.take_reads() < 5000);
    // All ones are no fault records.
    let mut faults = 0;
    let report = bench.unit.report_faults(&mut |_| faults += 1);
    assert_eq!((faults, report.reported), (0, 0), "{report:?}");
}

//! Events: read, decoded, given back; in any number, while anything else is under way.

use iommu_core::addr::Iova;
use iommu_core::hw::{AccessKind, Domain, Fault, FaultKind, FaultReport, Pasid, Prot, Stage, Stream, StreamId, Target};
use iommu_core::hw::{HwError, Unit as _};
use iommu_hal::regs::Registers;
use iommu_models::smmuv3::{Config, FaultCode};
use iommu_tests::smmuv3::bench::{Bench, extent, map, stream, unmap};
use iommu_tests::smmuv3::case::Case;
use iommu_tests::smmuv3::spy::{EVENTQ_BASE, EVENTQ_CONS, EVENTQ_PROD, GERROR, GERRORN};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

const RED: u32 = 0x08;
const OVERFLOW: u32 = 1 << 31;

fn report(bench: &Bench) -> (Vec<Fault>, FaultReport) {
    let mut faults = Vec::new();
    let report = bench.unit.report_faults(&mut |fault| faults.push(*fault));
    assert_eq!(report.reported, faults.len());
    (faults, report)
}

/// log2 of the event queue that the driver made.
fn log2(bench: &Bench) -> u32 {
    bench.model.read64(EVENTQ_BASE) as u32 & 0x1f
}

/// Makes an event that can be told from others.
fn fault(bench: &Bench, number: u64) {
    let write = number.is_multiple_of(2);
    bench.model.dma(RED, None, Iova::new(number << 12), 1, write).unwrap_err();
}

fn numbers(faults: &[Fault]) -> Vec<u64> {
    faults.iter().map(|fault| fault.iova.get() >> 12).collect()
}

/// A unit with [`RED`] attached to a domain in which nothing is mapped.
fn empty(case: &Case) -> (Bench, Box<dyn Domain>) {
    let bench = Bench::up(case);
    let domain = bench.domain();
    bench.attach(RED, &*domain);
    (bench, domain)
}

#[test]
fn no_events_are_none() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        bench.spy.take_writes();
        let (faults, report) = report(&bench);
        assert!(faults.is_empty() && !report.lost && !report.more);
        assert_eq!(bench.spy.take_writes(), [], "nothing to give back");
    }
}

#[test]
fn each_refusal_is_decoded_as_what_it_was() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let domain = bench.domain();
        domain.map(Iova::new(0x1000), &[extent(0x5000_0000, 0x1000)], Prot::READ).unwrap();
        let try_one = |sid: u32, ssid: Option<u32>, iova: u64, write: bool, code: FaultCode, kind: FaultKind| {
            let blocked = bench.model.dma(sid, ssid, Iova::new(iova), 4, write).unwrap_err();
            assert_eq!((blocked.code, blocked.reported), (code, true), "{}", case.name);
            let (faults, _) = report(&bench);
            let [fault] = faults[..] else { panic!("{}: {faults:?}", case.name) };
            let stream = Stream { id: StreamId::new(sid), pasid: ssid.and_then(Pasid::new) };
            assert_eq!(fault.stream, stream, "{}", case.name);
            assert_eq!((fault.code, fault.kind), (code.0.into(), kind), "{}: {}", case.name, fault.text);
            assert!(fault.text.contains(code.name().unwrap()), "{}", fault.text);
            if code >= FaultCode::F_TRANSLATION {
                assert_eq!((fault.iova, fault.granule), (Iova::new(iova), 1), "{}", case.name);
                assert_eq!(fault.access, if write { AccessKind::Write } else { AccessKind::Read }, "{}", case.name);
                let stage =
                    if case.stage == Stage::Second && code != FaultCode::F_ADDR_SIZE { "stage 2" } else { "stage 1" };
                assert!(fault.text.contains(stage), "{}: {}", case.name, fault.text);
            } else {
                assert_eq!((fault.iova, fault.granule), (Iova::new(0), 0), "{}: tells no address", case.name);
            }
        };
        let [near, _, far] = case.streams();
        for write in [false, true] {
            let beyond = 1 << case.table_bits();
            try_one(beyond, None, 0x1234, write, FaultCode::C_BAD_STREAMID, FaultKind::Blocked);
            if case.two_level() {
                try_one(far, None, 0x1234, write, FaultCode::C_BAD_STREAMID, FaultKind::Blocked);
            }
        }
        bench.attach(near, &*domain);
        try_one(near, None, 0x1ffc, true, case.not_writable(), FaultKind::Permission);
        for write in [false, true] {
            try_one(near, None, 0x2ffc, write, case.not_mapped(), FaultKind::NotMapped);
            let (end, code) = (case.end(), case.beyond(case.end()));
            let kind = if code == FaultCode::F_ADDR_SIZE { FaultKind::Address } else { FaultKind::NotMapped };
            try_one(near, None, end, write, code, kind);
            if case.stage == Stage::First {
                for ssid in [0, 5, 0xf_ffff] {
                    try_one(near, Some(ssid), 0x1000, write, FaultCode::C_BAD_SUBSTREAMID, FaultKind::Request);
                }
            }
        }
        bench.unit.attach(stream(near), Target::Identity).unwrap();
        let bits = case.config.output_bits();
        try_one(near, None, 1 << bits, false, FaultCode::F_ADDR_SIZE, FaultKind::Address);
        bench.check();
    }
}

#[test]
fn several_are_given_oldest_first_across_the_end_of_the_queue() {
    for case in Case::all() {
        let (bench, _domain) = empty(&case);
        let size = 1u64 << log2(&bench);
        let (mut next, mut made) = (1, 0);
        while made < 3 * size {
            let count = (next % 7 + 1).min(size);
            let all: Vec<u64> = (next..next + count).collect();
            all.iter().for_each(|number| fault(&bench, *number));
            (next, made) = (next + count, made + count);
            let (faults, report) = report(&bench);
            assert_eq!(numbers(&faults), all, "{}", case.name);
            assert!(!report.lost && !report.more);
            assert_eq!(bench.model.read32(EVENTQ_PROD), bench.model.read32(EVENTQ_CONS));
        }
        bench.model.take_events();
        bench.check();
    }
}

#[test]
fn an_overflow_is_told_once_and_recording_goes_on() {
    for case in
        Case::all().into_iter().filter(|case| case.config.idr1 >> 16 & 0x1f < 8 || case.name.starts_with("nested,"))
    {
        let (bench, _domain) = empty(&case);
        let size = 1u64 << log2(&bench);
        for round in 0..5 {
            (0..size + 3).for_each(|number| fault(&bench, number));
            let (faults, first) = report(&bench);
            assert_eq!(numbers(&faults), (0..size).collect::<Vec<_>>(), "{}: round {round}", case.name);
            assert!(first.lost && !first.more, "{}: {first:?}", case.name);
            assert_eq!(bench.model.read32(EVENTQ_PROD), bench.model.read32(EVENTQ_CONS), "acknowledged");
            assert_eq!(bench.model.read32(EVENTQ_PROD) & OVERFLOW != 0, round % 2 == 0);
            let (faults, second) = report(&bench);
            assert!(faults.is_empty() && !second.lost);
            fault(&bench, 99);
            let (faults, third) = report(&bench);
            assert_eq!((numbers(&faults), third.lost), (vec![99], false));
        }
        bench.model.take_events();
        bench.check();
    }
}

#[test]
fn a_storm_is_handled_in_bounded_pieces() {
    for case in Case::all() {
        let (bench, _domain) = empty(&case);
        fault(&bench, 0);
        let mut made = 0;
        let report = bench.unit.report_faults(&mut |_| {
            made += 1;
            assert!(made < 5000, "it never ends");
            fault(&bench, made);
        });
        assert!(report.more, "{}: {report:?}", case.name);
        assert!(report.reported >= 1 && report.reported as u64 == made && made <= 1 << log2(&bench));
        // The storm over, what is left comes out.
        let (faults, rest) = self::report(&bench);
        assert_eq!((numbers(&faults), rest.more, rest.lost), (vec![made], false, false));
        bench.model.take_events();
        bench.check();
    }
}

#[test]
fn a_storm_from_a_full_queue_ends_too_and_what_is_lost_is_told() {
    for case in Case::all() {
        let (bench, _domain) = empty(&case);
        let size = 1u64 << log2(&bench);
        (0..2 * size).for_each(|number| fault(&bench, number));
        let mut made = 0;
        let report = bench.unit.report_faults(&mut |_| {
            made += 1;
            assert!(made < 5000, "it never ends");
            // Three for one.
            (0..3).for_each(|_| fault(&bench, made));
        });
        assert!(report.lost && report.reported as u64 <= size, "{}: {report:?}", case.name);
        let mut last = report;
        for _ in 0..4 {
            last = self::report(&bench).1;
        }
        assert!(!last.lost && !last.more && last.reported == 0, "{}: {last:?}", case.name);
        fault(&bench, 7);
        assert_eq!(numbers(&self::report(&bench).0), [7]);
        bench.model.take_events();
        bench.check();
    }
}

#[test]
fn a_report_inside_of_a_report_returns() {
    let (bench, _domain) = empty(&Case::nested(Stage::First));
    (0..3).for_each(|number| fault(&bench, number));
    let (mut outer, mut inner) = (0, 0);
    bench.unit.report_faults(&mut |_| {
        outer += 1;
        // As from an interrupt on this very CPU.
        let report = bench.unit.report_faults(&mut |_| inner += 1);
        assert!(report.more && report.reported == 0, "somebody is at it");
    });
    assert_eq!((outer, inner), (3, 0));
    bench.check();
}

/// A change, given the domain that it is about.
type Step<'a> = &'a dyn Fn(&dyn Domain);

/// Runs `does` on a thread of its own, and fails where it takes more than a few seconds.
fn with_watchdog(does: impl FnOnce() + Send + 'static) {
    let (done, finished) = mpsc::channel();
    let worker = std::thread::spawn(move || {
        does();
        let _ = done.send(());
    });
    match finished.recv_timeout(Duration::from_secs(60)) {
        Ok(()) => worker.join().unwrap(),
        // Not joined: it would never come back.
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("a report waits for a lock that a change holds"),
        Err(mpsc::RecvTimeoutError::Disconnected) => std::panic::resume_unwind(worker.join().unwrap_err()),
    }
}

#[test]
fn events_are_reported_in_the_middle_of_every_store_and_every_command() {
    with_watchdog(|| {
        for case in Case::all() {
            let bench = Bench::up(&case);
            let reports = Arc::new(AtomicUsize::new(0));
            // A stream beyond the table, whose events come whatever is under way. The report itself writes registers.
            let beyond = 1u32 << case.table_bits();
            let busy = Arc::new(Mutex::new(()));
            let interrupt = {
                let (model, unit, reports) = (bench.model.clone(), bench.unit.clone(), reports.clone());
                move || {
                    let Ok(_busy) = busy.try_lock() else { return };
                    model.dma(beyond, None, Iova::new(0x1000), 1, true).unwrap_err();
                    let mut seen = 0;
                    unit.report_faults(&mut |fault| {
                        assert_eq!(fault.stream, self::stream(beyond));
                        seen += 1;
                    });
                    assert_eq!(seen, 1);
                    assert!(unit.global_errors().is_empty());
                    reports.fetch_add(1, Ordering::Relaxed);
                }
            };
            let at_store = interrupt.clone();
            bench.memory.set_observer(Some(Box::new(move |_, _| at_store())));
            bench.spy.set_hook(Some(Box::new(move |_, _| interrupt())));
            let steps: [Step<'_>; 5] = [
                &|domain| map(domain, 0x1000, 0x5000_0000, 0x3000),
                &|domain| assert!(bench.unit.attach(stream(RED), Target::Paging(domain)).is_ok()),
                &|domain| unmap(domain, 0x1000, 0x3000),
                &|_| assert!(bench.unit.attach(stream(RED), Target::Identity).is_ok()),
                &|_| bench.detach(RED),
            ];
            let domain = bench.domain();
            for step in steps {
                let before = reports.load(Ordering::Relaxed);
                step(&*domain);
                assert!(reports.load(Ordering::Relaxed) > before, "{}", case.name);
            }
            bench.memory.set_observer(None);
            bench.spy.set_hook(None);
            bench.model.take_events();
            bench.check();
        }
    });
}

#[test]
fn events_while_the_command_queue_hangs_are_reported_all_the_same() {
    let (bench, _domain) = empty(&Case::nested(Stage::Second));
    // Has the entry cached, so that the stream stays attached as far as hardware knows.
    fault(&bench, 4);
    assert_eq!(numbers(&report(&bench).0), [4]);
    bench.model.set_queue(iommu_models::smmuv3::Queue::Stopped);
    assert!(matches!(bench.unit.detach(stream(RED)), Err(HwError::TimedOut(_))));
    fault(&bench, 5);
    assert_eq!(numbers(&report(&bench).0), [5]);
}

#[test]
fn every_field_is_read_from_its_bits_and_every_number_is_taken() {
    let bench = Bench::up(&Case::nested(Stage::First));
    let decode = |raw: [u64; 4]| {
        assert!(bench.model.put_event(raw));
        let (faults, report) = report(&bench);
        assert_eq!((report.reported, report.more, report.lost), (1, false, false));
        faults[0]
    };
    let fault = decode([0x13 | 0xdead_beef << 32, 2 << 40, 0x1234_5678_9abc_def0, 0]);
    assert_eq!(fault.iova, Iova::new(0x1234_5678_9abc_def0));
    assert_eq!(fault.stream, Stream::function(StreamId::new(0xdead_beef)));
    assert_eq!((fault.access, fault.code, fault.kind), (AccessKind::Write, 0x13, FaultKind::Permission));
    let fault = decode([0x10 | 1 << 11 | 0xa_bcde << 12, 1 << 35 | 1 << 39, 0, 0]);
    assert_eq!(fault.stream, Stream::with_pasid(StreamId::new(0), Pasid::new(0xa_bcde).unwrap()));
    assert_eq!((fault.access, fault.kind), (AccessKind::Read, FaultKind::NotMapped));
    assert!(fault.text.contains("stage 2"));
    // Without SSV the field means nothing.
    assert_eq!(decode([0x10 | 0xa_bcde << 12, 0, 0, 0]).stream.pasid, None);
    assert_eq!(decode([0x10, 1 << 34 | 1 << 35, 0, 0]).access, AccessKind::Execute);
    let mut unknown = 0;
    for code in 0..=0xff {
        let fault = decode([u64::from(code), u64::MAX, u64::MAX, u64::MAX]);
        assert_eq!(fault.code, code);
        unknown += u32::from(fault.kind == FaultKind::Unknown);
    }
    assert!(unknown > 200);
    for code in [0x00, 0x0c, 0x14, 0x1f, 0xe0, 0xef, 0xff] {
        assert_eq!(decode([code, 0, 0, 0]).kind, FaultKind::Unknown, "{code:#x}");
    }
    bench.check();
}

#[test]
fn events_that_cannot_be_written_are_told_as_lost() {
    let (bench, _domain) = empty(&Case::nested(Stage::First));
    fault(&bench, 3);
    // EVENTQ_ABT_ERR; nothing is written before it is acknowledged.
    bench.model.raise_error(1 << 2);
    fault(&bench, 4);
    let (faults, first) = report(&bench);
    assert_eq!((numbers(&faults), first.lost), (vec![3], true));
    assert_eq!(bench.model.read32(GERROR), bench.model.read32(GERRORN), "acknowledged");
    assert!(!report(&bench).1.lost);
    assert_eq!(bench.unit.global_errors().bits(), 1 << 2, "noted for whoever asks");
    bench.check();
}

/// A unit that says it has written more events than fit.
#[test]
fn a_producer_that_lies_does_not_lead_beyond_the_queue() {
    struct Lying(Arc<iommu_models::smmuv3::Model>, Mutex<Option<u32>>);
    impl Registers for Lying {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn read32(&self, offset: usize) -> u32 {
            let lie = (*self.1.lock().unwrap()).filter(|_| offset == EVENTQ_PROD);
            lie.unwrap_or_else(|| self.0.read32(offset))
        }
        fn write32(&self, offset: usize, value: u32) {
            self.0.write32(offset, value);
        }
        fn read64(&self, offset: usize) -> u64 {
            self.0.read64(offset)
        }
        fn write64(&self, offset: usize, value: u64) {
            self.0.write64(offset, value);
        }
    }
    use iommu_tests::smmuv3::bench::{config_for, memory};
    for config in [Config::nested(), Config::small()] {
        let case = Case { config, ..Case::nested(Stage::Second) };
        let model = Arc::new(iommu_models::smmuv3::Model::new(case.config, memory(false)));
        let regs = Arc::new(Lying(model.clone(), Mutex::new(None)));
        let unit = iommu_smmuv3::Unit::bring_up(model.memory().clone(), regs.clone(), config_for(&case)).unwrap();
        let size = 1u32 << (model.read64(EVENTQ_BASE) & 0x1f);
        for lie in [size + 1, 2 * size - 1, 2 * size, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, u32::MAX] {
            *regs.1.lock().unwrap() = Some(lie);
            let mut count = 0;
            let report = unit.report_faults(&mut |_| count += 1);
            assert!(count <= size && report.reported == count as usize, "{lie:#x}: {report:?}");
        }
    }
}

//! Fault records: read, decoded, cleared; in any number, while anything else is under way.

use iommu_core::addr::Iova;
use iommu_core::hw::{AccessKind, Domain, Fault, FaultKind, Pasid, RequesterId, Stream, Target, Unit as _};
use iommu_hal::regs::Registers;
use iommu_models::vtd::{Config, FaultCode, Model};
use iommu_tests::bench::{Bench, TIMEOUT, map, memory, stream, unmap};
use iommu_tests::case::Case;
use iommu_tests::spy::FSTS;
use iommu_vtd::Unit;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

const RED: u16 = 0x0108;

fn server() -> Case {
    let case = Case::plain().into_iter().find(|case| case.config == Config::server()).unwrap();
    Case { non_coherent: false, ..case }
}

fn report(bench: &Bench) -> (Vec<Fault>, iommu_core::hw::FaultReport) {
    let mut faults = Vec::new();
    let report = bench.unit.report_faults(&mut |fault| faults.push(*fault));
    assert_eq!(report.reported, faults.len());
    (faults, report)
}

#[test]
fn no_faults_are_none() {
    for case in Case::plain() {
        let bench = Bench::up(&case);
        bench.spy.take_writes();
        let (faults, report) = report(&bench);
        assert!(faults.is_empty() && !report.lost && !report.more);
        assert_eq!(bench.spy.take_writes(), [], "nothing to clear");
    }
}

#[test]
fn each_refusal_is_decoded_as_what_it_was() {
    for case in Case::plain() {
        let bench = Bench::up(&case);
        let domain = bench.domain();
        let readable = [iommu_tests::bench::extent(0x5000_0000, 0x1000)];
        domain.map(Iova::new(0x1000), &readable, iommu_core::hw::Prot::READ).unwrap();
        let beyond = match case.stage {
            iommu_core::hw::Stage::First => FaultCode::NOT_CANONICAL,
            iommu_core::hw::Stage::Second => FaultCode::BEYOND_WIDTH,
        };
        let absent = match case.stage {
            iommu_core::hw::Stage::First => FaultKind::NotMapped,
            // The second stage has one code for both.
            iommu_core::hw::Stage::Second => FaultKind::Permission,
        };
        let try_one = |requester: u16, pasid: Option<u32>, iova: u64, write: bool, code: FaultCode, kind: FaultKind| {
            bench.model.dma(requester, pasid, Iova::new(iova), 4, write).unwrap_err();
            let (faults, _) = report(&bench);
            let [fault] = faults[..] else { panic!("{}: {faults:?}", case.name) };
            // A unit without PASIDs has no place for one in its records.
            let pasid = pasid.filter(|_| case.config.ecap & iommu_models::vtd::Config::ECAP_PASID != 0);
            let stream = Stream { id: RequesterId::new(requester).into(), pasid: pasid.and_then(Pasid::new) };
            assert_eq!(fault.stream, stream, "{}", case.name);
            // Records leave out what lies above the largest AGAW.
            let page = iova & !0xfff & ((1 << case.config.address_bits()) - 1);
            assert_eq!((fault.iova, fault.granule), (Iova::new(page), 4096), "{}", case.name);
            assert_eq!(fault.access, if write { AccessKind::Write } else { AccessKind::Read }, "{}", case.name);
            assert_eq!((fault.code, fault.kind), (code.0.into(), kind), "{}: {}", case.name, fault.text);
            assert!(!fault.text.is_empty() && fault.text != "unknown reason");
        };
        for write in [false, true] {
            try_one(RED, None, 0x1234, write, FaultCode::ROOT_NOT_PRESENT, FaultKind::Blocked);
            try_one(0xffff, None, 0xffff_ffff_f000, write, FaultCode::ROOT_NOT_PRESENT, FaultKind::Blocked);
        }
        bench.attach(RED, &*domain);
        try_one(RED, None, 0x1ffc, true, case.not_writable(), FaultKind::Permission);
        for write in [false, true] {
            try_one(RED ^ 8, None, 0x1234, write, FaultCode::CONTEXT_NOT_PRESENT, FaultKind::Blocked);
            try_one(RED, None, 0x2ffc, write, case.not_mapped(), absent);
            try_one(RED, None, case.end(), write, beyond, FaultKind::Address);
            // What requests without PASID are looked up by, one of a table, one of no table, one beyond the directory.
            let pasids = [
                (0, FaultCode::RID_PASID, FaultKind::Request),
                (5, FaultCode::PASID_NOT_PRESENT, FaultKind::Blocked),
                (0x7fff, FaultCode::DIRECTORY_NOT_PRESENT, FaultKind::Blocked),
                (0xf_ffff, FaultCode::PASID_TOO_LARGE, FaultKind::Request),
            ];
            let enabled = case.config.ecap & iommu_models::vtd::Config::ECAP_PASID != 0;
            for (pasid, code, kind) in pasids {
                let refused = (FaultCode::PASID_DISABLED, FaultKind::Request);
                let (code, kind) = if enabled { (code, kind) } else { refused };
                try_one(RED, Some(pasid), 0x1000, write, code, kind);
            }
        }
        bench.unit.attach(stream(RED), Target::Identity).unwrap();
        try_one(RED, None, 1 << case.config.haw, false, FaultCode::BEYOND_HOST, FaultKind::Address);
        bench.check();
    }
}

/// Makes a fault that can be told from others.
fn fault(bench: &Bench, number: u64) {
    bench.model.dma(RED, None, Iova::new(number << 12), 1, number.is_multiple_of(2)).unwrap_err();
}

fn numbers(faults: &[Fault]) -> Vec<u64> {
    faults.iter().map(|fault| fault.iova.get() >> 12).collect()
}

#[test]
fn several_are_given_oldest_first_wherever_the_records_begin() {
    let bench = Bench::up(&server());
    let mut next = 1;
    // Every count from every first record.
    for round in 0..40u64 {
        let count = round % 4 + 1;
        let made: Vec<u64> = (next..next + count).collect();
        next += count;
        made.iter().for_each(|number| fault(&bench, *number));
        let (faults, report) = report(&bench);
        assert_eq!(numbers(&faults), made, "round {round}");
        assert!(!report.lost && !report.more);
        assert_eq!(bench.model.read32(FSTS) & 3, 0);
    }
    bench.check();
}

#[test]
fn an_overflow_is_told_once_and_recording_goes_on() {
    for case in [Case::plain()[0].clone(), server()] {
        let bench = Bench::up(&case);
        let records = (case.config.cap >> 40 & 0xff) + 1;
        for round in 0..5 {
            (0..records + 3).for_each(|number| fault(&bench, number));
            assert_eq!(bench.model.read32(FSTS) & 1, 1);
            let (faults, first) = report(&bench);
            assert_eq!(numbers(&faults), (0..records).collect::<Vec<_>>(), "round {round}");
            assert!(first.lost && !first.more);
            assert_eq!(bench.model.read32(FSTS) & 3, 0, "cleared");
            let (faults, second) = report(&bench);
            assert!(faults.is_empty() && !second.lost);
            fault(&bench, 99);
            assert_eq!(numbers(&report(&bench).0), [99]);
        }
        bench.check();
    }
}

#[test]
fn a_storm_is_handled_in_bounded_pieces() {
    for case in [Case::plain()[0].clone(), server()] {
        let bench = Bench::up(&case);
        fault(&bench, 0);
        let mut made = 0;
        let report = bench.unit.report_faults(&mut |_| {
            made += 1;
            assert!(made < 1000, "it never ends");
            fault(&bench, made);
        });
        assert!(report.more, "{report:?}");
        assert!(report.reported >= 1 && report.reported as u64 == made);
        // The storm over, what is left comes out.
        let (faults, rest) = self::report(&bench);
        assert_eq!((numbers(&faults), rest.more), (vec![made], false));
        bench.check();
    }
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
    match finished.recv_timeout(Duration::from_secs(20)) {
        Ok(()) => worker.join().unwrap(),
        // Not joined: it would never come back.
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("a report waits for a lock that a change holds"),
        Err(mpsc::RecvTimeoutError::Disconnected) => std::panic::resume_unwind(worker.join().unwrap_err()),
    }
}

#[test]
fn a_report_inside_of_a_report_returns() {
    with_watchdog(|| {
        let bench = Bench::up(&server());
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
    });
}

#[test]
fn faults_are_reported_in_the_middle_of_every_store_and_every_command() {
    with_watchdog(|| {
        for case in Case::all() {
            let case = case.with_cap(Config::CAP_RWBF, true);
            let bench = Bench::up(&case);
            let reports = Arc::new(AtomicUsize::new(0));
            // A requester on a bus of its own, which nobody attaches. The report itself writes registers.
            let busy = Arc::new(Mutex::new(()));
            let interrupt = {
                let (model, unit, reports) = (bench.model.clone(), bench.unit.clone(), reports.clone());
                move || {
                    let Ok(_busy) = busy.try_lock() else { return };
                    model.dma(0xf000, None, Iova::new(0x1000), 1, true).unwrap_err();
                    let mut seen = 0;
                    unit.report_faults(&mut |fault| {
                        assert_eq!(fault.stream, self::stream(0xf000));
                        seen += 1;
                    });
                    assert_eq!(seen, 1);
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
            bench.check();
        }
    });
}

/// A unit whose fault records are what a test says, bit by bit.
struct Forged {
    model: Arc<Model>,
    records: Mutex<Vec<u128>>,
}

impl Forged {
    fn pending(&self) -> u32 {
        u32::from(self.records.lock().unwrap().iter().any(|record| record >> 127 != 0)) << 1
    }
}

const FIRST_RECORD: usize = 0x220;

impl Registers for Forged {
    fn len(&self) -> usize {
        self.model.len()
    }
    fn read32(&self, offset: usize) -> u32 {
        match offset {
            FSTS => self.model.read32(FSTS) | self.pending(),
            FIRST_RECORD.. => (self.read64(offset & !7) >> (offset % 8 * 8)) as u32,
            _ => self.model.read32(offset),
        }
    }
    fn write32(&self, offset: usize, value: u32) {
        match offset.checked_sub(FIRST_RECORD) {
            Some(inside) if inside % 16 == 12 && value >> 31 != 0 => {
                self.records.lock().unwrap()[inside / 16] &= !(1 << 127);
            }
            Some(_) => panic!("write of {value:#x} to {offset:#x}"),
            None => self.model.write32(offset, value),
        }
    }
    fn read64(&self, offset: usize) -> u64 {
        match offset.checked_sub(FIRST_RECORD) {
            Some(inside) => (self.records.lock().unwrap()[inside / 16] >> (inside % 16 * 8)) as u64,
            None => self.model.read64(offset),
        }
    }
    fn write64(&self, offset: usize, value: u64) {
        assert!(offset < FIRST_RECORD, "write of {value:#x} to {offset:#x}");
        self.model.write64(offset, value);
    }
}

#[test]
fn every_field_is_read_from_its_bits_and_every_reason_is_taken() {
    let model = Arc::new(Model::new(Config::second_stage(), memory(false)));
    let forged = Arc::new(Forged { model: model.clone(), records: Mutex::new(vec![0]) });
    let config = iommu_vtd::Config { host_bits: 48, timeout: TIMEOUT, ..Default::default() };
    let unit = Unit::bring_up(model.memory().clone(), forged.clone(), config).unwrap();
    let decode = |record: u128| {
        forged.records.lock().unwrap()[0] = record | 1 << 127;
        let mut faults = Vec::new();
        let report = unit.report_faults(&mut |fault| faults.push(*fault));
        assert_eq!((report.reported, report.more, faults.len()), (1, false, 1));
        faults[0]
    };
    // Bits: address 63:12, source 79:64, EXE 94, PP 95, reason 103:96, PASID 123:104, T2 92, T1 126.
    let fault = decode(0x1234_5678_9abc_d000 | 0xbeef << 64 | 0x59 << 96 | 0xa_bcde << 104);
    assert_eq!(fault.iova, Iova::new(0x1234_5678_9abc_d000));
    assert_eq!(fault.stream, Stream::function(RequesterId::new(0xbeef)));
    assert_eq!((fault.access, fault.code), (AccessKind::Write, 0x59));
    let fault = decode(1 << 95 | 0xa_bcde << 104 | 1 << 126 | 0x71 << 96);
    assert_eq!(fault.stream, Stream::with_pasid(RequesterId::new(0), Pasid::new(0xa_bcde).unwrap()));
    assert_eq!((fault.access, fault.kind), (AccessKind::Read, FaultKind::NotMapped));
    // EXE counts in requests with PASID only.
    assert_eq!(decode(1 << 126 | 1 << 94 | 1 << 95).access, AccessKind::Execute);
    assert_eq!(decode(1 << 126 | 1 << 92).access, AccessKind::Atomic);
    let mut unknown = 0;
    for code in 0..=0xff_u32 {
        let fault = decode(u128::from(code) << 96);
        assert_eq!(fault.code, code);
        assert_eq!(fault.kind == FaultKind::Unknown, fault.text == "unknown reason", "{code:#x}");
        unknown += u32::from(fault.kind == FaultKind::Unknown);
    }
    assert!(unknown > 128);
    for code in [0x00, 0x2f, 0x37, 0x4f, 0x5f, 0x6f, 0x8f, 0x92, 0xff] {
        assert_eq!(decode(code << 96).kind, FaultKind::Unknown, "{code:#x}");
    }
}

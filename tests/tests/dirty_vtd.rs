//! What is written through a domain is recorded by hardware, with caches as stale as they may be, and read back through the
//! driver and through the core.

use iommu_core::addr::{Iova, IovaRange};
use iommu_core::dirty::{DirtyBitmap, DirtyRead};
use iommu_core::hw::{
    DeviceTlb, Domain, DomainConfig, Gather, HwError, Pasid, Prot, RequesterId, Stage, Stream, StreamId, Target,
    Unit as _,
};
use iommu_core::hwpt::{Hwpt, HwptConfig};
use iommu_core::ioas::{Ioas, IoasConfig};
use iommu_models::vtd::{Config, Descriptor, FaultCode, Granularity, Queue};
use iommu_tests::bench::{Bench, extent, map, range};
use iommu_tests::case::Case;
use iommu_tests::four_pages::HUNG;
use iommu_tests::spaces::map_fixed;
use iommu_tests::spy::Moment;

const RED: u16 = 0x0108;
const BLUE: u16 = 0x01a0;
const PAGE: u64 = 0x1000;
const LARGE: u64 = 1 << 21;
const HUGE: u64 = 1 << 30;
const MEMORY: u64 = 8 * HUGE;

/// A server's unit with A/D bits in the second stage, SSADS.
fn server() -> Config {
    Config::server().ecap_bits(1 << 45, true)
}

fn case(stage: Stage) -> Case {
    Case { name: format!("{stage:?}"), config: server(), stage, non_coherent: false }
}

fn tracked(stage: Stage) -> DomainConfig {
    DomainConfig { dirty_tracking: true, ..DomainConfig::new(stage) }
}

/// A domain that tracks, with two neighbouring pages and a leaf of each larger size.
fn domain_of(bench: &Bench) -> Box<dyn Domain> {
    assert!(bench.unit.capabilities().dirty_tracking);
    let domain = bench.unit.create_domain(&tracked(bench.case.stage)).unwrap();
    map(&*domain, PAGE, MEMORY + PAGE, 2 * PAGE);
    map(&*domain, LARGE, MEMORY + LARGE, LARGE);
    map(&*domain, HUGE, MEMORY + HUGE, HUGE);
    domain
}

#[track_caller]
fn write(bench: &Bench, rid: u16, at: u64) {
    assert_eq!(bench.write(rid, at), Ok(MEMORY + at), "{}", bench.case.name);
}

fn dirty_in(domain: &dyn Domain, part: IovaRange) -> Vec<IovaRange> {
    let mut found = Vec::new();
    domain.read_dirty(part, &mut |range| found.push(range)).expect("a read");
    found
}

fn dirty(domain: &dyn Domain) -> Vec<IovaRange> {
    dirty_in(domain, domain.geometry().aperture)
}

/// Reads, clears and flushes.
fn clear(domain: &dyn Domain, part: IovaRange) -> Vec<IovaRange> {
    let (mut found, mut gather) = (Vec::new(), Gather::new());
    domain.read_and_clear_dirty(part, &mut gather, &mut |range| found.push(range)).expect("a read");
    domain.flush(&mut gather).expect("a flush");
    found
}

#[test]
fn writes_are_found_once_and_again_after_each_clearing() {
    for stage in [Stage::First, Stage::Second] {
        let bench = Bench::up(&case(stage));
        let domain = domain_of(&bench);
        bench.attach(RED, &*domain);
        domain.set_dirty_tracking(true).unwrap();
        assert_eq!(dirty(&*domain), []);
        for round in 0..3 {
            // Reads leave no trace.
            for at in [PAGE, 2 * PAGE, LARGE, HUGE] {
                bench.read(RED, at).unwrap();
            }
            assert_eq!(dirty(&*domain), [], "{stage:?} {round}");
            write(&bench, RED, 2 * PAGE + 5);
            assert_eq!(dirty(&*domain), [range(2 * PAGE, PAGE)], "{stage:?} {round}");
            write(&bench, RED, PAGE);
            write(&bench, RED, HUGE + 7 * LARGE);
            let expected = [range(PAGE, 2 * PAGE), range(HUGE, HUGE)];
            assert_eq!(dirty(&*domain), expected, "{stage:?} {round}: whole leaves, joined");
            // Cut to the range, and kept where some of the leaf was not asked for.
            assert_eq!(dirty_in(&*domain, range(HUGE + PAGE, PAGE)), [range(HUGE + PAGE, PAGE)]);
            assert_eq!(clear(&*domain, range(HUGE + PAGE, PAGE)), [range(HUGE + PAGE, PAGE)]);
            assert_eq!(clear(&*domain, range(0, LARGE)), expected[..1]);
            assert_eq!(clear(&*domain, domain.geometry().aperture), expected[1..]);
            assert_eq!(clear(&*domain, domain.geometry().aperture), []);
        }
        write(&bench, RED, LARGE);
        assert_eq!(dirty(&*domain), [range(LARGE, LARGE)]);
        bench.check();
    }
}

#[test]
fn second_stages_record_for_every_stream_from_the_moment_they_are_told_to() {
    let bench = Bench::up(&case(Stage::Second));
    let domain = domain_of(&bench);
    bench.attach(RED, &*domain);
    // Everything is cached by now.
    write(&bench, RED, PAGE);
    let ssade = |rid| bench.entry(rid)[0] >> 9 & 1;
    assert_eq!((dirty(&*domain), ssade(RED)), (vec![], 0), "nobody asked for it");
    let id = bench.domain_id(RED);
    bench.invalidations();
    domain.set_dirty_tracking(true).unwrap();
    let expected = |entries| {
        let all = Granularity::Domain(id);
        [Descriptor::PasidCache(entries), Descriptor::Iotlb { granularity: all, drain_writes: true, drain_reads: true }]
    };
    assert_eq!(bench.invalidations(), expected(Granularity::Pasid { domain: id, pasid: 0 }));
    assert_eq!(ssade(RED), 1);
    write(&bench, RED, PAGE);
    assert_eq!(dirty(&*domain), [range(PAGE, PAGE)]);
    // Who comes later comes to the same.
    bench.attach(BLUE, &*domain);
    assert_eq!(ssade(BLUE), 1);
    write(&bench, BLUE, LARGE);
    assert_eq!(clear(&*domain, domain.geometry().aperture), [range(PAGE, PAGE), range(LARGE, LARGE)]);
    bench.invalidations();
    domain.set_dirty_tracking(false).unwrap();
    assert_eq!(bench.invalidations(), expected(Granularity::Domain(id)), "one for both streams");
    assert_eq!((ssade(RED), ssade(BLUE)), (0, 0));
    let before = bench.memory.snapshot();
    for at in [PAGE, 2 * PAGE, LARGE, HUGE] {
        write(&bench, RED, at);
        write(&bench, BLUE, at);
    }
    assert!(bench.memory.snapshot() == before, "hardware writes no entry any more");
    bench.attach(8, &*domain);
    assert_eq!(ssade(8), 0);
    bench.check();
}

#[test]
fn pasids_and_device_tlbs_record_too() {
    for stage in [Stage::First, Stage::Second] {
        let bench = Bench::up(&case(stage));
        let domain = domain_of(&bench);
        let source = StreamId::new(RED.into());
        let tlb = DeviceTlb { queue_depth: 4, physical: source, global_invalidate: false };
        bench.unit.set_device_tlb(source, Some(tlb)).unwrap();
        let adi = Stream::with_pasid(RequesterId::new(RED), Pasid::new(0x5_4321).unwrap());
        for stream in [Stream::function(source), adi] {
            bench.unit.attach(stream, Target::Paging(&*domain)).unwrap();
        }
        let endpoint = bench.model.endpoint(RED);
        let write = |pasid, at| {
            let done = endpoint.dma(pasid, Iova::new(at), 1, true).expect("a write");
            assert_eq!(done[0].start.get(), MEMORY + at);
        };
        write(None, PAGE);
        write(Some(0x5_4321), PAGE);
        domain.set_dirty_tracking(true).unwrap();
        clear(&*domain, domain.geometry().aperture);
        for _ in 0..2 {
            // What they hold from before would hide their writes.
            write(None, PAGE);
            assert_eq!(clear(&*domain, range(0, LARGE)), [range(PAGE, PAGE)], "{stage:?}");
            write(Some(0x5_4321), PAGE);
            assert_eq!(clear(&*domain, range(0, LARGE)), [range(PAGE, PAGE)], "{stage:?}");
        }
        bench.check();
    }
}

#[test]
fn a_switch_that_was_not_confirmed_is_made_by_the_next_call() {
    let bench = Bench::up(&case(Stage::Second));
    let domain = domain_of(&bench);
    bench.attach(RED, &*domain);
    write(&bench, RED, PAGE);
    bench.model.set_queue(Queue::Stopped);
    assert_eq!(domain.set_dirty_tracking(true), Err(HUNG));
    bench.model.set_queue(Queue::Running);
    domain.set_dirty_tracking(true).unwrap();
    write(&bench, RED, PAGE);
    assert_eq!(dirty(&*domain), [range(PAGE, PAGE)]);
    // Cleared and not confirmed: in the gather until it is.
    let (mut found, mut gather) = (Vec::new(), Gather::new());
    domain.read_and_clear_dirty(range(0, HUGE), &mut gather, &mut |range| found.push(range)).unwrap();
    bench.model.set_queue(Queue::Stopped);
    assert_eq!(domain.flush(&mut gather), Err(HUNG));
    bench.model.set_queue(Queue::Running);
    assert!(!gather.is_empty());
    domain.flush(&mut gather).unwrap();
    write(&bench, RED, PAGE);
    assert_eq!(dirty(&*domain), [range(PAGE, PAGE)]);
    bench.check();
}

#[test]
fn what_hardware_reads_while_it_is_told_says_that_it_records() {
    let bench = Bench::up(&case(Stage::Second));
    let domain = domain_of(&bench);
    bench.attach(RED, &*domain);
    write(&bench, RED, PAGE);
    // The entry is read again as soon as it was dropped.
    let model = bench.model.clone();
    bench.spy.set_hook(Some(Box::new(move |_, moment| {
        if moment == Moment::After {
            let _ = model.dma(RED, None, Iova::new(LARGE), 1, false);
        }
    })));
    domain.set_dirty_tracking(true).unwrap();
    bench.spy.set_hook(None);
    write(&bench, RED, PAGE);
    write(&bench, RED, LARGE);
    assert_eq!(dirty(&*domain), [range(PAGE, PAGE), range(LARGE, LARGE)]);
    bench.check();
}

#[test]
fn an_entry_that_was_taken_away_and_not_confirmed_stays_away_when_recording_begins() {
    let bench = Bench::up(&case(Stage::Second));
    let domain = domain_of(&bench);
    let part = Stream::with_pasid(RequesterId::new(RED), Pasid::new(0x5_4321).unwrap());
    bench.attach(RED, &*domain);
    bench.unit.attach(part, Target::Paging(&*domain)).unwrap();
    let go =
        || bench.model.dma(RED, Some(0x5_4321), Iova::new(PAGE), 1, true).map(drop).map_err(|blocked| blocked.code);
    assert_eq!(go(), Ok(()));
    bench.model.set_queue(Queue::Stopped);
    assert_eq!(bench.unit.detach(part), Err(HUNG));
    bench.model.set_queue(Queue::Running);
    for on in [true, false] {
        domain.set_dirty_tracking(on).unwrap();
        assert_eq!(go(), Err(FaultCode::PASID_NOT_PRESENT), "{on}");
    }
    write(&bench, RED, PAGE);
    bench.unit.detach(part).unwrap();
    bench.check();
}

#[test]
fn hardware_that_cannot_record_is_not_asked_to() {
    // SSADS, bit 45, for the second stage; SMPWCS, bit 48, for both.
    for (stage, without, field) in [
        (Stage::Second, 1 << 45, "ECAP.SSADS"),
        (Stage::Second, 1 << 48, "ECAP.SMPWCS"),
        (Stage::First, 1 << 48, "ECAP.SMPWCS"),
    ] {
        let case = Case { config: server().ecap_bits(without, false), ..case(stage) };
        let bench = Bench::up(&case);
        let before = bench.memory.in_use();
        match bench.unit.create_domain(&tracked(stage)).err() {
            Some(HwError::Missing(capability)) => assert_eq!(capability.field, field),
            other => panic!("{stage:?}: {other:?}"),
        }
        assert_eq!(bench.memory.in_use(), before);
    }
    // Neither does a domain that was not made for it.
    let bench = Bench::up(&case(Stage::Second));
    let domain = bench.domain_with(PAGE, MEMORY, PAGE);
    let mut gather = Gather::new();
    let refused = [
        domain.set_dirty_tracking(true),
        domain.set_dirty_tracking(false),
        domain.read_dirty(range(0, HUGE), &mut |_| panic!("nothing is recorded")),
        domain.read_and_clear_dirty(range(0, HUGE), &mut gather, &mut |_| panic!("nothing is recorded")),
    ];
    assert!(refused.iter().all(|found| matches!(found, Err(HwError::Unsupported(_)))), "{refused:?}");
    assert!(gather.is_empty());
    // Nothing is told of it where neither stage can.
    let config = server().ecap_bits(1 << 48, false);
    assert!(!Bench::up(&Case { config, ..case(Stage::Second) }).unit.capabilities().dirty_tracking);
}

#[test]
fn the_core_gets_its_bitmaps() {
    for stage in [Stage::First, Stage::Second] {
        let bench = Bench::up(&case(stage));
        let ioas = Ioas::new(IoasConfig::default()).unwrap();
        let config = HwptConfig { dirty_tracking: true, ..HwptConfig::new(stage) };
        let hwpt = Hwpt::new(&ioas, &bench.handle(), config).unwrap();
        map_fixed(&ioas, LARGE, &[extent(MEMORY + LARGE, LARGE)], Prot::READ_WRITE).unwrap();
        let scattered: Vec<_> = (0..16).map(|n| extent(MEMORY + 2 * n * PAGE, PAGE)).collect();
        map_fixed(&ioas, 0, &scattered, Prot::READ_WRITE).unwrap();
        bench.attach(RED, hwpt.domain());
        hwpt.set_dirty_tracking(true).unwrap();
        let read = |how| {
            let mut bytes = [0; 64 * 2];
            let mut bitmap = DirtyBitmap::new(&mut bytes, Iova::new(0), PAGE).unwrap();
            hwpt.read_dirty(range(0, 2 * LARGE), how, &mut bitmap).unwrap();
            (0..1024u64).filter(|page| bytes[(page / 8) as usize] >> (page % 8) & 1 != 0).collect::<Vec<_>>()
        };
        for _ in 0..3 {
            assert_eq!(read(DirtyRead::Clear), []);
            for page in [3, 4, 15] {
                bench.write(RED, page * PAGE).unwrap();
            }
            assert_eq!(read(DirtyRead::Peek), [3, 4, 15], "{stage:?}");
            assert_eq!(read(DirtyRead::Clear), [3, 4, 15], "{stage:?}");
            bench.write(RED, LARGE + 5).unwrap();
            assert_eq!(read(DirtyRead::Clear), (512..1024).collect::<Vec<_>>(), "{stage:?}");
        }
        // Starting again is a clean point.
        bench.write(RED, 0).unwrap();
        hwpt.set_dirty_tracking(true).unwrap();
        assert_eq!(read(DirtyRead::Clear), []);
        bench.write(RED, 0).unwrap();
        assert_eq!(read(DirtyRead::Clear), [0]);
        hwpt.set_dirty_tracking(false).unwrap();
        bench.check();
    }
}

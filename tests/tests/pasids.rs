//! Streams with a PASID: told apart by nothing else, attached, replaced and detached one by one on several functions, in
//! directories that grow; with memory and hardware that fail at every step.

use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{Domain, HwError, Pasid, RequesterId, Stream, Target, Transition, Unit as _};
use iommu_models::memory::Snapshot;
use iommu_models::vtd::walk::translate;
use iommu_models::vtd::{Config, Descriptor, FaultCode, Granularity, Model, Queue};
use iommu_tests::bench::{Bench, config_for, memory, stream};
use iommu_tests::case::Case;
use iommu_tests::pieces::{self, Found};
use iommu_tests::spy::{IQT, Moment, Spy};
use iommu_vtd::capabilities::names;
use iommu_vtd::{Config as DriverConfig, Structure, Unit};
use std::sync::{Arc, Mutex};

const RED: u16 = 0x0108;
const BLUE: u16 = 0x0110;
/// In the other half of another bus.
const FAR: u16 = 0x7ff0;

/// Both sides of every size of a directory, and of a table.
const PASIDS: [u32; 14] = [
    1, 0x3f, 0x40, 0x7fff, 0x8000, 0xffff, 0x1_0000, 0x1_ffff, 0x2_0000, 0x3_ffff, 0x4_0000, 0x7_ffff, 0x8_0000,
    0xf_ffff,
];

/// Where every domain of these tests has its only page.
const PAGE: u64 = 0x4000;

fn adi(rid: u16, pasid: u32) -> Stream {
    Stream::with_pasid(RequesterId::new(rid), Pasid::new(pasid).expect("20 bits"))
}

/// Units that have PASIDs of 20 bits.
fn cases() -> Vec<Case> {
    Case::all().into_iter().filter(|case| case.config.ecap & Config::ECAP_PASID != 0).collect()
}

/// The one that memory does not snoop, in caching mode, for what takes long.
fn hardest() -> [Case; 2] {
    let named = |name: &str| cases().into_iter().find(|case| case.name == name).expect("a case");
    [
        named("server without snooping, second stage, caching mode"),
        named("server without snooping, first stage, caching mode"),
    ]
}

fn go(model: &Model, stream: Stream) -> Result<u64, FaultCode> {
    let pasid = stream.pasid.map(|pasid| pasid.get());
    let reached = model.dma(stream.id.get() as u16, pasid, Iova::new(PAGE), 1, true);
    reached.map(|extents| extents[0].start.get()).map_err(|blocked| blocked.code)
}

/// A domain whose page is the `number`th of its kind.
fn domain(bench: &Bench, number: u64) -> Box<dyn Domain> {
    bench.domain_with(PAGE, phys(number), 0x1000)
}

const fn phys(number: u64) -> u64 {
    0x10_0000_0000 + number * 0x1000
}

#[track_caller]
fn attach(bench: &Bench, stream: Stream, domain: &dyn Domain) -> Transition {
    bench.unit.attach(stream, Target::Paging(domain)).unwrap_or_else(|error| panic!("{}: {error}", bench.case.name))
}

fn lead(bench: &Bench, stream: Stream, domain: &dyn Domain) {
    let _ = attach(bench, stream, domain);
}

fn identity(bench: &Bench, stream: Stream) {
    bench.unit.attach(stream, Target::Identity).expect("identity");
}

fn detach(bench: &Bench, stream: Stream) {
    bench.unit.detach(stream).unwrap_or_else(|error| panic!("{}: {error}", bench.case.name));
}

/// log2 of the entries of the directory of `rid` (PDTS + 7).
fn directory_bits(bench: &Bench, rid: u16) -> u64 {
    let Found::Present(context) = pieces::context(&bench.reader(), bench.model.root(), rid) else { panic!("no entry") };
    (context[0] >> 9 & 7) + 7
}

#[test]
fn parts_of_functions_are_told_apart_by_pasid_alone() {
    for case in cases() {
        let bench = Bench::up(&case);
        let kept = bench.memory.in_use();
        let domains: Vec<_> = (0..5).map(|number| domain(&bench, number)).collect();
        let empty = bench.memory.in_use();
        let mut streams: Vec<(Stream, usize)> = Vec::new();
        for (at, rid) in [RED, BLUE, FAR].into_iter().enumerate() {
            streams.push((stream(rid), at));
            streams.extend(PASIDS.iter().enumerate().map(|(number, pasid)| (adi(rid, *pasid), (number + at) % 5)));
        }
        let check = |streams: &[(Stream, usize)], attached: &dyn Fn(usize) -> bool| {
            for (number, (stream, leads)) in streams.iter().enumerate() {
                let found = go(&bench.model, *stream);
                if attached(number) {
                    assert_eq!(found, Ok(phys(*leads as u64)), "{}: {stream}", case.name);
                } else {
                    assert!(found.is_err(), "{}: {stream}: {found:x?}", case.name);
                }
            }
            // Nobody's PASIDs, beside those that are somebody's.
            for pasid in [2, 0x41, 0x7ffe, 0xf_fffe] {
                assert!(go(&bench.model, adi(RED, pasid)).is_err());
            }
        };
        for (number, (stream, leads)) in streams.iter().enumerate() {
            assert_eq!(attach(&bench, *stream, &*domains[*leads]), Transition::Hitless);
            check(&streams, &|other| other <= number);
        }
        // Each moves, which is nobody else's business.
        for number in 0..streams.len() {
            streams[number].1 = (streams[number].1 + 1) % 5;
            let (stream, leads) = streams[number];
            assert_eq!(attach(&bench, stream, &*domains[leads]), Transition::ThroughBlocked);
            assert_eq!(attach(&bench, stream, &*domains[leads]), Transition::Hitless);
            check(&streams, &|_| true);
        }
        // Each goes, those in the middle first.
        let gone = |number: usize| number % 3 == 1;
        for number in (0..streams.len()).filter(|number| gone(*number)) {
            detach(&bench, streams[number].0);
        }
        check(&streams, &|number| !gone(number));
        for (stream, _) in &streams {
            detach(&bench, *stream);
        }
        check(&streams, &|_| false);
        // Context tables of two half buses.
        assert_eq!((bench.memory.in_use(), bench.kept()), (empty + 2, kept + 2), "{}", case.name);
        drop(domains);
        assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
        bench.check();
    }
}

#[test]
fn a_directory_grows_while_others_go_on() {
    for case in cases() {
        let bench = Bench::up(&case);
        let (one, other) = (domain(&bench, 1), domain(&bench, 2));
        attach(&bench, stream(RED), &*one);
        let mut streams = vec![stream(RED)];
        let mut sizes = vec![directory_bits(&bench, RED)];
        for pasid in PASIDS {
            // At every store and around every write to a register, all that were there before get through.
            let (model, going) = (bench.model.clone(), streams.clone());
            let look = Arc::new(move || {
                going.iter().for_each(|stream| assert_eq!(go(&model, *stream), Ok(phys(1)), "{stream}"))
            });
            let at_store = look.clone();
            bench.memory.set_observer(Some(Box::new(move |_, _| at_store())));
            bench.spy.set_hook(Some(Box::new(move |_, _| look())));
            attach(&bench, adi(RED, pasid), &*one);
            bench.memory.set_observer(None);
            bench.spy.set_hook(None);
            streams.push(adi(RED, pasid));
            sizes.push(directory_bits(&bench, RED));
            let mut frames = 0;
            bench.unit.for_each_structure(|structure, _| frames += u64::from(structure == Structure::PasidDirectory));
            assert_eq!(frames, 1 << (directory_bits(&bench, RED) - 9), "{}: none is left of those before", case.name);
        }
        assert_eq!(sizes, [9, 9, 9, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14], "{}", case.name);
        // It stays as large as it is; a requester that comes anew begins with what it needs.
        attach(&bench, adi(BLUE, 0x8_0000), &*other);
        assert_eq!(directory_bits(&bench, BLUE), 14);
        attach(&bench, adi(BLUE, 1), &*other);
        attach(&bench, stream(BLUE), &*other);
        detach(&bench, adi(BLUE, 0x8_0000));
        assert_eq!((go(&bench.model, stream(BLUE)), go(&bench.model, adi(BLUE, 1))), (Ok(phys(2)), Ok(phys(2))));
        drop((one, other));
        assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
        bench.check();
    }
}

#[test]
fn a_directory_that_hardware_has_not_left_stays_when_the_next_grows() {
    for case in cases() {
        let bench = Bench::up(&case);
        let domain = domain(&bench, 1);
        attach(&bench, stream(RED), &*domain);
        assert_eq!(go(&bench.model, stream(RED)), Ok(phys(1)));
        // The context entry that leads to the smaller one is still cached.
        bench.model.fail_descriptor_after(0);
        let found = bench.unit.attach(adi(RED, 0x8000), Target::Paging(&*domain));
        assert!(matches!(found, Err(HwError::Queue { .. })), "{}: {found:?}", case.name);
        let model = bench.model.clone();
        bench.spy.set_hook(Some(Box::new(move |_, _| assert_eq!(go(&model, stream(RED)), Ok(phys(1))))));
        attach(&bench, adi(RED, 0x8_0000), &*domain);
        bench.spy.set_hook(None);
        for stream in [stream(RED), adi(RED, 0x8_0000)] {
            assert_eq!(go(&bench.model, stream), Ok(phys(1)), "{}", case.name);
        }
        drop(domain);
        assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
        bench.check();
    }
}

/// What each of `streams` meets after every store of `operation`, by walks that know no cache and no driver.
fn walked(bench: &Bench, streams: &[Stream], operation: impl FnOnce()) -> Vec<Vec<Result<u64, FaultCode>>> {
    let states: Arc<Mutex<Vec<Snapshot>>> = Arc::new(Mutex::new(vec![bench.memory.snapshot()]));
    let seen = states.clone();
    bench.memory.set_observer(Some(Box::new(move |memory, _| seen.lock().unwrap().push(memory.snapshot()))));
    operation();
    bench.memory.set_observer(None);
    let mut states = states.lock().unwrap();
    states.push(bench.memory.snapshot());
    let root = bench.model.root();
    let walk = |state: &Snapshot, stream: &Stream| {
        let read = |at: PhysAddr| state.read64(at);
        let (rid, pasid) = (stream.id.get() as u16, stream.pasid.map(|pasid| pasid.get()));
        translate(&read, root, &bench.case.config, rid, pasid, Iova::new(PAGE), true).map(|found| found.phys.get())
    };
    states.iter().map(|state| streams.iter().map(|stream| walk(state, stream)).collect()).collect()
}

#[test]
fn every_store_leaves_each_stream_where_it_was_or_where_it_goes() {
    for case in cases() {
        let bench = Bench::up(&case);
        let (one, other) = (domain(&bench, 1), domain(&bench, 2));
        attach(&bench, stream(BLUE), &*other);
        attach(&bench, adi(RED, 1), &*one);
        let all =
            [adi(RED, 1), adi(RED, 2), adi(RED, 0x45), adi(RED, 0x1_2345), stream(RED), stream(BLUE), adi(BLUE, 1)];
        let absent = [FaultCode::PASID_NOT_PRESENT];
        type Step<'a> = (&'a str, usize, &'a [FaultCode], Box<dyn Fn() + 'a>);
        let steps: Vec<Step<'_>> = vec![
            ("in a table", 1, &[], Box::new(|| lead(&bench, all[1], &*other))),
            // A table that is linked before its entry is looked at.
            ("in a new table", 2, &absent, Box::new(|| lead(&bench, all[2], &*one))),
            (
                "in a larger directory",
                3,
                &[FaultCode::DIRECTORY_NOT_PRESENT],
                Box::new(|| lead(&bench, all[3], &*other)),
            ),
            ("without PASID", 4, &[FaultCode::PASID_NOT_PRESENT], Box::new(|| lead(&bench, all[4], &*one))),
            ("a replacement", 3, &absent, Box::new(|| lead(&bench, all[3], &*one))),
            ("one goes", 0, &absent, Box::new(|| detach(&bench, all[0]))),
            ("one goes to identity", 1, &absent, Box::new(|| identity(&bench, all[1]))),
            ("another goes", 4, &absent, Box::new(|| detach(&bench, all[4]))),
        ];
        for (name, moving, between, operation) in &steps {
            let seen = walked(&bench, &all, operation);
            let (first, last) = (&seen[0], &seen[seen.len() - 1]);
            assert!(seen.len() > 2, "{}: {name}: nothing was stored", case.name);
            for (store, state) in seen.iter().enumerate() {
                for (number, now) in state.iter().enumerate() {
                    let what = format!("{}: {name}: {} after store {store}: {now:x?}", case.name, all[number]);
                    if number != *moving {
                        // Others that lead nowhere may be refused for another reason.
                        assert!(*now == first[number] || now.is_err() && first[number].is_err(), "{what}");
                        continue;
                    }
                    let fine = *now == first[number] || *now == last[number];
                    assert!(fine || now.is_err_and(|code| between.contains(&code)), "{what}");
                }
            }
        }
        drop(steps);
        bench.check();
    }
}

#[test]
fn memory_that_runs_out_anywhere_changes_nothing() {
    for case in hardest() {
        let bench = Bench::up(&case);
        let (one, other) = (domain(&bench, 1), domain(&bench, 2));
        let mut there: Vec<Stream> = Vec::new();
        // The first of a requester, one of a known table, of a new one, of a larger directory, of another bus.
        let wanted = [
            adi(RED, 1),
            adi(RED, 2),
            adi(RED, 0x100),
            adi(RED, 0xf_ffff),
            stream(RED),
            adi(FAR, 0x9000),
            adi(BLUE, 7),
        ];
        for stream in wanted {
            let before = bench.memory.in_use();
            let mut failed = 0;
            for n in 0.. {
                bench.memory.exhaust_after(n);
                let found = bench.unit.attach(stream, Target::Paging(&*one));
                bench.memory.fail_never();
                match found {
                    Ok(_) => break,
                    Err(error) => assert_eq!(error, HwError::OutOfMemory, "{}: {stream}", case.name),
                }
                failed += 1;
                assert_eq!(bench.memory.in_use(), before, "{}: {stream} after {n}", case.name);
                assert!(go(&bench.model, stream).is_err());
                there.iter().for_each(|stream| assert_eq!(go(&bench.model, *stream), Ok(phys(1)), "{stream}"));
            }
            let known = stream == adi(RED, 2) || stream == adi(RED, 0) || stream == self::stream(RED);
            assert_eq!(failed == 0, known, "{}: {stream}: {failed}", case.name);
            there.push(stream);
            assert_eq!(go(&bench.model, stream), Ok(phys(1)));
        }
        // Nothing of this needs any.
        bench.memory.exhaust_after(0);
        for stream in &there {
            assert_eq!(attach(&bench, *stream, &*other), Transition::ThroughBlocked);
            assert_eq!(go(&bench.model, *stream), Ok(phys(2)));
        }
        there.iter().for_each(|stream| detach(&bench, *stream));
        bench.memory.fail_never();
        drop((one, other));
        assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
        bench.check();
    }
}

/// Ways in which hardware fails in the middle of an operation.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Hangs(usize),
    Refuses(usize),
    Mute,
}

#[test]
fn hardware_that_fails_anywhere_blocks_and_recovers() {
    let troubles = (0..8).flat_map(|n| [Trouble::Hangs(n), Trouble::Refuses(n)]).chain([Trouble::Mute]);
    for case in hardest() {
        for trouble in troubles.clone() {
            // Attach to a new table, to a larger directory, a replacement, a detach, the last detach, a domain that goes; and
            // then a detach, or at once the next attach.
            for (kind, at_once) in (0..6).flat_map(|kind| [(kind, false), (kind, true)]) {
                let bench = Bench::up(&case);
                let (one, other) = (domain(&bench, 1), domain(&bench, 2));
                let stay = [stream(BLUE), adi(RED, 3)];
                stay.iter().for_each(|stream| lead(&bench, *stream, &*other));
                let moving = match kind {
                    0 => adi(RED, 0x100),
                    1 => adi(RED, 0x9000),
                    4 => adi(FAR, 9),
                    _ => adi(RED, 4),
                };
                if kind > 1 {
                    attach(&bench, moving, &*one);
                    assert_eq!(go(&bench.model, moving), Ok(phys(1)));
                }
                let third = domain(&bench, 3);
                match trouble {
                    Trouble::Hangs(n) => bench.model.stop_queue_after(n),
                    Trouble::Refuses(n) => bench.model.fail_descriptor_after(n),
                    Trouble::Mute => bench.model.set_queue(Queue::Mute),
                }
                let found = match kind {
                    0..=2 => bench.unit.attach(moving, Target::Paging(&*third)).map(drop),
                    3 | 4 => bench.unit.detach(moving).map(drop),
                    _ => one.retire(),
                };
                let what = format!("{}: {trouble:?} in {kind}: {found:?}", case.name);
                bench.model.set_queue(Queue::Running);
                bench.model.fail_descriptor_after(usize::MAX);
                // Where it was, if hardware was not told; blocked; where it was to go. Others are where they were.
                let new = if kind < 3 { 3 } else { 0 };
                match (go(&bench.model, moving), &found) {
                    (Ok(at), Ok(())) => assert_eq!(at, phys(new), "{what}"),
                    (Ok(at), Err(_)) => assert_eq!(at, phys(1), "{what}"),
                    (Err(_), Ok(())) => assert!(kind > 2, "{what}"),
                    (Err(_), Err(_)) => {}
                }
                stay.iter().for_each(|stream| assert_eq!(go(&bench.model, *stream), Ok(phys(2)), "{what}: {stream}"));
                // It is as if nothing had been.
                if !at_once {
                    bench.unit.detach(moving).unwrap_or_else(|error| panic!("{what}: {error}"));
                    assert!(go(&bench.model, moving).is_err(), "{what}");
                }
                attach(&bench, moving, &*third);
                assert_eq!(go(&bench.model, moving), Ok(phys(3)), "{what}");
                assert!(one.retire().is_ok(), "{what}");
                drop((one, third));
                assert!(go(&bench.model, moving).is_err(), "{what}");
                stay.iter().for_each(|stream| assert_eq!(go(&bench.model, *stream), Ok(phys(2)), "{what}: {stream}"));
                drop(other);
                assert_eq!(bench.memory.in_use(), bench.kept(), "{what}");
                bench.check();
            }
        }
    }
}

#[test]
fn a_domain_of_many_streams_goes_in_few_batches() {
    for case in cases() {
        let bench = Bench::up(&case);
        let (one, other) = (domain(&bench, 1), domain(&bench, 2));
        let streams: Vec<_> = (0..100).map(|n| adi([RED, BLUE, FAR][n % 3], 0x20 + n as u32 * 7)).collect();
        streams.iter().for_each(|stream| lead(&bench, *stream, &*one));
        attach(&bench, adi(RED, 1), &*other);
        streams.iter().for_each(|stream| assert_eq!(go(&bench.model, *stream), Ok(phys(1))));
        bench.spy.take_writes();
        one.retire().unwrap();
        let doorbells = bench.spy.take_writes().iter().filter(|write| write.offset == IQT).count();
        // A PASID-cache invalidation each, a PASID-IOTLB one each for first stages, 32 to a batch.
        assert!(doorbells <= 8, "{}: {doorbells} for 100 streams", case.name);
        streams.iter().for_each(|stream| assert!(go(&bench.model, *stream).is_err()));
        assert_eq!(go(&bench.model, adi(RED, 1)), Ok(phys(2)));
        drop((one, other));
        assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
        bench.check();
    }
}

#[test]
fn a_domain_that_hardware_does_not_let_go_leads_nobody_anywhere() {
    for case in cases() {
        let bench = Bench::up(&case);
        let one = domain(&bench, 1);
        let streams: Vec<_> = (0..40).map(|n| adi([RED, BLUE, FAR][n % 3], 0x20 + n as u32 * 7)).collect();
        streams.iter().for_each(|stream| lead(&bench, *stream, &*one));
        bench.model.set_queue(Queue::Stopped);
        assert!(one.retire().is_err());
        // Not one entry is left, although hardware was told of none.
        let root = bench.model.root();
        for stream in &streams {
            let read = bench.reader();
            let read = |at: PhysAddr| read(at.get());
            let (rid, pasid) = (stream.id.get() as u16, stream.pasid.map(|pasid| pasid.get()));
            translate(&read, root, &case.config, rid, pasid, Iova::new(PAGE), false).unwrap_err();
        }
        bench.model.set_queue(Queue::Running);
        one.retire().unwrap();
        drop(one);
        assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
        bench.check();
    }
}

#[test]
fn one_streams_invalidations_name_no_other() {
    for case in cases().into_iter().filter(|case| !case.caching()) {
        let bench = Bench::up(&case);
        let (one, other) = (domain(&bench, 1), domain(&bench, 2));
        attach(&bench, adi(RED, 5), &*one);
        attach(&bench, adi(RED, 6), &*other);
        bench.invalidations();
        detach(&bench, adi(RED, 5));
        let log = bench.invalidations();
        let named = |descriptor: &Descriptor| match *descriptor {
            Descriptor::PasidCache(Granularity::Pasid { pasid, .. }) => pasid == 5,
            Descriptor::PasidIotlb(Granularity::Pasid { pasid, .. }) => pasid == 5,
            // All of the domain, which is nobody else's.
            Descriptor::Iotlb { granularity: Granularity::Domain(_), .. } => true,
            _ => false,
        };
        assert!(log.len() == 2 && log.iter().all(named), "{}: {log:?}", case.name);
        // Together with the last one its context entry goes.
        detach(&bench, adi(RED, 6));
        assert!(bench.invalidations().iter().any(|it| matches!(it, Descriptor::ContextCache(_))), "{}", case.name);
        bench.check();
    }
}

#[test]
fn what_a_unit_cannot_tell_apart_is_refused_by_name() {
    let server = cases()[0].clone();
    // PSS, bits 39:35: one bit.
    let narrow = Case { config: server.config.ecap_bits(0x1f << 35, false), ..server.clone() };
    let bench = Bench::up(&narrow);
    assert_eq!(bench.unit.capabilities().pasid_bits, 1);
    let one = domain(&bench, 1);
    attach(&bench, adi(RED, 1), &*one);
    assert_eq!(go(&bench.model, adi(RED, 1)), Ok(phys(1)));
    for pasid in [2, 0xf_ffff] {
        let found = bench.unit.attach(adi(RED, pasid), Target::Paging(&*one));
        assert_eq!(found, Err(HwError::Missing(names::PASID_WIDTH)));
    }
    assert!(matches!(bench.unit.attach(adi(RED, 0), Target::Paging(&*one)), Err(HwError::Unsupported(_))));
    drop(one);
    bench.check();
    let none = Case { config: server.config.ecap_bits(Config::ECAP_PASID | 0x1f << 35, false), ..server };
    let bench = Bench::up(&none);
    assert_eq!(bench.unit.capabilities().pasid_bits, 0);
    let one = domain(&bench, 1);
    let found = bench.unit.attach(adi(RED, 1), Target::Paging(&*one));
    assert_eq!(found, Err(HwError::Missing(names::PASIDS)));
    bench.check();
}

#[test]
fn requests_without_pasid_are_led_by_the_pasid_that_was_chosen() {
    for case in cases() {
        let memory = memory(case.non_coherent);
        let model = Arc::new(Model::new(case.config, memory.clone()));
        let spy = Arc::new(Spy::new(model.clone()));
        let rid_pasid = Pasid::new(0x9_8765).expect("20 bits");
        let config = DriverConfig { rid_pasid, ..config_for(&case.config) };
        let unit = Unit::bring_up(memory.clone(), spy.clone(), config).unwrap();
        let bench = Bench { memory, model, spy, unit, case: case.clone() };
        let (one, other) = (domain(&bench, 1), domain(&bench, 2));
        // PASID 0 is one as any other, and comes first: nothing without PASID gets through by it.
        attach(&bench, adi(RED, 0), &*one);
        assert_eq!(go(&bench.model, adi(RED, 0)), Ok(phys(1)));
        assert!(go(&bench.model, stream(RED)).is_err());
        attach(&bench, stream(RED), &*other);
        assert_eq!(go(&bench.model, stream(RED)), Ok(phys(2)));
        let found = bench.unit.attach(adi(RED, 0x9_8765), Target::Paging(&*one));
        assert!(matches!(found, Err(HwError::Unsupported(_))), "{found:?}");
        assert!(go(&bench.model, adi(RED, 0x9_8765)).is_err());
        attach(&bench, stream(RED), &*one);
        assert_eq!(go(&bench.model, stream(RED)), Ok(phys(1)));
        detach(&bench, adi(RED, 0));
        assert_eq!(go(&bench.model, stream(RED)), Ok(phys(1)));
        detach(&bench, stream(RED));
        assert!(go(&bench.model, stream(RED)).is_err());
        drop((one, other));
        assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
        bench.check();
    }
}

/// While a stream's context entry goes, hardware that has read half of it must not find another stream behind the rest.
#[test]
fn a_context_entry_that_goes_keeps_its_other_words() {
    let case = cases()[0].clone();
    let memory = memory(case.non_coherent);
    let model = Arc::new(Model::new(case.config, memory.clone()));
    let spy = Arc::new(Spy::new(model.clone()));
    let rid_pasid = Pasid::new(5).expect("20 bits");
    let config = DriverConfig { rid_pasid, ..config_for(&case.config) };
    let unit = Unit::bring_up(memory.clone(), spy.clone(), config).unwrap();
    let bench = Bench { memory, model, spy, unit, case };
    let one = domain(&bench, 1);
    bench.attach(RED, &*one);
    let Found::Present(before) = pieces::context(&bench.reader(), bench.model.root(), RED) else { panic!("no entry") };
    assert_eq!(before[1] & 0xf_ffff, 5);
    let root = bench.model.root();
    let memory = bench.memory.clone();
    bench.spy.set_hook(Some(Box::new(move |write, moment| {
        if write.offset == IQT && moment == Moment::Before {
            let read = |at: u64| memory.device_read64(PhysAddr::new(at)).expect("memory");
            let table = read((root & !0xfff) + 16) & !0xfff;
            let words = [0, 8, 16, 24].map(|word| read(table + u64::from(RED & 0x7f) * 32 + word));
            assert_eq!(words, [before[0] & !1, before[1], before[2], before[3]]);
        }
    })));
    bench.detach(RED);
    bench.spy.set_hook(None);
    bench.check();
}

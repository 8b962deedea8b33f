//! Streams with a PASID on SMMUv3: told apart by nothing else, attached, replaced and detached one by one beside their
//! functions, in context tables that grow; with memory and hardware that fail at every step.

use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{Domain, DomainConfig, HwError, Pasid, Stage, Stream, StreamId, Target, Transition, Unit as _};
use iommu_models::memory::Snapshot;
use iommu_models::smmuv3::walk::translate;
use iommu_models::smmuv3::{Command, Config, FaultCode, Model, Queue};
use iommu_smmuv3::Structure;
use iommu_tests::smmuv3::bench::{Bench, stream};
use iommu_tests::smmuv3::case::Case;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

const RED: u32 = 8;
const BLUE: u32 = 0x11;
/// In another level-2 table.
const FAR: u32 = 0xfff0;

/// Both sides of every size of a table of two levels, and of a leaf.
const PASIDS: [u32; 13] =
    [1, 0x3f, 0x40, 0x7f, 0x7fff, 0x8000, 0xffff, 0x1_0000, 0x1_ffff, 0x2_0000, 0x4_0000, 0x8_0000, 0xf_ffff];
/// The same of a table of one level.
const NEAR_PASIDS: [u32; 8] = [1, 0x3f, 0x40, 0x7f, 0x80, 0xff, 0x100, 0xfff];

/// Where every domain of these tests has its only page.
const PAGE: u64 = 0x4000;

fn adi(sid: u32, pasid: u32) -> Stream {
    Stream::with_pasid(StreamId::new(sid), Pasid::new(pasid).expect("20 bits"))
}

/// Units with PASIDs: of 20 bits in two levels, snooped and not; in one level; of a few bits.
fn cases() -> Vec<Case> {
    let server = Config::server();
    let base = Case { config: server, name: "server".into(), ..Case::nested(Stage::First) };
    vec![
        base.clone(),
        Case { name: "not snooped".into(), config: server.non_coherent(), non_coherent: true, ..base.clone() },
        Case { name: "one level".into(), config: server.idr0_bits(Config::CD2L, false), ..base.clone() },
        Case {
            name: "stage 1 alone, few PASIDs".into(),
            config: server.ssid_bits(3).idr0_bits(Config::S2P, false),
            ..base
        },
    ]
}

/// The one that memory does not snoop, and the one of one level, for what takes long.
fn hardest() -> [Case; 2] {
    let all = cases();
    [all[1].clone(), all[2].clone()]
}

fn pasids(case: &Case) -> Vec<u32> {
    let bits = case.config.idr1 >> 6 & 0x1f;
    let two = case.config.idr0 & Config::CD2L != 0;
    let all: &[u32] = if two { &PASIDS } else { &NEAR_PASIDS };
    let mut all: Vec<_> = all.iter().copied().filter(|pasid| pasid >> bits == 0).collect();
    if bits < 6 {
        all.extend([2, (1 << bits) - 1]);
    }
    all
}

fn go(model: &Model, stream: Stream) -> Result<u64, FaultCode> {
    let pasid = stream.pasid.map(|pasid| pasid.get());
    let reached = model.dma(stream.id.get(), pasid, Iova::new(PAGE), 1, true);
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

fn identity(bench: &Bench, stream: Stream) -> Transition {
    bench.unit.attach(stream, Target::Identity).expect("identity")
}

fn detach(bench: &Bench, stream: Stream) {
    bench.unit.detach(stream).unwrap_or_else(|error| panic!("{}: {error}", bench.case.name));
}

/// Words 0 and 1 of the entry of `sid`.
fn entry(bench: &Bench, sid: u32) -> [u64; 2] {
    let read = |at| bench.memory.device_read64(PhysAddr::new(at)).expect("memory");
    let at = entry_at(bench, sid);
    [read(at), read(at + 8)]
}

/// Where the entry of `sid` stands.
fn entry_at(bench: &Bench, sid: u32) -> u64 {
    let tables = bench.model.tables();
    let read = |at| bench.memory.device_read64(PhysAddr::new(at)).expect("memory");
    let (base, address) = (tables.base & 0x000f_ffff_ffff_ffc0, 0x000f_ffff_ffff_ffc0);
    match tables.config >> 16 & 3 {
        0 => base + u64::from(sid) * 64,
        _ => (read(base + u64::from(sid >> 8) * 8) & address) + u64::from(sid & 0xff) * 64,
    }
}

/// Config, S1Fmt, S1CDMax, S1DSS.
fn shape(bench: &Bench, sid: u32) -> [u64; 4] {
    let [word0, word1] = entry(bench, sid);
    [word0 >> 1 & 7, word0 >> 4 & 3, word0 >> 59, word1 & 3]
}

fn frames(bench: &Bench, wanted: Structure) -> usize {
    let mut frames = 0;
    bench.unit.for_each_structure(|structure, _| frames += usize::from(structure == wanted));
    frames
}

#[test]
fn parts_of_functions_are_told_apart_by_pasid_alone() {
    for case in cases() {
        let bench = Bench::up(&case);
        let domains: Vec<_> = (0..5).map(|number| domain(&bench, number)).collect();
        let mut streams: Vec<(Stream, usize)> = Vec::new();
        for (at, sid) in [RED, BLUE, FAR].into_iter().enumerate() {
            // The function comes last, in the middle, first.
            let mut own: Vec<_> = (pasids(&case).iter().enumerate())
                .map(|(number, pasid)| (adi(sid, *pasid), (number + at) % 5))
                .collect();
            own.insert([own.len(), 2, 0][at], (stream(sid), at));
            streams.extend(own);
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
            // Nobody's PASIDs, beside those that are somebody's; and the one that has the function's descriptor.
            for pasid in [0, 3, 0x41, 0x7ffe, 0xf_fffe] {
                assert!([RED, BLUE, FAR].iter().all(|sid| go(&bench.model, adi(*sid, pasid)).is_err()), "{pasid:#x}");
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
        streams.iter().for_each(|(stream, _)| detach(&bench, *stream));
        check(&streams, &|_| false);
        assert_eq!((frames(&bench, Structure::ContextTable), frames(&bench, Structure::Level1ContextTable)), (0, 0));
        drop(domains);
        assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
        bench.check();
    }
}

#[test]
fn a_table_grows_while_others_go_on() {
    for case in cases() {
        let bench = Bench::up(&case);
        let one = domain(&bench, 1);
        attach(&bench, stream(RED), &*one);
        assert_eq!(shape(&bench, RED), [5, 0, 0, 0], "its own descriptor");
        let mut streams = vec![stream(RED)];
        for pasid in pasids(&case) {
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
            let bits = u64::from(32 - pasid.leading_zeros());
            let [config, format, count, default] = shape(&bench, RED);
            assert_eq!((config, default), (5, 2), "{}: {pasid:#x}", case.name);
            let limit = u64::from(case.config.idr1 >> 6 & 0x1f);
            let expected = match case.config.idr0 & Config::CD2L != 0 && bits > 6 {
                true => (1, bits.max(15).min(limit)),
                false => (0, bits.max(6).min(limit)),
            };
            assert_eq!((format, count), expected, "{}: {pasid:#x}", case.name);
            let level1 = if format == 1 { 1 << (count - 15) } else { 0 };
            assert_eq!(frames(&bench, Structure::Level1ContextTable), level1, "{}: none is left", case.name);
        }
        // Back to a descriptor of its own, and nothing is left of the table.
        streams[1..].iter().for_each(|stream| detach(&bench, *stream));
        assert_eq!(go(&bench.model, stream(RED)), Ok(phys(1)));
        let two = domain(&bench, 2);
        assert_eq!(attach(&bench, stream(RED), &*two), Transition::Hitless);
        assert_eq!((shape(&bench, RED)[..3].to_vec(), go(&bench.model, stream(RED))), (vec![5, 0, 0], Ok(phys(2))));
        assert_eq!((frames(&bench, Structure::ContextTable), frames(&bench, Structure::Level1ContextTable)), (0, 0));
        streams.iter().skip(1).for_each(|stream| assert!(go(&bench.model, *stream).is_err()));
        drop((one, two));
        assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
        bench.check();
    }
}

#[test]
fn a_table_that_hardware_has_not_left_stays_when_the_next_grows() {
    for case in cases().into_iter().take(3) {
        let bench = Bench::up(&case);
        let domain = domain(&bench, 1);
        attach(&bench, stream(RED), &*domain);
        attach(&bench, adi(RED, 0x45), &*domain);
        let there = [stream(RED), adi(RED, 0x45)];
        there.iter().for_each(|stream| assert_eq!(go(&bench.model, *stream), Ok(phys(1))));
        // The entry that leads to the smaller one is still cached.
        let (large, larger) = if case.config.idr0 & Config::CD2L != 0 { (0x8000, 0x8_0000) } else { (0x80, 0x100) };
        bench.model.fail_command_after(0);
        let found = bench.unit.attach(adi(RED, large), Target::Paging(&*domain));
        bench.model.fail_command_after(usize::MAX);
        assert!(matches!(found, Err(HwError::Queue { .. })), "{}: {found:?}", case.name);
        // Nobody is lost, and nobody is left in the old one.
        detach(&bench, adi(RED, 0x45));
        assert!(go(&bench.model, adi(RED, 0x45)).is_err(), "{}", case.name);
        let model = bench.model.clone();
        bench.spy.set_hook(Some(Box::new(move |_, _| assert_eq!(go(&model, stream(RED)), Ok(phys(1))))));
        attach(&bench, adi(RED, larger), &*domain);
        bench.spy.set_hook(None);
        for stream in [stream(RED), adi(RED, larger)] {
            assert_eq!(go(&bench.model, stream), Ok(phys(1)), "{}", case.name);
        }
        drop(domain);
        assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
        bench.check();
    }
}

#[test]
fn requests_without_pasid_go_where_their_function_does() {
    for case in cases() {
        let bench = Bench::up(&case);
        let (one, other) = (domain(&bench, 1), domain(&bench, 2));
        let part = adi(RED, 1);
        // Whoever comes first, and whoever goes first.
        for first in [true, false] {
            assert_eq!(identity(&bench, stream(RED)), Transition::Hitless);
            if first {
                detach(&bench, stream(RED));
            }
            assert_eq!(attach(&bench, part, &*one), Transition::Hitless);
            let check = |function: Result<u64, FaultCode>, default: u64| {
                assert_eq!((go(&bench.model, stream(RED)), go(&bench.model, part)), (function, Ok(phys(1))));
                assert!(go(&bench.model, adi(RED, 0)).is_err(), "{}", case.name);
                assert_eq!(shape(&bench, RED)[3], default, "{}", case.name);
            };
            if !first {
                check(Ok(PAGE), 1);
                detach(&bench, stream(RED));
            }
            check(Err(FaultCode::F_STREAM_DISABLED), 0);
            assert_eq!(attach(&bench, stream(RED), &*other), Transition::Hitless);
            check(Ok(phys(2)), 2);
            assert_eq!(identity(&bench, stream(RED)), Transition::ThroughBlocked);
            check(Ok(PAGE), 1);
            assert_eq!(attach(&bench, stream(RED), &*one), Transition::ThroughBlocked);
            check(Ok(phys(1)), 2);
            detach(&bench, stream(RED));
            check(Err(FaultCode::F_STREAM_DISABLED), 0);
            identity(&bench, stream(RED));
            detach(&bench, part);
            assert_eq!(go(&bench.model, stream(RED)), Ok(PAGE));
            assert!(go(&bench.model, part).is_err());
            detach(&bench, stream(RED));
            assert!(go(&bench.model, stream(RED)).is_err());
            assert_eq!(frames(&bench, Structure::ContextTable), 0);
        }
        // A part may pass, too: through a stage 1 that all of them have in common.
        assert_eq!(identity(&bench, part), Transition::Hitless);
        assert_eq!(identity(&bench, part), Transition::Hitless);
        identity(&bench, adi(BLUE, 2));
        assert_eq!((go(&bench.model, part), go(&bench.model, adi(BLUE, 2))), (Ok(PAGE), Ok(PAGE)));
        let last = (1 << case.config.output_bits()) - 1;
        let reached = bench.model.dma(RED, Some(1), Iova::new(last), 1, true).expect("all of memory");
        assert_eq!(reached[0].start.get(), last);
        assert_eq!(attach(&bench, part, &*one), Transition::ThroughBlocked);
        assert_eq!(go(&bench.model, part), Ok(phys(1)));
        bench.check();
    }
}

#[test]
fn what_has_no_stage_1_of_its_own_is_refused_and_nothing_changes() {
    for case in cases().into_iter().take(3) {
        let bench = Bench::up(&case);
        let one = domain(&bench, 1);
        let second = bench.unit.create_domain(&DomainConfig::new(Stage::Second)).unwrap();
        iommu_tests::bench::map(&*second, PAGE, phys(2), 0x1000);
        let to_second = |stream| bench.unit.attach(stream, Target::Paging(&*second));
        assert!(matches!(to_second(adi(RED, 1)), Err(HwError::Unsupported(_))));
        assert!(matches!(bench.unit.attach(adi(RED, 0), Target::Paging(&*one)), Err(HwError::Unsupported(_))));
        attach(&bench, adi(RED, 1), &*one);
        bench.commands();
        assert_eq!(to_second(stream(RED)), Err(HwError::InUse));
        attach(&bench, stream(RED), &*one);
        assert_eq!(to_second(stream(RED)), Err(HwError::InUse));
        assert_eq!((go(&bench.model, stream(RED)), go(&bench.model, adi(RED, 1))), (Ok(phys(1)), Ok(phys(1))));
        to_second(stream(BLUE)).unwrap();
        let refused = bench.unit.attach(adi(BLUE, 1), Target::Paging(&*one));
        assert_eq!(refused, Err(HwError::InUse));
        assert_eq!(bench.unit.attach(adi(BLUE, 1), Target::Identity), Err(HwError::InUse));
        assert_eq!(go(&bench.model, stream(BLUE)), Ok(phys(2)));
        // Once the last PASID is gone the function may go anywhere, out of the table as well.
        detach(&bench, adi(RED, 1));
        assert_eq!(to_second(stream(RED)), Ok(Transition::ThroughBlocked));
        assert_eq!(go(&bench.model, stream(RED)), Ok(phys(2)));
        assert_eq!(frames(&bench, Structure::ContextTable), 0, "{}", case.name);
        bench.check();
    }
    // As many as the unit has, or as the driver is asked for; none where there is none.
    let few = cases().pop().unwrap();
    let bench = Bench::up(&few);
    let one = domain(&bench, 1);
    assert_eq!(bench.unit.capabilities().pasid_bits, 3);
    assert!(matches!(bench.unit.attach(adi(RED, 8), Target::Paging(&*one)), Err(HwError::Missing(_))));
    attach(&bench, adi(RED, 7), &*one);
    let none = Bench::up(&Case::nested(Stage::First));
    assert_eq!(none.unit.capabilities().pasid_bits, 0);
    assert!(matches!(none.unit.attach(adi(RED, 1), Target::Identity), Err(HwError::Missing(_))));
}

/// What each of `streams` meets after every store of `operation`, by walks that know no cache and no driver.
fn walked(bench: &Bench, streams: &[Stream], operation: impl FnOnce()) -> Vec<Vec<Result<u64, FaultCode>>> {
    let (tables, config, streams) = (bench.model.tables(), bench.case.config, streams.to_vec());
    let walk = move |state: &Snapshot| -> Vec<_> {
        let read = |at: PhysAddr| state.read64(at);
        let one = |stream: &Stream| {
            let (sid, pasid) = (stream.id.get(), stream.pasid.map(|pasid| pasid.get()));
            let found = translate(&read, tables, &config, sid, pasid, Iova::new(PAGE), true);
            found.map(|found| found.phys.get())
        };
        streams.iter().map(one).collect()
    };
    let all = Arc::new(Mutex::new(vec![walk(&bench.memory.snapshot())]));
    let (seen, look) = (all.clone(), walk.clone());
    bench.memory.set_observer(Some(Box::new(move |memory, _| seen.lock().unwrap().push(look(&memory.snapshot())))));
    operation();
    bench.memory.set_observer(None);
    let mut all = std::mem::take(&mut *all.lock().unwrap());
    all.push(walk(&bench.memory.snapshot()));
    all
}

#[test]
fn every_store_leaves_each_stream_where_it_was_or_where_it_goes() {
    for case in cases().into_iter().take(3) {
        let bench = Bench::up(&case);
        let (one, other) = (domain(&bench, 1), domain(&bench, 2));
        attach(&bench, stream(BLUE), &*other);
        // Its tables, of which there is no end, are made before anybody looks.
        identity(&bench, adi(FAR, 1));
        detach(&bench, adi(FAR, 1));
        let large = if case.config.idr0 & Config::CD2L != 0 { 0x1_2345 } else { 0x145 };
        // The last two are nobody's: PASID 0, and a neighbour.
        let all = [
            adi(RED, 1),
            adi(RED, 2),
            adi(RED, 0x45),
            adi(RED, large),
            stream(RED),
            stream(BLUE),
            adi(RED, 0),
            adi(BLUE, 1),
        ];
        type Step<'a> = (&'a str, usize, Box<dyn Fn() + 'a>);
        let steps: Vec<Step<'_>> = vec![
            ("the first", 0, Box::new(|| lead(&bench, all[0], &*one))),
            ("in a table", 1, Box::new(|| lead(&bench, all[1], &*other))),
            ("the function passes", 4, Box::new(|| _ = identity(&bench, all[4]))),
            ("in a new leaf", 2, Box::new(|| lead(&bench, all[2], &*one))),
            ("the function is translated", 4, Box::new(|| lead(&bench, all[4], &*one))),
            ("in a larger table", 3, Box::new(|| lead(&bench, all[3], &*other))),
            ("a replacement", 3, Box::new(|| lead(&bench, all[3], &*one))),
            ("the function moves", 4, Box::new(|| lead(&bench, all[4], &*other))),
            ("one goes", 0, Box::new(|| detach(&bench, all[0]))),
            ("one goes to identity", 1, Box::new(|| _ = identity(&bench, all[1]))),
            ("the function goes", 4, Box::new(|| detach(&bench, all[4]))),
            ("another goes", 2, Box::new(|| detach(&bench, all[2]))),
            ("and another", 1, Box::new(|| detach(&bench, all[1]))),
            ("the last goes", 3, Box::new(|| detach(&bench, all[3]))),
            ("the function comes", 4, Box::new(|| lead(&bench, all[4], &*one))),
            ("a part of a function that is there", 2, Box::new(|| lead(&bench, all[2], &*one))),
        ];
        for (name, moving, operation) in &steps {
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
                    assert!(*now == first[number] || *now == last[number] || now.is_err(), "{what}");
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
        let two = case.config.idr0 & Config::CD2L != 0;
        let (large, larger) = if two { (0x8000, 0xf_ffff) } else { (0x80, 0xfff) };
        // The first of a device, one of a known table, of a new leaf, of larger tables, the function, of another table.
        let wanted = [
            (adi(RED, 1), false),
            (adi(RED, 2), true),
            (adi(RED, 0x40), false),
            (adi(RED, large), false),
            (adi(RED, larger), false),
            (stream(RED), true),
            (adi(FAR, large), false),
            (stream(BLUE), true),
            (adi(BLUE, 7), false),
        ];
        for (stream, known) in wanted {
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
            assert_eq!(failed == 0, known, "{}: {stream}: {failed}", case.name);
            there.push(stream);
            assert_eq!(go(&bench.model, stream), Ok(phys(1)));
        }
        // Nothing of this needs any.
        bench.memory.exhaust_after(0);
        for stream in &there {
            assert_eq!(attach(&bench, *stream, &*other), Transition::ThroughBlocked, "{stream}");
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
    Stops,
}

#[test]
fn hardware_that_fails_anywhere_blocks_and_recovers() {
    let troubles = (0..10).flat_map(|n| [Trouble::Hangs(n), Trouble::Refuses(n)]).chain([Trouble::Stops]);
    for case in hardest() {
        let two = case.config.idr0 & Config::CD2L != 0;
        for trouble in troubles.clone() {
            // Attach to a new leaf, to a larger table, beside a function; a replacement, a detach, the last detach, a domain that
            // goes; a function beside a part, its replacement and its detach; and then a detach, or at once the next attach.
            for (kind, at_once) in (0..10).flat_map(|kind| [(kind, false), (kind, true)]) {
                let bench = Bench::up(&case);
                let (one, other) = (domain(&bench, 1), domain(&bench, 2));
                let stay = [stream(BLUE), adi(RED, 3)];
                stay.iter().for_each(|stream| lead(&bench, *stream, &*other));
                let moving = match kind {
                    0 => adi(RED, 0x20),
                    1 => adi(RED, if two { 0x9000 } else { 0x100 }),
                    2 => adi(BLUE, 5),
                    5 => adi(FAR, 9),
                    7.. => stream(RED),
                    _ => adi(RED, 4),
                };
                let was = kind > 2 && kind != 7;
                if was {
                    attach(&bench, moving, &*one);
                    assert_eq!(go(&bench.model, moving), Ok(phys(1)));
                }
                let third = domain(&bench, 3);
                match trouble {
                    Trouble::Hangs(n) => bench.model.stop_queue_after(n),
                    Trouble::Refuses(n) => bench.model.fail_command_after(n),
                    Trouble::Stops => bench.model.set_queue(Queue::Stopped),
                }
                let attaches = matches!(kind, 0..=3 | 7 | 8);
                let found = match kind {
                    _ if attaches => bench.unit.attach(moving, Target::Paging(&*third)).map(drop),
                    4 | 5 | 9 => bench.unit.detach(moving).map(drop),
                    _ => one.retire(),
                };
                let what = format!("{}: {trouble:?} in {kind}: {found:?}", case.name);
                bench.model.set_queue(Queue::Running);
                bench.model.fail_command_after(usize::MAX);
                // Where it was, if hardware was not told; blocked; where it was to go. Others are where they were.
                match (go(&bench.model, moving), &found) {
                    (Ok(at), Ok(())) => assert_eq!((at, attaches), (phys(3), true), "{what}"),
                    (Ok(at), Err(_)) => assert_eq!((at, was), (phys(1), true), "{what}"),
                    (Err(_), Ok(())) => assert!(!attaches, "{what}"),
                    (Err(_), Err(_)) => {}
                }
                stay.iter().for_each(|stream| assert_eq!(go(&bench.model, *stream), Ok(phys(2)), "{what}: {stream}"));
                assert!(go(&bench.model, adi(RED, 0)).is_err(), "{what}");
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

/// Hardware that has not confirmed that it forgot the other words of an entry may use them as they were with a first word that
/// is new.
#[test]
fn a_first_word_never_meets_others_that_hardware_may_have_from_before() {
    for case in cases() {
        for n in 0..12 {
            let bench = Bench::up(&case);
            let one = domain(&bench, 1);
            identity(&bench, stream(BLUE));
            assert_eq!(go(&bench.model, stream(BLUE)), Ok(PAGE));
            let at = entry_at(&bench, BLUE);
            // Whether another word was stored since; whether a first word that uses others was then.
            let (others, found) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
            let (stored, mixed) = (others.clone(), found.clone());
            bench.memory.set_observer(Some(Box::new(move |memory, phys| match phys.get().wrapping_sub(at) {
                0 if memory.device_read64(phys).is_some_and(|word| word >> 1 & 7 >= 4) => {
                    mixed.fetch_or(stored.load(Ordering::Relaxed), Ordering::Relaxed);
                }
                8..64 => stored.store(true, Ordering::Relaxed),
                _ => {}
            })));
            let forgotten = others.clone();
            bench.model.on_command(Some(Box::new(move |_, command| {
                if matches!(*command, Command::ConfigSte { sid: BLUE, .. }) {
                    forgotten.store(false, Ordering::Relaxed);
                }
            })));
            bench.model.fail_command_after(n);
            let _ = bench.unit.attach(adi(BLUE, 5), Target::Paging(&*one));
            bench.model.fail_command_after(usize::MAX);
            attach(&bench, adi(BLUE, 5), &*one);
            bench.memory.set_observer(None);
            bench.model.on_command(None);
            assert!(!found.load(Ordering::Relaxed), "{}: refused after {n}", case.name);
            assert_eq!(go(&bench.model, stream(BLUE)), Ok(PAGE));
            assert_eq!(go(&bench.model, adi(BLUE, 5)), Ok(phys(1)));
            bench.check();
        }
    }
}

#[test]
fn a_domain_of_many_streams_goes_in_few_batches() {
    for case in cases().into_iter().take(2) {
        let bench = Bench::up(&case);
        let (one, other) = (domain(&bench, 1), domain(&bench, 2));
        let streams: Vec<_> = (0..100).map(|n| adi([RED, BLUE, FAR][n % 3], 0x20 + n as u32 * 7)).collect();
        streams.iter().for_each(|stream| lead(&bench, *stream, &*one));
        attach(&bench, adi(RED, 1), &*other);
        streams.iter().for_each(|stream| assert_eq!(go(&bench.model, *stream), Ok(phys(1))));
        bench.spy.take_writes();
        one.retire().unwrap();
        let doorbells = bench.spy.take_writes().iter().filter(|write| write.offset == 0x98).count();
        assert!(doorbells <= 10, "{}: {doorbells} for 100 streams", case.name);
        streams.iter().for_each(|stream| assert!(go(&bench.model, *stream).is_err()));
        assert_eq!(go(&bench.model, adi(RED, 1)), Ok(phys(2)));
        drop((one, other));
        assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
        bench.check();
    }
}

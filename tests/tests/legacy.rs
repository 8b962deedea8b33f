//! Legacy mode behind the same API: context entries of 128 bits that lead to a second stage or straight to memory, published
//! and taken away in an order that hardware, which reads them in pieces, cannot misread; with hardware and memory that fail.

use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{Domain, DomainConfig, HwError, Pasid, RequesterId, Stage, Stream, Target, Transition, Unit as _};
use iommu_models::vtd::walk::translate;
use iommu_models::vtd::{Config, Descriptor, FaultCode, Granularity, Queue};
use iommu_tests::bench::{Bench, map, stream, unmap};
use iommu_tests::case::Case;
use iommu_tests::spy::{IQT, Moment};
use iommu_vtd::capabilities::{Mode, names};
use std::sync::{Arc, Mutex};

const RED: u16 = 0x0108;
/// In the upper half of the same bus, which is the same context table here.
const BLUE: u16 = 0x01f8;
const FAR: u16 = 0xff00;

const PAGE: u64 = 0x4000;
const LARGE: u64 = 1 << 21;

/// Units of legacy mode: narrow and wide, snooping and not, each with caching mode and without.
fn cases() -> Vec<Case> {
    let case = |name: &str, config: Config, non_coherent| Case {
        name: name.into(),
        config,
        stage: Stage::Second,
        non_coherent,
    };
    let plain = [
        case("legacy", Config::legacy(), false),
        case("legacy, not snooped", Config::legacy(), true),
        case("legacy, 3 levels", Config::legacy().depths(2).guest_bits(39), true),
        case("legacy, 5 levels, snooped", Config::legacy().depths(8).guest_bits(57).ecap_bits(1, true), true),
    ];
    let caching = |case: &Case| {
        let name = format!("{}, caching mode", case.name);
        Case { name, config: case.config.caching_mode(), ..case.clone() }
    };
    plain.iter().flat_map(|plain| [plain.clone(), caching(plain)]).collect()
}

const fn phys(number: u64) -> u64 {
    0x10_0000_0000 + number * 0x1000
}

fn domain(bench: &Bench, number: u64) -> Box<dyn Domain> {
    bench.domain_with(PAGE, phys(number), 0x1000)
}

/// The two words of the context entry of `rid`, as the unit reads them.
fn entry(bench: &Bench, rid: u16) -> [u64; 2] {
    let read = |at: u64| bench.memory.device_read64(PhysAddr::new(at)).expect("memory");
    let table = read((bench.model.root() & !0xfff) + u64::from(rid >> 8) * 16) & !0xfff;
    [0, 8].map(|word| read(table + u64::from(rid & 0xff) * 16 + word))
}

/// Where a read and a write of one byte go; they must agree but for the reason.
#[track_caller]
fn go(bench: &Bench, rid: u16, iova: u64) -> Option<u64> {
    let (read, write) = (bench.read(rid, iova), bench.write(rid, iova));
    assert_eq!(read.ok(), write.ok(), "{}: {rid:#x} at {iova:#x}: {read:x?}, {write:x?}", bench.case.name);
    read.ok()
}

fn detach(bench: &Bench, rid: u16) {
    bench.unit.detach(stream(rid)).unwrap_or_else(|error| panic!("{}: {error}", bench.case.name));
}

#[test]
fn functions_are_attached_moved_passed_through_and_detached() {
    for case in cases() {
        let bench = Bench::up(&case);
        assert_eq!(bench.unit.hardware().mode(), Mode::Legacy);
        // TTM 0.
        assert_eq!(bench.model.root() >> 10 & 3, 0, "{}", case.name);
        let kept = bench.memory.in_use();
        let (one, other) = (domain(&bench, 1), domain(&bench, 2));
        for rid in [RED, BLUE, FAR] {
            assert_eq!(go(&bench, rid, PAGE), None);
            assert_eq!(bench.attach(rid, &*one), Transition::Hitless);
            assert_eq!((go(&bench, rid, PAGE), go(&bench, rid, PAGE + 0x1000)), (Some(phys(1)), None));
        }
        // AW: the depth less two.
        let depth = case.config.cap >> 8 & 0xe;
        let expected = if depth & 4 != 0 { 2 } else { depth.trailing_zeros().into() };
        assert_eq!(entry(&bench, RED)[1] & 7, expected, "{}", case.name);
        assert_eq!(bench.attach(RED, &*other), Transition::ThroughBlocked);
        assert_eq!(bench.attach(RED, &*other), Transition::Hitless);
        assert_eq!((go(&bench, RED, PAGE), go(&bench, BLUE, PAGE)), (Some(phys(2)), Some(phys(1))));
        assert_eq!(bench.unit.attach(stream(BLUE), Target::Identity), Ok(Transition::ThroughBlocked));
        assert_eq!((go(&bench, BLUE, PAGE), go(&bench, BLUE, 0x1234_5000)), (Some(PAGE), Some(0x1234_5000)));
        // TT 2.
        assert_eq!(entry(&bench, BLUE)[0] & 0xf, 2 << 2 | 1);
        assert_eq!(bench.attach(BLUE, &*one), Transition::ThroughBlocked);
        assert_eq!((go(&bench, BLUE, PAGE), go(&bench, BLUE, 0x1234_5000)), (Some(phys(1)), None));
        // Unmaps and maps while attached; leaves and tables.
        map(&*one, LARGE, 0x20_0000_0000, LARGE);
        assert_eq!(go(&bench, FAR, LARGE + 0x1000), Some(0x20_0000_1000));
        unmap(&*one, LARGE, LARGE);
        unmap(&*one, PAGE, 0x1000);
        assert_eq!(
            (go(&bench, FAR, LARGE + 0x1000), go(&bench, FAR, PAGE), go(&bench, BLUE, PAGE)),
            (None, None, None)
        );
        map(&*one, PAGE, phys(3), 0x1000);
        assert_eq!((go(&bench, FAR, PAGE), go(&bench, RED, PAGE)), (Some(phys(3)), Some(phys(2))));
        detach(&bench, BLUE);
        assert_eq!((go(&bench, BLUE, PAGE), go(&bench, FAR, PAGE)), (None, Some(phys(3))));
        drop((one, other));
        for rid in [RED, BLUE, FAR] {
            assert_eq!(go(&bench, rid, PAGE), None);
            assert_eq!(entry(&bench, rid)[0] & 1, 0);
        }
        // One context table a bus.
        assert_eq!((bench.memory.in_use(), bench.kept()), (kept + 2, kept + 2), "{}", case.name);
        bench.check();
    }
}

#[test]
fn what_legacy_mode_has_not_is_refused_by_name() {
    let bench = Bench::up(&cases()[0]);
    let first = bench.unit.create_domain(&DomainConfig::new(Stage::First)).map(drop);
    assert_eq!(first, Err(HwError::Missing(names::FIRST_STAGE)));
    let one = domain(&bench, 1);
    let adi = Stream::with_pasid(RequesterId::new(RED), Pasid::new(1).expect("a PASID"));
    assert_eq!(bench.unit.attach(adi, Target::Paging(&*one)), Err(HwError::Missing(names::PASIDS)));
    assert_eq!(bench.unit.capabilities().pasid_bits, 0);
    assert!(bench.model.dma(RED, Some(1), Iova::new(PAGE), 1, false).is_err());
    drop(one);
    bench.check();
}

#[test]
fn the_word_that_says_present_comes_last_and_goes_first() {
    for case in cases() {
        let bench = Bench::up(&case);
        let (one, other) = (domain(&bench, 1), domain(&bench, 2));
        bench.attach(BLUE, &*other);
        type Step<'a> = (&'a str, Box<dyn Fn() + 'a>);
        let steps: [Step<'_>; 5] = [
            ("attach", Box::new(|| assert_eq!(bench.attach(RED, &*one), Transition::Hitless))),
            ("replace", Box::new(|| assert_eq!(bench.attach(RED, &*other), Transition::ThroughBlocked))),
            ("identity", Box::new(|| assert!(bench.unit.attach(stream(RED), Target::Identity).is_ok()))),
            ("back", Box::new(|| assert_eq!(bench.attach(RED, &*one), Transition::ThroughBlocked))),
            ("detach", Box::new(|| detach(&bench, RED))),
        ];
        for (name, step) in steps {
            let root = bench.model.root();
            let seen = Arc::new(Mutex::new(Vec::new()));
            let (states, config) = (seen.clone(), case.config);
            let look = move |memory: &iommu_models::memory::TestMemory| {
                let read = |at: PhysAddr| memory.is_allocated(at).then(|| memory.device_read64(at)).flatten();
                let at = |at: u64| read(PhysAddr::new(at)).expect("memory");
                let table = at((root & !0xfff) + u64::from(RED >> 8) * 16) & !0xfff;
                let words = [0, 8].map(|word| at(table + u64::from(RED & 0xff) * 16 + word));
                let walk = |rid| translate(&read, root, &config, rid, None, Iova::new(PAGE), true);
                let of = |rid| walk(rid).map(|found| found.phys.get());
                states.lock().unwrap().push((words, of(RED), of(BLUE)));
            };
            look(&bench.memory);
            let observer = look.clone();
            bench.memory.set_observer(Some(Box::new(move |memory, _| observer(memory))));
            step();
            bench.memory.set_observer(None);
            look(&bench.memory);
            let seen = seen.lock().unwrap();
            let (first, last) = (&seen[0], &seen[seen.len() - 1]);
            let mut before: Option<[u64; 2]> = None;
            for (store, (words, red, blue)) in seen.iter().enumerate() {
                let what = format!("{}: {name} after store {store} of {}: {words:x?}", case.name, seen.len());
                let blocked = *red == Err(FaultCode::LEGACY_CONTEXT_NOT_PRESENT);
                assert!(*red == first.1 || *red == last.1 || blocked, "{what}: {red:x?}");
                assert_eq!(*blue, Ok(phys(2)), "{what}");
                if let Some(before) = before {
                    // Never both words at once, never the upper one while the entry is present.
                    assert!(before[0] == words[0] || before[1] == words[1], "{what}");
                    assert!(before[1] == words[1] || before[0] & 1 == 0, "{what}");
                    // What is taken away keeps all but the bit.
                    if before[0] & 1 == 1 && words[0] != before[0] {
                        assert_eq!(words[0], before[0] & !1, "{what}");
                    }
                }
                before = Some(*words);
            }
        }
        bench.check();
    }
}

#[test]
fn entries_are_forgotten_by_the_domain_that_they_had() {
    for case in cases().into_iter().filter(|case| !case.caching()) {
        let bench = Bench::up(&case);
        let (one, other) = (domain(&bench, 1), domain(&bench, 2));
        bench.attach(RED, &*one);
        let id = |words: [u64; 2]| (words[1] >> 8) as u16;
        let old = id(entry(&bench, RED));
        bench.attach(BLUE, &*other);
        assert_ne!(id(entry(&bench, BLUE)), old);
        bench.invalidations();
        bench.attach(RED, &*other);
        let expected = [
            Descriptor::ContextCache(Granularity::Device { domain: old, source: RED, mask: 0 }),
            Descriptor::Iotlb { granularity: Granularity::Domain(old), drain_writes: true, drain_reads: true },
        ];
        assert_eq!(bench.invalidations(), expected, "{}", case.name);
        let new = id(entry(&bench, RED));
        detach(&bench, RED);
        let expected = [
            Descriptor::ContextCache(Granularity::Device { domain: new, source: RED, mask: 0 }),
            Descriptor::Iotlb { granularity: Granularity::Domain(new), drain_writes: true, drain_reads: true },
        ];
        assert_eq!(bench.invalidations(), expected, "{}", case.name);
        bench.check();
    }
}

#[test]
fn memory_that_runs_out_anywhere_changes_nothing() {
    for case in cases() {
        let bench = Bench::up(&case);
        let (one, other) = (domain(&bench, 1), domain(&bench, 2));
        for rid in [RED, BLUE, FAR] {
            let before = bench.memory.in_use();
            let mut failed = 0;
            for n in 0.. {
                bench.memory.exhaust_after(n);
                let found = bench.unit.attach(stream(rid), Target::Paging(&*one));
                bench.memory.fail_never();
                let Err(error) = found else { break };
                assert_eq!((error, bench.memory.in_use()), (HwError::OutOfMemory, before), "{}", case.name);
                assert_eq!(go(&bench, rid, PAGE), None);
                failed += 1;
            }
            // The context table of the bus is all.
            assert_eq!(failed, usize::from(rid != BLUE), "{}: {rid:#x}", case.name);
            assert_eq!(go(&bench, rid, PAGE), Some(phys(1)));
        }
        bench.memory.exhaust_after(0);
        for rid in [RED, BLUE, FAR] {
            bench.attach(rid, &*other);
            assert_eq!(go(&bench, rid, PAGE), Some(phys(2)));
            detach(&bench, rid);
        }
        bench.memory.fail_never();
        drop((one, other));
        assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
        bench.check();
    }
}

#[test]
fn hardware_that_fails_anywhere_blocks_and_recovers() {
    for case in cases() {
        for n in 0..6 {
            for refuses in [false, true] {
                // Attach, replacement, detach, a domain that goes; and then a detach, or at once the next attach.
                for (kind, at_once) in (0..4).flat_map(|kind| [(kind, false), (kind, true)]) {
                    let bench = Bench::up(&case);
                    let (one, other, third) = (domain(&bench, 1), domain(&bench, 2), domain(&bench, 3));
                    bench.attach(BLUE, &*other);
                    if kind != 0 {
                        bench.attach(RED, &*one);
                        assert_eq!(go(&bench, RED, PAGE), Some(phys(1)));
                    }
                    match refuses {
                        true => bench.model.fail_descriptor_after(n),
                        false => bench.model.stop_queue_after(n),
                    }
                    let found = match kind {
                        0 | 1 => bench.unit.attach(stream(RED), Target::Paging(&*third)).map(drop),
                        2 => bench.unit.detach(stream(RED)).map(drop),
                        _ => one.retire(),
                    };
                    bench.model.set_queue(Queue::Running);
                    bench.model.fail_descriptor_after(usize::MAX);
                    let what = format!("{}: {n}, {refuses}, {kind}: {found:?}", case.name);
                    match (go(&bench, RED, PAGE), &found) {
                        (Some(at), Ok(())) => assert_eq!(at, phys(3), "{what}"),
                        (Some(at), Err(_)) => assert_eq!(at, phys(1), "{what}"),
                        (None, found) => assert!(kind > 1 || found.is_err(), "{what}"),
                    }
                    // In memory no entry leads to what it failed to leave.
                    assert!(found.is_ok() || entry(&bench, RED)[0] & 1 == 0, "{what}");
                    assert_eq!(go(&bench, BLUE, PAGE), Some(phys(2)), "{what}");
                    if !at_once {
                        detach(&bench, RED);
                        assert_eq!(go(&bench, RED, PAGE), None, "{what}");
                    }
                    bench.attach(RED, &*third);
                    assert_eq!(go(&bench, RED, PAGE), Some(phys(3)), "{what}");
                    drop((one, third));
                    assert_eq!((go(&bench, RED, PAGE), go(&bench, BLUE, PAGE)), (None, Some(phys(2))), "{what}");
                    drop(other);
                    assert_eq!(bench.memory.in_use(), bench.kept(), "{what}");
                    bench.check();
                }
            }
        }
    }
}

/// A device that goes on all the time fills caches in the middle of everything, and finds nothing that it must not.
#[test]
fn a_busy_device_meets_old_new_or_nothing() {
    for case in cases() {
        let bench = Bench::up(&case);
        let (one, other) = (domain(&bench, 1), domain(&bench, 2));
        let reached = Arc::new(Mutex::new(Vec::new()));
        let (model, seen) = (bench.model.clone(), reached.clone());
        let busy = Arc::new(move || {
            let found = model.dma(RED, None, Iova::new(PAGE), 1, true).ok().map(|found| found[0].start.get());
            seen.lock().unwrap().push(found);
        });
        let at_store = busy.clone();
        bench.memory.set_observer(Some(Box::new(move |_, _| at_store())));
        bench.spy.set_hook(Some(Box::new(move |_, _: Moment| busy())));
        for _ in 0..3 {
            for (number, domain) in [(1, &one), (2, &other)] {
                reached.lock().unwrap().clear();
                let old = go(&bench, RED, PAGE);
                bench.attach(RED, &**domain);
                for found in reached.lock().unwrap().drain(..) {
                    assert!(
                        found.is_none() || found == old || found == Some(phys(number)),
                        "{}: {found:x?}",
                        case.name
                    );
                }
                assert_eq!(go(&bench, RED, PAGE), Some(phys(number)), "{}", case.name);
            }
            detach(&bench, RED);
            assert_eq!(go(&bench, RED, PAGE), None, "{}", case.name);
        }
        bench.memory.set_observer(None);
        bench.spy.set_hook(None);
        bench.check();
    }
}

/// One doorbell for everything that a replacement takes away, and one for a domain with all its functions.
#[test]
fn many_functions_go_in_few_batches() {
    for case in cases() {
        let bench = Bench::up(&case);
        let one = domain(&bench, 1);
        (0..40).for_each(|n| assert_eq!(bench.attach(n * 8, &*one), Transition::Hitless));
        (0..40).for_each(|n| assert_eq!(go(&bench, n * 8, PAGE), Some(phys(1))));
        bench.spy.take_writes();
        one.retire().unwrap();
        let doorbells = bench.spy.take_writes().iter().filter(|write| write.offset == IQT).count();
        assert!(doorbells <= 3, "{}: {doorbells}", case.name);
        (0..40).for_each(|n| assert_eq!(go(&bench, n * 8, PAGE), None));
        drop(one);
        assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
        bench.check();
    }
}

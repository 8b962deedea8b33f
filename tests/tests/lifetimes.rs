//! Domain ids and frames live until hardware has confirmed that it forgot them, and no longer; what hardware does not
//! snoop is cleaned.

use iommu_core::addr::PhysAddr;
use iommu_core::hw::{Domain, DomainConfig, HwError, Stage, Target, Unit as _};
use iommu_models::memory::Maintenance;
use iommu_models::vtd::{Descriptor, Granularity, Queue};
use iommu_tests::bench::{Bench, map, stream, unmap};
use iommu_tests::case::Case;
use iommu_tests::pieces;
use iommu_tests::spy::{IQT, Moment};
use iommu_vtd::Structure;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

const RED: u16 = 0x0108;
const LARGE: u64 = 1 << 21;
const HUGE: u64 = 1 << 30;

/// All that is cached of a domain.
fn is_all_of(case: &Case, domain: u16, descriptor: &Descriptor) -> bool {
    match (case.stage, *descriptor) {
        (Stage::First, Descriptor::PasidIotlb(granularity)) => granularity == Granularity::Pasid { domain, pasid: 0 },
        (Stage::Second, Descriptor::Iotlb { granularity, .. }) => granularity == Granularity::Domain(domain),
        _ => false,
    }
}

#[test]
fn a_domain_id_comes_back_only_after_all_of_it_is_invalidated() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let mut ids = BTreeSet::new();
        for round in 0..4 {
            let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
            // Some never see a stream: hardware never knew of them.
            if round % 2 == 0 {
                bench.attach(RED, &*domain);
            } else {
                bench.unit.attach(stream(RED), Target::Paging(&*domain)).unwrap();
                bench.detach(RED);
                bench.attach(RED, &*domain);
            }
            bench.expect(RED, 0x1000, Ok(0x5000_0000));
            let id = bench.domain_id(RED);
            assert!(id >= 2);
            ids.insert(id);
            bench.invalidations();
            drop(domain);
            let log = bench.invalidations();
            // All of the domain's PASIDs and translations, when no entry leads to it any more.
            let last = log.iter().rposition(|it| matches!(it, Descriptor::ContextCache(_))).expect("a detach");
            let rest = &log[last + 1..];
            assert!(rest.contains(&Descriptor::PasidCache(Granularity::Domain(id))), "{}: {rest:?}", case.name);
            assert!(rest.iter().any(|one| is_all_of(&case, id, one)), "{}: {rest:?}", case.name);
        }
        assert_eq!(ids.len(), 4, "an id that was flushed rests until all others had their turn");
        bench.check();
    }
}

#[test]
fn domain_ids_that_were_flushed_come_back_when_the_others_had_their_turn() {
    // CAP.ND = 0: 16 ids, two of which are never a domain's.
    let case = Case::plain()[0].with_cap(7, false);
    let bench = Bench::up(&case);
    let held: Vec<_> = (0..13).map(|_| bench.domain()).collect();
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        let domain = bench.domain();
        bench.attach(RED, &*domain);
        seen.insert(bench.domain_id(RED));
        assert!(matches!(bench.unit.create_domain(&DomainConfig::new(case.stage)), Err(HwError::OutOfDomainIds)));
    }
    assert_eq!(seen.len(), 1, "the only one that is free");
    drop(held);
    bench.check();
}

#[test]
fn a_domain_id_that_was_not_flushed_is_never_used_again() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
        bench.attach(RED, &*domain);
        bench.expect(RED, 0x1000, Ok(0x5000_0000));
        let lost = bench.domain_id(RED);
        let before = bench.memory.in_use();
        bench.model.set_queue(Queue::Stopped);
        drop(domain);
        assert_eq!(bench.memory.in_use(), before, "{}: hardware may still walk it all", case.name);
        bench.expect(RED, 0x1000, Ok(0x5000_0000));
        bench.model.set_queue(Queue::Running);
        for rid in 0..4 {
            let next = bench.domain();
            bench.attach(rid, &*next);
            assert_ne!(bench.domain_id(rid), lost, "{}", case.name);
            std::mem::forget(next);
        }
        bench.check();
    }
}

/// Checks at each doorbell that all of `frames` are still there.
fn guard(bench: &Bench, frames: Vec<u64>) -> Arc<Mutex<usize>> {
    let doorbells = Arc::new(Mutex::new(0));
    let (memory, count) = (bench.memory.clone(), doorbells.clone());
    bench.spy.set_hook(Some(Box::new(move |write, moment| {
        if (write.offset, moment) == (IQT, Moment::Before) {
            *count.lock().unwrap() += 1;
            for frame in &frames {
                assert!(memory.is_allocated(PhysAddr::new(*frame)), "{frame:#x} was freed before the wait");
            }
        }
    })));
    doorbells
}

#[test]
fn frames_are_freed_only_after_the_wait() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
        map(&*domain, 0x40 * HUGE, 0x5000_1000, LARGE);
        let tables = |rid| pieces::table_frames(&bench.reader(), &bench.entry(rid));
        let structures = || {
            let mut frames = Vec::new();
            bench.unit.for_each_structure(|_, frame| frames.push(frame.get()));
            frames
        };
        bench.attach(RED, &*domain);
        assert!(tables(RED).len() >= 5, "{}", case.name);

        // Tables of an unmap; directory and PASID table of a detach; everything of a domain.
        let doorbells = guard(&bench, tables(RED));
        let before = bench.memory.in_use();
        unmap(&*domain, 0x40 * HUGE, LARGE);
        assert_eq!((*doorbells.lock().unwrap(), bench.memory.in_use()), (1, before - 1), "{}", case.name);

        let doorbells = guard(&bench, structures());
        bench.detach(RED);
        assert_eq!((*doorbells.lock().unwrap(), bench.memory.in_use()), (1, before - 3), "{}", case.name);

        bench.spy.set_hook(None);
        bench.attach(RED, &*domain);
        let doorbells = guard(&bench, tables(RED));
        drop(domain);
        assert!(*doorbells.lock().unwrap() >= 1, "{}", case.name);
        bench.spy.set_hook(None);
        assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
        bench.check();
    }
}

#[test]
fn what_hardware_does_not_snoop_is_cleaned_and_pwsnp_is_set_where_it_can_be() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        bench.memory.take_maintenance();
        let domain: Box<dyn Domain> = bench.domain_with(0x1000, 0x5000_0000, 0x3000);
        map(&*domain, LARGE - 0x2000, 6 * HUGE + LARGE - 0x2000, HUGE + LARGE);
        bench.attach(RED, &*domain);
        let maintenance = bench.memory.take_maintenance();
        let cleaned = |phys: u64| {
            maintenance.iter().any(|it| match *it {
                Maintenance::Clean { phys: from, len } => (from.get()..from.get() + len as u64).contains(&phys),
                Maintenance::Invalidate { .. } => false,
            })
        };
        let entry = bench.entry(RED);
        assert_eq!(entry[1] >> 23 & 1 == 1, case.snoops_walks(), "{}: PWSNP", case.name);
        let tables = pieces::table_frames(&bench.reader(), &entry);
        let mut structures = Vec::new();
        bench.unit.for_each_structure(|kind, frame| {
            // The queue is read coherently, page tables have a rule of their own.
            if !matches!(kind, Structure::Queue | Structure::QueueStatus | Structure::PageTable) {
                structures.push(frame.get());
            }
        });
        let kinds = [(tables, case.snoops_walks(), "tables"), (structures, case.snoops_structures(), "structures")];
        for (frames, snooped, kind) in kinds {
            for phys in frames.iter().flat_map(|frame| (0..512).map(move |index| frame + index * 8)) {
                if bench.memory.read64(PhysAddr::new(phys)) != 0 {
                    assert!(snooped || cleaned(phys), "{}: {phys:#x} of {kind} was not cleaned", case.name);
                }
            }
            // Snooped memory needs no maintenance, which costs time.
            let any = frames.iter().any(|frame| (0..512).any(|index| cleaned(frame + index * 8)));
            assert!(!(snooped && any), "{}: {kind} cleaned for nothing", case.name);
        }
        bench.check();
    }
}

#[test]
fn a_domain_outlives_every_handle_of_its_unit() {
    for case in Case::plain() {
        let Bench { memory, model, unit, spy, case } = Bench::up(&case);
        let domain = unit.create_domain(&iommu_core::hw::DomainConfig::new(case.stage)).unwrap();
        unit.attach(stream(RED), Target::Paging(&*domain)).unwrap();
        let kept = memory.in_use();
        drop((unit, spy));
        map(&*domain, 0x1000, 0x5000_0000, 0x1000);
        let dma = || model.dma(RED, None, iommu_core::addr::Iova::new(0x1000), 1, true);
        assert_eq!(dma().unwrap()[0].start.get(), 0x5000_0000);
        unmap(&*domain, 0x1000, 0x1000);
        dma().unwrap_err();
        drop(domain);
        dma().unwrap_err();
        // The page tables, the directory and the PASID table are gone; all that hardware reads stays.
        assert_eq!(memory.in_use(), kept - 3, "{}", case.name);
        assert_eq!((model.violations(), memory.take_stale_reads()), (vec![], vec![]));
        memory.check_freed();
    }
}

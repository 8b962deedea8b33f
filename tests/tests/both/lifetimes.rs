//! Frames live until hardware has confirmed that it forgot them, and no longer; what hardware does not snoop is cleaned, and
//! nothing else.

use super::{HUGE, LARGE, PAGE};
use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::Target;
use iommu_models::memory::Maintenance;
use iommu_tests::bench::{map, unmap};
use iommu_tests::house::{Driver, House, Refusal, each, function};
use iommu_tests::over_both;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

over_both! {
    frames_are_freed_only_after_the_wait,
    what_hardware_does_not_snoop_is_cleaned_and_nothing_else,
    a_domain_outlives_every_handle_of_its_unit,
    each_flush_frees_what_became_empty_and_no_more,
}

/// Checks at each doorbell that all of `frames` are still there.
fn guard<D: Driver>(house: &House<D>, frames: Vec<u64>) -> Arc<AtomicUsize> {
    let doorbells = Arc::new(AtomicUsize::new(0));
    let (memory, count) = (house.memory.clone(), doorbells.clone());
    house.at_doorbell(move || {
        count.fetch_add(1, Ordering::Relaxed);
        for frame in &frames {
            assert!(memory.is_allocated(PhysAddr::new(*frame)), "{frame:#x} was freed before the wait");
        }
    });
    doorbells
}

/// Where domains have something: tables of their own on every level.
const PLACES: [u64; 3] = [PAGE, LARGE - 2 * PAGE, 0x40 * HUGE];

fn frames_are_freed_only_after_the_wait<D: Driver>() {
    each::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let domain = house.domain();
        PLACES.into_iter().for_each(|iova| map(&*domain, iova, 0x5000_0000 + iova % LARGE, PAGE));
        map(&*domain, 2 * HUGE, 0x5000_1000, LARGE);
        let all = || -> Vec<u64> {
            let found = PLACES.into_iter().chain([2 * HUGE]).flat_map(|iova| house.frames(function(red), iova));
            found.collect::<BTreeSet<_>>().into_iter().collect()
        };
        house.attach(red, &*domain);
        assert!(all().len() >= 7, "{}: {:x?}", house.name(), all());
        let _ = [PLACES[0], 2 * HUGE].map(|iova| house.write(red, iova));

        // The tables of an unmap.
        let (doorbells, before) = (guard(house, all()), house.memory.in_use());
        unmap(&*domain, 2 * HUGE, LARGE);
        assert!(doorbells.load(Ordering::Relaxed) >= 1);
        assert!(house.memory.in_use() < before, "{}: its table", house.name());

        // What leads to the domain, at a detach.
        let doorbells = guard(house, all());
        house.detach(red);
        assert!(doorbells.load(Ordering::Relaxed) >= 1);

        // Everything of a domain.
        house.spy.set_hook(None);
        house.attach(red, &*domain);
        let _ = PLACES.map(|iova| house.write(red, iova));
        let doorbells = guard(house, all());
        drop(domain);
        assert!(doorbells.load(Ordering::Relaxed) >= 1);
        house.spy.set_hook(None);
        house.check_empty();
    });
}

fn what_hardware_does_not_snoop_is_cleaned_and_nothing_else<D: Driver>() {
    each::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let domain = house.domain_with(PAGE, 0x5000_0000, 3 * PAGE);
        map(&*domain, LARGE - 2 * PAGE, 6 * HUGE + LARGE - 2 * PAGE, HUGE + LARGE);
        house.attach(red, &*domain);
        let maintenance = house.memory.take_maintenance();
        let cleaned = |phys: u64| {
            maintenance.iter().any(|it| match *it {
                Maintenance::Clean { phys: from, len } => (from.get()..from.get() + len as u64).contains(&phys),
                Maintenance::Invalidate { .. } => false,
            })
        };
        let structures = D::structures(&house.model, &house.unit);
        let walked: BTreeSet<u64> =
            [PAGE, LARGE - PAGE, LARGE, HUGE].into_iter().flat_map(|iova| house.frames(function(red), iova)).collect();
        let is_structure = |frame: &u64| structures.contains(frame);
        let (structures, tables): (Vec<u64>, Vec<u64>) = walked.into_iter().partition(is_structure);
        assert!(!structures.is_empty() && tables.len() >= 3, "{}", house.name());
        let kinds =
            [(tables, house.kind.snoops_tables, "tables"), (structures, house.kind.snoops_structures, "structures")];
        for (frames, snooped, kind) in kinds {
            for phys in frames.iter().flat_map(|frame| (0..512).map(move |index| frame + index * 8)) {
                let (written, cleaned) = (house.memory.read64(PhysAddr::new(phys)) != 0, cleaned(phys));
                assert!(snooped || !written || cleaned, "{}: {phys:#x} of {kind} was not cleaned", house.name());
                // Snooped memory needs no maintenance, which costs time.
                assert!(!(snooped && cleaned), "{}: {phys:#x} of {kind} was cleaned for nothing", house.name());
            }
        }
        house.check();
    });
}

fn a_domain_outlives_every_handle_of_its_unit<D: Driver>() {
    for case in D::cases() {
        let house = House::<D>::up(&case);
        let [red, ..] = house.kind.streams;
        let domain = house.domain();
        house.lead(function(red), Target::Paging(&*domain)).unwrap();
        let House { memory, model, unit, spy, kind, .. } = house;
        let kept = memory.in_use();
        drop((unit, spy));
        map(&*domain, PAGE, 0x5000_0000, PAGE);
        let dma = || D::access(&model, function(red), PAGE, true);
        assert_eq!(dma(), Ok(0x5000_0000));
        unmap(&*domain, PAGE, PAGE);
        assert_eq!(dma(), Err(Refusal::NotMapped), "{}", kind.name);
        assert!(domain.translate(Iova::new(PAGE)).is_none());
        drop(domain);
        assert_eq!(dma(), Err(Refusal::Detached), "{}", kind.name);
        // Its own frames are gone; all that hardware reads stays.
        assert!(memory.in_use() < kept, "{}", kind.name);
        assert_eq!((D::violations(&model), memory.take_stale_reads()), (vec![], vec![]));
        memory.check_freed();
    }
}

fn each_flush_frees_what_became_empty_and_no_more<D: Driver>() {
    each::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let domain = house.domain_with(0, 0x4000_0000, PAGE);
        house.attach(red, &*domain);
        let before = house.memory.in_use();
        // One table; two tables; the same with a neighbour, who keeps one.
        for (places, left) in [(&[HUGE][..], 0), (&[HUGE, HUGE + LARGE], 0), (&[0x40 * HUGE, 0x41 * HUGE], 0)] {
            places.iter().for_each(|iova| map(&*domain, *iova, 0x5000_1000, LARGE));
            assert!(house.memory.in_use() >= before + places.len(), "{}", house.name());
            for (gone, iova) in places.iter().enumerate() {
                house.expect(red, *iova, Ok(0x5000_1000));
                unmap(&*domain, *iova, LARGE);
                house.expect(red, *iova, Err(Refusal::NotMapped));
                places[gone + 1..].iter().for_each(|iova| house.expect(red, *iova, Ok(0x5000_1000)));
            }
            assert!(house.memory.in_use() >= before + left, "{}", house.name());
        }
        house.expect(red, 0, Ok(0x4000_0000));
        drop(domain);
        house.check_empty();
    });
}

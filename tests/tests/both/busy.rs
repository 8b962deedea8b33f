//! A device that never stops: after every store and around every register write of the driver it tries every address, so
//! that caches are filled with each state in between. After each operation it is given exactly what the operation says.

use super::{HUGE, LARGE, PAGE};
use iommu_core::hw::{Domain, Target};
use iommu_tests::bench::{map, unmap};
use iommu_tests::house::{Driver, House, Refusal, each_of, function};
use iommu_tests::over_both;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

over_both! {
    every_operation_is_complete_when_it_returns,
}

const PROBES: [u64; 8] = [PAGE, 2 * PAGE, LARGE, 2 * LARGE - 1, HUGE, 2 * HUGE, 3 * HUGE, 0x40 * HUGE];

/// Lets the device loose.
fn start<D: Driver>(house: &House<D>) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let busy = {
        let (model, count, [near, _, far]) = (house.model.clone(), count.clone(), house.kind.streams);
        move || {
            for (id, iova) in [near, far].into_iter().flat_map(|id| PROBES.map(|iova| (id, iova))) {
                let _ = D::access(&model, function(id), iova, false);
                let _ = D::access(&model, function(id), iova, true);
            }
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    let at_store = busy.clone();
    house.memory.set_observer(Some(Box::new(move |_, _| at_store())));
    house.spy.set_hook(Some(Box::new(move |_, _| busy())));
    count
}

/// Everything that `id` is given: `mapped`, and nothing else.
#[track_caller]
fn check<D: Driver>(house: &House<D>, id: u32, mapped: &[(u64, u64)], otherwise: Refusal) {
    for iova in PROBES {
        let found = mapped.iter().find(|(at, _)| *at == iova);
        house.expect(id, iova, found.map_or(Err(otherwise), |(_, phys)| Ok(*phys)));
    }
    D::take_faults(&house.model);
}

const RED: [(u64, u64); 4] =
    [(PAGE, 0x5000_0000), (LARGE, 0x6000_0000), (2 * LARGE - 1, 0x6000_0000 + LARGE - 1), (HUGE, 6 * HUGE)];
const BLUE: [(u64, u64); 2] = [(2 * PAGE, 0x7000_0000), (0x40 * HUGE, 0x7000_1000)];

fn red<D: Driver>(house: &House<D>) -> Box<dyn Domain> {
    let domain = house.domain_with(PAGE, 0x5000_0000, PAGE);
    map(&*domain, LARGE, 0x6000_0000, LARGE);
    map(&*domain, HUGE, 6 * HUGE, HUGE);
    domain
}

fn blue<D: Driver>(house: &House<D>) -> Box<dyn Domain> {
    let domain = house.domain_with(2 * PAGE, 0x7000_0000, PAGE);
    map(&*domain, 0x40 * HUGE, 0x7000_1000, LARGE);
    domain
}

fn every_operation_is_complete_when_it_returns<D: Driver>() {
    each_of::<D>(D::every_case(), |house| {
        let count = start(house);
        let (red, blue) = (red(house), blue(house));
        let (none, gone) = (Refusal::NotMapped, Refusal::Detached);
        let [near, _, far] = house.kind.streams;
        check(house, near, &[], gone);
        for _ in 0..2 {
            house.attach(near, &*red);
            check(house, near, &RED, none);
            house.attach(near, &*blue);
            check(house, near, &BLUE, none);
            house.attach(near, &*red);
            check(house, near, &RED, none);
            // Maps where nothing was before, over negative entries where there are such; unmaps of leaves and of tables.
            map(&*red, 2 * PAGE, 0x5100_0000, PAGE);
            map(&*red, 2 * HUGE, 0x5200_0000, PAGE);
            map(&*red, 0x40 * HUGE, 0x5300_1000, LARGE);
            let more = [(2 * PAGE, 0x5100_0000), (2 * HUGE, 0x5200_0000), (0x40 * HUGE, 0x5300_1000)];
            check(house, near, &[&RED[..], &more].concat(), none);
            unmap(&*red, 0x40 * HUGE, LARGE);
            unmap(&*red, 2 * PAGE, PAGE);
            unmap(&*red, HUGE, HUGE);
            check(house, near, &[&RED[..3], &more[1..2]].concat(), none);
            unmap(&*red, 2 * HUGE, PAGE);
            map(&*red, HUGE, 6 * HUGE, HUGE);
            check(house, near, &RED, none);
            house.attach(far, &*red);
            check(house, far, &RED, none);
            house.lead(function(near), Target::Identity).unwrap();
            PROBES.iter().for_each(|iova| house.expect(near, *iova, Ok(*iova)));
            house.attach(near, &*blue);
            check(house, near, &BLUE, none);
            house.detach(near);
            house.detach(far);
            check(house, near, &[], gone);
            check(house, far, &[], gone);
        }
        house.attach(near, &*red);
        drop((red, blue));
        check(house, near, &[], gone);
        assert!(count.load(Ordering::Relaxed) > 100);
        house.memory.set_observer(None);
        house.spy.set_hook(None);
        house.check_empty();
    });
}

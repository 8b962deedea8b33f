//! A device that never stops: after every store and around every register write of the driver it tries every address, so
//! that caches are filled with each state in between. After each operation it is given exactly what the operation says.

use iommu_core::hw::{Domain, Target, Unit as _};
use iommu_models::smmuv3::FaultCode;
use iommu_tests::smmuv3::bench::{Bench, map, stream, unmap};
use iommu_tests::smmuv3::case::Case;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const LARGE: u64 = 1 << 21;
const HUGE: u64 = 1 << 30;
const PROBES: [u64; 8] = [0x1000, 0x2000, LARGE, 2 * LARGE - 1, HUGE, 2 * HUGE, 3 * HUGE, 0x40 * HUGE];

/// Lets the device loose.
fn start(bench: &Bench) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let busy = {
        let (model, count, [near, _, far]) = (bench.model.clone(), count.clone(), bench.case.streams());
        move || {
            for (sid, iova) in [near, far].into_iter().flat_map(|sid| PROBES.map(|iova| (sid, iova))) {
                let _ = model.dma(sid, None, iommu_core::addr::Iova::new(iova), 1, false);
                let _ = model.dma(sid, None, iommu_core::addr::Iova::new(iova), 1, true);
            }
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    let at_store = busy.clone();
    bench.memory.set_observer(Some(Box::new(move |_, _| at_store())));
    bench.spy.set_hook(Some(Box::new(move |_, _| busy())));
    count
}

/// Everything that `sid` is given: `mapped`, and nothing else, with the fault `otherwise`.
#[track_caller]
fn check(bench: &Bench, sid: u32, mapped: &[(u64, u64)], otherwise: FaultCode) {
    for iova in PROBES {
        let found = mapped.iter().find(|(at, _)| *at == iova);
        bench.expect(sid, iova, found.map_or(Err(otherwise), |(_, phys)| Ok(*phys)));
    }
    bench.model.take_events();
}

const RED: [(u64, u64); 4] =
    [(0x1000, 0x5000_0000), (LARGE, 0x6000_0000), (2 * LARGE - 1, 0x6000_0000 + LARGE - 1), (HUGE, 6 * HUGE)];
const BLUE: [(u64, u64); 2] = [(0x2000, 0x7000_0000), (0x40 * HUGE, 0x7000_1000)];

fn red(bench: &Bench) -> Box<dyn Domain> {
    let domain = bench.domain_with(0x1000, 0x5000_0000, 0x1000);
    map(&*domain, LARGE, 0x6000_0000, LARGE);
    map(&*domain, HUGE, 6 * HUGE, HUGE);
    domain
}

fn blue(bench: &Bench) -> Box<dyn Domain> {
    let domain = bench.domain_with(0x2000, 0x7000_0000, 0x1000);
    map(&*domain, 0x40 * HUGE, 0x7000_1000, LARGE);
    domain
}

#[test]
fn every_operation_is_complete_when_it_returns() {
    for case in Case::all() {
        let bench = Bench::up(&case);
        let count = start(&bench);
        let (red, blue) = (red(&bench), blue(&bench));
        let (none, gone) = (case.not_mapped(), FaultCode::NONE);
        let [near, _, far] = case.streams();
        check(&bench, near, &[], case.untouched());
        for _ in 0..2 {
            bench.attach(near, &*red);
            check(&bench, near, &RED, none);
            bench.attach(near, &*blue);
            check(&bench, near, &BLUE, none);
            bench.attach(near, &*red);
            check(&bench, near, &RED, none);
            // Maps where nothing was before; unmaps of leaves and of tables.
            map(&*red, 0x2000, 0x5100_0000, 0x1000);
            map(&*red, 2 * HUGE, 0x5200_0000, 0x1000);
            map(&*red, 0x40 * HUGE, 0x5300_1000, LARGE);
            let more = [(0x2000, 0x5100_0000), (2 * HUGE, 0x5200_0000), (0x40 * HUGE, 0x5300_1000)];
            check(&bench, near, &[&RED[..], &more].concat(), none);
            unmap(&*red, 0x40 * HUGE, LARGE);
            unmap(&*red, 0x2000, 0x1000);
            unmap(&*red, HUGE, HUGE);
            check(&bench, near, &[&RED[..3], &more[1..2]].concat(), none);
            unmap(&*red, 2 * HUGE, 0x1000);
            map(&*red, HUGE, 6 * HUGE, HUGE);
            check(&bench, near, &RED, none);
            bench.attach(far, &*red);
            check(&bench, far, &RED, none);
            bench.unit.attach(stream(near), Target::Identity).unwrap();
            PROBES.iter().for_each(|iova| bench.expect(near, *iova, Ok(*iova)));
            bench.attach(near, &*blue);
            check(&bench, near, &BLUE, none);
            bench.detach(near);
            bench.detach(far);
            check(&bench, near, &[], gone);
            check(&bench, far, &[], gone);
        }
        bench.attach(near, &*red);
        drop((red, blue));
        check(&bench, near, &[], gone);
        assert!(count.load(Ordering::Relaxed) > 100);
        bench.memory.set_observer(None);
        bench.spy.set_hook(None);
        bench.check();
        assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
    }
}

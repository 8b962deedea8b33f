//! A device that never stops: after every store and around every register write of the driver it tries every address, so
//! that caches are filled with each state in between. After each operation it is given exactly what the operation says.

use iommu_core::hw::{Domain, Target, Unit as _};
use iommu_models::vtd::{Config, FaultCode};
use iommu_tests::bench::{Bench, map, stream, unmap};
use iommu_tests::case::Case;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const RID: u16 = 0x0108;
const NEW: u16 = 0x0280;
const LARGE: u64 = 1 << 21;
const HUGE: u64 = 1 << 30;
const PROBES: [u64; 8] = [0x1000, 0x2000, LARGE, 2 * LARGE - 1, HUGE, 2 * HUGE, 3 * HUGE, 0x40 * HUGE];

/// Lets the device loose.
fn start(bench: &Bench) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let busy = {
        let (model, count) = (bench.model.clone(), count.clone());
        move || {
            for (requester, iova) in [RID, NEW].into_iter().flat_map(|rid| PROBES.map(|iova| (rid, iova))) {
                let _ = model.dma(requester, None, iommu_core::addr::Iova::new(iova), 1, false);
                let _ = model.dma(requester, None, iommu_core::addr::Iova::new(iova), 1, true);
            }
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    let at_store = busy.clone();
    bench.memory.set_observer(Some(Box::new(move |_, _| at_store())));
    bench.spy.set_hook(Some(Box::new(move |_, _| busy())));
    count
}

/// Everything that `rid` is given: `mapped`, and nothing else, with the fault `otherwise`.
#[track_caller]
fn check(bench: &Bench, rid: u16, mapped: &[(u64, u64)], otherwise: FaultCode) {
    for iova in PROBES {
        let found = mapped.iter().find(|(at, _)| *at == iova);
        bench.expect(rid, iova, found.map_or(Err(otherwise), |(_, phys)| Ok(*phys)));
    }
    bench.model.take_faults();
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
    for case in Case::all().into_iter().flat_map(|case| [case.with_cap(Config::CAP_RWBF, true), case]) {
        let bench = Bench::up(&case);
        let count = start(&bench);
        let (red, blue) = (red(&bench), blue(&bench));
        let (none, gone) = (case.not_mapped(), FaultCode::CONTEXT_NOT_PRESENT);
        check(&bench, RID, &[], FaultCode::ROOT_NOT_PRESENT);
        for _ in 0..2 {
            bench.attach(RID, &*red);
            check(&bench, RID, &RED, none);
            bench.attach(RID, &*blue);
            check(&bench, RID, &BLUE, none);
            bench.attach(RID, &*red);
            check(&bench, RID, &RED, none);
            // Maps over negative entries of every level; unmaps of leaves and of tables.
            map(&*red, 0x2000, 0x5100_0000, 0x1000);
            map(&*red, 2 * HUGE, 0x5200_0000, 0x1000);
            map(&*red, 0x40 * HUGE, 0x5300_1000, LARGE);
            let more = [(0x2000, 0x5100_0000), (2 * HUGE, 0x5200_0000), (0x40 * HUGE, 0x5300_1000)];
            check(&bench, RID, &[&RED[..], &more].concat(), none);
            unmap(&*red, 0x40 * HUGE, LARGE);
            unmap(&*red, 0x2000, 0x1000);
            unmap(&*red, HUGE, HUGE);
            check(&bench, RID, &[&RED[..3], &more[1..2]].concat(), none);
            unmap(&*red, 2 * HUGE, 0x1000);
            map(&*red, HUGE, 6 * HUGE, HUGE);
            check(&bench, RID, &RED, none);
            bench.attach(NEW, &*red);
            check(&bench, NEW, &RED, none);
            bench.unit.attach(stream(RID), Target::Identity).unwrap();
            PROBES.iter().for_each(|iova| bench.expect(RID, *iova, Ok(*iova)));
            bench.attach(RID, &*blue);
            check(&bench, RID, &BLUE, none);
            bench.detach(RID);
            bench.detach(NEW);
            check(&bench, RID, &[], gone);
            check(&bench, NEW, &[], gone);
        }
        bench.attach(RID, &*red);
        drop((red, blue));
        check(&bench, RID, &[], gone);
        assert!(count.load(Ordering::Relaxed) > 100);
        bench.memory.set_observer(None);
        bench.spy.set_hook(None);
        bench.check();
        assert_eq!(bench.memory.in_use(), bench.kept(), "{}", case.name);
    }
}

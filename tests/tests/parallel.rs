//! Maps of disjoint ranges of one domain do not wait for each other: not while one waits for memory, and not while it
//! waits for hardware.

use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{Domain, DomainConfig, Gather, HwError, Prot, Target, Unit};
use iommu_models::{smmuv3, vtd};
use iommu_tests::bench::{extent, map, range, unmap};
use iommu_tests::hooked::{Hooked, at_alloc, at_relax};
use iommu_tests::smmuv3 as smmu;
use iommu_tests::{bench, case, spy};
use std::sync::Arc;
use std::sync::mpsc::channel;

const LARGE: u64 = 1 << 21;
const PHYS: u64 = 0x10_0000_0000;
/// Looks that a CPU takes while another is busy elsewhere: the queue may be in use for a moment, for no longer.
const LOOKS: usize = 10_000;

type Work = Box<dyn FnOnce() + Send>;

/// A domain on some unit, and how its memory is reached.
struct Rig {
    name: String,
    domain: Arc<dyn Domain>,
    /// A map is followed by an invalidation.
    caching: bool,
    reach: Box<dyn Fn(u64) -> Option<u64>>,
    /// Calls a test while the unit is given work.
    at_doorbell: Box<dyn Fn(Work)>,
    check: Box<dyn Fn()>,
}

fn each(test: impl Fn(Rig)) {
    for case in case::Case::all() {
        let memory = bench::memory(case.non_coherent);
        let model = Arc::new(vtd::Model::new(case.config, memory.clone()));
        let spy = Arc::new(spy::Spy::new(model.clone()));
        let config = bench::config_for(&case.config);
        let unit = iommu_vtd::Unit::bring_up(Hooked(memory.clone()), spy.clone(), config).unwrap();
        let domain: Arc<dyn Domain> = unit.create_domain(&DomainConfig::new(case.stage)).unwrap().into();
        unit.attach(bench::stream(8), Target::Paging(&*domain)).unwrap();
        let hardware = model.clone();
        test(Rig {
            name: format!("VT-d, {}", case.name),
            domain,
            caching: case.caching(),
            reach: Box::new(move |at| Some(hardware.dma(8, None, Iova::new(at), 1, true).ok()?[0].start.get())),
            at_doorbell: Box::new(move |work| {
                let mut work = Some(work);
                let hook = move |write: spy::Write, moment| {
                    if (write.offset, moment) == (spy::IQT, spy::Moment::Before) {
                        work.take().into_iter().for_each(|work| work());
                    }
                };
                spy.set_hook(Some(Box::new(hook)));
            }),
            check: Box::new(move || {
                assert_eq!((model.violations(), memory.take_stale_reads()), (vec![], vec![]));
                memory.check_freed();
            }),
        });
    }
    for case in smmu::case::Case::all() {
        let memory = smmu::bench::memory(case.non_coherent);
        let model = Arc::new(smmuv3::Model::new(case.config, memory.clone()));
        let spy = Arc::new(smmu::spy::Spy::new(model.clone()));
        let config = smmu::bench::config_for(&case);
        let unit = iommu_smmuv3::Unit::bring_up(Hooked(memory.clone()), spy.clone(), config).unwrap();
        let domain: Arc<dyn Domain> = unit.create_domain(&DomainConfig::new(case.stage)).unwrap().into();
        unit.attach(smmu::bench::stream(8), Target::Paging(&*domain)).unwrap();
        let hardware = model.clone();
        test(Rig {
            name: format!("SMMUv3, {}", case.name),
            domain,
            caching: false,
            reach: Box::new(move |at| Some(hardware.dma(8, None, Iova::new(at), 1, true).ok()?[0].start.get())),
            at_doorbell: Box::new(move |work| {
                let mut work = Some(work);
                let hook = move |write: spy::Write, moment| {
                    if (write.offset, moment) == (smmu::spy::CMDQ_PROD, spy::Moment::Before) {
                        work.take().into_iter().for_each(|work| work());
                    }
                };
                spy.set_hook(Some(Box::new(hook)));
            }),
            check: Box::new(move || {
                assert_eq!((model.violations(), memory.take_stale_reads()), (vec![], vec![]));
                memory.check_freed();
            }),
        });
    }
}

/// Does `work` on a CPU of its own, which must not wait for long.
fn on_another_cpu(work: impl FnOnce() + Send + 'static) {
    let other = std::thread::spawn(|| {
        let mut looks = 0;
        at_relax(move || {
            looks += 1;
            assert!(looks < LOOKS, "a CPU waits for one that works elsewhere");
        });
        work();
    });
    other.join().expect("the other CPU gets its work done");
}

/// Maps, looks up and unmaps addresses beside the table at `LARGE`.
fn work_elsewhere(domain: &dyn Domain, flush: bool) {
    for (at, len) in [(LARGE - 0x1000, 0x1000), (2 * LARGE, 0x3000), (4 * LARGE, LARGE), (0, 0x1000)] {
        map(domain, at, PHYS + at, len);
        assert_eq!(domain.translate(Iova::new(at)).map(|to| to.phys), Some(PhysAddr::new(PHYS + at)));
        let mut gather = Gather::new();
        domain.unmap(range(at, len), &mut gather).unwrap();
        // Otherwise the queue is in use by whoever waits; the addresses are not used again.
        if flush {
            domain.flush(&mut gather).unwrap();
        }
    }
}

#[test]
fn a_map_that_waits_for_memory_does_not_keep_others_from_theirs() {
    each(|rig| {
        let domain = rig.domain.clone();
        at_alloc(move || on_another_cpu(move || work_elsewhere(&*domain, true)));
        // Pages, as the memory is not aligned for more: a table has to be made.
        map(&*rig.domain, LARGE, PHYS + 0x1000, LARGE);
        assert_eq!((rig.reach)(LARGE), Some(PHYS + 0x1000), "{}", rig.name);
        assert_eq!((rig.reach)(2 * LARGE), None, "{}", rig.name);
        unmap(&*rig.domain, LARGE, LARGE);
        assert_eq!((rig.reach)(LARGE), None, "{}", rig.name);
        (rig.check)();
    });
}

#[test]
fn a_map_that_waits_for_hardware_does_not_keep_others_from_theirs() {
    each(|rig| {
        // With caching mode others need the queue as well: that is one for all.
        if rig.caching {
            return;
        }
        // An empty table stands where the large leaf goes.
        map(&*rig.domain, LARGE, PHYS, 0x1000);
        unmap(&*rig.domain, LARGE, 0x1000);
        let (domain, (say, said)) = (rig.domain.clone(), channel());
        (rig.at_doorbell)(Box::new(move || {
            on_another_cpu(move || work_elsewhere(&*domain, false));
            say.send(()).unwrap();
        }));
        map(&*rig.domain, LARGE, PHYS, LARGE);
        said.try_recv().expect("there was something to wait for");
        assert_eq!((rig.reach)(2 * LARGE - 1), Some(PHYS + LARGE - 1), "{}", rig.name);
        (rig.check)();
    });
}

/// Whoever comes for the same addresses waits until the map is done, and then finds it.
#[test]
fn a_map_of_the_same_addresses_waits_for_its_turn() {
    each(|rig| {
        let (domain, (say, waits)) = (rig.domain.clone(), channel());
        let (sent, outcome) = channel();
        at_alloc(move || {
            std::thread::spawn(move || {
                let mut looks = 0;
                at_relax(move || {
                    looks += 1;
                    if looks == 20 {
                        say.send(()).unwrap();
                    }
                    std::thread::yield_now();
                });
                let page = [extent(PHYS + 0x5000, 0x1000)];
                let mapped = domain.map(Iova::new(LARGE + 0x3000), &page, Prot::READ);
                sent.send((mapped, domain.translate(Iova::new(LARGE + 0x3000)).map(|to| to.phys.get()))).unwrap();
            });
            waits.recv().expect("the other CPU waits");
        });
        map(&*rig.domain, LARGE, PHYS + 0x1000, LARGE);
        let taken = Err(HwError::AlreadyMapped { iova: Iova::new(LARGE + 0x3000) });
        assert_eq!(outcome.recv(), Ok((taken, Some(PHYS + 0x4000))), "{}", rig.name);
        (rig.check)();
    });
}

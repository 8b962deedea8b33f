//! Maps of disjoint ranges of one domain do not wait for each other: not while one waits for memory, and not while it
//! waits for hardware.

use super::LARGE;
use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::{Domain, Gather, HwError, Prot};
use iommu_tests::bench::{extent, map, range, unmap};
use iommu_tests::hooked::{at_alloc, at_relax};
use iommu_tests::house::{Driver, House, Refusal, each};
use iommu_tests::over_both;
use std::sync::Arc;
use std::sync::mpsc::channel;

const PHYS: u64 = 0x10_0000_0000;
/// Looks that a CPU takes while another is busy elsewhere: the queue may be in use for a moment, for no longer.
const LOOKS: usize = 10_000;

over_both! {
    a_map_that_waits_for_memory_does_not_keep_others_from_theirs,
    a_map_that_waits_for_hardware_does_not_keep_others_from_theirs,
    a_map_of_the_same_addresses_waits_for_its_turn,
}

/// A domain that a stream leads to.
fn rig<D: Driver>(house: &House<D>) -> (u32, Arc<dyn Domain>) {
    let domain: Arc<dyn Domain> = house.domain().into();
    let [red, ..] = house.kind.streams;
    house.attach(red, &*domain);
    (red, domain)
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

fn a_map_that_waits_for_memory_does_not_keep_others_from_theirs<D: Driver>() {
    each::<D>(|house| {
        let (red, shared) = rig(house);
        let domain = shared.clone();
        at_alloc(move || on_another_cpu(move || work_elsewhere(&*domain, true)));
        // Pages, as the memory is not aligned for more: a table has to be made.
        map(&*shared, LARGE, PHYS + 0x1000, LARGE);
        assert_eq!(house.write(red, LARGE), Ok(PHYS + 0x1000), "{}", house.name());
        assert_eq!(house.write(red, 2 * LARGE), Err(Refusal::NotMapped), "{}", house.name());
        unmap(&*shared, LARGE, LARGE);
        assert_eq!(house.write(red, LARGE), Err(Refusal::NotMapped), "{}", house.name());
        house.check();
    });
}

fn a_map_that_waits_for_hardware_does_not_keep_others_from_theirs<D: Driver>() {
    each::<D>(|house| {
        // Where each map needs the queue the others need it as well, and that is one for all.
        if house.kind.keeps_absence {
            return;
        }
        let (red, shared) = rig(house);
        // An empty table stands where the large leaf goes.
        map(&*shared, LARGE, PHYS, 0x1000);
        unmap(&*shared, LARGE, 0x1000);
        let (domain, (say, said)) = (shared.clone(), channel());
        let mut domain = Some(domain);
        house.at_doorbell(move || {
            if let Some(domain) = domain.take() {
                on_another_cpu(move || work_elsewhere(&*domain, false));
                say.send(()).unwrap();
            }
        });
        map(&*shared, LARGE, PHYS, LARGE);
        said.try_recv().expect("there was something to wait for");
        assert_eq!(house.write(red, 2 * LARGE - 1), Ok(PHYS + LARGE - 1), "{}", house.name());
        house.check();
    });
}

/// Whoever comes for the same addresses waits until the map is done, and then finds it.
fn a_map_of_the_same_addresses_waits_for_its_turn<D: Driver>() {
    each::<D>(|house| {
        let (_, shared) = rig(house);
        let (domain, (say, waits)) = (shared.clone(), channel());
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
        map(&*shared, LARGE, PHYS + 0x1000, LARGE);
        let taken = Err(HwError::AlreadyMapped { iova: Iova::new(LARGE + 0x3000) });
        assert_eq!(outcome.recv(), Ok((taken, Some(PHYS + 0x4000))), "{}", house.name());
        house.check();
    });
}

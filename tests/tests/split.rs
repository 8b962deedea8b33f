//! A split of a leaf changes no address, not for a moment; the parts can be unmapped alone.

use iommu_core::addr::Iova;
use iommu_core::hw::{Domain, HwError, Transition};
use iommu_models::memory::TestMemory;
use iommu_tests::bench::{map, try_unmap, unmap};
use iommu_tests::{bench, case, smmuv3};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

const PAGE: u64 = 0x1000;
const LARGE: u64 = 1 << 21;
const HUGE: u64 = 1 << 30;
const PHYS: u64 = 64 * HUGE;

/// Where a write of one byte goes.
type Reach = Arc<dyn Fn(u64) -> Option<u64> + Send + Sync>;

/// A domain on some unit, with a stream attached.
struct Rig {
    name: String,
    domain: Box<dyn Domain>,
    memory: Arc<TestMemory>,
    reach: Reach,
    /// What hardware was asked to forget since the last look.
    invalidations: Box<dyn Fn() -> usize>,
    check: Box<dyn Fn()>,
}

fn each(test: impl Fn(&Rig)) {
    for case in case::Case::all() {
        let bench = bench::Bench::up(&case);
        let (domain, memory, model) = (bench.domain(), bench.memory.clone(), bench.model.clone());
        bench.attach(8, &*domain);
        let reach = move |at| Some(model.dma(8, None, Iova::new(at), 1, true).ok()?[0].start.get());
        let (name, bench) = (format!("VT-d, {}", case.name), Rc::new(bench));
        let (reach, log) = (Arc::new(reach), bench.clone());
        let invalidations = Box::new(move || log.invalidations().len());
        test(&Rig { name, domain, memory, reach, invalidations, check: Box::new(move || bench.check()) });
    }
    for case in smmuv3::case::Case::all() {
        let bench = smmuv3::bench::Bench::up(&case);
        let (domain, memory, model) = (bench.domain(), bench.memory.clone(), bench.model.clone());
        bench.attach(8, &*domain);
        let reach = move |at| Some(model.dma(8, None, Iova::new(at), 1, true).ok()?[0].start.get());
        let (name, bench) = (format!("SMMUv3, {}", case.name), Rc::new(bench));
        let (reach, log) = (Arc::new(reach), bench.clone());
        let invalidations = Box::new(move || log.commands().len());
        test(&Rig { name, domain, memory, reach, invalidations, check: Box::new(move || bench.check()) });
    }
}

/// Addresses in and around `len` bytes from `start`, and around `at`: with where they lead.
fn probes(start: u64, len: u64, at: u64) -> Vec<(u64, Option<u64>)> {
    let inside = [start, start + PAGE, at - PAGE, at - 1, at, at + PAGE - 1, start + len / 2, start + len - 1];
    let lead = |at: u64| (at, (start..start + len).contains(&at).then_some(PHYS + at));
    inside.into_iter().chain([start - 1, start + len]).map(lead).collect()
}

/// Splits while a device goes on: after every store it finds each address as before, or, where the change goes through
/// blocked, nothing there.
fn split_watched(rig: &Rig, at: u64, probes: &[(u64, Option<u64>)]) -> Transition {
    let seen = Arc::new(Mutex::new((0, 0)));
    let (reach, watched, counts) = (rig.reach.clone(), probes.to_vec(), seen.clone());
    rig.memory.set_observer(Some(Box::new(move |_, _| {
        for (at, expected) in &watched {
            let found = reach(*at);
            let mut counts = counts.lock().unwrap();
            counts.0 += 1;
            if found.is_none() && expected.is_some() {
                counts.1 += 1;
            } else {
                assert_eq!(found, *expected, "{at:#x} in the middle of a split");
            }
        }
    })));
    let transition = rig.domain.split(Iova::new(at)).unwrap();
    rig.memory.set_observer(None);
    let (looks, refused) = *seen.lock().unwrap();
    assert!(looks > 0, "{}: nothing was stored", rig.name);
    if transition == Transition::Hitless {
        assert_eq!(refused, 0, "{}: {at:#x}", rig.name);
    }
    transition
}

#[test]
fn each_address_leads_where_it_did_and_either_part_can_go_alone() {
    each(|rig| {
        let domain = &*rig.domain;
        let geometry = domain.geometry();
        // Page by page, a table that stays, and both sizes of large leaves; at each kind of place.
        for (size, offset) in [
            (LARGE, PAGE),
            (LARGE, LARGE / 2),
            (LARGE, LARGE - PAGE),
            (HUGE, LARGE),
            (HUGE, HUGE / 2 + 5 * PAGE),
            (HUGE, HUGE - PAGE),
        ] {
            if !geometry.page_sizes.contains(size) {
                continue;
            }
            let (start, at) = (8 * HUGE, 8 * HUGE + offset);
            map(domain, start, PHYS + start, size);
            assert_eq!(domain.translate(Iova::new(start)).unwrap().page_size, size, "{}", rig.name);
            let mut all = probes(start, size, at);
            let compare = |all: &[(u64, Option<u64>)], when: &str| {
                for (at, expected) in all {
                    assert_eq!((rig.reach)(*at), *expected, "{}: {at:#x} {when}", rig.name);
                }
            };
            // The device has what it can of the large leaf.
            compare(&all, "before");
            let part = try_unmap(domain, start, offset).unwrap_err();
            assert!(matches!(part, HwError::SplitsLeaf { .. }), "{}: {part}", rig.name);
            (rig.invalidations)();
            split_watched(rig, at, &all);
            assert_ne!((rig.invalidations)(), 0, "{}: hardware may have leaves of both sizes", rig.name);
            compare(&all, "after the split");
            for probe in [at - 1, at] {
                let found = domain.translate(Iova::new(probe)).unwrap();
                assert_eq!(found.phys.get(), PHYS + probe);
                let leaf = probe & !(found.page_size - 1);
                assert!(leaf + found.page_size <= at || at <= leaf, "{}: {probe:#x}", rig.name);
            }
            // Once more is nothing to do.
            assert_eq!(domain.split(Iova::new(at)), Ok(Transition::Hitless));
            assert_eq!((rig.invalidations)(), 0, "{}", rig.name);

            unmap(domain, start, offset);
            all.iter_mut().filter(|(probe, _)| *probe < at).for_each(|(_, expected)| *expected = None);
            compare(&all, "after the lower part went");
            unmap(domain, at, size - offset);
            all.iter_mut().for_each(|(_, expected)| *expected = None);
            compare(&all, "after the upper part went");
            // The large leaf finds its place again.
            map(domain, start, PHYS + start, size);
            assert_eq!((rig.reach)(at), Some(PHYS + at), "{}", rig.name);
            unmap(domain, start, size);
        }
        (rig.check)();
    });
}

#[test]
fn what_cannot_be_split_is_refused_or_needs_nothing() {
    each(|rig| {
        let (domain, last) = (&*rig.domain, rig.domain.geometry().aperture.last());
        map(domain, LARGE, PHYS, LARGE);
        for at in [LARGE + 1, LARGE + PAGE / 2, u64::MAX] {
            let refused = Err(HwError::Misaligned { value: at, align: PAGE });
            assert_eq!(domain.split(Iova::new(at)), refused, "{}", rig.name);
        }
        let above = last.wrapping_add(1);
        assert_eq!(domain.split(above), Err(HwError::OutOfRange { iova: above, len: 1 }), "{}", rig.name);
        rig.memory.set_observer(Some(Box::new(|_, phys| panic!("a store to {phys}"))));
        for at in [0, PAGE, LARGE, 2 * LARGE, 2 * LARGE + PAGE, last.get() - PAGE + 1] {
            assert_eq!(domain.split(Iova::new(at)), Ok(Transition::Hitless), "{}: {at:#x}", rig.name);
        }
        rig.memory.set_observer(None);
        rig.memory.exhaust_after(0);
        assert_eq!(domain.split(Iova::new(LARGE + PAGE)), Err(HwError::OutOfMemory), "{}", rig.name);
        rig.memory.fail_never();
        assert_eq!((rig.reach)(LARGE + PAGE), Some(PHYS + PAGE), "{}", rig.name);
        (rig.check)();
    });
}

//! A split of a leaf changes no address, not for a moment; the parts can be unmapped alone.

use super::{HUGE, LARGE, PAGE};
use iommu_core::addr::Iova;
use iommu_core::hw::{Domain, HwError, Transition};
use iommu_tests::bench::{map, try_unmap, unmap};
use iommu_tests::house::{Driver, House, Work, each, function};
use iommu_tests::over_both;
use std::sync::{Arc, Mutex};

const PHYS: u64 = 32 * HUGE;

over_both! {
    each_address_leads_where_it_did_and_either_part_can_go_alone,
    what_cannot_be_split_is_refused_or_needs_nothing,
}

/// Addresses in and around `len` bytes from `start`, and around `at`: with where they lead.
fn probes(start: u64, len: u64, at: u64) -> Vec<(u64, Option<u64>)> {
    let inside = [start, start + PAGE, at - PAGE, at - 1, at, at + PAGE - 1, start + len / 2, start + len - 1];
    let lead = |at: u64| (at, (start..start + len).contains(&at).then_some(PHYS + at));
    inside.into_iter().chain([start - 1, start + len]).map(lead).collect()
}

/// Splits while a device goes on: after every store it finds each address as before, or, where the change goes through
/// blocked, nothing there.
fn split_watched<D: Driver>(
    house: &House<D>,
    domain: &dyn Domain,
    at: u64,
    probes: &[(u64, Option<u64>)],
) -> Transition {
    let seen = Arc::new(Mutex::new((0, 0)));
    let (model, red, watched, counts) = (house.model.clone(), house.kind.streams[0], probes.to_vec(), seen.clone());
    house.memory.set_observer(Some(Box::new(move |_, _| {
        for (at, expected) in &watched {
            let found = D::access(&model, function(red), *at, true).ok();
            let mut counts = counts.lock().unwrap();
            counts.0 += 1;
            if found.is_none() && expected.is_some() {
                counts.1 += 1;
            } else {
                assert_eq!(found, *expected, "{at:#x} in the middle of a split");
            }
        }
    })));
    let transition = domain.split(Iova::new(at)).unwrap();
    house.memory.set_observer(None);
    let (looks, refused) = *seen.lock().unwrap();
    assert!(looks > 0, "{}: nothing was stored", house.name());
    if transition == Transition::Hitless {
        assert_eq!(refused, 0, "{}: {at:#x}", house.name());
    }
    transition
}

fn each_address_leads_where_it_did_and_either_part_can_go_alone<D: Driver>() {
    each::<D>(|house| {
        let domain = &*house.domain();
        let [red, ..] = house.kind.streams;
        house.attach(red, domain);
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
            assert_eq!(domain.translate(Iova::new(start)).unwrap().page_size, size, "{}", house.name());
            let mut all = probes(start, size, at);
            let compare = |all: &[(u64, Option<u64>)], when: &str| {
                for (at, expected) in all {
                    assert_eq!(house.write(red, *at).ok(), *expected, "{}: {at:#x} {when}", house.name());
                }
            };
            // The device has what it can of the large leaf.
            compare(&all, "before");
            let part = try_unmap(domain, start, offset).unwrap_err();
            assert!(matches!(part, HwError::SplitsLeaf { .. }), "{}: {part}", house.name());
            house.take_work();
            split_watched(house, domain, at, &all);
            assert_ne!(house.take_work().requests, 0, "{}: hardware may have leaves of both sizes", house.name());
            compare(&all, "after the split");
            for probe in [at - 1, at] {
                let found = domain.translate(Iova::new(probe)).unwrap();
                assert_eq!(found.phys.get(), PHYS + probe);
                let leaf = probe & !(found.page_size - 1);
                assert!(leaf + found.page_size <= at || at <= leaf, "{}: {probe:#x}", house.name());
            }
            // Once more is nothing to do.
            assert_eq!(domain.split(Iova::new(at)), Ok(Transition::Hitless));
            assert_eq!(house.take_work(), Work::default(), "{}", house.name());

            unmap(domain, start, offset);
            all.iter_mut().filter(|(probe, _)| *probe < at).for_each(|(_, expected)| *expected = None);
            compare(&all, "after the lower part went");
            unmap(domain, at, size - offset);
            all.iter_mut().for_each(|(_, expected)| *expected = None);
            compare(&all, "after the upper part went");
            // The large leaf finds its place again.
            map(domain, start, PHYS + start, size);
            assert_eq!(house.write(red, at).ok(), Some(PHYS + at), "{}", house.name());
            unmap(domain, start, size);
        }
        house.check();
    });
}

fn what_cannot_be_split_is_refused_or_needs_nothing<D: Driver>() {
    each::<D>(|house| {
        let domain = &*house.domain();
        let ([red, ..], last) = (house.kind.streams, domain.geometry().aperture.last());
        house.attach(red, domain);
        map(domain, LARGE, PHYS, LARGE);
        for at in [LARGE + 1, LARGE + PAGE / 2, u64::MAX] {
            let refused = Err(HwError::Misaligned { value: at, align: PAGE });
            assert_eq!(domain.split(Iova::new(at)), refused, "{}", house.name());
        }
        let above = last.wrapping_add(1);
        assert_eq!(domain.split(above), Err(HwError::OutOfRange { iova: above, len: 1 }), "{}", house.name());
        house.memory.set_observer(Some(Box::new(|_, phys| panic!("a store to {phys}"))));
        for at in [0, PAGE, LARGE, 2 * LARGE, 2 * LARGE + PAGE, last.get() - PAGE + 1] {
            assert_eq!(domain.split(Iova::new(at)), Ok(Transition::Hitless), "{}: {at:#x}", house.name());
        }
        house.memory.set_observer(None);
        house.memory.exhaust_after(0);
        assert_eq!(domain.split(Iova::new(LARGE + PAGE)), Err(HwError::OutOfMemory), "{}", house.name());
        house.memory.fail_never();
        assert_eq!(house.write(red, LARGE + PAGE).ok(), Some(PHYS + PAGE), "{}", house.name());
        house.check();
    });
}

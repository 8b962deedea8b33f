//! A stream counts among the users of a domain from before its entry can be followed until hardware has confirmed that it
//! forgot it: what is taken out of the domain after any store in between is out of reach once that is confirmed.

use super::PAGE;
use iommu_core::hw::{Domain, Target};
use iommu_tests::bench::{map, unmap};
use iommu_tests::hooked::at_store;
use iommu_tests::house::{Driver, House, Refusal, each, frames, function, part};
use iommu_tests::over_both;
use std::cell::Cell;
use std::rc::Rc;

/// Pages of a domain: more than an operation makes stores to structures and cleans.
const PAGES: u64 = 128;

over_both! {
    a_stream_is_a_user_before_its_entry_can_be_followed,
    a_stream_is_a_user_until_hardware_has_forgotten_its_entry,
    what_is_taken_out_while_nobody_leads_there_is_gone_when_somebody_comes,
}

/// The first byte of what a domain leads to: not aligned for more than pages.
const fn first(domain: u64) -> u64 {
    ((domain + 1) << 33) + PAGE
}

fn domain<D: Driver>(house: &House<D>, number: u64) -> Rc<Box<dyn Domain>> {
    Rc::new(house.domain_with(0, first(number), PAGES * PAGE))
}

/// After each store of `operation` to structures another page of `domain`, the first one made, is made use of and taken
/// out. Returns how often the page was within reach before.
fn takes_out_meanwhile<D: Driver>(house: &House<D>, domain: &Rc<Box<dyn Domain>>, operation: impl FnOnce()) -> usize {
    // Stores to queues are made under a lock that a flush takes; tables and structures are made before they are led to.
    let queues = D::queues(&house.unit);
    let [red, ..] = house.kind.streams;
    let (model, memory) = (house.model.clone(), house.memory.clone());
    let (taken, name) = (domain.clone(), house.kind.name.clone());
    let (pages, found) = (Cell::new(0), Rc::new(Cell::new(0)));
    let count = found.clone();
    at_store(Some(Box::new(move |at| {
        let frame = at.get() & !0xfff;
        // What hardware does not come to changes nothing for it.
        if queues.contains(&frame) || !frames::<D>(&model, &memory, function(red), 0).contains(&frame) {
            return;
        }
        let page = pages.replace(pages.get() + 1);
        assert!(page < PAGES, "{name}: {page} stores");
        let reaches = || D::access(&model, function(red), page * PAGE, true) == Ok(first(0) + page * PAGE);
        count.set(count.get() + usize::from(reaches()));
        unmap(&**taken, page * PAGE, PAGE);
        assert!(!reaches(), "{name}: within reach after store {page}, though taken out");
    })));
    operation();
    at_store(None);
    house.check();
    found.get()
}

fn a_stream_is_a_user_before_its_entry_can_be_followed<D: Driver>() {
    each::<D>(|house| {
        let domain = domain(house, 0);
        let found = takes_out_meanwhile(house, &domain, || {
            house.attach(house.kind.streams[0], &**domain);
        });
        // Where hardware keeps that there is no entry, one that is looked for early is hidden until the attach is over.
        assert!(found > 0 || house.kind.keeps_no_entry, "{}: it was never within reach", house.name());
    });
}

fn a_stream_is_a_user_until_hardware_has_forgotten_its_entry<D: Driver>() {
    // Replaced, and blocked.
    for replaced in [true, false] {
        each::<D>(|house| {
            let [red, ..] = house.kind.streams;
            let (left, other) = (domain(house, 0), house.domain());
            house.attach(red, &**left);
            map(&*other, 0, first(1), PAGES * PAGE);
            // All of them are cached.
            (0..PAGES).for_each(|page| house.expect(red, page * PAGE, Ok(first(0) + page * PAGE)));
            let found = takes_out_meanwhile(house, &left, || {
                if replaced {
                    house.attach(red, &*other);
                } else {
                    house.detach(red);
                }
            });
            assert!(found > 0, "{}: it was never within reach", house.name());
        });
    }
}

/// Nobody is told of what is taken out of a domain without users, so whoever left it left nothing cached: by a detach, for
/// identity, for another domain; a function, and a part of it where there are parts.
fn what_is_taken_out_while_nobody_leads_there_is_gone_when_somebody_comes<D: Driver>() {
    each::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let (one, other) = (house.domain(), house.domain_with(0, first(1), PAGE));
        let parts = house.capabilities().pasid_bits != 0 && house.kind.stage_of_parts;
        for stream in [function(red)].into_iter().chain(parts.then(|| part(red, 1))) {
            for target in [Target::Blocked, Target::Identity, Target::Paging(&*other)] {
                map(&*one, 0, first(0), PAGE);
                house.lead(stream, Target::Paging(&*one)).unwrap();
                house.expect_of(stream, 0, Ok(first(0)));
                house.lead(stream, target).unwrap();
                unmap(&*one, 0, PAGE);
                house.lead(stream, Target::Paging(&*one)).unwrap();
                house.expect_of(stream, 0, Err(Refusal::NotMapped));
                house.lead(stream, Target::Blocked).unwrap();
            }
        }
        house.check();
    });
}

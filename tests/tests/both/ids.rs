//! Domain ids (SMMUv3: ASIDs and VMIDs) live until hardware has confirmed that it forgot them; then they rest until the
//! others had their turn. One that hardware did not let go of never comes back.

use super::PAGE;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{Domain, HwError};
use iommu_models::memory::TestMemory;
use iommu_tests::bench::{BASE, map};
use iommu_tests::house::{Driver, House, Queue, Refusal, each, function};
use iommu_tests::over_both;
use std::collections::BTreeSet;
use std::sync::Arc;

over_both! {
    an_id_that_was_flushed_rests_until_all_others_had_their_turn,
    an_id_that_was_flushed_comes_back_when_the_others_had_their_turn,
    an_id_that_was_not_flushed_is_never_used_again,
    an_id_that_hardware_did_not_let_go_of_is_not_given_again,
    memory_that_runs_out_costs_no_id,
    no_two_domains_have_one_id,
}

/// A unit with room for tables of as many domains as there can be.
fn roomy<D: Driver>(case: &D::Case) -> House<D> {
    House::up_on(case, Arc::new(TestMemory::new(PhysAddr::new(BASE), 8192)))
}

/// Domains, until there are no more.
fn all_that_fit<D: Driver>(house: &House<D>) -> Vec<Box<dyn Domain>> {
    let mut all = Vec::new();
    loop {
        match house.try_domain() {
            Ok(domain) => all.push(domain),
            Err(error) => {
                assert_eq!(error, HwError::OutOfDomainIds, "{}", house.name());
                return all;
            }
        }
    }
}

fn an_id_that_was_flushed_rests_until_all_others_had_their_turn<D: Driver>() {
    each::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let mut ids = BTreeSet::new();
        for round in 0..4 {
            let domain = house.domain_with(PAGE, 0x5000_0000, PAGE);
            // Some see their stream go and come again.
            if round % 2 != 0 {
                house.attach(red, &*domain);
                house.detach(red);
            }
            house.attach(red, &*domain);
            house.expect(red, PAGE, Ok(0x5000_0000));
            ids.insert(house.tag(red, PAGE));
            house.take_work();
            drop(domain);
            let work = house.take_work();
            assert!(work.requests >= 2 && work.waits >= 1, "{}: the entry and all of its id: {work:?}", house.name());
            house.expect(red, PAGE, Err(Refusal::Detached));
        }
        assert_eq!(ids.len(), 4, "{}", house.name());
        house.check_empty();
    });
}

fn an_id_that_was_flushed_comes_back_when_the_others_had_their_turn<D: Driver>() {
    for (case, count) in D::few_ids() {
        let house = roomy::<D>(&case);
        let [red, ..] = house.kind.streams;
        let mut held = all_that_fit(&house);
        assert_eq!(held.len(), count, "{}", house.name());
        drop(held.pop());
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            let domain = house.domain_with(PAGE, 0x5000_0000, PAGE);
            house.attach(red, &*domain);
            seen.insert(house.tag(red, PAGE));
            assert_eq!(house.try_domain().err(), Some(HwError::OutOfDomainIds), "{}", house.name());
        }
        assert_eq!(seen.len(), 1, "{}: the only one that is free", house.name());
        drop(held);
        house.check_empty();
    }
}

fn an_id_that_was_not_flushed_is_never_used_again<D: Driver>() {
    each::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let domain = house.domain_with(PAGE, 0x5000_0000, PAGE);
        house.attach(red, &*domain);
        house.expect(red, PAGE, Ok(0x5000_0000));
        let lost = house.tag(red, PAGE);
        let before = house.memory.in_use();
        house.set_queue(Queue::Stopped);
        drop(domain);
        assert_eq!(house.memory.in_use(), before, "{}: hardware may still walk it all", house.name());
        house.expect(red, PAGE, Ok(0x5000_0000));
        house.set_queue(Queue::Running);
        let [_, blue, far] = house.kind.streams;
        for id in [blue, far, red] {
            let next = house.domain_with(PAGE, 0x6000_0000, PAGE);
            house.attach(id, &*next);
            house.expect(id, PAGE, Ok(0x6000_0000));
            assert_ne!(house.tag(id, PAGE), lost, "{}", house.name());
            std::mem::forget(next);
        }
        house.check();
    });
}

fn an_id_that_hardware_did_not_let_go_of_is_not_given_again<D: Driver>() {
    for (case, count) in D::few_ids() {
        let house = roomy::<D>(&case);
        let [red, ..] = house.kind.streams;
        let domain = house.domain_with(PAGE, 0x5000_0000, PAGE);
        house.attach(red, &*domain);
        house.expect(red, PAGE, Ok(0x5000_0000));
        house.set_queue(Queue::Stopped);
        drop(domain);
        house.set_queue(Queue::Running);
        assert_eq!(all_that_fit(&house).len(), count - 1, "{}", house.name());
        // One that hardware did let go of is.
        drop(house.domain());
        assert_eq!(all_that_fit(&house).len(), count - 1, "{}", house.name());
        house.check();
    }
}

fn memory_that_runs_out_costs_no_id<D: Driver>() {
    for (case, count) in D::few_ids() {
        let house = roomy::<D>(&case);
        let before = house.memory.in_use();
        for n in [0, 1] {
            for _ in 0..count + 6 {
                house.memory.exhaust_after(n);
                let found = house.try_domain();
                house.memory.fail_never();
                // What needs one frame has it with n = 1.
                assert!(matches!(found, Ok(_) | Err(HwError::OutOfMemory)) && (n > 0 || found.is_err()));
            }
        }
        let domains = all_that_fit(&house);
        assert_eq!(domains.len(), count, "{}", house.name());
        drop(domains);
        assert_eq!(house.memory.in_use(), before);
        drop(house.domain());
        house.check_empty();
    }
}

fn no_two_domains_have_one_id<D: Driver>() {
    for (case, count) in D::few_ids() {
        let house = roomy::<D>(&case);
        let [red, ..] = house.kind.streams;
        let mut tags = BTreeSet::new();
        let domains = all_that_fit(&house);
        for domain in &domains {
            map(&**domain, PAGE, 0x5000_0000, PAGE);
            house.attach(red, &**domain);
            let tag = house.walk(function(red), PAGE).expect("attached").tag;
            assert!(tag != 0 && tags.insert(tag), "{}: {tag:#x} once more", house.name());
        }
        assert_eq!(tags.len(), count);
        drop(domains);
        house.check_empty();
    }
}

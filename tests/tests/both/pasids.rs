//! Parts of functions by PASID: each leads where it was led, whatever becomes of its neighbours and of the function.
//!
//! A unit without PASIDs, and one whose PASIDs lead to the other stage alone, refuses them by name.

use super::PAGE;
use iommu_core::hw::{Domain, HwError, Stream, Target, Transition};
use iommu_tests::bench::{map, unmap};
use iommu_tests::heap::{until_it_succeeds, with_heap_of};
use iommu_tests::house::{Driver, HUNG, House, Queue, Refusal, each, function, part};
use iommu_tests::over_both;
use iommu_tests::spy::Moment;

over_both! {
    parts_are_told_apart_by_pasid_alone,
    what_hardware_reads_of_a_part_while_it_comes_is_not_what_it_keeps,
    a_part_moves_and_goes_without_its_neighbours,
    the_function_and_its_parts_know_nothing_of_each_other,
    what_is_taken_out_of_a_domain_is_gone_for_every_part,
    memory_that_runs_out_anywhere_changes_nothing,
    a_heap_that_runs_out_anywhere_changes_nothing,
    hardware_that_fails_anywhere_blocks_and_recovers,
    a_domain_that_goes_leaves_no_part_anywhere,
}

const fn phys(number: u64) -> u64 {
    0x5000_0000 + (number << 24)
}

fn domain<D: Driver>(house: &House<D>, number: u64) -> Box<dyn Domain> {
    house.domain_with(PAGE, phys(number), PAGE)
}

/// Runs `test` where PASIDs lead to domains; everywhere else they are refused and nothing changes.
fn with_pasids<D: Driver>(test: impl Fn(&House<D>)) {
    each::<D>(|house| {
        if house.capabilities().pasid_bits != 0 && house.kind.stage_of_parts {
            return test(house);
        }
        let [red, ..] = house.kind.streams;
        let one = domain(house, 1);
        house.attach(red, &*one);
        let before = (house.memory.in_use(), house.memory.snapshot());
        let found = house.lead(part(red, 1), Target::Paging(&*one));
        let refused = matches!(found, Err(HwError::Unsupported(_) | HwError::Missing(_) | HwError::InUse));
        assert!(refused, "{}: {found:?}", house.name());
        assert_eq!((house.memory.in_use(), house.memory.snapshot()), before, "{}", house.name());
        house.expect_of(part(red, 1), PAGE, Err(Refusal::Detached));
        house.expect(red, PAGE, Ok(phys(1)));
        house.check();
    });
}

/// The function, parts in one table, in another, and the last that there is; and parts of another function.
fn streams<D: Driver>(house: &House<D>) -> Vec<Stream> {
    let ([red, _, far], bits) = (house.kind.streams, house.capabilities().pasid_bits);
    let last = (1 << bits) - 1;
    let mut pasids: Vec<u32> = [1, 2, 0x3f, 0x40, 0x9000, last].into_iter().filter(|pasid| *pasid <= last).collect();
    pasids.sort_unstable();
    pasids.dedup();
    let mut all: Vec<Stream> = pasids.iter().map(|pasid| part(red, *pasid)).collect();
    all.insert(1, function(red));
    all.extend([part(far, last), part(far, 1)]);
    all
}

#[track_caller]
fn lead<D: Driver>(house: &House<D>, stream: Stream, domain: &dyn Domain) -> Transition {
    let done = house.lead(stream, Target::Paging(domain));
    done.unwrap_or_else(|error| panic!("{}: {stream}: {error}", house.name()))
}

#[track_caller]
fn detach<D: Driver>(house: &House<D>, stream: Stream) {
    house.lead(stream, Target::Blocked).unwrap_or_else(|error| panic!("{}: {stream}: {error}", house.name()));
}

fn parts_are_told_apart_by_pasid_alone<D: Driver>() {
    with_pasids::<D>(|house| {
        let all = streams(house);
        let domains: Vec<_> = (0..all.len() as u64).map(|number| domain(house, number)).collect();
        for (count, stream) in all.iter().enumerate() {
            all[count..].iter().for_each(|later| house.expect_of(*later, PAGE, Err(Refusal::Detached)));
            assert_eq!(lead(house, *stream, &*domains[count]), Transition::Hitless, "{}: {stream}", house.name());
            for (number, stream) in all[..=count].iter().enumerate() {
                house.expect_of(*stream, PAGE, Ok(phys(number as u64)));
                house.expect_of(*stream, 2 * PAGE, Err(Refusal::NotMapped));
            }
        }
        for (count, stream) in all.iter().enumerate() {
            detach(house, *stream);
            house.expect_of(*stream, PAGE, Err(Refusal::Detached));
            (count + 1..all.len()).for_each(|later| house.expect_of(all[later], PAGE, Ok(phys(later as u64))));
        }
        drop(domains);
        house.check_empty();
    });
}

/// Whatever leads to a part may be read at any moment of an attach, and kept as it was then: also as not valid.
fn what_hardware_reads_of_a_part_while_it_comes_is_not_what_it_keeps<D: Driver>() {
    with_pasids::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let (one, other) = (domain(house, 1), domain(house, 2));
        // In every place of the table: of those that are there already, and of those that come with it.
        let last = (1 << house.capabilities().pasid_bits) - 1;
        let parts = [1, 2, 0x41, last].into_iter().filter(|pasid| *pasid <= last).map(|pasid| part(red, pasid));
        let parts: Vec<Stream> = parts.collect();
        // After how many of what the driver writes to the unit; 0: before.
        for n in 0..12 {
            for stream in parts.iter().copied() {
                house.expect_of(stream, PAGE, Err(Refusal::Detached));
                for to in [&one, &other] {
                    let (model, mut left) = (house.model.clone(), n);
                    house.spy.set_hook(Some(Box::new(move |_, moment| {
                        left -= i32::from(left > 0 && moment == Moment::After);
                        if left == 0 {
                            let _ = D::access(&model, stream, PAGE, false);
                        }
                    })));
                    lead(house, stream, &**to);
                    house.spy.set_hook(None);
                    house.expect_of(stream, PAGE, Ok(house.walk(stream, PAGE).expect("it leads there").phys));
                }
                house.expect_of(stream, PAGE, Ok(phys(2)));
                detach(house, stream);
                house.expect_of(stream, PAGE, Err(Refusal::Detached));
            }
        }
        drop((one, other));
        house.check();
    });
}

fn a_part_moves_and_goes_without_its_neighbours<D: Driver>() {
    with_pasids::<D>(|house| {
        let all = streams(house);
        let (one, other) = (domain(house, 1), domain(house, 2));
        all.iter().for_each(|stream| assert_eq!(lead(house, *stream, &*one), Transition::Hitless));
        for (moved, stream) in all.iter().enumerate() {
            lead(house, *stream, &*other);
            for (number, stream) in all.iter().enumerate() {
                house.expect_of(*stream, PAGE, Ok(phys(if number <= moved { 2 } else { 1 })));
            }
        }
        // Identity, and back.
        for stream in &all {
            house.lead(*stream, Target::Identity).unwrap();
            house.expect_of(*stream, 5 * PAGE, Ok(5 * PAGE));
            lead(house, *stream, &*one);
            house.expect_of(*stream, 5 * PAGE, Err(Refusal::NotMapped));
            house.expect_of(*stream, PAGE, Ok(phys(1)));
            assert_eq!(lead(house, *stream, &*one), Transition::Hitless, "it leads there already");
        }
        drop((one, other));
        all.iter().for_each(|stream| house.expect_of(*stream, PAGE, Err(Refusal::Detached)));
        house.check();
    });
}

fn the_function_and_its_parts_know_nothing_of_each_other<D: Driver>() {
    with_pasids::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let (one, other) = (domain(house, 1), domain(house, 2));
        let (whole, adi) = (function(red), part(red, 1));
        // Every order of coming and going; the function leads nowhere, to a domain, and anywhere.
        for target in [None, Some(false), Some(true)] {
            let place = || match target {
                None => Target::Blocked,
                Some(false) => Target::Paging(&*one),
                Some(true) => Target::Identity,
            };
            let leads = match target {
                None => Err(Refusal::Detached),
                Some(false) => Ok(phys(1)),
                Some(true) => Ok(PAGE),
            };
            for function_first in [true, false] {
                if function_first {
                    house.lead(whole, place()).unwrap();
                    house.expect_of(whole, PAGE, leads);
                }
                lead(house, adi, &*other);
                house.expect_of(adi, PAGE, Ok(phys(2)));
                house.lead(whole, place()).unwrap();
                house.expect_of(whole, PAGE, leads);
                house.expect_of(adi, PAGE, Ok(phys(2)));
                if function_first {
                    detach(house, adi);
                    house.expect_of(whole, PAGE, leads);
                    detach(house, whole);
                } else {
                    detach(house, whole);
                    house.expect_of(adi, PAGE, Ok(phys(2)));
                    detach(house, adi);
                }
                [whole, adi].into_iter().for_each(|stream| house.expect_of(stream, PAGE, Err(Refusal::Detached)));
            }
        }
        drop((one, other));
        house.check();
    });
}

fn what_is_taken_out_of_a_domain_is_gone_for_every_part<D: Driver>() {
    with_pasids::<D>(|house| {
        let all = streams(house);
        let one = domain(house, 1);
        all.iter().for_each(|stream| assert_eq!(lead(house, *stream, &*one), Transition::Hitless));
        for round in 0..3 {
            all.iter().for_each(|stream| house.expect_of(*stream, PAGE, Ok(phys(1) + round * PAGE)));
            unmap(&*one, PAGE, PAGE);
            all.iter().for_each(|stream| house.expect_of(*stream, PAGE, Err(Refusal::NotMapped)));
            map(&*one, PAGE, phys(1) + (round + 1) * PAGE, PAGE);
        }
        house.check();
    });
}

fn memory_that_runs_out_anywhere_changes_nothing<D: Driver>() {
    with_pasids::<D>(|house| {
        let all = streams(house);
        let (one, other) = (domain(house, 1), domain(house, 2));
        for (count, stream) in all.iter().enumerate() {
            let before = house.memory.in_use();
            for n in 0.. {
                house.memory.exhaust_after(n);
                let found = house.lead(*stream, Target::Paging(&*one));
                house.memory.fail_never();
                if found.is_ok() {
                    break;
                }
                assert_eq!(found, Err(HwError::OutOfMemory), "{}: {stream}", house.name());
                assert_eq!(house.memory.in_use(), before, "{}: {stream} after {n}", house.name());
                house.expect_of(*stream, PAGE, Err(Refusal::Detached));
                all[..count].iter().for_each(|stream| house.expect_of(*stream, PAGE, Ok(phys(1))));
            }
            house.expect_of(*stream, PAGE, Ok(phys(1)));
        }
        // Nothing of this needs any.
        house.memory.exhaust_after(0);
        for stream in &all {
            lead(house, *stream, &*other);
            house.expect_of(*stream, PAGE, Ok(phys(2)));
        }
        all.iter().for_each(|stream| detach(house, *stream));
        house.memory.fail_never();
        drop((one, other));
        house.check_empty();
    });
}

fn a_heap_that_runs_out_anywhere_changes_nothing<D: Driver>() {
    with_pasids::<D>(|house| {
        let all = streams(house);
        let (one, other) = (domain(house, 1), domain(house, 2));
        for (count, stream) in all.iter().enumerate() {
            let before = house.memory.in_use();
            let attach = || house.lead(*stream, Target::Paging(&*one));
            let (_, failed) = until_it_succeeds(attach, HwError::OutOfMemory, || {
                assert_eq!(house.memory.in_use(), before, "{}: {stream}", house.name());
                house.expect_of(*stream, PAGE, Err(Refusal::Detached));
                all[..count].iter().for_each(|stream| house.expect_of(*stream, PAGE, Ok(phys(1))));
            });
            assert!(failed >= 1, "its seat is on the heap");
        }
        // Moving and taking away needs nothing.
        let done = with_heap_of(0, || {
            let moved = all.iter().try_for_each(|stream| house.lead(*stream, Target::Paging(&*other)).map(drop));
            let back = all.iter().take(3).try_for_each(|stream| house.lead(*stream, Target::Paging(&*one)).map(drop));
            let gone = all.iter().skip(3).try_for_each(|stream| house.lead(*stream, Target::Blocked).map(drop));
            [moved, back, gone, one.retire()]
        });
        assert_eq!(done, [Ok(()); 4], "{}", house.name());
        all.iter().for_each(|stream| house.expect_of(*stream, PAGE, Err(Refusal::Detached)));
        with_heap_of(0, || drop((one, other)));
        house.check_empty();
    });
}

/// The queue stops, or refuses a request, at each place of a part's way in, to another domain, and out.
fn hardware_that_fails_anywhere_blocks_and_recovers<D: Driver>() {
    with_pasids::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let (one, other) = (domain(house, 1), domain(house, 2));
        let (adi, beside) = (part(red, 1), part(red, 2));
        lead(house, beside, &*one);
        house.attach(red, &*one);
        for stops in [true, false] {
            for (from, to) in [(None, Some(1)), (Some(1), Some(2)), (Some(2), None)] {
                let target = |place: Option<u64>| match place {
                    Some(1) => Target::Paging(&*one),
                    Some(_) => Target::Paging(&*other),
                    None => Target::Blocked,
                };
                let leads = |place: Option<u64>| place.map(phys).ok_or(Refusal::Detached);
                for n in 0.. {
                    assert!(n < 32, "{}: never done", house.name());
                    house.lead(adi, target(from)).expect("hardware works");
                    house.expect_of(adi, PAGE, leads(from));
                    if stops {
                        D::stop_queue_after(&house.model, n);
                    } else {
                        D::refuse_request_after(&house.model, n);
                    }
                    let found = house.lead(adi, target(to));
                    house.set_queue(Queue::Running);
                    D::refuse_request_after(&house.model, usize::MAX);
                    [function(red), beside].into_iter().for_each(|other| house.expect_of(other, PAGE, Ok(phys(1))));
                    if found.is_ok() {
                        house.expect_of(adi, PAGE, leads(to));
                        break;
                    }
                    let known = found == Err(HUNG) && stops || matches!(found, Err(HwError::Queue { .. })) && !stops;
                    assert!(known, "{}: {found:?}", house.name());
                    let left = house.walk(adi, PAGE).map(|walk| walk.phys);
                    assert!(left == leads(from) || left == Err(Refusal::Detached), "{}: {left:x?}", house.name());
                }
                detach(house, adi);
                house.expect_of(adi, PAGE, Err(Refusal::Detached));
            }
        }
        drop((one, other));
        house.check();
    });
}

fn a_domain_that_goes_leaves_no_part_anywhere<D: Driver>() {
    with_pasids::<D>(|house| {
        let all = streams(house);
        for queue in [Queue::Running, Queue::Stopped] {
            let one = domain(house, 1);
            all.iter().for_each(|stream| assert_eq!(lead(house, *stream, &*one), Transition::Hitless));
            let before = house.memory.in_use();
            house.set_queue(queue);
            drop(one);
            for stream in &all {
                let found = house.walk(*stream, PAGE);
                assert_eq!(found, Err(Refusal::Detached), "{}: {stream}", house.name());
            }
            if queue == Queue::Stopped {
                assert_eq!(house.memory.in_use(), before, "{}: all of it stays allocated", house.name());
            }
            house.set_queue(Queue::Running);
        }
        let other = domain(house, 2);
        for stream in &all {
            lead(house, *stream, &*other);
            house.expect_of(*stream, PAGE, Ok(phys(2)));
        }
        house.check();
    });
}

//! What stays when hardware does not confirm: frames, ids and streams of a map, a flush, a detach, a replacement and a drop,
//! until a later attempt succeeds.

use super::{HUGE, LARGE, PAGE};
use iommu_core::addr::Iova;
use iommu_core::hw::{Gather, HwError, Prot, Target, Transition, Unit as _};
use iommu_tests::bench::{extent, map, range, unmap};
use iommu_tests::house::{Driver, HUNG, Queue, Refusal, each, function};
use iommu_tests::over_both;

over_both! {
    a_flush_that_fails_keeps_the_tables_until_one_succeeds,
    tables_of_a_gather_that_was_never_flushed_go_with_the_domain,
    a_detach_that_fails_keeps_everything_and_the_retry_finishes,
    a_map_that_is_not_confirmed_stands_and_can_be_taken_back,
    a_map_that_hardware_need_not_know_of_waits_for_nobody,
    dropping_a_domain_that_hardware_does_not_let_go_of_blocks_all_its_streams_in_the_tables,
    a_retirement_that_fails_can_be_tried_again,
    each_flush_frees_the_tables_of_its_own_gather,
    hardware_that_fails_at_each_request_blocks_and_recovers,
}

fn a_flush_that_fails_keeps_the_tables_until_one_succeeds<D: Driver>() {
    each::<D>(|house| {
        let [red, blue, _] = house.kind.streams;
        let domain = house.domain_with(HUGE, 0x5000_1000, LARGE);
        [red, blue].into_iter().for_each(|id| assert_eq!(house.attach(id, &*domain), Transition::Hitless));
        house.expect(red, HUGE, Ok(0x5000_1000));
        let before = house.memory.in_use();
        let mut gather = Gather::new();
        domain.unmap(range(HUGE, LARGE), &mut gather).unwrap();
        assert!(gather.tables_changed());
        for queue in [Queue::Stopped, Queue::Mute] {
            house.set_queue(queue);
            assert_eq!(domain.flush(&mut gather), Err(HUNG), "{}", house.name());
            assert_eq!((gather.is_empty(), house.memory.in_use()), (false, before), "{}", house.name());
        }
        house.set_queue(Queue::Running);
        // What is left of those rounds is done.
        house.detach(blue);
        let before = house.memory.in_use();
        D::refuse_request_after(&house.model, 0);
        let found = domain.flush(&mut gather);
        assert!(matches!(found, Err(HwError::Queue { .. })), "{}: {found:?}", house.name());
        D::refuse_request_after(&house.model, usize::MAX);
        assert_eq!((gather.is_empty(), house.memory.in_use()), (false, before), "{}", house.name());
        domain.flush(&mut gather).expect("works");
        assert!(gather.is_empty() && house.memory.in_use() < before, "{}: a table", house.name());
        house.expect(red, HUGE, Err(Refusal::NotMapped));
        house.check();
    });
}

fn tables_of_a_gather_that_was_never_flushed_go_with_the_domain<D: Driver>() {
    each::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let domain = house.domain_with(HUGE, 0x5000_1000, LARGE);
        // The table above stays.
        map(&*domain, HUGE + LARGE, 0x6000_0000, PAGE);
        map(&*domain, 2 * HUGE + LARGE, 0x6000_0000, PAGE);
        house.attach(red, &*domain);
        house.expect(red, HUGE, Ok(0x5000_1000));
        let before = house.memory.in_use();
        let mut gather = Gather::new();
        domain.unmap(range(HUGE, LARGE), &mut gather).unwrap();
        drop(gather);
        assert_eq!(house.memory.in_use(), before, "hardware may still walk them");
        // Another flush of another gather is not theirs.
        map(&*domain, 2 * HUGE, 0x5000_1000, LARGE);
        let more = house.memory.in_use();
        unmap(&*domain, 2 * HUGE, LARGE);
        assert_eq!(house.memory.in_use(), more - 1, "{}: its own table, and no other", house.name());
        drop(domain);
        house.check_empty();
    });
}

fn a_detach_that_fails_keeps_everything_and_the_retry_finishes<D: Driver>() {
    each::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let domain = house.domain_with(PAGE, 0x5000_0000, PAGE);
        house.attach(red, &*domain);
        house.expect(red, PAGE, Ok(0x5000_0000));
        let other = house.domain_with(2 * PAGE, 0x6000_0000, PAGE);
        let before = house.memory.in_use();
        house.set_queue(Queue::Stopped);
        assert_eq!(house.unit.detach(function(red)), Err(HUNG));
        assert_eq!(house.memory.in_use(), before, "{}", house.name());
        // Not confirmed: the stale copy still leads there, so the frames must stay.
        house.expect(red, PAGE, Ok(0x5000_0000));
        assert_eq!(house.lead(function(red), Target::Paging(&*other)), Err(HUNG));
        house.set_queue(Queue::Running);
        house.detach(red);
        house.expect(red, PAGE, Err(Refusal::Detached));
        assert_eq!(house.attach(red, &*other), Transition::Hitless);
        house.expect(red, 2 * PAGE, Ok(0x6000_0000));
        house.expect(red, PAGE, Err(Refusal::NotMapped));
        drop((domain, other));
        house.check_empty();
    });
}

/// Where hardware keeps that nothing is mapped (VT-d: caching mode, section 6.1): a map has it forget that.
fn a_map_that_is_not_confirmed_stands_and_can_be_taken_back<D: Driver>() {
    each::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let domain = house.domain();
        house.attach(red, &*domain);
        house.expect(red, PAGE, Err(Refusal::NotMapped));
        house.set_queue(Queue::Stopped);
        let found = domain.map(Iova::new(PAGE), &[extent(0x5000_0000, PAGE)], Prot::READ_WRITE);
        assert_eq!(found, if house.kind.keeps_absence { Err(HUNG) } else { Ok(()) }, "{}", house.name());
        assert!(domain.translate(Iova::new(PAGE)).is_some(), "it counts as reachable");
        house.set_queue(Queue::Running);
        house.expect(red, PAGE, Ok(0x5000_0000));
        unmap(&*domain, PAGE, PAGE);
        house.expect(red, PAGE, Err(Refusal::NotMapped));
        house.check();
    });
}

fn a_map_that_hardware_need_not_know_of_waits_for_nobody<D: Driver>() {
    each::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let domain = house.domain();
        house.attach(red, &*domain);
        house.expect(red, PAGE, Err(Refusal::NotMapped));
        house.take_work();
        map(&*domain, PAGE, 0x5000_0000, PAGE);
        let work = house.take_work();
        assert_eq!(work.requests != 0, house.kind.keeps_absence, "{}: {work:?}", house.name());
        assert_eq!((work.waits, work.doorbells), (work.requests.min(1), work.requests.min(1)), "{}", house.name());
        house.expect(red, PAGE, Ok(0x5000_0000));
        house.check();
    });
}

fn dropping_a_domain_that_hardware_does_not_let_go_of_blocks_all_its_streams_in_the_tables<D: Driver>() {
    each::<D>(|house| {
        let domain = house.domain_with(PAGE, 0x5000_0000, PAGE);
        let streams = house.kind.streams;
        streams.iter().for_each(|id| assert_eq!(house.attach(*id, &*domain), Transition::Hitless));
        let before = house.memory.in_use();
        house.set_queue(Queue::Stopped);
        drop(domain);
        assert_eq!(house.memory.in_use(), before, "{}: all of it stays allocated", house.name());
        for id in streams {
            // The tables alone decide what is not cached: nobody is left who could detach these later.
            let found = house.walk(function(id), PAGE);
            assert_eq!(found, Err(Refusal::Detached), "{}: {id:#x} still reaches it", house.name());
        }
        house.set_queue(Queue::Running);
        // The streams can be given away again.
        let other = house.domain_with(2 * PAGE, 0x6000_0000, PAGE);
        for id in streams {
            house.attach(id, &*other);
            house.expect(id, 2 * PAGE, Ok(0x6000_0000));
            house.expect(id, PAGE, Err(Refusal::NotMapped));
        }
        house.check();
    });
}

fn a_retirement_that_fails_can_be_tried_again<D: Driver>() {
    each::<D>(|house| {
        let domain = house.domain_with(PAGE, 0x5000_0000, PAGE);
        let streams = house.kind.streams;
        for id in streams {
            house.attach(id, &*domain);
            house.expect(id, PAGE, Ok(0x5000_0000));
        }
        let before = house.memory.in_use();
        for queue in [Queue::Stopped, Queue::Mute] {
            house.set_queue(queue);
            assert_eq!(domain.retire(), Err(HUNG), "{}", house.name());
            assert_eq!(house.memory.in_use(), before, "{}", house.name());
            streams.iter().for_each(|id| assert_eq!(house.walk(function(*id), PAGE), Err(Refusal::Detached)));
        }
        house.set_queue(Queue::Running);
        assert_eq!(domain.retire(), Ok(()), "{}", house.name());
        streams.iter().for_each(|id| house.expect(*id, PAGE, Err(Refusal::Detached)));
        drop(domain);
        house.check_empty();
    });
}

fn each_flush_frees_the_tables_of_its_own_gather<D: Driver>() {
    each::<D>(|house| {
        let [red, ..] = house.kind.streams;
        let domain = house.domain();
        house.attach(red, &*domain);
        // Three gathers with one table each, taken out in this order and flushed in another.
        let places = [HUGE, 2 * HUGE, 3 * HUGE];
        places.iter().for_each(|iova| map(&*domain, *iova, 0x5000_1000, LARGE));
        // The tables above stay.
        places.iter().for_each(|iova| map(&*domain, *iova + LARGE, 0x6000_0000, PAGE));
        places.iter().for_each(|iova| house.expect(red, *iova, Ok(0x5000_1000)));
        let mut gathers = [Gather::new(), Gather::new(), Gather::new()];
        for (iova, gather) in places.iter().zip(&mut gathers) {
            domain.unmap(range(*iova, LARGE), gather).unwrap();
        }
        let before = house.memory.in_use();
        for (freed, at) in [1, 0, 2].into_iter().enumerate() {
            domain.flush(&mut gathers[at]).unwrap();
            assert_eq!(house.memory.in_use(), before - freed - 1, "{}", house.name());
            house.expect(red, places[at], Err(Refusal::NotMapped));
            // Nothing of a gather that was not flushed is walked in freed frames.
            places.iter().for_each(|iova| {
                let _ = (house.read(red, *iova), house.write(red, *iova));
            });
        }
        house.check();
    });
}

/// The queue stops, or refuses a request, at each place of each operation that moves a stream.
fn hardware_that_fails_at_each_request_blocks_and_recovers<D: Driver>() {
    each::<D>(|house| {
        let [red, blue, _] = house.kind.streams;
        let (one, other) = (house.domain_with(PAGE, 0x5000_0000, PAGE), house.domain_with(PAGE, 0x6000_0000, PAGE));
        house.attach(blue, &*one);
        for stops in [true, false] {
            // Attach, replace by another domain, by identity, by nothing.
            for (from, to) in [(None, Some(0)), (Some(0), Some(1)), (Some(0), Some(2)), (Some(1), None)] {
                let target = |place: Option<usize>| match place {
                    Some(0) => Target::Paging(&*one),
                    Some(1) => Target::Paging(&*other),
                    Some(_) => Target::Identity,
                    None => Target::Blocked,
                };
                let leads = |place: Option<usize>| match place {
                    Some(0) => Ok(0x5000_0000),
                    Some(1) => Ok(0x6000_0000),
                    Some(_) => Ok(PAGE),
                    None => Err(Refusal::Detached),
                };
                for n in 0.. {
                    assert!(n < 32, "{}: never done", house.name());
                    house.lead(function(red), target(from)).expect("hardware works");
                    house.expect(red, PAGE, leads(from));
                    if stops {
                        D::stop_queue_after(&house.model, n);
                    } else {
                        D::refuse_request_after(&house.model, n);
                    }
                    let found = house.lead(function(red), target(to));
                    house.set_queue(Queue::Running);
                    D::refuse_request_after(&house.model, usize::MAX);
                    // Others do not notice.
                    house.expect(blue, PAGE, Ok(0x5000_0000));
                    if found.is_ok() {
                        house.expect(red, PAGE, leads(to));
                        break;
                    }
                    let known = found == Err(HUNG) && stops || matches!(found, Err(HwError::Queue { .. })) && !stops;
                    assert!(known, "{}: {found:?}", house.name());
                    let left = house.walk(function(red), PAGE).map(|walk| walk.phys);
                    assert!(left == leads(from) || left == Err(Refusal::Detached), "{}: {left:x?}", house.name());
                }
                house.detach(red);
                house.expect(red, PAGE, Err(Refusal::Detached));
            }
        }
        drop((one, other));
        house.check();
    });
}

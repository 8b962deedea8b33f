//! What becomes of groups when their stream leads elsewhere.

use super::*;

/// Leaves one group of `stream` in each stage; returns the cookie of the delivered one. Numbers: 1 delivered, 2 queued,
/// 3 open.
fn one_in_each_stage(router: &FaultRouter, stream: Stream, queue: &FaultQueue) -> Cookie {
    router.page_request(&request(stream, 1, 1, true));
    let (cookie, ..) = read_group(queue).unwrap();
    router.page_request(&request(stream, 2, 2, true));
    router.page_request(&request(stream, 3, 3, false));
    cookie
}

fn sorted(mut answers: Vec<(Stream, u16, ResponseCode)>) -> Vec<(Stream, u16, ResponseCode)> {
    answers.sort_by_key(|(stream, number, _)| (*stream, *number));
    answers
}

#[test]
fn what_was_not_answered_is_invalid_once_the_stream_is_nobodys() {
    let (unit, router, queue) = setup(16);
    let (gone, stays) = (part(1, 1), function(1));
    router.route(gone, &queue).unwrap();
    router.route(stays, &queue).unwrap();
    let cookie = one_in_each_stage(&router, gone, &queue);
    // Sequence 2, between others.
    router.page_request(&request(stays, 4, 4, true));
    router.unroute(gone);
    assert_eq!(sorted(unit.answers()), [(gone, 1, INVALID), (gone, 2, INVALID)]);
    // The open one when it ends.
    router.page_request(&request(gone, 3, 5, true));
    assert_eq!(unit.answers(), [(gone, 3, INVALID)]);
    assert!(matches!(queue.respond(cookie, SUCCESS), Err(Error::Invalid(_))));
    // The other stream's is what is left, after one that is missing.
    let record = queue.read().unwrap().unwrap();
    assert_eq!((record.sequence, record.lost), (2, true));
    let Event::PageRequests { cookie, requests } = record.event else { panic!() };
    assert_eq!(requests, [request(stays, 4, 4, true)]);
    queue.respond(cookie, SUCCESS).unwrap();
    assert_eq!(unit.answers(), [(stays, 4, SUCCESS)]);
    assert_eq!((queue.read(), queue.0.held()), (Ok(None), (0, 0)));
    assert!(!router.fault(&fault(gone, 0)) && router.fault(&fault(stays, 0)));
    // Twice is no harm.
    router.unroute(gone);
    assert_eq!(unit.answers(), []);
}

#[test]
fn a_withdrawn_event_at_the_end_is_told_of_too() {
    let (_, router, queue) = setup(4);
    router.route(function(1), &queue).unwrap();
    router.page_request(&request(function(1), 1, 1, true));
    router.unroute(function(1));
    assert_eq!(queue.read(), Ok(lost(0)));
    assert_eq!(queue.read(), Ok(None));
}

#[test]
fn a_stream_that_leads_elsewhere_takes_nothing_along() {
    for to_same in [false, true] {
        let (unit, router, old) = setup(16);
        let new = if to_same { old.clone() } else { FaultQueue::new(16).unwrap() };
        assert_eq!(new.same(&old), to_same);
        router.route(function(1), &old).unwrap();
        let cookie = one_in_each_stage(&router, function(1), &old);
        // One that has been refused for its size, but has not ended.
        for page in 0..=MOST_REQUESTS as u64 {
            router.page_request(&request(function(1), 9, page, false));
        }
        router.route(function(1), &new).unwrap();
        assert_eq!(sorted(unit.answers()), [(function(1), 1, INVALID), (function(1), 2, INVALID)]);
        assert!(old.respond(cookie, SUCCESS).is_err());
        // Begun before: refused when they end, and not before, and not delivered in parts.
        for number in [3, 9] {
            router.page_request(&request(function(1), number, 40, false));
            assert_eq!(unit.answers(), []);
            router.page_request(&request(function(1), number, 41, true));
            assert_eq!(unit.answers(), [(function(1), number, INVALID)]);
        }
        assert!(router.fault(&fault(function(1), 77)));
        router.page_request(&request(function(1), 3, 50, true));
        let mut events = Vec::new();
        while let Some(record) = new.read().unwrap() {
            events.push(record.event);
        }
        assert!(
            matches!(
                &events[..],
                [Event::Fault(_), Event::PageRequests { requests, .. }] if requests[..] == [request(function(1), 3, 50, true)]
            ),
            "{events:?}"
        );
        if !to_same {
            assert_eq!(old.read(), Ok(lost(1)));
            assert_eq!(old.0.held(), (0, 0));
        }
    }
}

#[test]
fn leading_elsewhere_takes_no_memory_and_starts_clean_each_time() {
    let (unit, router, one) = setup(16);
    let other = FaultQueue::new(16).unwrap();
    router.route(function(1), &one).unwrap();
    let ports = router.ports(function(1));
    for turn in 0..6 {
        let (old, queue) = if turn % 2 == 0 { (&one, &other) } else { (&other, &one) };
        // Leaves every mark there is: missed at its beginning, missed whole, open, missed at its end.
        let first = 20 + 4 * turn;
        router.page_request(&request(function(1), first + 3, 0, false));
        unit.interrupt.store(true, Ordering::Relaxed);
        old.0.interrupted(|| {
            router.page_request(&request(function(1), first, 0, false));
            router.page_request(&request(function(1), first + 1, 0, true));
            router.page_request(&request(function(1), first + 3, 0, true));
        });
        unit.interrupt.store(false, Ordering::Relaxed);
        router.page_request(&request(function(1), first + 2, 0, false));
        router.route(function(1), queue).unwrap();
        for number in [first, first + 2] {
            router.page_request(&request(function(1), number, 1, true));
        }
        assert_eq!(unit.answers(), [1, 3, 0, 2].map(|it| (function(1), first + it, INVALID)), "{turn}");
        for number in 0..first + 4 {
            router.page_request(&request(function(1), number, 1, true));
            let Some(Record { event: Event::PageRequests { cookie, requests }, .. }) = queue.read().unwrap() else {
                panic!("{number} in turn {turn}")
            };
            assert_eq!(requests.len(), 1);
            queue.respond(cookie, SUCCESS).unwrap();
        }
        unit.answers();
        let (now, spare) = router.ports(function(1));
        assert!(if turn % 2 == 0 { (spare, now) == ports } else { (now, spare) == ports });
        while old.read().unwrap().is_some() {}
    }
}

#[test]
fn requests_in_the_middle_of_a_change_are_whole_or_refused() {
    let (unit, router, old) = setup(16);
    let new = FaultQueue::new(16).unwrap();
    router.route(function(1), &old).unwrap();
    let port = |unit: &Arc<Recorder>| Port::new(unit.clone(), function(1));
    // Groups as the old queue has them: 1 and 2 are open there.
    for number in [1, 2] {
        router.page_request(&request(function(1), number, 0, false));
    }
    let before = iommu_alloc::Shared::try_new(port(&unit)).unwrap();
    let after = iommu_alloc::Shared::try_new(port(&unit)).unwrap();
    before.begin(None, |_| false);
    // Found by reporters already, but not begun: 1 ends and begins anew, 2 ends, 3 begins, 4 begins and ends.
    let report = |number, last| new.0.request(&after, &request(function(1), number, 1, last));
    assert!(report(1, true));
    assert!(!report(1, false) && !report(3, false));
    assert!(report(2, true) && report(4, true));
    after.begin(Some(&before), |number| number == 1 || number == 2);
    for (number, refused) in [(1, true), (2, false), (3, true), (4, false)] {
        assert_eq!(report(number, true), refused, "{number}");
        assert!(!report(number, true), "{number} is used again");
    }
}

#[test]
fn an_interrupt_in_the_middle_of_a_change_finds_the_routes() {
    let (unit, router, queue) = setup(4);
    router.route(function(1), &queue).unwrap();
    router.route(function(3), &queue).unwrap();
    router.unroute(function(3));
    for which in [0, 1] {
        router.interrupted(which, || {
            assert!(router.fault(&fault(function(1), which as u64)));
            assert!(!router.fault(&fault(function(2), 0)) && !router.fault(&fault(function(3), 0)));
            router.page_request(&request(function(1), 1, 1, true));
        });
        assert_eq!(read_fault(&queue).unwrap().2, which as u64);
        assert_eq!(read_group(&queue).unwrap().1, 1);
    }
    assert_eq!((router.missed(), unit.answers()), (0, Vec::new()));
}

#[test]
fn many_streams_are_kept_apart() {
    let (_, router, _) = setup(1);
    let queues: Vec<_> = (0..7).map(|_| FaultQueue::new(64).unwrap()).collect();
    let streams: Vec<_> =
        (0..20).flat_map(|id| core::iter::once(function(id)).chain((0..9).map(move |it| part(id, it)))).collect();
    let count = streams.len();
    // In an order that is not that of the streams: 77 and the count have no common divisor.
    for at in 0..count {
        let at = at * 77 % count;
        router.route(streams[at], &queues[at % 7]).unwrap();
    }
    for (at, stream) in streams.iter().enumerate() {
        if at % 3 == 0 {
            router.unroute(*stream);
        }
    }
    for (at, stream) in streams.iter().enumerate() {
        assert_eq!(router.fault(&fault(*stream, at as u64)), at % 3 != 0);
    }
    for (index, queue) in queues.iter().enumerate() {
        let expected: Vec<u64> = (0..count).filter(|at| at % 3 != 0 && at % 7 == index).map(|at| at as u64).collect();
        let read: Vec<u64> = core::iter::from_fn(|| read_fault(queue)).map(|it| it.2).collect();
        assert_eq!(read, expected);
    }
}

#[test]
fn a_queue_stays_as_long_as_streams_lead_to_it() {
    let (unit, router, queue) = setup(4);
    router.route(function(1), &queue).unwrap();
    drop(queue);
    assert!(router.fault(&fault(function(1), 1)));
    router.page_request(&request(function(1), 1, 1, true));
    assert_eq!(unit.answers(), []);
    router.unroute(function(1));
    assert_eq!(unit.answers(), [(function(1), 1, INVALID)]);
}

#[test]
fn with_its_router_a_stream_leads_nowhere() {
    let (unit, router, queue) = setup(4);
    router.route(function(1), &queue).unwrap();
    let cookie = one_in_each_stage(&router, function(1), &queue);
    let clone = router.clone();
    drop(router);
    assert_eq!(unit.answers(), []);
    drop(clone);
    assert_eq!(sorted(unit.answers()), [(function(1), 1, INVALID), (function(1), 2, INVALID)]);
    assert!(queue.respond(cookie, SUCCESS).is_err());
    assert_eq!(queue.0.held(), (0, 0));
    assert_eq!(Arc::strong_count(&unit), 1, "the queue has nothing of the unit any more");
}

#[test]
fn one_queue_serves_several_units() {
    let (one, router, queue) = setup(4);
    let (other, second, _) = setup(1);
    router.route(function(1), &queue).unwrap();
    second.route(function(1), &queue).unwrap();
    router.page_request(&request(function(1), 1, 1, false));
    second.page_request(&request(function(1), 1, 2, true));
    router.page_request(&request(function(1), 1, 3, true));
    let (second_cookie, _, pages) = read_group(&queue).unwrap();
    assert_eq!(pages, [2]);
    let (_, _, pages) = read_group(&queue).unwrap();
    assert_eq!(pages, [1, 3]);
    second.unroute(function(1));
    assert!(queue.respond(second_cookie, SUCCESS).is_err());
    assert_eq!((one.answers(), other.answers()), (Vec::new(), Vec::from([(function(1), 1, INVALID)])));
    router.unroute(function(1));
    assert_eq!(one.answers(), [(function(1), 1, INVALID)]);
}

#[test]
fn withdrawn_events_are_passed_over_a_few_at_a_time() {
    let (_, router, queue) = setup(1024);
    let fill = || {
        router.route(function(1), &queue).unwrap();
        (0..1000).for_each(|number| router.page_request(&request(function(1), number % 512, 0, true)));
        router.unroute(function(1));
        router.route(function(2), &queue).unwrap();
        router.fault(&fault(function(2), 7));
    };
    fill();
    // Each look lets reporters in.
    (0..3).for_each(|_| assert_eq!(queue.0.read_with_room(0), Err(Error::OutOfMemory)));
    assert_eq!(read_fault(&queue), Some((1000, true, 7)));
    fill();
    assert_eq!(read_fault(&queue), Some((2001, true, 7)));
    assert_eq!(queue.read(), Ok(None));
}

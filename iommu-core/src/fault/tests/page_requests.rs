//! Groups of page requests: whole or not at all, and one answer each.

use super::*;

/// Hands a group of `pages` over.
fn report(router: &FaultRouter, stream: Stream, number: u16, pages: core::ops::Range<u64>) {
    for page in pages.clone() {
        router.page_request(&request(stream, number, page, page + 1 == pages.end));
    }
}

#[test]
fn a_group_is_delivered_whole_and_answered_once() {
    let (unit, router, queue) = setup(4);
    router.route(part(1, 9), &queue).unwrap();
    for page in 0..4 {
        assert_eq!(queue.read(), Ok(None), "page {page}");
        router.page_request(&request(part(1, 9), 3, page, page == 3));
    }
    let (cookie, number, pages) = read_group(&queue).unwrap();
    assert_eq!((number, pages), (3, Vec::from([0, 1, 2, 3])));
    assert_eq!(unit.answers(), []);
    queue.respond(cookie, SUCCESS).unwrap();
    assert_eq!(unit.answers(), [(part(1, 9), 3, SUCCESS)]);
    assert!(matches!(queue.respond(cookie, SUCCESS), Err(Error::Invalid(_))));
    assert_eq!((unit.answers(), queue.0.held()), (Vec::new(), (0, 0)));
}

#[test]
fn groups_of_one_stream_and_of_several_interleave() {
    let (unit, router, queue) = setup(8);
    let streams = [function(1), function(2), part(1, 1)];
    for stream in streams {
        router.route(stream, &queue).unwrap();
    }
    for page in 0..3 {
        for (index, stream) in streams.into_iter().enumerate() {
            for number in [4, 5] {
                let page = page + 10 * index as u64 + 100 * u64::from(number);
                router.page_request(&request(stream, number, page, page % 10 == 2));
            }
        }
    }
    for (index, _) in streams.into_iter().enumerate() {
        for number in [4, 5] {
            let first = 10 * index as u64 + 100 * u64::from(number);
            let (cookie, read, pages) = read_group(&queue).unwrap();
            assert_eq!((read, pages), (number, Vec::from([first, first + 1, first + 2])));
            queue.respond(cookie, INVALID).unwrap();
        }
    }
    assert_eq!(unit.answers().len(), 6);
    assert_eq!(queue.0.held(), (0, 0));
}

#[test]
fn answers_are_success_or_invalid_by_a_cookie_that_waits() {
    let (unit, router, queue) = setup(4);
    router.route(function(1), &queue).unwrap();
    report(&router, function(1), 1, 0..1);
    // Queued, not read: no cookie of it was given, whatever is guessed.
    for raw in 0..1 << 18 {
        assert!(matches!(queue.respond(Cookie::new(raw), SUCCESS), Err(Error::Invalid(_))));
    }
    let (cookie, ..) = read_group(&queue).unwrap();
    assert!(matches!(queue.respond(cookie, ResponseCode::Failure), Err(Error::Invalid(_))));
    for raw in [cookie.get() ^ 1, cookie.get() ^ 1 << 16, cookie.get() | 1 << 63, 0, u64::MAX] {
        assert_eq!(queue.respond(Cookie::new(raw), SUCCESS).unwrap_err().errno(), 22);
    }
    let other = FaultQueue::new(4).unwrap();
    assert!(matches!(other.respond(cookie, SUCCESS), Err(Error::Invalid(_))));
    assert_eq!(unit.answers(), []);
    queue.respond(cookie, SUCCESS).unwrap();
    assert_eq!(unit.answers(), [(function(1), 1, SUCCESS)]);
}

#[test]
fn a_cookie_is_never_given_again() {
    let (_, router, queue) = setup(1);
    router.route(function(1), &queue).unwrap();
    let mut cookies = std::collections::HashSet::new();
    let mut before = None;
    for _ in 0..1000 {
        report(&router, function(1), 1, 0..1);
        let (cookie, ..) = read_group(&queue).unwrap();
        assert!(cookies.insert(cookie));
        if let Some(before) = before.replace(cookie) {
            assert!(queue.respond(before, SUCCESS).is_err(), "one of the past for another group");
        }
        queue.respond(cookie, SUCCESS).unwrap();
    }
}

#[test]
fn a_unit_that_does_not_confirm_is_asked_once() {
    let (unit, router, queue) = setup(1);
    router.route(function(1), &queue).unwrap();
    report(&router, function(1), 1, 0..2);
    let (cookie, ..) = read_group(&queue).unwrap();
    unit.dead.store(true, Ordering::Relaxed);
    assert_eq!(queue.respond(cookie, SUCCESS), Err(HwError::TimedOut(Wait::Completion).into()));
    assert!(matches!(queue.respond(cookie, SUCCESS), Err(Error::Invalid(_))));
    assert_eq!(unit.answers().len(), 1);
}

#[test]
fn what_is_nobodys_is_answered_invalid_once() {
    let (unit, router, queue) = setup(4);
    router.route(function(1), &queue).unwrap();
    report(&router, part(1, 2), 6, 0..3);
    report(&router, function(2), 600, 0..1);
    assert_eq!(unit.answers(), [(part(1, 2), 6, INVALID), (function(2), 600, INVALID)]);
    assert_eq!(queue.read(), Ok(None));
}

#[test]
fn a_group_with_too_many_requests_is_refused_at_its_end() {
    let (unit, router, queue) = setup(64);
    router.route(function(1), &queue).unwrap();
    let most = MOST_REQUESTS as u64;
    for end in [most - 1, most, most + 1, most + 2, 3 * most] {
        report(&router, function(1), 511, 0..end);
        if end <= most {
            let (cookie, _, pages) = read_group(&queue).unwrap();
            assert_eq!(pages, (0..end).collect::<Vec<_>>());
            queue.respond(cookie, SUCCESS).unwrap();
            assert_eq!(unit.answers(), [(function(1), 511, SUCCESS)]);
        } else {
            assert_eq!(unit.answers(), [(function(1), 511, INVALID)], "{end}");
            assert!(matches!(queue.read(), Ok(Some(Record { lost: true, event: Event::Lost, .. }))));
        }
        assert_eq!(queue.0.held(), (0, 0));
    }
}

#[test]
fn open_groups_are_bounded_and_those_beyond_refused() {
    let (unit, router, queue) = setup(64);
    router.route(function(1), &queue).unwrap();
    router.route(function(2), &queue).unwrap();
    let most = MOST_OPEN_GROUPS as u16;
    for number in 0..most + 3 {
        router.page_request(&request(function(1), number, 0, false));
    }
    // One request alone is never open, and another stream has its own.
    report(&router, function(1), 500, 7..8);
    report(&router, function(2), 0, 0..2);
    assert_eq!(read_group(&queue).unwrap().1, 500);
    assert_eq!(read_group(&queue).unwrap().1, 0);
    // Room comes, but what was refused stays refused, and only until its end.
    router.page_request(&request(function(1), 0, 1, true));
    assert_eq!(read_group(&queue).unwrap().2, [0, 1]);
    for page in 1..3 {
        router.page_request(&request(function(1), most, page, page == 2));
    }
    assert_eq!(unit.answers(), [(function(1), most, INVALID)]);
    assert_eq!(queue.read(), Ok(lost(3)));
    report(&router, function(1), most, 3..5);
    assert_eq!(read_group(&queue).unwrap().2, [3, 4]);
}

#[test]
fn no_room_is_answered_invalid_and_counts_as_lost() {
    let (unit, router, queue) = setup(2);
    router.route(function(1), &queue).unwrap();
    report(&router, function(1), 1, 0..1);
    router.fault(&fault(function(1), 9));
    report(&router, function(1), 2, 0..3);
    assert_eq!(unit.answers(), [(function(1), 2, INVALID)]);
    let (cookie, number, _) = read_group(&queue).unwrap();
    assert_eq!(number, 1);
    assert_eq!(read_fault(&queue), Some((1, false, 9)));
    assert_eq!(queue.read(), Ok(lost(2)));
    // As many groups as the depth wait for answers; the next is refused, though there is room for events.
    report(&router, function(1), 3, 0..1);
    report(&router, function(1), 4, 0..1);
    assert_eq!(unit.answers(), [(function(1), 4, INVALID)]);
    assert_eq!(read_group(&queue).unwrap().1, 3);
    queue.respond(cookie, SUCCESS).unwrap();
    report(&router, function(1), 5, 0..1);
    assert_eq!(unit.answers(), [(function(1), 1, SUCCESS)]);
    assert!(matches!(queue.read(), Ok(Some(Record { sequence: 5, lost: true, event: Event::PageRequests { .. } }))));
}

#[test]
fn requests_of_a_queue_are_bounded() {
    // Room for 64 requests, of two streams.
    let (unit, router, queue) = setup(4);
    router.route(function(1), &queue).unwrap();
    router.route(function(2), &queue).unwrap();
    for page in 0..60 {
        router.page_request(&request(function(1), 1, page, false));
    }
    report(&router, function(2), 1, 0..5);
    assert_eq!(unit.answers(), [(function(2), 1, INVALID)]);
    report(&router, function(2), 1, 0..4);
    assert_eq!(queue.0.held(), (2, 64));
    assert_eq!(read_group(&queue).unwrap().2.len(), 4);
    router.page_request(&request(function(1), 1, 60, true));
    assert_eq!(read_group(&queue).unwrap().2.len(), 61);
    assert_eq!(queue.0.held(), (2, 0));
}

#[test]
fn a_read_without_memory_leaves_the_group() {
    let (unit, router, queue) = setup(4);
    router.route(function(1), &queue).unwrap();
    report(&router, function(1), 1, 0..3);
    router.fault(&fault(function(1), 8));
    for room in [0, 2] {
        assert_eq!(queue.0.read_with_room(room), Err(Error::OutOfMemory));
        assert_eq!(queue.0.held(), (1, 3));
    }
    let (cookie, _, pages) = read_group(&queue).unwrap();
    assert_eq!(pages, [0, 1, 2]);
    assert_eq!(read_fault(&queue), Some((1, false, 8)), "in order, and nothing lost");
    queue.respond(cookie, SUCCESS).unwrap();
    assert_eq!(unit.answers(), [(function(1), 1, SUCCESS)]);
}

#[test]
fn a_group_of_which_a_request_was_missed_is_refused() {
    let (unit, router, queue) = setup(4);
    router.route(function(1), &queue).unwrap();
    unit.interrupt.store(true, Ordering::Relaxed);
    // Which of three requests comes while the queue is in use.
    for missed in 0..3 {
        for page in 0..3 {
            let report = || router.page_request(&request(function(1), 1, page, page == 2));
            if page == missed { queue.0.interrupted(report) } else { report() }
        }
        assert_eq!(unit.answers(), [(function(1), 1, INVALID)], "{missed}");
        assert_eq!(queue.read(), Ok(lost(2 * missed as u32)));
        assert_eq!(queue.read(), Ok(None));
        // The device uses the number again: nothing of the past is in the way, or in the group.
        report(&router, function(1), 1, 10..12);
        let (cookie, _, pages) = read_group(&queue).unwrap();
        assert_eq!(pages, [10, 11], "{missed}");
        queue.respond(cookie, SUCCESS).unwrap();
        assert_eq!(unit.answers(), [(function(1), 1, SUCCESS)]);
        assert_eq!(queue.0.held(), (0, 0));
    }
}

#[test]
fn reporting_neither_takes_nor_gives_back_memory() {
    let (_, router, queue) = setup(8);
    router.route(function(1), &queue).unwrap();
    let before = queue.0.memory();
    for round in 0..100 {
        report(&router, function(1), round, 0..u64::from(round));
        router.fault(&fault(function(1), 0));
        router.page_request(&request(function(1), 300 + round % 32, 0, false));
    }
    assert_eq!(queue.0.memory(), before);
    while queue.read().unwrap().is_some() {}
    router.unroute(function(1));
    assert_eq!(queue.0.memory(), before);
    assert_eq!(queue.0.held(), (0, 0));
}

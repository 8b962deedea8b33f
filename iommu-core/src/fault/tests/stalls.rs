//! Accesses that hardware keeps stalled: told as groups of one page request, each answered once.

use super::*;

fn stalled(stream: Stream, address: u64, tag: u16, access: AccessKind) -> Fault {
    Fault { iova: Iova::new(address), access, stalled: Some(tag), ..fault(stream, 0) }
}

#[test]
fn a_stalled_access_is_a_request_that_its_owner_answers() {
    let (unit, router, queue) = setup(8);
    router.route(part(1, 9), &queue).unwrap();
    let accesses = [
        (AccessKind::Read, Prot::READ),
        (AccessKind::Execute, Prot::READ),
        (AccessKind::Write, Prot::WRITE),
        (AccessKind::Atomic, Prot::READ_WRITE),
    ];
    for ((access, prot), tag) in accesses.into_iter().zip([0, 511, 512, u16::MAX]) {
        assert!(router.fault(&stalled(part(1, 9), 0x1234_5678_9abc, tag, access)));
        assert_eq!(unit.answers(), [], "its owner's to answer");
        let Some(Record { event: Event::PageRequests { cookie, requests }, lost: false, .. }) = queue.read().unwrap()
        else {
            panic!("{tag:#x}");
        };
        let expected =
            PageRequest { stream: part(1, 9), iova: Iova::new(0x1234_5678_9000), prot, group: tag, last: true };
        assert_eq!(requests, [expected]);
        let code = if tag == 511 { INVALID } else { SUCCESS };
        queue.respond(cookie, code).unwrap();
        assert_eq!(unit.answers(), [(part(1, 9), tag, code)]);
        assert!(queue.respond(cookie, code).is_err(), "once");
    }
    assert_eq!(queue.0.held(), (0, 0));
}

#[test]
fn a_stalled_access_of_nobody_is_refused_at_once() {
    let (unit, router, queue) = setup(8);
    router.route(function(1), &queue).unwrap();
    for stream in [function(2), part(1, 9)] {
        assert!(!router.fault(&stalled(stream, 0x1000, 7, AccessKind::Read)), "nobody knows of it");
        assert_eq!(unit.answers(), [(stream, 7, INVALID)]);
    }
    assert_eq!(queue.read(), Ok(None));
}

#[test]
fn what_finds_no_room_is_refused_and_counted() {
    let (unit, router, queue) = setup(2);
    router.route(function(1), &queue).unwrap();
    for tag in 0..4 {
        assert!(router.fault(&stalled(function(1), 0x1000, tag, AccessKind::Write)), "its owner's, room or not");
    }
    assert_eq!(unit.answers(), [(function(1), 2, INVALID), (function(1), 3, INVALID)]);
    assert_eq!((read_group(&queue).unwrap().1, read_group(&queue).unwrap().1), (0, 1));
    assert_eq!(queue.read(), Ok(lost(3)));
    // A fault that is none of these finds the room that there is.
    assert!(router.fault(&fault(function(1), 5)));
    assert_eq!(read_fault(&queue), Some((4, false, 5)));
}

#[test]
fn nothing_stays_stalled_when_its_stream_leaves_or_its_owner_is_interrupted() {
    let (unit, router, queue) = setup(4);
    router.route(function(1), &queue).unwrap();
    for tag in [600, 601] {
        router.fault(&stalled(function(1), 0x1000, tag, AccessKind::Read));
    }
    let (cookie, ..) = read_group(&queue).unwrap();
    // One is with its owner, one still to be read.
    router.unroute(function(1));
    let mut answers = unit.answers();
    answers.sort_by_key(|answer| answer.1);
    assert_eq!(answers, [(function(1), 600, INVALID), (function(1), 601, INVALID)]);
    assert!(queue.respond(cookie, SUCCESS).is_err());

    router.route(function(1), &queue).unwrap();
    unit.interrupt.store(true, Ordering::Relaxed);
    queue.0.interrupted(|| {
        assert!(router.fault(&stalled(function(1), 0x1000, 602, AccessKind::Read)));
    });
    assert_eq!(unit.answers(), [(function(1), 602, INVALID)]);
    router.interrupted(0, || {
        assert!(router.fault(&stalled(function(1), 0x1000, 603, AccessKind::Read)), "the other table has the route");
    });
    assert_eq!((unit.answers(), read_group(&queue).map(|group| group.1)), (Vec::new(), Some(603)));
}

//! Reporters, readers and changes of routes at once.

use super::*;
use core::sync::atomic::AtomicU64;
use std::thread;

#[test]
fn every_group_gets_one_answer_whatever_happens() {
    const GROUPS: u64 = 4000;
    let (unit, router, queue) = setup(16);
    let other = FaultQueue::new(16).unwrap();
    router.route(function(1), &queue).unwrap();
    let done = AtomicBool::new(false);
    let answered = AtomicU64::new(0);
    thread::scope(|scope| {
        for queue in [&queue, &other] {
            scope.spawn(|| {
                loop {
                    let ended = done.load(Ordering::Acquire);
                    while let Some(record) = queue.read().unwrap() {
                        let Event::PageRequests { cookie, requests } = record.event else { continue };
                        // Three requests each, and all of the same group.
                        let first = requests[0].iova.get() >> 12;
                        let pages: Vec<_> = requests.iter().map(|it| it.iova.get() >> 12).collect();
                        assert_eq!(pages, [first, first + 1, first + 2]);
                        assert_eq!(first % 3, 0);
                        if queue.respond(cookie, SUCCESS).is_ok() {
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    if ended {
                        break;
                    }
                    thread::yield_now();
                }
            });
        }
        scope.spawn(|| {
            let mut turn = 0;
            while !done.load(Ordering::Acquire) {
                turn += 1;
                router.route(function(1), if turn % 2 == 0 { &queue } else { &other }).unwrap();
                thread::yield_now();
            }
        });
        for group in 0..GROUPS {
            for page in 0..3 {
                router.page_request(&request(function(1), (group % 512) as u16, group * 3 + page, page == 2));
            }
            router.fault(&fault(function(1), group));
        }
        done.store(true, Ordering::Release);
    });
    router.unroute(function(1));
    let answers = unit.answers();
    let successes = answers.iter().filter(|(.., code)| *code == SUCCESS).count() as u64;
    assert_eq!(answers.len() as u64, GROUPS, "one answer each");
    assert_eq!(successes, answered.load(Ordering::Relaxed));
    assert_eq!((queue.0.held(), other.0.held()), ((0, 0), (0, 0)));
}

#[test]
fn sequences_account_for_every_fault() {
    const FAULTS: u64 = 20_000;
    let (_, router, queue) = setup(8);
    router.route(function(1), &queue).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut expected, mut read) = (0, 0u64);
            loop {
                let ended = done.load(Ordering::Acquire);
                while let Some(record) = queue.read().unwrap() {
                    assert_eq!(record.lost, record.sequence != expected || record.event == Event::Lost);
                    assert!(record.sequence >= expected);
                    expected = record.sequence + 1;
                    read += u64::from(record.event != Event::Lost);
                }
                if ended {
                    return (expected, read);
                }
                thread::yield_now();
            }
        });
        let reporters = [0, 1].map(|_| {
            scope.spawn(|| (0..FAULTS / 2).filter(|number| !router.fault(&fault(function(1), *number))).count())
        });
        let nobodys: usize = reporters.map(|it| it.join().unwrap()).into_iter().sum();
        done.store(true, Ordering::Release);
        let (sequences, read) = reader.join().unwrap();
        assert_eq!(u64::from(sequences) + nobodys as u64, FAULTS);
        assert!(read > 0);
    });
}

//! Faults in a bounded queue.

use super::*;
use crate::quota::{Account, Amounts, Resource};

#[test]
fn a_queue_has_a_depth() {
    for depth in [0, MOST_EVENTS + 1, usize::MAX] {
        assert!(matches!(FaultQueue::new(depth), Err(Error::Invalid(_))), "{depth}");
    }
    for depth in [1, 2, MOST_EVENTS] {
        let (_, router, queue) = setup(depth);
        router.route(function(1), &queue).unwrap();
        for number in 0..depth as u64 + 1 {
            assert!(router.fault(&fault(function(1), number)));
        }
        for number in 0..depth as u64 {
            assert_eq!(read_fault(&queue), Some((number as u32, false, number)));
        }
        // The one beyond.
        assert_eq!(queue.read(), Ok(lost(depth as u32)));
        assert_eq!(queue.read(), Ok(None));
    }
}

#[test]
fn a_queue_is_paid_for() {
    platform();
    let account = Account::new(Amounts { metadata: 100_000, ..Amounts::NONE }).unwrap();
    let used = || account.usage().metadata;
    let queue = FaultQueue::charged_to(&account, 100).unwrap();
    // What its documentation says, and a bit for the queue itself.
    assert!((16_000..20_000).contains(&used()), "{}", used());
    assert_eq!(account.usage(), Amounts { metadata: used(), ..Amounts::NONE });
    let before = used();
    assert_eq!(FaultQueue::charged_to(&account, 1000).err(), Some(Error::Quota(Resource::Metadata)));
    assert!(matches!(FaultQueue::charged_to(&account, 0), Err(Error::Invalid(_))));
    assert_eq!(used(), before);
    drop((queue.clone(), queue));
    assert_eq!(used(), 0);
}

#[test]
fn faults_are_read_in_order_and_nothing_is_lost() {
    let (_, router, queue) = setup(3);
    router.route(function(1), &queue).unwrap();
    assert_eq!(queue.read(), Ok(None));
    let mut read = 0;
    for number in 0..100 {
        assert!(router.fault(&fault(function(1), number)));
        if number % 3 == 2 {
            for _ in 0..3 {
                assert_eq!(read_fault(&queue), Some((read, false, read.into())));
                read += 1;
            }
            assert_eq!(queue.read(), Ok(None));
        }
    }
}

#[test]
fn lost_events_are_counted_and_seen() {
    let (_, router, queue) = setup(2);
    router.route(function(1), &queue).unwrap();
    let report = |numbers: core::ops::Range<u64>| numbers.for_each(|it| assert!(router.fault(&fault(function(1), it))));
    // 0 and 1 fit, 2 to 4 do not, 5 finds the room of 0.
    report(0..5);
    assert_eq!(read_fault(&queue), Some((0, false, 0)));
    report(5..6);
    assert_eq!(read_fault(&queue), Some((1, false, 1)));
    assert_eq!(read_fault(&queue), Some((5, true, 5)));
    assert_eq!(queue.read(), Ok(None));
    // Lost, and nothing comes after.
    report(6..9);
    assert_eq!(read_fault(&queue), Some((6, false, 6)));
    assert_eq!(read_fault(&queue), Some((7, false, 7)));
    assert_eq!(queue.read(), Ok(lost(8)));
    assert_eq!(queue.read(), Ok(None));
    // It was told of: the next one has nothing missing before it.
    report(9..10);
    assert_eq!(read_fault(&queue), Some((9, false, 9)));
}

#[test]
fn the_sequence_wraps() {
    let (_, router, queue) = setup(1);
    router.route(function(1), &queue).unwrap();
    queue.0.start_at(u64::from(u32::MAX) - 1);
    let mut seen = Vec::new();
    for number in 0..4 {
        router.fault(&fault(function(1), number));
        seen.push(read_fault(&queue).unwrap());
    }
    assert_eq!(seen, [(u32::MAX - 1, false, 0), (u32::MAX, false, 1), (0, false, 2), (1, false, 3)]);
}

#[test]
fn what_comes_while_a_reader_has_the_queue_is_counted() {
    let (unit, router, queue) = setup(4);
    router.route(function(1), &queue).unwrap();
    router.fault(&fault(function(1), 0));
    unit.interrupt.store(true, Ordering::Relaxed);
    queue.0.interrupted(|| {
        assert!(router.fault(&fault(function(1), 1)), "its owner is told, by the sequence");
        router.page_request(&request(function(1), 7, 1, true));
    });
    router.fault(&fault(function(1), 2));
    assert_eq!(unit.answers(), [(function(1), 7, INVALID)]);
    assert_eq!(read_fault(&queue), Some((0, false, 0)));
    assert_eq!(read_fault(&queue), Some((3, true, 2)));
    queue.0.interrupted(|| assert!(router.fault(&fault(function(1), 3))));
    assert_eq!(queue.read(), Ok(lost(4)));
    assert_eq!(queue.read(), Ok(None));
}

#[test]
fn a_fault_goes_to_the_owner_of_exactly_that_stream() {
    let (_, router, whole) = setup(4);
    let pasid = FaultQueue::new(4).unwrap();
    router.route(function(1), &whole).unwrap();
    router.route(part(1, 5), &pasid).unwrap();
    assert!(router.fault(&fault(function(1), 10)));
    assert!(router.fault(&fault(part(1, 5), 11)));
    // Another PASID of the function, and other functions, are nobody's.
    assert!(!router.fault(&fault(part(1, 6), 12)));
    assert!(!router.fault(&fault(part(1, 0), 13)));
    assert!(!router.fault(&fault(function(2), 14)));
    assert!(!router.fault(&fault(part(2, 5), 15)));
    assert_eq!(read_fault(&whole), Some((0, false, 10)));
    assert_eq!(read_fault(&pasid), Some((0, false, 11)));
    assert_eq!((whole.read(), pasid.read()), (Ok(None), Ok(None)));
}

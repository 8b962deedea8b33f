//! Seats alone.

use super::super::seats::{Outcome, SEATS, Seats};
use core::sync::atomic::{AtomicU32, Ordering};

#[test]
fn of_several_refusals_the_first_counts() {
    let seats = Seats::new();
    let seat = seats.take().unwrap();
    seats.refuse(seat, 3, 10);
    seats.refuse(seat, 4, 20);
    seats.resolve(1 << seat, Outcome::Confirmed(7));
    assert_eq!(seats.outcome(seat), Some(Outcome::Refused { code: 3, entry: 10 }));
}

#[test]
fn every_device_can_be_named() {
    let seats = Seats::new();
    let retrying = AtomicU32::new(0);
    for source in [None, Some(0), Some(1), Some(0x8000_0000), Some(u32::MAX)] {
        let seat = seats.take().unwrap();
        seats.abort(1 << seat, source, &retrying);
        assert_eq!(seats.outcome(seat), Some(Outcome::Aborted(source)));
    }
    assert_eq!(retrying.load(Ordering::Relaxed), 5, "each was told");
}

#[test]
fn whoever_was_refused_an_item_does_not_go_again() {
    let seats = Seats::new();
    let retrying = AtomicU32::new(0);
    let [refused, other, gone] = [(); 3].map(|()| seats.take().unwrap());
    seats.refuse(refused, 1, 2);
    assert_eq!(seats.leave(gone), None);
    seats.abort(1 << refused | 1 << other | 1 << gone, Some(5), &retrying);
    assert_eq!(seats.outcome(refused), Some(Outcome::Refused { code: 1, entry: 2 }));
    assert_eq!(seats.outcome(other), Some(Outcome::Aborted(Some(5))));
    assert_eq!(retrying.load(Ordering::Relaxed), 1, "one of three goes again");
    // All are free.
    assert!((0..SEATS).all(|_| seats.take().is_some()) && seats.take().is_none());
}

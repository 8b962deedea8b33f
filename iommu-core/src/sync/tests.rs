//! What the checks of debug builds see, and that nobody waits for ever.

use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;

extern crate std;

/// Whether `does` panics.
fn panics(does: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(does)).is_err()
}

#[test]
fn locks_are_taken_in_the_order_of_their_ranks() {
    crate::test_support::platform();
    let (low, high) = (Mutex::new(Rank::Space, 1), Mutex::new(Rank::Ledger, 2));
    {
        let one = low.lock();
        let other = high.lock();
        assert_eq!(*one + *other, 3);
    }
    // Given back in any order.
    let one = low.lock();
    let other = high.lock();
    drop(one);
    assert!(panics(|| drop(low.lock())), "a lower rank above a higher one");
    drop(other);
    drop(low.lock());
}

#[test]
fn two_locks_of_one_rank_are_never_held() {
    crate::test_support::platform();
    let (one, other) = (Mutex::new(Rank::Space, ()), Mutex::new(Rank::Space, ()));
    let held = one.lock();
    assert!(panics(|| drop(other.lock())));
    drop(held);
    drop(other.lock());
    let readers = RwLock::new(Rank::Members, ());
    let held = readers.read();
    // With a writer waiting in between this would never end.
    assert!(panics(|| drop(readers.read())));
    drop(held);
}

#[test]
fn what_does_not_wait_is_in_order_after_any_lock() {
    crate::test_support::platform();
    let (one, other) = (Mutex::new(Rank::Faults, ()), Mutex::new(Rank::Faults, ()));
    let table = RwLock::new(Rank::Faults, ());
    let held = one.lock();
    // A handler that has interrupted whoever holds it.
    assert!(other.try_lock().is_some() && table.try_read().is_some() && one.try_lock().is_none());
    // What was interrupted still counts as held.
    assert!(panics(|| drop(other.lock())));
    drop(held);
    assert_none_held();
    let held = other.try_lock();
    assert!(panics(assert_none_held));
    drop(held);
    let held = table.write();
    assert!(table.try_read().is_none());
    drop(held);
    assert_none_held();
    // A writer that waits comes first.
    let held = table.read();
    std::thread::scope(|scope| {
        scope.spawn(|| drop(table.write()));
        let begun = std::time::Instant::now();
        while table.try_read().is_some() {
            assert!(begun.elapsed().as_secs() < 20);
            std::thread::yield_now();
        }
        drop(held);
    });
}

#[test]
fn the_embedder_is_called_without_locks() {
    crate::test_support::platform();
    let lock = Mutex::new(Rank::Pages, ());
    assert_none_held();
    let held = lock.lock();
    assert!(panics(assert_none_held));
    drop(held);
    assert_none_held();
    let members = RwLock::new(Rank::Members, ());
    let held = members.read();
    assert!(panics(assert_none_held));
    drop(held);
}

#[test]
fn other_cpus_locks_do_not_count() {
    crate::test_support::platform();
    let (low, high) = (Mutex::new(Rank::Space, ()), Mutex::new(Rank::Ledger, ()));
    let held = high.lock();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_none_held();
            drop(low.lock());
        });
    });
    drop(held);
}

#[test]
fn a_writer_gets_its_turn_among_readers_who_never_pause() {
    crate::test_support::platform();
    let lock = RwLock::new(Rank::Members, 0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seen = lock.read();
                    std::thread::yield_now();
                    assert!(*seen <= 100);
                }
            });
        }
        for _ in 0..100 {
            *lock.write() += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(*lock.read(), 100);
}

#[test]
fn a_lock_that_another_has_can_be_passed_by() {
    crate::test_support::platform();
    let lock = Mutex::new(Rank::Faults, 7);
    let held = lock.lock();
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(lock.try_lock().is_none()));
    });
    drop(held);
    assert_eq!(lock.try_lock().map(|value| *value), Some(7));
}

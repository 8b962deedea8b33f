use super::*;
use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;
use std::vec::Vec;

fn range(start: u64, len: u64) -> IovaRange {
    IovaRange::from_len(Iova::new(start), len).unwrap()
}

/// Whether `range` gets its turn at once. Ends in a panic of the hook where it does not.
fn at_once(claims: &Claims, range: IovaRange) -> bool {
    let entered = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| {
        drop(claims.enter(range, || std::panic::panic_any("waits")));
    }));
    entered.is_ok()
}

#[test]
fn ranges_overlap_where_they_share_an_address() {
    let claims = Claims::new();
    let _turn = claims.enter(range(0x2000, 0x2000), || unreachable!());
    for (start, len, free) in [
        (0, 0x2000, true),
        (0, 0x2001, false),
        (0x1fff, 1, true),
        (0x2000, 1, false),
        (0x3fff, 1, false),
        (0x4000, 1, true),
        (0x4000, u64::MAX - 0x3fff, true),
        (0, u64::MAX, false),
        (0x2800, 0x100, false),
    ] {
        assert_eq!(at_once(&claims, range(start, len)), free, "{len:#x} bytes at {start:#x}");
    }
    assert!(!at_once(&claims, IovaRange::FULL));
}

#[test]
fn a_turn_is_over_when_it_is_dropped() {
    let claims = Claims::new();
    for _ in 0..3 * SLOTS {
        let turns: Vec<_> = (0..3).map(|n| claims.enter(range(n * 0x1000, 0x1000), || unreachable!())).collect();
        assert!(!at_once(&claims, range(0x2000, 1)));
        drop(turns);
    }
    drop(claims.enter(IovaRange::FULL, || unreachable!()));
}

#[test]
fn slots_in_use_stay_few() {
    let claims = Claims::new();
    let mut turns: Vec<_> = (0..8).map(|n| Some(claims.enter(range(n, 1), || unreachable!()))).collect();
    assert_eq!(claims.used.load(Ordering::Relaxed), 8);
    // The lowest free slot is taken, and those above the highest in use are looked at no more.
    (2..8).for_each(|n| turns[n] = None);
    turns[0] = None;
    let again = claims.enter(range(100, 1), || unreachable!());
    assert!(core::ptr::eq(again.slot, &claims.slots[0]));
    assert_eq!(claims.used.load(Ordering::Relaxed), 2);
}

#[test]
fn who_finds_no_slot_waits_for_one() {
    let claims = Claims::new();
    let turns: Vec<_> = (0..SLOTS as u64).map(|n| claims.enter(range(n, 1), || unreachable!())).collect();
    let turns = Cell::new(turns);
    let waited = Cell::new(0);
    let turn = claims.enter(range(1000, 1), || {
        waited.set(waited.get() + 1);
        if waited.get() == 5 {
            let mut left = turns.take();
            drop(left.swap_remove(7));
            turns.set(left);
        }
    });
    assert_eq!(waited.get(), 5);
    assert!(core::ptr::eq(turn.slot, &claims.slots[7]));
    assert_eq!(turns.take().len(), SLOTS - 1);
}

/// The one that was entered first has its turn first, whoever else comes into the slots in between.
#[test]
fn nobody_waits_for_who_came_later() {
    let claims = Claims::new();
    let first = Cell::new(Some(claims.enter(range(0, 0x1000), || unreachable!())));
    let later = Cell::new(None);
    let waited = Cell::new(0);
    // Waits for the first. Meanwhile that ends, and somebody who overlaps it, but not what waits, takes its slot.
    let turn = claims.enter(range(0x800, 0x1000), || {
        waited.set(waited.get() + 1);
        assert!(waited.get() <= 3, "waits for one that came later");
        assert!(!at_once(&claims, range(0x1000, 0x10)), "overtakes one that waits");
        if waited.get() == 3 {
            first.set(None);
            later.set(Some(claims.enter(range(0, 0x800), || unreachable!())));
        }
    });
    assert_eq!(waited.get(), 3);
    assert!(core::ptr::eq(later.take().unwrap().slot, &claims.slots[0]));
    assert!(!at_once(&claims, range(0x17ff, 1)) && at_once(&claims, range(0x1800, 1)));
    drop(turn);
}

#[test]
fn what_reaches_out_of_the_aperture_is_cut() {
    let aperture = range(0, 1 << 39);
    let cases = [
        (Some(range(0x1000, 0x1000)), range(0x1000, 0x1000)),
        (Some(IovaRange::FULL), aperture),
        (Some(range((1 << 39) - 1, 2)), range((1 << 39) - 1, 1)),
        (Some(range(1 << 39, 0x1000)), range(0, 1)),
        (None, range(0, 1)),
    ];
    for (asked, part) in cases {
        assert_eq!(part_of(aperture, asked), part, "{asked:?}");
    }
}

/// Threads that each work on some range of a few cells: no cell ever has two that work on it.
#[test]
fn no_address_has_two_turns_at_a_time() {
    const THREADS: u64 = 4;
    const CELLS: u64 = 12;
    const TURNS: u64 = if cfg!(miri) { 50 } else { 20_000 };
    let claims = Claims::new();
    let cells: [AtomicU32; CELLS as usize] = [const { AtomicU32::new(0) }; CELLS as usize];
    let most = Mutex::new(0);
    let at_work = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (claims, cells, most, at_work) = (&claims, &cells, &most, &at_work);
            scope.spawn(move || {
                let mut state = thread + 1;
                let mut together = 0;
                for _ in 0..TURNS {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let start = (state >> 33) % CELLS;
                    let len = 1 + (state >> 50) % (CELLS - start).min(4);
                    let turn = claims.enter(range(start, len), std::thread::yield_now);
                    together = together.max(1 + at_work.fetch_add(1, Ordering::Relaxed));
                    let mine = &cells[start as usize..(start + len) as usize];
                    mine.iter().for_each(|cell| assert_eq!(cell.fetch_add(1, Ordering::Relaxed), 0, "cell in use"));
                    if state >> 20 & 3 == 0 {
                        std::thread::yield_now();
                    }
                    mine.iter().for_each(|cell| assert_eq!(cell.fetch_sub(1, Ordering::Relaxed), 1, "cell in use"));
                    at_work.fetch_sub(1, Ordering::Relaxed);
                    drop(turn);
                }
                let mut most = most.lock().unwrap();
                *most = together.max(*most);
            });
        }
    });
    assert!(most.into_inner().unwrap() >= 2, "no two ever worked side by side");
    assert_eq!(claims.newest.into_inner(), THREADS * TURNS);
}

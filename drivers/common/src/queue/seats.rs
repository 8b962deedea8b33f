//! Seats: how a caller learns what became of its items, whoever saw it first.
//!
//! A caller takes a seat, and polls it. Whoever leads resolves it; a caller that waits no longer leaves it. The second of
//! the two frees it, so that neither needs a lock.

use super::Marker;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Callers at once; more wait for a seat.
pub(super) const SEATS: usize = 64;

/// A set of seats.
pub(super) type Set = u64;

/// What became of the items of a caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// Hardware confirmed all of them, by the wait with this marker.
    Confirmed(Marker),
    /// Hardware refused one.
    Refused {
        /// Why.
        code: u8,
        /// Its first word.
        entry: u64,
    },
    /// A device TLB did not answer; nobody knows which of the round's items were done. The device, where it is known: of
    /// this round, or left over from an earlier one.
    Aborted(Option<u32>),
    /// The unit does not answer any more.
    Gone,
}

const WAITING: u32 = 0;
const LEFT: u32 = 1;
const CONFIRMED: u32 = 2;
const REFUSED: u32 = 3;
const ABORTED: u32 = 4;
const GONE: u32 = 5;

/// In [`Seat::note`]: there is one.
const NOTED: u32 = 1 << 31;

// A line of its own: callers poll.
#[repr(align(64))]
struct Seat {
    state: AtomicU32,
    /// Marker, or code of the refusal with [`NOTED`], or [`NOTED`] where [`Seat::entry`] is a device.
    note: AtomicU32,
    /// What was refused, or the device.
    entry: AtomicU64,
}

impl Seat {
    const fn new() -> Self {
        Self { state: AtomicU32::new(WAITING), note: AtomicU32::new(0), entry: AtomicU64::new(0) }
    }
}

pub(super) struct Seats {
    free: AtomicU64,
    seats: [Seat; SEATS],
}

/// The seats in a set.
fn each(mut set: Set) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let seat = set.trailing_zeros() as usize;
        set &= set.wrapping_sub(1);
        (seat < SEATS).then_some(seat)
    })
}

impl Seats {
    pub(super) fn new() -> Self {
        Self { free: AtomicU64::new(Set::MAX), seats: [const { Seat::new() }; SEATS] }
    }

    /// Takes a free seat. Two callers must not do this at once.
    pub(super) fn take(&self) -> Option<usize> {
        let index = self.free.load(Ordering::Acquire).trailing_zeros() as usize;
        let seat = self.seats.get(index)?;
        self.free.fetch_and(!(1 << index), Ordering::Relaxed);
        seat.note.store(0, Ordering::Relaxed);
        seat.state.store(WAITING, Ordering::Relaxed);
        Some(index)
    }

    /// What became of the caller's items; the seat is free after that. `None` while nobody knows.
    pub(super) fn outcome(&self, index: usize) -> Option<Outcome> {
        let seat = self.seats.get(index)?;
        let state = seat.state.load(Ordering::Acquire);
        if state == WAITING {
            return None;
        }
        let (note, entry) = (seat.note.load(Ordering::Relaxed), seat.entry.load(Ordering::Relaxed));
        self.release(index);
        Some(match state {
            CONFIRMED => Outcome::Confirmed(note),
            REFUSED => Outcome::Refused { code: note as u8, entry },
            ABORTED => Outcome::Aborted((note & NOTED != 0).then_some(entry as u32)),
            _ => Outcome::Gone,
        })
    }

    /// Whether the outcome is there.
    pub(super) fn is_resolved(&self, index: usize) -> bool {
        self.seats.get(index).is_some_and(|seat| seat.state.load(Ordering::Relaxed) != WAITING)
    }

    /// Leaves without an outcome, unless it has just come.
    pub(super) fn leave(&self, index: usize) -> Option<Outcome> {
        let seat = self.seats.get(index)?;
        match seat.state.compare_exchange(WAITING, LEFT, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => None,
            Err(_) => self.outcome(index),
        }
    }

    /// Whether anybody in `set` still waits.
    pub(super) fn anybody(&self, set: Set) -> bool {
        each(set).any(|index| !self.is_resolved(index))
    }

    /// Notes that hardware refused an item of this caller; the first one counts.
    pub(super) fn refuse(&self, index: usize, code: u8, entry: u64) {
        if let Some(seat) = self.seats.get(index)
            && seat.note.load(Ordering::Relaxed) & NOTED == 0
        {
            seat.entry.store(entry, Ordering::Relaxed);
            seat.note.store(u32::from(code) | NOTED, Ordering::Relaxed);
        }
    }

    /// Tells everybody in `set`; those that hardware refused an item of are told that.
    pub(super) fn resolve(&self, set: Set, outcome: Outcome) {
        for index in each(set) {
            self.resolve_one(index, outcome);
        }
    }

    /// As [`Seats::resolve`] with [`Outcome::Aborted`]. `retrying` counts those that are told so, each before it is.
    pub(super) fn abort(&self, set: Set, source: Option<u32>, retrying: &AtomicU32) {
        for index in each(set) {
            retrying.fetch_add(1, Ordering::Relaxed);
            if !self.resolve_one(index, Outcome::Aborted(source)) {
                retrying.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Whether the caller was still there, and was told this very outcome.
    fn resolve_one(&self, index: usize, outcome: Outcome) -> bool {
        let Some(seat) = self.seats.get(index) else { return false };
        let refused = seat.note.load(Ordering::Relaxed) & NOTED != 0;
        let (state, note) = match outcome {
            _ if refused => (REFUSED, seat.note.load(Ordering::Relaxed)),
            Outcome::Confirmed(marker) => (CONFIRMED, marker),
            Outcome::Refused { code, entry } => {
                seat.entry.store(entry, Ordering::Relaxed);
                (REFUSED, u32::from(code))
            }
            Outcome::Aborted(source) => {
                seat.entry.store(source.unwrap_or(0).into(), Ordering::Relaxed);
                (ABORTED, if source.is_some() { NOTED } else { 0 })
            }
            Outcome::Gone => (GONE, 0),
        };
        seat.note.store(note, Ordering::Relaxed);
        let there = seat.state.swap(state, Ordering::AcqRel) == WAITING;
        if !there {
            self.release(index);
        }
        there && !refused
    }

    fn release(&self, index: usize) {
        self.free.fetch_or(1 << index, Ordering::Release);
    }
}

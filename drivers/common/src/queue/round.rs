//! Rounds: what is written, what hardware is working on, and the passage from one to the other.
//!
//! All of this is under one lock, which nobody holds while hardware is waited for.

use super::seats::{SEATS, Seats, Set};
use super::{Marker, Ring, slots, write_all};
use iommu_hal::Hal;
use iommu_hal::wait::Deadline;

/// A round that hardware was told of, or is about to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    /// Who is in it and was not told yet.
    pub(super) seats: Set,
    /// Its first place.
    pub(super) first: u64,
    /// The place of its wait, the last.
    pub(super) wait: u64,
    /// What that reports.
    pub(super) marker: Marker,
}

/// Places that a caller's items take.
#[derive(Clone, Copy, Default)]
struct Span {
    first: u64,
    len: u64,
}

/// Who goes next, and how long that is kept for him: one for whom there was no room.
#[derive(Clone, Copy)]
struct Turn {
    ticket: u64,
    until: Deadline,
}

pub(super) struct State {
    /// The oldest place that hardware may still read.
    head: u64,
    /// Up to here hardware was told.
    rung: u64,
    /// The next place to be written.
    tail: u64,
    /// Who has written from `rung` on.
    open: Set,
    pub(super) flight: Option<Flight>,
    marker: Marker,
    spans: [Span; SEATS],
    turn: Option<Turn>,
    tickets: u64,
    /// While callers retry after a device TLB did not answer, and until then at most, no others with invalidations of
    /// device TLBs are let in.
    pub(super) quarantine: Option<Deadline>,
}

/// What a caller brings along.
#[derive(Clone, Copy, Default)]
pub(super) struct Ticket(u64);

impl State {
    pub(super) const fn new() -> Self {
        Self {
            head: 0,
            rung: 0,
            tail: 0,
            open: 0,
            flight: None,
            marker: 0,
            spans: [Span { first: 0, len: 0 }; SEATS],
            turn: None,
            tickets: 0,
            quarantine: None,
        }
    }

    /// As if so many waits had been before.
    #[cfg(any(test, feature = "probe"))]
    pub(super) fn start_at(&mut self, marker: Marker) {
        self.marker = marker;
    }

    /// Whether somebody else is to go first.
    pub(super) fn must_wait<H: Hal>(&mut self, hal: &H, ticket: Ticket) -> bool {
        match self.turn {
            Some(turn) if turn.ticket != ticket.0 && !turn.until.has_passed(hal) => true,
            Some(turn) if turn.ticket != ticket.0 => {
                // He gave up.
                self.turn = None;
                false
            }
            _ => false,
        }
    }

    /// Has everybody else wait until this caller was let in, or has given up.
    pub(super) fn claim_turn(&mut self, ticket: &mut Ticket, until: Deadline) {
        if ticket.0 == 0 {
            self.tickets += 1;
            *ticket = Ticket(self.tickets);
        }
        self.turn = Some(Turn { ticket: ticket.0, until });
    }

    /// Has nobody wait for this caller.
    pub(super) fn give_way(&mut self, ticket: Ticket) {
        if self.turn.is_some_and(|turn| turn.ticket == ticket.0) {
            self.turn = None;
        }
    }

    /// Whether hardware has nothing to do, and nobody has written.
    pub(super) fn is_idle(&self) -> bool {
        self.flight.is_none() && self.open == 0
    }

    /// Writes `part`, of at most [`Ring::most`] slots, into the round that is open; the caller's seat. `None` where there is
    /// no room.
    pub(super) fn join<M: Ring>(&mut self, ring: &M, seats: &Seats, part: &[M::Item], ticket: Ticket) -> Option<usize> {
        let len = slots::<M>(part);
        // The wait comes on top, and where the ring needs it one slot stays free.
        if self.tail - self.head + len > ring.most() {
            return None;
        }
        let seat = seats.take()?;
        let span = self.spans.get_mut(seat)?;
        write_all(ring, self.tail, part)?;
        *span = Span { first: self.tail, len };
        self.tail += len;
        self.open |= 1 << seat;
        self.give_way(ticket);
        Some(seat)
    }

    /// Ends the open round with a wait, where somebody is in it and no other is in flight. Whoever does this leads, and
    /// tells hardware.
    pub(super) fn close<M: Ring>(&mut self, ring: &M) -> Option<Flight> {
        if self.flight.is_some() || self.open == 0 {
            return None;
        }
        let marker = ring.marker(self.marker, self.tail);
        ring.write_wait(self.tail, marker, false)?;
        ring.written(self.tail, 1);
        let flight = Flight { seats: self.open, first: self.rung, wait: self.tail, marker };
        self.marker = marker;
        self.tail += 1;
        self.rung = self.tail;
        self.open = 0;
        self.flight = Some(flight);
        self.flight
    }

    /// Hardware has read everything of the round in flight.
    pub(super) fn land(&mut self) {
        if let Some(flight) = self.flight.take() {
            self.head = flight.wait + 1;
        }
    }

    /// The round in flight will not be confirmed, but hardware may still read it.
    pub(super) fn abandon(&mut self) {
        self.flight = None;
    }

    /// Takes everybody out of both rounds: they are told that nothing was confirmed. What hardware was not told of is
    /// taken back; the round in flight stays until hardware has read it.
    pub(super) fn evict(&mut self) -> Set {
        self.tail = self.rung;
        let flight = self.flight.as_mut().map_or(0, |flight| core::mem::take(&mut flight.seats));
        flight | core::mem::take(&mut self.open)
    }

    /// Hardware reads on from `position`, a place modulo `period`: what lies before it is free.
    pub(super) fn reclaim(&mut self, position: u64, period: u64) {
        let read = position.wrapping_sub(self.head) % period;
        if self.head + read <= self.rung {
            self.head += read;
        }
    }

    /// Whether hardware was told of what stands at `position`, and has not read it by all that is known.
    pub(super) fn is_pending(&self, position: u64, period: u64) -> bool {
        position.wrapping_sub(self.head) % period < self.rung - self.head
    }

    /// Up to here hardware was told.
    pub(super) fn rung(&self) -> u64 {
        self.rung
    }

    /// The place in the round in flight that `position`, modulo `period`, stands for.
    pub(super) fn place(&self, flight: &Flight, position: u64, period: u64) -> Option<u64> {
        let place = flight.first + position.wrapping_sub(flight.first) % period;
        (place <= flight.wait).then_some(place)
    }

    /// Who of the round in flight has written nothing but what `is_done` says, all of it before `end`.
    pub(super) fn done_before(&self, flight: &Flight, end: u64, is_done: impl Fn(u64) -> bool) -> Set {
        let seats = self.spans.iter().enumerate().filter(|(seat, _)| flight.seats >> seat & 1 != 0);
        let done = seats.filter(|(_, span)| {
            let last = span.first + span.len;
            span.len != 0 && last <= end && (span.first..last).all(&is_done)
        });
        done.fold(0, |set, (seat, _)| set | 1 << seat)
    }

    /// Who of the round in flight has written `place`.
    pub(super) fn owner(&self, flight: &Flight, place: u64) -> Option<usize> {
        let seats = self.spans.iter().enumerate().filter(|(seat, _)| flight.seats >> seat & 1 != 0);
        seats.into_iter().find(|(_, span)| (span.first..span.first + span.len).contains(&place)).map(|(seat, _)| seat)
    }
}

//! What drivers' unit tests do to a queue: stand in for CPUs that were held up, and look at what nobody else sees. In
//! production the feature `probe` is off.

use super::group::Queue;
use super::round::Ticket;
use super::seats::Outcome;
use super::{Marker, Ring};
use core::sync::atomic::Ordering;

/// What a caller was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// All was confirmed, by the wait with this marker.
    Confirmed(Marker),
    /// Hardware refused one of its items.
    Refused {
        /// Why.
        code: u8,
        /// The item.
        entry: u64,
    },
    /// A device TLB did not answer: this one, where it is known.
    Aborted(Option<u32>),
    /// The unit does not answer.
    Gone,
}

/// A queue, from inside.
pub struct Probe<'q, M>(&'q Queue<M>);

impl<M: Ring> Queue<M> {
    /// A look inside.
    pub fn probe(&self) -> Probe<'_, M> {
        Probe(self)
    }
}

impl<M: Ring> Probe<'_, M> {
    /// Writes a batch as another CPU would, that has not gone further yet; its seat. `None` where there is no room.
    pub fn join(&self, batch: &[M::Item]) -> Option<usize> {
        self.0.state.lock().join(&self.0.ring, &self.0.seats, batch, Ticket::default())
    }

    /// What that CPU is told, and its seat is free; `None` while it would wait.
    pub fn outcome(&self, seat: usize) -> Option<Told> {
        self.0.seats.outcome(seat).map(told)
    }

    /// As [`Probe::outcome`], but it waits no longer.
    pub fn leave(&self, seat: usize) -> Option<Told> {
        self.0.seats.leave(seat).map(told)
    }

    /// Leads, and goes no further, until [`Probe::stop_leading`]. `false` where somebody leads.
    pub fn try_lead(&self) -> bool {
        self.0.try_lead()
    }

    /// Leads no more.
    pub fn stop_leading(&self) {
        self.0.stop_leading();
    }

    /// Does `what` with the lock held.
    pub fn with_lock<T>(&self, what: impl FnOnce() -> T) -> T {
        let _state = self.0.state.lock();
        what()
    }

    /// Callers that were told to go again, and are not through.
    pub fn retrying(&self) -> u32 {
        self.0.retrying.load(Ordering::Relaxed)
    }

    /// As if they had all gone, with whatever outcome.
    pub fn forget_retries(&self) {
        self.0.retrying.store(0, Ordering::Relaxed);
    }

    /// As if the newest wait had this marker.
    pub fn start_at(&self, marker: Marker) {
        self.0.state.lock().start_at(marker);
    }
}

fn told(outcome: Outcome) -> Told {
    match outcome {
        Outcome::Confirmed(marker) => Told::Confirmed(marker),
        Outcome::Refused { code, entry } => Told::Refused { code, entry },
        Outcome::Aborted(source) => Told::Aborted(source),
        Outcome::Gone => Told::Gone,
    }
}

//! Moving a device's streams in hardware, and the way their faults take.

use super::{DeviceInner, Link};
use crate::error::Error;
use crate::group::Change;
use crate::hw::{HwError, Pasid, Stream, StreamId, Transition};

/// What DMA saw of two moves.
pub(super) fn worse(one: Transition, other: Transition) -> Transition {
    match (one, other) {
        (Transition::Hitless, Transition::Hitless) => Transition::Hitless,
        _ => Transition::ThroughBlocked,
    }
}

/// Whether hardware may still do what it was asked to stop, or to start, by a call with this error.
pub(super) fn is_unconfirmed(error: HwError) -> bool {
    matches!(error, HwError::TimedOut(_) | HwError::Queue { .. })
}

/// A move that failed.
pub(super) struct Failed {
    /// What is reported.
    pub(super) error: Error,
    /// Everything is as before.
    pub(super) undone: bool,
}

impl DeviceInner {
    /// Streams that no other device of the group leads there: those that this device moves.
    fn own_streams<'a>(&'a self, change: &'a Change<'_>, pasid: Option<Pasid>) -> impl Iterator<Item = StreamId> + 'a {
        let is_own = move |id: &StreamId| change.state(|state| !state.records.is_shared(pasid, self.number, *id));
        self.streams.iter().copied().filter(is_own)
    }

    /// Leads the streams from blocked to `link`, faults first; then switches bus mastering on.
    pub(super) fn lead(&self, change: &Change<'_>, pasid: Option<Pasid>, link: &Link) -> Result<Transition, Failed> {
        let mut seen = Transition::Hitless;
        for (done, id) in self.own_streams(change, pasid).enumerate() {
            let stream = Stream { id, pasid };
            if let Err(error) = self.route(stream, link) {
                return Err(self.lead_back(change, pasid, (done, done), error));
            }
            match self.unit.attach(stream, link.target()) {
                Ok(transition) => seen = worse(seen, transition),
                Err(error) => {
                    // Blocked, by what the unit owes; but if that was not confirmed, nobody knows yet.
                    let moved = if is_unconfirmed(error) { done.saturating_add(1) } else { done };
                    return Err(self.lead_back(change, pasid, (moved, done.saturating_add(1)), error.into()));
                }
            }
        }
        if let Err(error) = self.start_mastering() {
            return Err(self.lead_back(change, pasid, (usize::MAX, usize::MAX), error.into()));
        }
        Ok(seen)
    }

    /// Undoes [`DeviceInner::lead`] for the first streams: so many that moved, so many that are routed.
    fn lead_back(
        &self,
        change: &Change<'_>,
        pasid: Option<Pasid>,
        (moved, routed): (usize, usize),
        error: Error,
    ) -> Failed {
        let undone = self.block(change, pasid, moved).is_ok();
        if undone {
            self.unroute(change, pasid, routed);
        }
        Failed { error, undone }
    }

    /// Blocks the first `count` streams, all that can be. Returns the first error.
    pub(super) fn block(&self, change: &Change<'_>, pasid: Option<Pasid>, count: usize) -> Result<(), HwError> {
        let mut result = Ok(());
        for id in self.own_streams(change, pasid).take(count) {
            let blocked = self.unit.detach(Stream { id, pasid });
            result = result.and(blocked.map(drop));
        }
        result
    }

    /// Sends the faults of `stream` to where `link` wants them, if anywhere.
    pub(super) fn route(&self, stream: Stream, link: &Link) -> Result<(), Error> {
        match (&self.router, link.faults()) {
            (Some(router), Some(queue)) => router.route(stream, queue),
            _ => Ok(()),
        }
    }

    /// Sends the faults of the first `count` streams nowhere.
    pub(super) fn unroute(&self, change: &Change<'_>, pasid: Option<Pasid>, count: usize) {
        if let Some(router) = &self.router {
            for id in self.own_streams(change, pasid).take(count) {
                router.unroute(Stream { id, pasid });
            }
        }
    }
}

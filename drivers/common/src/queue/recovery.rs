//! What hardware reports of the queue, and how the queue goes on.

use super::group::Queue;
use super::round::{Flight, State};
use super::seats::Outcome;
use super::{Port, Ring};
use iommu_core::warn;
use iommu_hal::Hal;
use iommu_hal::wait::Deadline;

/// How often in a row hardware is asked to read once more what it could not read.
const READS: u32 = 8;

/// How much may be found while one caller leads before hardware is taken for one that complains for ever.
const MOST: u32 = 256;

/// What hardware reports of the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// It stopped at an item that it refuses, for this reason.
    Refused(u8),
    /// It stopped, and not because of the item that it reads next.
    Stopped(u8),
    /// It could not read an item, and tries again once told to go on.
    Unread(u8),
    /// A device TLB did not answer. The device as hardware names it, where 0 also stands for any; `None`: one of those that
    /// the fence or wait has to wait for which hardware stopped at.
    Unanswered(Option<u32>),
    /// All registers read all ones.
    Gone,
}

/// What was found since a caller leads.
#[derive(Clone, Copy, Default)]
pub(super) struct Tries {
    all: u32,
    unread: u32,
}

impl Tries {
    pub(super) fn any(self) -> bool {
        self.all != 0
    }

    pub(super) fn count(&mut self, found: Found) {
        self.all = self.all.saturating_add(1);
        self.unread = if matches!(found, Found::Unread(_)) { self.unread + 1 } else { 0 };
    }
}

impl<M: Ring> Queue<M> {
    /// Does what `found` asks for. `leader` is the seat of whoever wrote the wait, `tries` what was found since it leads, this
    /// included. `false` where hardware is of no use.
    #[allow(clippy::too_many_arguments, reason = "all that there is to know of a round that went wrong")]
    pub(super) fn handle<H: Hal, P: Port<M>>(
        &self,
        hal: &H,
        port: &P,
        state: &mut State,
        flight: &Flight,
        found: Found,
        leader: Option<usize>,
        tries: Tries,
    ) -> bool {
        let endless = tries.all > MOST;
        match found {
            Found::Gone => {
                self.seats.resolve(state.evict(), Outcome::Gone);
                return false;
            }
            Found::Refused(code) if !endless => self.repair(port, state, flight, code, leader),
            Found::Unread(code) if !endless && tries.unread <= READS => {
                warn!("an invalidation could not be read, reason {}", code);
                port.resume(&self.ring, found, flight.wait + 1);
            }
            Found::Unanswered(source) => return self.excuse(hal, port, state, flight, source, endless),
            Found::Refused(code) | Found::Stopped(code) | Found::Unread(code) => {
                warn!("the invalidation queue stopped, reason {}", code);
                self.seats.resolve(state.evict(), Outcome::Refused { code, entry: 0 });
                port.resume(&self.ring, Found::Stopped(code), flight.wait + 1);
                return false;
            }
        }
        true
    }

    /// Replaces the item that hardware stopped at, and has it go on.
    fn repair<P: Port<M>>(&self, port: &P, state: &State, flight: &Flight, code: u8, leader: Option<usize>) {
        let position = port.position(&self.ring);
        if let Some(place) = position.and_then(|position| state.place(flight, position, self.ring.period())) {
            let entry = self.ring.first_word(place);
            warn!("invalid item {:#x} in the invalidation queue, reason {}", entry, code);
            if place == flight.wait {
                let _ = self.ring.write_wait(place, flight.marker, true);
            } else {
                let _ = self.ring.write_fence(place);
            }
            self.ring.written(place, 1);
            // The wait is the leader's, where it is in this round itself.
            let leader = leader.filter(|seat| flight.seats >> seat & 1 != 0);
            let owner = if place == flight.wait { leader } else { state.owner(flight, place) };
            if let Some(owner) = owner {
                self.seats.refuse(owner, code, entry);
            }
        } else if let Some(position) = position {
            // Of a round that was given up.
            warn!("invalid item of an earlier round in the invalidation queue, reason {}", code);
            self.skip(state, position);
        }
        port.resume(&self.ring, Found::Refused(code), flight.wait + 1);
    }

    /// Has nobody pay for a device TLB that did not answer but those who asked for it. `false` as in [`Queue::handle`].
    fn excuse<H: Hal, P: Port<M>>(
        &self,
        hal: &H,
        port: &P,
        state: &mut State,
        flight: &Flight,
        source: Option<u32>,
        endless: bool,
    ) -> bool {
        let position = port.position(&self.ring);
        let place = position.and_then(|position| state.place(flight, position, self.ring.period()));
        let named = match (source, place) {
            (None, None) => {
                // Of an earlier round, whose callers know already.
                warn!("a device TLB of an earlier round did not answer");
                if endless {
                    self.seats.resolve(state.evict(), Outcome::Refused { code: M::TIMED_OUT, entry: 0 });
                }
                port.resume(&self.ring, Found::Unanswered(None), flight.wait + 1);
                return !endless;
            }
            (None, Some(place)) => self.suspect(flight, place),
            // One that is not of this round is of an earlier one: hardware gives up on each invalidation at its own time.
            (Some(source), _) => {
                let of_this = self.devices(flight.first, flight.wait).any(|device| device == source);
                (of_this || source != 0).then_some(source)
            }
        };
        warn!("device TLB of {:#x} did not answer", named.or(source).unwrap_or(0));
        let mut done = 0;
        if let Some(place) = place {
            done = state.done_before(flight, place, |at| self.ring.is_once_at(at));
            self.seats.resolve(done, Outcome::Confirmed(flight.marker));
            self.take_back(place, flight.wait);
        }
        state.quarantine = Some(Deadline::after(hal, port.timeout()));
        self.seats.abort(flight.seats & !done, named, &self.retrying);
        // Waits that hardware had read are void. It reads on once told to, and what it reports of this round then is worth
        // nothing.
        state.abandon();
        port.resume(&self.ring, Found::Unanswered(source), flight.wait + 1);
        true
    }

    /// Frees the places that hardware has read, where no round is in flight that would free them, and has it go on where it
    /// stopped at what nobody waits for any more.
    pub(super) fn reclaim<P: Port<M>>(&self, port: &P, state: &mut State) {
        if let Some(found) = port.look(&self.ring).filter(|found| *found != Found::Gone) {
            if matches!(found, Found::Refused(_))
                && let Some(position) = port.position(&self.ring)
            {
                self.skip(state, position);
            }
            port.resume(&self.ring, found, state.rung());
        }
        if let Some(position) = port.position(&self.ring) {
            state.reclaim(position, self.ring.period());
        }
    }

    /// Puts what is harmless in the place that hardware stopped at, of which nobody is to be told.
    fn skip(&self, state: &State, position: u64) {
        // What it was not told of is not what it refuses.
        if state.is_pending(position, self.ring.period()) {
            self.neutralise(position);
        }
    }

    /// Puts what is harmless in a place.
    fn neutralise(&self, place: u64) {
        let _ = self.ring.write_fence(place);
        self.ring.written(place, 1);
    }

    /// Takes what hardware has not read of the device-TLB invalidations in a round that was given up: nobody waits for them,
    /// and each of a device that does not answer would cost another round. The same of what must not be given twice, as its
    /// callers go again. Hardware reads nothing meanwhile.
    fn take_back(&self, first: u64, wait: u64) {
        for place in first..wait {
            if self.ring.device_at(place).is_some() || self.ring.is_once_at(place) {
                self.neutralise(place);
            }
        }
    }

    /// The device that the fence or wait at `place` waited for in vain, where there is but one.
    fn suspect(&self, flight: &Flight, place: u64) -> Option<u32> {
        let before = (flight.first..place).rev().take_while(|place| !self.ring.is_fence_at(*place));
        let first = before.last().unwrap_or(place);
        let device = self.devices(first, place).next()?;
        self.devices(first, place).all(|other| other == device).then_some(device)
    }

    /// The devices in some places of a round.
    fn devices(&self, first: u64, end: u64) -> impl Iterator<Item = u32> + '_ {
        (first..end).filter_map(|place| self.ring.device_at(place))
    }
}

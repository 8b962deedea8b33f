//! The queue shared by every CPU: many callers, one wait and one doorbell.
//!
//! A caller writes its items behind those of others under a short lock. One caller leads: it ends the round with a
//! wait, rings the doorbell, and polls. What is written meanwhile is the next round. When hardware has confirmed, the
//! leader tells everybody in the round, rings for the next one, and stops leading; a caller of that round takes over.

use super::recovery::{Found, Tries};
use super::round::{Flight, State, Ticket};
use super::seats::{Outcome, Seats};
use super::{HUNG, Marker, Port, Ring, split};
use crate::GONE;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use iommu_core::hw::HwError;
use iommu_core::warn;
use iommu_hal::Hal;
use iommu_hal::wait::Deadline;
use spin::{Mutex, MutexGuard};

/// Polls of the wait between two looks for errors. Hardware that answers within so many costs no such look.
const POLLS: u32 = 16;

/// Attempts of a caller that others' device TLBs keep from being confirmed. Each costs one of the callers of a round its
/// place, so that this many take as many devices that fail at once.
const ATTEMPTS: u32 = 32;

/// Of these, how many may be lost to device TLBs of others that hardware names, of this round or left over from earlier
/// ones, before its word is no longer taken for it: callers with device TLBs go alone then.
const OTHERS: u32 = 16;

/// The queue of one unit.
pub struct Queue<M> {
    pub(super) ring: M,
    pub(super) seats: Seats,
    pub(super) state: Mutex<State>,
    /// Somebody leads: uses the registers, and ends rounds.
    leader: AtomicBool,
    /// Callers that retry because a device TLB did not answer.
    pub(super) retrying: AtomicU32,
    /// Marker of the newest wait.
    newest: AtomicU32,
}

/// How leading a round ended.
enum Ended {
    Confirmed,
    /// Nobody waits for it any more, and hardware has read all of it.
    Read,
    Found(Found),
    /// The leader's time is up.
    Late,
}

/// Takes a caller out of [`Queue::retrying`].
struct Retry<'q>(&'q AtomicU32);

impl Drop for Retry<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A caller's part, and what it has been through.
struct Attempt<'q, 'b, I> {
    part: &'b [I],
    /// It concerns device TLBs.
    devices: bool,
    ticket: Ticket,
    retry: Option<Retry<'q>>,
    /// In a round of its own, because nobody knows whose device TLB did not answer.
    alone: bool,
}

impl<M: Ring> Queue<M> {
    /// A queue in `ring`, of which hardware has read nothing and is told nothing yet.
    pub fn new(ring: M) -> Self {
        Self {
            ring,
            seats: Seats::new(),
            state: Mutex::new(State::new()),
            leader: AtomicBool::new(false),
            retrying: AtomicU32::new(0),
            newest: AtomicU32::new(0),
        }
    }

    /// Its memory.
    pub fn ring(&self) -> &M {
        &self.ring
    }

    /// Its memory, of a queue that hardware no longer reads.
    pub fn into_ring(self) -> M {
        self.ring
    }

    /// Marker of the newest wait that hardware was told of; 0 before the first.
    pub fn marker(&self) -> Marker {
        self.newest.load(Ordering::Relaxed)
    }

    /// Runs `batch` in order, and returns once hardware has confirmed all of it: the marker of the wait that did. An empty
    /// batch confirms that the queue answers.
    ///
    /// # Errors
    ///
    /// [`HwError::Queue`]: hardware refused one of these very items, a device TLB among them did not answer, or the queue
    /// itself does not work. [`HwError::TimedOut`], and [`HwError::Hardware`] where the unit is gone. Any of the items may have
    /// been done or not.
    pub fn run<H: Hal, P: Port<M>>(&self, hal: &H, port: &P, batch: &[M::Item]) -> Result<Marker, HwError> {
        let (mut part, mut rest) = split::<M>(batch, self.ring.most());
        loop {
            let marker = self.run_part(hal, port, part)?;
            if rest.is_empty() {
                return Ok(marker);
            }
            (part, rest) = split::<M>(rest, self.ring.most());
            if part.is_empty() {
                // A ring without room for one.
                return Err(HUNG);
            }
        }
    }

    fn run_part<H: Hal, P: Port<M>>(&self, hal: &H, port: &P, part: &[M::Item]) -> Result<Marker, HwError> {
        let devices = part.iter().any(|item| M::device(item).is_some());
        let mut attempt = Attempt { part, devices, ticket: Ticket::default(), retry: None, alone: false };
        let mut others = 0;
        for _ in 0..ATTEMPTS {
            let deadline = Deadline::after(hal, port.timeout());
            let source = match self.submit(hal, port, &mut attempt, deadline)? {
                Outcome::Confirmed(marker) => return Ok(marker),
                Outcome::Refused { code, entry } => return Err(HwError::Queue { code, entry }),
                Outcome::Gone => return Err(GONE),
                Outcome::Aborted(source) => source,
            };
            // Counted by whoever told it. An earlier count ends with its value.
            attempt.retry = Some(Retry(&self.retrying));
            let mut own = part.iter().filter_map(M::device);
            let named = source.and_then(|source| own.clone().find(|device| *device == source));
            let blamed = match source {
                _ if named.is_some() => named,
                Some(_) if others < OTHERS => {
                    others += 1;
                    None
                }
                // The one that was alone is it.
                _ if attempt.alone => own.next(),
                _ => {
                    attempt.alone = devices;
                    None
                }
            };
            if let Some(device) = blamed {
                return Err(HwError::Queue { code: M::TIMED_OUT, entry: device.into() });
            }
        }
        Err(HUNG)
    }

    /// Has one round or several bring the caller's part to an end.
    fn submit<H: Hal, P: Port<M>>(
        &self,
        hal: &H,
        port: &P,
        attempt: &mut Attempt<'_, '_, M::Item>,
        deadline: Deadline,
    ) -> Result<Outcome, HwError> {
        let (seat, started) = self.join(hal, port, attempt, deadline)?;
        if started.is_some() {
            self.lead(hal, port, started, Some(seat), deadline);
        }
        loop {
            if let Some(outcome) = self.seats.outcome(seat) {
                return Ok(outcome);
            }
            if self.try_lead() {
                self.lead(hal, port, None, Some(seat), deadline);
                if let Some(outcome) = self.seats.outcome(seat) {
                    return Ok(outcome);
                }
            }
            if deadline.has_passed(hal) {
                return self.seats.leave(seat).ok_or_else(|| {
                    warn!("invalidation queue: no completion in time");
                    HUNG
                });
            }
            hal.relax();
        }
    }

    /// Writes the caller's part. Where nobody leads and hardware has nothing to do the round is ended at once: the caller
    /// leads then, and hardware is still to be told.
    fn join<H: Hal, P: Port<M>>(
        &self,
        hal: &H,
        port: &P,
        attempt: &mut Attempt<'_, '_, M::Item>,
        deadline: Deadline,
    ) -> Result<(usize, Option<Flight>), HwError> {
        loop {
            {
                let mut state = self.lock(hal, deadline).ok_or(HUNG)?;
                if let Some(seat) = self.admit(hal, &mut state, attempt, deadline) {
                    // Alone, it leads already.
                    let leads = attempt.alone || state.flight.is_none() && self.try_lead();
                    let started = if leads { state.close(&self.ring) } else { None };
                    if leads && started.is_none() {
                        self.stop_leading();
                    }
                    return Ok((seat, started));
                }
            }
            // Whoever leads makes room. Where nobody does, this caller.
            if self.try_lead() {
                self.lead(hal, port, None, None, deadline);
            }
            if deadline.has_passed(hal) {
                return Err(HUNG);
            }
            hal.relax();
        }
    }

    /// Lets the caller into the open round, where it may be.
    fn admit<H: Hal>(
        &self,
        hal: &H,
        state: &mut State,
        attempt: &mut Attempt<'_, '_, M::Item>,
        deadline: Deadline,
    ) -> Option<usize> {
        if attempt.devices && attempt.retry.is_none() && self.retrying.load(Ordering::Relaxed) != 0 {
            // Those who failed for another's device come first, or it could make them fail again and again.
            if state.quarantine.is_some_and(|until| !until.has_passed(hal)) {
                // And must not wait for this one in turn.
                state.give_way(attempt.ticket);
                return None;
            }
        }
        if state.must_wait(hal, attempt.ticket) {
            return None;
        }
        let leads = attempt.alone && state.is_idle() && self.try_lead();
        let seat = if attempt.alone && !leads {
            None
        } else {
            state.join(&self.ring, &self.seats, attempt.part, attempt.ticket)
        };
        if seat.is_none() {
            if leads {
                self.stop_leading();
            }
            state.claim_turn(&mut attempt.ticket, deadline);
        }
        seat
    }

    /// Leads: tells hardware of `started`, or of what is written, and waits. Ends when the caller in `seat` knows its
    /// outcome, without a seat after one round, and at the deadline. The caller leads when this is called, and no more
    /// when it returns.
    fn lead<H: Hal, P: Port<M>>(
        &self,
        hal: &H,
        port: &P,
        mut started: Option<Flight>,
        seat: Option<usize>,
        deadline: Deadline,
    ) {
        let mut tries = Tries::default();
        loop {
            let flight = match started.take() {
                Some(flight) => {
                    self.ring_doorbell(port, &flight);
                    Some(flight)
                }
                None => {
                    let Some(mut state) = self.lock(hal, deadline) else { break };
                    let in_flight = state.flight;
                    started = state.close(&self.ring);
                    if started.is_some() {
                        continue;
                    }
                    if in_flight.is_none() {
                        // There was no room although nobody is there: slots of rounds that were not confirmed.
                        self.reclaim(port, &mut state);
                    }
                    in_flight
                }
            };
            let Some(flight) = flight else { break };
            let ended = self.poll(hal, port, &flight, deadline, tries);
            if matches!(ended, Ended::Late) {
                break;
            }
            let Some(mut state) = self.lock(hal, deadline) else { break };
            match ended {
                Ended::Confirmed => {
                    // Told first: whoever is told is no more in the way of the next round.
                    self.seats.resolve(flight.seats, Outcome::Confirmed(flight.marker));
                    state.land();
                }
                Ended::Read => {
                    self.seats.resolve(flight.seats, Outcome::Gone);
                    state.land();
                }
                Ended::Found(found) => {
                    tries.count(found);
                    if !self.handle(hal, port, &mut state, &flight, found, seat, tries) {
                        // The unit is of no use: nobody is to wait for it.
                        break;
                    }
                    if state.flight.is_some() {
                        if deadline.has_passed(hal) {
                            break;
                        }
                        continue;
                    }
                }
                Ended::Late => {}
            }
            started = state.close(&self.ring);
            drop(state);
            if seat.is_none_or(|seat| self.seats.is_resolved(seat)) {
                // Hardware goes on while somebody of the next round takes over.
                if let Some(next) = started {
                    self.ring_doorbell(port, &next);
                }
                break;
            }
        }
        self.stop_leading();
    }

    /// Polls the round in flight until it ends. After something was `found` another may follow at once.
    fn poll<H: Hal, P: Port<M>>(&self, hal: &H, port: &P, flight: &Flight, deadline: Deadline, found: Tries) -> Ended {
        let mut polls = if found.any() { POLLS - 1 } else { 0 };
        loop {
            if port.is_complete(&self.ring, flight.wait, flight.marker) {
                return Ended::Confirmed;
            }
            polls += 1;
            let late = deadline.has_passed(hal);
            if late || polls % POLLS == 0 {
                if let Some(found) = port.look(&self.ring) {
                    return Ended::Found(found);
                }
                if (P::READ_IS_DONE || !self.seats.anybody(flight.seats))
                    && port.position(&self.ring) == Some((flight.wait + 1) % self.ring.period())
                {
                    return if P::READ_IS_DONE { Ended::Confirmed } else { Ended::Read };
                }
                if late {
                    // Held up between two looks, it must not report a time-out that did not happen.
                    let complete = port.is_complete(&self.ring, flight.wait, flight.marker);
                    return if complete { Ended::Confirmed } else { Ended::Late };
                }
            }
            hal.relax();
        }
    }

    fn ring_doorbell<P: Port<M>>(&self, port: &P, flight: &Flight) {
        self.newest.store(flight.marker, Ordering::Relaxed);
        port.ring_doorbell(&self.ring, flight.wait + 1);
    }

    pub(super) fn try_lead(&self) -> bool {
        !self.leader.load(Ordering::Relaxed) && !self.leader.swap(true, Ordering::Acquire)
    }

    pub(super) fn stop_leading(&self) {
        self.leader.store(false, Ordering::Release);
    }

    /// The lock, which is held for some hundred instructions at most. Whoever is held up while holding it holds up others
    /// to their deadlines, and no further.
    fn lock<H: Hal>(&self, hal: &H, deadline: Deadline) -> Option<MutexGuard<'_, State>> {
        loop {
            if let Some(state) = self.state.try_lock() {
                return Some(state);
            }
            if deadline.has_passed(hal) {
                return self.state.try_lock();
            }
            hal.relax();
        }
    }
}

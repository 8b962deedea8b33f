//! The queue shared by every CPU: many callers, one wait and one doorbell.
//!
//! A caller writes its descriptors behind those of others under a short lock. One caller leads: it ends the round with a
//! wait, rings the doorbell, and polls. What is written meanwhile is the next round. When hardware has confirmed, the
//! leader tells everybody in the round, rings for the next one, and stops leading; a caller of that round takes over.

use super::recovery::{self, Found};
use super::ring::{self, Marker, Ring};
use super::round::{Flight, MOST, State, Ticket};
use super::seats::{Outcome, Seats};
use super::{CODE_DEVICE_TLB_TIMEOUT, HUNG};
use crate::regs::{GONE, Regs};
use crate::spec::descriptor::Width;
use crate::spec::invalidation::Invalidation;
use crate::spec::registers::*;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use iommu_core::addr::PhysAddr;
use iommu_core::hw::HwError;
use iommu_core::warn;
use iommu_hal::Hal;
use iommu_hal::regs::Registers;
use iommu_hal::wait::Deadline;
use spin::{Mutex, MutexGuard};

/// Polls of the status cell between two looks at the registers. Hardware that answers within so many costs no read.
const POLLS: u32 = 16;

/// Attempts of a caller that others' device TLBs keep from being confirmed. Each costs one of the callers of a round its
/// place, so that this many take as many devices that fail at once.
const ATTEMPTS: u32 = 32;

/// Of these, how many may be lost to device TLBs of others that hardware names, of this round or left over from earlier
/// ones, before its word is no longer taken for it: callers with device TLBs go alone then.
const OTHERS: u32 = 16;

/// The queue of one unit.
pub(crate) struct Queue<H: Hal> {
    pub(super) ring: Ring<H>,
    pub(super) seats: Seats,
    pub(super) state: Mutex<State>,
    /// Somebody leads: writes IQT and FSTS, and ends rounds.
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
struct Attempt<'q, 'b> {
    part: &'b [Invalidation],
    /// It concerns device TLBs.
    devices: bool,
    ticket: Ticket,
    retry: Option<Retry<'q>>,
    /// In a round of its own, because nobody knows whose device TLB did not answer.
    alone: bool,
}

impl<H: Hal + Clone> Queue<H> {
    pub(super) fn new(hal: &H, host_bits: u8, width: Width) -> Result<Self, HwError> {
        Ok(Self {
            ring: Ring::new(hal, host_bits, width)?,
            seats: Seats::new(),
            state: Mutex::new(State::new()),
            leader: AtomicBool::new(false),
            retrying: AtomicU32::new(0),
            newest: AtomicU32::new(0),
        })
    }
}

impl<H: Hal> Queue<H> {
    /// Points the unit at the queue and turns it on. The queue of whoever came before must be off.
    pub(super) fn enable<R: Registers>(&self, hal: &H, regs: &Regs<R>) -> Result<(), HwError> {
        regs.io().write64(IQT_REG, 0);
        regs.io().write64(IQA_REG, self.ring.address());
        regs.set(hal, GSTS::QIES, true, "GSTS.QIES")
    }

    pub(super) fn marker(&self) -> Marker {
        self.newest.load(Ordering::Relaxed)
    }

    pub(super) fn frames(&self) -> (impl Iterator<Item = PhysAddr> + '_, PhysAddr) {
        self.ring.frames()
    }

    /// See [`super::Invalidator::run`].
    pub(super) fn run<R: Registers>(&self, hal: &H, regs: &Regs<R>, batch: &[Invalidation]) -> Result<Marker, HwError> {
        let (mut part, mut rest) = ring::split(batch, MOST);
        loop {
            let marker = self.run_part(hal, regs, part)?;
            if rest.is_empty() {
                return Ok(marker);
            }
            (part, rest) = ring::split(rest, MOST);
        }
    }

    fn run_part<R: Registers>(&self, hal: &H, regs: &Regs<R>, part: &[Invalidation]) -> Result<Marker, HwError> {
        let devices = part.iter().any(|invalidation| invalidation.device().is_some());
        let mut attempt = Attempt { part, devices, ticket: Ticket::default(), retry: None, alone: false };
        let mut others = 0;
        for _ in 0..ATTEMPTS {
            let deadline = Deadline::after(hal, regs.timeout());
            let source = match self.submit(hal, regs, &mut attempt, deadline)? {
                Outcome::Confirmed(marker) => return Ok(marker),
                Outcome::Refused { code, entry } => return Err(HwError::Queue { code, entry }),
                Outcome::Gone => return Err(GONE),
                Outcome::Aborted(source) => source,
            };
            // Counted by whoever told it. An earlier count ends with its value.
            attempt.retry = Some(Retry(&self.retrying));
            let mut own = part.iter().filter_map(Invalidation::device);
            let named = source.and_then(|source| own.clone().find(|device| device.get() == source));
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
                return Err(HwError::Queue { code: CODE_DEVICE_TLB_TIMEOUT, entry: device.get().into() });
            }
        }
        Err(HUNG)
    }

    /// Has one round or several bring the caller's part to an end.
    fn submit<R: Registers>(
        &self,
        hal: &H,
        regs: &Regs<R>,
        attempt: &mut Attempt<'_, '_>,
        deadline: Deadline,
    ) -> Result<Outcome, HwError> {
        let (seat, started) = self.join(hal, regs, attempt, deadline)?;
        if started.is_some() {
            self.lead(hal, regs, started, Some(seat), deadline);
        }
        loop {
            if let Some(outcome) = self.seats.outcome(seat) {
                return Ok(outcome);
            }
            if self.try_lead() {
                self.lead(hal, regs, None, Some(seat), deadline);
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
    fn join<R: Registers>(
        &self,
        hal: &H,
        regs: &Regs<R>,
        attempt: &mut Attempt<'_, '_>,
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
                self.lead(hal, regs, None, None, deadline);
            }
            if deadline.has_passed(hal) {
                return Err(HUNG);
            }
            hal.relax();
        }
    }

    /// Lets the caller into the open round, where it may be.
    fn admit(&self, hal: &H, state: &mut State, attempt: &mut Attempt<'_, '_>, deadline: Deadline) -> Option<usize> {
        if attempt.devices && attempt.retry.is_none() && self.retrying.load(Ordering::Relaxed) != 0 {
            // Those who failed for another's device come first, or it could make them fail again and again.
            if state.quarantine.is_some_and(|until| !until.has_passed(hal)) {
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
    fn lead<R: Registers>(
        &self,
        hal: &H,
        regs: &Regs<R>,
        mut started: Option<Flight>,
        seat: Option<usize>,
        deadline: Deadline,
    ) {
        let mut repairs = 0;
        loop {
            let flight = match started.take() {
                Some(flight) => {
                    self.ring_doorbell(regs, &flight);
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
                        recovery::reclaim(&self.ring, &mut state, regs);
                    }
                    in_flight
                }
            };
            let Some(flight) = flight else { break };
            let ended = self.poll(hal, regs, &flight, deadline);
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
                    repairs += 1;
                    if !self.handle(hal, regs, &mut state, &flight, found, seat, repairs) {
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
                    self.ring_doorbell(regs, &next);
                }
                break;
            }
        }
        self.stop_leading();
    }

    /// Polls the round in flight until it ends.
    fn poll<R: Registers>(&self, hal: &H, regs: &Regs<R>, flight: &Flight, deadline: Deadline) -> Ended {
        let mut polls = 0;
        loop {
            if self.ring.is_complete(flight.wait, flight.marker) {
                return Ended::Confirmed;
            }
            polls += 1;
            let late = deadline.has_passed(hal);
            if late || polls % POLLS == 0 {
                if let Some(found) = recovery::look(regs) {
                    return Ended::Found(found);
                }
                if !self.seats.anybody(flight.seats)
                    && self.ring.slot(regs.io().read64(IQH_REG)) == self.ring.slot(self.ring.offset(flight.wait + 1))
                {
                    return Ended::Read;
                }
                if late {
                    // Held up between two looks, it must not report a time-out that did not happen.
                    let complete = self.ring.is_complete(flight.wait, flight.marker);
                    return if complete { Ended::Confirmed } else { Ended::Late };
                }
            }
            hal.relax();
        }
    }

    fn ring_doorbell<R: Registers>(&self, regs: &Regs<R>, flight: &Flight) {
        self.newest.store(flight.marker, Ordering::Relaxed);
        regs.io().write64(IQT_REG, self.ring.offset(flight.wait + 1));
    }

    pub(super) fn try_lead(&self) -> bool {
        !self.leader.load(Ordering::Relaxed) && !self.leader.swap(true, Ordering::Acquire)
    }

    pub(super) fn stop_leading(&self) {
        self.leader.store(false, Ordering::Release);
    }

    /// The lock, which is held for some hundred instructions at most. Whoever is held up while holding it holds up others
    /// to their deadlines, and no further.
    fn lock(&self, hal: &H, deadline: Deadline) -> Option<MutexGuard<'_, State>> {
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

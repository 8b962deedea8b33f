//! The queue of an owner.

use super::port::Port;
use super::state::{Next, PLACE_BITS, State, What};
use super::{Cookie, MOST_EVENTS, Record, TRIES};
use crate::error::Error;
use crate::hw::{Fault, PageRequest, ResponseCode};
use crate::quota::{Account, Amounts, Ledger, transfer};
use crate::sync::{self, Mutex, Rank};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use iommu_alloc::{OutOfMemory, Shared};

pub(crate) struct QueueInner {
    state: Mutex<State>,
    /// Events that came while the state was in use. They are counted with those after them.
    missed: AtomicU64,
    /// Gives back what it has cost.
    ledger: Ledger,
}

impl QueueInner {
    fn new(depth: usize, account: Option<Account>) -> Result<Self, Error> {
        if depth == 0 || depth > MOST_EVENTS {
            return Err(Error::Invalid("a fault queue has between 1 and 65536 places"));
        }
        let ledger = Ledger::new(account);
        let metadata = (size_of::<Self>() + State::bytes(depth)) as u64;
        ledger.charge(Amounts { metadata, ..Amounts::NONE })?;
        Ok(Self { state: Mutex::new(Rank::Faults, State::new(depth)?), missed: AtomicU64::new(0), ledger })
    }

    /// For reporters: works on the state; `None`, and the event counts as missed where `counts`, where another has it.
    fn report<T>(&self, counts: bool, work: impl FnOnce(&mut State) -> T) -> Option<T> {
        for _ in 0..TRIES {
            if let Some(mut state) = self.state.try_lock() {
                state.lose(self.missed.swap(0, Ordering::AcqRel));
                return Some(work(&mut state));
            }
            core::hint::spin_loop();
        }
        if counts {
            self.missed.fetch_add(1, Ordering::AcqRel);
        }
        None
    }

    /// For reporters: a fault.
    pub(super) fn fault(&self, fault: &Fault) {
        self.report(true, |state| state.push(What::Fault(*fault)));
    }

    /// For reporters: a page request. Whether its group is over and has to be refused.
    pub(super) fn request(&self, port: &Shared<Port>, request: &PageRequest) -> bool {
        let taken = if port.waiting.load(Ordering::Acquire) {
            self.missed.fetch_add(request.last.into(), Ordering::AcqRel);
            None
        } else {
            self.report(request.last, |state| state.request(port, request))
        };
        taken.unwrap_or_else(|| port.refuse(request.group, request.last))
    }

    fn next(&self, room: &mut Vec<PageRequest>) -> Next {
        let mut state = self.state.lock();
        state.lose(self.missed.swap(0, Ordering::AcqRel));
        state.read(room)
    }

    fn respond(&self, cookie: u64, code: ResponseCode) -> Result<(), Error> {
        const UNKNOWN: Error = Error::Invalid("no group of page requests waits for an answer by this cookie");
        let at = (cookie & ((1 << PLACE_BITS) - 1)) as u32;
        let group = {
            let mut state = self.state.lock();
            let group = state.groups.take_delivered(at, cookie).ok_or(UNKNOWN)?;
            group.port.answering.fetch_add(1, Ordering::AcqRel);
            group
        };
        let answered = group.port.answer(group.number, code);
        group.port.answering.fetch_sub(1, Ordering::AcqRel);
        Ok(answered?)
    }

    /// Lets `new` take page requests, now that no reporter finds `old`, which it stands in for.
    pub(super) fn hand_over(&self, old: &Port, new: &Port) {
        // Nobody opens any more, so that reporters of other streams need not wait for what follows.
        let open = self.state.lock().groups.all_open(old);
        new.begin(Some(old), |number| open.contains(&Some(number)));
    }

    /// Answers INVALID what is left of `port`, which no reporter finds any more. Once this returns nothing of it will be
    /// answered. Neither takes memory nor fails.
    pub(super) fn close(&self, port: &Shared<Port>) {
        self.state.lock().groups.discard_open(port);
        let (mut from, places) = (0, self.state.lock().groups.places());
        while port.groups.load(Ordering::Relaxed) != 0 && from < places {
            let group = self.state.lock().withdraw(port, &mut from);
            if let Some(group) = group {
                // Blocked already, or soon: nobody can do more where the unit does not confirm.
                let _ = port.answer(group.number, ResponseCode::Invalid);
            }
        }
        // Each is in the driver, which has a deadline.
        while port.answering.load(Ordering::Acquire) != 0 {
            sync::relax();
        }
        port.end();
    }

    /// Groups and requests that are held.
    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize) {
        self.state.lock().groups.held()
    }

    /// Has the next event be number `sequence`.
    #[cfg(test)]
    pub(super) fn start_at(&self, sequence: u64) {
        self.state.lock().start_at(sequence);
    }

    /// Places that there is memory for.
    #[cfg(test)]
    pub(super) fn memory(&self) -> (usize, u32) {
        self.state.lock().memory()
    }

    /// Runs `during` as if an interrupt came while a reader works on the queue.
    #[cfg(test)]
    pub(super) fn interrupted(&self, during: impl FnOnce()) {
        let _state = self.state.lock();
        during();
    }

    /// Reads as if there were no memory for more than `most` requests.
    #[cfg(test)]
    pub(super) fn read_with_room(&self, most: usize) -> Result<Option<Record>, Error> {
        match self.next(&mut Vec::with_capacity(most)) {
            Next::Record(record) => Ok(Some(record)),
            Next::Nothing => Ok(None),
            Next::Room(_) => Err(Error::OutOfMemory),
        }
    }
}

/// A bounded queue of what happened to an owner's streams. A handle: clones are the same queue.
///
/// As long as streams lead to it, it stays, also without a handle: page requests that nobody reads are answered INVALID
/// once their stream is detached.
#[derive(Clone)]
pub struct FaultQueue(pub(super) Shared<QueueInner>);

impl FaultQueue {
    /// A queue for `depth` events. Takes all the memory that it will ever need, some 180 bytes for each.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where the depth is 0 or larger than [`MOST_EVENTS`]; [`Error::OutOfMemory`].
    pub fn new(depth: usize) -> Result<Self, Error> {
        Ok(Self(Shared::try_new(QueueInner::new(depth, None)?)?))
    }

    /// As [`FaultQueue::new`], and charges its memory to `account`, as [`Resource::Metadata`](crate::quota::Resource), for
    /// as long as the queue is there.
    ///
    /// # Errors
    ///
    /// As there, and [`Error::Quota`].
    pub fn charged_to(account: &Account, depth: usize) -> Result<Self, Error> {
        Ok(Self(Shared::try_new(QueueInner::new(depth, Some(account.clone()))?)?))
    }

    /// The oldest event that was not read; `None` where there is none and none was lost.
    ///
    /// A group of page requests is given whole, and waits for its answer from then on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`]: there is none for the requests of a group. It stays the oldest event.
    pub fn read(&self) -> Result<Option<Record>, Error> {
        let mut room = Vec::new();
        loop {
            match self.0.next(&mut room) {
                Next::Record(record) => return Ok(Some(record)),
                Next::Nothing => return Ok(None),
                // No lock is held meanwhile, so another reader may have taken that event.
                Next::Room(count) => room.try_reserve_exact(count).map_err(|_| OutOfMemory)?,
            }
        }
    }

    /// Answers the group of page requests that was read with `cookie`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where no group waits for an answer by this cookie: it was never given, was answered, or its
    /// stream was detached. Also for [`ResponseCode::Failure`], which would stop the whole function: owners answer
    /// [`ResponseCode::Success`] or [`ResponseCode::Invalid`]. [`Error::Hardware`] where the unit did not take the
    /// answer; the group counts as answered.
    pub fn respond(&self, cookie: Cookie, code: ResponseCode) -> Result<(), Error> {
        if code == ResponseCode::Failure {
            return Err(Error::Invalid("page requests are answered with success or as invalid"));
        }
        self.0.respond(cookie.0, code)
    }

    /// Moves its cost to another account.
    ///
    /// # Errors
    ///
    /// [`Error::Quota`], [`Error::Busy`]; [`Error::Invalid`] where it was made without an account. Nothing has changed.
    pub fn change_owner(&self, to: Option<&Account>) -> Result<(), Error> {
        transfer(&[self.ledger()], to)
    }

    /// What moves its costs together with those of others.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.0.ledger
    }

    /// Whether both are the same queue.
    pub fn same(&self, other: &Self) -> bool {
        Shared::same(&self.0, &other.0)
    }
}

//! Taking areas away: mark them, have accesses let go, empty the domains, wait for hardware, remove.

use super::fill::Content;
use super::space::{Area, Operation, Space, State};
use super::{Inner, Members};
use crate::access::AccessInner;
use crate::addr::{Iova, IovaRange};
use crate::error::Error;
use crate::hw::{Domain, Gather, HwError, Prot};
use crate::pages::PagesPin;
use crate::sync::relax;
use iommu_alloc::Shared;

/// How often accesses are told to let go, without any of them doing so, before the unmap gives up.
const ROUNDS: u32 = 100;

/// Areas that were marked.
struct Marked {
    operation: Operation,
    bytes: u64,
    /// Whether accesses use any.
    pinned: bool,
    /// The only one, where it is one: most unmaps are of one area.
    only: Option<(u32, Leaving)>,
}

impl Inner {
    /// Takes every area inside of `range` away, and returns how many bytes that were.
    pub(super) fn unmap(this: &Shared<Self>, range: IovaRange) -> Result<u64, Error> {
        let marked = this.space.lock().mark(range)?;
        let operation = marked.operation;
        if marked.pinned {
            let outcome = this.let_go(range, operation);
            let next = if outcome.is_ok() { State::Leaving } else { State::Live };
            this.space.lock().for_each_of(operation, range, &mut |area| area.state = next);
            outcome?;
        }
        let members = this.members.read();
        let emptied = match &marked.only {
            Some((_, area)) => empty_of(&members, area),
            None => this.empty(&members, range, operation),
        };
        if let Err(error) = emptied {
            let drains = &mut |area: &mut Area| (area.state, area.draining) = (State::Live, true);
            this.space.lock().for_each_of(operation, range, drains);
            return Err(error.into());
        }
        if let Some((slot, _)) = marked.only {
            let area = this.space.lock().remove(slot);
            drop(members);
            Self::give_back(this, area);
            return Ok(marked.bytes);
        }
        this.space.lock().for_each_of(operation, range, &mut |area| area.state = State::Gone);
        drop(members);
        // Memory is given back without a lock, one area after the other.
        let mut from = Some(range.start());
        while let Some(rest) = from.and_then(|from| IovaRange::new(from, range.last()))
            && let Some(area) = this.take(rest, operation)
        {
            // Others may map below already.
            from = area.range.last().checked_add(1);
            Self::give_back(this, Some(area));
        }
        Ok(marked.bytes)
    }

    /// Removes one area that the operation is done with.
    fn take(&self, range: IovaRange, operation: Operation) -> Option<Area> {
        let mut space = self.space.lock();
        let slot = space.first_of(operation, range)?;
        space.remove(slot)
    }

    /// Ends what an area cost and kept. No lock is held.
    fn give_back(this: &Shared<Self>, area: Option<Area>) {
        let Some(area) = area else { return };
        if let Some(pin) = area.pin.as_ref() {
            Self::repay(this, pin.pages(), area.len());
        }
    }

    /// Takes the areas of an operation out of every domain, with one flush each.
    pub(super) fn empty(&self, members: &Members, range: IovaRange, operation: Operation) -> Result<(), HwError> {
        let mut outcome = Ok(());
        for member in &members.list {
            let mut gather = Gather::new();
            let mut from = Some(range.start());
            while let Some(rest) = from.and_then(|from| IovaRange::new(from, range.last())) {
                let Some((next, area)) = self.space.lock().next_of(operation, rest) else { break };
                from = next;
                // One that fails does not keep the others mapped.
                outcome = outcome.and(area.empty(&*member.domain, &mut gather));
            }
            outcome = outcome.and(member.domain.flush(&mut gather));
        }
        outcome
    }

    /// Tells the accesses that use areas of `range` to let go until none does.
    pub(super) fn let_go(&self, range: IovaRange, operation: Operation) -> Result<(), Error> {
        let (mut rounds, mut least, mut rest) = (0, u64::MAX, range);
        loop {
            let Some(first) = self.space.lock().first_pinned(operation, rest) else { return Ok(()) };
            if rest.start() < first.start() {
                // Nobody pins what is asked for, so nothing below need be looked at again: there may be many areas.
                rest = IovaRange::new(first.start(), range.last()).unwrap_or(rest);
                (rounds, least) = (0, u64::MAX);
            } else {
                let pins = self.space.lock().pins(operation, rest);
                if pins < least {
                    (rounds, least) = (0, pins);
                } else if rounds == ROUNDS {
                    return Err(Error::Deadlock);
                }
            }
            rounds += 1;
            self.notify(first);
            relax();
        }
    }

    /// Tells every access that `range` goes. No lock is held.
    fn notify(&self, range: IovaRange) {
        let mut at = 0;
        while let Some(access) = self.access(at) {
            access.notify(range);
            at += 1;
        }
    }

    fn access(&self, at: usize) -> Option<Shared<AccessInner>> {
        self.space.lock().accesses.get(at).cloned()
    }
}

/// Takes one area out of every domain, with one flush each.
fn empty_of(members: &Members, area: &Leaving) -> Result<(), HwError> {
    let mut outcome = Ok(());
    for member in &members.list {
        let mut gather = Gather::new();
        outcome = outcome.and(area.empty(&*member.domain, &mut gather));
        outcome = outcome.and(member.domain.flush(&mut gather));
    }
    outcome
}

/// What is needed to take an area out of a domain, so that the lock need not be held.
struct Leaving {
    range: IovaRange,
    prot: Prot,
    how: How,
}

/// What domains have of an area.
enum How {
    /// All of it.
    Whole,
    /// All, some or nothing: an earlier try was not confirmed.
    Some { pin: PagesPin, offset: u64, large_pages: bool },
    /// Nothing.
    Nothing,
}

impl Leaving {
    fn empty(&self, domain: &dyn Domain, gather: &mut Gather) -> Result<(), HwError> {
        let (range, prot) = (self.range, self.prot);
        match &self.how {
            How::Whole => domain.unmap(range, gather),
            How::Some { pin, offset, large_pages } => {
                let content = Content { range, pin, offset: *offset, prot, large_pages: *large_pages };
                content.scrape(domain, gather)
            }
            How::Nothing => Ok(()),
        }
    }
}

impl Space {
    /// Marks every area inside of `range` as leaving, or none.
    fn mark(&mut self, range: IovaRange) -> Result<Marked, Error> {
        let (mut bytes, mut pinned, mut count, mut last_slot) = (0u64, false, 0usize, 0);
        for (_, _, slot) in self.areas.overlapping(range.start().get(), range.last().get()) {
            let Some(area) = self.slots.get(slot) else { continue };
            if !range.covers(area.range) {
                return Err(Error::CutsArea { area: area.range });
            }
            if area.state != State::Live || area.locks != 0 {
                return Err(Error::Busy);
            }
            bytes = bytes.saturating_add(area.len());
            pinned |= area.pins != 0;
            last_slot = slot;
            count += 1;
            if area.range.last() == range.last() {
                // No need to look for more: most unmaps are of just one area.
                break;
            }
        }
        let operation = self.operation();
        let state = if pinned { State::Asking } else { State::Leaving };
        let mark = |area: &mut Area| (area.state, area.operation) = (state, operation);
        if count == 0 {
            return Err(Error::NotFound { iova: range.start() });
        }
        let mut only = None;
        if count > 1 {
            self.for_each(range, &mut |area| mark(area));
        } else if let Some(area) = self.slots.get_mut(last_slot) {
            mark(area);
            only = self.leaving(last_slot).map(|leaving| (last_slot, leaving));
        }
        Ok(Marked { operation, bytes, pinned, only })
    }

    /// Calls `change` with each area that touches `range`.
    fn for_each(&mut self, range: IovaRange, change: &mut dyn FnMut(&mut Area)) {
        for (_, _, slot) in self.areas.overlapping(range.start().get(), range.last().get()) {
            if let Some(area) = self.slots.get_mut(slot) {
                change(area);
            }
        }
    }

    /// Calls `change` with each area of `range` that the operation is at work on.
    pub(super) fn for_each_of(&mut self, operation: Operation, range: IovaRange, change: &mut dyn FnMut(&mut Area)) {
        self.for_each(range, &mut |area| {
            if area.is_of(operation) {
                change(area);
            }
        });
    }

    /// The lowest area of `range` that the operation is at work on.
    fn first_of(&self, operation: Operation, range: IovaRange) -> Option<u32> {
        let mut slots = self.areas.overlapping(range.start().get(), range.last().get()).map(|(_, _, slot)| slot);
        slots.find(|slot| self.slots.get(*slot).is_some_and(|area| area.is_of(operation)))
    }

    /// What is needed to take the lowest area of the operation out of a domain, and where to look for the next.
    fn next_of(&self, operation: Operation, range: IovaRange) -> Option<(Option<Iova>, Leaving)> {
        let leaving = self.leaving(self.first_of(operation, range)?)?;
        Some((leaving.range.last().checked_add(1), leaving))
    }

    fn leaving(&self, slot: u32) -> Option<Leaving> {
        let area = self.slots.get(slot)?;
        let how = match &area.pin {
            Some(pin) if area.draining => {
                How::Some { pin: pin.another(), offset: area.offset, large_pages: area.large_pages }
            }
            _ if area.revoked => How::Nothing,
            _ => How::Whole,
        };
        Some(Leaving { range: area.range, prot: area.prot, how })
    }

    /// Areas of `range` that the operation is at work on and accesses use, lowest first.
    fn pinned(&self, operation: Operation, range: IovaRange) -> impl Iterator<Item = &Area> + '_ {
        let slots = self.areas.overlapping(range.start().get(), range.last().get()).map(|(_, _, slot)| slot);
        let areas = slots.filter_map(|slot| self.slots.get(slot));
        areas.filter(move |area| area.pins != 0 && area.is_of(operation))
    }

    /// Where the lowest of them lies.
    fn first_pinned(&self, operation: Operation, range: IovaRange) -> Option<IovaRange> {
        self.pinned(operation, range).next().map(|area| area.range)
    }

    /// How often accesses use them.
    fn pins(&self, operation: Operation, range: IovaRange) -> u64 {
        self.pinned(operation, range).map(|area| u64::from(area.pins)).sum()
    }
}

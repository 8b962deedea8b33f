//! Attach, replace, detach, retire: entries and invalidations in the order in which hardware must see them.

use super::Inner;
use crate::domain::State;
use crate::invalidate::{Change, Seat};
use crate::spec::pasid::PasidEntry;
use crate::tables::{Key, Linked, Room, Tables};
use iommu_alloc::Shared;
use iommu_core::hw::{HwError, RequesterId, Transition};
use iommu_hal::Hal;
use iommu_hal::regs::Registers;

impl<H: Hal + Clone, R: Registers> Inner<H, R> {
    /// Leads a stream to `state`, as `entry` says, through blocked where it led elsewhere before.
    pub(super) fn attach(&self, key: Key, state: &Shared<State>, entry: &PasidEntry) -> Result<Transition, HwError> {
        let mut tables = self.tables.lock();
        let entry = &state.admit(entry)?;
        self.settle(&mut tables, key)?;
        if tables.stream(key).is_some() {
            return self.replace(&mut tables, key, state, entry);
        }
        // Everything that needs memory comes first.
        let seat = Seat::new(tables.user(key))?;
        let room = tables.prepare(key)?;
        let Room { directory, table } = room;
        if let Some(directory) = directory {
            tables.grow(key.source, directory)?;
            self.confirm(&mut tables, key.source)?;
        }
        state.add_user(seat);
        let set = tables.insert(key, state, entry, table);
        self.finish_attach(&mut tables, key, set)?;
        Ok(Transition::Hitless)
    }

    /// Leads a stream elsewhere that leads somewhere.
    fn replace(
        &self,
        tables: &mut Tables<H>,
        key: Key,
        state: &Shared<State>,
        entry: &PasidEntry,
    ) -> Result<Transition, HwError> {
        // All that leads to one domain has the same entry, whatever is recorded there included.
        if tables.stream(key).is_some_and(|stream| Shared::same(&stream.state, state)) {
            return Ok(Transition::Hitless);
        }
        // An entry that hardware reads in pieces cannot be replaced at once: not present, invalidate, set anew.
        let old = tables.clear_entry(key)?;
        self.invalidate_each(|add| tables.was_cleared(key).iter().for_each(add))?;
        // Its seat moves with it, so that going back needs no memory.
        let seat = old.remove_user(key.source, key.pasid);
        state.add_user(seat.ok_or(HwError::Hardware("an attached stream that its domain does not know"))?);
        let set = tables.reset(key, state, entry);
        self.finish_attach(tables, key, set)?;
        Ok(Transition::ThroughBlocked)
    }

    /// Invalidates for an entry that became present, with what `set` says; where hardware does not
    /// confirm, the stream is blocked again.
    fn finish_attach(&self, tables: &mut Tables<H>, key: Key, set: Result<Linked, HwError>) -> Result<(), HwError> {
        let done = set
            .and_then(|linked| self.invalidate_each(|add| tables.was_set(key, linked).for_each(|change| add(&change))));
        done.inspect_err(|_| {
            let _ = self.block(tables, key);
        })
    }

    /// Finishes what an earlier call could not, of a stream and of its requester's context entry. Other streams of the
    /// requester, whose device may not answer, are not waited for.
    fn settle(&self, tables: &mut Tables<H>, key: Key) -> Result<(), HwError> {
        if tables.unconfirmed(key.source).next().is_some() {
            self.confirm(tables, key.source)?;
        }
        if tables.stream(key).is_some_and(|stream| stream.draining) {
            self.block(tables, key)?;
        }
        Ok(())
    }

    /// Has hardware confirm what changed in the context entry of a requester.
    pub(super) fn confirm(&self, tables: &mut Tables<H>, source: RequesterId) -> Result<(), HwError> {
        self.invalidate_each(|add| tables.unconfirmed(source).for_each(|change| add(&change)))?;
        tables.confirmed(source);
        Ok(())
    }

    /// Blocks a stream; nothing to do where it is.
    pub(super) fn detach(&self, key: Key) -> Result<Transition, HwError> {
        let mut tables = self.tables.lock();
        if tables.stream(key).is_some() {
            self.block(&mut tables, key)?;
        }
        // No access meets anything but the old target or a refusal.
        Ok(Transition::Hitless)
    }

    fn block(&self, tables: &mut Tables<H>, key: Key) -> Result<(), HwError> {
        tables.clear(key)?;
        self.invalidate_each(|add| each_of_block(tables, key, add))?;
        forget(tables, key)
    }

    /// Blocks every stream that leads to `state` and removes all that is cached under it. On an error no entry leads there
    /// any more, but hardware may not know it yet.
    pub(crate) fn retire(&self, state: &State) -> Result<(), HwError> {
        let retired = Change::DomainRetired { tag: state.tag() };
        let mut tables = self.tables.lock();
        // Every entry first: where the queue hangs, no stream is left with one because another was waited for.
        let mut outcome = Ok(());
        state.each_user(|user| outcome = outcome.and(tables.clear(user.into()).map(drop)));
        outcome?;
        // Then all of them together, in as few batches as it takes.
        let done = self.invalidate_each(|add| {
            state.each_user(|user| each_of_block(&tables, user.into(), add));
            add(&retired);
        });
        match done {
            Ok(()) => {
                while let Some(user) = state.next_user(None) {
                    forget(&mut tables, user.into())?;
                }
                Ok(())
            }
            // One of them may be a device that does not answer, which is nobody else's business.
            Err(HwError::Queue { .. }) => self.retire_each(&mut tables, state).and(self.invalidate(&[retired])),
            Err(error) => Err(error),
        }
    }

    /// Blocks every stream that leads to `state`, one by one. The first error.
    fn retire_each(&self, tables: &mut Tables<H>, state: &State) -> Result<(), HwError> {
        let (mut last, mut outcome) = (None, Ok(()));
        while let Some(user) = state.next_user(last) {
            outcome = outcome.and(self.block(tables, user.into()));
            last = Some((user.source, user.pasid));
        }
        outcome
    }
}

/// What must be invalidated for a stream that was cleared, with what is left to confirm of its requester's context entry.
fn each_of_block<H: Hal + Clone>(tables: &Tables<H>, key: Key, add: &mut dyn FnMut(&Change<'_>)) {
    tables.unconfirmed(key.source).for_each(|change| add(&change));
    tables.was_cleared(key).iter().for_each(add);
}

/// Hardware has confirmed that it forgot a stream.
fn forget<H: Hal + Clone>(tables: &mut Tables<H>, key: Key) -> Result<(), HwError> {
    let stranger = HwError::Hardware("a stream that its domain does not know");
    let stream = tables.stream(key).ok_or(stranger)?;
    let seat = stream.state.remove_user(key.source, key.pasid);
    tables.confirmed(key.source);
    tables.remove(key);
    seat.map(drop).ok_or(stranger)
}

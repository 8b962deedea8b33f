//! Attach, replace, detach, retire: entries and invalidations in the order in which hardware must see them.

use super::Inner;
use crate::domain::State;
use crate::invalidate::{Add, Change, Seat, Tag};
use crate::spec::ste::DefaultSubstream;
use crate::tables::{Destination, Form, Key, Plan, Room, Tables, Words, index};
use iommu_alloc::Shared;
use iommu_core::hw::{HwError, Stream, StreamId, Transition};
use iommu_core::warn;
use iommu_hal::Hal;
use iommu_hal::mem::Frames;
use iommu_hal::regs::Registers;

const STRANGER: HwError = HwError::Hardware("a stream that its domain does not know");
const NO_WAY: HwError = HwError::Hardware("an entry that cannot become what it should");

impl<H: Hal + Clone, R: Registers> Inner<H, R> {
    /// Leads a stream to `to`: where it led elsewhere before, in one step if the architecture has one, else through blocked.
    pub(super) fn attach(&self, key: Key, to: &Destination) -> Result<Transition, HwError> {
        let mut tables = self.tables.lock();
        to.state.admit()?;
        self.settle(&mut tables, key)?;
        tables.allows(key, &to.entry)?;
        if tables.attachment(key).is_some() {
            return self.replace(&mut tables, key, to);
        }
        // Everything that needs memory comes first.
        let Room { seat, spare, space, leaf } = tables.prepare(key)?;
        if let Some(space) = space {
            tables.grow(key.stream, space)?;
            self.confirm(&mut tables, key.stream)?;
        }
        to.state.add_user(seat);
        if let Err(error) = tables.insert(key, to, spare) {
            to.state.remove_user(key.stream, key.pasid);
            return Err(error);
        }
        self.set(&mut tables, key, leaf)?;
        Ok(Transition::Hitless)
    }

    /// Leads a stream elsewhere that leads somewhere.
    fn replace(&self, tables: &mut Tables<H>, key: Key, to: &Destination) -> Result<Transition, HwError> {
        let held = tables.attachment(key).ok_or(STRANGER)?;
        // All that leads to one domain has the same entry.
        if Shared::same(held.state(), &to.state) {
            return Ok(Transition::Hitless);
        }
        // Stalled accesses can be ended only while nothing gets through.
        let (old, stalls) = (held.state().clone(), held.to.entry.stalls());
        let at_once = key.pasid.is_none() && !stalls;
        let words = tables.function_words(key.stream, to).filter(|_| at_once);
        if let Some(words) = words
            && let Some(plan) = tables.plan(key.stream, &words)?
            && let Some(spare) = tables.take_spare(key)
        {
            self.move_to(tables, key, to, &plan, spare)?;
            return Ok(Transition::Hitless);
        }
        match key.pasid {
            Some(_) => tables.clear_entry(key)?,
            // With the entry, where nobody else needs it.
            None => tables.clear(key)?,
        }
        self.invalidate_each(&|add| each_of_block(tables, key, add))?;
        self.confirmed(tables, key.stream);
        if stalls {
            self.end_stalls(tables, key);
        }
        // Its seat moves with it, so that going back needs no memory.
        let seat = old.remove_user(key.stream, key.pasid).ok_or(STRANGER)?;
        to.state.add_user(seat);
        tables.redirect(key, to)?;
        self.set(tables, key, None)?;
        Ok(Transition::ThroughBlocked)
    }

    /// Leads a function without PASIDs elsewhere as `plan` says, without a moment at which it leads nowhere.
    fn move_to(
        &self,
        tables: &mut Tables<H>,
        key: Key,
        to: &Destination,
        plan: &Plan,
        spare: Seat,
    ) -> Result<(), HwError> {
        // A user of both from before the entry may lead there until hardware has confirmed that it does no more.
        let left = held_state(tables, key)?.tag();
        to.state.add_user(spare);
        tables.leave_for(key, to)?;
        let done = self.change_entry(tables, key.stream, Form::Function, plan, Some(left));
        done.and_then(|()| tables.moved(key)).inspect_err(|_| {
            let _ = self.block(tables, key);
        })
    }

    /// Leads a stream where it is to lead, which leads nowhere; `leaf` is the memory for its context descriptor if that has
    /// none. Where hardware does not confirm, the stream is blocked again.
    fn set(&self, tables: &mut Tables<H>, key: Key, leaf: Option<Frames<H>>) -> Result<(), HwError> {
        let done = self.try_set(tables, key, leaf).and_then(|()| tables.arrived(key));
        done.inspect_err(|_| {
            // The entry may go on, for others: with words that were stored, and that hardware may not have yet.
            tables.doubt(key.stream);
            let _ = self.block(tables, key);
        })
    }

    fn try_set(&self, tables: &mut Tables<H>, key: Key, leaf: Option<Frames<H>>) -> Result<(), HwError> {
        let (form, words) = tables.target(key)?;
        if form == Form::Table && tables.form(key.stream) != Form::Table {
            tables.fill_table(key.stream)?;
        }
        self.change_to(tables, key.stream, form, &words)?;
        match form {
            // Last, so that nobody gets there by substream id 0 where that is for requests without PASID.
            Form::Table => self.set_context(tables, key, leaf),
            _ => Ok(()),
        }
    }

    /// Makes the entry of a device `to`, which is of `form`.
    fn change_to(&self, tables: &mut Tables<H>, stream: StreamId, form: Form, to: &Words) -> Result<(), HwError> {
        let mut plan = tables.plan(stream, to)?;
        if plan.is_none()
            && let Some(stalling) = tables.with_stalls(stream)?
            && let Some(first) = tables.plan(stream, &stalling)?
        {
            // To allow stalls changes nothing where no descriptor asks for them.
            let form = tables.form(stream);
            self.change_entry(tables, stream, form, &first, None)?;
            plan = tables.plan(stream, to)?;
        }
        self.change_entry(tables, stream, form, &plan.ok_or(NO_WAY)?, None)
    }

    /// Carries out `plan` for the entry of a device, each step confirmed before the next. `left` is what a function
    /// led to that leads elsewhere once the entry is the new one.
    fn change_entry(
        &self,
        tables: &mut Tables<H>,
        stream: StreamId,
        form: Form,
        plan: &Plan,
        left: Option<Tag>,
    ) -> Result<(), HwError> {
        // The level-1 descriptor that leads to an entry that aborts may be new. And hardware may hold pieces of such an entry as
        // it was; none may be left when its first word changes.
        let new_table = tables.form(stream) == Form::Abort;
        if let Some(words) = &plan.prepared {
            tables.store(stream, words)?;
        }
        if plan.prepared.is_some() || new_table {
            self.invalidate(&[Change::EntryStored { stream, new_table }])?;
        }
        if let Some(switch) = plan.switch {
            tables.switch(stream, form, switch)?;
        }
        self.invalidate_each(&|add| {
            add(&Change::EntryStored { stream, new_table: false });
            if let Some(tag) = left {
                add(&Change::EntryCleared { user: tables.user(Key { stream, pasid: None }), tag });
            }
        })?;
        self.confirmed(tables, stream);
        if let Some(words) = &plan.tidy {
            tables.store(stream, words)?;
            self.invalidate(&[Change::EntryStored { stream, new_table: false }])?;
        }
        Ok(())
    }

    /// Makes the context descriptor of a stream valid, where it has one.
    fn set_context(&self, tables: &mut Tables<H>, key: Key, leaf: Option<Frames<H>>) -> Result<(), HwError> {
        let (stream, index) = (key.stream, index(key.pasid));
        let new_table = tables.add_leaf(key, leaf)?;
        let Some(plan) = tables.context_plan(key)? else { return Ok(()) };
        if let Some(words) = &plan.prepared {
            tables.store_context(key, words)?;
        }
        if plan.prepared.is_some() || new_table {
            self.invalidate(&[Change::ContextStored { stream, index, new_table }])?;
        }
        if let Some(switch) = plan.switch {
            tables.publish_context(key, switch)?;
            self.invalidate(&[Change::ContextStored { stream, index, new_table: false }])?;
        }
        Ok(())
    }

    /// Finishes what an earlier call could not, of a stream and of the entry of its device. Other streams of the device, which
    /// may not answer, are not waited for.
    fn settle(&self, tables: &mut Tables<H>, key: Key) -> Result<(), HwError> {
        if tables.unconfirmed(key.stream).next().is_some() {
            self.confirm(tables, key.stream)?;
        }
        if tables.attachment(key).is_some_and(|held| held.draining) {
            self.block(tables, key)?;
        }
        Ok(())
    }

    /// Has hardware confirm what changed in the entry of a device.
    pub(super) fn confirm(&self, tables: &mut Tables<H>, stream: StreamId) -> Result<(), HwError> {
        self.invalidate_each(&|add| tables.unconfirmed(stream).for_each(|change| add(&change)))?;
        self.confirmed(tables, stream);
        Ok(())
    }

    /// Hardware has confirmed what was unconfirmed of the entry of a device.
    fn confirmed(&self, tables: &mut Tables<H>, stream: StreamId) {
        if tables.has_stalls_left(stream) {
            self.stalls_ended(Stream { id: stream, pasid: None });
        }
        tables.confirmed(stream);
    }

    /// A stream that might stall leads nowhere any more, which hardware has confirmed. Where others of its device go on, its
    /// stalled accesses are refused one by one; else all of the device's have been.
    fn end_stalls(&self, tables: &Tables<H>, key: Key) {
        let stream = Stream { id: key.stream, pasid: key.pasid };
        if tables.form(key.stream) != Form::Abort && self.refuse_stalls(stream).is_err() {
            warn!("stream {:#x}: stalled accesses that hardware did not say are refused", key.stream.get());
        }
    }

    /// Blocks a stream; nothing to do where it is.
    pub(super) fn detach(&self, key: Key) -> Result<Transition, HwError> {
        let mut tables = self.tables.lock();
        if tables.attachment(key).is_some() {
            self.block(&mut tables, key)?;
        }
        // No access meets anything but the old target or a refusal.
        Ok(Transition::Hitless)
    }

    fn block(&self, tables: &mut Tables<H>, key: Key) -> Result<(), HwError> {
        tables.clear(key)?;
        self.invalidate_each(&|add| each_of_block(tables, key, add))?;
        self.forget(tables, key)
    }

    /// Hardware has confirmed that it forgot a stream.
    fn forget(&self, tables: &mut Tables<H>, key: Key) -> Result<(), HwError> {
        let held = tables.attachment(key).ok_or(STRANGER)?;
        let stalls = held.to.entry.stalls();
        let users = held.states().filter(|state| state.remove_user(key.stream, key.pasid).is_some()).count();
        self.confirmed(tables, key.stream);
        if stalls {
            self.end_stalls(tables, key);
        }
        tables.remove(key);
        if key.pasid.is_none() && tables.form(key.stream) == Form::Table {
            // Its descriptor is not valid any more, and requests without PASID are refused in any case; by what says so best from
            // now on.
            tables.end_default(key.stream, DefaultSubstream::Zero)?;
            if self.confirm(tables, key.stream).is_err() {
                warn!("stream {:#x}: its entry was changed, which hardware did not confirm", key.stream.get());
            }
        }
        if users == 0 { Err(STRANGER) } else { Ok(()) }
    }

    /// Blocks every stream that leads to `state` and removes all that is cached under it. On an error no entry leads there
    /// any more, but hardware may not know it yet.
    pub(crate) fn retire(&self, state: &State) -> Result<(), HwError> {
        let retired = Change::DomainRetired { tag: state.tag() };
        let mut tables = self.tables.lock();
        // Every entry first: where the queue hangs, no stream is left with one because another was waited for.
        let mut outcome = Ok(());
        state.each_user(|user| outcome = outcome.and(tables.clear(user.into())));
        outcome?;
        // Then all of them together, in as few batches as it takes.
        let done = self.invalidate_each(&|add| {
            state.each_user(|user| each_of_block(&tables, user.into(), add));
            add(&retired);
        });
        match done {
            Ok(()) => {
                let mut last = None;
                while let Some(user) = state.next_user(last) {
                    self.forget(&mut tables, user.into())?;
                    last = Some((user.stream, user.pasid));
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
            last = Some((user.stream, user.pasid));
        }
        outcome
    }
}

fn held_state<H: Hal + Clone>(tables: &Tables<H>, key: Key) -> Result<Shared<State>, HwError> {
    tables.attachment(key).map(|held| held.state().clone()).ok_or(STRANGER)
}

/// What must be invalidated for a stream that was cleared, with what is left to confirm of the entry of its device.
#[inline(never)]
fn each_of_block<H: Hal + Clone>(tables: &Tables<H>, key: Key, add: &mut Add<'_>) {
    tables.unconfirmed(key.stream).for_each(|change| add(&change));
    tables.was_cleared(key).for_each(|change| add(&change));
}

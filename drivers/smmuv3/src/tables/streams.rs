//! Streams: made, changed, taken away, and what that was.

use super::Tables;
use super::contexts::{Contexts, Space};
use super::device::{Attachment, Destination, Form, Key};
use super::update::{Plan, WORDS, Words};
use crate::domain::State;
use crate::invalidate::{Atc, Change, Seat};
use crate::spec::ste::{DefaultSubstream, SteWord1, StreamEntry};
use iommu_alloc::Shared;
use iommu_core::hw::{HwError, Pasid, StreamId};
use iommu_hal::Hal;
use iommu_hal::mem::Frames;

/// Memory that a new stream needs, which hardware does not know yet.
pub(crate) struct Room<H: Hal> {
    /// Its place among the users of where it is to lead.
    pub(crate) seat: Seat,
    /// One more, for a function, which may be a user of two domains while it moves.
    pub(crate) spare: Option<Seat>,
    /// A larger table of context descriptors, or first level of it.
    pub(crate) space: Option<Space<H>>,
    /// Where its context descriptor is to stand.
    pub(crate) leaf: Option<Frames<H>>,
}

/// Index of the context descriptor of a stream, where it has one.
pub(crate) fn index(pasid: Option<Pasid>) -> u32 {
    pasid.map_or(0, Pasid::get)
}

const STREAM_WITHOUT_STAGE_1: HwError =
    HwError::Unsupported("a PASID that leads to a stage 2, or to a guest's stage 1");

impl<H: Hal + Clone> Tables<H> {
    /// Whether a stream may lead to `entry` beside what leads somewhere already.
    ///
    /// # Errors
    ///
    /// [`HwError::Unsupported`] where it never may; [`HwError::InUse`].
    pub(crate) fn allows(&self, key: Key, entry: &StreamEntry) -> Result<(), HwError> {
        let Some(held) = self.device(key.stream) else { return check_pasid(key, entry) };
        check_pasid(key, entry)?;
        let whole = |entry: &StreamEntry| !matches!(entry, StreamEntry::Stage1(_) | StreamEntry::Bypass);
        let function = held.attachment(None).filter(|function| !function.draining);
        let taken = match key.pasid {
            Some(_) => function.is_some_and(|function| whole(&function.to.entry)),
            None => whole(entry) && held.has_pasids(),
        };
        match (taken, held.tlb.is_some() && entry.stalls_stage2()) {
            (true, _) => Err(HwError::InUse),
            (_, true) => Err(HwError::Unsupported("a device TLB behind a stage 2 that stalls accesses")),
            _ => Ok(()),
        }
    }

    /// Gets all the memory for a stream that is not there yet: on an error nothing has changed.
    pub(crate) fn prepare(&mut self, key: Key) -> Result<Room<H>, HwError> {
        let room = self.try_prepare(key);
        if room.is_err() {
            self.prune(key.stream);
        }
        room
    }

    fn try_prepare(&mut self, key: Key) -> Result<Room<H>, HwError> {
        let (hal, request, shape) = (self.hal.clone(), self.request, self.shape.contexts);
        let user = self.user(key);
        let spare = if key.pasid.is_none() { Some(Seat::new(user)?) } else { None };
        let mut room = Room { seat: Seat::new(user)?, spare, space: None, leaf: None };
        let held = self.device_or_new(key.stream)?;
        held.streams.try_reserve(1).map_err(|_| HwError::OutOfMemory)?;
        if key.pasid.is_some() {
            let index = index(key.pasid);
            let contexts = match &mut held.contexts {
                Some(contexts) => contexts,
                none => none.insert(Contexts::new(&hal, request, shape, index)?),
            };
            if !contexts.reaches(index) {
                room.space = Some(Space::for_index(&hal, request, shape, index)?);
            }
            if room.space.as_ref().map_or(!contexts.has_leaf(index), Space::two_level) {
                // With that of a table that becomes one.
                contexts.reserve_leaves(2)?;
                room.leaf = Some(Frames::alloc(hal, request).ok_or(HwError::OutOfMemory)?);
            }
        }
        self.reach(key.stream)?;
        Ok(room)
    }

    /// Goes on with the context descriptors of a stream in a larger table. The caller has hardware
    /// [confirm](Tables::unconfirmed) that before anything else.
    pub(crate) fn grow(&mut self, stream: StreamId, space: Space<H>) -> Result<(), HwError> {
        let fetch = self.shape.fetch;
        let held = self.held(stream)?;
        let contexts = held.contexts.as_mut().ok_or(HwError::Hardware("a stream without context descriptors"))?;
        contexts.move_to(space)?;
        if held.form == Form::Table {
            // All that is of a table in word 1 stays as it is.
            let entry = held.table_entry(DefaultSubstream::Terminate, fetch, false)?;
            let [word0, ..] = self.words_of(stream, &entry);
            self.switch(stream, Form::Table, (0, word0))?;
        }
        Ok(())
    }

    /// Notes a stream that is to lead to `to`, for which there is [room](Tables::prepare). The caller has added it to the users
    /// there. Returns the memory for its context descriptor.
    pub(crate) fn insert(&mut self, key: Key, to: &Destination, spare: Option<Seat>) -> Result<(), HwError> {
        let held = self.held(key.stream)?;
        let Err(at) = held.position(key.pasid) else { return Err(HwError::InUse) };
        held.streams.try_reserve(1).map_err(|_| HwError::OutOfMemory)?;
        held.stalls |= to.entry.stalls();
        // Known before it is reachable: whatever happens from here on, its memory is not given back.
        let attachment = Attachment { pasid: key.pasid, to: to.clone(), left: None, spare, draining: true };
        held.streams.insert(at, attachment);
        Ok(())
    }

    /// Leads a stream elsewhere that was [cleared](Tables::clear), which hardware has confirmed. The caller has moved it to the
    /// users there.
    pub(crate) fn redirect(&mut self, key: Key, to: &Destination) -> Result<(), HwError> {
        let held = self.held(key.stream)?;
        held.stalls |= to.entry.stalls();
        let unknown = HwError::NoSuchStream { stream: key.stream.get() };
        held.attachment_mut(key.pasid).ok_or(unknown)?.to = to.clone();
        Ok(())
    }

    /// The entry that a device is to have so that its stream `key` leads where it is to: what it says, and of which form
    /// that is.
    pub(crate) fn target(&self, key: Key) -> Result<(Form, Words), HwError> {
        let unknown = HwError::NoSuchStream { stream: key.stream.get() };
        let held = self.device(key.stream).ok_or(unknown)?;
        let function = held.attachment(None).filter(|function| key.pasid.is_none() || !function.draining);
        let entry = function.map_or(StreamEntry::Abort, |function| function.to.entry);
        if !held.has_pasids() {
            return Ok((Form::Function, self.words_of(key.stream, &entry)));
        }
        let default = match entry {
            StreamEntry::Abort => DefaultSubstream::Terminate,
            StreamEntry::Bypass => DefaultSubstream::Bypass,
            StreamEntry::Stage1(_) => DefaultSubstream::Zero,
            _ => return Err(HwError::InUse),
        };
        let entry = held.table_entry(default, self.shape.fetch, self.shape.disable_stalls)?;
        Ok((Form::Table, self.words_of(key.stream, &entry)))
    }

    /// The words of the entry that leads the function `stream` to `to` where it has no PASIDs.
    pub(crate) fn function_words(&self, stream: StreamId, to: &Destination) -> Option<Words> {
        let free = self.device(stream).is_some_and(|held| !held.has_pasids());
        free.then(|| self.words_of(stream, &to.entry))
    }

    /// What the entry of a device says.
    pub(crate) fn form(&self, stream: StreamId) -> Form {
        self.device(stream).map_or(Form::Abort, |held| held.form)
    }

    /// The entry of a stream, but with stalls allowed in stage 1, where that makes a difference.
    pub(crate) fn with_stalls(&self, stream: StreamId) -> Result<Option<Words>, HwError> {
        let (frame, at) = self.entry(stream)?;
        let mut words: Words = core::array::from_fn(|word| frame.load(at + word));
        let word1 = SteWord1::from(words[1]);
        words[1] = word1.with_stage1_stall_disable(false).into();
        Ok(word1.stage1_stall_disable().then_some(words))
    }

    /// Copies the descriptor of the function to its table, which no entry leads to yet.
    pub(crate) fn fill_table(&mut self, stream: StreamId) -> Result<(), HwError> {
        let held = self.held(stream)?;
        let function = held.attachment(None).filter(|function| !function.draining).and_then(Attachment::stage1);
        let words = function.map_or([0; WORDS], |stage| stage.descriptor.words());
        held.contexts()?.store(0, &words)
    }

    /// Gives the context descriptor of a stream its memory, where it has none. Returns whether it had none.
    pub(crate) fn add_leaf(&mut self, key: Key, leaf: Option<Frames<H>>) -> Result<bool, HwError> {
        let (Some(leaf), Some(contexts)) = (leaf, self.held(key.stream)?.contexts.as_mut()) else { return Ok(false) };
        contexts.add_leaf(index(key.pasid), leaf).map(|()| true)
    }

    /// How the context descriptor of a stream becomes what it is to be; `None` where the stream needs none.
    pub(crate) fn context_plan(&self, key: Key) -> Result<Option<Plan>, HwError> {
        let unknown = HwError::NoSuchStream { stream: key.stream.get() };
        let held = self.device(key.stream).ok_or(unknown)?;
        let attachment = held.attachment(key.pasid).ok_or(unknown)?;
        let Some(stage) = attachment.stage1() else { return Ok(None) };
        let plan = held.contexts()?.plan(index(key.pasid), &stage.descriptor.words())?;
        plan.map(Some).ok_or(HwError::Hardware("a context descriptor that is valid already"))
    }

    /// Stores the words of the context descriptor of a stream that differ.
    pub(crate) fn store_context(&self, key: Key, words: &Words) -> Result<(), HwError> {
        let held = self.device(key.stream).ok_or(HwError::NoSuchStream { stream: key.stream.get() })?;
        held.contexts()?.store(index(key.pasid), words)
    }

    /// Stores one word of the context descriptor of a stream.
    pub(crate) fn publish_context(&self, key: Key, (word, value): (usize, u64)) -> Result<(), HwError> {
        let held = self.device(key.stream).ok_or(HwError::NoSuchStream { stream: key.stream.get() })?;
        held.contexts()?.publish(index(key.pasid), word, value)
    }

    /// The stream leads where it is to, which hardware has confirmed.
    pub(crate) fn arrived(&mut self, key: Key) -> Result<(), HwError> {
        self.attachment_mut(key)?.draining = false;
        Ok(())
    }

    /// The place in reserve of a stream, with its device TLB as it is known.
    pub(crate) fn take_spare(&mut self, key: Key) -> Option<Seat> {
        let held = self.held(key.stream).ok()?;
        let tlb = held.tlb;
        let mut seat = held.attachment_mut(key.pasid)?.spare.take()?;
        seat.set_tlb(tlb);
        Some(seat)
    }

    /// The stream is on its way to `to`, and a user of both.
    pub(crate) fn leave_for(&mut self, key: Key, to: &Destination) -> Result<(), HwError> {
        self.held(key.stream)?.stalls |= to.entry.stalls();
        let attachment = self.attachment_mut(key)?;
        attachment.left = Some(attachment.to.state.clone());
        attachment.to = to.clone();
        Ok(())
    }

    /// Hardware has confirmed that the stream is where it was to go.
    pub(crate) fn moved(&mut self, key: Key) -> Result<(), HwError> {
        let attachment = self.attachment_mut(key)?;
        if let Some(left) = attachment.left.take() {
            attachment.spare = left.remove_user(key.stream, key.pasid);
        }
        Ok(())
    }

    /// Has a stream lead nowhere, but leaves the entry of its device to others.
    pub(crate) fn clear_entry(&mut self, key: Key) -> Result<(), HwError> {
        self.attachment_mut(key)?.draining = true;
        let held = self.held(key.stream)?;
        if let Some(contexts) = &held.contexts {
            contexts.clear(index(key.pasid))?;
        }
        match (held.form, key.pasid) {
            (Form::Function, None) => self.abort(key.stream)?,
            // What passes stage 1 has no descriptor.
            (Form::Table, None) => self.end_default(key.stream, DefaultSubstream::Bypass)?,
            _ => {}
        }
        Ok(())
    }

    /// Has a stream lead nowhere, and then the entry of its device abort where none of its streams leads anywhere any more.
    pub(crate) fn clear(&mut self, key: Key) -> Result<(), HwError> {
        self.clear_entry(key)?;
        let held = self.held(key.stream)?;
        if held.form == Form::Table && !held.leads_anywhere() {
            held.changed = true;
            self.abort(key.stream)?;
        }
        Ok(())
    }

    /// Has requests without PASID terminated, where the entry leads to a table and does with them what `from` says.
    pub(crate) fn end_default(&mut self, stream: StreamId, from: DefaultSubstream) -> Result<(), HwError> {
        let (frame, at) = self.entry(stream)?;
        let word1 = SteWord1::from(frame.load(at + 1));
        if self.form(stream) == Form::Table && word1.default_substream() == from as u8 {
            let word1 = word1.with_default_substream(DefaultSubstream::Terminate as u8);
            self.switch(stream, Form::Table, (1, word1.into()))?;
        }
        Ok(())
    }

    /// Nobody knows which words of the entry of a device hardware has: all that it has is [unconfirmed](Tables::unconfirmed).
    pub(crate) fn doubt(&mut self, stream: StreamId) {
        if let Ok(held) = self.held(stream) {
            held.changed = true;
        }
    }

    /// What hardware has not confirmed yet of the entry of a device.
    pub(crate) fn unconfirmed(&self, stream: StreamId) -> impl Iterator<Item = Change<'static>> {
        let changed = self.device(stream).is_some_and(|held| held.changed);
        let changed = changed.then_some(Change::EntryStored { stream, new_table: false });
        changed.into_iter().chain(self.has_stalls_left(stream).then_some(Change::StalledLeft { stream }))
    }

    /// Whether the entry of a device aborts, and accesses may be stalled from before.
    pub(crate) fn has_stalls_left(&self, stream: StreamId) -> bool {
        self.device(stream).is_some_and(|held| held.form == Form::Abort && held.stalls)
    }

    /// What clearing a stream was.
    pub(crate) fn was_cleared(&self, key: Key) -> impl Iterator<Item = Change<'static>> + '_ {
        let user = self.user(key);
        let by_context = match key.pasid {
            Some(_) => true,
            None => {
                let stage1 = self.attachment(key).is_some_and(|held| held.stage1().is_some());
                self.form(key.stream) == Form::Table && stage1
            }
        };
        let change = move |tag| match by_context {
            true => Change::ContextCleared { user, tag },
            false => Change::EntryCleared { user, tag },
        };
        self.attachment(key).into_iter().flat_map(Attachment::states).map(move |state| change(state.tag()))
    }

    /// Hardware has confirmed all that was [unconfirmed](Tables::unconfirmed): what is old is given back.
    pub(crate) fn confirmed(&mut self, stream: StreamId) {
        if let Ok(held) = self.held(stream) {
            held.confirmed();
        }
    }

    /// Forgets a stream that was [cleared](Tables::clear), of which hardware has confirmed that it forgot it and all that was
    /// [unconfirmed](Tables::unconfirmed).
    pub(crate) fn remove(&mut self, key: Key) {
        if let Ok(held) = self.held(key.stream)
            && let Ok(at) = held.position(key.pasid)
        {
            held.streams.remove(at);
        }
        self.prune(key.stream);
    }

    /// The domains that a device leads to, or did when hardware last confirmed.
    pub(crate) fn states(&self, stream: StreamId) -> impl Iterator<Item = &Shared<State>> {
        self.device(stream).into_iter().flat_map(|held| held.streams.iter().flat_map(Attachment::states))
    }

    /// The device TLB of a device.
    pub(crate) fn tlb(&self, stream: StreamId) -> Option<Atc> {
        self.device(stream)?.tlb
    }

    /// Notes the device TLB of a device, for which its entry is to [let requests through](Tables::change_ats).
    ///
    /// # Errors
    ///
    /// [`HwError::Unsupported`] where it leads to a stage 2 that stalls; [`HwError::OutOfMemory`].
    pub(crate) fn set_tlb(&mut self, stream: StreamId) -> Result<(), HwError> {
        let held = self.device_or_new(stream)?;
        if held.streams.iter().any(|held| held.to.entry.stalls_stage2()) {
            return Err(HwError::Unsupported("a device TLB behind a stage 2 that stalls accesses"));
        }
        (held.tlb, held.tlb_enabled) = (Some(Atc), true);
        Ok(())
    }

    /// From now on the entry of a device is to refuse requests of its device TLB, of which the invalidations go on.
    pub(crate) fn refuse_tlb(&mut self, stream: StreamId) {
        if let Ok(held) = self.held(stream) {
            held.tlb_enabled = false;
        }
    }

    /// Forgets the device TLB of a device.
    pub(crate) fn forget_tlb(&mut self, stream: StreamId) {
        if let Ok(held) = self.held(stream) {
            (held.tlb, held.tlb_enabled) = (None, false);
        }
        self.prune(stream);
    }

    /// Makes EATS in the entry of a device follow what was [noted](Tables::set_tlb) of its device TLB, by one store. The caller
    /// invalidates what is [unconfirmed](Tables::unconfirmed) then: where hardware has not confirmed that a stream leads nowhere,
    /// it may go by an entry that says otherwise.
    pub(crate) fn change_ats(&mut self, stream: StreamId) -> Result<(), HwError> {
        let Some(held) = self.device(stream) else { return Ok(()) };
        let draining = held.streams.iter().any(|held| held.draining);
        let wanted = match (held.form, held.attachment(None)) {
            (Form::Table, _) => held.tlb_enabled,
            (Form::Function, Some(function)) => SteWord1::from(self.words_of(stream, &function.to.entry)[1]).ats() != 0,
            _ => false,
        };
        if held.form != Form::Abort {
            let form = held.form;
            let (frame, at) = self.entry(stream)?;
            let word1 = SteWord1::from(frame.load(at + 1));
            if (word1.ats() != 0) != wanted {
                self.switch(stream, form, (1, word1.with_ats(wanted.into()).into()))?;
            }
        }
        self.held(stream)?.changed |= draining;
        Ok(())
    }
}

fn check_pasid(key: Key, entry: &StreamEntry) -> Result<(), HwError> {
    match (key.pasid, entry) {
        (Some(_), StreamEntry::Stage1(_)) | (None, _) => Ok(()),
        _ => Err(STREAM_WITHOUT_STAGE_1),
    }
}

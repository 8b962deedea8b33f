//! Entries of streams: made, changed, taken away, and what that was.

use super::contexts::context_word;
use super::directory::{Directory, Space};
use super::requester::{Attachment, Context, Key};
use super::{Tables, frame};
use crate::domain::State;
use crate::invalidate::{Change, User};
use crate::spec::context::ContextWord0;
use crate::spec::pasid::PasidEntry;
use iommu_alloc::Shared;
use iommu_core::hw::{HwError, RequesterId};
use iommu_hal::Hal;
use iommu_hal::mem::Frames;

/// What became present with the entry of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Linked {
    /// The context entry of its requester.
    context: bool,
    /// The directory entry of its PASID table.
    directory: bool,
}

/// Memory that a new stream needs, which hardware does not know yet.
pub(crate) struct Room<H: Hal> {
    /// A larger directory.
    pub(crate) directory: Option<Space<H>>,
    /// The PASID's table.
    pub(crate) table: Option<Frames<H>>,
}

impl<H: Hal + Clone> Tables<H> {
    /// Gets all the memory for a stream that is not there yet: on an error nothing has changed.
    pub(crate) fn prepare(&mut self, key: Key) -> Result<Room<H>, HwError> {
        let room = self.try_prepare(key);
        if room.is_err() {
            self.prune(key.source);
        }
        room
    }

    fn try_prepare(&mut self, key: Key) -> Result<Room<H>, HwError> {
        let (hal, request, shape, index) = (self.hal.clone(), self.request, self.shape, self.user(key).index);
        let held = self.requester_or_new(key.source)?;
        held.streams.try_reserve(1).map_err(|_| HwError::OutOfMemory)?;
        let mut room = Room { directory: None, table: None };
        if shape.scalable {
            let reaches = held.directory.as_ref().map(|directory| directory.reaches(index));
            // Requests without PASID are looked up in it too, whoever comes first.
            let space = || Space::for_pasid(&hal, request, index.max(shape.rid_pasid));
            match reaches {
                Some(true) => {}
                Some(false) => room.directory = Some(space()?),
                None => held.directory = Some(Directory::new(space()?)),
            }
            if let Some(directory) = &mut held.directory
                && !directory.has_table(index)
            {
                directory.reserve_table()?;
                room.table = Some(Frames::alloc(hal, request).ok_or(HwError::OutOfMemory)?);
            }
        }
        self.context_table(key.source)?;
        Ok(room)
    }

    /// Leads a requester's context entry to a larger directory with the same tables. The caller invalidates, and then
    /// [confirms](Tables::confirmed).
    pub(crate) fn grow(&mut self, source: RequesterId, space: Space<H>) -> Result<(), HwError> {
        let held = self.held(source)?;
        held.changed = true;
        let directory = held.directory.as_mut().ok_or(HwError::Hardware("a requester without a directory"))?;
        directory.move_to(space)?;
        self.change_context(source).map(drop)
    }

    /// Leads a stream to `entry` for which there is [room](Tables::prepare). The caller has added it to the users of
    /// `state`, and invalidates.
    pub(crate) fn insert(
        &mut self,
        key: Key,
        state: &Shared<State>,
        entry: &PasidEntry,
        table: Option<Frames<H>>,
    ) -> Result<Linked, HwError> {
        let (state, entry) = (state.clone(), *entry);
        let held = self.held(key.source)?;
        let Err(at) = held.position(key.pasid) else { return Err(HwError::InUse) };
        held.streams.try_reserve(1).map_err(|_| HwError::OutOfMemory)?;
        // Known before it is reachable: whatever happens from here on, its frames are not given back.
        held.streams.insert(at, Attachment { pasid: key.pasid, state, entry, draining: true });
        self.publish(key, &entry, table)
    }

    /// Leads a stream to another `entry`. It was [cleared](Tables::clear) and invalidated before, and the caller has moved
    /// it to the users of `state`.
    pub(crate) fn reset(&mut self, key: Key, state: &Shared<State>, entry: &PasidEntry) -> Result<Linked, HwError> {
        let stream = self.attachment(key)?;
        (stream.state, stream.entry) = (state.clone(), *entry);
        self.publish(key, entry, None)
    }

    /// From the leaf upwards: whatever becomes reachable is complete by then.
    fn publish(&mut self, key: Key, entry: &PasidEntry, table: Option<Frames<H>>) -> Result<Linked, HwError> {
        let linked = if self.shape.scalable {
            let index = self.user(key).index;
            let directory = self.held(key.source)?.directory.as_mut();
            let directory = directory.ok_or(HwError::Hardware("a requester without a directory"))?;
            Linked { directory: directory.set(index, entry, table)?, context: self.set_context(key.source)? }
        } else {
            self.set_legacy(key, entry)?;
            Linked::default()
        };
        self.attachment(key)?.draining = false;
        Ok(linked)
    }

    /// Sets or clears SSADE in a user's entry, where that is present, by one store: it stands in the word with the present
    /// bit. The caller invalidates what that said before.
    pub(crate) fn retune(&mut self, user: User, access_dirty: bool) -> Result<(), HwError> {
        let held = self.held(user.source)?;
        let unknown = HwError::NoSuchStream { stream: user.source.get().into() };
        let at = held.position(user.pasid).map_err(|_| unknown)?;
        let stream = held.streams.get_mut(at).ok_or(unknown)?;
        if stream.draining || stream.entry.access_dirty == access_dirty {
            return Ok(());
        }
        let directory = held.directory.as_ref().ok_or(HwError::Hardware("a requester without a directory"))?;
        let entry = PasidEntry { access_dirty, ..stream.entry };
        let [word0, ..] = entry.words();
        directory.store_word0(user.index, word0)?;
        stream.entry = entry;
        Ok(())
    }

    /// Makes the entry of a stream not present, but nothing above it.
    pub(crate) fn clear_entry(&mut self, key: Key) -> Result<Shared<State>, HwError> {
        let index = self.user(key).index;
        let stream = self.attachment(key)?;
        stream.draining = true;
        let state = stream.state.clone();
        if self.shape.scalable {
            let directory = self.held(key.source)?.directory.as_ref();
            directory.ok_or(HwError::Hardware("a requester without a directory"))?.clear(index)?;
        } else {
            self.clear_legacy(key)?;
        }
        Ok(state)
    }

    /// Makes the entry of a stream not present, and then the context entry of its requester where none of its streams leads
    /// anywhere any more.
    pub(crate) fn clear(&mut self, key: Key) -> Result<Shared<State>, HwError> {
        let state = self.clear_entry(key)?;
        let held = self.held(key.source)?;
        if held.context == Context::Present && !held.leads_anywhere() {
            held.context = Context::Leaving;
            let (table, at) = (frame(self.context(key.source)?)?, context_word(key.source));
            table.publish(at, ContextWord0::from(table.load(at)).with_present(false).into());
        }
        Ok(state)
    }

    /// What hardware has not confirmed yet of a requester's context entry.
    pub(crate) fn unconfirmed(&self, source: RequesterId) -> impl Iterator<Item = Change<'static>> {
        let held = self.requester(source);
        let changed = held.is_some_and(|held| held.changed).then(|| match self.legacy_stream(source) {
            // Its device TLB was off when it was refused.
            Some(stream) => {
                let user = User { tlb: None, ..self.user(Key { source, pasid: None }) };
                Change::LegacyContextCleared { user, tag: stream.state.tag() }
            }
            None => Change::ContextChanged { source, tlb: None },
        });
        let leaving = held.is_some_and(|held| held.context == Context::Leaving);
        changed.into_iter().chain(leaving.then_some(Change::ContextCleared { source }))
    }

    /// What setting the entry of a stream was, with what became present with it.
    pub(crate) fn was_set(&self, key: Key, linked: Linked) -> impl Iterator<Item = Change<'static>> {
        let (source, user, tag) = (key.source, self.user(key), self.stream(key).map(|stream| stream.state.tag()));
        let scalable = self.shape.scalable;
        let context = linked.context.then_some(Change::ContextSet { source });
        let directory = linked.directory.then_some(Change::DirectoryEntrySet);
        context.into_iter().chain(directory).chain(tag.map(|tag| match scalable {
            true => Change::PasidEntrySet { user, tag },
            false => Change::LegacyContextSet { source, tag },
        }))
    }

    /// What clearing the entry of a stream was.
    pub(crate) fn was_cleared(&self, key: Key) -> Option<Change<'static>> {
        let (user, tag) = (self.user(key), self.stream(key)?.state.tag());
        Some(match self.shape.scalable {
            true => Change::PasidEntryCleared { user, tag },
            false => Change::LegacyContextCleared { user, tag },
        })
    }

    /// Hardware has confirmed all that was [unconfirmed](Tables::unconfirmed): what is old is given back.
    pub(crate) fn confirmed(&mut self, source: RequesterId) {
        if let Ok(held) = self.held(source) {
            held.confirmed();
        }
    }

    /// Gives back the structures of a stream that was [cleared](Tables::clear), of which hardware has confirmed that it
    /// forgot it and all that was [unconfirmed](Tables::unconfirmed).
    pub(crate) fn remove(&mut self, key: Key) {
        if let Ok(held) = self.held(key.source)
            && let Ok(at) = held.position(key.pasid)
        {
            held.streams.remove(at);
        }
        self.prune(key.source);
    }
}

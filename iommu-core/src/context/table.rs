//! What the lock of a context protects: its objects by number, and who depends on whom.

use super::MOST_DEPENDENCIES;
use super::id::ObjectId;
use super::kind::Object;
use crate::error::Error;
use crate::ioas::Accounting;
use crate::quota::Resource;
use crate::slab::Slab;

/// No slot has this number.
const NOBODY: u32 = u32::MAX;

pub(super) struct Table {
    /// Never taken out again, so that each remembers its generation.
    slots: Slab<Slot>,
    /// The first of those that are free.
    free: u32,
    /// Those in use, tombstones among them.
    count: u32,
    most: u32,
    /// Those being made or ended.
    unsettled: u32,
    closed: bool,
    /// Costs are being moved to another account: nothing new is made meanwhile.
    pub(super) moving: bool,
    pub(super) accounting: Accounting,
}

struct Slot {
    /// Of the object that is or will be here. Never 0.
    generation: u32,
    /// Objects that depend on this one.
    users: u32,
    /// On whom it depends; [`NOBODY`] where there are fewer.
    depends_on: [u32; MOST_DEPENDENCIES],
    /// The context has charged it to the owner.
    counted: bool,
    state: State,
}

enum State {
    /// Where the next free one is.
    Free(u32),
    /// Being made.
    Reserved,
    Live(Object),
    /// Being ended.
    Leaving,
    Tombstone,
    /// All generations are used up.
    Retired,
}

impl Table {
    pub(super) const fn new(most: u32) -> Self {
        Self {
            slots: Slab::new(),
            free: NOBODY,
            count: 0,
            most,
            unsettled: 0,
            closed: false,
            moving: false,
            accounting: Accounting::PerOwner,
        }
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Whether objects are being made or ended.
    pub(super) fn is_unsettled(&self) -> bool {
        self.unsettled != 0
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Numbers of slots are below.
    pub(super) fn slots(&self) -> u32 {
        // A slab has fewer than 2^32.
        self.slots.len() as u32
    }

    fn slot(&self, id: ObjectId) -> Result<&Slot, Error> {
        let slot = self.slots.get(id.index()).ok_or(Error::NoSuchObject)?;
        if slot.generation == id.generation() { Ok(slot) } else { Err(Error::NoSuchObject) }
    }

    fn slot_mut(&mut self, id: ObjectId) -> Result<&mut Slot, Error> {
        self.slot(id)?;
        self.slots.get_mut(id.index()).ok_or(Error::NoSuchObject)
    }

    pub(super) fn get(&self, id: ObjectId) -> Result<&Object, Error> {
        match &self.slot(id)?.state {
            State::Live(object) => Ok(object),
            State::Leaving => Err(Error::Busy),
            State::Free(_) | State::Reserved | State::Tombstone | State::Retired => Err(Error::NoSuchObject),
        }
    }

    /// The object at `index`, if there is one.
    pub(super) fn at(&self, index: u32) -> Option<(ObjectId, &Object)> {
        let slot = self.slots.get(index)?;
        match &slot.state {
            State::Live(object) => Some((ObjectId::new(index, slot.generation)?, object)),
            _ => None,
        }
    }

    /// A place for an object that depends on others.
    pub(super) fn reserve(&mut self, depends_on: &[ObjectId], counted: bool) -> Result<ObjectId, Error> {
        if self.closed {
            return Err(Error::Invalid("the context is closed"));
        }
        if self.moving {
            return Err(Error::Busy);
        }
        if self.count >= self.most {
            return Err(Error::Quota(Resource::Objects));
        }
        let mut indices = [NOBODY; MOST_DEPENDENCIES];
        if depends_on.len() > indices.len() {
            return Err(Error::Invalid("an object depends on too many others"));
        }
        for (index, &id) in indices.iter_mut().zip(depends_on) {
            self.get(id)?;
            *index = id.index();
        }
        let (index, generation) = self.take_free()?;
        let id = ObjectId::new(index, generation).ok_or(Error::OutOfMemory)?;
        if let Some(slot) = self.slots.get_mut(index) {
            if let State::Free(next) = slot.state {
                self.free = next;
            }
            slot.depends_on = indices;
            slot.counted = counted;
            slot.state = State::Reserved;
        }
        for index in indices {
            if let Some(other) = self.slots.get_mut(index) {
                // At most four for each object, of which there are fewer than 2^32: far from the end in any memory.
                other.users = other.users.saturating_add(1);
            }
        }
        self.count += 1;
        self.unsettled += 1;
        Ok(id)
    }

    /// The first free slot, still on the list, and its next object's generation.
    fn take_free(&mut self) -> Result<(u32, u32), Error> {
        if let Some(slot) = self.slots.get(self.free) {
            return Ok((self.free, slot.generation));
        }
        let state = State::Free(NOBODY);
        let slot = Slot { generation: 1, users: 0, depends_on: [NOBODY; MOST_DEPENDENCIES], counted: false, state };
        Ok((self.slots.insert(slot)?, 1))
    }

    /// From now on others find it.
    ///
    /// # Errors
    ///
    /// The context has been closed; the object is to be dropped without the lock.
    pub(super) fn publish(&mut self, id: ObjectId, object: Object) -> Result<(), Object> {
        if self.closed {
            return Err(object);
        }
        self.put_back(id, object)
    }

    /// As it was before [`Table::begin_to_leave`].
    pub(super) fn put_back(&mut self, id: ObjectId, object: Object) -> Result<(), Object> {
        let Ok(slot) = self.slot_mut(id) else { return Err(object) };
        slot.state = State::Live(object);
        self.unsettled -= 1;
        Ok(())
    }

    /// Takes an object that nobody depends on. It can not be found until it is put back.
    pub(super) fn begin_to_leave(&mut self, id: ObjectId) -> Result<Object, Error> {
        self.get(id)?;
        let slot = self.slot_mut(id)?;
        if slot.users != 0 {
            return Err(Error::Busy);
        }
        match core::mem::replace(&mut slot.state, State::Leaving) {
            State::Live(object) => {
                self.unsettled += 1;
                Ok(object)
            }
            other => {
                slot.state = other;
                Err(Error::NoSuchObject)
            }
        }
    }

    /// The object is gone, or was not made: so are its claims on others. Returns whether it was counted, and is no more.
    pub(super) fn finish(&mut self, id: ObjectId, tombstone: bool) -> bool {
        let Ok(slot) = self.slot_mut(id) else { return false };
        let indices = core::mem::replace(&mut slot.depends_on, [NOBODY; MOST_DEPENDENCIES]);
        slot.state = State::Tombstone;
        self.unsettled -= 1;
        for index in indices {
            if let Some(other) = self.slots.get_mut(index) {
                other.users = other.users.saturating_sub(1);
            }
        }
        !tombstone && self.free(id.index())
    }

    /// Makes the tombstone at `index`, if there is one, free. Returns whether it was counted, and is no more.
    pub(super) fn clear_tombstone(&mut self, index: u32) -> bool {
        let found = self.slots.get(index).is_some_and(|slot| matches!(slot.state, State::Tombstone));
        found && self.free(index)
    }

    fn free(&mut self, index: u32) -> bool {
        let Some(slot) = self.slots.get_mut(index) else { return false };
        match slot.generation.checked_add(1) {
            Some(next) => {
                slot.generation = next;
                slot.state = State::Free(self.free);
                self.free = index;
            }
            None => slot.state = State::Retired,
        }
        self.count -= 1;
        slot.counted
    }

    /// Has the next object at `index` be of `generation`.
    #[cfg(test)]
    pub(super) fn set_generation(&mut self, index: u32, generation: u32) {
        self.slots.get_mut(index).unwrap().generation = generation;
    }
}

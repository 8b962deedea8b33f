//! What the lock of a space protects: which PASID is whose, and who uses it.

use super::record::{ONE, Record, Set, User, enter};
use super::{PasidState, PasidUse, PasidUser};
use crate::error::Error;
use crate::hw::Pasid;
use crate::quota::{Ledger, Resource};
use crate::slab::Slab;
use crate::tree::{InsertError, Tree};
use alloc::sync::Arc;
use alloc::vec::Vec;
use iommu_alloc::Shared;

/// In place of a record: never given out.
const RESERVED: u32 = u32::MAX;

pub(super) struct Table {
    /// Highest PASID of the space.
    last: u32,
    capacity: u32,
    /// From PASIDs to records, or to [`RESERVED`].
    taken: Tree<u32>,
    records: Slab<Record>,
    sets: Slab<Set>,
    /// The next record's or user's number. Never reused: slots are.
    next: u64,
}

impl Table {
    pub(super) fn new(bits: u8, reserved: &[(Pasid, Pasid)]) -> Result<Self, Error> {
        if bits == 0 {
            return Err(Error::Unsupported("PASID"));
        }
        if u32::from(bits) > Pasid::BITS {
            return Err(Error::Invalid("a PASID has at most 20 bits"));
        }
        let count = 1 << bits;
        let mut table = Self {
            last: count - 1,
            capacity: count,
            taken: Tree::new(),
            records: Slab::new(),
            sets: Slab::new(),
            next: 0,
        };
        for &(first, last) in reserved {
            if first > last {
                return Err(Error::Invalid("a reserved range ends before it begins"));
            }
            let (first, last) = (first.get(), last.get().min(table.last));
            if first > last {
                continue;
            }
            table.taken.insert(first.into(), last.into(), RESERVED).map_err(|error| match error {
                InsertError::Overlap { .. } => Error::Invalid("reserved ranges overlap"),
                InsertError::OutOfMemory => Error::OutOfMemory,
            })?;
            table.capacity -= last - first + 1;
        }
        Ok(table)
    }

    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }

    pub(super) fn available(&self) -> u32 {
        // No more records than the capacity, which has 21 bits.
        self.capacity.saturating_sub(self.records.len() as u32)
    }

    pub(super) fn state(&self, pasid: Pasid) -> PasidState {
        let at = pasid.get().into();
        match self.taken.first_overlap(at, at) {
            Some((_, _, slot)) => self.records.get(slot).map_or(PasidState::Reserved, Record::state),
            None if pasid.get() > self.last => PasidState::Reserved,
            None => PasidState::Free,
        }
    }

    pub(super) fn add_set(&mut self, quota: u32, ledger: Shared<Ledger>) -> Result<u32, Error> {
        let (members, private) = (Tree::new(), Tree::new());
        Ok(self.sets.insert(Set { quota, ledger, members, private, closed: false, left: false })?)
    }

    /// From now on nothing is allocated for it.
    pub(super) fn close_set(&mut self, set: u32) {
        if let Some(set) = self.sets.get_mut(set) {
            set.closed = true;
        }
    }

    /// Its last handle is gone, and with it the right to name it.
    pub(super) fn leave_set(&mut self, number: u32) {
        if let Some(set) = self.sets.get_mut(number) {
            set.left = true;
            if set.members.is_empty() {
                self.sets.remove(number);
            }
        }
    }

    pub(super) fn members(&self, set: u32) -> u32 {
        // As for the records.
        self.sets.get(set).map_or(0, |set| set.members.len() as u32)
    }

    pub(super) fn global(&self, set: u32, private: u32) -> Option<Pasid> {
        let at = private.into();
        self.sets.get(set)?.private.first_overlap(at, at).map(|(_, _, pasid)| pasid)
    }

    /// The set's lowest PASID from `from` on.
    pub(super) fn next_member(&self, set: u32, from: u32) -> Option<&Record> {
        let (_, _, slot) = self.sets.get(set)?.members.first_overlap(from.into(), u64::MAX)?;
        self.records.get(slot)
    }

    pub(super) fn alloc(
        &mut self,
        number: u32,
        first: Pasid,
        last: Pasid,
        private: Option<u32>,
    ) -> Result<Pasid, Error> {
        if first > last {
            return Err(Error::Invalid("the first PASID lies behind the last"));
        }
        let set = self.sets.get_mut(number).filter(|set| !set.closed).ok_or(Error::Invalid("the set is closed"))?;
        if set.members.len() >= set.quota as usize {
            return Err(Error::Quota(Resource::Pasids));
        }
        let key = private.map(u64::from);
        if key.is_some_and(|key| set.private.first_overlap(key, key).is_some()) {
            return Err(Error::Exists);
        }
        let last = last.get().min(self.last);
        let free = self.taken.first_gap(first.get().into(), last.into(), 1, 1);
        let pasid = free.and_then(|at| Pasid::new(u32::try_from(at).ok()?)).ok_or(Error::NoSpace { len: 1 })?;
        set.ledger.charge(ONE)?;
        let record = Record { number: self.next, pasid, set: number, private, draining: false, users: Vec::new() };
        if let Err(error) = enter(&mut self.taken, &mut self.records, set, record) {
            set.ledger.release(ONE);
            return Err(error);
        }
        self.next += 1;
        Ok(pasid)
    }

    /// The set's active `pasid`, and where its record is.
    pub(super) fn find(&self, set: u32, pasid: Pasid) -> Result<(u32, &Record), Error> {
        let at = pasid.get().into();
        let found = self.taken.first_overlap(at, at).and_then(|(_, _, slot)| Some((slot, self.records.get(slot)?)));
        found.filter(|(_, record)| record.set == set && !record.draining).ok_or(Error::NoSuchPasid(pasid))
    }

    /// Takes `user` where it is successful.
    pub(super) fn acquire(
        &mut self,
        set: u32,
        pasid: Pasid,
        user: &mut Option<Arc<dyn PasidUser>>,
    ) -> Result<(u32, u64), Error> {
        let (slot, _) = self.find(set, pasid)?;
        let record = self.records.get_mut(slot).ok_or(Error::NoSuchPasid(pasid))?;
        if record.users.len() >= PasidUse::MOST {
            return Err(Error::NoSpace { len: 1 });
        }
        record.users.try_reserve(1).map_err(|_| Error::OutOfMemory)?;
        let number = self.next;
        self.next += 1;
        record.users.push(User { number, told: false, user: user.take() });
        Ok((slot, number))
    }

    /// The user that let go, to be dropped without the lock.
    pub(super) fn done(&mut self, slot: u32, number: u64) -> Option<User> {
        let record = self.records.get_mut(slot)?;
        let at = record.users.iter().position(|user| user.number == number)?;
        let user = record.users.swap_remove(at);
        if record.draining && record.users.is_empty() {
            self.forget(slot);
        }
        Some(user)
    }

    /// Takes the set's active `pasid` out of use, and away where nobody uses it. Returns which record's users are to be
    /// told.
    pub(super) fn drain(&mut self, set: u32, pasid: Pasid) -> Result<(u32, u64), Error> {
        let (slot, _) = self.find(set, pasid)?;
        let record = self.records.get_mut(slot).ok_or(Error::NoSuchPasid(pasid))?;
        record.draining = true;
        let (number, unused) = (record.number, record.users.is_empty());
        if let Some(private) = record.private.take()
            && let Some(set) = self.sets.get_mut(set)
        {
            set.private.remove(private.into());
        }
        if unused {
            self.forget(slot);
        }
        Ok((slot, number))
    }

    /// A user of the draining record that has not been told yet, who counts as told now.
    pub(super) fn next_untold(&mut self, slot: u32, number: u64) -> Option<(Pasid, Arc<dyn PasidUser>)> {
        let record = self.records.get_mut(slot).filter(|record| record.number == number)?;
        let user = record.users.iter_mut().find(|user| !user.told && user.user.is_some())?;
        user.told = true;
        Some((record.pasid, user.user.clone()?))
    }

    /// How many sets it still knows.
    #[cfg(test)]
    pub(super) fn sets(&self) -> usize {
        self.sets.len()
    }

    /// Makes a PASID that drained free. Its users have been taken out, so that no code of the embedder's runs.
    fn forget(&mut self, slot: u32) {
        let Some(record) = self.records.remove(slot) else { return };
        let key = record.pasid.get().into();
        self.taken.remove(key);
        let Some(set) = self.sets.get_mut(record.set) else { return };
        set.members.remove(key);
        set.ledger.release(ONE);
        if set.left && set.members.is_empty() {
            self.sets.remove(record.set);
        }
    }
}

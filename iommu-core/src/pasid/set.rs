//! The PASIDs of one partition, and who uses them.

use super::record::{Record, User};
use super::{PasidSpace, PasidState, PasidUser};
use crate::error::Error;
use crate::hw::Pasid;
use crate::quota::{Account, Ledger, transfer};
use crate::sync::assert_none_held;
use alloc::sync::Arc;
use iommu_alloc::Shared;

/// What all handles of a set share. Dropped with the last of them, it closes the set.
struct Handle {
    space: PasidSpace,
    /// Of the set, in the space's table.
    number: u32,
    ledger: Shared<Ledger>,
}

/// The PASIDs of one partition. A handle: clones are the same set. Dropped, the last one closes it.
#[derive(Clone)]
pub struct PasidSet(Shared<Handle>);

impl PasidSet {
    pub(super) fn new(space: &PasidSpace, quota: u32, ledger: Shared<Ledger>) -> Result<Self, Error> {
        let number = space.0.lock().add_set(quota, ledger.clone())?;
        let handle = Handle { space: space.clone(), number, ledger };
        // Without memory the handle is dropped, which takes the set out again.
        Ok(Self(Shared::try_new(handle)?))
    }

    /// The lowest free PASID in `first..=last`, known to the partition as `private` where given.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where `first` lies behind `last`, and for a closed set; [`Error::Quota`] where the set holds
    /// as many as it may, or its account can not pay; [`Error::Exists`] where `private` is taken; [`Error::NoSpace`]
    /// where none is left; [`Error::OutOfMemory`].
    pub fn alloc(&self, first: Pasid, last: Pasid, private: Option<u32>) -> Result<Pasid, Error> {
        self.0.space.0.lock().alloc(self.0.number, first, last, private)
    }

    /// The PASID that the partition knows as `private`; `None` once it is given back.
    pub fn global(&self, private: u32) -> Option<Pasid> {
        self.0.space.0.lock().global(self.0.number, private)
    }

    /// What the partition knows `pasid` as, where it was given a number and is active.
    pub fn private(&self, pasid: Pasid) -> Option<u32> {
        self.0.space.0.lock().find(self.0.number, pasid).ok()?.1.private
    }

    /// Whether the partition may use `pasid`: it is the set's, and active.
    pub fn owns(&self, pasid: Pasid) -> bool {
        self.0.space.0.lock().find(self.0.number, pasid).is_ok()
    }

    /// How many PASIDs the set holds, draining ones among them.
    pub fn len(&self) -> u32 {
        self.0.space.0.lock().members(self.0.number)
    }

    /// Whether the set holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One user of `pasid` more, who is told when it is given back; until the result is dropped it is not reused.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchPasid`] where it is not the set's, or draining; [`Error::NoSpace`] beyond [`PasidUse::MOST`];
    /// [`Error::OutOfMemory`].
    pub fn acquire(&self, pasid: Pasid, user: Option<Arc<dyn PasidUser>>) -> Result<PasidUse, Error> {
        // Not moved before it can not fail any more: what refuses it drops it without the lock.
        let mut user = user;
        let (slot, number) = self.0.space.0.lock().acquire(self.0.number, pasid, &mut user)?;
        Ok(PasidUse { space: self.0.space.clone(), slot, number, pasid })
    }

    /// Gives `pasid` back. Without users it is free at once. With users it drains: all of them have been told when this
    /// returns, and it is free when the last of them has let go of it. Its private number can be taken anew at once.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchPasid`] where it is not the set's, or given back already.
    pub fn free(&self, pasid: Pasid) -> Result<(), Error> {
        let (slot, number) = self.0.space.0.lock().drain(self.0.number, pasid)?;
        self.0.space.tell(slot, number);
        Ok(())
    }

    /// Gives all PASIDs back, as [`PasidSet::free`], and allocates none any more. Those with users stay until these let
    /// go.
    pub fn close(&self) {
        self.0.close();
    }

    /// Hands the set's PASIDs to `visit` with their private numbers, lowest first. No lock is held meanwhile: what comes
    /// or goes in between may be visited or not.
    pub fn for_each(&self, visit: &mut dyn FnMut(Pasid, Option<u32>, PasidState)) {
        let mut next = Some(0);
        while let Some(from) = next {
            let found = self.0.space.0.lock().next_member(self.0.number, from).map(Record::summary);
            next = found.and_then(|(pasid, ..)| pasid.get().checked_add(1));
            if let Some((pasid, private, state)) = found {
                assert_none_held();
                visit(pasid, private, state);
            }
        }
    }

    /// Has `to` pay for the set's PASIDs from now on.
    ///
    /// # Errors
    ///
    /// [`Error::Quota`] where it can not; [`Error::Invalid`] where nobody ever paid; [`Error::Busy`] where somebody else
    /// moves them right now. Nothing has changed.
    pub fn change_owner(&self, to: Option<&Account>) -> Result<(), Error> {
        transfer(&[self.ledger()], to)
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.0.ledger
    }
}

impl Handle {
    fn close(&self) {
        self.space.0.lock().close_set(self.number);
        let mut next = Some(0);
        while let Some(from) = next {
            let mut table = self.space.0.lock();
            let Some(pasid) = table.next_member(self.number, from).map(|record| record.pasid) else { break };
            let drained = table.drain(self.number, pasid);
            drop(table);
            // Those that drain already have been told by whoever gave them back.
            if let Ok((slot, number)) = drained {
                self.space.tell(slot, number);
            }
            next = pasid.get().checked_add(1);
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
        self.space.0.lock().leave_set(self.number);
    }
}

impl PasidSpace {
    /// Tells those users of the record that have not been told. New ones do not come any more.
    fn tell(&self, slot: u32, number: u64) {
        loop {
            let told = self.0.lock().next_untold(slot, number);
            let Some((pasid, user)) = told else { break };
            assert_none_held();
            user.draining(pasid);
        }
    }
}

/// Keeps a PASID from being reused. Dropped, it lets go.
///
/// Whoever keeps it inside of the [`PasidUser`] that it was made with must drop it when told: the space holds on to that
/// user until then.
#[must_use = "dropped, it no longer keeps the PASID"]
pub struct PasidUse {
    space: PasidSpace,
    /// Of the record in the space's table, which stays there as long as it has users.
    slot: u32,
    /// Which of them.
    number: u64,
    pasid: Pasid,
}

impl PasidUse {
    /// Most users of one PASID at a time.
    pub const MOST: usize = 1024;

    /// Of which PASID.
    pub fn pasid(&self) -> Pasid {
        self.pasid
    }
}

impl Drop for PasidUse {
    fn drop(&mut self) {
        let user: Option<User> = self.space.0.lock().done(self.slot, self.number);
        // The user's own destructor may run now.
        assert_none_held();
        drop(user);
    }
}

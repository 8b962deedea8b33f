//! Devices that cannot be kept apart, and who owns their DMA.
//!
//! Discovery says which functions share a group: those with a requester id in common, and those that can reach one
//! another without passing the IOMMU. Ownership is the group's: all of it belongs to one owner or to none. Where it leads
//! is the group's as well: all its devices that are attached lead to the same domain, as a whole and by each PASID.
//!
//! A stream id of a unit belongs to one group: where discovery gives it to two, each would lead it elsewhere without asking
//! the other.
//!
//! Each change of a group is made by one at a time: a second one that comes meanwhile is answered
//! [`Error::Busy`]. No lock is held while it lasts, so that what it calls of the embedder's is free to do what
//! it likes, but for changing the same group: functions, and, where the last user of an address space or a PASID goes with
//! it, memory and users of PASIDs.

mod records;

pub(crate) use records::{Phase, Record, Records};

use crate::error::Error;
use crate::quota::{Account, Amounts, Ledger, transfer};
use crate::sync::{self, Mutex, Rank};
use iommu_alloc::Shared;

/// Who owns: a partition, in the embedder's numbers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct OwnerId(pub u64);

pub(crate) struct GroupInner {
    state: Mutex<State>,
    /// Given back with the group.
    ledger: Ledger,
}

/// What a group is up to.
pub(crate) struct State {
    /// Somebody is in the middle of a change.
    changing: bool,
    /// Who has its DMA; `None` while no device is bound.
    pub(crate) owner: Option<OwnerId>,
    /// Devices that are bound.
    pub(crate) bound: usize,
    /// Devices that are attached.
    pub(crate) records: Records,
}

/// A group. A handle: clones are the same group. It stays as long as any handle or device of it does.
///
/// ```
/// use iommu_core::group::Group;
///
/// let group = Group::new(None)?;
/// assert_eq!(group.owner(), None);
/// # Ok::<(), iommu_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Group(Shared<GroupInner>);

impl Group {
    /// A group without devices. `account` pays for it: one object.
    ///
    /// # Errors
    ///
    /// [`Error::Quota`], [`Error::OutOfMemory`].
    pub fn new(account: Option<&Account>) -> Result<Self, Error> {
        let ledger = Ledger::new(account.cloned());
        ledger.charge(Amounts { objects: 1, ..Amounts::NONE })?;
        let state = State { changing: false, owner: None, bound: 0, records: Records::new() };
        Ok(Self(Shared::try_new(GroupInner { state: Mutex::new(Rank::Group, state), ledger })?))
    }

    /// Who has the DMA of its devices: whoever bound the first of them, until the last is unbound.
    pub fn owner(&self) -> Option<OwnerId> {
        self.look(|state| state.owner)
    }

    /// Whether both are the same group.
    pub fn same(&self, other: &Self) -> bool {
        Shared::same(&self.0, &other.0)
    }

    /// Moves its cost to another account.
    ///
    /// # Errors
    ///
    /// [`Error::Quota`], [`Error::Busy`]; [`Error::Invalid`] where it was made without an account. Nothing has changed.
    pub fn change_owner(&self, to: Option<&Account>) -> Result<(), Error> {
        transfer(&[&self.0.ledger], to)
    }

    /// Looks at the state under its lock: `look` takes no other lock and calls nobody.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.0.state.lock())
    }

    /// The right to change the group.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] where another has it.
    pub(crate) fn change(&self) -> Result<Change<'_>, Error> {
        let mut state = self.0.state.lock();
        if core::mem::replace(&mut state.changing, true) {
            return Err(Error::Busy);
        }
        Ok(Change(&self.0))
    }

    /// The right to change the group, once nobody else has it. Whoever has it waits for no device that is dropped.
    pub(crate) fn change_when_free(&self) -> Change<'_> {
        sync::assert_none_held();
        loop {
            if let Ok(change) = self.change() {
                return change;
            }
            sync::relax();
        }
    }
}

/// The right to change a group. Nobody else changes anything in it until this is dropped.
pub(crate) struct Change<'a>(&'a GroupInner);

impl Change<'_> {
    /// Works on the state under its lock: `work` takes no other lock, calls nobody, and drops nothing that could.
    pub(crate) fn state<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        work(&mut self.0.state.lock())
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.0.state.lock().changing = false;
    }
}

//! What streams and invalidations know of a domain: its tag, and who leads there.

use crate::invalidate::{Atc, Seat, Tag, User, Users};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use iommu_alloc::Shared;
use iommu_core::hw::{HwError, Pasid, StreamId};
use spin::RwLock;

/// A domain's tag and its users.
///
/// A stream is added *before* its entry is published, and removed *after* hardware has confirmed that it forgot it. So
/// whoever takes something out of the tables and then looks at the users finds every stream under which it may be cached:
/// one that is added later was published later, and hardware that walks for it meets the tables as they are then.
///
/// A guest's stage 1 has a state of its own, which shares the users with that of the domain it stands on: what changes
/// below it concerns its users too.
pub(crate) struct State {
    tag: Tag,
    /// What it stands on is another domain's.
    nested: bool,
    family: Shared<Family>,
}

/// What a domain and the guests' stages 1 on top of it have in common: their stage 2, or whatever else they are.
struct Family {
    users: RwLock<Users>,
    /// The domain goes: nothing is attached any more.
    closed: AtomicBool,
    /// Guests' stages 1 that were put on top of it.
    guests: AtomicU32,
}

impl State {
    /// Of a domain.
    ///
    /// # Errors
    ///
    /// [`HwError::OutOfMemory`].
    pub(crate) fn new(tag: Tag) -> Result<Self, HwError> {
        let family = Shared::try_new(Family {
            users: RwLock::new(Users::new()),
            closed: AtomicBool::new(false),
            guests: AtomicU32::new(0),
        });
        Ok(Self { tag, nested: false, family: family.map_err(|_| HwError::OutOfMemory)? })
    }

    /// Of a guest's stage 1 on top of this domain of stage 2.
    ///
    /// # Errors
    ///
    /// [`HwError::Unsupported`] where this is no stage 2.
    pub(crate) fn nest(&self) -> Result<Self, HwError> {
        let Tag::Vmid(vmid) = self.tag else {
            return Err(HwError::Unsupported("a guest's stage 1 on top of a stage 1"));
        };
        let number = self.family.guests.fetch_add(1, Ordering::Relaxed);
        Ok(Self { tag: Tag::Guest { vmid, number }, nested: true, family: self.family.clone() })
    }

    /// How hardware tags what it caches of the domain.
    pub(crate) fn tag(&self) -> Tag {
        self.tag
    }

    /// Does `work` with the users as they are, none of which goes meanwhile: those of the domain and of every guest's
    /// stage 1 on top of it. Many may do so at the same time.
    pub(crate) fn with_users<T>(&self, work: impl FnOnce(&Users) -> T) -> T {
        work(&self.family.users.read())
    }

    /// The user after `after`, in the order of streams and PASIDs; of a domain also those of what stands on top.
    pub(crate) fn next_user(&self, after: Option<(StreamId, Option<Pasid>)>) -> Option<User> {
        let users = self.family.users.read();
        let mut mine = users.tagged().filter(|(_, tag)| !self.nested || *tag == self.tag).map(|(user, _)| user);
        mine.find(|user| Some((user.stream, user.pasid)) > after)
    }

    /// One more user.
    pub(crate) fn add_user(&self, seat: Seat) {
        // Upgraded, so that readers that come all the time cannot keep it waiting for ever.
        self.family.users.upgradeable_read().upgrade().add(self.tag, seat);
    }

    /// Each user of the domain and of the guests' stages 1 on top of it, or of this guest's stage 1 alone, in order.
    pub(crate) fn each_user(&self, each: impl FnMut(User)) {
        let users = self.family.users.read();
        users.tagged().filter(|(_, tag)| !self.nested || *tag == self.tag).map(|(user, _)| user).for_each(each);
    }

    /// From now on the users of `stream` have this device TLB. An invalidation that was begun without it is over by then.
    pub(crate) fn set_atc(&self, stream: StreamId, atc: Option<Atc>) {
        self.family.users.upgradeable_read().upgrade().set_tlb(stream, atc);
    }

    /// One user less; its seat is given back.
    pub(crate) fn remove_user(&self, stream: StreamId, pasid: Option<Pasid>) -> Option<Seat> {
        self.family.users.upgradeable_read().upgrade().remove(self.tag, stream, pasid)
    }

    /// Whether streams may be attached, under the lock of the structures.
    ///
    /// # Errors
    ///
    /// [`HwError::ForeignDomain`] where the domain is going.
    pub(crate) fn admit(&self) -> Result<(), HwError> {
        if self.family.closed.load(Ordering::Relaxed) { Err(HwError::ForeignDomain) } else { Ok(()) }
    }

    /// From now on nothing is [admitted](State::admit). Whoever got in before is a user once the lock of the structures is
    /// free.
    pub(crate) fn close(&self) {
        self.family.closed.store(true, Ordering::Relaxed);
    }
}

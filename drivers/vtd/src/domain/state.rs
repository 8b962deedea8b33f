//! What streams and invalidations know of a domain: its tag, and who leads there.

use crate::invalidate::{Seat, Tag, User, Users};
use iommu_core::hw::{Pasid, RequesterId};
use spin::RwLock;

/// A domain's tag and its users.
///
/// A stream is added *before* its entry is published, and removed *after* hardware has confirmed that it forgot it. So
/// whoever takes something out of the tables and then looks at the users finds every stream under which it may be cached:
/// one that is added later was published later, and hardware that walks for it meets the tables as they are then.
pub(crate) struct State {
    tag: Tag,
    users: RwLock<Users>,
}

impl State {
    pub(crate) fn new(tag: Tag) -> Self {
        Self { tag, users: RwLock::new(Users::new()) }
    }

    /// How hardware tags what it caches of the domain.
    pub(crate) fn tag(&self) -> Tag {
        self.tag
    }

    /// Does `work` with the users as they are, none of which goes meanwhile. Many may do so at the same time.
    pub(crate) fn with_users<T>(&self, work: impl FnOnce(&Users) -> T) -> T {
        work(&self.users.read())
    }

    /// The user after `after`, in the order of requesters and PASIDs.
    pub(crate) fn next_user(&self, after: Option<(RequesterId, Option<Pasid>)>) -> Option<User> {
        self.users.read().iter().find(|user| Some((user.source, user.pasid)) > after)
    }

    /// One more user.
    pub(crate) fn add_user(&self, seat: Seat) {
        // Upgraded, so that readers that come all the time cannot keep it waiting for ever.
        self.users.upgradeable_read().upgrade().add(seat);
    }

    /// One user less; its seat is given back.
    pub(crate) fn remove_user(&self, source: RequesterId, pasid: Option<Pasid>) -> Option<Seat> {
        self.users.upgradeable_read().upgrade().remove(source, pasid)
    }
}

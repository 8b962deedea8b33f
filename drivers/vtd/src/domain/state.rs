//! What streams and invalidations know of a domain: its tag, and who leads there.

use crate::invalidate::{Seat, Tag, User, Users};
use crate::spec::invalidation::TlbTarget;
use crate::spec::pasid::{PasidEntry, TranslationType};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use iommu_alloc::Shared;
use iommu_core::hw::{HwError, Pasid, RequesterId};
use spin::{Mutex, RwLock};

/// A domain's tag and its users.
///
/// A stream is added *before* its entry is published, and removed *after* hardware has confirmed that it forgot it. So
/// whoever takes something out of the tables and then looks at the users finds every stream under which it may be cached:
/// one that is added later was published later, and hardware that walks for it meets the tables as they are then.
///
/// A guest's first stage has a state of its own, which shares the users with that of the domain it stands on: what changes
/// below it concerns its users too.
pub(crate) struct State {
    tag: Tag,
    /// What it stands on is another domain's.
    nested: bool,
    family: Shared<Family>,
}

/// What a domain and the first stages on top of it have in common: their second stage, or whatever else they are.
struct Family {
    users: RwLock<Users>,
    /// SSADE in every entry that leads to this second stage (section 6.2.3.1). Changes under the lock of the structures.
    access_dirty: AtomicBool,
    /// The domain goes: nothing is attached any more.
    closed: AtomicBool,
    guests: Mutex<Vec<Guest>>,
}

/// What a guest's first stage says of its tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Guest {
    /// Guest-physical address of the root.
    pub(crate) root: u64,
    /// FSPM.
    pub(crate) five_levels: bool,
    /// EAFE.
    pub(crate) extended_access: bool,
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
            access_dirty: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            guests: Mutex::new(Vec::new()),
        });
        Ok(Self { tag, nested: false, family: family.map_err(|_| HwError::OutOfMemory)? })
    }

    /// Of a first stage on top of this domain. It [leaves](State::leave) before it goes.
    ///
    /// # Errors
    ///
    /// [`HwError::Hardware`] where another one has the same root and other properties: hardware keeps entries of tables by
    /// their address, whoever leads there (section 6.2.3.1). [`HwError::OutOfMemory`].
    pub(crate) fn nest(&self, tag: Tag, guest: Guest) -> Result<Self, HwError> {
        let mut guests = self.family.guests.lock();
        if guests.iter().any(|held| held.root == guest.root && *held != guest) {
            return Err(HwError::Hardware("a first stage whose root another one has with other levels or flags"));
        }
        guests.try_reserve(1).map_err(|_| HwError::OutOfMemory)?;
        guests.push(guest);
        Ok(Self { tag, nested: true, family: self.family.clone() })
    }

    /// The first stage is no more.
    pub(crate) fn leave(&self, guest: Guest) {
        let mut guests = self.family.guests.lock();
        if let Some(at) = guests.iter().position(|held| *held == guest) {
            guests.swap_remove(at);
        }
    }

    /// How hardware tags what it caches of the domain.
    pub(crate) fn tag(&self) -> Tag {
        self.tag
    }

    /// Does `work` with the users as they are, none of which goes meanwhile: those of the domain and of every first stage on
    /// top of it. Many may do so at the same time.
    pub(crate) fn with_users<T>(&self, work: impl FnOnce(&Users) -> T) -> T {
        work(&self.family.users.read())
    }

    /// The user after `after`, in the order of requesters and PASIDs; of a domain also those of the first stages on top.
    pub(crate) fn next_user(&self, after: Option<(RequesterId, Option<Pasid>)>) -> Option<User> {
        let users = self.family.users.read();
        let mut mine = users.tagged().filter(|(_, tag)| !self.nested || *tag == self.tag).map(|(user, _)| user);
        mine.find(|user| Some((user.source, user.pasid)) > after)
    }

    /// One more user.
    pub(crate) fn add_user(&self, seat: Seat) {
        // Upgraded, so that readers that come all the time cannot keep it waiting for ever.
        self.family.users.upgradeable_read().upgrade().add(self.tag, seat);
    }

    /// Each user of the domain and of the first stages on top of it, or of this first stage alone, in order.
    pub(crate) fn each_user(&self, each: impl FnMut(User)) {
        let users = self.family.users.read();
        users.tagged().filter(|(_, tag)| !self.nested || *tag == self.tag).map(|(user, _)| user).for_each(each);
    }

    /// From now on the users of `source` have this device TLB. An invalidation that was begun without it is over by then.
    pub(crate) fn set_tlb(&self, source: RequesterId, tlb: Option<TlbTarget>) {
        self.family.users.upgradeable_read().upgrade().set_tlb(source, tlb);
    }

    /// One user less; its seat is given back.
    pub(crate) fn remove_user(&self, source: RequesterId, pasid: Option<Pasid>) -> Option<Seat> {
        self.family.users.upgradeable_read().upgrade().remove(self.tag, source, pasid)
    }

    /// `entry` as it is to be published now, under the lock of the structures.
    ///
    /// # Errors
    ///
    /// [`HwError::ForeignDomain`] where the domain is going.
    pub(crate) fn admit(&self, entry: &PasidEntry) -> Result<PasidEntry, HwError> {
        if self.family.closed.load(Ordering::Relaxed) {
            return Err(HwError::ForeignDomain);
        }
        let second = matches!(entry.translation, TranslationType::SecondStage | TranslationType::Nested);
        Ok(PasidEntry { access_dirty: second && self.family.access_dirty.load(Ordering::Relaxed), ..*entry })
    }

    /// From now on nothing is [admitted](State::admit). Whoever got in before is a user once the lock of the structures is
    /// free.
    pub(crate) fn close(&self) {
        self.family.closed.store(true, Ordering::Relaxed);
    }

    /// Whether entries that are [admitted](State::admit) have SSADE set from now on. Under the lock of the structures.
    pub(crate) fn set_access_dirty(&self, on: bool) {
        self.family.access_dirty.store(on, Ordering::Relaxed);
    }
}

//! PASIDs: one space for the machine, sets for partitions.
//!
//! A PASID names a part of a function on the bus, and means the same to every function, so that a machine has one
//! [`PasidSpace`] of them, as wide as its hardware. Each partition has a [`PasidSet`] with a quota: it may use what it
//! allocated from there and nothing else. A set may know its PASIDs by numbers of its own (those that a guest chose),
//! mapped to the real ones both ways.
//!
//! A PASID that is given back is reused only once nobody relies on it any more: whoever uses it (a device that has it
//! attached, a queue of work that carries it) holds a [`PasidUse`], and is told. Until the last of them lets go it is
//! [`PasidState::Draining`], and the set's quota still pays for it.
//!
//! Not here: where a PASID leads. That is the device's matter.
//!
//! # Limits
//!
//! | What | Now |
//! |---|---|
//! | width | 20 bits, as on the bus |
//! | reserved values | those that the embedder names, nothing else: PASID 0 is ordinary unless it says so |
//! | users of one PASID | [`PasidUse::MOST`] |
//!
//! # Example
//!
//! ```
//! # use iommu_core::hw::Pasid;
//! # use iommu_core::pasid::{PasidSpace, PasidState};
//! # let pasid = |raw| Pasid::new(raw).unwrap();
//! // PASID 0 stands for requests without one here, so it is not given out.
//! let space = PasidSpace::new(20, &[(pasid(0), pasid(0))])?;
//! let set = space.set(16, None)?;
//! // The guest calls it 7.
//! let real = set.alloc(pasid(0), pasid(0xf_ffff), Some(7))?;
//! assert_eq!((real, set.global(7), set.private(real)), (pasid(1), Some(pasid(1)), Some(7)));
//!
//! let user = set.acquire(real, None)?;
//! set.free(real)?;
//! assert_eq!((space.state(real), set.global(7)), (PasidState::Draining, None));
//! drop(user);
//! assert_eq!(space.state(real), PasidState::Free);
//! # Ok::<(), iommu_core::Error>(())
//! ```

mod record;
mod set;
mod table;

pub use set::{PasidSet, PasidUse};

use crate::error::Error;
use crate::hw::Pasid;
use crate::quota::{Account, Ledger};
use crate::sync::{Mutex, Rank};
use iommu_alloc::Shared;
use table::Table;

/// Where a PASID stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PasidState {
    /// Never given out: reserved by the embedder, or wider than the space.
    Reserved,
    /// Nobody's.
    Free,
    /// A set's.
    Active,
    /// Given back, but users have not all let go of it: not given out again until they have.
    Draining,
}

/// Who must know before a PASID is reused. Called without any lock of this crate held.
pub trait PasidUser: Send + Sync {
    /// `pasid` was given back: forget it, then drop the [`PasidUse`], now or later.
    fn draining(&self, pasid: Pasid);
}

/// All PASIDs of the machine. A handle: clones are the same space.
#[derive(Clone)]
pub struct PasidSpace(Shared<Mutex<Table>>);

impl PasidSpace {
    /// PASIDs of `bits` bits without those in `reserved` (first and last of each range, which must not overlap; what is
    /// wider than the space is ignored). With units or functions of several widths: the widest, and let each
    /// [`alloc`](PasidSet::alloc) say how far its device can count.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for 0 bits, which is hardware without PASIDs; [`Error::Invalid`] for more than 20, and for
    /// ranges that overlap or end before they begin; [`Error::OutOfMemory`].
    pub fn new(bits: u8, reserved: &[(Pasid, Pasid)]) -> Result<Self, Error> {
        let table = Table::new(bits, reserved)?;
        Ok(Self(Shared::try_new(Mutex::new(Rank::Pasids, table))?))
    }

    /// A set that may hold at most `quota` PASIDs, draining ones among them; `account`, if any, pays for each.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub fn set(&self, quota: u32, account: Option<&Account>) -> Result<PasidSet, Error> {
        let ledger = Shared::try_new(Ledger::new(account.cloned()))?;
        PasidSet::new(self, quota, ledger)
    }

    /// How many PASIDs there are to give out, free or not.
    pub fn capacity(&self) -> u32 {
        self.0.lock().capacity()
    }

    /// How many of them are free.
    pub fn available(&self) -> u32 {
        self.0.lock().available()
    }

    /// Where `pasid` stands.
    pub fn state(&self, pasid: Pasid) -> PasidState {
        self.0.lock().state(pasid)
    }
}

#[cfg(test)]
mod tests;

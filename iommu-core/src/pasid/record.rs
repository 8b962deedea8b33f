//! What is known of one PASID, and of one set.

use super::{PasidState, PasidUser};
use crate::error::Error;
use crate::hw::Pasid;
use crate::quota::{Amounts, Ledger, Resource};
use crate::slab::Slab;
use crate::tree::Tree;
use alloc::sync::Arc;
use alloc::vec::Vec;
use iommu_alloc::Shared;

/// One PASID costs this.
pub(super) const ONE: Amounts = Amounts::of(Resource::Pasids, 1);

/// A PASID that is not free.
pub(super) struct Record {
    pub(super) number: u64,
    pub(super) pasid: Pasid,
    pub(super) set: u32,
    /// None once it drains.
    pub(super) private: Option<u32>,
    pub(super) draining: bool,
    pub(super) users: Vec<User>,
}

/// A user of a PASID.
pub(super) struct User {
    pub(super) number: u64,
    pub(super) told: bool,
    /// Who is to be told, if anybody.
    pub(super) user: Option<Arc<dyn PasidUser>>,
}

/// The PASIDs of one partition.
pub(super) struct Set {
    pub(super) quota: u32,
    pub(super) ledger: Shared<Ledger>,
    /// From its PASIDs to their records.
    pub(super) members: Tree<u32>,
    /// From its private numbers to PASIDs.
    pub(super) private: Tree<Pasid>,
    pub(super) closed: bool,
    /// No handle is left: it goes with its last PASID.
    pub(super) left: bool,
}

impl Record {
    pub(super) fn summary(&self) -> (Pasid, Option<u32>, PasidState) {
        (self.pasid, self.private, self.state())
    }

    pub(super) fn state(&self) -> PasidState {
        if self.draining { PasidState::Draining } else { PasidState::Active }
    }
}

/// Enters a PASID that is free, in all places or in none.
pub(super) fn enter(
    taken: &mut Tree<u32>,
    records: &mut Slab<Record>,
    set: &mut Set,
    record: Record,
) -> Result<(), Error> {
    taken.reserve(1)?;
    set.members.reserve(1)?;
    let key = record.pasid.get().into();
    let (pasid, private) = (record.pasid, record.private.map(u64::from));
    if private.is_some() {
        set.private.reserve(1)?;
    }
    let slot = records.insert(record)?;
    // Room is there, and nothing is in the way: none of these fails.
    let entered = taken.insert(key, key, slot).is_ok() && set.members.insert(key, key, slot).is_ok();
    let entered = entered && private.is_none_or(|private| set.private.insert(private, private, pasid).is_ok());
    debug_assert!(entered);
    Ok(())
}

//! What owners may use, and what they do: memory, records, objects and PASIDs, charged before anything is allocated.
//!
//! An [`Account`] is an owner's: limits, and what is in use of each [`Resource`]. A ledger is an object's: who pays for it,
//! and how much it has cost so far. What an object costs is charged to its ledger first and done afterwards; an object
//! that goes gives back what its ledger holds. Objects can be moved from one owner to another, all of them or none.
//!
//! Not here: what costs how much. The objects know.
//!
//! # Limits
//!
//! | What | Now |
//! |---|---|
//! | objects made without an account | are never counted, so can not be moved to an account later |
//! | a charge of several resources | one of them may be in use for a moment before another is found to be short |
//!
//! # Example
//!
//! ```
//! use iommu_core::quota::{Account, Amounts, Resource};
//!
//! let account = Account::new(Amounts { pinned: 1 << 30, ..Amounts::UNLIMITED })?;
//! assert_eq!(account.limits().get(Resource::Pinned), 1 << 30);
//! assert_eq!(account.usage(), Amounts::NONE);
//! # Ok::<(), iommu_core::Error>(())
//! ```

mod account;
mod ledger;

pub use account::Account;
pub(crate) use ledger::{Ledger, transfer};

use crate::error::Error;
use core::fmt;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Resource {
    /// Bytes of memory that is pinned or mapped.
    Pinned,
    /// Bytes of the core's own records.
    Metadata,
    /// Objects.
    Objects,
    /// PASIDs.
    Pasids,
}

impl Resource {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Pinned, Self::Metadata, Self::Objects, Self::Pasids];
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pinned => "pinned memory",
            Self::Metadata => "memory for records",
            Self::Objects => "objects",
            Self::Pasids => "PASIDs",
        })
    }
}

/// An amount of each resource.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Amounts {
    /// Bytes of memory that is pinned or mapped.
    pub pinned: u64,
    /// Bytes of the core's own records.
    pub metadata: u64,
    /// Objects.
    pub objects: u64,
    /// PASIDs.
    pub pasids: u64,
}

impl Amounts {
    /// Nothing.
    pub const NONE: Self = Self { pinned: 0, metadata: 0, objects: 0, pasids: 0 };
    /// As limits: no limit.
    pub const UNLIMITED: Self = Self { pinned: u64::MAX, metadata: u64::MAX, objects: u64::MAX, pasids: u64::MAX };

    /// `amount` of one resource.
    #[inline]
    pub const fn of(resource: Resource, amount: u64) -> Self {
        match resource {
            Resource::Pinned => Self { pinned: amount, ..Self::NONE },
            Resource::Metadata => Self { metadata: amount, ..Self::NONE },
            Resource::Objects => Self { objects: amount, ..Self::NONE },
            Resource::Pasids => Self { pasids: amount, ..Self::NONE },
        }
    }

    /// How much of `resource`.
    #[inline]
    pub const fn get(self, resource: Resource) -> u64 {
        match resource {
            Resource::Pinned => self.pinned,
            Resource::Metadata => self.metadata,
            Resource::Objects => self.objects,
            Resource::Pasids => self.pasids,
        }
    }

    /// Both together.
    ///
    /// # Errors
    ///
    /// [`Error::Quota`] where the sum does not fit in 64 bits, which no owner can pay for.
    #[inline]
    pub fn checked_add(self, other: Self) -> Result<Self, Error> {
        let add =
            |resource: Resource| self.get(resource).checked_add(other.get(resource)).ok_or(Error::Quota(resource));
        Ok(Self {
            pinned: add(Resource::Pinned)?,
            metadata: add(Resource::Metadata)?,
            objects: add(Resource::Objects)?,
            pasids: add(Resource::Pasids)?,
        })
    }

    /// What is left of each after `other` is taken; 0 where there is less.
    #[inline]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self {
            pinned: self.pinned.saturating_sub(other.pinned),
            metadata: self.metadata.saturating_sub(other.metadata),
            objects: self.objects.saturating_sub(other.objects),
            pasids: self.pasids.saturating_sub(other.pasids),
        }
    }
}

#[cfg(test)]
mod tests;

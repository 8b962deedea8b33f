//! An owner's limits and what is in use of them.

use super::{Amounts, Resource};
use crate::error::Error;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use iommu_alloc::Shared;

/// One number for each resource. They are counters that order nothing else, hence relaxed throughout.
struct Counters {
    pinned: AtomicU64,
    metadata: AtomicU64,
    objects: AtomicU64,
    pasids: AtomicU64,
}

impl Counters {
    const fn new(amounts: Amounts) -> Self {
        Self {
            pinned: AtomicU64::new(amounts.pinned),
            metadata: AtomicU64::new(amounts.metadata),
            objects: AtomicU64::new(amounts.objects),
            pasids: AtomicU64::new(amounts.pasids),
        }
    }

    #[inline]
    fn of(&self, resource: Resource) -> &AtomicU64 {
        match resource {
            Resource::Pinned => &self.pinned,
            Resource::Metadata => &self.metadata,
            Resource::Objects => &self.objects,
            Resource::Pasids => &self.pasids,
        }
    }

    fn amounts(&self) -> Amounts {
        Amounts {
            pinned: self.pinned.load(Ordering::Relaxed),
            metadata: self.metadata.load(Ordering::Relaxed),
            objects: self.objects.load(Ordering::Relaxed),
            pasids: self.pasids.load(Ordering::Relaxed),
        }
    }
}

struct Inner {
    limits: Counters,
    used: Counters,
}

/// An owner's account: limits and what is in use. A handle: clones are the same account.
///
/// Takes no locks, so that it can be charged under any.
#[derive(Clone)]
pub struct Account(Shared<Inner>);

impl Account {
    /// An account with `limits` of which nothing is in use.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub fn new(limits: Amounts) -> Result<Self, Error> {
        let inner = Inner { limits: Counters::new(limits), used: Counters::new(Amounts::NONE) };
        Ok(Self(Shared::try_new(inner)?))
    }

    /// How much of each resource may be in use.
    pub fn limits(&self) -> Amounts {
        self.0.limits.amounts()
    }

    /// Sets the limits, one after the other. Limits below what is in use take nothing away; they refuse what is to come.
    pub fn set_limits(&self, limits: Amounts) {
        for resource in Resource::ALL {
            self.0.limits.of(resource).store(limits.get(resource), Ordering::Relaxed);
        }
    }

    /// How much of each resource is in use.
    pub fn usage(&self) -> Amounts {
        self.0.used.amounts()
    }

    /// Whether both are the same account.
    pub fn same(&self, other: &Self) -> bool {
        Shared::same(&self.0, &other.0)
    }

    /// Charges all of `amounts`, or nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Quota`] names the first resource there is too little of.
    pub(crate) fn charge(&self, amounts: Amounts) -> Result<(), Error> {
        for (done, resource) in Resource::ALL.into_iter().enumerate() {
            if let Err(error) = self.charge_one(resource, amounts.get(resource)) {
                for earlier in Resource::ALL.into_iter().take(done) {
                    self.release_one(earlier, amounts.get(earlier));
                }
                return Err(error);
            }
        }
        Ok(())
    }

    #[inline]
    fn charge_one(&self, resource: Resource, amount: u64) -> Result<(), Error> {
        if amount == 0 {
            return Ok(());
        }
        let limit = self.0.limits.of(resource).load(Ordering::Relaxed);
        let more = |used: u64| used.checked_add(amount).filter(|&used| used <= limit);
        let charged = self.0.used.of(resource).fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        charged.map(drop).map_err(|_| Error::Quota(resource))
    }

    /// Gives back what was charged.
    pub(crate) fn release(&self, amounts: Amounts) {
        for resource in Resource::ALL {
            self.release_one(resource, amounts.get(resource));
        }
    }

    #[inline]
    fn release_one(&self, resource: Resource, amount: u64) {
        if amount == 0 {
            return;
        }
        let less = |used: u64| Some(used.saturating_sub(amount));
        let before = self.0.used.of(resource).fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        debug_assert!(before.is_ok_and(|used| used >= amount), "more {resource} given back than charged");
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("limits", &self.limits()).field("usage", &self.usage()).finish()
    }
}

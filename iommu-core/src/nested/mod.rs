//! A guest's own first stage on top of a domain.
//!
//! The guest's addresses go through its own tables first and through the parent, a domain made as a [nest
//! parent](crate::hwpt::HwptConfig::nest_parent), second: whatever the guest writes there, its devices reach no more than
//! the parent's address space. What the guest asks for is in the driver's layout, and the driver checks it.

#[cfg(test)]
mod tests;

use crate::error::Error;
use crate::fault::FaultQueue;
use crate::hw::{Invalidation, Nested, NestedConfig};
use crate::hwpt::{Hwpt, HwptUse};
use crate::ioas;
use crate::quota::Amounts;
use crate::viommu::ViommuInner;
use alloc::boxed::Box;
use iommu_alloc::Shared;

/// Fields are dropped from the first to the last: the first stage before what it stands on.
pub(crate) struct NestedInner {
    pub(crate) nested: Box<dyn Nested>,
    /// Where page requests and faults go.
    pub(crate) faults: Option<FaultQueue>,
    pub(crate) parent: HwptUse,
    /// Whose guest made it.
    _viommu: Option<Shared<ViommuInner>>,
    _cost: Cost,
}

/// What a first stage costs the owner of the address space beneath. Dropped, it is given back.
struct Cost(Shared<ioas::Inner>);

impl Cost {
    const AMOUNTS: Amounts = Amounts { objects: 1, metadata: size_of::<NestedInner>() as u64, ..Amounts::NONE };

    fn charge(ioas: &Shared<ioas::Inner>) -> Result<Self, Error> {
        ioas.ledger().charge(Self::AMOUNTS)?;
        Ok(Self(ioas.clone()))
    }
}

impl Drop for Cost {
    fn drop(&mut self) {
        self.0.ledger().release(Self::AMOUNTS);
    }
}

/// A nested domain. Dropped, it goes once nothing is attached any more; its parent stays as long.
pub struct NestedHwpt(pub(crate) Shared<NestedInner>);

impl NestedHwpt {
    /// Most requests that one call of [`NestedHwpt::invalidate`] carries out.
    pub const MOST_REQUESTS: usize = 256;

    /// The first stage that `config` describes, on top of `parent`. Whoever pays for the address space of `parent` pays
    /// for it: one object.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where `parent` was not made as a nest parent. [`Error::Hardware`] says what the driver has
    /// against it: [`Unsupported`](crate::hw::HwError::Unsupported) where it does not nest, or not this kind.
    /// [`Error::Quota`], [`Error::OutOfMemory`].
    pub fn new(parent: &Hwpt, config: &NestedConfig<'_>) -> Result<Self, Error> {
        Self::on(&parent.0, config, None, None)
    }

    /// As [`NestedHwpt::new`]; page requests and faults of what leads through it go to `faults`.
    ///
    /// # Errors
    ///
    /// As for [`NestedHwpt::new`].
    pub fn with_faults(parent: &Hwpt, config: &NestedConfig<'_>, faults: FaultQueue) -> Result<Self, Error> {
        Self::on(&parent.0, config, Some(faults), None)
    }

    pub(crate) fn on(
        parent: &HwptUse,
        config: &NestedConfig<'_>,
        faults: Option<FaultQueue>,
        viommu: Option<&Shared<ViommuInner>>,
    ) -> Result<Self, Error> {
        if !parent.config.nest_parent {
            return Err(Error::Invalid("the domain is no nest parent"));
        }
        let cost = Cost::charge(&parent.ioas)?;
        let parent = parent.another();
        let nested = parent.unit.create_nested(&*parent.domain, config)?;
        Ok(Self(Shared::try_new(NestedInner { nested, faults, parent, _viommu: viommu.cloned(), _cost: cost })?))
    }

    /// Carries requests out in order, the first [`NestedHwpt::MOST_REQUESTS`] of them. Returns how many were, and why the
    /// next one was not: with more requests, and no error, the caller goes on behind those. All that were are confirmed.
    ///
    /// # Errors
    ///
    /// Beside the count: [`Error::Hardware`] names what is wrong with the request, or that hardware did not confirm it.
    pub fn invalidate(&self, requests: &[Invalidation]) -> (usize, Result<(), Error>) {
        in_order(requests, |request| Ok(self.0.nested.invalidate(request)?))
    }

    /// Whether anything is attached to it.
    pub(crate) fn is_used(&self) -> bool {
        Shared::owners(&self.0) > 1
    }

    /// Ends it now.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] while something is attached; it is still there.
    pub fn destroy(self) -> Result<(), (Self, Error)> {
        // Others come from this handle alone, which nobody else has.
        if Shared::owners(&self.0) == 1 { Ok(()) } else { Err((self, Error::Busy)) }
    }
}

/// Carries out the first [`NestedHwpt::MOST_REQUESTS`] requests up to the first that fails.
pub(crate) fn in_order<T>(
    requests: &[T],
    mut carry_out: impl FnMut(&T) -> Result<(), Error>,
) -> (usize, Result<(), Error>) {
    for (done, request) in requests.iter().take(NestedHwpt::MOST_REQUESTS).enumerate() {
        if let Err(error) = carry_out(request) {
            return (done, Err(error));
        }
    }
    (requests.len().min(NestedHwpt::MOST_REQUESTS), Ok(()))
}

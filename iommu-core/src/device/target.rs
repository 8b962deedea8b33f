//! Where a device leads, and the choice of a domain in an address space.

use super::{AttachTo, DeviceInner, Feature};
use crate::error::Error;
use crate::fault::FaultQueue;
use crate::hw::{HwError, Pasid, Stage, Target, Unit};
use crate::hwpt::{HwptConfig, HwptInner, HwptUse};
use crate::ioas::Ioas;
use crate::nested::NestedInner;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use iommu_alloc::Shared;

/// Whether both are the same unit.
pub(crate) fn same_unit(one: &Arc<dyn Unit>, other: &Arc<dyn Unit>) -> bool {
    core::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(other))
}

/// Where a device leads. Keeps it there. Dropped without locks held.
pub(crate) enum Link {
    /// To a domain.
    Paging(HwptUse),
    /// Through a guest's first stage on top of one.
    Nested(Shared<NestedInner>),
}

impl Link {
    /// Another user of the same.
    pub(crate) fn another(&self) -> Self {
        match self {
            Self::Paging(hwpt) => Self::Paging(hwpt.another()),
            Self::Nested(nested) => Self::Nested(nested.clone()),
        }
    }

    pub(crate) fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Paging(one), Self::Paging(other)) => one.same(other),
            (Self::Nested(one), Self::Nested(other)) => Shared::same(one, other),
            _ => false,
        }
    }

    /// The domain that decides which memory is reached.
    pub(crate) fn hwpt(&self) -> &HwptInner {
        match self {
            Self::Paging(hwpt) => hwpt,
            Self::Nested(nested) => &nested.parent,
        }
    }

    /// As the unit takes it.
    pub(crate) fn target(&self) -> Target<'_> {
        match self {
            Self::Paging(hwpt) => Target::Paging(&*hwpt.domain),
            Self::Nested(nested) => Target::Nested(&*nested.nested),
        }
    }

    /// Where faults and page requests of what leads there go.
    pub(crate) fn faults(&self) -> Option<&FaultQueue> {
        match self {
            Self::Paging(hwpt) => hwpt.config.faults.as_ref(),
            Self::Nested(nested) => nested.faults.as_ref(),
        }
    }

    /// Whether PASIDs, and devices that have some attached, may lead there.
    pub(crate) fn takes_pasids(&self) -> bool {
        self.hwpt().config.pasid
    }
}

impl DeviceInner {
    /// What `to` names, for the device as a whole or for `pasid`. `with_pasids`: PASIDs of the group are attached.
    /// `group`: where another device of the group leads, for a device that is to join it.
    pub(super) fn choose(
        &self,
        pasid: Option<Pasid>,
        to: AttachTo<'_>,
        with_pasids: bool,
        group: Option<&Link>,
    ) -> Result<Link, Error> {
        match to {
            AttachTo::Hwpt(hwpt) => Ok(Link::Paging(hwpt.0.another())),
            AttachTo::Nested(nested) => Ok(Link::Nested(nested.0.clone())),
            AttachTo::Auto(_) if pasid.is_some() => Err(Error::Invalid("a PASID leads to a domain of its choice")),
            AttachTo::Auto(ioas) => match group {
                Some(link) if Shared::same(&link.hwpt().ioas, ioas.inner()) => Ok(link.another()),
                Some(_) => Err(Error::Invalid(ELSEWHERE)),
                None => self.automatic(ioas, with_pasids || self.is_enabled(Feature::Pasid)).map(Link::Paging),
            },
        }
    }

    /// An automatic domain of `ioas` that suits, the oldest first, or a new one.
    fn automatic(&self, ioas: &Ioas, pasid: bool) -> Result<HwptUse, Error> {
        let suits = |hwpt: &HwptInner| {
            hwpt.automatic.load(Ordering::Relaxed) && same_unit(&hwpt.unit, &self.unit) && (hwpt.config.pasid || !pasid)
        };
        if let Some(found) = ioas.inner().find_hwpt(&mut { suits }) {
            return Ok(found);
        }
        let unit = self.unit.capabilities();
        // Second stages leave the first to guests. A PASID, though, selects a first stage on units that nest no others.
        let order = if pasid { [Stage::First, Stage::Second] } else { [Stage::Second, Stage::First] };
        let mut refused = Error::Unsupported("translation of any stage");
        for stage in order {
            if !(match stage {
                Stage::First => unit.first_stage,
                Stage::Second => unit.second_stage,
            }) {
                continue;
            }
            let config = HwptConfig { pasid, enforce_coherency: unit.enforce_coherency, ..HwptConfig::new(stage) };
            match HwptUse::new(ioas.inner(), &self.unit, config) {
                Ok(hwpt) => {
                    hwpt.automatic.store(true, Ordering::Relaxed);
                    return Ok(hwpt);
                }
                Err(error @ Error::Hardware(HwError::Missing(_) | HwError::Unsupported(_))) => refused = error,
                Err(error) => return Err(error),
            }
        }
        Err(refused)
    }

    /// Whether the device, or `pasid` of it, may lead to `link`. `whole`: where the group leads as a whole.
    pub(super) fn may_lead_to(
        &self,
        pasid: Option<Pasid>,
        link: &Link,
        with_pasids: bool,
        whole: Option<&Link>,
    ) -> Result<(), Error> {
        if !same_unit(&self.unit, &link.hwpt().unit) {
            return Err(Error::Invalid("the domain is not of the device's unit"));
        }
        if link.faults().is_some() && self.router.is_none() {
            return Err(Error::Invalid("the domain wants faults, and nobody routes the device's"));
        }
        let pasids = pasid.is_some() || with_pasids;
        if pasids && !(link.takes_pasids() && whole.is_none_or(Link::takes_pasids)) {
            return Err(Error::Invalid("the domain was not made for PASIDs"));
        }
        Ok(())
    }
}

/// Why a device of a group cannot have a domain of its own.
pub(super) const ELSEWHERE: &str = "another device of the group leads elsewhere";

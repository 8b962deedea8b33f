//! A guest's stage 1 on top of a domain (Config 7).

use super::{Domain, State, guest};
use crate::invalidate::Change;
use crate::spec::ste::StreamEntry;
use crate::tables::Destination;
use crate::unit::Inner;
use alloc::sync::Arc;
use core::any::Any;
use iommu_alloc::Shared;
use iommu_core::error;
use iommu_core::hw::{self, HwError, Invalidation, NestedConfig};
use iommu_hal::Hal;
use iommu_hal::regs::Registers;

/// A guest's stage 1. What is cached of it is tagged with the guest's ASIDs under the VMID of the domain beneath, with which it
/// shares its users: a change there is a change here.
///
/// Where that goes first, its streams are blocked with those of the domain, and no stream is attached to it any more.
pub(crate) struct Nested<H: Hal + Clone, R: Registers> {
    unit: Arc<Inner<H, R>>,
    destination: Destination,
}

impl<H: Hal + Clone + 'static, R: Registers + 'static> Nested<H, R> {
    /// What `config` says, on top of `parent`.
    pub(crate) fn new(
        unit: &Arc<Inner<H, R>>,
        parent: &dyn hw::Domain,
        config: &NestedConfig<'_>,
    ) -> Result<Self, HwError> {
        let parent = Domain::of(unit, parent)?;
        let on = parent.destination();
        let StreamEntry::Stage2(stage2) = on.entry else {
            return Err(HwError::Unsupported("a guest's stage 1 on top of a stage 1"));
        };
        if !parent.is_nest_parent() {
            return Err(HwError::Unsupported("nested translation on a domain that was not made for it"));
        }
        let entry = guest::entry(config, &unit.caps, stage2, hw::Domain::geometry(parent).aperture)?;
        let state = Shared::try_new(on.state.nest()?).map_err(|_| HwError::OutOfMemory)?;
        let page_table = if entry == StreamEntry::Abort { None } else { on.page_table };
        Ok(Self { unit: unit.clone(), destination: Destination { state, entry, page_table } })
    }

    /// What `unit` made of `nested`, if it did.
    pub(crate) fn of<'n>(unit: &Arc<Inner<H, R>>, nested: &'n dyn hw::Nested) -> Result<&'n Self, HwError> {
        let nested = (nested as &dyn Any).downcast_ref::<Self>().ok_or(HwError::ForeignDomain)?;
        if Arc::ptr_eq(&nested.unit, unit) { Ok(nested) } else { Err(HwError::ForeignDomain) }
    }

    /// What leads a stream through it.
    pub(crate) fn destination(&self) -> &Destination {
        &self.destination
    }

    fn state(&self) -> &State {
        &self.destination.state
    }
}

impl<H: Hal + Clone + 'static, R: Registers + 'static> hw::Nested for Nested<H, R> {
    fn invalidate(&self, request: &Invalidation) -> Result<(), HwError> {
        // A guest's substreams are its own, as wide as the unit's.
        let request = guest::request(request, &self.unit.caps, self.unit.caps.substream_bits())?;
        let tag = self.state().tag();
        self.state().with_users(|users| self.unit.invalidate(&[Change::GuestChanged { tag, users, request }]))
    }
}

impl<H: Hal + Clone, R: Registers> Drop for Nested<H, R> {
    fn drop(&mut self) {
        // The VMID is the parent's, and goes with that.
        if self.unit.retire(&self.destination.state).is_err() {
            error!("a guest's stage 1 is gone, which hardware did not confirm");
        }
    }
}

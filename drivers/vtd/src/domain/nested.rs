//! A guest's first stage on top of a domain (PGTT 3).

use super::guest::{FirstStage, Request};
use super::stages::plain_entry;
use super::state::Guest;
use super::{Domain, State};
use crate::invalidate::{Change, Tag};
use crate::spec::pasid::{PasidEntry, TranslationType};
use crate::unit::Inner;
use alloc::sync::Arc;
use core::any::Any;
use iommu_alloc::Shared;
use iommu_core::error;
use iommu_core::hw::{self, HwError, Invalidation, NestedConfig};
use iommu_hal::Hal;
use iommu_hal::regs::Registers;

/// A guest's first stage. It has a domain id of its own, which tags what is cached of it, and shares its users with the
/// domain beneath: a change there is a change here.
///
/// Where that goes first, its streams are blocked with those of the domain, and no stream is attached to it any more.
pub(crate) struct Nested<H: Hal + Clone, R: Registers> {
    unit: Arc<Inner<H, R>>,
    state: Shared<State>,
    guest: Guest,
    entry: PasidEntry,
}

impl<H: Hal + Clone + 'static, R: Registers + 'static> Nested<H, R> {
    /// What `config` says, on top of `parent`. The domain id `id` stays the caller's on an error.
    pub(crate) fn new(
        unit: &Arc<Inner<H, R>>,
        parent: &dyn hw::Domain,
        config: &NestedConfig<'_>,
        id: u16,
    ) -> Result<Self, HwError> {
        let parent = Domain::of(unit, parent)?;
        if !parent.config.nest_parent {
            return Err(HwError::Unsupported("nested translation on a domain that was not made for it"));
        }
        let caps = &unit.caps;
        let stage = FirstStage::of(config, caps, parent.paging.geometry().aperture)?;
        let guest =
            Guest { root: stage.root, five_levels: stage.five_levels, extended_access: stage.extended_accessed };
        let entry = PasidEntry {
            second_stage: parent.entry.second_stage,
            first_stage: stage.root,
            five_levels: stage.five_levels,
            page_snoop: parent.config.enforce_coherency,
            supervisor: stage.supervisor,
            write_protect: stage.write_protect,
            extended_access: stage.extended_accessed,
            ..plain_entry(caps, TranslationType::Nested, parent.entry.width, id)
        };
        let state = parent.state.nest(Tag::Domain(id), guest)?;
        let state = match Shared::try_new(state) {
            Ok(state) => state,
            Err(_) => {
                parent.state.leave(guest);
                return Err(HwError::OutOfMemory);
            }
        };
        Ok(Self { unit: unit.clone(), state, guest, entry })
    }

    /// What `unit` made of `nested`, if it did.
    pub(crate) fn of<'n>(unit: &Arc<Inner<H, R>>, nested: &'n dyn hw::Nested) -> Result<&'n Self, HwError> {
        let nested = (nested as &dyn Any).downcast_ref::<Self>().ok_or(HwError::ForeignDomain)?;
        if Arc::ptr_eq(&nested.unit, unit) { Ok(nested) } else { Err(HwError::ForeignDomain) }
    }

    pub(crate) fn state(&self) -> &Shared<State> {
        &self.state
    }

    /// The PASID table entry that leads to it, before it is [admitted](State::admit).
    pub(crate) fn pasid_entry(&self) -> PasidEntry {
        self.entry
    }
}

impl<H: Hal + Clone + 'static, R: Registers + 'static> hw::Nested for Nested<H, R> {
    fn invalidate(&self, request: &Invalidation) -> Result<(), HwError> {
        let Request { range, leaves_only } = Request::of(request)?;
        let tag = self.state.tag();
        self.state.with_users(|users| self.unit.invalidate(&[Change::GuestChanged { tag, users, range, leaves_only }]))
    }
}

impl<H: Hal + Clone, R: Registers> Drop for Nested<H, R> {
    fn drop(&mut self) {
        if self.unit.retire(&self.state).is_ok() {
            self.state.leave(self.guest);
            self.unit.free_id(self.state.tag());
        } else {
            // What may still be cached of it keeps its id, and its root those properties.
            error!("nested domain {}: hardware did not confirm its end", self.state.tag().domain_id());
        }
    }
}

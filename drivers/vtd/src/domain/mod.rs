//! A translation domain of one unit: page tables, a domain id, and the invalidations that keep both honest.

mod dirty;
pub mod guest;
mod identity;
mod nested;
mod stages;
mod state;

pub(crate) use identity::Identity;
pub(crate) use nested::Nested;
pub(crate) use state::State;

/// The page tables of all domains of a unit.
pub(crate) type Trees<H> = iommu_driver::trees::Trees<H, Vtd>;

use crate::invalidate::Change;
use crate::spec::pasid::PasidEntry;
use crate::unit::Inner;
use alloc::sync::Arc;
use core::any::Any;
use iommu_alloc::Shared;
use iommu_core::addr::{Iova, IovaRange, PhysExtent, total_len};
use iommu_core::error;
use iommu_core::hw::{self, DomainConfig, Gather, Geometry, HwError, Prot, Stage, Transition, Translation};
use iommu_driver::paging::Paging;
use iommu_hal::Hal;
use iommu_hal::regs::Registers;
use iommu_pgtable::{Flush, Vtd};

/// Writes to this range are interrupts and never translated as memory (section 3.14); nothing may lead there either.
const INTERRUPTS: [IovaRange; 1] = match IovaRange::from_len(Iova::new(0xfee0_0000), 0x10_0000) {
    Some(range) => [range],
    None => [IovaRange::FULL],
};

/// Refuses a map that touches the interrupt range on either side.
fn check_interrupt_range(iova: Iova, extents: &[PhysExtent]) -> Result<(), HwError> {
    // Physical addresses are looked at as if they were virtual: only the numbers count.
    let outputs = extents.iter().map(|extent| (Iova::new(extent.start.get()), extent.len));
    let input = total_len(extents).map(|len| (iova, len));
    match input.into_iter().chain(outputs).find(|(start, len)| {
        IovaRange::from_len(*start, *len)
            .is_some_and(|range| INTERRUPTS.iter().any(|reserved| reserved.overlaps(range)))
    }) {
        Some((start, _)) => Err(HwError::Reserved { address: start.get() }),
        None => Ok(()),
    }
}

/// A domain. Dropped, it blocks its streams, invalidates all that is cached of it and frees its tables; where hardware
/// does not confirm, the tables stay allocated for ever.
///
/// CPUs that work on disjoint addresses do not wait for each other, but for the queue.
pub(crate) struct Domain<H: Hal + Clone, R: Registers> {
    unit: Arc<Inner<H, R>>,
    state: Shared<State>,
    /// What it was made as.
    config: DomainConfig,
    /// The PASID table entry that leads here, before it is [admitted](State::admit).
    entry: PasidEntry,
    paging: Paging<H, Vtd>,
}

impl<H: Hal + Clone, R: Registers> Domain<H, R> {
    /// An empty domain with domain id `id`, which stays the caller's on an error.
    pub(crate) fn new(unit: &Arc<Inner<H, R>>, config: &DomainConfig, id: u16) -> Result<Self, HwError> {
        let caps = &unit.caps;
        let table = stages::table(unit.hal.clone(), caps, unit.host_bits, config)?;
        let state = State::new(stages::tag(config.stage == Stage::First, id))?;
        Ok(Self {
            unit: unit.clone(),
            state: Shared::try_new(state).map_err(|_| HwError::OutOfMemory)?,
            config: *config,
            entry: stages::entry(caps, config.stage, table.root(), id, config.enforce_coherency)?,
            // The last that can fail: it is taken back by the drop alone.
            paging: Paging::new(&unit.trees, table, config.dirty_tracking)?,
        })
    }

    pub(crate) fn state(&self) -> &Shared<State> {
        &self.state
    }

    /// The PASID table entry that leads to this domain, before it is [admitted](State::admit).
    pub(crate) fn pasid_entry(&self) -> PasidEntry {
        self.entry
    }

    /// Hardware that is to forget what a change of the tables took out.
    fn confirm(&self) -> Confirm<'_, H, R> {
        Confirm { unit: &self.unit, state: &self.state }
    }
}

impl<H: Hal + Clone + 'static, R: Registers + 'static> Domain<H, R> {
    /// What `unit` made of `domain`, if it did.
    pub(crate) fn of<'d>(unit: &Arc<Inner<H, R>>, domain: &'d dyn hw::Domain) -> Result<&'d Self, HwError> {
        let domain = (domain as &dyn Any).downcast_ref::<Self>().ok_or(HwError::ForeignDomain)?;
        if Arc::ptr_eq(&domain.unit, unit) { Ok(domain) } else { Err(HwError::ForeignDomain) }
    }
}

/// Has hardware confirm what a change of the tables took out, before the change goes on.
struct Confirm<'u, H: Hal + Clone, R: Registers> {
    unit: &'u Inner<H, R>,
    state: &'u State,
}

// SAFETY: the invalidation is planned from all that the gather holds, and returns once the unit's wait descriptor
// behind it has completed.
#[allow(unsafe_code, reason = "the promise on which table frames are freed")]
unsafe impl<H: Hal + Clone, R: Registers> Flush for Confirm<'_, H, R> {
    fn flush(&mut self, gather: &Gather) -> Result<(), HwError> {
        let (unit, tag) = (self.unit, self.state.tag());
        self.state.with_users(|users| unit.invalidate(&[Change::Unmapped { tag, users, gather }]))
    }
}

impl<H: Hal + Clone + 'static, R: Registers + 'static> hw::Domain for Domain<H, R> {
    fn geometry(&self) -> Geometry {
        self.paging.geometry()
    }

    fn reserved_ranges(&self) -> &[IovaRange] {
        &INTERRUPTS
    }

    fn map(&self, iova: Iova, extents: &[PhysExtent], prot: Prot) -> Result<(), HwError> {
        check_interrupt_range(iova, extents)?;
        self.paging.map(iova, extents, prot, &mut self.confirm())?;
        match total_len(extents).and_then(|len| IovaRange::from_len(iova, len)) {
            // The claim on the range is over, unlike in the flush in the middle of a map that needs one.
            Some(range) => {
                let tag = self.state.tag();
                self.state.with_users(|users| self.unit.invalidate(&[Change::Mapped { tag, users, range }]))
            }
            None => Ok(()),
        }
    }

    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<(), HwError> {
        self.paging.unmap(range, gather)
    }

    fn flush(&self, gather: &mut Gather) -> Result<(), HwError> {
        self.paging.flush(gather, &mut self.confirm())
    }

    fn retire(&self) -> Result<(), HwError> {
        self.unit.retire(&self.state)
    }

    fn split(&self, at: Iova) -> Result<Transition, HwError> {
        self.paging.split(at, &mut self.confirm())
    }

    fn set_dirty_tracking(&self, on: bool) -> Result<(), HwError> {
        self.paging.check_tracked()?;
        match self.config.stage {
            // Always recorded.
            Stage::First => Ok(()),
            Stage::Second => self.unit.set_access_dirty(&self.state, on),
        }
    }

    fn read_dirty(&self, range: IovaRange, dirty: &mut dyn FnMut(IovaRange)) -> Result<(), HwError> {
        self.paging.read_dirty(range, dirty)
    }

    fn read_and_clear_dirty(
        &self,
        range: IovaRange,
        gather: &mut Gather,
        dirty: &mut dyn FnMut(IovaRange),
    ) -> Result<(), HwError> {
        self.paging.read_and_clear_dirty(range, gather, dirty)
    }

    fn translate(&self, iova: Iova) -> Option<Translation> {
        self.paging.translate(iova)
    }
}

impl<H: Hal + Clone, R: Registers> Drop for Domain<H, R> {
    fn drop(&mut self) {
        // First stages on top of it may outlive it: nothing is attached to them any more.
        self.state.close();
        let forgotten = self.unit.retire(&self.state).is_ok();
        if !forgotten {
            error!("domain {}: hardware did not confirm, its tables stay allocated", self.state.tag().domain_id());
        }
        self.paging.end(&self.unit.trees, forgotten);
        if forgotten {
            // Nothing is cached under it: the id may name another domain.
            self.unit.free_id(self.state.tag());
        }
    }
}

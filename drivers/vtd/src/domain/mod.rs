//! A translation domain of one unit: page tables, a domain id, and the invalidations that keep both honest.

mod dirty;
pub mod guest;
mod identity;
mod nested;
mod stages;
mod state;
mod trees;

pub(crate) use identity::Identity;
pub(crate) use nested::Nested;
pub(crate) use state::State;
pub(crate) use trees::Trees;

use crate::invalidate::Change;
use crate::spec::pasid::PasidEntry;
use crate::unit::Inner;
use alloc::sync::Arc;
use core::any::Any;
use iommu_alloc::Shared;
use iommu_core::addr::{Iova, IovaRange, PhysExtent, total_len};
use iommu_core::error;
use iommu_core::hw::{self, DomainConfig, Gather, Geometry, HwError, Prot, Stage, Transition, Translation};
use iommu_hal::Hal;
use iommu_hal::regs::Registers;
use iommu_pgtable::Flush;
use stages::{StageTables, either};

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
    /// Distinguishes this domain's gathers from all others.
    serial: u64,
    geometry: Geometry,
    /// What it was made as.
    config: DomainConfig,
    /// The PASID table entry that leads here, before it is [admitted](State::admit).
    entry: PasidEntry,
    /// `None` only while being dropped.
    tables: Option<Shared<StageTables<H>>>,
}

impl<H: Hal + Clone, R: Registers> Domain<H, R> {
    /// An empty domain with domain id `id`, which stays the caller's on an error.
    pub(crate) fn new(unit: &Arc<Inner<H, R>>, config: &DomainConfig, id: u16) -> Result<Self, HwError> {
        let caps = &unit.caps;
        let tables = StageTables::new(&unit.hal, caps, unit.host_bits, config)?;
        let state = State::new(tables.tag(id))?;
        Ok(Self {
            unit: unit.clone(),
            state: Shared::try_new(state).map_err(|_| HwError::OutOfMemory)?,
            serial: hw::unique_number(),
            geometry: either!(&tables, table => table.geometry()),
            config: *config,
            entry: tables.entry(caps, id, config.enforce_coherency)?,
            // The last that can fail: it is taken back by the drop alone.
            tables: Some(unit.trees.add(tables)?),
        })
    }

    pub(crate) fn state(&self) -> &Shared<State> {
        &self.state
    }

    /// The PASID table entry that leads to this domain, before it is [admitted](State::admit).
    pub(crate) fn pasid_entry(&self) -> PasidEntry {
        self.entry
    }

    /// Has hardware forget what a change of the tables took out.
    fn forget(&self, gather: &Gather) -> Result<(), HwError> {
        forget(&self.unit, &self.state, gather)
    }

    /// Frees the table frames of a gather whose invalidation was confirmed.
    #[allow(unsafe_code, reason = "freeing what hardware walked is for whoever knows that it no longer does")]
    fn free_tables(&self, gather: &mut Gather) -> Result<(), HwError> {
        let tables = self.tables()?;
        // SAFETY: the caller has just seen the invalidation of all that this gather holds complete.
        either!(tables, table => unsafe { table.free_gathered(gather) });
        Ok(())
    }

    /// Whether what is written through it can be recorded.
    fn check_tracked(&self) -> Result<(), HwError> {
        if self.config.dirty_tracking { Ok(()) } else { Err(dirty::NOT_MADE_FOR_IT) }
    }

    /// The tables: there for as long as anybody can ask.
    #[inline]
    fn tables(&self) -> Result<&StageTables<H>, HwError> {
        self.tables.as_deref().ok_or(HwError::ForeignDomain)
    }
}

impl<H: Hal + Clone + 'static, R: Registers + 'static> Domain<H, R> {
    /// What `unit` made of `domain`, if it did.
    pub(crate) fn of<'d>(unit: &Arc<Inner<H, R>>, domain: &'d dyn hw::Domain) -> Result<&'d Self, HwError> {
        let domain = (domain as &dyn Any).downcast_ref::<Self>().ok_or(HwError::ForeignDomain)?;
        if Arc::ptr_eq(&domain.unit, unit) { Ok(domain) } else { Err(HwError::ForeignDomain) }
    }
}

/// Invalidates what `gather` took out of a domain's tables.
fn forget<H: Hal + Clone, R: Registers>(unit: &Inner<H, R>, state: &State, gather: &Gather) -> Result<(), HwError> {
    state.with_users(|users| unit.invalidate(&[Change::Unmapped { tag: state.tag(), users, gather }]))
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
        forget(self.unit, self.state, gather)
    }
}

impl<H: Hal + Clone + 'static, R: Registers + 'static> hw::Domain for Domain<H, R> {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn reserved_ranges(&self) -> &[IovaRange] {
        &INTERRUPTS
    }

    fn map(&self, iova: Iova, extents: &[PhysExtent], prot: Prot) -> Result<(), HwError> {
        check_interrupt_range(iova, extents)?;
        let mut unit = Confirm { unit: &self.unit, state: &self.state };
        either!(self.tables()?, table => table.map(iova, extents, prot, &mut unit))?;
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
        gather.claim(self.serial)?;
        either!(self.tables()?, table => table.unmap(range, gather, &mut |_| ()))
    }

    fn flush(&self, gather: &mut Gather) -> Result<(), HwError> {
        gather.claim(self.serial)?;
        if !gather.is_empty() {
            self.forget(gather)?;
            self.free_tables(gather)?;
        }
        gather.clear();
        Ok(())
    }

    fn retire(&self) -> Result<(), HwError> {
        self.unit.retire(&self.state)
    }

    fn split(&self, at: Iova) -> Result<Transition, HwError> {
        let mut unit = Confirm { unit: &self.unit, state: &self.state };
        either!(self.tables()?, table => table.split(at, &mut unit))
    }

    fn set_dirty_tracking(&self, on: bool) -> Result<(), HwError> {
        self.check_tracked()?;
        match self.config.stage {
            // Always recorded.
            Stage::First => Ok(()),
            Stage::Second => self.unit.set_access_dirty(&self.state, on),
        }
    }

    fn read_dirty(&self, range: IovaRange, dirty: &mut dyn FnMut(IovaRange)) -> Result<(), HwError> {
        self.check_tracked()?;
        either!(self.tables()?, table => table.read_dirty(range, dirty))
    }

    fn read_and_clear_dirty(
        &self,
        range: IovaRange,
        gather: &mut Gather,
        dirty: &mut dyn FnMut(IovaRange),
    ) -> Result<(), HwError> {
        self.check_tracked()?;
        gather.claim(self.serial)?;
        either!(self.tables()?, table => table.read_and_clear_dirty(range, gather, dirty))
    }

    fn translate(&self, iova: Iova) -> Option<Translation> {
        either!(self.tables().ok()?, table => table.translate(iova))
    }
}

impl<H: Hal + Clone, R: Registers> Drop for Domain<H, R> {
    fn drop(&mut self) {
        // First stages on top of it may outlive it: nothing is attached to them any more.
        self.state.close();
        let tables = self.tables.take().inspect(|tables| self.unit.trees.remove(tables));
        if self.unit.retire(&self.state).is_ok() {
            // Nothing is cached under it: the tables are freed with the value, and the id may name another domain.
            self.unit.free_id(self.state.tag());
        } else if let Some(tables) = tables {
            error!("domain {}: hardware did not confirm, its tables stay allocated", self.state.tag().domain_id());
            match Shared::into_inner(tables) {
                Some(tables) => either!(tables, table => table.into_inner().leak()),
                // Nobody else has them; and if, they would stay, too.
                None => error!("page tables with two owners"),
            }
        }
    }
}

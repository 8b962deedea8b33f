//! A translation domain of one unit: page tables, an ASID or VMID, and the invalidations that keep both honest.

pub mod guest;
mod identity;
mod nested;
mod stages;
mod state;

pub(crate) use identity::Identity;
pub(crate) use nested::Nested;
pub(crate) use state::State;

use crate::invalidate::{Change, Tag};
use crate::spec::ste::StreamEntry;
use crate::tables::{Destination, write_entry};
use crate::unit::Inner;
use alloc::sync::Arc;
use core::any::Any;
use iommu_alloc::Shared;
use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
use iommu_core::error;
use iommu_core::hw::{self, DomainConfig, Gather, Geometry, HwError, Prot, Stage, Transition, Translation};
use iommu_driver::paging::Paging;
use iommu_hal::Hal;
use iommu_hal::mem::Frames;
use iommu_hal::regs::Registers;
use iommu_pgtable::{Armv8, Flush, Grain};

/// The page tables of all domains of a unit.
pub(crate) type Trees<H> = iommu_driver::trees::Trees<H, Armv8>;

/// A domain. Dropped, it blocks its streams, invalidates all that is cached of it and frees its tables; where hardware
/// does not confirm, the tables stay allocated for ever.
///
/// CPUs that work on disjoint addresses do not wait for each other, but for the queue.
pub(crate) struct Domain<H: Hal + Clone, R: Registers> {
    unit: Arc<Inner<H, R>>,
    destination: Destination,
    /// What it was made as.
    config: DomainConfig,
    /// Address bits inside of its smallest page.
    page_bits: u8,
    /// Of stage 1: the descriptor that leads to the tables, written whole before any stream leads to it and never changed.
    context: Option<Frames<H>>,
    paging: Paging<H, Armv8>,
}

impl<H: Hal + Clone, R: Registers> Domain<H, R> {
    /// An empty domain under the ASID or VMID `id`, which stays the caller's on an error.
    pub(crate) fn new(unit: &Arc<Inner<H, R>>, config: &DomainConfig, id: u16) -> Result<Self, HwError> {
        let caps = &unit.caps;
        let table = stages::table(unit.hal.clone(), caps, unit.host_bits, config)?;
        let root = table.root();
        let (tag, entry, context) = match config.stage {
            Stage::First => {
                let (entry, context) = stage_1(unit, config, root, id)?;
                (Tag::Asid(id), entry, Some(context))
            }
            Stage::Second => (Tag::Vmid(id), StreamEntry::Stage2(stages::stage_2(caps, config, root, id)?), None),
        };
        let state = Shared::try_new(State::new(tag)?).map_err(|_| HwError::OutOfMemory)?;
        Ok(Self {
            unit: unit.clone(),
            destination: Destination { state, entry, page_table: Some(root) },
            config: *config,
            page_bits: stages::shape(caps, config)?.granule.page_bits() as u8,
            context,
            // The last that can fail: it is taken back by the drop alone.
            paging: Paging::new(&unit.trees, table, config.dirty_tracking)?,
        })
    }

    /// Whether guests' stages 1 may go on top of it.
    pub(crate) fn is_nest_parent(&self) -> bool {
        self.config.nest_parent
    }

    /// What leads a stream to this domain.
    pub(crate) fn destination(&self) -> Destination {
        self.destination.clone()
    }

    fn state(&self) -> &State {
        &self.destination.state
    }

    /// Hardware that is to forget what a change of the tables took out.
    fn confirm(&self) -> Confirm<'_, H, R> {
        Confirm { unit: &self.unit, state: self.state(), page_bits: self.page_bits }
    }
}

impl<H: Hal + Clone + 'static, R: Registers + 'static> Domain<H, R> {
    /// What `unit` made of `domain`, if it did.
    pub(crate) fn of<'d>(unit: &Arc<Inner<H, R>>, domain: &'d dyn hw::Domain) -> Result<&'d Self, HwError> {
        let domain = (domain as &dyn Any).downcast_ref::<Self>().ok_or(HwError::ForeignDomain)?;
        if Arc::ptr_eq(&domain.unit, unit) { Ok(domain) } else { Err(HwError::ForeignDomain) }
    }
}

/// The entry that leads to tables of stage 1 that begin at `root`, and the context descriptor between the two: written whole
/// before any stream leads to it, and never changed.
fn stage_1<H: Hal + Clone, R: Registers>(
    unit: &Inner<H, R>,
    config: &DomainConfig,
    root: PhysAddr,
    asid: u16,
) -> Result<(StreamEntry, Frames<H>), HwError> {
    let context = Frames::alloc(unit.hal.clone(), unit.frame_request()).ok_or(HwError::OutOfMemory)?;
    let descriptor = stages::context_descriptor(&unit.caps, config, root, asid)?;
    let frame = context.frame(0).ok_or(HwError::Hardware("a frame without memory"))?;
    write_entry(&frame, 0, &descriptor.words());
    let entry = StreamEntry::Stage1(stages::stage_1(&unit.caps, config, context.phys(), descriptor)?);
    Ok((entry, context))
}

/// Has hardware confirm what a change of the tables took out, before the change goes on.
struct Confirm<'u, H: Hal + Clone, R: Registers> {
    unit: &'u Inner<H, R>,
    state: &'u State,
    page_bits: u8,
}

// SAFETY: the commands are planned from all that the gather holds, and it returns once the CMD_SYNC behind them has
// completed.
#[allow(unsafe_code, reason = "the promise on which table frames are freed")]
unsafe impl<H: Hal + Clone, R: Registers> Flush for Confirm<'_, H, R> {
    fn flush(&mut self, gather: &Gather) -> Result<(), HwError> {
        let Self { unit, state, page_bits } = *self;
        let tag = state.tag();
        state.with_users(|users| unit.invalidate(&[Change::Unmapped { tag, page_bits, users, gather }]))
    }
}

impl<H: Hal + Clone + 'static, R: Registers + 'static> hw::Domain for Domain<H, R> {
    fn geometry(&self) -> Geometry {
        self.paging.geometry()
    }

    fn map(&self, iova: Iova, extents: &[PhysExtent], prot: Prot) -> Result<(), HwError> {
        self.paging.map(iova, extents, prot, &mut self.confirm())?;
        self.unit.invalidate(&[Change::Mapped])
    }

    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<(), HwError> {
        self.paging.unmap(range, gather)
    }

    fn flush(&self, gather: &mut Gather) -> Result<(), HwError> {
        self.paging.flush(gather, &mut self.confirm())
    }

    fn retire(&self) -> Result<(), HwError> {
        self.unit.retire(self.state())
    }

    fn split(&self, at: Iova) -> Result<Transition, HwError> {
        self.paging.split(at, &mut self.confirm())
    }

    fn set_dirty_tracking(&self, _: bool) -> Result<(), HwError> {
        // Recorded from the first to the last day: HD would have to change in every entry, for nothing.
        self.paging.check_tracked()
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
        self.state().close();
        let forgotten = self.unit.retire(self.state()).is_ok();
        if !forgotten {
            error!("a domain is gone and hardware did not confirm: its tables stay allocated");
            self.context.take().into_iter().for_each(Frames::leak);
        }
        self.paging.end(&self.unit.trees, forgotten);
        if forgotten {
            // Nothing is cached under it: the id may name another domain.
            self.unit.free_id(self.state().tag());
        }
    }
}

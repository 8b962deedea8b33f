//! A translation domain of one unit: page tables, an ASID or VMID, and the invalidations that keep both honest.

pub mod guest;
mod identity;
mod nested;
mod state;

pub(crate) use identity::Identity;
pub(crate) use nested::Nested;
pub(crate) use state::State;

use crate::invalidate::{Change, Tag};
use crate::spec::cd::ContextDescriptor;
use crate::spec::ste::{Stage1Entry, Stage2Entry, StreamEntry};
use crate::tables::{Destination, write_entry};
use crate::unit::Inner;
use alloc::sync::Arc;
use core::any::Any;
use iommu_alloc::Shared;
use iommu_core::addr::{Iova, IovaRange, PhysExtent};
use iommu_core::error;
use iommu_core::hw::{self, DomainConfig, Gather, Geometry, HwError, Prot, Stage, Transition, Translation};
use iommu_hal::Hal;
use iommu_hal::mem::Frames;
use iommu_hal::regs::Registers;
use iommu_pgtable::{Armv8Stage1, Armv8Stage2, Config as TableConfig, Flush, Format, PageTable};
use iommu_pgtable::{SharedTable, Stage1Options, Stage2Options};

/// Tables of either stage.
enum StageTables<H: Hal + Clone> {
    /// With the context descriptor that leads to them.
    First(SharedTable<H, Armv8Stage1>, Frames<H>),
    Second(SharedTable<H, Armv8Stage2>),
}

/// Does the same with the tables of either stage.
macro_rules! either {
    ($tables:expr, $table:ident => $does:expr) => {
        match $tables {
            StageTables::First($table, _) => $does,
            StageTables::Second($table) => $does,
        }
    };
}
use either;

/// A domain. Dropped, it blocks its streams, invalidates all that is cached of it and frees its tables; where hardware
/// does not confirm, the tables stay allocated for ever.
///
/// CPUs that work on disjoint addresses do not wait for each other, but for the queue.
pub(crate) struct Domain<H: Hal + Clone, R: Registers> {
    unit: Arc<Inner<H, R>>,
    destination: Destination,
    /// Distinguishes this domain's gathers from all others.
    serial: u64,
    geometry: Geometry,
    /// What it was made as.
    config: DomainConfig,
    /// `None` only while being dropped.
    tables: Option<StageTables<H>>,
}

impl<H: Hal + Clone, R: Registers> Domain<H, R> {
    /// An empty domain under the ASID or VMID `id`, which stays the caller's on an error.
    pub(crate) fn new(unit: &Arc<Inner<H, R>>, config: &DomainConfig, id: u16) -> Result<Self, HwError> {
        let (tables, destination) = match config.stage {
            Stage::First => first_stage(unit, config, id)?,
            Stage::Second => second_stage(unit, config, id)?,
        };
        Ok(Self {
            unit: unit.clone(),
            destination,
            serial: hw::unique_number(),
            geometry: either!(&tables, table => table.geometry()),
            config: *config,
            tables: Some(tables),
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

    /// Frees the table frames of a gather whose invalidation was confirmed.
    #[allow(unsafe_code, reason = "freeing what hardware walked is for whoever knows that it no longer does")]
    fn free_tables(&self, gather: &mut Gather) -> Result<(), HwError> {
        let tables = self.tables()?;
        // SAFETY: the caller has just seen the invalidation of all that this gather holds complete.
        either!(tables, table => unsafe { table.free_gathered(gather) });
        Ok(())
    }

    /// The tables: there for as long as anybody can ask.
    #[inline]
    fn tables(&self) -> Result<&StageTables<H>, HwError> {
        self.tables.as_ref().ok_or(HwError::ForeignDomain)
    }
}

impl<H: Hal + Clone + 'static, R: Registers + 'static> Domain<H, R> {
    /// What `unit` made of `domain`, if it did.
    pub(crate) fn of<'d>(unit: &Arc<Inner<H, R>>, domain: &'d dyn hw::Domain) -> Result<&'d Self, HwError> {
        let domain = (domain as &dyn Any).downcast_ref::<Self>().ok_or(HwError::ForeignDomain)?;
        if Arc::ptr_eq(&domain.unit, unit) { Ok(domain) } else { Err(HwError::ForeignDomain) }
    }
}

/// Stage-1 tables and their context descriptor, written whole before any stream leads to it and never changed.
fn first_stage<H: Hal + Clone, R: Registers>(
    unit: &Inner<H, R>,
    asked: &DomainConfig,
    asid: u16,
) -> Result<(StageTables<H>, Destination), HwError> {
    let caps = &unit.caps;
    let shape = caps.first_stage()?;
    let options = Stage1Options::default();
    let table = PageTable::new(unit.hal.clone(), config::<_, _, Armv8Stage1>(unit, shape, options))?;
    let context = Frames::alloc(unit.hal.clone(), unit.frame_request()).ok_or(HwError::OutOfMemory)?;
    let descriptor = ContextDescriptor {
        asid,
        root: table.root(),
        granule: 0,
        input_bits: shape.input_bits,
        output_size: caps.output_size(),
        walk: caps.walk_attributes(),
        track_dirty: false,
        stall: asked.stall && caps.can_stall(),
    };
    let frame = context.frame(0).ok_or(HwError::Hardware("a frame without memory"))?;
    write_entry(&frame, 0, &descriptor.words());
    let entry = StreamEntry::Stage1(Stage1Entry {
        context: context.phys(),
        descriptor,
        fetch: caps.walk_attributes(),
        stall_disable: caps.must_disable_stalls() && !asked.stall,
    });
    let destination = Destination { state: state(Tag::Asid(asid))?, entry, page_table: Some(table.root()) };
    Ok((StageTables::First(SharedTable::new(table), context), destination))
}

/// Stage-2 tables.
fn second_stage<H: Hal + Clone, R: Registers>(
    unit: &Inner<H, R>,
    asked: &DomainConfig,
    vmid: u16,
) -> Result<(StageTables<H>, Destination), HwError> {
    let caps = &unit.caps;
    let shape = caps.second_stage()?;
    let table = PageTable::new(unit.hal.clone(), config::<_, _, Armv8Stage2>(unit, shape, Stage2Options::default()))?;
    let entry = StreamEntry::Stage2(Stage2Entry {
        vmid,
        root: table.root(),
        granule: 0,
        start_level: shape.levels - 2,
        input_bits: shape.input_bits,
        output_size: caps.output_size(),
        walk: caps.walk_attributes(),
        track_dirty: false,
        stall: asked.stall && caps.can_stall(),
    });
    let destination = Destination { state: state(Tag::Vmid(vmid))?, entry, page_table: Some(table.root()) };
    Ok((StageTables::Second(SharedTable::new(table)), destination))
}

fn config<H: Hal + Clone, R: Registers, F: Format>(
    unit: &Inner<H, R>,
    shape: crate::capabilities::StageShape,
    options: F::Options,
) -> TableConfig<F> {
    TableConfig {
        levels: shape.levels,
        page_sizes: unit.caps.page_sizes(),
        input_bits: shape.input_bits,
        output_bits: unit.host_bits,
        memory: unit.caps.memory(),
        address_bits: unit.host_bits,
        track_dirty: false,
        options,
    }
}

fn state(tag: Tag) -> Result<Shared<State>, HwError> {
    Shared::try_new(State::new(tag)?).map_err(|_| HwError::OutOfMemory)
}

/// Invalidates what `gather` took out of a domain's tables.
fn forget<H: Hal + Clone, R: Registers>(unit: &Inner<H, R>, state: &State, gather: &Gather) -> Result<(), HwError> {
    let tag = state.tag();
    state.with_users(|users| unit.invalidate(&[Change::Unmapped { tag, page_bits: 12, users, gather }]))
}

/// Has hardware confirm what a change of the tables took out, before the change goes on.
struct Confirm<'u, H: Hal + Clone, R: Registers> {
    unit: &'u Inner<H, R>,
    state: &'u State,
}

// SAFETY: the commands are planned from all that the gather holds, and it returns once the CMD_SYNC behind them has
// completed.
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

    fn map(&self, iova: Iova, extents: &[PhysExtent], prot: Prot) -> Result<(), HwError> {
        let mut unit = Confirm { unit: &self.unit, state: self.state() };
        either!(self.tables()?, table => table.map(iova, extents, prot, &mut unit))?;
        self.unit.invalidate(&[Change::Mapped])
    }

    fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<(), HwError> {
        gather.claim(self.serial)?;
        either!(self.tables()?, table => table.unmap(range, gather, &mut |_| ()))
    }

    fn flush(&self, gather: &mut Gather) -> Result<(), HwError> {
        gather.claim(self.serial)?;
        if !gather.is_empty() {
            forget(&self.unit, self.state(), gather)?;
            self.free_tables(gather)?;
        }
        gather.clear();
        Ok(())
    }

    fn retire(&self) -> Result<(), HwError> {
        self.unit.retire(self.state())
    }

    fn split(&self, at: Iova) -> Result<Transition, HwError> {
        let mut unit = Confirm { unit: &self.unit, state: self.state() };
        either!(self.tables()?, table => table.split(at, &mut unit))
    }

    fn translate(&self, iova: Iova) -> Option<Translation> {
        either!(self.tables().ok()?, table => table.translate(iova))
    }
}

impl<H: Hal + Clone, R: Registers> Drop for Domain<H, R> {
    fn drop(&mut self) {
        self.state().close();
        if self.unit.retire(self.state()).is_ok() {
            // Nothing is cached under it: the tables are freed with the value, and the id may name another domain.
            self.unit.free_id(self.state().tag());
            return;
        }
        error!("a domain is gone and hardware did not confirm: its tables stay allocated");
        match self.tables.take() {
            Some(StageTables::First(table, context)) => {
                table.into_inner().leak();
                context.leak();
            }
            Some(StageTables::Second(table)) => table.into_inner().leak(),
            None => {}
        }
    }
}

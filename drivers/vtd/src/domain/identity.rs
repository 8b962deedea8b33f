//! Streams that reach memory untranslated.
//!
//! Units without pass-through (ECAP.PT) have them translated to the same: by tables of the unit's own that map all of memory
//! one to one, made when they are first asked for. The interrupt range is left out, as requests to it are none to memory.

use super::stages::{self, plain_entry};
use super::{INTERRUPTS, State};
use crate::capabilities::Capabilities;
use crate::spec::pasid::{PasidEntry, TranslationType};
use core::mem::ManuallyDrop;
use iommu_alloc::Shared;
use iommu_core::addr::{Iova, PhysAddr, PhysExtent};
use iommu_core::hw::{DomainConfig, Gather, HwError, Prot, Stage};
use iommu_hal::Hal;
use iommu_pgtable::{Flush, Met, SharedTable, Vtd};
use spin::Mutex;

/// What all streams of a unit that are passed through have in common.
pub(crate) struct Identity<H: Hal + Clone> {
    state: Shared<State>,
    /// Tables for units without pass-through. Never dropped: hardware may walk them for as long as it translates.
    tables: Mutex<Option<ManuallyDrop<SharedTable<H, Vtd>>>>,
}

impl<H: Hal + Clone> Identity<H> {
    /// Under the domain id `id`.
    pub(crate) fn new(caps: &Capabilities, id: u16) -> Result<Self, HwError> {
        let by_pasid = if caps.pass_through() { caps.scalable() } else { caps.second_stage().is_err() };
        let state = State::new(stages::tag(by_pasid, id))?;
        let state = Shared::try_new(state).map_err(|_| HwError::OutOfMemory)?;
        Ok(Self { state, tables: Mutex::new(None) })
    }

    pub(crate) fn state(&self) -> &Shared<State> {
        &self.state
    }

    /// The entry that leads there.
    ///
    /// # Errors
    ///
    /// [`HwError::OutOfMemory`] where there are no tables yet and no memory for them.
    pub(crate) fn pasid_entry(&self, hal: &H, caps: &Capabilities, host_bits: u8) -> Result<PasidEntry, HwError> {
        let id = self.state.tag().domain_id();
        if caps.pass_through() {
            return Ok(plain_entry(caps, TranslationType::PassThrough, caps.idle_width(), id));
        }
        let mut tables = self.tables.lock();
        let tables = match &mut *tables {
            Some(made) => made,
            none => none.insert(ManuallyDrop::new(one_to_one(hal, caps, host_bits)?)),
        };
        stages::entry(caps, stage_for(caps), tables.root(), id, false)
    }
}

impl<H: Hal + Clone> Identity<H> {
    /// Calls `met` with each entry on the way to `iova` in the tables with this root; `false` where they are not its own.
    pub(crate) fn trace(&self, root: PhysAddr, iova: Iova, met: &mut dyn FnMut(Met)) -> bool {
        let tables = self.tables.lock();
        tables.as_deref().filter(|tables| tables.root() == root).is_some_and(|tables| {
            tables.trace(iova, met);
            true
        })
    }
}

/// The stage that does it.
fn stage_for(caps: &Capabilities) -> Stage {
    if caps.second_stage().is_ok() { Stage::Second } else { Stage::First }
}

/// Tables that lead every address that they take to itself, as far as there is memory.
fn one_to_one<H: Hal + Clone>(hal: &H, caps: &Capabilities, host_bits: u8) -> Result<SharedTable<H, Vtd>, HwError> {
    let config = DomainConfig::new(stage_for(caps));
    let tables = SharedTable::new(stages::table(hal.clone(), caps, host_bits, &config)?);
    let geometry = tables.geometry();
    let end = geometry.aperture.last().get().min((1 << geometry.output_bits) - 1) + 1;
    let mut start = 0;
    for reserved in INTERRUPTS {
        map(&tables, start, reserved.start().get().min(end))?;
        start = reserved.last().get() + 1;
    }
    map(&tables, start, end)?;
    Ok(tables)
}

/// Maps what lies from `start` to before `end` to itself.
fn map<H: Hal + Clone>(tables: &SharedTable<H, Vtd>, start: u64, end: u64) -> Result<(), HwError> {
    let Some(len) = end.checked_sub(start).filter(|len| *len != 0) else { return Ok(()) };
    let extent = PhysExtent::new(PhysAddr::new(start), len);
    tables.map(Iova::new(start), &[extent], Prot::READ_WRITE, &mut Unknown)
}

/// Hardware that was not told of the tables.
struct Unknown;

// SAFETY: no entry leads to the tables yet, so hardware uses nothing of them.
#[allow(unsafe_code, reason = "the promise on which table frames are freed")]
unsafe impl Flush for Unknown {
    fn flush(&mut self, _: &Gather) -> Result<(), HwError> {
        Ok(())
    }
}

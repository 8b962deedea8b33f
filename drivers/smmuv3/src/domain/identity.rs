//! Streams that reach memory untranslated.
//!
//! A function has an entry that says so. A PASID, which has no such, goes through a stage 1 of the unit's own that maps all of
//! memory one to one, made when it is first asked for.

use super::{State, stage_1, stages};
use crate::invalidate::Tag;
use crate::spec::ste::StreamEntry;
use crate::tables::Destination;
use crate::unit::Inner;
use core::mem::ManuallyDrop;
use iommu_alloc::Shared;
use iommu_core::addr::{Iova, PhysAddr, PhysExtent};
use iommu_core::hw::{DomainConfig, Gather, HwError, Prot, Stage};
use iommu_hal::Hal;
use iommu_hal::mem::Frames;
use iommu_hal::regs::Registers;
use iommu_pgtable::{Armv8, Flush, Met, SharedTable};
use spin::Mutex;

/// What all streams of a unit that are passed through have in common.
pub(crate) struct Identity<H: Hal + Clone> {
    /// Of functions.
    function: Destination,
    /// Of PASIDs, with its tables. Never dropped: hardware may walk them for as long as it translates.
    pasids: Mutex<Option<(Destination, ManuallyDrop<OneToOne<H>>)>>,
}

/// Tables, and the context descriptor that leads to them.
type OneToOne<H> = (SharedTable<H, Armv8>, Frames<H>);

impl<H: Hal + Clone> Identity<H> {
    /// Without tables.
    ///
    /// # Errors
    ///
    /// [`HwError::OutOfMemory`].
    pub(crate) fn new() -> Result<Self, HwError> {
        let state = Shared::try_new(State::new(Tag::Bypass)?).map_err(|_| HwError::OutOfMemory)?;
        let function = Destination { state, entry: StreamEntry::Bypass, page_table: None };
        Ok(Self { function, pasids: Mutex::new(None) })
    }

    /// What leads requests without PASID there.
    pub(crate) fn function(&self) -> Destination {
        self.function.clone()
    }

    /// What leads a PASID there.
    ///
    /// # Errors
    ///
    /// [`HwError::Missing`] where the unit has no stage 1; [`HwError::OutOfMemory`] and [`HwError::OutOfDomainIds`] where there
    /// are no tables yet.
    pub(crate) fn pasid<R: Registers>(&self, unit: &Inner<H, R>) -> Result<Destination, HwError> {
        let mut pasids = self.pasids.lock();
        if let Some((made, _)) = &*pasids {
            return Ok(made.clone());
        }
        let asid = unit.asids.lock().alloc()?;
        let (tables, destination) = one_to_one(unit, asid).inspect_err(|_| unit.asids.lock().free(asid))?;
        *pasids = Some((destination.clone(), ManuallyDrop::new(tables)));
        Ok(destination)
    }

    /// Calls `met` with each entry on the way to `iova` in the tables of PASIDs, where they begin at `root`; `false` where not.
    pub(crate) fn trace(&self, root: PhysAddr, iova: Iova, met: &mut dyn FnMut(Met)) -> bool {
        let pasids = self.pasids.lock();
        let table = pasids.as_ref().map(|(_, tables)| &tables.0).filter(|table| table.root() == root);
        table.is_some_and(|table| {
            table.trace(iova, met);
            true
        })
    }
}

/// Tables that lead every address that they take to itself, as far as there is memory, and what leads there.
fn one_to_one<H: Hal + Clone, R: Registers>(
    unit: &Inner<H, R>,
    asid: u16,
) -> Result<(OneToOne<H>, Destination), HwError> {
    let config = DomainConfig::new(Stage::First);
    let table = SharedTable::new(stages::table(unit.hal.clone(), &unit.caps, unit.host_bits, &config)?);
    let geometry = table.geometry();
    let end = geometry.aperture.last().get().min((1 << geometry.output_bits) - 1) + 1;
    let all = PhysExtent::new(PhysAddr::new(0), end);
    table.map(Iova::new(0), &[all], Prot::READ_WRITE, &mut Unknown)?;
    let (entry, context) = stage_1(unit, &config, table.root(), asid)?;
    let state = Shared::try_new(State::new(Tag::Asid(asid))?).map_err(|_| HwError::OutOfMemory)?;
    let destination = Destination { state, entry, page_table: Some(table.root()) };
    Ok(((table, context), destination))
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

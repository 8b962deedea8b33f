//! What a domain does with its page tables, whatever hardware walks them.
//!
//! A driver says what its hardware has to forget, by a [`Flush`]; the order in which tables, gathers and that follow each
//! other is here. It makes the [`PageTable`] in the format and configuration that its unit demands.

use crate::trees::Trees;
use iommu_alloc::Shared;
use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
use iommu_core::error;
use iommu_core::hw::{self, Gather, Geometry, HwError, Prot, Transition, Translation};
use iommu_hal::Hal;
use iommu_pgtable::{Flush, Format, PageTable, SharedTable};

/// Why a domain that was not made for it does not track.
const NOT_MADE_FOR_IT: HwError = HwError::Unsupported("dirty tracking of a domain that was not made for it");

/// The page tables of a domain. CPUs that work on disjoint addresses do not wait for each other.
///
/// Dropped without having been [ended](Paging::end), they stay allocated for ever.
#[derive(Debug)]
pub struct Paging<H: Hal, F: Format> {
    /// Distinguishes this domain's gathers from all others.
    serial: u64,
    geometry: Geometry,
    tracked: bool,
    /// `None` once it has ended.
    table: Option<Shared<SharedTable<H, F>>>,
}

impl<H: Hal, F: Format> Paging<H, F> {
    /// Takes `table` over, and notes it in `trees`. `tracked`: hardware records in it what is written through it.
    ///
    /// # Errors
    ///
    /// [`HwError::OutOfMemory`]; the table is gone: no hardware may know of it yet.
    pub fn new(trees: &Trees<H, F>, table: PageTable<H, F>, tracked: bool) -> Result<Self, HwError> {
        let geometry = table.geometry();
        let table = Some(trees.add(table)?);
        Ok(Self { serial: hw::unique_number(), geometry, tracked, table })
    }

    /// The addresses that it takes and gives.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Maps `extents`, one after the other, from `iova` on. `unit` is asked where a table without a leaf has to go first.
    ///
    /// # Errors
    ///
    /// As [`hw::Domain::map`].
    pub fn map(&self, iova: Iova, extents: &[PhysExtent], prot: Prot, unit: &mut dyn Flush) -> Result<(), HwError> {
        self.table()?.map(iova, extents, prot, unit)
    }

    /// Takes `range` out, and notes in `gather` what hardware may still hold of it.
    ///
    /// # Errors
    ///
    /// As [`hw::Domain::unmap`].
    pub fn unmap(&self, range: IovaRange, gather: &mut Gather) -> Result<(), HwError> {
        gather.claim(self.serial)?;
        self.table()?.unmap(range, gather, &mut |_| ())
    }

    /// Has `unit` forget what `gather` holds, and frees the tables that went with it.
    ///
    /// # Errors
    ///
    /// As [`hw::Domain::flush`]: on one of `unit` the gather stays as it is.
    #[allow(unsafe_code, reason = "freeing what hardware walked is for whoever knows that it no longer does")]
    pub fn flush(&self, gather: &mut Gather, unit: &mut dyn Flush) -> Result<(), HwError> {
        gather.claim(self.serial)?;
        if !gather.is_empty() {
            let table = self.table()?;
            unit.flush(gather)?;
            // SAFETY: whoever implements `Flush` promises that hardware uses nothing any more of what the gather holds.
            unsafe { table.free_gathered(gather) };
        }
        gather.clear();
        Ok(())
    }

    /// Cuts the leaf that reaches across `at`, if one does.
    ///
    /// # Errors
    ///
    /// As [`hw::Domain::split`].
    pub fn split(&self, at: Iova, unit: &mut dyn Flush) -> Result<Transition, HwError> {
        self.table()?.split(at, unit)
    }

    /// Where `iova` leads, if anywhere.
    pub fn translate(&self, iova: Iova) -> Option<Translation> {
        self.table().ok()?.translate(iova)
    }

    /// Whether what is written through it can be recorded.
    ///
    /// # Errors
    ///
    /// [`HwError::Unsupported`] where it was not made for that.
    pub fn check_tracked(&self) -> Result<(), HwError> {
        if self.tracked { Ok(()) } else { Err(NOT_MADE_FOR_IT) }
    }

    /// Hands out what of `range` was written through it.
    ///
    /// # Errors
    ///
    /// As [`hw::Domain::read_dirty`].
    pub fn read_dirty(&self, range: IovaRange, dirty: &mut dyn FnMut(IovaRange)) -> Result<(), HwError> {
        self.check_tracked()?;
        self.table()?.read_dirty(range, dirty)
    }

    /// The same, and makes it count as not written; notes in `gather` where hardware may still think otherwise.
    ///
    /// # Errors
    ///
    /// As [`hw::Domain::read_and_clear_dirty`].
    pub fn read_and_clear_dirty(
        &self,
        range: IovaRange,
        gather: &mut Gather,
        dirty: &mut dyn FnMut(IovaRange),
    ) -> Result<(), HwError> {
        self.check_tracked()?;
        gather.claim(self.serial)?;
        self.table()?.read_and_clear_dirty(range, gather, dirty)
    }

    /// Where the tables begin; `None` once they have ended.
    pub fn root(&self) -> Option<PhysAddr> {
        self.table.as_ref().map(|table| table.root())
    }

    /// The end of the domain. With `forgotten`, hardware has confirmed that it uses nothing of the tables any more, and
    /// they are freed; else they stay allocated for ever.
    pub fn end(&mut self, trees: &Trees<H, F>, forgotten: bool) {
        let Some(table) = self.table.take() else { return };
        trees.remove(table.root());
        match Shared::into_inner(table) {
            Some(table) if forgotten => drop(table),
            Some(table) => table.into_inner().leak(),
            // Nobody else has them; and if, they would stay, too.
            None => error!("page tables with two owners"),
        }
    }

    /// The table: there for as long as anybody can ask.
    #[inline]
    fn table(&self) -> Result<&SharedTable<H, F>, HwError> {
        self.table.as_deref().ok_or(HwError::ForeignDomain)
    }
}

impl<H: Hal, F: Format> Drop for Paging<H, F> {
    fn drop(&mut self) {
        // Of what has not ended nobody knows whether hardware still walks it.
        if let Some(table) = self.table.take().and_then(Shared::into_inner) {
            table.into_inner().leak();
        }
    }
}

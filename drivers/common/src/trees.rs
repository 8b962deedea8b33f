//! The page tables of all domains of a unit, by their roots: for whoever prints what hardware would walk.

use alloc::vec::Vec;
use core::fmt;
use iommu_alloc::Shared;
use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::HwError;
use iommu_hal::Hal;
use iommu_pgtable::{Format, Met, PageTable, SharedTable};
use spin::Mutex;

/// Sorted by root.
pub struct Trees<H: Hal, F: Format>(Mutex<Vec<Shared<SharedTable<H, F>>>>);

impl<H: Hal, F: Format> Default for Trees<H, F> {
    fn default() -> Self {
        Self::new()
    }
}

impl<H: Hal, F: Format> Trees<H, F> {
    /// None.
    pub const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Notes a table, until it is [removed](Trees::remove).
    ///
    /// # Errors
    ///
    /// [`HwError::OutOfMemory`].
    pub(crate) fn add(&self, table: PageTable<H, F>) -> Result<Shared<SharedTable<H, F>>, HwError> {
        let table = Shared::try_new(SharedTable::new(table)).map_err(|_| HwError::OutOfMemory)?;
        let mut trees = self.0.lock();
        trees.try_reserve(1).map_err(|_| HwError::OutOfMemory)?;
        let at = trees.partition_point(|held| held.root() < table.root());
        trees.insert(at, table.clone());
        Ok(table)
    }

    /// Forgets the table with this root, and waits for whoever is looking at it: whoever added it is its only owner again.
    pub(crate) fn remove(&self, root: PhysAddr) {
        let mut trees = self.0.lock();
        if let Ok(at) = trees.binary_search_by_key(&root, |held| held.root()) {
            trees.remove(at);
        }
    }

    /// Calls `met` with each entry on the way to `iova` in the table with this root; `false` where no domain has it. The
    /// table stays for as long as this takes. Waits for whoever works on that address.
    pub fn trace(&self, root: PhysAddr, iova: Iova, met: &mut dyn FnMut(Met)) -> bool {
        let trees = self.0.lock();
        let found = trees.binary_search_by_key(&root, |held| held.root()).ok().and_then(|at| trees.get(at));
        found.is_some_and(|table| {
            table.trace(iova, met);
            true
        })
    }
}

impl<H: Hal, F: Format> fmt::Debug for Trees<H, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trees").field("tables", &self.0.lock().len()).finish()
    }
}

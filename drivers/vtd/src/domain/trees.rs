//! The page tables of all domains of a unit, by their roots: for whoever prints what hardware would walk.

use super::stages::{StageTables, either};
use alloc::vec::Vec;
use iommu_alloc::Shared;
use iommu_core::addr::{Iova, PhysAddr};
use iommu_core::hw::HwError;
use iommu_hal::Hal;
use iommu_pgtable::Met;
use spin::Mutex;

/// Sorted by root.
pub(crate) struct Trees<H: Hal + Clone>(Mutex<Vec<Shared<StageTables<H>>>>);

impl<H: Hal + Clone> Trees<H> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Notes tables, until they are [removed](Trees::remove).
    ///
    /// # Errors
    ///
    /// [`HwError::OutOfMemory`].
    pub(super) fn add(&self, tables: StageTables<H>) -> Result<Shared<StageTables<H>>, HwError> {
        let tables = Shared::try_new(tables).map_err(|_| HwError::OutOfMemory)?;
        let mut trees = self.0.lock();
        trees.try_reserve(1).map_err(|_| HwError::OutOfMemory)?;
        let at = trees.partition_point(|held| held.root() < tables.root());
        trees.insert(at, tables.clone());
        Ok(tables)
    }

    /// Forgets tables, and waits for whoever is looking at them: the caller is their only owner again.
    pub(super) fn remove(&self, tables: &StageTables<H>) {
        let mut trees = self.0.lock();
        if let Ok(at) = trees.binary_search_by_key(&tables.root(), |held| held.root()) {
            trees.remove(at);
        }
    }

    /// Calls `met` with each entry on the way to `iova` in the tables with this root; `false` where no domain has them. The
    /// tables stay for as long as this takes. Waits for whoever works on that address.
    pub(crate) fn trace(&self, root: PhysAddr, iova: Iova, met: &mut dyn FnMut(Met)) -> bool {
        let trees = self.0.lock();
        let found = trees.binary_search_by_key(&root, |held| held.root()).ok().and_then(|at| trees.get(at));
        found.is_some_and(|tables| {
            either!(&**tables, table => table.trace(iova, met));
            true
        })
    }
}

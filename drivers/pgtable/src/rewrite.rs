//! Changing leaves that hardware may be using, and that map the same before and after.
//!
//! In tables that track, hardware may note a write in a leaf at any moment: there a leaf is changed by compare and
//! exchange, or taken out by a swap, so that what hardware notes is in what was read or in what stands there then. In
//! others nobody else stores to the leaves of a claim.

use crate::format::{Attributes, Format, is_link, is_present, step};
use crate::rows::Group;
use crate::table::PageTable;
use core::ops::Range;
use iommu_core::addr::PhysAddr;
use iommu_core::hw::{HwError, Prot};
use iommu_hal::mem::Frame;
use iommu_hal::{Hal, barrier};

/// How often an exchange is tried. Hardware changes a leaf once, to note a write, and no more until that is cleared.
const TRIES: usize = 4;

impl<H: Hal, F: Format> PageTable<H, F> {
    /// A leaf of this table. `dirty` only where the table tracks.
    pub(crate) fn leaf(&self, phys: PhysAddr, level: u8, prot: Prot, grouped: bool, dirty: bool) -> u64 {
        let leaf = F::leaf(phys, level, Attributes { prot, grouped, tracked: self.tracked }, self.options);
        if dirty { F::dirtied(leaf) } else { leaf }
    }

    /// The leaf `entry` of `level` with these attributes in place of its own, as dirty as it is.
    pub(crate) fn remade(&self, entry: u64, level: u8, prot: Prot, grouped: bool) -> u64 {
        self.leaf(F::leaf_address(entry, level), level, prot, grouped, self.is_dirty(entry))
    }

    /// Whether the leaf `entry` is known to have been written through.
    pub(crate) fn is_dirty(&self, entry: u64) -> bool {
        self.tracked && F::is_dirty(entry)
    }

    /// Whether any of these entries, all of them leaves, is.
    pub(crate) fn any_dirty(&self, table: &Frame<'_, H>, mut entries: Range<usize>) -> bool {
        self.tracked && entries.any(|index| F::is_dirty(table.load(index)))
    }

    /// Makes of the leaf at `index` what `change` makes of it, in one step; stores nothing where that is the same.
    pub(crate) fn update(
        &self,
        table: &Frame<'_, H>,
        index: usize,
        change: impl Fn(u64) -> u64,
    ) -> Result<(), HwError> {
        for _ in 0..TRIES {
            let old = table.load(index);
            let new = change(old);
            if new == old {
                return Ok(());
            }
            if !self.tracked {
                table.store(index, new);
                return Ok(());
            }
            if table.exchange(index, old, new).is_ok() {
                return Ok(());
            }
        }
        Err(HwError::Hardware("a leaf that does not stop changing"))
    }

    /// Makes every leaf among these entries of a table that tracks, and below them, dirty.
    pub(crate) fn dirty_all(&self, table: &Frame<'_, H>, level: u8, entries: Range<usize>) -> Result<(), HwError> {
        for index in entries {
            let entry = table.load(index);
            if is_link::<F>(entry, level) {
                let below = self.frame(F::table_address(entry));
                self.dirty_all(&below, level - 1, 0..below.entries())?;
            } else if is_present::<F>(entry) {
                self.update(table, index, F::dirtied)?;
            }
        }
        Ok(())
    }

    /// Takes a group out for a moment, and returns its first entry, dirty if any of them was.
    pub(crate) fn take_group(&self, group: &Group<'_, H>) -> u64 {
        let mut dirty = false;
        if self.tracked {
            for index in group.entries() {
                dirty |= F::is_dirty(group.table.swap(index, 0));
            }
        } else {
            Self::store_zeros(&group.table, group.index, group.count);
        }
        group.table.clean(group.index, group.count);
        if dirty { F::dirtied(group.entry) } else { group.entry }
    }

    /// Puts leaves in where a group was taken out, from the memory that `first` maps on.
    pub(crate) fn put_group(&self, group: &Group<'_, H>, first: u64) {
        barrier::before_device_store();
        group.table.store_run(group.index, group.count, first, step::<F>(self.grain, group.level));
        group.table.clean(group.index, group.count);
    }
}

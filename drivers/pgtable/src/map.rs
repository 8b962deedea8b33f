//! Mapping: look first, allocate second, write last.
//!
//! Everything that can fail does so before the first store to a table that hardware reaches.

use crate::chain::{self, Chain};
use crate::dirty::Dirty;
use crate::format::{self, Format};
use crate::runs::Runs;
use crate::table::PageTable;
use iommu_core::addr::{Iova, IovaRange, PAGE_SIZE, PhysAddr, PhysExtent, total_len};
use iommu_core::hw::{HwError, Prot};
use iommu_hal::Hal;
use iommu_hal::mem::{ENTRIES, Frame};

impl<H: Hal, F: Format> PageTable<H, F> {
    /// Maps `extents`, one after the other, from `iova` on, each address with the largest leaf that its alignment, the
    /// memory's alignment and length, and the unit allow. Empty extents are skipped; where nothing is left, nothing is
    /// mapped and that is no error.
    ///
    /// At every moment hardware finds each address either as before or as mapped here. It may have cached that nothing
    /// was there: the driver knows whether its unit does.
    ///
    /// # Errors
    ///
    /// [`HwError::Protection`], [`HwError::Misaligned`], [`HwError::OutOfRange`], [`HwError::OutputTooWide`],
    /// [`HwError::AlreadyMapped`], [`HwError::OutOfMemory`]: nothing has changed.
    pub fn map(&mut self, iova: Iova, extents: &[PhysExtent], prot: Prot) -> Result<(), HwError> {
        self.check_map(iova, extents, prot)?;
        let runs = Runs::new(iova, extents);
        let root = self.frame(self.root());
        let missing = self.plan(Some(&root), self.top(), &mut runs.clone())?;
        let spare = self.alloc_spare(missing)?;
        let mut fill = Fill { runs, prot, spare };
        self.fill(&root, self.top(), true, &mut fill);
        debug_assert!(fill.runs.is_done() && fill.spare.count == 0);
        self.tables += missing;
        Ok(())
    }

    /// Everything that can be known without a look at the tables.
    fn check_map(&self, iova: Iova, extents: &[PhysExtent], prot: Prot) -> Result<(), HwError> {
        if !F::can_express(prot) {
            return Err(HwError::Protection(prot));
        }
        let aligned = |value: u64| match value % PAGE_SIZE {
            0 => Ok(()),
            _ => Err(HwError::Misaligned { value, align: PAGE_SIZE }),
        };
        let geometry = self.geometry();
        aligned(iova.get())?;
        for extent in extents.iter().filter(|extent| extent.len != 0) {
            aligned(extent.start.get())?;
            aligned(extent.len)?;
            let last = extent.last().unwrap_or(PhysAddr::new(u64::MAX));
            if last.get() >> geometry.output_bits != 0 {
                return Err(HwError::OutputTooWide { phys: last, bits: geometry.output_bits });
            }
        }
        let len = total_len(extents).unwrap_or(u64::MAX);
        match IovaRange::from_len(iova, len) {
            _ if len == 0 => Ok(()),
            Some(range) if geometry.aperture.covers(range) => Ok(()),
            _ => Err(HwError::OutOfRange { iova, len }),
        }
    }

    /// Counts the table frames that [`fill`](Self::fill) will need for the rest of `runs`, as far as `table` of `level`
    /// translates it; `None` for a table that is yet to be made. Takes the very same way, and changes nothing.
    fn plan(&self, table: Option<&Frame<'_, H>>, level: u8, runs: &mut Runs<'_>) -> Result<usize, HwError> {
        let mut missing = 0;
        let mut index = runs.index(level);
        while index < ENTRIES && !runs.is_done() {
            let entry = table.map_or(0, |table| table.load(index));
            let leaves = self.leaves(table, level, index, runs);
            if F::is_present(entry) {
                if F::is_leaf(entry, level) {
                    return Err(HwError::AlreadyMapped { iova: runs.iova() });
                }
                missing += self.plan(Some(&self.frame(F::address(entry, level))), level - 1, runs)?;
                index += 1;
            } else if leaves != 0 {
                runs.advance(leaves, level);
                index += leaves;
            } else {
                missing += 1 + self.plan(None, level - 1, runs)?;
                index += 1;
            }
        }
        Ok(missing)
    }

    /// How many leaves of `level` can be made side by side from `index` on: as many as the run and the table have room
    /// for before the first entry that is present. Never 0 at level 0 where the entry at `index` is not present.
    fn leaves(&self, table: Option<&Frame<'_, H>>, level: u8, index: usize, runs: &Runs<'_>) -> usize {
        if !self.has_leaves(level) {
            return 0;
        }
        let room = ENTRIES - index;
        let fit = usize::try_from(runs.leaves(level)).map_or(room, |fit| fit.min(room));
        match table {
            Some(table) => (index..index + fit).take_while(|at| !F::is_present(table.load(*at))).count(),
            None => fit,
        }
    }

    /// Allocates `count` frames as a chain, or none at all.
    fn alloc_spare(&self, count: usize) -> Result<Chain, HwError> {
        let mut spare = Chain::default();
        for _ in 0..count {
            let Some(phys) = self.hal.alloc_frames(self.request) else {
                self.free_chain(spare);
                return Err(HwError::OutOfMemory);
            };
            spare.push(&self.frame(phys), 0);
        }
        Ok(spare)
    }

    /// Writes the leaves for the rest of the runs, as far as `table` of `level` translates it.
    ///
    /// A new table is filled, with everything below it, before the one store to a table that hardware reaches (`live`)
    /// which links it: a walker sees all of the subtree or nothing, and one barrier a subtree is enough. Leaves in live
    /// tables are single stores of entries that were not present. Each table is cleaned once, after all of its stores;
    /// the zeros of a new one are in memory already, as [`Hal::alloc_frames`] promises.
    fn fill(&self, table: &Frame<'_, H>, level: u8, live: bool, fill: &mut Fill<'_>) {
        let mut index = fill.runs.index(level);
        let mut dirty = Dirty::default();
        while index < ENTRIES && !fill.runs.is_done() {
            let entry = table.load(index);
            let leaves = self.leaves(Some(table), level, index, &fill.runs);
            if F::is_present(entry) {
                self.fill(&self.frame(F::address(entry, level)), level - 1, live, fill);
                index += 1;
            } else if leaves != 0 {
                let mut phys = fill.runs.phys();
                for at in index..index + leaves {
                    table.store(at, F::leaf(phys, level, fill.prot, self.options));
                    phys = phys.wrapping_add(format::size(level));
                }
                fill.runs.advance(leaves, level);
                dirty.add(index, leaves);
                index += leaves;
            } else {
                // `plan` counted the frames on the same way, so there is one.
                let Some(child) = self.take_spare(&mut fill.spare) else { break };
                self.fill(&child, level - 1, false, fill);
                let link = F::table(child.phys());
                if live {
                    table.publish(index, link);
                } else {
                    table.store(index, link);
                    dirty.add(index, 1);
                }
                index += 1;
            }
        }
        dirty.clean(table);
    }

    /// Takes a frame of zeros off the chain.
    fn take_spare(&self, spare: &mut Chain) -> Option<Frame<'_, H>> {
        let frame = self.frame(spare.head?);
        spare.pop(&frame);
        chain::wipe(&frame);
        Some(frame)
    }
}

/// What is left to be written.
struct Fill<'e> {
    runs: Runs<'e>,
    prot: Prot,
    spare: Chain,
}

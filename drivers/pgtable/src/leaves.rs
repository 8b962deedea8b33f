//! Going through what is mapped.

use crate::format::{self, Format, Grain};
use crate::table::PageTable;
use crate::walk::Spot;
use iommu_core::addr::{Iova, IovaRange, PhysAddr};
use iommu_core::hw::Prot;
use iommu_hal::Hal;

/// A leaf, or a contiguous group of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// The first address that it maps.
    pub iova: Iova,
    /// The memory behind that.
    pub phys: PhysAddr,
    /// Size in bytes.
    pub size: u64,
    /// What it allows.
    pub prot: Prot,
}

/// The leaves of a table that hold an address of a range, in rising order. See [`PageTable::leaves`].
pub struct Leaves<'t, H: Hal, F: Format> {
    table: &'t PageTable<H, F>,
    /// Where to go on.
    next: Option<Iova>,
    last: Iova,
}

impl<H: Hal, F: Format> PageTable<H, F> {
    /// The leaves that hold an address of `range`, in rising order; a contiguous group counts as one. The first may
    /// begin below the range, the last may end above it. Addresses outside of the aperture are not mapped.
    pub fn leaves(&self, range: IovaRange) -> Leaves<'_, H, F> {
        let last = range.last().min(self.geometry().aperture.last());
        Leaves { table: self, next: (range.start() <= last).then_some(range.start()), last }
    }
}

impl<H: Hal, F: Format> Iterator for Leaves<'_, H, F> {
    type Item = Leaf;

    fn next(&mut self) -> Option<Leaf> {
        while let Some(at) = self.next {
            let Spot { level, entry, .. } = self.table.walk(at, 0);
            let present = format::is_present::<F>(entry);
            let bits = if present {
                format::leaf_bits::<F>(self.table.grain, entry, level)
            } else {
                self.table.grain.shift(level)
            };
            let size = 1 << bits;
            let iova = Iova::new(at.get() & !(size - 1));
            self.next = iova.checked_add(size).filter(|next| *next <= self.last);
            if present {
                // In a group the entry at hand may not be the first.
                let before = at.get() & !(self.table.grain.size(level) - 1) & (size - 1);
                let phys = PhysAddr::new(F::leaf_address(entry, level).get() - before);
                return Some(Leaf { iova, phys, size, prot: F::prot(entry) });
            }
        }
        None
    }
}

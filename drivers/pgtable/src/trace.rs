//! Every entry that a walk for one address meets: for whoever prints tables.

use crate::format::{self, Format};
use crate::shared::SharedTable;
use crate::table::PageTable;
use iommu_core::addr::{Iova, IovaRange, PhysAddr};
use iommu_hal::Hal;

/// An entry that a walk met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Met {
    /// Level of the table: 0 maps the smallest pages.
    pub level: u8,
    /// Where the entry stands.
    pub at: PhysAddr,
    /// The entry.
    pub entry: u64,
}

impl<H: Hal, F: Format> PageTable<H, F> {
    /// Calls `met` with each entry from the root down that a walker reads for `iova`; none outside of the aperture.
    pub fn trace(&self, iova: Iova, met: &mut dyn FnMut(Met)) {
        if !self.geometry().aperture.contains(iova) {
            return;
        }
        let mut table = self.root_frame();
        for level in (0..self.levels()).rev() {
            let index = self.index(&table, iova, level);
            let entry = table.follow(index);
            met(Met { level, at: table.phys().wrapping_add(index as u64 * 8), entry });
            if !format::is_link::<F>(entry, level) {
                return;
            }
            table = self.frame(F::table_address(entry));
        }
    }
}

impl<H: Hal, F: Format> SharedTable<H, F> {
    /// As [`PageTable::trace`]. Waits for whoever works on that address.
    pub fn trace(&self, iova: Iova, met: &mut dyn FnMut(Met)) {
        if let Some(here) = IovaRange::new(iova, iova) {
            self.with_claim(here, |_| self.table().trace(iova, met));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Config, Flush, PageTable, SecondStageOptions, SharedTable, VtdSecondStage};
    use iommu_core::addr::{Iova, PhysAddr, PhysExtent};
    use iommu_core::hw::{Gather, HwError, PageSizes, Prot};
    use iommu_hal::WalkerMemory;
    use iommu_models::memory::TestMemory;

    struct Unused;
    // SAFETY: no hardware ever knows the table.
    #[allow(unsafe_code, reason = "the promise of tests without hardware")]
    unsafe impl Flush for Unused {
        fn flush(&mut self, _: &Gather) -> Result<(), HwError> {
            Ok(())
        }
    }

    #[test]
    fn every_entry_on_the_way_is_met_as_it_stands_in_memory() {
        let memory = TestMemory::new(PhysAddr::new(0x10_0000), 64);
        let config = Config {
            levels: 4,
            page_sizes: PageSizes::new(0x1000 | 0x20_0000),
            input_bits: 48,
            output_bits: 46,
            memory: WalkerMemory::Coherent,
            address_bits: 46,
            track_dirty: false,
            options: SecondStageOptions { snoop: false },
        };
        let table = SharedTable::new(PageTable::<_, VtdSecondStage>::new(&memory, config).unwrap());
        let large = PhysExtent::new(PhysAddr::new(0x4000_0000), 0x20_0000);
        table.map(Iova::new(0x20_0000), &[large], Prot::READ_WRITE, &mut Unused).unwrap();
        let small = PhysExtent::new(PhysAddr::new(0x5000_0000), 0x1000);
        table.map(Iova::new(0x40_0000), &[small], Prot::READ, &mut Unused).unwrap();
        // What is met: how many, and the last. Memory is asked what really stands there.
        let trace = |iova: u64| {
            let (mut count, mut last) = (0, None);
            table.trace(Iova::new(iova), &mut |met| {
                assert_eq!((met.level, memory.device_read64(met.at)), (3 - count, Some(met.entry)), "{iova:#x}");
                assert_eq!(met.at.get() & 0xfff, (iova >> (12 + 9 * met.level) & 0x1ff) << 3, "{iova:#x}");
                (count, last) = (count + 1, Some(met.entry));
            });
            (count, last)
        };
        assert_eq!(trace(0x20_0123), (3, Some(0x4000_0083)));
        assert_eq!(trace(0x40_0000), (4, Some(0x5000_0001)));
        assert_eq!(trace(0x40_1000), (4, Some(0)));
        assert_eq!(trace(0x80_0000_0000), (1, Some(0)), "nothing below the root");
        assert_eq!(trace(1 << 48), (0, None));
    }
}

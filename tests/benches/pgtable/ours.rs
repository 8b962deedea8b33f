//! `iommu-pgtable` as a driver uses it.

use crate::bits::Bits;
use crate::common::host::Host;
use crate::limit::{LEVELS, walk};
use crate::work::{Slot, Table, Work};
use iommu_core::addr::{Iova, IovaRange, PhysAddr, PhysExtent};
use iommu_core::hw::{Gather, HwError, PageSizes, Prot};
use iommu_hal::WalkerMemory;
use iommu_pgtable::{Config, Flush, PageTable};
use std::hint::black_box;
use std::sync::atomic::Ordering;

/// A unit that has nothing to invalidate: what that costs is the unit's affair.
struct Unit;

// SAFETY: no hardware ever walks the tables.
unsafe impl Flush for Unit {
    #[inline]
    fn flush(&mut self, gather: &Gather) -> Result<(), HwError> {
        black_box(gather);
        Ok(())
    }
}

/// A table of this project. `FREES`: unmaps take tables out, and give their frames back.
pub struct Ours<const OFFSET: u64, F: Bits, const FREES: bool = false> {
    table: PageTable<Host<OFFSET>, F>,
}

impl<const OFFSET: u64, F: Bits, const FREES: bool> Ours<OFFSET, F, FREES> {
    /// A table that maps nothing.
    pub fn new(tracked: bool) -> Self {
        Self::with(tracked, F::Options::default())
    }

    /// A table with `options` that maps nothing.
    pub fn with(tracked: bool, options: F::Options) -> Self {
        let config = Config {
            levels: LEVELS,
            page_sizes: PageSizes::new(1 << 12 | 1 << 21 | 1 << 30),
            input_bits: 48,
            output_bits: 48,
            memory: WalkerMemory::Coherent,
            address_bits: 48,
            track_dirty: tracked,
            options,
        };
        Self { table: PageTable::new(Host, config).expect("every format has this") }
    }

    /// Makes the tables that `work` needs: those that its own unmap leaves standing.
    pub fn warm(&mut self, work: &Work) {
        for slot in &work.slots {
            self.map(*slot, work.len, work.leaf);
            for offset in [0, work.len - work.leaf] {
                let leads = self.table.translate(Iova::new(slot.iova + offset)).expect("just mapped");
                assert_eq!((leads.phys.get(), leads.page_size), (slot.phys + offset, work.leaf));
            }
        }
        for slot in &work.slots {
            self.unmap(*slot, work.len, work.leaf);
        }
    }

    /// Physical address of the root.
    pub fn root(&self) -> u64 {
        self.table.root().get()
    }
}

fn range(slot: Slot, len: u64) -> IovaRange {
    IovaRange::from_len(Iova::new(slot.iova), len).expect("slots do not wrap")
}

impl<const OFFSET: u64, F: Bits, const FREES: bool> Table for Ours<OFFSET, F, FREES> {
    #[inline]
    fn map(&mut self, slot: Slot, len: u64, _: u64) {
        let extents = [PhysExtent::new(PhysAddr::new(slot.phys), len)];
        let mapped = self.table.exclusive().map(Iova::new(slot.iova), black_box(&extents), Prot::READ_WRITE, &mut Unit);
        mapped.expect("free");
    }

    #[inline]
    fn unmap(&mut self, slot: Slot, len: u64, _: u64) {
        let mut gather = Gather::new();
        let mut claim = self.table.exclusive();
        let unmapped = claim.unmap(range(slot, len), &mut gather, &mut |removed| {
            black_box(removed);
        });
        unmapped.expect("mapped");
        black_box(&gather);
        if FREES {
            // SAFETY: no hardware ever walks the table.
            unsafe { claim.free_gathered(&mut gather) };
        }
    }

    #[inline]
    fn translate(&self, iova: u64) -> Option<u64> {
        // All that a caller is told, not the address alone.
        black_box(self.table.translate(Iova::new(iova))).map(|leads| leads.phys.get())
    }

    fn soil(&mut self, slot: Slot, len: u64) {
        for iova in (slot.iova..slot.iova + len).step_by(4096) {
            let word = walk::<OFFSET, F>(self.root(), iova, 0).expect("mapped");
            word.store(F::written(word.load(Ordering::Relaxed)), Ordering::Relaxed);
        }
    }

    #[inline]
    fn scan(&mut self, slot: Slot, len: u64) -> u64 {
        let mut bytes = 0;
        let mut gather = Gather::new();
        let mut dirty = |dirty: IovaRange| bytes += dirty.len().unwrap_or(u64::MAX);
        let scanned = self.table.exclusive().read_and_clear_dirty(range(slot, len), &mut gather, &mut dirty);
        scanned.expect("tracked");
        black_box(&gather);
        bytes
    }
}

//! `aarch64-paging`: whole ranges, without a look at what is mapped already.

use crate::bits::Bits;
use crate::common::host::Host;
use crate::limit::walk;
use crate::work::{Slot, Table};
use ::aarch64_paging::Mapping;
use ::aarch64_paging::descriptor::{
    El1Attributes, PagingAttributes, PhysicalAddress, Stage2Attributes, UpdatableDescriptor,
};
use ::aarch64_paging::paging::{
    Constraints, El1And0, MemoryRegion, PageTable, Stage2, Translation, TranslationRegime, VaRange,
};
use iommu_pgtable::{Armv8Stage1, Armv8Stage2};
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

/// One of the two stages, as that crate has it.
pub trait Regime: Bits {
    /// The crate's name for it.
    type Regime: TranslationRegime;
    /// What a writable leaf holds beside the address.
    const LEAF: <Self::Regime as TranslationRegime>::Attributes;
    /// Makes a leaf clean: bits to set, bits to clear.
    const CLEAN: [<Self::Regime as TranslationRegime>::Attributes; 2];

    /// An empty table of four levels.
    fn empty<const OFFSET: u64>() -> Mapping<Frames<OFFSET>, Self::Regime>;
}

impl Regime for Armv8Stage1 {
    type Regime = El1And0;
    const LEAF: El1Attributes = El1Attributes::VALID
        .union(El1Attributes::USER)
        .union(El1Attributes::INNER_SHAREABLE)
        .union(El1Attributes::ACCESSED)
        .union(El1Attributes::NON_GLOBAL)
        .union(El1Attributes::PXN)
        .union(El1Attributes::UXN);
    const CLEAN: [El1Attributes; 2] = [El1Attributes::READ_ONLY, El1Attributes::empty()];

    fn empty<const OFFSET: u64>() -> Mapping<Frames<OFFSET>, El1And0> {
        Mapping::with_asid_and_va_range(Frames, 1, 0, El1And0, VaRange::Lower)
    }
}

impl Regime for Armv8Stage2 {
    type Regime = Stage2;
    const LEAF: Stage2Attributes = Stage2Attributes::VALID
        .union(Stage2Attributes::MEMATTR_NORMAL_INNER_WB)
        .union(Stage2Attributes::MEMATTR_NORMAL_OUTER_WB)
        .union(Stage2Attributes::S2AP_ACCESS_RW)
        .union(Stage2Attributes::SH_INNER)
        .union(Stage2Attributes::ACCESS_FLAG)
        .union(Stage2Attributes::XN);
    const CLEAN: [Stage2Attributes; 2] = [Stage2Attributes::empty(), Stage2Attributes::S2AP_ACCESS_WO];

    fn empty<const OFFSET: u64>() -> Mapping<Frames<OFFSET>, Stage2> {
        Mapping::new(Frames, 0, Stage2)
    }
}

/// The pool.
pub struct Frames<const OFFSET: u64>;

impl<const OFFSET: u64, A: PagingAttributes> Translation<A> for Frames<OFFSET> {
    fn allocate_table(&mut self) -> (NonNull<PageTable<A>>, PhysicalAddress) {
        let phys = Host::<OFFSET>::take_zeroed();
        let table = NonNull::new(Host::<OFFSET>::pointer(phys).cast()).expect("a frame");
        (table, PhysicalAddress(phys as usize))
    }

    unsafe fn deallocate_table(&mut self, table: NonNull<PageTable<A>>) {
        Host::<OFFSET>::give_back(table.as_ptr().expose_provenance() as u64 - OFFSET);
    }

    #[inline]
    fn physical_to_virtual(&self, phys: PhysicalAddress) -> NonNull<PageTable<A>> {
        NonNull::new(Host::<OFFSET>::pointer(phys.0 as u64).cast()).expect("a frame")
    }
}

/// A table of that crate, which hardware does not use: nothing is invalidated.
pub struct ArmRange<const OFFSET: u64, F: Regime>(Mapping<Frames<OFFSET>, F::Regime>);

impl<const OFFSET: u64, F: Regime> ArmRange<OFFSET, F> {
    /// A table that maps nothing.
    pub fn new() -> Self {
        Self(F::empty())
    }
}

fn region(start: u64, len: u64) -> MemoryRegion {
    MemoryRegion::new(start as usize, (start + len) as usize)
}

type Attributes<F> = <<F as Regime>::Regime as TranslationRegime>::Attributes;

impl<const OFFSET: u64, F: Regime> Table for ArmRange<OFFSET, F> {
    #[inline]
    fn map(&mut self, slot: Slot, len: u64, _: u64) {
        let phys = PhysicalAddress(slot.phys as usize);
        let mapped = self.0.map_range(&region(slot.iova, len), phys, F::LEAF, Constraints::empty());
        mapped.expect("a range of the table");
    }

    #[inline]
    fn unmap(&mut self, slot: Slot, len: u64, _: u64) {
        let none = Attributes::<F>::default();
        let unmapped = self.0.map_range(&region(slot.iova, len), PhysicalAddress(0), none, Constraints::empty());
        unmapped.expect("a range of the table");
    }

    #[inline]
    fn translate(&self, iova: u64) -> Option<u64> {
        let mut leads = None;
        let walked = self.0.walk_range(&region(iova & !0xfff, 4096), &mut |_, descriptor, level| {
            if descriptor.is_valid() {
                let inside = iova as usize & ((4096 << (9 * (3 - level))) - 1);
                leads = Some((descriptor.output_address().0 + inside) as u64);
            }
            Ok(())
        });
        walked.expect("a range of the table");
        leads
    }

    fn soil(&mut self, slot: Slot, len: u64) {
        for iova in (slot.iova..slot.iova + len).step_by(4096) {
            let word = walk::<OFFSET, F>(self.0.root_address().0 as u64, iova, 0).expect("mapped");
            word.store(F::written(word.load(Ordering::Relaxed)), Ordering::Relaxed);
        }
    }

    #[inline]
    fn scan(&mut self, slot: Slot, len: u64) -> u64 {
        // The crate takes a closure that may not change what it captures.
        let dirty = std::cell::Cell::new(0);
        let clean = |region: &MemoryRegion, leaf: &mut UpdatableDescriptor<Attributes<F>>| {
            let flags = leaf.flags();
            if leaf.level() == 3 && (flags | F::CLEAN[0]) - F::CLEAN[1] != flags {
                dirty.set(dirty.get() + region.len() as u64);
                return leaf.modify_flags(F::CLEAN[0], F::CLEAN[1]);
            }
            Ok(())
        };
        self.0.modify_range(&region(slot.iova, len), &clean).expect("a range of the table");
        dirty.get()
    }
}

//! `x86_64`'s `OffsetPageTable`: page at a time, with the page's size as a type.

use crate::bits::Bits;
use crate::common::host::Host;
use crate::limit::walk;
use crate::work::{Slot, Table};
use ::x86_64::structures::paging::mapper::{CleanUp, MapToError, Translate, TranslateResult, UnmapError};
use ::x86_64::structures::paging::{
    FrameAllocator, FrameDeallocator, Mapper, OffsetPageTable, Page, PageSize, PageTable, PageTableFlags, PhysFrame,
    Size1GiB, Size2MiB, Size4KiB,
};
use ::x86_64::{PhysAddr, VirtAddr};
use iommu_pgtable::VtdFirstStage;
use std::fmt::Debug;
use std::sync::atomic::Ordering;

struct Frames<const OFFSET: u64>;

// SAFETY: the pool hands out frames that nobody else uses.
unsafe impl<const OFFSET: u64> FrameAllocator<Size4KiB> for Frames<OFFSET> {
    #[inline]
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        // The crate fills what it gets with zeros.
        Some(PhysFrame::containing_address(PhysAddr::new(Host::<OFFSET>::take())))
    }
}

impl<const OFFSET: u64> FrameDeallocator<Size4KiB> for Frames<OFFSET> {
    #[inline]
    unsafe fn deallocate_frame(&mut self, frame: PhysFrame) {
        Host::<OFFSET>::give_back(frame.start_address().as_u64());
    }
}

/// A table of that crate. With `CLEANS` unmaps end in a clean-up, which frees what became empty. What is left
/// is never given back: the crate does not do it.
pub struct Mapper64<const OFFSET: u64, const CLEANS: bool> {
    root: u64,
    mapper: OffsetPageTable<'static>,
}

impl<const OFFSET: u64, const CLEANS: bool> Mapper64<OFFSET, CLEANS> {
    /// A table that maps nothing.
    pub fn new() -> Self {
        let root = Host::<OFFSET>::take_zeroed();
        // SAFETY: the frame is this table's for ever, and every frame is reached at the offset.
        let mapper = unsafe {
            let table: &mut PageTable = &mut *Host::<OFFSET>::pointer(root).cast();
            OffsetPageTable::new(table, VirtAddr::new(OFFSET))
        };
        Self { root, mapper }
    }
}

const FLAGS: PageTableFlags =
    PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE).union(PageTableFlags::USER_ACCESSIBLE);

fn page<S: PageSize>(iova: u64) -> Page<S> {
    // SAFETY: every slot lies on borders of its pages, in the lower half.
    unsafe { Page::from_start_address_unchecked(VirtAddr::new_unsafe(iova)) }
}

#[inline]
fn map<S: PageSize + Debug, M: Mapper<S>, const OFFSET: u64>(mapper: &mut M, slot: Slot, len: u64)
where
    MapToError<S>: Debug,
{
    for offset in (0..len).step_by(S::SIZE as usize) {
        // SAFETY: as for `page`; nobody reaches memory by these tables.
        let flush = unsafe {
            let frame = PhysFrame::from_start_address_unchecked(PhysAddr::new_unsafe(slot.phys + offset));
            mapper.map_to(page(slot.iova + offset), frame, FLAGS, &mut Frames::<OFFSET>)
        };
        flush.expect("free").ignore();
    }
}

#[inline]
fn unmap<S: PageSize, M: Mapper<S>>(mapper: &mut M, slot: Slot, len: u64)
where
    UnmapError: Debug,
{
    for offset in (0..len).step_by(S::SIZE as usize) {
        let (_, flush) = mapper.unmap(page(slot.iova + offset)).expect("mapped");
        flush.ignore();
    }
}

impl<const OFFSET: u64, const CLEANS: bool> Table for Mapper64<OFFSET, CLEANS> {
    #[inline]
    fn map(&mut self, slot: Slot, len: u64, leaf: u64) {
        match leaf {
            Size4KiB::SIZE => map::<Size4KiB, _, OFFSET>(&mut self.mapper, slot, len),
            Size2MiB::SIZE => map::<Size2MiB, _, OFFSET>(&mut self.mapper, slot, len),
            _ => map::<Size1GiB, _, OFFSET>(&mut self.mapper, slot, len),
        }
    }

    #[inline]
    fn unmap(&mut self, slot: Slot, len: u64, leaf: u64) {
        match leaf {
            Size4KiB::SIZE => unmap::<Size4KiB, _>(&mut self.mapper, slot, len),
            Size2MiB::SIZE => unmap::<Size2MiB, _>(&mut self.mapper, slot, len),
            _ => unmap::<Size1GiB, _>(&mut self.mapper, slot, len),
        }
        if CLEANS {
            let range = Page::range_inclusive(page(slot.iova), page(slot.iova + len - Size4KiB::SIZE));
            // SAFETY: every table came from the pool, and nothing else holds one.
            unsafe { self.mapper.clean_up_addr_range(range, &mut Frames::<OFFSET>) };
        }
    }

    #[inline]
    fn translate(&self, iova: u64) -> Option<u64> {
        // SAFETY: as for `page`.
        self.mapper.translate_addr(unsafe { VirtAddr::new_unsafe(iova) }).map(PhysAddr::as_u64)
    }

    fn soil(&mut self, slot: Slot, len: u64) {
        for iova in (slot.iova..slot.iova + len).step_by(4096) {
            let word = walk::<OFFSET, VtdFirstStage>(self.root, iova, 0).expect("mapped");
            word.store(VtdFirstStage::written(word.load(Ordering::Relaxed)), Ordering::Relaxed);
        }
    }

    #[inline]
    fn scan(&mut self, slot: Slot, len: u64) -> u64 {
        let mut dirty = 0;
        for iova in (slot.iova..slot.iova + len).step_by(4096) {
            // SAFETY: as for `page`.
            let leads = self.mapper.translate(unsafe { VirtAddr::new_unsafe(iova) });
            if let TranslateResult::Mapped { flags, .. } = leads
                && flags.contains(PageTableFlags::DIRTY)
            {
                // SAFETY: nobody reaches memory by these tables.
                let flush = unsafe { self.mapper.update_flags(page::<Size4KiB>(iova), flags - PageTableFlags::DIRTY) };
                flush.expect("mapped").ignore();
                dirty += 4096;
            }
        }
        dirty
    }
}

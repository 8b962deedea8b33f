//! `page_table_multiarch`: page at a time. Its walker with entries made here, because its own are those of the machine
//! that it is compiled for.

use crate::bits::{ADDRESS, Bits};
use crate::common::host::Host;
use crate::work::{Slot, Table};
use ::page_table_multiarch::{GenericPTE, MappingFlags, PageTable64, PagingHandler, PagingMetaData};
use memory_addr::{PhysAddr, VirtAddr};
use std::fmt::Debug;
use std::hint::black_box;
use std::marker::PhantomData;

#[derive(Clone, Copy, Debug)]
struct Entry<B>(u64, PhantomData<B>);

impl<B: Bits> GenericPTE for Entry<B> {
    #[inline]
    fn new_page(phys: PhysAddr, flags: MappingFlags, is_huge: bool) -> Self {
        let mut entry = Self(0, PhantomData);
        entry.set_paddr(phys);
        entry.set_flags(flags, is_huge);
        entry
    }

    #[inline]
    fn new_table(phys: PhysAddr) -> Self {
        Self(phys.as_usize() as u64 & ADDRESS | B::TABLE, PhantomData)
    }

    #[inline]
    fn paddr(&self) -> PhysAddr {
        PhysAddr::from((self.0 & ADDRESS) as usize)
    }

    #[inline]
    fn flags(&self) -> MappingFlags {
        let write = if self.0 & B::WRITE != 0 { MappingFlags::WRITE } else { MappingFlags::empty() };
        MappingFlags::READ | write
    }

    #[inline]
    fn set_paddr(&mut self, phys: PhysAddr) {
        self.0 = self.0 & !ADDRESS | phys.as_usize() as u64 & ADDRESS;
    }

    #[inline]
    fn set_flags(&mut self, flags: MappingFlags, is_huge: bool) {
        let leaf = if is_huge { B::HUGE } else { B::PAGE };
        let write = if flags.contains(MappingFlags::WRITE) { B::WRITE } else { 0 };
        self.0 = self.0 & ADDRESS | leaf | write;
    }

    #[inline]
    fn bits(self) -> usize {
        self.0 as usize
    }

    #[inline]
    fn is_unused(&self) -> bool {
        self.0 == 0
    }

    #[inline]
    fn is_present(&self) -> bool {
        B::is_there(self.0)
    }

    #[inline]
    fn is_huge(&self) -> bool {
        B::is_there(self.0) && self.0 & B::NEXT_MASK != B::NEXT
    }

    #[inline]
    fn clear(&mut self) {
        self.0 = 0;
    }
}

/// Four levels, 48 bits, no TLB.
struct Shape;

impl PagingMetaData for Shape {
    const LEVELS: usize = 4;
    const PA_MAX_BITS: usize = 48;
    const VA_MAX_BITS: usize = 48;
    type VirtAddr = VirtAddr;

    #[inline]
    fn flush_tlb(_: Option<VirtAddr>) {}
}

struct Handler<const OFFSET: u64>;

impl<const OFFSET: u64> PagingHandler for Handler<OFFSET> {
    fn alloc_frames(num: usize, _: usize) -> Option<PhysAddr> {
        // The crate fills what it gets with zeros.
        (num == 1).then(|| PhysAddr::from(Host::<OFFSET>::take() as usize))
    }

    fn dealloc_frames(phys: PhysAddr, _: usize) {
        Host::<OFFSET>::give_back(phys.as_usize() as u64);
    }

    #[inline]
    fn phys_to_virt(phys: PhysAddr) -> VirtAddr {
        VirtAddr::from(Host::<OFFSET>::pointer(phys.as_usize() as u64).expose_provenance())
    }
}

/// A table of that crate. It never frees what becomes empty; where it is to make tables anew, `ANEW`, it is itself made
/// anew, which is not timed.
pub struct Multiarch<const OFFSET: u64, B: Bits, const ANEW: bool>(PageTable64<Shape, Entry<B>, Handler<OFFSET>>);

impl<const OFFSET: u64, B: Bits, const ANEW: bool> Multiarch<OFFSET, B, ANEW> {
    /// A table that maps nothing.
    pub fn new() -> Self {
        Self(PageTable64::try_new().expect("a frame"))
    }
}

impl<const OFFSET: u64, B: Bits, const ANEW: bool> Table for Multiarch<OFFSET, B, ANEW> {
    #[inline]
    fn map(&mut self, slot: Slot, len: u64, _: u64) {
        let to_phys = |virt: VirtAddr| PhysAddr::from((virt.as_usize() as u64 - slot.iova + slot.phys) as usize);
        let flags = MappingFlags::READ | MappingFlags::WRITE;
        let start = VirtAddr::from(slot.iova as usize);
        // Large pages by alignment alone, as everywhere here.
        let mapped = self.0.cursor().map_region(start, to_phys, len as usize, flags, true);
        mapped.expect("free");
    }

    #[inline]
    fn unmap(&mut self, slot: Slot, len: u64, _: u64) {
        let unmapped = self.0.cursor().unmap_region(VirtAddr::from(slot.iova as usize), len as usize);
        unmapped.expect("mapped");
    }

    #[inline]
    fn translate(&self, iova: u64) -> Option<u64> {
        let (phys, _, _) = black_box(self.0.query(VirtAddr::from(iova as usize))).ok()?;
        Some(phys.as_usize() as u64)
    }

    fn renew(&mut self) {
        if ANEW {
            *self = Self::new();
        }
    }

    fn soil(&mut self, _: Slot, _: u64) {
        unreachable!("the crate knows no dirty state");
    }

    fn scan(&mut self, _: Slot, _: u64) -> u64 {
        unreachable!("the crate knows no dirty state");
    }
}

//! Owned RAM that devices may write to: reached by volatile copies only, never by a reference.

use super::{alloc_frames, free_frames};
use alloc::vec::Vec;
use core::ops::Range;
use iommu_core::addr::{PAGE_SIZE, PhysAddr, PhysExtent};

/// 2^order contiguous frames, given back when dropped. Whoever maps them for a device unmaps them first.
#[derive(Debug)]
pub struct Ram {
    phys: PhysAddr,
    order: u8,
}

impl Ram {
    /// Takes 2^`order` frames with undefined content; `None` where there are none.
    pub fn alloc(order: u8) -> Option<Self> {
        Some(Self { phys: alloc_frames(order, 64)?, order })
    }

    /// The frames.
    pub fn extent(&self) -> PhysExtent {
        PhysExtent::new(self.phys, PAGE_SIZE << self.order)
    }

    /// Copies `bytes` to `offset`. What lies past the end is left out.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        for (at, byte) in self.inside(offset, bytes.len()).zip(bytes) {
            // SAFETY: the address lies in frames that this value owns and that are mapped to themselves; devices may
            // write at the same time, which a volatile access of one byte tolerates.
            unsafe { (at as *mut u8).write_volatile(*byte) };
        }
    }

    /// Copies from `offset` to `bytes`. What lies past the end is left as it was.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) {
        for (at, byte) in self.inside(offset, bytes.len()).zip(bytes) {
            // SAFETY: as in `write`.
            *byte = unsafe { (at as *const u8).read_volatile() };
        }
    }

    fn inside(&self, offset: u64, len: usize) -> Range<u64> {
        let extent = self.extent();
        let start = offset.min(extent.len);
        let end = offset.saturating_add(len as u64).min(extent.len);
        self.phys.get() + start..self.phys.get() + end
    }
}

/// A copy of `len` bytes of RAM from `phys`, for comparing before and after.
///
/// # Safety
///
/// There is RAM at `phys`.
pub unsafe fn peek(phys: PhysAddr, len: usize) -> Vec<u8> {
    // SAFETY: as the caller promises; all RAM is mapped to itself for good and readable, and a volatile load of one byte
    // tolerates whoever writes.
    (phys.get()..phys.get() + len as u64).map(|at| unsafe { (at as *const u8).read_volatile() }).collect()
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: the frames came from `alloc_frames` with this order, and their owner goes.
        unsafe { free_frames(self.phys, self.order) };
    }
}

//! What the demo provides to the drivers: its frames, its identity mapping, the CPU's caches and clock.

use crate::arch::paging::{self, MapError};
use crate::arch::{cache, time};
use crate::memory;
use core::ptr::{self, NonNull};
use iommu_core::addr::PhysAddr;
use iommu_hal::regs::Mmio;
use iommu_hal::{FrameRequest, Hal, WalkerMemory};

/// The demo as an embedder. Holds nothing: memory, caches and time are the machine's.
#[derive(Clone, Copy, Default, Debug)]
pub struct DemoHal;

// SAFETY: frames come from the demo's allocator, are zeroed, and flushed where the request is for a walker that does not
// snoop; all RAM is mapped to itself for good; the cache functions do what is asked of them.
unsafe impl Hal for DemoHal {
    fn alloc_frames(&self, request: FrameRequest) -> Option<PhysAddr> {
        let frames = memory::alloc_frames(request.order, request.address_bits)?;
        // SAFETY: the frames were just allocated, so nobody else uses them, and they are mapped for writing.
        unsafe { self.phys_to_virt(frames).write_bytes(0, request.len()) };
        if request.memory == WalkerMemory::NonCoherent {
            self.clean(frames, request.len());
        }
        Some(frames)
    }

    unsafe fn free_frames(&self, frames: PhysAddr, request: FrameRequest) {
        // SAFETY: the caller promises the same.
        unsafe { memory::free_frames(frames, request.order) };
    }

    fn phys_to_virt(&self, phys: PhysAddr) -> NonNull<u8> {
        // Page 0 is never allocated.
        NonNull::new(ptr::with_exposed_provenance_mut(phys.get() as usize)).unwrap_or(NonNull::dangling())
    }

    fn clean(&self, phys: PhysAddr, len: usize) {
        cache::clean(phys, len);
    }

    fn invalidate(&self, phys: PhysAddr, len: usize) {
        cache::invalidate(phys, len);
    }

    fn now(&self) -> u64 {
        time::now()
    }
}

/// Maps a window of device registers.
///
/// # Safety
///
/// There are `len` bytes of registers at `phys`, a multiple of 8; nothing else accesses them while the window is in
/// use; and DMA that they set off is accounted for.
///
/// # Errors
///
/// Where the range cannot be mapped.
pub unsafe fn map_registers(phys: PhysAddr, len: usize) -> Result<Mmio, MapError> {
    let base = paging::map_device(phys, len)?;
    // SAFETY: the range has just been mapped for good as device memory; the rest is as the caller promises.
    Ok(unsafe { Mmio::new(base, len) })
}

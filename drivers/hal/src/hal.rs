//! The embedder's side.

use core::ptr::NonNull;
use iommu_core::addr::PhysAddr;

/// How a frame will be read by the hardware that walks it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkerMemory {
    /// Hardware snoops the caches, or the memory is mapped uncached: a store is visible without maintenance.
    Coherent,
    /// Hardware does not snoop: the driver calls [`Hal::clean`] after its stores.
    NonCoherent,
}

/// What a driver asks of [`Hal::alloc_frames`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameRequest {
    /// 2^`order` frames of 4 KiB, physically contiguous and aligned to their total size.
    pub order: u8,
    /// Every byte must lie below 2^`address_bits`.
    pub address_bits: u8,
    /// Who reads them.
    pub memory: WalkerMemory,
}

impl FrameRequest {
    /// One frame of 4 KiB.
    pub const fn single(address_bits: u8, memory: WalkerMemory) -> Self {
        Self { order: 0, address_bits, memory }
    }

    /// Length in bytes.
    pub const fn len(&self) -> usize {
        4096 << self.order
    }

    /// Never: a request is for at least one frame.
    pub const fn is_empty(&self) -> bool {
        false
    }
}

/// What the drivers need of the world around them. Methods may be called from any CPU at once.
///
/// # Implementation safety
///
/// An implementation guarantees that
///
/// * [`alloc_frames`](Hal::alloc_frames) returns memory as requested, that nothing else uses until it is freed, and
///   whose content is zero *in memory* as well as in caches where the request says [`WalkerMemory::NonCoherent`];
/// * [`phys_to_virt`](Hal::phys_to_virt) of any address inside such frames is valid for reads and writes up to the end
///   of the frames, aligned like the physical address, for as long as they are allocated;
/// * [`clean`](Hal::clean) and [`invalidate`](Hal::invalidate) do what they say for the agents that do not snoop.
pub unsafe trait Hal: Send + Sync {
    /// Allocates zeroed, naturally aligned, physically contiguous frames, and returns their physical address; `None`
    /// where there are none. Never aborts.
    fn alloc_frames(&self, request: FrameRequest) -> Option<PhysAddr>;

    /// Gives frames back.
    ///
    /// # Safety
    ///
    /// `frames` came from [`alloc_frames`](Hal::alloc_frames) with the same `request`, was not freed since, and neither
    /// software nor any device will touch it again: the invalidation that cut hardware off has completed.
    unsafe fn free_frames(&self, frames: PhysAddr, request: FrameRequest);

    /// Where this CPU reaches the memory at `phys`, an address inside of frames that are allocated.
    fn phys_to_virt(&self, phys: PhysAddr) -> NonNull<u8>;

    /// Writes the `len` bytes from `phys` back to memory and returns when agents that do not snoop see them. Orders
    /// them before every later store.
    fn clean(&self, phys: PhysAddr, len: usize);

    /// Discards cached copies of the `len` bytes from `phys`, so that later loads see what an agent that does not
    /// snoop has written.
    fn invalidate(&self, phys: PhysAddr, len: usize);

    /// Nanoseconds since some fixed moment; never goes back.
    fn now(&self) -> u64;

    /// Called between two polls of a wait.
    fn relax(&self) {
        core::hint::spin_loop();
    }

    /// Called after each store to memory that a device may read, with the address of the 8 bytes written. A memory
    /// that checks publish order takes its snapshot here; others leave it empty and pay nothing.
    #[inline]
    fn stored(&self, phys: PhysAddr) {
        let _ = phys;
    }
}

macro_rules! forward {
    ($($pointer:ty),*) => { $(
        // SAFETY: every method forwards to an implementation that keeps the promises.
        unsafe impl<T: Hal + ?Sized> Hal for $pointer {
            fn alloc_frames(&self, request: FrameRequest) -> Option<PhysAddr> {
                (**self).alloc_frames(request)
            }
            unsafe fn free_frames(&self, frames: PhysAddr, request: FrameRequest) {
                // SAFETY: the caller keeps the same promises.
                unsafe { (**self).free_frames(frames, request) }
            }
            fn phys_to_virt(&self, phys: PhysAddr) -> NonNull<u8> {
                (**self).phys_to_virt(phys)
            }
            fn clean(&self, phys: PhysAddr, len: usize) {
                (**self).clean(phys, len)
            }
            fn invalidate(&self, phys: PhysAddr, len: usize) {
                (**self).invalidate(phys, len)
            }
            fn now(&self) -> u64 {
                (**self).now()
            }
            fn relax(&self) {
                (**self).relax()
            }
            #[inline]
            fn stored(&self, phys: PhysAddr) {
                (**self).stored(phys)
            }
        }
    )* };
}

forward!(&T, alloc::sync::Arc<T>);

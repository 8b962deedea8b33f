//! The embedder's side: frames from a pool, reached at a fixed distance from their physical address.
//!
//! The same pool serves every contender. It counts what is taken, so that an operation can be seen not to allocate.

use iommu_core::addr::PhysAddr;
use iommu_hal::{FrameRequest, Hal, WalkerMemory};
use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Bytes of a frame.
pub const FRAME: usize = 4096;
/// Frames that the pool takes from the system at a time.
const SLAB: usize = 1024;

/// Addresses of free frames. The one that came back last is the next to go.
static POOL: Mutex<Vec<usize>> = Mutex::new(Vec::new());
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// How many frames were ever taken.
pub fn taken() -> usize {
    TAKEN.load(Ordering::Relaxed)
}

/// Memory whose physical addresses lie `OFFSET` below the virtual ones, a multiple of the page size.
///
/// What is generic over it is compiled anew for each offset. The copies lie at other places of the program, so that
/// their median says more than one alone, whose speed hangs on how its loops happen to be aligned.
#[derive(Clone, Copy)]
pub struct Host<const OFFSET: u64>;

impl<const OFFSET: u64> Host<OFFSET> {
    /// A frame with any content.
    pub fn take() -> u64 {
        TAKEN.fetch_add(1, Ordering::Relaxed);
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.is_empty() {
            let layout = Layout::from_size_align(SLAB * FRAME, FRAME).expect("a size below isize::MAX");
            // SAFETY: the layout is not empty.
            let slab = unsafe { alloc(layout) };
            assert!(!slab.is_null(), "no memory");
            // Rising addresses, as a fresh machine hands them out.
            pool.extend((0..SLAB).rev().map(|frame| slab.expose_provenance() + frame * FRAME));
        }
        pool.pop().expect("just filled") as u64 - OFFSET
    }

    /// A frame of zeros.
    #[inline]
    pub fn take_zeroed() -> u64 {
        let phys = Self::take();
        // SAFETY: the frame is this caller's alone.
        unsafe { Self::pointer(phys).write_bytes(0, FRAME) };
        phys
    }

    /// Gives back a frame of [`Host::take`], which nobody uses any more.
    pub fn give_back(phys: u64) {
        POOL.lock().unwrap_or_else(PoisonError::into_inner).push((phys + OFFSET) as usize);
    }

    /// Where the frame at `phys` is reached.
    #[inline]
    pub fn pointer(phys: u64) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut((phys + OFFSET) as usize)
    }
}

fn layout(request: FrameRequest) -> Layout {
    Layout::from_size_align(request.len(), request.len()).expect("a power of two")
}

// SAFETY: frames come from the pool or from the system's allocator, zeroed, aligned to their size and used by nobody
// else; addresses are translated by a constant that is a multiple of the page size. Frames for walkers that do not snoop
// are refused, so that there is nothing to clean.
unsafe impl<const OFFSET: u64> Hal for Host<OFFSET> {
    #[inline]
    fn alloc_frames(&self, request: FrameRequest) -> Option<PhysAddr> {
        if request.memory == WalkerMemory::NonCoherent {
            return None;
        }
        let phys = if request.order == 0 {
            Self::take_zeroed()
        } else {
            TAKEN.fetch_add(1, Ordering::Relaxed);
            // SAFETY: the layout is not empty.
            let frames = unsafe { alloc_zeroed(layout(request)) };
            NonNull::new(frames)?.as_ptr().expose_provenance() as u64 - OFFSET
        };
        assert!(phys >> request.address_bits == 0, "memory of a process lies above the offset and below 2^47");
        Some(PhysAddr::new(phys))
    }

    #[inline]
    unsafe fn free_frames(&self, frames: PhysAddr, request: FrameRequest) {
        if request.order == 0 {
            Self::give_back(frames.get());
        } else {
            // SAFETY: the caller promises that they came from `alloc_frames` with this request.
            unsafe { dealloc(Self::pointer(frames.get()), layout(request)) };
        }
    }

    #[inline]
    fn phys_to_virt(&self, phys: PhysAddr) -> NonNull<u8> {
        // SAFETY: `phys` lies in frames that are allocated, which do not stand at address 0.
        unsafe { NonNull::new_unchecked(Self::pointer(phys.get())) }
    }

    fn clean(&self, _: PhysAddr, _: usize) {}

    fn invalidate(&self, _: PhysAddr, _: usize) {}

    fn now(&self) -> u64 {
        static START: Mutex<Option<Instant>> = Mutex::new(None);
        let mut start = START.lock().unwrap_or_else(PoisonError::into_inner);
        start.get_or_insert_with(Instant::now).elapsed().as_nanos() as u64
    }
}

//! What any embedder provides: memory, the mapping of it, a clock, a heap and an end. As little of each as there can be.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use iommu_core::addr::PhysAddr;
use iommu_hal::{FrameRequest, Hal};

/// Memory that is handed out from one end and never taken back.
#[repr(align(4096))]
struct Arena<const LEN: usize> {
    bytes: UnsafeCell<[u8; LEN]>,
    used: AtomicUsize,
}

// SAFETY: the counter gives each part of the bytes to one caller only.
unsafe impl<const LEN: usize> Sync for Arena<LEN> {}

impl<const LEN: usize> Arena<LEN> {
    const fn new() -> Self {
        Self { bytes: UnsafeCell::new([0; LEN]), used: AtomicUsize::new(0) }
    }

    /// The next `len` bytes, `align` of them aligned; a power of two, 4 KiB at most.
    fn take(&self, len: usize, align: usize) -> Option<NonNull<u8>> {
        let start = |used: usize| used.checked_next_multiple_of(align);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            start(used)?.checked_add(len).filter(|end| *end <= LEN)
        });
        let at = start(taken.ok()?)?;
        // SAFETY: it ends within the bytes.
        NonNull::new(unsafe { self.bytes.get().cast::<u8>().add(at) })
    }
}

static FRAMES: Arena<0x10_0000> = Arena::new();

#[global_allocator]
static HEAP: Heap = Heap(Arena::new());

struct Heap(Arena<0x1_0000>);

// SAFETY: every allocation is memory of its own, of the size and alignment asked for.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() > 4096 {
            return ptr::null_mut();
        }
        self.0.take(layout.size(), layout.align()).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

/// A machine whose memory is mapped to itself, with caches that hardware snoops.
#[derive(Clone, Copy)]
pub(crate) struct Machine;

// SAFETY: frames are zero, used once, and mapped to themselves for good; nothing needs to be cleaned.
unsafe impl Hal for Machine {
    fn alloc_frames(&self, request: FrameRequest) -> Option<PhysAddr> {
        FRAMES.take(request.len(), 4096).map(|frames| PhysAddr::new(frames.as_ptr().expose_provenance() as u64))
    }

    unsafe fn free_frames(&self, _: PhysAddr, _: FrameRequest) {}

    fn phys_to_virt(&self, phys: PhysAddr) -> NonNull<u8> {
        NonNull::new(ptr::with_exposed_provenance_mut(phys.get() as usize)).unwrap_or(NonNull::dangling())
    }

    fn clean(&self, _: PhysAddr, _: usize) {}

    fn invalidate(&self, _: PhysAddr, _: usize) {}

    fn now(&self) -> u64 {
        static LOOKS: AtomicU64 = AtomicU64::new(0);
        LOOKS.fetch_add(1000, Ordering::Relaxed)
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}

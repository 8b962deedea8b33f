//! The heap. An allocation that does not fit gives null, which the fallible calls of `alloc` pass on.
//!
//! The frame allocator's own records have an arena to themselves: they are needed before there is a heap, and an
//! exhausted heap must not keep frames from being freed.

use super::frames;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};
use talc::TalcLock;
use talc::source::{Claim, Manual};

/// Frames that the heap consists of, as an order: 64 MiB.
const HEAP_ORDER: u8 = 14;
/// Size of the frame allocator's arena in bytes; enough for some twenty thousand separate free runs.
const BOOKKEEPING_SIZE: usize = 512 * 1024;

#[global_allocator]
static HEAP: Heap = Heap {
    main: TalcLock::new(Manual),
    // SAFETY: the array is used through this allocator only.
    bookkeeping: TalcLock::new(unsafe { Claim::array(&raw mut ARENA) }),
    for_bookkeeping: AtomicBool::new(false),
};

static mut ARENA: [u8; BOOKKEEPING_SIZE] = [0; BOOKKEEPING_SIZE];

type Lock = spin::Mutex<()>;

struct Heap {
    main: TalcLock<Lock, Manual>,
    bookkeeping: TalcLock<Lock, Claim>,
    /// Whether the frame allocator is at work.
    for_bookkeeping: AtomicBool,
}

impl Heap {
    fn owner_is_bookkeeping(pointer: *mut u8) -> bool {
        let start = (&raw const ARENA).addr();
        (start..start + BOOKKEEPING_SIZE).contains(&pointer.addr())
    }
}

// SAFETY: each call goes to one of two allocators; which one a pointer belongs to is told by its address.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if self.for_bookkeeping.load(Ordering::Relaxed) {
            // SAFETY: as the caller promises.
            unsafe { self.bookkeeping.alloc(layout) }
        } else {
            // SAFETY: as the caller promises.
            unsafe { self.main.alloc(layout) }
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if Self::owner_is_bookkeeping(pointer) {
            // SAFETY: as the caller promises, and the pointer is this allocator's.
            unsafe { self.bookkeeping.dealloc(pointer, layout) }
        } else {
            // SAFETY: as the caller promises, and the pointer is this allocator's.
            unsafe { self.main.dealloc(pointer, layout) }
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if Self::owner_is_bookkeeping(pointer) {
            // SAFETY: as the caller promises, and the pointer is this allocator's.
            unsafe { self.bookkeeping.realloc(pointer, layout, new_size) }
        } else {
            // SAFETY: as the caller promises, and the pointer is this allocator's.
            unsafe { self.main.realloc(pointer, layout, new_size) }
        }
    }
}

/// Runs `work` with its allocations made in the frame allocator's arena.
pub(super) fn with_bookkeeping<T>(work: impl FnOnce() -> T) -> T {
    let before = HEAP.for_bookkeeping.swap(true, Ordering::Relaxed);
    let result = work();
    HEAP.for_bookkeeping.store(before, Ordering::Relaxed);
    result
}

/// Gives the heap its memory. Until then every allocation fails.
pub fn init() {
    let start = frames::alloc_frames(HEAP_ORDER, 64).expect("no memory for the heap");
    let base = ptr::with_exposed_provenance_mut(start.get() as usize);
    // SAFETY: the frames were just allocated for this and are never given back.
    let claimed = unsafe { HEAP.main.lock().claim(base, 4096 << HEAP_ORDER) };
    assert!(claimed.is_some(), "the heap does not take its memory");
}

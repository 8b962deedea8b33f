//! The bytes behind [`TestMemory`](super::TestMemory): an allocation congruent to the physical addresses it stands for.

use alloc::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;

/// Words of 8 bytes in a frame.
pub(super) const WORDS: usize = 512;

/// Alignment up to which a virtual address is congruent to the physical one, at most: the largest leaf in use.
const ALIGN: usize = 1 << 30;

pub(super) struct Arena {
    allocation: NonNull<u8>,
    layout: Layout,
    /// Where the memory begins inside of the allocation.
    offset: usize,
    frames: usize,
}

// SAFETY: the arena owns its allocation, and reaches it by atomics only.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Zeroed memory for `frames` frames, not zero, that stands for physical addresses from `base` on.
    pub(super) fn new(base: u64, frames: usize) -> Self {
        Self::with_alignment(base, frames, (frames * WORDS * 8).next_power_of_two().min(ALIGN))
    }

    fn with_alignment(base: u64, frames: usize, align: usize) -> Self {
        // Alignment by hand: an allocator asked for large alignments clears by writing, and so touches all of it.
        let layout = Layout::from_size_align(frames * WORDS * 8 + align, 8).expect("the size fits");
        // SAFETY: the layout is not empty, since `frames` is not zero.
        let allocation = unsafe { alloc_zeroed(layout) };
        let allocation = NonNull::new(allocation).unwrap_or_else(|| handle_alloc_error(layout));
        let wanted = (base % align as u64) as usize;
        let offset = wanted.wrapping_sub(allocation.addr().get()) & (align - 1);
        Self { allocation, layout, offset, frames }
    }

    /// Zeroed memory for `frames` frames, not zero, that stands for physical addresses which are its own virtual ones.
    pub(super) fn at_its_own_address(frames: usize) -> Self {
        // Congruent to any frame's address is enough.
        let arena = Self::with_alignment(0, frames, 4096);
        debug_assert!(arena.start().is_multiple_of(4096));
        arena
    }

    /// Virtual address of the first byte.
    pub(super) fn start(&self) -> u64 {
        self.pointer(0).expose_provenance().get() as u64
    }

    pub(super) const fn frames(&self) -> usize {
        self.frames
    }

    /// Address of the byte at `offset`, which must lie inside.
    pub(super) fn pointer(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.frames * WORDS * 8);
        // SAFETY: the arena begins less than `align` into the allocation, so all its bytes lie inside.
        unsafe { self.allocation.add(self.offset + offset) }
    }

    /// The word at `index`, counted in 8 bytes, which must lie inside.
    pub(super) fn word(&self, index: usize) -> &AtomicU64 {
        // SAFETY: the pointer is inside, and aligned to 8 since the arena's start is congruent to a frame's address.
        // It is initialised and lives as long as the arena; drivers use atomics and volatile accesses of 8 bytes.
        unsafe { self.pointer(index * 8).cast::<AtomicU64>().as_ref() }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the allocation came from `alloc_zeroed` with this layout, and the arena is its only owner.
        unsafe { dealloc(self.allocation.as_ptr(), self.layout) };
    }
}

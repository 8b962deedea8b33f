//! Views of memory shared with a device.
//!
//! Tables are reached as [`Frame`]s of 512 eight-byte entries, each load and store atomic, so that a walker sees an
//! entry whole. Rings and status cells are reached through [`Ring`], volatile. No reference to plain data in such memory
//! ever exists.

use crate::{FrameRequest, Hal, WalkerMemory, barrier};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use iommu_core::addr::PhysAddr;
use volatile::VolatilePtr;

/// Eight-byte entries in a 4 KiB frame.
pub const ENTRIES: usize = 512;

/// One 4 KiB frame of tables, as 512 little-endian entries of 8 bytes.
///
/// Wider entries (16, 32, 64 bytes) are several of them: whoever writes one keeps the order that its structure demands
/// and stores the word with the valid bit last, by [`Frame::publish`].
pub struct Frame<'h, H: Hal + ?Sized> {
    hal: &'h H,
    phys: PhysAddr,
    words: NonNull<AtomicU64>,
    memory: WalkerMemory,
}

impl<'h, H: Hal + ?Sized> Frame<'h, H> {
    /// A view of the frame at `phys`.
    ///
    /// # Safety
    ///
    /// `phys` is the start of a 4 KiB frame inside of an allocation of this `hal` which is not freed while the view
    /// exists, requested with the same `memory`; software reaches it through such views only.
    pub unsafe fn new(hal: &'h H, phys: PhysAddr, memory: WalkerMemory) -> Self {
        Self { hal, phys, words: hal.phys_to_virt(phys).cast(), memory }
    }

    /// Physical address of the frame.
    pub fn phys(&self) -> PhysAddr {
        self.phys
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        debug_assert!(index < ENTRIES);
        // SAFETY: the index is below 512 by the mask, so the word lies in the frame, which `new` was promised is
        // allocated and accessed atomically only.
        unsafe { self.words.add(index & (ENTRIES - 1)).as_ref() }
    }

    /// The entry at `index`, below 512.
    #[inline]
    pub fn load(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Relaxed)
    }

    /// Stores an entry, or the part of a wider one, that hardware either cannot reach yet or may see at any moment.
    /// Not ordered, and not visible to a walker that does not snoop before [`Frame::clean`].
    #[inline]
    pub fn store(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::Relaxed);
        self.hal.stored(self.phys.wrapping_add(index as u64 * 8));
    }

    /// Stores the word that makes something reachable, after everything stored before has become visible to hardware,
    /// and makes it visible itself.
    ///
    /// What the word leads to must have been cleaned already where the walker does not snoop.
    #[inline]
    pub fn publish(&self, index: usize, value: u64) {
        barrier::before_device_store();
        self.store(index, value);
        self.clean(index, 1);
    }

    /// Makes `count` entries from `first` on visible to a walker that does not snoop; costs nothing for others.
    #[inline]
    pub fn clean(&self, first: usize, count: usize) {
        if self.memory == WalkerMemory::NonCoherent && count != 0 {
            self.hal.clean(self.phys.wrapping_add(first as u64 * 8), count * 8);
        }
    }
}

/// An allocation of frames that gives itself back when dropped, unless it was [leaked](Frames::leak).
pub struct Frames<H: Hal> {
    hal: H,
    phys: PhysAddr,
    request: FrameRequest,
}

impl<H: Hal> Frames<H> {
    /// Allocates frames; `None` where there are none.
    pub fn alloc(hal: H, request: FrameRequest) -> Option<Self> {
        let phys = hal.alloc_frames(request)?;
        Some(Self { hal, phys, request })
    }

    /// Physical address of the first byte. Whoever gives it to hardware takes on a duty: the frames are dropped only
    /// once hardware has confirmed that it no longer uses them, and [leaked](Frames::leak) where it never does.
    pub fn phys(&self) -> PhysAddr {
        self.phys
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.request.len()
    }

    /// Never: at least one frame is held.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The frame number `index` as table entries; `None` past the end.
    pub fn frame(&self, index: usize) -> Option<Frame<'_, H>> {
        let inside = index < 1 << self.request.order;
        // SAFETY: the frame lies in this allocation, which the borrow keeps alive.
        inside
            .then(|| unsafe { Frame::new(&self.hal, self.phys.wrapping_add(index as u64 * 4096), self.request.memory) })
    }

    /// The whole allocation as a ring of 8-byte words. Exclusive, because volatile accesses of two threads would race.
    pub fn ring(&mut self) -> Ring<'_, H> {
        Ring {
            hal: &self.hal,
            phys: self.phys,
            words: NonNull::slice_from_raw_parts(self.hal.phys_to_virt(self.phys).cast(), self.len() / 8),
            memory: self.request.memory,
        }
    }

    /// Keeps the memory allocated for ever: for frames that hardware, out of control, may still read.
    pub fn leak(self) {
        core::mem::forget(self);
    }
}

impl<H: Hal> Drop for Frames<H> {
    fn drop(&mut self) {
        // SAFETY: the frames came from this `hal` with this request; owners drop them only after hardware was cut off,
        // and leak them otherwise.
        unsafe { self.hal.free_frames(self.phys, self.request) };
    }
}

/// Memory that software and a device both read and write: a queue, or a cell that reports completion.
pub struct Ring<'f, H: Hal> {
    hal: &'f H,
    phys: PhysAddr,
    words: NonNull<[u64]>,
    memory: WalkerMemory,
}

impl<H: Hal> Ring<'_, H> {
    /// The word at `index`; `None` past the end.
    fn word(&self, index: usize) -> Option<VolatilePtr<'_, u64>> {
        // SAFETY: the index is inside of the frames that `Frames::ring` borrows; nobody makes references to them.
        (index < self.words.len()).then(|| unsafe { VolatilePtr::new(self.words.cast::<u64>().add(index)) })
    }

    /// The word at `index`; `None` past the end. Everything the device wrote before it is visible to later loads.
    pub fn load(&self, index: usize) -> Option<u64> {
        let word = self.word(index)?;
        if self.memory == WalkerMemory::NonCoherent {
            self.hal.invalidate(self.phys.wrapping_add(index as u64 * 8), 8);
        }
        let value = word.read();
        barrier::after_device_load();
        Some(value)
    }

    /// Stores `values` from `index` on, and makes them visible to the device; `None`, with nothing stored, where they
    /// would not fit.
    pub fn store(&mut self, index: usize, values: &[u64]) -> Option<()> {
        index.checked_add(values.len()).filter(|end| *end <= self.words.len())?;
        for (at, value) in values.iter().enumerate() {
            self.word(index + at)?.write(*value);
        }
        if self.memory == WalkerMemory::NonCoherent {
            self.hal.clean(self.phys.wrapping_add(index as u64 * 8), values.len() * 8);
        }
        barrier::before_device_store();
        Some(())
    }
}

//! Views of memory shared with a device.
//!
//! Tables are reached as [`Frame`]s of eight-byte entries, each load and store atomic, so that a walker sees an entry
//! whole. Rings and status cells are reached through [`Ring`], volatile. No reference to plain data in such memory
//! ever exists.

use crate::{FrameRequest, Hal, WalkerMemory, barrier};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use iommu_core::addr::PhysAddr;
use volatile::VolatilePtr;

/// Eight-byte entries in a 4 KiB frame.
pub const ENTRIES: usize = 512;

/// A table of little-endian entries of 8 bytes: one 4 KiB frame with 512 of them, unless made by
/// [`Frame::with_entries`].
///
/// Wider entries (16, 32, 64 bytes) are several of them: whoever writes one keeps the order that its structure demands
/// and stores the word with the valid bit last, by [`Frame::publish`].
pub struct Frame<'h, H: Hal + ?Sized> {
    hal: &'h H,
    phys: PhysAddr,
    words: NonNull<AtomicU64>,
    /// The number of entries, a power of two, less one.
    mask: usize,
    memory: WalkerMemory,
}

impl<H: Hal + ?Sized> Clone for Frame<'_, H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H: Hal + ?Sized> Copy for Frame<'_, H> {}

/// Entries that the loops over many look at between two branches: a cache line.
const STRIDE: usize = 8;

/// What the entries of a stride of a run differ by from its first, so that none has to wait for the one before it.
#[inline]
fn steps(step: u64) -> [u64; STRIDE] {
    core::array::from_fn(|at| step.wrapping_mul(at as u64))
}

impl<'h, H: Hal + ?Sized> Frame<'h, H> {
    /// A view of the frame at `phys`.
    ///
    /// # Safety
    ///
    /// `phys` is the start of a 4 KiB frame inside of an allocation of this `hal` which is not freed while the view
    /// exists, requested with the same `memory`; software reaches it through such views only.
    #[inline]
    pub unsafe fn new(hal: &'h H, phys: PhysAddr, memory: WalkerMemory) -> Self {
        // SAFETY: the caller promises the same for the 4 KiB that 512 entries take.
        unsafe { Self::with_entries(hal, phys, ENTRIES, memory) }
    }

    /// A view of the `entries` entries from `phys` on, for tables that are not one frame.
    ///
    /// # Safety
    ///
    /// As for [`Frame::new`], for all of these entries. `entries` is a power of two.
    #[inline]
    pub unsafe fn with_entries(hal: &'h H, phys: PhysAddr, entries: usize, memory: WalkerMemory) -> Self {
        Self { hal, phys, words: hal.phys_to_virt(phys).cast(), mask: entries - 1, memory }
    }

    /// Physical address of the first entry.
    #[inline]
    pub fn phys(&self) -> PhysAddr {
        self.phys
    }

    /// How many entries there are, a power of two.
    #[inline]
    pub fn entries(&self) -> usize {
        self.mask + 1
    }

    /// How a walker reads it.
    #[inline]
    pub fn memory(&self) -> WalkerMemory {
        self.memory
    }

    #[inline]
    fn word(&self, index: usize) -> &AtomicU64 {
        debug_assert!(index <= self.mask);
        // SAFETY: the mask keeps the index inside of the entries, which the constructor was promised are allocated and
        // accessed atomically only.
        unsafe { self.words.add(index & self.mask).as_ref() }
    }

    /// The `count` entries from `first` on, cut at the end of the table.
    #[inline]
    fn words(&self, first: usize, count: usize) -> &[AtomicU64] {
        let first = first.min(self.entries());
        let count = count.min(self.entries() - first);
        // SAFETY: as for `word`: the ends were just cut to the entries there are.
        unsafe { core::slice::from_raw_parts(self.words.add(first).as_ptr(), count) }
    }

    /// Tells the embedder of a store.
    #[inline]
    fn stored(&self, index: usize) {
        self.hal.stored(self.phys.wrapping_add(index as u64 * 8));
    }

    /// The entry at `index`, below [`Frame::entries`].
    #[inline]
    pub fn load(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Relaxed)
    }

    /// As [`Frame::load`], for an entry that leads to what another CPU has made: sees all that it stored before it
    /// [published](Frame::publish) or [linked](Frame::replace) that.
    #[inline]
    pub fn follow(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Acquire)
    }

    /// Stores an entry, or the part of a wider one, that hardware either cannot reach yet or may see at any moment.
    /// Not ordered, and not visible to a walker that does not snoop before [`Frame::clean`].
    #[inline]
    pub fn store(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::Relaxed);
        self.stored(index);
    }

    /// [Stores](Frame::store) `value`, `value + step`, `value + 2 * step` and so on (modulo 2^64) into the `count`
    /// entries from `first` on, as far as the table reaches. Fastest where `step` is a constant.
    #[inline(always)]
    pub fn store_run(&self, first: usize, count: usize, value: u64, step: u64) {
        let mut index = first;
        let mut base = value;
        let mut store = |word: &AtomicU64, value: u64| {
            word.store(value, Ordering::Relaxed);
            self.stored(index);
            index += 1;
        };
        let (strides, rest) = self.words(first, count).as_chunks::<STRIDE>();
        for stride in strides {
            stride.iter().zip(steps(step)).for_each(|(word, step)| store(word, base.wrapping_add(step)));
            base = base.wrapping_add(step.wrapping_mul(STRIDE as u64));
        }
        rest.iter().zip(steps(step)).for_each(|(word, step)| store(word, base.wrapping_add(step)));
    }

    /// Whether any of the `count` entries from `first` on has a bit of `mask` set.
    #[inline]
    pub fn any_set(&self, first: usize, count: usize, mask: u64) -> bool {
        let set =
            |words: &[AtomicU64]| words.iter().fold(0, |all, word| all | word.load(Ordering::Relaxed)) & mask != 0;
        let (strides, rest) = self.words(first, count).as_chunks::<STRIDE>();
        strides.iter().any(|stride| set(stride)) || set(rest)
    }

    /// How many of the `count` entries from `first` on, without a gap, hold `value`, `value + step`, `value + 2 * step`
    /// and so on, but for the bits in `ignored`. Fastest where `step` is a constant.
    #[inline(always)]
    pub fn matching_run(&self, first: usize, count: usize, value: u64, step: u64, ignored: u64) -> usize {
        let words = self.words(first, count);
        let is = |word: &AtomicU64, value: u64| (word.load(Ordering::Relaxed) ^ value) & !ignored == 0;
        let mut base = value;
        let mut same = 0;
        for stride in words.as_chunks::<STRIDE>().0 {
            if !stride.iter().zip(steps(step)).all(|(word, step)| is(word, base.wrapping_add(step))) {
                break;
            }
            base = base.wrapping_add(step.wrapping_mul(STRIDE as u64));
            same += STRIDE;
        }
        // Less than a stride is left, or the end of the run is in the next one.
        let rest = words.get(same..).unwrap_or(&[]).iter().zip(steps(step));
        same + rest.take_while(|(word, step)| is(word, base.wrapping_add(*step))).count()
    }

    /// Stores `value` and returns what was there, in one step: a bit that hardware sets at the same time is either in
    /// what is returned or in nothing.
    #[inline]
    pub fn swap(&self, index: usize, value: u64) -> u64 {
        let old = self.word(index).swap(value, Ordering::AcqRel);
        self.stored(index);
        old
    }

    /// Stores `new` where `old` stands, in one step, and returns whether it did; what is there otherwise. All that was
    /// stored before is visible to hardware, and to whoever [follows](Frame::follow) the entry, before the entry is.
    ///
    /// # Errors
    ///
    /// What stands there in place of `old`: nothing has changed.
    #[inline]
    pub fn replace(&self, index: usize, old: u64, new: u64) -> Result<(), u64> {
        barrier::before_device_store();
        self.exchange(index, old, new)
    }

    /// As [`Frame::replace`], for an entry that leads to nothing new: not ordered as hardware sees it.
    ///
    /// # Errors
    ///
    /// As there.
    #[inline]
    pub fn exchange(&self, index: usize, old: u64, new: u64) -> Result<(), u64> {
        self.word(index).compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)?;
        self.stored(index);
        Ok(())
    }

    /// Sets `bits` in an entry in one step.
    #[inline]
    pub fn set_bits(&self, index: usize, bits: u64) {
        self.word(index).fetch_or(bits, Ordering::AcqRel);
        self.stored(index);
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

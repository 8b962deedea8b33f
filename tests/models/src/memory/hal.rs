//! What drivers use: frames, cache maintenance, time.

use super::arena::WORDS;
use super::{Failing, Frames, Maintenance, POISON, State, TestMemory};
use core::ptr::NonNull;
use core::sync::atomic::Ordering;
use iommu_core::addr::{PAGE_SIZE, PhysAddr};
use iommu_hal::{FrameRequest, Hal, WalkerMemory};

impl TestMemory {
    fn fill(&self, first: usize, count: usize, value: u64) {
        for arena in [Some(&self.memory), self.shadow.as_ref()].into_iter().flatten() {
            for word in first * WORDS..(first + count) * WORDS {
                arena.word(word).store(value, Ordering::Relaxed);
            }
        }
        self.fill_buffer(first * WORDS..(first + count) * WORDS, value);
    }

    /// First of `count` free frames aligned to their size, all below frame number `limit`.
    fn find(&self, frames: &Frames, count: usize, limit: usize) -> Option<usize> {
        // Frame numbers count from `base`, which need not be aligned to the size.
        let page = self.base / PAGE_SIZE;
        let first = page.next_multiple_of(count as u64) - page;
        let free = |at: &usize| frames.states[*at..*at + count].iter().all(|state| state.memory().is_none());
        let fits = |at: &usize| at.checked_add(count).is_some_and(|end| end <= limit);
        let candidates = || (first as usize..limit).step_by(count).filter(fits);
        candidates().filter(|at| *at >= frames.next).find(free).or_else(|| candidates().find(free))
    }

    /// Copies the words that overlap `len` bytes from `phys`, in frames that devices do not snoop.
    fn copy(&self, phys: PhysAddr, len: usize, to_device: bool) {
        let Some(shadow) = &self.shadow else { return };
        let (from, to) = if to_device { (&self.memory, shadow) } else { (shadow, &self.memory) };
        let offset = (phys.get() - self.base) as usize;
        let frames = self.frames.lock();
        for word in offset / 8..(offset + len).div_ceil(8) {
            if frames.states[word / WORDS].memory() == Some(WalkerMemory::NonCoherent) {
                to.word(word).store(from.word(word).load(Ordering::Acquire), Ordering::Release);
            }
        }
        drop(frames);
        if to_device {
            self.buffer_words(offset / 8..(offset + len).div_ceil(8));
        }
    }

    fn check_maintained(&self, phys: PhysAddr, len: usize) {
        let last = PhysAddr::new(phys.get().saturating_add(len.saturating_sub(1) as u64));
        let inside = self.is_allocated(phys) && self.is_allocated(last);
        assert!(inside, "cache maintenance of {len:#x} bytes at {phys}, not all of which are allocated");
    }
}

// SAFETY: frames handed out are marked in use under a lock until they are freed, lie in an arena that lives as long as
// the memory, are aligned as their physical address (the arena's start is congruent to `base`), and were zeroed, in the
// device's view too. `clean` and `invalidate` copy between the two views before they return.
unsafe impl Hal for TestMemory {
    fn alloc_frames(&self, request: FrameRequest) -> Option<PhysAddr> {
        self.allocations.fetch_add(1, Ordering::Relaxed);
        let mut frames = self.frames.lock();
        let refused = match &mut frames.failing {
            Failing::Never => false,
            Failing::Once(0) => {
                frames.failing = Failing::Never;
                true
            }
            Failing::From(0) => true,
            Failing::Once(left) | Failing::From(left) => {
                *left -= 1;
                false
            }
        };
        let below = 1u64.checked_shl(request.address_bits.into()).unwrap_or(u64::MAX);
        let limit = (below.saturating_sub(self.base) / PAGE_SIZE).min(self.memory.frames() as u64) as usize;
        let count = 1usize.checked_shl(request.order.into()).filter(|count| *count <= self.memory.frames());
        let found = count.filter(|_| !refused).and_then(|count| Some((self.find(&frames, count, limit)?, count)));
        let Some((first, count)) = found else {
            self.failures.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        for index in first..first + count {
            if frames.states[index] == State::Freed {
                self.check_poison(index);
                self.fill(index, 1, 0);
            }
            frames.states[index] = State::Tail(request.memory);
        }
        frames.states[first] = State::Head(request);
        frames.next = first + count;
        frames.in_use += count;
        frames.peak = frames.peak.max(frames.in_use);
        Some(PhysAddr::new(self.base + first as u64 * PAGE_SIZE))
    }

    unsafe fn free_frames(&self, phys: PhysAddr, request: FrameRequest) {
        let mut frames = self.frames.lock();
        let first = self.index(phys).filter(|_| phys.is_aligned(PAGE_SIZE));
        let first = first.unwrap_or_else(|| panic!("{phys} is freed but no frame of this memory"));
        let state = frames.states[first];
        assert!(state.memory().is_some(), "{phys} is freed but not allocated: a double free?");
        assert!(state == State::Head(request), "{phys} is freed as {request:?} but was allocated as {state:?}");
        let count = 1 << request.order;
        frames.states[first..first + count].fill(State::Freed);
        frames.in_use -= count;
        self.fill(first, count, POISON);
    }

    fn phys_to_virt(&self, phys: PhysAddr) -> NonNull<u8> {
        assert!(self.is_allocated(phys), "{phys} is looked up but not allocated");
        self.memory.pointer((phys.get() - self.base) as usize)
    }

    fn clean(&self, phys: PhysAddr, len: usize) {
        self.check_maintained(phys, len);
        self.maintenance.lock().push(Maintenance::Clean { phys, len });
        self.copy(phys, len, true);
    }

    fn invalidate(&self, phys: PhysAddr, len: usize) {
        self.check_maintained(phys, len);
        self.maintenance.lock().push(Maintenance::Invalidate { phys, len });
        self.copy(phys, len, false);
    }

    fn now(&self) -> u64 {
        if let Some(ticker) = &mut *self.ticker.lock() {
            ticker();
        }
        let step = self.clock_step.load(Ordering::Relaxed);
        self.clock.fetch_add(step, Ordering::Relaxed).wrapping_add(step)
    }

    fn stored(&self, phys: PhysAddr) {
        assert!(self.is_allocated(phys), "store to {phys}, which is not allocated");
        let word = ((phys.get() - self.base) / 8) as usize;
        self.buffer_words(word..word + 1);
        if let Some(observer) = &mut *self.observer.lock() {
            observer(self, phys);
        }
    }
}

//! Physical memory for tests: frames that a driver allocates, and what a device sees of them.
//!
//! [`TestMemory`] implements [`Hal`](iommu_hal::Hal), so a driver runs on `&TestMemory` or `Arc<TestMemory>` as it
//! would on a machine.
//! It finds what real memory hides: a double or foreign free, a store to freed frames, a device that reads freed
//! frames, a store that was never cleaned. It is a test aid: what can only be a bug of its user panics.
//!
//! It is not a model of caches: in non-coherent mode a device sees exactly what was cleaned, and never sooner. Early
//! write-back, which hardware may do at any moment, is what coherent mode shows; a test of publish order runs in both.

mod arena;
mod buffer;
mod hal;
mod snapshot;
mod view;

pub use snapshot::Snapshot;

use alloc::boxed::Box;
use alloc::vec::Vec;
use arena::{Arena, WORDS};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use iommu_core::addr::{PAGE_SIZE, PhysAddr};
use iommu_hal::{FrameRequest, WalkerMemory};
use spin::Mutex;

/// What freed frames are filled with.
pub const POISON: u64 = 0xdbdb_dbdb_dbdb_dbdb;

/// What is called after each store, with the memory and the address of the 8 bytes stored.
///
/// It may read the memory in every way and take snapshots. It must not store through the memory's `Hal`, replace the
/// observer, or call the driver under test, which holds its locks at this moment.
pub type Observer = Box<dyn FnMut(&TestMemory, PhysAddr) + Send>;

/// What is called at each look at the clock. It must not look at the clock itself.
pub type Ticker = Box<dyn FnMut() + Send>;

/// One cache maintenance operation that a driver asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Maintenance {
    /// `Hal::clean` of `len` bytes from `phys`.
    Clean {
        /// First byte.
        phys: PhysAddr,
        /// Length in bytes.
        len: usize,
    },
    /// `Hal::invalidate` of `len` bytes from `phys`.
    Invalidate {
        /// First byte.
        phys: PhysAddr,
        /// Length in bytes.
        len: usize,
    },
}

/// What a frame is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Never allocated, so still zero.
    Fresh,
    /// Freed, so full of [`POISON`].
    Freed,
    /// The first frame of an allocation.
    Head(FrameRequest),
    /// Another frame of an allocation with this memory.
    Tail(WalkerMemory),
}

impl State {
    /// How a device reaches the frame; `None` while it is free.
    const fn memory(self) -> Option<WalkerMemory> {
        match self {
            Self::Fresh | Self::Freed => None,
            Self::Head(request) => Some(request.memory),
            Self::Tail(memory) => Some(memory),
        }
    }
}

/// Which allocation fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Failing {
    Never,
    /// One, after so many that succeed.
    Once(usize),
    /// All, after so many that succeed.
    From(usize),
}

struct Frames {
    states: Vec<State>,
    /// Where the next search begins: freed frames are reused as late as possible.
    next: usize,
    in_use: usize,
    peak: usize,
    failing: Failing,
}

/// An arena that stands for physical memory, and the [`Hal`](iommu_hal::Hal) of tests.
pub struct TestMemory {
    base: u64,
    memory: Arena,
    /// What devices see of frames that they do not snoop; `None` in coherent mode.
    shadow: Option<Arena>,
    /// What walkers see where stores are buffered.
    buffer: spin::Once<buffer::WriteBuffer>,
    frames: Mutex<Frames>,
    observer: Mutex<Option<Observer>>,
    maintenance: Mutex<Vec<Maintenance>>,
    stale_reads: Mutex<Vec<PhysAddr>>,
    allocations: AtomicUsize,
    failures: AtomicUsize,
    clock: AtomicU64,
    clock_step: AtomicU64,
    ticker: Mutex<Option<Ticker>>,
}

impl TestMemory {
    /// Nanoseconds that each look at the clock takes, unless [set](Self::set_clock_step).
    pub const CLOCK_STEP: u64 = 10_000;

    /// Memory of `frames` frames of 4 KiB from physical address `base` on, which every device snoops.
    ///
    /// Only what is touched costs memory of the host.
    ///
    /// # Panics
    ///
    /// Where `base` is not aligned to 4 KiB, `frames` is zero, or the memory would reach beyond 2^52.
    pub fn new(base: PhysAddr, frames: usize) -> Self {
        let end = (frames as u64).checked_mul(PAGE_SIZE).and_then(|len| len.checked_add(base.get()));
        assert!(base.is_aligned(PAGE_SIZE) && frames != 0, "no memory of {frames} frames at {base}");
        assert!(end.is_some_and(|end| end <= 1 << 52), "{frames} frames at {base} reach beyond 2^52");
        Self::of(Arena::new(base.get(), frames), base, frames)
    }

    /// As [`TestMemory::new`], with the virtual addresses of its own memory for physical ones: where memory is mapped to
    /// itself, whoever looks there finds what the unit's structures are.
    ///
    /// # Panics
    ///
    /// Where `frames` is zero.
    pub fn at_its_own_address(frames: usize) -> Self {
        assert!(frames != 0, "no memory of no frames");
        let arena = Arena::at_its_own_address(frames);
        let base = PhysAddr::new(arena.start());
        Self::of(arena, base, frames)
    }

    fn of(memory: Arena, base: PhysAddr, frames: usize) -> Self {
        Self {
            base: base.get(),
            memory,
            shadow: None,
            buffer: spin::Once::new(),
            frames: Mutex::new(Frames {
                states: alloc::vec![State::Fresh; frames],
                next: 0,
                in_use: 0,
                peak: 0,
                failing: Failing::Never,
            }),
            observer: Mutex::new(None),
            maintenance: Mutex::new(Vec::new()),
            stale_reads: Mutex::new(Vec::new()),
            allocations: AtomicUsize::new(0),
            failures: AtomicUsize::new(0),
            clock: AtomicU64::new(0),
            clock_step: AtomicU64::new(Self::CLOCK_STEP),
            ticker: Mutex::new(None),
        }
    }

    /// As [`TestMemory::new`], but frames asked for as [`WalkerMemory::NonCoherent`] are not snooped: devices see what
    /// was cleaned, and software sees what devices wrote only after an invalidation.
    ///
    /// # Panics
    ///
    /// As [`TestMemory::new`].
    pub fn non_coherent(base: PhysAddr, frames: usize) -> Self {
        let mut memory = Self::new(base, frames);
        memory.shadow = Some(Arena::new(base.get(), frames));
        memory
    }

    /// Physical address of the first byte.
    pub fn base(&self) -> PhysAddr {
        PhysAddr::new(self.base)
    }

    /// Size in frames of 4 KiB, used and free.
    pub fn frames(&self) -> usize {
        self.memory.frames()
    }

    // Counters and switches.

    /// Frames that are allocated now.
    pub fn in_use(&self) -> usize {
        self.frames.lock().in_use
    }

    /// The most frames that were allocated at once.
    pub fn peak(&self) -> usize {
        self.frames.lock().peak
    }

    /// Allocations asked for so far, those that failed included.
    pub fn allocations(&self) -> usize {
        self.allocations.load(Ordering::Relaxed)
    }

    /// Allocations that failed so far, on demand or for want of frames.
    pub fn failures(&self) -> usize {
        self.failures.load(Ordering::Relaxed)
    }

    /// From now on `n` allocations succeed, the next one fails, and all after it succeed.
    pub fn fail_after(&self, n: usize) {
        self.frames.lock().failing = Failing::Once(n);
    }

    /// From now on `n` allocations succeed and all after them fail.
    pub fn exhaust_after(&self, n: usize) {
        self.frames.lock().failing = Failing::From(n);
    }

    /// From now on allocations fail only for want of frames.
    pub fn fail_never(&self) {
        self.frames.lock().failing = Failing::Never;
    }

    /// Each look at the clock moves it `nanos` nanoseconds on, so that deadlines pass without real time. Zero stops it.
    pub fn set_clock_step(&self, nanos: u64) {
        self.clock_step.store(nanos, Ordering::Relaxed);
    }

    /// Moves the clock on by `nanos` nanoseconds.
    pub fn advance_clock(&self, nanos: u64) {
        self.clock.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Sets or removes what is called at each look at the clock: whoever waits for something in memory takes one each time.
    pub fn set_ticker(&self, ticker: Option<Ticker>) {
        *self.ticker.lock() = ticker;
    }

    /// Sets or removes what is called after each store; see [`Observer`] for what it may do.
    pub fn set_observer(&self, observer: Option<Observer>) {
        *self.observer.lock() = observer;
    }

    /// The cache maintenance asked for since the last call, in order.
    pub fn take_maintenance(&self) -> Vec<Maintenance> {
        core::mem::take(&mut *self.maintenance.lock())
    }

    /// Addresses in frames not allocated that devices read or wrote since the last call, in order.
    pub fn take_stale_reads(&self) -> Vec<PhysAddr> {
        core::mem::take(&mut *self.stale_reads.lock())
    }

    /// Whether the byte at `phys` lies in a frame that is allocated.
    pub fn is_allocated(&self, phys: PhysAddr) -> bool {
        self.index(phys).is_some_and(|index| self.frames.lock().states[index].memory().is_some())
    }

    /// Looks for stores to freed frames.
    ///
    /// # Panics
    ///
    /// Where a freed frame no longer holds what [`POISON`] left.
    pub fn check_freed(&self) {
        let frames = self.frames.lock();
        for (index, state) in frames.states.iter().enumerate() {
            if *state == State::Freed {
                self.check_poison(index);
            }
        }
    }

    /// Number of the frame that holds `phys`.
    fn index(&self, phys: PhysAddr) -> Option<usize> {
        let index = phys.get().checked_sub(self.base)? / PAGE_SIZE;
        usize::try_from(index).ok().filter(|index| *index < self.memory.frames())
    }

    fn check_poison(&self, index: usize) {
        for word in index * WORDS..(index + 1) * WORDS {
            let value = self.memory.word(word).load(Ordering::Relaxed);
            let phys = self.base + word as u64 * 8;
            assert!(value == POISON, "{phys:#x} was written after it was freed: {value:#x}");
        }
    }
}

#[cfg(test)]
mod tests;
